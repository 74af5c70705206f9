"""Make the golden files in tests/golden/model with a real fairseq 0.12.2.

    .fairseq-env/bin/python tests/golden/make_model.py

It runs under Python 3.8; tests/unit/interop/test_fairseq.py compares kdmt with these files and needs no fairseq.

    <case>.npz           weights (float32, every tensor random), inputs padded on the right and on the left, and
                         fairseq's float64 results for them at the real tokens, sentence after sentence
    cases.json           each case's architecture
    architectures.json   fields and parameter counts of fairseq's named architectures
    schedule.json        learning rates of Adam under inverse_sqrt, update by update
"""
# ruff: noqa: B905 - Python 3.8's zip has no `strict`

import json
import re
import shutil
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss
from fairseq.data import Dictionary
from fairseq.models import ARCH_CONFIG_REGISTRY
from fairseq.models.transformer import TransformerModel
from fairseq.optim.adam import FairseqAdam
from fairseq.optim.lr_scheduler.inverse_square_root_schedule import InverseSquareRootSchedule

OUT = Path(__file__).resolve().parent / "model"
PAD, EOS = 1, 2
SRC_LENGTHS, TGT_LENGTHS = (9, 4, 1, 6), (3, 8, 1, 5)  # tokens with </s>
SMOOTHING = (0.0, 0.1, 0.3)

# Copies that fairseq's encoder layers make of their own weights when a state dict is loaded; before, they are zeros.
# They are never trained, but count as parameters.
FAST_PATH_COPY = re.compile(r"encoder\.layers\.\d+\.(in_proj|out_proj|fc1|fc2)_(weight|bias)")

SMALL = {
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_embed_dim": 16,
    "decoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 20,
    "decoder_ffn_embed_dim": 12,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 4,
    "max_source_positions": 20,
    "max_target_positions": 18,
}
CASES = {
    "post_norm_shared": {"config": {**SMALL, "share_all_embeddings": True}, "src_vocab": 40, "tgt_vocab": 40},
    "pre_norm_learned": {
        "config": {
            **SMALL,
            "encoder_embed_dim": 20,
            "decoder_layers": 1,
            "encoder_normalize_before": True,
            "decoder_normalize_before": True,
            "encoder_learned_pos": True,
            "decoder_learned_pos": True,
        },
        "src_vocab": 36,
        "tgt_vocab": 44,
    },
    "layernorm_embedding_gelu": {
        "config": {
            **SMALL,
            "encoder_layers": 3,
            "decoder_layers": 1,
            "share_decoder_input_output_embed": True,
            "layernorm_embedding": True,
            "activation_fn": "gelu",
        },
        "src_vocab": 36,
        "tgt_vocab": 44,
    },
}
# name in kdmt -> name in fairseq
ARCHITECTURES = {
    "transformer": "transformer",
    "transformer_tiny": "transformer_tiny",
    "transformer_iwslt_de_en": "transformer_iwslt_de_en",
    "transformer_big": "transformer_vaswani_wmt_en_de_big",
}
ARCHITECTURE_FIELDS = [
    *(f"{side}_{field}" for side in ("encoder", "decoder") for field in (
        "layers", "embed_dim", "ffn_embed_dim", "attention_heads", "normalize_before", "learned_pos"
    )),
    "share_decoder_input_output_embed", "share_all_embeddings", "layernorm_embedding", "activation_fn",
    "dropout", "attention_dropout", "activation_dropout",
]  # fmt: skip
ARCHITECTURE_VOCAB = 50
SCHEDULES = [
    {"lr": 5e-4, "warmup_updates": 4000, "warmup_init_lr": 1e-7},
    {"lr": 5e-3, "warmup_updates": 10, "warmup_init_lr": 0.0},
    {"lr": 1e-3, "warmup_updates": 1, "warmup_init_lr": 1e-7},
]


def build(fields, src_vocab, tgt_vocab):
    """Build a fairseq model with these fields; both sides have one dictionary if all embeddings are shared."""
    src_dictionary = make_dictionary(src_vocab)
    tgt_dictionary = src_dictionary if fields.get("share_all_embeddings") else make_dictionary(tgt_vocab)
    task = SimpleNamespace(source_dictionary=src_dictionary, target_dictionary=tgt_dictionary)
    return TransformerModel.build_model(Namespace(**fields), task)


def make_dictionary(size):
    dictionary = Dictionary()
    for number in range(size - len(dictionary)):
        dictionary.add_symbol(f"w{number}")
    return dictionary


def randomise(model, generator):
    """Draw every tensor at random: biases of 0 and gains of 1 would not show that a tensor is in the wrong position."""
    for name, parameter in own_parameters(model):
        noise = torch.randn(parameter.shape, generator=generator)
        gain = "norm" in name and name.endswith("weight")
        scale = 0.3 if parameter.dim() == 1 else parameter.size(-1) ** -0.5
        parameter.data.copy_(noise * scale + (1.0 if gain else 0.0))
    for buffer in model.buffers():
        buffer.data.fill_(1)  # fairseq leaves some of them uninitialised; they hold no weights


def own_parameters(model):
    return [(name, tensor) for name, tensor in model.named_parameters() if not FAST_PATH_COPY.match(name)]


