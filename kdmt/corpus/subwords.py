"""Joining subwords by their marks alone, as fairseq's `--remove-bpe` (`--post-process`) does.

The kinds and what they do are those of `post_process` in fairseq/data/data_utils.py (0.12.2).
"""

from __future__ import annotations

from kdmt.errors import UserError

JOINERS = ("subword_nmt", "@@ ", "@@", "sentencepiece", "wordpiece", "letter", "_EOW", "silence", "none")
_SPACES = {"sentencepiece": "▁", "wordpiece": "_", "letter": "|", "_EOW": "_EOW"}  # what stands for a space


def join_subwords(tokenised: str, joiner: str | None) -> str:
    """The text of a line of tokens between spaces; None leaves it as it is.

    Raises:
        UserError: there is no such kind.
    """
    if joiner is None or joiner == "none":
        return tokenised
    if joiner in ("subword_nmt", "@@ ", "@@"):
        return f"{tokenised} ".replace("@@" if joiner == "@@" else "@@ ", "").rstrip()
    if joiner in _SPACES:
        return tokenised.replace(" ", "").replace(_SPACES[joiner], " ").strip()
    if joiner == "silence":
        return " ".join(word for word in tokenised.replace("<SIL>", "").split(" ") if word)
    raise UserError(f"--remove-bpe {joiner!r}: none of {', '.join(JOINERS)}")
