"""The fixtures that all tests share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_pytorch_is_not_loaded_before_the_tests_of_the_gpu_path() -> None:
    """The simulated device has to be installed first; the tests that need it are skipped otherwise."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); import conftest; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(TESTS)], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
