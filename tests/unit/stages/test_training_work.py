"""The work of a training stage: objectives that resume exactly, initial weights, resuming after a kill."""

from __future__ import annotations

import json
import math
import re
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tiny_pipeline import (
    MODEL,
    TEACHER_TRAIN,
    hash_tree,
    kdmt,
    read_lines,
    run_stages,
    settings,
    to_yaml,
    write_lines,
    write_pipeline,
)
from training_runs import (
    RAW,
    STILL,
    TEACHER,
    TINY,
    end_before_the_manifest,
    metrics,
    results,
    stop_after_checkpoint_2,
    student,
    weights,
    without_times,
)

from kdmt.config import Augment, Decode, Model, Pipeline, Student, Train
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.edit_distance import edit_distances
from kdmt.decode.engines.translator import Translator
from kdmt.models.checkpoint import load_model
from kdmt.models.checkpoint_folder import resolve_checkpoint
from kdmt.stages import training_work
from kdmt.stages.training_inputs import Job
from kdmt.stages.workspace import Workspace
from kdmt.train.schedule import inverse_sqrt
from kdmt.types import EOS

AUGMENT = "{upper_case: 0.1, title_case: 0.1, no_end_punctuation: 0.2, typos: 0.3, merged: 0.2, noise: 0.1}"
in_slow_tests = partial(pytest.param, marks=pytest.mark.slow)  # other cases, or tests of objectives, have its parts


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize(
    ("online", "term"),
    [
        in_slow_tests("word_kd={divergence: js}", "word_kd"),
        ("word_kd={mutual_information: 0.1},teacher_precision=bf16_output", "mutual_information"),
        ("word_kd={},online={kind: ema}", "word_kd"),
        ("word_kd={},online={kind: mutual, peers: 2}", "peer_2"),
        ("word_kd={},hidden_kd={},attention_kd={}", "attention"),
        ("attention_kd={mapping: learned, encoder_self: none}", "attention"),
        ("word_kd={},on_policy={rate: 1.0, max_len_b: 5},self_supervised={}", "self_supervised"),
        ("word_kd={},online={kind: joint, model: JOINT},hidden_kd={}", "teacher_1"),
        in_slow_tests("nat={family: ctc, upsample: 2, glancing: [[0, 0.5]]}", "nll"),
        in_slow_tests("nat={family: dag, upsample: 4},hidden_kd={decoder: none}", "hidden"),
        (
            "nat={family: ctc, upsample: 2, dslp: true, dslp_mixing: 0.5, deep_supervision: 1, glancing: [[0, 0.5]]},"
            f"model={json.dumps(MODEL | {'decoder_layers': 3})}",
            "deep",
        ),
        in_slow_tests(
            "nat={family: nat, dslp: true, dslp_mixing: 0.5, deep_supervision: 1},"
            f"model={json.dumps(MODEL | {'decoder_layers': 2})}",
            "deep",
        ),
        in_slow_tests("nat={family: cmlm},word_kd={},attention_kd={}", "attention"),
        ("nat={family: nat, glancing: [[0, 0.5]]},hidden_kd={},self_supervised={}", "length"),
        ("nat={family: cmlm, correction: 0.5}", "length"),
        ("nat={family: inat, source_copy: soft},word_kd={}", "word_kd"),
        ("nat={family: nat_crf, crf_candidates: 8}", "crf"),
        in_slow_tests("nat={family: dag, upsample: 2, too_long: upsample, glancing: [[0, 0.5]]}", "nll"),
        (
            "nat={family: ctc, upsample: 2, glancing: [[0, 0.5]], glancing_draw: bernoulli, glancing_reveal: word, "
            "glancing_same_dropout: true, loss_average: sentence}",
            "nll",
        ),
        (
            "nat={family: dag, upsample: 3, glancing: [[0, 0.5]], glancing_rounding: round, "
            "glancing_keep_path: true, "
            "glancing_same_dropout: true, loss_average: sentence}",
            "nll",
        ),
        in_slow_tests(
            "nat={family: nat, glancing: [[0, 0.5]], glancing_divisor: predicted, glancing_same_dropout: true}",
            "length",
        ),
        in_slow_tests("nat={family: ctc, upsample: 2, loss: nmla, glancing: [[0, 0.5]]}", "nll"),
        in_slow_tests("nat={family: dag, upsample: 3, loss: fuzzy_alignment, ngram: 3}", "nll"),
        in_slow_tests("convex={power: 1.0}", "nll"),
        in_slow_tests("train.subword_regularization={alpha: 0.1}", "nll"),
        in_slow_tests(f"augment={AUGMENT}", "nll"),
        (f"train.subword_regularization={{alpha: 0.1}},augment={AUGMENT}", "nll"),
        in_slow_tests(f"augment={AUGMENT},word_kd={{}}", "word_kd"),
        in_slow_tests(f"augment={AUGMENT},nat={{family: cmlm}}", "length"),
        (f"augment={AUGMENT},nat={{family: ctc, upsample: 3}}", "nll"),
        ("data=[{set: distilled, share: 0.75}, {set: raw, share: 0.25}]", "nll"),
        ("nat={family: levenshtein},embeddings_from_teacher=true", "deletion"),
        ("nat={family: insertion},attention_kd={decoder_self: none, cross: none}", "attention"),
        in_slow_tests("nat={family: insertion},encoder_layers_from_teacher=[0]", "nll"),
    ],
)
def test_objectives_resume_exactly(online: str, term: str) -> None:
    """Check that a student with any objective, stopped and resumed by the stage, ends like one that was not stopped."""
    joint = json.dumps(MODEL | {"encoder_layers": 2})
    sets = [f"students.raw.{each.replace('JOINT', joint)}" for each in re.split(r",(?=[a-z_]+=)", online)]
    assert student("raw", *sets).code == 0
    straight = results(RAW)
    figures = [line[term] for line in metrics(RAW, "train")]
    assert all(math.isfinite(figure) for figure in figures)
    assert figures[0] != 0.0
    by_visible_words = [name for name in metrics(RAW, "valid")[0] if name.startswith("nll_visible_")]
    assert len(by_visible_words) == (6 if "cmlm" in online else 0)
    stop_after_checkpoint_2()
    assert "going on from checkpoint_2" in student("raw", *sets).err
    assert results(RAW) == straight


