"""Upper bounds of numbers and of text, for sections of a pipeline and for records of other files."""

from __future__ import annotations

import unicodedata

# Upper bounds of numbers by the name of their setting, far above any useful value: a number with a digit too many is
# rejected before memory is allocated. For numbers that may be negative, the bound applies to the absolute value.
_LARGEST: dict[str, float] = {
    **dict.fromkeys(("encoder_layers", "decoder_layers", "peers", "passes", "upsample", "max_len_a"), 1_000),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "link_heads"), 4_096),
    **dict.fromkeys(("encoder_embed_dim", "decoder_embed_dim", "padding_factor", "crf_rank"), 65_536),
    **dict.fromkeys(("encoder_ffn_embed_dim", "decoder_ffn_embed_dim"), 1_048_576),
    **dict.fromkeys(("max_source_positions", "max_target_positions"), 1_000_000),
    **dict.fromkeys(("max_source_tokens", "max_target_tokens", "max_len_b", "crf_candidates", "k"), 1_000_000),
    **dict.fromkeys(("vocab_size", "src_vocab_size", "tgt_vocab_size", "per_token", "frequent"), 10_000_000),
    **dict.fromkeys(("beam", "nbest", "beams", "samples", "groups", "validate_beam", "ctc_beam", "iterations"), 10_000),
    **dict.fromkeys(("workers", "threads", "average_checkpoints", "n", "repetition_times"), 10_000),
    **dict.fromkeys(("source_column", "target_column"), 100_000),
    **dict.fromkeys(("update_freq", "batch_size", "bootstrap_samples", "weight", "temperature"), 1_000_000),
    **dict.fromkeys(("temperatures", "insertion_temperature", "eos_penalty"), 1_000_000),
    **dict.fromkeys(("max_tokens", "block_size", "queue"), 100_000_000),
    **dict.fromkeys(("lenpen", "dag_lenpen", "power"), 100),
    "seed": 2**63 - 1,
    "seeds": 2**63 - 1,
    **dict.fromkeys(("lr", "warmup_init_lr", "min_lr"), 1e30),
}
_LARGEST_OTHER = 1_000_000_000
_LONGEST_TEXT = 4096  # maximum number of characters of a setting; longer paths are not possible


def largest(name: str) -> float:
    """Return the upper bound of a setting's number, or of numbers in its lists."""
    return _LARGEST.get(name, _LARGEST_OTHER)


def check_bounds(name: str, value: object) -> None:
    """Check numbers against the bound of a setting, and text for its length and control characters.

    Raises:
        ValueError: if a value is not allowed; the message has the values that are.
    """
    if isinstance(value, (list, tuple)):
        for item in value:
            check_bounds(name, item)
    elif isinstance(value, str):
        _check_text(value)
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and not abs(value) <= largest(name):
        bound = largest(name)
        shown = f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"
        raise ValueError(f"should be at most {shown}" if value > 0 else f"should be at least -{shown}")


def _check_text(text: str) -> None:
    if len(text) > _LONGEST_TEXT:
        raise ValueError(f"has {len(text):,} characters, more than {_LONGEST_TEXT}")
    if wrong := next((char for char in text if unicodedata.category(char) in ("Cc", "Cs")), None):
        raise ValueError(f"holds the control character U+{ord(wrong):04X}")
