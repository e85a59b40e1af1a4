"""`same_answer`: a table of spellings, units and separators, right and wrong, in both directions."""

import itertools
import time

import pytest

from mmada.tasks.formula_process import FormulaProcess
from mmada.tasks.mathematics import same_answer

# One number in many spellings: {n} is the number.
SPELLINGS = [
    "{n}", " {n} ", "{n}.", "{n}.0", "{n}.00", "+{n}", "**{n}**", "*{n}*", "_{n}_", "`{n}`", "***{n}***",
    "__{n}__", '"{n}"', "${n}$",
    "$${n}$$", "\\({n}\\)", "\\[{n}\\]", "\\boxed{{{n}}}", "$\\boxed{{{n}}}$", "The answer is \\boxed{{{n}}}.", "\\text{{{n}}}",
    "\\mathrm{{{n}}}", "\\mathbf{{{n}}}", "\\left({n}\\right)", "({n})", "Answer: {n}", "**Answer:** {n}", "The answer is {n}.",
    "The final answer is: {n}", "the answer is **{n}**", "So the answer is ${n}$.", "#### {n}", "It adds up.\n#### {n}",
    "x = {n}",
    "$x={n}$", "x={n}.", "{n} = x", "Final answer: $\\boxed{{{n}}}$", "about {n}", "approximately {n}", "It is {n}.",
    "= {n}", "\u200b{n}",
    "The result is {n}", "Answer:\n{n}", "There are {n} of them.", "She has {n} eggs left.", "\\frac{{{n}}}{{1}}", "{n}/1",
    "Tom had 3 and got 4 more, so he has {n} now.", "> {n}", "# {n}", "Therefore, {n}", "\\displaystyle {n}", "{n} ",
]  # fmt: skip
UNITS = [
    "dollars", "dollar", "eggs", "apples", "cm", "m", "km", "kg", "g", "grams", "hours", "minutes", "seconds", "years old",
    "years", "km/h",
    "miles per hour", "mph", "cm^2", "cm²", "square cm", "cubic meters", "m^3", "m/s^2", "degrees", "°", "^\\circ",
    "percent", "%", "\\%",
    "red pens", "boxes of chocolates", "students", "people", "\\text{ cm}", "\\text{cm}^2", "\\mathrm{~km}", "pounds",
    "euros", "cents",
    "units", "square units", "more eggs", "days", "litres", "mL", "feet tall", "inches", "dollars per hour",
    "eggs in total", "USD", "EUR",
    "pages", "tickets", "children", "times", "m long", "°C", "points", "cookies each", "in total",
]  # fmt: skip
CURRENCIES = [
    "${n}",
    "\\${n}",
    "$\\${n}$",
    "$ {n}",
    "€{n}",
    "{n}€",
    "£{n}",
    "USD {n}",
    "US${n}",
    "{n}$",
    "{n} $",
    "¥{n}",
    "₹{n}",
    "{n}\\$",
]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("number", ["10", "7", "128"])
def test_one_number_in_any_spelling(spelling: str, number: str) -> None:
    answer = spelling.format(n=number)
    assert same_answer(number, answer)
    assert same_answer(answer, number)
    for wrong in ("11", "1", "0", "100", "-10"):
        assert not same_answer(wrong, answer), wrong
        assert not same_answer(answer, wrong), wrong


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_that_only_one_side_gives(unit: str) -> None:
    for form in (
        "{n} {u}",
        "**{n} {u}**",
        "{n}\\,{u}",
        "${n}$ {u}",
        "The answer is {n} {u}.",
        "\\boxed{{{n} {u}}}",
        "{n}\u00a0{u}",
    ):
        answer = form.format(n=10, u=unit)
        assert same_answer("10", answer), answer
        assert same_answer(answer, "10"), answer
        assert not same_answer("12", answer), answer
        assert not same_answer(answer, f"12 {unit}"), answer
        assert same_answer(f"10 {unit}", answer), answer


@pytest.mark.parametrize("form", CURRENCIES)
def test_currencies(form: str) -> None:
    for number, others in (
        ("10", ["10.00", "10.0"]),
        ("9500", ["9,500", "9{,}500", "9\\,500", "9 500", "9,500.00"]),
        ("2.50", ["2.5"]),
    ):
        for other in [number, *others]:
            answer = form.format(n=other)
            assert same_answer(number, answer), answer
            assert same_answer(answer, number), answer
            assert not same_answer("11", answer), answer


SEPARATORS = [",", "{,}", "\\,", "\u2009", "\u202f", "\u00a0", " ", "_", "'", "’", "\\ ", "\\;", "~"]


