"""Translation with ONNX Runtime on the CPU, for a folder that `kdmt export --to onnx` wrote.

The graphs compute the model, and the search is that of PyTorch's engines. `kdmt.interop.onnx_folder` describes the
graphs.

Shapes: B batch, S source length, T target length, K beam, N = B * K rows, A active rows, L decoder positions, H heads,
C width of a head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdmt.config import Decode, NATDecode
from kdmt.corpus.batching import pad_sentences
from kdmt.corpus.indexed import without_padding
from kdmt.decode.engines.engine import (
    WHY_NAN,
    EngineOptions,
    check_pairs,
    check_sentences,
    compute_in_batches,
    score_in_batches,
)
from kdmt.decode.engines.nat import check_length_beam, dag_hypotheses, fill_drafts, ranked_candidates
from kdmt.decode.search.ctc_paths import greedy
from kdmt.decode.search.lengths import max_lengths
from kdmt.decode.search.unbranched import search_with_beam
from kdmt.errors import UserError, describe_error
from kdmt.families import FAMILIES, FamilyName
from kdmt.interop.onnx_folder import (
    CTC_OUTPUTS,
    DAG_OUTPUTS,
    DECODER_FILE,
    DECODER_INPUTS,
    DECODER_OUTPUTS,
    ENCODER_FILE,
    ENCODER_OUTPUTS,
    INPUT,
    MERGED_DECODER_FILE,
    MODEL_FILE,
    REFINED,
    ModelFolder,
    check_search,
)
from kdmt.types import EOS, PAD, Hypothesis

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


def open_folder(folder: Path, options: EngineOptions) -> OnnxEngine:
    """Return the engine of an autoregressive model. See `OnnxEngine`."""
    return OnnxEngine(folder, threads=options.threads)


def open_nonautoregressive(folder: Path, options: EngineOptions) -> OnnxNATEngine:
    """Return the engine of a non-autoregressive model. See `OnnxNATEngine`."""
    return OnnxNATEngine(folder, threads=options.threads, search=options.search, iterations=options.iterations)


@dataclass(frozen=True)
class Graph:
    """A graph in ONNX Runtime."""

    file: Path
    session: InferenceSession
    inputs: frozenset[str] = frozenset()  # names

    @classmethod
    def load(cls, file: Path, threads: int) -> Graph:
        """Load a graph for a number of CPU threads.

        Raises:
            UserError: if ONNX Runtime is not installed, or cannot load the file.
        """
        try:
            import onnxruntime
        except ImportError:
            raise UserError("ONNX Runtime is not installed: pip install 'kdmt[onnx]'") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 4  # fatal only: messages would quote names from the file without escaping
        options.enable_mem_pattern = False  # plans of memory for one shape, and the shapes of batches differ
        try:
            session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own, of many types
            raise UserError(f"{file}: ONNX Runtime cannot load it: {describe_error(error)}") from None
        return cls(file, session, frozenset(each.name for each in session.get_inputs()))

    def run(self, outputs: Sequence[str], inputs: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Return outputs of the graph.

        Raises:
            UserError: if ONNX Runtime cannot compute them.
        """
        try:
            return list(self.session.run(list(outputs), inputs))
        except Exception as error:  # ONNX Runtime's own, of many types
            raise UserError(f"{self.file}: ONNX Runtime cannot run it: {describe_error(error)}") from None

    def check(self, array: NDArray[Any], dtype: type, shape: tuple[int | None, ...]) -> None:
        """Check that an output has the type and shape of a model that kdmt exported; None is any size."""
        fits = array.ndim == len(shape) and all(
            wanted in (None, size) for wanted, size in zip(shape, array.shape, strict=True)
        )
        if not fits or array.dtype != dtype:
            raise UserError(f"{self.file}: its outputs are not those of a model that 'kdmt export --to onnx' wrote")

    def check_symbols(self, symbols: NDArray[Any], log_probs: NDArray[Any], *, count: int, largest: int) -> None:
        """Check the shapes, types and values of predictions for `count` sentences.

        Args:
            largest: largest id.
        """
        self.check(symbols, np.int64, (count, None))
        self.check(log_probs, np.float32, symbols.shape)
        if np.isnan(log_probs).any():
            raise UserError(f"{self.file}: its probabilities are no numbers: {WHY_NAN}")
        if symbols.size and not 0 <= symbols.min() <= symbols.max() <= largest:
            raise UserError(f"{self.file}: it predicts ids that the dictionary does not have")


# ------------------------------------------------------------------------------------------------------ autoregressive


