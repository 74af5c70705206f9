import hashlib
from pathlib import Path
from typing import Any

import pytest

from kdmt.config import Clean
from kdmt.corpus.fingerprints import Finders, compute_fingerprints, digest_kinds


@pytest.mark.parametrize(
    ("settings", "kinds"),
    [
        ({}, ("pair",)),
        ({"drop_duplicates": False}, ()),
        ({"max_duplicates": 3}, ("pair",)),
        ({"duplicates": "source"}, ("source",)),
        ({"duplicates": "source", "max_duplicates": 2}, ("pair", "source")),
        ({"duplicates": "target"}, ("target",)),
        ({"duplicates": "either"}, ("source", "target")),
        ({"duplicates": "either", "max_duplicates": 2}, ("pair", "source", "target")),
    ],
)
def test_only_the_digests_that_a_setting_needs_are_computed(settings: dict[str, Any], kinds: tuple[str, ...]) -> None:
    clean = Clean(**settings)
    found = compute_fingerprints(["a", "é"], ["b", ""], clean)
    assert digest_kinds(clean) == tuple(found.digests) == kinds
    assert found.near is None
    texts = {"pair": ["a\nb", "é\n"], "source": ["a", "é"], "target": ["b", ""]}
    for kind, digests in found.digests.items():
        expected = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts[kind]]
        assert digests == b"".join(expected)


def test_near_duplicates_need_hashes(tmp_path: Path) -> None:
    clean = Clean(near_duplicates=0.8)
    found = compute_fingerprints(["a line", "...", "c"], ["b", "!", "d"], clean)
    assert found.near is not None
    assert found.near.bands_KN.shape == (10, 3)
    assert (found.near.sketches_N == 0).tolist() == [False, True, False]
    finders = Finders(tmp_path, clean)
    finders.add(found, second=False)
    finders.add(found, second=True)
    assert len(finders.exact["pair"]) == 6
    assert finders.near is not None


def test_no_settings_need_no_finders(tmp_path: Path) -> None:
    finders = Finders(tmp_path, None)
    assert (finders.exact, finders.near) == ({}, None)
