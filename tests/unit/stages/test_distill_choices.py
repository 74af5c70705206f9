"""Training sets beside the teacher's best: choices from its n-best, other teachers, others' translations."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_pipeline
from bad_input import refused, unharmed
from tiny_pipeline import (
    TEACHER_TRAIN,
    Finished,
    hash_tree,
    kdmt,
    make_pairs,
    read_lines,
    run_stages,
    settings,
    to_yaml,
    working_in,
    write_lines,
)

from kdmt.config import Decode
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.indexed import IndexedDataset
from kdmt.decode.engines.nat import NATEngine
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.models.checkpoint import load_model
from kdmt.models.checkpoint_folder import resolve_checkpoint
from kdmt.score.metrics import sentence_chrf

TINY = Path("runs/tiny")
PREPARED, MADE, MBR, SCORED, IMPORTED = (TINY / name for name in ("prepare", "distill", "mbr", "scored", "imported"))
NBEST = ("distill.decode={beam: 3, nbest: 3, max_len_a: 1.0, max_len_b: 5}", "distill.failures.max_ratio=0")


def distill(*sets: str) -> Finished:
    return kdmt("distill", "tiny.yaml", *(part for setting in sets for part in ("--set", setting)))


def done(*sets: str) -> str:
    result = distill(*sets)
    assert result.code == 0, result.err
    return result.err


def manifest(made: Path = MADE) -> dict[str, Any]:
    return json.loads((made / "manifest.json").read_text(encoding="utf-8"))


def usable(made: Path = MADE) -> dict[int, list[tuple[int, str]]]:
    """Sentence -> its hypotheses that do not fail, each with its line in `nbest`."""
    found: dict[int, list[tuple[int, str]]] = {}
    for line, row in enumerate(read_lines(made / "nbest")):
        number, _, _, failure, words = row.split("\t")
        if failure == "-":
            found.setdefault(int(number), []).append((line, words))
    return found


def rejected(made: Path) -> list[tuple[int, str, str]]:
    rows = (line.split("\t") for line in read_lines(made / "rejected") if line)
    return [(int(index), failure, what) for index, failure, what in rows]


# --------------------------------------------------------------------------------------------- choices from the n-best


@pytest.mark.usefixtures("finished")
def test_minimum_bayes_risk_takes_what_is_most_like_the_others() -> None:
    done(*NBEST, "students.near={data: mbr}")
    targets, references = read_lines(MBR / "distilled.de"), read_lines(PREPARED / "train.de")
    candidates, other = usable(), 0
    assert read_lines(MBR / "distilled.en") == read_lines(PREPARED / "train.en")
    for index, target in enumerate(targets):
        own = [words for _, words in candidates.get(index, [])]
        if not own:
            assert target == references[index]
            continue
        risks = [math.fsum(sentence_chrf(words, each).value for each in own) for words in own]
        assert risks[own.index(target)] == pytest.approx(max(risks), abs=1e-6)
        other += target != own[0]
    assert other  # not always the best
    assert "mbr: up to date, nothing to do" in done(*NBEST, "students.near={data: mbr}")


def write_scores() -> dict[int, float]:
    """A score for each line of `nbest`, of which some are equal."""
    rng = random.Random(1)
    scores = {line: float(rng.randint(-3, 3)) for line in range(len(read_lines(MADE / "nbest")))}
    write_lines(Path("scores.txt"), [f"{score:g}" for score in scores.values()])
    return scores


BY_SCORES = (*NBEST, "students.near={data: scored}", "distill.scores=scores.txt")


@pytest.mark.usefixtures("finished")
def test_the_highest_score_given_chooses() -> None:
    done(*NBEST)
    scores = write_scores()
    done(*BY_SCORES)
    targets, references = read_lines(SCORED / "distilled.de"), read_lines(PREPARED / "train.de")
    candidates = usable()
    for index, target in enumerate(targets):
        own = candidates.get(index, [])
        values = [scores[line] for line, _ in own]
        assert target == (own[values.index(max(values))][1] if own else references[index])
    assert manifest(SCORED)["inputs"]["scores.txt"]
    made = hash_tree(SCORED)
    write_lines(Path("scores.txt"), [str(-score) for score in scores.values()])
    assert "scored: made anew: the input scores.txt changed" in done(*BY_SCORES)
    assert hash_tree(SCORED.with_name("scored.previous")) == made


@pytest.mark.usefixtures("finished")
def test_scores_that_do_not_belong_to_the_nbest() -> None:
    """Nothing but the new stage's folder is touched: it has no text."""
    done(*NBEST)
    lines = [str(score) for score in write_scores().values()]
    work = ("tiny/.scored.lock",)

    def message(scores: list[str]) -> str:
        write_lines(Path("scores.txt"), scores)
        with unharmed(*work):
            return refused("distill", "tiny.yaml", sets=BY_SCORES)

    count = len(lines)
    assert message(lines[:-1]) == f"scores.txt: {count - 1} scores for the {count} lines of runs/tiny/distill/nbest"
    assert message([*lines, "1"]) == f"scores.txt: {count + 1} scores for the {count} lines of runs/tiny/distill/nbest"
    assert message([*lines[:16], "high", *lines[17:]]) == "scores.txt:17: not a number: 'high'"
    Path("scores.txt").unlink()
    with unharmed(*work):
        assert refused("distill", "tiny.yaml", sets=BY_SCORES) == "scores.txt: there is no such file"
    assert not (SCORED / "distilled.de").exists()


