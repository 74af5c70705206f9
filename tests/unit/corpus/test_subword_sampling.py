"""Subword regularisation: distributions against enumeration and the libraries, round trips, and reproducible draws."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import sentencepiece
import subword_nmt.apply_bpe

from kdmt.config import SubwordRegularization, Text
from kdmt.config import Tokenizer as TokenizerSettings
from kdmt.corpus import subword_sampling
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.huggingface_tokenizer import HuggingFaceModel
from kdmt.corpus.subword_model import SubwordModel
from kdmt.corpus.subword_sampling import MAX_GROWTH, MergeDropout, SubwordSampling, Word
from kdmt.corpus.text import TextProcessor
from kdmt.corpus.tokenizer import Tokenizers, train_tokenizer
from kdmt.corpus.vocabulary import Dictionary
from kdmt.errors import UserError
from kdmt.languages import Direction
from kdmt.types import EOS, UNK

SYLLABLES = ["ba", "an", "na", "lo", "ol", "la", "al", "ban", "lan", "on"]
DRAWS = 6000
KINDS: list[dict[str, Any]] = [
    {"type": "sentencepiece", "model": "unigram", "vocab_size": 200},
    {"type": "sentencepiece", "model": "bpe", "vocab_size": 48},
    {"type": "subword-nmt", "model": "bpe", "vocab_size": 40},
]
UNIGRAM, SP_BPE, NMT_BPE = KINDS
IDS = ("unigram", "sentencepiece-bpe", "subword-nmt")
Distribution = Mapping[tuple[str, ...], float]


def corpus() -> list[str]:
    generator = random.Random(1)
    words = ["".join(generator.choices(SYLLABLES, k=generator.randint(1, 3))) for _ in range(600)]
    weights = [rank**-0.7 for rank in range(1, 601)]
    return [" ".join(generator.choices(words, weights, k=generator.randint(1, 9))) for _ in range(600)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Mapping[str, Any]], tuple[SubwordModel, Path]]:
    folder = tmp_path_factory.mktemp("models")
    (folder / "text").write_text("\n".join(corpus()) + "\n")

    @cache
    def train(kind: int) -> tuple[SubwordModel, Path]:
        settings = TokenizerSettings(**KINDS[kind])
        out = folder / str(kind)
        model = train_tokenizer(settings, (folder / "text", folder / "text"), out, Direction("xx", "yy")).source
        return model, next(out.glob("joint.*"))

    return lambda kind: train(KINDS.index(dict(kind)))


def all_symbols(model: SubwordModel) -> Dictionary:
    """Return a dictionary of all tokens that the model can make of the corpus's letters."""
    dictionary = Dictionary()
    for symbol in model.symbols:
        dictionary.add(symbol)
    pieces = {word[i:j] for line in corpus() for word in line.split() for i in range(9) for j in range(i + 1, 10)}
    for piece in sorted(pieces):
        for token in (piece, f"{piece}@@"):
            dictionary.add(token)
    return dictionary


def used_symbols(model: SubwordModel) -> Dictionary:
    counts = Counter(token for line in model.encode_lines(corpus()) for token in line.split())
    return Dictionary.from_counts(counts)


def make_codec(model: SubwordModel, dictionary: Dictionary) -> TextCodec:
    text = TextProcessor(Text(), "xx", "yy", None)
    return TextCodec(text, Tokenizers(model, model), dictionary, dictionary)


def make_sampling(model: SubwordModel, dictionary: Dictionary, **settings: Any) -> SubwordSampling:
    limits = settings.pop("max_tokens", (0, 0))
    return SubwordSampling.of(
        make_codec(model, dictionary), SubwordRegularization(**settings), seed=7, max_tokens=limits
    )


def settings_of(kind: Mapping[str, Any]) -> dict[str, Any]:
    return {"alpha": 0.2} if kind["model"] == "unigram" else {"dropout": 0.3}


def draw_many(model: SubwordModel, text: str, num_draws: int = DRAWS, **settings: Any) -> Counter[tuple[str, ...]]:
    """Return how often each segmentation of a text is drawn."""
    dictionary = all_symbols(model)
    sampler = make_sampling(model, dictionary, **settings).source
    assert sampler is not None
    words, _ = sampler.limits.words(dictionary.encode_line(model.encode_lines([text])[0])[:-1])
    generator = random.Random(3)
    found: Counter[tuple[str, ...]] = Counter()
    for _ in range(num_draws):
        drawn: list[Word] = sampler.words.sample(words, generator.random)
        found[tuple(dictionary.symbols[token] for word in drawn for token in word)] += 1
    return found


