"""`kdmt serve`: an HTTP server that translates."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

from kdmt.commands.models import SearchOptions, open_translator, paths_by_direction
from kdmt.config import Decode
from kdmt.corpus.text import TextProcessor
from kdmt.decode.engines.translator import Translator
from kdmt.documents.sentences import check_splitter
from kdmt.errors import UserError
from kdmt.languages import Direction, is_installed
from kdmt.serve.limits import Limits
from kdmt.serve.models import ServedModel

KEYS_VARIABLE = "KDMT_API_KEYS"


def serve(
    models: Sequence[Path],
    *,
    host: str,
    port: int,
    api_keys: Path | None,
    trust_proxy: bool,
    limits: Limits,
    search: SearchOptions,
) -> None:
    """Serve models until SIGTERM or SIGINT.

    Args:
        models: checkpoint folders, runs or exported models with different language pairs.
        host, port: address; port 0 is a free port.
        api_keys: file with one key per line (default: the keys in KDMT_API_KEYS, separated by commas).
        trust_proxy: whether the addresses of clients are those that a proxy on this machine gives.

    Raises:
        UserError: if a package is not installed, a model cannot be opened, two models have the same languages, the
            address is in use, an option is not valid, or there are no keys where there should be.
    """
    check_seconds(limits)
    missing = [name for name in ("fastapi", "uvicorn", "sentencex") if not is_installed(name)]
    if missing:
        raise UserError(f"kdmt serve needs {' and '.join(missing)}: pip install 'kdmt[serve]'")
    from kdmt.serve.app import Service
    from kdmt.serve.server import address_of, allow_open_files, bind, run_server

    check_splitter()
    keys = read_keys(api_keys, os.environ.get(KEYS_VARIABLE))
    allow_open_files(limits.connections)
    with bind(host, port) as bound:
        served = open_models(models, search)
        directions = ", ".join(str(each.direction) for each in served)
        address = address_of(bound)
        service = Service(served, limits, keys)
        run_server(
            service,
            bound,
            trust_proxy=trust_proxy,
            ready=lambda: print(f"kdmt: {directions} on {address}", file=sys.stderr, flush=True),
        )


def open_models(paths: Sequence[Path], search: SearchOptions) -> list[ServedModel]:
    """Open models.

    Raises:
        UserError: if a model cannot be opened, or two have the same languages.
    """
    served = []
    opened: dict[Path, tuple[Translator, Decode, Collection[str]]] = {}
    for direction, path in paths_by_direction(paths).items():
        if path not in opened:
            translator, settings = open_translator(path, search)
            opened[path] = translator, settings, _alike_targets(translator.codec.text)
        translator, settings, targets = opened[path]
        alike = (path, direction.target) if direction.target in targets else None
        translate = partial(translator.for_direction(direction).translate_sentences, settings=settings)
        shared = path if len(translator.codec.text.all_directions) > 1 else None
        served.append(ServedModel(direction, translate, alike, shared, translator.add_context))
    return served


def _alike_targets(text: TextProcessor) -> set[str]:
    """Return the target languages into which a model translates in the same way from all of its source languages."""
    directions: dict[str, list[Direction]] = {}
    for each in text.all_directions:
        directions.setdefault(each.target, []).append(each)
    return {target for target, found in directions.items() if text.are_alike(found)}


def check_seconds(limits: Limits) -> None:
    """Check the limits on time.

    Raises:
        UserError: if one of them is not a finite number.
    """
    for option, seconds in (
        ("--timeout", limits.request_seconds),
        ("--read-timeout", limits.read_seconds),
        ("--batch-wait", limits.batch_seconds),
    ):
        if not math.isfinite(seconds):
            raise UserError(f"{option}: expected a finite number of seconds, found {seconds}")


def read_keys(path: Path | None, listed: str | None) -> list[str]:
    """Return the keys of a file, one per line, or else those of a list with commas; no keys if both are None.

    Empty lines of a file, and lines that begin with `#`, are skipped.

    Raises:
        UserError: if the file or the list has no keys or is not UTF-8, or the file has a line with several words.
    """
    if path is None:
        return [] if listed is None else _listed_keys(listed)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8") from None
    keys = [line for line in lines if line and not line.startswith("#")]
    for number, line in enumerate(lines, start=1):
        if line in keys and len(line.split()) > 1:
            raise UserError(f"{path}: line {number}: expected one key, found several words")
    if not keys:
        raise UserError(f"{path}: no keys")
    return keys


def _listed_keys(listed: str) -> list[str]:
    """Return the keys of the environment variable. A variable that is set and has none must not open the server."""
    keys = [key.strip() for key in listed.split(",") if key.strip()]
    if not keys:
        raise UserError(f"{KEYS_VARIABLE} is set but has no keys: unset it for a server without keys")
    try:
        listed.encode()
    except UnicodeEncodeError:
        raise UserError(f"{KEYS_VARIABLE}: not UTF-8") from None
    return keys
