"""Odd inputs by kind, and the folder of odd files that paths in them lead to.

Kinds, not cases: a new command or option is tried with the table of its kind without a change here.
"""

from __future__ import annotations

import io
import json
import os
import struct
from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["CHOICES", "NUMBERS", "PATHS", "SETTINGS", "SIZES", "TEXTS", "WHOLES", "odd_images", "odd_places", "odd_settings"]

LONG = "x" * 10_000
WHOLES = [
    "",
    " ",
    "abc",
    "None",
    "null",
    "nan",
    "inf",
    "-1",
    "1.5",
    "2.0",
    "1e3",
    "0x10",
    "1_0",
    "٣",
    "9" * 26,
    "9" * 5000,
    "True",
    "1\0",
    "\ud800",
    "1;2",
    "--",
    "½",
    "1 000",
    LONG,
]
"""None of these is a whole number that an option takes."""
NUMBERS = [
    "",
    " ",
    "abc",
    "None",
    "nan",
    "NaN",
    "inf",
    "-inf",
    "-1",
    "-0.001",
    "1e999",
    "1_0",
    "9" * 5000,
    "0x1p3",
    "True",
    "1,5",
    "1\0",
    "\ud800",
    LONG,
]
"""None of these is a finite number of at least 0."""
CHOICES = ["", " ", "None", "nope", "FLOAT32", "float32 ", "bfloat", "\0", "\ud800", LONG]
SIZES = [
    "",
    "64",
    "64x",
    "x64",
    "axb",
    "-8x8",
    "64x64x64",
    "64 x 64",
    "0x0",
    "0x8",
    "7x9",
    "999999x999999",
    "9999999x1",
    "None",
    "64×64",
    LONG,
]
TEXTS = [
    "",
    " ",
    "\n\t",
    "\0",
    "a\0b",
    "\ud800",
    LONG,
    "\x1b[31mred",
    "\r\r\n",
    "مرحبا بالعالم",
    "\u202eabc",
    "nan",
    "None",
    "-",
    "😀" * 50,
    "\u200b",
    "<|mdm_mask|>",
    "<|endoftext|>",
    "{}",
    "%s %d",
    "'; rm -rf /",
    "\\ud800",
    "e\u0301" * 30,
]
"""Texts, some of which are fine as prompts: no crash and no word lost, whatever happens."""
PATHS = [
    "",
    " ",
    "\0",
    "a\0b",
    "\ud800",
    LONG,
    "a/" * 3000,
    "missing",
    "missing/below",
    "FOLDER",
    "EMPTY",
    "TEXT",
    "TEXT/below",
    "LOOP",
    "LOOP/below",
    "FIFO",
    "LOCKED",
    "DANGLING",
    "/dev/null",
    "/dev/full",
    "/proc/self/mem",
    "~nobody/x",
    ".",
    "..",
    "None",
    "nul\x07l",
    "\u202ex",
    "x" * 255,
    "TRUNCATED",
    "LFS",
    "NAN",
    "http://localhost/x",
    "a/b",
    "no/such",
]
SETTINGS = [
    "",
    "=",
    "x",
    "=1",
    "x=",
    "unknown=1",
    "plan=1",
    "plan.steps=",
    "plan.steps=abc",
    "plan.steps=-1",
    "plan.steps=1.5",
    "plan.steps=[1]",
    "plan.steps=1e400",
    "plan.steps.deep=1",
    "plan.stepz=3",
    "plan..steps=1",
    ".plan=1",
    "plan.=1",
    "name=[]",
    "plan={nope: 1}",
    "plan=[1",
    "plan.steps=" + "[" * 100_000,
    "plan.steps=" + "{a: " * 5000,
    "plan.seed=9999999999999999999999",
    "plan.steps=\0",
    "plan.steps=\ud800",
    "plan.steps=&a [*a]",
    "plan.steps=!!python/object:os.system",
    "plan.steps=2020-13-45",
    "plan.average=nan",
    "plan.average=2",
    "plan.optim.lr=-1",
    "plan.optim.lr=abc",
    "plan.optim.lr=nan",
    f"{LONG}=1",
    f"plan.steps={LONG}",
]
"""Settings of a recipe of which none can be used."""


def odd_places(folder: Path) -> dict[str, str]:
    """Make the files and folders that names in capitals in `PATHS` stand for; returns name -> path."""
    folder.mkdir()
    places = {name: str(folder / name.lower()) for name in ("FOLDER", "EMPTY", "TEXT", "LOOP", "FIFO", "LOCKED", "DANGLING")}
    (folder / "folder").mkdir()
    (folder / "folder" / "note.txt").write_text("a note")
    (folder / "empty").touch()
    (folder / "text").write_text("no picture, no model, no JSON")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "dangling").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "fifo")
    (folder / "locked").touch(mode=0)
    for name, data in odd_settings().items():
        (folder / f"{name}.json").write_bytes(data)
    for name, data in {
        "truncated": b'{"rows": [{"name"',
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "nan": b'{"rows": [{"name": "a", "value": NaN}]}',
    }.items():
        (folder / f"{name}.json").write_bytes(data)
        places[name.upper()] = str(folder / f"{name}.json")
    return places


def odd_settings() -> dict[str, bytes]:
    """Contents of JSON files by name, none of which any reader of ours can use."""
    return {
        "empty": b"",
        "blank": b" \n",
        "cut": b'{"rows": [{"na',
        "null": b"null",
        "number": b"3",
        "string": b'"rows"',
        "list": b"[]",
        "object": b"{}",
        "deep_list": b"[" * 100_000,
        "deep_object": b'{"a":' * 100_000,
        "latin": b"\xff\xfe{}",
        "nul": b"\0" * 64,
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "wrong_types": json.dumps({"rows": 3, "name": [], "vocab_size": "x", "cot_instruction": 7, "model": None}).encode(),
        "huge_number": b'{"rows": [{"name": "a", "value": 1e999}], "vocab_size": ' + b"9" * 5000 + b"}",
    }


def odd_images(folder: Path) -> dict[str, tuple[str, bool]]:
    """Write odd image files: name -> (path, whether an image can be read from it)."""
    folder.mkdir()
    good = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(good, "PNG")
    png = good.getvalue()
    header = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">II", 60_000, 60_000) + b"\x08\x02\x00\x00\x00\x00\x00\x00\x00"
    files = {
        "zero.png": b"",
        "text.png": b"not an image",
        "cut.png": png[: len(png) // 2],
        "header.png": png[:20],
        "bomb.png": header,
        "lfs.png": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "noise.jpg": bytes(range(256)) * 9,
        "page.html": b"<html></html>",
        "vector.svg": b"<svg/>",
        "script.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    }
    found = {}
    for name, data in files.items():
        (folder / name).write_bytes(data)
        found[name] = (str(folder / name), False)
    rng = np.random.default_rng(0)
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"):
        name = f"mode_{mode.replace(';', '')}.tiff"
        made = (
            Image.fromarray(rng.integers(0, 255, (30, 40), dtype=np.uint16))
            if mode == "I;16"
            else Image.new("L", (40, 30), 99).convert(mode)
        )
        made.save(folder / name)
        found[name] = (str(folder / name), mode not in ("I", "F"))
    for size in ((1, 1), (10_000, 1), (1, 5_000), (3, 2)):
        name = f"size_{size[0]}x{size[1]}.png"
        Image.new("RGB", size, "blue").save(folder / name)
        found[name] = (str(folder / name), True)
    (folder / "png_named.txt").write_bytes(png)
    found["png_named.txt"] = (str(folder / "png_named.txt"), True)
    return found
