"""Tests of files with new ids of tokens."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kdmt.interop.renumbered_files import renumber_config, trim_tokenizer_config, trim_tokenizer_json

NAMES = ["<s>", "<pad>", "</s>", "<unk>", "a", "b", "ab", "c", "de_DE", "en_XX", "fr_XX"]


@given(st.sets(st.sampled_from(range(4, len(NAMES)))), st.lists(st.integers(0, len(NAMES) - 1), max_size=5))
def test_ids_name_the_same_tokens_as_before(more: set[int], suppressed: list[int]) -> None:
    kept = [*range(4), *sorted(more)]
    new_of_old = {old: new for new, old in enumerate(kept)}
    config = {
        "pad_token_id": 1,
        "eos_token_id": [2],
        "forced_bos_token_id": 10,
        "suppress_tokens": suppressed,
        "bad_words_ids": [[4, 5], [7]],
        "lang_code_to_id": {"de_DE": 8, "en_XX": 9},
        "d_model": 7,
        "task_specific_params": {"translation": {"decoder_start_token_id": 2, "num_beams": 5}},
    }
    made = renumber_config(config, new_of_old)
    names = [NAMES[token] for token in kept]
    assert made["pad_token_id"] == 1
    assert made["eos_token_id"] == [2]
    assert made["d_model"] == 7
    assert made["task_specific_params"] == config["task_specific_params"]
    assert made["forced_bos_token_id"] == (names.index("fr_XX") if 10 in more else None)
    assert [names[token] for token in made["suppress_tokens"]] == [NAMES[t] for t in suppressed if t in kept]
    bad = [[names[token] for token in ids] for ids in made["bad_words_ids"] or ()]
    assert bad == [ids for ids in (["a", "b"], ["c"]) if all(name in names for name in ids)]
    assert made["lang_code_to_id"] == {code: names.index(code) for code in ("de_DE", "en_XX") if code in names}


def test_absent_ids_stay_absent() -> None:
    assert renumber_config({"forced_bos_token_id": None, "vocab_size": 11}, {0: 0}) == {
        "forced_bos_token_id": None,
        "vocab_size": 11,
    }


def new_ids(*dropped: str) -> dict[str, int]:
    return {name: number for number, name in enumerate(name for name in NAMES if name not in dropped)}


def added(name: str) -> dict[str, Any]:
    return {"id": NAMES.index(name), "content": name, "special": True}


def template(name: str) -> dict[str, Any]:
    return {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {name: {"id": name, "ids": [NAMES.index(name)], "tokens": [name]}},
    }


def test_merges_stay_if_both_symbols_and_the_result_stay() -> None:
    model = {"type": "BPE", "vocab": {name: number for number, name in enumerate(NAMES[:8])}, "merges": ["a b", "b c"]}
    content = {"model": model, "added_tokens": [added("</s>"), added("de_DE"), added("fr_XX")], "post_processor": None}
    made = trim_tokenizer_json(content, new_ids("c", "de_DE"), "en_XX")
    assert made["model"]["vocab"] == {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4, "b": 5, "ab": 6}
    assert made["model"]["merges"] == ["a b"]
    assert [(token["content"], token["id"]) for token in made["added_tokens"]] == [("</s>", 2), ("fr_XX", 8)]
    assert trim_tokenizer_json(content, new_ids("a"), "en_XX")["model"]["merges"] == []
    pairs = {**content, "model": {**model, "merges": [["a", "b"], ["b", "c"]]}}
    assert trim_tokenizer_json(pairs, new_ids("c"), "en_XX")["model"]["merges"] == [["a", "b"]]


def test_scores_of_a_unigram_model_stay() -> None:
    vocab = [[name, -float(number)] for number, name in enumerate(NAMES)]
    content = {
        "model": {"type": "Unigram", "vocab": vocab, "unk_id": 3},
        "added_tokens": [],
        "post_processor": template("fr_XX"),
    }
    made = trim_tokenizer_json(content, new_ids("b", "ab"), "en_XX")
    assert made["model"]["vocab"] == [entry for entry in vocab if entry[0] not in ("b", "ab")]
    assert made["model"]["unk_id"] == 3
    assert made["post_processor"]["special_tokens"] == {"fr_XX": {"id": "fr_XX", "ids": [8], "tokens": ["fr_XX"]}}


def test_language_of_the_template_that_does_not_stay_is_replaced() -> None:
    model = {"type": "BPE", "vocab": {"a": 4}, "merges": []}
    content = {"model": model, "added_tokens": [], "post_processor": template("de_DE")}
    made = trim_tokenizer_json(content, new_ids("de_DE"), "en_XX")["post_processor"]
    assert made["single"][0] == {"SpecialToken": {"id": "en_XX", "type_id": 0}}
    assert made["special_tokens"] == {"en_XX": {"id": "en_XX", "ids": [8], "tokens": ["en_XX"]}}


def test_settings_of_the_tokenizer_name_only_tokens_that_stay() -> None:
    config = {
        "extra_special_tokens": ["de_DE", {"content": "en_XX", "special": True}, "fr_XX"],
        "added_tokens_decoder": {"2": {"content": "</s>"}, "8": {"content": "de_DE"}, "9": {"content": "en_XX"}},
        "num_madeup_words": 8,
        "src_lang": "de_DE",
        "tgt_lang": "de_DE",
        "unk_token": "<unk>",
    }
    made = trim_tokenizer_config(config, new_ids("a", "de_DE"), {"en_XX": "en_XX", "fr_XX": "fr_XX"}, "fr_XX")
    assert made == {
        "extra_special_tokens": [{"content": "en_XX", "special": True}, "fr_XX"],
        "added_tokens_decoder": {"2": {"content": "</s>"}, "7": {"content": "en_XX"}},
        "num_madeup_words": 0,
        "src_lang": "fr_XX",
        "tgt_lang": None,
        "unk_token": "<unk>",
    }
    kept = trim_tokenizer_config({"src_lang": "en_XX"}, new_ids(), {"en_XX": "en_XX"}, "fr_XX")
    assert kept == {"src_lang": "en_XX"}
