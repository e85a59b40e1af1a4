"""Written answers brought to one plain notation: Markdown, LaTeX, Unicode, separators of thousands, number words.

``\\dfrac{1}{2}`` becomes ``((1)/(2))``, ``**10**`` becomes ``10``, ``9{,}500`` becomes ``9,500``, ``2½`` becomes ``2 1/2``.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ["NUMBER_WORDS", "boxed", "final_part", "join_thousands", "plain_notation", "spell_out_numbers"]

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
    "nineteen"
)
TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
MULTIPLES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
NUMBER_WORDS = (
    {word: value for value, word in enumerate(ONES.split())}
    | {word: 10 * value for value, word in enumerate(TENS.split(), start=2)}
    | MULTIPLES
)
PARTS = {
    "half": 2,
    "halves": 2,
    "third": 3,
    "thirds": 3,
    "quarter": 4,
    "quarters": 4,
    "fifth": 5,
    "fifths": 5,
    "tenth": 10,
    "tenths": 10,
}
WORDS_IN_MATHS = re.compile(
    r"\\(?:text|mathrm|mathbf|mathbb|mathsf|textbf|textit|mbox|hbox|emph|operatorname\*?|mathit)\s*\{([^{}]*)\}"
)
SPACES = r"(?<!\\)\\[,;:! ]|\\(?:thin|med|thick|en)?space\b|~"
SYMBOLS = {
    "cdot": "*", "times": "*", "ast": "*", "div": "/", "pm": "±", "infty": " infinity ", "circ": "°", "degree": "°",
    "percent": "%", "leq": "<=", "le": "<=", "geq": ">=", "ge": ">=", "neq": "!=", "ne": "!=", "lt": "<", "gt": ">", "cup": "∪",
    "in": "∈", "to": "->", "pi": " pi ", "quad": " ", "qquad": " ", "ldots": "...", "dots": "...", "colon": ":", "approx": "≈",
    "sim": "~", "lvert": "|", "rvert": "|", "vert": "|", "mid": "|", "lfloor": " floor(", "rfloor": ")", "lceil": " ceil(",
    "rceil": ")", "euro": "€", "pounds": "£", "lbrace": "{", "rbrace": "}", "textdollar": "$", "displaystyle": "",
    "textstyle": "", "limits": "", "emptyset": "∅", "varnothing": "∅", "therefore": "", "implies": ";", "Rightarrow": ";",
}  # fmt: skip
SIGNS = str.maketrans({
    "−": "-", "–": "-", "—": "-", "﹣": "-", "‐": "-", "‑": "-", "×": "*", "⋅": "*", "·": "*", "∙": "*", "÷": "/", "∕": "/",
    "⁄": "/", "√": " sqrt ", "π": " pi ", "∞": " infinity ", "≤": "<=", "≥": ">=", "≠": "!=", "’": "'", "‘": "'", "“": '"',
    "”": '"', "º": "°", "˚": "°", "﹪": "%", "٪": "%", "﹩": "$",
})  # fmt: skip
INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufeff\u00ad\u2061-\u2064]")
MARKER = re.compile(
    r"(?i)\b(?:answers?|result|solution|correct (?:option|choice))\b(?![^.\n:=]{0,40}\bnot\b)"
    r"[^.\n:=]{0,40}?(?:\bis\b|\bare\b|\bequals\b|:|=)\s*:?\s*"
)
TAIL = re.compile(r"(?i),?\s+(?:because|since|which (?:is|means|matches|equals)|as (?:shown|required|we)|so that)\b.*", re.S)


def braces(text: str, start: int) -> int:
    """The end of the group in braces that begins at ``start``, or -1 where it is not closed."""
    depth = 0
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0) if text[position - 1 : position] != "\\" else 0
        if depth == 0:
            return position + 1
    return -1


def boxed(text: str) -> str | None:
    """The content of the last ``\\boxed{...}``, together with those before it that only a comma, "and" or "or" parts from it."""
    spans = []
    for match in re.finditer(r"\\f?boxed\s*(?=\{)", text):
        end = braces(text, match.end())
        if end > 0:
            spans.append((match.start(), end, text[match.end() + 1 : end - 1]))
    if not spans:
        return None
    found = spans[-1][2]
    for (_, end, inner), (start, _, _) in zip(spans[-2::-1], spans[:0:-1], strict=False):
        between = re.sub(r"[$\s\\]|\\[()]|\btext\b|[{}]", " ", text[end:start]).strip()
        if between not in (",", "and", "or", ", and", ", or", ""):
            break
        found = f"{inner} {between.strip() or ','} {found}"
    return found


def final_part(text: str) -> str:
    """What a text names as its answer: in the last box, after ``####``, or after "the answer is"; else the whole text."""
    text = re.sub(r"<<[^<>]*>>", "", text).strip()
    if (box := boxed(text)) is not None:
        return box
    if "####" in text and (rest := text.rpartition("####")[2].strip()):
        return rest.splitlines()[0]
    bare = unmarked(text)
    markers = list(MARKER.finditer(bare))
    for match in reversed(markers):
        rest = bare[match.end() :].strip()
        if rest:
            return TAIL.sub("", re.split(r"\n|(?<=[^\s.])\.\s+(?=[A-Z\"'])", rest)[0])
    formulas: list[str] = re.findall(r"(?<!\\)\$[^$]+\$|\\\(.+?\\\)", bare)
    around = bare.replace(formulas[0], " ") if len(formulas) == 1 else ""
    if len(around.split()) > 2 and not re.search(r"\d|\b(?:not|no|or|than|least|most)\b|n't\b|[$\\]", around):
        return formulas[0]
    return TAIL.sub("", bare)


