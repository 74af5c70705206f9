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

from collections.abc import Iterator, Mapping, Sequence
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
from kdmt.score.system_diagnostics import write_diagnostics
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
    pick_device(config.score.device)  # raises an error for an unknown device before any folder is renamed
    begin(folder, plan, workspace.resolved_config())
    if note := tokenizer_note(workspace):
        workspace.say(f"score: {note}")
    held_out = scored_texts(workspace)
    test_sets = {name: scored_test_set(workspace, text) for name, text in held_out.items()}
    earlier = [state / _DECODED for state in earlier_states(folder)]
    translations = Translations(folder / _DECODED, earlier, workspace.direction.target)
    texts = read_texts(workspace) if config.score.diagnostics is not None else {}
    training = read_training(workspace, texts) if config.score.diagnostics is not None else None
    sample = None if training is None or training.sample is None else training.sample
    scored: list[_Scored] = []
    exports: list[Path] = []
    left_out: list[Missing] = []
    for system in systems:
        own = list(_score_system(workspace, system, threads, test_sets, held_out, translations, sample, rate))
        exported: list[_Scored] = []
        for model in _exported_models(workspace, system, left_out):
            waiting = [each for each in own if each.run.way.wait_k is not None]  # no other program waits
            others = [each for each in own if each.run.way.wait_k is None]
            rows = list(_score_model(workspace, model, others, threads, test_sets, held_out, translations, rate))
            exports += model.outputs()
            if model.engine.to is None:
                own = [*rows, *waiting]
            else:
                exported += rows
        scored += [*own, *exported]
    _write_scores(workspace, scored, [*missing, *left_out], test_sets, baseline, reports)
    reports.diagnostics.unlink(missing_ok=True)  # `begin` has copied it to the earlier state that it belongs to
    if training is not None:
        found = diagnose(
            workspace, [each.diagnosed for each in scored if each.diagnosed is not None], texts, test_sets, training
        )
        write_diagnostics(reports.diagnostics, found)
    write_report(workspace, versions=software_versions())
    runs = [each.run for each in scored]
    written = [_text_file(workspace, run.file) for run in runs]
    written += _write_averages(workspace, [each.row for each in scored])
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
) -> None:
    """Add the scores of external scorers, compare the systems with the baseline, and write the scores."""
    rows, runs = [each.row for each in scored], [each.run for each in scored]
    rows, segments = add_external_scores(workspace, rows, runs)
    samples = workspace.config.score.bootstrap_samples
    comparisons = compare_runs(runs, test_sets, baseline=baseline, samples=samples, segments=segments)
    write_scores(reports.scores, rows, missing)
    write_comparisons(reports.significance, comparisons)


# ----------------------------------------------------------------------------------------------------------- one system


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


def _score_system(
    workspace: Workspace,
    system: System,
    threads: int,
    test_sets: Mapping[str, TestSet],
    held_out: Mapping[str, ScoredText],
    translations: Translations,
    sample: Sample | None,
    rate: OffTargetRate | None,
) -> Iterator[_Scored]:
    """Yield a row and the translations for each test set and each way of decoding.

    The training sentences of the sample are translated in the first way only.
    """
    score, device = workspace.config.score, str(pick_device(workspace.config.score.device))
    taken = taken_checkpoint(system.run, score.checkpoint)
    kind, folder = find_engine(system.run / taken.name)
    options = EngineOptions(device, threads, score.nat, rescorer=workspace.teacher / score.checkpoint)
    engine, codec = kind.open(folder, options), TextCodec.load(workspace.prepare)
    codecs = {
        name: codec if text.direction is None else codec.for_direction(text.direction)
        for name, text in held_out.items()
    }
    parameters, sha256 = num_parameters(folder), checkpoint_sha256(folder)

    @cache
    def translator(way: Way) -> Translator:
        return Translator(_engine_of(engine, way), codec)

    for number, way in enumerate(_ways(score, kind, engine)):
        training = None
        if sample is not None and number == 0:
            training = translate_sample(
                workspace,
                sample,
                name=file_name(system, SAMPLE, way),
                way=way,
                translations=translations.within(SAMPLE),
                made_from=_made_from(workspace, kind, folder, ScoredText(SAMPLE), way) | {"device": device},
                translator=partial(translator, way),
            )
        for name, test_set in test_sets.items():
            file = file_name(system, name, way)
            made_from = _made_from(workspace, kind, folder, held_out[name], way)
            made_from |= {"threads": threads, "device": device}  # since speed is measured too
            if has_delays(score, engine, way):
                made_from["delays"] = "finished text" if score.detokenized else "words"
            decoded = translations.find(file, made_from)
            where = f"{system.name} seed {system.seed} on {name}, {way.name}"
            if decoded is None:
                workspace.say(f"score: {where}")
                decoded = _decode(workspace, _of_text(translator(way), held_out[name]), held_out[name], way)
                translations.keep(file, made_from, decoded)
            else:
                workspace.say(f"score: {where}: translated before, scored again")
            first, second = _both_forms(workspace, codecs[name], decoded.words)
            write_lines(_text_file(workspace, file), first)
            finished, words = (first, second) if score.detokenized else (second, first)
            run = SystemRun(system, name, way, kind.library, kind.compute_type, first, finished)
            scores = test_set.score(first, second)
            row = _row(
                run,
                scores,
                decoded,
                taken,
                threads=threads,
                parameters=parameters,
                sha256=sha256,
                direction=held_out[name].direction,
                off_target=_off_target(rate, finished, held_out[name].direction),
            )
            if decoded.delays is not None:
                latency = latency_of(workspace, held_out[name], test_set.first.references, decoded.delays)
                row = replace(row, latency=latency)
            yield _Scored(row, run, None if way.wait_k is not None else DiagnosedRun(run, words, training))


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


