"""The data report of the prepare stage for several directions, from the counts of each of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kdmt.config import Prepare
from kdmt.corpus.clean import CleaningReport, CorpusCounts
from kdmt.corpus.data_report.page import DataReport, ReportedDirection, ReportedText, render_page
from kdmt.corpus.given_text import sources_of, texts_by_path
from kdmt.corpus.prepared import PreparedCorpus
from kdmt.files import write_text
from kdmt.languages import Direction
from kdmt.stages.prepare_report import PAGE, Collected, gather_measured, named_corpora, shared_text


@dataclass(frozen=True)
class CollectedDirection:
    """What the stage has counted of one direction.

    Attributes:
        direction: the direction.
        settings: settings with the texts of this direction alone.
        paths: YAML path of a text in `settings` -> its YAML path in the pipeline.
        cleaned: counts of the training corpora; None for a direction that is not trained.
        held_out: number of pairs of the validation set (`valid`) and of each test set.
        monolingual: counts of the monolingual corpora by their setting.
    """

    direction: Direction
    settings: Prepare
    paths: Mapping[str, str]
    cleaned: CleaningReport | None
    held_out: Mapping[str, int]
    monolingual: Mapping[str, CleaningReport] = field(default_factory=dict)


def write_directions_report(
    corpus: PreparedCorpus,
    settings: Prepare,
    collected: Collected,
    splits: Sequence[str],
    parts: Sequence[CollectedDirection],
) -> None:
    """Write `report.html` to the folder of the stage.

    Args:
        corpus: text of all directions.
        collected: counts of all directions together; those of `cleaned` are replaced by those of `parts`.
        splits: held-out sets in the data-bin.
        parts: counts of each direction.
    """
    write_text(corpus.folder / PAGE, render_page(_gather(corpus, settings, collected, splits, parts)))


def _gather(
    corpus: PreparedCorpus,
    settings: Prepare,
    collected: Collected,
    splits: Sequence[str],
    parts: Sequence[CollectedDirection],
) -> DataReport:
    named = [(part, _named(part, part.cleaned, collected)) for part in parts if part.cleaned is not None]
    corpora = tuple(counts for _, cleaned in named for counts in cleaned.corpora)
    whole = replace(collected, cleaned=replace(collected.cleaned, corpora=corpora))
    shared: dict[str, list[tuple[str, str, int]]] = {}
    for _, cleaned in named:
        for kind, counts in cleaned.shared.items():
            shared.setdefault(kind, []).extend(shared_text(cleaned, counts))
    monolingual = [_named(part, counts, collected) for part in parts for counts in part.monolingual.values()]
    return replace(
        gather_measured(corpus, settings, whole, splits, monolingual),
        texts=[text for part in parts for text in _texts(part, collected)],
        shared={kind: sorted(found, key=lambda line: -line[2]) for kind, found in shared.items()},
        directions=list(map(_direction, parts)),
    )


def _named(part: CollectedDirection, cleaned: CleaningReport, collected: Collected) -> CleaningReport:
    """Return the counts of a direction, with its name in those of the corpora."""
    found = named_corpora(cleaned, "train", collected.provenance)  # data sets by name are refused
    corpora = (replace(counts, name=f"{part.direction}: {counts.name}") for counts in found.corpora)
    return replace(found, corpora=tuple(corpora))


def _direction(part: CollectedDirection) -> ReportedDirection:
    counts: dict[str, Any] = {"pairs": None, "dropped": None, "used": None, "ratio": None}
    if part.cleaned is not None:
        counts = {
            "pairs": part.cleaned.pairs_in,
            "dropped": sum(part.cleaned.dropped.values()),
            "used": part.cleaned.pairs_out,
            "ratio": part.cleaned.typical_ratio,
        }
    tests = {name: count for name, count in part.held_out.items() if name != "valid"}
    return ReportedDirection(str(part.direction), **counts, valid=part.held_out.get("valid", 0), tests=tests)


def _texts(part: CollectedDirection, collected: Collected) -> Iterator[ReportedText]:
    """Yield the texts of a direction, whose sides are those of the direction."""
    corpora = () if part.cleaned is None else part.cleaned.corpora
    counts: dict[str, CorpusCounts] = {f"prepare.train.{number}": each for number, each in enumerate(corpora)}
    for name, report in part.monolingual.items():
        counts |= {f"prepare.{name}.{number}": each for number, each in enumerate(report.corpora)}
    for path, text in texts_by_path(part.settings).items():
        own, sources = counts.get(path), sources_of(text)
        lines = 0 if own is not None else part.held_out[path.rpartition("prepare.")[2].removeprefix("test.")]
        yield ReportedText(
            path=f"{part.paths.get(path, path).removeprefix('prepare.')} ({part.direction})",
            files=tuple(source.name for source in sources),
            sha256=tuple(collected.hashes.get(source.name, "") for source in sources),
            licence=None,
            pairs=lines if own is None else own.pairs_in,
            kept=lines if own is None else own.pairs_kept,
            used=lines if own is None else own.pairs_out,
        )
