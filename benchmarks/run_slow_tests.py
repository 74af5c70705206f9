"""Run the tests marked `slow`, which take too long for `make test`, and write a summary.

    make test-slow        (or: python benchmarks/run_slow_tests.py [PYTEST ARGUMENTS])

The summary is written to benchmarks/results/test-slow.json. The exit code is that of pytest.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from dataclasses import dataclass, field

import pytest
from figures import REPOSITORY, Figure, report_figures

TESTS = ("tests", "-m", "slow", "-q", "-n", "auto", "--dist", "loadfile")


@dataclass
class Recorder:
    """Pytest plugin that records the outcome and the time of each test, including its fixtures."""

    outcomes: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] = round(self.seconds.get(report.nodeid, 0.0) + report.duration, 2)
        if report.when == "call" or report.outcome != "passed":  # a setup or teardown that fails, a skip
            self.outcomes[report.nodeid] = report.outcome


def main() -> int:
    os.chdir(REPOSITORY)
    sys.path.insert(0, str(REPOSITORY))  # as `python -m pytest` does: worker processes import the modules of tests
    recorder = Recorder()
    code = int(pytest.main([*TESTS, *sys.argv[1:]], plugins=[recorder]))
    counts = Counter(recorder.outcomes.values())
    figures = [Figure(f"slow_tests_{outcome}", counts[outcome], "tests") for outcome in ("passed", "failed", "skipped")]
    figures.append(Figure("slow_tests_seconds", round(sum(recorder.seconds.values()), 1), "s"))
    tests = {
        name: {"outcome": recorder.outcomes[name], "seconds": recorder.seconds[name]} for name in recorder.outcomes
    }
    report_figures("test-slow", figures, settings={"exit_code": code, "tests": tests}, command="make test-slow")
    return code


if __name__ == "__main__":
    sys.exit(main())
