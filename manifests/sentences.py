"""English sentences of a small grammar, from a seed: plain words, no digits, every phoneme of English among them."""

import random
from collections.abc import Sequence

from voxtok.runtime.errors import ConfigError

PATTERNS = (
    "D A N V d a n P l",
    "W D N V d a n",
    "I V C n P l W",
    "D N P l V d n B",
    "B D A N V C a n",
    "I M v d n P l",
    "M D N v d a n B",
    "D N V d n J I V d n",
    "C a n S P l W",
    "L D A N V d n J D N V C n",
)
"""One letter a part of speech:

D, d  determiner of a subject, of an object      A, a  adjective of a person or animal, of a thing
N, n  person or animal, thing                    V, v  verb with an object, past tense and infinitive
S     verb without one                           I, M  pronoun, modal verb
C     number (the thing after it is plural)      P, l  preposition, place
W, B  time, manner                               J, L  conjunction between clauses, before one
"""

WORDS = {
    "D": "the my your our this that each every another his her".split(),
    "d": "the a my your our this that his her another".split(),
    "C": "two three four five six seven eight nine ten eleven twelve thirteen twenty thirty forty ninety".split(),
    "I": "i you we they she he".split(),
    "M": "could would should might can will".split(),
    "A": (
        "young old gentle clever strange thirsty cheerful lazy brave quiet royal famous northern southern "
        "foolish tall hungry kind proud shy busy joyful polite serious rough curious"
    ).split(),
    "a": (
        "huge small yellow purple orange blue broken shiny cheap heavy round square empty full golden silver "
        "wooden dusty frozen fresh sour sweet bitter pure thick thin bright dark loud smooth narrow loose "
        "soft warm cool noisy oily"
    ).split(),
    "N": (
        "boy girl king queen judge teacher doctor farmer sailor nurse soldier painter singer lawyer driver "
        "baker captain chief cousin uncle aunt father mother brother neighbor stranger thief witch giant "
        "monkey horse sheep fox wolf donkey lion mouse goose duck child youth author engineer"
    ).split(),
    "n": (
        "box book shoe chair table window door garage measure treasure picture coin toy voice choice engine "
        "bridge wheel clock watch ring song finger thumb mouth tooth path cloth feather fire tower flower "
        "hour boat coat road goat house cow cloud crowd badge orange sponge cage page vision mirage rug bush "
        "cushion cookie hook lake cake plate snake apple candle carrot jacket cabbage lemon melon pepper "
        "pencil ladder hammer basket letter paper river bottle kettle needle saddle whistle jar star car "
        "heart garden yard corner fork sword board bird shirt word pearl ear beard pier pear onion canyon "
        "cube fuse mule zebra lizard prison violin valve glove stove thing thought berry diary city nut "
        "button mitten curtain"
    ).split(),
    "l": (
        "the_garden the_kitchen the_harbor the_forest the_village the_station the_market the_school "
        "the_church the_bridge the_castle the_valley the_island the_beach the_museum the_theater the_garage "
        "the_cave the_tower the_mountain the_airport the_kingdom the_south the_north the_other_side "
        "the_old_mill the_public_library the_railway the_factory the_ocean"
    ).split(),
    "V": (
        "found saw took gave bought sold carried watched measured treasured pushed pulled chose threw caught "
        "brought drew painted cleaned washed dropped lifted moved touched reached opened closed fixed mixed "
        "tasted joined enjoyed destroyed avoided noticed wanted needed liked loved showed followed counted "
        "covered shook shared forgot judged changed charged urged examined imagined"
    ).split(),
    "v": (
        "find see take give buy sell carry watch measure treasure push pull choose throw catch bring draw "
        "paint clean wash drop lift move touch reach open close fix mix taste join enjoy destroy avoid notice "
        "want need like love show follow count cover shake share forget judge change charge urge examine "
        "imagine"
    ).split(),
    "S": "stood lay fell appeared vanished shone turned moved rested waited floated burned".split(),
    "P": "in near behind beyond from above under across beside around toward past outside within".split(),
    "W": "yesterday today tomorrow tonight this_morning last_week every_thursday at_noon in_july before_lunch".split(),
    "B": (
        "again quietly slowly usually maybe suddenly finally often already clearly carefully with_joy for_pleasure"
    ).split(),
    "J": "and but while because before after until although".split(),
    "L": "when if once since whenever as_soon_as".split(),
}


def sentences(count: int, seed: int) -> list[str]:
    """Make sentences of 4 to 13 words; they differ from each other as far as the grammar goes (billions).

    Worked: the pattern "I V C n P l W" may give "we found seven boxes near the harbor tonight".
    """
    generator = random.Random(f"sentences {seed}")
    found: dict[str, None] = {}
    tries = 0
    while len(found) < count:
        found.setdefault(_sentence(generator))
        tries += 1
        if tries > 100 * count + 1000:
            raise ConfigError(f"the grammar has no {count} different sentences: give your own with --sentences")
    return list(found)


def _sentence(generator: random.Random) -> str:
    words: list[str] = []
    plural = False
    for part in _pick(PATTERNS, generator).split():
        word = _pick(WORDS[part], generator)
        words.append(_plural(word) if plural and part == "n" else word)
        plural = part == "C" or (plural and part == "a")
    return _with_articles(" ".join(words).replace("_", " "))


def _pick(items: Sequence[str], generator: random.Random) -> str:
    return items[int(generator.random() * len(items))]  # random() alone is promised to be stable across Pythons


def _plural(noun: str) -> str:
    if noun == "tooth":
        return "teeth"
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def _with_articles(sentence: str) -> str:
    words = sentence.split()
    for index, following in enumerate(words[1:]):
        if words[index] == "a" and (following[0] in "aeiou" or following == "hour"):
            words[index] = "an"
    return " ".join(words)
