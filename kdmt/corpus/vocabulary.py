"""The dictionary of fairseq: the ids of tokens, and the file `dict.<lang>.txt`.

Each line of the file is `token count`. The specials `<s>` 0, `<pad>` 1, `</s>` 2 and `<unk>` 3 come before these tokens
and are not listed. The rules for order, threshold and padding are those of `Dictionary` in fairseq/data/dictionary.py
(0.12.2).
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdmt.corpus.formats import HEAD_BYTES, refuse_other_formats
from kdmt.errors import UserError
from kdmt.files import atomic_file, check_file
from kdmt.types import BOS, EOS, SPECIALS, UNK

OVERWRITE = "#fairseq:overwrite"
_LONGEST_COUNT = 18  # digits
_SHOWN = 200  # characters of a line


class Dictionary:
    """Tokens and their ids. `symbols[id]` is the token, and `counts[id]` its number of occurrences in training text.

    A token that is spelled like a special (`<unk>`, `<pad>`, ...) is that special, as in fairseq. Tokenizers return
    no such token for a word of the text.
    """

    def __init__(self) -> None:
        self.symbols: list[str] = []
        self.counts: list[int] = []
        self._ids: dict[str, int] = {}
        for special in SPECIALS:
            self._append(special, 1)

    def __len__(self) -> int:
        return len(self.symbols)

    def __contains__(self, token: str) -> bool:
        return token in self._ids

    def __eq__(self, other: object) -> bool:
        """Return whether both have the same tokens with the same ids. Counts are not compared."""
        return isinstance(other, Dictionary) and self.symbols == other.symbols

    __hash__ = None  # type: ignore[assignment]  # equal by content and still growing

    def add(self, token: str) -> None:
        """Add a token with the next id, if it has no id yet."""
        if token not in self._ids:
            self._append(token, 1)

    def index(self, token: str) -> int:
        """Return the id of a token, or that of `<unk>` if the token has none."""
        return self._ids.get(token, UNK)

    def encode_line(self, tokenised: str) -> NDArray[np.int32]:
        """Return the ids of the tokens of a line, which are separated by whitespace, followed by `</s>`, int32 [S]."""
        ids = [self._ids.get(token, UNK) for token in tokenised.split()]
        return np.array([*ids, EOS], dtype=np.int32)

    def renamed(self, names: Mapping[str, str]) -> Dictionary:
        """Return the dictionary with other spellings of some tokens, which keep their ids.

        Args:
            names: token -> its new spelling; tokens that the dictionary does not have are ignored.

        Raises:
            UserError: if a token has the new spelling already.
        """
        new = Dictionary()
        for token, count in zip(self.symbols[len(SPECIALS) :], self.counts[len(SPECIALS) :], strict=True):
            name = names.get(token, token)
            if name != token and name in self:
                raise UserError(f"the dictionary has {token!r}, and {name!r} too, which is its new name")
            new._append(name, count)
        return new

    def string(self, ids: Iterable[int]) -> str:
        """Return the tokens separated by spaces, without `<s>` and `</s>`. An id beyond the last becomes `<unk>`."""
        size = len(self.symbols)
        return " ".join(self.symbols[i] if i < size else SPECIALS[UNK] for i in map(int, ids) if i not in (BOS, EOS))

    @classmethod
    def from_counts(
        cls,
        counts: Mapping[str, int],
        *,
        threshold: int = 0,
        nwords: int = -1,
        padding_factor: int = 8,
        required: Iterable[str] = (),
    ) -> Dictionary:
        """Return the dictionary that fairseq-preprocess makes of these tokens.

        The most frequent token comes first. Tokens with the same count are in the order of their code points,
        independent of their order in the text.

        Args:
            counts: number of occurrences of each token; specials are ignored.
            threshold: minimum number of occurrences of a token in the dictionary.
            nwords: size of the dictionary, specials included, before padding; 0 or less for all tokens.
            padding_factor: the size is padded with `madeupword0000`, ... to a multiple of this number.
            required: tokens that the dictionary has in any case; those that `threshold` or `nwords` would leave out,
                and those without occurrences, come last.
        """
        dictionary = cls()
        tokens = sorted((token for token in counts if token not in SPECIALS), key=lambda token: (-counts[token], token))
        if nwords > 0:
            tokens = tokens[: max(nwords - len(SPECIALS), 0)]
        for token in tokens:
            if counts[token] >= threshold:
                dictionary._append(token, counts[token])
        for token in required:
            if token not in dictionary:
                dictionary._append(token, counts.get(token, 0))
        dictionary._pad(padding_factor)
        return dictionary

    @classmethod
    def from_vocabulary(
        cls, vocabulary: Iterable[str], counts: Mapping[str, int], *, padding_factor: int = 8
    ) -> Dictionary:
        """Return a dictionary with all tokens of a vocabulary in its order, followed by the other tokens of the text.

        Args:
            counts: number of occurrences of each token; specials are ignored.
            padding_factor: as in `from_counts`.
        """
        dictionary = cls()
        for token in [*vocabulary, *sorted(counts)]:
            if token not in dictionary:
                dictionary._append(token, counts.get(token, 0))
        dictionary._pad(padding_factor)
        return dictionary

    @classmethod
    def load(cls, path: Path) -> Dictionary:
        """Read a `dict.<lang>.txt`. A token listed twice is an error unless its line ends in `#fairseq:overwrite`.

        Raises:
            UserError: if the file cannot be read or a line is not valid (the message has the line number).
        """
        check_file(path, missing="there is no such dictionary")
        data = path.read_bytes()
        refuse_other_formats(data[:HEAD_BYTES], str(path), sentences=False)
        data = data.removeprefix(codecs.BOM_UTF8)
        dictionary = cls()
        for number, line in enumerate(io.BytesIO(data), start=1):
            try:
                dictionary._add_line(line.decode("utf-8"))
            except UnicodeDecodeError:
                raise UserError(f"{path}:{number}: not UTF-8") from None
            except ValueError as error:
                raise UserError(f"{path}:{number}: {error}") from None
        return dictionary

    def save(self, path: Path) -> None:
        """Write a line with each token and its count. The file appears only when it is complete.

        A token that overwrote an earlier one is written with `#fairseq:overwrite`, so that the file can be read again.
        """
        with atomic_file(path) as aside, aside.open("w", encoding="utf-8", newline="\n") as file:
            seen = set(SPECIALS)
            for token, count in zip(self.symbols[len(SPECIALS) :], self.counts[len(SPECIALS) :], strict=True):
                file.write(f"{token} {count} {OVERWRITE}\n" if token in seen else f"{token} {count}\n")
                seen.add(token)

    def _append(self, token: str, count: int) -> None:
        self._ids[token] = len(self.symbols)
        self.symbols.append(token)
        self.counts.append(count)

    def _add_line(self, line: str) -> None:
        if "\r" in line.rstrip():
            raise ValueError("a carriage return inside the line: end lines in '\\n'")
        token, space, field = line.rstrip().rpartition(" ")
        overwrite = field == OVERWRITE
        if overwrite:
            token, space, field = token.rpartition(" ")
        if not space or not field.isdecimal() or len(field) > _LONGEST_COUNT:
            raise ValueError(f"expected 'token count', found {line.rstrip()[:_SHOWN]!r}")
        if token in self._ids and not overwrite:
            raise ValueError(f"the token {token!r} is listed twice (allowed with '{OVERWRITE}' at the end of the line)")
        self._append(token, int(field))

    def _pad(self, padding_factor: int) -> None:
        number = 0
        while len(self) % padding_factor:
            filler = f"madeupword{number:04d}"
            if filler not in self._ids:  # the text itself may contain such a word
                self._append(filler, 0)
            number += 1
