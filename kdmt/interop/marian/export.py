"""Export of a Transformer with Marian's layout: as a model of Marian, and as a model of Bergamot, Firefox's engine.

A folder for Marian:

    model.npz, model.npz.decoder.yml            parameters and options; options of the search
    vocab.spm, or source.spm and target.spm     vocabularies (`kdmt.interop.marian.vocabulary`)
    lex.s2t, lex.50.50.s2t.bin                  lexical shortlist, if there are binarised training data

A folder for Bergamot has the names of Firefox's models, for the languages en and de:

    model.ende.intgemm.alphas.bin               parameters in int8
    vocab.ende.spm, or srcvocab. and trgvocab.
    lex.50.50.ende.s2t.bin                      lexical shortlist
    config.yml                                  options of the engine
    metadata.json                               as in Firefox's list of models

Both have the tokenizer, dictionaries and text processing of kdmt (`kdmt.interop.export_folder`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from kdmt.checksum import file_sha256
from kdmt.config import Decode
from kdmt.corpus.codec import TextCodec, check_vocabulary, cut_source
from kdmt.errors import UserError
from kdmt.files import write_json, write_text
from kdmt.interop.export_folder import check_new, described_folder
from kdmt.interop.fairseq.data_bin import DataBin
from kdmt.interop.marian import shortlist
from kdmt.interop.marian.alphas import activation_factors, output_name
from kdmt.interop.marian.files import MarianModel, is_matrix, write_binary, write_npz
from kdmt.interop.marian.names import to_marian
from kdmt.interop.marian.options import check_config, decoder_options, model_options
from kdmt.interop.marian.rows import TokenRows
from kdmt.interop.marian.vocabulary import MarianVocabulary, marian_vocabulary
from kdmt.interop.model_card import ExportFormat
from kdmt.models.build import describe_model
from kdmt.models.checkpoint import load_model
from kdmt.models.checkpoint_folder import log_opened, resolve_checkpoint
from kdmt.models.nonautoregressive import NATransformer
from kdmt.models.transformer import Transformer

MODEL_FILE, DECODER_FILE = "model.npz", "model.npz.decoder.yml"
VOCABULARY_FILE, VOCABULARY_FILES = "vocab.spm", ("source.spm", "target.spm")
_SAMPLE = 1000  # sentences that the factors of activations are taken from
_INNER, _OUTER = 64, 8  # int8 products need these multiples for the rows and columns of a matrix
# encoder layers, decoder layers, width, width of the feed-forward layers -> name in Firefox's list of models
_ARCHITECTURES = {
    (6, 2, 256, 1536): "tiny",
    (6, 4, 384, 1536): "base-memory",
    (6, 2, 512, 2048): "base",
}

MARIAN_CARD = ExportFormat(
    "Marian",
    """
```bash
marian-decoder -c FOLDER/model.npz.decoder.yml < input > output
```

The decoder works on raw text: the SentencePiece vocabulary is a part of the folder, and `decoder.yml` has the search
settings. `lex.*.bin` is a lexical shortlist (`--shortlist`).
""",
    tags=("marian",),
)
MARIAN_PROCESSED_CARD = ExportFormat(
    "Marian",
    """
```bash
marian-decoder -c FOLDER/model.npz.decoder.yml < processed > output
```

The decoder does not work on raw text. The source has to be normalised, tokenised or lowercased first, as `text.json`
says, and the output has the same form. The SentencePiece vocabulary is a part of the folder, and `decoder.yml` has the
search settings. `lex.*.bin` is a lexical shortlist (`--shortlist`).
""",
    tags=("marian",),
)
BERGAMOT_CARD = ExportFormat(
    "Bergamot, the engine of Firefox Translations",
    """
The files have the names that Firefox Translations and `bergamot-translator` expect: model in int8 with intgemm, lexical
shortlist and SentencePiece vocabulary. `config.yml` is the configuration of `bergamot-translator`.
""",
    tags=("marian", "bergamot", "firefox-translations"),
)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Source:
    """A checkpoint with its vocabularies in Marian's order."""

    folder: Path
    model: Transformer
    codec: TextCodec
    source: MarianVocabulary
    target: MarianVocabulary

    @property
    def is_joint(self) -> bool:
        """Whether both sides have the same vocabulary file."""
        return self.source.model == self.target.model

    def marian_model(self) -> MarianModel:
        weights = {name: each.detach().float().cpu().numpy() for name, each in self.model.named_parameters()}
        rows = TokenRows(self.source.rows, self.target.rows)
        options = model_options(self.model.config, (len(self.source), len(self.target)))
        return MarianModel(to_marian(weights, self.model.config, rows), options)


