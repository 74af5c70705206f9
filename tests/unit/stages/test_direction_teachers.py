"""Tests of the distill stage with a teacher for each direction: own vocabularies, ensembles, original targets."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_directions
import tiny_pipeline
from chat_server import MODEL as SERVED
from chat_server import PROMPT, ChatServer
from huggingface_models import save_model
from text_models import save_generator, save_t5
from tiny_directions import DIRECTIONS, SIZES
from tiny_pipeline import DECODE, MODEL, TRAIN, WORDS, Finished, kdmt, read_lines, working_in, write_lines

from kdmt.config import Decode
from kdmt.corpus.codec import TextCodec, insert_prefix
from kdmt.corpus.indexed import IndexedDataset
from kdmt.corpus.knowledge_cache import KnowledgeCache
from kdmt.corpus.sentence_lengths import SLACK
from kdmt.decode.engines.ctranslate2 import CTranslate2Engine
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.decode.engines.translator import Translator
from kdmt.distill.teacher_engines import CTranslate2Teacher, TorchTeacher
from kdmt.interop.huggingface import ForeignTokenizer
from kdmt.languages import Direction
from kdmt.models.checkpoint import load_model
from kdmt.models.checkpoint_folder import resolve_checkpoint
from kdmt.types import EOS

pytestmark = pytest.mark.usefixtures("folder")
BILINGUAL = "runs/bilingual/teacher"  # en-de, with a vocabulary of its own
MADE = Path("runs/tiny/distill")
TRAINED = (
    TRAIN
    | {"max_updates": 120, "max_tokens": 600, "lr": 0.02, "warmup_updates": 10}
    | {
        "validate_interval_updates": 60,
        "save_interval_updates": 60,
    }
)


def bilingual() -> dict[str, Any]:
    """Return the document of a pipeline of en-de whose text is lowercased and tokenised by the rules of Moses."""
    document = tiny_pipeline.settings() | {"name": "bilingual", "students": {}}
    document["prepare"] |= {"text": {"lowercase": True, "moses": True}, "tokenizer": {"vocab_size": 24}}
    document["teacher"] = {"model": MODEL, "train": TRAINED}
    return document


def multilingual(teachers: Any, **changes: Any) -> dict[str, Any]:
    """Return the document of a pipeline with three directions."""
    document = tiny_directions.settings() | {"zero_shot": []}
    document["teacher"] = {"model": MODEL, "train": TRAINED}
    document["distill"] |= {"teachers": teachers, "block_size": 15}
    del document["students"]["raw"]
    return document | changes


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a bilingual teacher and the multilingual teacher of a pipeline."""
    folder = tmp_path_factory.mktemp("trained")
    # capital letters and punctuation, which Moses processes
    tiny_directions.write_text(folder, form=lambda line: f"{line}.".capitalize())
    with working_in(folder):
        for document, name in ((bilingual(), "bilingual.yaml"), (multilingual({"en-fr": None}), "tiny.yaml")):
            Path(name).write_text(tiny_pipeline.to_yaml(document), encoding="utf-8")
            for stage in ("prepare", "teacher"):
                finished = kdmt(stage, name)
                assert finished.code == 0, finished.err
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Iterator[Path]:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    with working_in(tmp_path):
        yield tmp_path


def distill(teachers: Any, *options: str, **changes: Any) -> Finished:
    Path("tiny.yaml").write_text(tiny_pipeline.to_yaml(multilingual(teachers, **changes)), encoding="utf-8")
    return kdmt("distill", "tiny.yaml", *options)


def distilled(teachers: Any, **changes: Any) -> str:
    """Make the distilled text, and return the messages."""
    finished = distill(teachers, **changes)
    assert finished.code == 0, finished.err
    return finished.err


def best_of_lines() -> list[str | None]:
    """Return the best candidate of each line of the training text, with single spaces; None if it has none."""
    nbest: dict[int, str] = {}
    for line in read_lines(MADE / "nbest"):
        number, *_, words = line.split("\t")
        nbest.setdefault(int(number), " ".join(words.split()))
    return [nbest.get(number) for number in np.load(MADE / "sentences.npy").tolist()]


def lines_of(direction: str) -> list[int]:
    """Return the indices of the lines of a direction in the training text."""
    return [index for index, tag in enumerate(read_lines(Path("runs/tiny/prepare/train.tags"))) if tag == direction]


def translations(run: str, direction: str) -> list[str]:
    """Return the translations of the training sources of a direction by the public translator of a model."""
    source, _ = direction.split("-")
    decode = Decode.model_validate({"beam": 2, "max_len_a": DECODE["max_len_a"], "max_len_b": DECODE["max_len_b"]})
    translator = Translator.load(Path(run)).for_direction(Direction.parse(direction))
    found = translator.translate(read_lines(Path(f"text/train.{source}")), decode)
    return [" ".join(line.split()) for line in found]


def test_each_direction_has_the_translations_of_its_teacher() -> None:
    message = distilled({"en-de": BILINGUAL, "en-fr": None})
    best, targets = best_of_lines(), read_lines(MADE / "distilled.tgt")
    assert read_lines(MADE / "distilled.tags") == read_lines(Path("runs/tiny/prepare/train.tags"))
    # the output of the bilingual teacher is detokenised, and processed as the text of the pipeline is
    assert [best[line] for line in lines_of("en-de")] == translations(BILINGUAL, "en-de")
    assert [best[line] for line in lines_of("fr-en")] == translations("runs/tiny/teacher/average", "fr-en")
    assert len(set(translations(BILINGUAL, "en-de"))) > 5, "the teacher has learnt to tell sources apart"
    assert all(translations("runs/tiny/teacher/average", "fr-en"))
    assert [best[line] for line in lines_of("en-fr")] == [None] * SIZES["train"]
    assert [targets[line] for line in lines_of("en-fr")] == read_lines(Path("text/train.fr"))
    facts = json.loads((MADE / "manifest.json").read_text())["facts"]
    assert facts["translated_sentences"] == {"en-de": 40, "fr-en": 40}
    assert facts["directions"]["en-fr"] == {"teacher": 0, "original": 40}
    assert facts["num_lines"] == 120
    rejected = {int(line.split("\t")[0]) for line in read_lines(MADE / "rejected")}
    assert rejected.isdisjoint(lines_of("en-fr")), "lines without a teacher are no failures"
    assert "en-fr: 0 targets of the teacher, 40 original targets" in message


