"""Distillation settings that cannot work, through the command line: refused before training, with YAML path or file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bad_input import refused, unharmed
from tiny_pipeline import MODEL, hash_tree, read_lines, run_stages, working_in, write_lines

from kdmt.checksum import file_sha256

TINY = Path("runs/tiny")
RAW = TINY / "students/raw/seed_1"
CACHE = TINY / "knowledge/raw"
ELSEWHERE = Path("elsewhere")  # a teacher from outside the pipeline
FROM_ELSEWHERE = "students.raw.word_kd={teachers: [elsewhere]}"
FROM_CACHE = "students.raw.word_kd={source: cache}"
CACHED = (FROM_CACHE, "knowledge.block_size=30", "knowledge.threads=1")


@pytest.fixture(scope="module")
def _refusing_once(_finished_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refusing")
    shutil.copytree(_finished_once, folder, dirs_exist_ok=True)
    with working_in(folder):
        run_stages("knowledge", sets=CACHED)
        take_teacher_elsewhere()
    return folder


@pytest.fixture
def refusing(_refusing_once: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Enter the working folder of all tests that change nothing.

    It holds the finished pipeline with a knowledge cache of its raw training set (80 sentences in 3 blocks), and a
    teacher outside the pipeline.
    """
    monkeypatch.chdir(_refusing_once)


def untaught(*settings: str) -> str:
    """Return the message with which a trained student is refused; check that none of its files is moved or written."""
    with unharmed():
        return refused("student", "tiny.yaml", "--student", "raw", sets=settings)


def take_teacher_elsewhere() -> None:
    shutil.copytree(TINY / "teacher/average", ELSEWHERE)


def write_teacher_elsewhere(**shape: int) -> None:
    """Write a checkpoint of another shape with the pipeline's vocabulary."""
    from kdmt.corpus.codec import TextCodec
    from kdmt.models.architecture import architecture
    from kdmt.models.build import build_transformer
    from kdmt.models.checkpoint import save_checkpoint

    codec = TextCodec.load(TINY / "prepare")
    fields = {name: value for name, value in MODEL.items() if name != "arch"}
    model = build_transformer(
        architecture("transformer_tiny", fields | shape),
        src_vocab_size=len(codec.src_dictionary),
        tgt_vocab_size=len(codec.tgt_dictionary),
    )
    save_checkpoint(ELSEWHERE, model, companions=codec.companions(TINY / "prepare"))


def edit_json(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    edit(document)
    path.write_text(json.dumps(document), encoding="utf-8")


# -------------------------------------------------------------------------------------------------------- vocabularies


def swap_symbols(path: Path) -> str:
    lines = read_lines(path)
    write_lines(path, [*lines[:5], lines[6], lines[5], *lines[7:]])
    return f"{path} does not match runs/tiny/prepare/{path.name}: 32 symbols against 32, different from symbol 9 on"


def leave_symbols_out(path: Path) -> str:
    write_lines(path, read_lines(path)[:-8])
    return f"{path} does not match runs/tiny/prepare/{path.name}: 24 symbols against 32, different from symbol 24 on"


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize(
    ("exchange", "lang", "teachers"),
    [
        (swap_symbols, "en", "[elsewhere]"),
        (swap_symbols, "de", "[elsewhere]"),
        (leave_symbols_out, "de", "[runs/tiny/teacher, elsewhere]"),
    ],
)
def test_a_teacher_with_another_vocabulary_is_refused(
    exchange: Callable[[Path], str], lang: str, teachers: str
) -> None:
    """Check that a teacher with other symbols is refused although its checksums are correct."""
    take_teacher_elsewhere()
    path = ELSEWHERE / f"dict.{lang}.txt"
    problem = exchange(path)
    edit_json(ELSEWHERE / "checksums.json", lambda sums: sums.update({path.name: file_sha256(path)}))
    assert untaught(f"students.raw.word_kd={{teachers: {teachers}}}") == problem


@pytest.mark.usefixtures("finished")
def test_a_teacher_of_other_languages_is_refused() -> None:
    take_teacher_elsewhere()
    (ELSEWHERE / "dict.de.txt").rename(ELSEWHERE / "dict.fr.txt")
    message = untaught(FROM_ELSEWHERE)
    assert message == "elsewhere/dict.de.txt: there is no such file: the checkpoint was made for another language pair"


@pytest.mark.usefixtures("finished")
def test_a_missing_or_damaged_teacher_is_refused() -> None:
    nothing = "neither a checkpoint folder nor a run that has one: there is no such file or folder"
    assert untaught(FROM_ELSEWHERE) == f"elsewhere: {nothing}"
    take_teacher_elsewhere()
    path = ELSEWHERE / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-2] + b"ab")
    assert untaught(FROM_ELSEWHERE) == f"{path}: damaged: its sha256 is not the one in checksums.json"