@pytest.mark.usefixtures("finished")
def test_a_mixture_of_training_sets_has_their_shares_weights_and_caches() -> None:
    both = "[{set: %s, share: 0.8}, {set: %s, share: 0.2}]"
    setting = "students.raw.data"
    cached = ("students.raw.word_kd={source: cache}", f"{setting}={both % ('distilled', 'raw')}")
    assert kdmt("knowledge", "tiny.yaml", *(part for each in cached for part in ("--set", each))).code == 0
    assert student("raw", *cached).code == 0
    shutil.rmtree(TINY / "knowledge" / "raw")
    refused = student("raw", *cached)
    assert refused.code == 2
    assert "knowledge of raw" in refused.err
    losses = {}
    for first, second, *more in (
        ("distilled", "raw"),
        ("raw", "distilled"),
        ("raw", "nbest", "distill.decode={beam: 2, nbest: 2, max_len_a: 1.0, max_len_b: 5}"),
    ):
        sets = (f"{setting}={both % (first, second)}", *more)
        if more:
            assert kdmt("distill", "tiny.yaml", *(part for each in sets for part in ("--set", each))).code == 0
        result = student("raw", *sets)
        assert result.code == 0
        size = re.search(r"80 of 80 \+ 20 of (\d+) pairs an epoch", result.err)
        assert size is not None
        assert (int(size[1]) > 80) == (second == "nbest")
        losses[first, second] = metrics(RAW, "train")[0]["nll"]
        assert "up to date" in student("raw", *sets).err
    assert len(set(losses.values())) == len(losses)


