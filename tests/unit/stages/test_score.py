"""The score stage through the command line: every row compared with figures computed again from the files."""

from __future__ import annotations

import errno
import io
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
from safetensors.numpy import load_file
from tiny_pipeline import Finished, hash_tree, kdmt, read_lines, run_stages, settings, to_yaml, write_lines

from kdmt.cli import main
from kdmt.decode.engines.translator import Translator

TINY = Path("runs/tiny")
RUNS = {"teacher": "teacher", "raw": "students/raw/seed_1", "distilled": "students/distilled/seed_1"}
FIELDS = {  # the required keys of scores.json
    *("system", "test_set", "seed", "engine", "beam", "compute_type", "threads", "bleu", "chrf", "bleu_signature"),
    *("parameters", "sentences_per_second_batch1", "sentences_per_second_max", "checkpoint_sha256"),
}


def score(*sets: str) -> Finished:
    return kdmt("score", "tiny.yaml", *(part for setting in sets for part in ("--set", setting)))


def entries() -> list[dict[str, Any]]:
    return json.loads((TINY / "scores.json").read_text(encoding="utf-8"))


def rows() -> list[dict[str, Any]]:
    """Return the rows of the systems that have scores."""
    return [entry for entry in entries() if "missing" not in entry]


def significance() -> list[dict[str, Any]]:
    return json.loads((TINY / "significance.json").read_text(encoding="utf-8"))


@pytest.mark.usefixtures("finished")
def test_scores_equal_those_of_the_stored_translations() -> None:
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
def test_checkpoint_auto_is_the_one_with_the_best_validation_and_is_shown() -> None:
    """Compare with the validation set translated by every candidate."""
    result = score("score.checkpoint=auto")
    assert result.code == 0, result.err
    hashes, stdin = hash_tree(TINY), Path("text/valid.en").read_bytes()
    limits = ("--max-len-a", "1.2", "--max-len-b", "10", "--threads", "1")
    for row in rows():
        run, taken = RUNS[row["system"]], row["checkpoint"]
        scores = {}
        for name in ("best", "average_best", "average"):
            hypotheses = kdmt("translate", TINY / run / name, "--beam", "1", *limits, stdin=stdin).out.splitlines()
            scores[name] = sacrebleu.corpus_bleu(hypotheses, [read_lines(Path("text/valid.de"))]).score
        assert taken["candidates"] == pytest.approx(scores)
        assert scores[taken["name"]] == pytest.approx(max(scores.values()))
        assert taken["signature"].startswith("nrefs:1|")
        pointer = TINY / run / taken["name"]
        folder = pointer.read_text().strip() if pointer.is_file() else taken["name"]
        assert row["checkpoint_sha256"] == hashes[f"{run}/{folder}/model.safetensors"]
        assert f"checkpoint of {row['system']}, seed 1: {taken['name']} (update" in result.out
    assert "score: up to date" in score("score.checkpoint=auto").err


@pytest.mark.usefixtures("finished")
def test_results_of_runs_of_an_older_version_are_up_to_date_with_the_default_checkpoint() -> None:
    """Check runs without a choice, whose training sets and scores were made with the default of older versions."""
    for run in RUNS.values():
        shutil.rmtree(TINY / run / "average_best")
        for name in ("average_best_of", "chosen.json"):
            (TINY / run / name).unlink()
        path = TINY / run / "manifest.json"
        manifest = json.loads(path.read_text(encoding="utf-8"))
        outputs = manifest["outputs"].items()
        manifest["outputs"] = {k: v for k, v in outputs if not k.startswith(("average_best", "chosen"))}
        del manifest["extend"][next(key for key in manifest["extend"] if key.endswith("average.of"))]
        path.write_text(json.dumps(manifest), encoding="utf-8")
    sets = ("--set", "distill.checkpoint=auto", "--set", "score.checkpoint=auto")
    for command in ("teacher", "distill", "student", "score"):
        result = kdmt(command, "tiny.yaml", *sets)
        assert result.code == 0, result.err
        assert "up to date" in result.err
        assert "rebuilt" not in result.err
        assert "going on" not in result.err


@pytest.mark.usefixtures("finished")
def test_translations_equal_those_of_kdmt_translate() -> None:
    """Check that the prepared test set and the raw lines, translated with the checkpoint alone, give the same text."""
    stdin = Path("text/test.en").read_bytes()
    limits = ("--max-len-a", "1.2", "--max-len-b", "10", "--threads", "1")
    translated = kdmt("translate", TINY / "teacher/average", "--beam", "2", *limits, stdin=stdin)
    assert translated.out == (TINY / "score/teacher.seed_1.test.beam2.de").read_text(encoding="utf-8")