def unmarked(text: str) -> str:
    """Text without the marks of Markdown for strong, emphasis, code and headings; ``2**3`` stays."""
    text = re.sub(r"```\w*\n?|`", "", text)
    text = re.sub(r"(?<![\w)])(\*\*\*|\*\*|___|__)(?=\S)(.+?)(?<=\S)\1(?!\w)", r"\2", text, flags=re.S)
    text = re.sub(r"(?<![\w)*])([*_])(?=[^\s*_])([^*_\n]+?)(?<=\S)\1(?![\w*])", r"\2", text)
    return re.sub(r"(?m)^\s*(?:#{1,6}|>|[*•])\s+", "", text).strip()


def unicode_plain(text: str) -> str:
    """Vulgar fractions, superscripts, signs, spaces and wide characters in ASCII where there is such a form."""
    out = []
    for character in INVISIBLE.sub("", text):
        form = unicodedata.decomposition(character)
        if form.startswith("<fraction>"):
            spelled = unicodedata.normalize("NFKC", character).replace("⁄", "/")
            out.append(f" {spelled} " if "/" in spelled and spelled[-1] != "/" else character)
        elif form.startswith("<super>") and normal(character) in "0123456789-":
            follows = out and re.fullmatch(r"\^-?\d*|-|\d", out[-1]) and "^" in "".join(out[-4:])
            out.append(normal(character) if follows else f"^{normal(character)}")
        else:
            out.append(character)
    return normal("".join(out).translate(SIGNS))


def normal(text: str) -> str:
    """Compatibility forms (wide, superscript, thin spaces) as plain characters."""
    return unicodedata.normalize("NFKC", text).translate(SIGNS)


def groups(text: str, command: str, count: int) -> str:
    """``\\command{a}{b}`` as ``(a),(b)`` behind the mark ``\\0command``; single characters may stand without braces."""
    while (match := re.search(rf"\\{command}(?![a-zA-Z])\s*", text)) is not None:
        at, parts = match.end(), []
        for _ in range(count):
            while text[at : at + 1] == " ":
                at += 1
            end = braces(text, at) if text[at : at + 1] == "{" else at + 1
            if end < 0 or at >= len(text):
                return text
            parts.append(text[at + 1 : end - 1] if text[at] == "{" else text[at:end])
            at = end
        body = f"(({parts[0]})/({parts[1]}))" if count == 2 else f" sqrt({parts[0]})"
        text = mixed(text[: match.start()], parts) + body + text[at:] if count == 2 else text[: match.start()] + body + text[at:]
    return text


def mixed(before: str, parts: list[str]) -> str:
    """The text before a fraction; a whole number right before one of whole numbers is added, as in ``1\\frac{1}{2}``."""
    match = re.search(r"(?<![\w.^)])(\d+)\s*$", before)
    if match is None or not all(part.strip().isdecimal() for part in parts):
        return before
    return f"{before[: match.start()]}{match[1]} & "


