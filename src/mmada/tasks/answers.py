"""Answers read as what they may be: a choice, yes or no, a time of day, a ratio, a quantity, a list, an equation, a formula.

Several readings may fit one text ("3:45" is a time and a ratio, "2m" a length and a product); all are kept, and two answers are
compared by the readings that both have.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction

from mmada.tasks.expressions import NAMES, Expression, NotAnExpression, TooLarge, parse_expression
from mmada.tasks.notation import NUMBER_WORDS, join_thousands, spell_out_numbers
from mmada.tasks.units import CURRENCY_SIGNS, NO_UNIT, OTHER_WORDS, Unit, is_known_unit, parse_unit

__all__ = ["Clock", "Quantity", "Reading", "Sequence", "read"]


@dataclass(frozen=True)
class Quantity:
    """A value with its unit. ``scale`` of the unit is not applied yet."""

    value: Expression
    unit: Unit = NO_UNIT


@dataclass(frozen=True)
class Clock:
    """A time of day: minutes since midnight or, without am and pm, since 0:00 of a face that may be of 12 or 24 hours."""

    minutes: int
    half_known: bool


@dataclass(frozen=True)
class Sequence:
    """Items in brackets, or without (``opening`` empty): several answers, in any order."""

    opening: str
    closing: str
    items: tuple[Reading, ...]

    @property
    def ordered(self) -> bool:
        """Whether the order of the items matters: in a tuple or an interval."""
        return self.opening in ("(", "[")


@dataclass
class Reading:
    """All that a text may mean."""

    text: str
    choice: str = ""
    verdict: str = ""
    clock: Clock | None = None
    ratio: tuple[Fraction, ...] = ()
    quantities: list[Quantity] = field(default_factory=list)
    sequence: Sequence | None = None
    predicate: str = ""
    """What a sentence without numbers says of its subject: "blue" of "the ball is blue"."""
    symbol: str = ""
    """Left side of an equation such as ``x = 5``, where that is a symbol; the other readings are then of the right side."""
    equation: Expression | None = None
    """Left minus right side of any other equation."""
    too_large: bool = False


APPROXIMATELY = (
    r"(?:about|approximately|approx\.?|around|roughly|exactly|precisely|only|just|circa|ca\.|≈|~|=|is|it is|it's|they are"
    r"|there (?:are|is|were|was)|(?:a )?total of|i got|we get|equals|hence|thus|therefore|so)[,:]?"
)
PREFIX = re.compile(rf"(?i)^(?:{APPROXIMATELY}\s*(?<![a-z])|{APPROXIMATELY}\s+)+")
CURRENCY = {"us$": "$", "usd": "$", "eur": "€", "gbp": "£", "jpy": "¥", "inr": "₹", "rs.": "₹", "rs": "₹", "a$": "$", "c$": "$"}
BEFORE = re.compile(rf"(?i)^([-+]?)\s*(us\$|a\$|c\$|usd|eur|gbp|jpy|inr|rs\.?|[{CURRENCY_SIGNS}])\s*([-+]?)\s*(?=[\d.(s])")
MULTIPLIER = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12, "k": 1000}
AFTER = re.compile(r"(?i)^(\(?[\d.,+/()]*\d\)*)\s?(hundred|thousand|million|billion|trillion|dozen|(?<=\d)k)\b")
HEDGED = re.compile(
    r"(?i)\b(?:not|no|never|or|either|neither|nor|except|between|than|least|most|maybe|perhaps|possibly|probably|almost|nearly"
    r"|up to|\w+n't)\b"
)
LARGE = ("hundred", "thousand", "million", "billion", "trillion", "dozen")
SYMBOL = re.compile(r"[A-Za-z]\w{0,2}'*(?:\s*\([\w, ]+\))?|[A-Za-z]+(?: [A-Za-z]+){0,4}")
NAMED = re.compile(rf"\b(?:{'|'.join(NAMES)})\b|_\w+")
NUMERAL = re.compile(rf"(?<![\w.,])([-+]?[{CURRENCY_SIGNS}]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:/\d+)?)(?![\d/^*])")


def read(text: str, *, depth: int = 0) -> Reading:
    """All readings of an answer in plain notation (`mmada.tasks.notation`)."""
    reading = Reading(words(text))
    read_choice(text, reading)
    verdict = re.match(r"(?i)(yes|no|true|false)(?:$|[\s]*[,.;:!-]|\s+(?:it|they|there|he|she|the|this|that)\b)", text)
    others = set(re.findall(r"\b(?:yes|no|true|false|maybe|not sure)\b", text.casefold()))
    if verdict and others == {verdict[1].casefold()}:
        reading.verdict = verdict[1].casefold()
    statement = re.fullmatch(r"(?i)[\w' ]{2,60} (?:is|are|was|were) ([\w' -]{1,40})", text)
    if statement and not HEDGED.search(text) and not re.search(r"\d", text):
        reading.predicate = words(statement[1])
    text = re.sub(r"(?i)^[a-z](?:\s*∈\s*|\s+in\s+)(?=[(\[{])", "", PREFIX.sub("", text).strip())
    read_clock(text, reading)
    read_ratio(text, reading)
    if read_equation(text, reading, depth):
        return reading
    if depth < 3:
        read_sequence(text, reading, depth)
    if reading.sequence is None or reading.sequence.opening:
        read_quantities(text, reading)
    if depth == 0 and not reading.quantities and reading.sequence is None and not reading.too_large:
        read_prose(text, reading)
    return reading


def words(text: str) -> str:
    """Text without case, articles, spaces around signs and doubled spaces; equal texts are equal answers."""
    text = re.sub(r"\s*([^\w\s,;]|_)\s*", r"\1", text.casefold())
    text = re.sub(r"^(?:it is|it's|they are|this is) ", "", text)
    return re.sub(r"^(?:an?|the) (?=\w{2})", "", text).strip(" .")


def read_choice(text: str, reading: Reading) -> None:
    """One letter of a multiple choice: "(B) 40 cm", "option B". What follows it is read as well."""
    match = re.match(r"(?i)(?:(?:option|choice|answer)\s+)?(\()?([a-h])(?:(?(1)\)|[).:])(?!\w)\s*(.*)$|$)", text, flags=re.S)
    if match is None:
        return
    rest = match[3] or ""
    if re.search(r"\([A-Ha-h]\)|(?<![\w^])[B-H](?![\w^(])(?!\s*=)", rest):
        return  # more than one letter is named
    reading.choice = match[2].casefold()
    if rest:
        inner = read(rest, depth=1)
        reading.quantities, reading.sequence, reading.clock = inner.quantities, inner.sequence, inner.clock


def read_clock(text: str, reading: Reading) -> None:
    """A time of day."""
    low = re.sub(r"^at ", "", text.casefold())
    if low in ("noon", "midnight", "12 noon", "12 midnight"):
        reading.clock = Clock(720 if "noon" in low else 0, True)
        return
    match = re.fullmatch(r"(\d{1,2})(?:[:.](\d{2}))?(?::\d{2})?\s*(a\.?m\.?|p\.?m\.?|o'clock)?", low)
    if match is None or (not match[3] and ":" not in low) or int(match[1]) > 24 or int(match[2] or 0) > 59:
        return
    hours, half = int(match[1]), (match[3] or "")[:1]
    if half in ("a", "p"):
        hours = hours % 12 + (12 if half == "p" else 0) if hours <= 12 else hours
    reading.clock = Clock(hours * 60 + int(match[2] or 0), half in ("a", "p") or hours > 12)


def read_ratio(text: str, reading: Reading) -> None:
    """``3:4``, ``3 to 4``, ``1:2:3``."""
    parts = re.split(r"\s*:\s*|\s+to\s+", text)
    if 2 <= len(parts) <= 5 and all(re.fullmatch(r"\d{1,9}(?:\.\d{1,9})?", part) for part in parts):
        reading.ratio = tuple(Fraction(part) for part in parts)


def read_equation(text: str, reading: Reading, depth: int) -> bool:
    """``x = 5`` and chains such as ``3 + 4 = 7`` are read as what stands on the right. True where nothing else is to be read."""
    parts = re.split(r"(?<![<>!:=])=(?!=)", text)
    if len(parts) < 2 or depth > 2 or not all(part.strip() for part in parts) or re.search(r"[,;]|\b(?:or|and)\b", text):
        return False
    left, right = parts[0].strip(), parts[-1].strip()
    if re.fullmatch(r"[\d.]+", left) and re.fullmatch(r"[A-Za-z]", right):  # 5 = x
        left, right = right, left
    named = SYMBOL.fullmatch(left)
    if not named and has_words(NAMED.sub("", f"{left} {right}")):
        left = ""
    try:
        difference = None if named or not left else parse_expression(f"({join_thousands(left)})-({join_thousands(right)})")
    except (NotAnExpression, TooLarge):
        return False
    if difference is not None and difference.variables:
        reading.equation = difference
        return True
    inner = read(right, depth=max(depth, 1))
    reading.symbol = left if named else ""
    reading.quantities, reading.sequence, reading.clock = inner.quantities, inner.sequence, inner.clock
    reading.too_large, reading.ratio = inner.too_large, inner.ratio
    reading.text = inner.text if named else reading.text
    return True


def top_level(text: str, separators: re.Pattern[str]) -> list[str]:
    """Parts of a text between separators that stand in no brackets."""
    parts, depth, start, position = [], 0, 0, 0
    while position < len(text):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(text[position], 0)
        match = separators.match(text, position) if depth == 0 else None
        if match and match.end() > position:
            parts.append(text[start:position])
            position = start = match.end()
        else:
            position += 1
    return [part.strip() for part in [*parts, text[start:]]]


TIGHT = re.compile(r"\s*[,;]\s*(?:and\s+|or\s+)?|\s+(?:and|or|&)\s+")


def read_sequence(text: str, reading: Reading, depth: int) -> None:
    """Several answers, a tuple, a set, an interval, a union of intervals, plus or minus."""
    opening = closing = ""
    if len(union := top_level(text, re.compile(r"\s*(?:∪|(?<=[)\]}])\s*U(?=\s*[(\[{]))\s*"))) > 1:
        parts = union
    elif match := re.fullmatch(r"(.*?)(?:±|\+/-|\+-)\s*(.+)", text):
        parts = [f"{match[1]}+({match[2]})" if match[1].strip() else match[2], f"{match[1]}-({match[2]})"]
    else:
        inner = text
        if text[:1] in ("(", "[", "{") and text[-1:] in (")", "]", "}") and bracket_end(text) == len(text) - 1:
            opening, closing, inner = text[0], text[-1], text[1:-1]
        # A comma without a space separates the items of brackets; outside of them it may separate thousands.
        if opening and not re.search(r",\s", inner):
            parts = top_level(inner, TIGHT)
        else:
            inner = join_thousands(inner)
            parts = top_level(inner, TIGHT)
        if len(parts) < 2 and not (opening in ("{", "[") and parts[0]):
            return
    one_value = compound(text) or re.fullmatch(r"-?\d+", spell_out_numbers(text))  # one hour and ten minutes; a hundred and five
    if not all(parts) or len(parts) > 30 or (one_value and not opening):
        return
    items = tuple(read(part, depth=depth + 1) for part in parts)
    if opening or all(stands_alone(item) for item in items):
        reading.sequence = Sequence(opening, closing, items)


def stands_alone(item: Reading) -> bool:
    """Whether an item of a bare list is an answer by itself: a value, or one to three words without a number."""
    if item.quantities or item.sequence or item.symbol or item.equation or item.ratio or item.clock or item.too_large:
        return True
    return len(item.text.split()) <= 3 and re.search(r"\d", item.text) is None


def bracket_end(text: str) -> int:
    """Index at which the opening bracket of a text, of any kind, is closed."""
    depth = 0
    for position, character in enumerate(text):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(character, 0)
        if depth == 0:
            return position
    return -1


PIECE = re.compile(r"(?i)\s*(?:,\s*)?(?:and\s+)?(\$?\s*\d+(?:\.\d+)?(?:/\d+)?)\s*(°|[a-z]+|)")


def compound(text: str) -> Quantity | None:
    """A quantity in several units, "1 hour 30 minutes", "5 ft 3 in", "5 dollars and 50 cents", in the base unit."""
    pieces, position, total, last = 0, 0, Fraction(0), None
    unit: Unit | None = None
    while match := PIECE.match(text, position):
        unit = parse_unit(match[2] or ("dollar" if "$" in match[1] else ""))
        if unit is None or not unit.dimension or (last and (unit.dimension != last.dimension or unit.scale >= last.scale)):
            return None
        total += Fraction(match[1].strip(" $")) * unit.scale
        pieces, position, last = pieces + 1, match.end(), unit
    if pieces < 2 or last is None or text[position:].strip(" ."):
        return None
    return Quantity(parse_expression(f"{total.numerator}/{total.denominator}"), Unit(Fraction(1), last.dimension))


def read_quantities(text: str, reading: Reading) -> None:
    """A formula, or a number and its unit; both where both fit ("2m")."""
    text = spell_out_numbers(text)
    if (twice := re.fullmatch(r"(.+?)\s*\(([^()]+)\)", text)) and twice[1] == spell_out_numbers(twice[2]):
        text = twice[1]  # 10 (ten)
    if (found := compound(text)) is not None:
        reading.quantities.append(found)
        return
    unit_before = ""
    if match := BEFORE.match(text):
        unit_before = CURRENCY.get(match[2].casefold(), match[2])
        text = (match[1] or match[3]) + text[match.end() :]
    text = join_thousands(text)
    if unit_before:  # $1.5M
        text = re.sub(r"^([\d.]+)\s?M\b", r"(\1*1000000)", text)
    text = AFTER.sub(lambda m: f"({m[1]}*{MULTIPLIER[m[2].casefold()]})", text)
    text = re.sub(r"(?<=\d) ?[xX] ?(?=10 ?\^)", "*", text)
    text = re.sub(r"(?<=[\d)]) (?:times|multiplied by) (?=[\d(])", "*", text)
    for end in sorted({len(text), *boundaries(text)}, reverse=True):
        unit = parse_unit(f"{unit_before} {text[end:]}")
        if unit is None or (text[end:].strip() and not unit.given and len(text[end:]) > 24):
            continue
        try:
            value = parse_expression(text[:end])
        except NotAnExpression:
            continue
        except TooLarge:
            reading.too_large = True
            continue
        if text[end:].strip() and value.variables:
            continue
        if value.variables and has_words(NAMED.sub("", text)):
            continue
        reading.quantities.append(Quantity(value, unit))


def has_words(text: str) -> bool:
    """Whether letters of a formula are words of a sentence rather than products of variables."""
    return any(len(word) > 2 or word.casefold() in OTHER_WORDS for word in re.findall(r"[A-Za-z]{2,}", text))


def boundaries(text: str) -> list[int]:
    """Positions where a number may end and its unit begin: not within a word or a number."""
    limit = min(len(text), 160)
    found = []
    for i in range(1, limit):
        left, right = text[i - 1], text[i]
        if not (left.isalpha() and right.isalpha()) and not (left.isdigit() and right in "0123456789.,"):
            found.append(i)
    return found


def read_prose(text: str, reading: Reading) -> None:
    """The one number of a sentence that is the answer: of the last sentence with numbers, after its last "so" or "=".

    A sentence that names other numbers as well, or that hedges ("10 or 12", "not 10"), states no answer.
    """
    sentences = [part for part in re.split(r"\n|(?<=[^\s.])[.!?]\s+(?=[A-Z\"'(])", text) if re.search(r"\d", part)]
    if not sentences:
        low = re.findall(r"[a-z]+", text.casefold())
        numbers = [word for word in low if word in NUMBER_WORDS and word not in (*LARGE, "one")]
        if len(numbers) == 1 and not HEDGED.search(text) and len(low) > 1:
            reading.quantities.append(Quantity(parse_expression(str(NUMBER_WORDS[numbers[0]]))))
        return
    plain = re.sub(r"\(\(([^()]+)\)/\(([^()]+)\)\)", r"\1/\2", sentences[-1])
    sentence = re.split(r"(?i)\b(?:so|therefore|thus|hence|total of|which (?:is|makes|gives))\b|=", plain)[-1]
    numerals = list(NUMERAL.finditer(sentence))
    low = re.findall(r"[a-z]+", sentence.casefold())
    spelled = [word for word in low if word in NUMBER_WORDS and word not in (*LARGE, "one")]
    digits = [len(re.findall(r"\d+", part)) for part in (sentence, numerals[0][0] if numerals else "")]
    if len(numerals) != 1 or spelled or HEDGED.search(sentence) or digits[0] > digits[1]:
        return
    after = re.match(r"\s*((%|°[CF]?|[A-Za-z]+)(?:\s?\^\s?\d)?(?:\s?(?:/|per)\s?[A-Za-z]+)?)", sentence[numerals[0].end() :])
    unit = after[1] if after and (is_known_unit(after[2]) or after[2].casefold() in MULTIPLIER) else ""
    if unit.casefold() in ("in", "a", "h", "s", "m", "d"):  # more often words of the sentence than units
        unit = ""
    read_quantities(f"{numerals[0][1]} {unit}".strip(), reading)
