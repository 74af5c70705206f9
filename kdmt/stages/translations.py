"""Decoded test sets that outlive a change of metric: each is kept with what it was decoded from.

<folder>/<name>.<lang>   the decoder's words, one line a sentence
<folder>/<name>.json     what they were decoded from, their sha256, and what was measured while they were decoded
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdmt.checksum import file_sha256
from kdmt.corpus.lines import read_lines, write_lines
from kdmt.errors import UserError
from kdmt.files import read_optional_json, write_json


@dataclass(frozen=True)
class Decoded:
    """A test set as one system translated it."""

    words: list[str]  # before detokenisation
    steps: float  # passes of the decoder, mean over the sentences
    sentences_per_second_batch1: float
    sentences_per_second_max: float


class Translations:
    """Decoded test sets of one folder, taken over from other folders where these have them.

    Args:
        folder: where they are kept.
        earlier: folders of the same kind in which to look too, such as those of states that were moved aside.
        lang: the target language, the ending of the text files.
    """

    def __init__(self, folder: Path, earlier: Sequence[Path], lang: str) -> None:
        self.folder, self.earlier, self.lang = folder, earlier, lang

    def files(self, name: str) -> list[Path]:
        """Return the paths of one decoded test set."""
        return [self.folder / f"{name}.{self.lang}", self.folder / f"{name}.json"]

    def find(self, name: str, made_from: Mapping[str, Any]) -> Decoded | None:
        """Return what was decoded from just this before, and is whole; it is kept in the folder from then on."""
        for folder in (self.folder, *self.earlier):
            found = self._read(folder, name, made_from)
            if found is not None:
                if folder != self.folder:
                    self.keep(name, made_from, found)
                return found
        return None

    def keep(self, name: str, made_from: Mapping[str, Any], decoded: Decoded) -> None:
        """Write the text, then the record that declares it whole."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text, record = self.files(name)
        record.unlink(missing_ok=True)
        write_lines(text, decoded.words)
        measured = {key: value for key, value in asdict(decoded).items() if key != "words"}
        whole = {"sha256": file_sha256(text), "sentences": len(decoded.words)}
        write_json(record, {"made_from": dict(made_from), **whole, "measured": measured})

    def _read(self, folder: Path, name: str, made_from: Mapping[str, Any]) -> Decoded | None:
        text, record = folder / f"{name}.{self.lang}", folder / f"{name}.json"
        try:
            known = read_optional_json(record)
        except UserError:  # a damaged record is none: the test set is decoded again
            return None
        if not isinstance(known, dict) or known.get("made_from") != json.loads(json.dumps(made_from)):
            return None
        if not text.is_file() or file_sha256(text) != known.get("sha256"):
            return None
        words = read_lines(text)
        if len(words) != known.get("sentences"):  # a model may write the end of a line as a token
            return None
        return Decoded(words=words, **known["measured"])
