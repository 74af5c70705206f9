"""The work of the score stage: every system translates every test set, and the translations are scored.

scores.json, significance.json, diagnostics.json,   next to the folders of the stages
report.html
score/<system>.seed_<n>.<test set>.beam<k>.<lang>   the scored translations; for non-autoregressive models `iter<n>`
                                                    in place of the beam, with the wait-k policy `wait<k>`
score/decoded/                                      the same in the form of the decoder: they depend on the checkpoint
                                                    and its decoding, and are scored again when a metric changes
score/decoded/train/                                the translations of training sentences, for the diagnostics
score/exports/                                      students for the engines of `score.engines`
                                                    (`kdmt.stages.exported_engines`)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

from kdmt.checksum import known_sha256
from kdmt.config import Score
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.lines import write_lines
from kdmt.decode.engines.engine import Engine, EngineOptions, RefiningEngine
from kdmt.decode.engines.process import library_version
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.decode.engines.table import EngineKind, find_engine
from kdmt.decode.engines.translator import Translator
from kdmt.errors import UserError
from kdmt.flow.folders import earlier_states
from kdmt.flow.manifest import Plan, begin, finish, recorded_outputs, software_versions
from kdmt.languages import Direction
from kdmt.models.checkpoint import num_parameters
from kdmt.models.checkpoint_folder import checkpoint_sha256, resolve_checkpoint
from kdmt.runtime import pick_device, use_threads
from kdmt.score.averages import AVERAGES, write_averages
from kdmt.score.deployment import Deployment, losses
from kdmt.score.latency import measure_speed
from kdmt.score.metrics import MetricScore
from kdmt.score.off_target import OffTargetRate
from kdmt.score.score_files import Missing, ReportFiles, ScoreRow, TakenCheckpoint, write_comparisons, write_scores
from kdmt.score.system_diagnostics import TrainingOutputs, write_diagnostics
from kdmt.score.systems import System, SystemRun, Way, compare_runs, file_name, taken_checkpoint
from kdmt.score.test_sets import TestSet
from kdmt.score.translations import Decoded, Translations
from kdmt.stages.contrastive_scores import write_contrastive
from kdmt.stages.direction_scores import direction_averages
from kdmt.stages.exported_engines import (
    ExportedModel,
    compute_type,
    exported_model,
    python_of,
    translate_and_measure,
)
from kdmt.stages.external_scores import add_external_scores
from kdmt.stages.measures import tokenizer_note
from kdmt.stages.references import join_words
from kdmt.stages.score_diagnostics import (
    SAMPLE,
    DiagnosedRun,
    Sample,
    diagnose,
    read_texts,
    read_training,
    translate_sample,
)
from kdmt.stages.score_report import write_report
from kdmt.stages.scored_references import scored_test_set
from kdmt.stages.simultaneous_scores import has_delays, latency_of, measure_delays, wait_k_ways
from kdmt.stages.variants import ScoredText, scored_texts
from kdmt.stages.workspace import Workspace
from kdmt.types import Hypothesis

_DECODED = "decoded"  # inside the stage's folder


def score_systems(
    workspace: Workspace,
    systems: Sequence[System],
    missing: Sequence[Missing],
    *,
    baseline: str,
    reports: ReportFiles,
    plan: Plan,
) -> None:
    """Score all systems and write the reports.

    Args:
        missing: systems without a model, for the reports.
        baseline: name of the system that the others are compared with.

    Raises:
        UserError: if there is no test set, or a system cannot be decoded.
    """
    config, folder = workspace.config, workspace.score
    if not config.prepare.test_sets:
        raise UserError("prepare.test: the pipeline has no test set to score on")
    threads = use_threads(config.score.threads)
    rate = _open_rate(workspace)
    device = str(pick_device(config.score.device))  # raises an error for an unknown device before any folder is renamed
    begin(folder, plan, workspace.resolved_config())
    if note := tokenizer_note(workspace):
        workspace.say(f"score: {note}")
    held_out = scored_texts(workspace)
    test_sets = {name: scored_test_set(workspace, text) for name, text in held_out.items()}
    earlier = [state / _DECODED for state in earlier_states(folder)]
    translations = Translations(folder / _DECODED, earlier, workspace.direction.target)
    texts = read_texts(workspace) if config.score.diagnostics is not None else {}
    training = read_training(workspace, texts) if config.score.diagnostics is not None else None
    sample = None if training is None else training.sample
    shared = _Shared(workspace, threads, device, test_sets, held_out, translations, sample, rate)
    scored: list[_Scored] = []
    exports: list[Path] = []
    left_out: list[Missing] = []
    for system in systems:
        own = list(_score_system(shared, system))
        exported: list[_Scored] = []
        for model in _exported_models(workspace, system, left_out):
            waiting = [each for each in own if each.run.way.wait_k is not None]  # no other program waits
            others = [each for each in own if each.run.way.wait_k is None]
            rows = list(_score_model(shared, model, others))
            exports += model.outputs()
            if model.engine.to is None:
                own = [*rows, *waiting]
            else:
                exported += rows
        scored += [*own, *exported]
    score_rows = _write_scores(workspace, scored, [*missing, *left_out], test_sets, baseline, reports)
    reports.diagnostics.unlink(missing_ok=True)  # `begin` has copied it to the earlier state that it belongs to
    if training is not None:
        found = diagnose(
            workspace, [each.diagnosed for each in scored if each.diagnosed is not None], texts, test_sets, training
        )
        write_diagnostics(reports.diagnostics, found)
    write_report(workspace, versions=software_versions())
    runs = [each.run for each in scored]
    written = [_text_file(workspace, run.file) for run in runs]
    written += _write_averages(workspace, score_rows)
    written += write_contrastive(workspace, systems, threads=threads)
    decoded = [path for run in runs for path in translations.files(run.file)]
    decoded += [path for each in scored for name in each.measured_file for path in translations.files(name)]
    decoded += sorted(path for path in (folder / _DECODED / SAMPLE).glob("*") if not path.name.startswith("."))
    finish(folder, plan, outputs=[*written, *decoded, *exports, *reports.existing()], facts={"systems": len(systems)})


def _text_file(workspace: Workspace, name: str) -> Path:
    return workspace.score / f"{name}.{workspace.direction.target}"


def _write_scores(
    workspace: Workspace,
    scored: Sequence[_Scored],
    missing: Sequence[Missing],
    test_sets: Mapping[str, TestSet],
    baseline: str,
    reports: ReportFiles,
) -> list[ScoreRow]:
    """Add the scores of external scorers, compare the systems with the baseline, and write the scores.

    Returns:
        the rows with the scores of external scorers.
    """
    rows, runs = [each.row for each in scored], [each.run for each in scored]
    rows, segments = add_external_scores(workspace, rows, runs)
    samples = workspace.config.score.bootstrap_samples
    comparisons = compare_runs(runs, test_sets, baseline=baseline, samples=samples, segments=segments)
    write_scores(reports.scores, rows, missing)
    write_comparisons(reports.significance, comparisons)
    return rows


# ----------------------------------------------------------------------------------------------------------- one system


@dataclass(frozen=True)
class _Shared:
    """What the scores of all systems are computed with."""

    workspace: Workspace
    threads: int
    device: str
    test_sets: Mapping[str, TestSet]
    held_out: Mapping[str, ScoredText]
    translations: Translations
    sample: Sample | None
    rate: OffTargetRate | None


@dataclass(frozen=True)
class _Opened:
    """The checkpoint of a system in its engine."""

    system: System
    taken: TakenCheckpoint
    kind: EngineKind
    folder: Path
    engine: Engine
    codec: TextCodec

    def translator(self, way: Way) -> Translator:
        return Translator(_engine_of(self.engine, way), self.codec)


@dataclass(frozen=True)
class _Scored:
    """Scores and outputs of one system on one test set with one way of decoding."""

    row: ScoreRow
    run: SystemRun
    diagnosed: DiagnosedRun | None = None  # None for an exported model

    @property
    def measured_file(self) -> list[str]:
        """Name of the translations of a checkpoint that was measured in a process of its own."""
        deployment = self.row.deployment
        if deployment is None or deployment.is_exported:
            return []
        return [file_name(self.run.system, self.run.test_set, self.run.way, deployment.engine)]


def _open_system(shared: _Shared, system: System) -> _Opened:
    score = shared.workspace.config.score
    taken = taken_checkpoint(system.run, score.checkpoint)
    kind, folder = find_engine(system.run / taken.name)
    options = EngineOptions(
        shared.device, shared.threads, score.nat, rescorer=shared.workspace.teacher / score.checkpoint
    )
    return _Opened(system, taken, kind, folder, kind.open(folder, options), TextCodec.load(shared.workspace.prepare))


def _score_system(shared: _Shared, system: System) -> Iterator[_Scored]:
    """Yield a row and the translations for each test set and each way of decoding.

    The training sentences of the sample are translated in the first way only.
    """
    opened = _open_system(shared, system)
    for number, way in enumerate(_ways(shared.workspace.config.score, opened.kind, opened.engine)):
        translator = cache(partial(opened.translator, way))
        training = None
        if shared.sample is not None and number == 0:
            training = _translate_training(shared, opened, shared.sample, way, translator)
        for name in shared.test_sets:
            decoded = _translate_test_set(shared, opened, name, way, translator)
            yield _score_translations(shared, opened, name, way, decoded, training)


def _translate_training(
    shared: _Shared, opened: _Opened, sample: Sample, way: Way, translator: Callable[[], Translator]
) -> TrainingOutputs:
    """Translate the training sentences of the sample, for the diagnostics."""
    made_from = _made_from(shared.workspace, opened.kind, opened.folder, ScoredText(SAMPLE), way)
    return translate_sample(
        shared.workspace,
        sample,
        name=file_name(opened.system, SAMPLE, way),
        way=way,
        translations=shared.translations.within(SAMPLE),
        made_from=made_from | {"device": shared.device},
        translator=translator,
    )


def _translate_test_set(
    shared: _Shared, opened: _Opened, name: str, way: Way, translator: Callable[[], Translator]
) -> Decoded:
    """Translate a test set, or read its translations if the same model has translated it before."""
    workspace, system, text = shared.workspace, opened.system, shared.held_out[name]
    file = file_name(system, name, way)
    made_from = _made_from(workspace, opened.kind, opened.folder, text, way)
    made_from |= {"threads": shared.threads, "device": shared.device}  # since speed is measured too
    if has_delays(workspace.config.score, opened.engine, way):
        made_from["delays"] = "finished text" if workspace.config.score.detokenized else "words"
    where = f"{system.name} seed {system.seed} on {name}, {way.name}"
    decoded = shared.translations.find(file, made_from)
    if decoded is not None:
        workspace.say(f"score: {where}: translated before, scored again")
        return decoded
    workspace.say(f"score: {where}")
    decoded = _decode(workspace, _of_text(translator(), text), text, way)
    shared.translations.keep(file, made_from, decoded)
    return decoded


def _score_translations(
    shared: _Shared, opened: _Opened, name: str, way: Way, decoded: Decoded, training: TrainingOutputs | None
) -> _Scored:
    """Score the translations of a test set, and write them."""
    workspace, system, text, test_set = shared.workspace, opened.system, shared.held_out[name], shared.test_sets[name]
    first, second = _both_forms(workspace, _codec_of_text(opened.codec, text), decoded.words)
    write_lines(_text_file(workspace, file_name(system, name, way)), first)
    finished, words = (first, second) if workspace.config.score.detokenized else (second, first)
    run = SystemRun(system, name, way, opened.kind.library, opened.kind.compute_type, first, finished)
    row = _row(
        run,
        test_set.score(first, second),
        decoded,
        opened,
        threads=shared.threads,
        direction=text.direction,
        off_target=_off_target(shared.rate, finished, text.direction),
    )
    if decoded.delays is not None:
        row = replace(row, latency=latency_of(workspace, text, test_set.first.references, decoded.delays))
    return _Scored(row, run, None if way.wait_k is not None else DiagnosedRun(run, words, training))


def _exported_models(workspace: Workspace, system: System, left_out: list[Missing]) -> Iterator[ExportedModel]:
    """Yield a student as each engine of `score.engines` reads it.

    Args:
        left_out: list to which an entry is added for each engine that has no such model.

    Raises:
        UserError: if an engine has no model for a student that `score.engine_students` names.
    """
    score, config = workspace.config.score, workspace.config
    if system.name not in (score.engine_students or config.students):
        return
    checkpoint = resolve_checkpoint(system.run / taken_checkpoint(system.run, score.checkpoint).name)
    for name in score.engines:
        try:
            yield exported_model(workspace, system, checkpoint, name)
        except UserError as error:
            if score.engine_students is not None:
                raise UserError(f"score.engines: {name}: {error}") from None
            workspace.say(f"score: {system.name} seed {system.seed} is left out of {name}: {error}")
            left_out.append(Missing(system.name, system.seed, str(error).removeprefix(f"{checkpoint}: "), name))


def _score_model(shared: _Shared, model: ExportedModel, own: Sequence[_Scored]) -> Iterator[_Scored]:
    """Yield a row in an engine for each row of a student; that of PyTorch has the scores of the student."""
    environments = Path(shared.workspace.config.score.engine_environments)
    library = library_version(model.engine.package, python_of(model.name, environments))
    codec = TextCodec.load(shared.workspace.prepare)
    for each in own:
        decoded = _translate_by_export(shared, model, each.run, library)
        assert decoded.cost is not None, "it is in each record of an engine"
        deployment = Deployment(model.name, model.bytes_on_disk, decoded.cost, library=library)
        row = replace(
            each.row,
            sentences_per_second_batch1=decoded.sentences_per_second_batch1,
            sentences_per_second_max=decoded.sentences_per_second_max,
            deployment=deployment,
        )
        measured = replace(each, row=row)
        yield _score_export(shared, model, measured, decoded, codec) if deployment.is_exported else measured


def _translate_by_export(shared: _Shared, model: ExportedModel, run: SystemRun, library: str) -> Decoded:
    """Translate the test set of a student's row by an exported model, or read the translations of the same one."""
    workspace, system, name, way = shared.workspace, run.system, run.test_set, run.way
    text = shared.held_out[name]
    kind, checkpoint = find_engine(system.run / taken_checkpoint(system.run, workspace.config.score.checkpoint).name)
    made_from = _made_from(workspace, kind, checkpoint, text, way)
    made_from |= {"engine": model.name, "export": model.sha256, "threads": shared.threads, "device": shared.device}
    made_from["library"] = library
    file = file_name(system, name, way, model.name)
    decoded = shared.translations.find(file, made_from)
    if decoded is None:
        workspace.say(f"score: {_place_of_export(model, run)}")
        decoded = translate_and_measure(
            workspace,
            model,
            text.sources(workspace),
            way,
            threads=shared.threads,
            device=shared.device,
            direction=text.direction,
        )
        shared.translations.keep(file, made_from, decoded)
    return decoded


