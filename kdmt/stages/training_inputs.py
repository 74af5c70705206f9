"""Inputs of a training run: settings, training sets, teachers and knowledge caches, with checksums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from kdmt.choices import CheckpointName, SelfSupervisedText
from kdmt.config import MONOLINGUAL_SIDES, Augment, Model, Section, Selective, SelfSupervised, Student, Train
from kdmt.corpus.prepared import TAGS_OF_MONOLINGUAL
from kdmt.distill.direction_counts import PIVOTS
from kdmt.flow.folders import earlier_states
from kdmt.flow.manifest import Plan, check_status, recorded_outputs, recorded_plan
from kdmt.models.checkpoint_folder import checkpoint_sha256, resolve_checkpoint, resolve_name
from kdmt.objectives.model_checks import learns_from_cache, learns_from_running
from kdmt.score.scorers.segment_scores import model_inputs
from kdmt.stages.cache_teachers import cache_teachers, checkpoint_inputs, needs_pivots
from kdmt.stages.workspace import Workspace
from kdmt.training_sets import WEIGHTS

ALIGNMENTS, LINKS = "alignments", "links"  # folder of alignments, and the file in each of them
_BATCH_ORDER = "batch_order"  # name in the settings of a plan


@dataclass(frozen=True)
class LearnedAlignment:
    """An alignment that a model learns.

    Attributes:
        data: name of the training set.
        file: path of a file of links; None for IBM model 1.
        unit: unit that the file counts.
    """

    data: str
    file: str | None
    unit: str

    @property
    def folder_name(self) -> str:
        """Return the name of the folder of its stage."""
        if self.file is None:
            return self.data
        return f"{self.data}-{sha256(f'{self.unit} {self.file}'.encode()).hexdigest()[:8]}"

    def folder(self, workspace: Workspace) -> Path:
        """Return the folder of its stage."""
        return workspace.layout.folder(ALIGNMENTS, self.folder_name)


def alignments_of(train: Train, data: Sequence[str]) -> list[LearnedAlignment]:
    """Return the alignments that a training on these sets learns, in their order."""
    settings = train.guided_alignment
    return [] if settings is None else [LearnedAlignment(name, settings.file, settings.unit) for name in data]


@dataclass(frozen=True)
class Job:
    """One training run.

    Attributes:
        name: name for messages.
        folder: folder of the run.
        data: names of training sets, which are concatenated in this order.
        shares: share of each set in the pairs of an epoch; None to use all pairs in each epoch.
        path: YAML path of its settings.
        student: settings of a student or of one of its stages; None for a teacher.
        self_supervised: settings of its self-supervised loss; None for none.
        augment: changes of the training text, None for none.
        before: run of the stage before, from whose checkpoint `begin_from` this run begins; None for none.
        begin_from: name of that checkpoint.
        number: number of the stage of a teacher or student, from 1.
        right_to_left: whether the model predicts reversed targets.
    """

    name: str
    folder: Path
    model: Model
    train: Train
    seed: int
    data: tuple[str, ...]
    path: str
    student: Student | None = None
    self_supervised: SelfSupervised | None = None
    augment: Augment | None = None
    before: Path | None = None
    begin_from: CheckpointName = "auto"
    number: int = 1
    shares: tuple[float, ...] | None = None
    right_to_left: bool = False

    @property
    def reads_text_alone(self) -> bool:
        """Return whether the run is trained on text with noise alone, without the training pairs."""
        return self.self_supervised is not None and self.self_supervised.is_alone

    @property
    def alignments(self) -> list[LearnedAlignment]:
        """Return the alignments that the run learns."""
        return alignments_of(self.train, self.data)

    @property
    def first_checkpoint(self) -> Path | None:
        """Return the checkpoint that the run begins from, None if it begins from random weights."""
        if self.before is not None:
            return resolve_checkpoint(self.before / self.begin_from)
        return None if self.train.init_from is None else resolve_checkpoint(Path(self.train.init_from))


def monolingual_splits(workspace: Workspace, settings: SelfSupervised | None) -> list[str]:
    """Return the names of the monolingual files of the data-bin that a self-supervised loss reads, without suffix."""
    direction = workspace.direction
    texts = () if settings is None else settings.texts
    return [
        f"monolingual.{direction}.{direction.sides[MONOLINGUAL_SIDES[name]]}"
        for name in texts
        if name in MONOLINGUAL_SIDES
    ]


def text_tags(workspace: Workspace, job: Job) -> dict[SelfSupervisedText, list[Path]]:
    """Return the files with the directions of the lines of each text that gets the tokens of its own language.

    There are none in a pipeline with one direction.
    """
    if job.self_supervised is None or not workspace.config.is_multilingual:
        return {}
    return {
        name: [workspace.prepare / TAGS_OF_MONOLINGUAL[name]]
        if name in TAGS_OF_MONOLINGUAL
        else [tags_file(workspace, each) for each in job.data]
        for name in job.self_supervised.tagged_texts
    }


def selects_directions(student: Student | None) -> bool:
    """Return whether a student learns from the teacher in some directions only."""
    return student is not None and student.word_kd is not None and student.word_kd.direction_selection is not None


def needs_teacher(student: Student) -> bool:
    """Return whether a student needs the pipeline's own teacher."""
    others = student.word_kd is not None and student.word_kd.teachers
    return takes_from_teacher(student) or (learns_from_running(student) and not others)


