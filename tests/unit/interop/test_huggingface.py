"""Tests of foreign models against Transformers (ids, text, probabilities, search), and of refused models."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_models import CODES, Saved, save_model
from tiny_pipeline import make_pairs

from kdmt.config import Decode
from kdmt.decode.engines.ctranslate2 import CTranslate2Engine
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.errors import UserError
from kdmt.interop.huggingface import (
    ForeignModel,
    ForeignTokenizer,
    check_languages,
    export_to_ctranslate2,
    find_model,
    load_weights,
    model_files,
    position_limits,
    read_kind,
)
from kdmt.languages import Direction
from kdmt.terminal import printable_stderr
from kdmt.types import EOS, PAD, Hypothesis, Sampling

transformers = pytest.importorskip("transformers")

TEXT = [source for source, _ in make_pairs(24, seed=3)] + ["ba be! xyz.", "rom"]
BEAM = 4
LONG = Decode(beam=BEAM, nbest=BEAM, lenpen=0.0, max_len_a=1.0, max_len_b=30)


@pytest.fixture(scope="module", params=CODES)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return save_model(request.param, tmp_path_factory.mktemp("models") / request.param)


@pytest.fixture(scope="module")
def marian(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return save_model("marian", tmp_path_factory.mktemp("models") / "marian")


@pytest.fixture(scope="module")
def tokenizer(saved: Saved) -> ForeignTokenizer:
    return tokenizer_of(saved)


@pytest.fixture(scope="module")
def exported(tokenizer: ForeignTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "engine"
    export_to_ctranslate2(tokenizer, folder)
    return folder


def tokenizer_of(saved: Saved) -> ForeignTokenizer:
    return ForeignTokenizer(saved.folder, read_kind(saved.folder), saved.source_code, saved.target_code)


class Theirs:
    """Model and tokenizer of Transformers, used as in its documentation."""

    def __init__(self, saved: Saved) -> None:
        model_class, tokenizer_class = {
            "marian": (transformers.MarianMTModel, transformers.MarianTokenizer),
            "mbart50": (transformers.MBartForConditionalGeneration, transformers.MBart50Tokenizer),
            "m2m100": (transformers.M2M100ForConditionalGeneration, transformers.M2M100Tokenizer),
            "nllb": (transformers.M2M100ForConditionalGeneration, transformers.NllbTokenizer),
        }[saved.kind]
        self.saved, self.model = saved, model_class.from_pretrained(saved.folder)
        languages = {"src_lang": saved.source_code} if saved.kind != "marian" else {}
        self.tokenizer = tokenizer_class.from_pretrained(saved.folder, **languages)
        if saved.kind == "marian":  # Marian's own models have no <pad>; `bad_words_ids` would keep its probability
            self.model.final_logits_bias[0, self.model.config.pad_token_id] = -1e9

    @property
    def forced(self) -> list[int]:
        """Token ids at the beginning of every target."""
        code = self.saved.target_code
        if self.saved.kind == "marian":
            return []
        return [self.tokenizer.convert_tokens_to_ids(f"__{code}__" if self.saved.kind == "m2m100" else code)]

    def text(self, line: str) -> str:
        code = self.saved.target_code
        return f">>{code}<< {line}" if self.saved.kind == "marian" and code else line

    def ids(self, line: str) -> list[int]:
        return self.tokenizer(self.text(line))["input_ids"]

    def log_probs(self, line: str, target: list[int]) -> torch.Tensor:
        """Return log-probabilities of all tokens after each prefix of a target without </s>: [T + 1, V]."""
        start = [self.model.config.decoder_start_token_id, *self.forced]
        with torch.inference_mode():
            logits = self.model(
                input_ids=torch.tensor([self.ids(line)]), decoder_input_ids=torch.tensor([start + target])
            ).logits
        return logits[0, len(start) - 1 :].log_softmax(-1)

    def generate(self, line: str, max_new_tokens: int) -> list[tuple[list[int], float]]:
        """Return hypotheses without forced tokens, with </s> if finished, and their summed log-probabilities."""
        config = transformers.GenerationConfig(
            num_beams=BEAM,
            num_return_sequences=BEAM,
            length_penalty=0.0,
            early_stopping=True,
            max_new_tokens=max_new_tokens + len(self.forced) + 1,
            min_new_tokens=1 + len(self.forced),
            bad_words_ids=[[self.model.config.pad_token_id]],
            forced_bos_token_id=self.forced[0] if self.forced else None,
            decoder_start_token_id=self.model.config.decoder_start_token_id,
            eos_token_id=self.model.config.eos_token_id,
            pad_token_id=self.model.config.pad_token_id,
            output_scores=True,
            return_dict_in_generate=True,
        )
        self.model.generation_config = config
        found = self.model.generate(torch.tensor([self.ids(line)]), generation_config=config)
        rows = [row[1 + len(self.forced) :] for row in found.sequences.tolist()]
        pad = self.model.config.pad_token_id
        return [
            ([token for token in row if token != pad], score)
            for row, score in zip(rows, found.sequences_scores.tolist(), strict=True)
        ]


# ------------------------------------------------------------------------------------------------------ ids and text


def test_framed_source_equals_ids_of_the_tokenizer(saved: Saved, tokenizer: ForeignTokenizer) -> None:
    theirs, frame, vocabulary = Theirs(saved), tokenizer.frame, tokenizer.vocabulary
    for line, ours in zip(TEXT, tokenizer.encode(TEXT), strict=True):
        assert ours[-1] == EOS
        symbols = [*frame.source_prefix, *(vocabulary.symbols[token] for token in ours[:-1]), *frame.source_suffix]
        assert theirs.tokenizer.convert_tokens_to_ids(symbols) == theirs.ids(line)
    assert vocabulary.symbols[:4] == ("<s>", "<pad>", "</s>", "<unk>")
    assert len(set(vocabulary.symbols)) == len(vocabulary.symbols)


def test_source_language_after_the_source_as_in_the_tokenizer(tmp_path: Path) -> None:
    saved = save_model("nllb", tmp_path / "legacy")
    path = saved.folder / "tokenizer_config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(values | {"legacy_behaviour": True}), encoding="utf-8")
    tokenizer = tokenizer_of(saved)
    assert tokenizer.frame.source_suffix == ("</s>", "eng_Latn")
    test_framed_source_equals_ids_of_the_tokenizer(saved, tokenizer)
    export_to_ctranslate2(tokenizer, tmp_path / "engine")
    test_forced_scores_equal_those_of_the_model(saved, tokenizer, tmp_path / "engine")


def test_decoded_text_equals_that_of_the_tokenizer(saved: Saved, tokenizer: ForeignTokenizer) -> None:
    theirs, rng = Theirs(saved), np.random.default_rng(1)
    ours = [np.append(rng.integers(4, len(tokenizer.vocabulary), size), EOS) for size in (0, 1, 2, 5, 9, 9, 9)]
    ours += [ids[:-1] for ids in tokenizer.encode(TEXT[:-2])]
    found = tokenizer.decode(np.concatenate(ours), np.array([len(ids) for ids in ours]))
    options: dict[str, Any] = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    if saved.kind == "marian":
        options["use_source_tokenizer"] = False
    for ids, line in zip(ours, found, strict=True):
        kept = [token for token in ids.tolist() if not tokenizer.vocabulary.symbols[token].startswith(NO_TEXT)]
        expected = theirs.tokenizer.decode(tokenizer.vocabulary.theirs_of_ours[kept].tolist(), **options)
        assert line == expected
    assert found[7:] == TEXT[:-2]


NO_TEXT = (">>", "__", "madeupword")  # Transformers' tokenizers do not treat these as special tokens


def test_unknown_word_is_decoded_as_unk(tokenizer: ForeignTokenizer) -> None:
    ids = tokenizer.encode(["ba ξ be"])[0]
    assert 3 in ids
    (text,) = tokenizer.decode(ids, np.array([len(ids)]))
    assert text.replace(" ", "") == "ba<unk>be"


def test_empty_input(tokenizer: ForeignTokenizer) -> None:
    assert tokenizer.encode([]) == []
    assert tokenizer.encode(["", "ba"])[0].tolist() == [EOS]


# ------------------------------------------------------------------------------------------------------ probabilities


def test_forced_scores_equal_those_of_the_model(saved: Saved, tokenizer: ForeignTokenizer, exported: Path) -> None:
    theirs, sources = Theirs(saved), tokenizer.encode(TEXT)
    targets = sources[::-1]
    ours = TorchEngine(ForeignModel(tokenizer)).score_pairs(sources, targets)  # type: ignore[arg-type]
    by_ctranslate2 = CTranslate2Engine(exported).score_pairs(sources, targets)
    for line, target, found, others in zip(TEXT, targets, ours, by_ctranslate2, strict=True):
        ids = tokenizer.vocabulary.theirs_of_ours[target].tolist()
        log_probs = theirs.log_probs(line, ids[:-1])
        expected = log_probs[torch.arange(len(ids)), ids].numpy()
        assert found == pytest.approx(expected, abs=1e-4)
        assert others == pytest.approx(expected, abs=1e-4)


def test_scores_of_cached_steps_equal_forced_scores(tokenizer: ForeignTokenizer) -> None:
    engine = TorchEngine(ForeignModel(tokenizer))  # type: ignore[arg-type]
    sources = tokenizer.encode(TEXT)
    settings = LONG.model_copy(update={"lenpen": 1.0})
    for source, nbest in zip(sources, engine.decode(sources, settings), strict=True):
        targets = [np.array(hypothesis.tokens) for hypothesis in nbest]
        targets = [target if target[-1] == EOS else np.append(target, EOS) for target in targets]
        forced = engine.score_pairs([source] * len(targets), targets)
        assert [h.score for h in nbest] == pytest.approx([float(each.mean()) for each in forced], abs=1e-4)


# ------------------------------------------------------------------------------------------------------------- search


def without_eos(tokens: tuple[int, ...]) -> list[int]:
    return [token for token in tokens if token != EOS]


def test_search_equals_generate(saved: Saved, tokenizer: ForeignTokenizer) -> None:
    """Compare the search with Transformers' `generate`.

    With `early_stopping`, Transformers ends a search as fairseq does, when there are as many hypotheses as beams. At
    the maximum length it keeps prefixes without </s>: sentences that reach it are not compared.
    """
    theirs, sources = Theirs(saved), tokenizer.encode(TEXT)
    found = TorchEngine(ForeignModel(tokenizer)).decode(sources, LONG)  # type: ignore[arg-type]
    compared = 0
    for line, source, nbest in zip(TEXT, sources, found, strict=True):
        expected = theirs.generate(line, len(source) + 30)
        if not all(tokens and tokens[-1] == theirs.model.config.eos_token_id for tokens, _ in expected):
            continue
        compared += 1
        assert [tokenizer.vocabulary.theirs_of_ours[without_eos(h.tokens)].tolist() for h in nbest] == [
            tokens[:-1] for tokens, _ in expected
        ]
        assert [h.score for h in nbest] == pytest.approx([score for _, score in expected], abs=1e-3)
    assert compared > len(TEXT) / 2


@pytest.mark.parametrize("settings", [LONG, Decode(beam=3, nbest=2, lenpen=0.6, max_len_a=0.5, max_len_b=2)], ids=str)
def test_search_of_ctranslate2_equals_pytorch(tokenizer: ForeignTokenizer, exported: Path, settings: Decode) -> None:
    sources = tokenizer.encode(TEXT)
    wanted = TorchEngine(ForeignModel(tokenizer)).decode(sources, settings)  # type: ignore[arg-type]
    found = CTranslate2Engine(exported).decode(sources, settings)
    same = 0
    for ours, theirs in zip(wanted, found, strict=True):
        assert len(ours) == len(theirs) == settings.nbest
        if [without_eos(h.tokens) for h in ours] == [without_eos(h.tokens) for h in theirs]:
            same += 1
            assert [h.score for h in theirs] == pytest.approx([h.score for h in ours], abs=1e-3)
    assert same >= len(TEXT) - 1  # ties


def test_maximum_length_excludes_the_language_token(tokenizer: ForeignTokenizer, exported: Path) -> None:
    settings = Decode(beam=4, nbest=4, max_len_a=0.0, max_len_b=3)
    sources = tokenizer.encode(TEXT)
    for engine in (TorchEngine(ForeignModel(tokenizer)), CTranslate2Engine(exported)):  # type: ignore[arg-type]
        lengths = [len(without_eos(h.tokens)) for nbest in engine.decode(sources, settings) for h in nbest]
        assert max(lengths) == 3


def test_scores_of_samples_equal_forced_scores(tokenizer: ForeignTokenizer, exported: Path) -> None:
    sources, settings = tokenizer.encode(TEXT), Decode(beam=1, max_len_b=8)
    by_torch, by_ctranslate2 = TorchEngine(ForeignModel(tokenizer)), CTranslate2Engine(exported)  # type: ignore[arg-type]
    drawn = by_torch.sample(sources, range(len(sources)), settings, Sampling(), seed=1)
    others = by_ctranslate2.sample(sources, settings, Sampling(), seed=1)
    for nbest, source in [*zip(drawn, sources, strict=True), *zip(others, sources, strict=True)]:
        (hypothesis,) = nbest
        target = np.array([*without_eos(hypothesis.tokens), EOS])
        assert PAD not in target
        (forced,) = by_torch.score_pairs([source], [target])
        assert hypothesis.log_probs == pytest.approx(forced.tolist(), abs=1e-3)
    assert len({h.tokens for (h,) in drawn}) > 5
    assert len({h.tokens for (h,) in others}) > 5


def test_batch_equals_single_sentences(tokenizer: ForeignTokenizer) -> None:
    engine, sources = TorchEngine(ForeignModel(tokenizer)), tokenizer.encode(TEXT)  # type: ignore[arg-type]
    together = engine.decode(sources, LONG)
    alone: list[list[Hypothesis]] = [engine.decode([source], LONG)[0] for source in sources]
    assert [[h.tokens for h in nbest] for nbest in together] == [[h.tokens for h in nbest] for nbest in alone]


def test_position_limits_include_the_frame(tokenizer: ForeignTokenizer) -> None:
    longest_source, longest_target = position_limits(tokenizer)
    (word,) = tokenizer.encode(["ba"])
    source = np.append(np.repeat(word[0], longest_source - 1), EOS)
    symbols = [*tokenizer.frame.source_prefix, *source[:-1], *tokenizer.frame.source_suffix]
    assert len(symbols) == 64
    assert 1 + len(tokenizer.frame.target_prefix) + longest_target - 1 == 64
    target = np.append(np.repeat(word[0], longest_target - 1), EOS)
    engine = TorchEngine(ForeignModel(tokenizer))  # type: ignore[arg-type]
    (scores,) = engine.score_pairs([source], [target])
    assert np.isfinite(scores).all()
    with pytest.raises(UserError, match="the model's limit is"):
        engine.decode([np.insert(source, 0, word[0])], LONG)


# --------------------------------------------------------------------------------------------------- files of a model


def test_pickle_of_tensors_is_read(marian: Saved, tmp_path: Path) -> None:
    copy = shutil.copytree(marian.folder, tmp_path / "copy")
    wanted = load_weights(copy, "marian").state_dict()
    (copy / "model.safetensors").unlink()
    torch.save(wanted, copy / "pytorch_model.bin")
    assert [path.name for path in model_files(copy)][:2] == ["config.json", "pytorch_model.bin"]
    found = load_weights(copy, "marian").state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_all_shards_of_weights_are_files_of_the_model(tmp_path: Path) -> None:
    saved = save_model("m2m100", tmp_path / "whole")
    model = load_weights(saved.folder, "m2m100")
    shutil.copytree(saved.folder, tmp_path / "shards", ignore=shutil.ignore_patterns("model.safetensors"))
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    files = model_files(tmp_path / "shards")
    assert files[1].name == "model.safetensors.index.json"
    assert len([path for path in files if path.suffix == ".safetensors"]) > 1
    found = load_weights(tmp_path / "shards", "m2m100").state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())
    next(path for path in files if path.suffix == ".safetensors").unlink()
    with pytest.raises(UserError, match=r"model-0.*there is no such file: the weights of the model need it"):
        model_files(tmp_path / "shards")


# ----------------------------------------------------------------------------------------------------- refused models


class Attack:
    """Object that creates a file when it is unpickled by Python."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_marian_model_that_ctranslate2_would_change_is_refused(copy: Path, tmp_path: Path) -> None:
    """CTranslate2's converter removes the last row, whatever its token is, and starts decoding from zeros."""
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    weights["model.shared.weight"][-1] = 1.0
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    tokenizer = ForeignTokenizer(copy, "marian")
    with pytest.raises(UserError, match="whose <pad> is the last token and zero: set 'engine: torch'"):
        export_to_ctranslate2(tokenizer, tmp_path / "engine")
    assert not (tmp_path / "engine").exists()
    assert ForeignModel(tokenizer)


