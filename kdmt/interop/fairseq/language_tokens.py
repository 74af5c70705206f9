"""Language tokens that fairseq's task `translation_multi_simple_epoch` adds to dictionaries and sentences.

The behaviour is that of fairseq 0.12.2 (data/multilingual/multilingual_data_manager.py, multilingual_utils.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kdmt.errors import UserError
from kdmt.languages import Direction

TASK = "translation_multi_simple_epoch"
_STYLES = {"multilingual": "__{}__", "mbart": "[{}]"}
_LANGUAGE = re.compile(r"[\w.@+-]+")


@dataclass(frozen=True, kw_only=True)
class LanguageTokens:
    """Tokens that the task of a multilingual checkpoint adds for one direction.

    Attributes:
        symbols: symbols appended to each dictionary, in order.
        source: token before each source sentence, or None.
        target: token at the beginning of each translation, or None.
    """

    symbols: tuple[str, ...]
    source: str | None
    target: str | None


def is_language(name: object) -> bool:
    """Return whether a value is a valid name of a language, which is safe to use in file names."""
    return isinstance(name, str) and _LANGUAGE.fullmatch(name) is not None


def is_multilingual(task: Mapping[str, object]) -> bool:
    """Return whether the task of a checkpoint is the multilingual task."""
    return bool(task.get("task", task.get("_name")) == TASK)


def language_tokens(task: Mapping[str, object], direction: Direction, data: Path) -> LanguageTokens | None:
    """Return the language tokens of a direction, or None if the task of the checkpoint is not multilingual.

    Args:
        task: settings of the checkpoint's task.
        direction: direction of translation.
        data: folder of the file that lists the languages, if the task has such a file.

    Raises:
        UserError: if a language is not in the task's list, there is no list, or the task's settings of language tokens
            are not supported.
    """
    if not is_multilingual(task):
        return None
    languages = _languages(task, data)
    for lang in direction.sides:
        if lang not in languages:
            raise UserError(f"it has no language {lang!r}: it knows {', '.join(languages)}")
    if task.get("lang_tok_replacing_bos_eos"):
        raise UserError(
            "its language tokens stand for <s> and </s> (lang_tok_replacing_bos_eos), which ours cannot have"
        )
    style = str(task.get("lang_tok_style") or "multilingual")
    if style not in _STYLES:
        raise UserError(f"its lang_tok_style is {style!r}: {' and '.join(_STYLES)} are known")
    before_source, before_target = token_rules(task)
    if before_source not in (None, "src", "tgt"):
        raise UserError(f"its encoder_langtok is {before_source!r}: src and tgt are known")
    spoken = {"src": direction.source, "tgt": direction.target}
    return LanguageTokens(
        symbols=_symbols(task, languages, style),
        source=None if before_source is None else _STYLES[style].format(spoken[before_source]),
        target=_STYLES[style].format(direction.target) if before_target else None,
    )


def _languages(task: Mapping[str, object], data: Path) -> list[str]:
    """Return the languages of a task in the order of their tokens."""
    if listed := task.get("lang_dict"):
        return _listed_languages(data / Path(str(listed)).name)
    languages = _names(task, "langs")
    if not languages:
        languages = sorted({lang for pair in _names(task, "lang_pairs") for lang in pair.split("-")} - {""})
    if not languages:
        raise UserError("it names no languages (langs, lang_dict, lang_pairs)")
    return languages


def _listed_languages(path: Path) -> list[str]:
    """Return the languages listed in a file, one per line.

    The checkpoint chose the name of the file, which may be any file: errors show its name but none of its content.
    """
    if not path.is_file():
        raise UserError(
            f"its languages are listed in a file {path.name!r}, which is not in {path.parent}: copy it there"
        )
    languages = []
    try:
        with path.open(encoding="utf-8-sig") as file:
            for line in file:
                if name := line.strip():
                    if not is_language(name):
                        raise UserError(f"{path}: is no list of languages, one a line (lang_dict)")
                    languages.append(name)
    except UnicodeDecodeError:
        raise UserError(f"{path}: is no list of languages (lang_dict), and no text in UTF-8") from None
    return languages


def _names(task: Mapping[str, object], setting: str) -> list[str]:
    """Return a setting that is a list of names or a string of names separated by commas; empty if it is not set."""
    value = task.get(setting) or []
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"its setting {setting} is {str(value)[:60]!r}, which is no list of names")
    return names


def directions_of(task: Mapping[str, object]) -> list[Direction]:
    """Return the directions that a multilingual checkpoint was trained on.

    Raises:
        UserError: if it names none, or one of them is no pair of two languages.
    """
    found = []
    for pair in _names(task, "lang_pairs"):
        source, _, target = pair.partition("-")
        if not (is_language(source) and is_language(target)) or "-" in target:
            raise UserError(f"its setting lang_pairs has {pair[:60]!r}, which is no pair of languages")
        found.append(Direction(source, target))
    if not found:
        raise UserError("it names no directions (lang_pairs)")
    return found


def token_rules(task: Mapping[str, object]) -> tuple[object, object]:
    """Return whose language token precedes the source (src or tgt), and whether a language token begins the target."""
    tokens = task.get("langtoks")
    if isinstance(tokens, dict) and isinstance(tokens.get("main"), list) and len(tokens["main"]) == 2:
        return tokens["main"][0], tokens["main"][1]
    return task.get("encoder_langtok") or None, task.get("decoder_langtok")


def _symbols(task: Mapping[str, object], languages: list[str], style: str) -> tuple[str, ...]:
    symbols = []
    for spec in _names(task, "langtoks_specs") or ["main"]:
        suffix = "_dae" if spec.endswith("dae") else "_mined" if spec.endswith("mined") else ""
        symbols += [_STYLES[style].format(f"{lang}{suffix}") for lang in languages]
    extra = task.get("extra_data") or {}
    if not isinstance(extra, dict):
        raise UserError(f"its setting extra_data is {str(extra)[:60]!r}, which names no data")
    if style == "mbart" or "mono_dae" in extra:
        symbols.append("<mask>")
    return tuple(symbols)
