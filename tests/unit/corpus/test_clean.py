import dataclasses
import gzip
import itertools
import json
import math
import random
import statistics
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdmt.config import Clean, Mixing
from kdmt.corpus.clean import CleaningReport, clean_corpora
from kdmt.corpus.decontaminate import collect_forbidden
from kdmt.corpus.first_pass import TrainingCorpus
from kdmt.corpus.ngram_overlap import NgramOverlaps, index_side
from kdmt.corpus.rules.table import line_forms
from kdmt.corpus.rules.tidying import remove_invisible
from kdmt.errors import UserError
from kdmt.languages import writes_spaces

Pairs = list[tuple[str, str]]


@dataclasses.dataclass
class Cleaned:
    pairs: Pairs
    tags: list[str] | None
    report: CleaningReport


def read_lines(path: Path) -> list[str]:
    text = path.read_bytes().decode()
    assert text.endswith("\n")
    return text[:-1].split("\n")


def clean_in(folder: Path, *corpora: TrainingCorpus, clean: Any = None, **options: Any) -> Cleaned:
    out = {side: folder / side for side in ("source", "target", "tags")}
    report = clean_corpora(
        corpora,
        clean=clean or Clean(),
        forbidden=options.pop("forbidden", None),
        out_source=out["source"],
        out_target=out["target"],
        out_tags=out["tags"],
        workdir=folder / "work",
        **options,
    )
    tags = read_lines(out["tags"]) if out["tags"].exists() else None
    expected = {"source", "target"} | ({"tags"} if tags is not None else set())
    if options.get("resume"):  # the caller removes the work folder
        expected |= {"work"}
    assert {path.name for path in folder.iterdir()} == expected  # the work folder and .part files are removed
    pairs = list(zip(read_lines(out["source"]), read_lines(out["target"]), strict=True))
    assert report.pairs_out == len(pairs)
    return Cleaned(pairs, tags, report)


def words(number: int) -> str:
    return " ".join(f"w{position}" for position in range(number))


# -------------------------------------------------------------------------------------------------------- whole pass


def plain_clean(pairs: Pairs, clean: Clean, seen: set[tuple[str, str]]) -> tuple[Pairs, Counter[str]]:
    """Return the kept pairs and counts of dropped ones by a plain implementation of the rules."""
    kept, dropped = [], Counter[str]()
    for pair in pairs:
        source, target = (" ".join(unicodedata.normalize("NFC", remove_invisible(line)).split()) for line in pair)
        lengths = sorted([len(source.split()), len(target.split())])
        if lengths[0] == 0:
            dropped["empty"] += 1
        elif lengths[0] < clean.min_words:
            dropped["min_words"] += 1
        elif lengths[1] > clean.max_words:
            dropped["max_words"] += 1
        elif max(len(source), len(target)) > clean.max_characters:
            dropped["max_characters"] += 1
        elif source == target:
            dropped["copy"] += 1
        elif (source, target) in seen:
            dropped["duplicate"] += 1
        else:
            seen.add((source, target))
            kept.append((source, target))
    return kept, dropped


line = st.lists(
    st.sampled_from(["a", "b", "é", "e\u0301", " ", "  ", "\t", "\x00", "\u200b", "\u2028", "."]), max_size=9
)
some_pairs = st.lists(st.tuples(line.map("".join), line.map("".join)), max_size=30)


@settings(max_examples=25, deadline=None)
@given(some_pairs, some_pairs)
def test_cleaning_equals_a_plain_implementation(
    tmp_path_factory: pytest.TempPathFactory, first: Pairs, second: Pairs
) -> None:
    clean = Clean(min_words=2, max_words=4, max_characters=9, max_ratio=0.0)
    seen: set[tuple[str, str]] = {("sure to", "be left")}
    always = [("sure to", "be left")]
    (first_kept, first_dropped), (second_kept, second_dropped) = (
        plain_clean(pairs, clean, seen) for pairs in (first, second)
    )
    cleaned = clean_in(
        tmp_path_factory.mktemp("clean"),
        TrainingCorpus("always", always),
        TrainingCorpus("first", iter(first), weight=2),
        TrainingCorpus("second", iter(second)),
        clean=clean,
    )
    assert cleaned.pairs == always + first_kept + first_kept + second_kept
    for counts, pairs, dropped in zip(
        cleaned.report.corpora[1:], (first, second), (first_dropped, second_dropped), strict=True
    ):
        assert Counter(counts.dropped) == dropped
        assert counts.pairs_in == len(pairs) == counts.pairs_kept + sum(counts.dropped.values())


def test_cleaning_clean_text_changes_nothing(tmp_path: Path) -> None:
    raw = [("Ä\u0308  x\u00a0y\u200b", "ok\tok"), ("b b", "B\x01 B"), ("b b", "B B"), ("x", "x")]
    once = clean_in(tmp_path, TrainingCorpus("a", raw), clean=Clean(unicode_form="NFKC"))
    twice = clean_in(tmp_path, TrainingCorpus("a", once.pairs), clean=Clean(unicode_form="NFKC"))
    assert twice.pairs == once.pairs == [("Ä\u0308 x y", "ok ok"), ("b b", "B B")]
    assert sum(twice.report.corpora[0].lines_changed.values()) == 0
    assert once.report.corpora[0].lines_changed == {"invisible": 2, "unicode": 1, "whitespace": 2}


def test_duplicates_are_kept_on_request(tmp_path: Path) -> None:
    pairs = [("a", "b"), ("a", "b")]
    assert clean_in(tmp_path, TrainingCorpus("a", pairs), clean=Clean(drop_duplicates=False)).pairs == pairs


