"""Augmentation: draws, changes of pairs as text, and tokens of changed pairs."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdmt.choices import ModifierName
from kdmt.config import Augment, DistillAugment, Text
from kdmt.config import Tokenizer as TokenizerSettings
from kdmt.config.augment import DEFAULT_SHARES
from kdmt.corpus.augmentation import (
    MODIFIERS,
    Augmentation,
    PairsOfDirections,
    TextAugmenter,
    Texts,
    known_characters,
    uniform_draws,
    unwritable_modifiers,
)
from kdmt.corpus.batching import ParallelData, join_side
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.indexed import IndexedDataset, IndexedWriter
from kdmt.corpus.subword_model import SubwordModel
from kdmt.corpus.text import TextProcessor
from kdmt.corpus.tokenizer import SentencePieceModel, SubwordNmtModel, train_tokenizer
from kdmt.corpus.translated_words import TranslatedWords
from kdmt.corpus.vocabulary import Dictionary
from kdmt.errors import UserError
from kdmt.languages import Direction
from kdmt.types import EOS, SPECIALS, UNK

WORDS = {"hund": "dog", "katze": "cat", "haus": "house", "ball": "ball", "kind": "child", "baum": "tree"}
EVERY = dict.fromkeys(MODIFIERS, 0.3)
TEXTS = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1).filter(str.strip)


# --------------------------------------------------------------------------------------------------------------- draws


def splitmix64(state: int) -> int:
    """Return the finaliser of SplitMix64 by Python's integers."""
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % 2**64
    return state ^ (state >> 31)


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**31), st.integers(0, 2**40), st.integers(0, 7))
def test_draws_are_those_of_splitmix64(seed: int, epoch: int, index: int, number: int) -> None:
    state = 0
    for value in (seed, epoch, number):
        state = splitmix64((state + value + 0x9E3779B97F4A7C15) % 2**64)
    expected = (splitmix64((index + state) % 2**64) >> 11) * 2.0**-53
    assert uniform_draws(seed, epoch, np.array([index]), number)[0] == expected


def test_draws_never_change() -> None:
    drawn = uniform_draws(1, 2, np.arange(3), 4)
    assert drawn.tolist() == [0.02051642683416377, 0.8189582223515715, 0.6768016749157364]


def test_draws_of_different_places_are_uncorrelated() -> None:
    indices = np.arange(20_000)
    series = [
        uniform_draws(seed, epoch, indices, number)
        for seed, epoch, number in itertools.product((1, 2), (1, 2), (0, 1, 2))
    ]
    matrix = np.corrcoef(np.stack([*series, np.roll(series[0], 1)]))
    assert np.abs(matrix - np.eye(len(matrix))).max() < 5 / 20_000**0.5
    for draws in series:
        counts, _ = np.histogram(draws, bins=10, range=(0, 1))
        assert ((counts - 2000) ** 2 / 2000).sum() < 40  # chi square of 9 degrees of freedom: p < 1e-5


def augmenter(direction: tuple[str, str] = ("de", "en"), **changes: Any) -> TextAugmenter:
    known = {"seed", "spaced", "alphabet", "links", "markup", "is_tokenized"}
    shares = {name: value for name, value in changes.items() if name not in known}
    others = {name: value for name, value in changes.items() if name in known}
    return TextAugmenter(Augment(**(shares or EVERY)), Direction(*direction), **({"seed": 1} | others))


def test_shares_are_within_binomial_bounds() -> None:
    shares: dict[ModifierName, float] = {
        **{"noise": 0.0005, "merged": 0.02, "no_end_punctuation": 0.2, "typos": 0.05, "upper_case": 0.07},
        **{"title_case": 0.05, "placeholders": 0.01, "tags": 0.005},
    }
    drawn = augmenter(**shares).draw(np.arange(50_000), 3)
    assert drawn.keys() == shares.keys()
    for name, share in shares.items():
        assert abs(int(drawn[name].sum()) - 50_000 * share) < 5 * (50_000 * share * (1 - share)) ** 0.5 + 1, name
    assert not (drawn["upper_case"] & drawn["title_case"]).any()
    both = int((drawn["upper_case"] & drawn["no_end_punctuation"]).sum())
    assert abs(both - 50_000 * 0.014) < 5 * (50_000 * 0.014) ** 0.5