@pytest.mark.slow
@pytest.mark.usefixtures("finished")
def test_a_right_to_left_teacher_learns_distils_and_scores_sentences_in_their_normal_order() -> None:
    setting = ("--set", "teacher.right_to_left=true")
    left_to_right = weights(resolve_checkpoint(TEACHER))
    assert kdmt("teacher", "tiny.yaml", *setting).code == 0
    checkpoint = resolve_checkpoint(TEACHER / "average")
    assert any((left_to_right[name] != value).any() for name, value in weights(checkpoint).items())
    model, codec = load_model(checkpoint), TextCodec.load(checkpoint)

    def log_prob(source: str, target: str) -> float:
        """Return the probability of the reversed target, without an engine."""
        (src,), (tgt,) = codec.encode_source([source]), codec.encode_target([target])
        words = [*reversed(tgt[:-1].tolist()), EOS]
        with torch.no_grad():
            logits = model(torch.tensor([src.tolist()]), torch.tensor([[EOS, *words[:-1]]]))
        return float(logits.log_softmax(-1)[0, range(len(words)), words].sum())

    sources, references = (read_lines(Path(f"text/train.{side}"))[:12] for side in ("en", "de"))
    write_lines(Path("a"), sources)
    write_lines(Path("b"), references)
    result = kdmt("rescore", checkpoint, "a", "b", "--workers", "1")
    found = [float(line.split("\t")[0]) for line in result.out.splitlines()]
    assert found == pytest.approx([log_prob(*pair) for pair in zip(sources, references, strict=True)], abs=1e-3)
    in_other_order = [" ".join(reversed(line.split())) for line in references]
    assert sum(found) > sum(map(log_prob, sources, in_other_order))  # it has learnt the normal order

    assert kdmt("distill", "tiny.yaml", *setting).code == 0
    lines = [line.split("\t") for line in read_lines(TINY / "distill" / "nbest")]
    distinct = read_lines(TINY / "prepare" / "train.en")
    places = np.load(TINY / "distill" / "sentences.npy")
    source_of = {int(place): source for place, source in zip(places, distinct, strict=True)}
    for number, score, _, failure, words in lines[:10]:
        if not failure and len(words.split()) > 1:
            length = len(codec.encode_target([words])[0])
            assert float(score) * length == pytest.approx(log_prob(source_of[int(number)], words), abs=1e-2)
    refused = student("raw", "teacher.right_to_left=true", "students.raw.word_kd={}")
    assert refused.code == 2
    assert "'students.raw.word_kd': the teacher predicts targets in reversed order" in refused.err
    other = student("raw", f"students.raw.word_kd={{teachers: [{checkpoint}]}}")
    assert other.code == 2
    assert "predicts targets from right to left" in other.err
    begun = student("raw", f"students.raw.train.init_from={checkpoint}")
    assert begun.code == 2
    assert "the model that begins from it (students.raw) does not" in begun.err


@pytest.mark.usefixtures("finished")
def test_selective_distillation_resumes_exactly_with_the_distances_of_the_evaluator() -> None:
    plain = ("students.raw.nat={family: ctc, upsample: 2}", "students.raw.data=distilled")
    assert student("raw", *plain).code == 0
    without = results(RAW)
    shutil.copytree(resolve_checkpoint(RAW / "last"), "evaluator")
    schedule = "distilled: [[0, 1.0], [3, 0.0]], max_distance: 100.0"
    sets = (*plain, f"students.raw.selective={{evaluator: evaluator, {schedule}}}")
    result = student("raw", *sets)
    assert result.code == 0, result.err
    assert "80 of 80 lines have references" in result.err
    found = np.load(RAW / "selective" / "000000.npy")

    translator = Translator.load(Path("evaluator"), iterations=1)
    sources, references = (read_lines(TINY / "prepare" / f"train.{side}") for side in ("en", "de"))
    hypotheses = translator.hypotheses(translator.codec.encode_source(sources), Decode())
    words = [tokens[:-1].tolist() for tokens in translator.codec.encode_target(references)]
    distances = edit_distances([nbest[0].tokens for nbest in hypotheses], words)
    np.testing.assert_allclose(found, distances / [len(each) for each in words], rtol=1e-6)

    straight = results(RAW)
    assert straight != without
    assert "up to date" in student("raw", *sets).err
    stop_after_checkpoint_2()
    shutil.rmtree(RAW / "selective")
    assert "going on from checkpoint_2" in student("raw", *sets).err
    assert results(RAW) == straight

    own = (*plain, f"students.raw.stages=[{{}}, {{selective: {{{schedule}}}}}]")
    result = student("raw", *own)
    assert result.code == 0, result.err
    assert (RAW / "stage_2" / "selective" / "000000.npy").is_file()
    teacher = (*plain, f"students.raw.selective={{evaluator: {TEACHER}, {schedule}}}")
    refused = student("raw", *teacher)
    assert refused.code == 2
    assert "students.raw.selective.evaluator: " in refused.err
    assert "is autoregressive" in refused.err