def test_text_without_translations_is_translated_by_the_teacher_of_its_direction() -> None:
    write_lines(Path("text/more.en"), [f"{first} {second}.".capitalize() for first, second in pairwise(WORDS)])
    document = multilingual({"en-de": BILINGUAL, "en-fr": None})
    document["prepare"]["monolingual"] = [{"path": "text/more.en", "direction": "en-de"}]
    document["distill"]["monolingual"] = True
    Path("tiny.yaml").write_text(tiny_pipeline.to_yaml(document), encoding="utf-8")
    for stage in ("prepare", "distill"):
        finished = kdmt(stage, "tiny.yaml")
        assert finished.code == 0, finished.err
    decode = Decode.model_validate({"beam": 2, "max_len_a": DECODE["max_len_a"], "max_len_b": DECODE["max_len_b"]})
    expected = Translator.load(Path(BILINGUAL)).translate(read_lines(Path("runs/tiny/prepare/monolingual.src")), decode)
    number = len(read_lines(Path("runs/tiny/prepare/train.tags")))
    assert best_of_lines()[number:] == [" ".join(line.split()) for line in expected]


def test_the_first_tokens_of_the_data_are_the_language_tokens() -> None:
    distilled({"en-de": BILINGUAL, "en-fr": None, "fr-en": None})
    codec = TextCodec.load(Path("runs/tiny/prepare"))
    data = IndexedDataset(MADE / "data-bin/train.src-tgt.src")
    first = [codec.src_dictionary.symbols[data[line][0]] for line in range(len(data))]
    assert first == [f"<2{tag.split('-')[1]}>" for tag in read_lines(MADE / "distilled.tags")]


def test_the_blocks_are_verified_and_kept() -> None:
    teachers = {"en-de": BILINGUAL, "en-fr": None}
    distilled(teachers)
    verified = distill(teachers, "--verify", "--verify-blocks", "3", "--verify-seed", "1")
    assert verified.code == 0, verified.err
    assert "decoded again, the same: blocks" in verified.err
    before = tiny_pipeline.hash_tree(MADE)
    (MADE / "manifest.json").unlink()
    (MADE / "blocks/000001.gz").unlink()
    assert "5 of 6 blocks are there" in distilled(teachers)
    after = tiny_pipeline.hash_tree(MADE)
    assert {name: sha for name, sha in before.items() if name != "manifest.json"} == {
        name: sha for name, sha in after.items() if name != "manifest.json"
    }
    assert "up to date" in distilled(teachers)


def test_shards_make_the_same_text() -> None:
    teachers = {"en-de": BILINGUAL, "en-fr": None}
    distilled(teachers)
    expected = (MADE / "distilled.tgt").read_bytes()
    shutil.rmtree(MADE)
    for shard in ("0/2", "1/2"):
        assert distill(teachers, "--shard", shard).code == 0
    distilled(teachers)
    assert (MADE / "distilled.tgt").read_bytes() == expected


@pytest.mark.parametrize("teacher", [BILINGUAL, "exported"])
def test_a_model_translates_in_ctranslate2(teacher: str) -> None:
    assert kdmt("export", BILINGUAL, "exported", "--to", "ctranslate2").code == 0
    document = multilingual({"en-de": teacher, "en-fr": None, "fr-en": None})
    document["distill"]["engine"] = "ctranslate2_exact"
    Path("tiny.yaml").write_text(tiny_pipeline.to_yaml(document), encoding="utf-8")
    assert kdmt("distill", "tiny.yaml").code == 0
    best = best_of_lines()
    assert [best[line] for line in lines_of("en-de")] == translations("exported", "en-de")
    assert (MADE / "engine/en-de/engine/model.bin").is_file() == (teacher == BILINGUAL)


def test_an_ensemble_of_one_model_twice_translates_as_the_model() -> None:
    distilled({"en-de": [BILINGUAL, BILINGUAL], "en-fr": None, "fr-en": None})
    best = best_of_lines()
    assert [best[line] for line in lines_of("en-de")] == translations(BILINGUAL, "en-de")


def test_a_multilingual_model_is_the_teacher_of_several_directions() -> None:
    shutil.copytree("runs/tiny/teacher", "other")
    distilled({"en-de": None, "en-fr": "other", "fr-en": "other"})
    best = best_of_lines()
    for direction in ("en-fr", "fr-en"):
        assert [best[line] for line in lines_of(direction)] == translations("other", direction)


@pytest.mark.parametrize(("engine", "kind"), [("torch", TorchTeacher), ("ctranslate2", CTranslate2Teacher)])
@pytest.mark.parametrize("others", [None, "other"])
def test_directions_with_one_model_share_it(
    monkeypatch: pytest.MonkeyPatch, engine: str, kind: type[TorchTeacher | CTranslate2Teacher], others: str | None
) -> None:
    shutil.copytree("runs/tiny/teacher", "other")
    opened: list[TorchTeacher | CTranslate2Teacher] = []
    real = kind.open
    monkeypatch.setattr(kind, "open", lambda self, *given: opened.append(self) or real(self, *given))
    document = multilingual({"en-de": BILINGUAL} | ({} if others is None else {"en-fr": others, "fr-en": others}))
    document["distill"] |= {"engine": engine, "block_size": 40}
    Path("tiny.yaml").write_text(tiny_pipeline.to_yaml(document), encoding="utf-8")
    assert kdmt("distill", "tiny.yaml").code == 0
    assert len(opened) == 2
    folders = [path.parent.parent.name for path in MADE.glob("engine/*/engine/model.bin")]
    assert sorted(folders) == ([] if engine == "torch" else ["en-de", "en-fr"])
    assert None not in best_of_lines()


