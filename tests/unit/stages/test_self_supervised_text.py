"""Self-supervised losses in pipelines: text of one and of several languages, stages on text alone, exact resuming."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_directions
import tiny_pipeline
from pydantic import ValidationError
from tiny_pipeline import read_lines, run_stages, settings, to_yaml, working_in, write_lines
from training_runs import RAW, TEACHER, TINY, metrics, results, stop_after_checkpoint_2, student

from kdmt.config import Pipeline
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.indexed import IndexedDataset
from kdmt.corpus.vocabulary import Dictionary
from kdmt.errors import UserError
from kdmt.stages.self_supervised_text import denoising_text, masked_text, text_alone, validation_text
from kdmt.stages.training_inputs import Job, direction_inputs
from kdmt.stages.workspace import Workspace
from kdmt.train.data import BinarizedData
from kdmt.types import EOS, PAD

ALONE = {"denoising": {}, "supervised": 0.0}
LOSS = {"best_metric": "loss", "validate_bleu": False}
GERMAN = ["ok uk ik olp ok uk", "rom rum rim rom ok"]
ENGLISH, FRENCH = ["ba da ga be de ge bi", "ge di ba ge di ba bi"], ["zok zuk zik zok", "zrum zrum zik"]


def job_of(document: dict[str, Any]) -> tuple[Workspace, Job, TextCodec]:
    """Return the training of the student `raw`."""
    workspace = Workspace(Pipeline.model_validate(document), Path("runs"))
    own = workspace.config.students["raw"]
    made = Job(
        *("x", RAW, own.model, own.train, 1, ("raw",), "students.raw"), student=own, self_supervised=own.self_supervised
    )
    return workspace, made, TextCodec.load(workspace.prepare)


def shown(codec: TextCodec, tokens: Sequence[int]) -> tuple[list[str], str]:
    """Return the tokens for languages at the beginning of a sentence, and its text."""
    symbols = [codec.src_dictionary.symbols[token] for token in tokens if token not in (PAD, EOS)]
    num_tags = next((n for n, symbol in enumerate(symbols) if not symbol.startswith("<") or symbol == "<unk>"), 0)
    return symbols[:num_tags], "".join(symbols[num_tags:]).replace("▁", " ").strip()


def sentences_of(data: BinarizedData, codec: TextCodec, epoch: int) -> list[tuple[list[str], str, str]]:
    """Return the tokens for languages, the source and the target of each sentence in an epoch."""
    found = []
    for places in data.epoch(epoch):
        batch = data.load(places, epoch)
        for source, target in zip(batch.src_tokens_BS.tolist(), batch.targets[1].tolist(), strict=True):
            tags, text = shown(codec, source)
            assert shown(codec, target)[0] == []
            found.append((tags, text, shown(codec, target)[1]))
    return found


def language_of(line: str) -> str:
    first = line.split()[0]
    return "fr" if first.startswith("z") else "de" if first in tiny_directions.WORDS.values() else "en"


# -------------------------------------------------------------------------------------------------------- one direction


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the prepare stage of a pipeline that has monolingual text of both languages."""
    folder = tmp_path_factory.mktemp("one")
    with working_in(folder):
        tiny_pipeline.write_pipeline(folder)
        write_lines(Path("text/mono.de"), GERMAN)
        write_lines(Path("text/mono.en"), ENGLISH)
        Path("tiny.yaml").write_text(to_yaml(document()), encoding="utf-8")
        run_stages("prepare")
    return folder


@pytest.fixture
def one(prepared: Path, tmp_path: Path) -> Iterator[Path]:
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    with working_in(tmp_path):
        yield tmp_path


def document(**changes: Any) -> dict[str, Any]:
    """Return the document of the pipeline with changes of the student `raw`."""
    made = settings()
    made["prepare"] |= {"monolingual": [{"path": "text/mono.en"}], "monolingual_target": [{"path": "text/mono.de"}]}
    made["students"] = {"raw": made["students"]["raw"] | changes}
    return made


