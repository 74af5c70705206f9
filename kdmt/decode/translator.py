"""Raw text in, finished text out, with nothing but a checkpoint folder."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from kdmt.config import Decode, NATDecode
from kdmt.corpus.codec import TextCodec, cut_source
from kdmt.corpus.formats import HEAD_BYTES, refuse_other_formats
from kdmt.corpus.text_files import TooLong, bounded_lines, too_long_reason
from kdmt.decode.ctc import Fusion
from kdmt.decode.ctranslate2 import CTranslate2Engine
from kdmt.decode.engine import Engine
from kdmt.decode.nonautoregressive import NATEngine
from kdmt.decode.onnx import OnnxEngine
from kdmt.decode.transformer import TorchEngine
from kdmt.errors import UserError
from kdmt.models.checkpoint import load_model
from kdmt.models.checkpoint_folder import resolve_checkpoint
from kdmt.models.nonautoregressive import NATransformer
from kdmt.models.transformer import Transformer
from kdmt.types import Hypothesis

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
                print(f"line {line}: {len(source)} tokens, cut to the model's {limit}", file=sys.stderr)
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
    """Translate a stream of UTF-8 lines in bounded memory, one line for one line.

    A line that is too long is named and stays empty.

    Raises:
        UserError: a line is not UTF-8, naming it; or the stream is no text.
    """
    done = 0
    lines = _decode_lines(source)
    while buffer := list(islice(lines, buffer_size)):
        for line in translator.translate(buffer, settings, first_line=done + 1):
            target.write(line.encode() + b"\n")
        target.flush()
        done += len(buffer)


def _decode_lines(source: BinaryIO) -> Iterator[str]:
    for number, line in enumerate(bounded_lines(source), start=1):
        if isinstance(line, TooLong):
            print(f"line {number}: {too_long_reason()}, not translated", file=sys.stderr)
            yield ""
            continue
        if number == 1 and len(line) > _SHORT_LINE:
            refuse_other_formats(line[:HEAD_BYTES], "standard input", sentences=False)
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        try:
            yield line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            raise UserError(f"standard input line {number}: not UTF-8") from None
