"""Tests of trimmed Hugging Face models against the originals: tokens, translations, files, and refused input."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_models import Saved, save_model
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from trimmed_models import CYRILLIC, KINDS, LATIN, latin_lines, make_improbable, save_bilingual, write_text

from kdmt.config import Decode
from kdmt.corpus.vocabulary_choice import TokenLimits
from kdmt.decode.engines.ctranslate2 import CTranslate2Engine
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.errors import UserError
from kdmt.interop.huggingface import (
    ForeignModel,
    ForeignTokenizer,
    LoadedTokenizer,
    export_to_ctranslate2,
    load_weights,
    read_kind,
    read_tokenizer,
)
from kdmt.interop.huggingface_trim import encode_lines, is_huggingface_folder, trim_model
from kdmt.interop.trim_record import TrimRecord, TrimSettings
from kdmt.types import EOS

transformers = pytest.importorskip("transformers")

TEXT = latin_lines(60, seed=5)
CLASSES = {
    "mbart50": (transformers.MBartForConditionalGeneration, transformers.MBart50Tokenizer),
    "m2m100": (transformers.M2M100ForConditionalGeneration, transformers.M2M100Tokenizer),
    "nllb": (transformers.M2M100ForConditionalGeneration, transformers.NllbTokenizer),
}


@dataclass(frozen=True)
class Pair:
    """A model, and the same model without the pieces that `TEXT` does not have and all but two languages."""

    saved: Saved
    out: Path
    record: TrimRecord

    @cached_property
    def loaded(self) -> tuple[LoadedTokenizer, LoadedTokenizer]:
        return tuple(read_tokenizer(folder, read_kind(folder)) for folder in (self.saved.folder, self.out))  # type: ignore[return-value]

    def tokens(self, line: str) -> tuple[list[str], list[str]]:
        """Return the tokens of a line in the original and the trimmed model."""
        both = [[loaded.names[i] for i in encode_lines(loaded, [line])[0].tolist()] for loaded in self.loaded]
        return both[0], both[1]

    def tokenizers(self) -> list[ForeignTokenizer]:
        codes = self.saved.source_code, self.saved.target_code
        return [ForeignTokenizer(folder, read_kind(folder), *codes) for folder in (self.saved.folder, self.out)]


def trimmed_pair(name: str, folder: Path) -> Pair:
    """Save a model that predicts no token that does not stay, and trim it."""
    saved, text = save_bilingual(name, folder / "model"), write_text(folder / "text.txt", TEXT)
    settings = TrimSettings((text,), languages=("en", "de"))
    trim_model(saved.folder, folder / "first", settings)
    kept = set(read_tokenizer(folder / "first", read_kind(saved.folder)).names)
    make_improbable(saved.folder, set(read_tokenizer(saved.folder, read_kind(saved.folder)).names) - kept)
    return Pair(saved, folder / "out", trim_model(saved.folder, folder / "out", settings))


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return trimmed_pair(request.param, tmp_path_factory.mktemp("trimmed"))


# --------------------------------------------------------------------------------------------------------------- tokens


def test_pieces_of_the_text_stay_and_others_do_not(pair: Pair) -> None:
    original, trimmed = pair.loaded
    whole, cut = (Counter(loaded.names) for loaded in pair.loaded)
    assert not cut - whole
    assert {name for line in TEXT for name in pair.tokens(line)[0]} <= set(cut)
    assert not any("а" <= character <= "я" for name in cut for character in name)
    assert [name for name in original.names if name in cut] == list(trimmed.names)
    assert len(cut) < len(whole) - 20


def test_languages_that_are_not_named_do_not_stay(pair: Pair) -> None:
    languages = pair.loaded[1].languages
    if pair.saved.kind == "m2m100":
        assert languages == pair.loaded[0].languages
        assert pair.record.note is not None
    else:
        assert set(languages) == {pair.saved.source_code, pair.saved.target_code}
        assert pair.record.note is None
    assert pair.record.languages == tuple(languages)


@given(text=st.text("abdegiklmopru .!ξ", max_size=40))
@hypothesis_settings(max_examples=200, deadline=None)
def test_text_whose_tokens_stay_is_cut_as_before(pair: Pair, text: str) -> None:
    before, after = pair.tokens(text)
    if set(before) <= set(pair.loaded[1].names):
        assert after == before


def test_name_of_a_language_in_the_text_does_not_keep_the_language(tmp_path: Path) -> None:
    saved = save_bilingual("nllb", tmp_path / "model")
    text = write_text(tmp_path / "text.txt", [*TEXT, "fra_Latn ba"])
    record = trim_model(saved.folder, tmp_path / "out", TrimSettings((text,), languages=("en", "de")))
    assert "fra_Latn" not in read_tokenizer(tmp_path / "out", "nllb").names
    assert record.text.lost == 1


def test_sentencepiece_model_that_is_not_there_is_named(nllb: Saved, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(nllb.folder, tmp_path / "copy"))
    (copy / "sentencepiece.bpe.model").write_text("version https://git-lfs.github.com/spec/v1\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"sentencepiece\.bpe\.model: not a SentencePiece model"):
        trim(Saved(copy, *saved_codes(nllb)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_text_with_a_lost_token_gets_other_pieces_or_unk(pair: Pair) -> None:
    kept = set(pair.loaded[1].names)
    (before, after), other = pair.tokens(f"ba {CYRILLIC[0]} be"), pair.tokens("ba be")[1]
    assert not set(before) <= kept
    assert set(after) <= kept
    assert "<unk>" in after
    assert [name for name in after if name not in ("<unk>", "▁")] == other


def test_record_counts_the_tokens_of_the_original(tmp_path: Path) -> None:
    saved = save_bilingual("nllb", tmp_path / "model")
    loaded = read_tokenizer(saved.folder, "nllb")
    lines = [*latin_lines(30, seed=6), *CYRILLIC, "ба ξ"]
    text = write_text(tmp_path / "text.txt", lines)
    record = trim_model(saved.folder, tmp_path / "out", TrimSettings((text,), TokenLimits(min_count=3)))
    trimmed = read_tokenizer(tmp_path / "out", "nllb")
    tokens = Counter(loaded.names[i] for ids in encode_lines(loaded, lines) for i in ids.tolist())
    lost = {name: count for name, count in tokens.items() if name not in trimmed.names}
    assert lost
    assert all(count < 3 for count in lost.values())
    assert record.text.tokens == tokens.total()
    assert record.text.unknown == tokens["<unk>"] == 1
    assert (record.text.lost, record.text.lost_pieces) == (sum(lost.values()), len(lost))
    assert {character for line in lines for character in line if character not in " ξ"} <= set(trimmed.names)
    values = json.loads((tmp_path / "out" / "trim.json").read_text(encoding="utf-8"))
    assert values["text"]["lost"] == record.text.lost
    assert values["after"]["vocabulary"] == len(trimmed.names)
    assert str(tmp_path) not in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("size", [52, 60])
def test_size_of_the_vocabulary_is_limited(tmp_path: Path, size: int) -> None:
    saved = save_bilingual("nllb", tmp_path / "model")
    text = write_text(tmp_path / "text.txt", TEXT)
    record = trim_model(saved.folder, tmp_path / "out", TrimSettings((text,), TokenLimits(size=size)))
    assert size - 4 <= record.after.vocabulary <= size
    assert record.text.lost > 0


def test_further_tokens_stay_with_their_parts(tmp_path: Path) -> None:
    saved = save_bilingual("nllb", tmp_path / "model")
    loaded = read_tokenizer(saved.folder, "nllb")
    word = next(word for word in CYRILLIC if len(word) > 2 and len(encode_lines(loaded, [word])[0]) == 1)
    text, tokens = write_text(tmp_path / "text.txt", TEXT), write_text(tmp_path / "tokens.txt", [f"▁{word}", ""])
    trim_model(saved.folder, tmp_path / "out", TrimSettings((text,), keep_tokens=tokens))
    trimmed = read_tokenizer(tmp_path / "out", "nllb")
    assert [trimmed.names[i] for i in encode_lines(trimmed, [f"ba {word} be"])[0]] == ["▁ba", f"▁{word}", "▁be"]


# --------------------------------------------------------------------------------------------------------- translations


def test_rows_and_other_weights_are_those_of_the_original(pair: Pair) -> None:
    old, new = (load_file(folder / "model.safetensors") for folder in (pair.saved.folder, pair.out))
    names = [loaded.names for loaded in pair.loaded]
    rows = torch.tensor([names[0].index(name) for name in names[1]])
    assert old.keys() == new.keys()
    for name, tensor in old.items():
        if name == "model.shared.weight":
            assert torch.equal(new[name], tensor[rows])
        elif name == "final_logits_bias":
            assert torch.equal(new[name], tensor[:, rows])
        else:
            assert torch.equal(new[name], tensor)
    whole, cut = (load_weights(folder, read_kind(folder)) for folder in (pair.saved.folder, pair.out))
    assert pair.record.before.parameters == whole.num_parameters()
    assert pair.record.after.parameters == cut.num_parameters()
    assert pair.record.after.bytes == (pair.out / "model.safetensors").stat().st_size


@pytest.mark.parametrize("beam", [1, 4])
def test_translations_by_transformers_are_identical(pair: Pair, beam: int) -> None:
    """Compare strings of `generate`. Sentences in which the original uses a piece that did not stay are left out."""
    model_class, tokenizer_class = CLASSES[pair.saved.kind]
    kept, found, code = set(pair.loaded[1].names), [], pair.saved.target_code
    for folder in (pair.saved.folder, pair.out):
        model = model_class.from_pretrained(folder)
        tokenizer = tokenizer_class.from_pretrained(folder, src_lang=pair.saved.source_code)
        forced = tokenizer.convert_tokens_to_ids(f"__{code}__" if pair.saved.kind == "m2m100" else code)
        made = model.generate(
            **tokenizer(TEXT[:30], return_tensors="pt", padding=True),
            num_beams=beam,
            do_sample=False,
            max_new_tokens=20,
            forced_bos_token_id=forced,
        ).tolist()
        tokens = [tokenizer.convert_ids_to_tokens(ids) for ids in made]
        found.append(list(zip(tokens, tokenizer.batch_decode(made, skip_special_tokens=True), strict=True)))
    same = [(old, new) for old, new in zip(*found, strict=True) if set(old[0]) <= kept]
    assert len(same) >= 20
    assert all(old == new for old, new in same)
    assert len({line for (_, line), _ in same}) > 5


@pytest.mark.parametrize("beam", [1, 4])
def test_teachers_translate_identically(pair: Pair, tmp_path: Path, beam: int) -> None:
    search, found = Decode(beam=beam, max_len_a=1.0, max_len_b=20), []
    for name, tokenizer in zip(("original", "trimmed"), pair.tokenizers(), strict=True):
        export_to_ctranslate2(tokenizer, tmp_path / name)
        sources, symbols = tokenizer.encode(TEXT), tokenizer.vocabulary.symbols
        engines = TorchEngine(ForeignModel(tokenizer)), CTranslate2Engine(tmp_path / name)  # type: ignore[arg-type]
        hypotheses = [nbest[0] for engine in engines for nbest in engine.decode(sources, search)]
        tokens = [[token for token in each.tokens if token != EOS] for each in hypotheses]
        sizes = np.array([len(each) for each in tokens])
        lines = tokenizer.decode(np.concatenate(tokens).astype(int), sizes)
        pieces = [[symbols[token] for token in each] for each in tokens]
        found.append(list(zip(pieces, lines, strict=True)))
    kept = set(pair.loaded[1].names)
    same = [(old, new) for old, new in zip(*found, strict=True) if set(old[0]) <= kept]
    assert len(same) > 1.5 * len(TEXT)
    assert all(old == new for old, new in same)


def test_ctranslate2_converts_the_folder_itself(tmp_path: Path) -> None:
    """CTranslate2 4.8 converts neither M2M-100 nor mBART-50 of Transformers 5, trimmed or not; kdmt's export does."""
    ctranslate2 = pytest.importorskip("ctranslate2")
    pair, found = trimmed_pair("nllb", tmp_path), []
    for number, folder in enumerate((pair.saved.folder, pair.out)):
        out = tmp_path / str(number)
        ctranslate2.converters.TransformersConverter(str(folder)).convert(str(out))
        tokenizer = transformers.NllbTokenizer.from_pretrained(folder, src_lang=pair.saved.source_code)
        tokens = [tokenizer.convert_ids_to_tokens(tokenizer(line)["input_ids"]) for line in TEXT[:12]]
        translator = ctranslate2.Translator(str(out), device="cpu", intra_threads=1)
        target_prefix = [[pair.saved.target_code]] * len(tokens)
        results = translator.translate_batch(tokens, target_prefix=target_prefix, beam_size=4, max_decoding_length=30)
        found.append([result.hypotheses[0] for result in results])
    kept = set(pair.loaded[1].names)
    same = [(old, new) for old, new in zip(*found, strict=True) if set(old) <= kept]
    assert len(same) >= 6
    assert all(old == new for old, new in same)