@pytest.mark.usefixtures("finished")
def test_subword_regularization_changes_the_text_of_each_side() -> None:
    """Each value gives another loss of the first update."""
    setting = "students.raw.train.subword_regularization"
    losses = {}
    for value in (
        "null",
        "{alpha: 0.1, nbest_size: 2}",
        "{alpha: 0.1, side: source}",
        "{alpha: 0.1, side: target}",
        "{alpha: 0.1}",
    ):
        assert student("raw", f"{setting}={value}").code == 0
        losses[value] = metrics(RAW, "train")[0]["nll"]
    assert len(set(losses.values())) == len(losses)


def workspace_with(**changes: Any) -> Workspace:
    return Workspace(Pipeline.model_validate(settings() | changes), Path("runs"))


def test_tags_of_corpora_and_of_back_translation_are_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = settings()["prepare"]
    prepare["tokenizer"]["user_defined_symbols"] = ["<a>", "<bt>"]
    prepare["train"][0]["tag"] = "<a>"
    back = {"checkpoint": "x", "text": ["y"], "tag": "<bt>"}
    data = [{"set": "raw", "share": 0.5}, {"set": "back_translated", "share": 0.5}]
    teacher = settings()["teacher"] | {"data": data}
    workspace = workspace_with(prepare=prepare, back_translation=back, teacher=teacher)
    monkeypatch.setattr(training_work, "Augmentation", SimpleNamespace(of=lambda *_, tags, **__: tags))
    job = Job("x", Path("x"), Model(), Train(), 1, ("raw",), "teacher", augment=Augment(typos=0.1))
    found = training_work._augmentation(workspace, job, cast(Any, None), cast(Any, None), None)
    assert found == ["<a>", "<bt>"]


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ({"max_tokens": 50, "max_target_tokens": 60}, 50),
        ({"max_tokens": 50, "max_target_tokens": 40}, 40),
        ({"max_tokens": 50, "max_target_tokens": 0}, 50),
        ({"max_tokens": 5000, "max_target_tokens": 0}, 128),
    ],
)
def test_references_are_limited_as_batches_and_positions_are(
    monkeypatch: pytest.MonkeyPatch, train: dict[str, int], expected: int
) -> None:
    own = {"nat": {"family": "ctc"}, "selective": {"evaluator": "x", "distilled": [[0, 0.5]]}, "train": train}
    student = Student.model_validate({"model": {"max_target_positions": 128}, **own})
    monkeypatch.setattr(training_work, "open_selection", lambda *_, max_target_tokens: max_target_tokens)
    job = Job("x", Path("x"), student.model, student.train, 1, student.data_names, "students.x", student)
    sets = cast(Any, (None, None))
    assert training_work._selection(cast(Any, None), job, student, sets) == expected  # type: ignore[comparison-overlap]


@pytest.mark.usefixtures("finished")
def test_augmentation_changes_the_text() -> None:
    """Each value gives another loss of the first update."""
    losses = {}
    for value in ("null", "{merged: 1.0}", "{noise: 1.0}", "{noise: 0.5}"):
        assert student("raw", f"students.raw.augment={value}").code == 0
        losses[value] = metrics(RAW, "train")[0]["nll"]
    assert len(set(losses.values())) == len(losses)


