"""The work of the teacher and student stages: put together data, model and objective, and run the training loop."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import torch

from kdmt.checksum import verify_checkpoint
from kdmt.choices import CHECKPOINT_PREFERENCE
from kdmt.config import NAT, Augment, Decode, Student, Train, flatten_settings, setting_path
from kdmt.config.augment import is_recipe, recipe_notes
from kdmt.config.directions import language_prefix
from kdmt.config.simultaneous import values_of
from kdmt.corpus import prepared
from kdmt.corpus.augmentation import Augmentation, PairsOfDirections, unwritable_modifiers
from kdmt.corpus.batching import ParallelData, join_data, open_split
from kdmt.corpus.codec import TEXT_FILE, TextCodec, check_vocabulary, load_text_processor
from kdmt.corpus.knowledge_cache import KnowledgeCache, KnowledgeSource
from kdmt.corpus.lines import read_lines
from kdmt.corpus.subword_sampling import SubwordSampling
from kdmt.corpus.word_links import LinkFile, LinkSource
from kdmt.decode.engines.translator import Translator
from kdmt.distill.direction_checkpoint import require_direction
from kdmt.errors import UserError
from kdmt.files import read_optional_json, write_json
from kdmt.flow.manifest import Plan, begin, finish
from kdmt.models.architecture import NATConfig, architecture
from kdmt.models.average_record import AVERAGE_BEST
from kdmt.models.build import build_nonautoregressive, build_transformer, count_parameters
from kdmt.models.checkpoint import TrainingState, load_model, load_state, load_weights
from kdmt.models.checkpoint_choice import CHOSEN
from kdmt.models.checkpoint_folder import resolve_checkpoint
from kdmt.models.description import is_right_to_left, takes_target_from_source
from kdmt.models.initialise import copy_from_teacher
from kdmt.models.nonautoregressive import NATransformer
from kdmt.models.transformer import Transformer
from kdmt.objectives.build import build_objective
from kdmt.objectives.direction_selection import PREFIX, DirectionSelection
from kdmt.objectives.model_checks import (
    check_inside,
    check_positions,
    learns_from_cache,
    learns_from_running,
    token_limits,
)
from kdmt.objectives.objective import Objective, middle_k
from kdmt.objectives.positional import SomeHidden
from kdmt.ranks import interleave
from kdmt.runtime import pick_device, use_threads
from kdmt.score.bleu_tokenizer import require_packages
from kdmt.stages.consolidation_work import consolidate, open_consolidated
from kdmt.stages.direction_teaching import direction_validation, measure_teacher
from kdmt.stages.measures import spaced_sides, tokenizer_note, words_tokenizer
from kdmt.stages.references import score_words
from kdmt.stages.selective_work import load_evaluator, measure, open_selection
from kdmt.stages.self_supervised_text import denoising_text, masked_text, text_alone, validation_text
from kdmt.stages.tracked_stages import open_recorder
from kdmt.stages.training_inputs import (
    LINKS,
    Job,
    batch_order,
    cache_made_from,
    evaluator_checkpoint,
    selects_directions,
    tags_file,
    takes_from_teacher,
    teacher_checkpoint,
    teacher_checkpoints,
)
from kdmt.stages.validation_scorer import ValidationScorer
from kdmt.stages.workspace import Workspace
from kdmt.train.arithmetic import choose_threads
from kdmt.train.data import BinarizedData
from kdmt.train.direction_sampling import PairDirections
from kdmt.train.loop import Trainer
from kdmt.train.run_log import Progress
from kdmt.train.target_selection import TargetSelection
from kdmt.train.validation import validation_loss, visible_nll
from kdmt.training_sets import WEIGHTS

VALIDATION = "validation.json"  # file with the tokenizer for validation BLEU of a run


def train(workspace: Workspace, job: Job, plan: Plan | None) -> None:
    """Train one model; `plan` is None on ranks that take part but do not write files."""
    use_threads(job.train.threads)
    device, ranks = pick_device(job.train.device, workspace.ranks), workspace.ranks
    codec = TextCodec.load(workspace.prepare)
    knowledge = _knowledge(workspace, job.student)
    data = _training_data(workspace, job, codec, knowledge)
    evaluator = None if data.selection is None else _evaluator(workspace, job)
    consolidated = open_consolidated(workspace, job)
    model, init_state = _build_model(workspace, job, codec)
    selection = _direction_selection(job, data)
    objective = _objective(workspace, job, model, codec, knowledge, selection)
    scorer = ValidationScorer.of(workspace, job, codec)
    validate = _validator(workspace, job, codec, device, scorer)
    num_batches = len(data.batches())
    if plan is not None:
        begin(job.folder, plan, workspace.resolved_config())  # after all checks, so that an error changes no folder
        _keep_tokenizer(workspace, job.folder)
    ranks.wait()
    data.order = batch_order(job)
    threads = use_threads(choose_threads(job.folder, job.train))
    progress = _open_progress(workspace, job)
    what = "sentences with noise" if job.reads_text_alone else "pairs"
    progress.note(
        f"{count_parameters(model):,} parameters, {_describe(data, what)}, {num_batches:,} batches an epoch, {device} "
        f"with {threads} threads{f', {ranks.world} ranks' if ranks.world > 1 else ''}"
    )
    for note in [*_augment_notes(workspace, job, data), *_warmup_notes(job.train)]:
        progress.note(note)
    if data.selection is not None and evaluator is not None:
        measure(job.folder, evaluator, data.selection, data.data, device=device, ranks=ranks, progress=progress)
        del evaluator  # and its memory on the device
    if consolidated is not None:
        consolidate(job, objective, consolidated, device=device, ranks=ranks, progress=progress)
    if selection is not None:
        selection.teacher_nll = measure_teacher(workspace, job, objective, device=device, progress=progress)
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
        signature=_signature(workspace, job, scorer),
        scale=None if scorer is None else scorer.scale,
    )
    try:
        outcome = trainer.run()
    finally:
        progress.close()
    progress.note(f"done at update {outcome.update} ({outcome.ending}); best at {outcome.best_update}")
    if plan is not None:
        finish(job.folder, plan, outputs=_checkpoint_files(job.folder), facts=asdict(outcome))


def _open_progress(workspace: Workspace, job: Job) -> Progress:
    is_first = workspace.ranks.is_first
    sections = {"model": job.model, "train": job.train}
    settings = {
        f"{path}.{name}": setting.value
        for path, section in sections.items()
        for name, setting in flatten_settings(section).items()
    }
    return Progress(
        job.folder / "metrics.jsonl" if is_first else None,
        name=job.name,
        open_recorder=lambda first_step: open_recorder(
            workspace,
            name=job.name,
            folder=job.folder,
            settings={**settings, "seed": job.seed, "data": ", ".join(job.data)},
            first_step=first_step,
            tensorboard=job.train.tensorboard,
        ),
        metric=job.train.scorer,
    )


# ---------------------------------------------------------------------------------------------------------------- data


def _describe(data: BinarizedData, what: str) -> str:
    """Return the number of pairs, or of sentences of text, for messages."""
    limited = data.settings.sampling is not None and data.settings.sampling.max_pairs is not None
    why = "for their length or by 'max_pairs'" if limited else "for their length"
    left_out = f" ({data.num_left_out:,} left out {why})" if data.num_left_out else ""
    if data.directions is not None:
        return f"{len(data.kept):,} {what}{left_out} ({_describe_directions(data, data.directions)})"
    if data.mixture is None:
        return f"{len(data.kept):,} {what}{left_out}"
    sets = zip(data.mixture.sizes(1), data.mixture.sets, strict=True)
    return f"{' + '.join(f'{float(size):,.0f} of {len(kept):,}' for size, kept in sets)} pairs an epoch{left_out}"


def _describe_directions(data: BinarizedData, directions: PairDirections) -> str:
    """Return the number of pairs of each direction, and in an epoch if they are sampled."""
    counts = directions.counts(data.kept)
    if data.mixture is None:
        return ", ".join(f"{name} {count:,}" for name, count in counts.items())
    schedule = None if data.settings.sampling is None else data.settings.sampling.temperature_schedule
    found = []
    for epoch in [1] if schedule is None else sorted({1, schedule[-1][0]}):
        sizes = directions.sizes(data.mixture, epoch)
        own = ", ".join(f"{name} {sizes[name]:,.0f} of {count:,}" for name, count in counts.items())
        found.append(f"in an epoch {own}" if schedule is None else f"in epoch {epoch} {own}")
    return "; ".join(found)


def _training_data(
    workspace: Workspace, job: Job, codec: TextCodec, knowledge: KnowledgeSource | None
) -> BinarizedData:
    if job.reads_text_alone:
        return text_alone(workspace, job, codec)
    sets = [_open_data(workspace, name, "train") for name in job.data]
    data, directions = join_data(sets), _directions(workspace, job)
    max_pairs = None if job.train.sampling is None else job.train.sampling.max_pairs
    return BinarizedData(
        data,
        job.train,
        seed=job.seed,
        knowledge=knowledge,
        monolingual=masked_text(workspace, job, codec),
        denoising=denoising_text(workspace, job, codec),
        weights=_weights(workspace, job),
        sampling=_sampling(job, codec),
        augmentation=_augmentation(workspace, job, codec, data, directions),
        links=_links(workspace, job),
        shares=job.shares,
        right_to_left=job.right_to_left,
        directions=directions,
        usable_P=None if directions is None or max_pairs is None else directions.usable(max_pairs, data.starts),
        selection=None if job.student is None else _selection(workspace, job, job.student, sets),
    )


def _directions(workspace: Workspace, job: Job) -> PairDirections | None:
    """Return the direction of each training pair, None for one direction."""
    config = workspace.config
    if not config.is_multilingual:
        return None
    files = [tags_file(workspace, name) for name in job.data]
    return PairDirections.read(files, [str(each) for each in config.trained_directions])


def _selection(
    workspace: Workspace, job: Job, student: Student, sets: Sequence[ParallelData]
) -> TargetSelection | None:
    if student.selective is None:
        return None
    distilled, raw = sets
    limit = min(_token_limits(job)[1], job.train.max_tokens)
    return open_selection(workspace, student.selective, distilled, raw, max_target_tokens=limit)


def _evaluator(workspace: Workspace, job: Job) -> NATransformer:
    assert job.student is not None
    assert job.student.selective is not None
    folder = evaluator_checkpoint(job, job.student.selective)
    _check_language_tokens(workspace, folder)
    _check_directions(workspace, folder)
    return load_evaluator(workspace, job, job.student.selective)


def _sampling(job: Job, codec: TextCodec) -> SubwordSampling | None:
    """Return the samplers of subwords, if the settings request them.

    Raises:
        UserError: if the tokenizer cannot be sampled with these settings.
    """
    settings = job.train.subword_regularization
    if settings is None:
        return None
    try:
        return SubwordSampling.of(codec, settings, seed=job.seed, max_tokens=_token_limits(job))
    except UserError as error:
        path = setting_path(job.path, "train.subword_regularization")
        raise UserError(f"'{path}': {error}") from None


def _augmentation(
    workspace: Workspace, job: Job, codec: TextCodec, data: ParallelData, directions: PairDirections | None
) -> Augmentation | None:
    """Return the changes of the training text, if the settings request them.

    Raises:
        UserError: if the vocabulary does not have the characters for them.
    """
    settings = _augment_settings(workspace, job, codec)
    if settings is None:
        return None
    source, target = (min(limit, job.train.max_tokens) for limit in _token_limits(job))
    try:
        return Augmentation.of(
            codec,
            settings,
            data,
            seed=job.seed,
            spaced=spaced_sides(workspace),
            tags=workspace.config.source_tags,
            max_tokens=(source, target),
            pairs=None if directions is None else _pairs_of_directions(workspace, directions),
        )
    except UserError as error:
        raise UserError(f"'{setting_path(job.path, 'augment')}': {error}") from None


def _pairs_of_directions(workspace: Workspace, pairs: PairDirections) -> PairsOfDirections:
    directions = workspace.config.trained_directions
    spaced = [prepared.spaced_sides(workspace.config.prepare, each) for each in directions]
    return PairsOfDirections(directions, spaced, pairs.direction_P)


def _augment_settings(workspace: Workspace, job: Job, codec: TextCodec) -> Augment | None:
    """Return the settings of augmentation; the recipe without what the vocabulary cannot represent."""
    augment = job.augment
    if augment is None or not is_recipe(augment, workspace.config.unusable_modifiers):
        return augment
    return augment.model_copy(update=dict.fromkeys(unwritable_modifiers(codec, augment), 0.0))


def _augment_notes(workspace: Workspace, job: Job, data: BinarizedData) -> list[str]:
    """Return messages about changes of the recipe of augmentation that are left out."""
    if job.augment is None or data.augmentation is None:
        return []
    used = data.augmentation.text.settings.shares()
    unused = [name for name, share in job.augment.shares().items() if share and not used[name]]
    return [
        *recipe_notes(job.augment, workspace.config.unusable_modifiers),
        *(
            f"'augment: default' is used without '{name}': the vocabulary does not have the characters of its markup"
            for name in unused
        ),
    ]


def _warmup_notes(settings: Train) -> list[str]:
    """Return a message if the training ends within the warmup; `init_optimizer` continues an earlier schedule."""
    if settings.init_optimizer or settings.warmup_updates <= settings.max_updates:
        return []
    return [
        f"warning: the learning rate does not reach 'lr' ({settings.lr:g}): 'warmup_updates' "
        f"({settings.warmup_updates}) is more than 'max_updates' ({settings.max_updates})"
    ]


def _token_limits(job: Job) -> tuple[int, int]:
    """Return the maximum number of tokens of a source and of a target."""
    return token_limits(job.train, architecture(job.model.arch, job.model.overrides()))


def _open_data(workspace: Workspace, name: str, split: str) -> ParallelData:
    return open_split(workspace.training_set(name) / "data-bin", split, workspace.direction)


def _weights(workspace: Workspace, job: Job) -> np.ndarray | None:
    """Return the weight of each sentence pair, float32 [pairs]; None if all weights are equal."""
    files = [workspace.training_set(name) / WEIGHTS for name in job.data]
    if not any(file.exists() for file in files):
        return None
    sizes = [len(_open_data(workspace, name, "train")) for name in job.data]
    weights = [
        np.load(file) if file.exists() else np.ones(size, dtype=np.float32)
        for file, size in zip(files, sizes, strict=True)
    ]
    return np.concatenate(weights)


def _links(workspace: Workspace, job: Job) -> LinkSource | None:
    """Open the alignments of the training sets, for a model that learns them."""
    files = [LinkFile(each.folder(workspace) / LINKS) for each in job.alignments]
    return LinkSource(files) if files else None


def _knowledge(workspace: Workspace, student: Student | None) -> KnowledgeSource | None:
    """Open the caches of the training sets, for a student that learns from them.

    Raises:
        UserError: if one was made from another teacher, dictionary or data-bin.
    """
    if student is None or student.word_kd is None or not learns_from_cache(student):
        return None
    caches = []
    for data in student.data_names:
        caches.append(KnowledgeCache(workspace.knowledge(data)))
        caches[-1].check(cache_made_from(workspace, data))
    return KnowledgeSource(caches, temperature=student.word_kd.temperature, shares=student.shares)


# -------------------------------------------------------------------------------------------------------------- models


def _build_model(workspace: Workspace, job: Job, codec: TextCodec) -> tuple[Transformer, TrainingState | None]:
    """Return a model with its initial weights, and the optimiser state to start from, if any."""
    torch.manual_seed(job.seed)
    config = replace(
        architecture(job.model.arch, job.model.overrides()),
        right_to_left=job.right_to_left,
        target_from_source=workspace.config.decoder_reads_token,
    )
    sizes = {"src_vocab_size": len(codec.src_dictionary), "tgt_vocab_size": len(codec.tgt_dictionary)}
    model: Transformer
    if job.student is not None and job.student.nat is not None:
        model = build_nonautoregressive(config, nat_config(job.student.nat), **sizes)
    else:
        model = build_transformer(config, **sizes)
    if job.student is not None:
        _take_from_teacher(workspace, job.student, model)
    folder = job.first_checkpoint
    if folder is None:
        return model, None
    verify_checkpoint(folder)
    check_vocabulary(folder, workspace.prepare, workspace.direction)
    _check_language_tokens(workspace, folder)
    if is_right_to_left(folder) != job.right_to_left:
        order = "left to right" if job.right_to_left else "right to left"
        raise UserError(
            f"{folder}: the model predicts targets from {order}; the model that begins from it ({job.path}) does not"
        )
    try:
        load_weights(model, folder)
    except UserError as error:
        if job.before is None:
            raise
        raise UserError(f"{job.path}: all stages have the same model: {error}") from None
    return model, load_state(folder) if job.train.init_optimizer else None


def _check_language_tokens(workspace: Workspace, folder: Path) -> None:
    """Check that a model reads the language tokens of the pipeline, for the directions that both have.

    Raises:
        UserError: if it reads other tokens, or if its decoder begins with one and those of the pipeline do not, or the
            reverse.
    """
    config = workspace.config
    if takes_target_from_source(folder) != config.decoder_reads_token:
        without = "without" if config.decoder_reads_token else "with"
        raise UserError(
            f"{folder}: its decoder begins {without} a language token, unlike those of the pipeline ('language_tokens')"
        )
    if not config.is_multilingual:
        return
    text = load_text_processor(folder / TEXT_FILE)
    for theirs, direction in itertools.product(text.directions, config.trained_directions):
        tokens = text.prefixes[str(theirs)], language_prefix(direction, config.language_tokens)
        if theirs.matches(direction) and tokens[0] != tokens[1]:
            read, ours = (" ".join(each) or "nothing" for each in tokens)
            raise UserError(f"{folder}: the model reads {read} before sources of {direction}, and not {ours}")


def _check_directions(workspace: Workspace, folder: Path) -> None:
    """Check that a teacher has all directions that the pipeline trains.

    Raises:
        UserError: if it lacks one.
    """
    if workspace.config.is_multilingual:
        text = load_text_processor(folder / TEXT_FILE)
        for direction in workspace.config.trained_directions:
            require_direction(text, direction, str(folder))


def nat_config(settings: NAT) -> NATConfig:
    """Return the configuration of a non-autoregressive model."""
    same = {field.name for field in fields(NATConfig)} & set(NAT.model_fields)
    values = {name: getattr(settings, name) for name in same} | {"corrects": settings.correction > 0.0}
    if settings.streaming is not None:
        values["streaming"] = (settings.streaming.chunk, settings.streaming.right_context)
    return NATConfig(**values | ({"source_copy": "none"} if settings.decoder_input == "unk" else {}))


def _take_from_teacher(workspace: Workspace, student: Student, model: Transformer) -> None:
    if not takes_from_teacher(student):
        return
    folder = teacher_checkpoint(workspace)
    check_vocabulary(folder, workspace.prepare, workspace.direction)
    copy_from_teacher(
        model,
        load_model(folder),
        encoder_layers=student.encoder_layers_from_teacher,
        decoder_layers=student.decoder_layers_from_teacher,
        embeddings=student.embeddings_from_teacher,
    )


def _direction_selection(job: Job, data: BinarizedData) -> DirectionSelection | None:
    """Return the directions that a student learns from the teacher, None for all."""
    if not selects_directions(job.student):
        return None
    assert job.student is not None
    assert job.student.word_kd is not None
    settings = job.student.word_kd.direction_selection
    assert settings is not None
    assert data.directions is not None, "see kdmt.config.direction_checks"
    return DirectionSelection(data.directions.names, data.directions.direction_P, settings.margin)


def _objective(
    workspace: Workspace,
    job: Job,
    model: Transformer,
    codec: TextCodec,
    knowledge: KnowledgeSource | None,
    selection: DirectionSelection | None,
) -> Objective:
    return build_objective(
        model,
        job.student,
        label_smoothing=job.train.label_smoothing,
        teachers=_load_teachers(workspace, job, model),
        marginal_V=None if knowledge is None else torch.from_numpy(knowledge.marginal),
        guided_alignment=job.train.guided_alignment,
        consolidation=job.train.ewc,
        self_supervised=job.self_supervised,
        seed=job.seed,
        path=job.path,
        directions=selection,
        language_ids=codec.language_ids[0],
    )


def _load_teachers(workspace: Workspace, job: Job, model: Transformer) -> list[Transformer]:
    """Load the frozen teachers that run while a student is trained.

    Raises:
        UserError: if one has another vocabulary, other language tokens, not all directions, or fewer positions than the
            student trains on; or if the first one,
            whose hidden states or attention are compared, does not have the layers or heads for it.
    """
    student, teachers = job.student, []
    if student is None or not learns_from_running(student):
        return []
    for folder in teacher_checkpoints(workspace, student):
        check_vocabulary(folder, workspace.prepare, workspace.direction)
        _check_language_tokens(workspace, folder)
        _check_directions(workspace, folder)
        teachers.append(load_model(folder))
        if teachers[-1].config.right_to_left and student.compares_decoders:
            raise UserError(
                f"{folder}: the model predicts targets from right to left: {job.path}.{student.compares_decoders} "
                "compares predictions of one order"
            )
        check_positions(job.path, student, model.config, teachers[-1].config)
    check_inside(job.path, student, model.config, teachers[0].config)
    return teachers


# ---------------------------------------------------------------------------------------------------------- validation


def _keep_tokenizer(workspace: Workspace, run: Path) -> None:
    """Record the tokenizer for validation BLEU when a run begins, or continues without a recorded one.

    Scores with different tokenizers are not comparable, so a run keeps the tokenizer that it began with.

    Raises:
        UserError: if the packages of the tokenizer are missing.
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


