"""Format of the folder of an exported ONNX model: names of its files, and checks. Loads neither torch nor ONNX.

    model.onnx                                        graph and weights, for `ctc` and `dag`
    encoder_model.onnx, decoder_model.onnx            graphs and weights, for `nat`, `inat` and `cmlm`
    encoder_model.onnx, decoder_model_merged.onnx     graphs and weights, for autoregressive models
    onnx.json                                         number type of the weights
    translate.json                                    search settings, for autoregressive models
    model.json                                        shape of the model, as in a checkpoint
    tokenizer/, text.json, dict.<lang>.txt            text processing, as in a checkpoint
    checksums.json                                    sha256 of each file

Folders of `ctc` students from earlier versions have no `onnx.json`.

The graph of a `ctc` or `dag` student has the input `src_tokens`, int64 [B, S]: sentences of equal length that end in
</s>. There is no padding and therefore no mask. L = upsample * S is the number of decoder positions. Outputs:

    ctc    `symbols`, int64 [B, L]: the most probable token, or the blank, whose id is one more than that of the last
           token; `log_probs`, float32 [B, L]: its natural log-probability
    dag    `tokens`, int64 [B, L]: the most probable token of each vertex; `log_probs` as above; `links`, float32
           [B, L, L]: log-probability of the second vertex after the first

The encoder of a `nat`, `inat` or `cmlm` student maps `src_tokens`, int64 [B, S], padded with <pad>, to `states`,
float32 [B, S', D], and `lengths`, int64 [B, 256]: target lengths with </s>, the most probable one first. The decoder
maps the same `src_tokens`, `states` and `draft`, int64 [B, T], tokens of the target with <unk> where one is unknown,
</s> and padding, to `tokens`, int64 [B, T], and `log_probs`, float32 [B, T].

The graphs of autoregressive models are described in `kdmt.interop.onnx_transformer`.

`kdmt.interop.onnx_export` writes such folders, `kdmt.decode.engines.onnx` reads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdmt.checksum import verify_checkpoint
from kdmt.config import NATDecode
from kdmt.corpus.codec import TEXT_FILE, load_dictionaries, load_text_processor
from kdmt.errors import UserError
from kdmt.families import FAMILIES, FamilyName
from kdmt.files import read_optional_json
from kdmt.models.description import FILE as DESCRIPTION_FILE
from kdmt.models.description import read_description
from kdmt.types import EOS

MODEL_FILE = "model.onnx"
ENCODER_FILE = "encoder_model.onnx"
DECODER_FILE = "decoder_model.onnx"
MERGED_DECODER_FILE = "decoder_model_merged.onnx"
OPTIONS_FILE = "onnx.json"
SEARCH_FILE = "translate.json"  # name and keys as in folders of CTranslate2
INPUT = "src_tokens"
CTC_OUTPUTS = ("symbols", "log_probs")
DAG_OUTPUTS = ("tokens", "log_probs", "links")
ENCODER_OUTPUTS = ("states", "lengths")
DECODER_INPUTS = (INPUT, "states", "draft")
DECODER_OUTPUTS = ("tokens", "log_probs")
AUTOREGRESSIVE = "autoregressive"
ONE_PASS = ("ctc", "dag")  # families with one graph
REFINED = ("nat", "inat", "cmlm")  # families with an encoder and a decoder that reads drafts
_NOT_OURS = "not a model that 'kdmt export --to onnx' wrote"


@dataclass(frozen=True)
class ModelFolder:
    """Properties of an ONNX model folder that an engine needs in addition to the graphs.

    Attributes:
        family: `autoregressive` or the family of a non-autoregressive model.
        config: `config` of `model.json`.
        nat: `nat` of `model.json`; empty for an autoregressive model.
        num_tokens: number of target tokens; also the id of the CTC blank.
        quantization: number type of the weights.
        source_prefix: tokens that the model needs before each source.
        target_prefix: tokens that the decoder reads first; `</s>`, and the token with which a multilingual model
            begins, unless it is the first token of the source (`target_from_source`).
    """

    path: Path
    family: str
    config: dict[str, Any]
    nat: dict[str, Any]
    num_tokens: int
    quantization: str = "float32"
    source_prefix: tuple[int, ...] = ()
    target_prefix: tuple[int, ...] = (EOS,)

    @classmethod
    def open(cls, path: Path) -> ModelFolder:
        """Check a folder and read it.

        Raises:
            UserError: if the folder is damaged or was not written by kdmt.
        """
        if not (path / DESCRIPTION_FILE).is_file() or not is_model_folder(path):
            raise UserError(f"{path}: {_NOT_OURS}")
        verify_checkpoint(path)
        description = read_description(path)
        if (path / TEXT_FILE).exists():
            load_dictionaries(path, load_text_processor(path / TEXT_FILE))  # checks that the sizes are the model's
        config, nat = description["config"], description.get("nat", {})
        family = nat.get("family", AUTOREGRESSIVE)
        for name in files_of(family):
            if not (path / name).is_file():
                raise UserError(f"{path}: {_NOT_OURS}: it has no {name}, which a {family!r} model needs")
        prefixes = (config.get("source_token"), config.get("target_token"))
        source_prefix, target_prefix = ((token,) if token is not None else () for token in prefixes)
        return cls(
            path,
            family,
            config,
            nat,
            description["tgt_vocab_size"],
            _read_quantization(path),
            source_prefix,
            (EOS, *target_prefix),
        )

    @property
    def target_from_source(self) -> bool:
        """Whether the first token of a source is not encoded, and the decoder reads it after `</s>`."""
        return self.config.get("target_from_source", False) is True

    @property
    def max_source_positions(self) -> int:
        return int(self.config["max_source_positions"])

    @property
    def max_target_positions(self) -> int:
        return int(self.config["max_target_positions"])

    @property
    def blank(self) -> int:
        """Id of the CTC blank."""
        return self.num_tokens


def files_of(family: str) -> tuple[str, ...]:
    """Return the names of the files with the graphs of a model.

    Raises:
        UserError: if models of the family are not exported.
    """
    if family == AUTOREGRESSIVE:
        return ENCODER_FILE, MERGED_DECODER_FILE
    if family in ONE_PASS:
        return (MODEL_FILE,)
    if family in REFINED:
        return ENCODER_FILE, DECODER_FILE
    known = ", ".join((*ONE_PASS, *REFINED))
    assert family in FAMILIES, family
    raise UserError(f"a {family!r} model is not exported to ONNX; autoregressive models are, and the families {known}")


def check_search(family: FamilyName, search: NATDecode) -> None:
    """Check that a model in ONNX Runtime has the search of the settings, as far as its family reads them.

    Raises:
        UserError: if it does not.
    """
    if family == "ctc" and search.ctc_beam > 1:
        problem = f"'ctc_beam: {search.ctc_beam}': a 'ctc' model has only the best path there ('ctc_beam: 1')"
    elif family in REFINED and search.rescore and search.num_lengths(family) > 1:
        problem = "'rescore: true': no teacher chooses among the candidate lengths there"
    else:
        return
    raise UserError(f"ONNX Runtime does not run this search: {problem}; use the checkpoint in PyTorch")


def is_model_folder(path: Path) -> bool:
    """Return whether a folder holds an ONNX model."""
    return (path / MODEL_FILE).is_file() or (path / ENCODER_FILE).is_file()


def is_nonautoregressive(path: Path) -> bool:
    """Return whether a folder holds an ONNX model that does not predict tokens one after the other."""
    return is_model_folder(path) and not (path / MERGED_DECODER_FILE).is_file()


def _read_quantization(path: Path) -> str:
    options = read_optional_json(path / OPTIONS_FILE, required={"quantization": str})
    return "float32" if options is None else str(options["quantization"])