@pytest.mark.usefixtures("finished")
def test_the_first_student_on_raw_data_is_the_baseline() -> None:
    compared = [(c["system"], c["baseline"], c["beam"]) for c in significance()]
    assert compared == [(name, "raw", beam) for name in ("teacher", "distilled") for beam in (1, 2)]
    assert all(0 < c["bleu_p_value"] <= 1 and "bs:20" in c["bleu_signature"] for c in significance())
    assert score("score.baseline=teacher", "score.beams=[1]").code == 0
    assert [(c["system"], c["baseline"]) for c in significance()] == [("raw", "teacher"), ("distilled", "teacher")]


@pytest.mark.usefixtures("finished")
def test_the_table_is_printed_at_the_end() -> None:
    result = score("score.beams=[1]")
    assert result.code == 0
    bleu = {row["system"]: row["bleu"] for row in rows()}
    for name, value in bleu.items():
        assert re.search(rf"^{name} +1 +{value:.2f} ", result.out, re.MULTILINE)
    assert "runs/tiny/scores.json" in result.out
    assert f"{bleu['raw']:.2f}" in (TINY / "report.html").read_text(encoding="utf-8")
    again = score("score.beams=[1]")
    assert again.err == "score: up to date, nothing to do\n"
    assert again.out == result.out  # the table is printed again, although the stage was up to date


@pytest.mark.usefixtures("finished")
def test_an_untrained_student_is_missing_and_one_that_is_out_of_date_stops_scoring() -> None:
    before = rows()
    result = score("students.new={}", "students.raw.seeds=[1, 2]")
    assert result.code == 0
    assert "the setting never trained changed from [] to ['raw seed 2', 'new seed 1']" in result.err
    assert entries() == [
        *before,
        {"system": "raw", "seed": 2, "missing": "never trained"},
        {"system": "new", "seed": 1, "missing": "never trained"},
    ]
    assert re.search(r"^raw, seed 2 +missing$", result.out, re.MULTILINE)
    assert re.search(r"^new +missing$", result.out, re.MULTILINE)
    assert "missing: new seed 1: never trained" in result.out
    html = (TINY / "report.html").read_text(encoding="utf-8")
    assert '<td>new</td><td class="figure"></td><td class="figure">missing</td>' in html
    assert "<code>missing: raw seed 2: never trained</code>" in html
    again = score("students.new={}", "students.raw.seeds=[1, 2]")
    assert (again.err, again.out) == ("score: up to date, nothing to do\n", result.out)
    assert score().code == 0
    assert entries() == before  # nothing of the present pipeline is missing

    result = score("students.raw.train.lr=0.5")
    assert result.code == 2
    assert "student raw seed 1 is not up to date: the setting students.raw.train.lr changed" in result.err
    result = score("students.new={}", "score.baseline=new")
    assert result.code == 2
    assert "score.baseline: 'new' is none of the trained teacher, raw, distilled" in result.err


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize("setting", ["never trained", "metrics"])
def test_a_report_of_an_earlier_version_is_up_to_date(setting: str) -> None:
    manifest = TINY / "score/manifest.json"
    record = json.loads(manifest.read_text(encoding="utf-8"))
    del record["settings"][setting]
    manifest.write_text(json.dumps(record), encoding="utf-8")
    assert score().err == "score: up to date, nothing to do\n"


@pytest.mark.usefixtures("finished", "undecoded")
def test_further_metrics_score_the_stored_translations_again() -> None:
    before = rows()
    assert score("score.metrics=[bleu, chrf]").err == "score: up to date, nothing to do\n"
    result = score("score.metrics=[bleu, chrf, chrf++, ter]")
    assert "the setting metrics changed from ['bleu', 'chrf'] to ['bleu', 'chrf', 'chrf++', 'ter']" in result.err
    references = Path("text/test.de").read_text(encoding="utf-8").splitlines()
    ter, plus = sacrebleu.TER(case_sensitive=True), sacrebleu.CHRF(word_order=2)
    for row, old in zip(rows(), before, strict=True):
        assert {name: row["scores"][name] for name in ("bleu", "chrf")} == old["scores"]
        text = TINY / f"score/{row['system']}.seed_{row['seed']}.test.beam{row['beam']}.de"
        hypotheses = text.read_text(encoding="utf-8").splitlines()
        for name, metric in (("ter", ter), ("chrf++", plus)):
            assert row["scores"][name]["value"] == pytest.approx(metric.corpus_score(hypotheses, [references]).score)
            assert row["scores"][name]["signature"] == str(metric.get_signature())
    assert all(each["p_values"].keys() == {"bleu", "chrf", "chrf++", "ter"} for each in significance())
    assert "TER is a rate of errors: lower is better" in result.out
    assert [row["scores"].keys() for row in rows_with("score.metrics=[ter]")] == [{"ter"}] * len(before)