def _score_export(shared: _Shared, model: ExportedModel, each: _Scored, decoded: Decoded, pooled: TextCodec) -> _Scored:
    """Score the translations of an exported model, write them, and warn of losses against the student."""
    workspace, (system, name, way) = shared.workspace, (each.run.system, each.run.test_set, each.run.way)
    text = shared.held_out[name]
    first, second = _both_forms(workspace, _codec_of_text(pooled, text), decoded.words)
    write_lines(_text_file(workspace, file_name(system, name, way, model.name)), first)
    scores, second_scores = shared.test_sets[name].score(first, second)
    assert each.row.deployment is not None
    deployment = replace(each.row.deployment, losses=losses(each.row.scores, scores))
    for problem in deployment.large_losses():
        workspace.say(f"score: warning: {_place_of_export(model, each.run)}: {problem}")
    engine, numbers = model.engine.library, compute_type(model.name)
    finished = first if workspace.config.score.detokenized else second
    row = replace(
        each.row,
        engine=engine,
        compute_type=numbers,
        scores=scores,
        second_scores=second_scores,
        steps=None,
        off_target=_off_target(shared.rate, finished, text.direction),
        deployment=deployment,
    )
    return _Scored(row, SystemRun(system, name, way, engine, numbers, first, finished, export=model.name))