def test_draws_depend_on_the_pair_alone() -> None:
    """A pair has the same draws in any batch."""
    text = augmenter()
    whole = text.draw(np.arange(100), 2)
    part = text.draw(np.array([71, 3]), 2)
    assert all((part[name] == whole[name][[71, 3]]).all() for name in whole)


# ---------------------------------------------------------------------------------------------------------------- text


def change(text: TextAugmenter, name: ModifierName, pair: Texts, following: Texts | None = None) -> list[Texts]:
    """Return the different changes of a pair in 40 epochs."""
    return sorted({text.change(pair, following, [name], (epoch, 5)) for epoch in range(40)})


@pytest.mark.parametrize(
    ("direction", "pair", "name", "expected"),
    [
        (("de", "en"), ("ein Hund .", "a dog ."), "upper_case", ("EIN HUND .", "A DOG .")),
        (("de", "en"), ("ein Hund .", "a dog ."), "title_case", ("Ein Hund .", "A Dog .")),
        (("en", "zh"), ("a dog .", "一只狗 。"), "upper_case", ("A DOG .", "一只狗 。")),
        (("zh", "en"), ("一只狗 。", "a dog ."), "upper_case", ("一只狗 。", "a dog .")),
        (("de", "en"), ("ein Hund .", "a dog ."), "no_end_punctuation", ("ein Hund", "a dog")),
        (("de", "en"), ("ein Hund .", "a dog"), "no_end_punctuation", ("ein Hund .", "a dog")),
        (("en", "zh"), ("a dog.", "一只狗。"), "no_end_punctuation", ("a dog", "一只狗")),
        (("zh", "en"), ("一只狗在草地上跑 。", "a dog"), "typos", ("一只狗在草地上跑 。", "a dog")),
    ],
)
def test_a_pair_is_changed_on_both_sides(
    direction: tuple[str, str], pair: Texts, name: ModifierName, expected: Texts
) -> None:
    assert change(augmenter(direction), name, pair) == [expected]


def test_typos_are_in_the_source_alone() -> None:
    found = change(augmenter(), "typos", ("ein Hund im Garten", "a dog in the garden"))
    assert len(found) > 5
    assert {target for _, target in found} == {"a dog in the garden"}


def test_pairs_are_merged_with_the_next_pair() -> None:
    pair, following = ("ein Hund .", "a dog ."), ("eine Katze .", "a cat .")
    assert change(augmenter(), "merged", pair, following) == [("ein Hund . eine Katze .", "a dog . a cat .")]
    assert change(augmenter(), "merged", pair, None) == [pair]
    assert change(augmenter(), "merged", pair, ("ein Hund .", "one dog .")) == [pair]  # candidates of one source
    chinese = augmenter(("zh", "en"), spaced=(False, True))
    assert change(chinese, "merged", ("狗。", "a ."), ("猫。", "b .")) == [("狗。猫。", "a . b .")]


def test_noise_is_copied_and_nothing_else_changes_it() -> None:
    text = augmenter(alphabet="xyz")
    source, target = text.change(("ein Hund .", "a dog ."), None, ["noise", "typos", "upper_case", "tags"], (1, 5))
    assert source == target
    assert set(source) <= set("xyz ")


def planted() -> list[Texts]:
    generator = random.Random(1)
    sources = [generator.sample(sorted(WORDS), k=generator.randint(2, 5)) for _ in range(300)]
    return [(" ".join(source) + " .", " ".join(WORDS[word] for word in source) + " .") for source in sources]


def test_markup_is_at_words_that_translate_each_other() -> None:
    text = augmenter(links=TranslatedWords.train(planted()))
    for source, target in change(text, "tags", ("kind hund .", "child dog .")):
        word = source[source.index(">") + 1 : source.index("</")]
        assert target[target.index(">") + 1 : target.index("</")] == WORDS[word]
    for source, target in change(text, "placeholders", ("kind hund .", "child dog .")):
        kept = [word for word in source.split() if word in WORDS]
        assert len(kept) == 1
        assert [word for word in target.split() if word in WORDS.values()] == [WORDS[kept[0]]]


def test_markup_without_links_is_at_the_ends() -> None:
    pair = ("ein Hund .", "a dog .")
    for source, target in change(augmenter(), "tags", pair):
        tag = source[1 : source.index(">")]
        assert (source, target) == (f"<{tag}>ein Hund .</{tag}>", f"<{tag}>a dog .</{tag}>")
    for source, target in change(augmenter(), "placeholders", pair):
        assert source.replace("ein Hund .", "a dog .") == target != "a dog ."


