"""Tests of SentencePiece and subword-nmt: equal to the tools, round trips, reproducible learning, damaged folders."""

import io
import itertools
import json
import random
import re
import shutil
from collections import Counter

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from kdmt.config import Tokenizer
from kdmt.corpus.tokenizer import (
    count_lines,
    load_tokenizer,
    read_chunks,
    required_symbols,
    sample_lines,
    train_tokenizer,
)
from kdmt.errors import UserError
from kdmt.languages import Direction
from kdmt.types import SPECIALS

DIRECTION = Direction("en", "de")
KINDS = {
    "unigram": Tokenizer(vocab_size=120),
    "bpe": Tokenizer(model="bpe", vocab_size=120),
    "subword-nmt": Tokenizer(type="subword-nmt", model="bpe", vocab_size=60),
}


def make_corpus(folder):
    rng = random.Random(1)
    syllables = ["ba", "no", "ti", "ke", "Lu", "ßo", "ära", "win", "BA", "a\u0308", "Haus"]
    for lang in DIRECTION.sides:
        lines = [
            " ".join("".join(rng.choices(syllables, k=rng.randint(1, 3))) for _ in range(rng.randint(1, 8)))
            for _ in range(400)
        ]
        (folder / f"train.{lang}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "train.en", folder / "train.de"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def folders(corpus, tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizers")
    for kind, configuration in KINDS.items():
        train_tokenizer(configuration, corpus, root / kind, DIRECTION)
    return {kind: root / kind for kind in KINDS}


def some_lines(corpus, count=50):
    return next(read_chunks(corpus[1], count))


def words(alphabet="abnotikeLußärwiBAH"):
    return st.lists(st.text(alphabet, min_size=1, max_size=12), max_size=6)


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_restores_encoded_text(folders, kind):
    model = load_tokenizer(folders[kind]).target

    @settings(max_examples=30, deadline=None)
    @given(lines=st.lists(words().map(" ".join), max_size=4))
    def check(lines):
        tokenised = model.encode_lines(lines)
        assert [model.decode(line) for line in tokenised] == lines
        assert all(line == " ".join(line.split()) for line in tokenised)

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_ids_equal_the_tokens_of_tokenised_text(folders, corpus, kind):
    model = load_tokenizer(folders[kind]).source
    lines = ["", *some_lines(corpus), " "]
    tokens, sizes = model.encode_ids(lines, threads=2)
    assert sizes.sum() == len(tokens)
    assert [len(line.split()) for line in model.encode_lines(lines)] == sizes.tolist()
    assert [model.symbols[i] for i in tokens] == " ".join(model.encode_lines(lines)).split()


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_of_any_text_are_separated_by_spaces(folders, kind):
    """Check that fairseq reads the tokens of the fast path from tokenised text, for any text."""
    model = load_tokenizer(folders[kind]).source

    @settings(max_examples=30, deadline=None)
    @given(lines=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), max_size=3))
    def check(lines):
        tokens, sizes = model.encode_ids(lines)
        tokenised = model.encode_lines(lines)
        assert [len(line.split()) for line in tokenised] == sizes.tolist()
        assert [token for line in tokenised for token in line.split()] == [model.symbols[i] for i in tokens]

    check()


def test_pieces_equal_those_of_sentencepiece(folders, corpus):
    for kind in ("unigram", "bpe"):
        processor = sentencepiece.SentencePieceProcessor(model_file=str(folders[kind] / "joint.model"))
        expected = [" ".join(pieces) for pieces in processor.encode(some_lines(corpus), out_type=str)]
        assert load_tokenizer(folders[kind]).source.encode_lines(some_lines(corpus)) == expected


def test_codes_and_tokens_equal_those_of_subword_nmt(folders, corpus, capsys):
    """Compare with codes learnt from the concatenated sides and applied without a vocabulary threshold."""
    from subword_nmt.apply_bpe import BPE
    from subword_nmt.learn_bpe import learn_bpe

    codes = io.StringIO()
    both = "".join(path.read_text(encoding="utf-8") for path in corpus)
    learn_bpe(io.StringIO(both), codes, 60)
    capsys.readouterr()
    assert (folders["subword-nmt"] / "joint.codes").read_text(encoding="utf-8") == codes.getvalue()
    bpe = BPE(codes)
    lines = [*some_lines(corpus), "unseen zebras", "a  double space"]
    expected = [bpe.process_line(line) for line in lines]
    assert load_tokenizer(folders["subword-nmt"]).target.encode_lines(lines) == expected


