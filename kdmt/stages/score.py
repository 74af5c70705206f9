"""The score stage: every system on every test set.

scores.json, significance.json, report.html     beside the stages' folders
score/<system>.seed_<n>.<test set>.beam<k>.<lang>   the translations that were scored, of non-autoregressive
                                                    models `iter<n>` in place of the beam
score/decoded/                                      the same as the decoder wrote them: they depend on the checkpoint
                                                    and how it decodes, and are scored again when a metric changes
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from kdmt.checksum import known_sha256
from kdmt.config import NATDecode, Pipeline, Score
from kdmt.corpus.lines import read_lines, write_lines
from kdmt.errors import UserError
from kdmt.flow.folders import earlier_states
from kdmt.flow.manifest import Plan, begin, finish, make_plan, recorded_outputs
from kdmt.flow.stage import Stage
from kdmt.runtime import pick_device, use_threads
from kdmt.stages.measures import bleu_tokenizer, spaced_sides, tokenizer_note
from kdmt.stages.references import join_words, read_references
from kdmt.stages.translations import Decoded, Translations
from kdmt.stages.workspace import Workspace
from kdmt.streams import shows_unicode
from kdmt.terminal import printable

_DECODED = "decoded"  # below the stage's folder


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
        return _file_name(self.system, self.test_set, self.way)


def _file_name(system: _System, test_set: str, way: _Way) -> str:
    return f"{system.name}.seed_{system.seed}.{test_set}.{way.name}"


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
    """Scores the teacher and the students that were trained; those never started are named as missing."""
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
    untrained = [(name, seed) for name, seeds in students.items() for seed in seeds if (name, seed) not in trained]

    def plan() -> Plan:
        outputs = recorded_outputs(workspace.prepare)
        splits = workspace.config.prepare.test_sets
        text = [f"{place}{split}." for split in splits for place in ("", "data-bin/")]
        wanted = ("tokenizer/", "text.json", "dict.", *text)
        inputs = {f"prepare/{name}": sha for name, sha in outputs.items() if name.startswith(wanted)}
        for system in systems:
            inputs[f"{system.name}/seed_{system.seed}"] = _weights_sha256(system, settings.checkpoint)
        if settings.nat.ctc_lm is not None:
            inputs["score.nat.ctc_lm"] = known_sha256(Path(settings.nat.ctc_lm))
        extra: dict[str, Any] = {"baseline": _baseline(workspace.config, systems)}
        extra["never trained"] = [f"{name} seed {seed}" for name, seed in untrained]
        made = make_plan({"score": settings}, extra, inputs)
        # a record of 13a is up to date where that is what `auto` comes to
        resolved = {"score.tokenize": bleu_tokenizer(workspace), "score.lowercase": workspace.config.scores_lowercased}
        # a report of before these were named is out of date only where there are some
        defaults = {**made.defaults, "never trained": []}
        return replace(made, settings=made.settings | resolved, defaults=defaults)

    upstream = (prepare, teacher, *trained.values())
    return Stage(
        "score",
        "kdmt score",
        workspace.score,
        upstream,
        plan,
        make=lambda made: _score(workspace, systems, untrained, made),
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


def _score(workspace: Workspace, systems: Sequence[_System], untrained: Sequence[tuple[str, int]], plan: Plan) -> None:
    from kdmt.score.records import Missing, write_comparisons, write_scores
    from kdmt.score.report import write_html

    config, folder = workspace.config, workspace.score
    if not config.prepare.test_sets:
        raise UserError("prepare.test: the pipeline has no test set to score on")
    threads = use_threads(config.score.threads)
    pick_device(config.score.device)  # refused before anything is moved
    begin(folder, plan, workspace.resolved_config())
    if note := tokenizer_note(workspace):
        workspace.say(f"score: {note}")
    earlier = [state / _DECODED for state in earlier_states(folder)]
    translations = Translations(folder / _DECODED, earlier, workspace.langs[1])
    scored = [pair for system in systems for pair in _score_system(workspace, system, threads, translations)]
    rows = [row for row, _ in scored]
    missing = [Missing(name, seed) for name, seed in untrained]
    comparisons = _compare(workspace, [run for _, run in scored], _baseline(config, systems))
    reports = _reports(workspace)
    write_scores(reports[0], rows, missing)
    write_comparisons(reports[1], comparisons)
    write_html(reports[2], rows, comparisons, missing=missing, title=config.name)
    texts = [folder / f"{run.file}.{workspace.langs[1]}" for _, run in scored]
    decoded = [path for _, run in scored for path in translations.files(run.file)]
    finish(folder, plan, outputs=[*texts, *decoded, *reports], facts={"systems": len(systems)})
    _show(workspace)  # last: a reader of standard output who has gone costs nothing then


def _reports(workspace: Workspace) -> list[Path]:
    return [workspace.root / name for name in ("scores.json", "significance.json", "report.html")]


def _show(workspace: Workspace) -> None:
    """The table, from the files that hold it, and where they are."""
    from kdmt.score.records import read_comparisons, read_scores
    from kdmt.score.report import render_table

    scores, significance, html = _reports(workspace)
    rows, missing = read_scores(scores)
    comparisons = read_comparisons(significance)
    table = render_table(rows, comparisons, missing=missing, width=_terminal_width(), ascii_only=not shows_unicode())
    print(printable(table, keep="\n"))
    print(printable(f"scores: {scores}   report: {html}   translations: {workspace.score}/"))


def _terminal_width() -> int:
    return shutil.get_terminal_size(fallback=(110, 24)).columns


def _score_system(
    workspace: Workspace, system: _System, threads: int, translations: Translations
) -> Iterator[tuple[Any, _Run]]:
    """A row and the translations for each test set and way of decoding."""
    from kdmt.corpus.codec import TextCodec
    from kdmt.decode.engines.translator import Translator
    from kdmt.models.build import count_parameters
    from kdmt.models.checkpoint import load_model
    from kdmt.models.checkpoint_folder import checkpoint_sha256, resolve_checkpoint
    from kdmt.models.nonautoregressive import NATransformer

    score = workspace.config.score
    folder = resolve_checkpoint(system.run / score.checkpoint)
    model = load_model(folder)
    codec, device = TextCodec.load(workspace.prepare), pick_device(score.device)
    rescores = isinstance(model, NATransformer) and score.nat.rescore
    parameters, sha256 = count_parameters(model), checkpoint_sha256(folder)

    @cache
    def teacher() -> Any:
        return _rescorer(workspace)

    @cache
    def translator(way: _Way) -> Translator:
        return Translator.of_model(
            model,
            codec,
            device=device,
            search=score.nat,
            iterations=way.iterations or 1,
            teacher=teacher() if rescores else None,
            fusion=_fusion(score.nat, model, codec),
        )

    for way in _ways(score, model):
        for test_set in workspace.config.prepare.test_sets:
            name = _file_name(system, test_set, way)
            made_from = _made_from(workspace, folder, test_set, way, rescores=rescores)
            made_from |= {"threads": threads, "device": str(device)}  # speeds are measured too
            decoded = translations.find(name, made_from)
            where = f"{system.name} seed {system.seed} on {test_set}, {way.name}"
            if decoded is None:
                workspace.say(f"score: {where}")
                decoded = _decode(workspace, translator(way), test_set, way)
                translations.keep(name, made_from, decoded)
            else:
                workspace.say(f"score: {where}: translated before, scored again")
            run, figures = _evaluate(workspace, codec, decoded, system, test_set, way)
            figures |= {"threads": threads, "parameters": parameters, "checkpoint_sha256": sha256}
            yield _row(system, test_set, way, figures), run


def _row(system: _System, test_set: str, way: _Way, figures: Mapping[str, Any]) -> Any:
    """Return the entry of scores.json (`ScoreRow`) for one system, test set and way of decoding."""
    from kdmt.score.records import ScoreRow

    return ScoreRow(
        system=system.name,
        test_set=test_set,
        seed=system.seed,
        engine="pytorch",
        beam=way.beam,
        compute_type="float32",
        iterations=way.iterations,
        **figures,
    )


def _made_from(workspace: Workspace, checkpoint: Path, test_set: str, way: _Way, *, rescores: bool) -> dict[str, Any]:
    """What a system's translations of a test set depend on: nothing of how they are scored."""
    from kdmt.models.checkpoint_folder import checkpoint_sha256, resolve_checkpoint

    score, outputs = workspace.config.score, recorded_outputs(workspace.prepare)
    text = ("tokenizer/", "text.json", "dict.")
    made_from: dict[str, Any] = {
        "checkpoint": checkpoint_sha256(checkpoint),
        "source": known_sha256(workspace.prepare / f"{test_set}.{workspace.langs[0]}"),
        "text": {name: sha for name, sha in outputs.items() if name.startswith(text)},
        "decode": score.decode(way.beam).model_dump(),
        "speed_sentences": score.speed_sentences,
    }
    if way.iterations is not None:
        made_from |= {"iterations": way.iterations, "search": score.nat.model_dump()}
        if score.nat.ctc_lm is not None:
            made_from["ctc_lm"] = known_sha256(Path(score.nat.ctc_lm))
        if rescores:
            made_from["rescorer"] = checkpoint_sha256(resolve_checkpoint(workspace.teacher / score.checkpoint))
    return made_from