# ---------------------------------------------------------------------------------------------------------------- files


def trim(saved: Saved, out: Path, **options: Any) -> TrimRecord:
    text = write_text(out.with_suffix(".txt"), TEXT)
    return trim_model(saved.folder, out, TrimSettings((text,), **options))


def test_half_precision_and_shards_stay(tmp_path: Path) -> None:
    saved = save_bilingual("m2m100", tmp_path / "model")
    model = load_weights(saved.folder, "m2m100").half()
    shutil.copytree(saved.folder, tmp_path / "shards", ignore=shutil.ignore_patterns("model.safetensors"))
    model.save_pretrained(tmp_path / "shards", max_shard_size="10KB")
    trim(saved, tmp_path / "whole")
    record = trim(Saved(tmp_path / "shards", *saved_codes(saved)), tmp_path / "out")
    wanted = {name: each.half() for name, each in load_weights(tmp_path / "whole", "m2m100").state_dict().items()}
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert len(set(index["weight_map"].values())) > 1
    for file in set(index["weight_map"].values()):
        for name, tensor in load_file(tmp_path / "out" / file).items():
            assert tensor.dtype == torch.float16
            assert torch.equal(tensor, wanted[name])
    assert record.before.parameters == model.num_parameters()


def saved_codes(saved: Saved) -> tuple[str, str | None, str | None]:
    return saved.kind, saved.source_code, saved.target_code


