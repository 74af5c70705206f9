"""The pipeline's configuration: one frozen, strictly validated model per stage.

A pipeline is one YAML file. `load_pipeline` reads it, applies `--set a.b=c` overrides and validates it: an unknown
key, a wrong type or two settings that contradict each other raise `UserError` with the YAML path.

Every setting is of one of three kinds, read by `flatten_settings`:

* result (the default): changing it redoes the stage;
* extend: the stage goes on from what is there (`max_updates`, more seeds);
* execution: changes nothing in the output (workers, logging, device).
"""

from __future__ import annotations

import copy
import json
import re
import unicodedata
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import unquote, urlsplit

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    Strict,
    Tag,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from kdmt.errors import UserError
from kdmt.files import check_file
from kdmt.languages import Direction, code_from_yaml, missing_extra, parse_language, same_language
from kdmt.recognition import wrong_path
from kdmt.types import ALIGNED, EDITING, POSITIONAL, SPECIALS

KINDS = ("result", "extend", "execution")


def _extend(default: Any, **rules: Any) -> Any:
    return Field(default, json_schema_extra={"kind": "extend"}, **rules)


def _execution(default: Any, **rules: Any) -> Any:
    return Field(default, json_schema_extra={"kind": "execution"}, **rules)


class Section(BaseModel):
    """A frozen mapping of the YAML file in which unknown keys are fatal and types are not guessed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="after")
    @classmethod
    def _bounded(cls, value: Any, info: ValidationInfo) -> Any:
        check_bounds(str(info.field_name), value)
        return value


# Upper bounds of numbers by the name of their setting, far above what anyone has a use for: a number with a digit too
# many is refused by its name before memory is asked for. Of numbers that may be negative it bounds the size.
_LARGEST: dict[str, float] = {
    **dict.fromkeys(("encoder_layers", "decoder_layers", "peers", "passes", "upsample", "max_len_a"), 1_000),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "link_heads"), 4_096),
    **dict.fromkeys(("encoder_embed_dim", "decoder_embed_dim", "padding_factor", "crf_rank"), 65_536),
    **dict.fromkeys(("encoder_ffn_embed_dim", "decoder_ffn_embed_dim"), 1_048_576),
    **dict.fromkeys(("max_source_positions", "max_target_positions"), 1_000_000),
    **dict.fromkeys(("max_source_tokens", "max_target_tokens", "max_len_b", "crf_candidates", "k"), 1_000_000),
    **dict.fromkeys(("vocab_size", "src_vocab_size", "tgt_vocab_size", "per_token", "frequent"), 10_000_000),
    **dict.fromkeys(("beam", "nbest", "beams", "validate_beam", "ctc_beam", "iterations"), 10_000),
    **dict.fromkeys(("workers", "threads", "average_checkpoints", "repetition_times"), 10_000),
    **dict.fromkeys(("source_column", "target_column"), 100_000),
    **dict.fromkeys(("update_freq", "batch_size", "bootstrap_samples", "weight", "temperature"), 1_000_000),
    **dict.fromkeys(("temperatures", "insertion_temperature", "eos_penalty"), 1_000_000),
    **dict.fromkeys(("max_tokens", "block_size", "queue"), 100_000_000),
    **dict.fromkeys(("lenpen", "dag_lenpen"), 100),
    "seed": 2**63 - 1,
    "seeds": 2**63 - 1,
    **dict.fromkeys(("lr", "warmup_init_lr"), 1e30),
}
_LARGEST_ELSE = 1_000_000_000
_LONGEST_TEXT = 4096  # characters of a setting; a path has no more


def largest(name: str) -> float:
    """Return the upper bound of a setting's number, or of numbers in its lists."""
    return _LARGEST.get(name, _LARGEST_ELSE)


def check_bounds(name: str, value: Any) -> None:
    """Refuse numbers beyond the bound of a setting, and text that no setting has.

    Raises:
        ValueError: saying what is allowed.
    """
    if isinstance(value, (list, tuple)):
        for item in value:
            check_bounds(name, item)
    elif isinstance(value, str):
        _check_text(value)
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and not abs(value) <= largest(name):
        bound = largest(name)
        shown = f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"
        raise ValueError(f"should be at most {shown}" if value > 0 else f"should be at least -{shown}")


def _check_text(text: str) -> None:
    if len(text) > _LONGEST_TEXT:
        raise ValueError(f"has {len(text):,} characters, more than {_LONGEST_TEXT}")
    if wrong := next((char for char in text if unicodedata.category(char) in ("Cc", "Cs")), None):
        raise ValueError(f"holds the control character U+{ord(wrong):04X}")


def _changed(section: Section) -> list[str]:
    """Settings that are not what they are by default: a file may spell the defaults out, as a run's own does."""
    fields = type(section).model_fields
    return [
        name for name, field in fields.items() if not field.is_required() and getattr(section, name) != field.default
    ]


def _ratio(value: float) -> float:
    if 0.0 < value <= 1.0:
        raise ValueError("should be greater than 1, or 0 for no limit")
    return value


def _two_or_none(value: int) -> int:
    if value == 1:
        raise ValueError("should be at least 2, or 0 for no limit")
    return value


Ratio = Annotated[float, AfterValidator(_ratio)]
TokenLimit = Annotated[int, AfterValidator(_two_or_none)]
RepetitionTimes = Annotated[int, AfterValidator(_two_or_none)]
LanguageCode = Annotated[str, BeforeValidator(code_from_yaml)]

# --------------------------------------------------------------------------------------------------------- prepare


# how fairseq's --remove-bpe joins subwords, by their marks alone
Joiner = Literal["subword_nmt", "sentencepiece", "wordpiece", "letter", "_EOW"]


class Source(Section):
    """Where one text file comes from: a local path or a URL with its sha256; `.gz` is opened on the fly.

    The user and password of a URL (`https://user:password@host/file`) are kept apart in `login`: no message, manifest
    or log has them. A path may be a token file of a data-bin (`test.de-en.de.bin`), whose index and dictionary lie
    beside it.
    """

    path: str | None = None
    url: str | None = None
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    member: str | None = None  # a file inside a zip archive
    remove_bpe: Joiner | None = None  # of a token file: how its tokens are joined
    _login: str | None = PrivateAttr(None)

    @model_validator(mode="wrap")
    @classmethod
    def _hide_login(cls, value: Any, validate: ModelWrapValidatorHandler[Source]) -> Source:
        """Take the login out of the URL before anything else looks at it."""
        if not (isinstance(value, dict) and isinstance(value.get("url"), str)):
            return validate(value)
        url, login = split_login(value["url"])
        source = validate({**value, "url": url})
        source._login = login
        return source

    @model_validator(mode="after")
    def _one_origin(self) -> Source:
        if self.remove_bpe is not None and not self.is_tokens:
            raise ValueError("'remove_bpe' is that of a 'path' to a token file, which ends in .bin")
        if (self.path is None) == (self.url is None):
            raise ValueError("give either 'path' or 'url'")
        if self.url is not None and self.sha256 is None:
            raise ValueError("a 'url' needs its 'sha256'")
        if (self.path or self.url or "").endswith(".zip") and self.member is None:
            raise ValueError("a zip archive needs 'member', the file inside it")
        return self

    @property
    def login(self) -> str | None:
        """The `user:password` that the URL was given with."""
        return self._login

    @property
    def is_tokens(self) -> bool:
        """Whether it is a token file of a data-bin."""
        return self.path is not None and self.path.endswith(".bin")

    @property
    def name(self) -> str:
        """What to call this file in a message."""
        origin = self.path or self.url or ""
        return f"{origin}:{self.member}" if self.member else origin


