"""Large language models behind an endpoint as teachers.

The answers of the server are kept (`kdmt.distill.answer_log`), and blocks are made from them. A block can therefore be
made again without a request; whether the server would answer the same again is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from kdmt.checksum import known_sha256
from kdmt.config import Distill, EndpointTeacher, Sample
from kdmt.corpus.text import TextProcessor
from kdmt.distill.answer_log import ANSWERS, AnswerLog
from kdmt.distill.blocks import Block
from kdmt.distill.candidates import FindFailures, ToWords
from kdmt.distill.chat_client import ChatClient
from kdmt.distill.chosen_teacher import plan_settings
from kdmt.distill.decoding import SourceIds, Teacher, Translate
from kdmt.distill.endpoint_requests import BlockAnswers, Exchange, Requests, distinct, in_order
from kdmt.distill.inputs import Inputs
from kdmt.distill.llm_answers import NO_ANSWER, LanguageCheck, find_translation
from kdmt.distill.llm_prompt import Prompt, read_prompt
from kdmt.distill.sources import SourceLines, Text
from kdmt.distill.text_ids import (
    VOCAB_SIZE,
    decode_text,
    encode_answer,
    encode_source,
    find_answer_failures,
    split_hypotheses,
)
from kdmt.distill.token_budget import TOKENS, TokenBudget
from kdmt.errors import UserError
from kdmt.types import Hypothesis
from kdmt.workers.tasks import WorkerSpec

SETTING = "distill.teachers.0."
_MAX_IDS = 1 << 30  # there is no limit of the ids of a text


@dataclass(frozen=True)
class TextEncoder:
    """Function that converts words of the training text to ids of its text as a language model reads it."""

    text: TextProcessor

    def __call__(self, lines: Sequence[str]) -> list[NDArray[np.int64]]:
        return [encode_source(self.text.postprocess_source(line)) for line in lines]


@dataclass(frozen=True)
class TextDecoder:
    """Function that converts ids of text to words in the form of a corpus. See `ToWords`."""

    text: TextProcessor

    def __call__(self, tokens: NDArray[np.integer], sizes: NDArray[np.int32]) -> list[str]:
        texts = map(decode_text, split_hypotheses(tokens, sizes))
        return [" ".join(self.text.preprocess_target(text).split()) for text in texts]


@dataclass(frozen=True)
class EndpointModel:
    """A language model behind an endpoint. See `ChosenTeacher`."""

    model: EndpointTeacher
    text: Inputs
    prompt: Prompt
    is_reproducible: ClassVar[bool] = False
    vocab_size: ClassVar[int] = VOCAB_SIZE

    @classmethod
    def choose(cls, settings: Distill, inputs: Inputs) -> EndpointModel:
        """Return the model that the settings name. See `choose_teacher`."""
        (model,) = settings.teachers
        assert isinstance(model, EndpointTeacher)
        return cls(model, inputs, read_prompt(model, inputs.corpus.direction, SETTING))

    @property
    def check_of_language(self) -> LanguageCheck:
        return LanguageCheck(self.text.corpus.direction)

    @property
    def requests(self) -> Requests:
        """Form of the requests."""
        return Requests(self.model, self.prompt)

    def inputs(self) -> dict[str, str]:
        files = [path for path in (self.model.prompt, self.model.examples) if path is not None]
        return {path: known_sha256(Path(path)) for path in files}

    def check(self, sample: Sample | None) -> None:
        if sample is not None:
            raise UserError(
                f"{SETTING}endpoint: samples of a language model are its candidates: set {SETTING}n and "
                f"{SETTING}temperature, and choose among them with another 'data' than 'sampled'"
            )
        ChatClient(self.model, SETTING)  # raises an error if there is no key

    def made_from(self, settings: Mapping[str, object], inputs: Mapping[str, str]) -> dict[str, object]:
        del inputs  # the prompt has its own checksum here, with the names of the languages
        of_files = {f"{SETTING}prompt", f"{SETTING}examples"}
        made_from = {key: value for key, value in plan_settings(settings, [SETTING]).items() if key not in of_files}
        made_from["prompt"] = self.prompt.sha256
        made_from["text processing"] = known_sha256(self.text.corpus.text_file)
        made_from["language check"] = self.check_of_language.method
        return made_from

    def open(self, folder: Path, sample: Sample | None, *, verifying: bool = False) -> Teacher:
        del sample
        answers = folder / ANSWERS
        if not verifying:
            answers.mkdir(exist_ok=True)
        return AnsweringTeacher(self.requests, answers, self.check_of_language, verifying)

    def opens_text(self) -> Callable[[], Text]:
        paths = tuple(text.source for text in self.text.texts())
        return partial(SourceLines, paths, TextEncoder(self.text.corpus.text_processor()))

    def to_words(self) -> ToWords:
        return TextDecoder(self.text.corpus.text_processor())

    def find_failures(self) -> FindFailures:
        return find_answer_failures


@dataclass(frozen=True)
class AnsweringTeacher:
    """The values from which a worker opens the connection to a server. See `Teacher`.

    Attributes:
        requests: form of the requests.
        answers: folder of the answers.
        check: check of the language of answers.
        verifying: True to make blocks from the answers in the folder, and request nothing.
    """

    requests: Requests
    answers: Path
    check: LanguageCheck
    verifying: bool = False
    max_source_tokens: ClassVar[int] = _MAX_IDS
    max_target_tokens: ClassVar[int] = _MAX_IDS
    vocab_size: ClassVar[int] = VOCAB_SIZE
    limits_lengths: ClassVar[bool] = False

    def open(self, spec: WorkerSpec, made_with: dict[str, object]) -> Translate:
        """See `Teacher.open`. `made_with` gets what the server calls its model."""
        del spec
        exchange = None
        if not self.verifying:
            budget = TokenBudget(self.answers / TOKENS, self.requests.settings.budget_tokens)
            exchange = Exchange(ChatClient(self.requests.settings, SETTING), self.requests, budget, SETTING)
        return partial(self._translate, exchange, made_with)

    def made_with(self, spec: WorkerSpec) -> dict[str, object]:
        """See `Teacher.made_with`."""
        del spec
        return {"reproducible": False}

    def _translate(
        self,
        exchange: Exchange | None,
        made_with: dict[str, object],
        sources: SourceIds,
        _: list[int],
        block: Block,
        progress: Callable[[int], None],
    ) -> list[list[Hypothesis]]:
        texts = [decode_text(source) for source in sources]
        answers = BlockAnswers(self.requests, distinct(texts))
        log = AnswerLog(self.answers, block)
        try:
            progress(sum(map(answers.add, log.replies)))
            if exchange is not None:
                exchange.run(answers, log, progress)
            elif missing := answers.jobs():
                raise UserError(
                    f"{self.answers}: the answers to {len(missing):,} requests of block {block.number} are missing"
                )
            own = [reply for reply in log.replies if reply.settings == self.requests.sha256]
            replies = list(in_order(own, answers.sources))
            if exchange is not None:
                log.seal(replies)
        finally:
            log.close()
        for name, values in (
            ("model of the server", {reply.model for reply in replies}),
            ("system_fingerprint", {reply.fingerprint for reply in replies}),
        ):
            made_with[name] = sorted(value for value in values if value is not None)
        found = {source: self._hypotheses(source, answers) for source in answers.sources}
        return [found[text] for text in texts]

    def _hypotheses(self, source: str, answers: BlockAnswers) -> list[Hypothesis]:
        own = answers.answers.get(source, [])[: self.requests.settings.n]
        translations = [find_translation(answer, source, self.check) for answer in own] or [NO_ANSWER]
        # the protocol has no scores that all servers give
        return [Hypothesis(encode_answer(each.text, each.marks), 0.0) for each in translations]