def test_markup_in_tokenised_text_is_tokenised() -> None:
    text = augmenter(is_tokenized=True, markup=lambda mark: mark.replace("<", "< ").replace(">", " >"))
    for source, _ in change(text, "tags", ("ein Hund .", "a dog .")):
        tag = source.split()[1]
        assert source == f"< {tag} > ein Hund . < /{tag} >"


def marks(text: str) -> list[str]:
    return sorted(
        word for word in text.replace("<", " <").replace(">", "> ").split() if word[0] == "<" or "__PH" in word
    )


@given(
    st.lists(st.sampled_from(sorted(WORDS)), min_size=1, max_size=6),
    st.sampled_from(MODIFIERS),
    st.sets(st.sampled_from(MODIFIERS)),
    st.integers(0, 1000),
)
def test_placeholders_and_tags_are_the_same_on_both_sides(
    words: Sequence[str], name: ModifierName, more: set[ModifierName], epoch: int
) -> None:
    text = augmenter(links=LINKS, alphabet="abc")
    pair = " ".join(words) + " .", " ".join(WORDS[word] for word in words) + " ."
    chosen = [each for each in MODIFIERS if each == name or each in more]
    source, target = text.change(pair, ("hund .", "dog ."), chosen, (epoch, 0))
    assert marks(source) == marks(target)
    assert bool(marks(source)) == ("noise" not in chosen and bool({"tags", "placeholders"} & set(chosen)))


@given(TEXTS, TEXTS, st.sets(st.sampled_from(MODIFIERS)), st.sampled_from(["de", "zh", "th", "ar", "tr", "el", "ja"]))
def test_no_pair_becomes_empty(source: str, target: str, chosen: set[ModifierName], language: str) -> None:
    text = augmenter((language, "en"), alphabet="abc")
    changed = text.change((source, target), (target, source), [name for name in MODIFIERS if name in chosen], (1, 2))
    assert all(side.strip() for side in changed)


@given(st.text(st.sampled_from("狗猫在草地上跑。 "), min_size=1).filter(str.strip), st.integers(0, 100))
def test_logographic_text_has_neither_case_nor_typos(source: str, epoch: int) -> None:
    text = augmenter(("zh", "en"))
    pair = (source, "a dog runs")
    assert text.change(pair, None, ["typos", "upper_case", "title_case"], (epoch, 2)) == pair


LINKS = TranslatedWords.train(planted())


# -------------------------------------------------------------------------------------------------------------- tokens


@pytest.fixture(scope="module", params=["unigram", "bpe", "subword-nmt"])
def corpus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[TextCodec, ParallelData]:
    """Return a corpus with its tokenizer. The first line of the source has a tag."""
    folder = tmp_path_factory.mktemp("corpus")
    pairs = planted()
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ abcdefghijklmnopqrstuvwxyz <>/_.0123456789"
    for side in range(2):
        (folder / str(side)).write_text(
            "".join(f"{pair[side]}\n" for pair in pairs) + f"{letters}\n{' '.join(letters)}\n" * 2
        )
    kind = (
        {"type": "subword-nmt", "model": "bpe"}
        if request.param == "subword-nmt"
        else {"type": "sentencepiece", "model": request.param, "hard_vocab_limit": False}
    )
    settings = TokenizerSettings(**kind, vocab_size=100)  # type: ignore[arg-type]
    tokenizers = train_tokenizer(settings, (folder / "0", folder / "1"), folder / "tokenizer", Direction("de", "en"))
    dictionary = Dictionary()
    for token in ("<bt>", *tokens_of(tokenizers.source, letters.replace(" ", ""))):
        dictionary.add(token)
    codec = TextCodec(TextProcessor(Text(), "de", "en", None), tokenizers, dictionary, dictionary)
    sources, targets = (
        codec.encode_source([pair[0] for pair in pairs]),
        codec.encode_target([pair[1] for pair in pairs]),
    )
    sources[0] = np.concatenate([[dictionary.index("<bt>")], sources[0]])
    for name, sentences in (("src", sources), ("tgt", targets)):
        with IndexedWriter(folder / name, len(dictionary)) as writer:
            for sentence in sentences:
                writer.add(sentence)
    return codec, ParallelData(((IndexedDataset(folder / "src"), IndexedDataset(folder / "tgt")),))


