"""Inputs of the goldens: prompts, captions, questions and pictures, all literal and independent of the package."""

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

Thing = tuple[int, int, str, str]
Options = dict[str, object]

RGB = {
    "red": (255, 0, 0),
    "green": (0, 160, 0),
    "blue": (30, 60, 230),
    "yellow": (255, 225, 0),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
}


def picture(things: Sequence[Thing]) -> Image.Image:
    """Things (row, column, colour, shape) of a 3 x 3 grid on mid-grey, 64 x 64 pixels, with hard edges."""
    image = Image.new("RGB", (64, 64), (128, 128, 128))
    draw = ImageDraw.Draw(image)
    for row, column, colour, shape in things:
        x, y, r = 11 + 21 * column, 11 + 21 * row, 8
        if shape == "circle":
            draw.ellipse([x - r, y - r, x + r, y + r], fill=RGB[colour])
        elif shape == "square":
            draw.rectangle([x - 7, y - 7, x + 7, y + 7], fill=RGB[colour])
        elif shape == "triangle":
            draw.polygon([(x, y - r), (x - r, y + 6), (x + r, y + 6)], fill=RGB[colour])
        else:
            turns = [(k * math.pi / 5, 8.0 if k % 2 == 0 else 3.4) for k in range(10)]
            draw.polygon([(round(x + q * math.sin(a)), round(y - q * math.cos(a))) for a, q in turns], fill=RGB[colour])
    return image


def hole(rows: range, columns: range) -> Image.Image:
    """A mask of a picture, white in pixels of those rows and columns."""
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (columns.start, rows.start, columns.stop, rows.stop))
    return mask


# One batch each: options of `generate`, prompts.
TEXTS: list[tuple[Options, list[str]]] = [
    (
        {},
        [
            "tom has 3 red and 4 blue pens. how many pens does he have?",
            "what is 15 - 8?",
            "2 + 3 =",
            "leo has 4 boxes with 6 eggs each. how many eggs are there?",
            "anna has 9 books. anna gives away 4. how many books are left?",
            "what is 7 * 3?",
            "what is 24 / 6?",
            "ben has 18 apples and ann has 11. how many more does ben have than ann?",
            "What color is the sky?",
            "what is the color of a banana?",
        ],
    ),
    (
        {"thinking": True},
        [
            "tom has 3 red and 4 blue pens. how many pens does he have?",
            "mia has 12 books. mia gives away 5. mia gets 9 more. how many?",
            "leo has 4 boxes with 6 eggs each. how many eggs are there?",
            "what is 15 - 8?",
            "what is 38 + 27?",
            "sam has 20 coins. sam loses 7. sam finds 3 coins. how many coins does sam have?",
            "ben has 18 apples and ann has 11. how many more does ben have than ann?",
            "lucy buys 3 bags with 5 sweets each. lucy eats 4 sweets. how many are left?",
            "what is 9 * 8?",
            "what is 5 + 6 - 3?",
        ],
    ),
    (
        {"thinking": True, "length": 96, "block": 32},
        [
            "mia has 12 books. mia gives away 5. mia gets 9 more. how many?",
            "tom has 6 pens. tom buys 7 more pens. tom gives 4 to anna. how many pens does tom have?",
            "what is 64 - 19?",
        ],
    ),
    (
        {"thinking": True, "length": 48, "steps": 24, "block": 16},
        ["what is 12 + 9?", "leo has 5 boxes with 3 toys each. how many toys are there?", "what is 8 - 2 + 7?"],
    ),
    (
        {"length": 16, "steps": 4, "block": 8},
        ["what is 6 + 6?", "what is 30 - 12?", "tom has 3 cats and 2 dogs. how many pets does he have?", "hello"],
    ),
    ({"length": 12, "block": 1}, ["what is 11 + 5?", "what color is grass?"]),
    ({"guidance": 1.0}, ["what is 4 + 9?", "anna has 7 pens and 8 books. how many things does she have?"]),
    (
        {"temperature": 0.8, "seed": [3, 5], "thinking": True},
        ["what is 13 + 8?", "sam has 9 balls. sam gets 6 more. how many?"],
    ),
]

INFILLS: list[tuple[Options, str]] = [
    ({}, "2 + [MASK] = 5"),
    ({}, "[MASK] + 4 = 9"),
    ({}, "tom has [MASK] pens and gets 2 more. 3 + 2 = [MASK]."),
    ({}, "a red [MASK] above a blue [MASK]"),
    ({"steps": 1}, "7 - [MASK] = [MASK]"),
    ({"temperature": 0.9, "seed": 4}, "a [MASK] circle and a [MASK] square"),
]

