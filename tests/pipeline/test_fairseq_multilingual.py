"""Tests with the real fairseq 0.12.2 (`make fairseq-env`; else skipped): models with several directions.

fairseq trains a small model of its task `translation_multi_simple_epoch`. kdmt imports it, computes the same, continues
its training and exports it again.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tiny_pipeline
import torch
from commands import run
from multilingual_models import DIRECTIONS, LINES, write_multilingual
from test_fairseq import FAIRSEQ, fairseq

from kdmt.choices import LanguageTokens
from kdmt.config import Decode
from kdmt.config.yaml_text import write_yaml
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.vocabulary import Dictionary
from kdmt.decode.engines.translator import Translator
from kdmt.interop.fairseq.checkpoints import TextSettings, export_checkpoint, import_checkpoints
from kdmt.languages import Direction
from kdmt.models.checkpoint import load_model
from kdmt.types import EOS

pytestmark = [
    pytest.mark.pipeline,
    pytest.mark.skipif(not (FAIRSEQ / "fairseq-train").exists(), reason="make fairseq-env makes a real fairseq"),
]

PAIRS = (Direction("en", "de"), Direction("en", "fr"))
FLAGS: dict[LanguageTokens, tuple[str, ...]] = {
    "target_in_source": ("--encoder-langtok", "tgt"),
    "target_and_decoder": ("--encoder-langtok", "tgt", "--decoder-langtok"),
    "source_and_decoder": ("--encoder-langtok", "src", "--decoder-langtok"),
    "decoder": ("--decoder-langtok",),
}
TRAINED: tuple[LanguageTokens, ...] = ("target_in_source", "target_and_decoder")
SHAPE = (
    *("--arch", "transformer_tiny", "--share-all-embeddings", "--dropout", "0", "--max-source-positions", "30"),
    *("--max-target-positions", "30"),
)
# without a length penalty, since fairseq's lengths count the token of the decoder
SEARCH = Decode(beam=3, max_len_a=0.0, max_len_b=12, lenpen=0.0)
SEARCH_FLAGS = ("--beam", 3, "--lenpen", 0, "--max-len-a", 0, "--cpu")


def translate(line: str, target: str) -> str:
    """Return the translation in a toy language: German has the words in reversed order, and both have marks."""
    words = [f"{word}{target[0]}" for word in line.split()]
    return " ".join(reversed(words) if target == "de" else words)


def write_texts(folder: Path) -> None:
    rng = np.random.default_rng(0)
    words = [f"w{number}" for number in range(12)]
    for split, count in (("train", 600), ("valid", 20), ("test", 20)):
        lines = [" ".join(rng.choice(words, size=rng.integers(2, 6))) for _ in range(count)]
        (folder / f"{split}.en").write_text("".join(f"{line}\n" for line in lines))
        for target in ("de", "fr"):
            (folder / f"{split}.{target}").write_text("".join(f"{translate(line, target)}\n" for line in lines))
    symbols = [*words, *(f"{word}{mark}" for word in words for mark in "df")]
    (folder / "dict.txt").write_text("".join(f"{symbol} 1\n" for symbol in symbols))


def preprocess(folder: Path, data: Path, dictionary: Path, pairs: Sequence[Direction], *splits: str) -> None:
    for each in pairs:
        texts = [f"--{split}pref" for split in splits]
        prefixes = [folder / (split if len(pairs) < 3 else f"{split}.{each}") for split in splits]
        given = [value for pair in zip(texts, prefixes, strict=True) for value in pair]
        fairseq(
            "fairseq-preprocess",
            *("--source-lang", each.source, "--target-lang", each.target, "--destdir", data, *given),
            *("--srcdict", dictionary, "--tgtdict", dictionary),
        )


@dataclass(frozen=True)
class Trained:
    """A model of fairseq's.

    Attributes:
        folder: folder with the text.
        checkpoint: its checkpoint.
        imported: checkpoint folder of kdmt.
        tokens: kdmt's name of its language tokens.
    """

    folder: Path
    checkpoint: Path
    imported: Path
    tokens: LanguageTokens

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def flags(self) -> tuple[object, ...]:
        pairs = ",".join(map(str, PAIRS))
        task = ("--task", "translation_multi_simple_epoch", "--lang-pairs", pairs)
        return (*task, "--lang-dict", self.data / "langs.txt", *FLAGS[self.tokens])

    def generate(self, direction: Direction, checkpoint: Path) -> dict[int, tuple[str, np.ndarray]]:
        """Return fairseq's translation of each test sentence, and the log-probabilities of its tokens."""
        languages = ("--source-lang", direction.source, "--target-lang", direction.target)
        return generate(self.data, checkpoint, self.tokens, *self.flags(), *languages)


def num_forced(tokens: LanguageTokens) -> int:
    """Return the number of tokens that begin a target in fairseq."""
    return 0 if tokens == "target_in_source" else 1


