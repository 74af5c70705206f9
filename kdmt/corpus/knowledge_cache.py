"""The knowledge cache: files with the top-k predictions of a teacher for every target token of a data-bin.

    knowledge.json      description of the cache and of its inputs; written last, so a folder with it is complete
    sizes.npy           int32 [sentences], number of target tokens of each sentence of the data-bin, </s> included
    marginal.npy        float32 [V], mean over all tokens of the teacher's distribution at temperature 1
    blocks/000000.npy   one record for each target token of sentences 0 ... block_size - 1, concatenated; then 000001

A record contains `ids`, uint16 [K] (uint32 for more than 65,536 symbols), the top-k tokens of the teacher at the first
temperature, best first; and `log_probs` [temperatures, K + 1], the natural logarithms of their probabilities, followed
by that of the total probability of all other tokens. The size of a cache is

    K * (2 or 4) + temperatures * (K + 1) * (2 or 4)   bytes per target token

which is 34 for K = 8, float16 and one temperature. All files are plain little-endian .npy files, which can be opened
with `numpy.load(path, mmap_mode="r")`. The records of a sentence that the teacher cannot read are zeros.

`knowledge.json` has: format, version, k, vocab_size, temperatures, block_size, num_sentences, num_tokens, made_from
(name -> sha256: teachers, dictionary and files of the data-bin) and blocks (file, sha256, num_sentences, num_tokens).
"""

from __future__ import annotations

import errno
import logging
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import DTypeLike, NDArray

from kdmt.checksum import file_sha256, is_below
from kdmt.choices import CacheNumberType
from kdmt.config import largest
from kdmt.corpus.batching import Knowledge
from kdmt.corpus.indexed import IntArray
from kdmt.errors import UserError, describe_error
from kdmt.files import PARTIAL, JsonType, atomic_file, check_file, check_keys, read_json, read_json_object, write_json
from kdmt.outputs import free_name

_logger = logging.getLogger(__name__)

FORMAT, VERSION = "kdmt-knowledge", 1
HEADER = "knowledge.json"
FloatArray = NDArray[np.floating]


@dataclass(frozen=True)
class Shape:
    """Layout of the records of a cache.

    Attributes:
        k: number of top-k tokens for each target token.
        vocab_size: size of the target dictionary, padding included.
        temperatures: temperatures for which log-probabilities are stored.
        value_type: number type of the log-probabilities.
        block_size: number of sentences in a block.
    """

    k: int
    vocab_size: int
    temperatures: tuple[float, ...]
    value_type: CacheNumberType
    block_size: int

    @property
    def record(self) -> np.dtype[np.void]:
        ids = "<u2" if self.vocab_size <= 2**16 else "<u4"
        values = np.dtype(self.value_type).newbyteorder("<")
        return np.dtype([("ids", ids, (self.k,)), ("log_probs", values, (len(self.temperatures), self.k + 1))])

    @property
    def bytes_a_token(self) -> int:
        return self.record.itemsize


