"""Filter that drops the pairs of a training set with the worst scores of an external scorer.

It comes after the checks of hypotheses: a quality estimation model may prefer copies of the source, and may not see
repetitions. The scores of all pairs before the filter are written to `quality.npy`, and the manifest and the page
`quality.html` have a histogram and examples of dropped pairs.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdmt.config import Scorer, ScorerFilter, Section
from kdmt.corpus.data_report.histogram import Histogram, histogram_svg
from kdmt.corpus.direction_codecs import DirectionCodecs, read_directions
from kdmt.corpus.lines import iterate_lines
from kdmt.distill.dropping import best_of, drop_pairs
from kdmt.distill.inputs import Inputs
from kdmt.distill.merge import MergeReport, Outputs
from kdmt.files import naming, write_text
from kdmt.html_page import page_html, table_html
from kdmt.score.scorers.process import Segment
from kdmt.score.scorers.segment_scores import OpenScorer, model_inputs, open_scorer, score_segments

QUALITY, SCORES, PAGE = "quality", "quality.npy", "quality.html"
_NUM_BINS = 20
_NUM_EXAMPLES = 10
_SHOWN_CHARACTERS = 300


@dataclass(frozen=True)
class QualityFilter:
    """The filter of a pipeline.

    Attributes:
        limits: section `distill.quality`.
        scorer: its scorer in the section `scorers`.
        folder: folder of the scorers' caches.
        say: function that prints a line for the user.
    """

    limits: ScorerFilter
    scorer: Scorer
    folder: Path
    say: Callable[[str], None]

    @classmethod
    def of(
        cls, limits: ScorerFilter | None, scorers: Mapping[str, Scorer], folder: Path, say: Callable[[str], None]
    ) -> QualityFilter | None:
        """Return the filter of a pipeline, None if it has none.

        Args:
            limits, scorers: sections `distill.quality` and `scorers`.
        """
        return None if limits is None else cls(limits, scorers[limits.scorer], folder, say)

    def sections(self) -> dict[str, Section]:
        """Return the sections that the filter depends on, for a plan."""
        return {"distill.quality": self.limits, f"scorers.{self.limits.scorer}": self.scorer}

    def inputs(self) -> dict[str, str]:
        """Return the SHA-256 of the scorer's model, for a plan."""
        return model_inputs({self.limits.scorer: self.scorer})

    def drop(self, inputs: Inputs, files: Outputs, report: MergeReport) -> None:
        """Remove the pairs with the worst scores from the files.

        Args:
            inputs: text that the training set is made from.
            files: files of the merged training set; `SCORES` and `PAGE` are written to the same folder.
            report: counts to which the dropped pairs are added as the failure `quality`, and the facts of the filter.
        """
        with open_scorer(self.limits.scorer, self.scorer, folder=self.folder, say=self.say) as scorer:
            codecs = DirectionCodecs(inputs.corpus.codec())
            scores = score_segments(scorer, _segments(codecs, inputs, files, report))
            direction_N = read_directions([files.tags], codecs.names) if codecs.are_several else None
            is_kept = self._kept(scores, direction_N)
            report.quality = self._facts(scorer, scores, is_kept, files)
        with naming(files.source.with_name(SCORES)):
            np.save(files.source.with_name(SCORES), scores.astype("<f8"))
        write_text(files.source.with_name(PAGE), _page(report.quality))
        drop_pairs(files, report, is_kept, failure=QUALITY)

    def _kept(self, scores: NDArray[np.float64], direction_N: NDArray[np.int16] | None) -> NDArray[np.bool_]:
        """Return which pairs are kept, bool [N].

        Args:
            scores: score of each pair [N].
            direction_N: direction of each pair, of each of which the worst pairs are dropped; None for one.
        """
        quality = scores if self.scorer.direction == "higher" else -scores
        is_kept = np.ones(len(scores), dtype=bool)
        if self.limits.drop_percent is not None:
            number_N = np.zeros(len(scores), dtype=np.int16) if direction_N is None else direction_N
            for number in np.unique(number_N):
                own = np.flatnonzero(number_N == number)
                is_kept[own] = best_of(quality[own], self.limits.drop_percent)
        if self.limits.min_quality is not None:
            worst = self.limits.min_quality
            is_kept &= scores >= worst if self.scorer.direction == "higher" else scores <= worst
        return is_kept

    def _facts(
        self, scorer: OpenScorer, scores: NDArray[np.float64], is_kept: NDArray[np.bool_], files: Outputs
    ) -> dict[str, object]:
        """Return the figures for the manifest."""
        facts: dict[str, object] = {
            "scorer": scorer.name,
            "signature": scorer.signature,
            "licence": scorer.greeting.licence,
            "direction": self.scorer.direction,
            "range": list(self.scorer.range),
            "num_scored": len(scores),
            "num_dropped": int(np.count_nonzero(~is_kept)),
        }
        if not len(scores):
            return facts | {"histogram": {"edges": [], "counts": []}, "examples": []}
        counts, edges = np.histogram(scores, bins=_NUM_BINS)
        return facts | {
            "mean": float(scores.mean()),
            "mean_kept": float(scores[is_kept].mean()) if is_kept.any() else None,
            "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
            "examples": list(self._examples(scores, is_kept, files)),
        }

    def _examples(
        self, scores: NDArray[np.float64], is_kept: NDArray[np.bool_], files: Outputs
    ) -> Iterator[dict[str, object]]:
        """Yield some dropped pairs, evenly spread from the worst to the best of them."""
        dropped = np.flatnonzero(~is_kept)
        order = np.argsort(scores[dropped], kind="stable")
        ranked = dropped[order if self.scorer.direction == "higher" else order[::-1]]
        places = np.linspace(0, len(ranked) - 1, min(_NUM_EXAMPLES, len(ranked))).astype(np.int64)
        wanted = {int(ranked[place]): rank for rank, place in enumerate(places)}
        pairs = enumerate(zip(iterate_lines(files.source), iterate_lines(files.target), strict=True))
        found = {wanted[index]: (index, pair) for index, pair in pairs if index in wanted}
        for _, (index, (source, target)) in sorted(found.items()):
            shown = {"source": source[:_SHOWN_CHARACTERS], "target": target[:_SHOWN_CHARACTERS]}
            yield {"score": float(scores[index]), **shown}


