"""Export of an autoregressive Transformer as a model of Transformers.js, which runs in browsers and in Node.js.

    onnx/encoder_model.onnx, onnx/decoder_model_merged.onnx    graphs (`kdmt.interop.onnx_transformer`); in int8
                                                               encoder_model_quantized.onnx, ...
    config.json, generation_config.json                        shape of the model, search settings
    tokenizer.json, tokenizer_config.json                      tokenizer, in the format of Hugging Face's tokenizers
    README.md                                                  model card
    tokenizer/, text.json, dict.<lang>.txt                     text processing, as in a checkpoint
    checksums.json                                             sha256 of each file

Transformers.js reads the graphs as those of a `MarianMTModel`; it computes nothing of the model itself, so that norms,
positions and layout are those of the graphs. Its search is greedy, and its caches are those of self-attention. The ids
are those of kdmt, and decoding starts with </s>.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdmt.config import Decode
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.tokenizer import SentencePieceModel, tokenizer_files
from kdmt.errors import UserError
from kdmt.files import naming, write_json
from kdmt.interop.browser_tokenizer import tokenizer_json, tokenizer_problem
from kdmt.interop.export_folder import check_new, described_folder
from kdmt.interop.huggingface_export import Ids, check_text, generation_config, model_config
from kdmt.interop.model_card import ExportFormat
from kdmt.interop.onnx_folder import ENCODER_FILE, MERGED_DECODER_FILE
from kdmt.interop.streaming_models import refuse_unidirectional
from kdmt.models.checkpoint import load_model
from kdmt.models.checkpoint_folder import log_opened, resolve_checkpoint
from kdmt.models.nonautoregressive import NATransformer
from kdmt.models.transformer import Transformer
from kdmt.types import EOS, PAD, SPECIALS, UNK

GRAPHS = "onnx"  # folder in which Transformers.js looks for graphs
_SUFFIXES = {"float32": "", "int8": "_quantized"}  # its `dtype` is 'fp32' or 'q8'

CARD = ExportFormat(
    "Transformers.js",
    """
```js
import { pipeline } from '@huggingface/transformers';

const translate = await pipeline('translation', 'FOLDER', { dtype: 'fp32' });
const [{ translation_text }] = await translate('...');
```

`dtype` is `'q8'` for a model in int8, whose files end in `_quantized.onnx`. The search is greedy.
""",
    library="transformers.js",
    tags=("transformers.js", "onnx"),
)


def export_checkpoint(
    checkpoint: Path, folder: Path, *, quantization: str = "float32", card: str | None = None
) -> None:
    """Write the model of a checkpoint as a model of Transformers.js. An error leaves no partial folder.

    Args:
        checkpoint: a checkpoint folder, a pointer file or a run.
        folder: the new folder.
        quantization: `float32`, or `int8` for weights of 8 bits.
        card: model card; None for none.

    Raises:
        UserError: if there is no checkpoint, the folder exists, Transformers.js has no such model or tokenizer, or the
            packages that write ONNX are not installed.
    """
    check_new(folder)
    source = resolve_checkpoint(checkpoint)
    log_opened(checkpoint, source)
    codec, model = TextCodec.load(source), load_model(source)
    _check_model(model)
    tokenizer = _check_tokenizer(codec, source)
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise UserError("the package 'onnx' is not installed: pip install 'kdmt[onnx]'") from None
    from kdmt.interop.onnx_graph import save_model
    from kdmt.interop.onnx_quantization import quantize
    from kdmt.interop.onnx_transformer import decoder_graph, encoder_graph

    graphs = {
        ENCODER_FILE: encoder_graph(model, accepts_all_ids=True),
        MERGED_DECODER_FILE: decoder_graph(model, rows="batch_size"),
    }
    order = list(range(model.src_vocab_size))
    ids = Ids(order, order, (len(order), len(order)), pad=PAD, start=EOS)
    with described_folder(folder, None, codec.companions(source), card=card) as aside:
        (aside / GRAPHS).mkdir()
        for name, graph in graphs.items():
            path = aside / GRAPHS / name.replace(".onnx", f"{_SUFFIXES[quantization]}.onnx")
            with naming(folder / GRAPHS / path.name):
                save_model(quantize(graph) if quantization == "int8" else graph, path)
        write_json(aside / "config.json", model_config(model, "marian", ids), indent=2)
        write_json(aside / "generation_config.json", generation_config(model, ids, Decode(beam=1)), indent=2)
        write_json(
            aside / "tokenizer.json", _with_specials(tokenizer_json(tokenizer, codec.src_dictionary)), indent=None
        )
        options = _tokenizer_options(model.config.max_source_positions)
        write_json(aside / "tokenizer_config.json", options, indent=2)


def _check_model(model: Transformer) -> None:
    """Check that Transformers.js can run a model.

    Raises:
        UserError: if it cannot. The message names the setting.
    """
    config = model.config
    if isinstance(model, NATransformer):
        raise UserError(f"Transformers.js has no decoder for a {model.nat.family!r} model, which is non-autoregressive")
    refuse_unidirectional(config, "Transformers.js")
    if config.decoder != "self_attention":
        raise UserError(f"Transformers.js has no model with 'model.decoder: {config.decoder}'; use --to onnx")
    if config.has_own_tokens:
        raise UserError("the model is multilingual: the tokenizer of the export would put no language tokens in")


def _check_tokenizer(codec: TextCodec, source: Path) -> SentencePieceModel:
    """Return the tokenizer of both languages.

    Raises:
        UserError: if there are two, or Transformers.js has no such tokenizer or text processing.
    """
    check_text(codec)
    models = tokenizer_files(source / "tokenizer")
    if models[0] != models[1] or codec.src_dictionary.symbols != codec.tgt_dictionary.symbols:
        raise UserError(
            "Transformers.js has one tokenizer for both languages: the model needs 'prepare.tokenizer.joint' and "
            "'prepare.vocabulary.joined'"
        )
    tokenizer = codec.tokenizers.source
    if (reason := tokenizer_problem(tokenizer)) is not None:
        raise UserError(f"Transformers.js has no such tokenizer: {reason}")
    assert isinstance(tokenizer, SentencePieceModel)
    return tokenizer


def _with_specials(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """Return a `tokenizer.json` that ends sentences in </s>, and whose special tokens can be left out of a text."""
    model = tokenizer["model"]
    if model["type"] == "Unigram":
        for number, special in enumerate(SPECIALS):
            model["vocab"][number][0] = special
    else:
        names = list(model["vocab"])
        model["vocab"] = {name: number for number, name in enumerate([*SPECIALS, *names[len(SPECIALS) :]])}
        model["unk_token"] = SPECIALS[UNK]
    eos = SPECIALS[EOS]
    end = {"SpecialToken": {"id": eos, "type_id": 0}}
    template: dict[str, Any] = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, end],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}, end],
        "special_tokens": {eos: {"id": eos, "ids": [EOS], "tokens": [eos]}},
    }
    as_they_are = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [
        {"id": number, "content": special, **as_they_are, "special": True} for number, special in enumerate(SPECIALS)
    ]
    return {**tokenizer, "added_tokens": added, "post_processor": template}


def _tokenizer_options(max_source_positions: int) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_source_positions,
        "clean_up_tokenization_spaces": False,
        **{f"{name}_token": SPECIALS[token] for name, token in (("eos", EOS), ("unk", UNK), ("pad", PAD))},
    }
