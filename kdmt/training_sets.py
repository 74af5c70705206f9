"""Table of the training sets that a student can learn from (`students.<name>.data`), with the origin of each set.

To add a set that chooses among the hypotheses of the teacher, name it here and write its rule in
`kdmt.distill.target_choices`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

WEIGHTS = "weights.npy"  # file in the folder of a set whose pairs have weights: float32 [pairs]

# corpus: the clean text; search: the teacher's beam search; sampling: samples of the teacher; pool: candidates of the
# teacher and of other systems, not a training set itself; choice: another choice among the candidates of `pool` or, if
# there is none, of `distilled`; file: translations in a file; back_translation: text in the target language, with
# sources by a model of the opposite direction; union: other sets joined
Origin = Literal["corpus", "search", "sampling", "pool", "choice", "file", "back_translation", "union"]


@dataclass(frozen=True)
class TrainingSet:
    """A training set and its origin.

    Attributes:
        origin: origin of the targets.
        folder: name of the stage's folder in the pipeline's folder; empty for a union.
        settings: fields of the section `distill` on which this set alone depends.
        file: field of the section `distill` with the path of a file that the set is made from.
        parts: training sets that a union joins, in order.
        has_weights: whether its pairs have different weights in the loss.
    """

    origin: Origin
    folder: str = ""
    settings: tuple[str, ...] = ()
    file: str | None = None
    parts: tuple[str, ...] = ()
    has_weights: bool = False

    @property
    def own_settings(self) -> tuple[str, ...]:
        """Return all fields of the section `distill` on which this set alone depends."""
        return self.settings if self.file is None else (*self.settings, self.file)


TRAINING_SETS = {
    "raw": TrainingSet("corpus", "prepare"),
    "distilled": TrainingSet("search", "distill"),
    "pool": TrainingSet("pool", "pool", settings=("pool",)),
    "interpolated": TrainingSet("choice", "interpolated", settings=("interpolate",)),
    "mbr": TrainingSet("choice", "mbr", settings=("mbr",)),
    "reranked": TrainingSet("choice", "reranked", settings=("rerank",)),
    "diverse": TrainingSet("choice", "diverse", settings=("diverse",)),
    "scored": TrainingSet("choice", "scored", file="scores"),
    "nbest": TrainingSet("choice", "nbest", has_weights=True),
    "sampled": TrainingSet("sampling", "sampled", settings=("sample",)),
    "imported": TrainingSet("file", "imported", settings=("imported_sources",), file="imported"),
    "back_translated": TrainingSet("back_translation", "back_translated"),
    "mixed": TrainingSet("union", parts=("raw", "distilled")),
}

OF_TEACHERS = ("raw", "back_translated")  # sets that are made without the teacher, from which it can learn

if TYPE_CHECKING:
    TrainingSetName = str
else:
    TrainingSetName = Literal[tuple(name for name, made in TRAINING_SETS.items() if made.origin != "pool")]


def parts_of(name: str) -> tuple[str, ...]:
    """Return the training sets with folders of their own that a training set consists of."""
    return TRAINING_SETS[name].parts or (name,)


def stage_folders() -> dict[str, str]:
    """Return name -> folder of all training sets with folders of their own."""
    return {name: made.folder for name, made in TRAINING_SETS.items() if made.folder}
