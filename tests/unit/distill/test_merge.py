"""Tests of merging candidates into a training set, against a plain loop: alignment and failures of every line."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_parameters import some_of

import kdmt.distill.merge
from kdmt.config import Context, Failures
from kdmt.corpus.sentence_lengths import SLACK
from kdmt.distill.candidates import GivenScores, format_candidate
from kdmt.distill.failures import FAILURES
from kdmt.distill.merge import MergeReport, Outputs, TrainingText, merge_candidates
from kdmt.distill.selection import (
    ALL,
    BEST,
    HIGHEST_GIVEN,
    Candidate,
    Choice,
    Line,
    Selector,
    interpolated,
    weighted,
)
from kdmt.errors import UserError

ACTIONS = ("keep", "reference", "drop")
LENPEN = 0.7
TYPICAL_RATIO = 1.0
TOKEN_FAILURES = ("-", "-", "-", "too_long", "repetition", "unk", "empty")  # `-` (no failure) is the most frequent


def common_words(hypotheses: Sequence[str], reference: str) -> list[float]:
    return [len(set(hypothesis.split()) & set(reference.split())) for hypothesis in hypotheses]


def two_longest(candidates: Sequence[Candidate], line: Line) -> list[Choice]:
    order = sorted(range(len(candidates)), key=lambda place: -len(candidates[place].words))[:2]
    return [Choice(place, values=(len(candidates[place].words), len(line.source))) for place in order]


RULES: dict[str, Selector] = {
    "best": BEST,
    "nearest": interpolated(common_words),
    "given": HIGHEST_GIVEN,
    "weighted": weighted(LENPEN),
    "longest": Selector(ALL, two_longest, reason="long", columns=("letters", "letters of the source")),
}


@dataclass(frozen=True)
class Hypo:
    words: str
    score: float
    failure: str
    given: float

    @property
    def length(self) -> int:
        return len(self.words.split()) + 1


@dataclass(frozen=True)
class CorpusLine:
    text: int  # index of its text
    number: int  # number of its sentence
    source: str
    reference: str | None
    tag: str | None


@dataclass
class Corpus:
    """Texts, of which the last may be monolingual, and the hypotheses of each sentence."""

    lines: list[CorpusLine]
    nbest: list[list[Hypo]]

    def write(self, folder: Path, *, newline_at_end: bool = True) -> list[TrainingText]:
        texts = []
        for text in sorted({line.text for line in self.lines}):
            own = [line for line in self.lines if line.text == text]
            paths: list[Path | None] = []
            for name in ("source", "reference", "tag"):
                column = [getattr(line, name) for line in own]
                path = None if column[0] is None else folder / f"{name}{text}"
                paths.append(path)
                if path is not None:
                    data = "".join(f"{value}\n" for value in column)
                    path.write_bytes((data if newline_at_end or not column[-1] else data[:-1]).encode())
            source, target, tags = paths
            assert source is not None
            texts.append(TrainingText(source, target, tags))
        sizes = [0]
        with (folder / "nbest").open("wb") as file:
            for number, own_nbest in enumerate(self.nbest):
                data = b"".join(
                    format_candidate(number, each.score, each.length, ["-", *FAILURES].index(each.failure), each.words)
                    for each in own_nbest
                )
                sizes.append(file.write(data))
        np.save(folder / "nbest.npy", np.cumsum(sizes))
        np.save(folder / "scores.npy", np.array([[each.given] for own in self.nbest for each in own], dtype=float))
        return texts

    def merge(
        self, folder: Path, failures: Failures, rule: str, *, workers: int = 1, newline_at_end: bool = True
    ) -> MergeReport:
        texts = self.write(folder, newline_at_end=newline_at_end)
        counts = [len(own) for own in self.nbest]
        given = GivenScores(folder / "scores.npy", np.cumsum(counts) - counts) if rule == "given" else None
        return merge_candidates(
            texts,
            np.array([line.number for line in self.lines], dtype=np.int64),
            nbest=folder / "nbest",
            offsets=folder / "nbest.npy",
            settings=failures,
            select=RULES[rule],
            typical_ratio=TYPICAL_RATIO,
            given=given,
            out=outputs(folder),
            workers=workers,
        )


def outputs(folder: Path) -> Outputs:
    return Outputs(*(folder / f"out.{name}" for name in ("source", "target", "tags", "rejected", "choices")))


# --------------------------------------------------------------------------------------- reference implementation


@dataclass
class Expected:
    """Training set expected from a corpus according to the documentation."""

    source: list[str] = field(default_factory=list)
    target: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)
    choices: list[list[str]] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    of_teacher: list[int] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    replaced: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)

    def add(self, index: int, line: CorpusLine, targets: list[tuple[str, float]], *, of_teacher: bool) -> None:
        for words, weight in targets:
            self.source.append(line.source)
            self.target.append(words)
            self.tags.append(line.tag or "")
            self.weights.append(weight)
            self.indices.append(index)
            self.of_teacher.append(of_teacher)


def failure_of(hypo: Hypo, source: str, failures: Failures) -> str:
    if hypo.failure != "-":
        return hypo.failure
    if not hypo.words.split():
        return "empty"
    ours, theirs = len(hypo.words) + SLACK, len(source) + SLACK
    if not source or max(ours, theirs) > failures.max_ratio * min(ours, theirs):
        return "ratio"
    if hypo.words.casefold().split() == source.casefold().split():
        return "copied"
    return "-"


def choose(rule: str, usable: list[Hypo], line: CorpusLine) -> list[tuple[Hypo, float, str, list[float]]]:
    """Return each target with its weight, and the reason and the values in the record of choices."""
    if rule == "weighted":
        shares = [math.exp(each.score * each.length**LENPEN) for each in usable]
        shares = [share / sum(shares) for share in shares]
        return [(each, share, RULES[rule].reason, [share]) for each, share in zip(usable, shares, strict=True)]
    if rule == "longest":
        longest = sorted(usable, key=lambda each: -len(each.words))[:2]
        return [(each, 1.0, "long", [len(each.words), len(line.source)]) for each in longest]
    if rule == "given":
        values = [each.given for each in usable]
    elif rule == "nearest" and line.reference is not None:
        values = common_words([each.words for each in usable], line.reference)
    else:
        return [(usable[0], 1.0, "best hypothesis", [])]
    return [(usable[values.index(max(values))], 1.0, RULES[rule].reason, [max(values)])]


def walk(corpus: Corpus, failures: Failures, rule: str) -> Expected:
    out = Expected()
    for index, line in enumerate(corpus.lines):
        own = corpus.nbest[line.number][: 1 if rule == "best" else None]
        named = [(each, failure_of(each, line.source, failures)) for each in own]
        usable = [each for each, failure in named if failure == "-"]
        nothing = ["-"] * len(RULES[rule].columns)
        if usable:
            chosen = choose(rule, usable, line)
            out.add(index, line, [(each.words, weight) for each, weight, *_ in chosen], of_teacher=True)
            for rank, (each, _, reason, values) in enumerate(chosen, start=1):
                place = next(place for place, other in enumerate(own) if other is each)
                row = [index, rank, place, len(usable), reason, *([f"{value:.6g}" for value in values] or nothing)]
                out.choices.append([str(cell) for cell in row])
            continue
        failure = named[0][1] if named else "empty"
        out.failures[failure] += 1
        action = getattr(failures, failure)
        if action == "keep":
            out.add(index, line, [(own[0].words if own else "", 1.0)], of_teacher=True)
            out.rejected.append(f"{index}\t{failure}\tkept")
            out.choices.append([str(index), "1", "0" if own else "-", "0", f"{failure}: kept", *nothing])
        elif action == "reference" and line.reference is not None:
            out.add(index, line, [(line.reference, 1.0)], of_teacher=False)
            out.replaced[failure] += 1
            out.rejected.append(f"{index}\t{failure}\treplaced by the reference")
            out.choices.append([str(index), "1", "-", "0", f"{failure}: reference", *nothing])
        else:
            out.dropped[failure] += 1
            out.rejected.append(f"{index}\t{failure}\tdropped")
    return out


def lines_in(path: Path) -> list[str]:
    text = path.read_bytes().decode()
    assert not text or text.endswith("\n")
    return text.split("\n")[:-1]


def check(corpus: Corpus, folder: Path, report: MergeReport, expected: Expected, rule: str) -> None:
    files = outputs(folder)
    assert lines_in(files.source) == expected.source
    assert lines_in(files.target) == expected.target
    assert lines_in(files.rejected) == expected.rejected
    if rule == "best":
        assert not files.choices.exists()
    else:
        names, *rows = (line.split("\t") for line in lines_in(files.choices))
        assert names == ["line", "rank", "candidate", "usable", "reason", *RULES[rule].columns]
        assert rows == expected.choices
    if any(line.tag is not None for line in corpus.lines):
        assert lines_in(files.tags) == expected.tags
    else:
        assert not files.tags.exists()
    assert list(report.indices) == expected.indices
    assert list(report.of_teacher) == expected.of_teacher
    assert list(report.weights) == (pytest.approx(expected.weights, rel=1e-6) if rule == "weighted" else [])
    assert (report.failures, report.replaced, report.dropped) == (
        expected.failures,
        expected.replaced,
        expected.dropped,
    )
    assert (report.num_sentences, report.num_lines) == (len(corpus.lines), len(expected.source))


# ---------------------------------------------------------------------------------------------------- random corpora

WORDS = ("a", "B", "c\u2028", "é", "d\x85e", "😀f")


def make_corpus(seed: int, sizes: Sequence[int] = (14, 9), *, tags: bool = False, monolingual: bool = True) -> Corpus:
    """Return a random corpus: many sentences occur on several lines or in both texts, many hypotheses fail."""
    rng = random.Random(seed)

    def words(most: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(0, most)))

    sentences = [words(4) for _ in range(max(2, sum(sizes) // 2))]
    numbers: dict[int, int] = {}  # in the order of their first occurrence
    lines = []
    for text, size in enumerate(sizes):
        alone = monolingual and text == len(sizes) - 1
        for _ in range(size):
            drawn = rng.randrange(len(sentences))
            number = numbers.setdefault(drawn, len(numbers))
            reference = None if alone else words(4)
            tag = rng.choice(["", "<2>"]) if tags and not alone else None
            lines.append(CorpusLine(text, number, sentences[drawn], reference, tag))
    nbest: list[list[Hypo]] = []
    for drawn in numbers:
        own = []
        for _ in range(rng.choice([0, 1, 2, 3])):
            failure = rng.choice(TOKEN_FAILURES)
            text_of = "" if failure == "empty" else rng.choice([words(5), sentences[drawn].upper()])
            score, given = round(rng.uniform(-5, 0), 3), rng.choice([-1.0, 0.5, 2.0])
            own.append(Hypo(text_of, score, failure, given))
        nbest.append(own)
    return Corpus(lines, nbest)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(list(RULES)), st.data())
def test_merge_equals_reference_implementation(
    tmp_path_factory: pytest.TempPathFactory, seed: int, rule: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "merge"
    folder.mkdir(exist_ok=True)
    sizes = data.draw(st.sampled_from([(14, 9), (20,), (1, 1, 1), (7, 30)]))
    corpus = make_corpus(seed, sizes, tags=data.draw(st.booleans()), monolingual=data.draw(st.booleans()))
    actions = {name: data.draw(st.sampled_from(ACTIONS)) for name in FAILURES}
    failures = Failures.model_validate(actions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kdmt.distill.merge, "_CHUNK_LINES", data.draw(st.sampled_from([1, 2, 7, 10_000])))
        patch.setattr(kdmt.distill.merge, "_CHUNK_BYTES", data.draw(st.sampled_from([1, 90, 10_000])))
        report = corpus.merge(folder, failures, rule, newline_at_end=data.draw(st.booleans()))
    check(corpus, folder, report, walk(corpus, failures, rule), rule)


@pytest.mark.parametrize("rule", some_of(RULES, 2))
def test_files_do_not_depend_on_number_of_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    monkeypatch.setattr(kdmt.distill.merge, "_CHUNK_LINES", 5)
    corpus, failures = make_corpus(3, (60, 41), tags=True), Failures(unk="drop", ratio="keep")
    made: list[Any] = []
    for workers in (1, 2):
        report = corpus.merge(tmp_path, failures, rule, workers=workers)
        made.append(([path.read_bytes() for path in outputs(tmp_path).paths() if path.exists()], report))
    assert made[0] == made[1]
    check(corpus, tmp_path, made[1][1], walk(corpus, failures, rule), rule)


# ------------------------------------------------------------------------------------------------------- small cases


def hypo(words: str, failure: str = "-", score: float = -1.0, given: float = 0.0) -> Hypo:
    return Hypo(words, score, failure, given)


def test_each_line_of_a_repeated_sentence_uses_its_own_reference(tmp_path: Path) -> None:
    lines = [CorpusLine(0, 0, "s", "r0", None), CorpusLine(0, 1, "t", "r1", None), CorpusLine(0, 0, "s", "r2", None)]
    corpus = Corpus(lines, [[hypo("x r0"), hypo("y r2")], [hypo("z", "unk")]])
    report = corpus.merge(tmp_path, Failures(unk="reference"), "nearest")
    assert lines_in(tmp_path / "out.target") == ["x r0", "r1", "y r2"]
    assert lines_in(tmp_path / "out.rejected") == ["1\tunk\treplaced by the reference"]
    assert bytes(report.of_teacher) == b"\1\0\1"
    lines = [CorpusLine(0, 0, "s", "r0", None), CorpusLine(0, 0, "s", "r1", None)]
    Corpus(lines, [[hypo("", "empty")]]).merge(tmp_path, Failures(empty="reference"), "best")
    assert lines_in(tmp_path / "out.target") == ["r0", "r1"]


def test_failed_monolingual_lines_are_dropped(tmp_path: Path) -> None:
    lines = [CorpusLine(0, 0, "s", "r0", "<2>"), CorpusLine(1, 0, "s", None, None), CorpusLine(1, 1, "t", None, None)]
    corpus = Corpus(lines, [[hypo("x", "unk")], [hypo("y"), hypo("t u")]])
    report = corpus.merge(tmp_path, Failures(unk="reference"), "nearest")
    assert lines_in(tmp_path / "out.source") == ["s", "t"]
    assert lines_in(tmp_path / "out.target") == ["r0", "y"]  # without a reference, "nearest" takes the best hypothesis
    assert lines_in(tmp_path / "out.tags") == ["<2>", ""]
    assert lines_in(tmp_path / "out.rejected") == ["0\tunk\treplaced by the reference", "1\tunk\tdropped"]
    assert (report.replaced, report.dropped) == ({"unk": 1}, {"unk": 1})


def test_failures_of_words_depend_on_the_source_of_each_line(tmp_path: Path) -> None:
    """Two sources with the same ids are one sentence, but only one of them equals the hypothesis."""
    lines = [CorpusLine(0, 0, "a b", "r0", None), CorpusLine(0, 0, "a ☃", "r1", None)]
    report = Corpus(lines, [[hypo("A b")]]).merge(tmp_path, Failures(copied="reference"), "best")
    assert lines_in(tmp_path / "out.target") == ["r0", "A b"]
    assert report.failures == {"copied": 1}
    corpus = Corpus([CorpusLine(0, 0, "s", "r0", None), CorpusLine(0, 1, "t", "r1", None)], [[hypo("ж")], [hypo("x")]])
    report = corpus.merge(tmp_path, Failures(scripts=["Latin"], script="drop"), "best")
    assert lines_in(tmp_path / "out.target") == ["x"]
    assert report.dropped == {"script": 1}


def test_scripts_of_a_language_are_those_of_the_lines_whose_direction_has_it(tmp_path: Path) -> None:
    lines = [CorpusLine(0, number, "s", "r", tag) for number, tag in enumerate(["en-ru", "en-de", "en-ru", "ru-fr"])]
    corpus = Corpus(lines, [[hypo("x")], [hypo("ж")], [hypo("ж")], [hypo("ж")]])
    scripts = {"ru": ["Cyrillic"], "de": ["Latin"]}
    report = corpus.merge(tmp_path, Failures.model_validate({"scripts": scripts, "script": "drop"}), "best")
    assert lines_in(tmp_path / "out.target") == ["ж", "ж"]
    assert report.dropped == {"script": 2}


def test_different_numbers_of_lines_are_refused(tmp_path: Path) -> None:
    corpus = make_corpus(1)
    corpus.write(tmp_path)
    texts = [TrainingText(tmp_path / "source0", tmp_path / "reference0"), TrainingText(tmp_path / "source1")]
    common: dict[str, Any] = {
        "nbest": tmp_path / "nbest",
        "offsets": tmp_path / "nbest.npy",
        "settings": Failures(),
        "select": BEST,
        "typical_ratio": 1.0,
        "out": outputs(tmp_path),
        "workers": 1,
    }
    numbers = np.array([line.number for line in corpus.lines])
    with pytest.raises(UserError, match=r"source0, .*source1: 23 lines of text for 22 sentences"):
        merge_candidates(texts, numbers[:-1], **common)
    assert not (tmp_path / "out.source").exists()
    with (tmp_path / "reference0").open("a") as file:
        file.write("more\n")
    with pytest.raises(UserError, match=r"source0, .*reference0: files of different length"):
        merge_candidates(texts, numbers, **common)


@pytest.mark.parametrize("workers", [1, 2])
def test_lengths_are_compared_with_the_typical_ratio_of_the_direction(tmp_path: Path, workers: int) -> None:
    """Lines of one direction are usually three times as long as their sources, those of the other a third."""
    short, long = "x" * 40, "y" * 120
    lines = [("en-zh", long, short), ("zh-en", short, long), ("zh-en", short, short[:9]), ("en-zh", short[:9], long)]
    (tmp_path / "source").write_text("".join(f"{source}\n" for _, source, _ in lines))
    (tmp_path / "target").write_text("reference\n" * len(lines))
    (tmp_path / "tags").write_text("".join(f"{tag}\n" for tag, _, _ in lines))
    data = [format_candidate(number, -1.0, 3, 0, words) for number, (_, _, words) in enumerate(lines)]
    (tmp_path / "nbest").write_bytes(b"".join(data))
    np.save(tmp_path / "nbest.npy", np.cumsum([0, *map(len, data)]))
    report = merge_candidates(
        [TrainingText(tmp_path / "source", tmp_path / "target", tmp_path / "tags")],
        np.arange(len(lines)),
        nbest=tmp_path / "nbest",
        offsets=tmp_path / "nbest.npy",
        settings=Failures(),
        select=BEST,
        typical_ratio={"en-zh": 1 / 3, "zh-en": 3.0},
        out=outputs(tmp_path),
        workers=workers,
    )
    assert report.replaced == {"ratio": 2}
    assert (tmp_path / "out.target").read_text().split() == [short, long, "reference", "reference"]


def test_hypotheses_are_compared_with_the_sentence_without_its_context(tmp_path: Path) -> None:
    """Without its context, the second source is as long as its hypothesis, and the third one is a copy."""
    sources = ["<sep> abc def", "x" * 200 + " <sep> abc def", "abc <sep> def ghi"]
    (tmp_path / "source").write_text("".join(f"{line}\n" for line in sources))
    (tmp_path / "target").write_text("reference\n" * len(sources))
    words = ["uvw xyz", "uvw xyz", "def ghi"]
    data = [format_candidate(number, -1.0, 3, 0, line) for number, line in enumerate(words)]
    (tmp_path / "nbest").write_bytes(b"".join(data))
    np.save(tmp_path / "nbest.npy", np.cumsum([0, *map(len, data)]))
    report = merge_candidates(
        [TrainingText(tmp_path / "source", tmp_path / "target", context=Context())],
        np.arange(len(sources)),
        nbest=tmp_path / "nbest",
        offsets=tmp_path / "nbest.npy",
        settings=Failures(),
        select=BEST,
        typical_ratio=1.0,
        out=outputs(tmp_path),
        workers=1,
    )
    assert report.replaced == {"copied": 1}
    assert (tmp_path / "out.source").read_text().splitlines() == sources
    assert (tmp_path / "out.target").read_text().splitlines() == [*words[:2], "reference"]


def test_lines_removed_from_a_report_are_counted() -> None:
    report = MergeReport(num_sentences=5, num_lines=4)
    report.indices.extend([0, 1, 1, 4])
    report.weights.extend([1.0, 0.25, 0.75, 1.0])
    report.of_teacher.extend([1, 1, 1, 0])
    report.keep(np.array([True, False, True, False]), failure="reverse")
    assert (report.num_sentences, report.num_lines) == (5, 2)
    assert list(report.indices) == [0, 1]
    assert list(report.weights) == [1.0, 0.75]
    assert list(report.of_teacher) == [1, 1]
    assert report.failures == report.dropped == {"reverse": 2}
