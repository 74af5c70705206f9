"""Tests of exports of models with several directions: they translate in all of them, as the checkpoint does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from multilingual_models import DIRECTIONS, LINES, SHARED, write_languages, write_multilingual
from slow_parameters import some_of
from small_transformers import make_model

from kdmt.choices import LanguageTokens
from kdmt.config import Decode
from kdmt.corpus.codec import TextCodec
from kdmt.decode.engines.ctranslate2 import CTranslate2Engine
from kdmt.decode.engines.onnx import OnnxEngine
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.decode.engines.translator import Translator
from kdmt.errors import UserError
from kdmt.interop.exporters import EXPORTERS, MULTILINGUAL, ExportOptions
from kdmt.models.checkpoint import save_checkpoint
from kdmt.types import EOS, Sampling

SEARCH = Decode(beam=3, nbest=3, max_len_a=0.0, max_len_b=8)
SCHEMES = get_args(LanguageTokens)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("tokens", some_of(SCHEMES, 2))
@pytest.mark.parametrize("name", ["ctranslate2", "onnx"])
def test_translations_in_all_directions_are_those_of_the_checkpoint(
    tmp_path: Path, name: str, tokens: LanguageTokens
) -> None:
    checkpoint = write_multilingual(tmp_path / "model", tokens)
    EXPORTERS[name].export(checkpoint, tmp_path / "out", ExportOptions())
    ours, theirs = Translator.load(checkpoint), Translator.load(tmp_path / "out")
    with pytest.raises(UserError, match="several directions: choose one of en-de, en-fr, cs-en"):
        theirs.translate(LINES, SEARCH)
    found = []
    for direction in DIRECTIONS:
        own, exported = ours.for_direction(direction), theirs.for_direction(direction)
        sources = own.encode(LINES)
        expected = own.hypotheses(sources, SEARCH)
        found.append([nbest[0].score for nbest in expected])
        for nbest, wanted in zip(exported.hypotheses(exported.encode(LINES), SEARCH), expected, strict=True):
            assert [each.tokens for each in nbest] == [each.tokens for each in wanted]
            assert [each.score for each in nbest] == pytest.approx([each.score for each in wanted], abs=1e-3)
        assert exported.translate(LINES, SEARCH) == own.translate(LINES, SEARCH)
    assert found[0] != found[1]  # the token has an effect


@pytest.mark.parametrize("name", ["ctranslate2", "onnx"])
def test_forced_scores_and_samples_are_those_of_the_checkpoint(tmp_path: Path, name: str) -> None:
    checkpoint = write_multilingual(tmp_path / "model", "source_and_decoder")
    EXPORTERS[name].export(checkpoint, tmp_path / "out", ExportOptions())
    ours, theirs = Translator.load(checkpoint).engine, Translator.load(tmp_path / "out").engine
    assert isinstance(ours, TorchEngine)
    assert isinstance(theirs, CTranslate2Engine | OnnxEngine)
    loaded = Translator.load(checkpoint)
    sources = [loaded.for_direction(each).encode([line])[0] for each in DIRECTIONS for line in LINES]
    targets = [loaded.codec.encode_target([line])[0] for _ in DIRECTIONS for line in reversed(LINES)]
    for found, expected in zip(theirs.score_pairs(sources, targets), ours.score_pairs(sources, targets), strict=True):
        assert found == pytest.approx(expected, abs=1e-4)
    if isinstance(theirs, OnnxEngine):
        return
    for sampling in (Sampling(), Sampling(epsilon=0.02)):
        drawn = theirs.sample(sources, SEARCH, sampling, seed=1, samples=2)
        rows = [np.array([*each.tokens, EOS]) for own in drawn for each in own]
        scores = ours.score_pairs([source for source in sources for _ in range(2)], rows)
        for each, expected in zip([each for own in drawn for each in own], scores, strict=True):
            assert each.log_probs == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("tokens", ["target_in_source", "both_in_source"])
def test_transformers_reads_the_tokens_of_the_direction(tmp_path: Path, tokens: LanguageTokens) -> None:
    transformers = pytest.importorskip("transformers")
    checkpoint = write_multilingual(tmp_path / "model", tokens)
    EXPORTERS["huggingface"].export(checkpoint, tmp_path / "out", ExportOptions(beam=1))
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out", local_files_only=True).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    ours, codec = Translator.load(checkpoint), TextCodec.load(checkpoint)
    for direction in DIRECTIONS:
        own = ours.for_direction(direction)
        prefix = " ".join(codec.text.prefixes[str(direction)])
        for line, source in zip(LINES, own.encode(LINES), strict=True):
            batch = tokenizer([f"{prefix} {line}"], return_tensors="pt")
            assert batch["input_ids"][0].tolist() == source.tolist()
            (wanted,) = own.best_hypotheses([source], Decode(beam=1, max_len_a=0.0, max_len_b=9))
            assert wanted is not None
            output = model.generate(**batch, max_length=11)[0].tolist()
            assert output[1:-1] == list(wanted.tokens)


def test_transformers_has_no_tokens_of_the_decoder(tmp_path: Path) -> None:
    checkpoint = write_multilingual(tmp_path / "model", "source_and_decoder")
    with pytest.raises(UserError, match="the model is multilingual: the tokenizer of the export would put no language"):
        EXPORTERS["huggingface"].export(checkpoint, tmp_path / "out", ExportOptions())


@pytest.mark.parametrize("name", sorted(EXPORTERS.keys() - set(MULTILINGUAL)))
def test_formats_with_one_direction_are_refused(tmp_path: Path, name: str) -> None:
    checkpoint = write_multilingual(tmp_path / "model", "target_in_source")
    message = r"model: translates in several directions \(en-de, en-fr, cs-en\), and .* models have one"
    with pytest.raises(UserError, match=message):
        EXPORTERS[name].export(checkpoint, tmp_path / "out", ExportOptions())
    assert not (tmp_path / "out").exists()


def test_one_direction_with_a_language_token_is_refused_by_formats_without_them(tmp_path: Path) -> None:
    companions = write_languages(tmp_path / "text", "target_in_source")
    values = json.loads((tmp_path / "text" / "text.json").read_text())
    (tmp_path / "text" / "text.json").write_text(json.dumps(values | {"directions": [["en", "de"]]}))
    save_checkpoint(tmp_path / "model", make_model(SHARED).float(), companions=companions)
    with pytest.raises(UserError, match="model: knows its direction en-de from language tokens, which Bergamot"):
        EXPORTERS["bergamot"].export(tmp_path / "model", tmp_path / "out", ExportOptions())


@pytest.mark.parametrize(
    ("tokens", "row"),
    [("both_in_source", "| cs-en | `<cs> <2en>` |"), ("source_and_decoder", "| cs-en | `<cs>` | `<en>` |")],
)
def test_the_model_card_names_the_directions_and_their_tokens(tmp_path: Path, tokens: LanguageTokens, row: str) -> None:
    checkpoint = write_multilingual(tmp_path / "model", tokens)
    EXPORTERS["ctranslate2"].export(checkpoint, tmp_path / "out", ExportOptions())
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlanguage: [en, de, fr, cs]\n")
    assert "from `en` to `de`, from `en` to `fr`, from `cs` to `en`, with" in card
    assert row in card
