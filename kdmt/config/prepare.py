"""Settings of the prepare stage."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le
from pydantic import Discriminator, Field, Tag, model_validator

from kdmt.choices import DuplicateKey, ExecutorName, NormalizationRule, SubwordJoiner, UnicodeForm
from kdmt.config.context import Context
from kdmt.config.corpora import Corpus, HeldOut, Monolingual
from kdmt.config.rules import RulesOrNone, change_rules, rules_for_lines
from kdmt.config.section import Ratio, Section, changed, execution, recorded_if_set
from kdmt.types import SPECIALS

# settings that are refused with a data-bin; the others were accepted before and are ignored
# setting with text in one language -> its side: 0 for the source, 1 for the target
MONOLINGUAL_SIDES = {"monolingual": 0, "monolingual_target": 1}
_OF_CORPORA_ALONE = ("duplicates", "max_duplicates", "near_duplicates", "rules")
_CHANGED_FOR_A_CORPUS = ("min_words", "max_words", "max_characters", "max_ratio", "drop_copies")


class Clean(Section):
    """Rules for cleaning the untokenised training text; a limit of 0 is no limit.

    Words are separated by spaces. For a language that is written without spaces (`kdmt.languages`), only
    `max_characters` and `max_ratio` limit the length, unless its text is tokenised already (`text.already_applied`,
    `tokenizer.type: words`).
    """

    unicode_form: UnicodeForm = Field("NFC", description="Unicode normalisation form of all text")
    min_words: int = Field(1, ge=0, description="Minimum number of words of either side")
    max_words: int = Field(250, ge=0, description="Maximum number of words of either side; 0 for no limit")
    max_characters: int = Field(2500, ge=0, description="Maximum number of characters of either side; 0 for no limit")
    # 10 characters are added to both sides first, so that short lines may differ by more
    max_ratio: Ratio = Field(
        3.0,
        ge=0.0,
        description="Maximum ratio of the longer to the shorter side in characters, once the target length is divided "
        "by the median ratio of target to source in the corpora; 0 for no limit",
    )
    drop_duplicates: bool = Field(True, description="Whether exact duplicates of a pair are dropped, except the first")
    duplicates: DuplicateKey = Field(
        "pair",
        description="What duplicates have in common: 'pair' for both sides, 'source' or 'target' for this side, "
        "'either' for at least one side",
    )
    max_duplicates: int = Field(
        1,
        ge=1,
        description="Maximum number of duplicates that are kept: the first ones, untagged before tagged. With "
        "'duplicates: source', for example, the number of different targets of a source",
    )
    near_duplicates: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="Similarity from which a pair is dropped as a near-duplicate of an earlier one, 0.5 or more: the "
        "share of common character 5-grams, without case, punctuation and spaces; 0 to keep near-duplicates",
    )
    drop_copies: bool = Field(True, description="Whether pairs whose target equals the source are dropped")
    rules: RulesOrNone = Field(
        None,
        description="Further rules: 'default' for the recommended ones, 'crawled' for stricter ones, or a list of "
        "names and of rules with settings, as in '[default, {numbers: {min: 0.5}}, {links: false}]'; null for none",
    )

    @model_validator(mode="after")
    def _order(self) -> Clean:
        if self.max_words and self.min_words > self.max_words:
            raise ValueError("'min_words' is larger than 'max_words'")
        return self

    @model_validator(mode="after")
    def _duplicates(self) -> Clean:
        if not self.drop_duplicates:
            for name in ("duplicates", "max_duplicates", "near_duplicates"):
                if name in changed(self):
                    raise ValueError(f"'{name}' has no effect with 'drop_duplicates: false'")
        if 0.0 < self.near_duplicates < 0.5:
            raise ValueError("'near_duplicates' should be 0, or at least 0.5: other pairs are not near-duplicates")
        if self.near_duplicates and self.duplicates == "pair" and self.max_duplicates > 1:
            raise ValueError("'near_duplicates' drops what 'max_duplicates' keeps: equal pairs are near-duplicates too")
        return self

    def for_lines(self, side: int = 0) -> Clean:
        """Return the settings for text of one language, where each line is a pair with itself.

        Args:
            side: side whose language the text has: 0 for the source, 1 for the target.
        """
        return self.model_copy(update={"drop_copies": False, "rules": rules_for_lines(self.rules, side)})

    def with_changes(self, changes: Mapping[str, Any]) -> Clean:
        """Return the settings for a corpus with changes of limits and rules by name.

        Raises:
            ValueError: if a change is not valid; a `ValidationError` has the path of the setting.
        """
        if not changes:
            return self
        limits = {name: value for name, value in changes.items() if name in _CHANGED_FOR_A_CORPUS}
        others = {name: value for name, value in changes.items() if name not in limits}
        rules = self.rules
        if "rules" in others:
            rules = Clean.model_validate({"rules": others.pop("rules")}).rules
        kept = self.model_dump(exclude={"rules"})
        return Clean.model_validate({**kept, **limits, "rules": change_rules(rules, others)})


class Text(Section):
    """Text processing between raw text and the tokenizer, undone on output; stored with every checkpoint."""

    normalize: bool = Field(False, description="Moses punctuation normalisation")
    moses: bool = Field(False, description="Moses tokenisation; output is detokenised")
    lowercase: bool = Field(False, description="Conversion to lower case")
    already_applied: bool = Field(
        False, description="Whether the corpora are processed in this way already, so that training text is not changed"
    )

    @property
    def changes_nothing(self) -> bool:
        """Return whether text processing leaves all text unchanged."""
        return not (self.normalize or self.moses or self.lowercase)


# pydantic puts the tag of the branch that it took into the location of an error; `describe_problems` removes it
SIZE_BRANCH, AUTO_BRANCH = "<vocabulary size>", "<auto>"
SizeOrAuto = Annotated[
    Annotated[int, Ge(8), Tag(SIZE_BRANCH)] | Annotated[Literal["auto"], Tag(AUTO_BRANCH)],
    Discriminator(lambda value: AUTO_BRANCH if isinstance(value, str) else SIZE_BRANCH),
]
COVERAGE_BRANCH = "<coverage>"
CoverageOrAuto = Annotated[
    Annotated[float, Gt(0.0), Le(1.0), Tag(COVERAGE_BRANCH)] | Annotated[Literal["auto"], Tag(AUTO_BRANCH)],
    Discriminator(lambda value: AUTO_BRANCH if isinstance(value, str) else COVERAGE_BRANCH),
]
_NUM_BYTES = 256
_OF_SENTENCEPIECE: dict[str, object] = {
    "byte_fallback": False,
    "user_defined_symbols": [],
    "split_digits": False,
    "hard_vocab_limit": True,
    "normalization_rule": "identity",
}  # setting -> default
_OF_LEARNING: dict[str, object] = {
    "vocab_size": 10000,
    "model": "unigram",
    "character_coverage": 1.0,
    "train_sentences": 500_000,
}


class Tokenizer(Section):
    """Subword tokenizer."""

    type: Literal["sentencepiece", "subword-nmt", "huggingface", "words"] = Field(
        "sentencepiece",
        description="Tokenizer library: SentencePiece, subword-nmt, or Hugging Face tokenizers with the given file "
        "'source_path'; 'words' for text that is tokenised already, split at spaces",
    )
    model: Literal["unigram", "bpe"] = Field("unigram", description="Subword model; subword-nmt requires 'bpe'")
    vocab_size: SizeOrAuto = Field(
        10000,
        description="Number of pieces (SentencePiece) or of merge operations (subword-nmt); 'auto' for the size that "
        "suits the number of training pairs",
    )
    joint: bool = Field(True, description="Whether both languages share one model")
    character_coverage: CoverageOrAuto = Field(
        1.0,
        description="Share of the characters that SentencePiece's vocabulary covers; 'auto' for 0.9995 of each script "
        "with thousands of characters (Han, Hangul, Yi, Tangut) and all characters of the others",
    )
    byte_fallback: bool = Field(
        False,
        description="Whether SentencePiece cuts a character without a piece into bytes instead of <unk>; the "
        "dictionary has all 256 bytes. With 'source_path', whether the dictionary has all bytes of the given model",
    )
    split_digits: bool = Field(False, description="Whether each digit is a piece of its own in SentencePiece")
    user_defined_symbols: list[str] = Field(
        default_factory=list,
        description="Texts that are always one piece of SentencePiece and always in the dictionary, such as "
        "placeholders",
    )
    hard_vocab_limit: bool = Field(
        True,
        description="Whether a 'vocab_size' that the text is too small for is an error; if false, SentencePiece makes "
        "as many pieces as the text allows",
    )
    normalization_rule: NormalizationRule = Field(
        "identity",
        description="Normalisation by SentencePiece, stored in its model; with '_cf', case is folded too",
    )
    train_sentences: int = Field(
        500_000,
        ge=0,
        description="Maximum number of lines for training the tokenizer, SentencePiece's 'input_sentence_size'; 0 for "
        "all",
    )
    seed: int | None = Field(
        None, ge=0, description="Seed for drawing these lines at random; null for evenly spaced lines"
    )
    temperature: float | None = recorded_if_set(
        None,
        ge=1.0,
        description="Temperature T of sampling this text from the languages of a pipeline with several directions: of "
        "n lines of a language, a number in proportion to n^(1/T) is used; null for all lines as they are",
    )
    source_path: str | None = Field(
        None,
        description="Path of an existing model, used instead of training one; of a joint model its only path. For "
        "'type: huggingface' a tokenizer.json",
    )
    target_path: str | None = Field(
        None, description="Path of an existing model of the target language, with 'joint: false'"
    )
    remove_bpe: SubwordJoiner | None = Field(
        None,
        description="Marks by which subwords in text of 'type: words' are joined for output and scores, as in "
        "fairseq's --remove-bpe",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Tokenizer:
        if self.remove_bpe is not None and self.type != "words":
            raise ValueError(f"'remove_bpe' needs 'type: words': '{self.type}' joins its own subwords")
        if self.source_path is not None and self.type == "words":
            raise ValueError("'type: words' has no model: leave out 'source_path'")
        if self.type == "huggingface" and self.source_path is None:
            raise ValueError("'type: huggingface' needs the path of a tokenizer.json as 'source_path'")
        if self.type == "subword-nmt" and self.model != "bpe":
            raise ValueError("subword-nmt learns BPE only: set 'model: bpe'")
        if self.target_path is not None and self.source_path is None:
            raise ValueError("'target_path' is given without 'source_path'")
        if self.source_path is not None and not self.joint and self.target_path is None:
            raise ValueError("a given separate tokenizer needs 'source_path' and 'target_path'")
        if self.joint and self.target_path is not None:
            raise ValueError("a joint tokenizer has one model: give 'source_path' alone")
        return self

    @model_validator(mode="after")
    def _have_effect(self) -> Tokenizer:
        """Refuse settings that have no effect with the others."""
        of_sentencepiece = [name for name, default in _OF_SENTENCEPIECE.items() if getattr(self, name) != default]
        if of_sentencepiece and self.type != "sentencepiece":
            raise ValueError(f"'{of_sentencepiece[0]}' has no effect with 'type: {self.type}'")
        if self.source_path is not None and (others := [name for name in of_sentencepiece if name != "byte_fallback"]):
            raise ValueError(f"'{others[0]}' has no effect on a given model ('source_path')")
        if self.type == "huggingface":
            others = [name for name, default in _OF_LEARNING.items() if getattr(self, name) != default]
            if others:
                raise ValueError(f"'{others[0]}' has no effect with 'type: huggingface': nothing is learnt")
        if not self.is_learnt and (self.vocab_size == "auto" or self.seed is not None):
            name = "seed" if self.seed is not None else "vocab_size: auto"
            raise ValueError(f"'{name}' has no effect: no tokenizer is learnt")
        if not self.is_learnt and self.temperature is not None:
            raise ValueError("'temperature' has no effect: no tokenizer is learnt")
        if self.seed is not None and not self.train_sentences:
            raise ValueError("'seed' has no effect with 'train_sentences: 0': all lines are read")
        return self

    @model_validator(mode="after")
    def _symbols(self) -> Tokenizer:
        for symbol in self.user_defined_symbols:
            if not symbol or len(symbol.split()) != 1 or symbol.split()[0] != symbol or "▁" in symbol:
                raise ValueError(f"'user_defined_symbols': {symbol!r} is empty or contains a space or '▁'")
            if symbol in SPECIALS or re.fullmatch(r"<0x[0-9A-F]{2}>", symbol):
                raise ValueError(f"'user_defined_symbols': {symbol!r} is a symbol with a meaning of its own")
        if len(set(self.user_defined_symbols)) < len(self.user_defined_symbols):
            raise ValueError("'user_defined_symbols': a symbol is listed twice")
        least = len(SPECIALS) + len(self.user_defined_symbols) + (_NUM_BYTES if self.byte_fallback else 0)
        is_too_small = self.source_path is None and self.vocab_size != "auto" and self.vocab_size <= least
        if is_too_small and (self.byte_fallback or self.user_defined_symbols):
            raise ValueError(
                f"'vocab_size' should be more than {least}: special symbols, 'user_defined_symbols' and the 256 "
                "pieces of 'byte_fallback' are part of it"
            )
        return self

    @property
    def is_learnt(self) -> bool:
        """Return whether a model is learnt from the training text."""
        return self.source_path is None and self.type not in ("words", "huggingface")

    @property
    def folds_case(self) -> bool:
        """Return whether the normalisation of a learnt model folds case."""
        return self.normalization_rule.endswith("_cf")


class Vocabulary(Section):
    """Vocabulary, with the options of fairseq-preprocess under the same names."""

    joined: bool = Field(True, description="Whether both languages share one dictionary")
    threshold: int = Field(0, ge=0, description="Minimum count of a token; rarer tokens become <unk>")
    nwords: int = Field(-1, ge=-1, description="Maximum number of tokens, the most frequent ones; -1 for all")
    threshold_target: int | None = Field(
        None, ge=0, description="'threshold' of the target dictionary with 'joined: false'; null for the same value"
    )
    nwords_target: int | None = Field(
        None, ge=-1, description="'nwords' of the target dictionary with 'joined: false'; null for the same value"
    )
    padding_factor: int = Field(8, ge=1, description="Divisor to which the size of the vocabulary is padded")
    source_path: str | None = Field(
        None,
        description="Path of an existing dictionary, fairseq's --srcdict, to fine-tune a model on other text; for a "
        "joined vocabulary the only path",
    )
    target_path: str | None = Field(
        None, description="Path of an existing target dictionary, fairseq's --tgtdict, with 'joined: false'"
    )

    @model_validator(mode="after")
    def _given(self) -> Vocabulary:
        if self.joined and self.target_path is not None:
            raise ValueError("a joined vocabulary has one dictionary: give 'source_path' alone")
        if not self.joined and (self.source_path is None) != (self.target_path is None):
            raise ValueError("give both 'source_path' and 'target_path', or neither")
        limits = {"threshold": 0, "nwords": -1, "threshold_target": None, "nwords_target": None}
        if self.source_path is not None and any(getattr(self, name) != value for name, value in limits.items()):
            raise ValueError(f"a given dictionary is taken as it is: {', '.join(map(repr, limits))} contradict it")
        if self.joined and (self.threshold_target, self.nwords_target) != (None, None):
            raise ValueError("a joined vocabulary has one 'threshold' and one 'nwords'")
        return self


RULES_BRANCH, NONE_BRANCH = "<cleaning rules>", "<no cleaning>"
CleanOrNone = Annotated[
    Annotated[Clean, Tag(RULES_BRANCH)] | Annotated[Literal["none"], Tag(NONE_BRANCH)],
    Discriminator(lambda value: NONE_BRANCH if isinstance(value, str) else RULES_BRANCH),
]


class Decontaminate(Section):
    """Decontamination by exact matches and by common n-grams of words.

    In text without spaces between words, an n-gram of characters counts as one of words: with two characters per word
    in Chinese and Japanese, and five in other languages.
    """

    ngram: int = Field(
        13,
        ge=5,
        description="Number of words of an n-gram. A training pair is dropped if a side of it has one in common with a "
        "held-out sentence of this side",
    )
    overlap: float = Field(
        0.8,
        gt=0.0,
        le=1.0,
        description="Share of the trigrams of a held-out sentence with at least 5 words, but fewer than 'ngram', from "
        "which a training pair that has them is dropped",
    )

    @model_validator(mode="after")
    def _have_effect(self) -> Decontaminate:
        if self.ngram == 5 and "overlap" in changed(self):
            raise ValueError("'overlap' has no effect with 'ngram: 5': no compared sentence is shorter")
        return self


SWITCH_BRANCH, OVERLAP_BRANCH = "<exact matches>", "<n-grams>"
BoolOrOverlap = Annotated[
    Annotated[bool, Tag(SWITCH_BRANCH)] | Annotated[Decontaminate, Tag(OVERLAP_BRANCH)],
    Discriminator(lambda value: OVERLAP_BRANCH if isinstance(value, (dict, Decontaminate)) else SWITCH_BRANCH),
]


_RESERVED_SPLITS = re.compile(
    # names of files in the folders of the splits; fairseq reads train1, train2, ... together with train
    r"((train|valid|monolingual|distilled)\d*|dict)(\..*)?"
)
_RESERVED_PARTS = re.compile(r"raw\d*|part")  # between dots: unprocessed text and further references, temporary files


def _check_split_names(names: Sequence[str]) -> None:
    """Check the names of test sets, which become parts of file names."""
    for name in names:
        if not re.fullmatch(r"\w[\w.+-]*", name) or len(name.encode()) > 100:
            raise ValueError(
                f"test set {name[:100]!r}: a name begins with a letter, a digit or '_', goes on with these, '-', '+' "
                "and '.', and has at most 100 bytes"
            )
        parts = name.casefold().split(".")
        if _RESERVED_SPLITS.fullmatch(name.casefold()) or any(map(_RESERVED_PARTS.fullmatch, parts)):
            raise ValueError(f"test set {name!r}: the name is reserved for files of the pipeline")
        twin = next((other for other in names if other != name and other.casefold() == name.casefold()), None)
        if twin is not None:
            raise ValueError(f"test sets {name!r} and {twin!r}: names that differ in case alone are one on some disks")


ONE_TEXT_BRANCH, TEXTS_BRANCH = "<one text>", "<texts of directions>"
HeldOutTexts = Annotated[
    Annotated[HeldOut, Tag(ONE_TEXT_BRANCH)] | Annotated[list[HeldOut], Field(min_length=1), Tag(TEXTS_BRANCH)],
    Discriminator(lambda value: TEXTS_BRANCH if isinstance(value, list) else ONE_TEXT_BRANCH),
]


class Mixing(Section):
    """Numbers of pairs of the corpora in the training data, by temperature, instead of `weight`.

    A corpus of n pairs gets a number that is proportional to n^(1/temperature): small corpora are repeated, and of
    large ones only a part is used.
    """

    temperature: float = Field(
        5.0, ge=1.0, description="1 for the proportions of the corpora; the larger, the more equal the corpora become"
    )
    total_pairs: int = Field(
        0, ge=0, description="Number of pairs of the training data; 0 for as many as the corpora have together"
    )


class FairseqData(Section):
    """A data-bin of fairseq-preprocess, used as it is instead of corpora, with its splits train1, train2, ..."""

    path: str = Field(description="Path of the data-bin")
    test: list[str] = Field(default_factory=list, description="Splits of the data-bin that systems are scored on")


class Prepare(Section):
    """Settings of the prepare stage: corpora, cleaning, tokenizer, vocabulary."""

    train: list[Corpus] = Field(default_factory=list, description="Corpora for training")
    valid: HeldOutTexts | None = Field(
        None, description="Validation set; with several directions a list of texts, or one text with 'parallel'"
    )
    test: dict[str, HeldOutTexts] = Field(
        default_factory=dict, description="Test sets by name; with several directions as 'valid'"
    )
    data_bin: FairseqData | None = Field(
        None, description="Data-bin of fairseq-preprocess, instead of 'train', 'valid' and 'test'"
    )
    monolingual: list[Monolingual] = Field(
        default_factory=list,
        description="Text in the source language alone, for 'self_supervised' and 'distill.monolingual'",
    )
    monolingual_target: list[Monolingual] = Field(
        default_factory=list,
        description="Text in the target language alone, for 'back_translation' and 'self_supervised'",
    )
    clean: CleanOrNone = Field(Clean(), description="Cleaning rules of the training text, or 'none'")
    mixing: Mixing | None = Field(None, description="Mixing of the corpora by temperature; null for their 'weight'")
    sampling_seed: int = Field(1, ge=0, description="Seed of the choice of pairs for 'share', 'max_pairs' and 'mixing'")
    decontaminate: BoolOrOverlap = Field(
        True,
        description="Whether training pairs are dropped whose source or target occurs on the same side of the "
        "validation set or a test set, regardless of case and punctuation; a mapping for those with common n-grams too",
    )
    context: Context | None = recorded_if_set(
        None, description="Previous sentences of the document before each source sentence; null for none"
    )
    text: Text = Field(Text(), description="Text processing before the tokenizer")
    tokenizer: Tokenizer = Field(Tokenizer(), description="Tokenizer")
    vocabulary: Vocabulary = Field(Vocabulary(), description="Vocabulary")
    executor: ExecutorName = execution(
        "processes",
        description="Execution of cleaning and text processing: 'processes' on this machine, 'inline' in the command, "
        "'ray'",
    )
    downloads: int = execution(4, ge=1, le=32, description="Maximum number of files that are downloaded at once")
    workers: int = execution(0, ge=0, description="Number of processes; 0 for one per core")

    @property
    def test_sets(self) -> list[str]:
        """Return the names of the test sets."""
        return list(self.test) if self.data_bin is None else self.data_bin.test

    @property
    def monolingual_texts(self) -> dict[str, list[Monolingual]]:
        """Return the text in one language alone by its setting in `MONOLINGUAL_SIDES`, without empty lists."""
        return {name: texts for name in MONOLINGUAL_SIDES if (texts := getattr(self, name))}

    @model_validator(mode="after")
    def _corpora(self) -> Prepare:
        given = [name for name in ("train", "valid", "test", *MONOLINGUAL_SIDES) if getattr(self, name)]
        if self.data_bin is not None and given:
            raise ValueError(f"'data_bin' replaces the corpora: leave out '{given[0]}'")
        if self.data_bin is None:
            for name in ("train", "valid"):
                if name not in given:
                    raise ValueError(f"'{name}' is missing (or give a 'data_bin' of fairseq's)")
            return self
        if self.tokenizer.type != "words" and self.tokenizer.source_path is None:
            raise ValueError(
                "'data_bin' is tokenised: give its model as 'tokenizer.source_path', or set 'tokenizer.type: words'"
            )
        if self.vocabulary.source_path is not None:
            raise ValueError("'data_bin' has its own dictionaries: leave out 'vocabulary.source_path'")
        if unused := self._cleaning_of_corpora():
            raise ValueError(f"'{unused[0]}' has no effect with 'data_bin', which is used as it is")
        return self

    def _cleaning_of_corpora(self) -> list[str]:
        """Return the settings of duplicates, rules and n-grams that differ from their defaults."""
        clean = [] if self.clean == "none" else changed(self.clean)
        names = [f"clean.{name}" for name in clean if name in _OF_CORPORA_ALONE]
        return [*names, *(["decontaminate"] if isinstance(self.decontaminate, Decontaminate) else [])]

    @model_validator(mode="after")
    def _samples(self) -> Prepare:
        if self.mixing is not None:
            if len(self.train) < 2:
                raise ValueError("'mixing' has no effect with fewer than two corpora")
            for number, corpus in enumerate(self.train):
                if corpus.weight != 1:
                    raise ValueError(f"'train.{number}.weight' has no effect with 'mixing', which repeats corpora")
            if 0 < self.mixing.total_pairs < len(self.train):
                raise ValueError("'mixing.total_pairs' is smaller than the number of corpora")
        elif "sampling_seed" in changed(self) and all(one.share == 1.0 and not one.max_pairs for one in self.train):
            raise ValueError("'sampling_seed' has no effect without 'share', 'max_pairs' and 'mixing'")
        return self

    def clean_of(self, corpus: Corpus) -> Clean | Literal["none"]:
        """Return the cleaning rules of a training corpus."""
        return self.clean if self.clean == "none" else self.clean.with_changes(corpus.clean)

    @model_validator(mode="after")
    def _names(self) -> Prepare:
        _check_split_names(self.test_sets)
        if self.vocabulary.joined and not self.tokenizer.joint:
            raise ValueError("a joined vocabulary needs a joint tokenizer ('tokenizer.joint: true')")
        if self.clean == "none" and self.decontaminate:
            raise ValueError("'clean: none' drops no line: set 'decontaminate: false' too")
        has_model = self.tokenizer.type != "words"
        if self.vocabulary.source_path is not None and has_model and self.tokenizer.source_path is None:
            raise ValueError("a given 'vocabulary.source_path' needs its tokenizer ('tokenizer.source_path')")
        has_dictionary = self.vocabulary.source_path is not None or self.data_bin is not None
        if self.tokenizer.byte_fallback and has_dictionary:
            raise ValueError("'tokenizer.byte_fallback' has no effect on a given dictionary")
        return self