def test_unknown_characters_become_unk(folders):
    model = load_tokenizer(folders["unigram"]).source
    assert model.encode_lines(["字 ba", "ba"])[0].split()[:2] == ["▁", "<unk>"]
    assert "⁇" in model.decode(model.encode_lines(["字 ba"])[0])


@pytest.mark.parametrize("kind", KINDS)
def test_text_is_not_encoded_to_special_symbols(folders, kind):
    """Check that `<s>` in text is read as letters; only subword-nmt may keep a whole word, as fairseq users expect."""
    model = load_tokenizer(folders[kind]).source
    tokens = model.encode_lines(["a<s> b</s> c<pad>"])[0].split()
    assert not {"<s>", "</s>", "<pad>"} & set(tokens)


@pytest.mark.parametrize("kind", ["words", "subword-nmt"])
def test_words_equal_to_special_symbols_are_unknown_words(tmp_path, kind):
    """Test whole words, for which subword-nmt has a merge operation; the model identifies each in its ids."""
    text = tmp_path / "text"
    text.write_text("<pad> <s> </s> <unk> ab\n" * 20, encoding="utf-8")
    settings = Tokenizer(type=kind, **({"model": "bpe", "vocab_size": 60} if kind == "subword-nmt" else {}))
    model = train_tokenizer(settings, (text, text), tmp_path / "tokenizer", Direction("en", "de")).source
    assert model.encode_lines(["<s> <pad> ab <pad> </s> <unk>"]) == ["<unk> <unk> ab <unk> <unk> <unk>"]
    tokens, _ = model.encode_ids(["<s> <pad> ab <pad>"])
    assert [model.literal_specials.get(token) for token in tokens.tolist()] == ["<s>", "<pad>", None, "<pad>"]


def test_memory_of_translated_words_is_bounded(tmp_path):
    text = tmp_path / "text"
    text.write_text("ab cd\n" * 20, encoding="utf-8")
    words, bpe = (
        train_tokenizer(settings, (text, text), tmp_path / settings.type, Direction("en", "de")).source
        for settings in (Tokenizer(type="words"), Tokenizer(type="subword-nmt", model="bpe", vocab_size=60))
    )
    known = len(words.symbols)
    assert words.encode_lines(["ab  new1 new2 "]) == ["ab new1 new2"]
    assert len(words.symbols) == known
    bpe.encode_lines(["ab " + "x" * 10_000])
    assert max(map(len, bpe._word_ids)) < 1_000


def test_special_symbols_of_a_given_sentencepiece_model_are_literal_text(tmp_path):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["ab cd <pad> ab </s>"] * 50),
        model_writer=model,
        vocab_size=14,
        hard_vocab_limit=False,
        user_defined_symbols=["<pad>"],
        pad_id=-1,
        minloglevel=2,
    )
    (tmp_path / "given.model").write_bytes(model.getvalue())
    settings = Tokenizer(source_path=str(tmp_path / "given.model"))
    tokenizer = train_tokenizer(settings, (tmp_path, tmp_path), tmp_path / "tokenizer", Direction("en", "de")).source
    tokens, _ = tokenizer.encode_ids(["ab<pad>cd"])
    assert "<pad>" not in tokenizer.encode_lines(["ab<pad>cd"])[0].split()
    assert [tokenizer.literal_specials[token] for token in tokens.tolist() if token in tokenizer.literal_specials] == [
        "<pad>"
    ]


def test_a_byte_order_mark_before_merge_operations_is_ignored(folders, tmp_path):
    """Check that the mark does not hide the version line; without it, the rules of the first version are used."""
    codes = folders["subword-nmt"] / "joint.codes"
    (tmp_path / "codes").write_bytes(b"\xef\xbb\xbf" + codes.read_bytes())
    settings = Tokenizer(type="subword-nmt", model="bpe", source_path=str(tmp_path / "codes"))
    model = train_tokenizer(settings, (tmp_path, tmp_path), tmp_path / "tokenizer", Direction("en", "de")).source
    lines = ["ba no ti ke win ßo banoti"]
    assert model.encode_lines(lines) == load_tokenizer(folders["subword-nmt"]).source.encode_lines(lines)
    (tmp_path / "codes").write_bytes(codes.read_text(encoding="utf-8").encode("utf-16"))
    with pytest.raises(UserError, match="codes: UTF-16 text, not plain text"):
        train_tokenizer(settings, (tmp_path, tmp_path), tmp_path / "tokenizer", Direction("en", "de"))


