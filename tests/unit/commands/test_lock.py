"""Tests of `kdmt lock` against a server on the loopback interface and a mirror folder."""

from __future__ import annotations

import errno
import gzip
import hashlib
import http.server
import io
import json
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_pipeline import SIZES, kdmt, read_lines
from tiny_prepare import MADE, change, report

from kdmt.api import Pipeline, lock
from kdmt.commands import lock as command
from kdmt.config import load_pipeline
from kdmt.corpus.datasets.records import Dataset
from kdmt.errors import UserError
from kdmt.languages import Direction

LOCK = Path("tiny.lock.yaml")
BIBTEX = "@misc{tiny,\n  title = {A Tiny Corpus},\n}"


@dataclass
class Server:
    """Files that a server sends.

    Attributes:
        url: URL of the server, which ends in `/`.
        files: path -> content.
        requests: paths that were requested, in order.
        logins: `Authorization` headers of the requests that have one.
        hold: the server waits for it before it answers.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)
    hold: threading.Event | None = None


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.requests.append(self.path)
            if login := self.headers.get("Authorization"):
                found.logins.append(login)
            if found.hold is not None:
                found.hold.wait()
            content = found.files.get(self.path.lstrip("/"))
            if content is None:
                self.send_error(404)
                return
            tag = f'"{hashlib.sha256(content).hexdigest()}"'
            if self.headers.get("If-None-Match") == tag:
                self.send_response(304)
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("ETag", tag)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        found.url = f"http://127.0.0.1:{running.server_address[1]}/"
        yield found
        running.shutdown()
        thread.join()


@pytest.fixture
def served(pipeline: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Serve the text of the tiny pipeline: train as `opus: Tiny/v1` in a zip archive, valid as gzip files."""
    assert pipeline.is_dir()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for lang in ("en", "de"):
            file.write(f"text/train.{lang}", f"Tiny.de-en.{lang}")
    server.files["de-en.txt.zip"] = archive.getvalue()
    for lang in ("en", "de"):
        server.files[f"valid.{lang}.gz"] = gzip.compress(Path(f"text/valid.{lang}").read_bytes(), mtime=0)
        server.files[f"more.{lang}"] = Path(f"text/train.{lang}").read_bytes()

    def resolve(kind: str, value: object, direction: Direction) -> Dataset:
        if (kind, value) == ("opus", "Tiny/v1"):
            return tiny(server.url, direction, licence="CC0-1.0", citation=BIBTEX, overlaps=("opus: More/v1: all",))
        if (kind, value) == ("opus", "More/v1"):
            sides = {side: {"url": f"{server.url}more.{lang}"} for side, lang in (("source", "en"), ("target", "de"))}
            return Dataset("opus: More/v1", sides, licence=None)
        raise UserError(f"{kind}: {value}: no such data set")

    def resolve_monolingual(kind: str, value: object, language: str) -> Dataset:
        return Dataset(f"{kind}: {value}", {"url": f"{server.url}more.{language}"}, licence="CC-BY-4.0")

    monkeypatch.setattr(command, "resolve", resolve)
    monkeypatch.setattr(command, "resolve_monolingual", resolve_monolingual)
    change(train=[{"opus": "Tiny/v1"}], valid=valid(server))
    return server


def tiny(url: str, direction: Direction, **terms: Any) -> Dataset:
    archive = f"{url}de-en.txt.zip"
    sides = zip(("source", "target"), direction.sides, strict=True)
    entry = {side: {"url": archive, "member": f"Tiny.de-en.{lang}"} for side, lang in sides}
    return Dataset("opus: Tiny/v1", entry, **terms)


def archive_of(members: Mapping[str, str]) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, text in members.items():
            file.writestr(name, text)
    return archive.getvalue()


def valid(server: Server, login: str = "") -> dict[str, Any]:
    base = server.url.replace("//", f"//{login}")
    return {side: {"url": f"{base}valid.{lang}.gz"} for side, lang in (("source", "en"), ("target", "de"))}


