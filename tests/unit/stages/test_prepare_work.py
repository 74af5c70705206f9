"""Outputs of the prepare stage: clean text, tokenizers, dictionaries, data-bins and counts."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
from bad_input import refused
from corpus_formats import ONE_FILE, write_corpus
from tiny_pipeline import (
    SIZES,
    WORDS,
    hash_tree,
    kdmt,
    make_pairs,
    read_lines,
    run_stages,
    settings,
    to_yaml,
    write_lines,
)
from tiny_prepare import MADE, change, facts, read_bin, report, words

from kdmt.corpus.codec import TextCodec
from kdmt.stages import prepare_cleaning


def key(line: str) -> str:
    """Return the key by which sentences count as the same, computed independently of kdmt."""
    return re.sub(r"[\W_]", "", line.casefold())


@pytest.mark.usefixtures("pipeline")
def test_the_data_bin_contains_the_text_line_by_line() -> None:
    run_stages("prepare")
    for split, size in SIZES.items():
        for lang in ("en", "de"):
            text = read_lines(MADE / f"{split}.{lang}")
            assert text == read_lines(Path(f"text/{split}.{lang}"))
            assert len(text) == size
            assert [words(tokens) for tokens in read_bin(split, lang)] == text
    assert not (MADE / "train.tags").exists()
    assert (MADE / "dict.en.txt").read_bytes() == (MADE / "data-bin/dict.de.txt").read_bytes()
    tokens = sum(len(line.split()) + 1 for line in read_bin("train", "de"))
    symbols = len(read_lines(MADE / "dict.de.txt")) + 4
    assert facts()["de"] == {"symbols": symbols, "tokens": tokens, "unk": 0}
    assert symbols % 8 == 0


@pytest.mark.usefixtures("pipeline")
def test_the_same_text_gives_the_same_files_in_any_folder() -> None:
    run_stages("prepare")
    assert kdmt("prepare", "tiny.yaml", "--runs", "elsewhere", "--set", "prepare.workers=2").code == 0
    there = hash_tree(Path("elsewhere/tiny/prepare"))
    here = hash_tree(MADE)
    differing = {name for name in here.keys() | there.keys() if here.get(name) != there.get(name)}
    assert differing == {"config.json"}  # it contains the number of workers


@pytest.mark.usefixtures("pipeline")
def test_no_held_out_sentence_is_in_the_training_text() -> None:
    train = make_pairs(30, seed=2)
    test, valid = (
        [*zip(*(read_lines(Path(f"text/{s}.{x}")) for x in ("en", "de")), strict=True)] for s in ("test", "valid")
    )
    leaks = [
        test[0],
        (test[1][0].upper() + " !", "rim"),  # the source with other case and punctuation
        ("gi", f"«{test[2][1]}».".replace(" ", "  ")),  # the target only
        valid[0],
    ]
    pairs = list(dict.fromkeys([*train[:15], *leaks, *train[15:]]))
    for side, lang in enumerate(("en", "de")):
        write_lines(Path(f"text/train.{lang}"), [pair[side] for pair in pairs])
    run_stages("prepare", sets=["prepare.tokenizer.vocab_size=30", "prepare.clean.max_ratio=9.0"])

    for side, lang in enumerate(("en", "de")):
        held_out = {key(pair[side]) for pair in (*test, *valid)}
        assert not held_out & set(map(key, read_lines(MADE / f"train.{lang}")))
    dropped = [pair for pair in pairs if any(key(pair[i]) in {key(p[i]) for p in (*test, *valid)} for i in (0, 1))]
    assert len(dropped) >= len(leaks)
    assert report()["dropped"]["held_out"] == facts()["dropped"]["held_out"] == len(dropped)
    assert report()["corpora"][0]["held_out_matches"]["test.target"] >= 2
    assert len(read_lines(MADE / "train.en")) == report()["pairs_out"] == len(pairs) - len(dropped)


@pytest.mark.usefixtures("pipeline")
@pytest.mark.parametrize("rules", [None, ["entities", "tags"]])
@pytest.mark.parametrize("is_cleaned", [False, True])
def test_held_out_sentences_that_rules_would_change_are_not_in_the_training_text(
    rules: list[str] | None, is_cleaned: bool
) -> None:
    """Check test pairs in the training text, as they are or as a corpus without markup has them."""
    sources = ["<i>Ba da ga na</i>", "Ba &amp; da", "ba da gana mala rasa"]
    targets = ["<i>Bi di gi ni</i>", "Bi &amp; di", "bi di gini mili risi"]
    for lang, lines in (("en", sources), ("de", targets)):
        test = [*lines[:2], lines[2].replace(" ", " \u00ad", 1).replace("na", "n\u00ada").replace("ni", "n\u00adi")]
        without = [line.replace("<i>", "").replace("</i>", "").replace("&amp;", "&") for line in lines]
        train = [*without[:2], lines[2]] if is_cleaned and rules else [*test[:2], lines[2]]
        path = Path(f"text/test.{lang}")
        write_lines(path, [*test, *read_lines(path)[3:]])
        path = Path(f"text/train.{lang}")
        write_lines(path, [*train, *read_lines(path)])
    change(clean={"rules": rules, "max_ratio": 0.0}, decontaminate={"ngram": 5})
    run_stages("prepare")
    dropped = report()["dropped"]
    assert (dropped["held_out"], dropped["held_out_overlap"]) == (3, 0)
    assert len(read_lines(MADE / "train.en")) == SIZES["train"]


@pytest.mark.usefixtures("pipeline")
def test_ngrams_are_those_of_held_out_sentences_without_invisible_characters() -> None:
    for lang, line in (("en", "ba da ga na ma la"), ("de", "bi di gi ni mi li")):
        path = Path(f"text/test.{lang}")
        write_lines(path, [line.replace("a g", "\u00ada g").replace("i g", "\u00adi g"), *read_lines(path)[1:]])
        path = Path(f"text/train.{lang}")
        write_lines(path, [f"{line} {line[:2]}", *read_lines(path)])
    run_stages("prepare", sets=["prepare.decontaminate={ngram: 6}", "prepare.clean.max_ratio=0.0"])
    assert report()["corpora"][0]["held_out_overlaps"] == {"test.source": {"1": 1}, "test.target": {"1": 1}}
    assert len(read_lines(MADE / "train.en")) == SIZES["train"]


@pytest.mark.usefixtures("pipeline")
def test_decontamination_can_be_turned_off() -> None:
    for lang in ("en", "de"):
        path = Path(f"text/train.{lang}")
        write_lines(path, [*read_lines(path), *read_lines(Path(f"text/test.{lang}"))])
    run_stages("prepare", sets=["prepare.decontaminate=false"])
    assert read_lines(MADE / "train.en")[-SIZES["test"] :] == read_lines(Path("text/test.en"))


@pytest.mark.usefixtures("pipeline")
def test_decontamination_by_ngrams_drops_training_and_monolingual_lines_that_contain_test_sentences() -> None:
    test = {lang: "ba da ga na ma la ra sa" if lang == "en" else "bi di gi ni mi li ri si" for lang in ("en", "de")}
    for lang in ("en", "de"):
        path = Path(f"text/test.{lang}")
        write_lines(path, [test[lang], *read_lines(path)[1:]])
        path = Path(f"text/train.{lang}")
        write_lines(path, [f"So: {test[lang].upper()} !", *read_lines(path)])
    write_lines(Path("text/mono.en"), [f"{test['en']} ba", f"{test['de']} bi", "ba be bi"])
    change(monolingual=[{"path": "text/mono.en"}])
    sets = ["prepare.decontaminate={ngram: 6}", "prepare.clean.max_ratio=0.0"]
    run_stages("prepare", sets=sets)
    assert report()["dropped"]["held_out_overlap"] == facts()["dropped"]["held_out_overlap"] == 1
    assert report()["corpora"][0]["held_out_overlaps"] == {"test.source": {"1": 1}, "test.target": {"1": 1}}
    assert len(read_lines(MADE / "train.en")) == SIZES["train"]
    assert read_lines(MADE / "monolingual.en") == [
        f"{test['de']} bi",
        "ba be bi",
    ]  # compared with English sentences alone
    run_stages("prepare", sets=sets[1:])
    assert len(read_lines(MADE / "train.en")) == SIZES["train"] + 1
    assert len(read_lines(MADE / "monolingual.en")) == 3


@pytest.mark.usefixtures("pipeline")
def test_corpora_are_mixed_by_temperature_and_used_in_part() -> None:
    """Mix 40 pairs of 50 with 10 others by a temperature of 2: 33 and 17 of 50."""
    for name, seed, count in (("large", 5, 60), ("small", 6, 12)):
        pairs = list(dict.fromkeys(make_pairs(count, seed=seed)))[: 50 if name == "large" else 10]
        for side, lang in enumerate(("en", "de")):
            write_lines(Path(f"text/{name}.{lang}"), [f"{name} {pair[side]}" for pair in pairs])
    corpora = [
        {side: {"path": f"text/{name}.{lang}"} for side, lang in (("source", "en"), ("target", "de"))}
        for name in ("large", "small")
    ]
    corpora[0]["share"] = 0.8  # type: ignore[assignment]
    change(train=corpora, mixing={"temperature": 2}, decontaminate=False, clean={"max_ratio": 0.0})
    stderr = run_stages("prepare")[0].err
    assert [corpus["pairs_out"] for corpus in report()["corpora"]] == [33, 17]
    first = read_lines(MADE / "train.en")
    assert [sum(line.startswith(name) for line in first) for name in ("large", "small")] == [33, 17]
    assert "prepare: train.0 text/large.en: 40 of 50 pairs are used\n" in stderr
    assert "prepare: train.1 text/small.en: 10 pairs become 17 (1.70 times)\n" in stderr
    change(train=corpora, mixing={"temperature": 2}, decontaminate=False, clean={"max_ratio": 0.0}, sampling_seed=2)
    run_stages("prepare")
    assert read_lines(MADE / "train.en") != first


@pytest.mark.usefixtures("pipeline")
def test_a_stage_made_by_a_version_without_the_newer_settings_is_up_to_date() -> None:
    run_stages("prepare")
    path = MADE / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    newer = ("clean.duplicates", "clean.max_duplicates", "clean.near_duplicates", "mixing", "sampling_seed")
    for name in (*newer, "train.0.share", "train.0.max_pairs"):
        del manifest["settings"][f"prepare.{name}"]
    path.write_text(json.dumps(manifest), encoding="utf-8")
    run_stages("prepare")
    assert json.loads(path.read_text(encoding="utf-8")) == manifest  # it was not made again


@pytest.mark.usefixtures("pipeline")
def test_tokenised_text_is_compared_in_its_own_form() -> None:
    """Check entities of Moses, which are letters: the raw reference `ba'da` matches `ba &apos;da` and nothing else."""
    for split, line in (("train", "ba &apos;da &quot; ge"), ("test", "ba &apos;da &quot; ge")):
        path = Path(f"text/{split}.de")
        write_lines(path, [line, *read_lines(path)[1:]])
    write_lines(Path("text/raw.de"), ["ba'da \"ge", *read_lines(Path("text/test.de"))[1:]])
    document = settings()
    document["prepare"]["text"] = {"moses": True, "lowercase": True, "already_applied": True}
    document["prepare"]["test"]["test"]["raw_target"] = {"path": "text/raw.de"}
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    run_stages("prepare")
    assert report()["dropped"]["held_out"] == 1
    assert not any("&apos;" in line for line in read_lines(MADE / "train.de"))


@pytest.mark.usefixtures("pipeline")
def test_each_rule_has_its_count() -> None:
    clean = make_pairs(12, seed=3)
    clean = list(dict.fromkeys(clean))
    dirty = {
        "empty": [("", "ok"), ("ba", "   ")],
        "max_words": [(" ".join(["a"] * 22), " ".join(["o"] * 21))],
        "max_characters": [("ba", "k" * 70)],
        "max_ratio": [("ba " * 20 + "be", "ok")],
        "copy": [("ba ba", "ba ba")],
        "duplicate": [clean[0], clean[1], clean[1]],
    }
    pairs = [*clean, *(pair for found in dirty.values() for pair in found)]
    for side, lang in enumerate(("en", "de")):
        write_lines(Path(f"text/train.{lang}"), [pair[side] for pair in pairs])
    change(clean={"max_words": 21, "max_characters": 69}, decontaminate=False, tokenizer={"vocab_size": 26})
    stderr = run_stages("prepare")[0].err
    expected = {rule: len(found) for rule, found in dirty.items()}
    assert {rule: count for rule, count in report()["dropped"].items() if count} == expected
    assert report()["pairs_in"] == len(pairs)
    assert f"{len(pairs)} pairs read, {len(clean)} for training; dropped: empty 2, max_words 1" in stderr
    assert read_lines(MADE / "train.de") == [target for _, target in clean]


@pytest.mark.usefixtures("pipeline")
def test_clean_none_keeps_every_line() -> None:
    """Check text that must keep its lines, such as distilled text: empty lines, copies, duplicates, test sentences."""
    lines = [*read_lines(Path("text/train.en")), "", "ba  ba", "ba  ba", " be ", *read_lines(Path("text/test.en"))]
    for lang in ("en", "de"):
        write_lines(Path(f"text/train.{lang}"), lines)
    run_stages("prepare", sets=["prepare.clean=none", "prepare.decontaminate=false", "prepare.tokenizer.vocab_size=18"])
    for lang in ("en", "de"):
        assert read_lines(MADE / f"train.{lang}") == lines
    assert [" ".join(line.split()) for line in lines] == [words(tokens) for tokens in read_bin("train", "en")]
    assert not any(report()["dropped"].values())


@pytest.mark.usefixtures("pipeline")
def test_weights_repeat_a_corpus_and_tags_are_put_before_its_sources() -> None:
    extra = make_pairs(5, seed=9)
    write_lines(Path("text/extra.tsv"), [f"{source}\tx\t{target}" for source, target in extra])
    with zipfile.ZipFile("text/extra.zip", "w") as archive:
        archive.write("text/extra.tsv", "deep/extra.tsv")
    corpus = {
        "tsv": {"path": "text/extra.zip", "member": "deep/extra.tsv"},
        **{"source_column": 0, "target_column": 2, "weight": 3, "tag": "<bt>"},
    }
    change(train=[*settings()["prepare"]["train"], corpus], decontaminate=False, clean="none")
    run_stages("prepare")
    plain = SIZES["train"]
    assert read_lines(MADE / "train.de")[plain:] == [target for _, target in extra] * 3
    assert read_lines(MADE / "train.tags") == [""] * plain + ["<bt>"] * 15
    source = read_bin("train", "en")
    assert not any("<bt>" in line for line in (*source[:plain], *read_bin("train", "de")))
    assert [line.split()[0] for line in source[plain:]] == ["<bt>"] * 15
    assert [words(line.removeprefix("<bt> ")) for line in source[plain:]] == [source for source, _ in extra] * 3
    assert "<bt> 15" in read_lines(MADE / "dict.en.txt")
    assert [each["pairs_out"] for each in report()["corpora"]] == [plain, 15]


@pytest.mark.usefixtures("pipeline")
def test_text_is_processed_and_raw_references_are_stored() -> None:
    for split in SIZES:
        for lang in ("en", "de"):
            path = Path(f"text/{split}.{lang}")
            write_lines(path, [f"{line.capitalize()}, don't!" for line in read_lines(path)])
    run_stages("prepare", sets=["prepare.text={moses: true, lowercase: true}", "prepare.tokenizer.vocab_size=31"])
    raw = read_lines(Path("text/test.de"))
    assert read_lines(MADE / "test.raw.de") == raw
    assert read_lines(MADE / "test.de") == [line.lower().replace(", don't!", " , don ' t !") for line in raw]
    for line in read_lines(MADE / "train.en"):  # English has its own rule for n't
        assert line == line.lower()
        assert line.endswith(" , don 't !")
    assert [words(tokens) for tokens in read_bin("train", "en")] == read_lines(MADE / "train.en")
    codec = TextCodec.load(MADE)
    assert codec.finish_target(read_lines(MADE / "test.de")[0]).startswith(raw[0].lower().split(",")[0] + ",")


@pytest.mark.usefixtures("pipeline")
def test_lines_that_change_in_processing_are_counted_and_shown() -> None:
    for lang, odd in (("en", "ba▁be"), ("de", "Ok Isparta rım")):
        path = Path(f"text/train.{lang}")
        write_lines(path, [odd, *read_lines(path)])
    document = settings() | {"target_lang": "tr"}
    document["prepare"] |= {"text": {"lowercase": True}, "tokenizer": {"vocab_size": 37}}
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    (made,) = run_stages("prepare")
    english, turkish = report()["round_trip"]["en"], report()["round_trip"]["tr"]
    assert english["lines"] == turkish["lines"] == SIZES["train"] + 1
    assert (english["changed"], english["tokenizer"], english["lowercase"]) == (1, 1, 0)
    assert (turkish["changed"], turkish["tokenizer"], turkish["lowercase"]) == (1, 0, 1)
    assert english["examples"] == {"tokenizer": [["ba▁be", "ba be"]]}
    warnings = [line for line in made.err.splitlines() if "warning" in line]
    assert warnings == [
        "prepare: warning: en: 1 of 81 lines do not survive processing and back ('prepare.tokenizer' 1): "
        "'ba▁be' comes back as 'ba be'",
        "prepare: warning: tr: 1 of 81 lines do not survive processing and back ('prepare.text.lowercase' 1): "
        "'Ok Isparta rım' comes back as 'ok isparta rım'",
    ]


@pytest.mark.usefixtures("pipeline")
@pytest.mark.parametrize("kind", ["sentencepiece", "subword-nmt"])
def test_counting_changed_lines_does_not_change_dictionaries(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    model = {"type": "subword-nmt", "model": "bpe"} if kind == "subword-nmt" else {}
    change(tokenizer={"vocab_size": 32, **model})
    run_stages("prepare")
    made = hash_tree(MADE)
    monkeypatch.setattr("kdmt.stages.prepare_work.count_round_trips", lambda *_: {})
    assert kdmt("prepare", "tiny.yaml", "--runs", "elsewhere").code == 0
    without = hash_tree(Path("elsewhere/tiny/prepare"))
    assert {name for name in made if made[name] != without[name]} == {"report.json", "manifest.json"}


@pytest.mark.usefixtures("pipeline")
def test_held_out_characters_that_cleaning_removes_are_a_warning() -> None:
    source, target = (read_lines(Path(f"text/test.{lang}")) for lang in ("en", "de"))
    odd = [f"{target[0]}\u00ad!", f"o\u0308{target[1]}", f"\u200f{target[2]}", *target[3:]]
    write_lines(Path("text/test.de"), odd)
    write_lines(Path("text/test.en"), [source[0].replace(" ", "\u200b \ufeff", 1), *source[1:]])
    (made,) = run_stages("prepare")
    counts = report()["held_out_characters"]
    none = {"lines": SIZES["valid"], "changed": 0, "unicode": 0, "invisible": {}}
    assert counts["valid"] == {"en": none, "de": none}
    invisible = {"U+00AD": 1, "U+200F": 1}
    assert counts["test"]["de"] == {"lines": SIZES["test"], "changed": 3, "unicode": 1, "invisible": invisible}
    assert [line for line in made.err.splitlines() if "warning" in line] == [
        "prepare: warning: test, en: 1 of 5 lines (U+200B 1, U+FEFF 1) have characters that clean training text cannot "
        "contain; sources are translated as cleaning leaves them",
        "prepare: warning: test, de: 3 of 5 lines (not in NFC 1, U+00AD 1, U+200F 1) have characters that clean "
        "training text cannot contain; references are scored as published, so no translation matches them in full",
    ]
    assert read_lines(MADE / "test.raw.de") == odd
    assert read_lines(MADE / "test.de") == [f"{target[0]}!", f"\u00f6{target[1]}", *target[2:]]
    assert read_lines(MADE / "test.en") == source  # the sources of the model
    change(clean="none", decontaminate=False)
    (made,) = run_stages("prepare")
    assert "warning" not in made.err  # training text that is already processed may contain anything
    assert report()["held_out_characters"] == {}


@pytest.mark.usefixtures("pipeline")
def test_text_that_is_already_processed_is_unchanged() -> None:
    raw = [f"{line.capitalize()}!" for line in read_lines(Path("text/test.de"))]
    write_lines(Path("text/raw.de"), raw)
    document = settings()
    document["prepare"]["text"] = {"moses": True, "lowercase": True, "already_applied": True}
    document["prepare"]["test"]["test"]["raw_target"] = {"path": "text/raw.de"}
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    run_stages("prepare")
    assert read_lines(MADE / "test.de") == read_lines(Path("text/test.de"))
    assert read_lines(MADE / "test.raw.de") == raw
    assert json.loads((MADE / "text.json").read_text(encoding="utf-8"))["text"]["already_applied"] is True


@pytest.mark.usefixtures("pipeline")
def test_monolingual_text_is_cleaned_processed_and_binarised() -> None:
    own = ["ba  be\u200b bi", "Ga ge gi ga.", "ba be bi", "", read_lines(Path("text/test.en"))[0], "da " * 20]
    write_lines(Path("text/mono.en"), own)
    change(monolingual=[{"path": "text/mono.en"}], clean={"max_words": 10}, text={"lowercase": True})
    run_stages("prepare")
    lines = ["ba be bi", "ga ge gi ga."]
    assert read_lines(MADE / "monolingual.en") == lines
    assert len(read_bin("monolingual", "en")) == 2
    assert TextCodec.load(MADE).tokenizers.source.decode(read_bin("monolingual", "en")[0]) == lines[0]
    dropped = {rule: count for rule, count in facts()["monolingual"]["dropped"].items() if count}
    assert dropped == {"empty": 1, "max_words": 1, "held_out": 1, "duplicate": 1}
    assert sorted(path.name for path in MADE.glob("monolingual*")) == ["monolingual.en"]
    write_lines(Path("text/mono.en"), own[:2])
    assert "text/mono.en" in kdmt("teacher", "tiny.yaml").err


@pytest.mark.usefixtures("pipeline")
def test_monolingual_text_in_the_target_language_is_prepared_as_that_in_the_source_language(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    languages = []
    clean = prepare_cleaning.clean_corpora

    def recorded(*arguments: Any, **values: Any) -> Any:
        languages.append((values["languages"], values["spaced"]))
        return clean(*arguments, **values)

    monkeypatch.setattr(prepare_cleaning, "clean_corpora", recorded)
    own = ["ok  uk\u200b ik", "Rom rum", "ok uk ik", "", read_lines(Path("text/test.de"))[0], "olp " * 20]
    write_lines(Path("text/mono.de"), own)
    write_lines(Path("text/mono.en"), ["ba be bi"])
    change(
        monolingual=[{"path": "text/mono.en"}],
        monolingual_target=[{"path": "text/mono.de"}],
        clean={"max_words": 10},
        text={"lowercase": True},
        tokenizer={"vocab_size": 20, "joint": False},
        vocabulary={"joined": False},
    )
    run_stages("prepare", sets=["teacher.model.share_all_embeddings=false", "students={}"])
    lines = ["ok uk ik", "rom rum"]
    assert read_lines(MADE / "monolingual.de") == lines
    codec = TextCodec.load(MADE)
    found = read_bin("monolingual", "de")
    assert [" ".join(codec.tokenizers.target.decode(line).split()) for line in found] == lines
    dropped = {rule: count for rule, count in facts()["monolingual_target"]["dropped"].items() if count}
    assert dropped == {"empty": 1, "max_words": 1, "held_out": 1, "duplicate": 1}
    assert facts()["monolingual"]["lines_out"] == 1
    assert languages == [((one, other), (True, True)) for one, other in (("en", "de"), ("en", "en"), ("de", "de"))]


@pytest.mark.usefixtures("pipeline")
def test_separate_tokenizers_and_dictionaries() -> None:
    document = settings()
    document["prepare"]["tokenizer"] = {"joint": False, "vocab_size": 20}
    document["prepare"]["vocabulary"] = {"joined": False}
    for model in (document["teacher"], *document["students"].values()):
        model["model"]["share_all_embeddings"] = False
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    run_stages("prepare")
    assert sorted(path.name for path in (MADE / "tokenizer").iterdir()) == ["de.model", "en.model", "tokenizer.json"]
    symbols = {lang: {line.split()[0] for line in read_lines(MADE / f"dict.{lang}.txt")} for lang in ("en", "de")}
    assert "▁" in "".join(symbols["en"])
    assert not any(set("okulmr") & set(symbol) for symbol in symbols["en"] if not symbol.startswith("madeup"))
    for lang, lexicon in (("en", set(WORDS)), ("de", set(WORDS.values()))):
        assert {word for tokens in read_bin("train", lang) for word in words(tokens).split()} == lexicon


@pytest.mark.usefixtures("pipeline")
def test_urls_are_replaced_by_a_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = Path("mirror")
    mirror.mkdir()
    corpus = {}
    for side, lang in (("source", "en"), ("target", "de")):
        data = gzip.compress(Path(f"text/train.{lang}").read_bytes())
        (mirror / f"train.{lang}.gz").write_bytes(data)
        corpus[side] = {"url": f"https://nowhere.invalid/a/train.{lang}.gz", "sha256": hashlib.sha256(data).hexdigest()}
    change(train=[corpus])
    Path("empty").mkdir()
    result = kdmt("prepare", "tiny.yaml", "--mirror", "empty", "--mirror", "mirror")
    assert result.code == 0
    assert "prepare: 0 bytes downloaded: 2 files in the mirror mirror, " in result.err
    assert read_lines(MADE / "train.en") == read_lines(Path("text/train.en"))
    monkeypatch.setenv("KDMT_MIRROR", "empty:mirror")
    assert "up to date" in kdmt("prepare", "tiny.yaml").err
    change(clean="none", decontaminate=False)
    assert kdmt("prepare", "tiny.yaml").code == 0


@pytest.mark.usefixtures("pipeline")
def test_further_references_are_stored_and_excluded_from_training() -> None:
    test, valid = read_lines(Path("text/test.de")), read_lines(Path("text/valid.de"))
    write_lines(Path("text/one"), [f"{line} !" for line in test])
    write_lines(Path("text/two"), ["rim rim rum", *test[1:]])
    write_lines(Path("text/three"), valid[::-1])
    pairs = [zip(["gi ge"], ["Rim, rim rum."], strict=True), make_pairs(40, seed=2)]
    train = [pair for part in pairs for pair in part]
    for side, lang in enumerate(("en", "de")):
        write_lines(Path(f"text/train.{lang}"), [pair[side] for pair in train])
    document = settings()["prepare"]
    document["test"]["test"]["references"] = [{"path": "text/one"}, {"path": "text/two"}]
    document["valid"]["references"] = [{"path": "text/three"}]
    change(test=document["test"], valid=document["valid"])
    run_stages("prepare", sets=["prepare.tokenizer.vocab_size=30", "prepare.clean.max_ratio=9.0"])
    assert read_lines(MADE / "test.raw1.de") == read_lines(Path("text/one"))
    assert read_lines(MADE / "test.raw2.de") == read_lines(Path("text/two"))
    assert read_lines(MADE / "valid.raw1.de") == valid[::-1]
    assert "Rim, rim rum." not in read_lines(MADE / "train.de")
    assert report()["corpora"][0]["held_out_matches"]["test.target"] >= 1
    write_lines(Path("text/two"), test[1:])
    again = kdmt("prepare", "tiny.yaml")
    assert (again.code, again.err.splitlines()[-1]) == (2, "kdmt: error: text/two has 4 lines, test has 5")


@pytest.mark.usefixtures("pipeline")
def test_pairs_with_a_low_score_in_the_file_are_a_rule_of_the_report() -> None:
    pairs = make_pairs(60, seed=2)
    rows = [f"{source}\t{target}\t{number / 60}" for number, (source, target) in enumerate(pairs)]
    write_lines(Path("text/scored.tsv"), rows)
    change(train=[{"tsv": {"path": "text/scored.tsv"}, "quality": {"column": 2, "min": 0.25}}])
    result = run_stages("prepare", sets=["prepare.tokenizer.vocab_size=30", "prepare.clean.max_ratio=9.0"])[0]
    made = report()
    assert (made["pairs_in"], made["dropped"]["quality"]) == (60, 15)
    assert made["corpora"][0]["dropped"]["quality"] == 15
    assert made["pairs_out"] == made["pairs_in"] - sum(made["dropped"].values())
    assert facts()["dropped"]["quality"] == 15
    assert "60 pairs read" in result.err
    assert "quality 15" in result.err


@pytest.mark.usefixtures("pipeline")
@pytest.mark.parametrize("form", [form for form in ONE_FILE if form != "tsv"])
def test_a_truncated_corpus_ends_with_its_name(form: str) -> None:
    pairs = list(zip(*(read_lines(Path(f"text/train.{lang}")) for lang in ("en", "de")), strict=True))
    corpus, path = write_corpus(Path("text"), form, pairs, malformed="error")
    change(train=[corpus.model_dump(exclude_defaults=True)])
    assert kdmt("prepare", "tiny.yaml").code == 0
    assert read_lines(MADE / "train.de") == [target for _, target in pairs]
    content = path.read_bytes()
    path.write_bytes(content[:-30])
    message = refused("prepare", "tiny.yaml")
    assert re.match(
        rf"prepare\.train\.0: {path}(:\w+)?"
        r"(: truncated or damaged after (line|row|sentence) \d+: | line \d+: not JSON)",
        message,
    )


@pytest.mark.usefixtures("pipeline")
def test_ngrams_of_further_references_are_looked_for() -> None:
    words_of_reference = [*WORDS.values(), *WORDS.values()][:15]
    write_lines(Path("text/one"), [*read_lines(Path("text/test.de"))[1:], " ".join(words_of_reference)])
    train = [*make_pairs(40, seed=2), ("gi ge " * 8, " ".join(["olp", *words_of_reference[1:14], "olp"]))]
    for side, lang in enumerate(("en", "de")):
        write_lines(Path(f"text/train.{lang}"), [pair[side] for pair in train])
    test = settings()["prepare"]["test"]
    test["test"]["references"] = [{"path": "text/one"}]
    change(test=test, decontaminate={"ngram": 13})
    run_stages("prepare", sets=["prepare.tokenizer.vocab_size=30", "prepare.clean.max_ratio=9.0"])
    last = str(len(read_lines(Path("text/one"))))
    assert report()["corpora"][0]["held_out_overlaps"] == {"test.target": {last: 1}}
    assert train[-1][1] not in read_lines(MADE / "train.de")


@pytest.mark.usefixtures("pipeline")
def test_rules_and_their_changes_for_a_corpus_are_applied_and_counted() -> None:
    source, target = (read_lines(Path(f"text/train.{lang}")) for lang in ("en", "de"))
    write_lines(Path("text/train.en"), [f"{source[0]} 12", f"{source[1]} &amp; x", *source[2:]])
    write_lines(Path("text/train.de"), [f"{target[0]} 13", f"{target[1]} & x", *target[2:]])
    rules = "prepare.clean.rules=[numbers, entities]"
    run_stages("prepare", sets=[rules])
    counts = report()
    assert counts["dropped"]["numbers"] == 1
    assert counts["corpora"][0]["lines_changed"]["entities"] == 1
    assert f"{source[1]} & x" in read_lines(MADE / "train.en")
    (examples,) = json.loads((MADE / "report-examples.json").read_text(encoding="utf-8")).values()
    assert examples["numbers"] == [[f"{source[0]} 12", f"{target[0]} 13"]]
    made = run_stages("prepare", sets=[rules, "prepare.train.0.clean={numbers: false}"])[0]
    assert "the setting prepare.train.0.clean.numbers is new" in made.err
    assert "numbers" not in report()["dropped"]
    assert len(read_lines(MADE / "train.en")) == counts["pairs_out"] + 1


@pytest.mark.usefixtures("pipeline")
def test_a_folder_made_before_there_were_rules_is_up_to_date() -> None:
    run_stages("prepare")
    manifest = json.loads((MADE / "manifest.json").read_text(encoding="utf-8"))
    del manifest["settings"]["prepare.clean.rules"]
    (MADE / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert "up to date" in kdmt("prepare", "tiny.yaml").err
    made = run_stages("prepare", sets=["prepare.clean.rules=default"])[0]
    assert "prepare: rebuilt: the setting prepare.clean.rules" in made.err
