"""`kdmt import-marian`: write a checkpoint folder from a model of Marian or Bergamot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdmt.config import Text
from kdmt.errors import UserError
from kdmt.interop.marian.importing import MarianText, import_model
from kdmt.terminal import printable


def import_marian(
    model: Path,
    out: Path,
    *,
    source_lang: str | None = None,
    target_lang: str | None = None,
    vocab: Sequence[Path] = (),
    sentencepiece: Sequence[Path] = (),
    normalize: bool = False,
    source_token: str | None = None,
) -> None:
    """Write a checkpoint folder for a model, and print its path.

    Args:
        model: `.npz` file, or `.bin` file of Bergamot.
        out: new folder.
        source_lang, target_lang: languages (default: those of a model that kdmt exported).
        vocab: vocabulary of both sides, or one for each (default: those that the model's `decoder.yml` names).
        sentencepiece: SentencePiece model of both sides, or one for each, for `.yml` vocabularies (default: those in
            the folder of the model).
        normalize: whether the punctuation of the training text was normalised by Moses.
        source_token: token that the model needs before each source, such as `>>fra<<`.

    Raises:
        UserError: if the model cannot be read or has no counterpart in kdmt, or the folder exists.
    """
    settings = MarianText(
        source_lang=source_lang,
        target_lang=target_lang,
        vocabularies=_both("--vocab", vocab),
        sentencepiece=_both("--sentencepiece", sentencepiece),
        text=Text(normalize=normalize),
        source_token=source_token,
    )
    import_model(model, out, settings)
    print(printable(str(out)))


def _both(option: str, paths: Sequence[Path]) -> tuple[Path, Path] | None:
    """Return the files of both sides.

    Raises:
        UserError: if there are more than two.
    """
    if len(paths) > 2:
        raise UserError(f"{option}: given {len(paths)} times: once for both languages, or once for each")
    return (paths[0], paths[-1]) if paths else None
