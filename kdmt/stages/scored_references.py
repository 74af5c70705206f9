"""References of the test sets of a pipeline, in the forms that the score stage compares translations with."""

from __future__ import annotations

from kdmt.config import HeldOut
from kdmt.corpus.lines import read_lines
from kdmt.corpus.prepared import spaced_sides
from kdmt.score.test_sets import References, TestSet
from kdmt.stages.measures import bleu_tokenizer
from kdmt.stages.references import join_words, read_further, read_references
from kdmt.stages.variants import ScoredText
from kdmt.stages.workspace import Workspace


def scored_test_set(workspace: Workspace, text: ScoredText) -> TestSet:
    """Return the references of a test set in all forms that are scored."""
    direction = text.direction or workspace.direction
    tokenize, lowercase = bleu_tokenizer(workspace, direction), workspace.config.scores_lowercased
    as_words = not workspace.config.score.detokenized
    first = References(
        text.references(workspace, read_references(workspace, text.split), as_words=as_words),
        tokenize,
        lowercase,
        _further(workspace, text, as_words=as_words),
        workspace.config.score.spbleu_model,
    )
    return TestSet(first, _second_form(workspace, text), workspace.config.score.metrics)


def _further(workspace: Workspace, text: ScoredText, *, as_words: bool) -> list[list[str]]:
    """Return the further references of a test set. See `read_further`."""
    further = read_further(workspace, text.split, as_words=as_words, direction=text.direction)
    return [text.references(workspace, lines, as_words=as_words) for lines in further]


def _second_form(workspace: Workspace, text: ScoredText) -> References | None:
    """Return the references in the form that `score.detokenized` does not select; None if there is only one form."""
    processing, tgt = workspace.config.prepare.text, workspace.direction.target
    direction = text.direction or workspace.direction
    if processing.changes_nothing:
        return None
    given = workspace.config.prepare.test.get(text.split)
    if processing.already_applied and isinstance(given, HeldOut) and given.raw_target is None:
        return None  # the corpus has no raw text to compare with
    as_words = workspace.config.score.detokenized
    if as_words:
        lines = join_words(workspace, read_lines(workspace.prepare / f"{text.split}.{tgt}"))
    else:
        lines = read_lines(workspace.prepare / f"{text.split}.raw.{tgt}")
    references, further = (
        text.references(workspace, lines, as_words=as_words),
        _further(workspace, text, as_words=as_words),
    )
    tokenize, config = bleu_tokenizer(workspace, direction), workspace.config
    lowercase = config.score.lowercase or config.prepare.tokenizer.folds_case
    if as_words:  # lowercased already, with 'lowercase'
        tokenize = "none" if spaced_sides(config.prepare, direction)[1] else tokenize
    else:
        lowercase = lowercase or processing.lowercase
    return References(references, tokenize, lowercase, further, config.score.spbleu_model)