# --------------------------------------------------------------------------------------- another system's translations

RAW = "students.raw.data=imported"
IMPORTING = ("students.theirs={data: imported}", "distill.imported=theirs.tsv")


def theirs(count: int = 80) -> list[str]:
    return [f"{index}\tok  uk{index % 7} ilp" for index in range(count)]


@pytest.mark.usefixtures("finished")
def test_another_systems_translations_become_a_training_set() -> None:
    write_lines(Path("theirs.tsv"), [*theirs()[:-1], "79\t "])
    done(*IMPORTING)
    expected = [line.partition("\t")[2].replace("  ", " ") for line in theirs()[:-1]]
    assert read_lines(IMPORTED / "distilled.de") == [*expected, read_lines(PREPARED / "train.de")[-1]]
    assert read_lines(IMPORTED / "distilled.en") == read_lines(PREPARED / "train.en")
    assert rejected(IMPORTED) == [(79, "empty", "replaced by the reference")]
    assert manifest(IMPORTED)["inputs"]["theirs.tsv"]
    codec = TextCodec.load(PREPARED)
    sentences = IndexedDataset(IMPORTED / "data-bin/train.en-de.de")
    assert len(sentences) == 80
    assert sentences[0].tolist() == codec.encode_target([expected[0]])[0].tolist()
    assert kdmt("student", "tiny.yaml", "--student", "raw", "--set", RAW, "--set", IMPORTING[1]).code == 0
    assert "imported/data-bin/train.en-de.de.bin" in manifest(TINY / "students/raw/seed_1")["inputs"]


@pytest.mark.usefixtures("finished")
def test_translations_out_of_order_give_the_same() -> None:
    lines = theirs()
    write_lines(Path("theirs.tsv"), lines)
    done(*IMPORTING)
    names = (
        "distilled.en",
        "distilled.de",
        "nbest",
        "nbest.npy",
        "sentences.npy",
        "rejected",
        "data-bin/train.en-de.de.bin",
    )
    in_order = [(IMPORTED / name).read_bytes() for name in names]
    random.Random(5).shuffle(lines)
    write_lines(Path("theirs.tsv"), lines)
    assert "imported: made anew: the input theirs.tsv changed" in done(*IMPORTING)
    assert [(IMPORTED / name).read_bytes() for name in names] == in_order
    assert not list(TINY.glob(".imported-*"))


@pytest.mark.usefixtures("finished")
def test_the_teacher_is_not_asked_where_all_is_imported() -> None:
    document = settings()
    document["students"] = {"theirs": {**document["students"]["raw"], "data": "imported"}}
    document["distill"]["imported"] = "theirs.tsv"
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    write_lines(Path("theirs.tsv"), theirs())
    for name in ("teacher", "distill"):
        shutil.rmtree(TINY / name)
    assert done().startswith("imported: starting\n")
    assert not MADE.exists()


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([*theirs(79)], ": no line has the index 79 of 80"),
        (theirs()[:3], ": no line has the index 3, 4, 5, 6, 7 and 72 more of 80"),
        ([*theirs(), "17\tok"], ":81: index 17 stands in line 18 already"),
        ([*theirs(79), "80\tok"], ":80: index 80, but the training source has the lines 0 to 79"),
        ([*theirs(79), f"{'9' * 5000}\tok"], f":80: index {'9' * 40}"),
        ([*theirs(79), "ok uk"], ":80: expected index<TAB>translation, found 'ok uk'"),
        ([*theirs(79), "-1\tok"], ":80: expected index<TAB>translation, found '-1\\tok'"),
        ([*theirs(79), "٧\tok"], ":80: expected index<TAB>translation, found '٧\\tok'"),
        ([*theirs(79), ""], ":80: expected index<TAB>translation, found ''"),
        ([], ": no line has the index 0, 1, 2, 3, 4 and 75 more of 80"),
    ],
)
def test_a_file_that_is_not_the_translations(lines: list[str], message: str) -> None:
    """An imported set that existed stays as it was."""
    write_lines(Path("theirs.tsv"), theirs())
    done(*IMPORTING)
    write_lines(Path("theirs.tsv"), lines)
    with unharmed():
        assert refused("distill", "tiny.yaml", sets=IMPORTING).startswith(f"theirs.tsv{message}")
    assert not list(TINY.glob(".imported-*"))


