"""Requests of LibreTranslate's API: parsing and validation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qsl

from kdmt.serve.limits import Limits

_MOST_FIELDS = 20  # of a form
_LONGEST_CODE = 64  # characters of a language code, or of another short value in a message


class RequestError(Exception):
    """A request that is refused, with the HTTP status and the message for the client."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


@dataclass(frozen=True)
class TranslationRequest:
    """The fields of POST /translate.

    Attributes:
        texts: the texts to translate.
        is_list: whether `q` is a list, so that the answer is one.
        source, target: codes of the languages; the source may be `auto`.
        format: whether the texts are plain text or HTML.
        api_key: key of the client, or an empty string.
    """

    texts: tuple[str, ...]
    is_list: bool
    source: str
    target: str
    format: Literal["text", "html"] = "text"
    api_key: str = ""


def parse_request(body: bytes, content_type: str, limits: Limits) -> TranslationRequest:
    """Parse the body of a request.

    Raises:
        RequestError: if it is not valid.
    """
    values = _parse_body(body, content_type)
    q = values.get("q")
    texts = _texts(q, limits)
    kind = _string(values, "format", "text")
    if kind not in ("text", "html"):
        raise RequestError(400, f"Invalid request: format {kind[:_LONGEST_CODE]!r} is not supported: text or html")
    return TranslationRequest(
        texts=texts,
        is_list=isinstance(q, list),
        source=_code(values, "source"),
        target=_code(values, "target"),
        format="html" if kind == "html" else "text",
        api_key=_string(values, "api_key", ""),
    )


def parse_detection(body: bytes, content_type: str, limits: Limits) -> tuple[str, str]:
    """Return the text and the API key of POST /detect.

    Raises:
        RequestError: if the body is not valid.
    """
    values = _parse_body(body, content_type)
    return " ".join(_texts(values.get("q"), limits)), _string(values, "api_key", "")


def _texts(q: object, limits: Limits) -> tuple[str, ...]:
    """Return the texts of a request; an empty one counts as one character."""
    if q is None:
        raise RequestError(400, "Invalid request: missing q parameter")
    given: list[object] = q if isinstance(q, list) else [q]
    if len(given) > limits.texts:
        raise RequestError(400, f"Invalid request: {len(given):,} texts exceed the limit of {limits.texts:,}")
    texts = tuple(text for text in given if isinstance(text, str))
    if len(texts) < len(given):
        raise RequestError(400, "Invalid request: q must be a string or a list of strings")
    count = sum(max(len(text), 1) for text in texts)
    if count > limits.characters:
        raise RequestError(400, f"Invalid request: {count:,} characters exceed the limit of {limits.characters:,}")
    _check_unicode("q", "".join(texts))
    return texts


def _parse_body(body: bytes, content_type: str) -> Mapping[str, object]:
    kind = content_type.partition(";")[0].strip().lower()
    try:
        if kind == "application/json":
            values = json.loads(body)
        elif kind == "application/x-www-form-urlencoded":
            values = dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS))
        else:
            raise RequestError(415, "Unsupported media type: send application/json or a URL-encoded form")
    except (ValueError, RecursionError):  # of JSON, UTF-8 or a form
        raise RequestError(400, "Invalid request: the body cannot be parsed") from None
    if not isinstance(values, dict):
        raise RequestError(400, "Invalid request: expected an object")
    return values


def _string(values: Mapping[str, object], name: str, default: str | None = None) -> str:
    value = values.get(name)
    if value is None:
        value = default
    if value is None:
        raise RequestError(400, f"Invalid request: missing {name} parameter")
    if not isinstance(value, str):
        raise RequestError(400, f"Invalid request: {name} must be a string")
    _check_unicode(name, value)
    return value


def _code(values: Mapping[str, object], name: str) -> str:
    """Return the code of a language. A longer one is not looked up, since codes that were looked up are kept."""
    code = _string(values, name)
    if len(code) > _LONGEST_CODE:
        raise RequestError(400, f"Invalid request: {name} {code[:_LONGEST_CODE]!r}... is no language code")
    return code


def _check_unicode(name: str, value: str) -> None:
    """Refuse the halves of surrogate pairs, which JSON can write and UTF-8 cannot.

    Raises:
        RequestError: if there is one.
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RequestError(400, f"Invalid request: {name} is not Unicode text") from None