@pytest.fixture
def copy(marian: Saved, tmp_path: Path) -> Iterator[Path]:
    """Copy a model's folder to a new path, because tokenizers are cached by path."""
    return shutil.copytree(marian.folder, tmp_path / "model")


def test_a_pickle_that_would_run_code_is_refused(copy: Path, tmp_path: Path) -> None:
    (copy / "model.safetensors").unlink()
    for attack in (pickle.dumps(Attack(tmp_path / "ran")), None):
        if attack is None:
            torch.save({"model.shared.weight": Attack(tmp_path / "ran")}, copy / "pytorch_model.bin")
        else:
            (copy / "pytorch_model.bin").write_bytes(attack)
        with pytest.raises(UserError, match=r"pytorch_model\.bin: the weights cannot be read: \w") as refused:
            load_weights(copy, "marian")
        assert not re.search("weights_only|safe_globals|trusted|set to", str(refused.value))
        assert not (tmp_path / "ran").exists()


def test_remote_code_is_never_run(copy: Path, tmp_path: Path) -> None:
    code = f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\nclass Theirs: ...\n"
    (copy / "evil.py").write_text(code, encoding="utf-8")
    for name in ("config.json", "tokenizer_config.json"):
        values = json.loads((copy / name).read_text(encoding="utf-8"))
        auto = dict.fromkeys(("AutoConfig", "AutoModelForSeq2SeqLM", "AutoTokenizer"), "evil.Theirs")
        (copy / name).write_text(json.dumps(values | {"auto_map": auto}), encoding="utf-8")
    tokenizer = ForeignTokenizer(copy, read_kind(copy))
    export_to_ctranslate2(tokenizer, tmp_path / "engine")
    assert ForeignModel(tokenizer)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"attn_implementation": "evil/kernel"},
        {"_attn_implementation": "evil/kernel:f"},
        {"_attn_implementation_internal": "evil/kernel"},
        {"attn_implementation": "flash_attention_2"},
        {"attn_implementation": {"": "evil/kernel"}},
        {"experts_implementation": "evil/kernel", "use_kernels": True},
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
        {"quantization_config": {"quant_method": "evil"}, "compression_config": {"quant_method": "evil"}},
        {"torch_dtype": "float16", "dtype": "evil"},
        {"_name_or_path": "evil/model", "name_or_path": "evil/model"},
    ],
    ids=str,
)
def test_settings_of_code_and_loading_are_ignored(
    marian: Saved, copy: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """The model has the same weights and uses PyTorch's attention, with both engines."""
    config = copy / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text(encoding="utf-8")) | changes), encoding="utf-8")
    model, plain = load_weights(copy, "marian"), load_weights(marian.folder, "marian")
    assert model.config._attn_implementation == plain.config._attn_implementation == "sdpa"
    assert not hasattr(model.config, "quantization_config")
    own = model.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in plain.state_dict().items())
    export_to_ctranslate2(ForeignTokenizer(copy, "marian"), tmp_path / "engine")


