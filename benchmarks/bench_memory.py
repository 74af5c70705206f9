"""Memory of training with a vocabulary of 32k: the chunked loss compared with the plain one, in separate processes.

    make bench-memory        (python benchmarks/bench_memory.py)

The model is `transformer_iwslt_de_en` with shared embeddings, and the batch has 4096 target tokens (128 sentences of
32), all in float32. The plain loss is the usual implementation: logits of all tokens, log-softmax, label smoothing,
autograd.

loss_memory_ratio_32k: additional memory at the peak of the loss and its backward pass.
train_memory_ratio_32k: peak resident memory of a whole process that does three updates.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from figures import Figure, report_figures

VOCAB, ROWS, LENGTH, WIDTH, EPSILON = 32_000, 128, 32, 512, 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--measure",
        nargs=2,
        metavar=("WHAT", "LOSS"),
        help="Single measurement: loss or train, with the loss chunked or plain (default: all, each in a process).",
    )
    options = parser.parse_args()
    if options.measure:
        what, loss = options.measure
        print(json.dumps({"loss": loss_peak, "train": train_peak}[what](loss)))
        return
    figures = []
    for what in ("loss", "train"):
        chunked, plain = (measure(what, loss) for loss in ("chunked", "plain"))
        figures += [
            Figure(f"{what}_memory_ratio_32k", chunked / plain, "ratio"),
            Figure(f"{what}_memory_chunked_gb", chunked / 1e9, "GB"),
            Figure(f"{what}_memory_plain_gb", plain / 1e9, "GB"),
        ]
    settings = {"vocabulary": VOCAB, "target_tokens": ROWS * LENGTH, "arch": "transformer_iwslt_de_en"}
    report_figures("memory", figures, settings=settings)


def measure(what: str, loss: str) -> float:
    command = [sys.executable, __file__, "--measure", what, loss]
    return float(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))


def loss_function(name: str) -> Callable:
    """Return the function (features [M, D], weight [V, D], targets [M]) -> sum of the loss."""
    from kdmt.losses.cross_entropy import label_smoothed_cross_entropy, projected_cross_entropy

    if name == "chunked":
        return lambda features, weight, targets: projected_cross_entropy(features, weight, targets, epsilon=EPSILON)[0]
    return lambda features, weight, targets: label_smoothed_cross_entropy(
        features @ weight.t(), targets, epsilon=EPSILON
    )[0]


def loss_peak(loss: str) -> int:
    import torch

    compute = loss_function(loss)
    features = torch.randn(ROWS * LENGTH, WIDTH, requires_grad=True)
    weight = torch.randn(VOCAB, WIDTH).mul_(WIDTH**-0.5).requires_grad_()
    targets = torch.randint(VOCAB, (ROWS * LENGTH,))
    compute(features[:8], weight, targets[:8]).backward()  # starts threads, loads libraries, allocates gradients
    before = resident_now()
    reset_peak()
    compute(features, weight, targets).backward()
    return peak() - before


def train_peak(loss: str) -> int:
    import torch

    from kdmt.models.architecture import architecture
    from kdmt.models.build import build_transformer

    compute = loss_function(loss)
    config = architecture("transformer_iwslt_de_en", {"share_all_embeddings": True, "dropout": 0.3})
    model = build_transformer(config, src_vocab_size=VOCAB, tgt_vocab_size=VOCAB).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    for _ in range(3):
        src_BS, prev_BT, tgt_BT = torch.randint(4, VOCAB, (3, ROWS, LENGTH))
        features = model.decode(prev_BT, model.encode(src_BS)).flatten(0, 1)
        compute(features, model.output_weight_VD, tgt_BT.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return peak()


# --------------------------------------------------------------------------------------------- memory of this process


def resident_now() -> int:
    return status("VmRSS")


def peak() -> int:
    return status("VmHWM")


def reset_peak() -> None:
    """Reset the peak to the current resident memory (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    main()