def generate(data: Path, checkpoint: Path, tokens: LanguageTokens, *flags: object) -> dict[int, tuple[str, np.ndarray]]:
    """Return fairseq's translations of the test set, and the log-probabilities of their tokens."""
    limit = ("--max-len-b", SEARCH.max_len_b + num_forced(tokens))
    return read_generated(fairseq("fairseq-generate", data, "--path", checkpoint, *flags, *SEARCH_FLAGS, *limit))


def read_generated(output: str) -> dict[int, tuple[str, np.ndarray]]:
    words = {int(index): text for index, text in re.findall(r"^H-(\d+)\t[^\t]*\t(.*)$", output, re.MULTILINE)}
    scores = {int(index): text for index, text in re.findall(r"^P-(\d+)\t(.*)$", output, re.MULTILINE)}
    return {
        index: (text, np.array([float(score) for score in scores[index].split()]) * math.log(2.0))
        for index, text in words.items()
    }


@pytest.fixture(scope="module", params=TRAINED)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp(request.param)
    write_texts(folder)
    preprocess(folder, folder / "data", folder / "dict.txt", PAIRS, "train", "valid", "test")
    (folder / "data" / "langs.txt").write_text("fr\nen\nde\n")
    made = Trained(folder, folder / "trained" / "checkpoint_last.pt", folder / "imported", request.param)
    fairseq(
        *("fairseq-train", made.data, *made.flags(), *SHAPE, "--criterion", "label_smoothed_cross_entropy"),
        *("--label-smoothing", "0.1", "--optimizer", "adam", "--lr", "0.005", "--max-tokens", "400", "--cpu"),
        *("--max-update", "150", "--no-epoch-checkpoints", "--save-dir", folder / "trained", "--num-workers", "0"),
    )
    arguments = ("import-checkpoint", made.checkpoint, made.imported, "--data", made.data, "--all-directions")
    done = tiny_pipeline.kdmt(*arguments)
    assert done.code == 0, done.err
    return made


def our_translations(checkpoint: Path, direction: Direction, lines: Sequence[str]) -> list[tuple[str, np.ndarray]]:
    """Return the tokens of our translations, and the log-probabilities of their tokens by forced decoding."""
    own = Translator.load(checkpoint).for_direction(direction)
    sources = own.encode(lines)
    best = [nbest[0].tokens for nbest in own.hypotheses(sources, SEARCH)]
    targets = [np.array([*tokens, EOS]) for tokens in best]
    scores = own.engine.score_pairs(sources, targets)  # type: ignore[attr-defined]
    words = [own.codec.tgt_dictionary.string(tokens) for tokens in best]
    return list(zip(words, scores, strict=True))


def assert_same(
    found: Sequence[tuple[str, np.ndarray]], expected: dict[int, tuple[str, np.ndarray]], tokens: LanguageTokens
) -> None:
    """Compare our translations with fairseq's, whose log-probabilities have that of the decoder's token first."""
    assert len(found) == len(expected)
    for index, (words, scores) in enumerate(found):
        assert words == expected[index][0]
        wanted = expected[index][1][num_forced(tokens) :]
        np.testing.assert_allclose(scores, wanted, rtol=0, atol=2e-3)  # fairseq prints four decimals


@pytest.mark.parametrize("direction", PAIRS, ids=str)
def test_translations_and_log_probabilities_equal_those_of_fairseq(trained: Trained, direction: Direction) -> None:
    lines = tiny_pipeline.read_lines(trained.folder / "test.en")
    expected = trained.generate(direction, trained.checkpoint)
    assert_same(our_translations(trained.imported, direction, lines), expected, trained.tokens)
    right = [expected[index][0] == translate(line, direction.target) for index, line in enumerate(lines)]
    marks = {word[-1] for text, _ in expected.values() for word in text.split()}
    assert marks == {direction.target[0]}  # the model has learnt what the token means
    assert sum(right) >= 3


def test_an_export_is_loaded_by_fairseq_with_the_same_results(trained: Trained, tmp_path: Path) -> None:
    export_checkpoint(trained.imported, tmp_path / "model.pt")
    for direction in PAIRS:
        expected = trained.generate(direction, trained.checkpoint)
        found = trained.generate(direction, tmp_path / "model.pt")
        assert {index: text for index, (text, _) in found.items()} == {
            index: text for index, (text, _) in expected.items()
        }
        for index, (_, scores) in found.items():
            np.testing.assert_allclose(scores, expected[index][1], atol=1e-4)


