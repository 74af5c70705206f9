"""COMET-22, CometKiwi and XCOMET by unbabel-comet as an external scorer.

    python -m kdmt.score.scorers.adapters.comet --model FOLDER [--encoder FOLDER] [--device cuda]

`make metrics-env NAME=comet` makes the environment. The folder of the model has `hparams.yaml` and
`checkpoints/model.ckpt`, as published. COMET also needs the tokenizer and the configuration of the encoder, by default
those of `pretrained_model` in `hparams.yaml` from the local cache of the Hugging Face Hub; nothing is downloaded.

Scores are those of the library. They are meant to be from 0 to 1, and those of regression models may be a little
outside. CometKiwi and XCOMET are licensed for non-commercial use only.
"""

from __future__ import annotations

import argparse
import inspect
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from kdmt.score.scorers.adapters.serving import Segment, serve, take_output

NON_COMMERCIAL = "CC-BY-NC-SA-4.0 (non-commercial)"
_BUFFERS = ("position_ids",)  # of transformers before 4.31; later versions compute them


def main() -> None:
    """Serve a COMET model."""
    parser = argparse.ArgumentParser(description="COMET as an external scorer of kdmt")
    parser.add_argument("--model", type=Path, required=True, help="folder with hparams.yaml and checkpoints/model.ckpt")
    parser.add_argument("--encoder", help="folder of the encoder's tokenizer and configuration")
    parser.add_argument("--device", default="cpu", help="device of PyTorch (default: cpu)")
    parser.add_argument("--batch-size", type=int, default=16, help="number of segments in a batch (default: 16)")
    parser.add_argument("--threads", type=int, default=0, help="number of CPU threads (default: those of PyTorch)")
    parser.add_argument("--licence", help="licence of the model (default: that of the published models of its kind)")
    parser.add_argument("--allow-pickle", action="store_true", help="load a checkpoint that may execute code")
    options = parser.parse_args()
    output = take_output()
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch = import_module("torch")
    if options.threads:
        torch.set_num_threads(options.threads)
    hparams = _read_hparams(options.model)
    model = _load(torch, options.model, hparams, options.encoder, allow_pickle=options.allow_pickle)
    model.to(options.device).eval()

    def score(segments: Sequence[Segment]) -> list[float]:
        samples = [_sample(each, needs_reference=model.requires_references()) for each in segments]
        inputs = _moved(model.prepare_for_inference(samples), options.device)
        with torch.inference_mode():
            return model.predict_step(inputs)["scores"].float().cpu().tolist()

    serve(
        score,
        scorer=options.model.resolve().name,
        signature=f"comet:{hparams['class_identifier']}|encoder:{hparams['pretrained_model']}|precision:float32",
        packages=["unbabel-comet", "torch", "transformers"],
        licence=options.licence or _licence(hparams),
        batch_size=options.batch_size,
        output=output,
    )


def _read_hparams(folder: Path) -> dict[str, Any]:
    path = folder / "hparams.yaml"
    if not path.is_file():
        sys.exit(f"{folder}: not the folder of a COMET model: it has no hparams.yaml")
    with path.open(encoding="utf-8") as file:
        return import_module("yaml").safe_load(file)


def _load(
    torch: Any, folder: Path, hparams: Mapping[str, Any], encoder: str | None, *, allow_pickle: bool
) -> Any:  # comet.models.CometModel
    """Return the model; its class and its settings are those of hparams.yaml."""
    models = import_module("comet.models")
    kind = models.str2model[hparams["class_identifier"]]
    known = inspect.signature(kind.__init__).parameters
    settings = {name: value for name, value in hparams.items() if name in known}
    if settings.get("layer_transformation") == "sparsemax_patch":  # the library's own replacement since 2.2.4
        settings["layer_transformation"] = "softmax"
    if encoder is not None:
        settings["pretrained_model"] = encoder
    model = kind(**{**settings, "load_pretrained_weights": False, "local_files_only": True})
    weights = _read_weights(torch, folder / "checkpoints" / "model.ckpt", allow_pickle=allow_pickle)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    different = [name for name in (*missing, *unexpected) if not name.endswith(_BUFFERS)]
    if different:
        sys.exit(f"{folder}: the checkpoint does not fit hparams.yaml: {', '.join(different[:5])}")
    return model


def _read_weights(torch: Any, path: Path, *, allow_pickle: bool) -> Mapping[str, Any]:
    if not path.is_file():
        sys.exit(f"{path}: there is no such file")
    try:
        return torch.load(path, map_location="cpu", weights_only=not allow_pickle)["state_dict"]
    except Exception as error:  # of the unpickler, or of a file that is no checkpoint
        lines = str(error).splitlines() or [type(error).__name__]
        sys.exit(f"{path}: not only tensors and settings; --allow-pickle loads it anyway: {lines[0]}")


def _sample(segment: Segment, *, needs_reference: bool) -> dict[str, str]:
    sample = {"src": segment["source"], "mt": segment["hypothesis"]}
    if "reference" in segment:
        sample["ref"] = segment["reference"]
    elif needs_reference:
        sys.exit("the model needs references: set 'reference: true'")
    return sample


def _moved(inputs: Any, device: str) -> Any:
    """Return the inputs of a model on a device: a mapping of tensors, or several of them."""
    if isinstance(inputs, Mapping):
        return {name: _moved(value, device) for name, value in inputs.items()}
    if isinstance(inputs, (list, tuple)):
        return type(inputs)(_moved(value, device) for value in inputs)
    return inputs.to(device) if hasattr(inputs, "to") else inputs


def _licence(hparams: Mapping[str, Any]) -> str:
    """Return the licence of the published models of a kind: COMET-22 is free, CometKiwi and XCOMET are not."""
    return "Apache-2.0" if hparams["class_identifier"] == "regression_metric" else NON_COMMERCIAL


if __name__ == "__main__":
    main()
