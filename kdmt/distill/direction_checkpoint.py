"""Checkpoints of kdmt as the teachers of one of several directions, with their own vocabulary and text processing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from kdmt.checksum import known_sha256
from kdmt.config import Distill, Sample
from kdmt.corpus.codec import TextCodec, check_vocabulary
from kdmt.corpus.text import TextProcessor
from kdmt.distill.candidates import ToWords
from kdmt.distill.chosen_teacher import ENGINE_FOLDER, SEARCH_SETTINGS, plan_settings
from kdmt.distill.decoding import Teacher
from kdmt.distill.finished_text import FinishedTextDecoder, FinishedTextEncoder, hashes_of_text
from kdmt.distill.inputs import Inputs
from kdmt.distill.sources import Text
from kdmt.distill.teachers import CheckpointModel, open_checkpoints
from kdmt.distill.token_teachers import TokenTeacherModel
from kdmt.errors import UserError, naming
from kdmt.interop.ctranslate2_folder import MODEL_FILE, is_model_folder
from kdmt.languages import Direction
from kdmt.models.checkpoint_folder import checkpoint_sha256, resolve_checkpoint
from kdmt.models.description import FILE as DESCRIPTION_FILE

_NAT_SETTINGS = ("distill.nat.", "distill.iterations")


@dataclass(frozen=True)
class DirectionCheckpoint(TokenTeacherModel):
    """Checkpoints of kdmt that translate together, or a model that was exported from one for CTranslate2.

    They read finished text of the direction `text.corpus.direction`, and their finished output is processed as the
    targets of the corpus are. See `ChosenTeacher`.

    Attributes:
        names: paths in the settings.
        folders: folders of the checkpoints, or of the exported model.
        engine: "ctranslate2" or "torch".
        models: descriptions of the models.
        setting: YAML path of the teacher.
    """

    names: tuple[str, ...]
    folders: tuple[Path, ...]
    engine: str
    models: tuple[CheckpointModel, ...]
    setting: str

    @property
    def vocab_size(self) -> int:
        return self.models[0].vocab_size

    @property
    def direction(self) -> Direction:
        """Direction of the text."""
        return self.text.corpus.direction

    def inputs(self) -> dict[str, str]:
        return {f"teacher {name}": _sha256(folder) for name, folder in zip(self.names, self.folders, strict=True)}

    def check(self, sample: Sample | None) -> None:
        if sample is not None and self.models[0].is_nonautoregressive:
            raise UserError(f"{self.setting}: {self.names[0]} is non-autoregressive and draws no samples")

    def made_from(self, settings: Mapping[str, object], inputs: Mapping[str, str]) -> dict[str, object]:
        own = [*SEARCH_SETTINGS, *(["distill.compute_type"] if self.engine == "ctranslate2" else [])]
        if self.models[0].is_nonautoregressive:
            own += _NAT_SETTINGS
        made_from = plan_settings(settings, own)
        made_from["teacher"] = " ".join(inputs[f"teacher {name}"] for name in self.names)
        made_from["engine"] = self.engine
        made_from |= hashes_of_text(self._codec, self.folders[0])
        made_from["text processing"] = known_sha256(self.text.corpus.text_file)
        return made_from

    def open(
        self, folder: Path, sample: Sample | None, *, earlier: Sequence[Path] = (), verifying: bool = False
    ) -> Teacher:
        del earlier, verifying
        exported = partial(self._exported, folder / ENGINE_FOLDER) if self.engine == "ctranslate2" else None
        return open_checkpoints(self.settings, self.folders, self.models, exported=exported, sample=sample)

    @property
    def encode(self) -> FinishedTextEncoder:
        """Function that converts source lines of the corpus to ids of the models."""
        return FinishedTextEncoder(self._codec_of_direction, self._processor, self._prefix)

    @property
    def target_symbols(self) -> list[str]:
        """Symbols of the target vocabulary, in the order of their ids."""
        return list(self._codec.tgt_dictionary.symbols)

    def opens_text(self) -> Callable[[], Text]:
        return self.text.opens_lines(self.encode)

    def to_words(self) -> ToWords:
        return FinishedTextDecoder(self._codec_of_direction, self._processor)

    def _exported(self, folder: Path) -> Path:
        """Return the folder of the model in CTranslate2's format, after writing it if it is missing."""
        if is_model_folder(self.folders[0]):
            return self.folders[0]
        if not folder.exists():
            from kdmt.interop.ctranslate2_export import export_checkpoint  # loads torch

            export_checkpoint(self.folders[0], folder)
        return folder

    @property
    def _processor(self) -> TextProcessor:
        return self.text.corpus.text_processor()

    @cached_property
    def _codec(self) -> TextCodec:
        with naming(self.setting):
            return TextCodec.load(self.folders[0])

    @cached_property
    def _known(self) -> Direction | None:
        """The direction as the model writes it; None for a model with one direction."""
        text = self._codec.text
        found = require_direction(text, self.direction, f"{self.setting}: {self.names[0]}")
        return found if text.directions else None

    @cached_property
    def _codec_of_direction(self) -> TextCodec:
        return self._codec if self._known is None else self._codec.for_direction(self._known)

    @cached_property
    def _prefix(self) -> tuple[int, ...]:
        """Ids of the tokens before the source by which the model knows the direction."""
        if self._known is None:
            return ()
        with naming(self.setting):
            return self._codec.prefix_ids(self._known)

    def check_direction(self) -> None:
        """Check that the models have the direction, and that they have one vocabulary.

        Raises:
            UserError: if not; the message has the YAML path.
        """
        _ = self._prefix
        for name, folder in zip(self.names[1:], self.folders[1:], strict=True):
            with naming(f"{self.setting}: {name}"):
                check_vocabulary(folder, self.folders[0], self._codec.text.direction)
                if TextCodec.load(folder).text != self._codec.text:
                    raise UserError(f"its text processing is not that of {self.names[0]}")


