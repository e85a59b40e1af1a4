"""Make the emoji data set: pictures of 64 pixels in four styles, and a row for each with its names, keywords and groups.

    pip install resvg-py
    python examples/emoji/prepare.py --out data/emoji

downloads four packages of the npm registry (170 MB, once; or give your own copies with ``--packages FOLDER``) and writes

    train/STYLE/CODE.png, CODE-v1.png, ...    plain on white, and on other backgrounds a little moved
    validation/, test/                        plain pictures that are never trained on: of some pairs of concept and style, and
                                              of some concepts in every style
    rows.jsonl                                what is known of each picture
    emoji.yaml                                what to learn from the rows
    text_tokenizer/                           a tokenizer of the words of the rows

The same packages give the same files. README.md has the licences.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from concepts import STYLES, Concept, facts, normal, read_concepts, share, words_of
from packages import FLUENT, NAMES, NOTO, PACKAGES, TWEMOJI, files, tarball
from PIL import Image

from mmada.errors import InputError
from mmada.io.atomic import atomic_folder
from mmada.tokenizers.text import train_text_tokenizer

SIZE = 64
SHIFT = 4
"""Pixels that a varied picture is moved by at most, in each direction."""
WORDS = 4096


@dataclass(frozen=True)
class Drawing:
    """One picture of a house: RGBA, ``SIZE`` pixels."""

    concept: Concept
    style: str
    picture: Image.Image


def bitmaps(path: Path, style: str, house: str, concepts: Mapping[str, Concept], unused: Counter[str]) -> Iterator[Drawing]:
    """The drawings of a package of PNG files that are named by code."""
    folder = f"img/{house}/64/"
    for name, data in files(path, lambda name: name.startswith(folder) and name.endswith(".png")):
        concept = concepts.get(normal(Path(name).stem))
        if concept is None:
            unused[f"{style}: code without a name"] += 1
            continue
        yield Drawing(concept, style, square(Image.open(io.BytesIO(data)).convert("RGBA")))


def vectors(path: Path, styles: Mapping[str, str], concepts: Mapping[str, Concept], unused: Counter[str]) -> Iterator[Drawing]:
    """The drawings of a package of SVG files that are named by the words of a concept's name."""
    try:
        import resvg_py
    except ImportError as error:
        raise InputError("package resvg-py, which draws the SVG pictures, is not installed; pip install resvg-py") from error
    by_words = {words_of(concept.name): concept for concept in concepts.values()}
    for name, data in files(path, lambda name: name.startswith("icons/") and name.endswith(".svg")):
        _, folder, file = name.split("/")
        if folder not in styles:
            continue
        concept = by_words.get(words_of(Path(file).stem.replace("-", " ")))
        if concept is None:
            unused[f"{styles[folder]}: file name that is no concept's name"] += 1
            continue
        png = bytes(resvg_py.svg_to_bytes(svg_string=data.decode(), width=SIZE, height=SIZE))
        yield Drawing(concept, styles[folder], square(Image.open(io.BytesIO(png)).convert("RGBA")))


