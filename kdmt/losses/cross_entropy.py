"""Label-smoothed cross entropy, and the projection onto the vocabulary that losses on the output distribution share.

`projected_cross_entropy` and `projected_loss` take decoder features and the output projection. They make the logits,
the loss and its gradient for a chunk of tokens at a time, so that the [M, V] matrix of logits never exists. Losses
return sums, never means; the caller divides once by its count of tokens.

On a GPU the loss and the gradient of a chunk are computed by one Triton kernel where it can run (`kdmt.losses.fused`).
In the precision bf16, logits are rounded to bfloat16 in both paths, since they are the result of a bfloat16 product.
With a kernel their gradient is rounded too, and the gradient of the output projection is a float32 sum of bfloat16
products; without one each product over a chunk is rounded to bfloat16 before it is added.

Shapes: M target tokens, C tokens of a chunk, V vocabulary, D model width.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from kdmt.losses import fused
from kdmt.losses.fused import add_product, write_product


def share_of_others(epsilon: float, vocab_size: int) -> float:
    """Return the probability that label smoothing gives to each token other than the target, e / (V - 1)."""
    return epsilon / (vocab_size - 1) if epsilon else 0.0


def label_smoothed_cross_entropy(logits_MV: Tensor, targets_M: Tensor, *, epsilon: float) -> tuple[Tensor, Tensor]:
    """Return the sums over tokens of the smoothed loss and the negative log-likelihood, computed by the plain formula.

    This is fairseq's form of label smoothing (Szegedy et al. 2016, section 7; label_smoothed_cross_entropy.py): the
    correct token keeps 1 - epsilon, and epsilon is spread evenly over the V - 1 others:

        loss = -(1 - e - e / (V-1)) log p(y) - e / (V-1) sum_v log p(v)

    Marian spreads e over all V tokens, which is the same with e (V-1) / V here.
    """
    log_probs_MV = F.log_softmax(logits_MV.float() if logits_MV.dtype != torch.float64 else logits_MV, dim=-1)
    nll_sum = -log_probs_MV.gather(1, targets_M[:, None]).sum()
    each = share_of_others(epsilon, logits_MV.size(1))
    return (1.0 - epsilon - each) * nll_sum - each * log_probs_MV.sum(), nll_sum


class _ProjectedCrossEntropy(torch.autograd.Function):
    """Output projection and loss in chunks of tokens; the gradient is computed in the same pass.

    With E = exp(logits - max) and its row sums Z, the gradient of the logits is

        E / Z - e / (V-1) - [v = y] (1 - e - e / (V-1))

    Only E with its corrected target column is stored, for one chunk at a time. The division by Z and the weight of a
    token are applied to the rows of the features, and the constant to one vector, so that the [chunk, V] matrix is
    passed over as few times as possible. Matrix products use `product_type`, everything else the type of the
    parameters.
    """

    @staticmethod
    def forward(
        ctx: Any,
        features_MD: Tensor,
        weight_VD: Tensor,
        targets_M: Tensor,
        weights_M: Tensor | None,
        epsilon: float,
        chunk: int,
        product_type: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(features_MD.device.type, enabled=False):
            factor_VD = weight_VD.to(product_type)
            features = features_MD.to(weight_VD.dtype)
            gradients = (torch.empty_like(features), torch.zeros_like(weight_VD)) if any(ctx.needs_input_grad) else None
            nll_M = features.new_empty(len(features))
            log_z_M = features.new_empty(len(features))
            for start in range(0, len(features), chunk):
                rows = slice(start, start + chunk)
                scores_CV, z_C1, nll_M[rows], log_z_M[rows] = _exponentials(
                    features[rows].to(product_type), factor_VD, targets_M[rows], weight_VD.dtype
                )
                if gradients is not None:
                    _correct_targets(scores_CV, z_C1, targets_M[rows], epsilon)
                    divisor_C1 = z_C1 if weights_M is None else z_C1 / weights_M[rows, None]
                    _add_gradients(
                        scores_CV.to(product_type),
                        divisor_C1,
                        features[rows],
                        factor_VD,
                        gradients[0][rows],
                        gradients[1],
                    )
            each = share_of_others(epsilon, len(weight_VD))
            weight_sum_D = weight_VD.sum(0)
            features_sum_D, nll_sum, log_z_sum = (weighted_sum(x, weights_M) for x in (features, nll_M, log_z_M))
            # sum_v log p(v) = sum_v logit(v) - V log Z, and the sum of the logits is a product of two vectors
            log_probs_sum = features_sum_D @ weight_sum_D - len(weight_VD) * log_z_sum
            loss_sum = (1.0 - epsilon - each) * nll_sum - each * log_probs_sum
        if gradients is not None:
            grad_features_MD = add_to_rows(gradients[0], -each * weight_sum_D, weights_M)
            ctx.save_for_backward(grad_features_MD.to(features_MD.dtype), gradients[1].sub_(each * features_sum_D))
        ctx.mark_non_differentiable(nll_sum)
        return loss_sum, nll_sum

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None, None, None, None]:
        return *scaled_gradients(ctx.saved_tensors, grad_loss), None, None, None, None, None


def _exponentials(
    features_CD: Tensor, factor_VD: Tensor, targets_C: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return E [C, V], its row sums Z [C, 1], negative log-likelihoods [C] and the log-sum-exp of the logits [C]."""
    scores_CV = (features_CD @ factor_VD.t()).to(dtype)
    peak_C1 = scores_CV.amax(1, keepdim=True)
    target_C1 = scores_CV.gather(1, targets_C[:, None])
    z_C1 = scores_CV.sub_(peak_C1).exp_().sum(1, keepdim=True)
    log_z_C1 = z_C1.log() + peak_C1
    return scores_CV, z_C1, (log_z_C1 - target_C1)[:, 0], log_z_C1[:, 0]


