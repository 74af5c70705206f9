"""Speed of bf16 on a CPU by model shape: the measurements for the rule of `train.precision: auto`.

    make bench-precision    (python benchmarks/bench_precision.py [--rounds 5] [--threads 1] [--tokens 1024])

Every model does a forward and a backward pass on the same batch in `float32`, `bf16_output` and `bf16` in turns. A gain
is the CPU seconds of float32 divided by those of the other precision, as the median over the rounds. CPU seconds of one
thread depend least on other programs on the machine. Batches are random: sentences of 5 to 30 tokens, about `--tokens`
tokens on each side. Weights are random.

precision_gain_<precision>_d<width>_v<vocabulary>   more than 1 if the precision is faster than float32
precision_rule_loss_d<width>_v<vocabulary>          CPU seconds of the precision that the rule selects, divided by those
                                                    of the fastest precision
precision_rule_loss                                 maximum of these
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

from figures import Figure, report_figures

SHAPES = {
    64: 2,
    128: 4,
    256: 4,
    512: 3,
}  # width -> layers of encoder and decoder; more layers change no conclusion
VOCABULARIES = (1_000, 10_000, 32_000)
SHORTEST, LONGEST = 5, 30  # tokens of a sentence


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="Number of rounds (default: %(default)s).")
    parser.add_argument("--threads", type=int, default=1, help="Number of CPU threads (default: %(default)s).")
    parser.add_argument(
        "--tokens", type=int, default=1024, help="Number of tokens in a batch on each side (default: %(default)s)."
    )
    options = parser.parse_args()
    import torch

    from kdmt.runtime import use_threads
    from kdmt.train.arithmetic import CHOICES

    torch.manual_seed(1)
    use_threads(options.threads)
    figures, seconds = [], {}
    for width, vocabulary, model in models():
        batch = draw_batch(vocabulary, options.tokens)
        rounds = [seconds_of_each(model, batch) for _ in range(1 + options.rounds)][1:]  # the first warms up
        name = f"d{width}_v{vocabulary}"
        seconds[name] = rounds
        print(name, {each: round(median(one[each] for one in rounds), 4) for each in CHOICES}, file=sys.stderr)
        figures += [
            Figure(f"precision_gain_{each}_{name}", median(one["float32"] / one[each] for one in rounds), "ratio")
            for each in CHOICES[1:]
        ]
        figures.append(Figure(f"precision_rule_loss_{name}", rule_loss(model, rounds), "ratio"))
    worst = max(figure.value for figure in figures if figure.name.startswith("precision_rule_loss_"))
    report_figures(
        "precision",
        [*figures, Figure("precision_rule_loss", worst, "ratio")],
        settings={"threads": options.threads, "tokens": options.tokens, "layers": SHAPES, "seconds": seconds},
    )


def models() -> Iterator[tuple[int, int, Any]]:
    """Yield the width, the vocabulary size and the model of each shape."""
    from kdmt.models.architecture import TransformerConfig
    from kdmt.models.build import build_transformer

    for width, layers in SHAPES.items():
        sides: dict[str, Any] = {
            f"{side}_{field}": value
            for side in ("encoder", "decoder")
            for field, value in {
                "layers": layers,
                "embed_dim": width,
                "ffn_embed_dim": 4 * width if width >= 512 else 2 * width,
                "attention_heads": max(4, width // 64),
            }.items()
        }
        for vocabulary in VOCABULARIES:
            config = TransformerConfig(**sides, share_all_embeddings=True)
            yield width, vocabulary, build_transformer(config, src_vocab_size=vocabulary, tgt_vocab_size=vocabulary)


def draw_batch(vocabulary: int, tokens: int) -> Any:
    """Return a random batch, in which the two sides of each pair are the same tokens."""
    import torch

    from kdmt.corpus.batching import Batch
    from kdmt.types import EOS, PAD, UNK

    lengths, real = [], 0
    while real < tokens:
        lengths.append(int(torch.randint(SHORTEST, LONGEST + 1, ())))
        real += lengths[-1] + 1
    inside_BT = torch.arange(max(lengths) + 1) < torch.tensor(lengths)[:, None]
    tokens_BT = torch.where(inside_BT, torch.randint(UNK + 1, vocabulary, inside_BT.shape), PAD)
    tokens_BT.scatter_(1, torch.tensor(lengths)[:, None], EOS)
    first_B1 = torch.full_like(tokens_BT[:, :1], EOS)
    prev_tokens_BT = torch.cat([first_B1, tokens_BT[:, :-1].masked_fill(tokens_BT[:, :-1].eq(EOS), PAD)], dim=1)
    return Batch(
        index_B=torch.arange(len(lengths)),
        src_tokens_BS=tokens_BT,
        prev_tokens_BT=prev_tokens_BT,
        tgt_tokens_BT=tokens_BT,
        num_src_tokens=real,
        num_tgt_tokens=real,
    )


def seconds_of_each(model: Any, batch: Any) -> dict[str, float]:
    """Return the CPU seconds of a forward and a backward pass in each precision."""
    from kdmt.objectives.build import build_objective
    from kdmt.train.arithmetic import CHOICES

    objective = build_objective(model, label_smoothing=0.1).train()
    seconds: dict[str, float] = {}
    for precision in CHOICES:
        objective.use(precision)
        started = time.process_time()
        objective(objective.prepare(batch))["loss"].sum.backward()
        seconds[precision] = time.process_time() - started
        objective.zero_grad()
    return seconds


def rule_loss(model: Any, rounds: list[dict[str, float]]) -> float:
    """Return the median CPU seconds of the precision that the rule selects, divided by those of the fastest one."""
    import torch

    from kdmt.train.arithmetic import CHOICES, ModelShape, has_amx, has_bf16_units, precision_by_shape

    middle = {each: median(one[each] for one in rounds) for each in CHOICES}
    shape = ModelShape(model.config.decoder_embed_dim, model.tgt_vocab_size)
    chosen = precision_by_shape(shape, amx=has_amx()) if has_bf16_units(torch.device("cpu")) else "float32"
    return middle[chosen] / min(middle.values())


if __name__ == "__main__":
    main()