@pytest.mark.usefixtures("finished")
def test_augmentation_changes_the_text_of_the_teacher() -> None:
    before = metrics(TEACHER, "train")[0]["nll"]
    result = kdmt("teacher", "tiny.yaml", "--set", "teacher.augment={merged: 1.0}")
    assert result.code == 0, result.err
    assert metrics(TEACHER, "train")[0]["nll"] != before


@pytest.mark.usefixtures("finished")
def test_markup_without_characters_in_the_vocabulary_is_refused() -> None:
    result = student("raw", "students.raw.augment={tags: 0.1}")
    assert result.code != 0
    assert "'students.raw.augment': 'tags': the vocabulary has no tokens for <a>: leave it out, or" in result.err


@pytest.mark.usefixtures("finished")
def test_the_recipe_leaves_out_markup_without_characters_in_the_vocabulary() -> None:
    result = student("raw", "students.raw.augment=default")
    assert result.code == 0, result.err
    assert result.err.count("'augment: default' is used without 'tags': the vocabulary does not have") == 1


@pytest.mark.usefixtures("finished")
def test_subword_regularization_of_another_kind_of_given_model_is_refused() -> None:
    shutil.copyfile(TINY / "prepare" / "tokenizer" / "joint.model", "given.model")
    given = "prepare.tokenizer.source_path=given.model"
    assert kdmt("prepare", "tiny.yaml", "--set", given).code == 0
    result = student("raw", given, "students.raw.train.subword_regularization={dropout: 0.1}")
    assert result.code != 0
    assert "'students.raw.train.subword_regularization': 'dropout' is a setting of BPE models: " in result.err


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("nat={family: ctc, upsample: 2}", "nat: {loss: nmla}"),
        ("nat={family: dag, upsample: 3}", "nat: {loss: fuzzy_alignment}"),
        ("nat={family: nat}", "convex: {power: 1.0}"),
        ("model.dropout=0.0", "convex: {}"),
    ],
)
def test_a_trained_student_is_fine_tuned_with_another_loss(first: str, second: str) -> None:
    """The negative log-likelihood, which is reported in both stages, goes on; the loss is between 0 and 1."""
    stages = f"students.raw.stages=[{{}}, {{{second}, warmup_updates: 1000}}]"
    assert student("raw", f"students.raw.{first}", stages).code == 0
    before, after = (metrics(RAW / f"stage_{number}", "valid") for number in (1, 2))
    assert after[0]["nll"] == pytest.approx(before[-1]["nll"], rel=0.05)
    assert before[-1]["loss"] > 1.0 > after[0]["loss"] > 0.0


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize(("warmup_updates", "warns"), [(4, False), (5, True)])
def test_a_training_that_ends_within_its_warmup_warns(warmup_updates: int, warns: bool) -> None:
    result = student("raw", f"students.raw.train.warmup_updates={warmup_updates}", "students.raw.train.lr=0.5")
    message = "does not reach 'lr' (0.5): 'warmup_updates' (5) is more than 'max_updates' (4)"
    assert result.code == 0
    assert (message in result.err) == warns


@pytest.mark.usefixtures("finished")
def test_initialisation_and_decoder_input_reach_the_model() -> None:
    sets = ["nat={family: ctc, upsample: 2, decoder_input: unk}", "model.init=bert", "model.decoder_learned_pos=true"]
    assert student("raw", *(f"students.raw.{each}" for each in sets)).code == 0
    description = json.loads((RAW / "checkpoint_4" / "model.json").read_text())
    assert description["config"]["init"] == "bert"
    assert description["config"]["decoder_learned_pos"] is True
    assert description["nat"]["source_copy"] == "none"


