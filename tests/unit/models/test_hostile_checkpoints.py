"""Tests of checkpoints and exported models with correct checksums but invalid content."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_transformers import POST_NORM, make_model, vocabulary_sizes, write_text_processing
from tiny_pipeline import kdmt

from kdmt.checksum import file_sha256, verify_checkpoint
from kdmt.config import Decode
from kdmt.corpus.codec import TextCodec, check_vocabulary
from kdmt.decode.engines.ctranslate2 import CTranslate2Engine
from kdmt.decode.engines.onnx import Graph, OnnxNATEngine
from kdmt.errors import UserError
from kdmt.interop.ctranslate2_export import export_checkpoint
from kdmt.interop.onnx_export import export_model as export_to_onnx
from kdmt.languages import Direction
from kdmt.models.architecture import ARCHITECTURES, NATConfig, TransformerConfig, architecture
from kdmt.models.build import build_nonautoregressive, build_transformer, count_parameters, count_stored
from kdmt.models.checkpoint import average_weights, load_model, load_weights, save_checkpoint
from kdmt.models.checkpoint_folder import checkpoint_sha256, list_checkpoints, resolve_checkpoint
from kdmt.models.description import read_description

TINY = architecture("transformer_tiny", {"encoder_layers": 1, "decoder_layers": 1})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with a checkpoint and the same model in CTranslate2's format."""
    folder = tmp_path_factory.mktemp("made")
    torch.manual_seed(1)
    size, companions = write_text_processing(folder / "prepare")
    model = build_transformer(TINY, src_vocab_size=size, tgt_vocab_size=size)
    save_checkpoint(folder / "checkpoint", model, companions=companions)
    export_checkpoint(folder / "checkpoint", folder / "ctranslate2")
    return folder


@pytest.fixture(scope="module")
def made_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    torch.manual_seed(1)
    size, companions = write_text_processing(folder / "prepare")
    nat = NATConfig(family="ctc", upsample=2)
    export_to_onnx(
        build_nonautoregressive(TINY, nat, src_vocab_size=size, tgt_vocab_size=size).eval(),
        folder / "onnx",
        companions=companions,
    )
    return folder


@pytest.fixture
def checkpoint(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "checkpoint", tmp_path / "checkpoint"))


@pytest.fixture
def ctranslate2(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "ctranslate2", tmp_path / "ctranslate2"))


@pytest.fixture
def onnx(made_onnx: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made_onnx / "onnx", tmp_path / "onnx"))


def edit_json(path: Path, edit: Callable[[Any], Any]) -> None:
    values = json.loads(path.read_text())
    changed = edit(values)
    path.write_text(json.dumps(values if changed is None else changed))


def sign(path: Path, folder: Path) -> None:
    """Update the checksum of a file that was changed."""
    edit_json(folder / "checksums.json", lambda sums: sums.update({str(path.relative_to(folder)): file_sha256(path)}))


def describe(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    edit_json(folder / "model.json", edit)
    sign(folder / "model.json", folder)


def refused(*arguments: str | Path) -> str:
    result = kdmt(*arguments, stdin=b"abba baba\n")
    assert result.code == 2, result.err
    assert result.out == ""
    assert "Traceback" not in result.err
    assert result.err.count("\n") == 1
    assert len(result.err) < 1000
    return result.err.removeprefix("kdmt: error: ").removesuffix("\n")


# ----------------------------------------------------------------------------------------------------------- checksums

SHA = "0" * 64


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda _: {}, "checksums.json: lists no model"),
        (lambda sums: sums.pop("model.safetensors"), "checksums.json: lists no model"),
        (lambda sums: sums.pop("model.json"), "checksums.json: lists no model"),
        (lambda sums: sums.pop("text.json"), "text.json: not listed in checksums.json"),
        (lambda sums: sums.pop("dict.de.txt"), "dict.de.txt: not listed in checksums.json"),
        (lambda sums: sums.pop("tokenizer/tokenizer.json"), "tokenizer/tokenizer.json: not listed in checksums.json"),
        (lambda sums: sums.update({"../outside": SHA}), "'../outside' is not the name of a file in the folder"),
        (lambda sums: sums.update({"/etc/passwd": SHA}), "'/etc/passwd' is not the name of a file in the folder"),
        (lambda sums: sums.update({"a/../../b": SHA}), "is not the name of a file in the folder"),
        (lambda sums: sums.update({"": SHA}), "is not the name of a file in the folder"),
        (lambda sums: sums.update({"a\x1bb": SHA}), "is not the name of a file in the folder"),
        (lambda sums: sums.update({"model.json": 7}), "'model.json' has no sha256"),
        (lambda sums: sums.update({"model.json": "abc"}), "'model.json' has no sha256"),
        (lambda _: [], "checksums.json: not a JSON object"),
    ],
)
def test_invalid_checksums_are_refused(checkpoint: Path, edit: Callable[[Any], Any], problem: str) -> None:
    def changed(sums: dict[str, str]) -> Any:
        made = edit(sums)
        return made if isinstance(made, (dict, list)) and not made else sums

    edit_json(checkpoint / "checksums.json", changed)
    for use in (verify_checkpoint, load_model):
        with pytest.raises(UserError) as caught:
            use(checkpoint)
        assert problem in str(caught.value)
    assert problem in refused("translate", checkpoint)