def content(path: Path = LOCK) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def files(path: Path = LOCK) -> dict[str, Mapping[str, Any]]:
    return {f"{each['url'].rsplit('/', 1)[1]}:{each.get('member', '')}": each for each in content(path)["files"]}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_the_lock_file_has_the_entry_and_the_files_of_each_name(served: Server) -> None:
    finished = kdmt("lock", "tiny.yaml")
    assert finished.code == 0, finished.err
    (dataset,) = content()["datasets"]
    archive = f"{served.url}de-en.txt.zip"
    assert dataset == {
        "opus": "Tiny/v1",
        "languages": ["en", "de"],
        "settings": ["prepare.train.0"],
        "licence": "CC0-1.0",
        "overlaps": ["opus: More/v1: all"],
        "citation": BIBTEX,
        "entry": {
            "source": {"url": archive, "member": "Tiny.de-en.en"},
            "target": {"url": archive, "member": "Tiny.de-en.de"},
        },
    }
    assert files().keys() == {
        "de-en.txt.zip:Tiny.de-en.de",
        "de-en.txt.zip:Tiny.de-en.en",
        "valid.de.gz:",
        "valid.en.gz:",
    }
    for key, file in files().items():
        data = served.files[key.split(":")[0]]
        assert (file["sha256"], file["size_bytes"]) == (sha256(data), len(data))
        assert file["num_lines"] == SIZES["valid" if "valid" in key else "train"]
        assert file["settings"] == ["prepare.valid" if "valid" in key else "prepare.train.0"]
    assert f"new: opus: Tiny/v1: licence CC0-1.0; {archive}\n" in finished.out
    assert "overlap: opus: Tiny/v1: opus: More/v1: all\n" in finished.out
    counts = "80 lines in Tiny.de-en.de, 80 lines in Tiny.de-en.en"
    size = len(served.files["de-en.txt.zip"])
    assert f"new: {archive}: {counts}, {size:,} bytes, sha256 {sha256(served.files['de-en.txt.zip'])}\n" in finished.out
    assert finished.out.count(f"{size:,} bytes") == 1
    assert finished.out.endswith("tiny.lock.yaml: 1 data sets, 4 files\n")


def test_the_same_pipeline_gives_the_same_bytes(served: Server, tmp_path: Path) -> None:
    assert kdmt("lock", "tiny.yaml").code == 0
    first = LOCK.read_bytes()
    num_requests = len(served.requests)
    assert "up to date" in kdmt("lock", "tiny.yaml").out
    assert LOCK.read_bytes() == first
    assert len(served.requests) == num_requests
    LOCK.unlink()
    assert kdmt("lock", "tiny.yaml", "--runs", tmp_path / "elsewhere").code == 0
    assert LOCK.read_bytes() == first
    assert "nothing changed" in kdmt("lock", "tiny.yaml", "--update").out
    assert LOCK.read_bytes() == first


def test_prepare_uses_what_is_locked_as_if_written_by_hand(served: Server) -> None:
    assert kdmt("prepare", "tiny.yaml").code == 2
    assert kdmt("lock", "tiny.yaml").code == 0
    prepared = kdmt("prepare", "tiny.yaml")
    assert prepared.code == 0, prepared.err
    assert read_lines(MADE / "train.en") == read_lines(Path("text/train.en"))
    assert "prepare: licence CC0-1.0: prepare.train.0 (opus: Tiny/v1)\n" in prepared.err
    assert "prepare: no licence known: prepare.valid, prepare.test.test\n" in prepared.err
    assert report()["licences"] == {
        "known": {"CC0-1.0": ["prepare.train.0 (opus: Tiny/v1)"]},
        "unknown": ["prepare.valid", "prepare.test.test"],
    }
    assert all(stage["state"] == "up to date" for stage in status() if stage["name"] == "prepare")
    data = served.files
    archive = {"url": f"{served.url}de-en.txt.zip", "sha256": sha256(data["de-en.txt.zip"])}
    by_hand = {
        "source": archive | {"member": "Tiny.de-en.en"},
        "target": archive | {"member": "Tiny.de-en.de"},
    }
    held_out = valid(served)
    for side, lang in (("source", "en"), ("target", "de")):
        held_out[side]["sha256"] = sha256(data[f"valid.{lang}.gz"])
    change(train=[by_hand], valid=held_out)
    LOCK.unlink()
    assert "up to date" in kdmt("prepare", "tiny.yaml").err


