"""The stages that make training sets: the teacher translates the training set, and its output becomes training sets.

distill/
    blocks/                         one checksummed file for each block
    engine/, logs/                  the teacher in CTranslate2's format; a log for each worker
    noised/                         text with 'distill.augment', if it is set (`kdmt.distill.noised`)
    nbest, nbest.npy                all hypotheses as text (`kdmt.distill.candidates`)
    sentences.npy                   index of the distinct sentence on each line: int64
    distilled.<lang>                words; sources and targets of the training set
    distilled.tags                  tags, if the training set has tags
    rejected                        index of a line, failure, action taken
    pivots.tsv                      intermediate text of each candidate of a teacher with a pivot language
    reverse.npy                     cross entropy of each pair by the reverse model, if there is one: float32
    quality.npy, quality.html       score of each pair by the external scorer, if there is one: float64; its histogram
    data-bin/                       the distilled corpus, binarised with the teacher's vocabulary

pool/                               candidates without a training text (`kdmt.stages.pool_work`)
sampled/                            the same files for translations drawn from the teacher
imported/                           the same files for translations of another system, without blocks
interpolated/, mbr/, ...        other choices from pool/nbest, or distill/nbest if there is no pool, without nbest and
                                blocks, with choices.tsv: the record of the candidate on each line and of the reason
reranked/                       also weights.json (weights of the features), valid/ (candidates of the validation set)

This module plans; `kdmt.stages.distill_work` does the work. `kdmt.training_sets` is the table of training sets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from kdmt.choices import DistillEngine
from kdmt.config import Distill, Mbr, Rerank, ScorerScores, Section
from kdmt.config.augment import recipe_notes
from kdmt.corpus.prepared import MONOLINGUAL_TAGS, PreparedCorpus
from kdmt.distill.block_size import ON_CPUS
from kdmt.distill.chosen_teacher import EARLIER, EXACT, ONCE, SEARCH, ChosenTeacher, SearchingTeacher
from kdmt.distill.direction_teachers import DirectionTeachers, choose_direction_teachers
from kdmt.distill.endpoint_teacher import EndpointModel
from kdmt.distill.inputs import Inputs
from kdmt.distill.noised import NOISED, is_whole
from kdmt.distill.quality import QualityFilter
from kdmt.distill.rerank import MBR, VALID, scored_features
from kdmt.distill.reverse import reverse_inputs
from kdmt.distill.target_choices import CHOICES, expected_utility
from kdmt.distill.teachers import choose_teacher
from kdmt.distill.text_teachers import TextTeacherModel
from kdmt.flow.folders import earlier_states
from kdmt.flow.manifest import Plan, check_status, file_input, make_plan, recorded_outputs, recorded_plan
from kdmt.flow.shards import Shards
from kdmt.flow.stage import Stage
from kdmt.models.checkpoint_choice import AUTO
from kdmt.models.checkpoint_folder import checkpoint_sha256, resolve_checkpoint, resolve_name
from kdmt.score.scorers.segment_scores import model_inputs
from kdmt.stages.measures import prepared_corpus, recorded_tokenizer, with_ratio, with_tokenizer, words_tokenizer
from kdmt.stages.workspace import Workspace
from kdmt.training_sets import TRAINING_SETS, Origin

if TYPE_CHECKING:
    from kdmt.distill.backward import BackwardScores
    from kdmt.distill.candidate_scores import CandidateScores
    from kdmt.stages.distill_work import Choosing, Decoding, Importing, Job
    from kdmt.stages.rerank_work import Reranking

_COMMAND = "kdmt distill"
# values of settings whose effect depends on the machine -> values in plans, which are those of a CPU: a plan does not
# depend on the machine, and records of versions without the automatic value remain valid; the header of a block has the
# number type of a GPU, and the folder the size of its blocks
_ON_CPUS: dict[str, tuple[object, object]] = {
    "distill.compute_type": ("auto", "float32"),
    "distill.block_size": (None, ON_CPUS),
}
_CHECKPOINT = "distill.checkpoint"
_ENGINE = "distill.engine"
_LANGUAGE_CHECK = "language check"  # of the answers of a teacher that answers with text
_QUALITY_REFERENCES = "references of distill.quality"  # with noise
_SYSTEM_CHECKS = "failures of other systems"
_UTILITY_SETTINGS = ("utility", "weights", "aggregate")  # of `distill.mbr`, for sets that use the expected utility
_BACKWARD = "backward"  # folder of scores inside that of a stage
# origin of a training set -> fields of `distill` for the search for the best translations, on which it does not depend
_WITHOUT_EFFECT: dict[Origin, tuple[str, ...]] = {
    "sampling": ("decode.beam", "decode.nbest", "decode.lenpen", "nat", "iterations"),
    "pool": ("decode.beam", "decode.nbest", "nat", "iterations"),
}


@dataclass(frozen=True)
class TextStage:
    """A stage that makes a training set, with its verification and its shards.

    Attributes:
        verify: function of (number of blocks, seed) that checks the training set and decodes some blocks again.
        shards: functions that make it in shards; None if one command makes it.
        estimate: function that prints the requests to an endpoint that it still needs; None if the teacher translates
            nothing for it.
    """

    stage: Stage
    verify: Callable[[int, int | None], None]
    shards: Shards | None = None
    estimate: Callable[[], None] | None = None


@dataclass(frozen=True)
class _Surroundings:
    """A pipeline and the stages that training sets are made from."""

    workspace: Workspace
    prepare: Stage
    teacher: Stage
    made: Mapping[str, TextStage]  # training sets built so far, in the order of the table


def text_stages(workspace: Workspace, *, prepare: Stage, teacher: Stage) -> dict[str, TextStage]:
    """Return the stages of the training sets that students learn from, and of `distilled`, by name.

    The teacher does not translate if students learn only from files and the corpus, and from at least one file. It does
    not make `distilled` if they learn from choices among a pool and from nothing else that it translates.
    """
    wanted = {name for _, student in workspace.config.trainings() for name in student.data_names}
    origins, has_pool = {TRAINING_SETS[name].origin for name in wanted}, workspace.config.distill.pool is not None
    others = origins - {"corpus", "back_translation"}
    if not (
        ("file" in others and others <= {"file"}) or (has_pool and "choice" in others and others <= {"choice", "file"})
    ):
        wanted.add("distilled")
    if has_pool:
        wanted.add("pool")
    made: dict[str, TextStage] = {}
    for name, training_set in TRAINING_SETS.items():
        if name in wanted and training_set.origin in _BUILDERS:
            made[name] = _BUILDERS[training_set.origin](_Surroundings(workspace, prepare, teacher, made), name)
    return made


def inputs_of(workspace: Workspace, name: str = "distilled") -> Inputs:
    """Return the text that is distilled for a training set.

    Choices read the text of their candidates. Translations from a file are of the corpus.
    """
    settings, origin = workspace.config.distill, TRAINING_SETS[name].origin
    inputs = Inputs(prepared_corpus(workspace), settings.monolingual, context=workspace.config.prepare.context)
    originals = frozenset(name for name, teacher in settings.by_direction.items() if teacher is None)
    if originals and origin != "file":
        inputs = replace(inputs, originals=originals)
    if settings.augment is None or origin == "file":
        return inputs
    translated = _candidates(settings) if origin == "choice" else name
    return replace(inputs, noised=workspace.training_set(translated) / NOISED)


def _work(workspace: Workspace, name: str) -> Decoding | Choosing | Reranking | Importing:
    """Return the work on one training set, with what it needs from the pipeline."""
    from kdmt.stages import distill_work, pool_work  # load decoding, its workers and sacreBLEU

    config, made = workspace.config, TRAINING_SETS[name]
    job = _job(workspace, workspace.training_set(name), inputs_of(workspace, name))
    file = _file_of(config.distill, name)
    if made.origin == "choice":
        scores: tuple[Path, ...] = () if file is None else (file,)
        if name == "reranked":
            scores = tuple(Path(files.train) for files in config.distill.rerank.files.values())
        tokenizer = partial(recorded_tokenizer, job.folder, config.prepare.text)
        candidates = workspace.training_set(_candidates(config.distill))
        backward = _backward(job, candidates, job.folder / _BACKWARD) if name == "reranked" else None
        scored = _scored_candidates(workspace, job, name, candidates, job.folder)
        choosing = distill_work.Choosing(
            job, name, candidates=candidates, scores=scores, tokenizer=tokenizer, backward=backward, scored=scored
        )
        return _reranking(workspace, choosing) if _tunes(config.distill, name) else choosing
    if made.origin == "file":
        assert file is not None
        return distill_work.Importing(job, file)
    if made.origin == "pool":
        return pool_work.Pooling(job, _teacher(workspace, name), config.distill.pool)
    sample = config.distill.sample if made.origin == "sampling" else None
    return distill_work.Decoding(job, _teacher(workspace, name), sample)


def _job(workspace: Workspace, folder: Path, inputs: Inputs) -> Job:
    """Return what the work on a training set shares.

    Args:
        folder: folder of the training set.
        inputs: text that is translated.
    """
    from kdmt.stages import distill_work  # see `_work`

    config = workspace.config
    writer = distill_work.TrainingTextWriter(
        folder=folder,
        inputs=inputs,
        settings=config.distill,
        tokenize=words_tokenizer(workspace),
        remove_bpe=config.prepare.tokenizer.remove_bpe,
        say=workspace.say,
        quality=_quality_filter(workspace),
    )
    noise = config.distill.augment
    notes = [] if noise is None else recipe_notes(noise, config.unusable_modifiers)
    return distill_work.Job(writer, config.prepare.text, workspace.resolved_config(), notes)


def _stage(workspace: Workspace, name: str, upstream: tuple[Stage, ...], plan: Callable[[], Plan]) -> Stage:
    folder = workspace.training_set(name)
    return Stage(
        folder.name, _COMMAND, folder, upstream, plan, lambda made_from: _work(workspace, name).make(made_from)
    )


def _verify(workspace: Workspace, name: str, plan: Callable[[], Plan], blocks: int, seed: int | None) -> None:
    _work(workspace, name).verify(plan(), blocks, seed)


def _choice_sections(workspace: Workspace) -> dict[str, Section]:
    """Return the sections that the choice among candidates depends on, for a plan."""
    settings = workspace.config.distill
    sections: dict[str, Section] = {"distill.failures": settings.failures}
    if settings.reverse is not None:
        sections["distill.reverse"] = settings.reverse
    quality = _quality_filter(workspace)
    return sections if quality is None else sections | quality.sections()


def _quality_filter(workspace: Workspace) -> QualityFilter | None:
    config = workspace.config
    return QualityFilter.of(config.distill.quality, config.scorers, workspace.scorers, workspace.say)


def _with_changed_references(plan: Plan, workspace: Workspace) -> Plan:
    """Return a plan that depends on the references that the quality filter reads, if the text has noise.

    Earlier versions compared the changed text with the references of the corpus.
    """
    config = workspace.config
    quality = config.distill.quality
    if quality is None or config.distill.augment is None or not config.scorers[quality.scorer].reference:
        return plan
    plan = plan.depending_on(_QUALITY_REFERENCES, "changed", default="of the corpus")
    return replace(plan, reasons=plan.reasons | {_QUALITY_REFERENCES: "an earlier version read other references"})


def _filter_inputs(workspace: Workspace) -> dict[str, str]:
    """Return the SHA-256 of the models that filter pairs, for a plan."""
    quality = _quality_filter(workspace)
    return reverse_inputs(workspace.config.distill.reverse) | ({} if quality is None else quality.inputs())


def _prepared_inputs(prepare: Path, wanted: tuple[str, ...]) -> dict[str, str]:
    """Return the files of the prepare stage whose names begin with one of `wanted`."""
    outputs = recorded_outputs(prepare)
    return {f"prepare/{name}": sha for name, sha in outputs.items() if name.startswith(wanted)}


# ------------------------------------------------------------------------------------------------------------ decoding


def _decoding_stage(around: _Surroundings, name: str) -> TextStage:
    """Return a stage in which the teacher decodes: its best translations, or samples from its distribution."""
    workspace, plan = around.workspace, partial(_decoding_plan, around.workspace, name)
    # the pipeline's teacher is not needed if the settings name others
    upstream = (around.prepare, around.teacher) if _has_own_teacher(workspace) else (around.prepare,)
    shards = Shards(
        begin=lambda made_from: _decoding(workspace, name).begin(made_from),
        make=lambda made_from, shard, shards: _decoding(workspace, name).make_shard(made_from, shard, shards),
        is_begun=None if workspace.config.distill.augment is None else partial(_is_begun, workspace, name),
    )
    return TextStage(
        _stage(workspace, name, upstream, plan),
        partial(_verify, workspace, name, plan),
        shards,
        lambda: _decoding(workspace, name).estimate(plan()),
    )


def _has_own_teacher(workspace: Workspace) -> bool:
    """Return whether the pipeline's teacher translates the text, or that of a direction."""
    config = workspace.config
    if config.distill.by_direction:
        return any(str(each) not in config.distill.by_direction for each in config.trained_directions)
    return not config.distill.teachers


