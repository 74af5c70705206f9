"""Import of Marian's models, such as those of OPUS-MT and the students of Bergamot and Firefox, as checkpoint folders.

A folder that `kdmt export --to marian` or `--to bergamot` wrote has kdmt's tokenizer, dictionaries and text processing;
the ids of the checkpoint are then those of the exported one. For other models, the dictionaries have the tokens of
Marian's vocabularies in their order.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from kdmt.checksum import verify_checkpoint
from kdmt.config import Text
from kdmt.config import Tokenizer as TokenizerSettings
from kdmt.corpus.codec import TEXT_FILE, TextCodec, load_text_processor
from kdmt.corpus.sentencepiece_file import UNKNOWN, Piece, read_pieces
from kdmt.corpus.text import TextProcessor
from kdmt.corpus.tokenizer import train_tokenizer
from kdmt.corpus.vocabulary import Dictionary
from kdmt.errors import UserError
from kdmt.files import PARTIAL, check_file, write_json
from kdmt.interop.export_folder import check_new
from kdmt.interop.marian.files import MarianModel, is_embedding, read_model
from kdmt.interop.marian.names import from_marian
from kdmt.interop.marian.options import read_config
from kdmt.interop.marian.rows import SideRows, TokenRows
from kdmt.interop.marian.vocabulary import MARIAN_UNK, marian_vocabulary
from kdmt.languages import Direction
from kdmt.models.build import build_transformer
from kdmt.models.checkpoint import save_checkpoint
from kdmt.models.description import check_numbers
from kdmt.models.transformer import Transformer
from kdmt.outputs import writing
from kdmt.types import EOS, SPECIALS, UNK

_MAX_POSITIONS = 1024
_TIED = "Wemb"  # embeddings of both sides
_OUTPUT, _OUTPUT_BIAS = "decoder_ff_logit_out_Wt", "decoder_ff_logit_out_b"
_OLD_OUTPUT = "decoder_ff_logit_out_W"  # in old models, not transposed
_LANGUAGE = re.compile(r">>\S+<<")  # token of OPUS-MT for the language of the target
_SHOWN = 5

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class MarianText:
    """Vocabularies and text processing of a model.

    Attributes:
        source_lang, target_lang: languages (default: those in `text.json`, in a folder that kdmt wrote).
        vocabularies: Marian's vocabulary files of both sides, `.spm` or `.yml` (default: those that the `decoder.yml`
            of the model names).
        sentencepiece: SentencePiece models that split text before `.yml` vocabularies (default: `source.spm` and
            `target.spm` in the folder of the model).
        text: processing of text before it is split into subwords.
        source_token: token that the model needs before each source, such as `>>fra<<` for the language of the target;
            the model then puts it there itself.
    """

    source_lang: str | None = None
    target_lang: str | None = None
    vocabularies: tuple[Path, Path] | None = None
    sentencepiece: tuple[Path, Path] | None = None
    text: Text = field(default_factory=Text)
    source_token: str | None = None


@dataclass(frozen=True)
class _Side:
    """Vocabulary of one side: the SentencePiece model that splits text, and the token of each of Marian's ids."""

    sentencepiece: Path
    tokens: list[str]


def import_model(file: Path, folder: Path, settings: MarianText) -> None:
    """Write a checkpoint folder for a model of Marian. An error leaves no partial folder.

    Args:
        file: `.npz` or `.bin` file.
        folder: the new folder.
        settings: vocabularies and text processing.

    Raises:
        UserError: if the file is damaged, its model is of a kind that kdmt does not have, its vocabularies are missing
            or do not fit, or the folder exists.
    """
    check_new(folder)
    model = read_model(file)
    with (
        writing(folder),
        tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{PARTIAL}{folder.name}-") as scratch,
    ):
        check_new(folder)  # once more: another process may have written it in the meantime
        try:
            if settings.vocabularies is None and (file.parent / TEXT_FILE).is_file():
                verify_checkpoint(file.parent)
                codec = TextCodec.load(file.parent)
                companions, rows = codec.companions(file.parent), _exported_rows(codec, model)
            else:
                companions, rows = _foreign_text(file, Path(scratch), settings, model)
            made = _build(model, rows, source_token=_source_token(companions, settings.source_token))
        except UserError as error:
            raise UserError(f"{file}: {error}") from None
        save_checkpoint(folder, made, companions=companions)


# -------------------------------------------------------------------------------------------------------- vocabularies


