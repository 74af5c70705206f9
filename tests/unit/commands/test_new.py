"""Tests of `kdmt new`: it writes a valid, commented pipeline and overwrites no file."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from bad_input import message_of
from tiny_pipeline import hash_tree, kdmt

import kdmt.commands.new as new_module
from kdmt.choices import TemplateName, names
from kdmt.commands.new import CORPUS_FOLDER, new_pipeline, template_text
from kdmt.config import load_pipeline, load_unlocked_pipeline
from kdmt.errors import UserError
from kdmt.toy.corpus_files import COUNTS, write_corpus

TEMPLATES = names(TemplateName)
PIPELINES = Path(__file__).parents[3] / "pipelines"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change to an empty working folder, and make the toy corpus small."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(new_module, "COUNTS", {"test": 5, "valid": 5, "train": 20})


@pytest.mark.parametrize("template", TEMPLATES)
def test_each_template_gives_a_valid_pipeline_with_comments(template: TemplateName) -> None:
    fixed = template in ("toy", "multi30k")
    written = new_pipeline(
        Path("x.yaml"), source="en", target="de" if fixed else "cs", template=template, name=f"my-{template}"
    )
    config = load_unlocked_pipeline(written[0])
    assert (config.name, config.source_lang, config.target_lang) == (f"my-{template}", "en", "de" if fixed else "cs")
    assert config.students
    text = written[0].read_text(encoding="utf-8")
    assert text.startswith("#")
    assert text.count(" # ") >= 5
    assert "$" not in text
    assert "kdmt run x.yaml" in text


def test_every_file_of_the_templates_folder_is_a_template() -> None:
    folder = Path(new_module.__file__).parents[1] / "templates"
    assert sorted(path.stem for path in folder.iterdir()) == sorted(TEMPLATES)
    assert all(template_text(template) for template in TEMPLATES)  # type: ignore[arg-type]


def test_the_toy_template_comes_with_its_corpus_and_names_its_files() -> None:
    written = new_pipeline(Path("sub/toy.yaml"), template="toy")
    assert written == [Path("sub/toy.yaml"), Path("sub") / CORPUS_FOLDER]
    config = load_pipeline(written[0])
    pair = config.prepare.train[0]
    assert pair.source is not None
    assert pair.source.path == f"sub/{CORPUS_FOLDER}/train.en"
    assert len(Path(pair.source.path).read_text(encoding="utf-8").splitlines()) == 20


def test_the_toy_template_has_the_settings_of_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    written = new_pipeline(Path("toy.yaml"), template="toy")
    ours, demo = (load_pipeline(path) for path in (written[0], PIPELINES / "toy.yaml"))
    for part in ("teacher", "distill", "students", "score"):
        assert getattr(ours, part) == getattr(demo, part)
    monkeypatch.undo()
    assert COUNTS == {"test": 500, "valid": 500, "train": 20_000}


@pytest.mark.parametrize("target", ["de", "fr", "cs"])
def test_multi30k_has_the_checksums_of_the_pipelines_of_the_repository(target: str) -> None:
    new_pipeline(Path("x.yaml"), source="en", target=target, template="multi30k")
    ours, theirs = (load_pipeline(path) for path in (Path("x.yaml"), PIPELINES / f"multi30k-en-{target}.yaml"))
    assert ours.prepare.train == theirs.prepare.train
    assert ours.prepare.valid == theirs.prepare.valid
    assert ours.prepare.test["test_2016_flickr"] == theirs.prepare.test["test_2016_flickr"]


def entries_of_opus(source: str, target: str) -> list[dict[str, object]]:
    new_pipeline(Path(f"{target}.yaml"), source=source, target=target, template="opus")
    return yaml.safe_load(Path(f"{target}.yaml").read_text(encoding="utf-8"))["prepare"]["train"]


def test_opus_names_the_three_largest_corpora_with_a_known_licence_up_to_five_million_pairs() -> None:
    crawled = {"rules": "crawled"}
    assert entries_of_opus("en", "is") == [  # not CCMatrix, CCAligned and XLEnt, whose licences are not known
        {"opus": "ParaCrawl/v9", "clean": crawled},  # 2,967,579 pairs
        {"opus": "ParIce/v1"},  # 2,097,022
        {"opus": "ELRC-EMEA/v1"},  # 542,624
    ]
    assert entries_of_opus("en", "fr") == [  # not ParaCrawl with 216 million pairs
        {"opus": "WikiMatrix/v1", "clean": crawled},
        {"opus": "Europarl/v8"},
        {"opus": "QED/v2.0a"},
    ]


def test_opus_is_refused_for_a_pair_without_such_corpora() -> None:
    message = message_of(kdmt("new", "x.yaml", "--source", "tlh", "--target", "chr", "--template", "opus"))
    assert "no corpus of OPUS" in message
    assert "kdmt find tlh chr" in message
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs --source and --target"),
        (["--source", "en"], "needs --source and --target"),
        (["--source", "en", "--target", "jp"], "--target 'jp'"),
        (["--source", "en", "--target", "en"], "are both 'en'"),
        (["--template", "toy", "--target", "cs"], "has no corpus for en-cs; it has en-de"),
        (["--source", "en", "--target", "cs", "--name", "a/b"], "name"),
    ],
)
def test_bad_requests_print_one_message_and_write_nothing(arguments: list[str], message: str) -> None:
    assert message in message_of(kdmt("new", "x.yaml", *arguments))
    assert list(Path().iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    Path("x.yaml").write_text("mine\n")
    Path("link.yaml").symlink_to("nowhere")
    for name in ("x.yaml", "link.yaml"):
        assert "exists already" in message_of(kdmt("new", name, "--source", "en", "--target", "cs"))
    (tmp_path / CORPUS_FOLDER).mkdir()
    (tmp_path / CORPUS_FOLDER / "train.en").write_text("mine\n")
    assert "is not the toy corpus" in message_of(kdmt("new", "toy.yaml", "--template", "toy"))
    assert Path("x.yaml").read_text() == "mine\n"
    assert (tmp_path / CORPUS_FOLDER / "train.en").read_text() == "mine\n"
    assert not Path("toy.yaml").exists()


def test_a_second_toy_pipeline_uses_the_existing_corpus() -> None:
    new_pipeline(Path("a.yaml"), template="toy")
    before = hash_tree(Path(CORPUS_FOLDER))
    new_pipeline(Path("b.yaml"), template="toy")
    assert hash_tree(Path(CORPUS_FOLDER)) == before


def test_a_corpus_that_cannot_be_written_leaves_no_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(new_module, "write_corpus", fail)
    with pytest.raises(OSError, match="disk full"):
        new_pipeline(Path("toy.yaml"), template="toy")
    assert not Path("toy.yaml").exists()
    assert write_corpus is not fail


def test_names_are_quoted_where_yaml_needs_it() -> None:
    new_pipeline(Path("on.yaml"), source="no", target="zh-Hans")
    config = load_pipeline(Path("on.yaml"))
    assert (config.name, config.source_lang, config.target_lang) == ("on", "no", "zh-Hans")
    Path("a b's").mkdir()
    new_pipeline(Path("a b's/x.yaml"), template="toy")
    pair = load_pipeline(Path("a b's/x.yaml")).prepare.train[0]
    assert pair.target is not None
    assert Path(pair.target.path or "").is_file()


def test_an_unknown_template_is_refused_by_the_python_interface_too() -> None:
    with pytest.raises(UserError, match="there is no template"):
        new_pipeline(Path("x.yaml"), source="en", target="cs", template="../x")  # type: ignore[arg-type]
    result = kdmt("new", "x.yaml", "--template", "nope", "--source", "en", "--target", "cs")
    assert (result.code, result.out) == (2, "")
    assert "'nope' is not one of 'minimal'" in result.err
    assert list(Path().iterdir()) == []
