"""Augmentation of training data: sentence pairs that are changed at random, and tokenised again.

The draws of a pair depend on (seed, epoch, place of the pair, modifier) alone, so that a run that is resumed, or that
has another number of ranks, reads the same text. The place is the index of the pair, plus the number of all pairs for
each earlier occurrence in the epoch. A pair that is not drawn keeps its tokens.

The text of a pair is made from its tokens in the data-bin, in the form that the tokenizer reads. A changed pair that
has a token without an entry in the dictionary, or more tokens than a model takes, keeps its tokens too.

Shape legend: B sentence pairs, M tokens of all sentences of a side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdmt.choices import ModifierName, names
from kdmt.config import TextNoise
from kdmt.corpus import modifiers
from kdmt.corpus.alignment import spread
from kdmt.corpus.batching import ParallelData, Side, join_side
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.text import TextProcessor
from kdmt.corpus.token_alignment import count_tags
from kdmt.corpus.translated_words import TranslatedWords, around_core
from kdmt.errors import UserError
from kdmt.languages import Direction
from kdmt.types import SPECIALS, UNK

MODIFIERS: tuple[ModifierName, ...] = names(ModifierName)  # type: ignore[assignment]  # index: its number in draws
ALIGNED_PAIRS = 10_000  # sentence pairs that the links of words are trained on
_MARKS: Mapping[ModifierName, Sequence[str]] = {
    "placeholders": modifiers.PLACEHOLDERS,
    "tags": [mark for pair in modifiers.TAG_PAIRS for mark in pair],
}
_KEEPING_SIZES: tuple[ModifierName, ...] = ("no_end_punctuation",)  # that change the number of tokens by one or two
_PLANNED_PAIRS = 10_000  # pairs whose sizes are planned at once
_MASK = 2**64 - 1

IntArray = NDArray[np.integer[Any]]
Texts = tuple[str, str]  # source and target
Prefixes = tuple[IntArray, ...]  # ids of the tags before the source and before the target


def uniform_draws(seed: int, epoch: int, indices: NDArray[np.int64], number: int) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each index, by the finaliser of SplitMix64 (Steele, Lea, Flood 2014)."""
    state = 0
    for value in (seed, epoch, number):
        state = _mixed_number(state + value + 0x9E3779B97F4A7C15)
    mixed = np.asarray(indices, dtype=np.uint64) + np.uint64(state)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed_number(value: int) -> int:
    value &= _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


# ---------------------------------------------------------------------------------------------------------------- text