def assert_drawn_from(found: Mapping[tuple[str, ...], int], expected: Distribution) -> None:
    """Check that each frequency is within five standard deviations of a binomial distribution."""
    assert math.isclose(sum(expected.values()), 1.0, abs_tol=1e-9)
    assert found.keys() <= expected.keys()
    total = sum(found.values())
    for outcome, probability in expected.items():
        bound = 5 * math.sqrt(total * probability * (1 - probability)) + 1
        assert abs(found.get(outcome, 0) - total * probability) <= bound, (outcome, probability)


# ---------------------------------------------------------------------------------------------------- unigram models


def segmentations(text: str, scores: Mapping[str, float]) -> Iterator[tuple[tuple[str, ...], float]]:
    """Yield all segmentations of a text into pieces, with their log-probability, by trying all cuts."""
    for cuts in itertools.product((False, True), repeat=len(text) - 1):
        limits = [0, *(place for place, cut in enumerate(cuts, start=1) if cut), len(text)]
        pieces = tuple(text[start:end] for start, end in itertools.pairwise(limits))
        if all(piece in scores for piece in pieces):
            yield pieces, math.fsum(scores[piece] for piece in pieces)


def processor_of(path: Path) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


def scores_of(path: Path) -> dict[str, float]:
    processor = processor_of(path)
    return {processor.id_to_piece(i): processor.get_score(i) for i in range(4, processor.get_piece_size())}


def tempered(scored: Sequence[tuple[tuple[str, ...], float]], alpha: float) -> Distribution:
    weights = {pieces: math.exp(alpha * score) for pieces, score in scored}
    return {pieces: weight / math.fsum(weights.values()) for pieces, weight in weights.items()}


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("text", ["banana", "lo an"])
def test_unigram_samples_have_the_probabilities_of_all_segmentations(models: Any, alpha: float, text: str) -> None:
    model, path = models(UNIGRAM)
    expected = tempered(list(segmentations("▁" + text.replace(" ", "▁"), scores_of(path))), alpha)
    assert len(expected) > 5
    assert_drawn_from(draw_many(model, text, alpha=alpha), expected)


def test_sentencepiece_samples_from_the_same_distribution(models: Any) -> None:
    _, path = models(UNIGRAM)
    expected = tempered(list(segmentations("▁banana", scores_of(path))), 0.3)
    drawn = [tuple(processor_of(path).sample_encode_as_pieces("banana", -1, 0.3)) for _ in range(5)]
    processor = processor_of(path)
    drawn += [tuple(processor.sample_encode_as_pieces("banana", -1, 0.3)) for _ in range(DRAWS)]
    assert_drawn_from(Counter(drawn), expected)


@pytest.mark.parametrize("nbest_size", [2, 5, 64])
def test_nbest_samples_are_the_best_segmentations_of_the_sentence(models: Any, nbest_size: int) -> None:
    model, path = models(UNIGRAM)
    ranked = sorted(segmentations("▁bananalo▁lola", scores_of(path)), key=lambda found: -found[1])
    assert len(ranked) > 64
    assert ranked[nbest_size - 1][1] > ranked[nbest_size][1] + 1e-6  # no tie at the limit
    expected = tempered(ranked[:nbest_size], 0.4)
    assert_drawn_from(draw_many(model, "bananalo lola", alpha=0.4, nbest_size=nbest_size), expected)
    listed = processor_of(path).nbest_encode_as_pieces("bananalo lola", nbest_size)
    assert set(map(tuple, listed)) == expected.keys()


# -------------------------------------------------------------------------------------------------------- BPE-dropout


def merged_by_subword_nmt(
    symbols: tuple[str, ...], ranks: Mapping[tuple[str, str], int], p: float
) -> dict[tuple[str, ...], float]:
    """Return the distribution of Provilkov et al. 2020, by trying every set of skipped pairs in every step."""
    pairs = [(ranks[pair], place) for place, pair in enumerate(itertools.pairwise(symbols)) if pair in ranks]
    if not pairs:
        return {symbols: 1.0}
    found: dict[tuple[str, ...], float] = defaultdict(float)
    for kept in itertools.product((False, True), repeat=len(pairs)):
        probability = math.prod(1 - p if keep else p for keep in kept)
        left = sorted(pair for pair, keep in zip(pairs, kept, strict=True) if keep)
        if not left:
            found[symbols] += probability
            continue
        merged, place = [], 0
        places = [place for rank, place in left if rank == left[0][0]]
        while place < len(symbols):
            width = 2 if place in places else 1
            merged.append("".join(symbols[place : place + width]))
            place += width
        for outcome, rest in merged_by_subword_nmt(tuple(merged), ranks, p).items():
            found[outcome] += probability * rest
    return found


