"""Settings of teachers that answer with text: large language models, and models with their own tokenizer."""

from __future__ import annotations

import re
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from kdmt.choices import AnswerBatch
from kdmt.config.section import Section, changed, execution

IndicCode = Annotated[str, Field(pattern=r"^[a-z]{3}_[A-Z][a-z]{3}$")]
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# fields of a request that have their own settings, or whose values the teacher depends on
_OWN_FIELDS = ("model", "messages", "n", "temperature", "top_p", "min_p", "seed", "max_tokens", "stream")


class Prompted(Section):
    """Settings of the prompt of a large language model, and of its output."""

    prompt: str = Field(min_length=1, description="Path of the text of a request, with {source} for the source text")
    examples: str | None = Field(
        None, description="Path of example pairs for {examples}, source and target separated by a tab; null for none"
    )
    source_name: str | None = Field(
        None, min_length=1, description="Text for {source_language}; null for the English name of the source language"
    )
    target_name: str | None = Field(
        None, min_length=1, description="Text for {target_language}; null for the English name of the target language"
    )
    n: int = Field(1, ge=1, le=1024, description="Number of candidates per sentence")
    temperature: float = Field(0.0, ge=0.0, description="Divisor of the logits; 0 for the most probable tokens")
    top_p: float = Field(1.0, gt=0.0, le=1.0, description="Probability mass of the tokens that are sampled from")
    output_ratio: float = Field(
        2.0, gt=0.0, description="Maximum number of output tokens per source token; 32 more are always allowed"
    )

    @model_validator(mode="after")
    def _samples(self) -> Prompted:
        if self.temperature == 0.0:
            if self.n > 1:
                raise ValueError("'n' is more than 1, and with 'temperature: 0' all candidates are equal")
            for name in ("top_p", "min_p", "seed"):
                if name in changed(self):
                    raise ValueError(f"'{name}' has no effect with 'temperature: 0'")
        return self


class EndpointTeacher(Prompted):
    """A large language model behind an endpoint with OpenAI's protocol: vLLM, SGLang, llama.cpp, Ollama and others."""

    endpoint: str = execution(
        ..., description="Base URL of the server, to which /chat/completions is appended: http://localhost:8000/v1"
    )
    model: str = Field(min_length=1, description="Name of the model on the server")
    min_p: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="Minimum probability of a sampled token, relative to the most probable one; 0 for none",
    )
    seed: int | None = Field(None, ge=0, description="Seed that is sent to the server; null for none")
    request_fields: dict[str, Any] = Field(default_factory=dict, description="Further fields of each request")
    batch: AnswerBatch | None = Field(
        None,
        description="Content of a request with several sentences: 'sentences' are numbered lines, 'paragraph' lines "
        "that follow each other; null for one sentence per request",
    )
    batch_size: int = Field(10, ge=2, le=1000, description="Maximum number of sentences in a request")
    api_key_variable: str | None = execution(
        None, description="Environment variable that contains the key of the API; null for no key"
    )
    concurrency: int = execution(16, ge=1, le=4096, description="Maximum number of requests of a worker at a time")
    retries: int = execution(6, ge=0, le=100, description="Number of times that a failed request is repeated")
    timeout: float = execution(300.0, gt=0.0, description="Timeout of a request in seconds")
    max_wait: float = execution(
        60.0, gt=0.0, description="Maximum time in seconds between two attempts, if the server names no longer one"
    )
    budget_tokens: int | None = execution(
        None,
        ge=1,
        description="Maximum number of prompt and output tokens of the pipeline, in all of its training sets and their "
        "earlier states; null for no limit",
    )

    @field_validator("endpoint", mode="after")
    @classmethod
    def _url(cls, url: str) -> str:
        parts = urlsplit(url)
        try:
            valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            valid = False
        if not valid or parts.query or parts.fragment:
            raise ValueError("not the base URL of a server, as http://localhost:8000/v1 is")
        if parts.username is not None:
            raise ValueError("a URL with a user name would be stored with the run: use 'api_key_variable'")
        return url

    @field_validator("api_key_variable", mode="after")
    @classmethod
    def _variable(cls, name: str | None) -> str | None:
        if name is not None and not _VARIABLE.fullmatch(name):
            raise ValueError("not the name of an environment variable; the key itself is never in the file")
        return name

    @model_validator(mode="after")
    def _request(self) -> EndpointTeacher:
        if self.batch is None and "batch_size" in changed(self):
            raise ValueError("'batch_size' has no effect unless 'batch' is set")
        own = [name for name in _OWN_FIELDS if name in self.request_fields]
        if own:
            raise ValueError(f"'request_fields': the field '{own[0]}' is made from other settings")
        return self


class LocalGenerator(Prompted):
    """A large language model on this machine, in CTranslate2's format: Gemma, Qwen, Llama, Mistral and others.

    The prompt contains the marks of the model's turns, such as <|im_start|>.
    """

    ctranslate2_generator: str = Field(min_length=1, description="Folder of the model, with the files of its tokenizer")
    end_tokens: list[str] = Field(
        default_factory=list, description="Tokens that end an answer; empty for the one of the model"
    )
    seed: int = Field(1, ge=0, description="Seed of the sampling")
    batch_size: int = Field(16, ge=1, description="Number of sentences in a batch")


class LocalTranslator(Section):
    """A translation model of text in CTranslate2's format: MADLAD, T5, IndicTrans2 and others."""

    ctranslate2: str = Field(min_length=1, description="Folder of the model, with the files of its tokenizer")
    source_prefix: str = Field("", description="Text before each source, such as '<2de> ' for MADLAD")
    source_code: IndicCode | None = Field(
        None, description="Source language in IndicTrans2's codes, such as eng_Latn; null for other models"
    )
    target_code: IndicCode | None = Field(
        None, description="Target language in IndicTrans2's codes, such as hin_Deva; null for other models"
    )

    @model_validator(mode="after")
    def _codes(self) -> LocalTranslator:
        if (self.source_code is None) != (self.target_code is None):
            raise ValueError("IndicTrans2 has both a 'source_code' and a 'target_code', other models none")
        if self.codes is not None and self.source_prefix:
            raise ValueError("'source_prefix' has no effect with 'source_code' and 'target_code'")
        return self

    @property
    def codes(self) -> tuple[str, str] | None:
        """Return the codes of an IndicTrans2 model, None for another one."""
        both = (self.source_code, self.target_code)
        return None if both[0] is None or both[1] is None else (both[0], both[1])


TextTeacher = EndpointTeacher | LocalGenerator | LocalTranslator
TEXT_TEACHERS = (EndpointTeacher, LocalGenerator, LocalTranslator)
PROMPTED_TEACHERS = (EndpointTeacher, LocalGenerator)  # their candidates have no log-probabilities of tokens
# setting that distinguishes a section of `distill.teachers` from the others -> section
DISTINCTIVE: dict[str, type[Section]] = {
    "endpoint": EndpointTeacher,
    "ctranslate2_generator": LocalGenerator,
    "ctranslate2": LocalTranslator,
}
# settings of `distill` without an effect on a teacher that answers with text
NO_EFFECT: dict[type[Section], tuple[str, ...]] = {
    EndpointTeacher: ("engine", "compute_type", "decode", "nat", "iterations", "shortlist", "sample", "pool"),
    LocalGenerator: ("engine", "decode", "nat", "iterations", "shortlist", "sample", "pool"),
    LocalTranslator: ("engine", "nat", "iterations", "shortlist", "sample", "pool"),
}