def _later(default: Any, **rules: Any) -> Any:
    """A setting of a corpus that older records do not have: there it had its default."""
    return Field(default, json_schema_extra={"later": True}, **rules)


def split_login(url: str) -> tuple[str, str | None]:
    """Split a URL into one without its login, and the login as `user:password`.

    Raises:
        ValueError: its host or port is not valid; quotes nothing of it.
    """
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme not in ("http", "https") or bool(parts.hostname and parts.port != 0)
    except ValueError:  # quotes parts of what may be a password
        is_valid = False
    if not is_valid:
        raise ValueError("the host or port of 'url' is not valid; in a password '/' is written %2F, '#' %23, '?' %3F")
    login, at, host = parts.netloc.rpartition("@")
    return (parts._replace(netloc=host).geturl(), unquote(login)) if at else (url, None)


class ParallelText(Section):
    """Two files with one sentence a line, or one TSV with a column for each language.

    A row is malformed that has another number of columns than the TSV's first one, and a line that is longer than a
    megabyte or not UTF-8.
    """

    source: Source | None = None
    target: Source | None = None
    tsv: Source | None = None
    source_column: int = Field(0, ge=0)
    target_column: int = Field(1, ge=0)
    header: bool = _later(False)  # the first row of the TSV holds names of columns
    quoted: bool = _later(False)  # columns of the TSV may be in double quotes, as pandas writes them
    malformed: Literal["drop", "error"] = _later("error")  # drop: left out and counted in report.json

    @model_validator(mode="after")
    def _pair_or_tsv(self) -> ParallelText:
        two_files = self.source is not None and self.target is not None
        if self.tsv is not None and (self.source is not None or self.target is not None):
            raise ValueError("give either 'tsv' or 'source' and 'target', not both")
        if self.tsv is None and not two_files:
            raise ValueError("give 'source' and 'target', or 'tsv'")
        if self.tsv is not None and self.source_column == self.target_column:
            raise ValueError("'source_column' and 'target_column' are the same")
        for name in ("header", "quoted"):
            if self.tsv is None and getattr(self, name):
                raise ValueError(f"'{name}' is a setting of a 'tsv'")
        return self


def _tag(token: str) -> str:
    if token in SPECIALS:
        raise ValueError(f"is one of the special symbols {' '.join(SPECIALS)}: choose another token, as <bt>")
    return token


class Corpus(ParallelText):
    """Training text."""

    weight: int = Field(1, ge=1)  # times that the corpus stands in the training data
    # a token put before each source sentence, as `<bt>`
    tag: Annotated[str, AfterValidator(_tag)] | None = Field(None, pattern=r"^\S+$")
    malformed: Literal["drop", "error"] = _later("drop")


