"""The YAML file: what is refused and in which words, `--set`, and the kinds of settings."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_pipeline
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from kdmt.config import KINDS, REQUIRED, Pipeline, flatten_settings, load_pipeline, resolved
from kdmt.errors import UserError

PIPELINES = sorted((Path(__file__).parents[2] / "pipelines").glob("*.yaml"))

# words of pydantic's and of Python's that mean nothing to somebody who edits YAML
JARGON = re.compile(
    r"pydantic|function-after|instance of|\bextra|valid dict|NoneType|literal\[|\[key\]|type=|Value error"
)

Load = Callable[..., Pipeline]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    path = tmp_path / "p.yaml"

    def load(*overrides: str, text: str | None = None) -> Pipeline:
        path.write_text(tiny_pipeline.to_yaml(tiny_pipeline.settings()) if text is None else text, encoding="utf-8")
        return load_pipeline(path, overrides)

    return load


@pytest.fixture
def refusal(load: Load) -> Callable[..., str]:
    """What is said about a file that is refused, after its name."""

    def refusal(*overrides: str, text: str | None = None) -> str:
        with pytest.raises(UserError) as caught:
            load(*overrides, text=text)
        message = str(caught.value)
        assert not JARGON.search(message), message
        assert "\n" not in message
        return message

    return refusal


# ----------------------------------------------------------------------------------------------------- whole pipelines


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_every_pipeline_of_the_project_is_valid(path: Path) -> None:
    pipeline = load_pipeline(path)
    assert pipeline.name == path.stem
    assert pipeline.prepare.test
    assert {student.data for student in pipeline.students.values()} >= {"raw", "distilled"}


def test_there_are_pipelines() -> None:
    assert {path.stem for path in PIPELINES} >= {"toy", "multi30k-en-de", "multi30k-paper", "multi30k-en-fr"}


@pytest.mark.parametrize("override", ["name=x", "students.raw.nat={family: levenshtein}", "score.nat.ctc_beam=4"])
def test_what_is_resolved_loads_to_the_same_again(load: Load, override: str) -> None:
    pipeline = load(override)
    document = json.loads(json.dumps(resolved(pipeline)))
    assert load(text=tiny_pipeline.to_yaml(document)) == pipeline
    assert document["teacher"]["train"]["label_smoothing"] == 0.1  # defaults are written out


def test_a_pipeline_is_frozen(load: Load) -> None:
    pipeline = load()
    for section, name in ((pipeline, "name"), (pipeline.teacher.train, "lr"), (pipeline.prepare.train[0], "weight")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, name, 1)


# ------------------------------------------------------------------------------------------------------ what is refused

UNKNOWN = ["teh_teacher=1", "prepare.clean.foo=1", "prepare.train.0.source.pth=x", "students.raw.train.max_token=1"]


@pytest.mark.parametrize("override", UNKNOWN)
def test_an_unknown_key_is_named_by_its_path(refusal: Callable[..., str], override: str) -> None:
    path = override.partition("=")[0]
    assert re.search(rf"/p\.yaml: {re.escape(path)}: unknown setting$", refusal(override))


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("teacher.train.lr=fast", "should be a valid number (it is 'fast')"),
        ("teacher.train.max_updates='5'", "should be a valid integer (it is '5')"),
        ("teacher.train.max_updates=1.5", "should be a valid integer (it is 1.5)"),
        ("prepare.train.0.weight=true", "should be a valid integer (it is True)"),
        ("prepare.clean.min_words=a", "should be a valid integer (it is 'a')"),
        ("prepare.clean=all", "should be 'none' (it is 'all')"),
        ("prepare.decontaminate=1", "should be a valid boolean (it is 1)"),
        ("teacher=null", "expected a mapping of settings (it is None)"),
        ("students=null", "expected a mapping (it is None)"),
        ("students.raw.seeds=3", "expected a list (it is 3)"),
        ("score.beams=[]", "the list is too short (it is [])"),
        ("score.beams.1=0", "should be greater than or equal to 1 (it is 0)"),
        ("teacher.model.dropout=1.0", "should be less than 1 (it is 1.0)"),
        ("teacher.train.lr=.nan", "should be a finite number (it is nan)"),
        ("teacher.train.clip_norm=.inf", "should be a finite number (it is inf)"),
        ("teacher.train.adam_betas=0.9", "expected a list (it is 0.9)"),
        ("distill.failures.unk=delete", "should be 'keep', 'reference' or 'drop' (it is 'delete')"),
        ("distill.failures.max_ratio=1.0", "should be greater than 1, or 0 for no limit (it is 1.0)"),
        ("prepare.clean.max_ratio=0.5", "should be greater than 1, or 0 for no limit (it is 0.5)"),
        ("teacher.train.max_source_tokens=1", "should be at least 2, or 0 for no limit (it is 1)"),
        ("distill.failures.repetition_times=1", "should be at least 2, or 0 for no limit (it is 1)"),
        ("target_lang=no", 'YAML reads no without quotes as false: write "no" in quotes for Norwegian, or nb or nn'),
        ("source_lang=3", "should be a valid string (it is 3)"),
        ("distill.failures.max_ratio=-1.0", "should be greater than or equal to 0 (it is -1.0)"),
        ("distill.sample.temperature=0.0", "should be greater than 0 (it is 0.0)"),
        ("distill.sample.top_p=1.5", "should be less than or equal to 1 (it is 1.5)"),
        ("name=a/b", r"not in the form ^\w[\w.-]*$ (it is 'a/b')"),
        ("students.a b={}", r"not in the form ^\w[\w.-]*$ (it is 'a b')"),
    ],
)
def test_a_wrong_value_is_named_by_its_path(refusal: Callable[..., str], override: str, problem: str) -> None:
    path = override.partition("=")[0]
    assert f"/p.yaml: {path}: {problem}" in refusal(override)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("Latinn", "not the name of a Unicode script, as Latin or Cyrillic is"),
        ("de", "not the name of a Unicode script, as Latin or Cyrillic is"),
        ("'L}|\\p{N'", "not the name of a Unicode script, as Latin or Cyrillic is"),
        ("Common", "not a script of its own"),
        ("Katakana_Or_Hiragana", "not a script of its own"),
    ],
)
def test_a_script_that_is_none_is_named_by_its_path(refusal: Callable[..., str], name: str, problem: str) -> None:
    message = refusal(f"distill.failures.scripts=[Latin, {name}]")
    assert f"/p.yaml: distill.failures.scripts.1: {problem} (it is {yaml.safe_load(name)!r})" in message


@pytest.mark.parametrize("names", ["[]", "[Latin]", "[Han, Hiragana, Katakana]", "[Hang, Latn]"])
def test_scripts_go_by_their_names_in_unicode(load: Load, names: str) -> None:
    assert load(f"distill.failures.scripts={names}").distill.failures.scripts == yaml.safe_load(names)


@pytest.mark.parametrize(
    ("overrides", "path", "problem"),
    [
        (["prepare.clean={min_words: 5, max_words: 2}"], "prepare.clean", "'min_words' is larger than 'max_words'"),
        (["prepare.valid.tsv.path=x"], "prepare.valid", "give either 'tsv' or 'source' and 'target', not both"),
        (["prepare.valid={source: {path: x}}"], "prepare.valid", "give 'source' and 'target', or 'tsv'"),
        (["prepare.valid.source={}"], "prepare.valid.source", "give either 'path' or 'url'"),
        (["prepare.valid.source={url: 'http://x/y'}"], "prepare.valid.source", "a 'url' needs its 'sha256'"),
        (
            ["prepare.valid={tsv: {path: x}, source_column: 1}"],
            "prepare.valid",
            "'source_column' and 'target_column' are the same",
        ),
        (["prepare.tokenizer.type=subword-nmt"], "prepare.tokenizer", "subword-nmt learns BPE only: set 'model: bpe'"),
        (["prepare.tokenizer.target_path=x"], "prepare.tokenizer", "'target_path' is given without 'source_path'"),
        (["prepare.tokenizer.joint=false"], "prepare", "a joined vocabulary needs a joint tokenizer"),
        (["prepare.test.train2={tsv: {path: x}}"], "prepare", "test set 'train2': the name is reserved for files"),
        (["teacher.train.validate_bleu=false"], "teacher.train", "'best_metric: bleu' needs 'validate_bleu: true'"),
        (["students.raw.train.init_optimizer=true"], "students.raw.train", "'init_optimizer' is given without"),
        (["distill.decode={beam: 2, nbest: 3}"], "distill.decode", "'nbest' (3) is larger than 'beam' (2)"),
        (["distill.teachers=[3]"], "distill.teachers.0", "should be a valid string (it is 3)"),
        (["distill.teachers=[{source_code: de}]"], "distill.teachers.0.huggingface", "missing"),
        (
            ["distill.teachers=[{huggingface: x, source_code: no}]"],
            "distill.teachers.0.source_code",
            "YAML reads no without quotes as false",
        ),
        (["distill.teachers=[{huggingface: x, lang: de}]"], "distill.teachers.0.lang", "unknown setting"),
        (["distill.teachers=[{huggingface: x}, runs/y]"], "distill", "'teachers': a 'huggingface' model has a vocabul"),
        (
            ["distill.engine=auto", "distill.teachers=[{huggingface: x}]", "distill.shortlist={}"],
            "distill",
            "'shortlist' is learnt in the ",
        ),
        (["distill.imported_sources=true"], "distill", "'imported_sources' has no effect unless 'imported' is set"),
        (["students.raw.seeds=[1, 2, 1]"], "students.raw", "'seeds' holds a number twice"),
        (["source_lang=de"], "", "'source_lang' and 'target_lang' are both 'de'"),
        (["source_lang=DE"], "", "'source_lang' and 'target_lang' are the same language: 'DE' and 'de'"),
        (["source_lang=deu"], "", "'source_lang' and 'target_lang' are the same language: 'deu' and 'de'"),
        (["target_lang=german"], "", "'target_lang': 'german' is no ISO 639 or BCP 47 language code: write 'de'"),
        (["source_lang=jp"], "", "'source_lang': 'jp' is no ISO 639 or BCP 47 language code: write 'ja'"),
        (["source_lang=zz"], "", "'source_lang': 'zz' is no ISO 639 or BCP 47 language code"),
        (["prepare.clean=none"], "prepare", "'clean: none' drops no line: set 'decontaminate: false' too"),
        (["prepare.valid={tsv: {path: x.zip}}"], "prepare.valid.tsv", "a zip archive needs 'member'"),
        (["prepare.vocabulary.source_path=d"], "prepare", "a given 'vocabulary.source_path' needs its tokenizer"),
        (["prepare.vocabulary.target_path=d"], "prepare.vocabulary", "a joined vocabulary has one dictionary"),
        (["prepare.vocabulary={source_path: d, nwords: 9}"], "prepare.vocabulary", "a given dictionary is taken as it"),
        (["prepare.vocabulary={nwords_target: 9}"], "prepare.vocabulary", "a joined vocabulary has one 'threshold'"),
        (["prepare.text={moses: true, already_applied: true}"], "", "'prepare.test.test' is processed text: "),
        (["teacher.train.adam_betas=[0.9, 1.0]"], "teacher.train", "'adam_betas' [0.9, 1.0] are not both"),
        (["score.beams=[2, 2]"], "score", "'beams' holds a number twice"),
        (["score.baseline=rwa"], "", "'score.baseline': 'rwa' is none of teacher, raw, distilled"),
        (["students.teacher={}"], "", "'students': a student cannot be called 'teacher'"),
    ],
)
def test_settings_that_contradict_each_other(
    refusal: Callable[..., str], overrides: Sequence[str], path: str, problem: str
) -> None:
    assert f"/p.yaml: {path}{': ' if path else ''}{problem}" in refusal(*overrides)


@pytest.mark.parametrize("code", ["th", "km", "ja", "ko", "tr", "vi", "sr-Latn", "qaa", "hi-Latn"])
@pytest.mark.parametrize("key", ["source_lang", "target_lang"])
def test_moses_is_refused_for_languages_it_has_no_rules_for(
    refusal: Callable[..., str], load: Load, key: str, code: str
) -> None:
    message = refusal(f"{key}={code}", "prepare.text.moses=true")
    assert (
        f"/p.yaml: 'prepare.text.moses': Moses has no rules for '{code}' ('{key}'): leave out 'moses' and " in message
    )
    assert "SentencePiece" in message
    assert load(f"{key}={code}", "prepare.text={normalize: true, lowercase: true}").prepare.text.normalize


@pytest.mark.parametrize("code", ["fr", "deu", "pt-BR", "zh", "zh-Hant", "yue", "ta", "lv", "mni"])
def test_moses_has_rules_for_a_language_whatever_its_code(load: Load, code: str) -> None:
    assert load(f"source_lang={code}", "target_lang=en", "prepare.text.moses=true").prepare.text.moses


def test_text_that_others_tokenised_by_moses_must_be_joined_again(refusal: Callable[..., str], load: Load) -> None:
    given = ("prepare.text={moses: true, already_applied: true}", "prepare.test={}")
    for code in ("tr", "ja", "zh-CN", "qaa"):
        assert load(f"source_lang={code}", *given).prepare.text.moses
    message = refusal("source_lang=km", *given)
    assert "Moses cannot join the words of 'km' ('source_lang') again: leave out 'moses' and set " in message


@pytest.mark.parametrize(
    ("text", "score", "lowercased"),
    [
        ("{}", "{}", False),
        ("{}", "{lowercase: true}", True),
        ("{lowercase: true}", "{}", True),
        ("{lowercase: true}", "{lowercase: false}", True),
        ("{lowercase: true}", "{detokenized: false}", False),  # of words in lower case, against such words
        ("{lowercase: true}", "{detokenized: false, lowercase: true}", True),
    ],
)
def test_lowercased_text_is_scored_without_regard_to_case(load: Load, text: str, score: str, lowercased: bool) -> None:
    assert load(f"prepare.text={text}", f"score={score}").scores_lowercased is lowercased


def test_all_problems_are_told_at_once(refusal: Callable[..., str]) -> None:
    message = refusal("teacher.seed=-1", "score.lenpen=x", "foo=1")
    assert message.count("; ") == 2
    for path in ("teacher.seed", "score.lenpen", "foo"):
        assert f"{path}: " in message


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "expected a mapping of settings at the top level"),
        ("- a\n", "expected a mapping of settings at the top level"),
        ("a: b: c", "not valid YAML: mapping values are not allowed here"),
        ("x: !!python/object:os.system {}", "not valid YAML"),
        ("? [1, 2]\n: 3\n", "found unhashable key"),
        ("name: x\nscore: {}\nname: y\n", "the key 'name' is given twice in \"<unicode string>\", line 3"),
        (
            "teacher:\n  train:\n    lr: 1.0\n    lr: 2.0\n",
            "the key 'lr' is given twice in \"<unicode string>\", line 4",
        ),
        ("a: &x {b: 1}\nc: {<<: *x, d: 1, d: 2}\n", "the key 'd' is given twice"),
        ("1: 2\n", "1: Keys should be strings"),
    ],
)
def test_files_that_are_no_settings(refusal: Callable[..., str], text: str, problem: str) -> None:
    message = refusal(text=text)
    assert "/p.yaml: " in message
    assert problem in message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_bytes(b"name: \xff")
    for path, problem in (
        (
            broken,
            "not a pipeline's YAML file, not UTF-8 (invalid start byte at byte 6): "
            "it is a binary file of no kind that kdmt knows",
        ),
        (tmp_path, "not a pipeline's YAML file: it is a folder with broken.yaml"),
        (tmp_path / "none.yaml", "there is no such pipeline file"),
    ):
        with pytest.raises(UserError) as caught:
            load_pipeline(path)
        assert str(caught.value) == f"{path}: {problem}"


def test_private_and_three_letter_languages_are_known(load: Load) -> None:
    assert load("source_lang=qaa", "target_lang=haw").source_lang == "qaa"


# ------------------------------------------------------------------------------------------------ overrides and anchors


@pytest.mark.parametrize(
    ("override", "section", "name", "value"),
    [
        ("teacher.train.max_updates=7", ("teacher", "train"), "max_updates", 7),
        ("teacher.train.lr=5e-4", ("teacher", "train"), "lr", 5e-4),
        ("teacher.train.lr=1E3", ("teacher", "train"), "lr", 1000.0),
        ("teacher.train.lr=1", ("teacher", "train"), "lr", 1.0),
        ("score.lowercase=true", ("score",), "lowercase", True),
        ("score.beams=[3, 4]", ("score",), "beams", [3, 4]),
        ("score.beams.1=9", ("score",), "beams", [1, 9]),
        ("students.raw.encoder_layers_from_teacher=null", ("students", "raw"), "encoder_layers_from_teacher", None),
        ("prepare.clean={max_words: 9}", ("prepare", "clean"), "max_words", 9),
        ("prepare.train.0.tag=<bt>", ("prepare", "train", 0), "tag", "<bt>"),
        (" score.baseline=raw", ("score",), "baseline", "raw"),
        ("prepare.train.0.source.path=a=b", ("prepare", "train", 0, "source"), "path", "a=b"),
        ("students.new.data=mixed", ("students", "new"), "data", "mixed"),
    ],
)
def test_set_takes_yaml_values(load: Load, override: str, section: Sequence[Any], name: str, value: Any) -> None:
    found: Any = load(override)
    for key in section:
        found = getattr(found, key) if isinstance(found, BaseModel) else found[key]
    assert getattr(found, name) == value
    assert type(getattr(found, name)) is type(value)


def test_later_overrides_win(load: Load) -> None:
    assert load("teacher.seed=1", "teacher.seed=2").teacher.seed == 2


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("teacher", "expected a.b=value"),
        ("=1", "expected a.b=value"),
        ("a..b=1", "expected a.b=value"),
        ("name.x=1", "name holds no further settings"),
        ("prepare.train.1.weight=2", "prepare.train is a list of 1"),
        ("prepare.train.first.weight=2", "prepare.train is a list of 1"),
        ("prepare.train.-1.weight=2", "prepare.train is a list of 1"),
        ("teacher.seed=[", "'[' is not a YAML value"),
    ],
)
def test_an_override_that_leads_nowhere(refusal: Callable[..., str], override: str, problem: str) -> None:
    assert refusal(override) == f"--set {override!r}: {problem}"


def test_set_below_an_empty_section_names_it(refusal: Callable[..., str]) -> None:
    text = tiny_pipeline.to_yaml(tiny_pipeline.settings() | {"score": None})
    assert refusal("score.lenpen=1.0", text=text) == "--set 'score.lenpen=1.0': score is empty in the file"


def with_anchors() -> str:
    """Two students and the teacher that share one `train`, and students of which one is merged into the other."""
    head = {key: value for key, value in tiny_pipeline.settings().items() if key not in ("teacher", "students")}
    return tiny_pipeline.to_yaml(head) + (
        "teacher: {train: &recipe {max_updates: 5, max_tokens: 100}}\n"
        "students:\n"
        "  raw: &small {data: raw, train: *recipe, seeds: [1, 2]}\n"
        "  distilled: {<<: *small, data: distilled}\n"
    )


def test_merge_keys_are_taken_and_overridden(load: Load) -> None:
    students = load(text=with_anchors()).students
    assert students["raw"].train == students["distilled"].train
    assert (students["raw"].data, students["distilled"].data) == ("raw", "distilled")
    assert students["distilled"].seeds == [1, 2]


@pytest.mark.parametrize("changed", ["teacher", "students.raw", "students.distilled"])
def test_set_changes_no_alias_of_what_it_names(load: Load, changed: str) -> None:
    pipeline = load(f"{changed}.train.max_updates=9", text=with_anchors())
    found = {"teacher": pipeline.teacher, **{f"students.{name}": each for name, each in pipeline.students.items()}}
    assert {name: each.train.max_updates for name, each in found.items()} == dict.fromkeys(found, 5) | {changed: 9}


@settings(max_examples=20)
@given(st.floats(allow_nan=False, allow_infinity=False, min_value=1e-300, max_value=1e30))
def test_a_number_is_read_as_python_writes_it(tmp_path_factory: pytest.TempPathFactory, value: float) -> None:
    path = tmp_path_factory.getbasetemp() / "number.yaml"
    if not path.exists():
        path.write_text(tiny_pipeline.to_yaml(tiny_pipeline.settings()), encoding="utf-8")
    assert load_pipeline(path, [f"teacher.train.lr={value!r}"]).teacher.train.lr == value


# ---------------------------------------------------------------------------------------------------- kinds of settings


def test_every_setting_is_of_one_kind(load: Load) -> None:
    pipeline = load()
    by_kind = {kind: set(flatten_settings(pipeline, kind)) for kind in KINDS}
    assert not by_kind["result"] & by_kind["extend"]
    assert not by_kind["result"] & by_kind["execution"]
    trained = ("teacher", "students.raw", "students.distilled")
    of_training = ("max_updates", "on_divergence", "explosion_norm")
    assert by_kind["extend"] == {
        *(f"{system}.train.{setting}" for system in trained for setting in of_training),
        *("students.raw.seeds", "students.distilled.seeds"),
    }
    assert by_kind["execution"] >= {
        *("prepare.workers", "distill.threads", "distill.device", "teacher.train.threads"),
        *("teacher.train.save_interval_updates", "teacher.train.log_interval_updates", "teacher.train.tensorboard"),
    }
    assert by_kind["result"] >= {
        *("name", "source_lang", "prepare.train.0.source.path", "prepare.train.0.weight", "prepare.clean.max_ratio"),
        *("prepare.test.test.target.path", "teacher.seed", "teacher.train.lr", "teacher.model.dropout"),
        *("distill.decode.beam", "distill.block_size", "distill.failures.unk", "students.raw.data", "score.beams"),
    }


@pytest.mark.parametrize(
    "override",
    [
        *(f"prepare.clean.{name}=0" for name in ("min_words", "max_words", "max_characters")),
        *("prepare.clean.max_ratio=0.0", "distill.failures.max_ratio=0.0", "distill.failures.repetition_times=0"),
        *(f"teacher.train.{name}=0" for name in ("max_source_tokens", "max_target_tokens", "patience")),
        *("prepare.tokenizer.train_sentences=0", "distill={shortlist: {pairs: 0}}", "distill.silence_minutes=0.0"),
    ],
)
def test_zero_switches_a_limit_off(load: Load, override: str) -> None:
    assert load(override)


@pytest.mark.parametrize("code", ["zh-CN", "ZH_hant", "sr-Latn", "pt-BR", "deu", "qaa-Hira"])
def test_language_codes_stay_as_they_are_written(load: Load, code: str) -> None:
    assert load(f"source_lang={code}", "target_lang=en").source_lang == code


def test_a_flattened_setting_has_its_value_and_default(load: Load) -> None:
    found = flatten_settings(load("teacher.train.lr=0.5", "score.beams=[7]"), "result")
    assert (found["teacher.train.lr"].value, found["teacher.train.lr"].default) == (0.5, 5e-4)
    assert (found["score.beams"].value, found["score.beams"].default) == ([7], [1, 5])
    assert found["name"].default is REQUIRED


def test_an_unknown_kind_is_the_programmers_mistake(load: Load) -> None:
    with pytest.raises(ValueError, match="kind 'results'"):
        flatten_settings(load(), "results")
