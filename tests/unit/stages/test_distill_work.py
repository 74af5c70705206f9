"""Blocks that are kept and distributed: a growing corpus, shards, blocks of other runs."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bad_input import refused, unharmed
from distilled_pipeline import (
    IMPORTED,
    IMPORTING,
    MADE,
    PREPARED,
    TINY,
    distill,
    theirs,
    watch_decoding,
)
from tiny_pipeline import (
    hash_tree,
    kdmt,
    make_pairs,
    read_lines,
    run_stages,
    settings,
    to_yaml,
    write_lines,
)

from kdmt.distill import block_size, noised
from kdmt.flow.folders import earlier_states
from kdmt.models.checkpoint_folder import resolve_checkpoint
from kdmt.stages import distill_work

BLOCKS = [MADE / f"blocks/00000{number}.gz" for number in range(3)]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list with the number of sentences of each call of the engine."""
    return watch_decoding(monkeypatch)


# ------------------------------------------------------------------------------------------------------ growing corpora


@pytest.fixture
def elsewhere(finished: Path) -> Path:
    """Enter a pipeline whose training text can grow: tokenizer, dictionary and teacher are given and do not change."""
    Path("given").mkdir()
    shutil.copy(PREPARED / "tokenizer/joint.model", "given")
    shutil.copy(PREPARED / "dict.en.txt", "given")
    shutil.copytree(resolve_checkpoint(TINY / "teacher/average"), "given/teacher")
    document = settings()
    document["prepare"] |= {"clean": "none", "decontaminate": False}
    document["prepare"]["tokenizer"]["source_path"] = "given/joint.model"
    document["prepare"]["vocabulary"] = {"source_path": "given/dict.en.txt"}
    document["distill"]["teachers"] = ["given/teacher"]
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    run_stages("prepare", "distill")
    for state in earlier_states(MADE):  # the blocks of the finished run would be reused too
        shutil.rmtree(state)
    return finished


def grow(edit: Callable[[list[str]], list[str]]) -> None:
    for lang in ("en", "de"):
        path = Path(f"text/train.{lang}")
        write_lines(path, edit(read_lines(path)))
    run_stages("prepare")


def distilled_from_nothing() -> dict[str, str]:
    """Distill again without the earlier blocks, check that the files are the same, and return their hashes."""
    made = hash_tree(MADE)
    for folder in (MADE, *earlier_states(MADE)):
        shutil.rmtree(folder)
    run_stages("distill")
    fresh = hash_tree(MADE)
    assert fresh == made
    return made


@pytest.mark.usefixtures("elsewhere")
def test_added_lines_decode_no_full_block_again(decoded: list[int]) -> None:
    before, inodes = {path: path.read_bytes() for path in BLOCKS}, [path.stat().st_ino for path in BLOCKS]
    known = set(read_lines(Path("text/train.en")))
    more = [pair for pair in make_pairs(80, seed=7) if pair[0] not in known][:25]
    for lang, side in (("en", 0), ("de", 1)):
        path = Path(f"text/train.{lang}")
        write_lines(path, [*read_lines(path), *(pair[side] for pair in more)])
    run_stages("prepare")
    assert "4 blocks are there" in distill().err
    different = len(dict.fromkeys([*known, *(pair[0] for pair in more)]))
    assert sum(decoded) == different - 60
    assert [path.read_bytes() == before[path] for path in BLOCKS] == [True, True, False]  # the third was not full
    assert all(path.stat().st_ino != inode for path, inode in zip(BLOCKS, inodes, strict=True))
    assert read_lines(MADE / "distilled.en") == read_lines(PREPARED / "train.en")
    old = TINY / "distill.previous/blocks"
    assert sorted(path.name for path in old.iterdir()) == [path.name for path in BLOCKS]  # unchanged
    distilled_from_nothing()


