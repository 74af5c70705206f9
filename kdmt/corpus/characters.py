"""Characters of validation and test text that the clean training text cannot contain."""

from __future__ import annotations

import collections
from collections.abc import Iterable
from dataclasses import dataclass, field

from kdmt.choices import UnicodeForm
from kdmt.corpus.rules.tidying import find_invisible, normalize_unicode, remove_invisible


@dataclass
class ForeignForms:
    """Counts of lines that cleaning would change other than in whitespace.

    A model that is trained on clean text does not know their characters and cannot produce them.
    """

    form: UnicodeForm
    lines: int = 0
    changed: int = 0  # lines with a difference of either of the two kinds below
    unicode: int = 0  # lines that are not in the normalisation form
    invisible: dict[str, int] = field(default_factory=dict)  # "U+00AD" -> lines that contain it

    def as_dict(self) -> dict[str, object]:
        """Return the counts as plain JSON values."""
        return {"lines": self.lines, "changed": self.changed, "unicode": self.unicode, "invisible": self.invisible}

    def explain(self) -> str:
        """Return the characters and their numbers of lines, for a message."""
        parts = [f"not in {self.form} {self.unicode:,}"] if self.unicode else []
        parts += [f"{name} {count:,}" for name, count in self.invisible.items()]
        return f"{self.changed:,} of {self.lines:,} lines ({', '.join(parts)})"


def find_foreign_forms(lines: Iterable[str], form: UnicodeForm) -> ForeignForms:
    """Count the lines with characters that `remove_invisible` and `normalize_unicode` remove from training text."""
    found = ForeignForms(form)
    invisible: collections.Counter[str] = collections.Counter()
    for line in lines:
        found.lines += 1
        visible = remove_invisible(line)
        is_normal = normalize_unicode(visible, form) == visible
        found.unicode += not is_normal
        found.changed += visible != line or not is_normal
        if visible != line:
            invisible.update({f"U+{ord(character):04X}" for character in find_invisible(line)})
    found.invisible = dict(sorted(invisible.items()))
    return found
