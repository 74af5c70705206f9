"""Export of an autoregressive Transformer as a package of Argos Translate, which LibreTranslate uses too.

A package is a zip archive, `NAME.argosmodel`, with one folder:

    model/                              CTranslate2 model
    sentencepiece.model or bpe.model    SentencePiece model, or merges of subword-nmt, of both languages
    metadata.json                       languages and versions
    README.md                           model card
    text.json, checksums.json           text processing, as in a checkpoint; sha256 of each file

Argos Translate passes pieces without </s> to the model, which therefore adds it. It searches with a beam of 4 and a
length penalty of 0.2, replaces <unk> by a source token, and replaces underscores in translations by spaces.

The package has no model that divides text into sentences: Argos Translate downloads one of MiniSBD when it translates
from a language for the first time.
"""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import pycountry

from kdmt.checksum import file_sha256
from kdmt.choices import ComputeType as Quantization
from kdmt.corpus.codec import TEXT_FILE, TextCodec
from kdmt.corpus.text import TextProcessor
from kdmt.corpus.tokenizer import SentencePieceModel, SubwordNmtModel, tokenizer_files
from kdmt.errors import UserError
from kdmt.files import atomic_file, read_json_object, write_json, write_text
from kdmt.interop import ctranslate2_export
from kdmt.interop.ctranslate2_folder import MODEL_FILE, SHARED_VOCABULARY_FILE, VOCABULARY_FILES
from kdmt.interop.export_folder import CARD_FILE, check_new
from kdmt.interop.model_card import ExportFormat
from kdmt.languages import parse_language
from kdmt.models.checkpoint_folder import log_opened, resolve_checkpoint
from kdmt.outputs import writing

PACKAGE_VERSION = "1.0"
ARGOS_VERSION = "1.9"  # first version with packages that have no model for dividing text into sentences
_CONFIG = "config.json"  # of CTranslate2
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # time of each file in the archive: the same model gives the same bytes

CARD = ExportFormat(
    "Argos Translate",
    """
```python
from argostranslate import package, translate

package.install_from_path("NAME.argosmodel")
print(translate.translate("...", "SOURCE", "TARGET"))
```

`metadata.json` has the codes of the languages. Argos Translate searches with a beam of 4 and a length penalty of 0.2.
It divides text into sentences with a model of MiniSBD, which it downloads when it translates from a language for the
first time.
""",
    tags=("argos-translate", "libretranslate", "ctranslate2"),
)


def export_checkpoint(
    checkpoint: Path, out: Path, *, quantization: Quantization = "int8", card: str | None = None
) -> None:
    """Write the model of a checkpoint as a package of Argos Translate. An error leaves no partial file.

    Args:
        checkpoint: a checkpoint folder, a pointer file or a run.
        out: the new file, `NAME.argosmodel`.
        quantization: number type of the stored weights.
        card: model card; None for none.

    Raises:
        UserError: if there is no checkpoint, the file exists, CTranslate2 does not support the model, or Argos
            Translate does not support the tokenizer or the text processing.
    """
    check_new(out)
    source = resolve_checkpoint(checkpoint)
    log_opened(checkpoint, source)
    codec = TextCodec.load(source)
    name = _tokenizer_name(codec)
    languages = [_argos_code(lang) for lang in codec.text.direction.sides]
    with writing(out), TemporaryDirectory(prefix="kdmt-argos-") as scratch:
        folder = Path(scratch) / f"translate-{'_'.join(languages)}-{PACKAGE_VERSION.replace('.', '_')}"
        folder.mkdir()
        _write_model(source, folder / "model", Path(scratch) / "ctranslate2", quantization)
        shutil.copy2(tokenizer_files(source / "tokenizer")[0], folder / name)
        shutil.copy2(source / TEXT_FILE, folder / TEXT_FILE)
        write_json(folder / "metadata.json", _metadata(languages), indent=2)
        if card is not None:
            write_text(folder / CARD_FILE, card)
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        write_json(folder / "checksums.json", {str(path.relative_to(folder)): file_sha256(path) for path in files})
        check_new(out)  # once more: another process may have written it in the meantime
        with atomic_file(out) as aside:
            _zip(folder, aside)


def _tokenizer_name(codec: TextCodec) -> str:
    """Return the name of the file of the tokenizer in the package.

    Raises:
        UserError: if Argos Translate would process text in another way.
    """
    source, target = codec.tokenizers.source, codec.tokenizers.target
    if isinstance(source, SentencePieceModel) and codec.text.text.changes_nothing:
        if source is not target:
            raise UserError(
                "a package of Argos Translate has one SentencePiece model for both languages; the tokenizer has two "
                "('prepare.tokenizer.joint')"
            )
        return "sentencepiece.model"
    if isinstance(source, SubwordNmtModel) and _is_moses_of_argos(codec.text):
        return "bpe.model"
    raise UserError(
        "Argos Translate has SentencePiece without text processing, and subword-nmt with 'text: {normalize: true, "
        "moses: true, already_applied: true}'; the model has another tokenizer or text processing"
    )


def _is_moses_of_argos(text: TextProcessor) -> bool:
    """Return whether text is processed as by Argos Translate before BPE: by Moses, with XML entities, in mixed case."""
    settings = text.text
    return settings.normalize and settings.moses and settings.already_applied and not settings.lowercase


def _write_model(checkpoint: Path, folder: Path, scratch: Path, quantization: Quantization) -> None:
    """Write the CTranslate2 model, which adds </s> to the source."""
    ctranslate2_export.export_checkpoint(checkpoint, scratch, quantization=quantization)
    folder.mkdir()
    for name in (MODEL_FILE, SHARED_VOCABULARY_FILE, *VOCABULARY_FILES):
        if (scratch / name).is_file():
            (scratch / name).rename(folder / name)
    write_json(folder / _CONFIG, read_json_object(scratch / _CONFIG) | {"add_source_eos": True}, indent=2)


def _metadata(languages: list[str]) -> dict[str, object]:
    source, target = languages
    return {
        "package_version": PACKAGE_VERSION,
        "argos_version": ARGOS_VERSION,
        "from_code": source,
        "from_name": _language_name(source),
        "to_code": target,
        "to_name": _language_name(target),
        "links": [],
    }


# codes of Argos Translate that are no codes of ISO 639, with the names of these languages there
_NAMES = {"zt": "Chinese (traditional)", "pb": "Portuguese (Brazil)"}


def _argos_code(lang: str) -> str:
    """Return the code of a language in Argos Translate."""
    try:
        language = parse_language(lang)
    except ValueError:
        return lang
    if language.language == "zh" and language.written_in == "Hant":
        return "zt"
    if (language.language, language.region) == ("pt", "BR"):
        return "pb"
    return language.language


def _language_name(code: str) -> str:
    """Return the English name of a language, its code if it is not known."""
    found = pycountry.languages.get(**{"alpha_2" if len(code) == 2 else "alpha_3": code})
    return _NAMES.get(code) or (found.name if found else code)


def _zip(folder: Path, out: Path) -> None:
    """Write a folder as a zip archive; the same files give the same bytes."""
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_dir():
                continue
            entry = zipfile.ZipInfo(str(path.relative_to(folder.parent)), _EARLIEST)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            with path.open("rb") as content, archive.open(entry, "w", force_zip64=True) as packed:
                shutil.copyfileobj(content, packed)
