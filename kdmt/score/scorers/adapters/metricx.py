"""MetricX-24 (and MetricX-23) as an external scorer: an mT5 model with one decoder step.

    python -m kdmt.score.scorers.adapters.metricx --model FOLDER --tokenizer FOLDER [--device cuda]

The decoder is given the token 0; the score is the logit of the token 250089, limited to 0 to 25, and lower is better
(Juraska et al. 2024). MetricX-24 reads `source: ... candidate: ... reference: ...` without </s>; without references,
the last part is left out. It runs in the environment of kdmt with `kdmt[huggingface]`, or with the version of
Transformers for which it was published in that of `make metrics-env NAME=metricx`. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from kdmt.score.scorers.adapters.serving import Segment, serve, take_output

SCORE_TOKEN = 250_089  # <extra_id_10> of mT5
LOWEST, HIGHEST = 0.0, 25.0
MAX_INPUT_LENGTHS = {24: 1536, 23: 1024}  # of training, by the year of the model
# (year, whether there is a reference) -> parts of the input in the order of training
_PARTS = {
    (24, True): ("source", "candidate", "reference"),
    (24, False): ("source", "candidate"),
    (23, True): ("candidate", "reference"),
    (23, False): ("candidate", "source"),  # models of their own, with `qe` in their names
}


def main() -> None:
    """Serve a MetricX model."""
    parser = argparse.ArgumentParser(description="MetricX as an external scorer of kdmt")
    parser.add_argument("--model", type=Path, required=True, help="folder of the model")
    parser.add_argument("--tokenizer", type=Path, help="folder of mT5's tokenizer (default: that of the model)")
    parser.add_argument(
        "--year", type=int, choices=sorted(MAX_INPUT_LENGTHS), default=24, help="24 or 23 (default: 24)"
    )
    parser.add_argument("--device", default="cpu", help="device of PyTorch (default: cpu)")
    parser.add_argument("--batch-size", type=int, default=8, help="number of segments in a batch (default: 8)")
    parser.add_argument("--threads", type=int, default=0, help="number of CPU threads (default: those of PyTorch)")
    options = parser.parse_args()
    output = take_output()
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch, transformers = import_module("torch"), import_module("transformers")
    if options.threads:
        torch.set_num_threads(options.threads)
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(options.tokenizer or options.model))
    model = transformers.MT5ForConditionalGeneration.from_pretrained(str(options.model)).float()
    model.to(options.device).eval()
    max_length = MAX_INPUT_LENGTHS[options.year]

    def score(segments: Sequence[Segment]) -> list[float]:
        texts = [input_text(each, year=options.year) for each in segments]
        return score_texts(torch, model, tokenizer, texts, max_length=max_length)

    serve(
        score,
        scorer=options.model.resolve().name,
        signature=f"metricx:{options.year}|precision:float32",
        packages=["transformers", "torch"],
        licence="Apache-2.0",
        batch_size=options.batch_size,
        output=output,
    )


def input_text(segment: Segment, *, year: int) -> str:
    """Return the input of MetricX for a segment, with or without a reference."""
    parts = {"source": segment["source"], "candidate": segment["hypothesis"], "reference": segment.get("reference", "")}
    return " ".join(f"{name}: {parts[name]}" for name in _PARTS[year, "reference" in segment])


def score_texts(torch: Any, model: Any, tokenizer: Any, texts: Sequence[str], *, max_length: int) -> list[float]:
    """Return the score of each input."""
    rows = tokenizer(list(texts), max_length=max_length, truncation=True, padding=False)["input_ids"]
    rows = [row[:-1] for row in rows]  # without </s>
    width = max(map(len, rows))
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=model.device)
    inputs = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=model.device)
    start = torch.zeros((len(rows), 1), dtype=torch.long, device=model.device)
    with torch.inference_mode():
        logits = model(input_ids=inputs, attention_mask=mask, decoder_input_ids=start).logits
    return logits[:, 0, SCORE_TOKEN].float().clamp(LOWEST, HIGHEST).cpu().tolist()


if __name__ == "__main__":
    main()
