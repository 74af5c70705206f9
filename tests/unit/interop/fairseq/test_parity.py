"""Tests of imported checkpoints against results of fairseq (tests/golden/make_fairseq_parity.py).

All values are float32 and compared with a tolerance of 1e-4. With KDMT_PARITY=FOLDER, the files in FOLDER are those of
trained models (`make parity`).
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from copy_task import nat_objective, terms_of
from torch import Tensor

from kdmt.config import Decode
from kdmt.corpus.batching import Batch
from kdmt.corpus.codec import TextCodec
from kdmt.decode.engines.fairseq_refinement import RefinementEngine
from kdmt.decode.engines.nat import NATEngine
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.interop.fairseq.checkpoints import TextSettings, import_checkpoints
from kdmt.losses.crf import candidate_transitions, crf_best, crf_log_partition, crf_score
from kdmt.losses.cross_entropy import label_smoothed_cross_entropy
from kdmt.losses.edit_scripts import common_subsequence, missing_between, opened, spread
from kdmt.losses.insertion import missing_spans
from kdmt.models.checkpoint import load_model
from kdmt.models.nonautoregressive import NATransformer
from kdmt.models.transformer import EncoderOutput, Transformer
from kdmt.objectives.build import build_objective
from kdmt.objectives.objective import Prepared
from kdmt.types import BOS, EOS, PAD, UNK

TRAINED = "KDMT_PARITY" in os.environ
GOLDEN = Path(os.environ.get("KDMT_PARITY", Path(__file__).parents[3] / "golden" / "fairseq"))
AUTOREGRESSIVE = {
    "post_norm_shared": "joined",
    "post_norm_shared_zipless": "joined",
    "post_norm_shared_omegaconf": "joined",
    "pre_norm_learned": "separate",
    "embeddings": "separate",
    "old_post_norm_shared": "joined",
    "old_pre_norm": "separate",
} | ({"transformer": "joined"} if TRAINED else {})
POSITIONAL = ("nat", "nat_without_copy", "cmlm", "inat", "nacrf")
LEVENSHTEIN = ("levenshtein", "levenshtein_early")
SMOOTHING = 0.1
TOLERANCE = 1e-4


@cache
def golden(case: str) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Return fairseq's inputs and outputs, and its losses."""
    if TRAINED and not (GOLDEN / f"{case}.npz").exists():
        pytest.skip("not among the trained models")
    name = case.removesuffix("_zipless").removesuffix("_omegaconf")
    with np.load(GOLDEN / f"{name}.npz") as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file.files if file[key].dtype.kind != "U"}
    return arrays, json.loads((GOLDEN / f"{name}.json").read_text())["losses"]


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory):
    """Return a function from a case to the folder of its imported checkpoint."""
    made: dict[str, Path] = {}

    def import_once(case: str) -> Path:
        if case not in made:
            folder = tmp_path_factory.mktemp(case) / "model"
            data = "languages" if case == "multilingual" else AUTOREGRESSIVE.get(case, "joined")
            settings = TextSettings(data=GOLDEN / data, source_lang="en", target_lang="de")
            (made[case],) = import_checkpoints(str(GOLDEN / f"{case}.pt"), folder, settings)
        return made[case]

    return import_once


def nat_model(folder: Path) -> NATransformer:
    model = load_model(folder)
    assert isinstance(model, NATransformer)
    return model


