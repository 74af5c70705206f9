"""Tests of the prepare stage for several directions."""

from __future__ import annotations

import json
import random
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_pipeline
from tiny_directions import (
    DIRECTIONS,
    IN_LANGUAGE,
    SIZES,
    document,
    prepared,
    run_prepare,
    write_split,
    write_text,
)
from tiny_pipeline import WORDS, read_lines, write_lines

from kdmt.corpus import clean, first_pass
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.indexed import IndexedDataset
from kdmt.errors import UserError
from kdmt.languages import Direction
from kdmt.stages.cleaning import CACHE


def sources(prepare: Path, split: str) -> list[list[str]]:
    """Return the tokens of the sources in the data-bin."""
    dictionary = TextCodec.load(prepare).src_dictionary
    found = IndexedDataset(prepare / "data-bin" / f"{split}.src-tgt.src")
    return [[dictionary.symbols[token] for token in found[index]] for index in range(len(found))]


@pytest.mark.parametrize("tokens", ["target_in_source", "both_in_source"])
def test_pairs_of_all_directions_begin_with_their_tokens(tmp_path: Path, tokens: str) -> None:
    english = write_text(tmp_path)
    prepare = prepared(tmp_path, document(language_tokens=tokens))
    names = read_lines(prepare / "train.tags")
    assert names == [name for name in DIRECTIONS for _ in range(SIZES["train"])]
    texts = [read_lines(prepare / f"train.{side}") for side in ("src", "tgt")]
    encoded = sources(prepare, "train")
    for place, (name, source, target) in enumerate(zip(names, *texts, strict=True)):
        src, tgt = name.split("-")
        words = english["train"][place % SIZES["train"]].split()
        assert source == " ".join(map(IN_LANGUAGE[src], words))
        assert target == " ".join(map(IN_LANGUAGE[tgt], words))
        expected = [f"<2{tgt}>"] if tokens == "target_in_source" else [f"<{src}>", f"<2{tgt}>"]
        assert encoded[place][: len(expected)] == expected
        assert "".join(encoded[place][len(expected) : -1]).replace("▁", " ").strip() == source
    of_zero_shot = ["<2de>"] if tokens == "target_in_source" else ["<fr>", "<2de>"]
    assert all(line[: len(of_zero_shot)] == of_zero_shot for line in sources(prepare, "test.fr-de"))


def test_the_codec_of_a_direction_has_the_tokens_of_the_data_bin(tmp_path: Path) -> None:
    write_text(tmp_path)
    prepare = prepared(tmp_path, document(language_tokens="both_in_source"))
    codec = TextCodec.load(prepare)
    direction = Direction("fr", "en")
    lines = read_lines(prepare / "test.fr-en.raw.src")
    ids = [[*codec.prefix_ids(direction), *each] for each in codec.for_direction(direction).encode_raw_source(lines)]
    found = IndexedDataset(prepare / "data-bin" / "test.fr-en.src-tgt.src")
    assert ids == [found[index].tolist() for index in range(len(found))]
    with pytest.raises(UserError, match="does not translate de-fr; it translates en-de, en-fr, fr-en, fr-de"):
        codec.for_direction(Direction("de", "fr"))


def test_the_beginning_of_the_validation_set_has_all_directions(tmp_path: Path) -> None:
    write_text(tmp_path)
    prepare = prepared(tmp_path, document())
    assert read_lines(prepare / "valid.tags")[:6] == [*DIRECTIONS, *DIRECTIONS]
    assert [tokens[0] for tokens in sources(prepare, "valid")[:3]] == ["<2de>", "<2fr>", "<2en>"]


def test_a_test_sentence_of_one_direction_is_in_the_training_text_of_none(tmp_path: Path) -> None:
    english = write_text(tmp_path)
    write_split(tmp_path, "train", [*english["train"], english["test"][0]])
    made = document()
    # French to German is tested alone: its sentences must be in no direction with French or German
    made["prepare"]["test"] = {"test": {"parallel": {code: {"path": f"text/test.{code}"} for code in ("de", "fr")}}}
    prepare = prepared(tmp_path, made)
    report = json.loads((prepare / "report.json").read_text())
    assert {name: found["dropped"]["held_out"] for name, found in report["directions"].items()} == {
        "en-de": 1,
        "en-fr": 1,
        "fr-en": 1,
    }
    assert report["pairs_out"] == len(DIRECTIONS) * SIZES["train"]


