"""Folders in the form of Hugging Face's Transformers, as a teacher."""

from __future__ import annotations

import json
import random
from pathlib import Path

from fuzz.case import Case, Command, stage
from fuzz.damage import ESCAPES, PWNED
from fuzz.formats import damage_any

LIBRARIES = (
    "transformers.models.marian.modeling_marian",
    "transformers.models.marian.tokenization_marian",
    "transformers.models.m2m_100.modeling_m2m_100",
    "transformers.models.m2m_100.tokenization_m2m_100",
    "transformers.models.auto.tokenization_auto",
)
CODES = {"marian": "", "m2m100": ", source_code: en, target_code: de"}


def damage(rng: random.Random, folder: Path) -> Case:
    name = rng.choice(sorted(CODES))
    saved = folder / "hub" / name
    if rng.random() < 0.25:
        what = _code(rng, saved)
    else:
        what = damage_any(rng, rng.choice(sorted(path for path in saved.iterdir() if path.is_file())))
    engine = rng.choice(["auto", "torch"])
    decode = "distill.decode={beam: 1, max_len_a: 0.0, max_len_b: 4}"
    sets = (f"distill.teachers=[{{huggingface: hub/{name}{CODES[name]}}}]", decode, f"distill.engine={engine}")
    command = stage("distill", *sets, "prepare.tokenizer.vocab_size=32")
    return Case(f"hub/{name}/{what}", (Command(command.arguments, changes=command.changes),))


def _code(rng: random.Random, saved: Path) -> str:
    """Change fields that name code, other formats or other models."""
    file, fields = rng.choice(
        [
            ("config.json", {"auto_map": {"AutoConfig": "evil.Config", "AutoModelForSeq2SeqLM": "evil.Model"}}),
            (
                "config.json",
                {"model_type": rng.choice(["t5", "bert", "none", "", "../evil", ESCAPES, "marian", "m2m_100"])},
            ),
            ("config.json", {"quantization_config": {"quant_method": rng.choice(["bitsandbytes", "evil", "gptq"])}}),
            ("config.json", {"attn_implementation": "evil/kernel", "_attn_implementation": "evil/kernel:x"}),
            ("config.json", {"vocab_size": rng.choice([0, -1, 10**12, 1, 7])}),
            ("config.json", {"d_model": rng.choice([0, -16, 10**9, 15]), "encoder_layers": rng.choice([0, 2, 10**6])}),
            ("config.json", {"dtype": rng.choice(["float16", "int8", "complex64", "evil"]), "torch_dtype": "evil"}),
            ("config.json", {"decoder_start_token_id": rng.choice([-1, 10**6, None, "0"]), "pad_token_id": 10**9}),
            ("config.json", {"max_position_embeddings": rng.choice([0, 1, 2, 10**12])}),
            ("config.json", {"architectures": rng.choice([[], ["Evil"], None, "MarianMTModel"])}),
            ("tokenizer_config.json", {"tokenizer_class": rng.choice(["EvilTokenizer", "BertTokenizer", "", None])}),
            ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}),
            ("generation_config.json", {"num_beams": 10**9, "max_length": -1, "forced_bos_token_id": 10**9}),
        ]
    )
    (saved / "evil.py").write_text(f"open({PWNED!r}, 'w')\nclass Config: ...\nclass Model: ...\nclass Tokenizer: ...\n")
    path = saved / file
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **fields}))
    return f"{file}: {json.dumps(fields)}"
