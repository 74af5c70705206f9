"""The flags on the pages about fairseq, compared with those of fairseq 0.12.2 and with the settings of kdmt.

The flags of fairseq 0.12.2 are in tests/golden/fairseq_flags.json (tests/golden/make_fairseq_flags.py).
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from kdmt.config import Model, Pipeline, Section
from kdmt.errors import UserError
from kdmt.interop.fairseq.flags import parse_generate

ROOT = Path(__file__).parents[2]
FLAGS = {name: set(flags) for name, flags in json.loads((ROOT / "tests/golden/fairseq_flags.json").read_text()).items()}
DOCS = ROOT / "docs"


def sections_of(text: str) -> dict[str, str]:
    """Return the text of each section of a page by its heading."""
    return dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))


TEXT = (DOCS / "reference" / "fairseq-flags.md").read_text(encoding="utf-8")
FLAGS_PAGE = sections_of(TEXT)
DATA_BIN_PAGE = sections_of((DOCS / "how-to" / "use-a-fairseq-data-bin.md").read_text(encoding="utf-8"))
OURS = {"--bpe-codes", "--sentencepiece", "--moses", "--lowercase"}  # of `kdmt import-fairseq`
PLUGIN = {"--knowledge", "--kd-alpha", "--kd-temperature", "--kd-weights", "--distilled"}


def flags_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", text))


@pytest.mark.parametrize(
    ("section", "programs", "others"),
    [
        (
            FLAGS_PAGE["Translating"],
            ("fairseq-generate", "fairseq-interactive", "fairseq-score"),
            {"--bpe-codes", "--sentencepiece-model"},
        ),
        (FLAGS_PAGE["fairseq-preprocess"], ("fairseq-preprocess",), set()),
        (FLAGS_PAGE["fairseq-train"], ("fairseq-train",), set()),
        (DATA_BIN_PAGE["Import a data-bin"], (), OURS | {"--remove-bpe"}),
        (DATA_BIN_PAGE["Translate a data-bin"], ("fairseq-generate",), set()),
        (DATA_BIN_PAGE["Train in fairseq with kdmt's teacher"], ("fairseq-train",), PLUGIN),
    ],
    ids=["generate", "preprocess", "train", "import", "data-bin", "plugin"],
)
def test_every_flag_exists_in_fairseq(section: str, programs: tuple[str, ...], others: set[str]) -> None:
    known = others.union(*(FLAGS[program] for program in programs))
    assert flags_in(section) - known == set()
    assert flags_in(section)


def test_every_flag_of_preprocessing_is_documented() -> None:
    common = FLAGS["fairseq-train"] | {"--help"}
    assert FLAGS["fairseq-preprocess"] - common - flags_in(FLAGS_PAGE["fairseq-preprocess"]) == set()


def test_every_flag_of_generation_is_documented() -> None:
    assert FLAGS["generation"] - flags_in(FLAGS_PAGE["Translating"]) == set()


ACCEPTED, _, REST = FLAGS_PAGE["Translating"].partition("Refused by name")
REFUSED = REST.partition("`fairseq-interactive`")[0]
VALUES = {
    "--task": "translation_lev",
    "--scoring": "chrf",
    "--bpe": "sentencepiece",
    "--tokenizer": "moses",
    "--shard-id": "0",
    "--sacrebleu-tokenizer": "intl",
}


def messages(flag: str) -> list[str]:
    """Return the error messages for a flag without a value and with two values; none where the flag is accepted."""
    found = []
    for each in ([flag], [flag, VALUES.get(flag, "1.5")], [flag, VALUES.get(flag, "2")]):
        try:
            parse_generate(["data", "--path", "model", *each])
        except UserError as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize("flag", sorted(flags_in(ACCEPTED)))
def test_flags_listed_as_accepted_are_accepted(flag: str) -> None:
    assert len(messages(flag)) < 3


@pytest.mark.parametrize("flag", sorted(flags_in(REFUSED)))
def test_flags_listed_as_refused_are_refused(flag: str) -> None:
    found = messages(flag)
    assert len(found) == 3
    assert any("no counterpart" in message for message in found)


def settings_of(section: type[Section], prefix: str) -> set[str]:
    return {f"{prefix}.{name}" for name in section.model_fields}


def test_every_setting_exists_in_kdmt() -> None:
    from kdmt.config import Prepare, Score, Teacher, Tokenizer, Train, Vocabulary

    known = {
        *settings_of(Train, "train"),
        *settings_of(Model, "model"),
        *settings_of(Vocabulary, "vocabulary"),
        *settings_of(Tokenizer, "tokenizer"),
        *settings_of(Score, "score"),
        *settings_of(Prepare, "prepare"),
        *settings_of(Teacher, "teacher"),
        *settings_of(Pipeline, "pipeline"),
    }
    named = set(re.findall(r"`((?:train|model|vocabulary|tokenizer|score|teacher)\.[a-z_]+)", TEXT))
    assert named - known == set()
    assert len(named) > 30
    same = re.search(r"\| (`--encoder-layers`.*?) \| `model\.`", TEXT)
    assert same is not None
    assert {flag[2:].replace("-", "_") for flag in flags_in(same[1])} == set(Model.model_fields) - {
        "arch",
        "init",
        "layout",
        "decoder",
        "tied_decoder_layers",
        "unidirectional_encoder",
    }
