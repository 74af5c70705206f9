"""Settings of training, distillation and scoring with several directions, in a pipeline that runs completely."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny_directions
from tiny_directions import DIRECTIONS, SIZES, ZERO_SHOT
from tiny_pipeline import kdmt as run_kdmt
from tiny_pipeline import read_lines, run_stages, to_yaml, working_in, write_lines

import kdmt
from kdmt.config import DistillAugment
from kdmt.corpus.alignment import spread
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.indexed import IndexedDataset
from kdmt.corpus.prepared import PreparedCorpus
from kdmt.corpus.word_links import LinkFile, parse_links
from kdmt.distill.inputs import Inputs
from kdmt.distill.noised import NOISED, write_noised_text
from kdmt.languages import POOLED
from kdmt.models.checkpoint_folder import resolve_checkpoint
from kdmt.score.contrastive import ContrastivePair

ROOT = Path("runs/tiny")
NUM_SAMPLED = 6  # training sentences of the diagnostics
PROGRAM = """
import json, sys
print(json.dumps({"scorer": "size", "signature": "size|v:1", "licence": ""}), flush=True)
for line in sys.stdin:
    if line.strip():
        each = json.loads(line)
        print(json.dumps({"id": each["id"], "score": len(each["source"])}), flush=True)
"""
MORE, OTHER = ["ba da ga be de ge bi", "ge di ba ge di ba bi"], ["di di ga di di ga be"]  # English lines
STAGES = ("prepare", "teacher", "distill", "student", "score")


@pytest.fixture(scope="module", autouse=True)
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run a pipeline with these settings, and work in its folder."""
    folder = tmp_path_factory.mktemp("several")
    document = tiny_directions.settings()
    del document["students"]["raw"]
    document["teacher"]["train"] |= {"guided_alignment": {"weight": 0.1}}
    document["students"]["distilled"]["augment"] = {"merged": 0.5}
    document["distill"] |= {
        "monolingual": True,
        "failures": dict.fromkeys(("empty", "too_long", "repetition", "ratio", "copied"), "keep"),
    }
    document["prepare"]["monolingual"] = [
        {"path": "text/more.en", "direction": "en-fr"},
        {"path": "text/more.fr", "direction": "fr-en"},
        {"path": "text/other.en", "direction": "en-fr"},
    ]
    student = document["students"]["distilled"]
    document["students"] |= {
        "imported": student | {"data": "imported", "augment": None},
        "one_pass": student | {"augment": None, "nat": {"family": "ctc"}},
    }
    document["students"]["selected"] = document["students"]["one_pass"] | {
        "selective": {"evaluator": f"{ROOT}/students/one_pass/seed_1/last", "distilled": [[0, 0.5]]}
    }
    document["students"]["distilled"] = student | {"train": student["train"] | {"best_metric": "size"}}
    document["distill"] |= {"imported": "theirs.tsv", "imported_sources": True}
    document["scorers"] = {"size": {"command": [sys.executable, "-I", "-S", "size.py"], "range": [0, 1000]}}
    document["score"]["scorers"] = ["size"]
    document["score"]["variants"] = {"joined": ["merged"]}
    document["score"]["diagnostics"] = {"train_sentences": NUM_SAMPLED}
    english = tiny_directions.write_pipeline(folder, document)
    tiny_directions.write_split(folder, "more", [*MORE, english["test"][0]])
    tiny_directions.write_split(folder, "other", OTHER)
    (folder / "size.py").write_text(PROGRAM)
    document = json.loads(json.dumps(document))  # no dictionary twice, because YAML would write it as an alias
    (folder / "tiny.yaml").write_text(to_yaml(document))
    with working_in(folder):
        run_stages("prepare")
        texts = [read_lines(ROOT / f"prepare/{name}.src") for name in ("train", "monolingual")]
        write_lines(
            Path("theirs.tsv"),
            [f"{index}\t{line}\tthey {line}" for index, line in enumerate(itertools.chain(*texts))],
        )
        run_stages(*STAGES[1:])
        yield folder


