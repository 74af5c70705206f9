"""Import of fairseq's checkpoints as kdmt's checkpoint folders, and export of models as fairseq's checkpoints."""

from __future__ import annotations

import codecs
import shutil
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from kdmt.config import Text
from kdmt.config import Tokenizer as TokenizerSettings
from kdmt.config.directions import decoder_reads_token
from kdmt.corpus.codec import TEXT_FILE, TextCodec
from kdmt.corpus.formats import HEAD_BYTES, refuse_other_formats
from kdmt.corpus.text import TextProcessor
from kdmt.corpus.tokenizer import train_tokenizer
from kdmt.corpus.vocabulary import Dictionary
from kdmt.errors import UserError
from kdmt.files import PARTIAL, atomic_file, check_file, naming, write_json
from kdmt.interop.export_folder import check_new
from kdmt.interop.fairseq.architectures import Architecture, fairseq_settings, read_architecture
from kdmt.interop.fairseq.data_bin import choose_direction
from kdmt.interop.fairseq.language_tokens import LanguageTokens, is_language, is_multilingual, language_tokens
from kdmt.interop.fairseq.multilingual import MultilingualTask, multilingual_task, read_languages
from kdmt.interop.fairseq.pickles import items_of, read_pickle
from kdmt.interop.fairseq.states import convert_state, fairseq_state
from kdmt.languages import POOLED, Direction
from kdmt.log import get_logger
from kdmt.models.build import build_nonautoregressive, build_transformer
from kdmt.models.checkpoint import load_model, save_checkpoint
from kdmt.models.checkpoint_folder import log_opened, resolve_checkpoint
from kdmt.models.description import check_numbers
from kdmt.models.transformer import Transformer
from kdmt.outputs import writing

_logger = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """Settings for text processing that a fairseq checkpoint does not contain.

    Attributes:
        data: data-bin of the checkpoint, or any folder with its `dict.<lang>.txt`.
        source_lang, target_lang: languages (default: those that the checkpoint or the data-bin's file names give).
        bpe_codes: file with merge operations of subword-nmt or fastBPE.
        sentencepiece: SentencePiece model; without this and `bpe_codes`, text must be given as tokens.
        text: processing of text before it is split into subwords, which is undone in the output.
        all_directions: whether a multilingual model is imported with all its directions, instead of one.
    """

    data: Path
    source_lang: str | None = None
    target_lang: str | None = None
    bpe_codes: Path | None = None
    sentencepiece: Path | None = None
    text: Text = field(default_factory=Text)
    all_directions: bool = False


def import_checkpoints(paths: str, folder: Path, settings: TextSettings) -> list[Path]:
    """Write a checkpoint folder for each of fairseq's files. If one of them fails, none is written.

    Args:
        paths: one file, or several separated by `:`, as for fairseq's `--path`.
        folder: the new folder; for several files it contains the checkpoint folders `0`, `1`, ...
        settings: settings for text processing.

    Returns:
        The checkpoint folders.

    Raises:
        UserError: if a file is damaged, contains objects that are not allowed, describes a model that kdmt does not
            support, or does not match its own description or the dictionaries; or if the folder exists.
    """
    check_new(folder)
    if settings.bpe_codes is not None and settings.sentencepiece is not None:
        raise UserError("--bpe-codes and --sentencepiece: text is cut by one of the two")
    if settings.all_directions and (settings.source_lang or settings.target_lang):
        raise UserError("--all-directions: --source-lang and --target-lang choose one direction")
    files = [Path(name) for name in paths.split(":")]
    with (
        writing(folder),
        tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{PARTIAL}{folder.name}-") as scratch,
    ):
        check_new(folder)  # once more: another process may have written it in the meantime
        aside = Path(scratch)
        for number, file in enumerate(files):
            _import_file(file, aside / "made" / str(number), aside / f"text-{number}", settings)
        made = aside / "made" / "0" if len(files) == 1 else aside / "made"
        made.rename(folder)
    return [folder] if len(files) == 1 else [folder / str(number) for number in range(len(files))]


def read_model(file: Path, data: Path, direction: Direction) -> Transformer:
    """Return the model in one of fairseq's files, for a data-bin with the same token ids. Nothing is written.

    Args:
        file: fairseq's checkpoint file.
        data: the data-bin, or any folder with its `dict.<lang>.txt`.
        direction: direction of the data-bin.

    Raises:
        UserError: in the cases of `import_checkpoints`, or if the model has another direction or is multilingual.
    """
    content = read_pickle(file)
    with _naming(file):
        state, architecture = _parts(content)
        if is_multilingual(architecture.task):
            raise UserError(
                f"multilingual, with more symbols than {data} has; `kdmt import-checkpoint` and `kdmt translate` know "
                "them"
            )
        own = _named_languages(architecture)
        if any(lang is not None and lang != wanted for lang, wanted in zip(own, direction.sides, strict=True)):
            source, target = (lang or "..." for lang in own)
            raise UserError(f"translates from {source} to {target}, not from {direction.source} to {direction.target}")
        source_dictionary, target_dictionary = (Dictionary.load(data / f"dict.{lang}.txt") for lang in direction.sides)
        return _model(architecture, state, (source_dictionary, target_dictionary), data, direction)


