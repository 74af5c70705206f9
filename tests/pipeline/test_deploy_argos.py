"""An exported package, installed and run by the real Argos Translate (`make deploy-envs NAME=argos`)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import argos_program
import ctranslate2
import pytest
import sentencepiece
from small_transformers import POST_NORM, make_model, vocabulary_sizes, write_sentencepiece

from kdmt.interop.argos_export import export_checkpoint
from kdmt.interop.ctranslate2_export import export_checkpoint as export_to_ctranslate2
from kdmt.models.architecture import TransformerConfig
from kdmt.models.checkpoint import save_checkpoint

pytestmark = pytest.mark.skipif(
    not argos_program.PYTHON.exists(), reason="no Argos Translate: make deploy-envs NAME=argos"
)

SHARED = replace(POST_NORM, share_all_embeddings=True)
LINES = ["abba baba", "cab", "abcb cc abac", "a b c", "bacab  aab", "cccc"]


@pytest.mark.parametrize("config", [SHARED, replace(SHARED, layout="marian")], ids=["fairseq", "marian"])
def test_argos_translates_as_the_ctranslate2_model(tmp_path: Path, config: TransformerConfig) -> None:
    companions = write_sentencepiece(tmp_path / "text", vocabulary_sizes(config))
    save_checkpoint(tmp_path / "a", make_model(config, eos_logit=12.0).float(), companions=companions)
    export_checkpoint(tmp_path / "a", tmp_path / "a.argosmodel")
    found = argos_program.translate(tmp_path / "a.argosmodel", tmp_path, LINES, compute_type="int8")
    export_to_ctranslate2(tmp_path / "a", tmp_path / "ct2", quantization="int8")
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "a" / "tokenizer" / "joint.model"))
    results = ctranslate2.Translator(str(tmp_path / "ct2"), compute_type="int8").translate_batch(
        [[*pieces.encode(line, out_type=str), "</s>"] for line in LINES],
        **argos_program.SEARCH,
    )
    expected = [pieces.decode(result.hypotheses[0]) for result in results]
    assert found == expected
    assert len(set(expected)) > 1
