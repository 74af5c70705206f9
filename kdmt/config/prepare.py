"""Settings of the prepare stage."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from kdmt.config.corpora import Corpus, HeldOut, Joiner, Source
from kdmt.config.section import Ratio, Section, execution


class Clean(Section):
    """Rules of the cleaning pass, on the untokenised text. A limit of 0 is none.

    Words are what stands between spaces. A side whose language is written without them (`kdmt.languages`) has none to
    count, unless its text comes tokenised (`text.already_applied`, `tokenizer.type: words`): then only
    `max_characters` and `max_ratio` limit its length.
    """

    unicode_form: Literal["NFC", "NFKC", "none"] = "NFC"
    min_words: int = Field(1, ge=0)  # of either side
    max_words: int = Field(250, ge=0)
    max_characters: int = Field(2500, ge=0)
    # longer over shorter side in characters, once the target is divided by the corpora's typical ratio of target to
    # source, their median; 10 characters are added to both sides first, so that short lines may differ by more
    max_ratio: Ratio = Field(3.0, ge=0.0)
    drop_duplicates: bool = True  # exact duplicates of a pair, the first is kept
    drop_copies: bool = True  # target is the source

    @model_validator(mode="after")
    def _order(self) -> Clean:
        if self.max_words and self.min_words > self.max_words:
            raise ValueError("'min_words' is larger than 'max_words'")
        return self


class Text(Section):
    """What happens between raw text and the tokenizer, and back; travels with every checkpoint."""

    normalize: bool = False  # Moses punctuation normalisation
    moses: bool = False  # Moses tokenisation, undone on output
    lowercase: bool = False
    already_applied: bool = False  # the corpora were processed so by their authors

    @property
    def changes_nothing(self) -> bool:
        return not (self.normalize or self.moses or self.lowercase)


class Tokenizer(Section):
    type: Literal["sentencepiece", "subword-nmt", "words"] = "sentencepiece"  # words: the text is tokenised already
    model: Literal["unigram", "bpe"] = "unigram"
    vocab_size: int = Field(10000, ge=8)  # SentencePiece: pieces; subword-nmt: merge operations
    joint: bool = True
    character_coverage: float = Field(1.0, gt=0.0, le=1.0)
    train_sentences: int = Field(500_000, ge=0)  # lines to learn on at most, drawn evenly; 0 for all
    source_path: str | None = None  # a given model instead of a learnt one
    target_path: str | None = None
    # of words: how the subwords among them are joined for people and for scores, as by fairseq's flag of this name
    remove_bpe: Joiner | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Tokenizer:
        if self.remove_bpe is not None and self.type != "words":
            raise ValueError(f"'remove_bpe' is that of 'type: words': '{self.type}' joins its own subwords")
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
    """fairseq-preprocess's options of the same names."""

    joined: bool = True
    threshold: int = Field(0, ge=0)  # tokens seen fewer times become <unk>
    nwords: int = Field(-1, ge=-1)  # keep so many tokens, -1 for all
    threshold_target: int | None = Field(None, ge=0)  # where the target's dictionary is its own and has another
    nwords_target: int | None = Field(None, ge=-1)
    padding_factor: int = Field(8, ge=1)
    source_path: str | None = None  # a given dictionary, fairseq's --srcdict: to fine-tune a model on other text
    target_path: str | None = None  # --tgtdict; a joined vocabulary has one file, given as 'source_path'

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


# pydantic puts the tag of the branch that it took into an error's location; `describe_problems` takes it out again
RULES_BRANCH, NONE_BRANCH = "<cleaning rules>", "<no cleaning>"
CleanOrNone = Annotated[
    Annotated[Clean, Tag(RULES_BRANCH)] | Annotated[Literal["none"], Tag(NONE_BRANCH)],
    Discriminator(lambda value: NONE_BRANCH if isinstance(value, str) else RULES_BRANCH),
]
_RESERVED_SPLITS = re.compile(
    # files of these are in the folders of the splits; fairseq reads train1, train2, ... together with train
    r"((train|valid|monolingual|distilled)\d*|dict)(\..*)?"
)


def _check_split_names(names: Sequence[str]) -> None:
    """Names of test sets, which become parts of the names of files."""
    for name in names:
        if not re.fullmatch(r"\w[\w.+-]*", name) or len(name.encode()) > 100:
            raise ValueError(
                f"test set {name[:100]!r}: a name begins with a letter, a digit or '_', goes on with these, '-', '+' "
                "and '.', and has at most 100 bytes"
            )
        if _RESERVED_SPLITS.fullmatch(name.casefold()) or {"raw", "part"} & set(name.casefold().split(".")):
            raise ValueError(f"test set {name!r}: the name is taken by files of the pipeline's own")
        twin = next((other for other in names if other != name and other.casefold() == name.casefold()), None)
        if twin is not None:
            raise ValueError(f"test sets {name!r} and {twin!r}: names that differ in case alone are one on some disks")


class FairseqData(Section):
    """A data-bin that fairseq-preprocess made, taken as it is in place of corpora; its train1, train2, ... too."""

    path: str
    test: list[str] = Field(default_factory=list)  # its splits that are scored on


class Prepare(Section):
    train: list[Corpus] = Field(default_factory=list)
    valid: HeldOut | None = None
    test: dict[str, HeldOut] = Field(default_factory=dict)
    data_bin: FairseqData | None = None  # instead of `train`, `valid` and `test`
    monolingual: list[Source] = Field(default_factory=list)  # text in the source language, for `self_supervised`
    clean: CleanOrNone = Clean()
    decontaminate: bool = True
    text: Text = Text()
    tokenizer: Tokenizer = Tokenizer()
    vocabulary: Vocabulary = Vocabulary()
    workers: int = execution(0, ge=0)  # processes; 0 for one a core

    @property
    def test_sets(self) -> list[str]:
        """The names of the test sets."""
        return list(self.test) if self.data_bin is None else self.data_bin.test

    @model_validator(mode="after")
    def _corpora(self) -> Prepare:
        given = [name for name in ("train", "valid", "test", "monolingual") if getattr(self, name)]
        if self.data_bin is not None and given:
            raise ValueError(f"'data_bin' stands in place of corpora: leave out '{given[0]}'")
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
            raise ValueError("'clean: none' drops no line: set 'decontaminate: false' beside it")
        if self.vocabulary.source_path is not None and self.tokenizer.source_path is None:
            raise ValueError("a given 'vocabulary.source_path' needs its tokenizer ('tokenizer.source_path')")
        return self