@pytest.mark.usefixtures("finished")
def test_a_file_that_cannot_be_read() -> None:
    with unharmed("tiny/.imported.lock"):
        assert refused("distill", "tiny.yaml", sets=IMPORTING) == "theirs.tsv: there is no such file"
        Path("theirs.tsv").write_bytes(b"0\tok\n1\t\xff\n")
        assert refused("distill", "tiny.yaml", sets=IMPORTING) == "theirs.tsv line 2: not UTF-8"
        assert not IMPORTED.exists()


WITH_SOURCES = (*IMPORTING, "distill.imported_sources=true")


def with_sources(lines: list[str]) -> list[str]:
    """The lines of `theirs` with a column for the source."""
    sources = read_lines(PREPARED / "train.en")
    return [line.replace("\t", f"\t{sources[index]}\t", 1) for index, line in enumerate(lines)]


@pytest.mark.usefixtures("finished")
def test_translations_beside_their_sources_give_the_same() -> None:
    write_lines(Path("theirs.tsv"), theirs())
    done(*IMPORTING)
    without = [(IMPORTED / name).read_bytes() for name in ("distilled.en", "distilled.de", "nbest")]
    lines = with_sources(theirs())
    lines[3] = lines[3].replace("\t", "\t  ", 1)  # spaces are no other source
    random.Random(5).shuffle(lines)
    write_lines(Path("theirs.tsv"), lines)
    done(*WITH_SOURCES)
    assert [(IMPORTED / name).read_bytes() for name in ("distilled.en", "distilled.de", "nbest")] == without
    assert manifest(IMPORTED)["settings"]["distill.imported_sources"] is True


@pytest.mark.usefixtures("finished")
def test_translations_of_other_sources_are_refused() -> None:
    """As many lines, all indices, and yet not of this training set: shifted by one from some line on."""
    sources, lines = read_lines(PREPARED / "train.en"), with_sources(theirs())
    write_lines(Path("theirs.tsv"), lines)
    done(*WITH_SOURCES)
    shifted = [f"{index}\t{lines[(index + (index > 40)) % 80].partition(chr(9))[2]}" for index in range(80)]
    for wrong, message in (
        (shifted, f":42: not the source of line 41 of the training set: {sources[42]!r}, not {sources[41]!r}"),
        (theirs(), ":1: expected index<TAB>source<TAB>translation, found two columns"),
    ):
        write_lines(Path("theirs.tsv"), wrong)
        with unharmed():
            assert refused("distill", "tiny.yaml", sets=WITH_SOURCES) == f"theirs.tsv{message}"
    message = refused("distill", "tiny.yaml", sets=("distill.imported_sources=true",))
    assert message.endswith("'imported_sources' has no effect unless 'imported' is set")


# ---------------------------------------------------------------------------------------------------- monolingual text

MONOLINGUAL = 30


def with_monolingual() -> list[str]:
    """Prepared again with text that has no references, of which some lines stand in the training text."""
    own = [source for source, _ in make_pairs(200, seed=9)]
    held_out = {line for split in ("valid", "test") for line in read_lines(Path(f"text/{split}.en"))}
    trained = read_lines(Path("text/train.en"))
    lines = list(dict.fromkeys(line for line in own if line not in held_out))[: MONOLINGUAL - 4] + trained[:4]
    write_lines(Path("text/mono.en"), lines)
    document = settings()
    document["prepare"] |= {"monolingual": [{"path": "text/mono.en"}], "clean": "none", "decontaminate": False}
    document["distill"]["monolingual"] = True
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    assert len(lines) == MONOLINGUAL
    return lines


