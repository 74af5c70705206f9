"""Make the golden files in tests/golden/fairseq with the real fairseq.

    .fairseq-env/bin/python tests/golden/make_fairseq_parity.py        fairseq 0.12.2: checkpoints with `cfg`
    .fairseq-old-env/bin/python tests/golden/make_fairseq_parity.py    fairseq 0.10.2: old ones with `args`
    ... make_fairseq_parity.py --trained MODELS --data DATA_BIN --out OUT
        the same files of trained models, MODELS/<case>.pt, for `make parity`; not to be committed

Both run under Python 3.8 (`make fairseq-env`, `make fairseq-old-env`); tests/unit/interop/fairseq compares kdmt with
these files and needs no fairseq.

    joined/, separate/, languages/   dictionaries
    <case>.pt       a model with random weights after one update, as fairseq's trainer saves it, with its meters
    <case>.npz      inputs, and fairseq's results for them in float32: encoder output, log-probabilities, losses,
                    translations. Padding is on the right; values at padding are left out
    <case>.json     the command line, and the losses by name
"""
# ruff: noqa: B905 - Python 3.8's zip has no `strict`

import argparse
import contextlib
import json
import re
from argparse import Namespace
from pathlib import Path

import fairseq
import numpy as np
import torch
from fairseq import checkpoint_utils, metrics, options, tasks
from fairseq.trainer import Trainer

OUT = Path(__file__).resolve().parent / "fairseq"
OLD = fairseq.__version__.startswith("0.10")
BOS, PAD, EOS, UNK = 0, 1, 2, 3
SIZES = {"joined": (40, 40), "separate": (36, 44)}
MULTILINGUAL_SIZE, LANGUAGES = 30, ("en", "de", "fr")
SRC_LENGTHS, TGT_LENGTHS = (7, 4, 2), (5, 6, 3)  # tokens with </s>

# Copies that fairseq's encoder layers make of their own weights when a state dict is loaded.
FAST_PATH_COPY = re.compile(r"encoder\.layers\.\d+\.(in_proj|out_proj|fc1|fc2)_(weight|bias)")

SHAPE = (
    "--encoder-layers 2 --decoder-layers 2 --encoder-embed-dim 8 --decoder-embed-dim 8 --encoder-ffn-embed-dim 12 "
    "--decoder-ffn-embed-dim 10 --encoder-attention-heads 2 --decoder-attention-heads 4 --max-source-positions 20 "
    "--max-target-positions 18 --dropout 0"
)
SMOOTHED = "--criterion label_smoothed_cross_entropy --label-smoothing 0.1"
NAT = f"--task translation_lev --criterion nat_loss --label-smoothing 0.1 --share-all-embeddings {SHAPE}"
AUTOREGRESSIVE = {  # case -> dictionaries, command line
    "post_norm_shared": ("joined", f"--arch transformer_iwslt_de_en --share-all-embeddings {SHAPE} {SMOOTHED}"),
    "pre_norm_learned": (
        "separate",
        f"--arch transformer_wmt_en_de_big_t2t --encoder-learned-pos --decoder-learned-pos {SHAPE} {SMOOTHED} "
        "--attention-dropout 0 --activation-dropout 0",
    ),
    "embeddings": (  # as in wmt19, with all options of embeddings
        "separate",
        "--arch transformer_wmt_en_de_big --share-decoder-input-output-embed --layernorm-embedding "
        f"--no-scale-embedding --activation-fn gelu {SHAPE} --attention-dropout 0 --criterion cross_entropy",
    ),
}
OLD_AUTOREGRESSIVE = {
    "old_post_norm_shared": AUTOREGRESSIVE["post_norm_shared"],
    "old_pre_norm": ("separate", f"--arch transformer_wmt_en_de_big_t2t {SHAPE} {SMOOTHED} --attention-dropout 0 "
                     "--activation-dropout 0"),
}  # fmt: skip
MULTILINGUAL = {
    "multilingual": "--arch transformer_wmt_en_de --task translation_multi_simple_epoch --lang-pairs en-de,en-fr "
    f"--langs en,de,fr --encoder-langtok src --decoder-langtok --share-all-embeddings {SHAPE} {SMOOTHED}",
}
POSITIONAL = {
    "nat": f"--arch nonautoregressive_transformer --noise full_mask --src-embedding-copy --pred-length-offset {NAT}",
    "nat_without_copy": f"--arch nonautoregressive_transformer --noise full_mask --encoder-learned-pos "
    f"--decoder-learned-pos {NAT}",
    "cmlm": f"--arch cmlm_transformer --noise random_mask --pred-length-offset --decoder-learned-pos "
    f"--encoder-learned-pos {NAT}",
    "inat": f"--arch iterative_nonautoregressive_transformer --noise full_mask --src-embedding-copy "
    f"--pred-length-offset --train-step 3 --dae-ratio 0 {NAT}",
    "nacrf": f"--arch nacrf_transformer --noise full_mask --src-embedding-copy --pred-length-offset "
    f"--crf-lowrank-approx 4 --crf-beam-approx 6 {NAT}",
}
EDITING = {
    "levenshtein": f"--arch levenshtein_transformer --noise random_delete --encoder-learned-pos "
    f"--decoder-learned-pos {NAT}",
    "levenshtein_early": f"--arch levenshtein_transformer --noise random_delete --early-exit 1,2,2 {NAT}",
    "insertion": f"--arch insertion_transformer --noise random_delete {NAT}",
}


