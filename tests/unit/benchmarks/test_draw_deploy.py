"""The chart of `make bench-deploy`: lengths and labels, from figures made up here."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from bench_deploy import ENGINES, STUDENTS, engines_of, model_of, variants_of
from draw_deploy import _LABELS, deploy_chart, deploy_table
from draw_results import PALETTES

SVG = "{http://www.w3.org/2000/svg}"


def figures_of(student: str, engine: str, milliseconds: float) -> dict[str, float]:
    start = f"deploy_{student}_{engine}"
    return {
        f"{start}_1_ms": milliseconds,
        f"{start}_1_words_per_second": 1500.0,
        f"{start}_1_rss_mb": 300.0,
        f"{start}_mb": 17.5,
    }


def test_bars_are_proportional_to_times_and_the_fastest_is_marked() -> None:
    figures = {
        **figures_of("tiny", "bergamot", 5.0),
        **figures_of("tiny", "pytorch", 20.0),
        **figures_of("ctc", "onnx", 10.0),
    }
    picture = ElementTree.fromstring(deploy_chart(figures, PALETTES[0]))
    bars = list(picture.iter(f"{SVG}rect"))
    widths = [float(bar.attrib["width"]) for bar in bars]
    assert [width / max(widths) for width in widths] == pytest.approx([1.0, 0.25, 0.5], abs=0.001)
    assert [bar.attrib["fill"] == PALETTES[0].distilled for bar in bars] == [False, True, True]
    titles = [title.text for title in picture.iter(f"{SVG}title")]
    assert titles[1] == "tiny, Bergamot int8, shortlist: 5.0 ms, 1,500 words/s, 18 MB, 300 MB of memory"


def test_the_table_has_a_row_for_each_engine_with_two_threads_where_they_were_measured() -> None:
    start = "deploy_tiny_bergamot_2"
    figures = {
        **figures_of("tiny", "pytorch", 20.0),
        **figures_of("tiny", "bergamot", 5.0),
        **{f"{start}_ms": 3.0, f"{start}_words_per_second": 2500.0},
    }
    assert deploy_table(figures).splitlines()[2:] == [
        "| `tiny` | PyTorch | 18 MB | 20.0 | 1,500 | 300 MB |",
        "| `tiny` | **Bergamot int8, shortlist** | 18 MB | 5.0 / 3.0 | 1,500 / 2,500 | 300 MB |",
    ]


def test_every_engine_has_a_label() -> None:
    assert _LABELS.keys() == ENGINES.keys()


def test_ctranslate2_gets_students_with_self_attention() -> None:
    assert variants_of(["tiny"], ["marian", "ctranslate2", "ctranslate2_int8"]) == ["tiny", "tiny_attention"]
    assert model_of("base_memory_attention")["model"] == {"arch": "student_base_memory", "decoder": "self_attention"}
    assert engines_of("ctc", list(ENGINES)) == ["pytorch", "onnx", "onnx_int8"]
    assert engines_of(STUDENTS[0], list(ENGINES)) == list(ENGINES)