class HeldOut(ParallelText):
    """Validation or test text; `raw_target` is the untokenised reference where the corpus itself is tokenised."""

    raw_target: Source | None = None

    @model_validator(mode="after")
    def _aligned(self) -> HeldOut:
        if self.raw_target is not None and self.malformed == "drop":
            raise ValueError("'malformed: drop' would leave 'raw_target' with lines that have no pair")
        return self


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
_RULES, _NONE = "<cleaning rules>", "<no cleaning>"
CleanOrNone = Annotated[
    Annotated[Clean, Tag(_RULES)] | Annotated[Literal["none"], Tag(_NONE)],
    Discriminator(lambda value: _NONE if isinstance(value, str) else _RULES),
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
    workers: int = _execution(0, ge=0)  # processes; 0 for one a core

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


# ----------------------------------------------------------------------------------------------- models and training


class Model(Section):
    """A named architecture (fairseq's names) and any field of it changed."""

    arch: str = "transformer"
    encoder_layers: int | None = Field(None, ge=1)
    decoder_layers: int | None = Field(None, ge=1)
    encoder_embed_dim: int | None = Field(None, ge=1)
    decoder_embed_dim: int | None = Field(None, ge=1)
    encoder_ffn_embed_dim: int | None = Field(None, ge=1)
    decoder_ffn_embed_dim: int | None = Field(None, ge=1)
    encoder_attention_heads: int | None = Field(None, ge=1)
    decoder_attention_heads: int | None = Field(None, ge=1)
    encoder_normalize_before: bool | None = None
    decoder_normalize_before: bool | None = None
    encoder_learned_pos: bool | None = None
    decoder_learned_pos: bool | None = None
    share_decoder_input_output_embed: bool | None = None
    share_all_embeddings: bool | None = None
    layernorm_embedding: bool | None = None
    no_scale_embedding: bool | None = None
    activation_fn: Literal["relu", "gelu"] | None = None
    dropout: float | None = Field(None, ge=0.0, lt=1.0)
    attention_dropout: float | None = Field(None, ge=0.0, lt=1.0)
    activation_dropout: float | None = Field(None, ge=0.0, lt=1.0)
    max_source_positions: int | None = Field(None, ge=1)
    max_target_positions: int | None = Field(None, ge=1)

    def overrides(self) -> dict[str, Any]:
        """The fields that were set, without the name."""
        return {key: value for key, value in self.model_dump().items() if key != "arch" and value is not None}


class Train(Section):
    """Optimisation. Names and meanings are fairseq-train's where it has them."""

    max_updates: int = _extend(100_000, ge=1)
    max_tokens: int = Field(4096, ge=1)  # padded tokens of the longer side in a micro-batch
    update_freq: int = Field(1, ge=1)
    lr: float = Field(5e-4, gt=0.0)
    warmup_updates: int = Field(4000, ge=1)
    warmup_init_lr: float = Field(1e-7, ge=0.0)
    adam_betas: tuple[float, float] = Field((0.9, 0.98), strict=False)
    adam_eps: float = Field(1e-8, gt=0.0)
    weight_decay: float = Field(0.0, ge=0.0)
    clip_norm: float = Field(0.0, ge=0.0)  # 0: no clipping
    label_smoothing: float = Field(0.1, ge=0.0, lt=1.0)
    validate_interval_updates: int = Field(500, ge=1)
    validate_bleu: bool = True  # translate the validation set, for BLEU and, where it is the best metric, chrF
    validate_beam: int = Field(1, ge=1)
    validate_sentences: int = Field(0, ge=0)  # decode only the first n validation sentences; 0 for all
    best_metric: Literal["loss", "bleu", "chrf"] = "bleu"
    # validations without a better score, or an equal one with a lower loss; 0: never stop early. None is counted before
    # the end of the warmup or while the score is 0
    patience: int = Field(0, ge=0)
    average_checkpoints: int = Field(5, ge=1)  # checkpoints that `average` is made of
    max_source_tokens: TokenLimit = Field(1024, ge=0)  # longer pairs are left out and counted; 0: none is
    max_target_tokens: TokenLimit = Field(1024, ge=0)
    precision: Literal["auto", "float32", "bf16", "bf16_output"] = "auto"  # auto: by device and model shape
    compile: bool = False  # with torch.compile; sentences are padded to few different lengths
    on_divergence: Literal["stop", "skip"] = _extend("stop")  # a loss or gradient that is not finite, or explodes
    explosion_norm: float = _extend(0.0, ge=0.0)  # a gradient norm above it has exploded; 0: none does
    init_from: str | None = None  # a checkpoint folder to fine-tune from
    init_optimizer: bool = False  # keep its optimiser state and schedule too
    # -- execution
    save_interval_updates: int = _execution(500, ge=1)
    save_interval_minutes: float = _execution(0.0, ge=0.0)  # 0: by updates alone
    log_interval_updates: int = _execution(50, ge=1)
    tensorboard: bool = _execution(False)
    device: str = _execution("auto")
    threads: int = _execution(0, ge=0)  # 0 for as many as the run began with, at first as there are cores
    parallel: Literal["ddp", "fsdp"] = _execution("ddp")  # of several ranks: replicas, or shards of what does not fit
    activation_checkpointing: bool = _execution(False)  # layers are computed again backwards: less memory, more time

    @model_validator(mode="after")
    def _consistent(self) -> Train:
        if self.best_metric != "loss" and not self.validate_bleu:
            raise ValueError(f"'best_metric: {self.best_metric}' needs 'validate_bleu: true'")
        if self.init_optimizer and self.init_from is None:
            raise ValueError("'init_optimizer' is given without 'init_from'")
        if not all(0.0 <= beta < 1.0 for beta in self.adam_betas):
            raise ValueError(f"'adam_betas' {list(self.adam_betas)} are not both at least 0 and less than 1")
        return self


class Teacher(Section):
    model: Model = Model()
    train: Train = Train()
    seed: int = Field(1, ge=0)


class Decode(Section):
    """Beam search. Maximum length is max_len_a * S + max_len_b, S the sentence's own tokens with </s>."""

    beam: int = Field(5, ge=1)
    nbest: int = Field(1, ge=1)
    lenpen: float = 1.0
    max_len_a: float = Field(1.2, ge=0.0)
    max_len_b: int = Field(10, ge=1)
    max_tokens: int = Field(8000, ge=1)  # source tokens in a batch, padded
    batch_size: int = Field(128, ge=1)

    @model_validator(mode="after")
    def _nbest(self) -> Decode:
        if self.nbest > self.beam:
            raise ValueError(f"'nbest' ({self.nbest}) is larger than 'beam' ({self.beam})")
        return self


OnFailure = Literal["keep", "reference", "drop"]


def _script(name: str) -> str:
    """The name if it is that of a script that letters are written in, as the Unicode Character Database calls it."""
    import regex

    if not re.fullmatch(r"[A-Za-z_]+", name):
        raise ValueError("not the name of a Unicode script, as Latin or Cyrillic is")
    try:
        script = regex.compile(rf"\p{{Script={name}}}")
    except regex.error:
        raise ValueError("not the name of a Unicode script, as Latin or Cyrillic is") from None
    # that of a space is what scripts share, that of an accent what takes its neighbour's, U+FFFF is no character; and
    # Katakana_Or_Hiragana has none
    if any(map(script.match, " \u0301\uffff")) or not script.search("".join(map(chr, range(0x32000)))):
        raise ValueError("not a script of its own")
    return name


class Failures(Section):
    """What becomes of a hypothesis that fails: kept, replaced by the reference, or dropped with its index recorded.

    It fails by the first that applies, in the order in which they stand here.
    """

    empty: OnFailure = "reference"
    too_long: OnFailure = "reference"  # reached the maximum length
    repetition: OnFailure = "reference"  # an n-gram (1 to 4 tokens) repeated `repetition_times` in a row
    unk: OnFailure = "keep"
    ratio: OnFailure = "reference"  # far longer or shorter than the source, see `max_ratio`
    copied: OnFailure = "reference"  # the source again, but for case and spaces, with a letter in it
    script: OnFailure = "reference"  # in another script than `scripts`
    repetition_times: RepetitionTimes = Field(4, ge=0)  # 0: no repetition fails
    max_ratio: Ratio = Field(3.0, ge=0.0)  # as `prepare.clean.max_ratio`, with the same typical ratio; 0: no limit
    # Unicode's names for the target's, as [Latin] or [Han, Hiragana, Katakana]; empty: not checked
    scripts: list[Annotated[str, AfterValidator(_script)]] = Field(default_factory=list)
    max_foreign: float = Field(0.5, ge=0.0, lt=1.0)  # share of the letters that may be of other scripts


class Sample(Section):
    """How the targets of `data: sampled` are drawn from the teacher."""

    seed: int = Field(1, ge=0)
    temperature: float = Field(1.0, gt=0.0)
    top_k: int = Field(0, ge=0)  # 0 for all
    top_p: float = Field(1.0, gt=0.0, le=1.0)


class NATDecode(Section):
    """How non-autoregressive models decode; what a family does not have is of no account to it."""

    length_beam: int = Field(1, ge=1, le=256)  # lengths that are tried, of families that tell the length
    rescore: bool = False  # the pipeline's teacher chooses among them (noisy parallel decoding)
    ctc_beam: int = Field(1, ge=1)  # outputs kept by prefix beam search; 1 for the best path
    ctc_lm: str | None = None  # an n-gram model of target pieces that KenLM reads, for prefix beam search
    ctc_lm_weight: float = Field(0.3, ge=0.0)
    ctc_length_bonus: float = 0.0  # for each piece, beside the language model
    eos_penalty: float = Field(0.0, ge=0.0)  # of levenshtein and insertion: against slots that nothing is put into
    dag: Literal["greedy", "lookahead", "viterbi"] = "lookahead"
    dag_lenpen: float = 1.0  # of viterbi: a path's log-probability over its length ** dag_lenpen

    @model_validator(mode="after")
    def _searches(self) -> NATDecode:
        if self.ctc_lm is not None and self.ctc_beam == 1:
            raise ValueError("'ctc_lm' needs prefix beam search: set 'ctc_beam' to more than 1")
        if self.rescore and self.length_beam == 1:
            raise ValueError("'rescore' chooses among lengths: set 'length_beam' to more than 1")
        for name in _changed(self):
            if name in ("ctc_lm_weight", "ctc_length_bonus") and self.ctc_lm is None:
                raise ValueError(f"'{name}' is that of 'ctc_lm', which is not given")
        if "dag_lenpen" in _changed(self) and self.dag != "viterbi":
            raise ValueError("'dag_lenpen' is that of 'dag: viterbi'")
        return self


class Shortlist(Section):
    """Target words that a batch may have, learnt from the training set by IBM model 1: quicker, and other scores."""

    per_token: int = Field(100, ge=1)  # most probable target tokens of each source token
    frequent: int = Field(200, ge=0)  # and the most frequent ones of all
    pairs: int = Field(200_000, ge=0)  # of the training set that are learnt from, evenly drawn; 0 for all


class Reverse(Section):
    """Pairs that a model of the other direction finds improbable are dropped."""

    checkpoint: str  # of a teacher from the target to the source language
    drop_percent: float = Field(5.0, gt=0.0, lt=100.0)  # those with the highest cross entropy a token
    compute_type: Literal["float32", "int8", "float16"] = "float32"


class ForeignTeacher(Section):
    """A Marian, mBART-50, M2M-100 or NLLB model in the form of Hugging Face's Transformers, with its own tokenizer."""

    huggingface: str = Field(min_length=1)  # a folder, or a model's name on the hub
    revision: str | None = None  # of the hub: a branch, a tag or a commit
    # languages by the tokenizer's codes, as en_XX (mBART-50), en (M2M-100), eng_Latn (NLLB), deu (Marian's >>deu<<)
    source_code: LanguageCode | None = None
    target_code: LanguageCode | None = None
    other_languages: bool = _execution(False)  # the codes, or Marian's own, need not be the pipeline's languages


_CHECKPOINT, _FOREIGN = "<a checkpoint>", "<a foreign model>"
TeacherName = Annotated[
    Annotated[str, Tag(_CHECKPOINT)] | Annotated[ForeignTeacher, Tag(_FOREIGN)],
    Discriminator(lambda value: _FOREIGN if isinstance(value, (dict, ForeignTeacher)) else _CHECKPOINT),
]


class Distill(Section):
    checkpoint: Literal["best", "last", "average"] = "average"
    # checkpoints that translate together, or one foreign model; the pipeline's teacher
    teachers: list[TeacherName] = Field(default_factory=list)
    engine: Literal["auto", "ctranslate2", "torch"] = "auto"  # auto: CTranslate2 for what it has
    compute_type: Literal["float32", "int8", "float16"] = "float32"  # of CTranslate2
    decode: Decode = Decode()
    nat: NATDecode = NATDecode()  # of a non-autoregressive teacher
    iterations: int = Field(10, ge=1)  # of one, at most
    shortlist: Shortlist | None = None
    monolingual: bool = False  # translate `prepare.monolingual` too
    failures: Failures = Failures()
    reverse: Reverse | None = None
    interpolate: Literal["sentence_bleu", "chrf"] = (
        "sentence_bleu"  # nearness to the reference, of `data: interpolated`
    )
    scores: str | None = None  # a file with a score for each line of `nbest`, of `data: scored`
    imported: str | None = None  # a file of another system's translations, of `data: imported`
    imported_sources: bool = False  # its second column is the source, which is compared with the training set's
    sample: Sample = Sample()
    block_size: int = Field(1000, ge=1)  # sentences
    # -- execution
    executor: Literal["processes", "inline", "ray"] = _execution("processes")
    workers: int = _execution(0, ge=0)  # 0 for as many as there are cores for, or GPUs
    threads: int = _execution(1, ge=1)  # of a worker; the last digits of scores may depend on it
    # a worker of which nothing is heard for so long is replaced; 0: none is
    silence_minutes: float = _execution(30.0, ge=0.0)
    device: str = _execution("auto")

    @model_validator(mode="after")
    def _has_the_engine(self) -> Distill:
        if self.engine == "torch" and self.compute_type != "float32":
            raise ValueError(f"'compute_type: {self.compute_type}' is CTranslate2's, and 'engine' is torch")
        if self.engine == "torch" and self.shortlist is not None:
            raise ValueError("'shortlist' is CTranslate2's, and 'engine' is torch")
        if self.engine == "ctranslate2" and len(self.teachers) > 1:
            raise ValueError("'engine: ctranslate2' has one model: several 'teachers' translate in torch")
        return self

    @model_validator(mode="after")
    def _sources_of_a_file(self) -> Distill:
        if self.imported_sources and self.imported is None:
            raise ValueError("'imported_sources' is about the file 'imported', which is not given")
        return self

    @model_validator(mode="after")
    def _foreign_alone(self) -> Distill:
        if self.foreign is None:
            return self
        if len(self.teachers) > 1:
            raise ValueError("'teachers': a 'huggingface' model has a vocabulary of its own and translates alone")
        if self.shortlist is not None:
            raise ValueError("'shortlist' is learnt in the vocabulary of the data, and the teacher has another")
        return self

    @property
    def foreign(self) -> ForeignTeacher | None:
        """The teacher that is none of kdmt's, where there is one."""
        return next((teacher for teacher in self.teachers if isinstance(teacher, ForeignTeacher)), None)

    @property
    def checkpoints(self) -> list[str]:
        """The teachers that are."""
        return [teacher for teacher in self.teachers if isinstance(teacher, str)]


class Knowledge(Section):
    """The knowledge cache: the teacher's best tokens at every target token of a training set."""

    k: int = Field(8, ge=1)
    temperatures: list[Annotated[float, Field(gt=0.0)]] = Field([1.0], min_length=1)
    value_type: Literal["float16", "float32"] = "float16"
    block_size: int = Field(10_000, ge=1)  # sentences
    max_tokens: int = Field(4096, ge=1)  # padded tokens of the longer side in a batch
    threads: int = _execution(0, ge=0)
    device: str = _execution("auto")

    @model_validator(mode="after")
    def _distinct(self) -> Knowledge:
        if len(set(self.temperatures)) != len(self.temperatures):
            raise ValueError("'temperatures' holds a number twice")
        return self


_SchedulePoint = Annotated[tuple[Annotated[int, Field(ge=0)], Annotated[float, Field(ge=0.0, le=1.0)]], Strict(False)]


class WordKD(Section):
    """Word-level distillation: (1 - alpha) cross entropy + alpha divergence(teacher, student) at each target token."""

    source: Literal["teacher", "cache"] = "teacher"  # one that runs beside the student, or what it said before
    teachers: list[str] = Field(default_factory=list)  # checkpoints, averaged; by default the pipeline's teacher
    divergence: Literal["kl", "reverse_kl", "js", "tvd", "cross_entropy", "squared_error"] = "kl"
    beta: float = Field(0.5, gt=0.0, lt=1.0)  # of js: the teacher's share in the mixture
    temperature: float = Field(1.0, gt=0.0)
    alpha: float = Field(0.5, ge=0.0, le=1.0)
    select: Literal["all", "batch", "global"] = "all"  # teach the tokens that the student finds hardest
    rate: float = Field(0.5, gt=0.0, le=1.0)  # share of them, in the micro-batch or among the last `queue` tokens
    queue: int = Field(30_000, ge=1)
    min_confidence: float = Field(0.0, ge=0.0, lt=1.0)  # teach where the teacher's best token has at least so much
    # largest entropy of the teacher, in nats, at tokens that are taught; null or 0: no limit
    max_entropy: float | None = Field(None, ge=0.0)
    top1_ranking: int = Field(0, ge=0)  # K of TIE-KD's ranking loss, 0 for none
    mutual_information: float = 0.0  # weight of KL(student || teacher's marginal)
    marginal_momentum: float = Field(0.0, ge=0.0, lt=1.0)  # of its running average; 0: the batch's own
    # [update, alpha] points instead of a constant alpha, linear in between
    alpha_schedule: list[_SchedulePoint] | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> WordKD:
        if self.source == "cache" and self.divergence == "squared_error":
            raise ValueError("'divergence: squared_error' needs the whole distribution, which a cache does not have")
        if self.source == "cache" and self.marginal_momentum:
            raise ValueError("'marginal_momentum' is of batches: a cache has the marginal of its whole training set")
        if self.source == "cache" and self.teachers:
            raise ValueError("'teachers' run beside the student: 'source: cache' has what one teacher said before")
        updates = [update for update, _ in self.alpha_schedule or ()]
        if updates != sorted(set(updates)):
            raise ValueError("'alpha_schedule': its updates do not ascend")
        if self.top1_ranking and not self.ever_taught:
            setting = "alpha" if self.alpha_schedule is None else "alpha_schedule"
            raise ValueError(f"'top1_ranking' is part of the divergence, and '{setting}' is 0 throughout")
        return self

    @property
    def ever_taught(self) -> bool:
        """Whether the divergence ever has a share in the loss."""
        return any(alpha for _, alpha in self.alpha_schedule or [(0, self.alpha)])


# which of the teacher's layers teaches which of the student's: evenly, the last n, or [student, teacher] pairs
_BY_RULE, _BY_PAIRS = "<layers by rule>", "<pairs of layers>"
_LayerPair = Annotated[tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]], Strict(False)]
LayerMap = Annotated[
    Annotated[str, Field(pattern=r"^(none|uniform|last:[1-9][0-9]*)$"), Tag(_BY_RULE)]
    | Annotated[list[_LayerPair], Field(min_length=1), Tag(_BY_PAIRS)],
    Discriminator(lambda value: _BY_PAIRS if isinstance(value, list) else _BY_RULE),
]


