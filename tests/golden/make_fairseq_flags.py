"""Write tests/golden/fairseq_flags.json with a real fairseq 0.12.2: the flags of each of its commands.

    .fairseq-env/bin/python tests/golden/make_fairseq_flags.py

The flags of fairseq-train and fairseq-generate include those of the task, architectures, criterion, optimiser and
schedule that translation uses. tests/unit/test_fairseq_page.py compares docs/reference/fairseq-flags.md with them.
"""

import argparse
import json
from pathlib import Path

from fairseq import options
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_REGISTRY
from fairseq_cli.score import get_parser as get_score_parser

TASKS = ("translation", "translation_lev")
ARCHITECTURES = ("transformer", "cmlm_transformer")
CHOICES = {
    "criterion": "label_smoothed_cross_entropy",
    "optimizer": "adam",
    "lr_scheduler": "inverse_sqrt",
    "scoring": "sacrebleu",
    "bpe": "sentencepiece",
    "tokenizer": "moses",
}


def flags_of(parser):
    return {flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")}


def of_classes(classes):
    found = set()
    for each in classes:
        parser = argparse.ArgumentParser(add_help=False, conflict_handler="resolve")
        if hasattr(each, "add_args"):
            each.add_args(parser)
        elif getattr(each, "__dataclass", None) is not None:
            options.gen_parser_from_dataclass(parser, getattr(each, "__dataclass")())
        found |= flags_of(parser)
    return found


def main():
    chosen = [REGISTRIES[name]["registry"][choice] for name, choice in CHOICES.items()]
    tasks = of_classes(TASK_REGISTRY[name] for name in TASKS)
    generation = tasks | of_classes(chosen[3:])
    train = tasks | of_classes(chosen) | of_classes(ARCH_MODEL_REGISTRY[name] for name in ARCHITECTURES)
    group = argparse.ArgumentParser(add_help=False)
    options.add_generation_args(group)
    flags = {
        "fairseq-preprocess": flags_of(options.get_preprocessing_parser()),
        "fairseq-train": flags_of(options.get_training_parser()) | train,
        "fairseq-generate": flags_of(options.get_generation_parser()) | generation,
        "fairseq-interactive": flags_of(options.get_generation_parser(interactive=True)) | generation,
        "fairseq-score": flags_of(get_score_parser()),
        "generation": flags_of(group),
    }
    out = Path(__file__).resolve().parent / "fairseq_flags.json"
    out.write_text(json.dumps({name: sorted(each) for name, each in flags.items()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