# --------------------------------------------------------------------------------------------------- models and files


def write_dictionaries():
    for name, sizes in SIZES.items():
        for lang, size in zip(("en", "de"), sizes):
            write_dictionary(OUT / name, lang, size - 4)
    for lang in LANGUAGES:
        write_dictionary(OUT / "languages", lang, MULTILINGUAL_SIZE - 4)


def write_dictionary(folder, lang, words):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"w{number} {words - number}\n" for number in range(words)]
    (folder / f"dict.{lang}.txt").write_text("".join(lines), encoding="utf-8")


def set_up(line, dictionaries):
    """Return settings, task, model and criterion of a command line."""
    langs = [] if "multi_simple" in line else ["--source-lang", "en", "--target-lang", "de"]
    arguments = [str(OUT / dictionaries), *langs, "--cpu", "--optimizer", "adam", "--lr", "1e-7", "--clip-norm", "1"]
    arguments += ["--no-save-optimizer-state", "--disable-validation", *line.split()]
    args = options.parse_args_and_arch(options.get_training_parser(), input_args=arguments)
    args.data = "data-bin"  # nothing about the machine in the file
    cfg = args
    if not OLD:
        from fairseq.dataclass.utils import convert_namespace_to_omegaconf

        cfg = convert_namespace_to_omegaconf(args)
    parts = (args, args, args) if OLD else (cfg.task, cfg.model, cfg.criterion)
    parts[0].data = str(OUT / dictionaries)
    task = tasks.setup_task(parts[0])
    parts[0].data = "data-bin"
    return cfg, task, task.build_model(parts[1]), task.build_criterion(parts[2])


def randomise(model, generator):
    """Draw every tensor at random: biases of 0 and gains of 1 would not show that a tensor is in the wrong position."""
    for name, parameter in model.named_parameters():
        if FAST_PATH_COPY.match(name):
            continue
        noise = torch.randn(parameter.shape, generator=generator)
        gain = "norm" in name and name.endswith("weight")
        scale = 0.3 if parameter.dim() == 1 else parameter.size(-1) ** -0.5
        parameter.data.copy_(noise * scale + (1.0 if gain else 0.0))
        if name.endswith("embed_tokens.weight"):  # as in every trained model; then padding is never the best guess
            parameter.data[PAD].zero_()


