"""What the cleaning rules of the prepare stage need besides the corpora: files of models, and scores of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kdmt.checksum import known_sha256
from kdmt.config import Prepare, ReverseScore, Rules
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.filters.scored_filter import Scores
from kdmt.corpus.filters.table import FILTERS, FilterContext
from kdmt.distill.pair_scores import open_scorer, pair_tasks, read_pair_scores
from kdmt.errors import UserError
from kdmt.languages import Direction
from kdmt.models.checkpoint_folder import checkpoint_sha256, resolve_checkpoint
from kdmt.workers.open import open_processes
from kdmt.workers.progress import block_progress

CACHE = "filter-scores"  # folder in that of the pipeline, with scores that a later run of the stage uses again


def distinct_rules(settings: Prepare) -> Iterator[Rules]:
    """Yield the rules of the corpora for training and of monolingual text, equal ones once."""
    cleans = [settings.clean_of(corpus) for corpus in settings.train]
    if settings.monolingual and settings.clean != "none":
        cleans.append(settings.clean.for_lines())
    found: list[Rules] = []
    for clean in cleans:
        if clean != "none" and clean.rules is not None and clean.rules not in found:
            found.append(clean.rules)
            yield clean.rules


def rule_inputs(settings: Prepare, known: Mapping[str, str]) -> dict[str, str]:
    """Return the SHA-256 of each model that a rule reads, by its path; the recorded one if it no longer exists.

    Args:
        known: recorded inputs of the stage.

    Raises:
        UserError: if a model does not exist and was not used before.
    """
    hashes: dict[str, str] = {}
    for rules in distinct_rules(settings):
        if rules.language is not None and rules.language.model is not None:
            path = rules.language.model
            hashes[path] = _hash(path, known, lambda path: known_sha256(Path(path)))
        if rules.reverse is not None:
            path = rules.reverse.checkpoint
            hashes[path] = _hash(path, known, lambda path: checkpoint_sha256(resolve_checkpoint(Path(path))))
    return hashes


def _hash(path: str, known: Mapping[str, str], compute: Callable[[str], str]) -> str:
    if not Path(path).exists() and path in known:
        return known[path]
    try:
        return compute(path)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None


def filter_context(
    settings: Prepare,
    *,
    direction: Direction,
    spaced: tuple[bool, bool],
    valid: Iterable[tuple[str, str]],
    folder: Path,
    workers: int,
    say: Callable[[str], None],
) -> FilterContext | None:
    """Return what the filters by scores need, or None if no corpus has such a filter.

    Args:
        valid: pairs of the validation set, which are read if there is such a filter.
        folder: folder of the stage, while it is written.
        workers: number of processes.

    Raises:
        UserError: if a reverse model is of other languages.
    """
    names = {name for rules in distinct_rules(settings) for name in FILTERS if getattr(rules, name) is not None}
    if not names:
        return None
    for rules in distinct_rules(settings):
        if rules.reverse is not None:
            _check_direction(rules.reverse, direction.reversed())
    cache = folder.parent / CACHE
    scorer = ReverseScorer(cache, raw=not settings.text.already_applied, workers=workers)
    return FilterContext(spaced, tuple(valid), cache, folder, workers, say, scorer)


def _check_direction(settings: ReverseScore, wanted: Direction) -> None:
    own = TextCodec.load(resolve_checkpoint(Path(settings.checkpoint))).text.direction
    if not own.matches(wanted):
        raise UserError(
            f"prepare.clean.rules: reverse: {settings.checkpoint} translates {own.source} to {own.target}, not "
            f"{wanted.source} to {wanted.target}"
        )


@dataclass(frozen=True)
class ReverseScorer:
    """Scores of a model of the opposite direction for the lines of two files.

    Attributes:
        cache: folder in which scores are kept for later runs.
        raw: whether the lines are raw text, not text that is tokenised already.
        workers: number of processes.
    """

    cache: Path
    raw: bool
    workers: int

    def __call__(self, settings: ReverseScore, source: Path, target: Path) -> Scores:
        """Return the mean log-probability of a token of each source line, given the target line; NaN for long lines."""
        identity = checkpoint_sha256(resolve_checkpoint(Path(settings.checkpoint)))
        self.cache.mkdir(parents=True, exist_ok=True)
        engine = self.cache / f"reverse-{identity[:16]}"
        scorer = open_scorer(Path(settings.checkpoint), engine, compute_type=settings.compute_type, raw=self.raw)
        key = {"checkpoint": identity, "compute_type": settings.compute_type, "raw": self.raw}
        tasks = pair_tasks(target, source, self.cache, key=key)
        missing = [task for task in tasks if not task.out.exists()]
        executor = open_processes(self.cache, device="auto", workers=self.workers, threads=1)
        done = sum(task.count for task in tasks) - sum(task.count for task in missing)
        with block_progress("prepare: reverse model", before=done) as advance:
            failed = executor.run(scorer, missing, advance)
        if failed:
            raise UserError(f"prepare.clean.rules: reverse: {failed[0].error}")
        scores = read_pair_scores(tasks)
        return scores[:, 0] / scores[:, 1]
