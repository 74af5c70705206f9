"""Hypotheses of one sentence, for tests of the rules that choose among them."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from kdmt.distill.selection import Candidate, Line, Selector

texts_of_a_sentence = st.lists(
    st.lists(st.sampled_from(["ein", "eine", "Haus", "haus", "groß", "."]), min_size=1, max_size=6).map(" ".join),
    min_size=1,
    max_size=7,
)


def candidates_of(texts: Sequence[str], log_probs: Sequence[float] | None = None) -> list[Candidate]:
    log_probs = [-1.0] * len(texts) if log_probs is None else log_probs
    return [Candidate(text, log_prob / 3, 3) for text, log_prob in zip(texts, log_probs, strict=True)]


def chosen(selector: Selector, candidates: Sequence[Candidate], reference: str = "") -> int:
    """Return the index of the candidate that is chosen."""
    (choice,) = selector.choose(candidates, Line(reference=reference))
    assert choice.weight == 1.0
    assert len(choice.values) == len(selector.columns)
    assert not selector.weighs
    return choice.index
