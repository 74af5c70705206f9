"""The interface of subword models: cutting text into tokens and joining them again."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kdmt.types import SPECIALS, UNK


@dataclass(frozen=True)
class Surfaces:
    """Text that each symbol of a vocabulary adds to a line, if it depends only on the position of the symbol.

    Attributes:
        inner: text of the symbol inside a line; None if it depends on the neighbouring symbols.
        edge: text of the symbol as the first or last one of a line; None as for `inner`.
        edge_at: position to which `edge` applies; at the other end of the line, `inner` applies.
    """

    inner: Sequence[str | None]
    edge: Sequence[str | None]
    edge_at: Literal["first", "last"]


class SubwordModel(ABC):
    """A model that cuts text into tokens and joins them again.

    `symbols[id]` is the token of each id that `encode_ids` returns. These ids belong to the model, not to a dictionary.
    The list may grow while text is encoded, but an id never changes its meaning.
    """

    symbols: list[str]
    vocabulary: list[str] | None = None  # symbols that a dictionary has in this order, whether or not they occur

    def __init__(self, symbols: Sequence[str]) -> None:
        self.symbols = list(symbols)
        self._ids = {symbol: number for number, symbol in enumerate(self.symbols)}
        self.literal_specials: dict[int, str] = {}  # id -> word spelled like a special, which becomes `<unk>`

    def _take_specials_for_words(self) -> None:
        """Give words that are spelled like a special symbol separate ids, whose symbol is `<unk>`."""
        for special in SPECIALS:
            self._ids[special] = len(self.symbols)
            self.literal_specials[len(self.symbols)] = special
            self.symbols.append(SPECIALS[UNK])

    @abstractmethod
    def encode_ids(self, lines: Sequence[str], threads: int = 1) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Cut lines into ids of the model.

        Returns:
            Concatenated tokens without `</s>`, int32 [sum(sizes)], and sizes, int32 [lines].
        """

    @abstractmethod
    def decode(self, tokenised: str) -> str:
        """Return the text of a tokenised line."""

    @abstractmethod
    def surfaces(self, symbols: Sequence[str]) -> Surfaces:
        """Return the text that `decode` makes of each symbol. The symbols need not be those of the model."""

    def join(self, words: str) -> str:
        """Return readable text for the output of `decode`. Only `WordsModel` changes the output."""
        return words

    def encode_lines(self, lines: Sequence[str], threads: int = 1) -> list[str]:
        """Cut lines into tokens that are separated by single spaces."""
        tokens, sizes = self.encode_ids(lines, threads)
        pieces = iter([self.symbols[number] for number in tokens.tolist()])
        return [" ".join(itertools.islice(pieces, size)) for size in sizes.tolist()]

    def symbol_id(self, token: str) -> int:
        """Return the id of a whole token, such as a corpus tag. A token without an id gets the next one."""
        if token not in self._ids:
            self._ids[token] = len(self.symbols)
            self.symbols.append(token)
        return self._ids[token]


def on_one_line(text: str) -> str:
    r"""Return decoded text with spaces for `\n` and `\r`, which models may write as bytes of their vocabulary."""
    return text.replace("\n", " ").replace("\r", " ")
