"""Table of the families of non-autoregressive models: their decoder positions, settings and capabilities.

To add a family, add its name and its entry here, its layers to `kdmt.models.nonautoregressive`, its view and terms to
the module of `kdmt.objectives` for its kind of positions, and its search to `kdmt.decode.engines.nat`. All other code
reads this table. Loading this module does not load PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

FamilyName = Literal["nat", "cmlm", "inat", "nat_crf", "ctc", "dag", "levenshtein", "insertion"]

# Kinds of decoder positions: those of the target; more than the target has, where the loss sums over alignments; those
# of a draft that is edited.
Positions = Literal["target", "aligned", "draft"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of non-autoregressive models.

    Attributes:
        positions: kind of decoder positions.
        settings: names of the family's settings in a student's `nat` section, without those of all families.
        iterates: whether decoding takes several passes.
        copies_source: whether the decoder input is made from the embeddings of the source, unless `decoder_input` is
            `unk`. In the other families, hidden words are <unk>.
        has_convex: whether the loss is the likelihood of the target, or of some of its tokens, and nothing else.
        fairseq: fairseq's name of the model; None if fairseq does not have it.
        fairseq_noise: `noise` of fairseq's task, which masks or deletes words of the target in training.
    """

    positions: Positions
    settings: tuple[str, ...]
    iterates: bool = False
    copies_source: bool = False
    has_convex: bool = False
    fairseq: str | None = None
    fairseq_noise: str = "full_mask"

    @property
    def has_target_positions(self) -> bool:
        """Return whether the decoder has the positions of the target.

        Word-level distillation, knowledge caches and weights of pairs require it.
        """
        return self.positions == "target"

    @property
    def why_not_target_positions(self) -> str | None:
        """Return the reason for error messages, None for a family that has the positions of the target."""
        return {
            "target": None,
            "aligned": "its positions are not the target's",
            "draft": "its positions are a draft's, not the target's",
        }[self.positions]


_LENGTH = ("length_weight",)
_DSLP = ("dslp", "dslp_mixing")
_GLANCING = ("glancing", "glancing_draw", "glancing_rounding", "glancing_same_dropout")
_ALIGNED = ("upsample", "too_long", "loss", "ngram", "loss_average", *_GLANCING)

FAMILIES: Mapping[FamilyName, Family] = {
    "nat": Family(
        positions="target",
        settings=(
            *_LENGTH,
            *_DSLP,
            "decoder_input",
            "source_copy",
            *_GLANCING,
            "distance",
            "glancing_divisor",
        ),
        copies_source=True,
        has_convex=True,
        fairseq="nonautoregressive_transformer",
    ),
    "cmlm": Family(
        positions="target",
        settings=(*_LENGTH, *_DSLP, "layout", "correction"),
        iterates=True,
        has_convex=True,
        fairseq="cmlm_transformer",
        fairseq_noise="random_mask",
    ),
    "inat": Family(
        positions="target",
        settings=(*_LENGTH, "decoder_input", "source_copy", "passes", "denoising"),
        iterates=True,
        copies_source=True,
        fairseq="iterative_nonautoregressive_transformer",
    ),
    "nat_crf": Family(
        positions="target",
        settings=(*_LENGTH, "decoder_input", "source_copy", "crf_rank", "crf_candidates", "crf_weight"),
        copies_source=True,
        fairseq="nacrf_transformer",
    ),
    "ctc": Family(
        positions="aligned",
        settings=(*_ALIGNED, *_DSLP, "decoder_input", "distance", "glancing_reveal", "streaming"),
        copies_source=True,
        has_convex=True,
    ),
    "dag": Family(positions="aligned", settings=(*_ALIGNED, "link_heads", "glancing_keep_path"), has_convex=True),
    # 'layout: fairseq' is available for training families that never predict <s> and </s>: the others would have to
    # learn that these two do not change
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
    """Return the families that have a setting, an empty tuple for a setting of all families."""
    return tuple(name for name, family in FAMILIES.items() if setting in family.settings)


def _families_of(positions: Positions) -> tuple[FamilyName, ...]:
    return tuple(name for name, family in FAMILIES.items() if family.positions == positions)


POSITIONAL, ALIGNED, EDITING = (_families_of("target"), _families_of("aligned"), _families_of("draft"))
