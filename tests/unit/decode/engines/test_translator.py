"""Tests of the translator: from raw text to finished text with any kind of model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_pipeline import kdmt, run_stages, settings, to_yaml

from kdmt.config import Decode, Text
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.text import TextProcessor
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.decode.engines.simultaneous import SimultaneousTranslator
from kdmt.decode.engines.translator import Translator
from kdmt.errors import UserError
from kdmt.languages import Direction
from kdmt.models.checkpoint import load_model
from kdmt.types import EOS

TEACHER = Path("runs/tiny/teacher")
AVERAGE = TEACHER / "average"
LINES = ["ba be", "", "gi ga", "da"]


@pytest.mark.usefixtures("pipeline")
def test_text_is_processed_as_for_training() -> None:
    """Check that sources are tokenised and lowercased, and that output is detokenised."""
    document = settings()
    document["prepare"]["text"] = {"moses": True, "lowercase": True}
    document["teacher"]["train"] |= {"max_updates": 2}
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    run_stages("prepare", "teacher")
    translator = Translator.load(TEACHER)
    first, second = translator.translate(["Ba, BE!", "ba , be !"], Decode())
    assert first == second
    assert translator.codec.finish_target("ok , uk !") == "ok, uk!"


@pytest.mark.usefixtures("finished")
def test_a_translation_is_the_text_of_the_best_hypothesis() -> None:
    codec, engine = TextCodec.load(AVERAGE), TorchEngine(load_model(AVERAGE))
    sources = codec.encode_raw_source([line for line in LINES if line])
    best = [nbest[0].tokens for nbest in engine.decode(sources, Decode())]
    texts = iter(codec.finish_target(codec.decode_target(tokens)) for tokens in best)
    expected = [next(texts) if line else "" for line in LINES]
    assert Translator.load(AVERAGE).translate(LINES, Decode()) == expected
    assert Translator.of_model(load_model(AVERAGE), codec).translate(LINES, Decode()) == expected


@pytest.mark.usefixtures("finished")
def test_an_exported_model_translates_like_its_checkpoint() -> None:
    assert kdmt("export", TEACHER, "out", "--to", "ctranslate2").code == 0
    exported = Translator.load(Path("out"), threads=1)
    assert exported.translate(LINES, Decode()) == Translator.load(TEACHER).translate(LINES, Decode())


@pytest.mark.usefixtures("finished")
def test_a_source_that_is_too_long_is_cut_with_a_message(caplog: pytest.LogCaptureFixture) -> None:
    translator = Translator.load(TEACHER)
    limit = translator.max_source_tokens
    assert limit == load_model(AVERAGE).config.max_source_positions
    (long,) = translator.codec.encode_raw_source(["ba " * 500])
    cut = np.append(long[: limit - 1], EOS)
    assert translator.translate_ids([long, cut], Decode()) == [translator.translate_ids([cut], Decode())[0]] * 2
    assert caplog.messages == []
    translator.translate(["ba", "ba " * 500], Decode(), first_line=7)
    translator.encode(["ba " * 500], noun="sentence", first=0)
    assert caplog.messages == [
        f"line 8: {len(long)} tokens, cut to the model's {limit}",
        f"sentence 0: {len(long)} tokens, cut to the model's {limit}",
    ]


@pytest.mark.usefixtures("finished")
def test_sources_without_words_have_no_hypotheses() -> None:
    translator, counts = Translator.load(TEACHER), list[int]()
    sources = translator.encode(["ba be", "", "bi"])
    found = translator.hypotheses(sources, Decode(beam=3, nbest=2), progress=counts.append)
    assert [len(nbest) for nbest in found] == [2, 0, 2]
    assert sum(counts) == 2
    assert translator.best_hypotheses(sources, Decode(beam=3)) == [found[0][0], None, found[2][0]]


def test_the_only_direction_of_a_model_is_its_own_and_another_is_refused() -> None:
    nothing: Any = None  # neither tokenizers nor dictionaries nor an engine are needed
    codec = TextCodec(TextProcessor(Text(), "en", "de"), nothing, nothing, nothing)
    translator = Translator(nothing, codec)
    assert translator.for_direction(Direction("eng", "deu")) is translator
    with pytest.raises(UserError, match=r"^the model does not translate en-fr; it translates en-de$"):
        translator.for_direction(Direction("en", "fr"))


def test_the_token_of_a_language_is_no_tag(multilingual_model: Path) -> None:
    translator = Translator.load(multilingual_model)
    for each in (translator, translator.for_direction(Direction("en", "de"))):
        with pytest.raises(UserError, match=r"^tag '<2fr>' is the token of a language, which the direction of"):
            each.with_tag("<2fr>")


@pytest.mark.parametrize("wait_k", [None, 3])
def test_a_multilingual_model_does_not_translate_simultaneously(multilingual_model: Path, wait_k: int | None) -> None:
    translator = Translator.load(multilingual_model)
    with pytest.raises(UserError, match=r"^simultaneous translation does not support models of several directions$"):
        SimultaneousTranslator(translator, Decode(), wait_k=wait_k)
