"""Storage of decoded test sets with a record of their inputs. A change of metrics requires no new decoding.

<folder>/<name>.<lang>   words of the decoder, one line per sentence
<folder>/<name>.json     inputs of decoding, SHA-256 of the words, and measurements made during decoding
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from kdmt.checksum import file_sha256
from kdmt.corpus.lines import read_lines, write_lines
from kdmt.errors import UserError
from kdmt.files import read_optional_json, write_json
from kdmt.score.deployment import EngineMeasurement


@dataclass(frozen=True)
class Decoded:
    """Translations of a test set by one system."""

    words: list[str]  # text before detokenisation
    steps: float  # number of decoder passes, mean over the sentences
    sentences_per_second_batch1: float
    sentences_per_second_max: float
    cost: EngineMeasurement | None = None  # of an engine in a process of its own
    delays: list[list[int]] | None = None  # delay of each word of a simultaneous translation, in source words


class Translations:
    """Decoded test sets in one folder. Test sets found in other folders are copied into it.

    Args:
        folder: folder of the decoded test sets.
        earlier: other folders to search, such as those of earlier states.
        lang: target language, used as the extension of the text files.
    """

    def __init__(self, folder: Path, earlier: Sequence[Path], lang: str) -> None:
        self.folder, self.earlier, self.lang = folder, earlier, lang

    def within(self, name: str) -> Translations:
        """Return the decoded texts in the folder `name` inside each of the folders."""
        return Translations(self.folder / name, [folder / name for folder in self.earlier], self.lang)

    def files(self, name: str) -> list[Path]:
        """Return the paths of the text and the record of a decoded test set."""
        return [self.folder / f"{name}.{self.lang}", self.folder / f"{name}.json"]

    def find(self, name: str, made_from: Mapping[str, object]) -> Decoded | None:
        """Return the test set that was decoded from the same inputs, or None; copy it from another folder if needed."""
        for folder in (self.folder, *self.earlier):
            found = self._read(folder, name, made_from)
            if found is not None:
                if folder != self.folder:
                    self.keep(name, made_from, found)
                return found
        return None

    def keep(self, name: str, made_from: Mapping[str, object], decoded: Decoded) -> None:
        """Write the text, then the record, which shows that the text is complete."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text, record = self.files(name)
        record.unlink(missing_ok=True)
        write_lines(text, decoded.words)
        measured = {key: value for key, value in asdict(decoded).items() if key != "words" and value is not None}
        whole = {"sha256": file_sha256(text), "sentences": len(decoded.words)}
        write_json(record, {"made_from": dict(made_from), **whole, "measured": measured})

    def _read(self, folder: Path, name: str, made_from: Mapping[str, object]) -> Decoded | None:
        text, record = folder / f"{name}.{self.lang}", folder / f"{name}.json"
        try:
            known = read_optional_json(record)
        except UserError:  # damaged: the test set is decoded again
            return None
        if known is None or known.get("made_from") != json.loads(json.dumps(made_from)):
            return None
        if not text.is_file() or file_sha256(text) != known.get("sha256"):
            return None
        words = read_lines(text)
        if len(words) != known.get("sentences"):  # a model may generate a line break as a token
            return None
        measured = dict(known["measured"])
        if measured.get("cost") is not None:
            measured["cost"] = EngineMeasurement(**measured["cost"])
        return Decoded(words=words, **measured)
