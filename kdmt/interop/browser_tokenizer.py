"""Tokenizers of an exported model for programs in a browser.

`browser/source.json` and `browser/target.json` have the format `tokenizer.json` of Hugging Face's tokenizers, which
its package for JavaScript reads, with the ids of the model's dictionaries. Names of symbols that no text is cut into,
such as ` </s>` and ` <0x0A>`, begin with a space, so that no text contains them: a space in the text is U+2581 there. A
piece of the tokenizer that is not in the dictionary has an id after those of the dictionary, and is used like <unk>.

Files are written if the text processing is within reach of a page: SentencePiece without a table of normalisation, and
neither Moses nor rules of punctuation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdmt.corpus.codec import TextCodec
from kdmt.corpus.sentencepiece_file import BYTE, USER_DEFINED
from kdmt.corpus.subword_model import SubwordModel
from kdmt.corpus.tokenizer import SentencePieceModel
from kdmt.corpus.vocabulary import Dictionary
from kdmt.files import write_json
from kdmt.types import UNK

FOLDER = "browser"
SOURCE_FILE, TARGET_FILE = "source.json", "target.json"


def write_browser_tokenizers(codec: TextCodec, folder: Path) -> str | None:
    """Write the tokenizers into the folder of an exported model.

    Returns:
        The reason why none are written; None if they are.
    """
    if codec.text.text.moses or codec.text.text.normalize:
        return "text is processed by Moses"
    if codec.text.directions:
        return "the model has language tokens"
    if codec.text.context is not None:
        return "the model reads sentences with their context"
    sides = (codec.tokenizers.source, codec.src_dictionary), (codec.tokenizers.target, codec.tgt_dictionary)
    for model, _ in sides:
        if (reason := tokenizer_problem(model)) is not None:
            return reason
    (folder / FOLDER).mkdir()
    for name, (model, dictionary) in zip((SOURCE_FILE, TARGET_FILE), sides, strict=True):
        assert isinstance(model, SentencePieceModel)
        write_json(folder / FOLDER / name, tokenizer_json(model, dictionary), indent=None)
    return None


def tokenizer_problem(model: SubwordModel) -> str | None:
    """Return why a tokenizer is out of reach; None if it is not."""
    if not isinstance(model, SentencePieceModel):
        return "the tokenizer is not SentencePiece"
    if model.facts.algorithm not in ("unigram", "bpe"):
        return f"the tokenizer's algorithm is {model.facts.algorithm!r}"
    if model.facts.is_normalized:
        return "the tokenizer normalises text"
    if model.pieces_of_type(USER_DEFINED):
        return "the tokenizer has symbols that are never cut"
    return None


def tokenizer_json(model: SentencePieceModel, dictionary: Dictionary) -> dict[str, Any]:
    """Return a tokenizer in the format of Hugging Face's tokenizers, with the ids of a dictionary."""
    algorithm, scores = model.scores()
    in_order = [*dictionary.symbols, *(piece for piece in scores if piece not in dictionary)]
    names = [piece if piece in scores else f" {piece}" for piece in in_order]
    least = min(scores.values())
    if algorithm == "unigram":
        vocabulary = [[name, scores.get(piece, least)] for name, piece in zip(names, in_order, strict=True)]
        subwords: dict[str, Any] = {"type": "Unigram", "unk_id": UNK, "vocab": vocabulary, "byte_fallback": False}
    else:
        subwords = {
            "type": "BPE",
            "vocab": {name: number for number, name in enumerate(names)},
            "merges": _merges(scores),
            "unk_token": names[UNK],
            "fuse_unk": not model.pieces_of_type(BYTE),
            "byte_fallback": False,
            "dropout": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "ignore_merges": False,
        }
    spaces = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Strip", "strip_left": True, "strip_right": True},
                {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
            ],
        },
        "pre_tokenizer": spaces,
        "post_processor": None,
        "decoder": spaces,
        "model": subwords,
    }


def _merges(scores: dict[str, float]) -> list[list[str]]:
    """Return the pairs that BPE of SentencePiece merges, the first one first: the score of a piece is its rank."""
    found = [
        (-score, [piece[:cut], piece[cut:]])
        for piece, score in scores.items()
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]
    return [pair for _, pair in sorted(found, key=lambda each: each[0])]