def status() -> list[dict[str, Any]]:
    return json.loads(kdmt("status", "tiny.yaml", "--json").out)["stages"]


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize("arguments", [["prepare"], ["run"], ["status"], ["clean"], ["score"]], ids=str)
def test_every_command_that_plans_needs_the_lock(arguments: list[str]) -> None:
    refused = kdmt(*arguments, "tiny.yaml")
    assert refused.code == 2
    assert "prepare.train.0 (opus: Tiny/v1) and 2 more: no lock file tiny.lock.yaml; run kdmt lock tiny" in refused.err


def test_a_pipeline_without_names_needs_no_lock(pipeline: Path, server: Server) -> None:
    assert "has no names, and all its URLs have a sha256" in kdmt("lock", "tiny.yaml").out
    assert not LOCK.exists()
    assert kdmt("prepare", "tiny.yaml").code == 0
    assert "licence" not in (pipeline / "runs/tiny/prepare/report.json").read_text(encoding="utf-8")
    assert not server.requests


def test_a_changed_file_is_refused_by_name_with_both_checksums(served: Server) -> None:
    assert kdmt("lock", "tiny.yaml").code == 0
    locked = sha256(served.files["valid.de.gz"])
    served.files["valid.de.gz"] = gzip.compress(b"other\n" * 6, mtime=0)
    found = sha256(served.files["valid.de.gz"])
    assert kdmt("prepare", "tiny.yaml").code == 0  # from the downloads of `kdmt lock`
    refused = kdmt("prepare", "tiny.yaml", "--runs", "elsewhere")
    assert refused.code == 2
    assert (
        f"prepare.valid: {served.url}valid.de.gz: the sha256 of what came is {found}, expected {locked}" in refused.err
    )
    assert "To lock the file again: kdmt lock tiny.yaml --update prepare.valid\n" in refused.err


@pytest.mark.parametrize(
    ("breakage", "problem"),
    [
        (lambda server: server.files.pop("de-en.txt.zip"), "de-en.txt.zip: the server answers 404"),
        (lambda server: server.files.update({"de-en.txt.zip": archive_of({"other": "a"})}), "no such member"),
        (lambda server: server.files.update({"de-en.txt.zip": b"<!doctype html><html>"}), "the file is an HTML page"),
        (
            lambda server: server.files.update(
                {"de-en.txt.zip": archive_of({"Tiny.de-en.en": "a\nb\n", "Tiny.de-en.de": "a\n"})}
            ),
            "has 2 lines, ",
        ),
    ],
)
def test_an_error_names_the_text_and_its_data_set(
    served: Server, breakage: Callable[[Server], object], problem: str
) -> None:
    breakage(served)
    refused = kdmt("lock", "tiny.yaml")
    assert refused.code == 2
    assert refused.err.splitlines()[-1].startswith("kdmt: error: prepare.train.0 (opus: Tiny/v1): ")
    assert problem in refused.err
    assert not LOCK.exists()


def test_the_path_of_a_name_is_named_if_it_is_unknown(served: Server) -> None:
    change(train=[{"opus": "None/v1"}], valid=valid(served))
    assert "prepare.train.0: opus: None/v1: no such data set" in kdmt("lock", "tiny.yaml").err


