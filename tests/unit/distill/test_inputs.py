"""Tests of the text that is distilled: monolingual text, and sentences that occur more than once."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_input import refused, unharmed
from distilled_pipeline import (
    IMPORTED,
    IMPORTING,
    MADE,
    PREPARED,
    done,
    manifest,
    rejected,
    theirs,
    usable,
)
from numpy.typing import NDArray
from tiny_pipeline import (
    kdmt,
    make_pairs,
    read_lines,
    run_stages,
    settings,
    to_yaml,
    write_lines,
)

from kdmt.config import Context
from kdmt.corpus.indexed import IndexedDataset
from kdmt.corpus.prepared import PreparedCorpus
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.distill.inputs import Inputs
from kdmt.languages import POOLED, Direction

MONOLINGUAL = 30


def with_monolingual() -> list[str]:
    """Add monolingual text to the settings, with some lines that also occur in the training text; return its lines."""
    own = [source for source, _ in make_pairs(200, seed=9)]
    held_out = {line for split in ("valid", "test") for line in read_lines(Path(f"text/{split}.en"))}
    trained = read_lines(Path("text/train.en"))
    lines = list(dict.fromkeys(line for line in own if line not in held_out))[: MONOLINGUAL - 4] + trained[:4]
    write_lines(Path("text/mono.en"), lines)
    document = settings()
    document["prepare"] |= {"monolingual": [{"path": "text/mono.en"}], "clean": "none", "decontaminate": False}
    document["distill"]["monolingual"] = True
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    assert len(lines) == MONOLINGUAL
    return lines


def test_lines_of_all_text_are_opened_in_other_processes(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.en", ["a b", "c"])
    write_lines(tmp_path / "monolingual.en", ["d"])
    corpus = PreparedCorpus(tmp_path, Direction("en", "de"), (True, True))
    for monolingual, expected in ((False, ["a b", "c"]), (True, ["a b", "c", "d"])):
        open_lines = pickle.loads(pickle.dumps(Inputs(corpus, monolingual).opens_lines(code_points)))
        found = open_lines().sentences(np.arange(len(expected)))
        assert ["".join(map(chr, ids)) for ids in found] == expected


def code_points(lines: Sequence[str]) -> list[NDArray[np.integer]]:
    return [np.array([*map(ord, line)]) for line in lines]


def test_monolingual_text_must_be_prepared(pipeline: Path) -> None:
    assert pipeline
    message = refused("distill", "tiny.yaml", sets=("distill.monolingual=true",))
    assert message.endswith("'distill.monolingual' needs 'prepare.monolingual'")


@pytest.mark.usefixtures("finished")
def test_monolingual_lines_follow_those_of_the_training_text() -> None:
    lines = with_monolingual()
    run_stages("prepare", "teacher", "distill")
    trained = read_lines(PREPARED / "train.en")
    assert read_lines(PREPARED / "monolingual.en") == lines
    numbers = np.load(MADE / "sentences.npy").tolist()
    first: dict[str, int] = {}
    assert numbers == [first.setdefault(line, len(first)) for line in trained + lines]
    dropped = [index for index, _, what in rejected(MADE) if what == "dropped"]
    assert all(index >= len(trained) for index in dropped)  # lines of the training text have references
    replaced = [index for index, _, what in rejected(MADE) if what == "replaced by the reference"]
    assert all(index < len(trained) for index in replaced)
    kept = [line for index, line in enumerate(trained + lines) if index not in dropped]
    assert read_lines(MADE / "distilled.en") == kept
    facts = manifest()["facts"]
    assert facts["num_sentences"] == len(trained) + len(lines)
    assert facts["num_lines"] == len(kept) == len(IndexedDataset(MADE / "data-bin/train.en-de.de"))
    assert facts["num_compared"] == len(trained) - len(replaced)
    assert sum(facts["dropped"].values()) == len(dropped)
    best = {number: own[0][1] for number, own in usable().items()}
    by_source = dict(zip(read_lines(MADE / "distilled.en"), read_lines(MADE / "distilled.de"), strict=True))
    translated = [line for line in lines[:-4] if line in by_source]
    assert translated
    for line in translated:
        assert by_source[line] == best[first[line]]
    assert "distill: up to date" in done()
    assert kdmt("distill", "tiny.yaml", "--verify").code == 0


@pytest.mark.usefixtures("finished")
def test_imported_translations_of_monolingual_text() -> None:
    lines = with_monolingual()
    run_stages("prepare")
    count = len(read_lines(PREPARED / "train.en")) + len(lines)
    sets = (*IMPORTING, "students.distilled.data=raw")
    write_lines(Path("theirs.tsv"), theirs(count - 1))
    with unharmed("tiny/.imported.lock"):
        message = refused("distill", "tiny.yaml", sets=sets)
    assert message == f"theirs.tsv: no line has the index {count - 1} of {count}"
    write_lines(Path("theirs.tsv"), theirs(count))
    done(*sets)
    assert read_lines(IMPORTED / "distilled.en") == read_lines(PREPARED / "train.en") + lines
    assert read_lines(IMPORTED / "distilled.de")[-1] == theirs(count)[-1].partition("\t")[2].replace("  ", " ")
    assert manifest(IMPORTED)["facts"]["num_compared"] == count - len(lines)


@pytest.mark.usefixtures("pipeline")
def test_repeated_sentence_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line of the sentence gets its translation, or the line's own reference."""
    decoded: list[tuple[int, ...]] = []
    decode = TorchEngine.decode

    def watch(engine: TorchEngine, sources: Any, *rest: Any, **more: Any) -> Any:
        decoded.extend(tuple(source.tolist()) for source in sources)
        return decode(engine, sources, *rest, **more)

    lines = [read_lines(Path(f"text/train.{lang}")) for lang in ("en", "de")]
    order = [*range(80), *range(0, 80, 3), 5, 5, 80 - 1]
    write_lines(Path("text/train.en"), [lines[0][index] for index in order])
    write_lines(
        Path("text/train.de"), [f"{lines[1][index]} ok" if n > 79 else lines[1][index] for n, index in enumerate(order)]
    )
    unclean = ["prepare.clean=none", "prepare.decontaminate=false"]
    run_stages("prepare", "teacher", sets=unclean)
    monkeypatch.setattr(TorchEngine, "decode", watch)
    run_stages("distill", sets=unclean)
    assert Counter(Counter(decoded).values()) == {1: 80}
    assert np.load(MADE / "sentences.npy").tolist() == order
    references, best = read_lines(PREPARED / "train.de"), usable()
    expected = [best[number][0][1] if number in best else references[line] for line, number in enumerate(order)]
    differing = [line for line in range(len(order)) if read_lines(MADE / "distilled.de")[line] != expected[line]]
    assert all(line in {index for index, *_ in rejected(MADE)} for line in differing)  # failures of words
    assert read_lines(MADE / "distilled.en") == read_lines(PREPARED / "train.en")
    assert manifest()["facts"]["num_lines"] == len(order)


def test_lines_of_several_directions_have_the_ratio_of_their_direction(multilingual_text: Path) -> None:
    corpus = PreparedCorpus(multilingual_text, POOLED, (True, True))
    assert Inputs(corpus).typical_ratios() == corpus.ratios_of_directions()
    assert Inputs(corpus, split="valid").typical_ratios() == corpus.ratios_of_directions()


def test_the_training_text_has_the_context_of_its_sources(tmp_path: Path) -> None:
    corpus = PreparedCorpus(tmp_path, Direction("en", "de"), (True, True))
    (text,) = Inputs(corpus, context=Context(sentences=2)).texts()
    assert text.context == Context(sentences=2)
    assert Inputs(corpus).texts()[0].context is None
