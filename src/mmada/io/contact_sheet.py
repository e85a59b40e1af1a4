"""Contact sheets: captioned pictures in rows under headings, as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageDraw, ImageFont

__all__ = ["Row", "Tile", "contact_sheet"]

_MARGIN, _GAP, _LINE = 24, 16, 18
_INK, _FAINT, _PAPER = (28, 28, 32), (112, 112, 120), (250, 250, 248)
_COLOURS = {None: _FAINT, True: (22, 128, 61), False: (190, 38, 38)}


@dataclass(frozen=True)
class Tile:
    """A picture (or none) and the lines below it; ``right`` colours ``note``: green, red, grey (None)."""

    image: Image.Image | None
    caption: str
    note: str = ""
    right: bool | None = None


@dataclass(frozen=True)
class Row:
    """A heading and its tiles; more tiles than fit in the width run on below."""

    heading: str
    tiles: Sequence[Tile]


def contact_sheet(rows: Sequence[Row], columns: int = 5, side: int = 192) -> Image.Image:
    """Lay ``rows`` out, ``columns`` tiles wide, every picture scaled to fit ``side`` x ``side`` pixels.

    Small pictures grow by whole factors, so that their pixels stay square. Returns an RGB picture; its height
    follows from what is on it.
    """
    width = 2 * _MARGIN + columns * side + (columns - 1) * _GAP
    pieces: list[Image.Image] = []
    for row in rows:
        pieces.append(_heading(row.heading, width))
        starts = range(0, len(row.tiles), columns)
        pieces += [_strip(row.tiles[start : start + columns], width, side) for start in starts]
    height = 2 * _MARGIN + sum(piece.height for piece in pieces)
    sheet = Image.new("RGB", (width, height), _PAPER)
    y = _MARGIN
    for piece in pieces:
        sheet.paste(piece, (0, y))
        y += piece.height
    return sheet


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _heading(text: str, width: int) -> Image.Image:
    piece = Image.new("RGB", (width, 44), _PAPER)
    ImageDraw.Draw(piece).text((_MARGIN, 10), text, fill=_INK, font=_font(19))
    return piece


def _strip(tiles: Sequence[Tile], width: int, side: int) -> Image.Image:
    blocks = [(_wrap(tile.caption, side), _wrap(tile.note, side)) for tile in tiles]
    lines = max(len(caption) + len(note) for caption, note in blocks)
    top = side + 8 if any(tile.image for tile in tiles) else 0
    strip = Image.new("RGB", (width, top + lines * _LINE + _GAP), _PAPER)
    draw = ImageDraw.Draw(strip)
    for index, (tile, (caption, note)) in enumerate(zip(tiles, blocks, strict=True)):
        x = _MARGIN + index * (side + _GAP)
        if tile.image is not None:
            picture = _fit(tile.image, side)
            strip.paste(picture, (x, side - picture.height))
        for number, line in enumerate([*caption, *note]):
            colour = _INK if number < len(caption) else _COLOURS[tile.right]
            draw.text((x, top + number * _LINE), line, fill=colour, font=_font(13))
    return strip


def _fit(image: Image.Image, side: int) -> Image.Image:
    """Small pictures grow by a whole factor with hard edges, large ones shrink smoothly."""
    longest = max(image.size)
    if longest <= side:
        factor = side // longest
        return image.convert("RGB").resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    size = (max(1, image.width * side // longest), max(1, image.height * side // longest))
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _wrap(text: str, width: int) -> list[str]:
    """Break ``text`` into lines of at most ``width`` pixels; a word that is longer alone is cut."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            joined = f"{line} {word}".strip()
            if line and _font(13).getlength(joined) > width:
                lines.append(line)
                joined = word
            while _font(13).getlength(joined) > width and len(joined) > 1:
                joined = joined[:-1]
            line = joined
        if line:
            lines.append(line)
    return lines