@pytest.mark.usefixtures("served")
def test_two_files_with_one_lock_file_are_refused() -> None:
    assert kdmt("lock", "tiny.yaml").code == 0
    locked = LOCK.read_bytes()
    Path("tiny.yml").write_bytes(Path("tiny.yaml").read_bytes())
    for name, other in (("tiny.yml", "tiny.yaml"), ("tiny.yaml", "tiny.yml")):
        for stage in ("lock", "prepare"):
            refused = kdmt(stage, name)
            assert refused.code == 2
            assert f"{name}: {other} would have the same lock file tiny.lock.yaml: rename one of them" in refused.err
    assert LOCK.read_bytes() == locked
    Path("tiny.yml").unlink()
    Path("tiny.yml").symlink_to("tiny.yaml")
    assert "up to date" in kdmt("lock", "tiny.yml").out


def test_another_text_in_a_changed_archive_is_refused(served: Server) -> None:
    assert kdmt("lock", "tiny.yaml").code == 0
    before, locked = LOCK.read_bytes(), sha256(served.files["de-en.txt.zip"])
    served.files["de-en.txt.zip"] += b"more"
    url, found = f"{served.url}de-en.txt.zip", sha256(served.files["de-en.txt.zip"])
    other = f"prepare.train.0={{source: {{url: '{url}', member: x}}, target: {{path: text/train.de}}}}"
    refused = kdmt("lock", "tiny.yaml", "--set", other, "--runs", "elsewhere")
    assert refused.code == 2
    problem = f"prepare.train.0: {url}: the sha256 of what came is {found}, expected {locked}; "
    assert refused.err.startswith(f"kdmt: error: {problem}")
    assert "To lock the file again: kdmt lock tiny.yaml --set " in refused.err
    assert refused.err.endswith(f" --update {url}\n")
    assert LOCK.read_bytes() == before


def test_update_locks_again_and_prints_what_changed(served: Server) -> None:
    assert kdmt("lock", "tiny.yaml").code == 0
    before = files()
    changed = gzip.compress(b"".join(b"%d\n" % number for number in range(6)), mtime=0)
    old, served.files["valid.de.gz"] = served.files["valid.de.gz"], changed
    served.files["de-en.txt.zip"] += b"more"  # after the end of the archive
    for name in ("valid", "prepare.valid", f"{served.url}valid.de.gz"):
        LOCK.write_text(LOCK.read_text(encoding="utf-8").replace(sha256(changed), sha256(old)), encoding="utf-8")
        updated = kdmt("lock", "tiny.yaml", name, "--update")
        assert updated.code == 0, updated.err
        size = f"6 lines, {len(changed)} bytes, sha256 {sha256(changed)}"
        assert f"changed: {served.url}valid.de.gz: 6 lines, " in updated.out
        assert f", sha256 {sha256(old)} -> {size}\n" in updated.out
        assert updated.out.count("changed: ") == 1
        assert {key for key, file in files().items() if file["sha256"] != before[key]["sha256"]} == {"valid.de.gz:"}
    assert kdmt("lock", "tiny.yaml", "--update", "opus: Tiny/v1").out.count("changed: ") == 1
    assert files()["de-en.txt.zip:Tiny.de-en.de"]["sha256"] == sha256(served.files["de-en.txt.zip"])


def test_what_is_new_is_added_and_what_is_locked_is_kept(served: Server) -> None:
    assert kdmt("lock", "tiny.yaml").code == 0
    before = files()
    served.files["de-en.txt.zip"] += b"more"
    served.requests.clear()
    change(train=[{"opus": "Tiny/v1"}, {"opus": "More/v1"}], valid=valid(served))
    added = kdmt("lock", "tiny.yaml")
    assert "new: opus: More/v1: no licence known; " in added.out
    assert added.out.count("new: ") == 3
    assert set(served.requests) == {"/more.en", "/more.de"}
    assert {key: files()[key] for key in before} == before