def test_adapter_for_another_model_is_refused(copy: Path, tmp_path: Path) -> None:
    adapter = {"base_model_name_or_path": str(tmp_path), "peft_type": "LORA"}
    (copy / "adapter_config.json").write_text(json.dumps(adapter), encoding="utf-8")
    with pytest.raises(UserError, match=r"adapter_config\.json: an adapter for another model"):
        read_kind(copy)


# ----------------------------------------------------------------------------------------------------------- languages


@pytest.mark.parametrize(
    ("code", "lang", "fits"),
    [
        *(("deu_Latn", lang, lang in ("de", "deu", "ger", "de-AT")) for lang in ("de", "deu", "ger", "de-AT", "en")),
        *(("zho_Hans", lang, lang != "zh-Hant") for lang in ("zh", "zh-CN", "zh-Hans", "cmn", "zh-Hant")),
        *(("zho_Hant", lang, lang in ("zh-TW", "zh-Hant")) for lang in ("zh", "zh-TW", "zh-Hant")),
        *(("arb_Arab", "ar", True), ("ary_Arab", "ar", False), ("nob_Latn", "no", True), ("nno_Latn", "no", True)),
        *(("nob_Latn", "nn", True), ("npi_Deva", "ne", True), ("pes_Arab", "fa", True), ("swh_Latn", "sw", True)),
        *(("lvs_Latn", "lv", True), ("kor_Hang", "ko", True), ("jpn_Jpan", "ja", True), ("srp_Cyrl", "sr", True)),
        *(("srp_Cyrl", "sr-Latn", False), ("en_XX", "en", True), ("zh_CN", "zh", True), ("de_DE", "en", False)),
        *(("pt_XX", "pt-BR", True), ("en", "de", False), ("sr", "sr-Latn", True), ("tl", "fil", True)),
        *(("cmn_Hans", "zh", True), ("por", "pt", True), ("eng_Latn", "qaa", False)),
    ],
)
def test_codes_of_models_are_compared_with_languages(code: str, lang: str, fits: bool, tmp_path: Path) -> None:
    for kind, codes, langs in (
        ("nllb", (code, "fra_Latn"), (lang, "fr")),
        ("nllb", ("fra_Latn", code), ("fr", lang)),
        ("marian", (None, code), ("fr", lang)),
    ):
        side = "target" if codes[0] != code else "source"
        expected = (
            contextlib.nullcontext()
            if fits
            else pytest.raises(
                UserError,
                match=rf"^distill\.teachers\.0\.{side}_code: '{code}', and the pipeline's '{side}_lang' is '{lang}'; "
                r"'distill\.teachers\.0\.other_languages: true'",
            )
        )
        with expected:
            check_languages(tmp_path, kind, codes, Direction(*langs), setting="distill.teachers.0.")


