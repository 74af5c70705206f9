"""The distill stages: the teacher translates the training set; what it wrote becomes training sets.

distill/
    blocks/                         one checksummed file a block
    engine/, logs/                  the teacher as CTranslate2 reads it; a log a worker
    nbest, nbest.npy                every hypothesis as text (`kdmt.distill.candidates`)
    sentences.npy                   which of the different sentences stands on each line: int64
    distilled.<lang>                words; sources and targets of the training set
    distilled.tags                  where the training set has tags
    rejected                        index of a line, failure, what became of it
    reverse.npy                     cross entropy of each pair by the reverse model, where there is one: float32
    data-bin/                       the distilled corpus, binarised with the teacher's vocabulary

sampled/                            the same, of translations drawn from the teacher
imported/                           the same of another system's translations, without blocks
interpolated/, mbr/, scored/, nbest/    other choices from distill/nbest, without it and the blocks
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kdmt.config import Sample
from kdmt.distill.reverse import check_reverse, reverse_inputs
from kdmt.errors import UserError
from kdmt.files import PARTIAL, atomic_file, naming
from kdmt.flow.folders import earlier_states
from kdmt.flow.manifest import Plan, begin, file_input, finish, make_plan, recorded_outputs
from kdmt.flow.stage import Shards, Stage, setting_up
from kdmt.stages.measures import recorded_tokenizer, with_ratio, with_tokenizer
from kdmt.stages.targets import (
    CANDIDATES,
    NBEST,
    OFFSETS,
    SENTENCES,
    TrainingSet,
    choice_settings,
    outputs,
    sweep,
    write_training_set,
)
from kdmt.stages.teachers import ChosenTeacher, choose_teacher
from kdmt.stages.workspace import Workspace
from kdmt.workers.open import LOGS, helpers, open_executor

if TYPE_CHECKING:
    from kdmt.distill.candidates import Written
    from kdmt.distill.decoding import BlockDecoder, BlockTask
    from kdmt.distill.selection import Selector
    from kdmt.distill.sources import Sources
    from kdmt.workers.processes import Failed

BLOCKS = "blocks"
_FAILURES_SHOWN = 3
# settings below `distill` that are of no concern to the blocks' stage
_OF_CHOICES = ("interpolate", "scores", "imported")
_OF_SEARCH = ("decode.beam", "decode.nbest", "decode.lenpen", "nat.", "iterations")


def distill_stage(workspace: Workspace, *, prepare: Stage, teacher: Stage) -> Stage:
    """The teacher's best translations."""
    return _decoding_stage(workspace, workspace.distill, (prepare, teacher), ("sample.", *_OF_CHOICES), None)


def sampled_stage(workspace: Workspace, *, prepare: Stage, teacher: Stage) -> Stage:
    """A translation of each sentence drawn from the teacher's distribution."""
    foreign = (*_OF_SEARCH, *_OF_CHOICES)
    sample = workspace.config.distill.sample
    return _decoding_stage(workspace, workspace.sampled, (prepare, teacher), foreign, sample)


def _decoding_stage(
    workspace: Workspace, folder: Path, upstream: tuple[Stage, Stage], foreign: tuple[str, ...], sample: Sample | None
) -> Stage:
    """A stage that decodes the training set.

    Args:
        folder: where it writes; its name is the stage's.
        upstream: prepare and teacher; the pipeline's teacher is not asked for where the settings name others.
        foreign: beginnings of the settings below `distill` that are of no concern to it.
        sample: what is drawn from; None to search.
    """
    decoding = Decoding(workspace, folder, foreign, sample)
    prepare, _ = upstream
    return Stage(
        name=folder.name,
        command="kdmt distill",
        folder=folder,
        upstream=(prepare,) if workspace.config.distill.teachers else upstream,
        plan=decoding.plan,
        make=decoding.make,
        shards=Shards(decoding.begin, decoding.make_shard),
        verify=decoding.verify,
    )


