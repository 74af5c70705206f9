from __future__ import annotations

from dataclasses import replace

import pytest

from kdmt.errors import UserError
from kdmt.models.architecture import ARCHITECTURES, TransformerConfig, architecture


def test_multi30k_equals_published_architecture() -> None:
    config = architecture("transformer_multi30k")
    for side in ("encoder", "decoder"):
        fields = ("layers", "embed_dim", "ffn_embed_dim", "attention_heads")
        assert [getattr(config, f"{side}_{field}") for field in fields] == [4, 128, 256, 4]
    assert config.share_all_embeddings
    assert config.dropout == 0.3


def test_overrides_change_only_the_given_fields() -> None:
    config = architecture("transformer_iwslt_de_en", {"decoder_layers": 1, "dropout": 0.3})
    expected = {**ARCHITECTURES["transformer_iwslt_de_en"].as_dict(), "decoder_layers": 1, "dropout": 0.3}
    assert config.as_dict() == expected
    assert TransformerConfig(**config.as_dict()) == config
    assert "right_to_left" not in config.as_dict()  # descriptions of earlier versions have no such value
    turned = replace(config, right_to_left=True)
    assert TransformerConfig(**turned.as_dict()) == turned


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("transformer_huge", {}, "model.arch: 'transformer_huge' is none of transformer,"),
        ("transformer", {"encoder_layer": 3}, "unknown setting 'encoder_layer'"),
        ("transformer", {"encoder_attention_heads": 7}, r"encoder_embed_dim \(512\) is not a multiple .* \(7\)"),
        ("transformer", {"decoder_embed_dim": 100}, r"decoder_embed_dim \(100\) is not a multiple .* \(8\)"),
        ("transformer_multi30k", {"decoder_embed_dim": 64}, "encoder_embed_dim equal to decoder_embed_dim"),
    ],
)
def test_invalid_settings_are_refused_by_name(name: str, overrides: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        architecture(name, overrides)
