"""Tokenizer, dictionaries and data-bin of the prepare stage, from processed text."""

from __future__ import annotations

import shutil
from pathlib import Path

from kdmt.config import MONOLINGUAL_SIDES, Context, Tokenizer
from kdmt.corpus.binarize import (
    BinarizedPair,
    Tags,
    TextPair,
    binarize_files,
    binarize_text,
    build_data_bin,
    dictionary_path,
)
from kdmt.corpus.clean import CleaningReport
from kdmt.corpus.codec import check_language_tokens
from kdmt.corpus.dropped import describe_dropped
from kdmt.corpus.prepared import PreparedCorpus
from kdmt.corpus.steps import Steps
from kdmt.corpus.subword_model import SubwordModel
from kdmt.corpus.tokenizer import (
    Tokenizers,
    TooLittleText,
    learnt_size,
    load_tokenizer,
    required_symbols,
    train_tokenizer,
)
from kdmt.corpus.vocabulary import Dictionary
from kdmt.corpus.vocabulary_size import explain_suggestion, is_far_off, suggest_size
from kdmt.errors import UserError
from kdmt.runtime import cores
from kdmt.stages.preparation import Preparation


def make_tokenizer(
    work: Preparation, folder: Path, steps: Steps, report: CleaningReport, texts: tuple[Path, Path] | None = None
) -> Tokenizer:
    """Learn the tokenizer unless a stopped run has finished that; return its settings, with a number for `vocab_size`.

    If cleaning has left too little text, an error says so.

    Args:
        texts: text of both sides that it is learnt from (default: the training text).

    Raises:
        UserError: if too little text is left; see also `train_tokenizer`.
    """
    settings = _with_vocabulary_size(work, report)
    if steps.values("tokenizer") is None:
        src, tgt = work.direction.sides
        texts = texts or (folder / f"train.{src}", folder / f"train.{tgt}")
        try:
            train_tokenizer(settings, texts, folder / "tokenizer", work.direction)
        except TooLittleText as error:
            if not report.loses_much:
                raise
            raise UserError(
                f"cleaning leaves {report.pairs_out:,} of {report.pairs_in:,} training pairs, too few to learn the "
                f"tokenizer from; dropped: {describe_dropped(report.pairs_in, report.dropped)}{report.example()}"
            ) from error
        steps.finish("tokenizer", {}, [folder / "tokenizer"])
    if work.settings.context is not None:
        _check_separator(load_tokenizer(folder / "tokenizer").source, work.settings.context)
    _say_vocabulary_size(work, settings, load_tokenizer(folder / "tokenizer"), report)
    return settings


def _with_vocabulary_size(work: Preparation, report: CleaningReport) -> Tokenizer:
    """Return the settings of the tokenizer with a number in place of `vocab_size: auto`.

    The size depends on the number of training pairs alone, without copies by `weight` or `mixing`. Where the text
    allows fewer pieces, a model of SentencePiece gets as many as possible.
    """
    settings = _with_separator(work.settings.tokenizer, work.settings.context)
    if not settings.is_learnt:
        return settings
    num_pairs = report.pairs_without_copies  # copies have no further words
    if settings.vocab_size == "auto":
        return settings.model_copy(update={"vocab_size": suggest_size(num_pairs), "hard_vocab_limit": False})
    if is_far_off(settings.vocab_size, num_pairs):
        explained = explain_suggestion(num_pairs)
        work.say(f"prepare: tokenizer.vocab_size is {settings.vocab_size:,}; {explained} ('auto' chooses this size)")
    return settings


def _with_separator(settings: Tokenizer, context: Context | None) -> Tokenizer:
    """Return the settings of the tokenizer with the separator of contexts as a piece, if it is learnt."""
    if context is None or not settings.is_learnt or context.separator in settings.user_defined_symbols:
        return settings
    return settings.model_copy(update={"user_defined_symbols": [*settings.user_defined_symbols, context.separator]})


def _check_separator(model: SubwordModel, context: Context) -> None:
    """Check that a tokenizer cuts the separator of contexts from the text as one token.

    Raises:
        UserError: if a given tokenizer does not.
    """
    (tokens,) = model.encode_lines([f"a {context.separator} a"])
    if context.separator not in tokens.split():
        raise UserError(
            f"prepare.context.separator: the given tokenizer has no piece {context.separator!r}: choose one of its "
            "user-defined symbols, or let a tokenizer be learnt"
        )