def test_duplicates_across_corpora_are_dropped_except_the_first(tmp_path: Path) -> None:
    cleaned = clean_in(
        tmp_path,
        TrainingCorpus("real", [("a", "b"), ("c", "d")]),
        TrainingCorpus("synthetic", [("c", "d"), ("a", "d"), (" a", "b ")], tag="<bt>"),
    )
    assert cleaned.pairs == [("a", "b"), ("c", "d"), ("a", "d")]
    assert cleaned.tags == ["", "", "<bt>"]
    assert [counts.dropped["duplicate"] for counts in cleaned.report.corpora] == [0, 2]


SIDES: Pairs = [("a", "1"), ("a", "2"), ("b", "1"), ("a", "3"), ("c", "4"), ("d", "4"), ("a", "1")]


@pytest.mark.parametrize(
    ("settings", "kept", "rule"),
    [
        ({"max_duplicates": 2}, [0, 1, 2, 3, 4, 5, 6], "duplicate"),
        ({"duplicates": "source"}, [0, 2, 4, 5], "duplicate_source"),
        ({"duplicates": "source", "max_duplicates": 2}, [0, 1, 2, 4, 5], "duplicate_source"),
        ({"duplicates": "target"}, [0, 1, 3, 4], "duplicate_target"),
        ({"duplicates": "either"}, [0, 4], "duplicate_either"),
        ({"duplicates": "either", "max_duplicates": 2}, [0, 1, 2, 4, 5], "duplicate_either"),
    ],
)
def test_duplicates_of_a_side(tmp_path: Path, settings: dict[str, Any], kept: list[int], rule: str) -> None:
    cleaned = clean_in(tmp_path, TrainingCorpus("a", SIDES), clean=Clean(**settings))
    assert cleaned.pairs == [SIDES[number] for number in kept]
    dropped = cleaned.report.dropped
    assert dropped[rule] + (rule != "duplicate") * dropped["duplicate"] == len(SIDES) - len(kept)


def test_a_pair_that_another_rule_drops_has_no_duplicates_of_its_source(tmp_path: Path) -> None:
    typical = [(f"source number {n}", f"target number {n}") for n in range(20)]
    pairs = [("the source", "x" * 300), ("the source", "the target"), *typical]
    assert clean_in(tmp_path, TrainingCorpus("a", pairs), clean=Clean(duplicates="source")).pairs == pairs[1:]


def test_near_duplicates_across_corpora_are_dropped_untagged_before_tagged(tmp_path: Path) -> None:
    long = "one two three four five six seven eight nine ten eleven twelve"
    first = [(long, "a target"), ("another line", "of its own")]
    second = [(f"{long}!", "A TARGET"), ("a third line", "here"), (f"{long} more", "a target")]
    corpora = TrainingCorpus("first", first, tag="<first>"), TrainingCorpus("second", second)
    for workers in (1, 2):
        cleaned = clean_in(tmp_path, *corpora, clean=Clean(near_duplicates=0.8), workers=workers)
        assert cleaned.pairs == [first[1], second[0], second[1]]
        assert [counts.dropped["near_duplicate"] for counts in cleaned.report.corpora] == [1, 1]
        assert cleaned.report.corpora[1].examples["near_duplicate"] == [(f"{long} more", "a target")]
    assert clean_in(tmp_path, *corpora).pairs == first + second


def test_an_untagged_pair_is_kept_instead_of_a_tagged_duplicate(tmp_path: Path) -> None:
    cleaned = clean_in(
        tmp_path,
        TrainingCorpus("synthetic", [("c", "d"), ("a", "d"), ("a", "d")], tag="<bt>"),
        TrainingCorpus("other", [("a", "d"), ("e", "f")], tag="<web>"),
        TrainingCorpus("real", [("a", "b"), ("c", "d"), ("c", "d")]),
    )
    assert list(zip(cleaned.pairs, cleaned.tags or [], strict=True)) == [
        (("a", "d"), "<bt>"),
        (("e", "f"), "<web>"),
        (("a", "b"), ""),
        (("c", "d"), ""),
    ]
    assert [counts.dropped["duplicate"] for counts in cleaned.report.corpora] == [2, 1, 1]


def test_weight_repeats_a_corpus_with_its_tags(tmp_path: Path) -> None:
    corpora = (
        TrainingCorpus("a", [("1", "eins"), ("2", "zwei")], weight=2, tag="<a>"),
        TrainingCorpus("b", [("3", "drei")], weight=3),
    )
    for clean in (Clean(), "none"):
        cleaned = clean_in(tmp_path, *corpora, clean=clean)
        assert [source for source, _ in cleaned.pairs] == ["1", "2", "1", "2", "3", "3", "3"]
        assert cleaned.tags == ["<a>"] * 4 + [""] * 3


def numbered(name: str, count: int) -> Pairs:
    return [(f"{name} {number}", f"Nummer {name} {number}") for number in range(count)]


def test_share_and_max_pairs_use_a_part_of_the_clean_pairs(tmp_path: Path) -> None:
    pairs = [pair for pair in numbered("a", 100) for _ in range(2)]  # each one twice
    corpora = (
        TrainingCorpus("share", pairs, share=0.3, weight=2, tag="<a>"),
        TrainingCorpus("most", numbered("b", 40), max_pairs=7),
        TrainingCorpus("few", numbered("c", 5), max_pairs=7),
        TrainingCorpus("all", numbered("d", 5)),
    )
    outputs = [clean_in(tmp_path, *corpora, seed=seed, workers=workers) for seed, workers in ((1, 1), (1, 2), (2, 1))]
    assert outputs[0].pairs == outputs[1].pairs != outputs[2].pairs
    found = outputs[0].pairs
    assert len(found) == 2 * 30 + 7 + 5 + 5
    assert found[:30] == found[30:60] == sorted(set(found[:30]), key=pairs.index)
    assert set(found[:30]) < set(pairs)
    assert set(found[60:67]) < set(numbered("b", 40))
    assert found[67:] == numbered("c", 5) + numbered("d", 5)
    assert outputs[0].tags == ["<a>"] * 60 + [""] * 17
    counts = outputs[0].report.corpora
    assert [each.pairs_kept for each in counts] == [100, 40, 5, 5]
    assert [each.pairs_used for each in counts] == [30, 7, 5, None]
    assert [each.pairs_out for each in counts] == [60, 7, 5, 5]
    assert list(outputs[0].report.sampling(mixed=False)) == [
        "share: 30 of 100 pairs are used",
        "most: 7 of 40 pairs are used",
        "few: 5 of 5 pairs are used",
    ]
    as_dict = [each.get("pairs_used") for each in outputs[0].report.as_dict()["corpora"]]  # type: ignore[attr-defined]
    assert as_dict == [30, 7, 5, None]