def rows_with(*sets: str) -> list[dict[str, Any]]:
    assert score(*sets).code == 0
    return rows()


@pytest.fixture
def undecoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make decoding fail from here on."""

    def refuse(*_: object) -> None:
        raise AssertionError("a test set is decoded again")

    monkeypatch.setattr(Translator, "best_hypotheses", refuse)


@pytest.mark.usefixtures("finished", "undecoded")
@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("score.tokenize=char", {"tokenize": "char"}),
        ("score.lowercase=true", {"lowercase": True}),
        (
            "score={checkpoint: average, tokenize: none, detokenized: false, beams: [1, 2], threads: 1, "
            "speed_sentences: 2}",
            {"tokenize": "none"},
        ),
    ],
)
def test_another_metric_scores_the_stored_translations_again(setting: str, expected: dict[str, Any]) -> None:
    before = rows()
    result = score(setting)
    assert result.code == 0, result.err
    assert result.err.count(": translated before, scored again\n") == len(before) == 6
    references = [read_lines(Path("text/test.de"))]
    for row, old in zip(rows(), before, strict=True):
        hypotheses = read_lines(TINY / "score" / f"{row['system']}.seed_1.test.beam{row['beam']}.de")
        assert row["bleu"] == pytest.approx(sacrebleu.corpus_bleu(hypotheses, references, **expected).score)
        assert row["bleu_signature"] != old["bleu_signature"]
        measured = ("sentences_per_second_batch1", "sentences_per_second_max", "checkpoint_sha256", "parameters")
        assert [row[key] for key in measured] == [old[key] for key in measured]


@pytest.mark.usefixtures("finished", "undecoded")
def test_more_samples_another_baseline_and_fewer_beams_decode_nothing() -> None:
    assert score("score.bootstrap_samples=30", "score.baseline=teacher", "score.beams=[2]").code == 0
    assert [row["beam"] for row in rows()] == [2, 2, 2]
    assert all("bs:30" in each["bleu_signature"] for each in significance())
    assert score().code == 0  # and back
    assert len(rows()) == 6


def decoded(result: Finished) -> list[str]:
    """Return the systems that a command reports as decoded."""
    lines = [line for line in result.err.splitlines() if line.startswith("score: ") and " seed 1 on test, " in line]
    return [line.removeprefix("score: ") for line in lines if "translated before" not in line]


@pytest.mark.usefixtures("finished")
def test_only_systems_with_changed_decoding_settings_are_decoded_again() -> None:
    assert decoded(score("score.beams=[2, 3]")) == [f"{name} seed 1 on test, beam3" for name in RUNS]
    assert len(decoded(score("score.beams=[2, 3]", "score.lenpen=0.5"))) == 6
    assert len(decoded(score("score.beams=[2]", "score.checkpoint=best"))) == 3


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize("ending", ["de", "json"])
def test_only_a_damaged_translation_is_decoded_again(ending: str) -> None:
    found, path = rows(), TINY / f"score/decoded/raw.seed_1.test.beam1.{ending}"
    path.write_bytes(path.read_bytes()[:-7])
    result = score()
    assert f"its output decoded/{path.name} was changed" in result.err
    assert decoded(result) == ["raw seed 1 on test, beam1"]
    assert [row["bleu"] for row in rows()] == [row["bleu"] for row in found]


@pytest.mark.usefixtures("finished")
def test_interrupted_scoring_is_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt with Ctrl-C while the second test set is decoded."""
    decode, calls = Translator.best_hypotheses, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 5:  # after a warm-up, two single sentences and the whole set
            raise KeyboardInterrupt
        return decode(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Translator, "best_hypotheses", interrupted)
        assert score("score.lenpen=0.5").code != 0
    result = score("score.lenpen=0.5")
    assert result.code == 0
    assert "score: going on: it was started and not finished" in result.err
    assert len(decoded(result)) == 5