def test_all_lines_of_a_file_count_also_if_another_text_has_a_part_of_them(served: Server) -> None:
    named = {side: {"url": f"{served.url}more.{lang}"} for side, lang in (("source", "en"), ("target", "de"))}
    change(train=[named | {"except_every": 4}], valid=named | {"only_every": 4})
    assert kdmt("lock", "tiny.yaml").code == 0
    assert {key: file["num_lines"] for key, file in files().items()} == {"more.en:": 80, "more.de:": 80}


def test_an_override_adds_to_the_lock(served: Server) -> None:
    more = ["--set", "prepare.train.0={opus: More/v1}"]
    assert kdmt("lock", "tiny.yaml").code == 0
    refused = kdmt("prepare", "tiny.yaml", *more)
    assert refused.code == 2
    assert "(opus: More/v1): not in tiny.lock.yaml; run kdmt lock tiny.yaml --set 'prepare.train" in refused.err
    assert kdmt("lock", "tiny.yaml", *more).code == 0
    for arguments in ([], more):
        assert kdmt("prepare", "tiny.yaml", *arguments).code == 0
        assert "up to date" in kdmt("lock", "tiny.yaml", *arguments).out
    removed = kdmt("lock", "tiny.yaml", "--update").out
    assert "removed: opus: More/v1\n" in removed
    assert f"removed: {served.url}more.de\n" in removed


def test_monolingual_text_is_resolved_for_the_source_language(served: Server) -> None:
    change(train=[{"opus": "Tiny/v1"}], valid=valid(served), monolingual=[{"opus": "News/v1"}])
    assert kdmt("lock", "tiny.yaml").code == 0
    assert [each["languages"] for each in content()["datasets"]] == [["en"], ["en", "de"]]
    assert files()["more.en:"]["num_lines"] == SIZES["train"]
    prepared = kdmt("prepare", "tiny.yaml")
    assert prepared.code == 0, prepared.err
    assert "licence CC-BY-4.0: prepare.monolingual.0 (opus: News/v1)" in prepared.err


def test_monolingual_text_of_the_target_is_resolved_for_the_target_language(served: Server) -> None:
    change(train=[{"opus": "Tiny/v1"}], valid=valid(served), monolingual_target=[{"opus": "News/v1"}])
    assert kdmt("lock", "tiny.yaml").code == 0
    assert [each["languages"] for each in content()["datasets"]] == [["de"], ["en", "de"]]
    assert "more.de:" in files()


def test_a_mirror_folder_is_used_without_network(served: Server, tmp_path: Path) -> None:
    host = served.url.split("/")[2].split(":")[0]
    for name, data in served.files.items():
        path = tmp_path / "mirror" / host / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    assert kdmt("lock", "tiny.yaml", "--mirror", tmp_path / "mirror").code == 0
    assert not served.requests
    first = LOCK.read_bytes()
    LOCK.unlink()
    assert kdmt("lock", "tiny.yaml").code == 0
    assert LOCK.read_bytes() == first
    served.requests.clear()
    assert kdmt("prepare", "tiny.yaml", "--mirror", tmp_path / "mirror", "--runs", "elsewhere").code == 0
    assert not served.requests


@pytest.mark.usefixtures("pipeline")
def test_names_are_resolved_by_the_recorded_index() -> None:
    base = Path("mirror/object.pouta.csc.fi")
    moses = base / "OPUS-Tatoeba/v2023-04-12/moses/de-en.txt.zip"
    moses.parent.mkdir(parents=True)
    with zipfile.ZipFile(moses, "w") as archive:
        for lang in ("en", "de"):
            archive.write(f"text/train.{lang}", f"Tatoeba.de-en.{lang}")
    change(train=[{"opus": "Tatoeba/v2023-04-12"}, {"tatoeba": "2023-04-12"}])
    assert kdmt("lock", "tiny.yaml", "--mirror", "mirror").code == 0
    first, second = content()["datasets"]
    assert first["entry"] == second["entry"]
    assert {key.partition(":")[0] for key in files()} == {"de-en.txt.zip"}
    assert all(file["settings"] == ["prepare.train.0", "prepare.train.1"] for file in files().values())
    assert kdmt("prepare", "tiny.yaml", "--mirror", "mirror").code == 0
    assert read_lines(MADE / "train.en") == read_lines(Path("text/train.en"))


