"""n-gram language models in KenLM's formats (ARPA text or binary) over the pieces of the target dictionary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from kdmt.errors import UserError
from kdmt.files import check_file


class KenLM:
    """Language model over sentences of pieces. It implements `kdmt.decode.search.ctc_paths.LanguageModel`.

    Args:
        path: file of the model.
        symbols: piece of each id.

    Raises:
        UserError: if KenLM is not installed or cannot read the file.
    """

    def __init__(self, path: Path, symbols: Sequence[str]) -> None:
        try:
            import kenlm
        except ImportError:
            raise UserError("KenLM is not installed: pip install 'kdmt[kenlm]'") from None
        check_file(path, missing="there is no such language model")
        try:
            self._model = kenlm.Model(str(path))
        except (OSError, RuntimeError) as error:
            raise UserError(f"{path}: KenLM cannot read it: {error}") from None
        self._kenlm, self._symbols = kenlm, symbols

    def start(self) -> object:
        """Return the state after <s>."""
        state = self._kenlm.State()
        self._model.BeginSentenceWrite(state)
        return state

    def extend(self, state: object, token: int) -> tuple[object, float]:
        """Return the state after a piece, and the natural log-probability of the piece."""
        return self._after(state, self._symbols[token])

    def end(self, state: object) -> float:
        """Return the natural log-probability of </s>."""
        return self._after(state, "</s>")[1]

    def _after(self, state: object, symbol: str) -> tuple[object, float]:
        following = self._kenlm.State()
        log10 = self._model.BaseScore(state, symbol, following)
        return following, log10 * math.log(10.0)