def test_share_without_cleaning(tmp_path: Path) -> None:
    cleaned = clean_in(tmp_path, TrainingCorpus("a", numbered("a", 10), share=0.5), clean="none")
    assert len(set(cleaned.pairs)) == 5


def test_mixing_repeats_small_corpora_and_uses_a_part_of_large_ones(tmp_path: Path) -> None:
    """Sizes 400 and 4 with temperature 2 are as 20 to 2, of 404 pairs 367 and 37."""
    large, small = numbered("large", 400), numbered("small", 4)
    corpora = TrainingCorpus("large", large), TrainingCorpus("small", small, tag="<s>")
    cleaned = clean_in(tmp_path, *corpora, mixing=Mixing(temperature=2.0))
    counts = Counter(cleaned.pairs)
    assert len(cleaned.pairs) == 404
    assert set(counts) - set(small) < set(large)
    assert [counts[pair] for pair in large].count(1) == 367
    assert Counter(counts[pair] for pair in small) == {9: 3, 10: 1}
    assert cleaned.pairs[367:403] == small * 9
    assert cleaned.tags == [""] * 367 + ["<s>"] * 37
    assert list(cleaned.report.sampling(mixed=True)) == [
        "large: 400 pairs become 367 (0.92 times)",
        "small: 4 pairs become 37 (9.25 times)",
    ]
    fewer = clean_in(tmp_path, *corpora, mixing=Mixing(temperature=2.0, total_pairs=22))
    assert [each.pairs_out for each in fewer.report.corpora] == [20, 2]
    same = clean_in(tmp_path, *corpora, mixing=Mixing(temperature=1.0))
    assert same.pairs == large + small


def test_tags_of_an_earlier_run_are_deleted(tmp_path: Path) -> None:
    (tmp_path / "tags").write_text("<old>\n")
    assert clean_in(tmp_path, TrainingCorpus("a", [("a", "b")])).tags is None


def test_held_out_sentences_are_dropped_and_counted(tmp_path: Path) -> None:
    forbidden = collect_forbidden([("valid", [("A dog.", "Ein Hund.")]), ("test", [("Two cats!", "Zwei Katzen!")])])
    pairs = [
        ("a dog", "irgendein Hund"),
        ("some dog", "„Ein Hund“"),
        ("A dog", "ein hund"),
        ("Two cats.", "zwei katzen"),
        ("Two more cats", "Noch zwei Katzen"),
    ]
    cleaned = clean_in(tmp_path, TrainingCorpus("a", pairs), forbidden=forbidden)
    assert cleaned.pairs == pairs[-1:]
    counts = cleaned.report.corpora[0]
    assert counts.dropped["held_out"] == 4
    assert counts.held_out_matches == {"valid.source": 2, "valid.target": 2, "test.source": 1, "test.target": 1}
    assert cleaned.report.dropped["held_out"] == 4


def test_pairs_that_corpora_share_are_counted_where_they_occur_first(tmp_path: Path) -> None:
    first, second = [("a", "1"), ("b", "2"), ("a", "1")], [("b", "2"), ("c", "3")]
    third = [("c", "3"), ("b", "2"), ("d", "4")]
    corpora = [TrainingCorpus(name, pairs) for name, pairs in (("x", first), ("y", second), ("z", third))]
    report = clean_in(tmp_path, *corpora).report
    assert report.shared == {"pair": ((1, 0, 0), (1, 0, 0), (1, 1, 0))}
    assert report.as_dict()["shared"] == report.shared
    record = json.loads(json.dumps(report.as_record()))
    assert CleaningReport.from_record(record) == report
    earlier = {**record, "shared_pairs": record["shared"]["pair"]}  # as versions before `shared` wrote it
    del earlier["shared"]
    assert CleaningReport.from_record(earlier) == report
    assert CleaningReport.from_record({**earlier, "shared_pairs": None}).shared == {}
    for without in (clean_in(tmp_path, corpora[0]), clean_in(tmp_path, *corpora, clean=Clean(drop_duplicates=False))):
        assert without.report.shared == {}
        assert "shared" not in without.report.as_dict()


@pytest.mark.parametrize(
    ("duplicates", "max_duplicates", "kinds"),
    [
        ("pair", 1, ["pair"]),
        ("source", 1, ["source"]),
        ("target", 1, ["target"]),
        ("either", 1, ["source", "target"]),
        ("source", 2, ["pair", "source"]),
    ],
)
def test_corpora_are_compared_by_the_text_of_which_duplicates_are_dropped(
    tmp_path: Path, duplicates: str, max_duplicates: int, kinds: list[str]
) -> None:
    rng = random.Random(3)
    texts = [[(f"s{rng.randrange(9)}", f"t{rng.randrange(9)}") for _ in range(rng.randrange(2, 30))] for _ in range(3)]
    corpora = [TrainingCorpus(str(number), pairs) for number, pairs in enumerate(texts)]
    clean = Clean.model_validate({"duplicates": duplicates, "max_duplicates": max_duplicates})
    shared = clean_in(tmp_path, *corpora, clean=clean).report.shared
    assert list(shared) == kinds
    sides = {"pair": slice(2), "source": slice(1), "target": slice(1, 2)}
    for kind, counts in shared.items():
        expected = [[0] * 3 for _ in range(3)]
        first_corpus: dict[Any, int] = {}
        for number, pairs in enumerate(texts):
            for pair in pairs:
                text = pair[sides[kind]]
                if text in first_corpus:
                    expected[number][first_corpus[text]] += 1
                first_corpus.setdefault(text, number)
        assert counts == tuple(map(tuple, expected))


