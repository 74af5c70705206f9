"""The values that the work of the prepare stage needs: settings, locations of its texts, and where it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from kdmt.config import NO_LOCK_FILE, Context, ParallelText, Prepare, Provenance, Source
from kdmt.corpus.fetch import Places, fetch, fetch_corpus
from kdmt.corpus.fetch_queue import describe_fetched, fetch_all
from kdmt.corpus.process_pool import OpenMap, mapping_in_order
from kdmt.corpus.reading import Documents
from kdmt.errors import naming
from kdmt.flow.progress import download_progress
from kdmt.languages import Direction
from kdmt.runtime import cores
from kdmt.stages.prepare_partial import WORK
from kdmt.workers.ray_map import mapping_on_ray

_Read = TypeVar("_Read")


@dataclass(frozen=True)
class Locations:
    """The locations from which files are read.

    Attributes:
        places: folder of files from the network, mirrors and alternatives.
    """

    places: Places

    def fetch_all(self, sources: Sequence[tuple[str, Source]], *, at_once: int, say: Callable[[str], None]) -> None:
        """Download the files of named sources that are not there yet."""
        if all(source.url is None for _, source in sources):
            return
        with download_progress(say) as progress:
            fetched = fetch_all(sources, self.places, at_once=at_once, progress=progress)
        say(f"prepare: {describe_fetched(fetched)}")

    def fetch(self, source: Source) -> Path:
        """Return the path of a local file with the content of a source."""
        return fetch(source, self.places).path

    def fetch_corpus(self, corpus: ParallelText) -> tuple[Path, ...]:
        """Return the paths of the local files of a parallel text, for `read_pairs`."""
        return fetch_corpus(corpus, self.places)

    def documents(self, corpus: ParallelText, context: Context | None) -> Documents | None:
        """Return the documents of a parallel text, for `read_pairs`; None if its sentences have no context."""
        if context is None:
            return None
        return Documents(context, None if corpus.documents is None else self.fetch(corpus.documents))


@dataclass(frozen=True)
class Preparation:
    """The values that the work on a corpus needs.

    Attributes:
        settings: section `prepare`.
        direction: direction of translation.
        spaced: flags for source and target, True if words are separated by spaces.
        locations: locations from which files are read.
        say: function that prints a line for the user.
        filter_scores: folder of scores of the filters, which later runs use again.
        provenance: what the lock file says about the corpora.
        paths: YAML path of a text in `settings` -> its YAML path in the pipeline, where they differ.
        prefixes: tag of a sentence -> tokens before its source, for tags that are not tokens themselves.
    """

    settings: Prepare
    direction: Direction
    spaced: tuple[bool, bool]
    locations: Locations
    say: Callable[[str], None]
    filter_scores: Path
    provenance: Provenance = NO_LOCK_FILE
    paths: Mapping[str, str] = field(default_factory=dict)
    prefixes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def path(self, path: str) -> str:
        """Return the YAML path in the pipeline of a text of the settings."""
        return self.paths.get(path, path)

    def corpus_places(self) -> dict[int, int]:
        """Return the index of each corpus in the settings, by its index in `prepare.train` of the pipeline."""
        paths = (self.path(f"prepare.train.{place}") for place in range(len(self.settings.train)))
        return {int(path.rpartition(".")[2]): place for place, path in enumerate(paths)}

    @property
    def processes_text(self) -> bool:
        """Whether text processing changes the clean text."""
        return not (self.settings.text.changes_nothing or self.settings.text.already_applied)

    @property
    def num_processes(self) -> int:
        """Number of processes of this machine that clean text."""
        return 1 if self.settings.executor == "inline" else self.settings.workers or cores()

    def open_map(self) -> OpenMap:
        """Return where chunks of text are cleaned and processed."""
        if self.settings.executor == "ray":
            return partial(mapping_on_ray, workers=self.settings.workers)
        return partial(mapping_in_order, workers=self.num_processes)

    def clean_folder(self, folder: Path) -> Path:
        """Return the folder of clean text before text processing, if that changes it; otherwise that of the stage."""
        return folder / WORK / "clean" if self.processes_text else folder

    def clean_training_paths(self, folder: Path) -> tuple[Path, Path]:
        """Return the files of clean training text before text processing, source and target."""
        place = self.clean_folder(folder)
        return place / f"train.{self.direction.source}", place / f"train.{self.direction.target}"

    def naming_text(self, path: str, read: Iterator[_Read]) -> Iterator[_Read]:
        """Yield what is read, and put the text's YAML path and the name of its data set before an error's message."""
        with naming(self.provenance.describe(path)):
            yield from read
