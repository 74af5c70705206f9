"""Symbols that byte-pair encoding needs in order to build a piece.

A piece of a BPE model is the result of merges, and each merge needs both of its symbols. If the vocabulary of a model
is cut, these symbols have to stay, or the piece is never built again. If they stay, text whose pieces all stay is cut
as before: every merge that was applied is still possible, and other merges have only become fewer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

from kdmt.corpus.sentencepiece_file import NORMAL, Piece

Rank = Callable[[str, str], float | None]  # rank of the merge of two symbols, the lowest first; None for no merge


def bpe_parts(piece: str, rank: Rank) -> set[str]:
    """Return a piece, its characters, and the result of each merge on the way to it.

    Args:
        piece: piece of the vocabulary.
        rank: rank of a merge. The merge of the lowest rank is applied first, the first place first.
    """
    symbols, parts = list(piece), {piece, *piece}
    while (place := _best_place(symbols, rank)) is not None:
        symbols[place : place + 2] = [symbols[place] + symbols[place + 1]]
        parts.add(symbols[place])
    return parts


def ranks_by_score(pieces: Iterable[Piece]) -> Rank:
    """Return the ranks of the merges of a SentencePiece model, which merges any two symbols that make a piece."""
    ranks = {piece.text: -piece.score for piece in pieces if piece.kind == NORMAL}
    return lambda left, right: ranks.get(left + right)


def _best_place(symbols: list[str], rank: Rank) -> int | None:
    ranks = [(found, place) for place, pair in enumerate(pairwise(symbols)) if (found := rank(*pair)) is not None]
    return min(ranks)[1] if ranks else None
