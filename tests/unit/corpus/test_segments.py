"""Tests of sentences in markup: SGM, IWSLT's XML, WMT XML and tagged text. sacreBLEU's readers are the reference."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from corpus_formats import sgm, wmt_xml
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.dataset.fake_sgml import FakeSGMLDataset
from sacrebleu.dataset.wmt_xml import WMTXMLDataset

from kdmt.corpus.segments import Place, has_segments, is_tagged, read_segments
from kdmt.corpus.text_files import open_bounded_lines, open_lines
from kdmt.corpus.unreadable import MAX_LINE_BYTES, NOT_UTF8, TOO_LONG, Unreadable
from kdmt.errors import UserError

NEWSTEST = """<srcset setid="newstest2009" srclang="any">
<doc sysid="ref" docid="napi.hu" genre="news" origlang="hu">
<hl>
<seg id="1">Prague  Stock Market falls &amp; rises</seg>
</hl>
<p>
<seg id="2"> R&D: 3 < 5, "&#8217;&#x2019;" </seg>
<seg id="3">two
lines</seg>
</p>
</doc>
<doc sysid="ref" docid="b" genre="news" origlang="en">
<p>
<seg id="1"></seg>
</p>
</doc>
</srcset>
"""
IWSLT = """<?xml version="1.0" encoding="UTF-8"?>
<mteval>
<!-- <seg id="9">a comment</seg> -->
<refset setid="iwslt2014-dev2010" srclang="german" trglang="english">
<doc docid="69" genre="lectures">
<url>http://www.ted.com/talks/69</url>
<title>A title</title>
<seg id="1"> One. </seg>
<seg id="2">Two.</seg>
</doc>
</refset>
</mteval>
"""
WMT = """<?xml version='1.0' encoding='utf-8'?>
<dataset id="newstest2021.en-de">
  <collection id="general">
    <doc origlang="en" id="one">
      <src lang="en"><p><seg id="10">ten</seg><seg id="2">two &amp; more</seg></p></src>
      <ref lang="de" translator="A"><p><seg id="2">zwei A</seg><seg id="10">zehn A</seg></p></ref>
      <ref lang="de" translator="B"><p><seg id="2">zwei B</seg></p></ref>
      <hyp lang="de" system="X"><p><seg id="2">zwei X</seg><seg id="10">zehn X</seg></p></hyp>
    </doc>
    <doc origlang="en" id="tests" testsuite="suite">
      <src lang="en"><p><seg id="1">of a test suite</seg></p></src>
    </doc>
    <doc origlang="en" id="two">
      <src lang="en"><p><seg id="1">only B</seg><seg id="2">without a reference</seg></p></src>
      <ref lang="de" translator="B"><p><seg id="1">nur B</seg></p></ref>
      <hyp lang="de" system="X"><p><seg id="1">nur X</seg><seg id="2">ohne X</seg></p></hyp>
    </doc>
  </collection>