@pytest.mark.usefixtures("pipeline")
def test_a_student_learns_from_monolingual_text_too() -> None:
    document = settings()
    write_lines(Path("text/mono.en"), ["ba be bi", "ga ge gi ga"])
    document["prepare"]["monolingual"] = [{"path": "text/mono.en"}]
    raw = document["students"]["raw"]
    document["students"] = {
        "raw": raw,
        "alone": {**raw, "self_supervised": {}},
        "more": {**raw, "self_supervised": {"monolingual": True}},
    }
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    run_stages("prepare", "student")
    runs = {name: TINY / "students" / name / "seed_1" for name in document["students"]}
    guesses = {name: metrics(run, "train")[0].get("self_supervised") for name, run in runs.items()}
    assert guesses["raw"] is None
    assert 0 < guesses["alone"] != guesses["more"] > 0
    made_from = {name: json.loads((run / "manifest.json").read_text())["inputs"] for name, run in runs.items()}
    extra = {"prepare/data-bin/monolingual.en-de.en.bin", "prepare/data-bin/monolingual.en-de.en.idx"}
    assert set(made_from["more"]) - set(made_from["alone"]) == extra
    assert (runs["alone"] / "last").exists()
    assert weights(runs["alone"] / "checkpoint_4").keys() == weights(runs["raw"] / "checkpoint_4").keys()


@pytest.mark.usefixtures("finished")
def test_a_student_starts_from_the_chosen_layers_of_its_teacher() -> None:
    sets = [f"students.raw.train.{setting}" for setting in STILL]
    sets += ["students.raw.model.encoder_layers=3", "students.raw.encoder_layers_from_teacher=[0, 0, 0]"]
    assert student("raw", *sets).code == 0
    own, teacher = weights(RAW / "checkpoint_2"), weights(TEACHER / "average")
    for name, value in own.items():
        side, _, rest = name.partition(".")
        taken = side == "encoder_layers"
        source = f"encoder_layers.0.{rest.partition('.')[2]}" if taken else name
        if taken or not _is_norm_or_bias(name):
            assert np.array_equal(value, teacher[source]) == taken, name


def _is_norm_or_bias(name: str) -> bool:
    """Return whether a parameter is a norm or bias, which every model initialises to zeros or ones."""
    return name.endswith("bias") or "norm" in name


