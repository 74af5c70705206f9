"""The tables of a report: every figure is complete, every signature is given once."""

from dataclasses import fields, replace

import pytest

from kdmt.score.deployment import Deployment, EngineMeasurement
from kdmt.score.metrics import MetricScore
from kdmt.score.report import render_table, score_tables_html
from kdmt.score.report_notes import ReportNotes
from kdmt.score.score_files import Comparison, Missing, PValue, ScoreRow, TakenCheckpoint

BLEU_SIGNATURE = "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0"
SECOND_SIGNATURE = "nrefs:1|case:lc|eff:no|tok:none|smooth:exp|version:2.6.0"
CHRF_SIGNATURE = "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0"
TEST_SIGNATURE = "nrefs:1|bs:1000|seed:12345|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0"

ROW = ScoreRow(
    system="teacher",
    test_set="test_2016_flickr",
    seed=1,
    engine="pytorch",
    beam=5,
    compute_type="float32",
    threads=2,
    scores={"bleu": MetricScore(41.02, BLEU_SIGNATURE), "chrf": MetricScore(60.5, CHRF_SIGNATURE)},
    parameters=2_629_632,
    sentences_per_second_batch1=12.34,
    sentences_per_second_max=456.78,
    checkpoint_sha256="0" * 64,
)
COMPARISON = Comparison(
    test_set="test_2016_flickr",
    system="distilled",
    seed=1,
    engine="pytorch",
    beam=5,
    compute_type="float32",
    baseline="raw",
    p_values={"bleu": PValue(0.004, TEST_SIGNATURE), "chrf": PValue(0.5, TEST_SIGNATURE)},
)


def with_bleu(row: ScoreRow, value: float) -> ScoreRow:
    return replace(row, scores={**row.scores, "bleu": MetricScore(value, BLEU_SIGNATURE)})


def with_p(comparison: Comparison, value: float) -> Comparison:
    return replace(comparison, p_values={**comparison.p_values, "bleu": PValue(value, TEST_SIGNATURE)})


def test_without_bleu_the_first_metric_is_the_one_of_p_values():
    errors = MetricScore(55.5, "tok:tercom", higher_is_better=False, range=(0.0, None))
    plus = MetricScore(44.4, "nw:2")
    comparison = replace(COMPARISON, system="teacher", p_values={"ter": PValue(0.25, "t"), "chrf++": PValue(0.75, "c")})
    for scores, p_value, note in (
        ({"ter": errors, "chrf++": plus}, "0.250", "p (TER, paired bootstrap): t"),
        ({"chrf++": plus, "ter": errors}, "0.750", "p (chrF++, paired bootstrap): c"),
    ):
        rows = [replace(ROW, scores=scores)]
        text = render_table(rows, [comparison])
        assert line_of(text, "teacher 5").endswith(p_value)
        assert note in text
        assert "TER is a rate of errors: lower is better" in text
        assert "BLEU" not in text


def three_seeds():
    """Return rows and comparisons of a teacher and two students over three seeds.

    They have two test sets, two beams, and two BLEU scores each.
    """
    rows, comparisons = [], []
    for test_set in ("test_2016_flickr", "test_2017_flickr"):
        for beam in (1, 5):
            second = {"bleu": MetricScore(42.5, SECOND_SIGNATURE)}
            base = replace(ROW, test_set=test_set, beam=beam, second_scores=second)
            rows.append(base)
            for name, bleu in (("raw", 30.0), ("distilled", 35.0)):
                for seed in (1, 2, 3):
                    row = replace(base, system=name, seed=seed, sentences_per_second_max=seed)
                    rows.append(with_bleu(row, bleu + seed))
                    if name == "distilled":
                        where = {"test_set": test_set, "beam": beam, "seed": seed}
                        comparisons.append(with_p(replace(COMPARISON, **where), 0.001 * seed))
    return rows, comparisons


def line_of(text, start):
    """Return the first line that begins with `start`, with runs of spaces joined into one."""
    return next(line for line in (" ".join(line.split()) for line in text.splitlines()) if line.startswith(start))


def test_one_seed_shows_the_scores_themselves():
    text = render_table([ROW])
    assert line_of(text, "teacher 5") == "teacher 5 41.02 60.50"
    assert "2,629,632" in text
    assert "±" not in text
    assert "BLEU (2)" not in text
    assert "p against" not in text