def test_training_state_missing_from_checksums_is_refused(checkpoint: Path) -> None:
    (checkpoint / "training_state.json").write_text("{}")
    with pytest.raises(UserError, match=r"training_state\.json: not listed"):
        verify_checkpoint(checkpoint)


def test_other_files_in_the_folder_are_allowed(checkpoint: Path, ctranslate2: Path) -> None:
    for folder in (checkpoint, ctranslate2):
        (folder / "README.md").write_text("mine")
        verify_checkpoint(folder)
    assert load_model(checkpoint) is not None


def test_every_exported_file_must_be_in_the_checksums(made: Path, made_onnx: Path, tmp_path: Path) -> None:
    """Each of the files that were written is removed from the checksums in turn, and must be missed."""
    for original in (made / "checkpoint", made / "ctranslate2", made_onnx / "onnx"):
        names = list(json.loads((original / "checksums.json").read_text()))
        assert len(names) > 5
        for name in names:
            folder = Path(shutil.copytree(original, tmp_path / original.name))
            edit_json(folder / "checksums.json", lambda sums, name=name: sums.pop(name) and None)
            with pytest.raises(UserError, match=r"checksums\.json"):
                verify_checkpoint(folder)
            shutil.rmtree(folder)


def test_sha256_of_a_checkpoint_without_weights_in_its_checksums(ctranslate2: Path) -> None:
    with pytest.raises(UserError, match=r"checksums\.json: does not list model\.safetensors"):
        checkpoint_sha256(ctranslate2)


# --------------------------------------------------------------------------------------------------------- model.json


def config(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda description: description["config"].update(values)


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (config(encoder_layers=10**9), "config.encoder_layers: should be at most 1,000 (it is 1000000000)"),
        (config(decoder_embed_dim=10**12), "config.decoder_embed_dim: should be at most 65,536"),
        (config(encoder_ffn_embed_dim=10**12), "config.encoder_ffn_embed_dim: should be at most 1,048,576"),
        (config(max_source_positions=10**12), "config.max_source_positions: should be at most 1,000,000"),
        (config(encoder_attention_heads=0), "attention_heads (0) is less than 1"),
        (config(encoder_layers=-1), "config.encoder_layers: should be at least 0"),
        (config(encoder_layers=1.0), "config: encoder_layers: should be a valid integer"),
        (config(encoder_layers=True), "config: encoder_layers: should be a valid integer"),
        (config(encoder_layers="1"), "config: encoder_layers: should be a valid integer"),
        (config(dropout=1.5), "config.dropout: should be at least 0 and less than 1"),
        (config(activation_fn="exec"), "config: activation_fn: should be 'relu', 'gelu' or 'swish'"),
        (config(target_token=99), "config.target_token: 99 is no token of"),
        (config(unheard_of=1), "config: unheard_of: unknown"),
        (lambda description: description.update(config=[]), "config: expected an object"),
        (lambda description: description.update(src_vocab_size=10**12), "src_vocab_size: should be at most 10,000,000"),
        (lambda description: description.update(tgt_vocab_size=0), "tgt_vocab_size: '0', expected a whole number"),
        (
            lambda description: description.update(tgt_vocab_size=None),
            "tgt_vocab_size: 'None', expected a whole number",
        ),
        (lambda description: description.update(family="other"), "model family 'other' is none of"),
        (lambda description: description.update(family="nonautoregressive"), "nat: expected an object"),
        (
            lambda description: description.update(
                family="nonautoregressive", nat={"family": "ctc", "upsample": 10**9}
            ),
            "nat.upsample: should be at most 1,000",
        ),
        (lambda description: description.pop("config"), "config: expected an object"),
    ],
)
def test_invalid_description_is_refused(checkpoint: Path, edit: Callable[[Any], Any], problem: str) -> None:
    describe(checkpoint, lambda description: edit(description) and None)
    message = refused("translate", checkpoint)
    assert message.startswith(f"{checkpoint / 'model.json'}: ")
    assert problem in message