@pytest.mark.parametrize("kind", KINDS)
def test_any_whitespace_is_read_as_a_space(folders, kind):
    model = load_tokenizer(folders[kind]).source
    odd = "\u00a0ba no\tti\u2028ke\u3000win\x1f ßo \r"
    assert model.encode_lines([odd]) == model.encode_lines(["ba no ti ke win ßo"])


@pytest.mark.parametrize("kind", KINDS)
def test_case_and_unicode_form_are_kept(folders, kind):
    model = load_tokenizer(folders[kind]).source
    line = "BA Ba ba ära a\u0308ra"
    assert model.decode(model.encode_lines([line])[0]) == line


@pytest.mark.parametrize("kind", KINDS)
def test_learning_is_reproducible_and_independent_of_paths(folders, corpus, kind, tmp_path):
    moved = [shutil.copy(path, tmp_path / f"elsewhere.{path.name}") for path in corpus]
    train_tokenizer(KINDS[kind], tuple(moved), tmp_path / "again", DIRECTION)
    contents = {path.name: path.read_bytes() for path in folders[kind].iterdir()}
    assert contents == {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    assert all(str(tmp_path).encode() not in data and b"elsewhere" not in data for data in contents.values())


def test_separate_models(corpus, tmp_path):
    tokenizers = train_tokenizer(Tokenizer(vocab_size=60, joint=False), corpus, tmp_path / "tokenizer", DIRECTION)
    assert sorted(path.name for path in (tmp_path / "tokenizer").iterdir()) == [
        "de.model",
        "en.model",
        "tokenizer.json",
    ]
    assert tokenizers.source is not tokenizers.target
    assert len(tokenizers.source.symbols) == 60


def test_joint_model_is_one_object(folders):
    tokenizers = load_tokenizer(folders["bpe"])
    assert tokenizers.source is tokenizers.target


def test_given_models_are_copied(folders, corpus, tmp_path):
    source, target = tmp_path / "a.model", tmp_path / "b.model"
    shutil.copy(folders["unigram"] / "joint.model", source)
    shutil.copy(folders["bpe"] / "joint.model", target)
    given_models = Tokenizer(joint=False, source_path=str(source), target_path=str(target))
    tokenizers = train_tokenizer(given_models, corpus, tmp_path / "tokenizer", DIRECTION)
    source.unlink()
    target.unlink()
    copied = load_tokenizer(shutil.copytree(tmp_path / "tokenizer", tmp_path / "checkpoint"))
    for side, kind in (("source", "unigram"), ("target", "bpe")):
        expected = load_tokenizer(folders[kind]).source.encode_lines(some_lines(corpus))
        assert getattr(tokenizers, side).encode_lines(some_lines(corpus)) == expected
        assert getattr(copied, side).encode_lines(some_lines(corpus)) == expected


def test_a_given_file_that_is_not_a_model_is_refused(folders, corpus, tmp_path):
    before = load_tokenizer(shutil.copytree(folders["bpe"], tmp_path / "tokenizer")).source.symbols
    for settings_ in (
        Tokenizer(source_path=str(corpus[0])),
        Tokenizer(type="subword-nmt", model="bpe", source_path=str(corpus[0])),
    ):
        with pytest.raises(UserError, match="not a"):
            train_tokenizer(settings_, corpus, tmp_path / "tokenizer", DIRECTION)
    with pytest.raises(UserError, match="there is no such tokenizer model"):
        train_tokenizer(Tokenizer(source_path="nowhere.model"), corpus, tmp_path / "tokenizer", DIRECTION)
    assert load_tokenizer(tmp_path / "tokenizer").source.symbols == before


@pytest.mark.parametrize("model", ["unigram", "bpe"])
def test_a_vocabulary_that_is_too_large_is_refused_with_the_limit(corpus, tmp_path, model):
    with pytest.raises(UserError, match=r"vocab_size 99999: too large .* allows at most \d+ pieces") as raised:
        train_tokenizer(Tokenizer(model=model, vocab_size=99_999), corpus, tmp_path / "tokenizer", DIRECTION)
    limit = int(re.findall(r"at most (\d+) pieces", str(raised.value))[0])
    train_tokenizer(Tokenizer(model=model, vocab_size=limit), corpus, tmp_path / "tokenizer", DIRECTION)
    with pytest.raises(UserError, match="too large"):
        train_tokenizer(Tokenizer(model=model, vocab_size=limit + 1), corpus, tmp_path / "tokenizer", DIRECTION)


def test_a_vocabulary_that_is_too_small_is_refused(corpus, tmp_path):
    with pytest.raises(UserError, match=r"vocab_size 8: the characters .* alone are \d+ pieces") as raised:
        train_tokenizer(Tokenizer(vocab_size=8), corpus, tmp_path / "tokenizer", DIRECTION)
    least = int(re.findall(r"set at least (\d+)", str(raised.value))[0])
    characters = set("".join(path.read_text(encoding="utf-8") for path in corpus)) - {"\n"}
    assert least == len(characters) + len(SPECIALS)  # the space is the piece ▁
    train_tokenizer(Tokenizer(vocab_size=least), corpus, tmp_path / "tokenizer", DIRECTION)


# ------------------------------------------------------------------------------------------- settings of SentencePiece

RARE = "ba ☃ 𝔷 12 305 ＡＢ"  # characters that are not in the corpus


def learn(corpus, folder, **values):
    return train_tokenizer(Tokenizer(**{"vocab_size": 120, **values}), corpus, folder / "tokenizer", DIRECTION).source


def learn_with_library(corpus, **values):
    """Return the model that the library itself learns of the same text."""
    model = io.BytesIO()
    lines = [" ".join(line.split()) for path in corpus for line in path.read_text(encoding="utf-8").splitlines()]
    options = {"model_type": "unigram", "vocab_size": 120, "character_coverage": 1.0, "hard_vocab_limit": True}
    options |= {"byte_fallback": False, "normalization_rule_name": "identity", "max_sentence_length": 1 << 16}
    options |= {"bos_id": 0, "pad_id": 1, "eos_id": 2, "unk_id": 3, "num_threads": 4, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, **{**options, **values})
    return model.getvalue()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"model": "bpe"}, {"model_type": "bpe"}),
        ({"byte_fallback": True, "vocab_size": 380}, {"byte_fallback": True, "vocab_size": 380}),
        ({"split_digits": True}, {"split_digits": True}),
        ({"user_defined_symbols": ["<ph>", 'a,"b']}, {"user_defined_symbols": ["<ph>", 'a,"b']}),
        ({"vocab_size": 99999, "hard_vocab_limit": False}, {"vocab_size": 99999, "hard_vocab_limit": False}),
        ({"normalization_rule": "nmt_nfkc"}, {"normalization_rule_name": "nmt_nfkc"}),
        ({"normalization_rule": "nfkc_cf"}, {"normalization_rule_name": "nfkc_cf"}),
    ],
    ids=str,
)
def test_models_have_the_bytes_that_the_library_writes_with_the_same_options(corpus, tmp_path, ours, theirs):
    """Check every setting; the first two cases are the options of all models before these settings existed."""
    learn(corpus, tmp_path, **ours)
    assert (tmp_path / "tokenizer" / "joint.model").read_bytes() == learn_with_library(corpus, **theirs)


