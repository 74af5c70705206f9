"""What the cleaning rules of the prepare stage need besides the corpora: files of models, and scores of a model."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdmt.checksum import known_sha256
from kdmt.config import MONOLINGUAL_SIDES, Clean, ExternalFilter, Language, Prepare, ReverseScore, Rules
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.filters.scored_filter import Scores
from kdmt.corpus.filters.table import FILTERS, FilterContext
from kdmt.corpus.process_pool import OpenMap
from kdmt.corpus.rules.language import check_language_rule
from kdmt.distill.pair_scores import open_scorer, pair_tasks, read_pair_scores
from kdmt.errors import UserError, naming
from kdmt.languages import Direction
from kdmt.models.checkpoint_folder import checkpoint_sha256, resolve_checkpoint
from kdmt.workers.open import open_processes
from kdmt.workers.progress import block_progress

CACHE = "filter-scores"  # folder in that of the pipeline, with scores that a later run of the stage uses again


@dataclass(frozen=True)
class _CorpusRules:
    """The rules of a training corpus, or of monolingual text.

    Attributes:
        rules: rules that are applied.
        changes: setting `clean` of the corpus, which changes the rules of the pipeline.
        path: YAML path of `changes`.
        side: side whose language monolingual text has: 0 for the source, 1 for the target; None for a corpus.
    """

    rules: Rules
    changes: Mapping[str, object]
    path: str
    side: int | None

    def path_of(self, name: str) -> str:
        """Return the YAML path at which the settings of a rule are given."""
        if name in self.changes:
            return f"{self.path}.{name}"
        return f"{self.path if 'rules' in self.changes else 'prepare.clean'}.rules.{name}"


def _rules_of_corpora(settings: Prepare) -> Iterator[_CorpusRules]:
    """Yield the rules of the corpora for training and of monolingual text that have any."""
    for index, corpus in enumerate(settings.train):
        clean = settings.clean_of(corpus)
        if isinstance(clean, Clean) and clean.rules is not None:
            yield _CorpusRules(clean.rules, corpus.clean, f"prepare.train.{index}.clean", None)
    if settings.clean == "none":
        return
    for name in settings.monolingual_texts:
        side = MONOLINGUAL_SIDES[name]
        rules = settings.clean.for_lines(side).rules
        if rules is not None:
            yield _CorpusRules(rules, {}, "prepare.clean", side)


def distinct_rules(settings: Prepare) -> Iterator[Rules]:
    """Yield the rules of the corpora for training and of monolingual text, equal ones once."""
    found: list[Rules] = []
    for one in _rules_of_corpora(settings):
        if one.rules not in found:
            found.append(one.rules)
            yield one.rules


def check_rules(settings: Prepare, direction: Direction) -> None:
    """Check that every rule finds the package, model or command that it needs, before anything is downloaded.

    Raises:
        UserError: if something is missing, or a model is of other languages; the message has the YAML path of the rule.
    """
    for one in _rules_of_corpora(settings):
        lang = None if one.side is None else direction.sides[one.side]
        wanted = direction if lang is None else Direction(lang, lang)
        for name, check in _CHECKS.items():
            rule = getattr(one.rules, name)
            if rule is not None:
                with naming(one.path_of(name)):
                    check(rule, wanted)


def _check_language(rule: Language, direction: Direction) -> None:
    check_language_rule(rule, direction.sides)


def _check_reverse(rule: ReverseScore, direction: Direction) -> None:
    text = TextCodec.load(resolve_checkpoint(Path(rule.checkpoint))).text
    text.check_direction(direction.reversed(), rule.checkpoint)


def _check_command(rule: ExternalFilter, _: Direction) -> None:
    if shutil.which(rule.command[0]) is None:
        raise UserError(f"{rule.command[0]}: there is no such program, or it is not executable")


# rule -> function that checks what it needs besides the text
_CHECKS: Mapping[str, Callable[[Any, Direction], None]] = {
    "language": _check_language,
    "reverse": _check_reverse,
    "filter": _check_command,
}


def rule_inputs(settings: Prepare, known: Mapping[str, str]) -> dict[str, str]:
    """Return the SHA-256 of each model that a rule reads, by its path; the recorded one if it no longer exists.

    Args:
        known: recorded inputs of the stage.

    Raises:
        UserError: if a model does not exist and was not used before.
    """
    hashes: dict[str, str] = {}
    for one in _rules_of_corpora(settings):
        language, reverse = one.rules.language, one.rules.reverse
        if language is not None and language.model is not None:
            with naming(one.path_of("language")):
                hashes[language.model] = _hash(language.model, known, lambda path: known_sha256(Path(path)))
        if reverse is not None:
            with naming(one.path_of("reverse")):
                hashes[reverse.checkpoint] = _hash(
                    reverse.checkpoint, known, lambda path: checkpoint_sha256(resolve_checkpoint(Path(path)))
                )
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
    spaced: tuple[bool, bool],
    valid: Iterable[tuple[str, str]],
    folder: Path,
    cache: Path,
    open_map: OpenMap,
    workers: int,
    say: Callable[[str], None],
    places: Mapping[int, int],
) -> FilterContext | None:
    """Return what the filters by scores need, or None if no corpus has such a filter.

    Args:
        valid: pairs of the validation set, which are read if there is such a filter.
        folder: folder of the stage, while it is written.
        cache: folder of scores that later runs of the stage use again.
        open_map: context in which the filters that are computed from the text score batches of pairs.
        workers: number of processes of a reverse model.
        places: index of a corpus in `prepare.train` of the pipeline -> its index in that of `settings`.
    """
    names = {name for rules in distinct_rules(settings) for name in FILTERS if getattr(rules, name) is not None}
    if not names:
        return None
    scorer = ReverseScorer(cache, raw=not settings.text.already_applied, workers=workers)
    return FilterContext(spaced, tuple(valid), cache, folder, open_map, say, scorer, places)


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
