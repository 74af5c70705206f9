"""Tests of Marian's options. Refused ones are tested with whole models in `test_importing`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kdmt.errors import UserError
from kdmt.interop.marian.files import read_model
from kdmt.interop.marian.options import check_config, decoder_options, model_options, read_config
from kdmt.models.architecture import ARCHITECTURES, TransformerConfig

GOLDEN = Path(__file__).parents[3] / "golden" / "marian"
CONFIG = TransformerConfig(layout="marian", encoder_layers=3, decoder_layers=2, encoder_ffn_embed_dim=64, dropout=0.1)


@pytest.mark.parametrize("name", ["attention", "ssru", "separate"])
def test_written_options_are_those_of_marian(name: str) -> None:
    theirs = read_model(GOLDEN / f"{name}.npz").options
    ours = model_options(read_config(theirs, max_positions=1024), theirs["dim-vocabs"])
    old = {"transformer-train-positions"}  # the name of an option before version 1.12
    assert ours.keys() - old <= theirs.keys()
    without_effect = {"separator-symbol", "dec-cell", "version"} if name != "ssru" else {"separator-symbol", "version"}
    assert {key: theirs[key] for key in ours.keys() - old - without_effect} == {
        key: ours[key] for key in ours.keys() - old - without_effect
    }


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        replace(CONFIG, decoder="ssru", tied_decoder_layers=True, activation_fn="swish"),
        replace(CONFIG, share_all_embeddings=True, layernorm_embedding=True, decoder_ffn_embed_dim=64),
        replace(CONFIG, share_decoder_input_output_embed=True),
        *(replace(each, dropout=0.1) for name, each in ARCHITECTURES.items() if name.startswith("student_")),
    ],
)
def test_read_options_are_those_written(config: TransformerConfig) -> None:
    assert read_config(model_options(config, (8, 8)), max_positions=1024) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": "fairseq"}, "fairseq's numerics"),
        ({"encoder_layers": 0}, "no encoder without layers"),
        ({"source_token": 4}, "multilingual"),
    ],
)
def test_models_that_marian_does_not_have_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_config(replace(CONFIG, **changes))  # type: ignore[arg-type]


def test_decoder_options_name_files_and_search() -> None:
    options = decoder_options("m.npz", ("a.spm", "b.spm"), beam=3, lenpen=0.6)
    assert options["models"] == ["m.npz"]
    assert options["vocabs"] == ["a.spm", "b.spm"]
    assert (options["beam-size"], options["normalize"], options["allow-unk"]) == (3, 0.6, True)