@pytest.mark.parametrize("model", ["unigram", "bpe"])
def test_byte_fallback_restores_characters_without_a_piece(corpus, tmp_path, model):
    plain = learn(corpus, tmp_path, model=model)
    assert "<unk>" in plain.encode_lines([RARE])[0].split()
    tokenizer = learn(corpus, tmp_path, model=model, byte_fallback=True, vocab_size=360)
    tokens = tokenizer.encode_lines([RARE])[0]
    assert "<unk>" not in tokens.split()
    assert tokenizer.decode(tokens) == RARE
    at = tokens.split().index("<0xE2>")  # ☃ is E2 98 83 in UTF-8
    assert tokens.split()[at : at + 3] == ["<0xE2>", "<0x98>", "<0x83>"]


def test_text_that_is_spelled_like_a_byte_is_cut_like_other_text(corpus, tmp_path):
    tokenizer = learn(corpus, tmp_path, byte_fallback=True, vocab_size=360)
    tokens = tokenizer.encode_lines(["<0x41>"])[0].split()
    assert "<0x41>" not in tokens
    assert tokenizer.decode(" ".join(tokens)) == "<0x41>"


def test_required_symbols_are_the_bytes_and_the_user_defined_symbols(corpus, tmp_path):
    settings = Tokenizer(vocab_size=380, byte_fallback=True, user_defined_symbols=["<ph>", "ba"])
    tokenizers = train_tokenizer(settings, corpus, tmp_path / "tokenizer", DIRECTION)
    expected = ["<ph>", "ba", *(f"<0x{number:02X}>" for number in range(256))]
    assert required_symbols(settings, tokenizers) == (expected, expected)
    assert required_symbols(Tokenizer(), tokenizers) == ([], [])  # as for a given model without the setting


