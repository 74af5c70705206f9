"""The work of the prepare stage. `kdmt.stages.prepare` plans it and describes the folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

from kdmt.corpus.checks import Finding, check_held_out, check_malformed, check_sides, check_specials, report_findings
from kdmt.corpus.codec import TEXT_FILE
from kdmt.corpus.given_text import held_out_texts, sources_by_path
from kdmt.corpus.licences import describe_licences, licences_of
from kdmt.corpus.prepared import REPORT, PreparedCorpus
from kdmt.corpus.steps import Steps
from kdmt.corpus.text import TextProcessor
from kdmt.errors import UserError
from kdmt.files import write_json
from kdmt.flow.folders import move_aside, real_folder
from kdmt.flow.manifest import Plan, finish
from kdmt.flow.stage import setting_up
from kdmt.outputs import open_lock, take
from kdmt.stages.preparation import Preparation
from kdmt.stages.prepare_cleaning import Cleaned, clean_all_text, clean_passes, unfinished_passes
from kdmt.stages.prepare_data_bin import take_data_bin
from kdmt.stages.prepare_held_out import count_foreign_forms, forbidden_sentences, held_out_pairs, write_held_out
from kdmt.stages.prepare_partial import SHARDS, WORK, is_complete, open_partial, partial_of, require_num_shards
from kdmt.stages.prepare_report import Collected, write_report
from kdmt.stages.prepare_text import count_round_trips, process_text
from kdmt.stages.prepare_tokenizer import binarize, make_tokenizer

_WARNING = "prepare: warning: "


class Fill(Protocol):
    """A function that writes all files of the stage to a folder and returns the facts of its manifest; see `_fill`."""

    def __call__(
        self, work: Preparation, folder: Path, steps: Steps, title: str, hashes: Mapping[str, str]
    ) -> dict[str, object]: ...


def make(
    work: Preparation, folder: Path, plan: Plan, config: Mapping[str, object], *, fill: Fill | None = None
) -> None:
    """Write all files to a new folder, and rename it to the stage's folder.

    Args:
        folder: folder of the stage.
        config: all settings of the pipeline, for the folder's `config.json`.
        fill: function that writes the files (default: those of one direction).
    """
    place = partial_of(folder)
    if not is_complete(place, plan):
        _complete(work, place, plan, config, fill or _fill)
    move_aside(real_folder(folder))
    place.rename(real_folder(folder))


def _complete(work: Preparation, partial: Path, plan: Plan, config: Mapping[str, object], fill: Fill) -> None:
    """Write all files to the folder, except those that a stopped run has finished, and the manifest."""
    steps = open_partial(partial, plan, config, resume=work.settings.data_bin is None, say=work.say)
    title = f"Data report: {config['name']} ({work.direction})"
    facts = fill(work, partial, steps, title, plan.inputs)
    shutil.rmtree(partial / WORK)
    outputs = [path for path in partial.rglob("*") if path.is_file() and path.name not in ("plan.json", "config.json")]
    finish(partial, plan, outputs=outputs, facts=facts)


# -------------------------------------------------------------------------------------------------------------- shards


def begin_shards(work: Preparation, folder: Path, plan: Plan, config: Mapping[str, object]) -> None:
    """Open the folder for the shards of the cleaning pass.

    Args:
        folder: folder of the stage.
        config: all settings of the pipeline, for the folder's `config.json`.

    Raises:
        UserError: if the settings leave nothing to clean.
    """
    if work.settings.data_bin is not None:
        raise UserError("--shard has no effect with prepare.data_bin: its text is not cleaned")
    open_partial(partial_of(folder), plan, config, resume=True, say=work.say)


def make_shard(work: Preparation, folder: Path, plan: Plan, shard: int, num_shards: int) -> None:
    """Clean every `num_shards`-th chunk of training and monolingual text, beginning with chunk `shard`.

    Args:
        folder: folder of the stage.

    Raises:
        UserError: if the folder is divided into another number of shards, or another process makes this one.
    """
    clean = partial(_clean_shard, work, partial_of(folder))
    make_shard_of(work, folder, plan, shard, num_shards, places=[(work, partial_of(folder))], clean=clean)


def make_shard_of(
    work: Preparation,
    folder: Path,
    plan: Plan,
    shard: int,
    num_shards: int,
    *,
    places: Sequence[tuple[Preparation, Path]],
    clean: Callable[[Path, int], int],
) -> None:
    """Clean the chunks of a shard in all cleaning passes; see `make_shard`.

    Args:
        places: texts that are cleaned on their own, each with the folder in which it is.
        clean: function of a folder for held-out text and the shard, which returns the number of chunks.
    """
    place = partial_of(folder)
    if is_complete(place, plan) or not any(unfinished_passes(*each) for each in places):
        work.say("prepare: everything is cleaned; without --shard the same command completes the stage")
        return
    scratch = place / WORK / SHARDS / f"held-out-{shard}"
    with setting_up(folder):
        for _, own in places:
            (own / WORK).mkdir(parents=True, exist_ok=True)
            require_num_shards(own, num_shards)
        scratch.mkdir(parents=True, exist_ok=True)
    with open_lock(scratch) as lock:
        if not take(lock):
            raise UserError(f"--shard {shard}/{num_shards}: another process makes this shard")
        num_chunks = clean(scratch, shard)
        shutil.rmtree(scratch)
    work.say(
        f"prepare: the {num_chunks:,} chunks of shard {shard} of {num_shards} are there; "
        "without --shard the same command puts the shards together"
    )


def _clean_shard(work: Preparation, place: Path, scratch: Path, shard: int) -> int:
    """Clean the chunks of a shard, and return their number.

    Args:
        place: folder in which the stage is written.
        scratch: folder for the held-out text.
    """
    fetch_texts(work)
    forbidden = None
    if work.settings.decontaminate:
        processor = _text_processor(work)
        held_out = held_out_texts(work.settings)
        for split, corpus in held_out.items():
            write_held_out(work, scratch, split, corpus, processor)
        forbidden = forbidden_sentences(work, scratch, held_out)
    return clean_passes(work, place, forbidden, shard)


# -------------------------------------------------------------------------------------------------------- whole stage


def _fill(work: Preparation, folder: Path, steps: Steps, title: str, hashes: Mapping[str, str]) -> dict[str, object]:
    """Write all files of the stage; return the facts of its manifest.

    Args:
        steps: finished steps of a stopped run, which are not repeated.
        title: title of the data report.
        hashes: name of each input -> its SHA-256.
    """
    warnings: list[str] = []
    work = replace(work, say=recording(warnings, work.say))
    settings = work.settings
    if settings.data_bin is not None:
        return take_data_bin(settings, work.direction, folder, work.say)
    processor = _text_processor(work)
    held_out = held_out_texts(settings)
    fetch_texts(work)
    for split, corpus in held_out.items():
        write_held_out(work, folder, split, corpus, processor)
    measured: dict[str, object] = {"held_out_characters": count_foreign_forms(work, folder, held_out, processor)}
    forbidden = forbidden_sentences(work, folder, held_out) if settings.decontaminate else None
    cleaned = clean_all_text(work, folder, steps, forbidden)
    process_text(work, folder, steps, processor)
    write_json(folder / TEXT_FILE, processor.to_dict())
    tokenizer = make_tokenizer(work, folder, steps, cleaned.training)
    measured["round_trip"] = count_round_trips(work, folder, processor)
    counts, specials = binarize(work, folder, list(held_out))
    checks = check_texts(work, folder, held_out, cleaned) | {"literal_specials": check_specials(specials)}
    findings = report_findings(checks, work.say)
    write_json(folder / REPORT, cleaned.training.as_dict() | measured | findings | describe_all_licences(work))
    collected = Collected(
        title, hashes, cleaned.training, cleaned.monolingual, findings["held_out"], warnings, work.provenance
    )
    write_report(PreparedCorpus(folder, work.direction, work.spaced), settings, collected)
    size = {"vocab_size": tokenizer.vocab_size} if settings.tokenizer.vocab_size == "auto" else {}
    return cleaned.facts() | counts | size


def _text_processor(work: Preparation) -> TextProcessor:
    settings = work.settings
    unicode_form = None if settings.clean == "none" else settings.clean.unicode_form
    return TextProcessor(settings.text, *work.direction.sides, unicode_form, context=settings.context)


def check_texts(work: Preparation, folder: Path, held_out: Iterable[str], cleaned: Cleaned) -> dict[str, Finding]:
    """Return the checks of held-out, clean and malformed text."""
    pairs_of = {split: list(held_out_pairs(work, folder, split)) for split in held_out}
    parts = {corpus.name: corpus.pairs_out for corpus in cleaned.training.corpora}
    return {
        "held_out": check_held_out(pairs_of),
        "sides": check_sides(work.clean_training_paths(folder), parts, pairs_of, context=work.settings.context),
        "malformed": check_malformed(cleaned.malformed),
    }


def recording(warnings: list[str], say: Callable[[str], None]) -> Callable[[str], None]:
    """Return a function that prints a line for the user and appends it to `warnings` if it is a warning."""

    def say_and_record(line: str) -> None:
        if line.startswith(_WARNING):
            warnings.append(line.removeprefix(_WARNING))
        say(line)

    return say_and_record


def fetch_texts(work: Preparation) -> None:
    """Download the files of all texts.

    Raises:
        UserError: if a download fails; if its file is not the one in the lock file, the message names the data set.
    """
    settings, describe = work.settings, work.provenance.describe
    sources = [(describe(path), source) for path, source in sources_by_path(settings)]
    try:
        work.locations.fetch_all(sources, at_once=settings.downloads, say=work.say)
    except UserError as error:
        raise UserError(work.provenance.explain(str(error))) from None


def describe_all_licences(work: Preparation) -> dict[str, object]:
    """Print the licences of the corpora; return them for `report.json`. Without a lock file, there are none."""
    if not work.provenance.checksums:
        return {}
    licences = licences_of(work.settings, work.provenance)
    for line in describe_licences(licences):
        work.say(f"prepare: {line}")
    without = licences.pop(None, [])
    return {"licences": {"known": licences, "unknown": without}}
