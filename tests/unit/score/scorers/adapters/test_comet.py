"""The adapter for COMET against the library itself, with tiny random models in the published file format."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from metric_environments import FOLDER, needs

from kdmt.config import Scorer
from kdmt.errors import UserError
from kdmt.score.scorers.process import Segment
from kdmt.score.scorers.segment_scores import open_scorer, score_segments

pytestmark = [needs("comet"), pytest.mark.slow]

# Makes an encoder and a model, and prints the scores of the library. Arguments: folder, kind, segments as JSON
MAKER = """
import inspect, json, sys
from pathlib import Path
import torch, yaml
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import XLMRobertaConfig, XLMRobertaModel, XLMRobertaTokenizerFast
from comet.models import load_from_checkpoint, str2model

folder, kind, samples = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
encoder = folder / "encoder"
tokens = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)] + [(t, -2.0) for t in "▁abcdefgh"]
tokenizer = Tokenizer(models.Unigram(tokens, unk_id=3))
tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
tokenizer.post_processor = processors.TemplateProcessing(
    single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
(folder / "tokenizer.json").write_text(tokenizer.to_str())
XLMRobertaTokenizerFast(tokenizer_file=str(folder / "tokenizer.json")).save_pretrained(encoder)
XLMRobertaConfig(vocab_size=20, hidden_size=12, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24,
                 max_position_embeddings=80, pad_token_id=1).save_pretrained(encoder)
hparams = {"class_identifier": kind, "pretrained_model": str(encoder), "encoder_model": "XLM-RoBERTa",
           "hidden_sizes": [16, 8], "layer_transformation": "sparsemax" + "_patch" * (kind != "xcomet_metric"),
           "nr_frozen_epochs": 0.3, "activations": "Tanh", "dropout": 0.1}
if kind == "unified_metric":
    hparams |= {"input_segments": ["mt", "src"], "word_level_training": False}
if kind == "xcomet_metric":
    hparams |= {"word_layer": 2, "error_labels": ["minor", "major", "critical"], "word_level_training": True}
torch.manual_seed(3)
settings = {**hparams, "layer_transformation": hparams["layer_transformation"].replace("sparsemax_patch", "softmax")}
known = inspect.signature(str2model[kind].__init__).parameters
settings = {name: value for name, value in settings.items() if name in known}
model = str2model[kind](**settings, load_pretrained_weights=False)
with torch.no_grad():
    for parameter in model.parameters():
        parameter.normal_(std=0.4)
(folder / "model" / "checkpoints").mkdir(parents=True)
(folder / "model" / "hparams.yaml").write_text(yaml.safe_dump(hparams))
path = folder / "model" / "checkpoints" / "model.ckpt"
torch.save({"state_dict": model.state_dict(), "hyper_parameters": {**settings, "load_pretrained_weights": False},
            "pytorch-lightning_version": "2.0.0", "epoch": 1, "global_step": 2}, path)
loaded = load_from_checkpoint(str(path), local_files_only=True)
print("SCORES", json.dumps(loaded.predict(samples, batch_size=2, gpus=0, progress_bar=False, num_workers=0).scores))
"""
SEGMENTS = [
    Segment("a b c", "c b a", "a a a"),
    Segment("abc def gh", "g", "h f e d c b a"),
    Segment("a", "b c d e f g h a b c", "c"),
    Segment("unknown words 12", "a", ""),
]


def make(folder: Path, kind: str) -> list[float]:
    """Make a model, and return the scores of the library."""
    samples = [{"src": each.source, "mt": each.hypothesis, "ref": each.reference} for each in SEGMENTS]
    if kind == "unified_metric":
        samples = [{key: value for key, value in each.items() if key != "ref"} for each in samples]
    command = [str(FOLDER / "comet" / "bin" / "python"), "-c", MAKER, str(folder), kind, json.dumps(samples)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr[-3000:]
    return json.loads(made.stdout.rpartition("SCORES ")[2])


def settings_for(folder: Path, kind: str, *arguments: str) -> Scorer:
    command = ["python", "-m", "kdmt.score.scorers.adapters.comet", "--model", "{model}", "--batch-size", "3"]
    return Scorer(
        command=[*command, *arguments],
        model=str(folder / "model"),
        environment=str(FOLDER / "comet"),
        reference=kind != "unified_metric",
    )


@pytest.mark.parametrize(
    ("kind", "licence"),
    [("regression_metric", "Apache-2.0"), ("unified_metric", "CC-BY-NC"), ("xcomet_metric", "CC-BY-NC")],
)
def test_scores_are_those_of_the_library(tmp_path: Path, kind: str, licence: str) -> None:
    expected = make(tmp_path, kind)
    assert len({round(score, 4) for score in expected}) > 1
    with open_scorer("comet", settings_for(tmp_path, kind), folder=tmp_path / "cache", say=print) as scorer:
        found = score_segments(scorer, SEGMENTS)
        assert scorer.signature.startswith(f"comet:{kind}|encoder:")
        assert scorer.greeting.licence.startswith(licence)
        assert scorer.greeting.versions["unbabel-comet"] == "2.2.7"
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_that_does_not_fit_is_named(tmp_path: Path) -> None:
    make(tmp_path, "regression_metric")
    path = tmp_path / "model" / "hparams.yaml"
    path.write_text(path.read_text().replace("regression_metric", "unified_metric"))
    settings = settings_for(tmp_path, "unified_metric").model_copy(update={"restarts": 0})
    with (
        pytest.raises(UserError, match=r"scorers\.comet: the process ended with exit status 1: "),
        open_scorer("comet", settings, folder=tmp_path / "cache", say=print),
    ):
        pass
