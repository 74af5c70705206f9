"""The Python interface: imported lazily, typed, silent, with the same results as the command line."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from random_multilingual import scores_in, write_checkpoint
from tiny_pipeline import SIZES, hash_tree, kdmt, make_pairs, read_lines

import kdmt as package
from kdmt.api import Model, Pipeline, Translation, load
from kdmt.errors import UserError

TEACHER = Path("runs/tiny/teacher")
LINES = [source for source, _ in make_pairs(7, seed=5)]


@pytest.fixture
def model(finished: Path) -> Model:  # noqa: ARG001
    return load(TEACHER, threads=1)


# ------------------------------------------------------------------------------------------------------ the package


def run_python(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def test_importing_the_package_loads_no_submodule() -> None:
    program = "import sys\nbefore = set(sys.modules)\nimport kdmt\nprint(*sorted(set(sys.modules) - before))"
    loaded = set(run_python(program).split())
    assert {name for name in loaded if name.startswith("kdmt")} == {"kdmt"}
    assert {name.partition(".")[0] for name in loaded} <= {"kdmt", "__future__", *sys.stdlib_module_names}
    assert len(loaded) < 5


def test_opening_a_pipeline_does_not_import_torch(pipeline: Path) -> None:
    program = f"""
import sys, kdmt
pipeline = kdmt.Pipeline.from_yaml({str(pipeline / "tiny.yaml")!r})
print("torch" in sys.modules, pipeline.folder)
"""
    assert run_python(program) == "False runs/tiny\n"


def test_every_public_name_exists_and_is_listed() -> None:
    for name in package.__all__:
        assert getattr(package, name) is not None
        assert name in dir(package)
    assert package.load is load
    assert package.UserError is UserError
    with pytest.raises(AttributeError, match="has no attribute 'nope'"):
        package.nope  # noqa: B018


# ------------------------------------------------------------------------------------------------------- translation


def test_translations_equal_those_of_the_command_line(model: Model) -> None:
    lines = [*LINES, "", "ba"]
    for beam, flags in ((None, []), (2, ["--beam", "2", "--lenpen", "0.5"])):
        result = kdmt("translate", TEACHER, *flags, "--threads", "1", stdin="".join(f"{x}\n" for x in lines).encode())
        assert result.code == 0, result.err
        lenpen = None if beam is None else 0.5
        assert model.translate(lines, beam=beam, lenpen=lenpen) == result.out.removesuffix("\n").split("\n")


def test_nbest_lists_are_sorted_by_score(model: Model) -> None:
    best = model.translate(LINES, beam=3)
    nbest = model.translate(LINES, beam=3, nbest=3)
    hypotheses = model.translate(LINES, beam=3, nbest=3, hypotheses=True)
    assert [texts[0] for texts in nbest] == best
    assert [[each.text for each in found] for found in hypotheses] == nbest
    for found in hypotheses:
        assert len(found) == 3
        assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
        assert len({each.tokens for each in found}) == 3


def test_a_hypothesis_has_its_tokens_and_their_probabilities(model: Model) -> None:
    for (found,) in model.translate(LINES, beam=2, lenpen=0.0, hypotheses=True):
        assert isinstance(found, Translation)
        assert "".join(found.tokens).replace("▁", " ").strip() == found.text
        assert len(found.token_log_probs) == len(found.tokens) + 1  # and </s>
        assert math.fsum(found.token_log_probs) == pytest.approx(found.score, abs=1e-5)


def test_an_empty_sentence_has_an_empty_translation(model: Model) -> None:
    assert model.translate(["", " "]) == ["", ""]
    assert model.translate([""], beam=2, nbest=2) == [[""]]
    assert model.translate([""], hypotheses=True) == [[Translation("", (), 0.0)]]
    assert model.translate([]) == []


def test_progress_of_translation_ends_with_all_sentences(model: Model) -> None:
    calls: list[tuple[int, int]] = []
    model.translate([*LINES, ""], progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (8, 8)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


@pytest.mark.parametrize(
    ("sentences", "options", "message"),
    [
        ("ba be", {}, "sentences: expected a list of strings, not one string"),
        (["ba", 3], {}, r"sentences\[1\]: expected a string, not int"),
        (["ba\nbe"], {}, r"sentences\[0\]: holds a line break"),
        (["ba"], {"beam": 0}, "translate: beam"),
        (["ba"], {"beam": 2, "nbest": 3}, "'nbest' .3. is larger than 'beam' .2."),
    ],
)
def test_invalid_arguments_raise_a_user_error(model: Model, sentences, options, message) -> None:
    with pytest.raises(UserError, match=message):
        model.translate(sentences, **options)


def test_library_users_see_no_message(model: Model, capfd: pytest.CaptureFixture[str]) -> None:
    assert len(model.translate(["ba " * 100])) == 1  # the sentence is cut, with a warning to the logger
    assert capfd.readouterr() == ("", "")


# ------------------------------------------------------------------------------------------------------------ scores


def test_scores_of_beam_search_equal_those_of_teacher_forcing(model: Model) -> None:
    found = [each[0] for each in model.translate(LINES, beam=2, lenpen=0.0, hypotheses=True)]
    again = model.score(LINES, [each.text for each in found])
    by_token = model.score(LINES, [each.text for each in found], by_token=True)
    same = [index for index, each in enumerate(found) if len(by_token[index]) == len(each.tokens) + 1]
    assert same  # the other lines are segmented differently from the decoded tokens
    for index in same:
        assert again[index] == pytest.approx(found[index].score, abs=1e-4)
        assert by_token[index] == pytest.approx(found[index].token_log_probs, abs=1e-4)
    assert again == pytest.approx([math.fsum(each) for each in by_token])


def test_scores_equal_those_of_the_command_line(model: Model, tmp_path: Path) -> None:
    pairs = [*make_pairs(5, seed=6), ("ba " * 100, "ok")]
    for side, name in enumerate(("source", "target")):
        (tmp_path / name).write_text("".join(f"{pair[side]}\n" for pair in pairs), encoding="utf-8")
    result = kdmt("rescore", TEACHER, "source", "target", "--workers", "1")
    assert result.code == 0, result.err
    expected = [float(line.split("\t")[0]) for line in result.out.splitlines()]
    sources, targets = ([pair[side] for pair in pairs] for side in (0, 1))
    assert model.score(sources, targets) == pytest.approx(expected, abs=1e-3, nan_ok=True)
    assert math.isnan(expected[-1])
    assert model.score(sources, targets, by_token=True)[-1] == []


def test_scores_of_a_multilingual_model_are_those_of_the_chosen_direction(multilingual_model: Path) -> None:
    model, targets = load(multilingual_model, threads=1), LINES[::-1]
    with pytest.raises(UserError, match=r"^the model translates in several directions: choose one of en-de, en-fr"):
        model.score(LINES, targets)
    found = [model.for_languages(target).score(LINES, targets) for target in ("de", "fr")]
    pairs = list(zip(LINES, targets, strict=True))
    for target, scores in zip(("de", "fr"), found, strict=True):
        assert scores == pytest.approx(scores_in(multilingual_model, target, pairs), abs=1e-4)
    assert np.abs(np.subtract(*found)).min() > 0.01  # the token for the language has an effect


def test_a_multilingual_model_has_no_languages_before_one_direction_is_chosen(multilingual_model: Path) -> None:
    model = load(multilingual_model, threads=1)
    for name in ("source_lang", "target_lang"):
        with pytest.raises(UserError, match="the model translates in several directions"):
            getattr(model, name)
    chosen = model.for_languages("de", source="fr")
    assert (chosen.source_lang, chosen.target_lang) == ("fr", "de")


def test_the_only_direction_of_a_model_with_language_tokens_needs_no_choice(
    multilingual_text: Path, multilingual_model: Path, tmp_path: Path
) -> None:
    """Models that are trimmed to two languages have one direction, and still begin sources with its token."""
    text = Path(shutil.copytree(multilingual_text, tmp_path / "text"))
    values = json.loads((text / "text.json").read_text(encoding="utf-8"))
    (text / "text.json").write_text(json.dumps(values | {"directions": [["en", "fr"]]}), encoding="utf-8")
    model = load(write_checkpoint(text, tmp_path / "model"), threads=1)
    assert (model.source_lang, model.target_lang, model.directions) == ("en", "fr", [("en", "fr")])
    chosen = load(multilingual_model, threads=1).for_languages("fr", "en")
    assert model.score(LINES, LINES) == chosen.score(LINES, LINES)
    assert model.for_languages("fr").translate(LINES) == model.translate(LINES) == chosen.translate(LINES)


def test_progress_of_scoring(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdmt.api._SCORED_AT_ONCE", 3)
    calls: list[tuple[int, int]] = []
    scores = model.score(LINES, LINES, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(3, 7), (6, 7), (7, 7)]
    monkeypatch.undo()
    assert scores == pytest.approx(model.score(LINES, LINES), abs=1e-5)


def test_different_numbers_of_sources_and_targets_are_refused(model: Model) -> None:
    with pytest.raises(UserError, match="2 sources and 1 targets"):
        model.score(["ba", "be"], ["ok"])


# ----------------------------------------------------------------------------------------------------------- loading


def test_each_kind_of_model_is_opened_from_a_string_or_a_path(model: Model) -> None:
    export = kdmt("export", TEACHER, "ct2", "--to", "ctranslate2", "--beam", "2")
    assert export.code == 0, export.err
    expected = model.translate(LINES, beam=2)
    assert load(str(TEACHER)).translate(LINES, beam=2) == expected
    assert load(TEACHER / "auto").translate(LINES, beam=2) == expected
    exported = load("ct2")
    assert exported.translate(LINES) == expected  # with the beam set in `kdmt export`
    assert exported.score(LINES, LINES) == pytest.approx(model.score(LINES, LINES), abs=1e-3)
    assert (exported.source_lang, exported.target_lang) == ("en", "de")
    assert "ct2" in repr(exported)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "nope"}, "nope"),
        ({"path": "tiny.yaml"}, "it is a pipeline"),
        ({"path": TEACHER, "device": "abacus"}, "device 'abacus'"),
        ({"path": TEACHER, "iterations": 0}, "iterations 0"),
        ({"path": TEACHER, "length_beam": 0}, "length_beam"),
    ],
)
def test_loading_an_invalid_model_raises_a_user_error(finished: Path, arguments, message) -> None:  # noqa: ARG001
    with pytest.raises(UserError, match=message):
        load(**arguments)


def test_a_nonautoregressive_model_has_one_translation_and_no_scores(finished: Path) -> None:  # noqa: ARG001
    ctc = kdmt("run", "tiny.yaml", "--to", "student", "--student", "raw", "--set", "students.raw.nat={family: ctc}")
    assert ctc.code == 0, ctc.err
    run = "runs/tiny/students/raw/seed_1"
    result = kdmt("translate", run, stdin="".join(f"{line}\n" for line in LINES).encode())
    export = kdmt("export", run, "onnx", "--to", "onnx")
    assert (result.code, export.code) == (0, 0), export.err
    for path in (run, "onnx"):
        model = load(path, iterations=2)
        assert model.translate(LINES) == result.out.removesuffix("\n").split("\n")
        assert [[each.text] for (each,) in model.translate(LINES, hypotheses=True)] == model.translate(LINES, nbest=1)
        with pytest.raises(UserError, match="nbest 2: a non-autoregressive model gives one translation"):
            model.translate(LINES, beam=2, nbest=2)
        with pytest.raises(UserError, match="gives no probabilities of given targets"):
            model.score(LINES, LINES)


# --------------------------------------------------------------------------------------------------------- pipelines


def test_a_pipeline_run_in_python_equals_one_run_by_commands(
    request: pytest.FixtureRequest, pipeline: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    commands: Path = request.getfixturevalue("_finished_once")
    calls: list[tuple[int, int]] = []
    Pipeline.from_yaml("tiny.yaml").run(progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 6) for done in range(1, 7)]
    assert capfd.readouterr() == ("", "")
    ours, theirs = (_results(folder / "runs/tiny") for folder in (pipeline, commands))
    assert ours == theirs
    assert len(read_lines(pipeline / "runs/tiny/score/teacher.seed_1.test.beam1.de")) == SIZES["test"]


def _results(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of the pipeline's output files, without measured speeds."""
    timed = ("metrics.jsonl", "scores.json", "report.html")
    hashes = hash_tree(folder)
    return {
        name: sha256
        for name, sha256 in hashes.items()
        if not name.endswith(timed) and not name.startswith(("score/decoded/", "score/manifest", "."))
    }


