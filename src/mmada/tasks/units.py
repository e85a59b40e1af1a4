"""Units of measure and of currency: read, brought to base units, compared.

A unit is a scale and a dimension, such as (1/100, {"m": 1}) for cm. Words that are not units of measure ("eggs", "red pens") are
things that are counted; they have no dimension and are compared as words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction

__all__ = ["CURRENCY_SIGNS", "NO_UNIT", "OTHER_WORDS", "Unit", "is_known_unit", "parse_unit"]


@dataclass(frozen=True)
class Unit:
    """``scale`` times a product of base units; or ``things``, the singular words of what is counted."""

    scale: Fraction = Fraction(1)
    dimension: tuple[tuple[str, int], ...] = ()
    things: frozenset[str] = field(default_factory=frozenset)

    @property
    def given(self) -> bool:
        """Whether there is a unit at all."""
        return bool(self.dimension or self.things)

    @property
    def percent(self) -> bool:
        """Whether it is the per cent sign."""
        return self.dimension == (("percent", 1),)

    def fits(self, other: Unit) -> bool:
        """Whether quantities in both may be equal: the same dimension, or things of which one names the other more closely."""
        if not self.given or not other.given:
            return True
        if self.dimension or other.dimension:
            return self.dimension == other.dimension or money(self, other) or pounds(self, other)
        return self.things <= other.things or other.things <= self.things


NO_UNIT = Unit()


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


F = Fraction
_UNITS: tuple[tuple[str, Fraction | int, str], ...] = (
    ("m", F(1, 10**9), "nm"), ("m", F(1, 10**6), "µm μm micrometer micrometre micron"),
    ("m", F(1, 1000), "mm millimeter millimetre"), ("m", F(1, 100), "cm centimeter centimetre"),
    ("m", F(1, 10), "dm decimeter decimetre"), ("m", 1, "m meter metre"), ("m", 1000, "km kilometer kilometre"),
    ("m", F(254, 10000), "in inch inches"), ("m", F(3048, 10000), "ft foot feet"), ("m", F(9144, 10000), "yd yard"),
    ("m", F(1609344, 1000), "mi mile"),
    ("kg", F(1, 10**6), "mg milligram"), ("kg", F(1, 1000), "g gram gramme"), ("kg", 1, "kg kilogram kilo"),
    ("kg", 1000, "tonne"), ("ton", 1, "ton"), ("kg", F(45359237, 10**8), "lb lbs pound"),
    ("kg", F(45359237, 16 * 10**8), "oz ounce"),
    ("s", F(1, 1000), "ms millisecond"), ("s", 1, "s sec second"), ("s", 60, "min minute"), ("s", 3600, "h hr hour"),
    ("s", 86400, "d day"), ("s", 604800, "wk week"), ("month", 1, "mo month"), ("month", 12, "yr year"),
    ("litre", F(1, 1000), "ml mL milliliter millilitre"), ("litre", F(1, 100), "cl cL centiliter centilitre"),
    ("litre", 1, "l L liter litre"), ("gallon", 1, "gal gallon"), ("gallon", F(1, 4), "qt quart"), ("gallon", F(1, 8), "pt pint"),
    ("gallon", F(1, 16), "cup"), ("degree", 1, "° deg degree"), ("radian", 1, "rad radian"),
    ("celsius", 1, "°C ℃ celsius"), ("fahrenheit", 1, "°F ℉ fahrenheit"), ("kelvin", 1, "K kelvin"),
    ("percent", 1, "% percent percentage pct"), ("dollar", 1, "$ usd dollar buck"), ("dollar", F(1, 100), "¢ cent penny pennies"),
    ("euro", 1, "€ eur euro"), ("gbp", 1, "£ gbp quid"), ("yen", 1, "¥ jpy yen"), ("rupee", 1, "₹ inr rupee rs"),
    ("won", 1, "₩ krw"), ("yuan", 1, "cny rmb yuan"),
    ("joule", 1, "J joule"), ("joule", 1000, "kJ kilojoule"), ("newton", 1, "N newton"), ("watt", 1, "W watt"),
    ("watt", 1000, "kW kilowatt"), ("volt", 1, "V volt"), ("ampere", 1, "A amp ampere"),
    ("ohm", 1, "Ω ohm"),
    ("pascal", 1, "Pa pascal"), ("pascal", 1000, "kPa kilopascal"), ("hertz", 1, "Hz hertz"), ("mol", 1, "mol mole"),
    ("calorie", 1, "cal calorie"), ("calorie", 1000, "kcal kilocalorie"),
)  # fmt: skip
_TABLE = {spelling: (dimension, Fraction(scale)) for dimension, scale, words in _UNITS for spelling in words.split()}
_COMPOUNDS = {"mph": "mile/h", "kph": "km/h", "kmh": "km/h", "fps": "ft/s", "mpg": "mile/gallon", "hectare": "10000 m^2"}
CURRENCY_SIGNS = "$€£¥₹₩¢"
MONEY = {"dollar", "euro", "gbp", "yen", "rupee", "won", "yuan"}
# Words around a unit that do not change what is measured.
FILLER = _words(
    "in total all altogether overall left remaining more each of the a an old tall long high wide deep away apart thick heavy "
    "only exactly later earlier ago now there and worth extra additional then both sum combined them us these those"
)
# Words of a sentence, not of a unit.
OTHER_WORDS = _words(
    "or not no but to than is are was were be been if so because since therefore thus he she it they we you i his her their this "
    "that which who what when where will would can could should has have had does did do from with by for at on as equals plus "
    "minus answer maybe perhaps"
)
IRREGULAR = {"feet": "foot", "people": "person", "children": "child", "men": "man", "women": "woman",
             "mice": "mouse", "geese": "goose", "teeth": "tooth", "leaves": "leaf", "loaves": "loaf", "knives": "knife",
             "halves": "half", "shelves": "shelf", "wolves": "wolf", "lives": "life", "oxen": "ox",
             "dice": "die", "vertices": "vertex"}  # fmt: skip


def singular(word: str) -> str:
    """A noun without its plural ending, in lower case."""
    word = word.casefold()
    if word in IRREGULAR:
        return IRREGULAR[word]
    if len(word) > 3 and word.endswith("ies"):
        return word[:-3] + "y"
    if re.search(r"(?:s|x|z|ch|sh|o)es$", word) and len(word) > 4:
        return word[:-2]
    return word[:-1] if len(word) > 2 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


def known(word: str) -> tuple[str, Fraction] | None:
    """Dimension and scale of a unit of measure: symbols in their own case, words in any case and number."""
    for spelling in (word, word.casefold(), singular(word)):
        if spelling in _TABLE and (spelling == word or len(spelling) > 1):  # M is not a metre
            return _TABLE[spelling]
    return None


def is_known_unit(word: str) -> bool:
    """Whether a word or symbol is a unit of measure, of currency, or the per cent sign."""
    return known(word) is not None or word.casefold() in _COMPOUNDS


WORD = re.compile(r"°[CF]?(?![a-z])|[$€£¥₹₩¢%℃℉Ω]|[a-zA-Zµμ]+|\^\s*\{?\s*-?\d+\s*\}?|(?<=[a-zA-Z])[23](?![\d.])|[/*·]|-")


def parse_unit(text: str) -> Unit | None:
    """The unit of a phrase such as ``cm^2``, ``km/h``, ``dollars per hour``, ``red pens``; None if it names no unit."""
    text = text.strip()
    if not text:
        return NO_UNIT
    text = re.sub(r"(?i)\bdegrees?\s+(celsius|fahrenheit|[cf])\b", lambda m: f"°{m[1][0].upper()}", text.replace(".", " "))
    if WORD.sub("", text).strip(" ,"):
        return None
    words = [match[0] for match in WORD.finditer(re.sub(r"\bin (?=total|all\b)", "", text))]
    if not words or len(words) > 10 or any(word.casefold() in OTHER_WORDS for word in words):
        return None
    expanded: list[str] = []
    for word in words:
        expanded += _split(_COMPOUNDS[word.casefold()]) if word.casefold() in _COMPOUNDS else [word]
    return _product(expanded)


def _split(text: str) -> list[str]:
    return re.findall(r"\d+(?= )|[a-zA-Z]+|/|\^\d", text)


def _product(words: list[str]) -> Unit | None:
    """Multiply units, powers and ``per``; stop at the first word after a unit that is neither."""
    dimension: dict[str, int] = {}
    scale, sign, prefix, things = Fraction(1), 1, 1, set[str]()
    last: tuple[str, Fraction, int] | None = None
    for word in words:
        low = word.casefold()
        if low.isdecimal() and last is None:
            scale *= int(low)
            continue
        exponent = {"squared": 2, "cubed": 3}.get(low) or (int(re.sub(r"[^\d-]", "", low)) if re.match(r"\^|\d", low) else 0)
        if exponent:
            if last is None:
                return None
            name, factor, direction = last
            dimension[name] += direction * (exponent - 1)
            scale *= factor ** (direction * (exponent - 1))
        elif low in ("/", "per"):
            sign, last = -1, None
        elif low in ("square", "sq", "cubic", "cu"):
            prefix = 2 if low.startswith("s") else 3
        elif low in ("*", "·", "-"):
            continue
        elif low in ("a", "an") and dimension and sign == 1:  # 12 dollars an hour
            sign, last = -1, None
        elif (found := known(word)) and not things and (last is None or word == "°" or len(dimension) < 3):
            name, factor = found
            dimension[name] = dimension.get(name, 0) + sign * prefix
            scale *= factor ** (sign * prefix)
            last, prefix = (name, factor, sign), 1
        elif prefix > 1 and low in ("unit", "units"):
            things, prefix = {"unit", f"power {prefix}"}, 1
        elif low not in FILLER and not dimension:
            if (len(low) < 3 and not low.isalpha()) or len(low) < 2:
                return None  # a variable
            things.add(singular(low))
    kept = tuple(sorted((name, exponent) for name, exponent in dimension.items() if exponent))
    return Unit(scale, kept, frozenset(things))


def money(left: Unit, right: Unit) -> bool:
    """Whether two amounts are of one currency, one of which says for what time or thing ("$12" and "$12 per hour")."""
    names = [{name for name, exponent in unit.dimension if exponent > 0 and name in MONEY} for unit in (left, right)]
    return bool(names[0]) and names[0] == names[1] and 1 in (len(left.dimension), len(right.dimension))


def pounds(left: Unit, right: Unit) -> bool:
    """Whether one is "pounds", of weight or of money, and the other pounds sterling."""
    pair = {left.dimension, right.dimension}
    return pair == {(("kg", 1),), (("gbp", 1),)} and F(45359237, 10**8) in (left.scale, right.scale)
