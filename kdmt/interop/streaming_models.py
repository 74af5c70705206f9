"""Models that translate while the source arrives, which other programs do not have."""

from __future__ import annotations

from kdmt.errors import UserError
from kdmt.models.architecture import TransformerConfig


def refuse_unidirectional(config: TransformerConfig, program: str) -> None:
    """Check that every encoder position of a model attends to the whole source, as in other programs.

    Args:
        program: name of the program, for the message.

    Raises:
        UserError: if the encoder is unidirectional.
    """
    if config.unidirectional_encoder:
        raise UserError(
            f"the model has a unidirectional encoder ('model.unidirectional_encoder: true'), which {program} does not "
            "have: use the checkpoint itself"
        )
