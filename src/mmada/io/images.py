"""Images in and out: whatever a user gives becomes an upright 8-bit RGB image, or one clear sentence.

Depends on Pillow and numpy alone. Sizes are (width, height) in pixels, as in Pillow; arrays are (height, width, channels),
tensors of torch also (channels, height, width). Symbolic links are followed; folders, pipes and devices are refused.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import tempfile
import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import unquote_to_bytes

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mmada.errors import InputError, check_path, kind_of, quote, system_reason
from mmada.io.atomic import atomic_file

__all__ = ["MAX_PIXELS", "ImageSource", "check_output", "load_image", "load_mask", "save_gif", "save_image"]

MAX_PIXELS = 64_000_000
"""Largest image that is decoded, in pixels: 64 megapixels."""
MAX_BYTES = 512 * 2**20
"""Largest encoded image that is read from a file object."""


class TensorLike(Protocol):
    """A tensor of torch, which is not imported here."""

    def detach(self) -> Any:
        """The tensor without its gradient."""

    def permute(self, *dims: int) -> Any:
        """The tensor with its axes in another order."""


ImageSource = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image | np.ndarray[Any, Any] | TensorLike
)
"""An image to read: a path, a data: URL, a file's bytes, an open file, a Pillow image, an array or a tensor."""

# Pillow's other readers are left out: some start programs (EPS) and none is needed.
_READABLE = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_WRITABLE = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}
_LAST_FRAME_MS = 1500
_ACCEPTED = "a path, a data: URL, a file's bytes, an open file, a PIL image, a numpy array or a torch tensor"
_OPAQUE, _HALF = 255, 128
_SIMILAR = 4.0
"""Mean difference of two images, of 255, up to which a mask counts as a copy of its image."""

Array = np.ndarray[Any, Any]


def load_image(source: ImageSource, name: str = "image") -> Image.Image:
    """Return ``source`` as an upright RGB image with pixels of its own (never the caller's object).

    The size is checked before anything is decoded; EXIF orientation is applied; transparency is laid on white; of an animation
    the first frame is taken. Arrays are (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), tensors also channels first; bool, uint8, or
    float in 0..1. ``name`` is what the error calls it. Raises `InputError`: missing, unreadable, damaged, too large, or of
    another type.
    """
    return _flatten(_load(source, name), "white")


