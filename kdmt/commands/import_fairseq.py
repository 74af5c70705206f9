"""`kdmt import-fairseq`: write a pipeline file for a data-bin of fairseq-preprocess."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from kdmt.commands.pipeline_file import write_pipeline_file
from kdmt.errors import UserError
from kdmt.interop.fairseq.data_bin import DataBin

_HEAD = """\
# A data-bin of fairseq's, taken as it is, and a teacher and a student to start from: made by `kdmt import-fairseq`.
# All settings with their defaults are in kdmt/config/.
"""


@contextmanager
def new_pipeline(
    data_bin: Path,
    pipeline: Path,
    *,
    name: str | None = None,
    source_lang: str | None = None,
    target_lang: str | None = None,
    bpe_codes: Path | None = None,
    sentencepiece: Path | None = None,
    remove_bpe: str | None = None,
    moses: bool = False,
    lowercase: bool = False,
) -> Iterator[list[str]]:
    """Write the file of a pipeline whose `prepare` stage uses the data-bin.

    This is a context manager, in which the caller runs the stage. If the stage fails, the file is removed.

    Args:
        pipeline: new file.
        name: name of the pipeline (default: the file's name without its suffix).
        bpe_codes, sentencepiece: model that cut the text into subwords; without one, the tokens are used unchanged.
        remove_bpe: in this case, the kind of marks by which tokens are joined for scores.
        moses, lowercase: processing that was applied to the text before.

    Yields:
        Hints for the user.

    Raises:
        UserError: if the file exists, the data-bin is incomplete, or settings contradict each other.
    """
    if pipeline.exists():
        raise UserError(f"{pipeline}: exists already; nothing was written (`kdmt prepare {pipeline}` goes on from it)")
    if bpe_codes is not None and sentencepiece is not None:
        raise UserError("--bpe-codes and --sentencepiece: text was cut by one of them")
    data = DataBin.open(data_bin, source_lang, target_lang)
    for split in ("train", "valid"):
        data.split(split, parallel=True)
    source, target = data.dictionaries
    prepare: dict[str, object] = {
        "data_bin": {"path": str(data_bin), "test": data.names("test")},
        "tokenizer": _tokenizer(bpe_codes, sentencepiece, remove_bpe),
        "vocabulary": {"joined": source == target},
    }
    if moses or lowercase:
        prepare["text"] = {"moses": moses, "lowercase": lowercase, "already_applied": True}
    document = {
        "name": name or pipeline.stem,
        "source_lang": data.direction.source,
        "target_lang": data.direction.target,
        "prepare": prepare,
        "teacher": {"model": _model(source == target)},
        "students": {"distilled": {"model": _model(source == target) | {"decoder_layers": 2}}},
    }
    write_pipeline_file(pipeline, _HEAD + yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
    try:
        yield _hints(data, bpe_codes or sentencepiece or remove_bpe)
    except BaseException:
        pipeline.unlink(missing_ok=True)  # leave no file after an error or an interruption
        raise


def _tokenizer(bpe_codes: Path | None, sentencepiece: Path | None, remove_bpe: str | None) -> dict[str, str]:
    if bpe_codes is None and sentencepiece is None:
        kind = {"@@ ": "subword_nmt", "@@": "subword_nmt"}.get(remove_bpe or "", remove_bpe)
        return {"type": "words"} | ({} if kind is None else {"remove_bpe": kind})
    if remove_bpe is not None:
        raise UserError("--remove-bpe is for tokens that are taken as they are: the given model joins its own")
    if sentencepiece is not None:
        return {"type": "sentencepiece", "source_path": str(sentencepiece)}
    return {"type": "subword-nmt", "model": "bpe", "source_path": str(bpe_codes)}


def _model(joined: bool) -> dict[str, str | bool]:
    return {"arch": "transformer"} | ({"share_all_embeddings": True} if joined else {})


def _hints(data: DataBin, known: object) -> list[str]:
    if known is not None:
        return []
    marks = {
        "subword_nmt": lambda symbol: symbol.endswith("@@"),
        "sentencepiece": lambda symbol: symbol.startswith("▁"),
    }
    return [
        f"the target dictionary looks like {kind}: --remove-bpe {kind} joins its tokens for scores, and --bpe-codes or "
        "--sentencepiece for all text"
        for kind, is_mark in marks.items()
        if sum(map(is_mark, data.dictionaries[1].symbols)) > len(data.dictionaries[1]) / 50
    ]
