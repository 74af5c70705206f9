"""Table of exporters, one for each toolkit that a trained model can be exported to.

To add an exporter, write the function that exports a checkpoint and add it to `EXPORTERS`. `kdmt export --to` uses the
table. This module loads neither torch nor a toolkit, since the command line needs the names in the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from kdmt.choices import ComputeType as Quantization
from kdmt.errors import UserError
from kdmt.models.checkpoint_folder import resolve_checkpoint
from kdmt.models.description import is_right_to_left

if TYPE_CHECKING:
    from kdmt.config import Decode
    from kdmt.corpus.text import TextProcessor
    from kdmt.interop.model_card import ExportFormat


@dataclass(frozen=True)
class ExportOptions:
    """Options of an export. A quantization that the exporter does not support is refused.

    An exporter that writes no search settings ignores `beam` and `lenpen`, one that needs no text ignores `data`, one
    that writes no model card ignores `licence` and `has_scores`.

    Attributes:
        quantization: number type of the weights.
        beam, lenpen: search settings.
        data: data-bin; None for that of the checkpoint's pipeline.
        licence: licence of the model in its card, as an identifier of the Hugging Face hub.
        has_scores: whether the card has the recorded scores of the checkpoint.
    """

    quantization: Quantization = "float32"
    beam: int = 5
    lenpen: float = 1.0
    data: Path | None = None
    licence: str = "unknown"
    has_scores: bool = True


@dataclass(frozen=True)
class Exporter:
    """Exporter of checkpoints to the format of a toolkit.

    Attributes:
        label: name of the toolkit in messages.
        models: supported models, for the help text.
        export: function that writes a checkpoint (a folder, a pointer file or a run) to a new folder or file.
        quantizations: number types that weights can be stored in; the first one is the default of `kdmt export`.
    """

    label: str
    models: str
    export: Callable[[Path, Path, ExportOptions], None]
    quantizations: tuple[Quantization, ...] = ("float32",)


def _search(options: ExportOptions) -> Decode:
    """Return the search settings of an export.

    Raises:
        UserError: if one is out of range.
    """
    from kdmt.config import Decode, checked

    return checked(Decode, "export", beam=options.beam, lenpen=options.lenpen)


def _card(checkpoint: Path, exported: ExportFormat, options: ExportOptions) -> str:
    """Return the model card of an export."""
    from kdmt.interop.model_card import model_card

    return model_card(resolve_checkpoint(checkpoint), exported, licence=options.licence, has_scores=options.has_scores)


def _text_processor(checkpoint: Path) -> TextProcessor | None:
    """Return the text processing of a checkpoint, None if it has none."""
    from kdmt.corpus.codec import TEXT_FILE, load_text_processor

    path = resolve_checkpoint(checkpoint) / TEXT_FILE
    return load_text_processor(path) if path.exists() else None


def _check_no_context(checkpoint: Path, label: str) -> None:
    """Check that a model reads single sentences, as programs do that are given raw text.

    Raises:
        UserError: if it reads them with the previous sentences.
    """
    text = _text_processor(checkpoint)
    if text is not None and text.context is not None:
        raise UserError(
            f"{checkpoint}: reads each sentence after the previous ones and {text.context.separator!r} "
            f"('prepare.context'), which {label} does not put there"
        )


def _check_one_direction(checkpoint: Path, label: str) -> None:
    """Check that a model has one direction, as a format without language tokens needs, and see `_check_order`.

    Raises:
        UserError: if it has several, or predicts reversed targets.
    """
    text = _text_processor(checkpoint)
    directions = () if text is None else text.directions
    if len(directions) == 1:
        raise UserError(
            f"{checkpoint}: knows its direction {directions[0]} from language tokens, which {label} models do not "
            f"have; {', '.join(MULTILINGUAL)} models have them"
        )
    if directions:
        raise UserError(
            f"{checkpoint}: translates in several directions ({', '.join(map(str, directions))}), and {label} models "
            f"have one; {', '.join(MULTILINGUAL)} models can have several"
        )
    _check_order(checkpoint)


def _check_order(checkpoint: Path) -> None:
    """Check that a model does not predict reversed targets, which other programs would not reverse again.

    Raises:
        UserError: if it does.
    """
    if is_right_to_left(resolve_checkpoint(checkpoint)):
        raise UserError(
            f"{checkpoint}: predicts targets from right to left: other programs would show its translations reversed; "
            "use the checkpoint itself"
        )


def _export_argos(checkpoint: Path, out: Path, options: ExportOptions) -> None:
    from kdmt.interop import argos_export

    _check_one_direction(checkpoint, "Argos Translate")
    _check_no_context(checkpoint, "Argos Translate")
    card = _card(checkpoint, argos_export.CARD, options)
    argos_export.export_checkpoint(checkpoint, out, quantization=options.quantization, card=card)


def _export_ctranslate2(checkpoint: Path, out: Path, options: ExportOptions) -> None:
    from kdmt.interop import ctranslate2_export

    _check_order(checkpoint)
    card = _card(checkpoint, ctranslate2_export.CARD, options)
    ctranslate2_export.export_checkpoint(
        checkpoint, out, quantization=options.quantization, decode=_search(options), card=card
    )


def _export_fairseq(checkpoint: Path, out: Path, _: ExportOptions) -> None:
    from kdmt.interop.fairseq import checkpoints

    _check_order(checkpoint)
    checkpoints.export_checkpoint(checkpoint, out)


def _export_marian(checkpoint: Path, out: Path, options: ExportOptions) -> None:
    from kdmt.interop.marian import export

    _check_one_direction(checkpoint, "Marian")
    text = _text_processor(checkpoint)
    is_raw = text is None or text.text.changes_nothing
    card = _card(checkpoint, export.MARIAN_CARD if is_raw else export.MARIAN_PROCESSED_CARD, options)
    export.export_marian(checkpoint, out, decode=_search(options), data=options.data, card=card)


def _export_bergamot(checkpoint: Path, out: Path, options: ExportOptions) -> None:
    from kdmt.interop.marian import export

    _check_one_direction(checkpoint, "Bergamot")
    _check_no_context(checkpoint, "Bergamot")
    card = _card(checkpoint, export.BERGAMOT_CARD, options)
    export.export_bergamot(checkpoint, out, decode=_search(options), data=options.data, card=card)


def _export_huggingface(checkpoint: Path, out: Path, options: ExportOptions) -> None:
    from kdmt.interop import huggingface_export

    _check_order(checkpoint)
    card = _card(checkpoint, huggingface_export.CARD, options)
    huggingface_export.export_checkpoint(checkpoint, out, decode=_search(options), card=card)


def _export_onnx(checkpoint: Path, out: Path, options: ExportOptions) -> None:
    from kdmt.interop import onnx_export

    _check_order(checkpoint)
    card = _card(checkpoint, onnx_export.CARD, options)
    onnx_export.export_checkpoint(
        checkpoint, out, quantization=options.quantization, decode=_search(options), card=card
    )


def _export_transformers_js(checkpoint: Path, out: Path, options: ExportOptions) -> None:
    from kdmt.interop import transformers_js_export

    _check_one_direction(checkpoint, "Transformers.js")
    _check_no_context(checkpoint, "Transformers.js")
    card = _card(checkpoint, transformers_js_export.CARD, options)
    transformers_js_export.export_checkpoint(checkpoint, out, quantization=options.quantization, card=card)


# formats of models with several directions, which are chosen by language tokens
MULTILINGUAL = ("ctranslate2", "fairseq", "huggingface", "onnx")

# name for `kdmt export --to` -> exporter
EXPORTERS: dict[str, Exporter] = {
    "argos": Exporter(
        "Argos Translate",
        "autoregressive models with a joint SentencePiece model, or with subword-nmt and Moses",
        _export_argos,
        quantizations=("int8", "float32"),
    ),
    "ctranslate2": Exporter(
        "CTranslate2", "autoregressive models", _export_ctranslate2, quantizations=get_args(Quantization)
    ),
    "fairseq": Exporter("fairseq", "models that fairseq has too", _export_fairseq),
    "marian": Exporter("Marian", "students with Marian's layout", _export_marian),
    "bergamot": Exporter("Bergamot", "the same in int8, for Firefox", _export_bergamot, quantizations=("int8",)),
    "huggingface": Exporter(
        "Hugging Face", "autoregressive models with SentencePiece and no text processing", _export_huggingface
    ),
    "onnx": Exporter(
        "ONNX",
        "autoregressive models, and ctc, dag, nat, inat and cmlm students",
        _export_onnx,
        quantizations=("float32", "int8"),
    ),
    "transformers-js": Exporter(
        "Transformers.js",
        "autoregressive models with self-attention and a joint SentencePiece model",
        _export_transformers_js,
        quantizations=("float32", "int8"),
    ),
}