class HiddenKD(Section):
    """Hidden states of layers drawn to the teacher's, through a learned projection where the widths differ."""

    encoder: LayerMap = "uniform"
    decoder: LayerMap = "uniform"
    distance: Literal["mse", "cosine", "pkd"] = "mse"
    weight: float = Field(1.0, gt=0.0)

    @model_validator(mode="after")
    def _compares(self) -> HiddenKD:
        if self.encoder == self.decoder == "none":
            raise ValueError("'encoder' and 'decoder' are both 'none': nothing is compared")
        return self


class AttentionKD(Section):
    """Attention maps drawn to the teacher's."""

    encoder_self: LayerMap = "uniform"
    decoder_self: LayerMap = "uniform"
    cross: LayerMap = "uniform"
    distance: Literal["kl", "squared_error"] = "kl"
    heads: list[Annotated[int, Field(ge=0)]] | None = None  # the teacher's head for each of the student's
    weight: float = Field(1.0, gt=0.0)

    @model_validator(mode="after")
    def _compares(self) -> AttentionKD:
        if self.encoder_self == self.decoder_self == self.cross == "none":
            raise ValueError("'encoder_self', 'decoder_self' and 'cross' are all 'none': nothing is compared")
        return self


class Online(Section):
    """Teachers that move while the student learns, instead of the pipeline's."""

    kind: Literal["ema", "joint", "mutual"]  # the student's average; a teacher trained beside it; peers
    decay: float = Field(0.999, ge=0.0, lt=1.0)  # of `ema`
    peers: int = Field(1, ge=1)  # of `mutual`, besides the student
    model: Model | None = None  # of `joint`'s teacher; peers have the student's

    @model_validator(mode="after")
    def _consistent(self) -> Online:
        if (self.kind == "joint") != (self.model is not None):
            raise ValueError("'kind: joint' needs the teacher's 'model', and no other kind has one")
        return self


