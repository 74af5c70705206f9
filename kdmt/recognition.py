"""Recognition of files and folders by their content, for messages about an unexpected path.

The content is not trusted: only a few bytes are read, only of regular files. Pipes and devices are not opened.
"""

from __future__ import annotations

import re
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path

from kdmt.choices import CHECKPOINT_PREFERENCE
from kdmt.errors import UserError
from kdmt.files import describe_kind

_HEAD_BYTES = 4096
_MOST_ENTRIES = 10_000  # maximum number of entries of a folder that are examined
_HUGGING_FACE_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
# graphs of a model that is exported as two files
_ONNX_PARTS = ("encoder_model.onnx", "decoder_model.onnx", "decoder_model_merged.onnx")
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_PIPELINE = re.compile(r"^(name|source_lang|target_lang|prepare|teacher|students|distill)\s*:", re.MULTILINE)
_ARCHIVES = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"7z\xbc\xaf": "7z",
}


def wrong_path(path: Path, expected: str) -> UserError:
    """Return an error that describes the content of a path and the command that accepts it.

    Args:
        path: path of a file or folder, which need not exist.
        expected: beginning of the message after the path, such as "not a data-bin".
    """
    return UserError(f"{path}: {expected}: {describe_path(path)}")


def describe_path(path: Path) -> str:
    """Return a description of the content of a path, and the command that accepts it, if there is one."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return "there is no such file or folder"
    try:
        if stat.S_ISDIR(mode):
            return _describe_folder(path)
        if not stat.S_ISREG(mode):
            return f"it is {describe_kind(mode)}"
        return _describe_file(path)
    except OSError as error:
        return f"it cannot be read ({error.strerror})"


# ------------------------------------------------------------------------------------------------------------- folders


def _describe_folder(folder: Path) -> str:
    names = {path.name for path, _ in zip(folder.iterdir(), range(_MOST_ENTRIES), strict=False)}
    if not names:
        return "it is an empty folder"
    if names.intersection(("model.bin", "model.onnx", *_ONNX_PARTS)):
        return _describe_export(folder, "ctranslate2" if "model.bin" in names else "onnx", "model.json" in names)
    if "config.json" in names and names.intersection(_HUGGING_FACE_WEIGHTS) and "model.json" not in names:
        return (
            "it is a model of Hugging Face's Transformers, which can be a teacher: "
            f"'distill.teachers: [{{huggingface: {folder}, ...}}]'"
        )
    if "model.safetensors" in names and "checksums.json" in names:
        return f"it is a checkpoint folder of kdmt's: 'kdmt translate {folder}' runs it, 'kdmt export' converts it"
    if "model.json" in names and "checksums.json" in names:
        return "it is a checkpoint folder without its weights (model.safetensors)"
    return _describe_outputs(folder, names)


def _describe_export(folder: Path, toolkit: str, ours: bool) -> str:
    name = {"ctranslate2": "CTranslate2", "onnx": "ONNX"}[toolkit]
    if not ours:
        return f"it is a {name} model that 'kdmt export' did not write"
    return (
        f"it is a {name} model that 'kdmt export' wrote: 'kdmt translate {folder}' runs it, and the checkpoint that it "
        "was made from serves for all else"
    )


def _describe_outputs(folder: Path, names: set[str]) -> str:
    """Describe a folder without a model, such as an output of a stage or of fairseq."""
    if any(name.startswith("dict.") for name in names) and any(name.endswith((".idx", ".bin")) for name in names):
        return (
            f"it is a data-bin of fairseq's: 'kdmt import-fairseq {folder} PIPELINE.yaml' makes a pipeline of it, "
            f"'kdmt generate {folder} --path CHECKPOINT' translates it"
        )
    if "data-bin" in names:
        return f"it is the folder of a stage that makes data: {folder / 'data-bin'} is its data-bin"
    if _is_run(names):
        return f"it is a training run: 'kdmt translate {folder}' runs its model"
    if runs := sorted(str(run) for run in _runs_below(folder)):
        return f"it holds training runs: {', '.join(runs[:3])}" + (", ..." if len(runs) > 3 else "")
    if "metrics.jsonl" in names:
        return "it is a training run that has no checkpoint yet"
    if files := sorted(name for name in names if name.endswith(".pt")):
        return (
            f"it is a folder of PyTorch files: 'kdmt import-checkpoint {folder / files[0]} OUT --data DATA_BIN' makes "
            "a checkpoint folder of one of fairseq's"
        )
    return f"it is a folder with {', '.join(sorted(names)[:5])}" + (", ..." if len(names) > 5 else "")


def _is_run(names: set[str]) -> bool:
    return not names.isdisjoint(CHECKPOINT_PREFERENCE) or any(name.startswith("checkpoint_") for name in names)


def _runs_below(folder: Path) -> Iterator[Path]:
    """Yield training runs at the paths of a pipeline's outputs: `teacher`, `students/NAME/seed_N`."""
    for pattern in ("*", "*/*", "students/*/*"):
        for below, _ in zip(folder.glob(pattern), range(_MOST_ENTRIES), strict=False):
            pointers = (below / name for name in CHECKPOINT_PREFERENCE)
            if below.is_dir() and not below.is_symlink() and any(pointer.is_file() for pointer in pointers):
                yield below


