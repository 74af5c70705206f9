"""Criterion `seq_kd`: trains on each source with its own target and with the teacher's translation.

    weight * ((1 - alpha) * cross entropy of the target + alpha * cross entropy of the translation)

The loss is summed over tokens and divided by the number of tokens, weighted in the same way. The translations are a
data-bin that `kdmt distill` made from the same training set. The weights are one float32 per sentence pair, as in
kdmt's `weights.npy`.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from fairseq import metrics, utils
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.data import data_utils
from fairseq.dataclass import FairseqDataclass
from omegaconf import II

from kdmt_fairseq.losses import smoothed_cross_entropy


@dataclass
class SeqKDConfig(FairseqDataclass):
    distilled: str = field(
        default="", metadata={"help": "data-bin with the teacher's translation of each sentence (default: none)"}
    )
    kd_alpha: float = field(
        default=0.5, metadata={"help": "weight of the teacher's translations, against the references (default: 0.5)"}
    )
    kd_weights: str = field(
        default="", metadata={"help": ".npy file with a weight for each sentence pair (default: none)"}
    )
    label_smoothing: float = field(default=0.0, metadata={"help": "label smoothing of the cross entropy (default: 0)"})
    sentence_avg: bool = II("optimization.sentence_avg")


@register_criterion("seq_kd", dataclass=SeqKDConfig)
class SeqKDCriterion(FairseqCriterion):
    def __init__(self, task, distilled, kd_alpha, kd_weights, label_smoothing, sentence_avg):
        super().__init__(task)
        if not (distilled or kd_weights):
            raise ValueError("--criterion seq_kd needs --distilled, a data-bin of translations, or --kd-weights")
        if not 0.0 <= kd_alpha <= 1.0:
            raise ValueError(f"--kd-alpha {kd_alpha}: not between 0 and 1")
        if sentence_avg:
            raise ValueError("--criterion seq_kd counts tokens: leave out --sentence-avg")
        self.alpha, self.epsilon = kd_alpha if distilled else 0.0, label_smoothing
        self.distilled, self.weights_file = distilled, kd_weights
        self._translations = self._weights = None
        self._opened = False

    def forward(self, model, sample, reduce=True):
        """Return the loss, the weighted number of tokens to divide it by, and the logged values; in nats."""
        net_input, targets = sample["net_input"], sample["target"]
        if not self.training:
            return self._sum(model, net_input, targets, torch.ones(len(targets)), sample, reduce)
        self._open()
        rows = sample["id"].cpu().numpy()
        weights = torch.ones(len(rows)) if self._weights is None else torch.from_numpy(self._weights[rows])
        if self.alpha == 0.0:
            return self._sum(model, net_input, targets, weights, sample, reduce)
        net_input, targets = self._with_translations(net_input, targets, rows)
        weights = torch.cat([(1.0 - self.alpha) * weights, self.alpha * weights])
        return self._sum(model, net_input, targets, weights, sample, reduce)

    def _sum(self, model, net_input, targets, weights, sample, reduce):
        net_output = model(**net_input)
        log_probs = model.get_normalized_probs(net_output, log_probs=True)
        real = targets.ne(self.padding_idx)
        loss, nll = smoothed_cross_entropy(log_probs[real], targets[real], self.epsilon)
        weights = weights.to(log_probs.device, loss.dtype)[:, None].expand_as(targets)[real]
        sample_size = float(weights.sum())
        logged = {
            "loss": (loss * weights).data.sum(),
            "nll_loss": (nll * weights).data.sum(),
            "ntokens": sample["ntokens"],
            "nsentences": sample["target"].size(0),
            "sample_size": sample_size,
        }
        loss = loss * weights
        return loss.sum() if reduce else loss, sample_size, logged

    def _with_translations(self, net_input, targets, rows):
        """Return the batch with each source twice: first with its own target, then with the translation.

        Both halves go through the model in one forward pass, as data-parallel training requires.
        """
        translations = [self._translations[int(row)] for row in rows]
        eos = self.task.target_dictionary.eos()
        length = max(targets.size(1), *(len(each) for each in translations))

        def collate(sentences, shifted):
            return data_utils.collate_tokens(
                sentences, self.padding_idx, eos, move_eos_to_beginning=shifted, pad_to_length=length
            ).to(targets.device)

        own = [row[row.ne(self.padding_idx)] for row in targets.cpu()]
        both = {name: torch.cat([tensor, tensor]) for name, tensor in net_input.items() if torch.is_tensor(tensor)}
        both["prev_output_tokens"] = collate(own + translations, True)
        return both, collate(own + translations, False)

    def _open(self):
        """Load weights and translations at the first batch, when the training set is known."""
        if self._opened:
            return
        dataset = self.task.dataset(self.task.cfg.train_subset)
        if self.weights_file:
            self._weights = np.load(self.weights_file).astype(np.float32)
            if self._weights.shape != (len(dataset),):
                raise ValueError(f"{self.weights_file}: {self._weights.shape} weights of {len(dataset)} pairs")
        if self.distilled:
            self._translations = self._open_translations(dataset)
        self._opened = True

    def _open_translations(self, dataset):
        src, tgt = self.task.cfg.source_lang, self.task.cfg.target_lang
        prefix = Path(self.distilled) / f"train.{src}-{tgt}."
        sides = [data_utils.load_indexed_dataset(f"{prefix}{lang}", dataset_impl="mmap") for lang in (src, tgt)]
        if None in sides:
            raise ValueError(f"{self.distilled}: no data-bin with train.{src}-{tgt} of both languages")
        for lang in (src, tgt):
            ours, theirs = (
                Path(folder) / f"dict.{lang}.txt"
                for folder in (utils.split_paths(self.task.cfg.data)[0], self.distilled)
            )
            if ours.read_bytes() != theirs.read_bytes():
                raise ValueError(f"{theirs}: not the dictionary that is trained with, {ours}")
        if len(sides[0]) != len(dataset):
            raise ValueError(
                f"{self.distilled}: {len(sides[0])} sentences, {len(dataset)} are trained on: are sentences dropped, "
                "or is it a choice of several for each?"
            )
        for index in range(len(dataset)):
            if not torch.equal(sides[0][index], dataset.src[index]):
                raise ValueError(f"{self.distilled}: the source of sentence {index} (from 0) is another")
        return sides[1]

    @staticmethod
    def reduce_metrics(logging_outputs):
        """Log the sums over all workers, in bits per token as fairseq's own criterions."""
        total = {name: sum(log.get(name, 0) for log in logging_outputs) for name in ("loss", "nll_loss", "sample_size")}
        for name in ("loss", "nll_loss"):
            value = total[name] / total["sample_size"] / math.log(2)
            metrics.log_scalar(name, value, total["sample_size"], round=3)
        metrics.log_derived("ppl", lambda meters: utils.get_perplexity(meters["nll_loss"].avg))

    @staticmethod
    def logging_outputs_can_be_summed():
        return True
