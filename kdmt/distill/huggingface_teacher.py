"""Models of Hugging Face as teachers: they have their own vocabulary and translate text instead of ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from kdmt.checksum import known_sha256
from kdmt.config import Distill, ForeignTeacher, Sample
from kdmt.corpus.text import TextProcessor
from kdmt.distill.candidates import ToWords
from kdmt.distill.chosen_teacher import ENGINE_FOLDER, SEARCH_SETTINGS, plan_settings
from kdmt.distill.decoding import Teacher
from kdmt.distill.inputs import Inputs
from kdmt.distill.sources import Text
from kdmt.distill.teacher_engines import CTranslate2Teacher, TorchTeacher
from kdmt.distill.token_teachers import TokenTeacherModel
from kdmt.interop.huggingface import (
    LIBRARIES,
    ForeignModel,
    ForeignTokenizer,
    check_languages,
    check_weights,
    export_to_ctranslate2,
    find_model,
    model_files,
    position_limits,
    read_kind,
)
from kdmt.models.transformer import Transformer

_SETTING = "distill.teachers.0."


@dataclass(frozen=True)
class HuggingFaceTeacher(TokenTeacherModel):
    """A model with its own vocabulary.

    It translates the text of the training set. Its output is processed like other text of the data. See
    `ChosenTeacher`.

    Attributes:
        foreign: entry of `distill.teachers`.
        folder: folder of the model.
        engine: "ctranslate2" or "torch".
        setting: prefix of the model's settings in messages.
    """

    foreign: ForeignTeacher
    folder: Path
    engine: str
    setting: str = _SETTING

    @classmethod
    def choose(cls, settings: Distill, inputs: Inputs, setting: str = _SETTING) -> HuggingFaceTeacher:
        """Return the model that the settings name. See `choose_teacher`."""
        assert settings.foreign is not None
        folder = find_model(settings.foreign.huggingface, settings.foreign.revision)
        read_kind(folder)  # raises an error if the folder is not such a model
        engine = "torch" if settings.engine == "torch" else "ctranslate2"
        return cls(settings, inputs, settings.foreign, folder, engine, setting)

    @property
    def name(self) -> str:
        """Name in messages and plans."""
        return self.foreign.huggingface

    @property
    def vocab_size(self) -> int:
        return len(self._tokenizer.vocabulary)

    def inputs(self) -> dict[str, str]:
        return {f"{self.name}/{file}": sha for file, sha in self._sha256_of_files().items()}

    def check(self, sample: Sample | None) -> None:
        del sample  # both engines can draw samples from this model
        tokenizer = self._tokenizer
        if not self.foreign.other_languages:
            codes = (tokenizer.source_code, tokenizer.target_code)
            check_languages(self.folder, tokenizer.kind, codes, self.text.corpus.direction, setting=self.setting)
        check_weights(tokenizer, ctranslate2=self.engine == "ctranslate2")

    def made_from(self, settings: Mapping[str, object], inputs: Mapping[str, str]) -> dict[str, object]:
        del inputs  # they contain the model's files under longer names
        compute_type = ["distill.compute_type"] if self.engine == "ctranslate2" else []
        made_from = plan_settings(settings, [*SEARCH_SETTINGS, *compute_type])
        made_from |= {f"teacher's {file}": sha for file, sha in self._sha256_of_files().items()}
        made_from["engine"] = self.engine
        made_from["languages"] = [self._tokenizer.source_code, self._tokenizer.target_code]
        made_from["text processing"] = known_sha256(self.text.corpus.text_file)
        return made_from

    def open(
        self, folder: Path, sample: Sample | None, *, earlier: Sequence[Path] = (), verifying: bool = False
    ) -> Teacher:
        del earlier, verifying
        settings, (max_source_tokens, max_target_tokens) = self.settings, position_limits(self._tokenizer)
        if self.engine == "torch":
            return TorchTeacher(
                (self.folder,),
                settings=settings.decode,
                max_source_tokens=max_source_tokens,
                max_target_tokens=max_target_tokens,
                vocab_size=self.vocab_size,
                sample=sample,
                load=partial(_load, self._tokenizer),
                libraries=("torch", *LIBRARIES),
            )
        exported = folder / ENGINE_FOLDER
        if not exported.exists():  # the folder belongs to one teacher
            export_to_ctranslate2(self._tokenizer, exported)
        return CTranslate2Teacher(
            exported,
            compute_type=settings.compute_type,
            settings=settings.decode,
            max_source_tokens=max_source_tokens,
            max_target_tokens=max_target_tokens,
            vocab_size=self.vocab_size,
            sample=sample,
            libraries=("ctranslate2", *LIBRARIES),
        )

    def opens_text(self) -> Callable[[], Text]:
        return self.text.opens_lines(_Encoder(self._tokenizer, self.text.corpus.text_processor()))

    def to_words(self) -> ToWords:
        return _Decoder(self._tokenizer, self.text.corpus.text_processor())

    def _sha256_of_files(self) -> dict[str, str]:
        return {path.name: known_sha256(path) for path in model_files(self.folder)}

    @cached_property
    def _tokenizer(self) -> ForeignTokenizer:
        return ForeignTokenizer(
            self.folder,
            read_kind(self.folder),
            self.foreign.source_code,
            self.foreign.target_code,
            setting=self.setting,
        )


@dataclass(frozen=True)
class _Encoder:
    """Function that converts words of the training text to ids of the model's vocabulary."""

    tokenizer: ForeignTokenizer
    text: TextProcessor

    def __call__(self, lines: Sequence[str]) -> list[NDArray[np.int64]]:
        return self.tokenizer.encode([self.text.postprocess_source(line) for line in lines])


@dataclass(frozen=True)
class _Decoder:
    """Function that converts ids of the model's vocabulary to words in the form of a corpus. See `ToWords`."""

    tokenizer: ForeignTokenizer
    text: TextProcessor

    def __call__(self, tokens: NDArray[np.integer], sizes: NDArray[np.int32]) -> list[str]:
        lines = self.tokenizer.decode(tokens, sizes)
        return [self.text.target_words(line) for line in lines]


def _load(tokenizer: ForeignTokenizer, _: Path) -> Transformer:
    return cast(Transformer, ForeignModel(tokenizer))  # it has the same interface