def takes_from_teacher(student: Student) -> bool:
    """Return whether a student is initialised with weights of the teacher."""
    return bool(
        student.encoder_layers_from_teacher or student.decoder_layers_from_teacher or student.embeddings_from_teacher
    )


def teacher_checkpoint(workspace: Workspace) -> Path:
    """Return the checkpoint of the teacher that students and distillation use."""
    return resolve_checkpoint(workspace.teacher / workspace.config.distill.checkpoint)


def teacher_sha256(workspace: Workspace) -> str:
    """Return the SHA-256 of the weights of the teacher's checkpoint."""
    return checkpoint_sha256(teacher_checkpoint(workspace))


def teacher_checkpoints(workspace: Workspace, student: Student) -> list[Path]:
    """Return the checkpoints of the teachers that run while a student is trained."""
    given = student.word_kd.teachers if student.word_kd is not None else []
    return [resolve_checkpoint(Path(path)) for path in given] or [teacher_checkpoint(workspace)]


def training_inputs(workspace: Workspace, data: Sequence[str], *, more: Sequence[str] = ()) -> dict[str, str]:
    """Return the files that training on the given sets reads, with the SHA-256 that their stages recorded.

    Args:
        data: names of training sets.
        more: names of further files of the data-bin without their suffix, in addition to `valid`.
    """
    prepared = recorded_outputs(workspace.prepare)
    wanted = ("tokenizer/", "text.json", "dict.", "valid.", *(f"data-bin/{split}." for split in ("valid", *more)))
    inputs = {f"prepare/{name}": sha for name, sha in prepared.items() if name.startswith(wanted)}
    for each in data:
        folder = workspace.training_set(each)
        made = recorded_outputs(folder)
        used = ("data-bin/train.", WEIGHTS)
        inputs |= {f"{folder.name}/{name}": sha for name, sha in made.items() if name.startswith(used)}
    return inputs


def tags_file(workspace: Workspace, name: str) -> Path:
    """Return the file with the direction of each pair of a training set."""
    return workspace.training_set(name) / ("train.tags" if name == "raw" else "distilled.tags")


def text_file(workspace: Workspace, name: str, lang: str) -> Path:
    """Return the file with one side of the text of a training set."""
    return workspace.training_set(name) / f"{'train' if name == 'raw' else 'distilled'}.{lang}"


def direction_inputs(workspace: Workspace, job: Job) -> dict[str, str]:
    """Return the files with the directions of pairs and of text that training depends on, with their SHA-256."""
    is_augmented = workspace.config.is_multilingual and job.augment is not None
    files = [path for paths in text_tags(workspace, job).values() for path in paths]
    if job.train.sampling is not None or is_augmented or selects_directions(job.student):
        files += [tags_file(workspace, name) for name in job.data]
    return {f"{path.parent.name}/{path.name}": recorded_outputs(path.parent)[path.name] for path in files}


def alignment_inputs(workspace: Workspace, alignments: Sequence[LearnedAlignment]) -> dict[str, str]:
    """Return the files of links that a training reads, with their SHA-256."""
    return {f"{ALIGNMENTS}/{each.folder_name}": recorded_outputs(each.folder(workspace))[LINKS] for each in alignments}


def init_inputs(job: Job) -> dict[str, str]:
    """Return the checkpoint that a training run begins from, with its SHA-256."""
    first = job.first_checkpoint
    if first is None:
        return {}
    name = f"init_from {job.train.init_from}" if job.before is None else job.before.name
    return {name: checkpoint_sha256(first)}


def consolidation_inputs(job: Job) -> dict[str, str]:
    """Return the text that a model must not forget, with the SHA-256 that its stage recorded."""
    if job.train.ewc is None:
        return {}
    folder = job.train.ewc.prepared
    made = recorded_outputs(Path(folder))
    return {f"ewc {folder}/{name}": sha for name, sha in made.items() if name.startswith("data-bin/train.")}


