"""Back-translation through the command line: sources and tags, blocks, shards, executors, verification, old runs."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_pipeline
from tiny_pipeline import Finished, kdmt, read_lines, to_yaml, working_in, write_lines, write_pipeline
from training_runs import TINY

from kdmt.config import BackTranslationFailures, Decode
from kdmt.corpus.batching import open_split
from kdmt.corpus.vocabulary import Dictionary
from kdmt.decode.engines.translator import Translator
from kdmt.distill import decoding
from kdmt.distill.candidates import find_failures_of_tokens
from kdmt.distill.failures import CODES
from kdmt.languages import Direction
from kdmt.stages.back_translation_work import FindDropped
from kdmt.types import UNK

MADE = TINY / "back_translated"
BLOCKS = MADE / "blocks"
NUM_BLOCKS = 3
MORE = ["Rom  rum", "ok uk ik", "ok uk ik", ""]  # to be tidied, repeated, empty


def document(**changes: Any) -> dict[str, Any]:
    """Return a pipeline whose teacher would learn from raw and back-translated text."""
    made = tiny_pipeline.settings() | {"students": {}}
    made["teacher"]["data"] = [{"set": "raw", "share": 0.5}, {"set": "back_translated", "share": 0.5}]
    made["prepare"]["tokenizer"] = {"user_defined_symbols": ["<bt>"], "vocab_size": 33}
    made["prepare"]["monolingual_target"] = [{"path": "mono.de"}]
    made["back_translation"] = {
        "checkpoint": "runs/reverse/teacher",
        "tag": "<bt>",
        "decode": {"beam": 2, "max_len_a": 1.0, "max_len_b": 5},
        "engine": "torch",
        "block_lines": 7,
        "executor": "inline",
        **changes,
    }
    return made


def write_reverse() -> None:
    """Train a model from German to English, with another vocabulary."""
    made = tiny_pipeline.settings() | {"name": "reverse", "source_lang": "de", "target_lang": "en", "students": {}}
    for split in (made["prepare"]["train"][0], made["prepare"]["valid"], made["prepare"]["test"]["test"]):
        split["source"], split["target"] = split["target"], split["source"]
    made["teacher"]["train"]["max_updates"] = 40
    Path("reverse.yaml").write_text(to_yaml(made))
    for stage in ("prepare", "teacher"):
        done = kdmt(stage, "reverse.yaml")
        assert done.code == 0, done.err


def write(made: dict[str, Any]) -> None:
    Path("tiny.yaml").write_text(to_yaml(made))


def back_translate(*arguments: str, code: int = 0, **changes: Any) -> Finished:
    write(document(**changes))
    done = kdmt("back-translate", "tiny.yaml", *arguments)
    assert done.code == code, done.err
    return done


@pytest.fixture(scope="module")
def _made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("back_translated")
    with working_in(folder):
        write_pipeline(folder)
        write_reverse()
        write_lines(Path("mono.de"), [*read_lines(Path("text/train.de"))[:16], *MORE])
        write(document())
        assert kdmt("prepare", "tiny.yaml").code == 0
        assert "back_translated: starting" in back_translate().err
    return folder


@pytest.fixture(autouse=True)
def made(_made_once: Path, tmp_path: Path) -> Iterator[Path]:
    """Change to a copy of the finished stage."""
    with working_in(shutil.copytree(_made_once, tmp_path / "copy")) as folder:
        yield folder


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which the number of each block that is decoded is added."""
    numbers: list[int] = []
    decode = decoding.BlockDecoder._decode

    def counted(self: Any, translate: Any, text: Any, made_with: Any, task: Any, progress: Any) -> None:
        numbers.append(task.number)
        decode(self, translate, text, made_with, task, progress)

    monkeypatch.setattr(decoding.BlockDecoder, "_decode", counted)
    return numbers


def manifest() -> dict[str, Any]:
    return json.loads((MADE / "manifest.json").read_text(encoding="utf-8"))


def end_before_the_manifest() -> None:
    """Change the stage to the state of one that was killed before it was complete."""
    record = manifest()
    (MADE / "manifest.json").unlink()
    plan = {key: record[key] for key in ("settings", "extend", "inputs")}
    (MADE / "plan.json").write_text(json.dumps(plan), encoding="utf-8")


def outputs() -> dict[str, bytes]:
    paths = [*BLOCKS.iterdir(), *(MADE / name for name in manifest()["outputs"])]
    return {str(path.relative_to(MADE)): path.read_bytes() for path in sorted(paths)}