@pytest.mark.usefixtures("elsewhere")
def test_a_repeated_line_decodes_nothing_at_any_position(decoded: list[int]) -> None:
    """Check a repeated line: other lines move, but all sentences are the same, and so are the files."""
    grow(lambda lines: [lines[0], lines[0], *lines[1:], lines[3]])
    assert distill().code == 0
    assert not decoded
    assert np.load(MADE / "sentences.npy").tolist() == [0, *range(80), 3]
    assert distill("--verify", "--verify-blocks", "9").code == 0
    distilled_from_nothing()


@pytest.mark.usefixtures("elsewhere")
def test_a_removed_line_decodes_the_blocks_after_it(decoded: list[int]) -> None:
    grow(lambda lines: [*lines[:40], *lines[41:]])
    assert distill().code == 0
    assert sum(decoded) == 79 - 30
    distilled_from_nothing()


@pytest.mark.usefixtures("elsewhere")
def test_a_damaged_block_is_not_reused(decoded: list[int]) -> None:
    path = BLOCKS[0]
    path.write_bytes(path.read_bytes()[:-5])
    grow(lambda lines: [*lines, lines[0]])
    result = distill()
    assert result.code == 0
    assert f"{path}: damaged" in result.err
    assert sum(decoded) == 30
    distilled_from_nothing()


# ------------------------------------------------------------------------------------------------------- size of blocks

