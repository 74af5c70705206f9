"""Files of a Hugging Face model in which tokens have ids, rewritten for a vocabulary with fewer tokens.

Every function takes the content of a file and the new id of each token that stays, and returns new content.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

NewIds = Mapping[str, int]  # new id of each token that stays, in the order of the ids

_ID_LISTS = ("suppress_tokens", "begin_suppress_tokens")
_LANGUAGE_TABLES = ("lang_code_to_id", "lang_to_id")
TOKEN_LISTS = ("extra_special_tokens", "additional_special_tokens")


def renumber_config(config: Mapping[str, Any], new_of_old: Mapping[int, int]) -> dict[str, Any]:
    """Return the content of `config.json` or `generation_config.json` with new ids.

    An id of a token that does not stay, such as the language that a model is forced to begin with, becomes null; in
    lists it is left out.

    Args:
        config: content of the file.
        new_of_old: new id of each old id that stays.
    """
    made = dict(config)
    for name, value in config.items():
        if name.endswith(("_token_id", "_token_ids")) or name in _ID_LISTS:
            made[name] = _renumber(value, new_of_old)
        elif name == "bad_words_ids" and isinstance(value, list):
            made[name] = [[new_of_old[i] for i in ids] for ids in value if all(i in new_of_old for i in ids)] or None
        elif name in _LANGUAGE_TABLES and isinstance(value, Mapping):
            made[name] = {code: new_of_old[i] for code, i in value.items() if i in new_of_old}
        elif isinstance(value, Mapping):  # settings of single tasks
            made[name] = renumber_config(value, new_of_old)
    return made


def _renumber(value: Any, new_of_old: Mapping[int, int]) -> Any:
    if isinstance(value, list):
        return [new_of_old[token] for token in value if token in new_of_old]
    return new_of_old.get(value) if isinstance(value, int) else value


def trim_tokenizer_json(content: Mapping[str, Any], new_ids: NewIds, default_language: str) -> dict[str, Any]:
    """Return a `tokenizer.json` with the tokens that stay.

    The scores of a unigram model and the order of the merges of a BPE model do not change. A merge stays if its two
    symbols and its result stay.

    Args:
        content: content of the file.
        new_ids: new ids.
        default_language: token of the source language in the template of a sentence, if that of the file does not
            stay.
    """
    model = dict(content["model"])
    if isinstance(model["vocab"], Mapping):
        model["vocab"] = {token: new_ids[token] for token in model["vocab"] if token in new_ids}
        model["merges"] = [merge for merge in model["merges"] if _stays(merge, new_ids)]
    else:
        unknown = None if model.get("unk_id") is None else model["vocab"][model["unk_id"]][0]
        kept = [entry for entry in model["vocab"] if entry[0] in new_ids]
        model["vocab"] = sorted(kept, key=lambda entry: new_ids[entry[0]])
        model["unk_id"] = None if unknown is None else new_ids[unknown]
    tokens = [token for token in content.get("added_tokens") or () if token["content"] in new_ids]
    added = [{**token, "id": new_ids[token["content"]]} for token in tokens]
    made = {**content, "model": model, "added_tokens": sorted(added, key=lambda token: token["id"])}
    if made.get("post_processor") is not None:
        made["post_processor"] = _renumber_template(made["post_processor"], new_ids, default_language)
    return made


def merge_pair(merge: str | list[str]) -> tuple[str, str]:
    """Return the two symbols of a merge, which older files write in one string."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _stays(merge: str | list[str], new_ids: NewIds) -> bool:
    left, right = merge_pair(merge)
    return left in new_ids and right in new_ids and left + right in new_ids


def _renumber_template(template: Any, new_ids: NewIds, default_language: str) -> Any:
    """Return the template of a sentence with its special tokens, wherever they are in the JSON value."""
    if isinstance(template, list):
        return [_renumber_template(each, new_ids, default_language) for each in template]
    if not isinstance(template, Mapping):
        return template
    made = {name: _renumber_template(value, new_ids, default_language) for name, value in template.items()}
    if "SpecialToken" in made:
        token = made["SpecialToken"]["id"]
        made["SpecialToken"]["id"] = token if token in new_ids else default_language
    if "special_tokens" in made:
        names = [token if token in new_ids else default_language for token in made["special_tokens"]]
        made["special_tokens"] = {name: {"id": name, "ids": [new_ids[name]], "tokens": [name]} for name in names}
    return made


def trim_tokenizer_config(
    config: Mapping[str, Any], new_ids: NewIds, languages: Mapping[str, str], default_language: str
) -> dict[str, Any]:
    """Return the content of `tokenizer_config.json` or `special_tokens_map.json` with the tokens that stay.

    Args:
        config: content of the file.
        new_ids: new ids.
        languages: token of the code of each language that stays.
        default_language: code of the source language, if that of the file does not stay.
    """
    made = dict(config)
    for name in TOKEN_LISTS:
        if isinstance(config.get(name), list):
            made[name] = [token for token in config[name] if _spelling(token) in new_ids]
    if isinstance(config.get("added_tokens_decoder"), Mapping):
        tokens = {_spelling(token): token for token in config["added_tokens_decoder"].values()}
        made["added_tokens_decoder"] = _by_new_id(tokens, new_ids)
    if "num_madeup_words" in config:
        made["num_madeup_words"] = 0
    for name in ("src_lang", "tgt_lang"):
        if config.get(name) is not None and config[name] not in languages:
            made[name] = default_language if name == "src_lang" else None
    return made


def _by_new_id(tokens: Mapping[str, Any], new_ids: NewIds) -> dict[str, Any]:
    kept: Collection[str] = [token for token in tokens if token in new_ids]
    return {str(new_ids[token]): tokens[token] for token in sorted(kept, key=new_ids.__getitem__)}


def _spelling(token: Any) -> str:
    """Return the text of a token, which is an object with its text if the file has options of the token."""
    return str(token["content"]) if isinstance(token, Mapping) else str(token)
