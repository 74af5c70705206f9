"""Settings of the prepare stage."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from kdmt.choices import SubwordJoiner, UnicodeForm
from kdmt.config.corpora import Corpus, HeldOut, Source
from kdmt.config.section import Ratio, Section, execution


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
    drop_copies: bool = Field(True, description="Whether pairs whose target equals the source are dropped")

    @model_validator(mode="after")
    def _order(self) -> Clean:
        if self.max_words and self.min_words > self.max_words:
            raise ValueError("'min_words' is larger than 'max_words'")
        return self


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


class Tokenizer(Section):
    """Subword tokenizer."""

    type: Literal["sentencepiece", "subword-nmt", "words"] = Field(
        "sentencepiece", description="Tokenizer library; 'words' for text that is tokenised already, split at spaces"
    )
    model: Literal["unigram", "bpe"] = Field("unigram", description="Subword model; subword-nmt requires 'bpe'")
    vocab_size: int = Field(
        10000, ge=8, description="Number of pieces (SentencePiece) or of merge operations (subword-nmt)"
    )
    joint: bool = Field(True, description="Whether both languages share one model")
    character_coverage: float = Field(
        1.0, gt=0.0, le=1.0, description="Share of the characters that SentencePiece's vocabulary covers"
    )
    train_sentences: int = Field(
        500_000, ge=0, description="Maximum number of lines for training the tokenizer, evenly sampled; 0 for all"
    )
    source_path: str | None = Field(
        None, description="Path of an existing model, used instead of training one; of a joint model its only path"
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
        if self.type == "subword-nmt" and self.model != "bpe":
            raise ValueError("subword-nmt learns BPE only: set 'model: bpe'")
        if self.target_path is not None and self.source_path is None:
            raise ValueError("'target_path' is given without 'source_path'")
        if self.source_path is not None and not self.joint and self.target_path is None:
            raise ValueError("a given separate tokenizer needs 'source_path' and 'target_path'")
        if self.joint and self.target_path is not None:
            raise ValueError("a joint tokenizer has one model: give 'source_path' alone")
        return self


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


# pydantic puts the tag of the branch that it took into the location of an error; `describe_problems` removes it
RULES_BRANCH, NONE_BRANCH = "<cleaning rules>", "<no cleaning>"
CleanOrNone = Annotated[
    Annotated[Clean, Tag(RULES_BRANCH)] | Annotated[Literal["none"], Tag(NONE_BRANCH)],
    Discriminator(lambda value: NONE_BRANCH if isinstance(value, str) else RULES_BRANCH),
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


class FairseqData(Section):
    """A data-bin of fairseq-preprocess, used as it is instead of corpora, with its splits train1, train2, ..."""

    path: str = Field(description="Path of the data-bin")
    test: list[str] = Field(default_factory=list, description="Splits of the data-bin that systems are scored on")


class Prepare(Section):
    """Settings of the prepare stage: corpora, cleaning, tokenizer, vocabulary."""

    train: list[Corpus] = Field(default_factory=list, description="Corpora for training")
    valid: HeldOut | None = Field(None, description="Validation set")
    test: dict[str, HeldOut] = Field(default_factory=dict, description="Test sets by name")
    data_bin: FairseqData | None = Field(
        None, description="Data-bin of fairseq-preprocess, instead of 'train', 'valid' and 'test'"
    )
    monolingual: list[Source] = Field(
        default_factory=list,
        description="Text in the source language alone, for 'self_supervised' and 'distill.monolingual'",
    )
    clean: CleanOrNone = Field(Clean(), description="Cleaning rules of the training text, or 'none'")
    decontaminate: bool = Field(
        True,
        description="Whether training pairs are dropped whose source or target occurs on the same side of the "
        "validation set or a test set, regardless of case and punctuation",
    )
    text: Text = Field(Text(), description="Text processing before the tokenizer")
    tokenizer: Tokenizer = Field(Tokenizer(), description="Tokenizer")
    vocabulary: Vocabulary = Field(Vocabulary(), description="Vocabulary")
    workers: int = execution(0, ge=0, description="Number of processes; 0 for one per core")

    @property
    def test_sets(self) -> list[str]:
        """Return the names of the test sets."""
        return list(self.test) if self.data_bin is None else self.data_bin.test

    @model_validator(mode="after")
    def _corpora(self) -> Prepare:
        given = [name for name in ("train", "valid", "test", "monolingual") if getattr(self, name)]
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
        return self

    @model_validator(mode="after")
    def _names(self) -> Prepare:
        _check_split_names(self.test_sets)
        if self.vocabulary.joined and not self.tokenizer.joint:
            raise ValueError("a joined vocabulary needs a joint tokenizer ('tokenizer.joint: true')")
        if self.clean == "none" and self.decontaminate:
            raise ValueError("'clean: none' drops no line: set 'decontaminate: false' too")
        if self.vocabulary.source_path is not None and self.tokenizer.source_path is None:
            raise ValueError("a given 'vocabulary.source_path' needs its tokenizer ('tokenizer.source_path')")
        return self