def test_training_continues_from_the_imported_model(trained: Trained) -> None:
    """With a learning rate of almost 0, the validation loss is that of the imported model."""
    folder = trained.folder

    def texts(split: str) -> list[dict[str, object]]:
        sides = [{"source": f"{split}.{each.source}", "target": f"{split}.{each.target}"} for each in PAIRS]
        return [
            {name: {"path": path} for name, path in files.items()} | {"direction": str(each)}
            for each, files in zip(PAIRS, sides, strict=True)
        ]

    shape = {"arch": "transformer_tiny", "share_all_embeddings": True, "dropout": 0.0}
    shape |= {"max_source_positions": load_model(trained.imported).config.max_source_positions}
    shape |= {"max_target_positions": load_model(trained.imported).config.max_target_positions}
    document = {
        "name": "continued",
        "directions": [str(each) for each in PAIRS],
        "language_tokens": trained.tokens,
        "prepare": {
            "train": texts("train"),
            "valid": texts("valid"),
            "tokenizer": {"type": "words"},
            "vocabulary": {"source_path": "imported/dict.src.txt"},
            "decontaminate": False,
            "workers": 1,
        },
        "teacher": {
            "model": shape,
            "train": {
                **{"init_from": "imported", "max_updates": 1, "lr": 1e-12, "warmup_updates": 1, "threads": 1},
                **{"max_tokens": 400, "max_source_tokens": 20, "max_target_tokens": 20, "label_smoothing": 0.0},
                "validate_interval_updates": 1,
                **{"validate_bleu": False, "best_metric": "loss", "average_checkpoints": 1},
            },
        },
    }
    (folder / "continued.yaml").write_text(write_yaml(document))
    run(folder, "prepare", folder / "continued.yaml")
    run(folder, "teacher", folder / "continued.yaml")
    own = Translator.load(trained.imported)
    total, count = 0.0, 0
    for direction in PAIRS:
        sides = [tiny_pipeline.read_lines(folder / f"valid.{code}") for code in direction.sides]
        chosen = own.for_direction(direction)
        scores = own.engine.score_pairs(chosen.encode(sides[0]), own.codec.encode_target(sides[1]))  # type: ignore[attr-defined]
        total, count = total - sum(float(each.sum()) for each in scores), count + sum(map(len, scores))
    assert validations(folder)[-1] == pytest.approx(total / count, rel=1e-4)


def validations(folder: Path) -> list[float]:
    """Return the negative log-likelihood of each validation, in nats for each token."""
    lines = (folder / "runs/continued/teacher/metrics.jsonl").read_text().splitlines()
    return [row["nll"] for row in map(json.loads, lines) if row["kind"] == "valid"]


@pytest.mark.parametrize("tokens", ["source_and_decoder", "decoder"])
def test_fairseq_translates_with_an_export_of_a_model_of_ours(tmp_path: Path, tokens: LanguageTokens) -> None:
    """The dictionary has the language tokens in the middle, where fairseq has them at the end."""
    torch.set_num_threads(1)
    checkpoint = write_multilingual(tmp_path / "model", tokens)
    export_checkpoint(checkpoint, tmp_path / "fairseq" / "model.pt")
    codec, theirs = TextCodec.load(checkpoint), Dictionary.load(tmp_path / "fairseq" / "dict.en.txt")
    pieces = [codec.src_dictionary.string(ids) for ids in codec.encode_source(LINES)]
    for each in DIRECTIONS:
        for code in each.sides:
            (tmp_path / f"test.{each}.{code}").write_text("".join(f"{line}\n" for line in pieces))
    data = tmp_path / "data"
    preprocess(tmp_path, data, tmp_path / "fairseq" / "dict.en.txt", DIRECTIONS, "test")
    pairs, langs = ",".join(map(str, DIRECTIONS)), "en,de,fr,cs"
    for each in DIRECTIONS:
        task = ("--task", "translation_multi_simple_epoch", "--lang-pairs", pairs, "--langs", langs, *FLAGS[tokens])
        languages = ("--source-lang", each.source, "--target-lang", each.target)
        expected = generate(data, tmp_path / "fairseq" / "model.pt", tokens, *task, *languages)
        found = our_translations(checkpoint, each, LINES)
        begin = codec.text.prefixes[str(each)][0]  # fairseq removes it from translations, also where it was not given
        kept = [" ".join(word for word in words.split() if word != begin) for words, _ in found]
        renamed = [theirs.string(codec.tgt_dictionary.encode_line(words)) for words in kept]
        assert_same([(words, scores) for words, (_, scores) in zip(renamed, found, strict=True)], expected, tokens)


def test_an_import_of_an_export_is_the_model_that_was_exported(trained: Trained, tmp_path: Path) -> None:
    export_checkpoint(trained.imported, tmp_path / "model.pt")
    settings = TextSettings(data=tmp_path, all_directions=True)
    (again,) = import_checkpoints(str(tmp_path / "model.pt"), tmp_path / "again", settings)
    first, second = load_model(trained.imported), load_model(again)
    assert first.config == second.config
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))
    assert TextCodec.load(again).src_dictionary == TextCodec.load(trained.imported).src_dictionary
