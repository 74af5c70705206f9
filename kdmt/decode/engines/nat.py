"""The decoding engine of non-autoregressive models in PyTorch.

Shapes: B batch, N candidates of all sentences, A active rows, T target length with </s>, L decoder positions,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdmt.config import Decode, NATDecode
from kdmt.corpus.batching import pad_sentences
from kdmt.corpus.codec import TEXT_FILE, load_dictionaries, load_text_processor
from kdmt.decode.engines.engine import EngineOptions
from kdmt.decode.engines.precision import DecodingPrecision, products
from kdmt.decode.engines.pytorch import TorchEngine, decode_in_batches
from kdmt.decode.search.ctc_paths import Fusion, greedy, prefix_beam_search
from kdmt.decode.search.dag_paths import greedy_paths, lookahead_paths, viterbi_paths
from kdmt.decode.search.edits import insertion, levenshtein
from kdmt.decode.search.lengths import max_lengths, normalized_score
from kdmt.decode.search.mask_predict import Filled, Predict, mask_predict, refine
from kdmt.decode.search.transfers import to_device, to_host
from kdmt.errors import UserError
from kdmt.families import POSITIONAL, FamilyName
from kdmt.interop.kenlm import KenLM
from kdmt.losses.crf import candidate_transitions, crf_best, crf_log_partition
from kdmt.models.attention import at_least_float32
from kdmt.models.checkpoint import load_model
from kdmt.models.checkpoint_folder import resolve_checkpoint
from kdmt.models.nonautoregressive import NATransformer, Policy
from kdmt.models.transformer import EncoderOutput
from kdmt.types import EOS, PAD, Hypothesis

_CTC_CANDIDATES = 20  # symbols with which prefix beam search extends outputs at a position


def open_folder(folder: Path, options: EngineOptions) -> NATEngine:
    """Return the engine of a checkpoint folder with a non-autoregressive model.

    Raises:
        UserError: if the folder is damaged, or as in `NATEngine`.
    """
    model = load_model(folder)
    assert isinstance(model, NATransformer), f"{folder}: not a non-autoregressive model"
    search, teacher = options.search, None
    if search.rescore and options.rescorer is not None:
        teacher = TorchEngine(load_model(resolve_checkpoint(options.rescorer)), device=options.device)
    return NATEngine(
        model,
        device=options.device,
        search=search,
        iterations=options.iterations,
        teacher=teacher,
        fusion=_fusion(folder, search) if model.nat.family == "ctc" else None,
        precision=options.precision,
    )


def _fusion(folder: Path, search: NATDecode) -> Fusion | None:
    """Return the language model for prefix beam search, None if none is set."""
    if search.ctc_lm is None:
        return None
    _, tgt_dictionary = load_dictionaries(folder, load_text_processor(folder / TEXT_FILE))
    language_model = KenLM(Path(search.ctc_lm), tgt_dictionary.symbols)
    return Fusion(language_model, search.ctc_lm_weight, search.ctc_length_bonus)


class NATEngine:
    """A non-autoregressive model in PyTorch; it is moved to `device` and runs in evaluation mode while it decodes.

    Args:
        search: settings of the search; each family reads its own.
        iterations: maximum number of decoder passes, for families that refine their output.
        teacher: autoregressive model that chooses among candidates if `search.rescore` is set and the family has
            several.
        fusion: language model for prefix beam search.
        precision: number type of the matrix products of the model, but not of the teacher.

    Raises:
        UserError: if the length beam is larger than the number of lengths that the model has.
        ValueError: if `search.rescore` is set without a teacher.
    """

    def __init__(
        self,
        model: NATransformer,
        *,
        device: torch.device | str = "cpu",
        search: NATDecode | None = None,
        iterations: int = 10,
        teacher: TorchEngine | None = None,
        fusion: Fusion | None = None,
        precision: DecodingPrecision = "float32",
    ) -> None:
        self.model = model.to(device)
        self.device, self.precision = torch.device(device), precision
        self.search, self.iterations = search or NATDecode(), iterations
        self.teacher, self.fusion = teacher, fusion
        check_length_beam(self.search, model.nat.family, model.config.max_target_positions)
        if self.search.rescore and teacher is None:
            raise ValueError("candidates are to be scored by a teacher, and there is none")

    @property
    def max_source_positions(self) -> int:
        return self.model.config.max_source_positions

    @property
    def refines(self) -> bool:
        """See `RefiningEngine.refines`."""
        return self.model.iterates

    def with_iterations(self, iterations: int) -> NATEngine:
        """See `RefiningEngine.with_iterations`."""
        return NATEngine(
            self.model,
            device=self.device,
            search=self.search,
            iterations=iterations,
            teacher=self.teacher,
            fusion=self.fusion,
            precision=self.precision,
        )

    def decode(
        self, sources: Sequence[np.ndarray], settings: Decode, *, progress: Callable[[int], None] | None = None
    ) -> list[list[Hypothesis]]:
        """See `Engine.decode`; returns one hypothesis per source. Maximum lengths apply to families that edit."""

        def write(batch: list[int]) -> list[list[Hypothesis]]:
            chosen = [sources[place] for place in batch]
            with products(self.device, self.precision):
                found = self._write(chosen, settings)
            if self.teacher is not None and self._chooses:
                found = rescore(self.teacher, chosen, found, lenpen=settings.lenpen)
            return [candidates[:1] for candidates in found]

        return decode_in_batches([self.model], sources, settings, write, progress)

    @property
    def _chooses(self) -> bool:
        """Return whether the teacher has several candidates to choose among."""
        family = self.model.nat.family
        return self.search.rescore and family in POSITIONAL and self.search.num_lengths(family) > 1

    def _write(self, sources: list[np.ndarray], settings: Decode) -> list[list[Hypothesis]]:
        """Return the candidate translations of each source, best first."""
        model, search, iterations = self.model, self.search, self.iterations
        src_tokens_BS = to_device(pad_sentences(sources), self.device)
        encoded = model.encode(src_tokens_BS)
        if model.nat.family in POSITIONAL:
            return _fill(model, src_tokens_BS, encoded, search, iterations)
        if model.nat.family == "ctc":
            return [[hypothesis] for hypothesis in _ctc(model, src_tokens_BS, encoded, search, self.fusion)]
        if model.nat.family == "dag":
            return [[hypothesis] for hypothesis in _dag(model, src_tokens_BS, encoded, search)]
        limits = max_lengths(
            [int((source != PAD).sum()) for source in sources],
            settings.max_len_a,
            settings.max_len_b,
            limit=model.config.max_target_positions - 1,
        )
        limits_B = to_device(torch.tensor(limits), self.device) + 2  # <s> and </s>
        edits = Edits(model, encoded, search.eos_penalty)
        if model.nat.family == "levenshtein":
            return [[each] for each in levenshtein(edits, limits_B, iterations=iterations)]
        found = insertion(edits, limits_B, iterations=iterations, nothing=model.nothing)
        return [[each] for each in found]


def check_length_beam(search: NATDecode, family: FamilyName, max_target_positions: int) -> None:
    """Check that a model has as many lengths as are to be tried.

    Raises:
        UserError: if it has fewer.
    """
    beam = search.num_lengths(family)
    if family in POSITIONAL and beam > max_target_positions - 1:
        raise UserError(
            f"a length beam of {beam} is more than the lengths that the model's {max_target_positions} target "
            "positions leave"
        )


def rescore(
    teacher: TorchEngine, sources: Sequence[np.ndarray], candidates: list[list[Hypothesis]], *, lenpen: float
) -> list[list[Hypothesis]]:
    """Return candidates with the teacher's scores, best first.

    This is noisy parallel decoding (Gu et al. 2018, section 3.4).
    """
    pairs = [(source, each) for source, every in zip(sources, candidates, strict=True) for each in every]
    targets = [np.array([*each.tokens, EOS]) for _, each in pairs]
    token_scores = teacher.score_pairs([source for source, _ in pairs], targets)
    scores = (normalized_score(float(log_probs.sum()), len(log_probs), lenpen) for log_probs in token_scores)
    scored = [[replace(each, score=next(scores)) for each in every] for every in candidates]
    return [sorted(every, key=lambda each: -each.score) for every in scored]


# ------------------------------------------------------------------------------------- more positions than the target


def _ctc(
    model: NATransformer,
    src_tokens_BS: Tensor,
    encoded: EncoderOutput,
    search: NATDecode,
    fusion: Fusion | None,
) -> list[Hypothesis]:
    x_BLD, keep_BL = model.upsample(src_tokens_BS)
    features_BLD = model.decode_all(x_BLD, keep_BL, encoded)
    if search.ctc_beam == 1:
        return greedy(*model.best_symbols(features_BLD), keep_BL, blank=model.blank)
    logits_BLV = at_least_float32(features_BLD @ model.output_weight_VD.t())
    found = []
    for log_probs_LV, length in zip(logits_BLV.log_softmax(-1).cpu().numpy(), keep_BL.sum(1).tolist(), strict=True):
        tokens, score = prefix_beam_search(
            log_probs_LV[:length],
            blank=model.blank,
            beam=search.ctc_beam,
            candidates=_CTC_CANDIDATES,
            fusion=fusion,
        )
        found.append(Hypothesis(tokens=tokens, score=score, steps=1))
    return found


def _dag(model: NATransformer, src_tokens_BS: Tensor, encoded: EncoderOutput, search: NATDecode) -> list[Hypothesis]:
    x_BLD, keep_BL = model.vertices(src_tokens_BS)
    features_BLD = model.decode_all(x_BLD, keep_BL, encoded)
    return dag_hypotheses(*model.best_symbols(features_BLD), model.link(features_BLD, keep_BL), keep_BL.sum(1), search)


def dag_hypotheses(
    tokens_BL: Tensor, log_probs_BL: Tensor, links_BLL: Tensor, vertices_B: Tensor, search: NATDecode
) -> list[Hypothesis]:
    """Return the tokens on the best path of each sentence, by the settings of the search.

    Args:
        tokens_BL: the most probable token of each vertex.
        log_probs_BL: its natural log-probability.
        links_BLL: log-probability of the second vertex after the first.
        vertices_B: number of vertices of each sentence.
    """
    if search.dag == "viterbi":
        paths, scores = viterbi_paths(log_probs_BL, links_BLL, vertices_B, beta=search.dag_lenpen)
    else:
        follow = lookahead_paths if search.dag == "lookahead" else greedy_paths
        paths, scores = follow(log_probs_BL, links_BLL, vertices_B)
    return [
        Hypothesis(tokens=tuple(row_L[path[1:-1]].tolist()), score=score, steps=1)
        for row_L, path, score in zip(to_host(tokens_BL)[0], paths, scores, strict=True)
    ]


# --------------------------------------------------------------------------------------------- positions of the target


def _fill(
    model: NATransformer, src_tokens_BS: Tensor, encoded: EncoderOutput, search: NATDecode, iterations: int
) -> list[list[Hypothesis]]:
    """Return candidates of the most probable lengths, best first by the mean log-probability of their words."""
    num_lengths = search.num_lengths(model.nat.family)
    lengths_BK = model.lengths.best(encoded, num_lengths, limit=model.config.max_target_positions)
    rows_N = torch.arange(len(src_tokens_BS), device=src_tokens_BS.device).repeat_interleave(lengths_BK.size(1))
    src_tokens_NS, encoded, lengths_N = src_tokens_BS[rows_N], encoded.select(rows_N), lengths_BK.flatten()

    def predict(tokens_AT: Tensor, rows_A: Tensor) -> tuple[Tensor, Tensor]:
        return model.best_symbols(model.fill(src_tokens_NS[rows_A], tokens_AT, encoded.select(rows_A)))

    if model.nat.family == "nat_crf":
        filled = _chain(model, src_tokens_NS, encoded, lengths_N)
    else:
        filled = fill_drafts(predict, lengths_N, model.nat.family, iterations, corrects=model.nat.corrects)
    return ranked_candidates(filled, lengths_BK)


def fill_drafts(predict: Predict, lengths_N: Tensor, family: FamilyName, iterations: int, *, corrects: bool) -> Filled:
    """Return candidates of the given lengths, in the way of a family whose decoder reads drafts.

    Args:
        predict: one decoder pass.
        corrects: whether a `cmlm` model also predicts the visible words again.
    """
    if family == "cmlm":
        return mask_predict(predict, lengths_N, iterations=iterations, rewrites=corrects)
    return refine(predict, lengths_N, iterations=iterations if family == "inat" else 1)


def ranked_candidates(filled: Filled, lengths_BK: Tensor) -> list[list[Hypothesis]]:
    """Return the candidates of each sentence, one of each length, best first by the mean log-probability."""
    found = _hypotheses(filled, lengths_BK.flatten())
    beam = lengths_BK.size(1)
    every = [found[start : start + beam] for start in range(0, len(found), beam)]
    return [sorted(candidates, key=lambda each: -each.score) for candidates in every]


def _chain(model: NATransformer, src_tokens_NS: Tensor, encoded: EncoderOutput, lengths_N: Tensor) -> Filled:
    """Return the best sequence of the CRF, with its log-probability distributed evenly over its words."""
    filled, frame, words_N = Filled.unknown(lengths_N), model.nat.frame, lengths_N - 1
    features_NTD = model.fill_framed(src_tokens_NS, filled.tokens_NT, encoded)
    chain_N = words_N + 2 if frame else words_N  # a layout with <s> has both <s> and </s> in the chain, others neither
    features_NTD = features_NTD if frame else features_NTD[:, :-1]
    logits_NTV = features_NTD @ model.output_weight_VD.t()
    best = logits_NTV.log_softmax(-1).topk(min(model.nat.crf_candidates, logits_NTV.size(2)))
    moves_NTKK = candidate_transitions(*model.transitions(best.indices))
    choices_NT, scores_N = crf_best(best.values, moves_NTKK, chain_N)
    means_N = (scores_N - crf_log_partition(best.values, moves_NTKK, chain_N)) / chain_N
    tokens_NT = best.indices.gather(2, choices_NT[:, :, None])[:, :, 0]
    tokens_NT = tokens_NT[:, frame : frame + filled.tokens_NT.size(1) - 1]
    columns_T = torch.arange(tokens_NT.size(1), device=tokens_NT.device)
    inside_NT = columns_T < words_N[:, None]
    filled.tokens_NT[:, :-1] = torch.where(inside_NT, tokens_NT, filled.tokens_NT[:, :-1])
    filled.log_probs_NT[:, :-1] = means_N[:, None] * inside_NT
    filled.steps_N += 1
    return filled


def _hypotheses(filled: Filled, lengths_N: Tensor) -> list[Hypothesis]:
    scores_N = filled.log_probs_NT.sum(1) / (lengths_N - 1)
    columns = to_host(filled.tokens_NT, lengths_N, scores_N, filled.steps_N)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [
        Hypothesis(tokens=_words(tokens[: length - 1]), score=score, steps=steps)
        for tokens, length, score, steps in rows
    ]


def _words(tokens: list[int]) -> tuple[int, ...]:
    """Return the tokens before the first </s>."""
    return tuple(tokens[: tokens.index(EOS)] if EOS in tokens else tokens)


# ------------------------------------------------------------------------------------------------ positions of a draft


@dataclass(frozen=True)
class Edits:
    """The policies of a model that edits drafts. Implements `Editor` and `Inserter` of `kdmt.decode.search.edits`."""

    model: NATransformer
    encoded: EncoderOutput
    eos_penalty: float  # subtracted from the logit of "no token is missing"

    def _read(self, tokens_AN: Tensor, rows_A: Tensor, policy: Policy = "words") -> Tensor:
        return self.model.read_draft(tokens_AN, self.encoded.select(rows_A), policy=policy)

    def deleted(self, tokens_AN: Tensor, rows_A: Tensor) -> Tensor:
        return self.model.edits.deleted(self._read(tokens_AN, rows_A, "deletion")).argmax(-1).eq(1)

    def missing(self, tokens_AN: Tensor, rows_A: Tensor) -> Tensor:
        logits_ANK = self.model.edits.missing(self._read(tokens_AN, rows_A, "placeholders"))
        logits_ANK[:, :, 0] -= self.eos_penalty
        return logits_ANK.argmax(-1)

    def fill(self, tokens_AN: Tensor, rows_A: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.best_symbols(self._read(tokens_AN, rows_A))

    def insert(self, tokens_AN: Tensor, rows_A: Tensor) -> tuple[Tensor, Tensor]:
        features_AND = self.model.slots(self._read(tokens_AN, rows_A))
        return self.model.best_symbols(features_AND, eos_penalty=self.eos_penalty)
