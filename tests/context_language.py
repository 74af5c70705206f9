"""A language of documents in which a pronoun can be translated only with the previous sentence.

A document has pairs of sentences: the first names a thing, the second begins with `it`. In the translation, a thing is
masculine or feminine, and the pronoun has its gender: `it falls` is `er fällt` after `the table ...`, and `sie fällt`
after `the cup ...`. All other words are translated one by one. Without the previous sentence, both pronouns are equally
probable, so that an accuracy of 50% is the best possible in a test that has each source with both genders.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tiny_pipeline import MODEL, TRAIN, write_lines

from kdmt.score.contrastive import ContrastivePair

MASCULINE = {"table": "tisch", "hat": "hut", "spoon": "löffel", "chair": "stuhl"}
FEMININE = {"cup": "tasse", "lamp": "lampe", "door": "tür", "watch": "uhr"}
PLACES = {"here": "hier", "there": "dort", "inside": "drinnen", "outside": "draussen"}
VERBS = {"falls": "fällt", "stands": "steht", "moves": "wackelt", "shines": "glänzt", "breaks": "bricht"}
TIMES = {"today": "heute", "often": "oft", "soon": "bald", "now": "jetzt"}
SIZES = {"train": 500, "valid": 20, "test": 10}  # documents
Sentence = tuple[str, str]


def thing(noun: str, place: str) -> Sentence:
    """Return a sentence that names a thing, with its translation."""
    is_masculine = noun in MASCULINE
    translated = MASCULINE[noun] if is_masculine else FEMININE[noun]
    return f"the {noun} is {place}", f"{'der' if is_masculine else 'die'} {translated} ist {PLACES[place]}"


def pronoun(verb: str, time: str, *, is_masculine: bool) -> Sentence:
    """Return a sentence about the thing before, with its translation."""
    return f"it {verb} {time}", f"{'er' if is_masculine else 'sie'} {VERBS[verb]} {TIMES[time]}"


def make_document(rng: random.Random) -> list[Sentence]:
    """Return a document of one or two things, two sentences for each."""
    sentences = []
    for _ in range(rng.randint(1, 2)):
        noun = rng.choice([*MASCULINE, *FEMININE])
        sentences.append(thing(noun, rng.choice(list(PLACES))))
        verb, time = rng.choice(list(VERBS)), rng.choice(list(TIMES))
        sentences.append(pronoun(verb, time, is_masculine=noun in MASCULINE))
    return sentences


def write_documents(folder: Path, documents: Sequence[Sequence[Sentence]], split: str) -> None:
    """Write documents to `<split>.en` and `<split>.de`, with an empty line between them."""
    for side, lang in enumerate(("en", "de")):
        texts = [[sentence[side] for sentence in document] for document in documents]
        write_lines(folder / f"{split}.{lang}", [line for lines in texts for line in (*lines, "")][:-1])


def write_corpus(folder: Path) -> None:
    """Write the documents of all splits to the folder `text`."""
    rng = random.Random(1)
    (folder / "text").mkdir(parents=True)
    for split, count in SIZES.items():
        write_documents(folder / "text", [make_document(rng) for _ in range(count)], split)


def contrastive_pairs() -> list[ContrastivePair]:
    """Return a pair for each pronoun sentence and each gender; the wrong pronoun is that of the other gender."""
    pairs = []
    for number, (verb, time) in enumerate(itertools.product(VERBS, TIMES)):
        for is_masculine in (True, False):
            noun = list(MASCULINE if is_masculine else FEMININE)[number % 4]
            source, right = pronoun(verb, time, is_masculine=is_masculine)
            wrong = pronoun(verb, time, is_masculine=not is_masculine)[1]
            context, _ = thing(noun, list(PLACES)[number // 4 % 4])
            pairs.append(ContrastivePair(source, right, (wrong,), (context,)))
    return pairs


def pipeline_settings(*, with_context: bool, max_updates: int) -> dict[str, Any]:
    """Return the YAML document of a pipeline for this language, with separators as the tokens of words."""
    split = {name: {"source": {"path": f"text/{name}.en"}, "target": {"path": f"text/{name}.de"}} for name in SIZES}
    model = MODEL | {"encoder_embed_dim": 32, "decoder_embed_dim": 32, "encoder_ffn_embed_dim": 64}
    train = TRAIN | {"max_updates": max_updates, "max_tokens": 800, "warmup_updates": 20}
    train |= dict.fromkeys(("validate_interval_updates", "save_interval_updates"), max_updates)
    return {
        "name": "with" if with_context else "without",
        "source_lang": "en",
        "target_lang": "de",
        "prepare": {
            "train": [split["train"]],
            "valid": split["valid"],
            "test": {"test": split["test"]},
            **({"context": {"sentences": 1}} if with_context else {}),
            "tokenizer": {"type": "words"},
            # of few possible sentences, all are in the training text
            "decontaminate": False,
            "clean": {"drop_duplicates": False},
            "workers": 1,
            "executor": "inline",
        },
        "teacher": {"model": model, "train": train},
        "distill": {"decode": {"beam": 2}, "engine": "torch", "executor": "inline", "block_size": 500},
        "students": {"distilled": {"data": "distilled", "model": model, "train": train}},
        "score": {"bootstrap_samples": 20, "speed_sentences": 2, "threads": 1},
    }
