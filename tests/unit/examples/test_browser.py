"""Tests of the page in `examples/browser`: its translations in headless Chromium are those of kdmt.

They need Chromium, and the npm packages of the page (`npm install` in its folder).
"""

from __future__ import annotations

import html
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
import pytest
import torch
from small_transformers import POST_NORM

from kdmt.config import Decode, Text
from kdmt.config import Tokenizer as TokenizerSettings
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.text import TextProcessor
from kdmt.corpus.tokenizer import train_tokenizer
from kdmt.corpus.vocabulary import Dictionary
from kdmt.decode.engines.translator import Translator
from kdmt.files import write_json
from kdmt.interop.onnx_export import export_checkpoint
from kdmt.languages import Direction
from kdmt.models.architecture import NATConfig, TransformerConfig
from kdmt.models.build import build_nonautoregressive, build_transformer
from kdmt.models.checkpoint import save_checkpoint
from kdmt.models.transformer import Transformer

EXAMPLE = Path(__file__).parents[3] / "examples" / "browser"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WORDS = ["walking", "talked", "walk", "house", "houses", "red", "blue", "streets", "street", "Äpfel", "1999", "42"]
TEXT = ["walked the red houses", "", "  Two   streets ", "Äpfel 漢 red", "<s> blue </s>", "42 houses 1949"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
    pytest.mark.skipif(
        not (EXAMPLE / "node_modules").is_dir(), reason="the npm packages are not installed: npm install"
    ),
]


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """Return the folder and the address of a server with the page."""
    folder = tmp_path / "site"
    folder.mkdir()
    for path in EXAMPLE.iterdir():
        (folder / path.name).symlink_to(path)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def write_text_processing(
    folder: Path, *, byte_fallback: bool, algorithm: Literal["unigram", "bpe"] = "unigram"
) -> TextCodec:
    folder.mkdir()
    rng, direction, corpus = np.random.default_rng(1), Direction("en", "de"), folder / "corpus.txt"
    corpus.write_text("\n".join(" ".join(rng.choice(WORDS, 6)) for _ in range(200)), encoding="utf-8")
    settings = TokenizerSettings(
        model=algorithm,
        vocab_size=340 if byte_fallback else 80,
        hard_vocab_limit=False,
        joint=True,
        byte_fallback=byte_fallback,
    )
    tokenizers = train_tokenizer(settings, (corpus, corpus), folder / "tokenizer", direction)
    text = TextProcessor(Text(lowercase=not byte_fallback), "en", "de", "NFC")
    write_json(folder / "text.json", text.to_dict())
    dictionary = Dictionary.from_vocabulary(tokenizers.source.symbols[4:], {})
    for language in direction.sides:
        dictionary.save(folder / f"dict.{language}.txt")
    return TextCodec.load(folder)


def make_model(kind: str, size: int) -> Transformer:
    torch.manual_seed(1)
    config = TransformerConfig(**{**vars(POST_NORM), "share_all_embeddings": True})
    if kind == "ctc":
        nat = NATConfig(family="ctc", upsample=2)
        model: Transformer = build_nonautoregressive(config, nat, src_vocab_size=size, tgt_vocab_size=size)
    else:
        decoder = {"decoder": "ssru", "layout": "marian"} if kind == "ssru" else {}
        config = TransformerConfig(**{**vars(config), **decoder})
        model = build_transformer(config, src_vocab_size=size, tgt_vocab_size=size)
    with torch.no_grad():
        model.output_proj.weight.normal_()
    return model.eval()


def open_page(address: str, text: str, profile: Path) -> str:
    """Return the HTML of the page after it has translated a text."""
    assert CHROMIUM is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    options += ["--virtual-time-budget=120000", "--dump-dom", f"{address}/index.html?text={quote(text)}"]
    done = subprocess.run([CHROMIUM, *options], capture_output=True, text=True, timeout=300, check=True)
    return done.stdout


def check_page(site: tuple[Path, str], tmp_path: Path, codec: TextCodec, kind: str, quantization: str) -> None:
    """Check that the page translates a text as kdmt does with the same model."""
    folder, address = site
    save_checkpoint(
        tmp_path / "checkpoint",
        make_model(kind, len(codec.src_dictionary)),
        companions=codec.companions(tmp_path / "text"),
    )
    export_checkpoint(tmp_path / "checkpoint", folder / "model", quantization=quantization)
    expected = Translator.load(folder / "model", threads=1).translate(TEXT, Decode(beam=1))
    page = open_page(address, "\n".join(TEXT), tmp_path / "profile")
    assert "Translated in" in page, page
    found = re.search(r"<output[^>]*>(.*?)</output>", page, re.DOTALL)
    assert found is not None
    assert html.unescape(found[1]).split("\n") == expected
    assert any(expected)


@pytest.mark.parametrize("quantization", ["float32", "int8"])
@pytest.mark.parametrize("kind", ["self-attention", "ssru", "ctc"])
def test_page_translates_as_kdmt_does(site: tuple[Path, str], tmp_path: Path, kind: str, quantization: str) -> None:
    codec = write_text_processing(tmp_path / "text", byte_fallback=kind == "ssru")
    check_page(site, tmp_path, codec, kind, quantization)


def test_page_translates_as_kdmt_does_with_bpe_and_pieces_of_digits(site: tuple[Path, str], tmp_path: Path) -> None:
    codec = write_text_processing(tmp_path / "text", byte_fallback=False, algorithm="bpe")
    assert any(symbol.isdigit() for symbol in codec.tgt_dictionary.symbols)
    check_page(site, tmp_path, codec, "self-attention", "float32")


def test_page_reports_a_missing_model(site: tuple[Path, str], tmp_path: Path) -> None:
    assert "Failed: model/model.json: 404" in open_page(site[1], "a", tmp_path / "profile")


def test_page_can_translate_again_after_an_error(site: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = site
    (folder / "translator.js").unlink()
    (folder / "translator.js").write_text(
        'const translate = async () => { throw new Error("broken"); };\n'
        "export const Translator = { load: async () => ({ translate }) };\n"
    )
    page = open_page(address, "a", tmp_path / "profile")
    assert "Failed: broken" in page
    assert "<button>" in page  # without the attribute `disabled`
