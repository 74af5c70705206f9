"""Settings of corpora: where their files come from and how they are read."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, Field, ModelWrapValidatorHandler, PrivateAttr, model_validator

from kdmt.choices import OnMalformed, SubwordJoiner
from kdmt.config.datasets import DATASET_KINDS, NamedDataset, check_one_origin
from kdmt.config.section import Section, later, recorded_if_set
from kdmt.languages import Direction, parse_language, same_language
from kdmt.types import SPECIALS

SCHEMES = ("http", "https")  # of URLs that can be downloaded
_NAMES = ", ".join(f"'{kind}'" for kind in DATASET_KINDS)


def _can_be_downloaded(url: str) -> str:
    if urlsplit(url).scheme not in SCHEMES:
        raise ValueError("should begin with 'https://' or 'http://'; a local file is given as 'path'")
    return url


class Source(Section):
    """A file: a local path, or a URL. It may be compressed or inside an archive.

    Formats are recognised by the content of the file: gzip, xz, bzip2, zstd, zip, tar, and SGM or XML with `<seg>`.
    The SHA-256 of a URL is in the pipeline file or in its lock file.

    A URL may have a user and a password (`https://user:password@host/file`), which no message, manifest or log
    contains.
    """

    path: str | None = Field(
        None,
        description="Path of a local file. It may be a token file of a data-bin (test.de-en.de.bin) whose index and "
        "dictionary are in the same folder",
    )
    url: Annotated[str, AfterValidator(_can_be_downloaded)] | None = Field(
        None, description="URL of a file to download: https or http"
    )
    sha256: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{64}$",
        description="SHA-256 of the file, 64 lowercase hexadecimal digits; for a URL without it, 'kdmt lock' writes it "
        "to the lock file",
    )
    member: str | None = Field(
        None,
        description="Path of the file within a zip or tar archive; it goes on inside an archive within the archive. "
        "'*' matches any characters",
    )
    part: str | None = later(
        None,
        pattern=r"^(src|ref|hyp)(:.+)?$",
        description="Part of an SGM or XML file with several: 'src', 'ref' (the first reference), 'ref:B' (by "
        "translator) or 'hyp:NAME' (by system)",
    )
    remove_bpe: SubwordJoiner | None = Field(
        None,
        description="Marks by which the subwords of a token file are joined, as in fairseq's --remove-bpe; null for "
        "tokens that are words",
    )
    _login: str | None = PrivateAttr(None)

    @model_validator(mode="wrap")
    @classmethod
    def _hide_login(cls, value: Any, validate: ModelWrapValidatorHandler[Source]) -> Source:
        """Remove the login from the URL before any other validator sees it."""
        if not (isinstance(value, dict) and isinstance(value.get("url"), str)):
            return validate(value)
        url, login = split_login(value["url"])
        source = validate({**value, "url": url})
        source._login = login
        return source

    @model_validator(mode="after")
    def _one_origin(self) -> Source:
        if self.remove_bpe is not None and not self.is_tokens:
            raise ValueError("'remove_bpe' has no effect unless 'path' is a token file, which ends in .bin")
        self._check_origin()
        if (self.path or self.url or "").endswith(".zip") and self.member is None:
            raise ValueError("a zip archive needs 'member', the file inside it")
        return self

    def _check_origin(self) -> None:
        if (self.path is None) == (self.url is None):
            raise ValueError("give either 'path' or 'url'")

    @property
    def login(self) -> str | None:
        """Return the `user:password` of the URL, None if it has none."""
        return self._login

    @property
    def is_tokens(self) -> bool:
        """Return whether the file is a token file of a data-bin."""
        return self.path is not None and self.path.endswith(".bin")

    @property
    def name(self) -> str:
        """Return the name of the file for messages."""
        origin = self.path or self.url or ""
        parts = [part for part in (origin, self.member, self.part) if part]
        return ":".join(parts)


def split_login(url: str) -> tuple[str, str | None]:
    """Split a URL into one without its login, and the login as `user:password`.

    Raises:
        ValueError: if the host or port is not valid. The message quotes no part of the URL.
    """
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme not in SCHEMES or bool(parts.hostname and parts.port != 0)
    except ValueError:  # its message quotes text that may be part of a password
        is_valid = False
    if not is_valid:
        raise ValueError("the host or port of 'url' is not valid; in a password '/' is written %2F, '#' %23, '?' %3F")
    login, at, host = parts.netloc.rpartition("@")
    return (parts._replace(netloc=host).geturl(), unquote(login)) if at else (url, None)


class Monolingual(NamedDataset, Source):
    """Text in one language: a file, or the name of a data set whose side in this language is used."""

    direction: str | None = recorded_if_set(
        None,
        description="Direction in a pipeline with several, as en-de: text of 'monolingual' is in its source language, "
        "and the teacher translates it to its target language; text of 'monolingual_target' is in the latter",
    )

    @model_validator(mode="after")
    def _is_direction(self) -> Monolingual:
        _check_direction(self.direction)
        return self

    def _check_origin(self) -> None:
        check_one_origin(self, ("path", "url", "sha256", "member", "part", "remove_bpe"))
        if self.dataset is None and (self.path is None) == (self.url is None):
            raise ValueError(f"give one of 'path', 'url', {_NAMES}")


def _check_direction(name: str | None) -> None:
    try:
        if name is not None:
            Direction.parse(name)
    except ValueError as error:
        raise ValueError(f"'direction': {error}") from None


_MALFORMED = (
    "Action for a malformed line: 'drop' leaves it out and counts it in report.json, 'error' stops the stage. A line "
    "is malformed if it is longer than a megabyte or not UTF-8, if a TSV row has another number of columns than the "
    "first row, or if a row of another format has no text in both languages"
)


# forms of parallel text in which one file has both sides
ONE_FILE_FORMS = ("tsv", "tmx", "jsonl", "parquet", "wmt_xml")
_FILE_SETTINGS = (
    *("source", "target", *ONE_FILE_FORMS),
    *("source_column", "target_column", "source_field", "target_field", "header", "quoted"),
)  # settings that have no effect with the name of a data set
_WITH_FIELDS = ("jsonl", "parquet")  # forms with fields by name; `tsv` has them with a header


class ParallelText(NamedDataset):
    """Parallel text: two files with one sentence per line, one file with both languages, or a name."""

    source: Source | None = Field(None, description="File with the source sentences, one per line")
    target: Source | None = Field(None, description="File with the target sentences, one per line")
    tsv: Source | None = Field(None, description="TSV file with both languages, instead of 'source' and 'target'")
    tmx: Source | None = later(
        None, description="TMX file, of which the translation units in the languages of the pipeline are read"
    )
    jsonl: Source | None = later(None, description="JSONL file: a JSON object per line, with a field for each language")
    parquet: Source | None = later(None, description="Parquet table with a column for each language")
    wmt_xml: Source | None = later(
        None,
        description="XML file of WMT from 2021 on: its source and the first reference, or the one that its 'part' "
        "names",
    )
    source_column: int = Field(0, ge=0, description="Index of the TSV column with the source sentences, from 0")
    target_column: int = Field(1, ge=0, description="Index of the TSV column with the target sentences, from 0")
    source_field: str | None = later(
        None,
        min_length=1,
        description="Name of the field with the source sentences: of 'jsonl', 'parquet', or a TSV with a header; "
        "'translation.en' is a field within a field",
    )
    target_field: str | None = later(None, min_length=1, description="Name of the field with the target sentences")
    header: bool = later(False, description="Whether the first row of the TSV holds column names and is skipped")
    quoted: bool = later(False, description="Whether TSV columns may be in double quotes, as pandas writes them")
    malformed: OnMalformed = later("error", description=_MALFORMED)
    only_every: int | None = later(
        None, ge=2, description="Use only every n-th pair of the files, for a held-out set that is a part of a corpus"
    )
    except_every: int | None = later(
        None, ge=2, description="Leave out every n-th pair of the files, which another entry has as 'only_every'"
    )

    direction: str | None = recorded_if_set(
        None, description="Direction of the text, as en-de, in a pipeline with several directions"
    )
    reverse: bool = recorded_if_set(
        False, description="Whether the text is also used for the opposite direction, with its sides exchanged"
    )
    parallel: dict[str, Source] | None = recorded_if_set(
        None,
        min_length=2,
        description="Files with the same sentences in several languages, one per line: language -> file. They are used "
        "for all directions of the pipeline among these languages",
    )
    documents: Source | None = recorded_if_set(
        None,
        description="File with the name of the document of each line, for 'prepare.context'; null for documents that "
        "are separated by empty lines in both files, or that markup names",
    )

    @model_validator(mode="after")
    def _direction_of_text(self) -> ParallelText:
        _check_direction(self.direction)
        if self.reverse and self.direction is None:
            raise ValueError("'reverse' has no effect without 'direction'")
        if self.reverse and self.wmt_xml is not None:
            raise ValueError("'reverse' cannot be combined with 'wmt_xml', whose sides are fixed")
        if self.parallel is None:
            return self
        if self.direction is not None:
            raise ValueError("'direction' has no effect with 'parallel', which has all directions among its languages")
        for code in self.parallel:
            try:
                parse_language(code)
            except ValueError as error:
                raise ValueError(f"'parallel': {error}") from None
            twin = next((other for other in self.parallel if other != code and same_language(code, other)), None)
            if twin is not None:
                raise ValueError(f"'parallel': {code!r} and {twin!r} are the same language")
        return self

    @model_validator(mode="after")
    def _one_selection(self) -> ParallelText:
        if self.only_every is not None and self.except_every is not None:
            raise ValueError("give either 'only_every' or 'except_every', not both")
        return self

    @model_validator(mode="after")
    def _one_form(self) -> ParallelText:
        check_one_origin(self, _FILE_SETTINGS)
        if self.dataset is not None:
            return self
        forms = [name for name in ONE_FILE_FORMS if getattr(self, name) is not None]
        if self.parallel is not None:
            others = [name for name in ("source", "target", *ONE_FILE_FORMS) if getattr(self, name) is not None]
            if others:
                raise ValueError(f"give either 'parallel' or '{others[0]}', not both")
            for name, default in (("source_column", 0), ("target_column", 1)):
                if getattr(self, name) != default:
                    raise ValueError(f"'{name}' has no effect with 'parallel'")
            return self
        if len(forms) > 1:
            raise ValueError(f"give either '{forms[0]}' or '{forms[1]}', not both")
        if forms and (self.source is not None or self.target is not None):
            raise ValueError(f"give either '{forms[0]}' or 'source' and 'target', not both")
        if not forms and (self.source is None or self.target is None):
            raise ValueError(f"give 'source' and 'target', or one of {', '.join(map(repr, ONE_FILE_FORMS))}, {_NAMES}")
        return self

    @model_validator(mode="after")
    def _settings_of_the_form(self) -> ParallelText:
        if self.tsv is not None and self.source_column == self.target_column:
            raise ValueError("'source_column' and 'target_column' are the same")
        for name in ("header", "quoted"):
            if self.tsv is None and getattr(self, name):
                raise ValueError(f"'{name}' has no effect without 'tsv'")
        fields = (self.source_field, self.target_field)
        if any(fields) and self.form not in ("tsv", *_WITH_FIELDS):
            raise ValueError("'source_field' and 'target_field' have no effect without 'jsonl', 'parquet' or 'tsv'")
        if any(fields) != all(fields) or (self.form in _WITH_FIELDS and not any(fields)):
            raise ValueError("give both 'source_field' and 'target_field'")
        if any(fields) and fields[0] == fields[1]:
            raise ValueError("'source_field' and 'target_field' are the same")
        if self.tsv is not None and any(fields):
            if not self.header:
                raise ValueError("'source_field' needs 'header: true', since the first row has the names")
            if (self.source_column, self.target_column) != (0, 1):
                raise ValueError("give either columns by index ('source_column') or by name ('source_field')")
        part = None if self.one_file is None else self.one_file.part
        if part is not None and (self.wmt_xml is None or not part.startswith("ref")):
            raise ValueError(
                f"'{self.form}.part' selects a reference of 'wmt_xml', as 'ref:B'"
                if self.wmt_xml is not None
                else f"'{self.form}.part' has no effect"
            )
        return self

    @property
    def form(self) -> str | None:
        """Return the name of the form with one file for both sides, None for two files."""
        return next((name for name in ONE_FILE_FORMS if getattr(self, name) is not None), None)

    @property
    def one_file(self) -> Source | None:
        """Return the file that has both sides, None if there are two files."""
        return None if self.form is None else getattr(self, self.form)

    @property
    def files(self) -> list[Source]:
        """Return the files that hold the pairs, in the order in which they are read."""
        if self.parallel is not None:
            return list(self.parallel.values())
        return [source for source in (self.source, self.target, self.one_file) if source is not None]


class Quality(Section):
    """Minimum score of the pairs of a corpus whose file has a score for each pair, for example bicleaner's."""

    column: int | None = Field(None, ge=0, description="Index of the TSV column with the scores, from 0")
    field: str | None = Field(
        None,
        min_length=1,
        description="Name of the field with the scores: of 'jsonl', 'parquet', or a TSV with a header; for 'tmx', the "
        "type of the <prop>",
    )
    min: float = Field(description="Minimum score; pairs with a lower one are dropped")

    @model_validator(mode="after")
    def _one_place(self) -> Quality:
        if (self.column is None) == (self.field is None):
            raise ValueError("give either 'column' or 'field'")
        return self


