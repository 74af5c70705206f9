"""Tests of preparations with settings drawn at random: counts add up, and no way of running changes the files."""

from __future__ import annotations

import html
import json
import multiprocessing
import os
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_pipeline import hash_tree, kdmt, make_pairs, read_lines, settings, to_yaml, write_lines
from tiny_prepare import MADE, report

from kdmt.corpus import first_pass
from kdmt.corpus.chunk_log import ChunkLog
from kdmt.stages import prepare_text

SCORE = "import sys\nfor line in sys.stdin: print(line.count('b'))\n"
SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 40))]


def damage(pair: tuple[str, str], draw: random.Random) -> tuple[str, str]:
    """Return a pair with one of the faults that rules look for."""
    source, target = pair
    faults = [
        ("", target),
        (source, source),
        (target, source),
        (f"\u200b{source} ", target),
        (f"{source} 12", f"{target} 13"),
        (f"{source} www.ba.de", target),
        (f"<b>{source}</b> {{{{", target),
        (f"{source} &amp; ba", f"{target} &amp; ok"),
        (source, " ".join([target] * 6)),
        (f"{source} {source} {source} {source}", target),
        ("ба бе би да де ди ба бе би", target),
        (f"{source} ba.", f"{target} ok!"),
    ]
    return draw.choice(faults)


def write_corpus(number: int, draw: random.Random) -> dict[str, Any]:
    """Write a corpus in one of the forms that corpora may have, and return its entry with a few settings."""
    held_out = [tuple(read_lines(Path(f"text/valid.{lang}"))[draw.randrange(6)] for lang in ("en", "de"))]
    pairs = make_pairs(draw.randint(150, 250), seed=draw.randrange(10**6)) + 3 * held_out
    pairs += draw.choices(pairs, k=30)  # duplicates
    pairs = [damage(pair, draw) if draw.random() < 0.3 else pair for pair in pairs]
    draw.shuffle(pairs)
    entry: dict[str, Any]
    if draw.random() < 0.4:
        for side, lang in enumerate(("en", "de")):
            write_lines(Path(f"text/{number}.{lang}"), [pair[side] for pair in pairs])
        entry = {
            "source": {"path": f"text/{number}.en"},
            "target": {"path": f"text/{number}.de"},
        }
    elif draw.random() < 0.5:
        rows = [f"{source}\t{target}\t{draw.random():.2f}" for source, target in pairs]
        rows[5::50] = ["one column"] * len(rows[5::50])
        write_lines(Path(f"text/{number}.tsv"), rows)
        entry = {"tsv": {"path": f"text/{number}.tsv"}, "quality": {"column": 2, "min": 0.1}}
    else:
        rows = [json.dumps({"en": source, "de": target, "score": draw.random()}) for source, target in pairs]
        write_lines(Path(f"text/{number}.jsonl"), rows)
        entry = {"jsonl": {"path": f"text/{number}.jsonl"}, "source_field": "en", "target_field": "de"}
        entry |= draw.choice([{}, {"quality": {"field": "score", "min": 0.2}}])
    entry |= draw.choice([{}, {}, {"except_every": 7}, {"only_every": 2}])
    return entry | draw.choice([{}, {"share": 0.6}, {"max_pairs": 60}]) | draw.choice([{}, {"tag": "<bt>"}])


def draw_clean(draw: random.Random) -> dict[str, Any]:
    """Return settings of the cleaning rules."""
    clean = draw.choice(
        [
            {"drop_duplicates": False},
            {},
            {"duplicates": draw.choice(["source", "target", "either"]), "max_duplicates": draw.choice([1, 2])},
            {"max_duplicates": 2},
        ]
    )
    if clean.get("drop_duplicates", True) and (clean.get("max_duplicates", 1) == 1 or "duplicates" in clean):
        clean |= draw.choice([{}, {"near_duplicates": 0.8}])
    rules: list[Any] = list(draw.choice([["default"], ["crawled"], ["numbers", "tags"], []]))
    limits: list[dict[str, Any]] = [
        {"alignment": {"drop_percent": 5, "train_pairs": 50}},
        {"cross_entropy": {"drop_percent": 5, **draw.choice([{}, {"in_domain_corpus": 0}])}},
        {"filter": {"command": [sys.executable, "score.py"], "min": 1, "batch_pairs": 37}},
        {"language": {"min": 0.01, "sides": draw.choice(["both", "source"])}},
        {"punctuation": True},
    ]
    rules += draw.sample(limits, draw.randint(0, 3))
    return clean | ({"rules": rules} if rules else {}) | draw.choice([{}, {"max_ratio": 0.0}, {"max_words": 12}])


