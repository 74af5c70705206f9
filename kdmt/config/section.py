"""What all sections of a pipeline share: strictness, bounds, kinds of settings and types of values."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    ValidationInfo,
    field_validator,
)

from kdmt.languages import code_from_yaml

KINDS = ("result", "extend", "execution")


def extend(default: Any, **rules: Any) -> Any:
    return Field(default, json_schema_extra={"kind": "extend"}, **rules)


def execution(default: Any, **rules: Any) -> Any:
    return Field(default, json_schema_extra={"kind": "execution"}, **rules)


def later(default: Any, **rules: Any) -> Any:
    """A setting of a corpus that older records do not have: there it had its default."""
    return Field(default, json_schema_extra={"later": True}, **rules)


class Section(BaseModel):
    """A frozen mapping of the YAML file in which unknown keys are fatal and types are not guessed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="after")
    @classmethod
    def _bounded(cls, value: Any, info: ValidationInfo) -> Any:
        check_bounds(str(info.field_name), value)
        return value


# Upper bounds of numbers by the name of their setting, far above what anyone has a use for: a number with a digit too
# many is refused by its name before memory is asked for. Of numbers that may be negative it bounds the size.
_LARGEST: dict[str, float] = {
    **dict.fromkeys(("encoder_layers", "decoder_layers", "peers", "passes", "upsample", "max_len_a"), 1_000),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "link_heads"), 4_096),
    **dict.fromkeys(("encoder_embed_dim", "decoder_embed_dim", "padding_factor", "crf_rank"), 65_536),
    **dict.fromkeys(("encoder_ffn_embed_dim", "decoder_ffn_embed_dim"), 1_048_576),
    **dict.fromkeys(("max_source_positions", "max_target_positions"), 1_000_000),
    **dict.fromkeys(("max_source_tokens", "max_target_tokens", "max_len_b", "crf_candidates", "k"), 1_000_000),
    **dict.fromkeys(("vocab_size", "src_vocab_size", "tgt_vocab_size", "per_token", "frequent"), 10_000_000),
    **dict.fromkeys(("beam", "nbest", "beams", "validate_beam", "ctc_beam", "iterations"), 10_000),
    **dict.fromkeys(("workers", "threads", "average_checkpoints", "repetition_times"), 10_000),
    **dict.fromkeys(("source_column", "target_column"), 100_000),
    **dict.fromkeys(("update_freq", "batch_size", "bootstrap_samples", "weight", "temperature"), 1_000_000),
    **dict.fromkeys(("temperatures", "insertion_temperature", "eos_penalty"), 1_000_000),
    **dict.fromkeys(("max_tokens", "block_size", "queue"), 100_000_000),
    **dict.fromkeys(("lenpen", "dag_lenpen"), 100),
    "seed": 2**63 - 1,
    "seeds": 2**63 - 1,
    **dict.fromkeys(("lr", "warmup_init_lr"), 1e30),
}
_LARGEST_ELSE = 1_000_000_000
_LONGEST_TEXT = 4096  # characters of a setting; a path has no more


def largest(name: str) -> float:
    """Return the upper bound of a setting's number, or of numbers in its lists."""
    return _LARGEST.get(name, _LARGEST_ELSE)


def check_bounds(name: str, value: Any) -> None:
    """Refuse numbers beyond the bound of a setting, and text that no setting has.

    Raises:
        ValueError: saying what is allowed.
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


def changed(section: Section) -> list[str]:
    """Settings that are not what they are by default: a file may spell the defaults out, as a run's own does."""
    fields = type(section).model_fields
    return [
        name for name, field in fields.items() if not field.is_required() and getattr(section, name) != field.default
    ]


def _ratio(value: float) -> float:
    if 0.0 < value <= 1.0:
        raise ValueError("should be greater than 1, or 0 for no limit")
    return value


def _two_or_none(value: int) -> int:
    if value == 1:
        raise ValueError("should be at least 2, or 0 for no limit")
    return value


Ratio = Annotated[float, AfterValidator(_ratio)]
TokenLimit = Annotated[int, AfterValidator(_two_or_none)]
RepetitionTimes = Annotated[int, AfterValidator(_two_or_none)]
LanguageCode = Annotated[str, BeforeValidator(code_from_yaml)]
SchedulePoint = Annotated[tuple[Annotated[int, Field(ge=0)], Annotated[float, Field(ge=0.0, le=1.0)]], Strict(False)]
