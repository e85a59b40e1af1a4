"""CLIP score: how well a picture matches its text, by a CLIP model from a folder or the hub."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmada.errors import InputError, check_text
from mmada.io.device import chosen_device
from mmada.tasks.task import Completion, Task

__all__ = ["REWARD", "ClipScore"]

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's own preprocessing


@dataclass(frozen=True)
class ClipScore:
    """100 times the cosine of picture and text, as CLIP scores are reported (about 20 to 35); at least 0.

    A drawn picture is compared with its prompt; an answer about a picture is compared with that picture. ``source``: a folder or
    hub id that `transformers.CLIPModel` reads. ``device``: where it runs.
    """

    name: ClassVar[str] = "clip"
    source: str = "openai/clip-vit-large-patch14"
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_text("source of clip", self.source)
        check_source("clip", self.source)

    def fits(self, task: Task) -> str:
        """As `Reward`: tasks with a picture in the prompt or as the result."""
        return "" if "image" in (*task.inputs, task.output) else "compares pictures with text, but the task has no picture"

    def prepare(self) -> None:
        """Read the model, from the hub the first time. Raises InputError if it cannot be read."""
        loaded(self.source, self.device)

    def __call__(self, completions: Sequence[Completion]) -> list[float]:
        """As `Reward`. Raises InputError for a completion without a picture, or if CLIP cannot be read."""
        pictures, texts = zip(*(picture_and_text(completion) for completion in completions), strict=True)
        return scores(self.source, self.device, pictures, texts)


def picture_and_text(completion: Completion) -> tuple[Image.Image, str]:
    """The picture of a completion and the text that should match it."""
    if completion.image is not None:
        return completion.image, completion.prompt.text
    if not completion.prompt.images:
        raise InputError(f"clip compares pictures with text, but {completion.prompt.text!r} has no picture; remove clip there")
    return completion.prompt.images[0], completion.answer


def check_source(name: str, source: str) -> None:
    """Raise InputError for a source written as a path that does not exist, before the hub is queried."""
    if source.startswith(("/", ".", "~")) and not os.path.exists(os.path.expanduser(source)):
        raise InputError(f"{name} {source!r} does not exist; give a folder or a hub id")


@lru_cache(maxsize=2)
def loaded(source: str, device: str) -> tuple[Any, Any]:
    """(model, tokenizer), read once."""
    from transformers import AutoTokenizer, CLIPModel

    library: Any = CLIPModel
    tokens: Any = AutoTokenizer
    try:
        tokenizer = tokens.from_pretrained(source)
        model = library.from_pretrained(source).eval()
    except (OSError, ValueError, KeyError) as error:
        said = " ".join(str(error).split())
        raise InputError(f"clip {source!r} cannot be read ({said}); give a folder or hub id of a CLIP model") from error
    return model.to(chosen_device(device)), tokenizer


@torch.no_grad()
def scores(source: str, device: str, pictures: Sequence[Image.Image], texts: Sequence[str]) -> list[float]:
    """100 x cosine, at least 0."""
    model, tokenizer = loaded(source, device)
    model_device, longest = next(model.parameters()).device, model.config.text_config.max_position_embeddings
    text = tokenizer(list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt").to(model_device)
    pixels = torch.stack([prepared(picture, model.config.vision_config.image_size) for picture in pictures]).to(model_device)
    output = model(input_ids=text["input_ids"], attention_mask=text["attention_mask"], pixel_values=pixels)
    cosine = torch.nn.functional.cosine_similarity(output.image_embeds.float(), output.text_embeds.float())
    found: list[float] = (100 * cosine).clamp(min=0).tolist()
    return found


def prepared(picture: Image.Image, side: int) -> Tensor:
    """Preprocess a picture for CLIP and ImageReward: resize the shorter edge, crop the centre, normalise; (3, side, side)."""
    picture = picture.convert("RGB")
    width, height = (side * edge // min(picture.size) for edge in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - side) // 2, (height - side) // 2
    values = np.asarray(picture.crop((left, top, left + side, top + side)), dtype=np.float32) / 255
    return ((torch.from_numpy(values) - torch.tensor(MEAN)) / torch.tensor(STD)).permute(2, 0, 1)


REWARD = ClipScore