def test_the_beginnings_of_dropped_pairs_are_counted_over_all_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdmt.corpus.first_pass.CHUNK_PAIRS", 7)
    pairs = [(f"Page {number}", "") for number in range(30)] + [("a", "b")]
    cleaned = clean_in(tmp_path, TrainingCorpus("x", pairs)).report
    assert cleaned.corpora[0].patterns == {"empty": [("Page 0", "", 30)]}
    assert CleaningReport.from_record(json.loads(json.dumps(cleaned.as_record()))) == cleaned
    assert cleaned.corpora[0].examples["empty"] == [(f"Page {number}", "") for number in range(10)]


def test_pairs_that_share_ngrams_with_held_out_sentences_are_dropped_and_reported(tmp_path: Path) -> None:
    held_out = [("b", "a"), ("one two three four five six", "eins zwei drei vier fünf sechs")]
    sides = (
        index_side([(f"test.{name}", [pair[n] for pair in held_out])], ngram=5, overlap=0.8)
        for n, name in enumerate(("source", "target"))
    )
    forbidden = dataclasses.replace(collect_forbidden([("test", held_out)]), overlaps=NgramOverlaps(*sides))
    pairs = [
        ("x", "Noch eins: zwei, drei, vier, FÜNF!"),
        ("One two three four FIVE", "x"),
        ("b", "x"),
        ("one two three four x five six", "a b"),
        ("one, two, three, four,  five, six, seven", "und eins zwei drei vier fünf"),
    ]
    clean = Clean(max_ratio=0.0)
    cleaned = clean_in(tmp_path, TrainingCorpus("a", pairs), forbidden=forbidden, clean=clean)
    assert cleaned.pairs == [pairs[3]]
    counts = cleaned.report.corpora[0]
    assert (counts.dropped["held_out"], counts.dropped["held_out_overlap"]) == (1, 3)
    assert counts.held_out_overlaps == {"test.source": {"2": 2}, "test.target": {"2": 2}}
    assert counts.examples["held_out_overlap"] == [pairs[0], pairs[1], pairs[4]]
    assert cleaned.report.as_dict()["corpora"][0]["held_out_overlaps"] == counts.held_out_overlaps  # type: ignore[index]
    whole = collect_forbidden([("test", held_out)])
    exact = clean_in(tmp_path, TrainingCorpus("a", pairs), forbidden=whole, clean=clean)
    assert exact.pairs == [pairs[0], pairs[1], pairs[3], (pairs[4][0].replace("  ", " "), pairs[4][1])]
    assert "held_out_overlaps" not in exact.report.as_dict()["corpora"][0]  # type: ignore[index]


def test_pairs_are_compared_with_held_out_sentences_before_and_after_the_rules(tmp_path: Path) -> None:
    pytest.importorskip("ftfy", reason="an extra")
    clean = Clean.model_validate({"rules": "default", "max_ratio": 0.0})
    pairs = [
        ("<i>Where are you going now?</i>", "<i>Wohin gehst du nun?</i>"),
        ("Salt &amp; pepper", "Salz &amp; Pfeffer"),
        ("D\u00c3\u00a9j\u00c3\u00a0 vu", "Schon gesehen"),
        ("A dog runs.", "Ein Hund rennt."),
    ]
    for held_out, dropped in ((pairs, 4), ([("i", "x")], 0)):
        forms = line_forms([clean], "en"), line_forms([clean], "de")
        forbidden = collect_forbidden([("test", held_out)], forms)
        other = ("Another sentence.", "Ein anderer Satz.")
        cleaned = clean_in(tmp_path, TrainingCorpus("a", [*pairs, other]), forbidden=forbidden, clean=clean)
        assert cleaned.report.dropped["held_out"] == dropped
    unchanged = collect_forbidden([("test", pairs)])  # compared with what the rules change alone
    cleaned = clean_in(tmp_path, TrainingCorpus("a", [*pairs, other]), forbidden=unchanged, clean=clean)
    assert cleaned.pairs == [other]


def test_a_line_overlaps_once_with_several_forms_of_a_sentence(tmp_path: Path) -> None:
    clean = Clean.model_validate({"rules": ["tags"], "max_ratio": 0.0})
    held_out = "one two three four five <b>six</b>"
    index = index_side([("test.source", [held_out])], ngram=5, overlap=0.8, forms=line_forms([clean], "en"))
    forbidden = dataclasses.replace(collect_forbidden([("test", [])]), overlaps=NgramOverlaps(index, None))
    pairs = [(f"and {line}", "x y") for line in (held_out, "two three four five six", "four five b six b")]
    other = ("something else", "x y")
    cleaned = clean_in(tmp_path, TrainingCorpus("a", [*pairs, other]), forbidden=forbidden, clean=clean)
    assert cleaned.pairs == [other]
    assert cleaned.report.corpora[0].held_out_overlaps == {"test.source": {"1": 3}}


