"""Context from end to end: a pronoun that only the previous sentence can translate, and all stages with context."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from context_language import contrastive_pairs, pipeline_settings, write_corpus
from tiny_pipeline import kdmt, read_lines, to_yaml

from kdmt.api import Model, load
from kdmt.corpus.codec import TextCodec
from kdmt.errors import UserError
from kdmt.models.checkpoint_folder import resolve_checkpoint
from kdmt.score.contrastive import ContrastivePair


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path)
    return tmp_path


def train(settings: dict[str, Any], *stages: str) -> Path:
    """Run stages of a pipeline, and return its folder."""
    Path("pipeline.yaml").write_text(to_yaml(settings), encoding="utf-8")
    for stage in stages:
        finished = kdmt(stage, "pipeline.yaml")
        assert finished.code == 0, finished.err
    return Path("runs") / settings["name"]


# ------------------------------------------------------------------------------------------------------- contrastive


@pytest.mark.usefixtures("text")
def test_only_a_model_with_context_translates_the_pronoun() -> None:
    """Check the accuracies that the language has: about 100% with the previous sentence, 50% without."""
    accuracies = {}
    for with_context in (True, False):
        folder = train(pipeline_settings(with_context=with_context, max_updates=200), "prepare", "teacher")
        accuracies[with_context] = load(folder / "teacher", threads=1).contrast(contrastive_pairs()).accuracy
    assert accuracies[True] >= 95.0
    assert accuracies[False] == 50.0


# ---------------------------------------------------------------------------------------------------------- all stages


@pytest.fixture
def finished(text: Path) -> Path:  # noqa: ARG001
    """Return the folder of a finished pipeline with context, whose models were hardly trained."""
    settings = pipeline_settings(with_context=True, max_updates=6)
    settings["score"]["contrastive"] = {"pronouns": str(_write_pairs())}
    return train(settings, "prepare", "teacher", "distill", "student", "score")


def test_all_stages_run_with_context(finished: Path) -> None:
    """Check the text of each stage, the translation of documents, and the scores of pairs."""
    _check_text(finished)
    model = load(finished / "teacher", threads=1)
    _check_translation(model, finished)
    _check_scores(model)
    _check_contrastive_command(model, finished)


def _check_text(folder: Path) -> None:
    sources, targets = (read_lines(folder / "prepare" / f"train.{lang}") for lang in ("en", "de"))
    assert sources[0].startswith("<sep> the ")
    assert sources[1].partition(" <sep> ")[0] == sources[0].removeprefix("<sep> ")
    assert not any("<sep>" in line for line in targets)
    assert not any("<sep>" in line for line in read_lines(folder / "prepare" / "test.raw.en"))
    distilled = [read_lines(folder / "distill" / f"distilled.{lang}") for lang in ("en", "de")]
    assert distilled[0] == sources  # failed hypotheses are replaced by references
    assert not any("<sep>" in line for line in distilled[1])
    codec = TextCodec.load(resolve_checkpoint(folder / "teacher" / "best"))
    assert codec.text.context is not None
    assert codec.src_dictionary.index("<sep>") in codec.encode_raw_source(["the hat is here"])[0]
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    assert {row["system"] for row in scores} == {"teacher", "distilled"}


def _check_translation(model: Model, folder: Path) -> None:
    """Check that lines are translated with the previous lines of their documents, by the command and in Python."""
    document = ["the hat is here", "it falls now", "", "it falls now", "it falls now"]
    sources = ["<sep> the hat is here", "the hat is here <sep> it falls now", "", "<sep> it falls now"]
    encoded = model.translator.encode(model.translator.add_context(document))
    words = model.translator.codec.src_dictionary
    assert [words.string(ids[:-1]) for ids in encoded[:4]] == sources
    assert words.string(encoded[4][:-1]) == "it falls now <sep> it falls now"
    translations = model.translate(document)
    assert translations[2] == ""
    for options in ([], ["--buffer-size", "1"]):
        stdin = "".join(f"{line}\n" for line in document).encode()
        finished = kdmt("translate", folder / "teacher", "--threads", "1", *options, stdin=stdin)
        assert finished.code == 0, finished.err
        assert finished.out.splitlines() == translations


def _check_scores(model: Model) -> None:
    sources, targets = ["the hat is here", "it falls now"], ["der hut ist hier", "er fällt jetzt"]
    in_order = model.score(sources, targets)
    assert in_order == pytest.approx(model.score(sources, targets, contexts=[[], [sources[0]]]), abs=1e-5)
    assert in_order[1] != pytest.approx(model.score(sources[1:], targets[1:])[0], abs=1e-5)
    with pytest.raises(UserError, match="2 sources and 1 contexts"):
        model.score(sources, targets, contexts=[[]])


def _check_contrastive_command(model: Model, folder: Path) -> None:
    pairs, path = contrastive_pairs(), _write_pairs()
    finished = kdmt("contrast", folder / "teacher", path, "--threads", "1")
    assert finished.code == 0, finished.err
    result = model.contrast(pairs)
    assert finished.out == f"accuracy {result.accuracy:.2f}: {result.num_correct} of {len(pairs)} pairs\n"
    scored = model.score([pairs[0].source], [pairs[0].right], contexts=[pairs[0].context])
    wrong = model.score([pairs[0].source], [pairs[0].wrong[0]], contexts=[pairs[0].context])
    assert result.margins[0] == pytest.approx(scored[0] - wrong[0], abs=1e-4)
    rows = json.loads((folder / "score" / "contrastive.json").read_text(encoding="utf-8"))
    assert [(row["system"], row["test"]) for row in rows] == [("teacher", "pronouns"), ("distilled", "pronouns")]
    assert rows[0]["num_correct"] == result.num_correct
    assert rows[0]["num_pairs"] == len(pairs)
    path.write_text("{}\n", encoding="utf-8")
    refused = kdmt("contrast", folder / "teacher", path)
    assert refused.code == 2
    assert "pairs.jsonl line 1: no field 'source'" in refused.err


def _write_pairs() -> Path:
    """Write the contrastive pairs to a file."""
    path = Path("pairs.jsonl")
    path.write_text("".join(f"{json.dumps(_as_json(pair))}\n" for pair in contrastive_pairs()), encoding="utf-8")
    return path


def _as_json(pair: ContrastivePair) -> dict[str, object]:
    return {"context": list(pair.context), "source": pair.source, "right": pair.right, "wrong": list(pair.wrong)}


# -------------------------------------------------------------------------------------------------------- SentencePiece


@pytest.mark.usefixtures("text")
def test_an_exported_model_with_pieces_reads_context_too() -> None:
    """Check that the separator is one piece, and that an export translates documents as the checkpoint does."""
    settings = pipeline_settings(with_context=True, max_updates=6)
    settings["prepare"]["tokenizer"] = {"vocab_size": 80, "hard_vocab_limit": False}
    settings["prepare"]["context"]["sentences"] = 2
    settings["prepare"]["text"] = {"lowercase": True}
    folder = train(settings, "prepare", "teacher")
    document = ["The hat is here", "it falls now", "it breaks soon", "", "it falls <sep> now"]
    model = load(folder / "teacher", threads=1)
    words = model.translator.codec.src_dictionary
    encoded = [words.string(ids[:-1]) for ids in model.translator.encode(model.translator.add_context(document))]
    assert [line.split().count("<sep>") for line in encoded] == [1, 1, 2, 0, 1]
    pieces = "".join(encoded[2].split())
    assert pieces == "▁the▁hat▁is▁here▁<sep>▁it▁falls▁now▁<sep>▁it▁breaks▁soon"
    assert kdmt("export", folder / "teacher", "out", "--to", "ctranslate2").code == 0
    stdin = "".join(f"{line}\n" for line in document).encode()
    found = [kdmt("translate", model, "--threads", "1", stdin=stdin) for model in (folder / "teacher", Path("out"))]
    assert [each.code for each in found] == [0, 0]
    assert found[0].out == found[1].out
    assert "the previous sentence" not in (Path("out") / "README.md").read_text(encoding="utf-8")
    assert "up to 2 previous sentences" in (Path("out") / "README.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("text")
def test_a_given_tokenizer_without_the_separator_is_refused() -> None:
    settings = pipeline_settings(with_context=False, max_updates=6)
    settings["prepare"]["tokenizer"] = {"vocab_size": 80, "hard_vocab_limit": False}
    folder = train(settings, "prepare")
    settings["name"], settings["prepare"]["context"] = "given", {}
    settings["prepare"]["tokenizer"] = {"source_path": str(folder / "prepare" / "tokenizer" / "joint.model")}
    Path("pipeline.yaml").write_text(to_yaml(settings), encoding="utf-8")
    finished = kdmt("prepare", "pipeline.yaml")
    assert finished.code == 2
    assert "prepare.context.separator: the given tokenizer has no piece '<sep>'" in finished.err
