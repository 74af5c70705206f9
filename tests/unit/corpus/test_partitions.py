from pathlib import Path

import numpy as np
import pytest

from kdmt.corpus.partitions import NUM_PARTITIONS, Partitions

RECORD = np.dtype([("key", "<u8"), ("value", "<u8")])


def make_records(keys: list[int]) -> np.ndarray:
    return np.array(list(zip(keys, range(len(keys)), strict=True)), dtype=RECORD)


@pytest.mark.parametrize("buffer_bytes", [0, 1 << 20])
def test_equal_keys_are_in_one_partition_in_the_order_in_which_they_were_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buffer_bytes: int
) -> None:
    monkeypatch.setattr("kdmt.corpus.partitions._BUFFER_BYTES", buffer_bytes)
    records_N = make_records(np.random.default_rng(1).integers(0, 300, 2000).tolist())
    partitions = Partitions(tmp_path, "records", RECORD)
    for start in range(0, 2000, 301):
        chunk = records_N[start : start + 301]
        partitions.add(chunk, chunk["key"])
    read = list(partitions.read())
    residues = [set((records["key"] % NUM_PARTITIONS).tolist()) for records in read]
    assert all(len(own) == 1 for own in residues)
    assert len(set.union(*residues)) == len(read) == NUM_PARTITIONS
    for records in read:
        assert (np.diff(records["value"].astype(int)) > 0).all()
    assert sorted(np.concatenate(read).tolist()) == sorted(records_N.tolist())


def test_no_records(tmp_path: Path) -> None:
    assert list(Partitions(tmp_path, "records", RECORD).read()) == []
