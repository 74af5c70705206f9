"""Settings of corpora: where their files come from and how they are read."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, Field, ModelWrapValidatorHandler, PrivateAttr, model_validator

from kdmt.config.section import Section, later
from kdmt.types import SPECIALS

# how fairseq's --remove-bpe joins subwords, by their marks alone
Joiner = Literal["subword_nmt", "sentencepiece", "wordpiece", "letter", "_EOW"]


class Source(Section):
    """Where one text file comes from: a local path or a URL with its sha256; `.gz` is opened on the fly.

    The user and password of a URL (`https://user:password@host/file`) are kept apart in `login`: no message, manifest
    or log has them. A path may be a token file of a data-bin (`test.de-en.de.bin`), whose index and dictionary lie
    beside it.
    """

    path: str | None = None
    url: str | None = None
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    member: str | None = None  # a file inside a zip archive
    remove_bpe: Joiner | None = None  # of a token file: how its tokens are joined
    _login: str | None = PrivateAttr(None)

    @model_validator(mode="wrap")
    @classmethod
    def _hide_login(cls, value: Any, validate: ModelWrapValidatorHandler[Source]) -> Source:
        """Take the login out of the URL before anything else looks at it."""
        if not (isinstance(value, dict) and isinstance(value.get("url"), str)):
            return validate(value)
        url, login = split_login(value["url"])
        source = validate({**value, "url": url})
        source._login = login
        return source

    @model_validator(mode="after")
    def _one_origin(self) -> Source:
        if self.remove_bpe is not None and not self.is_tokens:
            raise ValueError("'remove_bpe' is that of a 'path' to a token file, which ends in .bin")
        if (self.path is None) == (self.url is None):
            raise ValueError("give either 'path' or 'url'")
        if self.url is not None and self.sha256 is None:
            raise ValueError("a 'url' needs its 'sha256'")
        if (self.path or self.url or "").endswith(".zip") and self.member is None:
            raise ValueError("a zip archive needs 'member', the file inside it")
        return self

    @property
    def login(self) -> str | None:
        """The `user:password` that the URL was given with."""
        return self._login

    @property
    def is_tokens(self) -> bool:
        """Whether it is a token file of a data-bin."""
        return self.path is not None and self.path.endswith(".bin")

    @property
    def name(self) -> str:
        """What to call this file in a message."""
        origin = self.path or self.url or ""
        return f"{origin}:{self.member}" if self.member else origin


def split_login(url: str) -> tuple[str, str | None]:
    """Split a URL into one without its login, and the login as `user:password`.

    Raises:
        ValueError: its host or port is not valid; quotes nothing of it.
    """
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme not in ("http", "https") or bool(parts.hostname and parts.port != 0)
    except ValueError:  # quotes parts of what may be a password
        is_valid = False
    if not is_valid:
        raise ValueError("the host or port of 'url' is not valid; in a password '/' is written %2F, '#' %23, '?' %3F")
    login, at, host = parts.netloc.rpartition("@")
    return (parts._replace(netloc=host).geturl(), unquote(login)) if at else (url, None)


class ParallelText(Section):
    """Two files with one sentence a line, or one TSV with a column for each language.

    A row is malformed that has another number of columns than the TSV's first one, and a line that is longer than a
    megabyte or not UTF-8.
    """

    source: Source | None = None
    target: Source | None = None
    tsv: Source | None = None
    source_column: int = Field(0, ge=0)
    target_column: int = Field(1, ge=0)
    header: bool = later(False)  # the first row of the TSV holds names of columns
    quoted: bool = later(False)  # columns of the TSV may be in double quotes, as pandas writes them
    malformed: Literal["drop", "error"] = later("error")  # drop: left out and counted in report.json

    @model_validator(mode="after")
    def _pair_or_tsv(self) -> ParallelText:
        two_files = self.source is not None and self.target is not None
        if self.tsv is not None and (self.source is not None or self.target is not None):
            raise ValueError("give either 'tsv' or 'source' and 'target', not both")
        if self.tsv is None and not two_files:
            raise ValueError("give 'source' and 'target', or 'tsv'")
        if self.tsv is not None and self.source_column == self.target_column:
            raise ValueError("'source_column' and 'target_column' are the same")
        for name in ("header", "quoted"):
            if self.tsv is None and getattr(self, name):
                raise ValueError(f"'{name}' is a setting of a 'tsv'")
        return self


def _tag(token: str) -> str:
    if token in SPECIALS:
        raise ValueError(f"is one of the special symbols {' '.join(SPECIALS)}: choose another token, as <bt>")
    return token


class Corpus(ParallelText):
    """Training text."""

    weight: int = Field(1, ge=1)  # times that the corpus stands in the training data
    # a token put before each source sentence, as `<bt>`
    tag: Annotated[str, AfterValidator(_tag)] | None = Field(None, pattern=r"^\S+$")
    malformed: Literal["drop", "error"] = later("drop")


class HeldOut(ParallelText):
    """Validation or test text; `raw_target` is the untokenised reference where the corpus itself is tokenised."""

    raw_target: Source | None = None

    @model_validator(mode="after")
    def _aligned(self) -> HeldOut:
        if self.raw_target is not None and self.malformed == "drop":
            raise ValueError("'malformed: drop' would leave 'raw_target' with lines that have no pair")
        return self