def test_description_larger_than_the_weights_is_refused(checkpoint: Path) -> None:
    """Each size is valid, but the model would take 500 GB; no memory is allocated."""
    describe(checkpoint, config(encoder_layers=1000, encoder_embed_dim=8192, encoder_ffn_embed_dim=8192))
    message = refused("translate", checkpoint)
    assert "model.safetensors: does not fit the model: model.json describes at least 4" in message


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("shared", [False, True])
def test_counted_weights_are_at_most_those_of_the_model(name: str, shared: bool) -> None:
    config = architecture(name, {"share_all_embeddings": shared})
    with torch.device("meta"):
        exact = count_parameters(build_transformer(config, src_vocab_size=1000, tgt_vocab_size=1000))
    assert 0.5 * exact < count_stored(config, 1000, 1000) <= exact


def test_model_too_large_for_memory_is_refused() -> None:
    huge = {
        f"{side}_{part}": size
        for side in ("encoder", "decoder")
        for part, size in (("layers", 1000), ("embed_dim", 32768))
    }
    with pytest.raises(UserError, match="it would have more than 100,000,000,000 weights"):
        build_transformer(architecture("transformer", huge), src_vocab_size=10, tgt_vocab_size=10)
    with pytest.raises(UserError, match=r"model\.encoder_layers: should be at most 1,000"):
        build_transformer(TransformerConfig(encoder_layers=10**9), src_vocab_size=10, tgt_vocab_size=10)


def test_written_description_is_read(checkpoint: Path) -> None:
    assert TransformerConfig(**read_description(checkpoint)["config"]) == TINY


@pytest.mark.parametrize("content", ["[]", "{", '{"family": NaN}', '{"a": 1, "a": 2}', "[" * 5000])
def test_file_that_is_not_a_json_object_is_refused(checkpoint: Path, content: str) -> None:
    for name in ("model.json", "text.json", "tokenizer/tokenizer.json"):
        path = checkpoint / name
        before = path.read_bytes()
        path.write_text(content)
        sign(path, checkpoint)
        assert refused("translate", checkpoint).startswith(f"{path}: not ")
        path.write_bytes(before)
        sign(path, checkpoint)


@pytest.mark.parametrize("language", ["../../etc/passwd", "", 7, None, "a\nb", "x" * 500, "/a"])
def test_invalid_language_is_refused(checkpoint: Path, language: Any) -> None:
    edit_json(checkpoint / "text.json", lambda values: values.update(target_lang=language))
    sign(checkpoint / "text.json", checkpoint)
    assert "target_lang: " in refused("translate", checkpoint)


def test_tokenizer_outside_its_folder_is_refused(checkpoint: Path) -> None:
    index = checkpoint / "tokenizer" / "tokenizer.json"
    edit_json(
        index, lambda values: values["source"].update(file="../text.json", sha256=file_sha256(checkpoint / "text.json"))
    )
    sign(index, checkpoint)
    assert refused("translate", checkpoint) == f"{index}: names a file that is not in the same folder"


# -------------------------------------------------------------------------------------------------------- dictionaries


def shorten_dictionary(folder: Path) -> Path:
    path = folder / "dict.de.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    sign(path, folder)
    return path