# One batch each: options of `draw`, captions. Seeds of the rows follow the first.
DRAWINGS: list[tuple[Options, list[str]]] = [
    (
        {"seed": 7},
        ["a red circle above a blue square", "a green star", "three black triangles", "a white square in the top left"],
    ),
    ({"seed": 21, "steps": 4, "guidance": 0.0}, ["a yellow circle", "two red stars", "a blue star and a yellow square"]),
    ({"seed": 3, "steps": 8, "guidance": 5.0, "temperature": 1.0}, ["a green star above a white circle", "a black circle"]),
    ({"seed": 0, "temperature": 0.0, "steps": 6}, ["a red triangle left of a green circle", "a digit seven"]),
    ({"seed": 11, "thinking": True}, ["a red star and two blue circles", "something round and the color of grass"]),
    ({"seed": 5, "size": (96, 64), "steps": 5}, ["a yellow star above a black square"]),
]
# Named schedules of the default plan, for `paced`.
SCHEDULES = {"cosine": ["a red circle", "a white star right of a blue triangle"], "linear": ["a green square"]}

SCENES: dict[str, list[Thing]] = {
    "one": [(1, 1, "red", "circle")],
    "star": [(0, 2, "white", "star")],
    "pair": [(0, 0, "green", "square"), (2, 2, "white", "circle")],
    "tower": [(0, 1, "yellow", "triangle"), (2, 1, "black", "square")],
    "beside": [(1, 0, "red", "square"), (1, 2, "yellow", "circle")],
    "three": [(0, 0, "red", "star"), (1, 1, "red", "star"), (2, 2, "blue", "circle")],
    "many": [(0, 0, "blue", "circle"), (0, 2, "blue", "circle"), (2, 0, "green", "triangle"), (2, 2, "blue", "circle")],
    "blank": [],
}

# Options of `inpaint`: picture, rows and columns of the hole, prompt.
INPAINTINGS: list[tuple[str, range, range, str, Options]] = [
    ("pair", range(24), range(24), "a yellow star and a white circle", {"seed": 1}),
    ("tower", range(40, 64), range(16, 48), "a yellow triangle above a red circle", {"seed": 2, "guidance": 1.0}),
    ("one", range(16, 48), range(16, 48), "", {"seed": 3}),
    ("beside", range(16, 48), range(40, 64), "a red square and a blue star", {"seed": 4, "steps": 3, "temperature": 0.0}),
]
EXTENSIONS: list[tuple[str, str, Options]] = [
    ("one", "a red circle", {"right": 2, "seed": 1}),
    ("pair", "", {"left": 3, "down": 1, "seed": 2, "steps": 6}),
    ("star", "a white star", {"up": 5, "seed": 3, "guidance": 1.0, "steps": 4}),
]

# One batch each: options of `ask`, (picture, question).
QUESTIONS: list[tuple[Options, list[tuple[str, str]]]] = [
    (
        {},
        [
            ("one", "what color is the circle?"),
            ("one", "how many objects are there?"),
            ("one", "what is in the picture?"),
            ("one", "Is there a red circle?"),
            ("star", "where is the star?"),
            ("star", "what shape is the white object?"),
            ("star", "is there a black square?"),
            ("pair", "how many objects are there?"),
            ("pair", "is there a white circle?"),
            ("pair", "is there a red star?"),
            ("pair", "where is the green square?"),
            ("tower", "is the triangle above the square?"),
            ("tower", "is the square above the triangle?"),
            ("tower", "what color is the square?"),
            ("beside", "is there a yellow circle?"),
            ("beside", "is the circle left of the square?"),
            ("three", "how many stars are there?"),
            ("three", "are there more stars or circles?"),
            ("many", "how many blue circles are there?"),
            ("many", "are there fewer circles than triangles?"),
            ("many", "what color are the circles?"),
            ("blank", "how many objects are there?"),
            ("blank", "is there a circle?"),
            ("many", "are there as many circles as triangles?"),
            ("star", "is there a red star?"),
            ("star", "what is the color of the star?"),
        ],
    ),
    (
        {"thinking": True},
        [
            ("pair", "how many objects are there?"),
            ("tower", "is the triangle above the square?"),
            ("beside", "what is right of the square?"),
            ("three", "how many stars are there?"),
            ("three", "are there more stars or circles?"),
            ("many", "how many circles are there?"),
        ],
    ),
    (
        {"length": 16, "steps": 8, "block": 4},
        [
            ("beside", "what color is the square?"),
            ("many", "where is the triangle?"),
            ("three", "describe the picture."),
            ("tower", "describe the picture."),
        ],
    ),
    ({"guidance": 0.5, "length": 8}, [("pair", "what color is the circle?"), ("star", "how many stars are there?")]),
    (
        {"temperature": 0.9, "seed": [8, 9]},
        [("three", "describe the picture."), ("many", "what is this?")],
    ),
]

# Turns of a conversation, for prompts of the released layout; its word-level tokenizer knows few words.
RELEASED_TEXTS = ["a red circle", "what is this ?", "w20 w21 w22 w23", "draw a red circle w500 w501 ?"]
LAYOUTS: dict[str, dict[str, object]] = {
    "masked pads": {"caption_length": 6, "pads": "masked"},
    "visible pads": {"caption_length": 8, "pads": "visible"},
    "cut": {"caption_length": 5},
    "literal end": {"literal_eot": True},
}
