"""Small Llama and T5 models with random weights, saved by Transformers with their tokenizers and converted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_pipeline import WORDS, make_pairs

TAGS = ("<2de>", "<2fr>")


def save_generator(folder: Path, seed: int = 9) -> Any:
    """Save a Llama model and its CTranslate2 folder `folder/ct2`; return the model and its tokenizer."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["<unk>", "<s>", "</s>", "<end>", "Translate", ":", "=", *WORDS, *WORDS.values()]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<s>", "</s>", "<end>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.5,
        tie_word_embeddings=False,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    _save(model, fast, folder, ("tokenizer.json",))
    return model, fast


def save_t5(folder: Path, seed: int = 0) -> Any:
    """Save a T5 model with the tags of MADLAD and its CTranslate2 folder `folder/ct2`; return the model."""
    import sentencepiece
    import transformers

    folder.mkdir(parents=True)
    _train(folder / "spiece.model")
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    torch.manual_seed(seed)
    config = transformers.T5Config(
        vocab_size=len(pieces),
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=2,
        pad_token_id=pieces.pad_id(),
        eos_token_id=pieces.eos_id(),
        decoder_start_token_id=pieces.pad_id(),
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        initializer_factor=3.0,
        dropout_rate=0.0,
    )
    model = transformers.T5ForConditionalGeneration(config).eval()
    vocab = [(pieces.id_to_piece(index), pieces.get_score(index)) for index in range(len(pieces))]
    tokenizer = transformers.T5Tokenizer(vocab=vocab, extra_ids=0, additional_special_tokens=[])
    _save(model, tokenizer, folder, ("spiece.model",))
    return model


def _train(path: Path) -> None:
    """Train a SentencePiece model with the tags and the ids of T5."""
    import sentencepiece

    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([" ".join(pair) for pair in make_pairs(400, seed=2)]),
            model_writer=file,
            vocab_size=60,
            model_type="unigram",
            hard_vocab_limit=False,
            user_defined_symbols=list(TAGS),
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            minloglevel=2,
        )


def _save(model: Any, tokenizer: Any, folder: Path, files: tuple[str, ...]) -> None:
    from ctranslate2.converters import TransformersConverter

    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    TransformersConverter(str(folder), copy_files=list(files)).convert(str(folder / "ct2"))