def draw_document(seed: int) -> dict[str, Any]:
    """Write the corpora of a pipeline with settings drawn by a seed, and return its document."""
    draw = random.Random(seed)
    train = [write_corpus(number, draw) for number in range(draw.randint(1, 3))]
    write_lines(Path("text/mono.en"), [damage(pair, draw)[0] for pair in make_pairs(120, seed=seed)])
    prepare: dict[str, Any] = {"train": train, "tokenizer": {"vocab_size": 40, "hard_vocab_limit": False}}
    if draw.random() < 0.15:
        prepare |= {"clean": "none", "decontaminate": False}
    else:
        prepare["clean"] = draw_clean(draw)
        prepare["decontaminate"] = draw.choice([True, False, {"ngram": 6, "overlap": 0.5}])
        for entry in train:
            entry |= draw.choice([{}, {"clean": {"rules": draw.choice(["default", "crawled"]), "max_ratio": 2.0}}])
    if len(train) > 1 and draw.random() < 0.5:
        prepare["mixing"] = {"temperature": 3.0, **draw.choice([{}, {"total_pairs": 500}])}
    else:
        train[0] |= draw.choice([{}, {"weight": 2}])
    if draw.random() < 0.5:
        prepare["monolingual"] = [{"path": "text/mono.en"}]
    prepare |= draw.choice([{}, {"text": {"lowercase": True}}])
    prepare["tokenizer"] |= draw.choice([{}, {"byte_fallback": True, "vocab_size": 300}, {"split_digits": True}])
    document = settings()
    document["prepare"] |= prepare
    return document


def check_counts(document: dict[str, Any]) -> None:
    """Check the counts of `report.json` against each other and the files."""
    found, prepare = report(), document["prepare"]
    for corpus, entry in zip(found["corpora"], prepare["train"], strict=True):
        assert corpus["pairs_in"] == corpus["pairs_kept"] + sum(corpus["dropped"].values())
        used, kept = corpus.get("pairs_used", corpus["pairs_kept"]), corpus["pairs_kept"]
        assert used == min(kept, entry.get("max_pairs", kept), max(1, round(entry.get("share", 1.0) * kept)))
        if "mixing" not in prepare:
            assert corpus["pairs_out"] == used * entry.get("weight", 1)
    if "mixing" in prepare:
        used = sum(corpus.get("pairs_used", corpus["pairs_kept"]) for corpus in found["corpora"])
        assert found["pairs_out"] == prepare["mixing"].get("total_pairs", used)
    for name in ("pairs_in", "pairs_out"):
        assert found[name] == sum(corpus[name] for corpus in found["corpora"])
    assert sum(found["dropped"].values()) == sum(sum(corpus["dropped"].values()) for corpus in found["corpora"])
    for lang in ("en", "de"):
        assert len(read_lines(MADE / f"train.{lang}")) == found["pairs_out"]
    facts = json.loads((MADE / "manifest.json").read_text())["facts"]
    assert (facts["pairs_in"], facts["pairs_out"]) == (found["pairs_in"], found["pairs_out"])
    if "monolingual" in prepare:
        lines = facts["monolingual"]
        assert lines["lines_in"] == 120 == lines["lines_out"] + sum(lines["dropped"].values())
        assert len(read_lines(MADE / "monolingual.en")) == lines["lines_out"]


def check_examples() -> None:
    """Check that there are ten examples of each rule, or fewer if it drops fewer, and that the page shows them all."""
    page = (MADE / "report.html").read_text(encoding="utf-8")
    examples = json.loads((MADE / "report-examples.json").read_text(encoding="utf-8"))
    for corpus in report()["corpora"]:
        for rule, count in corpus["dropped"].items():
            shown = examples[corpus["name"]].get(rule, [])
            assert len(shown) == (0 if rule == "quality" else min(10, count)), rule
    for texts in (texts for rules in examples.values() for found in rules.values() for texts in found):
        for text in texts:
            visible = "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text[:200])
            assert html.escape(visible) in page


def run_and_die(moment: int) -> None:
    """Prepare in this process, which ends at once when a number of chunks is logged."""
    real, num_chunks = ChunkLog.add, 0

    def add(self: ChunkLog, *values: Any) -> None:
        nonlocal num_chunks
        num_chunks += 1
        if num_chunks == moment:
            os._exit(137)
        real(self, *values)

    ChunkLog.add = add  # type: ignore[method-assign]
    os._exit(kdmt("prepare", "tiny.yaml").code)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.usefixtures("pipeline")
def test_counts_add_up_and_no_way_of_running_changes_the_files(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_pass, "CHUNK_PAIRS", 40)
    monkeypatch.setattr(prepare_text, "CHUNK_LINES", 40)
    Path("score.py").write_text(SCORE)
    document = draw_document(seed)
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    done = kdmt("prepare", "tiny.yaml")
    assert done.code == 0, done.err
    check_counts(document)
    check_examples()
    expected = hash_tree(MADE)

    shutil.rmtree(MADE)
    shutil.rmtree(MADE.with_name("filter-scores"), ignore_errors=True)
    assert kdmt("prepare", "tiny.yaml", "--set", "prepare.workers=2").code == 0
    assert hash_tree(MADE) | {"config.json": ""} == expected | {"config.json": ""}  # which has the number of workers

    shutil.rmtree(MADE)
    moment = random.Random(seed).randint(1, 12)
    for _ in range(2):
        child = multiprocessing.get_context("fork").Process(target=run_and_die, args=(moment,))
        child.start()
        child.join()
        assert child.exitcode in (0, 137)
    assert kdmt("prepare", "tiny.yaml").code == 0
    assert hash_tree(MADE) == expected
