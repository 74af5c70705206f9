"""Language models and text-to-text translation models in CTranslate2's format as teachers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from kdmt.checksum import known_sha256
from kdmt.config import Distill, LocalGenerator, LocalTranslator, Sample
from kdmt.distill.blocks import BLOCKS, DamagedBlock, read_columns
from kdmt.distill.candidates import FindFailures, ToWords
from kdmt.distill.chosen_teacher import plan_settings
from kdmt.distill.decoding import BlockTask, Teacher
from kdmt.distill.inputs import Inputs
from kdmt.distill.llm_answers import LanguageCheck
from kdmt.distill.llm_prompt import Prompt, read_prompt
from kdmt.distill.local_text_models import GeneratingTeacher, TextTranslator
from kdmt.distill.sources import SourceLines, Text
from kdmt.distill.text_ids import VOCAB_SIZE, count_marks, find_answer_failures
from kdmt.distill.text_processing import TextDecoder, TextEncoder
from kdmt.errors import UserError
from kdmt.interop.text_tokenizer import open_text_tokenizer

_SETTING = "distill.teachers.0."
_MODEL_FILE = "model.bin"


@dataclass(frozen=True)
class LocalTextModel:
    """A model in CTranslate2's format that answers with text. See `ChosenTeacher`.

    Attributes:
        model: entry of `distill.teachers`.
        prompt: prompt of a language model without the source text; None for a model that translates.
        setting: prefix of the model's settings in messages.
    """

    settings: Distill
    model: LocalGenerator | LocalTranslator
    text: Inputs
    prompt: Prompt | None
    setting: str = _SETTING
    is_reproducible: ClassVar[bool] = True
    vocab_size: ClassVar[int] = VOCAB_SIZE

    @classmethod
    def choose(cls, settings: Distill, inputs: Inputs, setting: str = _SETTING) -> LocalTextModel:
        """Return the model that the settings name. See `choose_teacher`."""
        (model,) = settings.teachers
        assert isinstance(model, (LocalGenerator, LocalTranslator))
        prompt = None
        if isinstance(model, LocalGenerator):
            prompt = read_prompt(model, inputs.corpus.direction, setting)
        found = cls(settings, model, inputs, prompt, setting)
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
        open_text_tokenizer(self.folder, begin=True, end=True)

    def made_from(self, settings: Mapping[str, object], inputs: Mapping[str, str]) -> dict[str, object]:
        del inputs  # they contain the model's files under longer names
        paths = {f"{_SETTING}{name}" for name in (self.kind, "prompt", "examples")}
        wanted = [_SETTING, "distill.compute_type", *(() if self.prompt is not None else ("distill.decode.",))]
        made_from = {key: value for key, value in plan_settings(settings, wanted).items() if key not in paths}
        made_from |= {f"teacher's {name}": sha for name, sha in self._sha256_of_files().items()}
        if self.prompt is not None:
            made_from["prompt"] = self.prompt.sha256
        made_from["text processing"] = known_sha256(self.text.corpus.text_file)
        made_from["language check"] = self._check_of_language.method
        return made_from

    def open(
        self, folder: Path, sample: Sample | None, *, earlier: Sequence[Path] = (), verifying: bool = False
    ) -> Teacher:
        del folder, sample, earlier, verifying
        if isinstance(self.model, LocalGenerator):
            assert self.prompt is not None
            return GeneratingTeacher(self.model, self.prompt, self._check_of_language, self.settings.compute_type)
        return TextTranslator(
            self.folder,
            self.model.source_prefix,
            self.settings.decode,
            self._check_of_language,
            self.settings.compute_type,
        )

    def opens_text(self) -> Callable[[], Text]:
        paths = tuple(text.source for text in self.text.texts())
        return partial(SourceLines, paths, TextEncoder(self.text.corpus.text_processor()))

    def to_words(self) -> ToWords:
        return TextDecoder(self.text.corpus.text_processor())

    def find_failures(self) -> FindFailures:
        return find_answer_failures

    def facts(self, folder: Path, tasks: Sequence[BlockTask]) -> dict[str, object]:
        """Return how often answers failed and were cleaned."""
        counts: Counter[str] = Counter()
        for task in tasks:
            with suppress(DamagedBlock):
                counts.update(count_marks(read_columns(task.block.path(folder / BLOCKS)).tokens_T))
        return {"answers": dict(counts)}

    @property
    def _check_of_language(self) -> LanguageCheck:
        return LanguageCheck(self.text.corpus.direction)

    def _sha256_of_files(self) -> dict[str, str]:
        paths = sorted(path for path in self.folder.iterdir() if path.is_file() and not path.name.startswith("."))
        return {path.name: known_sha256(path) for path in paths}
