"""The models of `kdmt translate` and `kdmt serve`: options of their search, and the choice by languages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kdmt.config import Context, Decode, NATDecode, checked
from kdmt.corpus.codec import TEXT_FILE, load_text_processor
from kdmt.corpus.text import TextProcessor
from kdmt.decode.engines.table import find_engine
from kdmt.decode.engines.translator import Translator
from kdmt.errors import UserError
from kdmt.interop.ctranslate2_folder import proposed_search
from kdmt.languages import Direction, matching_directions
from kdmt.log import get_logger
from kdmt.runtime import pick_device, use_threads

_logger = get_logger(__name__)

_LONGEST_CODE = 64  # characters of a language code in a message


@dataclass(frozen=True)
class SearchOptions:
    """Options of the search of `kdmt translate` and `kdmt serve`.

    Attributes:
        beam, lenpen: settings of the search (default: those proposed by an exported model, else those of `Decode`).
        max_len_a, max_len_b: settings of the search.
        iterations: maximum number of decoder passes of a non-autoregressive model.
        length_beam: number of lengths that a non-autoregressive model tries.
        threads: number of CPU threads; 0 for one per core.
        device: auto, cpu, cuda or cuda:<n>.
        tag: corpus tag that is put before each source sentence.
    """

    beam: int | None = None
    lenpen: float | None = None
    max_len_a: float = 1.2
    max_len_b: int = 10
    iterations: int = 10
    length_beam: int = 1
    threads: int = 0
    device: str = "auto"
    tag: str | None = None


def open_translator(path: Path, options: SearchOptions) -> tuple[Translator, Decode]:
    """Return the translator of a model, and the settings of its search.

    Raises:
        UserError: if an option is out of range or there is no model.
    """
    given = {name: value for name in ("beam", "lenpen") if (value := getattr(options, name)) is not None}
    lengths = {"max_len_a": options.max_len_a, "max_len_b": options.max_len_b}
    checked(Decode, "translate", **lengths, **given)
    for option, reason in without_effect(path, options):
        _logger.warning(f"{option} has no effect: {path} {reason}")
    used_threads = use_threads(options.threads)
    translator = Translator.load(
        path,
        device=pick_device(options.device),
        threads=used_threads,
        search=NATDecode(length_beam=options.length_beam),
        iterations=options.iterations,
        precision="auto",
    )
    if options.tag is not None:
        translator = translator.with_tag(options.tag)
    return translator, Decode(**lengths | proposed_search(path) | given)


def without_effect(path: Path, options: SearchOptions) -> Iterator[tuple[str, str]]:
    """Yield each given option that the engine of a model does not use, with the reason."""
    kind, _ = find_engine(path)
    default = SearchOptions()
    names, reason = (("iterations", "length_beam"), "is autoregressive")
    if not kind.nbest:
        names, reason = ("beam", "lenpen"), "is non-autoregressive"
    for name in names:
        if getattr(options, name) != getattr(default, name):
            yield f"--{name.replace('_', '-')}", reason
    if kind.library == "onnxruntime" and options.device.startswith("cuda"):
        yield "--device cuda", "runs on the CPU in ONNX Runtime"


def paths_by_direction(paths: Sequence[Path]) -> dict[Direction, Path]:
    """Return the path of each model by its direction, without opening the models; of a model with several by each.

    Raises:
        UserError: if there is no model, or two have the same languages.
    """
    found: dict[Direction, Path] = {}
    owners: dict[object, Path] = {}  # a model of a hundred languages has thousands of directions
    for path in paths:
        for direction in directions_of(path):
            identity = direction.identity
            if identity in owners:
                raise UserError(f"{owners[identity]} and {path} both translate {direction}")
            found[direction] = owners[identity] = path
    return found


def directions_of(path: Path) -> tuple[Direction, ...]:
    """Return the directions of a model, without opening it: one, or several of a multilingual model.

    Raises:
        UserError: if there is no model.
    """
    return _text_of(path).all_directions


def context_of(path: Path) -> Context | None:
    """Return how a model reads the context of sentences, without opening the model; None if it reads none.

    Raises:
        UserError: if there is no model.
    """
    return _text_of(path).context


def _text_of(path: Path) -> TextProcessor:
    return load_text_processor(find_engine(path)[1] / TEXT_FILE)


@dataclass
class ModelTable:
    """Models with different languages, each of which is opened when it is first used.

    Attributes:
        paths: path of each model.
        options: settings of the search.
    """

    paths: Mapping[Direction, Path]
    options: SearchOptions
    _opened: dict[Direction, tuple[Translator, Decode]] = field(default_factory=dict)
    _models: dict[Path, tuple[Translator, Decode]] = field(default_factory=dict)
    _texts: dict[Path, TextProcessor] = field(default_factory=dict)

    def find(self, source: str | None, target: str | None, *, splits_sentences: bool = False) -> Direction:
        """Return the direction of the only model for a source and a target language; None matches any.

        Args:
            splits_sentences: whether text is split into sentences, by the rules of the source language.

        Raises:
            UserError: if there is none, or there are several.
        """
        found = matching_directions(list(self.paths), source, target)
        if len(found) == 1 or self._are_alike(found, splits_sentences=splits_sentences):
            return found[0]
        wanted = "".join(
            f" {word} {code[:_LONGEST_CODE]!r}" for word, code in (("from", source), ("to", target)) if code
        )
        known = ", ".join(map(str, found or self.paths))
        if found and len({self.paths[each] for each in found}) == 1:
            raise UserError(f"the model translates{wanted} in several directions: choose one of {known}")
        raise UserError(
            f"{'several models translate' if found else 'no model translates'}{wanted}: choose from {known}"
        )

    def _are_alike(self, directions: Sequence[Direction], *, splits_sentences: bool) -> bool:
        """Return whether one model translates in the same way in all directions."""
        paths = {self.paths[each] for each in directions}
        if len(paths) != 1 or (splits_sentences and len({each.source for each in directions}) > 1):
            return False
        path = paths.pop()
        if path not in self._texts:  # asked for each line of JSONL
            self._texts[path] = _text_of(path)
        return self._texts[path].are_alike(directions)

    def open(self, direction: Direction) -> tuple[Translator, Decode]:
        """Return the translator and the settings of a model.

        Raises:
            UserError: if it cannot be opened.
        """
        if direction not in self._opened:
            path = self.paths[direction]
            if path not in self._models:
                self._models[path] = open_translator(path, self.options)
            translator, settings = self._models[path]
            self._opened[direction] = translator.for_direction(direction), settings
        return self._opened[direction]
