"""Tests of the answers in the tokens that local models generate; `test_local_text_teachers` runs the models."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path

import pytest

from kdmt.config import Decode, LocalGenerator
from kdmt.distill.llm_answers import Answer, LanguageCheck
from kdmt.distill.llm_prompt import Prompt
from kdmt.distill.local_text_models import GeneratingTeacher, TextTranslator, _answer, _end_token
from kdmt.errors import UserError
from kdmt.languages import Direction
from kdmt.workers.tasks import WorkerSpec

CHECK = LanguageCheck(Direction("en", "de"))


class Words:
    """Tokenizer whose tokens are words."""

    def encode(self, text: str) -> list[str]:
        return text.split()

    def decode(self, tokens: Sequence[str]) -> str:
        return " ".join(tokens)


@pytest.mark.parametrize(
    ("tokens", "limit", "most", "text", "finish"),
    [
        (["a", "b", "</s>"], 5, 9, "a b", "stop"),
        (["a", "b", "<end>"], 5, 9, "a b", "stop"),
        (["</s>"], 5, 9, "", "stop"),
        (["a", "b", "</s>"], 3, 3, "a b", "stop"),  # the end is the last token that is allowed
        (["a", "b", "c"], 3, 3, "a b c", "length"),
        (["a", "b", "c", "</s>"], 3, 9, "a b c", "length"),  # as if it had been generated up to its own limit
        (["a", "b", "c", "d", "e"], 3, 5, "a b c", "length"),
    ],
)
def test_answers_end_at_an_end_token_or_are_cut_at_their_limit(
    tokens: list[str], limit: int, most: int, text: str, finish: str
) -> None:
    assert _answer(Words(), tokens, limit, most, ["</s>", "<end>"]) == Answer(text, finish)


def test_the_end_token_is_that_of_the_model(tmp_path: Path) -> None:
    assert _end_token(tmp_path) == "</s>"
    (tmp_path / "config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}), encoding="utf-8")
    assert _end_token(tmp_path) == "<|im_end|>"


def test_teachers_can_be_sent_to_workers_and_name_what_they_cannot_load(tmp_path: Path) -> None:
    settings = LocalGenerator.model_validate({"ctranslate2_generator": str(tmp_path), "prompt": "p"})
    spec = WorkerSpec(0, 1, "cpu", tmp_path / "log")
    for teacher in (
        GeneratingTeacher(settings, Prompt(("", "")), CHECK, "auto"),
        TextTranslator(tmp_path, "", Decode(), CHECK, "auto"),
    ):
        copied = pickle.loads(pickle.dumps(teacher))
        assert copied == teacher
        with pytest.raises(UserError, match="no tokenizer: copy that of the model into the folder"):
            copied.open(spec, {})
        assert set(copied.made_with(spec)) == {"ctranslate2", "sentencepiece", "processor", "threads"}