def _sgm(kind: str, lines: list[str]) -> bytes:
    segments = "".join(f'<seg id="{number}">{line}</seg>\n' for number, line in enumerate(lines, start=1))
    return f'<{kind}set setid="x" srclang="any">\n<doc docid="a">\n{segments}</doc>\n</{kind}set>\n'.encode()


def _write_tar(path: Path, members: Mapping[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def _write_mirror(folder: Path, texts: Mapping[str, list[list[str]]]) -> None:
    """Write the text of the tiny pipeline in the archives of Europarl v10, WMT14, FLORES-200 and NTREX-128."""
    rows = "".join(f"{de}\t{en}\n" for en, de in zip(*texts["train"], strict=True))
    europarl = folder / "www.statmt.org/europarl/v10/training/europarl-v10.de-en.tsv.gz"
    europarl.parent.mkdir(parents=True)
    europarl.write_bytes(gzip.compress(rows.encode(), mtime=0))
    (src, ref), (en, de) = (_sgm(*each) for each in zip(("src", "ref"), texts["test"], strict=True)), texts["valid"]
    name = "test-full/newstest2014-deen"
    _write_tar(folder / "statmt.org/wmt14/test-full.tgz", {f"{name}-src.en.sgm": src, f"{name}-ref.de.sgm": ref})
    members = {"flores200_dataset/dev/eng_Latn.dev": en, "flores200_dataset/dev/deu_Latn.dev": de}
    archive = folder / "dl.fbaipublicfiles.com/nllb/flores200_dataset.tar.gz"
    _write_tar(archive, {name: "\n".join([*lines, ""]).encode() for name, lines in members.items()})
    ntrex = command.resolve("ntrex", True, Direction("en", "de")).entry
    for side, lines in zip(("source", "target"), texts["test"], strict=True):
        path = folder / ntrex[side]["url"].removeprefix("https://")  # type: ignore[index]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([*lines, ""]), encoding="utf-8")


@pytest.mark.usefixtures("pipeline")
def test_names_of_several_kinds_are_locked_and_prepared_from_a_mirror() -> None:
    texts = {split: [read_lines(Path(f"text/{split}.{lang}")) for lang in ("en", "de")] for split in SIZES}
    _write_mirror(Path("mirror"), texts)
    change(
        train=[{"mtdata": "Statmt-europarl-10-deu-eng"}],
        valid={"flores": "dev"},
        test={"newstest2014": {"sacrebleu": "wmt14/full"}, "ntrex": {"ntrex": True}},
    )
    locked = kdmt("lock", "tiny.yaml", "--mirror", "mirror")
    assert locked.code == 0, locked.err
    assert "test-full.tgz: the MD5 is" in locked.err
    first = LOCK.read_bytes()
    assert kdmt("lock", "tiny.yaml", "--mirror", "mirror", "--update").code == 0
    assert LOCK.read_bytes() == first
    prepared = kdmt("prepare", "tiny.yaml", "--mirror", "mirror")
    assert prepared.code == 0, prepared.err
    for split, source in {"train": "train", "valid": "valid", "newstest2014": "test", "ntrex": "test"}.items():
        for side, lang in enumerate(("en", "de")):
            assert read_lines(MADE / f"{split}.{lang}") == texts[source][side]


def test_a_login_is_used_and_never_written(served: Server) -> None:
    change(train=[{"opus": "Tiny/v1"}], valid=valid(served, "me:s3cret@"))
    finished = kdmt("lock", "tiny.yaml")
    assert finished.code == 0
    assert len(served.logins) == 2
    for path in (LOCK, *Path("runs").rglob("*")):
        assert path.is_dir() or b"s3cret" not in path.read_bytes(), path
    assert "s3cret" not in finished.out + finished.err
    assert kdmt("prepare", "tiny.yaml").code == 0


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("valid.de.gz", b"<!DOCTYPE html><html>login</html>\n", "an HTML page"),
        ("valid.de.gz", gzip.compress(b"one line\n", mtime=0), "they are no pairs"),
        ("de-en.txt.zip", None, "404"),
    ],
)
def test_a_wrong_answer_is_not_locked(served: Server, name: str, data: bytes | None, problem: str) -> None:
    assert kdmt("lock", "tiny.yaml").code == 0
    before = LOCK.read_bytes()
    if data is None:
        del served.files[name]
    else:
        served.files[name] = data
    refused = kdmt("lock", "tiny.yaml", "--update", "--runs", "elsewhere")
    assert refused.code == 2
    assert problem in refused.err
    assert LOCK.read_bytes() == before
    assert not list(Path().glob(".partial*"))