def _say_vocabulary_size(work: Preparation, settings: Tokenizer, learnt: Tokenizers, report: CleaningReport) -> None:
    """Print the size of the vocabulary that `vocab_size: auto` has led to, which may be smaller than the suggested one.

    Args:
        settings: settings with the suggested size.
    """
    if work.settings.tokenizer.vocab_size != "auto":
        return
    assert settings.vocab_size != "auto", "the size is chosen by the number of pairs"
    sizes = dict.fromkeys(learnt_size(model) for model in (learnt.source, learnt.target))
    allowed = ", as many as the text allows" if min(sizes) < settings.vocab_size else ""
    work.say(
        f"prepare: tokenizer.vocab_size: auto is {' and '.join(f'{size:,}' for size in sizes)}{allowed}: "
        f"{explain_suggestion(report.pairs_without_copies)}"
    )


def binarize(
    work: Preparation, folder: Path, held_out: list[str]
) -> tuple[dict[str, object], dict[str, dict[str, int]]]:
    """Write the data-bin; return facts, and counts for each language of words that are spelled like special symbols."""
    tokenizers, workers = load_tokenizer(folder / "tokenizer"), work.settings.workers or cores()
    corpus = PreparedCorpus(folder, work.direction, work.spaced)
    src, tgt = work.direction.sides
    made = _binarize_training_text(work, corpus, tokenizers, workers)
    dictionaries = (made.source_dictionary, made.target_dictionary)
    for lang in (src, tgt):
        shutil.copy2(dictionary_path(corpus.data_bin, lang), folder)
    for split in held_out:
        binarize_files(
            corpus.data_bin,
            split,
            _text_pair(work, corpus, split),
            direction=work.direction,
            tokenizers=tokenizers,
            dictionaries=dictionaries,
            threads=workers,
        )
    for name in work.settings.monolingual_texts:
        side = MONOLINGUAL_SIDES[name]
        lang = work.direction.sides[side]
        tags = None if side else corpus.monolingual_tags  # the targets of a data-bin have no tokens for languages
        binarize_text(
            corpus.text("monolingual", lang),
            corpus.prefix("monolingual", lang),
            model=(tokenizers.source, tokenizers.target)[side],
            dictionary=dictionaries[side],
            threads=workers,
            tags=None if tags is None else Tags(tags, work.prefixes),
        )
    counted = dict(zip((src, tgt), (made.source, made.target), strict=True))
    facts: dict[str, object] = {
        lang: {"symbols": len(dictionary), "tokens": counts.num_tokens, "unk": counts.num_unk}
        for (lang, counts), dictionary in zip(counted.items(), dictionaries, strict=True)
    }
    return facts, {lang: counts.literal_specials for lang, counts in counted.items()}


def _text_pair(work: Preparation, corpus: PreparedCorpus, split: str) -> TextPair:
    """Return the text of a split, with its tags if it has any."""
    source, target = (corpus.text(split, lang) for lang in work.direction.sides)
    tags = corpus.folder / f"{split}.tags"
    return TextPair(source, target, tags if tags.exists() else None, work.prefixes)


def _binarize_training_text(
    work: Preparation, corpus: PreparedCorpus, tokenizers: Tokenizers, workers: int
) -> BinarizedPair:
    """Binarise the training text with dictionaries that are given or learnt from it."""
    src, tgt = work.direction.sides
    text = _text_pair(work, corpus, "train")
    vocabulary = work.settings.vocabulary
    of_languages = list(dict.fromkeys(token for tokens in work.prefixes.values() for token in tokens))
    if vocabulary.source_path is None:
        tokenizer = _with_separator(work.settings.tokenizer, work.settings.context)
        source_symbols, target_symbols = required_symbols(tokenizer, tokenizers)
        if work.settings.context is not None and work.settings.context.separator not in source_symbols:
            source_symbols = [*source_symbols, work.settings.context.separator]
        return build_data_bin(
            corpus.data_bin,
            text,
            direction=work.direction,
            tokenizers=tokenizers,
            vocabulary=vocabulary,
            required=(source_symbols + of_languages, target_symbols),
            threads=workers,
        )
    source = Dictionary.load(Path(vocabulary.source_path))
    check_language_tokens(source, of_languages, f"prepare.vocabulary.source_path: {vocabulary.source_path}")
    if work.settings.context is not None and work.settings.context.separator not in source:
        raise UserError(
            f"prepare.vocabulary.source_path: {vocabulary.source_path} does not have the separator of contexts "
            f"{work.settings.context.separator!r}"
        )
    target = source if vocabulary.target_path is None else Dictionary.load(Path(vocabulary.target_path))
    made = binarize_files(
        corpus.data_bin,
        "train",
        text,
        direction=work.direction,
        tokenizers=tokenizers,
        dictionaries=(source, target),
        threads=workers,
    )
    for lang, dictionary in ((src, source), (tgt, target)):
        dictionary.save(dictionary_path(corpus.data_bin, lang))
    return made
