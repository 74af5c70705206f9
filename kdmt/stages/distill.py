"""The distill stage: the teacher translates the training set.

distill/
    blocks/                         decoded blocks; what a killed run goes on from
    distilled.<lang>                both sides of the distilled corpus; line i is line i of the training source
                                    unless lines were dropped (manifest.json has their indices)
    nbest                           index, score and words of every hypothesis
    data-bin/                       the distilled corpus, binarised with the teacher's vocabulary

interpolated/, sampled/             training sets of other choices, where a student learns from them; sampled/ has all
                                    of the above, interpolated/ neither blocks nor nbest
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdmt.config import Distill
from kdmt.corpus.lines import iterate_lines
from kdmt.distill.selection import BEST, Nearness, Selector
from kdmt.errors import UserError
from kdmt.stages.manifest import Plan, begin, earlier_states, finish, make_plan, recorded_outputs, recorded_plan
from kdmt.stages.stage import Stage
from kdmt.stages.training import WEIGHTS, teacher_sha256
from kdmt.stages.workspace import Workspace, pick_device, use_threads

if TYPE_CHECKING:
    from kdmt.decode.engine import TorchEngine
    from kdmt.distill.decoding import Decoder

WARN_REPLACED = 0.1  # share of lines


def distill_stage(workspace: Workspace, *, prepare: Stage, teacher: Stage) -> Stage:
    """The teacher's best translations."""
    foreign = ("interpolate", "sample.")
    return _decoding_stage(workspace, workspace.distill, (prepare, teacher), foreign, _searching)


def sampled_stage(workspace: Workspace, *, prepare: Stage, teacher: Stage) -> Stage:
    """A translation of each sentence drawn from the teacher's distribution."""
    foreign = ("interpolate", "decode.beam", "decode.nbest", "decode.lenpen")
    return _decoding_stage(workspace, workspace.sampled, (prepare, teacher), foreign, _sampling)


def _searching(settings: Distill, engine: TorchEngine) -> Decoder:
    return lambda sources, _, progress: engine.decode(sources, settings.decode, progress=progress)


def _sampling(settings: Distill, engine: TorchEngine) -> Decoder:
    from kdmt.decode.sampling import Sampling

    own = settings.sample
    sampling = Sampling(temperature=own.temperature, top_k=own.top_k, top_p=own.top_p)
    return lambda sources, indices, progress: engine.sample(
        sources, indices, settings.decode, sampling, seed=own.seed, progress=progress
    )


def _decoding_stage(
    workspace: Workspace,
    folder: Path,
    upstream: tuple[Stage, Stage],
    foreign: tuple[str, ...],
    decoder: Callable[[Distill, TorchEngine], Decoder],
) -> Stage:
    """A stage that decodes the training set.

    Args:
        folder: where it writes; its name is the stage's.
        upstream: prepare and teacher.
        foreign: beginnings of the settings below `distill` that are of no concern to it.
        decoder: how the teacher decodes.
    """
    settings = workspace.config.distill

    def plan() -> Plan:
        wanted = ("tokenizer/", "text.json", "dict.", "data-bin/train.", "train.")
        outputs = recorded_outputs(workspace.prepare)
        inputs = {f"prepare/{name}": sha for name, sha in outputs.items() if name.startswith(wanted)}
        inputs[f"teacher/{settings.checkpoint}"] = teacher_sha256(workspace)
        made_from = make_plan({"distill": settings}, {}, inputs)
        left_out = tuple(f"distill.{name}" for name in foreign)
        own = {key: value for key, value in made_from.settings.items() if not key.startswith(left_out)}
        return replace(made_from, settings=own)

    return Stage(
        folder.name, "kdmt distill", folder, upstream, plan, lambda made: _decode(workspace, folder, made, decoder)
    )


def block_key(plan: Plan) -> str:
    """Names everything that a block's content depends on: what becomes of failures is not part of it."""
    settings = {k: v for k, v in plan.settings.items() if not k.startswith("distill.failures.")}
    document = json.dumps({"settings": settings, "inputs": plan.inputs}, sort_keys=True)
    return hashlib.sha256(document.encode()).hexdigest()