# --------------------------------------------------------------------------------------------------- layers and heads


@pytest.mark.usefixtures("refusing")
@pytest.mark.parametrize("teacher", ["the pipeline's", "elsewhere"])
@pytest.mark.parametrize(
    ("lesson", "problem"),
    [
        ("hidden_kd={encoder: [[1, 0]]}", "hidden_kd.encoder: [1, 0]: the student has no layer 1, only 0 to 0"),
        ("hidden_kd={decoder: [[0, 0], [0, 7]]}", "hidden_kd.decoder: [0, 7]: the teacher has no layer 7, only 0 to 0"),
        ("hidden_kd={decoder: 'last:2'}", "hidden_kd.decoder: 'last:2': the student has 1 layers, the teacher 1"),
        (
            "attention_kd={encoder_self: [[0, 1]]}",
            "attention_kd.encoder_self: [0, 1]: the teacher has no layer 1, only 0 to 0",
        ),
        (
            "attention_kd={decoder_self: [[7, 0]]}",
            "attention_kd.decoder_self: [7, 0]: the student has no layer 7, only 0 to 0",
        ),
        ("attention_kd={cross: 'last:2'}", "attention_kd.cross: 'last:2': the student has 1 layers, the teacher 1"),
        ("attention_kd={heads: [0, 2]}", "attention_kd.heads: the teacher's encoder has no head 2, only 0 to 1"),
        ("attention_kd={heads: [0]}", "attention_kd.heads: 1 heads are chosen, the student's encoder has 2"),
        (
            "attention_kd={encoder_self: none, heads: [0, 2]}",
            "attention_kd.heads: the teacher's decoder has no head 2, only 0 to 1",
        ),
    ],
)
def test_layers_and_heads_that_do_not_exist_are_refused(lesson: str, problem: str, teacher: str) -> None:
    assert (
        untaught(f"students.raw.{lesson}", *([FROM_ELSEWHERE] if teacher == "elsewhere" else []))
        == f"students.raw.{problem}"
    )


@pytest.mark.usefixtures("finished")
def test_layers_are_checked_against_the_teacher_that_runs_during_training() -> None:
    write_teacher_elsewhere(encoder_layers=3)
    lesson = "students.raw.hidden_kd={encoder: [[0, 2]], decoder: none}"
    assert untaught(lesson) == "students.raw.hidden_kd.encoder: [0, 2]: the teacher has no layer 2, only 0 to 0"
    run_stages("student", sets=[lesson, FROM_ELSEWHERE])


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize("side", ["source", "target"])
def test_a_teacher_with_fewer_positions_than_its_student_is_refused(side: str) -> None:
    problem = f"students.raw.train.max_{side}_tokens (60) is more than the teacher's max_{side}_positions (50)"
    write_teacher_elsewhere(**{f"max_{side}_positions": 50})
    assert untaught(FROM_ELSEWHERE) == problem
    shorter = (f"teacher.model.max_{side}_positions=50", f"teacher.train.max_{side}_tokens=50")
    for source in ("teacher", "cache"):
        assert untaught(f"students.raw.word_kd={{source: {source}}}", *shorter) == problem


@pytest.mark.usefixtures("refusing")
def test_samples_longer_than_the_teachers_positions_are_refused() -> None:
    longer = ("students.raw.model.max_target_positions=65", "students.raw.on_policy={}")
    problem = (
        "students.raw.on_policy: the student's max_target_positions (65) is more than the teacher's (64), "
        "which would have to read its samples"
    )
    assert untaught("students.raw.word_kd={}", *longer) == problem
    assert untaught(FROM_ELSEWHERE, *longer) == problem


# --------------------------------------------------------------------------------------------- settings without effect


