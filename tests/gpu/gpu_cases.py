"""Objectives, models and sentence pairs for the tests on a GPU and for the counters of `bench_gpu_counters.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from kdmt.config import NAT, Denoising, Student, Train
from kdmt.corpus.batching import Batch, Extras, Knowledge, ParallelData, collate, open_parallel
from kdmt.corpus.indexed import IndexedWriter
from kdmt.corpus.infilling import Infilling
from kdmt.models.architecture import architecture
from kdmt.models.build import build_nonautoregressive, build_transformer
from kdmt.models.nonautoregressive import NATransformer
from kdmt.models.transformer import Transformer
from kdmt.objectives.build import build_objective
from kdmt.objectives.model_checks import learns_from_running
from kdmt.objectives.objective import Objective
from kdmt.stages.training_work import nat_config
from kdmt.train.data import BinarizedData, DenoisingText
from kdmt.train.loop import Trainer
from kdmt.train.run_log import Progress
from kdmt.train.validation import validation_loss
from kdmt.types import EOS

SomeModel = TypeVar("SomeModel", bound=Transformer)

VOCAB = 120
SHAPE: Mapping[str, Any] = {"share_all_embeddings": True, "dropout": 0.0}
# For decoding: a model with shared embeddings repeats its input, and few positions bound the lengths it predicts.
UNSHARED: Mapping[str, Any] = {"share_all_embeddings": False, "max_source_positions": 64, "max_target_positions": 32}
PRE_NORM: Mapping[str, Any] = {
    "encoder_normalize_before": True,
    "decoder_normalize_before": True,
    "encoder_learned_pos": True,
    "layernorm_embedding": True,
    "activation_fn": "gelu",
}
CACHED_TOKENS = 8  # of the teacher, for each target token

_GLANCING = {"glancing": [[0, 0.5]]}
_SAME_DROPOUT = {"glancing_same_dropout": True}
_ENCODERS = {"encoder": "uniform", "decoder": "none"}
_ENCODER_MAPS = {"encoder_self": "uniform", "decoder_self": "none", "cross": "none"}

# Settings of students, as in a pipeline file; None for cross entropy, with which teachers are trained.
OBJECTIVES: Mapping[str, Mapping[str, Any] | None] = {
    "teacher": None,
    "word_kd": {"word_kd": {}},
    "word_kd_ensemble": {"word_kd": {"teachers": ["first", "second"]}},
    "word_kd_js": {"word_kd": {"divergence": "js", "temperature": 2.0}},
    "word_kd_reverse_kl": {"word_kd": {"divergence": "reverse_kl"}},
    "word_kd_skewed_kl": {"word_kd": {"divergence": "skewed_kl", "skew": 0.2}},
    "word_kd_skewed_reverse_kl": {"word_kd": {"divergence": "skewed_reverse_kl", "temperature": 2.0}},
    "word_kd_squared_error": {"word_kd": {"divergence": "squared_error"}},
    "word_kd_batch": {"word_kd": {"select": "batch", "divergence": "tvd"}},
    "word_kd_global": {"word_kd": {"select": "global", "queue": 500}},
    "word_kd_limits": {"word_kd": {"top1_ranking": 4, "min_confidence": 0.01, "max_entropy": 9.0}},
    "word_kd_marginal": {"word_kd": {"mutual_information": 0.1, "marginal_momentum": 0.9}},
    "word_kd_cache": {"word_kd": {"source": "cache"}},
    "word_kd_cache_limits": {
        "word_kd": {"source": "cache", "mutual_information": 0.1, "select": "batch", "max_entropy": 9.0}
    },
    "hidden_kd": {"hidden_kd": {}},
    "hidden_attention_kd": {"word_kd": {}, "hidden_kd": {"distance": "cosine"}, "attention_kd": {}},
    "self_supervised": {"self_supervised": {}},
    "denoising": {"self_supervised": {"denoising": {}}},
    "on_policy": {"word_kd": {}, "on_policy": {"rate": 1.0, "top_k": 5, "top_p": 0.9, "max_len_b": 5}},
    "ema": {"word_kd": {}, "online": {"kind": "ema", "decay": 0.9}},
    "joint": {
        "word_kd": {},
        "online": {
            "kind": "joint",
            "model": {"arch": "transformer_tiny", "share_all_embeddings": True, "dropout": 0.0},
        },
    },
    "mutual": {"word_kd": {}, "online": {"kind": "mutual", "peers": 2}},
    "convex": {"convex": {"power": 0.1}},
    "nat": {"nat": {"family": "nat"}},
    "nat_glancing": {"nat": {"family": "nat", **_GLANCING}},
    "nat_glancing_levenshtein": {"nat": {"family": "nat", "distance": "levenshtein", **_GLANCING}},
    "nat_glancing_as_published": {
        "nat": {"family": "nat", "glancing_divisor": "predicted", **_GLANCING, **_SAME_DROPOUT}
    },
    "nat_soft_copy_deep": {"nat": {"family": "nat", "source_copy": "soft", "deep_supervision": 1.0}},
    "nat_word_kd": {"nat": {"family": "nat"}, "word_kd": {}},
    "nat_hidden_kd": {"nat": {"family": "nat"}, "hidden_kd": {}},
    "cmlm": {"nat": {"family": "cmlm"}},
    "cmlm_correction": {"nat": {"family": "cmlm", "correction": 0.3}},
    "cmlm_fairseq": {"nat": {"family": "cmlm", "layout": "fairseq"}},
    "cmlm_word_kd_cache": {"nat": {"family": "cmlm"}, "word_kd": {"source": "cache"}},
    "inat": {"nat": {"family": "inat"}},
    "nat_crf": {"nat": {"family": "nat_crf", "crf_candidates": 8}},
    "ctc": {"nat": {"family": "ctc"}},
    "ctc_glancing": {"nat": {"family": "ctc", **_GLANCING}},
    "ctc_glancing_levenshtein": {
        "nat": {"family": "ctc", "distance": "levenshtein", "too_long": "upsample", "upsample": 2, **_GLANCING}
    },
    "ctc_glancing_as_published": {
        "nat": {
            "family": "ctc",
            "glancing_draw": "bernoulli",
            "glancing_reveal": "word",
            "loss_average": "sentence",
            **_GLANCING,
            **_SAME_DROPOUT,
        }
    },
    "ctc_deep": {"nat": {"family": "ctc", "deep_supervision": 1.0}},
    "ctc_dslp": {"nat": {"family": "ctc", "dslp": True, "dslp_mixing": 0.3, "deep_supervision": 1.0, **_GLANCING}},
    "nat_dslp": {"nat": {"family": "nat", "dslp": True, "dslp_mixing": 0.3, "deep_supervision": 1.0}},
    "ctc_encoder_kd": {"nat": {"family": "ctc"}, "hidden_kd": _ENCODERS, "attention_kd": _ENCODER_MAPS},
    "ctc_nmla": {"nat": {"family": "ctc", "loss": "nmla"}},
    "ctc_convex": {"nat": {"family": "ctc"}, "convex": {"power": 0.1}},
    "dag": {"nat": {"family": "dag"}},
    "dag_fuzzy_alignment": {"nat": {"family": "dag", "loss": "fuzzy_alignment"}},
    "dag_glancing": {"nat": {"family": "dag", **_GLANCING}},
    "dag_glancing_as_published": {
        "nat": {
            "family": "dag",
            "glancing_keep_path": True,
            "glancing_rounding": "round",
            "loss_average": "sentence",
            **_GLANCING,
            **_SAME_DROPOUT,
        }
    },
    "dag_glancing_deep": {"nat": {"family": "dag", "deep_supervision": 1.0, **_GLANCING}},
    "dag_upsample": {"nat": {"family": "dag", "too_long": "upsample", "upsample": 1}},
    "levenshtein": {"nat": {"family": "levenshtein"}},
    "levenshtein_fairseq": {"nat": {"family": "levenshtein", "layout": "fairseq"}},
    "levenshtein_deep": {"nat": {"family": "levenshtein", "deep_supervision": 1.0}},
    "insertion": {"nat": {"family": "insertion"}},
    "insertion_fairseq": {"nat": {"family": "insertion", "layout": "fairseq", "insertion_temperature": 0.5}},
}

# Objectives whose micro-batches have weights, as those of the training set `nbest`.
WEIGHTED = ("teacher", "word_kd", "nat", "convex")


def write_pairs(folder: Path, count: int, *, median_length: int, seed: int = 1) -> ParallelData:
    """Write a data-bin of random pairs whose two sides have similar lengths."""
    rng = np.random.default_rng(seed)
    lengths = np.exp(rng.normal(np.log(median_length), 0.4, count)).clip(2, 60).astype(int)
    others = (lengths * np.exp(rng.normal(0, 0.1, count))).clip(2, 60).astype(int)
    for name, sizes in (("a", lengths), ("b", others)):
        with IndexedWriter(folder / name, VOCAB) as writer:
            for size in sizes:
                writer.add(np.append(rng.integers(4, VOCAB, size), EOS))
    return open_parallel([(folder / "a", folder / "b")])


def student_settings(name: str) -> Student | None:
    """Return the settings of one of `OBJECTIVES`."""
    settings = OBJECTIVES[name]
    if settings is None:
        return None
    model = {"arch": "transformer_tiny", **SHAPE}
    return Student.model_validate({"model": model, **settings})


def make_model(seed: int = 1, **shape: Any) -> Transformer:
    """Return a random autoregressive model."""
    torch.manual_seed(seed)
    config = architecture("transformer_tiny", {**SHAPE, **shape})
    return build_transformer(config, src_vocab_size=VOCAB, tgt_vocab_size=VOCAB)


def make_nat_model(nat: NAT, **shape: Any) -> NATransformer:
    """Return a random non-autoregressive model."""
    torch.manual_seed(1)
    config = architecture("transformer_tiny", {**SHAPE, **shape})
    return build_nonautoregressive(config, nat_config(nat), src_vocab_size=VOCAB, tgt_vocab_size=VOCAB)


def make_decisive(model: SomeModel) -> SomeModel:
    """Return a random model with larger weights, in float64 for decoding, so that its output depends on its input."""
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(3.0)
            elif name.endswith("bias"):
                parameter.normal_(std=0.05)
    model.double().eval()
    return model


def make_objective(name: str, **shape: Any) -> Objective:
    """Return one of `OBJECTIVES` on the CPU, with random models of this shape."""
    student = student_settings(name)
    model = make_model(**shape) if student is None or student.nat is None else make_nat_model(student.nat, **shape)
    if student is None:
        return build_objective(model, label_smoothing=0.1)
    kd = student.word_kd
    return build_objective(
        model,
        student,
        label_smoothing=0.1,
        teachers=[make_model(2 + number, **shape).eval() for number in range(_num_teachers(student))],
        marginal_V=torch.full((VOCAB,), 1 / VOCAB) if kd is not None and kd.source == "cache" else None,
    )


def _num_teachers(student: Student) -> int:
    if not learns_from_running(student):
        return 0
    return max(1, len(student.word_kd.teachers) if student.word_kd is not None else 0)


class RandomKnowledge:
    """A knowledge cache of random distributions, which depend on the pairs of a batch alone."""

    def __init__(self, pairs: ParallelData) -> None:
        assert pairs.tgt_sizes is not None
        self.tgt_sizes = pairs.tgt_sizes

    def load(self, indices: Sequence[int] | np.ndarray) -> Knowledge:
        tokens = int(sum(self.tgt_sizes[index] for index in indices))
        generator = torch.Generator().manual_seed(int(np.asarray(indices)[0]))
        ids_MK = torch.rand(tokens, VOCAB, generator=generator).argsort(1)[:, :CACHED_TOKENS]
        log_probs_MG = torch.randn(tokens, CACHED_TOKENS + 1, generator=generator).log_softmax(1)
        return Knowledge(ids_MK, log_probs_MG)


def make_batch(name: str, pairs: ParallelData, count: int = 24) -> Batch:
    """Return the batch of the first pairs, with what the objective reads in addition to them."""
    batch = collate(range(count), pairs)
    if name in WEIGHTED:
        assert pairs.tgt_sizes is not None
        weight_B = torch.linspace(0.5, 1.5, count)
        tokens = float(weight_B.double().numpy() @ pairs.tgt_sizes[:count])
        return replace(batch, extras=Extras(weight_B=weight_B, weighted_tokens=tokens))
    if "cache" in name:
        return replace(batch, extras=Extras(knowledge=RandomKnowledge(pairs).load(range(count))))
    if name == "denoising":
        text = denoising_text(pairs, Train(max_tokens=400)).text
        return replace(batch, extras=Extras(denoising=text.load(np.arange(count), epoch=1)))
    return batch


def denoising_text(pairs: ParallelData, settings: Train) -> DenoisingText:
    """Return the targets of pairs as text with noise."""
    noise = Infilling(Denoising(), 1, [None], [()], np.zeros(len(pairs), dtype=np.int16))
    text = ParallelData(tuple((target, target) for _, target in pairs.parts if target is not None))
    return DenoisingText(BinarizedData(text, settings, seed=1, sampling=noise))


def make_trainer(
    run: Path,
    name: str,
    pairs: ParallelData,
    device: torch.device,
    *,
    kind: type[Trainer] = Trainer,
    shape: Mapping[str, Any] | None = None,
    validate: Callable[[Objective], dict[str, float]] | None = None,
    **settings: Any,
) -> Trainer:
    """Return a trainer of one of `OBJECTIVES`.

    Args:
        kind: class of the trainer.
        shape: fields of the architecture.
        validate: validation; None for the loss over two batches.
        settings: changes to the `train` section.
    """
    defaults = {"validate_bleu": False, "best_metric": "loss", "warmup_updates": 2, "clip_norm": 1.0, "max_tokens": 400}
    train = Train(**{**defaults, **settings})
    knowledge = RandomKnowledge(pairs) if "cache" in name else None
    text = denoising_text(pairs, train) if name == "denoising" else None
    data = BinarizedData(pairs, train, seed=1, knowledge=knowledge, denoising=text)  # type: ignore[arg-type]
    batches = data.batches()[:2]
    return kind(
        objective=make_objective(name, **(shape or {})),
        data=data,
        settings=train,
        seed=1,
        run=run,
        companions=[],
        validate=validate or (lambda objective: validation_loss(objective, data, batches, device=device)),
        progress=Progress(run / "metrics.jsonl", name=name),
        device=device,
    )