def update_and_save(case, cfg, task, model, criterion, sample):
    """Make one update, which creates meters and hardly changes the model, then save it with fairseq's trainer."""
    trainer = Trainer(cfg, task, model, criterion)
    with metrics.aggregate("train"):
        trainer.train_step([sample])
    extra = {"train_iterator": {"epoch": 1, "iterations_in_epoch": 1, "shuffle": True}, "val_loss": 3.25}
    if OLD:  # as in the files of still earlier versions
        from fairseq.logging.meters import AverageMeter, StopwatchMeter, TimeMeter

        extra["train_meters"] = {"loss": AverageMeter(), "wps": TimeMeter(), "wall": StopwatchMeter()}
    trainer.save_checkpoint(str(OUT / f"{case}.pt"), extra)
    model.eval()
    criterion.eval()


def make_tokens(lengths, vocab, generator, bos=False):
    """Return random sentences ending in </s>, padded on the right: [B, longest]."""
    tokens = torch.full((len(lengths), max(lengths) + bos), PAD, dtype=torch.long)
    for row, length in zip(tokens, lengths):
        if bos:
            row[0] = BOS
        row[bos : bos + length - 1] = torch.randint(4, vocab, (length - 1,), generator=generator)
        row[bos + length - 1] = EOS
    return tokens


def lengths_of(tokens):
    return tokens.ne(PAD).sum(dim=1)


def save(case, line, arrays, losses, out=OUT):
    arrays = {name: np.asarray(value.detach() if torch.is_tensor(value) else value) for name, value in arrays.items()}
    np.savez_compressed(str(out / f"{case}.npz"), **arrays)
    described = {"fairseq": fairseq.__version__, "command": line, "losses": losses}
    (out / f"{case}.json").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    print(case, losses)


def loss_of(criterion, model, sample):
    """Return the criterion's loss and the losses that it logs."""
    with torch.no_grad():
        loss, size, log = criterion(model, sample)
    named = {name: float(value) for name, value in log.items() if name.endswith("loss")}
    return {**named, "loss": float(loss), "sample_size": float(size)}


# --------------------------------------------------------------------------------------------------------------- cases


def make_autoregressive(case, line, dictionaries, seed):
    generator = torch.Generator().manual_seed(seed)
    cfg, task, model, criterion = set_up(line, dictionaries)
    randomise(model, generator)
    src_tokens = make_tokens(SRC_LENGTHS, len(task.source_dictionary), generator)
    tgt_tokens = make_tokens(TGT_LENGTHS, len(task.target_dictionary), generator)
    sample = pair(src_tokens, tgt_tokens)
    update_and_save(case, cfg, task, model, criterion, sample)
    record_autoregressive(case, line, task, model, criterion, sample)


def record_autoregressive(case, line, task, model, criterion, sample, max_len=8, out=OUT):
    arrays = teacher_forced(model, sample)
    hypotheses = translate(task, model, sample, beam=4, nbest=4, max_len_a=0, max_len_b=max_len)
    losses = loss_of(criterion, model, sample)
    save(case, line, {**arrays, **hypotheses}, losses, out)


def pair(src_tokens, tgt_tokens, start=EOS):
    prev_tokens = torch.full_like(tgt_tokens, PAD)
    for prev, tgt, length in zip(prev_tokens, tgt_tokens, lengths_of(tgt_tokens).tolist()):
        prev[0] = start
        prev[1:length] = tgt[: length - 1]
    net_input = {"src_tokens": src_tokens, "src_lengths": lengths_of(src_tokens), "prev_output_tokens": prev_tokens}
    return {
        "id": torch.arange(len(src_tokens)),
        "net_input": net_input,
        "target": tgt_tokens,
        "nsentences": len(src_tokens),
        "ntokens": int(lengths_of(tgt_tokens).sum()),
    }


