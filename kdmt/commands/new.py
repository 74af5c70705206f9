"""`kdmt new`: write a commented pipeline file from a template in the package."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template

from kdmt.choices import TemplateName, names
from kdmt.commands.find import find, size_and_licence
from kdmt.commands.pipeline_file import write_pipeline_file
from kdmt.errors import UserError
from kdmt.languages import parse_language
from kdmt.toy.corpus_files import COUNTS, is_up_to_date, write_corpus

CORPUS_FOLDER = "toy-corpus"  # for the template `toy`, in the folder of the pipeline file

_FOLDER = Path(__file__).parent.parent / "templates"
_TOY_SEED = 1
_MOST_CORPORA = 3  # in the template `opus`
_MOST_PAIRS = 5_000_000  # of such a corpus, so that the first download is small
_CRAWLED = (
    "CCAligned",
    "CCMatrix",
    "HPLT",
    "MaCoCu",
    "NLLB",
    "ParaCrawl",
    "WikiMatrix",
)  # of text from the web
_FIXED = {"toy": (("en", "de"),), "multi30k": (("en", "de"), ("en", "fr"), ("en", "cs"))}  # template -> language pairs
_MULTI30K = {
    "en": {
        "train": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
        "val": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
        "test_2016_flickr": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
    },
    "de": {
        "train": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
        "val": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
        "test_2016_flickr": "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
    },
    "fr": {
        "train": "622e75069e9f4c577425c4f277116ce66e63a2401c0a2312d90073cb12379a3c",
        "val": "ca3106f1a72390591d25f6c45cb4cd39dec4cd3f123e099748a3ce5256c160e9",
        "test_2016_flickr": "6d326e188d259fb1d04ac19eae3af956559b3a0b93d7635e56c90987c40c8b90",
    },
    "cs": {
        "train": "a65adb8b32e3bc664f21ecba7a6e7f6950fd1f405e135f7c312faabdb6255077",
        "val": "b63226e05c4bd5dd6a42897d74b86a1b9d2c31498252c572b1ea7f7996927fcc",
        "test_2016_flickr": "200a4a74cc9560f051924abb9803be008d1908d77f747e9141aeb86dfd2797f1",
    },
}  # language -> file -> sha256 of Multi30k's task 1


@dataclass(frozen=True)
class _Request:
    """Values for a new pipeline file."""

    pipeline: Path
    template: TemplateName
    name: str
    source: str
    target: str


def new_pipeline(
    pipeline: Path,
    *,
    source: str | None = None,
    target: str | None = None,
    template: TemplateName = "minimal",
    name: str | None = None,
) -> list[Path]:
    """Write a pipeline file from a template, and for `toy` also the toy corpus.

    Args:
        pipeline: new file.
        source: source language, as a BCP 47 tag or an ISO 639 code. Templates that include a corpus have a default.
        target: target language.
        template: name of the template.
        name: name of the pipeline (default: the file's name without its suffix).

    Returns:
        Paths of the new file and, if there is one, of the folder of the corpus.

    Raises:
        UserError: if the file or the corpus folder exists, the template does not exist, a language is missing or not
            in the corpus of the template, OPUS has no corpus for the template `opus`, or a value is not valid in a
            pipeline.
    """
    if template not in names(TemplateName):
        raise UserError(f"there is no template {template!r}: expected one of {', '.join(names(TemplateName))}")
    if pipeline.exists() or pipeline.is_symlink():
        raise UserError(f"{pipeline}: exists already; nothing was written")
    source, target = _languages(template, source, target)
    request = _Request(pipeline, template, pipeline.stem if name is None else name, source, target)
    written = [pipeline]
    if template == "toy":
        _check_corpus_folder(_corpus(request))
    write_pipeline_file(pipeline, _fill(request))
    if template == "toy":
        try:
            written.append(_write_toy_corpus(_corpus(request)))
        except BaseException:
            pipeline.unlink(missing_ok=True)  # a pipeline without its corpus could not run
            raise
    return written


def template_text(template: TemplateName) -> str:
    """Return the text of a template, with its placeholders."""
    return (_FOLDER / f"{template}.yaml").read_text(encoding="utf-8")


def _languages(template: TemplateName, source: str | None, target: str | None) -> tuple[str, str]:
    pairs = _FIXED.get(template)
    if pairs is None:
        if source is None or target is None:
            raise UserError(f"the template {template!r} needs --source and --target, as in --source en --target cs")
        return _checked_language("--source", source), _checked_language("--target", target)
    pair = source or pairs[0][0], target or pairs[0][1]
    if pair not in pairs:
        known = ", ".join("-".join(each) for each in pairs)
        raise UserError(f"the template {template!r} has no corpus for {'-'.join(pair)}; it has {known}")
    return pair


def _checked_language(option: str, code: str) -> str:
    try:
        parse_language(code)
    except ValueError as error:
        raise UserError(f"{option} {code!r}: {error}") from None
    return code


def _fill(request: _Request) -> str:
    return Template(template_text(request.template)).substitute(_values(request))


def _values(request: _Request) -> Mapping[str, str]:
    """Return the values of the placeholders in YAML syntax."""
    values = {
        "file": _in_comment(str(request.pipeline)),
        "name": _scalar(request.name),
        "source_lang": _scalar(request.source),
        "target_lang": _scalar(request.target),
        "source": request.source,  # for file names
        "target": request.target,
    }
    if request.template == "toy":
        values["corpus"] = json.dumps(str(_corpus(request)), ensure_ascii=False)[1:-1]  # within double quotes
    if request.template == "opus":
        values["corpora"] = "\n".join(_opus_entries(request.source, request.target))
    if request.template == "multi30k":
        for side, lang in (("source", request.source), ("target", request.target)):
            values |= {f"{file}_{side}": sha256 for file, sha256 in _MULTI30K[lang].items()}
    return values


def _opus_entries(source: str, target: str) -> Iterator[str]:
    """Yield items of `prepare.train`: the largest corpora of OPUS that have a known licence and are not too large."""
    datasets = [each.dataset for each in find(source, target, max_pairs=_MOST_PAIRS) if each.use == "train"]
    of_opus = [each for each in datasets if each.name.startswith("opus: ") and each.licence and each.num_pairs]
    if not of_opus:
        command = f"kdmt find {source} {target}"
        raise UserError(f"the list of data sets has no corpus of OPUS with a known licence; '{command}' lists others")
    for dataset in of_opus[:_MOST_CORPORA]:
        yield f"    - {dataset.name} # {size_and_licence(dataset)}"
        if dataset.name.removeprefix("opus: ").startswith(tuple(f"{corpus}/" for corpus in _CRAWLED)):
            yield "      clean: {rules: crawled} # stricter rules, for text from the web"


def _scalar(text: str) -> str:
    """Return text as a YAML scalar: plain if it is a simple word that YAML reads as a string, else quoted."""
    is_plain = text.replace("-", "").replace("_", "").isalnum() and text[:1].isalpha() and text.lower() not in _WORDS
    return text if is_plain else json.dumps(text, ensure_ascii=False)


_WORDS = {"no", "yes", "on", "off", "y", "n", "true", "false", "null"}  # YAML 1.1 reads them as other types


def _in_comment(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def _corpus(request: _Request) -> Path:
    return request.pipeline.parent / CORPUS_FOLDER


def _check_corpus_folder(folder: Path) -> None:
    """Check that a folder contains no files other than the toy corpus."""
    if not folder.exists() or is_up_to_date(folder, COUNTS, _TOY_SEED):
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise UserError(f"{folder}: exists already and is not the toy corpus; nothing was written")


def _write_toy_corpus(folder: Path) -> Path:
    if not is_up_to_date(folder, COUNTS, _TOY_SEED):
        write_corpus(folder, COUNTS, _TOY_SEED)
    return folder
