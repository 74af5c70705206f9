"""Raw text in, finished text out, with nothing but a checkpoint folder."""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from kdmt.config import Decode, NATDecode
from kdmt.corpus.codec import TextCodec, cut_source
from kdmt.corpus.formats import HEAD_BYTES, refuse_other_formats
from kdmt.corpus.text_files import MAX_LINE_BYTES, NOT_UTF8, TOO_LONG
from kdmt.decode.arrivals import arriving_lines
from kdmt.decode.engines.ctranslate2 import CTranslate2Engine
from kdmt.decode.engines.engine import Engine
from kdmt.decode.engines.nat import NATEngine
from kdmt.decode.engines.onnx import OnnxEngine
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.decode.search.ctc_paths import Fusion
from kdmt.errors import UserError
from kdmt.log import get_logger
from kdmt.models.checkpoint import load_model
from kdmt.models.checkpoint_folder import resolve_checkpoint
from kdmt.models.nonautoregressive import NATransformer
from kdmt.models.transformer import Transformer
from kdmt.terminal import printable
from kdmt.types import Hypothesis

_logger = get_logger(__name__)
_SHORT_LINE = 16  # bytes: too few to tell what they are


@dataclass(frozen=True)
class Translator:
    """A decoding engine with the text processing that its checkpoint carries."""

    engine: Engine
    codec: TextCodec
    max_source_tokens: int  # with </s>

    @classmethod
    def load(
        cls, path: Path, *, device: torch.device | str = "cpu", search: NATDecode | None = None, iterations: int = 10
    ) -> Translator:
        """From a checkpoint folder, a pointer file, a run, or what `kdmt export` wrote.

        Raises:
            UserError: there is no checkpoint, it is damaged, or the toolkit that it is for is not installed.
        """
        if (path / "model.bin").is_file():
            ctranslate2 = CTranslate2Engine(path, device=str(device), threads=torch.get_num_threads())
            return cls(ctranslate2, TextCodec.load(path), ctranslate2.max_source_positions)
        if (path / "model.onnx").is_file():
            onnx = OnnxEngine(path, threads=torch.get_num_threads())
            return cls(onnx, TextCodec.load(path), onnx.max_source_positions)
        folder = resolve_checkpoint(path)
        return cls.of_model(
            load_model(folder), TextCodec.load(folder), device=device, search=search, iterations=iterations
        )

    @classmethod
    def of_model(
        cls,
        model: Transformer,
        codec: TextCodec,
        *,
        device: torch.device | str = "cpu",
        search: NATDecode | None = None,
        iterations: int = 10,
        teacher: Transformer | None = None,
        fusion: Fusion | None = None,
    ) -> Translator:
        """What stands behind `device` is `NATEngine`'s, for a model that is non-autoregressive."""
        engine: Engine
        if isinstance(model, NATransformer):
            beside = None if teacher is None else TorchEngine(teacher, device=device)
            engine = NATEngine(
                model, device=device, search=search, iterations=iterations, teacher=beside, fusion=fusion
            )
        else:
            engine = TorchEngine(model, device=device)
        return cls(engine, codec, model.config.max_source_positions)

    def translate(self, lines: Sequence[str], settings: Decode, *, first_line: int = 1) -> list[str]:
        """Finished text for raw lines; a line without words stays empty, one that is too long is cut and named."""
        sources = self.codec.encode_raw_source(lines)
        for line, source in enumerate(sources, start=first_line):
            if len(source) > self.max_source_tokens:
                limit = self.max_source_tokens
                _logger.warning(f"line {line}: {len(source)} tokens, cut to the model's {limit}")
        return [self.codec.finish_target(words) for words in self.translate_ids(sources, settings)]

    def translate_ids(self, sources: Sequence[np.ndarray], settings: Decode) -> list[str]:
        """Target words for source ids; a source without words gives none, one that is too long is cut."""
        return [
            self.codec.decode_target(best.tokens) if best is not None else ""
            for best in self.best_hypotheses(sources, settings)
        ]

    def best_hypotheses(self, sources: Sequence[np.ndarray], settings: Decode) -> list[Hypothesis | None]:
        """Of each source; None for one without words."""
        kept = [index for index, source in enumerate(sources) if len(source) > 1]
        found = self.engine.decode([cut_source(sources[i], self.max_source_tokens) for i in kept], settings)
        best: list[Hypothesis | None] = [None] * len(sources)
        for index, nbest in zip(kept, found, strict=True):
            best[index] = nbest[0] if nbest else None
        return best


def translate_stream(
    translator: Translator, settings: Decode, source: BinaryIO, target: BinaryIO, *, buffer_size: int
) -> None:
    """Translate a stream of UTF-8 lines in bounded memory, one line for one line, as they arrive.

    A line that is not UTF-8, or longer than `MAX_LINE_BYTES`, is named on standard error and has an empty translation;
    the others are translated. On a terminal control characters are escaped.

    Args:
        buffer_size: lines that are translated together at most.

    Raises:
        UserError: at the end, where there were such lines; at once, where the stream is no text.
    """
    done, refused = 0, list[int]()
    is_terminal = target.isatty()
    for lines in arriving_lines(source, buffer_size):
        texts = []
        for number, line in enumerate(lines, start=done + 1):
            text = _read_line(line, number)
            refused += [number] if text is None else []
            texts.append(text or "")
        try:
            translations = translator.translate(texts, settings, first_line=done + 1)
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            raise UserError(f"out of memory: a beam smaller than {settings.beam:,} needs less memory") from None
        if is_terminal:
            translations = [printable(line, keep="\t") for line in translations]
        target.writelines(line.encode() + b"\n" for line in translations)
        target.flush()
        done += len(lines)
    if refused:
        raise UserError(
            f"standard input: {len(refused):,} of {done:,} lines cannot be read, the first is line {refused[0]}; their "
            "translations are empty"
        )


def _is_out_of_memory(error: Exception) -> bool:
    """Whether PyTorch or CTranslate2 got no memory, for which on a CPU they have no exception of its own."""
    is_out = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return is_out or re.search(r"can't allocate memory|out of memory|bad_alloc", str(error)) is not None


def _read_line(line: bytes, number: int) -> str | None:
    """The text of a line of standard input; None where it cannot be read, which is told."""
    if number == 1:
        if len(line) > _SHORT_LINE:
            refuse_other_formats(line[:HEAD_BYTES], "standard input", sentences=False)
        line = line.removeprefix(codecs.BOM_UTF8)
    try:
        if len(line) <= MAX_LINE_BYTES:
            return line.decode().rstrip("\r")
        problem = TOO_LONG.reason
    except UnicodeDecodeError:
        problem = NOT_UTF8.reason
    _logger.warning(f"line {number}: {problem}, its translation is empty")
    return None