def test_clean_none_keeps_every_line_unchanged(tmp_path: Path) -> None:
    pairs = [(" a  b\t", "e\u0301\x00"), ("", ""), ("same", "same"), ("same", "same"), ("x\u2028y", "z\ry"), ("", "z")]
    forbidden = collect_forbidden([("test", [("same", "same")])])
    cleaned = clean_in(tmp_path, TrainingCorpus("a", iter(pairs)), clean="none", forbidden=forbidden)
    assert cleaned.pairs == pairs
    assert sum(cleaned.report.dropped.values()) == 0


@pytest.mark.parametrize("clean", [Clean(max_words=3), "none"])
def test_output_does_not_depend_on_the_number_of_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean: Any
) -> None:
    monkeypatch.setattr("kdmt.corpus.first_pass.CHUNK_PAIRS", 7)
    pairs = [(words(n % 5), f"w{n % 30} y") for n in range(200)]
    forbidden = collect_forbidden([("test", [("w0", "w0 y")])])
    outputs = []
    for workers in (1, 2):
        corpora = [TrainingCorpus("a", pairs[:150], weight=2), TrainingCorpus("b", pairs[150:], tag="<b>")]
        cleaned = clean_in(tmp_path, *corpora, clean=clean, forbidden=forbidden, workers=workers)
        outputs.append((cleaned.pairs, cleaned.tags, cleaned.report))
    assert outputs[0] == outputs[1]
    assert len(outputs[0][0]) > 20


def test_report_is_json(tmp_path: Path) -> None:
    report = clean_in(tmp_path, TrainingCorpus("a", [("a", "b"), ("", "b")], weight=2)).report.as_dict()
    assert json.loads(json.dumps(report)) == report
    assert (report["pairs_in"], report["pairs_out"], report["dropped"]["empty"]) == (2, 2, 1)
    assert report["corpora"][0]["pairs_kept"] == 1


# ------------------------------------------------------------------------------------------------- ratio of the lengths


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=1, max_size=60),
    st.sampled_from([1.2, 2.0, 3.0]),
    st.booleans(),
)
def test_max_ratio_is_relative_to_the_median_ratio(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[tuple[int, int]], max_ratio: float, duplicates: bool
) -> None:
    pairs = [("a b", "b a"), *((size * "a", other * "b") for size, other in sizes)]
    clean = Clean(max_ratio=max_ratio, drop_duplicates=duplicates)
    cleaned = clean_in(tmp_path_factory.mktemp("clean"), TrainingCorpus("a", pairs), clean=clean)
    report, typical = cleaned.report, cleaned.report.typical_ratio
    exact = statistics.median_low(len(target) / len(source) for source, target in pairs)
    assert typical == pytest.approx(exact, rel=6e-4)
    kept = []
    for source, target in pairs:
        expected, found = len(source) * math.sqrt(typical) + 10, len(target) / math.sqrt(typical) + 10
        if max(expected, found) / min(expected, found) <= max_ratio:
            kept.append((source, target))
    assert cleaned.pairs == (kept if not duplicates else list(dict.fromkeys(kept)))
    assert report.dropped["max_ratio"] == len(pairs) - len(kept)
    assert report.dropped["duplicate"] == len(kept) - len(cleaned.pairs)


def test_one_typical_ratio_is_used_for_all_corpora(tmp_path: Path) -> None:
    """Use a small corpus whose pairs are typical within that corpus but not compared with the large one."""
    large = [(f"{n:03} " + 96 * "a", f"{n:03} " + 46 * "b") for n in range(20)]
    small = [(f"{n:03} " + 16 * "a", f"{n:03} " + 196 * "b") for n in range(3)]
    cleaned = clean_in(tmp_path, TrainingCorpus("large", large), TrainingCorpus("small", small))
    assert cleaned.report.typical_ratio == pytest.approx(0.5, rel=1e-3)
    assert cleaned.pairs == large
    assert [counts.dropped["max_ratio"] for counts in cleaned.report.corpora] == [0, 3]
    for clean in (Clean(max_ratio=0.0), "none"):
        assert clean_in(
            tmp_path, TrainingCorpus("large", large), TrainingCorpus("small", small), clean=clean
        ).pairs == [*large, *small]


def test_short_lines_are_not_dropped_by_their_ratio(tmp_path: Path) -> None:
    talk = [("Yes.", "はい"), ("OK", "わかりました"), ("Thank you very much.", "どうも"), ("No!", "いいえ、違います")]
    text = [
        (f"This is sentence number {n}, and it is a plain one.", f"これは普通の文の{n}番目です。") for n in range(20)
    ]
    cleaned = clean_in(tmp_path, TrainingCorpus("a", [*talk, *text]), spaced=(True, False))
    assert cleaned.pairs == [*talk, *text]


def test_a_line_of_5000_characters_without_a_space_is_too_long(tmp_path: Path) -> None:
    pairs = [("a" * 5000, "b" * 5000), ("中" * 5000, "b b"), ("a", "文" * 5000), ("a b", "c d")]
    cleaned = clean_in(tmp_path, TrainingCorpus("a", pairs), spaced=(False, False))
    assert cleaned.pairs == [("a b", "c d")]
    assert cleaned.report.dropped["max_characters"] == 3


# Characters of a sentence per 100 characters of an English one, and the standard deviation of the logarithm of this
# ratio between sentences: measured on paragraphs of the UDHR, and on subtitles, which vary more.
WORDS = ["ein", "zwei", "drei", "the", "of", "and", "Haus", "lumière", "garçon", "Donaudampfschifffahrt", "un", "à"]


