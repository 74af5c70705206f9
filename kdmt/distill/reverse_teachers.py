"""Models of the opposite direction that translate text in the target language, for back-translation.

`REVERSE_TEACHERS` is the table of kinds. Each has its own vocabulary and reads finished text.
Its finished output is processed as the source side of the corpus is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from kdmt.checksum import known_sha256
from kdmt.config import Distill, ForeignTeacher, LocalTranslator, Sample
from kdmt.corpus.codec import TextCodec
from kdmt.distill.candidates import ToWords
from kdmt.distill.chosen_teacher import ENGINE_FOLDER, SEARCH_SETTINGS, ChosenTeacher, plan_settings
from kdmt.distill.decoding import Teacher
from kdmt.distill.finished_text import FinishedTextDecoder, FinishedTextEncoder, hashes_of_text
from kdmt.distill.inputs import Inputs
from kdmt.distill.local_text_teachers import LocalTextModel
from kdmt.distill.sources import Text
from kdmt.distill.teachers import CheckpointModel, open_checkpoints
from kdmt.distill.token_teachers import TokenTeacherModel
from kdmt.errors import UserError, naming
from kdmt.interop.ctranslate2_folder import MODEL_FILE, is_model_folder
from kdmt.models.checkpoint_folder import checkpoint_sha256, resolve_checkpoint
from kdmt.models.description import FILE as DESCRIPTION_FILE

SETTING = "back_translation.checkpoint"
ENGINE = "back_translation.engine"
_COMPUTE_TYPE = "back_translation.compute_type"


def choose_reverse_teacher(settings: Distill, text: Inputs) -> ChosenTeacher:
    """Return the model that the settings select.

    Args:
        settings: settings in which the model is the only teacher (`BackTranslation.as_distill`).
        text: text in the target language.

    Raises:
        UserError: if there is no such model, or the engine cannot run it; the message has the YAML path.
    """
    return REVERSE_TEACHERS[type(settings.shared[0])](settings, text)


@dataclass(frozen=True)
class ReverseCheckpoint(TokenTeacherModel):
    """A checkpoint of kdmt, or a model that was exported from one for CTranslate2. See `ChosenTeacher`.

    Attributes:
        name: path in the settings.
        folder: folder of the checkpoint or of the exported model.
        is_exported: whether it is an exported model.
        engine: "ctranslate2" or "torch".
        model: description of the model.
    """

    name: str
    folder: Path
    is_exported: bool
    engine: str
    model: CheckpointModel

    @property
    def vocab_size(self) -> int:
        return self.model.vocab_size

    def inputs(self) -> dict[str, str]:
        sha256 = known_sha256(self.folder / MODEL_FILE) if self.is_exported else checkpoint_sha256(self.folder)
        return {f"teacher {self.name}": sha256}

    def check(self, sample: Sample | None) -> None:
        self._codec.text.check_direction(self.text.corpus.direction, f"{SETTING}: {self.name}")
        if self.model.is_nonautoregressive and sample is not None:
            raise UserError(f"back_translation.sample: {self.name} is non-autoregressive and draws no samples")

    def made_from(self, settings: Mapping[str, object], inputs: Mapping[str, str]) -> dict[str, object]:
        own = [*SEARCH_SETTINGS, *(["distill.compute_type"] if self.engine == "ctranslate2" else [])]
        made_from = plan_settings(settings, own)
        made_from["teacher"] = inputs[f"teacher {self.name}"]
        made_from["engine"] = self.engine
        made_from |= hashes_of_text(self._codec, self.folder)
        made_from["text processing"] = known_sha256(self.text.corpus.text_file)
        return made_from

    def open(
        self, folder: Path, sample: Sample | None, *, earlier: Sequence[Path] = (), verifying: bool = False
    ) -> Teacher:
        del earlier, verifying
        exported = partial(self._exported, folder / ENGINE_FOLDER) if self.engine == "ctranslate2" else None
        return open_checkpoints(self.settings, (self.folder,), (self.model,), exported=exported, sample=sample)

    def opens_text(self) -> Callable[[], Text]:
        return self.text.opens_lines(FinishedTextEncoder(self._codec, self.text.corpus.text_processor()))

    def to_words(self) -> ToWords:
        return FinishedTextDecoder(self._codec, self.text.corpus.text_processor())

    def _exported(self, folder: Path) -> Path:
        """Return the folder of the model in CTranslate2's format, after writing it if it is missing."""
        if self.is_exported:
            return self.folder
        if not folder.exists():
            from kdmt.interop.ctranslate2_export import export_checkpoint  # loads torch

            export_checkpoint(self.folder, folder)
        return folder

    @cached_property
    def _codec(self) -> TextCodec:
        with naming(SETTING):
            return TextCodec.load(self.folder)


def choose_reverse_checkpoint(settings: Distill, text: Inputs) -> ReverseCheckpoint:
    """Return the model of kdmt that the settings name. See `choose_reverse_teacher`."""
    (name,) = settings.checkpoints
    is_exported = is_model_folder(Path(name))
    if is_exported and not (Path(name) / DESCRIPTION_FILE).is_file():
        raise UserError(
            f"{SETTING}: {name} is not a model that kdmt exported: a model that reads text is {{ctranslate2: {name}}}"
        )
    with naming(SETTING):
        folder = Path(name) if is_exported else resolve_checkpoint(Path(name))
        model = CheckpointModel.read(folder)
    engine = _engine(settings, name, model, is_exported=is_exported)
    return ReverseCheckpoint(settings, text, name, folder, is_exported, engine, model)


def _engine(settings: Distill, name: str, model: CheckpointModel, *, is_exported: bool) -> str:
    """Return the engine that runs a model: the one that is set, by default CTranslate2 if it can run it."""
    supported = is_exported or model.why_not_ctranslate2 is None
    if settings.engine == "torch" and is_exported:
        raise UserError(f"{ENGINE}: {name} is a model for CTranslate2, and the engine is torch")
    if settings.engine == "ctranslate2" and not supported:
        raise UserError(f"{ENGINE}: CTranslate2 cannot run {name}, which {model.why_not_ctranslate2}")
    if not supported and settings.compute_type not in ("auto", "float32"):
        raise UserError(f"{_COMPUTE_TYPE}: it is CTranslate2's, which does not have {name}")
    return "ctranslate2" if supported and settings.engine != "torch" else "torch"


def choose_reverse_huggingface(settings: Distill, text: Inputs) -> ChosenTeacher:
    """Return the model of Hugging Face that the settings name. See `choose_reverse_teacher`."""
    from kdmt.distill.huggingface_teacher import HuggingFaceTeacher  # loads torch

    with naming(SETTING):
        return HuggingFaceTeacher.choose(settings, text, setting=f"{SETTING}.")


def choose_reverse_translator(settings: Distill, text: Inputs) -> ChosenTeacher:
    """Return the model in CTranslate2's format that reads text. See `choose_reverse_teacher`."""
    return LocalTextModel.choose(settings, text, setting=f"{SETTING}.")


# type of `back_translation.checkpoint` -> (settings, text in the target language) -> model
REVERSE_TEACHERS: dict[type, Callable[[Distill, Inputs], ChosenTeacher]] = {
    str: choose_reverse_checkpoint,
    ForeignTeacher: choose_reverse_huggingface,
    LocalTranslator: choose_reverse_translator,
}