@pytest.mark.parametrize("kind", ["checkpoint", "ctranslate2", "onnx"])
def test_dictionary_of_another_size_is_refused(request: pytest.FixtureRequest, kind: str) -> None:
    folder = request.getfixturevalue(kind)
    path = shorten_dictionary(folder)
    assert refused("translate", folder).startswith(
        f"{path}: has 7 symbols, and the model in {folder / 'model.json'} 8: "
    )
    with pytest.raises(UserError, match="has 7 symbols"):
        TextCodec.load(folder)


def test_dictionary_of_another_size_is_refused_by_check_vocabulary(checkpoint: Path, tmp_path: Path) -> None:
    shorten_dictionary(checkpoint)
    (tmp_path / "data").mkdir()
    for lang in ("en", "de"):
        shutil.copy(checkpoint / f"dict.{lang}.txt", tmp_path / "data")
    with pytest.raises(UserError, match="has 7 symbols, and the model"):
        check_vocabulary(checkpoint, tmp_path / "data", Direction("en", "de"))


def test_dictionary_in_another_order_than_ctranslate2_vocabulary(ctranslate2: Path) -> None:
    path = ctranslate2 / "dict.de.txt"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[1], lines[0], *lines[2:]]))
    sign(path, ctranslate2)
    assert refused("translate", ctranslate2) == f"{path}: not the vocabulary of the model in this folder"


@pytest.mark.parametrize(
    ("vocabulary", "problem"),
    [
        ({}, "not a list of tokens"),
        ([1, 2], "not a list of tokens"),
        (["</s>", "a", "a"], "lists a token twice"),
        (["a", "b"], "has no </s>"),
        (["<s>", "<pad>", "</s>", "<unk>"], "its vocabulary has 4 src tokens, and model.json says 8"),
    ],
)
def test_invalid_ctranslate2_vocabulary_is_refused(ctranslate2: Path, vocabulary: Any, problem: str) -> None:
    path = ctranslate2 / "shared_vocabulary.json"
    path.write_text(json.dumps(vocabulary))
    sign(path, ctranslate2)
    assert problem in refused("translate", ctranslate2)


def test_invalid_frame_is_refused(ctranslate2: Path) -> None:
    for frame, problem in (
        ([], "frame: expected"),
        ({"source_prefix": []}, "frame: expected"),
        ({"source_prefix": [], "source_suffix": ["??"], "target_prefix": []}, "frame.source_suffix: not a list"),
        ({"source_prefix": "a", "source_suffix": [], "target_prefix": []}, "frame.source_prefix: not a list"),
    ):
        shutil.copy(ctranslate2 / "shared_vocabulary.json", ctranslate2 / "symbols.json")
        sign(ctranslate2 / "symbols.json", ctranslate2)
        describe(ctranslate2, lambda description, frame=frame: description.update(frame=frame))
        with pytest.raises(UserError) as caught:
            CTranslate2Engine(ctranslate2)
        assert problem in str(caught.value)


# ------------------------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("command", ["translate", "export", "rescore"])
def test_non_finite_weights_are_refused(checkpoint: Path, tmp_path: Path, value: float, command: str) -> None:
    path = checkpoint / "model.safetensors"
    weights = load_file(path)
    weights["encoder_layers.0.ffn.fc1.weight"][3, 5] = value  # its effect may be hidden by the ReLU
    save_file(weights, path)
    sign(path, checkpoint)
    (tmp_path / "text").write_text("abba\n")
    arguments = {
        "translate": ("translate", checkpoint),
        "export": ("export", "--to", "ctranslate2", checkpoint, tmp_path / "out"),
        "rescore": ("rescore", checkpoint, tmp_path / "text", tmp_path / "text"),
    }[command]
    assert refused(*arguments) == f"{path}: encoder_layers.0.ffn.fc1.weight has weights that are NaN or infinite"
    assert not (tmp_path / "out").exists()


