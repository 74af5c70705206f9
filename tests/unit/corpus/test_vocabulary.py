"""Tests of the dictionary and its file; test_binarize.py compares dictionaries with those of fairseq."""

import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdmt.corpus.vocabulary import Dictionary
from kdmt.errors import UserError
from kdmt.types import SPECIALS

tokens = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Z")), min_size=1, max_size=4).filter(
    lambda token: token not in SPECIALS
)


def load(tmp_path, text):
    path = tmp_path / "dict.en.txt"
    path.write_bytes(text.encode("utf-8") if isinstance(text, str) else text)
    return Dictionary.load(path)


def test_specials_come_first():
    dictionary = Dictionary()
    assert [dictionary.index(token) for token in ("<s>", "<pad>", "</s>", "<unk>", "other")] == [0, 1, 2, 3, 3]


def test_order_is_by_count_then_code_point():
    dictionary = Dictionary.from_counts({"b": 1, "é": 1, "a": 1, "z": 2, "Z": 1, "<pad>": 9}, padding_factor=1)
    assert dictionary.symbols[4:] == ["z", "Z", "a", "b", "é"]
    assert dictionary.counts[4:] == [2, 1, 1, 1, 1]


@given(counts=st.dictionaries(tokens, st.integers(1, 5)), threshold=st.integers(0, 6), nwords=st.integers(-1, 12))
def test_threshold_and_nwords(counts, threshold, nwords):
    dictionary = Dictionary.from_counts(counts, threshold=threshold, nwords=nwords, padding_factor=1)
    kept = dictionary.symbols[4:]
    dropped = set(counts) - set(dictionary.symbols)
    assert all(counts[token] >= threshold for token in kept)
    if nwords > 0:
        assert len(dictionary) <= max(nwords, 4)
    for token in dropped:  # for one of the two reasons, and not more frequent than a kept one
        assert counts[token] < threshold or (0 < nwords <= max(len(dictionary), 4))
        assert all(counts[token] <= counts[other] for other in kept)


@given(size=st.integers(0, 20), factor=st.integers(1, 9))
def test_padding_fills_up_to_the_factor(size, factor):
    dictionary = Dictionary.from_counts({f"w{i}": 1 for i in range(size)}, padding_factor=factor)
    assert len(dictionary) % factor == 0
    assert 0 <= len(dictionary) - (size + 4) < factor
    assert dictionary.symbols[size + 4 :] == [f"madeupword{i:04d}" for i in range(len(dictionary) - size - 4)]


def test_padding_skips_a_word_of_the_text():
    dictionary = Dictionary.from_counts({"madeupword0000": 3, "a": 1})
    assert dictionary.symbols[4:] == ["madeupword0000", "a", "madeupword0001", "madeupword0002"]


@settings(max_examples=30, deadline=None)
@given(counts=st.dictionaries(tokens, st.integers(0, 10**12)))
def test_file_round_trip(tmp_path_factory, counts):
    path = tmp_path_factory.mktemp("dict") / "dict.en.txt"
    dictionary = Dictionary.from_counts(counts)
    dictionary.save(path)
    again = Dictionary.load(path)
    assert again == dictionary
    assert again.counts[4:] == dictionary.counts[4:]
    assert [entry.name for entry in path.parent.iterdir()] == ["dict.en.txt"]


@given(line=st.lists(tokens, max_size=6))
def test_encode_and_string(line):
    dictionary = Dictionary.from_counts(dict.fromkeys(line, 1))
    ids = dictionary.encode_line(" ".join(line))
    assert ids.dtype == np.int32
    assert ids[-1] == 2
    assert dictionary.string(ids) == " ".join(line)


def test_string_omits_only_bos_and_eos():
    dictionary = Dictionary.from_counts({"a": 1}, padding_factor=1)
    assert dictionary.string(np.array([0, 4, 1, 3, 99, 2])) == "a <pad> <unk> <unk>"
    assert dictionary.encode_line("a <pad> new <unk> </s>").tolist() == [4, 1, 3, 3, 2, 2]


