"""Tests of `.bin` and `.idx` files: the bytes of the format, round trips and damaged files."""

import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdmt.corpus.indexed import IndexedDataset, IndexedWriter, bin_path, fitting_dtype, idx_path
from kdmt.corpus.vocabulary import Dictionary
from kdmt.errors import UserError


def write(prefix, sentences, vocab_size=100):
    with IndexedWriter(prefix, vocab_size) as writer:
        for sentence in sentences:
            writer.add(np.array(sentence, dtype=np.int64))


def test_written_bytes_follow_the_format(tmp_path):
    write(tmp_path / "train.en-de.en", [[5, 6, 2], [2], [7, 2]])
    expected = (
        b"MMIDIDX\x00\x00" + struct.pack("<QBQ", 1, 8, 3) + struct.pack("<3i", 3, 1, 2) + struct.pack("<3q", 0, 6, 8)
    )
    assert (tmp_path / "train.en-de.en.idx").read_bytes() == expected
    assert (tmp_path / "train.en-de.en.bin").read_bytes() == struct.pack("<6H", 5, 6, 2, 2, 7, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.en-de.en.bin", "train.en-de.en.idx"]


@pytest.mark.parametrize(
    ("vocab_size", "dtype"), [(65_499, "<u2"), (65_500, "<u4"), (4_294_967_294, "<u4"), (4_294_967_295, "<i8")]
)
def test_dtypes_change_at_the_vocabulary_sizes_of_fairseq(vocab_size, dtype):
    assert fitting_dtype(vocab_size) == np.dtype(dtype)


@settings(max_examples=40, deadline=None)
@given(
    sentences=st.lists(st.lists(st.integers(0, 69_999), min_size=1, max_size=6), max_size=8),
    vocab_size=st.sampled_from([70_000, 5_000_000_000]),
)
def test_round_trip(tmp_path_factory, sentences, vocab_size):
    prefix = tmp_path_factory.mktemp("indexed") / "data"
    write(prefix, sentences, vocab_size)
    dataset = IndexedDataset(prefix)
    assert [dataset[i].tolist() for i in range(len(dataset))] == sentences
    assert dataset.sizes.tolist() == [len(sentence) for sentence in sentences]
    assert dataset.sizes.dtype == np.int32
    assert dataset.dtype == fitting_dtype(vocab_size)


def test_flat_writing_equals_writing_one_sentence_at_a_time(tmp_path):
    sentences = [[4, 5, 2], [2], [9, 9, 9, 2]]
    write(tmp_path / "one", sentences)
    with IndexedWriter(tmp_path / "flat", 100) as writer:
        writer.add_flat(np.array([4, 5, 2]), np.array([3]))
        writer.add_flat(np.array([2, 9, 9, 9, 2]), np.array([1, 4]))
    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"flat{suffix}").read_bytes() == (tmp_path / f"one{suffix}").read_bytes()


def test_negative_index_and_index_error(tmp_path):
    write(tmp_path / "data", [[4, 2], [5, 6, 2]])
    dataset = IndexedDataset(tmp_path / "data")
    assert dataset[-1].tolist() == [5, 6, 2]
    with pytest.raises(IndexError):
        dataset[2]
    assert [sentence.tolist() for sentence in dataset] == [[4, 2], [5, 6, 2]]  # type: ignore[attr-defined]


def test_a_pickled_dataset_has_no_tokens(tmp_path):
    write(tmp_path / "data", [list(range(3, 90))] * 100)
    data = pickle.dumps(IndexedDataset(tmp_path / "data"))
    assert len(data) < 1000
    assert pickle.loads(data)[99].tolist() == list(range(3, 90))


def test_a_failed_write_leaves_the_old_files(tmp_path):
    write(tmp_path / "data", [[4, 2]])

    def sentences_then_failure():
        yield [5, 2]
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="disk"):
        write(tmp_path / "data", sentences_then_failure())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.bin", "data.idx"]
    assert IndexedDataset(tmp_path / "data")[0].tolist() == [4, 2]


@pytest.mark.parametrize("token", [-1, 100])
def test_id_outside_the_vocabulary_is_refused(tmp_path, token):
    with pytest.raises(ValueError, match="outside the vocabulary"), IndexedWriter(tmp_path / "data", 100) as writer:
        writer.add(np.array([5, token]))
    assert list(tmp_path.iterdir()) == []