def _is_begun(workspace: Workspace, name: str, plan: Plan) -> bool:
    """Return whether the folder of a training set is open for work, and has the changed text undamaged."""
    noised = inputs_of(workspace, name).noised
    state = check_status(workspace.training_set(name), plan).state
    return state not in ("stale", "new") and noised is not None and is_whole(noised)


def _decoding(workspace: Workspace, name: str) -> Decoding:
    return cast("Decoding", _work(workspace, name))


def _teacher(workspace: Workspace, name: str) -> ChosenTeacher:
    return _chosen(workspace, inputs_of(workspace, name), others=(workspace.training_set("reranked"), VALID))


def _chosen(workspace: Workspace, inputs: Inputs, others: tuple[Path, str]) -> ChosenTeacher:
    """Return the teacher.

    Args:
        others: folder of another stage for which it translates, and the name of the folder in it with its answers.
    """
    settings = workspace.config.distill
    if settings.by_direction:
        directions = workspace.config.trained_directions
        of_directions = choose_direction_teachers(settings, inputs, workspace.teacher, directions)
        return of_directions.counting(partial(_states_of, *others))
    teacher = choose_teacher(settings, inputs, workspace.teacher)
    if isinstance(teacher, EndpointModel):
        return replace(teacher, others=partial(_states_of, *others))
    return teacher


