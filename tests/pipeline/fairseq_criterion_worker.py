"""Compute a criterion's loss and gradients with the real fairseq 0.12.2 (Python 3.8), for test_fairseq.py.

    .fairseq-env/bin/python tests/pipeline/fairseq_criterion_worker.py JOB.json OUT.npz

The job has fairseq-train's arguments, the path of an .npz with the model's state, and the sentences of the batch.
"""

import json
import sys

import numpy as np
import torch
from fairseq import options, tasks, utils
from fairseq.dataclass.utils import convert_namespace_to_omegaconf


def main():
    with open(sys.argv[1]) as file:  # noqa: PTH123
        job = json.load(file)
    parser = options.get_training_parser()
    cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, job["arguments"]))
    utils.import_user_module(cfg.common)
    task = tasks.setup_task(cfg.task)
    task.load_dataset("train", combine=True)
    model, criterion = task.build_model(cfg.model), task.build_criterion(cfg.criterion)
    state = np.load(job["state"])
    model.load_state_dict({name: torch.from_numpy(state[name]) for name in state.files})
    dataset = task.dataset("train")
    sample = dataset.collater([dataset[index] for index in job["batch"]])
    model.train()
    criterion.train()
    loss, sample_size, logged = criterion(model, sample)
    loss.backward()
    gradients = {
        "gradient/" + name: each.grad.numpy() for name, each in model.named_parameters() if each.grad is not None
    }
    figures = {name: float(value) for name, value in logged.items()}
    np.savez(sys.argv[2], sample_size=float(sample_size), figures=json.dumps(figures), **gradients)


if __name__ == "__main__":
    main()