class OnPolicy(Section):
    """With probability `rate` a micro-batch's targets are the student's own samples (Agarwal et al. 2024)."""

    rate: float = Field(0.5, gt=0.0, le=1.0)
    temperature: float = Field(1.0, gt=0.0)
    top_k: int = Field(0, ge=0)
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    max_len_a: float = Field(1.2, ge=0.0)
    max_len_b: int = Field(10, ge=1)


class SelfSupervised(Section):
    """A masked language model of the source on the encoder: supervised * everything else + (1 - supervised) * it."""

    supervised: float = Field(0.5, gt=0.0, lt=1.0)  # the share lambda of all that has targets
    mask_rate: float = Field(0.15, gt=0.0, lt=1.0)
    monolingual: bool = False  # also of `prepare.monolingual`, about as much of it as of the sources


class NAT(Section):
    """A decoder that writes all positions at once. Most settings are those of some families: see `_OF`."""

    family: Literal["nat", "cmlm", "inat", "nat_crf", "ctc", "dag", "levenshtein", "insertion"]
    layout: Literal["own", "fairseq"] = "own"  # fairseq: computes what its model of the family does, and goes there
    deep_supervision: float = Field(0.0, ge=0.0)  # weight of the loss at the lower layers of the decoder
    upsample: int = Field(3, ge=1)  # decoder positions for each source token
    too_long: Literal["skip", "upsample"] = "skip"  # a target that has no alignment with them
    length_weight: float = Field(0.1, gt=0.0)  # of the cross entropy of the length
    source_copy: Literal["uniform", "soft"] = "uniform"  # of the source's embeddings into the decoder
    link_heads: int = Field(4, ge=1)
    # [update, ratio] points, how much of what the student gets wrong it is shown; linear in between
    glancing: list[_SchedulePoint] | None = Field(None, min_length=1)
    distance: Literal["hamming", "levenshtein"] = "hamming"  # of glancing
    correction: float = Field(0.0, ge=0.0, le=1.0)  # share of the shown words replaced by the student's own
    passes: int = Field(4, ge=1)  # of the decoder in training
    denoising: float = Field(0.5, ge=0.0, le=1.0)  # probability that a later pass sees a corrupted reference
    crf_rank: int = Field(32, ge=1)
    crf_candidates: int = Field(64, ge=2)  # of each position
    crf_weight: float = Field(2.0, gt=0.0)
    insertion_temperature: float = Field(1.0, gt=0.0)  # the lower, the more the middle of a missing span counts

    @model_validator(mode="after")
    def _of_its_family(self) -> NAT:
        for name in _changed(self):
            if self.family not in _OF.get(name, (self.family,)):
                raise ValueError(f"'{name}' is a setting of {', '.join(_OF[name])}, not of '{self.family}'")
        if self.distance != "hamming" and self.glancing is None:
            raise ValueError("'distance' is that of 'glancing', which is not given")
        return self


_OF = {
    "layout": ("cmlm", *EDITING),  # the others would have to learn that <s> and </s> stay what they are
    "upsample": ALIGNED,
    "too_long": ALIGNED,
    "length_weight": POSITIONAL,
    "source_copy": ("nat", "inat", "nat_crf"),
    "link_heads": ("dag",),
    "glancing": ("nat", *ALIGNED),
    "distance": ("nat", "ctc"),
    "correction": ("cmlm",),
    "passes": ("inat",),
    "denoising": ("inat",),
    "crf_rank": ("nat_crf",),
    "crf_candidates": ("nat_crf",),
    "crf_weight": ("nat_crf",),
    "insertion_temperature": ("insertion",),
}
_WITHOUT_TARGET_POSITIONS = {
    **dict.fromkeys(ALIGNED, "its positions are not the target's"),
    **dict.fromkeys(EDITING, "its positions are a draft's, not the target's"),
}