def test_tokenizer_is_learnt_from_text_sampled_by_temperature(tmp_path: Path) -> None:
    write_text(tmp_path)
    made = document(zero_shot=[])
    made["prepare"]["tokenizer"] = {"vocab_size": 40, "temperature": 100.0}
    finished = run_prepare(tmp_path, made)
    # English is a side of all directions, German of one: with a high temperature all have about the same number
    assert "lines for the tokenizer by language: en 80 of 120, de 80 of 40, fr 80 of 80" in finished.err


def test_a_stopped_run_goes_on_with_the_directions_that_are_cleaned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("stopped", "whole"):
        (tmp_path / name).mkdir()
        write_text(tmp_path / name)
    with monkeypatch.context() as patched:
        patched.setattr("kdmt.stages.prepare_directions._pool_held_out", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepared(tmp_path / "stopped", document())
    whole = prepared(tmp_path / "whole", document())
    monkeypatch.setattr("kdmt.stages.prepare_cleaning.clean_corpora", lambda *_, **__: 1 / 0)  # not cleaned again
    stopped = prepared(tmp_path / "stopped", document())
    assert tiny_pipeline.hash_tree(stopped) == tiny_pipeline.hash_tree(whole)


@pytest.mark.parametrize(
    ("dictionary", "message"),
    [("▁a 1\n", "does not have the language token <2de>, <2fr>, <2en>"), ("<2de> 1\n<2fr> 1\n", "token <2en>")],
)
def test_a_given_dictionary_without_language_tokens_is_refused(tmp_path: Path, dictionary: str, message: str) -> None:
    write_text(tmp_path)
    tokenizer = prepared(tmp_path, document()) / "tokenizer" / "joint.model"
    (tmp_path / "given.model").write_bytes(tokenizer.read_bytes())
    (tmp_path / "dict.txt").write_text(dictionary)
    made = document()
    made["prepare"] |= {"tokenizer": {"source_path": "given.model"}, "vocabulary": {"source_path": "dict.txt"}}
    finished = run_prepare(tmp_path, made)
    assert finished.code == 2
    assert message in finished.err


def test_a_direction_without_clean_pairs_is_named(tmp_path: Path) -> None:
    write_text(tmp_path)
    write_lines(tmp_path / "text/train.fr", [""] * SIZES["train"])
    finished = run_prepare(tmp_path, document())
    assert finished.code == 2
    assert "en-fr: cleaning leaves none of 40 training pairs" in finished.err


def test_scores_of_filters_are_used_again_after_a_change_of_the_limit(tmp_path: Path) -> None:
    write_text(tmp_path)
    program = "import sys\nopen('log', 'a').write('run ')\nfor line in sys.stdin: print(line.count(' '))\n"
    (tmp_path / "score.py").write_text(program)
    made = document()
    for limit in (1, 2):
        command = {"command": [sys.executable, "score.py"], "min": limit}
        made["prepare"]["clean"] = {"rules": [{"filter": command}]}
        prepare = prepared(tmp_path, made)
        assert (tmp_path / "log").read_text() == "run " * len(DIRECTIONS)
        assert len(list((prepare.parent / CACHE).iterdir())) == len(DIRECTIONS)


def test_corpora_of_all_directions_are_listed_with_their_direction(tmp_path: Path) -> None:
    write_text(tmp_path)
    report = json.loads((prepared(tmp_path, document()) / "report.json").read_text())
    names = [corpus["name"] for corpus in report["corpora"]]
    assert [name.rpartition(" ")[2] for name in names] == ["(en-de)", "(en-fr)", "(fr-en)"]
    assert [own["corpora"][0]["name"] for own in report["directions"].values()] == [
        name.rpartition(" ")[0] for name in names
    ]


def test_a_language_that_the_identifier_does_not_know_is_refused_before_any_stage(tmp_path: Path) -> None:
    pytest.importorskip("py3langid")
    write_text(tmp_path)
    made = document(zero_shot=[], directions=["en-qaa"])
    for text in (made["prepare"]["train"][0], made["prepare"]["valid"], made["prepare"]["test"]["test"]):
        text["parallel"] = {"en": text["parallel"]["en"], "qaa": text["parallel"]["de"]}
    finished = run_prepare(tmp_path, made | {"score": {"off_target": {}}})
    assert finished.code == 2
    assert "score.off_target: the identifier does not know 'qaa'" in finished.err
    assert not (tmp_path / "runs").exists()


def test_shards_give_the_files_of_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_pass, "CHUNK_PAIRS", 10)
    made = document()
    made["prepare"]["monolingual"] = [
        {"path": "text/more.en", "direction": "en-fr"},
        {"path": "text/more.fr", "direction": "fr-en"},
    ]
    folders = {name: tmp_path / name for name in ("shards", "whole")}
    for folder in folders.values():
        folder.mkdir()
        english = write_text(folder)
        # a sentence of the test set, which is in no training text of any direction
        write_split(folder, "train", [*english["train"], english["test"][0]])
        write_split(folder, "more", [" ".join(pair) for pair in zip(WORDS, reversed(WORDS), strict=True)])
    whole = prepared(folders["whole"], made)
    # five chunks of each direction with 41 pairs, and one of each monolingual text
    for number, chunks in ((1, 6), (0, 11)):
        finished = run_prepare(folders["shards"], made, "--shard", f"{number}/2")
        assert finished.code == 0, finished.err
        assert f"prepare: the {chunks} chunks of shard {number} of 2 are there" in finished.err
    assert not (folders["shards"] / "runs/tiny/prepare").exists()
    refused = run_prepare(folders["shards"], made, "--shard", "0/3")
    assert refused.code == 2
    assert "are divided into 2 shards, not 3" in refused.err
    monkeypatch.setattr(clean, "clean_chunk", lambda *_, **__: 1 / 0)  # all chunks are there
    assert tiny_pipeline.hash_tree(prepared(folders["shards"], made)) == tiny_pipeline.hash_tree(whole)
    assert "up to date, nothing to do" in run_prepare(folders["shards"], made, "--shard", "0/2").err
    assert not (folders["shards"] / "runs/tiny/prepare.partial").exists()


