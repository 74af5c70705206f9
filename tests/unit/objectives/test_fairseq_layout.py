"""Tests of the losses of students with fairseq's layout against golden files made by fairseq."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from copy_task import nat_objective
from torch import Tensor

from kdmt.config import Student
from kdmt.corpus.batching import Batch
from kdmt.interop.fairseq.architectures import read_architecture
from kdmt.interop.fairseq.pickles import read_pickle
from kdmt.interop.fairseq.states import convert_state
from kdmt.models.build import build_nonautoregressive
from kdmt.models.nonautoregressive import NATransformer
from kdmt.objectives.edited import DraftPrepared
from kdmt.objectives.objective import Prepared
from kdmt.types import EOS, PAD, UNK

GOLDEN = Path(__file__).parents[2] / "golden" / "fairseq"
VOCABULARY, SMOOTHING = 40, 0.1


def golden(case: str) -> tuple[NATransformer, dict[str, Tensor], dict[str, float]]:
    content = read_pickle(GOLDEN / f"{case}.pt")
    found = read_architecture(content)
    assert found.nat is not None
    model = build_nonautoregressive(found.config, found.nat, src_vocab_size=VOCABULARY, tgt_vocab_size=VOCABULARY)
    model.load_state_dict(convert_state(content["model"], found.config, found.nat), strict=False)
    with np.load(GOLDEN / f"{case}.npz") as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files}
    return model, arrays, json.loads((GOLDEN / f"{case}.json").read_text())["losses"]


def prepared_of(arrays: dict[str, Tensor], seen_BT: Tensor, loss_mask_BT: Tensor | None = None) -> Prepared:
    """Return a batch as kdmt's loader and view make it: targets without <s>."""
    targets_BT = arrays["tgt_tokens"][:, 1:]
    prev_tokens_BT = targets_BT.roll(1, dims=1).masked_fill(targets_BT.eq(PAD), PAD)
    prev_tokens_BT[:, 0] = EOS
    batch = Batch(
        index_B=torch.arange(len(targets_BT)),
        src_tokens_BS=arrays["src_tokens"][:, 1:],
        prev_tokens_BT=prev_tokens_BT,
        tgt_tokens_BT=targets_BT,
    )
    num_loss_tokens = int((targets_BT.ne(PAD) if loss_mask_BT is None else loss_mask_BT).sum())
    return Prepared(
        batch=batch, num_loss_tokens=num_loss_tokens, count=num_loss_tokens, loss_mask_BT=loss_mask_BT, seen_BT=seen_BT
    )


def test_losses_of_masked_words_and_lengths() -> None:
    model, arrays, losses = golden("cmlm")
    seen_BT = arrays["prev_tokens"][:, 1:]
    prepared = prepared_of(arrays, seen_BT, seen_BT.eq(UNK))
    epsilon = SMOOTHING * (VOCABULARY - 1) / VOCABULARY  # fairseq's NAT loss also smooths over the correct token
    terms = nat_objective(model, label_smoothing=epsilon).train()(prepared)
    values = {name: float(term.sum.detach()) / term.count for name, term in terms.items()}
    assert values["loss"] == pytest.approx(losses["word_ins-loss"], abs=1e-4)
    assert values["length"] == pytest.approx(losses["length-loss"], abs=1e-4)
    assert values["loss"] + 0.1 * values["length"] == pytest.approx(losses["loss"], abs=1e-4)


def test_loss_of_words_at_placeholders() -> None:
    model, arrays, losses = golden("levenshtein")
    drafts = arrays["prev_tokens"]
    prepared = DraftPrepared.with_drafts(prepared_of(arrays, drafts), drafts)
    epsilon = SMOOTHING * (VOCABULARY - 1) / VOCABULARY
    terms = nat_objective(model, label_smoothing=epsilon).train()(prepared)
    assert float(terms["loss"].sum.detach()) / terms["loss"].count == pytest.approx(losses["word_ins-loss"], abs=1e-4)


def test_empty_slots_of_insertion_predict_padding() -> None:
    """If no words are missing, the loss is that of <pad>, which fairseq uses as the target of empty slots."""
    model, arrays, _ = golden("insertion")
    whole = arrays["tgt_tokens"]
    prepared = DraftPrepared.with_drafts(prepared_of(arrays, whole), whole)
    term = nat_objective(model).train()(prepared)["loss"]
    with torch.no_grad():
        encoded = model.encode(arrays["src_tokens"][:, 1:])
        log_probs = model.output_proj(model.slots(model.read_draft(whole, encoded))).log_softmax(-1)[:, :, PAD]
    slots = whole[:, 1:].ne(PAD)
    expected = -((log_probs * slots).sum(1) / slots.sum(1)).mean()
    assert float(term.sum.detach()) / term.count == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"family": "nat"}, "'layout' is a setting of cmlm, levenshtein, insertion, not of 'nat'"),
        ({"family": "cmlm", "deep_supervision": 0.5}, "cannot have 'deep_supervision'"),
    ],
)
def test_settings_incompatible_with_the_layout_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Student(nat={"layout": "fairseq", **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["hidden_kd", "self_supervised"])
def test_terms_that_compare_states_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"cannot have '{name}': its encoder sees an <s> more"):
        Student.model_validate({"nat": {"family": "cmlm", "layout": "fairseq"}, name: {}})
