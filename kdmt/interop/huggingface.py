"""Marian, mBART-50, M2M-100 and NLLB models of Hugging Face's Transformers, used as teachers.

A model is a folder with `config.json`, weights in `model.safetensors` or `pytorch_model.bin`, and the files of the
tokenizer. It is read only with Transformers' own classes for these four architectures, so that no file in the folder
can name code to run. Weights in a pickle are read in the mode that allows only tensors.

Sentences are lists of ids in the same form as everywhere in kdmt (`kdmt.types`): the four special symbols have the
first ids, </s> is at the end, and there are no language tokens. The tokens that a model needs around a sentence
(`Frame`) are added when the model is run:

* Marian: no tokens; a model with several target languages needs the token of the target language before the source,
  such as `>>deu<<`.
* mBART-50, M2M-100, NLLB: the token of the source language before the source (in old NLLB models: after the source)
  and the token of the target language before the target. The search starts after this token, which is not part of a
  hypothesis, its length or its score.

Transformers adds a row for <pad> to Marian models, which is not part of their training. Here <pad> has probability 0,
so that all other tokens have the probabilities that Marian gives them.

Shapes: B sentences, S source length, T target length, K beam, N = B * K rows, V vocabulary.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdmt.config import largest
from kdmt.errors import UserError
from kdmt.files import naming, read_json_object
from kdmt.interop.ctranslate2_folder import MODEL_FILE, Frame, write_symbols
from kdmt.interop.export_folder import check_new, described_folder
from kdmt.languages import Direction, Language, parse_language
from kdmt.recognition import wrong_path
from kdmt.terminal import printable, unescaped_stderr
from kdmt.types import BOS, EOS, PAD, SPECIALS, UNK

if TYPE_CHECKING:
    from transformers import Cache, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Kind = Literal["marian", "mbart50", "m2m100", "nllb"]
LIBRARIES = ("transformers", "tokenizers", "sentencepiece")  # libraries on which ids and weights depend
_NAMES: dict[Kind, str] = {"marian": "Marian", "mbart50": "mBART-50", "m2m100": "M2M-100", "nllb": "NLLB"}
_CLASSES: dict[Kind, tuple[str, str]] = {
    "marian": ("MarianMTModel", "MarianTokenizer"),
    "mbart50": ("MBartForConditionalGeneration", "MBart50Tokenizer"),
    "m2m100": ("M2M100ForConditionalGeneration", "M2M100Tokenizer"),
    "nllb": ("M2M100ForConditionalGeneration", "NllbTokenizer"),
}
# at least one file of each inner tuple is required
_TOKENIZER_NEEDS: dict[Kind, tuple[tuple[str, ...], ...]] = {
    "marian": (("source.spm",), ("target.spm",), ("vocab.json",)),
    "mbart50": (("tokenizer.json", "sentencepiece.bpe.model"),),
    "m2m100": (("vocab.json",), ("sentencepiece.bpe.model",)),
    "nllb": (("tokenizer.json", "sentencepiece.bpe.model"),),
}
_TOKENIZER_FILES = (
    *("source.spm", "target.spm", "sentencepiece.bpe.model", "vocab.json", "tokenizer.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
)
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_SHOWN = 8
_LONGEST_CODE = 40  # maximum number of characters of a language code in a message
_NOT_INSTALLED = "Transformers is not installed: pip install 'kdmt[huggingface]'"


# ------------------------------------------------------------------------------------------------------------- folders


def find_model(name: str, revision: str | None = None) -> Path:
    """Return the folder of a model, which is downloaded from the Hugging Face hub if it is not available locally.

    Args:
        name: path of a folder, or name of a model on the hub.
        revision: branch, tag or commit on the hub.

    Raises:
        UserError: if there is no such folder or model, or the download fails.
    """
    folder = Path(name)
    if folder.is_dir():
        if revision is not None:
            raise UserError(f"{name} is a folder: a 'revision' is that of a model on the hub")
        return folder
    if folder.exists():
        raise wrong_path(folder, "not the folder of a Hugging Face model")
    if not _HUB_NAME.fullmatch(name):
        raise UserError(f"{name}: there is no such folder, and a model on the hub is called OWNER/NAME")
    return _fetch(name, revision)


def _fetch(name: str, revision: str | None) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.utils import tqdm
    except ImportError:
        raise UserError(_NOT_INSTALLED) from None

    class Bar(tqdm):
        """Progress bar that writes to standard error without escaping, because it has to move the cursor."""

        def __init__(self, *args: object, **options: object) -> None:
            description = printable(str(options.pop("desc", None) or "download"))
            super().__init__(*args, desc=description, **options | {"file": unescaped_stderr()})

    problem = "it has no weights for PyTorch"
    for offline in (True, False):
        for weights in ("model*.safetensors*", "pytorch_model*"):  # older models have only a pickle
            patterns = ["config.json", *_TOKENIZER_FILES, weights]
            try:
                fetched = snapshot_download(
                    name, revision=revision, allow_patterns=patterns, local_files_only=offline, tqdm_class=Bar
                )
            except Exception as error:  # HTTP, network or disk error
                problem = one_line(error)
                break
            if _is_whole(Path(fetched)):
                return Path(fetched)
    raise UserError(f"{name}: there is no such folder, and the Hugging Face hub does not give it: {problem}")


def _is_whole(folder: Path) -> bool:
    """Return whether a folder has a configuration, weights with all their parts, and a file of a tokenizer.

    Files are missing if a download was interrupted.
    """
    if not (folder / "config.json").is_file() or not any((folder / file).is_file() for file in _WEIGHTS):
        return False
    try:
        return bool(model_files(folder)) and any((folder / file).is_file() for file in _TOKENIZER_FILES)
    except UserError:
        return False


def read_kind(folder: Path) -> Kind:
    """Return which of the four kinds of model a folder contains.

    Raises:
        UserError: if the folder does not contain a model or contains another kind of model, or if weights or files of
            the tokenizer are missing.
    """
    config = _read_config(folder)
    model_type = config.get("model_type")
    named = str(_read_json(folder / "tokenizer_config.json").get("tokenizer_class") or config.get("tokenizer_class"))
    kinds: dict[object, Kind] = {"marian": "marian"}
    if named.startswith("MBart50"):
        kinds["mbart"] = "mbart50"
    is_nllb = named.startswith("Nllb") or not (named.startswith("M2M100") or (folder / "vocab.json").is_file())
    kinds["m2m_100"] = "nllb" if is_nllb else "m2m100"
    if model_type not in kinds:
        other = repr(model_type) + (f" with {named}" if model_type == "mbart" else "")
        raise UserError(
            f"{folder}: an architecture that cannot be a teacher: {other}; Marian, mBART-50, M2M-100 and NLLB can"
        )
    kind = kinds[model_type]
    for choice in _TOKENIZER_NEEDS[kind]:
        if not any((folder / file).is_file() for file in choice):
            raise UserError(f"{folder / choice[0]}: there is no such file: the tokenizer of {_NAMES[kind]} needs it")
    if (folder / "adapter_config.json").exists():  # Transformers would load the model in another folder
        raise UserError(
            f"{folder / 'adapter_config.json'}: an adapter for another model: merge it into that one's weights"
        )
    if not any((folder / file).is_file() for file in _WEIGHTS):
        raise UserError(f"{folder}: has no weights: neither model.safetensors nor pytorch_model.bin")
    return kind


def model_files(folder: Path) -> list[Path]:
    """Return the files that a translation depends on: configuration, weights and tokenizer.

    The search settings in some folders (`generation_config.json`) are not included, since kdmt uses its own.
    """
    weights = next(folder / file for file in _WEIGHTS if (folder / file).is_file())
    parts = [weights]
    if weights.suffix == ".json":
        shards = _read_json(weights).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(s, str) and Path(s).name == s for s in shards.values()):
            raise UserError(f"{weights}: does not say which files the weights are in")
        parts += [folder / name for name in sorted(set(shards.values()))]
    if missing := [part for part in parts if not part.is_file()]:
        raise UserError(f"{missing[0]}: there is no such file: the weights of the model need it")
    tokenizer = [folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()]
    return [folder / "config.json", *parts, *tokenizer]


def _read_config(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        raise wrong_path(folder, "not a Hugging Face model, it has no config.json")
    config = _read_json(folder / "config.json")
    for theirs, ours in _SIZES.items():
        value, most = config.get(theirs), largest(ours)
        if value is not None and not (type(value) is int and 0 <= value <= most):
            shown = str(value)[:_LONGEST_SHOWN]
            raise UserError(f"{folder / 'config.json'}: {theirs} is {shown!r}, expected a whole number up to {most:,}")
    return config


_LONGEST_SHOWN = 80  # maximum number of characters of a value in a message
_SMALL = 10_000_000  # number of weights that needs no check: building them is cheap, and loading reports the error
_SIZES = {  # name in a configuration -> setting of kdmt with the same upper bound
    **dict.fromkeys(("vocab_size", "decoder_vocab_size"), "vocab_size"),
    "d_model": "encoder_embed_dim",
    "max_position_embeddings": "max_source_positions",
    "num_hidden_layers": "encoder_layers",
    **{f"{side}_layers": f"{side}_layers" for side in ("encoder", "decoder")},
    **{f"{side}_ffn_dim": f"{side}_ffn_embed_dim" for side in ("encoder", "decoder")},
    **{f"{side}_attention_heads": f"{side}_attention_heads" for side in ("encoder", "decoder")},
}


def _check_fits(folder: Path, weights: Sequence[Path]) -> None:
    """Check before building a model that its configuration does not describe more weights than the files contain."""
    config = _read_config(folder)
    layers = sum(config.get(f"{side}_layers") or 0 for side in ("encoder", "decoder"))
    dim = config.get("d_model") or 0
    described = (config.get("vocab_size") or 0) * dim + 4 * layers * dim**2
    there = sum(path.stat().st_size for path in weights)
    if described > max(there, _SMALL):  # each weight takes at least one byte
        raise UserError(
            f"{weights[0]}: not the weights of its config.json, which describes at least {described:,} of them: "
            f"there are {there:,} bytes"
        )


def _read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; empty if there is no such file."""
    if not path.is_file():
        return {}
    return read_json_object(path)


