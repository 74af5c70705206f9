"""HTML: what is translated, and that all markup is copied."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdmt.documents.markup import html_document
from kdmt.languages import Direction

EN_DE = Direction("en", "de")


def upper(source: str) -> str:
    document = html_document(source, EN_DE)
    return document.join([sentence.upper() for sentence in document.sentences])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("<p>A dog.</p>\n<p>Two.</p>", "<p>A DOG.</p>\n<p>TWO.</p>"),
        ('<p class="green">Hi <b>big dog</b>!</p>', '<p class="green">HI <b>BIG DOG</b>!</p>'),
        ("<b>One here. Two here.</b>", "<b>ONE HERE. TWO HERE.</b>"),
        ("One.</b> <i>Two.</i>", "ONE.</b> <i>TWO.</i>"),
        ("a<br>b<hr/>c", "A<br>B<hr/>C"),
        ("R &amp; D &lt;now&gt; &eacute;t&#233;", "R &amp; D &lt;NOW&gt; ÉTÉ"),
        ('say "x"', 'SAY "X"'),
        ("a < b", "A &lt; B"),
        ("\n  <p>\n  a\n  dog\n</p>\n", "\n  <p>\n  A DOG\n</p>\n"),
        ("<pre>a b\n   c</pre>", "<pre>A B\n   C</pre>"),
        ("<script>if (a<b) f('</p>')</script>x", "<script>if (a<b) f('</p>')</script>X"),
        ("<STYLE>p {}</Style >x", "<STYLE>p {}</Style >X"),
        ("<script>never closed <p>x", "<script>never closed <p>x"),
        ('<script src="a.js"/>let a = "b";</script>x', '<script src="a.js"/>let a = "b";</script>X'),
        ('<p translate="no"/>Brand name.</p>x', '<p translate="no"/>Brand name.</p>X'),
        ("<span translate=no title=/y/>Brand</span> x", "<span translate=no title=/y/>Brand</span> X"),
        ("a <svg><svg/><path/>x</svg> c", "A <svg><svg/><path/>x</svg> C"),
        ("use <code>f(x)</code> now", "USE <code>f(x)</code> NOW"),
        ("<code>a<code>b</code>c</code>d", "<code>a<code>b</code>c</code>D"),
        ('<div translate="no">a <div>b</div> c</div>d', '<div translate="no">a <div>b</div> c</div>D'),
        ('see <span class="x notranslate">kdmt</span> now', 'SEE <span class="x notranslate">kdmt</span> NOW'),
        ("<!-- a > b -->x<!doctype html><?xml y?>", "<!-- a > b -->X<!doctype html><?xml y?>"),
        ("x <!-- never closed", "X <!-- never closed"),
        ('<a title="a > b" href=\'?x="1"\'>link</a>', '<a title="a > b" href=\'?x="1"\'>LINK</a>'),
        ('x <a href="never closed>y', 'X <a href="never closed>y'),
        ("&nbsp;12 %&copy;<td>7</td>", "&nbsp;12 %&copy;<td>7</td>"),
        ('<img src="x.png" alt="not this"> a dog', '<img src="x.png" alt="not this"> A DOG'),
        ("", ""),
        ("<", "<"),
        ("</", "</"),
    ],
)
def test_text_is_translated_and_markup_copied(source: str, expected: str) -> None:
    assert upper(source) == expected


def test_paragraphs_are_split_into_sentences() -> None:
    source = "<h1>Title</h1><p>Dr. Smith <i>went</i> home. He\nslept.</p><ul><li>One</li><li>Two</li></ul>"
    sentences = ["Title", "Dr. Smith went home.", "He slept.", "One", "Two"]
    assert html_document(source, EN_DE).sentences == sentences


def test_translations_cannot_add_markup() -> None:
    document = html_document("<p>A <b>dog</b></p>", EN_DE)
    assert document.join(["<script>&"]) == "<p>&lt;<b>script&gt;&amp;</b></p>"


@settings(max_examples=40)
@given(
    st.lists(
        st.sampled_from(
            (
                *("<", ">", "a", "B. ", " ", "\n", '"', "'", "/", "<b>", "</b>", "<p>", "</p>", "<!--", "-->", "<pre>"),
                *("<script>", "</script>", "<code>", "</code>", "<br/>", "&amp;", "&", "=", "</i>", "!"),
                "<i translate=no>",
            )
        ),
        max_size=14,
    ).map("".join)
)
def test_any_input_gives_the_same_markup(source: str) -> None:
    """The scanner reads the translated page as the same markup with other text."""
    once = upper(source)
    assert upper(once) == once
    assert once.upper().count("<B>") == source.upper().count("<B>")


@pytest.mark.parametrize(
    "part",
    [
        *("<", "<a ", '<a "', "<a '\">", "<!--", "<!", "<?", "</", "<script>", "<script></script ", "<code>", "<code "),
        *(
            "<pre>\n",
            "<b>",
            "</b>",
            "&",
            "&#",
            "<p translate=no>",
            "class='",
            "<li translate=no>",
            "<li translate=no><b></i>",
            "<td translate=no></",
            "<li translate=no><ul><li>",
            "<p class=class='",
            "a. ",
            "x ",
            "(",
            "<b>a ",
        ),
    ],
)
def test_time_is_linear(part: str) -> None:
    source = part * (40_000 // len(part))
    start = time.process_time()
    upper(source)
    assert time.process_time() - start < 10  # a quadratic scanner takes minutes


@pytest.mark.parametrize(
    "attributes",
    [
        *("translate=no", "translate = 'no'", 'TRANSLATE="NO"', "a translate=no", "/translate=no", "translate=&#110;o"),
        *("class=notranslate", "class='x notranslate'", 'class="notranslate\ty"', "id=1 class=notranslate x"),
    ],
)
def test_elements_are_copied_if_an_attribute_forbids_translation(attributes: str) -> None:
    source = f"<div {attributes}>a <b>dog</b></div>"
    assert upper(f"{source} x") == f"{source} X"


@pytest.mark.parametrize(
    "attributes",
    [
        *('data-translate="no"', 'title="translate=no"', "title='a translate=\"no\"'", 'href="?translate=no"'),
        *('class="notranslate-icon"', "class=x-notranslate", 'title="class=notranslate"', "translate=no-op"),
        *(
            "translate",
            "translate=yes",
            "translate=yes translate=no",
            "class=a class=notranslate",
            "value='translate no'",
        ),
    ],
)
def test_other_attributes_that_look_like_it_change_nothing(attributes: str) -> None:
    assert upper(f"<div {attributes}>a</div>") == f"<div {attributes}>A</div>"


@pytest.mark.parametrize(
    ("kept", "rest"),
    [
        ("<ul><li translate=no>a", "<li>B</ul><p>C"),
        ("<ul><li translate=no>a <ul><li>x<li>y</ul> z</li>", "<li>B</ul>"),
        ("<ul><li translate=no>a <p>x", "<li>B</ul>"),
        ("<ul><li translate=no>a <b>x</i>", "</ul>B"),
        ("<ul><li translate=no>a</p></br>b", "</ul>B"),
        ("<p translate=no>a <b>x</b>", "<p>B"),
        ("<p translate=no>a", "<div>B</div>"),
        ("<div><p translate=no>a", "</div>B"),
        ("<p translate=no>a <span>x</span></p>", " B"),
        ("<p translate=no>a <script>'<p>'</script><!-- <p> --><br>", "<p>B"),
        ("<p translate=no>a <button><p>x</p></button>", "<p>B"),
        ("<select><option class=notranslate>a", "<option>B</select>"),
        ("<table><tr><td translate=no>a", "<td>B<tr><td>C</table>D"),
        ("<table><tr><td translate=no>a <table><tr><td>x</table>", "<td>B</table>"),
        ("<table><tr translate=no><td>a<td>x", "<tr><td>B</table>"),
        ("<table><tbody translate=no><tr><td>a", "</table>B"),
        ("<dl><dt translate=no>a", "<dd>B</dl>"),
        ("<ruby><rt translate=no>a", "<rp>B</ruby>"),
        ("<li translate=no>a <ul>", ""),
    ],
)
def test_an_element_without_end_tag_ends_where_html_ends_it(kept: str, rest: str) -> None:
    assert upper(kept + rest.lower()) == kept + rest
