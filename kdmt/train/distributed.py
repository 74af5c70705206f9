"""The objective on one rank or several: unchanged, replicated (DDP) or sharded (FSDP2).

In each case, a backward pass adds to the gradient of the *sum* over ranks, and inputs and outputs are tensors of the
whole model, so that a checkpoint does not depend on the number of ranks that wrote it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kdmt.choices import Parallelism
from kdmt.models.transformer import Transformer
from kdmt.objectives.objective import Objective
from kdmt.ranks import Ranks


class ParallelObjective:
    """An objective on its device, wrapped for the ranks that train together.

    Args:
        objective: objective on the CPU, with the same weights on every rank.

    Attributes:
        module: module to call with a batch.
        scale: factor for the loss, because DDP and FSDP2 divide the sum of gradients by the number of ranks.
    """

    def __init__(self, objective: Objective, *, parallel: Parallelism, ranks: Ranks, device: torch.device) -> None:
        self.objective, self.ranks, self.device = objective, ranks, device
        self.sharded = parallel == "fsdp" and ranks.world > 1
        self.scale = float(ranks.world)
        self.module: nn.Module = objective
        if self.sharded:
            self.spare = copy.deepcopy(objective)  # a model that is filled with the whole weights for validation
            self._shard(device)
            return
        objective.to(device)
        if ranks.world > 1:
            self.module = DistributedDataParallel(
                objective,
                device_ids=[device.index] if device.type == "cuda" else None,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
            )

    def _shard(self, device: torch.device) -> None:
        """Shard the objective layer by layer, so that the whole model is never on the device."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(device.type, (self.ranks.world,))
        for model in self.objective.modules():
            if isinstance(model, Transformer):  # teachers too
                for layer in model.distinct_layers():
                    fully_shard(layer, mesh=mesh)
        fully_shard(self.objective, mesh=mesh)  # embeddings, output projection, final norms

    @contextmanager
    def accumulating(self, *, last: bool) -> Iterator[None]:
        """Exchange gradients in the body, the passes over a micro-batch, only if it is the last one of an update."""
        if self.sharded:
            self.module.set_requires_gradient_sync(last)  # type: ignore[operator]
        single = isinstance(self.module, DistributedDataParallel) and not last
        with self.module.no_sync() if single else nullcontext():  # type: ignore[operator]
            yield

    def whole(self, tensor: Tensor) -> Tensor:
        """Return a parameter, or a tensor that belongs to one, gathered from all ranks."""
        return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor

    def part_of(self, whole: Tensor, parameter: Tensor) -> Tensor:
        """Return this rank's shard of a tensor that belongs to `parameter`.

        A tensor of another shape than the parameter's, such as a scalar, is returned whole.
        """
        whole = whole.to(self.device)
        if not self.sharded or whole.shape != parameter.shape:
            return whole
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(parameter, DTensor)
        return distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)

    def collect(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return copies of whole tensors on the CPU of the first rank, an empty dictionary on the others.

        Training may go on while the copies are in use.

        All ranks must call this together.
        """
        collected = {}
        for name, part in parts.items():
            whole = self.whole(part.detach())
            if self.ranks.is_first:
                collected[name] = whole.to("cpu", non_blocking=True, copy=True)  # from a GPU, into pinned memory
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return collected

    @contextmanager
    def evaluating(self, weights: Mapping[str, Tensor] | None = None) -> Iterator[Objective]:
        """Yield an objective in evaluation mode whose model is whole, for use outside of `module`.

        Args:
            weights: weights of the model in the body, by name, sharded as its parameters; None for its own.
        """
        if not self.sharded:
            self.objective.eval()
            with replaced(self.objective.model, weights or {}):
                yield self.objective
            return
        parts = weights or dict(self.objective.model.named_parameters())
        with torch.no_grad():
            for name, parameter in self.spare.model.named_parameters():
                parameter.copy_(self.whole(parts[name].detach()))
        yield self.spare.to(self.device).eval()
        self.spare.cpu()


@contextmanager
def replaced(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the parameters of a model have other values in the body, without a copy."""
    own = {name: parameter.data for name, parameter in model.named_parameters() if name in weights}
    parameters = dict(model.named_parameters())
    try:
        for name in own:
            parameters[name].data = weights[name]
        yield
    finally:
        for name, values in own.items():
            parameters[name].data = values
