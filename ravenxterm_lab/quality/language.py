"""Everyday sentences in 31 languages: the likeliest label must be the right one."""

# ruff: noqa: RUF001 - letters of other alphabets are meant here

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.quality.base import Item, QualityCheck, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LANGUAGE_IDENTIFICATION", "is_language"]

# (name, codes that mean it: ISO 639-1 first, then those of 639-3 and what models write beside
# them, a sentence, a short one). No sentence is right in two of these languages: the pairs that
# are near to each other (Danish and Norwegian, Russian and Bulgarian) are told apart by words.
_LANGUAGES = (
    ("arabic", "ar ara arb", "ذهبنا أمس إلى السوق لشراء الخبز والفاكهة.", "أين وضعت مفاتيحي؟"),
    ("bulgarian", "bg bul", "Вчера купихме ябълки и сирене от пазара.", "Къде са ключовете ми?"),
    ("chinese", "zh zho chi cmn", "昨天晚上我们一起去河边散步了。", "这本书多少钱?"),
    ("czech", "cs ces cze", "Včera jsme dlouho čekali na poslední autobus.",
     "Děkuji, mám se dobře."),
    ("danish", "da dan", "Hun købte en ny cykel til sin yngste søn.", "Hvad hedder din hund?"),
    ("dutch", "nl nld dut", "De kinderen fietsen elke ochtend samen naar school.",
     "Wat zullen we vanavond eten?"),
    ("english", "en eng", "The children were playing in the garden when it started to rain.",
     "Where did you put my glasses?"),
    ("finnish", "fi fin", "Koira juoksi pihan poikki ja haukkui naapurin kissalle.",
     "Missä sinun takkisi on?"),
    ("french", "fr fra fre", "Nous avons acheté du pain et du fromage au marché.",
     "Il fait très froid ce soir."),
    ("german", "de deu ger", "Gestern haben wir lange auf den letzten Zug gewartet.",
     "Wo ist meine Brille?"),
    ("greek", "el ell gre", "Τα παιδιά παίζουν στην αυλή του σχολείου.",
     "Πού είναι τα κλειδιά μου;"),
    ("hebrew", "he heb iw", "אתמול קנינו לחם וגבינה בשוק.", "איפה המפתחות שלי?"),
    ("hindi", "hi hin", "बच्चे हर शाम बगीचे में खेलते हैं।", "मेरी किताब कहाँ है?"),
    ("hungarian", "hu hun", "A gyerekek a kertben játszanak, amíg az anyjuk főz.",
     "Hol van a kulcsom?"),
    ("indonesian", "id ind", "Anak-anak bermain di halaman sekolah setiap sore.",
     "Saya tidak bisa datang besok."),
    ("italian", "it ita", "Domani mattina andiamo a trovare i nonni in campagna.",
     "Non ho capito la domanda."),
    ("japanese", "ja jpn", "昨日は友達と一緒に川沿いを散歩しました。", "鍵はどこにありますか。"),
    ("korean", "ko kor", "어제 저녁에 우리는 강가를 오래 걸었습니다.", "열쇠가 어디에 있어요?"),
    ("norwegian", "no nor nb nob nn nno", "Vi gikk en lang tur i skogen før vi spiste frokost.",
     "Jeg vet ikke hva han heter."),
    ("persian", "fa fas per pes prs", "دیروز با خواهرم به بازار رفتیم و میوه خریدیم.",
     "کلیدهای من کجا هستند؟"),
    ("polish", "pl pol", "Wczoraj wieczorem oglądaliśmy film o starym zamku.",
     "Dziękuję za pomoc."),
    ("portuguese", "pt por", "Os meus vizinhos não sabem onde fica a estação.",
     "Amanhã não há aulas."),
    ("romanian", "ro ron rum", "Fratele meu lucrează la o școală din apropiere.",
     "Mulțumesc pentru ajutor."),
    ("russian", "ru rus", "Вчера вечером мы долго гуляли по набережной.",
     "Сколько стоит этот билет?"),
    ("spanish", "es spa", "Mi hermana trabaja en una biblioteca cerca del río.",
     "¿Cuánto cuesta este libro?"),
    ("swahili", "sw swa swh", "Watoto wanacheza mpira karibu na nyumba yetu.",
     "Asante sana kwa msaada wako."),
    ("swedish", "sv swe", "Jag glömde mina nycklar på bordet i köket.", "Vi ses imorgon kväll."),
    ("thai", "th tha", "เมื่อวานเราไปตลาดเพื่อซื้อผลไม้", "กุญแจของฉันอยู่ที่ไหน"),
    ("turkish", "tr tur", "Annem her sabah erkenden çarşıya gidiyor.", "Bu kitabı çok sevdim."),
    ("ukrainian", "uk ukr", "Моя бабуся щоранку пече хліб для всієї родини.",
     "Дякую, мені вже краще."),
    ("vietnamese", "vi vie", "Hôm qua chúng tôi đi chợ mua rau và cá.",
     "Chìa khóa của tôi ở đâu?"),
)  # fmt: skip


def is_language(label: str, codes: str) -> bool:
    """Say whether a model's label is one of some codes, whatever script or region follows it.

    Parameters
    ----------
    label : str
        Such as ``"de"``, ``"deu_Latn"`` or ``"pt-BR"``.
    codes : str
        Divided by spaces.

    Examples
    --------
    >>> is_language("pt-BR", "pt por"), is_language("deu_Latn", "de deu"), is_language("d", "de")
    (True, True, False)
    """
    return re.split(r"[-_]", label.strip().removeprefix("__label__"))[0].lower() in codes.split()


def _names(codes: str, sentence: str, run: Callable[[Any], Any]) -> Verdict:
    found = run(sentence)
    if not found:
        return Verdict(0.0, "no label")
    label, probability = str(found[0]["label"]), float(found[0]["probability"])
    return Verdict(float(is_language(label, codes)), f"{label} ({probability:.0%})")


LANGUAGE_IDENTIFICATION = QualityCheck(
    task="language_identification",
    version=1,
    measures=(
        "Two everyday sentences in each of 31 languages, one of them short: is the likeliest "
        "label that language? A model that always says the same gets 0.03. It says nothing of "
        "other languages, dialects, single words or texts in several languages."
    ),
    items=tuple(
        Item(f"{name}{suffix}", partial(_names, codes, text))
        for name, codes, long, short in _LANGUAGES
        for suffix, text in (("", long), ("-short", short))
    ),
    samples=lambda: (
        "Wo ist meine Brille?",
        [long for _, _, long, _ in _LANGUAGES],
        " ".join(long for _, _, long, _ in _LANGUAGES[5:15]),
    ),
    parameters={"top_k": 1},
    sample_parameters={"top_k": 1},
)
