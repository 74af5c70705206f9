"""The stage `pool` through the command line: candidates, choices among them, verification, shards, executors."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from distilled_pipeline import PREPARED, TINY, distill, done, manifest, verified
from tiny_pipeline import MODEL, TRAIN, kdmt, read_lines, settings, to_yaml, working_in, write_lines

from kdmt.config import Decode, Diverse
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.indexed import IndexedDataset
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.distill.blocks import read_header
from kdmt.models.checkpoint import load_model
from kdmt.models.checkpoint_folder import resolve_checkpoint
from kdmt.types import Sampling

POOL = TINY / "pool"
SETTINGS = {"beam": 2, "samples": 6, "epsilon": 0.05}
FILES = ("nbest", "nbest.npy", "sentences.npy")


def write_pipeline(**pool: object) -> None:
    document = settings()
    document["distill"]["pool"] = SETTINGS | pool
    document["students"] = {"mbr": {"data": "mbr", "model": MODEL, "train": TRAIN}}
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")


@pytest.fixture(scope="module")
def _pooled_once(_finished_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pooled")
    shutil.copytree(_finished_once, folder, dirs_exist_ok=True)
    with working_in(folder):
        write_pipeline()
        result = distill()
        assert result.code == 0, result.err
        assert result.err.startswith("pool: starting\n")  # no student learns from `distilled`
    return folder


@pytest.fixture
def pooled(_pooled_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the working folder with a pool and a set that was chosen from it; the test may change it."""
    shutil.copytree(_pooled_once, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)


def candidates() -> dict[int, list[tuple[float, int, int, str]]]:
    """Return score, count, system and words of the candidates of each sentence."""
    found: dict[int, list[tuple[float, int, int, str]]] = {}
    for line in read_lines(POOL / "nbest"):
        number, score, _, _, count, system, words = line.split("\t")
        found.setdefault(int(number), []).append((float(score), int(count), int(system), words))
    return found


def content() -> dict[str, bytes]:
    paths = [*(POOL / name for name in FILES), *sorted((POOL / "blocks").iterdir())]
    return {path.name: path.read_bytes() for path in paths}


@pytest.mark.usefixtures("pooled")
def test_a_pool_has_the_hypotheses_of_beam_search_and_the_samples_with_their_counts() -> None:
    codec, model = TextCodec.load(PREPARED), load_model(resolve_checkpoint(TINY / "teacher/average"))
    engine, decode = TorchEngine(model), Decode(beam=2, nbest=2, max_len_a=1.0, max_len_b=5)
    sources = list(IndexedDataset(PREPARED / "data-bin/train.en-de.en"))
    found = candidates()
    assert len(found) == 80
    best = engine.decode(sources, decode)
    drawn = engine.sample(sources, range(80), decode, Sampling(epsilon=0.05), seed=1, samples=6, lenpen=1.0)
    for number in range(80):
        counts = Counter(codec.decode_target(hypothesis.tokens) for hypothesis in drawn[number])
        first = list(dict.fromkeys(codec.decode_target(hypothesis.tokens) for hypothesis in best[number]))
        own = {words: count for _, count, _, words in found[number]}
        assert list(own)[: len(first)] == first
        assert own == {words: counts[words] for words in [*first, *counts]}
        assert found[number][0][0] == pytest.approx(best[number][0].score, abs=1e-5)
        assert {system for _, _, system, _ in found[number]} == {0}
    assert any(count == 0 for own in found.values() for _, count, _, _ in own)
    assert any(count > 1 for own in found.values() for _, count, _, _ in own)
    facts = manifest(POOL)["facts"]
    assert facts["num_candidates"] == sum(map(len, found.values()))
    assert not (POOL / "data-bin").exists()


@pytest.mark.usefixtures("pooled")
def test_sets_that_choose_choose_from_the_pool() -> None:
    inputs = manifest(TINY / "mbr")["inputs"]
    assert inputs["pool/nbest"] == manifest(POOL)["outputs"]["nbest"]
    texts = {number: {words for *_, words in own} for number, own in candidates().items()}
    replaced = {int(line.split("\t")[0]) for line in read_lines(TINY / "mbr/rejected") if line}
    chosen, best = read_lines(TINY / "mbr/distilled.de"), read_lines(TINY / "distill/distilled.de")
    assert all(words in texts[number] for number, words in enumerate(chosen) if number not in replaced)
    assert chosen != best


@pytest.mark.usefixtures("pooled")
def test_verification_decodes_blocks_again_and_finds_changed_candidates() -> None:
    err = verified("--verify-blocks", "3").err
    assert "pool: 3 blocks are whole, and nbest follows from them" in err
    assert "pool: decoded again, the same: blocks 0, 1, 2" in err
    lines = read_lines(POOL / "nbest")
    write_lines(POOL / "nbest", [lines[1], lines[0], *lines[2:]])
    result = distill("--verify")
    assert result.code == 2
    assert "nbest" in result.err