def evaluator_checkpoint(job: Job, settings: Selective) -> Path:
    """Return the checkpoint of the evaluator of selective distillation."""
    found = job.first_checkpoint if settings.evaluator is None else resolve_checkpoint(Path(settings.evaluator))
    assert found is not None  # the configuration is checked
    return found


def selective_inputs(workspace: Workspace, student: Student) -> dict[str, str]:
    """Return the inputs of selective distillation in addition to the training sets, with checksums."""
    if student.selective is None:
        return {}
    distilled = workspace.training_set("distilled")
    recorded = recorded_outputs(distilled)
    inputs = {f"{distilled.name}/{name}": recorded[name] for name in ("rejected", "sentences.npy")}
    if student.selective.evaluator is not None:
        evaluator = student.selective.evaluator
        inputs[f"evaluator {evaluator}"] = checkpoint_sha256(resolve_checkpoint(Path(evaluator)))
    return inputs


def teaching_inputs(workspace: Workspace, student: Student) -> dict[str, str]:
    """Return the inputs that a student takes from teachers in addition to its training sets, with checksums."""
    inputs = {"teacher": teacher_sha256(workspace)} if needs_teacher(student) else {}
    for path in student.word_kd.teachers if student.word_kd is not None else ():
        inputs[f"teacher {path}"] = checkpoint_sha256(resolve_checkpoint(Path(path)))
    if learns_from_cache(student):
        for data in student.data_names:
            recorded = recorded_outputs(workspace.knowledge(data))
            inputs[f"knowledge/{data}"] = recorded["knowledge.json"]  # this file has the SHA-256 of all blocks
    return inputs


def with_batch_order(plan: Plan, job: Job) -> Plan:
    """Return the plan of a run that also has the number of its order of batches: that of the stage.

    Stages of earlier versions have the order of the first stage. A run of theirs that matches the plan keeps it, so
    that it stays up to date if it is complete, and goes on as it began if it is not.
    """
    if job.number == 1:
        return plan
    folder = job.folder
    of_student = (state / folder.name for state in earlier_states(folder.parent))
    for run in (folder, *earlier_states(folder), *of_student):
        if (recorded := recorded_plan(run)) is None:
            continue
        as_recorded = plan.depending_on(_BATCH_ORDER, recorded.settings.get(_BATCH_ORDER, 1), default=1)
        if check_status(run, as_recorded).state != "stale":
            return as_recorded
    return plan.depending_on(_BATCH_ORDER, job.number, default=1)


def batch_order(job: Job) -> int:
    """Return the number of the order of batches in a run that has begun."""
    recorded = recorded_plan(job.folder)
    order = 1 if recorded is None else recorded.settings.get(_BATCH_ORDER, 1)
    assert isinstance(order, int)
    return order


def cache_made_from(workspace: Workspace, data: str) -> dict[str, str]:
    """Return the files that the content of a cache depends on besides its settings: name -> SHA-256."""
    owner = workspace.training_set(data)
    dictionary = f"dict.{workspace.direction.target}.txt"
    found = {name: sha for name, sha in recorded_outputs(owner).items() if name.startswith("data-bin/train.")}
    found[dictionary] = recorded_outputs(workspace.prepare)[dictionary]
    if cache_teachers(workspace.config):
        found |= _direction_cache_inputs(workspace, data)
    if not workspace.config.teacher_fills_caches:
        return found
    name = resolve_name(workspace.teacher, workspace.config.distill.checkpoint)
    return {**found, f"teacher/{name}": teacher_sha256(workspace)}


def _direction_cache_inputs(workspace: Workspace, data: str) -> dict[str, str]:
    """Return what a cache depends on if directions have their own teachers: these, and the text that they read."""
    files = [*(text_file(workspace, data, lang) for lang in workspace.direction.sides), tags_file(workspace, data)]
    folders = {workspace.prepare: ["text.json"]}
    if needs_pivots(workspace.config):
        folders[workspace.training_set("distilled")] = [PIVOTS, "nbest", "sentences.npy"]
    for path in files:
        folders.setdefault(path.parent, []).append(path.name)
    found = checkpoint_inputs(workspace.config)
    for folder, names in folders.items():
        recorded = recorded_outputs(folder)
        found |= {f"{folder.name}/{name}": recorded[name] for name in names}
    return found


def scorer_sections(workspace: Workspace, job: Job) -> dict[str, Section]:
    """Return the section of the external scorer that chooses the best checkpoint of a run, for a plan."""
    name = job.train.scorer
    return {} if name is None else {f"scorers.{name}": workspace.config.scorers[name]}


def scorer_inputs(workspace: Workspace, job: Job) -> dict[str, str]:
    """Return the SHA-256 of the model of the external scorer that chooses the best checkpoint of a run."""
    name = job.train.scorer
    return {} if name is None else model_inputs({name: workspace.config.scorers[name]})