def square(picture: Image.Image) -> Image.Image:
    """The picture on ``SIZE`` x ``SIZE`` transparent pixels."""
    if picture.size == (SIZE, SIZE):
        return picture
    picture.thumbnail((SIZE, SIZE), Image.Resampling.LANCZOS)
    whole = Image.new("RGBA", (SIZE, SIZE))
    whole.paste(picture, ((SIZE - picture.width) // 2, (SIZE - picture.height) // 2))
    return whole


def on(picture: Image.Image, background: tuple[int, int, int], move: tuple[int, int] = (0, 0)) -> Image.Image:
    """An RGBA picture on a background, moved by some pixels."""
    whole = Image.new("RGBA", picture.size, (*background, 255))
    moved = Image.new("RGBA", picture.size)
    moved.paste(picture, move)
    return Image.alpha_composite(whole, moved).convert("RGB")


def varied(drawing: Drawing, number: int) -> Image.Image:
    """A variant of a drawing on another background, a little moved; the same number is the same variant."""
    rng = random.Random(int(share("varied", drawing.concept.code, drawing.style, str(number)) * 2**48))
    grey = rng.randrange(256)
    color = (grey,) * 3 if rng.random() < 0.3 else tuple(rng.randrange(256) for _ in range(3))
    return on(drawing.picture, color, (rng.randint(-SHIFT, SHIFT), rng.randint(-SHIFT, SHIFT)))  # type: ignore[arg-type]


def drawings(packages: Path | None, cache: Path, unused: Counter[str]) -> Iterator[Drawing]:
    """All drawings, style by style."""
    paths = {package.name: tarball(package, packages, cache) for package in PACKAGES}
    concepts = read_concepts(paths[NAMES.name])
    yield from bitmaps(paths[NOTO.name], "noto", "google", concepts, unused)
    yield from bitmaps(paths[TWEMOJI.name], "twemoji", "twitter", concepts, unused)
    yield from vectors(paths[FLUENT.name], {"flat": "flat", "modern": "modern"}, concepts, unused)


def write(found: Iterator[Drawing], folder: Path, variants: int) -> Iterator[dict[str, Any]]:
    """Write the pictures; yields their rows."""
    seen = set()
    for drawing in found:
        concept, style = drawing.concept, drawing.style
        if (concept.code, style) in seen:  # two files for one concept, such as two spellings
            continue
        seen.add((concept.code, style))
        split = concept.split(style)
        below = folder / split / style
        below.mkdir(parents=True, exist_ok=True)
        for number in range(1 + variants if split == "train" else 1):
            picture = varied(drawing, number) if number else on(drawing.picture, (255, 255, 255))
            path = below / f"{concept.code.lower()}{f'-v{number}' if number else ''}.png"
            picture.save(path)
            yield {**facts(concept, style, number), "image": path.relative_to(folder).as_posix()}


def main(arguments: list[str]) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("data/emoji"), help="folder to write, new (%(default)s)")
    parser.add_argument("--packages", type=Path, help="folder of tarballs to use instead of downloading them")
    parser.add_argument("--cache", type=Path, default=Path("data/packages"), help="where downloads are kept (%(default)s)")
    parser.add_argument("--variants", type=int, default=2, help="varied pictures of each drawing (%(default)s)")
    options = parser.parse_args(arguments)
    unused = Counter[str]()
    try:
        if options.out.exists():
            raise InputError(f"--out {options.out} is there already; remove it or choose another folder")
        if options.variants < 0:
            raise InputError(f"--variants must be at least 0, got {options.variants}")
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(options.out) as folder:
            found = write(drawings(options.packages, options.cache, unused), folder, options.variants)
            rows = sorted(found, key=lambda row: str(row["id"]))
            lines = (json.dumps(row, ensure_ascii=False) for row in rows)
            (folder / "rows.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            shutil.copyfile(Path(__file__).with_name("emoji.yaml"), folder / "emoji.yaml")
            words = corpus([row for row in rows if row["split"] == "train" and not row["variant"]])
            train_text_tokenizer(words, vocab_size=WORDS, min_frequency=2).save(folder / "text_tokenizer")
    except InputError as error:
        print(f"prepare.py: error: {error}", file=sys.stderr)
        return 2
    for name in ("train", "validation", "test"):
        styles = Counter(row["style"] for row in rows if row["split"] == name and not row["variant"])
        print(f"{name}: {styles.total()} pictures ({', '.join(f'{styles[style]} {style}' for style in STYLES)})")
    print(f"varied pictures: {sum(row['variant'] > 0 for row in rows)}")
    for reason, count in sorted(unused.items()):
        print(f"not used: {count} {reason}")
    return 0


def corpus(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Lines that the text tokenizer is trained on: every text of the rows as it stands in captions, answers and questions."""
    yield from ("system\nuser\nassistant\n", "think first.")
    texts = ("caption", "caption_article", "caption_style", "caption_keywords", "thought", "group", "style", "ask_name",
             "ask_group", "ask_style")  # fmt: skip
    for row in rows:
        for name in texts:
            yield from (row[name], f" {row[name]}", f"\n{row[name]}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
