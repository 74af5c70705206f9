"""Non-autoregressive students that are not supported, through the command line: refused before training begins."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from bad_input import refused, unharmed


@pytest.fixture(scope="module")
def _refusing_once(_finished_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("students")
    shutil.copytree(_finished_once, folder, dirs_exist_ok=True)
    return folder


@pytest.fixture
def refusing(_refusing_once: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Enter the working folder of tests that change nothing: the finished pipeline."""
    monkeypatch.chdir(_refusing_once)


RAW = "students.raw"
NOT_THE_TARGETS = "its positions are not the target's"
A_DRAFTS = "its positions are a draft's, not the target's"
NOT_THE_TEACHERS = "its decoder is not its teacher's"


@pytest.mark.usefixtures("refusing")
@pytest.mark.parametrize(
    ("nat", "more", "message"),
    [
        *(
            (f"{{family: {family}}}", f"{loss}={{}}", f"'nat.family: {family}' cannot have '{what}': {why}")
            for family, why in [
                ("ctc", NOT_THE_TARGETS),
                ("dag", NOT_THE_TARGETS),
                ("levenshtein", A_DRAFTS),
                ("insertion", A_DRAFTS),
            ]
            for loss, what in [
                ("word_kd", "word_kd"),
                ("hidden_kd", "hidden_kd.decoder"),
                ("attention_kd", "attention_kd.decoder_self"),
            ]
        ),
        (
            "{family: ctc}",
            "attention_kd={decoder_self: none}",
            f"'nat.family: ctc' cannot have 'attention_kd.cross': {NOT_THE_TARGETS}; 'none' leaves the encoder",
        ),
        ("{family: nat}", "on_policy={}", f"'nat.family: nat' cannot have 'on_policy': {NOT_THE_TEACHERS}"),
        ("{family: cmlm}", "online={kind: ema}", f"'nat.family: cmlm' cannot have 'online': {NOT_THE_TEACHERS}"),
        (
            "{family: ctc}",
            "self_supervised={}",
            "'nat.family: ctc' cannot have 'self_supervised': only families whose positions are the target's have it",
        ),
        (
            "{family: dag}",
            "data=nbest",
            "'nat.family: dag' cannot have 'data: nbest': its loss has no weights of sentences",
        ),
        ("{family: cmlm, glancing: [[0, 0.5]]}", None, "'glancing' is a setting of nat, ctc, dag, not of 'cmlm'"),
        ("{family: nat, upsample: 2}", None, "'upsample' is a setting of ctc, dag, not of 'nat'"),
        ("{family: ctc, length_weight: 0.2}", None, "'length_weight' is a setting of nat, cmlm, inat, nat_crf, not"),
        ("{family: nat, distance: levenshtein}", None, "'distance' has no effect unless 'glancing' is set"),
        ("{family: glat}", None, "students.raw.nat.family"),
    ],
)
def test_a_family_with_unsupported_settings_is_refused(nat: str, more: str | None, message: str) -> None:
    sets = (f"students.raw.nat={nat}", *([f"students.raw.{more}"] if more else []))
    with unharmed():
        error = refused("student", "tiny.yaml", "--student", "raw", sets=sets)
    assert message in error
    assert error.startswith("tiny.yaml: students.raw")


@pytest.mark.usefixtures("refusing")
@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (
            (
                "score.nat.length_beam=30",
                "students.raw.model.max_target_positions=20",
                "students.raw.train.max_target_tokens=20",
            ),
            "score.nat.length_beam (30) is more than the lengths that "
            "students.raw.model.max_target_positions (20) leaves",
        ),
        (
            (
                "students.raw.nat={family: cmlm}",
                "students.raw.model.max_target_positions=20",
                "students.raw.train.max_target_tokens=20",
                "score.nat.cmlm_length_beam=30",
            ),
            "score.nat.cmlm_length_beam (30) is more than the lengths that ",
        ),
        (("score.nat.length_beam=257",), "score.nat.length_beam"),
        (("score.nat.rescore=true",), "'rescore' chooses among lengths: set 'length_beam' to more than 1"),
        (("score.nat.eos_penalty=-1",), "score.nat.eos_penalty"),
        (
            ("score.nat={length_beam: 5, rescore: true}", "students.raw.model.max_target_positions=2000"),
            "score.nat.rescore: students.raw.model.max_target_positions (2000) is more than "
            "teacher.model.max_target_positions",
        ),
        (("score.nat.ctc_length_bonus=1.0",), "'ctc_length_bonus' has no effect unless 'ctc_lm' is set"),
        (("score.nat.dag_lenpen=0.5",), "'dag_lenpen' has no effect unless 'dag' is 'viterbi'"),
        (
            ("students.raw.nat.deep_supervision=1.0",),
            "students.raw.nat.deep_supervision: a decoder of one layer has no lower ones",
        ),
        (
            (f"{RAW}.nat.family=ctc", f"{RAW}.embeddings_from_teacher=true", f"{RAW}.model.decoder_learned_pos=true"),
            "students.raw.embeddings_from_teacher: the decoder of 'nat.family: ctc' has other positions than",
        ),
        (("score.nat={ctc_beam: 4, ctc_lm: gone.arpa}",), "score.nat.ctc_lm: gone.arpa: no such file"),
        (
            (
                f"{RAW}.nat.family=ctc",
                f"{RAW}.model.encoder_embed_dim=48",
                f"{RAW}.model.share_all_embeddings=false",
                f"{RAW}.model.share_decoder_input_output_embed=true",
            ),
            "students.raw.model: the decoder of 'nat.family: ctc' starts from the source's embeddings: encoder_embed",
        ),
        (("score.iterations=[4, 4]",), "'iterations' holds a number twice"),
        (("score.nat.ctc_lm=pieces.arpa",), "'ctc_lm' needs prefix beam search: set 'ctc_beam' to more than 1"),
    ],
)
def test_unsupported_decoding_settings_are_refused_before_training(sets: tuple[str, ...], message: str) -> None:
    with unharmed():
        error = refused("student", "tiny.yaml", "--student", "raw", sets=("students.raw.nat={family: cmlm}", *sets))
    assert message in error
