"""Boosted probability of a kdmt model as an external scorer, in the environment of kdmt (Dinh and Niehues 2025).

    python -m kdmt.score.scorers.adapters.boostedprob --model CHECKPOINT [--device cuda]

A token has a low probability where several tokens are right. At each position, let p_1 >= p_2 >= ... be the sorted
probabilities, and k the last place with a sharp drop:

    p_k - p_{k+1} > max(0.3 p_k, 0.005)

The tokens of the first k places are dominant (none without such a drop). The score of a token is the sum of their
probabilities if it is one of them, and its own probability otherwise; that of a translation is the mean over its tokens
with </s>, from 0 to 1, and 0 for a pair that is too long for the model. Constants are those of the authors' package
boostedprob (https://arxiv.org/abs/2502.11115). No reference is needed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from kdmt.corpus.batching import pad_sentences
from kdmt.corpus.codec import TextCodec
from kdmt.models.checkpoint import load_model
from kdmt.models.checkpoint_folder import resolve_checkpoint
from kdmt.models.description import is_right_to_left
from kdmt.models.transformer import Transformer
from kdmt.score.scorers.adapters.serving import Segment, serve, take_output
from kdmt.types import EOS

RELATIVE_DROP, SMALLEST_DROP = 0.3, 0.005


def main() -> None:
    """Serve the boosted probability of a model."""
    parser = argparse.ArgumentParser(description="boosted probability as an external scorer of kdmt")
    parser.add_argument("--model", type=Path, required=True, help="checkpoint folder, or run")
    parser.add_argument("--device", default="cpu", help="device of PyTorch (default: cpu)")
    parser.add_argument("--batch-size", type=int, default=16, help="number of segments in a batch (default: 16)")
    parser.add_argument("--threads", type=int, default=0, help="number of CPU threads (default: those of PyTorch)")
    options = parser.parse_args()
    output = take_output()
    if options.threads:
        torch.set_num_threads(options.threads)
    folder = resolve_checkpoint(options.model)
    if is_right_to_left(folder):
        parser.error(
            f"{folder}: the model predicts targets in reversed order ('right_to_left'), which is not supported"
        )
    codec = TextCodec.load(folder)
    if codec.text.directions:
        parser.error(f"{folder}: the model translates in several directions, which is not supported")
    model = load_model(folder).to(options.device).eval()

    def score(segments: Sequence[Segment]) -> list[float]:
        return score_segments(model, codec, segments)

    serve(
        score,
        scorer="boostedprob",
        signature=f"boostedprob|drop:{RELATIVE_DROP:g},{SMALLEST_DROP:g}|mean",
        packages=["torch"],
        batch_size=options.batch_size,
        output=output,
    )


def score_segments(model: Transformer, codec: TextCodec, segments: Sequence[Segment]) -> list[float]:
    """Return the mean boosted probability of the tokens of each hypothesis, given its raw source."""
    sources = codec.encode_raw_source([each["source"] for each in segments])
    targets = codec.encode_target([codec.text.preprocess_target(each["hypothesis"]) for each in segments])
    config = model.config
    fitting = [
        index
        for index, (source, target) in enumerate(zip(sources, targets, strict=True))
        if len(source) <= config.max_source_positions and len(target) <= config.max_target_positions
    ]
    scores = [0.0] * len(segments)
    if not fitting:
        return scores
    device = next(model.parameters()).device
    src_tokens_BS, tgt_tokens_BT = (
        pad_sentences([side[index] for index in fitting]).to(device) for side in (sources, targets)
    )
    prev_tokens_BT = tgt_tokens_BT.roll(1, dims=1)
    prev_tokens_BT[:, 0] = EOS
    with torch.inference_mode():
        boosted_BT = boosted_probability(model(src_tokens_BS, prev_tokens_BT).float().softmax(-1), tgt_tokens_BT)
    for index, boosted_T in zip(fitting, boosted_BT.cpu(), strict=True):
        scores[index] = min(1.0, float(boosted_T[: len(targets[index])].mean()))
    return scores


def boosted_probability(probs_BTV: Tensor, tgt_tokens_BT: Tensor) -> Tensor:
    """Return the boosted probability of each target token [B, T]."""
    most_places = int((probs_BTV > SMALLEST_DROP).sum(dim=-1).amax())  # a sharp drop is after such a probability
    sorted_BTK = probs_BTV.topk(min(max(most_places, 1) + 1, probs_BTV.shape[-1]), dim=-1).values
    drops_BTK = sorted_BTK[..., :-1] - sorted_BTK[..., 1:]
    is_sharp_BTK = (drops_BTK > RELATIVE_DROP * sorted_BTK[..., :-1]) & (drops_BTK > SMALLEST_DROP)
    places_K = torch.arange(1, drops_BTK.shape[-1] + 1, device=probs_BTV.device)
    num_dominant_BT = (is_sharp_BTK * places_K).amax(dim=-1)
    mass_BT = sorted_BTK.cumsum(-1).gather(-1, (num_dominant_BT - 1).clamp(min=0)[..., None])[..., 0]
    smallest_BT = sorted_BTK.gather(-1, (num_dominant_BT - 1).clamp(min=0)[..., None])[..., 0]
    own_BT = probs_BTV.gather(-1, tgt_tokens_BT[..., None])[..., 0]
    # after a sharp drop no other token has the probability of the last dominant one
    is_dominant_BT = (num_dominant_BT > 0) & (own_BT >= smallest_BT)
    return torch.where(is_dominant_BT, mass_BT, own_BT)


if __name__ == "__main__":
    main()