def _place_of_export(model: ExportedModel, run: SystemRun) -> str:
    return f"{run.system.name} seed {run.system.seed} on {run.test_set}, {run.way.name}, {model.name}"


def _off_target(rate: OffTargetRate | None, lines: Sequence[str], direction: Direction | None) -> float | None:
    return None if rate is None or direction is None else rate.of_lines(lines, direction.target)


def _open_rate(workspace: Workspace) -> OffTargetRate | None:
    """Return the measurement of the off-target rate, if the settings request it."""
    settings = workspace.config.score.off_target
    if settings is None:
        return None
    return OffTargetRate.open(settings, [code for each in workspace.config.all_directions for code in each.sides])


def _write_averages(workspace: Workspace, rows: Sequence[ScoreRow]) -> list[Path]:
    """Write the averages over several directions, and return the path of the file; nothing for one direction."""
    path = workspace.score / AVERAGES
    if not workspace.config.is_multilingual:
        return []
    write_averages(path, direction_averages(workspace, rows))
    return [path]


def _of_text(translator: Translator, text: ScoredText) -> Translator:
    """Return the translator for the direction of a test set."""
    return translator if text.direction is None else translator.for_direction(text.direction)


def _codec_of_text(codec: TextCodec, text: ScoredText) -> TextCodec:
    """Return the codec for the direction of a test set."""
    return codec if text.direction is None else codec.for_direction(text.direction)


