"""Tests of models of fairseq's multilingual task with all their directions. The real fairseq made the golden file."""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from multilingual_models import DIRECTIONS, LINES, SHARED, write_languages, write_multilingual

from kdmt.choices import LanguageTokens
from kdmt.config import Decode
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.vocabulary import Dictionary
from kdmt.decode.engines.translator import Translator
from kdmt.errors import UserError
from kdmt.interop.fairseq.checkpoints import TextSettings, export_checkpoint, import_checkpoints
from kdmt.interop.fairseq.multilingual import multilingual_task, read_languages
from kdmt.interop.fairseq.pickles import plain, read_pickle
from kdmt.languages import Direction
from kdmt.models.checkpoint import load_model, save_checkpoint
from kdmt.types import PAD

GOLDEN = Path(__file__).parents[3] / "golden" / "fairseq"
TASK = {"task": "translation_multi_simple_epoch", "langs": ["en", "de", "fr"], "lang_pairs": ["en-de", "en-fr"]}
SCHEMES = {
    "target_in_source": {"encoder_langtok": "tgt"},
    "source_and_decoder": {"encoder_langtok": "src", "decoder_langtok": True},
    "target_and_decoder": {"encoder_langtok": "tgt", "decoder_langtok": True},
    "decoder": {"decoder_langtok": True},
}


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the golden model, imported with all its directions."""
    folder = tmp_path_factory.mktemp("multilingual") / "model"
    settings = TextSettings(data=GOLDEN / "languages", all_directions=True)
    (made,) = import_checkpoints(str(GOLDEN / "multilingual.pt"), folder, settings)
    return made


def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "multilingual.npz") as file:
        return dict(file)


def test_the_imported_model_has_the_directions_and_the_ids_of_fairseq(imported: Path) -> None:
    codec, symbols = TextCodec.load(imported), golden()["symbols"].tolist()
    assert codec.text.directions == (Direction("en", "de"), Direction("en", "fr"))
    assert codec.text.language_tokens == "source_and_decoder"
    names = {"__en__": "<en>", "__de__": "<de>", "__fr__": "<fr>"}
    assert codec.src_dictionary.symbols == [names.get(symbol, symbol) for symbol in symbols]
    assert codec.prefix_ids(Direction("en", "fr")) == (symbols.index("__fr__"), symbols.index("__en__"))


@torch.no_grad()
def test_log_probabilities_equal_those_of_fairseq(imported: Path) -> None:
    arrays = {name: torch.from_numpy(array) for name, array in golden().items() if array.dtype.kind in "if"}
    model, codec = load_model(imported), TextCodec.load(imported)
    decoder_token, _ = codec.prefix_ids(Direction("en", "de"))
    assert arrays["prev_tokens"][:, 1].eq(decoder_token).all()
    begin_B1 = torch.full_like(arrays["src_tokens"][:, :1], decoder_token)
    src_tokens = torch.cat([begin_B1, arrays["src_tokens"]], dim=1)  # fairseq's begin with <en>
    prev_tokens = torch.cat([arrays["prev_tokens"][:, :1], arrays["prev_tokens"][:, 2:]], dim=1)
    states = model.encode(src_tokens).states_BSD[arrays["src_tokens"].ne(PAD)]
    torch.testing.assert_close(states, arrays["states"], rtol=0, atol=1e-4)
    log_probs = model(src_tokens, prev_tokens).log_softmax(-1)
    real = arrays["tgt_tokens"].ne(PAD)
    expected = torch.full((*real.shape, log_probs.size(-1)), torch.nan)
    expected[real] = arrays["log_probs"]
    torch.testing.assert_close(log_probs[real[:, 1:]], expected[:, 1:][real[:, 1:]], rtol=0, atol=1e-4)


@pytest.mark.parametrize("target", ["de", "fr"])
def test_a_direction_of_the_model_translates_as_the_import_of_this_direction(
    tmp_path: Path, imported: Path, target: str
) -> None:
    one = TextSettings(data=GOLDEN / "languages", source_lang="en", target_lang=target)
    (alone,) = import_checkpoints(str(GOLDEN / "multilingual.pt"), tmp_path / "alone", one)
    settings, lines = Decode(beam=3, max_len_a=0.0, max_len_b=8), ["w3 w5 w7", "w2"]
    direction = Direction("en", target)
    found = Translator.load(imported).for_direction(direction).translate(lines, settings)
    assert found == Translator.load(alone).translate(lines, settings)
    limits = [load_model(each).config for each in (imported, alone)]
    assert limits[0].max_target_positions == limits[1].max_target_positions
    assert limits[0].max_source_positions == limits[1].max_source_positions + 2  # both tokens are in the source


@pytest.mark.parametrize("tokens", SCHEMES)
def test_export_and_import_return_the_same_model(tmp_path: Path, tokens: LanguageTokens) -> None:
    config = replace(SHARED, encoder_learned_pos=True, decoder_learned_pos=True)
    checkpoint = write_multilingual(tmp_path / "model", tokens, config=config)
    export_checkpoint(checkpoint, tmp_path / "fairseq" / "model.pt")
    args = plain(read_pickle(tmp_path / "fairseq" / "model.pt")["args"])
    assert isinstance(args, dict)
    wanted: dict[str, Any] = {"encoder_langtok": None, "decoder_langtok": False} | SCHEMES[tokens]
    assert {name: args[name] for name in wanted} == wanted
    assert args["lang_pairs"] == ["en-de", "en-fr", "cs-en"]
    spm = next((checkpoint / "tokenizer").glob("*.model"))
    settings = TextSettings(data=tmp_path / "fairseq", sentencepiece=spm, all_directions=True)
    (again,) = import_checkpoints(str(tmp_path / "fairseq" / "model.pt"), tmp_path / "again", settings)
    ours, theirs = load_model(checkpoint), load_model(again)
    assert theirs.config == ours.config
    assert all(map(torch.equal, theirs.state_dict().values(), ours.state_dict().values()))
    search = Decode(beam=2, max_len_a=0.0, max_len_b=8)
    for direction in DIRECTIONS:
        found = [
            Translator.load(each).for_direction(direction).translate(LINES, search) for each in (checkpoint, again)
        ]
        assert found[0] == found[1]


def test_exported_dictionaries_have_fairseqs_names_of_the_tokens_at_the_same_ids(tmp_path: Path) -> None:
    checkpoint = write_multilingual(tmp_path / "model", "target_in_source")
    export_checkpoint(checkpoint, tmp_path / "model.pt")
    ours = TextCodec.load(checkpoint).src_dictionary
    for lang in ("en", "de", "fr", "cs"):
        theirs = Dictionary.load(tmp_path / f"dict.{lang}.txt")
        assert len(theirs) == len(ours)
        for code in ("de", "fr", "en"):
            assert theirs.index(f"__{code}__") == ours.index(f"<2{code}>")
        assert ours.symbols[theirs.index("__cs__")].startswith("madeupword")  # <2cs> is not needed


def test_a_language_keeps_the_token_that_the_dictionary_has_from_fairseq(tmp_path: Path) -> None:
    """The dictionary of an imported model has fairseq's tokens of languages that are only a source."""
    checkpoint = write_multilingual(tmp_path / "model", "target_in_source")
    codec = TextCodec.load(checkpoint)
    dictionary = codec.src_dictionary.renamed({"madeupword0000": "__cs__"})
    found = multilingual_task(codec.text, (dictionary, dictionary)).dictionaries["cs"]
    assert found.index("__cs__") == len(found) - 1
    assert found.index("__de__") == dictionary.index("<2de>")