def test_every_language_code_of_transformers_is_recognised() -> None:
    """Each code fits its own BCP 47 tag, and does not fit another language."""
    from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES as M2M
    from transformers.models.mbart50.tokenization_mbart50 import FAIRSEQ_LANGUAGE_CODES as MBART
    from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES as NLLB

    for kind, codes in (("m2m100", M2M["m2m100"]), ("mbart50", MBART), ("nllb", NLLB)):
        assert len(codes) > 50
        for code in codes:
            tag = {"ns": "nso", "ajp_Arab": "apc"}.get(code, code.replace("_", "-"))
            check_languages(Path(), kind, (code, code), Direction(tag, tag), setting="")
            other = "fr" if not code.startswith("fr") else "de"
            with pytest.raises(UserError, match="other_languages"):
                check_languages(Path(), kind, (code, code), Direction(other, other), setting="")


@pytest.mark.parametrize(
    ("declared", "langs", "wrong"),
    [
        (("en", "de"), ("en", "de"), None),
        (("eng", "deu"), ("en", "de"), None),
        (("en", "de"), ("de", "en"), "source_lang: 'en'"),
        (("en", "fr"), ("en", "de"), "target_lang: 'fr'"),
        (("gmw", "en+de"), ("en", "de"), None),  # language families and lists are not compared
        ((None, 7), ("en", "de"), None),
    ],
)
def test_languages_declared_by_marian_are_compared(
    copy: Path, declared: tuple[Any, Any], langs: tuple[str, str], wrong: str | None
) -> None:
    path = copy / "tokenizer_config.json"
    languages = dict(zip(("source_lang", "target_lang"), declared, strict=True))
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | languages), encoding="utf-8")
    match = rf"tokenizer_config\.json: {wrong}, and the pipeline's"
    with contextlib.nullcontext() if wrong is None else pytest.raises(UserError, match=match):
        check_languages(copy, "marian", (None, None), Direction(*langs), setting="distill.teachers.0.")