@pytest.mark.parametrize("separator", SEPARATORS)
@pytest.mark.parametrize("form", ["{}", "${}$", "\\boxed{{{}}}", "{} dollars", "**{}**", "The answer is {}.", "\\${}", "-{}"])
def test_separators_of_thousands(separator: str, form: str) -> None:
    for groups in (["1", "234"], ["12", "345", "678"], ["9", "500"]):
        number = "".join(groups)
        gold = f"-{number}" if form.startswith("-") else number
        answer = form.format(separator.join(groups))
        assert same_answer(gold, answer), answer
        assert same_answer(answer, gold), answer
        assert not same_answer(groups[-1], answer), answer
        assert not same_answer(groups[0], answer), answer


# Groups of answers that are the same among each other and unlike every answer of the other groups of the same table.
GROUPS = [
    [
        ["1/2", "0.5", ".5", "\\frac{1}{2}", "\\frac12", "\\dfrac{1}{2}", "\\tfrac 1 2", "½", "2/4", "50%", "50\\%",
         "$\\frac{1}{2}$", "one half",
         "0.50", "5/10", "2^{-1}", "half", "\\frac{1}{2} \\text{ }"],
        ["1/3", "\\frac{1}{3}", "0.333333", "one third", "⅓", "2/6"],
        ["0.33"],
        ["2", "two", "4/2", "\\sqrt{4}", "1+1", "2.000", "8^{1/3}", "\\sqrt[3]{8}", "200%"],
        ["1/4", "0.25", "25%", "a quarter", "¼", "25 percent"],
        ["2.5", "5/2", "2 1/2", "2\\frac{1}{2}", "2½", "2\\frac12", "\\frac{5}{2}", "$2\\ \\frac{1}{2}$", "2.50"],
        ["-2.5", "-5/2", "-2 1/2", "-\\frac{5}{2}", "\\frac{-5}{2}", "−2.5", "–2.5", "minus 2.5", "-2\\frac{1}{2}",
         "negative 2.5"],
    ],
    [
        ["1200", "1,200", "1.2 \\times 10^3", "1.2e3", "1.2 x 10^3", "1.2×10³", "12 hundred", "1.2 \\cdot 10^{3}",
         "$1,200$", "1.2k",
         "one thousand two hundred", "1 200", "1200.0"],
        ["1, 200", "1 and 200", "{1, 200}", "200, 1"],
        ["1.2"],
        ["1200000", "1.2 million", "1,200,000", "1.2 \\times 10^6", "1.2*10^6"],
        ["0.0012", "1.2 \\times 10^{-3}", "1.2e-3", "1.2 × 10⁻³"],
        ["-1200", "-1,200", "−1200", "-$1,200", "$-1200$", "minus 1200"],
    ],
    [
        ["\\sqrt{8}", "2\\sqrt{2}", "2√2", "sqrt(8)", "2\\sqrt2", "8^{1/2}", "\\frac{4}{\\sqrt{2}}", "2 sqrt(2)",
         "$2\\sqrt{2}$ cm", "\\sqrt 8"],
        ["2\\sqrt{3}", "\\sqrt{12}"],
        ["2.8"],
        ["\\pi", "π", "pi", "3.141592654", "$\\pi$"],
        ["2\\pi", "2π", "\\pi*2", "2\\pi \\text{ cm}", "2 pi"],
        ["3.14"],
        ["\\frac{\\pi}{2}", "π/2", "pi/2", "0.5\\pi", "\\frac{1}{2}\\pi"],
        ["\\infty", "infinity", "∞"],
        ["5!", "120"],
        ["10^{12}", "1000000000000", "1,000,000,000,000", "10^12", "1 trillion"],
    ],
    [
        ["1, 2", "2, 1", "1 and 2", "1 or 2", "x = 1 or x = 2", "x=1, x=2", "{1, 2}", "\\{1,2\\}", "$1$ and $2$", "1; 2",
         "x = 1, 2", "1,2",
         "\\boxed{1} and \\boxed{2}", "The answers are 1 and 2."],
        ["1"],
        ["2"],
        ["12"],
        ["1, 2, 3", "3, 2, 1", "{1,2,3}", "1, 2, and 3", "1, 2 and 3"],
        ["(-\\infty, 1]", "(-∞, 1]", "(-infinity,1]"],
        ["(-\\infty, 1) \\cup (2, 3)", "(-∞,1)∪(2,3)", "(2,3) U (-\\infty,1)"],
        ["\\pm 3", "±3", "3, -3", "-3 and 3", "x = \\pm 3"],
    ],
    [
        ["(1, 2)", "(1,2)", "\\left(1, 2\\right)", "$(1,2)$", "(1, 4/2)", "(1.0, 2)"],
        ["(2, 1)", "(2,1)", "2, 1"],
        ["[1, 2]", "[1,2]", "\\left[1, 2\\right]"],
        ["[1, 2)", "[1,2)", "$\\left[1,2\\right)$", "x \\in [1, 2)"],
        ["{1, 3}", "\\{3, 1\\}"],
    ],
    [
        ["x+1", "1+x", "$x + 1$", "y = x + 1", "(x+1)", "\\frac{2x+2}{2}", "x - (-1)"],
        ["x-1", "-1+x"],
        ["(x+1)^2", "x^2+2x+1", "x^2 + 2x + 1", "(x+1)(x+1)", "x² + 2x + 1", "1 + 2x + x^{2}"],
        ["2x", "x*2", "x+x", "2 \\cdot x"],
        ["x^2", "x²", "x \\cdot x", "x*x", "x**2", "x^{2}"],
        ["x^2+y^2=4", "x^2 + y^2 - 4 = 0", "4 = x^2+y^2", "2x^2+2y^2=8"],
        ["x^2+y^2=5"],
        ["\\sin(x)", "\\sin x", "sin(x)"],
        ["\\cos x"],
        ["\\frac{x}{y}", "x/y", "\\frac xy"],
        ["\\frac{y}{x}", "y/x"],
        ["e^{x}", "e^x", "\\exp(x)"],
    ],
    [
        ["B", "b", "(B)", "B.", "B)", "(b)", "\\text{B}", "\\textbf{(B)}", "The answer is B.", "Answer: B", "**B**",
         "option B", "(B) 40 cm",
         "B: 40 cm", "The correct option is (B).", "\\boxed{\\text{(B)}}", "B. 40 cm"],
        ["C", "(C)", "C) 50", "The answer is C", "(C) 40 cm"],
        ["A", "(A) a cat", "A."],
        ["B and C", "B, C"],
    ],
    [
        ["yes", "Yes.", "YES", "Yes, it is.", "**Yes**", "The answer is yes.", "yes!"],
        ["no", "No.", "No, it is not.", "\\text{no}"],
        ["red", "Red.", "RED", "**red**", "\\text{red}", "It is red."],
        ["blue", "Blue"],
        ["Paris", "paris", "The answer is Paris.", "**Paris**."],
        ["a cat", "cat", "The cat"],
    ],
    [
        ["3:45", "03:45"],
        ["3:46", "3:46 PM"],
        ["noon", "12:00 pm", "12 pm", "12 noon"],
        ["7 pm", "7:00 PM", "7:00 p.m.", "7 p.m.", "19:00"],
        ["7 am", "7:00 a.m."],
        ["3:4", "3 : 4", "3 to 4", "6:8", "3/4", "0.75"],
        ["4:3", "8:6"],
        ["1:2:3", "2:4:6"],
    ],
    [
        ["1 hour", "60 minutes", "1 h", "3600 seconds", "one hour", "60 min"],
        ["1.5 hours", "90 minutes", "1 hour 30 minutes", "1 hour and 30 minutes", "1 h 30 min", "1 1/2 hours",
         "1\\frac{1}{2} hours"],
        ["100 m", "10000 cm", "0.1 km", "100 meters", "100 metres", "100\\text{ m}"],
        ["100 cm", "1 m", "1 meter"],
        ["100 km", "100 kilometers"],
        ["100 kg"],
        ["$5.50", "5 dollars and 50 cents", "550 cents", "\\$5.50", "5.50 dollars", "$5.5"],
        ["5.50 euros", "€5.50", "5.5 EUR"],
        ["100 apples", "100 apple"],
        ["100 oranges"],
        ["100 m^2", "100 square meters", "100 m²", "100 sq m"],
        ["100 m/s", "100 meters per second", "360 km/h"],
        ["5 ft 3 in", "63 inches", "5 feet 3 inches", "5 feet and 3 inches"],
        ["100 degrees", "100°", "100^\\circ", "100^{\\circ}"],
    ],
]  # fmt: skip
PAIRS = [(a, b) for table in GROUPS for group in table for a, b in itertools.combinations_with_replacement(group, 2)]


