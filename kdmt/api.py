"""The Python interface to trained models and pipelines.

    import kdmt

    model = kdmt.load("runs/toy/students/distilled/seed_1")
    model.translate(["The dog sleeps."], beam=5)
    model.score(["The dog sleeps."], ["Der Hund schläft."])
    kdmt.Pipeline.from_yaml("toy.yaml", overrides={"teacher.train.max_updates": 1000}).run(to="score")

Invalid input raises `kdmt.UserError`. Messages go to the logger `kdmt`, which is silent by default.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import yaml

from kdmt.config import Decode, NATDecode, checked, load_locked_pipeline
from kdmt.errors import UserError
from kdmt.log import get_logger

if TYPE_CHECKING:
    from kdmt.choices import StageName
    from kdmt.commands.status import StageStatus
    from kdmt.decode.engines.translator import Translator
    from kdmt.score.contrastive import ContrastivePair, ContrastiveResult
    from kdmt.stages.workspace import Workspace
    from kdmt.types import Hypothesis

__all__ = ["Model", "Pipeline", "Translation", "load", "lock"]

Progress = Callable[[int, int], None]  # (number of items that are done, number of all items)
Contexts = Sequence[Sequence[str]]  # the previous sentences of the document of each source, in their order
Mirrors = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None  # folders or bases of URLs, or one of them

_logger = get_logger(__name__)
_SCORED_AT_ONCE = 512  # number of pairs between two calls of `progress`


@dataclass(frozen=True)
class Translation:
    """One hypothesis for one sentence.

    Attributes:
        text: detokenised text, with subwords joined and text processing undone.
        tokens: the subword tokens, without `</s>`.
        score: the score by which hypotheses are ordered. For beam search, it is the sum of the natural-log
            probabilities divided by length ** lenpen, with `</s>` counted.
        token_log_probs: the natural-log probability of each token, `</s>` last; empty for an engine that does not
            return it.
    """

    text: str
    tokens: tuple[str, ...]
    score: float
    token_log_probs: tuple[float, ...] = ()


@dataclass(frozen=True)
class Model:
    """A trained model with its tokenizer and text processing. Use `load` to open one.

    Attributes:
        path: the run, checkpoint or exported folder.
        translator: the decoding engine and the text processing.
    """

    path: Path
    translator: Translator = field(repr=False)

    @property
    def source_lang(self) -> str:
        """Source language of the model; `directions` has those of a multilingual one."""
        self.translator.codec.text.require_one_direction()
        return self.translator.codec.text.source_lang

    @property
    def target_lang(self) -> str:
        """Target language of the model; `directions` has those of a multilingual one."""
        self.translator.codec.text.require_one_direction()
        return self.translator.codec.text.target_lang

    @property
    def directions(self) -> list[tuple[str, str]]:
        """Source and target language of each direction: one, or several of a multilingual model."""
        return [each.sides for each in self.translator.codec.text.all_directions]

    def for_languages(self, target: str | None, source: str | None = None) -> Model:
        """Return the model for one direction of a multilingual model.

        Args:
            target: target language; None for any, if only one direction has the source.
            source: source language; needed only if several directions have the target, and the tokens or the text
                processing depend on the source language.

        Raises:
            UserError: if the model has no such direction, or several that are different.
        """
        direction = self.translator.codec.text.find_direction(source, target)
        return replace(self, translator=self.translator.for_direction(direction))

    @overload
    def translate(
        self,
        sentences: Sequence[str],
        *,
        beam: int | None = None,
        nbest: None = None,
        lenpen: float | None = None,
        max_len_a: float = 1.2,
        max_len_b: int = 10,
        hypotheses: Literal[False] = False,
        progress: Progress | None = None,
    ) -> list[str]: ...

    @overload
    def translate(
        self,
        sentences: Sequence[str],
        *,
        beam: int | None = None,
        nbest: int,
        lenpen: float | None = None,
        max_len_a: float = 1.2,
        max_len_b: int = 10,
        hypotheses: Literal[False] = False,
        progress: Progress | None = None,
    ) -> list[list[str]]: ...

    @overload
    def translate(
        self,
        sentences: Sequence[str],
        *,
        beam: int | None = None,
        nbest: int | None = None,
        lenpen: float | None = None,
        max_len_a: float = 1.2,
        max_len_b: int = 10,
        hypotheses: Literal[True],
        progress: Progress | None = None,
    ) -> list[list[Translation]]: ...

    def translate(
        self,
        sentences: Sequence[str],
        *,
        beam: int | None = None,
        nbest: int | None = None,
        lenpen: float | None = None,
        max_len_a: float = 1.2,
        max_len_b: int = 10,
        hypotheses: bool = False,
        progress: Progress | None = None,
    ) -> list[str] | list[list[str]] | list[list[Translation]]:
        """Translate raw sentences.

        The result equals that of `kdmt translate` with the same options. A sentence without words has an empty
        translation; a sentence that is too long for the model is truncated, with a warning to the logger. For a model
        with context (`prepare.context`), the sentences are those of documents in their order, and a sentence without
        words begins a new document.

        Args:
            sentences: raw text, one sentence each.
            beam: beam size (default: that given to `kdmt export`, else 5).
            nbest: number of hypotheses for each sentence, at most `beam` (default: only the best one).
            lenpen: exponent of the length by which log-probabilities are divided (default: that given to
                `kdmt export`, else 1).
            max_len_a: a in the maximum target length a * S + b, where S is the number of source tokens.
            max_len_b: b in the maximum target length.
            hypotheses: whether to return `Translation` objects, with tokens and scores, instead of strings.
            progress: called with the number of sentences that are translated and the number of all sentences.

        Returns:
            One string for each sentence. With `nbest`, a list of strings for each, best first. With `hypotheses`, a
            list of `Translation` for each, best first.

        Raises:
            UserError: if a setting is out of range, `sentences` is not a sequence of single-line strings, or `nbest` is
                larger than 1 for a non-autoregressive model.

        Examples:
            >>> model.translate(["A dog runs ."], beam=5)
            ['Ein Hund läuft .']
            >>> model.translate(["A dog runs ."], beam=5, nbest=3)
            [['Ein Hund läuft .', 'Ein Hund rennt .', 'Der Hund läuft .']]
        """
        from kdmt.interop.ctranslate2_folder import proposed_search

        lines = self.translator.add_context(_checked_lines(sentences, "sentences"))
        given = {"beam": beam, "nbest": nbest, "lenpen": lenpen}
        options = proposed_search(self.path) | {name: value for name, value in given.items() if value is not None}
        settings = checked(Decode, "translate", max_len_a=max_len_a, max_len_b=max_len_b, **options)
        found = [self._translations(nbest_of) for nbest_of in self._decode(lines, settings, progress)]
        if hypotheses:
            return found
        if nbest is not None:
            return [[each.text for each in translations] for translations in found]
        return [translations[0].text for translations in found]

    @overload
    def score(
        self,
        sources: Sequence[str],
        targets: Sequence[str],
        *,
        by_token: Literal[False] = False,
        contexts: Contexts | None = None,
        progress: Progress | None = None,
    ) -> list[float]: ...

    @overload
    def score(
        self,
        sources: Sequence[str],
        targets: Sequence[str],
        *,
        by_token: Literal[True],
        contexts: Contexts | None = None,
        progress: Progress | None = None,
    ) -> list[list[float]]: ...

    def score(
        self,
        sources: Sequence[str],
        targets: Sequence[str],
        *,
        by_token: bool = False,
        contexts: Contexts | None = None,
        progress: Progress | None = None,
    ) -> list[float] | list[list[float]]:
        """Return the log-probability of each target given its source, by teacher forcing.

        For a model with context (`prepare.context`), the sources are those of documents in their order, as for
        `translate`, unless `contexts` has the previous sentences of each.

        Args:
            sources: raw source text, one sentence each.
            targets: raw target text, one translation for each source.
            by_token: whether to return the log-probability of each target token instead of their sum.
            contexts: previous sentences of the document of each source, in their order, for a model with context.
            progress: called with the number of pairs that are scored and the number of all pairs.

        Returns:
            The natural-log probability of each target, `</s>` included, not divided by its length; NaN for a pair that
            is too long for the model. With `by_token`, the natural-log probabilities of its tokens, `</s>` last; an
            empty list for a pair that is too long for the model.

        Raises:
            UserError: if the numbers of sources, targets and contexts differ, if the model has several directions and
                none is chosen, if it has contexts and reads none, or if the model does not return such probabilities,
                which non-autoregressive models do not.

        Examples:
            >>> model.score(["A dog runs ."], ["Ein Hund läuft ."])
            [-1.0724]
        """
        lines = _checked_lines(sources, "sources"), _checked_lines(targets, "targets")
        if len(lines[0]) != len(lines[1]):
            raise UserError(f"{len(lines[0])} sources and {len(lines[1])} targets: give a target for each source")
        if lines[0]:
            self._require_scores()
        lines = self._with_contexts(lines[0], contexts), lines[1]
        scored: list[list[float]] = []
        for start in range(0, len(lines[0]), _SCORED_AT_ONCE):
            scored += self.translator.score(*(side[start : start + _SCORED_AT_ONCE] for side in lines))
            if progress is not None:
                progress(len(scored), len(lines[0]))
        return scored if by_token else [math.fsum(each) if each else math.nan for each in scored]

    def contrast(self, pairs: Sequence[ContrastivePair], *, progress: Progress | None = None) -> ContrastiveResult:
        """Return for each contrastive pair whether the right target has a larger log-probability than all wrong ones.

        A model without context scores the sources alone, so that both kinds of model can be compared.

        Args:
            pairs: sources with their contexts, right and wrong targets; `kdmt.score.contrastive.read_pairs` reads them
                from a file.
            progress: called with the number of targets that are scored and the number of all targets.

        Returns:
            The result, with the accuracy. A pair of which a target is too long for the model counts as wrong.

        Raises:
            UserError: if there is no pair, or as for `score`.

        Examples:
            >>> pair = ContrastivePair("It fell .", "Sie fiel .", ("Er fiel .",), context=("I held the cup .",))
            >>> model.contrast([pair]).accuracy
            100.0
        """
        from kdmt.decode.engines.contrastive import contrast

        if not pairs:
            raise UserError("pairs: there is no contrastive pair")
        self._require_scores()
        return contrast(self.translator, pairs, progress=progress)

    def _with_contexts(self, sources: Sequence[str], contexts: Contexts | None) -> list[str]:
        """Return the sources as the model reads them, with their contexts if it has any.

        Raises:
            UserError: if the number of contexts differs, or the model reads none.
        """
        if contexts is None:
            return self.translator.add_context(sources)
        if self.translator.codec.text.context is None:
            raise UserError(f"contexts: {self.path} was trained without context ('prepare.context')")
        if len(contexts) != len(sources):
            raise UserError(f"{len(sources)} sources and {len(contexts)} contexts: give a context for each source")
        found = []
        for index, (source, previous) in enumerate(zip(sources, contexts, strict=True)):
            found.append(self.translator.with_context(source, _checked_lines(previous, f"contexts[{index}]")))
        return found

    def _decode(self, lines: Sequence[str], settings: Decode, progress: Progress | None) -> list[list[Hypothesis]]:
        """Return the hypotheses of each line, best first; one empty hypothesis for a line without words."""
        from kdmt.decode.engines.engine import ScoringEngine
        from kdmt.types import Hypothesis

        if settings.nbest > 1 and not isinstance(self.translator.engine, ScoringEngine):
            raise UserError(f"nbest {settings.nbest}: a non-autoregressive model gives one translation")
        sources = self.translator.encode(lines, noun="sentence", first=0)
        done = sum(len(source) == 1 for source in sources)  # only </s>: nothing to translate

        def advance(count: int) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(done, len(sources))

        found = self.translator.hypotheses(sources, settings, progress=advance)
        return [nbest or [Hypothesis((), 0.0)] for nbest in found]

    def _translations(self, nbest: Sequence[Hypothesis]) -> list[Translation]:
        codec = self.translator.codec
        symbols = codec.tgt_dictionary.symbols
        return [
            Translation(
                text=codec.finish_target(codec.decode_target(each.tokens)),
                tokens=tuple(symbols[token] for token in each.tokens),
                score=float(each.score),
                token_log_probs=tuple(map(float, each.log_probs)),
            )
            for each in nbest
        ]

    def _require_scores(self) -> None:
        """Check that the model gives probabilities of given targets.

        Raises:
            UserError: if it does not.
        """
        from kdmt.decode.engines.engine import ScoringEngine

        if not isinstance(self.translator.engine, ScoringEngine):
            raise UserError(
                f"{self.path}: this model gives no probabilities of given targets: it is not autoregressive"
            )


def load(
    path: str | os.PathLike[str],
    *,
    device: str = "auto",
    threads: int | None = None,
    iterations: int = 10,
    length_beam: int = 1,
) -> Model:
    """Open a trained model.

    Args:
        path: a run such as `runs/NAME/teacher` or `runs/NAME/students/STUDENT/seed_1`, of which the checkpoint that
            was chosen by validation is opened, a checkpoint folder, or a CTranslate2 or ONNX folder that
            `kdmt export` wrote.
        device: `auto`, `cpu`, `cuda` or `cuda:N`; `auto` is the first GPU if there is one.
        threads: number of CPU threads of this process, 0 for one per core (default: PyTorch's setting).
        iterations: maximum number of iterations of a non-autoregressive model.
        length_beam: number of lengths that a non-autoregressive model tries.

    Returns:
        The model.

    Raises:
        UserError: if there is no model at the path, the model is damaged, or the device does not exist.

    Examples:
        >>> model = kdmt.load("runs/toy/students/distilled/seed_1")
        >>> model.translate(["The dog sleeps."])
        ['Der Hund schläft.']
    """
    from kdmt.decode.engines.translator import Translator
    from kdmt.runtime import pick_device, use_threads

    search = checked(NATDecode, "load", length_beam=length_beam)
    if iterations < 1:
        raise UserError(f"iterations {iterations}: expected 1 or more")
    used = None if threads is None else use_threads(threads)
    folder = Path(path)
    translator = Translator.load(folder, device=pick_device(device), threads=used, search=search, iterations=iterations)
    directions = translator.codec.text.all_directions
    return Model(folder, translator.for_direction(directions[0]) if len(directions) == 1 else translator)


class Pipeline:
    """A distillation pipeline: the settings of a YAML file, and the folder with the outputs of its stages.

    Args:
        workspace: the settings and the folders.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    @classmethod
    def from_yaml(
        cls,
        path: str | os.PathLike[str],
        *,
        overrides: Mapping[str, Any] | None = None,
        runs: str | os.PathLike[str] = "runs",
        mirror: Mirrors = None,
    ) -> Pipeline:
        """Read and validate a pipeline file.

        Args:
            path: the YAML file.
            overrides: settings to change, by their path, for example `{"teacher.train.max_updates": 1000}`.
            runs: the folder for the outputs of all pipelines.
            mirror: folders or bases of URLs in which the files of URLs are looked up first, or one of them.

        Returns:
            The pipeline, of which no stage is run.

        Raises:
            UserError: if the file does not exist or a setting is not valid, with the YAML path, or if a name of a data
                set or a URL without a SHA-256 is not in the lock file.

        Examples:
            >>> pipeline = kdmt.Pipeline.from_yaml("toy.yaml", runs="trial")
        """
        from kdmt.stages.workspace import Workspace

        loaded = load_locked_pipeline(Path(path), _overrides(overrides))
        return cls(Workspace(loaded.config, Path(runs), _mirrors(mirror), provenance=loaded.provenance))

    @property
    def folder(self) -> Path:
        """The folder of this pipeline's outputs."""
        return self.workspace.root

    def run(self, to: StageName = "score", *, student: str | None = None, progress: Progress | None = None) -> None:
        """Run every stage that is not up to date, up to a stage; the same as `kdmt run`.

        Under `torchrun`, all ranks call this together.

        Args:
            to: the last stage: `prepare`, `back-translate`, `teacher`, `distill`, `knowledge`, `student` or `score`.
                For `score` all students are trained first.
            student: the name of the one student to train (default: all students).
            progress: called after each stage with the number of stages that are up to date and the number of stages
                that are needed.

        Raises:
            UserError: if there is no such stage or student, or if the settings or the input of a stage are not valid.
            Interrupted: if a signal stopped a stage after it saved its work; `run` continues from there.

        Examples:
            >>> kdmt.Pipeline.from_yaml("toy.yaml").run(to="student", student="distilled")
        """
        from kdmt.commands.run import run_pipeline
        from kdmt.ranks import joined_ranks

        with joined_ranks() as ranks:
            run_pipeline(replace(self.workspace, ranks=ranks), to=to, student=student, progress=progress)

    def status(self) -> list[StageStatus]:
        """Return the state of every stage, in the order in which they run. No file is written.

        Raises:
            UserError: if the stages cannot be planned from the settings.

        Examples:
            >>> [stage.name for stage in pipeline.status() if stage.state != "up to date"]
            ['student distilled seed 1', 'score']
        """
        from kdmt.commands.status import pipeline_status

        return pipeline_status(self.workspace)


def lock(
    path: str | os.PathLike[str],
    *,
    overrides: Mapping[str, Any] | None = None,
    runs: str | os.PathLike[str] = "runs",
    mirror: Mirrors = None,
    update: bool | Sequence[str] = False,
) -> Path:
    """Write the files behind names of data sets and URLs of a pipeline to its lock file; the same as `kdmt lock`.

    Args:
        path: the YAML file of the pipeline.
        overrides: settings to change, by their path.
        runs: the folder for the outputs of all pipelines, and for downloads.
        mirror: folders or bases of URLs in which the files of URLs are looked up first, or one of them.
        update: whether to lock again what is locked already, or the names, URLs or YAML paths to lock again.

    Returns:
        The path of the lock file.

    Raises:
        UserError: if the pipeline or its lock file is not valid, a name is unknown, or a file cannot be downloaded or
            read or differs from what is locked.

    Examples:
        >>> kdmt.lock("en-is.yaml", update=["ParaCrawl/v9"])
        PosixPath('en-is.lock.yaml')
    """
    from kdmt.commands.lock import lock_pipeline

    if isinstance(update, str):
        raise UserError("update: expected a list of names, not one string")
    return lock_pipeline(
        Path(path),
        _overrides(overrides),
        runs=Path(runs),
        mirrors=_mirrors(mirror),
        update=bool(update),
        names=() if isinstance(update, bool) else update,
        show=_logger.info,
    )


def _overrides(given: Mapping[str, Any] | None) -> list[str]:
    return [_override(name, value) for name, value in (given or {}).items()]


def _mirrors(given: Mirrors) -> tuple[str, ...]:
    mirrors = [given] if isinstance(given, str | os.PathLike) else given or ()
    return tuple(os.fspath(each) for each in mirrors)


def _override(name: str, value: Any) -> str:
    """Return a setting in the form of `--set`, with the value as YAML on one line."""
    try:
        text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=math.inf)
    except yaml.YAMLError:
        raise UserError(f"{name}: {value!r} is not a value of a YAML file") from None
    scalar = text.removesuffix("...\n")  # the end marker of a document that is a plain scalar
    return f"{name}={scalar}"


def _checked_lines(lines: Sequence[str], name: str) -> list[str]:
    """Return the lines if they are single-line strings.

    Raises:
        UserError: if `lines` is a string, or an item is not a single-line string; the message has the item's index.
    """
    if isinstance(lines, str):
        raise UserError(f"{name}: expected a list of strings, not one string")
    for index, line in enumerate(lines):
        if not isinstance(line, str):
            raise UserError(f"{name}[{index}]: expected a string, not {type(line).__name__}")
        if "\n" in line:
            raise UserError(f"{name}[{index}]: holds a line break; give one sentence for each string")
    return list(lines)
