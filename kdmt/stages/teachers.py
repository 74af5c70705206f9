"""Which teacher translates for `kdmt distill`, by which engine, and on which workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kdmt.checksum import known_sha256
from kdmt.config import Distill, Sample
from kdmt.corpus.binarize import data_prefix
from kdmt.corpus.codec import TEXT_FILE, TextCodec, check_vocabulary, load_text_processor
from kdmt.corpus.text import TextProcessor
from kdmt.errors import UserError
from kdmt.flow.manifest import Plan
from kdmt.stages.targets import source_prefixes, training_texts
from kdmt.stages.workspace import Workspace

if TYPE_CHECKING:
    from kdmt.distill.candidates import ToWords
    from kdmt.distill.decoding import Teacher
    from kdmt.distill.sources import Text
    from kdmt.interop.huggingface import ForeignModel, ForeignTokenizer

ENGINE_FOLDER = "engine"  # below the stage's folder: the model as CTranslate2 reads it
_FOREIGN_SETTING = "distill.teachers.0."
_OF_SEARCH = ("distill.decode.", "distill.sample.")
_OF_PARALLEL_MODELS = ("nat.", "iterations")


class ChosenTeacher(Protocol):
    """What the settings ask for, in all that a stage needs of it."""

    @property
    def vocab_size(self) -> int:
        """Of its hypotheses' ids."""
        ...

    def inputs(self) -> dict[str, str]:
        """The sha256 of its files, for a plan."""
        ...

    def check(self, sample: Sample | None) -> None:
        """Refuse a teacher that does not do what is asked of it: before anything is moved.

        Raises:
            UserError: saying what it cannot.
        """
        ...

    def made_from(self, plan: Plan) -> dict[str, Any]:
        """What a block's content depends on besides its sources: what becomes of failures, say, is not part of it."""
        ...

    def open(self, folder: Path, sample: Sample | None) -> Teacher:
        """The teacher as workers need it; for CTranslate2 its model is written below the stage's folder."""
        ...

    def opens_text(self) -> Callable[[], Text]:
        """Opens what it translates; can be sent to another process."""
        ...

    def to_words(self) -> ToWords:
        """Makes words of its hypotheses; can be sent to another process."""
        ...


def choose_teacher(workspace: Workspace) -> ChosenTeacher:
    """The pipeline's teacher, or those that `distill.teachers` names.

    Raises:
        UserError: there is none, its vocabulary is not that of the data, or the engine does not have it.
    """
    if workspace.config.distill.foreign is not None:
        return _foreign_teacher(workspace)
    return _own_teacher(workspace)


# -------------------------------------------------------------------------------------------------------- checkpoints


@dataclass(frozen=True)
class OwnTeacher:
    """Checkpoints of one shape of vocabulary, and the engine that they run in. See `ChosenTeacher`."""

    workspace: Workspace
    checkpoints: tuple[Path, ...]
    names: tuple[str, ...]  # for messages and plans
    engine: str  # ctranslate2 or torch
    models: tuple[dict[str, Any], ...]  # their descriptions

    @property
    def is_parallel(self) -> bool:
        """Whether it writes all positions at once."""
        return self.models[0]["family"] == "nonautoregressive"

    @property
    def vocab_size(self) -> int:
        return self.models[0]["tgt_vocab_size"]

    def inputs(self) -> dict[str, str]:
        from kdmt.models.checkpoint_folder import checkpoint_sha256

        return {name: checkpoint_sha256(path) for name, path in zip(self.names, self.checkpoints, strict=True)}

    def check(self, sample: Sample | None) -> None:
        if self.is_parallel and sample is not None:
            raise UserError(f"{self.names[0]} writes all positions at once and draws no samples")

    def made_from(self, plan: Plan) -> dict[str, Any]:
        workspace, ours = self.workspace, list(_OF_SEARCH)
        if self.engine == "ctranslate2":
            ours += ["distill.compute_type", "distill.shortlist"]
        if self.is_parallel:
            ours += [f"distill.{name}" for name in _OF_PARALLEL_MODELS]
        made_from = _settings_of(plan, ours)
        made_from["teacher"] = " ".join(plan.inputs[name] for name in self.names)
        made_from["engine"] = self.engine
        for lang in dict.fromkeys(workspace.direction.sides):
            made_from[f"dictionary of {lang}"] = known_sha256(workspace.prepare / f"dict.{lang}.txt")
        if workspace.config.distill.shortlist is not None:  # it is learnt there
            made_from |= {key: sha for key, sha in plan.inputs.items() if "/data-bin/train." in key}
        return made_from

    def open(self, folder: Path, sample: Sample | None) -> Teacher:
        from kdmt.distill.teachers import CTranslate2Teacher, TorchTeacher

        settings = self.workspace.config.distill
        common: dict[str, Any] = {
            "settings": settings.decode,
            "max_source_tokens": self._limit("source"),
            "max_target_tokens": self._limit("target"),
            "vocab_size": self.vocab_size,
            "sample": sample,
        }
        if self.engine == "torch":
            return TorchTeacher(self.checkpoints, search=settings.nat, iterations=settings.iterations, **common)
        return CTranslate2Teacher(
            _exported(self.workspace, folder, self.checkpoints[0]),
            compute_type=settings.compute_type,
            shortlist=settings.shortlist is not None,
            **common,
        )

    def opens_text(self) -> Callable[[], Text]:
        from kdmt.distill.sources import SourceText

        return partial(SourceText, tuple(source_prefixes(self.workspace)))

    def to_words(self) -> ToWords:
        return TextCodec.load(self.workspace.prepare).decode_targets

    def _limit(self, side: str) -> int:
        """The longest sentence that all of them have positions for."""
        return min(model["config"][f"max_{side}_positions"] for model in self.models)