def test_monolingual_text_has_to_be_prepared(pipeline: Path) -> None:
    assert pipeline
    message = refused("distill", "tiny.yaml", sets=("distill.monolingual=true",))
    assert message.endswith("'distill.monolingual' needs 'prepare.monolingual'")


@pytest.mark.usefixtures("finished")
def test_monolingual_lines_follow_those_of_the_training_text() -> None:
    lines = with_monolingual()
    run_stages("prepare", "teacher", "distill")
    trained = read_lines(PREPARED / "train.en")
    assert read_lines(PREPARED / "monolingual.en") == lines
    numbers = np.load(MADE / "sentences.npy").tolist()
    first: dict[str, int] = {}
    assert numbers == [first.setdefault(line, len(first)) for line in trained + lines]
    dropped = [index for index, _, what in rejected(MADE) if what == "dropped"]
    assert all(index >= len(trained) for index in dropped)  # the others have references
    replaced = [index for index, _, what in rejected(MADE) if what == "replaced by the reference"]
    assert all(index < len(trained) for index in replaced)
    kept = [line for index, line in enumerate(trained + lines) if index not in dropped]
    assert read_lines(MADE / "distilled.en") == kept
    facts = manifest()["facts"]
    assert facts["num_sentences"] == len(trained) + len(lines)
    assert facts["num_lines"] == len(kept) == len(IndexedDataset(MADE / "data-bin/train.en-de.de"))
    assert facts["num_compared"] == len(trained) - len(replaced)
    assert sum(facts["dropped"].values()) == len(dropped)
    best = {number: own[0][1] for number, own in usable().items()}
    by_source = dict(zip(read_lines(MADE / "distilled.en"), read_lines(MADE / "distilled.de"), strict=True))
    translated = [line for line in lines[:-4] if line in by_source]
    assert translated
    for line in translated:
        assert by_source[line] == best[first[line]]
    assert "distill: up to date" in done()
    assert kdmt("distill", "tiny.yaml", "--verify").code == 0


@pytest.mark.usefixtures("finished")
def test_imported_translations_of_monolingual_text() -> None:
    lines = with_monolingual()
    run_stages("prepare")
    count = len(read_lines(PREPARED / "train.en")) + len(lines)
    sets = (*IMPORTING, "students.distilled.data=raw")
    write_lines(Path("theirs.tsv"), theirs(count - 1))
    with unharmed("tiny/.imported.lock"):
        message = refused("distill", "tiny.yaml", sets=sets)
    assert message == f"theirs.tsv: no line has the index {count - 1} of {count}"
    write_lines(Path("theirs.tsv"), theirs(count))
    done(*sets)
    assert read_lines(IMPORTED / "distilled.en") == read_lines(PREPARED / "train.en") + lines
    assert read_lines(IMPORTED / "distilled.de")[-1] == theirs(count)[-1].partition("\t")[2].replace("  ", " ")
    assert manifest(IMPORTED)["facts"]["num_compared"] == count - len(lines)


# --------------------------------------------------------------------------------------------------- the reverse model

REVERSE = "distill.reverse={checkpoint: runs/reverse/teacher, drop_percent: 12}"


