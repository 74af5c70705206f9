"""Sentences in six languages that are translations of each other, for archives with the layout of real corpora.

A sentence has a subject, an action and a place. Each list has the same phrase at the same position in every language.
The phrases fit together without agreement, so that every combination is a sentence of the language. Language
identifiers and cleaning rules treat them as ordinary text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

SUBJECTS: Mapping[str, tuple[str, ...]] = {
    "en": (
        *("The old woman", "The teacher", "A young man", "My neighbour", "The doctor", "The little girl", "Our guest"),
        *("The farmer", "The student", "A tourist", "The minister", "The driver", "The artist", "Her brother"),
        *("The policeman", "A child", "The director", "The writer", "The fisherman", "The nurse"),
    ),
    "de": (
        *("Die alte Frau", "Der Lehrer", "Ein junger Mann", "Mein Nachbar", "Der Arzt", "Das kleine Mädchen"),
        *("Unser Gast", "Der Bauer", "Der Student", "Ein Tourist", "Der Minister", "Der Fahrer", "Der Künstler"),
        *("Ihr Bruder", "Der Polizist", "Ein Kind", "Der Direktor", "Der Schriftsteller", "Der Fischer"),
        "Die Krankenschwester",
    ),
    "ro": (
        *("Femeia bătrână", "Profesorul", "Un tânăr", "Vecinul meu", "Doctorul", "Fetița", "Oaspetele nostru"),
        *("Fermierul", "Studentul", "Un turist", "Ministrul", "Șoferul", "Artistul", "Fratele ei", "Polițistul"),
        *("Un copil", "Directorul", "Scriitorul", "Pescarul", "Asistenta medicală"),
    ),
    "is": (
        *("Gamla konan", "Kennarinn", "Ungur maður", "Nágranni minn", "Læknirinn", "Litla stúlkan", "Gesturinn okkar"),
        *("Bóndinn", "Námsmaðurinn", "Ferðamaður", "Ráðherrann", "Bílstjórinn", "Listamaðurinn", "Bróðir hennar"),
        *("Lögregluþjónninn", "Barn", "Forstjórinn", "Rithöfundurinn", "Sjómaðurinn", "Hjúkrunarfræðingurinn"),
    ),
    "zh": (
        *("老太太", "老师", "一个年轻人", "我的邻居", "医生", "小女孩", "我们的客人", "农民", "学生", "一位游客"),
        *("部长", "司机", "艺术家", "她的哥哥", "警察", "一个孩子", "主任", "作家", "渔夫", "护士"),
    ),
    "ja": (
        *("おばあさん", "先生", "若い男性", "私の隣人", "医者", "小さな女の子", "私たちのお客さん", "農家の人", "学生"),
        *("観光客", "大臣", "運転手", "芸術家", "彼女の兄", "警察官", "子供", "部長", "作家", "漁師", "看護師"),
    ),
}
ACTIONS: Mapping[str, tuple[str, ...]] = {
    "en": (
        *(
            "reads a long letter",
            "drinks a cup of coffee",
            "buys fresh bread",
            "waits for the train",
            "sings an old song",
        ),
        *("writes a short report", "looks at the photographs", "eats an apple", "opens the window", "cleans the table"),
        *("talks about the weather", "sells red flowers", "repairs the bicycle", "paints a picture", "feeds the birds"),
        *(
            "plays with the dog",
            "counts the money",
            "prepares dinner",
            "asks a difficult question",
            "learns the language",
        ),
    ),
    "de": (
        *("liest einen langen Brief", "trinkt eine Tasse Kaffee", "kauft frisches Brot", "wartet auf den Zug"),
        *("singt ein altes Lied", "schreibt einen kurzen Bericht", "betrachtet die Fotografien", "isst einen Apfel"),
        *("öffnet das Fenster", "putzt den Tisch", "spricht über das Wetter", "verkauft rote Blumen"),
        *("repariert das Fahrrad", "malt ein Bild", "füttert die Vögel", "spielt mit dem Hund", "zählt das Geld"),
        *("bereitet das Abendessen vor", "stellt eine schwierige Frage", "lernt die Sprache"),
    ),
    "ro": (
        *("citește o scrisoare lungă", "bea o ceașcă de cafea", "cumpără pâine proaspătă", "așteaptă trenul"),
        *("cântă un cântec vechi", "scrie un raport scurt", "privește fotografiile", "mănâncă un măr"),
        *("deschide fereastra", "curăță masa", "vorbește despre vreme", "vinde flori roșii", "repară bicicleta"),
        *("pictează un tablou", "hrănește păsările", "se joacă cu câinele", "numără banii", "pregătește cina"),
        *("pune o întrebare dificilă", "învață limba"),
    ),
    "is": (
        *("les langt bréf", "drekkur kaffibolla", "kaupir nýtt brauð", "bíður eftir lestinni", "syngur gamalt lag"),
        *("skrifar stutta skýrslu", "skoðar ljósmyndirnar", "borðar epli", "opnar gluggann", "þrífur borðið"),
        *("talar um veðrið", "selur rauð blóm", "gerir við hjólið", "málar mynd", "gefur fuglunum"),
        *("leikur við hundinn", "telur peningana", "eldar kvöldmat", "spyr erfiðrar spurningar", "lærir tungumálið"),
    ),
    "zh": (
        *("读一封长信", "喝一杯咖啡", "买新鲜的面包", "等火车", "唱一首老歌", "写一份简短的报告", "看照片"),
        *("吃一个苹果", "打开窗户", "擦桌子", "谈论天气", "卖红色的花", "修理自行车", "画一幅画", "喂鸟"),
        *("和狗一起玩", "数钱", "准备晚饭", "提出一个难题", "学习这门语言"),
    ),
    "ja": (
        *("長い手紙を読みます", "コーヒーを飲みます", "新しいパンを買います", "電車を待ちます", "古い歌を歌います"),
        *("短い報告書を書きます", "写真を見ます", "りんごを食べます", "窓を開けます", "テーブルを拭きます"),
        *("天気について話します", "赤い花を売ります", "自転車を直します", "絵を描きます", "鳥に餌をやります"),
        *("犬と遊びます", "お金を数えます", "夕食を準備します", "難しい質問をします", "言葉を勉強します"),
    ),
}
PLACES: Mapping[str, tuple[str, ...]] = {
    "en": (
        *("in the garden", "at the station", "in the kitchen", "in front of the church", "at the market"),
        *("on the beach", "in the library", "near the river", "in the hospital", "behind the house", "in the city"),
        *("at school", "in the village", "on the bridge", "in the office", "under the tree"),
    ),
    "de": (
        *("im Garten", "am Bahnhof", "in der Küche", "vor der Kirche", "auf dem Markt", "am Strand"),
        *("in der Bibliothek", "am Fluss", "im Krankenhaus", "hinter dem Haus", "in der Stadt", "in der Schule"),
        *("im Dorf", "auf der Brücke", "im Büro", "unter dem Baum"),
    ),
    "ro": (
        *("în grădină", "la gară", "în bucătărie", "în fața bisericii", "la piață", "pe plajă", "în bibliotecă"),
        *("lângă râu", "în spital", "în spatele casei", "în oraș", "la școală", "în sat", "pe pod", "în birou"),
        "sub copac",
    ),
    "is": (
        *("í garðinum", "á lestarstöðinni", "í eldhúsinu", "fyrir framan kirkjuna", "á markaðnum", "á ströndinni"),
        *("á bókasafninu", "við ána", "á sjúkrahúsinu", "bak við húsið", "í borginni", "í skólanum", "í þorpinu"),
        *("á brúnni", "á skrifstofunni", "undir trénu"),
    ),
    "zh": (
        *("花园里", "车站", "厨房里", "教堂前面", "市场上", "海滩上", "图书馆里", "河边", "医院里", "房子后面"),
        *("城市里", "学校里", "村子里", "桥上", "办公室里", "树下"),
    ),
    "ja": (
        *("庭", "駅", "台所", "教会の前", "市場", "海岸", "図書館", "川の近く", "病院", "家の後ろ", "町"),
        *("学校", "村", "橋の上", "事務所", "木の下"),
    ),
}
LANGUAGES = tuple(SUBJECTS)
NUM_SENTENCES = len(SUBJECTS["en"]) * len(ACTIONS["en"]) * len(PLACES["en"])
_STEP = 3571  # coprime to the number of sentences, so that neighbouring sentences share no phrase


def sentence(number: int, language: str) -> str:
    """Return a sentence; the same number is the same sentence in every language."""
    rest, place = divmod(number * _STEP % NUM_SENTENCES, len(PLACES[language]))
    subject_number, action_number = divmod(rest, len(ACTIONS[language]))
    subject, action = SUBJECTS[language][subject_number], ACTIONS[language][action_number]
    where = PLACES[language][place]
    if language == "zh":
        return f"{subject}在{where}{action}。"
    if language == "ja":
        return f"{subject}は{where}で{action}。"
    return f"{subject} {action} {where}."


def pairs(start: int, count: int, source: str, target: str) -> Iterator[tuple[str, str]]:
    """Yield sentence pairs with consecutive numbers."""
    for number in range(start, start + count):
        yield sentence(number, source), sentence(number, target)
