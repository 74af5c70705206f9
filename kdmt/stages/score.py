"""The score stage: every system on every test set.

scores.json, significance.json, report.html     beside the stages' folders
score/<system>.seed_<n>.<test set>.beam<k>.<lang>   the translations that were scored, of non-autoregressive
                                                    models `iter<n>` in place of the beam
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdmt.checksum import known_sha256
from kdmt.config import NATDecode, Pipeline, Score, read_record
from kdmt.corpus.lines import read_lines, write_lines
from kdmt.errors import UserError
from kdmt.files import read_json
from kdmt.stages.manifest import Plan, begin, finish, make_plan, recorded_outputs
from kdmt.stages.references import join_words, read_references
from kdmt.stages.stage import Stage
from kdmt.stages.workspace import Workspace, pick_device, use_threads


@dataclass(frozen=True)
class _System:
    """One trained model of the pipeline."""

    name: str
    seed: int
    run: Path


@dataclass(frozen=True)
class _Way:
    """A way of decoding: with a beam, or in so many iterations at most."""

    beam: int = 1
    iterations: int | None = None

    @property
    def name(self) -> str:
        return f"beam{self.beam}" if self.iterations is None else f"iter{self.iterations}"


@dataclass(frozen=True)
class _Run:
    """A system on a test set decoded in one way: what was scored, in the form of the first BLEU."""

    system: _System
    test_set: str
    way: _Way
    hypotheses: list[str]

    @property
    def file(self) -> str:
        """The translations' name, without the language."""
        return f"{self.system.name}.seed_{self.system.seed}.{self.test_set}.{self.way.name}"


def check_language_model(score: Score) -> None:
    """Refuse a language model that is not there, before anything is trained.

    Raises:
        UserError: with the YAML path.
    """
    if score.nat.ctc_lm is not None and not Path(score.nat.ctc_lm).is_file():
        raise UserError(f"score.nat.ctc_lm: {score.nat.ctc_lm}: no such file")


def score_stage(
    workspace: Workspace, *, prepare: Stage, teacher: Stage, students: Mapping[str, Mapping[int, Stage]]
) -> Stage:
    """Scores the teacher and the students that were trained; those never started are left out."""
    settings = workspace.config.score
    trained = {
        (name, seed): stage
        for name, seeds in students.items()
        for seed, stage in seeds.items()
        if stage.folder.exists()
    }
    systems = [
        _System("teacher", workspace.config.teacher.seed, teacher.folder),
        *(_System(name, seed, stage.folder) for (name, seed), stage in trained.items()),
    ]

    def plan() -> Plan:
        outputs = recorded_outputs(workspace.prepare)
        wanted = ("tokenizer/", "text.json", "dict.", "test", "data-bin/test")
        inputs = {f"prepare/{name}": sha for name, sha in outputs.items() if name.startswith(wanted)}
        for system in systems:
            inputs[f"{system.name}/seed_{system.seed}"] = _weights_sha256(system, settings.checkpoint)
        if settings.nat.ctc_lm is not None:
            inputs["score.nat.ctc_lm"] = known_sha256(Path(settings.nat.ctc_lm))
        return make_plan({"score": settings}, {"baseline": _baseline(workspace.config, systems)}, inputs)

    upstream = (prepare, teacher, *trained.values())
    return Stage(
        "score",
        "kdmt score",
        workspace.score,
        upstream,
        plan,
        make=lambda made: _score(workspace, systems, made),
        show=lambda: _show(workspace),
    )


def _weights_sha256(system: _System, checkpoint: str) -> str:
    from kdmt.models.checkpoint_folder import checkpoint_sha256, resolve_checkpoint

    return checkpoint_sha256(resolve_checkpoint(system.run / checkpoint))


def _baseline(config: Pipeline, systems: Sequence[_System]) -> str:
    """What significance is measured against: as set, else the first student on raw data, else the teacher."""
    names = list(dict.fromkeys(system.name for system in systems))
    if config.score.baseline is not None:
        if config.score.baseline not in names:
            raise UserError(f"score.baseline: {config.score.baseline!r} is none of the trained {', '.join(names)}")
        return config.score.baseline
    raw = [name for name in names if name in config.students and config.students[name].data == "raw"]
    return raw[0] if raw else "teacher"


