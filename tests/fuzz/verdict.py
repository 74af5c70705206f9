"""The faults in how a command ended.

A command succeeds, or it refuses its input with one clear line; other files are not changed.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fuzz.case import Command
from fuzz.server import Ended

LONGEST_LINE = 2_000  # characters of standard error
Tree = Mapping[str, str]  # relative path -> identity of its content

FaultKind = Literal["traceback", "hang", "harmed", "message", "accepted"]


@dataclass(frozen=True)
class Fault:
    kind: FaultKind
    text: str


def judge(ended: Ended, command: Command, before: Tree, after: Tree) -> list[Fault]:
    """Return all faults in how a command ended."""
    if ended.hung:
        return [Fault("hang", f"no end within the time limit; at {_last_frame(ended.where)}")]
    return [*_crashes(ended), *_bad_messages(ended, command), *_harm(ended, command, before, after)]


def _last_frame(stack: str) -> str:
    return " < ".join(line.strip() for line in stack.splitlines() if "/kdmt/" in line)[:300] or "an unknown place"


# ------------------------------------------------------------------------------------------------------------ messages


def _crashes(ended: Ended) -> list[Fault]:
    text = ended.err.decode(errors="replace")
    if ended.code < 0:
        return [Fault("traceback", f"ended by signal {-ended.code}: {text[-300:]}")]
    if "Traceback (most recent call last)" in text:
        return [Fault("traceback", _summary(text))]
    if ended.code not in (0, 2):
        return [Fault("traceback", f"exit code {ended.code}: {text[-300:]}")]
    return []


def _summary(text: str) -> str:
    """Return the error and the place in kdmt where it was raised."""
    frames = re.findall(r'File ".*?/kdmt/([^"]+)", line (\d+)', text)
    last = [line for line in text.splitlines() if line and not line.startswith(" ")][-1]
    place = ":".join(frames[-1]) if frames else "?"
    return f"{last[:300]} at kdmt/{place}"


def _bad_messages(ended: Ended, command: Command) -> list[Fault]:
    if ended.code not in (0, 2) or b"Traceback" in ended.err:
        return []
    try:
        text = ended.err.decode()
    except UnicodeDecodeError:
        return [Fault("message", "standard error is not UTF-8")]
    faults = [Fault("message", problem) for problem in _ill_formed(text)]
    errors = [line for line in text.splitlines() if line.startswith("kdmt: error: ")]
    if ended.code == 2 and not _is_usage(text) and (len(errors) != 1 or not text.endswith(f"{errors[-1]}\n")):
        faults.append(Fault("message", f"{len(errors)} lines 'kdmt: error: ' and the last one is {text[-200:]!r}"))
    if ended.code == 0 and errors:
        faults.append(Fault("message", f"success, and yet {errors[0][:200]!r}"))
    if ended.code == 0 and command.lines not in (None, found := ended.out.count(b"\n")):
        faults.append(Fault("message", f"{command.lines} lines expected on standard output, there are {found}"))
    return faults


def _ill_formed(text: str) -> list[str]:
    problems = []
    raw = {character for character in text if unicodedata.category(character) == "Cc" and character not in "\n\t"}
    if raw:
        problems.append(f"control characters {sorted(raw)} on standard error")
    longest = max(text.split("\n"), key=len)
    if len(longest) > LONGEST_LINE:
        problems.append(f"a line of {len(longest)} characters: {longest[:100]!r}")
    if warning := re.search(r"^.*\b\w+Warning: .*$", text, re.MULTILINE):
        problems.append(f"a library's warning: {warning[0][:200]!r}")
    if "Exception ignored in" in text:
        problems.append("an exception that was ignored")
    return problems


def _is_usage(text: str) -> bool:
    """Return whether this is a usage error of the command line's parser, or of argparse in `kdmt generate`."""
    return text.startswith("Usage: ") and re.search(r"^Error: .*\n\Z", text, re.MULTILINE) is not None


# ------------------------------------------------------------------------------------------------------- changed files


def look_at(folder: Path) -> dict[str, str]:
    """Return everything below a folder: content of files, target of links, kind of other paths."""
    tree = {}
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(parent, name)
            tree[str(path.relative_to(folder))] = _identity(path)
    return tree


def _identity(path: Path) -> str:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return f"link to {path.readlink()}"
    if stat.S_ISREG(mode):
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return "folder" if stat.S_ISDIR(mode) else f"special {stat.S_IFMT(mode):o}"


_PROGRESS = re.compile(r"(^|/)(\.[^/]*\.(lock|setup)|logs/.*|metrics\.jsonl|[^/]*\.partial(/.*)?|\.partial-.*)$")
_ASIDE = re.compile(r"\.(previous|unfinished|\d+)")


def _harm(ended: Ended, command: Command, before: Tree, after: Tree) -> list[Fault]:
    succeeded = ended.code == 0
    harmed = [
        path
        for path, content in before.items()
        if after.get(path) != content
        and not _PROGRESS.search(path)
        and not (succeeded and path.startswith(command.changes or ("\0",)))
        and not _is_kept_aside(path, content, after)
        and not _was_begun(path, after)
    ]
    faults = [Fault("harmed", f"{path} was changed or removed") for path in harmed[:3]]
    strays = [
        path
        for path in after.keys() - before.keys()
        if not path.startswith("runs") and not (succeeded and command.makes and _is_below(path, command.makes))
    ]
    return faults + [Fault("harmed", f"{path} was left behind") for path in sorted(strays)[:3]]


def _was_begun(path: str, after: Tree) -> bool:
    """Return whether a file is a record of a complete stage that was begun again and now has a plan instead."""
    folder, _, name = path.rpartition("/")
    return name in ("manifest.json", "config.json") and f"{folder}/plan.json" in after


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def _is_kept_aside(path: str, content: str, after: Tree) -> bool:
    """Return whether the stage that contains a file was moved aside with it."""
    if content == "folder":
        return True  # only its files count
    return any(_ASIDE.sub("", other) == path for other, found in after.items() if found == content)
