"""Tests that Transformers computes the same with an exported model as kdmt, and finds the same tokens."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_transformers import (
    CONFIGS,
    POSITIONS,
    POST_NORM,
    make_model,
    make_sources,
    vocabulary_sizes,
    write_sentencepiece,
)
from small_transformers import write_text_processing as write_bpe

from kdmt.checksum import file_sha256
from kdmt.config import Decode
from kdmt.corpus.codec import TextCodec
from kdmt.decode.engines import pytorch
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.errors import UserError
from kdmt.interop import huggingface_export
from kdmt.interop.huggingface_export import export_checkpoint
from kdmt.models.architecture import NATConfig, TransformerConfig
from kdmt.models.build import build_nonautoregressive, build_transformer
from kdmt.models.checkpoint import save_checkpoint
from kdmt.models.transformer import Transformer
from kdmt.types import EOS, PAD, UNK

SUPPORTED = {
    **{
        name: CONFIGS[name]
        for name in (
            *("post-norm", "learned positions", "one side's positions learned", "all embeddings shared"),
            *("target embeddings shared", "gelu", "other depths"),
        )
    },
    "embeddings not scaled": replace(POST_NORM, no_scale_embedding=True),
    "other lengths": replace(POST_NORM, max_source_positions=30, encoder_learned_pos=True),
    "pre-norm": replace(CONFIGS["pre-norm"], share_all_embeddings=True),
    "Marian's layout": CONFIGS["Marian's layout"],
    "Marian's layout, two vocabularies": replace(CONFIGS["Marian's layout"], share_all_embeddings=False),
}
LENGTHS = [1, 5, 9, 20, 3]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def write(folder: Path, model: Transformer, *, joint: bool = True) -> Path:
    """Write a checkpoint with a SentencePiece tokenizer."""
    companions = write_sentencepiece(folder.with_name(f"{folder.name}-text"), _sizes(model), joint=joint)
    save_checkpoint(folder, model, companions=companions)
    return folder


def _sizes(model: Transformer) -> tuple[int, int]:
    return model.src_vocab_size, model.tgt_vocab_size


def opened(folder: Path) -> Any:
    import transformers

    return transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, local_files_only=True).eval()


@dataclass(frozen=True)
class Ids:
    """Ids of an exported folder, from its vocabularies."""

    source: list[int]  # of each id of kdmt
    words: dict[int, int]  # kdmt's id of each target id that is neither <pad> nor </s>
    pad: int

    @classmethod
    def read(cls, folder: Path) -> Ids:
        codec = TextCodec.load(folder)
        source = json.loads((folder / "vocab.json").read_text())
        separate = folder / "target_vocab.json"
        target = json.loads(separate.read_text()) if separate.exists() else source
        symbols = codec.tgt_dictionary.symbols
        words = {target[symbol]: token for token, symbol in enumerate(symbols) if token not in (PAD, EOS)}
        return cls([source[symbol] for symbol in codec.src_dictionary.symbols], words, source["<pad>"])

    def padded(self, sentences: list[Any]) -> dict[str, torch.Tensor]:
        """Return sentences as the input of a model of Transformers."""
        longest = max(map(len, sentences))
        rows = [[*(self.source[token] for token in each), *[self.pad] * (longest - len(each))] for each in sentences]
        return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(rows).ne(self.pad).long()}

    def tokens(self, row: torch.Tensor) -> tuple[int, ...]:
        """Return the tokens of a generated sentence."""
        return tuple(self.words[token] for token in row.tolist() if token in self.words)


@pytest.mark.parametrize("config", SUPPORTED.values(), ids=SUPPORTED.keys())
def test_search_finds_the_same_tokens_and_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: TransformerConfig
) -> None:
    monkeypatch.setattr(huggingface_export, "_check", lambda *_: None)  # tested below
    monkeypatch.setattr(pytorch, "_searches_like_marian", lambda _: False)  # Transformers has no such search
    model = make_model(config, eos_logit=12.0 if config.share_all_embeddings else 4.0)
    settings = Decode(beam=3, nbest=3, lenpen=0.6, max_len_a=0, max_len_b=config.max_target_positions)
    export_checkpoint(write(tmp_path / "a", model.float()), tmp_path / "out", decode=settings)
    theirs, ids = opened(tmp_path / "out"), Ids.read(tmp_path / "out")
    sources = make_sources(LENGTHS)
    ended = [  # at the maximum length, Transformers gives </s> the probability 1
        (source, hypotheses)
        for source, hypotheses in zip(sources, TorchEngine(model).decode(sources, settings), strict=True)
        if max(len(each.tokens) for each in hypotheses) < POSITIONS - 1
    ]
    assert len(ended) > 2
    expected = [hypotheses for _, hypotheses in ended]
    inputs = ids.padded([source for source, _ in ended])
    found = theirs.generate(**inputs, return_dict_in_generate=True, output_scores=True)
    for row, score, (best, *_) in zip(found.sequences, found.sequences_scores, expected, strict=True):
        assert ids.tokens(row) == best.tokens
        assert float(score) == pytest.approx(best.score, abs=1e-4)
    assert len({best.tokens for best, *_ in expected}) > 1


def test_greedy_search_finds_the_same_tokens(tmp_path: Path) -> None:
    model = make_model(eos_logit=4.0)
    settings = Decode(beam=1, max_len_a=0, max_len_b=POST_NORM.max_target_positions)
    export_checkpoint(write(tmp_path / "a", model.float()), tmp_path / "out", decode=settings)
    ids = Ids.read(tmp_path / "out")
    found = opened(tmp_path / "out").generate(**ids.padded(make_sources(LENGTHS)))
    for row, (best, *_) in zip(found, TorchEngine(model).decode(make_sources(LENGTHS), settings), strict=True):
        assert ids.tokens(row) == best.tokens


def test_positions_of_the_folder_are_used(tmp_path: Path) -> None:
    export_checkpoint(write(tmp_path / "a", make_model().float()), tmp_path / "out")
    before = opened(tmp_path / "out")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    weights["model.decoder.embed_positions.weight"][0] += 1.0
    save_file(weights, tmp_path / "out" / "model.safetensors", metadata={"format": "pt"})
    inputs = Ids.read(tmp_path / "out").padded(make_sources([4])) | {"decoder_input_ids": torch.tensor([[EOS]])}
    after = opened(tmp_path / "out")
    assert not torch.allclose(before(**inputs).logits, after(**inputs).logits)


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("name", ["post-norm", "all embeddings shared", "Marian's layout"])
def test_tokenizer_divides_and_joins_text_as_kdmt(tmp_path: Path, joint: bool, name: str) -> None:
    import transformers

    checkpoint = write(tmp_path / "a", make_model(CONFIGS[name]).float(), joint=joint)
    export_checkpoint(checkpoint, tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    codec, ids = TextCodec.load(checkpoint), Ids.read(tmp_path / "out")
    lines = ["abba baba", "", "cab  ba", "x abc", "bacab ☃ a", "ab", "a b c"]
    for line, tokens in zip(lines, codec.encode_raw_source(lines), strict=True):
        assert tokenizer(line)["input_ids"] == [ids.source[token] for token in tokens]
    batch = tokenizer(lines[:3], padding=True)["input_ids"]
    assert batch[1][1:] == [ids.pad] * (len(batch[1]) - 1)
    exported = {token: number for number, token in ids.words.items()}
    targets = zip(lines, codec.encode_target(lines), strict=True)
    known = [(line, tokens) for line, tokens in targets if line and UNK not in tokens and "  " not in line]
    assert known
    for line, tokens in known:
        row = [*(exported[token] for token in tokens[:-1]), tokenizer.eos_token_id, ids.pad]
        assert tokenizer.decode(row, skip_special_tokens=True) == line


def test_marian_layout_has_the_ids_of_other_marian_models(tmp_path: Path) -> None:
    """Other tools, such as CTranslate2's converter, expect that </s> is 0 and <pad>, a zero vector, is the last row."""
    model = make_model(CONFIGS["Marian's layout"]).float()
    export_checkpoint(write(tmp_path / "a", model), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    size = model.tgt_vocab_size
    assert (config["eos_token_id"], config["pad_token_id"], config["decoder_start_token_id"]) == (0, size, size)
    assert config["vocab_size"] == config["decoder_vocab_size"] == size + 1
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert not weights["model.shared.weight"][size].any()
    assert torch.equal(weights["model.shared.weight"][0], model.tgt_embed.tokens.weight[EOS])
    assert weights["final_logits_bias"][0, 0] == model.output_proj.bias[EOS]
    vocabulary = json.loads((tmp_path / "out" / "vocab.json").read_text())
    assert (vocabulary["</s>"], vocabulary["<unk>"], vocabulary["<pad>"]) == (0, 1, size)
    assert sorted(vocabulary.values()) == list(range(size + 1))


@pytest.mark.slow
def test_converter_of_ctranslate2_reads_marian_layout(tmp_path: Path) -> None:
    from ctranslate2 import Translator
    from ctranslate2.converters import TransformersConverter

    model = make_model(CONFIGS["Marian's layout"], eos_logit=12.0).float()
    checkpoint = write(tmp_path / "a", model)
    export_checkpoint(checkpoint, tmp_path / "out")
    TransformersConverter(str(tmp_path / "out")).convert(str(tmp_path / "converted"))
    symbols = TextCodec.load(checkpoint).tgt_dictionary.symbols
    sources, targets = make_sources([1, 5, 9]), make_sources([4, 2, 6], seed=1)
    found = Translator(str(tmp_path / "converted"), intra_threads=1).score_batch(
        [[symbols[token] for token in source] for source in sources],
        [[symbols[token] for token in target[:-1]] for target in targets],
    )
    for mine, expected in zip(found, TorchEngine(model).score_pairs(sources, targets), strict=True):
        assert mine.log_probs == pytest.approx(expected.tolist(), abs=1e-3)  # 1e-5 instead of 1e-6 in layer norms


def test_files_describe_the_search_and_the_model(tmp_path: Path) -> None:
    checkpoint = write(tmp_path / "a", make_model().float())
    export_checkpoint(checkpoint, tmp_path / "out", decode=Decode(beam=4, lenpen=0.8), card="---\ncard\n")
    checksums = json.loads((tmp_path / "out" / "checksums.json").read_text())
    assert checksums == {name: file_sha256(tmp_path / "out" / name) for name in checksums}
    assert {"config.json", "model.safetensors", "vocab.json", "source.spm", "README.md", "text.json"} < set(checksums)
    found = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert (found["num_beams"], found["length_penalty"], found["early_stopping"]) == (4, 0.8, True)
    assert (found["decoder_start_token_id"], found["eos_token_id"], found["bad_words_ids"]) == (EOS, EOS, [[PAD]])
    assert (tmp_path / "out" / "README.md").read_text() == "---\ncard\n"
    assert TextCodec.load(tmp_path / "out").src_dictionary == TextCodec.load(checkpoint).src_dictionary


def test_without_transformers_the_folder_is_written_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = write(tmp_path / "a", make_model().float())
    export_checkpoint(checkpoint, tmp_path / "checked")
    monkeypatch.setitem(sys.modules, "transformers", None)
    export_checkpoint(checkpoint, tmp_path / "out")
    assert "the export is not checked: Transformers is not installed" in caplog.text
    assert (tmp_path / "out" / "checksums.json").read_text() == (tmp_path / "checked" / "checksums.json").read_text()


def test_different_probabilities_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = write(tmp_path / "a", make_model().float())
    monkeypatch.setattr(huggingface_export, "_position_table", lambda _, __, size: torch.zeros(size, 16))
    with pytest.raises(UserError, match="computes other probabilities from the export: log-probabilities differ by"):
        export_checkpoint(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


REFUSED = {
    "pre-norm": (CONFIGS["pre-norm"], "only with 'model.share_all_embeddings'"),
    "pre-norm, learned": (
        replace(CONFIGS["pre-norm"], share_all_embeddings=True, encoder_learned_pos=True),
        "only with sinusoidal positions",
    ),
    "one side": (CONFIGS["pre-norm encoder, post-norm decoder"], "in one of encoder and decoder only"),
    "SSRU": (replace(CONFIGS["Marian's layout"], decoder="ssru"), "no model with 'model.decoder: ssru'"),
    "norm": (CONFIGS["normalised embeddings"], "no 'model.layernorm_embedding'"),
    "widths": (CONFIGS["other widths and heads"], "different widths of encoder and decoder"),
}


@pytest.mark.parametrize(("config", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_models_that_transformers_does_not_have_are_refused(
    tmp_path: Path, config: TransformerConfig, message: str
) -> None:
    sizes = vocabulary_sizes(config)
    model = build_transformer(config, src_vocab_size=sizes[0], tgt_vocab_size=sizes[1])
    with pytest.raises(UserError, match=message):
        export_checkpoint(write(tmp_path / "a", model), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_non_autoregressive_models_are_refused(tmp_path: Path) -> None:
    model = build_nonautoregressive(POST_NORM, NATConfig(family="ctc"), src_vocab_size=15, tgt_vocab_size=18)
    with pytest.raises(UserError, match="no decoder for a 'ctc' model"):
        export_checkpoint(write(tmp_path / "a", model), tmp_path / "out")


def test_other_tokenizers_and_text_processing_are_refused(tmp_path: Path) -> None:
    size, companions = write_bpe(tmp_path / "bpe")
    model = build_transformer(POST_NORM, src_vocab_size=size, tgt_vocab_size=size)
    save_checkpoint(tmp_path / "a", model, companions=companions)
    with pytest.raises(UserError, match="needs SentencePiece models"):
        export_checkpoint(tmp_path / "a", tmp_path / "out")
    checkpoint = write(tmp_path / "b", make_model().float())
    settings = json.loads((checkpoint / "text.json").read_text())
    settings["text"] |= {"moses": True, "lowercase": True}
    text = tmp_path / "b-text" / "text.json"
    text.write_text(json.dumps(settings))
    save_checkpoint(
        tmp_path / "c", make_model().float(), companions=TextCodec.load(text.parent).companions(text.parent)
    )
    with pytest.raises(UserError, match=r"\(text.moses, text.lowercase\) is no part of the tokenizers"):
        export_checkpoint(tmp_path / "c", tmp_path / "out")