# ----------------------------------------------------------------------------------------------------------- languages

# members of a macrolanguage (ISO 639-3): models use the code of the member, pipelines that of the macrolanguage
_MACROLANGUAGE_OF = {
    member: whole
    for whole, members in {
        **{"ak": "fat tw", "ar": "arb", "ay": "ayr", "az": "azj", "bho": "bho", "din": "dik", "et": "ekk", "fa": "pes"},
        **{"ff": "fuv", "gn": "gug", "iu": "ike", "kr": "knc", "ku": "ckb kmr", "kv": "kpv", "lv": "lvs", "mg": "plt"},
        **{"mn": "khk", "ms": "zsm", "ne": "npi", "no": "nb nn", "oj": "ojg", "om": "gaz", "or": "ory", "ps": "pbt"},
        **{"qu": "quy quz", "sq": "als", "sw": "swh", "tl": "fil", "uz": "uzn", "yi": "ydd", "zh": "cmn"},
    }.items()
    for member in members.split()
}
_OF_THEIR_OWN = {
    "ns": "nso",
    "ajp_Arab": "apc_Arab",
}  # ns: Northern Sotho in M2M-100; ajp: a code in NLLB that ISO 639-3 has retired
_SAME_SCRIPT = {"Hang": "Kore", "Hrkt": "Jpan", "Hani": "Hans"}