@pytest.mark.slow
@pytest.mark.usefixtures("pooled")
def test_each_setting_of_the_pool_redoes_it_and_only_it() -> None:
    before, whole = (TINY / "distill/manifest.json").read_bytes(), content()
    for setting in (
        "beam=3",
        "samples=5",
        "epsilon=0.3",
        "min_p=0.3",
        "temperature=0.5",
        "top_k=2",
        "top_p=0.4",
        "seed=2",
    ):
        err = done(f"distill.pool.{setting}")
        assert "pool: rebuilt: the setting distill.pool." in err
        assert f"the setting distill.pool.{setting.partition('=')[0]} changed" in err.replace("; the", "\nthe")
        assert content()["nbest"] != whole["nbest"]
        assert (TINY / "distill/manifest.json").read_bytes() == before
    assert "pool: taken back from" in done()
    assert content() == whole


@pytest.mark.usefixtures("pooled")
def test_only_missing_and_damaged_blocks_are_made_again() -> None:
    whole = content()
    (POOL / "manifest.json").unlink()
    (POOL / "blocks/000000.gz").unlink()
    damaged = POOL / "blocks/000001.gz"
    damaged.write_bytes(damaged.read_bytes()[:-40])
    err = done()
    assert "000001.gz: damaged" in err
    assert "1 of 3 blocks are there" in err
    assert content() == whole


@pytest.mark.usefixtures("pooled")
@pytest.mark.parametrize("executor", ["processes", "shards"])
def test_processes_and_shards_write_the_same_bytes(executor: str) -> None:
    whole = content()
    shutil.rmtree(POOL)
    if executor == "shards":
        for shard in range(2):
            assert distill("--shard", f"{shard}/2").code == 0
        done()
    else:
        done("distill.executor=processes", "distill.workers=2")
    assert content() == whole


@pytest.mark.usefixtures("pooled")
def test_a_pool_of_ctranslate2() -> None:
    done("distill.engine=ctranslate2")
    found = candidates()
    assert sorted(found) == list(range(80))
    assert all(sum(count for _, count, _, _ in own) == 6 for own in found.values())
    assert all(len({words for *_, words in own}) == len(own) for own in found.values())
    codec, model = TextCodec.load(PREPARED), load_model(resolve_checkpoint(TINY / "teacher/average"))
    sources = list(IndexedDataset(PREPARED / "data-bin/train.en-de.en"))
    best = TorchEngine(model).decode(sources, Decode(beam=2, nbest=2, max_len_a=1.0, max_len_b=5))
    for number, own in found.items():
        assert own[0][3] == codec.decode_target(best[number][0].tokens)
    whole = content()
    (POOL / "manifest.json").unlink()
    (POOL / "blocks/000002.gz").unlink()
    done("distill.engine=ctranslate2")
    assert content() == whole


@pytest.mark.usefixtures("pooled")
def test_blocks_of_one_engine_are_not_those_of_another() -> None:
    done("distill.engine=auto")
    drawn_by_torch = content()
    made_from = read_header(POOL / "blocks/000000.gz")["made_from"]
    assert made_from["engine"] == "ctranslate2"
    assert "engine of samples" not in made_from  # as in blocks of earlier versions
    done("distill.engine=ctranslate2")
    drawn = content()
    assert drawn["nbest"] != drawn_by_torch["nbest"]
    assert verified("--verify-blocks", "3", sets=("distill.engine=ctranslate2",)).code == 0
    for state in (POOL, *TINY.glob("pool.*")):
        shutil.rmtree(state)
    done("distill.engine=ctranslate2")
    assert content() == drawn


@pytest.mark.usefixtures("pooled")
def test_samples_alone_or_beam_search_alone() -> None:
    done("distill.pool.beam=0")
    assert all(sum(count for _, count, _, _ in own) == 6 for own in candidates().values())
    done("distill.pool={beam: 3, samples: 0}")
    found = candidates()
    assert {count for own in found.values() for _, count, _, _ in own} == {0}
    assert max(map(len, found.values())) == 3


@pytest.mark.usefixtures("pooled")
def test_diverse_beam_search_in_a_pool() -> None:
    done("distill.pool={beam: 4, samples: 0, diverse: {groups: 2, penalty: 3.0}}")
    codec, model = TextCodec.load(PREPARED), load_model(resolve_checkpoint(TINY / "teacher/average"))
    sources = list(IndexedDataset(PREPARED / "data-bin/train.en-de.en"))
    decode = Decode(beam=4, nbest=4, max_len_a=1.0, max_len_b=5)
    expected = TorchEngine(model).decode_diverse(sources, decode, Diverse(groups=2, penalty=3.0))
    plain, found = TorchEngine(model).decode(sources, decode), candidates()
    texts = [list(dict.fromkeys(codec.decode_target(each.tokens) for each in own)) for own in expected]
    assert [[words for *_, words in found[number]] for number in range(80)] == texts
    assert sum(own != other for own, other in zip(expected, plain, strict=True)) > 40


