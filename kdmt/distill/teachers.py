"""Teachers: the models that translate for `kdmt distill`, their engines, and what their translations depend on.

`TEACHERS` is the table of kinds. To add one, give it a section in `kdmt.config.teacher_entries`, write a class that
implements the interface `ChosenTeacher`, and add both to the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from kdmt.checksum import known_sha256
from kdmt.config import Distill, EndpointTeacher, ForeignTeacher, LocalGenerator, LocalTranslator, Pool, Sample
from kdmt.corpus.codec import check_vocabulary
from kdmt.distill.candidates import ToWords
from kdmt.distill.chosen_teacher import ENGINE_FOLDER, SEARCH_SETTINGS, ChosenTeacher, plan_settings
from kdmt.distill.decoding import Teacher
from kdmt.distill.endpoint_teacher import EndpointModel
from kdmt.distill.inputs import Inputs
from kdmt.distill.local_text_teachers import LocalTextModel
from kdmt.distill.sources import SourceText, Text
from kdmt.distill.teacher_engines import CTranslate2Teacher, TorchTeacher
from kdmt.distill.token_teachers import TokenTeacherModel
from kdmt.errors import UserError
from kdmt.interop.ctranslate2_folder import SHORTLIST_FILE
from kdmt.models.checkpoint_folder import checkpoint_sha256, resolve_checkpoint, resolve_name
from kdmt.models.description import read_description

_NAT_SETTINGS = ("distill.nat.", "distill.iterations")
_POOL = "distill.pool."
_CTRANSLATE2_SETTINGS = ("distill.compute_type", "distill.shortlist")


def choose_teacher(settings: Distill, inputs: Inputs, run: Path) -> ChosenTeacher:
    """Return the teacher that the settings select.

    Args:
        inputs: text to translate.
        run: folder of the pipeline's own teacher, which is used if the settings name no other.

    Raises:
        UserError: if there is no such teacher, its vocabulary is not that of the data, or the engine cannot run it.
    """
    kind = type(settings.shared[0]) if settings.shared else str
    return TEACHERS[kind](settings, inputs, run)


# -------------------------------------------------------------------------------------------------- kdmt's checkpoints


@dataclass(frozen=True)
class CheckpointModel:
    """The relevant part of a checkpoint's description."""

    is_nonautoregressive: bool
    is_multilingual: bool
    has_ssrus: bool
    vocab_size: int
    max_source_positions: int
    max_target_positions: int
    is_unidirectional: bool = False

    @property
    def why_not_ctranslate2(self) -> str | None:
        """Reason why CTranslate2 cannot run the model, as "is multilingual"; None if it can."""
        if self.is_nonautoregressive:
            return "is non-autoregressive"
        if self.is_multilingual:
            return "is multilingual"
        if self.has_ssrus:
            return "has SSRUs"
        return "has a unidirectional encoder" if self.is_unidirectional else None

    @classmethod
    def read(cls, folder: Path) -> CheckpointModel:
        description = read_description(folder)
        config = description["config"]
        return cls(
            is_nonautoregressive=description["family"] == "nonautoregressive",
            is_multilingual=any(config.get(f"{side}_token") is not None for side in ("source", "target")),
            has_ssrus=config.get("decoder") == "ssru",
            vocab_size=description["tgt_vocab_size"],
            max_source_positions=config["max_source_positions"],
            max_target_positions=config["max_target_positions"],
            is_unidirectional=bool(config.get("unidirectional_encoder")),
        )


def open_checkpoints(
    settings: Distill,
    checkpoints: tuple[Path, ...],
    models: Sequence[CheckpointModel],
    *,
    exported: Callable[[], Path] | None,
    sample: Sample | None,
    shortlist: bool = False,
    drawn_by: tuple[Path, ...] = (),
) -> TorchTeacher | CTranslate2Teacher:
    """Return checkpoints of kdmt in the engine that runs them.

    Args:
        checkpoints: folders of models with one vocabulary, which translate together.
        models: their descriptions.
        exported: function that returns the folder of the model for CTranslate2; None for PyTorch.
        sample: settings for drawing translations; None to search for the best ones.
        shortlist, drawn_by: see `CTranslate2Teacher`.
    """
    max_source_tokens = min(model.max_source_positions for model in models)
    max_target_tokens = min(model.max_target_positions for model in models)
    if exported is None:
        return TorchTeacher(
            checkpoints,
            settings=settings.decode,
            max_source_tokens=max_source_tokens,
            max_target_tokens=max_target_tokens,
            vocab_size=models[0].vocab_size,
            sample=sample,
            search=settings.nat,
            iterations=settings.iterations,
        )
    return CTranslate2Teacher(
        exported(),
        compute_type=settings.compute_type,
        settings=settings.decode,
        max_source_tokens=max_source_tokens,
        max_target_tokens=max_target_tokens,
        vocab_size=models[0].vocab_size,
        sample=sample,
        shortlist=shortlist,
        drawn_by=drawn_by,
    )


