"""Filter by the scores of an external command, such as bicleaner-ai, LASER or a COMET quality estimation model.

The command reads lines `source <TAB> target` from standard input and writes one line per pair to standard output, in
order, with the score as its last column. It is run once per batch of pairs. The scores of a batch are kept in a file
that is named by the command and the text of the batch, so that a later run does not compute them again.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np

from kdmt.config import ExternalFilter
from kdmt.corpus.filters.scored_filter import KeptText, Pair, Scores
from kdmt.errors import UserError
from kdmt.files import atomic_file

_SHOWN_CHARACTERS = 300  # of the error output of a command, its end


class CommandFilter:
    """Filter by an external command.

    Args:
        settings: settings of the filter.
        cache: folder in which scores are kept; it is created if it does not exist.
        say: function that prints a line for the user.
    """

    def __init__(self, settings: ExternalFilter, *, cache: Path, say: Callable[[str], None]) -> None:
        self._settings, self._cache, self._say = settings, cache, say

    def fit(self, texts: Sequence[KeptText]) -> None:
        """Do nothing: a command is complete."""

    def score(self, text: KeptText) -> Scores:
        """Return the score of each kept pair [K].

        Raises:
            UserError: if the command cannot be run, fails more often than `retries`, or writes other lines than scores.
        """
        scores = [self._score_batch(batch) for batch in text.batches(self._settings.batch_pairs)]
        return np.concatenate(scores) if scores else np.zeros(0)

    def _score_batch(self, pairs: Sequence[Pair]) -> Scores:
        text = "".join(f"{self._row(pair)}\n" for pair in pairs).encode()
        key = json.dumps([self._settings.command, self._settings.columns]).encode()
        path = self._cache / f"{hashlib.sha256(key + bytes(1) + text).hexdigest()[:32]}.npy"
        if path.exists():
            return np.load(path)
        self._cache.mkdir(parents=True, exist_ok=True)
        scores = self._run(text, len(pairs))
        with atomic_file(path) as aside, aside.open("wb") as file:
            np.save(file, scores)
        return scores

    def _row(self, pair: Pair) -> str:
        by_name = dict(zip(("source", "target"), pair, strict=True))
        return "\t".join(by_name[name] for name in self._settings.columns)

    def _run(self, text: bytes, num_pairs: int) -> Scores:
        """Return the scores that the command writes for a text, after retries if it fails."""
        for attempt in range(self._settings.retries + 1):
            code, output, problem = self._call(text)
            if code == 0:
                return self._parse(output, num_pairs)
            message = f"{self._name}: ended with exit status {code}{problem}"
            if attempt < self._settings.retries:
                self._say(f"prepare: warning: {message}; it is started again")
        raise UserError(f"{message}, {self._settings.retries + 1} times")

    def _call(self, text: bytes) -> tuple[int, bytes, str]:
        """Run the command once; return its exit status, its output, and the end of its error output for a message."""
        # files, because pipes in both directions can block; next to the scores, which are on the disk of the run
        with TemporaryFile(dir=self._cache) as given, TemporaryFile(dir=self._cache) as errors:
            given.write(text)
            given.seek(0)
            try:
                done = subprocess.run(
                    self._settings.command, stdin=given, stdout=subprocess.PIPE, stderr=errors, check=False
                )
            except OSError as error:
                raise UserError(f"{self._name}: cannot be run: {error.strerror}") from None
            errors.seek(max(0, errors.seek(0, os.SEEK_END) - _SHOWN_CHARACTERS))
            shown = errors.read().decode(errors="replace").strip()
        return done.returncode, done.stdout, f": {shown.splitlines()[-1]}" if shown else ""

    def _parse(self, output: bytes, num_pairs: int) -> Scores:
        lines = output.decode(errors="replace").splitlines()
        if len(lines) != num_pairs:
            raise UserError(f"{self._name}: wrote {len(lines):,} lines for {num_pairs:,} pairs")
        scores = np.empty(num_pairs)
        for index, line in enumerate(lines):
            try:
                scores[index] = float(line.rpartition("\t")[2])
            except ValueError:
                raise UserError(f"{self._name}: line {index + 1} of its output has no score: {line[:100]!r}") from None
        return scores

    @property
    def _name(self) -> str:
        return f"prepare.clean.rules: filter: {' '.join(self._settings.command)}"
