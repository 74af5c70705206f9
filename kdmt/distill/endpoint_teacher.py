"""Large language models behind an endpoint as teachers.

The answers of the server are kept (`kdmt.distill.answer_log`), and blocks are made from them. A block can therefore be
made again without a request; whether the server would answer the same again is not known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

from kdmt.checksum import known_sha256
from kdmt.config import Distill, EndpointTeacher, Sample
from kdmt.distill.answer_log import ANSWERS, AnswerLog, Reply, read_replies, sealed_path
from kdmt.distill.blocks import Block
from kdmt.distill.chat_client import ChatClient
from kdmt.distill.chosen_teacher import plan_settings
from kdmt.distill.decoding import BlockTask, SourceIds, Teacher, Translate
from kdmt.distill.earlier_answers import EarlierAnswers, write_index
from kdmt.distill.endpoint_requests import BlockAnswers, Exchange, Requests, distinct, in_order
from kdmt.distill.inputs import Inputs
from kdmt.distill.llm_prompt import Prompt, estimate_tokens, read_prompt
from kdmt.distill.text_ids import decode_text, encode_answer
from kdmt.distill.text_processing import text_hypotheses
from kdmt.distill.text_teachers import SETTING, AnsweringTeacher, TextTeacherModel
from kdmt.distill.token_budget import TOKENS, TokenBudget
from kdmt.errors import UserError
from kdmt.types import Hypothesis
from kdmt.workers.tasks import WorkerSpec


@dataclass(frozen=True)
class EndpointModel(TextTeacherModel):
    """A language model behind an endpoint. See `ChosenTeacher`.

    Attributes:
        model: entry of `distill.teachers`.
        prompt: prompt without the source text.
        others: function that returns the folders of other training sets of the pipeline and their earlier states, whose
            requests count in the budget too.
        setting: prefix of the model's settings in messages.
        answers: path of the folder of answers inside the stage's folder.
    """

    model: EndpointTeacher
    prompt: Prompt
    others: Callable[[], Sequence[Path]] = tuple
    setting: str = SETTING
    answers: str = ANSWERS
    is_reproducible: ClassVar[bool] = False

    @classmethod
    def choose(cls, settings: Distill, inputs: Inputs, setting: str = SETTING, answers: str = ANSWERS) -> EndpointModel:
        """Return the model that the settings name. See `choose_teacher`."""
        (model,) = settings.shared
        assert isinstance(model, EndpointTeacher)
        prompt = read_prompt(model, inputs.corpus.direction, setting)
        return cls(inputs, model, prompt, setting=setting, answers=answers)

    def reading(self, text: Inputs) -> EndpointModel:
        """Return the same model for another text, such as text with noise."""
        return replace(self, text=text)

    @property
    def requests(self) -> Requests:
        """Form of the requests."""
        return Requests(self.model, self.prompt)

    def inputs(self) -> dict[str, str]:
        files = [path for path in (self.model.prompt, self.model.examples) if path is not None]
        return {path: known_sha256(Path(path)) for path in files}

    def check(self, sample: Sample | None) -> None:
        assert sample is None, "see kdmt.config.pipeline"
        ChatClient(self.model, self.setting)  # raises an error if there is no key

    def made_from(self, settings: Mapping[str, object], inputs: Mapping[str, str]) -> dict[str, object]:
        del inputs  # the prompt has its own checksum here, with the names of the languages
        of_files = {f"{SETTING}prompt", f"{SETTING}examples"}
        made_from = {key: value for key, value in plan_settings(settings, [SETTING]).items() if key not in of_files}
        return made_from | {"prompt": self.prompt.sha256, **self.made_from_text()}

    def open(
        self, folder: Path, sample: Sample | None, *, earlier: Sequence[Path] = (), verifying: bool = False
    ) -> Teacher:
        del sample
        answers, used_before = folder / self.answers, 0
        if not verifying:
            answers.mkdir(parents=True, exist_ok=True)
            write_index(answers, earlier, self.requests.sha256, self.answers)
            start_count(answers)
            if self.model.budget_tokens is not None:
                used_before = self._used_in(earlier)
        return RequestingTeacher(self.check_of_language, self.requests, answers, used_before, verifying, self.setting)

    def facts(self, folder: Path, tasks: Sequence[BlockTask]) -> dict[str, object]:
        """Return the number of requests and tokens of the stored answers, and how often each cleaning was necessary."""
        counts = self.count_replies(folder, tasks)
        counts.update(self.count_marks(folder, tasks))
        return {"answers": dict(counts)}

    def count_replies(self, folder: Path, tasks: Sequence[BlockTask]) -> Counter[str]:
        """Return the number of requests and tokens of the stored answers.

        Args:
            folder: folder of the stage.
        """
        counts: Counter[str] = Counter()
        for task in tasks:
            for reply in read_replies(sealed_path(folder / self.answers, task.block)):
                counts["requests"] += 1
                counts["prompt_tokens"] += reply.prompt_tokens
                counts["output_tokens"] += reply.output_tokens
                counts["without_answer"] += reply.error is not None
        return counts

    def estimate(self, folder: Path, earlier: Sequence[Path], tasks: Sequence[BlockTask], workdir: Path) -> list[str]:
        """Return the requests that a training set still needs, as lines for the user.

        Args:
            folder: folder of the stage, whether it exists or not.
            earlier: earlier states of the folder.
            tasks: all blocks.
            workdir: existing folder for temporary files.
        """
        write_index(workdir, earlier, self.requests.sha256, self.answers)
        earlier_answers, text = EarlierAnswers(workdir, self.requests.sha256), self.opens_text()()
        counts: Counter[str] = Counter()
        for task in tasks:
            texts = [decode_text(source) for source in text.sentences(task.lines_N)]
            answers = BlockAnswers(self.requests, distinct(source for source in texts if source))
            own = AnswerLog(folder / self.answers, task.block).replies
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
        return self._describe(counts, used=self._used_in([folder, *earlier]))

    def _used_in(self, folders: Sequence[Path]) -> int:
        """Return the number of tokens that were used in folders of this training set, and in those of others."""
        return sum(count_used(folder / self.answers) for folder in (*folders, *self.others()))

    def _describe(self, counts: Counter[str], used: int) -> list[str]:
        budget = self.model.budget_tokens
        limit = "no limit" if budget is None else f"{budget:,} tokens"
        return [
            f"{counts['requests']:,} requests for {counts['sentences']:,} sentences are needed",
            f"prompts: about {counts['prompt']:,} tokens",
            f"output: about {counts['output']:,} tokens, at most {counts['most']:,}",
            f"budget: {limit}, of which {used:,} are used",
        ]


@dataclass(frozen=True)
class RequestingTeacher(AnsweringTeacher):
    """The values from which a worker opens the connection to a server. See `Teacher`.

    Attributes:
        requests: form of the requests.
        answers: folder of the answers.
        used_before: number of tokens in the budget that were used elsewhere.
        verifying: True to make blocks from the answers in the folder, and request nothing.
        setting: prefix of the model's settings in messages.
    """

    requests: Requests
    answers: Path
    used_before: int = 0
    verifying: bool = False
    setting: str = SETTING

    def open(self, spec: WorkerSpec, made_with: dict[str, object]) -> Translate:
        """See `Teacher.open`. `made_with` gets what the server calls its model."""
        del spec
        exchange, earlier = None, None
        if not self.verifying:
            earlier = EarlierAnswers(self.answers, self.requests.sha256)
            budget = TokenBudget(self.answers / TOKENS, self.requests.settings.budget_tokens, self.used_before)
            client = ChatClient(self.requests.settings, self.setting)
            exchange = Exchange(client, self.requests, budget, self.setting)
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
        # in the order in which they are stored and not as they arrived, so that the block can be made again from them
        stored = BlockAnswers(self.requests, answers.sources)
        for reply in replies:
            stored.add(reply)
        n = self.requests.settings.n
        found = text_hypotheses([stored.answers.get(text, [])[:n] for text in texts], texts, self.check)
        return [own or [Hypothesis(encode_answer("", ("no_answer",)), 0.0)] for own in found]


def count_used(answers: Path) -> int:
    """Return the number of tokens that requests used or reserved, by the count in a folder of answers.

    If there is no count, it is that of the stored answers.
    """
    if (answers / TOKENS).exists():
        return TokenBudget(answers / TOKENS).used()
    replies = dict.fromkeys(reply for path in sorted(answers.glob("[0-9]*.*")) for reply in read_replies(path))
    return sum(reply.prompt_tokens + reply.output_tokens for reply in replies)


def start_count(answers: Path) -> None:
    """Write the count of tokens of a folder of answers, unless there is one."""
    if not (answers / TOKENS).exists():
        TokenBudget(answers / TOKENS).settle(0, count_used(answers))


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