@pytest.mark.parametrize(
    ("teachers", "message"),
    [
        ({"en-fr": BILINGUAL}, f"distill.teachers.en-fr: {BILINGUAL} translates en-de, not en-fr"),
        ({"en-de": "nowhere"}, "distill.teachers.en-de: nowhere: neither a checkpoint folder"),
        ({"en-de": [BILINGUAL, "runs/tiny/teacher"]}, "distill.teachers.en-de: runs/tiny/teacher: "),
        ({"en-de": {"ctranslate2": "text"}}, "distill.teachers.en-de.ctranslate2: text has no model.bin"),
    ],
)
def test_what_is_no_teacher_of_the_direction_is_refused(teachers: Any, message: str) -> None:
    refused = distill(teachers)
    assert refused.code == 2
    assert message in refused.err
    assert not MADE.exists()


def test_a_teacher_of_another_direction_is_refused_before_any_stage() -> None:
    shutil.rmtree("runs/tiny")
    Path("tiny.yaml").write_text(tiny_pipeline.to_yaml(multilingual({"en-fr": BILINGUAL})), encoding="utf-8")
    for command in ("run", "prepare"):
        refused = kdmt(command, "tiny.yaml")
        assert refused.code == 2
        assert f"distill.teachers.en-fr: {BILINGUAL} translates en-de, not en-fr" in refused.err
    assert not Path("runs/tiny").exists()


@pytest.mark.slow
def test_models_with_their_own_tokenizers_are_teachers() -> None:
    pytest.importorskip("transformers")
    save_model("nllb", Path("nllb"))
    translate = t5_translator(Path("t5"))
    nllb = {"huggingface": "nllb", "source_code": "eng_Latn", "target_code": "deu_Latn"}
    teachers = {"en-de": nllb, "en-fr": {"ctranslate2": "t5/ct2", "source_prefix": "<2fr> "}, "fr-en": None}
    document = multilingual(teachers)
    document["distill"] |= {"engine": "ctranslate2_exact", "decode": DECODE | {"beam": 1}}
    Path("tiny.yaml").write_text(tiny_pipeline.to_yaml(document), encoding="utf-8")
    finished = kdmt("distill", "tiny.yaml")
    assert finished.code == 0, finished.err
    best, english = best_of_lines(), read_lines(Path("text/train.en"))
    recorded = json.loads((MADE / "manifest.json").read_text())["settings"]
    assert any(name.startswith("language check of ") for name in recorded)
    assert [best[line] for line in lines_of("en-fr")] == [" ".join(line.split()) for line in translate(english)]
    tokenizer = ForeignTokenizer(Path("nllb"), "nllb", "eng_Latn", "deu_Latn")
    decode = Decode.model_validate(DECODE | {"beam": 1})
    found = CTranslate2Engine(MADE / "engine/en-de/engine").decode(tokenizer.encode(english), decode)
    tokens = [[token for token in nbest[0].tokens if token != EOS] for nbest in found]
    lines = tokenizer.decode(np.concatenate(tokens), np.array([*map(len, tokens)]))
    assert [best[line] for line in lines_of("en-de")] == [" ".join(line.split()) for line in lines]


def t5_translator(folder: Path) -> Callable[[list[str]], list[str]]:
    """Save a T5 model, and return a function that translates with Transformers."""
    import sentencepiece
    import torch

    t5 = save_t5(folder)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))

    def translate(lines: list[str]) -> list[str]:
        made = []
        for line in lines:
            ids = torch.tensor([[*pieces.encode(f"<2fr> {line}"), pieces.eos_id()]])
            length = int(DECODE["max_len_a"] * ids.shape[1] + DECODE["max_len_b"])
            with torch.no_grad():
                found = t5.generate(ids, max_new_tokens=length, do_sample=False)[0].tolist()
            made.append(pieces.decode([number for number in found if number > 1]))
        return made

    return translate


# ----------------------------------------------------------------------------------------------- large language models


def reversed_words(line: str) -> str:
    return " ".join(reversed(line.split()))


@pytest.fixture
def servers() -> Iterator[dict[str, ChatServer]]:
    """Yield a server for each of two directions, which answers with the reversed words of the reference."""
    Path("prompt.txt").write_text(PROMPT, encoding="utf-8")
    found = {}
    with ExitStack() as stack:
        for name in ("en-de", "fr-en"):
            texts = (read_lines(Path(f"text/train.{code}")) for code in name.split("-"))
            answers = {source: reversed_words(target) for source, target in zip(*texts, strict=True)}
            server = ChatServer(lambda source, *_, own=answers: own[source])
            found[name] = stack.enter_context(server.serving())
        yield found


def endpoint(server: ChatServer, **settings: Any) -> dict[str, Any]:
    return {"endpoint": server.url, "model": SERVED, "prompt": "prompt.txt", "max_wait": 0.01} | settings


def prompts(server: ChatServer) -> set[str]:
    """Return the first lines of the prompts of all requests."""
    return {body["messages"][0]["content"].split("\n")[0] for body in server.requests}


def test_language_models_behind_endpoints_are_teachers_of_directions(servers: dict[str, ChatServer]) -> None:
    teachers = {name: endpoint(server) for name, server in servers.items()} | {"en-fr": None}
    estimated = distill(teachers, "--dry-run")
    assert estimated.code == 0, estimated.err
    for name, server in servers.items():
        assert f"{name}: 40 requests for 40 sentences are needed" in estimated.err
        assert not server.requests
    message = distilled(teachers)
    best = best_of_lines()
    for name, server in servers.items():
        source, target = name.split("-")
        references = read_lines(Path(f"text/train.{target}"))
        assert [best[line] for line in lines_of(name)] == list(map(reversed_words, references))
        assert server.paid == dict.fromkeys(read_lines(Path(f"text/train.{source}")), 1)
        assert f"answers of {name}: requests 40, prompt_tokens 400, output_tokens 200" in message
    assert prompts(servers["en-de"]) == {"Translate from English to German."}
    assert prompts(servers["fr-en"]) == {"Translate from French to English."}
    facts = json.loads((MADE / "manifest.json").read_text())["facts"]
    assert facts["translated_sentences"] == {"en-de": 40, "fr-en": 40}
    assert facts["answers"]["en-de"]["requests"] == 40
    # lines are in the order of the directions, and those of en-fr have no teacher
    of_blocks = [sorted(key for key in each if key.startswith("model of")) for each in facts["blocks"]]
    assert of_blocks[0] == ["model of the server (en-de)"]
    assert of_blocks[-1] == ["model of the server (fr-en)"]
    verified = distill(teachers, "--verify")
    assert verified.code == 0, verified.err
    assert "made again from the stored answers, the same: all blocks" in verified.err
    changed = teachers | {"en-de": endpoint(servers["en-de"], concurrency=2)}
    assert "up to date" in distilled(changed)
    assert [len(server.requests) for server in servers.values()] == [40, 40]