def _score_model(
    workspace: Workspace,
    model: ExportedModel,
    own: Sequence[_Scored],
    threads: int,
    test_sets: Mapping[str, TestSet],
    held_out: Mapping[str, ScoredText],
    translations: Translations,
    rate: OffTargetRate | None,
) -> Iterator[_Scored]:
    """Yield a row in an engine for each row of a student; that of PyTorch has the scores of the student."""
    score, device = workspace.config.score, str(pick_device(workspace.config.score.device))
    pooled = TextCodec.load(workspace.prepare)
    library = library_version(model.engine.package, python_of(model.name, Path(score.engine_environments)))
    for each in own:
        system, name, way = each.run.system, each.run.test_set, each.run.way
        direction = held_out[name].direction
        kind, checkpoint = find_engine(system.run / taken_checkpoint(system.run, score.checkpoint).name)
        made_from = _made_from(workspace, kind, checkpoint, held_out[name], way)
        made_from |= {"engine": model.name, "export": model.sha256, "threads": threads, "device": device}
        made_from["library"] = library
        file = file_name(system, name, way, model.name)
        decoded = translations.find(file, made_from)
        where = f"{system.name} seed {system.seed} on {name}, {way.name}, {model.name}"
        if decoded is None:
            workspace.say(f"score: {where}")
            sources = held_out[name].sources(workspace)
            decoded = translate_and_measure(
                workspace, model, sources, way, threads=threads, device=device, direction=direction
            )
            translations.keep(file, made_from, decoded)
        assert decoded.cost is not None, "it is in each record of an engine"
        deployment = Deployment(model.name, model.bytes_on_disk, decoded.cost, library=library)
        row = replace(
            each.row,
            sentences_per_second_batch1=decoded.sentences_per_second_batch1,
            sentences_per_second_max=decoded.sentences_per_second_max,
            deployment=deployment,
        )
        if not deployment.is_exported:
            yield replace(each, row=row)
            continue
        codec = pooled if direction is None else pooled.for_direction(direction)
        first, second = _both_forms(workspace, codec, decoded.words)
        write_lines(_text_file(workspace, file), first)
        scores, second_scores = test_sets[name].score(first, second)
        deployment = replace(deployment, losses=losses(each.row.scores, scores))
        for problem in deployment.large_losses():
            workspace.say(f"score: warning: {where}: {problem}")
        engine, numbers = model.engine.library, compute_type(model.name)
        finished = first if score.detokenized else second
        off_target = _off_target(rate, finished, direction)
        row = replace(row, engine=engine, compute_type=numbers, scores=scores, second_scores=second_scores, steps=None)
        row = replace(row, off_target=off_target)
        run = SystemRun(system, name, way, engine, numbers, first, finished, export=model.name)
        yield _Scored(replace(row, deployment=deployment), run)


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
    taken: TakenCheckpoint,
    *,
    threads: int,
    parameters: int,
    sha256: str,
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
        parameters=parameters,
        sentences_per_second_batch1=decoded.sentences_per_second_batch1,
        sentences_per_second_max=decoded.sentences_per_second_max,
        checkpoint_sha256=sha256,
        iterations=run.way.iterations,
        steps=None if run.way.iterations is None else decoded.steps,
        checkpoint=taken,
        wait_k=run.way.wait_k,
    )