def as_tokens(symbols: Sequence[str]) -> tuple[str, ...]:
    return (*(f"{symbol}@@" for symbol in symbols[:-1]), symbols[-1].removesuffix("</w>"))


@pytest.mark.parametrize("word", ["banana", "lolola", "anana"])
def test_bpe_dropout_is_that_of_subword_nmt(models: Any, word: str) -> None:
    model, path = models(NMT_BPE)
    with path.open() as codes:
        bpe = subword_nmt.apply_bpe.BPE(codes)
    outcomes = merged_by_subword_nmt((*word[:-1], f"{word[-1]}</w>"), bpe.bpe_codes, 0.2)
    expected = {as_tokens(symbols): probability for symbols, probability in outcomes.items()}
    assert len(expected) > 3
    assert_drawn_from(draw_many(model, word, dropout=0.2), expected)
    random.seed(5)
    assert_drawn_from(Counter(tuple(bpe.segment_tokens([word], dropout=0.2)) for _ in range(DRAWS)), expected)


def test_every_kept_occurrence_of_a_pair_is_merged_in_one_step(tmp_path: Path) -> None:
    (tmp_path / "codes").write_text("#version: 0.2\na a\naa a\n")
    settings = TokenizerSettings(type="subword-nmt", model="bpe", vocab_size=8, source_path=str(tmp_path / "codes"))
    model = train_tokenizer(settings, (tmp_path, tmp_path), tmp_path / "out", Direction("xx", "yy")).source
    dictionary = Dictionary()
    for token in ("a@@", "aa@@", "aaa@@", "b"):
        dictionary.add(token)
    sampler = make_sampling(model, dictionary, dropout=0.3).source
    assert sampler is not None
    word = tuple(dictionary.encode_line(model.encode_lines(["aaaaab"])[0])[:-1].tolist())
    generator = random.Random(3)
    found = Counter(
        tuple(dictionary.symbols[token] for token in sampler.words.sample([word], generator.random)[0])
        for _ in range(DRAWS)
    )
    ranks = {("a", "a"): 0, ("aa", "a"): 1}
    outcomes = merged_by_subword_nmt((*"aaaaa", "b</w>"), ranks, 0.3)
    assert_drawn_from(found, {as_tokens(symbols): probability for symbols, probability in outcomes.items()})


def merged_by_sentencepiece(text: str, scores: Mapping[str, float], p: float) -> dict[tuple[str, ...], float]:
    """Return the distribution of SentencePiece: pairs wait in a queue; one that is skipped has left the queue."""

    def add(queue: frozenset[tuple[int, int]], symbols: Sequence[tuple[int, int]]) -> frozenset[tuple[int, int]]:
        """Add the neighbours of the symbols, given as spans of text."""
        return queue | {(left[0], right[1]) for left, right in symbols if text[left[0] : right[1]] in scores}

    def go(
        spans: tuple[tuple[int, int], ...], queue: frozenset[tuple[int, int]]
    ) -> dict[tuple[tuple[int, int], ...], float]:
        pairs = {(left[0], right[1]): (left, right) for left, right in itertools.pairwise(spans)}
        waiting = [span for span in queue if span in pairs]
        if not waiting:
            return {spans: 1.0}
        best = min(waiting, key=lambda span: (-scores[text[slice(*span)]], span[0]))
        found: dict[tuple[tuple[int, int], ...], float] = defaultdict(float)
        for outcome, probability in go(spans, queue - {best}).items():
            found[outcome] += p * probability
        place = spans.index(pairs[best][0])
        merged = (*spans[:place], best, *spans[place + 2 :])
        new = [pair for pair in itertools.pairwise(merged) if best in pair]
        for outcome, probability in go(merged, add(queue - {best}, new)).items():
            found[outcome] += (1 - p) * probability
        return found

    letters = tuple((place, place + 1) for place in range(len(text)))
    start = add(frozenset(), list(itertools.pairwise(letters)))
    return {tuple(text[slice(*span)] for span in spans): each for spans, each in go(letters, start).items()}


