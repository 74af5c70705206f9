"""Tests of an n-gram model of pieces against probabilities worked out by hand from its file."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from kdmt.errors import UserError
from kdmt.interop.kenlm import KenLM

SYMBOLS = ["<s>", "<pad>", "</s>", "<unk>", "_a", "_b", "_new"]
BIGRAMS = """\\data\\
ngram 1=5
ngram 2=3

\\1-grams:
-99	<s>	-0.3
-0.6	</s>
-1.2	<unk>
-0.5	_a	-0.2
-0.7	_b	-0.1

\\2-grams:
-0.25	<s> _a
-0.4	_a _b
-0.1	_b </s>

\\end\\
"""


def test_probabilities_equal_those_of_the_file(tmp_path: Path) -> None:
    pytest.importorskip("kenlm", reason="an extra that is built with a compiler")
    path = tmp_path / "pieces.arpa"
    path.write_text(BIGRAMS)
    model = KenLM(path, SYMBOLS)
    state, log_probs = model.start(), []
    for token in (4, 5, 5, 6):
        state, log_prob = model.extend(state, token)
        log_probs.append(log_prob / math.log(10.0))
    # the second _b and the unknown piece use back-off from _b
    assert log_probs == pytest.approx([-0.25, -0.4, -0.1 - 0.7, -0.1 - 1.2], rel=1e-5)
    assert model.end(state) / math.log(10.0) == pytest.approx(-0.6, rel=1e-5)
    after_b, _ = model.extend(model.start(), 5)
    assert model.end(after_b) / math.log(10.0) == pytest.approx(-0.1, rel=1e-5)


def test_unreadable_model_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("kenlm", reason="an extra that is built with a compiler")
    with pytest.raises(UserError, match="there is no such language model"):
        KenLM(tmp_path / "none.arpa", SYMBOLS)
    path = tmp_path / "broken.arpa"
    path.write_text("no language model\n")
    with pytest.raises(UserError, match=r"broken\.arpa: KenLM cannot read it"):
        KenLM(path, SYMBOLS)


def test_missing_package_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "kenlm", None)
    with pytest.raises(UserError, match=r"pip install 'kdmt\[kenlm\]'"):
        KenLM(tmp_path / "any.arpa", SYMBOLS)
