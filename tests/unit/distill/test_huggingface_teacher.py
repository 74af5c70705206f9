"""Tests of a training set translated by a Hugging Face Transformers model, through the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_models import CODES, Saved, save_model
from tiny_pipeline import (
    Finished,
    hash_tree,
    kdmt,
    read_lines,
    settings,
    to_yaml,
    working_in,
    write_lines,
    write_pipeline,
)

from kdmt.corpus.codec import TextCodec
from kdmt.corpus.indexed import IndexedDataset
from kdmt.decode.engines.ctranslate2 import CTranslate2Engine
from kdmt.interop.huggingface import ForeignTokenizer

pytest.importorskip("transformers")

TINY = Path("runs/tiny")
PREPARED, MADE = TINY / "prepare", TINY / "distill"
MODEL = Path("models/nllb")
KEEP = dict.fromkeys(("empty", "too_long", "repetition", "unk", "ratio", "copied", "script"), "keep")


def document(**distill: Any) -> dict[str, Any]:
    made = settings()
    made["prepare"] |= {"text": {"moses": True, "lowercase": True}, "tokenizer": {"vocab_size": 24}}
    made["distill"] |= {"engine": "auto", "teachers": [Saved(MODEL, "nllb", *CODES["nllb"]).setting()]}
    made["distill"] |= {"failures": KEEP, "decode": {"beam": 2, "nbest": 2, "max_len_a": 1.0, "max_len_b": 8}}
    made["distill"] |= distill
    return made


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("foreign")
    with working_in(folder):
        write_pipeline(folder, document())
        for lang in ("en", "de"):
            path = Path(f"text/train.{lang}")
            write_lines(path, [f"{line.capitalize()}!" for line in read_lines(path)])
        save_model("nllb", MODEL)
        assert kdmt("prepare", "tiny.yaml").code == 0
        result = kdmt("distill", "tiny.yaml")
        assert result.code == 0, result.err
    return folder


@pytest.fixture
def made(prepared: Path, tmp_path: Path) -> Iterator[Path]:
    """Change to a copy of the finished stage."""
    with working_in(shutil.copytree(prepared, tmp_path / "copy")) as folder:
        yield folder


def distill(*arguments: str, **changes: Any) -> Finished:
    Path("tiny.yaml").write_text(to_yaml(document(**changes)), encoding="utf-8")
    return kdmt("distill", "tiny.yaml", *arguments)


def manifest() -> dict[str, Any]:
    return json.loads((MADE / "manifest.json").read_text(encoding="utf-8"))


@pytest.mark.usefixtures("made")
def test_text_is_detokenised_for_the_teacher_and_preprocessed_after() -> None:
    """The steps are repeated here: detokenise, encode, decode with the engine, and preprocess like the data."""
    assert distill(engine="ctranslate2_exact").code == 0
    codec, tokenizer = TextCodec.load(PREPARED), ForeignTokenizer(MODEL, "nllb", "eng_Latn", "deu_Latn")
    words = read_lines(PREPARED / "train.en")
    assert all(line.endswith(" !") and line == line.lower() for line in words)
    texts = [line.removesuffix(" !") + "!" for line in words]
    config = json.loads((MADE / "config.json").read_text(encoding="utf-8"))["distill"]["decode"]
    from kdmt.config import Decode

    engine = CTranslate2Engine(MADE / "engine")
    numbers = np.load(MADE / "sentences.npy")
    found: dict[int, list[tuple[float, str]]] = {}
    for line in read_lines(MADE / "nbest"):
        number, score, _, _, text = line.split("\t")
        found.setdefault(int(number), []).append((float(score), text))
    for position, nbest in enumerate(engine.decode(tokenizer.encode(texts), Decode(**config))):
        own = found[int(numbers[position])]
        assert [h.score for h in nbest] == pytest.approx([score for score, _ in own], abs=1e-4)
        tokens = [[token for token in h.tokens if token != 2] for h in nbest]
        lines = tokenizer.decode(np.concatenate(tokens), np.array([*map(len, tokens)]))
        assert [" ".join(codec.text.preprocess_target(line).split()) for line in lines] == [text for _, text in own]
    best = [found[int(number)][0][1] for number in numbers]
    assert read_lines(MADE / "distilled.de") == best
    assert read_lines(MADE / "distilled.en") == words
    assert len(set(best)) > 10
    ids = [codec.encode_target([line])[0].tolist() for line in best]
    assert [each.tolist() for each in IndexedDataset(MADE / "data-bin/train.en-de.de")] == ids


@pytest.mark.usefixtures("made")
def test_manifest_lists_the_files_of_the_model() -> None:
    record, hashes = manifest(), hash_tree(MODEL)
    for name in (
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "sentencepiece.bpe.model",
        "tokenizer_config.json",
    ):
        assert record["inputs"][f"{MODEL}/{name}"] == hashes[name]
    assert record["settings"]["distill.teachers.0.source_code"] == "eng_Latn"
    assert record["settings"]["distill.teachers.0.target_code"] == "deu_Latn"
    assert not any(name.startswith("teacher/") for name in record["inputs"])
    assert set(record["facts"]["blocks"][0]) >= {"ctranslate2", "transformers", "tokenizers", "sentencepiece"}


@pytest.mark.usefixtures("made")
def test_second_run_does_nothing_and_verify_passes() -> None:
    before = hash_tree(MADE)
    result = distill()
    assert result.code == 0
    assert "nothing to do" in result.err
    assert distill("--verify", "--verify-blocks", "2").code == 0
    assert hash_tree(MADE) == before


@pytest.mark.usefixtures("made")
def test_stopped_run_is_resumed() -> None:
    before = hash_tree(MADE)
    record = manifest()
    (MADE / "plan.json").write_text(json.dumps({k: record[k] for k in ("settings", "extend", "inputs")}), "utf-8")
    for name in ("manifest.json", "nbest", "distilled.de"):
        (MADE / name).unlink()
    shutil.rmtree(MADE / "engine")
    damaged = MADE / "blocks/000002.gz"
    (MADE / "blocks/000001.gz").unlink()
    damaged.write_bytes(damaged.read_bytes()[:-20])
    result = distill()
    assert result.code == 0, result.err
    assert "1 of 3 blocks are there" in result.err
    assert "000002.gz: damaged or cut short" in result.err
    assert {name: sha for name, sha in hash_tree(MADE).items() if not name.startswith("engine")} == {
        name: sha for name, sha in before.items() if not name.startswith("engine")
    }


@pytest.mark.usefixtures("made")
def test_changed_model_invalidates_the_blocks() -> None:
    before = hash_tree(MADE / "blocks")
    shutil.rmtree(MODEL)
    save_model("nllb", MODEL, other=1)
    result = distill()
    assert result.code == 0, result.err
    assert f"the input {MODEL}/model.safetensors changed" in result.err
    assert "0 of 3 blocks are there" in result.err
    assert hash_tree(MADE.with_name("distill.previous") / "blocks") == before
    (MADE / "manifest.json").rename(MADE / "plan.json")
    shutil.copy(MADE.with_name("distill.previous") / "blocks/000001.gz", MADE / "blocks")
    kept = hash_tree(MADE / "blocks")
    result = distill()
    assert result.code == 2
    assert "000001.gz: made with another teacher's model.safetensors" in result.err
    assert hash_tree(MADE / "blocks") == kept


@pytest.mark.usefixtures("made")
def test_languages_invalidate_the_blocks_but_failures_do_not() -> None:
    assert "3 of 3 blocks are there" in distill(failures=KEEP | {"copied": "drop"}).err
    # hypotheses of a foreign model do not depend on the vocabulary of the data
    teacher = Saved(MODEL, "nllb", "eng_Latn", "fra_Latn").setting()
    refused = distill(teachers=[teacher])
    assert refused.code == 2
    assert "distill.teachers.0.target_code: 'fra_Latn', and the pipeline's 'target_lang' is 'de'" in refused.err
    own = Saved(MODEL, "nllb", *CODES["nllb"]).setting()
    assert "up to date, nothing to do" in distill(teachers=[own | {"other_languages": True}], failures=KEEP).err
    assert "3 of 3 blocks are there" in distill(failures=KEEP | {"copied": "drop", "unk": "drop"}).err
    teacher |= {"other_languages": True}
    assert "0 of 3 blocks are there" in distill(teachers=[teacher]).err


@pytest.mark.usefixtures("made")
def test_renamed_model_folder_keeps_the_blocks() -> None:
    MODEL.rename("elsewhere")
    result = distill(teachers=[Saved(Path("elsewhere"), "nllb", "eng_Latn", "deu_Latn").setting()])
    assert result.code == 0, result.err
    assert "3 of 3 blocks are there" in result.err


@pytest.mark.usefixtures("made")
def test_pytorch_and_ctranslate2_give_the_same_translations() -> None:
    assert distill(engine="ctranslate2_exact").code == 0
    wanted = read_lines(MADE / "distilled.de")
    result = distill(engine="torch")
    assert result.code == 0, result.err
    assert "0 of 3 blocks are there" in result.err
    found = read_lines(MADE / "distilled.de")
    # CTranslate2 renormalises without <pad>, to which an untrained model gives a high probability
    assert sum(a == b for a, b in zip(wanted, found, strict=True)) > 0.9 * len(wanted)


@pytest.mark.slow
@pytest.mark.usefixtures("made")
def test_workers_and_shards_give_the_same_files() -> None:
    before = hash_tree(MADE)
    shutil.rmtree(MADE)
    for shard in ("0/2", "1/2"):
        assert distill("--shard", shard).code == 0
    shutil.rmtree(MADE / "blocks")
    result = distill(executor="processes", workers=1)
    assert result.code == 0, result.err
    assert {name: sha for name, sha in hash_tree(MADE).items() if not name.endswith("config.json")} == {
        name: sha for name, sha in before.items() if not name.endswith("config.json")
    }


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teachers": [{"huggingface": "./models/none"}]}, "./models/none: there is no such folder"),
        (
            {"teachers": [{"huggingface": "text"}]},
            "text: not a Hugging Face model, it has no config.json: it is a folder with test.de, ",
        ),
        (
            {"teachers": [{"huggingface": str(MODEL), "source_code": "eng_Latn", "target_code": "tlh_Latn"}]},
            "distill.teachers.0.target_code: the tokenizer of models/nllb (NLLB) does not know 'tlh_Latn'; it knows",
        ),
        ({"teachers": [{"huggingface": str(MODEL), "target": "de"}]}, "distill.teachers.0.target: unknown setting"),
        ({"teachers": [{"source_code": "de"}]}, "distill.teachers.0.huggingface: missing"),
        (
            {"teachers": [{"huggingface": str(MODEL)}, "runs/other/teacher"]},
            "distill: 'teachers': a 'huggingface' model has a vocabulary of its own and translates alone",
        ),
        (
            {"teachers": [{"huggingface": str(MODEL)}], "shortlist": {}},
            "distill: 'shortlist' is learnt in the vocabulary of the data, and the teacher has another",
        ),
    ],
    ids=str,
)
def test_invalid_settings_change_no_file(changes: dict[str, Any], message: str) -> None:
    before = hash_tree(TINY)
    result = distill(**changes)
    assert result.code == 2
    assert message in result.err.strip().splitlines()[-1]
    assert hash_tree(TINY) == before


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize("engine", ["ctranslate2", "torch"])
def test_broken_weights_change_no_file(engine: str) -> None:
    path, before = MODEL / "model.safetensors", hash_tree(TINY)
    path.write_bytes(path.read_bytes()[:-100])
    result = distill(engine=engine)
    assert result.code == 2
    assert "model.safetensors: the weights cannot be read: " in result.err.strip().splitlines()[-1]
    assert hash_tree(TINY) == before


def test_samples_are_drawn_from_a_foreign_teacher(made: Path) -> None:
    del made
    changed = document()
    changed["students"]["sampled"] = changed["students"].pop("distilled") | {"data": "sampled"}
    Path("tiny.yaml").write_text(to_yaml(changed), encoding="utf-8")
    result = kdmt("distill", "tiny.yaml")
    assert result.code == 0, result.err
    assert len(read_lines(TINY / "sampled/distilled.de")) == len(read_lines(PREPARED / "train.en"))
