"""Tests of `kdmt generate` against the output of fairseq-generate 0.12.2 (tests/golden/make_generate.py)."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from bad_input import message_of
from tiny_pipeline import kdmt

from kdmt.commands.generate import _load
from kdmt.config import Decode, NATDecode, Text, Tokenizer
from kdmt.corpus.indexed import IndexedDataset
from kdmt.corpus.text import TextProcessor
from kdmt.corpus.tokenizer import train_tokenizer
from kdmt.corpus.vocabulary import Dictionary
from kdmt.decode.engines.nat import NATEngine
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.errors import UserError
from kdmt.families import ALIGNED, EDITING, POSITIONAL
from kdmt.interop.fairseq.checkpoints import checkpoint_content
from kdmt.interop.fairseq.data_bin import DataBin
from kdmt.interop.fairseq.states import convert_state
from kdmt.languages import Direction
from kdmt.models.architecture import NATConfig, TransformerConfig
from kdmt.models.build import build_nonautoregressive, build_transformer
from kdmt.models.checkpoint import load_model, save_checkpoint

GOLDEN = Path(__file__).parents[2] / "golden" / "generate"
DATA = GOLDEN / "data-bin"
DESCRIPTION = json.loads((GOLDEN / "cases.json").read_text(encoding="utf-8"))
CASES = DESCRIPTION["cases"]
SHORT = ("--max-len-b", "10")  # the longest translation has 8 tokens; some searches go on to the last position


@pytest.fixture(scope="module")
def companions(tmp_path_factory):
    """Return the paths of the files of a checkpoint other than its weights."""
    folder = tmp_path_factory.mktemp("text")
    text = folder / "text.json"
    text.write_text(json.dumps(TextProcessor(Text(), "en", "de").to_dict()))
    train_tokenizer(Tokenizer(type="words"), (text, text), folder / "tokenizer", Direction("en", "de"))
    return [DATA / "dict.en.txt", DATA / "dict.de.txt", text, folder / "tokenizer"]


@pytest.fixture(scope="module")
def models(tmp_path_factory, companions):
    """Return a folder with the golden models as checkpoints, each named by the seed of its training."""
    folder = tmp_path_factory.mktemp("models")
    config = TransformerConfig(**DESCRIPTION["shape"])
    for seed in (1, 2):
        arrays = np.load(GOLDEN / f"model_{seed}.npz")
        state = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        sizes = [len(state[f"{side}.embed_tokens.weight"]) for side in ("encoder", "decoder")]
        model = build_transformer(config, src_vocab_size=sizes[0], tgt_vocab_size=sizes[1])
        save_checkpoint(folder / str(seed), model, weights=convert_state(state, config), companions=companions)
    return folder


def generate(data, path, *flags):
    result = kdmt("generate", data, "--path", path, "--cpu", *flags)
    assert result.code == 0, result.err
    return result.out.removesuffix("\n").split("\n")


def by_kind(lines):
    """Return the texts of the lines by kind of line and id, in order, and the ids in the order of their first lines."""
    found, order = defaultdict(list), []
    for line in lines:
        match = re.match(r"([STHDP])-(\d+)\t(.*)", line)
        if match:
            kind, index, rest = match.groups()
            found[kind, int(index)].append(rest)
            order.append(int(index))
    return found, list(dict.fromkeys(order))


def numbers(text):
    return [float(number) for number in text.split()]


@pytest.mark.parametrize("case", CASES)
def test_output_equals_fairseq_generate(case, models):
    flags, seeds = CASES[case]
    expected = (GOLDEN / f"{case}.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    lines = generate(DATA, ":".join(str(models / str(seed)) for seed in seeds), *flags)
    assert len(lines) == len(expected)
    assert [line.partition("-")[0] for line in lines] == [line.partition("-")[0] for line in expected]
    ours, theirs = by_kind(lines)[0], by_kind(expected)[0]
    assert ours.keys() == theirs.keys()
    for (kind, index), texts in theirs.items():
        assert len(ours[kind, index]) == len(texts)
        for our, their in zip(ours[kind, index], texts, strict=True):
            if kind in "ST":
                assert our == their
            elif kind == "P":
                assert numbers(our) == pytest.approx(numbers(their), abs=2e-4)
            else:
                assert our.partition("\t")[2] == their.partition("\t")[2]
                assert float(our.partition("\t")[0]) == pytest.approx(float(their.partition("\t")[0]), abs=1e-4)
    assert lines[-1] == expected[-1]


@pytest.mark.parametrize("case", ["beam", "nbest", "valid", "shard"])
def test_order_of_sentences_equals_fairseq_generate(case, models):
    """Compare lengths only: fairseq orders sources of equal length in a batch by an unstable sort."""
    flags, _ = CASES[case]
    expected = (GOLDEN / f"{case}.txt").read_text(encoding="utf-8").split("\n")
    (ours, our_order), (theirs, their_order) = by_kind(generate(DATA, models / "1", *flags)), by_kind(expected)

    def lengths(found, order):
        return [len(found["S", index][0].split()) for index in order]

    assert set(our_order) == set(their_order)
    assert lengths(ours, our_order) == lengths(theirs, their_order)


def test_results_are_written_to_a_file(models, tmp_path):
    printed = generate(DATA, models / "1", "--beam", "2", *SHORT)
    assert generate(DATA, models / "1", "--beam", "2", "--results-path", tmp_path / "out", *SHORT) == [""]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["generate-test.txt"]
    assert (tmp_path / "out" / "generate-test.txt").read_text(encoding="utf-8").removesuffix("\n").split(
        "\n"
    ) == printed


def test_an_interrupted_run_leaves_the_earlier_results_unchanged(models, tmp_path, monkeypatch):
    (tmp_path / "generate-test.txt").write_text("earlier\n")

    def stop(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("kdmt.commands.generate._score", stop)
    with pytest.raises(ZeroDivisionError):
        kdmt("generate", DATA, "--path", models / "1", "--cpu", "--results-path", tmp_path, *SHORT)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["earlier\n"]


def test_a_data_bin_without_references_is_translated_without_a_score(models, tmp_path):
    shutil.copytree(DATA, tmp_path / "data")
    for path in (tmp_path / "data").glob("test.en-de.de.*"):
        path.unlink()
    found, order = by_kind(lines := generate(tmp_path / "data", models / "1", "--beam", "2", *SHORT))
    assert len(order) == 41
    assert {kind for kind, _ in found} == set("SHDP")
    assert not lines[-1].startswith("Generate")


@pytest.mark.slow
def test_shards_together_equal_the_whole_output(models):
    whole, _ = by_kind(generate(DATA, models / "1", "--beam", "2", "--batch-size", "4", *SHORT))
    parts = {}
    for shard in range(3):
        flags = ("--beam", "2", "--batch-size", "4", *SHORT, "--num-shards", "3", "--shard-id", str(shard))
        found, _ = by_kind(generate(DATA, models / "1", *flags))
        assert not parts.keys() & found.keys()
        parts |= found
    assert parts == whole


def test_each_shard_writes_its_own_file(models, tmp_path):
    flags = ("--beam", "1", "--batch-size", "8", *SHORT, "--results-path", tmp_path, "--num-shards", "2", "--shard-id")
    for shard in range(2):
        assert generate(DATA, models / "1", *flags, str(shard)) == [""]
    lines = [(tmp_path / f"generate-test.{shard}-of-2.txt").read_text(encoding="utf-8") for shard in range(2)]
    assert sum(text.count("\nH-") for text in lines) == 41
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("scoring", ["bleu", "sacrebleu", "chrf"])
def test_a_shard_without_batches_has_no_output(models, scoring):
    flags = ("--beam", "1", "--batch-size", "64", "--num-shards", "7", "--shard-id", "6", "--scoring", scoring)
    assert generate(DATA, models / "1", *flags) == [""]


def test_the_bleu_of_fairseq_is_computed_on_tokens_with_bpe(models):
    """Check that --bpe affects scorers of text but not the BLEU of fairseq, as in fairseq_cli/generate.py."""
    plain, undone = (
        generate(DATA, models / "1", "--beam", "2", *SHORT, *more) for more in ((), ("--bpe", "subword_nmt"))
    )
    assert by_kind(plain)[0]["T", 0] != by_kind(undone)[0]["T", 0]
    assert plain[-1] == undone[-1]
    texts = [
        generate(DATA, models / "1", "--beam", "2", "--scoring", "chrf", *SHORT, *more)[-1]
        for more in ((), ("--bpe", "subword_nmt"))
    ]
    assert texts[0] != texts[1]


def test_long_sentences_are_refused_or_skipped(tmp_path, companions, models):
    short = tmp_path / "short"
    config = TransformerConfig(**{**DESCRIPTION["shape"], "max_source_positions": 6})
    sizes = [sum(1 for _ in (DATA / f"dict.{lang}.txt").open(encoding="utf-8")) + 4 for lang in ("en", "de")]
    model = build_transformer(config, src_vocab_size=sizes[0], tgt_vocab_size=sizes[1])
    save_checkpoint(short, model, companions=companions)
    result = kdmt("generate", DATA, "--path", short, "--cpu")
    assert re.search(r"\d+ sentences are longer than the model reads, the first \d+ ", message_of(result))
    for path, limit in ((short, ()), (models / "1", ("--max-source-positions", "6"))):
        flags = ("--skip-invalid-size-inputs-valid-test", "--max-len-b", "5", *limit)
        found, order = by_kind(generate(DATA, path, *flags))
        assert 0 < len(order) < 41
        assert max(len(found["S", index][0].split()) for index in order) == 5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--unkpen", "0.5"), r"--unkpen 0\.5: `kdmt generate` has no counterpart"),
        (("--sampling",), "--sampling: `kdmt generate` has no counterpart"),
        (("--nbest", "6"), "--nbest 6 is more than --beam 5"),
        (("--beam", "0"), "--beam 0: should be at least 1"),
        (("--beam", "many"), "argument --beam: invalid int value: 'many'"),
        (("--num-shards", "2", "--shard-id", "2"), "--shard-id 2: should be less than --num-shards"),
        (("--remove-bpe=spm",), "--remove-bpe 'spm': none of subword_nmt"),
        (("--no-such-flag",), "--no-such-flag: no flag"),
        (("--max-tokens", "3"), "more than max_tokens 3"),
        (("--gen-subset", "test1"), r"no split 'test1' of en-de: there is test, valid"),
        (("--target-lang", "fr"), r"a data-bin of en-de, not of \.\.\.-fr"),
        (("-s", "de", "-t", "en"), "translates from en to de, not from de to en"),
        (("--iter-decode-with-external-reranker",), "non-autoregressive one comes first"),
    ],
)
def test_unsupported_flags_are_refused(flags, message, models):
    assert re.search(message, message_of(kdmt("generate", DATA, "--path", models / "1", "--cpu", *flags)))


@pytest.mark.parametrize("family", [*POSITIONAL, *ALIGNED, *EDITING])
def test_non_autoregressive_models_give_the_output_of_their_engine(family, tmp_path, companions):
    """Compare with N + 1 passes at most; only models that edit have P lines with token log-probabilities."""
    model = save_nonautoregressive(tmp_path / "model", family, companions)
    lines = generate(DATA, tmp_path / "model", "--iter-decode-max-iter", "2", "--max-len-a", "1", "--max-len-b", "5")
    found, order = by_kind(lines)
    assert sorted(order) == list(range(41))
    assert {kind for kind, _ in found} == set("STHDP" if family in EDITING else "STHD")
    sources = IndexedDataset(DATA / "test.en-de.en")
    engine = NATEngine(model, iterations=3)
    few = order[::4]
    expected = engine.decode([sources[index] for index in few], Decode(beam=1, max_len_a=1.0, max_len_b=5))
    dictionary = Dictionary.load(DATA / "dict.de.txt")
    for index, (hypothesis,) in zip(few, expected, strict=True):
        score, text = found["H", index][0].split("\t")
        assert text == dictionary.string(hypothesis.tokens)
        assert float(score) == pytest.approx(hypothesis.score / math.log(2), rel=1e-4, abs=1e-5)


def save_nonautoregressive(folder, family, companions):
    torch.manual_seed(3)
    sizes = [len(Dictionary.load(DATA / f"dict.{lang}.txt")) for lang in ("en", "de")]
    shape = TransformerConfig(**DESCRIPTION["shape"], dropout=0.0)
    model = build_nonautoregressive(shape, NATConfig(family=family), src_vocab_size=sizes[0], tgt_vocab_size=sizes[1])
    save_checkpoint(folder, model, companions=companions)
    return load_model(folder)


def test_a_length_beam_is_refused_for_models_that_edit(tmp_path, companions):
    save_nonautoregressive(tmp_path / "nat", "levenshtein", companions)
    result = kdmt("generate", DATA, "--path", tmp_path / "nat", "--cpu", "--iter-decode-with-beam", "3")
    assert "--iter-decode-with-beam 3: levenshtein models edit, and try no lengths" in message_of(result)


def test_an_external_reranker_chooses_among_lengths(models, tmp_path, companions):
    model = save_nonautoregressive(tmp_path / "nat", "cmlm", companions)
    path = f"{tmp_path / 'nat'}:{models / '1'}"
    flags = ("--iter-decode-with-beam", "4", "--iter-decode-with-external-reranker", "--iter-decode-max-iter", "1")
    found, order = by_kind(generate(DATA, path, *flags))
    teacher = TorchEngine(load_model(models / "1"))
    engine = NATEngine(model, search=NATDecode(length_beam=4, rescore=True), iterations=2, teacher=teacher)
    sources, dictionary = IndexedDataset(DATA / "test.en-de.en"), Dictionary.load(DATA / "dict.de.txt")
    expected = engine.decode([sources[index] for index in order], Decode())
    words = [dictionary.string(hypothesis.tokens) for (hypothesis,) in expected]
    assert [found["H", index][0].split("\t")[1] for index in order] == words


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--nbest", "2"), "--nbest 2: a non-autoregressive model gives one translation"),
        (("--iter-decode-with-external-reranker",), "with one autoregressive model"),
    ],
)
def test_flags_that_non_autoregressive_models_do_not_support_are_refused(flags, message, tmp_path, companions):
    save_nonautoregressive(tmp_path / "nat", "cmlm", companions)
    assert message in message_of(kdmt("generate", DATA, "--path", tmp_path / "nat", "--cpu", *flags))


def test_removing_bpe_and_detokenising(models):
    joined, order = by_kind(generate(DATA, models / "1", "--beam", "1", "--remove-bpe", *SHORT))
    undone, _ = by_kind(
        generate(DATA, models / "1", "--beam", "1", "--bpe", "subword_nmt", "--tokenizer", "moses", *SHORT)
    )
    assert any("@@" in undone["H", index][0] for index in order)
    for index in order:
        assert undone["D", index] == joined["D", index]
        assert undone["S", index] == joined["S", index]


def test_flags_without_effect_are_accepted(models):
    flags = ("--no-progress-bar", "--num-workers", "4", "--log-format", "none", "--unkpen", "0", "--min-len", "1")
    assert generate(DATA, models / "1", "--quiet", *SHORT, *flags) == generate(DATA, models / "1", "--quiet", *SHORT)


def test_a_fairseq_checkpoint_is_read_directly(models, tmp_path):
    for seed in (1, 2):
        assert kdmt("export", "--to", "fairseq", models / str(seed), tmp_path / f"{seed}.pt").code == 0
    files, folders = (
        ":".join(map(str, paths)) for paths in ([tmp_path / "1.pt", tmp_path / "2.pt"], [models / "1", models / "2"])
    )
    assert generate(DATA, files, *SHORT) == generate(DATA, folders, *SHORT)


def test_a_fairseq_checkpoint_is_refused_for_the_other_direction(models, tmp_path, monkeypatch):
    """Check also that reading the checkpoint makes no temporary folder."""
    assert kdmt("export", "--to", "fairseq", models / "1", tmp_path / "1.pt").code == 0
    monkeypatch.setattr("tempfile.mkdtemp", None)
    flags = ("--cpu", "--beam", "1", "--max-len-b", "5")
    message = message_of(kdmt("generate", DATA, "--path", tmp_path / "1.pt", "-s", "de", "-t", "en", *flags))
    assert message.endswith("1.pt: translates from en to de, not from de to en")
    generate(DATA, tmp_path / "1.pt", *flags)


def test_a_data_bin_of_languages_with_hyphens(models, tmp_path):
    shutil.copytree(DATA, tmp_path / "data")
    for path in list((tmp_path / "data").iterdir()):
        path.rename(path.with_name(path.name.replace("de.", "zh-CN.")))
    torch.save(checkpoint_content(load_model(models / "1"), Direction("en", "zh-CN")), tmp_path / "1.pt")
    lines = generate(tmp_path / "data", tmp_path / "1.pt", "--beam", "1", "-s", "en", "-t", "zh-CN", *SHORT)
    assert lines == generate(DATA, models / "1", "--beam", "1", *SHORT)
    message = message_of(kdmt("generate", tmp_path / "data", "--path", tmp_path / "1.pt", "--cpu"))
    assert "has en-zh-CN: give the source and the target language" in message


def test_a_fairseq_checkpoint_without_weights_is_refused(tmp_path):
    torch.save({"model": {}}, tmp_path / "checkpoint_best.pt")
    message = message_of(kdmt("generate", DATA, "--path", tmp_path / "checkpoint_best.pt", "--cpu"))
    assert "checkpoint_best.pt" in message
    assert "not a fairseq checkpoint" in message


def test_a_missing_checkpoint_is_refused(tmp_path):
    assert "there is no such checkpoint" in message_of(kdmt("generate", DATA, "--path", tmp_path / "none", "--cpu"))


def test_half_precision_gives_nearly_the_same_translations(models):
    half, _ = by_kind(generate(DATA, models / "1", "--beam", "1", "--fp16", *SHORT))
    whole, order = by_kind(generate(DATA, models / "1", "--beam", "1", *SHORT))
    assert sum(half["D", index] == whole["D", index] for index in order) < 41  # scores differ in their last digits
    words = [half["H", index][0].split("\t")[1] == whole["H", index][0].split("\t")[1] for index in order]
    assert sum(words) > 35


def test_a_model_with_language_tokens_is_refused_with_the_reason(multilingual_model: Path, tmp_path: Path) -> None:
    data = cast(DataBin, SimpleNamespace(direction=Direction("en", "de"), folder=tmp_path))
    with pytest.raises(UserError, match=r"tokens \(en-de, .*\), which the data-bin of en-de does not have: 'kdmt"):
        _load(multilingual_model, data)