def _score(workspace: Workspace, systems: Sequence[_System], plan: Plan) -> None:
    from kdmt.score.report import write_comparisons, write_html, write_scores

    config, folder = workspace.config, workspace.score
    if not config.prepare.test_sets:
        raise UserError("prepare.test: the pipeline has no test set to score on")
    threads = use_threads(config.score.threads)
    pick_device(config.score.device)  # refused before anything is moved
    begin(folder, plan, workspace.resolved_config())
    scored = [pair for system in systems for pair in _score_system(workspace, system, threads)]
    rows = [row for row, _ in scored]
    comparisons = _compare(workspace, [run for _, run in scored], _baseline(config, systems))
    reports = _reports(workspace)
    write_scores(reports[0], rows)
    write_comparisons(reports[1], comparisons)
    write_html(reports[2], rows, comparisons, title=config.name)
    _show(workspace)
    translations = [folder / f"{run.file}.{workspace.langs[1]}" for _, run in scored]
    finish(folder, plan, outputs=[*translations, *reports], facts={"systems": len(systems)})


def _reports(workspace: Workspace) -> list[Path]:
    return [workspace.root / name for name in ("scores.json", "significance.json", "report.html")]


def _show(workspace: Workspace) -> None:
    """The table, from the files that hold it, and where they are."""
    from kdmt.score.report import Comparison, ScoreRow, render_table

    scores, significance, html = _reports(workspace)
    rows = read_record(list[ScoreRow], read_json(scores), str(scores))
    comparisons = read_record(list[Comparison], read_json(significance), str(significance))
    print(render_table(rows, comparisons, width=_terminal_width()))
    print(f"scores: {scores}   report: {html}   translations: {workspace.score}/")


def _terminal_width() -> int:
    return shutil.get_terminal_size(fallback=(110, 24)).columns


def _score_system(workspace: Workspace, system: _System, threads: int) -> Iterator[tuple[Any, _Run]]:
    """A row and the translations for each test set and way of decoding."""
    from kdmt.corpus.codec import TextCodec
    from kdmt.decode.translator import Translator
    from kdmt.models.build import count_parameters
    from kdmt.models.checkpoint import load_model
    from kdmt.models.checkpoint_folder import checkpoint_sha256, resolve_checkpoint
    from kdmt.models.nonautoregressive import NATransformer
    from kdmt.score.report import ScoreRow

    score = workspace.config.score
    folder = resolve_checkpoint(system.run / score.checkpoint)
    model = load_model(folder)
    codec, device = TextCodec.load(workspace.prepare), pick_device(score.device)
    teacher = _rescorer(workspace) if isinstance(model, NATransformer) and score.nat.rescore else None
    for way in _ways(score, model):
        translator = Translator.of_model(
            model,
            codec,
            device=device,
            search=score.nat,
            iterations=way.iterations or 1,
            teacher=teacher,
            fusion=_fusion(score.nat, model, codec),
        )
        for test_set in workspace.config.prepare.test_sets:
            workspace.say(f"score: {system.name} seed {system.seed} on {test_set}, {way.name}")
            run, figures = _translate(workspace, translator, system, test_set, way)
            row = ScoreRow(
                system=system.name,
                test_set=test_set,
                seed=system.seed,
                engine="pytorch",
                beam=way.beam,
                compute_type="float32",
                threads=threads,
                iterations=way.iterations,
                parameters=count_parameters(model),
                checkpoint_sha256=checkpoint_sha256(folder),
                **figures,
            )
            yield row, run


def _ways(score: Score, model: Any) -> list[_Way]:
    """How a model is decoded."""
    from kdmt.models.nonautoregressive import NATransformer

    if not isinstance(model, NATransformer):
        return [_Way(beam=beam) for beam in score.beams]
    return [_Way(iterations=count) for count in (score.iterations if model.goes_over else [1])]


def _fusion(search: NATDecode, model: Any, codec: Any) -> Any:
    """The language model of a CTC student's prefix beam search, if there is one."""
    from kdmt.decode.ctc import Fusion
    from kdmt.models.nonautoregressive import NATransformer

    if search.ctc_lm is None or not isinstance(model, NATransformer) or model.nat.family != "ctc":
        return None
    from kdmt.interop.kenlm import KenLM

    language_model = KenLM(Path(search.ctc_lm), codec.tgt_dictionary.symbols)
    return Fusion(language_model, search.ctc_lm_weight, search.ctc_length_bonus)


def _rescorer(workspace: Workspace) -> Any:
    """The pipeline's teacher."""
    from kdmt.models.checkpoint import load_model
    from kdmt.models.checkpoint_folder import resolve_checkpoint

    return load_model(resolve_checkpoint(workspace.teacher / workspace.config.score.checkpoint))


