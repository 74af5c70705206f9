"""The data report of the prepare stage: its content equals counts made from the files, and it repeats."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_pipeline import WORDS, kdmt, make_pairs, read_lines, run_stages, settings, to_yaml, write_lines
from tiny_prepare import MADE, change, facts, read_bin

from kdmt.config import Prepare, Provenance
from kdmt.config.lock import LockedDataset
from kdmt.corpus.prepared import PreparedCorpus
from kdmt.stages import prepare_work
from kdmt.stages.prepare_report import PAGE, Collected, write_report


def page() -> str:
    return (MADE / PAGE).read_text(encoding="utf-8")


def cells(caption: str) -> list[list[str]]:
    """Return the cells of the lines of a table, without its headings."""
    table = page().split(f"<caption>{caption}</caption>")[1].split("</table>")[0]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row, flags=re.DOTALL) for row in table.split("<tr>")]
    return [[html.unescape(cell) for cell in row] for row in rows if row]


@pytest.mark.usefixtures("pipeline")
def test_the_figures_are_those_of_the_files() -> None:
    run_stages("prepare")
    assert "<title>Data report: tiny (en-de)</title>" in page()
    for line, lang in zip(cells("training text"), ("en", "de"), strict=True):
        sentences = read_bin("train", lang)
        tokens = sum(len(sentence.split()) for sentence in sentences)
        text = read_lines(MADE / f"train.{lang}")
        words = sum(len(each.split()) for each in text)
        characters = sum(map(len, text))
        assert line[:5] == [
            *(lang, f"{tokens:,}", f"{tokens / len(sentences):.1f}", f"{tokens / words:.2f}"),
            f"{characters / tokens:.2f}",
        ]
        assert facts()[lang]["tokens"] == tokens + len(sentences)  # with </s>
        used = len({token for sentence in sentences for token in sentence.split()})
        assert line[7] == f"{100 * used / int(line[6]):.1f}%"
    assert [line[:3] for line in cells("validation and test sets")] == [
        *(["valid", "en", "6"], ["valid", "de", "6"], ["test", "en", "5"], ["test", "de", "5"])
    ]


@pytest.mark.usefixtures("pipeline")
def test_dropped_pairs_are_shown_with_their_corpus_rule_and_overlaps() -> None:
    pairs = list(dict.fromkeys(make_pairs(120, seed=5)))[:60]
    valid = list(zip(*(read_lines(Path(f"text/valid.{lang}")) for lang in ("en", "de")), strict=True))
    hostile = ("<b onclick=alert(1)>ba</b> \x07\u202e", "")
    more = [*pairs[:30], hostile, valid[0], ("gi", "gi")]
    for name, own in (("train", pairs), ("more", more)):
        for side, lang in enumerate(("en", "de")):
            write_lines(Path(f"text/{name}.{lang}"), [pair[side] for pair in own])
    corpora = [
        {"source": {"path": f"text/{name}.en"}, "target": {"path": f"text/{name}.de"}} for name in ("train", "more")
    ]
    change(train=[corpora[0], {**corpora[1], "tag": "<more>"}], tokenizer={"vocab_size": 30})
    run_stages("prepare")
    [first, second] = cells("dropped pairs")
    assert first[0] == "train.0 text/train.en"
    assert second[0] == "train.1 text/more.en"
    heads = re.findall(r"<th[^>]*>(.*?)</th>", page().split("<caption>dropped pairs</caption>")[1].split("</tr>")[0])
    dropped = {rule: cell.split()[0] for rule, cell in zip(heads[1:], second[1:], strict=True)}
    assert dropped["duplicate"] == "30"
    assert dropped["empty"] == dropped["copy"] == "1"
    assert ["train.1 text/more.en", "train.0 text/train.en", "30"] in cells("pairs that occur before")
    assert ["train.1 text/more.en", "valid.source", "1"] in cells("dropped pairs with text of a held-out set")
    assert "&lt;b onclick=alert(1)&gt;ba&lt;/b&gt; \\u0007\\u202e" in page()
    assert "<b onclick" not in page()


@pytest.mark.usefixtures("pipeline")
def test_sources_and_targets_that_occur_before_are_on_the_page_if_they_are_dropped() -> None:
    pairs = list(zip(*(read_lines(Path(f"text/train.{lang}")) for lang in ("en", "de")), strict=True))
    more = [(pairs[0][0], "be be bu"), (pairs[1][0], "bi be bu"), ("bo bo bi bo", pairs[2][1])]
    for side, lang in enumerate(("en", "de")):
        write_lines(Path(f"text/more.{lang}"), [pair[side] for pair in more])
    corpora = [
        {"source": {"path": f"text/{name}.en"}, "target": {"path": f"text/{name}.de"}} for name in ("train", "more")
    ]
    change(train=corpora, clean={"duplicates": "either"}, tokenizer={"vocab_size": 30})
    run_stages("prepare")
    shared = json.loads((MADE / "report.json").read_text(encoding="utf-8"))["shared"]
    assert [counts[1][0] for counts in (shared["source"], shared["target"])] == [2, 1]
    for side, count in (("source", "2"), ("target", "1")):
        found = cells(f"pairs whose {side} occurs before")
        assert ["train.1 text/more.en", "train.0 text/train.en", count] in found


@pytest.mark.usefixtures("pipeline")
def test_warnings_of_the_stage_are_on_the_page() -> None:
    lines = read_lines(Path("text/train.en"))
    write_lines(Path("text/train.en"), ["" if number % 2 else line for number, line in enumerate(lines)])
    [prepared] = run_stages("prepare", sets=["prepare.tokenizer.vocab_size=28"])
    [warning] = [line for line in prepared.err.splitlines() if line.startswith("prepare: warning: ")]
    assert f"<li>{html.escape(warning.removeprefix('prepare: warning: '))}</li>" in page()


@pytest.mark.usefixtures("pipeline")
def test_monolingual_text_is_on_the_page() -> None:
    write_lines(Path("text/mono.en"), [*WORDS, "", "ba be bi"])
    write_lines(Path("text/mono.de"), ["ok uk ik"])
    change(monolingual=[{"path": "text/mono.en"}], monolingual_target=[{"path": "text/mono.de"}])
    run_stages("prepare")
    assert "<td>monolingual.0</td><td>text/mono.en</td>" in page()
    assert "<td>monolingual_target.0</td><td>text/mono.de</td>" in page()
    dropped = ["monolingual.0 text/mono.en", "1 (9.1%)"], ["monolingual_target.0 text/mono.de", "0"]
    assert cells("dropped pairs") == [["train.0 text/train.en", "0"], *dropped]


@pytest.mark.usefixtures("pipeline")
def test_the_page_repeats_and_is_checked_as_an_output() -> None:
    run_stages("prepare")
    first = page()
    assert "prepare: up to date" in kdmt("prepare", "tiny.yaml").err
    (MADE / PAGE).write_text("changed", encoding="utf-8")
    run_stages("prepare")  # the stage is made again
    assert page() == first


@pytest.mark.usefixtures("pipeline")
def test_a_run_of_an_earlier_version_without_the_page_is_up_to_date() -> None:
    run_stages("prepare")
    manifest = MADE / "manifest.json"
    manifest.write_text(re.sub(r'\n *"report\.html": "\w+",?', "", manifest.read_text(encoding="utf-8")))
    (MADE / PAGE).unlink()
    assert "prepare: up to date" in kdmt("prepare", "tiny.yaml").err


@pytest.mark.usefixtures("pipeline")
def test_languages_are_shown_if_the_language_rule_is_used() -> None:
    pytest.importorskip("py3langid", reason="needs the extra 'language-id'")
    document = settings()
    document["prepare"]["clean"] = {"rules": [{"language": {"min": 0.0, "min_letters": 4}}]}
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    run_stages("prepare")
    found = re.findall(r"<caption>(found in [\d,]+ lines of the \w+ side)</caption>", page())
    assert len(found) == 2
    for caption in found:
        lines = cells(caption)
        assert sum(int(count) for _, count, _ in lines) <= int(re.findall(r"\d+", caption)[0])
        assert [int(count) for _, count, _ in lines] == sorted((int(count) for _, count, _ in lines), reverse=True)


@pytest.mark.usefixtures("pipeline")
def test_the_name_and_licence_of_a_locked_data_set_are_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = LockedDataset("opus", "Tiny/v1", ("en", "de"), {}, licence="CC BY 2.0 <x>")

    def write_with_lock(corpus: PreparedCorpus, settings: Prepare, collected: Collected) -> None:
        write_report(corpus, settings, replace(collected, provenance=Provenance(datasets={"prepare.train.0": dataset})))

    monkeypatch.setattr(prepare_work, "write_report", write_with_lock)
    run_stages("prepare")
    assert page().count(f"<td>train.0 ({dataset.name})</td>") == 2  # in the tables of sources and of kept pairs
    assert "<td>CC BY 2.0 &lt;x&gt;</td>" in page()
    assert page().count("<td>not known</td>") == 2  # valid and test
