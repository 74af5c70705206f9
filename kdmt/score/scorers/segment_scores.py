"""Scores of many segments by an external scorer, from its cache or its process.

with open_scorer("comet22", settings, folder=runs / "scorers", say=print) as scorer:
    scores = score_segments(scorer, [Segment("Guten Tag.", "Hello.", "Good day."), ...])
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdmt.checksum import file_sha256, known_sha256, path_sha256
from kdmt.config import Scorer
from kdmt.errors import UserError
from kdmt.score.metrics import MetricScore, Range
from kdmt.score.scorers.cache import ScoreCache, segment_key
from kdmt.score.scorers.process import Ended, Greeting, ScorerProcess, Segment, WrongAnswer

_PACKAGE = Path(__file__).parents[2]
_ADAPTERS = Path(__file__).parent / "adapters"
_CHUNK = 8192  # segments that are held in memory
_KEPT_TOGETHER = 256  # scores of one transaction of the cache
_SHOWN_CHARACTERS = 60  # of a source, in messages


class OpenScorer:
    """An external scorer with its cache; its process is started when a score is not in the cache.

    Args:
        name: name in the section `scorers`.
        settings: its settings.
        folder: folder of the cache and the log.
        say: function that prints a line for the user.
    """

    def __init__(self, name: str, settings: Scorer, *, folder: Path, say: Callable[[str], None]) -> None:
        self.name, self.settings, self._say = name, settings, say
        self._folder, self._log = folder, folder / f"{name}.log"
        self._model = model_sha256(settings, name)
        self._environment = _environment(name, settings, folder)
        self._command = [part.replace("{model}", settings.model or "") for part in settings.command]
        self._process: ScorerProcess | None = None
        self._restarts = 0
        self._cache = ScoreCache(folder / f"{name}.sqlite")
        try:
            self.greeting = self._known_greeting()
        except BaseException:
            self._cache.close()
            raise

    @property
    def signature(self) -> str:
        """Signature of the scores, with the versions, the beginning of the model's SHA-256 and its licence."""
        parts = [self.greeting.signature, f"nrefs:{int(self.settings.reference)}"]
        if self._model is not None:
            parts.append(f"model:{self._model[:12]}")
        parts += [f"{package}:{version}" for package, version in self.greeting.versions.items()]
        if self.greeting.licence:
            parts.append(f"licence:{self.greeting.licence}")
        return "|".join(parts)

    @property
    def range(self) -> Range:
        return self.settings.range

    @property
    def higher_is_better(self) -> bool:
        return self.settings.direction == "higher"

    def mean(self, scores: NDArray[np.float64]) -> MetricScore:
        """Return the mean of segment scores as the score of a system."""
        return MetricScore(float(scores.mean()), self.signature, self.higher_is_better, self.range)

    def score(self, segments: Sequence[Segment], *, first: int = 0) -> NDArray[np.float64]:
        """Return the score of each segment.

        Args:
            first: index of the first segment, for messages.

        Raises:
            UserError: if the process ends or is silent too often, or an answer is not valid.
        """
        if not self.settings.reference:
            segments = [segment._replace(reference=None) for segment in segments]
        greeting = self.greeting
        version = json.dumps([self.settings.command, greeting.signature, dict(greeting.versions), self._model])
        keys = [segment_key(version, segment) for segment in segments]
        found = self._cache.find(list(dict.fromkeys(keys)))
        indices = {key: index for index, key in reversed(list(enumerate(keys))) if key not in found}
        missing = sorted(indices.values())
        if missing:
            found |= self._compute(segments, keys, missing, first)
        scores = np.array([found[key] for key in keys], dtype=np.float64)
        self._check_range(scores, segments, first)
        return scores

    def close(self) -> None:
        """End the process.

        Raises:
            UserError: if it wrote lines that answer no segment.
        """
        process, self._process = self._process, None
        self._cache.close()
        if process is not None:
            try:
                process.finish()
            except WrongAnswer as error:
                raise self._error(str(error)) from None

    def kill(self) -> None:
        """End the process without waiting for it."""
        process, self._process = self._process, None
        self._cache.close()
        if process is not None:
            process.kill()

    def _known_greeting(self) -> Greeting:
        """Return the greeting of this version of the scorer, for which its process is started if it is not known."""
        identity = self._identity()
        known = self._cache.greeting(identity)
        if known is not None:
            with suppress(UserError):
                return Greeting.from_record(known)
        self._process = self._start()
        self._cache.add_greeting(identity, asdict(self._process.greeting))
        return self._process.greeting

    def _identity(self) -> str:
        """Return a checksum of the command, its files and the packages of its environment."""
        files = {part: file_sha256(Path(part)) for part in self._command if Path(part).is_file()}
        program = shutil.which(self._command[0], path=self._environment["PATH"])
        prefix = Path(self.settings.environment or sys.prefix)
        packages = sorted(path.name for path in prefix.glob("lib/python*/site-packages/*.dist-info"))
        adapters = {path.name: known_sha256(path) for path in sorted(_ADAPTERS.glob("*.py"))}
        values = [self._command, self._model, files, program, packages, adapters]
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()

    def _start(self) -> ScorerProcess:
        while True:
            try:
                return ScorerProcess(
                    self._command,
                    environment=self._environment,
                    log=self._log,
                    timeout=self.settings.timeout,
                    batch_size=self.settings.batch_size,
                )
            except Ended as error:
                self._count_restart(str(error))
            except (WrongAnswer, UserError) as error:
                raise self._error(str(error)) from None

    def _count_restart(self, problem: str, where: str = "") -> None:
        if self._restarts == self.settings.restarts:
            raise self._error(f"{where}the process {problem}, {self._restarts + 1} times")
        self._restarts += 1
        self._say(f"{self._path}: warning: the process {problem}; it is started again")

    def _compute(
        self, segments: Sequence[Segment], keys: Sequence[bytes], missing: list[int], first: int
    ) -> dict[bytes, float]:
        """Return the scores of the segments with the indices `missing`, and add them to the cache."""
        found: dict[bytes, float] = {}
        while missing:
            if self._process is None:
                self._process = self._start()
                self._check_greeting(self._process.greeting)
            new: dict[bytes, float] = {}
            try:
                for place, score in self._process.scores([segments[index] for index in missing]):
                    self._check_range(np.array([score]), [segments[missing[place]]], first + missing[place])
                    new[keys[missing[place]]] = score
                    if len(new) == _KEPT_TOGETHER:
                        self._cache.add(new)
                        found |= new
                        new = {}
            except Ended as error:
                self._discard_process()
                without = next(index for index in missing if keys[index] not in found and keys[index] not in new)
                self._count_restart(str(error), self._where(first + without, segments[without]))
            except WrongAnswer as error:
                where = (
                    ""
                    if error.index is None
                    else self._where(first + missing[error.index], segments[missing[error.index]])
                )
                raise self._error(f"{where}the process {error}") from None
            finally:
                self._cache.add(new)
            found |= new
            missing = [index for index in missing if keys[index] not in found]
        return found

    def _check_greeting(self, greeting: Greeting) -> None:
        if greeting != self.greeting:  # what it depends on is no part of the identity
            self._cache.add_greeting(self._identity(), asdict(greeting))
            raise self._error(f"its first line changed from {self.greeting} to {greeting}: run the command again")

    def _discard_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()

    def _check_range(self, scores: NDArray[np.float64], segments: Sequence[Segment], first: int) -> None:
        low, high = self.range
        is_outside = np.zeros(len(scores), dtype=bool)
        if low is not None:
            is_outside |= scores < low
        if high is not None:
            is_outside |= scores > high
        if is_outside.any():
            index = int(np.argmax(is_outside))
            shown = " to ".join("no bound" if bound is None else f"{bound:g}" for bound in self.range)
            where = self._where(first + index, segments[index])
            raise self._error(f"{where}the score {scores[index]:g} is outside of 'range' ({shown})")

    @property
    def _path(self) -> str:
        return f"scorers.{self.name}"

    def _error(self, message: str) -> UserError:
        return UserError(f"{self._path}: {message}")

    @staticmethod
    def _where(index: int, segment: Segment) -> str:
        source = segment.source[:_SHOWN_CHARACTERS]
        return f"segment {index + 1:,} ({source!r}): "