def teacher_forced(model, sample):
    src_tokens, prev_tokens = (sample["net_input"][name] for name in ("src_tokens", "prev_output_tokens"))
    with torch.no_grad():
        encoder_out = model.encoder(src_tokens, src_lengths=lengths_of(src_tokens))
        output = model.decoder(prev_tokens, encoder_out=encoder_out)
        log_probs = model.get_normalized_probs(output, log_probs=True)
    states = encoder_out.encoder_out if hasattr(encoder_out, "encoder_out") else encoder_out["encoder_out"][0]
    return {
        "src_tokens": src_tokens,
        "tgt_tokens": sample["target"],
        "prev_tokens": prev_tokens,
        "states": states.transpose(0, 1)[src_tokens.ne(PAD)],
        "log_probs": log_probs[sample["target"].ne(PAD)],
    }


def translate(task, model, sample, **settings):
    """Return tokens with </s> and scores of each sentence's hypotheses: [B, K, longest], padded, and [B, K]."""
    searcher = task.build_generator([model], Namespace(**{"lenpen": 1.0, "temperature": 1.0, **settings}))
    with torch.no_grad():
        found = task.inference_step(searcher, [model], sample)
    best = settings.get("nbest", 1)
    longest = max(len(each["tokens"]) for every in found for each in every[:best])
    tokens = torch.full((len(found), best, longest), PAD, dtype=torch.long)
    scores = torch.zeros(len(found), best)
    for row, every in enumerate(found):
        for place, each in enumerate(every[:best]):
            tokens[row, place, : len(each["tokens"])] = each["tokens"]
            scores[row, place] = float(each["score"])
    return {"hypotheses": tokens, "scores": scores}


def make_multilingual(case, line, seed):
    """Make the files for English into German, with the language tokens where fairseq's task puts them."""
    generator = torch.Generator().manual_seed(seed)
    cfg, task, model, criterion = set_up(line, "languages")
    randomise(model, generator)
    src_tokens = make_tokens(SRC_LENGTHS, MULTILINGUAL_SIZE, generator)
    tgt_tokens = make_tokens(TGT_LENGTHS, MULTILINGUAL_SIZE, generator)
    english, german = (task.source_dictionary.index(f"__{lang}__") for lang in ("en", "de"))
    with_source = torch.cat([torch.full((len(src_tokens), 1), english), src_tokens], dim=1)
    with_target = torch.cat([torch.full((len(tgt_tokens), 1), german), tgt_tokens], dim=1)
    sample = pair(with_source, with_target)
    update_and_save(case, cfg, task, model, criterion, sample)
    arrays = teacher_forced(model, sample)
    task.args.source_lang, task.args.target_lang = "en", "de"
    hypotheses = translate(task, model, sample, beam=4, nbest=4, max_len_a=0, max_len_b=8)
    arrays["symbols"] = np.array(task.source_dictionary.symbols)
    save(case, line, {**arrays, **hypotheses}, loss_of(criterion, model, sample))


def nat_sample(src_tokens, tgt_tokens, prev_tokens):
    sample = pair(src_tokens, tgt_tokens)
    sample["prev_target"] = prev_tokens
    return sample


def hide(tokens, generator, share):
    """Replace some words by <unk>, at least one in each sentence."""
    hidden = torch.rand(tokens.shape, generator=generator) < share
    hidden[:, 1] = True
    return tokens.masked_fill(hidden & tokens.gt(EOS), UNK)


def leave_out(tokens):
    """Leave out every second word."""
    rows = [[token for place, token in enumerate(row) if token in (BOS, EOS) or place % 2] for row in tokens.tolist()]
    return padded([[token for token in row if token != PAD] for row in rows])


