"""Tests of translation units of TMX files."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from corpus_formats import tmx
from hypothesis import given
from hypothesis import strategies as st

from kdmt.corpus.archives import Position
from kdmt.corpus.rows import LeftOut, MalformedRow, ScoredPair
from kdmt.corpus.tmx import read_units
from kdmt.corpus.unreadable import MAX_LINE_BYTES
from kdmt.errors import UserError
from kdmt.languages import Direction

HEAD = '<?xml version="1.0" encoding="utf-8"?>\n<tmx version="1.4">\n<header srclang="en"/>\n<body>\n'
END = "</body>\n</tmx>\n"


def rows(
    content: str | bytes, source: str = "en", target: str = "de", prop: str | None = None
) -> list[tuple[int, ScoredPair] | MalformedRow | LeftOut]:
    data = content if isinstance(content, bytes) else content.encode()
    file = io.BytesIO(data)
    return list(read_units(file, name="a.tmx", direction=Direction(source, target), prop=prop, position=Position()))


def pairs(content: str | bytes, source: str = "en", target: str = "de") -> list[tuple[str, str]]:
    return [(row[1].source, row[1].target) for row in rows(content, source, target) if isinstance(row, tuple)]


def unit(*variants: tuple[str, str], before: str = "") -> str:
    return f"<tu>{before}" + "".join(f'<tuv xml:lang="{lang}">{seg}</tuv>' for lang, seg in variants) + "</tu>\n"


def segment(text: str) -> str:
    return f"<seg>{text}</seg>"


def test_inline_markup_is_removed_or_kept_as_the_standard_says() -> None:
    english = (
        'The <hi type="b">big <hi>red</hi></hi> <bpt i="1">&lt;b&gt;<sub>of a footnote</sub></bpt>house<ept i="1">'
        '&lt;/b&gt;</ept><ph x="1">&lt;br/&gt;</ph><it pos="begin">{\\i</it> &amp; <ut>u</ut>garden'
    )
    content = HEAD + unit(("en", segment(english)), ("de", segment("\n  ein\n  Haus <![CDATA[<&>]]>\n"))) + END
    assert pairs(content) == [("The big red house & garden", "ein Haus <&>")]


def test_languages_match_as_their_subtags_allow() -> None:
    content = (
        HEAD
        + unit(("EN-gb", segment("colour")), ("fr", segment("couleur")), ("de-AT", segment("Farbe")))
        + unit(("en-US", segment("color")), ("en-GB", segment("colour")), ("de", segment("Farbe")))
        + unit(("de", segment("nur deutsch")))
        + unit(("??", segment("x")), ("de", segment("Farbe")))
        + '<tu><tuv lang="en"><seg>old</seg></tuv><tuv lang="de"><seg>alt</seg></tuv></tu>\n'
        + END
    )
    assert pairs(content) == [("colour", "Farbe"), ("color", "Farbe"), ("old", "alt")]
    assert pairs(content, "en-GB") == [("colour", "Farbe"), ("colour", "Farbe"), ("old", "alt")]
    assert pairs(content, "de", "eng") == [("Farbe", "colour"), ("Farbe", "color"), ("alt", "old")]
    assert pairs(content, "en-US", "deu") == [("color", "Farbe"), ("old", "alt")]
    assert pairs(content, "fr", "de_AT") == [("couleur", "Farbe")]
    assert [row for row in rows(content) if isinstance(row, LeftOut)] == [LeftOut("other_languages")] * 2
    chinese = HEAD + unit(("zh-TW", segment("繁")), ("zh-CN", segment("简")), ("en", segment("x"))) + END
    assert pairs(chinese, "zh-Hans", "en") == [("简", "x")]
    assert pairs(chinese, "zh-Hant", "en") == [("繁", "x")]


def test_a_file_without_the_languages_lists_its_own() -> None:
    content = HEAD + unit(("en", segment("a")), ("fr", segment("b"))) + END
    with pytest.raises(UserError) as caught:
        rows(content)
    assert str(caught.value) == ("a.tmx: no translation unit has text in both en and de; its languages are en, fr")


def test_scores_are_properties_of_units_or_variants() -> None:
    before = '<prop type="score-aligner">0.9</prop><prop type="score-bicleaner">0.71</prop>'
    within = '<prop type="own">3</prop>'
    content = HEAD + unit(("en", within + segment("a")), ("de", segment("b")), before=before) + END
    assert rows(content, prop="score-bicleaner") == [(5, ScoredPair("a", "b", "0.71"))]
    assert rows(content, prop="own") == [(5, ScoredPair("a", "b", "3"))]
    assert rows(content, prop="other") == [(5, ScoredPair("a", "b", None))]
    twice = HEAD + unit(("en", segment("a")), ("de", segment("b")), before=before + before.replace("0.71", "0.8")) + END
    assert rows(twice, prop="score-bicleaner") == [(5, ScoredPair("a", "b", "0.71"))]


def test_malformed_units_are_marked_with_their_line() -> None:
    content = (
        HEAD
        + unit(("en", segment("a")), ("de", segment("b")))
        + "<tu><tuv><seg>x</seg></tuv></tu>\n"
        + unit(("en", segment("x" * (MAX_LINE_BYTES + 1))), ("de", segment("b")))
        + unit(("en", segment("é" * (MAX_LINE_BYTES // 2 + 1))), ("de", segment("b")))
        + END
    )
    too_long = "longer than 1,000,000 bytes"
    assert rows(content)[1:] == [
        MalformedRow("a.tmx", 6, "a <tuv> without a language"),
        MalformedRow("a.tmx", 7, too_long),
        MalformedRow("a.tmx", 8, too_long),
    ]


BOMB = '<!DOCTYPE tmx [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEAD.replace("<tmx", BOMB + "<tmx", 1) + END, "line 2: it declares the entity 'a'; files that declare"),
        (
            HEAD.replace("<tmx", '<!DOCTYPE tmx [<!ENTITY x SYSTEM "file:///etc/passwd">]><tmx', 1) + END,
            "it declares the entity 'x'",
        ),
        (
            HEAD.replace("<tmx", '<!DOCTYPE tmx SYSTEM "tmx14.dtd"><tmx', 1)
            + unit(("en", segment("&nbsp;")), ("de", segment("b")))
            + END,
            "line 5: the entity 'nbsp' is not defined",
        ),
        (HEAD + unit(("en", segment("&nbsp;"))) + END, "truncated or damaged after line 5: undefined entity"),
        (HEAD + "<tu><tuv></tu>" + END, "truncated or damaged after line 5: mismatched tag"),
        (HEAD, "truncated or damaged after line 5: no element found"),
        ("", "not a TMX file: line 1: no element found"),
        ("plain text\n", "not a TMX file: line 1: syntax error"),
        ("<xliff></xliff>", "not a TMX file: its first element is <xliff>, not <tmx>"),
        (HEAD.replace(">", "\xff>").encode("latin-1"), "not a TMX file: line 1"),
        (HEAD.replace("utf-8", "shift_jis") + END, "its encoding cannot be read: convert it to UTF-8"),
        (HEAD.replace("utf-8", "unknown") + END, "its encoding cannot be read: convert it to UTF-8"),
        (HEAD.replace("utf-8", "punycode") + END, "its encoding cannot be read: convert it to UTF-8"),
        (HEAD + "<a>" * 1000, "line 5: more than 1000 open elements"),
    ],
)
def test_damaged_and_dangerous_files_are_refused(content: str | bytes, message: str) -> None:
    with pytest.raises(UserError) as caught:
        rows(content)
    assert str(caught.value).startswith("a.tmx")
    assert message in str(caught.value)


xml_text = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc",), exclude_characters="\ufffe\uffff"), max_size=40
)


@given(st.lists(st.tuples(xml_text, xml_text), min_size=1, max_size=8), st.sampled_from(["utf-8", "utf-16"]))
def test_text_is_the_same_after_tmx(given_pairs: list[tuple[str, str]], encoding: str) -> None:
    content = tmx(given_pairs, encoding=encoding)
    assert pairs(content) == [(source.strip(" "), target.strip(" ")) for source, target in given_pairs]
    assert [row[0] for row in rows(content) if isinstance(row, tuple)] == [6 + n for n in range(len(given_pairs))]


@given(st.text("ab \t\n", max_size=30))
def test_a_line_break_and_the_blanks_around_it_become_a_space(text: str) -> None:
    expected = re.sub(r"[ \t]*\n[ \t\n]*", " ", text.strip(" \t\n"))
    assert pairs(HEAD + unit(("en", segment(text)), ("de", segment("x"))) + END) == [(expected, "x")]


def test_a_long_run_of_blanks_is_read_quickly() -> None:
    """Check blanks that a search for the next line break in quadratic time would take hours for."""
    blanks = " \t" * 400_000
    content = HEAD + unit(("en", segment(f"a{blanks}b \n c")), ("de", segment("x"))) + END
    assert pairs(content) == [(f"a{blanks}b c", "x")]


@pytest.mark.parametrize("num_bytes", [2 << 20, 6 << 20])
def test_a_tag_without_an_end_has_a_limit(num_bytes: int) -> None:
    content = HEAD.encode() + b"<tu a='" + b"x" * num_bytes
    message = "a tag of more than 4 MiB" if num_bytes > 4 << 20 else "truncated or damaged"
    with pytest.raises(UserError, match=message):
        rows(content)


@pytest.mark.parametrize("largest", [15, pytest.param(200, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, largest: int) -> None:
    """Read 3 and 15 or 200 MB in processes of their own, and compare their memory."""
    code = (
        "import resource, sys\n"
        "from kdmt.corpus.archives import Position\n"
        "from kdmt.corpus.tmx import read_units\n"
        "from kdmt.languages import Direction\n"
        "with open(sys.argv[1], 'rb') as file:\n"
        "    rows = read_units(file, name='a', direction=Direction('en', 'de'), prop=None, position=Position())\n"
        "    count = sum(1 for row in rows)\n"
        "print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    body = "".join(unit(("en", segment("a house " * 20)), ("de", segment("ein Haus " * 20))) for _ in range(1000))
    memory = []
    for megabytes in (3, largest):
        path, repeats = tmp_path / f"{megabytes}.tmx", megabytes * 1_000_000 // len(body) + 1
        with path.open("w", encoding="utf-8") as file:
            file.write(HEAD)
            for _ in range(repeats):
                file.write(body)
            file.write(END)
        assert path.stat().st_size > megabytes * 1_000_000
        done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
        count, used = map(int, done.stdout.split())
        assert count == 1000 * repeats
        memory.append(used * (1 if sys.platform == "darwin" else 1024))
    assert memory[1] - memory[0] < 4 << 20