def _correct_targets(scores_CV: Tensor, z_C1: Tensor, targets_C: Tensor, epsilon: float) -> None:
    """Subtract the share of the target from its column, in place; the share is multiplied by Z, as all of E is."""
    share = 1.0 - epsilon - share_of_others(epsilon, scores_CV.size(1))
    scores_CV.scatter_add_(1, targets_C[:, None], z_C1 * -share)


def _add_gradients(
    gradient_CV: Tensor,
    divisor_C1: Tensor,
    features_CD: Tensor,
    factor_VD: Tensor,
    grad_features_CD: Tensor,
    grad_weight_VD: Tensor,
) -> None:
    """Write the gradient of a chunk of features, and add its part to the gradient of the projection."""
    dtype = gradient_CV.dtype
    torch.div(gradient_CV @ factor_VD, divisor_C1, out=grad_features_CD)
    scaled_CD = (features_CD / divisor_C1).to(dtype)
    add_product(grad_weight_VD, gradient_CV.t(), scaled_CD)


def projected_cross_entropy(
    features_MD: Tensor,
    weight_VD: Tensor,
    targets_M: Tensor,
    *,
    epsilon: float,
    weights_M: Tensor | None = None,
    chunk: int | None = None,
    product_type: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Return `label_smoothed_cross_entropy(features @ weight.T, targets)` without the [M, V] matrix of logits.

    Args:
        features_MD: decoder features of the real target tokens.
        weight_VD: output projection.
        targets_M: int64 ids.
        epsilon: label smoothing.
        weights_M: weight of each token; None for 1.
        chunk: number of tokens whose logits exist at one time (default: the fastest number for the device).
        product_type: number type of the matrix products (default: the type of the parameters).

    Returns:
        The sum of the smoothed loss, which carries the gradient, and the sum of the negative log-likelihood, in nats.
    """
    kernels = fused.kernels(features_MD.device, product_type or weight_VD.dtype)
    if kernels is not None:
        loss = CrossEntropyKernel(targets_M, epsilon, weights_M, kernels)
        loss_sum, others = projected_loss(features_MD, weight_VD, loss, chunk=chunk, product_type=product_type)
        return loss_sum, others[0]
    if not torch.is_grad_enabled():  # an autograd Function cannot see this and would compute all gradients
        features_MD, weight_VD = features_MD.detach(), weight_VD.detach()
    return _ProjectedCrossEntropy.apply(
        features_MD,
        weight_VD,
        targets_M,
        weights_M,
        epsilon,
        chunk or chunk_size(features_MD.device),
        product_type or weight_VD.dtype,
    )


@torch.no_grad()
def token_nll(
    features_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, *, product_type: torch.dtype | None = None
) -> Tensor:
    """Return the negative log-likelihood of each target token in nats, [M], without a gradient."""
    dtype = product_type or weight_VD.dtype
    factor_VD = weight_VD.to(dtype)
    chunk = chunk_size(features_MD.device)
    found = [
        F.cross_entropy((features_CD.to(dtype) @ factor_VD.t()).to(weight_VD.dtype), targets_C, reduction="none")
        for features_CD, targets_C in zip(features_MD.split(chunk), targets_M.split(chunk), strict=True)
    ]
    return torch.cat(found)


# ------------------------------------------------------------------------------- projected in chunks

# On a CPU the logits of a chunk should fit into the cache; a GPU needs large products.
CHUNKS = {"cpu": 256, "cuda": 2048}


def chunk_size(device: torch.device) -> int:
    """Return the number of tokens whose logits exist at one time, the fastest number for the device."""
    return CHUNKS.get(device.type, CHUNKS["cpu"])


# A kernel needs the memory of the logits only, and each chunk reads and writes the gradient of the projection once.
KERNEL_CHUNK_BYTES = 16_384  # bytes of a column of logits: 8,192 tokens in bfloat16


class Scratch:
    """Matrices that are allocated once and reused for every chunk of a batch.

    New memory would have to be paged in for each chunk.
    """

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def __call__(self, name: str, like_CV: Tensor) -> Tensor:
        """Return a matrix of the same shape; it overwrites the previous matrix of this name."""
        return self.matrix(name, like_CV.size(0), like_CV.size(1), like_CV)

    def matrix(self, name: str, rows: int, columns: int, like: Tensor) -> Tensor:
        """Return a [rows, columns] matrix with the type and device of `like`."""
        held = self._held.get(name)
        if held is None or len(held) < rows:
            held = self._held[name] = like.new_empty(rows, columns)
        return held[:rows]

    def aligned(self, name: str, rows: int, factor_VD: Tensor) -> Tensor:
        """Return a [rows, V] matrix of the type and device of `factor_VD`; each row starts at a multiple of 16.

        Matrix products and kernels of a GPU are slower with other rows.
        """
        vocab_size = len(factor_VD)
        return self.matrix(name, rows, -(-vocab_size // 16) * 16, factor_VD)[:, :vocab_size]


def logits_of(features_CD: Tensor, factor_VD: Tensor, out: Tensor) -> Tensor:
    """Write features @ factor.T to `out`, [C, V], which may have another number type."""
    if factor_VD.dtype == out.dtype:
        return torch.mm(features_CD, factor_VD.t(), out=out)
    return out.copy_(features_CD.to(factor_VD.dtype) @ factor_VD.t())


class ChunkLoss(Protocol):
    """Weighted sum over tokens of a function of the logits of each token.

    Attributes:
        in_place: whether `chunk` takes logits in the number type of the products and overwrites them with the gradient
            in the same type; otherwise logits and gradient have the type of the parameters.
    """

    @property
    def in_place(self) -> bool: ...

    def with_kernels(self, kernels: ModuleType) -> ChunkLoss | None:
        """Return the same loss computed with `kdmt.losses.triton_kernels`; None if there is no kernel for it."""
        ...

    @property
    def weights_M(self) -> Tensor | None:
        """Weight of each token; None for 1."""
        ...

    def uniform(self, vocab_size: int) -> float:
        """Return the part of the gradient of the logits, before weights, that is constant; `chunk` leaves it out."""
        ...

    def chunk(self, rows: slice, logits_CV: Tensor, *, gradient: bool) -> tuple[Tensor, Tensor | None]:
        """Return the sums over the tokens `rows`, [n], and the gradient of the first sum with respect to the logits.

        The gradient, [C, V], is returned only if `gradient` is true. The logits may be overwritten.
        """
        ...


@dataclass(frozen=True)
class CrossEntropyKernel:
    """Compute `label_smoothed_cross_entropy` by a Triton kernel, for `projected_loss`.

    Attributes:
        targets_M: int64 ids.
        epsilon: label smoothing.
        weights_M: weight of each token; None for 1.
        kernels: `kdmt.losses.triton_kernels`.
    """

    targets_M: Tensor
    epsilon: float
    weights_M: Tensor | None
    kernels: ModuleType
    in_place: bool = True

    def with_kernels(self, kernels: ModuleType) -> CrossEntropyKernel:  # noqa: ARG002
        """See `ChunkLoss.with_kernels`."""
        return self

    def uniform(self, vocab_size: int) -> float:  # noqa: ARG002
        """See `ChunkLoss.uniform`: the kernel computes the whole gradient."""
        return 0.0

    def chunk(self, rows: slice, logits_CV: Tensor, *, gradient: bool) -> tuple[Tensor, Tensor | None]:
        """See `ChunkLoss.chunk`."""
        each = share_of_others(self.epsilon, logits_CV.size(1))
        sums_2C = self.kernels.cross_entropy_(
            logits_CV,
            self.targets_M[rows],
            None if self.weights_M is None else self.weights_M[rows],
            target_share=1.0 - self.epsilon - each,
            each=each,
            gradient=gradient,
        )
        return sums_2C.sum(1), logits_CV if gradient else None


class _Projected(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features_MD: Tensor, weight_VD: Tensor, loss: ChunkLoss, chunk: int, product_type: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        wanted = any(ctx.needs_input_grad)
        with torch.autocast(features_MD.device.type, enabled=False):
            chunks = _in_place_chunks if loss.in_place else _chunks
            totals, gradients = chunks(features_MD, weight_VD, loss, chunk, product_type, wanted)
        if gradients is not None:
            ctx.save_for_backward(*gradients)
        total, parts = totals[0].clone(), totals[1:].clone()
        ctx.mark_non_differentiable(parts)
        return total, parts

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        return *scaled_gradients(ctx.saved_tensors, grad_total), None, None, None


Gradients = tuple[Tensor, Tensor]  # of features [M, D] and weight [V, D]


def _chunks(
    features_MD: Tensor,
    weight_VD: Tensor,
    loss: ChunkLoss,
    chunk: int,
    product_type: torch.dtype,
    wanted: bool,
) -> tuple[Tensor, Gradients | None]:
    """Return the sums of a loss, and if `wanted` the gradients of the first sum. Logits have the parameters' type."""
    factor_VD = weight_VD.to(product_type)
    features = features_MD.to(weight_VD.dtype)
    gradients = (torch.empty_like(features), torch.zeros_like(weight_VD)) if wanted else None
    sums, scratch = [], Scratch()
    for start in range(0, max(len(features), 1), chunk):  # one empty chunk if there are no tokens: sums of 0
        rows = slice(start, start + chunk)
        factor_CD = features[rows].to(product_type)
        logits_CV = logits_of(factor_CD, factor_VD, scratch.matrix("logits", len(factor_CD), len(weight_VD), features))
        of_chunk, gradient_CV = loss.chunk(rows, logits_CV, gradient=wanted)
        sums.append(of_chunk)
        if gradients is not None:
            assert gradient_CV is not None
            gradient_CV = gradient_CV.to(product_type)
            gradients[0][rows] = gradient_CV @ factor_VD
            add_product(gradients[1], gradient_CV.t(), factor_CD)
    if gradients is not None and (uniform := loss.uniform(len(weight_VD))):
        add_to_rows(gradients[0], uniform * weight_VD.sum(0), loss.weights_M)
        gradients[1].add_(weighted_sum(features, loss.weights_M), alpha=uniform)
    if gradients is not None:
        gradients = gradients[0].to(features_MD.dtype), gradients[1]
    return torch.stack(sums).sum(0), gradients


def _in_place_chunks(
    features_MD: Tensor,
    weight_VD: Tensor,
    loss: ChunkLoss,
    chunk: int,
    product_type: torch.dtype,
    wanted: bool,
) -> tuple[Tensor, Gradients | None]:
    """Return the same as `_chunks`, for a loss that overwrites logits of the type of the products.

    The first chunk writes the gradient of the projection, and the others add to it.
    """
    factor_VD, factor_MD = weight_VD.to(product_type), features_MD.to(product_type)
    gradients = (torch.empty_like(features_MD), torch.empty_like(weight_VD)) if wanted else None
    sums, scratch = [], Scratch()
    for start in range(0, max(len(factor_MD), 1), chunk):
        rows = slice(start, start + chunk)
        factor_CD = factor_MD[rows]
        logits_CV = torch.mm(factor_CD, factor_VD.t(), out=scratch.aligned("logits", len(factor_CD), factor_VD))
        of_chunk, _ = loss.chunk(rows, logits_CV, gradient=wanted)
        sums.append(of_chunk)
        if gradients is not None:
            write_product(gradients[0][rows], logits_CV, factor_VD)
            (add_product if start else write_product)(gradients[1], logits_CV.t(), factor_CD)
    return sums[0] if len(sums) == 1 else torch.stack(sums).sum(0), gradients


def weighted_sum(values_Mx: Tensor, weights_M: Tensor | None) -> Tensor:
    """Return the weighted sum over tokens, [...]."""
    return values_Mx.sum(0) if weights_M is None else weights_M @ values_Mx


def add_to_rows(rows_MD: Tensor, vector_D: Tensor, weights_M: Tensor | None) -> Tensor:
    """Add a vector, times the weight of the token, to the row of each token, in place."""
    return rows_MD.add_(vector_D) if weights_M is None else rows_MD.addr_(weights_M, vector_D)


def scaled_gradients(gradients: tuple[Tensor, Tensor], factor: Tensor) -> tuple[Tensor, Tensor]:
    """Multiply the gradients of the forward pass by the gradient of the loss.

    The multiplication is in place if no other backward pass follows.
    """
    features, weight = gradients
    if torch._C._autograd._get_current_graph_task_keep_graph():  # there may be another backward pass
        return features * factor, weight * factor
    return features.mul_(factor), weight.mul_(factor)


def projected_loss(
    features_MD: Tensor,
    weight_VD: Tensor,
    loss: ChunkLoss,
    *,
    chunk: int | None = None,
    product_type: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Return a loss of the logits `features @ weight.T`, which exist for one chunk of tokens at a time.

    Args:
        features_MD: decoder features of the real target tokens.
        weight_VD: output projection.
        loss: loss of the logits.
        chunk: number of tokens whose logits exist at one time (default: the fastest number for the device).
        product_type: number type of the matrix products (default: the type of the parameters).

    Returns:
        The first sum of the loss, which carries the gradient, and the other sums, [n - 1], which do not.
    """
    if not torch.is_grad_enabled():  # an autograd Function cannot see this and would compute all gradients
        features_MD, weight_VD = features_MD.detach(), weight_VD.detach()
    product_type = product_type or weight_VD.dtype
    kernels = fused.kernels(features_MD.device, product_type)
    if kernels is not None:
        loss = loss.with_kernels(kernels) or loss
    default = KERNEL_CHUNK_BYTES // product_type.itemsize if loss.in_place else chunk_size(features_MD.device)
    return _Projected.apply(features_MD, weight_VD, loss, chunk or default, product_type)