def _translate(
    workspace: Workspace, translator: Any, system: _System, test_set: str, way: _Way
) -> tuple[_Run, dict[str, Any]]:
    """Translate a test set, keep the text, and measure it."""
    from kdmt.score.latency import measure_speed

    score = workspace.config.score
    decode = score.decode(way.beam)
    codec, steps = translator.codec, 0.0

    def translate(lines: list[str]) -> list[str]:
        nonlocal steps
        found = translator.best_hypotheses(codec.encode_source(lines), decode)
        steps = sum(each.steps for each in found if each) / len(found)
        return ["" if each is None else codec.decode_target(each.tokens) for each in found]

    speed, words = measure_speed(
        translate,
        read_lines(workspace.prepare / f"{test_set}.{workspace.langs[0]}"),
        batch_1_sentences=score.speed_sentences,
        repeats=1,
    )
    finished = [codec.finish_target(line) for line in words]
    words = join_words(workspace, words)
    first, second = (finished, words) if score.detokenized else (words, finished)
    run = _Run(system, test_set, way, first)
    write_lines(workspace.score / f"{run.file}.{workspace.langs[1]}", first)
    figures = _measure(workspace, test_set, first, second)
    figures["steps"] = None if way.iterations is None else steps
    figures |= {"sentences_per_second_batch1": speed.batch_1, "sentences_per_second_max": speed.full_batch}
    return run, figures


def _measure(workspace: Workspace, test_set: str, first: list[str], second: list[str]) -> dict[str, Any]:
    """The scores of translations in both forms, each with its signature."""
    from kdmt.score.metrics import bleu, chrf

    score = workspace.config.score
    references = read_references(workspace, test_set)
    first_bleu = bleu(first, references, tokenize=score.tokenize, lowercase=score.lowercase)
    first_chrf = chrf(first, references, lowercase=score.lowercase)
    second_bleu = _second_bleu(workspace, test_set, second)
    return {
        "bleu": first_bleu.score,
        "chrf": first_chrf.score,
        "bleu_signature": first_bleu.signature,
        "chrf_signature": first_chrf.signature,
        "bleu_second": second_bleu and second_bleu.score,
        "bleu_second_signature": second_bleu and second_bleu.signature,
    }


def _second_bleu(workspace: Workspace, test_set: str, hypotheses: list[str]) -> Any:
    """Where text is processed, BLEU has two forms that are not comparable: both are reported, each with a signature."""
    from kdmt.score.metrics import bleu

    text, tgt = workspace.config.prepare.text, workspace.langs[1]
    if text.changes_nothing:
        return None
    given = workspace.config.prepare.test.get(test_set)
    if text.already_applied and given is not None and given.raw_target is None:
        return None  # the corpus has no raw text to compare with
    if workspace.config.score.detokenized:
        references = join_words(workspace, read_lines(workspace.prepare / f"{test_set}.{tgt}"))
        return bleu(hypotheses, references, tokenize="none")
    references = read_lines(workspace.prepare / f"{test_set}.raw.{tgt}")
    return bleu(hypotheses, references, tokenize="13a", lowercase=text.lowercase)


def _compare(workspace: Workspace, runs: Sequence[_Run], baseline: str) -> list[Any]:
    """Paired bootstrap of every run against the baseline's run that was decoded in the same way and has the same seed,
    its first one where there is none."""
    comparisons = []
    for run in runs:
        if run.system.name == baseline:
            continue
        bases = [base for base in runs if (base.system.name, base.test_set) == (baseline, run.test_set)]
        alike = [base for base in bases if base.way == run.way] or bases[:1]
        base = next((base for base in alike if base.system.seed == run.system.seed), alike[0])
        comparisons.append(_compare_with(workspace, base, run))
    return comparisons


def _compare_with(workspace: Workspace, base: _Run, run: _Run) -> Any:
    from kdmt.score.report import Comparison
    from kdmt.score.significance import paired_bootstrap

    score = workspace.config.score
    found = paired_bootstrap(
        {base.system.name: base.hypotheses, run.system.name: run.hypotheses},
        read_references(workspace, base.test_set),
        baseline=base.system.name,
        samples=score.bootstrap_samples,
        tokenize=score.tokenize,
        lowercase=score.lowercase,
    )
    bleu_p, chrf_p = (scores[run.system.name].p_value for scores in (found.bleu, found.chrf))
    if bleu_p is None or chrf_p is None:
        raise AssertionError("only the baseline has no p-value")
    return Comparison(
        test_set=run.test_set,
        system=run.system.name,
        seed=run.system.seed,
        engine="pytorch",
        beam=run.way.beam,
        iterations=run.way.iterations,
        compute_type="float32",
        baseline=base.system.name,
        bleu_p_value=bleu_p,
        chrf_p_value=chrf_p,
        bleu_signature=found.bleu_signature,
        chrf_signature=found.chrf_signature,
    )