def test_answers_and_blocks_are_kept_if_the_stage_is_made_again(servers: dict[str, ChatServer]) -> None:
    teachers = {"en-de": endpoint(servers["en-de"]), "en-fr": None}  # fr-en: the pipeline's teacher
    distilled(teachers)
    expected = best_of_lines()
    document = multilingual(teachers)
    document["distill"]["failures"] = {"unk": "reference"}
    Path("tiny.yaml").write_text(tiny_pipeline.to_yaml(document), encoding="utf-8")
    finished = kdmt("distill", "tiny.yaml")
    assert finished.code == 0, finished.err
    assert "6 of 6 blocks are there" in finished.err
    assert best_of_lines() == expected
    assert [expected[line] for line in lines_of("fr-en")] == translations("runs/tiny/teacher/average", "fr-en")
    shutil.rmtree("runs/tiny/distill.previous")
    verified = kdmt("distill", "tiny.yaml", "--verify", "--verify-blocks", "6")
    assert verified.code == 0, verified.err
    assert "answers of endpoints are the stored ones: nothing is requested again" in verified.err
    (MADE / "manifest.json").unlink()
    (MADE / "blocks/000000.gz").unlink()
    finished = kdmt("distill", "tiny.yaml")
    assert "5 of 6 blocks are there" in finished.err
    assert best_of_lines() == expected
    assert len(servers["en-de"].requests) == 40


def test_the_budget_of_an_endpoint_is_that_of_its_direction(servers: dict[str, ChatServer]) -> None:
    teachers = {name: endpoint(server) for name, server in servers.items()} | {"en-fr": None}
    limited = teachers | {"fr-en": endpoint(servers["fr-en"], budget_tokens=600)}
    refused = distill(limited)
    assert refused.code == 2
    assert "distill.teachers.fr-en.budget_tokens: the next request could exceed the budget of 600 tokens" in refused.err
    assert len(servers["fr-en"].requests) < 40
    distilled(teachers)
    assert [len(server.requests) for server in servers.values()] == [40, 40]


def test_answers_in_another_language_than_that_of_the_direction_fail(servers: dict[str, ChatServer]) -> None:
    answer, asked = servers["en-de"].translate, read_lines(Path("text/train.en"))[3]
    russian = "Собака спит на зелёной траве возле большого дома у реки."
    servers["en-de"].translate = lambda source, *rest: russian if source == asked else answer(source, *rest)
    distilled({"en-de": endpoint(servers["en-de"]), "en-fr": None, "fr-en": None})
    line = lines_of("en-de")[3]
    assert [row.split("\t") for row in read_lines(MADE / "rejected")] == [
        [str(line), "wrong_language", "replaced by the reference"]
    ]
    assert read_lines(MADE / "distilled.tgt")[line] == read_lines(Path("text/train.de"))[3]
    facts = json.loads((MADE / "manifest.json").read_text())["facts"]
    assert facts["answers"]["en-de"]["wrong_language"] == 1


def test_the_text_with_noise_is_requested(servers: dict[str, ChatServer]) -> None:
    servers["en-de"].translate = lambda source, *_: source.swapcase()
    document = multilingual({"en-de": endpoint(servers["en-de"]), "en-fr": None, "fr-en": None})
    document["distill"]["augment"] = {"upper_case": 1.0}
    Path("tiny.yaml").write_text(tiny_pipeline.to_yaml(document), encoding="utf-8")
    estimated = kdmt("distill", "tiny.yaml", "--dry-run")
    assert "en-de: 40 requests for 40 sentences are needed" in estimated.err
    finished = kdmt("distill", "tiny.yaml")
    assert finished.code == 0, finished.err
    noised = read_lines(MADE / "noised/train.src")
    requested = set(servers["en-de"].paid)
    assert requested == {noised[line] for line in lines_of("en-de")} != set(read_lines(Path("text/train.en")))


@pytest.mark.slow
def test_a_local_language_model_is_the_teacher_of_directions() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    llama, tokenizer = save_generator(Path("llama"))
    Path("prompt.txt").write_text("Translate : {target_language} {source} =\n", encoding="utf-8")
    model = {"ctranslate2_generator": "llama/ct2", "prompt": "prompt.txt"}
    names = {"en-de": "ok", "en-fr": "rim"}  # words of the model
    teachers = {name: model | {"target_name": word} for name, word in names.items()} | {"fr-en": None}
    distilled(teachers)
    best, found = best_of_lines(), {}
    for name, word in names.items():
        found[name] = []
        for source in read_lines(Path("text/train.en")):
            prompt = tokenizer(f"Translate : {word} {source} =", return_tensors="pt").input_ids
            limit = 2 * (len(source.split()) + 1) + 32  # tokens of the source with <s>
            with torch.no_grad():
                made = llama.generate(prompt, max_new_tokens=limit, do_sample=False)[0, prompt.shape[1] :].tolist()
            found[name].append(tokenizer.decode(made, skip_special_tokens=True))
        assert [best[line] for line in lines_of(name)] == found[name]
    assert found["en-de"] != found["en-fr"]
    facts = json.loads((MADE / "manifest.json").read_text())["facts"]
    assert set(facts["answers"]) == set(names)
    verified = distill(teachers, "--verify", "--verify-blocks", "3")
    assert verified.code == 0, verified.err
    assert "decoded again, the same: blocks" in verified.err


