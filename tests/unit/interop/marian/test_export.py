"""Tests of the export to Marian and Bergamot. `make parity-deploy` runs the exported models in the real programs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import sentencepiece
import torch
import yaml
from small_transformers import CONFIGS, POST_NORM, write_data_bin, write_sentencepiece, write_text_processing

from kdmt.config import Decode
from kdmt.corpus.codec import TextCodec
from kdmt.errors import UserError
from kdmt.interop.marian.export import export_bergamot, export_marian
from kdmt.interop.marian.files import read_model
from kdmt.interop.marian.importing import MarianText, import_model
from kdmt.models.architecture import TransformerConfig
from kdmt.models.build import build_transformer
from kdmt.models.checkpoint import load_model, save_checkpoint

WIDE = TransformerConfig(
    encoder_layers=1,
    decoder_layers=2,
    encoder_embed_dim=64,
    decoder_embed_dim=64,
    encoder_ffn_embed_dim=64,
    decoder_ffn_embed_dim=64,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    share_all_embeddings=True,
    layout="marian",
    decoder="ssru",
)
SHAPES = {
    "ssru": WIDE,
    "tied decoder layers": replace(WIDE, tied_decoder_layers=True),
    "self-attention": replace(WIDE, decoder="self_attention"),
    "swish, norm of embeddings": replace(WIDE, activation_fn="swish", layernorm_embedding=True),
    "separate embeddings": replace(WIDE, share_all_embeddings=False),
    "output shared with the target": replace(
        WIDE, share_all_embeddings=False, share_decoder_input_output_embed=True, decoder_ffn_embed_dim=128
    ),
}
DECODE = Decode(beam=4, lenpen=1.0)


def write_checkpoint(folder: Path, config: TransformerConfig = WIDE, *, joint: bool = True) -> Path:
    sizes = (16, 16) if config.share_all_embeddings else (16, 14)
    companions = write_sentencepiece(folder.with_name(f"{folder.name}-text"), sizes, joint=joint)
    torch.manual_seed(1)
    model = build_transformer(config, src_vocab_size=sizes[0], tgt_vocab_size=sizes[1]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    save_checkpoint(folder, model, companions=companions)
    return folder


@pytest.fixture
def data_bin(tmp_path: Path) -> Path:
    """Write a data-bin with the dictionaries of the checkpoints of this module."""
    write_sentencepiece(tmp_path / "data-text", (16, 16))
    return write_data_bin(tmp_path / "data-bin", tmp_path / "data-text")


@pytest.mark.parametrize("name", SHAPES)
def test_export_and_import_give_the_same_weights(tmp_path: Path, name: str) -> None:
    joint = SHAPES[name].share_all_embeddings
    checkpoint = write_checkpoint(tmp_path / "checkpoint", SHAPES[name], joint=joint)
    export_marian(checkpoint, tmp_path / "out", decode=DECODE)
    import_model(tmp_path / "out" / "model.npz", tmp_path / "back", MarianText())
    before, after = load_model(checkpoint), load_model(tmp_path / "back")
    assert replace(
        after.config, dropout=before.config.dropout, max_source_positions=1, max_target_positions=1
    ) == replace(before.config, max_source_positions=1, max_target_positions=1)
    weights = dict(after.named_parameters())
    for weight_name, weight in before.named_parameters():
        assert torch.equal(weight, weights[weight_name]), weight_name
    codecs = [TextCodec.load(folder) for folder in (checkpoint, tmp_path / "back")]
    assert codecs[0].tgt_dictionary == codecs[1].tgt_dictionary


def test_folder_for_marian(tmp_path: Path, data_bin: Path) -> None:
    export_marian(
        write_checkpoint(tmp_path / "checkpoint"), tmp_path / "out", decode=DECODE, data=data_bin, card="A card."
    )
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {
        *("model.npz", "model.npz.decoder.yml", "vocab.spm", "lex.s2t", "lex.50.50.s2t.bin", "README.md"),
        *("model.json", "tokenizer", "text.json", "dict.en.txt", "dict.de.txt", "checksums.json"),
    }
    options = yaml.safe_load((tmp_path / "out" / "model.npz.decoder.yml").read_text())
    assert options["beam-size"] == 4
    assert options["normalize"] == 1.0
    assert options["vocabs"] == ["vocab.spm", "vocab.spm"]
    vocabulary = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "out" / "vocab.spm"))
    assert (vocabulary.eos_id(), vocabulary.unk_id()) == (0, 1)
    model = read_model(tmp_path / "out" / "model.npz")
    assert len(model.parameters["Wemb"]) == vocabulary.get_piece_size()
    assert model.options["dim-vocabs"] == [vocabulary.get_piece_size()] * 2
    assert json.loads((tmp_path / "out" / "checksums.json").read_text()).keys() >= {"model.npz", "vocab.spm", "lex.s2t"}


def test_separate_vocabularies_have_two_files(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", SHAPES["separate embeddings"], joint=False)
    export_marian(checkpoint, tmp_path / "out", decode=DECODE)
    options = yaml.safe_load((tmp_path / "out" / "model.npz.decoder.yml").read_text())
    assert options["vocabs"] == ["source.spm", "target.spm"]
    assert not (tmp_path / "out" / "lex.s2t").exists()


@pytest.mark.parametrize("beam", [1, 4])
def test_folder_for_bergamot(tmp_path: Path, data_bin: Path, beam: int) -> None:
    export_bergamot(
        write_checkpoint(tmp_path / "checkpoint"), tmp_path / "out", decode=Decode(beam=beam), data=data_bin
    )
    out = tmp_path / "out"
    names = {"model.ende.intgemm.alphas.bin", "vocab.ende.spm", "lex.50.50.ende.s2t.bin", "config.yml", "metadata.json"}
    assert names < {path.name for path in out.iterdir()}
    config = yaml.safe_load((out / "config.yml").read_text())
    assert config["gemm-precision"] == "int8shiftAlphaAll"
    assert (config["beam-size"], config["skip-cost"]) == (beam, beam == 1)
    assert {*config["models"], *config["vocabs"], config["shortlist"][0]} <= names
    metadata = json.loads((out / "metadata.json").read_text())
    assert metadata["architecture"] == "custom"
    assert metadata["byteSize"] == (out / "model.ende.intgemm.alphas.bin").stat().st_size
    model = read_model(out / "model.ende.intgemm.alphas.bin")
    assert metadata["modelStatistics"]["parameters"] == sum(each.size for each in model.parameters.values())
    exact = load_model(tmp_path / "checkpoint").src_embed.tokens.weight.detach()
    import_model(out / "model.ende.intgemm.alphas.bin", tmp_path / "back", MarianText())
    rounded = load_model(tmp_path / "back").src_embed.tokens.weight.detach()
    assert 0 < float((exact - rounded).abs().max()) <= float(exact.abs().max()) / 254 * 1.001


REFUSED = {
    "fairseq's layout": (POST_NORM, "fairseq's numerics"),
    "a width that int8 products do not have": (CONFIGS["Marian's layout"], "int8 products need a multiple of 64"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_models_that_bergamot_does_not_have_are_refused(tmp_path: Path, data_bin: Path, name: str) -> None:
    config, message = REFUSED[name]
    checkpoint = write_checkpoint(tmp_path / "checkpoint", replace(config, share_all_embeddings=True))
    with pytest.raises(UserError, match=message):
        export_bergamot(checkpoint, tmp_path / "out", decode=DECODE, data=data_bin)
    assert not (tmp_path / "out").exists()


def test_other_tokenizers_are_refused(tmp_path: Path) -> None:
    size, companions = write_text_processing(tmp_path / "text")
    model = build_transformer(WIDE, src_vocab_size=size, tgt_vocab_size=size)
    save_checkpoint(tmp_path / "checkpoint", model, companions=companions)
    with pytest.raises(UserError, match="checkpoint: Marian has SentencePiece vocabularies"):
        export_marian(tmp_path / "checkpoint", tmp_path / "out", decode=DECODE)


def test_bergamot_needs_a_sample(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="name a data-bin with --data"):
        export_bergamot(write_checkpoint(tmp_path / "checkpoint"), tmp_path / "out", decode=DECODE)


def test_a_data_bin_with_another_vocabulary_is_refused(tmp_path: Path, data_bin: Path) -> None:
    path = data_bin / "dict.de.txt"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    with pytest.raises(UserError, match="does not match"):
        export_marian(write_checkpoint(tmp_path / "checkpoint"), tmp_path / "out", decode=DECODE, data=data_bin)


def test_the_data_bin_of_the_pipeline_is_found(tmp_path: Path, data_bin: Path) -> None:
    (tmp_path / "run" / "prepare").mkdir(parents=True)
    data_bin.rename(tmp_path / "run" / "prepare" / "data-bin")
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    (tmp_path / "run" / "students").mkdir()
    checkpoint.rename(tmp_path / "run" / "students" / "small")
    export_marian(tmp_path / "run" / "students" / "small", tmp_path / "out", decode=DECODE)
    assert (tmp_path / "out" / "lex.s2t").read_text()
