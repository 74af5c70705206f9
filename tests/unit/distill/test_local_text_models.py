"""Tests of the answers in the tokens that local models generate; `test_local_text_teachers` runs the models."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
from small_transformers import CONFIGS, fix_logits

from kdmt.config import Decode, LocalGenerator, LocalTranslator
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.distill.blocks import Block
from kdmt.distill.llm_answers import Answer, LanguageCheck
from kdmt.distill.llm_prompt import Prompt
from kdmt.distill.local_text_models import GeneratingTeacher, TextTranslator, _answer, _end_token
from kdmt.distill.text_ids import count_answer_tokens, decode_text, encode_source
from kdmt.errors import UserError
from kdmt.interop.ctranslate2_export import export_model
from kdmt.interop.indictrans2 import from_devanagari, join_punctuation
from kdmt.languages import Direction
from kdmt.models.build import build_transformer
from kdmt.types import SPECIALS
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
        GeneratingTeacher(CHECK, "auto", settings, Prompt(("", ""))),
        TextTranslator(CHECK, "auto", LocalTranslator(ctranslate2=str(tmp_path)), Decode()),
    ):
        copied = pickle.loads(pickle.dumps(teacher))
        assert copied == teacher
        with pytest.raises(UserError, match="no tokenizer: copy that of the model into the folder"):
            copied.open(spec, {})
        assert set(copied.made_with(spec)) == {"ctranslate2", "sentencepiece", "processor", "threads"}


def save_indictrans2(folder: Path) -> tuple[Any, list[str], list[str]]:
    """Save a random model in the files of IndicTrans2; return it with the symbols of both sides."""
    pieces = []
    for side, lines in (
        ("SRC", ("a dog runs .", "the cats run fast , too .")),
        ("TGT", ("कुत्ता दौड़ता है ।", "बिल्ली खाना")),
    ):
        (folder.parent / side).touch()
        with (folder.parent / side).open("wb") as file:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(lines * 10),
                model_writer=file,
                vocab_size=60,
                hard_vocab_limit=False,
                minloglevel=2,
            )
        model = sentencepiece.SentencePieceProcessor(model_file=str(folder.parent / side))
        pieces.append([model.id_to_piece(place) for place in range(3, len(model))])
    symbols = [*SPECIALS, "eng_Latn", "tam_Taml", *pieces[0]], [*SPECIALS, *pieces[1]]
    torch.manual_seed(3)
    model = build_transformer(CONFIGS["pre-norm"], src_vocab_size=len(symbols[0]), tgt_vocab_size=len(symbols[1]))
    with torch.no_grad():
        fix_logits(model, pad_logit=-30.0, eos_logit=3.0)  # hypotheses end before the limit
    export_model(model.eval(), folder, src_symbols=symbols[0], tgt_symbols=symbols[1])
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    # as the converter for fairseq writes it
    (folder / "config.json").write_text(json.dumps(config | {"add_source_eos": True}), encoding="utf-8")
    (folder / "vocab").mkdir()
    for side in ("SRC", "TGT"):
        (folder.parent / side).replace(folder / f"vocab/model.{side}")
    return model, *symbols


def test_indictrans2_translates_what_pytorch_translates(tmp_path: Path) -> None:
    model, source_symbols, target_symbols = save_indictrans2(tmp_path / "indic")
    settings = Decode(beam=2, nbest=2, max_len_a=0.0, max_len_b=20)
    translator = LocalTranslator(ctranslate2=str(tmp_path / "indic"), source_code="eng_Latn", target_code="tam_Taml")
    teacher = TextTranslator(LanguageCheck(Direction("en", "ta")), "auto", translator, settings)
    texts = ["A dog runs.", "the cats run, too.", "run fast"]
    translate = teacher.open(WorkerSpec(0, 1, "cpu", tmp_path / "log"), {})
    found = translate([encode_source(text) for text in texts], [0, 1, 2], Block(0, 0, 3), lambda _: None)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "indic/vocab/model.SRC"))
    sources = []
    for words in ("A dog runs .", "the cats run , too .", "run fast"):
        tokens = ["eng_Latn", "tam_Taml", *pieces.encode(words, out_type=str), "</s>"]
        unknown = source_symbols.index("<unk>")
        sources.append(np.array([source_symbols.index(t) if t in source_symbols else unknown for t in tokens]))
    for own, wanted in zip(found, TorchEngine(model).decode(sources, settings), strict=True):
        for hypothesis, expected in zip(own, wanted, strict=True):
            devanagari = "".join(target_symbols[token] for token in expected.tokens).replace("\u2581", " ").strip()
            ids = np.array(hypothesis.tokens)
            assert decode_text(ids) == join_punctuation(from_devanagari(devanagari, "Taml"))
            assert count_answer_tokens(ids, np.array([len(ids)])).tolist() == [len(expected.tokens) + 1]
            assert hypothesis.score == pytest.approx(expected.score, abs=1e-4)