def make_nat(case, line, seed, draft):
    """Return a non-autoregressive model and its sample; `draft` makes the decoder's input from a target."""
    generator = torch.Generator().manual_seed(seed)
    cfg, task, model, criterion = set_up(line, "joined")
    randomise(model, generator)
    src_tokens = make_tokens(SRC_LENGTHS, len(task.source_dictionary), generator, bos=True)
    tgt_tokens = make_tokens(TGT_LENGTHS, len(task.target_dictionary), generator, bos=True)
    if case.startswith("levenshtein"):  # translations that no limit truncates
        model.decoder.embed_mask_ins.weight.data[3:].mul_(0.1)
    if case in POSITIONAL:  # lengths within the number of positions
        near = slice(126, 134) if model.decoder.pred_length_offset else slice(5, 12)
        kept = model.decoder.embed_length.weight.data[near].clone()
        model.decoder.embed_length.weight.data.zero_()[near] = kept
    if case in EDITING:  # different words, because of equally short edits kdmt may choose others than fairseq
        tgt_tokens[tgt_tokens.gt(EOS)] = torch.arange(4, 4 + int(tgt_tokens.gt(EOS).sum()))
    sample = nat_sample(src_tokens, tgt_tokens, draft(tgt_tokens, generator))
    task.inject_noise = lambda _: sample["prev_target"]
    update_and_save(case, cfg, task, model, criterion, sample)
    return task, model, criterion, sample


def encode(model, sample):
    """Return fairseq's encoder output, and the arrays that all cases have."""
    src_tokens = sample["net_input"]["src_tokens"]
    with torch.no_grad():
        encoder_out = model.encoder(src_tokens, src_lengths=lengths_of(src_tokens))
    return encoder_out, {
        "src_tokens": src_tokens,
        "tgt_tokens": sample["target"],
        "prev_tokens": sample["prev_target"],
        "states": encoder_out["encoder_out"][0].transpose(0, 1)[src_tokens.ne(PAD)],
    }


def hide_for(case):
    share = 0.5 if case == "cmlm" else 1.0
    return lambda tokens, generator: hide(tokens, generator, share)


def make_positional(case, line, seed):
    record_positional(case, line, *make_nat(case, line, seed, hide_for(case)))


def record_positional(case, line, task, model, criterion, sample, out=OUT):
    encoder_out, arrays = encode(model, sample)
    prev_tokens, tgt_tokens, real = sample["prev_target"], sample["target"], sample["target"].ne(PAD)
    with torch.no_grad():
        arrays["length_log_probs"] = model.decoder.forward_length(normalize=True, encoder_out=encoder_out)
        first = model.decoder(normalize=True, encoder_out=encoder_out, prev_output_tokens=prev_tokens, step=0)
        later = model.decoder(normalize=True, encoder_out=encoder_out, prev_output_tokens=tgt_tokens, step=1)
        arrays["log_probs"], arrays["later_log_probs"] = first[real], later[real]
        if case == "nacrf":
            logits = model.decoder(normalize=False, encoder_out=encoder_out, prev_output_tokens=prev_tokens)
            arrays["chain"] = model.crf_layer.forward_decoder(logits, real)[1][real]
    losses = loss_of(criterion, model, sample)
    settings = {"iter_decode_max_iter": 3, "iter_decode_force_max_iter": case == "cmlm"}
    arrays.update(translate(task, model, sample, **settings))
    save(case, line, arrays, losses, out)


def make_editing(case, line, seed):
    record_editing(case, line, *make_nat(case, line, seed, lambda tokens, _: leave_out(tokens)))


def record_editing(case, line, task, model, criterion, sample, out=OUT):
    encoder_out, arrays = encode(model, sample)
    drafts, tgt_tokens = sample["prev_target"], sample["target"]
    common = {"normalize": True, "encoder_out": encoder_out}
    slots = drafts[:, 1:].ne(PAD)
    with torch.no_grad():
        if case == "insertion":
            said = model.decoder.forward_word_ins(prev_output_tokens=drafts, **common)
            arrays["log_probs"] = said[slots]
        else:
            arrays["placeholders"] = model.decoder.forward_mask_ins(prev_output_tokens=drafts, **common)[0][slots]
            words = model.decoder.forward_word_ins(prev_output_tokens=tgt_tokens, **common)[0]
            deleted = model.decoder.forward_word_del(prev_output_tokens=tgt_tokens, **common)[0]
            arrays["log_probs"], arrays["deleted"] = words[tgt_tokens.ne(PAD)], deleted[tgt_tokens.ne(PAD)]
            labels = model(sample["net_input"]["src_tokens"], None, drafts, tgt_tokens)
            arrays["placeholder_labels"] = labels["mask_ins"]["tgt"][slots]
            arrays["deletion_labels"] = labels["word_del"]["tgt"][tgt_tokens.ne(PAD)]
    losses = loss_of(criterion, model, sample)
    arrays.update(translate(task, model, sample, iter_decode_max_iter=1, iter_decode_force_max_iter=True))
    save(case, line, arrays, losses, out)