def make_tokens(lengths, vocab, generator):
    """Return random sentences ending in </s>, padded on the right: [B, longest]."""
    tokens = torch.full((len(lengths), max(lengths)), PAD, dtype=torch.long)
    for row, length in zip(tokens, lengths):
        row[: length - 1] = torch.randint(3, vocab, (length - 1,), generator=generator)
        row[length - 1] = EOS
    return tokens


def shift(tgt_tokens):
    """Return the decoder's input: each sentence moved to the right by one, </s> in front."""
    prev_tokens = torch.full_like(tgt_tokens, PAD)
    for prev, tgt in zip(prev_tokens, tgt_tokens):
        length = int(tgt.ne(PAD).sum())
        prev[0] = EOS
        prev[1:length] = tgt[: length - 1]
    return prev_tokens


def pad_on_the_left(tokens):
    lengths = tokens.ne(PAD).sum(dim=1).tolist()
    return torch.stack([row.roll(len(row) - length) for row, length in zip(tokens, lengths)])


def run(model, src_tokens, prev_tokens):
    """Return encoder states [B, S, D] and log-probabilities [B, T, V], both float64.

    fairseq's own log-softmax rounds to float32; here it is computed from its logits in float64.
    """
    src_lengths = src_tokens.ne(PAD).sum(dim=1)
    encoder_out = model.encoder(src_tokens, src_lengths=src_lengths)
    logits, _ = model.decoder(prev_tokens, encoder_out=encoder_out)
    return encoder_out["encoder_out"][0].transpose(0, 1), torch.log_softmax(logits, dim=-1)


def make_case(case, seed):
    generator = torch.Generator().manual_seed(seed)
    model = build(case["config"], case["src_vocab"], case["tgt_vocab"])
    randomise(model, generator)
    weights = {"weights/" + name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    model.double().eval()
    src_tokens = make_tokens(SRC_LENGTHS, case["src_vocab"], generator)
    tgt_tokens = make_tokens(TGT_LENGTHS, case["tgt_vocab"], generator)
    prev_tokens = shift(tgt_tokens)
    left_src_tokens = pad_on_the_left(src_tokens)
    with torch.no_grad():
        states, log_probs = run(model, src_tokens, prev_tokens)
        left_states, left_log_probs = run(model, left_src_tokens, prev_tokens)
        losses = [
            label_smoothed_nll_loss(log_probs.view(-1, log_probs.size(-1)), tgt_tokens.view(-1), epsilon, PAD)
            for epsilon in SMOOTHING
        ]
    arrays = {
        "src_tokens": src_tokens,
        "prev_tokens": prev_tokens,
        "tgt_tokens": tgt_tokens,
        "states": states[src_tokens.ne(PAD)],
        "log_probs": log_probs[tgt_tokens.ne(PAD)],
        "left_src_tokens": left_src_tokens,
        "left_states": left_states[left_src_tokens.ne(PAD)],
        "left_log_probs": left_log_probs[tgt_tokens.ne(PAD)],
        "smoothing": torch.tensor(SMOOTHING, dtype=torch.float64),
        "loss_and_nll": torch.tensor(losses, dtype=torch.float64),
    }
    return {**weights, **{name: tensor.numpy() for name, tensor in arrays.items()}}


def describe_architecture(name):
    fields = Namespace()
    ARCH_CONFIG_REGISTRY[name](fields)
    model = build(vars(fields), ARCHITECTURE_VOCAB, ARCHITECTURE_VOCAB)
    return {
        "fields": {field: getattr(fields, field) for field in ARCHITECTURE_FIELDS},
        "parameters": sum(parameter.numel() for _, parameter in own_parameters(model)),
    }


def make_schedule(settings):
    """Return the learning rate of fairseq's Adam at update 0, 1, ..., in the trainer's order of calls."""
    cfg = Namespace(**settings)
    cfg.lr = [settings["lr"]]
    adam = Namespace(lr=cfg.lr, adam_betas="(0.9, 0.98)", adam_eps=1e-8, weight_decay=0.0, use_old_adam=False,
                     fp16_adam_stats=False, tpu=False)  # fmt: skip
    optimizer = FairseqAdam(adam, [torch.nn.Parameter(torch.zeros(1))])
    schedule = InverseSquareRootSchedule(cfg, optimizer)
    updates = [*range(25), 3998, 3999, 4000, 4001, 12345]
    learning_rates = []
    for update in updates:
        schedule.step_update(update)
        learning_rates.append(optimizer.get_lr())
    return {"settings": settings, "updates": updates, "learning_rates": learning_rates}


def write_json(name, value):
    (OUT / name).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def main():
    torch.set_num_threads(1)  # so that sums are always in the same order
    shutil.rmtree(str(OUT), ignore_errors=True)
    OUT.mkdir(parents=True)
    for seed, (name, case) in enumerate(CASES.items()):
        np.savez_compressed(str(OUT / f"{name}.npz"), **make_case(case, seed))
    write_json("cases.json", CASES)
    architectures = {ours: describe_architecture(theirs) for ours, theirs in ARCHITECTURES.items()}
    write_json("architectures.json", {"vocab": ARCHITECTURE_VOCAB, "architectures": architectures})
    write_json("schedule.json", [make_schedule(settings) for settings in SCHEDULES])


if __name__ == "__main__":
    main()