@pytest.mark.usefixtures("refusing")
@pytest.mark.parametrize(
    ("lesson", "problem"),
    [
        ("hidden_kd={encoder: none, decoder: none}", "hidden_kd: 'encoder' and 'decoder' are both 'none'"),
        (
            "attention_kd={encoder_self: none, decoder_self: none, cross: none}",
            "attention_kd: 'encoder_self', 'decoder_self' and 'cross' are all 'none'",
        ),
        ("hidden_kd={weight: 0.0}", "hidden_kd.weight: should be greater than 0"),
        ("attention_kd={weight: 0.0}", "attention_kd.weight: should be greater than 0"),
        ("word_kd={alpha: 1.0, min_confidence: 1.0}", "word_kd.min_confidence: should be less than 1"),
        ("word_kd={alpha: 1.0, max_entropy: -0.1}", "word_kd.max_entropy: should be greater than or equal to 0"),
        (
            "word_kd={alpha: 0.0, top1_ranking: 2}",
            "word_kd: 'top1_ranking' is part of the divergence, and 'alpha' is always 0",
        ),
        (
            "word_kd={alpha_schedule: [[0, 0.0], [9, 0.0]], top1_ranking: 2}",
            "word_kd: 'top1_ranking' is part of the divergence, and 'alpha_schedule' is always 0",
        ),
    ],
)
def test_settings_without_effect_are_refused(lesson: str, problem: str) -> None:
    assert untaught(f"students.raw.{lesson}").startswith(f"tiny.yaml: students.raw.{problem}")


@pytest.mark.usefixtures("refusing")
@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (("word_kd={alpha: 0.0}", "online={kind: ema}"), "'online' has no effect"),
        (("word_kd={}", "online={kind: ema}", "teacher_precision=bf16"), "'teacher_precision' has no effect with"),
        (
            ("word_kd={mutual_information: 0.1, marginal_momentum: 0.9}", "online={kind: mutual}"),
            "'word_kd.marginal_momentum' keeps one average",
        ),
        (("word_kd={source: cache, marginal_momentum: 0.9}",), "word_kd: 'marginal_momentum' has no effect with"),
        (("self_supervised={monolingual: true}",), "'students.raw.self_supervised.monolingual' needs 'prepare.mono"),
        (("data=nbest",), "'students.raw.data: nbest' is made of the n-best: set 'distill.decode.nbest'"),
    ],
)
def test_contradictory_settings_are_refused(settings: tuple[str, ...], problem: str) -> None:
    assert problem in untaught(*(f"students.raw.{setting}" for setting in settings))


@pytest.mark.usefixtures("refusing")
def test_on_policy_with_alpha_0_is_refused() -> None:
    message = untaught("students.raw.word_kd={alpha: 0.0}", "students.raw.on_policy={}")
    assert message.startswith("tiny.yaml: students.raw: 'on_policy' has no effect: the divergence at samples has ")


@pytest.mark.usefixtures("finished")
def test_alpha_0_equals_plain_training() -> None:
    plain = file_sha256(RAW / "average/model.safetensors")
    run_stages("student", sets=["students.raw.word_kd={alpha: 0.0}"])
    assert RAW.with_name("seed_1.previous").exists()
    assert file_sha256(RAW / "average/model.safetensors") == plain
    run_stages("student", sets=["students.raw.word_kd={alpha: 0.0, alpha_schedule: [[0, 1.0]], top1_ranking: 2}"])
    assert file_sha256(RAW / "average/model.safetensors") != plain


# ----------------------------------------------------------------------------------------------------------- the cache


@pytest.fixture
def cached(_refusing_once: Path, finished: Path) -> Path:
    """Return the working folder of the finished pipeline with a knowledge cache; the test may change it."""
    shutil.copytree(_refusing_once / CACHE, finished / CACHE)
    return finished


def uncached(*settings: str) -> str:
    """Return the message of `untaught` for a student that learns from the cache."""
    return untaught(*CACHED, *settings)


@pytest.mark.usefixtures("finished")
def test_a_missing_cache_is_refused() -> None:
    message = untaught(FROM_CACHE)
    assert message.startswith("knowledge of raw is not up to date: it was never made. Run `kdmt knowledge` first")


@pytest.mark.usefixtures("refusing")
@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("knowledge.k=4", "the setting knowledge.k changed from 8 to 4"),
        ("distill.checkpoint=best", "the input teacher/average is gone; the input teacher/best is new"),
    ],
)
def test_a_cache_of_other_settings_is_refused(setting: str, reason: str) -> None:
    assert uncached(setting).startswith(f"knowledge of raw is not up to date: {reason}. Run `kdmt knowledge` first")


