"""The decoding engine of an autoregressive Transformer in PyTorch.

Shapes: B batch, S source length, T target length, N = B * K rows of the beam, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdmt.config import Decode, Diverse
from kdmt.corpus.batching import pad_sentences
from kdmt.corpus.right_to_left import reverse_hypotheses, reverse_targets
from kdmt.decode.engines.engine import (
    WHY_NAN,
    EngineOptions,
    check_pairs,
    check_sentences,
    compute_in_batches,
    limits_for_rows,
    score_in_batches,
)
from kdmt.decode.engines.precision import DecodingPrecision, products
from kdmt.decode.search.diverse_beam import diverse_beam_search
from kdmt.decode.search.lengths import max_lengths
from kdmt.decode.search.sampling import sample
from kdmt.decode.search.shared_prefixes import sample_with_shared_prefixes
from kdmt.decode.search.transfers import to_device
from kdmt.decode.search.unbranched import search_with_beam
from kdmt.errors import UserError
from kdmt.models.checkpoint import load_model
from kdmt.models.transformer import DecoderCache, Transformer
from kdmt.types import EOS, Hypothesis, Sampling

_SAMPLES_PER_PREFIX = 4  # samples with the same tokens so far, which need one row of a batch, at a careful estimate


def _searches_like_marian(models: Sequence[Transformer]) -> bool:
    """Return whether a beam narrows as in Marian: it does for models with Marian's layout."""
    return all(isinstance(model, Transformer) and model.config.layout == "marian" for model in models)


def open_folder(folder: Path, options: EngineOptions) -> TorchEngine:
    """Return the engine of a checkpoint folder.

    Raises:
        UserError: if the folder is damaged.
    """
    return TorchEngine(load_model(folder), device=options.device, precision=options.precision)


