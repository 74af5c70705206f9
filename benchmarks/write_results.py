"""Write the figures of the documentation from the committed results of the benchmarks.

    make results        write them
    ... --check         exit with 1 if a page differs from the results

`benchmarks/pages/` has a Jinja template for each page of results, `docs/results*.md`. A template contains no measured
figure: it names them, for example `{{ number("students.bleu_ctc") }}` (see `result_values.py`). Published figures are
in `benchmarks/published.yaml`, with their source.

Other pages may have a table between the comments `<!-- table: NAME -->` and `<!-- end of table -->`. Everything between
them is generated; text around them is written by hand. `TABLES` names the generators.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import draw_deploy
import draw_simultaneous
import jinja2
import result_values
from draw_modes import NO_RESULTS, PICTURE, modes_table
from draw_results import read_figures
from figures import REPOSITORY
from result_values import Result, command_of, figure, format_number, has, load, mean, parameters, signature
from science.claims import CLAIMS, load_claims
from science.measurements import METRICS

TEMPLATES = REPOSITORY / "benchmarks" / "pages"
PAGES = ("README.md", "docs/*.md", "docs/*/*.md")
_TABLE = re.compile(r"(<!-- table: (\S+) -->\n)(.*?)(<!-- end of table -->)", re.DOTALL)
_BLANK_LINES = re.compile(r"\n{3,}")


def main() -> int:
    """Write or check every page; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="Whether to compare only (default: no).")
    options = parser.parse_args()
    outdated = list(outdated_pages())
    for path, page in outdated:
        if not options.check:
            path.write_text(page, encoding="utf-8")
        what = "differs from the results; run `make results`" if options.check else "written"
        print(f"{path.relative_to(REPOSITORY)}: {what}")
    return 1 if options.check and outdated else 0


def outdated_pages() -> Iterator[tuple[Path, str]]:
    """Yield each page that differs from the results, as its path and the text that it should have."""
    rendered = {REPOSITORY / "docs" / template.name: render(template) for template in sorted(TEMPLATES.glob("*.md"))}
    for path in sorted({path for pattern in PAGES for path in REPOSITORY.glob(pattern)} | set(rendered)):
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        after = rendered[path] if path in rendered else fill(before)
        if after != before:
            yield path, after