def test_overwritten_tokens_get_new_ids(tmp_path):
    """Check that the token gets a second, new id, and that its first id is not reused, as in fairseq."""
    dictionary = load(tmp_path, "a 5\nb 4\n<unk> 3 #fairseq:overwrite\na 2 #fairseq:overwrite\n")
    assert len(dictionary) == 8
    assert [dictionary.index(token) for token in ("a", "b", "<unk>", "new")] == [7, 5, 6, 3]
    dictionary.save(tmp_path / "again.txt")
    assert Dictionary.load(tmp_path / "again.txt") == dictionary


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a 5\nb\n", "dict.en.txt:2: expected 'token count', found 'b'"),
        ("a 5\n\nb 1\n", "dict.en.txt:2: expected"),
        ("a five\n", "dict.en.txt:1: expected"),
        ("a #fairseq:overwrite\n", "dict.en.txt:1: expected"),
        ("a 5\nb 3\na 1\n", "dict.en.txt:3: the token 'a' is listed twice"),
        ("<pad> 5\n", "dict.en.txt:1: the token '<pad>' is listed twice"),
        (b"a 5\n\xff 3\n", "dict.en.txt:2: not UTF-8"),
    ],
)
def test_a_malformed_file_is_refused(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        load(tmp_path, text)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no such dictionary"):
        Dictionary.load(tmp_path / "dict.en.txt")


def test_a_byte_order_mark_is_removed_from_the_first_token(tmp_path):
    assert load(tmp_path, "\ufeffa 5\n\ufeffb 3\n").symbols[4:] == ["a", "\ufeffb"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("a 5\n".encode("utf-16"), "dict.en.txt: UTF-16 text, not plain text: convert it"),
        (gzip.compress(b"a 5\n", mtime=0), "dict.en.txt: compressed with gzip"),
        (b"a 5\rb 3\r", "dict.en.txt:1: a carriage return inside the line"),
        (b"a 5\rb 3\n", "dict.en.txt:1: a carriage return inside the line"),
    ],
)
def test_files_in_other_formats_are_refused(tmp_path, data, message):
    with pytest.raises(UserError, match=message):
        load(tmp_path, data)


def test_windows_line_endings_are_read(tmp_path):
    assert load(tmp_path, "a 5\r\nb 3\r\n").symbols[4:] == ["a", "b"]


def test_required_tokens_are_kept_below_the_threshold_and_beyond_the_limit():
    counts = {"a": 9, "b": 5, "c": 2}
    required = ["x", "c", "a"]
    made = Dictionary.from_counts(counts, threshold=3, nwords=5, padding_factor=1, required=required)
    assert made.symbols[4:] == ["a", "x", "c"]
    assert made.counts[4:] == [9, 0, 2]


def test_a_vocabulary_keeps_its_order_and_other_tokens_follow():
    made = Dictionary.from_vocabulary(["b", "a"], {"a": 3, "<bt>": 2, "<unk>": 7}, padding_factor=4)
    assert made.symbols[4:] == ["b", "a", "<bt>", "madeupword0000"]
    assert made.counts[4:] == [0, 3, 2, 0]


def test_renamed_tokens_keep_their_ids_and_counts() -> None:
    dictionary = Dictionary.from_counts({"a": 3, "__de__": 2, "b": 1}, padding_factor=1)
    renamed = dictionary.renamed({"__de__": "<2de>", "__fr__": "<2fr>"})
    assert renamed.symbols[4:] == ["a", "<2de>", "b"]
    assert renamed.counts == dictionary.counts
    assert renamed.index("<2de>") == dictionary.index("__de__")
    assert "__de__" not in renamed
    with pytest.raises(UserError, match="the dictionary has 'a', and 'b' too, which is its new name"):
        dictionary.renamed({"a": "b"})
