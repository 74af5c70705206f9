"""Languages written without spaces, and codes of any form, through the stages of a tiny pipeline."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
from bad_input import refused, unharmed
from tiny_pipeline import TEACHER_TRAIN, kdmt, read_lines, run_stages, settings, to_yaml, write_lines

from kdmt.checksum import file_sha256
from kdmt.models.checkpoint_folder import resolve_checkpoint
from kdmt.score.metrics import sentence_bleu

TINY = Path("runs/tiny")
FINDER = importlib.util.find_spec
SPELLED = str.maketrans(
    {"o": "ก", "k": "า", "u": "ร", "i": "เ", "l": "ด", "p": "ิ", "r": "น", "m": "ท", " ": None}
)  # a made-up language in Thai letters


def without_mecab(name: str, package: str | None = None) -> Any:
    return None if name in ("MeCab", "mecab_ko") else FINDER(name, package)


def write_document(lang: str, **changed: Any) -> None:
    document = settings()
    text = json.dumps(document["prepare"]).replace('.de"', f'.{lang}"')
    document["prepare"] = json.loads(text)
    document["prepare"]["tokenizer"] = {"vocab_size": 26}
    document["target_lang"] = lang
    document["distill"]["decode"] |= {"beam": 3, "nbest": 3}
    document["students"]["near"] = document["students"]["raw"] | {"data": "interpolated"}
    document["teacher"]["train"] = TEACHER_TRAIN | {"max_updates": 240, "validate_interval_updates": 60}
    document |= changed
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")


def write_text(lang: str) -> None:
    """Write the text of the tiny pipeline without spaces on its target side."""
    for split in ("train", "valid", "test"):
        write_lines(
            Path(f"text/{split}.{lang}"), [line.translate(SPELLED) for line in read_lines(Path(f"text/{split}.de"))]
        )


def read_json(name: str) -> Any:
    return json.loads((TINY / name).read_text(encoding="utf-8"))


def validations(run: str = "teacher") -> list[dict[str, Any]]:
    records = [json.loads(line) for line in read_lines(TINY / run / "metrics.jsonl")]
    return [record for record in records if record["kind"] == "valid"]


@pytest.fixture(scope="module")
def _thai_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tiny_pipeline

    folder = tmp_path_factory.mktemp("thai")
    tiny_pipeline.write_pipeline(folder)
    with tiny_pipeline.working_in(folder):
        write_text("th")
        write_document("th")
        run_stages("prepare", "teacher", "distill", "student", "score")
    return folder


@pytest.fixture
def thai(_thai_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the working folder with a finished run into a language without spaces, with default settings."""
    shutil.copytree(_thai_once, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)


@pytest.mark.usefixtures("thai")
def test_no_pair_is_dropped_because_it_has_no_spaces() -> None:
    report = read_json("prepare/report.json")
    assert report["pairs_out"] == 80
    sides = zip(read_lines(Path("text/train.en")), read_lines(Path("text/train.th")), strict=True)
    ratios = sorted(len(target) / len(source) for source, target in sides)
    assert ratios[39] * 0.999 <= report["typical_ratio"] <= ratios[40] * 1.001


@pytest.mark.usefixtures("thai")
def test_validation_bleu_uses_characters() -> None:
    assert read_json("teacher/validation.json") == {"bleu_tokenizer": "char"}
    assert validations()[-1]["bleu"] > 5


@pytest.mark.usefixtures("thai")
def test_distillation_measures_and_chooses_by_characters() -> None:
    facts = read_json("distill/manifest.json")["facts"]
    assert "tok:char" in facts["bleu_signature"]
    assert set(facts["failures"]) <= {"too_long", "repetition", "copied", "empty"}  # `ratio` replaced 96% before
    assert 5 < facts["diagnostics"]["types_distilled"] <= 8  # letters, not whole lines
    assert read_json("interpolated/manifest.json")["settings"]["bleu_tokenizer"] == "char"
    numbers = {}
    for line in read_lines(TINY / "distill/nbest"):
        number, _, _, failure, words = line.split("\t")
        if failure == "-" and words.strip():
            numbers.setdefault(int(number), []).append(words)
    references = read_lines(TINY / "prepare/train.th")
    rejected = {int(line.split("\t")[0]) for line in read_lines(TINY / "interpolated/rejected") if line}
    chosen = read_lines(TINY / "interpolated/distilled.th")
    several = 0
    for index, reference in enumerate(references):  # all lines are different sentences here
        if index in rejected:
            continue
        scores = [sentence_bleu(words, reference, tokenize="char").value for words in numbers[index]]
        assert sentence_bleu(chosen[index], reference, tokenize="char").value == pytest.approx(max(scores))
        several += len(set(scores)) > 1
    assert several > 20


@pytest.mark.usefixtures("thai")
def test_scores_use_characters() -> None:
    references = [read_lines(Path("text/test.th"))]
    for row in read_json("scores.json"):
        assert "tok:char" in row["bleu_signature"]
        name = f"{row['system']}.seed_1.test.beam{row['beam']}.th"
        expected = sacrebleu.corpus_bleu(read_lines(TINY / "score" / name), references, tokenize="char").score
        assert row["bleu"] == pytest.approx(expected)
    assert read_json("score/manifest.json")["settings"]["score.tokenize"] == "char"


