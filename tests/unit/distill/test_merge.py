"""Blocks to one text: alignment by content, and an account of every failure."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tiny_pipeline import read_lines, write_lines

from kdmt.config import Failures
from kdmt.distill.blocks import Block, Decoded, plan_blocks, write_block
from kdmt.distill.decoding import source_sha
from kdmt.distill.merge import MergeReport, TrainingText, merge_blocks
from kdmt.distill.selection import Selector, interpolated, weighted
from kdmt.distill.similarity import bleu_nearness
from kdmt.errors import UserError
from kdmt.types import EOS, UNK

KEY = "k" * 64
ALL = ("empty", "too_long", "repetition", "unk")


def words_of(tokens: tuple[int, ...]) -> str:
    return " ".join(f"w{token}" for token in tokens)


@dataclass
class Corpus:
    """Sources that differ, and hypotheses of which every fifth fails in one of the ways."""

    folder: Path
    sources: list[np.ndarray]
    decoded: list[Decoded]
    failure: list[str | None]
    blocks: list[Block]

    def write(self, *, tags: bool = False) -> None:
        (self.folder / "blocks").mkdir()
        for block in self.blocks:
            own = self.decoded[block.first : block.first + block.count]
            write_block(self.folder / "blocks", block, KEY, own)
        write_lines(self.folder / "train.en", [f"source {i}" for i in range(len(self.sources))])
        write_lines(self.folder / "train.de", [f"reference {i}" for i in range(len(self.sources))])
        if tags:
            write_lines(self.folder / "tags", ["<x>" if i % 3 else "" for i in range(len(self.sources))])

    def merge(self, **actions: str) -> MergeReport:
        tags = self.folder / "tags"
        return merge_blocks(
            self.blocks,
            self.folder / "blocks",
            KEY,
            sources=self.sources,
            text=TrainingText(self.folder / "train.en", self.folder / "train.de", tags if tags.exists() else None),
            to_words=words_of,
            settings=Failures.model_validate({"repetition_times": 3, **actions}),
            out_source=self.folder / "out.en",
            out_target=self.folder / "out.de",
            out_tags=self.folder / "out.tags",
            out_nbest=self.folder / "out.nbest",
        )


def make_decoded(index: int, source: np.ndarray, failure: str | None) -> Decoded:
    tokens: Mapping[str | None, tuple[int, ...]] = {
        None: (index + 10, index + 11),
        "empty": (),
        "too_long": (index + 10,),
        "repetition": (8, 9, 8, 9, 8, 9),
        "unk": (index + 10, UNK),
    }
    nbest = (tokens[failure], (7,)) if tokens[failure] or index % 2 else ()
    at_limit = (failure == "too_long", False)[: len(nbest)]
    return Decoded(index, source_sha(source), nbest, (-0.5, -0.75)[: len(nbest)], at_limit)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    rng = random.Random(1)
    failure = [rng.choice(ALL) if i % 5 == 0 else None for i in range(100)]
    sources = [np.array([i + 4, 5, EOS]) for i in range(100)]
    decoded = [make_decoded(i, source, failure[i]) for i, source in enumerate(sources)]
    return Corpus(tmp_path, sources, decoded, failure, plan_blocks(100, 7))


def test_keep(corpus: Corpus) -> None:
    corpus.write()
    report = corpus.merge(**dict.fromkeys(ALL, "keep"))
    best = [sentence.tokens[0] if sentence.tokens else () for sentence in corpus.decoded]
    assert read_lines(corpus.folder / "out.de") == [words_of(tokens) for tokens in best]
    assert read_lines(corpus.folder / "out.en") == [f"source {i}" for i in range(100)]
    assert report.failures == Counter(failure for failure in corpus.failure if failure)
    assert not report.replaced
    assert not report.dropped
    assert (report.num_sentences, report.num_lines) == (100, 100)
    assert not (corpus.folder / "out.tags").exists()


def test_reference(corpus: Corpus) -> None:
    corpus.write()
    report = corpus.merge(**dict.fromkeys(ALL, "reference"))
    for i, line in enumerate(read_lines(corpus.folder / "out.de")):
        assert line == (f"reference {i}" if corpus.failure[i] else f"w{i + 10} w{i + 11}")
    assert report.replaced == {i: failure for i, failure in enumerate(corpus.failure) if failure}
    assert report.failures == Counter(report.replaced.values())
    assert sum(report.failures.values()) == 20


def test_drop(corpus: Corpus) -> None:
    corpus.write(tags=True)
    report = corpus.merge(**dict.fromkeys(ALL, "drop"))
    left = [i for i in range(100) if i % 5]
    assert report.dropped == {i: failure for i, failure in enumerate(corpus.failure) if failure}
    assert read_lines(corpus.folder / "out.en") == [f"source {i}" for i in left]
    assert read_lines(corpus.folder / "out.de") == [f"w{i + 10} w{i + 11}" for i in left]
    assert read_lines(corpus.folder / "out.tags") == ["<x>" if i % 3 else "" for i in left]
    assert (report.num_sentences, report.num_lines) == (100, 80)


def test_each_failure_has_its_own_setting(corpus: Corpus) -> None:
    corpus.write()
    report = corpus.merge(empty="drop", too_long="keep", repetition="reference", unk="drop")
    assert set(report.dropped.values()) == {"empty", "unk"}
    assert set(report.replaced.values()) == {"repetition"}
    assert report.num_lines == 100 - len(report.dropped)


def test_tokens_that_make_no_words_are_empty(corpus: Corpus) -> None:
    corpus.write()
    report = MergeReport()
    report = merge_blocks(
        corpus.blocks,
        corpus.folder / "blocks",
        KEY,
        sources=corpus.sources,
        text=TrainingText(corpus.folder / "train.en", corpus.folder / "train.de", None),
        to_words=lambda tokens: " " if tokens == (11, 12) else words_of(tokens),
        settings=Failures(),
        out_source=corpus.folder / "out.en",
        out_target=corpus.folder / "out.de",
        out_tags=corpus.folder / "out.tags",
        out_nbest=None,
    )
    assert read_lines(corpus.folder / "out.de")[1] == "reference 1"
    assert report.failures["empty"] == 1 + corpus.failure.count("empty")


def test_every_hypothesis_is_in_the_n_best_list(corpus: Corpus) -> None:
    corpus.write()
    corpus.merge(**dict.fromkeys(ALL, "drop"))
    expected = [
        f"{sentence.index}\t{score:.6f}\t{words_of(tokens)}"
        for sentence in corpus.decoded
        for tokens, score in zip(sentence.tokens, sentence.scores, strict=True)
    ]
    assert read_lines(corpus.folder / "out.nbest") == expected


def test_a_source_that_moved_is_noticed_though_the_counts_agree(corpus: Corpus) -> None:
    corpus.write()
    corpus.sources[30], corpus.sources[31] = corpus.sources[31], corpus.sources[30]
    with pytest.raises(UserError, match=r"000004\.jsonl\.gz: sentence 30 is not the one of the training source"):
        corpus.merge()


def test_blocks_that_were_exchanged_are_noticed(corpus: Corpus) -> None:
    corpus.write()
    first, second = (corpus.blocks[i].path(corpus.folder / "blocks") for i in (2, 3))
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    with pytest.raises(UserError, match=r"000002\.jsonl\.gz"):
        corpus.merge()


def test_a_missing_block_is_named(corpus: Corpus) -> None:
    corpus.write()
    corpus.blocks[5].path(corpus.folder / "blocks").unlink()
    with pytest.raises(UserError, match=r"000005\.jsonl\.gz: the block is missing"):
        corpus.merge()


def test_only_newlines_end_lines(corpus: Corpus) -> None:
    corpus.write()
    strange = [f"a\x85b\u2028c\x0c{i}" for i in range(100)]
    write_lines(corpus.folder / "train.en", strange)
    corpus.merge()
    assert read_lines(corpus.folder / "out.en") == strange


def test_interpolation_takes_the_nearest_that_does_not_fail(tmp_path: Path) -> None:
    """Of four sentences: the second is nearer; the nearest is a loop, of equals the first; all fail; there is none."""
    hypotheses: list[tuple[tuple[int, ...], ...]] = [
        ((10, 11, 12), (5, 6, 7)),
        ((10, 11), (8, 8, 8), (9, 11)),
        ((8, 8, 8), (9, UNK)),
        (),
    ]
    references = ["w5 w6 w7", "w8 w8 w8 w11", "w9", "w4"]

    def common_words(hypotheses: Sequence[str], reference: str) -> list[float]:
        return [len(set(hypothesis.split()) & set(reference.split())) for hypothesis in hypotheses]

    scores = [(-0.5,) * len(nbest) for nbest in hypotheses]
    report = merge_by(interpolated(common_words), tmp_path, hypotheses, scores, references)
    assert read_lines(tmp_path / "out.de") == ["w5 w6 w7", "w10 w11", "w9", "w4"]
    assert report.failures == {"repetition": 1, "empty": 1}
    assert report.replaced == {2: "repetition", 3: "empty"}
    assert not report.weights


def test_all_that_do_not_fail_weighted_by_their_probabilities(tmp_path: Path) -> None:
    """Probabilities 0.3, 0.1 and, of a loop, 0.5; of a sentence that has a loop alone the reference stands there."""
    hypotheses: list[tuple[tuple[int, ...], ...]] = [((10, 11, 12), (8, 8, 8), (5,)), ((8, 8, 8),), ((9,),)]
    log_probs = [[math.log(0.3), math.log(0.5), math.log(0.1)], [-1.0], [-20.0]]
    lenpen = 1.7
    scores = [
        tuple(log_prob / (len(tokens) + 1) ** lenpen for log_prob, tokens in zip(own, nbest, strict=True))
        for own, nbest in zip(log_probs, hypotheses, strict=True)
    ]
    report = merge_by(weighted(lenpen), tmp_path, hypotheses, scores, ["w1", "w2", "w3"])
    assert read_lines(tmp_path / "out.en") == ["a", "a", "b", "c"]
    assert read_lines(tmp_path / "out.de") == ["w10 w11 w12", "w5", "w2", "w9"]
    assert list(report.weights) == pytest.approx([0.75, 0.25, 1.0, 1.0], rel=1e-6)
    assert (report.num_sentences, report.num_lines) == (3, 4)
    assert report.replaced == {1: "repetition"}


def test_failures_of_words_are_seen_beside_the_source(tmp_path: Path) -> None:
    """The sources are a, b, ...: words beyond three are too many, and an `a` again is a copy of the first."""
    hypotheses: list[tuple[tuple[int, ...], ...]] = [((10, 11, 12, 13), (5, 6)), ((10, 11, 12, 13),), ((9,),)]
    scores = [(-0.5,) * len(nbest) for nbest in hypotheses]
    report = merge_by(BY_BLEU, tmp_path, hypotheses, scores, ["w10 w11 w12 w13", "w1", "w2"])
    assert read_lines(tmp_path / "out.de") == ["w5 w6", "w1", "w9"]
    assert report.replaced == {1: "ratio"}
    report = merge_by(BY_BLEU, tmp_path, [((1,),), ((1,),)], [(-0.5,)] * 2, ["w1", "w2"], to_words=lambda _: "A")
    assert read_lines(tmp_path / "out.de") == ["w1", "A"]
    assert report.replaced == {0: "copied"}
    failures = Failures(scripts=["Greek"], script="drop")
    report = merge_by(BY_BLEU, tmp_path, [((7,),), ((8,),)], [(-0.5,)] * 2, ["w1", "w2"], failures=failures)
    assert report.dropped == {0: "script", 1: "script"}


BY_BLEU = interpolated(bleu_nearness("none"))


def merge_by(
    select: Selector,
    folder: Path,
    hypotheses: Sequence[tuple[tuple[int, ...], ...]],
    scores: Sequence[tuple[float, ...]],
    references: Sequence[str],
    *,
    to_words: Callable[[tuple[int, ...]], str] = words_of,
    failures: Failures = Failures(repetition_times=3, unk="drop"),  # noqa: B008
) -> MergeReport:
    """Sources a, b, ...; the text goes to out.en and out.de."""
    sources = [np.array([20 + i, EOS]) for i in range(len(hypotheses))]
    decoded = [
        Decoded(i, source_sha(sources[i]), nbest, own, (False,) * len(nbest))
        for i, (nbest, own) in enumerate(zip(hypotheses, scores, strict=True))
    ]
    (block,) = plan_blocks(len(sources), 10)
    write_block(folder, block, KEY, decoded)
    write_lines(folder / "train.en", list("abcdef")[: len(sources)])
    write_lines(folder / "train.de", list(references))
    return merge_blocks(
        [block],
        folder,
        KEY,
        sources=sources,
        text=TrainingText(folder / "train.en", folder / "train.de", None),
        to_words=to_words,
        settings=failures,
        select=select,
        out_source=folder / "out.en",
        out_target=folder / "out.de",
        out_tags=folder / "out.tags",
        out_nbest=None,
    )