def test_links_are_those_of_each_direction_and_lead_to_no_token_of_a_language() -> None:
    links, tags = LinkFile(ROOT / "alignments/raw/links"), read_lines(ROOT / "prepare/train.tags")
    codec = TextCodec.load(ROOT / "prepare")
    sources, targets = (IndexedDataset(ROOT / f"prepare/data-bin/train.src-tgt.{side}") for side in ("src", "tgt"))
    (of_languages, _), found = codec.language_ids, 0
    for index in range(len(tags)):
        for source, target in parse_links(links.line(index), "links").tolist():
            assert int(sources[index][source]) not in of_languages
            assert target < len(targets[index]) - 1
            found += 1
    assert found > 2 * len(tags)
    assert len(tags) == len(DIRECTIONS) * SIZES["train"]


def test_monolingual_text_is_translated_in_its_direction() -> None:
    prepare = ROOT / "prepare"
    names = read_lines(prepare / "monolingual.tags")
    lines = read_lines(prepare / "monolingual.src")
    french = [tiny_directions.translate(line, "fr") for line in MORE]
    # the sentence of the test set is dropped in both languages
    assert list(zip(names, lines, strict=True)) == [
        *(("en-fr", line) for line in [*MORE, *OTHER]),
        *(("fr-en", line) for line in french),
    ]
    codec = TextCodec.load(prepare)
    encoded = IndexedDataset(prepare / "data-bin/monolingual.src-tgt.src")
    tokens = [codec.src_dictionary.symbols[encoded[index][0]] for index in range(len(names))]
    assert tokens == ["<2fr>"] * 3 + ["<2en>"] * 2
    distilled = [read_lines(ROOT / f"distill/distilled.{end}") for end in ("tags", "src")]
    pairs = list(zip(*distilled, strict=True))
    assert set(pairs) >= set(zip(names, lines, strict=True))
    report = json.loads((prepare / "manifest.json").read_text())["facts"]["directions"]
    assert {
        name: found.get("monolingual", {}).get("dropped", {}).get("held_out") for name, found in report.items()
    } == {
        "en-de": None,
        "en-fr": 1,
        "fr-en": 1,
    }
    page = (prepare / "report.html").read_text()
    assert "monolingual.2 (en-fr)" in page
    assert "fr-en: monolingual.1 text/more.fr" in page


def test_variants_have_a_row_in_each_direction_and_references_in_its_language() -> None:
    rows = json.loads((ROOT / "scores.json").read_text())
    names = {(row["test_set"], row["direction"]) for row in rows}
    expected = {(f"test.{name}{end}", name) for name in (*DIRECTIONS, ZERO_SHOT) for end in ("", ".joined")}
    assert names == expected
    averages = json.loads((ROOT / "score/averages.json").read_text())
    assert {row["test_set"] for row in averages} == {"test", "test.joined"}
    size = {row["test_set"]: row["scores"]["size"]["value"] for row in rows if row["system"] == "teacher"}
    for row in averages:
        if (row["system"], row["group"]) == ("teacher", "all"):  # an external score has an average too
            end = row["test_set"].removeprefix("test")
            own = [size[f"test.{name}{end}"] for name in DIRECTIONS]
            assert row["scores"]["size"] == pytest.approx(sum(own) / len(own))
    assert "test.joined: BLEU" in (ROOT / "report.html").read_text()


def test_imported_translations_keep_the_directions_of_their_lines() -> None:
    names, sources, targets = (read_lines(ROOT / f"imported/distilled.{end}") for end in ("tags", "src", "tgt"))
    assert names == [*read_lines(ROOT / "prepare/train.tags"), *read_lines(ROOT / "prepare/monolingual.tags")]
    assert targets == [f"they {line}" for line in sources]
    codec = TextCodec.load(ROOT / "prepare")
    encoded = IndexedDataset(ROOT / "imported/data-bin/train.src-tgt.src")
    first = {codec.src_dictionary.symbols[encoded[index][0]] for index, name in enumerate(names) if name == "fr-en"}
    assert first == {"<2en>"}


def test_selective_distillation_compares_lines_of_the_same_direction() -> None:
    distances = np.load(ROOT / "students/selected/seed_1/selective/000000.npy")
    num_references = len(DIRECTIONS) * SIZES["train"]
    assert len(distances) == len(read_lines(ROOT / "distill/distilled.src"))
    assert np.isfinite(distances[:num_references]).all()
    assert np.isinf(distances[num_references:]).all()  # monolingual lines have no reference