</dataset>
"""


def segments(content: str | bytes, part: str | None = None) -> list[str | Unreadable]:
    data = content if isinstance(content, bytes) else content.encode()
    return list(read_segments(io.BytesIO(data), "file", part, Place()))


def test_sentences_of_sgm_are_read_with_their_entities() -> None:
    assert has_segments(NEWSTEST.encode())
    assert segments(NEWSTEST) == [
        "Prague Stock Market falls & rises",
        'R&D: 3 < 5, "’’"',
        "two lines",
        "",
    ]


def test_places_are_documents_and_numbers() -> None:
    place = Place()
    places = [(place.document, place.segment) for _ in read_segments(io.BytesIO(NEWSTEST.encode()), "f", None, place)]
    assert places == [("napi.hu", "1"), ("napi.hu", "2"), ("napi.hu", "3"), ("b", "1")]


def test_iwslt_xml_gives_its_sentences_only() -> None:
    assert has_segments(IWSLT.encode())
    assert segments(IWSLT) == segments(IWSLT, "ref") == ["One.", "Two."]


def test_sentences_of_sgm_are_those_of_sacrebleu_up_to_entities(tmp_path: Path) -> None:
    (tmp_path / "a.sgm").write_bytes(sgm([" two  spaces ", "a\u00a0b", "plain", "", "tab\tend"]))
    FakeSGMLDataset("x")._convert_format(str(tmp_path / "a.sgm"), str(tmp_path / "a.txt"))
    expected = (tmp_path / "a.txt").read_text(encoding="utf-8").split("\n")[:-1]
    assert list(open_lines(tmp_path / "a.sgm")) == expected


def test_sentences_of_wmt_xml_are_those_of_sacrebleu(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text(WMT, encoding="utf-8")
    with path.open("rb") as file:
        fields = WMTXMLDataset._unwrap_wmt21_or_later(file)
    for part, key in (("src", "src"), ("ref:A", "ref:A"), ("ref:B", "ref:B"), ("ref", "ref:A"), ("hyp:X", "X")):
        found = list(open_bounded_lines(path, member=None, name="a", part=part))
        assert found == fields[key], part
    assert segments(WMT, "ref:B") == ["zwei B", "", "nur B"]
    assert segments(WMT, "src") == ["two & more", "ten", "only B"]


def test_a_file_without_references_has_its_sources() -> None:
    assert segments(re.sub(r"(?s)<(ref).*?</\1>", "", WMT), "src") == [
        *("two & more", "ten", "only B", "without a reference"),
    ]


def test_the_part_of_a_file_with_several_is_required() -> None:
    listed = "file: it has the parts src, ref:A, ref:B, hyp:X: give one of them as 'part'"
    with pytest.raises(UserError) as caught:
        segments(WMT)
    assert str(caught.value) == listed
    for part in ("ref:C", "hyp:A"):
        with pytest.raises(UserError, match=f"file: it has no part '{part}', but src, ref:A, ref:B, hyp:X"):
            segments(WMT, part)
    both = f"<mteval>\n{NEWSTEST}{NEWSTEST.replace('srcset', 'refset')}</mteval>\n"
    assert segments(both, "src") == segments(both, "ref") == segments(NEWSTEST)
    with pytest.raises(UserError, match=r"it has the parts src, ref:ref: give one of them"):
        segments(both)
    two = NEWSTEST.replace("srcset", "refset") + NEWSTEST.replace("srcset", "refset").replace('"ref"', '"other"')
    with pytest.raises(UserError, match=r"it has the parts ref:ref, ref:other"):
        segments(two)
    assert segments(two, "ref:other") == segments(NEWSTEST)


@pytest.mark.parametrize("content", [NEWSTEST, IWSLT, WMT])
def test_any_truncation_is_noticed(content: str, tmp_path: Path) -> None:
    path, part = tmp_path / "a", "src" if content is WMT else None
    end = max(content.rindex(">", 0, content.rindex("</")) + 1, 0)
    for stop in range(content.index("<seg"), end, 7):
        path.write_text(content[:stop], encoding="utf-8")
        with pytest.raises(
            UserError, match=r"a: truncated or damaged after sentence \d+: (</\w+> is missing|sentence)"
        ):
            list(open_bounded_lines(path, member=None, name="a", part=part))


def test_sentences_that_cannot_be_read_are_marked() -> None:
    lines = ["a", "b" * (MAX_LINE_BYTES + 1), "c", "d\xff"]
    content = sgm(lines).replace("d\xff".encode(), b"d\xff")
    assert segments(content) == ["a", TOO_LONG, "c", NOT_UTF8]
    with pytest.raises(EOFError, match=r"sentence 1 has no </seg>"):
        segments(b"<srcset><doc docid='a'><seg id=1>a<seg id=2>b</seg></doc></srcset>")


sentence = st.text(st.characters(codec="utf-8", exclude_categories=("Cc",), exclude_characters="\ufeff"), max_size=40)


@given(st.lists(sentence, min_size=1, max_size=12), st.integers(1, 60))
def test_text_is_the_same_after_sgm_and_xml(lines: list[str], size: int) -> None:
    """Read in small blocks, so that tags and characters are cut anywhere."""

    class Slow(io.BytesIO):
        def read(self, _: int | None = -1) -> bytes:
            return super().read(size)

    expected = [" ".join(line.split()) for line in lines]
    assert list(read_segments(Slow(sgm(lines)), "f", None, Place())) == expected
    xml = wmt_xml(lines, {"ref lang='de' translator='A'": ["x"] * len(lines)})
    assert list(read_segments(Slow(xml), "f", "src", Place())) == expected


def test_tagged_text_is_that_of_the_script_of_fairseq(tmp_path: Path) -> None:
    lines = (
        *("<url>http://www.ted.com/talks/1</url>", "<keywords>talks, science</keywords>", "<speaker>A. B.</speaker>"),
        *("<talkid>1</talkid>", "<title> A title </title>", "<description>Its description</description>"),
        *(" And we > you. ", "", "R&D", "<reviewer></reviewer>", "<translator>C</translator>"),
        *("<url>http://x</url>", "<title>Next</title>", "x <url> y"),
    )
    path = tmp_path / "train.tags.de-en.en"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    assert is_tagged(path.read_bytes())
    assert list(open_lines(path)) == [
        *("A title", "Its description", "And we > you.", "", "R&D", "Next", "x <url> y"),
    ]
    assert not is_tagged(b"<url> is a site\n")


def test_the_memory_of_a_document_and_the_number_of_open_sets_have_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdmt.corpus.segments._MAX_DOCUMENT_BYTES", 2_000)
    sentence = '<seg id="1">' + "a" * 1_000 + "</seg>"
    documents = [f'<doc id="{number}"><src>{sentence}</src></doc>' for number in "ab"]
    assert segments(f"<dataset>{''.join(documents)}</dataset>", "src") == ["a" * 1_000] * 2
    for content in (f"<src>{sentence}{sentence}", "".join(f'<ref translator="{number}">' for number in range(20))):
        with pytest.raises(EOFError, match="document c needs more than 0 MiB"):
            segments(f'<dataset><doc id="c">{content}')
    with pytest.raises(EOFError, match="more than 100 sets are open"):
        segments("<srcset>" * 101)


def test_attributes_are_found_after_long_words() -> None:
    """Check tags with much text that is no attribute; searching it in quadratic time would take many minutes."""
    words = f"{'x' * 90_000} a = 1 {'y' * 5_000}"
    content = "".join(f'<seg {words} id="{n}">text {n}</seg>' for n in range(40))
    place = Place()
    file = io.BytesIO(f'<srcset><doc docid="d">{content}</doc></srcset>'.encode())
    found = [(text, place.segment) for text in read_segments(file, "a.sgm", None, place)]
    assert found == [(f"text {n}", str(n)) for n in range(40)]


def test_comments_are_left_out_and_hostile_ones_are_read_quickly() -> None:
    body = '<!-- <seg id="8">x</seg> --><seg id="1">a<!-- b -->c<!-->d--></seg>'
    assert segments(f'<srcset><doc docid="a">{body}</doc></srcset>') == ["ac"]
    assert not has_segments(b"<!---->" * 580)
    assert not has_segments(b"<!--" * 1000)
    with pytest.raises(EOFError, match=r"</srcset> is missing"):
        segments('<srcset><doc docid="a"><seg id="1">a</seg>' + "<!--" * 200_000 + "</doc></srcset>")