def test_the_sources_are_the_translations_of_the_prepared_text() -> None:
    targets = read_lines(TINY / "prepare/monolingual.de")
    assert targets == [*dict.fromkeys(read_lines(Path("text/train.de"))[:16]), "Rom rum", "ok uk ik"]
    reverse = Translator.load(Path("runs/reverse/teacher"))
    found = reverse.translate(targets, Decode(beam=2, max_len_a=1.0, max_len_b=5))
    kept = [(" ".join(source.split()), target) for source, target in zip(found, targets, strict=True) if source]
    assert len(kept) > 10
    assert list(zip(read_lines(MADE / "distilled.en"), read_lines(MADE / "distilled.de"), strict=True)) == kept
    facts = manifest()["facts"]
    assert (facts["num_sentences"], facts["num_lines"]) == (len(targets), len(kept))
    assert facts["dropped"].get("empty", 0) == len(targets) - len(kept)
    assert read_lines(MADE / "distilled.tags") == ["<bt>"] * len(kept)
    pairs = open_split(MADE / "data-bin", "train", Direction("en", "de"))
    tag = Dictionary.load(TINY / "prepare/dict.en.txt").symbols.index("<bt>")
    assert len(pairs) == len(kept)
    assert all(pairs[index][0][0] == tag for index in range(len(pairs)))
    assert len(list(BLOCKS.iterdir())) == NUM_BLOCKS
    assert "prepare/monolingual.de" in manifest()["inputs"]


def test_a_killed_stage_decodes_only_missing_and_damaged_blocks(decoded: list[int]) -> None:
    before = outputs()
    (BLOCKS / "000000.gz").write_bytes((BLOCKS / "000000.gz").read_bytes()[:-3])
    (BLOCKS / "000002.gz").unlink()
    end_before_the_manifest()
    assert "it is decoded again" in back_translate().err
    assert decoded == [0, 2]
    assert outputs() == before


@pytest.mark.parametrize("executor", ["processes", "shards"])
def test_processes_and_shards_write_the_same_bytes(executor: str, decoded: list[int]) -> None:
    before = outputs()
    shutil.rmtree(MADE)
    if executor == "shards":
        for shard in ("1/2", "0/2"):
            back_translate("--shard", shard)
        assert decoded == [1, 0, 2]
        assert not (MADE / "manifest.json").exists()
        back_translate()
        assert decoded == [1, 0, 2]
    else:
        back_translate(executor="processes", workers=2)
    assert outputs() == before