def test_bytes_of_a_given_model_are_required_only_with_byte_fallback(corpus, folders, tmp_path):
    learn(corpus, tmp_path, vocab_size=380, byte_fallback=True)
    given = Tokenizer(source_path=str(tmp_path / "tokenizer" / "joint.model"), byte_fallback=True)
    tokenizers = train_tokenizer(given, corpus, tmp_path / "again", DIRECTION)
    assert len(required_symbols(given, tokenizers)[0]) == 256
    without = Tokenizer(source_path=str(folders["unigram"] / "joint.model"), byte_fallback=True)
    with pytest.raises(UserError, match=r"tokenizer\.byte_fallback: .*joint\.model has no pieces for bytes"):
        train_tokenizer(without, corpus, tmp_path / "again", DIRECTION)


def test_user_defined_symbols_are_one_piece_anywhere(corpus, tmp_path):
    tokenizer = learn(corpus, tmp_path, user_defined_symbols=["<ph>", "ano"])
    assert [piece for piece in tokenizer.encode_lines(["ba<ph>no banoti"])[0].split() if "ph" in piece] == ["<ph>"]
    assert "ano" in tokenizer.encode_lines(["banoti"])[0].split()


def with_numbers(corpus, folder):
    """Return a corpus in which numbers are frequent enough for pieces of several digits."""
    paths = []
    for path in corpus:
        lines = path.read_text(encoding="utf-8").splitlines()
        paths.append(folder / path.name)
        paths[-1].write_text("".join(f"{line} 2024 1999\n" for line in lines), encoding="utf-8")
    return tuple(paths)


@pytest.mark.parametrize("model", ["unigram", "bpe"])
def test_split_digits_leaves_no_piece_of_two_digits(corpus, tmp_path, model):
    numbers = with_numbers(corpus, tmp_path)
    several = [piece for piece in learn(numbers, tmp_path, model=model).symbols if re.search(r"\d\d", piece)]
    assert several
    split = learn(numbers, tmp_path, model=model, split_digits=True)
    assert not [piece for piece in split.symbols if re.search(r"\d\d", piece)]
    assert split.encode_lines(["2024"])[0].split() == ["▁", "2", "0", "2", "4"]


def test_a_soft_limit_makes_as_many_pieces_as_the_text_allows(corpus, tmp_path):
    tokenizer = learn(corpus, tmp_path, vocab_size=99_999, hard_vocab_limit=False)
    assert 120 < len(tokenizer.symbols) < 2_000


@pytest.mark.parametrize(("rule", "expected"), [("identity", "ＡＢ ﬁ"), ("nmt_nfkc", "AB fi"), ("nfkc_cf", "ab fi")])
def test_the_normalisation_rule_is_part_of_the_model(corpus, tmp_path, rule, expected):
    tokenizer = learn(corpus, tmp_path, normalization_rule=rule, byte_fallback=True, vocab_size=360)
    moved = load_tokenizer(shutil.copytree(tmp_path / "tokenizer", tmp_path / "checkpoint")).target
    for model in (tokenizer, moved):
        assert model.decode(model.encode_lines(["ＡＢ ﬁ"])[0]) == expected


def test_a_seed_draws_other_lines_and_repeats(corpus, tmp_path):
    contents = []
    for number, seed in enumerate((None, 1, 1, 2)):
        learn(corpus, tmp_path / str(number), vocab_size=60, train_sentences=60, seed=seed)
        contents.append((tmp_path / str(number) / "tokenizer" / "joint.model").read_bytes())
    assert contents[1] == contents[2]
    assert len(set(contents)) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_empty_text_is_refused(tmp_path, kind):
    for lang in DIRECTION.sides:
        (tmp_path / f"train.{lang}").write_text("\n \n", encoding="utf-8")
    with pytest.raises(UserError, match="no text to learn"):
        train_tokenizer(KINDS[kind], (tmp_path / "train.en", tmp_path / "train.de"), tmp_path / "tokenizer", DIRECTION)