def test_seeds_are_shown_as_mean_and_deviation_and_p_values_as_a_range():
    text = render_table(*three_seeds())
    assert line_of(text, "distilled 5") == "distilled 5 37.00 ± 1.00 42.50 ± 0.00 60.50 ± 0.00 0.001–0.003"
    assert line_of(text, "raw 1") == "raw 1 32.00 ± 1.00 42.50 ± 0.00 60.50 ± 0.00"
    costs = text[text.index("size and speed") :]
    assert line_of(costs, "raw 5") == "raw 5 2,629,632 12.3 2.0"
    assert text.count("test_2016_flickr") == text.count("test_2017_flickr") == 1


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_table_fits_and_no_figure_is_truncated(width):
    rows, comparisons = three_seeds()
    long = "student-distilled-with-a-very-long-name"
    rows = [replace(row, system=long if row.system == "distilled" else row.system) for row in rows]
    comparisons = [replace(comparison, system=long) for comparison in comparisons]
    text = render_table(rows, comparisons, width=width)
    tables, _, signatures = text.partition("BLEU: ")
    assert max(len(line) for line in tables.splitlines()) <= width
    assert tables.count("37.00 ± 1.00") == tables.count("0.001–0.003") == 4
    assert "\x1b" not in text
    assert signatures.splitlines()[0] == BLEU_SIGNATURE


def test_no_figure_is_truncated_in_a_table_that_does_not_fit():
    text = render_table(*three_seeds(), width=30)
    assert text.count("37.00 ± 1.00") == 4
    assert "2,629,632" in text


def test_each_signature_is_below_the_table_once():
    text = render_table(*three_seeds())
    notes = text[text.index("BLEU: ") :].splitlines()
    assert notes[:4] == [
        f"BLEU: {BLEU_SIGNATURE}",
        f"BLEU (2): {SECOND_SIGNATURE}",
        f"chrF: {CHRF_SIGNATURE}",
        f"p (BLEU, paired bootstrap): {TEST_SIGNATURE}",
    ]
    assert "decoded with pytorch float32, 2 threads" in notes


def test_the_table_explains_its_p_values():
    note = "p is one-tailed: the share of resampled test sets"
    assert note in render_table(*three_seeds())
    assert note not in render_table([ROW])


def test_the_table_in_ascii_has_the_same_content():
    rows, comparisons = three_seeds()
    settings = {"missing": [Missing("raw", 4)], "width": 120}
    text = render_table(rows, comparisons, **settings, ascii_only=True)
    assert text.isascii()
    assert text.count("37.00 +/- 1.00") == text.count("0.001-0.003") == 4
    whole = render_table(rows, comparisons, **settings)
    replaced = whole.replace("±", "+/-").replace("–", "-").replace("─", "")
    assert [word for word in text.split() if set(word) != {"-"}] == replaced.split()


def test_the_checkpoint_of_each_system_is_shown_with_the_reason():
    candidates = {"best": 40.0, "average_best": 41.254, "average": None}
    chosen = TakenCheckpoint("average_best", [4, 6], "auto", "bleu", "nrefs:1", candidates)
    rows = [
        replace(ROW, checkpoint=chosen),
        replace(ROW, test_set="other", checkpoint=chosen),
        replace(ROW, system="named", checkpoint=TakenCheckpoint("best", [5500])),
        replace(ROW, system="set", checkpoint=TakenCheckpoint("average", [8, 9], "last", "loss")),
    ]
    table = render_table(rows)
    line = "average_best (updates 4, 6), by validation BLEU: best 40.00, average_best 41.25, average none (nrefs:1)"
    assert table.count(f"checkpoint of {ROW.system}, seed 1: {line}\n") == 1
    assert "checkpoint of named, seed 1: best (update 5500)\n" in table
    assert "checkpoint of set, seed 1: average (updates 8, 9), as 'average.of: last' sets it\n" in table


def test_systems_without_scores_are_named_in_each_table_of_scores():
    rows, comparisons = three_seeds()
    missing = [Missing("raw", 4), Missing("deep", 1), Missing("deep", 2)]
    text = render_table(rows, comparisons, missing=missing)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines.count("raw, seed 4 missing") == lines.count("deep missing") == 2  # test sets
    assert "missing: deep seed 2: never trained" in lines


def test_engines_without_a_model_are_named_in_the_notes_only():
    text = render_table([ROW], missing=[Missing(ROW.system, 1, "it has no such model", "marian")])
    assert f"missing: {ROW.system} seed 1 in marian: it has no such model\n" in text
    assert text.count("missing") == 1