def test_verification_decodes_blocks_again_and_finds_changed_text(decoded: list[int]) -> None:
    done = back_translate("--verify", "--verify-blocks", "2", "--verify-seed", "1")
    assert f"{NUM_BLOCKS} blocks are whole" in done.err
    assert "its text follows from" in done.err
    assert len(decoded) == 2
    path = MADE / "distilled.tags"
    path.write_text(path.read_text(encoding="utf-8").replace("<bt>", "<xx>", 1), encoding="utf-8")
    record = manifest()
    end_before_the_manifest()
    (MADE / "plan.json").unlink()
    record["outputs"]["distilled.tags"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (MADE / "manifest.json").write_text(json.dumps(record), encoding="utf-8")
    assert "distilled.tags: does not follow from" in back_translate("--verify", code=2).err


def test_another_tag_is_written_without_decoding(decoded: list[int]) -> None:
    sources = (MADE / "distilled.en").read_bytes()
    done = back_translate(tag=None)
    assert "back_translation.tag changed" in done.err
    assert not decoded
    assert (MADE / "distilled.en").read_bytes() == sources
    assert not (MADE / "distilled.tags").exists()


def test_translations_that_fail_a_check_are_dropped_without_decoding(decoded: list[int]) -> None:
    pairs = list(zip(read_lines(MADE / "distilled.en"), read_lines(MADE / "distilled.de"), strict=True))
    scale = json.loads((TINY / "prepare/report.json").read_text(encoding="utf-8"))["typical_ratio"] ** 0.5

    def ratio(source: str, target: str) -> float:
        lengths = len(source) * scale + 10, len(target) / scale + 10
        return max(lengths) / min(lengths)

    limit = round(sorted(ratio(*pair) for pair in pairs)[len(pairs) // 2], 4)
    back_translate(failures={"ratio": "drop", "max_ratio": limit})
    assert not decoded
    kept = list(zip(read_lines(MADE / "distilled.en"), read_lines(MADE / "distilled.de"), strict=True))
    assert 0 < len(kept) < len(pairs)
    assert set(kept) < set(pairs)
    assert max(ratio(*pair) for pair in kept) <= limit + 1e-4
    assert min(ratio(*pair) for pair in set(pairs) - set(kept)) >= limit - 1e-4
    assert manifest()["facts"]["dropped"]["ratio"] == len(pairs) - len(kept)


def test_settings_without_effect_leave_it_up_to_date() -> None:
    write(document(block_lines=5, workers=3, threads=2, executor="processes", compute_type="float32"))
    made = document(block_lines=5)
    made["teacher"]["train"]["lr"] = 0.03
    made["distill"]["decode"] = {"beam": 3}
    made["prepare"]["monolingual"] = []
    write(made)
    done = kdmt("back-translate", "tiny.yaml")
    assert "up to date, nothing to do" in done.err, done.err
    back_translate("--verify", block_lines=5)  # the blocks have the size with which they were made


def test_samples_depend_on_their_seed_and_their_line_alone() -> None:
    beam, drawn = (MADE / "distilled.en").read_bytes(), []
    for seed, size in ((1, 7), (1, 4), (2, 7)):
        shutil.rmtree(MADE)
        back_translate(sample={"seed": seed}, decode={}, block_lines=size)
        drawn.append((MADE / "distilled.en").read_bytes())
    assert drawn[0] == drawn[1] != beam
    assert drawn[2] != drawn[0]
    assert "up to date" in back_translate(sample={"seed": 2}, decode={"lenpen": 0.5}, block_lines=3).err


def test_lines_of_given_files_are_translated_as_they_are() -> None:
    made = document(text=["mono.de", "mono.de"])
    del made["prepare"]["monolingual_target"]
    write(made)
    assert kdmt("prepare", "tiny.yaml").code == 0
    done = kdmt("back-translate", "tiny.yaml")
    assert done.code == 0, done.err
    lines = [" ".join(line.split()) for line in read_lines(Path("mono.de"))]
    assert read_lines(MADE / "text.de") == lines * 2
    assert manifest()["facts"]["num_sentences"] == 2 * len(lines)
    assert set(read_lines(MADE / "distilled.de")) <= set(lines) - {""}
    write_lines(Path("mono.de"), [])
    refused = kdmt("back-translate", "tiny.yaml")
    assert refused.code == 2
    assert "back_translation.text: no line to translate: mono.de, mono.de" in refused.err


def test_blocks_of_the_first_version_are_replaced_with_a_message(decoded: list[int]) -> None:
    before = outputs()
    end_before_the_manifest()
    shutil.rmtree(BLOCKS)
    BLOCKS.mkdir()
    (MADE / "block-size.json").unlink()
    for number in range(2):
        (BLOCKS / f"{number:06}").write_text('{"made_from": "", "sha256": ""}\n[]\n')
    assert "2 blocks are of a version of kdmt with another format" in back_translate().err
    assert decoded == [0, 1, 2]
    assert outputs() == before


def test_a_run_of_the_first_version_is_up_to_date() -> None:
    """Change the record to that of the first version, which had other settings and no candidates."""
    made = document(text=["mono.de"])
    del made["prepare"]["monolingual_target"]
    write(made)
    for command in ("prepare", "back-translate"):
        assert kdmt(command, "tiny.yaml").code == 0
    record = manifest()
    own = {key: value for key, value in record["settings"].items() if ".engine" not in key}
    del own["back_translation.compute_type"]
    record["settings"] = own | {"back_translation.block_lines": 7}
    kept = ("distilled.", "data-bin/")
    record["outputs"] = {name: sha for name, sha in record["outputs"].items() if name.startswith(kept)}
    for name in ("nbest", "nbest.npy", "sentences.npy", "rejected", "text.de", "block-size.json"):
        (MADE / name).unlink()
    (MADE / "manifest.json").write_text(json.dumps(record), encoding="utf-8")
    made["back_translation"]["engine"] = "auto"
    write(made)
    assert "up to date" in kdmt("back-translate", "tiny.yaml").err
    refused = kdmt("back-translate", "tiny.yaml", "--verify")
    assert refused.code == 2
    assert "a version of kdmt without verification made it" in refused.err


def test_wrong_models_texts_and_tags_are_refused() -> None:
    sets = {
        "checkpoint=runs/none": "back_translation.checkpoint: runs/none",
        "tag=<other>": "back_translation.tag: the source vocabulary has no token <other>",
    }
    for change, message in sets.items():
        done = kdmt("back-translate", "tiny.yaml", "--set", f"back_translation.{change}")
        assert (done.code, message in " ".join(done.err.split())) == (2, True), done.err
    shutil.rmtree(MADE)
    done = kdmt("back-translate", "tiny.yaml", "--shard", "2/2")
    assert done.code == 2
    assert "--shard 2/2" in done.err


def test_a_failure_that_is_kept_does_not_hide_one_that_is_dropped() -> None:
    sizes = np.array([4, 2, 0, 3], np.int32)
    tokens = np.array([5, 5, 5, 5, 6, UNK, 7, 8, UNK])
    at_limit = np.array([True, True, False, False])
    find = FindDropped(find_failures_of_tokens)

    def found(**failures: str) -> list[int]:
        settings = BackTranslationFailures.model_validate(failures).as_failures()
        return find(tokens, sizes, at_limit, settings).tolist()

    empty, too_long, repetition, unk = (CODES[name] for name in ("empty", "too_long", "repetition", "unk"))
    assert found() == [0, 0, empty, 0]
    assert found(repetition="drop") == [repetition, 0, empty, 0]
    assert found(unk="drop") == [0, unk, empty, unk]
    assert found(too_long="drop", repetition="drop", unk="drop") == [too_long, too_long, empty, unk]