def _open(checkpoint: Path) -> _Source:
    """Open a checkpoint whose model and tokenizers Marian supports.

    Raises:
        UserError: if Marian does not support it.
    """
    folder = resolve_checkpoint(checkpoint)
    log_opened(checkpoint, folder)
    model, codec = load_model(folder), TextCodec.load(folder)
    if isinstance(model, NATransformer):
        raise UserError(f"Marian has no decoder for a {model.nat.family!r} model, which is non-autoregressive")
    try:
        check_config(model.config)
        sides = [
            (codec.tokenizers.source, codec.src_dictionary.symbols),
            (codec.tokenizers.target, codec.tgt_dictionary.symbols),
        ]
        source, target = (marian_vocabulary(tokenizer, symbols) for tokenizer, symbols in sides)
        if model.config.share_all_embeddings and len(source) != len(target):
            size = max(len(source), len(target))
            source, target = (marian_vocabulary(tokenizer, symbols, size) for tokenizer, symbols in sides)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    return _Source(folder, model, codec, source, target)


def export_marian(
    checkpoint: Path, folder: Path, *, decode: Decode, data: Path | None = None, card: str | None = None
) -> None:
    """Write the model of a checkpoint as a folder for Marian. An error leaves no partial folder.

    Args:
        checkpoint: a checkpoint folder, a pointer file or a run.
        folder: the new folder.
        decode: search settings of `decoder.yml`.
        data: data-bin from whose training split the shortlist is learnt (default: that of the checkpoint's pipeline;
            without one there is no shortlist).
        card: model card; None for none.

    Raises:
        UserError: if the folder exists, Marian has no such model, or the data-bin has another vocabulary.
    """
    check_new(folder)
    opened = _open(checkpoint)
    model, data_bin = opened.marian_model(), _data_bin(opened, data)
    names = [VOCABULARY_FILE] * 2 if opened.is_joint else list(VOCABULARY_FILES)
    companions = opened.codec.companions(opened.folder)
    with described_folder(folder, describe_model(opened.model), companions, card=card) as aside:
        write_npz(aside / MODEL_FILE, model)
        options = decoder_options(MODEL_FILE, names, beam=decode.beam, lenpen=decode.lenpen)
        _write_yaml(aside / DECODER_FILE, options)
        _write_vocabularies(aside, names, opened)
        if data_bin is None:
            _logger.warning("no lexical shortlist: the checkpoint is not in the runs of a pipeline; name a data-bin")
        else:
            table = _learn_table(opened, data_bin)
            shortlist.write_table(aside / "lex.s2t", table, opened.source.pieces, opened.target.pieces)
            name = f"lex.{shortlist.FIRST}.{shortlist.BEST}.s2t.bin"
            shortlist.write_binary(aside / name, table, len(opened.source))


def export_bergamot(
    checkpoint: Path, folder: Path, *, decode: Decode, data: Path | None = None, card: str | None = None
) -> None:
    """Write the model of a checkpoint as a folder for Bergamot. An error leaves no partial folder.

    Args:
        checkpoint, folder: as in `export_marian`.
        decode: search settings of `config.yml`.
        data: data-bin from whose training split the shortlist is learnt, and whose validation sources are translated
            for the factors of activations (default: that of the checkpoint's pipeline).
        card: model card; None for none.

    Raises:
        UserError: in the cases of `export_marian`, or if there is no data-bin, or int8 products need other widths.
    """
    check_new(folder)
    opened = _open(checkpoint)
    _check_bergamot(opened)
    data_bin = _data_bin(opened, data)
    if data_bin is None:
        raise UserError(
            f"{opened.folder}: not in the runs of a pipeline: Bergamot's int8 models need a sample of text and a "
            "lexical shortlist; name a data-bin with --data"
        )
    model = opened.marian_model()
    alphas = activation_factors(opened.model, _sample(opened, data_bin))
    pair = "".join(opened.codec.text.direction.sides)
    names = [f"vocab.{pair}.spm"] * 2 if opened.is_joint else [f"srcvocab.{pair}.spm", f"trgvocab.{pair}.spm"]
    model_name = f"model.{pair}.intgemm.alphas.bin"
    lexicon = f"lex.{shortlist.FIRST}.{shortlist.BEST}.{pair}.s2t.bin"
    companions = opened.codec.companions(opened.folder)
    with described_folder(folder, describe_model(opened.model), companions, card=card) as aside:
        write_binary(aside / model_name, model, alphas)
        _write_vocabularies(aside, names, opened)
        shortlist.write_binary(aside / lexicon, _learn_table(opened, data_bin), len(opened.source))
        _write_yaml(aside / "config.yml", _engine_options(model_name, names, lexicon, decode))
        write_json(aside / "metadata.json", _metadata(opened, model, aside / model_name))


def _write_yaml(path: Path, values: Mapping[str, object]) -> None:
    write_text(path, yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True))


def _write_vocabularies(folder: Path, names: Sequence[str], opened: _Source) -> None:
    for name, vocabulary in zip(names, (opened.source, opened.target), strict=True):
        (folder / name).write_bytes(vocabulary.model)


# ---------------------------------------------------------------------------------------------------------------- data


