"""The toy language compared with hand-computed distributions and a grammar table written for these tests."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from typing import Any

import pytest

from kdmt.toy import grammar, lexicon, meanings

Corpus = dict[str, list[tuple[str, str]]]  # split -> pairs


def sample_meanings(count: int, seed: int) -> list[Any]:
    rng = random.Random(seed)
    return [meanings.sample_meaning(rng) for _ in range(count)]


HAND_COMPUTED = {
    # two verbs, two nouns of different gender
    "The man buys an old car.": {
        "Der Mann kauft ein altes Auto.": 0.65 * 0.6,
        "Der Mann kauft einen alten Wagen.": 0.65 * 0.4,
        "Der Mann erwirbt ein altes Auto.": 0.35 * 0.6,
        "Der Mann erwirbt einen alten Wagen.": 0.35 * 0.4,
    },
    # the verb governs the case of its object and of the relative pronoun that refers to it
    "Peter helps my brothers.": {
        "Peter hilft meinen Brüdern.": 0.6,
        "Peter unterstützt meine Brüder.": 0.4,
    },
    "These children that Lena meets wait.": {
        "Diese Kinder, die Lena trifft, warten.": 0.6,
        "Diese Kinder, denen Lena begegnet, warten.": 0.4,
    },
    # perfect or preterite, separable prefix, word order, auxiliary
    "Twenty-one girls arrived yesterday.": {
        "Einundzwanzig Mädchen sind gestern angekommen.": 0.6 * 0.6 * 0.55,
        "Gestern sind einundzwanzig Mädchen angekommen.": 0.6 * 0.6 * 0.45,
        "Einundzwanzig Mädchen sind gestern eingetroffen.": 0.6 * 0.4 * 0.55,
        "Gestern sind einundzwanzig Mädchen eingetroffen.": 0.6 * 0.4 * 0.45,
        "Einundzwanzig Mädchen kamen gestern an.": 0.4 * 0.6 * 0.55,
        "Gestern kamen einundzwanzig Mädchen an.": 0.4 * 0.6 * 0.45,
        "Einundzwanzig Mädchen trafen gestern ein.": 0.4 * 0.4 * 0.55,
        "Gestern trafen einundzwanzig Mädchen ein.": 0.4 * 0.4 * 0.45,
    },
    # one tense style for both clauses; the conjunction decides the position of the verb; the clause may come first
    "The dog slept because Emil called Clara.": {
        "Der Hund hat geschlafen, weil Emil Clara angerufen hat.": 0.6 * 0.6 * 0.7,
        "Weil Emil Clara angerufen hat, hat der Hund geschlafen.": 0.6 * 0.6 * 0.3,
        "Der Hund hat geschlafen, denn Emil hat Clara angerufen.": 0.6 * 0.4,
        "Der Hund schlief, weil Emil Clara anrief.": 0.4 * 0.6 * 0.7,
        "Weil Emil Clara anrief, schlief der Hund.": 0.4 * 0.6 * 0.3,
        "Der Hund schlief, denn Emil rief Clara an.": 0.4 * 0.4,
    },
    # the pronoun has the gender of the noun that was chosen
    "The cup is new, but it falls.": {
        f"{cup} ist neu, {but} {it} {falls}.": p * q * r
        for p, cup, it in [(0.6, "Die Tasse", "sie"), (0.4, "Der Becher", "er")]
        for q, but in [(0.7, "aber"), (0.3, "doch")]
        for r, falls in [(0.55, "fällt"), (0.45, "kippt um")]
    },
    # a substance: compound or phrase; a place: first or not; "in dem" to "im"
    "Anna can see no wood table in the garden.": {
        "Anna kann keinen Holztisch im Garten sehen.": 0.75 * 0.65,
        "Im Garten kann Anna keinen Holztisch sehen.": 0.75 * 0.35,
        "Anna kann keinen Tisch aus Holz im Garten sehen.": 0.25 * 0.65,
        "Im Garten kann Anna keinen Tisch aus Holz sehen.": 0.25 * 0.35,
    },
    "Greta gives the hats to the aunt.": {"Greta gibt der Tante die Hüte.": 1.0},
    "All women say that Felix sings.": {
        "Alle Frauen sagen, dass Felix singt.": 0.6,
        "Alle Frauen sagen, Felix singt.": 0.4,
    },
}


@pytest.mark.parametrize("source", HAND_COMPUTED)
def test_distribution_equals_one_computed_by_hand(source: str) -> None:
    assert grammar.target_distribution(source) == pytest.approx(HAND_COMPUTED[source], rel=1e-12)


def test_probabilities_are_positive_and_sum_to_one() -> None:
    for meaning in sample_meanings(300, seed=2):
        ways = grammar.translations(meaning)
        assert all(probability > 0 for probability, _ in ways)
        assert math.fsum(probability for probability, _ in ways) == pytest.approx(1.0, abs=1e-9)
        assert len({target for _, target in ways}) == len(ways)
        assert [probability for probability, _ in ways] == sorted((p for p, _ in ways), reverse=True)


def test_sampled_frequencies_match_the_probabilities() -> None:
    rng = random.Random(3)
    draws = 3000
    for source in HAND_COMPUTED:
        meaning = grammar.parse_source(source)
        seen = Counter(meanings.sample_translation(rng, meaning) for _ in range(draws))
        expected = {target: draws * probability for probability, target in grammar.translations(meaning)}
        assert seen.keys() <= expected.keys()
        chi_square = sum((seen[target] - count) ** 2 / count for target, count in expected.items())
        freedom = len(expected) - 1
        assert chi_square <= freedom + 5 * math.sqrt(2 * freedom)


def test_a_source_has_one_meaning() -> None:
    for meaning in sample_meanings(3000, seed=5):
        assert grammar.parse_source(grammar.render_source(meaning)) == meaning


@pytest.mark.parametrize(
    "source",
    [
        "",
        ".",
        "The dog sleeps",  # no full stop
        "the dog sleeps.",
        "The dog sleep.",
        "A dogs sleep.",
        "Two dog sleeps.",
        "A old dog sleeps.",
        "The unicorn sleeps.",
        "The dog sleeps Anna.",
        "The dog is hat.",
        "It sleeps.",
        "Anna gives the hat.",
        "Anna says.",
        "Anna sleeps that Peter sings.",
        "The dog that Anna sleeps sings.",
        "The man sleeps because he sings.",  # the language does not express the sex of a man without a name
        "Anna sleeps because he sings.",
        "Anna sings but Peter sleeps.",  # the comma
        "Anna sings if Peter sleeps if Clara waits.",
        "Anna sings yesterday often.",
    ],
)
def test_sentences_outside_the_language_are_refused(source: str) -> None:
    with pytest.raises(ValueError, match="toy language"):
        grammar.target_distribution(source)


def test_entropy_of_equally_likely_targets() -> None:
    assert grammar.entropy(dict.fromkeys("abcd", 0.25)) == pytest.approx(math.log(4))


def test_targets_are_many_and_their_words_depend_on_each_other() -> None:
    sizes = [len(grammar.translations(meaning)) for meaning in sample_meanings(400, seed=6)]
    assert sorted(sizes)[len(sizes) // 2] in range(8, 25)
    # The product of the marginals of the positions would join "der" with "Auto", which no translation does.
    for target in grammar.target_distribution("The car shines because it is new."):
        assert ("Auto" in target) == bool(re.search(r"\b[Dd]as\b", target)) == bool(re.search(r"\b[Ee]s\b", target))


# Case and gender (p: plural), then the determiners and the ending of an adjective after them.
PARADIGM = """
nom m: der dieser jeder -e / ein mein kein -er
nom f: die diese jede -e / eine meine keine -e
nom n: das dieses jedes -e / ein mein kein -es
nom p: die diese alle -en / meine keine -en / viele 0 -e
acc m: den diesen jeden -en / einen meinen keinen -en
acc f: die diese jede -e / eine meine keine -e
acc n: das dieses jedes -e / ein mein kein -es
acc p: die diese alle -en / meine keine -en / viele 0 -e
dat m: dem diesem jedem im -en / einem meinem keinem -en
dat f: der dieser jeder -en / einer meiner keiner -en
dat n: dem diesem jedem im -en / einem meinem keinem -en
dat p: den diesen allen -en / meinen keinen -en / vielen 0 -en
"""


RELATIVE = {"der": "mf", "die": "fp", "das": "n", "den": "m", "dem": "mn", "denen": "p"}


def read_paradigm() -> dict[tuple[str, str], set[tuple[str, str]]]:
    """Return (case, gender) -> allowed (determiner, adjective ending)."""
    table = {}
    for line in PARADIGM.strip().splitlines():
        case_gender, cells = line.split(":")
        case, gender = case_gender.split()
        pairs = [cell.rsplit(" -", 1) for cell in cells.split("/")]
        table[case, gender] = {(word, ending.strip()) for words, ending in pairs for word in words.split()}
    return table


def read_noun_forms() -> dict[str, set[tuple[str, str]]]:
    """Return noun (also compounds) -> the (case, gender) pairs that its form allows."""
    forms: dict[str, set[tuple[str, str]]] = {}
    for entry in lexicon.NOUNS.values():
        for _, (gender, singular, plural) in entry.german:
            dative = plural if plural.endswith(("n", "s")) else plural + "n"
            cells = [(case, gender, singular) for case in ("nom", "acc", "dat")]
            cells += [("nom", "p", plural), ("acc", "p", plural), ("dat", "p", dative)]
            for case, cell_gender, form in cells:
                for word in [form, *(first.german + form.lower() for first in lexicon.MODIFIERS.values())]:
                    forms.setdefault(word, set()).add((case, cell_gender))
    return forms


PARADIGM_TABLE, NOUN_FORMS = read_paradigm(), read_noun_forms()


DETERMINER_WORDS = {word for cell in PARADIGM_TABLE.values() for word, _ in cell}


ENDING_OF = {
    stem + ending: ending
    for entry in lexicon.ADJECTIVES.values()
    for _, stem in entry.german
    for ending in ("e", "en", "er", "es", "em")
}


def disagreements(target: str) -> list[str]:
    """Return the noun phrases of a German sentence that no case and gender explains, and wrong relative pronouns."""
    words = [word[0].lower() + word[1:] if i == 0 else word for i, word in enumerate(re.findall(r"[\w-]+|,", target))]
    wrong = []
    for i, noun in enumerate(words):
        if noun not in NOUN_FORMS:
            continue
        ending = ENDING_OF.get(words[i - 1]) if i else None
        before = i - (2 if ending else 1)
        determiner = words[before] if before >= 0 and words[before] in DETERMINER_WORDS else "0"
        # After a comma `der` may be a relative pronoun and the noun a bare plural.
        possible = {determiner, "0"} if before > 0 and words[before - 1] == "," else {determiner}
        readings = {
            case_gender
            for case_gender in NOUN_FORMS[noun]
            for word, adjective in PARADIGM_TABLE[case_gender]
            if word in possible and ending in (None, adjective)
        }
        if not readings:
            wrong.append(" ".join(words[max(before, 0) : i + 1]))
        after = i + 3 if words[i + 1 : i + 2] == ["aus"] else i + 1
        if words[after : after + 1] == [","] and words[after + 1] in RELATIVE:
            genders = {gender for _, gender in readings}
            if not genders & set(RELATIVE[words[after + 1]]):
                wrong.append(f"{noun}, {words[after + 1]}")
    return wrong


@pytest.mark.parametrize(
    "target",
    [
        "Der Mann sieht das roten Hut.",
        "Ein alte Mann schläft.",
        "Die Auto glänzt.",
        "Peter hilft vielen alten Kinder.",
        "Das Auto, der Anna kauft, glänzt.",
        "Peter hilft meinen Brüder.",
    ],
)
def test_the_checker_finds_wrong_agreement(target: str) -> None:
    assert disagreements(target)


def test_noun_phrases_agree(corpus: Corpus) -> None:
    for _, target in corpus["train"]:
        assert disagreements(target) == [], target
    for meaning in sample_meanings(100, seed=8):
        for _, target in grammar.translations(meaning):
            assert disagreements(target) == [], target
