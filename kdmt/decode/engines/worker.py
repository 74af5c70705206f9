"""Process that translates with one engine and measures it: requests and replies are lines of JSON.

    python -I worker.py

The program runs in the environment of the engine, which may be without kdmt and with another version of Python. So it
imports nothing outside the standard library before it knows the engine. Requests on standard input, in this order:

{"load": {...}}                    load the model (`Load` in `kdmt.decode.engines.process`)
{"translate": [lines]}             translate lines at once
{"one_by_one": [lines]}            translate lines in separate calls

A reply has the measurements, or `error`. Standard output has only replies: what an engine prints is standard error.
"""

from __future__ import annotations

import json
import os
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

Translate = Callable[[list[str]], list[str]]
_POWER_CAPPING = Path("/sys/class/powercap")


def main() -> None:
    """Answer the requests on standard input."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    translate: Translate = list
    for line in sys.stdin.buffer:
        request = json.loads(line)
        try:
            if "load" in request:
                translate, reply = _load(request["load"])
            elif "translate" in request:
                reply = _translate_at_once(translate, request["translate"])
            else:
                reply = {"seconds": [_seconds(translate, [each]) for each in request["one_by_one"]]}
            reply["resident_bytes"] = _resident_bytes("VmRSS")
            reply["peak_bytes"] = _resident_bytes("VmHWM")
        except Exception as error:  # every error of an engine is reported in the same way
            reply = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def _load(wanted: Mapping[str, Any]) -> tuple[Translate, dict[str, Any]]:
    """Load a model, and return its function that translates and the measurements."""
    sys.path[:0] = [path for path in wanted["path"] if path not in sys.path]
    load = _ENGINES[wanted["engine"]](wanted)  # imports the library
    before, start = _resident_bytes("VmRSS"), perf_counter()
    translate = load()
    return translate, {"seconds": perf_counter() - start, "library_bytes": before}


def _translate_at_once(translate: Translate, lines: list[str]) -> dict[str, Any]:
    energy, start = _joules(), perf_counter()
    translations = translate(lines)
    seconds, after = perf_counter() - start, _joules()
    spent = [_difference(*each) for each in zip(energy, after, strict=True)]
    return {"translations": translations, "seconds": seconds, "joules": sum(spent) if spent else None}


def _seconds(translate: Translate, lines: list[str]) -> float:
    start = perf_counter()
    translate(lines)
    return perf_counter() - start


# ------------------------------------------------------------------------------------------------------------- engines


def _kdmt(wanted: Mapping[str, Any]) -> Callable[[], Translate]:
    """Return the loading function of an engine of kdmt: PyTorch, CTranslate2 or ONNX Runtime."""
    from kdmt.config import Decode, NATDecode
    from kdmt.corpus.codec import TextCodec, cut_source, insert_prefix
    from kdmt.decode.engines.engine import Engine, EngineOptions
    from kdmt.languages import Direction

    folder, settings = Path(wanted["folder"]), Decode(**wanted["decode"])
    direction = Direction.parse(wanted["direction"]) if wanted["direction"] else None
    options = EngineOptions(
        device=wanted["device"],
        threads=wanted["threads"],
        search=NATDecode(**wanted["search"]),
        iterations=wanted["iterations"] or 1,
        rescorer=Path(wanted["rescorer"]) if wanted["rescorer"] else None,
    )
    if wanted["engine"] == "ctranslate2":  # without PyTorch, which it does not need
        import ctranslate2  # noqa: F401

        from kdmt.decode.engines.ctranslate2 import CTranslate2Engine

        def open_model() -> Engine:
            shortlist = wanted["shortlist"]
            return CTranslate2Engine(folder, device=options.device, threads=options.threads, shortlist=shortlist)
    else:
        from kdmt.decode.engines.table import find_engine
        from kdmt.runtime import use_threads

        use_threads(options.threads)

        def open_model() -> Engine:
            kind, opened = find_engine(folder)
            return kind.open(opened, options)

    def load() -> Translate:
        engine, codec = open_model(), TextCodec.load(folder)
        prefix = () if direction is None else codec.prefix_ids(direction)

        def translate(lines: list[str]) -> list[str]:
            sources = insert_prefix(codec.encode_source(lines), prefix)
            kept = [index for index, source in enumerate(sources) if len(source) > 1]
            cut = [cut_source(sources[index], engine.max_source_positions) for index in kept]
            words = [""] * len(lines)
            for index, found in zip(kept, engine.decode(cut, settings), strict=True):
                words[index] = codec.decode_target(found[0].tokens)
            return words

        return translate

    return load


def _marian(wanted: Mapping[str, Any]) -> Callable[[], Translate]:
    """Return the loading function of pymarian."""
    from pymarian import Translator

    decode = wanted["decode"]
    options = {
        "beam-size": decode["beam"],
        "normalize": decode["lenpen"],
        "cpu-threads": wanted["threads"],
        "mini-batch": decode["batch_size"],
        "mini-batch-words": decode["max_tokens"],
        "maxi-batch": 1000,
        "maxi-batch-sort": "src",
        "max-length-crop": "true",
        "max-length": 1000,
        "quiet": "true",
        "quiet-translation": "true",
    }
    given = " ".join(f"--{name} {value}" for name, value in options.items())
    os.chdir(wanted["folder"])  # Marian divides the line of options at the spaces of a path
    (configuration,) = Path().glob("*.decoder.yml")

    def load() -> Translate:
        translator = Translator(f"-c {configuration} {given}")
        return _without_empty(translator.translate)

    return load


def _bergamot(wanted: Mapping[str, Any]) -> Callable[[], Translate]:
    """Return the loading function of Bergamot, in whose configuration paths and search settings are replaced."""
    import yaml

    # the package's own __init__ asks the network for a list of models
    package = types.ModuleType("bergamot")
    package.__path__ = [str(Path(path, "bergamot")) for path in sys.path]
    sys.modules["bergamot"] = package
    from bergamot import _bergamot as library

    folder, decode = Path(wanted["folder"]), wanted["decode"]

    def load() -> Translate:
        config = yaml.safe_load((folder / "config.yml").read_text(encoding="utf-8"))
        for name in {"models", "vocabs", "shortlist"} & config.keys():
            config[name] = [str(folder / each) if isinstance(each, str) else each for each in config[name]]
        config["relative-paths"] = False
        config["beam-size"], config["normalize"] = decode["beam"], decode["lenpen"]
        config["skip-cost"] = decode["beam"] == 1  # without the softmax, the scores of a beam are wrong
        config["ssplit-mode"] = "sentence"
        config["max-length-break"] = 512  # less than mini-batch-words
        service = library.Service(library.ServiceConfig(numWorkers=wanted["threads"], logLevel="off"))
        model = service.modelFromConfig(yaml.safe_dump(config))
        options = library.ResponseOptions(qualityScores=False, alignment=False, HTML=False)

        def translate(lines: list[str]) -> list[str]:
            responses = service.translate(model, library.VectorString(lines), options)
            return [each.target.text.rstrip("\n") for each in responses]

        return _without_empty(translate)

    return load


def _without_empty(translate: Callable[[list[str]], Sequence[str]]) -> Translate:
    """Return a function that gives only lines with words to an engine."""

    def translate_words(lines: list[str]) -> list[str]:
        kept = [index for index, line in enumerate(lines) if line.strip()]
        words = [""] * len(lines)
        if kept:
            for index, found in zip(kept, translate([lines[index] for index in kept]), strict=True):
                words[index] = found
        return words

    return translate_words


_ENGINES: dict[str, Callable[[Mapping[str, Any]], Callable[[], Translate]]] = {
    "pytorch": _kdmt,
    "ctranslate2": _kdmt,
    "onnxruntime": _kdmt,
    "marian": _marian,
    "bergamot": _bergamot,
}


# -------------------------------------------------------------------------------------------------- memory and energy


def _resident_bytes(field: str) -> int:
    """Return the resident memory of this process, now (VmRSS) or at its peak (VmHWM); always the peak without Linux."""
    status = Path("/proc/self/status")
    if status.is_file():
        lines = status.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _joules() -> list[tuple[float, float]]:
    """Return the energy counter of each processor in joules, and the value at which it starts again from 0."""
    zones = [zone for zone in sorted(_POWER_CAPPING.glob("intel-rapl:*")) if zone.name.count(":") == 1]
    try:  # zones with two colons are parts of a processor
        return [(_micro(zone / "energy_uj"), _micro(zone / "max_energy_range_uj")) for zone in zones]
    except OSError:  # readable for root only
        return []


def _micro(path: Path) -> float:
    return int(path.read_text(encoding="ascii")) / 1e6


def _difference(before: tuple[float, float], after: tuple[float, float]) -> float:
    spent = after[0] - before[0]
    return spent if spent >= 0 else spent + after[1]


if __name__ == "__main__":
    main()