# ------------------------------------------------------------------------------------------------------ trained models


def record_trained(models, data, out):
    """Record the same for trained models: <case>.pt, with the command line in <case>.json in the same folder."""
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(models.glob("*.pt")):
        case, generator = path.stem, torch.Generator().manual_seed(1)
        overrides = {"data": str(data), "dae_ratio": 0.0}  # without what is drawn at random
        (model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task([str(path)], arg_overrides=overrides)
        criterion = task.build_criterion(cfg.criterion)
        model.eval()
        criterion.eval()
        line = json.loads((models / f"{case}.json").read_text(encoding="utf-8"))["command"]
        src_tokens, tgt_tokens = first_sentences(task, bos=case != "transformer")
        if case == "transformer":
            record_autoregressive(case, line, task, model, criterion, pair(src_tokens, tgt_tokens), 40, out)
            continue
        drafts = leave_out(tgt_tokens) if case in EDITING else hide_for(case)(tgt_tokens, generator)
        record = record_editing if case in EDITING else record_positional
        record(case, line, task, model, criterion, nat_sample(src_tokens, tgt_tokens, drafts), out)


def first_sentences(task, bos, count=8):
    """Return the first sentence pairs of the validation set with different target words as tokens (see `make_nat`)."""
    task.load_dataset("valid")
    pairs = (task.dataset("valid")[index] for index in range(len(task.dataset("valid"))))
    chosen = []
    for each in pairs:
        target = [token for token in each["target"].tolist() if token > EOS]
        if len(set(target)) == len(target):
            chosen.append(([token for token in each["source"].tolist() if token > EOS], target))
        if len(chosen) == count:
            break
    return [padded([[BOS] * bos + words + [EOS] for words in side]) for side in zip(*chosen)]


def padded(rows):
    width = max(map(len, rows))
    return torch.tensor([row + [PAD] * (width - len(row)) for row in rows])


def make_variants():
    """Save the same model in other formats of its file: PyTorch's before version 1.6, and with omegaconf's objects."""
    content = torch.load(str(OUT / "post_norm_shared.pt"))
    torch.save(content, str(OUT / "post_norm_shared_zipless.pt"), _use_new_zipfile_serialization=False)
    from omegaconf import OmegaConf

    model = vars(content["cfg"]["model"])
    kept = {
        name: value for name, value in model.items() if name.split("_")[0] in ("encoder", "decoder", "share", "max")
    }
    cfg = OmegaConf.create({"model": {**kept, "_name": model["arch"]}, "task": content["cfg"]["task"]})
    torch.save({**content, "cfg": cfg}, str(OUT / "post_norm_shared_omegaconf.pt"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help="of the models with random weights; all by default")
    parser.add_argument("--trained", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)  # so that sums are always in the same order
    if given.trained is not None:
        record_trained(given.trained, given.data, given.out)
        return
    write_dictionaries()
    wanted = set(given.cases)
    seed = 0
    for cases, make in (
        (
            OLD_AUTOREGRESSIVE if OLD else AUTOREGRESSIVE,
            lambda case, line, seed: make_autoregressive(case, line[1], line[0], seed),
        ),
        ({} if OLD else MULTILINGUAL, make_multilingual),
        ({} if OLD else POSITIONAL, make_positional),
        ({} if OLD else EDITING, make_editing),
    ):
        for case, line in cases.items():
            seed += 1
            if not wanted or case in wanted:
                with contextlib.suppress(KeyError):
                    metrics.reset()
                make(case, line, seed)
    if not OLD and not wanted:
        make_variants()


if __name__ == "__main__":
    main()