def test_pickle_becomes_safetensors(tmp_path: Path) -> None:
    saved = save_bilingual("mbart50", tmp_path / "model")
    trim(saved, tmp_path / "wanted")
    torch.save(load_weights(saved.folder, "mbart50").state_dict(), saved.folder / "pytorch_model.bin")
    (saved.folder / "model.safetensors").unlink()
    trim(saved, tmp_path / "out")
    wanted, found = (load_weights(tmp_path / name, "mbart50").state_dict() for name in ("wanted", "out"))
    files = [load_file(tmp_path / name / "model.safetensors") for name in ("wanted", "out")]
    assert files[0].keys() - {"final_logits_bias"} == files[1].keys() - {"final_logits_bias"}  # shared ones once
    assert wanted.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize("name", ["nllb", "mbart50"])
def test_folder_with_a_sentencepiece_model_alone(tmp_path: Path, name: str) -> None:
    saved = save_bilingual(name, tmp_path / "model")
    trim(saved, tmp_path / "wanted", languages=("en", "de"))
    (saved.folder / "tokenizer.json").unlink()
    trim(saved, tmp_path / "out", languages=("en", "de"))
    wanted, found = (read_tokenizer(tmp_path / folder, saved.kind) for folder in ("wanted", "out"))  # type: ignore[arg-type]
    assert found.names == wanted.names