def render(template: Path) -> str:
    """Return the page of a template.

    Raises:
        KeyError: if it names a figure that the results lack.
        jinja2.UndefinedError: if it uses an unknown name.
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.globals |= {function.__name__: function for function in (*result_values.NAMES, *SECTIONS)}
    page = environment.from_string(template.read_text(encoding="utf-8")).render()
    return "\n\n".join(map(_wrap, _BLANK_LINES.sub("\n\n", page).rstrip("\n").split("\n\n"))) + "\n"


def _wrap(block: str) -> str:
    """Return a paragraph or a list with lines of at most 120 characters; anything else as it is."""
    if block.startswith(("#", "|", "<", "    ", "```")):
        return block
    items = re.split(r"\n(?=- )", block)
    return "\n".join(_wrap_lines(item, "  " if item.startswith("- ") else "") for item in items)


def _wrap_lines(text: str, indent: str) -> str:
    return textwrap.fill(
        " ".join(text.split()), 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def fill(page: str) -> str:
    """Return a page with its tables made from the results.

    Raises:
        KeyError: if there is no table of a name.
    """
    return _TABLE.sub(lambda match: f"{match[1]}\n{make_table(match[2])}\n\n{match[4]}", page)


def make_table(name: str) -> str:
    """Return a table by its name."""
    return TABLES[name]()


def claims() -> list[Result]:
    """Return the results of all claims that were measured, in the order of the claims."""
    return [load(f"science/{name.lower()}") for name in load_claims() if has(f"science/{name.lower()}")]


# ------------------------------------------------------------------------------------------------------- the tables


def scoreboard() -> str:
    """Return a row for each measure of each claim that was measured, then the names of the other claims.

    A row has what was expected, what was found, and the verdict.
    """
    rows = ["| claim | measure | expected | found (95% interval) | verdict |", "| --- | --- | --- | --- | --- |"]
    measured = {result["settings"]["claim"]["id"]: result["settings"] for result in claims()}
    waiting = []
    for claim in load_claims().values():
        title = f"{claim.id}: {claim.title}"
        if claim.id not in measured:
            waiting.append(f"- {title}")
            continue
        for number, measure in enumerate(measured[claim.id]["measures"]):
            outcome = f"{_estimate(measure)} | **{measure['verdict']}**"
            rows.append(f"| {title if number == 0 else ''} | {measure['what']} | {_expected(measure)} | {outcome} |")
    if waiting:
        folder = CLAIMS.relative_to(REPOSITORY).as_posix()
        rows += ["", f"Written down, but not measured yet ([`{folder}/`](../{folder})):", "", *waiting]
    return "\n".join(rows)


def claim_section(name: str) -> str:
    """Return the section of a claim; empty if it was not measured yet."""
    if not has(f"science/{name.lower()}"):
        return ""
    claim = load_claims()[name]
    return f"### {claim.id}: {claim.title}\n\n{claim_details(name)}"


def claim_details(name: str) -> str:
    """Return source, set-up, scores and command of a claim."""
    result = load(f"science/{name.lower()}")
    claim = result["settings"]["claim"]
    units = {found["metric"]: (found["unit"], found["signature"]) for found in result["settings"]["measures"]}
    lines = [
        f"**Claim:** {claim['claim'].strip()}",
        "",
        f"- Verdict: {_verdict(result['settings']['measures'])}",
        f"- Source: {claim['source'].strip()}",
        f"- Set-up: {' '.join(claim['set_up'].split())}",
        f"- Command: {command_of(result)}; [results](../benchmarks/results/science/{name.lower()}.json)",
        "",
        "| system | metric | score | seeds |",
        "| --- | --- | --- | --- |",
    ]
    for key, scores in result["settings"]["scores"].items():
        system, _, metric = key.rpartition(" ")
        lines.append(f"| `{system}` | {metric} | {_mean(scores)} {units[metric][0]} | {len(scores)} |")
    lines += ["", *(f"- {metric}: {signature}" for metric, (_, signature) in units.items())]
    if claim["note"]:
        lines += ["", claim["note"].strip()]
    return "\n".join(lines)


def _verdict(measures: Sequence[Result]) -> str:
    number = sum(measure["verdict"] == "holds" for measure in measures)
    return f"{number} of {len(measures)} [measures](results.md#claims-of-the-literature) hold"


def _expected(found: Result) -> str:
    comparison = {"above": "at least", "below": "at most", "within": "at most"}[found["expect"]]
    return f"{comparison} {found['size']:g} {METRICS[found['metric']].unit}"


def _estimate(found: Result) -> str:
    interval = "" if found["interval"] is None else " ({:.2f} to {:.2f})".format(*found["interval"])
    return f"{found['estimate']:.2f}{interval}"


def _mean(scores: list[float]) -> str:
    mean = sum(scores) / len(scores)
    if len(scores) == 1:
        return f"{mean:.2f}"
    deviation = (sum((score - mean) ** 2 for score in scores) / (len(scores) - 1)) ** 0.5
    return f"{mean:.2f} ± {deviation:.2f}"


def objectives(bench: str, labels: Mapping[str, str]) -> str:
    """Return the scores of the students of a benchmark on the toy corpus, the worst first.

    Args:
        bench: name of the benchmark.
        labels: text of the page for each system of the benchmark.
    """
    rows = ["| student | BLEU greedy | BLEU beam 5 | valid, % |", "| --- | --- | --- | --- |"]
    for system in sorted(labels, key=lambda name: figure(f"{bench}.{name}_test_beam5_bleu")):
        test = f"{bench}.{system}_test"
        scores = (mean(f"{test}_beam1_bleu", 1), mean(f"{test}_beam5_bleu", 1), mean(f"{test}_beam5_valid", 1))
        rows.append(f"| {labels[system]} | {' | '.join(scores)} |")
    return "\n".join(rows)


def readme() -> str:
    """Return the scores of teacher and students on Multi30k."""
    rows = [
        "| Multi30k en-de, test_2016_flickr | BLEU, greedy | BLEU, beam 5 | parameters |",
        "| --- | --- | --- | --- |",
    ]
    for system, label in (
        ("teacher", "teacher"),
        ("raw", "student on raw data"),
        ("distilled", "student on distilled data"),
    ):
        scores = [mean(f"multi30k.{system}_test_2016_flickr_beam{beam}_bleu") for beam in (1, 5)]
        rows.append(f"| {label} | {' | '.join(scores)} | {format_number(parameters('multi30k', system))} |")
    return "\n".join([*rows, "", f"{command_of(load('multi30k'))}; {signature('multi30k')}"])


def modes() -> str:
    """Return the chart and the table of the languages of known modes."""
    if not has("modes"):
        return NO_RESULTS
    return f"{PICTURE}\n\n{modes_table(read_figures('modes'))}\n\n{command_of(load('modes'))}."


def simultaneous() -> str:
    """Return the chart and the table of the quality and the latency of simultaneous translation."""
    if not has("simultaneous"):
        return draw_simultaneous.NO_RESULTS
    table = draw_simultaneous.simultaneous_table(read_figures("simultaneous"))
    return f"{draw_simultaneous.PICTURE}\n\n{table}\n\n{command_of(load('simultaneous'))}."


def deploy() -> str:
    """Return the chart and the table of students in every engine."""
    if not has("deploy"):
        return draw_deploy.NO_RESULTS
    return f"{draw_deploy.PICTURE}\n\n{draw_deploy.deploy_table(read_figures('deploy'))}"


def rules() -> str:
    """Return time, precision and recall of each cleaning rule, and what all rules together take and keep."""
    result, time = load("rules"), "rules_us_per_pair_"
    found = {each["name"]: each["value"] for each in result["figures"]}
    lines = ["| rule | µs per pair | precision | recall |", "| --- | --- | --- | --- |"]
    for key, value in found.items():
        name = key.removeprefix(time)
        if name not in (key, "without"):
            shares = [found.get(f"rules_{what}_{name}") for what in ("precision", "recall")]
            cells = ["" if share is None else f"{share:.1f}%" for share in shares]
            lines.append(f"| `{name}` | {value:.2f} | {' | '.join(cells)} |")
    together = _wrap(
        f"All rules of `default` take {found['rules_us_per_pair']:.1f} µs per pair, the rules without `rules` "
        f"{found[f'{time}without']:.1f} µs. Of the clean labelled pairs, `default` keeps "
        f"{found['rules_kept_default']:.1f}% and `crawled` {found['rules_kept_crawled']:.1f}%."
    )
    return "\n".join([*lines, "", together, "", f"{command_of(result)}."])


def language_id() -> str:
    """Return the shares of captions that the language rule drops, and the time of each identifier for a line."""
    result = load("language-id")
    found = {each["name"]: each["value"] for each in result["figures"]}
    lines = ["| words of a caption | in the right language | in one of the other three |", "| --- | --- | --- |"]
    for bucket in ("1_3", "4_7", "8_15"):
        shares = [found[f"kdmt_captions_{bucket}_{what}"] for what in ("rejected", "found")]
        lines.append(f"| {bucket.replace('_', ' to ')} | {' | '.join(f'{share:.2f}%' for share in shares)} |")
    versions = result["settings"]["versions"]
    packages = {"py3langid": "py3langid", "lingua": "lingua-language-detector", "heliport": "heliport"}
    lines += ["", "| identifier | µs per line | most probable language is right, 4 to 7 words of the UDHR |"]
    lines.append("| --- | --- | --- |")
    for name, label in (("kdmt", "py3langid in batches, as kdmt uses it"), *packages.items()):
        if f"{name}_microseconds" in found:
            version = f" {versions[packages[name]]}" if name in packages else ""
            accuracy = f"{found[f'{name}_udhr_4_7_accuracy']:.1f}%"
            lines.append(f"| {label}{version} | {found[f'{name}_microseconds']:,.0f} | {accuracy} |")
    return "\n".join([*lines, "", f"{command_of(result)}."])


TABLES: dict[str, Callable[[], str]] = {
    "scoreboard": scoreboard,
    "modes": modes,
    "simultaneous": simultaneous,
    "deploy": deploy,
    "readme": readme,
    "rules": rules,
    "language-id": language_id,
}
SECTIONS = (claim_section, objectives, make_table)  # functions of templates, in addition to those of `result_values`


if __name__ == "__main__":
    sys.exit(main())