def test_an_external_scorer_chooses_the_checkpoint() -> None:
    run = ROOT / "students/distilled/seed_1"
    records = [json.loads(line) for line in read_lines(run / "metrics.jsonl")]
    found = [record["size"] for record in records if record["kind"] == "valid"]
    sources = read_lines(ROOT / "prepare/valid.raw.src")
    assert found == pytest.approx([sum(map(len, sources)) / len(sources)] * len(found), abs=1e-3)
    assert found
    assert json.loads((run / "chosen.json").read_text())["metric"] == "size"


def test_noise_for_the_teacher_keeps_the_directions(tmp_path: Path) -> None:
    prepare = ROOT / "prepare"
    inputs = Inputs(PreparedCorpus(prepare, POOLED, (True, True)), monolingual=True, noised=tmp_path / NOISED)
    write_noised_text(inputs, DistillAugment(merged=1.0))
    codec = TextCodec.load(prepare)
    for split, prefix in zip(("train", "monolingual"), inputs.source_prefixes(), strict=True):
        names = read_lines(prepare / f"{split}.tags")
        old, new = (read_lines(folder / f"{split}.src") for folder in (prepare, tmp_path / NOISED))
        for index, (name, line) in enumerate(zip(names, old, strict=True)):
            has_next = index + 1 < len(names) and names[index + 1] == name  # of the same direction
            assert new[index] == (f"{line} {old[index + 1]}" if has_next else line)
        encoded = IndexedDataset(prefix)
        expected = [f"<2{name.split('-')[1]}>" for name in names]
        assert [codec.src_dictionary.symbols[encoded[index][0]] for index in range(len(names))] == expected