@pytest.mark.parametrize("names", [["target"], ["monolingual_target"], ["source", "monolingual", "monolingual_target"]])
def test_text_with_noise_is_that_of_the_named_texts(one: Path, names: list[str]) -> None:  # noqa: ARG001
    workspace, job, codec = job_of(document(self_supervised={"denoising": {}, "text": names}))
    files = {
        **{"source": "train.en", "target": "train.de"},
        **{"monolingual": "monolingual.en", "monolingual_target": "monolingual.de"},
    }
    wanted = [line for name in names for line in read_lines(workspace.prepare / files[name])]
    joint = denoising_text(workspace, job, codec)
    assert joint is not None
    for data in (joint.text, text_alone(workspace, job, codec)):
        found = sentences_of(data, codec, 1)
        assert Counter(target for _, _, target in found) == Counter(wanted)
        assert all(not tags and "<unk>" in source for tags, source, _ in found)
    other = sentences_of(joint.text, codec, 2)
    assert sorted(source for _, source, _ in other) != sorted(source for _, source, _ in found)


def test_validation_text_has_the_same_noise_each_time(one: Path) -> None:  # noqa: ARG001
    for names, sides in ((["target"], ["de"]), (["monolingual", "target"], ["en", "de"]), (["source"], ["en"])):
        workspace, job, codec = job_of(document(self_supervised={"denoising": {}, "text": names}))
        wanted = [line for side in sides for line in read_lines(workspace.prepare / f"valid.{side}")]
        first, again = (
            [data.load(places).src_tokens_BS.tolist() for places in data.batches()]
            for data in (validation_text(workspace, job, codec), validation_text(workspace, job, codec))
        )
        assert first == again
        data = validation_text(workspace, job, codec)
        targets = [line.tolist() for places in data.batches() for line in data.load(places).targets[1]]
        assert Counter(shown(codec, line)[1] for line in targets) == Counter(wanted)


def test_masked_text_can_be_the_targets(one: Path) -> None:  # noqa: ARG001
    workspace, job, codec = job_of(document(self_supervised={"text": ["target", "monolingual_target"]}))
    text = masked_text(workspace, job, codec)
    assert text is not None
    drawn = {tuple(line.tolist()) for place in range(200) for line in text.batch_for(np.array([place]))}
    found = {shown(codec, line)[1] for line in drawn}
    wanted = {line for name in ("train", "monolingual") for line in read_lines(workspace.prepare / f"{name}.de")}
    assert found == wanted
    assert masked_text(*job_of(document(self_supervised={}))) is None


def test_both_languages_need_one_dictionary(one: Path) -> None:  # noqa: ARG001
    workspace, job, codec = job_of(document(self_supervised={"denoising": {}}))
    other = replace(codec, tgt_dictionary=Dictionary())
    with pytest.raises(
        UserError, match=r"'students\.raw\.self_supervised': the model reads and writes the same languages"
    ):
        denoising_text(workspace, job, other)


def test_text_over_the_limits_is_named(one: Path) -> None:  # noqa: ARG001
    made = document(self_supervised={"denoising": {}})
    made["students"]["raw"]["train"]["max_target_tokens"] = 2
    with pytest.raises(UserError, match=r"'students\.raw\.self_supervised': no pair is within train.max_source_tokens"):
        denoising_text(*job_of(made))


def write(made: dict[str, Any]) -> None:
    Path("tiny.yaml").write_text(to_yaml(made), encoding="utf-8")


def test_a_student_learns_from_text_with_noise_and_resumes_exactly(one: Path) -> None:  # noqa: ARG001
    write(document(self_supervised={"denoising": {}, "text": ["target", "monolingual_target"]}))
    assert student("raw").code == 0
    assert all(line["self_supervised"] > 0 for line in metrics(RAW, "train"))
    read = json.loads((RAW / "manifest.json").read_text())["inputs"]
    assert {name for name in read if "monolingual" in name} == {
        f"prepare/data-bin/monolingual.en-de.de.{end}" for end in ("bin", "idx")
    }
    complete = results(RAW)
    stop_after_checkpoint_2()
    assert student("raw").code == 0
    assert results(RAW) == complete