def check_languages(
    folder: Path, kind: Kind, codes: tuple[str | None, str | None], direction: Direction, *, setting: str
) -> None:
    """Check that a model translates between the languages of the pipeline, as far as its languages are known.

    Args:
        folder: folder of the model.
        kind: kind of the model.
        codes: codes of the source and the target language; for a Marian model, `tokenizer_config.json` gives the
            languages for which there is no code.
        direction: direction of the pipeline.
        setting: prefix of the teacher's settings in messages.

    Raises:
        UserError: if a language differs. The message names both languages and the setting that accepts the model.
    """
    settings = _read_json(folder / "tokenizer_config.json") if kind == "marian" else {}
    for side, code, lang in zip(("source", "target"), codes, direction.sides, strict=True):
        where = f"{setting}{side}_code" if code is not None else f"{folder / 'tokenizer_config.json'}: {side}_lang"
        found = code if code is not None else settings.get(f"{side}_lang")
        if isinstance(found, str) and is_language(found, lang) is False:
            raise UserError(
                f"{where}: {found[:_LONGEST_CODE]!r}, and the pipeline's '{side}_lang' is {lang!r}; "
                f"'{setting}other_languages: true' takes the model all the same"
            )


def is_language(code: str, lang: str) -> bool | None:
    """Return whether a model's language code matches a language of the pipeline, including its script.

    Return None if the code does not name a language, such as `roa` or `en+de`.
    """
    try:
        theirs, ours = parse_language(_OF_THEIR_OWN.get(code, code)), parse_language(lang)
    except ValueError:
        return None
    if _macrolanguage(theirs.language) != _macrolanguage(ours.language):
        return False
    names_script = theirs.script is not None or theirs.region is not None
    return not names_script or _script(theirs) == _script(ours)


def _macrolanguage(language: str) -> str:
    return _MACROLANGUAGE_OF.get(language, language)


def _script(language: Language) -> str:
    return _SAME_SCRIPT.get(language.written_in, language.written_in)


