"""Tests of importing checkpoints from fairseq and exporting them: results are usable, and errors leave no files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_transformers import write_text_processing
from tiny_pipeline import hash_tree, kdmt

from kdmt.config import Decode, Tokenizer
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.tokenizer import train_tokenizer
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.errors import UserError
from kdmt.interop.fairseq import checkpoints
from kdmt.interop.fairseq.checkpoints import read_model
from kdmt.interop.fairseq.pickles import HARMLESS, Inert, read_pickle
from kdmt.languages import Direction
from kdmt.models.architecture import NATConfig, architecture
from kdmt.models.build import build_nonautoregressive, describe_model
from kdmt.models.checkpoint import load_model, save_checkpoint

GOLDEN = Path(__file__).parents[3] / "golden" / "fairseq"
SHARED, LEARNED, EDITS = (GOLDEN / f"{case}.pt" for case in ("post_norm_shared", "pre_norm_learned", "levenshtein"))
JOINED, SEPARATE = GOLDEN / "joined", GOLDEN / "separate"


def imported(folder: Path, *paths: Path, data: Path = JOINED, options: tuple[str | Path, ...] = ()) -> Path:
    finished = kdmt("import-checkpoint", ":".join(map(str, paths)), folder, "--data", data, *options)
    assert finished.code == 0, finished.err
    return folder


def refused(*arguments: str | Path, message: str) -> None:
    finished = kdmt(*arguments)
    assert finished.code == 2, finished.err
    assert len(finished.err.splitlines()) == 1
    assert message in finished.err


# ----------------------------------------------------------------------------------------------------------- import


def test_imported_checkpoint_translates_tokenised_text(tmp_path: Path) -> None:
    folder = imported(tmp_path / "model", SHARED)
    finished = kdmt("translate", folder, "--beam", "2", "--max-len-a", "0", "--max-len-b", "5", stdin=b"w3 w5\n\nw7\n")
    assert finished.code == 0, finished.err
    lines = finished.out.splitlines()
    assert [bool(line) for line in lines] == [True, False, True]
    codec = TextCodec.load(folder)
    assert all(token in codec.tgt_dictionary for line in lines for token in line.split())
    sources = codec.encode_raw_source(["w3 w5"])
    engine = TorchEngine(load_model(folder))
    (best,) = engine.decode(sources, Decode(beam=2, max_len_a=0.0, max_len_b=5))
    assert codec.decode_target(best[0].tokens) == lines[0]
    assert codec.decode_targets(np.array(best[0].tokens), np.array([len(best[0].tokens)])) == [lines[0]]


def test_ensemble_is_imported_into_numbered_folders(tmp_path: Path) -> None:
    folder = imported(tmp_path / "models", SHARED, GOLDEN / "old_post_norm_shared.pt")
    assert sorted(path.name for path in folder.iterdir()) == ["0", "1"]
    models = [load_model(folder / name) for name in ("0", "1")]
    assert not torch.equal(models[0].output_proj.weight, models[1].output_proj.weight)
    engine = TorchEngine(models[0], others=models[1:])
    assert engine.decode([np.array([5, 6, 2])], Decode(beam=2, max_len_a=0.0, max_len_b=4))


def test_imported_checkpoint_is_exported_to_ctranslate2(tmp_path: Path) -> None:
    folder = imported(tmp_path / "model", LEARNED, data=SEPARATE)
    assert kdmt("export", "--to", "ctranslate2", folder, tmp_path / "ct2").code == 0
    text = {"stdin": b"w3 w5 w7\nw2\n"}
    options = ("--beam", "3", "--max-len-a", "0", "--max-len-b", "6")
    assert kdmt("translate", tmp_path / "ct2", *options, **text).out == kdmt("translate", folder, *options, **text).out


def test_unscaled_embeddings_are_exported_to_ctranslate2(tmp_path: Path) -> None:
    folder = imported(tmp_path / "model", GOLDEN / "embeddings.pt", data=SEPARATE)
    assert kdmt("export", "--to", "ctranslate2", folder, tmp_path / "ct2").code == 0
    options = ("--beam", "3", "--max-len-a", "0", "--max-len-b", "6")
    found = [kdmt("translate", each, *options, stdin=b"w3 w5 w7\nw2\n").out for each in (folder, tmp_path / "ct2")]
    assert found[0] == found[1]


@pytest.mark.parametrize("case", ["nat", "cmlm", "inat", "nacrf", "levenshtein", "insertion"])
def test_imported_non_autoregressive_models_translate(tmp_path: Path, case: str) -> None:
    model = imported(tmp_path / "model", GOLDEN / f"{case}.pt")
    finished = kdmt(
        "translate", model, "--max-len-a", "0", "--max-len-b", "6", "--iterations", "2", stdin=b"w3 w5\nw7\n"
    )
    assert finished.code == 0, finished.err
    assert len(finished.out.splitlines()) == 2


def test_multilingual_checkpoint_requires_a_direction(tmp_path: Path) -> None:
    path, data = GOLDEN / "multilingual.pt", GOLDEN / "languages"
    refused("import-checkpoint", path, tmp_path / "x", "--data", data, message="give --source-lang and --target-lang")
    to = ("--source-lang", "en", "--target-lang")
    refused("import-checkpoint", path, tmp_path / "x", "--data", data, *to, "xx", message="no language 'xx'")
    german, french = (imported(tmp_path / lang, path, data=data, options=(*to, lang)) for lang in ("de", "fr"))
    models = [load_model(folder) for folder in (german, french)]
    assert [model.config.target_token for model in models] == [31, 32]
    assert [model.config.source_token for model in models] == [30, 30]
    options = ("--max-len-a", "0", "--max-len-b", "6")
    finished = [kdmt("translate", folder, *options, stdin=b"w3 w5 w7\n") for folder in (german, french)]
    assert finished[0].out != finished[1].out
    refused("export", "--to", "ctranslate2", german, tmp_path / "ct2", message="multilingual")
    refused("export", "--to", "fairseq", german, tmp_path / "x.pt", message="multilingual")


def write_sentencepiece(folder: Path) -> Path:
    (folder / "text").write_text("abba baba\nab ba bab\n" * 5)
    settings = Tokenizer(vocab_size=10)
    train_tokenizer(settings, (folder / "text", folder / "text"), folder / "spm", Direction("en", "de"))
    return next((folder / "spm").glob("*.model"))


def write_codes(folder: Path) -> Path:
    write_text_processing(folder / "words")
    return next((folder / "words" / "tokenizer").glob("*.codes"))


def write_fastbpe_codes(folder: Path) -> Path:
    given = write_codes(folder).read_text().splitlines()[1:]
    path = folder / "fastbpe"
    path.write_text("".join(f"{line} {100 - number}\n" for number, line in enumerate(given)))
    return path


@pytest.mark.parametrize(
    ("option", "write"),
    [("--bpe-codes", write_codes), ("--bpe-codes", write_fastbpe_codes), ("--sentencepiece", write_sentencepiece)],
)
def test_text_is_segmented_with_the_given_model(tmp_path: Path, option: str, write: Callable[[Path], Path]) -> None:
    folder = imported(tmp_path / "model", SHARED, options=(option, write(tmp_path)))
    tokenizer = TextCodec.load(folder).tokenizers.source
    (cut,) = tokenizer.encode_lines(["aabb bbaa"])
    assert len(cut.split()) > 2
    assert tokenizer.decode(cut) == "aabb bbaa"
    if option == "--bpe-codes":
        codec = TextCodec.load(write_text_processing_again(tmp_path))
        assert cut == codec.tokenizers.source.encode_lines(["aabb bbaa"])[0]


def write_text_processing_again(folder: Path) -> Path:
    write_text_processing(folder / "again")
    return folder / "again"


def test_text_processing_is_saved_with_the_model(tmp_path: Path) -> None:
    folder = imported(tmp_path / "model", SHARED, options=("--moses", "--lowercase"))
    text = TextCodec.load(folder).text
    assert text.preprocess_source("That's W3.") == "that &apos;s w3 ."
    assert (text.source_lang, text.target_lang) == ("en", "de")


def test_languages_are_found_by_the_file_names_of_the_data_bin(tmp_path: Path) -> None:
    content = read_pickle(SHARED)
    cfg = content["cfg"]
    plain_task = {"_name": "translation"}
    write(tmp_path / "a.pt", content, cfg={"model": cfg["model"], "task": plain_task})
    data = tmp_path / "data-bin"
    data.mkdir()
    for ours, theirs in (("en", "xx"), ("de", "yy")):
        shutil.copy(JOINED / f"dict.{ours}.txt", data / f"dict.{theirs}.txt")
        (data / f"train.xx-yy.{theirs}.idx").touch()
    text = TextCodec.load(imported(tmp_path / "model", tmp_path / "a.pt", data=data)).text
    assert (text.source_lang, text.target_lang) == ("xx", "yy")
    turned = imported(tmp_path / "turned", tmp_path / "a.pt", data=data, options=("--source-lang", "yy"))
    assert TextCodec.load(turned).text.target_lang == "xx"
    (data / "valid.yy-xx.xx.idx").touch()
    refused("import-checkpoint", tmp_path / "a.pt", tmp_path / "b", "--data", data, message="give --source-lang")
    (data / "valid.en-zh-CN.en.idx").touch()
    refused("import-checkpoint", tmp_path / "a.pt", tmp_path / "b", "--data", data, message="give --source-lang")


def write(path: Path, content: dict[str, Any], **changes: Any) -> Path:
    """Write a checkpoint with changes; inert settings become plain objects."""
    torch.save({**_bare(content), **{name: _bare(value) for name, value in changes.items()}}, path)
    return path


def _bare(value: Any) -> Any:
    if isinstance(value, Inert):
        return _bare(value.fields)
    if isinstance(value, dict):
        return {key: _bare(each) for key, each in value.items()}
    return [_bare(each) for each in value] if isinstance(value, list | tuple) else value


def test_half_precision_weights_become_float32(tmp_path: Path) -> None:
    content = read_pickle(SHARED)
    state = {name: tensor.half() for name, tensor in content["model"].items()}
    folder = imported(tmp_path / "model", write(tmp_path / "a.pt", content, model=state))
    found = load_model(folder).output_proj.weight
    assert found.dtype == torch.float32
    assert torch.equal(found, state["decoder.output_projection.weight"].float())


# ------------------------------------------------------------------------------------------------ refused imports


def changed(tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    content = read_pickle(SHARED)
    state = dict(content["model"])
    change(state)
    return write(tmp_path / "changed.pt", content, model=state)


@pytest.mark.parametrize("name", ["max_source_positions", "encoder_layers", "encoder_ffn_embed_dim"])
def test_impossible_sizes_are_refused(tmp_path: Path, name: str) -> None:
    content = read_pickle(SHARED)
    cfg = _bare(content["cfg"])
    cfg["model"][name] = 10**12
    file = write(tmp_path / "a.pt", content, cfg=cfg)
    refused("import-checkpoint", file, tmp_path / "model", "--data", JOINED, message="a.pt: ")
    assert not (tmp_path / "model").exists()


def share_storage(state: dict[str, torch.Tensor]) -> None:
    numbers = torch.zeros(max(tensor.numel() for tensor in state.values()))
    state.update({name: numbers[: tensor.numel()].view(tensor.shape) for name, tensor in state.items()})


def set_last_element(state: dict[str, torch.Tensor], name: str, number: str) -> None:
    """Replace the last element of a weight, under all names of the weight."""
    wrong = state[name].clone()
    wrong.view(-1)[-1] = float(number)
    state.update({each: wrong for each, tensor in state.items() if tensor.equal(state[name])})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("decoder.layers.1.fc2.bias"), "missing decoder.layers.1.fc2.bias"),
        (lambda state: state.pop("encoder.embed_tokens.weight"), "missing encoder.embed_tokens.weight"),
        (lambda state: state.update({"decoder.adaptive.w": torch.ones(2)}), "no place for decoder.adaptive.w"),
        (lambda state: state.update({"encoder.layers.0.fc1.weight": torch.ones(3, 8)}), "fc1.weight is [3, 8]"),
        (lambda state: state.update({"encoder.embed_tokens.weight": torch.ones(())}), "encoder.embed_tokens.weight"),
        (lambda state: state.update({"encoder.layers.0.fc1.bias": "text"}), "'encoder.layers.0.fc1.bias' is no tensor"),
        (
            lambda state: state.update({"encoder.layers.0.fc1.bias": torch.ones(12, dtype=torch.int64)}),
            "is no tensor of",
        ),
        (lambda state: state.clear(), "it has no 'model' with weights"),
        (
            lambda state: state.update(
                {"decoder.layers.0.fc1.weight": torch.ones((), dtype=torch.half).expand(1 << 24, 1 << 24)}
            ),
            "its weight 'decoder.layers.0.fc1.weight' is [16777216, 16777216], and the file has not as many numbers",
        ),
        (
            lambda state: state.update({"decoder.layers.0.fc1.weight": torch.ones(9).as_strided((8, 2), (1, 1))}),
            "its weight 'decoder.layers.0.fc1.weight' is [8, 2], and the file has not as many",
        ),
        (
            lambda state: state.update({"decoder.layers.0.fc1.weight": torch.ones(12, 8, device="meta")}),
            "'decoder.layers.0.fc1.weight' is no tensor of",
        ),
        (
            lambda state: state.update({"decoder.layers.0.fc1.bias": torch.ones(12).to(torch.float8_e5m2)}),
            "'decoder.layers.0.fc1.bias' is no tensor of",
        ),
        (lambda state: share_storage(state), "its weights lie over each other"),
        (
            lambda state: set_last_element(state, "decoder.layers.0.fc1.bias", "nan"),
            "decoder.layers.0.fc1.bias holds NaN or inf",
        ),
        (
            lambda state: set_last_element(state, "encoder.embed_tokens.weight", "-inf"),
            "embed_tokens.weight holds NaN or infinity",
        ),
        (
            lambda state: state.update({"decoder.layers.0.fc1.bias": torch.full((10,), 1e300, dtype=torch.double)}),
            "decoder.layers.0.fc1.bias holds NaN or infinity",
        ),
    ],
)
def test_invalid_weights_are_refused_by_name(tmp_path: Path, change: Any, message: str) -> None:
    path = changed(tmp_path, change)
    refused("import-checkpoint", path, tmp_path / "out", "--data", JOINED, message=message)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["changed.pt"]


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    refused("import-checkpoint", LEARNED, tmp_path / "out", "--data", JOINED, message="embeds 36 symbols, and")
    shutil.copytree(JOINED, tmp_path / "data")
    lines = (JOINED / "dict.de.txt").read_text().splitlines()
    (tmp_path / "data" / "dict.de.txt").write_text("\n".join(reversed(lines)) + "\n")
    refused("import-checkpoint", SHARED, tmp_path / "out", "--data", tmp_path / "data", message="shares all embeddings")
    (tmp_path / "data" / "dict.de.txt").unlink()
    refused("import-checkpoint", SHARED, tmp_path / "out", "--data", tmp_path / "data", message="no such dictionary")
    assert not (tmp_path / "out").exists()


def test_damaged_checkpoint_of_an_ensemble_leaves_no_files(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pt"
    bad.write_bytes(SHARED.read_bytes()[:30_000])
    refused(
        "import-checkpoint", f"{SHARED}:{bad}", tmp_path / "out", "--data", JOINED, message="bad.pt: not a checkpoint"
    )
    assert sorted(each.name for each in tmp_path.iterdir()) == ["bad.pt"]


def test_existing_files_are_not_changed(tmp_path: Path) -> None:
    folder = imported(tmp_path / "model", SHARED)
    before = hash_tree(tmp_path)
    refused("import-checkpoint", SHARED, folder, "--data", JOINED, message="exists already")
    options = ("--bpe-codes", "x", "--sentencepiece", "y")
    refused("import-checkpoint", SHARED, tmp_path / "b", "--data", JOINED, *options, message="one of the two")
    refused("import-checkpoint", SHARED, tmp_path / "b", "--data", JOINED, "--bpe-codes", "absent", message="absent: ")
    refused("import-checkpoint", tmp_path / "no.pt", tmp_path / "b", "--data", JOINED, message="no such file")
    assert hash_tree(tmp_path) == before


def test_file_with_other_objects_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return shutil.rmtree, (str(tmp_path),)

    torch.save({"args": None, "model": {}, "hidden": Evil()}, tmp_path / "evil.pt")
    refused(
        "import-checkpoint", tmp_path / "evil.pt", tmp_path / "b", "--data", JOINED, message="carries shutil.rmtree"
    )


def test_model_is_read_directly_from_a_file(tmp_path: Path) -> None:
    folder = imported(tmp_path / "model", SHARED)
    expected, found = load_model(folder), read_model(SHARED, JOINED, Direction("en", "de"))
    assert describe_model(found) == describe_model(expected)
    assert not found.training
    weights = dict(expected.named_parameters())
    assert all(torch.equal(weights[name], each) for name, each in found.named_parameters())
    with pytest.raises(UserError, match=r"post_norm_shared\.pt: translates from en to de, not from de to en"):
        read_model(SHARED, JOINED, Direction("de", "en"))
    with pytest.raises(UserError, match=r"multilingual\.pt: multilingual, with more symbols than .*languages has"):
        read_model(GOLDEN / "multilingual.pt", GOLDEN / "languages", Direction("en", "de"))


def test_single_language_in_the_settings_is_compared(tmp_path: Path) -> None:
    content = read_pickle(SHARED)
    settings = {"model": content["cfg"]["model"], "task": {"_name": "translation", "target_lang": "de"}}
    path = write(tmp_path / "a.pt", content, cfg=settings)
    with pytest.raises(UserError, match=r"a\.pt: translates from \.\.\. to de, not from de to en"):
        read_model(path, JOINED, Direction("de", "en"))
    assert read_model(path, JOINED, Direction("en", "de")).config.encoder_layers == 2


# ------------------------------------------------------------------------------------------------------------ export

CASES = ["post_norm_shared", "nat", "nat_without_copy", "cmlm", "inat", "nacrf", "levenshtein", "levenshtein_early",
         "insertion"]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_export_equals_the_imported_checkpoint(tmp_path: Path, case: str) -> None:
    """All weights and the model described by the settings are equal."""
    folder, out = imported(tmp_path / "model", GOLDEN / f"{case}.pt"), tmp_path / "out" / "model.pt"
    assert kdmt("export", "--to", "fairseq", folder, out).code == 0
    assert sorted(path.name for path in out.parent.iterdir()) == ["dict.de.txt", "dict.en.txt", "model.pt"]
    theirs, ours = read_pickle(GOLDEN / f"{case}.pt")["model"], read_pickle(out)["model"]
    kept = {name for name in ours if "_float_tensor" not in name}
    assert set(theirs) - kept <= {name for name in theirs if "_float_tensor" in name or ".in_proj_" in name or name.
                                  endswith(("_weight", "_bias"))}  # fmt: skip
    assert all(torch.equal(ours[name], theirs[name]) for name in kept)
    again = imported(tmp_path / "again", out, data=out.parent)
    assert describe_model(load_model(again)) == describe_model(load_model(folder))


def test_failed_export_changes_no_file(tmp_path: Path) -> None:
    folder, out = imported(tmp_path / "model", SHARED), tmp_path / "out"
    out.mkdir()
    (out / "dict.de.txt").write_text("another 1\n")
    before = hash_tree(tmp_path)
    refused("export", "--to", "fairseq", folder, out / "a.pt", message="is not the model's dictionary")
    refused("export", "--to", "fairseq", folder, out / "dict.de.txt", message="exists already")
    options = ("--quantization", "int8")
    refused("export", "--to", "fairseq", folder, out / "b.pt", *options, message="fairseq models are float32")
    refused("export", "--to", "fairseq", tmp_path / "absent", out / "b.pt", message="neither a checkpoint")
    assert hash_tree(tmp_path) == before


def test_an_interrupted_export_leaves_no_part_of_a_dictionary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out = imported(tmp_path / "model", SHARED), tmp_path / "out"
    out.mkdir()

    def fails(source: Path, target: Path) -> None:
        Path(target).write_bytes(Path(source).read_bytes()[:5])
        raise OSError(28, "No space left on device", str(target))

    with monkeypatch.context() as patched:
        patched.setattr("kdmt.interop.fairseq.checkpoints.shutil.copyfile", fails)
        with pytest.raises(OSError, match="No space left"):
            checkpoints.export_checkpoint(folder, out / "a.pt")
    assert not list(out.iterdir())
    checkpoints.export_checkpoint(folder, out / "a.pt")


def test_model_without_fairseq_layout_is_refused(tmp_path: Path) -> None:
    size, companions = write_text_processing(tmp_path / "text")
    model = build_nonautoregressive(
        architecture("transformer_tiny"), NATConfig(family="cmlm"), src_vocab_size=size, tgt_vocab_size=size
    )
    save_checkpoint(tmp_path / "model", model, companions=companions)
    refused(
        "export", "--to", "fairseq", tmp_path / "model", tmp_path / "a.pt", message="'nat.layout: fairseq' trains one"
    )
    assert not (tmp_path / "a.pt").exists()


def test_exported_file_contains_no_stand_in_classes(tmp_path: Path) -> None:
    """An exported file contains argparse's Namespace."""
    folder = imported(tmp_path / "model", SHARED)
    assert kdmt("export", "--to", "fairseq", folder, tmp_path / "a.pt").code == 0
    found = torch.serialization.get_unsafe_globals_in_checkpoint(tmp_path / "a.pt")
    assert found == ["argparse.Namespace"]
    assert "argparse.Namespace" in HARMLESS