def test_candidates_of_a_language_model_are_chosen_from_by_direction(servers: dict[str, ChatServer]) -> None:
    answer = servers["en-de"].translate
    servers["en-de"].translate = lambda source, number, seed: "zz" if number == 0 else answer(source, number, seed)
    sampled = endpoint(servers["en-de"], n=4, temperature=1.0)
    student = {"data": "mbr", "model": MODEL, "train": TRAIN}
    document = multilingual({"en-de": sampled, "en-fr": None, "fr-en": None}, students={"chosen": student})
    document["distill"]["failures"] = {"max_ratio": 0.0, "repetition_times": 0}
    Path("tiny.yaml").write_text(tiny_pipeline.to_yaml(document), encoding="utf-8")
    finished = kdmt("distill", "tiny.yaml")
    assert finished.code == 0, finished.err
    chosen = read_lines(Path("runs/tiny/mbr/distilled.tgt"))
    expected = list(map(reversed_words, read_lines(Path("text/train.de"))))
    assert [chosen[line] for line in lines_of("en-de")] == expected  # three of four candidates agree
    assert [chosen[line] for line in lines_of("fr-en")] == read_lines(Path("text/train.en"))


@pytest.mark.parametrize(
    ("prompt", "teacher", "message"),
    [
        ("{source}", {"examples": "none.tsv"}, "distill.teachers.en-de.examples has no effect: prompt.txt has no"),
        ("{source} {what}", {}, "prompt.txt:1: unknown placeholder {what}"),
        ("{source}", {"prompt": "none.txt"}, "none.txt: there is no such file (distill.teachers.en-de.prompt)"),
        ("{source}", {"api_key_variable": "NO_KEY"}, "distill.teachers.en-de.api_key_variable: the environment"),
    ],
)
def test_prompts_and_keys_of_a_direction_that_cannot_work(prompt: str, teacher: dict[str, Any], message: str) -> None:
    Path("prompt.txt").write_text(prompt, encoding="utf-8")
    model = {"endpoint": "http://127.0.0.1:9/v1", "model": SERVED, "prompt": "prompt.txt"} | teacher
    refused = distill({"en-de": model})
    assert refused.code == 2
    assert message in refused.err
    assert not MADE.exists()


def test_another_teacher_of_a_direction_makes_the_stage_out_of_date() -> None:
    distilled({"en-de": BILINGUAL, "en-fr": None, "fr-en": None})
    shutil.copytree("runs/tiny/teacher", "other")
    distilled({"en-de": "other", "en-fr": None, "fr-en": None})
    best = best_of_lines()
    assert [best[line] for line in lines_of("en-de")] == translations("other", "en-de")


def test_a_student_learns_from_the_text() -> None:
    distilled({"en-de": BILINGUAL, "en-fr": None})
    finished = kdmt("student", "tiny.yaml", "--student", "distilled")
    assert finished.code == 0, finished.err


