"""Guided alignment in an objective: its sum by a formula, its head alone, and the layer that computes a map."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from copy_task import terms_of
from small_students import EPSILON, V, batch_of

from kdmt.config import GuidedAlignment, Student
from kdmt.corpus.batching import Batch, BatchLinks
from kdmt.models.architecture import architecture
from kdmt.models.attention import CrossAttention, SelfAttention
from kdmt.models.build import build_transformer
from kdmt.models.transformer import Trace, Transformer
from kdmt.objectives.build import build_objective


def three_layers() -> Transformer:
    torch.manual_seed(1)
    sides = {
        f"{side}_{field}": value
        for side in ("encoder", "decoder")
        for field, value in {"layers": 3, "embed_dim": 8, "ffn_embed_dim": 16, "attention_heads": 2}.items()
    }
    config = architecture("transformer", {**sides, "dropout": 0.0})
    return build_transformer(config, src_vocab_size=V, tgt_vocab_size=V).double()


def aligned_batch() -> Batch:
    """Return three pairs with links; the target tokens 0 of pair 1 and all of pair 2 have none."""
    batch = batch_of([4, 3, 2])
    place = torch.tensor([[0, 0, 0, 1], [0, 1, 1, 1], [1, 0, 2, 0]])
    alignment = BatchLinks(place, torch.tensor([1.0, 0.5, 0.5, 1.0]), 3.0)
    return replace(batch, extras=replace(batch.extras, alignment=alignment))


@pytest.mark.parametrize("student", [None, Student()])
@pytest.mark.parametrize(("layer", "head"), [(None, 0), (1, 1)])
def test_term_is_the_formula_at_one_head(student: Student | None, layer: int | None, head: int) -> None:
    model, batch = three_layers(), aligned_batch()
    settings = GuidedAlignment(layer=layer, head=head, weight=0.3)
    objective = build_objective(model, student, label_smoothing=EPSILON, guided_alignment=settings).train()
    term = terms_of(objective, batch)["alignment"]
    assert (term.count, term.weight) == (3.0, 0.3)

    point = ("cross", 2 if layer is None else layer)
    trace = Trace(frozenset({point}))
    assert batch.prev_tokens_BT is not None
    model.decode(batch.prev_tokens_BT, model.encode(batch.src_tokens_BS), trace)
    log_weights = trace.found[point][:, head].detach().log().numpy()
    expected = log_weights[0, 0, 1] + (log_weights[0, 1, 0] + log_weights[0, 1, 2]) / 2 + log_weights[1, 1, 0]
    np.testing.assert_allclose(float(term.sum.detach()), -expected, rtol=1e-10)


def test_other_terms_do_not_change() -> None:
    model, batch = three_layers(), aligned_batch()
    plain = build_objective(model, label_smoothing=EPSILON).train()
    guided = build_objective(model, label_smoothing=EPSILON, guided_alignment=GuidedAlignment()).train()
    for name, term in terms_of(plain, batch).items():
        assert torch.equal(terms_of(guided, batch)[name].sum, term.sum)
    assert set(terms_of(guided.eval(), batch)) == {"loss", "nll"}


def test_self_supervision_scales_the_weight() -> None:
    student = Student.model_validate({"self_supervised": {"supervised": 0.75}})
    settings = GuidedAlignment(weight=0.4)
    objective = build_objective(three_layers(), student, label_smoothing=EPSILON, guided_alignment=settings)
    weights = {"loss": 0.75, "alignment": 0.75 * 0.4, "self_supervised": 0.25}
    assert {name: objective.weights[name] for name in weights} == pytest.approx(weights)


def test_one_layer_computes_its_map(monkeypatch: pytest.MonkeyPatch) -> None:
    computed = []
    for module in (CrossAttention, SelfAttention):
        weights = module.weights

        def counted(self: object, *given: object, weights: object = weights, **more: object) -> object:
            computed.append(self)
            return weights(self, *given, **more)  # type: ignore[operator]

        monkeypatch.setattr(module, "weights", counted)
    model = three_layers()
    guided = build_objective(model, label_smoothing=EPSILON, guided_alignment=GuidedAlignment(layer=1)).train()
    terms_of(guided, aligned_batch())
    assert computed == [model.decoder_layers[1].cross_attn]


def test_activation_checkpointing_has_the_same_gradients() -> None:
    found = []
    for again in (False, True):
        model = three_layers()
        model.recompute_layers = again
        guided = build_objective(model, label_smoothing=EPSILON, guided_alignment=GuidedAlignment(layer=1)).train()
        terms = terms_of(guided, aligned_batch())
        torch.stack([term.sum * term.weight for term in terms.values()]).sum().backward()
        found.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_batch_without_an_alignment_is_an_error() -> None:
    guided = build_objective(three_layers(), label_smoothing=EPSILON, guided_alignment=GuidedAlignment()).train()
    with pytest.raises(ValueError, match="alignment of their pairs"):
        terms_of(guided, batch_of([3, 2]))


def test_links_count_the_tokens_of_the_data_if_the_decoder_takes_the_first_one() -> None:
    """The same weights without such a decoder: sources without their first token, which is before the targets."""
    plain = three_layers()
    model = build_transformer(
        replace(plain.config, target_from_source=True), src_vocab_size=V, tgt_vocab_size=V
    ).double()
    model.load_state_dict(plain.state_dict())
    batch, place = aligned_batch(), torch.tensor([[0, 0, 0, 1], [0, 1, 1, 1], [1, 1, 2, 1]])
    links = BatchLinks(place, torch.tensor([1.0, 0.5, 0.5, 1.0]), 3.0)
    batch = replace(batch, extras=replace(batch.extras, alignment=links))
    settings, (prev_BT, tgt_BT) = GuidedAlignment(), batch.targets
    first_B1 = batch.src_tokens_BS[:, :1]
    shifted = replace(
        batch,
        src_tokens_BS=batch.src_tokens_BS[:, 1:],
        prev_tokens_BT=torch.cat([prev_BT[:, :1], first_B1, prev_BT[:, 1:]], dim=1),
        tgt_tokens_BT=torch.cat([first_B1, tgt_BT], dim=1),
        extras=replace(batch.extras, alignment=replace(links, place_3L=place + torch.tensor([[0], [1], [-1]]))),
    )
    found, expected = (
        terms_of(build_objective(each, label_smoothing=EPSILON, guided_alignment=settings).train(), of_batch)
        for each, of_batch in ((model, batch), (plain, shifted))
    )
    torch.testing.assert_close(found["alignment"].sum, expected["alignment"].sum, rtol=1e-10, atol=0)