@pytest.mark.usefixtures("pooled")
def test_weights_of_features_are_tuned_on_a_pool_of_the_validation_set() -> None:
    setting, _ = write_systems()
    err = done(setting, "students.mbr.data=reranked", "distill.rerank.features=[score, count]")
    assert "reranked: weights score" in err
    lines = read_lines(TINY / "reranked/valid/nbest")
    assert {line.count("\t") for line in lines} == {6}
    counts = Counter[str]()
    for line in lines:
        number, *_, count, system, _ = line.split("\t")
        assert system == "0"  # the other systems have translated the training set alone
        counts[number] += int(count)
    assert dict(counts) == {str(number): 6 for number in range(6)}
    assert (
        "its text follows from runs/tiny/pool/nbest"
        in verified(sets=(setting, "students.mbr.data=reranked", "distill.rerank.features=[score, count]")).err
    )


# ---------------------------------------------------------------------------------------- prepared files of the choice

REFERENCES = ("students.mbr.data=interpolated", "distill.teachers=[teacher_copy]", "distill.failures.max_ratio=0")
CHOSEN = TINY / "interpolated"


def swap_references() -> None:
    """Exchange two target lines of the training text, by which neither the tokenizer nor the sources change."""
    lines = read_lines(Path("text/train.de"))
    write_lines(Path("text/train.de"), [lines[1], lines[0], *lines[2:]])
    assert kdmt("prepare", "tiny.yaml").code == 0


def reasons(err: str) -> str:
    """Return why the set that depends on the references was made again."""
    return next(line for line in err.splitlines() if line.startswith("interpolated: rebuilt: "))


@pytest.fixture
def interpolated(pooled: Path) -> Path:
    """Return the working folder with a set that depends on the references, and a teacher that does not."""
    shutil.copytree(resolve_checkpoint(TINY / "teacher/average"), pooled / "teacher_copy")
    done(*REFERENCES)
    return pooled


@pytest.mark.usefixtures("interpolated")
def test_a_choice_is_made_again_from_corrected_references() -> None:
    inputs, prepared = manifest(CHOSEN)["inputs"], manifest(PREPARED)["outputs"]
    for name in ("train.de", "dict.de.txt", "tokenizer/joint.model", "text.json"):
        assert inputs[f"prepare/{name}"] == prepared[name]
    candidates = content()["nbest"]
    swap_references()
    err = done(*REFERENCES)
    assert content()["nbest"] == candidates
    assert "the input prepare/train.de changed" in reasons(err)
    made = (CHOSEN / "distilled.de").read_bytes()
    shutil.rmtree(CHOSEN)
    shutil.rmtree(TINY / "interpolated.previous")
    done(*REFERENCES)
    assert (CHOSEN / "distilled.de").read_bytes() == made


@pytest.mark.usefixtures("interpolated")
def test_a_choice_of_an_earlier_version_is_up_to_date_until_a_prepared_file_changes() -> None:
    record = manifest(CHOSEN)
    record["inputs"] = {name: sha for name, sha in record["inputs"].items() if not name.startswith("prepare/")}
    (CHOSEN / "manifest.json").write_text(json.dumps(record), encoding="utf-8")
    assert "interpolated: up to date" in done(*REFERENCES)
    # also if another setting made the candidates again, but not if they were made again from other references
    done(*REFERENCES, "distill.pool.seed=2")
    assert "interpolated: taken back from" in done(*REFERENCES)
    assert manifest(CHOSEN) == record
    swap_references()
    assert "the input prepare/train.de is new" in reasons(done(*REFERENCES))
    assert manifest(CHOSEN)["inputs"]["prepare/train.de"] == manifest(PREPARED)["outputs"]["train.de"]


# ------------------------------------------------------------------------------------------------------- other systems


def write_systems() -> tuple[str, str]:
    """Write the candidates of two systems; the second one has none for most sentences. Return their setting."""
    write_lines(Path("one.tsv"), [f"{number}\tok{'  ' * (number % 2)} uk" for number in [*range(79, -1, -1), 3, 3, 5]])
    first = candidates()[7][0][3]
    write_lines(Path("two.tsv"), ["5\tok uk", "5\tilp", f"7\t{first}"])
    return "distill.pool.systems={one: one.tsv, two: two.tsv}", first


