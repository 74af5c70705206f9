"""The work of the stages that make training sets. `kdmt.stages.distill` plans them.

Each class is the work of one kind of training set: `make` writes it, `verify` checks it.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kdmt.checksum import file_sha256
from kdmt.config import Distill, DistillAugment, LocalTranslator, Pool, Sample, Text
from kdmt.distill.answer_log import sealed_path
from kdmt.distill.backward import BackwardScores
from kdmt.distill.block_size import block_size_of, choose_block_size
from kdmt.distill.blocks import BLOCKS, fits
from kdmt.distill.candidate_scores import CandidateScores
from kdmt.distill.candidates import FindFailures, Written, read_scores, write_candidates
from kdmt.distill.chosen_teacher import SEARCH, ChosenTeacher
from kdmt.distill.decoding import BlockDecoder, BlockTask, missing_tasks, plan_tasks
from kdmt.distill.direction_teachers import DirectionsTeacher, DirectionTeachers
from kdmt.distill.endpoint_teacher import EndpointModel
from kdmt.distill.imported import IMPORTING, write_imported
from kdmt.distill.local_text_teachers import COUNTS_TOKENS
from kdmt.distill.noised import NOISED, files_of, is_whole, write_noised_text
from kdmt.distill.pool_systems import SystemCandidates
from kdmt.distill.reverse import check_opposite, reverse_models
from kdmt.distill.selection import BEST
from kdmt.distill.sources import Sources, find_sources
from kdmt.distill.target_choices import CHOICES
from kdmt.distill.teacher_engines import CTranslate2Teacher
from kdmt.distill.training_text import (
    CANDIDATES,
    NBEST,
    OFFSETS,
    SENTENCES,
    Targets,
    TrainingTextWriter,
    sweep,
)
from kdmt.distill.verification import SCRATCH, choose_blocks, decode_again, verify_text
from kdmt.errors import UserError
from kdmt.files import PARTIAL, atomic_file, naming, read_optional_json
from kdmt.flow.folders import earlier_states, real_folder
from kdmt.flow.manifest import Plan, begin, check_status, finish, recorded_outputs
from kdmt.flow.stage import setting_up
from kdmt.workers.open import LOGS, decodes_on_gpus, num_helpers, open_executor
from kdmt.workers.progress import block_progress
from kdmt.workers.tasks import Failed

_FAILURES_SHOWN = 3


class TextWork(Protocol):
    """The work of a stage that makes a training set."""

    def make(self, plan: Plan) -> None:
        """Write the training set and the manifest."""
        ...

    def verify(self, plan: Plan, blocks: int, seed: int | None) -> None:
        """Check the training set, and decode some blocks again if it has blocks.

        Args:
            blocks: number of blocks to decode again.
            seed: seed for choosing the blocks; None for a random one.

        Raises:
            UserError: if a file or block differs; the message names it.
        """
        ...


@dataclass(frozen=True)
class Job:
    """The values and operations that the work on all training sets shares.

    Attributes:
        writer: writer of the text and the data-bin of the training set to its folder.
        text: settings of text processing.
        config: all settings of the pipeline, for the folder's `config.json`.
        noise_notes: messages about the changes of the text that is translated.
    """

    writer: TrainingTextWriter
    text: Text
    config: Mapping[str, object]
    noise_notes: Sequence[str] = ()

    @property
    def folder(self) -> Path:
        return self.writer.folder

    @property
    def settings(self) -> Distill:
        return self.writer.settings

    def say(self, text: str) -> None:
        """Print a line for the user that begins with the name of the stage."""
        self.writer.say(f"{self.folder.name}: {text}")

    def check(self) -> None:
        """Check the settings before any folder is changed."""
        for model in reverse_models(self.settings.reverse, self.writer.inputs):
            model.check(self.text)

    def begin(self, plan: Plan) -> None:
        """Open the folder for work."""
        begin(self.folder, plan, self.config)

    def finish(self, plan: Plan, facts: Mapping[str, object], more: Sequence[Path] = ()) -> None:
        """Write the manifest, which marks the training set as complete.

        Args:
            more: outputs besides the files of every training set.
        """
        finish(self.folder, plan, outputs=[*self.writer.outputs(), *more], facts=facts)


# ------------------------------------------------------------------------------------------------------------ decoding


@dataclass(frozen=True)
class Decoding:
    """A training set that the teacher decodes; full runs, shards and verification share the steps.

    Attributes:
        teacher: teacher that translates.
        sample: settings for drawing translations; None to search for the best ones.
    """

    job: Job
    teacher: ChosenTeacher
    sample: Sample | None

    @property
    def folder(self) -> Path:
        return self.job.folder

    @property
    def blocks(self) -> Path:
        return self.folder / BLOCKS

    @property
    def once(self) -> bool:
        """Return whether a sentence that occurs on several lines is decoded once."""
        return self.sample is None

    @property
    def targets(self) -> Targets:
        """Targets that are the teacher's best hypotheses."""
        return Targets(self.folder, BEST)

    def make(self, plan: Plan) -> None:
        """Decode the missing blocks, and write the training set."""
        self.begin(plan)
        sweep(self.folder, self.blocks)
        sources = self.sources()
        tasks = self.decode(plan, sources)
        sweep(self.blocks)  # files of workers that were lost in the meantime
        self._merge(plan, sources, tasks)

    def begin(self, plan: Plan) -> None:
        """Open the folder for work, after a check of the teacher."""
        self.teacher.check(self.sample)
        self.job.check()
        chooses = self.job.settings.block_size is None and check_status(self.folder, plan).state in ("stale", "new")
        on_gpus = chooses and decodes_on_gpus(self.job.settings)
        self.job.begin(plan)
        if chooses:
            choose_block_size(self.folder, earlier_states(self.folder), self.made_from(plan), on_gpus=on_gpus)
        if self._noise is not None:
            for note in self.job.noise_notes:
                self.job.say(note)
            write_noised_text(self.job.writer.inputs, self._noise, self.job.say)
        self.blocks.mkdir(exist_ok=True)

    def make_shard(self, plan: Plan, shard: int, shards: int) -> None:
        """Decode every `shards`-th block, beginning with block `shard`."""
        tasks = self.decode(plan, self.sources(), slice(shard, None, shards))
        self.job.say(
            f"the {len(tasks):,} blocks of shard {shard} of {shards} are there; "
            "without --shard the same command puts the shards together"
        )

    def verify(self, plan: Plan, blocks: int, seed: int | None) -> None:
        """See `TextWork.verify`."""
        sources = self.sources()
        tasks = self.tasks(sources)
        with TemporaryDirectory(dir=self.folder, prefix=SCRATCH) as scratch:
            self.write_candidates(self.made_from(plan), tasks, sources, Path(scratch))  # reads and checks every block
            if file_sha256(Path(scratch) / NBEST) != file_sha256(self.folder / NBEST):
                raise UserError(f"{self.folder / NBEST}: does not follow from the blocks")
            self.job.say(f"{len(tasks):,} blocks are whole, and {NBEST} follows from them")
            seed = secrets.randbits(31) if seed is None else seed
            # it costs little to make all blocks again from stored answers
            again = choose_blocks(tasks, blocks, seed) if self._decodes else tasks
            executor = open_executor(self.job.settings, self.folder)
            decoder = self.decoder(plan, Path(scratch), verifying=True)
            decode_again(self.blocks, decoder, again, executor, self.job.writer.say)
        if not self._decodes:
            self.job.say(
                "made again from the stored answers, the same: all blocks; nothing is requested again, since the "
                "teacher need not give the same answers"
            )
        elif again:
            numbers = ", ".join(str(task.number) for task in again)
            self.job.say(f"decoded again, the same: blocks {numbers} (--verify-seed {seed})")
            if not self.teacher.is_reproducible:
                self.job.say("answers of endpoints are the stored ones: nothing is requested again")
        self.verify_targets()

    def verify_targets(self) -> None:
        """Check that the training set follows from its candidates."""
        verify_text(self.job.writer, self.targets, recorded_outputs(self.job.folder))

    def estimate(self, plan: Plan) -> None:
        """Print the requests that the training set still needs; nothing is requested or changed."""
        is_kept = check_status(self.folder, plan).state not in ("stale", "new")
        self.print_requests(earlier_states(self.folder), is_kept=is_kept)

    def print_requests(self, states: Sequence[Path], *, is_kept: bool) -> None:
        """Print the requests that are still needed.

        Args:
            states: earlier states of the folder.
            is_kept: whether the present state of the folder is kept.
        """
        assert isinstance(self.teacher, (EndpointModel, DirectionTeachers)), "see kdmt.stages.pipeline.run_estimate"
        self.teacher.check(self.sample)
        with TemporaryDirectory() as scratch:
            folder, teacher = self.folder, self.teacher
            if not is_kept:  # its answers would be those of an earlier state
                states, folder = [folder, *states], Path(scratch) / "new"
            inputs = self.job.writer.inputs
            if self._noise is not None and inputs.noised is not None and not (is_kept and is_whole(inputs.noised)):
                inputs = replace(inputs, noised=Path(scratch) / NOISED)
                write_noised_text(inputs, self._noise)
                teacher = teacher.reading(inputs)
            sources = find_sources(teacher.opens_text()(), once=True, workdir=Path(scratch))
            for line in teacher.estimate(folder, states, self.tasks(sources), Path(scratch)):
                self.job.say(line)

    def sources(self) -> Sources:
        """Find the distinct sentences and their lines."""
        open_text = self.teacher.opens_text()
        return find_sources(open_text(), once=self.once, workdir=self.folder)

    def tasks(self, sources: Sources) -> list[BlockTask]:
        """Return a task for each block."""
        return plan_tasks(sources, block_size_of(self.folder, self.job.settings.block_size))

    def decoder(
        self, plan: Plan, folder: Path, *, states: Sequence[Path] | None = None, verifying: bool = False
    ) -> BlockDecoder:
        """Return the opener of a worker that writes blocks to a folder.

        Args:
            states: earlier states of the stage's folder; by default those next to it.
        """
        earlier = earlier_states(self.folder) if states is None else states
        teacher = self.teacher.open(self.folder, self.sample, earlier=earlier, verifying=verifying)
        if isinstance(teacher, CTranslate2Teacher):
            teacher = replace(teacher, exact=SEARCH not in plan.settings)
        elif isinstance(teacher, DirectionsTeacher):
            teacher = teacher.searching(exact=SEARCH not in plan.settings)
        return BlockDecoder(
            teacher=teacher,
            settings=self.job.settings.decode,
            open_text=self.teacher.opens_text(),
            folder=folder,
            made_from=self.made_from(plan),
            is_pool=isinstance(self.sample, Pool),
        )

    def made_from(self, plan: Plan) -> dict[str, object]:
        """Return the values that blocks depend on besides their sources."""
        made_from = self.teacher.made_from(plan.settings, plan.inputs)
        if SEARCH in plan.settings:
            made_from[SEARCH] = plan.settings[SEARCH]
        return made_from if self._noise is None else made_from | {"augment": self._noise.model_dump()}

    @property
    def _decodes(self) -> bool:
        """Return whether any model translates on this machine."""
        return self.teacher.decodes if isinstance(self.teacher, DirectionTeachers) else self.teacher.is_reproducible

    @property
    def _answers(self) -> tuple[str, ...]:
        """Return the folders of answers, from which parts of blocks are made."""
        return self.teacher.answers if isinstance(self.teacher, DirectionTeachers) else ()

    @property
    def _noise(self) -> DistillAugment | None:
        """Changes of the text that is translated, None if it is that of the corpus."""
        return None if self.job.writer.inputs.noised is None else self.job.settings.augment

    def write_candidates(
        self, made_from: Mapping[str, object], tasks: Sequence[BlockTask], sources: Sources, out: Path
    ) -> Written:
        """Write the content of the blocks as text to the folder `out`."""
        with naming(self.folder / SENTENCES):
            np.save(out / SENTENCES, sources.numbers_L)
        return write_candidates(
            tasks,
            self.blocks,
            made_from=made_from,
            to_words=self.teacher.to_words(),
            vocab_size=self.teacher.vocab_size,
            find_failures=self.find_failures(),
            count_tokens=self.teacher.count_tokens(),
            settings=self.job.settings.failures,
            out=out / NBEST,
            out_offsets=out / OFFSETS,
            workers=num_helpers(len(sources)),
            systems=self.systems(sources, out),
        )

    def find_failures(self) -> FindFailures:
        """Return the function that finds the failures that ids show; it can be sent to another process."""
        return self.teacher.find_failures()

    def systems(self, sources: Sources, workdir: Path) -> list[SystemCandidates]:
        """Return the candidates of other systems, sorted by sentence in the folder `workdir`."""
        del sources, workdir
        return []

    def decode(
        self, plan: Plan, sources: Sources, own: slice = slice(None), *, states: Sequence[Path] | None = None
    ) -> list[BlockTask]:
        """Decode the missing blocks and return the tasks of all blocks.

        Args:
            own: blocks to consider.
            states: folders with blocks and answers of earlier states; by default those of the stage's folder.
        """
        tasks = self.tasks(sources)[own]
        with setting_up(self.folder):  # shards may begin at the same moment
            earlier = earlier_states(self.folder) if states is None else states
            decoder = self.decoder(plan, self.blocks, states=earlier)
            if self._decodes:  # others are made from the answers in earlier states
                _keep_blocks(self.folder, earlier, tasks, decoder.made_from, self._answers)
        missing = missing_tasks(tasks, self.blocks, decoder.made_from, say=self.job.writer.say)
        self.job.say(
            f"{len(sources):,} different sentences on {len(sources.numbers_L):,} lines; "
            f"{len(tasks) - len(missing):,} of {len(tasks):,} blocks are there"
        )
        done = sum(task.count for task in tasks) - sum(task.count for task in missing)
        with block_progress(self.folder.name, before=done) as progress:
            failed = open_executor(self.job.settings, self.folder).run(decoder, missing, progress)
        if failed:
            raise UserError(_describe(self.folder.name, failed))
        return tasks

    def put_candidates(self, plan: Plan, sources: Sources, tasks: Sequence[BlockTask]) -> Written:
        """Write the content of the blocks as text to the folder."""
        with TemporaryDirectory(dir=self.folder, prefix=PARTIAL) as scratch:
            written = self.write_candidates(self.made_from(plan), tasks, sources, Path(scratch))
            for name in CANDIDATES:
                (Path(scratch) / name).replace(self.folder / name)
        return written

    def _merge(self, plan: Plan, sources: Sources, tasks: list[BlockTask]) -> None:
        written = self.put_candidates(plan, sources, tasks)
        self.finish(plan, written, tasks)

    def finish(self, plan: Plan, written: Written, tasks: list[BlockTask]) -> None:
        """Write the training set and the manifest, once the candidates are there."""
        facts = self.job.writer.write(self.targets) | self.facts_of(written, tasks)
        self.job.finish(plan, facts, self.noised_files())

    def noised_files(self) -> list[Path]:
        """Return the files of the changed text, none if the text of the corpus is translated."""
        noised = self.job.writer.inputs.noised
        return [] if noised is None else files_of(noised)

    def facts_of(self, written: Written, tasks: list[BlockTask]) -> dict[str, object]:
        """Return the facts about the candidates for the manifest, and report them."""
        scores, lengths = _spread(written.scores_B), _spread(written.lengths_B)
        self.job.say(
            "of the teacher's best, mean and 5th and 95th percentile: "
            f"score {_in_words(scores)}, tokens {_in_words(lengths)}"
        )
        facts: dict[str, object] = {"scores": scores, "lengths": lengths, "blocks": _origins(written.made_with)}
        more = self.teacher.facts(self.folder, tasks)
        if isinstance(counts := more.get("answers"), dict) and counts:
            of_directions = counts if isinstance(self.teacher, DirectionTeachers) else {"": counts}
            for direction, own in of_directions.items():
                listed = ", ".join(f"{name} {count:,}" for name, count in own.items())
                self.job.say(f"answers{f' of {direction}' if direction else ''}: {listed}")
        return facts | more


