"""The text that translations are held against."""

from __future__ import annotations

from typing import Any

from kdmt.corpus.lines import read_lines
from kdmt.stages.workspace import Workspace


def read_references(workspace: Workspace, split: str) -> list[str]:
    """The references of a split in the form that `score.detokenized` asks for."""
    form = "raw." if workspace.config.score.detokenized else ""
    return read_lines(workspace.prepare / f"{split}.{form}{workspace.config.target_lang}")


def bleu_of_words(workspace: Workspace, hypotheses: list[str], references: list[str]) -> Any:
    """BLEU of text as the tokenizer sees it, whatever `score` asks for: what training and distillation go by.

    Text that was tokenised by Moses is not tokenised again.
    """
    from kdmt.score.metrics import bleu

    return bleu(hypotheses, references, tokenize="none" if workspace.config.prepare.text.moses else "13a")
