"""Settings of training, distillation and scoring with several directions, in a pipeline that runs completely."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_directions
from tiny_directions import DIRECTIONS, SIZES, ZERO_SHOT
from tiny_pipeline import read_lines, run_stages, working_in

from kdmt.corpus.codec import TextCodec
from kdmt.corpus.indexed import IndexedDataset
from kdmt.corpus.word_links import LinkFile, parse_links

ROOT = Path("runs/tiny")
STAGES = ("prepare", "teacher", "distill", "student", "score")


@pytest.fixture(scope="module", autouse=True)
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run a pipeline with these settings, and work in its folder."""
    folder = tmp_path_factory.mktemp("several")
    document = tiny_directions.settings()
    del document["students"]["raw"]
    # few updates are enough: translations need not be right here
    document["teacher"]["train"] |= {"max_updates": 20, "guided_alignment": {"weight": 0.5}}
    document["students"]["distilled"]["augment"] = {"merged": 0.5}
    document["score"]["variants"] = {"joined": ["merged"]}
    document["score"]["diagnostics"] = None
    tiny_directions.write_pipeline(folder, document)
    with working_in(folder):
        run_stages(*STAGES)
        yield folder


def test_links_are_those_of_each_direction_and_lead_to_no_token_of_a_language() -> None:
    links, tags = LinkFile(ROOT / "alignments/raw/links"), read_lines(ROOT / "prepare/train.tags")
    codec = TextCodec.load(ROOT / "prepare")
    sources, targets = (IndexedDataset(ROOT / f"prepare/data-bin/train.src-tgt.{side}") for side in ("src", "tgt"))
    (of_languages, _), found = codec.language_ids, 0
    for index in range(len(tags)):
        for source, target in parse_links(links.line(index), "links").tolist():
            assert int(sources[index][source]) not in of_languages
            assert target < len(targets[index]) - 1
            found += 1
    assert found > 2 * len(tags)
    assert len(tags) == len(DIRECTIONS) * SIZES["train"]


def test_variants_have_a_row_in_each_direction_and_references_in_its_language() -> None:
    rows = json.loads((ROOT / "scores.json").read_text())
    names = {(row["test_set"], row["direction"]) for row in rows}
    expected = {(f"test.{name}{end}", name) for name in (*DIRECTIONS, ZERO_SHOT) for end in ("", ".joined")}
    assert names == expected
    averages = json.loads((ROOT / "score/averages.json").read_text())
    assert {row["test_set"] for row in averages} == {"test", "test.joined"}
    assert "test.joined: BLEU" in (ROOT / "report.html").read_text()


def test_everything_is_up_to_date_afterwards() -> None:
    assert all("up to date, nothing to do" in each.err + each.out for each in run_stages(*STAGES))