def _own_teacher(workspace: Workspace) -> OwnTeacher:
    from kdmt.models.checkpoint_folder import resolve_checkpoint
    from kdmt.models.description import read_description

    settings = workspace.config.distill
    names = tuple(settings.checkpoints) or (f"teacher/{settings.checkpoint}",)
    wanted = [Path(name) for name in settings.checkpoints] or [workspace.teacher / settings.checkpoint]
    checkpoints = tuple(resolve_checkpoint(path) for path in wanted)
    for checkpoint in checkpoints:
        check_vocabulary(checkpoint, workspace.prepare, workspace.direction)
    models = tuple(read_description(folder) for folder in checkpoints)
    return OwnTeacher(workspace, checkpoints, names, _engine(settings, names, models), models)


def _engine(settings: Distill, names: tuple[str, ...], models: tuple[dict[str, Any], ...]) -> str:
    parallel = [name for name, model in zip(names, models, strict=True) if model["family"] == "nonautoregressive"]
    if parallel and len(names) > 1:
        raise UserError(f"distill.teachers: {parallel[0]} writes all positions at once and translates alone")
    multilingual = [name for name, model in zip(names, models, strict=True) if _is_multilingual(model)]
    has_it = len(names) == 1 and not parallel and not multilingual
    if settings.engine == "ctranslate2" and not has_it:
        why = "is multilingual" if multilingual else "writes all positions at once"
        raise UserError(f"distill.engine: CTranslate2 has no decoder for {names[0]}, which {why}")
    engine = "ctranslate2" if has_it and settings.engine != "torch" else "torch"
    if engine == "torch" and settings.shortlist is not None:
        raise UserError("distill.shortlist: it is CTranslate2's, which does not have this teacher")
    if engine == "torch" and settings.compute_type != "float32":
        raise UserError("distill.compute_type: it is CTranslate2's, which does not have this teacher")
    return engine


def _is_multilingual(model: dict[str, Any]) -> bool:
    return any(model["config"].get(f"{side}_token") is not None for side in ("source", "target"))


def _settings_of(plan: Plan, beginnings: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in plan.settings.items() if key.startswith(tuple(beginnings))}


def _exported(workspace: Workspace, folder: Path, checkpoint: Path) -> Path:
    """The model in CTranslate2's form, written once: the folder belongs to one teacher."""
    from kdmt.interop.ctranslate2_folder import SHORTLIST_FILE

    exported = folder / ENGINE_FOLDER
    if not exported.exists():
        from kdmt.interop.ctranslate2_export import export_checkpoint  # loads torch

        export_checkpoint(checkpoint, exported)
    if workspace.config.distill.shortlist is not None and not (exported / SHORTLIST_FILE).exists():
        _write_shortlist(workspace, exported)
    return exported


def _write_shortlist(workspace: Workspace, exported: Path) -> None:
    """Learnt from the training set as it is: the teacher's own words are not known yet."""
    from kdmt.corpus.indexed import IndexedDataset
    from kdmt.distill.shortlist import build_shortlist
    from kdmt.interop.ctranslate2_folder import add_shortlist

    settings = workspace.config.distill.shortlist
    assert settings is not None
    sources, targets = (
        IndexedDataset(data_prefix(workspace.data_bin, "train", workspace.direction, lang))
        for lang in workspace.direction.sides
    )
    made = build_shortlist(
        sources,  # type: ignore[arg-type]  # a sequence in all that is asked of it
        targets,  # type: ignore[arg-type]
        per_token=settings.per_token,
        frequent=settings.frequent,
        max_pairs=settings.pairs or len(sources),
    )
    add_shortlist(exported, made.frequent.tolist(), {token: ids.tolist() for token, ids in made.of_token.items()})


# ------------------------------------------------------------------------------------------------------ foreign models


