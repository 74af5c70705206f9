"""Tests of settings of students: loss terms, and the combinations allowed by the family and the teachers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kdmt.config import HiddenKD, Pipeline, Student, WordKD, resolved, setting_path
from kdmt.errors import UserError

Load = Callable[..., Pipeline]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "students.raw.word_kd={source: cache, divergence: squared_error}",
            "students.raw.word_kd: 'divergence: squared",
        ),
        (
            "students.raw.word_kd={source: cache, marginal_momentum: 0.9}",
            "students.raw.word_kd: 'marginal_momentum' has",
        ),
        (
            "students.raw.word_kd={teacher_weights: perplexity, teachers: [a]}",
            "students.raw.word_kd: 'teacher_weights: perplexity' has no effect without several 'teachers'",
        ),
        ("students.raw.word_kd={skew: 0.2}", "students.raw.word_kd: 'skew' has no effect unless 'divergence' is"),
        (
            "students.raw.word_kd={divergence: skewed_kl, beta: 0.2}",
            "students.raw.word_kd: 'beta' has no effect with 'divergence: skewed_kl'",
        ),
        ("students.raw.word_kd={source: cache, teachers: [a]}", "students.raw.word_kd: 'teachers' run during training"),
        ("students.raw.word_kd={alpha_schedule: [[9, 0.5], [3, 1.0]]}", "students.raw.word_kd: 'alpha_schedule': the "),
        ("students.raw.word_kd={alpha_schedule: [[3, 0.5], [3, 1.0]]}", "students.raw.word_kd: 'alpha_schedule': the "),
        ("students.raw.word_kd={alpha: 0.0, top1_ranking: 2}", "students.raw.word_kd: 'top1_ranking' is part of the"),
        (
            "students.raw.hidden_kd={encoder: none, decoder: none}",
            "students.raw.hidden_kd: 'encoder' and 'decoder' are",
        ),
        ("students.raw.hidden_kd.encoder=last:0", "students.raw.hidden_kd.encoder: not in the form"),
        ("students.raw.hidden_kd.encoder=[[0]]", "students.raw.hidden_kd.encoder.0.1: missing"),
        ("students.raw.hidden_kd.encoder=[]", "students.raw.hidden_kd.encoder: the list is too short"),
        (
            "students.raw.attention_kd={mapping: learned, heads: [0]}",
            "students.raw.attention_kd: 'heads' has no effect with 'mapping: learned'",
        ),
        (
            "students.raw.attention_kd={mapping: learned, cross: 'last:1'}",
            "students.raw.attention_kd: 'cross' names layers, and 'mapping: learned' maps all of them",
        ),
        (
            "students.raw={train: {guided_alignment: {}}, nat: {family: ctc, upsample: 2}}",
            "students.raw: 'train.guided_alignment' is for autoregressive students",
        ),
        (
            "students.raw={train: {guided_alignment: {}}, word_kd: {}, on_policy: {}}",
            "students.raw: 'train.guided_alignment' cannot have 'on_policy'",
        ),
        (
            "students.raw.attention_kd={encoder_self: none, decoder_self: none, cross: none}",
            "students.raw.attention_kd: 'encoder_self', 'decoder_self' and 'cross' are all 'none'",
        ),
        ("students.raw.online={kind: joint}", "students.raw.online: 'kind: joint' needs the teacher's 'model'"),
        (
            "students.raw.online={kind: ema, model: {}}",
            "students.raw.online: 'kind: joint' needs the teacher's 'model'",
        ),
        (
            "students.raw={model: {init: bert}, train: {init_from: a}}",
            "students.raw: 'model.init' has no effect with 'train.init_from'",
        ),
        ("students.raw.seeds=[1, 2, 1]", "students.raw: 'seeds' holds a number twice"),
        (
            "students.raw={nat: {family: ctc}, train: {quantization_aware: int8}}",
            "students.raw: 'train.quantization_aware' is for autoregressive students",
        ),
        (
            "students.raw={nat: {family: ctc}, train: {packing: true}}",
            "students.raw: 'train.packing' cannot be combined with 'nat'",
        ),
        (
            "students.raw={attention_kd: {}, train: {packing: true}}",
            "students.raw: 'train.packing' cannot be combined with 'attention_kd'",
        ),
        (
            "students.raw={convex: {}, train: {packing: true}}",
            "students.raw: 'train.packing' cannot be combined with 'convex'",
        ),
        ("students.raw={convex: {}, word_kd: {}}", "students.raw: 'convex' cannot be combined with 'word_kd'"),
        (
            "students.raw={convex: {}, nat: {family: nat_crf}}",
            "students.raw: 'nat.family: nat_crf' cannot have 'convex': its loss is not one likelihood",
        ),
        (
            "students.raw={convex: {}, nat: {family: ctc, loss: nmla}}",
            "students.raw: 'convex' replaces the likelihood: it cannot have 'nat.loss: nmla'",
        ),
        ("students.raw.convex={power: 0.0}", "students.raw.convex.power: "),
        (
            "students.raw={model: {attention_dropout: 0.1}, train: {packing: true}}",
            "students.raw: 'train.packing' needs 'model.attention_dropout: 0'",
        ),
        (
            "students.raw={data: nbest, train: {packing: true}}",
            "students.raw: 'train.packing' cannot have 'data: nbest'",
        ),
        (
            "students.raw={nat: {family: ctc}, train: {subword_regularization: {alpha: 0.1}}}",
            "students.raw: 'train.subword_regularization' is for autoregressive students: leave out 'nat'",
        ),
        (
            "students.raw={word_kd: {source: cache}, train: {subword_regularization: {alpha: 0.1}}}",
            "students.raw: 'train.subword_regularization' cannot have 'word_kd.source: cache'",
        ),
        ("students.raw={nat: {family: ctc}, word_kd: {}}", "students.raw: 'nat.family: ctc' cannot have 'word_kd'"),
        ("students.raw={nat: {family: nat}, on_policy: {}}", "students.raw: 'nat.family: nat' cannot have 'on_policy'"),
        ("students.raw={nat: {family: dag}, data: nbest}", "students.raw: 'nat.family: dag' cannot have 'data: nbest'"),
        (
            "students.raw={nat: {family: ctc}, hidden_kd: {}}",
            "students.raw: 'nat.family: ctc' cannot have 'hidden_kd.decoder': its positions are not the target's",
        ),
        (
            "students.raw={nat: {family: cmlm, layout: fairseq}, hidden_kd: {}}",
            "students.raw: 'nat.layout: fairseq' cannot have 'hidden_kd'",
        ),
        (
            "students.raw={nat: {family: cmlm, layout: fairseq, deep_supervision: 1.0, dslp: true}}",
            "students.raw: 'nat.layout: fairseq' cannot have 'dslp'",
        ),
        (
            "students.raw={nat: {family: cmlm, layout: fairseq, deep_supervision: 1.0}}",
            "students.raw: 'nat.layout: fairseq' cannot have 'deep_supervision'",
        ),
        ("students.raw={on_policy: {}}", "students.raw: 'on_policy' needs 'word_kd'"),
        ("students.raw={on_policy: {}, word_kd: {source: cache}}", "students.raw: 'on_policy' needs 'word_kd'"),
        ("students.raw={on_policy: {}, word_kd: {alpha: 0.0}}", "students.raw: 'on_policy' has no effect"),
        (
            "students.raw={on_policy: {}, word_kd: {}, online: {kind: mutual}}",
            "students.raw: 'on_policy' samples from one student",
        ),
        (
            "students.raw={on_policy: {}, word_kd: {}, train: {parallel: fsdp}}",
            "students.raw: 'on_policy' needs the whole model on each rank",
        ),
        ("students.raw={online: {kind: ema}}", "students.raw: 'online' needs 'word_kd'"),
        ("students.raw={online: {kind: ema}, word_kd: {alpha: 0.0}}", "students.raw: 'online' has no effect"),
        ("students.raw={online: {kind: ema}, word_kd: {teachers: [a]}}", "students.raw: 'online' has its own"),
        (
            "students.raw={online: {kind: ema}, word_kd: {}, teacher_precision: bf16}",
            "students.raw: 'teacher_precision'",
        ),
        (
            "students.raw={online: {kind: mutual}, word_kd: {select: global}}",
            "students.raw: 'word_kd.select: global' keeps one queue",
        ),
        (
            "students.raw={online: {kind: mutual}, word_kd: {marginal_momentum: 0.5}}",
            "students.raw: 'word_kd.marginal_momentum' keeps one average",
        ),
    ],
)
def test_contradicting_settings_are_named(problem: Callable[..., str], override: str, expected: str) -> None:
    assert problem(override).startswith(expected)


@pytest.mark.parametrize(
    "student",
    [
        "{nat: {family: ctc}, hidden_kd: {decoder: none}, attention_kd: {decoder_self: none, cross: none}}",
        "{nat: {family: cmlm}, word_kd: {}, hidden_kd: {}, data: nbest}",
        "{on_policy: {}, word_kd: {}, online: {kind: ema}}",
        "{online: {kind: ema}, word_kd: {alpha: 0.0}, hidden_kd: {}}",
    ],
)
def test_valid_combinations_of_losses_are_accepted(load: Load, student: str) -> None:
    assert load(f"students.raw={student}", "distill.decode.nbest=2")


@pytest.mark.parametrize(
    ("settings", "taught"),
    [
        ({}, True),
        ({"alpha": 0.0}, False),
        ({"alpha": 0.0, "alpha_schedule": [[0, 0.0], [9, 0.1]]}, True),
        ({"alpha": 1.0, "alpha_schedule": [[0, 0.0]]}, False),
    ],
)
def test_whether_the_divergence_ever_has_a_positive_weight(settings: dict[str, Any], taught: bool) -> None:
    assert WordKD(**settings).ever_taught is taught


@pytest.mark.parametrize("layers", ["none", "uniform", "last:2", [[0, 1], [1, 3]]])
def test_layers_are_given_by_a_rule_or_by_pairs(layers: Any) -> None:
    expected = layers if isinstance(layers, str) else [tuple(pair) for pair in layers]
    assert HiddenKD(encoder=layers, decoder="uniform").encoder == expected


# -------------------------------------------------------------------------------------------------------------- stages


def stages_of(config: Pipeline, name: str = "raw") -> list[Student]:
    return [stage for _, stage in config.trainings_of(name)]


def test_a_student_without_stages_has_one_training(load: Load) -> None:
    config = load()
    assert config.trainings_of("raw") == [("students.raw", config.students["raw"])]
    assert [path for path, _ in config.trainings()] == ["students.raw", "students.distilled"]


def test_each_stage_has_the_settings_of_the_student_with_its_own_in_their_place(load: Load) -> None:
    stages = (
        "[{data: raw}, {data: distilled, max_updates: 2000}, {data: sampled, word_kd: {divergence: js, alpha: 1.0}, "
    )
    config = load(f"students.raw.stages={stages}lr: 0.0001}}]", "students.raw.word_kd={temperature: 2.0}")
    found, own = stages_of(config), config.students["raw"]
    assert [path for path, _ in config.trainings_of("raw")] == [f"students.raw.stages.{number}" for number in range(3)]
    assert [stage.data for stage in found] == ["raw", "distilled", "sampled"]
    assert [stage.train.max_updates for stage in found] == [own.train.max_updates, 2000, own.train.max_updates]
    assert [stage.train.lr for stage in found] == [own.train.lr, own.train.lr, 0.0001]
    assert found[0].word_kd == found[1].word_kd == WordKD(temperature=2.0)
    assert found[2].word_kd == WordKD(temperature=2.0, divergence="js", alpha=1.0)
    assert all(stage.model == own.model and stage.seeds == own.seeds and stage.stages is None for stage in found)


def test_null_removes_a_section_in_a_stage_and_a_list_is_replaced(load: Load) -> None:
    kd = "students.raw.word_kd={alpha_schedule: [[0, 1.0], [9, 0.5]]}"
    found = stages_of(load("students.raw.stages=[{word_kd: {alpha_schedule: [[0, 0.3]]}}, {word_kd: null}]", kd))
    assert [each.word_kd and each.word_kd.alpha_schedule for each in found] == [[(0, 0.3)], None]


def test_initial_weights_are_those_of_the_first_stage(load: Load) -> None:
    own = "students.raw={embeddings_from_teacher: true, encoder_layers_from_teacher: [0], train: {init_from: x}}"
    first, second = stages_of(load(own, "students.raw.stages=[{init_optimizer: true}, {}]"))
    assert (first.embeddings_from_teacher, first.encoder_layers_from_teacher) == (True, [0])
    assert (first.train.init_from, first.train.init_optimizer) == ("x", True)
    assert (second.embeddings_from_teacher, second.encoder_layers_from_teacher) == (False, None)
    assert (second.train.init_from, second.train.init_optimizer) == (None, False)


def test_the_checkpoint_that_a_stage_begins_from(load: Load) -> None:
    stages = "students.raw.stages=[{}, {}, {begin_from: average_best}]"
    assert [each.begin_from for each in stages_of(load(stages))] == ["auto", "auto", "average_best"]
    assert [each.begin_from for each in stages_of(load(stages, "students.raw.begin_from=last"))][1:] == [
        "last",
        "average_best",
    ]


def test_a_stage_replaces_the_number_of_checkpoints_by_either_of_its_names(load: Load) -> None:
    given = "[{}, {average_checkpoints: 7}, {average: {n: 8}}, {average: last}, {average: {of: best}}]"
    for own in ("{average: {of: best, n: 3}}", "{average_checkpoints: 3, average: best}"):
        found = stages_of(load(f"students.raw.train={own}", f"students.raw.stages={given}"))
        assert [each.train.average_checkpoints for each in found] == [3, 7, 8, 3, 3]
        assert [each.train.average.of for each in found] == ["best", "best", "best", "last", "best"]


def test_the_recipe_of_a_student_is_below_the_settings_of_its_stages(load: Load) -> None:
    own = "students.raw={recipe: ctc_glat, data: raw, train: {lr: 0.25, max_source_tokens: 60, max_target_tokens: 60}}"
    stages = "students.raw.stages=[{}, {weight_decay: 0.5, nat: {glancing: [[0, 0.1]], upsample: 3}, average: {n: 9}}]"
    first, second = stages_of(load(own, stages))
    assert [(each.train.lr, each.train.clip_norm, each.recipe) for each in (first, second)] == [
        (0.25, 2.0, "ctc_glat")
    ] * 2
    assert [each.train.weight_decay for each in (first, second)] == [0.01, 0.5]
    assert [each.train.average_checkpoints for each in (first, second)] == [5, 9]
    assert first.nat is not None
    assert second.nat == first.nat.model_copy(update={"glancing": [(0, 0.1)], "upsample": 3})


def test_an_override_of_a_setting_of_a_stage(load: Load) -> None:
    found = stages_of(load("students.raw.stages=[{}, {lr: 0.1}]", "students.raw.stages.1.lr=0.2"))
    assert found[1].train.lr == 0.2


def test_a_resolved_pipeline_with_stages_is_the_same_pipeline(load: Load) -> None:
    config = load("students.raw.stages=[{lr: 0.1}, {nat: null, word_kd: {skew: 0.2, divergence: skewed_kl}}]")
    assert Pipeline.model_validate(resolved(config)) == config


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ("[]", "students.raw.stages: the list is too short"),
        ("[1]", "students.raw.stages.0: expected a mapping"),
        ("[{lrr: 1}]", "students.raw.stages.0.lrr: unknown setting"),
        (
            "[{}, {lr: -1}]",
            "students.raw.stages.1.lr: should be greater than 0 (it is -1) [Learning rate at the",
        ),
        ("[{}, {word_kd: {alpha: 2.0}}]", "students.raw.stages.1.word_kd.alpha: should be less than or equal to 1"),
        ("[{}, {word_kd: {skew: 0.3}}]", "students.raw.stages.1.word_kd: 'skew' has no effect unless"),
        ("[{max_updates: 0}, {lr: -1}]", "students.raw.stages.0.max_updates: should be greater than or equal to 1"),
        (
            "[{best_metric: chrf, validate_bleu: false}]",
            "students.raw.stages.0: 'best_metric: chrf' needs",
        ),
        ("[{}, {nat: {family: ctc}, word_kd: {}}]", "students.raw.stages.1: 'nat.family: ctc' cannot have 'word_kd'"),
        ("[{recipe: nat_small}]", "students.raw: 'stages.0.recipe': the recipe is that of the student"),
        ("[{seeds: [2]}]", "students.raw: 'stages.0.seeds': every seed is trained in all stages"),
        ("[{}, {stages: []}]", "students.raw: 'stages.1.stages': a stage has no stages"),
        ("[{train: {lr: 0.1}}]", "students.raw: 'stages.0.train': a stage has the settings of 'train' directly"),
        (
            "[{}, {init_from: x}]",
            "students.raw: 'stages.1.init_from': a stage begins from the weights of",
        ),
        ("[{}, {embeddings_from_teacher: true}]", "students.raw: 'stages.1.embeddings_from_teacher': a stage begins"),
        ("[{begin_from: last}]", "students.raw: 'stages.0.begin_from': no stage comes before the first"),
        ("[{}, {begin_from: x}]", "students.raw.stages.1.begin_from: should be 'auto', 'best'"),
        (
            "[{}, {model: {encoder_layers: 3}}]",
            "students.raw: 'stages.1.model.encoder_layers': all stages have the",
        ),
        ("[{}, {data: nbest}]", "'students.raw.stages.1.data: nbest' is made of the n-best"),
        ("[{}, {data: imported}]", "'students.raw.stages.1.data: imported' needs the file 'distill.imported'"),
        ("[{self_supervised: {monolingual: true}}]", "'students.raw.stages.0.self_supervised.monolingual' needs"),
        (
            "[{}, {word_kd: {source: cache, temperature: 3.0}}]",
            "'students.raw.stages.1.word_kd.temperature' (3) is none of 'knowledge.temperatures'",
        ),
    ],
)
def test_wrong_settings_of_a_stage_are_named(problem: Callable[..., str], stages: str, expected: str) -> None:
    assert problem(f"students.raw.stages={stages}").startswith(expected)


def test_begin_from_has_no_effect_without_stages(problem: Callable[..., str]) -> None:
    assert problem("students.raw.begin_from=last") == "'students.raw.begin_from' has no effect without 'stages'"


def test_dropout_can_be_different_in_a_stage(load: Load) -> None:
    found = stages_of(load("students.raw.stages=[{}, {model: {dropout: 0.3, attention_dropout: 0.2}}]"))
    assert [(each.model.dropout, each.model.attention_dropout) for each in found] == [(0.1, None), (0.3, 0.2)]


@pytest.mark.parametrize(
    ("training", "setting", "expected"),
    [
        ("teacher", "train.lr", "teacher.train.lr"),
        ("students.a", "train.lr", "students.a.train.lr"),
        ("students.a.stages.1", "train.lr", "students.a.stages.1.lr"),
        ("students.a.stages.1", "model.dropout", "students.a.model.dropout"),
        ("students.a.stages.1", "seeds", "students.a.seeds"),
        ("teacher.stages.1", "seed", "teacher.seed"),
        ("teacher.stages.1", "right_to_left", "teacher.right_to_left"),
        ("teacher", "right_to_left", "teacher.right_to_left"),
        ("students.a.stages.1", "nat.family", "students.a.stages.1.nat.family"),
    ],
)
def test_yaml_path_of_a_setting(training: str, setting: str, expected: str) -> None:
    assert setting_path(training, setting) == expected


def test_a_later_stage_may_have_a_fine_tuning_loss() -> None:
    """The other settings of the section `nat` are those of the student."""
    stages = [{"max_updates": 10}, {"nat": {"loss": "nmla"}, "lr": 3e-4}, {"convex": {"power": 2.0}}]
    student = Student.model_validate({"nat": {"family": "ctc", "upsample": 2}, "stages": stages})
    found = student.in_stages()
    assert [each.nat.loss for each in found if each.nat is not None] == ["likelihood", "nmla", "likelihood"]
    assert all(each.nat is not None and each.nat.upsample == 2 for each in found)
    assert [None if each.convex is None else each.convex.power for each in found] == [None, None, 2.0]


def test_a_teacher_has_stages_as_a_student(load: Load) -> None:
    plain = load()
    assert plain.teacher_trainings() == [("teacher", plain.teacher)]
    stages = "teacher.stages=[{lr: 0.1, init_optimizer: true}, {model: {dropout: 0.3}, max_updates: 7}]"
    config = load(stages, "teacher.train.init_from=x")
    (first_path, first), (second_path, second) = config.teacher_trainings()
    assert (first_path, second_path) == ("teacher.stages.0", "teacher.stages.1")
    assert (first.train.lr, first.train.init_from, first.train.init_optimizer) == (0.1, "x", True)
    own = config.teacher.train
    assert (second.train.lr, second.train.init_from, second.train.init_optimizer) == (own.lr, None, False)
    assert (second.train.max_updates, second.model.dropout, second.seed) == (7, 0.3, config.teacher.seed)
    assert first.stages is second.stages is None


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ("[{}, {init_from: x}]", "'stages.1.init_from': a stage begins from the weights of the stage before"),
        ("[{begin_from: last}]", "'stages.0.begin_from': no stage comes before the first"),
        ("[{seed: 2}]", "'stages.0.seed': all stages have the same seed"),
        ("[{}, {model: {encoder_layers: 5}}]", "'stages.1.model.encoder_layers': all stages have the same model"),
        ("[{lr: 0}]", "stages.0.train.lr"),
        ("[{train: {lr: 1.0}}]", "'stages.0.train': a stage has the settings of 'train' directly"),
    ],
)
def test_stages_of_a_teacher_are_checked(load: Load, stages: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        load(f"teacher.stages={stages}")
    assert message in str(error.value)


def test_a_teacher_without_stages_begins_from_none(load: Load) -> None:
    with pytest.raises(UserError, match=r"'teacher\.begin_from' has no effect without 'stages'"):
        load("teacher.begin_from=last")


def test_a_stage_is_aware_of_quantization(load: Load) -> None:
    stages = "[{}, {quantization_aware: int8_matrix, lr: 0.0001, patience: 3}]"
    first, second = load(f"students.raw={{train: {{lr: 0.001}}, stages: {stages}}}").students["raw"].in_stages()
    assert (first.train.quantization_aware, first.train.lr, first.train.patience) == (None, 0.001, 0)
    assert (second.train.quantization_aware, second.train.lr, second.train.patience) == ("int8_matrix", 0.0001, 3)
