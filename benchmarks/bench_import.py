"""Time of `kdmt --help`, and a check that neither it nor `import kdmt` loads a large library.

    make bench-import        (or: python benchmarks/bench_import.py [--runs 15])

Each round starts new processes one after the other, so that other load on the machine affects all of them. The median
of the rounds is reported. `python_seconds` is the time of an interpreter that does nothing, which is part of the other
two. The exit code is 1, and no results are written, if torch or CTranslate2 was loaded.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from statistics import median

from figures import Figure, report_figures

HEAVY = ("torch", "ctranslate2")
KDMT = Path(sysconfig.get_path("scripts")) / "kdmt"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15, help="Number of rounds (default: %(default)s).")
    runs = parser.parse_args().runs

    commands = {
        "help_seconds": [str(KDMT), "--help"],
        "import_seconds": [sys.executable, "-c", "import kdmt"],
        "python_seconds": [sys.executable, "-c", "pass"],
    }
    loaded = {
        "kdmt --help": loaded_heavy([str(KDMT), "--help"]),
        "import kdmt": loaded_heavy(["-c", "import kdmt"]),
    }
    for what, heavy in loaded.items():
        if heavy:
            print(f"{what} loads {' and '.join(heavy)}", file=sys.stderr)
    if any(loaded.values()):
        return 1

    rounds = [{name: wall_seconds(command) for name, command in commands.items()} for _ in range(runs)]
    figures = [Figure(name, median(measured[name] for measured in rounds), "s") for name in commands]
    report_figures("import", figures, settings={"runs": runs, "statistic": "median", "caches": "warm"})
    return 0


def wall_seconds(command: list[str]) -> float:
    """Return the seconds from the start of a process to its end."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def loaded_heavy(arguments: list[str]) -> list[str]:
    """Return the libraries in `HEAVY` that a Python process with these arguments imports."""
    done = subprocess.run([sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, check=True)
    imports = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    packages = {line.rpartition("|")[2].strip().partition(".")[0] for line in imports}
    return [name for name in HEAVY if name in packages]


if __name__ == "__main__":
    sys.exit(main())
