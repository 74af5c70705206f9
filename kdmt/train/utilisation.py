"""Model FLOPs utilisation of a GPU in training (Chowdhery et al. 2022, appendix B).

The multiplications and additions of the matrix products of all passes over a batch are counted, for real tokens: the
student's passes, forward and backward; its first pass with glancing; and the passes of teachers. Padding and what is
computed again in the backward pass (activation checkpointing, logits) are not counted, nor are samples that a student
draws (`on_policy`) and attention maps that are computed for a loss.

The length of a sentence is taken to be the mean of its batch, and drafts have their expected lengths, so that the host
reads nothing from the device.

Shapes: B batch, D model width, V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import nn

from kdmt.models.architecture import TransformerConfig
from kdmt.models.edit_heads import MOST_INSERTED
from kdmt.models.nonautoregressive import NATransformer
from kdmt.models.transformer import Transformer
from kdmt.objectives.aligned import AlignedPositions
from kdmt.objectives.denoising import DenoisingLoss
from kdmt.objectives.distillation import WordDivergence
from kdmt.objectives.edited import Deletions, Drafts, Placeholders
from kdmt.objectives.masked_language import MaskedLanguage
from kdmt.objectives.objective import Objective, Pass, Prepared, Term
from kdmt.objectives.online import PeerLoss
from kdmt.objectives.positional import CRF, DeepSupervision, Glancing, Refinement, SomeHidden

_KEPT_IN_DRAFTS = 0.35  # share of the words: none in 0.3 of the drafts, half on average in the others

# Dense bf16 TFLOP/s from the data sheets of the manufacturers, by words in the name that the driver reports
PEAK_TFLOPS = {
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "A40": 149.7,
    "A10": 125.0,
    "L40S": 362.0,
    "L4": 121.0,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
}


def peak_flops(device_name: str) -> float | None:
    """Return the peak FLOP/s of a GPU in bf16, None for one that is not in the table."""
    return next((1e12 * tflops for name, tflops in PEAK_TFLOPS.items() if re.search(rf"\b{name}\b", device_name)), None)


@dataclass(frozen=True)
class Text:
    """Sizes of the sentences of a batch, without padding."""

    num_sentences: int
    num_tokens: float

    @property
    def length(self) -> float:
        """Mean length of a sentence."""
        return self.num_tokens / max(self.num_sentences, 1)


def encoder_products(config: TransformerConfig, src: Text) -> float:
    """Return the number of products of two numbers in one pass of the encoder."""
    enc = config.encoder_embed_dim
    per_token = 4 * enc * enc + 2 * enc * config.encoder_ffn_embed_dim + 2 * src.length * enc
    return config.encoder_layers * src.num_tokens * per_token


def decoder_products(config: TransformerConfig, tgt: Text, src: Text) -> float:
    """Return the number of products of two numbers in one pass of the decoder, without the output projection."""
    enc, dec = config.encoder_embed_dim, config.decoder_embed_dim
    own = 2 * dec * dec if config.decoder == "ssru" else 4 * dec * dec + 2 * tgt.length * dec  # earlier positions
    per_token = (
        own
        + 2 * dec * dec + 2 * src.length * dec  # cross-attention: queries, output, scores
        + 2 * dec * config.decoder_ffn_embed_dim
    )  # fmt: skip
    return config.decoder_layers * (tgt.num_tokens * per_token + src.num_tokens * 2 * enc * dec)  # keys, values


@dataclass
class Products:
    """Products of two numbers over a batch: of passes with a backward pass, and of those without."""

    prepared: Prepared
    trained: float = 0.0
    forward: float = 0.0
    src: Text = field(init=False)
    tgt: Text = field(init=False)

    def __post_init__(self) -> None:
        batch = self.prepared.batch
        sentences = len(batch.index_B)
        self.src, self.tgt = Text(sentences, batch.num_src_tokens), Text(sentences, batch.num_tgt_tokens)

    @property
    def flops(self) -> float:
        """Floating-point operations: 2 for each product, and twice as many in the backward pass."""
        return 6.0 * self.trained + 2.0 * self.forward

    def add(self, products: float, *, trained: bool = True) -> None:
        if trained:
            self.trained += products
        else:
            self.forward += products

    def encode(self, model: Transformer, *, trained: bool = True) -> None:
        self.add(encoder_products(model.config, framed(model, self.src)), trained=trained)

    def decode(self, model: Transformer, tgt: Text, *, trained: bool = True) -> None:
        self.add(decoder_products(model.config, tgt, framed(model, self.src)), trained=trained)
        if isinstance(model, NATransformer) and model.nat.dslp:  # the predictions of the lower layers and their reading
            lower, dim = model.config.decoder_layers - 1, model.config.decoder_embed_dim
            self.project(model, lower * tgt.num_tokens, trained=False)
            self.add(lower * tgt.num_tokens * 2 * dim * dim, trained=trained)

    def project(self, model: Transformer, num_tokens: float, *, trained: bool = True) -> None:
        """Add the output projection."""
        self.add(num_tokens * model.config.decoder_embed_dim * model.tgt_vocab_size, trained=trained)


def framed(model: Transformer, text: Text) -> Text:
    """Return the sizes with the <s> that some models put before a sentence."""
    frame = model.nat.frame if isinstance(model, NATransformer) else 0
    return Text(text.num_sentences, text.num_tokens + frame * text.num_sentences)


def training_flops(objective: Objective, prepared: Prepared) -> float:
    """Return the number of floating-point operations of an objective over a batch, forward and backward."""
    products = Products(prepared)
    _add_student(products, objective)
    _add_teachers(products, objective)
    for term in objective.terms:
        _add_term(products, objective, term)
    return products.flops


def _add_student(products: Products, objective: Objective) -> None:
    model, view = objective.model, objective.view
    products.encode(model)
    if isinstance(view, AlignedPositions):
        assert isinstance(model, NATransformer)
        _add_aligned(products, view, model)
    elif isinstance(view, Drafts):
        assert isinstance(model, NATransformer)
        _add_drafts(products, objective, view, model)
    else:
        _add_positional(products, objective)


def _add_positional(products: Products, objective: Objective) -> None:
    """Add passes with a position for each target token."""
    model, view, num_outputs = objective.model, objective.view, float(products.prepared.num_loss_tokens)
    tgt = framed(model, products.tgt)
    if isinstance(view, Glancing) or (isinstance(view, SomeHidden) and view.correction):
        products.encode(model, trained=False)
        products.decode(model, tgt, trained=False)
        words = products.tgt.num_tokens - products.tgt.num_sentences
        products.project(model, words, trained=False)
    if isinstance(view, Glancing):
        num_outputs *= 1.0 - view.ratio  # at least: a word that the first pass predicts is not shown in its place
    for number in range(view.num_passes):
        products.decode(model, tgt)
        products.project(model, num_outputs)
        if isinstance(view, Refinement) and number:
            products.project(model, num_outputs, trained=False)  # the input of this pass


def _add_aligned(products: Products, view: AlignedPositions, model: NATransformer) -> None:
    """Add passes with the decoder's own length, a multiple of the source's."""
    own = Text(products.src.num_sentences, products.src.num_tokens * model.nat.upsample)
    if view.glancing is not None:
        products.decode(model, own, trained=False)
        products.project(model, 2 * own.num_tokens, trained=False)  # of the alignment, and of the best symbols
        products.add(_link_products(model, own), trained=False)
    products.decode(model, own)
    if view.mixing:  # alignments of the lower layers
        products.project(model, (model.config.decoder_layers - 1) * own.num_tokens, trained=False)
    readings = model.config.decoder_layers if view.deep else 1
    products.project(model, readings * own.num_tokens)
    products.add(readings * _link_products(model, own))


def _link_products(model: NATransformer, own: Text) -> float:
    """Return the products of the transitions of a directed acyclic decoder."""
    if model.nat.family != "dag":
        return 0.0
    dim = model.config.decoder_embed_dim
    return own.num_tokens * (4 * dim * dim + own.length * dim + 2 * dim * model.links.heads)


def _add_drafts(products: Products, objective: Objective, view: Drafts, model: NATransformer) -> None:
    """Add passes over drafts, which have their expected lengths: none of the words, or a number drawn evenly."""
    sentences, words = products.tgt.num_sentences, products.tgt.num_tokens - products.tgt.num_sentences
    kept = words * _KEPT_IN_DRAFTS
    draft, whole = Text(sentences, kept + 2 * sentences), Text(sentences, words + 2 * sentences)
    layers, dim = model.config.decoder_layers if view.deep else 1, model.config.decoder_embed_dim
    if not view.opens:  # insertion
        slots = kept + sentences
        products.decode(model, draft)
        products.add(layers * slots * 2 * dim * dim)
        products.project(model, layers * slots)
        return
    products.decode(model, whole)
    products.project(model, layers * (words - kept))
    if any(isinstance(term, Placeholders) for term in objective.terms):
        products.decode(model, draft)
        products.add((kept + sentences) * 2 * dim * (MOST_INSERTED + 1))
    if any(isinstance(term, Deletions) for term in objective.terms):
        products.decode(model, whole)
        products.add(whole.num_tokens * 2 * dim)
        products.project(model, words - kept, trained=False)


def _add_teachers(products: Products, objective: Objective) -> None:
    """Add passes of the teachers, of which some learn together with the student."""
    if not any(term.needs_teachers for term in _terms(objective)):
        return
    reads_targets = not isinstance(objective.view, AlignedPositions | Drafts)
    learning = objective.teachers.trained()
    for teacher in objective.teachers.models:
        assert isinstance(teacher, Transformer)
        trained = any(teacher is each for each in learning)
        products.encode(teacher, trained=trained)
        if reads_targets:
            products.decode(teacher, products.tgt, trained=trained)


def _add_term(products: Products, objective: Objective, term: nn.Module) -> None:
    """Add what a term computes in addition to the passes and the student's output projection."""
    model, num_outputs = objective.model, products.prepared.num_loss_tokens
    if isinstance(term, PeerLoss):
        own = objective.teachers.models[term.number]
        assert isinstance(own, Transformer)
        products.project(own, num_outputs)
        others = [*(each for each in objective.teachers.models if each is not own), model]
        if isinstance(term.term, WordDivergence):
            _add_distributions(products, others, num_outputs)
    elif isinstance(term, WordDivergence):
        if term.needs_teachers and term.settings.source == "teacher":
            _add_distributions(products, objective.teachers.models, num_outputs)
    elif isinstance(term, DeepSupervision):
        products.project(model, (model.config.decoder_layers - 1) * num_outputs)
    elif isinstance(term, CRF):
        assert isinstance(model, NATransformer)
        products.project(model, num_outputs, trained=False)  # choice of the candidates
        products.project(model, num_outputs)  # their probabilities
        products.add(num_outputs * min(term.num_candidates, model.tgt_vocab_size) ** 2 * model.nat.crf_rank)
    elif isinstance(term, MaskedLanguage):
        for masked in products.prepared.masked:
            rows, length = masked.tokens_BS.shape
            products.add(encoder_products(model.config, Text(rows, rows * length)))
            products.add(len(masked.index_M) * model.config.encoder_embed_dim * model.src_vocab_size)
    elif isinstance(term, DenoisingLoss):
        text = products.prepared.batch.extras.denoising
        assert text is not None
        other = Products(Prepared.of(text))
        other.encode(model)
        other.decode(model, other.tgt)
        other.project(model, other.tgt.num_tokens)
        products.add(other.trained)


def _add_distributions(products: Products, teachers: Iterable[nn.Module], num_tokens: float) -> None:
    for teacher in teachers:
        assert isinstance(teacher, Transformer)
        products.project(teacher, num_tokens, trained=False)


def _terms(objective: Objective) -> list[Term[Pass]]:
    return list(objective.terms)  # type: ignore[arg-type]  # ModuleList forgets the type of its modules