def require_direction(text: TextProcessor, wanted: Direction, model: str) -> Direction:
    """Return a direction of a model as the model writes it.

    Args:
        text: text processing of the model.
        wanted: direction, perhaps with other codes of the languages.
        model: name of the model in the message.

    Raises:
        UserError: if the model does not have it.
    """
    found = next((each for each in text.all_directions if each.matches(wanted)), None)
    if found is None:
        known = ", ".join(map(str, text.all_directions))
        raise UserError(f"{model} translates {known}, not {wanted}")
    return found


def _sha256(folder: Path) -> str:
    return known_sha256(folder / MODEL_FILE) if is_model_folder(folder) else checkpoint_sha256(folder)


def choose_direction_checkpoint(settings: Distill, text: Inputs, *, setting: str) -> DirectionCheckpoint:
    """Return the models of kdmt that the settings name.

    Args:
        settings: settings in which the models are the only teachers.
        text: text of one direction (`kdmt.distill.direction_teachers.DirectionInputs`).
        setting: YAML path of the teacher.

    Raises:
        UserError: if there is no such model, it does not have the direction, or the engine cannot run it.
    """
    names = tuple(settings.checkpoints)
    folders = tuple(_folder(name, setting) for name in names)
    with naming(setting):
        models = tuple(map(CheckpointModel.read, folders))
    engine = _engine(settings, names, folders, models, setting)
    found = DirectionCheckpoint(settings, text, names, folders, engine, models, setting)
    found.check_direction()
    return found


def _folder(name: str, setting: str) -> Path:
    path = Path(name)
    if not is_model_folder(path):
        with naming(setting):
            return resolve_checkpoint(path)
    if not (path / DESCRIPTION_FILE).is_file():
        raise UserError(
            f"{setting}: {name} is not a model that kdmt exported: a model that reads text is {{ctranslate2: {name}}}"
        )
    return path


def _engine(
    settings: Distill,
    names: Sequence[str],
    folders: Sequence[Path],
    models: Sequence[CheckpointModel],
    setting: str,
) -> str:
    """Return the engine that runs the models: the one that is set, by default CTranslate2 if it can run them."""
    exported = [name for name, folder in zip(names, folders, strict=True) if is_model_folder(folder)]
    alone = [name for name, model in zip(names, models, strict=True) if model.is_nonautoregressive]
    if len(names) > 1 and (exported or alone):
        why = "is a model for CTranslate2" if exported else "is non-autoregressive"
        raise UserError(f"{setting}: {(exported or alone)[0]} {why} and translates alone")
    if exported and settings.engine == "torch":
        raise UserError(f"{setting}: {exported[0]} is a model for CTranslate2, and 'distill.engine' is torch")
    why_not = models[0].why_not_ctranslate2
    if not exported and (len(names) > 1 or why_not is not None):
        if settings.engine.startswith("ctranslate2"):  # several models are refused when the settings are read
            raise UserError(f"{setting}: 'distill.engine' is CTranslate2, which cannot run {names[0]}, which {why_not}")
        if settings.compute_type not in ("auto", "float32"):
            raise UserError(f"{setting}: 'distill.compute_type' is for CTranslate2, which does not have {names[0]}")
        return "torch"
    return "torch" if settings.engine == "torch" else "ctranslate2"