def _import_file(file: Path, folder: Path, text_folder: Path, settings: TextSettings) -> None:
    content = read_pickle(file)
    with _naming(file):
        state, architecture = _parts(content)
        if settings.all_directions:
            _import_all_directions(state, architecture, folder, text_folder, settings)
            return
        direction = _direction(architecture, settings)
        tokens = language_tokens(architecture.task, direction, settings.data)
        dictionaries = _write_dictionaries(text_folder, direction, tokens, settings.data)
        if tokens is not None:
            architecture = _with_tokens(architecture, tokens, dictionaries)
        model = _model(architecture, state, dictionaries, settings.data, direction)
        _write_text(text_folder, direction, settings)
        save_checkpoint(folder, model, companions=sorted(text_folder.iterdir()))


def _import_all_directions(
    state: Mapping[str, Tensor], architecture: Architecture, folder: Path, text_folder: Path, settings: TextSettings
) -> None:
    languages = read_languages(architecture.task, settings.data)
    if architecture.nat is not None:
        raise UserError("it is multilingual and non-autoregressive, which kdmt does not support together")
    architecture = replace(architecture, config=languages.config(architecture.config))
    model = _model(architecture, state, languages.dictionaries, settings.data, languages.directions[0])
    text_folder.mkdir()
    for side, dictionary in zip(POOLED.sides, languages.dictionaries, strict=True):
        dictionary.save(text_folder / f"dict.{side}.txt")
    _write_tokenizer(text_folder / "tokenizer", POOLED, settings)
    processor = TextProcessor(
        settings.text, *POOLED.sides, directions=languages.directions, language_tokens=languages.tokens
    )
    write_json(text_folder / TEXT_FILE, processor.to_dict())
    save_checkpoint(folder, model, companions=sorted(text_folder.iterdir()))


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Add the name of a file to each `UserError` that is raised in the context."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{file}: {error}") from None


def _parts(content: Mapping[str, object]) -> tuple[dict[str, Tensor], Architecture]:
    """Return the weights, not yet compared with the architecture, and the architecture."""
    state = _state(content)
    return state, read_architecture({**content, "model": state})


_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_MOST_NAMES = 3  # maximum number of names of one tensor in fairseq, reached when all embeddings are shared


def _state(content: Mapping[str, object]) -> dict[str, Tensor]:
    """Return the weights after a check that the file contains as much data as their shapes need.

    Without the check, a small file could describe huge weights, which are allocated when the weights are copied.
    """
    state = content.get("model")
    if not isinstance(state, dict) or not state:
        raise UserError("not a fairseq checkpoint: it has no 'model' with weights")
    found: dict[str, Tensor] = {}
    for key, tensor in items_of(state).items():
        name = str(key)
        if not _is_plain(tensor):
            raise UserError(f"not a fairseq checkpoint: its weight {name!r} is no tensor of floating-point numbers")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise UserError(f"its weight {name!r} is {list(tensor.shape)}, and the file has not as many numbers")
        found[name] = tensor
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in found.values()}
    there = sum(storage.nbytes() for storage in storages.values())
    if sum(tensor.numel() * tensor.element_size() for tensor in found.values()) > _MOST_NAMES * there:
        raise UserError("its weights lie over each other: the file has not as many numbers")
    return {name: tensor.detach() for name, tensor in found.items()}


def _is_plain(value: object) -> TypeGuard[Tensor]:
    """Return whether a value is a dense floating-point tensor with data on the CPU."""
    if not isinstance(value, Tensor) or value.is_nested or value.device.type != "cpu":
        return False
    return value.layout is torch.strided and value.dtype in _FLOATS


def _with_tokens(
    architecture: Architecture, tokens: LanguageTokens, dictionaries: tuple[Dictionary, Dictionary]
) -> Architecture:
    """Return an architecture with the ids of the language tokens, and with position limits that do not count them."""
    if architecture.nat is not None:
        raise UserError("it is multilingual and non-autoregressive, which kdmt does not support together")
    config = architecture.config
    updates: dict[str, Any] = {}
    sides = zip(("source", "target"), (tokens.source, tokens.target), dictionaries, strict=True)
    for side, symbol, dictionary in sides:
        if symbol is not None:
            updates[f"{side}_token"] = dictionary.index(symbol)
            updates[f"max_{side}_positions"] = getattr(config, f"max_{side}_positions") - 1
    return replace(architecture, config=replace(config, **updates))