@dataclass(frozen=True)
class Decoding:
    """The work of one decoding stage, in the steps that whole runs, shards and verification share."""

    workspace: Workspace
    folder: Path
    foreign: tuple[str, ...]
    sample: Sample | None

    @property
    def blocks(self) -> Path:
        return self.folder / BLOCKS

    def teacher(self) -> ChosenTeacher:
        """What translates."""
        return choose_teacher(self.workspace)

    def plan(self) -> Plan:
        workspace = self.workspace
        wanted: tuple[str, ...] = ("tokenizer/", "text.json", "dict.", "data-bin/train.", "train.")
        if workspace.config.distill.monolingual:
            wanted += ("data-bin/monolingual.", "monolingual.")
        outputs = recorded_outputs(workspace.prepare)
        inputs = {f"prepare/{name}": sha for name, sha in outputs.items() if name.startswith(wanted)}
        inputs |= self.teacher().inputs() | reverse_inputs(workspace.config.distill.reverse)
        made_from = make_plan({"distill": workspace.config.distill}, {}, inputs)
        left_out = tuple(f"distill.{name}" for name in self.foreign)
        own = {key: value for key, value in made_from.settings.items() if not key.startswith(left_out)}
        return with_ratio(workspace, replace(made_from, settings=own))

    def make(self, plan: Plan) -> None:
        """Decode what is missing, and write the training set."""
        self.begin(plan)
        sweep(self.folder, self.blocks)
        sources = self.sources()
        tasks = self._decode(plan, sources)
        sweep(self.blocks)  # of workers that were lost meanwhile
        self._merge(plan, sources, tasks)

    def begin(self, plan: Plan) -> None:
        """Open the folder for work; what is wrong with the teacher is said before anything is moved."""
        self.teacher().check(self.sample)
        check_reverse(
            self.workspace.config.distill.reverse, self.workspace.direction, self.workspace.config.prepare.text
        )
        begin(self.folder, plan, self.workspace.resolved_config())
        self.blocks.mkdir(exist_ok=True)

    def make_shard(self, plan: Plan, shard: int, shards: int) -> None:
        """Decode every `shards`-th block, from block `shard` on."""
        tasks = self._decode(plan, self.sources(), slice(shard, None, shards))
        self.workspace.say(
            f"{self.folder.name}: the {len(tasks):,} blocks of shard {shard} of {shards} are there; "
            "without --shard the same command puts the shards together"
        )

    def sources(self) -> Sources:
        """Which sentence stands on which line."""
        from kdmt.distill.sources import find_sources

        open_text = self.teacher().opens_text()
        return find_sources(open_text(), once=self.sample is None, workdir=self.folder)

    def tasks(self, sources: Sources) -> list[BlockTask]:
        """All blocks."""
        from kdmt.distill.decoding import plan_tasks

        return plan_tasks(sources, self.workspace.config.distill.block_size)

    def decoder(self, plan: Plan, folder: Path) -> BlockDecoder:
        """What becomes a worker that writes blocks into a folder."""
        from kdmt.distill.decoding import BlockDecoder

        chosen = self.teacher()
        return BlockDecoder(
            teacher=chosen.open(self.folder, self.sample),
            settings=self.workspace.config.distill.decode,
            open_text=chosen.opens_text(),
            folder=folder,
            made_from=self.made_from(plan),
        )

    def made_from(self, plan: Plan) -> dict[str, Any]:
        """What the blocks depend on besides their sources."""
        return self.teacher().made_from(plan)

    def _decode(self, plan: Plan, sources: Sources, own: slice = slice(None)) -> list[BlockTask]:
        from kdmt.distill.decoding import missing_tasks
        from kdmt.workers.progress import block_progress

        workspace, name = self.workspace, self.folder.name
        tasks = self.tasks(sources)[own]
        with setting_up(self.folder):  # shards may begin at the same moment
            decoder = self.decoder(plan, self.blocks)
            _keep_blocks(self.folder, tasks, decoder.made_from)
        missing = missing_tasks(tasks, self.blocks, decoder.made_from, tell=workspace.say)
        workspace.say(
            f"{name}: {len(sources):,} different sentences on {len(sources.numbers_L):,} lines; "
            f"{len(tasks) - len(missing):,} of {len(tasks):,} blocks are there"
        )
        with block_progress(
            name, before=sum(task.count for task in tasks) - sum(task.count for task in missing)
        ) as tell:
            failed = open_executor(workspace.config.distill, self.folder).run(decoder, missing, tell)
        if failed:
            raise UserError(_describe(name, failed))
        return tasks

    def _merge(self, plan: Plan, sources: Sources, tasks: list[BlockTask]) -> None:
        with TemporaryDirectory(dir=self.folder, prefix=PARTIAL) as scratch:
            written = self.write_candidates(self.made_from(plan), tasks, sources, Path(scratch))
            for name in CANDIDATES:
                (Path(scratch) / name).replace(self.folder / name)
        facts = write_training_set(self.workspace, self.folder, self.training_set())
        facts["scores"], facts["lengths"] = _spread(written.scores_B), _spread(written.lengths_B)
        facts["blocks"] = _origins(written.made_with)
        self.workspace.say(
            f"{self.folder.name}: of the teacher's best, mean and 5th and 95th percentile: "
            f"score {_in_words(facts['scores'])}, tokens {_in_words(facts['lengths'])}"
        )
        finish(self.folder, plan, outputs=outputs(self.folder), facts=facts)

    def write_candidates(
        self, made_from: dict[str, Any], tasks: Sequence[BlockTask], sources: Sources, out: Path
    ) -> Written:
        """What the blocks hold as text, into the folder `out`."""
        from kdmt.distill.candidates import write_candidates

        with naming(self.folder / SENTENCES):
            np.save(out / SENTENCES, sources.numbers_L)
        teacher = self.teacher()
        return write_candidates(
            tasks,
            self.blocks,
            made_from=made_from,
            to_words=teacher.to_words(),
            vocab_size=teacher.vocab_size,
            settings=self.workspace.config.distill.failures,
            out=out / NBEST,
            out_offsets=out / OFFSETS,
            workers=helpers(len(sources)),
        )

    def training_set(self) -> TrainingSet:
        """The best of what the teacher wrote."""
        from kdmt.distill.selection import BEST

        return TrainingSet(self.folder, BEST)

    def verify(self, blocks: int, seed: int | None) -> None:
        """See `kdmt.stages.verify`."""
        from kdmt.stages.verify import verify_decoding

        verify_decoding(self, blocks, seed)