def tokens_of(model: SubwordModel, letters: str) -> list[str]:
    """Return all tokens that a model can make of text with these letters."""
    if isinstance(model, SentencePieceModel):
        return [symbol for symbol in model.symbols if symbol not in SPECIALS]
    assert isinstance(model, SubwordNmtModel)
    merged = [*letters, *(f"{letter}</w>" for letter in letters), *(left + right for left, right in model.merges()[0])]
    return [symbol.removesuffix("</w>") if symbol.endswith("</w>") else f"{symbol}@@" for symbol in merged]


def augmentation(corpus: tuple[TextCodec, ParallelData], shares: Mapping[str, float], **more: Any) -> Augmentation:
    return Augmentation.of(corpus[0], Augment(**shares), corpus[1], seed=3, spaced=(True, True), tags=["<bt>"], **more)


def texts_of(codec: TextCodec, sides: tuple[Any, Any]) -> list[Texts]:
    return list(zip(codec.decode_sources(*sides[0]), codec.decode_targets(*sides[1]), strict=True))


def test_tokens_are_those_of_the_changed_text(corpus: tuple[TextCodec, ParallelData]) -> None:
    codec, data = corpus
    indices = np.arange(len(data))
    found = texts_of(codec, augmentation(corpus, {"upper_case": 1.0}).apply(data, indices, 1))
    before = [
        (source.removeprefix("<bt>").strip(), target)
        for source, target in texts_of(codec, (join_side(indices, data, 0), join_side(indices, data, 1)))
    ]
    assert found[1:] == [(source.upper(), target.upper()) for source, target in before[1:]]
    assert found[0][0].split() == ["<bt>", *before[0][0].upper().split()]


def test_unchanged_pairs_keep_their_tokens(corpus: tuple[TextCodec, ParallelData]) -> None:
    _, data = corpus
    indices = np.arange(len(data))
    noisy = augmentation(corpus, {"upper_case": 0.2})
    drawn = noisy.text.draw(indices, 1)["upper_case"]
    assert 0 < drawn.sum() < len(data)
    for side, (tokens, sizes) in enumerate(noisy.apply(data, indices, 1)):
        old, old_sizes = join_side(indices, data, side)
        assert (sizes[~drawn] == old_sizes[~drawn]).all()
        assert (tokens[np.repeat(~drawn, sizes)] == old[np.repeat(~drawn, old_sizes)]).all()
        assert (sizes[drawn] > old_sizes[drawn]).mean() > 0.9
        assert (tokens[np.cumsum(sizes) - 1] == EOS).all()


def test_a_batch_does_not_change_its_pairs(corpus: tuple[TextCodec, ParallelData]) -> None:
    _, data = corpus
    noisy = augmentation(corpus, EVERY)
    whole = noisy.apply(data, np.arange(len(data)), 4)
    part = noisy.apply(data, np.array([200, 7, 299]), 4)
    for (tokens, sizes), (own, own_sizes) in zip(whole, part, strict=True):
        sentences = np.split(tokens, np.cumsum(sizes)[:-1])
        assert (np.concatenate([sentences[place] for place in (200, 7, 299)]) == own).all()
        assert own_sizes.tolist() == [len(sentences[place]) for place in (200, 7, 299)]
    assert not np.array_equal(noisy.apply(data, np.arange(50), 5)[0][0], noisy.apply(data, np.arange(50), 4)[0][0])