def _model(
    architecture: Architecture,
    state: Mapping[str, Tensor],
    dictionaries: tuple[Dictionary, Dictionary],
    data: Path,
    direction: Direction,
) -> Transformer:
    """Build the model and load its weights. The model is returned in evaluation mode and in float32."""
    source, target = dictionaries
    for side, dictionary, lang in zip(("encoder", "decoder"), dictionaries, direction.sides, strict=True):
        weight = state.get(f"{side}.embed_tokens.weight")
        if weight is not None and weight.dim() != 2:
            raise UserError(f"its {side}.embed_tokens.weight is {list(weight.shape)}, which is no matrix")
        if weight is not None and len(weight) != len(dictionary):
            raise UserError(
                f"its {side} embeds {len(weight)} symbols, and {data / f'dict.{lang}.txt'} has {len(dictionary)} with "
                "the special ones: not the dictionaries that it was trained with"
            )
    config, nat = architecture.config, architecture.nat
    if config.share_all_embeddings and source != target:
        raise UserError(f"it shares all embeddings, and the dictionaries in {data} differ")
    check_numbers(config, "model")
    if nat is not None:
        check_numbers(nat, "nat")
    weights = convert_state(state, config, nat)
    sizes = {"src_vocab_size": len(source), "tgt_vocab_size": len(target)}
    model = build_transformer(config, **sizes) if nat is None else build_nonautoregressive(config, nat, **sizes)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    return model.eval()


def export_checkpoint(checkpoint: Path, path: Path) -> None:
    """Write the model of a checkpoint as a fairseq checkpoint that `fairseq-generate` can load.

    The dictionaries are written to the folder of the file.

    Args:
        checkpoint: a checkpoint folder, a pointer file or a run.
        path: the new file.

    Raises:
        UserError: if there is no checkpoint, the file exists, the folder contains other dictionaries, or fairseq has
            no such model.
    """
    source = resolve_checkpoint(checkpoint)
    log_opened(checkpoint, source)
    codec, model = TextCodec.load(source), load_model(source)
    direction = codec.text.direction
    check_new(path)
    task = _task(codec, path)
    content = checkpoint_content(model, direction, task)
    with writing(path), tempfile.TemporaryDirectory() as scratch:
        check_new(path)  # once more: another process may have written it in the meantime
        dictionaries = [source / f"dict.{lang}.txt" for lang in dict.fromkeys(direction.sides)]
        if task is not None:
            dictionaries = [Path(scratch) / f"dict.{lang}.txt" for lang in task.dictionaries]
            for dictionary, file in zip(task.dictionaries.values(), dictionaries, strict=True):
                dictionary.save(file)
        _write_with_dictionaries(content, path, dictionaries)


def _task(codec: TextCodec, path: Path) -> MultilingualTask | None:
    """Return fairseq's multilingual task of a model with several directions; None for the task `translation`.

    Raises:
        UserError: if the decoder needs a language token, and fairseq's task does not have such tokens.
    """
    if not codec.text.directions:
        return None
    try:
        return multilingual_task(codec.text, (codec.src_dictionary, codec.tgt_dictionary))
    except UserError as error:
        if decoder_reads_token(codec.text.language_tokens):
            raise
        _logger.warning(f"{path}: for the task 'translation', with the language tokens as words of the source: {error}")
        return None


def _write_with_dictionaries(content: Mapping[str, object], path: Path, dictionaries: Sequence[Path]) -> None:
    for dictionary in dictionaries:
        existing = path.parent / dictionary.name
        if existing.exists() and existing.read_bytes() != dictionary.read_bytes():
            raise UserError(f"{existing}: is not the model's dictionary; nothing was written")
    with atomic_file(path) as aside:
        _save(content, aside, path)
        for dictionary in dictionaries:
            if not (path.parent / dictionary.name).exists():
                with atomic_file(path.parent / dictionary.name) as copy:
                    shutil.copyfile(dictionary, copy)


def _save(content: Mapping[str, object], aside: Path, path: Path) -> None:
    try:
        with naming(path), aside.open("wb") as file:
            torch.save(content, file)
    except RuntimeError as error:  # raised by PyTorch when it closes an incomplete file
        if not isinstance(error.__context__, OSError):
            raise
        raise OSError(error.__context__.errno, error.__context__.strerror, str(path)) from None


