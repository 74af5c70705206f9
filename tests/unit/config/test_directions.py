"""Tests of the settings of pipelines with several directions."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import tiny_pipeline

from kdmt.config import Pipeline, resolved
from kdmt.config.directions import DirectionPart, directions_of_scheme, language_prefix, part_of_direction
from kdmt.languages import Direction

Load = Callable[..., Pipeline]


def several(**changes: Any) -> str:
    """Return the text of a small pipeline with the directions en-de, en-fr and fr-en."""
    document = tiny_pipeline.settings()
    del document["source_lang"], document["target_lang"]

    def parallel(split: str) -> dict[str, Any]:
        return {"parallel": {code: {"path": f"text/{split}.{code}"} for code in ("en", "de", "fr")}}

    document["prepare"] |= {
        "train": [parallel("train")],
        "valid": parallel("valid"),
        "test": {"test": parallel("test")},
    }
    return tiny_pipeline.to_yaml({"directions": ["en-de", "en-fr", "fr-en"]} | document | changes)


def text_of(*entries: dict[str, Any]) -> list[dict[str, Any]]:
    """Return corpora of two files with further settings."""
    files = {"source": {"path": "a"}, "target": {"path": "b"}}
    return [files | entry for entry in entries]


# ---------------------------------------------------------------------------------------------------------- directions


@pytest.mark.parametrize(
    ("text", "sides"),
    [("en-de", ("en", "de")), ("en-zh-Hans", ("en", "zh-Hans")), ("pt_BR-en", ("pt_BR", "en")), ("en-de-CH", None)],
)
def test_direction_is_parsed(text: str, sides: tuple[str, str] | None) -> None:
    if sides is None:
        with pytest.raises(ValueError, match="can be read in several ways"):
            Direction.parse(text)
    else:
        assert Direction.parse(text) == Direction(*sides)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ende", "'ende' is no direction as 'en-de'"),
        ("en-eng", "both languages are the same"),
        ("en-de-CH", "write '_' within a code, as in 'en-de_CH'"),
    ],
)
def test_what_is_no_direction(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Direction.parse(text)


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        ("many_to_many", "de-en de-fr en-de en-fr fr-de fr-en"),
        ("english_centric", "de-en en-de en-fr fr-en"),
        ("one_to_many", "de-en de-fr"),
        ("many_to_one", "en-de fr-de"),
    ],
)
def test_directions_of_a_scheme(scheme: Any, expected: str) -> None:
    assert sorted(map(str, directions_of_scheme(["de", "en", "fr"], scheme))) == expected.split()


def test_tokens_before_the_source() -> None:
    direction = Direction("en", "zh-Hans")
    assert language_prefix(direction, "target_in_source") == ("<2zh-Hans>",)
    assert language_prefix(direction, "both_in_source") == ("<en>", "<2zh-Hans>")


@pytest.mark.parametrize(
    ("tokens", "prefix"),  # the first token is the decoder's
    [
        ("source_and_decoder", ("<de>", "<en>")),
        ("target_and_decoder", ("<2de>", "<2de>")),
        ("decoder", ("<2de>",)),
    ],
)
def test_the_first_token_is_that_of_the_decoder(load: Load, tokens: Any, prefix: tuple[str, ...]) -> None:
    assert language_prefix(Direction("en", "de"), tokens) == prefix
    assert load(text=several(language_tokens=tokens)).decoder_reads_token
    assert not load(text=several()).decoder_reads_token
    assert not load().decoder_reads_token


# ------------------------------------------------------------------------------------------------------------ pipelines


def test_parallel_text_serves_all_directions(load: Load) -> None:
    config = load(text=several(zero_shot=["fr-de"]))
    assert [str(each) for each in config.trained_directions] == ["en-de", "en-fr", "fr-en"]
    parts = {str(part.direction): part for part in config.parts_of_prepare()}
    assert list(parts) == ["en-de", "en-fr", "fr-en", "fr-de"]
    corpus = parts["fr-en"].settings.train[0]
    assert corpus.source is not None
    assert corpus.target is not None
    assert (corpus.source.path, corpus.target.path) == ("text/train.fr", "text/train.en")
    assert parts["fr-de"].settings.train == []  # it is only tested
    assert list(config.tests_by_split) == ["test.en-de", "test.en-fr", "test.fr-en", "test.fr-de"]


def test_texts_of_directions_are_found_once_for_all_test_sets(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load("prepare.test.a={parallel: {en: {path: a}, de: {path: b}, fr: {path: c}}}", text=several())
    found: list[Direction] = []

    def counting(settings: Any, direction: Direction, **options: Any) -> DirectionPart:
        found.append(direction)
        return part_of_direction(settings, direction, **options)

    monkeypatch.setattr("kdmt.config.pipeline.part_of_direction", counting)
    for _ in range(3):
        assert len(config.tests_by_split) == 6
    assert found == config.all_directions


def test_reverse_exchanges_the_sides(load: Load) -> None:
    document = json.loads(json.dumps(resolved(load(text=several()))))
    document["directions"] = ["en-de", "de-en"]
    tsv = {"tsv": {"path": "x.tsv"}, "source_column": 2, "direction": "en-de", "reverse": True}
    document["prepare"] |= {"train": [*text_of({"direction": "en-de", "reverse": True}), tsv]}
    config = load(text=tiny_pipeline.to_yaml(document))
    first, second = (part.settings.train for part in config.parts_of_prepare())
    assert [corpus.source and corpus.source.path for corpus in first] == ["a", None]
    assert [corpus.source and corpus.source.path for corpus in second] == ["b", None]
    assert [(corpus.source_column, corpus.target_column) for corpus in (first[1], second[1])] == [(2, 1), (1, 2)]


def test_zero_shot_directions_of_a_scheme_are_not_trained(load: Load) -> None:
    document = json.loads(json.dumps(resolved(load(text=several()))))
    del document["directions"]
    changes = {"languages": ["en", "de", "fr"], "scheme": "many_to_many", "zero_shot": ["de-fr"]}
    config = load(text=tiny_pipeline.to_yaml(document | changes))
    assert sorted(map(str, config.trained_directions)) == ["de-en", "en-de", "en-fr", "fr-de", "fr-en"]


def test_records_of_one_direction_have_no_setting_of_several(load: Load) -> None:
    recorded = resolved(load())
    assert {"directions", "languages", "scheme", "zero_shot", "language_tokens"}.isdisjoint(recorded)
    assert {"direction", "reverse", "parallel"}.isdisjoint(recorded["prepare"]["train"][0])
    assert "sampling" not in recorded["teacher"]["train"]
    assert "temperature" not in recorded["prepare"]["tokenizer"]
    assert "source_lang" not in resolved(load(text=several()))


def test_a_resolved_pipeline_of_several_directions_loads_to_an_equal_one(load: Load) -> None:
    changes = {"zero_shot": ["fr-de"], "language_tokens": "both_in_source"}
    config = load(text=several(**changes))
    assert load(text=tiny_pipeline.to_yaml(json.loads(json.dumps(resolved(config))))) == config


def test_resolved_teachers_of_directions_load_to_equal_ones(load: Load) -> None:
    legs = ["runs/a", {"ctranslate2": "madlad", "source_prefix": "<2fr> "}]
    pivot = {"pivot": "de", "teachers": legs, "nbest": 2}
    prompted = {"prompt": "p.txt", "target_name": "Deutsch"}
    for english_german in (
        ["runs/a", "runs/b"],
        prompted | {"endpoint": "http://localhost/v1", "model": "m"},
        prompted | {"ctranslate2_generator": "llama"},
    ):
        teachers = {"en-de": english_german, "en-fr": None, "fr-en": pivot}
        config = load("distill.decode.beam=4", text=several(distill={"teachers": teachers}))
        assert list(config.distill.by_direction) == ["en-de", "en-fr", "fr-en"]
        assert config.distill.shared == []
        again = load(text=tiny_pipeline.to_yaml(json.loads(json.dumps(resolved(config)))))
        assert again == config
    assert resolved(load(text=several()))["distill"]["teachers"] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"directions": ["en-de", "en-cs"]}, "'prepare.train': no corpus has the direction en-cs"),
        ({"directions": ["en-de", "eng-deu"]}, "'directions': eng-deu is named twice"),
        ({"directions": ["en-de", "eng-fr"]}, "'en' and 'eng' are the same language: write one of them"),
        ({"directions": ["ende"]}, "directions.0: 'ende' is no direction"),
        ({"source_lang": "en"}, "give either 'source_lang' or several directions, not both"),
        ({"languages": ["en", "de"]}, "give either 'directions' or 'languages' with 'scheme', not both"),
        ({"scheme": "many_to_many"}, "'scheme' has no effect with 'directions'"),
        ({"zero_shot": ["en-de"]}, "'zero_shot': en-de is trained too"),
        ({"zero_shot": ["fr-cs"]}, "'zero_shot': no trained direction translates to 'cs'"),
        ({"zero_shot": ["cs-fr"]}, "'zero_shot': no trained direction has the language 'cs'"),
        (
            {"zero_shot": ["de-fr"], "language_tokens": "both_in_source"},
            "'zero_shot': no trained direction translates from 'de', so that the model does not learn its token <de>",
        ),
        (
            {"zero_shot": ["de-fr"], "language_tokens": "source_and_decoder"},
            "does not learn its token <de> ('language_tokens: source_and_decoder')",
        ),
        ({"back_translation": {"checkpoint": "x"}}, "'back_translation' cannot be combined with several directions"),
    ],
)
def test_directions_that_are_not_valid(problem: Callable[..., str], changes: dict[str, Any], message: str) -> None:
    assert message in problem(text=several(**changes))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("prepare.train=[{source: {path: a}, target: {path: b}}]", "'prepare.train.0.direction' is missing"),
        (
            "prepare.train=[{source: {path: a}, target: {path: b}, direction: en-cs}]",
            "'prepare.train.0.direction': en-cs is none of the directions of the pipeline: en-de, en-fr, fr-en",
        ),
        (
            "prepare.train=[{source: {path: a}, target: {path: b}, direction: en-de, reverse: true}]",
            "'prepare.train.0.reverse': de-en is none of the directions",
        ),
        ("prepare.train=[{source: {path: a}, target: {path: b}, reverse: true}]", "'reverse' has no effect without"),
        ("prepare.train=[{parallel: {en: {path: a}, cs: {path: b}}}]", "no direction of the pipeline is among en, cs"),
        ("prepare.train=[{parallel: {en: {path: a}, eng: {path: b}}}]", "'en' and 'eng' are the same language"),
        (
            "prepare.train=[{parallel: {en: {path: a}, de: {path: b}}, source_column: 1}]",
            "'source_column' has no effect with 'parallel'",
        ),
        ("prepare.train=[{parallel: {en: {path: a}}}]", "prepare.train.0.parallel: "),
        ("prepare.train=[{opus: Books/v1, direction: en-de}]", "'prepare.train.0.opus': with several directions"),
        (
            "prepare.valid={parallel: {en: {path: a}, de: {path: b}}}",
            "'prepare.valid': no text has the direction en-fr",
        ),
        (
            "prepare.test.test=[{parallel: {en: {path: a}, de: {path: b}}}, {source: {path: a}, target: {path: b}, "
            "direction: en-de}]",
            "'prepare.test.test.1': a second text for en-de, after 'prepare.test.test.0'",
        ),
        ("teacher.train.sampling={weights: {de-en: 2}}", "'teacher.train.sampling.weights': 'de-en' is none of"),
        ("teacher.train.sampling={max_pairs: {de-en: 2}}", "'teacher.train.sampling.max_pairs': 'de-en' is none of"),
        ("teacher.train.sampling={max_pairs: {en-de: 0}}", "teacher.train.sampling.max_pairs.en-de"),
        (
            "teacher.train.sampling={temperature: 2.0, temperature_schedule: [[1, 1.0]]}",
            "teacher.train.sampling: 'temperature' has no effect with 'temperature_schedule'",
        ),
        (
            "teacher.train.sampling={temperature_schedule: [[3, 1.0], [2, 5.0]]}",
            "teacher.train.sampling: 'temperature_schedule': the epochs must increase",
        ),
        (
            "teacher.train.sampling={temperature_schedule: [[0, 1.0]]}",
            "teacher.train.sampling.temperature_schedule.0.0",
        ),
        ("teacher.train.sampling={batches: single}", "teacher.train.sampling.batches: "),
        ("distill.teachers=[x]", "'distill.teachers': several directions need a mapping from directions"),
        ("distill.teachers={de-en: x}", "'distill.teachers.de-en': none of the trained directions en-de, en-fr"),
        ("distill.teachers={ende: x}", "distill.teachers.ende: 'ende' is no direction"),
        ("distill.teachers={}", "distill.teachers: "),
        ("distill.teachers={en-de: []}", "distill.teachers.en-de: the list is too short"),
        ("distill.teachers={en-de: null, en-fr: null, fr-en: null}", "'distill.teachers': no direction has a teacher"),
        (
            "distill.teachers={en-de: {endpoint: 'x', model: y, prompt: z}}",
            "distill.teachers.en-de.endpoint: not the base URL of a server",
        ),
        (
            "distill.teachers={en-de: {pivot: fr, teachers: [a, {ctranslate2_generator: b, prompt: c}]}}",
            "distill.teachers.en-de.teachers.1: a model with 'ctranslate2_generator' cannot be one of the two models",
        ),
        (
            "distill={teachers: {en-de: {ctranslate2_generator: b, prompt: c}}, pool: {samples: 2}}",
            "'pool': the teacher of en-de in 'teachers' draws no samples",
        ),
        (
            "distill={teachers: {en-de: {ctranslate2_generator: b, prompt: c}}, mbr: {weights: probability}}",
            "'distill.mbr.weights: probability': the teacher of en-de in 'distill.teachers' gives no log-probabilities",
        ),
        (
            "distill.teachers={en-de: {pivot: fr, teachers: [a, {endpoint: x, model: y, prompt: z}]}}",
            "distill.teachers.en-de.teachers.1: a model with 'endpoint' cannot be one of the two models",
        ),
        (
            "distill.teachers={en-de: {pivot: en, teachers: [a, b]}}",
            "'distill.teachers.en-de.pivot': 'en' is a language of en-de itself",
        ),
        ("distill.teachers={en-de: {pivot: klingon, teachers: [a, b]}}", "'distill.teachers.en-de.pivot': "),
        ("distill.teachers={en-de: {pivot: fr, teachers: [a]}}", "distill.teachers.en-de.teachers: the list is too"),
        (
            "distill.teachers={en-de: {pivot: fr, teachers: [a, b], nbest: 9}}",
            "'teachers.en-de.nbest' (9) is more than 'decode.beam' (2)",
        ),
        (
            "distill={teachers: {en-de: {pivot: fr, teachers: [a, b]}}, pool: {samples: 2}}",
            "'pool': the teacher of en-de in 'teachers' draws no samples",
        ),
        ("distill.teachers={en-de: {ctranslate: x}}", "distill.teachers.en-de.ctranslate: unknown setting"),
        (
            "students.raw={word_kd: {direction_selection: {}, alpha: 0.0}, data: raw}",
            "'word_kd.direction_selection' has no effect: 'word_kd.alpha' is 0",
        ),
        (
            "students.raw={word_kd: {direction_selection: {}}, online: {kind: ema}, data: raw}",
            "'word_kd.direction_selection' cannot be combined with 'online'",
        ),
        (
            "students.raw={word_kd: {direction_selection: {}}, nat: {family: cmlm}, data: raw}",
            "'word_kd.direction_selection' compares likelihoods: 'nat' students cannot have it",
        ),
        ("prepare.monolingual=[{path: a}]", "'prepare.monolingual.0.direction' is missing"),
        (
            "prepare.monolingual=[{path: a, direction: de-fr}]",
            "'prepare.monolingual.0.direction': de-fr is none of the trained directions en-de, en-fr, fr-en",
        ),
        ("prepare.monolingual=[{path: a, direction: enfr}]", "prepare.monolingual.0: 'direction': 'enfr' is no direc"),
        ("prepare.monolingual=[{opus: Books/v1, direction: en-de}]", "'prepare.monolingual.0.opus': with several"),
        (
            "distill.reverse={checkpoint: {de-en: x}}",
            "'distill.reverse.checkpoint.de-en': none of the trained directions en-de, en-fr, fr-en",
        ),
        ("distill.reverse={checkpoint: {}}", "distill.reverse.checkpoint: "),
        (
            "distill.failures.scripts={de: [Latin], ja: [Han]}",
            "'distill.failures.scripts.ja': none of the target languages de, en, fr",
        ),
        ("distill.failures.scripts={de: [Latinn]}", "distill.failures.scripts.de.0: not the name of a Unicode script"),
        ("distill.failures.scripts={de: []}", "distill.failures.scripts.de: "),
        ("distill.failures.scripts={}", "distill.failures.scripts: "),
        ("score.engines=[ctranslate2, bergamot]", "'score.engines': models of 'bergamot' have one direction"),
        ("prepare.train.0.tag=<x>", "'prepare.train.0.tag' cannot be combined"),
        ("students.raw={data: raw, wait_k: 3, model: {unidirectional_encoder: true}}", "'students.raw.wait_k' cannot"),
        (
            "students.raw={data: raw, nat: {family: ctc, streaming: {chunk: 4}}}",
            "'students.raw.nat.streaming' cannot be combined",
        ),
    ],
)
def test_texts_and_settings_that_several_directions_refuse(
    problem: Callable[..., str], override: str, message: str
) -> None:
    assert message in problem(override, text=several())


def test_candidates_of_a_language_model_of_a_direction_can_be_chosen_from(
    load: Load, problem: Callable[..., str]
) -> None:
    model = "{ctranslate2_generator: b, prompt: c, n: N, temperature: 1}"
    teachers = f"distill={{teachers: {{en-de: {model}}}}}"
    chosen = "students.raw.data=mbr"
    load(teachers.replace("N", "4"), chosen, text=several())
    message = problem(teachers.replace("N", "1"), chosen, text=several())
    assert "'students.raw.data: mbr' is made of the n-best: set 'distill.decode.nbest'" in message
    message = problem(teachers.replace("N", "4"), "students.raw.data=nbest", text=several())
    assert "'students.raw.data: nbest' is weighted by probability: the teacher of en-de" in message
    message = problem(teachers.replace("N", "4"), "students.raw.data=sampled", text=several())
    assert "'students.raw.data: sampled': the teacher of en-de in 'distill.teachers' draws no samples" in message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "knowledge.teachers=directions",
            "'knowledge.teachers: directions' has no effect unless 'distill.teachers' has the teachers of directions",
        ),
        ("knowledge.teachers=all", "knowledge.teachers: "),
        (
            "distill.teachers={en-de: {huggingface: x}}",
            "'distill.teachers.en-de': 'knowledge.teachers: directions' needs distributions over the vocabulary of the",
        ),
        (
            "distill.teachers={en-de: {pivot: fr, teachers: [a, {ctranslate2: b}]}}",
            "'distill.teachers.en-de.teachers.1': 'knowledge.teachers: directions' needs distributions",
        ),
        (
            "students.raw.word_kd={source: cache, top1_ranking: 2}",
            "'students.raw.word_kd.top1_ranking' cannot be combined with 'knowledge.teachers: directions': pairs of",
        ),
        (
            "students.raw.word_kd={source: cache, divergence: reverse_kl}",
            "'students.raw.word_kd.divergence: reverse_kl' cannot be combined with 'knowledge.teachers: directions'",
        ),
        (
            "students.raw.word_kd={source: cache, direction_selection: {}}",
            "'students.raw.word_kd.direction_selection' compares with the pipeline's teacher",
        ),
    ],
)
def test_teachers_of_directions_that_fill_no_cache(
    problem: Callable[..., str], load: Load, override: str, message: str
) -> None:
    fills = "knowledge.teachers=directions"
    teachers = "distill.teachers={en-de: a, en-fr: null, fr-en: {pivot: de, teachers: [{huggingface: b}, c]}}"
    config = load(fills, teachers, "students.raw.word_kd={source: cache}", text=several())
    assert config.knowledge.teachers == "directions"
    assert "teachers" not in resolved(load(text=several()))["knowledge"]
    if override.startswith(("students", "distill")):
        assert message in problem(fills, teachers, override, text=several())
    else:
        assert message in problem(override, text=several())


@pytest.mark.parametrize("direction", ["en-fr", "eng-fra"])
def test_text_without_translations_needs_a_teacher(problem: Callable[..., str], load: Load, direction: str) -> None:
    sets = (
        f"prepare.monolingual=[{{path: a, direction: {direction}}}]",
        "distill={monolingual: true, teachers: {en-fr: null}}",
    )
    message = problem(*sets, text=several())
    assert f"'prepare.monolingual.0': 'distill.teachers' has no teacher for {direction}" in message
    load(sets[0], "distill={teachers: {en-fr: null}}", text=several())


@pytest.mark.parametrize("split", ["train", "valid"])
def test_a_zero_shot_direction_has_test_sets_alone(problem: Callable[..., str], split: str) -> None:
    text = "[{source: {path: a}, target: {path: b}, direction: fr-de}]"
    message = problem(f"prepare.{split}={text}", text=several(zero_shot=["fr-de"]))
    assert f"'prepare.{split}.0.direction': fr-de is in 'zero_shot', so it has test sets alone" in message


def test_a_zero_shot_direction_without_a_test_set_needs_a_scheme(problem: Callable[..., str], load: Load) -> None:
    test = "prepare.test={test: {parallel: {en: {path: a}, de: {path: b}}}}"
    message = problem(test, text=several(zero_shot=["fr-de"]))
    assert "'zero_shot': fr-de has no effect, because no text of 'prepare.test' has it" in message
    of_scheme = several(directions=None, languages=["en", "de", "fr"], scheme="many_to_many", zero_shot=["fr-de"])
    assert Direction("fr", "de") not in load(test, text=of_scheme).trained_directions


@pytest.mark.parametrize(
    ("override", "path"),
    [
        ("students.raw.nat={family: ctc}", "students.raw.nat"),
        ("students.raw={hidden_kd: {}, data: raw}", "students.raw.hidden_kd"),
        ("students.raw.self_supervised={}", "students.raw.self_supervised"),
        ("teacher={model: {attention_dropout: 0}, train: {packing: true}}", "teacher.train.packing"),
        (
            "teacher.train.guided_alignment={file: links, unit: tokens}",
            "teacher.train.guided_alignment.unit: tokens",
        ),
    ],
)
def test_settings_that_language_tokens_of_the_decoder_refuse(
    load: Load, problem: Callable[..., str], override: str, path: str
) -> None:
    message = (
        f"'{path}' cannot be combined with 'language_tokens: decoder', with which the decoder begins with a language"
    )
    assert message in problem(override, text=several(language_tokens="decoder"))
    load(override, text=several(language_tokens="both_in_source"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("zero_shot=[en-fr]", "'zero_shot' has no effect without several 'directions'"),
        ("language_tokens=both_in_source", "'language_tokens' has no effect without several"),
        ("prepare.train.0.direction=en-de", "'prepare.train.0.direction' has no effect without several"),
        (
            "prepare.monolingual=[{path: a, direction: en-de}]",
            "'prepare.monolingual.0.direction' has no effect without several",
        ),
        ("prepare.tokenizer.temperature=2", "'prepare.tokenizer.temperature' has no effect without several"),
        ("students.raw.train.sampling={}", "'students.raw.train.sampling' has no effect without several"),
        ("score.resource_classes.low_below=5", "'score.resource_classes' has no effect without several"),
        ("score.off_target={}", "'score.off_target' has no effect without several"),
        ("knowledge.teachers=directions", "'knowledge.teachers: directions' has no effect without several"),
        ("distill.reverse={checkpoint: {en-de: x}}", "'distill.reverse.checkpoint': a mapping has no effect without"),
        ("distill.failures.scripts={de: [Latin]}", "'distill.failures.scripts': a mapping has no effect without"),
        ("distill.teachers={en-de: x}", "'distill.teachers': a mapping has no effect without several"),
        (
            "students.raw.word_kd={direction_selection: {}}",
            "'students.raw.word_kd.direction_selection' has no effect without several",
        ),
        ("source_lang=null", "'source_lang' is missing (or give several 'directions')"),
    ],
)
def test_settings_of_several_directions_need_them(problem: Callable[..., str], override: str, message: str) -> None:
    assert message in problem(override)