def test_the_worst_pairs_of_each_direction_are_dropped(finished: Path, tmp_path: Path) -> None:
    before = Counter(read_lines(finished / ROOT / "distill/distilled.tags"))
    shutil.copytree(finished, tmp_path / "copy")
    with working_in(tmp_path / "copy"):
        run_stages("distill", sets=["distill.quality={scorer: size, drop_percent: 25.0}"])
        after = Counter(read_lines(ROOT / "distill/distilled.tags"))
    assert after == {name: count - count // 4 for name, count in before.items()}


def test_training_sentences_are_translated_in_their_directions() -> None:
    (path,) = (ROOT / "score/decoded/train").glob("distilled.seed_1.*.whole.tgt")
    found = read_lines(path)
    names, sources = (read_lines(ROOT / f"prepare/train.{end}") for end in ("tags", "src"))
    chosen = spread(len(names), NUM_SAMPLED)
    assert {names[index] for index in chosen} == set(DIRECTIONS)
    model = kdmt.load(ROOT / "students/distilled/seed_1/average", threads=1)
    for index, line in zip(chosen, found, strict=True):
        source, target = names[index].split("-")
        own = model.for_languages(target, source)
        assert own.translate([sources[index]], beam=1, max_len_a=1.2, max_len_b=10) == [line]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"directions": [["en", "de"], ["en", "fr"]]}, "given translates en-de, en-fr, not fr-en"),
        (
            {"language_tokens": "both_in_source"},
            "given: the model reads <en> <2de> before sources of en-de, and not <2de>",
        ),
        ({}, ""),
    ],
)
def test_a_running_teacher_has_all_directions_and_their_tokens(
    finished: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    shutil.copytree(finished, tmp_path / "copy")
    with working_in(tmp_path / "copy"):
        shutil.copytree(resolve_checkpoint(ROOT / "teacher"), "given")
        if change:
            text = json.loads(Path("given/text.json").read_text())
            Path("given/text.json").write_text(json.dumps(text | change))
        settings = "students.distilled.word_kd={teachers: [given]}"
        result = run_kdmt("student", "tiny.yaml", "--student", "distilled", "--set", settings)
    error = result.err.partition("kdmt: error: ")[2].rstrip()
    assert (result.code, error) == (2 if message else 0, message)


def test_an_evaluator_has_all_directions(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "copy")
    with working_in(tmp_path / "copy"):
        shutil.copytree(resolve_checkpoint(ROOT / "students/one_pass/seed_1"), "given")
        text = json.loads(Path("given/text.json").read_text())
        Path("given/text.json").write_text(json.dumps(text | {"directions": [["en", "de"], ["en", "fr"]]}))
        settings = "students.selected.selective.evaluator=given"
        result = run_kdmt("student", "tiny.yaml", "--student", "selected", "--set", settings)
    assert result.code == 2
    assert result.err.rstrip().endswith("kdmt: error: given translates en-de, en-fr, not fr-en")


def test_a_student_learns_from_a_maximum_of_distilled_pairs_of_a_direction(finished: Path, tmp_path: Path) -> None:
    counts = Counter(read_lines(finished / ROOT / "distill/distilled.tags"))
    shutil.copytree(finished, tmp_path / "copy")
    sets = ["students.distilled.train.sampling={max_pairs: {en-fr: 7}}", "students.distilled.augment=null"]
    with working_in(tmp_path / "copy"):
        settings = [part for each in sets for part in ("--set", each)]
        result = run_kdmt("student", "tiny.yaml", "--student", "distilled", *settings)
    assert result.code == 0, result.err
    expected = ", ".join(f"{name} {7 if name == 'en-fr' else counts[name]}" for name in DIRECTIONS)
    total = sum(counts.values()) - counts["en-fr"] + 7
    found = re.search(r"([0-9,]+) pairs \((\d+) left out for their length or by 'max_pairs'\) \((.*)\),", result.err)
    assert found is not None, result.err
    assert (int(found[1]), int(found[2])) == (total, counts["en-fr"] - 7)
    of_epoch = ", ".join(f"{part} of {part.split()[1]}" for part in expected.split(", "))
    assert found[3] == f"in an epoch {of_epoch}"


@pytest.mark.parametrize("options", [["--to", "de"], ["--to", "en", "--from", "fr"]])
def test_contrastive_pairs_are_those_of_one_direction(options: list[str], tmp_path: Path) -> None:
    chosen = dict(zip(options[::2], options[1::2], strict=True))
    own = kdmt.load(ROOT / "teacher", threads=1).for_languages(chosen.get("--to"), chosen.get("--from"))
    pairs = [ContrastivePair(line, line, (line[:2],)) for line in MORE]
    lines = [json.dumps({"source": each.source, "right": each.right, "wrong": each.wrong[0]}) for each in pairs]
    write_lines(tmp_path / "pairs.jsonl", lines)
    found = run_kdmt("contrast", ROOT / "teacher", tmp_path / "pairs.jsonl", "--threads", "1", *options)
    result = own.contrast(pairs)
    assert found.out == f"accuracy {result.accuracy:.2f}: {result.num_correct} of 2 pairs\n"


def test_contrastive_pairs_need_a_direction(tmp_path: Path) -> None:
    write_lines(tmp_path / "pairs.jsonl", ['{"source": "ba", "right": "ba", "wrong": "da"}'])
    found = run_kdmt("contrast", ROOT / "teacher", tmp_path / "pairs.jsonl")
    assert (found.code, found.out) == (2, "")
    assert "choose one of en-de, en-fr, fr-en" in found.err


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ctranslate2", "onnx"])
def test_exported_models_are_scored_in_each_direction(finished: Path, tmp_path: Path, engine: str) -> None:
    shutil.copytree(finished, tmp_path / "copy")
    sets = [f"score.engines=[{engine}]", "score.engine_students=[distilled]", "score.variants={}"]
    with working_in(tmp_path / "copy"):
        (result,) = run_stages("score", sets=[*sets, "score.diagnostics=null"])
        rows = json.loads((ROOT / "scores.json").read_text())
        measured = {row["direction"]: row for row in rows if "deployment" in row}
        assert set(measured) == {*DIRECTIONS, ZERO_SHOT}
        for name, row in measured.items():
            own = next(each for each in rows if each["system"] == "distilled" and each["direction"] == name)
            file = f"score/distilled.seed_1.test.{name}.beam1"
            # those of PyTorch in this direction
            assert read_lines(ROOT / f"{file}.{engine}.tgt") == read_lines(ROOT / f"{file}.tgt")
            assert row["deployment"]["engine"] == engine
            assert row["bleu"] == own["bleu"]
            assert row["deployment"]["losses"] == {"bleu": 0.0, "chrf": 0.0}
        averages = json.loads((ROOT / "score/averages.json").read_text())
        own_averages = (each for each in averages if (each["system"], each["group"]) == ("distilled", "all"))
        found = {each.get("engine"): each for each in own_averages}
        assert set(found) == {None, engine}
        expected = sum(measured[name]["bleu"] for name in DIRECTIONS) / len(DIRECTIONS)
        assert found[engine]["scores"]["bleu"] == pytest.approx(expected)
        assert "students in engines" in result.out


def test_everything_is_up_to_date_afterwards() -> None:
    assert all("up to date, nothing to do" in each.err + each.out for each in run_stages(*STAGES))
