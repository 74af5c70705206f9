"""The work of the stage `reranked`, if its weights are tuned: the validation set's candidates, the weights, the text.

The teacher translates the validation set like the training set. Its candidates are in `valid/` in the folder of the
stage, and the weights, which are tuned on them, in `weights.json`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from kdmt.checksum import file_sha256
from kdmt.config import Distill, Rerank
from kdmt.distill.backward import BackwardScores
from kdmt.distill.candidate_scores import CandidateScores
from kdmt.distill.candidates import read_scores
from kdmt.distill.merge import usable_candidates
from kdmt.distill.rerank import VALID, Features
from kdmt.distill.rerank_tuning import TuningSentence, tune_weights
from kdmt.distill.selection import Candidate, Line
from kdmt.distill.similarity import bleu_nearness, chrf_nearness
from kdmt.distill.target_choices import features_of
from kdmt.distill.training_text import CANDIDATES, NBEST, OFFSETS, SENTENCES, sweep
from kdmt.distill.verification import SCRATCH, verify_text
from kdmt.errors import UserError
from kdmt.files import read_json, write_json
from kdmt.flow.folders import earlier_states
from kdmt.flow.manifest import Plan, check_status, recorded_outputs
from kdmt.score.metrics import METRICS
from kdmt.stages.distill_work import Choosing, Decoding

WEIGHTS_FILE = "weights.json"


@dataclass(frozen=True)
class _Tuned:
    """A sentence of the validation set with the features and the metric of its candidates."""

    line: Line
    candidates: list[Candidate]
    values: TuningSentence


@dataclass(frozen=True)
class Reranking:
    """A training set whose targets a linear model with tuned weights chooses. See `TextWork`.

    Attributes:
        choosing: choice of the targets.
        valid: decoding of the validation set.
        decoding_plan: function that returns the plan of the candidates of the training set, from which those of the
            validation set are made too.
        valid_scores: path of the scores of the validation set's candidates for each feature from a file.
        valid_backward: scores of the validation set's candidates by a model of the opposite direction, if a feature
            needs them.
        valid_scored: scores of the validation set's candidates by external scorers.
    """

    choosing: Choosing
    valid: Decoding
    decoding_plan: Callable[[], Plan]
    valid_scores: Mapping[str, str | None]
    valid_backward: BackwardScores | None = None
    valid_scored: tuple[CandidateScores, ...] = ()

    @property
    def settings(self) -> Distill:
        return self.choosing.job.settings

    @property
    def rerank(self) -> Rerank:
        return self.settings.rerank

    @property
    def weights_file(self) -> Path:
        return self.choosing.job.folder / WEIGHTS_FILE

    def make(self, plan: Plan) -> None:
        """Decode the validation set, tune the weights, choose the targets, and write the training set."""
        job = self.choosing.job
        job.check()
        self.choosing.check_scores()
        self.valid.teacher.check(self.valid.sample)
        job.begin(plan)
        self._decode_valid()
        self._require_scores()
        for each in self.valid_scored:
            each.write()
        tuned = self._tune()
        write_json(self.weights_file, tuned)
        facts = self.choosing.write_scores()
        facts |= job.writer.write(self.choosing.targets_with(self._with_weights(tuned)))
        more = [self.weights_file, *(self.valid.folder / name for name in CANDIDATES)]
        more += [each.path for each in (*self.valid_scored, *self.choosing.scored)]
        job.finish(plan, facts | {"rerank": tuned}, more)

    def verify(self, plan: Plan, blocks: int, seed: int | None) -> None:
        """See `TextWork.verify`; the weights are tuned again, and nothing is decoded."""
        del plan, blocks, seed
        job, decoding_plan = self.choosing.job, self.decoding_plan()
        sources = self.valid.sources()
        with TemporaryDirectory(dir=job.folder, prefix=SCRATCH) as scratch:
            made_from = self.valid.made_from(decoding_plan)
            self.valid.write_candidates(made_from, self.valid.tasks(sources), sources, Path(scratch))
            nbest = self.valid.folder / NBEST
            if file_sha256(Path(scratch) / NBEST) != file_sha256(nbest):
                raise UserError(f"{nbest}: does not follow from the blocks")
        recorded = read_json(self.weights_file)
        if self._tune() != recorded:
            raise UserError(f"{self.weights_file}: does not follow from {nbest}")
        targets = self.choosing.targets_with(self._with_weights(recorded))
        verify_text(job.writer, targets, recorded_outputs(job.folder))

    def estimate(self, plan: Plan) -> None:
        """Print the requests that the translation of the validation set still needs; see `Decoding.estimate`."""
        folder = self.choosing.job.folder
        is_kept = check_status(folder, plan).state not in ("stale", "new")
        self.valid.print_requests([state / VALID for state in earlier_states(folder)], is_kept=is_kept)

    def _decode_valid(self) -> None:
        self.valid.blocks.mkdir(parents=True, exist_ok=True)
        sweep(self.valid.folder, self.valid.blocks)
        plan, sources = self.decoding_plan(), self.valid.sources()
        states = [state / VALID for state in earlier_states(self.choosing.job.folder)]
        tasks = self.valid.decode(plan, sources, states=states)
        sweep(self.valid.blocks)  # files of workers that were lost in the meantime
        self.valid.put_candidates(plan, sources, tasks)

    def _require_scores(self) -> None:
        """Check that each feature from a file has scores of the validation set, whose candidates are now written."""
        missing = [name for name, path in self.valid_scores.items() if path is None]
        if missing:
            raise UserError(
                f"distill.rerank.files.{missing[0]}.valid: to tune the weights, score the candidates in "
                f"{self.valid.folder / NBEST}, one number per line, and set this to the path of the file; or set "
                "distill.rerank.weights"
            )

    def _with_weights(self, tuned: Mapping[str, object]) -> Distill:
        rerank = self.rerank.model_copy(update={"weights": tuned["weights"]})
        return self.settings.model_copy(update={"rerank": rerank})

    def _tune(self) -> dict[str, object]:
        """Return the tuned weights and what they achieve on the validation set, as JSON values."""
        features = features_of(self.settings, self.choosing.bleu_tokenizer(), self.choosing.job.writer.inputs.corpus)
        sentences = self._sentences(features)
        try:
            weights_F = tune_weights([each.values for each in sentences], seed=self.rerank.seed)
        except ValueError as error:
            raise UserError(f"{self.valid.folder / NBEST}: the weights cannot be tuned: {error}") from None
        names = features.all_names
        achieved = {
            "teacher": self._score(sentences, lambda _: 0),
            "reranked": self._score(sentences, lambda values: int(np.argmax(values.features_NF @ weights_F))),
            "best": self._score(sentences, lambda values: int(np.argmax(values.metric_N))),
        }
        self.choosing.job.say(
            f"weights {', '.join(f'{name} {weight:.4g}' for name, weight in zip(names, weights_F, strict=True))}; "
            f"{METRICS[self.rerank.metric].label} on the validation set: best hypothesis {achieved['teacher']:.2f}, "
            f"reranked {achieved['reranked']:.2f}, best possible choice {achieved['best']:.2f}"
        )
        return {
            "weights": dict(zip(names, weights_F.tolist(), strict=True)),
            "metric": self.rerank.metric,
            "seed": self.rerank.seed,
            "num_sentences": len(sentences),
            "validation": achieved,
        }

    def _score(self, sentences: list[_Tuned], choose: Callable[[TuningSentence], int]) -> float:
        """Return the corpus score of the chosen candidates."""
        chosen = [each.candidates[choose(each.values)].words for each in sentences]
        references = [each.line.reference for each in sentences]
        tokenize = self.choosing.bleu_tokenizer() or "13a"  # chrF does not use it
        return METRICS[self.rerank.metric].score(chosen, references, tokenize=tokenize).value

    def _sentences(self, features: Features) -> list[_Tuned]:
        """Return the sentences of the validation set that have candidates without a failure."""
        folder, inputs = self.valid.folder, self.valid.job.writer.inputs
        tokenize = self.choosing.bleu_tokenizer()
        metric = chrf_nearness if self.rerank.metric == "chrf" else bleu_nearness(tokenize)
        paths = [Path(path) for path in self.valid_scores.values() if path is not None]
        if self.valid_backward is not None:
            paths.append(self.valid_backward.file())
        paths += [each.path for each in self.valid_scored]
        found: list[_Tuned] = []
        with TemporaryDirectory() as scratch:
            given = read_scores(paths, folder / NBEST, folder / OFFSETS, Path(scratch)) if paths else None
            read = partial(usable_candidates, settings=self.settings.failures, typical_ratio=inputs.typical_ratios())
            lines = read(
                inputs.texts(),
                np.load(folder / SENTENCES),
                nbest=folder / NBEST,
                offsets=folder / OFFSETS,
                given=given,
            )
            for line, candidates in lines:
                if candidates:
                    gains = metric([candidate.words for candidate in candidates], line.reference)
                    values = TuningSentence(features(candidates, line), np.array(gains))
                    found.append(_Tuned(line, candidates, values))
        if not found:
            raise UserError(f"{folder / NBEST}: no sentence of the validation set has a usable translation")
        return found