@dataclass(frozen=True)
class OwnTeacher(TokenTeacherModel):
    """Checkpoints of kdmt with one vocabulary that translate together. See `ChosenTeacher`.

    Attributes:
        checkpoints: folders of the checkpoints.
        names: names of the checkpoints in messages and plans.
        engine: "ctranslate2" or "torch".
        models: descriptions of the checkpoints.
    """

    checkpoints: tuple[Path, ...]
    names: tuple[str, ...]
    engine: str
    models: tuple[CheckpointModel, ...]

    @property
    def is_nonautoregressive(self) -> bool:
        return self.models[0].is_nonautoregressive

    @property
    def vocab_size(self) -> int:
        return self.models[0].vocab_size

    def inputs(self) -> dict[str, str]:
        return {name: checkpoint_sha256(path) for name, path in zip(self.names, self.checkpoints, strict=True)}

    def check(self, sample: Sample | None) -> None:
        if self.is_nonautoregressive and sample is not None:
            raise UserError(f"{self.names[0]} is non-autoregressive and draws no samples")
        if isinstance(sample, Pool) and sample.engine == "ctranslate2" and self.engine == "torch":
            raise UserError("distill.pool.engine: CTranslate2 does not run the teacher, whose engine is PyTorch")

    def made_from(self, settings: Mapping[str, object], inputs: Mapping[str, str]) -> dict[str, object]:
        corpus, own = self.text.corpus, list(SEARCH_SETTINGS)
        if self.engine == "ctranslate2":
            own += _CTRANSLATE2_SETTINGS
        if self.is_nonautoregressive:
            own += _NAT_SETTINGS
        made_from = plan_settings(settings, own)
        made_from["teacher"] = " ".join(inputs[name] for name in self.names)
        made_from["engine"] = self.engine
        if self._draws_by_choice_of_engine(settings):
            made_from["engine of samples"] = self.engine
        for lang in dict.fromkeys(corpus.direction.sides):
            made_from[f"dictionary of {lang}"] = known_sha256(corpus.dictionary(lang))
        if self.settings.shortlist is not None:  # the shortlist is learnt from the training text
            made_from |= {key: sha for key, sha in inputs.items() if "/data-bin/train." in key}
        return made_from

    def open(
        self, folder: Path, sample: Sample | None, *, earlier: Sequence[Path] = (), verifying: bool = False
    ) -> Teacher:
        del earlier, verifying
        return open_checkpoints(
            self.settings,
            self.checkpoints,
            self.models,
            exported=partial(self._exported, folder / ENGINE_FOLDER) if self.engine == "ctranslate2" else None,
            sample=sample,
            shortlist=self.settings.shortlist is not None,
            drawn_by=self.checkpoints if self._draws_by_torch(sample) else (),
        )

    def _draws_by_choice_of_engine(self, settings: Mapping[str, object]) -> bool:
        """Return whether CTranslate2 draws the samples of a pool for no other reason than the setting of the engine.

        All other reasons are among the settings that blocks record.

        Args:
            settings: settings of the plan, which has those of the pool if the blocks are of a pool.
        """
        own, pool = self.settings, self.settings.pool
        if pool is None or f"{_POOL}samples" not in settings or self.engine != "ctranslate2" or pool.engine != "auto":
            return False
        by_default = own.model_copy(update={"engine": "auto"})
        return not self._draws_by_torch(pool) and replace(self, settings=by_default)._draws_by_torch(pool)

    def _draws_by_torch(self, sample: Sample | None) -> bool:
        """Return whether PyTorch draws the samples of a pool although CTranslate2 runs the beam search."""
        if not isinstance(sample, Pool) or not sample.samples:
            return False
        settings = self.settings
        asked = (
            settings.engine.startswith("ctranslate2")
            or settings.shortlist
            or settings.compute_type not in ("auto", "float32")
        )
        return sample.engine == "torch" or (sample.engine == "auto" and not asked)

    def opens_text(self) -> Callable[[], Text]:
        return partial(SourceText, self.text.source_prefixes())

    def to_words(self) -> ToWords:
        return self.text.corpus.codec().decode_targets

    def _exported(self, folder: Path) -> Path:
        """Return the folder of the model in CTranslate2's format, after writing it if it is missing or incomplete."""
        shortlist = self.settings.shortlist
        if not folder.exists() or (shortlist is not None and not (folder / SHORTLIST_FILE).exists()):
            from kdmt.distill.exported_teacher import export_teacher  # loads torch

            export_teacher(self.checkpoints[0], folder, shortlist=shortlist, corpus=self.text.corpus)
        return folder