@pytest.mark.parametrize(
    ("target", "share"), [("ja", 0.45), ("zh", 0.31), ("th", 0.95), ("de", 1.15), ("km", 1.1), ("my", 1.4)]
)
def test_ordinary_text_is_kept(tmp_path: Path, target: str, share: float) -> None:
    """Clean sentences of 1 to 60 words; logarithms of length ratios have the standard deviation 0.3 of translations."""
    draw = random.Random(5)
    pairs = []
    for number in range(2000):
        source = " ".join(draw.choice(WORDS) for _ in range(min(60, max(1, int(draw.lognormvariate(2.6, 0.8))))))
        length = max(1, round(len(source) * share * draw.lognormvariate(0, 0.3)))
        pairs.append(
            (f"{source} {number}", "".join(draw.choice("あいうえお漢字仮名交じり文กขคง") for _ in range(length)))
        )
    cleaned = clean_in(tmp_path, TrainingCorpus("a", pairs), spaced=(True, target == "de"))
    assert len(cleaned.pairs) >= 0.97 * len(pairs)
    shuffled = [(source, pairs[(3 * place + 7) % len(pairs)][1]) for place, (source, _) in enumerate(pairs)]
    wrong = clean_in(tmp_path, TrainingCorpus("a", shuffled), spaced=(True, target == "de"))
    assert wrong.report.dropped["max_ratio"] > 0.1 * len(pairs)  # the rule drops wrong pairs


UDHR = Path(__file__).parents[3].parent / "shared" / "data" / "udhr"


@pytest.mark.skipif(not UDHR.is_dir(), reason="../shared/data/udhr is not here")
def test_the_udhr_is_kept_between_english_and_23_languages(tmp_path: Path) -> None:
    texts = {path.suffix[1:]: path.read_text(encoding="utf-8").splitlines() for path in sorted(UDHR.glob("udhr.*"))}
    assert len(texts) == 24
    lost = {}
    for source, target in (pair for pair in itertools.permutations(texts, 2) if "en" in pair):
        spaced = (writes_spaces(source), writes_spaces(target))
        pairs = list(zip(texts[source], texts[target], strict=True))
        report = clean_in(tmp_path, TrainingCorpus("udhr", pairs), spaced=spaced).report
        if report.pairs_out < 0.97 * len(pairs):
            lost[source, target] = report.dropped
    assert lost == {}


MULTI30K = UDHR.parent / "multi30k" / "raw"


@pytest.mark.skipif(not MULTI30K.is_dir(), reason="../shared/data/multi30k is not here")
@pytest.mark.parametrize(("source", "target"), [("en", "de"), ("de", "fr")])
def test_multi30k_is_kept(tmp_path: Path, source: str, target: str) -> None:
    sides = (gzip.decompress((MULTI30K / f"train.{lang}.gz").read_bytes()).decode() for lang in (source, target))
    pairs = list(zip(*(side.splitlines() for side in sides), strict=True))
    assert len(clean_in(tmp_path, TrainingCorpus("multi30k", pairs)).pairs) >= 0.999 * len(pairs)


# ------------------------------------------------------------------------------------------------------------ warnings


def warned(tmp_path: Path, *corpora: TrainingCorpus, clean: Any = None) -> list[str]:
    return list(clean_in(tmp_path, *corpora, clean=clean).report.warnings())


def test_a_corpus_that_loses_many_pairs_gives_a_warning_with_three_examples(tmp_path: Path) -> None:
    good = [(f"a b {n}", f"c d {n}") for n in range(60)]
    bad = [(f"{n} \x1b[31m{'w' * 100}", "c") for n in range(11)]
    assert warned(tmp_path, TrainingCorpus("x", good + bad[:6]), clean=Clean(max_characters=50)) == []
    lines = warned(tmp_path, TrainingCorpus("x", [*good, *bad, ("", "z")]), clean=Clean(max_characters=50))
    assert lines[0] == "warning: x: 12 of 72 pairs dropped (17%): max_characters 11 (15%), empty 1 (1%)"
    assert lines[1:] == [f"  max_characters: '{n} \\x1b[31m{'w' * 53}...' -> 'c'" for n in range(3)]


def test_warnings_have_examples_of_rules_applied_to_all_pairs(tmp_path: Path) -> None:
    good = [(f"a b {n} {'x' * 50}", f"c d {n} {'x' * 50}") for n in range(40)]
    unfit = [(f"u {n}", "v" * 300) for n in range(5)]
    lines = warned(tmp_path, TrainingCorpus("x", [*good, *unfit, *good[:6]]))
    assert lines[0] == "warning: x: 11 of 51 pairs dropped (22%): duplicate 6 (12%), max_ratio 5 (10%)"
    assert lines[1:] == [f"  duplicate: 'a b {n} {'x' * 50}' -> 'c d {n} {'x' * 50}'" for n in range(3)]
    assert warned(tmp_path, TrainingCorpus("x", [*good, *unfit[:4], *good[:4]])) == []  # 17% in total, 8% by each rule


def test_warnings_are_given_for_each_corpus_and_for_all_together(tmp_path: Path) -> None:
    kept = [(f"a {n}", f"b {n}") for n in range(200)]
    large, small = TrainingCorpus("large", kept[:100]), TrainingCorpus("small", [*kept[100:], ("", "z"), ("", "z")])
    bad = TrainingCorpus("bad", [("", "z")] * 100)
    assert warned(tmp_path, large, small) == []
    assert warned(tmp_path, large, small, bad) == [
        "warning: bad: 100 of 100 pairs dropped (100%): empty 100 (100%)",
        *["  empty: '' -> 'z'"] * 3,
        "warning: all corpora: 102 of 302 pairs dropped (34%): empty 102 (34%)",
    ]


# ------------------------------------------------------------------------------------------------------------ failure


