"""Reader of kdmt's knowledge cache that needs only NumPy. kdmt/corpus/knowledge_cache.py describes the files.

Shapes: M target tokens of some sentences, K best tokens at each of them, G = K + 1 groups.
"""

import hashlib
import json
from itertools import count
from pathlib import Path

import numpy as np

FORMAT, VERSION = "kdmt-knowledge", 1


class KnowledgeCache:
    """Output distributions of a teacher for every target token of a data-bin, at one temperature.

    Args:
        folder: folder of the cache.
        temperature: one of the temperatures of the cache.

    Raises:
        ValueError: if there is no cache, or it is unfinished, damaged, of another version or without this temperature.
    """

    def __init__(self, folder, temperature):
        self.folder = Path(folder)
        header = self._read_header()
        if temperature not in header["temperatures"]:
            known = ", ".join(f"{each:g}" for each in header["temperatures"])
            raise ValueError(f"{folder}: the knowledge cache has temperature {known}, not {temperature:g}")
        self._place = header["temperatures"].index(temperature)
        self.vocab_size = header["vocab_size"]
        self.made_from = header["made_from"]
        self.sizes = np.load(str(self.folder / "sizes.npy"))
        self._block_size = header["block_size"]
        self._blocks = [self._open(each) for each in header["blocks"]]
        starts = np.cumsum(self.sizes, dtype=np.int64) - self.sizes
        first = np.arange(0, len(starts), self._block_size)
        self._starts = starts - np.repeat(starts[first], np.diff([*first, len(starts)]))

    def _read_header(self):
        path = self.folder / "knowledge.json"
        if not path.is_file():
            raise ValueError(f"{self.folder}: no knowledge cache, or an unfinished one: it has no {path.name}")
        header = json.loads(path.read_text(encoding="utf-8"))
        if (header.get("format"), header.get("version")) != (FORMAT, VERSION):
            raise ValueError(f"{path}: not version {VERSION} of the format {FORMAT}")
        return header

    def _open(self, about):
        path = self.folder / about["file"]
        if not path.is_file():
            raise ValueError(f"{path}: the knowledge cache's block is missing")
        records = np.load(str(path), mmap_mode="r" if about["num_tokens"] else None)
        if len(records) != about["num_tokens"]:
            raise ValueError(f"{path}: damaged: {len(records)} records, {about['num_tokens']} tokens")
        return records

    def read(self, indices):
        """Return the teacher's distributions for all target tokens of some sentences, in the order of the sentences.

        Returns:
            ids: int64 [M, K], the most probable token first.
            log_probs: float32 [M, G], natural logarithms of probabilities that sum to 1; the last group is all other
                tokens.
            known: bool [M], false for tokens of a sentence that the teacher could not read.
        """
        records = np.concatenate([self._records(int(index)) for index in indices])
        log_probs = records["log_probs"][:, self._place].astype(np.float32)
        known = log_probs.any(axis=1)
        largest = log_probs.max(axis=1, keepdims=True)
        log_probs = log_probs - largest
        log_probs -= np.log(np.exp(log_probs).sum(axis=1, keepdims=True))
        return records["ids"].astype(np.int64), log_probs, known

    def _records(self, index):
        start = self._starts[index]
        return self._blocks[index // self._block_size][start : start + self.sizes[index]]


def check_data(cache, data_bin, src, tgt):
    """Check that a cache was made from the text that fairseq trains on.

    Several training splits (train, train1, ...) are compared with the single split that kdmt makes of them.

    Raises:
        ValueError: if the text or a dictionary differs. The message names the file.
    """
    folder = Path(data_bin)
    for name, expected in cache.made_from.items():
        if name.startswith("dict."):
            files = [folder / name]
        elif name.startswith("data-bin/") and name.endswith(".bin"):
            lang = name.split(".")[-2]
            if f".{src}-{tgt}." not in name:
                raise ValueError(f"{cache.folder}: the knowledge cache is of {name}, not of {src}-{tgt}")
            files = _training_files(folder, src, tgt, lang)
        else:
            continue  # entries of the teacher, and of the index, whose sizes are compared separately
        if _sha256(files) != expected:
            raise ValueError(
                f"{cache.folder}: the knowledge cache was made for another {name} than {', '.join(map(str, files))}"
            )


def _training_files(folder, src, tgt, lang):
    files = []
    for number in count():
        split = "train" + (str(number) if number else "")
        found = [folder / f"{split}.{pair}.{lang}.bin" for pair in (f"{src}-{tgt}", f"{tgt}-{src}")]
        found = [path for path in found if path.is_file()]
        if not found:
            return files
        files.append(found[0])
    return files


def _sha256(files):
    digest = hashlib.sha256()
    for path in files:
        if not path.is_file():
            raise ValueError(f"{path}: there is no such file")
        with path.open("rb") as file:
            for data in iter(lambda file=file: file.read(1 << 20), b""):
                digest.update(data)
    return digest.hexdigest()