def _tag(token: str) -> str:
    if token in SPECIALS:
        raise ValueError(f"is one of the special symbols {' '.join(SPECIALS)}: choose another token, as <bt>")
    return token


class Corpus(ParallelText):
    """Parallel text for training."""

    weight: int = Field(1, ge=1, description="Number of times that the corpus is repeated in the training data")
    share: float = later(1.0, gt=0.0, le=1.0, description="Share of the clean pairs that is used, evenly spread")
    max_pairs: int = later(
        0, ge=0, description="Maximum number of clean pairs that are used, evenly spread; 0 for no limit"
    )
    tag: Annotated[str, AfterValidator(_tag)] | None = Field(
        None, pattern=r"^\S+$", description="Token that is put before each source sentence, for example <bt>"
    )
    malformed: OnMalformed = later("drop", description=_MALFORMED)
    clean: dict[str, Any] = Field(
        default_factory=dict,
        description="Changes of 'prepare.clean' for this corpus, by the name of a limit ('max_words: 100') or of a "
        "rule ('numbers: false', 'longest_word: {max: 60}'); 'rules: crawled' replaces the list of rules first",
    )

    quality: Quality | None = later(None, description="Minimum of a score that the file has for each pair")

    @model_validator(mode="after")
    def _scores(self) -> Corpus:
        if self.quality is not None and self.parallel is not None:
            raise ValueError("'quality' has no effect with 'parallel'")
        if self.quality is None or self.dataset is not None:  # a name is checked when its files are known
            return self
        if self.form in (None, "wmt_xml"):
            raise ValueError("'quality' has no effect without 'tsv', 'tmx', 'jsonl' or 'parquet'")
        if self.quality.column is not None and self.tsv is None:
            raise ValueError(f"'quality.column' has no effect with '{self.form}': give 'quality.field'")
        if self.quality.field is not None and self.tsv is not None and not self.header:
            raise ValueError("'quality.field' needs 'header: true', since the first row has the names")
        return self

    @model_validator(mode="after")
    def _one_part(self) -> Corpus:
        if self.share < 1.0 and self.max_pairs:
            raise ValueError("give either 'share' or 'max_pairs', not both")
        return self


class HeldOut(ParallelText):
    """Parallel text for validation or testing."""

    raw_target: Source | None = Field(
        None, description="Untokenised reference, for scores, where the corpus itself is tokenised"
    )

    references: list[Source] = later(
        [],
        description="Further untokenised references, one file each, in addition to the target. Scores use all of them",
    )

    @model_validator(mode="after")
    def _one_target(self) -> HeldOut:
        for name in ("raw_target", "references") if self.parallel is not None or self.reverse else ():
            if getattr(self, name):
                setting = "parallel" if self.parallel is not None else "reverse: true"
                raise ValueError(f"'{name}' is of one target language: it cannot be combined with '{setting}'")
        return self

    @model_validator(mode="after")
    def _aligned(self) -> HeldOut:
        for name in ("raw_target", "references"):
            if getattr(self, name) and self.malformed == "drop":
                raise ValueError(f"'malformed: drop' would leave '{name}' with lines that have no pair")
            if getattr(self, name) and (self.only_every is not None or self.except_every is not None):
                raise ValueError(f"'{name}' has a line for each pair: leave out 'only_every' and 'except_every'")
        return self