def _segments(codecs: DirectionCodecs, inputs: Inputs, files: Outputs, report: MergeReport) -> Iterator[Segment]:
    """Yield the finished text of each pair; the reference is None for monolingual text."""
    given = inputs.texts()[0].target  # changed as the source is, if the text has noise
    assert given is not None, "only monolingual text, which comes last, has no targets"
    references = _lines_at(given, report.indices)
    tags = iterate_lines(files.tags) if codecs.are_several else itertools.repeat("")
    pairs = zip(iterate_lines(files.source), iterate_lines(files.target), references, strict=True)
    for (source, target, reference), tag in zip(pairs, tags, strict=False):
        codec = codecs.of(tag)
        finished = None if reference is None else codec.finish_target(reference)
        yield Segment(codec.finish_source(source), codec.finish_target(target), finished)


def _lines_at(path: Path, indices: Iterable[int]) -> Iterator[str | None]:
    """Yield the lines with ascending indices, which may occur repeatedly; None beyond the end."""
    lines = enumerate(itertools.chain(iterate_lines(path), itertools.repeat(None)))
    number, line = next(lines)
    for index in indices:
        while number < index:
            number, line = next(lines)
        yield line


def explain(facts: dict[str, object]) -> str:
    """Return the figures of the filter as a line of text."""
    text = f"quality by {facts['scorer']}: {facts['num_dropped']:,} of {facts['num_scored']:,} pairs dropped"
    if facts.get("mean_kept") is None:
        return text
    return f"{text}, mean {facts['mean']:.4g}, of the kept pairs {facts['mean_kept']:.4g} ({facts['signature']})"


def _page(facts: dict[str, Any]) -> str:
    """Return a page with the histogram of all scores and examples of dropped pairs."""
    edges, counts = facts["histogram"]["edges"], facts["histogram"]["counts"]
    labels = tuple(f"{low:.4g} to {high:.4g}" for low, high in itertools.pairwise(edges))
    picture = histogram_svg(Histogram(labels, tuple(counts)), "scores of all pairs", str(facts["scorer"]))
    examples = [[f"{each['score']:.4g}", each["source"], each["target"]] for each in facts["examples"]]
    notes = [explain(facts), f"signature: {facts['signature']}"]
    if facts["licence"]:
        notes.append(f"licence of the model: {facts['licence']}")
    table = table_html("examples of dropped pairs", ["score", "source", "target"], examples, [True, False, False])
    lines = "\n".join(f"<p>{html.escape(note)}</p>" for note in notes)
    return page_html(
        "Filter by quality", f"{lines}\n<figure>{picture}</figure>\n{table}", style="rect { fill: #48c; }\n"
    )
