"""Stages that align training sets, and models that learn the links."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import tiny_pipeline
from tiny_pipeline import read_lines, run_stages, write_lines
from training_runs import RAW, TEACHER, TINY, end_before_the_manifest, metrics, results

from kdmt.config import Pipeline
from kdmt.corpus.batching import ParallelData, open_split
from kdmt.corpus.codec import TextCodec
from kdmt.errors import UserError
from kdmt.languages import Direction
from kdmt.stages.alignments_work import given_links
from kdmt.stages.pipeline import Stages, build_stages
from kdmt.stages.workspace import Workspace

OF_STUDENT = "students.raw.train.guided_alignment"


def stages_of(**changes: Any) -> Stages:
    document = tiny_pipeline.settings()
    document["teacher"]["train"]["guided_alignment"] = changes.pop("teacher", None)
    document["students"]["distilled"] |= changes.pop("distilled", {})
    document["students"]["distilled"]["train"]["guided_alignment"] = changes.pop("guided", None)
    return build_stages(Workspace(Pipeline.model_validate(document), Path("runs")))


def test_sets_of_models_with_guided_alignment_are_aligned() -> None:
    none = stages_of()
    assert [stage.name for stage in none.groups["prepare"]] == ["prepare"]
    found = stages_of(teacher={}, distilled={"data": "mixed"}, guided={})
    assert [stage.name for stage in found.groups["prepare"]] == ["prepare", "alignment of raw"]
    assert [stage.name for stage in found.groups["distill"]] == ["distill", "alignment of distilled"]
    (teacher,) = found.groups["teacher"]
    assert [stage.name for stage in teacher.upstream] == ["prepare", "alignment of raw"]
    (student,) = found.students["distilled"][1]
    assert [stage.name for stage in student.upstream][-2:] == ["alignment of raw", "alignment of distilled"]


def test_files_of_links_have_folders_of_their_own() -> None:
    found = stages_of(teacher={"file": "one"}, distilled={"data": "raw"}, guided={"file": "two"})
    folders = [stage.folder.name for stage in found.groups["prepare"][1:]]
    assert len(set(folders)) == 2
    assert all(name.startswith("raw-") for name in folders)
    with pytest.raises(UserError, match=r"students\.distilled\.train\.guided_alignment\.file' has the links of one"):
        stages_of(distilled={"data": "mixed"}, guided={"file": "two"})


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"teacher": {"file": "one"}}, "teacher.train.guided_alignment.unit"),
        (
            {"distilled": {"data": "raw", "stages": [{}, {"guided_alignment": {"file": "one"}}]}},
            r"students\.distilled\.stages\.1\.guided_alignment\.unit",
        ),
    ],
)
def test_words_need_marks_of_subwords(changes: dict[str, Any], path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    document = tiny_pipeline.settings()
    document["prepare"]["tokenizer"] = {"type": "huggingface", "source_path": "x"}
    monkeypatch.setattr(tiny_pipeline, "settings", lambda: document)
    with pytest.raises(ValueError, match=f"'{path}': the words of the tokens of 'prepare.tokenizer.type: huggingface'"):
        stages_of(**changes)


def test_tag_before_a_source_is_not_a_word(tmp_path: Path) -> None:
    write_lines(tmp_path / "links", ["0-0 1-1", "0-0"])
    symbols = ["<bt>", "▁un", "likely", "▁x", "</s>"]
    dictionary = SimpleNamespace(symbols=symbols)
    codec = cast(TextCodec, SimpleNamespace(src_dictionary=dictionary, tgt_dictionary=dictionary))
    pairs = [(np.array([0, 1, 2, 3, 4]), np.array([1, 3, 4])), (np.array([3, 4]), np.array([3, 4]))]
    found = given_links(tmp_path / "links", cast(ParallelData, pairs), codec, (["<bt>"], []))
    assert [links.tolist() for links in found] == [[[1, 0], [2, 0], [3, 1]], [[0, 0]]]


def test_token_that_the_encoder_does_not_read_has_no_links(tmp_path: Path) -> None:
    write_lines(tmp_path / "links", ["1-0 2-1", "1-0 0-1"])
    pairs = cast(ParallelData, [(np.array([9, 4, 5, 2]), np.array([6, 7, 2]))] * 2)
    assert sorted([*given_links(tmp_path / "links", pairs, None)][1].tolist()) == [[0, 1], [1, 0]]
    found = given_links(tmp_path / "links", pairs, None, takes_first_token=True)
    assert next(found).tolist() == [[1, 0], [2, 1]]
    with pytest.raises(UserError, match=r"links:2: a link from source token 0, the language token of the decoder"):
        next(found)


def links_of(folder: str = "raw") -> list[list[tuple[int, ...]]]:
    lines = read_lines(TINY / "alignments" / folder / "links")
    return [[tuple(map(int, link.split("-"))) for link in line.split()] for line in lines]


@pytest.mark.usefixtures("finished")
def test_a_student_learns_the_alignment_and_resumes_exactly() -> None:
    sets = (f"{OF_STUDENT}={{weight: 2.0}}", "students.raw.train.max_updates=12")
    run_stages("prepare", "student", sets=sets)
    pairs = open_split(TINY / "prepare/data-bin", "train", Direction("en", "de"))
    links = links_of()
    assert len(links) == len(pairs)
    for (source, target), own in zip((pairs[index] for index in range(len(pairs))), links, strict=True):
        assert target is not None
        assert all(s < len(source) - 1 and t < len(target) - 1 for s, t in own)
    figures = [line["alignment"] for line in metrics(RAW, "train")]
    assert all(map(math.isfinite, figures))
    assert figures[-1] < figures[0]
    straight = results(RAW)
    end_before_the_manifest(RAW)
    for path in [*RAW.glob("checkpoint_1[0-9]"), RAW / "average", RAW / "average_best"]:
        shutil.rmtree(path)
    run_stages("student", sets=sets)
    assert results(RAW) == straight
    run_stages("prepare", "student", sets=(f"{OF_STUDENT}.weight=1.0", *sets[1:]))
    assert results(RAW) != straight


@pytest.mark.usefixtures("pipeline")
def test_tags_of_corpora_have_no_links() -> None:
    document = tiny_pipeline.settings()
    (corpus,) = document["prepare"]["train"]
    document["prepare"] |= {"train": [corpus, corpus | {"tag": "<2>"}], "clean": "none", "decontaminate": False}
    document["students"]["raw"]["train"] = document["students"]["raw"]["train"] | {"guided_alignment": {}}
    Path("tiny.yaml").write_text(tiny_pipeline.to_yaml(document), encoding="utf-8")
    run_stages("prepare")
    links = links_of()
    # the second corpus is the first one with a tag
    plain, tagged = links[: len(links) // 2], links[len(links) // 2 :]
    assert [[(source + 1, target) for source, target in own] for own in plain] == tagged
    path = TINY / "alignments/raw/manifest.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["settings"].pop("tags") == ["<2>"]
    path.write_text(json.dumps(record), encoding="utf-8")
    (result,) = run_stages("prepare")
    assert "an earlier version linked them as words" in result.err


@pytest.mark.usefixtures("finished")
def test_the_teacher_learns_the_links_of_a_file_of_words() -> None:
    sides = [read_lines(TINY / f"prepare/train.{lang}") for lang in ("en", "de")]
    lines = [
        " ".join(f"{place}-{place}" for place in range(min(len(source.split()), len(target.split()))))
        for source, target in zip(*sides, strict=True)
    ]
    write_lines(Path("links.txt"), lines)
    sets = (
        "teacher.train.guided_alignment={file: links.txt}",
        "teacher.train.max_updates=3",
        "teacher.train.log_interval_updates=1",
    )
    run_stages("prepare", "teacher", sets=sets)
    (folder,) = (path.parent for path in (TINY / "alignments").glob("*/links"))
    pairs = open_split(TINY / "prepare/data-bin", "train", Direction("en", "de"))
    symbols = [
        ["<s>", "<pad>", "</s>", "<unk>", *(line.split()[0] for line in read_lines(TINY / f"prepare/dict.{lang}.txt"))]
        for lang in ("en", "de")
    ]
    for index, own in enumerate(links_of(folder.name)):
        words = [
            np.cumsum([symbols[side][token].startswith("▁") for token in pairs[index][side][:-1]]) for side in range(2)
        ]
        assert all(words[0][s] == words[1][t] for s, t in own)
        assert len(own) >= min(len(sides[0][index].split()), len(sides[1][index].split()))
    assert math.isfinite(metrics(TEACHER, "train")[-1]["alignment"])


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (lambda count: ["0-0"] * (count - 1), "there is no such line"),
        (lambda count: ["0-0"] * (count + 1), "more lines than the"),
        (lambda count: ["0-0", "0-99", *["0-0"] * (count - 2)], "links.txt:2: the target has no word 99"),
        (lambda count: ["0-0", "x", *["0-0"] * (count - 2)], "links.txt:2: 'x' is no link"),
    ],
)
def test_file_that_does_not_fit_is_refused(lines: Any, message: str) -> None:
    write_lines(Path("links.txt"), lines(len(read_lines(TINY / "prepare/train.en"))))
    done = tiny_pipeline.kdmt("prepare", "tiny.yaml", "--set", "teacher.train.guided_alignment={file: links.txt}")
    assert done.code == 2
    assert message in done.err.replace("\n", " ")
