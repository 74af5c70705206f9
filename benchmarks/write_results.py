"""Write the tables of the documentation from the committed results of the benchmarks.

    make results        write them
    ... --check         exit with 1 if a page differs from the results

A page holds a table between the comments `<!-- table: NAME -->` and `<!-- end of table -->`. Everything between them is
generated; text around them is written by hand. `TABLES` names the generators.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from typing import Any

from figures import REPOSITORY, RESULTS

PAGES = ("README.md", "docs/*.md", "docs/*/*.md")
_TABLE = re.compile(r"(<!-- table: (\S+) -->\n)(.*?)(<!-- end of table -->)", re.DOTALL)

Result = dict[str, Any]


def main() -> int:
    """Write or check every page; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="Whether to compare only (default: no).")
    options = parser.parse_args()
    outdated = []
    for path in sorted(path for pattern in PAGES for path in REPOSITORY.glob(pattern)):
        before = path.read_text(encoding="utf-8")
        after = fill(before)
        if after == before:
            continue
        outdated.append(path.relative_to(REPOSITORY))
        if not options.check:
            path.write_text(after, encoding="utf-8")
    for name in outdated:
        print(f"{name}: {'differs from the results; run `make results`' if options.check else 'written'}")
    return 1 if options.check and outdated else 0


def fill(page: str) -> str:
    """Return a page with its tables made from the results.

    Raises:
        KeyError: if there is no table of a name.
    """
    return _TABLE.sub(lambda match: f"{match[1]}\n{make_table(match[2])}\n\n{match[4]}", page)


def make_table(name: str) -> str:
    """Return a table by its name; `claim:S1` is the table of a claim."""
    kind, _, argument = name.partition(":")
    return TABLES[kind](argument) if argument else TABLES[kind]("")


def load(name: str) -> Result:
    """Return the results of a benchmark."""
    loaded: Result = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


def claims() -> list[Result]:
    """Return the results of all claims that were tested, in the order of their identifiers."""
    paths = (RESULTS / "science").glob("*.json")
    return sorted((json.loads(path.read_text(encoding="utf-8")) for path in paths), key=_order)


def _order(result: Result) -> tuple[str, int]:
    letters, digits = re.fullmatch(r"([A-Z]+)([0-9]+)", result["settings"]["claim"]["id"]).groups()  # type: ignore[union-attr]
    return letters, int(digits)


# ------------------------------------------------------------------------------------------------------- the tables


def scoreboard(_: str) -> str:
    """Return a row for each measure of each claim: what was expected, what was found, and the verdict."""
    rows = ["| claim | measure | expected | found (95% interval) | verdict |", "| --- | --- | --- | --- | --- |"]
    for result in claims():
        claim = result["settings"]["claim"]
        for number, found in enumerate(result["settings"]["measures"]):
            title = f"{claim['id']}: {claim['title']}" if number == 0 else ""
            rows.append(
                f"| {title} | {found['what']} | {_expected(found)} | {_estimate(found)} | **{found['verdict']}** |"
            )
    return "\n".join(rows)


def claim_details(name: str) -> str:
    """Return source, set-up, scores and command of a claim."""
    result = next(result for result in claims() if result["settings"]["claim"]["id"] == name)
    claim = result["settings"]["claim"]
    units = {found["metric"]: (found["unit"], found["signature"]) for found in result["settings"]["measures"]}
    lines = [
        f"{claim['claim'].strip()}",
        "",
        f"- Source: {claim['source'].strip()}",
        f"- Set-up: {' '.join(claim['set_up'].split())}",
        f"- Command: `{result['command']}`, commit {_commit(result)}, {_machine(result)}; "
        f"[results](../benchmarks/results/science/{name.lower()}.json)",
        "",
        "| system | score | seeds |",
        "| --- | --- | --- |",
    ]
    for key, scores in result["settings"]["scores"].items():
        system, _, metric = key.rpartition(" ")
        lines.append(f"| `{system}` | {_mean(scores)} {units[metric][0]} | {len(scores)} |")
    lines += ["", *(f"- {metric}: {signature}" for metric, (_, signature) in units.items())]
    if claim["note"]:
        lines += ["", claim["note"].strip()]
    return "\n".join(lines)


def _expected(found: Result) -> str:
    comparison = {"above": "at least", "below": "at most", "within": "at most"}[found["expect"]]
    return f"{comparison} {found['size']:g} {found['unit']}"


def _estimate(found: Result) -> str:
    low, high = found["interval"]
    return f"{found['estimate']:.2f} ({low:.2f} to {high:.2f})"


def _mean(scores: list[float]) -> str:
    mean = sum(scores) / len(scores)
    if len(scores) == 1:
        return f"{mean:.2f}"
    deviation = (sum((score - mean) ** 2 for score in scores) / (len(scores) - 1)) ** 0.5
    return f"{mean:.2f} ± {deviation:.2f}"


def _commit(result: Result) -> str:
    """Return the short form of a commit, with `-dirty` if files differed from it."""
    commit, dirty, _ = str(result["commit"]).partition("-dirty")
    return f"{commit[:7]}{dirty}"


def _machine(result: Result) -> str:
    machine = result["machine"]
    return f"{machine['cores']} cores of {machine['cpu']}"


TABLES: dict[str, Callable[[str], str]] = {"scoreboard": scoreboard, "claim": claim_details}


if __name__ == "__main__":
    sys.exit(main())
