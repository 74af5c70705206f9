"""The score stage through the command line: every row against figures computed again from the files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
from safetensors.numpy import load_file
from tiny_pipeline import Finished, hash_tree, kdmt, read_lines, run_stages, settings, to_yaml, write_lines

TINY = Path("runs/tiny")
RUNS = {"teacher": "teacher", "raw": "students/raw/seed_1", "distilled": "students/distilled/seed_1"}
FIELDS = {  # of the issue that asked for scores.json
    *("system", "test_set", "seed", "engine", "beam", "compute_type", "threads", "bleu", "chrf", "bleu_signature"),
    *("parameters", "sentences_per_second_batch1", "sentences_per_second_max", "checkpoint_sha256"),
}


def score(*sets: str) -> Finished:
    return kdmt("score", "tiny.yaml", *(part for setting in sets for part in ("--set", setting)))


def rows() -> list[dict[str, Any]]:
    return json.loads((TINY / "scores.json").read_text(encoding="utf-8"))


def significance() -> list[dict[str, Any]]:
    return json.loads((TINY / "significance.json").read_text(encoding="utf-8"))


@pytest.mark.usefixtures("finished")
def test_scores_are_those_of_the_translations_that_are_kept() -> None:
    found, hashes = rows(), hash_tree(TINY)
    assert [(row["system"], row["beam"]) for row in found] == [(name, beam) for name in RUNS for beam in (1, 2)]
    references = [read_lines(Path("text/test.de"))]
    for row in found:
        assert row.keys() >= FIELDS
        name = f"{row['system']}.seed_1.test.beam{row['beam']}.de"
        hypotheses = read_lines(TINY / "score" / name)
        assert row["bleu"] == pytest.approx(sacrebleu.corpus_bleu(hypotheses, references).score)
        assert row["chrf"] == pytest.approx(sacrebleu.corpus_chrf(hypotheses, references).score)
        assert "tok:13a" in row["bleu_signature"]
        run = RUNS[row["system"]]
        weights = load_file(TINY / run / "average" / "model.safetensors")
        assert row["parameters"] == sum(value.size for value in weights.values())
        assert row["checkpoint_sha256"] == hashes[f"{run}/average/model.safetensors"]
        assert min(row["sentences_per_second_batch1"], row["sentences_per_second_max"]) > 0
        assert (row["test_set"], row["seed"], row["threads"]) == ("test", 1, 1)
        assert (row["engine"], row["compute_type"]) == ("pytorch", "float32")


@pytest.mark.usefixtures("finished")
def test_translations_are_those_of_kdmt_translate() -> None:
    """Two ways through the code to one text: from the prepared test set, and from raw lines by the checkpoint alone."""
    stdin = Path("text/test.en").read_bytes()
    limits = ("--max-len-a", "1.2", "--max-len-b", "10", "--threads", "1")
    translated = kdmt("translate", TINY / "teacher", "--beam", "2", *limits, stdin=stdin)
    assert translated.out == (TINY / "score/teacher.seed_1.test.beam2.de").read_text(encoding="utf-8")


@pytest.mark.usefixtures("finished")
def test_significance_is_against_the_first_student_on_raw_data() -> None:
    compared = [(c["system"], c["baseline"], c["beam"]) for c in significance()]
    assert compared == [(name, "raw", beam) for name in ("teacher", "distilled") for beam in (1, 2)]
    assert all(0 < c["bleu_p_value"] <= 1 and "bs:20" in c["bleu_signature"] for c in significance())
    assert score("score.baseline=teacher", "score.beams=[1]").code == 0
    assert [(c["system"], c["baseline"]) for c in significance()] == [("raw", "teacher"), ("distilled", "teacher")]


@pytest.mark.usefixtures("finished")
def test_a_table_ends_the_pipeline() -> None:
    result = score("score.beams=[1]")
    assert result.code == 0
    bleu = {row["system"]: row["bleu"] for row in rows()}
    for name, value in bleu.items():
        assert re.search(rf"^{name} +1 +{value:.2f} ", result.out, re.MULTILINE)
    assert "runs/tiny/scores.json" in result.out
    assert f"{bleu['raw']:.2f}" in (TINY / "report.html").read_text(encoding="utf-8")
    again = score("score.beams=[1]")
    assert again.err == "score: up to date, nothing to do\n"
    assert again.out == result.out  # the table is shown, though nothing was done


@pytest.mark.usefixtures("finished")
def test_a_student_that_was_never_trained_is_left_out_and_one_that_is_stale_stops_it() -> None:
    assert score("students.new={}").err == "score: up to date, nothing to do\n"
    result = score("students.raw.train.lr=0.5")
    assert result.code == 2
    assert "student raw seed 1 is not up to date: the setting students.raw.train.lr changed" in result.err
    result = score("students.new={}", "score.baseline=new")
    assert result.code == 2
    assert "score.baseline: 'new' is none of the trained teacher, raw, distilled" in result.err


@pytest.mark.usefixtures("finished")
def test_a_new_seed_joins_the_table_with_mean_and_deviation() -> None:
    sets = ["students.raw.seeds=[1, 2]", "score.beams=[1]"]
    run_stages("student", sets=sets)
    result = score(*sets)
    assert "; the input raw/seed_2 is new (the old one is kept as score.previous)" in result.err
    values = [row["bleu"] for row in rows() if row["system"] == "raw"]
    assert [row["seed"] for row in rows() if row["system"] == "raw"] == [1, 2]
    assert f"{sum(values) / 2:.2f} ± " in result.out


@pytest.mark.usefixtures("finished")
def test_scores_are_put_back_with_their_settings() -> None:
    reports = [TINY / name for name in ("scores.json", "significance.json", "report.html")]
    made = [path.read_bytes() for path in reports]
    assert score("score.beams=[1]").code == 0
    assert [path.read_bytes() for path in reports] != made
    assert score().err == (
        "score: taken back from score.previous, which was made with these settings\nscore: up to date, nothing to do\n"
    )
    assert [path.read_bytes() for path in reports] == made


@pytest.mark.usefixtures("finished")
def test_a_report_that_was_edited_is_made_anew() -> None:
    (TINY / "scores.json").write_text("[]", encoding="utf-8")
    assert "its output ../scores.json was changed" in score().err
    assert len(rows()) == 6


@pytest.mark.usefixtures("finished")
def test_a_pipeline_without_test_sets_cannot_be_scored() -> None:
    document = settings()
    document["prepare"]["test"] = {}
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    made = hash_tree(TINY / "score")
    result = kdmt("score", "tiny.yaml", "--rebuild")
    assert result.code == 2
    assert "prepare.test: the pipeline has no test set to score on" in result.err
    assert hash_tree(TINY / "score") == made


@pytest.mark.usefixtures("pipeline")
def test_processed_text_has_two_figures_and_a_long_source_is_cut() -> None:
    """BLEU of finished text against raw references, and of lowercased tokens against tokens: each with a signature."""
    for split in ("train", "valid", "test"):
        for lang in ("en", "de"):
            path = Path(f"text/{split}.{lang}")
            write_lines(path, [f"{line.capitalize()}!" for line in read_lines(path)])
    for split in ("valid", "test"):
        write_lines(Path(f"text/{split}.en"), ["ba " * 100, *read_lines(Path(f"text/{split}.en"))[1:]])
    document = settings()
    document["prepare"]["text"] = {"moses": True, "lowercase": True}
    document["prepare"]["tokenizer"]["vocab_size"] = 26
    document["teacher"]["train"] |= {"max_updates": 2, "validate_interval_updates": 2}
    document["score"]["beams"] = [1]
    del document["students"]
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    run_stages("prepare", "teacher", "score")
    (row,) = rows()
    assert "tok:13a" in row["bleu_signature"]
    assert "tok:none" in row["bleu_second_signature"]
    assert score("score={detokenized: false, tokenize: none, beams: [1], threads: 1}").code == 0
    (other,) = rows()
    assert other["bleu"] == pytest.approx(row["bleu_second"])
    assert "tok:none" in other["bleu_signature"]
    assert "case:lc" in other["bleu_second_signature"]


@pytest.mark.usefixtures("finished")
def test_students_that_write_at_once_stand_beside_those_that_do_not() -> None:
    """Iterations in place of beams; passes of the decoder are counted; the teacher may choose among candidates."""
    sets = ("students.raw.nat={family: cmlm}", "students.distilled.nat={family: ctc, upsample: 6}")
    ways = ("score.iterations=[1, 3]", "score.nat={length_beam: 2, rescore: true}")
    arguments = [part for setting in sets for part in ("--set", setting)]
    assert kdmt("student", "tiny.yaml", *arguments).code == 0
    result = score(*sets, *ways)
    assert result.code == 0, result.err
    found = [(row["system"], row["beam"], row["iterations"], row["steps"]) for row in rows()]
    assert found[:2] == [("teacher", 1, None, None), ("teacher", 2, None, None)]
    assert [each[:3] for each in found[2:]] == [("raw", 1, 1), ("raw", 1, 3), ("distilled", 1, 1)]
    steps = [each[3] for each in found[2:]]
    assert steps[0] == steps[2] == 1.0
    assert 1.0 < steps[1] <= 3.0
    references = [read_lines(Path("text/test.de"))]
    for row in rows()[2:]:
        hypotheses = read_lines(TINY / "score" / f"{row['system']}.seed_1.test.iter{row['iterations']}.de")
        assert row["bleu"] == pytest.approx(sacrebleu.corpus_bleu(hypotheses, references).score)
    assert "iterations" in result.out
    assert {(each["system"], each["iterations"]) for each in significance()} == {
        ("teacher", None),
        ("distilled", 1),
    }
    assert score(*sets, *ways).err == "score: up to date, nothing to do\n"
