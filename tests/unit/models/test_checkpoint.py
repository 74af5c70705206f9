from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdmt.checksum import verify_checkpoint
from kdmt.errors import UserError
from kdmt.models import checkpoint
from kdmt.models.architecture import architecture
from kdmt.models.build import build_transformer
from kdmt.models.checkpoint import TrainingState, average_weights, load_model, load_state, load_weights, save_checkpoint
from kdmt.models.checkpoint_folder import (
    list_checkpoints,
    newest_valid_checkpoint,
    remove_unfinished,
)
from kdmt.models.transformer import Transformer

STATE = TrainingState(
    {
        "random.cpu": torch.arange(7, dtype=torch.uint8),
        "exp_avg.weight": torch.randn(3, 4).t(),  # not contiguous
        "step.weight": torch.tensor(3.0),
    },
    {"update": 3, "best_score": 0.1 + 0.2, "best_update": None, "loss_sums": {"loss": 1e-17}},
)


def make_model(seed: int, **overrides: Any) -> Transformer:
    torch.manual_seed(seed)
    config = architecture("transformer_tiny", {"encoder_layers": 1, "decoder_layers": 1, **overrides})
    return build_transformer(config, src_vocab_size=20, tgt_vocab_size=20)


def weights(model: Transformer) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same_weights(one: Transformer, other: Transformer) -> bool:
    mine, theirs = weights(one), weights(other)
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def companions(tmp_path: Path) -> list[Path]:
    """Write a dictionary, and a folder that contains a tokenizer."""
    dictionary, tokenizer = tmp_path / "prepare" / "dict.de.txt", tmp_path / "prepare" / "tokenizer"
    tokenizer.mkdir(parents=True)
    dictionary.write_text("Hund 3\n")
    (tokenizer / "spm.model").write_bytes(b"\x00\xff")
    return [dictionary, tokenizer]


# ------------------------------------------------------------------------------------------------------ round trip


@pytest.mark.parametrize("overrides", [{}, {"share_all_embeddings": True, "encoder_learned_pos": True}], ids=str)
def test_model_round_trip_is_exact(tmp_path: Path, overrides: dict) -> None:
    model = make_model(1, **overrides)
    save_checkpoint(tmp_path / "checkpoint_3", model)
    loaded = load_model(tmp_path / "checkpoint_3")
    assert same_weights(loaded, model)
    assert loaded.config == model.config
    assert not loaded.training
    tied = loaded.output_proj.weight is loaded.src_embed.tokens.weight
    assert tied == bool(overrides)


def test_companions_and_state_round_trip(tmp_path: Path, companions: list[Path]) -> None:
    folder = tmp_path / "checkpoint_3"
    save_checkpoint(folder, make_model(1), companions=companions, state=STATE)
    assert (folder / "dict.de.txt").read_text() == "Hund 3\n"
    assert (folder / "tokenizer" / "spm.model").read_bytes() == b"\x00\xff"
    state = load_state(folder)
    assert state.values == STATE.values
    assert state.tensors.keys() == STATE.tensors.keys()
    assert all(torch.equal(value, STATE.tensors[name]) for name, value in state.tensors.items())


def test_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_checkpoint(tmp_path / name / "checkpoint_3", make_model(1), state=STATE)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_every_file_has_the_permissions_of_a_new_file(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        save_checkpoint(tmp_path / "checkpoint_1", make_model(1), state=STATE)
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "checkpoint_1").iterdir() if path.is_file()]
    assert len(files) == 5
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~umask}


def test_missing_state_is_reported(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "average", make_model(1))
    with pytest.raises(UserError, match="average: holds no training state"):
        load_state(tmp_path / "average")


# --------------------------------------------------------------------------------------------- damaged checkpoints

FILES = ["model.safetensors", "model.json", "training_state.safetensors", "training_state.json", "tokenizer/spm.model"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flipped", "cut short", "missing"])
def test_damaged_file_is_refused_by_name(tmp_path: Path, companions: list[Path], name: str, damage: str) -> None:
    folder = tmp_path / "checkpoint_3"
    save_checkpoint(folder, make_model(1), companions=companions, state=STATE)
    whole = (folder / name).read_bytes()
    if damage == "missing":
        (folder / name).unlink()
    elif damage == "cut short":
        (folder / name).write_bytes(whole[:-1])
    else:
        (folder / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    for use in (verify_checkpoint, load_model):
        with pytest.raises(UserError, match=f"checkpoint_3/{name}: "):
            use(folder)


def test_missing_or_invalid_checksums_are_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "checkpoint_3", make_model(1))
    (tmp_path / "checkpoint_3" / "checksums.json").write_text('{"model.json": ')
    with pytest.raises(UserError, match=r"checkpoint_3/checksums\.json: not valid JSON"):
        verify_checkpoint(tmp_path / "checkpoint_3")
    (tmp_path / "checkpoint_3" / "checksums.json").unlink()
    with pytest.raises(UserError, match="checkpoint_3: not a checkpoint"):
        verify_checkpoint(tmp_path / "checkpoint_3")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"decoder_ffn_embed_dim": 32}, r"ffn.fc1.weight is \[64, 64\], the model has \[32, 64\]"),
        ({"encoder_layers": 2}, "encoder_layers.1.* is in one of the two only"),
        ({"share_all_embeddings": True}, "does not fit the model: "),
    ],
)
def test_weights_of_another_model_are_refused(tmp_path: Path, overrides: dict, message: str) -> None:
    save_checkpoint(tmp_path / "checkpoint_3", make_model(1))
    with pytest.raises(UserError, match=message):
        load_weights(make_model(2, **overrides), tmp_path / "checkpoint_3")


