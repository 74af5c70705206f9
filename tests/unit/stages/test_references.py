"""References, and scores of text in the form that the tokenizer reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import sacrebleu
from tiny_pipeline import read_lines, run_stages, settings, to_yaml

from kdmt.config import load_pipeline
from kdmt.stages.references import join_words, read_references, score_words
from kdmt.stages.workspace import Workspace

PREPARED = Path("runs/tiny/prepare")


def workspace(**score: object) -> Workspace:
    document = settings()
    document["prepare"]["text"] = {"moses": True}
    document["score"] = {**document.get("score", {}), **score}
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    return Workspace(load_pipeline(Path("tiny.yaml"), ()), Path("runs"))


@pytest.mark.usefixtures("pipeline")
def test_references_are_raw_text_or_words() -> None:
    detokenized, words = workspace(), workspace(detokenized=False)
    run_stages("prepare")
    assert (
        read_references(detokenized, "test") == read_lines(PREPARED / "test.raw.de") == read_lines(Path("text/test.de"))
    )
    assert read_references(words, "test") == read_lines(PREPARED / "test.de")


@pytest.mark.usefixtures("pipeline")
@pytest.mark.parametrize("detokenized", [True, False])
def test_words_are_scored_in_one_form_with_every_setting(detokenized: bool) -> None:
    where = workspace(detokenized=detokenized)
    hypotheses, references = ["ba , be !", "gi"], ["ba , bo !", "gi"]
    bleu = score_words(where, "bleu", hypotheses, references)
    assert bleu.value == sacrebleu.corpus_bleu(hypotheses, [references], tokenize="none", force=True).score
    assert "tok:none" in bleu.signature
    chrf = score_words(where, "chrf", hypotheses, references)
    assert chrf.value == sacrebleu.corpus_chrf(hypotheses, [references]).score
    assert "tok:char" in score_words(where, "bleu", hypotheses, references, tokenize="char").signature


@pytest.mark.usefixtures("pipeline")
def test_subwords_in_the_text_are_joined() -> None:
    document = settings()
    document["prepare"]["tokenizer"] = {"type": "words", "remove_bpe": "subword_nmt"}
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    where = Workspace(load_pipeline(Path("tiny.yaml"), ()), Path("runs"))
    assert join_words(where, ["ha@@ llo we@@ lt", "ja"]) == ["hallo welt", "ja"]
