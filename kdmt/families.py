"""The families of non-autoregressive models: what their decoder positions are, their settings, what they support.

To add a family, add its name and its entry here, its layers to `kdmt.models.nonautoregressive`, its view and terms to
the module of `kdmt.objectives` for its kind of positions, and its search to `kdmt.decode.engines.nat`. What names
families anywhere else reads this table. Loading this module does not load PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

FamilyName = Literal["nat", "cmlm", "inat", "nat_crf", "ctc", "dag", "levenshtein", "insertion"]

# What the positions of a decoder are: those of the target, more than the target has (the loss sums over alignments), or
# those of a draft that is edited.
Positions = Literal["target", "aligned", "draft"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of non-autoregressive models.

    Attributes:
        positions: what the positions of its decoder are.
        settings: names of the settings in a student's `nat` section that it has, besides those of all families.
        iterates: whether decoding takes several passes.
        copies_source: whether its decoder starts from the embeddings of the source.
        fairseq: fairseq's name of the model; None where fairseq has none.
        fairseq_noise: `noise` of fairseq's task, which hides or deletes words of the target in training.
    """

    positions: Positions
    settings: tuple[str, ...]
    iterates: bool = False
    copies_source: bool = False
    fairseq: str | None = None
    fairseq_noise: str = "full_mask"

    @property
    def has_target_positions(self) -> bool:
        """Whether what compares tokens applies to it: word-level distillation, caches, weights of pairs."""
        return self.positions == "target"

    @property
    def why_not_target_positions(self) -> str | None:
        """Return the reason for messages, None for a family that has the positions of the target."""
        return {
            "target": None,
            "aligned": "its positions are not the target's",
            "draft": "its positions are a draft's, not the target's",
        }[self.positions]


_LENGTH = ("length_weight",)
_ALIGNED = ("upsample", "too_long", "glancing")

FAMILIES: Mapping[FamilyName, Family] = {
    "nat": Family(
        positions="target",
        settings=(*_LENGTH, "source_copy", "glancing", "distance"),
        copies_source=True,
        fairseq="nonautoregressive_transformer",
    ),
    "cmlm": Family(
        positions="target",
        settings=(*_LENGTH, "layout", "correction"),
        iterates=True,
        fairseq="cmlm_transformer",
        fairseq_noise="random_mask",
    ),
    "inat": Family(
        positions="target",
        settings=(*_LENGTH, "source_copy", "passes", "denoising"),
        iterates=True,
        copies_source=True,
        fairseq="iterative_nonautoregressive_transformer",
    ),
    "nat_crf": Family(
        positions="target",
        settings=(*_LENGTH, "source_copy", "crf_rank", "crf_candidates", "crf_weight"),
        copies_source=True,
        fairseq="nacrf_transformer",
    ),
    "ctc": Family(positions="aligned", settings=(*_ALIGNED, "distance"), copies_source=True),
    "dag": Family(positions="aligned", settings=(*_ALIGNED, "link_heads")),
    # 'layout: fairseq' is trained by families whose <s> and </s> are never predicted: the others would have to learn
    # that these stay what they are
    "levenshtein": Family(
        positions="draft",
        settings=("layout",),
        iterates=True,
        fairseq="levenshtein_transformer",
        fairseq_noise="random_delete",
    ),
    "insertion": Family(
        positions="draft",
        settings=("layout", "insertion_temperature"),
        iterates=True,
        fairseq="insertion_transformer",
        fairseq_noise="random_delete",
    ),
}


def families_with(setting: str) -> tuple[FamilyName, ...]:
    """Return the families that have a setting; none for a setting of all families."""
    return tuple(name for name, family in FAMILIES.items() if setting in family.settings)


def _families_of(positions: Positions) -> tuple[FamilyName, ...]:
    return tuple(name for name, family in FAMILIES.items() if family.positions == positions)


POSITIONAL, ALIGNED, EDITING = (_families_of("target"), _families_of("aligned"), _families_of("draft"))
