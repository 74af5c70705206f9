"""Models of fairseq's task `translation_multi_simple_epoch` with all their directions, imported and exported.

fairseq's task puts the language tokens into sentences itself, and appends them to the dictionaries if these do not have
them. In kdmt, the tokens are symbols of the dictionary with names of their own (`kdmt.config.directions`):

    --encoder-langtok tgt                       `target_in_source`
    --encoder-langtok src --decoder-langtok     `source_and_decoder`
    --encoder-langtok tgt --decoder-langtok     `target_and_decoder`
    --decoder-langtok                           `decoder`

So import and export give the tokens other names. All ids and weights stay the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kdmt.choices import LanguageTokens as Scheme
from kdmt.config.directions import decoder_reads_token, language_prefix
from kdmt.corpus.text import TextProcessor
from kdmt.corpus.vocabulary import Dictionary
from kdmt.errors import UserError
from kdmt.interop.fairseq.language_tokens import TASK, directions_of, language_tokens, token_rules
from kdmt.languages import Direction, parse_language
from kdmt.models.architecture import TransformerConfig

_SCHEMES: Mapping[tuple[object, bool], Scheme] = {
    ("tgt", False): "target_in_source",
    ("src", True): "source_and_decoder",
    ("tgt", True): "target_and_decoder",
    (None, True): "decoder",
}  # language of the token before the source, and whether the decoder begins with a token
_UNUSED = "madeupword"  # beginning of the symbols that fill a dictionary


@dataclass(frozen=True)
class Languages:
    """The languages of a multilingual checkpoint of fairseq.

    Attributes:
        directions: directions that it was trained on.
        tokens: kdmt's name of the way in which it knows the direction.
        dictionaries: dictionaries of the sources and of the targets, with kdmt's names of the language tokens.
    """

    directions: tuple[Direction, ...]
    tokens: Scheme
    dictionaries: tuple[Dictionary, Dictionary]

    def config(self, config: TransformerConfig) -> TransformerConfig:
        """Return the configuration of the model, whose limits of positions count the language tokens in fairseq."""
        if not decoder_reads_token(self.tokens):
            return config
        return replace(
            config,
            target_from_source=True,
            max_source_positions=config.max_source_positions + 1,
            max_target_positions=config.max_target_positions - 1,
        )


def read_languages(task: Mapping[str, object], data: Path) -> Languages:
    """Return the languages of a multilingual checkpoint.

    Args:
        task: settings of the checkpoint's task.
        data: folder with `dict.<lang>.txt` of each language, and the list of languages if the task has one.

    Raises:
        UserError: if the task is not multilingual, it names no directions, a language is unknown, its sources or its
            targets have several dictionaries, the tokens do not name the target language, or the decoder begins with a
            token whose id may be another one in the sources, from which kdmt's decoders take it.
    """
    if task.get("task", task.get("_name")) != TASK:
        raise UserError(f"it has one direction: --all-directions is for models of the task {TASK}")
    directions = directions_of(task)
    for code in (code for each in directions for code in each.sides):
        try:
            parse_language(code)
        except ValueError as error:
            raise UserError(f"its setting lang_pairs: {error}") from None
    before_source, before_target = token_rules(task)
    scheme = _SCHEMES.get((before_source, bool(before_target)))
    if scheme is None:
        raise UserError(
            f"its language tokens do not name the target language in a way that kdmt has (encoder_langtok is "
            f"{before_source!r:.60}, decoder_langtok {before_target!r:.60}): --source-lang and --target-lang import "
            "one direction"
        )
    names: dict[str, str] = {}
    symbols: tuple[str, ...] = ()
    for direction in directions:
        tokens = language_tokens(task, direction, data)  # also checks its settings
        assert tokens is not None
        symbols = tokens.symbols
        prefix = language_prefix(direction, scheme)
        given = [token for token in (tokens.target, tokens.source) if token is not None]
        names |= dict(zip(given, prefix, strict=True))
    source, target = (_common_dictionary([each.sides[side] for each in directions], symbols, data) for side in (0, 1))
    if decoder_reads_token(scheme) and source != target:
        raise UserError(
            "its decoder begins with a language token, and the dictionaries of its sources and of its targets in "
            f"{data} differ: --source-lang and --target-lang import one direction"
        )
    return Languages(tuple(dict.fromkeys(directions)), scheme, (source.renamed(names), target.renamed(names)))


def _common_dictionary(codes: Sequence[str], symbols: Sequence[str], data: Path) -> Dictionary:
    """Return the dictionary that languages have in common, with the symbols of the task.

    Raises:
        UserError: if there are several.
    """
    first, *others = (data / f"dict.{code}.txt" for code in dict.fromkeys(codes))
    dictionary = Dictionary.load(first)
    for path in others:  # a hundred large dictionaries do not fit in memory together
        if Dictionary.load(path) != dictionary:
            raise UserError(f"{path}: is not the same dictionary as {first}")
    for symbol in symbols:
        dictionary.add(symbol)
    return dictionary


# --------------------------------------------------------------------------------------------------------------- export


@dataclass(frozen=True)
class MultilingualTask:
    """A model of kdmt as one of fairseq's multilingual task.

    Attributes:
        settings: settings of the task.
        dictionaries: dictionary of each language by its name in fairseq.
    """

    settings: Mapping[str, object]
    dictionaries: Mapping[str, Dictionary]


def multilingual_task(text: TextProcessor, dictionaries: tuple[Dictionary, Dictionary]) -> MultilingualTask:
    """Return fairseq's task of a model with several directions.

    Args:
        text: text processing of the model.
        dictionaries: dictionaries of the sources and of the targets.

    Raises:
        UserError: if fairseq's task does not have such language tokens, a language has no token and there is no unused
            symbol for it, or a language would need two dictionaries.
    """
    rules = next((rules for rules, scheme in _SCHEMES.items() if scheme == text.language_tokens), None)
    if rules is None:
        raise UserError(f"fairseq's task {TASK} puts one token before the source ('language_tokens')")
    codes = list(dict.fromkeys(code for each in text.directions for code in each.sides))
    names = {code: code.replace("-", "_") for code in codes}
    renamed = [_with_names(text, dictionary, names) for dictionary in dictionaries]
    by_language: dict[str, Dictionary] = {}
    for direction in text.directions:
        for code, dictionary in zip(direction.sides, renamed, strict=True):
            if by_language.setdefault(names[code], dictionary) != dictionary:
                raise UserError(f"in fairseq, {code} has one dictionary, and the model has two")
    before_source, before_target = rules
    settings = {
        "task": TASK,
        "source_lang": None,
        "target_lang": None,
        "lang_pairs": ["-".join(names[code] for code in each.sides) for each in text.directions],
        "langs": [names[code] for code in codes],
        "lang_dict": None,
        "encoder_langtok": before_source,
        "decoder_langtok": before_target,
        "langtoks": {"main": [before_source, "tgt" if before_target else None]},
        "langtoks_specs": ["main"],
        "lang_tok_style": "multilingual",
        "lang_tok_replacing_bos_eos": False,
        "extra_data": None,
        "extra_lang_pairs": None,
        "sampling_method": "concat",
        "sampling_temperature": 1.5,
    }
    return MultilingualTask(settings, by_language)


def _with_names(text: TextProcessor, dictionary: Dictionary, names: Mapping[str, str]) -> Dictionary:
    """Return a dictionary with a token of fairseq's name for each language.

    Args:
        names: code of a language -> its name in fairseq.
    """
    ours = {}
    for direction in text.directions:
        prefix = language_prefix(direction, text.language_tokens)
        ours[direction.target] = prefix[0]
        if text.language_tokens == "source_and_decoder":
            ours[direction.source] = prefix[1]
    unused = [symbol for symbol in dictionary.symbols if symbol.startswith(_UNUSED)]
    tokens: dict[str, str] = {}
    for code, name in names.items():
        symbol, token = ours.get(code), f"__{name}__"
        if symbol is None and token in dictionary:  # of an imported model
            continue
        if symbol is None:  # only a source language, which fairseq's task gives a token too
            if not unused:
                raise UserError(f"fairseq needs a token for {code}, and the dictionary has no unused symbol for it")
            symbol = unused.pop()
        tokens[symbol] = token
    return dictionary.renamed(tokens)