@pytest.mark.slow
@pytest.mark.usefixtures("thai")
def test_another_tokenizer_for_scores_leaves_training_up_to_date() -> None:
    stderr = [result.err for result in run_stages("teacher", "distill", "student", sets=["score.tokenize=intl"])]
    assert all("rebuilt" not in each and "going on" not in each for each in stderr)
    assert read_json("teacher/validation.json") == {"bleu_tokenizer": "char"}
    assert "score.tokenize changed from 'char' to 'intl'" in run_stages("score", sets=["score.tokenize=intl"])[0].err


@pytest.mark.usefixtures("thai")
def test_references_as_translations_are_no_failures() -> None:
    """Check that references imported as the translations of another system are not replaced."""
    write_lines(Path("theirs"), [f"{n}\t{line}" for n, line in enumerate(read_lines(Path("text/train.th")))])
    document = settings()["students"]["raw"] | {"data": "imported"}
    write_document("th", students={"theirs": document})
    run_stages("distill", sets=["distill.imported=theirs"])
    facts = read_json("imported/manifest.json")["facts"]
    assert facts["failures"] == {}
    assert facts["bleu_against_reference"] == pytest.approx(100)


# ----------------------------------------------------------------------------------------------------- missing packages


@pytest.mark.usefixtures("finished")
def test_a_tokenizer_without_its_package_is_refused_when_the_pipeline_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", without_mecab)
    with unharmed():
        for name, extra in (("ja-mecab", "ja"), ("ko-mecab", "ko")):
            message = refused("prepare", "tiny.yaml", sets=(f"score.tokenize={name}",))
            install = f"needs packages that are not installed: pip install 'kdmt[{extra}]'"
            assert message == f"tiny.yaml: score: 'tokenize: {name}' {install}"
            message = refused("generate", "runs/tiny/prepare/data-bin", "--path", "x", "--sacrebleu-tokenizer", name)
            assert message == f"--sacrebleu-tokenizer {name}: {install}"


@pytest.mark.usefixtures("pipeline")
def test_a_resumed_run_keeps_its_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    write_text("ja")
    write_document("ja")
    with monkeypatch.context() as missing:
        missing.setattr(importlib.util, "find_spec", without_mecab)
        stderr = run_stages("prepare", "teacher", sets=["teacher.train.max_updates=20"])[1].err
        assert "BLEU of ja is tokenised by char: sacreBLEU's ja-mecab needs pip install 'kdmt[ja]'" in stderr
    assert read_json("teacher/validation.json") == {"bleu_tokenizer": "char"}
    run_stages("teacher", sets=["teacher.train.max_updates=40"])
    assert read_json("teacher/validation.json") == {"bleu_tokenizer": "char"}
    run_stages("teacher", sets=["teacher.train.max_updates=40", "teacher.seed=2"])  # a new run
    assert read_json("teacher/validation.json") == {"bleu_tokenizer": "ja-mecab"}
    monkeypatch.setattr(importlib.util, "find_spec", without_mecab)
    message = refused("teacher", "tiny.yaml", sets=("teacher.train.max_updates=60", "teacher.seed=2"))
    assert message == (
        "runs/tiny/teacher: begun with sacreBLEU's tokenizer ja-mecab, whose packages are missing: "
        "pip install 'kdmt[ja]'"
    )


# ------------------------------------------------------------------------------------------ outputs of earlier versions


@pytest.mark.usefixtures("finished")
def test_scores_of_13a_are_up_to_date_if_auto_resolves_to_it() -> None:
    assert read_json("score/manifest.json")["settings"]["score.tokenize"] == "13a"
    for sets in ((), ("score.tokenize=13a",)):
        assert "score: up to date, nothing to do" in run_stages("score", sets=sets)[0].err


@pytest.mark.usefixtures("finished")
def test_records_without_ratio_and_tokenizer_are_up_to_date() -> None:
    near = settings()
    near["students"]["near"] = near["students"]["raw"] | {"data": "interpolated"}
    near["distill"]["decode"] |= {"beam": 2, "nbest": 2}
    Path("tiny.yaml").write_text(to_yaml(near), encoding="utf-8")
    run_stages("distill", "student")
    for stage, names in (("distill", {"typical_ratio"}), ("interpolated", {"typical_ratio", "bleu_tokenizer"})):
        made = read_json(f"{stage}/manifest.json")
        assert names <= made["settings"].keys()
        for name in names:
            del made["settings"][name]
        (TINY / stage / "manifest.json").write_text(json.dumps(made), encoding="utf-8")
    (TINY / "teacher/validation.json").unlink()
    stderr = [result.err for result in run_stages("teacher", "distill", "student")]
    assert all("rebuilt" not in each and "going on" not in each for each in stderr)
    run_stages("teacher", sets=["teacher.train.max_updates=61"])
    assert read_json("teacher/validation.json") == {"bleu_tokenizer": "13a"}


