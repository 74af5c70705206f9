import random
from pathlib import Path

import numpy as np
import pytest

from kdmt.corpus.line_index import IndexedLines


@pytest.mark.parametrize("block", [7, 1 << 24])
def test_lines_of_several_files_are_read_by_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr("kdmt.corpus.line_index._READ_BYTES", block)
    draw = random.Random(1)
    paths, lines = [], []
    for number, count in enumerate((5, 0, 30, 1, 0)):
        own = ["".join(draw.choice("aé文\r\u2028 ") for _ in range(draw.randint(0, 9))) for _ in range(count)]
        paths.append(tmp_path / str(number))
        paths[-1].write_bytes("".join(f"{line}\n" for line in own).encode())
        lines += own
    with IndexedLines(paths, tmp_path / "offsets") as indexed:
        for count in (1, 5, len(lines)):
            indices = sorted(draw.sample(range(len(lines)), count))
            found = indexed.read(np.array(indices))
            assert [line.decode() for line in found] == [lines[index] for index in indices]
        assert indexed.read(np.zeros(0, dtype=np.int64)) == []


def test_files_without_lines(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with IndexedLines([tmp_path / "empty"], tmp_path / "offsets") as indexed:
        assert indexed.read(np.zeros(0, dtype=np.int64)) == []
