"""The page of a report: what it contains, that it loads nothing, and that text is escaped."""

from __future__ import annotations

import html.parser
from dataclasses import replace

import pytest

from kdmt.languages import Direction
from kdmt.score.averages import average_rows
from kdmt.score.metrics import MetricScore
from kdmt.score.report_page import charts
from kdmt.score.report_page.content import (
    Curves,
    Gaps,
    Histogram,
    LabelledGap,
    ReportContent,
    Reproduction,
    TrainingSetSummary,
)
from kdmt.score.report_page.curves import Curve
from kdmt.score.report_page.directions import DirectionScores, averages_facts, direction_maps
from kdmt.score.report_page.examples import choose_examples
from kdmt.score.report_page.facts import Facts
from kdmt.score.report_page.gaps import Gap
from kdmt.score.report_page.page import COSTS, render_page
from kdmt.score.score_files import Missing, ScoreRow
from kdmt.score.system_diagnostics import DiagnosticsRow, KindScores, SystemDiagnostics

HOSTILE = "<script>alert(1)</script>\u202e&amp;\x07"
ROW = ScoreRow(
    system="teacher",
    test_set="test",
    seed=1,
    engine="pytorch",
    beam=5,
    compute_type="float32",
    threads=2,
    scores={"bleu": MetricScore(40.0, "signature")},
    parameters=2_000_000,
    sentences_per_second_batch1=10.0,
    sentences_per_second_max=50.0,
    checkpoint_sha256="0" * 64,
)
STUDENT = replace(
    ROW, system="small", scores={"bleu": MetricScore(39.0, "signature")}, sentences_per_second_batch1=35.0
)


def full_content() -> ReportContent:
    """Return a content with every section, and hostile text in all texts of users."""
    curve = Curve("small", [1, 2], [3.0, 2.0], [3.0, 2.0], [3.0, 2.0], 1)
    kinds = {kind: KindScores(4, 30.0, {}) for kind in ("1 to 10 words", "11 to 20 words", "with digits")}
    lines = [HOSTILE, "a b"]
    texts = Facts("a table", ["text"], [[HOSTILE]], [False])
    return ReportContent(
        title=HOSTILE,
        rows=[ROW, STUDENT],
        direction="de to en",
        missing=[Missing("other", 2)],
        test_sets=["test"],
        curves=Curves([curve], [curve], {"bleu": [curve]}),
        training_sets=[
            TrainingSetSummary(
                "distilled",
                [("training pairs", "1,234")],
                {"too_long": (3, 2, 1)},
                [Histogram("score", [0, 1, 2], [7, 8])],
            )
        ],
        gaps=[Gaps("test", "bleu", [LabelledGap("small, beam 5", "teacher, beam 5", Gap(-1.0, -1.6, -0.4))], [], 1000)],
        diagnostics=SystemDiagnostics("bleu", 0, 10, [DiagnosticsRow("small", "test", 1, 5, None, {}, {}, kinds)]),
        examples=choose_examples(
            "test", range(2), lines, lines, {HOSTILE: ["a", "b"]}, system=HOSTILE, most=1, spaced=True
        ),
        data=[texts],
        reproduction=Reproduction("toy.yaml", ["kdmt run toy.yaml"], f"name: {HOSTILE}", texts, texts),
    )


class Page(html.parser.HTMLParser):
    VOID = ("meta",)

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data.strip())


@pytest.fixture(scope="module")
def drawn() -> str:
    pytest.importorskip("matplotlib", reason="charts need the extra 'report'")
    return render_page(full_content(), with_charts=True)


@pytest.fixture(params=["with charts", "without"])
def page(request: pytest.FixtureRequest) -> str:
    if request.param == "without":
        return render_page(full_content(), with_charts=False)
    return str(request.getfixturevalue("drawn"))


def test_the_page_is_well_formed_and_loads_nothing(page: str) -> None:
    parsed = Page(page)
    assert not parsed.open
    assert {"script", "link", "img", "iframe", "object"}.isdisjoint(tag for tag, _ in parsed.tags)
    links = [
        value for _, attrs in parsed.tags for name, value in attrs.items() if name in ("src", "href", "xlink:href")
    ]
    assert links
    assert all(link is not None and link.startswith("#") for link in links)
    assert "@import" not in page
    assert "@font-face" not in page


def test_links_to_sections_exist_and_identifiers_are_unique(page: str) -> None:
    parsed = Page(page)
    identifiers = [attrs["id"] for _, attrs in parsed.tags if "id" in attrs]
    assert len(identifiers) == len(set(identifiers))
    links = {str(attrs["href"]).removeprefix("#") for tag, attrs in parsed.tags if tag == "a"}
    assert links <= set(identifiers)
    assert {
        "summary",
        "quality",
        "scores",
        "training",
        "distillation",
        "gaps",
        "examples",
        "data",
        "reproduce",
    } <= links


