"""Random models with several directions, with a tokenizer, for tests of their exports."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from small_transformers import POST_NORM, make_model, write_sentencepiece

from kdmt.choices import LanguageTokens
from kdmt.config import Text
from kdmt.config.directions import decoder_reads_token
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.text import TextProcessor
from kdmt.corpus.vocabulary import Dictionary
from kdmt.languages import POOLED, Direction
from kdmt.models.architecture import TransformerConfig
from kdmt.models.checkpoint import save_checkpoint
from kdmt.types import SPECIALS

DIRECTIONS = (Direction("en", "de"), Direction("en", "fr"), Direction("cs", "en"))
LINES = ["abca cab", "bcb", "aaab cbca abba", "ccab aabc"]
VOCAB = 18  # of `make_model` with shared embeddings
SHARED = replace(POST_NORM, share_all_embeddings=True)


def write_languages(folder: Path, tokens: LanguageTokens, *, size: int = VOCAB) -> list[Path]:
    """Write a SentencePiece model, a joined dictionary and the text processing of `DIRECTIONS`; return the files.

    The tokens for languages are in the middle of the dictionary, whose last symbol is unused.
    """
    write_sentencepiece(folder, (size, size))
    text = TextProcessor(Text(), *POOLED.sides, directions=DIRECTIONS, language_tokens=tokens)
    (folder / "text.json").write_text(json.dumps(text.to_dict()))
    pieces = [each for each in Dictionary.load(folder / "dict.en.txt").symbols if each not in SPECIALS]
    symbols = [*pieces[:3], *text.language_symbols, *pieces[3:]][: size - len(SPECIALS) - 1]
    counts = {symbol: 100 - number for number, symbol in enumerate([*symbols, "madeupword0000"])}
    for side in POOLED.sides:
        Dictionary.from_counts(counts, padding_factor=1).save(folder / f"dict.{side}.txt")
    return TextCodec.load(folder).companions(folder)


def write_multilingual(
    folder: Path, tokens: LanguageTokens, *, config: TransformerConfig = SHARED, seed: int = 0
) -> Path:
    """Write a checkpoint of a random model that translates in `DIRECTIONS`, and return its folder."""
    companions = write_languages(folder.with_name(f"{folder.name}-text"), tokens)
    config = replace(config, target_from_source=decoder_reads_token(tokens))
    save_checkpoint(folder, make_model(config, seed=seed).float(), companions=companions)
    return folder
