"""The distill stage through the command line: alignment, use of failures, what is decoded again."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu
from tiny_pipeline import (
    DECODE,
    MODEL,
    TEACHER_TRAIN,
    TRAIN,
    Finished,
    hash_tree,
    kdmt,
    read_lines,
    run_stages,
    settings,
    to_yaml,
    working_in,
)

from kdmt.checksum import file_sha256
from kdmt.choices import AnswerFailure, names
from kdmt.config import Decode, load_pipeline
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.indexed import IndexedDataset
from kdmt.decode.engines.ctranslate2 import CTranslate2Engine
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.distill.failures import FAILURES
from kdmt.models.checkpoint import load_model
from kdmt.models.checkpoint_folder import resolve_checkpoint
from kdmt.stages.distill import _job, inputs_of
from kdmt.stages.workspace import Workspace
from kdmt.types import UNK, Hypothesis, Sampling

TINY = Path("runs/tiny")
PREPARED, MADE, SAMPLED = TINY / "prepare", TINY / "distill", TINY / "sampled"


def distill(*sets: str) -> Finished:
    return kdmt("distill", "tiny.yaml", *(part for setting in sets for part in ("--set", f"distill.{setting}")))


def manifest(made: Path = MADE) -> dict[str, Any]:
    return json.loads((made / "manifest.json").read_text(encoding="utf-8"))


def nbest(made: Path = MADE) -> dict[int, list[tuple[float, str]]]:
    """Return for each sentence its hypotheses with their scores."""
    found: dict[int, list[tuple[float, str]]] = {}
    for line in read_lines(made / "nbest"):
        number, score, _, _, words = line.split("\t")
        found.setdefault(int(number), []).append((float(score), words))
    return found


def rejected(made: Path = MADE) -> dict[int, tuple[str, str]]:
    """Return failure and action for each line of `rejected`."""
    rows = (line.split("\t") for line in read_lines(made / "rejected") if line)
    return {int(index): (failure, what) for index, failure, what in rows}


def forget_all_but_blocks(made: Path) -> None:
    """Change the folder to the state of a run that was killed before the blocks were merged."""
    record = manifest(made)
    (made / "plan.json").write_text(json.dumps({k: record[k] for k in ("settings", "extend", "inputs")}), "utf-8")
    for path in made.iterdir():
        if path.is_dir() and path.name != "blocks":
            shutil.rmtree(path)
        elif path.name not in ("blocks", "plan.json"):
            path.unlink()


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was decoded")

    monkeypatch.setattr(TorchEngine, "decode", refuse)
    monkeypatch.setattr(TorchEngine, "sample", refuse)


# ------------------------------------------------------------------------------------------------------------ outputs


@pytest.mark.usefixtures("finished")
def test_line_i_is_aligned_with_line_i_of_the_training_source() -> None:
    sources, references = (read_lines(PREPARED / f"train.{lang}") for lang in ("en", "de"))
    distilled, best = read_lines(MADE / "distilled.de"), nbest()
    assert read_lines(MADE / "distilled.en") == sources
    assert len(distilled) == len(sources) == len(best)
    replaced = [i for i in range(len(sources)) if distilled[i] != best[i][0][1]]
    assert all(distilled[i] == references[i] for i in replaced)
    facts = manifest()["facts"]
    assert sum(facts["replaced_by_reference"].values()) >= len(replaced) > 0
    assert facts["num_lines"] == facts["num_sentences"] == len(sources)
    assert sum(line == reference for line, reference in zip(distilled, references, strict=True)) < len(sources)


@pytest.mark.usefixtures("finished")
def test_the_manifest_has_the_inputs_and_the_quality() -> None:
    made, hashes = manifest(), hash_tree(TINY)
    assert made["inputs"]["teacher/average"] == hashes["teacher/average/model.safetensors"]
    for name in ("dict.en.txt", "dict.de.txt", "tokenizer/joint.model", "train.en", "data-bin/train.en-de.en.bin"):
        assert made["inputs"][f"prepare/{name}"] == hashes[f"prepare/{name}"]
    assert made["settings"]["distill.decode.beam"] == 2
    assert set(made["outputs"]) >= {"distilled.en", "distilled.de", "nbest", "data-bin/train.en-de.de.bin"}
    assert 0 < made["facts"]["num_compared"] < 80  # without the lines that are references themselves
    assert distill("failures={empty: keep, too_long: keep, repetition: keep, ratio: keep}").code == 0
    facts = manifest()["facts"]
    expected = sacrebleu.corpus_bleu(read_lines(MADE / "distilled.de"), [read_lines(PREPARED / "train.de")]).score
    assert facts["bleu_against_reference"] == pytest.approx(expected)
    assert facts["num_compared"] == 80
    assert "tok:13a" in facts["bleu_signature"]


@pytest.mark.usefixtures("finished")
def test_the_distilled_data_bin_is_the_text_in_the_teachers_vocabulary() -> None:
    codec = TextCodec.load(PREPARED)
    for lang in ("en", "de"):
        assert (MADE / f"data-bin/dict.{lang}.txt").read_bytes() == (PREPARED / f"dict.{lang}.txt").read_bytes()
        sentences = IndexedDataset(MADE / f"data-bin/train.en-de.{lang}")
        assert [codec.decode_target(s[:-1]) for s in sentences] == read_lines(MADE / f"distilled.{lang}")


@pytest.mark.usefixtures("finished")
def test_every_hypothesis_of_an_n_best_list_is_written_best_first() -> None:
    assert distill("decode={beam: 3, nbest: 3, max_len_b: 5}").code == 0
    for hypotheses in nbest().values():
        assert len(hypotheses) == 3
        assert [score for score, _ in hypotheses] == sorted((score for score, _ in hypotheses), reverse=True)


# ------------------------------------------------------------------------------------------------ failures are counted


@pytest.mark.usefixtures("finished", "no_decoding")
def test_another_action_on_failures_decodes_nothing_again() -> None:
    before, kept = manifest(), hash_tree(MADE)
    references, best = read_lines(PREPARED / "train.de"), nbest()
    failed = sum(before["facts"]["failures"].values())
    assert 0 < failed < 80
    own = [name for name in FAILURES if name not in names(AnswerFailure)]
    drop, keep = (f"failures={{{', '.join(f'{name}: {action}' for name in own)}}}" for action in ("drop", "keep"))
    result = distill(drop)
    assert result.code == 0
    assert "the setting distill.failures.empty changed from 'reference' to 'drop'" in result.err
    assert hash_tree(MADE.with_name("distill.previous")) == kept

    facts = manifest()["facts"]
    assert facts["failures"] == before["facts"]["failures"]
    dropped = rejected()
    assert Counter(failure for failure, _ in dropped.values()) == facts["dropped"] == facts["failures"]
    assert {what for _, what in dropped.values()} == {"dropped"}
    left = [i for i in range(80) if i not in dropped]
    assert facts["num_lines"] == len(left) == 80 - failed
    assert read_lines(MADE / "distilled.de") == [best[i][0][1] for i in left]
    sources = read_lines(PREPARED / "train.en")
    assert read_lines(MADE / "distilled.en") == [sources[i] for i in left]
    assert len(IndexedDataset(MADE / "data-bin/train.en-de.de")) == len(left)

    assert distill(keep).code == 0
    assert read_lines(MADE / "distilled.de") == [best[i][0][1] for i in range(80)]
    assert distill().code == 0
    assert manifest() == before
    assert references != read_lines(MADE / "distilled.de")


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize("action", ["drop", "keep"])
def test_a_teacher_with_only_empty_translations_is_an_error(monkeypatch: pytest.MonkeyPatch, action: str) -> None:
    monkeypatch.setattr(TorchEngine, "decode", lambda _, sources, *__, **___: [[] for _ in sources])
    result = distill(f"failures.empty={action}", "block_size=50")
    assert result.code == 2
    assert result.err.splitlines()[-1] == (
        "kdmt: error: distill: none of 80 sentences has a translation to train on; failures: empty 80"
    )
    assert not (MADE / "manifest.json").exists()


# ----------------------------------------------------------------------------------------------- what is decoded again


@pytest.mark.usefixtures("finished", "no_decoding")
def test_the_plan_has_the_number_type_of_a_cpu_for_auto() -> None:
    assert manifest()["settings"]["distill.compute_type"] == "float32"


@pytest.mark.usefixtures("finished", "no_decoding")
def test_settings_of_execution_change_nothing() -> None:
    assert distill("threads=2").err == "distill: up to date, nothing to do\n"


@pytest.mark.usefixtures("finished", "no_decoding")
def test_existing_blocks_are_not_decoded_again() -> None:
    expected = hash_tree(MADE)
    forget_all_but_blocks(MADE)
    result = distill()
    assert "distill: going on: it was started and not finished\n" in result.err
    assert hash_tree(MADE) == expected


@pytest.mark.usefixtures("finished", "no_decoding")
def test_what_an_earlier_version_made_with_ctranslate2_is_up_to_date_and_goes_on_with_the_exact_search() -> None:
    searches: list[bool] = []  # of each engine that is opened, whether it is exact
    opened = CTranslate2Engine.__init__

    def watch(self: CTranslate2Engine, *arguments: Any, **options: Any) -> None:
        searches.append(options["exact"])
        opened(self, *arguments, **options)

    ctranslate2 = ("engine=auto", "executor=inline", "decode.max_len_a=0", "decode.max_len_b=6")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CTranslate2Engine, "__init__", watch)
        assert distill(*ctranslate2).code == 0
        assert manifest()["settings"]["search of CTranslate2"] == "once"
        assert distill(*ctranslate2, "engine=ctranslate2_exact").code == 0
        assert searches == [False, True]
        # the result of an earlier version, which knew the engines auto and ctranslate2
        exact = manifest()["settings"]
        assert exact["distill.engine"] == "ctranslate2"
        assert "search of CTranslate2" not in exact
        for engine in ("ctranslate2_exact", "ctranslate2"):
            assert distill(*ctranslate2, f"engine={engine}").err == "distill: up to date, nothing to do\n"
        forget_all_but_blocks(MADE)
        block = max((MADE / "blocks").iterdir())
        before = block.read_bytes()
        block.unlink()
        assert distill(*ctranslate2, "engine=ctranslate2").code == 0
        assert block.read_bytes() == before
        assert searches == [False, True, True]
    # changed settings make it again, with the single search
    assert distill(*ctranslate2, "engine=ctranslate2", "decode.beam=1").code == 0
    assert manifest()["settings"]["search of CTranslate2"] == "once"


@pytest.mark.usefixtures("finished")
def test_another_beam_decodes_everything_and_keeps_the_old_files() -> None:
    kept = hash_tree(MADE)
    assert distill("decode.beam=1").code == 0
    assert hash_tree(MADE.with_name("distill.previous")) == kept
    blocks = {name for name in kept if name.startswith("blocks/")}
    assert len(blocks) == 3
    assert not any(hash_tree(MADE)[name] == kept[name] for name in blocks)


@pytest.mark.usefixtures("finished")
def test_blocks_of_another_size_have_the_same_sentences() -> None:
    files = ("distilled.en", "distilled.de", "nbest")
    before = [(MADE / name).read_bytes() for name in files]
    assert distill("block_size=77").code == 0
    assert sorted(path.name for path in (MADE / "blocks").iterdir()) == ["000000.gz", "000001.gz"]
    # a translation does not depend on its batch, except for the last digits of its score
    after = [(MADE / name).read_bytes() for name in files]
    assert after[:2] == before[:2]


@pytest.mark.usefixtures("finished")
def test_a_teacher_that_was_trained_further_decodes_again() -> None:
    run_stages("teacher", sets=["teacher.train.max_updates=80"])
    result = kdmt("distill", "tiny.yaml", "--set", "teacher.train.max_updates=80")
    assert "distill: rebuilt: the input teacher/average changed (the old one is kept" in result.err


@pytest.mark.usefixtures("finished")
def test_checkpoint_auto_is_recorded_as_what_it_is() -> None:
    chosen = json.loads((TINY / "teacher/chosen.json").read_text(encoding="utf-8"))["checkpoint"]
    assert distill("checkpoint=auto").code == 0
    made = manifest()
    folder = resolve_checkpoint(TINY / "teacher" / chosen)
    assert made["inputs"][f"teacher/{chosen}"] == file_sha256(folder / "model.safetensors")
    assert made["settings"]["distill.checkpoint"] == chosen
    assert "up to date" in distill(f"checkpoint={chosen}").err


@pytest.mark.usefixtures("finished")
def test_many_references_among_the_lines_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TorchEngine, "decode", lambda _, sources, *__, **___: [[] for _ in sources])
    result = distill("block_size=50")
    source = read_lines(PREPARED / "train.en")[0]
    assert (
        "distill: warning: translations: 80 of 80 sentences replaced by references or dropped (100%): "
        f"empty 80 (100%)\ndistill:   empty: {source!r} -> ''\n"
    ) in result.err
    assert result.err.count("distill:   empty: ") == 3
    assert read_lines(MADE / "distilled.de") == read_lines(PREPARED / "train.de")


@pytest.mark.usefixtures("finished")
def test_failures_that_are_kept_give_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        TorchEngine, "decode", lambda _, sources, *__, **___: [[Hypothesis((UNK, 5), -1.0)] for _ in sources]
    )
    result = distill("block_size=50", "failures.ratio=keep")
    assert result.code == 0, result.err
    assert "failures: unk 80" in result.err
    assert "warning" not in result.err
    result = distill("block_size=50", "failures={unk: reference, ratio: keep}")
    assert "translations: 80 of 80 sentences replaced by references or dropped (100%): unk 80 (100%)" in result.err


@pytest.mark.usefixtures("pipeline")
def test_tags_are_kept_with_their_lines() -> None:
    document = settings()
    (corpus,) = document["prepare"]["train"]
    document["prepare"] |= {
        "train": [corpus, corpus | {"tag": "<2>", "weight": 2}],
        "clean": "none",
        "decontaminate": False,
    }
    document["teacher"] = {"model": MODEL, "train": TEACHER_TRAIN | {"max_updates": 2}}
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    run_stages("prepare", "teacher", "distill")
    assert read_lines(MADE / "distilled.tags") == [""] * 80 + ["<2>"] * 160
    tag = TextCodec.load(PREPARED).src_dictionary.index("<2>")
    sources = IndexedDataset(MADE / "data-bin/train.en-de.en")
    assert [sentence[0] == tag for sentence in sources] == [False] * 80 + [True] * 160


@pytest.mark.usefixtures("finished")
def test_interpolation_chooses_from_the_same_blocks() -> None:
    student = "students.near={data: interpolated}"
    assert kdmt("distill", "tiny.yaml", "--set", student, "--set", "distill.decode.nbest=2").code == 0
    made = TINY / "interpolated"
    assert {path.name for path in MADE.iterdir()} - {path.name for path in made.iterdir()} == {
        *("blocks", "logs", "nbest", "nbest.npy", "sentences.npy")
    }
    references, hypotheses = read_lines(PREPARED / "train.de"), nbest()
    lines = enumerate(read_lines(made / "distilled.de"))
    assert all(line in (references[i], *(words for _, words in hypotheses[i])) for i, line in lines)
    assert manifest(made)["facts"]["bleu_against_reference"] > manifest()["facts"]["bleu_against_reference"]


@pytest.mark.usefixtures("finished")
def test_a_student_learns_from_all_of_the_nbest() -> None:
    document = settings()
    document["distill"]["decode"]["nbest"] = 2
    document["students"] = {"all": {"data": "nbest", "model": MODEL, "train": TRAIN}}
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    run_stages("distill", "student")
    made, hypotheses = TINY / "nbest", nbest()
    weights = np.load(made / "weights.npy")
    lines = list(zip(read_lines(made / "distilled.en"), read_lines(made / "distilled.de"), weights, strict=True))
    assert weights.dtype == np.float32
    assert len(lines) == manifest(made)["facts"]["num_lines"] > 80 == manifest(made)["facts"]["num_sentences"]
    sources = read_lines(PREPARED / "train.en")
    totals: dict[str, float] = {}
    for source, words, weight in lines:
        totals[source] = totals.get(source, 0.0) + float(weight)
        index = sources.index(source)
        assert words in [read_lines(PREPARED / "train.de")[index], *(text for _, text in hypotheses[index])]
    assert totals == pytest.approx(dict.fromkeys(sources, 1.0), abs=1e-6)
    trained = manifest(TINY / "students/all/seed_1")
    assert "nbest/weights.npy" in trained["inputs"]


# ------------------------------------------------------------------------------------------------- samples as targets


@pytest.fixture(scope="session")
def _sampled_once(_finished_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sampled")
    shutil.copytree(_finished_once, folder, dirs_exist_ok=True)
    document = settings()
    document["students"]["sampled"] = {"data": "sampled", "model": MODEL, "train": TRAIN}
    (folder / "tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    with working_in(folder):
        (result,) = run_stages("distill")
    assert "distill: up to date, nothing to do\nsampled: starting\n" in result.err
    return folder


@pytest.fixture
def sampled(_sampled_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a working folder as in `finished`, with a student on samples that is not trained yet."""
    shutil.copytree(_sampled_once, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list with the indices of the sentences whose samples are drawn, in this order."""
    requested: list[int] = []
    sample = TorchEngine.sample

    def watch(engine: TorchEngine, sources: Any, indices: list[int], *rest: Any, **more: Any) -> Any:
        requested.extend(indices)
        return sample(engine, sources, indices, *rest, **more)

    monkeypatch.setattr(TorchEngine, "sample", watch)
    return requested


@pytest.mark.usefixtures("sampled")
def test_samples_are_a_training_set_in_addition_to_the_distilled_one() -> None:
    assert [line for line in distill().err.splitlines() if "up to date" not in line] == []
    # the same files and facts as the distill stage, with other targets
    assert hash_tree(SAMPLED).keys() == hash_tree(MADE).keys()
    assert manifest(SAMPLED)["facts"].keys() == manifest()["facts"].keys()
    assert read_lines(SAMPLED / "distilled.en") == read_lines(PREPARED / "train.en")
    targets, references, own = read_lines(SAMPLED / "distilled.de"), read_lines(PREPARED / "train.de"), nbest(SAMPLED)
    assert [len(own[i]) for i in range(80)] == [1] * 80
    replaced = [i for i in range(80) if targets[i] != own[i][0][1]]
    assert all(targets[i] == references[i] for i in replaced)
    assert len(replaced) <= sum(manifest(SAMPLED)["facts"]["failures"].values()) < 80
    assert sum(own[i][0][1] != nbest()[i][0][1] for i in range(80)) > 20


@pytest.mark.usefixtures("sampled")
def test_a_line_is_the_sample_of_its_own_index() -> None:
    codec, engine = TextCodec.load(PREPARED), TorchEngine(load_model(resolve_checkpoint(TINY / "teacher/average")))
    sources = IndexedDataset(PREPARED / "data-bin/train.en-de.en")
    for i in (0, 29, 30, 79):
        ((hypothesis,),) = engine.sample([sources[i]], [i], Decode.model_validate(DECODE), Sampling(), seed=1)
        assert codec.decode_target(hypothesis.tokens) == nbest(SAMPLED)[i][0][1]


@pytest.mark.usefixtures("sampled")
def test_a_student_learns_from_samples() -> None:
    assert kdmt("student", "tiny.yaml", "--student", "sampled").code == 0
    inputs = manifest(TINY / "students/sampled/seed_1")["inputs"]
    outputs = manifest(SAMPLED)["outputs"]
    assert inputs["sampled/data-bin/train.en-de.de.bin"] == outputs["data-bin/train.en-de.de.bin"]
    assert not any(name.startswith("distill/") for name in inputs)


@pytest.mark.usefixtures("sampled")
def test_settings_of_samples_rebuild_only_samples(drawn: list[int]) -> None:
    made = hash_tree(SAMPLED)
    result = distill("sample.seed=2")
    assert result.err.startswith("distill: up to date, nothing to do\n")
    assert "sampled: rebuilt: the setting distill.sample.seed changed from 1 to 2 (the old one is kept" in result.err
    assert sorted(drawn) == list(range(80))
    assert read_lines(SAMPLED / "distilled.de") != read_lines(TINY / "sampled.previous/distilled.de")
    assert "sampled: taken back from sampled.previous" in distill().err
    shutil.rmtree(SAMPLED)
    assert distill().code == 0
    assert hash_tree(SAMPLED) == made  # the same seed gives the same bytes


@pytest.mark.usefixtures("sampled")
def test_settings_of_the_beam_do_not_change_samples(drawn: list[int]) -> None:
    result = distill("decode={beam: 1, lenpen: 0.5, max_len_a: 1.0, max_len_b: 5}")
    assert "distill: rebuilt" in result.err
    assert result.err.endswith("sampled: up to date, nothing to do\n")
    assert not drawn


@pytest.mark.usefixtures("sampled")
def test_samples_are_resumed_from_existing_blocks(drawn: list[int]) -> None:
    expected = hash_tree(SAMPLED)
    forget_all_but_blocks(SAMPLED)
    (SAMPLED / "blocks/000001.gz").unlink()
    assert "sampled: going on: it was started and not finished\n" in distill().err
    assert drawn == list(range(30, 60))
    assert hash_tree(SAMPLED) == expected


@pytest.mark.usefixtures("sampled")
def test_blocks_and_batches_of_another_size_have_the_same_samples(drawn: list[int]) -> None:
    before = [(SAMPLED / name).read_bytes() for name in ("distilled.en", "distilled.de")]
    assert distill("block_size=77", "decode.batch_size=7").code == 0
    assert sorted(drawn) == list(range(80))
    assert [(SAMPLED / name).read_bytes() for name in ("distilled.en", "distilled.de")] == before


@pytest.mark.usefixtures("sampled", "no_decoding")
def test_another_action_on_failures_draws_nothing_again() -> None:
    assert distill("failures={empty: keep, too_long: keep, repetition: keep, ratio: keep}").code == 0
    assert read_lines(SAMPLED / "distilled.de") == [nbest(SAMPLED)[i][0][1] for i in range(80)]


@pytest.mark.usefixtures("sampled")
def test_samples_that_are_all_empty_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TorchEngine, "sample", lambda _, sources, *__, **___: [[] for _ in sources])
    result = distill("sample.seed=2", "failures.empty=drop")
    assert result.code == 2
    assert result.err.splitlines()[-1] == (
        "kdmt: error: sampled: none of 80 sentences has a translation to train on; failures: empty 80"
    )


@pytest.mark.usefixtures("pipeline")
def test_what_the_recipe_of_noise_leaves_out_is_named() -> None:
    overrides = ("distill.augment=default", "prepare.text={lowercase: true}")
    workspace = Workspace(load_pipeline(Path("tiny.yaml"), overrides), Path("runs"))
    job = _job(workspace, MADE, inputs_of(workspace))
    assert [note.split("'")[3] for note in job.noise_notes] == ["upper_case", "title_case"]