def _states_of(folder: Path, name: str) -> list[Path]:
    """Return a folder within all states of a stage's folder."""
    return [state / name for state in (folder, *earlier_states(folder))]


def _decoding_plan(workspace: Workspace, name: str) -> Plan:
    settings = workspace.config.distill
    wanted: tuple[str, ...] = ("tokenizer/", "text.json", "dict.", "data-bin/train.", "train.")
    if settings.monolingual:
        src = workspace.direction.source
        wanted += (f"data-bin/monolingual.{workspace.direction}.{src}.", f"monolingual.{src}", MONOLINGUAL_TAGS)
    inputs = _prepared_inputs(workspace.prepare, wanted)
    teacher = _teacher(workspace, name)
    inputs |= teacher.inputs() | _filter_inputs(workspace)
    if TRAINING_SETS[name].origin == "pool" and settings.pool is not None:
        inputs |= {path: file_input(Path(path)) for path in settings.pool.systems.values()}
    quality = _quality_filter(workspace)
    sections = {} if quality is None else quality.sections()
    made_from = make_plan({**sections, "distill": settings}, {}, inputs)
    left_out = [field for other, each in TRAINING_SETS.items() if other != name for field in each.own_settings]
    left_out += _WITHOUT_EFFECT.get(TRAINING_SETS[name].origin, ())
    own = {key: value for key, value in made_from.settings.items() if not _is_below(key, left_out)}
    defaults = made_from.defaults | EARLIER
    own[_CHECKPOINT] = _checkpoint_name(workspace)
    defaults[_CHECKPOINT] = "average"  # of versions without 'auto'
    for values in (own, defaults):
        for key, (automatic, on_cpus) in _ON_CPUS.items():
            if key in values and values[key] == automatic:
                values[key] = on_cpus
    plan = _with_language_check(replace(made_from, settings=own, defaults=defaults), teacher)
    if TRAINING_SETS[name].origin == "pool" and settings.pool is not None and settings.pool.systems:
        plan = _with_checks_of_systems(plan)
    plan = with_ratio(_with_changed_references(plan, workspace), settings, prepared_corpus(workspace))
    if not isinstance(teacher, SearchingTeacher) or teacher.engine != "ctranslate2":
        return plan
    return _with_search(plan, settings.engine, TRAINING_SETS[name].origin, workspace.training_set(name))