def test_search_settings_name_the_same_tokens(tmp_path: Path) -> None:
    saved = save_bilingual("mbart50", tmp_path / "model")
    names = read_tokenizer(saved.folder, "mbart50").names
    for file in ("config.json", "generation_config.json"):
        values = json.loads((saved.folder / file).read_text(encoding="utf-8"))
        values |= {"forced_bos_token_id": names.index("de_DE"), "forced_eos_token_id": 2}
        (saved.folder / file).write_text(json.dumps(values), encoding="utf-8")
    trim(saved, tmp_path / "out", languages=("en_XX", "de_DE"))
    trim(saved, tmp_path / "english", languages=("en_XX",))
    for file in ("config.json", "generation_config.json"):
        values = json.loads((tmp_path / "out" / file).read_text(encoding="utf-8"))
        assert read_tokenizer(tmp_path / "out", "mbart50").names[values["forced_bos_token_id"]] == "de_DE"
        assert values["forced_eos_token_id"] == 2
        values = json.loads((tmp_path / "english" / file).read_text(encoding="utf-8"))
        assert values["forced_bos_token_id"] is None
    assert read_tokenizer(tmp_path / "english", "mbart50").tokenizer.src_lang == "en_XX"


@pytest.mark.parametrize("name", ["nllb", "mbart50"])
def test_default_language_is_one_that_stays(tmp_path: Path, name: str) -> None:
    saved = save_bilingual(name, tmp_path / "model")
    path = saved.folder / "tokenizer_config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(values | {"src_lang": None}), encoding="utf-8")
    trim(saved, tmp_path / "out", languages=("fr",))
    loaded = read_tokenizer(tmp_path / "out", read_kind(tmp_path / "out"))
    assert list(loaded.languages) == [loaded.tokenizer.src_lang]
    assert loaded.tokenizer.src_lang.startswith("fr")
    ids = loaded.tokenizer("ba be")["input_ids"]
    assert [loaded.names[token] for token in ids] == [loaded.tokenizer.src_lang, "▁ba", "▁be", "</s>"]


