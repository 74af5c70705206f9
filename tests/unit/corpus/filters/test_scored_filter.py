"""Tests of the choice of pairs by their scores, and of samples."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdmt.config import ScoreLimit
from kdmt.corpus.filters.scored_filter import KeptText, choose_dropped, sample_pairs, score_in_batches
from kdmt.corpus.process_pool import mapping_in_order


def make_text(folder: Path, name: str, kept: list[bool]) -> KeptText:
    paths = [folder / f"{name}.{side}" for side in ("source", "target")]
    for path in paths:
        path.write_text("".join(f"{name}{number} {path.suffix[1:]}\n" for number in range(len(kept))))
    return KeptText(*paths, np.array(kept, dtype=bool))


def test_kept_text_leaves_out_dropped_pairs(tmp_path: Path) -> None:
    text = make_text(tmp_path, "a", [True, False, True, True])
    assert list(text.pairs()) == [(f"a{n} source", f"a{n} target") for n in (0, 2, 3)]
    assert [len(batch) for batch in text.batches(2)] == [2, 1]
    assert len(text) == 3
    assert [next(text.half(number).pairs())[0] for number in (0, 1)] == ["a0 source", "a2 source"]
    assert [len(text.half(number)) for number in (0, 1)] == [2, 1]


@pytest.mark.parametrize(
    ("limit", "dropped"),
    [
        ({"min": 0.5}, [1, 4]),
        ({"drop_percent": 20.0}, [4]),
        ({"drop_percent": 40.0}, [1, 4]),
        ({"drop_percent": 60.0}, [1, 3, 4]),  # of the equal scores of 0 and 3, the later one
        ({"drop_percent": 99.0}, [0, 1, 3, 4]),  # the pair without a score is kept
        ({"min": 0.5, "drop_percent": 60.0}, [1, 3, 4]),
        ({"min": -9.0}, []),
    ],
)
def test_pairs_below_a_limit_are_dropped(limit: dict[str, float], dropped: list[int]) -> None:
    scores = np.array([0.5, 0.2, np.nan, 0.5, 0.1])
    assert np.flatnonzero(choose_dropped(scores, ScoreLimit(**limit))).tolist() == dropped


@given(st.lists(st.floats(allow_nan=False, width=32), max_size=50), st.floats(0.5, 99.5))
def test_no_dropped_pair_has_a_higher_score_than_a_kept_one(scores: list[float], percent: float) -> None:
    dropped = choose_dropped(np.array(scores), ScoreLimit(drop_percent=percent))
    assert dropped.sum() == int(len(scores) * percent / 100)
    if dropped.any():
        assert np.array(scores)[dropped].max() <= np.array(scores)[~dropped].min()


def test_a_sample_is_spread_over_all_corpora(tmp_path: Path) -> None:
    texts = [make_text(tmp_path, "a", [True] * 30), make_text(tmp_path, "b", [True, False] * 30)]
    sample = [source.split()[0] for source, _ in sample_pairs(texts, 6)]
    assert sample == ["a0", "a10", "a20", "b0", "b20", "b40"]
    assert len(sample_pairs(texts, 100)) == 60
    assert sample_pairs([], 5) == []


def _lengths(pairs: list[tuple[str, str]]) -> np.ndarray:
    return np.array([float(len(source)) for source, _ in pairs])


@pytest.mark.parametrize("workers", [1, 2])
def test_scores_of_batches_are_in_the_order_of_the_pairs(workers: int, tmp_path: Path) -> None:
    text = make_text(tmp_path, "a", [number % 3 > 0 for number in range(200)])
    scores = score_in_batches(_lengths, text, batch_pairs=9, open_map=partial(mapping_in_order, workers=workers))
    assert scores.tolist() == [len(source) for source, _ in text.pairs()]
    assert (
        score_in_batches(
            _lengths, make_text(tmp_path, "b", []), batch_pairs=9, open_map=partial(mapping_in_order, workers=1)
        ).tolist()
        == []
    )
