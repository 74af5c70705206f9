"""The toy teacher's losses at each update, compared with those of the commit that made the golden file."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.pipeline

# Processors differ first in the seventh digit, and some ten updates later in the third one.
# The curve was made with AVX2; with AVX-512 the first difference above 1e-4 is at update 70, the largest is 0.004.
ROUNDING_GROWS = 60
MAKER = Path(__file__).parents[1] / "golden" / "make_loss_curve.py"


def test_toy_teacher_follows_its_golden_loss_curve(tmp_path: Path) -> None:
    specification = importlib.util.spec_from_file_location("make_loss_curve", MAKER)
    assert specification is not None
    assert specification.loader is not None
    maker = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(maker)
    golden = json.loads(maker.GOLDEN.read_text())
    assert golden["settings"] == maker.SETTINGS, "the golden file was made with other settings"
    assert len(golden["losses"]) == maker.UPDATES
    losses = maker.loss_curve(tmp_path)
    assert losses[:ROUNDING_GROWS] == pytest.approx(golden["losses"][:ROUNDING_GROWS], abs=1e-4)
    assert losses[ROUNDING_GROWS:] == pytest.approx(golden["losses"][ROUNDING_GROWS:], abs=0.02)