def test_the_teacher_of_a_cache_is_validated_by_direction() -> None:
    student = {"data": "raw", "model": MODEL, "train": TRAIN}
    word_kd = {"alpha": 0.5, "direction_selection": {}}
    students = {
        "cached": student | {"word_kd": word_kd | {"source": "cache"}},
        "running": student | {"word_kd": word_kd},
    }
    Path("tiny.yaml").write_text(tiny_pipeline.to_yaml(multilingual({"en-fr": None}, students=students)))
    for command in (["knowledge"], ["student", "--student", "cached"], ["student", "--student", "running"]):
        finished = kdmt(command[0], "tiny.yaml", *command[1:])
        assert finished.code == 0, finished.err
    found = [
        json.loads(Path(f"runs/tiny/students/{name}/seed_1/teacher_validation.json").read_text()) for name in students
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    assert set(found[0]) == set(DIRECTIONS)


# ------------------------------------------------------------------------------------------------------ pivot languages


def candidates_of(
    run: str, direction: str, lines: list[str], nbest: int
) -> list[list[tuple[str, float, tuple[int, ...]]]]:
    """Return the hypotheses of each line by the public translator of a model: finished text, score and ids."""
    decode = Decode.model_validate(DECODE | {"beam": 2, "nbest": nbest})
    translator = Translator.load(Path(run)).for_direction(Direction.parse(direction))
    found = translator.hypotheses(translator.encode(lines), decode)
    codec = translator.codec
    return [
        [(codec.finish_target(codec.decode_target(each.tokens)), each.score, each.tokens) for each in nbest]
        for nbest in found
    ]


def by_pivot(nbest: int) -> list[list[tuple[float, str, str]]]:
    """Return score, translation and English text of the candidates of each French line, the best one first."""
    found: list[list[tuple[float, str, str]]] = []
    for pivots in candidates_of("other", "fr-en", read_lines(Path("text/train.fr")), nbest):
        kept = [(" ".join(text.split()), score) for text, score, _ in pivots if text.strip()]
        translated = candidates_of(BILINGUAL, "en-de", [text for text, _ in kept], 2)
        best: dict[tuple[int, ...], tuple[float, str, str]] = {}  # by the ids of the translation
        for (text, score), targets in zip(kept, translated, strict=True):
            for target, second, tokens in targets:
                best[tokens] = max(best.get(tokens, (-math.inf, "", "")), (score + second, target, text))
        found.append(sorted(best.values(), key=lambda each: -each[0]))
    return found


@pytest.mark.parametrize("nbest", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_pivot_translates_through_another_language(nbest: int) -> None:
    shutil.copytree("runs/tiny/teacher", "other")
    pivot = {"pivot": "en", "teachers": ["other", BILINGUAL], "nbest": nbest}
    teachers = dict.fromkeys(DIRECTIONS) | {"fr-de": pivot}
    document = multilingual(teachers, directions=[*DIRECTIONS, "fr-de"])
    document["distill"]["decode"] = DECODE | {"nbest": 2}
    Path("tiny.yaml").write_text(tiny_pipeline.to_yaml(document), encoding="utf-8")
    for command in (["prepare", "tiny.yaml"], ["distill", "tiny.yaml"], ["distill", "tiny.yaml", "--verify"]):
        finished = kdmt(*command)
        assert finished.code == 0, finished.err
    sentences = np.load(MADE / "sentences.npy").tolist()
    lines, expected = lines_of("fr-de"), by_pivot(nbest)
    assert sum(map(len, expected)) > 40
    found: dict[int, list[tuple[float, str]]] = {}
    for row in read_lines(MADE / "nbest"):
        number, score, _, _, words = row.split("\t")
        found.setdefault(int(number), []).append((float(score), words))
    texts: dict[int, list[str]] = {}
    for row in read_lines(MADE / "pivots.tsv"):
        number, rank, text = row.split("\t")
        assert len(texts.setdefault(int(number), [])) + 1 == int(rank)
        texts[int(number)].append(text)
    for line, own in zip(lines, expected, strict=True):
        made = found.get(sentences[line], [])
        assert [score for score, _ in made] == pytest.approx([score for score, _, _ in own[:2]], rel=1e-4)
        if own and (len(own) < 2 or own[0][0] - own[1][0] > 1e-4):
            assert (made[0][1], texts[sentences[line]][0]) == own[0][1:]
    manifest = json.loads((MADE / "manifest.json").read_text())
    assert manifest["facts"]["translated_sentences"] == {"fr-de": sum(1 for each in expected if each)}
    assert "pivots.tsv" in manifest["outputs"]


@pytest.mark.parametrize(
    ("pivot", "message"),
    [
        (
            {"pivot": "en", "teachers": [BILINGUAL, BILINGUAL]},
            f"distill.teachers.fr-en.teachers.0: {BILINGUAL} translates en-de, not fr-de",
        ),
        ({"pivot": "de", "teachers": ["runs/tiny/teacher", "nowhere"]}, "distill.teachers.fr-en.teachers.0: "),
    ],
)
def test_models_that_do_not_have_the_directions_of_a_pivot_are_refused(pivot: Any, message: str) -> None:
    refused = distill({"fr-en": pivot | {"pivot": "de"}})
    assert refused.code == 2
    assert message in refused.err


# ----------------------------------------------------------------------------------------------------- knowledge caches


CACHED = {
    "data": "distilled",
    "model": MODEL,
    "train": TRAIN,
    "word_kd": {"alpha": 0.5, "source": "cache"},
}


def with_caches(teachers: Any, *data: str, **changes: Any) -> dict[str, Any]:
    """Return a pipeline with the vocabulary of the trained one, whose students read caches of the teachers."""
    if not Path("given").exists():
        shutil.copytree("runs/tiny/prepare", "given")
        shutil.copytree("runs/tiny/teacher", "other")
    students = {f"of_{name}": CACHED | {"data": name} for name in data}
    document = multilingual(teachers, directions=[*DIRECTIONS, "fr-de"], students=students, **changes)
    document["prepare"] |= {
        "tokenizer": {"source_path": "given/tokenizer/joint.model"},
        "vocabulary": {"source_path": "given/dict.src.txt"},
    }
    document["distill"]["decode"] = DECODE | {"nbest": 2}
    document["knowledge"] = {"teachers": "directions", "k": 5, "value_type": "float32"}
    return document


def run(document: dict[str, Any], *commands: str) -> Finished:
    Path("tiny.yaml").write_text(tiny_pipeline.to_yaml(document), encoding="utf-8")
    finished = Finished(0, "", "")
    for command in commands:
        finished = kdmt(command, "tiny.yaml")
        assert finished.code == 0, finished.err
    return finished


def teacher_forced(direction: str, source: str, target_ids: list[int], run: str = "other") -> Any:
    """Return log-probabilities of the tokens of a target under a model, [T, V]."""
    import torch

    translator = Translator.load(Path(run)).for_direction(Direction.parse(direction))
    (ids,) = translator.encode([source])
    model = translator.engine.model.eval()
    prev = torch.tensor([[EOS, *target_ids[:-1]]])
    with torch.no_grad():
        return model(torch.tensor(np.asarray(ids, dtype=np.int64)[None]), prev)[0].double().log_softmax(-1)


@pytest.mark.parametrize("data", ["distilled", pytest.param("raw", marks=pytest.mark.slow)])
def test_a_cache_has_the_distributions_of_the_teacher_of_each_direction(data: str) -> None:
    pivot = {"pivot": "en", "teachers": ["other", "other"], "nbest": 2}
    teachers = {"en-de": "other", "en-fr": None, "fr-en": ["other", "other"], "fr-de": pivot}
    run(with_caches(teachers, data), "prepare", "distill", "knowledge")
    folder = MADE if data == "distilled" else Path("runs/tiny/prepare")
    name = "distilled" if data == "distilled" else "train"
    sources, targets, tags = (read_lines(folder / f"{name}.{end}") for end in ("src", "tgt", "tags"))
    ids = IndexedDataset(folder / "data-bin/train.src-tgt.tgt")
    cache = KnowledgeCache(Path(f"runs/tiny/knowledge/{data}"))
    pivots = intermediate_texts()
    checked = dict.fromkeys(set(tags), 0)
    for line in [*range(0, 160, 7), *(index for index, tag in enumerate(tags) if tag == "fr-de")]:
        target, records = ids[line].tolist(), cache.records(line)
        found = np.exp(records["log_probs"][:, 0, :-1])
        text, direction = sources[line], tags[line]
        if direction == "fr-de":
            text, direction = pivots.get((sources[line], targets[line])) or pivots.get((sources[line], "")), "en-de"
        checked[tags[line]] += 1
        if tags[line] == "en-fr" or text is None:
            np.testing.assert_array_equal(records["ids"][:, 0], target)
            np.testing.assert_array_equal(found[:, 0], np.ones(len(target)))
            continue
        expected = teacher_forced(direction, text, target).exp().topk(5)
        np.testing.assert_allclose(found, expected.values, rtol=1e-3)
        np.testing.assert_array_equal(records["ids"][:, 0], expected.indices[:, 0])
    assert min(checked.values()) > 3
    assert len({pivots[each] for each in pivots}) > 1
    finished = kdmt("student", "tiny.yaml")
    assert finished.code == 0, finished.err
    assert "up to date" in kdmt("knowledge", "tiny.yaml").err


def intermediate_texts() -> dict[tuple[str, str], str]:
    """Return (source, candidate) -> English text by which fr-de was translated; the candidate "" is the best one."""
    prepare, numbers = Path("runs/tiny/prepare"), np.load(MADE / "sentences.npy").tolist()
    tags, sources = read_lines(prepare / "train.tags"), read_lines(prepare / "train.src")
    source_of = {number: sources[line] for line, number in enumerate(numbers) if tags[line] == "fr-de"}
    words: dict[tuple[int, int], str] = {}
    for row in read_lines(MADE / "nbest"):
        number, *_, text = row.split("\t")
        rank = 1 + sum(1 for other, _ in words if other == int(number))
        words[int(number), rank] = text
    found: dict[tuple[str, str], str] = {}
    for row in read_lines(MADE / "pivots.tsv"):
        number, rank, text = row.split("\t")
        source = source_of[int(number)]
        found.setdefault((source, words[int(number), int(rank)]), text)
        if rank == "1":
            found[source, ""] = text
    return found


def test_a_pipeline_whose_teacher_fills_caches_too_has_it_for_the_other_directions() -> None:
    document = with_caches({"en-fr": None}, "raw") | {"directions": list(DIRECTIONS)}
    document["prepare"] = multilingual({"en-fr": None})["prepare"]
    run(document, "knowledge")
    made_from = json.loads(Path("runs/tiny/knowledge/raw/knowledge.json").read_text())["made_from"]
    assert "teacher/average" in made_from
    codec = TextCodec.load(Path("runs/tiny/prepare"))
    ids = IndexedDataset(Path("runs/tiny/prepare/data-bin/train.src-tgt.tgt"))
    cache = KnowledgeCache(Path("runs/tiny/knowledge/raw"))
    sources = read_lines(Path("runs/tiny/prepare/train.src"))
    for direction in ("en-de", "fr-en"):
        line = lines_of(direction)[2]
        text = codec.text.postprocess_source(sources[line])
        expected = teacher_forced(direction, text, ids[line].tolist(), "runs/tiny/teacher/average")
        found = np.exp(cache.records(line)["log_probs"][:, 0, :-1])
        np.testing.assert_allclose(found, expected.exp().topk(5).values, rtol=1e-3)
    line = lines_of("en-fr")[2]
    np.testing.assert_array_equal(cache.records(line)["ids"][:, 0], ids[line])


@pytest.mark.parametrize(
    ("teachers", "changes", "message"),
    [
        (
            {"en-de": BILINGUAL},
            {},
            f"distill.teachers.en-de: the target vocabulary of {BILINGUAL} is not that of runs/tiny/prepare/dict",
        ),
        ({"en-de": "exported"}, {}, "distill.teachers.en-de: exported is a model for CTranslate2"),
        (
            {"en-de": "other", "en-fr": None, "fr-en": None},
            {"max_target_tokens": 65},
            "students.of_raw.train.max_target_tokens (65) is more than the max_target_positions (64) of other "
            "(distill.teachers.en-de)",
        ),
    ],
)
def test_teachers_that_fill_no_cache_are_refused(teachers: Any, changes: dict[str, int], message: str) -> None:
    assert kdmt("export", BILINGUAL, "exported", "--to", "ctranslate2").code == 0
    document = with_caches(teachers, "raw") | {"directions": list(DIRECTIONS)}
    document["prepare"] = multilingual({"en-fr": None})["prepare"]
    document["students"]["of_raw"] = document["students"]["of_raw"] | {"train": TRAIN | changes}
    if changes:
        document["students"]["of_raw"]["model"] = MODEL | {"max_target_positions": 80}
    Path("tiny.yaml").write_text(tiny_pipeline.to_yaml(document), encoding="utf-8")
    refused = kdmt("knowledge", "tiny.yaml")
    assert refused.code == 2
    assert message in refused.err
    assert not Path("runs/tiny/knowledge/raw").exists()


# ------------------------------------------------------------------------------------- models of the opposite direction


def log_probs_of_sources(direction: str, sources: list[str], targets: list[str]) -> list[np.ndarray]:
    """Return the log-probabilities of the tokens of each source given its target, under the checkpoint `other`."""
    checkpoint = resolve_checkpoint(Path("other"))
    codec, engine = TextCodec.load(checkpoint), TorchEngine(load_model(checkpoint))
    prefix = codec.prefix_ids(Direction.parse(direction).reversed())
    return engine.score_pairs(insert_prefix(codec.encode_source(targets), prefix), codec.encode_target(sources))


def test_the_least_probable_pairs_of_each_direction_are_dropped() -> None:
    shutil.copytree("runs/tiny/teacher", "other")
    teachers = {"en-de": BILINGUAL, "en-fr": None}
    distilled(teachers)
    before = [read_lines(MADE / f"distilled.{end}") for end in ("tags", "src", "tgt")]
    document = multilingual(teachers)
    reverse = {"checkpoint": {"en-fr": "other", "fr-en": "other"}, "drop_percent": 20.0}
    finished = run(document | {"distill": document["distill"] | {"reverse": reverse}}, "distill")
    assert "reverse 16" in finished.err
    entropies = np.load(MADE / "reverse.npy")
    expected = set(range(len(entropies)))
    assert np.isnan(entropies[[index for index, tag in enumerate(before[0]) if tag == "en-de"]]).all()
    for name in ("en-fr", "fr-en"):
        own = [index for index, tag in enumerate(before[0]) if tag == name]
        found = log_probs_of_sources(name, *([column[index] for index in own] for column in before[1:]))
        mean = np.array([-each.sum(dtype=np.float64) / len(each) for each in found])
        np.testing.assert_allclose(entropies[own], mean, rtol=1e-3, atol=1e-3)
        expected -= {own[place] for place in np.argsort(entropies[own], kind="stable")[-8:]}  # 20% of 40 pairs
    for end, column in zip(("tags", "src", "tgt"), before, strict=True):
        assert read_lines(MADE / f"distilled.{end}") == [column[index] for index in sorted(expected)]
    verified = kdmt("distill", "tiny.yaml", "--verify", "--verify-blocks", "1")
    assert verified.code == 0, verified.err


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ("other", "distill.reverse.checkpoint: other translates en-de, en-fr, fr-en, not de-en, the opposite of en-de"),
        (
            {"fr-en": BILINGUAL},
            f"distill.reverse.checkpoint.fr-en: {BILINGUAL} translates en to de, not en to fr",
        ),
    ],
)
def test_reverse_models_without_the_opposite_direction_are_refused(checkpoint: Any, message: str) -> None:
    shutil.copytree("runs/tiny/teacher", "other")
    document = multilingual({"en-fr": None})
    document["distill"]["reverse"] = {"checkpoint": checkpoint}
    Path("tiny.yaml").write_text(tiny_pipeline.to_yaml(document), encoding="utf-8")
    refused = kdmt("distill", "tiny.yaml")
    assert refused.code == 2
    assert message in refused.err
    assert not MADE.exists()