def test_an_interrupted_lock_leaves_the_old_one(served: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kdmt("lock", "tiny.yaml").code == 0
    before = LOCK.read_bytes()
    change(train=[{"opus": "Tiny/v1"}, {"opus": "More/v1"}], valid=valid(served))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(command, "_count_lines", interrupted)
        with pytest.raises(KeyboardInterrupt):
            lock("tiny.yaml")
    assert LOCK.read_bytes() == before
    served.requests.clear()
    lock("tiny.yaml")
    assert set(files()) > {"more.en:", "more.de:"}


def test_a_killed_lock_leaves_the_old_one(served: Server) -> None:
    assert kdmt("lock", "tiny.yaml").code == 0
    before = LOCK.read_bytes()
    change(train=[{"opus": "Tiny/v1"}], valid=valid(served), monolingual=[{"url": f"{served.url}more.en"}])
    served.requests.clear()
    served.hold = threading.Event()
    with subprocess.Popen([sys.executable, "-m", "kdmt", "lock", "tiny.yaml"]) as process:
        while not served.requests:
            time.sleep(0.01)
        process.kill()
    served.hold.set()
    assert LOCK.read_bytes() == before
    assert kdmt("lock", "tiny.yaml").code == 0
    assert set(files()) > {"more.en:"}


def test_two_locks_at_once_lose_nothing(served: Server) -> None:
    """Check that the second one waits, and adds to what the first one has written."""
    change(valid=valid(served))
    served.hold = threading.Event()
    errors: list[BaseException] = []

    def run(overrides: dict[str, Any]) -> None:
        try:
            lock("tiny.yaml", overrides=overrides)
        except BaseException as error:
            errors.append(error)

    overrides: list[dict[str, Any]] = [{}, {"prepare.train.0": {"opus": "More/v1"}}]
    threads = [threading.Thread(target=run, args=(each,)) for each in overrides]
    for thread in threads:
        thread.start()
    while not served.requests:
        pass
    served.hold.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert files().keys() == {"valid.en.gz:", "valid.de.gz:", "more.en:", "more.de:"}


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["opus: Tiny/v1"], "opus: Tiny/v1: names have no effect without --update"),
        (["Tiny/v2", "--update"], "Tiny/v2: no data set, URL or YAML path of tiny.yaml"),
        (["--bibtex", "--update"], "--bibtex prints what is locked"),
        (["--bibtex"], "no lock file tiny.lock.yaml; run kdmt lock tiny.yaml"),
        (["--set", "prepare.train.0={opus: A/v1}"], "tiny.yaml: prepare.train.0: opus: A/v1: no such data set"),
    ],
)
def test_requests_that_make_no_sense_are_refused(arguments: list[str], problem: str) -> None:
    refused = kdmt("lock", "tiny.yaml", *arguments)
    assert refused.code == 2
    assert problem in refused.err
    assert not LOCK.exists()