def test_sizes_must_add_up(tmp_path):
    with pytest.raises(ValueError, match="add up"), IndexedWriter(tmp_path / "data", 100) as writer:
        writer.add_flat(np.array([5, 2]), np.array([1, 2]))


def cut(path, keep):
    path.write_bytes(path.read_bytes()[:keep])


@pytest.mark.parametrize("keep", [-1, 10, 20, 26, 30])
def test_a_truncated_index_is_refused(tmp_path, keep):
    write(tmp_path / "data", [[4, 2], [5, 2]])
    cut(idx_path(tmp_path / "data"), keep)
    with pytest.raises(UserError, match=r"data\.idx: cut short"):
        IndexedDataset(tmp_path / "data")


@pytest.mark.parametrize("keep", [-2, -1, 0])
def test_a_truncated_token_file_is_refused(tmp_path, keep):
    write(tmp_path / "data", [[4, 2], [5, 2]])
    cut(bin_path(tmp_path / "data"), keep)
    with pytest.raises(UserError, match=r"data\.bin: cut short"):
        IndexedDataset(tmp_path / "data")


@pytest.mark.parametrize(("place", "message"), [(0, "mmap format"), (9, "version 2"), (17, "damaged"), (38, "damaged")])
def test_a_damaged_index_is_refused(tmp_path, place, message):
    write(tmp_path / "data", [[4, 2], [5, 2]])
    data = bytearray(idx_path(tmp_path / "data").read_bytes())
    data[place] += 1
    idx_path(tmp_path / "data").write_bytes(data)
    with pytest.raises(UserError, match=message):
        IndexedDataset(tmp_path / "data")


@pytest.mark.parametrize(("sizes", "wrong"), [((7, -3, 9), 1), ((0, 6), 0), ((6, 7, 0), 2), ((2**31 - 1, -(2**31)), 1)])
def test_sizes_below_one_are_refused(tmp_path, sizes, wrong):
    """Use sizes whose sum is consistent with the pointers and with the length of the token file."""
    pointers = [2 * sum(sizes[:number]) for number in range(len(sizes))]
    count = len(sizes)
    header = b"MMIDIDX\x00\x00" + struct.pack("<QBQ", 1, 8, count)
    idx_path(tmp_path / "a").write_bytes(header + struct.pack(f"<{count}i{count}q", *sizes, *pointers))
    bin_path(tmp_path / "a").write_bytes(struct.pack("<H", 2) * max(sum(sizes), 0))
    with pytest.raises(UserError, match=rf"a\.idx: damaged: sentence {wrong} \(from 0\) has the size {sizes[wrong]}"):
        IndexedDataset(tmp_path / "a")


def test_a_sentence_without_tokens_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no token"), IndexedWriter(tmp_path / "data", 100) as writer:
        writer.add_flat(np.array([4, 2]), np.array([2, 0]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".bin", ".idx"])
def test_a_missing_file_is_refused(tmp_path, suffix):
    write(tmp_path / "data", [[4, 2]])
    (tmp_path / f"data{suffix}").unlink()
    with pytest.raises(UserError, match=rf"data\{suffix}: there is no such file"):
        IndexedDataset(tmp_path / "data")


def test_float_tokens_are_refused(tmp_path):
    write(tmp_path / "data", [[4, 2]])
    data = bytearray(idx_path(tmp_path / "data").read_bytes())
    data[17] = 7
    idx_path(tmp_path / "data").write_bytes(data)
    with pytest.raises(UserError, match="data type 7 is not supported"):
        IndexedDataset(tmp_path / "data")


def test_files_written_by_fairseq_are_read():
    golden = Path(__file__).parents[2] / "golden" / "data_bin"
    dictionary = Dictionary.load(golden / "separate" / "dict.de.txt")
    dataset = IndexedDataset(golden / "separate" / "train.en-de.de")
    lines = (golden / "text" / "train.de").read_text(encoding="utf-8").split("\n")[:15]  # later lines are unusual
    assert [dictionary.string(dataset[i]) for i in range(15)] == [" ".join(line.split()) for line in lines]
