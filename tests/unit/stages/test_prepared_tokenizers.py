"""Tokenizers in whole stages: bytes in dictionaries, tokenizers of Hugging Face, and the size of the vocabulary."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_pipeline import SIZES, kdmt, make_pairs, read_lines, run_stages, settings, to_yaml, write_lines
from tiny_prepare import MADE, change, facts, read_bin, report

import kdmt as package
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.vocabulary import Dictionary
from kdmt.types import UNK


@pytest.mark.usefixtures("pipeline")
def test_with_byte_fallback_no_text_has_unknown_tokens() -> None:
    lines = read_lines(Path("text/test.de"))
    write_lines(Path("text/test.de"), [*lines[:-1], "ok ☃ 𝔷"])
    change(tokenizer={"vocab_size": 285, "byte_fallback": True})
    run_stages("prepare")
    codec = TextCodec.load(MADE)
    encoded = codec.encode_target(["ok ☃ 𝔷 \U0010ffff"])[0]
    assert UNK not in encoded
    assert codec.decode_target(encoded.tolist()) == "ok ☃ 𝔷 \U0010ffff"
    symbols = Dictionary.load(MADE / "dict.de.txt").symbols
    assert sum(symbol.startswith("<0x") for symbol in symbols) == 256
    assert report()["round_trip"]["de"]["changed"] == 0


@pytest.mark.usefixtures("pipeline")
def test_user_defined_symbols_are_in_the_dictionary_without_occurrences() -> None:
    change(tokenizer={"vocab_size": 34, "user_defined_symbols": ["<ph>"]}, vocabulary={"threshold": 3})
    run_stages("prepare")
    codec = TextCodec.load(MADE)
    assert codec.decode_target(codec.encode_target(["ok <ph>"])[0].tolist()) == "ok <ph>"


@pytest.mark.usefixtures("pipeline")
def test_case_folding_by_the_tokenizer_is_no_warning() -> None:
    pairs = make_pairs(80, seed=3)
    for side, lang in enumerate(("en", "de")):
        write_lines(Path(f"text/train.{lang}"), [pair[side].title() for pair in dict.fromkeys(pairs)])
    change(tokenizer={"vocab_size": 32, "normalization_rule": "nfkc_cf"})
    [prepared] = run_stages("prepare")
    assert "do not survive" not in prepared.err
    assert report()["round_trip"]["en"]["changed"] == 0


@pytest.mark.usefixtures("pipeline")
def test_the_number_of_merges_is_shown_for_each_language() -> None:
    tokenizer = {"type": "subword-nmt", "model": "bpe", "vocab_size": "auto", "joint": False}
    document = settings()
    document["prepare"] |= {"tokenizer": tokenizer, "vocabulary": {"joined": False}}
    for system in (document["teacher"], *document["students"].values()):
        system["model"]["share_all_embeddings"] = False
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    [prepared] = run_stages("prepare")
    merges = [
        len(path.read_text(encoding="utf-8").splitlines()) - 1  # the first line is the version
        for path in (MADE / "tokenizer/en.codes", MADE / "tokenizer/de.codes")
    ]
    assert max(merges) < 1000
    assert f"vocab_size: auto is {merges[0]} and {merges[1]}, as many as the text allows: 1,000" in prepared.err


@pytest.mark.usefixtures("pipeline")
def test_the_size_of_the_vocabulary_can_be_chosen_by_the_number_of_pairs() -> None:
    train = [{**settings()["prepare"]["train"][0], "weight": 3}]  # copies do not count
    change(train=train, tokenizer={"vocab_size": "auto"})
    [prepared] = run_stages("prepare")
    assert facts()["vocab_size"] == 1000
    num_pieces = len(TextCodec.load(MADE).tokenizers.source.symbols)
    assert 20 < num_pieces < 1000  # the text allows fewer
    suggested = f"1,000 pieces suit {SIZES['train']} pairs"
    assert f"vocab_size: auto is {num_pieces}, as many as the text allows: {suggested}" in prepared.err
    assert "prepare: up to date" in kdmt("prepare", "tiny.yaml").err


@pytest.mark.usefixtures("pipeline")
def test_a_size_far_from_the_suggested_one_is_shown_with_the_suggestion() -> None:
    [prepared] = run_stages("prepare")
    assert f"vocab_size is 32; 1,000 pieces suit {SIZES['train']} pairs" in prepared.err
    assert "vocab_size" not in facts()


@pytest.mark.usefixtures("pipeline")
def test_a_size_that_the_text_does_not_allow_is_refused_with_the_largest_one() -> None:
    change(tokenizer={"vocab_size": 30_000})
    refused = kdmt("prepare", "tiny.yaml")
    assert refused.code == 2
    assert "tokenizer.vocab_size 30000: too large for this text, which allows at most" in refused.err
    assert "'hard_vocab_limit: false'" in refused.err


def make_tokenizer() -> None:
    """Write tokenizer.json: words of the made-up language, and two tokens that its text does not have."""
    tokenizers = pytest.importorskip("tokenizers", reason="needs the extra 'huggingface'")
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    text = [line for lang in ("en", "de") for line in read_lines(Path(f"text/train.{lang}"))]
    special = ["<pad>", "<unk>", "<s>", "</s>", "<mask>", "<never seen>"]
    made.train_from_iterator(text, trainers.BpeTrainer(vocab_size=60, special_tokens=special, show_progress=False))
    made.save("tokenizer.json")


@pytest.mark.usefixtures("pipeline")
@pytest.mark.parametrize("threshold", [0, 1])
def test_the_vocabulary_of_hugging_face_is_the_dictionary(threshold: int) -> None:
    make_tokenizer()
    from tokenizers import Tokenizer

    change(tokenizer={"type": "huggingface", "source_path": "tokenizer.json"}, vocabulary={"threshold": threshold})
    run_stages("prepare")
    theirs = Tokenizer.from_file("tokenizer.json")
    vocabulary = [theirs.id_to_token(number) for number in range(4, theirs.get_vocab_size())]
    symbols = Dictionary.load(MADE / "dict.en.txt").symbols
    assert symbols[:4] == ["<s>", "<pad>", "</s>", "<unk>"]
    if threshold:
        assert set(symbols[4:]) < set(vocabulary) | {f"madeupword{number:04d}" for number in range(8)}
        assert "<mask>" not in symbols
    else:
        assert symbols[4 : 4 + len(vocabulary)] == ["<mask>", "<id5>", *vocabulary[2:]]
    for lang in ("en", "de"):
        encoded = theirs.encode_batch(read_lines(MADE / f"train.{lang}"), add_special_tokens=False)
        assert read_bin("train", lang) == [" ".join(each.tokens) for each in encoded]


@pytest.mark.usefixtures("pipeline")
def test_every_stage_works_with_a_tokenizer_of_hugging_face() -> None:
    """Check that translations read the tokenizer of the checkpoint alone, in every command that translates."""
    make_tokenizer()
    document = settings()
    document["prepare"]["tokenizer"] = {"type": "huggingface", "source_path": "tokenizer.json"}
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    run_stages("prepare", "teacher", "distill", "student", "score")
    Path("tokenizer.json").unlink()
    assert "up to date" in kdmt("prepare", "tiny.yaml").err  # the given file is no longer needed
    checkpoint = Path("runs/tiny/teacher/average")
    assert (checkpoint / "tokenizer" / "joint.json").is_file()
    lines = read_lines(Path("text/train.en"))[:5]
    model = package.load(checkpoint)
    translated = model.translate(lines, beam=2)
    by_command = kdmt("translate", checkpoint, "--beam", "2", stdin="\n".join([*lines, ""]).encode())
    assert by_command.out.splitlines() == translated
    exported = kdmt("export", checkpoint, "engine", "--to", "ctranslate2", "--quantization", "float32")
    assert exported.code == 0, exported.err
    again = kdmt("translate", "engine", "--beam", "2", stdin="\n".join([*lines, ""]).encode())
    assert again.out.splitlines() == translated
    assert any(text.split() for text in translated)
    rescored = kdmt("rescore", checkpoint, "text/valid.en", "text/valid.de")
    assert rescored.code == 0, rescored.err
    assert len(rescored.out.splitlines()) == SIZES["valid"]
    generated = kdmt("generate", "runs/tiny/prepare/data-bin", "--path", str(checkpoint), "--beam", "2")
    assert generated.code == 0, generated.err
    assert sum(line.startswith("H-") for line in generated.out.splitlines()) == SIZES["test"]
