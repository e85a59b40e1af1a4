"""Pictures of a data set, read one by one: what cannot be read is a reason, not an error."""

from __future__ import annotations

from PIL import Image

from mmada.data.dataset import UnusableRow
from mmada.errors import InputError
from mmada.io.images import ImageSource, load_image

__all__ = ["read_picture"]

REASONS = {
    "does not exist": "picture is missing",
    "is not a file": "picture is missing",
    "damaged": "picture is damaged",
    "not a readable image": "picture is not in a known format",
    "above the limit": "picture is too large",
}
"""Reasons by a phrase of the error of `load_image`."""


def picture_reason(error: InputError) -> str:
    """Why a picture cannot be used, as a phrase that groups."""
    return next((reason for phrase, reason in REASONS.items() if phrase in str(error)), "picture cannot be read")


def read_picture(image: ImageSource) -> Image.Image:
    """A picture, upright and in RGB. Raises UnusableRow."""
    try:
        return load_image(image, "picture")
    except InputError as error:
        raise UnusableRow(picture_reason(error)) from error