def _keep_blocks(folder: Path, tasks: Sequence[BlockTask], made_from: dict[str, Any]) -> None:
    """Take over those blocks of an earlier state that are still right: the corpus may have grown."""
    from kdmt.distill.blocks import fits

    for state in earlier_states(folder):
        for task in tasks:
            there, here = task.block.path(state / BLOCKS), task.block.path(folder / BLOCKS)
            if there.exists() and not here.exists() and fits(there, task.block, made_from, task.hashes_N):
                with atomic_file(here) as aside:
                    shutil.copy2(there, aside)


def _describe(name: str, failed: Sequence[Failed]) -> str:
    first = "; ".join(f"block {each.task.number}: {each.error}" for each in failed[:_FAILURES_SHOWN])
    more = f" and {len(failed) - _FAILURES_SHOWN:,} more" if len(failed) > _FAILURES_SHOWN else ""
    return (
        f"{name}: {len(failed):,} block{'s' if len(failed) > 1 else ''} failed three times, the others are there "
        f"({first}{more}); {LOGS}/ has the whole errors; run it again to try again"
    )


def _spread(values: NDArray[Any]) -> dict[str, float]:
    """Mean and percentiles."""
    if not len(values):
        return {}
    low, high = np.percentile(values, [5, 95]).tolist()
    return {"mean": float(values.mean(dtype=np.float64)), "p5": low, "p95": high}


def _in_words(spread: dict[str, float]) -> str:
    return f"{spread['mean']:.2f} ({spread['p5']:.2f} to {spread['p95']:.2f})" if spread else "none"


