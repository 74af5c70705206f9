"""Language models and text-to-text translation models in CTranslate2's format as teachers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from kdmt.checksum import known_sha256
from kdmt.config import Distill, LocalGenerator, LocalTranslator, Sample
from kdmt.distill.blocks import BLOCKS, read_columns
from kdmt.distill.chosen_teacher import plan_settings
from kdmt.distill.decoding import BlockTask, Teacher
from kdmt.distill.inputs import Inputs
from kdmt.distill.llm_prompt import Prompt, read_prompt
from kdmt.distill.local_text_models import GeneratingTeacher, TextTranslator, open_translator_tokenizer
from kdmt.distill.text_ids import have_counts
from kdmt.distill.text_teachers import SETTING, TextTeacherModel
from kdmt.errors import UserError
from kdmt.interop.indictrans2 import SOURCE_PIECES, TARGET_PIECES
from kdmt.interop.text_tokenizer import open_text_tokenizer
from kdmt.languages import same_language

COUNTS_TOKENS = "counts_tokens"  # fact of the manifest: whether blocks have numbers of tokens
_MODEL_FILE = "model.bin"


@dataclass(frozen=True)
class LocalTextModel(TextTeacherModel):
    """A model in CTranslate2's format that answers with text. See `ChosenTeacher`.

    Attributes:
        model: entry of `distill.teachers`.
        prompt: prompt of a language model without the source text; None for a model that translates.
        setting: prefix of the model's settings in messages.
    """

    settings: Distill
    model: LocalGenerator | LocalTranslator
    prompt: Prompt | None
    setting: str = SETTING
    is_reproducible: ClassVar[bool] = True

    @classmethod
    def choose(cls, settings: Distill, inputs: Inputs, setting: str = SETTING) -> LocalTextModel:
        """Return the model that the settings name. See `choose_teacher`."""
        (model,) = settings.shared
        assert isinstance(model, (LocalGenerator, LocalTranslator))
        prompt = None
        if isinstance(model, LocalGenerator):
            prompt = read_prompt(model, inputs.corpus.direction, setting)
        found = cls(inputs, settings, model, prompt, setting)
        if not (found.folder / _MODEL_FILE).is_file():
            raise UserError(
                f"{setting}{found.kind}: {found.folder} has no {_MODEL_FILE}: expected a folder that a converter of "
                "CTranslate2 wrote"
            )
        return found

    @property
    def kind(self) -> str:
        """Name of the setting that holds the folder."""
        return "ctranslate2_generator" if isinstance(self.model, LocalGenerator) else "ctranslate2"

    @property
    def folder(self) -> Path:
        """Folder of the model."""
        return Path(str(getattr(self.model, self.kind)))

    def inputs(self) -> dict[str, str]:
        files = {f"{self.folder}/{name}": sha for name, sha in self._sha256_of_files().items()}
        if isinstance(self.model, LocalGenerator):
            paths = (self.model.prompt, self.model.examples)
            files |= {path: known_sha256(Path(path)) for path in paths if path is not None}
        return files

    def check(self, sample: Sample | None) -> None:
        assert sample is None, "see kdmt.config.pipeline"
        if isinstance(self.model, LocalGenerator):
            open_text_tokenizer(self.folder, begin=True, end=False)
            return
        open_translator_tokenizer(self.model)
        direction = self.text.corpus.direction
        for side, code, wanted in zip(("source", "target"), self.model.codes or (), direction.sides, strict=False):
            if not same_language(code, wanted):
                raise UserError(
                    f"{self.setting}{side}_code: {code} is not the {side} language of the pipeline, {wanted}"
                )

    def made_from(self, settings: Mapping[str, object], inputs: Mapping[str, str]) -> dict[str, object]:
        del inputs  # they contain the model's files under longer names
        paths = {f"{SETTING}{name}" for name in (self.kind, "prompt", "examples")}
        wanted = [SETTING, "distill.compute_type", *(() if self.prompt is not None else ("distill.decode.",))]
        made_from = {key: value for key, value in plan_settings(settings, wanted).items() if key not in paths}
        made_from |= {f"teacher's {name}": sha for name, sha in self._sha256_of_files().items()}
        if self.prompt is not None:
            made_from["prompt"] = self.prompt.sha256
        return made_from | self.made_from_text()

    def open(
        self, folder: Path, sample: Sample | None, *, earlier: Sequence[Path] = (), verifying: bool = False
    ) -> Teacher:
        del folder, sample, earlier, verifying
        shared = (self.check_of_language, self.settings.compute_type)
        if isinstance(self.model, LocalTranslator):
            return TextTranslator(*shared, self.model, self.settings.decode)
        assert self.prompt is not None
        return GeneratingTeacher(*shared, self.model, self.prompt)

    def facts(self, folder: Path, tasks: Sequence[BlockTask]) -> dict[str, object]:
        """Return how often answers failed and were cleaned, and whether `nbest` has the model's numbers of tokens."""
        facts: dict[str, object] = {"answers": dict(self.count_marks(folder, tasks))}
        if isinstance(self.model, LocalTranslator):
            blocks = [read_columns(task.block.path(folder / BLOCKS)) for task in tasks]
            facts[COUNTS_TOKENS] = all(have_counts(block.tokens_T, block.sizes_H) for block in blocks)
        return facts

    def _sha256_of_files(self) -> dict[str, str]:
        paths = [path for path in self.folder.iterdir() if path.is_file() and not path.name.startswith(".")]
        if isinstance(self.model, LocalTranslator) and self.model.codes is not None:
            paths += [path for name in (SOURCE_PIECES, TARGET_PIECES) if (path := self.folder / name).is_file()]
        return {str(path.relative_to(self.folder)): known_sha256(path) for path in sorted(paths)}
