"""Pictures in and out: what a person hands over becomes an upright 8-bit RGB picture, or one clear sentence.

Depends on Pillow and numpy alone. Sizes are (width, height) in pixels, as in Pillow; arrays are (height,
width, channels).
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mmada.errors import InputError
from mmada.io.atomic import atomic_file

__all__ = ["MAX_PIXELS", "ImageSource", "check_output", "load_image", "load_mask", "save_gif", "save_image"]

MAX_PIXELS = 64_000_000
"""Largest picture that is decoded, in pixels: 64 megapixels."""

ImageSource = str | Path | bytes | Image.Image | np.ndarray[Any, Any]
"""What is taken for a picture: a path, an encoded file's bytes, a Pillow image, or an array."""

# Pillow's other readers are left out: some start programs (EPS) and none is needed.
_READABLE = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_WRITABLE = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}
_LAST_FRAME_MS = 1500


def load_image(source: ImageSource, name: str = "image") -> Image.Image:
    """Return ``source`` as an upright RGB picture with its own pixels (never the caller's object).

    The size is checked before anything is decoded; EXIF orientation is applied; transparency is laid on
    white; of an animation the first frame is taken. Arrays are (H, W), (H, W, 1), (H, W, 3) or (H, W, 4),
    uint8 or float in 0..1. ``name`` is what the error calls it. Raises `InputError`: missing, unreadable,
    damaged, too large, or of another type.
    """
    return _load(source, name, "white")


def _load(source: ImageSource, name: str, ground: str) -> Image.Image:
    """`load_image` with transparency laid on the colour ``ground``."""
    if isinstance(source, np.ndarray):
        return _flatten(_from_array(source, name), ground)
    if isinstance(source, Image.Image):
        _check_size(source.size, name)
        return _decode(source, name, ground)
    if isinstance(source, bytes):
        return _decode(_open(BytesIO(source), name), name, ground)
    if isinstance(source, (str, Path)):
        label = f"{name} '{source}'"
        try:
            file = _existing_file(source, label).open("rb")
        except OSError as error:
            raise InputError(f"{label} may not be read; change its permissions.") from error
        with file:
            return _decode(_open(file, label), label, ground)
    raise InputError(f"{name} is a {type(source).__name__}; give a path, a file's bytes, a PIL image or a numpy array.")


