"""Write a language of known modes: parallel text in which every source has two or three right translations.

    python data/modes/generate.py [--out data/modes/corpus] [--train 20000 --valid 1000 --test 1000 --seed 1]

The files {train,valid,test}.{qaa,qab} and manifest.json are written to OUT/two and OUT/three, for the languages with
two and with three dialects. A folder that is up to date is not written again. The generator is in the modules
`kdmt.toy.modes` and `kdmt.toy.mode_files`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the generator needs no installed package

from kdmt.toy.arguments import add_counts_and_seed
from kdmt.toy.mode_files import COUNTS, SPLITS, is_up_to_date, write_pairs
from kdmt.toy.modes import LANGUAGES

CORPUS = Path("data/modes/corpus")


def main() -> None:
    """Parse the command line and write the languages that are not up to date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=CORPUS, metavar="DIR", help="Folder of the corpora (default: %(default)s)."
    )
    add_counts_and_seed(parser, COUNTS)
    args = parser.parse_args()
    counts = {split: getattr(args, split) for split in SPLITS}
    for name, language in LANGUAGES.items():
        out: Path = args.out / name
        if out.exists() and not out.is_dir():
            parser.error(f"--out: {out} is not a folder")
        if is_up_to_date(out, language, counts, args.seed):
            print(f"{out}: up to date")
        else:
            write_pairs(out, language, counts, args.seed)
            print(f"{out}: {', '.join(f'{counts[split]} {split}' for split in reversed(SPLITS))} pairs")


if __name__ == "__main__":
    main()