def _with_search(plan: Plan, engine: DistillEngine, origin: Origin, folder: Path) -> Plan:
    """Return a plan that depends on how CTranslate2 searches.

    Earlier versions had the exact search only. What they made remains up to date and is continued with that search,
    also if the setting of the engine is now `ctranslate2_exact`.

    Args:
        engine: engine in the settings.
        origin: origin of the training set.
        folder: folder of the training set.
    """
    plans = [plan]
    if engine == "ctranslate2_exact":
        same = ("ctranslate2", "auto") if origin == "search" else ("ctranslate2",)
        plans = [replace(plan, settings=plan.settings | {_ENGINE: name}) for name in same]
    elif origin == "search":
        plans = [plan.depending_on(SEARCH, ONCE, default=EXACT), plan]
    for state in (folder, *earlier_states(folder)):
        for each in plans:
            if check_status(state, each).state not in ("stale", "new"):
                return each
    return plans[0]


def _with_language_check(plan: Plan, teacher: ChosenTeacher) -> Plan:
    """Return a plan that depends on how the language of answers is checked, if the teacher answers with text.

    A plan of an earlier version lacks it and remains up to date; its blocks have it.
    """
    methods: dict[str, str] = {}
    if isinstance(teacher, TextTeacherModel):
        methods = {_LANGUAGE_CHECK: teacher.check_of_language.method}
    elif isinstance(teacher, DirectionTeachers):
        methods = {f"{_LANGUAGE_CHECK} of {name}": method for name, method in teacher.language_checks.items()}
    for key, method in methods.items():
        plan = plan.depending_on(key, method, default=method)
        plan = replace(plan, reasons=plan.reasons | {key: "py3langid was installed or removed"})
    return plan


