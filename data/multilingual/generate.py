"""Write the toy languages for several directions: text with the same meanings in English and two artificial languages.

    python data/multilingual/generate.py [--out DIR] [--train 2000 --valid 200 --test 200 --seed 1]

The files {train,valid,test}.{en,qaa,qab} and manifest.json are written to DIR, unless they are up to date. The
generator is in the modules `kdmt.toy.multilingual` and `kdmt.toy.multilingual_files`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the generator needs no installed package

from kdmt.toy.arguments import add_counts_and_seed
from kdmt.toy.multilingual_files import COUNTS, SPLITS, is_up_to_date, write_lines

CORPUS = Path("data/multilingual/corpus")


def main() -> None:
    """Parse the command line and write the corpus if it is not up to date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=CORPUS, metavar="DIR", help="Folder of the corpus (default: %(default)s)."
    )
    add_counts_and_seed(parser, COUNTS)
    args = parser.parse_args()
    counts = {split: getattr(args, split) for split in SPLITS}
    out: Path = args.out
    if out.exists() and not out.is_dir():
        parser.error(f"--out: {out} is not a folder")
    if is_up_to_date(out, counts, args.seed):
        print(f"{out}: up to date")
    else:
        write_lines(out, counts, args.seed)
        print(f"{out}: {', '.join(f'{counts[split]} {split}' for split in reversed(SPLITS))} lines")


if __name__ == "__main__":
    main()