def _ways(score: Score, model: Any) -> list[_Way]:
    """How a model is decoded."""
    from kdmt.models.nonautoregressive import NATransformer

    if not isinstance(model, NATransformer):
        return [_Way(beam=beam) for beam in score.beams]
    return [_Way(iterations=count) for count in (score.iterations if model.goes_over else [1])]


def _fusion(search: NATDecode, model: Any, codec: Any) -> Any:
    """The language model of a CTC student's prefix beam search, if there is one."""
    from kdmt.decode.search.ctc_paths import Fusion
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


def _decode(workspace: Workspace, translator: Any, test_set: str, way: _Way) -> Decoded:
    """Translate a test set and measure how fast that goes."""
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
    return Decoded(words, steps, speed.batch_1, speed.full_batch)


def _evaluate(
    workspace: Workspace, codec: Any, decoded: Decoded, system: _System, test_set: str, way: _Way
) -> tuple[_Run, dict[str, Any]]:
    """Keep a decoded test set as text, and measure it."""
    finished = [codec.finish_target(line) for line in decoded.words]
    words = join_words(workspace, decoded.words)
    first, second = (finished, words) if workspace.config.score.detokenized else (words, finished)
    run = _Run(system, test_set, way, first)
    write_lines(workspace.score / f"{run.file}.{workspace.langs[1]}", first)
    figures = _measure(workspace, test_set, first, second)
    figures["steps"] = None if way.iterations is None else decoded.steps
    figures["sentences_per_second_batch1"] = decoded.sentences_per_second_batch1
    figures["sentences_per_second_max"] = decoded.sentences_per_second_max
    return run, figures


