"""Tests of whole pipelines, and of rules between their sections."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_pipeline

from kdmt.config import Pipeline, load_unlocked_pipeline, resolved

PIPELINES = sorted((Path(__file__).parents[3] / "pipelines").glob("*.yaml"))
Load = Callable[..., Pipeline]


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_every_pipeline_of_the_project_is_valid(path: Path) -> None:
    pipeline = load_unlocked_pipeline(path)
    assert pipeline.name == path.stem
    assert pipeline.prepare.test
    assert "distilled" in {student.data for student in pipeline.students.values()}


def test_pipelines_of_the_project_are_found() -> None:
    assert {path.stem for path in PIPELINES} >= {"toy", "multi30k-en-de", "multi30k-paper", "multi30k-en-fr"}


@pytest.mark.parametrize("override", ["name=x", "students.raw.nat={family: levenshtein}", "score.nat.ctc_beam=4"])
def test_a_resolved_pipeline_loads_to_an_equal_pipeline(load: Load, override: str) -> None:
    pipeline = load(override)
    document = json.loads(json.dumps(resolved(pipeline)))
    assert load(text=tiny_pipeline.to_yaml(document)) == pipeline
    assert document["teacher"]["train"]["label_smoothing"] == 0.1  # defaults are written out


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("source_lang=de", "'source_lang' and 'target_lang' are both 'de'"),
        ("source_lang=DE", "'source_lang' and 'target_lang' are the same language: 'DE' and 'de'"),
        ("source_lang=deu", "'source_lang' and 'target_lang' are the same language: 'deu' and 'de'"),
        ("target_lang=german", "'target_lang': 'german' is no ISO 639 or BCP 47 language code: write 'de'"),
        ("source_lang=jp", "'source_lang': 'jp' is no ISO 639 or BCP 47 language code: write 'ja'"),
        ("source_lang=zz", "'source_lang': 'zz' is no ISO 639 or BCP 47 language code"),
        ("prepare.text={moses: true, already_applied: true}", "'prepare.test.test' is processed text: "),
        ("score.baseline=rwa", "'score.baseline': 'rwa' is none of teacher, raw, distilled"),
        ("students.teacher={}", "'students': a student cannot be called 'teacher'"),
        ("students.raw.data=nbest", "'students.raw.data: nbest' is made of the n-best: set 'distill.decode.nbest'"),
        (
            "teacher.train.best_metric=kiwi",
            "'teacher.train.best_metric': 'kiwi' is not one of loss, bleu, chrf, and 'scorers' has none",
        ),
        ("students.raw.data=imported", "'students.raw.data: imported' needs the file 'distill.imported'"),
        ("students.raw.self_supervised={monolingual: true}", "'students.raw.self_supervised.monolingual' needs"),
        ("distill.monolingual=true", "'distill.monolingual' needs 'prepare.monolingual'"),
        (
            "students.raw.word_kd={source: cache, temperature: 2.0}",
            "'students.raw.word_kd.temperature' (2) is none of 'knowledge.temperatures'",
        ),
        (
            "students.raw.word_kd={source: cache, top1_ranking: 9}",
            "'students.raw.word_kd.top1_ranking' (9) is more than 'knowledge.k'",
        ),
    ],
)
def test_contradictions_between_sections_are_refused(problem: Callable[..., str], override: str, expected: str) -> None:
    assert problem(override).startswith(expected)


def test_private_and_three_letter_languages_are_known(load: Load) -> None:
    assert load("source_lang=qaa", "target_lang=haw").source_lang == "qaa"


@pytest.mark.parametrize("code", ["zh-CN", "ZH_hant", "sr-Latn", "pt-BR", "deu", "qaa-Hira"])
def test_language_codes_keep_their_spelling(load: Load, code: str) -> None:
    assert load(f"source_lang={code}", "target_lang=en").source_lang == code


@pytest.mark.parametrize("code", ["th", "km", "ja", "ko", "tr", "vi", "sr-Latn", "qaa", "hi-Latn"])
@pytest.mark.parametrize("key", ["source_lang", "target_lang"])
def test_moses_is_refused_for_languages_without_rules(
    refusal: Callable[..., str], load: Load, key: str, code: str
) -> None:
    message = refusal(f"{key}={code}", "prepare.text.moses=true")
    assert (
        f"/p.yaml: 'prepare.text.moses': Moses has no rules for '{code}' ('{key}'): leave out 'moses' and " in message
    )
    assert "SentencePiece" in message
    assert load(f"{key}={code}", "prepare.text={normalize: true, lowercase: true}").prepare.text.normalize


@pytest.mark.parametrize("code", ["fr", "deu", "pt-BR", "zh", "zh-Hant", "yue", "ta", "lv", "mni"])
def test_moses_is_accepted_for_any_code_of_a_language_with_rules(load: Load, code: str) -> None:
    assert load(f"source_lang={code}", "target_lang=en", "prepare.text.moses=true").prepare.text.moses


def test_moses_must_be_able_to_detokenise_text_that_is_already_tokenised(
    refusal: Callable[..., str], load: Load
) -> None:
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
        ("{lowercase: true}", "{detokenized: false}", False),  # both sides are lowercased tokens
        ("{lowercase: true}", "{detokenized: false, lowercase: true}", True),
    ],
)
def test_lowercased_text_is_scored_without_regard_to_case(load: Load, text: str, score: str, lowercased: bool) -> None:
    assert load(f"prepare.text={text}", f"score={score}").scores_lowercased is lowercased


@pytest.mark.parametrize(
    ("tokenizer", "setting", "reason"),
    [
        ("{model: bpe}", "{alpha: 0.1}", "'alpha' is a setting of unigram models: the tokenizer is a BPE model"),
        ("{type: subword-nmt, model: bpe}", "{alpha: 0.1}", "'alpha' is a setting of unigram models"),
        ("{model: unigram}", "{dropout: 0.1}", "'dropout' is a setting of BPE models: the tokenizer is a unigram"),
        ("{type: words}", "{alpha: 0.1}", "text of 'prepare.tokenizer.type: words' cannot be cut in another way"),
    ],
)
@pytest.mark.parametrize(
    ("override", "path"),
    [
        ("teacher.train.subword_regularization={}", "teacher.train.subword_regularization"),
        ("students.raw.train.subword_regularization={}", "students.raw.train.subword_regularization"),
        ("students.raw.stages=[{{}}, {{subword_regularization: {}}}]", "students.raw.stages.1.subword_regularization"),
    ],
)
def test_subword_regularization_must_fit_the_tokenizer(
    refusal: Callable[..., str], tokenizer: str, setting: str, reason: str, override: str, path: str
) -> None:
    override = override.format(setting) if "stages" in override else override.replace("{}", setting)
    assert f"'{path}': {reason}" in refusal(f"prepare.tokenizer={tokenizer}", override)


def test_the_model_of_a_given_tokenizer_is_checked_when_it_is_read(load: Load) -> None:
    given = "prepare.tokenizer={source_path: bpe.model}"
    assert load(given, "teacher.train.subword_regularization={dropout: 0.1}").teacher.train.subword_regularization