class Gone(io.BytesIO):
    """A pipe whose reader has ended."""

    def write(self, _: object) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


@pytest.mark.usefixtures("finished")
def test_scores_are_written_if_the_pipe_for_the_table_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["kdmt", "score", "tiny.yaml", "--set", "score.tokenize=char"])
        patch.setattr(sys, "stdout", io.TextIOWrapper(Gone(), encoding="utf-8", write_through=True))
        patch.setattr(sys, "stderr", messages)
        with pytest.raises(SystemExit) as end:
            main()
    assert end.value.code == 1
    assert "Traceback" not in messages.getvalue()
    assert all("tok:char" in row["bleu_signature"] for row in rows())
    again = score("score.tokenize=char")
    assert (again.code, again.err) == (0, "score: up to date, nothing to do\n")
    assert "tok:char" in again.out


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_unicode_shows_the_whole_table(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    shown = score().out
    out = io.BytesIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["kdmt", "score", "tiny.yaml"])
        patch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding=encoding))
        patch.setattr(sys, "stderr", io.StringIO())
        with pytest.raises(SystemExit) as end:
            main()
        sys.stdout.detach()
    assert not end.value.code
    assert out.getvalue().decode("ascii") == shown.replace("─", "-")


@pytest.mark.usefixtures("finished")
def test_a_new_seed_adds_mean_and_deviation_to_the_table() -> None:
    sets = ["students.raw.seeds=[1, 2]", "score.beams=[1]"]
    run_stages("student", sets=sets)
    result = score(*sets)
    assert "; the input raw/seed_2 is new (the old one is kept as score.previous)" in result.err
    values = [row["bleu"] for row in rows() if row["system"] == "raw"]
    assert [row["seed"] for row in rows() if row["system"] == "raw"] == [1, 2]
    assert f"{sum(values) / 2:.2f} ± " in result.out


@pytest.mark.usefixtures("finished")
def test_scores_are_restored_with_their_settings() -> None:
    reports = [TINY / name for name in ("scores.json", "significance.json", "report.html")]
    made = [path.read_bytes() for path in reports]
    assert score("score.beams=[1]").code == 0
    assert [path.read_bytes() for path in reports] != made
    assert score().err == (
        "score: taken back from score.previous, which was made with these settings\nscore: up to date, nothing to do\n"
    )
    assert [path.read_bytes() for path in reports] == made


@pytest.mark.usefixtures("finished")
def test_an_edited_report_is_written_again() -> None:
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
def test_processed_text_has_two_scores_and_a_long_source_is_truncated() -> None:
    """Check BLEU of detokenised text against raw references and of lowercased tokens, each with its signature."""
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
    assert "case:lc" in row["bleu_signature"]  # lowercased text has no case
    assert "tok:13a" in row["bleu_signature"]
    assert "tok:none" in row["bleu_second_signature"]
    assert score("score={checkpoint: average, detokenized: false, tokenize: none, beams: [1], threads: 1}").code == 0
    (other,) = rows()
    assert other["bleu"] == pytest.approx(row["bleu_second"])
    assert "tok:none" in other["bleu_signature"]
    assert "case:lc" in other["bleu_second_signature"]


@pytest.mark.usefixtures("finished")
def test_nonautoregressive_students_are_scored_with_the_teacher() -> None:
    """Check iterations instead of beams, counted decoder passes, and candidates rescored by the teacher."""
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


@pytest.mark.usefixtures("finished")
def test_a_student_in_stages_is_one_system_and_its_last_stage_is_scored() -> None:
    stages = ["students.raw.stages=[{}, {data: distilled, lr: 0.005}]", "score.checkpoint=average", "score.beams=[1]"]
    result = score(*stages)
    assert result.code == 0, result.err
    # the run without stages is another student
    assert {entry["system"]: "missing" in entry for entry in entries()} == {
        "teacher": False,
        "raw": True,
        "distilled": False,
    }
    assert kdmt("student", "tiny.yaml", *(part for each in stages for part in ("--set", each))).code == 0
    assert score(*stages).code == 0
    assert [(row["system"], row["seed"]) for row in rows()] == [("teacher", 1), ("raw", 1), ("distilled", 1)]
    assert (
        rows()[1]["checkpoint_sha256"] == hash_tree(TINY / "students/raw/seed_1/stage_2/average")["model.safetensors"]
    )
    assert {entry["baseline"] for entry in significance()} == {"teacher"}  # no student has learnt from raw data alone