def _origins(made_with: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Which blocks were made with which libraries, processor and threads: `[first, last]` runs of their numbers."""
    origins: dict[str, dict[str, Any]] = {}
    for number, made in enumerate(made_with):
        origin = origins.setdefault(json.dumps(made, sort_keys=True), {**made, "blocks": []})
        if origin["blocks"] and origin["blocks"][-1][1] == number - 1:
            origin["blocks"][-1][1] = number
        else:
            origin["blocks"].append([number, number])
    return list(origins.values())


# ---------------------------------------------------------------------------------------- other choices from the nbest


def interpolated_stage(workspace: Workspace, *, prepare: Stage, distill: Stage) -> Stage:
    """Of each sentence's n-best the hypothesis nearest to the reference (Kim & Rush 2016, sequence interpolation)."""
    settings = workspace.config.distill

    def rule() -> Selector:
        from kdmt.distill.selection import interpolated
        from kdmt.distill.similarity import bleu_nearness, chrf_nearness

        if settings.interpolate == "chrf":
            return interpolated(chrf_nearness)
        return interpolated(bleu_nearness(recorded_tokenizer(workspace, workspace.interpolated)))

    extra = {"distill.interpolate": settings.interpolate}
    by_bleu = settings.interpolate == "sentence_bleu"
    return _choosing_stage(Choosing(workspace, workspace.interpolated, rule, extra, by_bleu=by_bleu), prepare, distill)


def mbr_stage(workspace: Workspace, *, prepare: Stage, distill: Stage) -> Stage:
    """Of each sentence's n-best the hypothesis that is nearest to the others (minimum Bayes risk, with chrF)."""

    def rule() -> Selector:
        from kdmt.distill.mbr import by_expected_chrf

        return by_expected_chrf()

    return _choosing_stage(Choosing(workspace, workspace.mbr, rule), prepare, distill)


def scored_stage(workspace: Workspace, *, prepare: Stage, distill: Stage) -> Stage:
    """Of each sentence's n-best the hypothesis with the best score in a file."""

    def rule() -> Selector:
        from kdmt.distill.selection import HIGHEST_GIVEN

        return HIGHEST_GIVEN

    scores = Path(workspace.config.distill.scores or "")
    return _choosing_stage(Choosing(workspace, workspace.scored, rule, scores=scores), prepare, distill)


def nbest_stage(workspace: Workspace, *, prepare: Stage, distill: Stage) -> Stage:
    """All of each sentence's n-best, weighted by their probabilities; `weights.npy` has a float32 for each line."""

    def rule() -> Selector:
        from kdmt.distill.selection import weighted

        return weighted(workspace.config.distill.decode.lenpen)

    return _choosing_stage(Choosing(workspace, workspace.nbest, rule), prepare, distill)


@dataclass(frozen=True)
class Choosing:
    """The work of a stage that chooses otherwise among what `distill` has decoded.

    Attributes:
        folder: where it writes; its name is the stage's.
        rule: gives the rule of choice.
        extra: settings that the rule depends on.
        scores: a file that it goes by.
        by_bleu: whether it goes by BLEU, and so depends on a tokenizer for it.
    """

    workspace: Workspace
    folder: Path
    rule: Callable[[], Selector]
    extra: dict[str, Any] = field(default_factory=dict)
    scores: Path | None = None
    by_bleu: bool = False

    def plan(self) -> Plan:
        inputs = {f"distill/{name}": sha for name, sha in recorded_outputs(self.workspace.distill).items()}
        inputs |= reverse_inputs(self.workspace.config.distill.reverse)
        if self.scores is not None:
            inputs[str(self.scores)] = file_input(self.scores)
        plan = with_ratio(self.workspace, make_plan(choice_settings(self.workspace.config.distill), self.extra, inputs))
        if self.by_bleu:
            plan = with_tokenizer(self.workspace, plan, self.folder)
        return plan

    def make(self, plan: Plan) -> None:
        check_reverse(
            self.workspace.config.distill.reverse, self.workspace.direction, self.workspace.config.prepare.text
        )
        self._check_scores()
        begin(self.folder, plan, self.workspace.resolved_config())
        facts = write_training_set(self.workspace, self.folder, self.training_set())
        finish(self.folder, plan, outputs=outputs(self.folder), facts=facts)

    def training_set(self) -> TrainingSet:
        return TrainingSet(self.workspace.distill, self.rule(), self.scores)

    def _check_scores(self) -> None:
        """Refuse a file of scores that is not right, before anything is moved."""
        from kdmt.distill.candidates import read_scores

        if self.scores is not None:
            with TemporaryDirectory() as scratch:
                made = self.workspace.distill
                read_scores(self.scores, made / NBEST, made / OFFSETS, Path(scratch))

    def verify(self, _: int, __: int | None) -> None:
        """See `kdmt.stages.verify`."""
        from kdmt.stages.verify import verify_text

        verify_text(self.workspace, self.folder, self.training_set())


def _choosing_stage(choosing: Choosing, prepare: Stage, distill: Stage) -> Stage:
    return Stage(
        name=choosing.folder.name,
        command="kdmt distill",
        folder=choosing.folder,
        upstream=(prepare, distill),
        plan=choosing.plan,
        make=choosing.make,
        verify=choosing.verify,
    )
