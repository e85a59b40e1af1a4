"""Make the two pictures of the README with the bundled model.

    python examples/make_readme_images.py [FOLDER]

``contact_sheet.png`` is what `mmada demo` writes. ``denoising.gif`` shows a text and three drawings
while their masks are filled.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

import mmada
from mmada.io.images import save_gif

if TYPE_CHECKING:
    from mmada import MMaDA
    from mmada.io.live_view import View

__all__ = ["animation", "contact_sheet"]

PROBLEM = "tom has 3 red and 4 blue pens. he finds 5 more. how many pens does he have?"
CAPTIONS = ("a red circle above a blue square", "three yellow triangles", "a green star and a black circle")
SIZE, MARGIN, LINE = 128, 12, 22
PAPER, INK, FAINT = (255, 255, 255), (30, 30, 30), (170, 170, 170)


def views_of(model: MMaDA, caption: str) -> list[View]:
    """Every frame of a drawing."""
    views: list[View] = []
    model.draw(caption, seed=7, callback=lambda frame: views.append(model.view(frame)))
    return views


def panel(text: View, drawings: list[View], captions: tuple[str, ...]) -> Image.Image:
    """One frame of the animation: the problem and its answer so far, and the pictures so far with their captions."""
    width = MARGIN + len(captions) * (SIZE + MARGIN)
    font, small = ImageFont.load_default(16), ImageFont.load_default(12)
    page = Image.new("RGB", (width, 7 * LINE + SIZE + 2 * MARGIN), PAPER)
    pen = ImageDraw.Draw(page)
    pen.multiline_text((MARGIN, MARGIN), "\n".join(textwrap.wrap(PROBLEM, 60)), fill=INK, font=small)
    x, y = float(MARGIN), MARGIN + 2 * LINE - 4
    for piece, masked in text.pieces or ():
        shown = piece.replace("<think>", "").replace("</think>", " -> ") if not masked else ""
        length = font.getlength(shown) if shown else 12.0
        if x + length > width - MARGIN:
            x, y = float(MARGIN), y + LINE
        if masked:
            pen.rectangle((x + 1, y + 3, x + 9, y + 15), fill=FAINT)
        else:
            pen.text((x, y), shown, fill=INK, font=font)
        x += length
    top = MARGIN + 5 * LINE
    for column, (view, caption) in enumerate(zip(drawings, captions, strict=True)):
        left = MARGIN + column * (SIZE + MARGIN)
        assert view.image is not None
        page.paste(view.image.resize((SIZE, SIZE), Image.Resampling.NEAREST), (left, top))
        for row, line in enumerate(textwrap.wrap(caption, 22)):
            pen.text((left, top + SIZE + 4 + row * 15), line, fill=INK, font=small)
    return page


def animation(model: MMaDA, path: Path, captions: tuple[str, ...] = CAPTIONS) -> Path:
    """Write the animation; the text and the pictures take the same number of frames."""
    texts: list[View] = []
    model.generate(PROBLEM, thinking=True, callback=lambda frame: texts.append(model.view(frame)))
    drawings = [views_of(model, caption) for caption in captions]
    count = max(len(views) for views in drawings)
    spread = [texts[round(i * (len(texts) - 1) / (count - 1))] for i in range(count)]
    rows = zip_longest(*drawings)
    last = [views[-1] for views in drawings]
    pages = [
        panel(text, [view or end for view, end in zip(row, last, strict=True)], captions)
        for text, row in zip(spread, rows, strict=True)
    ]
    return save_gif(pages, path, ms=160)


def contact_sheet(path: Path) -> Path:
    """Write the contact sheet of the demo."""
    from mmada.registry import DEMOS

    with TemporaryDirectory() as folder:  # the demo writes more pictures beside the sheet
        sheet = DEMOS.find("nano")(image=None, prompt=None, out=Path(folder) / path.name)
        return Path(shutil.copyfile(sheet, path))


def main() -> None:
    """Write both to the folder that was given, or to docs/images."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "docs" / "images"
    print(animation(mmada.load("nano"), folder / "denoising.gif"))
    print(contact_sheet(folder / "contact_sheet.png"))


if __name__ == "__main__":
    main()