def without_unused_symbols(folder: Path, tokens: LanguageTokens) -> Path:
    companions = write_languages(folder.with_name("text"), tokens)
    for side in ("src", "tgt"):
        path = folder.with_name("text") / f"dict.{side}.txt"
        path.write_text(path.read_text().replace("madeupword", "word"))
    model = load_model(write_multilingual(folder.with_name("other"), tokens))
    save_checkpoint(folder, model, companions=companions)
    return folder


def test_a_language_without_a_token_makes_it_a_model_of_the_task_translation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    export_checkpoint(without_unused_symbols(tmp_path / "model", "target_in_source"), tmp_path / "model.pt")
    assert "needs a token for cs, and the dictionary has no unused symbol" in caplog.text
    args = plain(read_pickle(tmp_path / "model.pt")["args"])
    assert isinstance(args, dict)
    assert (args["task"], args["source_lang"], args["target_lang"]) == ("translation", "src", "tgt")
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match="needs a token for cs"):
        export_checkpoint(without_unused_symbols(tmp_path / "b" / "model", "decoder"), tmp_path / "b.pt")


def test_two_tokens_before_the_source_are_words_of_the_task_translation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    export_checkpoint(write_multilingual(tmp_path / "model", "both_in_source"), tmp_path / "model.pt")
    assert "puts one token before the source" in caplog.text
    assert "<2de>" in Dictionary.load(tmp_path / "dict.src.txt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "translation"}, "it has one direction: --all-directions is for models of the task translation_multi"),
        ({"lang_pairs": None}, r"it names no directions \(lang_pairs\)"),
        ({"lang_pairs": ["ende"]}, "lang_pairs has 'ende', which is no pair of languages"),
        ({"lang_pairs": ["en-xx"], "langs": ["en", "xx"]}, "lang_pairs: 'xx' is no ISO 639 or BCP 47 language code"),
        ({"lang_pairs": ["en-cs"]}, "it has no language 'cs': it knows en, de, fr"),
        ({"encoder_langtok": "src", "decoder_langtok": False}, "tokens do not name the target language"),
        ({"encoder_langtok": None}, "tokens do not name the target language"),
    ],
)
def test_checkpoints_that_are_not_imported_with_all_directions(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_languages({**TASK, "encoder_langtok": "tgt", **change}, GOLDEN / "languages")


def test_other_dictionaries_and_options_are_refused(tmp_path: Path) -> None:
    for code, words in (("en", "a"), ("de", "a"), ("fr", "b")):
        (tmp_path / f"dict.{code}.txt").write_text(f"{words} 1\n")
    with pytest.raises(UserError, match=r"dict\.fr\.txt: is not the same dictionary as .*dict\.de\.txt"):
        read_languages({**TASK, "encoder_langtok": "tgt"}, tmp_path)
    (tmp_path / "dict.fr.txt").write_text("a 1\n")
    (tmp_path / "dict.en.txt").write_text("a 1\n<2de> 1\n")
    with pytest.raises(UserError, match="the dictionary has '__de__', and '<2de>' too, which is its new name"):
        read_languages({**TASK, "encoder_langtok": "tgt"}, tmp_path)
    settings = TextSettings(data=tmp_path, all_directions=True, target_lang="de")
    with pytest.raises(UserError, match="--all-directions: --source-lang and --target-lang choose one direction"):
        import_checkpoints(str(GOLDEN / "multilingual.pt"), tmp_path / "out", settings)


def test_decoders_take_their_token_from_sources_with_the_same_dictionary(tmp_path: Path) -> None:
    """With two dictionaries, the id of a token in the source is that of another token in the target."""
    for code, words in (("en", "a 1\n"), ("de", "b 1\nc 1\n"), ("fr", "b 1\nc 1\n")):
        (tmp_path / f"dict.{code}.txt").write_text(words)
    for way, settings in SCHEMES.items():
        if way == "target_in_source":
            source, target = read_languages({**TASK, **settings}, tmp_path).dictionaries
            assert source.index("<2de>") != target.index("<2de>")
        else:
            with pytest.raises(UserError, match=r"of its sources and of its targets in .* differ: --so"):
                read_languages({**TASK, **settings}, tmp_path)


def test_a_direction_that_is_named_twice_is_one(tmp_path: Path) -> None:
    for code in ("en", "de"):
        (tmp_path / f"dict.{code}.txt").write_text("a 1\n")
    task = {**TASK, "lang_pairs": ["en-de", "en-de"], "encoder_langtok": "tgt"}
    assert read_languages(task, tmp_path).directions == (Direction("en", "de"),)


def test_dictionaries_of_many_languages_are_not_in_memory_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = ["en", "de", "fr", "cs", "pl", "nl", "it", "es"]
    for code in codes:
        (tmp_path / f"dict.{code}.txt").write_text("a 1\n")
    loaded, load, together = [], Dictionary.load, []

    def counted(path: Path) -> Dictionary:
        made = load(path)
        loaded.append(weakref.ref(made))
        together.append(sum(each() is not None for each in loaded))
        return made

    monkeypatch.setattr(Dictionary, "load", counted)
    pairs = [f"{source}-{target}" for source in codes for target in codes if source != target]
    read_languages({**TASK, "langs": codes, "lang_pairs": pairs, "encoder_langtok": "tgt"}, tmp_path)
    assert max(together) <= 4
    assert len(together) == 2 * len(codes)


def test_all_ways_of_fairseq_are_tested() -> None:
    assert {*get_args(LanguageTokens)} - {*SCHEMES} == {"both_in_source"}