def test_citations_are_printed_once_each(served: Server) -> None:
    change(train=[{"opus": "Tiny/v1"}, {"opus": "Tiny/v1", "weight": 2}, {"opus": "More/v1"}], valid=valid(served))
    assert kdmt("lock", "tiny.yaml").code == 0
    printed = kdmt("lock", "tiny.yaml", "--bibtex")
    assert printed.out == f"% opus: Tiny/v1\n{BIBTEX}\n\n% opus: More/v1: no citation known\n"


def test_citations_need_data_sets(pipeline: Path) -> None:
    assert pipeline.is_dir()
    refused = kdmt("lock", "tiny.yaml", "--bibtex")
    assert "tiny.yaml: names no data sets" in refused.err


def test_a_read_only_folder_is_named(served: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Path.open

    def read_only(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if path.name.endswith(".lock") and path.parent == Path() and "a" in mode:
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return original(path, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", read_only)
    refused = kdmt("lock", "tiny.yaml")
    assert refused.code == 2
    assert "tiny.lock.yaml: cannot be written (Read-only file system): copy the pipeline file" in refused.err
    assert not served.requests


def test_nothing_is_written_into_the_installed_package(served: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_PACKAGE", Path.cwd())
    refused = kdmt("lock", "tiny.yaml")
    assert "tiny.lock.yaml: would be written into the installed package: copy the pipeline file" in refused.err
    assert not LOCK.exists()
    assert not served.requests


def test_a_complete_lock_in_a_read_only_place_is_enough(served: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert served.url
    assert kdmt("lock", "tiny.yaml").code == 0
    monkeypatch.setattr(command, "_PACKAGE", Path.cwd())
    assert kdmt("lock", "tiny.yaml").code == 0
    assert kdmt("prepare", "tiny.yaml").code == 0


def test_the_python_interface_locks_too(served: Server) -> None:
    assert served.url
    with pytest.raises(UserError, match="run kdmt lock"):
        Pipeline.from_yaml("tiny.yaml")
    assert lock("tiny.yaml") == LOCK
    assert lock(Path("tiny.yaml"), update=["train.0"], overrides={"prepare.train.0.weight": 2}) == LOCK
    assert Pipeline.from_yaml("tiny.yaml").workspace.config == load_pipeline(Path("tiny.yaml"))
    with pytest.raises(UserError, match="expected a list of names"):
        lock("tiny.yaml", update="train.0")  # type: ignore[arg-type]


def test_alternatives_are_kept_for_prepare(served: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(_: str, __: object, direction: Direction) -> Dataset:
        first = "http://127.0.0.1:9/"  # no server
        found = tiny(first, direction)
        return Dataset(found.name, found.entry, alternatives={f"{first}de-en.txt.zip": (f"{served.url}de-en.txt.zip",)})

    monkeypatch.setattr(command, "resolve", resolve)
    assert kdmt("lock", "tiny.yaml").code == 0
    served.requests.clear()
    assert kdmt("prepare", "tiny.yaml", "--runs", "elsewhere").code == 0
    assert "/de-en.txt.zip" in served.requests


def test_another_md5_than_published_is_a_warning(served: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(_: str, __: object, direction: Direction) -> Dataset:
        return tiny(served.url, direction, md5={f"{served.url}de-en.txt.zip": "0" * 32})

    monkeypatch.setattr(command, "resolve", resolve)
    finished = kdmt("lock", "tiny.yaml")
    found = hashlib.md5(served.files["de-en.txt.zip"]).hexdigest()
    assert f"the MD5 is {found}, published is {'0' * 32}" in finished.err
    assert finished.code == 0
