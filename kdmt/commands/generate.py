"""`kdmt generate`: translate a split of a data-bin, with the output format of fairseq-generate.

Batches have the same order as in fairseq, and each is written when it is done. Messages go to standard error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray

from kdmt.config import Decode, NATDecode, Text, checked, largest
from kdmt.corpus.codec import TEXT_FILE, check_vocabulary, load_text_processor
from kdmt.corpus.subwords import join_subwords
from kdmt.corpus.text import TextProcessor
from kdmt.decode.engines.engine import Engine
from kdmt.decode.engines.fairseq_refinement import RefinementEngine
from kdmt.decode.engines.nat import NATEngine
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.errors import UserError
from kdmt.families import EDITING
from kdmt.files import atomic_file
from kdmt.interop.fairseq.checkpoints import read_model
from kdmt.interop.fairseq.data_bin import DataBin, Split, check_tokens, cut_batches, reading_order
from kdmt.interop.fairseq.flags import GenerateFlags
from kdmt.interop.fairseq.output import TokenBleu, hypothesis_lines, spell, spell_reference
from kdmt.interop.fairseq.pickles import is_checkpoint_file
from kdmt.log import get_logger
from kdmt.models.checkpoint import load_model
from kdmt.models.checkpoint_choice import AUTO
from kdmt.models.checkpoint_folder import log_opened, resolve_checkpoint
from kdmt.models.nonautoregressive import NATransformer
from kdmt.models.transformer import Transformer
from kdmt.outputs import writing
from kdmt.runtime import pick_device, use_threads
from kdmt.score.metrics import METRICS
from kdmt.streams import output_text
from kdmt.terminal import PrintableStream
from kdmt.types import Hypothesis

_logger = get_logger(__name__)
_UNLIMITED = int(largest("max_tokens"))  # `max_tokens` for batches that are already cut


@dataclass
class _Scored:
    """Best hypotheses and their references, in the form in which they are scored."""

    hypotheses: list[str] = field(default_factory=list)
    references: list[str] = field(default_factory=list)


def generate(flags: GenerateFlags) -> None:
    """Write the lines to standard output or to `generate-<split>.txt` in the folder of results.

    The file appears only when it is complete. The name of a shard's file contains the number of the shard.

    Raises:
        UserError: if the data-bin or a checkpoint is not valid, they do not match, or a sentence is too long.
    """
    use_threads(flags.threads)
    device = pick_device("cpu" if flags.cpu else "auto")
    data = DataBin.open(flags.data, flags.source_lang, flags.target_lang)
    split = data.split(flags.gen_subset)
    for dataset, dictionary in zip((split.source, split.target), data.dictionaries, strict=True):
        if dataset is not None:
            check_tokens(dataset, dictionary)
    models = [_load(path, data) for path in flags.paths]
    if flags.fp16:
        models = [model.half() for model in models]
    engine = _engine(models, flags, device)
    batches = _batches(split, models, flags)
    with _output(flags) as write:
        _translate(data, split, batches, engine, flags, write)


def _translate(
    data: DataBin,
    split: Split,
    batches: list[NDArray[np.int64]],
    engine: Engine,
    flags: GenerateFlags,
    write: Callable[[str], None],
) -> None:
    finish, scored = _finisher(flags, data.direction.target), _Scored()
    sentences = tokens = 0
    started = time.perf_counter()
    for batch in batches:
        sources = [np.asarray(split.source[int(index)]) for index in batch]
        found = engine.decode(sources, _settings(flags, len(batch)))
        for index, source, hypotheses in zip(batch.tolist(), sources, found, strict=True):
            target = None if split.target is None else split.target[index]
            for line in _lines(data, index, source, target, hypotheses, flags, finish, scored):
                write(line)
            sentences += 1
            tokens += len(hypotheses[0].tokens) + 1
    seconds = time.perf_counter() - started
    _logger.info(
        f"Translated {sentences:,} sentences ({tokens:,} tokens) in {seconds:.1f}s "
        f"({sentences / seconds:.2f} sentences/s, {tokens / seconds:.2f} tokens/s)"
    )
    if scored.hypotheses:
        write(f"Generate {flags.gen_subset} with beam={flags.beam}: {_score(scored, flags)}")


def _lines(
    data: DataBin,
    index: int,
    source: NDArray[np.integer],
    target: NDArray[np.integer] | None,
    hypotheses: list[Hypothesis],
    flags: GenerateFlags,
    finish: Callable[[str], str],
    scored: _Scored,
) -> Iterator[str]:
    """Yield the output lines of one sentence, and add its best hypothesis to `scored`."""
    src_dictionary, tgt_dictionary = data.dictionaries
    # The BLEU of fairseq is computed on unchanged tokens, unless --remove-bpe joins them.
    scores_tokens = flags.scoring == "bleu" and flags.remove_bpe is None
    reference = ""
    if not flags.quiet:
        yield f"S-{index}\t{finish(join_subwords(spell(src_dictionary, source), flags.remove_bpe))}"
    if target is not None:
        text = join_subwords(spell_reference(tgt_dictionary, target), flags.remove_bpe)
        finished = finish(text)
        reference = text if scores_tokens else finished
        if not flags.quiet:
            yield f"T-{index}\t{finished}"
    for place, hypothesis in enumerate(hypotheses):
        text = join_subwords(spell(tgt_dictionary, hypothesis.tokens), flags.remove_bpe)
        finished = finish(text)
        if not flags.quiet:
            yield from hypothesis_lines(index, hypothesis, text, finished)
        if place == 0 and target is not None:
            scored.hypotheses.append(text if scores_tokens else finished)
            scored.references.append(reference)


def _finisher(flags: GenerateFlags, lang: str) -> Callable[[str], str]:
    """Return a function that undoes `--bpe` and `--tokenizer` with the rules of the target language, as in fairseq."""
    moses = TextProcessor(Text(moses=True, already_applied=True), lang, lang)

    def finish(text: str) -> str:
        for step in flags.detokenize:
            text = moses.postprocess_target(text) if step == "moses" else join_subwords(text, step)
        return text

    return finish


def _score(scored: _Scored, flags: GenerateFlags) -> str:
    """Return the score for the last line, and log the signature of a sacreBLEU score."""
    if flags.scoring == "bleu":
        return str(TokenBleu.of(scored.hypotheses, scored.references))
    if flags.scoring == "chrf":
        metric = METRICS["chrf"].make("none", False, None)
    else:
        metric = METRICS["bleu"].make(flags.sacrebleu_tokenizer, flags.sacrebleu_lowercase, None)
    score = metric.corpus_score(scored.hypotheses, [scored.references])
    _logger.info(f"signature: {metric.get_signature()}")
    return score.format()


# -------------------------------------------------------------------------------------------------------------- models


def _load(path: Path, data: DataBin) -> Transformer:
    """Return the model of one path in `--path`, and check that it has the dictionaries of the data-bin."""
    if not path.exists() and path.name != AUTO:
        raise UserError(f"{path}: there is no such checkpoint")
    if path.exists() and is_checkpoint_file(path):
        return read_model(path, data.folder, data.direction)
    folder = resolve_checkpoint(path)
    log_opened(path, folder)
    text = load_text_processor(folder / TEXT_FILE)
    if text.directions and not text.direction.matches(data.direction):
        raise UserError(
            f"{folder}: begins sources with language tokens ({', '.join(map(str, text.directions))}), which the "
            f"data-bin of {data.direction} does not have: 'kdmt translate' puts them in"
        )
    if not text.direction.matches(data.direction):
        raise UserError(
            f"{folder}: translates from {text.source_lang} to {text.target_lang}, not from "
            f"{data.direction.source} to {data.direction.target}"
        )
    check_vocabulary(folder, data.folder, data.direction)
    return load_model(folder)


def _engine(models: list[Transformer], flags: GenerateFlags, device: torch.device) -> Engine:
    first, *others = models
    if not isinstance(first, NATransformer):
        if flags.reranks or any(isinstance(model, NATransformer) for model in others):
            raise UserError(
                "--path: what translates together are autoregressive models; a non-autoregressive one comes first, "
                "with --iter-decode-with-external-reranker before an autoregressive one"
            )
        return TorchEngine(first, others=others, device=device)
    if flags.nbest > 1:
        raise UserError(f"--nbest {flags.nbest}: a non-autoregressive model gives one translation")
    if len(others) != flags.reranks or any(isinstance(model, NATransformer) for model in others):
        raise UserError(
            "--path: a non-autoregressive model translates alone, with --iter-decode-with-external-reranker with one "
            "autoregressive model"
        )
    if flags.reranks and flags.length_beam == 1:
        raise UserError(
            "--iter-decode-with-external-reranker chooses among --iter-decode-with-beam lengths: give several"
        )
    if flags.length_beam > 1 and first.nat.family in EDITING:
        raise UserError(
            f"--iter-decode-with-beam {flags.length_beam}: {first.nat.family} models edit, and try no lengths"
        )
    teacher = TorchEngine(others[0], device=device) if others else None
    if first.nat.layout == "fairseq":
        return RefinementEngine(
            first,
            device=device,
            max_iter=flags.max_iter,
            adaptive=not flags.all_passes,
            length_beam=flags.length_beam,
            eos_penalty=flags.eos_penalty,
            reranker=teacher,
        )
    return NATEngine(
        first,
        device=device,
        search=NATDecode(length_beam=flags.length_beam, eos_penalty=flags.eos_penalty, rescore=flags.reranks),
        iterations=flags.max_iter + 1,
        teacher=teacher,
    )


def _settings(flags: GenerateFlags, sentences: int) -> Decode:
    """Return decoding settings with which one batch is not cut again."""
    return checked(
        Decode,
        "generate",
        beam=flags.beam,
        nbest=flags.nbest,
        lenpen=flags.lenpen,
        max_len_a=flags.max_len_a,
        max_len_b=flags.max_len_b,
        max_tokens=_UNLIMITED,
        batch_size=sentences,
    )


def _batches(split: Split, models: list[Transformer], flags: GenerateFlags) -> list[NDArray[np.int64]]:
    """Return the sentence indices of each batch of this shard; within a batch the longest source comes first."""
    order = reading_order(split, seed=flags.seed)
    lengths, fits = split.source.sizes, split.source.sizes <= _limit(models, flags, "source")
    if split.target is not None:
        lengths = np.maximum(lengths, split.target.sizes)
        fits &= split.target.sizes <= _limit(models, flags, "target")
    if not fits.all():
        problem = f"{int((~fits).sum())} sentences are longer than the model reads, the first {int(np.argmin(fits))}"
        if not flags.skip_invalid:
            raise UserError(
                f"{split.source.prefix}: {problem} (from 0): --skip-invalid-size-inputs-valid-test leaves them out"
            )
        _logger.warning(f"{problem} (from 0): left out")
        order = order[fits[order]]
    try:
        cut = cut_batches(
            lengths[order],
            max_tokens=flags.max_tokens,
            max_sentences=flags.batch_size,
            multiple=flags.required_batch_size_multiple,
        )
    except UserError as error:
        raise UserError(f"{split.source.prefix}: {error} {flags.max_tokens}") from None
    batches = [order[indices] for indices in cut[flags.shard_id :: flags.num_shards]]
    return [batch[np.argsort(-split.source.sizes[batch], kind="stable")] for batch in batches]


def _limit(models: list[Transformer], flags: GenerateFlags, side: str) -> int:
    """Return the maximum length of a sentence: the smallest limit of the models, or less if a flag sets less."""
    given = getattr(flags, f"max_{side}_positions")
    read = [getattr(model.config, f"max_{side}_positions") for model in models]
    return min(read if given is None else [*read, given])


# -------------------------------------------------------------------------------------------------------------- output


@contextmanager
def _output(flags: GenerateFlags) -> Iterator[Callable[[str], None]]:
    if flags.results_path is None:
        with output_text() as out:
            yield _writer(PrintableStream(out) if out.isatty() else out)
        return
    shard = f".{flags.shard_id}-of-{flags.num_shards}" if flags.num_shards > 1 else ""
    path = flags.results_path / f"generate-{flags.gen_subset}{shard}.txt"
    with writing(path):
        if path.exists():
            _logger.warning(f"{path}: exists already and is replaced at the end")
        with atomic_file(path) as aside, aside.open("w", encoding="utf-8", newline="\n") as file:
            yield _writer(file)


def _writer(file: IO[str] | PrintableStream) -> Callable[[str], None]:
    def write(line: str) -> None:
        file.write(f"{line}\n")

    return write