def _engine_of(engine: Engine, way: Way) -> Engine:
    if way.wait_k is not None and isinstance(engine, TorchEngine):
        return engine.with_wait_k(way.wait_k)
    if way.iterations is None or not isinstance(engine, RefiningEngine):
        return engine
    return engine.with_iterations(way.iterations)


def _ways(score: Score, kind: EngineKind, engine: Engine) -> list[Way]:
    """Return those ways of decoding in the settings that the engine supports."""
    waiting = wait_k_ways(score, engine)
    if isinstance(engine, RefiningEngine):
        return [Way(iterations=count) for count in (score.iterations if engine.refines else [1])]
    return [*(Way(beam=beam) for beam in score.beams), *waiting] if kind.nbest else [Way()]


def _made_from(
    workspace: Workspace, kind: EngineKind, checkpoint: Path, test_set: ScoredText, way: Way
) -> dict[str, object]:
    """Return the values that the translations of a test set depend on, which do not include scoring settings."""
    score, outputs = workspace.config.score, recorded_outputs(workspace.prepare)
    text = ("tokenizer/", "text.json", "dict.")
    made_from: dict[str, object] = {
        "checkpoint": checkpoint_sha256(checkpoint),
        "source": known_sha256(workspace.prepare / f"{test_set.split}.{workspace.direction.source}"),
        "text": {name: sha for name, sha in outputs.items() if name.startswith(text)},
        "decode": score.decode(way.beam).model_dump(),
        "speed_sentences": score.speed_sentences,
    }
    if test_set.direction is not None:
        made_from["direction"] = str(test_set.direction)
    if test_set.modifiers:
        made_from["modifiers"] = list(test_set.modifiers)
    if kind.library != "pytorch":  # not for pytorch, since records of earlier versions do not have it
        made_from["engine"] = kind.library
    if way.wait_k is not None:
        made_from["wait_k"] = way.wait_k
    if way.iterations is not None:
        made_from |= {"iterations": way.iterations, "search": score.nat.model_dump()}
        if score.nat.ctc_lm is not None:
            made_from["ctc_lm"] = known_sha256(Path(score.nat.ctc_lm))
        if score.nat.rescore:
            made_from["rescorer"] = checkpoint_sha256(resolve_checkpoint(workspace.teacher / score.checkpoint))
    return made_from