@pytest.mark.usefixtures("finished")
def test_a_student_starts_from_its_teachers_embeddings() -> None:
    sets = [f"students.raw.train.{setting}" for setting in STILL]
    assert student("raw", *sets, "students.raw.embeddings_from_teacher=true").code == 0
    own, teacher = weights(RAW / "checkpoint_2"), weights(TEACHER / "average")
    same = {name for name, value in own.items() if not _is_norm_or_bias(name) and np.array_equal(value, teacher[name])}
    assert same == {name for name in own if "embed" in name and not _is_norm_or_bias(name)} != set()
    manifest = json.loads((RAW / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["inputs"]["teacher"] == hash_tree(TEACHER)["average/model.safetensors"]


@pytest.mark.usefixtures("finished")
def test_fine_tuning_starts_from_a_checkpoint_with_a_fresh_optimiser() -> None:
    sets = [f"students.raw.train.{setting}" for setting in STILL]
    assert student("raw", *sets, f"students.raw.train.init_from={TEACHER}/checkpoint_40").code == 0
    for name, value in weights(TEACHER / "checkpoint_40").items():
        assert np.array_equal(value, weights(RAW / "checkpoint_2")[name])
    steps = [v for k, v in load_file(RAW / "checkpoint_2/training_state.safetensors").items() if k.startswith("step.")]
    assert {float(step) for step in steps} == {2.0}


@pytest.mark.usefixtures("finished")
def test_fine_tuning_may_keep_the_optimiser_and_its_schedule() -> None:
    sets = [f"students.raw.train.init_from={TEACHER}/checkpoint_40", "students.raw.train.init_optimizer=true"]
    assert student("raw", *sets).code == 0
    steps = [v for k, v in load_file(RAW / "checkpoint_2/training_state.safetensors").items() if k.startswith("step.")]
    assert {float(step) for step in steps} == {42.0}
    schedule = Train.model_validate(settings()["students"]["raw"]["train"])
    for line in metrics(RAW, "train"):
        assert math.isclose(line["lr"], inverse_sqrt(40 + line["update"] - 1, schedule))


@pytest.mark.usefixtures("finished")
def test_the_optimiser_can_be_kept_only_if_it_was_saved() -> None:
    made = hash_tree(RAW)
    sets = ["students.raw.train.init_from=runs/tiny/teacher/average", "students.raw.train.init_optimizer=true"]
    result = student("raw", *sets)
    assert result.code == 2
    assert "runs/tiny/teacher/average: holds no training state" in result.err
    assert hash_tree(RAW) == made


@pytest.mark.usefixtures("finished")
def test_a_student_learns_from_a_cache_and_resumes_exactly() -> None:
    """Check a cache of both training sets with a queue that is remembered from batch to batch."""
    sets = [
        "students.raw.data=mixed",
        "students.raw.word_kd={source: cache, select: global, queue: 300, temperature: 2.0, top1_ranking: 2}",
        "knowledge={k: 4, temperatures: [1.0, 2.0], block_size: 30, threads: 1}",
    ]
    run_stages("knowledge", sets=sets)
    assert student("raw", *sets).code == 0
    manifest = json.loads((RAW / "manifest.json").read_text(encoding="utf-8"))
    for data in ("raw", "distilled"):
        header = hash_tree(TINY / "knowledge" / data)["knowledge.json"]
        assert manifest["inputs"][f"knowledge/{data}"] == header
    expected, lines = results(RAW), without_times(metrics(RAW, "train"))
    for line in lines:
        assert 0.0 < line["word_kd"] < math.inf
        assert 0.0 < line["taught"] < 1.0
    stop_after_checkpoint_2()
    assert "going on from checkpoint_2" in student("raw", *sets).err
    assert results(RAW) == expected
    assert without_times(metrics(RAW, "train")) == lines


@pytest.mark.usefixtures("pipeline")
def test_only_a_teacher_can_be_trained_with_separate_vocabularies() -> None:
    document = settings()
    document["prepare"]["tokenizer"] = {"joint": False, "vocab_size": 20}
    document["prepare"]["vocabulary"] = {"joined": False}
    document["teacher"]["model"]["share_all_embeddings"] = False
    document["teacher"]["train"] = TEACHER_TRAIN | {"max_updates": 1}
    del document["students"]
    write_pipeline(Path(), document)
    assert run_stages("prepare", "teacher")
    sizes = [len((TINY / f"prepare/dict.{lang}.txt").read_text("utf-8").splitlines()) + 4 for lang in ("en", "de")]
    shape = json.loads((TEACHER / "average/model.json").read_text(encoding="utf-8"))
    assert [shape["src_vocab_size"], shape["tgt_vocab_size"]] == sizes


@pytest.mark.usefixtures("finished")
def test_pointers_that_are_missing_after_a_kill_are_written_on_resuming() -> None:
    expected = results(RAW)
    end_before_the_manifest(RAW)
    shutil.rmtree(RAW / "average")
    (RAW / "best").unlink()
    (RAW / "last").write_text("checkpoint_2\n", encoding="utf-8")
    (RAW / ".partial-checkpoint_6").mkdir()
    (RAW / ".partial-checkpoint_6" / "model.safetensors").write_bytes(b"half")
    result = student("raw")
    assert result.code == 0
    assert "student raw seed 1: going on: it was started and not finished\n" in result.err
    assert results(RAW) == expected
    assert not list(RAW.glob(".partial-*"))


@pytest.mark.usefixtures("finished")
def test_a_damaged_checkpoint_is_skipped_and_written_again() -> None:
    expected, lines = results(RAW), without_times(metrics(RAW, "train"))
    end_before_the_manifest(RAW)
    path = RAW / "checkpoint_4" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00\x00")
    with (RAW / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"kind": "train", "upd')  # truncated
    result = student("raw")
    assert "passed over: runs/tiny/students/raw/seed_1/checkpoint_4/model.safetensors: damaged" in result.err
    assert "going on from checkpoint_2" in result.err
    assert results(RAW) == expected
    assert without_times(metrics(RAW, "train")) == lines
