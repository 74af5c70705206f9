"""Tests of the order of the filters and of the pairs that each sees and drops."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from kdmt.config import Clean, ReverseScore, Rules
from kdmt.corpus.filters.table import FILTERS, FilterContext, FilteredCorpus, run_filters
from kdmt.corpus.process_pool import mapping_in_order
from kdmt.corpus.rules.language import LanguageRule

SCORE = "import sys; [print(line.split()[1]) for line in sys.stdin]"


def rules_of(*items: object) -> Rules | None:
    return Clean.model_validate({"rules": list(items)}).rules


def make_corpus(folder: Path, name: str, values: list[int], rules: Rules | None, dropped: list[int]) -> FilteredCorpus:
    for side in ("source", "target"):
        (folder / f"{name}.{side}").write_text("".join(f"{name} {value}\n" for value in values))
    mask = np.isin(np.arange(len(values)), dropped) if dropped else np.zeros(0, dtype=bool)
    return FilteredCorpus(rules, folder / f"{name}.source", folder / f"{name}.target", mask, len(values))


def make_context(folder: Path, scored: list[list[str]] | None = None) -> FilterContext:
    def score_files(_: ReverseScore, source: Path, target: Path) -> np.ndarray:
        assert target.read_text() == source.read_text()
        lines = source.read_text().splitlines()
        assert scored is not None
        scored.append(lines)
        return np.array([float(line.split()[1]) for line in lines])

    return FilterContext(
        (True, True), (), folder / "cache", folder, partial(mapping_in_order, workers=1), print, score_files
    )


def test_filters_come_last_among_the_rules() -> None:
    assert [LanguageRule.name, *FILTERS] == list(Rules.model_fields)[-len(FILTERS) - 1 :]


def test_a_filter_sees_what_earlier_rules_keep_and_drops_by_the_limits_of_the_corpus(tmp_path: Path) -> None:
    scored: list[list[str]] = []
    command = {"filter": {"command": [sys.executable, "-c", SCORE], "min": 3}}
    reverse = {"reverse": {"checkpoint": "model", "drop_percent": 50.0}}
    corpora = [
        make_corpus(tmp_path, "a", [9, 1, 2, 3, 4], rules_of(command, reverse), [0]),
        make_corpus(tmp_path, "b", [1, 2, 9], rules_of(command), []),
        make_corpus(tmp_path, "c", [1, 2], None, []),
    ]
    masks = run_filters(corpora, make_context(tmp_path, scored))
    assert scored == [["a 1", "a 2", "a 3", "a 4"]]
    dropped = [{name: np.flatnonzero(mask).tolist() for name, mask in own.items()} for own in masks]
    assert dropped == [{"reverse": [1, 2], "filter": []}, {"filter": [0, 1]}, {}]
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {f"{name}.{side}" for name in "abc" for side in ("source", "target")} | {"cache"}


def test_a_reverse_model_needs_its_function(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, "a", [1], rules_of({"reverse": {"checkpoint": "model", "min": 1.0}}), [])
    context = make_context(tmp_path)
    context = FilterContext(context.spaced, (), context.cache, tmp_path, context.open_map, print)
    with pytest.raises(ValueError, match="scores files"):
        run_filters([corpus], context)