def test_a_stage_on_text_alone_comes_before_the_pairs(one: Path) -> None:  # noqa: ARG001
    write(document(stages=[{"self_supervised": ALONE, **LOSS}, {}]))
    assert student("raw").code == 0
    first, second = (metrics(RAW / f"stage_{number}", "valid") for number in (1, 2))
    assert all("bleu" not in line for line in first)
    assert all("bleu" in line for line in second)
    assert not any("self_supervised" in line for line in metrics(RAW / "stage_1", "train"))


def test_a_teacher_learns_from_text_with_noise(one: Path) -> None:  # noqa: ARG001
    made = document()
    made["teacher"]["train"] |= {"max_updates": 4, "validate_interval_updates": 2, "save_interval_updates": 2}
    made["teacher"]["train"]["log_interval_updates"] = 1
    write(made | {"teacher": made["teacher"] | {"self_supervised": {"denoising": {}}}})
    run_stages("teacher")
    assert all(line["self_supervised"] > 0 for line in metrics(TEACHER, "train"))
    write(made | {"teacher": made["teacher"] | {"self_supervised": {"text": ["source", "target"]}}})
    run_stages("teacher")
    assert all(line["self_supervised"] > 0 for line in metrics(TEACHER, "train"))


# --------------------------------------------------------------------------------------------------- several directions


def several(**changes: Any) -> dict[str, Any]:
    made = tiny_directions.settings()
    made["prepare"] |= {
        "monolingual": [{"path": "text/mono.en", "direction": "en-fr"}],
        "monolingual_target": [
            {"path": "text/mono.fr", "direction": "en-fr"},
            {"path": "text/mono.de", "direction": "en-de"},
        ],
    }
    made["students"] = {"raw": made["students"]["raw"] | changes}
    return dict(made)