def _with_checks_of_systems(plan: Plan) -> Plan:
    """Return a plan that depends on the failures that are found in the text of other systems.

    Earlier versions did not look for these.
    """
    plan = plan.depending_on(_SYSTEM_CHECKS, ["repetition", "unk"], default=[])
    return replace(plan, reasons=plan.reasons | {_SYSTEM_CHECKS: "an earlier version did not look for them"})


def _checkpoint_name(workspace: Workspace) -> str:
    """Return the name of the teacher's checkpoint for a plan: `auto` is recorded as what it is.

    A training set of an older run, which has no choice, thus remains up to date. The name has no effect if the settings
    name other teachers.
    """
    settings = workspace.config.distill
    if not _has_own_teacher(workspace):
        return "average" if settings.checkpoint == AUTO else settings.checkpoint
    return resolve_name(workspace.teacher, settings.checkpoint)


def _is_below(key: str, fields: Iterable[str]) -> bool:
    """Return whether a dotted path is one of the given fields of `distill`, or inside one."""
    return any(f"{key}.".startswith(f"distill.{field}.") for field in fields)


# ------------------------------------------------------------------------------------ other choices among the same text


def _choosing_stage(around: _Surroundings, name: str) -> TextStage:
    """Return a stage that chooses among the candidates of the pool or, if there is none, of `distilled`."""
    workspace, plan = around.workspace, partial(_choosing_plan, around.workspace, name)
    candidates = around.made[_candidates(workspace.config.distill)].stage
    stage = _stage(workspace, name, (around.prepare, candidates), plan)
    estimate = None
    if _tunes(workspace.config.distill, name):
        estimate = lambda: cast("Reranking", _work(workspace, name)).estimate(plan())  # noqa: E731
    return TextStage(stage, partial(_verify, workspace, name, plan), estimate=estimate)


