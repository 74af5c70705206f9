"""Identification of the language of lines of text, in batches.

The built-in identifier is the model of py3langid (an extra, pure Python and numpy, 4.6 MB with its model): a naive
Bayes classifier over byte n-grams (Lui and Baldwin 2012). This module computes the same probabilities for many lines at
once, which is several times as fast. Other models can be read from a file in fastText's format.

Shape legend: N lines of a batch, T bytes of the longest of them, L languages of the identifier, F features, C states of
the automaton.
"""

from __future__ import annotations

import functools
import itertools
import mmap
import struct
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kdmt.errors import UserError
from kdmt.files import check_file
from kdmt.languages import is_installed, parse_language

EXTRA = "language-id"
_BATCH_LINES = 1000  # lines that are walked together
_MAX_BYTES = 1500  # of a line; more do not change the result
_MAGIC = 793712314  # first number of a model in fastText's format
# magic number, version, 12 integers and a float of the training, then the numbers of entries, words and labels of the
# dictionary, and two counts that are not used here
_HEADER = struct.Struct("<8x 48x 8x 4x 2i 16x")
_ENTRY_BYTES = 9  # count and kind, after the text of an entry
_NO_BUILT_IN = f"py3langid is not installed: pip install 'kdmt[{EXTRA}]'"
_NO_FASTTEXT = "fasttext-predict is not installed: pip install 'kdmt[fasttext]'"
_LABEL = "__label__"  # prefix of a language in fastText's models
_FASTTEXT_GUESSES = 20  # languages of a line that are asked for; all others have a probability near 0

Probabilities = NDArray[np.float32]  # [N, L]


class Identifier(Protocol):
    """Identifier of languages."""

    @property
    def languages(self) -> tuple[str, ...]:
        """ISO 639 code of each language, with two letters if there is one; each occurs once."""
        ...

    def probabilities(self, lines: Sequence[str]) -> Probabilities:
        """Return the probability of each language for each line [N, L]."""
        ...


def identify_batch(identifier: Identifier, lines: Sequence[str]) -> list[tuple[str, float]]:
    """Return the most probable language of each line, and its probability."""
    probabilities_NL = identifier.probabilities(lines)
    best_N = probabilities_NL.argmax(axis=1)
    values_N = probabilities_NL[np.arange(len(best_N)), best_N]
    return [(identifier.languages[i], value) for i, value in zip(best_N.tolist(), values_N.tolist(), strict=True)]


def open_identifier(model: Path | None) -> Identifier:
    """Return the built-in identifier, or the one of a model file in fastText's format.

    Raises:
        UserError: if a package is not installed, or the file is missing or has no languages.
    """
    return open_built_in() if model is None else open_fasttext(model)


def knows_any(model: Path | None, languages: frozenset[str]) -> bool:
    """Return whether an identifier knows one of some languages, as cheaply as possible.

    The labels of a model file are read without its weights; the built-in identifier is opened only if the table of its
    languages lacks all of them.

    Raises:
        UserError: as `open_identifier`.
    """
    if model is not None:
        if not is_installed("fasttext"):
            raise UserError(_NO_FASTTEXT)
        return not languages.isdisjoint(_languages_by_label(model).values())
    if not is_installed("py3langid"):
        raise UserError(_NO_BUILT_IN)
    return not languages.isdisjoint(BUILT_IN_LANGUAGES) or not languages.isdisjoint(open_built_in().languages)


# --------------------------------------------------------------------------------------------------- related languages

# Languages that identifiers do not tell apart in short lines, and names of identifiers for varieties of a language: a
# line of one of them counts as a line of the others.
RELATED = (
    *("nb nn no da", "hr sr bs sh cnr", "cs sk", "id ms", "xh zu"),
    *("zh yue wuu", "fa prs", "he yi hbo", "el grc", "bo dz", "ar ary arz apc ajp acm ars arb"),
)


@functools.cache
def group_of(language: str) -> frozenset[str]:
    """Return the languages that count as the same as a language, itself included."""
    groups = (frozenset(group.split()) for group in RELATED)
    return next((group for group in groups if language in group), frozenset({language}))


def share_of(identifier: Identifier, probabilities_NL: Probabilities, language: str) -> NDArray[np.float64]:
    """Return p / (p + q) for each line [N].

    p is the probability of a language with its group (`group_of`), q that of the most probable other language. The
    value does not depend on how many other languages the identifier knows.
    """
    group = group_of(language)
    own = [index for index, code in enumerate(identifier.languages) if code in group]
    own_N = probabilities_NL[:, own].sum(axis=1, dtype=np.float64)
    others_NL = probabilities_NL.copy()
    others_NL[:, own] = 0.0
    other_N = others_NL.max(axis=1, initial=0.0).astype(np.float64)
    return own_N / np.maximum(own_N + other_N, np.finfo(np.float64).tiny)


