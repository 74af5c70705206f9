"""The text and the data-bin of a training set: targets are chosen, filtered and binarised, and counts are reported."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from kdmt.config import Distill
from kdmt.corpus.binarize import TextPair, binarize_files, dictionary_path
from kdmt.corpus.dropped import warning_lines
from kdmt.corpus.prepared import PreparedCorpus
from kdmt.corpus.process_pool import helper_process
from kdmt.distill.candidates import read_scores
from kdmt.distill.comparison import Comparison, ComparisonFacts
from kdmt.distill.direction_counts import PIVOTS, count_directions, describe_directions
from kdmt.distill.failures import FAILURES
from kdmt.distill.inputs import Inputs
from kdmt.distill.merge import MergeReport, Outputs, merge_candidates
from kdmt.distill.quality import PAGE, QualityFilter, explain
from kdmt.distill.quality import SCORES as QUALITY_SCORES
from kdmt.distill.reverse import SCORES, drop_improbable, reverse_models
from kdmt.distill.selection import Selector
from kdmt.errors import UserError
from kdmt.files import PARTIAL, naming
from kdmt.runtime import cores
from kdmt.training_sets import WEIGHTS
from kdmt.workers.open import num_helpers

_WORTH_A_PROCESS = 5000  # lines to compare: half a second
NBEST, OFFSETS, SENTENCES, REJECTED = "nbest", "nbest.npy", "sentences.npy", "rejected"
CHOICES = "choices.tsv"
CANDIDATES = (NBEST, OFFSETS, SENTENCES)
_FILTERS = (SCORES, QUALITY_SCORES, PAGE)  # files of the filters of pairs, if they are used


@dataclass(frozen=True)
class Targets:
    """The origin of the targets of a training set.

    Attributes:
        candidates: folder with `nbest`, its offsets and the sentence index of each line.
        select: rule that chooses among the candidates.
        scores: files with a score for each line of `nbest`, for a selector that uses them.
    """

    candidates: Path
    select: Selector
    scores: tuple[Path, ...] = ()


@dataclass(frozen=True)
class TrainingTextWriter:
    """Writer of the text and the data-bin of one training set.

    Attributes:
        folder: folder of its stage.
        inputs: text that is distilled.
        settings: section `distill`.
        tokenize: name of sacreBLEU's tokenizer for words of the target language.
        remove_bpe: type of subwords in the text, which are joined for BLEU; None if it has none.
        say: function that prints a line for the user.
        quality: filter by an external scorer; None for none.
    """

    folder: Path
    inputs: Inputs
    settings: Distill
    tokenize: str
    remove_bpe: str | None
    say: Callable[[str], None]
    quality: QualityFilter | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the text files, of which tags and the record of choices may be missing."""
        src, tgt = self.inputs.corpus.direction.sides
        return f"distilled.{src}", f"distilled.{tgt}", "distilled.tags", REJECTED, CHOICES

    def write(self, targets: Targets) -> dict[str, object]:
        """Write text, data-bin and, if targets are weighted, weights; return the facts for the manifest."""
        sweep(self.folder)
        weighs = targets.select.weighs
        num_compared = 0 if weighs else self.inputs.num_references()
        with _another_process(num_compared) as helper:
            report = self._write_text(targets)
            comparison = self._compare(report, helper) if num_compared else None
            self._binarize()
            if weighs:
                with naming(self.folder / WEIGHTS):
                    np.save(self.folder / WEIGHTS, np.frombuffer(report.weights, dtype="<f4"))
            compared = None if comparison is None else comparison.facts()
        self.say(f"{self.folder.name}: {_summary(report, compared)}")
        of_directions = self._directions(report)
        if report.quality is not None:
            self.say(f"{self.folder.name}: {explain(report.quality)}")
        for line in _warning(report):
            self.say(f"{self.folder.name}: {line}")
        return _counts(report) | of_directions | ({} if compared is None else compared.as_dict())

    def _directions(self, report: MergeReport) -> dict[str, object]:
        """Return the number of lines of each direction for the manifest, and report it, if directions have teachers."""
        if not self.settings.by_direction:
            return {}
        counts = count_directions(self.folder / self.names[2], report.of_teacher)
        for line in describe_directions(counts):
            self.say(f"{self.folder.name}: {line}")
        return {"directions": counts}

    def merge(self, targets: Targets, out: Path) -> MergeReport:
        """Write the text of a training set to the folder `out`."""
        candidates, files = targets.candidates, Outputs(*(out / name for name in self.names))
        nbest, offsets = candidates / NBEST, candidates / OFFSETS
        given = read_scores(targets.scores, nbest, offsets, out) if targets.scores else None
        numbers_L = np.load(candidates / SENTENCES, mmap_mode="r")
        report = merge_candidates(
            self.inputs.texts(),
            numbers_L,
            nbest=nbest,
            offsets=offsets,
            settings=self.settings.failures,
            select=targets.select,
            typical_ratio=self.inputs.typical_ratios(),
            given=given,
            out=files,
            workers=num_helpers(len(numbers_L), compared=targets.select.depth > 1),
        )
        models = reverse_models(self.settings.reverse, self.inputs)
        drop_improbable(self.settings, self.folder, files, report, models)
        if self.quality is not None:
            self.quality.drop(self.inputs, files, report)
        return report

    def outputs(self) -> list[Path]:
        """Return the files of a training set that a manifest lists."""
        names = (*CANDIDATES, REJECTED, CHOICES, PIVOTS, WEIGHTS, *_FILTERS)
        return [
            *self.folder.glob("distilled.*"),
            *(self.folder / name for name in names if (self.folder / name).exists()),
            *(self.folder / "data-bin").iterdir(),
        ]

    def _write_text(self, targets: Targets) -> MergeReport:
        with TemporaryDirectory(dir=self.folder, prefix=PARTIAL) as scratch:
            report = self.merge(targets, Path(scratch))
            for name in (*self.names, *_FILTERS):
                if (Path(scratch) / name).exists():
                    (Path(scratch) / name).replace(self.folder / name)
                else:
                    (self.folder / name).unlink(missing_ok=True)  # from an earlier run
        self._require_words(report)
        return report

    def _require_words(self, report: MergeReport) -> None:
        kept_empty = report.failures["empty"] if self.settings.failures.empty == "keep" else 0
        if report.num_lines <= kept_empty:  # fewer if a filter dropped some of them
            failures = ", ".join(f"{name} {count:,}" for name, count in report.failures.items())
            raise UserError(
                f"{self.folder.name}: none of {report.num_sentences:,} sentences has a translation to train on; "
                f"failures: {failures}"
            )

    def _compare(self, report: MergeReport, helper: Executor | None) -> Comparison | None:
        src, tgt = (self.folder / name for name in self.names[:2])
        return Comparison.begin(
            report,
            sources=src,
            distilled=tgt,
            inputs=self.inputs,
            tokenize=self.tokenize,
            remove_bpe=self.remove_bpe,
            helper=helper,
        )

    def _binarize(self) -> None:
        """Binarise the text with the tokenizer and the dictionaries of the prepared corpus."""
        src, tgt, tags = (self.folder / name for name in self.names[:3])
        prefixes = self.inputs.corpus.text_processor().prefixes
        text = TextPair(src, tgt, tags if tags.exists() else None, prefixes)
        binarize_text(self.folder, text, self.inputs.corpus)