def load_mask(
    source: ImageSource, size: tuple[int, int], name: str = "mask", image: Image.Image | None = None
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return ``source`` as bool (height, width): True in the hole, which is what will be filled in.

    Accepts what `load_image` does, and arrays of whole numbers 0 and 1. ``size`` is the (width, height) of the masked ``image``.
    The hole is white, and what is transparent is no hole; or, as for OpenAI's image edits, the hole is transparent in a mask
    that is dark all over or a copy of ``image``. Raises `InputError` as `load_image`, for another size, for a mask of nothing,
    and for one that either convention could have meant.
    """
    if _is_tensor(source):
        source = _tensor_array(source, name)
    if isinstance(source, np.ndarray):
        _check_shape(source, name)
    if isinstance(source, np.ndarray) and source.dtype.kind in "iu" and source.min() >= 0 and source.max() <= 1:
        source = source.astype(np.uint8) * np.uint8(255)
    loaded = _load(source, name)
    if loaded.size != size:
        raise InputError(
            f"{name} is {loaded.width}x{loaded.height} pixels but its image is {size[0]}x{size[1]}; make them the same size."
        )
    transparent = _transparent_hole(loaded, image, name)
    if transparent is not None:
        return transparent
    if image is not None and _is_copy(loaded, image):
        raise InputError(f"{name} is a copy of the image, which shows no hole; paint the hole white and all else black")
    mask: np.ndarray[Any, np.dtype[np.bool_]] = np.asarray(_flatten(loaded, "black").convert("L")) >= _HALF
    if not mask.any():
        raise InputError(f"{name} is black everywhere, so nothing would be filled in; paint the hole white.")
    return mask


def _is_copy(mask: Image.Image, image: Image.Image) -> bool:
    """Whether a mask is a copy of its image, say one that lost its transparency; a black-and-white image may be its own mask."""
    shown, own = (np.asarray(_flatten(one, "black").convert("RGB"), np.int16) for one in (mask, image))
    black_and_white = (own.max(-1) <= 32) | (own.min(-1) >= 223)
    return bool(np.abs(shown - own).mean() <= _SIMILAR and not black_and_white.all())


def _transparent_hole(mask: Image.Image, image: Image.Image | None, name: str) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
    """The hole of a mask whose transparency is the hole, None where white is; raises InputError where both are possible."""
    if not mask.has_transparency_data:
        return None
    rgba = np.asarray(_straight_alpha(mask).convert("RGBA"))
    colour, alpha = rgba[..., :3].astype(np.int16), rgba[..., 3]
    opaque = alpha == _OPAQUE
    if alpha.min() == alpha.max() or not opaque.any():
        return None
    shown = colour[opaque]
    hole: np.ndarray[Any, np.dtype[np.bool_]] = alpha < _HALF
    one_colour = bool((colour.reshape(-1, 3) == colour[0, 0]).all())
    if one_colour and colour[0, 0].mean() < _HALF:  # by the other convention nothing would be masked
        return hole
    if image is not None and np.abs(shown - np.asarray(image.convert("RGB"), np.int16)[opaque]).mean() <= _SIMILAR:
        return hole
    # White or black strokes on a transparent ground are a mask of the first convention; colours are neither.
    strokes = (shown.max(1) - shown.min(1) <= 32) & ((shown.max(1) <= 32) | (shown.min(1) >= 223))
    if one_colour or strokes.mean() < 0.95:
        raise InputError(
            f"{name} could mean two things: its hole is white, or its hole is transparent (as for OpenAI's image edits); "
            f"give it without transparency, the hole white and the rest black."
        )
    return None


def _load(source: object, name: str) -> Image.Image:
    """The image as it is, upright, 8 bits a channel, with its transparency."""
    if isinstance(source, np.ndarray):
        return _from_array(source, name)
    if isinstance(source, Image.Image):
        _check_size(source.size, name)
        return _decode(source, name)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(_open(BytesIO(source), name), name)
    if isinstance(source, str) and source[:5].lower() == "data:":
        return _decode(_open(BytesIO(_url_bytes(source, name)), name), name)
    if isinstance(source, (str, os.PathLike)):
        return _from_path(source, name)
    if hasattr(source, "read"):
        return _decode(_open(BytesIO(_file_bytes(source, name)), name), name)
    if _is_tensor(source):
        return _from_array(_tensor_array(source, name), name)
    raise InputError(f"{name} is {kind_of(source)}; give {_ACCEPTED}.")


def _from_path(source: str | os.PathLike[str], name: str) -> Image.Image:
    if isinstance(source, str) and re.match(r"https?://", source, re.IGNORECASE):
        raise InputError(f"{name} {quote(source)} is a web address; download it and give the file.")
    path = check_path(name, source)
    label = f"{name} {quote(path)}"
    try:
        path.stat()
        if not path.is_file():
            raise InputError(f"{label} is not a file; give the path of an image.")
        with path.open("rb") as file:
            return _decode(_open(file, label), label)
    except FileNotFoundError as error:
        raise InputError(f"{label} does not exist; check the path.") from error
    except PermissionError as error:
        raise InputError(f"{label} may not be read; change its permissions.") from error
    except OSError as error:
        raise InputError(f"{label} cannot be read ({system_reason(error)}); check the path.") from error


def _url_bytes(url: str, name: str) -> bytes:
    """The bytes in a data: URL (RFC 2397)."""
    head, comma, data = url.partition(",")
    if not comma:
        raise InputError(f"{name} is a data: URL without data; give data:image/png;base64,...")
    if not head.lower().endswith(";base64"):
        return unquote_to_bytes(data)
    try:
        return base64.b64decode("".join(data.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{name} is a data: URL whose base64 is damaged; encode the file again.") from error


def _file_bytes(file: Any, name: str) -> bytes:
    """The content of a file object, from its start where it can be rewound, as Pillow reads it."""
    if getattr(file, "closed", False):
        raise InputError(f"{name} is a file that is closed; open it again.")
    try:
        if hasattr(file, "seekable") and file.seekable():
            file.seek(0)
        data = file.read(MAX_BYTES + 1)
    except Exception as error:  # the user's own class may fail in any way
        raise InputError(f"{name} is a file that cannot be read ({type(error).__name__}); open it with 'rb'.") from error
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise InputError(f"{name} is a file that is opened as text; open it with 'rb'.")
    if len(data) > MAX_BYTES:
        raise InputError(f"{name} has more than {MAX_BYTES // 2**20} MiB; give a smaller file.")
    return bytes(data)


def _is_tensor(source: object) -> bool:
    return hasattr(source, "detach") and hasattr(source, "permute")


def _tensor_array(tensor: Any, name: str) -> Array:
    """A tensor of torch as an array with channels last."""
    shape = tuple(tensor.shape)
    if tensor.ndim not in (2, 3):
        raise InputError(f"{name} is a tensor of shape {shape}; give one image: (channels, height, width) or (height, width).")
    _check_size(shape[-2:] if shape[0] in (1, 3, 4) else shape[:2], name)
    if tensor.ndim == 3 and shape[0] in (1, 3, 4):
        tensor = tensor.permute(1, 2, 0)
    tensor = tensor.detach().cpu()
    array: Array = (tensor.float() if tensor.dtype.is_floating_point else tensor).numpy()
    return array


def check_output(path: str | Path, suffixes: Sequence[str] = tuple(_WRITABLE), name: str = "output") -> Path:
    """Return ``path`` if a file can be written there, so that a wrong name is found before the work is done.

    Raises `InputError`: unknown suffix, missing folder, or a folder of that name.
    """
    target = check_path(name, path)
    label = f"{name} {quote(target)}"
    if target.suffix.lower() not in suffixes:
        raise InputError(f"{label} should end in {' or '.join(suffixes)}.")
    if not target.parent.is_dir():
        raise InputError(f"{label} lies in a folder that does not exist; make {quote(target.parent)} first.")
    if target.is_dir():
        raise InputError(f"{label} is a folder; give a file name.")
    try:
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise InputError(f"{label} cannot be written ({system_reason(error)}); give another path.") from error
    return target


def save_image(image: Image.Image, path: str | Path) -> Path:
    """Write ``image`` in the format its suffix says; the file appears whole or not at all. Returns the path.

    Raises `InputError` as `check_output`, or when the folder cannot be written.
    """
    target = check_output(path)
    kind = _WRITABLE[target.suffix.lower()]
    if kind == "JPEG" and image.mode not in ("RGB", "L"):
        image = _flatten(image, "white")  # JPEG has no transparency
    return _write(target, image, {"format": kind})


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
        raise InputError(f"output {quote(target)} cannot be written ({system_reason(error)}); give another path.") from error
    return target


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
            raise InputError(f"{name} is not a readable image; give one of {kinds}.") from error
        except Exception as error:  # damaged headers fail in as many ways as there are readers
            raise _damaged(name) from error
    _check_size(image.size, name)
    return image


def _decode(image: Image.Image, name: str) -> Image.Image:
    try:
        image.load()
        return _eight_bit(ImageOps.exif_transpose(image), name)
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(name) from error
    except Exception as error:  # damaged pixels fail in as many ways as there are readers
        if "closed" in str(error) or (isinstance(error, AttributeError) and getattr(image, "fp", 0) is None):
            raise InputError(f"{name} is an image that is closed; open it again.") from error
        raise _damaged(name) from error


def _eight_bit(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint32) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise InputError(f"{name} has {image.mode} pixels of 32 bits; save it with 8 bits a channel.")
    if image.mode == "LAB":
        raise InputError(f"{name} is in the colours of LAB; convert it to RGB.")
    return image


def _straight_alpha(image: Image.Image) -> Image.Image:
    """Colours that are not multiplied by their opacity, which Pillow converts one step at a time."""
    return image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode]) if image.mode in ("La", "RGBa") else image


def _flatten(image: Image.Image, ground: str) -> Image.Image:
    """A new RGB image, with transparency laid on a ground."""
    image = _straight_alpha(image)
    if not image.has_transparency_data:
        return image.convert("RGB") if image.mode != "RGB" else image.copy()
    above = image.convert("RGBA")
    below = Image.new("RGBA", above.size, ground)
    return Image.alpha_composite(below, above).convert("RGB")


def _check_shape(array: Array, name: str) -> None:
    """Raise InputError for a shape that is no image, or one of too many pixels, before its numbers are looked at."""
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 3, 4):
        raise InputError(f"{name} is an array of shape {array.shape}, channels first; put them last: array.transpose(1, 2, 0).")
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (1, 3, 4)):
        raise InputError(f"{name} is an array of shape {array.shape}; give (height, width) or (height, width, 1, 3 or 4).")
    _check_size((array.shape[1], array.shape[0]), name)


def _from_array(array: Array, name: str) -> Image.Image:
    _check_shape(array, name)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    if np.issubdtype(array.dtype, np.floating):
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):  # also False for nan
            raise InputError(f"{name} holds floats from {low:g} to {high:g}; scale them to 0..1, or give uint8.")
        array = np.rint(array.astype(np.float32) * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise InputError(f"{name} is an array of {array.dtype}; give uint8, bool, or floats in 0..1.")
    return Image.fromarray(np.ascontiguousarray(array))


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{name} is {width}x{height} pixels, above the limit of {MAX_PIXELS // 10**6} megapixels; make it smaller."
        )
    if width < 1 or height < 1:
        raise InputError(f"{name} has no pixels ({width}x{height}); give an image.")


def _too_large(name: str) -> InputError:
    return InputError(f"{name} is above the limit of {MAX_PIXELS // 10**6} megapixels; make it smaller.")


def _damaged(name: str) -> InputError:
    return InputError(f"{name} is damaged or cut short and cannot be decoded; give a whole file.")