def test_hostile_text_is_escaped_and_characters_that_are_not_printable_are_shown(page: str) -> None:
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\u202e&amp;amp;\\u0007" in page  # in the examples


def test_every_section_has_its_figures(page: str) -> None:
    text = " ".join(Page(page).text)
    for expected in (
        "Recommended: small, pytorch float32, beam 5",
        "is at most 0.5 below that of the best one",
        "3.5x",
        "other, seed 2: never trained",
        "1,234",
        "failed translations",
        "-1.60 to -0.40",
        "1,000 resampled test sets",
        "test line",
        "kdmt run toy.yaml",
        "BLEU: signature",
    ):
        assert expected in text


def test_the_page_follows_dark_mode_and_print(page: str) -> None:
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
    assert "var(--paper)" in page


def test_charts_are_drawn_for_every_cost_test_set_and_section(drawn: str) -> None:
    # likelihood and BLEU over updates; histogram and failures; gaps; lengths and other kinds
    measured = [cost for cost in COSTS if cost.value(ROW) is not None]
    assert len(measured) == 3  # two speeds and the number of parameters; there are no exported students
    assert drawn.count("<svg ") == len(measured) + 2 + 2 + 1 + 2
    assert "pip install" not in drawn


def test_without_matplotlib_the_page_says_how_to_get_charts_and_has_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "has_charts", lambda: False)
    page = render_page(full_content())
    assert "<svg" not in page
    assert "pip install 'kdmt[report]'" in Page(page).text
    assert "kdmt report PIPELINE.yaml" in page
    assert ">40.00</td>" in page


def test_a_page_of_scores_alone_has_no_empty_sections() -> None:
    page = render_page(ReportContent("toy", [ROW], test_sets=["test"]), with_charts=False)
    assert "No student is recommended" in page
    for section in ("training", "distillation", "gaps", "kinds", "examples", "diagnostics", "data", "reproduce"):
        assert f'id="{section}"' not in page
    with pytest.raises(ValueError, match="no scores"):
        render_page(ReportContent("toy", []), with_charts=False)


def test_examples_mark_what_differs() -> None:
    found = choose_examples(
        "test", [0], ["ein Hund"], ["a dog"], {"small": ["a cat"]}, system="small", most=1, spaced=True
    )
    page = render_page(replace(full_content(), examples=found), with_charts=False)
    assert "a <mark>dog</mark>" in page
    assert "a <mark>cat</mark>" in page
    assert "ein Hund" in page


# ------------------------------------------------------------------------------------------------- several directions


def several_directions() -> ReportContent:
    rows = [
        replace(row, test_set=f"news.{source}-{target}", direction=f"{source}-{target}")
        for row in (ROW, STUDENT)
        for source, target in (("en", "de"), ("de", "en"), ("de", "fr"))
    ]
    tests = {row.test_set: ("news", Direction.parse(row.direction or "")) for row in rows}
    untrained = [Direction("de", "fr")]
    directions = DirectionScores(
        maps=direction_maps(rows, tests, untrained),
        averages=averages_facts(average_rows(rows, tests, untrained)),
        differences=[Facts("news: BLEU minus that of teacher, with p", ["direction"], [["en-de"]], [False])],
        classes="Low-resource directions have fewer than 100,000 training pairs.",
        trained_splits={"news": ["news.en-de", "news.de-en"]},
    )
    return ReportContent("several", rows, test_sets=list(tests), directions=directions)


def test_without_charts_the_heat_maps_are_tables() -> None:
    page = render_page(several_directions(), with_charts=False)
    parsed = Page(page)
    assert not parsed.open
    text = " ".join(parsed.text)
    for expected in (
        "Directions",
        "averages over directions",
        "zero-shot",
        "from \\ to",
        "40.0*",
        "minus that of teacher",
    ):
        assert expected in text
    assert "<details open>" in page


def test_the_charts_of_quality_are_of_the_mean_over_trained_directions() -> None:
    pytest.importorskip("matplotlib", reason="charts need the extra 'report'")
    page = render_page(several_directions(), with_charts=True)
    num_costs = len([cost for cost in COSTS if cost.value(ROW) is not None])
    assert page.count("<svg ") == num_costs + 2  # two systems with one metric
    assert "BLEU on news, mean of 2 directions" in page
    assert "de to fr (zero-shot): 40.0" in page