def _choosing_plan(workspace: Workspace, name: str) -> Plan:
    """Return the plan of a choice, which depends on the prepared text, its tokenizer and its vocabulary.

    Earlier versions recorded the candidates only. What they made remains up to date if the prepared files did not
    change since.
    """
    wanted: tuple[str, ...] = ("tokenizer/", "text.json", "dict.", "train.")
    if workspace.config.distill.monolingual:
        wanted += (f"monolingual.{workspace.direction.source}", MONOLINGUAL_TAGS)
    prepared = _prepared_inputs(workspace.prepare, wanted)
    plan, folder = _plan_of_choice(workspace, name, prepared), workspace.training_set(name)
    as_earlier = _plan_of_choice(workspace, name, {})
    for state in (folder, *earlier_states(folder)):
        if check_status(state, plan).state not in ("stale", "new"):
            return plan
        is_earlier = check_status(state, as_earlier).state not in ("stale", "new")
        if is_earlier and _is_unchanged(workspace, prepared, state):
            return as_earlier
    return plan


def _is_unchanged(workspace: Workspace, prepared: Mapping[str, str], made: Path) -> bool:
    """Return whether there is no state of the prepare stage or of the candidates with other prepared files.

    Args:
        prepared: prepared files that a choice among the candidates depends on.
        made: state of the choice, which has copies of the dictionaries.
    """
    candidates = workspace.training_set(_candidates(workspace.config.distill))
    known = [
        {f"prepare/{name}": sha for name, sha in recorded_outputs(state).items()}
        for state in earlier_states(workspace.prepare)
    ]
    plans = [recorded_plan(state) for state in earlier_states(candidates)]
    known += [plan.inputs for plan in plans if plan is not None]
    known.append({name.replace("data-bin/", "prepare/"): sha for name, sha in recorded_outputs(made).items()})
    return all(each.get(name, sha) == sha for each in known for name, sha in prepared.items())


def _plan_of_choice(workspace: Workspace, name: str, prepared: Mapping[str, str]) -> Plan:
    """Return the plan of a choice that depends on the given prepared files."""
    config, settings = workspace.config, workspace.config.distill
    candidates = workspace.training_set(_candidates(settings))
    inputs = {f"{candidates.name}/{file}": sha for file, sha in recorded_outputs(candidates).items()}
    inputs |= {**prepared, **_filter_inputs(workspace)}
    if (path := _file_of(settings, name)) is not None:
        inputs[str(path)] = file_input(path)
    sections = _choice_sections(workspace)
    extra: dict[str, object] = {}
    for field in TRAINING_SETS[name].settings:
        value = getattr(settings, field)
        (sections if isinstance(value, Section) else extra)[f"distill.{field}"] = value
    if name == "scored" and isinstance(settings.scores, ScorerScores):
        sections["distill.scores"] = settings.scores
    used = _scorers_of(settings, name)
    scorers = {scorer: config.scorers[scorer] for scorer in used.values()}
    sections |= {f"scorers.{scorer}": own for scorer, own in scorers.items()}
    inputs |= model_inputs(scorers)
    if any(config.scorers[scorer].reference for feature, scorer in used.items() if feature != MBR):
        inputs |= _prepared_inputs(workspace.prepare, ("train.",))  # also in records of earlier versions
    if _tunes(settings, name):
        inputs |= _prepared_inputs(workspace.prepare, ("valid.", "data-bin/valid."))
    plan = _with_changed_references(make_plan(sections, extra, inputs), workspace)
    plan = with_ratio(plan, settings, prepared_corpus(workspace))
    if _tunes(settings, name):
        plan = _with_language_check(plan, _teacher(workspace, _candidates(settings)))
    if name == "reranked":
        recorded = recorded_plan(workspace.training_set(name))
        plan = _reranking_plan(plan, settings.rerank, prepared_corpus(workspace), recorded)
    if _uses_utility(settings, name):
        for field in _UTILITY_SETTINGS:
            default = Mbr.model_fields[field].default
            plan = plan.depending_on(f"distill.mbr.{field}", getattr(settings.mbr, field), default=default)
    if not CHOICES[name].uses_bleu(settings):
        return plan
    return with_tokenizer(plan, workspace.training_set(name), config.prepare.text, words_tokenizer(workspace))


