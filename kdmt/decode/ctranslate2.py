"""Beam search by CTranslate2, on a folder that `kdmt export --to ctranslate2` wrote.

Settings mean what they mean to `kdmt.decode.beam`, with differences that CTranslate2 leaves no way around:

* where it forbids a token (<pad>, and </s> as the first) it renormalises the others: a score is larger than the
  teacher-forced one by the sum of -log(1 - p(forbidden)), divided like the rest; for a trained model below 1e-4;
* it keeps the K best of all hypotheses that have finished when K have, fairseq the first K: the best one is the same;
* at the maximum length it goes on from the K best candidates, not from the K best that do not end in </s>, and chooses
  among all that it has before </s> is forced: a sentence that reaches its maximum length may get other hypotheses.

A source of </s> alone, which CTranslate2 does not look at, gets one hypothesis, the empty one with score 0.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from kdmt.checksum import verify_checkpoint
from kdmt.config import Decode
from kdmt.decode.engine import check_sentences, length_batches
from kdmt.decode.lengths import max_lengths, normalized_score
from kdmt.errors import UserError
from kdmt.types import EOS, PAD, SPECIALS, Hypothesis

_Scored = tuple[list[str], float]  # tokens with </s>, unless the maximum length cut them off; their score

_SIDES = ("source", "target")

# A length penalty of exactly 0 lets CTranslate2 stop by another rule. This one changes a score by less than a
# millionth of it.
_ALMOST_ZERO = 1e-7


class CTranslate2Engine:
    """A CTranslate2 model; hypotheses come without `log_probs`.

    Args:
        folder: written by `kdmt.interop.ctranslate2`.
        device: cpu, cuda or cuda:<n>.
        compute_type: default (as stored), float32, int8, float16, ...: what the device has of CTranslate2's types.
        threads: of the CPU for one batch.

    Raises:
        UserError: CTranslate2 is not installed or cannot load the model, or the folder is damaged or none of ours.
    """

    def __init__(self, folder: Path, *, device: str = "cpu", compute_type: str = "default", threads: int = 1) -> None:
        if not (folder / "model.json").is_file() or not (folder / "model.bin").is_file():
            raise UserError(f"{folder}: not a model that 'kdmt export --to ctranslate2' wrote")
        verify_checkpoint(folder)
        config = json.loads((folder / "model.json").read_text(encoding="utf-8"))["config"]
        self.max_source_positions: int = config["max_source_positions"]
        self.max_target_positions: int = config["max_target_positions"]
        self._src_symbols, self._tgt_symbols = _vocabularies(folder)
        self._tgt_ids = {symbol: index for index, symbol in enumerate(self._tgt_symbols)}
        self._translator = _load(folder, device, compute_type, threads)

    def decode(
        self, sources: Sequence[np.ndarray], settings: Decode, *, progress: Callable[[int], None] | None = None
    ) -> list[list[Hypothesis]]:
        """See `kdmt.decode.engine.Engine.decode`."""
        check_sentences(sources, self.max_source_positions, "source")
        hypotheses: list[list[Hypothesis]] = [[] for _ in sources]
        for max_len, batch in self._batches([len(source) for source in sources], settings):
            found = self._decode_batch([self._spell(sources[place]) for place in batch], max_len, settings)
            for place, nbest in zip(batch, found, strict=True):
                hypotheses[place] = nbest
            if progress is not None:
                progress(len(batch))
        return hypotheses

    def _batches(self, lengths: Sequence[int], settings: Decode) -> Iterator[tuple[int, list[int]]]:
        """A maximum length and the places of sources that have it, longest first: a call knows one for all."""
        limit = self.max_target_positions - 1  # </s> takes the last position
        max_lens = max_lengths(lengths, settings.max_len_a, settings.max_len_b, limit=limit)
        places = sorted(range(len(lengths)), key=lambda place: -max_lens[place])
        for max_len, group in groupby(places, key=max_lens.__getitem__):
            alike = list(group)
            for batch in length_batches(
                [lengths[place] for place in alike], max_tokens=settings.max_tokens, batch_size=settings.batch_size
            ):
                yield max_len, [alike[number] for number in batch]

    def _decode_batch(self, sources: list[list[str]], max_len: int, settings: Decode) -> list[list[Hypothesis]]:
        # every option that changes what is found stands here: some defaults are not fairseq's
        results = self._translator.translate_batch(
            sources,
            max_batch_size=0,
            beam_size=settings.beam,
            patience=1.0,
            num_hypotheses=settings.beam,
            length_penalty=settings.lenpen or _ALMOST_ZERO,
            coverage_penalty=0.0,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            disable_unk=False,
            suppress_sequences=[[SPECIALS[PAD]]],
            end_token=SPECIALS[EOS],
            return_end_token=True,
            prefix_bias_beta=0.0,
            max_input_length=0,
            max_decoding_length=max_len,
            min_decoding_length=1,
            use_vmap=False,
            return_scores=True,
            sampling_topk=1,
            replace_unknowns=False,
        )
        scored = [list(zip(result.hypotheses, result.scores, strict=True)) for result in results]
        for source, pairs in zip(sources, scored, strict=True):
            if len(source) == 1:
                del pairs[1:]  # all the same
        self._force_ends(sources, scored, settings.lenpen)
        return [self._ranked(pairs, settings.nbest) for pairs in scored]

    def _force_ends(self, sources: list[list[str]], scored: list[list[_Scored]], lenpen: float) -> None:
        """Give hypotheses that stopped at the maximum length the score that they have with </s>."""
        places = [
            (sentence, rank)
            for sentence, pairs in enumerate(scored)
            for rank, (tokens, _) in enumerate(pairs)
            if tokens and tokens[-1] != SPECIALS[EOS]
        ]
        if not places:
            return
        results = self._translator.score_batch(
            [sources[sentence] for sentence, _ in places],
            [scored[sentence][rank][0] for sentence, rank in places],
            max_batch_size=len(sources),
            max_input_length=0,
        )
        for (sentence, rank), result in zip(places, results, strict=True):
            score = normalized_score(sum(result.log_probs), len(result.log_probs), lenpen)  # of </s> too
            scored[sentence][rank] = ([*scored[sentence][rank][0], SPECIALS[EOS]], score)

    def _ranked(self, pairs: list[_Scored], nbest: int) -> list[Hypothesis]:
        found = [Hypothesis(tuple(self._tgt_ids[token] for token in tokens[:-1]), score) for tokens, score in pairs]
        return sorted(found, key=lambda hypothesis: -hypothesis.score)[:nbest]

    def _spell(self, source: np.ndarray) -> list[str]:
        return [self._src_symbols[token] for token in source.tolist()]


def _vocabularies(folder: Path) -> tuple[list[str], list[str]]:
    """The source's and the target's token of each id; one file holds both where they are the same."""
    shared = folder / "shared_vocabulary.json"
    files = [shared, shared] if shared.is_file() else [folder / f"{side}_vocabulary.json" for side in _SIDES]
    source, target = (json.loads(file.read_text(encoding="utf-8")) for file in files)
    return source, target


def _load(folder: Path, device: str, compute_type: str, threads: int) -> Any:
    """The `ctranslate2.Translator`."""
    try:
        from ctranslate2 import Translator
    except ImportError:
        raise UserError("CTranslate2 is not installed: pip install 'kdmt[ctranslate2]'") from None
    kind, _, index = device.partition(":")
    try:
        return Translator(
            str(folder),
            device=kind,
            device_index=int(index or 0),
            compute_type=compute_type,
            inter_threads=1,
            intra_threads=threads,
        )
    except (ValueError, RuntimeError) as error:  # an unknown type or device, one that is not there
        raise UserError(f"{folder}: CTranslate2 cannot load it on {device} as {compute_type}: {error}") from None
