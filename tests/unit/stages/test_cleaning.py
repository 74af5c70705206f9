"""Tests of the rules of the prepare stage that need more than the text: models, commands, the validation set."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_pipeline import kdmt, read_lines, run_stages, settings, to_yaml, write_lines
from tiny_prepare import MADE, report

from kdmt.config import load_pipeline
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.process_pool import mapping_in_order
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.models.checkpoint import load_model
from kdmt.models.checkpoint_folder import resolve_checkpoint
from kdmt.stages import preparation, prepare_cleaning
from kdmt.stages.cleaning import CACHE, distinct_rules, rule_inputs

LENGTH = "import sys\nopen('log', 'a').write('run ')\nfor line in sys.stdin: print(line.count(' '))\n"


def use_rules(*items: object, name: str = "tiny", **changes: object) -> None:
    """Write a pipeline with these rules."""
    document = settings() | changes
    document["name"] = name
    document["prepare"]["clean"] = {"rules": list(items)}
    Path(f"{name}.yaml").write_text(to_yaml(document), encoding="utf-8")


def use_command(program: str = LENGTH, **limits: object) -> None:
    Path("score.py").write_text(program)
    use_rules({"filter": {"command": [sys.executable, "score.py"], "batch_pairs": 30, **limits}})


def dropped() -> dict[str, int]:
    return {rule: count for rule, count in report()["dropped"].items() if count}


@pytest.mark.usefixtures("pipeline")
def test_pairs_are_dropped_by_the_scores_of_a_command() -> None:
    pairs = list(zip(*(read_lines(Path(f"text/train.{lang}")) for lang in ("en", "de")), strict=True))
    expected = [pair for pair in pairs if sum(line.count(" ") for line in pair) >= 4]
    assert 0 < len(expected) < len(pairs)
    use_command(min=4)
    run_stages("prepare")
    made = zip(*(read_lines(MADE / f"train.{lang}") for lang in ("en", "de")), strict=True)
    assert list(made) == expected
    assert dropped() == {"filter": len(pairs) - len(expected)}


@pytest.mark.usefixtures("pipeline")
def test_scores_are_used_again_after_a_failure_and_after_a_change_of_the_limit() -> None:
    use_command(LENGTH + "sys.exit(9) if len(open('log').read()) > 8 else None\n", min=2, retries=0)
    failed = kdmt("prepare", "tiny.yaml")
    assert failed.code == 2
    assert "prepare.clean.rules: filter:" in failed.err
    assert "ended with exit status 9" in failed.err
    Path("log").unlink()
    use_command(min=2)
    run_stages("prepare")
    assert Path("log").read_text() == "run "  # 80 pairs are three batches, two of which were scored before
    use_command(min=3)
    run_stages("prepare")
    assert Path("log").read_text() == "run "
    assert len(list(Path("runs/tiny", CACHE).iterdir())) == 3


@pytest.mark.usefixtures("pipeline")
def test_a_command_with_another_number_of_lines_stops_the_stage() -> None:
    use_command("print(1)", min=2)
    failed = kdmt("prepare", "tiny.yaml")
    assert failed.code == 2
    assert "score.py: wrote 1 lines for 30 pairs" in failed.err
    assert not MADE.exists()


@pytest.mark.usefixtures("pipeline")
def test_a_corpus_may_have_other_filters() -> None:
    use_command(min=99)
    document = settings()
    document["prepare"]["clean"] = {"rules": [{"filter": {"command": [sys.executable, "score.py"], "min": 99}}]}
    document["prepare"]["train"] += [{**document["prepare"]["train"][0], "clean": {"filter": False}}]
    write_lines(Path("text/other.en"), ["ba be bi", "da de di"])
    write_lines(Path("text/other.de"), ["ok uk ik", "olp ulp ilp"])
    document["prepare"]["train"][1] |= {"source": {"path": "text/other.en"}, "target": {"path": "text/other.de"}}
    document["prepare"]["tokenizer"]["vocab_size"] = 20
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    run_stages("prepare")
    assert read_lines(MADE / "train.en") == ["ba be bi", "da de di"]
    assert [corpus["dropped"].get("filter") for corpus in report()["corpora"]] == [80, None]


@pytest.mark.usefixtures("pipeline")
def test_alignment_and_cross_entropy_drop_their_share_of_the_pairs_left() -> None:
    use_rules({"alignment": {"drop_percent": 10}}, {"cross_entropy": {"drop_percent": 25}})
    run_stages("prepare")
    assert dropped() == {"alignment": 8, "cross_entropy": 18}
    assert len(read_lines(MADE / "train.en")) == 80 - 8 - 18


@pytest.mark.usefixtures("finished")
def test_pairs_are_dropped_by_the_scores_of_a_reverse_model() -> None:
    limit = {"reverse": {"checkpoint": "runs/tiny/teacher", "drop_percent": 10}}
    use_rules(limit, name="other", source_lang="de", target_lang="en")
    document = Path("other.yaml").read_text()
    for old, new in ((".en", ".x"), (".de", ".en"), (".x", ".de")):
        document = document.replace(old, new)
    Path("other.yaml").write_text(document)
    done = kdmt("prepare", "other.yaml")
    assert done.code == 0, done.err
    checkpoint = resolve_checkpoint(Path("runs/tiny/teacher"))
    codec, engine = TextCodec.load(checkpoint), TorchEngine(load_model(checkpoint))
    sources, targets = (read_lines(Path(f"text/train.{lang}")) for lang in ("de", "en"))
    found = engine.score_pairs(
        codec.encode_source([codec.text.preprocess_source(line) for line in targets]),
        codec.encode_target([codec.text.preprocess_target(line) for line in sources]),
    )
    worst = set(np.argsort([each.sum(dtype=np.float64) / len(each) for each in found])[:8].tolist())
    kept = [line for number, line in enumerate(sources) if number not in worst]
    assert read_lines(Path("runs/other/prepare/train.de")) == kept
    inputs = json.loads(Path("runs/other/prepare/manifest.json").read_text())["inputs"]
    assert "runs/tiny/teacher" in inputs

    use_rules(limit)  # the model translates from en to de, as this pipeline does
    refused = kdmt("prepare", "tiny.yaml", "--runs", "elsewhere")
    assert refused.code == 2
    assert "reverse: runs/tiny/teacher translates en to de, not de to en" in refused.err


@pytest.mark.usefixtures("pipeline")
def test_a_missing_model_is_named() -> None:
    use_rules({"language": {"identifier": "fasttext", "model": "lid.bin"}})
    refused = kdmt("prepare", "tiny.yaml")
    assert refused.code == 2
    assert "lid.bin" in refused.err


@pytest.mark.usefixtures("pipeline")
def test_rules_of_all_corpora_are_listed_once() -> None:
    document = settings()
    document["prepare"]["clean"] = {"rules": ["numbers"]}
    corpus = document["prepare"]["train"][0]
    document["prepare"]["train"] = [corpus, corpus, {**corpus, "clean": {"numbers": {"min": 0.5}}}]
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    found = list(distinct_rules(load_pipeline(Path("tiny.yaml")).prepare))
    assert [rules.numbers.min for rules in found if rules.numbers is not None] == [1.0, 0.5]


@pytest.mark.usefixtures("pipeline")
@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ({"alignment": {}}, "give 'min' or 'drop_percent'"),
        ({"alignment": {"drop_percent": 100}}, "drop_percent"),
        ({"filter": {"command": [], "min": 0}}, "filter.command"),
        ({"filter": {"command": ["x"], "min": 0, "columns": ["both"]}}, "filter.columns"),
        ({"cross_entropy": {"min": 0, "in_domain_corpus": 1}}, "there is no 'prepare.train.1'"),
        ({"language": {"identifier": "fasttext"}}, "'identifier: fasttext' needs 'model'"),
        ({"language": {"model": "lid.bin"}}, "'identifier: fasttext' needs 'model'"),
        ({"language": {"min": 1.5}}, "language.min"),
    ],
)
def test_settings_that_contradict_are_refused(rule: dict[str, object], problem: str) -> None:
    use_rules(rule)
    refused = kdmt("prepare", "tiny.yaml")
    assert refused.code == 2
    assert problem in refused.err


@pytest.mark.usefixtures("pipeline")
def test_a_model_that_only_monolingual_text_needs_is_an_input() -> None:
    document = settings()
    document["prepare"]["clean"] = {"rules": [{"language": {"identifier": "fasttext", "model": "lid.bin"}}]}
    document["prepare"]["train"][0]["clean"] = {"language": False}
    document["prepare"]["monolingual"] = [{"path": "text/train.en"}]
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    Path("lid.bin").write_bytes(b"a model")
    assert list(rule_inputs(load_pipeline(Path("tiny.yaml")).prepare, {})) == ["lid.bin"]


@pytest.mark.usefixtures("pipeline")
def test_text_in_the_target_language_is_judged_if_the_rule_judges_targets() -> None:
    greek = "Η επιτροπή θα συνεδριάσει ξανά"  # recognised by its script
    latin = "ba be bi bo bu ga ge gi go gu"
    Path("text/mono").write_text(f"{greek}\n{latin}\n", encoding="utf-8")
    for sides, kept in (("source", [greek, latin]), ("target", [greek])):
        document = settings() | {"target_lang": "el"}
        document["prepare"]["clean"] = {"rules": [{"language": {"sides": sides}}]}
        document["prepare"]["train"][0]["clean"] = {"language": False}
        document["prepare"]["monolingual_target"] = [{"path": "text/mono"}]
        Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
        run_stages("prepare")
        assert read_lines(MADE / "monolingual.el") == kept
        assert "up to date" in run_stages("prepare")[0].err
        manifest = json.loads((MADE / "manifest.json").read_text(encoding="utf-8"))
        assert manifest["settings"].pop("side of monolingual_target") == "target"  # as versions that judged the source
        (MADE / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        assert "rebuilt" in run_stages("prepare")[0].err


@pytest.mark.usefixtures("pipeline")
def test_filters_run_in_the_command_with_the_inline_executor(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []
    real = prepare_cleaning.filter_context
    monkeypatch.setattr(
        prepare_cleaning,
        "filter_context",
        lambda *args, **named: counted.append(named["workers"]) or real(*args, **named),
    )
    use_rules({"alignment": {"drop_percent": 10}})
    run_stages("prepare", sets=["prepare.executor=inline", "prepare.workers=2"])
    run_stages("prepare", sets=["prepare.clean.max_words=50", "prepare.workers=2"])
    assert counted == [1, 2]


@pytest.mark.usefixtures("pipeline")
def test_filters_that_are_computed_from_the_text_run_on_ray_where_the_rules_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rules = [{"alignment": {"drop_percent": 10}}, {"cross_entropy": {"drop_percent": 25}}]
    use_rules(*rules)
    run_stages("prepare")
    expected = [read_lines(MADE / f"train.{lang}") for lang in ("en", "de")]
    sent = []

    def on_ray(function: Callable[[Any], Any], workers: int) -> AbstractContextManager[Callable[..., Any]]:
        sent.append(pickle.dumps(function))
        return mapping_in_order(pickle.loads(sent[-1]), workers)

    monkeypatch.setattr(preparation, "mapping_on_ray", on_ray)
    use_rules(*rules, name="other")
    done = kdmt("prepare", "other.yaml", "--set", "prepare.executor=ray", "--set", "prepare.workers=1")
    assert done.code == 0, done.err
    assert [read_lines(Path(f"runs/other/prepare/train.{lang}")) for lang in ("en", "de")] == expected
    assert sum(b"AlignmentModel" in function for function in sent) == 1
    assert sum(b"SideModels" in function for function in sent) == 1
