"""What a model is trimmed by, and the record of it: `trim.json` and `README.md` in the folder of the new model.

The record contains no paths: of a file only the name and its SHA-256.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import chain, count, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdmt.checksum import file_sha256
from kdmt.corpus.text_files import open_lines
from kdmt.corpus.vocabulary_choice import TokenLimits
from kdmt.errors import UserError
from kdmt.files import check_file, write_json, write_text
from kdmt.interop.export_folder import CARD_FILE

FILE = "trim.json"
_CHECKED_LINES = 2000  # lines of each file that the new tokenizer has to cut as the original does
_LINES_AT_ONCE = 1024
_SPACE = "▁"  # a space in pieces of SentencePiece


@dataclass(frozen=True)
class TrimSettings:
    """Settings of `kdmt trim`.

    Attributes:
        texts: files with the text to which the vocabulary is cut, in any of the languages.
        limits: how many tokens of the text stay.
        keep_tokens: file with further tokens that stay, one a line.
        languages: codes of the languages that stay; None for all.
    """

    texts: tuple[Path, ...]
    limits: TokenLimits = field(default_factory=TokenLimits)
    keep_tokens: Path | None = None
    languages: tuple[str, ...] | None = None

    def check_files(self) -> None:
        """Check that the files are there. They are read more than once, so that they cannot be pipes.

        Raises:
            UserError: if there is no such file, or it is no regular one.
        """
        for path in (*self.texts, *([] if self.keep_tokens is None else [self.keep_tokens])):
            check_file(path)

    def command(self, source: Path, out: Path) -> str:
        """Return the command line, with names of files instead of paths."""
        parts = ["kdmt", "trim", name_of(source), *chain.from_iterable(("--text", path.name) for path in self.texts)]
        parts += ["--to", name_of(out)]
        if self.limits.size is not None:
            parts += ["--vocab-size", str(self.limits.size)]
        elif self.limits.min_count != 1:
            parts += ["--min-count", str(self.limits.min_count)]
        if self.keep_tokens is not None:
            parts += ["--keep-tokens", self.keep_tokens.name]
        if self.languages is not None:
            parts += ["--languages", ",".join(self.languages)]
        return shlex.join(parts)


def name_of(path: Path) -> str:
    """Return the name of a file or folder, also of `.` and `..`."""
    return path.name if path.name not in ("", "..") else path.resolve().name


@dataclass(frozen=True)
class Size:
    """Size of a model: tokens, weights (shared ones counted once), and bytes of the files of weights."""

    vocabulary: int
    parameters: int
    bytes: int

    def __str__(self) -> str:
        return f"{self.vocabulary:,} tokens, {self.parameters:,} parameters, {self.bytes / 1e6:,.1f} MB"


@dataclass(frozen=True)
class TextCounts:
    """Numbers of tokens of the text, as the tokenizer of the original model cuts it.

    Attributes:
        tokens: tokens of the text.
        unknown: tokens for which the original has no piece; these are unknown to the new model too.
        lost: tokens whose piece did not stay.
        lost_pieces: different pieces among them.
    """

    tokens: int
    unknown: int
    lost: int
    lost_pieces: int

    @classmethod
    def count(cls, counts_V: NDArray[np.int64], kept: NDArray[np.int64], unknown: int) -> TextCounts:
        """Count the tokens.

        Args:
            counts_V: number of occurrences of each token in the text.
            kept: ids of the tokens that stay.
            unknown: id of <unk>.
        """
        lost_V = counts_V.copy()
        lost_V[kept] = 0
        return cls(int(counts_V.sum()), int(counts_V[unknown]), int(lost_V.sum()), int(np.count_nonzero(lost_V)))

    def __str__(self) -> str:
        kept = self.tokens - self.lost
        share = f"{kept:,} of {self.tokens:,} tokens of the text kept ({_percent(kept, self.tokens)})"
        if self.lost:
            share += f"; {self.lost_pieces:,} of its pieces did not stay"
        return share + (f"; {self.unknown:,} were unknown before" if self.unknown else "")


def _percent(part: int, whole: int) -> str:
    """Return a share in percent, rounded down, so that 100% means all."""
    return f"{part * 10_000 // whole / 100:.2f}%"


@dataclass(frozen=True)
class TrimRecord:
    """Origin and sizes of a trimmed model.

    Attributes:
        command: command line (`TrimSettings.command`).
        source: SHA-256 of the files of the original model, by name.
        before, after: sizes.
        text: numbers of tokens of the text.
        languages: codes of the languages of the new model.
        note: what was done otherwise than asked for; None if nothing was.
    """

    command: str
    source: Mapping[str, str]
    before: Size
    after: Size
    text: TextCounts
    languages: tuple[str, ...]
    note: str | None = None

    def lines(self) -> Iterator[str]:
        """Yield lines for people."""
        yield f"before: {self.before}"
        yield f"after: {self.after}"
        yield f"text: {self.text}"
        if self.note is not None:
            yield self.note

    def write(self, folder: Path, settings: TrimSettings, source: Path) -> None:
        """Write `trim.json` and `README.md`.

        Args:
            folder: folder of the new model.
            settings: settings with the files of the text.
            source: path of the original model.
        """
        values = {**asdict(self), "texts": _checksums(settings.texts), "kdmt": version("kdmt")}
        write_json(folder / FILE, values, indent=2)
        write_text(folder / CARD_FILE, self._card(name_of(source)))

    def _card(self, name: str) -> str:
        lines = "\n".join(f"- {line}" for line in self.lines())
        return (
            f"# {name}, trimmed\n\nThe vocabulary of this model was cut to the tokens that a text needs. Rows of "
            f"tokens that stay, and all other weights, are those of the original.\n\n{lines}\n"
            f"- languages: {', '.join(self.languages)}\n\nMade by:\n\n```bash\n{self.command}\n```\n\n"
            f"`{FILE}` has the SHA-256 of the files of the original and of the text. The licence is that of the "
            "original.\n"
        )


def _checksums(texts: Sequence[Path]) -> dict[str, str]:
    """Return the SHA-256 of each file by its name; ` (2)` and so on follow the names of further files of a name."""
    found: dict[str, str] = {}
    for path in texts:
        names = (path.name if number == 1 else f"{path.name} ({number})" for number in count(1))
        sha256 = file_sha256(path)
        found[next(name for name in names if found.get(name, sha256) == sha256)] = sha256
    return found


def checked_lines(texts: Sequence[Path]) -> list[str]:
    """Return the first lines of each file, which the new tokenizer has to cut as the original does."""
    return [line for path in texts for line in islice(chain.from_iterable(read_batches([path])), _CHECKED_LINES)]


def read_batches(texts: Sequence[Path]) -> Iterator[list[str]]:
    """Yield the lines of all files that are not blank, some at once.

    Raises:
        UserError: if a file cannot be read.
    """
    lines = (line for line in chain.from_iterable(map(open_lines, texts)) if line.strip())
    while batch := list(islice(lines, _LINES_AT_ONCE)):
        yield batch


def count_text(
    texts: Sequence[Path], num_tokens: int, encode: Callable[[list[str]], NDArray[np.int64]]
) -> NDArray[np.int64]:
    """Return the number of occurrences of each token in some files: int64 [num_tokens].

    Args:
        texts: files.
        num_tokens: number of tokens of the vocabulary.
        encode: function from lines to the ids of all of their tokens, one after the other.

    Raises:
        UserError: if a file cannot be read, or the files have no text.
    """
    counts_V = np.zeros(num_tokens, dtype=np.int64)
    for lines in read_batches(texts):
        counts_V += np.bincount(encode(lines), minlength=num_tokens)
    if not counts_V.any():
        raise UserError(f"{', '.join(map(str, texts))}: no text, so that no token would stay")
    return counts_V


def without_counts(counts_V: NDArray[np.int64], tokens: Collection[int]) -> NDArray[np.int64]:
    """Return the numbers of occurrences with 0 for some tokens, which are not chosen for being in the text."""
    made_V = counts_V.copy()
    made_V[list(tokens)] = 0
    return made_V


def check_known(texts: Sequence[Path], counts_V: NDArray[np.int64], unknown: int, symbols: Sequence[str]) -> None:
    """Check that a text has tokens of a vocabulary that are more than spaces.

    Args:
        texts: files of the text.
        counts_V: number of occurrences of each token in the text.
        unknown: id of <unk>.
        symbols: tokens of the vocabulary.

    Raises:
        UserError: if it has none.
    """
    found = {symbols[token].strip(_SPACE) for token in np.flatnonzero(counts_V).tolist() if token != unknown}
    if not found - {""}:
        names = ", ".join(map(str, texts))
        raise UserError(f"{names}: no token of the text is in the vocabulary of the model, so that nothing would stay")


def read_token_list(path: Path, ids: Mapping[str, int]) -> list[int]:
    """Return the ids of the tokens in a file, one a line.

    Raises:
        UserError: if the file cannot be read, or a token is not in the vocabulary; the message names the line.
    """
    found = []
    for number, line in enumerate(open_lines(path), start=1):
        token = line.strip()
        if token and token not in ids:
            raise UserError(f"{path}:{number}: {token[:80]!r} is not in the vocabulary of the model")
        if token:
            found.append(ids[token])
    return found
