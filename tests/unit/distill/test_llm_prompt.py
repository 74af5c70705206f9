"""Tests of prompts of language models."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdmt.config import EndpointTeacher
from kdmt.distill.llm_prompt import estimate_tokens, language_name, max_output_tokens, read_prompt
from kdmt.errors import UserError
from kdmt.languages import Direction

EN_DE = Direction("en", "de")


def written(tmp_path: Path, template: str, examples: str | None = None, **settings: str) -> EndpointTeacher:
    (tmp_path / "prompt.txt").write_text(template, encoding="utf-8")
    if examples is not None:
        (tmp_path / "examples.tsv").write_text(examples, encoding="utf-8")
        settings["examples"] = str(tmp_path / "examples.tsv")
    prompt = str(tmp_path / "prompt.txt")
    return EndpointTeacher.model_validate({"endpoint": "http://h/v1", "model": "m", "prompt": prompt, **settings})


def test_placeholders_are_filled(tmp_path: Path) -> None:
    template = '{source_language} to {target_language}, as JSON {"a": 1} {}:\n{examples}\n\n{source}\n({source})\n'
    settings = written(tmp_path, template, "a dog\tein Hund\n two \tzwei\n")
    prompt = read_prompt(settings, EN_DE, "x.")
    shown = "English: a dog\nGerman: ein Hund\n\nEnglish: two\nGerman: zwei"
    filled = f'English to German, as JSON {{"a": 1}} {{}}:\n{shown}\n\n{{examples}}!\n({{examples}}!)'
    assert prompt.fill("{examples}!") == filled  # a source is never taken for a placeholder


def test_names_of_languages_can_be_set(tmp_path: Path) -> None:
    template = "{source_language}>{target_language}: {source}"
    settings = written(tmp_path, template, source_name="British English", target_name="Swiss German")
    assert read_prompt(settings, EN_DE, "x.").fill("a") == "British English>Swiss German: a"
    other = read_prompt(written(tmp_path, template), EN_DE, "x.")
    assert other.fill("a") == "English>German: a"
    assert other.sha256 != read_prompt(settings, EN_DE, "x.").sha256


@pytest.mark.parametrize(
    ("template", "examples", "message"),
    [
        ("a\nb\n", None, "prompt.txt:2: the prompt has no {source}"),
        ("{source}\n{Source}", None, "prompt.txt:2: unknown placeholder {Source}: known are {source}"),
        ("a\n{source} {examples}", None, "prompt.txt:2: {examples} needs a file of examples: set x.examples"),
        ("{source}", "a\tb\n", "x.examples has no effect: "),
        ("{source}{examples}", "a\tb\nc\n", "examples.tsv:2: expected a source and its translation"),
        ("{source}{examples}", "a\t \n", "examples.tsv:1: expected a source and its translation"),
        ("{source}{examples}", "", "examples.tsv: no examples"),
    ],
)
def test_prompts_that_cannot_work_are_refused(
    tmp_path: Path, template: str, examples: str | None, message: str
) -> None:
    with pytest.raises(UserError) as error:
        read_prompt(written(tmp_path, template, examples), EN_DE, "x.")
    assert message in str(error.value)


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    settings = written(tmp_path, "{source}")
    (tmp_path / "prompt.txt").write_bytes(b"{source}\xff")
    with pytest.raises(UserError, match=r"prompt\.txt: not UTF-8"):
        read_prompt(settings, EN_DE, "x.")
    (tmp_path / "prompt.txt").unlink()
    with pytest.raises(UserError, match=r"prompt\.txt: there is no such file \(x\.prompt\)"):
        read_prompt(settings, EN_DE, "x.")


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("en", "English"),
        ("el", "Greek"),
        ("zh-Hans", "Simplified Chinese"),
        ("zh-TW", "Chinese"),
        ("sr-Latn", "Serbian (Latin)"),
        ("sw", "Swahili"),
        ("prs", "Dari"),
    ],
)
def test_languages_have_english_names(code: str, name: str) -> None:
    assert language_name(code) == name


def test_output_limit_follows_the_ratio() -> None:
    assert estimate_tokens("abcdef") == 2
    assert estimate_tokens("犬が") == 2  # bytes of UTF-8
    assert max_output_tokens("abc" * 100, 2.0) == 232
    assert max_output_tokens("abc" * 100, 0.5) == 82
