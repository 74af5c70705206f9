"""Languages as tokens: what fairseq's task `translation_multi_simple_epoch` adds to dictionaries and sentences.

Facts are those of fairseq 0.12.2 (data/multilingual/multilingual_data_manager.py, multilingual_utils.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdmt.errors import UserError

TASK = "translation_multi_simple_epoch"
_STYLES = {"multilingual": "__{}__", "mbart": "[{}]"}


@dataclass(frozen=True, kw_only=True)
class LanguageTokens:
    """What a multilingual checkpoint's task does to one direction.

    Attributes:
        symbols: that it appends to each dictionary, in order.
        source: the token before each source sentence, None for none.
        target: the token that each translation begins with, None for none.
    """

    symbols: tuple[str, ...]
    source: str | None
    target: str | None


def language_tokens(task: Mapping[str, Any], source_lang: str, target_lang: str, data: Path) -> LanguageTokens | None:
    """The tokens of a direction; None if the checkpoint is not of the multilingual task.

    Args:
        task: its settings.
        data: where a file that lists the languages is looked for.

    Raises:
        UserError: a language is not in its list, there is none, or tokens are put where ours cannot have them.
    """
    if task.get("task", task.get("_name")) != TASK:
        return None
    languages = _languages(task, data)
    for lang in (source_lang, target_lang):
        if lang not in languages:
            raise UserError(f"it has no language {lang!r}: it knows {', '.join(languages)}")
    if task.get("lang_tok_replacing_bos_eos"):
        raise UserError(
            "its language tokens stand for <s> and </s> (lang_tok_replacing_bos_eos), which ours cannot have"
        )
    style = str(task.get("lang_tok_style") or "multilingual")
    if style not in _STYLES:
        raise UserError(f"its lang_tok_style is {style!r}: {' and '.join(_STYLES)} are known")
    before_source, before_target = _places(task)
    if before_source not in (None, "src", "tgt"):
        raise UserError(f"its encoder_langtok is {before_source!r}: src and tgt are known")
    spoken = {"src": source_lang, "tgt": target_lang}
    return LanguageTokens(
        symbols=_symbols(task, languages, style),
        source=None if before_source is None else _STYLES[style].format(spoken[before_source]),
        target=_STYLES[style].format(target_lang) if before_target else None,
    )


def _languages(task: Mapping[str, Any], data: Path) -> list[str]:
    """In the order of their tokens."""
    if listed := task.get("lang_dict"):
        for path in (data / Path(str(listed)).name, Path(str(listed))):
            if path.is_file():
                return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        raise UserError(f"its languages are listed in {listed}, which is not there: put a copy into {data}")
    if listed := task.get("langs"):
        return listed.split(",") if isinstance(listed, str) else [str(lang) for lang in listed]
    pairs = task.get("lang_pairs") or ""
    pairs = pairs.split(",") if isinstance(pairs, str) else pairs
    languages = sorted({lang for pair in pairs for lang in str(pair).split("-")} - {""})
    if not languages:
        raise UserError("it names no languages (langs, lang_dict, lang_pairs)")
    return languages


def _places(task: Mapping[str, Any]) -> tuple[Any, Any]:
    """Whose language's token stands before the source (src or tgt), and whether one begins the target."""
    tokens = task.get("langtoks")
    if isinstance(tokens, dict) and isinstance(tokens.get("main"), list) and len(tokens["main"]) == 2:
        return tokens["main"][0], tokens["main"][1]
    return task.get("encoder_langtok") or None, task.get("decoder_langtok")


def _symbols(task: Mapping[str, Any], languages: list[str], style: str) -> tuple[str, ...]:
    specs = task.get("langtoks_specs") or ["main"]
    specs = specs.split(",") if isinstance(specs, str) else specs
    symbols = []
    for spec in map(str, specs):
        suffix = "_dae" if spec.endswith("dae") else "_mined" if spec.endswith("mined") else ""
        symbols += [_STYLES[style].format(f"{lang}{suffix}") for lang in languages]
    extra = task.get("extra_data")
    if style == "mbart" or (extra is not None and "mono_dae" in extra):
        symbols.append("<mask>")
    return tuple(symbols)