def reranking(**rerank: Any) -> dict[str, Any]:
    """Return a pipeline whose student learns from candidates that a linear model chooses."""
    student = {"data": "reranked", "model": MODEL, "train": TRAIN}
    document = multilingual({"en-de": None, "en-fr": "other"}, students={"chosen": student})
    features = {"features": ["score", "ratio", "backward"], "backward": "other"}
    document["distill"] |= {
        "decode": {"beam": 2, "nbest": 2, "max_len_a": 2.0, "max_len_b": 30},
        "failures": {"repetition_times": 0, "max_ratio": 0.0},  # the teacher has not learnt much
        "rerank": features | rerank,
    }
    return document


def test_a_linear_model_chooses_among_the_candidates_of_all_directions() -> None:
    shutil.copytree("runs/tiny/teacher", "other")
    weights = {"score": 1.0, "ratio": -2.0, "backward": 0.5}
    run(reranking(weights=weights), "distill")
    ratios = {
        name: found["typical_ratio"]
        for name, found in json.loads(Path("runs/tiny/prepare/report.json").read_text())["directions"].items()
    }
    folder = Path("runs/tiny/reranked")
    names, *rows = (line.split("\t") for line in read_lines(folder / "choices.tsv"))
    tags, sources, targets = (read_lines(folder / f"distilled.{end}") for end in ("tags", "src", "tgt"))
    numbers = np.load(MADE / "sentences.npy").tolist()
    candidates: dict[int, list[list[str]]] = {}
    for row in read_lines(MADE / "nbest"):
        candidates.setdefault(int(row.split("\t")[0]), []).append(row.split("\t"))
    chosen = dict.fromkeys(ratios, 0)
    for name in ("en-fr", "fr-en"):
        lines = [index for index, tag in enumerate(tags) if tag == name and rows[index][2] != "-"]
        pairs = [(index, row) for index in lines for row in candidates[numbers[index]]]
        scored = log_probs_of_sources(name, [sources[index] for index, _ in pairs], [row[-1] for _, row in pairs])
        values: dict[int, list[float]] = {index: [] for index in lines}
        for (index, (_, score, _, failure, words)), log_probs in zip(pairs, scored, strict=True):
            typical = math.log(len(sources[index]) * ratios[name] + SLACK)
            features = (float(score), abs(math.log(len(words) + SLACK) - typical), float(log_probs.mean()))
            total = sum(weight * feature for weight, feature in zip(weights.values(), features, strict=True))
            if failure == "-":
                values[index].append(total)
            if words == targets[index]:
                assert float(rows[index][names.index("value")]) == pytest.approx(total, rel=1e-3, abs=1e-3)
        for index in lines:
            value = float(rows[index][names.index("value")])
            assert max(values[index]) == pytest.approx(value, rel=1e-3, abs=1e-3)
            chosen[name] += 1
    assert chosen["fr-en"] > 10
    assert chosen["en-fr"] > 0
    assert [target for tag, target in zip(tags, targets, strict=True) if tag == "en-de"] == read_lines(
        Path("text/train.de")
    )


