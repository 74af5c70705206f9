"""Write the toy corpus: parallel text whose every translation has a known probability.

    python data/toy/generate.py --out DIR [--train 20000 --valid 500 --test 500 --seed 1] [--no-spaces] [--statistics]

DIR gets {train,valid,test}.{en,de} and manifest.json; with --no-spaces the same sentences, the German ones in Thai
letters without spaces, as {train,valid,test}.{en,th}. Each target is one draw from p(target | source). No source and no
target of valid or test, lowercased and without punctuation, occurs anywhere else; training holds no pair twice.
A folder whose manifest and files already match is left as it is. `--statistics` describes the corpus on the terminal.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import statistics
from pathlib import Path

from language import entropy, render_source, target_distribution
from sampling import sample_meaning, sample_translation
from unspaced import remove_spaces, restore_spaces

Pair = tuple[str, str]  # source, target

HERE = Path(__file__).parent
INGREDIENTS = ("generate.py", "language.py", "lexicon.py", "lexicon.txt", "sampling.py", "unspaced.py")
SPLITS = ("test", "valid", "train")  # in the order of their making: training gives way to the others
LANGUAGES = ("en", "de")
FILES = [f"{split}.{language}" for split in SPLITS for language in LANGUAGES]
UNSPACED_LANGUAGES = ("en", "th")  # of the files that --no-spaces writes


def main() -> None:
    """Parse the command line and write the corpus, unless it is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--train", type=_count, default=20_000, metavar="PAIRS")
    parser.add_argument("--valid", type=_count, default=500, metavar="PAIRS")
    parser.add_argument("--test", type=_count, default=500, metavar="PAIRS")
    parser.add_argument("--seed", type=_count, default=1)
    parser.add_argument("--no-spaces", action="store_true")
    parser.add_argument("--statistics", action="store_true")
    args = parser.parse_args()
    if args.out.exists() and not args.out.is_dir():
        parser.error(f"--out: {args.out} is not a folder")
    if args.statistics and args.test < 2:
        parser.error("--statistics needs a --test of 2 or more")
    counts = {split: getattr(args, split) for split in SPLITS}
    languages = UNSPACED_LANGUAGES if args.no_spaces else LANGUAGES
    if is_up_to_date(args.out, counts, args.seed, languages):
        print(f"{args.out}: up to date")
    else:
        write_corpus(args.out, counts, args.seed, languages)
        print(f"{args.out}: {', '.join(f'{counts[split]} {split}' for split in reversed(SPLITS))} pairs")
    if args.statistics:
        print_statistics(args.out, languages)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def make_corpus(counts: dict[str, int], seed: int) -> dict[str, list[Pair]]:
    """The pairs of each split. A smaller count gives a beginning of the same training set, all else equal."""
    held_out: set[str] = set()
    corpus: dict[str, list[Pair]] = {}
    for number, split in enumerate(SPLITS):
        rng = random.Random(len(SPLITS) * seed + number)  # a stream each
        pairs: dict[Pair, None] = {}  # a set that keeps its order
        while len(pairs) < counts[split]:
            meaning = sample_meaning(rng)
            pair = render_source(meaning), sample_translation(rng, meaning)
            keys = {f"{language} {normalize(text)}" for language, text in zip(LANGUAGES, pair, strict=True)}
            if held_out.isdisjoint(keys):
                pairs[pair] = None
                if split != "train":
                    held_out |= keys
        corpus[split] = list(pairs)
    return corpus


def normalize(text: str) -> str:
    """What two sentences are compared by: lower case, no punctuation."""
    return re.sub(r"[^\w\s]", "", text.lower())


def write_corpus(out: Path, counts: dict[str, int], seed: int, languages: Pair = LANGUAGES) -> None:
    """Write the text files, each under its name only when complete, and last the manifest."""
    out.mkdir(parents=True, exist_ok=True)
    hashes = {}
    for split, pairs in make_corpus(counts, seed).items():
        for side, language in enumerate(languages):
            lines = [pair[side] for pair in pairs]
            if language == "th":
                lines = [remove_spaces(line) for line in lines]
            data = "".join(f"{line}\n" for line in lines).encode()
            _write(out / f"{split}.{language}", data)
            hashes[f"{split}.{language}"] = hashlib.sha256(data).hexdigest()
    manifest = _request(counts, seed) | {"sha256": hashes}
    _write(out / "manifest.json", (json.dumps(manifest, indent=2) + "\n").encode())


def is_up_to_date(out: Path, counts: dict[str, int], seed: int, languages: Pair = LANGUAGES) -> bool:
    """Whether the folder holds just this corpus, made by this generator."""
    try:
        manifest = json.loads((out / "manifest.json").read_bytes())
        names = [f"{split}.{language}" for split in SPLITS for language in languages]
        hashes = {name: _sha256(out / name) for name in names}
    except (FileNotFoundError, ValueError):
        return False
    return manifest == _request(counts, seed) | {"sha256": hashes}


def _request(counts: dict[str, int], seed: int) -> dict[str, object]:
    """What determines the corpus."""
    generator = {name: _sha256(HERE / name) for name in INGREDIENTS}
    return {"seed": seed, "counts": counts, "generator": generator}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write(path: Path, data: bytes) -> None:
    aside = path.with_name(path.name + ".tmp")
    aside.write_bytes(data)
    aside.replace(path)


def print_statistics(out: Path, languages: Pair = LANGUAGES) -> None:
    """Vocabularies, lengths, repeated sources and, over the test set, how many translations a source has."""
    for language in languages:
        lines = [line for split in SPLITS for line in (out / f"{split}.{language}").read_text("utf-8").splitlines()]
        if language == "th":
            lines = [restore_spaces(line) for line in lines]
        words = [re.findall(r"[\w'-]+", line) for line in lines]
        lengths = [len(line) for line in words]
        types = {word.lower() for line in words for word in line}
        parts = {part for word in types for part in word.split("-")}
        print(f"{language}: {len(types)} words ({len(parts)} with hyphenated numbers split), length {_spread(lengths)}")
    training = (out / "train.en").read_text("utf-8").splitlines()
    print(f"train: {len(set(training))} distinct sources of {len(training)}")
    sources = (out / "test.en").read_text("utf-8").splitlines()
    distributions = [target_distribution(source) for source in sources]
    print(f"test: valid translations a source: {_spread([len(distribution) for distribution in distributions])}")
    print(f"test: entropy a source: mean {statistics.mean(map(entropy, distributions)):.2f} nats")
    print(f"test: probability of the best target: mean {statistics.mean(max(d.values()) for d in distributions):.3f}")


def _spread(values: list[int]) -> str:
    tenths = statistics.quantiles(values, n=10)
    middle = f"mean {statistics.mean(values):.1f}, median {statistics.median(values):g}"
    return f"{middle}, 10% to 90% {tenths[0]:g} to {tenths[-1]:g}, most {max(values)}"


if __name__ == "__main__":
    main()
