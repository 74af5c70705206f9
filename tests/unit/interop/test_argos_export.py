"""Tests that a package of Argos Translate has what Argos Translate reads, and translates as its CTranslate2 model."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import ctranslate2
import pytest
import sentencepiece
from small_transformers import POST_NORM, make_model, vocabulary_sizes, write_sentencepiece, write_text_processing

from kdmt.corpus.codec import TextCodec
from kdmt.errors import UserError
from kdmt.interop.argos_export import export_checkpoint
from kdmt.interop.ctranslate2_export import export_checkpoint as export_to_ctranslate2
from kdmt.models.architecture import TransformerConfig
from kdmt.models.build import build_transformer
from kdmt.models.checkpoint import save_checkpoint

SHARED = replace(POST_NORM, share_all_embeddings=True)
LINES = ["abba baba", "cab", "abcb cc abac"]


def write(folder: Path, config: TransformerConfig = SHARED, *, joint: bool = True, **text: Any) -> Path:
    """Write a checkpoint with a SentencePiece tokenizer and changes of `text.json`."""
    sources = folder.with_name(f"{folder.name}-text")
    write_sentencepiece(sources, vocabulary_sizes(config), joint=joint)
    companions = change_text(sources, **text)
    save_checkpoint(folder, make_model(config, eos_logit=12.0).float(), companions=companions)
    return folder


def change_text(folder: Path, *, source_lang: str = "en", target_lang: str = "de", **settings: bool) -> list[Path]:
    """Change `text.json`, and return the files and folders that belong to a checkpoint."""
    values = json.loads((folder / "text.json").read_text())
    for side, lang in (("source", source_lang), ("target", target_lang)):
        (folder / f"dict.{values[f'{side}_lang']}.txt").rename(folder / f"dict.{lang}.txt")
        values[f"{side}_lang"] = lang
    values["text"] |= settings
    (folder / "text.json").write_text(json.dumps(values))
    return TextCodec.load(folder).companions(folder)


def installed(package: Path, folder: Path) -> Path:
    """Unpack a package as Argos Translate does, and return its folder."""
    with zipfile.ZipFile(package) as archive:
        archive.extractall(folder)
    (found,) = folder.iterdir()
    return found


def test_package_translates_as_its_ctranslate2_model(tmp_path: Path) -> None:
    """The calls are those of `apply_packaged_translation` in argostranslate/translate.py (1.11)."""
    checkpoint = write(tmp_path / "a")
    export_checkpoint(checkpoint, tmp_path / "a.argosmodel", card="card")
    package = installed(tmp_path / "a.argosmodel", tmp_path / "packages")
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(package / "sentencepiece.model"))
    tokenized = [pieces.encode(line, out_type=str) for line in LINES]
    options: dict[str, Any] = {
        **{"replace_unknowns": True, "max_batch_size": 32, "batch_type": "tokens", "beam_size": 4},
        **{"num_hypotheses": 1, "length_penalty": 0.2, "return_scores": True},
    }
    found = ctranslate2.Translator(str(package / "model")).translate_batch(tokenized, **options)
    export_to_ctranslate2(checkpoint, tmp_path / "ct2", quantization="int8")
    with_eos = [[*line, "</s>"] for line in tokenized]
    expected = ctranslate2.Translator(str(tmp_path / "ct2")).translate_batch(with_eos, **options)
    assert [each.hypotheses for each in found] == [each.hypotheses for each in expected]
    assert [each.scores for each in found] == [each.scores for each in expected]
    assert len({tuple(each.hypotheses[0]) for each in found}) > 1


def test_package_describes_its_languages_and_files(tmp_path: Path) -> None:
    export_checkpoint(write(tmp_path / "a", source_lang="en", target_lang="pt-BR"), tmp_path / "a.argosmodel", card="x")
    package = installed(tmp_path / "a.argosmodel", tmp_path / "packages")
    assert package.name == "translate-en_pb-1_0"
    metadata = json.loads((package / "metadata.json").read_text())
    assert (metadata["from_code"], metadata["from_name"]) == ("en", "English")
    assert (metadata["to_code"], metadata["to_name"]) == ("pb", "Portuguese (Brazil)")
    assert metadata["package_version"] == "1.0"
    assert (package / "README.md").read_text() == "x"
    listed = set(json.loads((package / "checksums.json").read_text()))
    found = {str(path.relative_to(package)) for path in package.rglob("*") if path.is_file()}
    assert listed == found - {"checksums.json"}
    assert {"model/model.bin", "model/config.json", "model/shared_vocabulary.json", "sentencepiece.model"} < found


@pytest.mark.parametrize(
    ("lang", "code"), [("zh-Hant", "zt"), ("zh", "zh"), ("zh-TW", "zt"), ("pt", "pt"), ("deu", "de"), ("de-AT", "de")]
)
def test_codes_of_argos(tmp_path: Path, lang: str, code: str) -> None:
    export_checkpoint(write(tmp_path / "a", source_lang=lang, target_lang="en"), tmp_path / "a.argosmodel")
    package = installed(tmp_path / "a.argosmodel", tmp_path / "packages")
    assert json.loads((package / "metadata.json").read_text())["from_code"] == code


def test_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    checkpoint = write(tmp_path / "a")
    for name in ("a.argosmodel", "b.argosmodel"):
        export_checkpoint(checkpoint, tmp_path / name, card="x")
    assert (tmp_path / "a.argosmodel").read_bytes() == (tmp_path / "b.argosmodel").read_bytes()


@pytest.mark.parametrize("changes", [{"moses": True}, {"lowercase": True}, {"normalize": True}])
def test_text_processing_is_refused(tmp_path: Path, changes: dict[str, bool]) -> None:
    with pytest.raises(UserError, match="another tokenizer or text processing"):
        export_checkpoint(write(tmp_path / "a", **changes), tmp_path / "a.argosmodel")
    assert not (tmp_path / "a.argosmodel").exists()


def test_two_sentencepiece_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has one SentencePiece model for both languages"):
        export_checkpoint(write(tmp_path / "a", joint=False), tmp_path / "a.argosmodel")


def test_subword_nmt_needs_the_processing_of_argos(tmp_path: Path) -> None:
    size, companions = write_text_processing(tmp_path / "text")
    model = build_transformer(POST_NORM, src_vocab_size=size, tgt_vocab_size=size)
    save_checkpoint(tmp_path / "a", model, companions=companions)
    with pytest.raises(UserError, match="and subword-nmt with 'text: "):
        export_checkpoint(tmp_path / "a", tmp_path / "a.argosmodel")
    change_text(tmp_path / "text", normalize=True, moses=True, already_applied=True)
    save_checkpoint(tmp_path / "b", model, companions=companions)
    export_checkpoint(tmp_path / "b", tmp_path / "b.argosmodel")
    package = installed(tmp_path / "b.argosmodel", tmp_path / "packages")
    assert (package / "bpe.model").read_bytes() == (tmp_path / "b" / "tokenizer" / "joint.codes").read_bytes()


def test_existing_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.argosmodel").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        export_checkpoint(write(tmp_path / "a"), tmp_path / "a.argosmodel")
    assert (tmp_path / "a.argosmodel").read_text() == "mine"