@pytest.mark.parametrize(("gold", "answer"), PAIRS)
def test_same(gold: str, answer: str) -> None:
    assert same_answer(gold, answer)
    assert same_answer(answer, gold)


@pytest.mark.parametrize("table", range(len(GROUPS)))
def test_unlike(table: int) -> None:
    pairs = [(a, b) for one, two in itertools.combinations(GROUPS[table], 2) for a in one for b in two]
    wrong = [(a, b) for a, b in pairs if same_answer(a, b) or same_answer(b, a)]
    assert not wrong


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("10", "10 or 12"), ("12", "10 or 12"), ("10", "either 10 or 12"), ("10", "10, 12"), ("10", "not 10"), ("10",
        "It is not 10."),
        ("10", "between 9 and 10"), ("10", "more than 10"), ("10", "at least 10"), ("10", "She has 10 eggs and 3 hens."),
        ("10", "10 12"),
        ("10", "Step 10: it is 12."), ("7", "3 + 4 = 8"), ("10", "ten or twelve"), ("10", "10-12"), ("12", "10-12"), ("10",
        "10^2"),
        ("10", "x^10"), ("10", "10x"), ("10", "1 0"), ("10", "010.5"), ("10", "10/3"), ("10", ""), ("", "10"), ("", ""),
        (" ", " "),
        ("10", "\\boxed{}"), ("10", "\\boxed{12}. I first got \\frac{20}{2}."), ("12", "10 \\boxed{10} 12"), ("10",
        "The answer is 12, not 10."),
        ("10", "The answer is 12. Check: 10 + 2."), ("x=5", "y=5"), ("5", "x = 6"), ("50", "0.5"), ("50", "5%"), ("0.5", "5%"),
        ("1,234", "1, 234"), ("1.234", "1234"), ("1.234", "1,234"), ("10 cm", "10 m"), ("10 m", "10 m^2"), ("10 km", "10 km/h"),
        ("10 dollars", "10 euros"), ("10 eggs", "10 apples"), ("$10", "10 cents"), ("10 kg", "10 cm"), ("3:45 am", "3:45 pm"),
        ("(1, 2)", "1"), ("1, 2", "1, 2, 3"), ("1, 2", "1, 1"), ("yes", "yes and no"), ("yes", "no, yes"), ("B", "A or B"),
        ("B", "(A) or (B)"),
        ("B", "BC"), ("A", "a cat"), ("cat", "act"), ("red", "dark red"), ("no", "yes"), ("1/3", "0.33"), ("2/3", "0.67"),
        ("\\pi", "22/7"),
        ("\\sqrt{2}", "1.41"), ("x", "y"), ("x+1", "x+2"), ("x^2", "2x"), ("10", "\\boxed{10} or \\boxed{12}"), ("5",
        "-5"), ("-5", "5"),
        ("5", "−5"), ("0", "none of 3"), ("10", "10 billion"), ("10", "10k"), ("1", "100"), ("3:4", "4:3"), ("A",
        "The answer is B."),
    ],
)  # fmt: skip
def test_wrong_answers_are_wrong(gold: str, answer: str) -> None:
    assert not same_answer(gold, answer)
    assert not same_answer(answer, gold)