def _uses_utility(settings: Distill, name: str) -> bool:
    """Return whether a training set besides `mbr` depends on the expected utility of candidates."""
    if name == "reranked":
        return "mbr" in settings.rerank.features
    return name == "diverse" and settings.diverse.quality == "utility"


def _scorers_of(settings: Distill, name: str) -> dict[str, str]:
    """Return the scores of candidates that external scorers compute for a training set: name -> scorer."""
    if name == "scored" and isinstance(settings.scores, ScorerScores):
        return {settings.scores.scorer: settings.scores.scorer}
    if name == "mbr" and settings.mbr.scorer is not None:
        return {MBR: settings.mbr.scorer}
    return scored_features(settings.rerank, settings.mbr) if name == "reranked" else {}


def _scored_candidates(
    workspace: Workspace, job: Job, name: str, candidates: Path, folder: Path
) -> tuple[CandidateScores, ...]:
    """Return the scores of candidates by external scorers that the choice of a training set uses.

    Args:
        job: work on the text that the candidates translate.
        candidates: folder of the candidates.
        folder: folder in which that of the scores is made.
    """
    from kdmt.distill.candidate_scores import FOLDER, CandidateScores  # load the candidates, see `_work`

    settings = workspace.config.distill
    expected = expected_utility(settings, "")
    if name != "mbr":
        expected = replace(expected, prune=0)  # every candidate needs a value
    return tuple(
        CandidateScores(
            scorer=scorer,
            settings=workspace.config.scorers[scorer],
            caches=workspace.scorers,
            inputs=job.writer.inputs,
            candidates=candidates,
            failures=settings.failures,
            path=folder / FOLDER / f"{feature}.txt",
            say=workspace.say,
            expected=expected if feature == MBR else None,
        )
        for feature, scorer in _scorers_of(settings, name).items()
    )


def _candidates(settings: Distill) -> str:
    """Return the name in `TRAINING_SETS` of the candidates that sets of origin `choice` choose from."""
    return "distilled" if settings.pool is None else "pool"


def _reranking_plan(plan: Plan, settings: Rerank, corpus: PreparedCorpus, recorded: Plan | None) -> Plan:
    """Return a plan in which files and models are inputs, and not settings.

    Models are inputs under the names of their settings, so that they may be moved.

    Args:
        recorded: plan of the present state of the folder. If an earlier version made it, models are inputs under their
            paths, and the paths are settings.
    """
    files = {f"distill.rerank.files.{name}" for name in settings.files}
    kept = {key: value for key, value in plan.settings.items() if key.rpartition(".")[0] not in files}
    kept["distill.rerank.files"] = list(settings.files)
    paths = [path for each in settings.files.values() for path in (each.train, each.valid) if path is not None]
    inputs = plan.inputs | {path: file_input(Path(path)) for path in paths}
    models: dict[str, tuple[str | None, Callable[[Path], str]]] = {
        "distill.rerank.language_model": (settings.language_model, file_input),
        "distill.rerank.backward": (settings.backward, lambda path: checkpoint_sha256(resolve_checkpoint(path))),
    }
    for name, (path, sha256_of) in models.items():
        is_earlier = recorded is not None and recorded.settings.get(name) is not None
        if path is not None:
            inputs[path if is_earlier else name] = sha256_of(Path(path))
        if not is_earlier:
            kept[name] = None
    plan = replace(plan, settings=kept, inputs=inputs)
    if "ratio" not in settings.features:
        return plan
    ratio = corpus.typical_ratios()
    return plan.depending_on("typical_ratio", ratio, default=ratio)


