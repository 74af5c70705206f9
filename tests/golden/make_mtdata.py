"""Write entries of the real mtdata 0.5.1, with which `kdmt.corpus.datasets` is compared.

    python3 -m venv /tmp/mtdata-venv && /tmp/mtdata-venv/bin/pip install mtdata==0.5.1
    MTDATA=/tmp/mtdata-cache /tmp/mtdata-venv/bin/python tests/golden/make_mtdata.py

mtdata requires another version of rich than kdmt, hence the environment of its own. The entries are written to
tests/golden/mtdata/entries.json: of each group the same number, at equal distances in its sorted identifiers.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

OUT = Path(__file__).with_name("mtdata") / "entries.json"
_EACH = 15
_OPUS = 150


def main() -> None:
    """Write the entries."""
    from mtdata.index import INDEX

    groups = defaultdict(list)
    for entry in INDEX.get_entries():
        groups[entry.did.group].append(entry)
    chosen = []
    for group, entries in sorted(groups.items()):
        entries.sort(key=lambda entry: str(entry.did))
        count = min(len(entries), _OPUS if group == "OPUS" else _EACH)
        chosen += [entries[number * len(entries) // count] for number in range(count)]
    records = [
        {
            "id": str(entry.did),
            "urls": [entry.url] if isinstance(entry.url, str) else list(entry.url),
            "members": list(entry.in_paths or ()),
            "columns": list(entry.cols or ()),
            "format": entry.in_ext or entry.ext,
        }
        for entry in chosen
    ]
    OUT.parent.mkdir(exist_ok=True)
    lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    OUT.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    print(f"{OUT}: {len(records)} entries")


if __name__ == "__main__":
    main()