# -------------------------------------------------------------------------------------------------------- built-in one

# languages of the model of py3langid 0.4, which are known without opening it
_BUILT_IN = (
    "ace af am an ar ary arz as az ba bcl be bg bn br bs ca crh cs cy da de dz el en eo es et eu ext",
    "fa fi fo fr fuv fy ga gcf gcr gd gl gom grc gu gug guw ha hbo he hi hr ht hu hy id ig is it ja jv",
    "ka kab kik kk km kn ko ku ky la lb lg lij ln lo lt ltg lv mg mk ml mn mr ms mt my ne nl nn no nso",
    "oc om or pa pcm pl ps pt qu ro ru rw sa sdh se si sk sl sn so sq sr st sv sw ta te tg th tk tl tr",
    "tt ug uk ur uz uzs vec vi vo wa wuu xh yo yue zh zu zxx",
)
BUILT_IN_LANGUAGES = frozenset(language for line in _BUILT_IN for language in line.split())


@dataclass(frozen=True)
class NaiveBayes:
    """Naive Bayes classifier over the byte n-grams that an automaton finds.

    Attributes:
        languages: code of each language.
        columns_L: for each column of the table, the index of its language; a language in two scripts has two columns.
        table: log-probability of each feature in each column [F, columns].
        prior: log-probability of each column.
        next_state: state after each state and byte, in rows of 256 that states share.
        row_C: start of the row of each state in `next_state`.
        feature_C: feature that is found on entry to each state, or -1.
    """

    languages: tuple[str, ...]
    columns_L: NDArray[np.intp]
    table: NDArray[np.float32]
    prior: NDArray[np.float32]
    next_state: NDArray[np.unsignedinteger]
    row_C: NDArray[np.int64]
    feature_C: NDArray[np.int32]

    def probabilities(self, lines: Sequence[str]) -> Probabilities:
        """Return the probability of each language for each line [N, L].

        The exponent is divided by the square root of the number of bytes, as py3langid does, because the n-grams of a
        line are not independent. All languages are equally probable for a line without known n-grams.
        """
        found = np.zeros((len(lines), len(self.languages)), dtype=np.float32)
        texts = [_encode(line) for line in lines]
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        for start in range(0, len(order), _BATCH_LINES):
            batch = order[start : start + _BATCH_LINES]
            found[batch] = self._score([texts[index] for index in batch])
        return found

    def _score(self, texts: Sequence[bytes]) -> Probabilities:
        """Return the probabilities for texts that are sorted by length, the longest first."""
        lengths_N = np.array([len(text) for text in texts], dtype=np.int64)
        scores = np.zeros((len(texts), len(self.prior)), dtype=np.float32)
        for line, sums in self._sum_features(texts, lengths_N):
            scores[line] = sums + self.prior
        scores *= 1.0 / np.sqrt(np.maximum(lengths_N, 1), dtype=np.float32)[:, None]
        scores -= scores.max(axis=1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=1, keepdims=True)
        if len(self.languages) == len(self.prior):
            return scores
        _, first_L = np.unique(self.columns_L, return_index=True)
        merged = scores[:, first_L]
        for column in np.setdiff1d(np.arange(len(self.prior)), first_L).tolist():
            merged[:, self.columns_L[column]] += scores[:, column]
        return merged

    def _sum_features(
        self, texts: Sequence[bytes], lengths_N: NDArray[np.int64]
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield each line that has features, and the sum of log(1 + count) times the row of each feature."""
        codes, counts = np.unique(self._walk(texts, lengths_N), return_counts=True)
        weights = np.log1p(counts.astype(np.float32))
        lines, features = np.divmod(codes, np.int32(len(self.table)))
        starts = np.flatnonzero(np.diff(lines, prepend=-1))
        features = features.astype(np.intp)
        bounds = itertools.pairwise([*starts.tolist(), len(lines)])
        for line, (start, stop) in zip(lines[starts].tolist(), bounds, strict=True):
            yield line, weights[start:stop] @ self.table.take(features[start:stop], axis=0)

    def _walk(self, texts: Sequence[bytes], lengths_N: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return `line * F + feature` for each occurrence of a feature in texts, the longest of which comes first."""
        longest = int(lengths_N[0])
        padded = b"".join([text.ljust(longest, b"\0") for text in texts])
        letters_TN = np.frombuffer(padded, dtype=np.uint8).reshape(len(texts), longest).T.astype(np.int64, order="C")
        states_TN = np.full(letters_TN.shape, self.feature_C.argmin())  # a state without a feature after the end
        moves_N = np.full(len(texts), self.row_C[0])  # index of the next state
        active = len(texts)
        for position in range(longest):
            while lengths_N[active - 1] <= position:
                active -= 1
            moves, states = moves_N[:active], states_TN[position, :active]
            moves += letters_TN[position, :active]
            states[:] = self.next_state.take(moves)
            self.row_C.take(states, out=moves, mode="clip")  # all are valid; "raise" would copy
        features_TN = self.feature_C.take(states_TN)
        codes_TN = features_TN + np.arange(len(texts), dtype=np.int32) * np.int32(len(self.table))
        return codes_TN[features_TN >= 0]


def _encode(line: str) -> bytes:
    if line.isupper():
        line = line.lower()
    return unicodedata.normalize("NFC", line).encode("utf-8", errors="surrogatepass")[:_MAX_BYTES]


@functools.cache
def open_built_in() -> NaiveBayes:
    """Return the built-in identifier, which is kept in memory (160 MB).

    Raises:
        UserError: if py3langid is not installed.
    """
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise UserError(_NO_BUILT_IN) from None
    model = LanguageIdentifier.from_model_file(MODEL_FILE)
    languages = tuple(dict.fromkeys(model.nb_classes))
    return NaiveBayes(
        languages=languages,
        columns_L=np.array([languages.index(code) for code in model.nb_classes], dtype=np.intp),
        table=model.nb_ptc.astype(np.float32),
        prior=model.nb_pc,
        next_state=np.array(model.tk_nextmove),
        row_C=np.array(model.tk_row, dtype=np.int64) << 8,
        feature_C=np.array(model.tk_output, dtype=np.int32),
    )


# ------------------------------------------------------------------------------------------------------------ fastText


@dataclass(frozen=True)
class FastText:
    """Language identifier in fastText's format, such as lid.176, OpenLID or GlotLID."""

    languages: tuple[str, ...]
    index_of: dict[str, int]  # label of the model -> index of its language
    model: Any  # class of fasttext-predict, which has no types

    def probabilities(self, lines: Sequence[str]) -> Probabilities:
        """Return the probability of each language for each line [N, L]."""
        found = np.zeros((len(lines), len(self.languages)), dtype=np.float32)
        for row, line in zip(found, lines, strict=True):
            for label, probability in zip(*self.model.predict(line, k=_FASTTEXT_GUESSES), strict=True):
                row[self.index_of[label]] += probability
        return found


@functools.cache
def open_fasttext(path: Path) -> FastText:
    """Return the identifier of a model file in fastText's format.

    Raises:
        UserError: if fasttext-predict is not installed, or the file is missing or has no labels of languages.
    """
    try:
        import fasttext
    except ImportError:
        raise UserError(_NO_FASTTEXT) from None
    codes = _languages_by_label(path)
    try:
        model = fasttext.load_model(str(path))
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{path}: fastText cannot read it: {error}") from None
    languages = tuple(dict.fromkeys(codes.values()))
    return FastText(languages, {label: languages.index(code) for label, code in codes.items()}, model)


def _languages_by_label(path: Path) -> dict[str, str]:
    """Return the language of each label of a model file."""
    check_file(path, missing="there is no such fastText model")
    try:
        return {label: _language_of(label) for label in read_labels(path)}
    except ValueError as error:
        raise UserError(f"{path}: fastText cannot read it: {error}") from None


def read_labels(path: Path) -> list[str]:
    """Return the labels of a model in fastText's binary format, which fasttext-predict does not list.

    Raises:
        ValueError: if the file has another format or no labels.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if len(data) < _HEADER.size or struct.unpack_from("<i", data)[0] != _MAGIC:
            raise ValueError("the file has another format")
        num_words, num_labels = _HEADER.unpack_from(data)
        if num_labels < 1:
            raise ValueError("the model has no labels")
        labels, start = [], _HEADER.size
        for number in range(num_words + num_labels):  # words come before labels
            end = data.find(b"\0", start)
            if end < 0:
                raise ValueError("the file ends within its dictionary")
            if number >= num_words:
                labels.append(data[start:end].decode())
            start = end + 1 + _ENTRY_BYTES
    return labels


def _language_of(label: str) -> str:
    """Return the language of a label such as `__label__de` or `__label__deu_Latn`; other labels stay as they are."""
    code = label.removeprefix(_LABEL)
    try:
        return parse_language(code).language
    except ValueError:
        return code