# ---------------------------------------------------------------------------------------------------------- tokenizers


@dataclass(frozen=True)
class ForeignTokenizer:
    """Tokenizer of a model, between two of its languages. It can be pickled for use in other processes.

    Args:
        folder: folder of the model.
        kind: kind of the model.
        source_code, target_code: language codes of the tokenizer; None if the tokenizer has no languages.
        setting: prefix of the settings of the codes in messages.

    Raises:
        UserError: if a code is missing, superfluous or unknown, or the files of the tokenizer cannot be read.
    """

    folder: Path
    kind: Kind
    source_code: str | None = None
    target_code: str | None = None
    setting: str = ""

    def __post_init__(self) -> None:
        self._check_codes()

    def encode(self, lines: Sequence[str]) -> list[NDArray[np.int64]]:
        """Convert lines of finished text to ids; the ids of each line end in </s>."""
        if not lines:
            return []
        own = self._load.tokenizer(list(lines), add_special_tokens=False, verbose=False)["input_ids"]
        to_ours = np.append(self.vocabulary.ours_of_theirs, UNK)  # also for ids without a row in the model's matrix
        ids_of = (np.minimum(np.array(ids, dtype=np.int64), len(to_ours) - 1) for ids in own)
        return [np.append(to_ours[ids], EOS) for ids in ids_of]

    def decode(self, tokens: NDArray[np.integer], sizes: NDArray[np.integer]) -> list[str]:
        """Convert hypotheses to finished text. <unk> stays visible; other special symbols are removed.

        Args:
            tokens: concatenated ids of all hypotheses [sum(sizes)].
            sizes: number of tokens of each hypothesis [N].
        """
        tokenizer, silent = self._load.tokenizer, self._load.silent
        options = {"use_source_tokenizer": False} if self.kind == "marian" else {}
        theirs = self.vocabulary.theirs_of_ours[np.asarray(tokens, dtype=np.int64)].tolist()
        lines, start = [], 0
        for size in np.asarray(sizes).tolist():
            ids = [token for token in theirs[start : start + size] if token not in silent]
            start += size
            lines.append(tokenizer.decode(ids, clean_up_tokenization_spaces=False, **options) if ids else "")
        return lines

    @property
    def vocabulary(self) -> _Vocabulary:
        """Symbols in the order of kdmt's ids."""
        return self._load.vocabulary

    @cached_property
    def frame(self) -> Frame:
        """Tokens that the model needs around each sentence."""
        loaded = self._load
        if self.kind == "marian":
            prefix = (self._token(self.target_code),) if self.target_code is not None else ()
            return Frame(prefix, (SPECIALS[EOS],), ())
        loaded.tokenizer.src_lang = self.source_code
        prefix, suffix = (
            tuple(loaded.tokenizer.convert_ids_to_tokens(list(ids)))
            for ids in (loaded.tokenizer.prefix_tokens, loaded.tokenizer.suffix_tokens)
        )
        return Frame(prefix, suffix, (self._token(self.target_code),))

    @property
    def _load(self) -> LoadedTokenizer:
        return _load_tokenizer(self.folder, self.kind)

    def _token(self, code: str | None) -> str:
        return self._load.languages[str(code)]

    def _check_codes(self) -> None:
        languages = self._load.languages
        for name, code in (("source_code", self.source_code), ("target_code", self.target_code)):
            wanted = self.kind != "marian" or (name == "target_code" and bool(languages))
            where, who = f"{self.setting}{name}", f"the tokenizer of {self.folder} ({_NAMES[self.kind]})"
            if code is None and wanted:
                raise UserError(f"{where}: missing: {who} has several languages: {_some(languages)}")
            if code is not None and not wanted:
                raise UserError(f"{where}: {who} has no languages to choose among on this side")
            if code is not None and code not in languages:
                near = difflib.get_close_matches(code, languages, n=_SHOWN, cutoff=0.5) or languages
                raise UserError(f"{where}: {who} does not know {code!r}; it knows {_some(near, of=len(languages))}")


@dataclass(frozen=True)
class _Vocabulary:
    """Mapping between the ids of kdmt, where special symbols come first, and the ids of the model."""

    symbols: tuple[str, ...]  # symbol of each of kdmt's ids
    theirs_of_ours: NDArray[np.int64]  # -1 for <s> if the model has no <s>
    ours_of_theirs: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.symbols)


