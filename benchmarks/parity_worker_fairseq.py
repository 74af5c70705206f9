"""Part of parity.py that loads exported checkpoints in the real fairseq and compares them. Runs under Python 3.8.

    .fairseq-env/bin/python benchmarks/parity_worker_fairseq.py EXPORTED GOLDEN CASE...

EXPORTED/<case>/ has model.pt, which kdmt imported from GOLDEN/<case>.pt and exported again, and its dictionaries. The
script prints a line of JSON for each case: the largest differences of the encoder output and the log-probabilities from
GOLDEN/<case>.npz, and of the values that the criterion logs, per token, from GOLDEN/<case>.json.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from fairseq import checkpoint_utils
from fairseq.criterions.cross_entropy import CrossEntropyCriterion
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from fairseq.criterions.nat_loss import LabelSmoothedDualImitationCriterion

PAD = 1
SMOOTHING = 0.1


def main():
    exported, golden, cases = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    for case in cases:
        folder = exported / case
        with np.load(str(golden / f"{case}.npz")) as file:
            arrays = {name: torch.from_numpy(file[name]) for name in file.files if file[name].dtype.kind != "U"}
        described = json.loads((golden / f"{case}.json").read_text())
        overrides = {
            "data": str(folder),
            "train_step": 3,
            "dae_ratio": 0.0,
        }  # for training of inat, as in the golden files
        (model,), _, task = checkpoint_utils.load_model_ensemble_and_task([str(folder / "model.pt")], overrides)
        with torch.no_grad():
            states, log_probs = run(model.eval(), arrays)
            found = losses(described, task, model, arrays)
        print(json.dumps({"case": case, "states": apart(states, arrays["states"]),
                          "log_probs": apart(log_probs, arrays["log_probs"]),
                          "losses": max(abs(found[name] - value) for name, value in described["losses"].items())
                          / described["losses"]["sample_size"]}))  # fmt: skip


def run(model, arrays):
    """Return the encoder output and the log-probabilities at the real tokens."""
    src_tokens, prev_tokens, tgt_tokens = (arrays[f"{name}_tokens"] for name in ("src", "prev", "tgt"))
    encoder_out = model.encoder(src_tokens, src_lengths=src_tokens.ne(PAD).sum(1))
    states = encoder_out["encoder_out"][0].transpose(0, 1)[src_tokens.ne(PAD)]
    inputs = {"normalize": True, "encoder_out": encoder_out}
    kind = type(model).__name__
    if kind == "InsertionTransformerModel":
        log_probs = model.decoder.forward_word_ins(prev_output_tokens=prev_tokens, **inputs)
        return states, log_probs[prev_tokens[:, 1:].ne(PAD)]
    if kind == "LevenshteinTransformerModel":
        log_probs = model.decoder.forward_word_ins(prev_output_tokens=tgt_tokens, **inputs)[0]
    elif "length_log_probs" in arrays:
        log_probs = model.decoder(prev_output_tokens=prev_tokens, step=0, **inputs)
    else:
        log_probs = model.get_normalized_probs(model.decoder(prev_tokens, encoder_out=encoder_out), log_probs=True)
    return states, log_probs[tgt_tokens.ne(PAD)]


def losses(described, task, model, arrays):
    """Return the values that the criterion of the golden file logs for a batch."""
    command = described["command"]
    src_tokens, prev_tokens, tgt_tokens = (arrays[f"{name}_tokens"] for name in ("src", "prev", "tgt"))
    inputs = {"src_tokens": src_tokens, "src_lengths": src_tokens.ne(PAD).sum(1), "prev_output_tokens": prev_tokens}
    sample = {"net_input": inputs, "target": tgt_tokens, "prev_target": prev_tokens}
    sample.update(nsentences=len(src_tokens), ntokens=int(tgt_tokens.ne(PAD).sum()))
    if "nat_loss" in command:
        criterion = LabelSmoothedDualImitationCriterion(task, label_smoothing=SMOOTHING)
    elif "label_smoothed" in command:
        epsilon = SMOOTHING
        if described["fairseq"].startswith("0.10"):  # which smooths over all tokens, including the correct one
            epsilon *= 1 - 1 / len(task.target_dictionary)
        criterion = LabelSmoothedCrossEntropyCriterion(task, sentence_avg=False, label_smoothing=epsilon)
    else:
        criterion = CrossEntropyCriterion(task, sentence_avg=False)
    loss, size, log = criterion(model, sample)
    return {**{name: float(value) for name, value in log.items()}, "loss": float(loss), "sample_size": float(size)}


def apart(found, expected):
    return float((found - expected).abs().max())


if __name__ == "__main__":
    main()
