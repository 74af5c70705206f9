"""Large language models behind an endpoint as teachers.

The answers of the server are kept (`kdmt.distill.answer_log`), and blocks are made from them. A block can therefore be
made again without a request; whether the server would answer the same again is not known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from kdmt.checksum import known_sha256
from kdmt.config import Distill, EndpointTeacher, Sample
from kdmt.distill.answer_log import ANSWERS, AnswerLog, Reply, read_replies, sealed_path
from kdmt.distill.blocks import BLOCKS, Block, DamagedBlock, read_columns
from kdmt.distill.candidates import FindFailures, ToWords
from kdmt.distill.chat_client import ChatClient
from kdmt.distill.chosen_teacher import plan_settings
from kdmt.distill.decoding import BlockTask, SourceIds, Teacher, Translate
from kdmt.distill.earlier_answers import EarlierAnswers, write_index
from kdmt.distill.endpoint_requests import BlockAnswers, Exchange, Requests, distinct, in_order
from kdmt.distill.inputs import Inputs
from kdmt.distill.llm_answers import LanguageCheck
from kdmt.distill.llm_prompt import Prompt, estimate_tokens, read_prompt
from kdmt.distill.sources import SourceLines, Text
from kdmt.distill.text_ids import (
    VOCAB_SIZE,
    count_marks,
    decode_text,
    encode_answer,
    find_answer_failures,
)
from kdmt.distill.text_processing import TextDecoder, TextEncoder, text_hypotheses
from kdmt.distill.token_budget import TOKENS, TokenBudget
from kdmt.errors import UserError
from kdmt.types import Hypothesis
from kdmt.workers.tasks import WorkerSpec

SETTING = "distill.teachers.0."
_MAX_IDS = 1 << 30  # there is no limit of the ids of a text


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
        assert sample is None, "see kdmt.config.pipeline"
        ChatClient(self.model, SETTING)  # raises an error if there is no key

    def made_from(self, settings: Mapping[str, object], inputs: Mapping[str, str]) -> dict[str, object]:
        del inputs  # the prompt has its own checksum here, with the names of the languages
        of_files = {f"{SETTING}prompt", f"{SETTING}examples"}
        made_from = {key: value for key, value in plan_settings(settings, [SETTING]).items() if key not in of_files}
        made_from["prompt"] = self.prompt.sha256
        made_from["text processing"] = known_sha256(self.text.corpus.text_file)
        made_from["language check"] = self.check_of_language.method
        return made_from

    def open(
        self, folder: Path, sample: Sample | None, *, earlier: Sequence[Path] = (), verifying: bool = False
    ) -> Teacher:
        del sample
        answers = folder / ANSWERS
        if not verifying:
            answers.mkdir(exist_ok=True)
            write_index(answers, earlier, self.requests.sha256)
        return AnsweringTeacher(self.requests, answers, self.check_of_language, verifying)

    def opens_text(self) -> Callable[[], Text]:
        paths = tuple(text.source for text in self.text.texts())
        return partial(SourceLines, paths, TextEncoder(self.text.corpus.text_processor()))

    def to_words(self) -> ToWords:
        return TextDecoder(self.text.corpus.text_processor())

    def find_failures(self) -> FindFailures:
        return find_answer_failures

    def facts(self, folder: Path, tasks: Sequence[BlockTask]) -> dict[str, object]:
        """Return the number of requests and tokens of the stored answers, and how often each cleaning was necessary."""
        counts: Counter[str] = Counter()
        for task in tasks:
            for reply in read_replies(sealed_path(folder / ANSWERS, task.block)):
                counts["requests"] += 1
                counts["prompt_tokens"] += reply.prompt_tokens
                counts["output_tokens"] += reply.output_tokens
                counts["without_answer"] += reply.error is not None
            with suppress(DamagedBlock):
                counts.update(count_marks(read_columns(task.block.path(folder / BLOCKS)).tokens_T))
        return {"answers": dict(counts)}

    def estimate(self, folder: Path, earlier: Sequence[Path], tasks: Sequence[BlockTask], workdir: Path) -> list[str]:
        """Return the requests that a training set still needs, as lines for the user.

        Args:
            folder: folder of the stage, whether it exists or not.
            earlier: earlier states of the folder.
            tasks: all blocks.
            workdir: existing folder for temporary files.
        """
        write_index(workdir, earlier, self.requests.sha256)
        earlier_answers, text = EarlierAnswers(workdir, self.requests.sha256), self.opens_text()()
        counts: Counter[str] = Counter()
        for task in tasks:
            texts = [decode_text(source) for source in text.sentences(task.lines_N)]
            answers = BlockAnswers(self.requests, distinct(source for source in texts if source))
            own = AnswerLog(folder / ANSWERS, task.block).replies
            for reply in own:
                answers.add(reply)
            for reply in _find_new(answers, own, earlier_answers):
                answers.add(reply)
            for job in answers.jobs():
                before = 0 if job.batch is not None else len(answers.answers.get(job.sources[0], ()))
                request = self.requests.of(job, before)
                counts["requests"] += 1
                counts["sentences"] += len(job.sources)
                counts["prompt"] += request.prompt_tokens
                counts["output"] += request.n * sum(map(estimate_tokens, job.sources))
                counts["most"] += request.n * request.max_tokens
        return self._describe(counts, TokenBudget(folder / ANSWERS / TOKENS, self.model.budget_tokens))

    def _describe(self, counts: Counter[str], budget: TokenBudget) -> list[str]:
        limit = "no limit" if budget.limit is None else f"{budget.limit:,} tokens"
        return [
            f"{counts['requests']:,} requests for {counts['sentences']:,} sentences are needed",
            f"prompts: about {counts['prompt']:,} tokens",
            f"output: about {counts['output']:,} tokens, at most {counts['most']:,}",
            f"budget: {limit}, of which {budget.used():,} are used",
        ]


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
        exchange, earlier = None, None
        if not self.verifying:
            earlier = EarlierAnswers(self.answers, self.requests.sha256)
            budget = TokenBudget(self.answers / TOKENS, self.requests.settings.budget_tokens)
            exchange = Exchange(ChatClient(self.requests.settings, SETTING), self.requests, budget, SETTING)
        return partial(self._translate, exchange, earlier, made_with)

    def made_with(self, spec: WorkerSpec) -> dict[str, object]:
        """See `Teacher.made_with`."""
        del spec
        return {"reproducible": False}

    def _translate(
        self,
        exchange: Exchange | None,
        earlier: EarlierAnswers | None,
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
            progress(gather(answers, log, earlier))
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
        n = self.requests.settings.n
        found = text_hypotheses([answers.answers.get(text, [])[:n] for text in texts], texts, self.check)
        return [own or [Hypothesis(encode_answer("", ("no_answer",)), 0.0)] for own in found]


def gather(answers: BlockAnswers, log: AnswerLog, earlier: EarlierAnswers | None) -> int:
    """Add the replies of a block's log, and then those of earlier states, which are appended to the log.

    Returns:
        The number of sentences that need no request.
    """
    done = sum(map(answers.add, log.replies))
    for reply in _find_new(answers, log.replies, earlier) if earlier is not None else ():
        log.append(reply)
        done += answers.add(reply)
    return done


def _find_new(answers: BlockAnswers, known: Sequence[Reply], earlier: EarlierAnswers) -> list[Reply]:
    """Return the replies of earlier states to sentences that need more, without those that are known already."""
    missing = [source for source in answers.sources if not answers.is_complete(source)]
    found = earlier.find(missing) if missing else ()
    copied = set(known)  # before a kill
    return [reply for reply in found if reply not in copied]