class TorchEngine:
    """One Transformer in PyTorch, or an ensemble of several.

    The models are moved to `device` and run in evaluation mode while they decode.

    Args:
        model: model that translates. It also scores pairs, unless there are other models.
        others: further models of an ensemble, with the same vocabulary; the probabilities of all models are averaged,
            as in fairseq's ensembles.
        precision: number type of the matrix products of `decode` and `sample`; those of `score_pairs` are not reduced.
        wait_k: number of source tokens that the first target token is predicted from, with one more for each further
            token (wait-k); None for the whole source. It applies to `decode`.

    Raises:
        UserError: if the models cannot follow the wait-k policy, or some of them predict targets from left to right and
            others from right to left.
    """

    def __init__(
        self,
        model: Transformer,
        *,
        others: Sequence[Transformer] = (),
        device: torch.device | str = "cpu",
        precision: DecodingPrecision = "float32",
        wait_k: int | None = None,
    ) -> None:
        self.model = model.to(device)
        self.models = [self.model, *(other.to(device) for other in others)]
        self.device, self.precision = torch.device(device), precision
        self.right_to_left = model.config.right_to_left
        if any(other.config.right_to_left != self.right_to_left for other in others):
            raise UserError("models that predict from left to right and from right to left have no common steps")
        self.wait_k = wait_k
        if wait_k is not None:
            check_wait_k(self.models, wait_k)

    def with_wait_k(self, wait_k: int) -> TorchEngine:
        """Return an engine of the same models that decodes with the wait-k policy.

        Raises:
            UserError: if the models cannot follow it.
        """
        return TorchEngine(
            self.model, others=self.models[1:], device=self.device, precision=self.precision, wait_k=wait_k
        )

    @property
    def max_source_positions(self) -> int:
        return _shortest(self.models, "source")

    @property
    def max_target_positions(self) -> int:
        return _shortest(self.models, "target")

    def decode(
        self, sources: Sequence[np.ndarray], settings: Decode, *, progress: Callable[[int], None] | None = None
    ) -> list[list[Hypothesis]]:
        """See `Engine.decode`.

        Raises:
            UserError: also if the beam is larger than 1 and a source is longer than the `wait_k` of the engine.
        """
        if self.wait_k is not None and settings.beam > 1:
            check_beam(settings.beam, self.wait_k, max(map(len, sources), default=0))

        def search(batch: list[int]) -> list[list[Hypothesis]]:
            return self._decode_batch([sources[place] for place in batch], settings)

        with products(self.device, self.precision):
            found = decode_in_batches(self.models, sources, settings, search, progress)
        return reverse_hypotheses(found) if self.right_to_left else found

    def decode_diverse(
        self,
        sources: Sequence[np.ndarray],
        settings: Decode,
        diverse: Diverse,
        *,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Hypothesis]]:
        """Translate sources by diverse beam search; return the distinct hypotheses of each, best first."""

        def search(batch: list[int]) -> list[list[Hypothesis]]:
            own = [sources[place] for place in batch]
            max_len_B = self._max_lens(own, settings)
            return diverse_beam_search(
                _start(self.models, to_device(pad_sentences(own), self.device), settings.beam, max(max_len_B) + 1),
                max_len_B=max_len_B,
                beam=settings.beam,
                groups=diverse.groups,
                penalty=diverse.penalty,
                lenpen=settings.lenpen,
                device=self.device,
            )

        with products(self.device, self.precision):
            found = decode_in_batches(self.models, sources, settings, search, progress)
        return reverse_hypotheses(found) if self.right_to_left else found

    def sample(
        self,
        sources: Sequence[np.ndarray],
        indices: Sequence[int],
        settings: Decode,
        sampling: Sampling,
        *,
        seed: int,
        samples: int = 1,
        lenpen: float = 1.0,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Hypothesis]]:
        """Draw translations of each source.

        Args:
            sources: int [S] each, ending in </s>.
            indices: a number for each source; together with `seed` it determines the random numbers of the source, so
                that a sample does not depend on the other sources.
            settings: settings of which the maximum lengths and the batch limits are used.
            sampling: the distribution that samples are drawn from.
            seed: seed of the random numbers.
            samples: number of translations of each source; the limits of a batch count a quarter of them.
            lenpen: exponent of the length that divides the scores.
            progress: function called after each batch with the number of sentences in it.

        Returns:
            For each source, in order, its samples.

        Raises:
            UserError: if a source is longer than the model can read; the message has its index.
        """

        def draw(batch: list[int]) -> list[list[Hypothesis]]:
            return _sample_batch(
                self.models,
                to_device(pad_sentences([sources[place] for place in batch]), self.device),
                sampling=sampling,
                max_len_a=settings.max_len_a,
                max_len_b=settings.max_len_b,
                samples=samples,
                lenpen=lenpen,
                uniforms=lambda _, steps: _uniforms_of(seed, [indices[place] for place in batch], steps, samples),
            )

        limits = limits_for_rows(settings, max(1, samples // _SAMPLES_PER_PREFIX))
        with products(self.device, self.precision):
            drawn = decode_in_batches(self.models, sources, limits, draw, progress)
        return reverse_hypotheses(drawn) if self.right_to_left else drawn

    def _decode_batch(self, sources: list[np.ndarray], settings: Decode) -> list[list[Hypothesis]]:
        max_len_B = self._max_lens(sources, settings)
        src_tokens_BS = to_device(pad_sentences(sources), self.device)
        stepper = _start(self.models, src_tokens_BS, settings.beam, max(max_len_B) + 1, wait_k=self.wait_k)
        narrow = _searches_like_marian(self.models)
        return search_with_beam(stepper, settings, max_len_B=max_len_B, narrow=narrow, device=self.device)

    def _max_lens(self, sources: list[np.ndarray], settings: Decode) -> list[int]:
        limit = _shortest(self.models, "target") - 1  # </s> takes the last position
        return max_lengths([len(source) for source in sources], settings.max_len_a, settings.max_len_b, limit=limit)

    def score_pairs(
        self,
        sources: Sequence[np.ndarray],
        targets: Sequence[np.ndarray],
        *,
        max_tokens: int = 4096,
        batch_size: int = 256,
    ) -> list[np.ndarray]:
        """See `ScoringEngine.score_pairs`; floats of the model's type.

        Raises:
            ValueError: if the numbers of sources and targets differ, or if there are several models.
        """
        if len(self.models) > 1:
            raise ValueError("pairs are scored by one model")
        limits = self.model.config.max_source_positions, self.model.config.max_target_positions
        check_pairs(sources, targets, *limits)
        if self.right_to_left:
            targets = reverse_targets(targets)
        with inference(self.models), products(self.device, "float32"):
            scores = score_in_batches(sources, targets, self._score_batch, max_tokens=max_tokens, batch_size=batch_size)
        return reverse_targets(scores) if self.right_to_left else scores

    def _score_batch(self, sources: list[np.ndarray], targets: list[np.ndarray]) -> np.ndarray:
        """Return log-probabilities of the target tokens, arbitrary on padding: [B, T]."""
        src_tokens_BS, tgt_tokens_BT = (to_device(pad_sentences(each), self.device) for each in (sources, targets))
        prev_tokens_BT = tgt_tokens_BT.roll(1, dims=1)
        prev_tokens_BT[:, 0] = EOS
        log_probs_BTV = self.model(src_tokens_BS, prev_tokens_BT).log_softmax(dim=-1)
        return log_probs_BTV.gather(-1, tgt_tokens_BT[:, :, None])[:, :, 0].cpu().numpy()


def check_wait_k(models: Sequence[Transformer], wait_k: int) -> None:
    """Check that models can translate with the wait-k policy.

    Raises:
        UserError: if one has an encoder that is not unidirectional, or predicts the last word first; or if k is less
            than 1.
    """
    if wait_k < 1:
        raise UserError(f"wait-k: k is {wait_k}, expected at least 1")
    for model in models:
        if model.config.right_to_left:
            raise UserError("wait-k: the model predicts targets from right to left, the last word first")
        model.check_unidirectional()


def check_beam(beam: int, wait_k: int, source_length: int) -> None:
    """Check that a search with a beam writes nothing before it has the whole source.

    Args:
        source_length: number of tokens of the longest source, </s> included.

    Raises:
        UserError: if it would.
    """
    if beam > 1 and wait_k < source_length:
        raise UserError(
            f"wait-k with k = {wait_k}: words that were written cannot be replaced, so the search is greedy: a beam of "
            f"{beam} needs a k of at least {source_length}, the length of the longest source"
        )


def decode_in_batches(
    models: Sequence[Transformer],
    sources: Sequence[np.ndarray],
    settings: Decode,
    translate: Callable[[list[int]], list[list[Hypothesis]]],
    progress: Callable[[int], None] | None,
) -> list[list[Hypothesis]]:
    """Translate sources in batches of similar length. See `Engine.decode`.

    Args:
        translate: function that takes the indices of a batch's sources and returns their hypotheses.
    """
    check_sentences(sources, _shortest(models, "source"), "source")

    def checked(batch: list[int]) -> list[list[Hypothesis]]:
        try:
            found = translate(batch)
        except FloatingPointError as error:
            raise UserError(f"the model cannot translate: {error}: {WHY_NAN}") from None
        for place, nbest in zip(batch, found, strict=True):
            if any(math.isnan(hypothesis.score) for hypothesis in nbest):
                raise UserError(f"the model cannot translate: the score of sentence {place} is NaN: {WHY_NAN}")
        return found

    with inference(models):
        return compute_in_batches(
            [len(source) for source in sources],
            checked,
            max_tokens=settings.max_tokens,
            batch_size=settings.batch_size,
            progress=progress,
        )


def _uniforms_of_torch(rows: int, steps: int) -> Tensor:
    """Draw uniform numbers from PyTorch's global generator on the CPU: float64 [rows, steps]."""
    return torch.rand(rows, steps, dtype=torch.float64)


def _uniforms_of(seed: int, indices: Sequence[int], steps: int, samples: int = 1) -> Tensor:
    """Draw each row from a generator of its own, so that fewer steps give a prefix of more: float64 [B * K, steps].

    The first sample of a sentence does not depend on the number of samples, K.
    """
    seeds = ([seed, index, number][: 3 if number else 2] for index in indices for number in range(samples))
    return torch.from_numpy(np.stack([np.random.default_rng(own).random(steps) for own in seeds]))


def sample_batch(
    models: Sequence[Transformer],
    src_tokens_BS: Tensor,
    *,
    sampling: Sampling,
    max_len_a: float,
    max_len_b: float,
    uniforms: Callable[[int, int], Tensor] = _uniforms_of_torch,
) -> list[Hypothesis]:
    """Draw a sample of each source.

    Args:
        models: one model, or several whose distributions are averaged.
        uniforms: function (rows, steps) -> uniform numbers, float64 [rows, steps].
    """
    found = _sample_batch(
        models, src_tokens_BS, sampling=sampling, max_len_a=max_len_a, max_len_b=max_len_b, uniforms=uniforms
    )
    return [hypothesis for (hypothesis,) in found]


def _sample_batch(
    models: Sequence[Transformer],
    src_tokens_BS: Tensor,
    *,
    sampling: Sampling,
    max_len_a: float,
    max_len_b: float,
    uniforms: Callable[[int, int], Tensor],
    samples: int = 1,
    lenpen: float = 1.0,
) -> list[list[Hypothesis]]:
    """Draw `samples` translations of each source. See `sample_batch`."""
    lengths = src_tokens_BS.ne(models[0].pad).sum(1).tolist()
    max_len_B = max_lengths(lengths, max_len_a, max_len_b, limit=_shortest(models, "target") - 1)
    uniforms_NT = uniforms(len(lengths) * samples, max(max_len_B) + 1)
    search = sample if samples == 1 else sample_with_shared_prefixes
    with inference(models):
        return search(
            _start(models, src_tokens_BS, 1, max(max_len_B) + 1),
            max_len_B=max_len_B,
            uniforms_NT=uniforms_NT,
            sampling=sampling,
            lenpen=lenpen,
            device=src_tokens_BS.device,
        )


@dataclass(frozen=True)
class _TransformerStepper:
    """A model together with the decoder cache of one batch."""

    model: Transformer
    cache: DecoderCache

    def step(self, last_tokens_N: Tensor) -> Tensor:
        return self.model.decode_step(last_tokens_N, self.cache)

    def reorder(self, order_N: Tensor) -> None:
        self.cache.reorder(order_N)

    def select_sentences(self, index_B: Tensor) -> None:
        self.cache.select_sentences(index_B)

    def take_rows(self, rows_U: Tensor, sentences_U: Tensor) -> None:
        self.cache.take_rows(rows_U, sentences_U)


@dataclass(frozen=True)
class _EnsembleStepper:
    """Steppers of the models of an ensemble, combined into one."""

    members: tuple[_TransformerStepper, ...]

    def step(self, last_tokens_N: Tensor) -> Tensor:
        """Return the logarithm of the mean of the members' probabilities, instead of logits."""
        each = [member.step(last_tokens_N).log_softmax(dim=-1) for member in self.members]
        return torch.stack(each).logsumexp(dim=0) - math.log(len(each))

    def reorder(self, order_N: Tensor) -> None:
        for member in self.members:
            member.reorder(order_N)

    def select_sentences(self, index_B: Tensor) -> None:
        for member in self.members:
            member.select_sentences(index_B)

    def take_rows(self, rows_U: Tensor, sentences_U: Tensor) -> None:
        for member in self.members:
            member.take_rows(rows_U, sentences_U)


def _start(
    models: Sequence[Transformer], src_tokens_BS: Tensor, beam: int, max_len: int, *, wait_k: int | None = None
) -> _TransformerStepper | _EnsembleStepper:
    """Return the stepper of a batch, for at most `max_len` steps and `beam` rows for each sentence."""

    def start(model: Transformer) -> _TransformerStepper:
        encoded = model.encode(src_tokens_BS)
        encoded = encoded if wait_k is None else model.waiting(encoded, wait_k)
        return _TransformerStepper(model, model.start_cache(encoded, beam=beam, max_len=max_len))

    members = tuple(map(start, models))
    return members[0] if len(members) == 1 else _EnsembleStepper(members)


def _shortest(models: Sequence[Transformer], side: str) -> int:
    """Return the length of the longest sentence that all models have positions for."""
    return min(getattr(model.config, f"max_{side}_positions") for model in models)


@contextmanager
def inference(models: Sequence[Transformer]) -> Iterator[None]:
    """Disable dropout and gradients while the body runs.

    The mode of the models is restored at the end, because validation runs during training.
    """
    training = [model for model in models if model.training]
    for model in training:  # only if needed: visiting all modules takes as long as computing a layer
        model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for model in training:
            model.train()