@dataclass(frozen=True)
class LoadedTokenizer:
    """Tokenizer of Transformers, with what it says about the rows of the model's matrix.

    Attributes:
        tokenizer: the tokenizer.
        names: token of each row; `NO_WORD` and a number for a row without a token.
        vocabulary: the same tokens in the order of kdmt's ids.
        languages: token of each language code.
        silent: ids of the model that are not text.
    """

    tokenizer: PreTrainedTokenizerBase
    names: tuple[str, ...]
    vocabulary: _Vocabulary
    languages: dict[str, str]
    silent: frozenset[int]


def read_tokenizer(folder: Path, kind: Kind) -> LoadedTokenizer:
    """Load the tokenizer of a model.

    Raises:
        UserError: if it cannot be read, or its vocabulary has no <pad>, </s> or <unk>.
    """
    transformers = import_transformers()
    try:
        made = getattr(transformers, _CLASSES[kind][1]).from_pretrained(str(folder), local_files_only=True)
        size = int(_read_config(folder)["vocab_size"])
        names = _names_of(made, size)
    except UserError:
        raise
    except Exception as error:  # damaged files can cause any exception
        raise UserError(f"{folder}: its tokenizer cannot be read: {one_line(error)}") from None
    if getattr(made, "separate_vocabs", False):
        raise UserError(f"{folder}: source and target have vocabularies of their own, which is not supported")
    vocabulary = _arrange(folder, names, made)
    languages = _languages(kind, names, made)
    ids = {name: token for token, name in enumerate(names)}
    silent = {ids[name] for name in (*made.all_special_tokens, *languages.values()) if name in ids}
    silent |= {token for token, name in enumerate(names) if name.startswith(NO_WORD)}
    return LoadedTokenizer(made, tuple(names), vocabulary, languages, frozenset(silent - {made.unk_token_id}))


_load_tokenizer = cache(read_tokenizer)

NO_WORD = "madeupword"  # fairseq's name for rows of a matrix that belong to no token


def _names_of(tokenizer: PreTrainedTokenizerBase, size: int) -> list[str]:
    """Return the token of each row of the model's matrix."""
    known = len(tokenizer) if not hasattr(tokenizer, "lang_token_to_id") else size
    found = tokenizer.convert_ids_to_tokens(list(range(min(size, known))))
    unknown = tokenizer.unk_token
    names: list[str] = []
    for token in range(size):
        name = found[token] if token < len(found) else None
        if name is None or (name == unknown and token != tokenizer.unk_token_id):
            name = f"{NO_WORD}{token:04d}"
        names.append(str(name))
    if twice := {name for name in names if names.count(name) > 1} if len(set(names)) < size else set():
        raise ValueError(f"{min(twice)!r} is in the vocabulary twice")
    return names


