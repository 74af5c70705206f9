"""Accuracy, usefulness as a filter, speed and memory of language identifiers on short lines of text.

    make bench-language-id        (or: python benchmarks/bench_language_id.py --data shared/data [--messages FOLDER])

It measures those of these packages that are installed: py3langid (through `kdmt.corpus.language_id`, which computes the
same probabilities in batches, and by itself), lingua-language-detector, heliport.

The text is the Universal Declaration of Human Rights in 24 languages, cut into clauses; captions of Multi30k in en, de,
fr and cs; Tatoeba in en and de; and, if a folder is given, the translated messages of Django in closely related
languages. Lines are sorted into buckets of 1 to 3, 4 to 7 and 8 to 15 words, where two characters of Chinese and
Japanese and five of Thai, Lao, Khmer, Burmese and Tibetan count as a word.

- `accuracy`: share of the lines whose most probable language is the right one, mean over the languages.
- `rejected`: share of the lines that the rule `language` drops with its default `min`, of lines in the right language;
  related languages count as one (`kdmt.corpus.language_id.RELATED`). Mean over the languages.
- `found`: share of the lines that it drops of lines in another language of the same text and script. Mean over pairs.
- `found_at_1`: the same with the `min` that drops 1% of the lines in the right language, which differs by identifier.
- `rss_mb`: memory of a process with the identifier; `microseconds`: processor time for a line of 4 to 15 words.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import itertools
import json
import random
import re
import resource
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from figures import Figure, report_figures

from kdmt.config import Language
from kdmt.corpus.language_id import group_of, open_built_in
from kdmt.languages import parse_language, script_of, writes_spaces

BUCKETS = {"1_3": (1, 3), "4_7": (4, 7), "8_15": (8, 15)}
MAX_LINES = 500  # per text, language and bucket
MIN_SHARE = Language().min
PACKAGES = {
    "kdmt": "py3langid",
    "py3langid": "py3langid",
    "lingua": "lingua-language-detector",
    "heliport": "heliport",
}
MESSAGES = (
    *("nb", "nn", "da", "sv", "nl", "de", "af", "en", "es", "pt", "gl", "ca", "it", "fr"),
    *("ro", "cs", "sk", "pl", "sl", "hr", "sr_Latn", "bs", "id", "ms", "tr", "az", "et", "fi"),
)
COLLECTIVE = {"cmn": "zh", "pes": "fa", "arb": "ar", "hbshrv": "hr", "hbssrp": "sr", "hbsbos": "bs", "msaind": "id"}
COLLECTIVE |= {"hbs": "sr", "msazsm": "ms", "msa": "ms", "uzn": "uz", "no": "nb"}

Texts = dict[tuple[str, str], dict[str, list[str]]]  # (text, language) -> bucket -> lines
Score = Callable[[Sequence[str]], Iterator[Mapping[str, float]]]  # lines -> probability of each language


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("shared/data"), help="Folder of the text.")
    parser.add_argument("--messages", type=Path, help="Wheel of Django with its translated messages.")
    parser.add_argument("--measure", choices=PACKAGES, help="Measure one identifier and print JSON.")
    options = parser.parse_args()
    texts = read_texts(options.data, options.messages)
    if options.measure:
        print(json.dumps(measure(options.measure, texts)))
        return
    figures, versions = [], {}
    for name, package in PACKAGES.items():
        if find_spec(package.partition("-")[0]) is None:
            print(f"{package} is not installed", file=sys.stderr)
            continue
        versions[package] = metadata.version(package)
        command = [sys.executable, *sys.argv, "--measure", name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        for figure, value in json.loads(done.stdout).items():
            figures.append(Figure(f"{name}_{figure}", value, _unit(figure)))
            print(figures[-1], file=sys.stderr, flush=True)
    counts = {"_".join(key): {b: len(lines) for b, lines in by.items()} for key, by in texts.items()}
    settings = {"lines": counts, "versions": versions, "min": MIN_SHARE}
    report_figures("language-id", figures, settings=settings)


def _unit(figure: str) -> str:
    return "us" if figure == "microseconds" else "MB" if figure == "rss_mb" else "s" if figure.endswith("_s") else "%"


# ---------------------------------------------------------------------------------------------------------- the text


def read_texts(data: Path, messages: Path | None) -> Texts:
    """Return the lines by text, language and bucket."""
    found: Texts = {}
    for path in sorted((data / "udhr").glob("udhr.*")):
        clauses = re.split(
            r"(?<=[.;:,!?،؛。、，；।።፣፤։])\s*|[()\"«»]", path.read_text(encoding="utf-8").replace("\n", ". ")
        )
        found["udhr", path.suffix[1:]] = _sort(_with_starts(clauses), path.suffix[1:])
    for lang in ("en", "de", "fr", "cs"):
        with gzip.open(data / "multi30k" / "raw" / f"train.{lang}.gz", "rt", encoding="utf-8") as file:
            found["captions", lang] = _sort(_with_starts(line.strip() for line in file), lang)
    with zipfile.ZipFile(data / "tatoeba" / "deu-eng.zip") as archive:
        rows = [row.split("\t") for row in archive.read("deu.txt").decode().splitlines()]
    for column, lang in enumerate(("en", "de")):
        found["tatoeba", lang] = _sort(dict.fromkeys(row[column] for row in rows), lang)
    if messages is not None:
        for code in MESSAGES:
            found["messages", code.partition("_")[0]] = _sort(_read_messages(messages, code), code.partition("_")[0])
    return found


def _with_starts(lines: Any) -> Iterator[str]:
    """Yield lines, and for the buckets of short lines their first words."""
    for line in lines:
        line = line.strip(" .,;:")
        yield line
        words = line.split()
        if len(words) > 3:
            yield " ".join(words[: 2 + len(words) % 2])
        if len(words) > 8:
            yield " ".join(words[: 4 + len(words) % 4])


def _read_messages(wheel: Path, code: str) -> Iterator[str]:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(f"/locale/{code}/LC_MESSAGES/django.po"):
                text = re.sub(r'"\n"', "", archive.read(name).decode())
                for identifier, message in re.findall(r'^msgid "(.*)"\nmsgstr "(.*)"$', text, re.MULTILINE):
                    if identifier and message not in ("", identifier) and not re.search(r"[%{\\]", message):
                        yield message


def _sort(lines: Any, lang: str) -> dict[str, list[str]]:
    """Return at most `MAX_LINES` distinct lines of each bucket, drawn with a fixed seed."""
    buckets: dict[str, list[str]] = {bucket: [] for bucket in BUCKETS}
    for line in dict.fromkeys(lines):
        for bucket, (low, high) in BUCKETS.items():
            if low <= count_words(line, lang) <= high and any(map(str.isalpha, line)):
                buckets[bucket].append(line)
    draw = random.Random(1)
    return {b: draw.sample(found, min(MAX_LINES, len(found))) for b, found in buckets.items()}


def count_words(line: str, lang: str) -> int:
    """Return the number of words, estimated by characters in scripts without spaces."""
    if writes_spaces(lang):
        return len(line.split())
    return -(-len(line) // (2 if lang in ("zh", "ja") else 5))


# --------------------------------------------------------------------------------------------------------- measuring


def measure(name: str, texts: Texts) -> dict[str, float]:
    """Return the figures of an identifier."""
    started = time.perf_counter()
    score = SCORES[name]
    next(iter(score(["one"])))
    figures = {"load_s": time.perf_counter() - started}
    lines = [line for by in texts.values() for bucket in ("4_7", "8_15") for line in by[bucket]]
    random.Random(1).shuffle(lines)
    started = time.process_time()
    TIMED[name](lines[:5000])
    figures["microseconds"] = (time.process_time() - started) / len(lines[:5000]) * 1e6
    figures["rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    scored = {
        (*key, bucket): [_canonical(found) for found in score(lines)]
        for key, by in texts.items()
        for bucket, lines in by.items()
        if lines
    }
    for bucket, text in itertools.product(BUCKETS, dict.fromkeys(text for text, _ in texts)):
        of = {lang: rows for (own, lang, b), rows in scored.items() if (own, b) == (text, bucket)}
        figures |= {f"{text}_{bucket}_{what}": 100 * value for what, value in _figures_of(of).items()}
    return figures


def _figures_of(of: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, float]:
    right = [np.mean([max(row, key=row.__getitem__, default="") == lang for row in rows]) for lang, rows in of.items()]
    own = [np.array([share(row, lang) for row in rows]) for lang, rows in of.items()]
    wrong = [
        np.array([share(row, lang) for row in rows])
        for lang, (other, rows) in itertools.product(of, of.items())
        if other not in group_of(lang) and script_of(other) == script_of(lang)
    ]
    figures = {"accuracy": np.mean(right), "rejected": np.mean([(shares < MIN_SHARE).mean() for shares in own])}
    if wrong:
        limit = np.quantile(np.concatenate(own), 0.01)
        figures["found"] = np.mean([(shares < MIN_SHARE).mean() for shares in wrong])
        figures["found_at_1"] = np.mean([(shares < limit).mean() for shares in wrong])
    return {name: float(value) for name, value in figures.items()}


def share(row: Mapping[str, float], lang: str) -> float:
    """Return p / (p + q), with the probability p of a language and its group, and q of the best other language."""
    group = group_of(lang)
    own = sum(row.get(member, 0.0) for member in group)
    other = max((value for code, value in row.items() if code not in group), default=0.0)
    return own / (own + other) if own + other else 1.0


def _canonical(row: Mapping[str, float]) -> dict[str, float]:
    found: dict[str, float] = {}
    for code, value in row.items():
        language = _code(code)
        found[language] = found.get(language, 0.0) + value
    return found


def _code(code: str) -> str:
    code = COLLECTIVE.get(code, code)
    try:
        return parse_language(code).language
    except ValueError:
        return code


# ------------------------------------------------------------------------------------------------------- identifiers


def _kdmt(lines: Sequence[str]) -> Iterator[Mapping[str, float]]:
    identifier = open_built_in()
    for row in identifier.probabilities(lines).tolist():
        yield dict(zip(identifier.languages, row, strict=True))


@functools.cache
def _open_py3langid() -> Any:
    langid = import_module("py3langid.langid")
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)


def _py3langid(lines: Sequence[str]) -> Iterator[Mapping[str, float]]:
    return (dict(_open_py3langid().rank(line)) for line in lines)


@functools.cache
def _open_lingua() -> Any:
    return import_module("lingua").LanguageDetectorBuilder.from_all_languages().with_preloaded_language_models().build()


def _lingua(lines: Sequence[str]) -> Iterator[Mapping[str, float]]:
    for line in lines:
        found = _open_lingua().compute_language_confidence_values(line)
        yield {one.language.iso_code_639_1.name.lower(): one.value for one in found if one.value}


@functools.cache
def _open_heliport() -> Any:
    return import_module("heliport").Identifier()


def _heliport(lines: Sequence[str]) -> Iterator[Mapping[str, float]]:
    """Yield ten to the power of minus twice the score, which is the mean negative log10 probability of the words."""
    for line in lines:
        yield {code: 10 ** (-2 * value) for code, value in _open_heliport().identify_topk_with_score(line, 20)}


SCORES: dict[str, Score] = {"kdmt": _kdmt, "py3langid": _py3langid, "lingua": _lingua, "heliport": _heliport}
TIMED: dict[str, Callable[[Sequence[str]], object]] = {
    "kdmt": lambda lines: open_built_in().probabilities(lines),
    "py3langid": lambda lines: [_open_py3langid().classify(line) for line in lines],
    "lingua": lambda lines: [_open_lingua().detect_language_of(line) for line in lines],
    "heliport": lambda lines: [_open_heliport().identify(line) for line in lines],
}


if __name__ == "__main__":
    main()