@contextmanager
def open_scorer(name: str, settings: Scorer, *, folder: Path, say: Callable[[str], None]) -> Iterator[OpenScorer]:
    """Yield an external scorer, and end its process at the end. See `OpenScorer`.

    Raises:
        UserError: if the model or the environment does not exist, or the process cannot be started.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scorer = OpenScorer(name, settings, folder=folder, say=say)
    try:
        yield scorer
    except BaseException:
        scorer.kill()
        raise
    scorer.close()


def score_segments(scorer: OpenScorer, segments: Iterable[Segment]) -> NDArray[np.float64]:
    """Return the score of each segment [N]; only some thousands of segments are held in memory.

    Raises:
        UserError: see `OpenScorer.score`.
    """
    scores: list[NDArray[np.float64]] = [np.zeros(0)]
    remaining, first = iter(segments), 0
    while chunk := list(islice(remaining, _CHUNK)):
        scores.append(scorer.score(chunk, first=first))
        first += len(chunk)
    return np.concatenate(scores)


def model_inputs(scorers: Mapping[str, Scorer]) -> dict[str, str]:
    """Return the SHA-256 of the model of each scorer that has one, for a plan."""
    found = {f"scorers.{name}.model": model_sha256(scorer, name) for name, scorer in scorers.items()}
    return {path: sha256 for path, sha256 in found.items() if sha256 is not None}


def model_sha256(settings: Scorer, name: str) -> str | None:
    """Return the SHA-256 of the model of a scorer, None if the settings name none.

    Raises:
        UserError: if the model does not exist; the message has the YAML path.
    """
    if settings.model is None:
        return None
    try:
        return path_sha256(Path(settings.model))
    except UserError as error:
        raise UserError(f"scorers.{name}.model: {error}") from None


def _environment(name: str, settings: Scorer, folder: Path) -> dict[str, str]:
    """Return the environment variables of the process.

    In an environment of its own, a Python program can import kdmt, for the adapters, but no other package of kdmt's
    environment.
    """
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONHOME"}
    programs = Path(sys.executable).parent
    if settings.environment is not None:
        programs = Path(settings.environment).absolute() / "bin"
        if not programs.is_dir():
            raise UserError(f"scorers.{name}.environment: {settings.environment}: not a virtual environment")
        variables |= {"VIRTUAL_ENV": str(programs.parent), "PYTHONPATH": str(_link_package(folder))}
    return variables | {"PATH": f"{programs}{os.pathsep}{variables.get('PATH', os.defpath)}"}


def _link_package(folder: Path) -> Path:
    """Return a folder that has nothing but a link to the package kdmt."""
    link = folder / "import" / _PACKAGE.name
    link.parent.mkdir(exist_ok=True)
    if not link.is_symlink() or link.resolve() != _PACKAGE.resolve():
        link.unlink(missing_ok=True)
        with suppress(FileExistsError):  # another process made it
            link.symlink_to(_PACKAGE, target_is_directory=True)
    return link.parent.absolute()