# -------------------------------------------------------------------------------------------------------------- refused


@pytest.fixture(scope="module")
def nllb(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return save_bilingual("nllb", tmp_path_factory.mktemp("refused") / "model")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"languages": ("en", "xx")}, r"--languages: the tokenizer of .* does not know 'xx'; it knows deu_Latn, "),
        ({"limits": TokenLimits(size=20)}, r"--vocab-size 20: \d+ tokens stay in any case"),
        ({"limits": TokenLimits(min_count=10_000)}, r"--min-count 10000: no token of the text stays"),
    ],
    ids=["language", "size", "count"],
)
def test_settings_that_do_not_fit_are_refused(
    nllb: Saved, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        trim(nllb, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_language_of_several_scripts_must_be_named_in_full(tmp_path: Path) -> None:
    from kdmt.interop.huggingface_trim import _find_languages

    known = {code: code for code in ("deu_Latn", "nor_Latn", "nob_Latn", "nno_Latn")}
    with pytest.raises(UserError, match="'no' may be nor_Latn or nob_Latn or nno_Latn"):
        _find_languages(tmp_path, known, ["no"])
    assert _find_languages(tmp_path, known, ["nob_Latn", "de"]) == {c: c for c in ("deu_Latn", "nob_Latn")}


@pytest.mark.parametrize("lines", [[], ["", "  "]], ids=["empty", "blank"])
def test_empty_text_is_refused(nllb: Saved, tmp_path: Path, lines: list[str]) -> None:
    text = write_text(tmp_path / "text.txt", lines)
    with pytest.raises(UserError, match=r"text\.txt: no text"):
        trim_model(nllb.folder, tmp_path / "out", TrimSettings((text,)))


def test_text_in_an_unknown_script_is_refused(nllb: Saved, tmp_path: Path) -> None:
    text = write_text(tmp_path / "text.txt", ["ξξ ψ"])
    with pytest.raises(UserError, match="nothing would stay"):
        trim_model(nllb.folder, tmp_path / "out", TrimSettings((text,)))


def test_unknown_token_is_refused_with_its_line(nllb: Saved, tmp_path: Path) -> None:
    tokens = write_text(tmp_path / "tokens.txt", ["▁ba", "ξ"])
    with pytest.raises(UserError, match=r"tokens\.txt:2: 'ξ' is not in the vocabulary"):
        trim(nllb, tmp_path / "out", keep_tokens=tokens)


def test_existing_folder_is_not_changed(nllb: Saved, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="out: exists already"):
        trim(nllb, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_damaged_weights_leave_nothing(nllb: Saved, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(nllb.folder, tmp_path / "copy"))
    (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes()[:3000])
    with pytest.raises(UserError, match=r"model\.safetensors: the weights cannot be read"):
        trim(Saved(copy, *saved_codes(nllb)), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "out.txt"]


def test_faults_of_the_weights_are_reported_of_the_original(nllb: Saved, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(nllb.folder, tmp_path / "copy"))
    weights = load_file(copy / "model.safetensors")
    del weights["model.encoder.layer_norm.weight"]
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    message = re.escape(
        f"{copy / 'model.safetensors'}: not the weights of its config.json: missing model.encoder.layer"
    )
    with pytest.raises(UserError, match=f"^{message}"):
        trim(Saved(copy, *saved_codes(nllb)), tmp_path / "out")


def test_weights_of_another_size_are_refused(nllb: Saved, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(nllb.folder, tmp_path / "copy"))
    values = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    (copy / "config.json").write_text(json.dumps(values | {"vocab_size": values["vocab_size"] + 1}), encoding="utf-8")
    with pytest.raises(UserError, match=r"model\.shared\.weight is \[\d+, 16\], and config\.json has \d+ tokens"):
        trim(Saved(copy, *saved_codes(nllb)), tmp_path / "out")


def test_other_architectures_are_refused(tmp_path: Path) -> None:
    saved = save_model("marian", tmp_path / "model")
    assert is_huggingface_folder(saved.folder)
    with pytest.raises(UserError, match=r"NLLB, M2M-100 and mBART-50 models .* this is 'marian'"):
        trim(saved, tmp_path / "out")


def test_words_of_both_scripts_are_different() -> None:
    assert not set("".join(LATIN)) & set("".join(CYRILLIC))
