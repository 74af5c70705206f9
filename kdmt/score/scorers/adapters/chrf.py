"""Sentence chrF2 of sacreBLEU as an external scorer, in the environment of kdmt.

    python -m kdmt.score.scorers.adapters.chrf

It needs references (`reference: true`, `range: [0, 100]`), and serves as an example of an adapter.
"""

from __future__ import annotations

from collections.abc import Sequence

from kdmt.score.scorers.adapters.serving import Segment, serve, take_output


def main() -> None:
    """Serve sentence chrF2."""
    output = take_output()
    from sacrebleu.metrics.chrf import CHRF

    metric = CHRF()
    metric.sentence_score("a", ["a"])  # the signature has the number of references of the last score

    def score(segments: Sequence[Segment]) -> list[float]:
        return [metric.sentence_score(each["hypothesis"], [each["reference"]]).score for each in segments]

    signature = str(metric.get_signature()).rpartition("|version:")[0]
    serve(score, scorer="chrf", signature=signature, packages=["sacrebleu"], licence="Apache-2.0", output=output)


if __name__ == "__main__":
    main()
