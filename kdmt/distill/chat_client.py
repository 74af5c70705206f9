"""Client of servers with OpenAI's protocol for chat completions."""

from __future__ import annotations

import http.client
import json
import os
import random
import select
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from kdmt.config import EndpointTeacher
from kdmt.corpus.download import retry_after_seconds
from kdmt.distill.llm_answers import FILTERED, FINISHED_BY_LENGTH, Answer
from kdmt.distill.token_budget import TokenBudget
from kdmt.errors import UserError
from kdmt.files import parse_json

_PATH = "/chat/completions"
_FIRST_WAIT = 0.5  # seconds before the first repetition; each further one waits twice as long
_LONGEST_WAIT = 3600.0  # seconds, even if the server asks for more
_LARGEST_ANSWER = 64 << 20  # bytes
_CHUNK = 1 << 16
_PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529}  # status codes of errors that may pass
_BUSY = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
_LONGEST_QUOTE = 200  # characters of a message of the server


class RequestFailed(Exception):
    """Error raised if a request has no usable answer after all attempts, although the server can be reached."""


class Stopped(Exception):
    """Error raised if the caller no longer wants the answer."""


@dataclass(frozen=True)
class ChatRequest:
    """A request.

    Attributes:
        prompt: message of the user.
        n: number of candidates.
        max_tokens: maximum number of output tokens of a candidate.
        seed: seed of the sampling; None for none.
        prompt_tokens: estimate of the number of tokens of the prompt.
    """

    prompt: str
    n: int
    max_tokens: int
    seed: int | None
    prompt_tokens: int

    @property
    def most_tokens(self) -> int:
        """Largest number of tokens that the request uses, by the estimate for the prompt."""
        return self.prompt_tokens + self.n * self.max_tokens


@dataclass(frozen=True)
class Completion:
    """What a server answered: at most as many candidates as were requested, and at least one."""

    answers: tuple[Answer, ...]
    prompt_tokens: int | None
    output_tokens: int | None
    model: str | None
    fingerprint: str | None


@dataclass(frozen=True)
class _Response:
    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes


class _BadAnswer(Exception):
    """Error raised if an answer is not usable, so that the request is repeated."""