class Student(Section):
    # of the n-best: interpolated: the nearest to the reference; mbr: the nearest to the others; scored: the best by
    # `distill.scores`; nbest: all of them, weighted. imported: another system's. mixed: raw and distilled
    data: Literal["raw", "distilled", "interpolated", "mbr", "scored", "nbest", "sampled", "imported", "mixed"] = (
        "distilled"
    )
    model: Model = Model()
    nat: NAT | None = None
    train: Train = Train()
    word_kd: WordKD | None = None
    hidden_kd: HiddenKD | None = None
    attention_kd: AttentionKD | None = None
    online: Online | None = None
    on_policy: OnPolicy | None = None
    self_supervised: SelfSupervised | None = None
    teacher_precision: Literal["float32", "bf16", "bf16_output"] | None = None  # of those beside; the student's
    seeds: list[Annotated[int, Field(ge=0)]] = _extend([1], min_length=1)
    encoder_layers_from_teacher: list[int] | None = None  # teacher layer for each student layer, from 0
    decoder_layers_from_teacher: list[int] | None = None
    embeddings_from_teacher: bool = False

    @model_validator(mode="after")
    def _distinct(self) -> Student:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("'seeds' holds a number twice")
        return self

    @model_validator(mode="after")
    def _has_the_loss(self) -> Student:
        if self.nat is None:
            return self
        family, elsewhere = self.nat.family, _WITHOUT_TARGET_POSITIONS.get(self.nat.family)
        refused = dict.fromkeys(("online", "on_policy"), "its decoder is not its teacher's")
        if elsewhere is not None:
            refused["word_kd"] = elsewhere
            refused["self_supervised"] = "only families whose positions are the target's have it"
        for name, why in refused.items():
            if getattr(self, name) is not None:
                raise ValueError(f"'nat.family: {family}' cannot have '{name}': {why}")
        self._compares_no_framed_states()
        if elsewhere is not None:
            self._compares_encoders_alone(elsewhere)
        if elsewhere is not None and self.data == "nbest":
            raise ValueError(f"'nat.family: {family}' cannot have 'data: nbest': its loss has no weights of sentences")
        return self

    def _compares_no_framed_states(self) -> None:
        assert self.nat is not None
        if self.nat.layout == "own":
            return
        for name in ("hidden_kd", "attention_kd", "self_supervised"):
            if getattr(self, name) is not None:
                raise ValueError(f"'nat.layout: fairseq' cannot have '{name}': its encoder sees an <s> more")
        if self.nat.deep_supervision:
            raise ValueError("'nat.layout: fairseq' cannot have 'deep_supervision': its decoder sees an <s> more")

    def _compares_encoders_alone(self, why: str) -> None:
        assert self.nat is not None
        for name, decoders in (("hidden_kd", ("decoder",)), ("attention_kd", ("decoder_self", "cross"))):
            lesson = getattr(self, name)
            for part in decoders if lesson is not None else ():
                if getattr(lesson, part) != "none":
                    raise ValueError(
                        f"'nat.family: {self.nat.family}' cannot have '{name}.{part}': {why}; 'none' leaves the encoder"
                    )

    @model_validator(mode="after")
    def _own_samples(self) -> Student:
        if self.on_policy is None:
            return self
        if self.word_kd is None or self.word_kd.source == "cache":
            raise ValueError("'on_policy' needs 'word_kd' with a teacher that reads the samples: no cache has them")
        if not (self.word_kd.ever_taught or self.word_kd.mutual_information):
            raise ValueError("'on_policy' samples are taught by the divergence, whose 'word_kd.alpha' is 0 throughout")
        if self.online is not None and self.online.kind != "ema":
            raise ValueError("'on_policy' samples from one student: 'online.kind' trains several models")
        if self.train.parallel == "fsdp":
            raise ValueError("'on_policy' needs the whole model on each rank: 'train.parallel: fsdp' shards it")
        return self

    @model_validator(mode="after")
    def _one_source(self) -> Student:
        if self.online is None:
            return self
        if self.word_kd is None:
            raise ValueError("'online' needs 'word_kd', which says what is learnt")
        if not (self.word_kd.ever_taught or self.word_kd.mutual_information or self.hidden_kd or self.attention_kd):
            raise ValueError("'online' brings teachers of whom nothing is learnt: 'word_kd.alpha' is 0 throughout")
        if self.teacher_precision is not None:
            raise ValueError("'teacher_precision' is that of trained teachers: those of 'online' have the student's")
        if self.word_kd.source == "cache" or self.word_kd.teachers:
            raise ValueError("'online' brings its own teachers: 'word_kd' has others")
        if self.online.kind == "mutual" and self.word_kd.select == "global":
            raise ValueError("'word_kd.select: global' keeps one queue, and 'online.kind: mutual' has several students")
        if self.word_kd.marginal_momentum and self.online.kind == "mutual":
            raise ValueError(
                "'word_kd.marginal_momentum' keeps one average, and 'online.kind: mutual' has several students"
            )
        return self


class Score(Section):
    checkpoint: Literal["best", "last", "average"] = "average"
    beams: list[Annotated[int, Field(ge=1)]] = Field([1, 5], min_length=1)  # of autoregressive models
    iterations: list[Annotated[int, Field(ge=1)]] = Field(
        [10], min_length=1
    )  # at most, of cmlm, inat and those that edit
    nat: NATDecode = NATDecode()
    lenpen: float = 1.0
    max_len_a: float = Field(1.2, ge=0.0)
    max_len_b: int = Field(10, ge=1)
    max_tokens: int = Field(8000, ge=1)
    batch_size: int = Field(128, ge=1)
    # sacreBLEU's, for BLEU; auto: what it chooses for the target language (zh, ja-mecab, ko-mecab), char for other
    # scripts without spaces, 13a else. Validation and distillation go by it too: what they began with stays with them
    tokenize: Literal["auto", "13a", "intl", "none", "zh", "ja-mecab", "ko-mecab", "char"] = "auto"
    lowercase: bool = False
    detokenized: bool = True  # False: the words between spaces as they are, against the corpus's own target file
    baseline: str | None = None  # what significance is measured against; the first student on raw data by default
    bootstrap_samples: int = Field(1000, ge=1)
    speed_sentences: int = Field(100, ge=1)  # sentences timed at batch 1
    threads: int = Field(0, ge=0)  # no execution settings here: speeds are results
    device: str = "auto"

    def decode(self, beam: int) -> Decode:
        """How the test sets are translated with a beam of this size."""
        return Decode(
            beam=beam,
            lenpen=self.lenpen,
            max_len_a=self.max_len_a,
            max_len_b=self.max_len_b,
            max_tokens=self.max_tokens,
            batch_size=self.batch_size,
        )

    @model_validator(mode="after")
    def _has_the_tokenizer(self) -> Score:
        extra = missing_extra(self.tokenize)
        if extra is not None:
            raise ValueError(
                f"'tokenize: {self.tokenize}' needs packages that are not installed: pip install 'kdmt[{extra}]'"
            )
        return self

    @model_validator(mode="after")
    def _distinct(self) -> Score:
        for name in ("beams", "iterations"):
            if len(set(getattr(self, name))) != len(getattr(self, name)):
                raise ValueError(f"'{name}' holds a number twice")
        return self


