"""What the prepare stage needs besides its text is checked when it is planned, before anything is downloaded."""

from __future__ import annotations

import importlib.util
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_pipeline import kdmt, run_stages, settings, to_yaml
from tiny_prepare import change

MISSING_URL = {"tsv": {"url": "https://localhost:1/missing.tsv", "sha256": "0" * 64}}
EVERYWHERE = "prepare.clean.rules."
OF_A_CORPUS = "prepare.train.1.clean."


def use(rule: dict[str, Any], *, for_corpus: bool = False, **changes: Any) -> None:
    """Write a pipeline with a rule, of which one corpus would have to be downloaded."""
    document = settings()
    prepare = document["prepare"]
    prepare["train"].append({**MISSING_URL, **({"clean": rule} if for_corpus else {})})
    prepare["clean"] = {"rules": ["numbers"] if for_corpus else [rule]}
    Path("tiny.yaml").write_text(to_yaml(document | changes), encoding="utf-8")


def refused() -> str:
    """Return the error of planning the prepare stage; nothing is downloaded and no folder is made."""
    result = kdmt("prepare", "tiny.yaml")
    assert result.code == 2
    assert not list(Path().glob("runs/tiny/*"))
    return result.err


def hide(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """Make modules look as if they were not installed."""
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)


def write_model(path: Path, *labels: str) -> None:
    """Write a file that begins as a model in fastText's format, with these labels and no weights."""
    header = struct.pack("<2i 12i d 3i 2q", 793712314, 12, *[0] * 12, 0.0, len(labels), 0, len(labels), 0, 0)
    path.write_bytes(header + b"".join(label.encode() + b"\0" + bytes(9) for label in labels))


@pytest.mark.usefixtures("pipeline")
@pytest.mark.parametrize("for_corpus", [False, True])
def test_a_missing_identifier_is_found_before_the_download(monkeypatch: pytest.MonkeyPatch, for_corpus: bool) -> None:
    path = OF_A_CORPUS if for_corpus else EVERYWHERE
    hide(monkeypatch, "py3langid")
    use({"language": {}}, for_corpus=for_corpus)
    assert f"{path}language: py3langid is not installed: pip install 'kdmt[language-id]'" in refused()
    hide(monkeypatch, "fasttext")
    write_model(Path("lid.bin"), "__label__en", "__label__de")
    use({"language": {"identifier": "fasttext", "model": "lid.bin"}}, for_corpus=for_corpus)
    assert f"{path}language: fasttext-predict is not installed: pip install 'kdmt[fasttext]'" in refused()
    use({"language": {"identifier": "fasttext", "model": "none.bin"}}, for_corpus=for_corpus)
    assert f"{path}language: none.bin: there is no such file" in refused()


@pytest.mark.usefixtures("pipeline")
def test_a_language_that_the_identifier_does_not_know_is_found_before_the_download() -> None:
    pytest.importorskip("fasttext", reason="an extra")
    write_model(Path("lid.bin"), "__label__en", "__label__fr")
    use({"language": {"identifier": "fasttext", "model": "lid.bin"}}, for_corpus=True)
    assert f"{OF_A_CORPUS}language: the identifier does not know 'de'" in refused()
    use({"language": {"identifier": "fasttext", "model": "lid.bin", "sides": "source"}}, for_corpus=True)
    assert "localhost" in kdmt("prepare", "tiny.yaml").err  # nothing else is wrong


@pytest.mark.usefixtures("pipeline")
def test_a_language_that_the_built_in_identifier_does_not_know_is_found_before_the_download() -> None:
    pytest.importorskip("py3langid", reason="an extra")
    use({"language": {}}, target_lang="ain")
    assert f"{EVERYWHERE}language: the identifier does not know 'ain'" in refused()


@pytest.mark.usefixtures("pipeline")
def test_the_source_language_alone_counts_for_monolingual_text() -> None:
    pytest.importorskip("fasttext", reason="an extra")
    write_model(Path("lid.bin"), "__label__en")
    document = settings()
    document["prepare"]["clean"] = {"rules": [{"language": {"identifier": "fasttext", "model": "lid.bin"}}]}
    document["prepare"]["train"][0]["clean"] = {"language": False}
    document["prepare"]["monolingual"] = [{"url": "https://localhost:1/missing.en", "sha256": "0" * 64}]
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    assert "localhost" in kdmt("prepare", "tiny.yaml").err
    write_model(Path("lid.bin"), "__label__de")
    assert f"{EVERYWHERE}language: the identifier does not know 'en'" in kdmt("prepare", "tiny.yaml").err
    document["prepare"]["monolingual_target"] = document["prepare"].pop("monolingual")
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    assert "localhost" in kdmt("prepare", "tiny.yaml").err  # the target language is known


