"""Tests of the interface of teachers and of the selection of settings for a plan."""

from __future__ import annotations

import inspect

from kdmt.distill.chosen_teacher import SEARCH_SETTINGS, ChosenTeacher, plan_settings
from kdmt.distill.endpoint_teacher import EndpointModel
from kdmt.distill.huggingface_teacher import HuggingFaceTeacher
from kdmt.distill.local_text_teachers import LocalTextModel
from kdmt.distill.teachers import OwnTeacher


def test_settings_are_selected_by_path_prefix() -> None:
    settings: dict[str, object] = {
        "distill.decode.beam": 5,
        "distill.decode.nbest": 1,
        "distill.decoder": 1,
        "distill.sample.seed": 1,
        "prepare.decode.beam": 2,
    }
    assert plan_settings(settings, SEARCH_SETTINGS) == {
        "distill.decode.beam": 5,
        "distill.decode.nbest": 1,
        "distill.sample.seed": 1,
    }
    assert plan_settings(settings, ()) == {}


def test_every_teacher_implements_the_interface() -> None:
    interface = {name for name in vars(ChosenTeacher) if not name.startswith("_")}
    of_ids = {"to_words", "find_failures", "count_tokens"}
    functions = {"inputs", "check", "made_from", "open", "opens_text", "facts", *of_ids}
    assert interface == {"vocab_size", "is_reproducible"} | functions
    for teacher in (OwnTeacher, HuggingFaceTeacher, EndpointModel, LocalTextModel):
        for name in functions:
            wanted = list(inspect.signature(getattr(ChosenTeacher, name)).parameters)
            assert list(inspect.signature(getattr(teacher, name)).parameters) == wanted, (teacher, name)
