"""Tests of flattening: settings by dotted path and kind."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kdmt.config import KINDS, REQUIRED, Pipeline, flatten_settings

Load = Callable[..., Pipeline]


def test_every_setting_has_exactly_one_kind(load: Load) -> None:
    pipeline = load()
    by_kind = {kind: set(flatten_settings(pipeline, kind)) for kind in KINDS}
    assert not by_kind["result"] & by_kind["extend"]
    assert not by_kind["result"] & by_kind["execution"]
    trained = ("teacher", "students.raw", "students.distilled")
    of_training = ("max_updates", "on_divergence", "explosion_norm", "average.of")
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


def test_the_number_of_updates_is_a_result_setting_where_the_schedule_depends_on_it(load: Load) -> None:
    path = "teacher.train.max_updates"
    pipeline = load("teacher.train.lr_schedule=wsd", "teacher.train.warmup_updates=1")
    assert path in flatten_settings(pipeline, "result")
    assert path not in flatten_settings(pipeline, "extend")
    assert "'lr_schedule: wsd'" in flatten_settings(pipeline, "result")[path].reason
    assert "students.raw.train.max_updates" in flatten_settings(pipeline, "extend")


def test_a_flattened_setting_has_its_value_and_default(load: Load) -> None:
    found = flatten_settings(load("teacher.train.lr=0.5", "score.beams=[7]"), "result")
    assert (found["teacher.train.lr"].value, found["teacher.train.lr"].default) == (0.5, 5e-4)
    assert (found["score.beams"].value, found["score.beams"].default) == ([7], [1, 5])
    assert found["name"].default is REQUIRED


def test_an_unknown_kind_is_refused(load: Load) -> None:
    with pytest.raises(ValueError, match="kind 'results'"):
        flatten_settings(load(), "results")


# settings of sections that are null by default, as the records of version 0.2.0 before recipes have them
RECORDED: dict[str, set[str]] = {
    "nat": {
        *("correction", "crf_candidates", "crf_rank", "crf_weight", "deep_supervision", "denoising", "distance"),
        *("family", "glancing", "insertion_temperature", "layout", "length_weight", "link_heads", "passes"),
        *("source_copy", "too_long", "upsample"),
    },
    "word_kd": {
        *("alpha", "alpha_schedule", "beta", "divergence", "marginal_momentum", "max_entropy", "min_confidence"),
        *("mutual_information", "queue", "rate", "select", "source", "teachers", "temperature", "top1_ranking"),
    },
    "hidden_kd": {"decoder", "distance", "encoder", "weight"},
    "attention_kd": {"cross", "decoder_self", "distance", "encoder_self", "heads", "weight"},
    "on_policy": {"max_len_a", "max_len_b", "rate", "temperature", "top_k", "top_p"},
    "self_supervised": {"mask_rate", "monolingual", "supervised"},
}


@pytest.mark.parametrize("section", RECORDED)
def test_a_setting_that_is_newer_than_a_record_has_its_default_there_in_each_optional_section(
    load: Load, section: str
) -> None:
    sets = {"on_policy": ["word_kd={}", "on_policy={}"], "nat": ["nat={family: nat}"]}.get(section, [f"{section}={{}}"])
    found = flatten_settings(load(*(f"students.raw.{each}" for each in sets)), "result")
    prefix = f"students.raw.{section}."
    without_default = {
        path.removeprefix(prefix).split(".")[0]
        for path, setting in found.items()
        if path.startswith(prefix) and setting.default is REQUIRED
    }
    assert without_default
    assert without_default <= RECORDED[section]


def test_a_new_setting_of_the_model_of_an_online_teacher_has_its_default_in_older_records(load: Load) -> None:
    online = "{kind: joint, model: {arch: transformer_tiny}}"
    found = flatten_settings(load("students.raw.word_kd={}", f"students.raw.online={online}"), "result")
    assert found["students.raw.online.model.dropout"].default is REQUIRED
    assert found["students.raw.online.model.init"].default is None