def test_a_script_needs_no_guard_for_worker_processes(pipeline: Path) -> None:
    script = """
import kdmt
kdmt.Pipeline.from_yaml("tiny.yaml", overrides={"prepare.workers": 2}).run(to="prepare")
print("done")
"""
    (pipeline / "script.py").write_text(script, encoding="utf-8")
    finished = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stdout) == (0, "done\n"), finished.stderr
    assert Pipeline.from_yaml("tiny.yaml").status()[0].state == "up to date"


def test_stages_and_students_are_chosen_as_on_the_command_line(finished: Path) -> None:
    pipeline = Pipeline.from_yaml(finished / "tiny.yaml", overrides={"students.raw.train.lr": 0.02})
    assert [each.name for each in pipeline.status() if each.state != "up to date"] == ["student raw seed 1", "score"]
    pipeline.run(to="student", student="raw")
    assert [each.name for each in pipeline.status() if each.state != "up to date"] == ["score"]
    with pytest.raises(UserError, match="there is no student 'nobody'"):
        pipeline.run(student="nobody")
    with pytest.raises(UserError, match="there is no stage 'all'"):
        pipeline.run(to="all")  # type: ignore[arg-type]


def test_overrides_are_python_values(pipeline: Path) -> None:  # noqa: ARG001
    values = {
        "teacher.train.lr": 1e-05,
        "teacher.train.max_updates": 7,
        "score.beams": [1, 3],
        "score.baseline": None,
        "prepare.clean": "none",
        "prepare.decontaminate": False,
        "teacher.model.share_all_embeddings": False,
        "score.nat": {"length_beam": 2},
    }
    config = Pipeline.from_yaml("tiny.yaml", overrides=values, runs="elsewhere").workspace.config
    assert config.teacher.train.lr == 1e-05
    assert config.teacher.train.max_updates == 7
    assert config.score.beams == [1, 3]
    assert config.score.baseline is None
    assert config.prepare.clean == "none"
    assert config.teacher.model.share_all_embeddings is False
    assert config.score.nat.length_beam == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"teacher.nope": 1}, "teacher.nope: unknown setting"),
        ({"teacher.seed": object()}, "teacher.seed: .* is not a value of a YAML file"),
        ({"teacher.train.lr": "fast"}, "teacher.train.lr"),
    ],
)
def test_bad_overrides_name_their_path(pipeline: Path, overrides, message) -> None:  # noqa: ARG001
    with pytest.raises(UserError, match=message):
        Pipeline.from_yaml("tiny.yaml", overrides=overrides)


def test_the_folder_equals_that_of_the_command_line(finished: Path) -> None:
    pipeline = Pipeline.from_yaml("tiny.yaml")
    assert pipeline.folder == Path("runs/tiny")
    assert json.loads(kdmt("status", "tiny.yaml", "--json").out)["folder"] == str(pipeline.folder)
    assert Pipeline.from_yaml("tiny.yaml", runs=finished / "runs").folder == finished / "runs/tiny"
