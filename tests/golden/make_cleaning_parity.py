"""Make tests/golden/cleaning/peers.json: the decisions of OpusFilter and OpusCleaner on the pairs of `cleaning_lines`.

    python3 -m venv .peers && .peers/bin/pip install opusfilter==3.3.1
    .peers/bin/pip install --no-deps opuscleaner==0.7.1       (its pins are those of its server)
    .peers/bin/python tests/golden/make_cleaning_parity.py

Both programs are run, not imported by kdmt. For each rule, the file has a hexadecimal number with a bit for each pair,
the first pair in the highest one: 1 if the rule drops the pair.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from cleaning_lines import digest, make_pairs
from opuscleaner.filters.max_length import clean_parallel as max_length
from opuscleaner.filters.max_word_length import clean_parallel as max_word_length
from opuscleaner.filters.num_mismatch import filter_numerical_mismatch
from opuscleaner.filters.src_trg_ratio import compare_lin
from opuscleaner.filters.url_mismatch import filter_url_mismatch
from opusfilter import filters

OUT = Path(__file__).resolve().parent / "cleaning" / "peers.json"
SCRIPTS = {"de": "Latin", "fr": "Latin", "cs": "Latin", "ru": "Cyrillic", "ar": "Arabic"}
Pair = tuple[str, str, str]


def main() -> None:
    pairs = make_pairs()
    rules: dict[str, Callable[[Pair], bool]] = {
        "opusfilter.LongWordFilter": by_opusfilter(filters.LongWordFilter(threshold=41)),
        "opusfilter.AverageWordLengthFilter": by_opusfilter(filters.AverageWordLengthFilter(2, 20)),
        "opusfilter.LengthRatioFilter.word": by_opusfilter(filters.LengthRatioFilter(2 + 1e-9, "word")),
        "opusfilter.LengthRatioFilter.char": by_opusfilter(filters.LengthRatioFilter(2 + 1e-9, "char")),
        "opusfilter.AlphabetRatioFilter": by_opusfilter(filters.AlphabetRatioFilter(0.6, exclude_whitespace=True)),
        "opusfilter.CharacterScoreFilter": drops_by_script,
        "opusfilter.HtmlTagFilter": by_opusfilter(filters.HtmlTagFilter()),
        "opusfilter.SimilarityFilter": by_opusfilter(filters.SimilarityFilter(threshold=0.8)),
        "opusfilter.RepetitionFilter": by_opusfilter(filters.RepetitionFilter(threshold=2, min_length=5)),
        "opuscleaner.max_length": by_opuscleaner_stdin,
        "opuscleaner.max_word_length": by_opuscleaner(lambda read, write: max_word_length(150, read, write)),
        "opuscleaner.num_mismatch": by_opuscleaner(lambda read, write: filter_numerical_mismatch(read, write, 1.0)),
        "opuscleaner.url_mismatch": by_opuscleaner(filter_url_mismatch),
        "opuscleaner.src_trg_ratio": lambda pair: not compare_lin(pair[1].split(), pair[2].split(), 0.5),
    }
    record = {
        "versions": {name: version(name) for name in ("opusfilter", "opuscleaner", "regex", "rapidfuzz")},
        "pairs": len(pairs),
        "sha256": digest(pairs),
        "dropped": {name: hexadecimal([drops(pair) for pair in pairs]) for name, drops in rules.items()},
    }
    OUT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def by_opusfilter(rule: filters.FilterABC) -> Callable[[Pair], bool]:
    """Return a function that applies a filter of OpusFilter to a pair."""
    return lambda pair: not rule.accept(next(iter(rule.score([pair[1:]]))))


_BY_SCRIPT = {
    language: by_opusfilter(filters.CharacterScoreFilter(scripts=["Latin", script], thresholds=[0.5, 0.5]))
    for language, script in SCRIPTS.items()
}


def drops_by_script(pair: Pair) -> bool:
    """Return whether OpusFilter drops a pair by the scripts of its languages."""
    return _BY_SCRIPT[pair[0]](pair)


def by_opuscleaner(run: Callable[[io.StringIO, io.StringIO], None]) -> Callable[[Pair], bool]:
    """Return a function that runs a filter of OpusCleaner, which copies the lines that it keeps."""

    def drops(pair: Pair) -> bool:
        kept = io.StringIO()
        run(io.StringIO(f"{pair[1]}\t{pair[2]}\n"), kept)
        return not kept.getvalue()

    return drops


def by_opuscleaner_stdin(pair: Pair) -> bool:
    """Return whether OpusCleaner's limits on words drop a pair; this filter has streams as names of its module."""
    names, kept = max_length.__globals__, io.StringIO()
    names["stdin"], names["stdout"] = io.StringIO(f"{pair[1]}\t{pair[2]}\n"), kept
    max_length(100, 2, debug=False)
    return not kept.getvalue()


def hexadecimal(bits: list[bool]) -> str:
    """Return bits as a hexadecimal number, the first bit the highest."""
    return f"{int(''.join('01'[bit] for bit in bits), 2):0{len(bits) // 4}x}"


if __name__ == "__main__":
    main()
