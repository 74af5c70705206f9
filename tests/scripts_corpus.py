"""Small parallel corpora of English and languages in other scripts, generated from real words, word for word.

Each sentence has one clause or two ("today the mother eats rice and the child reads a book."), in the word order and
with the punctuation of the language; there is one correct translation. Languages written without spaces have none here.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

SUBJECTS = ("the mother", "the father", "the teacher", "the child", "the doctor", "the friend")
VERBS = ("sees", "buys", "loves", "sells", "wants")
OBJECTS = ("rice", "fish", "bread", "fruit", "a book", "a house")
TIMES = ("today", "yesterday", "now", "always")


@dataclass(frozen=True)
class Script:
    """Words of a language, in the order of the English ones, and the rules for combining them into sentences."""

    times: str
    subjects: str
    verbs: str
    objects: str
    clause: str  # {s}, {v}, {o} and, in the first clause, the time before all of them
    conjunction: str
    end: str
    separator: str = " "  # between words; "_" in the tables is a space within a word

    def words(self, name: str) -> list[str]:
        return [word.replace("_", " ") for word in getattr(self, name).split()]


SCRIPTS = {
    "ru": Script(
        times="сегодня вчера сейчас всегда",
        subjects="мама папа учитель ребёнок врач друг",
        verbs="видит покупает любит продаёт хочет",
        objects="рис рыбу хлеб фрукты книгу дом",
        clause="{s} {v} {o}",
        conjunction=", и ",
        end=".",
    ),
    "ar": Script(
        times="اليوم أمس الآن دائما",
        subjects="الأم الأب المعلم الطفل الطبيب الصديق",
        verbs="يرى يشتري يحب يبيع يريد",
        objects="الأرز السمك الخبز الفاكهة كتابا بيتا",
        clause="{v} {s} {o}",
        conjunction=" ثم ",
        end=".",
    ),
    "hi": Script(
        times="आज कल अभी हमेशा",
        subjects="माँ पिता अध्यापक बच्चा डॉक्टर दोस्त",
        verbs="देखता_है खरीदता_है पसंद_करता_है बेचता_है चाहता_है",
        objects="चावल मछली रोटी फल किताब घर",
        clause="{s} {o} {v}",
        conjunction=" और ",
        end="।",
    ),
    "th": Script(
        times="วันนี้ เมื่อวาน ตอนนี้ เสมอ",
        subjects="แม่ พ่อ ครู เด็ก หมอ เพื่อน",
        verbs="เห็น ซื้อ รัก ขาย อยากได้",
        objects="ข้าว ปลา ขนมปัง ผลไม้ หนังสือ บ้าน",
        clause="{s}{v}{o}",
        conjunction="และ",
        end="",
        separator="",
    ),
    "km": Script(
        times="ថ្ងៃនេះ ម្សិលមិញ ឥឡូវ ជានិច្ច",
        subjects="ម្តាយ ឪពុក គ្រូ ក្មេង គ្រូពេទ្យ មិត្ត",
        verbs="ឃើញ ទិញ ស្រឡាញ់ លក់ ចង់បាន",
        objects="បាយ ត្រី នំប៉័ង ផ្លែឈើ សៀវភៅ ផ្ទះ",
        clause="{s}{v}{o}",
        conjunction="ហើយ",
        end="។",
        separator="",
    ),
    "zh": Script(
        times="今天 昨天 现在 总是",
        subjects="妈妈 爸爸 老师 孩子 医生 朋友",
        verbs="看见 买 爱 卖 想要",
        objects="米饭 鱼 面包 水果 书 房子",
        clause="{s}{v}{o}",
        conjunction="，",
        end="。",
        separator="",
    ),
    "ja": Script(
        times="今日 昨日 今 いつも",
        subjects="母 父 先生 子供 医者 友達",
        verbs="見る 買う 愛する 売る 欲しがる",
        objects="ご飯 魚 パン 果物 本 家",
        clause="{s}は{o}を{v}",
        conjunction="、そして",
        end="。",
        separator="",
    ),
}


def make_pairs(lang: str, count: int, seed: int = 1) -> list[tuple[str, str]]:
    """Return different English sentences of one or two clauses, each with its translation."""
    rng, script = random.Random(seed), SCRIPTS[lang]
    pairs: dict[str, str] = {}
    while len(pairs) < count:
        clauses = [_clause(rng, script) for _ in range(rng.choice((1, 1, 1, 2)))]
        time = rng.randrange(len(TIMES))
        english = " and ".join(clause[0] for clause in clauses)
        other = script.conjunction.join(clause[1] for clause in clauses)
        translated = f"{script.words('times')[time]}{script.separator}{other}{script.end}"
        pairs[f"{TIMES[time]} {english}."] = translated
    return list(pairs.items())


def _clause(rng: random.Random, script: Script) -> tuple[str, str]:
    s, v, o = (rng.randrange(len(words)) for words in (SUBJECTS, VERBS, OBJECTS))
    other = script.clause.format(
        s=script.words("subjects")[s], v=script.words("verbs")[v], o=script.words("objects")[o]
    )
    return f"{SUBJECTS[s]} {VERBS[v]} {OBJECTS[o]}", other
