"""Charts: SVG that a page can contain, with the values that were given."""

from __future__ import annotations

import re
import sys
from itertools import combinations
from xml.etree import ElementTree

import pytest

from kdmt.score.report_page import charts
from kdmt.score.report_page.charts import Mark
from kdmt.score.report_page.curves import Curve
from kdmt.score.report_page.directions import HeatMap
from kdmt.score.report_page.gaps import Gap

pytest.importorskip("matplotlib", reason="charts need the extra 'report'")

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = '<script>alert("1")</script> & $\\frac{1}{2}$ 猫'


def quality(marks: list[Mark], name: str = "chart") -> str:
    return charts.quality_chart(marks, cost_label="sentences/s", score_label="BLEU", name=name, more_is_better=True)


def heat_map() -> str:
    values = {("en", "de"): 20.0, ("de", "en"): 31.26, ("de", HOSTILE): 5.0}
    untrained = frozenset([("de", HOSTILE)])
    map_ = HeatMap(HOSTILE, "BLEU", ["en", "de"], ["en", "de", HOSTILE], values, untrained, (5.0, 31.26), 1)
    return charts.heat_map_chart(map_, name="chart")


def every_chart() -> list[str]:
    curve = Curve(HOSTILE, [1, 2], [3.0, 2.0], [2.5, 1.5], [3.5, 2.5], 2)
    return [
        quality([Mark(HOSTILE, "pytorch", HOSTILE, 10.0, 30.0), Mark("b", "onnx", "b", 20.0, 20.0)]),
        charts.curves_chart([curve], [curve], label=HOSTILE, name="chart", is_loss=True),
        charts.histogram_chart([0.0, 1.0, 2.0], [5, 6], label=HOSTILE, unit="sentences", name="chart"),
        charts.bars_chart({HOSTILE: 3}, label="failed", name="chart"),
        charts.gaps_chart([Gap(-1.0, -2.0, -0.5)], [HOSTILE], unit="BLEU", name="chart"),
        heat_map(),
        charts.kinds_chart([HOSTILE, "long"], {HOSTILE: [1.0, None]}, label="BLEU", name="chart", joined=True),
    ]


@pytest.fixture(scope="module")
def drawn() -> list[str]:
    return every_chart()


def test_every_chart_is_xml_whose_text_is_escaped_and_written_as_it_is(drawn: list[str]) -> None:
    for text in drawn:
        root = ElementTree.fromstring(text)
        assert root.tag == f"{SVG}svg"
        assert "<script" not in text
        assert HOSTILE in {"".join(each.itertext()) for each in root.iter(f"{SVG}text")}


def test_legends_have_names_that_begin_with_an_underscore() -> None:
    curve = Curve("_small", [1, 2], [3.0, 2.0], [3.0, 2.0], [3.0, 2.0], 1)
    drawn = [
        charts.curves_chart([curve], label="BLEU", name="chart"),
        charts.kinds_chart(["long"], {"_small": [1.0], "big": [2.0]}, label="BLEU", name="chart", joined=True),
    ]
    for text in drawn:
        assert "_small" in {"".join(each.itertext()) for each in ElementTree.fromstring(text).iter(f"{SVG}text")}


def test_charts_load_nothing_and_have_no_date_and_no_colour_but_variables(drawn: list[str]) -> None:
    for text in drawn:
        assert not re.search(r"<(metadata|image|script|style|foreignObject)\b(?!>\*\{)", text.replace("<style ", "<s "))
        assert all(link.startswith("#") for link in re.findall(r'href="([^"]*)"', text))
        assert all(link.startswith("#") for link in re.findall(r"url\(([^)]*)\)", text))
        assert not re.search(r"#[0-9a-f]{6}\b(?!\))", re.sub(r'(url\(#|href="#|id=")\w+', "", text))
        assert "var(--ink)" in text
        assert not re.search(r"20\d\d-\d\d-\d\d", text)


def test_the_same_values_give_the_same_bytes_and_names_keep_identifiers_apart(drawn: list[str]) -> None:
    assert drawn[1] == charts.curves_chart(
        *([Curve(HOSTILE, [1, 2], [3.0, 2.0], [2.5, 1.5], [3.5, 2.5], 2)] for _ in range(2)),
        label=HOSTILE,
        name="chart",
        is_loss=True,
    )
    marks = [Mark("a", "pytorch", "a", 10.0, 30.0)]
    identifiers = [set(re.findall(r'id="([^"]+)"', quality(marks, name))) for name in ("one", "two")]
    assert identifiers[0]
    assert not identifiers[0] & identifiers[1]


def test_every_system_has_a_tooltip_and_labels_do_not_overlap() -> None:
    marks = [Mark(f"s{i}", "pytorch", f"student_{i}, beam 5", 10.0 + i % 4, 30.0 + i / 10) for i in range(24)]
    root = ElementTree.fromstring(quality(marks))
    titles = [title.text or "" for title in root.iter(f"{SVG}title")]
    assert sorted(title.partition(":")[0] for title in titles) == sorted(mark.label for mark in marks)
    boxes = []
    for text in root.iter(f"{SVG}text"):
        if (text.text or "").startswith("student_"):
            x, y = float(text.get("x", "")), float(text.get("y", ""))
            boxes.append((x, y))
    assert 2 <= len(boxes) <= 16
    # the labels are as long as each other: about 75 points wide and 9 high
    assert all(abs(a[0] - b[0]) > 60 or abs(a[1] - b[1]) > 8 for a, b in combinations(boxes, 2))


def test_the_axis_of_costs_is_logarithmic() -> None:
    root = ElementTree.fromstring(quality([Mark("a", "e", "a", cost, 30.0) for cost in (10.0, 20.0, 40.0)]))
    uses = [
        use
        for group in root.iter(f"{SVG}g")
        if group.find(f"{SVG}title") is not None
        for use in group.iter(f"{SVG}use")
    ]
    xs = [float(use.get("x", "")) for use in uses]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.01)


def test_settings_of_the_user_do_not_change_charts_and_are_restored() -> None:
    import matplotlib

    marks = [Mark("a", "pytorch", "a", 10.0, 30.0)]
    before = quality(marks)
    with matplotlib.rc_context({"font.size": 30.0}):
        assert quality(marks) == before
        assert matplotlib.rcParams["font.size"] == 30.0


def test_matplotlib_is_found_if_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert charts.has_charts()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not charts.has_charts()


def test_a_heat_map_has_its_figures_and_a_stronger_colour_for_a_higher_value() -> None:
    root = ElementTree.fromstring(heat_map())
    assert {"20.0", "31.3", "5.0"} <= {element.text for element in root.iter(f"{SVG}text")}
    strengths = {}
    for group in root.iter(f"{SVG}g"):
        title = group.find(f"{SVG}title")
        if title is not None and title.text is not None:
            (path,) = group.iter(f"{SVG}path")
            found = re.search(r"fill: var\(--series-0\);.*?opacity: ([0-9.]+)", path.attrib["style"])
            assert found is not None
            strengths[title.text] = float(found[1])
    assert [title.rpartition(": ")[2] for title in sorted(strengths, key=strengths.__getitem__)] == [
        "5.0",
        "20.0",
        "31.3",
    ]
    assert f"de to {HOSTILE} (zero-shot): 5.0" in strengths
