"""The teacher and student stages: one model trained from a data-bin into a folder of checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdmt.choices import CHECKPOINT_PREFERENCE
from kdmt.config import NAT, Decode, Student, Train
from kdmt.corpus.lines import read_lines
from kdmt.errors import UserError
from kdmt.files import read_optional_json, write_json
from kdmt.flow.manifest import Plan, begin, finish, make_plan, recorded_outputs
from kdmt.flow.stage import Stage
from kdmt.models.checkpoint_folder import num_updates
from kdmt.objectives.build import Job, make_objective
from kdmt.objectives.model_checks import learns_from_cache, learns_from_running
from kdmt.runtime import pick_device, use_threads
from kdmt.score.bleu_tokenizer import require_packages
from kdmt.stages.measures import tokenizer_note, words_tokenizer
from kdmt.stages.workspace import Workspace
from kdmt.training_sets import WEIGHTS, parts_of

VALIDATION = "validation.json"  # what a run's validations are measured by

if TYPE_CHECKING:
    from kdmt.corpus.batching import ParallelData
    from kdmt.corpus.knowledge_cache import KnowledgeCache, KnowledgeSource
    from kdmt.train.data import MonolingualText


def teacher_stage(workspace: Workspace, prepare: Stage) -> Stage:
    """Train the teacher on the raw training data."""
    teacher = workspace.config.teacher
    job = Job(
        name="teacher",
        folder=workspace.teacher,
        model=teacher.model,
        train=teacher.train,
        seed=teacher.seed,
        data=("raw",),
        path="teacher",
    )

    def plan() -> Plan:
        inputs = training_inputs(workspace, job.data) | _init_inputs(teacher.train)
        return make_plan({"teacher": teacher}, {}, inputs)

    return Stage(
        name="teacher",
        command="kdmt teacher",
        folder=job.folder,
        upstream=(prepare,),
        plan=plan,
        make=partial(_train, workspace, job),
        join=partial(_train, workspace, job, None),
        extent=num_updates,
    )


def student_stages(
    workspace: Workspace,
    name: str,
    *,
    prepare: Stage,
    teacher: Stage,
    text: Mapping[str, Stage],
    knowledge: Mapping[str, Stage],
) -> dict[int, Stage]:
    """Train one student, a stage for each of its seeds.

    Args:
        text: the stages that write training sets, by name.
        knowledge: the stages that fill caches, by training set.
    """
    student = workspace.config.students[name]
    upstream = [prepare]
    if _needs_teacher(student):
        upstream.append(teacher)
    upstream += [text[data] for data in data_names(student) if data != "raw"]
    if learns_from_cache(student):
        upstream += [knowledge[data] for data in data_names(student)]
    return {seed: _student_stage(workspace, name, student, seed, tuple(upstream)) for seed in student.seeds}


def data_names(student: Student) -> tuple[str, ...]:
    """The training sets that a student learns from, in the order in which they are joined."""
    return parts_of(student.data)


def _reads_monolingual(student: Student | None) -> bool:
    return student is not None and student.self_supervised is not None and student.self_supervised.monolingual


def _needs_teacher(student: Student) -> bool:
    """Whether it needs the pipeline's own."""
    others = student.word_kd is not None and student.word_kd.teachers
    return _takes_from_teacher(student) or (learns_from_running(student) and not others)


def _student_stage(workspace: Workspace, name: str, student: Student, seed: int, upstream: tuple[Stage, ...]) -> Stage:
    job = Job(
        name=f"student {name} seed {seed}",
        folder=workspace.student(name, seed),
        model=student.model,
        train=student.train,
        seed=seed,
        data=data_names(student),
        path=f"students.{name}",
        initialise=partial(_initialise_student, workspace, student),
        student=student,
    )

    def plan() -> Plan:
        inputs = training_inputs(workspace, job.data, more=("monolingual",) if _reads_monolingual(student) else ())
        inputs |= _init_inputs(student.train)
        inputs |= _teaching_inputs(workspace, student)
        made_from = make_plan({f"students.{name}": student}, {"seed": seed}, inputs)
        extend = {key: value for key, value in made_from.extend.items() if not key.endswith(".seeds")}
        return replace(made_from, extend=extend)  # other seeds are other folders

    return Stage(
        name=job.name,
        command=f"kdmt student --student {name}",
        folder=job.folder,
        upstream=upstream,
        plan=plan,
        make=partial(_train, workspace, job),
        join=partial(_train, workspace, job, None),
        extent=num_updates,
    )