AUTOMATIC = ("distill.block_size=null",)
SIZE_ON_GPUS = 30  # so that 80 sentences are 3 blocks on GPUs, and one block on CPUs
RECORD = MADE / "block-size.json"


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that lets workers be on GPUs ("cuda") or not ("cpu"); this machine computes in both cases."""

    def move(device: str) -> None:
        monkeypatch.setattr(distill_work, "decodes_on_gpus", lambda _: device == "cuda")

    monkeypatch.setattr(block_size, "ON_GPUS", SIZE_ON_GPUS)
    return move


def num_blocks(made: Path = MADE) -> int:
    return len(list((made / "blocks").glob("*.gz")))


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize(("first", "second", "expected"), [("cuda", "cpu", 3), ("cpu", "cuda", 1)])
def test_a_folder_keeps_its_blocks_on_another_device(
    first: str, second: str, expected: int, on: Callable[[str], None], decoded: list[int]
) -> None:
    text = (MADE / "distilled.de").read_bytes()
    shutil.rmtree(MADE)
    on(first)
    assert distill("--shard", "0/3", sets=AUTOMATIC).code == 0
    done, path = list(decoded), BLOCKS[0]
    block = path.read_bytes()
    on(second)
    assert distill("--shard", "1/3", sets=AUTOMATIC).code == 0
    result = distill(sets=AUTOMATIC)
    assert result.code == 0, result.err
    assert path.read_bytes() == block
    assert (num_blocks(), sum(decoded), done) == (expected, 80, [80] if expected == 1 else [30])
    assert RECORD.exists() == (expected == 3)
    assert (MADE / "distilled.de").read_bytes() == text
    assert json.loads((MADE / "manifest.json").read_text())["settings"]["distill.block_size"] == 1000
    assert distill(sets=AUTOMATIC).err == "distill: up to date, nothing to do\n"
    assert distill("--verify", "--verify-blocks", "9", sets=AUTOMATIC).code == 0


@pytest.mark.usefixtures("finished")
def test_folders_of_versions_with_a_fixed_size_stay_up_to_date_on_gpus(on: Callable[[str], None]) -> None:
    on("cpu")
    assert distill(sets=("distill.block_size=1000",)).code == 0
    made = hash_tree(MADE)
    on("cuda")
    assert distill(sets=AUTOMATIC).err == "distill: up to date, nothing to do\n"
    (MADE / "manifest.json").rename(MADE / "plan.json")  # as if it had been killed before the end
    assert "1 of 1 blocks are there" in distill(sets=AUTOMATIC).err
    assert {name: sha for name, sha in hash_tree(MADE).items() if name != "config.json"} == {
        name: sha for name, sha in made.items() if name != "config.json"
    }


@pytest.mark.usefixtures("finished")
def test_a_size_in_the_settings_holds_on_gpus_too(on: Callable[[str], None]) -> None:
    on("cuda")
    assert distill(sets=("distill.block_size=50",)).code == 0
    assert num_blocks() == 2
    assert not RECORD.exists()


@pytest.mark.usefixtures("elsewhere")
def test_blocks_of_a_gpu_are_kept_on_a_cpu_when_the_corpus_grows(on: Callable[[str], None], decoded: list[int]) -> None:
    shutil.rmtree(MADE)
    on("cuda")
    assert distill(sets=AUTOMATIC).code == 0
    assert num_blocks() == 3
    decoded.clear()
    grow(lambda lines: [*lines, "a line that is new"])
    on("cpu")
    assert distill(sets=AUTOMATIC).code == 0
    assert sum(decoded) == 21  # the third block was not full
    assert num_blocks() == 3


@pytest.mark.slow
@pytest.mark.usefixtures("finished")
def test_workers_on_several_devices_that_begin_together_have_the_same_blocks() -> None:
    shutil.rmtree(MADE)
    code = (
        "import sys\n"
        "from kdmt.cli import main\n"
        "from kdmt.distill import block_size\n"
        "from kdmt.stages import distill_work\n"
        "on_gpus = sys.argv.pop() == 'cuda'\n"
        f"block_size.ON_GPUS = {SIZE_ON_GPUS}\n"
        "distill_work.decodes_on_gpus = lambda _: on_gpus\n"
        "main()\n"
    )
    command = [sys.executable, "-c", code, "distill", "tiny.yaml", "--set", *AUTOMATIC, "--shard"]
    started = [
        subprocess.Popen([*command, f"{shard}/3", device], stderr=subprocess.PIPE, text=True)
        for shard, device in enumerate(("cuda", "cpu", "cuda"))
    ]
    errors = [process.communicate(timeout=300)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], errors
    size = json.loads(RECORD.read_text())["block_size"] if RECORD.exists() else 1000
    assert num_blocks() == -(-80 // size)
    result = distill(sets=AUTOMATIC)
    assert result.code == 0
    assert f"{num_blocks()} of {num_blocks()} blocks are there" in result.err


# --------------------------------------------------------------------------------------------------------------- shards


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 1, 0, 2)])
def test_shards_in_any_order_give_the_same_files(order: tuple[int, ...], decoded: list[int]) -> None:
    inline = hash_tree(MADE)
    shutil.rmtree(MADE)
    sets = ("distill.block_size=30",)
    for shard in order:
        result = distill("--shard", f"{shard}/3", sets=sets)
        assert result.code == 0
        assert f"the 1 blocks of shard {shard} of 3 are there" in result.err
        assert not (MADE / "manifest.json").exists()
        assert (MADE / f"blocks/00000{shard}.gz").exists()
    assert sorted(decoded) == [20, 30, 30]
    result = distill(sets=sets)
    assert "3 of 3 blocks are there" in result.err
    assert len(decoded) == 3
    assert hash_tree(MADE) == inline
    assert distill("--shard", "0/3", sets=sets).err == "distill: up to date, nothing to do\n"


@pytest.mark.usefixtures("finished")
def test_missing_blocks_of_shards_are_decoded_when_merging(decoded: list[int]) -> None:
    inline = hash_tree(MADE)
    shutil.rmtree(MADE)
    assert distill("--shard", "1/3").code == 0
    assert distill("--shard", "7/9").code == 0  # it has no block
    assert distill().code == 0
    assert sorted(decoded) == [20, 30, 30]
    assert hash_tree(MADE) == inline


@pytest.mark.usefixtures("finished")
def test_shards_of_sampled_and_interpolated_sets() -> None:
    sets = ("students.sampled={data: sampled}", "students.near={data: mbr}", "distill.decode.nbest=2")
    assert distill(sets=sets).code == 0
    names = ("distill", "sampled", "mbr")
    inline = {name: hash_tree(TINY / name) for name in names}
    for name in names:
        shutil.rmtree(TINY / name)
    for shard in (1, 0):
        assert distill("--shard", f"{shard}/2", sets=sets).code == 0
    assert not (TINY / "mbr").exists()
    assert distill(sets=sets).code == 0
    assert {name: hash_tree(TINY / name) for name in names} == inline


@pytest.mark.usefixtures("finished")
def test_invalid_shards_are_refused() -> None:
    for text in ("x", "1", "1/", "/3", "-1/3", "1/3/5", "1.0/3", "٣/٤", "²/3"):
        with unharmed():
            assert refused("distill", "tiny.yaml", "--shard", text) == f"--shard {text!r}: expected I/N, as 0/8"
    for text in ("3/3", "4/3"):
        with unharmed():
            assert refused("distill", "tiny.yaml", "--shard", text).endswith("less than their number")
    with unharmed():
        assert refused("distill", "tiny.yaml", "--shard", "0/0").startswith("--shard 0/0: ")


@pytest.mark.usefixtures("finished")
def test_a_shard_of_other_settings_keeps_the_old_state() -> None:
    made = hash_tree(MADE)
    assert "rebuilt" in distill("--shard", "0/2", sets=("distill.decode.beam=1",)).err
    assert hash_tree(MADE.with_name("distill.previous")) == made
    assert "rebuilt" not in distill("--shard", "1/2", sets=("distill.decode.beam=1",)).err
    assert "taken back from distill.previous" in distill("--shard", "1/2").err
    assert hash_tree(MADE) == made


# ------------------------------------------------------------------------------------------------- blocks of other runs


@pytest.mark.usefixtures("finished")
def test_partial_files_of_killed_processes_are_removed() -> None:
    made = hash_tree(MADE)
    (MADE / "distilled.de").unlink()
    for name in (".partial-x7/digests.0", "blocks/.partial-17-000001.gz", ".partial-y8/nbest"):
        (MADE / name).parent.mkdir(exist_ok=True)
        (MADE / name).write_bytes(b"half")
    assert "its output distilled.de is missing" in distill().err
    assert hash_tree(MADE) == made
    assert not list(MADE.glob(".*"))


@pytest.mark.usefixtures("finished")
def test_a_block_of_another_run_is_refused_with_the_difference(decoded: list[int]) -> None:
    shutil.copytree(MADE, "kept")
    assert distill(sets=("distill.decode.max_len_b=6",)).code == 0
    foreign = BLOCKS[1].read_bytes()
    shutil.rmtree(MADE)
    shutil.rmtree(TINY / "distill.previous")
    shutil.copytree("kept", MADE)
    (MADE / "manifest.json").unlink()
    record = json.loads(Path("kept/manifest.json").read_text(encoding="utf-8"))
    plan = {key: record[key] for key in ("settings", "extend", "inputs")}
    (MADE / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    BLOCKS[1].write_bytes(foreign)
    BLOCKS[2].unlink()
    decoded.clear()
    with unharmed("tiny/distill/plan.json", "tiny/distill/config.json"):
        message = refused("distill", "tiny.yaml")
    assert message == f"{BLOCKS[1]}: made with another distill.decode.max_len_b (6, not 5)"
    assert not decoded
    with unharmed():
        assert refused("distill", "tiny.yaml", "--shard", "1/3") == message
    assert distill("--shard", "2/3").code == 0  # the blocks of other shards are not checked
    BLOCKS[1].unlink()
    assert distill().code == 0
    assert {path.name for path in MADE.iterdir()} == {path.name for path in Path("kept").iterdir()}
    assert hash_tree(MADE) == hash_tree(Path("kept"))


# ---------------------------------------------------------------------------------------------------------------- noise

TRANSLATE = ("--beam", "2", "--max-len-a", "1.0", "--max-len-b", "5", "--threads", "1")
NOISY = ("distill.augment={merged: 0.4}", "distill.block_size=30")


def stop(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.usefixtures("finished")
def test_the_teacher_translates_the_noised_text() -> None:
    before = read_lines(MADE / "distilled.en")
    assert distill(sets=NOISY).code == 0
    sources = read_lines(MADE / "distilled.en")
    assert sources == read_lines(MADE / "noised/train.en") != before
    translated = kdmt(
        "translate", TINY / "teacher/average", *TRANSLATE, stdin="".join(f"{s}\n" for s in sources).encode()
    )
    assert translated.code == 0, translated.err
    replaced = {int(line.split("\t")[0]) for line in read_lines(MADE / "rejected") if line}
    pairs = list(zip(read_lines(MADE / "distilled.de"), translated.out.splitlines(), strict=True))
    assert all(made == own for line, (made, own) in enumerate(pairs) if line not in replaced)
    references = read_lines(MADE / "noised/train.de")
    assert all(pairs[line][0] == references[line] for line in replaced)
    with gzip.open(MADE / "blocks/000000.gz") as block:
        header = json.loads(block.readline())
    assert header["made_from"]["augment"]["merged"] == 0.4
    result = distill("--verify", sets=NOISY)
    assert result.code == 0, result.err


@pytest.mark.usefixtures("finished")
def test_noised_text_is_the_same_from_shards_and_after_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = (*NOISY, "students.sampled={data: sampled}", "students.near={data: mbr}", "distill.decode.nbest=2")
    assert distill(sets=sets).code == 0
    names = ("distill", "sampled", "mbr")
    inline = {name: hash_tree(TINY / name) for name in names}
    assert read_lines(TINY / "mbr/distilled.en") == read_lines(MADE / "noised/train.en")
    assert (TINY / "sampled/noised/train.en").read_bytes() == (MADE / "noised/train.en").read_bytes()
    for name in names:
        shutil.rmtree(TINY / name)
    with monkeypatch.context() as patched:
        patched.setattr(noised, "binarize_text", stop)
        assert distill("--shard", "0/2", sets=sets).code != 0
    assert not (MADE / "noised").exists()
    for shard in (1, 0):
        assert distill("--shard", f"{shard}/2", sets=sets).code == 0
    assert distill(sets=sets).code == 0
    assert {name: hash_tree(TINY / name) for name in names} == inline


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize("shards", [False, True])
def test_damaged_noised_text_is_made_again(decoded: list[int], shards: bool) -> None:
    assert distill(sets=NOISY).code == 0
    whole, first = hash_tree(MADE), sum(decoded)
    files = {name: MADE / "noised" / name for name in ("train.de", "train.en", "data-bin/train.en-de.en.bin")}
    for name, path in files.items():
        for content in (path.read_bytes().replace(b"o", b"u", 1) + b"\n", None):
            path.unlink() if content is None else path.write_bytes(content)
            results = [distill("--shard", "0/2", sets=NOISY)] if shards else []
            results.append(distill(sets=NOISY))
            assert [result.code for result in results] == [0] * len(results), results[0].err
            assert f"noised/{name}: {'missing' if content is None else 'damaged'}" in results[0].err
            assert "distill/noised is made again" in results[0].err
            assert hash_tree(MADE) == whole
    assert sum(decoded) == first
    (MADE / "noised/checksums.json").unlink()  # of an earlier version
    assert "up to date" in distill(sets=NOISY).err
    files["train.de"].unlink()
    assert distill(sets=NOISY).code == 0
    assert hash_tree(MADE) == whole


@pytest.mark.usefixtures("finished")
def test_other_noise_makes_the_training_set_again(decoded: list[int]) -> None:
    assert distill(sets=NOISY).code == 0
    first = sum(decoded)
    assert "distill.augment.seed" in distill(sets=(*NOISY, "distill.augment.seed=2")).err
    assert sum(decoded) > first
    assert distill(sets=NOISY).err.count("taken back") == 1


@pytest.mark.usefixtures("finished")
def test_translations_from_a_file_are_those_of_the_corpus() -> None:
    write_lines(Path("theirs.tsv"), theirs())
    assert distill(sets=(*IMPORTING, *NOISY)).code == 0
    assert read_lines(IMPORTED / "distilled.en") == read_lines(PREPARED / "train.en")