def _exported_rows(codec: TextCodec, model: MarianModel) -> TokenRows:
    """Return Marian's id of each of kdmt's ids, for a model that kdmt exported."""
    sizes = _vocabulary_sizes(model)
    sides = (
        (codec.tokenizers.source, codec.src_dictionary.symbols, sizes[0]),
        (codec.tokenizers.target, codec.tgt_dictionary.symbols, sizes[1]),
    )
    found = [marian_vocabulary(tokenizer, symbols, size).rows for tokenizer, symbols, size in sides]
    return TokenRows(*(rows.inverse(MARIAN_UNK) for rows in found))


def _foreign_text(file: Path, scratch: Path, settings: MarianText, model: MarianModel) -> tuple[list[Path], TokenRows]:
    """Write dictionaries, tokenizer and text processing, and return their paths and Marian's id of each of kdmt's."""
    if settings.source_lang is None or settings.target_lang is None:
        raise UserError("its files do not name its languages: give --source-lang and --target-lang")
    direction = Direction(settings.source_lang, settings.target_lang)
    vocabularies = settings.vocabularies or _named_vocabularies(file)
    sides = [_read_side(file, vocabularies, settings, number) for number in range(2)]
    for side, size in zip(sides, _vocabulary_sizes(model), strict=True):
        if len(side.tokens) != size:
            raise UserError(f"its vocabulary has {len(side.tokens)} tokens, its embeddings {size}: not its vocabulary")
    if _TIED in model.parameters and sides[0].tokens != sides[1].tokens:
        raise UserError("its embeddings are shared, and its vocabularies differ")
    is_joint = sides[0].sentencepiece.read_bytes() == sides[1].sentencepiece.read_bytes()
    tokenizer = TokenizerSettings(
        type="sentencepiece",
        joint=is_joint,
        source_path=str(sides[0].sentencepiece),
        target_path=None if is_joint else str(sides[1].sentencepiece),
    )
    train_tokenizer(tokenizer, (Path(), Path()), scratch / "tokenizer", direction)
    write_json(scratch / TEXT_FILE, TextProcessor(settings.text, *direction.sides).to_dict())
    rows = []
    for side, lang in zip(sides, direction.sides, strict=True):
        dictionary, index = _dictionary(side.tokens)
        dictionary.save(scratch / f"dict.{lang}.txt")
        rows.append(index)
    return sorted(scratch.iterdir()), TokenRows(*rows)


