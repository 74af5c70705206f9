"""Tests of the language tokens of multilingual checkpoints, which follow from the settings of the task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdmt.errors import UserError
from kdmt.interop.fairseq.language_tokens import is_language, is_multilingual, language_tokens
from kdmt.languages import Direction

EN_FR = Direction("en", "fr")


TASK = {"task": "translation_multi_simple_epoch", "langs": ["en", "de", "fr"], "encoder_langtok": "tgt",
        "decoder_langtok": True}  # fmt: skip


def test_language_tokens_of_a_direction(tmp_path: Path) -> None:
    found = language_tokens(TASK, EN_FR, tmp_path)
    assert found is not None
    assert found.symbols == ("__en__", "__de__", "__fr__")
    assert (found.source, found.target) == ("__fr__", "__fr__")
    assert language_tokens({"task": "translation"}, EN_FR, tmp_path) is None
    mbart = language_tokens({**TASK, "lang_tok_style": "mbart", "encoder_langtok": "src"}, EN_FR, tmp_path)
    assert mbart is not None
    assert mbart.symbols == ("[en]", "[de]", "[fr]", "<mask>")
    assert mbart.source == "[en]"


def test_languages_from_a_file_and_from_pairs(tmp_path: Path) -> None:
    (tmp_path / "langs.txt").write_text("fr\n\nen\n")
    listed = language_tokens({**TASK, "langs": None, "lang_dict": "/elsewhere/langs.txt"}, EN_FR, tmp_path)
    assert listed is not None
    assert listed.symbols == ("__fr__", "__en__")
    paired = language_tokens({**TASK, "langs": None, "lang_pairs": ["fr-en", "en-de"]}, EN_FR, tmp_path)
    assert paired is not None
    assert paired.symbols == ("__de__", "__en__", "__fr__")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"langs": ["en", "de"]}, "no language 'fr': it knows en, de"),
        (
            {"langs": None, "lang_dict": "/elsewhere/langs.txt"},
            r"a file 'langs\.txt', which is not in .*: copy it there",
        ),
        ({"langs": 5}, "its setting langs is '5', which is no list of names"),
        ({"langs": [["en"], "fr"]}, r"langs is .*, which is no list"),
        ({"langs": None, "lang_pairs": 5}, "its setting lang_pairs is '5'"),
        ({"langtoks_specs": 7}, "its setting langtoks_specs is '7'"),
        ({"extra_data": 3}, "its setting extra_data is '3'"),
        ({"langs": None}, "names no languages"),
        ({"lang_tok_replacing_bos_eos": True}, "lang_tok_replacing_bos_eos"),
        ({"lang_tok_style": "odd"}, "lang_tok_style is 'odd'"),
        ({"encoder_langtok": "both"}, "encoder_langtok is 'both'"),
    ],
)
def test_invalid_language_settings_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        language_tokens({**TASK, **change}, EN_FR, tmp_path)


def test_no_other_file_is_read_for_a_list_of_languages(tmp_path: Path) -> None:
    """The path comes from the checkpoint: only files in the data folder are read, and no content is shown in errors."""
    data, secret = tmp_path / "data", tmp_path / "secret"
    data.mkdir()
    secret.write_text("password\n")
    for path in (str(secret), "../secret", "data/../../secret", "..", 5):
        with pytest.raises(UserError, match=f"is not in {data}: copy it there") as error:
            language_tokens({**TASK, "langs": None, "lang_dict": path}, EN_FR, data)
        assert "password" not in str(error.value)
    (data / "secret").write_text("user: a, password: b\n")
    (data / "binary").write_bytes(bytes(range(256)))
    for name, why in (("secret", "is no list of languages"), ("binary", "no text in UTF-8")):
        with pytest.raises(UserError, match=f"{data / name}: .*{why}") as error:
            language_tokens({**TASK, "langs": None, "lang_dict": f"/etc/{name}"}, EN_FR, data)
        assert "password" not in str(error.value)


def test_is_multilingual_depends_on_the_name_of_the_task() -> None:
    assert is_multilingual(TASK)
    assert is_multilingual({"_name": "translation_multi_simple_epoch"})
    assert not is_multilingual({"task": "translation", "langs": ["en", "de"]})
    assert not is_multilingual({})


@pytest.mark.parametrize(
    ("name", "is_one"),
    [("en", True), ("zh-CN", True), ("en_XX", True), ("a/b", False), ("", False), (5, False), ("a b", False)],
)
def test_language_must_be_usable_in_a_file_name(name: object, is_one: bool) -> None:
    assert is_language(name) == is_one
