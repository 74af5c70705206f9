"""The adapter for MetricX, with a tiny random model in the published file format, in the environment of kdmt."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kdmt.config import Scorer
from kdmt.score.scorers.adapters.metricx import SCORE_TOKEN, input_text, score_texts
from kdmt.score.scorers.process import Segment
from kdmt.score.scorers.segment_scores import open_scorer, score_segments

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

COMMAND = ["python", "-m", "kdmt.score.scorers.adapters.metricx", "--model", "{model}"]
SEGMENTS = [
    Segment("a b c d e f g h", "d e f", "a a"),
    Segment("b", "c", "c c c"),
    Segment("h g f", "", "e"),
    Segment("c", "a b c d e f g h a b c d e f g h", "b"),
    Segment("x y unknown", "a", "a"),
]
LETTERS = [*"abcdefgh", "source:", "candidate:", "reference:"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a random mT5 with the vocabulary size of mT5, and a tokenizer of words."""
    folder = tmp_path_factory.mktemp("metricx")
    vocabulary = {token: index for index, token in enumerate(["<pad>", "</s>", "<unk>", *LETTERS])}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    words.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(5)
    config = transformers.MT5Config(
        vocab_size=250_112, d_model=8, d_kv=4, d_ff=16, num_layers=2, num_heads=2, tie_word_embeddings=False
    )
    mt5 = transformers.MT5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in mt5.parameters():
            parameter.normal_(std=0.5)
        mt5.lm_head.weight[SCORE_TOKEN] *= -5  # positive logits
    mt5.save_pretrained(folder)
    return folder


def expected(model: Path, inputs: list[str]) -> list[float]:
    """Return the logits of single inputs, from encoder, decoder and output layer, before they are limited."""
    mt5 = transformers.MT5ForConditionalGeneration.from_pretrained(model).eval()
    vocabulary = {token: index for index, token in enumerate(["<pad>", "</s>", "<unk>", *LETTERS])}
    found = []
    with torch.no_grad():
        for text in inputs:
            ids = torch.tensor([[vocabulary.get(word, 2) for word in text.split()]])  # without </s>
            encoded = mt5.encoder(input_ids=ids).last_hidden_state
            decoded = mt5.decoder(input_ids=torch.zeros((1, 1), dtype=torch.long), encoder_hidden_states=encoded)
            found.append(float(decoded.last_hidden_state[0, 0] @ mt5.lm_head.weight[SCORE_TOKEN]))
    return found


@pytest.mark.parametrize("reference", [pytest.param(True, marks=pytest.mark.slow), False])
def test_scores_are_the_limited_logits_of_one_token(model: Path, tmp_path: Path, reference: bool) -> None:
    settings = Scorer(
        command=[*COMMAND, "--batch-size", "3"],
        model=str(model),
        direction="lower",
        range=(0.0, 25.0),
        reference=reference,
    )
    with open_scorer("metricx", settings, folder=tmp_path, say=print) as scorer:
        found = score_segments(scorer, SEGMENTS)
        assert scorer.signature.startswith(f"metricx:24|precision:float32|nrefs:{int(reference)}|model:")
        assert not scorer.higher_is_better
    inputs = [
        f"source: {each.source} candidate: {each.hypothesis}" + (f" reference: {each.reference}" if reference else "")
        for each in SEGMENTS
    ]
    logits = expected(model, inputs)
    assert 0 < min(logits) < max(logits) - 0.1 < 24.9
    np.testing.assert_allclose(found, logits, rtol=1e-4, atol=1e-5)


class Recorder:
    """A model that records its inputs and returns given logits."""

    device = torch.device("cpu")

    def __init__(self, logits: list[float]) -> None:
        self.logits, self.given = logits, dict[str, torch.Tensor]()

    def __call__(self, **given: torch.Tensor) -> SimpleNamespace:
        self.given = given
        logits = torch.zeros((len(self.logits), 1, SCORE_TOKEN + 5))
        logits[:, 0, SCORE_TOKEN] = torch.tensor(self.logits)
        return SimpleNamespace(logits=logits)


def test_scores_are_limited_and_inputs_have_no_end_of_sentence() -> None:
    def tokenizer(texts: list[str], **_: object) -> dict[str, list[list[int]]]:
        return {"input_ids": [[ord(letter) for letter in text] + [1] for text in texts]}

    recorder = Recorder([-3.0, 7.5, 40.0])
    assert score_texts(torch, recorder, tokenizer, ["ab", "a", "abc"], max_length=9) == [0.0, 7.5, 25.0]
    assert recorder.given["input_ids"].tolist() == [[97, 98, 0], [97, 0, 0], [97, 98, 99]]
    assert recorder.given["attention_mask"].tolist() == [[1, 1, 0], [1, 0, 0], [1, 1, 1]]
    assert recorder.given["decoder_input_ids"].tolist() == [[0], [0], [0]]


def test_older_models_have_their_own_inputs() -> None:
    segment = {"source": "s", "hypothesis": "h", "reference": "r"}
    assert input_text(segment, year=23) == "candidate: h reference: r"
    assert input_text({"source": "s", "hypothesis": "h"}, year=23) == "candidate: h source: s"
    assert input_text(segment, year=24) == "source: s candidate: h reference: r"
    assert input_text({"source": "s", "hypothesis": "h"}, year=24) == "source: s candidate: h"