class ChatClient:
    """Client that repeats failed requests; several threads may use it, each with a connection of its own.

    Args:
        settings: server and model.
        setting: YAML path of the settings with a dot at its end, for messages.

    Raises:
        UserError: if the variable of the key is not set.
    """

    def __init__(self, settings: EndpointTeacher, setting: str) -> None:
        self._settings, self._setting = settings, setting
        base = settings.endpoint.rstrip("/").removesuffix(_PATH)
        self.url = base + _PATH
        self._parts = urlsplit(self.url)
        self._headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "kdmt"}
        if (variable := settings.api_key_variable) is not None:
            key = os.environ.get(variable, "").strip()
            if not key or not key.isascii() or not key.isprintable():
                raise UserError(f"{setting}api_key_variable: the environment variable {variable} has no key")
            self._headers["Authorization"] = f"Bearer {key}"
        self._tls = ssl.create_default_context() if self._parts.scheme == "https" else None
        self._local = threading.local()

    def complete(self, request: ChatRequest, budget: TokenBudget, stop: threading.Event) -> Completion:
        """Send a request, and repeat it if it fails.

        Args:
            budget: budget from which the tokens are taken.
            stop: signal after which no attempt begins.

        Raises:
            RequestFailed: if there is no usable answer after all attempts.
            BudgetExceeded: if an attempt could exceed the budget.
            Stopped: if `stop` is set.
            UserError: if the server cannot be reached, does not know the model or the key, or limits the requests.
        """
        body = self._body(request)
        for attempt in range(self._settings.retries + 1):
            if stop.is_set():
                raise Stopped
            budget.reserve(request.most_tokens)
            is_last = attempt == self._settings.retries
            wait, used = 0.0, None
            try:
                response = self._send(body)
                if response.status == HTTPStatus.OK:
                    completion = _parse(response.body, request.n)
                    used = _used(completion, request)
                    return completion
                used = 0  # servers do not charge for errors
                wait = self._check(response, is_last=is_last)
                problem = _describe(response)
            except _BadAnswer as error:
                problem = str(error)
            except OSError as error:
                used = 0 if _is_unreachable(error) else None
                problem = self._explain(error, is_last=is_last)
            except http.client.HTTPException as error:
                problem = f"the answer is not complete: {type(error).__name__}"
            finally:
                if used is not None:
                    budget.settle(request.most_tokens, used)
            if is_last:
                raise RequestFailed(problem)
            own = min(self._settings.max_wait, _FIRST_WAIT * 2**attempt) * random.uniform(0.5, 1.0)
            if stop.wait(min(max(wait, own), _LONGEST_WAIT)):
                raise Stopped
        raise AssertionError("unreachable")

    def _body(self, request: ChatRequest) -> bytes:
        settings = self._settings
        body: dict[str, Any] = {
            "model": settings.model,
            "messages": [{"role": "user", "content": request.prompt}],
            "temperature": settings.temperature,
            "max_tokens": request.max_tokens,
            "stream": False,
        }
        if request.n > 1:
            body["n"] = request.n
        if settings.top_p < 1.0:
            body["top_p"] = settings.top_p
        if settings.min_p > 0.0:
            body["min_p"] = settings.min_p
        if request.seed is not None:
            body["seed"] = request.seed
        return json.dumps(body | settings.request_fields, ensure_ascii=False).encode("utf-8", errors="replace")

    def _send(self, body: bytes) -> _Response:
        """Send a request once; a connection that the server closed in the meantime is opened again.

        A connection that is closed after the request was sent is an error: the server may have charged for it.
        """
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        deadline = time.monotonic() + self._settings.timeout
        if connection is None or _is_closed(connection):
            self.close()
            connection = self._local.connection = self._connection()
        return self._finish(self._begin(connection, body), deadline)

    def _begin(self, connection: http.client.HTTPConnection, body: bytes) -> http.client.HTTPResponse:
        try:
            connection.request("POST", self._parts.path, body, self._headers)
            return connection.getresponse()
        except BaseException:
            self.close()
            raise

    def _finish(self, response: http.client.HTTPResponse, deadline: float) -> _Response:
        try:
            data = _read(response, deadline)
        except BaseException:
            self.close()
            raise
        if response.will_close:
            self.close()
        return _Response(response.status, response.reason, dict(response.getheaders()), data)

    def _connection(self) -> http.client.HTTPConnection:
        host, port, timeout = self._parts.hostname or "", self._parts.port, self._settings.timeout
        if self._tls is not None:
            return http.client.HTTPSConnection(host, port, timeout=timeout, context=self._tls)
        return http.client.HTTPConnection(host, port, timeout=timeout)

    def close(self) -> None:
        """Close the connection of this thread."""
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        self._local.connection = None
        if connection is not None:
            connection.close()

    def _check(self, response: _Response, *, is_last: bool) -> float:
        """Return the seconds that the server asks to wait, after an error that may pass.

        Raises:
            UserError: if all further requests would fail too.
            RequestFailed: if a repetition of this one would fail too.
        """
        status, problem = response.status, _describe(response)
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            variable = self._settings.api_key_variable
            advice = "set" if variable is None else f"check the key in {variable}, of"
            raise UserError(f"{self.url}: {problem}; {advice} {self._setting}api_key_variable")
        if status == HTTPStatus.NOT_FOUND:
            model = self._settings.model
            raise UserError(
                f"{self.url}: {problem}; the server has no model {model!r} ({self._setting}model), or "
                f"{self._setting}endpoint is not its base URL, which often ends with /v1"
            )
        if status not in _PASSING:
            raise RequestFailed(problem)
        headers = {name.lower(): value for name, value in response.headers.items()}
        wait = retry_after_seconds(headers.get("retry-after"), headers.get("date"))
        if is_last and status in _BUSY:
            raise UserError(
                f"{self.url}: {problem}, after {self._settings.retries + 1} attempts; what is answered is kept: run it "
                f"again later, or with a smaller {self._setting}concurrency or more {self._setting}retries"
            )
        return wait

    def _explain(self, error: OSError, *, is_last: bool) -> str:
        """Return what is wrong with a connection.

        Raises:
            UserError: if the server could not be reached in the last attempt.
        """
        if is_last and _is_unreachable(error):
            reason = error.strerror or str(error) or type(error).__name__
            raise UserError(f"{self.url}: cannot be reached: {reason}; is the server of {self._setting}endpoint up?")
        if isinstance(error, TimeoutError):
            return f"no answer within {self._settings.timeout:g} s"
        return f"the connection was closed: {error.strerror or type(error).__name__}"