def _data_bin(opened: _Source, data: Path | None) -> DataBin | None:
    """Return the given data-bin, or that of the pipeline in whose runs the checkpoint is; None if it is in none.

    Raises:
        UserError: if the data-bin has another vocabulary than the checkpoint.
    """
    direction = opened.codec.text.direction
    if data is None:
        found = [parent / "prepare" / "data-bin" for parent in opened.folder.absolute().parents]
        data = next((path for path in found if path.is_dir()), None)
        if data is None:
            return None
    elif (data / "data-bin").is_dir():
        data = data / "data-bin"
    data_bin = DataBin.open(data, *direction.sides)
    check_vocabulary(opened.folder, data, direction)
    return data_bin


def _learn_table(opened: _Source, data_bin: DataBin) -> shortlist.LexicalTable:
    split = data_bin.split("train", parallel=True)
    assert split.target is not None
    return shortlist.learn_table(split.source, split.target, opened.source.rows, opened.target.rows)


def _sample(opened: _Source, data_bin: DataBin) -> list[NDArray[np.integer]]:
    """Return the first validation sources, of at most as many tokens as the model has positions."""
    sources = data_bin.split("valid").source
    longest = opened.model.config.max_source_positions
    return [cut_source(sources[number], longest) for number in range(min(len(sources), _SAMPLE))]


# ------------------------------------------------------------------------------------------------------------ Bergamot


def _check_bergamot(opened: _Source) -> None:
    """Check that the engine can compute the model with int8 products.

    Raises:
        UserError: if it cannot.
    """
    config, text = opened.model.config, opened.codec.text.text
    if text.moses or text.lowercase or text.normalize:
        raise UserError(
            f"{opened.folder}: its text is normalised, tokenised or lowercased before the tokenizer "
            "('prepare.text'), which Bergamot cannot do"
        )
    for name in ("encoder_embed_dim", "encoder_ffn_embed_dim"):
        if getattr(config, name) % _INNER:
            raise UserError(f"model.{name} is {getattr(config, name)}: int8 products need a multiple of {_INNER}")
    if config.decoder_ffn_embed_dim != config.encoder_ffn_embed_dim:
        raise UserError("Bergamot needs feed-forward layers of the same width in encoder and decoder")
    if output_name(opened.model) == "decoder_ff_logit_out_Wt":
        raise UserError("Bergamot's int8 models share the output projection with the embeddings of the target")


def _engine_options(
    model: str, vocabularies: Sequence[str], lexicon: str, decode: Decode
) -> dict[str, Any]:  # fmt: skip
    """Return the options of the engine (`config.yml`), as in Firefox.

    `skip-cost` leaves out the softmax: sums of logits order the hypotheses of a beam in another way than sums of
    log-probabilities. So it is set for greedy search only.
    """
    return {
        "relative-paths": True,
        "models": [model],
        "vocabs": list(vocabularies),
        "shortlist": [lexicon, False],
        "beam-size": decode.beam,
        "normalize": decode.lenpen,
        "word-penalty": 0,
        "max-length-break": 128,
        "mini-batch-words": 1024,
        "workspace": 128,
        "max-length-factor": 2.0,
        "skip-cost": decode.beam == 1,
        "cpu-threads": 0,
        "quiet": True,
        "quiet-translation": True,
        "gemm-precision": "int8shiftAlphaAll",
    }


def _metadata(opened: _Source, model: MarianModel, path: Path) -> dict[str, Any]:
    """Return the record of a model in Firefox's list."""
    config = opened.model.config
    shape = (config.encoder_layers, config.decoder_layers, config.encoder_embed_dim, config.encoder_ffn_embed_dim)
    source, target = opened.codec.text.direction.sides
    return {
        "architecture": _ARCHITECTURES.get(shape, "custom"),
        "byteSize": path.stat().st_size,
        "hash": file_sha256(path),
        "modelConfig": model.options,
        "modelStatistics": _statistics(model),
        "sourceLanguage": source,
        "targetLanguage": target,
        "version": "1.0",
    }


def _statistics(model: MarianModel) -> dict[str, int]:
    """Return numbers of parameters and bytes of the parts of a model."""

    def part(prefix: str) -> tuple[int, int]:
        chosen = {name: each for name, each in model.parameters.items() if _part_of(name) == prefix}
        size = sum(each.size * (1 if is_matrix(name) else 4) for name, each in chosen.items())
        return sum(each.size for each in chosen.values()), size

    (encoder, encoder_bytes), (decoder, decoder_bytes), (embeddings, embeddings_bytes) = map(
        part, ("encoder", "decoder", "embeddings")
    )
    return {
        "decoder_bytes": decoder_bytes,
        "decoder_parameters": decoder,
        "embeddings_bytes": embeddings_bytes,
        "encoder_bytes": encoder_bytes,
        "encoder_parameters": encoder,
        "parameters": encoder + decoder + embeddings,
    }


def _part_of(name: str) -> str:
    return "embeddings" if name.endswith("Wemb") else name.partition("_")[0]