def teacher_sha256(workspace: Workspace) -> str:
    """The weights that students and distillation take from the teacher."""
    from kdmt.models.checkpoint_folder import checkpoint_sha256, resolve_checkpoint

    return checkpoint_sha256(resolve_checkpoint(workspace.teacher / workspace.config.distill.checkpoint))


def training_inputs(workspace: Workspace, data: Sequence[str], *, more: Sequence[str] = ()) -> dict[str, str]:
    """The files that a training on these sets reads, with the sha256 that their stages recorded.

    Args:
        data: names of training sets.
        more: splits of the data-bin besides `valid`.
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


def _teaching_inputs(workspace: Workspace, student: Student) -> dict[str, str]:
    """What a student takes from teachers besides its training sets."""
    from kdmt.models.checkpoint_folder import checkpoint_sha256, resolve_checkpoint

    inputs = {"teacher": teacher_sha256(workspace)} if _needs_teacher(student) else {}
    for path in student.word_kd.teachers if student.word_kd is not None else ():
        inputs[f"teacher {path}"] = checkpoint_sha256(resolve_checkpoint(Path(path)))
    if learns_from_cache(student):
        for data in data_names(student):
            recorded = recorded_outputs(workspace.knowledge(data))
            inputs[f"knowledge/{data}"] = recorded["knowledge.json"]  # it has the sha256 of all blocks
    return inputs


def _init_inputs(train: Train) -> dict[str, str]:
    if train.init_from is None:
        return {}
    from kdmt.models.checkpoint_folder import checkpoint_sha256, resolve_checkpoint

    return {f"init_from {train.init_from}": checkpoint_sha256(resolve_checkpoint(Path(train.init_from)))}


def _takes_from_teacher(student: Student) -> bool:
    return bool(
        student.encoder_layers_from_teacher or student.decoder_layers_from_teacher or student.embeddings_from_teacher
    )


# ---------------------------------------------------------------------------------------------------------- the work


def _train(workspace: Workspace, job: Job, plan: Plan | None) -> None:
    """Train one model; `plan` is None on the ranks that take part without writing anything."""
    from kdmt.corpus.batching import join_data
    from kdmt.corpus.codec import TextCodec
    from kdmt.models.build import count_parameters
    from kdmt.train.arithmetic import choose_threads
    from kdmt.train.data import BinarizedData
    from kdmt.train.loop import Trainer
    from kdmt.train.run_log import Progress

    use_threads(job.train.threads)
    device, ranks = pick_device(job.train.device, workspace.ranks), workspace.ranks
    codec = TextCodec.load(workspace.prepare)
    pairs = join_data([open_data(workspace, name, "train") for name in job.data])
    knowledge = _knowledge(workspace, job)
    data = BinarizedData(
        pairs,
        job.train,
        seed=job.seed,
        knowledge=knowledge,
        monolingual=_monolingual(workspace, job),
        weights=_weights(workspace, job),
    )
    model, init_state = _build(workspace, job, codec)
    objective = make_objective(workspace, job, model, knowledge)
    validate = _validator(workspace, job, codec, device)
    num_batches = len(data.batches())
    if plan is not None:
        begin(job.folder, plan, workspace.resolved_config())  # after all that may refuse: a mistake then moves nothing
        _keep_tokenizer(workspace, job.folder)
    ranks.wait()
    threads = use_threads(choose_threads(job.folder, job.train))
    progress = Progress(
        job.folder / "metrics.jsonl" if ranks.is_first else None,
        name=job.name,
        tensorboard=job.folder / "tensorboard" if job.train.tensorboard and ranks.is_first else None,
    )
    progress.note(
        f"{count_parameters(model):,} parameters, {len(data.kept):,} pairs"
        f"{f' ({data.num_left_out:,} left out for their length)' if data.num_left_out else ''}, "
        f"{num_batches:,} batches an epoch, {device} with {threads} threads"
        f"{f', {ranks.world} ranks' if ranks.world > 1 else ''}"
    )
    trainer = Trainer(
        objective=objective,
        data=data,
        settings=job.train,
        seed=job.seed,
        run=job.folder,
        companions=codec.companions(workspace.prepare),
        validate=validate,
        progress=progress,
        device=device,
        ranks=ranks,
        init_state=init_state,
    )
    outcome = trainer.run()
    progress.note(f"done at update {outcome.update} ({outcome.ending}); best at {outcome.best_update}")
    if plan is not None:
        finish(job.folder, plan, outputs=_checkpoint_files(job.folder), facts=asdict(outcome))


def open_data(workspace: Workspace, name: str, split: str) -> ParallelData:
    """A split of a training set by its name, as `raw` or `distilled`."""
    from kdmt.corpus.batching import open_parallel
    from kdmt.corpus.binarize import data_prefix

    folder = workspace.training_set(name) / "data-bin"
    source, target = (data_prefix(folder, split, workspace.direction, lang) for lang in workspace.direction.sides)
    return open_parallel([(source, target)])


def _weights(workspace: Workspace, job: Job) -> Any:
    """What each pair counts, float32 [pairs]; None where all count alike."""
    import numpy as np

    files = [workspace.training_set(name) / WEIGHTS for name in job.data]
    return np.load(files[0]) if len(files) == 1 and files[0].exists() else None


def _monolingual(workspace: Workspace, job: Job) -> MonolingualText | None:
    if not _reads_monolingual(job.student):
        return None
    from kdmt.corpus.batching import open_parallel
    from kdmt.corpus.binarize import data_prefix
    from kdmt.train.data import MonolingualText

    text = open_parallel(
        [(data_prefix(workspace.data_bin, "monolingual", workspace.direction, workspace.direction.source), None)]
    )
    return MonolingualText(text, job.train, seed=job.seed)


def _knowledge(workspace: Workspace, job: Job) -> KnowledgeSource | None:
    """What the caches of the training sets say, for a student that learns from them."""
    if job.student is None or job.student.word_kd is None or not learns_from_cache(job.student):
        return None
    from kdmt.corpus.knowledge_cache import KnowledgeSource

    return KnowledgeSource(open_caches(workspace, job.student), temperature=job.student.word_kd.temperature)


def open_caches(workspace: Workspace, student: Student) -> list[KnowledgeCache]:
    """The caches of a student's training sets, in their order.

    Raises:
        UserError: one is not of this teacher, dictionary and data-bin.
    """
    from kdmt.corpus.knowledge_cache import KnowledgeCache

    caches = []
    for data in data_names(student):
        caches.append(KnowledgeCache(workspace.knowledge(data)))
        caches[-1].check(cache_made_from(workspace, data))
    return caches


def cache_made_from(workspace: Workspace, data: str) -> dict[str, str]:
    """What a cache's content depends on besides its settings: name -> sha256."""
    owner = workspace.training_set(data)
    dictionary = f"dict.{workspace.direction.target}.txt"
    found = {name: sha for name, sha in recorded_outputs(owner).items() if name.startswith("data-bin/train.")}
    found[dictionary] = recorded_outputs(workspace.prepare)[dictionary]
    return {**found, f"teacher/{workspace.config.distill.checkpoint}": teacher_sha256(workspace)}