class Pipeline(Section):
    """The whole YAML file."""

    name: str = Field(pattern=r"^\w[\w.-]*$")
    # BCP 47 tags or ISO 639 codes, see `kdmt.languages`; they stand in names of files as they are written here
    source_lang: LanguageCode
    target_lang: LanguageCode
    prepare: Prepare
    teacher: Teacher = Teacher()
    distill: Distill = Distill()
    knowledge: Knowledge = Knowledge()
    students: dict[Annotated[str, Field(pattern=r"^\w[\w.-]*$")], Student] = Field(default_factory=dict)
    score: Score = Score()

    @model_validator(mode="after")
    def _languages(self) -> Pipeline:
        for key in ("source_lang", "target_lang"):
            try:
                parse_language(getattr(self, key))
            except ValueError as error:
                raise ValueError(f"'{key}': {error}") from None
        source, target = self.source_lang, self.target_lang
        if source == target:
            raise ValueError(f"'source_lang' and 'target_lang' are both {source!r}")
        if same_language(source, target):
            raise ValueError(f"'source_lang' and 'target_lang' are the same language: {source!r} and {target!r}")
        return self

    @model_validator(mode="after")
    def _moses(self) -> Pipeline:
        for key in ("source_lang", "target_lang"):
            if self.prepare.text.moses:
                _check_moses(key, getattr(self, key), already_applied=self.prepare.text.already_applied)
        return self

    @property
    def direction(self) -> Direction:
        """Return the direction of translation."""
        return Direction(self.source_lang, self.target_lang)

    @property
    def scores_lowercased(self) -> bool:
        """Whether systems are scored without regard to case: text that was lowercased comes out without any."""
        return self.score.lowercase or (self.prepare.text.lowercase and self.score.detokenized)

    @model_validator(mode="after")
    def _monolingual(self) -> Pipeline:
        for name, student in self.students.items():
            wanted = student.self_supervised is not None and student.self_supervised.monolingual
            if wanted and not self.prepare.monolingual:
                raise ValueError(f"'students.{name}.self_supervised.monolingual' needs 'prepare.monolingual'")
        return self

    @model_validator(mode="after")
    def _interpolation(self) -> Pipeline:
        for name, student in self.students.items():
            if student.data in ("interpolated", "mbr", "scored", "nbest") and self.distill.decode.nbest == 1:
                raise ValueError(
                    f"'students.{name}.data: {student.data}' is made of the n-best: set 'distill.decode.nbest'"
                )
            for data, setting in (("scored", "scores"), ("imported", "imported")):
                if student.data == data and getattr(self.distill, setting) is None:
                    raise ValueError(f"'students.{name}.data: {data}' needs the file 'distill.{setting}'")
        return self

    @model_validator(mode="after")
    def _distills_monolingual(self) -> Pipeline:
        if self.distill.monolingual and not self.prepare.monolingual:
            raise ValueError("'distill.monolingual' needs 'prepare.monolingual'")
        return self

    @model_validator(mode="after")
    def _knowledge(self) -> Pipeline:
        for name, student in self.students.items():
            if student.word_kd is None or student.word_kd.source != "cache":
                continue
            path, cache = f"students.{name}.word_kd", self.knowledge
            if student.word_kd.temperature not in cache.temperatures:
                raise ValueError(
                    f"'{path}.temperature' ({student.word_kd.temperature:g}) is none of 'knowledge.temperatures': "
                    f"what lies beyond the k best tokens is not known at another one"
                )
            if student.word_kd.top1_ranking > cache.k:
                raise ValueError(f"'{path}.top1_ranking' ({student.word_kd.top1_ranking}) is more than 'knowledge.k'")
        return self

    @model_validator(mode="after")
    def _systems(self) -> Pipeline:
        if "teacher" in self.students:
            raise ValueError("'students': a student cannot be called 'teacher'")
        baseline = self.score.baseline
        if baseline is not None and baseline not in ("teacher", *self.students):
            raise ValueError(f"'score.baseline': {baseline!r} is none of {', '.join(['teacher', *self.students])}")
        if self.prepare.text.already_applied and self.score.detokenized:
            for name, test_set in self.prepare.test.items():
                if test_set.raw_target is None:
                    raise ValueError(
                        f"'prepare.test.{name}' is processed text: 'score.detokenized: true' needs its 'raw_target'"
                    )
        return self


def _check_moses(key: str, code: str, *, already_applied: bool) -> None:
    """Refuse Moses' tokenisation of a language without rules; of others' text, what cannot be joined again."""
    from kdmt.languages import moses_language, script_of, writes_spaces

    if moses_language(code) is not None:
        return
    if not already_applied:
        raise ValueError(
            f"'prepare.text.moses': Moses has no rules for {code!r} ('{key}'): leave out 'moses' and let SentencePiece "
            f"('prepare.tokenizer') cut the raw text"
        )
    if not writes_spaces(code) and script_of(code) not in ("Jpan", "Hans", "Hant"):
        raise ValueError(
            f"'prepare.text.moses': Moses cannot join the words of {code!r} ('{key}') again: leave out 'moses' and set "
            f"'score.detokenized: false'"
        )


# ----------------------------------------------------------------------------------------------------------- loading


_NO_PIPELINE = "not a pipeline's YAML file"


def load_pipeline(path: Path, overrides: Sequence[str] = ()) -> Pipeline:
    """Read, override and validate a pipeline file.

    Args:
        path: the YAML file.
        overrides: settings as `a.b=c`, with c read as YAML (`null`, `true`, `[1, 2]`, ...).

    Raises:
        UserError: naming the file, or the YAML path of each offending setting.
        OSError: the file cannot be read.
    """
    if path.is_dir():
        raise wrong_path(path, _NO_PIPELINE)
    check_file(path, missing="there is no such pipeline file")
    if path.stat().st_size > _LARGEST_FILE:
        raise wrong_path(path, f"{_NO_PIPELINE}, larger than {_LARGEST_FILE >> 20} MB")
    try:
        document = _read_yaml(path.read_bytes().decode("utf-8"))
    except UnicodeDecodeError as error:
        raise wrong_path(path, f"{_NO_PIPELINE}, not UTF-8 ({error.reason} at byte {error.start})") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {_shorten(' '.join(str(error).split()), _LONGEST_MESSAGE)}") from None
    if not isinstance(document, dict):
        raise wrong_path(path, "expected a mapping of settings at the top level")
    for override in overrides:
        _apply_override(document, override)
    try:
        return Pipeline.model_validate(document)
    except ValidationError as error:
        raise UserError(f"{path}: {describe_problems(error)}") from None


_LARGEST_FILE = 1 << 20  # bytes
_MOST_NODES = 100_000  # values of a document, those of an alias counted wherever it is used
_LONGEST_NUMBER = 100  # characters
_SHOWN = 200  # characters of a value that a message quotes
_LONGEST_MESSAGE = 600


def _read_yaml(text: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        yaml.YAMLError: it is no YAML, or its values are too many, too deep or cannot be read.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count_nodes(node)
        return loader.construct_document(node)
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None
    finally:
        loader.dispose()


def _count_nodes(root: yaml.Node) -> None:
    """Refuse a document that becomes too large once its aliases and merges are written out, or contains itself."""
    counts: dict[int, int | None] = {}  # None while a node's own content is counted

    def count(node: yaml.Node) -> int:
        known = counts.get(id(node), 0)
        if known is None:
            raise yaml.constructor.ConstructorError(None, None, "an anchor that contains itself", node.start_mark)
        if known:
            return known
        counts[id(node)] = None
        below: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            below = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            below = node.value
        total = 1 + sum(map(count, below))
        if total > _MOST_NODES:
            raise yaml.constructor.ConstructorError(
                None, None, f"more than {_MOST_NODES:,} values, aliases written out", node.start_mark
            )
        counts[id(node)] = total
        return total

    count(root)


class _Loader(yaml.SafeLoader):
    """YAML in which a key given twice is an error rather than the last one winning, and `5e-4` is a number.

    Tags are those of JSON's values alone. What YAML 1.1 takes for a date or a number to the base of 60 or 8 (`1:30`,
    `010`) is text here, so that a setting that is a number refuses it.
    """

    _nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._nodes += 1
        if self._nodes > _MOST_NODES:  # long before a large file is read to its end
            mark = self.peek_event().start_mark
            raise yaml.constructor.ConstructorError(None, None, f"more than {_MOST_NODES:,} values", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == f"{_TAG}merge":  # `<<: *anchor`, whose keys may be given again
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                continue  # refused below, with its place
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {_quote(key)} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_TAG = "tag:yaml.org,2002:"


def _construct_scalar(tag: str) -> Any:
    """A constructor of PyYAML's that says where a value is that it cannot read (`!!int abc`)."""
    construct = yaml.SafeLoader.yaml_constructors[f"{_TAG}{tag}"]

    def checked(loader: _Loader, node: yaml.Node) -> Any:
        if tag in ("int", "float") and len(str(node.value)) > _LONGEST_NUMBER:
            reason = f"a number of more than {_LONGEST_NUMBER} characters"
            raise yaml.constructor.ConstructorError(None, None, reason, node.start_mark)
        try:
            return construct(loader, node)
        except (ValueError, KeyError, OverflowError):
            reason = f"{_quote(node.value)} cannot be read as {tag}"
            raise yaml.constructor.ConstructorError(None, None, reason, node.start_mark) from None

    return checked


_Loader.yaml_constructors = {
    **{f"{_TAG}{tag}": _construct_scalar(tag) for tag in ("bool", "int", "float")},
    **{f"{_TAG}{tag}": yaml.SafeLoader.yaml_constructors[f"{_TAG}{tag}"] for tag in ("null", "str", "seq", "map")},
    None: yaml.SafeLoader.yaml_constructors[None],
}
_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag not in (f"{_TAG}timestamp", f"{_TAG}int", f"{_TAG}float", f"{_TAG}value")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    f"{_TAG}int",
    re.compile(r"[-+]?(0|[1-9][0-9_]*|0b[01_]+|0x[0-9a-fA-F_]+)$"),
    list("-+0123456789"),
)
# YAML 1.1 takes an exponent for a number only after a decimal point and with a sign
_Loader.add_implicit_resolver(
    f"{_TAG}float",
    re.compile(
        r"([-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
    ),
    list("-+.0123456789"),
)


def _quote(value: Any) -> str:
    """A value as a message shows it: never more than 200 characters of it."""
    if isinstance(value, str):
        return repr(_shorten(value, _SHOWN))
    try:
        return _shorten(repr(value), _SHOWN)
    except (ValueError, RecursionError):  # an integer of thousands of digits, lists within lists
        return f"a value of type {type(value).__name__}"


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}..."