def _keep_blocks(
    folder: Path,
    states: Sequence[Path],
    tasks: Sequence[BlockTask],
    made_from: Mapping[str, object],
    answers: Sequence[str],
) -> None:
    """Copy the blocks of earlier states that are still valid, for example after the corpus has grown.

    Args:
        answers: folders of the answers from which parts of the blocks were made, which are copied too.
    """
    for state in states:
        for task in tasks:
            there, here = task.block.path(state / BLOCKS), task.block.path(folder / BLOCKS)
            if there.exists() and not here.exists() and fits(there, task.block, made_from, task.hashes_N):
                for name in answers:
                    sealed = sealed_path(state / name, task.block)
                    if sealed.exists():
                        _copy(sealed, sealed_path(folder / name, task.block))
                _copy(there, here)


def _copy(there: Path, here: Path) -> None:
    with atomic_file(here) as aside:
        shutil.copy2(there, aside)


def _describe(name: str, failed: Sequence[Failed]) -> str:
    first = "; ".join(f"block {each.task.number}: {each.error}" for each in failed[:_FAILURES_SHOWN])
    more = f" and {len(failed) - _FAILURES_SHOWN:,} more" if len(failed) > _FAILURES_SHOWN else ""
    return (
        f"{name}: {len(failed):,} block{'s' if len(failed) > 1 else ''} failed three times, the others are there "
        f"({first}{more}); {LOGS}/ has the whole errors; run it again to try again"
    )