def _tunes(settings: Distill, name: str) -> bool:
    """Return whether weights of features are tuned for a training set."""
    return name == "reranked" and settings.rerank.weights is None


def _reranking(workspace: Workspace, choosing: Choosing) -> Reranking:
    """Return the work on a training set whose weights are tuned on the validation set."""
    from kdmt.stages import distill_work, pool_work, rerank_work  # see `_work`

    config, inputs = workspace.config, Inputs(prepared_corpus(workspace), split="valid")
    job = _job(workspace, choosing.job.folder / VALID, inputs)
    teacher = _chosen(workspace, inputs, others=(workspace.training_set("distilled"), ""))
    decoding, pool = distill_work.Decoding(job, teacher, sample=None), config.distill.pool
    if pool is not None:  # candidates of other systems are those of the training set
        decoding = pool_work.Pooling(job, teacher, pool.model_copy(update={"systems": {}}))
    scores = {name: files.valid for name, files in config.distill.rerank.files.items()}
    plan = partial(_decoding_plan, workspace, _candidates(config.distill))
    backward = _backward(job, job.folder, job.folder / _BACKWARD)
    scored = _scored_candidates(workspace, job, "reranked", job.folder, job.folder)
    return rerank_work.Reranking(choosing, decoding, plan, scores, backward, scored)


def _backward(job: Job, candidates: Path, folder: Path) -> BackwardScores | None:
    """Return the scores of candidates by a model of the opposite direction, if a feature needs them.

    Args:
        job: work on the text that the candidates translate.
        candidates: folder of the candidates.
        folder: folder for the scores.
    """
    from kdmt.distill.backward import BackwardScores  # loads the workers
    from kdmt.distill.training_text import NBEST, SENTENCES

    checkpoint = job.settings.rerank.backward
    if checkpoint is None:
        return None
    inputs = job.writer.inputs
    return BackwardScores(
        Path(checkpoint),
        job.settings,
        inputs.texts(),
        candidates / NBEST,
        candidates / SENTENCES,
        folder,
        of_directions=inputs.has_several,
    )


def _file_of(settings: Distill, name: str) -> Path | None:
    """Return the file that a training set is made from, None if there is none."""
    field = TRAINING_SETS[name].file
    value = None if field is None else getattr(settings, field)
    return None if field is None or isinstance(value, Section) else Path(value or "")


# ------------------------------------------------------------------------------------------------ another system's text


def _importing_stage(around: _Surroundings, name: str) -> TextStage:
    """Return a stage that takes another system's translations from a file."""
    workspace, plan = around.workspace, partial(_importing_plan, around.workspace, name)
    return TextStage(_stage(workspace, name, (around.prepare,), plan), partial(_verify, workspace, name, plan))


def _importing_plan(workspace: Workspace, name: str) -> Plan:
    settings = workspace.config.distill
    path, src = _file_of(settings, name), workspace.direction.source
    assert path is not None
    wanted = ("tokenizer/", "text.json", "dict.", "train.", f"monolingual.{src}", MONOLINGUAL_TAGS)
    inputs = _prepared_inputs(workspace.prepare, wanted)
    inputs |= {str(path): file_input(path)} | _filter_inputs(workspace)
    extra: dict[str, object] = {"distill.monolingual": settings.monolingual}
    if settings.imported_sources:
        extra["distill.imported_sources"] = True
    plan = _with_checks_of_systems(make_plan(_choice_sections(workspace), extra, inputs))
    return with_ratio(plan, settings, prepared_corpus(workspace))


_BUILDERS: dict[Origin, Callable[[_Surroundings, str], TextStage]] = {
    "search": _decoding_stage,
    "sampling": _decoding_stage,
    "pool": _decoding_stage,
    "choice": _choosing_stage,
    "file": _importing_stage,
}