def test_text_without_pairs_to_merge_is_refused(tmp_path):
    (tmp_path / "letters").write_text("a b c\n", encoding="utf-8")
    with pytest.raises(UserError, match="two letters"):
        train_tokenizer(KINDS["subword-nmt"], (tmp_path / "letters",) * 2, tmp_path / "tokenizer", DIRECTION)


@pytest.mark.parametrize("kind", KINDS)
def test_text_that_is_not_utf8_is_refused(corpus, tmp_path, kind):
    bad = tmp_path / "train.de"
    bad.write_bytes(b"ba no\nti \xff\n")
    with pytest.raises(UserError, match=r"train\.de:2: not UTF-8"):
        train_tokenizer(KINDS[kind], (corpus[0], bad), tmp_path / "tokenizer", DIRECTION)
    assert [path.name for path in tmp_path.iterdir()] == ["train.de"]


def edit(folder, change):
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "joint.model").unlink(), r"joint\.model: there is no such file"),
        (lambda folder: (folder / "joint.model").write_bytes(b"x"), r"joint\.model: not the file"),
        (lambda folder: (folder / "tokenizer.json").unlink(), r"tokenizer\.json: there is no such file"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), r"tokenizer\.json: not valid JSON"),
        (lambda folder: (folder / "tokenizer.json").write_text('{"type": "moses"}'), "the key 'source' is missing"),
        (
            lambda folder: edit(folder, lambda values: values.update(type="moses")),
            "'type' is 'moses', expected one of sentencepiece, subword-nmt, huggingface, words",
        ),
        (lambda folder: edit(folder, lambda values: values["target"].pop("sha256")), "the key 'sha256' is missing"),
    ],
)
def test_a_damaged_folder_is_refused(folders, tmp_path, damage, message):
    folder = shutil.copytree(folders["unigram"], tmp_path / "tokenizer")
    damage(folder)
    with pytest.raises(UserError, match=message):
        load_tokenizer(folder)


def test_the_description_of_a_tokenizer_is_saved(folders):
    description = json.loads((folders["subword-nmt"] / "tokenizer.json").read_text())
    assert description["type"] == "subword-nmt"
    assert description["langs"] == ["en", "de"]
    assert description["source"] == description["target"]


def test_lines_end_only_at_newlines(tmp_path):
    path = tmp_path / "text"
    path.write_bytes("a\rb\x85c\u2028d\n\nlast".encode())
    assert list(read_chunks(path, 2)) == [["a\rb\x85c\u2028d", ""], ["last"]]
    assert count_lines(path) == 3
    path.write_bytes(b"")
    assert list(read_chunks(path)) == []
    assert count_lines(path) == 0


@settings(max_examples=40, deadline=None)
@given(lengths=st.tuples(st.integers(0, 30), st.integers(0, 30)), limit=st.integers(0, 40))
def test_sampling_is_even(tmp_path_factory, lengths, limit):
    folder = tmp_path_factory.mktemp("sample")
    paths = [folder / "a", folder / "b"]
    total = sum(lengths)
    first = 0
    for path, length in zip(paths, lengths, strict=True):
        path.write_text("".join(f"{number}\n" for number in range(first, first + length)))
        first += length
    drawn = list(map(int, sample_lines(paths, limit)))
    assert len(drawn) == (min(limit, total) if limit else total)
    gaps = {after - before for before, after in itertools.pairwise(drawn)}
    assert max(gaps, default=0) - min(gaps, default=0) <= 1


def test_lines_are_drawn_at_random_with_a_seed(tmp_path):
    """Check that each set of 2 of 4 lines is drawn equally often: 10,000 draws, 5 standard deviations."""
    path = tmp_path / "text"
    path.write_text("a\nb\nc\nd\n")
    drawn = Counter("".join(sample_lines([path], 2, seed)) for seed in range(10_000))
    assert set(drawn) == {"ab", "ac", "ad", "bc", "bd", "cd"}
    assert all(abs(count - 10_000 / 6) < 5 * (10_000 * 5 / 36) ** 0.5 for count in drawn.values())
    assert list(sample_lines([path], 4, 1)) == list(sample_lines([path], 0, 1)) == ["a", "b", "c", "d"]