def test_weights_of_integer_type_are_refused(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    save_file({name: tensor.to(torch.int32) for name, tensor in load_file(path).items()}, path)
    with pytest.raises(UserError, match="expected floating-point numbers"):
        load_weights(build_transformer(TINY, src_vocab_size=8, tgt_vocab_size=8), checkpoint)


def test_average_of_different_models_is_refused(tmp_path: Path) -> None:
    for number, layers in enumerate((1, 2)):
        model = build_transformer(
            architecture("transformer_tiny", {"encoder_layers": layers}), src_vocab_size=8, tgt_vocab_size=8
        )
        save_checkpoint(tmp_path / f"checkpoint_{number}", model)
    with pytest.raises(UserError, match=r"checkpoint_1/model\.safetensors: .* is not as in .*checkpoint_0"):
        average_weights(list_checkpoints(tmp_path))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("quantization", ["float32", "float16", "int8"])
def test_non_finite_weights_in_ctranslate2_file_are_refused(tmp_path: Path, value: float, quantization: str) -> None:
    from kdmt.interop.ctranslate2_export import export_model

    model = make_model(POST_NORM)
    sizes = vocabulary_sizes(POST_NORM)
    symbols = [["<s>", "<pad>", "</s>", "<unk>", *map(str, range(size - 4))] for size in sizes]
    export_model(model, tmp_path / "good", src_symbols=symbols[0], tgt_symbols=symbols[1], quantization=quantization)
    source = [np.array([5, 6, 2])]
    assert CTranslate2Engine(tmp_path / "good").decode(source, Decode(beam=1))
    with torch.no_grad():
        model.encoder_layers[0].ffn_residual.norm.weight[0] = value
    export_model(model, tmp_path / "bad", src_symbols=symbols[0], tgt_symbols=symbols[1], quantization=quantization)
    with pytest.raises(
        UserError, match=r"bad/model\.bin: encoder/layer_0/ffn/layer_norm/gamma has weights that are NaN"
    ):
        CTranslate2Engine(tmp_path / "bad")


def test_overflow_of_large_weights_is_reported(tmp_path: Path) -> None:
    """The weights are finite, but the values computed from them are not."""
    size, companions = write_text_processing(tmp_path / "prepare")
    model = build_transformer(TINY, src_vocab_size=size, tgt_vocab_size=size)
    with torch.no_grad():
        model.src_embed.tokens.weight.fill_(1e38)
    save_checkpoint(tmp_path / "checkpoint", model, companions=companions)
    message = refused("translate", tmp_path / "checkpoint")
    assert "the model cannot translate" in message
    assert "are weights NaN, infinite or far too large?" in message
    export_checkpoint(tmp_path / "checkpoint", tmp_path / "out")
    assert "its scores are no numbers" in refused("translate", tmp_path / "out")


# --------------------------------------------------------------------------------------- exceptions of other libraries


@pytest.mark.parametrize("damage", ["cut", "half", "empty", "garbage", "version", "name", "rank"])
def test_file_that_ctranslate2_cannot_load_is_refused(ctranslate2: Path, damage: str) -> None:
    path = ctranslate2 / "model.bin"
    data = path.read_bytes()
    damaged = {
        "cut": data[:-5],
        "half": data[: len(data) // 2],
        "empty": b"",
        "garbage": b"garbage" * 100,
        "version": b"\x63" + data[1:],
        "name": data.replace(b"decoder/embeddings/weight", b"decoder/embeddings/weighs"),
        "rank": data.replace(b"decoder/embeddings/weight\0\x02", b"decoder/embeddings/weight\0\xff"),
    }[damage]
    path.write_bytes(damaged)
    sign(path, ctranslate2)
    assert refused("translate", ctranslate2).startswith(str(ctranslate2))


@pytest.mark.parametrize("damage", ["cut", "empty", "garbage"])
def test_file_that_onnx_runtime_cannot_load_is_refused(onnx: Path, damage: str) -> None:
    path = onnx / "model.onnx"
    data = path.read_bytes()
    path.write_bytes({"cut": data[: len(data) // 2], "empty": b"", "garbage": b"garbage" * 100}[damage])
    sign(path, onnx)
    assert refused("translate", onnx).startswith(f"{path}: ONNX Runtime cannot load it: ")


@pytest.mark.parametrize(
    ("symbols", "log_probs", "problem"),
    [
        (np.full((1, 4), 9), np.zeros((1, 4), np.float32), "it predicts ids that the dictionary does not have"),
        (np.full((1, 4), -1), np.zeros((1, 4), np.float32), "it predicts ids that the dictionary does not have"),
        (np.zeros((1, 4), np.int64), np.full((1, 4), np.nan, np.float32), "its probabilities are no numbers"),
        (np.zeros((2, 4), np.int64), np.zeros((2, 4), np.float32), "its outputs are not those of a model"),
        (np.zeros((1, 4), np.int64), np.zeros((1, 5), np.float32), "its outputs are not those of a model"),
        (np.zeros((1, 4), np.float32), np.zeros((1, 4), np.float32), "its outputs are not those of a model"),
        (np.zeros(4, np.int64), np.zeros(4, np.float32), "its outputs are not those of a model"),
    ],
)
def test_invalid_output_of_onnx_runtime_is_refused(made_onnx: Path, symbols: Any, log_probs: Any, problem: str) -> None:
    class Session:
        def run(self, *_: Any) -> Any:
            return symbols, log_probs

    engine = OnnxNATEngine(made_onnx / "onnx")
    engine._graphs = [Graph(engine._graphs[0].file, Session())]
    with pytest.raises(UserError, match=problem):
        engine.decode([np.array([5, 2])], Decode())


def test_error_of_onnx_runtime_is_reported(made_onnx: Path) -> None:
    class Session:
        def run(self, *_: Any) -> Any:
            raise RuntimeError("[ONNXRuntimeError] : 2 :\n INVALID_ARGUMENT")

    engine = OnnxNATEngine(made_onnx / "onnx")
    engine._graphs = [Graph(engine._graphs[0].file, Session())]
    with pytest.raises(UserError, match=r"model\.onnx: ONNX Runtime cannot run it: .* : 2 : INVALID_ARGUMENT"):
        engine.decode([np.array([5, 2])], Decode())


def test_out_of_memory_errors_are_passed_on_for_a_retry(made: Path) -> None:
    engine = CTranslate2Engine(made / "ctranslate2")
    for error, kind in ((RuntimeError("CUDA out of memory"), RuntimeError), (RuntimeError("shape"), UserError)):

        def fail(*_: Any, error: Exception = error, **__: Any) -> None:
            raise error

        with pytest.raises(kind):
            engine._run(fail)


# ------------------------------------------------------------------------------------------------------------ pointers


@pytest.mark.parametrize(
    "content",
    [
        b"../elsewhere",
        b"/tmp",
        b"",
        b"\n",
        b".",
        b"..",
        b"best",
        b"a/b",
        b"\xff\xfe",
        b"x\0y",
        b"x" * 300,
        b"y" * 10**6,
        b"a\nb",
        b"\x1b[2J",
    ],
    ids=lambda content: repr(content[:12]),
)
def test_invalid_pointer_is_refused(checkpoint: Path, content: bytes) -> None:
    run = checkpoint.parent
    shutil.copytree(checkpoint, run.parent / f"{run.name}-elsewhere")
    (run / "best").write_bytes(content)
    with pytest.raises(UserError) as caught:
        resolve_checkpoint(run / "best")
    message = str(caught.value)
    assert message.startswith(f"{run / 'best'}: ")
    assert len(message) < len(str(run)) + 200


def test_pointer_to_a_folder_in_the_same_run(checkpoint: Path) -> None:
    (checkpoint.parent / "best").write_text("checkpoint\n")
    assert resolve_checkpoint(checkpoint.parent / "best") == checkpoint
    assert resolve_checkpoint(checkpoint.parent) == checkpoint


def test_folders_without_a_valid_number_are_not_listed(tmp_path: Path) -> None:
    for name in ("²", "٣", "9" * 200, "-1", "1_0", "7"):
        (tmp_path / f"checkpoint_{name}").mkdir()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint_7"]


def test_pipe_in_a_checkpoint_is_refused(checkpoint: Path) -> None:
    for name in ("model.safetensors", "text.json", "checksums.json"):
        before = (checkpoint / name).read_bytes()
        (checkpoint / name).unlink()
        os.mkfifo(checkpoint / name)
        assert name in refused("translate", checkpoint) or "neither a checkpoint folder" in refused(
            "translate", checkpoint
        )
        (checkpoint / name).unlink()
        (checkpoint / name).write_bytes(before)