def cells(page: str, caption: str) -> list[list[str]]:
    """Return the cells of the first table after a heading or caption."""
    table = page[page.index(caption) :].split("<table>", 1)[1].split("</table>", 1)[0]
    rows = re.findall(r"<tr>(.*?)</tr>", table, flags=re.DOTALL)
    return [[re.sub(r"<[^>]*>", "", cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]


def test_the_page_has_the_counts_of_each_direction(tmp_path: Path) -> None:
    english = write_text(tmp_path)
    write_split(tmp_path, "train", [*english["train"], english["test"][0]])
    page = (prepared(tmp_path, document()) / "report.html").read_text()
    assert "<title>Data report: tiny (4 directions)</title>" in page
    found = cells(page, '<h2 id="directions">')
    assert found[0][:5] == ["direction", "read", "dropped", "training pairs", "share of all"]
    assert [line[:5] for line in found[1:]] == [
        *([name, "41", "1", "40", "33.3%"] for name in DIRECTIONS),
        ["fr-de", "", "", "", ""],
    ]
    assert [line[6:] for line in found[1:]] == [["4", "3"]] * 3 + [["", "3"]]
    sources = cells(page, '<h2 id="sources">')[1:]
    assert [line[0] for line in sources] == [
        *(f"{text} ({name})" for name in DIRECTIONS for text in ("train.0", "valid", "test.test")),
        "test.test (fr-de)",
    ]
    assert "text/train.fr text/train.en" in [line[1] for line in sources]
    assert "en-fr: train.0 text/train.en" in page  # in the tables of the rules


def test_corpora_of_each_direction_are_mixed_by_temperature(tmp_path: Path) -> None:
    english = write_text(tmp_path)
    write_split(tmp_path, "small", [f"{line} ba" for line in english["train"][:10]])
    made = document(zero_shot=[])
    small = {"source": {"path": "text/small.en"}, "target": {"path": "text/small.de"}, "direction": "en-de"}
    made["prepare"] |= {"train": [*made["prepare"]["train"], small], "mixing": {"temperature": 2.0}}
    prepare = prepared(tmp_path, made)
    report = json.loads((prepare / "report.json").read_text())["directions"]
    # en-de has 50 pairs of corpora of 40 and 10: in proportion to the roots, 33.3 and 16.7
    assert [corpus["pairs_out"] for corpus in report["en-de"]["corpora"]] == [33, 17]
    assert [[corpus["pairs_out"] for corpus in report[name]["corpora"]] for name in ("en-fr", "fr-en")] == [[40], [40]]
    assert len(read_lines(prepare / "train.src")) == 130


def test_the_report_counts_the_training_text_when_there_is_monolingual_text(tmp_path: Path) -> None:
    write_text(tmp_path)
    write_lines(tmp_path / "text/more.en", ["ba da ga be de ge bi", "ge di ba ge di ba bi"])
    made = document()
    made["prepare"]["monolingual"] = [{"path": "text/more.en", "direction": name} for name in ("en-de", "en-fr")]
    prepare = prepared(tmp_path, made)
    report = json.loads((prepare / "report.json").read_text())
    assert report["pairs_in"] == report["pairs_out"] == len(DIRECTIONS) * SIZES["train"]
    assert [corpus["name"].rpartition(" ")[2] for corpus in report["corpora"]] == [f"({name})" for name in DIRECTIONS]
    sizes = [sum(map(len, read_lines(prepare / f"train.{side}"))) for side in ("src", "tgt")]
    assert report["typical_ratio"] == pytest.approx(sizes[1] / sizes[0], abs=0.3)


def test_the_corpus_of_a_domain_is_that_with_its_number_in_the_settings(tmp_path: Path) -> None:
    write_text(tmp_path)
    vowels = {"a": "ba da ga", "e": "be de ge"}

    def lines(vowel: str, seed: int) -> list[str]:
        draw = random.Random(seed)
        return [" ".join(draw.choices(vowels[vowel].split(), k=6)) for _ in range(30)]

    write_split(tmp_path, "general", [*lines("e", 1), *lines("a", 2)])
    write_split(tmp_path, "domain", lines("a", 3))

    def corpus(name: str, **more: Any) -> dict[str, Any]:
        sides = {"source": {"path": f"text/{name}.en"}, "target": {"path": f"text/{name}.de"}}
        return sides | {"direction": "en-de"} | more

    judged = {"clean": {"cross_entropy": {"drop_percent": 50.0, "in_domain_corpus": 2}}}
    made = document(zero_shot=[])
    made["prepare"] |= {"clean": {"drop_duplicates": False}}
    french = {"parallel": {code: {"path": f"text/train.{code}"} for code in ("en", "fr")}}
    # of the direction en-de alone, the general corpus is the first one and that of the domain the second one
    made["prepare"]["train"] = [french, corpus("general", **judged), corpus("domain")]
    prepare = prepared(tmp_path, made)
    tags, sources = (read_lines(prepare / f"train.{end}") for end in ("tags", "src"))
    german = [source for tag, source in zip(tags, sources, strict=True) if tag == "en-de"]
    assert german == [*lines("a", 2), *lines("a", 3)]


def test_the_corpus_of_a_domain_must_have_the_direction(tmp_path: Path) -> None:
    write_text(tmp_path)
    made = document(zero_shot=[])
    german = {"source": {"path": "text/train.en"}, "target": {"path": "text/train.de"}, "direction": "en-de"}
    made["prepare"]["train"].append(german)
    made["prepare"]["train"][0]["clean"] = {"cross_entropy": {"drop_percent": 50.0, "in_domain_corpus": 1}}
    finished = run_prepare(tmp_path, made)
    assert finished.code == 2
    assert "'prepare.train.0.clean': 'cross_entropy.in_domain_corpus' is 1: " in finished.err
    assert "'prepare.train.1' has no text in the direction en-fr" in finished.err
