"""Part of `bench_architecture.py` that finds the files on the call stack at certain moments, in a separate process.

    python trace_files.py prepare|translate|STUDENT STUDENTS_AS_JSON

The script uses the current folder and the pipeline of the tests (`tiny_pipeline`, a module on PYTHONPATH), and prints a
JSON list.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import tiny_pipeline  # type: ignore[import-not-found]  # in tests/, which is on PYTHONPATH

import kdmt

PACKAGE = str(Path(kdmt.__file__).parent)
MODEL_CODE = ("/corpus/tokenizer.py", "/corpus/text.py", "/models/transformer.py", "/models/attention.py")
# names of functions, in any file
STUDENT_MOMENTS = ("load_pipeline", "make_objective", "build_objective", "collate")
TRANSLATION_MOMENTS = ("load_model", "encode_source", "decode_target", "finish_target", "max_lengths", "pick_device")


def main() -> None:
    name, students = sys.argv[1], json.loads(sys.argv[2])
    if name == "prepare":
        write_pipeline(students)
        tiny_pipeline.run_stages("prepare", "teacher")
        return
    files = traced(translate if name == "translate" else lambda: train(name), is_moment_of(name))
    print(json.dumps(sorted(files)))


def write_pipeline(students: dict[str, Any]) -> None:
    folder = Path.cwd()
    tiny_pipeline.write_pipeline(folder)
    document = tiny_pipeline.settings()
    common = {
        "model": tiny_pipeline.MODEL,
        "train": {**tiny_pipeline.TRAIN, "validate_bleu": False, "best_metric": "loss"},
    }
    document["students"] = {name: {**common, **student} for name, student in students.items()}
    (folder / "tiny.yaml").write_text(tiny_pipeline.to_yaml(document))


def train(name: str) -> None:
    from kdmt.cli import main as command

    run(command, ["student", "tiny.yaml", "--student", name])


def translate() -> None:
    from kdmt.cli import main as command

    run(command, ["translate", "runs/tiny/teacher", "--threads", "1"])


def run(command: Any, arguments: list[str]) -> None:
    sys.argv = ["kdmt", *arguments]
    sys.stdin = io.TextIOWrapper(io.BytesIO(b"ba be\n"))
    sys.stdout, stdout = io.TextIOWrapper(io.BytesIO()), sys.stdout
    try:
        with contextlib.suppress(SystemExit):
            command()
    finally:
        sys.stdout = stdout


def is_moment_of(question: str) -> Any:
    """Return a function (file, function name) -> whether a call of this function is one of the moments."""

    def of_student(file: str, function: str) -> bool:
        return function in STUDENT_MOMENTS or file.startswith("/losses/")

    def of_translation(file: str, function: str) -> bool:
        return file.endswith(MODEL_CODE) or function in TRANSLATION_MOMENTS

    return of_translation if question == "translate" else of_student


def traced(work: Any, is_moment: Any) -> set[str]:
    files: set[str] = set()

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        own, name = frame.f_code.co_filename, frame.f_code.co_name
        is_call = event == "call" and own.startswith(PACKAGE) and is_moment(own.removeprefix(PACKAGE), name)
        if (is_call and not is_validation(frame)) or (
            event == "c_call" and getattr(argument, "__name__", "") == "run_backward"
        ):
            files.update(on_stack(frame))

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return files


def on_stack(frame: FrameType | None) -> set[str]:
    """Return the files of the functions on the stack, of their classes with all bases, and of settings and batches.

    Return an empty set while a module is imported, since no function of the module runs then.
    """
    found = set()
    while frame is not None:
        if frame.f_code.co_name == "<module>" and "importlib" in str(frame.f_back and frame.f_back.f_code.co_filename):
            return set()
        if frame.f_code.co_filename.startswith(PACKAGE):
            found.add(frame.f_code.co_filename)
            found |= {inspect.getfile(type(value)) for value in frame.f_locals.values() if is_record(type(value))}
            if "self" in frame.f_locals:
                found |= {inspect.getfile(kind) for kind in type(frame.f_locals["self"]).__mro__ if is_ours(kind)}
        frame = frame.f_back
    return {file.removeprefix(PACKAGE).lstrip("/") for file in found}


def is_validation(frame: FrameType | None) -> bool:
    while frame is not None and not frame.f_code.co_filename.endswith("/validation.py"):
        frame = frame.f_back
    return frame is not None


def is_ours(kind: type) -> bool:
    return kind.__module__.startswith("kdmt.")


def is_record(kind: type) -> bool:
    """Return whether a class is a settings section or `Batch`."""
    return is_ours(kind) and (hasattr(kind, "model_fields") or kind.__name__ == "Batch")


if __name__ == "__main__":
    main()