def latex_plain(text: str) -> str:
    """LaTeX commands in plain notation."""
    text = re.sub(r"(?<=\d)(?:\{,\}|\{\\,\}|\\,|\\;|\\:|\\ |~)(?=\d{3}(?!\d))", ",", text)
    text = re.sub(r"\\(?:left|right|[bB]igg?[lr]?)(?![a-zA-Z])\s*\.?", "", text)
    text = re.sub(r"\\(?:d|t|c)frac(?![a-zA-Z])", r"\\frac", text)
    text = re.sub(r"\^\s*\{?\s*\\(?:circ|degree)\s*\}?", "°", text)
    for _ in range(3):  # one inside the other
        text = WORDS_IN_MATHS.sub(r" \1 ", text)
    text = re.sub(r"\\sqrt\s*\[\s*([^\]]+)\s*\]\s*\{([^{}]*)\}", r"((\2)^(1/(\1)))", text)
    text = re.sub(SPACES, " ", text.replace("\\!", ""))
    text = groups(groups(text, "sqrt", 1), "frac", 2)
    text = re.sub(r"\\[()\[\]]", "", text).replace("\\$", "\0").replace("\\%", "%").replace("\\{", "{").replace("\\}", "}")
    text = re.sub(r"\\([a-zA-Z]+)", lambda match: SYMBOLS.get(match[1], f"\\{match[1]}"), text)
    text = re.sub(r"\\(sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|exp|ln|lg|log)(?![a-zA-Z_])", r" \1 ", text)
    text = re.sub(r"\\(alpha|beta|gamma|delta|epsilon|theta|lambda|mu|nu|rho|sigma|tau|phi|psi|omega)(?![a-zA-Z])", r" \1 ", text)
    text = re.sub(r"\$\$(.+?)\$\$", r" \1 ", text, flags=re.S)
    text = re.sub(r"\$([^$]*[^$\s])\s*\$(?!\d)", r" \1 ", text)
    return text.replace("\0", "$")


def plain_notation(text: str) -> str:
    """An answer in plain notation on one line, without outer quotes and end marks."""
    text = unicode_plain(latex_plain(unmarked(text)))
    text = re.sub(r"(?<=\d)[_'](?=\d{3}(?!\d))", ",", text)
    text = re.sub(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?![\d.]*\d)", lambda match: match[0].replace(" ", ","), text)
    text = re.sub(r"(?<![\d.,])\d{1,3}(?:\.\d{3})+,\d{1,2}(?!\d)", lambda m: m[0].replace(".", "").replace(",", "."), text)
    text = re.sub(r"(?<![\d.,])\d{1,3}(?:\.\d{3}){2,}(?![\d.,])", lambda match: match[0].replace(".", ""), text)
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"(\d+) & (\(\(\d+\)/\(\d+\)\))", r"(\1+\2)", text)
    text = re.sub(r"(?<![\w.,/^])(\d+) (\d+)/(\d+)(?![\d.])", r"(\1+\2/\3)", text)
    previous = None
    while text != previous:
        previous = text
        text = text.strip(' "').removesuffix(";").removesuffix(",")
        text = text.removesuffix(".") if not re.search(r"\b[ap]\.m\.$", text) else text
        text = text.rstrip("!") if re.search(r"[a-z]{2}!$", text) else text
    return text


def join_thousands(text: str) -> str:
    """Numbers without their separators: ``1,234`` and ``1,00,000``."""
    return re.sub(r"(?<![\d.,])\d{1,3}(?:,\d{2,3})*,\d{3}(?![\d,])", lambda match: match[0].replace(",", ""), text)


def spell_out_numbers(text: str) -> str:
    """Number words at the begin of a text as digits: ``one hundred and five eggs`` is ``105 eggs``, ``two thirds`` ``2/3``."""
    sign = re.match(r"(?i)(minus|negative)\s+", text)
    rest = text[sign.end() :] if sign else text
    mark = "-" if sign else ""
    words = re.match(r"(?i)[a-z]+(?:(?:\s+|-)(?:and\s+)?[a-z]+)*", rest)
    if words is None:
        return mark + rest
    total, current, used = 0, 0, 0
    for match in re.finditer(r"[A-Za-z]+", words[0]):
        word = match[0].casefold()
        if word in MULTIPLES:
            current = max(current, 1) * MULTIPLES[word]
            if MULTIPLES[word] > 100:
                total, current = total + current, 0
        elif word in NUMBER_WORDS:
            current += NUMBER_WORDS[word]
        elif word in PARTS and (used or rest[:1] in "hHaAtTqQ"):
            return f"{mark}{max(total + current, 1)}/{PARTS[word]}{rest[match.end() :]}" if used or word != "third" else text
        elif (word in ("a", "an") and not used) or (word == "and" and used):
            continue
        else:
            break
        used = match.end()
    return f"{mark}{total + current}{rest[used:]}" if used else (mark + rest if sign and rest[:1].isdigit() else text)