def checkpoint_content(
    model: Transformer, direction: Direction, task: MultilingualTask | None = None
) -> dict[str, Any]:
    """Return the content of a checkpoint for fairseq 0.10 to 0.12: settings in the old form (`args`), and weights.

    Args:
        task: task of a model with several directions.

    Raises:
        UserError: if fairseq has no such model.
    """
    if model.config.target_from_source and task is None:
        raise UserError("the decoder begins with a language token, and the text processing of the model has none")
    settings = fairseq_settings(model)
    languages: dict[str, object] = {"source_lang": direction.source, "target_lang": direction.target, "data": ""}
    languages |= {} if task is None else task.settings
    last = {
        "criterion_name": "LabelSmoothedCrossEntropyCriterion",
        "optimizer_name": "FairseqAdam",
        "lr_scheduler_state": {"best": None},
        "num_updates": 0,
    }
    return {
        "args": Namespace(**(settings | languages)),
        "model": fairseq_state(model),
        "optimizer_history": [last],
        "extra_state": {"train_iterator": {"epoch": 1}},
    }


# ------------------------------------------------------------------------------------------------------------- text


def _direction(architecture: Architecture, settings: TextSettings) -> Direction:
    """Return the direction given by the settings, the checkpoint, or the file names of the data-bin, in this order."""
    source, target = _named_languages(architecture)
    source, target = settings.source_lang or source, settings.target_lang or target
    if source is None or target is None:
        try:
            source, target = choose_direction(settings.data, source, target).sides
        except UserError as error:
            raise UserError(
                f"it does not say which languages it is for, and {error}: give --source-lang and --target-lang"
                f"{', or --all-directions' if is_multilingual(architecture.task) else ''}"
            ) from None
    for lang in (source, target):
        if not is_language(lang):
            raise UserError(f"its language {lang!r} is no name of one")
    return Direction(source, target)


def _named_languages(architecture: Architecture) -> tuple[str | None, str | None]:
    """Return the source and the target language in the checkpoint's settings, None for each that is not set."""
    named = [architecture.task.get(f"{side}_lang") or None for side in ("source", "target")]
    source, target = (None if lang is None else str(lang) for lang in named)
    return source, target


def _write_dictionaries(
    folder: Path, direction: Direction, tokens: LanguageTokens | None, data: Path
) -> tuple[Dictionary, Dictionary]:
    """Write the dictionaries of the data-bin and return them.

    Language tokens are appended; without language tokens the files are copied unchanged.
    """
    folder.mkdir()
    made: dict[str, Dictionary] = {}
    for lang in dict.fromkeys(direction.sides):
        given = data / f"dict.{lang}.txt"
        made[lang] = Dictionary.load(given)
        if tokens is None:
            shutil.copyfile(given, folder / given.name)
            continue
        for symbol in tokens.symbols:
            made[lang].add(symbol)
        made[lang].save(folder / given.name)
    return made[direction.source], made[direction.target]


def _write_text(folder: Path, direction: Direction, settings: TextSettings) -> None:
    """Write the files of a text codec other than the dictionaries: the tokenizer and `text.json`."""
    _write_tokenizer(folder / "tokenizer", direction, settings)
    processor = TextProcessor(settings.text, *direction.sides)
    write_json(folder / TEXT_FILE, processor.to_dict())


def _write_tokenizer(folder: Path, direction: Direction, settings: TextSettings) -> None:
    if settings.sentencepiece is not None:
        given = TokenizerSettings(source_path=str(settings.sentencepiece))
    elif settings.bpe_codes is not None:
        codes = folder.with_name("codes")
        merges = _merges(settings.bpe_codes)
        with naming(codes):
            codes.write_bytes(merges)
        given = TokenizerSettings(type="subword-nmt", model="bpe", source_path=str(codes))
    else:
        given = TokenizerSettings(type="words")
    try:
        train_tokenizer(given, (folder, folder), folder, direction)  # the given model is used, nothing is learnt
    finally:
        folder.with_name("codes").unlink(missing_ok=True)


def _merges(path: Path) -> bytes:
    """Return merge operations in the format of subword-nmt. fastBPE has a count at the end of each line in addition."""
    check_file(path, missing="there is no such file of merge operations")
    data = path.read_bytes()
    refuse_other_formats(data[:HEAD_BYTES], str(path), sentences=False)
    data = data.removeprefix(codecs.BOM_UTF8)
    lines = [line.split(b" ") for line in data.splitlines()]
    if not lines or any(len(line) != 3 or not line[2].isdigit() for line in lines):
        return data
    return b"#version: 0.2\n" + b"".join(b" ".join(line[:2]) + b"\n" for line in lines)