@dataclass(frozen=True)
class TextAugmenter:
    """Changes the text of sentence pairs.

    Attributes:
        spaced: whether the source and the target have spaces between words.
        alphabet: characters of noise, which the vocabularies of both sides have.
        links: finds words that translate each other, for markup.
        markup: function that returns a tag or a placeholder in the form that the tokenizer reads, with spaces between
            its tokens if the text is tokenised.
        is_tokenized: whether punctuation and tags are words of their own.
    """

    settings: TextNoise
    direction: Direction
    seed: int
    spaced: tuple[bool, bool] = (True, True)
    alphabet: Sequence[str] = ()
    links: TranslatedWords = field(default_factory=TranslatedWords)
    markup: Callable[[str], str] = str
    is_tokenized: bool = False

    def draw(self, places: NDArray[np.int64], epoch: int) -> dict[ModifierName, NDArray[np.bool_]]:
        """Return for each modifier with a share the pairs that it changes, bool [B].

        Upper case and title case exclude each other; the other modifiers are independent.
        """
        shares = self.settings.shares()
        drawn: dict[ModifierName, NDArray[np.bool_]] = {}
        for name, share in shares.items():
            low = shares["upper_case"] if name == "title_case" else 0.0
            number = MODIFIERS.index("upper_case" if name == "title_case" else name)
            if share:
                draws = uniform_draws(self.seed, epoch, places, number)
                drawn[name] = (low <= draws) & (draws < low + share)
        return drawn

    def change(
        self, texts: Texts, following: Texts | None, chosen: Sequence[ModifierName], place: tuple[int, int]
    ) -> Texts:
        """Return a pair changed by modifiers.

        Args:
            following: next pair of the corpus, None after the last one.
            chosen: modifiers, in the order of `MODIFIERS`.
            place: epoch, and place of the pair in it.
        """
        for name in chosen:
            if name == "merged":
                texts = self._merge(texts, following)
                continue
            generator = self._generator(place, name)
            changed = _CHANGES[name](self, texts, generator)
            if name == "noise":
                return changed
            texts = changed
        return texts

    def _generator(self, place: tuple[int, int], name: ModifierName) -> Random:
        epoch, number = place
        return Random((((self.seed << 32) | epoch) << 64 | number) << 8 | MODIFIERS.index(name))

    def _merge(self, texts: Texts, following: Texts | None) -> Texts:
        if following is None or following[0] == texts[0] or not all(following):
            return texts
        source, target = (
            modifiers.join_texts(first, second, spaced=spaced)
            for first, second, spaced in zip(texts, following, self.spaced, strict=True)
        )
        return source, target

    def _noise(self, texts: Texts, generator: Random) -> Texts:
        if not self.alphabet:
            return texts
        line = modifiers.noise_line(self.alphabet, generator)
        return line, line

    def _no_end_punctuation(self, texts: Texts, _: Random) -> Texts:
        source, target = map(modifiers.without_end_punctuation, texts)
        return (source, target) if source != texts[0] and target != texts[1] else texts

    def _typos(self, texts: Texts, generator: Random) -> Texts:
        return modifiers.with_typos(texts[0], self.settings.typo_rate, generator), texts[1]

    def _upper_case(self, texts: Texts, _: Random) -> Texts:
        return self._change_case(texts, modifiers.to_upper_case)

    def _title_case(self, texts: Texts, _: Random) -> Texts:
        return self._change_case(texts, modifiers.to_title_case)

    def _change_case(self, texts: Texts, change: Callable[[str, str], str]) -> Texts:
        """Change the case of both sides, or of those that have case if it is the source."""
        source, target = self.direction.sides
        if not modifiers.has_case(texts[0], source):
            return texts
        has_case = modifiers.has_case(texts[1], target)
        return change(texts[0], source), change(texts[1], target) if has_case else texts[1]

    def _placeholders(self, texts: Texts, generator: Random) -> Texts:
        mark = self.markup(generator.choice(modifiers.PLACEHOLDERS))
        found = self._linked_words(texts, generator)
        if found is None:
            at_end = generator.random() < 0.5
            source, target = (
                modifiers.join_texts(*((text, mark) if at_end else (mark, text)), spaced=spaced or self.is_tokenized)
                for text, spaced in zip(texts, self.spaced, strict=True)
            )
            return source, target
        source, target = (_with_word(words, place, lambda _: mark) for words, place in found)
        return source, target

    def _tags(self, texts: Texts, generator: Random) -> Texts:
        before, after = map(self.markup, generator.choice(modifiers.TAG_PAIRS))
        space = " " if self.is_tokenized else ""
        found = self._linked_words(texts, generator)
        if found is None:
            source, target = (f"{before}{space}{text}{space}{after}" for text in texts)
            return source, target
        source, target = (
            _with_word(words, place, lambda word: f"{before}{space}{word}{space}{after}") for words, place in found
        )
        return source, target

    def _linked_words(
        self, texts: Texts, generator: Random
    ) -> tuple[tuple[list[str], int], tuple[list[str], int]] | None:
        """Return the words of both sides, each with the index of a word and of its translation; None without links."""
        source, target = texts[0].split(), texts[1].split()
        links = self.links.find(source, target)
        if not links:
            return None
        i, j = generator.choice(links)
        return (source, i), (target, j)


def _with_word(words: list[str], place: int, change: Callable[[str], str]) -> str:
    before, word, after = around_core(words[place])
    return " ".join((*words[:place], f"{before}{change(word)}{after}", *words[place + 1 :]))


