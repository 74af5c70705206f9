"""Losses as pure functions of tensors. They return sums; the caller divides by the count."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdmt.losses.divergences import kl_divergence

__all__ = ["kl_divergence"]


def __getattr__(name: str) -> object:
    """Load the public functions on first use: `import kdmt.losses` alone does not load PyTorch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kdmt.losses import divergences

    return getattr(divergences, name)