def _decode(workspace: Workspace, folder: Path, plan: Plan, decoder: Callable[[Distill, TorchEngine], Decoder]) -> None:
    from kdmt.corpus.binarize import data_prefix
    from kdmt.corpus.codec import TextCodec
    from kdmt.corpus.indexed import IndexedDataset
    from kdmt.decode.engine import TorchEngine
    from kdmt.distill.decoding import decode_blocks
    from kdmt.models.checkpoint import load_model, resolve_checkpoint
    from kdmt.stages.prepare import binarize_distilled
    from kdmt.stages.progress import sentence_progress

    settings = workspace.config.distill
    use_threads(settings.threads)
    model = load_model(resolve_checkpoint(workspace.teacher / settings.checkpoint))
    codec = TextCodec.load(workspace.prepare)
    dataset = IndexedDataset(data_prefix(workspace.data_bin, "train", workspace.langs, workspace.langs[0]))
    begin(folder, plan, workspace.resolved_config())
    _keep_blocks(folder, plan)
    with sentence_progress(folder.name, len(dataset)) as progress:
        blocks = decode_blocks(
            decoder(settings, TorchEngine(model, device=pick_device(settings.device))),
            dataset,  # type: ignore[arg-type]
            settings.decode,
            folder=folder / "blocks",
            block_size=settings.block_size,
            key=block_key(plan),
            max_source_tokens=model.config.max_source_positions,
            max_target_tokens=model.config.max_target_positions,
            progress=progress,
        )
    report = _merge(workspace, folder / "blocks", block_key(plan), blocks, dataset, codec, folder, BEST)
    _require_words(workspace, report, folder.name)
    binarize_distilled(workspace, folder)
    facts = _facts(workspace, report, folder)
    workspace.say(f"{folder.name}: {_summary(facts)}")
    finish(folder, plan, outputs=_outputs(folder), facts=facts)


def interpolated_stage(workspace: Workspace, *, prepare: Stage, distill: Stage) -> Stage:
    """Of each sentence's n-best the hypothesis nearest to the reference (Kim & Rush 2016, sequence interpolation)."""
    extra = {"distill.interpolate": workspace.config.distill.interpolate}

    def select() -> Selector:
        from kdmt.distill.selection import interpolated

        return interpolated(_nearness(workspace))

    return _selecting_stage(workspace, workspace.interpolated, prepare, distill, extra, select)


def nbest_stage(workspace: Workspace, *, prepare: Stage, distill: Stage) -> Stage:
    """All of each sentence's n-best, weighted by their probabilities; `weights.npy` has a float32 for each line."""

    def select() -> Selector:
        from kdmt.distill.selection import weighted

        return weighted(workspace.config.distill.decode.lenpen)

    return _selecting_stage(workspace, workspace.nbest, prepare, distill, {}, select)


def _selecting_stage(
    workspace: Workspace,
    folder: Path,
    prepare: Stage,
    distill: Stage,
    extra: dict[str, Any],
    select: Callable[[], Selector],
) -> Stage:
    """A stage that chooses otherwise among what `distill` has decoded.

    Args:
        folder: where it writes; its name is the stage's.
        extra: settings that the choice depends on.
        select: gives the rule.
    """

    def plan() -> Plan:
        inputs = {f"distill/{name}": sha for name, sha in recorded_outputs(workspace.distill).items()}
        return make_plan({"distill.failures": workspace.config.distill.failures}, extra, inputs)

    def make(plan: Plan) -> None:
        _select(workspace, folder, plan, block_key(distill.plan()), select())

    return Stage(folder.name, "kdmt distill", folder, (prepare, distill), plan, make)


def _select(workspace: Workspace, folder: Path, plan: Plan, key: str, select: Selector) -> None:
    from kdmt.corpus.binarize import data_prefix
    from kdmt.corpus.codec import TextCodec
    from kdmt.corpus.indexed import IndexedDataset
    from kdmt.distill.blocks import plan_blocks
    from kdmt.stages.prepare import binarize_distilled

    dataset = IndexedDataset(data_prefix(workspace.data_bin, "train", workspace.langs, workspace.langs[0]))
    begin(folder, plan, workspace.resolved_config())
    blocks = plan_blocks(len(dataset), workspace.config.distill.block_size)
    codec = TextCodec.load(workspace.prepare)
    report = _merge(workspace, workspace.distill / "blocks", key, blocks, dataset, codec, folder, select)
    binarize_distilled(workspace, folder)
    if select.weighs:
        np.save(folder / WEIGHTS, np.array(report.weights, dtype="<f4"))
        facts = _counts(report)
    else:
        facts = _facts(workspace, report, folder)
    workspace.say(f"{folder.name}: {_summary(facts)}")
    finish(folder, plan, outputs=_outputs(folder), facts=facts)


def _nearness(workspace: Workspace) -> Nearness:
    """Nearness of hypotheses to their reference, all as the tokenizer sees them."""
    from kdmt.distill.similarity import bleu_nearness, chrf_nearness

    if workspace.config.distill.interpolate == "chrf":
        return chrf_nearness
    return bleu_nearness("none" if workspace.config.prepare.text.moses else "13a")


def _outputs(folder: Path) -> list[Path]:
    return [*folder.glob("distilled.*"), *folder.glob("nbest"), *folder.glob(WEIGHTS), *(folder / "data-bin").iterdir()]


def _keep_blocks(folder: Path, plan: Plan) -> None:
    """Take over the blocks of an earlier state where another use of failures is all that changed."""
    for state in earlier_states(folder):
        recorded = recorded_plan(state)
        same = recorded is not None and block_key(recorded) == block_key(plan)
        if same and (state / "blocks").is_dir() and not (folder / "blocks").exists():
            shutil.copytree(state / "blocks", folder / "blocks")


