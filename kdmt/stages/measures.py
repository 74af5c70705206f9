"""Measures of text in plans, recorded so that installing a package later does not make a stage out of date.

A plan depends on the typical length ratio if failures are found by the ratio, and on the tokenizer for BLEU if targets
are chosen by BLEU.
"""

from __future__ import annotations

from pathlib import Path

from kdmt.config import Distill, Text
from kdmt.corpus import prepared
from kdmt.corpus.prepared import PreparedCorpus
from kdmt.flow.manifest import Plan, recorded_plan
from kdmt.languages import Direction
from kdmt.score import bleu_tokenizer as bleu
from kdmt.stages.workspace import Workspace

_TOKENIZER = "bleu_tokenizer"  # name in the settings of a plan


def prepared_corpus(workspace: Workspace) -> PreparedCorpus:
    """Return the prepared corpus of a pipeline."""
    return PreparedCorpus(workspace.prepare, workspace.direction, spaced_sides(workspace))


def with_ratio(plan: Plan, settings: Distill, corpus: PreparedCorpus) -> Plan:
    """Return a plan that also depends on the typical ratio, if it is recorded and failures are found by the ratio.

    A stage that was made before the ratio was recorded counts as made with it.
    """
    ratio = corpus.recorded_ratio()
    if ratio is None or not settings.failures.max_ratio:
        return plan
    plan = plan.depending_on("typical_ratio", ratio, default=ratio)
    ratios = corpus.ratios_of_directions()
    return plan.depending_on("typical_ratio of directions", ratios, default=None) if ratios else plan


def with_tokenizer(plan: Plan, folder: Path, text: Text, current: str) -> Plan:
    """Return the plan of a training set whose targets are chosen by BLEU, with sacreBLEU's tokenizer.

    Args:
        current: tokenizer for a training set that is made now.

    If the training set in `folder` is made from the same files, its tokenizer is kept, so that a package that is
    installed later, or another `score.tokenize`, does not make it out of date.
    """
    recorded = recorded_plan(folder)
    kept = None
    if recorded is not None and recorded.inputs == plan.inputs:
        kept = recorded.settings.get(_TOKENIZER)
    tokenizer = kept or current
    return plan.depending_on(_TOKENIZER, tokenizer, default=bleu.legacy_words_tokenizer(text))


def recorded_tokenizer(folder: Path, text: Text) -> str:
    """Return the tokenizer in the recorded plan of a training set.

    Raises:
        UserError: if its packages are missing.
    """
    recorded = recorded_plan(folder)
    assert recorded is not None, "a training set is begun before its text is chosen"
    tokenizer = str(recorded.settings.get(_TOKENIZER, bleu.legacy_words_tokenizer(text)))
    bleu.require_packages(tokenizer, folder)
    return tokenizer


# ----------------------------------------------------------------------------------------------------- of one pipeline


def spaced_sides(workspace: Workspace) -> tuple[bool, bool]:
    """Return whether source and target have spaces between words; for several directions, whether all of them have."""
    settings, directions = workspace.config.prepare, workspace.config.all_directions
    sides = [prepared.spaced_sides(settings, direction) for direction in directions]
    return all(source for source, _ in sides), all(target for _, target in sides)


def bleu_tokenizer(workspace: Workspace, direction: Direction) -> str:
    """Return sacreBLEU's tokenizer for detokenised text of the target language of a direction."""
    return bleu.bleu_tokenizer(workspace.config.score, direction.target)


def bleu_tokenizers(workspace: Workspace) -> str | dict[str, str]:
    """Return sacreBLEU's tokenizer for detokenised targets; for several directions, that of each by its name."""
    if not workspace.config.is_multilingual:
        return bleu_tokenizer(workspace, workspace.direction)
    return {str(each): bleu_tokenizer(workspace, each) for each in workspace.config.all_directions}


def words_tokenizer(workspace: Workspace) -> str:
    """Return sacreBLEU's tokenizer for words of the target language in the form that kdmt's tokenizer reads.

    If the target languages of several directions have different ones, it is `char`, which suits all of them.
    """
    config = workspace.config
    found = {bleu.words_tokenizer(config.score, config.prepare.text, each.target) for each in config.all_directions}
    return found.pop() if len(found) == 1 else "char"


def tokenizer_note(workspace: Workspace) -> str | None:
    """Return a note for the user on `score.tokenize: auto`, None if there is nothing to note."""
    targets = dict.fromkeys(each.target for each in workspace.config.all_directions)
    notes = (bleu.tokenizer_note(workspace.config.score, target) for target in targets)
    return next((note for note in notes if note is not None), None)
