"""Models of the opposite direction: checkpoints, exported models, Hugging Face and text models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_models import save_model
from slow_parameters import some_of
from text_models import save_t5
from tiny_pipeline import kdmt, read_lines, settings, to_yaml, write_lines
from training_runs import TINY

from kdmt.config import BackTranslation, Decode
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.prepared import PreparedCorpus
from kdmt.decode.engines.ctranslate2 import CTranslate2Engine
from kdmt.decode.engines.translator import Translator
from kdmt.distill.chosen_teacher import ChosenTeacher
from kdmt.distill.reverse_teachers import ReverseCheckpoint, choose_reverse_teacher
from kdmt.distill.target_text import ReversedCorpus, TargetText
from kdmt.errors import UserError
from kdmt.interop.huggingface import ForeignTokenizer
from kdmt.languages import Direction
from kdmt.models.checkpoint_folder import resolve_checkpoint

pytestmark = pytest.mark.usefixtures("reverse")
MADE = TINY / "back_translated"
RUN = "runs/reverse/teacher"
DECODE = {"beam": 2, "max_len_a": 1.0, "max_len_b": 8}


def choose(checkpoint: Any = RUN, **changes: Any) -> ChosenTeacher:
    section = BackTranslation.model_validate({"checkpoint": checkpoint, **changes})
    corpus = ReversedCorpus.of(PreparedCorpus(TINY / "prepare", Direction("en", "de"), (True, True)))
    return choose_reverse_teacher(section.as_distill(), TargetText(corpus, file=Path("text/test.de")))


def refusal(checkpoint: Any = RUN, **changes: Any) -> str:
    with pytest.raises(UserError) as error:
        choose(checkpoint, **changes).check(None)
    return str(error.value)


def copy_of_checkpoint() -> Path:
    return Path(shutil.copytree(resolve_checkpoint(Path(RUN)), "copy"))


def test_a_checkpoint_reads_finished_text_with_its_own_vocabulary() -> None:
    teacher = choose()
    assert isinstance(teacher, ReverseCheckpoint)
    assert teacher.engine == "ctranslate2"
    torch = choose(engine="torch")
    assert isinstance(torch, ReverseCheckpoint)
    assert torch.engine == "torch"
    teacher.check(None)
    own = TextCodec.load(resolve_checkpoint(Path(RUN)))
    text, lines = teacher.opens_text()(), read_lines(Path("text/test.de"))
    ids = [each.tolist() for each in text.sentences(np.arange(len(lines)))]
    assert ids == [each.tolist() for each in own.encode_raw_source(lines)]
    english = read_lines(Path("text/test.en"))
    tokens = [each[:-1] for each in own.encode_target(english)]
    assert teacher.to_words()(np.concatenate(tokens), np.array([*map(len, tokens)], np.int32)) == english
    assert teacher.vocab_size == len(own.tgt_dictionary)


def test_blocks_depend_on_the_files_of_the_model() -> None:
    folder = copy_of_checkpoint()

    def made_from() -> dict[str, object]:
        teacher = choose(str(folder))
        return teacher.made_from({"distill.decode.beam": 2, "distill.failures.empty": "drop"}, teacher.inputs())

    before = made_from()
    assert before["distill.decode.beam"] == 2
    assert "distill.failures.empty" not in before
    path = folder / "text.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(values, indent=3), encoding="utf-8")
    after = made_from()
    assert {key for key in before if before[key] != after[key]} == {"teacher's text.json"}


def test_a_model_of_another_direction_is_refused() -> None:
    path = copy_of_checkpoint() / "text.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    values |= {"source_lang": "en", "target_lang": "de"}
    path.write_text(json.dumps(values), encoding="utf-8")
    assert refusal("copy") == "back_translation.checkpoint: copy translates en to de, not de to en"


def test_a_model_with_another_vocabulary_is_refused() -> None:
    path = copy_of_checkpoint() / "dict.de.txt"
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:-8]), encoding="utf-8")
    assert "dict.de.txt: has" in refusal("copy")
    assert refusal("copy").startswith("back_translation.checkpoint: ")


@pytest.mark.parametrize(
    ("checkpoint", "changes", "message"),
    [
        ("nowhere", {}, "back_translation.checkpoint: nowhere: neither a checkpoint"),
        ("exported", {"engine": "torch"}, "back_translation.engine: exported is a model for CTranslate2"),
        ({"huggingface": "text"}, {}, "back_translation.checkpoint: text"),
        ({"ctranslate2": "text"}, {}, "back_translation.checkpoint.ctranslate2: text has no model.bin"),
    ],
)
def test_what_is_no_model_or_not_for_the_engine_is_refused(checkpoint: Any, changes: Any, message: str) -> None:
    if checkpoint == "exported":
        assert kdmt("export", RUN, "exported", "--to", "ctranslate2").code == 0
    assert refusal(checkpoint, **changes).startswith(message)


def test_a_folder_of_another_converter_is_refused_with_the_form_for_it() -> None:
    Path("opus").mkdir()
    Path("opus/model.bin").write_bytes(b"")
    assert "a model that reads text is {ctranslate2: opus}" in refusal("opus")


def _own(_: Path) -> tuple[Any, Callable[[list[str]], list[str]]]:
    return RUN, lambda lines: Translator.load(MADE / "engine").translate(lines, Decode(**DECODE))


def _exported(folder: Path) -> tuple[Any, Callable[[list[str]], list[str]]]:
    assert kdmt("export", RUN, folder, "--to", "ctranslate2").code == 0
    return str(folder), lambda lines: Translator.load(folder).translate(lines, Decode(**DECODE))


def _huggingface(folder: Path) -> tuple[Any, Callable[[list[str]], list[str]]]:
    pytest.importorskip("transformers")
    save_model("nllb", folder)

    def translate(lines: list[str]) -> list[str]:
        tokenizer = ForeignTokenizer(folder, "nllb", "deu_Latn", "eng_Latn")
        found = CTranslate2Engine(MADE / "engine").decode(tokenizer.encode(lines), Decode(**DECODE))
        tokens = [[token for token in nbest[0].tokens if token != 2] for nbest in found]
        return tokenizer.decode(np.concatenate(tokens), np.array([*map(len, tokens)]))

    return {"huggingface": str(folder), "source_code": "deu_Latn", "target_code": "eng_Latn"}, translate


def _t5(folder: Path) -> tuple[Any, Callable[[list[str]], list[str]]]:
    pytest.importorskip("transformers")
    import sentencepiece
    import torch

    t5 = save_t5(folder)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))

    def translate(lines: list[str]) -> list[str]:
        made = []
        for line in lines:
            ids = torch.tensor([[*pieces.encode(f"<2fr> {line}"), pieces.eos_id()]])
            with torch.no_grad():
                found = t5.generate(ids, max_new_tokens=ids.shape[1] + 8, do_sample=False)[0].tolist()
            made.append(pieces.decode([number for number in found if number > 1]))
        return made

    return {"ctranslate2": str(folder / "ct2"), "source_prefix": "<2fr> "}, translate


@pytest.mark.parametrize("prepare", some_of([_own, _exported, _huggingface, _t5], 2))
def test_text_is_finished_for_the_model_and_processed_after(prepare: Callable[[Path], Any]) -> None:
    checkpoint, translate = prepare(Path("model"))
    write_lines(Path("mono.de"), [f"{line.capitalize()}!" for line in read_lines(Path("text/train.de"))[:20]])
    made = settings() | {"students": {}}
    made["prepare"] |= {"text": {"moses": True, "lowercase": True}, "tokenizer": {"vocab_size": 24}}
    made["prepare"]["monolingual_target"] = [{"path": "mono.de"}]
    made["teacher"]["data"] = [{"set": "raw", "share": 0.5}, {"set": "back_translated", "share": 0.5}]
    decode = DECODE | ({"beam": 1} if prepare is _t5 else {})
    made["back_translation"] = {"checkpoint": checkpoint, "decode": decode, "block_lines": 6, "executor": "inline"}
    Path("tiny.yaml").write_text(to_yaml(made))
    for command in ("prepare", "back-translate"):
        done = kdmt(command, "tiny.yaml")
        assert done.code == 0, done.err
    words, text = read_lines(TINY / "prepare/monolingual.de"), TextCodec.load(TINY / "prepare").text
    assert all(line.endswith(" !") and line == line.lower() for line in words)
    finished = [f"{line.removesuffix(' !')}!" for line in words]
    expected = [" ".join(text.preprocess_source(line).split()) for line in translate(finished)]
    pairs = dict(zip(read_lines(MADE / "distilled.de"), read_lines(MADE / "distilled.en"), strict=True))
    assert len(pairs) > (0 if prepare is _t5 else 5)  # most of its translations are marked as no answer
    wanted = dict(zip(words, expected, strict=True))
    assert {target: wanted[target] for target in pairs} == pairs
    if prepare is not _t5:
        assert all(not wanted[target] for target in wanted.keys() - pairs.keys())
    assert kdmt("back-translate", "tiny.yaml", "--verify").code == 0
    assert "up to date" in kdmt("back-translate", "tiny.yaml").err
