"""The score stage: every system on every test set.

scores.json, significance.json, report.html     beside the stages' folders
score/<system>.seed_<n>.<test set>.beam<k>.<lang>   the translations that were scored
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdmt.config import Decode, Pipeline
from kdmt.corpus.lines import read_lines, write_lines
from kdmt.errors import UserError
from kdmt.stages.manifest import Plan, begin, finish, make_plan, recorded_outputs
from kdmt.stages.references import read_references
from kdmt.stages.stage import Stage
from kdmt.stages.workspace import Workspace, pick_device, use_threads


@dataclass(frozen=True)
class _System:
    """One trained model of the pipeline."""

    name: str
    seed: int
    run: Path


@dataclass(frozen=True)
class _Run:
    """A system on a test set at one beam: what was scored, in the form of the first BLEU."""

    system: _System
    test_set: str
    beam: int
    hypotheses: list[str]


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
        return make_plan({"score": settings}, {"baseline": _baseline(workspace.config, systems)}, inputs)

    upstream = (prepare, teacher, *trained.values())
    return Stage("score", "kdmt score", workspace.score, upstream, plan, lambda made: _score(workspace, systems, made))


def _weights_sha256(system: _System, checkpoint: str) -> str:
    from kdmt.models.checkpoint import checkpoint_sha256, resolve_checkpoint

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
    from kdmt.score.report import render_table, write_comparisons, write_html, write_scores

    config, folder, root = workspace.config, workspace.score, workspace.root
    if not config.prepare.test:
        raise UserError("prepare.test: the pipeline has no test set to score on")
    threads = use_threads(config.score.threads)
    begin(folder, plan, workspace.resolved_config())
    rows, runs = [], []
    for system in systems:
        for test_set in config.prepare.test:
            for beam in config.score.beams:
                workspace.say(f"score: {system.name} seed {system.seed} on {test_set} with beam {beam}")
                row, run = _score_system(workspace, system, test_set, beam, threads)
                rows.append(row)
                runs.append(run)
    comparisons = _compare(workspace, runs, _baseline(config, systems))
    reports = [root / "scores.json", root / "significance.json", root / "report.html"]
    write_scores(reports[0], rows)
    write_comparisons(reports[1], comparisons)
    write_html(reports[2], rows, comparisons, title=config.name)
    print(render_table(rows, comparisons, width=_terminal_width()))
    print(f"scores: {reports[0]}   report: {reports[2]}   translations: {folder}/")
    finish(folder, plan, outputs=[*folder.glob("*.beam*"), *reports], facts={"systems": len(systems)})


def _terminal_width() -> int:
    import shutil

    return shutil.get_terminal_size(fallback=(110, 24)).columns


def _score_system(workspace: Workspace, system: _System, test_set: str, beam: int, threads: int) -> tuple[Any, _Run]:
    from kdmt.models.build import count_parameters
    from kdmt.models.checkpoint import checkpoint_sha256, load_model, resolve_checkpoint
    from kdmt.score.latency import measure_speed
    from kdmt.score.metrics import bleu, chrf
    from kdmt.score.report import ScoreRow

    score = workspace.config.score
    folder = resolve_checkpoint(system.run / score.checkpoint)
    model = load_model(folder)
    words: dict[int, list[str]] = {}
    decode = _word_decoder(workspace, model, beam, words)
    sources = read_lines(workspace.prepare / f"{test_set}.{workspace.langs[0]}")
    speed = measure_speed(decode, sources, batch_1_sentences=min(score.speed_sentences, len(sources)), repeats=1)
    first, second = _forms(workspace, words[len(sources)])
    name = f"{system.name}.seed_{system.seed}.{test_set}.beam{beam}.{workspace.langs[1]}"
    write_lines(workspace.score / name, first)
    references = read_references(workspace, test_set)
    first_bleu = bleu(first, references, tokenize=score.tokenize, lowercase=score.lowercase)
    first_chrf = chrf(first, references, lowercase=score.lowercase)
    second_bleu = _second_bleu(workspace, test_set, second)
    row = ScoreRow(
        system=system.name,
        test_set=test_set,
        seed=system.seed,
        engine="pytorch",
        beam=beam,
        compute_type="float32",
        threads=threads,
        bleu=first_bleu.score,
        chrf=first_chrf.score,
        bleu_signature=first_bleu.signature,
        chrf_signature=first_chrf.signature,
        parameters=count_parameters(model),
        sentences_per_second_batch1=speed.batch_1,
        sentences_per_second_max=speed.full_batch,
        checkpoint_sha256=checkpoint_sha256(folder),
        bleu_second=None if second_bleu is None else second_bleu.score,
        bleu_second_signature=None if second_bleu is None else second_bleu.signature,
    )
    return row, _Run(system, test_set, beam, first)


def _word_decoder(workspace: Workspace, model: Any, beam: int, words: dict[int, list[str]]) -> Any:
    """A function from processed source lines to target words; it leaves its last output of each size in `words`.

    A source that is longer than the model can read is cut.
    """
    from kdmt.corpus.codec import TextCodec, cut_source
    from kdmt.decode.engine import TorchEngine

    score = workspace.config.score
    codec = TextCodec.load(workspace.prepare)
    engine = TorchEngine(model, device=pick_device(score.device))
    settings = Decode(
        beam=beam,
        lenpen=score.lenpen,
        max_len_a=score.max_len_a,
        max_len_b=score.max_len_b,
        max_tokens=score.max_tokens,
        batch_size=score.batch_size,
    )

    def decode(lines: list[str]) -> None:
        sources = [cut_source(source, model.config.max_source_positions) for source in codec.encode_source(lines)]
        found = engine.decode(sources, settings)
        words[len(lines)] = [codec.decode_target(nbest[0].tokens) if nbest else "" for nbest in found]

    return decode


def _forms(workspace: Workspace, words: list[str]) -> tuple[list[str], list[str]]:
    """The translations in the form of the first BLEU and of the second: finished text and words, or the reverse."""
    from kdmt.corpus.codec import TextCodec

    codec = TextCodec.load(workspace.prepare)
    finished = [codec.finish_target(line) for line in words]
    return (finished, words) if workspace.config.score.detokenized else (words, finished)


def _second_bleu(workspace: Workspace, test_set: str, hypotheses: list[str]) -> Any:
    """Where text is processed, BLEU has two forms that are not comparable: both are reported, each with a signature."""
    from kdmt.score.metrics import bleu

    text, tgt = workspace.config.prepare.text, workspace.langs[1]
    if text.changes_nothing:
        return None
    if workspace.config.score.detokenized:
        return bleu(hypotheses, read_lines(workspace.prepare / f"{test_set}.{tgt}"), tokenize="none")
    references = read_lines(workspace.prepare / f"{test_set}.raw.{tgt}")
    return bleu(hypotheses, references, tokenize="13a", lowercase=text.lowercase)


def _compare(workspace: Workspace, runs: Sequence[_Run], baseline: str) -> list[Any]:
    """Paired bootstrap of every system against the baseline of the same seed (the teacher: against its first seed)."""
    comparisons: list[Any] = []
    for test_set in dict.fromkeys(run.test_set for run in runs):
        for beam in dict.fromkeys(run.beam for run in runs):
            group = [run for run in runs if run.test_set == test_set and run.beam == beam]
            bases = [run for run in group if run.system.name == baseline]
            for base in bases:
                others = [run for run in group if _compared_with(run, base, bases)]
                comparisons += _compare_with(workspace, base, others)
    return comparisons


def _compared_with(run: _Run, base: _Run, bases: Sequence[_Run]) -> bool:
    if run.system.name == base.system.name:
        return False
    seeds = {other.system.seed for other in bases}
    return run.system.seed == base.system.seed or (run.system.seed not in seeds and base is bases[0])


def _compare_with(workspace: Workspace, base: _Run, others: Sequence[_Run]) -> Iterable[Any]:
    from kdmt.score.report import Comparison
    from kdmt.score.significance import paired_bootstrap

    if not others:
        return
    score = workspace.config.score
    found = paired_bootstrap(
        {run.system.name: run.hypotheses for run in [base, *others]},
        read_references(workspace, base.test_set),
        baseline=base.system.name,
        samples=score.bootstrap_samples,
        tokenize=score.tokenize,
        lowercase=score.lowercase,
    )
    for run in others:
        bleu_p, chrf_p = (scores[run.system.name].p_value for scores in (found.bleu, found.chrf))
        if bleu_p is None or chrf_p is None:
            raise AssertionError("only the baseline has no p-value")
        yield Comparison(
            test_set=run.test_set,
            system=run.system.name,
            seed=run.system.seed,
            engine="pytorch",
            beam=run.beam,
            compute_type="float32",
            baseline=base.system.name,
            bleu_p_value=bleu_p,
            chrf_p_value=chrf_p,
            bleu_signature=found.bleu_signature,
            chrf_signature=found.chrf_signature,
        )