def _build(workspace: Workspace, job: Job, codec: Any) -> tuple[Any, Any]:
    """A model with its first weights, and the optimiser state that is to be kept, if any."""
    import torch

    from kdmt.checksum import verify_checkpoint
    from kdmt.corpus.codec import check_vocabulary
    from kdmt.models.architecture import architecture
    from kdmt.models.build import build_nonautoregressive, build_transformer
    from kdmt.models.checkpoint import load_state, load_weights
    from kdmt.models.checkpoint_folder import resolve_checkpoint

    torch.manual_seed(job.seed)
    config = architecture(job.model.arch, job.model.overrides())
    sizes = {"src_vocab_size": len(codec.src_dictionary), "tgt_vocab_size": len(codec.tgt_dictionary)}
    if job.student is not None and job.student.nat is not None:
        model: Any = build_nonautoregressive(config, nat_config(job.student.nat), **sizes)
    else:
        model = build_transformer(config, **sizes)
    job.initialise(model)
    if job.train.init_from is None:
        return model, None
    folder = resolve_checkpoint(Path(job.train.init_from))
    verify_checkpoint(folder)
    check_vocabulary(folder, workspace.prepare, workspace.direction)
    load_weights(model, folder)
    return model, load_state(folder) if job.train.init_optimizer else None


