"""References of a pipeline, and scores of text in the form that its tokenizer reads."""

from __future__ import annotations

from kdmt.corpus.codec import TEXT_FILE, load_text_processor
from kdmt.corpus.lines import read_lines
from kdmt.corpus.prepared import reference_paths
from kdmt.corpus.subwords import join_subwords
from kdmt.languages import Direction
from kdmt.score.metrics import METRICS, MetricScore
from kdmt.stages.measures import words_tokenizer
from kdmt.stages.workspace import Workspace


def read_references(workspace: Workspace, split: str) -> list[str]:
    """Return the references of a split in the form that `score.detokenized` selects."""
    if workspace.config.score.detokenized:
        return read_lines(workspace.prepare / f"{split}.raw.{workspace.direction.target}")
    return join_words(workspace, read_lines(workspace.prepare / f"{split}.{workspace.direction.target}"))


def read_further(
    workspace: Workspace, split: str, *, as_words: bool, direction: Direction | None = None
) -> list[list[str]]:
    """Return the further references of a split; none if it has one.

    Args:
        as_words: whether to apply text processing, as to the target of the split, or return them as published.
        direction: direction of the split, if the pipeline has several.
    """
    raw = [read_lines(path) for path in reference_paths(workspace.prepare, split, workspace.direction.target)]
    if not as_words or not raw:
        return raw
    processor = load_text_processor(workspace.prepare / TEXT_FILE)
    processor = processor if direction is None else processor.for_direction(direction)
    return [[processor.preprocess_target(line) for line in lines] for lines in raw]


def join_words(workspace: Workspace, words: list[str]) -> list[str]:
    """Return text in the form that the tokenizer reads; if the text has subwords, join them."""
    return [join_subwords(line, workspace.config.prepare.tokenizer.remove_bpe) for line in words]


def score_words(
    workspace: Workspace, metric: str, hypotheses: list[str], references: list[str], *, tokenize: str | None = None
) -> MetricScore:
    """Return the score of text in the form that the tokenizer reads, for training and distillation.

    Args:
        metric: name in `METRICS`.
        tokenize: name of sacreBLEU's tokenizer; by default that for text of this form in the target language.
    """
    return METRICS[metric].score(
        join_words(workspace, hypotheses),
        join_words(workspace, references),
        tokenize=tokenize or words_tokenizer(workspace),
    )