def choose_own_teacher(settings: Distill, inputs: Inputs, run: Path) -> OwnTeacher:
    """Return the checkpoints that the settings name, or the pipeline's teacher. See `choose_teacher`."""
    names = tuple(settings.checkpoints) or (f"teacher/{resolve_name(run, settings.checkpoint)}",)
    wanted = [Path(name) for name in settings.checkpoints] or [run / settings.checkpoint]
    checkpoints = tuple(resolve_checkpoint(path) for path in wanted)
    for checkpoint in checkpoints:
        check_vocabulary(checkpoint, inputs.corpus.folder, inputs.corpus.direction)
    models = tuple(map(CheckpointModel.read, checkpoints))
    return OwnTeacher(settings, inputs, checkpoints, names, _engine(settings, names, models), models)


def _engine(settings: Distill, names: Sequence[str], models: Sequence[CheckpointModel]) -> str:
    """Return the engine that runs the models: the one that is set, by default CTranslate2 if it can run them.

    Raises:
        UserError: if the engine or the models do not support a setting.
    """
    alone = [name for name, model in zip(names, models, strict=True) if model.is_nonautoregressive]
    if alone and len(names) > 1:
        raise UserError(f"distill.teachers: {alone[0]} is non-autoregressive and translates alone")
    why_not = models[0].why_not_ctranslate2
    runs_in_ctranslate2 = len(names) == 1 and why_not is None
    if settings.engine.startswith("ctranslate2") and not runs_in_ctranslate2:
        raise UserError(f"distill.engine: CTranslate2 cannot run {names[0]}, which {why_not}")
    engine = "ctranslate2" if runs_in_ctranslate2 and settings.engine != "torch" else "torch"
    if engine == "torch" and settings.shortlist is not None:
        raise UserError("distill.shortlist: it is CTranslate2's, which does not have this teacher")
    if engine == "torch" and settings.compute_type not in ("auto", "float32"):
        raise UserError("distill.compute_type: it is CTranslate2's, which does not have this teacher")
    return engine


# ------------------------------------------------------------------------------------------------ Hugging Face's models


def choose_huggingface_teacher(settings: Distill, inputs: Inputs, _: Path) -> ChosenTeacher:
    """Return the model of Hugging Face that the settings name. See `choose_teacher`."""
    from kdmt.distill.huggingface_teacher import HuggingFaceTeacher  # loads torch

    return HuggingFaceTeacher.choose(settings, inputs)


# ------------------------------------------------------------------------------------------------ large language models


def choose_endpoint(settings: Distill, inputs: Inputs, _: Path) -> ChosenTeacher:
    """Return the large language model behind an endpoint that the settings name. See `choose_teacher`."""
    return EndpointModel.choose(settings, inputs)


def choose_local_text_model(settings: Distill, inputs: Inputs, _: Path) -> ChosenTeacher:
    """Return the model in CTranslate2's format that the settings name and that answers with text."""
    return LocalTextModel.choose(settings, inputs)


# type of an entry of `distill.teachers` -> (settings, text to translate, run of the pipeline's teacher) -> teacher
TEACHERS: dict[type, Callable[[Distill, Inputs, Path], ChosenTeacher]] = {
    str: choose_own_teacher,
    ForeignTeacher: choose_huggingface_teacher,
    EndpointTeacher: choose_endpoint,
    LocalGenerator: choose_local_text_model,
    LocalTranslator: choose_local_text_model,
}