def test_an_unknown_metric_has_a_column_under_its_own_name():
    row = replace(ROW, scores={**ROW.scores, "comet": MetricScore(0.85, "wmt22-comet-da", range=(0.0, 1.0))})
    text = render_table([row, replace(ROW, system="older")])
    assert line_of(text, "system beam") == "system beam BLEU chrF comet"
    assert line_of(text, "teacher 5") == "teacher 5 41.02 60.50 0.8500"
    assert line_of(text, "older 5") == "older 5 41.02 60.50"
    assert "comet: wmt22-comet-da" in text


def test_several_engines_are_shown_in_a_column():
    rows = [ROW, with_bleu(replace(ROW, engine="ctranslate2", compute_type="int8", threads=1), 40.5)]
    comparison = replace(COMPARISON, system="teacher", engine="ctranslate2", compute_type="int8", baseline="float")
    text = render_table(rows, [comparison], width=120)
    assert line_of(text, "teacher pytorch") == "teacher pytorch float32, 2 threads 5 41.02 60.50"
    assert line_of(text, "teacher ctranslate2") == "teacher ctranslate2 int8, 1 thread 5 40.50 60.50 0.004"
    assert "decoded with" not in text


def test_names_are_not_interpreted_as_markup():
    name = "[bold]<b>&amp;"
    assert name in render_table([replace(ROW, system=name)])
    assert "[bold]&lt;b&gt;&amp;amp;" in score_tables_html([replace(ROW, system=name)])[0]


def test_the_page_has_the_same_tables():
    tables = "\n".join(score_tables_html(*three_seeds()))
    assert tables.count('<td class="figure">37.00 ± 1.00</td>') == tables.count(">0.001–0.003<") == 4


def test_an_empty_report():
    with pytest.raises(ValueError, match="no scores"):
        render_table([])
    with pytest.raises(ValueError, match="no scores"):
        score_tables_html([])


def test_several_references_are_in_the_title_of_a_test_set():
    two = replace(ROW, scores={"bleu": MetricScore(50.0, BLEU_SIGNATURE.replace("nrefs:1", "nrefs:2"))})
    other = replace(ROW, test_set="other")
    shown = " ".join(render_table([two, other]).split())
    assert "test_2016_flickr (2 references) system" in shown
    assert "other" in shown
    assert "other (" not in shown
    assert "<caption>test_2016_flickr (2 references)</caption>" in score_tables_html([two, other])[0]


# ------------------------------------------------------------------------------- notes that follow from the settings


def bleu_row(system, value, **changes):
    return replace(ROW, system=system, scores={"bleu": replace(ROW.scores["bleu"], value=value)}, **changes)


def test_a_metric_that_chose_targets_is_marked_with_a_footnote():
    text = render_table([ROW], extra=ReportNotes(chose={"chrf": ["targets of 'students.x' (data: mbr)"]}))
    assert line_of(text, "system beam") == "system beam BLEU chrF*"
    assert (
        "* chrF is no independent evidence where it chose what is scored: targets of 'students.x' (data: mbr)" in text
    )
    assert "*" not in render_table([ROW])


def test_differences_from_the_baseline_have_the_agreement_of_people():
    cost = EngineMeasurement(**dict.fromkeys((each.name for each in fields(EngineMeasurement)), 1.0))
    exported = Deployment("bergamot", 1, cost)
    rows = [
        *(bleu_row("raw", value, seed=seed) for seed, value in ((1, 20.0), (2, 21.0))),
        *(bleu_row("raw", 50.0, seed=seed, beam=1) for seed in (1, 2)),
        *(bleu_row("small", value, seed=seed) for seed, value in ((1, 22.0), (2, 23.68))),
        bleu_row("worse", 49.0, beam=1),
        bleu_row("other", 20.5, beam=7),
        *(bleu_row("raw", 1.0, seed=seed, deployment=exported) for seed in (1, 2)),  # is no baseline
    ]
    comparison = Comparison("test", "small", 1, "pytorch", 5, "float32", "raw", {})
    rows = [replace(row, test_set="test") for row in rows]
    text = render_table(rows, [comparison], extra=ReportNotes(agreement={"bleu": "bleu"}))
    below = text[text.index("test: differences from raw") :]
    assert line_of(below, "small 5") == "small 5 +2.34 (80%)"
    assert line_of(below, "worse 1") == "worse 1 -1.00 (64%)"
    assert line_of(below, "other 7") == "other 7 +0.00 (44%)"  # from the baseline's first way of decoding
    assert "Kocmi et al. (2024)" in text
    tables = score_tables_html(rows, [comparison], extra=ReportNotes(agreement={"bleu": "bleu"}))
    assert any("+2.34 (80%)" in table for table in tables)
    assert "differences" not in render_table(rows, [comparison])
