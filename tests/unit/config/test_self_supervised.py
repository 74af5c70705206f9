"""Settings of self-supervised losses: which texts they read, what they cannot be combined with, and their records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny_directions
from pydantic import ValidationError
from tiny_pipeline import to_yaml

from kdmt.config import Pipeline, SelfSupervised, flatten_settings, resolved

Load = Callable[..., Pipeline]
ALONE = "{denoising: {}, supervised: 0.0}"
LOSS = "best_metric: loss, validate_bleu: false"


def several(**changes: Any) -> str:
    """Return the text of a small pipeline with the directions en-de, en-fr and fr-en."""
    return to_yaml(tiny_directions.settings() | {"zero_shot": []} | changes)


def texts(**settings: Any) -> tuple[str, ...]:
    return SelfSupervised.model_validate(settings).texts


def test_texts_have_defaults() -> None:
    assert texts() == ("source",)
    assert texts(monolingual=True) == ("source", "monolingual")
    assert texts(denoising={}) == ("target",)
    assert texts(denoising={}, text=["monolingual", "source"]) == ("monolingual", "source")


def test_the_noise_is_that_of_mbart() -> None:
    denoising = SelfSupervised.model_validate({"denoising": {}}).denoising
    assert denoising is not None
    assert (denoising.mask_rate, denoising.span_length) == (0.35, 3.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"supervised": 0.0}, "'supervised: 0' needs 'denoising'"),
        ({"text": ["source", "source"]}, "'text' has a name twice"),
        ({"text": ["source"], "monolingual": True}, "'monolingual' has no effect with 'text': add 'monolingual' to it"),
        ({"denoising": {}, "mask_rate": 0.2}, "'mask_rate' has no effect with 'denoising': use 'denoising.mask_rate'"),
        ({"denoising": {}, "monolingual": True}, "'monolingual' has no effect with 'denoising': use 'monolingual' in"),
        ({"denoising": {"span_length": 0.5}}, "greater than or equal to 1"),
        ({"denoising": {"mask_rate": 1.0}}, "less than 1"),
        ({"text": []}, "at least 1 item"),
    ],
)
def test_contradictory_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SelfSupervised.model_validate(settings)


RAW = "students.raw.self_supervised"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([f"{RAW}={{text: [monolingual]}}"], f"'{RAW}.text' needs 'prepare.monolingual'"),
        (
            [f"{RAW}={{denoising: {{}}, text: [monolingual_target]}}"],
            f"'{RAW}.text' needs 'prepare.monolingual_target'",
        ),
        (
            ["teacher.self_supervised={text: [monolingual]}"],
            "'teacher.self_supervised.text' needs 'prepare.monolingual'",
        ),
        (
            [f"{RAW}={{denoising: {{}}}}", "prepare.vocabulary.joined=false"],
            f"'{RAW}.denoising' needs one dictionary of both languages",
        ),
        (
            [f"{RAW}={{text: [target]}}", "prepare.vocabulary.joined=false"],
            f"'{RAW}.text' needs one dictionary of both languages",
        ),
        (
            [f"students.raw={{data: raw, nat: {{family: cmlm}}, self_supervised: {ALONE}}}"],
            "students.raw: 'self_supervised.denoising' is for autoregressive students: leave out 'nat'",
        ),
        (
            [f"{RAW}={{denoising: {{}}}}", "students.raw.wait_k=3", "students.raw.model.unidirectional_encoder=true"],
            "students.raw: 'wait_k' cannot be combined with 'self_supervised.denoising', which reads whole sources",
        ),
        ([f"{RAW}={ALONE}"], "students.raw: 'self_supervised.supervised: 0' trains no translation: set"),
        (
            [f"teacher.stages=[{{self_supervised: {ALONE}}}]"],
            "teacher.stages.0: 'self_supervised.supervised: 0' trains no translation: set 'train.best_metric: loss'",
        ),
        (
            [f"students.raw.stages=[{{self_supervised: {ALONE}, word_kd: {{}}, {LOSS}}}, {{}}]"],
            "students.raw.stages.0: 'word_kd' has no effect with 'self_supervised.supervised: 0', which uses no",
        ),
        (
            [f"students.raw.stages=[{{self_supervised: {ALONE}, augment: {{typos: 0.1}}, {LOSS}}}, {{}}]"],
            "students.raw.stages.0: 'augment' has no effect with 'self_supervised.supervised: 0'",
        ),
        (
            [
                f"students.raw.stages=[{{self_supervised: {ALONE}, {LOSS}, "
                "data: [{set: raw, share: 0.5}, {set: distilled, share: 0.5}]}, {}]"
            ],
            "students.raw.stages.0: a list of sets in 'data' has no effect with 'self_supervised.supervised: 0'",
        ),
        (
            ["teacher={model: {attention_dropout: 0.0}, train: {packing: true}, self_supervised: {}}"],
            "teacher: 'train.packing' cannot be combined with 'self_supervised', which needs padded sentences",
        ),
    ],
)
def test_what_a_self_supervised_loss_needs(problem: Callable[..., str], overrides: list[str], message: str) -> None:
    assert problem(*overrides).startswith(message)


def test_a_stage_on_text_alone_comes_before_others(load: Load) -> None:
    stages = f"[{{self_supervised: {ALONE}, {LOSS}, lr: 1.0e-3}}, {{word_kd: {{}}}}]"
    config = load(f"students.raw.stages={stages}", f"teacher.stages=[{{self_supervised: {ALONE}, {LOSS}}}, {{}}]")
    for trainings in (config.trainings_of("raw"), config.teacher_trainings()):
        (_, first), (_, second) = trainings
        assert first.self_supervised is not None
        assert first.self_supervised.is_alone
        assert second.self_supervised is None
    assert Pipeline.model_validate(resolved(config)) == config


def test_records_without_the_new_settings_are_as_before(load: Load) -> None:
    found = flatten_settings(load("students.raw.self_supervised={}"), "result")
    names = {path.rpartition(".")[2] for path in found if path.startswith("students.raw.self_supervised.")}
    assert names == {"mask_rate", "monolingual", "supervised"}
    assert not [path for path in found if path.startswith("teacher.self_supervised")]


# -------------------------------------------------------------------------------------------------- several directions


@pytest.mark.parametrize(
    ("changes", "settings", "token"),
    [
        ({"directions": ["en-de", "en-fr"]}, "{denoising: {}, text: [source]}", "'source' has text in 'en', for which"),
        (
            {"language_tokens": "both_in_source"},
            "{denoising: {}}",
            "'target' has text in 'de', for which",
        ),
        (
            {"language_tokens": "both_in_source"},
            "{text: [target]}",
            "'target' has text in 'de', for which",
        ),
    ],
)
def test_text_needs_the_tokens_of_its_language(
    problem: Callable[..., str], changes: dict[str, Any], settings: str, token: str
) -> None:
    assert f"'{RAW}.text': {token}" in problem(f"{RAW}={settings}", text=several(**changes))


@pytest.mark.parametrize("tokens", ["target_in_source", "source_and_decoder", "target_and_decoder", "decoder"])
def test_denoising_works_with_language_tokens_on_either_side(load: Load, tokens: str) -> None:
    load(f"{RAW}={{denoising: {{}}, text: [source, target]}}", text=several(language_tokens=tokens))


def test_masked_sources_keep_the_tokens_of_their_direction(load: Load) -> None:
    load(f"{RAW}={{}}", text=several(language_tokens="both_in_source"))


def test_monolingual_text_has_the_language_of_a_side_of_its_direction(load: Load, problem: Callable[..., str]) -> None:
    sets = (
        "prepare.monolingual=[{path: a, direction: fr-en}]",
        "prepare.monolingual_target=[{path: b, direction: en-de}, {path: c, direction: en-fr}]",
        f"{RAW}={{denoising: {{}}, text: [monolingual, monolingual_target]}}",
    )
    config = load(*sets, text=several())
    assert config.languages_of_text("monolingual") == ["fr"]
    assert config.languages_of_text("monolingual_target") == ["de", "fr"]
    parts = {str(part.direction): part.settings for part in config.parts_of_prepare()}
    assert [text.path for text in parts["en-fr"].monolingual_target] == ["c"]
    assert not parts["fr-en"].monolingual_target
    message = problem("prepare.monolingual_target=[{path: b}]", text=several())
    assert (
        "'prepare.monolingual_target.0.direction' is missing: the direction that the text is in the target" in message
    )
    message = problem("prepare.monolingual_target=[{path: b, direction: de-en}]", text=several())
    assert "'prepare.monolingual_target.0.direction': de-en is none of the trained directions" in message


@pytest.mark.parametrize(("setting", "value"), [("weights", "2.0"), ("max_pairs", "2")])
def test_settings_of_directions_have_no_effect_on_text_alone(
    problem: Callable[..., str], load: Load, setting: str, value: str
) -> None:
    sampling = f"{{{setting}: {{en-de: {value}}}}}"
    stages = f"students.raw.stages=[{{self_supervised: {ALONE}, {LOSS}, sampling: {sampling}}}, {{}}]"
    assert f"'train.sampling.{setting}' has no effect" in problem(stages, text=several())
    load(stages.replace(sampling, "{temperature: 5.0}"), text=several())