def _decode(workspace: Workspace, translator: Translator, test_set: ScoredText, way: Way) -> Decoded:
    """Translate a test set and measure the speed."""
    score = workspace.config.score
    decode = score.decode(way.beam)
    codec, steps = translator.codec, 0.0
    found: list[Hypothesis | None] = []

    def translate(lines: list[str]) -> list[str]:
        nonlocal steps, found
        found = translator.best_hypotheses(translator.encode_words(lines), decode)
        steps = sum(each.steps for each in found if each) / len(found)
        return ["" if each is None else codec.decode_target(each.tokens) for each in found]

    speed, words = measure_speed(
        translate,
        test_set.sources(workspace),
        batch_1_sentences=score.speed_sentences,
        repeats=1,
    )
    delays = None
    if has_delays(score, translator.engine, way):  # the last call has translated the whole set
        delays = measure_delays(workspace, translator, test_set, found, way)
    return Decoded(words, steps, speed.batch_1, speed.full_batch, delays=delays)


def _both_forms(workspace: Workspace, codec: TextCodec, decoded: list[str]) -> tuple[list[str], list[str]]:
    """Return translations in the form that `score.detokenized` selects, and in the other one."""
    finished, words = [codec.finish_target(line) for line in decoded], join_words(workspace, decoded)
    return (finished, words) if workspace.config.score.detokenized else (words, finished)


def _row(
    run: SystemRun,
    scores: tuple[dict[str, MetricScore], dict[str, MetricScore]],
    decoded: Decoded,
    opened: _Opened,
    *,
    threads: int,
    direction: Direction | None,
    off_target: float | None,
) -> ScoreRow:
    return ScoreRow(
        system=run.system.name,
        test_set=run.test_set,
        direction=None if direction is None else str(direction),
        off_target=off_target,
        seed=run.system.seed,
        engine=run.engine,
        beam=run.way.beam,
        compute_type=run.compute_type,
        threads=threads,
        scores=scores[0],
        second_scores=scores[1],
        parameters=num_parameters(opened.folder),
        sentences_per_second_batch1=decoded.sentences_per_second_batch1,
        sentences_per_second_max=decoded.sentences_per_second_max,
        checkpoint_sha256=checkpoint_sha256(opened.folder),
        iterations=run.way.iterations,
        steps=None if run.way.iterations is None else decoded.steps,
        checkpoint=opened.taken,
        wait_k=run.way.wait_k,
    )
