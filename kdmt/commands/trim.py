"""`kdmt trim`: cut the vocabulary of a multilingual model to the tokens that are needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdmt.corpus.vocabulary_choice import TokenLimits
from kdmt.errors import UserError
from kdmt.interop.checkpoint_trim import trim_checkpoint
from kdmt.interop.huggingface_trim import is_huggingface_folder, trim_model
from kdmt.interop.trim_record import TrimSettings
from kdmt.terminal import printable


def trim(
    model: Path,
    out: Path,
    *,
    texts: Sequence[Path],
    min_count: int | None = None,
    vocab_size: int | None = None,
    keep_tokens: Path | None = None,
    languages: str | None = None,
) -> None:
    """Write a trimmed model, and print its sizes before and after.

    Args:
        model: folder of a Hugging Face model, checkpoint folder, pointer file or run.
        out: new folder.
        texts: text whose tokens are kept.
        min_count: minimum number of occurrences of a token that is kept (default: 1).
        vocab_size: maximum number of tokens (default: no limit).
        keep_tokens: file with further tokens that are kept.
        languages: codes of the languages that are kept, separated by commas (default: all).

    Raises:
        UserError: if the model is of another kind, the settings do not fit it, or `out` exists.
    """
    if min_count is not None and vocab_size is not None:
        raise UserError("--min-count and --vocab-size: give one of them")
    limits = TokenLimits(min_count or 1, vocab_size)
    settings = TrimSettings(tuple(texts), limits, keep_tokens, _split(languages))
    record = (trim_model if is_huggingface_folder(model) else trim_checkpoint)(model, out, settings)
    for line in record.lines():
        print(printable(line))
    print(printable(str(out)))


def _split(languages: str | None) -> tuple[str, ...] | None:
    """Return the codes in a list with commas.

    Raises:
        UserError: if the list is empty or has an empty code.
    """
    if languages is None:
        return None
    codes = tuple(code.strip() for code in languages.split(","))
    if not all(codes):
        raise UserError(f"--languages {languages!r}: write codes with commas between them, as en,de")
    return codes