_CHANGES: Mapping[ModifierName, Callable[[TextAugmenter, Texts, Random], Texts]] = {
    "noise": TextAugmenter._noise,
    "no_end_punctuation": TextAugmenter._no_end_punctuation,
    "typos": TextAugmenter._typos,
    "upper_case": TextAugmenter._upper_case,
    "title_case": TextAugmenter._title_case,
    "placeholders": TextAugmenter._placeholders,
    "tags": TextAugmenter._tags,
}


# -------------------------------------------------------------------------------------------------------------- tokens


@dataclass(frozen=True)
class PairsOfDirections:
    """Directions of the pairs of a training set.

    Attributes:
        directions: the directions.
        spaced: whether the source and the target of each direction have spaces between words.
        direction_P: index in `directions` of the direction of each pair, int16 [pairs].
    """

    directions: Sequence[Direction]
    spaced: Sequence[tuple[bool, bool]]
    direction_P: NDArray[np.int16]


@dataclass(frozen=True)
class Augmentation:
    """Changes sentence pairs of a data-bin.

    Attributes:
        text: changes of the text, and what is drawn; with several directions those of the first one.
        tag_ids: for each side the ids of corpus tags and of tokens for languages, which stay before the sentence.
        max_tokens: maximum number of tokens of a source and of a target, including `</s>`; 0 for no limit.
        texts: changes of the text of each of several directions; empty for one direction.
        direction_P: index in `texts` of the direction of each pair, int16 [pairs]; None for one direction.
    """

    text: TextAugmenter
    codec: TextCodec
    tag_ids: tuple[frozenset[int], frozenset[int]] = (frozenset(), frozenset())
    max_tokens: tuple[int, int] = (0, 0)
    texts: Sequence[TextAugmenter] = ()
    direction_P: NDArray[np.int16] | None = None

    @classmethod
    def of(
        cls,
        codec: TextCodec,
        settings: TextNoise,
        data: ParallelData,
        *,
        seed: int,
        spaced: tuple[bool, bool],
        tags: Sequence[str] = (),
        max_tokens: tuple[int, int] = (0, 0),
        pairs: PairsOfDirections | None = None,
    ) -> Augmentation:
        """Return the augmentation of a training set.

        Args:
            spaced: whether the source and the target have spaces between words.
            tags: corpus tags.
            max_tokens: see `Augmentation`.
            pairs: directions of the pairs; None for one direction.

        Raises:
            UserError: if the vocabulary does not have the characters of placeholders or tags.
        """
        shares = settings.shares()
        for name, mark in unwritable_modifiers(codec, settings).items():
            raise UserError(
                f"'{name}': the vocabulary has no tokens for {mark}: leave it out, or train a tokenizer with byte "
                "fallback or on text that has these characters"
            )
        alphabet = known_characters(codec) if shares.get("noise") else ()
        of_languages, of_targets = codec.language_ids
        of_corpora = (codec.src_dictionary.index(tag) for tag in tags if tag in codec.src_dictionary)
        tag_ids = (of_languages.union(of_corpora), of_targets)

        def augmenter(text: TextProcessor, own: tuple[bool, bool], indices: NDArray[np.int64]) -> TextAugmenter:
            uses_markup = any(shares.get(name) for name in _MARKS)
            links = TranslatedWords()
            if uses_markup and all(own):
                links = TranslatedWords.train(_sample(codec, data, indices, tag_ids if pairs is not None else None))
            return TextAugmenter(
                settings,
                text.direction,
                seed,
                own,
                alphabet=alphabet,
                links=links,
                markup=text.preprocess_source,
                is_tokenized=text.text.moses,
            )

        if pairs is None:
            text = augmenter(codec.text, spaced, np.arange(len(data)))
            return cls(text, codec, tag_ids, max_tokens)
        texts = [
            augmenter(codec.text.for_direction(direction), own, np.flatnonzero(pairs.direction_P == number))
            for number, (direction, own) in enumerate(zip(pairs.directions, pairs.spaced, strict=True))
        ]
        return cls(texts[0], codec, tag_ids, max_tokens, texts, pairs.direction_P)

    def apply(self, data: ParallelData, places: NDArray[np.int64], epoch: int) -> tuple[Side, Side]:
        """Return the tokens of both sides of some pairs, with those that are drawn changed.

        Args:
            data: training set with targets.
            places: place of each pair [B].
        """
        return self._apply(data, places, epoch, self.text.draw(places, epoch))

    def sizes(self, data: ParallelData, places: NDArray[np.int64], epoch: int) -> tuple[IntArray, IntArray]:
        """Return the number of tokens of both sides of some pairs, to plan batches.

        They are those of `apply`, except where nothing but the punctuation at the end is removed.
        """
        assert data.tgt_sizes is not None
        sizes = data.src_sizes[places % len(data)], data.tgt_sizes[places % len(data)]
        drawn = self.text.draw(places, epoch)
        differing = _any_of([mask for name, mask in drawn.items() if name not in _KEEPING_SIZES], len(places))
        rows = np.flatnonzero(differing)
        for start in range(0, len(rows), _PLANNED_PAIRS):
            some = rows[start : start + _PLANNED_PAIRS]
            sides = self._apply(data, places[some], epoch, {name: mask[some] for name, mask in drawn.items()})
            for own, (_, new) in zip(sizes, sides, strict=True):
                own[some] = new
        return sizes

    def _apply(
        self,
        data: ParallelData,
        places: NDArray[np.int64],
        epoch: int,
        drawn: Mapping[ModifierName, NDArray[np.bool_]],
    ) -> tuple[Side, Side]:
        indices = places % len(data)
        sides = join_side(indices, data, 0), join_side(indices, data, 1)
        rows = np.flatnonzero(_any_of(list(drawn.values()), len(places)))
        if not len(rows):
            return sides
        chosen = [[name for name in MODIFIERS if name in drawn and drawn[name][row]] for row in rows.tolist()]
        indices, places = indices[rows], places[rows]
        texts, tags = self._texts(data, indices)
        merged = [n for n, own in enumerate(chosen) if "merged" in own and self._has_next(int(indices[n]), len(data))]
        following = dict(zip(merged, self._texts(data, indices[merged] + 1)[0], strict=True)) if merged else {}
        changed: dict[int, Texts] = {}  # number among the rows -> other text
        for number, (pair, own, place) in enumerate(zip(texts, chosen, places.tolist(), strict=True)):
            if pair is None:
                continue
            text = self._text_of(int(indices[number]))
            new = text.change(pair, following.get(number), own, (epoch, place))
            if new != pair:
                changed[number] = new
        return self._with_changes(sides, rows, changed, tags)

    def _has_next(self, index: int, num_pairs: int) -> bool:
        """Return whether a pair has a next one, of the same direction."""
        if index + 1 >= num_pairs:
            return False
        return self.direction_P is None or bool(self.direction_P[index] == self.direction_P[index + 1])

    def _text_of(self, index: int) -> TextAugmenter:
        """Return the changes of the text of a pair."""
        return self.text if self.direction_P is None else self.texts[self.direction_P[index]]

    def _texts(self, data: ParallelData, indices: NDArray[np.int64]) -> tuple[list[Texts | None], list[Prefixes]]:
        """Return the text of pairs, None if it is not known or empty, and the tags before both sides."""
        prefixes: list[list[IntArray]] = []
        lines = []
        for side, decode in enumerate((self.codec.decode_sources, self.codec.decode_targets)):
            tokens, sizes = join_side(indices, data, side)
            sentences = _split(tokens, sizes)
            lengths = [count_tags(each, self.tag_ids[side]) for each in sentences]
            prefixes.append([each[:length] for each, length in zip(sentences, lengths, strict=True)])
            sentences = [each[length:] for each, length in zip(sentences, lengths, strict=True)]
            known = [UNK not in each for each in sentences]
            sizes = np.array([len(each) for each in sentences], dtype=np.int64)
            decoded = decode(np.concatenate(sentences), sizes)
            lines.append([line if ok else "" for line, ok in zip(decoded, known, strict=True)])
        texts = [
            (source, target) if source.strip() and target.strip() else None
            for source, target in zip(*lines, strict=True)
        ]
        return texts, list(zip(*prefixes, strict=True))

    def _with_changes(
        self,
        sides: tuple[Side, Side],
        rows: NDArray[np.int64],
        changed: Mapping[int, Texts],
        prefixes: Sequence[Prefixes],
    ) -> tuple[Side, Side]:
        encoded = [
            encode([texts[side] for texts in changed.values()])
            for side, encode in enumerate((self.codec.encode_source, self.codec.encode_target))
        ]
        new: tuple[dict[int, IntArray], dict[int, IntArray]] = ({}, {})
        for number, *sentences in zip(changed, *encoded, strict=True):
            own = [np.concatenate([tags, each]) for tags, each in zip(prefixes[number], sentences, strict=True)]
            lengths = [len(tags) for tags in prefixes[number]]
            if all(map(self._fits, own, lengths, self.max_tokens)):
                for side in range(2):
                    new[side][int(rows[number])] = own[side]
        first, second = (_replaced(side, found) for side, found in zip(sides, new, strict=True))
        return first, second

    def _fits(self, tokens: IntArray, num_tags: int, limit: int) -> bool:
        return len(tokens) > num_tags + 1 and UNK not in tokens and (not limit or len(tokens) <= limit)


