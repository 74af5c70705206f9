"""The prepare stage: from raw text to clean text, tokenizer, dictionaries and data-bin.

    prepare/
        train.<lang>, valid.<lang>, <test set>.<lang>   words: clean text in the form that the tokenizer reads
        valid.raw.<lang>, <test set>.raw.<lang>     held-out text before processing, for comparison with translations
        <test set>.raw<n>.<target>                  further references of it, from raw1 on, if there are any
        tokenizer/, text.json, dict.<lang>.txt      files that are copied to every checkpoint
        monolingual.<lang>                          clean text without translations, if there is any
        data-bin/                                   fairseq's files
        report.json                                 counts of the cleaning pass, of held-out lines that it would
                                                    change, of lines that do not survive processing and back, and
                                                    findings about problems of the corpora
        report.html                                 page with these counts, examples and measurements of the text
        report-examples.json                        beginnings of the first pairs that each rule dropped, by corpus

The stage writes to `prepare.partial` and renames it, so that a failure does not change an earlier `prepare`. A run that
was stopped goes on from there, and shards of the cleaning pass write their chunks there
(`kdmt.stages.prepare_partial`). This module plans; `kdmt.stages.prepare_work` does the work.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from kdmt.checksum import known_sha256
from kdmt.config import Prepare
from kdmt.corpus.fetch import Places
from kdmt.corpus.given_text import text_sources
from kdmt.corpus.indexed import bin_path, idx_path
from kdmt.corpus.reading import token_companions
from kdmt.errors import UserError
from kdmt.flow.manifest import Plan, check_status, make_plan, recorded_plan
from kdmt.flow.shards import Shards
from kdmt.flow.stage import Stage
from kdmt.interop.fairseq.data_bin import DataBin
from kdmt.languages import Direction
from kdmt.stages.cleaning import CACHE, rule_inputs
from kdmt.stages.measures import spaced_sides
from kdmt.stages.prepare_needs import check_needs
from kdmt.stages.prepare_partial import is_begun_for_shards, partial_of
from kdmt.stages.workspace import Workspace

if TYPE_CHECKING:
    from kdmt.stages.preparation import Preparation
    from kdmt.stages.prepare_directions import DirectionsFill


def prepare_stage(workspace: Workspace) -> Stage:
    """Return the stage that prepares the corpus for training."""
    return Stage(
        "prepare", "kdmt prepare", workspace.prepare, (), lambda: _plan(workspace), lambda plan: _make(workspace, plan)
    )


def prepare_shards(workspace: Workspace) -> Shards:
    """Return the functions that clean the corpora in shards."""

    def begin(plan: Plan) -> None:
        from kdmt.stages.prepare_work import begin_shards

        begin_shards(_preparation(workspace), workspace.prepare, plan, workspace.resolved_config())

    def make(plan: Plan, shard: int, num_shards: int) -> None:
        from kdmt.stages.prepare_work import make_shard

        fill = _directions_fill(workspace)
        make_own = make_shard if fill is None else fill.make_shard
        make_own(_preparation(workspace), workspace.prepare, plan, shard, num_shards)

    return Shards(begin, make, lambda plan: is_begun_for_shards(partial_of(workspace.prepare), plan))


def _make(workspace: Workspace, plan: Plan) -> None:
    from kdmt.stages.prepare_work import make

    fill = _directions_fill(workspace)
    make(_preparation(workspace), workspace.prepare, plan, workspace.resolved_config(), fill=fill)


def _directions_fill(workspace: Workspace) -> DirectionsFill | None:
    """Return the work on several directions; None for one."""
    from kdmt.stages.prepare_directions import DirectionsFill

    config = workspace.config
    return DirectionsFill(config.parts_of_prepare(), config.language_tokens) if config.is_multilingual else None


def _preparation(workspace: Workspace) -> Preparation:
    from kdmt.stages.preparation import Locations, Preparation

    alternatives = workspace.provenance.alternatives
    places = Places(workspace.layout.downloads, workspace.mirrors, alternatives=alternatives)
    return Preparation(
        settings=workspace.config.prepare,
        direction=workspace.direction,
        spaced=spaced_sides(workspace),
        locations=Locations(places),
        say=workspace.say,
        filter_scores=workspace.root / CACHE,
        provenance=workspace.provenance,
    )


def _plan(workspace: Workspace) -> Plan:
    settings, direction = workspace.config.prepare, workspace.direction
    languages = _languages(workspace)
    recorded = recorded_plan(workspace.prepare)
    inputs = _input_hashes(settings, direction, {} if recorded is None else recorded.inputs)
    plan = _with_lengths(workspace, make_plan({"prepare": settings}, languages, inputs))
    plan = _with_judged_side(settings, plan)
    if check_status(workspace.prepare, plan).state != "fresh":
        for part in workspace.config.parts_of_prepare():
            check_needs(part.settings, part.direction)
    return plan


def _languages(workspace: Workspace) -> dict[str, object]:
    """Return the languages and what a model knows of them, for a plan."""
    config = workspace.config
    if not config.is_multilingual:
        return {"source_lang": config.direction.source, "target_lang": config.direction.target}
    return {
        "directions": [str(each) for each in config.trained_directions],
        "zero_shot": list(config.zero_shot),
        "language_tokens": config.language_tokens,
    }


def _with_lengths(workspace: Workspace, made_from: Plan) -> Plan:
    """Return a plan with the unit of the limits of lengths."""
    settings = workspace.config.prepare
    if settings.data_bin is not None or settings.clean == "none" or all(spaced_sides(workspace)):
        return made_from
    # earlier versions counted words between spaces in all languages, which dropped most text without spaces
    return made_from.depending_on("lengths", "characters", default="words")


def _with_judged_side(settings: Prepare, made_from: Plan) -> Plan:
    """Return a plan with the side that the rule for languages judges in `monolingual_target`."""
    rules = None if settings.clean == "none" else settings.clean.rules
    judges_all = rules is None or rules.language is None or rules.language.sides == "both"
    if judges_all or not settings.monolingual_target:
        return made_from
    # earlier versions judged text in the target language with 'sides: source', and did not with 'sides: target'
    return made_from.depending_on("side of monolingual_target", "target", default="source")


def _input_hashes(settings: Prepare, direction: Direction, known: Mapping[str, str]) -> dict[str, str]:
    """Return the SHA-256 of each file in the settings; for a URL, the SHA-256 of its content given in the settings.

    A local file that no longer exists counts as unchanged if the stage was made from it, since only making the stage
    again requires the file.

    Args:
        known: recorded inputs of the stage.
    """
    sources = text_sources(settings)
    given = (settings.tokenizer, settings.vocabulary)
    paths = [path for part in given for path in (part.source_path, part.target_path) if path is not None]
    paths += [str(path) for source in sources if source.is_tokens for path in token_companions(Path(source.path or ""))]
    hashes = {source.name: source.sha256 or _hash_local(source.path, known.get(source.name)) for source in sources}
    hashes |= {path: _hash_local(path, known.get(path)) for path in paths}
    return hashes | rule_inputs(settings, known) | _data_bin_hashes(settings, direction, known)


def _hash_local(path: str | None, known: str | None) -> str:
    if path is not None and Path(path).is_file():
        return known_sha256(Path(path))
    if known is None:
        raise UserError(f"{path}: there is no such file")
    return known


def _data_bin_hashes(settings: Prepare, direction: Direction, known: Mapping[str, str]) -> dict[str, str]:
    """Return the SHA-256 of each file that is taken from a data-bin; the recorded ones if its folder does not exist."""
    if settings.data_bin is None:
        return {}
    folder = settings.data_bin.path
    recorded = {name: sha for name, sha in known.items() if name.startswith(f"{folder}/")}
    if recorded and not Path(folder).is_dir():
        return recorded
    data = DataBin.open(Path(folder), *direction.sides)
    files = [data.folder / f"dict.{lang}.txt" for lang in data.direction.sides]
    for name in [*data.names("train"), "valid", *settings.data_bin.test]:
        split = data.split(name, parallel=True)
        for side in (split.source, split.target):
            assert side is not None
            files += [bin_path(side.prefix), idx_path(side.prefix)]
    return {str(path): known_sha256(path) for path in files}