def test_weights_that_do_not_match_the_configuration_are_refused(copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = copy / "model.safetensors"
    weights, whole = load_file(path), path.read_bytes()
    name = "model.encoder.layers.0.fc1.weight"
    broken = {
        f"missing {name}": {key: tensor for key, tensor in weights.items() if key != name},
        "unexpected model.more": weights | {"model.more": torch.zeros(2)},
        "cannot be read: .*": weights | {name: torch.zeros(3, 16)},
    }
    for message, tensors in broken.items():
        save_file(tensors, path, metadata={"format": "pt"})
        with pytest.raises(UserError, match=message):
            load_weights(copy, "marian")
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot be read"):
        load_weights(copy, "marian")


def test_folder_that_is_not_a_model_is_refused(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a Hugging Face model, it has no config\.json: "):
        read_kind(tmp_path)
    with pytest.raises(UserError, match="there is no such folder, and a model on the hub is called OWNER/NAME"):
        find_model(str(tmp_path / "none"))
    with pytest.raises(UserError, match="a 'revision' is that of a model on the hub"):
        find_model(str(copy), "main")
    (copy / "model.safetensors").unlink()
    with pytest.raises(UserError, match="has no weights"):
        read_kind(copy)
    for text, message in (("{", "not valid JSON"), ("[]", "not a JSON object")):
        (copy / "config.json").write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=message):
            read_kind(copy)


@pytest.mark.parametrize(
    "name", ["vocab_size", "d_model", "encoder_layers", "decoder_ffn_dim", "max_position_embeddings"]
)
@pytest.mark.parametrize("value", [10**12, -1, 1.5, "12", True, [1]])
def test_impossible_sizes_are_refused(copy: Path, name: str, value: Any) -> None:
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    assert name in config
    (copy / "config.json").write_text(json.dumps(config | {name: value}), encoding="utf-8")
    with pytest.raises(UserError, match=rf"config\.json: {name} is .*, expected a whole number up to "):
        read_kind(copy)


def test_configuration_larger_than_the_weights_is_refused(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    changed = config | {"encoder_layers": 1000, "d_model": 8192}
    (copy / "config.json").write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(UserError, match=r"model\.safetensors: not the weights of its config\.json, which describes at"):
        load_weights(copy, "marian")


def test_non_finite_weights_are_refused(copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = copy / "model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if name.endswith("fc1.weight"))
    weights[name][0, 0] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"model\.safetensors: .*fc1\.weight has weights that are NaN or infinite"):
        load_weights(copy, "marian")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "t5"}, "'t5'"),
        ({"model_type": None}, "None"),
        ({"model_type": "mbart"}, "'mbart' with MBartTokenizer"),
        ({"model_type": "nllb-moe"}, "'nllb-moe'"),
    ],
)
def test_another_architecture_is_refused(copy: Path, changes: dict[str, Any], named: str) -> None:
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    (copy / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")
    (copy / "tokenizer_config.json").write_text('{"tokenizer_class": "MBartTokenizer"}', encoding="utf-8")
    with pytest.raises(UserError, match=f"an architecture that cannot be a teacher: {named}"):
        read_kind(copy)


@pytest.mark.parametrize("file", ["source.spm", "target.spm", "vocab.json"])
def test_a_missing_file_of_the_tokenizer_is_named(copy: Path, file: str) -> None:
    (copy / file).unlink()
    with pytest.raises(UserError, match=f"{file}: there is no such file: the tokenizer of Marian needs it"):
        read_kind(copy)


def test_a_broken_tokenizer_is_refused(copy: Path) -> None:
    (copy / "source.spm").write_bytes(b"nothing")
    with pytest.raises(UserError, match="its tokenizer cannot be read"):
        ForeignTokenizer(copy, "marian")


def test_unknown_languages_are_refused(saved: Saved) -> None:
    def made(source: str | None, target: str | None) -> ForeignTokenizer:
        return ForeignTokenizer(saved.folder, read_kind(saved.folder), source, target, setting="distill.teachers.0.")

    several = saved.target_code is not None
    if several:
        with pytest.raises(UserError, match=r"distill\.teachers\.0\.target_code: missing: .* has several languages: "):
            made(saved.source_code, None)
        with pytest.raises(UserError, match=r"teachers\.0\.target_code: .* does not know 'klingon'; it knows "):
            made(saved.source_code, "klingon")
    else:
        with pytest.raises(UserError, match=r"target_code: .* has no languages to choose among on this side"):
            made(None, "de")
    if saved.kind == "marian":
        with pytest.raises(UserError, match=r"source_code: .* has no languages to choose among on this side"):
            made("en", saved.target_code)
    else:
        with pytest.raises(UserError, match=r"source_code: missing: "):
            made(None, saved.target_code)


def test_missing_packages_are_reported(marian: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'kdmt\[huggingface\]'"):
        load_weights(marian.folder, "marian")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'kdmt\[huggingface\]'"):
        find_model("someone/something")


def test_hub_is_used_only_for_missing_models(marian: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    huggingface_hub.utils.enable_progress_bars()  # Transformers disables them if an earlier test has loaded it
    requested: list[tuple[str, str | None, bool]] = []

    def download(
        name: str, *, revision: str | None, allow_patterns: list[str], local_files_only: bool, tqdm_class: Any
    ) -> str:
        with contextlib.redirect_stderr(io.StringIO()) as shown, printable_stderr():
            tqdm_class(["a", "b"], desc="evil\x1b]0;title\x07").update(1)
        assert "evil\\x1b]0;title\\x07" in shown.getvalue()
        assert "\r" in shown.getvalue()
        assert not any(pattern.endswith((".py", "*")) and "model" not in pattern for pattern in allow_patterns)
        requested.append((name, revision, local_files_only))
        if local_files_only and name == "someone/else":
            raise FileNotFoundError("not fetched before")
        if name == "no/network":
            raise ConnectionError("no network\nat all")
        return str(marian.folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert find_model("someone/something", "v1") == find_model("someone/else") == marian.folder
    assert requested == [("someone/something", "v1", True), ("someone/else", None, True), ("someone/else", None, False)]
    with pytest.raises(UserError, match="the Hugging Face hub does not give it: ConnectionError: no network at all"):
        find_model("no/network")