def binarize_text(folder: Path, text: TextPair, corpus: PreparedCorpus) -> None:
    """Binarise training text into `folder/data-bin` with the tokenizers and the dictionaries of a prepared corpus."""
    data_bin, codec = folder / "data-bin", corpus.codec()
    binarize_files(
        data_bin,
        "train",
        text,
        direction=corpus.direction,
        tokenizers=codec.tokenizers,
        dictionaries=(codec.src_dictionary, codec.tgt_dictionary),
    )
    for lang in corpus.direction.sides:
        shutil.copy2(dictionary_path(corpus.data_bin, lang), data_bin)


def sweep(*folders: Path) -> None:
    """Remove the temporary files of killed runs from folders that no other process uses."""
    for folder in folders:
        for path in folder.glob(f"{PARTIAL}*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _another_process(lines: int) -> AbstractContextManager[Executor | None]:
    """Return a second process for the comparison; None if there is one core or the work is shorter than its start."""
    return nullcontext() if lines < _WORTH_A_PROCESS or cores() == 1 else helper_process("kdmt.score.diagnostics")


def _warning(report: MergeReport) -> Iterator[str]:
    """Return the lines of a warning if many sentences have no translation by the teacher, with the counts per failure.

    Pairs that the reverse model drops are not counted, since their share is a setting.
    """
    lost: dict[str, int] = {failure: report.replaced[failure] + report.dropped[failure] for failure in FAILURES}
    what = "sentences replaced by references or dropped"
    return warning_lines("translations", what, report.num_sentences, lost, report.examples)


def _counts(report: MergeReport) -> dict[str, object]:
    return {
        "num_sentences": report.num_sentences,
        "num_lines": report.num_lines,
        "failures": dict(report.failures),
        "replaced_by_reference": dict(report.replaced),
        "dropped": dict(report.dropped),
        **({} if report.quality is None else {"quality": report.quality}),
    }


def _summary(report: MergeReport, compared: ComparisonFacts | None) -> str:
    failures = ", ".join(f"{name} {count:,}" for name, count in report.failures.items()) or "none"
    text = f"{report.num_lines:,} lines for {report.num_sentences:,} sentences; failures: {failures}"
    return text if compared is None else f"{text}; {compared.explain()}"
