"""The data report as an HTML page: records of its content, and the tables and pictures that show them.

The size of the page is bounded: lists are cut to fixed numbers of lines, and examples are limited over all corpora.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from kdmt.corpus.data_report.histogram import Histogram, histogram_svg
from kdmt.corpus.data_report.measurements import VocabularyUse
from kdmt.corpus.data_report.patterns import Pattern
from kdmt.corpus.dropped import Texts
from kdmt.corpus.vocabulary_size import FREQUENT
from kdmt.html_page import page_html, table_html

MAX_EXAMPLES = 1_000  # pairs over all corpora and rules
MAX_LINES = 200  # of tables that may have a line for each pair of corpora
MAX_RULES = 30  # columns of rules
_MAX_NAME = 120  # characters
_MAX_TEXT = 200  # characters of a line of an example
# text that corpora have in common -> title of the table
_SHARED = {
    "pair": "pairs that occur before",
    "source": "pairs whose source occurs before",
    "target": "pairs whose target occurs before",
}


@dataclass(frozen=True)
class ReportedText:
    """A text of the settings.

    Attributes:
        path: YAML path, such as `train.0`.
        files: names of its files.
        sha256: SHA-256 of each file; empty where it is not known.
        licence: name of the licence; None if it is not known.
        pairs: number of pairs or lines that were read.
        kept: number of pairs or lines that cleaning keeps.
        used: number of pairs or lines in the prepared text: a part of them, or several times as many.
        tag: token before each source sentence.
    """

    path: str
    files: tuple[str, ...]
    sha256: tuple[str, ...]
    licence: str | None
    pairs: int
    kept: int
    used: int
    tag: str | None = None


@dataclass(frozen=True)
class ReportedRules:
    """What the cleaning rules did to a corpus: rule -> number of pairs or lines, and examples of dropped pairs."""

    name: str
    pairs: int
    dropped: Mapping[str, int]
    changed: Mapping[str, int]
    examples: Mapping[str, Sequence[Texts]]


@dataclass(frozen=True)
class ReportedSide:
    """Tokens of one language of the training text.

    Attributes:
        lang: code of the language.
        tokens: number of tokens, without `</s>`.
        unknown: number of `<unk>`.
        mean_size: mean number of tokens of a sentence.
        vocabulary: use of the dictionary.
        tokens_per_word: mean number of tokens of a word; None for a language without spaces between words.
        characters_per_token: mean number of characters of a token.
        sizes: histogram of the numbers of tokens of a sentence.
        languages: language -> number of lines of a sample in which it was found; empty if none was searched for.
    """

    lang: str
    tokens: int
    unknown: int
    mean_size: float
    vocabulary: VocabularyUse
    tokens_per_word: float | None
    characters_per_token: float
    sizes: Histogram
    languages: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ReportedSplit:
    """Tokens of one language of a validation or test set; `unseen` are tokens that the training text does not have."""

    name: str
    lang: str
    sentences: int
    tokens: int
    unknown: int
    unseen: int


@dataclass(frozen=True)
class ReportedDirection:
    """Numbers of pairs of one of several directions.

    Attributes:
        name: the direction, such as `en-de`.
        pairs, dropped, used: number of pairs that were read, that were dropped, and of the training text; None for a
            direction without training text.
        ratio: typical ratio of target to source characters; None without training text.
        valid: number of pairs of the validation set.
        tests: number of pairs of each test set.
    """

    name: str
    pairs: int | None
    dropped: int | None
    used: int | None
    ratio: float | None
    valid: int
    tests: Mapping[str, int]


@dataclass(frozen=True)
class DataReport:
    """Content of the report.

    Attributes:
        title: title of the page.
        summary: (name, value) of the main figures.
        warnings: warnings of the stage.
        texts: texts of the settings.
        rules: training corpora.
        patterns: rule -> frequent patterns of dropped pairs, with their number.
        sides: source and target of the training text.
        splits: languages of the validation and test sets.
        ratios: histogram of the ratio of target to source characters.
        sampled_pairs: number of pairs in the sample of the figures about characters and words.
        shared: "pair", "source" or "target" -> (corpus, corpus with their first occurrence, number of pairs); both may
            be the same corpus.
        held_out: (corpus, side or line of a held-out set, number of its pairs that were dropped for it).
        held_out_shared: (held-out set, other one, number of common sentences or pairs).
        suggestion: sentence about the size of the vocabulary; empty for none.
        directions: numbers of pairs of each direction; empty for one direction.
    """

    title: str
    summary: Sequence[tuple[str, str]]
    warnings: Sequence[str]
    texts: Sequence[ReportedText]
    rules: Sequence[ReportedRules]
    patterns: Mapping[str, Sequence[tuple[Pattern, int]]]
    sides: Sequence[ReportedSide]
    splits: Sequence[ReportedSplit]
    ratios: Histogram
    sampled_pairs: int
    shared: Mapping[str, Sequence[tuple[str, str, int]]]
    held_out: Sequence[tuple[str, str, int]]
    held_out_shared: Sequence[tuple[str, str, int]]
    suggestion: str = ""
    directions: Sequence[ReportedDirection] = ()


_STYLE = """h2 { margin-top: 2.5rem; border-bottom: 2px solid #8886; }
.scroll { overflow-x: auto; }
.scroll table { margin: .5rem 0 1rem; }
.scroll td:not(.figure) { overflow-wrap: anywhere; min-width: 7rem; }
.note { opacity: .75; font-size: .9rem; }
.warnings { border-left: .3rem solid #d97706; padding-left: 1.2rem; overflow-wrap: anywhere; }
.histogram { width: 100%; max-width: 30rem; fill: currentColor; }
.histogram rect { fill: #3b82f6; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; flex: 1 1 18rem; max-width: 30rem; }
.bar { display: block; height: .6rem; min-width: 8rem; background: #8884; }
.bar span { display: block; height: 100%; background: #3b82f6; }
td.text { overflow-wrap: anywhere; min-width: 12rem; unicode-bidi: plaintext; vertical-align: top; }
summary { cursor: pointer; padding: .2rem 0; }
@media (max-width: 40rem) { th, td { padding: .2rem .4rem; } .scroll table { font-size: .85rem; } }
nav a { margin-right: .8rem; white-space: nowrap; }
"""


def render_page(report: DataReport) -> str:
    """Return the page. Equal reports give equal pages."""
    parts = {
        "Directions": _directions(report),
        "Sources": _sources(report),
        "Kept and dropped": _kept_and_dropped(report),
        "Examples": _examples(report),
        "Patterns": _patterns(report),
        "Lengths": _lengths(report),
        "Languages": _languages(report),
        "Overlaps": _overlaps(report),
        "Vocabulary": _vocabulary(report),
    }
    shown = {title: list(lines) for title, lines in parts.items()}
    shown = {title: lines for title, lines in shown.items() if lines}
    links = "\n".join(f'<a href="#{_anchor(title)}">{title}</a>' for title in shown)
    body = [f"<nav>{links}</nav>", *_summary(report)]
    for title, lines in shown.items():
        body += [f'<h2 id="{_anchor(title)}">{title}</h2>', *lines]
    return page_html(report.title, "\n".join(body), style=_STYLE)


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


# ------------------------------------------------------------------------------------------------------------ sections


def _summary(report: DataReport) -> Iterator[str]:
    yield _table("", ["", ""], report.summary, [False, True])
    if report.warnings:
        yield '<ul class="warnings">'
        yield from (f"<li>{html.escape(warning)}</li>" for warning in report.warnings[:MAX_LINES])
        yield "</ul>"


def _directions(report: DataReport) -> Iterator[str]:
    if not report.directions:
        return
    tests = list(dict.fromkeys(name for each in report.directions for name in each.tests))
    header = ["direction", "read", "dropped", "training pairs", "share of all", "ratio", "validation", *tests]
    total = sum(each.used or 0 for each in report.directions)
    lines = [
        [
            each.name,
            *("" if value is None else f"{value:,}" for value in (each.pairs, each.dropped, each.used)),
            "" if each.used is None else _share(each.used, total),
            "" if each.ratio is None else f"{each.ratio:.3f}",
            f"{each.valid:,}" if each.valid else "",
            *(f"{each.tests[name]:,}" if name in each.tests else "" for name in tests),
        ]
        for each in report.directions[:MAX_LINES]
    ]
    yield _table("", header, lines, [False] + [True] * (len(header) - 1))
    yield from _left_out(len(report.directions))
    yield (
        '<p class="note">The ratio is the typical one of target to source characters. Directions without training '
        "pairs are zero-shot. The text of all directions together is src and tgt below.</p>"
    )


def _sources(report: DataReport) -> Iterator[str]:
    header = ["text", "files", "sha256", "licence", "read", "kept", "share kept", "used", "tag"]
    lines = [
        [
            text.path,
            " ".join(text.files),
            " ".join(sha256[:12] for sha256 in text.sha256),
            text.licence or "not known",
            f"{text.pairs:,}",
            f"{text.kept:,}",
            _share(text.kept, text.pairs),
            f"{text.used:,}",
            text.tag or "",
        ]
        for text in report.texts[:MAX_LINES]
    ]
    yield _table("", header, lines, [False] * 4 + [True] * 4 + [False])
    yield from _left_out(len(report.texts))


def _kept_and_dropped(report: DataReport) -> Iterator[str]:
    corpora = report.rules[:MAX_LINES]
    dropped = _rules_with_counts([each.dropped for each in corpora])
    yield "<p>A pair counts for the first rule that drops it. In monolingual text, each line counts as a pair.</p>"
    yield from _bars(corpora)
    if dropped:
        yield _counts_table("dropped pairs", corpora, [each.dropped for each in corpora], dropped)
    if changed := _rules_with_counts([each.changed for each in corpora]):
        yield _counts_table("changed lines of either side", corpora, [each.changed for each in corpora], changed)
    yield from _left_out(len(report.rules))


def _bars(corpora: Sequence[ReportedRules]) -> Iterator[str]:
    """Yield a table with the share of the pairs of each corpus that is kept as a bar."""
    yield '<div class="scroll"><table>\n<tr><th>corpus</th><th>kept</th><th></th></tr>'
    for each in corpora:
        kept = each.pairs - sum(each.dropped.values())
        percent = 100 * kept / each.pairs if each.pairs else 0.0
        yield (
            f'<tr><td>{html.escape(_name(each.name))}</td><td class="figure">{_share(kept, each.pairs)}</td>'
            f'<td><span class="bar"><span style="width:{percent:.1f}%"></span></span></td></tr>'
        )
    yield "</table></div>"


def _counts_table(
    caption: str, corpora: Sequence[ReportedRules], counts: Sequence[Mapping[str, int]], rules: Sequence[str]
) -> str:
    lines = [
        [_name(each.name), *(_count_and_share(own.get(rule, 0), each.pairs) for rule in rules)]
        for each, own in zip(corpora, counts, strict=True)
    ]
    return _table(caption, ["corpus", *rules], lines, [False] + [True] * len(rules))


def _rules_with_counts(counts: Sequence[Mapping[str, int]]) -> list[str]:
    """Return the rules with a count in any corpus, the most frequent first, at most `MAX_RULES`."""
    total: dict[str, int] = {}
    for own in counts:
        for rule, count in own.items():
            total[rule] = total.get(rule, 0) + count
    return sorted((rule for rule, count in total.items() if count), key=lambda rule: (-total[rule], rule))[:MAX_RULES]


def _examples(report: DataReport) -> Iterator[str]:
    cells = [
        (corpus.dropped.get(rule, 0), number, rule, texts)
        for number, corpus in enumerate(report.rules)
        for rule, texts in corpus.examples.items()
        if texts
    ]
    cells.sort(key=lambda cell: (-cell[0], cell[1], cell[2]))
    chosen: dict[str, list[tuple[int, Sequence[Texts]]]] = {}
    room = MAX_EXAMPLES
    for _, number, rule, texts in cells:
        if room > 0:
            chosen.setdefault(rule, []).append((number, texts[:room]))
            room -= len(texts[:room])
    for rule, found in chosen.items():
        count = sum(corpus.dropped.get(rule, 0) for corpus in report.rules)
        yield f"<details><summary><strong>{html.escape(rule)}</strong>: {count:,} pairs dropped</summary>"
        for number, texts in sorted(found):
            lines = [[text[:_MAX_TEXT] for text in (*pair, "")[:2]] for pair in texts]
            yield _texts_table(_name(report.rules[number].name), ["source", "target"], lines)
        yield "</details>"


def _patterns(report: DataReport) -> Iterator[str]:
    if not report.patterns:
        return
    yield (
        "<p>The beginnings of dropped pairs that occur at least twice in all corpora together, with each number "
        "replaced by 0. They show boilerplate. Pairs that are dropped by comparison with all others, as duplicates "
        "are, are not included.</p>"
    )
    for rule, found in report.patterns.items():
        yield f"<details><summary><strong>{html.escape(rule)}</strong></summary>"
        lines = [[f"{count:,}", *pattern] for pattern, count in found]
        yield _texts_table("", ["pairs", "source", "target"], lines)
        yield "</details>"


def _lengths(report: DataReport) -> Iterator[str]:
    yield '<div class="figures">'
    for side in report.sides:
        title = f"tokens of a sentence, {side.lang}"
        yield f"<figure>{histogram_svg(side.sizes, title, title)}</figure>"
    title = "ratio of target to source characters"
    yield f"<figure>{histogram_svg(report.ratios, title, title)}</figure>"
    yield "</div>"
    yield (
        f'<p class="note">Tokens are those of all sentences of the training text. The ratio is measured on '
        f"{report.sampled_pairs:,} pairs, in blocks that are evenly spaced over the training text.</p>"
    )


def _languages(report: DataReport) -> Iterator[str]:
    if not any(side.languages for side in report.sides):
        return
    for side in report.sides:
        total = sum(side.languages.values())
        lines = [[lang, f"{count:,}", _share(count, total)] for lang, count in list(side.languages.items())[:20]]
        yield _table(
            f"found in {total:,} lines of the {side.lang} side",
            ["language", "lines", "share"],
            lines,
            [False, True, True],
        )


def _overlaps(report: DataReport) -> Iterator[str]:
    tables = [(_SHARED[kind], ["corpus", "first occurrence", "pairs"], found) for kind, found in report.shared.items()]
    tables.append(("dropped pairs with text of a held-out set", ["corpus", "text of", "pairs"], report.held_out))
    for title, header, found in tables:
        if found:
            lines = [[_name(own), _name(other), f"{count:,}"] for own, other, count in found[:MAX_LINES]]
            yield _table(title, header, lines, [False, False, True])
            yield from _left_out(len(found))
    if report.held_out_shared:
        lines = [[own, other, f"{count:,}"] for own, other, count in report.held_out_shared[:MAX_LINES]]
        yield _table(
            "sentences that held-out sets share", ["set", "other set", "sentences"], lines, [False, False, True]
        )


def _vocabulary(report: DataReport) -> Iterator[str]:
    header = ["language", "tokens", "tokens per sentence", "tokens per word", "characters per token", "<unk>"]
    header += ["symbols", "used", f"at least {FREQUENT} times"]
    lines = [
        [
            side.lang,
            f"{side.tokens:,}",
            f"{side.mean_size:.1f}",
            "" if side.tokens_per_word is None else f"{side.tokens_per_word:.2f}",
            f"{side.characters_per_token:.2f}",
            _count_and_share(side.unknown, side.tokens),
            f"{side.vocabulary.symbols:,}",
            _share(side.vocabulary.used, side.vocabulary.symbols),
            _share(side.vocabulary.frequent, side.vocabulary.symbols),
        ]
        for side in report.sides
    ]
    yield _table("training text", header, lines, [False] + [True] * 8)
    if report.suggestion:
        yield f'<p class="note">{html.escape(report.suggestion)}</p>'
    header = ["set", "language", "sentences", "tokens", "<unk>", "not in the training text"]
    lines = [
        [
            split.name,
            split.lang,
            f"{split.sentences:,}",
            f"{split.tokens:,}",
            _count_and_share(split.unknown, split.tokens),
            _count_and_share(split.unseen, split.tokens),
        ]
        for split in report.splits[:MAX_LINES]
    ]
    yield _table("validation and test sets", header, lines, [False, False, True, True, True, True])
    yield (
        '<p class="note">Tokens per word and characters per token are measured on the sample; all other numbers of '
        "this section are those of the whole text, without the symbol at the end of each sentence.</p>"
    )


# ---------------------------------------------------------------------------------------------------------------- parts


def _table(caption: str, header: Sequence[str], lines: Sequence[Sequence[str]], figures: Sequence[bool]) -> str:
    return f'<div class="scroll">{table_html(caption, header, lines, figures)}</div>'


def _texts_table(caption: str, header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table of text in any language and direction of writing, each line as it is in the corpus."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    rows = "\n".join(
        f"<tr>{''.join(f'<td class=text dir=auto>{_visible(cell)}</td>' for cell in cells)}</tr>" for cells in lines
    )
    return (
        f'<div class="scroll"><table><caption>{html.escape(caption)}</caption>\n<tr>{head}</tr>\n{rows}\n</table></div>'
    )


def _visible(text: str) -> str:
    """Return escaped text in which characters that are not printable are shown by their code."""
    return html.escape("".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text))


def _name(name: str) -> str:
    return name if len(name) <= _MAX_NAME else f"{name[:_MAX_NAME]}..."


def _share(count: int, total: int) -> str:
    return f"{100 * count / total:.1f}%" if total else ""


def _count_and_share(count: int, total: int) -> str:
    return f"{count:,} ({_share(count, total)})" if count and total else f"{count:,}"


def _left_out(count: int) -> Iterator[str]:
    if count > MAX_LINES:
        yield f'<p class="note">The first {MAX_LINES} of {count:,} lines are shown.</p>'