def _apply_override(document: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    keys, shown = dotted.strip().split("."), f"--set {_quote(override)}"
    if not equals or not all(keys):
        raise UserError(f"{shown}: expected a.b=value")
    try:
        value = _read_yaml(text)
    except yaml.YAMLError:
        raise UserError(f"{shown}: {_quote(text)} is not a YAML value") from None
    node: Any = document
    for depth, key in enumerate(keys):
        if isinstance(node, list):
            if not re.fullmatch(r"[0-9]{1,9}", key) or int(key) >= len(node):
                raise UserError(f"{shown}: {_shorten('.'.join(keys[:depth]), _SHOWN)} is a list of {len(node)}")
            key = int(key)  # type: ignore[assignment]
        elif not isinstance(node, dict):
            raise UserError(f"{shown}: {_shorten('.'.join(keys[:depth]), _SHOWN)} holds no further settings")
        if depth == len(keys) - 1:
            node[key] = value
        else:
            below = node.setdefault(key, {}) if isinstance(node, dict) else node[key]
            if below is None:  # an empty mapping in the file, as `clean:` with nothing under it
                raise UserError(f"{shown}: {_shorten('.'.join(keys[: depth + 1]), _SHOWN)} is empty in the file")
            node[key] = copy.copy(below)  # an anchor's aliases share one object, and only this path is meant
            node = node[key]


_MESSAGES = {
    "extra_forbidden": "unknown setting",
    "missing": "missing",
    "unexpected_keyword_argument": "unknown",
    "model_type": "expected a mapping of settings",
    "dict_type": "expected a mapping",
    "list_type": "expected a list",
    "tuple_type": "expected a list",
    "too_short": "the list is too short",
    "string_pattern_mismatch": "not in the form {pattern}",
}


_BRANCHES = (_RULES, _NONE, _BY_RULE, _BY_PAIRS, _CHECKPOINT, _FOREIGN, "[key]")


def describe_problems(error: ValidationError) -> str:
    """Return all problems on one line, each with its YAML path."""
    problems = []
    for problem in error.errors(include_url=False):
        where = ".".join(str(part) for part in problem["loc"] if part not in _BRANCHES)
        message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
        if problem["type"] in _MESSAGES:
            message = _MESSAGES[problem["type"]].format(**problem.get("ctx", {}))
        message = _LONG_QUOTE.sub(r"\1\2...\1", message)
        if problem["type"] not in ("extra_forbidden", "missing", "unexpected_keyword_argument") and not isinstance(
            problem["input"], (dict, BaseModel)
        ):
            message += f" (it is {_quote(problem['input'])})"
        problems.append(f"{_shorten(where, _SHOWN)}: {message}" if where else message)
    distinct = list(dict.fromkeys(problems))
    more = [f"and {len(distinct) - _MOST_PROBLEMS:,} more"] if len(distinct) > _MOST_PROBLEMS else []
    return "; ".join(distinct[:_MOST_PROBLEMS] + more)


_Record = TypeVar("_Record")


def read_record(kind: type[_Record], values: Any, where: str) -> _Record:
    """Return a dataclass from the JSON values that it was written as.

    Args:
        where: begins the message.

    Raises:
        UserError: a value is missing, unknown or of another type.
    """
    known = {field.name for field in fields(kind)} if is_dataclass(kind) else set()
    if known and isinstance(values, dict) and (unknown := sorted(values.keys() - known)):
        raise UserError(f"{where}: {_shorten(unknown[0], _SHOWN)}: unknown")
    try:
        return TypeAdapter(kind).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise UserError(f"{where}: {describe_problems(error)}") from None


_LONG_QUOTE = re.compile(rf"(['\"])(.{{{_SHOWN}}}).+?\1", re.DOTALL)  # of a value in the message of a rule
_MOST_PROBLEMS = 20


_Kind = TypeVar("_Kind", bound=Section)


def checked(kind: type[_Kind], where: str, **values: Any) -> _Kind:
    """Return a section with values that come from elsewhere than a pipeline: options of a command, another file.

    Raises:
        UserError: `where`, and each value that is not valid by its name.
    """
    try:
        return kind(**values)
    except ValidationError as error:
        raise UserError(f"{where}: {describe_problems(error)}") from None


def resolved(section: Section) -> dict[str, Any]:
    """The section with every default written out, as plain YAML/JSON values."""
    return section.model_dump(mode="json")


@dataclass(frozen=True)
class Setting:
    """One value of a section."""

    value: Any
    default: Any  # REQUIRED where there is none
    kind: str


REQUIRED = object()


def flatten_settings(section: Section, kind: str) -> dict[str, Setting]:
    """The settings of one kind by dotted path; a list of sections is flattened with its index, `train.0.weight`."""
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is not one of {KINDS}")
    return {path: setting for path, setting in _leaves(section, "") if setting.kind == kind}


def _leaves(section: Section, prefix: str, *, expected: bool = True) -> Iterator[tuple[str, Setting]]:
    """`expected`: the section is there by default, so that what it does not say has its default."""
    for name, field in type(section).model_fields.items():
        extra = field.json_schema_extra
        kind = str(extra.get("kind", "result")) if isinstance(extra, dict) else "result"
        later = isinstance(extra, dict) and extra.get("later") is True
        known = (expected or later) and not field.is_required()
        default = field.get_default(call_default_factory=True) if known else REQUIRED
        yield from _leaf_values(getattr(section, name), f"{prefix}{name}", default, kind)


def _leaf_values(value: Any, path: str, default: Any, kind: str) -> Iterator[tuple[str, Setting]]:
    if isinstance(value, Section):
        yield from _leaves(value, f"{path}.", expected=isinstance(default, Section))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _leaf_values(item, f"{path}.{key}", REQUIRED, kind)
    elif isinstance(value, list) and any(isinstance(item, Section) for item in value):
        for position, item in enumerate(value):
            yield from _leaf_values(item, f"{path}.{position}", REQUIRED, kind)
    else:  # `clean: none` stands where there is a section by default: no value that the record of a stage could hold
        yield path, Setting(value, REQUIRED if isinstance(default, Section) else default, kind)