@pytest.mark.usefixtures("pipeline")
def test_a_missing_command_and_a_missing_reverse_model_are_found_before_the_download() -> None:
    use({"filter": {"command": ["no-such-scorer", "x"], "min": 0}}, for_corpus=True)
    assert f"{OF_A_CORPUS}filter: no-such-scorer: there is no such program" in refused()
    use({"reverse": {"checkpoint": "no/teacher", "min": -5}})
    assert f"{EVERYWHERE}reverse: no/teacher:" in refused()


@pytest.mark.usefixtures("pipeline")
def test_a_list_of_rules_for_a_corpus_is_the_place_of_its_rules() -> None:
    use({"rules": [{"filter": {"command": ["no-such-scorer"], "min": 0}}]}, for_corpus=True)
    assert "prepare.train.1.clean.rules.filter: no-such-scorer" in refused()


@pytest.mark.usefixtures("pipeline")
def test_status_shows_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "py3langid")
    use({"language": {}})
    assert f"{EVERYWHERE}language: py3langid is not installed" in kdmt("status", "tiny.yaml").out


@pytest.mark.usefixtures("pipeline")
def test_nothing_is_needed_once_the_stage_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("py3langid", reason="an extra")
    change(clean={"rules": [{"language": {"min_letters": 10_000}}]})
    run_stages("prepare")
    hide(monkeypatch, "py3langid")
    assert run_stages("prepare")[0].err == "prepare: up to date, nothing to do\n"


@pytest.mark.usefixtures("pipeline")
@pytest.mark.parametrize(
    ("changes", "hidden", "message"),
    [
        ({"executor": "ray"}, ["ray"], "prepare.executor: Ray is not installed: pip install 'kdmt[ray]'"),
        (
            {"tokenizer": {"type": "huggingface", "source_path": "tiny.yaml"}},
            ["tokenizers"],
            "prepare.tokenizer.type: Hugging Face tokenizers is not installed: pip install 'kdmt[huggingface]'",
        ),
        (
            {"monolingual": [{"url": "https://localhost:1/text.en.zst", "sha256": "0" * 64}]},
            ["compression.zstd", "backports.zstd"],
            "prepare.monolingual.0: https://localhost:1/text.en.zst: zstd is not installed: pip install 'kdmt[zstd]'",
        ),
        (
            {
                "train": [
                    {
                        "parquet": {"url": "https://localhost:1/a.parquet", "sha256": "0" * 64},
                        "source_field": "en",
                        "target_field": "de",
                    }
                ]
            },
            ["pyarrow"],
            "prepare.train.0.parquet: pyarrow is not installed: pip install 'kdmt[parquet]'",
        ),
    ],
)
def test_missing_packages_are_found_before_the_download(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], hidden: list[str], message: str
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in hidden else found(name))
    change(**changes)
    assert message in refused()


@pytest.mark.usefixtures("pipeline")
@pytest.mark.parametrize(
    ("text", "corpus", "message"),
    [
        (
            "en\tde\n",
            {"header": True, "source_field": "en", "target_field": "de", "quality": {"field": "score", "min": 0.5}},
            "no column 'score'; the first row has en, de",
        ),
        ("ba\tok\n", {"quality": {"column": 2, "min": 0.5}}, "line 1: 2 columns, at least 3 expected"),
        ("ba\n", {}, "line 1: 1 columns, at least 2 expected"),
    ],
)
def test_missing_columns_are_found_before_the_download(text: str, corpus: dict[str, Any], message: str) -> None:
    Path("pairs.tsv").write_text(text, encoding="utf-8")
    change(train=[MISSING_URL, {"tsv": {"path": "pairs.tsv"}, **corpus}])
    assert f"prepare.train.1: pairs.tsv{'' if message.startswith('line') else ':'} {message}" in refused()


@pytest.mark.usefixtures("pipeline")
def test_a_damaged_row_is_named_with_its_path_while_it_is_read() -> None:
    Path("pairs.tsv").write_text("ba\tok\nbe\n", encoding="utf-8")
    change(train=[{"tsv": {"path": "pairs.tsv"}, "malformed": "error"}])
    result = kdmt("prepare", "tiny.yaml")
    assert result.code == 2
    assert "prepare.train.0: pairs.tsv line 2: another number of columns than the first row" in result.err
