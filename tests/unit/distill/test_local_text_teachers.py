"""Tests of training sets translated by local models that answer with text, against Transformers' own generation."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from text_models import save_generator, save_t5
from tiny_pipeline import Finished, hash_tree, kdmt, read_lines, settings, to_yaml, working_in, write_pipeline

pytest.importorskip("transformers")

TINY = Path("runs/tiny")
MADE = TINY / "distill"
GENERATOR = {"ctranslate2_generator": "llama/ct2", "prompt": "prompt.txt"}
TRANSLATOR = {"ctranslate2": "t5/ct2", "source_prefix": "<2de> "}
KEEP = dict.fromkeys(("empty", "repetition", "copied", "ratio", "truncated", "chatter"), "keep")


def document(teacher: dict[str, Any], **distill: Any) -> dict[str, Any]:
    made = settings()
    made["distill"] = {"teachers": [teacher], "block_size": 30, "executor": "inline", "failures": KEEP, **distill}
    return made


def distill(teacher: dict[str, Any], *arguments: str, **changes: Any) -> Finished:
    Path("tiny.yaml").write_text(to_yaml(document(teacher, **changes)), encoding="utf-8")
    return kdmt("distill", "tiny.yaml", *arguments)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any, Any]:
    """Return a folder with a prepared pipeline and models, a Llama model with its tokenizer, and a T5 model."""
    folder = tmp_path_factory.mktemp("local")
    with working_in(folder):
        write_pipeline(folder, document(GENERATOR))
        Path("prompt.txt").write_text("Translate : {source} =\n", encoding="utf-8")
        llama, tokenizer = save_generator(Path("llama"))
        t5 = save_t5(Path("t5"))
        assert kdmt("prepare", "tiny.yaml").code == 0
    return folder, llama, tokenizer, t5


@pytest.fixture(autouse=True)
def copy(models: tuple[Path, Any, Any, Any], tmp_path: Path) -> Iterator[None]:
    with working_in(shutil.copytree(models[0], tmp_path / "copy")):
        yield


def sources() -> list[str]:
    return read_lines(TINY / "prepare/train.en")


def answers() -> dict[str, int]:
    return json.loads((MADE / "manifest.json").read_text("utf-8"))["facts"]["answers"]


def nbest() -> list[list[str]]:
    return [line.split("\t") for line in read_lines(MADE / "nbest")]


def test_language_model_generates_what_transformers_generates(models: tuple[Path, Any, Any, Any]) -> None:
    result = distill(GENERATOR)
    assert result.code == 0, result.err
    _, llama, tokenizer, _ = models
    wanted, truncated = [], 0
    for source in sources():
        prompt = tokenizer(f"Translate : {source} =", return_tensors="pt").input_ids
        limit = 2 * (len(source.split()) + 1) + 32  # tokens of the source with <s>
        with torch.no_grad():
            found = llama.generate(prompt, max_new_tokens=limit, do_sample=False)[0, prompt.shape[1] :].tolist()
        truncated += found[-1] != tokenizer.eos_token_id
        wanted.append(tokenizer.decode(found, skip_special_tokens=True))
    assert [row[4] for row in nbest()] == wanted
    assert 0 < answers()["truncated"] == truncated < 80
    assert len(set(wanted)) > 40
    record = json.loads((MADE / "manifest.json").read_text("utf-8"))
    assert record["inputs"].keys() >= {"llama/ct2/model.bin", "llama/ct2/tokenizer.json", "prompt.txt"}
    before = hash_tree(MADE)
    assert distill(GENERATOR, "--verify").code == 0
    assert hash_tree(MADE) == before
    assert distill(GENERATOR | {"batch_size": 3}).code == 0
    assert [row[4] for row in nbest()] == wanted


def test_end_token_and_limit_of_a_language_model_are_used() -> None:
    assert distill(GENERATOR).code == 0
    before = [row[4].split() for row in nbest()]
    assert distill(GENERATOR | {"end_tokens": ["ok", "</s>"]}).code == 0
    assert [row[4].split() for row in nbest()] == [
        words[: words.index("ok")] if "ok" in words else words for words in before
    ]
    assert distill(GENERATOR | {"output_ratio": 0.5}).code == 0
    now = [row[4].split() for row in nbest()]
    limits = [int(np.ceil((len(source.split()) + 1) / 2)) + 32 for source in sources()]
    assert all(words[: len(cut)] == cut for words, cut in zip(before, now, strict=True))
    assert all(len(words) <= limit for words, limit in zip(now, limits, strict=True))
    assert sum(len(words) < len(whole) for words, whole in zip(now, before, strict=True)) > 3


def test_candidates_of_a_language_model_are_drawn_again_the_same() -> None:
    sampled = GENERATOR | {"n": 4, "temperature": 1.0}
    assert distill(sampled).code == 0
    rows = nbest()
    assert [row[0] for row in rows] == [str(number) for number in range(80) for _ in range(4)]
    assert sum(len({row[4] for row in rows[start : start + 4]}) > 1 for start in range(0, 320, 4)) > 60
    result = distill(sampled, "--verify", "--verify-blocks", "3")
    assert result.code == 0, result.err
    assert distill(sampled | {"seed": 2}).code == 0
    assert nbest() != rows
    assert distill(sampled | {"top_p": 0.01}).code == 0  # only the most probable token is left
    narrow = [row[4] for row in nbest()[::4]]
    assert distill(GENERATOR).code == 0
    assert narrow == [row[4] for row in nbest()]


@pytest.mark.slow
def test_translation_model_translates_what_transformers_translates(models: tuple[Path, Any, Any, Any]) -> None:
    import sentencepiece

    decode = {"beam": 1, "max_len_a": 1.0, "max_len_b": 8}
    result = distill(TRANSLATOR, decode=decode)
    assert result.code == 0, result.err
    t5, pieces = models[3], sentencepiece.SentencePieceProcessor(model_file="t5/spiece.model")
    wanted = []
    for source in sources():
        ids = [*pieces.encode(f"<2de> {source}"), pieces.eos_id()]
        with torch.no_grad():
            found = t5.generate(torch.tensor([ids]), max_new_tokens=len(ids) + 8, do_sample=False)[0].tolist()
        wanted.append(" ".join(pieces.decode([number for number in found if number > 1]).split()))
    assert [row[4] for row in nbest()] == wanted
    assert all(float(row[1]) < 0 for row in nbest())
    assert len(set(wanted)) > 30
    assert distill(TRANSLATOR, "--verify", decode=decode).code == 0
    assert distill(TRANSLATOR | {"source_prefix": "<2fr> "}, decode=decode).code == 0
    assert [row[4] for row in nbest()] != wanted
    assert distill(TRANSLATOR, decode=decode | {"beam": 3, "nbest": 3}).code == 0
    scores = np.array([float(row[1]) for row in nbest()]).reshape(80, 3)
    assert (np.diff(scores) <= 0).all()


def test_score_and_length_of_a_translation_model_give_the_probability() -> None:
    import ctranslate2
    import sentencepiece

    decode = {"beam": 3, "nbest": 3, "lenpen": 0.6, "max_len_a": 1.0, "max_len_b": 8}
    made = document(TRANSLATOR, decode=decode, mbr={"weights": "probability"})
    made["students"] = {"chosen": made["students"]["distilled"] | {"data": "mbr"}}
    Path("tiny.yaml").write_text(to_yaml(made), encoding="utf-8")
    result = kdmt("distill", "tiny.yaml")
    assert result.code == 0, result.err
    pieces = sentencepiece.SentencePieceProcessor(model_file="t5/spiece.model")
    model, given = ctranslate2.Translator("t5/ct2"), sources()
    # pieces of a text are not always those that were generated, and a text that is cut off has no end
    ended = [row for row in nbest() if row[3] == "-" and len(pieces.encode(row[4])) + 1 == int(row[2])]
    scored = model.score_batch(
        [[*pieces.encode(f"<2de> {given[int(row[0])]}", out_type=str), "</s>"] for row in ended],
        [pieces.encode(row[4], out_type=str) for row in ended],
    )
    wanted = [sum(each.log_probs) for each in scored]
    found = [float(score) * int(length) ** 0.6 for _, score, length, *_ in ended]
    assert np.isclose(wanted, found, rtol=1e-4).sum() > 10  # the others were generated in other pieces
    record = json.loads((MADE / "manifest.json").read_text("utf-8"))
    assert record["facts"].pop("counts_tokens") is True
    for name in ("source_code", "target_code"):
        assert record["settings"].pop(f"distill.teachers.0.{name}") is None
    (MADE / "manifest.json").write_text(json.dumps(record), encoding="utf-8")  # as an earlier version wrote it
    made["distill"]["mbr"]["top"] = 2
    Path("tiny.yaml").write_text(to_yaml(made), encoding="utf-8")
    result = kdmt("distill", "tiny.yaml")
    assert result.code == 2
    assert "distill: up to date" in result.err
    assert "did not store the numbers of tokens, on which 'data: mbr' depends: rename runs/tiny/distill" in result.err


def test_folders_that_are_no_models_are_refused() -> None:
    for teacher, message in (
        (
            GENERATOR | {"ctranslate2_generator": "text"},
            "distill.teachers.0.ctranslate2_generator: text has no model.bin",
        ),
        (TRANSLATOR | {"ctranslate2": "llama"}, "distill.teachers.0.ctranslate2: llama has no model.bin"),
        (TRANSLATOR | {"ctranslate2": "llama/ct2"}, "llama/ct2: CTranslate2 cannot load it"),
    ):
        result = distill(teacher)
        assert result.code == 2, result.err
        assert message in result.err
    Path("t5/ct2/spiece.model").unlink()
    assert "t5/ct2: no tokenizer: copy that of the model into the folder" in distill(TRANSLATOR).err
    Path("t5/ct2/tokenizer.json").write_text("{}", encoding="utf-8")
    assert "t5/ct2/tokenizer.json: not a tokenizer" in distill(TRANSLATOR).err