def _named_vocabularies(file: Path) -> tuple[Path, Path]:
    """Return the vocabularies that the `decoder.yml` of a model names."""
    candidates = [
        file.with_name(f"{file.name}.decoder.yml"),
        file.with_name("decoder.yml"),
        file.with_name("config.yml"),
    ]
    options = next((path for path in candidates if path.is_file()), None)
    if options is None:
        raise UserError(f"its vocabularies are not known: there is no {candidates[0].name}; give --vocab")
    try:
        values = yaml.safe_load(options.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        values = None
    names = values.get("vocabs") if isinstance(values, dict) else None
    if not isinstance(names, list) or len(names) != 2 or not all(isinstance(name, str) for name in names):
        raise UserError(f"{options} does not name two vocabularies: give --vocab")
    source, target = (file.parent / Path(name).name for name in names)
    return source, target


def _read_side(file: Path, vocabularies: tuple[Path, Path], settings: MarianText, number: int) -> _Side:
    path = vocabularies[number]
    check_file(path)
    if path.suffix == ".spm":
        return _Side(path, [_spelling(piece) for piece in read_pieces(path.read_bytes())])
    if path.suffix not in (".yml", ".yaml", ".json"):
        raise UserError(f"{path}: kdmt reads vocabularies of Marian that end in .spm or .yml")
    default = file.parent / "source.spm", file.parent / "target.spm"
    model = (settings.sentencepiece or default)[number]
    if not model.is_file():
        raise UserError(f"{path} does not split text: give its SentencePiece models with --sentencepiece ({model})")
    return _Side(model, _yaml_tokens(path))


def _spelling(piece: Piece) -> str:
    return SPECIALS[UNK] if piece.kind == UNKNOWN else piece.text


def _yaml_tokens(path: Path) -> list[str]:
    """Return the tokens of a vocabulary that maps tokens to ids."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(values, dict) or sorted(values.values(), key=str) != sorted(range(len(values)), key=str):
        raise UserError(f"{path}: not a vocabulary: expected 'token: id' with the ids 0, 1, 2, ...")
    return [str(token) for token, _ in sorted(values.items(), key=lambda item: item[1])]


def _dictionary(tokens: list[str]) -> tuple[Dictionary, SideRows]:
    """Return a dictionary of a vocabulary, and Marian's id of each of its ids.

    Raises:
        UserError: if the vocabulary lacks </s> or <unk>, or lists a token twice.
    """
    ids = {token: number for number, token in enumerate(tokens)}
    if len(ids) < len(tokens):
        raise UserError("its vocabulary lists a token twice")
    if missing := [SPECIALS[special] for special in (EOS, UNK) if SPECIALS[special] not in ids]:
        raise UserError(f"its vocabulary has no {missing[0]}")
    dictionary = Dictionary.from_vocabulary((t for t in tokens if t not in SPECIALS), {}, padding_factor=1)
    index = np.array([ids.get(symbol, -1) for symbol in dictionary.symbols], dtype=np.int64)
    return dictionary, SideRows(index, ids[SPECIALS[UNK]])


# --------------------------------------------------------------------------------------------------------------- model


def _source_token(companions: Sequence[Path], token: str | None) -> int | None:
    """Return the id of a token of the source vocabulary, None for None. Several target languages are reported."""
    files = {path.name: path for path in companions}
    dictionary = Dictionary.load(files[f"dict.{load_text_processor(files[TEXT_FILE]).source_lang}.txt"])
    languages = [symbol for symbol in dictionary.symbols if _LANGUAGE.fullmatch(symbol)]
    shown = ", ".join(languages[:_SHOWN]) + (", ..." if len(languages) > _SHOWN else "")
    if token is None:
        if len(languages) > 1:
            _logger.warning(
                f"its source vocabulary has tokens for target languages ({shown}): choose one with --source-token, or "
                "for each text with 'kdmt translate --tag'"
            )
        return None
    if token not in dictionary:
        known = f"; it has {shown}" if languages else ""
        raise UserError(f"its source vocabulary has no token {token[:80]!r} (--source-token){known}")
    return dictionary.index(token)


def _vocabulary_sizes(model: MarianModel) -> tuple[int, int]:
    """Return the number of rows of the embeddings of both sides."""
    embeddings = {name: len(each) for name, each in model.parameters.items() if is_embedding(name) and each.ndim == 2}
    source = embeddings.get("encoder_Wemb", embeddings.get(_TIED))
    target = embeddings.get("decoder_Wemb", embeddings.get(_TIED))
    if source is None or target is None:
        raise UserError("it has no embeddings (Wemb, or encoder_Wemb and decoder_Wemb)")
    return source, target


def _build(model: MarianModel, rows: TokenRows, *, source_token: int | None) -> Transformer:
    """Return the model in evaluation mode."""
    options, parameters = _usual_form(model)
    config = replace(read_config(options, max_positions=_MAX_POSITIONS), source_token=source_token)
    check_numbers(config, "model")
    weights = from_marian(parameters, config, rows)
    sizes = {"src_vocab_size": len(rows.source.index_V), "tgt_vocab_size": len(rows.target.index_V)}
    _check_shapes(weights, config, sizes)
    built = build_transformer(config, **sizes)
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            parameter.copy_(torch.from_numpy(weights[name]))
    return built.eval()


def _check_shapes(weights: Mapping[str, NDArray[np.float32]], config: Any, sizes: Mapping[str, int]) -> None:
    with torch.device("meta"):  # only the shapes are needed
        shapes = {name: each.shape for name, each in build_transformer(config, **sizes).named_parameters()}
    for name, shape in shapes.items():
        if weights[name].shape != tuple(shape):
            raise UserError(f"{name} would be {list(weights[name].shape)}, and the options say {list(shape)}")


def _usual_form(model: MarianModel) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    """Return options and parameters without the forms of sharing and of outputs that kdmt's models do not have.

    Embeddings that are shared by both sides and not by the output become two matrices, an output bias that is left out
    becomes zeros, and the output projection of old models is transposed.
    """
    options, parameters = dict(model.options), dict(model.parameters)
    if options.get("tied-embeddings-src") and not options.get("tied-embeddings-all"):
        if options.get("tied-embeddings"):
            options["tied-embeddings-all"] = True
        elif _TIED in parameters:
            parameters["encoder_Wemb"] = parameters["decoder_Wemb"] = parameters.pop(_TIED)
    if _OLD_OUTPUT in parameters:
        parameters[_OUTPUT] = np.ascontiguousarray(parameters.pop(_OLD_OUTPUT).T)
    if _OUTPUT_BIAS not in parameters:
        parameters[_OUTPUT_BIAS] = np.zeros((1, _vocabulary_sizes(model)[1]), dtype=np.float32)
    return options, parameters
