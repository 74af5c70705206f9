"""Joining of subwords by their marks only, as `--remove-bpe` (`--post-process`) of fairseq does.

The kinds of marks and their rules are those of `post_process` in fairseq/data/data_utils.py (0.12.2).
"""

from __future__ import annotations

from kdmt.errors import UserError

JOINERS = ("subword_nmt", "@@ ", "@@", "sentencepiece", "wordpiece", "letter", "_EOW", "silence", "none")
_SPACES = {"sentencepiece": "▁", "wordpiece": "_", "letter": "|", "_EOW": "_EOW"}  # symbols that represent a space


def join_subwords(tokenised: str, joiner: str | None) -> str:
    """Return the text of a line of tokens that are separated by spaces. With None, the line is not changed.

    Raises:
        UserError: if the joiner is unknown.
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