# --------------------------------------------------------------------------------------------------------------- files


def _describe_file(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        return "it is an empty file"
    if head.startswith(b"PK"):
        return _describe_pytorch(path) if _is_pytorch(path) else "it is a zip archive"
    if _PICKLE.match(head):
        return _describe_pytorch(path)
    if head.startswith((b"MMIDIDX", b"TNTIDX")) or (path.suffix == ".bin" and path.with_suffix(".idx").exists()):
        return f"it is a file of a data-bin: 'kdmt generate {path.parent} --path CHECKPOINT' takes the folder"
    if path.name in ("model.bin", "model.onnx") or path.name in _ONNX_PARTS:
        return f"it is the weights of a model that was exported: give its folder, {path.parent}"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
        return f"it is a safetensors file, weights alone: give its folder, {path.parent}"
    if head.startswith(b"\n") and b"<unk>" in head[:64]:
        return "it is a SentencePiece model: 'tokenizer.source_path' in a pipeline, --sentencepiece for fairseq's"
    for magic, name in _ARCHIVES.items():
        if head.startswith(magic):
            return f"it is a {name} archive"
    if head[257:262] == b"ustar":
        return "it is a tar archive"
    return _describe_text(path, head)


def _is_pytorch(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") or name == "data.pkl" for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):  # most likely a truncated file
        return path.suffix == ".pt"


def _describe_pytorch(path: Path) -> str:
    return (
        f"it is a file of PyTorch's: if fairseq wrote it, 'kdmt import-checkpoint {path} OUT --data DATA_BIN' makes a "
        "checkpoint folder of it"
    )


def _describe_text(path: Path, head: bytes) -> str:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "it is text in UTF-16"
    try:
        text = head.decode() if len(head) < _HEAD_BYTES else head[:-4].decode(errors="ignore")
        if len(head) == _HEAD_BYTES and len(text.encode()) < len(head) - 8:
            raise ValueError
    except ValueError:
        return "it is a binary file of no kind that kdmt knows"
    if "\0" in text:
        return "it is a binary file of no kind that kdmt knows"
    start = text.lstrip("\ufeff \t\r\n")
    if _PIPELINE.search(text):
        return f"it is a pipeline: 'kdmt run {path}' runs it"
    if re.fullmatch(r"dict\..+\.txt", path.name):
        return f"it is a dictionary of fairseq's: give its folder, {path.parent}"
    if start.startswith("#version:"):
        return "it is a file of merge operations: --bpe-codes for fairseq's, 'tokenizer.source_path' in a pipeline"
    if start.startswith(("{", "[")):
        return "it is a JSON file"
    if start.startswith("<"):
        return "it is an XML, SGML or HTML file"
    return "it is a text file"
