"""Make tests/golden/simuleval/latency.json with the evaluator of the real SimulEval 1.1.4.

    python -m venv ENV
    ENV/bin/pip install --no-deps simuleval==1.1.4
    ENV/bin/pip install bitarray pandas pydub pyyaml requests sacrebleu soundfile textgrid tornado tqdm
    ENV/bin/python tests/golden/make_simuleval.py

The 200 sentences are artificial. The agent reads and writes at random, so that translations are shorter or longer than
their references, begin early or late, and end before or after the source does. SimulEval's evaluator feeds the words to
the agent, records the delays and computes the figures.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from simuleval.evaluator import build_evaluator
from simuleval.utils.agent import build_system_args

PATH = Path(__file__).parent / "simuleval" / "latency.json"
METRICS = ["AL", "LAAL", "AP", "DAL"]
NUM_SENTENCES = 200
_AGENT = """
import random

from simuleval.agents import TextToTextAgent
from simuleval.agents.actions import ReadAction, WriteAction
from simuleval.utils import entrypoint


@entrypoint
class RandomAgent(TextToTextAgent):
    random = random.Random(5)

    def reset(self):
        super().reset()
        self.patience = self.random.choice([0.1, 0.3, 0.5, 0.8, 1.0])
        self.left = self.random.randint(1, 24)

    def policy(self, states=None):
        states = states or self.states
        if not states.source_finished and (not states.source or self.random.random() < self.patience):
            return ReadAction()
        self.left -= 1
        words = " ".join(["word"] * (1 if self.random.random() < 0.9 else 2))
        return WriteAction(words, finished=self.left <= 0)
"""


def main() -> None:
    generator = random.Random(1)
    sides = [[generator.randint(1, most) for _ in range(NUM_SENTENCES)] for most in (25, 30)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "agent.py").write_text(_AGENT)
        for side, lengths in zip(("source", "target"), sides, strict=True):
            (folder / side).write_text("".join(" ".join(["w"] * length) + "\n" for length in lengths))
        command = ["simuleval", "--agent", str(folder / "agent.py"), "--output", str(folder / "out")]
        command += ["--source", str(folder / "source"), "--target", str(folder / "target")]
        sys.argv = [*command, "--latency-metrics", *METRICS]
        system, args = build_system_args()
        evaluator = build_evaluator(args)
        evaluator(system)
    sentences = [
        {
            "source": instance.source_length,
            "reference": instance.reference_length,
            "delays": instance.delays,
            **instance.metrics,
        }
        for instance in evaluator.instances.values()
    ]
    content = {
        "simuleval": version("simuleval"),
        "means": evaluator.latency,
        "sentences": sentences,
    }
    PATH.parent.mkdir(exist_ok=True)
    lines = json.dumps(content).replace(', {"source"', ',\n{"source"').replace('[{"source"', '[\n{"source"')
    PATH.write_text(lines + "\n")


if __name__ == "__main__":
    main()
