"""The requests of a block: which sentences still need one, and the answers that arrive for them.

The requests depend on the replies so far only, so that a command that was killed continues where it was. In a batch of
several sentences, each sentence whose line is not found in the answer is requested alone; so are the candidates that a
server does not give although it was asked for `n`.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from kdmt.choices import AnswerBatch
from kdmt.config import EndpointTeacher
from kdmt.distill.answer_log import AnswerLog, Reply
from kdmt.distill.chat_client import ChatClient, ChatRequest, RequestFailed, Stopped
from kdmt.distill.llm_answers import Answer, join_sources, split_answer
from kdmt.distill.llm_prompt import Prompt, estimate_tokens, max_output_tokens
from kdmt.distill.token_budget import BudgetExceeded, TokenBudget
from kdmt.errors import UserError

_POLL_SECONDS = 1.0  # between two signs of life to the driver
_MAX_FAILURES = 20  # requests in a row that fail, after which the server counts as broken


@dataclass(frozen=True)
class Requests:
    """The form of all requests of a teacher.

    Attributes:
        settings: model, sampling and batches.
        prompt: prompt without the source text.
    """

    settings: EndpointTeacher
    prompt: Prompt

    @property
    def sha256(self) -> str:
        """Hash of everything that an answer depends on besides its source."""
        settings = self.settings
        sampling = (settings.model, settings.n, settings.temperature, settings.top_p, settings.min_p, settings.seed)
        parts = (
            *sampling,
            settings.output_ratio,
            sorted(map(repr, settings.request_fields.items())),
            self.prompt.sha256,
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]

    def of(self, job: Job, before: int = 0) -> ChatRequest:
        """Return the request for a job, whose sentence has `before` candidates already."""
        settings = self.settings
        source = job.sources[0] if job.batch is None else join_sources(job.sources, job.batch)
        prompt = self.prompt.fill(source)
        seed = None if settings.seed is None else settings.seed + before
        most = max_output_tokens(source, settings.output_ratio)
        return ChatRequest(prompt, settings.n - before, most, seed, estimate_tokens(prompt))


@dataclass(frozen=True)
class Job:
    """Sentences that are requested together."""

    sources: tuple[str, ...]
    batch: AnswerBatch | None = None


@dataclass
class BlockAnswers:
    """The candidates of the distinct sentences of a block so far.

    Attributes:
        requests: form of the requests.
        sources: source sentences in their order, each once.
    """

    requests: Requests
    sources: Sequence[str]
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)  # sentences without an answer after all attempts
    was_in_batch: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._wanted = set(self.sources)
        self._settings = self.requests.sha256

    def add(self, reply: Reply) -> int:
        """Add a reply.

        Returns:
            The number of sentences that need no further request because of it.
        """
        if reply.settings != self._settings:
            return 0
        before = sum(map(self.is_complete, reply.sources))
        if reply.error is not None and reply.batch is None:
            self.failed.add(reply.sources[0])
        for answer in reply.answers:
            parts = [answer] if reply.batch is None else split_answer(answer, len(reply.sources), reply.batch)
            for source, part in zip(reply.sources, parts, strict=True):
                if part is not None and source in self._wanted:
                    self.answers.setdefault(source, []).append(part)
        if reply.batch is not None:
            self.was_in_batch.update(reply.sources)
        return sum(map(self.is_complete, reply.sources)) - before

    def is_complete(self, source: str) -> bool:
        """Return whether a sentence needs no further request."""
        return source in self.failed or len(self.answers.get(source, ())) >= self.requests.settings.n

    def jobs(self) -> list[Job]:
        """Return the requests that are still needed; those of several sentences come first."""
        settings, batches = self.requests.settings, []
        if settings.batch is not None:
            for start in range(0, len(self.sources), settings.batch_size):
                group = self.sources[start : start + settings.batch_size]
                new = tuple(each for each in group if not self.is_complete(each) and each not in self.was_in_batch)
                if len(new) > 1:
                    batches.append(Job(new, settings.batch))
        in_batches = {source for job in batches for source in job.sources}
        alone = [Job((source,)) for source in self.sources if source not in in_batches]
        return [*batches, *(job for job in alone if not self.is_complete(job.sources[0]))]

    def follow_ups(self, job: Job) -> list[Job]:
        """Return the requests that are needed after the reply to a job."""
        return [Job((source,)) for source in job.sources if not self.is_complete(source)]


class Exchange:
    """Sends the requests of one worker, with a limited number at a time.

    Args:
        client: client of the server.
        requests: form of the requests.
        budget: tokens that may be used.
        setting: YAML path of the teacher with a dot at its end, for messages.
    """

    def __init__(self, client: ChatClient, requests: Requests, budget: TokenBudget, setting: str) -> None:
        self._client, self._requests, self._budget, self._setting = client, requests, budget, setting
        self._failures_in_row = 0
        self._has_answered = False

    def run(self, answers: BlockAnswers, log: AnswerLog, progress: Callable[[int], None]) -> None:
        """Request what is missing, and append each reply to the log as soon as it arrives.

        A failure of a request is recorded only if the server answers another request, so that a server that is down
        does not make sentences fail.

        Raises:
            UserError: if the budget does not suffice, or no request is answered. What has been answered is in the log.
        """
        jobs = answers.jobs()
        if not jobs:
            return
        run = _Run(self, answers, log, progress, deque(jobs))
        with ThreadPoolExecutor(min(self.concurrency, len(answers.sources))) as pool:
            try:
                run.work(pool)
            finally:
                run.stop.set()  # requests that wait for another attempt end now

    def send(self, job: Job, answers: BlockAnswers, log: AnswerLog, stop: threading.Event) -> Reply:
        """Send the request of a job and return the reply, which is in the log unless it is an error."""
        before = 0 if job.batch is not None else len(answers.answers.get(job.sources[0], ()))
        request, settings = self._requests.of(job, before), self._requests.sha256
        try:
            found = self._client.complete(request, self._budget, stop)
        except RequestFailed as error:
            return Reply(job.sources, job.batch, settings, error=str(error), before=before)
        output = sum(estimate_tokens(answer.text) for answer in found.answers)
        reply = Reply(
            job.sources,
            job.batch,
            settings,
            found.answers,
            request.prompt_tokens if found.prompt_tokens is None else found.prompt_tokens,
            output if found.output_tokens is None else found.output_tokens,
            found.model,
            found.fingerprint,
            before=before,
        )
        log.append(reply)
        return reply

    def count(self, reply: Reply) -> None:
        """Count failures in a row.

        Raises:
            UserError: if there are too many.
        """
        if reply.error is None:
            self._failures_in_row, self._has_answered = 0, True
            return
        self._failures_in_row += 1
        if self._failures_in_row >= _MAX_FAILURES:
            raise self.broken(reply)

    @property
    def concurrency(self) -> int:
        """Maximum number of requests at a time."""
        return self._requests.settings.concurrency

    @property
    def has_answered(self) -> bool:
        """Return whether the server has answered any request of this worker."""
        return self._has_answered

    def broken(self, reply: Reply) -> UserError:
        """Return the error for a server that answers no request."""
        return UserError(
            f"{self._client.url}: {self._failures_in_row} requests in a row failed after all attempts, the last one: "
            f"{reply.error}; what is answered is kept: run it again once the server works"
        )

    def over_budget(self) -> UserError:
        """Return the error for a budget that does not suffice."""
        limit = self._requests.settings.budget_tokens or 0
        return UserError(
            f"{self._setting}budget_tokens: the next request could exceed the budget of {limit:,} tokens, of which "
            f"{self._budget.used():,} are used; what is answered is kept: run it again with a larger budget to go on"
        )


@dataclass
class _Run:
    """The state of `Exchange.run`."""

    exchange: Exchange
    answers: BlockAnswers
    log: AnswerLog
    progress: Callable[[int], None]
    waiting: deque[Job]
    stop: threading.Event = field(default_factory=threading.Event)
    sent: dict[Future[Reply], Job] = field(default_factory=dict)
    over_budget: list[Job] = field(default_factory=list)  # jobs that wait until requests are settled
    failures: list[Reply] = field(default_factory=list)  # not in the log so far

    def work(self, pool: ThreadPoolExecutor) -> None:
        """Send all requests.

        Raises:
            UserError: see `Exchange.run`.
        """
        while self.waiting or self.sent or self.over_budget:
            if self.over_budget and not self.sent:
                # nothing is reserved by this worker any more: if one request alone exceeds the budget, it is used up
                self.waiting.extendleft(reversed(self.over_budget))
                self.over_budget.clear()
                if not self._send_alone(pool):
                    raise self.exchange.over_budget()
            while self.waiting and len(self.sent) < self.exchange.concurrency and not self.over_budget:
                self._send(pool)
            done, _ = wait(self.sent, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
            self.progress(0)
            for future in done:
                self._receive(future, self.sent.pop(future))
        if self.failures:
            if not self.exchange.has_answered:
                raise self.exchange.broken(self.failures[-1])
            self._record_failures()

    def _send(self, pool: ThreadPoolExecutor) -> None:
        job = self.waiting.popleft()
        self.sent[pool.submit(self.exchange.send, job, self.answers, self.log, self.stop)] = job

    def _send_alone(self, pool: ThreadPoolExecutor) -> bool:
        """Send the next request alone, and return whether the budget allowed it."""
        self._send(pool)
        (future,) = self.sent
        while not future.done():
            wait(self.sent, timeout=_POLL_SECONDS)
            self.progress(0)
        self._receive(future, self.sent.pop(future))
        return not self.over_budget

    def _receive(self, future: Future[Reply], job: Job) -> None:
        try:
            reply = future.result()
        except BudgetExceeded:
            self.over_budget.append(job)
            return
        except Stopped:
            return
        self.exchange.count(reply)
        if reply.error is not None:
            self.failures.append(reply)
            if job.batch is not None:  # its sentences may be answered alone
                self.waiting.extend(Job((source,)) for source in job.sources)
            return
        self._record_failures()
        self.progress(self.answers.add(reply))
        self.waiting.extend(self.answers.follow_ups(job))

    def _record_failures(self) -> None:
        for reply in self.failures:
            self.log.append(reply)
            self.progress(self.answers.add(reply))
        self.failures.clear()


def distinct(texts: Iterable[str]) -> list[str]:
    """Return the texts in the order of their first occurrence, each once."""
    return list(dict.fromkeys(texts))


def in_order(replies: Iterable[Reply], sources: Sequence[str]) -> Iterator[Reply]:
    """Yield the replies that concern the sources, by their first source; those of one sentence as they arrived."""
    places = {source: place for place, source in enumerate(sources)}
    found = [(min(places.get(source, len(places)) for source in reply.sources), reply) for reply in replies]
    for place, reply in sorted(found, key=lambda each: (each[0], each[1].batch is None)):
        if place < len(places):
            yield reply
