"""Cache of the scores of one external scorer: an SQLite file, which several processes may use at the same time.

A score is found by the SHA-256 of the segment, of the model and of the signature. Scores are written in transactions,
so that a killed run loses only those that it had not written yet.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from kdmt.errors import UserError

_WAIT_SECONDS = 120.0  # for another process that writes
_MAX_PARAMETERS = 500  # of one statement


class ScoreCache:
    """Scores by key, and the first message of each version of a scorer by an identity of the version.

    Args:
        path: file of the cache; it is created if it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._explained():
            self._file = sqlite3.connect(path, timeout=_WAIT_SECONDS, isolation_level=None)
            with self._transaction():
                for table, columns in (("scores", "key BLOB, score REAL"), ("greetings", "key TEXT, greeting TEXT")):
                    self._file.execute(f"CREATE TABLE IF NOT EXISTS {table} ({columns}, PRIMARY KEY (key))")

    def close(self) -> None:
        self._file.close()

    def find(self, keys: Sequence[bytes]) -> dict[bytes, float]:
        """Return the scores of those keys that have one."""
        found: dict[bytes, float] = {}
        with self._explained():
            for start in range(0, len(keys), _MAX_PARAMETERS):
                part = keys[start : start + _MAX_PARAMETERS]
                marks = ",".join("?" * len(part))
                found |= dict(self._file.execute(f"SELECT key, score FROM scores WHERE key IN ({marks})", part))
        return found

    def add(self, scores: Mapping[bytes, float]) -> None:
        """Write scores in one transaction."""
        if not scores:
            return
        with self._explained(), self._transaction():
            self._file.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?)", scores.items())

    def greeting(self, identity: str) -> dict[str, object] | None:
        """Return the first message of a version of the scorer, None if it is not known."""
        with self._explained():
            found = self._file.execute("SELECT greeting FROM greetings WHERE key = ?", (identity,)).fetchone()
        return None if found is None else json.loads(found[0])

    def add_greeting(self, identity: str, greeting: Mapping[str, object]) -> None:
        with self._explained(), self._transaction():
            self._file.execute("INSERT OR REPLACE INTO greetings VALUES (?, ?)", (identity, json.dumps(dict(greeting))))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._file.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._file.execute("ROLLBACK")
            raise
        self._file.execute("COMMIT")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise UserError(
                f"{self.path}: cache of scores: {error}; it can be deleted, and is then made again"
            ) from None


def segment_key(version: str, texts: Sequence[str | None]) -> bytes:
    """Return the key of a segment.

    Args:
        version: text that identifies the model and the signature.
        texts: source, hypothesis, and reference if the scorer reads it.
    """
    return hashlib.sha256(json.dumps([version, *texts]).encode()).digest()