@pytest.mark.parametrize("chunk", [7, 10_000])
def test_planned_sizes_are_those_of_the_changed_pairs(
    corpus: tuple[TextCodec, ParallelData], monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    """Only pairs without another change than the punctuation at the end have the size of the data-bin."""
    monkeypatch.setattr("kdmt.corpus.augmentation._PLANNED_PAIRS", chunk)
    _, data = corpus
    noisy = augmentation(corpus, EVERY)
    places = np.random.default_rng(1).permutation(3 * len(data))[: len(data)]  # some pairs occur several times
    drawn = noisy.text.draw(places, 2)
    others = np.logical_or.reduce([mask for name, mask in drawn.items() if name != "no_end_punctuation"])
    assert 0 < others.sum() < len(places)
    planned, sides = noisy.sizes(data, places, 2), noisy.apply(data, places, 2)
    for side, (sizes, (_, exact)) in enumerate(zip(planned, sides, strict=True)):
        kept = join_side(places % len(data), data, side)[1]
        assert (sizes == np.where(others, exact, kept)).all()


def test_a_repeated_pair_has_other_draws(corpus: tuple[TextCodec, ParallelData]) -> None:
    _, data = corpus
    noisy = augmentation(corpus, {"noise": 1.0})
    (tokens, sizes), _ = noisy.apply(data, np.array([7, 7 + len(data), 7 + 2 * len(data)]), 1)
    assert len({tuple(each.tolist()) for each in np.split(tokens, np.cumsum(sizes)[:-1])}) == 3
    (once, _), _ = noisy.apply(data, np.array([7]), 1)
    assert tokens[: sizes[0]].tolist() == once.tolist()


def test_no_token_is_unknown_and_no_sentence_too_long(corpus: tuple[TextCodec, ParallelData]) -> None:
    _, data = corpus
    longest = int(data.src_sizes.max()), int(data.tgt_sizes.max())  # type: ignore[union-attr]
    noisy = augmentation(corpus, EVERY, max_tokens=longest)
    for (tokens, sizes), limit in zip(noisy.apply(data, np.arange(len(data)), 1), longest, strict=True):
        assert UNK not in tokens
        assert sizes.max() <= limit
        assert sizes.min() >= 2


def test_characters_without_a_token_keep_a_pair(corpus: tuple[TextCodec, ParallelData]) -> None:
    """A dictionary without capital letters cannot have text in upper case."""
    codec, data = corpus
    small = Dictionary()
    for symbol in codec.src_dictionary.symbols[4:]:
        small.add(symbol if symbol == symbol.lower() else f"no-{len(small)}")
    lower = TextCodec(codec.text, codec.tokenizers, small, small)
    noisy = Augmentation.of(lower, Augment(upper_case=1.0), data, seed=1, spaced=(True, True))
    indices = np.arange(len(data))
    assert (noisy.apply(data, indices, 1)[0][0] == join_side(indices, data, 0)[0]).all()
    with pytest.raises(UserError, match="'placeholders': the vocabulary has no tokens for __PH0__"):
        Augmentation.of(lower, Augment(placeholders=0.1), data, seed=1, spaced=(True, True))
    assert not any(char.isupper() for char in known_characters(lower))
    assert unwritable_modifiers(lower, Augment(placeholders=0.1, tags=0.1)) == {"placeholders": "__PH0__"}
    assert unwritable_modifiers(lower, Augment(tags=0.1, typos=0.1)) == {}


def test_noise_can_be_written_with_both_dictionaries(corpus: tuple[TextCodec, ParallelData]) -> None:
    codec, data = corpus
    sides = augmentation(corpus, {"noise": 1.0}).apply(data, np.arange(20), 1)
    found = texts_of(codec, sides)
    assert all(source.removeprefix("<bt>").strip() == target for source, target in found)
    assert len(set(found)) == 20
    assert all(UNK not in tokens for tokens, _ in sides)


def test_merged_pairs_are_the_next_ones(corpus: tuple[TextCodec, ParallelData]) -> None:
    codec, data = corpus
    indices = np.array([4, 299])
    before = texts_of(codec, (join_side(np.arange(300), data, 0), join_side(np.arange(300), data, 1)))
    found = texts_of(codec, augmentation(corpus, {"merged": 1.0}).apply(data, indices, 1))
    assert found == [(f"{before[4][0]} {before[5][0]}", f"{before[4][1]} {before[5][1]}"), before[299]]


def test_the_recipe_has_the_shares_of_mozilla() -> None:
    """The shares are those of the configurations of OpusTrainer in mozilla/translations."""
    shares = {
        "upper_case": 0.07,
        "title_case": 0.05,
        "typos": 0.05,
        "noise": 0.0005,
        "tags": 0.005,
        "no_end_punctuation": 0.2,
    }
    assert shares == DEFAULT_SHARES
    assert not {"noise", "placeholders", "tags"} & set(DistillAugment(typos=1.0).shares())


# -------------------------------------------------------------------------------------------------- several directions

DIRECTIONS = (Direction("de", "en"), Direction("tr", "de"))
NUM_PAIRS = 60  # of each direction


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> tuple[TextCodec, ParallelData]:
    """Return 60 pairs of each of two directions, with their tokens before the source and a token before the target."""
    folder = tmp_path_factory.mktemp("several")
    pairs = planted()
    pairs = [*pairs[:NUM_PAIRS], *((f"i {target}", source) for source, target in pairs[:NUM_PAIRS])]
    letters = "ABCDEFGHIİJKLMNOPQRSTUVWXYZabcdefghiıjklmnopqrstuvwxyz<>/_.0123456789 "
    text = TextProcessor(Text(), "src", "tgt", None, directions=DIRECTIONS, language_tokens="both_in_source")
    lines = [*itertools.chain.from_iterable(pairs), *letters, letters, letters]
    for side in ("0", "1"):
        (folder / side).write_text("".join(f"{line}\n" for line in lines))
    settings = TokenizerSettings(vocab_size=100, hard_vocab_limit=False)
    tokenizers = train_tokenizer(settings, (folder / "0", folder / "1"), folder / "tokenizer", Direction("src", "tgt"))
    dictionary = Dictionary()
    of_languages = [token for tokens in text.prefixes.values() for token in tokens]
    for token in dict.fromkeys([*of_languages, *tokens_of(tokenizers.source, letters)]):
        dictionary.add(token)
    codec = TextCodec(text, tokenizers, dictionary, dictionary, language_tokens=tuple(text.language_symbols))
    with IndexedWriter(folder / "src", len(dictionary)) as src, IndexedWriter(folder / "tgt", len(dictionary)) as tgt:
        for number, (source, target) in enumerate(
            zip(codec.encode_source([a for a, _ in pairs]), codec.encode_target([b for _, b in pairs]), strict=True)
        ):
            prefix = codec.prefix_ids(DIRECTIONS[number // NUM_PAIRS])
            src.add(np.concatenate([prefix, source]))
            tgt.add(np.concatenate([prefix[-1:], target]))
    return codec, ParallelData(((IndexedDataset(folder / "src"), IndexedDataset(folder / "tgt")),))


def augmentation_of_directions(several: tuple[TextCodec, ParallelData], shares: Mapping[str, float]) -> Augmentation:
    numbers = np.repeat(np.arange(2, dtype=np.int16), NUM_PAIRS)
    pairs = PairsOfDirections(DIRECTIONS, [(True, True)] * 2, numbers)
    return Augmentation.of(several[0], Augment(**shares), several[1], seed=3, spaced=(True, True), pairs=pairs)


def sentences(side: tuple[Any, Any]) -> list[list[int]]:
    return [each.tolist() for each in np.split(side[0], np.cumsum(side[1])[:-1])]


@pytest.mark.parametrize("name", [*MODIFIERS])
def test_tokens_for_the_languages_are_never_changed(several: tuple[TextCodec, ParallelData], name: str) -> None:
    codec, data = several
    indices = np.arange(len(data))
    before = sentences(join_side(indices, data, 0))
    sides = augmentation_of_directions(several, {name: 1.0}).apply(data, indices, 1)
    tags = {number for each in DIRECTIONS for number in codec.prefix_ids(each)}
    assert sentences(sides[0]) != before
    for index, (source, target) in enumerate(zip(*map(sentences, sides), strict=True)):
        prefix = list(codec.prefix_ids(DIRECTIONS[index // NUM_PAIRS]))
        assert source[: len(prefix)] == prefix
        assert target[0] == prefix[-1]
        assert not tags & {*source[len(prefix) :], *target[1:]}


def test_case_is_that_of_the_language_of_the_direction(several: tuple[TextCodec, ParallelData]) -> None:
    codec, data = several
    sides = augmentation_of_directions(several, {"upper_case": 1.0}).apply(data, np.array([0, NUM_PAIRS]), 1)
    (_, german), (_, turkish) = (codec.src_dictionary.string(each[:-1]).split(" ", 1) for each in sentences(sides[0]))
    assert "İ" in turkish
    assert "İ" not in german


def test_a_pair_is_not_joined_with_one_of_another_direction(several: tuple[TextCodec, ParallelData]) -> None:
    _, data = several
    indices = np.array([NUM_PAIRS - 2, NUM_PAIRS - 1])
    before = join_side(indices, data, 0)[1].tolist()
    after = augmentation_of_directions(several, {"merged": 1.0}).apply(data, indices, 1)[0][1].tolist()
    assert after[0] > before[0]
    assert after[1] == before[1]


def test_links_of_words_are_those_of_the_direction(several: tuple[TextCodec, ParallelData]) -> None:
    first, second = augmentation_of_directions(several, {"placeholders": 1.0}).texts
    assert first.links.find(["hund", "katze"], ["dog", "cat"]) == [(0, 0), (1, 1)]
    assert second.links.find(["dog", "cat"], ["hund", "katze"]) == [(0, 0), (1, 1)]
