"""Memory-mapped token files of fairseq: `.bin` contains the tokens, `.idx` the position of each sentence.

The format is identical to that of `MMapIndexedDataset` (fairseq/data/indexed_dataset.py):

    .idx   b"MMIDIDX\\0\\0", uint64 version 1, uint8 dtype code, uint64 count, int32 sizes[count], int64 pointers[count]
    .bin   the concatenated tokens of all sentences, each sentence with `</s>` at its end

All numbers are little-endian. Sizes are in tokens, pointers in bytes.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import NDArray

from kdmt.errors import UserError
from kdmt.files import check_file, naming
from kdmt.types import EOS, PAD, UNK

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQ")  # magic, version, dtype code, count
DTYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2", 9: "<u4", 10: "<u8"}  # 6 and 7 are floats

IntArray = NDArray[np.integer]


def fitting_dtype(vocab_size: int) -> np.dtype[np.integer]:
    """Return the dtype that fairseq uses for a vocabulary, uint16, uint32 or int64 (`best_fitting_int_dtype`)."""
    if vocab_size < 65_500:
        return np.dtype("<u2")
    return np.dtype("<u4" if vocab_size < 4_294_967_295 else "<i8")


def bin_path(prefix: Path) -> Path:
    return prefix.with_name(prefix.name + ".bin")


def idx_path(prefix: Path) -> Path:
    return prefix.with_name(prefix.name + ".idx")


class IndexedWriter:
    """Writer of sentences, used as `with IndexedWriter(prefix, vocab_size) as writer: writer.add(tokens)`.

    Tokens are written immediately; four bytes per sentence are kept in memory. Both files have temporary names and
    are renamed when the `with` block ends without an exception; after an exception they are removed.
    """

    def __init__(self, prefix: Path, vocab_size: int) -> None:
        self.dtype = fitting_dtype(vocab_size)
        self._prefix = prefix
        self._vocab_size = vocab_size
        self._sizes = array("i")
        self._bin_part = prefix.with_name(prefix.name + ".bin.part")
        self._idx_part = prefix.with_name(prefix.name + ".idx.part")
        self._file: IO[bytes] | None = None

    def __enter__(self) -> IndexedWriter:
        self._file = self._bin_part.open("wb")
        return self

    def add(self, tokens: IntArray) -> None:
        """Append one sentence, an integer array [S] with `</s>` at its end."""
        self.add_flat(tokens, np.array([len(tokens)], dtype=np.int32))

    def add_flat(self, tokens: IntArray, sizes: IntArray) -> None:
        """Append many sentences at once.

        Args:
            tokens: concatenated tokens of the sentences, `</s>` at the end of each included, integers [sum(sizes)].
            sizes: number of tokens of each sentence, integers [sentences].
        """
        if self._file is None:
            raise ValueError("an IndexedWriter is used inside its 'with' block")
        if len(sizes) and int(sizes.min()) <= 0:
            raise ValueError("a sentence has no token: even an empty one has its </s>")
        if int(sizes.sum(dtype=np.int64)) != len(tokens):
            raise ValueError(f"sizes add up to {int(sizes.sum())}, there are {len(tokens)} tokens")
        if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < self._vocab_size:
            raise ValueError(f"a token id is outside the vocabulary of {self._vocab_size}")
        with naming(self._bin_part):
            self._file.write(np.ascontiguousarray(tokens, dtype=self.dtype).data)
        self._sizes.frombytes(np.ascontiguousarray(sizes, dtype=np.int32).tobytes())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._file is not None:
                with naming(self._bin_part):  # close() writes the buffered data
                    self._file.close()
            if kind is None:
                self._write_index()
                # In this order, a killed process never leaves an index together with tokens that it does not describe.
                idx_path(self._prefix).unlink(missing_ok=True)
                self._bin_part.replace(bin_path(self._prefix))
                self._idx_part.replace(idx_path(self._prefix))
        finally:
            self._file = None
            self._bin_part.unlink(missing_ok=True)
            self._idx_part.unlink(missing_ok=True)

    def _write_index(self) -> None:
        sizes = np.frombuffer(self._sizes, dtype=np.int32) if self._sizes else np.empty(0, dtype=np.int32)
        with naming(self._idx_part), self._idx_part.open("wb") as file:
            file.write(HEADER.pack(MAGIC, VERSION, _dtype_code(self.dtype), len(sizes)))
            file.write(sizes.astype("<i4").data)
            file.write(_pointers(sizes, self.dtype).data)


class IndexedDataset:
    """Memory-mapped sentences of one language: `dataset[i]` is an integer array [S] with `</s>` at its end.

    Only the path is pickled, so a worker process maps the files itself.

    Raises:
        UserError: if a file is missing, has another format, or has another length than the index specifies.
    """

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        self.dtype, self.sizes = _read_index(idx_path(prefix))  # sizes: int32 [sentences]
        self._pointers = _pointers(self.sizes, self.dtype) // self.dtype.itemsize
        self._tokens = _map_tokens(bin_path(prefix), self.dtype, int(self.sizes.sum(dtype=np.int64)))

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> IntArray:
        start = self._pointers[index]
        return self._tokens[start : start + self.sizes[index]]

    def read(self, start: int, stop: int) -> tuple[IntArray, NDArray[np.int32]]:
        """Return sentences start, ..., stop - 1: concatenated tokens [sum(sizes)], and sizes, int32 [sentences].

        The tokens are read, not mapped, so that a pass over a large file does not keep it in memory.
        """
        sizes = self.sizes[start:stop]
        first = int(self._pointers[start]) if start < len(self) else 0
        with bin_path(self.prefix).open("rb") as file:
            file.seek(first * self.dtype.itemsize)
            tokens = np.fromfile(file, dtype=self.dtype, count=int(sizes.sum(dtype=np.int64)))
        return tokens, sizes

    def gather(self, indices: NDArray[np.int64]) -> tuple[IntArray, NDArray[np.int64]]:
        """Return the sentences at these indices: concatenated tokens [sum(sizes)], and sizes, int64 [sentences]."""
        sizes = self.sizes[indices].astype(np.int64)
        starts = self._pointers[indices] - (np.cumsum(sizes) - sizes)  # of each sentence, less its place in the result
        return self._tokens[np.repeat(starts, sizes) + np.arange(sizes.sum())], sizes

    def __reduce__(self) -> tuple[type[IndexedDataset], tuple[Path]]:
        return IndexedDataset, (self.prefix,)


def without_padding(sentence: IntArray) -> IntArray:
    """Return a sentence with `<unk>` instead of each `<pad>`, as models read it; some data-bins contain `<pad>`."""
    return np.where(sentence == PAD, UNK, sentence)


def checked_chunks(
    dataset: IndexedDataset, vocab_size: int, *, chunk: int = 20_000
) -> Iterator[tuple[IntArray, NDArray[np.int32]]]:
    """Yield all sentences in checked chunks of `chunk` sentences, in the format of `IndexedDataset.read`.

    Raises:
        UserError: if an id is outside the vocabulary, or a sentence does not end in </s>. The message contains the
            index of the sentence, counted from 0.
    """
    path = bin_path(dataset.prefix)
    for start in range(0, len(dataset), chunk):
        tokens, sizes = dataset.read(start, min(start + chunk, len(dataset)))
        ends = np.cumsum(sizes, dtype=np.int64)
        wrong = np.flatnonzero((tokens < 0) | (tokens >= vocab_size))
        if len(wrong):
            sentence = start + int(np.searchsorted(ends, wrong[0], side="right"))
            raise UserError(
                f"{path}: sentence {sentence} (from 0) has the id {int(tokens[wrong[0]])}, "
                f"the dictionary {vocab_size} symbols"
            )
        empty = np.flatnonzero(sizes == 0)
        without_end = empty if len(empty) else np.flatnonzero(tokens[ends - 1] != EOS)
        if len(without_end):
            raise UserError(f"{path}: sentence {start + int(without_end[0])} (from 0) does not end in </s>")
        yield tokens, sizes


def _dtype_code(dtype: np.dtype[np.integer]) -> int:
    return next(code for code, name in DTYPES.items() if np.dtype(name) == dtype)


def _pointers(sizes: IntArray, dtype: np.dtype[np.integer]) -> NDArray[np.int64]:
    """Return the byte offset of each sentence in the `.bin` file, int64 [sentences]."""
    pointers = np.zeros(len(sizes), dtype="<i8")
    np.cumsum(sizes[:-1], dtype=np.int64, out=pointers[1:])
    pointers *= dtype.itemsize
    return pointers


def _read_index(path: Path) -> tuple[np.dtype[np.integer], NDArray[np.int32]]:
    """Return the dtype of the tokens, and the sizes, int32 [sentences]."""
    check_file(path)
    with path.open("rb") as file:
        header = file.read(HEADER.size)
        rest = np.fromfile(file, dtype=np.uint8)
    if header[: len(MAGIC)] != MAGIC:
        raise UserError(f"{path}: not an index of fairseq's mmap format")
    if len(header) < HEADER.size:
        raise UserError(f"{path}: cut short: {len(header)} bytes, the header alone has {HEADER.size}")
    _, version, code, count = HEADER.unpack(header)
    if version != VERSION or code not in DTYPES:
        raise UserError(f"{path}: version {version} with data type {code} is not supported")
    dtype = np.dtype(DTYPES[code])
    if len(rest) != 12 * count:
        state = "cut short" if len(rest) < 12 * count else "too long"
        expected = HEADER.size + 12 * count
        raise UserError(f"{path}: {state}: {HEADER.size + len(rest)} bytes, {count} sentences take {expected}")
    sizes = rest[: 4 * count].view("<i4").copy()  # a copy, so that the pointers can be freed
    wrong = np.flatnonzero(sizes <= 0)  # even an empty sentence has </s>
    if len(wrong):
        raise UserError(f"{path}: damaged: sentence {wrong[0]} (from 0) has the size {sizes[wrong[0]]}")
    if not np.array_equal(rest[4 * count :].view("<i8"), _pointers(sizes, dtype)):
        raise UserError(f"{path}: damaged: the pointers do not follow from the sizes")
    return dtype, sizes


def _map_tokens(path: Path, dtype: np.dtype[np.integer], count: int) -> IntArray:
    check_file(path)
    length = path.stat().st_size
    if length != count * dtype.itemsize:
        state = "cut short" if length < count * dtype.itemsize else "too long"
        raise UserError(f"{path}: {state}: {length} bytes, its index counts {count * dtype.itemsize}")
    if count == 0:  # an empty file cannot be mapped
        return np.empty(0, dtype=dtype)
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))  # a plain array is faster to slice