@dataclass(frozen=True)
class HuggingFaceTeacher:
    """A model with a vocabulary of its own. It translates the training set's text, and what it writes becomes words by
    the text processing of the data. See `ChosenTeacher`."""

    workspace: Workspace
    folder: Path  # of the model
    name: str  # for messages and plans
    engine: str  # ctranslate2 or torch

    @property
    def vocab_size(self) -> int:
        return len(self._tokenizer.vocabulary)

    def inputs(self) -> dict[str, str]:
        return {f"{self.name}/{file}": sha for file, sha in self._sha256_of_files().items()}

    def check(self, sample: Sample | None) -> None:
        del sample  # it draws them as it searches
        from kdmt.interop.huggingface import check_languages, check_weights

        tokenizer, foreign = self._tokenizer, self.workspace.config.distill.foreign
        if foreign is not None and not foreign.other_languages:
            codes = (tokenizer.source_code, tokenizer.target_code)
            check_languages(self.folder, tokenizer.kind, codes, self.workspace.direction, setting=_FOREIGN_SETTING)
        check_weights(tokenizer, ctranslate2=self.engine == "ctranslate2")

    def made_from(self, plan: Plan) -> dict[str, Any]:
        compute_type = ["distill.compute_type"] if self.engine == "ctranslate2" else []
        made_from = _settings_of(plan, [*_OF_SEARCH, *compute_type])
        made_from |= {f"teacher's {file}": sha for file, sha in self._sha256_of_files().items()}
        made_from["engine"] = self.engine
        made_from["languages"] = [self._tokenizer.source_code, self._tokenizer.target_code]
        made_from["text processing"] = known_sha256(self.workspace.prepare / TEXT_FILE)
        return made_from

    def open(self, folder: Path, sample: Sample | None) -> Teacher:
        from kdmt.distill.teachers import CTranslate2Teacher, TorchTeacher
        from kdmt.interop.huggingface import LIBRARIES, export_to_ctranslate2, position_limits

        max_source, max_target = position_limits(self._tokenizer)
        common: dict[str, Any] = {
            "settings": self.workspace.config.distill.decode,
            "max_source_tokens": max_source,
            "max_target_tokens": max_target,
            "vocab_size": self.vocab_size,
            "sample": sample,
        }
        if self.engine == "torch":
            load = partial(_load_foreign, self._tokenizer)
            return TorchTeacher((self.folder,), load=load, libraries=("torch", *LIBRARIES), **common)
        exported = folder / ENGINE_FOLDER
        if not exported.exists():  # it belongs to one teacher
            export_to_ctranslate2(self._tokenizer, exported)
        compute_type = self.workspace.config.distill.compute_type
        return CTranslate2Teacher(exported, compute_type=compute_type, libraries=("ctranslate2", *LIBRARIES), **common)

    def opens_text(self) -> Callable[[], Text]:
        from kdmt.distill.sources import SourceLines

        paths = tuple(text.source for text in training_texts(self.workspace))
        return partial(SourceLines, paths, _Reading(self._tokenizer, self._text))

    def to_words(self) -> ToWords:
        return _Writing(self._tokenizer, self._text)

    def _sha256_of_files(self) -> dict[str, str]:
        from kdmt.interop.huggingface import model_files

        return {path.name: known_sha256(path) for path in model_files(self.folder)}

    @cached_property
    def _tokenizer(self) -> ForeignTokenizer:
        from kdmt.interop.huggingface import ForeignTokenizer, read_kind

        settings = self.workspace.config.distill.foreign
        assert settings is not None
        return ForeignTokenizer(
            self.folder,
            read_kind(self.folder),
            settings.source_code,
            settings.target_code,
            setting=_FOREIGN_SETTING,
        )

    @property
    def _text(self) -> TextProcessor:
        return load_text_processor(self.workspace.prepare / TEXT_FILE)


def _foreign_teacher(workspace: Workspace) -> HuggingFaceTeacher:
    from kdmt.interop.huggingface import find_model, read_kind

    settings = workspace.config.distill
    assert settings.foreign is not None
    folder = find_model(settings.foreign.huggingface, settings.foreign.revision)
    read_kind(folder)  # which refuses what is none
    engine = "torch" if settings.engine == "torch" else "ctranslate2"
    return HuggingFaceTeacher(workspace, folder, settings.foreign.huggingface, engine)


@dataclass(frozen=True)
class _Reading:
    """Words of the training text as ids of the foreign vocabulary."""

    tokenizer: ForeignTokenizer
    text: TextProcessor

    def __call__(self, lines: Sequence[str]) -> list[NDArray[np.int64]]:
        return self.tokenizer.encode([self.text.postprocess_source(line) for line in lines])


@dataclass(frozen=True)
class _Writing:
    """Ids of the foreign vocabulary as words, in the form that the target side of a corpus gets: see `ToWords`."""

    tokenizer: ForeignTokenizer
    text: TextProcessor

    def __call__(self, tokens: NDArray[np.integer[Any]], sizes: NDArray[np.int32]) -> list[str]:
        lines = self.tokenizer.decode(tokens, sizes)
        return [" ".join(self.text.preprocess_target(line).split()) for line in lines]


def _load_foreign(tokenizer: ForeignTokenizer, _: Path) -> ForeignModel:
    from kdmt.interop.huggingface import ForeignModel

    return ForeignModel(tokenizer)
