"""Tests of the average of a run: it is written, rebuilt if outdated, and refused if it cannot be rebuilt."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_nat import small

from kdmt.errors import UserError
from kdmt.models.architecture import architecture
from kdmt.models.average_record import average_of, is_outdated, write_average_of, write_wanted_of
from kdmt.models.averages import renew_average, save_average
from kdmt.models.build import build_transformer
from kdmt.models.checkpoint import load_model, save_checkpoint
from kdmt.models.checkpoint_folder import list_checkpoints
from kdmt.models.nonautoregressive import NATransformer
from kdmt.models.transformer import Transformer


def make_model(seed: int) -> Transformer:
    torch.manual_seed(seed)
    config = architecture("transformer_tiny", {"encoder_layers": 1, "decoder_layers": 1})
    return build_transformer(config, src_vocab_size=20, tgt_vocab_size=20)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Make a run of three checkpoints and the average of the first two."""
    notes = tmp_path / "notes.txt"
    notes.write_text("a companion")
    for update in (1, 2, 3):
        save_checkpoint(tmp_path / f"checkpoint_{update}", make_model(update), companions=[notes])
    save_average(tmp_path, list_checkpoints(tmp_path)[:2], make_model(9), [notes])
    return tmp_path


def assert_is_mean(average: Path, seeds: tuple[int, ...]) -> None:
    models = [dict(make_model(seed).named_parameters()) for seed in seeds]
    for name, found in load_model(average).named_parameters():
        expected = torch.stack([model[name].detach().double() for model in models]).mean(0)
        torch.testing.assert_close(found.detach().double(), expected, rtol=0, atol=1e-7)


def test_average_is_the_mean_and_lists_its_checkpoints(run: Path) -> None:
    assert_is_mean(run / "average", (1, 2))
    assert average_of(run / "average") == [1, 2]
    assert (run / "average" / "notes.txt").read_text() == "a companion"


def test_average_that_is_up_to_date_is_kept(run: Path) -> None:
    write_average_of(run, list_checkpoints(run)[:2])
    before = (run / "average" / "model.safetensors").stat().st_mtime_ns
    renew_average(run)
    assert (run / "average" / "model.safetensors").stat().st_mtime_ns == before


def test_outdated_average_is_rebuilt_with_companions(run: Path) -> None:
    write_average_of(run, list_checkpoints(run)[1:])
    renew_average(run)
    assert not is_outdated(run)
    assert_is_mean(run / "average", (2, 3))
    assert (run / "average" / "notes.txt").read_text() == "a companion"


def test_average_of_the_best_is_written_and_rebuilt_independently(run: Path) -> None:
    notes = run / "notes.txt"
    save_average(run, [run / "checkpoint_1", run / "checkpoint_3"], make_model(9), [notes], name="average_best")
    write_wanted_of(run, [run / "checkpoint_1", run / "checkpoint_3"], "average_best")
    assert_is_mean(run / "average_best", (1, 3))
    write_wanted_of(run, [run / "checkpoint_1", run / "checkpoint_2"], "average_best")  # 3 is no longer among them
    renew_average(run, "average_best")
    assert_is_mean(run / "average_best", (1, 2))
    assert average_of(run / "average_best") == [1, 2]
    assert_is_mean(run / "average", (1, 2))
    assert (run / "average_best" / "notes.txt").read_text() == "a companion"


def test_average_of_non_autoregressive_models_is_their_mean(tmp_path: Path) -> None:
    models = []
    for update in (1, 2):
        models.append(small(layers=1))
        with torch.no_grad():
            for weight in models[-1].parameters():
                weight.add_(update)
        save_checkpoint(tmp_path / f"checkpoint_{update}", models[-1])
    save_average(tmp_path, list_checkpoints(tmp_path), models[0], [], name="average_best")
    averaged = load_model(tmp_path / "average_best")
    assert isinstance(averaged, NATransformer)
    found = dict(averaged.named_parameters())
    for name, weight in models[0].named_parameters():
        torch.testing.assert_close(found[name].double(), weight + 0.5, rtol=0, atol=1e-6)


def test_average_of_damaged_checkpoints_is_refused(run: Path) -> None:
    write_average_of(run, list_checkpoints(run)[1:])
    (run / "last").write_text("checkpoint_3\n")
    (run / "checkpoint_3" / "model.json").write_text("{}")
    with pytest.raises(UserError, match=r"cannot be rebuilt .*finish the run's training, or name .*last"):
        renew_average(run)
    assert_is_mean(run / "average", (1, 2))