def _arrange(folder: Path, names: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> _Vocabulary:
    ids = {name: token for token, name in enumerate(names)}
    special = [getattr(tokenizer, f"{which}_token", None) for which in ("bos", "pad", "eos", "unk")]
    for ours, theirs in zip(SPECIALS[1:], special[1:], strict=True):
        if theirs != ours or ours not in ids:
            raise UserError(f"{folder}: the vocabulary of its model has no {ours}")
    first = [ids.get(SPECIALS[BOS], -1), *(ids[name] for name in SPECIALS[PAD : UNK + 1])]
    theirs_of_ours = np.concatenate([first, np.setdiff1d(np.arange(len(names)), first)])
    ours_of_theirs = np.full(len(names), UNK)
    has = theirs_of_ours >= 0
    ours_of_theirs[theirs_of_ours[has]] = np.flatnonzero(has)
    symbols = tuple(names[token] if token >= 0 else SPECIALS[BOS] for token in theirs_of_ours.tolist())
    return _Vocabulary(symbols, theirs_of_ours, ours_of_theirs)


_CODES: dict[Kind, re.Pattern[str]] = {
    "marian": re.compile(r">>(\S+)<<"),
    "mbart50": re.compile(r"([a-z]{2}_[A-Z]{2})"),
    "m2m100": re.compile(r"__([a-z]{2,4})__"),
    "nllb": re.compile(r"([a-z]{3}_[A-Z][a-z]{3})"),
}


def _languages(kind: Kind, names: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Return a mapping from language code to token for all codes with a row in the model's matrix.

    For M2M-100, only the codes that the tokenizer lists are included.
    """
    found = {match[1]: match[0] for name in names if (match := _CODES[kind].fullmatch(name))}
    if kind == "m2m100":
        return {code: token for code, token in found.items() if code in tokenizer.lang_code_to_token}
    return found


def _some(codes: Sequence[str] | Mapping[str, str], *, of: int | None = None) -> str:
    shown, every = list(codes)[:_SHOWN], len(codes) if of is None else of
    more = f" and {every - len(shown)} more" if every > len(shown) else ""
    return ", ".join(shown) + more if shown else "none"


# -------------------------------------------------------------------------------------------------------------- models


@dataclass(frozen=True)
class _Limits:
    """Values that the engines read from the configuration of kdmt's own models.

    Position limits count </s>, but not the tokens of the frame.
    """

    max_source_positions: int
    max_target_positions: int
    right_to_left: bool = False


def position_limits(tokenizer: ForeignTokenizer) -> tuple[int, int]:
    """Return the maximum source and target length of the model, counting </s> but not language tokens."""
    positions = _read_config(tokenizer.folder).get("max_position_embeddings")
    if not isinstance(positions, int) or positions < 8:
        raise UserError(f"{tokenizer.folder / 'config.json'}: 'max_position_embeddings' is {positions!r}")
    frame = tokenizer.frame
    return positions - len(frame.source_prefix) - len(frame.source_suffix) + 1, positions - len(frame.target_prefix)


class ForeignModel(nn.Module):
    """Model of Transformers with the interface of kdmt's models that `kdmt.decode.engines.pytorch` uses.

    Args:
        tokenizer: tokenizer of the model, between the languages to translate.

    Raises:
        UserError: if the weights cannot be read, are incomplete, or do not match the configuration.
    """

    pad = PAD
    _theirs_of_ours: Tensor  # int64 [V]

    def __init__(self, tokenizer: ForeignTokenizer) -> None:
        super().__init__()
        self.config = _Limits(*position_limits(tokenizer))
        self.theirs: PreTrainedModel = load_weights(tokenizer.folder, tokenizer.kind)
        vocabulary, frame = tokenizer.vocabulary, tokenizer.frame
        ids = dict(zip(vocabulary.symbols, vocabulary.theirs_of_ours.tolist(), strict=True))
        self._prefix, self._suffix = ([ids[s] for s in part] for part in (frame.source_prefix, frame.source_suffix))
        self._start = [self.theirs.config.decoder_start_token_id, *(ids[symbol] for symbol in frame.target_prefix)]
        self._their_pad = ids[SPECIALS[PAD]]
        self._has_pad = tokenizer.kind != "marian"
        self._is_reordered = not np.array_equal(vocabulary.theirs_of_ours, np.arange(len(vocabulary)))
        self.register_buffer("_theirs_of_ours", torch.from_numpy(vocabulary.theirs_of_ours), persistent=False)

    def encode(self, src_tokens_BS: Tensor) -> tuple[Tensor, Tensor]:
        """Return the encoder output [B, S', D] and its mask [B, S']; S' includes the tokens around the sentences."""
        rows = [
            [*self._prefix, *self._theirs_of_ours[row[row != PAD][:-1]].tolist(), *self._suffix]
            for row in src_tokens_BS
        ]
        longest = max(map(len, rows))
        input_ids = torch.tensor([row + [self._their_pad] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        input_ids, mask = input_ids.to(src_tokens_BS.device), mask.to(src_tokens_BS.device)
        return self.theirs.get_encoder()(input_ids=input_ids, attention_mask=mask)[0], mask

    def start_cache(self, encoded: tuple[Tensor, Tensor], *, beam: int, max_len: int) -> ForeignCache:
        """Return the initial state of decoding with `beam` rows per sentence; `max_len` is ignored."""
        del max_len
        states, mask = (each.repeat_interleave(beam, dim=0) for each in encoded)
        return ForeignCache(states, mask, beam)

    def decode_step(self, last_tokens_N: Tensor, cache: ForeignCache) -> Tensor:
        """Return the logits for the token after the last token of each row, indexed by kdmt's ids [N, V]."""
        if cache.past is None:  # the last token is </s>, with which decoding starts in kdmt
            input_ids = torch.tensor([self._start], device=last_tokens_N.device).expand(len(last_tokens_N), -1)
        else:
            input_ids = self._theirs_of_ours[last_tokens_N].clamp(min=0)[:, None]
        out = self.theirs(
            encoder_outputs=(cache.states_NSD,),
            attention_mask=cache.mask_NS,
            decoder_input_ids=input_ids,
            past_key_values=cache.past,
            use_cache=True,
        )
        cache.past = out.past_key_values
        return self._in_our_order(out.logits[:, -1])

    def forward(self, src_tokens_BS: Tensor, prev_tokens_BT: Tensor) -> Tensor:
        """Return teacher-forced logits, indexed by kdmt's ids [B, T, V]. The first previous token is </s>."""
        states, mask = self.encode(src_tokens_BS)
        start = torch.tensor([self._start], device=prev_tokens_BT.device).expand(len(prev_tokens_BT), -1)
        rest = self._theirs_of_ours[prev_tokens_BT[:, 1:]]
        input_ids = torch.cat([start, rest.clamp(min=0)], dim=1)
        out = self.theirs(encoder_outputs=(states,), attention_mask=mask, decoder_input_ids=input_ids, use_cache=False)
        return self._in_our_order(out.logits[:, len(self._start) - 1 :])

    def _in_our_order(self, logits: Tensor) -> Tensor:
        if not self._is_reordered and self._has_pad:
            return logits
        ordered = logits[..., self._theirs_of_ours.clamp(min=0)]
        ordered[..., self._theirs_of_ours < 0] = -torch.inf
        if not self._has_pad:
            ordered[..., PAD] = -torch.inf
        return ordered


@dataclass
class ForeignCache:
    """State of incremental decoding."""

    states_NSD: Tensor
    mask_NS: Tensor
    beam: int
    past: Cache | None = None

    def reorder(self, order_N: Tensor) -> None:
        """Set row i to the state of row order_N[i], which must belong to the same sentence."""
        if self.past is not None:
            self.past.reorder_cache(order_N)

    def select_sentences(self, index_B: Tensor) -> None:
        """Keep only the rows of the given sentences, in the given order."""
        rows_N = (index_B[:, None] * self.beam + torch.arange(self.beam, device=index_B.device)).flatten()
        self.states_NSD, self.mask_NS = self.states_NSD[rows_N], self.mask_NS[rows_N]
        if self.past is not None:
            self.past.batch_select_indices(rows_N)

    def take_rows(self, rows_N: Tensor, sentences_N: Tensor) -> None:
        """Replace the rows by earlier ones, each as often as wanted."""
        del sentences_N  # each row has the states of its sentence
        self.states_NSD, self.mask_NS = self.states_NSD[rows_N], self.mask_NS[rows_N]
        if self.past is not None:
            self.past.reorder_cache(rows_N)


def load_weights(folder: Path, kind: Kind) -> PreTrainedModel:
    """Load a model with its Transformers class, in float32 and in evaluation mode.

    Raises:
        UserError: in the cases of `ForeignModel`.
    """
    transformers = import_transformers()
    files = model_files(folder)
    weights = files[1]
    _check_fits(folder, [path for path in files if path.suffix in (".safetensors", ".bin")])
    try:
        model, report = getattr(transformers, _CLASSES[kind][0]).from_pretrained(
            str(folder),
            config=_own_config(folder, kind),
            attn_implementation="sdpa",  # otherwise a configuration could select a package that is loaded from the hub
            dtype=torch.float32,
            local_files_only=True,
            weights_only=True,
            use_safetensors="safetensors" in weights.name,
            output_loading_info=True,
        )
    except Exception as error:  # truncated files, pickles with more than tensors, other shapes
        raise UserError(f"{weights}: the weights cannot be read: {one_line(error)}") from None
    for what in ("missing", "unexpected", "mismatched"):
        if names := sorted(map(str, report[f"{what}_keys"])):
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise UserError(f"{weights}: not the weights of its config.json: {what} {names[0]}{more}")
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise UserError(f"{weights}: {name[:_LONGEST_SHOWN]} has weights that are NaN or infinite")
    return model.eval()


# settings of a configuration that name code or control loading: classes, kernels, quantizers, another folder
_NOT_OF_THE_MODEL = (
    *("auto_map", "custom_pipelines", "quantization_config", "compression_config", "adapter_config", "kernel_config"),
    *("attn_implementation", "experts_implementation", "use_kernels", "dtype", "torch_dtype", "torchscript"),
    *("name_or_path", "attn_implementation_internal", "experts_implementation_internal"),
)


def _own_config(folder: Path, kind: Kind) -> PretrainedConfig:
    """Return the configuration of a model as its Transformers class, without the settings that could name code."""
    values = _read_config(folder)
    kept = {name: value for name, value in values.items() if name not in _NOT_OF_THE_MODEL and not name.startswith("_")}
    return getattr(import_transformers(), _CLASSES[kind][0]).config_class.from_dict(kept)


def check_weights(tokenizer: ForeignTokenizer, *, ctranslate2: bool) -> None:
    """Check the weights of a model by loading it.

    Args:
        tokenizer: tokenizer of the model.
        ctranslate2: whether CTranslate2 will run the model.

    Raises:
        UserError: in the cases of `ForeignModel` or `export_to_ctranslate2`, except errors of writing.
    """
    model = load_weights(tokenizer.folder, tokenizer.kind)
    if ctranslate2 and tokenizer.kind == "marian":
        _check_pad(tokenizer.folder, model)


def import_transformers() -> ModuleType:
    """Import Transformers, and suppress its progress bars and its messages other than errors.

    Raises:
        UserError: if it is not installed.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # worker processes have their own threads
    try:
        import transformers
    except ImportError:
        raise UserError(_NOT_INSTALLED) from None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def one_line(error: BaseException) -> str:
    """Return the type and message of an exception in one line.

    The advice of PyTorch and Transformers to read a file in a way that runs code in it is left out.
    """
    text = " ".join(str(error).split())
    if re.search(r"weights_only|safe_globals|trust_remote_code", text):
        text = "it holds more than tensors and plain values" + "".join(
            f": {name}" for name in re.findall(r"GLOBAL (\S+)", text)[:1]
        )
    return f"{type(error).__name__}: {text}"[:300]


# --------------------------------------------------------------------------------------------------------- CTranslate2


def export_to_ctranslate2(tokenizer: ForeignTokenizer, folder: Path) -> None:
    """Write a model for `kdmt.decode.engines.ctranslate2`. An error leaves no partial folder.

    CTranslate2's own converter converts the weights; the tokenizer provides the token of each row and the frame.

    Args:
        tokenizer: tokenizer of the model, between the languages to translate.
        folder: the new folder.

    Raises:
        UserError: if the folder exists or CTranslate2 cannot convert the model, and in the cases of `ForeignModel`.
    """
    from ctranslate2.converters import TransformersConverter

    check_new(folder)
    model, vocabulary = load_weights(tokenizer.folder, tokenizer.kind), tokenizer.vocabulary
    if tokenizer.kind == "marian":
        _check_pad(tokenizer.folder, model)

    class Converter(TransformersConverter):
        def load_model(self, *_: object, **__: object) -> PreTrainedModel:
            if tokenizer.kind == "mbart50":  # newer configurations lack these: mBART-25 would be assumed
                model.config.normalize_before = True
                model.config.tokenizer_class = _CLASSES["mbart50"][1]
            return model

        def load_tokenizer(self, *_: object, **__: object) -> _Spelling:
            return _Spelling(vocabulary)

    source_limit, target_limit = position_limits(tokenizer)
    description = {
        "family": "huggingface",
        "kind": tokenizer.kind,
        "src_vocab_size": len(vocabulary),
        "tgt_vocab_size": len(vocabulary),
        "config": {"max_source_positions": source_limit, "max_target_positions": target_limit},
        "frame": asdict(tokenizer.frame),
    }
    with described_folder(folder, description) as aside, TemporaryDirectory(prefix="kdmt-config-") as scratch:
        try:
            model.config.save_pretrained(scratch)  # the converter reads this configuration instead of the folder's
            with naming(folder / MODEL_FILE):
                Converter(scratch).convert(str(aside), force=True)
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:  # an error of the disk, not of the model
                raise
            raise UserError(f"{tokenizer.folder}: CTranslate2 cannot take it: {one_line(error)}") from None
        write_symbols(aside, vocabulary.symbols)


def _check_pad(folder: Path, model: PreTrainedModel) -> None:
    """Check that <pad> of a Marian model is the last token and a zero vector, as CTranslate2 requires.

    CTranslate2 leaves out the last row of Marian's matrix and starts the decoder from zeros.
    """
    pad = model.config.pad_token_id
    is_last = pad == model.config.vocab_size - 1 == model.config.decoder_start_token_id
    if not is_last or model.get_decoder().embed_tokens.weight[pad].count_nonzero():
        raise UserError(
            f"{folder}: CTranslate2 takes a Marian model whose <pad> is the last token and zero: set 'engine: torch'"
        )


class _Spelling:
    """Tokenizer with the interface that CTranslate2's converter needs, covering every row of the model's matrix."""

    num_madeup_words = 0
    special_tokens_map: Mapping[str, object] = {}
    bos_token, pad_token, eos_token, unk_token = SPECIALS

    def __init__(self, vocabulary: _Vocabulary) -> None:
        self._names = [vocabulary.symbols[token] for token in vocabulary.ours_of_theirs.tolist()]
        self.unk_token_id = self._names.index(SPECIALS[UNK])

    def get_vocab(self) -> dict[str, int]:
        return {name: token for token, name in enumerate(self._names)}

    def convert_ids_to_tokens(self, token: int) -> str:
        return self._names[token]