@pytest.mark.usefixtures("thai")
def test_text_without_spaces_that_was_cleaned_by_words_is_cleaned_again() -> None:
    made = read_json("prepare/manifest.json")
    assert made["settings"].pop("lengths") == "characters"
    (TINY / "prepare/manifest.json").write_text(json.dumps(made), encoding="utf-8")
    stderr = run_stages("prepare")[0].err
    assert "prepare: rebuilt: the setting lengths changed from 'words' to 'characters'" in stderr


@pytest.mark.usefixtures("finished")
def test_another_typical_ratio_makes_a_training_set_out_of_date() -> None:
    report = TINY / "prepare/report.json"
    values = json.loads(report.read_text(encoding="utf-8"))
    recorded = read_json("distill/manifest.json")["settings"]["typical_ratio"]
    assert recorded == values["typical_ratio"]
    made = read_json("prepare/manifest.json")
    report.write_text(json.dumps(values | {"typical_ratio": 2.5}), encoding="utf-8")
    made["outputs"]["report.json"] = file_sha256(report)
    (TINY / "prepare/manifest.json").write_text(json.dumps(made), encoding="utf-8")
    stderr = run_stages("distill")[0].err
    assert f"the setting typical_ratio changed from {recorded} to 2.5" in stderr
    stderr = run_stages("distill", sets=["distill.failures.max_ratio=0"])[0].err
    assert "typical_ratio is gone" in stderr
    del values["typical_ratio"]  # as in earlier reports: the ratio of the text is used, and the stage stays up to date
    report.write_text(json.dumps(values), encoding="utf-8")
    made["outputs"]["report.json"] = file_sha256(report)
    (TINY / "prepare/manifest.json").write_text(json.dumps(made), encoding="utf-8")
    stderr = run_stages("distill", sets=["distill.failures={max_ratio: 0, repetition_times: 0}"])[0].err
    assert "typical_ratio" not in stderr


# -------------------------------------------------------------------------------------------------------- best metric


@pytest.mark.usefixtures("pipeline")
def test_the_best_checkpoint_is_chosen_by_chrf() -> None:
    document = settings()
    document["teacher"]["train"] |= {"best_metric": "chrf", "validate_interval_updates": 10}
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    stderr = run_stages("prepare", "teacher")[1].err
    found = validations()
    assert len({record["chrf"] for record in found}) > 1
    best = max(found, key=lambda record: record["chrf"])  # the first of equals
    assert read_json("teacher/manifest.json")["facts"]["best_update"] == best["update"]
    assert resolve_checkpoint(TINY / "teacher/best").name.endswith(f"_{best['update']}")
    assert re.search(rf"bleu {found[-1]['bleu']:.2f} chrf {found[-1]['chrf']:.2f}", stderr)


# ----------------------------------------------------------------------------------------------------- language codes


@pytest.mark.usefixtures("pipeline")
def test_language_tags_with_hyphens_are_used_in_file_names() -> None:
    """Check zh-Hans to zh-Hant, which both have a hyphen: kdmt parses the names in its data-bin correctly."""
    document = settings() | {"source_lang": "zh-Hans", "target_lang": "zh-Hant"}
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    run_stages("prepare", "teacher", "distill", "student", sets=["students.raw.train.max_updates=2"])
    names = {path.name for path in (TINY / "prepare/data-bin").iterdir()}
    assert {"dict.zh-Hans.txt", "train.zh-Hans-zh-Hant.zh-Hans.bin", "train.zh-Hans-zh-Hant.zh-Hant.idx"} <= names
    lines = b"ba be\nda\n"
    result = kdmt("translate", "runs/tiny/teacher/average", stdin=lines)
    assert result.code == 0, result.err
    assert len(result.out.splitlines()) == 2


@pytest.mark.usefixtures("pipeline")
def test_too_little_text_for_the_tokenizer_names_the_cleaning_rules() -> None:
    long = [f"{'ba ' * 30}{number}" for number in range(70)]
    for lang in ("en", "de"):
        path = Path(f"text/train.{lang}")
        write_lines(path, [*read_lines(path)[:10], *(f"{lang[0]}u {line}" for line in long)])
    message = refused("prepare", "tiny.yaml", sets=("prepare.clean.max_words=20", "prepare.tokenizer.vocab_size=200"))
    assert re.fullmatch(
        r"cleaning leaves 10 of 80 training pairs, too few to learn the tokenizer from; dropped: "
        r"max_words 70 \(88%\); max_words dropped 'eu ba [^']*' -> 'du ba [^']*', for example",
        message,
    )
    message = refused("prepare", "tiny.yaml", sets=("prepare.tokenizer.vocab_size=2000",))
    assert "tokenizer.vocab_size 2000" in message  # nothing was dropped
    stderr = run_stages("prepare", sets=["prepare.clean.max_words=20"])[0].err
    assert "prepare: warning: train.0 text/train.en: 70 of 80 pairs dropped (88%): max_words 70 (88%)\n" in stderr
    assert stderr.count("prepare:   max_words: ") == 3