# ------------------------------------------------------------------------------------------- crashes while writing


@pytest.mark.parametrize(
    ("step", "call"),
    [
        ("save_file", 1),  # weights
        ("save_file", 2),  # training state
        ("write_json", 3),  # checksums
        ("sync_to_disk", 2),
        ("verify_checkpoint", 1),
    ],
)
def test_crash_while_writing_keeps_the_existing_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, call: int
) -> None:
    old, new = make_model(1), make_model(2)
    save_checkpoint(tmp_path / "checkpoint_3", old, state=STATE)
    before = contents(tmp_path)
    done, calls = getattr(checkpoint, step), []

    def failing(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        return done(*arguments)

    for name in ("checkpoint_3", "checkpoint_4"):
        calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, step, failing)
            with pytest.raises(OSError, match="No space left"):
                save_checkpoint(tmp_path / name, new, state=STATE)
    assert newest_valid_checkpoint(tmp_path) == (tmp_path / "checkpoint_3", [])
    remove_unfinished(tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("crash", ["none", "before the new one", "after the new one"])
def test_crash_while_replacing_leaves_a_complete_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash: str
) -> None:
    old, new = make_model(1), make_model(2)
    save_checkpoint(tmp_path / "checkpoint_2", old)
    save_checkpoint(tmp_path / "checkpoint_3", old)
    rename, rmtree, renamed = Path.rename, shutil.rmtree, []

    def crashing_rename(self: Path, target: Path) -> Path:
        renamed.append(target)
        if crash == "before the new one" and len(renamed) == 2:
            raise KeyboardInterrupt
        return rename(self, target)

    def crashing_rmtree(path: Path, **arguments: Any) -> None:
        if crash == "after the new one" and renamed:
            next(path.iterdir()).unlink()
            raise KeyboardInterrupt
        rmtree(path, **arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", crashing_rename)
        patch.setattr(shutil, "rmtree", crashing_rmtree)
        try:
            save_checkpoint(tmp_path / "checkpoint_3", new)
            crashed = False
        except KeyboardInterrupt:
            crashed = True
    assert crashed == (crash != "none")
    remove_unfinished(tmp_path)
    newest, problems = newest_valid_checkpoint(tmp_path)
    assert problems == []
    assert newest is not None
    expected = ("checkpoint_3", old if crash == "before the new one" else new)
    assert newest.name == expected[0]
    assert same_weights(load_model(newest), expected[1])
    save_checkpoint(tmp_path / "checkpoint_3", old)  # saving works again after the crash
    assert same_weights(load_model(tmp_path / "checkpoint_3"), old)


def make_folders(run: Path, *names: str) -> None:
    for name in names:
        save_checkpoint(run / name, make_model(1))


# -------------------------------------------------------------------------------------------------------- averages


def test_average_is_the_mean_of_each_weight(tmp_path: Path) -> None:
    models = [make_model(seed, share_all_embeddings=True) for seed in range(3)]
    for seed, model in enumerate(models):
        save_checkpoint(tmp_path / f"checkpoint_{seed}", model)
    averaged = average_weights(list_checkpoints(tmp_path))
    assert averaged.keys() == weights(models[0]).keys()
    for name, found in averaged.items():
        exact = torch.stack([weights(model)[name].double() for model in models]).mean(dim=0)
        assert torch.equal(found, exact.float())


def test_average_of_one_checkpoint_equals_it(tmp_path: Path) -> None:
    make_folders(tmp_path, "checkpoint_1")
    averaged = average_weights([tmp_path / "checkpoint_1"])
    assert all(torch.equal(averaged[name], weight) for name, weight in weights(make_model(1)).items())


def test_values_are_written_as_json(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "checkpoint_3", make_model(1), state=STATE)
    description = json.loads((tmp_path / "checkpoint_3" / "model.json").read_text())
    assert description["family"] == "transformer"
    assert description["config"]["encoder_layers"] == 1