def assert_untouched(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {"source", "target"}
    assert (folder / "source").read_text() == "old source\n"
    assert (folder / "target").read_text() == "old target\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the output of an earlier run."""
    (tmp_path / "source").write_text("old source\n")
    (tmp_path / "target").write_text("old target\n")
    return tmp_path


def test_dropping_every_pair_is_an_error(folder: Path) -> None:
    pairs = [("", "a"), ("a", "a"), ("b", "b"), (2501 * "w", "a")]
    with pytest.raises(UserError) as error:
        clean_in(folder, TrainingCorpus("a", pairs))
    assert str(error.value) == (
        "cleaning leaves none of 4 training pairs; dropped: copy 2 (50%), max_characters 1 (25%), empty 1 (25%); "
        "copy dropped 'a', for example"
    )
    assert_untouched(folder)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_while_reading_leaves_the_earlier_output(folder: Path, workers: int) -> None:
    def pairs() -> Iterator[tuple[str, str]]:
        yield "a", "b"
        raise UserError("FILE line 2: not UTF-8")

    with pytest.raises(UserError, match="FILE line 2"):
        clean_in(folder, TrainingCorpus("a", pairs()), workers=workers)
    assert_untouched(folder)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("side", ["source", "target", "tags"])
def test_a_full_disk_leaves_the_earlier_output(folder: Path, side: str) -> None:
    (folder / f"{side}.part").symlink_to("/dev/full")  # every write to it fails as on a full disk
    with pytest.raises(UserError, match="the disk is full"):
        clean_in(folder, TrainingCorpus("a", [("a", "b")], tag="<a>"))
    assert_untouched(folder)


def test_files_of_a_killed_run_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "digests.0").write_bytes(b"half a record")
    (tmp_path / "source.part").write_text("half a li")
    assert clean_in(tmp_path, TrainingCorpus("a", [("a", "b")])).pairs == [("a", "b")]


def test_a_call_that_goes_on_after_an_interruption_finds_the_same_duplicates_and_overlaps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdmt.corpus.first_pass.CHUNK_PAIRS", 3)
    long = "one two three four five six seven eight nine ten eleven"
    pairs = [(f"{long} {n % 4}", f"{n % 3} {long}") for n in range(20)] + numbered("a", 20)
    held_out = [("b c d e f", "x")]
    index = index_side([("test.source", [held_out[0][0]])], ngram=5, overlap=0.8)
    pairs[5] = ("so b c d e f", "a target")
    options: dict[str, Any] = {
        "clean": Clean(near_duplicates=0.9, max_ratio=0.0),
        "forbidden": dataclasses.replace(collect_forbidden([("test", held_out)]), overlaps=NgramOverlaps(index, index)),
    }

    def interrupted() -> Iterator[tuple[str, str]]:
        yield from pairs[:25]
        raise KeyboardInterrupt

    (tmp_path / "whole").mkdir()
    (tmp_path / "again").mkdir()
    whole = clean_in(tmp_path / "whole", TrainingCorpus("a", pairs, share=0.5), **options)
    assert whole.report.dropped["near_duplicate"] > 3
    assert whole.report.corpora[0].held_out_overlaps == {"test.source": {"1": 1}}
    with pytest.raises(KeyboardInterrupt):
        clean_in(tmp_path / "again", TrainingCorpus("a", interrupted()), resume=True, **options)
    assert (tmp_path / "again" / "work" / "0.log").stat().st_size > 0
    again = clean_in(tmp_path / "again", TrainingCorpus("a", pairs, share=0.5), resume=True, **options)
    assert (again.pairs, again.report) == (whole.pairs, whole.report)


# ------------------------------------------------------------------------------------------------------------ languages


def test_languages_are_judged_before_held_out_sentences_are_looked_for(tmp_path: Path) -> None:
    pytest.importorskip("py3langid", reason="an extra")
    english = [f"The committee will meet again in week {n} of the year." for n in range(4)]
    german = [f"Der Ausschuss trifft sich wieder in Woche {n} des Jahres." for n in range(4)]
    french = "La commission se réunira de nouveau la semaine prochaine."
    pairs = [(english[0], german[0]), (german[1], english[1]), (english[2], french), (german[3], english[3])]
    done = clean_in(
        tmp_path,
        TrainingCorpus("a", pairs),
        clean=Clean.model_validate({"rules": ["language"]}),
        forbidden=collect_forbidden([("test", [(english[3], "?")])]),
        languages=("en", "de"),
    )
    assert done.pairs == [(english[0], german[0]), (english[1], german[1])]
    (corpus,) = done.report.corpora
    assert (corpus.dropped["language"], corpus.dropped["held_out"], corpus.lines_changed["swapped"]) == (1, 1, 1)
    assert corpus.examples["language"] == [(english[2], french)]
    assert corpus.pairs_in == corpus.pairs_kept + sum(corpus.dropped.values())


def test_swapped_sides_are_normalised_in_their_own_languages(tmp_path: Path) -> None:
    pytest.importorskip("py3langid", reason="an extra")
    # Moses puts a comma before the closing quotation mark in English, and after it in German
    english = 'The chairman said "we agree", and then the committee went home.'
    german = 'Der Vorsitzende sagte "wir stimmen zu," und dann ging der Ausschuss nach Hause.'
    expected = (english.replace('",', ',"'), german.replace(',"', '",'))
    for rules in (["punctuation", "language"], ["language"]):
        clean = Clean.model_validate({"rules": rules, "min_words": 1})
        done, swapped = (
            clean_in(tmp_path, TrainingCorpus("a", [pair]), clean=clean, languages=("en", "de"))
            for pair in ((english, german), (german, english))
        )
        assert done.pairs == swapped.pairs == [expected if "punctuation" in rules else (english, german)]
        changed, of_swapped = (each.report.corpora[0].lines_changed for each in (done, swapped))
        assert of_swapped == {**changed, "swapped": 1}
        assert changed.get("punctuation", 0) == (2 if "punctuation" in rules else 0)


# ------------------------------------------------------------------------------------------------------ chosen rules