class KnowledgeWriter:
    """Writer of a cache, block by block. Existing blocks of the same cache are kept.

    Args:
        folder: folder of the cache. Blocks with another shape or other inputs are renamed to `blocks.old`.
        shape: layout of the records.
        sizes: number of target tokens of each sentence of the data-bin, int32 [sentences].
        made_from: name -> sha256 of every input that the content depends on.
    """

    def __init__(self, folder: Path, shape: Shape, *, sizes: NDArray[np.int32], made_from: Mapping[str, str]) -> None:
        self.folder, self.shape, self.sizes, self.made_from = folder, shape, sizes, dict(made_from)
        self.blocks = folder / "blocks"
        self._claim()

    def _claim(self) -> None:
        """Keep the blocks of an interrupted run for the same cache, and rename the blocks of any other cache."""
        claim = {**_shape_values(self.shape), "made_from": self.made_from}
        path = self.folder / "claim.json"
        if not path.exists() or read_json(path) != claim:
            self._keep_old_blocks()
            (self.folder / HEADER).unlink(missing_ok=True)
            self.blocks.mkdir(parents=True, exist_ok=True)
            write_json(path, claim, indent=None)
        for leftover in self.blocks.glob(f"{PARTIAL}*"):
            leftover.unlink()

    def _keep_old_blocks(self) -> None:
        if not self.blocks.is_dir() or not any(self.blocks.iterdir()):
            return
        kept = self.blocks.rename(free_name(self.folder / f"{self.blocks.name}.old"))
        _logger.warning("%s: of another cache, kept as %s", self.blocks, kept)

    def __len__(self) -> int:
        return -(-len(self.sizes) // self.shape.block_size)

    def sentences(self, block: int) -> range:
        start = block * self.shape.block_size
        return range(start, min(start + self.shape.block_size, len(self.sizes)))

    def is_complete(self, block: int) -> bool:
        """Return whether the block has its records, and their sum over the vocabulary or the header of the cache."""
        summed = self._total_path(block).is_file() or (self.folder / HEADER).is_file()
        return self._path(block).is_file() and summed

    def write(self, block: int, records: NDArray[np.void], total_V: NDArray[np.float64]) -> None:
        """Write a block. Its files appear only when they are complete.

        Args:
            records: records of the block's tokens, with the dtype `shape.record`.
            total_V: sum over the block's tokens of the teacher's distribution at temperature 1.
        """
        within = self.sentences(block)
        if len(records) != int(self.sizes[within.start : within.stop].sum(dtype=np.int64)):
            raise ValueError(f"block {block} has {len(records)} records, its sentences have other sizes")
        _write_array(self._total_path(block), total_V)
        _write_array(self._path(block), records)

    def finish(self) -> None:
        """Write the header. All blocks must be complete."""
        if (self.folder / HEADER).is_file():
            return
        totals = [np.load(self._total_path(block)) for block in range(len(self))]
        num_tokens = int(self.sizes.sum(dtype=np.int64))
        _write_array(self.folder / "marginal.npy", (np.sum(totals, axis=0) / num_tokens).astype("<f4"))
        _write_array(self.folder / "sizes.npy", self.sizes.astype("<i4"))
        header = {
            "format": FORMAT,
            "version": VERSION,
            **_shape_values(self.shape),
            "num_sentences": len(self.sizes),
            "num_tokens": num_tokens,
            "made_from": self.made_from,
            "blocks": [self._about(block) for block in range(len(self))],
        }
        write_json(self.folder / HEADER, header)
        for block in range(len(self)):
            self._total_path(block).unlink()

    def _about(self, block: int) -> dict[str, object]:
        within = self.sentences(block)
        return {
            "file": f"blocks/{self._path(block).name}",
            "sha256": file_sha256(self._path(block)),
            "num_sentences": len(within),
            "num_tokens": int(self.sizes[within.start : within.stop].sum(dtype=np.int64)),
        }

    def _path(self, block: int) -> Path:
        return self.blocks / f"{block:06d}.npy"

    def _total_path(self, block: int) -> Path:
        return self.blocks / f"{block:06d}.total.npy"


class KnowledgeCache:
    """A cache that is read through memory maps.

    Raises:
        UserError: if the cache does not exist, is incomplete, has another version, or is truncated.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        header = _read_header(folder)
        self.shape = _read_shape(folder / HEADER, header)
        self.made_from: dict[str, str] = header["made_from"]
        self.files = [folder / each["file"] for each in header["blocks"]]
        self.sizes: NDArray[np.int32] = _load(folder / "sizes.npy", "<i4", header["num_sentences"])
        if (self.sizes < 0).any() or int(self.sizes.sum(dtype=np.int64)) != header["num_tokens"]:
            raise UserError(f"{folder / 'sizes.npy'}: damaged: not the sizes of {header['num_tokens']} tokens")
        starts = range(0, len(self.sizes), self.shape.block_size)
        tokens = [int(self.sizes[start : start + self.shape.block_size].sum(dtype=np.int64)) for start in starts]
        if tokens != [each["num_tokens"] for each in header["blocks"]]:
            raise UserError(f"{folder / HEADER}: damaged: its blocks do not have the tokens of sizes.npy")
        for path, num_tokens in zip(self.files, tokens, strict=True):
            _load(path, self.shape.record, num_tokens)
        self._open: dict[int, NDArray[np.void]] = {}

    @cached_property
    def marginal(self) -> NDArray[np.float32]:
        """Mean distribution of the teacher, [V]."""
        path = self.folder / "marginal.npy"
        marginal: NDArray[np.float32] = np.array(_load(path, "<f4", self.shape.vocab_size))
        if not (np.isfinite(marginal).all() and (marginal >= 0).all()):
            raise UserError(f"{path}: damaged: not the probabilities of a vocabulary")
        return marginal

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """Index of the first token of each sentence within its block."""
        starts = np.cumsum(self.sizes, dtype=np.int64) - self.sizes
        first = np.arange(0, len(starts), self.shape.block_size)
        return starts - np.repeat(starts[first], np.diff([*first, len(starts)]))

    def check(self, made_from: Mapping[str, str]) -> None:
        """Check that the cache was made from these inputs.

        Raises:
            UserError: if an input differs. The message names the input.
        """
        for name in sorted({*made_from, *self.made_from}):
            if made_from.get(name) != self.made_from.get(name):
                raise UserError(
                    f"{self.folder}: this knowledge cache is of another {name}; rebuild it with `kdmt knowledge`"
                )

    def temperature(self, wanted: float) -> int:
        """Return the index of a temperature in the cache.

        Raises:
            UserError: if the cache does not have the temperature. It cannot be computed from another one, because
                only the total probability of the other tokens is stored.
        """
        if wanted not in self.shape.temperatures:
            known = ", ".join(f"{each:g}" for each in self.shape.temperatures)
            raise UserError(f"{self.folder}: the knowledge cache has temperature {known}, not {wanted:g}")
        return self.shape.temperatures.index(wanted)

    def records(self, index: int) -> NDArray[np.void]:
        """Return the records of a sentence's tokens, [T]."""
        block = index // self.shape.block_size
        if block not in self._open:
            self._open[block] = _load(self.files[block], self.shape.record, None)
        start = self._starts[index]
        records = self._open[block][start : start + self.sizes[index]]
        if records.size and (records["ids"].max() >= self.shape.vocab_size or np.isnan(records["log_probs"]).any()):
            raise UserError(
                f"{self.files[block]}: damaged: sentence {index} has an id beyond the vocabulary's "
                f"{self.shape.vocab_size} symbols, or a log-probability that is not a number"
            )
        return records


class KnowledgeSource:
    """Knowledge from the caches of several concatenated data-bins, at one temperature.

    Args:
        shares: share of each data-bin in the pairs that are trained on; None if all pairs are used equally often.
    """

    def __init__(
        self, caches: Sequence[KnowledgeCache], *, temperature: float, shares: Sequence[float] | None = None
    ) -> None:
        self.caches, self.shares = caches, shares
        self.columns = [cache.temperature(temperature) for cache in caches]
        self.starts = np.cumsum([0, *(len(cache.sizes) for cache in caches)]).tolist()

    @property
    def marginal(self) -> NDArray[np.float32]:
        """Mean distribution of the teacher at temperature 1 over the tokens that are trained on, [V]."""
        weights: list[float] = [int(cache.sizes.sum(dtype=np.int64)) for cache in self.caches]
        if self.shares is not None:  # a share is one of sentences
            per_sentence = (total / len(cache.sizes) for total, cache in zip(weights, self.caches, strict=True))
            weights = [share * mean for share, mean in zip(self.shares, per_sentence, strict=True)]
        return np.average([cache.marginal for cache in self.caches], axis=0, weights=weights).astype(np.float32)

    def load(self, indices: Sequence[int] | IntArray) -> Knowledge:
        """Return the knowledge about all target tokens of these pairs, in the given order.

        The probabilities of each token's groups are normalised to sum to 1 again, because the stored ones are rounded.
        """
        import torch

        parts = [self._records(int(index)) for index in indices]
        ids_MK = np.concatenate([ids for ids, _ in parts]).astype(np.int64)
        log_probs_MG = torch.from_numpy(np.concatenate([log_probs for _, log_probs in parts]).astype(np.float32))
        return Knowledge(torch.from_numpy(ids_MK), log_probs_MG.log_softmax(1))

    def _records(self, index: int) -> tuple[NDArray[Any], NDArray[Any]]:
        number = bisect_right(self.starts, index) - 1
        records = self.caches[number].records(index - self.starts[number])
        return records["ids"], records["log_probs"][:, self.columns[number]]


def fill_records(shape: Shape, ids_MK: NDArray[np.int64], log_probs_TMG: FloatArray) -> NDArray[np.void]:
    """Return records of ids [M, K] and log-probabilities [T, M, K + 1] (T temperatures, all other tokens last)."""
    records = np.zeros(len(ids_MK), dtype=shape.record)
    records["ids"] = ids_MK
    lowest = np.finfo(shape.value_type).min  # represents the logarithm of 0
    records["log_probs"] = np.maximum(log_probs_TMG, lowest).transpose(1, 0, 2)
    return records


def _shape_values(shape: Shape) -> dict[str, object]:
    return {**asdict(shape), "temperatures": list(shape.temperatures)}


def _read_header(folder: Path) -> dict[str, Any]:
    path = folder / HEADER
    header = read_json_object(
        path, missing=f"there is no such file: {folder} is no knowledge cache, or an unfinished one"
    )
    if header.get("format") != FORMAT or header.get("version") != VERSION:
        raise UserError(f"{path}: not version {VERSION} of the format {FORMAT}")
    check_keys(header, _HEADER_KEYS, f"{path}: damaged")
    if not all(isinstance(sha256, str) for sha256 in header["made_from"].values()):
        raise UserError(f"{path}: damaged: 'made_from' are not all sha256")
    if not all(_is_block(each) for each in header["blocks"]):
        raise UserError(f"{path}: damaged: 'blocks' are not all blocks")
    for name in ("num_sentences", "num_tokens"):
        if header[name] < 0:
            raise UserError(f"{path}: damaged: {name!r} is {header[name]}")
    return header


_HEADER_KEYS: dict[str, JsonType] = {
    **dict.fromkeys(("k", "vocab_size", "block_size", "num_sentences", "num_tokens"), int),
    **{"temperatures": list, "value_type": str, "made_from": dict, "blocks": list},
}


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_block(about: object) -> bool:
    if not isinstance(about, dict):
        return False
    file = about.get("file")
    return isinstance(file, str) and is_below(file) and _is_count(about.get("num_tokens"))


def _read_shape(path: Path, header: Mapping[str, Any]) -> Shape:
    """Return the layout of the records after checking that every value is possible."""
    for name in ("k", "vocab_size", "block_size"):
        if not 1 <= header[name] <= largest(name):
            raise UserError(f"{path}: damaged: {name!r} is {str(header[name])[:80]}")
    temperatures = header["temperatures"]
    if not all(type(each) in (int, float) and each > 0 for each in temperatures):
        raise UserError(f"{path}: damaged: 'temperatures' is {str(temperatures)[:80]}")
    if header["value_type"] not in get_args(CacheNumberType):
        raise UserError(f"{path}: damaged: 'value_type' is {header['value_type'][:80]!r}")
    return Shape(
        k=header["k"],
        vocab_size=header["vocab_size"],
        temperatures=tuple(temperatures),
        value_type=header["value_type"],
        block_size=header["block_size"],
    )


def _load(path: Path, dtype: DTypeLike, length: int | None) -> NDArray[Any]:
    """Return a memory-mapped one-dimensional array after checking its dtype and, unless it is None, its length."""
    check_file(path, missing="the knowledge cache's file is missing")
    try:
        array = np.load(path, mmap_mode="r" if length != 0 else None)
    except (ValueError, EOFError, OSError, SyntaxError) as error:
        raise UserError(f"{path}: damaged or cut short: {describe_error(error)}") from None
    if array.dtype != np.dtype(dtype) or array.ndim != 1 or (length is not None and len(array) != length):
        raise UserError(f"{path}: damaged: {list(array.shape)} records of {array.dtype.itemsize} bytes")
    return array


def _write_array(path: Path, array: NDArray[Any]) -> None:
    try:
        with atomic_file(path) as aside, aside.open("wb") as file:
            np.save(file, array)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(f"{path}: the disk is full; earlier blocks are kept, run it again to go on") from None
