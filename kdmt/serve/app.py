"""The application: LibreTranslate's API (https://docs.libretranslate.com), metrics and a web form."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from kdmt.documents.document import Document, text_document
from kdmt.documents.markup import html_document
from kdmt.documents.sentences import split_long
from kdmt.errors import describe_error
from kdmt.languages import Direction, writes_spaces
from kdmt.log import get_logger
from kdmt.serve.batching import ClientLimit, ModelStopped, QueueFull, TranslationQueue
from kdmt.serve.detection import MISSING, DetectedLanguage, can_detect, detect_language
from kdmt.serve.limits import Limits
from kdmt.serve.metrics import CONTENT_TYPE, Metrics
from kdmt.serve.models import ServedModel, find_directions, list_languages
from kdmt.serve.requests import RequestError, TranslationRequest, parse_detection, parse_request

_logger = get_logger(__name__)
_PAGE = Path(__file__).parent / "page.html"
_PATHS = ("/", "/translate", "/detect", "/languages", "/health", "/metrics")
_INLINE_CHARACTERS = 2_000  # longer texts are split into sentences in another thread
_TEXT_COST = 100  # characters that take about the time of an empty text
_Result = TypeVar("_Result")
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Service:
    """Models with their queues, and what is needed to answer requests.

    Args:
        models: models with different directions.
        limits: limits on requests.
        api_keys: keys, one of which a client must send; if there are none, no key is needed.
    """

    def __init__(self, models: Sequence[ServedModel], limits: Limits, api_keys: Sequence[str] = ()) -> None:
        self.limits = limits
        self.api_keys = tuple(api_keys)
        self.metrics = Metrics()
        self._alike = {model.direction: model.alike for model in models}
        self.connections: Callable[[], int] = lambda: 0
        self._translate = {model.direction: model.translate for model in models}
        self._add_context = {model.direction: model.add_context for model in models}
        groups: dict[object, list[ServedModel]] = {}
        for model in models:
            groups.setdefault(model.direction if model.shared is None else ("shared", model.shared), []).append(model)
        self._queues = {_name_of(group): self._open_queue(group) for group in groups.values()}
        self.queues = {each.direction: self._queues[_name_of(group)] for group in groups.values() for each in group}

    def _open_queue(self, group: Sequence[ServedModel]) -> TranslationQueue:
        """Return the queue of the directions of a model."""
        name = _name_of(group)
        return TranslationQueue(group[0].translate, self.limits, observe=self._batch_counter(name), name=name)

    def _batch_counter(self, name: str) -> Callable[[int], None]:
        return lambda sentences: self.metrics.batch(name, sentences)

    def close(self) -> None:
        """Translate what is in the queues and end their threads."""
        for queue in self._queues.values():
            queue.close()

    def queue_lengths(self) -> dict[str, Callable[[], int]]:
        """Return functions that return the number of sentences in each queue, by its name."""
        return {name: _length_of(queue) for name, queue in self._queues.items()}

    def check_key(self, given: str) -> None:
        """Check the key of a client.

        Raises:
            RequestError: if a key is needed and this is none.
        """
        if self.api_keys and not any(hmac.compare_digest(given.encode(), key.encode()) for key in self.api_keys):
            raise RequestError(403, "Invalid API key" if given else "An API key is required")

    async def translate(self, request: TranslationRequest, client: str) -> tuple[list[str], DetectedLanguage | None]:
        """Return the translation of each text of a request, and the source language if it was detected.

        Raises:
            RequestError: if the languages are not supported or not detected, the queue is full, or time is up.
        """
        start = time.monotonic()
        direction, detected = await self._direction(request)
        characters = sum(map(len, request.texts))
        if characters + _TEXT_COST * len(request.texts) <= _INLINE_CHARACTERS:
            documents = _documents(request, direction)
        else:
            documents = await asyncio.to_thread(_documents, request, direction)
        # parts of long sentences are sentences of the queue, so that others do not wait for all parts of one
        parts = [_parts(document.sentences, self._add_context[direction]) for document in documents]
        waiting = [part for sentences in parts for sentence in sentences for part in sentence]
        most = min(self.limits.client_sentences, self.limits.queued_sentences)
        if len(waiting) > most:
            raise RequestError(400, f"Invalid request: {len(waiting):,} sentences exceed the limit of {most:,}")
        translated = iter(await self._translated(direction, waiting, client))
        space = " " if writes_spaces(direction.target) else ""
        finished = [
            document.join([space.join(islice(translated, len(sentence))) for sentence in sentences])
            for document, sentences in zip(documents, parts, strict=True)
        ]
        self.metrics.translation(str(direction), characters, time.monotonic() - start)
        return finished, detected

    async def _direction(self, request: TranslationRequest) -> tuple[Direction, DetectedLanguage | None]:
        """Return the direction of a request; if the source is `auto`, that of the most probable source language.

        Directions that translate a sentence in the same way need no detected language: without it, the text is split
        into sentences by the rules of the first one.
        """
        found = find_directions(list(self.queues), request.source, request.target)
        if request.source != "auto" or (self._are_alike(found) and not can_detect()):
            return found[0], None
        if request.format == "html":
            documents = await asyncio.to_thread(_documents, request, found[0])
            text = " ".join(sentence for document in documents for sentence in document.sentences)
        else:
            text = " ".join(request.texts)
        best = (await self.detect(text, [each.source for each in found]))[0]
        if not best.confidence and len(found) > 1 and self._are_alike(found):
            return found[0], None
        if len(found) > 1 and not best.confidence:
            known = ", ".join(each.source for each in found)
            raise RequestError(400, f"The source language is not detected: give one of {known}")
        return next(each for each in found if each.source == best.language), best

    def _are_alike(self, directions: Sequence[Direction]) -> bool:
        """Return whether sentences are translated in the same way in all directions."""
        kinds = {self._alike[each] for each in directions}
        return len(directions) == 1 or (len(kinds) == 1 and None not in kinds)

    async def detect(self, text: str, languages: Sequence[str] | None = None) -> list[DetectedLanguage]:
        """Return the probability of each source language (default: of all models) for a text, most probable first.

        Raises:
            RequestError: if languages cannot be detected.
        """
        if not can_detect():
            raise RequestError(400, MISSING)
        known = languages or list(dict.fromkeys(each.source for each in self.queues))
        return await asyncio.to_thread(detect_language, text, known)

    async def _translated(self, direction: Direction, sentences: Sequence[str], client: str) -> list[str]:
        try:
            future = self.queues[direction].submit(sentences, client=client, translate=self._translate[direction])
        except QueueFull:
            raise RequestError(503, "The server is busy: try again later") from None
        except ClientLimit:
            raise RequestError(429, "Slow down: too many sentences of this client are waiting") from None
        except ModelStopped:
            raise RequestError(503, _stopped([direction])) from None
        try:
            async with asyncio.timeout(self.limits.request_seconds):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise RequestError(504, f"no translation within {self.limits.request_seconds:g} seconds") from None
        except ModelStopped:
            raise RequestError(503, _stopped([direction])) from None
        except Exception:  # of the engine; the queue has logged it
            raise RequestError(500, "The text could not be translated") from None


def _parts(sentences: Sequence[str], add_context: Callable[[Sequence[str]], list[str]]) -> list[list[str]]:
    """Return the parts of each sentence of a document; a sentence of one part has its context."""
    found = []
    for sentence, with_context in zip(sentences, add_context(sentences), strict=True):
        parts = split_long(sentence, lambda _: True)
        found.append([with_context] if len(parts) == 1 else [add_context([part])[0] for part in parts])
    return found


def _documents(request: TranslationRequest, direction: Direction) -> list[Document]:
    make = html_document if request.format == "html" else text_document
    return [make(text, direction) for text in request.texts]


def make_app(service: Service) -> FastAPI:
    """Return the application of a service."""
    app = FastAPI(title="kdmt", docs_url=None, redoc_url=None, openapi_url=None)
    page = _PAGE.read_text(encoding="utf-8")

    @app.middleware("http")
    async def count(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        status = 500
        try:
            response = await answer(request)
            status = response.status_code
            return response
        except Exception as error:
            _logger.warning(f"a request failed: {describe_error(error)}")
            return _error(500, "The request could not be answered")
        finally:
            service.metrics.request(request.url.path if request.url.path in _PATHS else "other", status)

    @app.exception_handler(HTTPException)
    async def refuse(_: Request, error: HTTPException) -> Response:
        return _error(error.status_code, error.detail, error.headers)

    @app.exception_handler(RequestError)
    async def explain(_: Request, error: RequestError) -> Response:
        headers = {"Retry-After": "1"} if error.status in (429, 503) else {}
        if error.status in (408, 413, 415):  # the rest of the body is not read
            headers["Connection"] = "close"
        return _error(error.status, str(error), headers)

    @app.post("/translate")
    async def translate(request: Request) -> Response:
        body = await _read_body(request, service.limits)
        parsed = parse_request(body, request.headers.get("content-type", ""), service.limits)
        key = parsed.api_key or _bearer(request)
        service.check_key(key)
        client = key if service.api_keys else (request.client.host if request.client else "")
        translations, detected = await _unless_disconnected(request, service.translate(parsed, client))
        answer: dict[str, object] = {"translatedText": translations if parsed.is_list else translations[0]}
        if detected is not None:
            found = detected.as_json()
            answer["detectedLanguage"] = [found] * len(translations) if parsed.is_list else found
        return JSONResponse(answer)

    @app.post("/detect")
    async def detect(request: Request) -> Response:
        body = await _read_body(request, service.limits)
        text, key = parse_detection(body, request.headers.get("content-type", ""), service.limits)
        service.check_key(key or _bearer(request))
        return JSONResponse([each.as_json() for each in await service.detect(text)])

    @app.get("/languages")
    async def languages() -> Response:
        return JSONResponse(list_languages(list(service.queues)))

    @app.get("/health")
    async def health() -> Response:
        stopped = [direction for direction, queue in service.queues.items() if not queue.is_alive]
        return _error(503, _stopped(stopped)) if stopped else JSONResponse({"status": "ok"})

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        service.check_key(_bearer(request))
        text = service.metrics.text(service.queue_lengths(), service.connections())
        return PlainTextResponse(text, media_type=CONTENT_TYPE)

    @app.get("/")
    async def form() -> Response:
        return HTMLResponse(page, headers=_PAGE_HEADERS)

    return app


def _stopped(directions: Sequence[Direction]) -> str:
    return f"The model of {', '.join(map(str, directions))} has stopped"


def _name_of(group: Sequence[ServedModel]) -> str:
    """Return the name of the directions of a model in metrics: the first one, and the number of the others."""
    others = len(group) - 1
    return f"{group[0].direction} and {others:,} more" if others else str(group[0].direction)


def _length_of(queue: TranslationQueue) -> Callable[[], int]:
    return lambda: queue.length


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"error": message}, status_code=status, headers=dict(headers or {}))


def _bearer(request: Request) -> str:
    """Return the key of the header `Authorization: Bearer KEY`, an empty string if there is none."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


async def _read_body(request: Request, limits: Limits) -> bytes:
    """Return the body of a request.

    Raises:
        RequestError: if it is too large or arrives too slowly.
    """
    too_large = RequestError(413, f"The request exceeds the limit of {limits.body_bytes:,} bytes")
    length = request.headers.get("content-length", "0")
    if not length.isdigit() or len(length) > 15 or int(length) > limits.body_bytes:
        raise too_large
    chunks, size = [], 0
    try:
        async with asyncio.timeout(limits.read_seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limits.body_bytes:
                    raise too_large
                chunks.append(chunk)
    except TimeoutError:
        raise RequestError(408, f"The request did not arrive within {limits.read_seconds:g} seconds") from None
    except ClientDisconnect:
        raise RequestError(400, "The client disconnected") from None
    return b"".join(chunks)


async def _unless_disconnected(request: Request, work: Awaitable[_Result]) -> _Result:
    """Return the result of work, which is cancelled if the client disconnects before it is done.

    Raises:
        RequestError: if the client disconnected; nobody reads the answer.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise RequestError(400, "The client disconnected")
        return await working
    finally:
        working.cancel()
        watching.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
