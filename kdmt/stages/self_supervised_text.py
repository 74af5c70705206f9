"""The text of self-supervised losses: sides of training sets and monolingual text, with the languages of sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdmt.choices import SelfSupervisedText
from kdmt.config import MONOLINGUAL_SIDES, setting_path
from kdmt.config.directions import own_language_prefix
from kdmt.config.self_supervised import side_of
from kdmt.corpus.batching import ParallelData
from kdmt.corpus.binarize import data_prefix
from kdmt.corpus.codec import TextCodec, check_language_tokens
from kdmt.corpus.indexed import IndexedDataset
from kdmt.corpus.infilling import Infilling
from kdmt.corpus.subword_sampling import WordLimits, word_limits
from kdmt.errors import UserError
from kdmt.languages import writes_spaces
from kdmt.stages.training_inputs import Job, text_tags
from kdmt.stages.workspace import Workspace
from kdmt.train.data import BinarizedData, DenoisingText, MonolingualText, Prefixes
from kdmt.train.direction_sampling import PairDirections


@dataclass(frozen=True)
class LanguageText:
    """Binarised sentences of one or more languages.

    Attributes:
        parts: the sentences.
        sides: side of the directions whose language each part has: 0 for the source, 1 for the target.
        codes: codes of the languages.
        language_N: index in `codes` of the language of each sentence, int16 [sentences]; not used for masked sources.
    """

    parts: tuple[IndexedDataset, ...]
    sides: tuple[int, ...]
    codes: tuple[str, ...]
    language_N: NDArray[np.int16]

    @property
    def is_target_N(self) -> NDArray[np.bool_]:
        """Whether each sentence is in the language of the target side, bool [sentences]."""
        return np.repeat(np.array(self.sides, dtype=bool), [len(part) for part in self.parts])


def masked_text(workspace: Workspace, job: Job, codec: TextCodec) -> MonolingualText | None:
    """Return the text that is masked besides the sources of the pairs, None for none.

    Raises:
        UserError: if no sentence is within the size limits, or both languages have different dictionaries.
    """
    settings = job.self_supervised
    if settings is None or settings.denoising is not None or not settings.drawn_texts:
        return None
    with _naming(job):
        if settings.tagged_texts:
            _check_dictionaries(codec)
        text = _open(workspace, job, settings.drawn_texts)
        prefixes = _prefixes_of_targets(workspace, codec, text)
        data = ParallelData(tuple((part, None) for part in text.parts))
        return MonolingualText(data, job.train, seed=job.seed, prefixes=prefixes)


def denoising_text(workspace: Workspace, job: Job, codec: TextCodec) -> DenoisingText | None:
    """Return the text with noise that is read together with the pairs, None for none.

    Raises:
        UserError: see `text_alone`.
    """
    settings = job.self_supervised
    if settings is None or settings.denoising is None or settings.is_alone:
        return None
    return DenoisingText(text_alone(workspace, job, codec))


def text_alone(workspace: Workspace, job: Job, codec: TextCodec) -> BinarizedData:
    """Return the text with noise of a run, as sources, and without it, as targets.

    Raises:
        UserError: if no sentence is within the size limits, or both languages have different dictionaries.
    """
    assert job.self_supervised is not None
    with _naming(job):
        _check_dictionaries(codec)
        text = _open(workspace, job, job.self_supervised.texts)
        directions = _with_sentences(text) if workspace.config.is_multilingual else None
        return _with_noise(workspace, job, codec, text, seed=job.seed, directions=directions)


def validation_text(workspace: Workspace, job: Job, codec: TextCodec) -> BinarizedData:
    """Return the validation text of a run that is trained on text with noise alone, with the same noise each time.

    It has the sentences of the validation set in the languages of the training text.

    Raises:
        UserError: if there is none within the size limits.
    """
    assert job.self_supervised is not None
    sides = sorted({side_of(name) for name in job.self_supervised.texts})
    parts = tuple(IndexedDataset(_prefix_of_set(workspace, "raw", "valid", side)) for side in sides)
    codes, tags = _codes(workspace), None
    if workspace.config.is_multilingual:
        tags = [workspace.prepare / "valid.tags"]
    languages = [_languages(workspace, codes, tags, side, len(part)) for side, part in zip(sides, parts, strict=True)]
    text = LanguageText(parts, tuple(sides), codes, np.concatenate(languages))
    trained = np.unique(_open(workspace, job, job.self_supervised.texts).language_N)
    is_trained_N = np.isin(text.language_N, trained)
    if not is_trained_N.any():
        raise UserError(f"no sentence is in a language of the text ({', '.join(codes[each] for each in trained)})")
    return _with_noise(workspace, job, codec, text, seed=0, usable_N=is_trained_N)


@contextmanager
def _naming(job: Job) -> Iterator[None]:
    """Put the YAML path of the settings before messages of errors."""
    try:
        yield
    except UserError as error:
        raise UserError(f"'{setting_path(job.path, 'self_supervised')}': {error}") from None


def _check_dictionaries(codec: TextCodec) -> None:
    if codec.src_dictionary != codec.tgt_dictionary:
        raise UserError("the model reads and writes the same languages, which needs one dictionary of both languages")


# ------------------------------------------------------------------------------------------------------- the sentences


def _open(workspace: Workspace, job: Job, names: Sequence[SelfSupervisedText]) -> LanguageText:
    """Open the texts with these names."""
    codes, tags = _codes(workspace), text_tags(workspace, job)
    parts: list[IndexedDataset] = []
    sides: list[int] = []
    languages = []
    for name in names:
        own = [IndexedDataset(prefix) for prefix in _prefixes_of_text(workspace, job, name)]
        parts += own
        sides += [side_of(name)] * len(own)
        languages.append(_languages(workspace, codes, tags.get(name), side_of(name), sum(map(len, own))))
    return LanguageText(tuple(parts), tuple(sides), codes, np.concatenate(languages))


def _codes(workspace: Workspace) -> tuple[str, ...]:
    """Return the codes of the languages of the pipeline; of one direction the source first."""
    return tuple(dict.fromkeys(code for each in workspace.config.trained_directions for code in each.sides))


def _languages(
    workspace: Workspace, codes: Sequence[str], tags: Sequence[Path] | None, side: int, size: int
) -> NDArray[np.int16]:
    """Return the index of the language of each sentence of a text.

    Args:
        tags: files with the direction of each sentence; None if the language is that of the side of one direction.
        side: side of the directions with the language.
        size: number of sentences.

    Raises:
        UserError: if the files have another number of lines, or a line is no direction of the pipeline.
    """
    if tags is None:
        return np.full(size, side, dtype=np.int16)
    directions = workspace.config.trained_directions
    of_lines = PairDirections.read(tags, [str(each) for each in directions]).direction_P
    if len(of_lines) != size:
        raise UserError(f"{', '.join(map(str, tags))}: {len(of_lines)} lines for {size} sentences")
    return np.array([codes.index(each.sides[side]) for each in directions], dtype=np.int16)[of_lines]


def _prefixes_of_text(workspace: Workspace, job: Job, name: SelfSupervisedText) -> list[Path]:
    """Return the prefixes of the files of a text in the data-bins."""
    if name not in MONOLINGUAL_SIDES:
        return [_prefix_of_set(workspace, each, "train", side_of(name)) for each in job.data]
    direction = workspace.direction
    return [data_prefix(workspace.data_bin, "monolingual", direction, direction.sides[side_of(name)])]


def _prefix_of_set(workspace: Workspace, name: str, split: str, side: int) -> Path:
    direction = workspace.direction
    return data_prefix(workspace.training_set(name) / "data-bin", split, direction, direction.sides[side])


# --------------------------------------------------------------------------------------------- the tokens and the noise


def _prefixes_of_targets(workspace: Workspace, codec: TextCodec, text: LanguageText) -> Prefixes | None:
    """Return the language tokens before masked text: in target languages those of the language, else none."""
    if not workspace.config.is_multilingual or not any(text.sides):
        return None
    ids = _language_prefixes(workspace, codec, text.codes, text.language_N[text.is_target_N])
    return Prefixes([(), *ids], np.where(text.is_target_N, text.language_N + 1, 0).astype(np.int16))


def _language_prefixes(
    workspace: Workspace, codec: TextCodec, codes: Sequence[str], language_N: NDArray[np.int16]
) -> list[tuple[int, ...]]:
    """Return the ids of the tokens of each language, for text that is written in its own language.

    Languages without a sentence, and models without language tokens, have none.

    Raises:
        UserError: if the vocabulary does not have a token.
    """
    if not workspace.config.is_multilingual:
        return [()] * len(codes)
    used, found = set(np.unique(language_N).tolist()), []
    for number, code in enumerate(codes):
        tokens = own_language_prefix(code, workspace.config.language_tokens) if number in used else ()
        check_language_tokens(codec.src_dictionary, tokens, "the vocabulary")
        found.append(tuple(codec.src_dictionary.index(token) for token in tokens))
    return found


def _with_noise(
    workspace: Workspace,
    job: Job,
    codec: TextCodec,
    text: LanguageText,
    *,
    seed: int,
    directions: PairDirections | None = None,
    usable_N: NDArray[np.bool_] | None = None,
) -> BinarizedData:
    """Return text with noise as sources, and without it as targets.

    Args:
        usable_N: whether each sentence may be used; None for all.
        directions: language of each sentence, by which `train.sampling` draws them; None for each sentence once.
    """
    assert job.self_supervised is not None
    assert job.self_supervised.denoising is not None
    of_corpora = [tag for tag in workspace.config.source_tags if tag in codec.src_dictionary]
    used = text.language_N if usable_N is None else text.language_N[usable_N]
    prefixes = _language_prefixes(workspace, codec, text.codes, used)
    noise = Infilling(
        settings=job.self_supervised.denoising,
        seed=seed,
        limits=_word_limits(workspace, codec, text.codes),
        prefixes=prefixes,
        language_N=text.language_N,
        tag_ids=codec.language_ids[0].union(map(codec.src_dictionary.index, of_corpora)),
    )
    data = ParallelData(tuple((part, part) for part in text.parts))
    fits_N = _fits_with_prefix(data, text, prefixes, job.train.max_source_tokens)
    return BinarizedData(
        data,
        job.train,
        seed=seed,
        sampling=noise,
        right_to_left=job.right_to_left,
        directions=directions,
        usable_P=fits_N if usable_N is None else fits_N & usable_N,
    )


def _fits_with_prefix(
    data: ParallelData, text: LanguageText, prefixes: Sequence[Sequence[int]], max_source_tokens: int
) -> NDArray[np.bool_]:
    """Return whether each sentence is within the limit of sources once it has the tokens of its language.

    Sentences of the source side have language tokens already, as many as they get.
    """
    added_N = np.array([len(each) for each in prefixes], dtype=np.int32)[text.language_N]
    sizes_N = data.src_sizes + np.where(text.is_target_N, added_N, 0)
    return sizes_N <= max_source_tokens if max_source_tokens else np.ones(len(sizes_N), dtype=bool)


def _with_sentences(text: LanguageText) -> PairDirections:
    """Return the language of each sentence, without languages that have none, in the form of directions of pairs."""
    used, index_N = np.unique(text.language_N, return_inverse=True)
    return PairDirections(tuple(text.codes[number] for number in used.tolist()), index_N.astype(np.int16))


def _word_limits(workspace: Workspace, codec: TextCodec, codes: Sequence[str]) -> list[WordLimits | None]:
    """Return the limits of the words of each language; None for a language that is written without spaces."""
    settings = workspace.config.prepare
    has_words = settings.text.already_applied or settings.tokenizer.type == "words"
    limits = word_limits(codec.tokenizers.source, codec.src_dictionary)
    return [limits if has_words or writes_spaces(code) else None for code in codes]
