"""The work of the stage of back-translation. `kdmt.stages.back_translation` plans it.

The model of the opposite direction translates blocks of lines, as a teacher does (`kdmt.stages.distill_work`). Its text
is in the target language, and its translations become the sources of the training set.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdmt.config import BackTranslation, Failures, Text
from kdmt.corpus.binarize import TextPair
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.prepared import PreparedCorpus
from kdmt.corpus.tokenizer import read_chunks
from kdmt.distill.block_size import RECORD, record_block_size
from kdmt.distill.candidates import FindFailures
from kdmt.distill.chosen_teacher import ChosenTeacher
from kdmt.distill.failures import CODES, Codes, Flags
from kdmt.distill.merge import MergeReport
from kdmt.distill.target_text import TargetText
from kdmt.distill.training_text import NBEST, Targets, TrainingTextWriter, binarize_text
from kdmt.errors import UserError
from kdmt.files import atomic_file, naming
from kdmt.flow.manifest import Plan, make_plan, recorded_outputs
from kdmt.stages.distill_work import Decoding, Job

_EARLIER_BLOCK = re.compile(r"[0-9]{6,}")  # names of blocks of the first version, which had a format of their own
_AS_TEACHER = "distill.teachers.0"


def back_translating(
    settings: BackTranslation,
    *,
    folder: Path,
    prepared: PreparedCorpus,
    text: TargetText,
    teacher: ChosenTeacher,
    config: Mapping[str, object],
    processing: Text,
    say: Callable[[str], None],
) -> BackTranslating:
    """Return the work on the training set.

    Args:
        folder: folder of the stage.
        prepared: prepared corpus.
        text: text in the target language.
        teacher: model of the opposite direction.
        config: all settings of the pipeline, for the folder's `config.json`.
        processing: settings of text processing.
        say: function that prints a line for the user.
    """
    writer = BackTranslationWriter(
        folder=folder,
        inputs=text,
        settings=settings.as_distill(),
        tokenize="",  # nothing is compared with references
        remove_bpe=None,
        say=say,
        prepared=prepared,
        tag=settings.tag,
    )
    return BackTranslating(Job(writer, processing, config), teacher, settings.sample, settings)


@dataclass(frozen=True, kw_only=True)
class BackTranslationWriter(TrainingTextWriter):
    """Writer of a training set whose targets are the text, and whose sources are the translations.

    Attributes:
        prepared: prepared corpus, whose vocabulary the training set has.
        tag: token before each source; None for none.
    """

    prepared: PreparedCorpus
    tag: str | None

    def merge(self, targets: Targets, out: Path) -> MergeReport:
        """See `TrainingTextWriter.merge`."""
        report = super().merge(targets, out)
        if self.tag is not None:
            path = out / self.names[2]
            with naming(path), path.open("w", encoding="utf-8") as file:
                file.writelines(f"{self.tag}\n" for _ in range(report.num_lines))
        return report

    def _binarize(self) -> None:
        """Binarise the text with the tokenizer and the dictionaries of the prepared corpus."""
        tgt, src, tags = (self.folder / name for name in self.names[:3])
        binarize_text(self.folder, TextPair(src, tgt, tags if tags.exists() else None), self.prepared)


@dataclass(frozen=True)
class FindDropped:
    """Function that finds the failures for which a translation is dropped; the others do not hide them.

    Attributes:
        find: function that finds the first failure of each translation.
    """

    find: FindFailures

    def __call__(
        self, tokens: NDArray[np.integer], sizes: NDArray[np.integer], at_limit: Flags, settings: Failures
    ) -> Codes:
        if settings.too_long == "keep":
            at_limit = np.zeros_like(at_limit)
        codes = self.find(tokens, sizes, at_limit, settings)
        kept = [code for name, code in CODES.items() if getattr(settings, name, None) == "keep"]
        return np.where(np.isin(codes, kept), 0, codes).astype(codes.dtype)


@dataclass(frozen=True)
class BackTranslating(Decoding):
    """A training set with sources by a model of the opposite direction.

    Attributes:
        settings: section `back_translation`.
    """

    settings: BackTranslation

    @property
    def text(self) -> TargetText:
        """Text that is translated."""
        assert isinstance(self.job.writer.inputs, TargetText)
        return self.job.writer.inputs

    def begin(self, plan: Plan) -> None:
        """See `Decoding.begin`."""
        assert isinstance(self.job.writer, BackTranslationWriter)
        codec = self.job.writer.prepared.codec()
        _check_tag(codec, self.settings.tag)
        super().begin(plan)
        self._remove_earlier_blocks()
        if not (self.folder / RECORD).exists():
            record_block_size(self.folder, self.settings.block_lines)
        if self.text.file is not None and not self.text.file.exists():
            _write_text([Path(path) for path in self.settings.text], self.text.file, codec)
        if not self.text.num_lines():  # the prepare stage refuses monolingual text of which nothing is left
            raise UserError(f"back_translation.text: no line to translate: {', '.join(self.settings.text)}")

    def verify(self, plan: Plan, blocks: int, seed: int | None) -> None:
        """See `TextWork.verify`."""
        if NBEST not in recorded_outputs(self.folder):
            raise UserError(
                f"{self.folder}: a version of kdmt without verification made it; it is up to date, but has no blocks "
                "that can be checked"
            )
        super().verify(plan, blocks, seed)

    def find_failures(self) -> FindFailures:
        """See `Decoding.find_failures`."""
        return FindDropped(self.teacher.find_failures())

    def made_from(self, plan: Plan) -> dict[str, object]:
        """See `Decoding.made_from`; unlike the plan, it has nothing on which only the text and the tags depend."""
        settings = make_plan({"distill": self.job.settings}, {}, {}).settings
        named = {_in_plan(key): key for key in settings}
        own = {key: plan.settings[name] for name, key in named.items() if name in plan.settings}
        own |= {key: value for key, value in settings.items() if key.startswith(_AS_TEACHER)}
        found = self.teacher.made_from(own, plan.inputs)
        return {_in_plan(key): value for key, value in found.items()}

    def _remove_earlier_blocks(self) -> None:
        earlier = [path for path in self.blocks.iterdir() if _EARLIER_BLOCK.fullmatch(path.name)]
        if earlier:
            self.job.say(
                f"{len(earlier):,} blocks are of a version of kdmt with another format, which is not read any more: "
                "they are removed, and their lines are translated again"
            )
        for path in earlier:
            path.unlink()


def _in_plan(key: str) -> str:
    """Return the path of a setting of a distill stage in the section `back_translation`."""
    if key.startswith(_AS_TEACHER):
        return f"back_translation.checkpoint{key.removeprefix(_AS_TEACHER)}"
    return f"back_translation.{key.removeprefix('distill.')}" if key.startswith("distill.") else key


def _check_tag(codec: TextCodec, tag: str | None) -> None:
    if tag is not None and tag not in codec.src_dictionary.symbols:
        raise UserError(
            f"back_translation.tag: the source vocabulary has no token {tag}: add it to "
            "'prepare.tokenizer.user_defined_symbols', or give the tag of a corpus"
        )


def _write_text(paths: list[Path], out: Path, codec: TextCodec) -> None:
    """Write the lines of text files in the form that the tokenizer reads."""
    with atomic_file(out) as aside, naming(out), aside.open("w", encoding="utf-8") as file:
        for path in paths:
            for chunk in read_chunks(path):
                file.writelines(f"{codec.text.preprocess_target(line).strip()}\n" for line in chunk)
