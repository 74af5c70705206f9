"""The text that translations are held against."""

from __future__ import annotations

from typing import Any

from kdmt.corpus.lines import read_lines
from kdmt.corpus.subwords import join_subwords
from kdmt.stages.measures import words_tokenizer
from kdmt.stages.workspace import Workspace


def read_references(workspace: Workspace, split: str) -> list[str]:
    """The references of a split in the form that `score.detokenized` asks for."""
    if workspace.config.score.detokenized:
        return read_lines(workspace.prepare / f"{split}.raw.{workspace.direction.target}")
    return join_words(workspace, read_lines(workspace.prepare / f"{split}.{workspace.direction.target}"))


def join_words(workspace: Workspace, words: list[str]) -> list[str]:
    """Text as the tokenizer sees it, with its subwords joined where these are in the text."""
    return [join_subwords(line, workspace.config.prepare.tokenizer.remove_bpe) for line in words]


def bleu_of_words(
    workspace: Workspace, hypotheses: list[str], references: list[str], *, tokenize: str | None = None
) -> Any:
    """BLEU of text as the tokenizer sees it, whatever `score` asks for: what training and distillation go by.

    Args:
        tokenize: sacreBLEU's tokenizer; by default that for text of this kind in the target language.
    """
    from kdmt.score.metrics import bleu

    tokenize = tokenize or words_tokenizer(workspace)
    return bleu(join_words(workspace, hypotheses), join_words(workspace, references), tokenize=tokenize)


def chrf_of_words(workspace: Workspace, hypotheses: list[str], references: list[str]) -> Any:
    """chrF of the same text; spaces do not count."""
    from kdmt.score.metrics import chrf

    return chrf(join_words(workspace, hypotheses), join_words(workspace, references))