def _is_closed(connection: http.client.HTTPConnection) -> bool:
    """Return whether the server has closed an idle connection: nothing but its end can be read from it."""
    if connection.sock is None:
        return True
    readable = select.poll()
    readable.register(connection.sock, select.POLLIN)
    return bool(readable.poll(0))


def _is_unreachable(error: OSError) -> bool:
    """Return whether no connection was opened, so that the server has not received the request."""
    return isinstance(error, (ConnectionRefusedError, socket.gaierror, ssl.SSLError)) or error.errno in _NO_ROUTE


_NO_ROUTE = {101, 112, 113}  # ENETUNREACH, EHOSTDOWN, EHOSTUNREACH


def _read(response: http.client.HTTPResponse, deadline: float) -> bytes:
    parts, size = [], 0
    while chunk := response.read1(_CHUNK):
        parts.append(chunk)
        size += len(chunk)
        if size > _LARGEST_ANSWER:
            raise _BadAnswer(f"the answer has more than {_LARGEST_ANSWER:,} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError
    if response.length:  # `read1` does not raise an error for a body that ends early
        raise http.client.IncompleteRead(b"", response.length)
    response.close()  # not the connection, which is ready for the next request now
    return b"".join(parts)


def _parse(body: bytes, n: int) -> Completion:
    """Return the content of an answer.

    Raises:
        _BadAnswer: if it is not what the protocol describes, or has no text.
    """
    try:
        values = parse_json(body)
    except ValueError:
        raise _BadAnswer("the answer is not JSON") from None
    choices = values.get("choices") if isinstance(values, dict) else None
    if not isinstance(choices, list):
        raise _BadAnswer("the answer has no list of choices")
    answers = [answer for choice in choices[:n] if (answer := _answer(choice)) is not None]
    if not answers:
        raise _BadAnswer("the answer has no text" if choices else "the answer has no choices")
    usage = values.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    return Completion(
        tuple(answers),
        _count(counts.get("prompt_tokens")),
        _count(counts.get("completion_tokens")),
        _name(values.get("model")),
        _name(values.get("system_fingerprint")),
    )


def _answer(choice: object) -> Answer | None:
    """Return the candidate of a choice, None if it has no text although it ended normally."""
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise _BadAnswer("a choice of the answer has no message")
    finish, content, refusal = choice.get("finish_reason"), message.get("content"), message.get("refusal")
    if not isinstance(content, (str, type(None))):
        raise _BadAnswer("a message of the answer has no text")
    if isinstance(refusal, str) and refusal:
        content, finish = refusal, FILTERED
    if not (content or "").strip() and finish not in (FILTERED, FINISHED_BY_LENGTH):
        return None
    return Answer(content or "", finish if isinstance(finish, str) else None)


def _count(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _name(value: object) -> str | None:
    return value[:_LONGEST_QUOTE] if isinstance(value, str) and value else None


def _used(completion: Completion, request: ChatRequest) -> int:
    prompt = request.prompt_tokens if completion.prompt_tokens is None else completion.prompt_tokens
    output = request.n * request.max_tokens if completion.output_tokens is None else completion.output_tokens
    return prompt + output


def _describe(response: _Response) -> str:
    """Return the status of a response and the message of the server in it."""
    text = f"the server answers {response.status} {response.reason}".rstrip()
    try:
        values = parse_json(response.body)
    except ValueError:
        return text
    error = values.get("error", values) if isinstance(values, dict) else None
    message = error.get("message", error.get("detail")) if isinstance(error, dict) else error
    return f"{text}: {' '.join(message.split())[:_LONGEST_QUOTE]}" if isinstance(message, str) else text
