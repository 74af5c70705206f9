"""`kdmt import-checkpoint`: write checkpoint folders from checkpoints of fairseq."""

from __future__ import annotations

from pathlib import Path

from kdmt.config import Text
from kdmt.interop.fairseq.checkpoints import TextSettings, import_checkpoints
from kdmt.terminal import printable


def import_checkpoint(
    checkpoints: str,
    out: Path,
    *,
    data: Path,
    source_lang: str | None = None,
    target_lang: str | None = None,
    bpe_codes: Path | None = None,
    sentencepiece: Path | None = None,
    normalize: bool = False,
    moses: bool = False,
    lowercase: bool = False,
    all_directions: bool = False,
) -> None:
    """Write a checkpoint folder for each checkpoint of fairseq, and print the paths of the folders.

    Args:
        checkpoints: paths separated by ':'.
        out: new folder; for several checkpoints OUT/0, OUT/1, ...
        data: data-bin of the checkpoints, or a folder with its dict.<lang>.txt files.
        source_lang, target_lang: languages (default: those in the checkpoint).
        bpe_codes, sentencepiece: subword model; without one, text is expected to be tokenised.
        normalize, moses, lowercase: processing that was applied to the training text.
        all_directions: whether a multilingual checkpoint is imported with all its directions.

    Raises:
        UserError: if a checkpoint cannot be read or has no counterpart in kdmt, or the folder exists.
    """
    settings = TextSettings(
        data=data,
        source_lang=source_lang,
        target_lang=target_lang,
        bpe_codes=bpe_codes,
        sentencepiece=sentencepiece,
        text=Text(normalize=normalize, moses=moses, lowercase=lowercase, already_applied=moses),
        all_directions=all_directions,
    )
    for folder in import_checkpoints(checkpoints, out, settings):
        print(printable(str(folder)))
