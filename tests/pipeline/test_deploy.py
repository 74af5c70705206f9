"""Exported students in the real Marian and Bergamot (`make parity-deploy`, environments of `make deploy-envs`).

A small student is trained on Multi30k, where its data is available, for each kind of decoder; SENTENCES test sentences
are translated.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import deploy_environments
import pytest
import sacrebleu
import yaml

DATA = Path(__file__).parents[3] / "shared" / "data" / "multi30k" / "raw"
UPDATES, SENTENCES = 1500, 1000
# Marian measures its maximum length in the longest source of a batch: both limits are beyond every finished translation
LIMIT = 400
PIPELINE = Path(__file__).parents[2] / "pipelines" / "multi30k-en-de.yaml"
MODEL = {
    "arch": "transformer_multi30k",
    "layout": "marian",
    **dict.fromkeys(("encoder_embed_dim", "decoder_embed_dim"), 64),
    **dict.fromkeys(("encoder_ffn_embed_dim", "decoder_ffn_embed_dim"), 256),
    "encoder_layers": 2,
    "dropout": 0.0,
}
STUDENTS = {"ssru": {"decoder": "ssru", "decoder_layers": 2}, "attention": {"decoder_layers": 1}}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason="Multi30k is not at ../shared/data"),
]


def kdmt(*arguments: str | Path, stdin: str = "") -> str:
    """Run a command, however long it takes, and return its standard output."""
    command = [sys.executable, "-m", "kdmt", *map(str, arguments)]
    return subprocess.run(command, input=stdin, stdout=subprocess.PIPE, text=True, check=True).stdout


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train the students and return the folder of the pipeline's runs."""
    folder = tmp_path_factory.mktemp("deploy")
    settings = yaml.safe_load(PIPELINE.read_text())
    settings["prepare"]["tokenizer"]["vocab_size"] = 4000
    train = {"max_updates": UPDATES, "max_tokens": 1200, "lr": 0.004, "warmup_updates": 150}
    students = {name: {"data": "raw", "model": MODEL | own, "train": train} for name, own in STUDENTS.items()}
    kept = {name: settings[name] for name in ("name", "source_lang", "target_lang", "prepare")}
    (folder / "p.yaml").write_text(yaml.safe_dump(kept | {"students": students}))
    for stage in ("prepare", "student"):
        kdmt(stage, folder / "p.yaml", "--runs", folder / "runs", "--mirror", DATA)
    return folder / "runs" / settings["name"]


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines()[:SENTENCES]


def ours(run: Path, sources: list[str], beam: int) -> list[str]:
    options = ("--beam", str(beam), "--max-len-a", "0", "--max-len-b", str(LIMIT))
    return kdmt("translate", run, *options, stdin="".join(f"{line}\n" for line in sources)).splitlines()


def is_same(mine: str, theirs: str) -> bool:
    """Return whether translations are equal, or repeat themselves without end and were cut at different lengths."""
    common = min(len(mine), len(theirs))
    return mine == theirs or (common > 5 * LIMIT // 2 and mine[: common - 20] == theirs[: common - 20])


@deploy_environments.needs("marian")
@pytest.mark.parametrize("name", STUDENTS)
def test_marian_translates_like_kdmt(runs: Path, tmp_path: Path, name: str) -> None:
    run = runs / "students" / name / "seed_1"
    kdmt("export", run, tmp_path / "out", "--to", "marian")
    sources = lines_of(runs / "prepare" / "test_2016_flickr.raw.en")
    for beam in (1, 4):
        arguments = f"-c {tmp_path}/out/model.npz.decoder.yml -b {beam} --max-length-factor 30 --cpu-threads 1 --quiet"
        theirs = deploy_environments.translate("marian", arguments, sources)
        same = sum(map(is_same, ours(run, sources, beam), theirs))
        print(f"{name}, beam {beam}: {same} of {len(sources)} translations are the same")
        assert len(theirs) == len(sources)
        assert same >= 0.995 * len(sources)


@deploy_environments.needs("bergamot")
@pytest.mark.parametrize("name", STUDENTS)
def test_bergamot_is_as_good_as_the_float_model(runs: Path, tmp_path: Path, name: str) -> None:
    run = runs / "students" / name / "seed_1"
    kdmt("export", run, tmp_path / "out", "--to", "bergamot", "--quantization", "int8", "--beam", "1")
    sources, references = (lines_of(runs / "prepare" / f"test_2016_flickr.raw.{lang}") for lang in ("en", "de"))
    theirs = deploy_environments.translate("bergamot", str(tmp_path / "out" / "config.yml"), sources)
    scores = [sacrebleu.corpus_bleu(each, [references]).score for each in (ours(run, sources, 1), theirs)]
    print(f"{name}: BLEU {scores[0]:.2f} of the float model, {scores[1]:.2f} of Bergamot with int8 and shortlist")
    assert scores[1] >= scores[0] - 0.3
