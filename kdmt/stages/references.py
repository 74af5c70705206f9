"""References of a pipeline, and scores of text as its tokenizer sees it."""

from __future__ import annotations

from kdmt.corpus.lines import read_lines
from kdmt.corpus.subwords import join_subwords
from kdmt.score.metrics import METRICS, MetricScore
from kdmt.stages.measures import words_tokenizer
from kdmt.stages.workspace import Workspace


def read_references(workspace: Workspace, split: str) -> list[str]:
    """Return the references of a split in the form that `score.detokenized` selects."""
    if workspace.config.score.detokenized:
        return read_lines(workspace.prepare / f"{split}.raw.{workspace.direction.target}")
    return join_words(workspace, read_lines(workspace.prepare / f"{split}.{workspace.direction.target}"))


def join_words(workspace: Workspace, words: list[str]) -> list[str]:
    """Return text as the tokenizer sees it, with its subwords joined where the text has subwords."""
    return [join_subwords(line, workspace.config.prepare.tokenizer.remove_bpe) for line in words]


def score_words(
    workspace: Workspace, metric: str, hypotheses: list[str], references: list[str], *, tokenize: str | None = None
) -> MetricScore:
    """Return the score of text as the tokenizer sees it, as training and distillation use it.

    Args:
        metric: a name of `METRICS`.
        tokenize: sacreBLEU's tokenizer; by default that for text of this kind in the target language.
    """
    return METRICS[metric].score(
        join_words(workspace, hypotheses),
        join_words(workspace, references),
        tokenize=tokenize or words_tokenizer(workspace),
    )