@pytest.fixture(scope="module", params=["target_in_source", "source_and_decoder"])
def pooled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Make the prepare stage of a pipeline with monolingual text of three languages, and work in its folder."""
    folder = tmp_path_factory.mktemp("several")
    tokens: str = request.param
    tiny_directions.write_pipeline(folder, several() | {"language_tokens": tokens})
    for code, lines in (("en", ENGLISH), ("fr", FRENCH), ("de", GERMAN)):
        write_lines(folder / f"text/mono.{code}", lines)
    with working_in(folder):
        run_stages("prepare")
        yield tokens


def test_monolingual_text_of_target_languages_has_its_directions(pooled: str) -> None:  # noqa: ARG001
    prepare = TINY / "prepare"
    assert read_lines(prepare / "monolingual.tags") == ["en-fr"] * 2
    found = zip(read_lines(prepare / "monolingual_target.tags"), read_lines(prepare / "monolingual.tgt"), strict=True)
    assert list(found) == [*(("en-de", line) for line in GERMAN), *(("en-fr", line) for line in FRENCH)]


def test_each_sentence_has_the_tokens_of_its_own_language(pooled: str) -> None:
    names = ["source", "target", "monolingual", "monolingual_target"]
    workspace, job, codec = job_of(
        several(self_supervised={"denoising": {}, "text": names}) | {"language_tokens": pooled}
    )
    data = denoising_text(workspace, job, codec)
    assert data is not None
    found = sentences_of(data.text, codec, 1)
    files = ("train.src", "train.tgt", "monolingual.src", "monolingual.tgt")
    assert Counter(target for _, _, target in found) == Counter(
        line for name in files for line in read_lines(workspace.prepare / name)
    )
    for tags, source, target in found:
        code = language_of(target)
        assert tags == ([f"<2{code}>"] if pooled == "target_in_source" else [f"<{code}>", f"<{code}>"])
        assert "<unk>" in source
    assert {language_of(target) for *_, target in found} == {"de", "en", "fr"}
    read = direction_inputs(workspace, job)
    assert {f"prepare/{name}.tags" for name in ("train", "monolingual", "monolingual_target")} == set(read)


def test_languages_are_sampled_by_temperature(pooled: str) -> None:
    made = several(self_supervised={**ALONE, "text": ["source", "monolingual_target"]}) | {"language_tokens": pooled}
    made["students"]["raw"]["train"] |= {**LOSS, "sampling": {"temperature": 100.0}}
    workspace, job, codec = job_of(made)
    found = Counter(language_of(target) for *_, target in sentences_of(text_alone(workspace, job, codec), codec, 1))
    # 80 English and 42 French sentences, and 2 German ones: nearly equal shares
    assert sum(found.values()) == pytest.approx(124, abs=2)
    assert min(found.values()) > 35


def test_validation_has_each_sentence_once_whatever_the_sampling(pooled: str) -> None:
    made = several(self_supervised={**ALONE, "text": ["source", "target"]}) | {"language_tokens": pooled}
    made["students"]["raw"]["train"] |= {**LOSS, "sampling": {"temperature": 100.0}}
    workspace, job, codec = job_of(made)
    found = Counter(target for *_, target in sentences_of(validation_text(workspace, job, codec), codec, 0))
    assert found == Counter(line for side in ("src", "tgt") for line in read_lines(workspace.prepare / f"valid.{side}"))


def test_validation_has_the_languages_of_the_text(pooled: str) -> None:
    made = several(self_supervised={**ALONE, "text": ["monolingual_target"]}) | {"language_tokens": pooled}
    made["prepare"]["monolingual_target"] = [{"path": "text/mono.fr", "direction": "en-fr"}]
    made["students"]["raw"]["train"] |= LOSS
    write(made)
    run_stages("prepare")
    workspace, job, codec = job_of(made)
    found = [target for *_, target in sentences_of(validation_text(workspace, job, codec), codec, 0)]
    lines = read_lines(workspace.prepare / "valid.tgt")
    assert sorted(found) == sorted(line for line in lines if language_of(line) == "fr")
    write(several() | {"language_tokens": pooled})
    run_stages("prepare")


def test_sentences_are_within_the_limit_with_their_language_tokens(pooled: str) -> None:
    sizes = IndexedDataset(TINY / "prepare/data-bin/train.src-tgt.tgt").sizes
    limit = int(sizes.max())
    denoising = {"mask_rate": 0.01, "span_length": 1.0}  # hides one word, so that a source is as long as its target
    made = several(self_supervised={**ALONE, "denoising": denoising, "text": ["target"]}) | {"language_tokens": pooled}
    made["students"]["raw"]["train"] |= {"max_source_tokens": limit, **LOSS}
    data = text_alone(*job_of(made))
    read = [length for places in data.epoch(1) for length in data.load(places, 1).src_tokens_BS.ne(PAD).sum(1).tolist()]
    assert max(read) <= limit
    num_tokens = 1 if pooled == "target_in_source" else 2
    assert data.num_left_out == (sizes > limit - num_tokens).sum() > 0


def test_masked_targets_have_the_tokens_of_their_language(pooled: str) -> None:
    made = several(self_supervised={"text": ["source", "monolingual", "monolingual_target"]})
    if pooled == "source_and_decoder":
        with pytest.raises(ValidationError, match="cannot be combined with 'language_tokens: source_and_decoder'"):
            Pipeline.model_validate(made | {"language_tokens": pooled})
        return
    workspace, job, codec = job_of(made)
    text = masked_text(workspace, job, codec)
    assert text is not None
    drawn = {tuple(line.tolist()) for place in range(100) for line in text.batch_for(np.array([place]))}
    found = {shown(codec, line)[1]: shown(codec, line)[0] for line in drawn}
    assert found == {
        **{line: ["<2fr>"] for line in ENGLISH},  # the token of its direction
        **{line: ["<2fr>"] for line in FRENCH},
        **{line: ["<2de>"] for line in GERMAN},
    }


def test_a_student_of_several_directions_learns_from_text(pooled: str) -> None:
    made = several(self_supervised={"denoising": {}, "text": ["source", "monolingual_target"]})
    made["students"]["raw"]["stages"] = [{"self_supervised": ALONE | {"text": ["monolingual_target"]}, **LOSS}, {}]
    write(made | {"language_tokens": pooled})
    assert student("raw").code == 0
    assert all(line["self_supervised"] > 0 for line in metrics(RAW / "stage_2", "train"))