def with_rules(rules: Any, **settings: Any) -> Clean:
    return Clean.model_validate({"rules": rules, **settings})


def test_chosen_rules_drop_pairs_and_are_counted(tmp_path: Path) -> None:
    pairs = [("in 1990", "im Jahr 1990"), ("in 1990", "im Jahr 1991"), (f"a {'x' * 20} 1", "b 2"), ("c", "c")]
    clean = with_rules([{"longest_word": {"max": 15}}, "numbers"])
    cleaned = clean_in(tmp_path, TrainingCorpus("a", pairs), clean=clean)
    assert cleaned.pairs == pairs[:1]
    dropped = cleaned.report.dropped
    assert {rule: count for rule, count in dropped.items() if count} == {"copy": 1, "longest_word": 1, "numbers": 1}
    assert list(dropped) == [
        *("empty", "min_words", "max_words", "max_characters", "copy", "longest_word", "numbers"),
        *("held_out", "max_ratio", "duplicate"),
    ]
    examples = cleaned.report.dropped_examples()
    assert examples["a"]["numbers"] == [pairs[1]]


def test_chosen_rules_change_lines_and_are_counted(tmp_path: Path) -> None:
    pairs = [("AT&amp;T  x", "<b>AT&T</b> x"), ("plain", "schÃ¶n"), ("a&nbsp;b", "c<br>d")]
    clean = with_rules(["mojibake", "entities", "tags"])
    cleaned = clean_in(tmp_path, TrainingCorpus("a", pairs), clean=clean)
    assert cleaned.pairs == [("plain", "schön"), ("a b", "c d")]  # of the first pair, both sides are equal
    changed = cleaned.report.corpora[0].lines_changed
    assert changed == {"invisible": 0, "unicode": 0, "whitespace": 2, "mojibake": 1, "entities": 2, "tags": 2}


def test_a_corpus_may_have_rules_of_its_own(tmp_path: Path) -> None:
    pairs = [("a b 1", "c d 2"), ("e f g", "h i j"), ("k", "l " * 30 + "m")]
    clean = with_rules(["numbers"], max_words=20)
    own = clean.with_changes({"numbers": False, "max_words": 2, "max_ratio": 0.0})
    corpora = [TrainingCorpus("a", pairs), TrainingCorpus("b", [(f"x {s}", f"x {t}") for s, t in pairs], clean=own)]
    cleaned = clean_in(tmp_path, *corpora, clean=clean)
    assert cleaned.pairs == pairs[1:2]
    first, second = (counts.dropped for counts in cleaned.report.corpora)
    assert (first["numbers"], first["max_words"]) == (1, 1)
    assert "numbers" not in second
    assert second["max_words"] == 3
    own = clean.with_changes({"numbers": False, "max_words": 0, "max_ratio": 0.0})
    corpora[1] = dataclasses.replace(corpora[1], clean=own)
    cleaned = clean_in(tmp_path, *corpora, clean=clean)
    assert len(cleaned.pairs) == 4
    assert cleaned.report.dropped["numbers"] == 1


def test_a_copy_is_not_dropped_from_text_of_one_language(tmp_path: Path) -> None:
    lines = [("ab cd 1", "ab cd 1"), ("ef gh", "ef gh")]
    clean = with_rules("default")
    assert clean_in(tmp_path, TrainingCorpus("a", lines), clean=clean.for_lines()).pairs == lines
    assert clean_in(tmp_path, TrainingCorpus("a", [*lines, ("ij", "kl")]), clean=clean).pairs == [("ij", "kl")]


def test_chosen_rules_do_not_depend_on_the_number_of_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdmt.corpus.first_pass.CHUNK_PAIRS", 7)
    pairs = [(f"word {n} &amp; {n % 7}", f"Wort {n + (n % 5 == 0)} & {n % 7} {'ö' * (n % 3)}") for n in range(60)]
    languages = ("en", "de")
    outputs = []
    for workers in (1, 2):
        corpora = [TrainingCorpus("a", pairs[:40]), TrainingCorpus("b", pairs[40:], clean=with_rules("crawled"))]
        cleaned = clean_in(tmp_path, *corpora, clean=with_rules("default"), workers=workers, languages=languages)
        outputs.append((cleaned.pairs, cleaned.report))
    assert outputs[0] == outputs[1]
    assert 0 < len(outputs[0][0]) < 60


def test_ten_examples_of_each_rule_are_reported_and_three_shown(tmp_path: Path) -> None:
    pairs = [*[(f"{n} {'w' * 400}", "c") for n in range(30)], *[("same x", "gleich x")] * 15, ("a", "b")]
    cleaned = clean_in(tmp_path, TrainingCorpus("x", pairs), clean=Clean(max_characters=350))
    examples = cleaned.report.dropped_examples()["x"]
    assert [source[:3].strip("w ") for source, _ in examples["max_characters"]] == [str(n) for n in range(10)]
    assert all(len(source) == 203 and source.endswith("w...") for source, _ in examples["max_characters"])
    assert examples["duplicate"] == [("same x", "gleich x")] * 10
    assert sum(line.startswith("  max_characters") for line in cleaned.report.warnings()) == 3


def test_a_line_of_one_language_is_not_its_own_exchanged_translation(tmp_path: Path) -> None:
    clean = with_rules([{"language": {"min": 1.0, "min_letters": 1}}])
    lines = [(line, line) for line in ("This is a house in the old town.", "Dies ist ein Haus in der Altstadt.")]
    corpus = TrainingCorpus("a", [*lines, ("1 2", "1 2")])
    cleaned = clean_in(tmp_path, corpus, clean=clean.for_lines(), languages=("en", "en"))
    assert cleaned.report.dropped["language"] == 2
    assert "swapped" not in cleaned.report.corpora[0].lines_changed