@pytest.mark.usefixtures("finished")
def test_a_cache_of_another_text_is_refused() -> None:
    distilled, other = "students.raw.data=distilled", "distill.decode.max_len_a=0.0"
    run_stages("knowledge", sets=(*CACHED, distilled))
    run_stages("distill", sets=(other,))
    message = uncached(distilled, other)
    assert message.startswith("knowledge of distilled is not up to date: the input data-bin/train.en-de.de.bin changed")


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize("name", ["data-bin/train.en-de.de.bin", "dict.de.txt", "teacher/average"])
def test_a_cache_of_other_inputs_is_refused(name: str) -> None:
    """Check that a cache of other inputs is refused, also when the manifest records it as made here."""
    path = CACHE / "knowledge.json"
    edit_json(path, lambda header: header["made_from"].update({name: "0" * 64}))
    assert uncached().startswith("knowledge of raw is not up to date: its output knowledge.json was changed. ")
    edit_json(CACHE / "manifest.json", lambda record: record["outputs"].update({path.name: file_sha256(path)}))
    assert uncached() == f"{CACHE}: this knowledge cache is of another {name}; rebuild it with `kdmt knowledge`"


@pytest.mark.usefixtures("cached")
def test_an_unfinished_cache_is_refused_and_completed() -> None:
    made = hash_tree(CACHE)
    edit_json(CACHE / "manifest.json", lambda record: [record.pop(key) for key in ("outputs", "facts", "versions")])
    (CACHE / "manifest.json").rename(CACHE / "plan.json")
    (CACHE / "knowledge.json").unlink()
    (CACHE / "blocks/000002.npy").unlink()
    message = uncached()
    assert message.startswith("knowledge of raw is not up to date: it was started and not finished. ")
    run_stages("knowledge", sets=CACHED)
    assert hash_tree(CACHE) == made


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def flip(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2] + b"ab")


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("blocks/000001.npy", cut_short),
        ("blocks/000001.npy", flip),
        ("blocks/000001.npy", Path.unlink),
        ("marginal.npy", flip),
    ],
)
def test_a_damaged_cache_is_refused_and_made_again(name: str, damage: Callable[[Path], None]) -> None:
    made = hash_tree(CACHE)
    damage(CACHE / name)
    happened = "is missing" if damage is Path.unlink else "was changed"
    message = uncached()
    assert message.startswith(f"knowledge of raw is not up to date: its output {name} {happened}. Run `kdmt knowledge`")
    run_stages("knowledge", sets=CACHED)
    assert hash_tree(CACHE) == made


@pytest.mark.usefixtures("cached")
def test_a_truncated_block_with_a_matching_checksum_is_refused() -> None:
    path = CACHE / "blocks/000001.npy"
    cut_short(path)
    record = {str(path.relative_to(CACHE)): file_sha256(path)}
    edit_json(CACHE / "manifest.json", lambda manifest: manifest["outputs"].update(record))
    assert uncached().startswith(f"{path}: damaged or cut short: ")


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize("k", [32, 10**6])
def test_k_of_the_vocabulary_size_or_more_is_refused(k: int) -> None:
    with unharmed("tiny/knowledge/.raw.lock"):
        message = refused("knowledge", "tiny.yaml", sets=(FROM_CACHE, f"knowledge.k={k}"))
    assert message == f"knowledge.k ({k}) is not less than the vocabulary's 32 tokens"
    assert not CACHE.exists()


@pytest.mark.usefixtures("refusing")
@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("divergence=squared_error", "students.raw.word_kd: 'divergence: squared_error' needs the whole distribution"),
        ("temperature=2.0", "'students.raw.word_kd.temperature' (2) is none of 'knowledge.temperatures'"),
        ("top1_ranking=9", "'students.raw.word_kd.top1_ranking' (9) is more than 'knowledge.k'"),
        ("teachers=[elsewhere]", "students.raw.word_kd: 'teachers' run during training"),
    ],
)
def test_settings_that_a_cache_does_not_support_are_refused(setting: str, problem: str) -> None:
    assert uncached(f"students.raw.word_kd.{setting}").startswith(f"tiny.yaml: {problem}")


@pytest.mark.usefixtures("refusing")
def test_top1_ranking_above_the_vocabulary_size_is_refused() -> None:
    message = untaught("students.raw.word_kd={top1_ranking: 33}")
    assert message == "students.raw.word_kd.top1_ranking (33) is more than the vocabulary's 32 tokens"