def _validator(
    workspace: Workspace, job: Job, codec: TextCodec, device: torch.device, scorer: ValidationScorer | None
) -> Callable[[Objective], dict[str, float]]:
    """Return a function that computes loss, BLEU and the metric that selects the best checkpoint on the validation set.

    The validation set is that of the raw data, even if the training data is distilled. A run that is trained on text
    with noise alone has the loss of the validation text with noise, and nothing is translated.
    """
    try:
        if job.reads_text_alone:
            valid = validation_text(workspace, job, codec)
        else:
            pairs = _open_data(workspace, "raw", "valid")
            valid = BinarizedData(pairs, job.train, seed=0, right_to_left=job.right_to_left)
    except UserError as error:
        raise UserError(f"validation set: {error}") from None
    batches = valid.batches()
    of_directions = direction_validation(workspace, valid) if selects_directions(job.student) else None
    limit = job.train.validate_sentences or None
    sources = [valid.data[index][0] for index in range(len(valid.data))][:limit]
    references = read_lines(workspace.prepare / f"valid.{workspace.direction.target}")[:limit]
    wait_k = None
    if job.student is not None and job.student.wait_k is not None:
        wait_k = middle_k(values_of(job.student.wait_k))
    # words that were written cannot be replaced: simultaneous translation is greedy
    settings = Decode(beam=job.train.validate_beam if wait_k is None else 1)

    ranks, translates = workspace.ranks, job.train.validate_bleu and not job.reads_text_alone

    def validate(objective: Objective) -> dict[str, float]:
        figures = validation_loss(objective, valid, batches, device=device, ranks=ranks)
        if isinstance(objective.view, SomeHidden):
            figures |= visible_nll(objective, valid, batches, device=device, ranks=ranks)
        if of_directions is not None:
            nll = of_directions.of_student(objective, device=device, ranks=ranks)
            figures |= {f"{PREFIX}{name}": value for name, value in nll.items()}
        if translates and math.isfinite(figures["loss"]):  # a model with NaN cannot decode
            translator = Translator.of_model(objective.model, codec, device=device, wait_k=wait_k)
            parts = ranks.collect(translator.translate_ids(sources[ranks.rank :: ranks.world], settings))
            hypotheses = interleave(parts)
            tokenize = _kept_tokenizer(job.folder)
            for metric in dict.fromkeys(("bleu", job.train.best_metric)):
                if metric == job.train.scorer:
                    assert scorer is not None
                    figures[metric] = scorer.score(hypotheses)
                elif metric != "loss":
                    score = score_words(workspace, metric, hypotheses, references, tokenize=tokenize)
                    figures[metric] = score.value
        return figures

    return validate


def _signature(workspace: Workspace, job: Job, scorer: ValidationScorer | None) -> str | None:
    """Return the signature of `best_metric` in the validations of a run, None for the loss.

    It does not depend on the text, so that a resumed run has it without a validation.
    """
    metric = job.train.best_metric
    if metric == "loss":
        return None
    if scorer is not None:
        return scorer.signature()
    return score_words(workspace, metric, [""], [""], tokenize=_kept_tokenizer(job.folder)).signature


def _checkpoint_files(folder: Path) -> list[Path]:
    """Return the outputs of the stage: the weights of the averages, `best` and `last`, each with its checksums."""
    folders = {resolve_checkpoint(folder / name) for name in (*CHECKPOINT_PREFERENCE, AVERAGE_BEST)}
    files = [path for each in folders for path in (each / "checksums.json", each / "model.safetensors")]
    return [*files, folder / "best", folder / "last", folder / CHOSEN]