class OnnxEngine:
    """An autoregressive model in ONNX Runtime on the CPU, with beam search, greedy search and forced scores.

    Args:
        folder: folder written by `kdmt.interop.onnx_export`.
        threads: number of CPU threads.

    Raises:
        UserError: if ONNX Runtime is not installed, or if the folder is damaged or was not written by kdmt.
    """

    def __init__(self, folder: Path, *, threads: int = 1) -> None:
        self._folder = ModelFolder.open(folder)
        self.max_source_positions = self._folder.max_source_positions
        self.max_target_positions = self._folder.max_target_positions
        self._encoder = Graph.load(folder / ENCODER_FILE, threads)
        self._decoder = Graph.load(folder / MERGED_DECODER_FILE, threads)

    def decode(
        self, sources: Sequence[np.ndarray], settings: Decode, *, progress: Callable[[int], None] | None = None
    ) -> list[list[Hypothesis]]:
        """See `Engine.decode`."""
        check_sentences(sources, self.max_source_positions, "source")

        def search(batch: list[int]) -> list[list[Hypothesis]]:
            try:
                return self._search([sources[place] for place in batch], settings)
            except FloatingPointError as error:
                raise UserError(f"{self._folder.path}: the model cannot translate: {error}: {WHY_NAN}") from None

        return compute_in_batches(
            [len(source) for source in sources],
            search,
            max_tokens=settings.max_tokens,
            batch_size=settings.batch_size,
            progress=progress,
        )

    def score_pairs(
        self,
        sources: Sequence[np.ndarray],
        targets: Sequence[np.ndarray],
        *,
        max_tokens: int = 4096,
        batch_size: int = 256,
    ) -> list[np.ndarray]:
        """See `ScoringEngine.score_pairs`; float32. The decoder reads the targets one token after the other."""
        check_pairs(sources, targets, self.max_source_positions, self.max_target_positions)
        return score_in_batches(sources, targets, self._forced, max_tokens=max_tokens, batch_size=batch_size)

    def _search(self, sources: list[np.ndarray], settings: Decode) -> list[list[Hypothesis]]:
        limit = self.max_target_positions - 1  # </s> takes the last position
        max_len_B = max_lengths([len(each) for each in sources], settings.max_len_a, settings.max_len_b, limit=limit)
        stepper = self._start(sources, settings.beam)
        narrow = self._folder.config.get("layout") == "marian"  # as in PyTorch
        return search_with_beam(stepper, settings, max_len_B=max_len_B, narrow=narrow)

    def _forced(self, sources: list[np.ndarray], targets: list[np.ndarray]) -> NDArray[np.float32]:
        """Return log-probabilities of the target tokens, arbitrary on padding: float32 [B, T]."""
        stepper = self._start(sources, 1)
        tgt_tokens_BT = pad_sentences(targets)
        last_tokens_B, found = torch.full((len(targets),), EOS), []
        for tokens_B in tgt_tokens_BT.unbind(1):
            log_probs_BV = stepper.step(last_tokens_B).log_softmax(-1)
            found.append(log_probs_BV.gather(1, tokens_B[:, None])[:, 0].numpy())
            last_tokens_B = tokens_B
        return np.stack(found, axis=1)

    def _start(self, sources: list[np.ndarray], beam: int) -> _Stepper:
        """Encode sources, and return the decoding state at their start with `beam` rows each."""
        first_B = None
        if self._folder.target_from_source:
            first_B = torch.tensor([int(source[0]) for source in sources])
            sources = [source[1:] if len(source) > 1 else source for source in sources]
        prefixed = [np.array([*self._folder.source_prefix, *source]) for source in sources]
        src_tokens_BS = pad_sentences(prefixed).numpy()
        mask_BS = (src_tokens_BS != PAD).astype(np.int64)
        inputs = {"input_ids": src_tokens_BS, "attention_mask": mask_BS}
        (states_BSD,) = self._encoder.run(["last_hidden_state"], inputs)
        self._encoder.check(states_BSD, np.float32, (*src_tokens_BS.shape, self._folder.config["encoder_embed_dim"]))
        stepper = _Stepper.start(self._decoder, self._folder, mask_BS, states_BSD, beam)
        stepper.first_tokens_B = first_B
        return stepper