def assert_equal(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


def without_bos(tokens_BT: Tensor) -> Tensor:
    """Remove the <s> at the beginning, which sentences in kdmt do not have."""
    assert tokens_BT[:, 0].eq(BOS).all()
    return tokens_BT[:, 1:]


def encode(model: Transformer, arrays: dict[str, Tensor]) -> EncoderOutput:
    return model.encode(without_bos(arrays["src_tokens"]))


# ----------------------------------------------------------------------------------------------- autoregressive models


@pytest.mark.parametrize("case", AUTOREGRESSIVE)
@torch.no_grad()
def test_encoder_output_and_log_probs(imported, case: str) -> None:
    arrays, _ = golden(case)
    model = load_model(imported(case))
    encoded = model.encode(arrays["src_tokens"])
    assert_equal(encoded.states_BSD[arrays["src_tokens"].ne(PAD)], arrays["states"])
    log_probs_BTV = model(arrays["src_tokens"], arrays["prev_tokens"]).log_softmax(-1)
    assert_equal(log_probs_BTV[arrays["tgt_tokens"].ne(PAD)], arrays["log_probs"])


@pytest.mark.parametrize("case", AUTOREGRESSIVE)
@torch.no_grad()
def test_loss_of_a_batch(imported, case: str) -> None:
    arrays, losses = golden(case)
    log_probs_BTV = load_model(imported(case))(arrays["src_tokens"], arrays["prev_tokens"]).log_softmax(-1)
    real_BT = arrays["tgt_tokens"].ne(PAD)
    epsilon = SMOOTHING if "nll_loss" in losses else 0.0  # `cross_entropy` logs only one loss
    if case.startswith("old_"):  # fairseq 0.10 smooths over all tokens, including the correct one
        epsilon *= 1 - 1 / log_probs_BTV.size(-1)
    loss, nll = label_smoothed_cross_entropy(log_probs_BTV[real_BT], arrays["tgt_tokens"][real_BT], epsilon=epsilon)
    assert float(loss) / len(real_BT) == pytest.approx(losses["loss"] / len(real_BT), abs=TOLERANCE)
    assert float(nll) == pytest.approx(losses.get("nll_loss", losses["loss"]), abs=10 * TOLERANCE)


@pytest.mark.parametrize("case", [case for case in AUTOREGRESSIVE if not case.startswith("old_")])
@torch.no_grad()
def test_loss_of_the_training_objective(imported, case: str) -> None:
    """fairseq's `label_smoothed_cross_entropy` equals the loss of the objective in training."""
    arrays, losses = golden(case)
    epsilon = SMOOTHING if "nll_loss" in losses else 0.0
    objective = build_objective(load_model(imported(case)), label_smoothing=epsilon)
    terms = terms_of(objective, batch_of(arrays["src_tokens"], arrays["prev_tokens"], arrays["tgt_tokens"]))
    assert terms["loss"].count == losses["sample_size"]
    assert float(terms["loss"].sum) / terms["loss"].count == pytest.approx(
        losses["loss"] / losses["sample_size"], abs=TOLERANCE
    )


def batch_of(src_tokens: Tensor, prev_tokens: Tensor, tgt_tokens: Tensor) -> Batch:
    return Batch(
        index_B=torch.arange(len(src_tokens)),
        src_tokens_BS=src_tokens,
        prev_tokens_BT=prev_tokens,
        tgt_tokens_BT=tgt_tokens,
        num_tgt_tokens=int(tgt_tokens.ne(PAD).sum()),
        num_src_tokens=int(src_tokens.ne(PAD).sum()),
    )


@pytest.mark.parametrize("case", AUTOREGRESSIVE)
def test_nbest_lists(imported, case: str) -> None:
    arrays, _ = golden(case)
    engine = TorchEngine(load_model(imported(case)))
    limit = 40 if case == "transformer" else 8
    found = engine.decode(sentences(arrays["src_tokens"]), Decode(beam=4, nbest=4, max_len_a=0.0, max_len_b=limit))
    assert_same_lists(found, arrays)


def sentences(tokens_BT: Tensor) -> list[np.ndarray]:
    return [np.array([token for token in row if token != PAD]) for row in tokens_BT.tolist()]


def assert_same_lists(found, arrays: dict[str, Tensor]) -> None:
    for every, tokens_KT, scores_K in zip(found, arrays["hypotheses"], arrays["scores"], strict=True):
        theirs = [tuple(token for token in row if token > EOS or token == BOS) for row in tokens_KT.tolist()]
        assert [each.tokens for each in every] == theirs
        assert [each.score for each in every] == pytest.approx(scores_K.tolist(), abs=1e-3)


# ------------------------------------------------------------------------------ models with the positions of the target


@pytest.mark.parametrize("case", POSITIONAL)
@torch.no_grad()
def test_positions_states_lengths_and_log_probs(imported, case: str) -> None:
    arrays, _ = golden(case)
    model = nat_model(imported(case))
    encoded = encode(model, arrays)
    assert_equal(encoded.states_BSD[arrays["src_tokens"].ne(PAD)], arrays["states"])
    assert_equal(model.lengths(encoded), arrays["length_log_probs"])
    for seen, name in (("prev_tokens", "log_probs"), ("tgt_tokens", "later_log_probs")):
        found_BTV = framed_log_probs(model, encoded, arrays, seen)
        assert_equal(found_BTV[arrays["tgt_tokens"].ne(PAD)], arrays[name])
        inner = model.fill(without_bos(arrays["src_tokens"]), without_bos(arrays[seen]), encoded)
        assert_equal(model.output_proj(inner).log_softmax(-1), found_BTV[:, 1:])


def framed_log_probs(model: NATransformer, encoded: EncoderOutput, arrays: dict[str, Tensor], seen: str) -> Tensor:
    features = model.fill_framed(without_bos(arrays["src_tokens"]), without_bos(arrays[seen]), encoded)
    return model.output_proj(features).log_softmax(-1)


def nat_loss(log_probs_MV: Tensor, targets_M: Tensor, epsilon: float) -> float:
    """Return fairseq's `nat_loss` of a term: a mean, smoothed over all tokens (kdmt excludes the correct token)."""
    vocab = log_probs_MV.size(1)
    smoothed = label_smoothed_cross_entropy(log_probs_MV, targets_M, epsilon=epsilon * (vocab - 1) / vocab)
    return float(smoothed[0]) / len(targets_M)


@pytest.mark.parametrize("case", ["nat", "nat_without_copy", "cmlm", "inat", "nacrf"])
@torch.no_grad()
def test_loss_of_a_batch_of_positions(imported, case: str) -> None:
    arrays, losses = golden(case)
    model = nat_model(imported(case))
    encoded, tgt_tokens = encode(model, arrays), arrays["tgt_tokens"]
    loss_mask_BT = arrays["prev_tokens"].eq(UNK) if case == "cmlm" else tgt_tokens.ne(PAD)
    words = nat_loss(
        framed_log_probs(model, encoded, arrays, "prev_tokens")[loss_mask_BT], tgt_tokens[loss_mask_BT], SMOOTHING
    )
    if case == "inat":  # three passes, each of which reads the output of the previous one, also for <s> and </s>
        passes, seen = [words], arrays["prev_tokens"]
        for step in range(2):
            log_probs = read_all(model, encoded, arrays, seen, first=step == 0)
            seen = torch.where(tgt_tokens.ne(PAD), log_probs.argmax(-1), seen)
            passes.append(
                nat_loss(
                    read_all(model, encoded, arrays, seen, first=False)[loss_mask_BT], tgt_tokens[loss_mask_BT], 0.1
                )
            )
        words = sum(passes) / len(passes)
    lengths_B = without_bos(tgt_tokens).ne(PAD).sum(1)
    length = float(model.lengths.nll(encoded, lengths_B).mean())
    assert length == pytest.approx(losses["length-loss"], abs=TOLERANCE)
    assert words == pytest.approx(losses["word_ins-loss"], abs=TOLERANCE)
    if case == "nacrf":
        chain = chain_loss(model, encoded, arrays)
        assert chain == pytest.approx(losses["word_crf-loss"], abs=TOLERANCE)
        assert 0.5 * words + chain + 0.1 * length == pytest.approx(losses["loss"], abs=TOLERANCE)
    else:
        assert words + 0.1 * length == pytest.approx(losses["loss"], abs=TOLERANCE)


@torch.no_grad()
def test_loss_of_the_training_objective_of_masked_models(imported) -> None:
    """The masked words are given; fairseq's smoothing includes the correct token, kdmt's excludes it."""
    arrays, losses = golden("cmlm")
    model = nat_model(imported("cmlm"))
    vocab = len(model.output_proj.weight)
    smoothing = SMOOTHING * (vocab - 1) / vocab
    objective = nat_objective(model, label_smoothing=smoothing).train()
    model.eval()  # without dropout, as in the golden files
    target, seen = without_bos(arrays["tgt_tokens"]), without_bos(arrays["prev_tokens"])
    loss_mask_BT = seen.eq(UNK)
    batch = batch_of(without_bos(arrays["src_tokens"]), target, target)
    count = int(loss_mask_BT.sum())
    terms = objective(
        Prepared(batch=batch, num_loss_tokens=count, count=count, loss_mask_BT=loss_mask_BT, seen_BT=seen)
    )
    found = {name: float(term.sum) / term.count for name, term in terms.items()}
    assert found["loss"] == pytest.approx(losses["word_ins-loss"], abs=TOLERANCE)
    assert found["length"] == pytest.approx(losses["length-loss"], abs=TOLERANCE)
    total = sum(term.weight * float(term.sum) / term.count for term in terms.values())
    assert total == pytest.approx(losses["loss"], abs=TOLERANCE)


def read_all(
    model: NATransformer, encoded: EncoderOutput, arrays: dict[str, Tensor], seen: Tensor, *, first: bool
) -> Tensor:
    """Return log-probabilities where the decoder reads a whole line, whatever its first and last tokens are."""
    if first:
        return framed_log_probs(model, encoded, arrays, "prev_tokens")
    features = model.decode_all(model.tgt_embed.look_up(seen), seen.ne(PAD), encoded)
    return model.output_proj(features).log_softmax(-1)


def chain_loss(model: NATransformer, encoded: EncoderOutput, arrays: dict[str, Tensor]) -> float:
    """Return fairseq's CRF loss: the target and the most probable other tokens are candidates."""
    log_probs_BTV, tgt_tokens = framed_log_probs(model, encoded, arrays, "prev_tokens"), arrays["tgt_tokens"]
    ids_BTK = log_probs_BTV.scatter(2, tgt_tokens[:, :, None], torch.inf).topk(model.nat.crf_candidates).indices
    log_probs_BTK, lengths_B = log_probs_BTV.gather(2, ids_BTK), tgt_tokens.ne(PAD).sum(1)
    moves_BTKK = candidate_transitions(*model.transitions(ids_BTK))
    targets_BT = ids_BTK.eq(tgt_tokens[:, :, None]).long().argmax(2)
    score_B = crf_score(log_probs_BTK, moves_BTKK, targets_BT, lengths_B)
    return float(((crf_log_partition(log_probs_BTK, moves_BTKK, lengths_B) - score_B) / lengths_B).mean())


@torch.no_grad()
def test_best_chain(imported) -> None:
    arrays, _ = golden("nacrf")
    model = nat_model(imported("nacrf"))
    log_probs_BTV = framed_log_probs(model, encode(model, arrays), arrays, "prev_tokens")
    best = log_probs_BTV.topk(model.nat.crf_candidates)
    moves_BTKK = candidate_transitions(*model.transitions(best.indices))
    real_BT = arrays["tgt_tokens"].ne(PAD)
    choices_BT, _ = crf_best(best.values, moves_BTKK, real_BT.sum(1))
    assert torch.equal(best.indices.gather(2, choices_BT[:, :, None])[:, :, 0][real_BT], arrays["chain"])


@pytest.mark.parametrize("case", ["cmlm", *LEVENSHTEIN, "insertion"])
def test_translations(imported, case: str) -> None:
    arrays, _ = golden(case)
    engine = NATEngine(nat_model(imported(case)), iterations=4 if case == "cmlm" else 2)  # fairseq's maximum plus one
    found = engine.decode(sentences(without_bos(arrays["src_tokens"])), Decode(max_len_a=2.0, max_len_b=50))
    theirs = [[token for token in row[0] if token not in (BOS, PAD, EOS)] for row in arrays["hypotheses"].tolist()]
    assert [[token for token in each[0].tokens if token not in (BOS, PAD, EOS)] for each in found] == theirs


@pytest.mark.parametrize("case", [*POSITIONAL, *LEVENSHTEIN, "insertion"])
def test_translations_and_scores_of_iterative_refinement(imported, case: str) -> None:
    arrays, _ = golden(case)
    max_iter = 3 if case in POSITIONAL else 1
    engine = RefinementEngine(nat_model(imported(case)), max_iter=max_iter, adaptive=case != "cmlm")
    found = engine.decode(sentences(without_bos(arrays["src_tokens"])), Decode())
    theirs = [[token for token in row[0] if token > EOS] for row in arrays["hypotheses"].tolist()]
    assert [[token for token in each.tokens if token > EOS] for (each,) in found] == theirs
    assert [each.score for (each,) in found] == pytest.approx(arrays["scores"][:, 0].tolist(), abs=TOLERANCE)
    assert [sum(each.log_probs) / len(each.log_probs) for (each,) in found] == [each.score for (each,) in found]


# ------------------------------------------------------------------------------------------- models that edit drafts


@pytest.mark.parametrize("case", LEVENSHTEIN)
@torch.no_grad()
def test_levenshtein_policies(imported, case: str) -> None:
    arrays, _ = golden(case)
    model = nat_model(imported(case))
    encoded = encode(model, arrays)
    assert_equal(encoded.states_BSD[arrays["src_tokens"].ne(PAD)], arrays["states"])
    drafts, tgt_tokens = arrays["prev_tokens"], arrays["tgt_tokens"]
    missing = model.edits.missing(model.read_draft(drafts, encoded, policy="placeholders")).log_softmax(-1)
    assert_equal(missing[drafts[:, 1:].ne(PAD)], arrays["placeholders"])
    words = model.output_proj(model.read_draft(tgt_tokens, encoded)).log_softmax(-1)
    assert_equal(words[tgt_tokens.ne(PAD)], arrays["log_probs"])
    deleted = model.edits.deleted(model.read_draft(tgt_tokens, encoded, policy="deletion")).log_softmax(-1)
    assert_equal(deleted[tgt_tokens.ne(PAD)], arrays["deleted"])


def gaps(drafts_BN: Tensor, tgt_tokens_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Return the index of the reference token for each draft token (-1: none), and the number missing after it."""
    lengths_B = drafts_BN.ne(PAD).sum(1)
    partner_BN = common_subsequence(
        drafts_BN, tgt_tokens_BT, hyp_lengths_B=lengths_B, ref_lengths_B=tgt_tokens_BT.ne(PAD).sum(1)
    )
    return partner_BN, missing_between(partner_BN, hyp_lengths_B=lengths_B)


@pytest.mark.parametrize("case", LEVENSHTEIN)
@torch.no_grad()
def test_loss_of_a_batch_of_edits(imported, case: str) -> None:
    """fairseq's loss has means over slots, placeholders and tokens of a batch.

    The edits are those of kdmt, except deletions, where fairseq may choose others of the same number.
    """
    arrays, losses = golden(case)
    model = nat_model(imported(case))
    encoded, drafts, tgt_tokens = encode(model, arrays), arrays["prev_tokens"], arrays["tgt_tokens"]
    _, counts_BN = gaps(drafts, tgt_tokens)
    slots = drafts[:, 1:].ne(PAD)
    assert torch.equal(counts_BN[slots], arrays["placeholder_labels"])
    missing = model.edits.missing(model.read_draft(drafts, encoded, policy="placeholders")).log_softmax(-1)
    placeholders = nat_loss(missing[slots], counts_BN[slots], 0.01)

    lengths_B = drafts.ne(PAD).sum(1)
    open_BT = spread(drafts, counts_BN, lengths_B=lengths_B, fill=UNK, pad=PAD)
    loss_mask_BT = opened(counts_BN, lengths_B=lengths_B)
    log_probs_BTV = model.output_proj(model.read_draft(open_BT, encoded)).log_softmax(-1)
    words = nat_loss(log_probs_BTV[loss_mask_BT], tgt_tokens[loss_mask_BT], SMOOTHING)

    filled_BT = torch.where(loss_mask_BT, log_probs_BTV.argmax(-1), tgt_tokens)
    real_BT = filled_BT.ne(PAD)
    partner_BT, _ = gaps(filled_BT, tgt_tokens)
    deleted = model.edits.deleted(model.read_draft(filled_BT, encoded, policy="deletion")).log_softmax(-1)
    labels_M = arrays["deletion_labels"].long()
    assert int(labels_M.sum()) == int(partner_BT.eq(-1)[real_BT].sum())
    deletion = nat_loss(deleted[real_BT], labels_M, 0.0)
    found = {"mask_ins-loss": placeholders, "word_ins-loss": words, "word_del-loss": deletion}
    assert found == pytest.approx({name: losses[name] for name in found}, abs=TOLERANCE)
    assert sum(found.values()) == pytest.approx(losses["loss"], abs=TOLERANCE)


@torch.no_grad()
def test_insertion(imported) -> None:
    arrays, losses = golden("insertion")
    model = nat_model(imported("insertion"))
    encoded, drafts = encode(model, arrays), arrays["prev_tokens"]
    assert_equal(encoded.states_BSD[arrays["src_tokens"].ne(PAD)], arrays["states"])
    slots = drafts[:, 1:].ne(PAD)
    log_probs_MV = model.output_proj(model.slots(model.read_draft(drafts, encoded))).log_softmax(-1)[slots]
    assert_equal(log_probs_MV, arrays["log_probs"])

    partner_BN, counts_BN = gaps(drafts, arrays["tgt_tokens"])
    spans = missing_spans(
        arrays["tgt_tokens"],
        partner_BN,
        counts_BN,
        nothing=model.nothing,
        temperature=torch.inf,
        width=max(int(counts_BN.max()), 1),
    )
    tokens_MK, weights_MK = (each[slots] for each in spans)
    entropy_M = -(weights_MK * weights_MK.clamp_min(1e-9).log()).sum(1)
    divergence = float((-(log_probs_MV.gather(1, tokens_MK) * weights_MK).sum(1) - entropy_M).mean())
    smoothed = divergence * (1 - SMOOTHING) - float(log_probs_MV.mean()) * SMOOTHING
    assert losses["loss"] == losses["word_ins-loss"]
    # fairseq's divergence is a mean over slots, and its smoothing a mean over slots and tokens
    assert smoothed == pytest.approx(losses["loss"], abs=TOLERANCE)


# ------------------------------------------------------------------------------------------------------- languages


@torch.no_grad()
def test_outputs_with_language_tokens_equal_fairseq(imported) -> None:
    arrays, _ = golden("multilingual")
    folder = imported("multilingual")
    with np.load(GOLDEN / "multilingual.npz") as file:
        symbols = file["symbols"].tolist()
    codec = TextCodec.load(folder)
    assert codec.src_dictionary.symbols == codec.tgt_dictionary.symbols == symbols
    model = load_model(folder)
    src_tokens, prev_tokens = arrays["src_tokens"][:, 1:], arrays["prev_tokens"]
    assert_equal(model.encode(src_tokens).states_BSD[arrays["src_tokens"].ne(PAD)], arrays["states"])
    prev_tokens = torch.cat([prev_tokens[:, :1], prev_tokens[:, 2:]], dim=1)
    log_probs = model(src_tokens, prev_tokens).log_softmax(-1)
    real, expected = arrays["tgt_tokens"].ne(PAD), torch.full((*arrays["tgt_tokens"].shape, len(symbols)), torch.nan)
    expected[real] = arrays["log_probs"]
    assert_equal(log_probs[real[:, 1:]], expected[:, 1:][real[:, 1:]])


@torch.no_grad()
def test_multilingual_decoding_steps_equal_full_pass(imported) -> None:
    """Decoding starts with the language token."""
    arrays, _ = golden("multilingual")
    model = load_model(imported("multilingual"))
    src_tokens = arrays["src_tokens"][:, 1:]
    prev_tokens = torch.cat([arrays["prev_tokens"][:, :1], arrays["prev_tokens"][:, 2:]], dim=1)
    cache = model.start_cache(model.encode(src_tokens), beam=1, max_len=prev_tokens.size(1))
    steps = [model.decode_step(prev_tokens[:, position], cache) for position in range(prev_tokens.size(1))]
    real = arrays["tgt_tokens"][:, 1:].ne(PAD)
    assert_equal(torch.stack(steps, dim=1)[real], model(src_tokens, prev_tokens)[real])