@pytest.mark.usefixtures("pooled")
def test_candidates_of_several_systems_are_merged_by_sentence_and_text() -> None:
    before = candidates()
    setting, first = write_systems()
    blocks = {path.name: path.stat().st_mtime_ns for path in (POOL / "blocks").iterdir()}
    err = done(setting)
    assert "pool: one has 83 candidates for 80 of 80 sentences" in err
    assert "pool: two has 3 candidates for 2 of 80 sentences" in err
    assert blocks == {path.name: path.stat().st_mtime_ns for path in (POOL / "blocks").iterdir()}  # not decoded again
    found = candidates()
    for number in (3, 5, 7, 8):
        own = {words: (count, system) for _, count, system, words in found[number]}
        expected = {words: (count, 0) for _, count, _, words in before[number]}
        for system, words in [(1, "ok uk")] * {3: 3, 5: 2}.get(number, 1) + {
            5: [(2, "ok uk"), (2, "ilp")],
            7: [(2, first)],
        }.get(number, []):
            count, owner = expected.get(words, (0, system))
            expected[words] = (count + 1, owner)
        assert own == expected
    unscored = [score for own in found.values() for score, _, system, _ in own if system]
    assert unscored
    assert np.isnan(unscored).all()
    assert "nbest follows from them" in verified(sets=(setting,)).err
    write_lines(Path("two.tsv"), ["5\tok uk"])
    assert "pool: rebuilt: the input two.tsv changed" in done(setting)


@pytest.mark.usefixtures("pooled")
@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["0\tok", "ok uk"], "bad.tsv:2: expected index<TAB>translation, found 'ok uk'"),
        (["80\tok"], "bad.tsv:1: index 80, but the training source has the lines 0 to 79"),
        (["x\tok"], "bad.tsv:1: expected index<TAB>translation"),
        (None, "bad.tsv"),
    ],
)
def test_a_file_of_candidates_that_is_wrong(lines: list[str] | None, problem: str) -> None:
    if lines is not None:
        write_lines(Path("bad.tsv"), lines)
    result = distill(sets=("distill.pool.systems={bad: bad.tsv}",))
    assert result.code == 2
    assert problem in result.err


def test_sets_weighted_by_probability_give_no_weight_to_other_systems(pooled: Path) -> None:
    setting, _ = write_systems()
    document = settings()
    document["distill"]["pool"] = SETTINGS
    document["students"] = {"nbest": {"data": "nbest", "model": MODEL, "train": TRAIN}}
    (pooled / "tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    done(setting)
    weights = np.load(TINY / "nbest/weights.npy")
    assert np.isfinite(weights).all()
    assert (weights == 0).any()


# ------------------------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("pool", "problem"),
    [
        ({"beam": 0, "samples": 0}, "'beam' and 'samples' are both 0"),
        ({"samples": 0, "epsilon": 0.1}, "'epsilon' has no effect unless 'samples' is more than 0"),
        ({"epsilon": 1.5}, "distill.pool.epsilon"),
        ({"diverse": {"groups": 3}}, "'beam' (4) is no multiple of 'diverse.groups' (3)"),
    ],
)
def test_settings_that_do_not_fit(finished: Path, pool: dict[str, object], problem: str) -> None:
    document = settings()
    document["distill"]["pool"] = pool
    (finished / "tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    result = kdmt("distill", "tiny.yaml")
    assert result.code == 2
    assert problem in result.err


@pytest.mark.usefixtures("finished")
def test_diverse_beam_search_needs_torch() -> None:
    result = distill(sets=("distill.engine=auto", "distill.pool={diverse: {groups: 2}}"))
    assert result.code == 2
    assert "'pool.diverse': CTranslate2 has no diverse beam search: set 'engine: torch'" in result.err


@pytest.mark.usefixtures("finished")
def test_a_pool_is_no_training_set() -> None:
    document = settings()
    document["students"]["raw"]["data"] = "pool"
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    assert kdmt("distill", "tiny.yaml").code == 2


@pytest.mark.usefixtures("pooled")
def test_blocks_of_samples_of_earlier_versions_have_no_settings_of_epsilon() -> None:
    document = settings()
    document["students"] = {"sampled": {"data": "sampled", "model": MODEL, "train": TRAIN}}
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    done()
    made_from = read_header(TINY / "sampled/blocks/000000.gz")["made_from"]
    assert {name for name in made_from if "sample" in name} == {
        f"distill.sample.{name}" for name in ("seed", "temperature", "top_k", "top_p")
    }
    record = json.loads((TINY / "sampled/manifest.json").read_text(encoding="utf-8"))
    for name in ("epsilon", "min_p"):
        del record["settings"][f"distill.sample.{name}"]
    (TINY / "sampled/manifest.json").write_text(json.dumps(record), encoding="utf-8")
    assert "sampled: up to date" in done()
    drawn = read_lines(TINY / "sampled/nbest")
    for setting in ("epsilon=0.4", "min_p=0.8"):
        assert "sampled: rebuilt" in done(f"distill.sample.{setting}")
        assert read_lines(TINY / "sampled/nbest") != drawn
