"""Prompts of large language models, from a template in a file.

The template may contain `{source}`, which it must, `{source_language}`, `{target_language}` and `{examples}`. Other
braces are text if they do not enclose a single name.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from pathlib import Path

import pycountry

from kdmt.config import Prompted
from kdmt.corpus.text_files import open_lines
from kdmt.errors import UserError
from kdmt.files import check_file
from kdmt.languages import Direction, parse_language

_PLACEHOLDER = re.compile(r"\{([A-Za-z_]+)\}")
_NAMES = ("source", "source_language", "target_language", "examples")
_VARIANTS = {"Hans": "Simplified", "Hant": "Traditional"}
_BYTES_PER_TOKEN = 3  # of UTF-8: fewer than tokenizers have for most languages, so that estimates are not too small
MORE_TOKENS = 32  # of an output, so that short sources have room
_LARGEST_FILE = 1 << 20  # bytes


@dataclass(frozen=True)
class Prompt:
    """A prompt in which only the source text is missing.

    Attributes:
        parts: text before, between and after the places of the source text.
    """

    parts: tuple[str, ...]

    def fill(self, source: str) -> str:
        """Return the prompt with the source text."""
        return source.join(self.parts)

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of the prompt, which identifies it."""
        return hashlib.sha256("\0".join(self.parts).encode()).hexdigest()


def read_prompt(settings: Prompted, direction: Direction, setting: str) -> Prompt:
    """Return the prompt of the settings for a direction.

    Args:
        setting: YAML path of the settings with a dot at its end, for messages.

    Raises:
        UserError: if a file cannot be read, the template has no `{source}` or an unknown placeholder, or the examples
            have no place.
    """
    path = Path(settings.prompt)
    template = _read(path, f"{setting}prompt").removesuffix("\n")
    names = _check_names(path, template)
    if "source" not in names:
        last = template.count("\n") + 1
        raise UserError(f"{path}:{last}: the prompt has no {{source}}, the place of the text to translate")
    if "examples" in names and settings.examples is None:
        line = template[: template.index("{examples}")].count("\n") + 1
        raise UserError(f"{path}:{line}: {{examples}} needs a file of examples: set {setting}examples")
    if settings.examples is not None and "examples" not in names:
        raise UserError(f"{setting}examples has no effect: {path} has no {{examples}}")
    source_name = settings.source_name or language_name(direction.source)
    target_name = settings.target_name or language_name(direction.target)
    values = {"source_language": source_name, "target_language": target_name}
    if settings.examples is not None:
        values["examples"] = _format_examples(Path(settings.examples), source_name, target_name, setting)
    parts = [""]
    end = 0
    for match in _PLACEHOLDER.finditer(template):
        parts[-1] += template[end : match.start()]
        end = match.end()
        if match[1] == "source":
            parts.append("")
        else:
            parts[-1] += values[match[1]]
    parts[-1] += template[end:]
    return Prompt(tuple(parts))


def language_name(code: str) -> str:
    """Return the English name of the language of a code, the code itself if it has none.

    A script in the code is added: `Serbian (Latin)` for sr-Latn, `Simplified Chinese` for zh-Hans.
    """
    parsed = parse_language(code)
    key = "alpha_2" if len(parsed.language) == 2 else "alpha_3"
    found = pycountry.languages.get(**{key: parsed.language})
    if found is None:
        return code
    name = str(getattr(found, "common_name", found.name)).partition(" (")[0].removeprefix("Modern ")
    if parsed.script in _VARIANTS:
        return f"{_VARIANTS[parsed.script]} {name}"
    script = None if parsed.script is None else pycountry.scripts.get(alpha_4=parsed.script)
    return name if script is None else f"{name} ({script.name})"


def estimate_tokens(text: str) -> int:
    """Return an estimate of the number of tokens of a text, from its bytes."""
    return math.ceil(len(text.encode("utf-8", errors="replace")) / _BYTES_PER_TOKEN)


def max_output_tokens(source: str, ratio: float) -> int:
    """Return the maximum number of output tokens for a source text."""
    return math.ceil(ratio * estimate_tokens(source)) + MORE_TOKENS


def _read(path: Path, setting: str) -> str:
    check_file(path, missing=f"there is no such file ({setting})")
    if path.stat().st_size > _LARGEST_FILE:
        raise UserError(f"{path}: larger than {_LARGEST_FILE:,} bytes ({setting})")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8: {error}") from None


def _check_names(path: Path, template: str) -> set[str]:
    names = set()
    for number, line in enumerate(template.split("\n"), start=1):
        for name in _PLACEHOLDER.findall(line):
            if name not in _NAMES:
                known = ", ".join(f"{{{each}}}" for each in _NAMES)
                raise UserError(f"{path}:{number}: unknown placeholder {{{name}}}: known are {known}")
            names.add(name)
    return names


def _format_examples(path: Path, source_name: str, target_name: str, setting: str) -> str:
    _read(path, f"{setting}examples")
    pairs = []
    for number, line in enumerate(open_lines(path, member=None, name=str(path)), start=1):
        columns = line.split("\t")
        if len(columns) != 2 or not all(map(str.strip, columns)):
            raise UserError(f"{path}:{number}: expected a source and its translation, separated by a tab")
        pairs.append(f"{source_name}: {columns[0].strip()}\n{target_name}: {columns[1].strip()}")
    if not pairs:
        raise UserError(f"{path}: no examples")
    return "\n\n".join(pairs)
