"""How text is measured: what plans record of it, so that a package that is installed later makes no stage out of date.

A plan depends on the typical ratio of lengths, where failures are judged by one, and on the tokenizer for BLEU, where
targets are chosen by it.
"""

from __future__ import annotations

from pathlib import Path

from kdmt.config import Distill, Score, Text
from kdmt.corpus import prepared
from kdmt.corpus.prepared import PreparedCorpus
from kdmt.flow.manifest import Plan, recorded_plan
from kdmt.score import bleu_tokenizer as bleu
from kdmt.stages.workspace import Workspace

_TOKENIZER = "bleu_tokenizer"  # among the settings of a plan


def prepared_corpus(workspace: Workspace) -> PreparedCorpus:
    """Return the prepared corpus of a pipeline."""
    return PreparedCorpus(workspace.prepare, workspace.direction, spaced_sides(workspace))


def with_ratio(plan: Plan, settings: Distill, corpus: PreparedCorpus) -> Plan:
    """Return a plan that depends on the typical ratio too, where failures are judged by one that is recorded.

    A stage that was made before the ratio was recorded counts as made with it.
    """
    ratio = corpus.recorded_ratio()
    if ratio is None or not settings.failures.max_ratio:
        return plan
    return plan.depending_on("typical_ratio", ratio, default=ratio)


def with_tokenizer(plan: Plan, folder: Path, score: Score, text: Text, lang: str) -> Plan:
    """Return the plan of a training set that is chosen by BLEU, with the tokenizer for it.

    It is the one that the training set in `folder` was chosen by, if it is made from the same files: a package that is
    installed later, or another `score.tokenize`, makes no training set out of date.
    """
    recorded = recorded_plan(folder)
    kept = None
    if recorded is not None and recorded.inputs == plan.inputs:
        kept = recorded.settings.get(_TOKENIZER)
    tokenizer = kept or bleu.words_tokenizer(score, text, lang)
    return plan.depending_on(_TOKENIZER, tokenizer, default=bleu.legacy_words_tokenizer(text))


def recorded_tokenizer(folder: Path, text: Text) -> str:
    """Return the tokenizer in the plan of a training set that is being made, or was.

    Raises:
        UserError: its packages are missing.
    """
    recorded = recorded_plan(folder)
    assert recorded is not None, "a training set is begun before its text is chosen"
    tokenizer = str(recorded.settings.get(_TOKENIZER, bleu.legacy_words_tokenizer(text)))
    bleu.require_packages(tokenizer, folder)
    return tokenizer


# ----------------------------------------------------------------------------------------------------- of one pipeline


def spaced_sides(workspace: Workspace) -> tuple[bool, bool]:
    """Return whether source and target have spaces between words."""
    return prepared.spaced_sides(workspace.config.prepare, workspace.direction)


def bleu_tokenizer(workspace: Workspace) -> str:
    """Return sacreBLEU's tokenizer for finished text of the target language."""
    return bleu.bleu_tokenizer(workspace.config.score, workspace.direction.target)


def words_tokenizer(workspace: Workspace) -> str:
    """Return sacreBLEU's tokenizer for words of the target language, as kdmt's tokenizer sees them."""
    config = workspace.config
    return bleu.words_tokenizer(config.score, config.prepare.text, config.direction.target)


def tokenizer_note(workspace: Workspace) -> str | None:
    """Return a note for the user on `score.tokenize: auto`, None if there is nothing to note."""
    return bleu.tokenizer_note(workspace.config.score, workspace.direction.target)