@pytest.mark.parametrize(
    "formula",
    [
        "10^{10^{10^{10}}}", "9^{9^{9^{9}}}", "9**9**9**9", "1e999999999", "(10^{10^9})!", "99999!",
        "((((2^9999)^9999)^9999)^9999)",
        "\\frac{1}{10^{10^{10}}}", "(" * 500 + "1" + ")" * 500, "-" * 3000 + "1", "2" * 10_000, "x^{9^{9^{9}}}",
        "\\sqrt{" * 50 + "2" + "}" * 50,
        "1+" * 3000 + "1",
        "{" * 300, "\\boxed{" * 300, "$" * 5000, "1,000," * 2000, "**" * 4000, "a b " * 4000, "1/" * 150 + "0", "0/0", "1/0",
    ],
)  # fmt: skip
def test_dangerous_formulas_are_done_with_soon(formula: str) -> None:
    start = time.monotonic()
    for gold in ("5", "x+1", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"):
        assert not same_answer(gold, formula)
        assert not same_answer(formula, gold)
    assert time.monotonic() - start < 15


def test_without_math_verify_arithmetic_and_algebra_are_compared_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmada.tasks.formula_process.PROCESS", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert same_answer("x^2+2x+1", "(x+1)^2")
    assert same_answer("\\sqrt{8} cm", "$2\\sqrt{2}$")
    assert not same_answer("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}2\\\\1\\end{pmatrix}")


def test_what_only_algebra_knows_goes_to_math_verify() -> None:
    pytest.importorskip("math_verify")
    matrix = "\\begin{pmatrix}1\\\\%s\\end{pmatrix}"
    assert same_answer(matrix % "\\frac{1}{2}", matrix % "0.5")
    assert not same_answer(matrix % "\\frac{1}{2}", matrix % "0.6")


def test_a_comparison_that_hangs_is_ended_and_the_next_one_works() -> None:
    pytest.importorskip("math_verify")
    process = FormulaProcess(seconds=0.5)
    try:
        assert process.compare("5", "9^{9^{9^{9}}}") is None
        assert process.compare("\\frac{1}{2}", "0.5") is True
        assert process.compare("\\frac{1}{2}", "0.6") is False
    finally:
        process.close()
