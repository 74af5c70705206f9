"""Tests of the import of Marian's models, with models that the real Marian trained and its translations."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import yaml

from kdmt.config import Decode
from kdmt.corpus.codec import TextCodec
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.decode.engines.translator import Translator
from kdmt.errors import UserError
from kdmt.interop.marian.files import read_model, write_npz
from kdmt.interop.marian.importing import MarianText, import_model
from kdmt.models.checkpoint import load_model
from kdmt.types import BOS, PAD

GOLDEN = Path(__file__).parents[3] / "golden" / "marian"
TRANSLATIONS = json.loads((GOLDEN / "translations.json").read_text())
TAGGED = json.loads((GOLDEN / "tagged.json").read_text())
JOINT = (GOLDEN / "vocab.spm", GOLDEN / "vocab.spm")
SEPARATE = (GOLDEN / "source.spm", GOLDEN / "target.spm")
TEXT = MarianText(source_lang="en", target_lang="de", vocabularies=JOINT)


def vocabularies(name: str) -> tuple[Path, Path]:
    return SEPARATE if name == "separate" else JOINT


def translate(folder: Path, beam: int) -> list[str]:
    codec, engine = TextCodec.load(folder), TorchEngine(load_model(folder))
    sources = codec.encode_raw_source(TRANSLATIONS["sources"])
    found = engine.decode(sources, Decode(beam=beam, lenpen=1.0, max_len_a=0.0, max_len_b=100))
    return [codec.finish_target(codec.decode_target(hypotheses[0].tokens)) for hypotheses in found]


def changed(folder: Path, name: str, **options: Any) -> Path:
    """Write a golden model with other options, and return its path."""
    model = read_model(GOLDEN / f"{name}.npz")
    write_npz(folder / "changed.npz", replace(model, options=model.options | options))
    return folder / "changed.npz"


@pytest.mark.parametrize("name", ["attention", "ssru", "separate"])
def test_translations_equal_those_of_marian(tmp_path: Path, name: str) -> None:
    import_model(GOLDEN / f"{name}.npz", tmp_path / "out", replace(TEXT, vocabularies=vocabularies(name)))
    for beam, expected in TRANSLATIONS["translations"][name].items():
        assert translate(tmp_path / "out", int(beam)) == expected


def test_a_binary_file_is_imported_too(tmp_path: Path) -> None:
    for name in ("ssru.npz", "ssru.bin"):
        import_model(GOLDEN / name, tmp_path / name, TEXT)
    first, second = (load_model(tmp_path / name).state_dict() for name in ("ssru.npz", "ssru.bin"))
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_tokens_that_marian_does_not_have_are_never_predicted(tmp_path: Path) -> None:
    import_model(GOLDEN / "attention.npz", tmp_path / "out", TEXT)
    bias = load_model(tmp_path / "out").output_proj.bias.detach()
    unknown = TextCodec.load(tmp_path / "out").tgt_dictionary.index("<unk>")
    assert float(bias[BOS]) == float(bias[PAD]) == pytest.approx(float(bias[unknown]) - 20.0)


def test_a_yaml_vocabulary_needs_its_sentencepiece_models(tmp_path: Path) -> None:
    """The layout of OPUS-MT: `vocab.yml` for both sides, named by `decoder.yml`, and source.spm and target.spm."""
    processor = pytest.importorskip("sentencepiece").SentencePieceProcessor(model_file=str(JOINT[0]))
    ids = {processor.id_to_piece(number): number for number in range(processor.get_piece_size())}
    opus = tmp_path / "opus"
    opus.mkdir()
    shutil.copy(GOLDEN / "attention.npz", opus / "model.npz")
    (opus / "opus.vocab.yml").write_text(yaml.safe_dump(ids, allow_unicode=True))
    options = {"models": ["model.npz"], "vocabs": ["opus.vocab.yml", "opus.vocab.yml"]}
    (opus / "decoder.yml").write_text(yaml.safe_dump(options))
    settings = MarianText(source_lang="en", target_lang="de")
    with pytest.raises(UserError, match=r"does not split text: give its SentencePiece models with --sentencepiece"):
        import_model(opus / "model.npz", tmp_path / "out", settings)
    for name in ("source.spm", "target.spm"):
        shutil.copy(JOINT[0], opus / name)
    import_model(opus / "model.npz", tmp_path / "out", settings)
    assert translate(tmp_path / "out", 1) == TRANSLATIONS["translations"]["attention"]["1"]


@pytest.fixture
def tagged(tmp_path: Path) -> Path:
    """Write the folder of a model of OPUS-MT with two target languages, and return the path of the model."""
    folder = tmp_path / "opus"
    folder.mkdir()
    for name in ("tagged.npz", "opus.vocab.yml"):
        shutil.copy(GOLDEN / name, folder)
    (folder / "decoder.yml").write_text(yaml.safe_dump({"vocabs": ["opus.vocab.yml"] * 2}))
    pieces = yaml.safe_load((GOLDEN / "opus.vocab.yml").read_text())
    words = [piece.removeprefix("▁") for piece in pieces if piece.startswith("▁")]
    for name in ("source", "target"):
        with (folder / f"{name}.spm").open("wb") as file:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(words),
                model_writer=file,
                model_type="word",
                vocab_size=len(words) + 3,
                normalization_rule_name="identity",
                hard_vocab_limit=False,
                minloglevel=2,
            )
    return folder / "tagged.npz"


def test_a_tag_of_the_source_chooses_the_target_language(tmp_path: Path, tagged: Path) -> None:
    """With the tag as a part of the model, and before each source."""
    import_model(tagged, tmp_path / "any", MarianText(source_lang="en", target_lang="xx"))
    for tag, expected in TAGGED.items():
        import_model(tagged, tmp_path / tag, MarianText(source_lang="en", target_lang="xx", source_token=tag))
        for beam, lines in expected.items():
            assert translate(tmp_path / tag, int(beam)) == lines
        translator = Translator.load(tmp_path / "any", device="cpu", threads=1).with_tag(tag)
        assert translator.translate(TRANSLATIONS["sources"], Decode(beam=4)) == expected["4"]


def test_tokens_of_target_languages_are_reported(
    tmp_path: Path, tagged: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = MarianText(source_lang="en", target_lang="xx")
    import_model(tagged, tmp_path / "any", text)
    assert "target languages (>>deu<<, >>fra<<): choose one with --source-token" in caplog.text
    with pytest.raises(UserError, match=r"no token '>>ita<<' \(--source-token\); it has >>deu<<, >>fra<<"):
        import_model(tagged, tmp_path / "out", replace(text, source_token=">>ita<<"))
    assert not (tmp_path / "out").exists()


REFUSED = {
    "average attention": ({"transformer-decoder-autoreg": "average-attention"}, "has only self-attention, rnn"),
    "another cell": ({"transformer-decoder-autoreg": "rnn", "dec-cell": "gru"}, "'dec-cell' is 'gru'"),
    "another type": ({"type": "s2s"}, "'type' is 's2s'"),
    "highway connections": ({"transformer-postprocess": "dhn"}, "'transformer-postprocess' is 'dhn'"),
    "norms before the layers": ({"transformer-preprocess": "n"}, "'transformer-preprocess' is 'n'"),
    "learned positions": ({"transformer-train-positions": True}, "'transformer-train-positions' is True"),
    "another activation": ({"transformer-ffn-activation": "gelu"}, "'transformer-ffn-activation' is 'gelu'"),
    "some tied layers": ({"dec-depth": 3, "transformer-tied-layers": [1, 1, 2]}, "ties all decoder layers or none"),
    "no depth": ({"enc-depth": "six"}, "'enc-depth' is 'six'"),
    "one more layer": ({"enc-depth": 3}, r"missing encoder_l3_\w+"),
    "fewer layers": ({"enc-depth": 1}, r"no place for encoder_l2_\w+"),
    "another width": ({"transformer-dim-ffn": 64}, r"would be \[32, 16\], and the options say \[64, 16\]"),
    "heads that do not divide the width": ({"transformer-heads": 3}, "not a multiple of its attention heads"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_models_that_kdmt_does_not_have_are_refused(tmp_path: Path, name: str) -> None:
    options, message = REFUSED[name]
    path = changed(tmp_path, "attention", **options)
    with pytest.raises(UserError, match=rf"changed\.npz: .*{message}"):
        import_model(path, tmp_path / "out", TEXT)
    assert [each.name for each in tmp_path.iterdir()] == ["changed.npz"]


def test_languages_must_be_given(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give --source-lang and --target-lang"):
        import_model(GOLDEN / "attention.npz", tmp_path / "out", MarianText(vocabularies=JOINT))


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"its vocabulary has .* tokens, its embeddings .*: not its vocabulary"):
        import_model(GOLDEN / "attention.npz", tmp_path / "out", replace(TEXT, vocabularies=SEPARATE))


def test_a_missing_vocabulary_is_named(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "attention.npz", tmp_path)
    with pytest.raises(UserError, match=r"there is no attention\.npz\.decoder\.yml; give --vocab"):
        import_model(tmp_path / "attention.npz", tmp_path / "out", replace(TEXT, vocabularies=None))


def test_an_existing_folder_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exists already"):
        import_model(GOLDEN / "attention.npz", tmp_path, TEXT)


def test_output_biases_and_ways_of_sharing_are_brought_into_one_form(tmp_path: Path) -> None:
    model = read_model(GOLDEN / "attention.npz")
    parameters = {name: each for name, each in model.parameters.items() if name != "decoder_ff_logit_out_b"}
    parameters["decoder_ff_logit_out_W"] = np.ascontiguousarray(parameters["Wemb"].T)
    options = model.options | {"tied-embeddings-all": False, "tied-embeddings-src": True, "output-omit-bias": True}
    write_npz(tmp_path / "src.npz", replace(model, parameters=parameters, options=options))
    import_model(tmp_path / "src.npz", tmp_path / "src", TEXT)
    import_model(GOLDEN / "attention.npz", tmp_path / "all", TEXT)
    separate, shared = load_model(tmp_path / "src"), load_model(tmp_path / "all")
    assert not separate.config.share_all_embeddings
    for weight in (separate.src_embed.tokens.weight, separate.tgt_embed.tokens.weight, separate.output_proj.weight):
        assert np.array_equal(weight.detach(), shared.src_embed.tokens.weight.detach())
    assert not separate.output_proj.bias[PAD + 1 :].any()