def nat_config(settings: NAT) -> Any:
    """What the model needs to know of the settings."""
    from kdmt.models.architecture import NATConfig

    return NATConfig(
        family=settings.family,
        upsample=settings.upsample,
        link_heads=settings.link_heads,
        source_copy=settings.source_copy,
        crf_rank=settings.crf_rank,
        crf_candidates=settings.crf_candidates,
        corrects=settings.correction > 0.0,
        layout=settings.layout,
    )


def _initialise_student(workspace: Workspace, student: Student, model: Any) -> None:
    if not _takes_from_teacher(student):
        return
    from kdmt.corpus.codec import check_vocabulary
    from kdmt.models.checkpoint import load_model
    from kdmt.models.checkpoint_folder import resolve_checkpoint
    from kdmt.models.initialise import copy_from_teacher

    folder = resolve_checkpoint(workspace.teacher / workspace.config.distill.checkpoint)
    check_vocabulary(folder, workspace.prepare, workspace.direction)
    copy_from_teacher(
        model,
        load_model(folder),
        encoder_layers=student.encoder_layers_from_teacher,
        decoder_layers=student.decoder_layers_from_teacher,
        embeddings=student.embeddings_from_teacher,
    )


def _keep_tokenizer(workspace: Workspace, run: Path) -> None:
    """Write down the tokenizer for validation BLEU where a run begins, or one goes on that does not know its own.

    Scores that differ in it cannot be compared, so that a run goes on with what it was begun with.

    Raises:
        UserError: the packages of that are missing.
    """
    if (kept := _kept_tokenizer(run)) is not None:
        require_packages(kept, run)
        return
    write_json(run / VALIDATION, {"bleu_tokenizer": words_tokenizer(workspace)})
    if note := tokenizer_note(workspace):
        workspace.say(note)


def _kept_tokenizer(run: Path) -> str | None:
    recorded = read_optional_json(run / VALIDATION)
    return None if recorded is None else str(recorded["bleu_tokenizer"])


def _validator(workspace: Workspace, job: Job, codec: Any, device: Any) -> Callable[[Any], dict[str, float]]:
    """Return a function that computes the loss, BLEU and `best_metric` on the real validation set."""
    from kdmt.decode.engines.translator import Translator
    from kdmt.ranks import interleave
    from kdmt.stages.references import score_words
    from kdmt.train.data import BinarizedData
    from kdmt.train.validation import validation_loss

    try:
        valid = BinarizedData(open_data(workspace, "raw", "valid"), job.train, seed=0)
    except UserError as error:
        raise UserError(f"validation set: {error}") from None
    batches = valid.batches()
    limit = job.train.validate_sentences or None
    sources = [valid.data[index][0] for index in range(len(valid.data))][:limit]
    references = read_lines(workspace.prepare / f"valid.{workspace.direction.target}")[:limit]
    settings = Decode(beam=job.train.validate_beam)

    ranks = workspace.ranks

    def validate(objective: Any) -> dict[str, float]:
        figures = validation_loss(objective, valid, batches, device=device, ranks=ranks)
        if job.train.validate_bleu and math.isfinite(figures["loss"]):  # nothing can be decoded with NaN
            translator = Translator.of_model(objective.model, codec, device=device)
            parts = ranks.collect(translator.translate_ids(sources[ranks.rank :: ranks.world], settings))
            hypotheses = interleave(parts)
            tokenize = _kept_tokenizer(job.folder)
            for metric in dict.fromkeys(("bleu", job.train.best_metric)):
                if metric != "loss":
                    score = score_words(workspace, metric, hypotheses, references, tokenize=tokenize)
                    figures[metric] = score.value
        return figures

    return validate


def _checkpoint_files(folder: Path) -> list[Path]:
    """What the stage hands on: the weights of `average`, `best` and `last`, each by its checksums, and the metrics."""
    from kdmt.models.checkpoint_folder import resolve_checkpoint

    folders = {resolve_checkpoint(folder / name) for name in CHECKPOINT_PREFERENCE}
    files = [path for each in folders for path in (each / "checksums.json", each / "model.safetensors")]
    return [*files, folder / "best", folder / "last"]
