"""What emoji there are: their names, groups and keywords, and what is said about each."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packages import NAMES, files

from mmada.errors import InputError

STYLES = ("noto", "twemoji", "flat", "modern")
MOST_WORDS = 6
"""Keywords that are used of a concept."""
UNCOUNTED = ("symbols", "flags", "people & body", "smileys & emotion")
"""Groups whose names stand without an article: "OK button", "grinning face with big eyes"."""


@dataclass(frozen=True)
class Concept:
    """One emoji: ``code`` in Unicode's hexadecimal form, ``base`` that of the same emoji without skin tones."""

    code: str
    base: str
    name: str
    group: str
    kind: str
    keywords: tuple[str, ...]
    parts: tuple[str, ...]

    @property
    def held_out(self) -> bool:
        """Whether no picture of it is trained on: 5 % of the concepts, with all their skin tones."""
        return share("concept", self.base) < 0.05

    def split(self, style: str) -> str:
        """The split of its picture in a style. "test": held-out concepts; "validation": 10 % of the other pairs of concept and
        style."""
        if self.held_out:
            return "test"
        return "validation" if share("pair", self.code, style) < 0.1 else "train"


def share(*words: str) -> float:
    """A number in [0, 1) that depends on the words alone, so that splits never move."""
    return int.from_bytes(hashlib.sha256("/".join(words).encode()).digest()[:6], "big") / 2**48


def normal(code: str) -> str:
    """A code as a key: without variation selectors, which the packages set differently."""
    return "-".join(part.lstrip("0") for part in code.upper().split("-") if part != "FE0F")


def read_concepts(path: Path) -> dict[str, Concept]:
    """Concepts by `normal` code, from the package of names."""
    wanted = ("en/data.json", "en/messages.json")
    tables = {name: json.loads(data) for name, data in files(path, lambda name: name in wanted)}
    if len(tables) < len(wanted):
        raise InputError(f"package {path.name} lacks {' or '.join(wanted)}; give {NAMES.name} of version {NAMES.version}")
    emoji, messages = tables["en/data.json"], tables["en/messages.json"]
    said = {part: {one["order"]: one["message"] for one in messages[part]} for part in ("groups", "subgroups")}
    known = {normal(one["hexcode"]): one["label"] for one in emoji}
    found = {}
    for one in emoji:
        if "group" not in one:  # letters that flags are made of
            continue
        for form in (one, *one.get("skins", ())):
            found[normal(form["hexcode"])] = Concept(
                code=form["hexcode"],
                base=one["hexcode"],
                name=plain(form["label"]),
                group=said["groups"][one["group"]],
                kind=said["subgroups"][one["subgroup"]],
                keywords=tuple(one.get("tags", ())[:MOST_WORDS]),
                parts=tuple(parts(form["hexcode"], known)),
            )
    return found


def plain(label: str) -> str:
    """A label as a caption: "flag: Japan" is "flag of Japan", "waving hand: light skin tone" has a comma."""
    label = re.sub(r"^flag: ", "flag of ", label.replace("’", "'"))
    return label.replace(": ", ", ")


def parts(code: str, known: Mapping[str, str]) -> Iterator[str]:
    """Names of the emoji that one is joined from: man, medium skin tone, rocket; none for one that stands alone."""
    pieces = [piece for piece in code.split("-") if piece not in ("200D", "FE0F")]
    names = [known.get(normal(piece), "") for piece in pieces]
    if len(names) > 1 and all(names) and not any(name.startswith("regional indicator") for name in names):
        yield from names


def words_of(name: str) -> frozenset[str]:
    """The words of a name or of a file name, whatever their order and the accents: how the pictures' names are matched."""
    simple = unicodedata.normalize("NFD", name.lower().replace("'", "").replace("’", "")).encode("ascii", "ignore").decode()
    words = re.findall(r"[a-z0-9]+", simple.replace("*", " asterisk ").replace("#", " hashtag "))
    return frozenset(words) - {"skin", "tone", "default", "of"}


def facts(concept: Concept, style: str, number: int) -> dict[str, Any]:
    """What a row says of a picture, other than where it is. ``number``: which of its variants."""
    name, code = concept.name, concept.code
    of_style = (f"{name}, {style} style", f"{name} in {style} style", f"a {style} emoji of {with_article(concept)}")
    about = ", ".join(concept.keywords)
    return {
        "id": f"{code.lower()}/{style}/{number}",
        "concept": code,
        "style": style,
        "variant": number,
        "split": concept.split(style),
        "group": concept.group,
        "kind": concept.kind,
        "caption": name,
        "caption_article": with_article(concept),
        "caption_style": pick(of_style, code, style),
        "keywords": about,
        "caption_keywords": f"{about}, {style} style" if about else "",
        "thought": f"parts: {', '.join(concept.parts)}." if concept.parts else f"{concept.group}, {concept.kind}: {about}.",
        "ask_name": pick(("what is this?", "what does the picture show?", "name this emoji."), code, style, "name"),
        "ask_group": pick(("which group is this in?", "which group?"), code, style, "group"),
        "ask_style": pick(("which style is this?", "in which style is this drawn?", "which style?"), code, style, "style"),
    }


def pick(options: Sequence[str], *words: str) -> str:
    """One of the options, by hash."""
    return options[int(share("pick", *words) * len(options))]


def with_article(concept: Concept) -> str:
    """A name as people write it: "a red apple", "an owl"; "the flag of Japan"."""
    name = concept.name
    if concept.group == "flags" and name.startswith("flag of"):
        return f"the {name}"
    if concept.group in UNCOUNTED or re.search(r"[^s]s$", name) or not name[0].isalpha():
        return name
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
