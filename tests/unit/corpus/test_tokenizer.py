"""Tests of SentencePiece and subword-nmt: equal to the tools, round trips, reproducible learning, damaged folders."""

import io
import itertools
import json
import random
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdmt.config import Tokenizer
from kdmt.corpus.tokenizer import count_lines, load_tokenizer, read_chunks, sample_lines, train_tokenizer
from kdmt.errors import UserError
from kdmt.languages import Direction

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

    @settings(max_examples=50, deadline=None)
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

    @settings(max_examples=50, deadline=None)
    @given(lines=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), max_size=3))
    def check(lines):
        tokens, sizes = model.encode_ids(lines)
        tokenised = model.encode_lines(lines)
        assert [len(line.split()) for line in tokenised] == sizes.tolist()
        assert [token for line in tokenised for token in line.split()] == [model.symbols[i] for i in tokens]

    check()


def test_pieces_equal_those_of_sentencepiece(folders, corpus):
    import sentencepiece

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


def test_special_symbols_of_a_given_sentencepiece_model_are_literal_text(tmp_path):
    import sentencepiece

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
    with pytest.raises(UserError, match=r"vocab_size 99999: .*Please set it to a value <= \d+") as raised:
        train_tokenizer(Tokenizer(model=model, vocab_size=99_999), corpus, tmp_path / "tokenizer", DIRECTION)
    limit = int(str(raised.value).rpartition("<= ")[2].rstrip("."))
    if model == "bpe":  # the unigram model's limit depends on its own pruning
        train_tokenizer(Tokenizer(model=model, vocab_size=limit), corpus, tmp_path / "tokenizer", DIRECTION)


def test_a_vocabulary_that_is_too_small_is_refused(corpus, tmp_path):
    with pytest.raises(UserError, match="smaller than required_chars"):
        train_tokenizer(Tokenizer(vocab_size=8), corpus, tmp_path / "tokenizer", DIRECTION)


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
            "'type' is 'moses', expected one of sentencepiece, subword-nmt, words",
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
