"""Tests of the comparison of distilled text with the references, against sacreBLEU and `diagnose`."""

from __future__ import annotations

from array import array
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
from tiny_pipeline import write_lines

from kdmt.corpus.indexed import IndexedWriter
from kdmt.corpus.prepared import PreparedCorpus
from kdmt.distill import comparison
from kdmt.distill.comparison import Comparison, ComparisonFacts
from kdmt.distill.inputs import Inputs
from kdmt.distill.merge import MergeReport
from kdmt.languages import Direction
from kdmt.score.diagnostics import diagnose

SOURCES = ["a b c", "b c d", "c d e", "d e f"]
REFERENCES = ["A B C", "B C D", "C D E", "D E F"]
DISTILLED = ["A B C", "C B D", "X", "D E G"]


def compare(
    folder: Path,
    distilled: list[str] = DISTILLED,
    *,
    of_teacher: list[int] | None = None,
    indices: list[int] | None = None,
    references: list[str] = REFERENCES,
    spaced: tuple[bool, bool] = (True, True),
    remove_bpe: str | None = None,
    threads: bool = False,
) -> ComparisonFacts | None:
    """Compare the distilled text of the lines `indices` of the training text with the references."""
    corpus = PreparedCorpus(folder, Direction("en", "de"), spaced)
    write_lines(corpus.text("train", "de"), references)
    corpus.data_bin.mkdir()
    with IndexedWriter(corpus.prefix("train", "en"), 10) as writer:
        for _ in references:
            writer.add(np.array([5, 2]))
    indices = list(range(len(distilled))) if indices is None else indices
    write_lines(folder / "sources", [SOURCES[index] for index in indices])
    write_lines(folder / "distilled", distilled)
    report = MergeReport(indices=array("q", indices), of_teacher=bytearray(of_teacher or [1] * len(distilled)))
    with ThreadPoolExecutor(1) as pool:
        begun = Comparison.begin(
            report,
            sources=folder / "sources",
            distilled=folder / "distilled",
            inputs=Inputs(corpus),
            tokenize="none",
            remove_bpe=remove_bpe,
            helper=pool if threads else None,
        )
        return None if begun is None else begun.facts()


@pytest.mark.parametrize("threads", [False, True])
def test_figures_equal_sacrebleu_and_diagnose(tmp_path: Path, threads: bool) -> None:
    facts = compare(tmp_path, threads=threads)
    assert facts is not None
    expected = sacrebleu.corpus_bleu(DISTILLED, [REFERENCES], tokenize="none", force=True).score
    assert facts.as_dict()["bleu_against_reference"] == pytest.approx(expected)
    assert facts.as_dict()["diagnostics"] == asdict(diagnose(SOURCES, REFERENCES, DISTILLED))
    assert facts.num_compared == 4
    assert f"BLEU {expected:.2f} (" in facts.explain()


def test_lines_replaced_by_the_reference_are_not_compared(tmp_path: Path) -> None:
    facts = compare(tmp_path, ["A B C", "B C D", "C D E", "no"], of_teacher=[0, 1, 1, 1], indices=[0, 1, 2, 3])
    assert facts is not None
    assert facts.diagnostics == diagnose(SOURCES[1:], REFERENCES[1:], ["B C D", "C D E", "no"])


def test_dropped_lines_do_not_shift_the_references(tmp_path: Path) -> None:
    facts = compare(tmp_path, ["A B C", "D E F"], indices=[0, 3])
    assert facts is not None
    assert facts.diagnostics.identical_fraction == 1.0


def test_monolingual_lines_are_not_compared(tmp_path: Path) -> None:
    facts = compare(tmp_path, ["A B C", "x", "y"], indices=[0, 2, 3], references=REFERENCES[:2])
    assert facts is not None
    assert facts.num_compared == 1


@pytest.mark.parametrize("distilled", [[], ["", " "]])
def test_without_words_there_is_nothing_to_compare(tmp_path: Path, distilled: list[str]) -> None:
    assert compare(tmp_path, distilled) is None


def test_a_large_corpus_is_sampled_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "MAX_SENTENCES", 2)
    facts = compare(tmp_path, ["A B C", "no", "C D E", "no"])
    assert facts is not None
    assert (facts.num_compared, facts.diagnostics.identical_fraction) == (2, 1.0)


def test_text_without_spaces_is_compared_by_characters(tmp_path: Path) -> None:
    facts = compare(tmp_path, ["AB"], references=["AC"], spaced=(True, False))
    assert facts is not None
    assert facts.diagnostics == diagnose(["a b c"], ["A C"], ["A B"])


def test_subwords_in_the_text_are_joined_for_bleu(tmp_path: Path) -> None:
    facts = compare(tmp_path, ["a@@ b c d e"], references=["ab c d e"], remove_bpe="subword_nmt")
    assert facts is not None
    assert facts.against_reference.value == pytest.approx(100.0)