def _measure(workspace: Workspace, test_set: str, first: list[str], second: list[str]) -> dict[str, Any]:
    """Return the scores of translations in both forms."""
    from kdmt.score.metrics import METRICS

    lowercase, tokenize = workspace.config.scores_lowercased, bleu_tokenizer(workspace)
    references = read_references(workspace, test_set)
    scores = {
        name: metric.score(first, references, tokenize=tokenize, lowercase=lowercase)
        for name, metric in METRICS.items()
    }
    return {"scores": scores, "second_scores": _second_scores(workspace, test_set, second)}


def _second_scores(workspace: Workspace, test_set: str, hypotheses: list[str]) -> dict[str, Any]:
    """Return the scores of the form of text that `score.detokenized` does not select: they are not comparable."""
    from kdmt.score.metrics import METRICS

    text, tgt = workspace.config.prepare.text, workspace.langs[1]
    if text.changes_nothing:
        return {}
    given = workspace.config.prepare.test.get(test_set)
    if text.already_applied and given is not None and given.raw_target is None:
        return {}  # the corpus has no raw text to compare with
    tokenize, lowercase = bleu_tokenizer(workspace), text.lowercase
    if workspace.config.score.detokenized:
        references = join_words(workspace, read_lines(workspace.prepare / f"{test_set}.{tgt}"))
        tokenize, lowercase = "none" if spaced_sides(workspace)[1] else tokenize, False
    else:
        references = read_lines(workspace.prepare / f"{test_set}.raw.{tgt}")
    return {
        name: metric.score(hypotheses, references, tokenize=tokenize, lowercase=lowercase)
        for name, metric in METRICS.items()
        if metric.depends_on_tokens
    }


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
    from kdmt.score.records import Comparison, PValue
    from kdmt.score.significance import paired_bootstrap

    score = workspace.config.score
    found = paired_bootstrap(
        {base.system.name: base.hypotheses, run.system.name: run.hypotheses},
        read_references(workspace, base.test_set),
        baseline=base.system.name,
        samples=score.bootstrap_samples,
        tokenize=bleu_tokenizer(workspace),
        lowercase=workspace.config.scores_lowercased,
    )
    p_values = {}
    for metric, estimates in found.estimates.items():
        p_value = estimates[run.system.name].p_value
        assert p_value is not None, "only the baseline has no p-value"
        p_values[metric] = PValue(p_value, found.signatures[metric])
    return Comparison(
        test_set=run.test_set,
        system=run.system.name,
        seed=run.system.seed,
        engine="pytorch",
        beam=run.way.beam,
        iterations=run.way.iterations,
        compute_type="float32",
        baseline=base.system.name,
        p_values=p_values,
    )
