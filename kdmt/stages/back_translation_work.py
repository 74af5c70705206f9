"""The work of the stage of back-translation: blocks of translations, then the text and the data-bin."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import numpy as np

from kdmt.config import BackTranslation
from kdmt.corpus.binarize import TextPair, binarize_files, dictionary_path
from kdmt.corpus.codec import TextCodec, cut_source
from kdmt.corpus.tokenizer import read_chunks
from kdmt.decode.engines.ctranslate2 import CTranslate2Engine
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.decode.engines.translator import Translator
from kdmt.distill.teacher_engines import sampling_of
from kdmt.errors import UserError
from kdmt.files import atomic_file, naming
from kdmt.flow.manifest import Plan, begin, finish
from kdmt.flow.progress import sentence_progress
from kdmt.runtime import pick_device, use_threads
from kdmt.stages.back_translation import BACK_TRANSLATED
from kdmt.stages.workspace import Workspace
from kdmt.types import Hypothesis

BLOCKS = "blocks"


def make_back_translation(workspace: Workspace, plan: Plan) -> None:
    """Translate the missing blocks, and write the training set.

    Raises:
        UserError: if the model is of other languages, draws no samples, or the tokenizer does not know the tag.
    """
    settings, folder = workspace.config.back_translation, workspace.training_set(BACK_TRANSLATED)
    assert settings is not None
    threads = use_threads(settings.threads)
    codec = TextCodec.load(workspace.prepare)
    _check_tag(codec, settings.tag)
    device = pick_device(settings.device, workspace.ranks)
    translator = Translator.load(Path(settings.checkpoint), device=device, threads=threads)
    _check_languages(workspace, settings, translator)
    begin(folder, plan, workspace.resolved_config())
    (folder / BLOCKS).mkdir(exist_ok=True)
    made_from = hashlib.sha256(json.dumps(plan.as_dict(), sort_keys=True).encode()).hexdigest()
    counts = _write_text(workspace, settings, translator, codec, made_from)
    outputs = _binarize(workspace, codec, folder)
    workspace.say(f"{BACK_TRANSLATED}: {counts['num_lines']:,} pairs, {counts['empty']:,} lines without words left out")
    finish(folder, plan, outputs=outputs, facts=counts)


def _check_tag(codec: TextCodec, tag: str | None) -> None:
    if tag is not None and tag not in codec.src_dictionary.symbols:
        raise UserError(
            f"back_translation.tag: the source vocabulary has no token {tag}: add it to "
            "'prepare.tokenizer.user_defined_symbols', or give the tag of a corpus"
        )


def _check_languages(workspace: Workspace, settings: BackTranslation, translator: Translator) -> None:
    found, wanted = translator.codec.text, workspace.direction.reversed()
    if not found.direction.matches(wanted):
        raise UserError(
            f"back_translation.checkpoint: {settings.checkpoint} translates {found.source_lang} to "
            f"{found.target_lang}, not {wanted.source} to {wanted.target}"
        )
    if settings.sample is not None and not isinstance(translator.engine, (TorchEngine, CTranslate2Engine)):
        raise UserError(f"back_translation.sample: {settings.checkpoint} draws no samples")


def _write_text(
    workspace: Workspace, settings: BackTranslation, translator: Translator, codec: TextCodec, made_from: str
) -> dict[str, int]:
    """Write sources, targets and tags, and return the counts for the manifest."""
    folder, (src, tgt) = workspace.training_set(BACK_TRANSLATED), workspace.direction.sides
    counts = {"num_sentences": 0, "num_lines": 0, "empty": 0}
    names = [f"distilled.{src}", f"distilled.{tgt}", "distilled.tags"]
    total = sum(len(chunk) for path in settings.text for chunk in read_chunks(Path(path)))
    with (
        atomic_file(folder / names[0]) as sources,
        atomic_file(folder / names[1]) as targets,
        atomic_file(folder / names[2]) as tags,
        sources.open("w", encoding="utf-8") as source_file,
        targets.open("w", encoding="utf-8") as target_file,
        tags.open("w", encoding="utf-8") as tag_file,
        sentence_progress(BACK_TRANSLATED, total) as progress,
    ):
        for number, lines in enumerate(_blocks(settings)):
            made = _block(folder / BLOCKS / f"{number:06}", number, lines, settings, translator, made_from)
            for line, translation in zip(lines, made, strict=True):
                source = codec.text.preprocess_source(translation).strip()
                target = codec.text.preprocess_target(line).strip()
                counts["num_sentences"] += 1
                if not source or not target:
                    counts["empty"] += 1
                    continue
                counts["num_lines"] += 1
                source_file.write(f"{source}\n")
                target_file.write(f"{target}\n")
                tag_file.write(f"{settings.tag or ''}\n")
            progress(len(lines))
        if not counts["num_lines"]:
            raise UserError(f"back_translation.text: no line has a translation: {', '.join(settings.text)}")
    if settings.tag is None:
        (folder / names[2]).unlink()
    return counts


def _blocks(settings: BackTranslation) -> Iterator[list[str]]:
    lines = chain.from_iterable(chunk for path in settings.text for chunk in read_chunks(Path(path)))
    while block := list(islice(lines, settings.block_lines)):
        yield block


def _block(
    path: Path, number: int, lines: Sequence[str], settings: BackTranslation, translator: Translator, made_from: str
) -> list[str]:
    """Return the translations of a block, from its file if it is whole and was made from the same settings and text."""
    if (found := _read_block(path, made_from, len(lines))) is not None:
        return found
    made = _translate(lines, number, settings, translator)
    body = json.dumps(made, ensure_ascii=False)
    header = {"made_from": made_from, "sha256": hashlib.sha256(body.encode()).hexdigest()}
    with atomic_file(path) as aside, naming(path):
        aside.write_text(f"{json.dumps(header)}\n{body}\n", encoding="utf-8")
    return made


def _read_block(path: Path, made_from: str, count: int) -> list[str] | None:
    try:
        header_line, body, rest = path.read_text(encoding="utf-8").split("\n")
        header = json.loads(header_line)
        whole = header["sha256"] == hashlib.sha256(body.encode()).hexdigest() and not rest
        found = json.loads(body)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if whole and header["made_from"] == made_from and len(found) == count else None


def _translate(lines: Sequence[str], number: int, settings: BackTranslation, translator: Translator) -> list[str]:
    first = number * settings.block_lines
    sources = translator.encode(lines, noun="back_translation.text, line", first=first + 1)
    if settings.sample is None:
        words = translator.translate_ids(sources, settings.decode)
    else:
        words = _sample(sources, first, settings, translator)
    return [" ".join(translator.codec.finish_target(each).split()) for each in words]


def _sample(sources: Sequence[np.ndarray], first: int, settings: BackTranslation, translator: Translator) -> list[str]:
    """Return the words of one sample of each source.

    In PyTorch a sample depends on the seed and the number of its line, in CTranslate2 on its block too.
    """
    assert settings.sample is not None
    engine, sample = translator.engine, settings.sample
    kept = [index for index, source in enumerate(sources) if len(source) > 1]
    cut = [cut_source(sources[index], translator.max_source_tokens) for index in kept]
    sampling, found = sampling_of(sample), [""] * len(sources)
    drawn: list[list[Hypothesis]] = []
    if isinstance(engine, TorchEngine):
        lines = [first + index for index in kept]
        drawn = engine.sample(cut, lines, settings.decode, sampling, seed=sample.seed) if kept else []
    elif isinstance(engine, CTranslate2Engine):
        seed = int(np.random.SeedSequence([sample.seed, first]).generate_state(1)[0] >> 1)
        drawn = engine.sample(cut, settings.decode, sampling, seed=seed) if kept else []
    for index, hypotheses in zip(kept, drawn, strict=True):
        found[index] = translator.codec.decode_target(hypotheses[0].tokens)
    return found


def _binarize(workspace: Workspace, codec: TextCodec, folder: Path) -> list[Path]:
    """Write the data-bin of the training set, and return the outputs of the stage."""
    src, tgt = (folder / f"distilled.{lang}" for lang in workspace.direction.sides)
    tags, data_bin = folder / "distilled.tags", folder / "data-bin"
    text = TextPair(src, tgt, tags if tags.exists() else None)
    binarize_files(
        data_bin,
        "train",
        text,
        direction=workspace.direction,
        tokenizers=codec.tokenizers,
        dictionaries=(codec.src_dictionary, codec.tgt_dictionary),
    )
    for lang in workspace.direction.sides:
        shutil.copy2(dictionary_path(workspace.data_bin, lang), data_bin)
    return [*folder.glob("distilled.*"), *data_bin.iterdir()]
