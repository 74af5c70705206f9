"""Checks of what the prepare stage needs, which are made when it is planned, before anything is downloaded."""

from __future__ import annotations

from pathlib import Path

from kdmt.config import Monolingual, Prepare, Source
from kdmt.corpus.given_text import sources_of, texts_by_path
from kdmt.corpus.reading import check_first_row
from kdmt.errors import UserError, naming
from kdmt.languages import Direction, is_installed
from kdmt.stages.cleaning import check_rules

_ZSTD_MODULES = ("compression.zstd", "backports.zstd")  # of Python 3.14, and its backport; one of them is enough


def check_needs(settings: Prepare, direction: Direction) -> None:
    """Check packages, models, commands and the first rows of local files.

    Raises:
        UserError: if something is missing, or a local file has not the columns of the settings; the message has the
            YAML path.
    """
    if settings.executor == "ray":
        _require("prepare.executor: Ray", "ray", "ray")
    if settings.tokenizer.type == "huggingface":
        _require("prepare.tokenizer.type: Hugging Face tokenizers", "tokenizers", "huggingface")
    if settings.data_bin is not None:
        return
    check_rules(settings, direction)
    _check_formats(settings)
    _check_local_text(settings, direction)


def _require(what: str, module: str, extra: str) -> None:
    if not is_installed(module):
        raise UserError(f"{what} is not installed: pip install 'kdmt[{extra}]'")


def _check_formats(settings: Prepare) -> None:
    """Check that the packages for the formats of the texts are installed, as far as settings and names show them."""
    for path, text in texts_by_path(settings).items():
        if not isinstance(text, Monolingual) and text.parquet is not None:
            _require(f"{path}.parquet: pyarrow", "pyarrow", "parquet")
        for source in sources_of(text):
            if _is_zstd(source) and not any(map(is_installed, _ZSTD_MODULES)):
                raise UserError(f"{path}: {source.name}: zstd is not installed: pip install 'kdmt[zstd]'")


def _is_zstd(source: Source) -> bool:
    return any(name is not None and name.endswith(".zst") for name in (source.path, source.url, source.member))


def _check_local_text(settings: Prepare, direction: Direction) -> None:
    """Read the first row of each training corpus of local files, except archives, which are read up to a member."""
    for index, corpus in enumerate(settings.train):
        is_local = all(source.path is not None and Path(source.path).is_file() for source in corpus.files)
        if is_local and all(source.member is None for source in corpus.files):
            with naming(f"prepare.train.{index}"):
                check_first_row(corpus, [Path(source.path or "") for source in corpus.files], direction)