def _any_of(masks: Sequence[NDArray[np.bool_]], length: int) -> NDArray[np.bool_]:
    """Return which elements are in any of the masks, bool [length]."""
    return np.logical_or.reduce([np.zeros(length, dtype=bool), *masks])


def _split(tokens: IntArray, sizes: IntArray) -> list[IntArray]:
    return np.split(tokens, np.cumsum(sizes)[:-1])


def _replaced(side: Side, new: Mapping[int, IntArray]) -> Side:
    """Return the tokens of a side with other tokens for some of its sentences."""
    if not new:
        return side
    sentences = _split(*side)
    for row, tokens in new.items():
        sentences[row] = tokens
    return np.concatenate(sentences).astype(np.int64), np.array([len(each) for each in sentences], dtype=np.int64)


def known_characters(codec: TextCodec) -> list[str]:
    """Return the characters, without spaces, that both dictionaries can represent."""
    texts = [set("".join(each.symbols[len(SPECIALS) :])) for each in (codec.src_dictionary, codec.tgt_dictionary)]
    found = sorted(char for char in set.intersection(*texts) if _is_noise(char))
    if not found:
        return []
    encoded = zip(codec.encode_source(found), codec.encode_target(found), strict=True)
    return [
        char
        for char, sides in zip(found, encoded, strict=True)
        if all(len(tokens) > 1 and UNK not in tokens for tokens in sides)
    ]