@pytest.mark.parametrize("word", ["banana", "lolo"])
def test_bpe_dropout_is_that_of_sentencepiece(models: Any, word: str) -> None:
    model, path = models(SP_BPE)
    expected = merged_by_sentencepiece(f"▁{word}", scores_of(path), 0.3)
    assert len(expected) > 5
    assert_drawn_from(draw_many(model, word, dropout=0.3), expected)
    processor = processor_of(path)
    drawn = Counter(tuple(processor.sample_encode_as_pieces(word, -1, 0.3)) for _ in range(DRAWS))
    assert_drawn_from(drawn, expected)


# ----------------------------------------------------------------------------------------------------------- sentences


def encoded(codec: TextCodec, lines: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return tokens, sizes and indices of lines."""
    sentences = codec.encode_source(lines)
    return np.concatenate(sentences), np.array(list(map(len, sentences))), np.arange(len(sentences))


def text_of(codec: TextCodec, tokens: np.ndarray, sizes: np.ndarray) -> list[str]:
    return codec.decode_targets(tokens, sizes)


LINES = [*corpus()[:80], "bazz an", "zz", "", "na lo z na", "an, ana!"]  # z and the punctuation are unknown


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
@pytest.mark.parametrize("make_dictionary", [all_symbols, used_symbols])
def test_drawn_tokens_have_the_same_text(
    models: Any, kind: Mapping[str, Any], make_dictionary: Callable[[SubwordModel], Dictionary]
) -> None:
    model, _ = models(kind)
    dictionary = make_dictionary(model)
    codec, sampling = make_codec(model, dictionary), make_sampling(model, dictionary, **settings_of(kind))
    tokens, sizes, indices = encoded(codec, LINES)
    for epoch in (1, 2):
        drawn, drawn_sizes = sampling.sample(tokens, sizes, indices, 0, epoch=epoch)
        assert text_of(codec, drawn, drawn_sizes) == text_of(codec, tokens, sizes)
        assert np.count_nonzero(drawn == UNK) == np.count_nonzero(tokens == UNK) > 0
        assert (drawn[np.cumsum(drawn_sizes) - 1] == EOS).all()
        assert (drawn_sizes <= MAX_GROWTH * sizes).all()
        assert len(drawn) > len(tokens)


@pytest.mark.parametrize("kind", [*KINDS, {**UNIGRAM, "nbest_size": 8}], ids=(*IDS, "nbest"))
def test_draws_depend_on_seed_epoch_index_and_side_alone(models: Any, kind: dict[str, Any]) -> None:
    kind = dict(kind)
    nbest = {"nbest_size": kind.pop("nbest_size")} if "nbest_size" in kind else {}
    model, _ = models(kind)
    dictionary = used_symbols(model)
    settings = settings_of(kind) | nbest
    tokens, sizes, indices = encoded(make_codec(model, dictionary), LINES)
    sentences = np.split(tokens, np.cumsum(sizes)[:-1])

    def draw(order: Sequence[int], sampling: SubwordSampling, *, epoch: int = 1, side: int = 0) -> dict[int, list[int]]:
        own = np.concatenate([sentences[i] for i in order])
        drawn, new = sampling.sample(own, sizes[order], indices[order], side, epoch=epoch)
        return {i: each.tolist() for i, each in zip(order, np.split(drawn, np.cumsum(new)[:-1]), strict=True)}

    whole = draw(range(len(LINES)), make_sampling(model, dictionary, **settings))
    used = make_sampling(model, dictionary, **settings)
    draw([5, 3], used, epoch=4)
    parts: dict[int, list[int]] = {}
    for start in range(len(LINES) - 1, -1, -7):
        parts |= draw(list(range(start, max(start - 7, -1), -1)), used)
    assert parts == whole
    assert draw(range(len(LINES)), used, epoch=2) != whole
    assert draw(range(len(LINES)), used, side=1) != whole
    assert used.source is not None
    other_seed = replace(used, source=replace(used.source, seed=8))
    assert draw(range(len(LINES)), other_seed) != whole


def test_sentences_with_the_same_text_are_cut_in_different_ways(models: Any) -> None:
    model, _ = models(UNIGRAM)
    dictionary = used_symbols(model)
    tokens, sizes, indices = encoded(make_codec(model, dictionary), ["banana lola"] * 50)
    drawn, new = make_sampling(model, dictionary, alpha=0.1).sample(tokens, sizes, indices, 0, epoch=1)
    assert len({tuple(each) for each in np.split(drawn, np.cumsum(new)[:-1])}) > 2


@pytest.mark.parametrize("side", ["source", "target"])
def test_the_other_side_is_kept(models: Any, side: str) -> None:
    model, _ = models(UNIGRAM)
    dictionary = used_symbols(model)
    sampling = make_sampling(model, dictionary, alpha=0.1, side=side)
    tokens, sizes, indices = encoded(make_codec(model, dictionary), LINES)
    changed = [not np.array_equal(sampling.sample(tokens, sizes, indices, i, epoch=1)[0], tokens) for i in range(2)]
    assert changed == [side == "source", side == "target"]


def test_no_sentence_is_longer_than_the_limit_of_the_settings(models: Any) -> None:
    model, _ = models(UNIGRAM)
    dictionary = used_symbols(model)
    tokens, sizes, indices = encoded(make_codec(model, dictionary), LINES)
    longest = int(sizes.max())
    sampling = make_sampling(model, dictionary, alpha=0.0, max_tokens=(longest, 0))
    assert sampling.sample(tokens, sizes, indices, 0, epoch=1)[1].max() <= longest
    assert sampling.sample(tokens, sizes, indices, 1, epoch=1)[1].max() > longest


def test_words_that_keep_their_tokens_for_the_limit_are_chosen_at_random(models: Any) -> None:
    model, _ = models(UNIGRAM)
    dictionary = used_symbols(model)
    count, text = 400, " ".join(["banana"] * 6)
    tokens, sizes, indices = encoded(make_codec(model, dictionary), [text] * count)
    limit = int(sizes[0]) + 2
    sampler = make_sampling(model, dictionary, alpha=0.0, max_tokens=(limit, 0)).source
    assert sampler is not None
    drawn, new = sampler.sample(tokens, sizes, indices, epoch=1)
    assert np.mean(new == limit) > 0.5
    words = [sampler.limits.words(each)[0] for each in np.split(drawn, np.cumsum(new)[:-1])]
    kept = sampler.limits.words(tokens[: sizes[0]])[0]
    by_place = [
        sum(len(word) > len(kept[0]) for word in place)
        for place in zip(*(without_end(each) for each in words), strict=True)
    ]
    assert max(by_place) - min(by_place) < 5 * math.sqrt(count / 2)
    assert min(by_place) > 0


def without_end(words: Sequence[Word]) -> Sequence[Word]:
    """Return the words of a sentence without `</s>`."""
    return [word for word in words if word != (EOS,)]


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_tokens_that_are_not_of_the_model_are_kept(models: Any, kind: Mapping[str, Any]) -> None:
    """Check that a corpus tag, which the tokenizer would cut, stays one token."""
    model, _ = models(kind)
    dictionary = used_symbols(model)
    dictionary.add("<banana>")
    tag = dictionary.index("<banana>")
    tokens, sizes, indices = encoded(make_codec(model, dictionary), ["banana lola"] * 40)
    tagged = np.concatenate([[tag, *each] for each in np.split(tokens, np.cumsum(sizes)[:-1])])
    sampling = make_sampling(model, dictionary, **settings_of(kind))
    drawn, new = sampling.sample(tagged, sizes + 1, indices, 0, epoch=1)
    assert np.count_nonzero(drawn == tag) == 40
    assert (drawn[np.cumsum(new) - new] == tag).all()


@pytest.mark.parametrize("where", ["▁ba", "ba▁"])
def test_pieces_with_spaces_elsewhere_are_drawn_by_sentence(tmp_path: Path, where: str) -> None:
    options = {"treat_whitespace_as_suffix": True} if where == "ba▁" else {"split_by_whitespace": False}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()), model_prefix=str(tmp_path / "m"), vocab_size=150, minloglevel=2, **options
    )
    settings = TokenizerSettings(source_path=str(tmp_path / "m.model"))
    model = train_tokenizer(settings, (tmp_path, tmp_path), tmp_path / "out", Direction("xx", "yy")).source
    dictionary = used_symbols(model)
    codec, sampling = make_codec(model, dictionary), make_sampling(model, dictionary, alpha=0.2)
    tokens, sizes, indices = encoded(codec, LINES[:20])
    drawn, new = sampling.sample(tokens, sizes, indices, 0, epoch=1)
    assert text_of(codec, drawn, new) == text_of(codec, tokens, sizes)
    assert len(drawn) > len(tokens)


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_bytes_and_user_defined_symbols_are_kept(tmp_path: Path, kind: Literal["unigram", "bpe"]) -> None:
    """Check that the text stays, that words around such tokens are cut again, and that no byte is drawn for a piece."""
    (tmp_path / "text").write_text("\n".join(corpus()) + "\n")
    settings = TokenizerSettings(
        model=kind, vocab_size=330, byte_fallback=True, user_defined_symbols=["<ph>"], hard_vocab_limit=False
    )
    tokenizers = train_tokenizer(settings, (tmp_path / "text",) * 2, tmp_path / "tokenizer", Direction("xx", "yy"))
    model = tokenizers.source
    line = "banana☃lola <ph> nalola 𝔷"
    dictionary = all_symbols(model)
    tokens = dictionary.encode_line(model.encode_lines([line])[0])
    sampling = make_sampling(model, dictionary, **settings_of({"model": kind}))
    drawn = set()
    for epoch in range(30):
        new, _ = sampling.sample(tokens, np.array([len(tokens)]), np.array([0]), 0, epoch=epoch)
        symbols = dictionary.string(new)
        drawn.add(symbols)
        assert model.decode(symbols) == line
        assert [symbol for symbol in symbols.split() if symbol.startswith("<")] == [
            *("<0xE2>", "<0x98>", "<0x83>", "<ph>", "<0xF0>", "<0x9D>", "<0x94>", "<0xB7>")
        ]
    assert len(drawn) > 5


def test_settings_of_another_model_are_refused(models: Any) -> None:
    for kind, wrong, message in (
        (UNIGRAM, {"dropout": 0.1}, "the tokenizer is a unigram model, set 'alpha'"),
        (SP_BPE, {"alpha": 0.1}, "the tokenizer is a BPE model, set 'dropout'"),
        (NMT_BPE, {"alpha": 0.1}, "the tokenizer is a BPE model, set 'dropout'"),
    ):
        model, _ = models(kind)
        with pytest.raises(UserError, match=message):
            make_sampling(model, used_symbols(model), **wrong)


def test_a_model_of_characters_is_refused(tmp_path: Path) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()), model_prefix=str(tmp_path / "m"), model_type="char", minloglevel=2
    )
    settings = TokenizerSettings(source_path=str(tmp_path / "m.model"))
    model = train_tokenizer(settings, (tmp_path, tmp_path), tmp_path / "out", Direction("xx", "yy")).source
    with pytest.raises(UserError, match="'char' cuts text in one way only"):
        make_sampling(model, used_symbols(model), alpha=0.1)


def test_tokenised_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("\n")
    settings = TokenizerSettings(type="words")
    model = train_tokenizer(settings, (tmp_path, tmp_path), tmp_path / "out", Direction("xx", "yy")).source
    with pytest.raises(UserError, match="type: words' cannot be cut in another way"):
        make_sampling(model, Dictionary(), alpha=0.1)


def test_a_tokenizer_of_hugging_face_is_refused(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="needs the extra 'huggingface'")
    tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a")).save(str(tmp_path / "t.json"))
    with pytest.raises(UserError, match="type: huggingface' cuts text in one way only"):
        make_sampling(HuggingFaceModel(tmp_path / "t.json"), Dictionary(), alpha=0.1)


@pytest.mark.parametrize("kind", [SP_BPE, NMT_BPE], ids=IDS[1:])
def test_states_of_merges_stay_within_their_limit_without_new_words(
    models: Any, monkeypatch: pytest.MonkeyPatch, kind: Mapping[str, Any]
) -> None:
    model, _ = models(kind)
    dictionary = all_symbols(model)
    text = max((word for line in corpus() for word in line.split()), key=len)

    def draw() -> tuple[list[list[Word]], int]:
        """Return what is drawn for one word, and the largest number of states that are kept."""
        sampler = make_sampling(model, dictionary, dropout=0.5).source
        assert sampler is not None
        words, _ = sampler.limits.words(dictionary.encode_line(model.encode_lines([text])[0])[:-1])
        assert isinstance(sampler.words, MergeDropout)
        generator, drawn, most = random.Random(3), [], 0
        for _ in range(500):
            drawn.append(sampler.words.sample(words, generator.random))
            most = max(most, len(sampler.words._nodes) + len(sampler.words._starts))
        return drawn, most

    of_one = 2 * len(text) + 2  # new states of a word: its beginning, and one after each merge that is drawn or made
    expected, most = draw()
    assert most > 4 + of_one
    monkeypatch.setattr(subword_sampling, "MAX_CACHED_NODES", 4)
    found, most = draw()
    assert found == expected
    assert most <= 4 + of_one
