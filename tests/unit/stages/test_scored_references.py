"""References in both forms of a test set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_pipeline
from tiny_pipeline import run_stages, to_yaml, working_in

from kdmt.config import Pipeline
from kdmt.stages.scored_references import scored_test_set
from kdmt.stages.variants import ScoredText
from kdmt.stages.workspace import Workspace


@pytest.mark.parametrize(
    ("text", "tokenizer", "score", "first", "second"),
    [
        ({"moses": True}, {}, {}, False, False),
        ({"moses": True}, {}, {"lowercase": True}, True, True),
        ({"moses": True}, {"normalization_rule": "nmt_nfkc_cf"}, {}, True, True),
        # lowercased words need no rule; their finished text does
        ({"moses": True, "lowercase": True}, {}, {}, True, False),
        ({"moses": True, "lowercase": True}, {}, {"detokenized": False}, False, True),
        ({"moses": True, "lowercase": True}, {}, {"lowercase": True}, True, True),
    ],
)
def test_both_forms_ignore_case_if_scores_do(
    tmp_path: Path,
    text: dict[str, Any],
    tokenizer: dict[str, Any],
    score: dict[str, Any],
    first: bool,
    second: bool,
) -> None:
    document = tiny_pipeline.settings()
    document["prepare"] |= {"text": text, "tokenizer": document["prepare"]["tokenizer"] | tokenizer}
    document["score"] |= score
    with working_in(tmp_path):
        tiny_pipeline.write_pipeline(tmp_path)
        Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
        run_stages("prepare")
        found = scored_test_set(Workspace(Pipeline.model_validate(document), Path("runs")), ScoredText("test"))
    assert found.second is not None
    assert (found.first.lowercase, found.second.lowercase) == (first, second)