def _is_noise(char: str) -> bool:
    """Return whether a character may be in noise: not a space, nor a sign for spaces or joints between subwords."""
    return char.isprintable() and char not in " ▁@"


def _sample(
    codec: TextCodec, data: ParallelData, indices: NDArray[np.int64], tag_ids: tuple[frozenset[int], ...] | None
) -> list[Texts]:
    """Return the text of evenly spread pairs.

    Args:
        indices: pairs of which they are.
        tag_ids: for each side the ids of the tags, which are left out; None to keep them.
    """
    chosen = indices[np.array(spread(len(indices), ALIGNED_PAIRS), dtype=np.int64)]
    lines = []
    for side, decode in enumerate((codec.decode_sources, codec.decode_targets)):
        tokens, sizes = join_side(chosen, data, side)
        if tag_ids is not None:
            sentences = [each[count_tags(each, tag_ids[side]) :] for each in _split(tokens, sizes)]
            sizes = np.array([len(each) for each in sentences], dtype=np.int64)
            tokens = np.concatenate(sentences)
        lines.append(decode(tokens, sizes))
    return list(zip(*lines, strict=True))


def unwritable_modifiers(codec: TextCodec, settings: TextNoise) -> dict[ModifierName, str]:
    """Return the changes with a share whose markup the vocabulary cannot represent, with an example of it."""
    shares, found = settings.shares(), {}
    for name, marks in _MARKS.items():
        if not shares.get(name):
            continue
        lines = [codec.text.preprocess_source(mark) for mark in marks]
        for mark, *sides in zip(marks, codec.encode_source(lines), codec.encode_target(lines), strict=True):
            if any(UNK in tokens for tokens in sides):
                found[name] = mark
                break
    return found