@pytest.fixture(scope="session")
def _reverse_once(_finished_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reverse")
    shutil.copytree(_finished_once / "text", folder / "text")
    document = settings()
    document |= {"name": "reverse", "source_lang": "de", "target_lang": "en"}
    prepare = document["prepare"]
    for pair in (*prepare["train"], prepare["valid"], *prepare["test"].values()):
        pair["source"], pair["target"] = pair["target"], pair["source"]
    document["teacher"]["train"] = TEACHER_TRAIN | {"max_updates": 40}
    (folder / "tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    with working_in(folder):
        run_stages("prepare", "teacher")
    return folder / "runs/reverse"


@pytest.fixture
def reverse(_reverse_once: Path, finished: Path) -> Iterator[Path]:
    shutil.copytree(_reverse_once, finished / "runs/reverse")
    return finished


def cross_entropies(sources: list[str], targets: list[str]) -> np.ndarray:
    """Of the sources given the targets, in nats a token, by PyTorch."""
    checkpoint = resolve_checkpoint(Path("runs/reverse/teacher"))
    codec, engine = TextCodec.load(checkpoint), TorchEngine(load_model(checkpoint))
    found = engine.score_pairs(codec.encode_source(targets), codec.encode_target(sources))
    return np.array([-each.sum(dtype=np.float64) / len(each) for each in found])


@pytest.mark.usefixtures("reverse")
def test_pairs_that_the_reverse_model_finds_improbable_are_dropped() -> None:
    sources, targets = read_lines(MADE / "distilled.en"), read_lines(MADE / "distilled.de")
    before = manifest()["facts"]
    assert "distill: made anew: the " in done(REVERSE)
    entropies = np.load(MADE / "reverse.npy")
    assert entropies.dtype == np.float32
    assert entropies == pytest.approx(cross_entropies(sources, targets), rel=1e-3, abs=1e-3)
    worst = sorted(np.argsort(entropies, kind="stable")[-9:].tolist())  # 12% of 80
    assert [index for index, failure, what in rejected(MADE) if (failure, what) == ("reverse", "dropped")] == worst
    assert [index for index, *_ in rejected(MADE)] == sorted(index for index, *_ in rejected(MADE))
    left = [index for index in range(80) if index not in worst]
    assert read_lines(MADE / "distilled.en") == [sources[index] for index in left]
    assert read_lines(MADE / "distilled.de") == [targets[index] for index in left]
    facts = manifest()["facts"]
    assert facts["num_lines"] == len(left) == len(IndexedDataset(MADE / "data-bin/train.en-de.de"))
    assert facts["failures"] == before["failures"] | {"reverse": 9}
    assert facts["dropped"] == before["dropped"] | {"reverse": 9}
    assert "reverse.npy" in manifest()["outputs"]
    assert "blocks are there" in done("distill.reverse={checkpoint: runs/reverse/teacher, drop_percent: 50}")
    assert manifest()["facts"]["num_lines"] == 40
    done()
    assert manifest()["facts"] == before


@pytest.mark.usefixtures("reverse")
def test_the_reverse_model_sees_what_was_chosen() -> None:
    done(*NBEST, "students.near={data: mbr}", REVERSE)
    assert sum(failure == "reverse" for _, failure, _ in rejected(MBR)) == 9
    assert manifest(MBR)["facts"]["num_lines"] == 80 - 9
    assert manifest(MBR)["inputs"]["runs/reverse/teacher"]
    made, times = hash_tree(TINY), [(folder / "reverse.npy").stat().st_mtime_ns for folder in (MADE, MBR)]
    sets = [part for setting in (*NBEST, "students.near={data: mbr}", REVERSE) for part in ("--set", setting)]
    result = kdmt("distill", "tiny.yaml", "--verify", *sets)
    assert result.code == 0, result.err
    assert hash_tree(TINY) == made
    assert [(folder / "reverse.npy").stat().st_mtime_ns for folder in (MADE, MBR)] == times
    done(*NBEST, "students.near={data: mbr}")
    assert not (MBR / "reverse.npy").exists()


@pytest.mark.usefixtures("reverse")
def test_a_teacher_that_gives_nothing_is_told_though_some_of_it_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TorchEngine, "decode", lambda _, sources, *__, **___: [[] for _ in sources])
    sets = (REVERSE, "distill.failures.empty=keep", "distill.block_size=50")
    message = refused("distill", "tiny.yaml", sets=sets)
    assert message.startswith("distill: none of 80 sentences has a translation to train on; failures: empty 80")


@pytest.mark.usefixtures("reverse")
def test_a_model_that_does_not_read_the_targets_is_refused() -> None:
    with unharmed():
        message = refused("distill", "tiny.yaml", sets=("distill.reverse={checkpoint: runs/tiny/teacher}",))
    assert message == "distill.reverse.checkpoint: runs/tiny/teacher translates en to de, not de to en"
    path = resolve_checkpoint(Path("runs/reverse/teacher")) / "text.json"
    text = json.loads(path.read_text(encoding="utf-8"))
    text["text"]["lowercase"] = True
    path.write_text(json.dumps(text), encoding="utf-8")
    with unharmed():
        message = refused("distill", "tiny.yaml", sets=(REVERSE,))
    assert message.startswith("distill.reverse.checkpoint: runs/reverse/teacher was trained on other text: moses False")
    with unharmed():
        message = refused("distill", "tiny.yaml", sets=("distill.reverse={checkpoint: nowhere}",))
    nothing = "neither a checkpoint folder nor a run that has one: there is no such file or folder"
    assert message == f"nowhere: {nothing}"


# ------------------------------------------------------------------------------------------------------ other teachers


@pytest.mark.usefixtures("finished")
def test_a_teacher_from_elsewhere_needs_no_teacher_here() -> None:
    """Its translations are those of the same weights under another name."""
    before = read_lines(MADE / "distilled.de")
    shutil.copytree(resolve_checkpoint(TINY / "teacher/average"), Path("elsewhere"))
    shutil.rmtree(TINY / "teacher")
    done("distill.teachers=[elsewhere]")
    assert read_lines(MADE / "distilled.de") == before
    inputs = manifest()["inputs"]
    assert inputs["elsewhere"]
    assert not any(name.startswith("teacher/") for name in inputs)


@pytest.mark.usefixtures("finished")
def test_a_parallel_teacher_runs_in_pytorch() -> None:
    run_stages("student", sets=["students.fast={data: raw}", "students.fast.nat={family: cmlm}", *FAST])
    fast = TINY / "students/fast/seed_1"
    sets = (f"distill.teachers=[{fast}]", "distill.engine=auto", "distill.iterations=3")
    done(*sets)
    codec, checkpoint = TextCodec.load(PREPARED), resolve_checkpoint(fast)
    engine = NATEngine(load_model(checkpoint), iterations=3)
    sources = IndexedDataset(PREPARED / "data-bin/train.en-de.en")
    decode = Decode.model_validate(tiny_pipeline.DECODE)
    found = engine.decode([sources[index] for index in range(80)], decode)
    words = {int(row.split("\t")[0]): row.split("\t")[4] for row in read_lines(MADE / "nbest")}
    assert words == {index: codec.decode_target(own[0].tokens) for index, own in enumerate(found)}
    assert {made["torch"] for made in manifest()["facts"]["blocks"]}
    with unharmed():
        message = refused("distill", "tiny.yaml", sets=(sets[0], "distill.engine=ctranslate2"))
    assert message == f"distill.engine: CTranslate2 has no decoder for {fast}, which writes all positions at once"
    with unharmed():
        message = refused("distill", "tiny.yaml", sets=(f"distill.teachers=[{fast}, {TINY / 'teacher'}]",))
    assert message == f"distill.teachers: {fast} writes all positions at once and translates alone"
    with unharmed("tiny/.sampled.lock"):
        message = refused("distill", "tiny.yaml", sets=(*sets, "students.sampled={data: sampled}"))
    assert message == f"{fast} writes all positions at once and draws no samples"


FAST = [
    f"students.fast.{section}.{name}={json.dumps(value)}"
    for section, values in (("model", tiny_pipeline.MODEL), ("train", tiny_pipeline.TRAIN))
    for name, value in values.items()
]


# ------------------------------------------------------------------------------------------ sentences that stand twice


@pytest.mark.usefixtures("pipeline")
def test_a_sentence_that_stands_on_several_lines_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of its lines has the translation, or a reference of its own."""
    asked: list[tuple[int, ...]] = []
    decode = TorchEngine.decode

    def watch(engine: TorchEngine, sources: Any, *rest: Any, **more: Any) -> Any:
        asked.extend(tuple(source.tolist()) for source in sources)
        return decode(engine, sources, *rest, **more)

    lines = [read_lines(Path(f"text/train.{lang}")) for lang in ("en", "de")]
    order = [*range(80), *range(0, 80, 3), 5, 5, 80 - 1]
    write_lines(Path("text/train.en"), [lines[0][index] for index in order])
    write_lines(
        Path("text/train.de"), [f"{lines[1][index]} ok" if n > 79 else lines[1][index] for n, index in enumerate(order)]
    )
    unclean = ["prepare.clean=none", "prepare.decontaminate=false"]
    run_stages("prepare", "teacher", sets=unclean)
    monkeypatch.setattr(TorchEngine, "decode", watch)
    run_stages("distill", sets=unclean)
    assert Counter(Counter(asked).values()) == {1: 80}
    assert np.load(MADE / "sentences.npy").tolist() == order
    references, best = read_lines(PREPARED / "train.de"), usable()
    expected = [best[number][0][1] if number in best else references[line] for line, number in enumerate(order)]
    differing = [line for line in range(len(order)) if read_lines(MADE / "distilled.de")[line] != expected[line]]
    assert all(line in {index for index, *_ in rejected(MADE)} for line in differing)  # failures of words
    assert read_lines(MADE / "distilled.en") == read_lines(PREPARED / "train.en")
    assert manifest()["facts"]["num_lines"] == len(order)
