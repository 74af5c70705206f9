"""Students in the engines of `score.engines`: exports, and translation of test sets in a process of each engine.

score/exports/<student>/seed_<n>/<engine>.<hash>/   the exported model; the hash is that of what it was made from
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from kdmt.choices import ComputeType, EngineName
from kdmt.config import Pipeline
from kdmt.decode.engines.process import EngineProcess, Load, measure_engine
from kdmt.errors import UserError
from kdmt.files import atomic_folder
from kdmt.flow.folders import earlier_states
from kdmt.flow.manifest import recorded_outputs
from kdmt.interop.exporters import EXPORTERS, ExportOptions
from kdmt.interop.onnx_folder import check_search
from kdmt.languages import Direction
from kdmt.models.checkpoint_folder import checkpoint_sha256
from kdmt.models.description import read_description
from kdmt.score.systems import System, Way
from kdmt.score.translations import Decoded
from kdmt.stages.workspace import Workspace

_EXPORTS = "exports"  # inside the stage's folder
_TEXT_FILES = ("tokenizer/**/*", "dict.*.txt", "text.json")


@dataclass(frozen=True)
class ExportedEngine:
    """An engine of `score.engines`.

    Attributes:
        library: name in scores.json, and of the engine in its process.
        package: name of the Python package.
        files: patterns of the files that it reads.
        to: name in `EXPORTERS`; None for the checkpoint itself.
        has_environment: whether it needs an environment of its own.
        modules: modules that the export needs.
        needs_corpus: whether the export depends on the training corpus.
    """

    library: str
    package: str
    files: Sequence[str]
    to: str | None
    has_environment: bool = False
    modules: Sequence[str] = ()
    needs_corpus: bool = False


_ENGINES = {
    "pytorch": ExportedEngine("pytorch", "torch", ("model.safetensors", "model.json", *_TEXT_FILES), None),
    "ctranslate2": ExportedEngine(
        "ctranslate2",
        "ctranslate2",
        ("model.bin", "*vocabulary*", "config.json", "vmap.txt", "model.json", *_TEXT_FILES),
        "ctranslate2",
    ),
    "onnx": ExportedEngine(
        "onnxruntime",
        "onnxruntime",
        ("*.onnx", "*.json", *_TEXT_FILES[:2]),
        "onnx",
        modules=("onnx", "onnxruntime"),
    ),
    "marian": ExportedEngine(
        "marian",
        "pymarian",
        ("model.npz", "*.decoder.yml", "*.spm"),
        "marian",
        has_environment=True,
        needs_corpus=True,
    ),
    "bergamot": ExportedEngine(
        "bergamot",
        "bergamot",
        ("model.*.bin", "lex.*.bin", "*.spm", "config.yml"),
        "bergamot",
        has_environment=True,
        needs_corpus=True,
    ),
}


def find_exported_engine(name: EngineName) -> ExportedEngine:
    """Return the engine of a name, which may be followed by a number type."""
    return _ENGINES[name.partition(":")[0]]


def compute_type(name: EngineName) -> ComputeType:
    """Return the number type of the weights in an engine of `score.engines`."""
    engine, _, wanted = name.partition(":")
    return cast(ComputeType, wanted or ("int8" if engine == "bergamot" else "float32"))


def python_of(name: EngineName, environments: Path) -> Path | None:
    """Return the Python that runs an engine; None for that of this process."""
    return environments / name / "bin" / "python" if find_exported_engine(name).has_environment else None


def check_engines(config: Pipeline) -> None:
    """Check that the students and the programs of `score.engines` exist, before anything is trained.

    Raises:
        UserError: if one does not; the message has the YAML path.
    """
    settings = config.score
    for student in settings.engine_students or []:
        if student not in config.students:
            raise UserError(f"score.engine_students: there is no student {student!r}")
    for name in settings.engines:
        python, engine = python_of(name, Path(settings.engine_environments)), find_exported_engine(name)
        if python is not None and not python.is_file():
            raise UserError(
                f"score.engines: {name!r} runs in an environment of its own, and {python.parents[1]} is none: "
                f"make it with 'make deploy-envs NAME={name}', or set 'score.engine_environments'"
            )
        missing = [module for module in engine.modules if find_spec(module) is None]
        if missing:
            raise UserError(f"score.engines: {name!r} needs {missing[0]}: pip install 'kdmt[onnx]'")


# -------------------------------------------------------------------------------------------------------------- export


@dataclass(frozen=True)
class ExportedModel:
    """A student as an engine reads it.

    Attributes:
        name: name of the engine.
        folder: the exported model, or the checkpoint.
        sha256: hash of what it was made from.
    """

    name: EngineName
    folder: Path
    sha256: str

    @property
    def engine(self) -> ExportedEngine:
        return find_exported_engine(self.name)

    @property
    def bytes_on_disk(self) -> int:
        """Size of the files that the engine reads."""
        paths = {path for pattern in self.engine.files for path in self.folder.glob(pattern) if path.is_file()}
        return sum(path.stat().st_size for path in paths)

    def outputs(self) -> list[Path]:
        """Return the files of the export; none for the checkpoint, which is not a part of the stage."""
        if self.engine.to is None:
            return []
        return [path for path in sorted(self.folder.rglob("*")) if path.is_file()]


def exported_model(workspace: Workspace, system: System, checkpoint: Path, name: EngineName) -> ExportedModel:
    """Return a student for an engine, which is exported unless this or an earlier state of the stage has it.

    The export depends only on what its hash is computed from: `translate_and_measure` gives the search settings, and
    the model card has no scores.

    Raises:
        UserError: if the engine has no such model.
    """
    engine, sha256 = find_exported_engine(name), _hash(workspace, checkpoint, name)
    if engine.to is None:
        return ExportedModel(name, checkpoint, sha256)
    if engine.to == "onnx" and (nat := read_description(checkpoint).get("nat")):
        check_search(nat["family"], workspace.config.score.nat)
    place = Path(_EXPORTS, system.name, f"seed_{system.seed}", f"{name.replace(':', '-')}.{sha256[:16]}")
    folder = workspace.score / place
    if folder.is_dir():
        return ExportedModel(name, folder, sha256)
    folder.parent.mkdir(parents=True, exist_ok=True)
    earlier = next((state / place for state in earlier_states(workspace.score) if (state / place).is_dir()), None)
    if earlier is not None:
        with atomic_folder(folder) as aside:
            shutil.copytree(earlier, aside, dirs_exist_ok=True)
        return ExportedModel(name, folder, sha256)
    workspace.say(f"score: {system.name} seed {system.seed}, exported for {name}")
    options = ExportOptions(quantization=compute_type(name), data=workspace.prepare / "data-bin", has_scores=False)
    EXPORTERS[engine.to].export(checkpoint, folder, options)
    return ExportedModel(name, folder, sha256)


def _hash(workspace: Workspace, checkpoint: Path, name: EngineName) -> str:
    """Return a hash of what an export is made from."""
    wanted = ["tokenizer/", "text.json", "dict."]
    if find_exported_engine(name).needs_corpus:
        wanted.append("data-bin/")
    made_from = {
        "checkpoint": checkpoint_sha256(checkpoint),
        "engine": name,
        "prepare": _chosen(recorded_outputs(workspace.prepare).items(), tuple(wanted)),
        "kdmt": version("kdmt"),
    }
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def _chosen(outputs: Iterable[tuple[str, str]], prefixes: tuple[str, ...]) -> dict[str, str]:
    return {name: sha256 for name, sha256 in outputs if name.startswith(prefixes)}


# --------------------------------------------------------------------------------------------------------- translation


def translate_and_measure(
    workspace: Workspace,
    model: ExportedModel,
    sentences: list[str],
    way: Way,
    *,
    threads: int,
    device: str,
    direction: Direction | None = None,
) -> Decoded:
    """Translate sentences with an engine in a new process, and return the translations with the measurements.

    Args:
        sentences: sources in the form that the tokenizer reads.
        device: device of the engines that have a choice.
        direction: direction of the sentences, if the model has several.

    Raises:
        UserError: if the engine fails.
    """
    score = workspace.config.score
    load = Load(
        model.engine.library,
        model.folder,
        threads,
        score.decode(way.beam),
        device=device,
        search=score.nat,
        iterations=way.iterations,
        rescorer=workspace.teacher / score.checkpoint,
        direction=direction,
    )
    with EngineProcess(load, python_of(model.name, Path(score.engine_environments))) as process:
        cost, words = measure_engine(process, sentences, batch_1_sentences=score.speed_sentences)
    return Decoded(words, 0.0, 1000 / cost.mean_ms, cost.sentences_per_second, cost)