def test_weights_are_tuned_on_the_validation_set_of_all_directions() -> None:
    shutil.copytree("runs/tiny/teacher", "other")
    run(reranking(), "distill")
    folder = Path("runs/tiny/reranked")
    tuned = json.loads((folder / "weights.json").read_text())
    assert list(tuned["weights"]) == ["score", "ratio", "backward"]
    tags = read_lines(Path("runs/tiny/prepare/valid.tags"))
    numbers = np.load(folder / "valid/sentences.npy").tolist()
    translated = {int(row.split("\t")[0]) for row in read_lines(folder / "valid/nbest")}
    assert {tags[numbers.index(number)] for number in translated} == {"en-fr", "fr-en"}
    assert 0 < tuned["num_sentences"] <= len(translated)
    verified = kdmt("distill", "tiny.yaml", "--verify", "--verify-blocks", "1")
    assert verified.code == 0, verified.err


def test_endpoints_translate_the_validation_set_within_their_budgets(servers: dict[str, ChatServer]) -> None:
    answers = {**dict(zip(*(read_lines(Path(f"text/valid.{code}")) for code in ("en", "de")), strict=True))}
    answers |= dict(zip(*(read_lines(Path(f"text/train.{code}")) for code in ("en", "de")), strict=True))
    servers["en-de"].translate = lambda source, number, _: answers[source] if number else "zz"
    sampled = endpoint(servers["en-de"], n=2, temperature=1.0, budget_tokens=850)
    document = reranking(features=["ratio", "mbr"], backward=None)
    document["distill"]["teachers"] = {"en-de": sampled, "en-fr": None, "fr-en": None}
    Path("tiny.yaml").write_text(tiny_pipeline.to_yaml(document), encoding="utf-8")
    estimated = kdmt("distill", "tiny.yaml", "--dry-run")
    assert "distill: en-de: 40 requests for 40 sentences are needed" in estimated.err
    assert "en-de: 4 requests for 4 sentences are needed" in estimated.err
    refused = kdmt("distill", "tiny.yaml")
    assert refused.code == 2
    assert "distill.teachers.en-de.budget_tokens" in refused.err
    assert len(servers["en-de"].requests) < 44  # 20 tokens each
    sampled["budget_tokens"] = 2000
    run(document, "distill")
    assert len(servers["en-de"].requests) == 44
    assert (Path("runs/tiny/reranked/valid/answers/en-de") / "000000.gz").exists()
