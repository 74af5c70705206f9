"""Criterion `word_kd`: label-smoothed cross entropy mixed with the divergence from a teacher's cached distributions.

The loss at each target token of the training set is

    (1 - alpha) * cross entropy + alpha * T^2 * KL(teacher || student)

Validation reports only the cross entropy.
"""

import math
from dataclasses import dataclass, field

import torch
from fairseq import metrics, utils
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from omegaconf import II

from kdmt_fairseq.cache import KnowledgeCache, check_data
from kdmt_fairseq.losses import group_divergence, smoothed_cross_entropy


@dataclass
class WordKDConfig(FairseqDataclass):
    knowledge: str = field(
        default="", metadata={"help": "folder of the knowledge cache of the training set (required)"}
    )
    kd_alpha: float = field(
        default=0.5, metadata={"help": "weight of the divergence, against cross entropy (default: 0.5)"}
    )
    kd_temperature: float = field(
        default=1.0, metadata={"help": "temperature, one of those in the knowledge cache (default: 1)"}
    )
    label_smoothing: float = field(default=0.0, metadata={"help": "label smoothing of the cross entropy (default: 0)"})
    sentence_avg: bool = II("optimization.sentence_avg")


@register_criterion("word_kd", dataclass=WordKDConfig)
class WordKDCriterion(FairseqCriterion):
    def __init__(self, task, knowledge, kd_alpha, kd_temperature, label_smoothing, sentence_avg):
        super().__init__(task)
        if not knowledge:
            raise ValueError("--criterion word_kd needs --knowledge, the folder that `kdmt knowledge` made")
        if not 0.0 <= kd_alpha <= 1.0:
            raise ValueError(f"--kd-alpha {kd_alpha}: not between 0 and 1")
        self.cache = KnowledgeCache(knowledge, kd_temperature)
        check_data(self.cache, utils.split_paths(task.cfg.data)[0], task.cfg.source_lang, task.cfg.target_lang)
        if len(task.target_dictionary) != self.cache.vocab_size:
            raise ValueError(f"{knowledge}: the knowledge cache is of {self.cache.vocab_size} target symbols")
        self.alpha, self.temperature = kd_alpha, kd_temperature
        self.epsilon, self.sentence_avg = label_smoothing, sentence_avg
        self._checked = False

    def forward(self, model, sample, reduce=True):
        """Return the loss, the number of tokens or sentences to divide it by, and the logged values; in nats."""
        net_output = model(**sample["net_input"])
        log_probs = model.get_normalized_probs(net_output, log_probs=True)
        target = model.get_targets(sample, net_output)
        real = target.ne(self.padding_idx)
        log_probs, targets = log_probs[real], target[real]  # flattened in the order of the sentences
        loss, nll = smoothed_cross_entropy(log_probs, targets, self.epsilon)
        divergence = torch.zeros_like(nll)
        if self.training and self.alpha:
            divergence, known = self._divergence(log_probs, sample["id"], real)
            share = self.alpha * known
            loss = (1.0 - share) * loss + share * divergence
        sample_size = target.size(0) if self.sentence_avg else sample["ntokens"]
        logged = {
            "loss": loss.data.sum(),
            "nll_loss": nll.data.sum(),
            "kd_loss": divergence.data.sum(),
            "ntokens": sample["ntokens"],
            "nsentences": target.size(0),
            "sample_size": sample_size,
        }
        return loss.sum() if reduce else loss, sample_size, logged

    def _divergence(self, log_probs, indices, real):
        """Return the divergence of each token and a mask that is 1 where the cache has a distribution, else 0.

        The divergence is 0 where the mask is 0.
        """
        self._check_sizes(indices, real)
        ids, teacher, known = (
            torch.from_numpy(each).to(log_probs.device) for each in self.cache.read(indices.tolist())
        )
        known = known.to(log_probs.dtype)
        return group_divergence(log_probs, ids, teacher, self.temperature) * known, known

    def _check_sizes(self, indices, real):
        if not self._checked:
            sizes = self.task.dataset(self.task.cfg.train_subset).tgt_sizes
            if len(sizes) != len(self.cache.sizes) or (sizes != self.cache.sizes).any():
                raise ValueError(
                    f"{self.cache.folder}: the knowledge cache is of {len(self.cache.sizes)} sentences, "
                    f"{len(sizes)} of the same or other lengths are trained on: it goes with its own training set "
                    "alone, without --upsample-primary or language tokens"
                )
            self._checked = True
        expected = self.cache.sizes[indices.cpu().numpy()]
        if (real.sum(1).cpu().numpy() != expected).any():
            raise ValueError("targets were cut or changed after they were read: the knowledge cache has none of these")

    @staticmethod
    def reduce_metrics(logging_outputs):
        """Log the sums over all workers, in bits per token as fairseq's own criterions."""
        total = {
            name: sum(log.get(name, 0) for log in logging_outputs)
            for name in ("loss", "nll_loss", "kd_loss", "ntokens", "sample_size")
        }
        bits = math.log(2)
        metrics.log_scalar("loss", total["loss"] / total["sample_size"] / bits, total["sample_size"], round=3)
        metrics.log_scalar("nll_loss", total["nll_loss"] / total["ntokens"] / bits, total["ntokens"], round=3)
        metrics.log_scalar("kd_loss", total["kd_loss"] / total["ntokens"] / bits, total["ntokens"], round=3)
        metrics.log_derived("ppl", lambda meters: utils.get_perplexity(meters["nll_loss"].avg))

    @staticmethod
    def logging_outputs_can_be_summed():
        return True
