"""Workers of teachers that answer with text and run on this machine in CTranslate2."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdmt.choices import AnswerFailure
from kdmt.config import Decode, LocalGenerator, LocalTranslator
from kdmt.decode.engines.ctranslate2_devices import compute_type_on, library_hint
from kdmt.decode.engines.engine import compute_in_batches, length_batches
from kdmt.decode.search.lengths import max_lengths
from kdmt.distill.blocks import Block
from kdmt.distill.decoding import SourceIds, Translate
from kdmt.distill.llm_answers import FINISHED_BY_LENGTH, Answer
from kdmt.distill.llm_prompt import MORE_TOKENS, Prompt
from kdmt.distill.teacher_engines import block_seed, machine
from kdmt.distill.text_ids import decode_text, encode_answer
from kdmt.distill.text_processing import text_hypotheses
from kdmt.distill.text_teachers import MAX_IDS, AnsweringTeacher
from kdmt.errors import UserError, describe_error
from kdmt.files import read_optional_json
from kdmt.interop.indictrans2 import IndicTrans2Tokenizer
from kdmt.interop.text_tokenizer import TextTokenizer, open_text_tokenizer
from kdmt.types import Hypothesis
from kdmt.workers.tasks import WorkerSpec

if TYPE_CHECKING:
    from ctranslate2 import Generator

_LIBRARIES = ("ctranslate2", "sentencepiece")


@dataclass(frozen=True)
class LocalTeacher(AnsweringTeacher):
    """A model in CTranslate2's format.

    Attributes:
        compute_type: value of `distill.compute_type`.
    """

    compute_type: str

    def made_with(self, spec: WorkerSpec) -> dict[str, object]:
        """See `Teacher.made_with`."""
        made_with: dict[str, object] = {**{name: version(name) for name in _LIBRARIES}, **machine(spec)}
        if spec.device.startswith("cuda"):
            made_with["compute_type"] = compute_type_on(spec.device, self.compute_type)
        return made_with


@dataclass(frozen=True)
class GeneratingTeacher(LocalTeacher):
    """A decoder-only language model. See `Teacher`.

    Attributes:
        settings: model and sampling.
        prompt: prompt without the source text.
    """

    settings: LocalGenerator
    prompt: Prompt

    def open(self, spec: WorkerSpec, made_with: dict[str, object]) -> Translate:  # noqa: ARG002
        """See `Teacher.open`."""
        folder = Path(self.settings.ctranslate2_generator)
        tokenizer = open_text_tokenizer(folder, begin=True, end=False)
        open_model = partial(_open_model, "Generator", folder, spec, self.compute_type)
        ends = self.settings.end_tokens or [_end_token(folder)]
        # a generator of random numbers is seeded when its thread starts: samples need a new model for each block
        model = None if self.settings.temperature > 0.0 else open_model()
        return partial(self._translate, tokenizer, ends, open_model, model)

    def _translate(
        self,
        tokenizer: TextTokenizer,
        ends: list[str],
        open_model: Callable[[], Any],
        model: Generator | None,
        sources: SourceIds,
        _: list[int],
        block: Block,
        progress: Callable[[int], None],
    ) -> list[list[Hypothesis]]:
        texts = [decode_text(source) for source in sources]
        prompts = [tokenizer.encode(self.prompt.fill(text)) for text in texts]
        if model is None:
            import ctranslate2

            ctranslate2.set_random_seed(block_seed(self.settings.seed, block))
            model = open_model()
        limits = [self._limit(tokenizer, text) for text in texts]
        found = compute_in_batches(
            list(map(len, prompts)),
            partial(self._generate, tokenizer, ends, model, prompts, limits),
            max_tokens=MAX_IDS,
            batch_size=self.settings.batch_size,
            progress=progress,
        )
        return text_hypotheses(found, texts, self.check)

    def _generate(
        self,
        tokenizer: TextTokenizer,
        ends: list[str],
        model: Generator,
        prompts: list[list[str]],
        limits: list[int],
        batch: list[int],
    ) -> Iterator[list[Answer]]:
        """Yield the answers to each prompt of a batch.

        The batch is generated up to its largest limit. A longer answer than its own limit is cut, which gives the same
        answer as a generation up to that limit.
        """
        settings = self.settings
        most = max(limits[index] for index in batch)
        is_sampling = settings.temperature > 0.0
        results = model.generate_batch(
            [prompts[index] for index in batch],
            max_batch_size=0,
            beam_size=1,
            num_hypotheses=settings.n,
            max_length=most,
            min_length=0,
            include_prompt_in_result=False,
            return_end_token=True,
            sampling_topk=0 if is_sampling else 1,
            sampling_topp=settings.top_p,
            sampling_temperature=settings.temperature if is_sampling else 1.0,
            end_token=ends,
        )
        for index, result in zip(batch, results, strict=True):
            yield [_answer(tokenizer, tokens, limits[index], most, ends) for tokens in result.sequences]

    def _limit(self, tokenizer: TextTokenizer, source: str) -> int:
        return math.ceil(self.settings.output_ratio * len(tokenizer.encode(source))) + MORE_TOKENS


@dataclass(frozen=True)
class TextTranslator(LocalTeacher):
    """A model with encoder and decoder that translates text. See `Teacher`.

    Attributes:
        model: folder of the model, and what its sources begin with.
        settings: settings of the search.
    """

    model: LocalTranslator
    settings: Decode

    def open(self, spec: WorkerSpec, made_with: dict[str, object]) -> Translate:  # noqa: ARG002
        """See `Teacher.open`."""
        folder = Path(self.model.ctranslate2)
        tokenizer = open_translator_tokenizer(self.model)
        model = _open_model("Translator", folder, spec, self.compute_type)
        return partial(self._translate, tokenizer, [_end_token(folder)], model)

    def _translate(
        self,
        tokenizer: TextTokenizer,
        ends: list[str],
        model: Any,
        sources: SourceIds,
        _: list[int],
        __: Block,
        progress: Callable[[int], None],
    ) -> list[list[Hypothesis]]:
        settings = self.settings
        texts = [decode_text(source) for source in sources]
        tokens = [tokenizer.encode(self.model.source_prefix + text) for text in texts]
        limits = max_lengths(list(map(len, tokens)), settings.max_len_a, settings.max_len_b, limit=MAX_IDS)
        found: list[list[tuple[Answer, float, int]]] = [[] for _ in texts]
        for limit, group in groupby(sorted(range(len(texts)), key=limits.__getitem__), key=limits.__getitem__):
            indices = list(group)  # CTranslate2 has one maximum length per call
            lengths = [len(tokens[index]) for index in indices]
            for batch in length_batches(lengths, max_tokens=settings.max_tokens, batch_size=settings.batch_size):
                own = [indices[place] for place in batch]
                results = model.translate_batch(
                    [tokens[index] for index in own],
                    max_batch_size=0,
                    beam_size=settings.beam,
                    num_hypotheses=settings.nbest,
                    length_penalty=settings.lenpen,
                    max_input_length=0,
                    max_decoding_length=limit,
                    min_decoding_length=0,
                    return_end_token=True,
                    return_scores=True,
                )
                for index, result in zip(own, results, strict=True):
                    found[index] = [
                        (_answer(tokenizer, each, limit, limit, ends), score, len(each))
                        for each, score in zip(result.hypotheses, result.scores, strict=True)
                    ]
                progress(len(batch))
        return self._hypotheses(found)

    def _hypotheses(self, answers: Sequence[Sequence[tuple[Answer, float, int]]]) -> list[list[Hypothesis]]:
        """Return the hypotheses; the model only translates, so that nothing but the limit and language can fail.

        Args:
            answers: answers to each source, with their scores and numbers of tokens.
        """
        texts = [" ".join(answer.text.split()) for own in answers for answer, _, _ in own]
        others = iter(self.check.find_others(texts))
        found: list[list[Hypothesis]] = []
        for own in answers:
            found.append([])
            for answer, score, num_tokens in own:
                marks: list[AnswerFailure] = ["wrong_language"] if next(others) else []
                if answer.finish == FINISHED_BY_LENGTH:
                    marks = ["truncated"]
                ids = encode_answer(" ".join(answer.text.split()), marks, num_tokens=num_tokens)
                found[-1].append(Hypothesis(ids, score))
        return found


def open_translator_tokenizer(model: LocalTranslator) -> TextTokenizer:
    """Return the tokenizer of a model that translates.

    Raises:
        UserError: if the folder has none, or it cannot be read.
    """
    folder = Path(model.ctranslate2)
    if model.codes is not None:
        return IndicTrans2Tokenizer(folder, *model.codes)
    return open_text_tokenizer(folder, begin=False, end=True)


def _answer(tokenizer: TextTokenizer, tokens: Sequence[str], limit: int, most: int, ends: Sequence[str]) -> Answer:
    """Return the answer in generated tokens, of which `limit` are allowed and `most` were generated at most.

    Args:
        ends: tokens that end an answer.
    """
    is_cut = len(tokens) > limit or (len(tokens) == most and tokens[-1] not in ends)
    kept = [token for token in tokens[:limit] if token not in ends]
    return Answer(tokenizer.decode(kept), FINISHED_BY_LENGTH if is_cut else "stop")


def _end_token(folder: Path) -> str:
    """Return the token that ends an output of the model."""
    record = read_optional_json(folder / "config.json") or {}
    return str(record.get("eos_token", "</s>"))


def _open_model(kind: str, folder: Path, spec: WorkerSpec, compute_type: str) -> Any:
    """Return a model of CTranslate2; `kind` is the name of its class.

    Raises:
        UserError: if it cannot be loaded.
    """
    import ctranslate2

    device, _, index = spec.device.partition(":")
    number_type = compute_type_on(spec.device, compute_type)
    try:
        return getattr(ctranslate2, kind)(
            str(folder),
            device=device,
            device_index=int(index or 0),
            compute_type=number_type,
            inter_threads=1,
            intra_threads=spec.threads,
        )
    except (ValueError, RuntimeError, MemoryError) as error:
        reason = describe_error(error) + library_hint(str(error))
        raise UserError(f"{folder}: CTranslate2 cannot load it on {spec.device} as {number_type}: {reason}") from None