def load_mask(source: ImageSource, size: tuple[int, int], name: str = "mask") -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return ``source`` as bool (height, width): True where it is white, which is what is to be filled in.

    Takes what `load_image` takes, and arrays of bool or of whole numbers 0 and 1; what is transparent is no hole.
    ``size`` is the (width, height) of the masked picture.
    Raises `InputError`: as `load_image`, another size, or nothing masked.
    """
    if isinstance(source, np.ndarray) and source.size and source.dtype.kind in "biu" and source.min() >= 0 and source.max() <= 1:
        source = source.astype(np.uint8) * np.uint8(255)
    image = _load(source, name, "black")
    if image.size != size:
        raise InputError(
            f"{name} is {image.width}x{image.height} pixels but its image is {size[0]}x{size[1]}; make them the same size."
        )
    mask = np.asarray(image.convert("L")) > 127
    if not mask.any():
        raise InputError(f"{name} is black everywhere, so nothing would be filled in; paint the hole white.")
    return mask


def check_output(path: str | Path, suffixes: Sequence[str] = tuple(_WRITABLE), name: str = "output") -> Path:
    """Return ``path`` if a file can be written there, so that a wrong name is found before the work is done.

    Raises `InputError`: unknown suffix, missing folder, or a folder of that name.
    """
    target = Path(path)
    if len(os.fsencode(target.name)) > 240:  # file systems end at 255, and a part file is written beside
        raise InputError(f"{name} '{target.name[:40]}...' is a name of {len(target.name)} characters; give a shorter one.")
    if target.suffix.lower() not in suffixes:
        raise InputError(f"{name} '{path}' should end in {' or '.join(suffixes)}.")
    if not target.parent.is_dir():
        raise InputError(f"{name} '{path}' lies in a folder that does not exist; make '{target.parent}' first.")
    if target.is_dir():
        raise InputError(f"{name} '{path}' is a folder; give a file name.")
    try:
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise InputError(f"{name} '{path}' cannot be written ({error.strerror}); give another place.") from error
    return target


def save_image(image: Image.Image, path: str | Path) -> Path:
    """Write ``image`` in the format its suffix says; the file appears whole or not at all. Returns the path.

    Raises `InputError` as `check_output`, or when the folder cannot be written.
    """
    target = check_output(path)
    return _write(target, image, {"format": _WRITABLE[target.suffix.lower()]})


def save_gif(frames: Sequence[Image.Image], path: str | Path, ms: int = 80) -> Path:
    """Write ``frames`` as an endless GIF, ``ms`` milliseconds each and the last one longer. Returns the path.

    Raises `InputError`: no frames, a duration below 20 ms (viewers ignore it), or as `save_image`.
    """
    target = check_output(path, (".gif",), "gif")
    if not frames:
        raise InputError("gif: there are no frames to write; give at least one.")
    if ms < 20:
        raise InputError(f"ms: {ms} is too short for a GIF frame; give 20 or more.")
    first, *rest = [frame.convert("RGB") for frame in frames]
    durations = [ms] * len(rest) + [max(ms, _LAST_FRAME_MS)]
    options = {"format": "GIF", "save_all": True, "append_images": rest, "duration": durations, "loop": 0}
    return _write(target, first, options)


def _write(target: Path, image: Image.Image, options: dict[str, Any]) -> Path:
    try:
        with atomic_file(target) as part:
            image.save(part, **options)
    except OSError as error:
        raise InputError(f"output '{target}' cannot be written: {error.strerror or error}.") from error
    return target


def _existing_file(source: str | Path, label: str) -> Path:
    try:
        path = Path(source)
        if not str(source).strip() or not path.exists():
            raise InputError(f"{label} does not exist; check the path.")
        if not path.is_file():
            raise InputError(f"{label} is not a file; give the path of a picture.")
    except (OSError, ValueError) as error:  # a name too long for the file system, or with a NUL in it
        if isinstance(error, InputError):
            raise
        raise InputError(f"{label} is not a usable path; check it.") from error
    return path


def _open(file: IO[bytes], name: str) -> Image.Image:
    """Read the header alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(file, formats=_READABLE)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise _too_large(name) from error
        except UnidentifiedImageError as error:
            kinds = ", ".join(_READABLE)
            raise InputError(f"{name} is not a readable picture; give one of {kinds}.") from error
        except Exception as error:  # damaged headers fail in as many ways as there are readers
            raise _damaged(name) from error
    _check_size(image.size, name)
    return image


def _decode(image: Image.Image, name: str, ground: str) -> Image.Image:
    try:
        image.load()
        return _flatten(_eight_bit(ImageOps.exif_transpose(image), name), ground)
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(name) from error
    except Exception as error:  # as above, for the pixels
        raise _damaged(name) from error


def _eight_bit(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint32) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise InputError(f"{name} has {image.mode} pixels of 32 bits; save it with 8 bits a channel.")
    return image


def _flatten(image: Image.Image, ground: str) -> Image.Image:
    """RGB, transparency laid on a ground."""
    if not image.has_transparency_data:
        return image.convert("RGB") if image.mode != "RGB" else image.copy()
    above = image.convert("RGBA")
    below = Image.new("RGBA", above.size, ground)
    return Image.alpha_composite(below, above).convert("RGB")


def _from_array(array: np.ndarray[Any, Any], name: str) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise InputError(f"{name} is an array of shape {array.shape}; give (height, width) or (height, width, 1, 3 or 4).")
    _check_size((array.shape[1], array.shape[0]), name)
    if np.issubdtype(array.dtype, np.floating):
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):  # also False for nan
            raise InputError(f"{name} holds floats from {low:g} to {high:g}; scale them to 0..1, or give uint8.")
        array = np.rint(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise InputError(f"{name} is an array of {array.dtype}; give uint8, or floats in 0..1.")
    return Image.fromarray(np.ascontiguousarray(array))


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{name} is {width}x{height} pixels, above the limit of {MAX_PIXELS // 10**6} megapixels; make it smaller."
        )
    if width < 1 or height < 1:
        raise InputError(f"{name} has no pixels ({width}x{height}); give a picture.")


def _too_large(name: str) -> InputError:
    return InputError(f"{name} is above the limit of {MAX_PIXELS // 10**6} megapixels; make it smaller.")


def _damaged(name: str) -> InputError:
    return InputError(f"{name} is damaged or cut short and cannot be decoded; give a whole file.")
