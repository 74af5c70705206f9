"""A prepared corpus in the opposite direction, and its monolingual text as the text that is translated."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_pipeline import read_lines, run_stages, write_lines
from tiny_prepare import MADE, change, report

from kdmt.corpus.prepared import PreparedCorpus
from kdmt.distill.merge import TrainingText
from kdmt.distill.target_text import ReversedCorpus, TargetText
from kdmt.languages import Direction


@pytest.mark.usefixtures("pipeline")
def test_source_and_target_of_a_prepared_corpus_are_exchanged() -> None:
    write_lines(Path("text/mono.de"), ["ok uk ik", "rom"])
    change(
        monolingual_target=[{"path": "text/mono.de"}],
        tokenizer={"vocab_size": 20, "joint": False},
        vocabulary={"joined": False},
    )
    run_stages("prepare", sets=["teacher.model.share_all_embeddings=false", "students={}"])
    forward = PreparedCorpus(MADE, Direction("en", "de"), (True, False))
    corpus = ReversedCorpus.of(forward)
    assert (corpus.direction, corpus.spaced) == (Direction("de", "en"), (False, True))
    assert all(corpus.prefix("train", lang) == forward.prefix("train", lang) for lang in ("en", "de"))
    codec, expected = corpus.codec(), forward.codec()
    line = ["ok uk rim"]
    assert [ids.tolist() for ids in codec.encode_source(line)] == [ids.tolist() for ids in expected.encode_target(line)]
    assert [ids.tolist() for ids in codec.encode_target(line)] == [ids.tolist() for ids in expected.encode_source(line)]
    assert codec.text.direction == corpus.text_processor().direction == Direction("de", "en")
    assert corpus.typical_ratio() == pytest.approx(1 / report()["typical_ratio"])

    text = TargetText(corpus)
    assert text.texts() == [TrainingText(MADE / "monolingual.de")]
    assert (text.num_lines(), text.num_references()) == (2, 0)
    given = TargetText(corpus, file=Path("text/test.de"))
    assert given.texts() == [TrainingText(Path("text/test.de"))]
    assert given.num_lines() == len(read_lines(Path("text/test.de")))