def _merge(
    workspace: Workspace,
    blocks_folder: Path,
    key: str,
    blocks: Sequence[Any],
    dataset: Any,
    codec: Any,
    folder: Path,
    select: Selector,
) -> Any:
    """The text of one training set, into `folder`, from the blocks that lie in `blocks_folder`."""
    from kdmt.distill.merge import TrainingText, merge_blocks

    src, tgt = workspace.langs
    tags = workspace.prepare / "train.tags"
    names = (f"distilled.{src}", f"distilled.{tgt}", "distilled.tags", "nbest")
    asides = [folder / f".partial-{name}" for name in names]
    report = merge_blocks(
        blocks,
        blocks_folder,
        key,
        sources=dataset,
        text=TrainingText(
            workspace.prepare / f"train.{src}", workspace.prepare / f"train.{tgt}", tags if tags.exists() else None
        ),
        to_words=codec.decode_target,
        settings=workspace.config.distill.failures,
        select=select,
        out_source=asides[0],
        out_target=asides[1],
        out_tags=asides[2],
        out_nbest=asides[3] if blocks_folder.parent == folder else None,  # else it is the same as there
    )
    for aside, name in zip(asides, names, strict=True):
        if aside.exists():
            aside.replace(folder / name)
    return report


def _require_words(workspace: Workspace, report: Any, name: str) -> None:
    kept_empty = report.failures["empty"] if workspace.config.distill.failures.empty == "keep" else 0
    if report.num_lines == kept_empty:
        failures = ", ".join(f"{name} {count:,}" for name, count in report.failures.items())
        raise UserError(
            f"{name}: none of {report.num_sentences:,} sentences has a translation to train on; failures: {failures}"
        )


def _facts(workspace: Workspace, report: Any, folder: Path) -> dict[str, Any]:
    """Counts, how near the distilled text is to the references, and how much simpler it is than they are.

    A teacher that memorised its training set gives near-copies of the references: then distillation has little to give.
    """
    from kdmt.score.diagnostics import diagnose
    from kdmt.stages.references import bleu_of_words

    facts = _counts(report)
    sources, references, distilled = _sample_lines(workspace, report, folder)
    if not any(line.strip() for line in distilled):
        return facts
    against_reference = bleu_of_words(workspace, distilled, references)
    return facts | {
        "num_compared": len(distilled),
        "bleu_against_reference": against_reference.score,
        "bleu_signature": against_reference.signature,
        "diagnostics": asdict(diagnose(sources, references, distilled)),
    }


def _counts(report: Any) -> dict[str, Any]:
    return {
        "num_sentences": report.num_sentences,
        "num_lines": report.num_lines,
        "failures": dict(report.failures),
        "replaced_by_reference": dict(Counter(report.replaced.values())),
        "dropped": {str(index): failure for index, failure in report.dropped.items()},
    }


def _sample_lines(workspace: Workspace, report: Any, folder: Path) -> tuple[list[str], list[str], list[str]]:
    """Source, reference and distilled lines that the teacher wrote: all of a small corpus, else so many evenly."""
    from kdmt.score.diagnostics import MAX_SENTENCES

    src, tgt = workspace.langs
    references = enumerate(iterate_lines(workspace.prepare / f"train.{tgt}"))
    triples = zip(
        iterate_lines(folder / f"distilled.{src}"),
        (pair for pair in references if pair[0] not in report.dropped),
        iterate_lines(folder / f"distilled.{tgt}"),
        strict=True,
    )
    written = ((s, reference, d) for s, (index, reference), d in triples if index not in report.replaced)
    step = max(1, -(-(report.num_lines - len(report.replaced)) // MAX_SENTENCES))
    columns = list(zip(*islice(written, 0, None, step), strict=True)) or [(), (), ()]
    return list(columns[0]), list(columns[1]), list(columns[2])


def _summary(facts: dict[str, Any]) -> str:
    failures = ", ".join(f"{name} {count:,}" for name, count in facts["failures"].items()) or "none"
    text = f"{facts['num_lines']:,} lines for {facts['num_sentences']:,} sentences; failures: {failures}"
    replaced = sum(facts["replaced_by_reference"].values())
    if replaced > WARN_REPLACED * facts["num_lines"]:
        share = 100 * replaced / facts["num_lines"]
        text += f"; WARNING: {share:.0f}% of the lines are references, not translations: is the teacher trained?"
    if "diagnostics" in facts:
        diagnostics = facts["diagnostics"]
        text += (
            f"; what the teacher wrote against the references: BLEU {facts['bleu_against_reference']:.2f} "
            f"({facts['bleu_signature']}), conditional entropy {diagnostics['complexity_distilled']:.3f} nats "
            f"(references {diagnostics['complexity_real']:.3f})"
        )
    return text