def _spread(values: NDArray[np.floating] | NDArray[np.integer]) -> dict[str, float]:
    """Return the mean and the 5th and 95th percentile; an empty mapping if there are no values."""
    if not len(values):
        return {}
    low, high = np.percentile(values, [5, 95]).tolist()
    return {"mean": float(values.mean(dtype=np.float64)), "p5": low, "p95": high}


def _in_words(spread: dict[str, float]) -> str:
    return f"{spread['mean']:.2f} ({spread['p5']:.2f} to {spread['p95']:.2f})" if spread else "none"


def _origins(made_with: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Return each combination of libraries, processor and threads, with its blocks as `[first, last]` ranges."""
    runs: dict[str, list[list[int]]] = {}
    origins: dict[str, Mapping[str, object]] = {}
    for number, made in enumerate(made_with):
        key = json.dumps(made, sort_keys=True)
        origins.setdefault(key, made)
        own = runs.setdefault(key, [])
        if own and own[-1][1] == number - 1:
            own[-1][1] = number
        else:
            own.append([number, number])
    return [{**made, "blocks": runs[key]} for key, made in origins.items()]


# ------------------------------------------------------------------------------------ other choices among the same text


@dataclass(frozen=True)
class Choosing:
    """A training set that is another choice among the hypotheses of `distilled`.

    Attributes:
        name: name of the training set in `CHOICES`.
        candidates: folder of `distilled`.
        scores: files of scores that the rule uses.
        backward: scores by a model of the opposite direction, if the rule uses them, after those of the files.
        tokenizer: function that returns sacreBLEU's tokenizer from the recorded plan, once the folder is open for work.
        scored: scores by external scorers that the rule uses, after all others.
    """

    job: Job
    name: str
    candidates: Path
    scores: tuple[Path, ...]
    tokenizer: Callable[[], str]
    backward: BackwardScores | None = None
    scored: tuple[CandidateScores, ...] = ()

    @property
    def targets(self) -> Targets:
        """Targets that the rule chooses."""
        return self.targets_with(self.job.settings)

    def targets_with(self, settings: Distill) -> Targets:
        """Return the targets that the rule chooses with the given settings."""
        rule = CHOICES[self.name].select(settings, self.bleu_tokenizer(), self.job.writer.inputs.corpus)
        computed = () if self.backward is None else (self.backward.file(),)
        return Targets(self.candidates, rule, (*self.scores, *computed, *(each.path for each in self.scored)))

    def make(self, plan: Plan) -> None:
        """Choose the targets, and write the training set."""
        self.job.check()
        self.check_scores()
        self.job.begin(plan)
        facts = self.write_scores()
        facts |= self.job.writer.write(self.targets)
        self.job.finish(plan, facts, [each.path for each in self.scored])

    def write_scores(self) -> dict[str, object]:
        """Compute the scores by external scorers, and return the facts for the manifest."""
        return {"scorers": {each.path.stem: each.write() for each in self.scored}} if self.scored else {}

    def verify(self, plan: Plan, blocks: int, seed: int | None) -> None:
        """See `TextWork.verify`; nothing is decoded."""
        del plan, blocks, seed
        verify_text(self.job.writer, self.targets, recorded_outputs(self.job.folder))

    def bleu_tokenizer(self) -> str:
        """Return the name of sacreBLEU's tokenizer, empty if the rule does not depend on it."""
        return self.tokenizer() if CHOICES[self.name].uses_bleu(self.job.settings) else ""

    def check_scores(self) -> None:
        """Check the candidates, their scores and the model that computes others, before any folder is changed."""
        settings = self.job.settings
        if isinstance(settings.of_text, LocalTranslator) and CHOICES[self.name].counts_tokens(settings):
            manifest = read_optional_json(self.candidates / "manifest.json") or {}
            if not manifest.get("facts", {}).get(COUNTS_TOKENS):
                raise UserError(
                    f"{self.candidates / NBEST}: made by a version that did not store the numbers of tokens, on which "
                    f"'data: {self.name}' depends: rename {self.candidates}, to make it again"
                )
        inputs = self.job.writer.inputs
        for direction in inputs.directions() if self.backward is not None else ():
            if str(direction) not in inputs.originals:  # others have no candidates
                check_opposite(str(settings.rerank.backward), "distill.rerank.backward", direction, self.job.text)
        if self.scores:
            with TemporaryDirectory() as scratch:
                read_scores(self.scores, self.candidates / NBEST, self.candidates / OFFSETS, Path(scratch))


# ------------------------------------------------------------------------------------------------ another system's text


@dataclass(frozen=True)
class Importing:
    """A training set of translations by another system.

    Attributes:
        path: file of the translations.
    """

    job: Job
    path: Path

    @property
    def targets(self) -> Targets:
        """Targets that are the only candidates of their lines."""
        return Targets(self.job.folder, BEST)

    def make(self, plan: Plan) -> None:
        """Read the translations, and write the training set."""
        self.job.check()
        folder, inputs = self.job.folder, self.job.writer.inputs
        with TemporaryDirectory(dir=real_folder(folder).parent, prefix=IMPORTING) as scratch:
            nbest, offsets, sentences = (Path(scratch) / name for name in CANDIDATES)
            write_imported(
                self.path,
                inputs.corpus.codec(),
                nbest,
                offsets,
                sentences,
                count=inputs.num_lines(),
                settings=self.job.settings.failures,
                sources=[text.source for text in inputs.texts()] if self.job.settings.imported_sources else None,
                tags=inputs.tags(),
            )
            self.job.begin(plan)  # only after the file has been checked
            for path in (nbest, offsets, sentences):
                path.replace(folder / path.name)
        self.job.finish(plan, self.job.writer.write(self.targets))

    def verify(self, plan: Plan, blocks: int, seed: int | None) -> None:
        """See `TextWork.verify`; nothing is decoded."""
        del plan, blocks, seed
        verify_text(self.job.writer, self.targets, recorded_outputs(self.job.folder))