@dataclass
class _Stepper:
    """Decoding state of a batch: the inputs of the decoder. Implements `Stepper` of `kdmt.decode.search.beam`.

    Attributes:
        mask_BS: int64, 1 for real tokens of the source.
        states_BSD: output of the encoder.
        own: inputs of the rows, by name: keys and values of the tokens so far, [N, H, T, C], or states of SSRUs,
            [N, D].
        source: keys and values of the source, [B, H, S, C], which the first step computes.
        prefix: tokens that are read in place of the first `</s>`.
        first_tokens_B: tokens that are read after them, one for each sentence: int64; None for no such tokens.
    """

    graph: Graph
    num_tokens: int
    beam: int
    mask_BS: Tensor
    states_BSD: Tensor
    own: dict[str, Tensor]
    source: dict[str, Tensor]
    prefix: tuple[int, ...]
    position: int = 0  # number of tokens so far
    first_tokens_B: Tensor | None = None

    @classmethod
    def start(
        cls, graph: Graph, folder: ModelFolder, mask_BS: NDArray[Any], states_BSD: NDArray[Any], beam: int
    ) -> _Stepper:
        config, rows = folder.config, len(mask_BS) * beam
        heads, dim = config["decoder_attention_heads"], config["decoder_embed_dim"]
        own = {name: torch.empty(rows, heads, 0, dim // heads) for name in ("decoder.key", "decoder.value")}
        source = {name: torch.empty(len(mask_BS), heads, 0, dim // heads) for name in ("encoder.key", "encoder.value")}
        if config.get("decoder") == "ssru":
            own = {"decoder.state": torch.zeros(rows, dim)}
        layers = range(config["decoder_layers"])
        return cls(
            graph,
            folder.num_tokens,
            beam,
            torch.from_numpy(mask_BS),
            torch.from_numpy(states_BSD),
            {f"{layer}.{name}": state for layer in layers for name, state in own.items()},
            {f"{layer}.{name}": state for layer in layers for name, state in source.items()},
            folder.target_prefix,
        )

    def step(self, last_tokens_N: Tensor) -> Tensor:
        """See `Stepper.step`."""
        if self.position:
            return self._run(last_tokens_N)
        for token in self.prefix:
            logits_NV = self._run(torch.full_like(last_tokens_N, token))
        if self.first_tokens_B is not None:
            logits_NV = self._run(self.first_tokens_B.repeat_interleave(self.beam))
        return logits_NV

    def _run(self, tokens_N: Tensor) -> Tensor:
        """Read a token in each row, and return the logits of the next one: [N, V]."""
        cache = self.own | self.source
        inputs = {f"past_key_values.{name}": tensor.numpy() for name, tensor in cache.items()}
        inputs |= {
            "input_ids": tokens_N[:, None].numpy(),
            "encoder_attention_mask": self.mask_BS.numpy(),
            "encoder_hidden_states": self.states_BSD.numpy(),
            "use_cache_branch": np.array([self.position > 0]),
        }
        if "position" in self.graph.inputs:
            inputs["position"] = np.array([self.position])
        wanted = list(self.own if self.position else cache)
        logits_N1V, *found = self.graph.run(["logits", *(f"present.{name}" for name in wanted)], inputs)
        self.graph.check(logits_N1V, np.float32, (len(tokens_N), 1, self.num_tokens))
        for name, array in zip(wanted, found, strict=True):
            into = self.own if name in self.own else self.source
            shape = list(into[name].shape)
            if len(shape) > 2:
                shape[2] = self.position + 1 if name in self.own else self.mask_BS.size(1)
            self.graph.check(array, np.float32, tuple(shape))
            into[name] = torch.from_numpy(array)
        self.position += 1
        return torch.from_numpy(logits_N1V)[:, 0]

    def reorder(self, order_N: Tensor) -> None:
        """See `Stepper.reorder`. The rows of a sentence share what does not move: its source."""
        self.own = {name: state.index_select(0, order_N) for name, state in self.own.items()}

    def select_sentences(self, index_B: Tensor) -> None:
        """See `Stepper.select_sentences`."""
        rows_N = (index_B[:, None] * self.beam + torch.arange(self.beam)).flatten()
        self.reorder(rows_N)
        self.source = {name: state.index_select(0, index_B) for name, state in self.source.items()}
        self.mask_BS, self.states_BSD = (each.index_select(0, index_B) for each in (self.mask_BS, self.states_BSD))


# -------------------------------------------------------------------------------------------------- non-autoregressive


class OnnxNATEngine:
    """A non-autoregressive student in ONNX Runtime on the CPU.

    In `ctc` and `dag` models a run of the graph has sentences of one length, so that nothing is padded.

    Args:
        folder: folder written by `kdmt.interop.onnx_export`.
        threads: number of CPU threads.
        search: settings of the search.
        iterations: maximum number of decoder passes, for families that refine their output.

    Raises:
        UserError: if ONNX Runtime is not installed, if the folder is damaged or was not written by kdmt, if the
            length beam is larger than the number of lengths that the model has, or as in `check_search`.
    """

    def __init__(
        self, folder: Path, *, threads: int = 1, search: NATDecode | None = None, iterations: int = 10
    ) -> None:
        self._folder = ModelFolder.open(folder)
        self.max_source_positions = self._folder.max_source_positions
        self._search, self._iterations, self._threads = search or NATDecode(), iterations, threads
        self._family: FamilyName = self._folder.nat["family"]
        check_search(self._family, self._search)
        check_length_beam(self._search, self._family, self._folder.max_target_positions)
        names = (ENCODER_FILE, DECODER_FILE) if self._family in REFINED else (MODEL_FILE,)
        self._graphs = [Graph.load(folder / name, threads) for name in names]

    @property
    def refines(self) -> bool:
        """See `RefiningEngine.refines`."""
        return FAMILIES[self._family].iterates

    def with_iterations(self, iterations: int) -> OnnxNATEngine:
        """See `RefiningEngine.with_iterations`."""
        return OnnxNATEngine(self._folder.path, threads=self._threads, search=self._search, iterations=iterations)

    def decode(
        self, sources: Sequence[np.ndarray], settings: Decode, *, progress: Callable[[int], None] | None = None
    ) -> list[list[Hypothesis]]:
        """See `Engine.decode`; returns one hypothesis per source."""
        check_sentences(sources, self.max_source_positions, "source")

        def write(batch: list[int]) -> Iterator[list[Hypothesis]]:
            # a batch is sorted by length
            alike = groupby(batch, lambda place: len(sources[place]))
            groups = [batch] if self._family in REFINED else [list(group) for _, group in alike]
            for group in groups:
                for hypothesis in self._write([sources[place] for place in group]):
                    yield [hypothesis]

        return compute_in_batches(
            [len(source) for source in sources],
            write,
            max_tokens=settings.max_tokens,
            batch_size=settings.batch_size,
            progress=progress,
        )

    def _write(self, sources: list[np.ndarray]) -> list[Hypothesis]:
        """Translate sources, which have one length unless the family reads padding."""
        if self._family in REFINED:
            return self._refine(sources)
        src_tokens_BS = without_padding(np.stack(sources)).astype(np.int64)
        return self._dag(src_tokens_BS) if self._family == "dag" else self._ctc(src_tokens_BS)

    def _ctc(self, src_tokens_BS: NDArray[np.int64]) -> list[Hypothesis]:
        (graph,) = self._graphs
        symbols_BL, log_probs_BL = graph.run(CTC_OUTPUTS, {INPUT: src_tokens_BS})
        graph.check_symbols(symbols_BL, log_probs_BL, count=len(src_tokens_BS), largest=self._folder.blank)
        keep_BL = torch.ones(symbols_BL.shape, dtype=torch.bool)
        return greedy(torch.from_numpy(symbols_BL), torch.from_numpy(log_probs_BL), keep_BL, blank=self._folder.blank)

    def _dag(self, src_tokens_BS: NDArray[np.int64]) -> list[Hypothesis]:
        (graph,) = self._graphs
        tokens, log_probs, links = graph.run(DAG_OUTPUTS, {INPUT: src_tokens_BS})
        graph.check_symbols(tokens, log_probs, count=len(src_tokens_BS), largest=self._folder.num_tokens - 1)
        sentences, vertices = tokens.shape
        graph.check(links, np.float32, (sentences, vertices, vertices))
        tokens_BL, log_probs_BL, links_BLL = (torch.from_numpy(each) for each in (tokens, log_probs, links))
        return dag_hypotheses(tokens_BL, log_probs_BL, links_BLL, torch.full((sentences,), vertices), self._search)

    def _refine(self, sources: list[np.ndarray]) -> list[Hypothesis]:
        encoder, decoder = self._graphs
        src_tokens_BS = pad_sentences(sources)
        states, lengths = encoder.run(ENCODER_OUTPUTS, {INPUT: src_tokens_BS.numpy()})
        encoder.check(states, np.float32, (len(sources), None, self._folder.config["encoder_embed_dim"]))
        encoder.check(lengths, np.int64, (len(sources), None))
        lengths_BK = torch.from_numpy(lengths)[:, : self._search.num_lengths(self._family)]
        lengths_BK = lengths_BK.clamp(2, self._folder.max_target_positions)
        rows_N = torch.arange(len(sources)).repeat_interleave(lengths_BK.size(1))
        states_BSD = torch.from_numpy(states)

        def predict(tokens_AT: Tensor, rows_A: Tensor) -> tuple[Tensor, Tensor]:
            of_A = rows_N[rows_A]
            inputs = (src_tokens_BS[of_A], states_BSD[of_A], tokens_AT)
            named = {name: each.numpy() for name, each in zip(DECODER_INPUTS, inputs, strict=True)}
            tokens, log_probs = decoder.run(DECODER_OUTPUTS, named)
            decoder.check_symbols(tokens, log_probs, count=len(of_A), largest=self._folder.num_tokens - 1)
            decoder.check(tokens, np.int64, tuple(tokens_AT.shape))
            return torch.from_numpy(tokens), torch.from_numpy(log_probs)

        corrects = bool(self._folder.nat["corrects"])
        filled = fill_drafts(predict, lengths_BK.flatten(), self._family, self._iterations, corrects=corrects)
        return [candidates[0] for candidates in ranked_candidates(filled, lengths_BK)]
