"""ImageReward (arXiv 2304.05977): a model of human preference for pictures of a prompt.

The authors' weights in the BLIP classes of `transformers`; their own package needs a `transformers` too old to install beside
this one. A vision transformer reads the picture, a BERT with cross-attention the prompt, and linear layers map its first token
to one number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from mmada.errors import InputError, check_text
from mmada.io.device import chosen_device
from mmada.io.weights import read_state
from mmada.rewards.clip_score import check_source, prepared
from mmada.tasks.task import Completion, Task

__all__ = ["REWARD", "ImageReward"]

FILES = ("ImageReward.pt", "ImageReward.safetensors", "model.safetensors")
TOKENIZER = "google-bert/bert-base-uncased"
LONGEST = 35
"""Maximum tokens of a prompt."""
MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Mean and standard deviation of the raw score over the authors' data, by which the score is normalised."""
HEAD = 64
"""Width of an attention head, in all sizes of BLIP."""
DEPTH = {768: 12, 1024: 24}
"""Layers of a transformer by its width. Other widths (in tests) have as many layers as are stored."""
UNUSED = re.compile(r"blip\.(vision_proj|text_proj)\.|\.position_ids$")
"""Weights of BLIP that the score does not use."""
NAMES = (
    (r"^mlp\.layers\.", "mlp."),
    (r"^blip\.text_encoder\.", "text."),
    (r"^blip\.visual_encoder\.", "vision."),
    (r"^vision\.cls_token$", "vision.embeddings.class_embedding"),
    (r"^vision\.pos_embed$", "vision.embeddings.position_embedding"),
    (r"^vision\.patch_embed\.proj\.", "vision.embeddings.patch_embedding."),
    (r"^vision\.norm\.", "vision.post_layernorm."),
    (r"^vision\.blocks\.", "vision.encoder.layers."),
    (r"(?<=\d)\.norm(?=[12]\.)", ".layer_norm"),
    (r"\.attn\.qkv\.", ".self_attn.qkv."),
    (r"\.attn\.proj\.", ".self_attn.projection."),
)
"""The authors' names -> those of `transformers`, one after another."""


@dataclass(frozen=True)
class ImageReward:
    """The score of ImageReward: about -2 to 2, with mean 0 and standard deviation 1 over its training data.

    ``source``: a hub id, a folder or a file with the authors' weights (`FILES`). The tokenizer is read from the same folder,
    else that of BERT from the hub. ``device``: device of the model.
    """

    name: ClassVar[str] = "image_reward"
    source: str = "zai-org/ImageReward"
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_text("source of image_reward", self.source)
        check_source("image_reward", self.source)

    def fits(self, task: Task) -> str:
        """As `Reward`: tasks that ask for a picture."""
        return "" if task.output == "image" else "judges drawn pictures, but the task is answered with text"

    def prepare(self) -> None:
        """Read the weights, from the hub the first time. Raises InputError if they cannot be read."""
        loaded(self.source, self.device)

    def __call__(self, completions: Sequence[Completion]) -> list[float]:
        """As `Reward`. Raises InputError if the weights cannot be read, or for a completion without a picture."""
        pictures = [picture_of(completion) for completion in completions]
        return scores(self.source, self.device, pictures, [completion.prompt.text for completion in completions])


def picture_of(completion: Completion) -> Image.Image:
    """The picture of a completion."""
    if completion.image is None:
        raise InputError(f"image_reward judges pictures, but {completion.prompt.text!r} asks for text; remove it there")
    return completion.image


@torch.no_grad()
def scores(source: str, device: str, pictures: Sequence[Image.Image], texts: Sequence[str]) -> list[float]:
    """One score per picture."""
    model, tokenizer = loaded(source, device)
    model_device = next(model.parameters()).device
    text = tokenizer(list(texts), padding=True, truncation=True, max_length=LONGEST, return_tensors="pt").to(model_device)
    pixels = torch.stack([prepared(picture, model.vision.config.image_size) for picture in pictures]).to(model_device)
    found: list[float] = model(pixels, text["input_ids"], text["attention_mask"]).tolist()
    return found


class Preference(nn.Module):
    """The network, with its sizes read from the stored weights ``state`` under the names of this class.

    Raises ValueError or KeyError if they are not those of ImageReward.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

        models: tuple[Any, Any] = (BlipVisionModel, BlipTextModel)
        _, positions, width = state["vision.embeddings.position_embedding"].shape
        patch = state["vision.embeddings.patch_embedding.weight"].shape[-1]
        vision = BlipVisionConfig(
            hidden_size=width,
            intermediate_size=len(state["vision.encoder.layers.0.mlp.fc1.weight"]),
            num_hidden_layers=layers(state, "vision.encoder.layers", width),
            num_attention_heads=width // HEAD,
            image_size=patch * round((positions - 1) ** 0.5),
            patch_size=patch,
            layer_norm_eps=1e-6,  # of timm, not the default of transformers
        )
        vocabulary, text_width = state["text.embeddings.word_embeddings.weight"].shape
        text = BlipTextConfig(
            vocab_size=vocabulary,
            hidden_size=text_width,
            encoder_hidden_size=width,
            intermediate_size=len(state["text.encoder.layer.0.intermediate.dense.weight"]),
            num_hidden_layers=layers(state, "text.encoder.layer", text_width),
            num_attention_heads=text_width // HEAD,
            max_position_embeddings=len(state["text.embeddings.position_embeddings.weight"]),
        )
        self.vision, self.text = models[0](vision), models[1](text, add_pooling_layer=False)
        numbers = sorted(int(name.split(".")[1]) for name in state if re.fullmatch(r"mlp\.\d+\.weight", name))
        shapes = [state[f"mlp.{number}.weight"].shape for number in numbers]
        if [text_width, *(outputs for outputs, _ in shapes)] != [*(inputs for _, inputs in shapes), 1]:
            raise ValueError(f"its linear layers do not lead from {text_width} to 1: {[list(shape) for shape in shapes]}")
        linear = {str(number): nn.Linear(inputs, outputs) for number, (outputs, inputs) in zip(numbers, shapes, strict=True)}
        self.mlp = nn.ModuleDict(linear)

    def forward(self, pixels_BCHW: Tensor, tokens_BL: Tensor, valid_BL: Tensor) -> Tensor:
        """Scores (B,)."""
        seen = self.vision(pixel_values=pixels_BCHW).last_hidden_state
        read = self.text(input_ids=tokens_BL, attention_mask=valid_BL, encoder_hidden_states=seen)
        value_BD: Tensor = read.last_hidden_state[:, 0].float()
        for layer in self.mlp.values():  # no activations between them, as it was trained
            value_BD = layer(value_BD)
        return (value_BD[:, 0] - MEAN) / STD


def layers(state: Mapping[str, Tensor], prefix: str, width: int) -> int:
    """The number of numbered layers under a name. Raises ValueError where BLIP has another number of that width."""
    found = len({name[len(prefix) + 1 :].split(".")[0] for name in state if name.startswith(f"{prefix}.")})
    if found != DEPTH.get(width, found):
        raise ValueError(f"{found} layers under {prefix} where {DEPTH[width]} are expected")
    return found


@lru_cache(maxsize=1)
def loaded(source: str, device: str) -> tuple[Any, Any]:
    """(model, tokenizer), read once."""
    from transformers import BertTokenizer

    tokens: Any = BertTokenizer
    path = found_file(source)
    own = any((path.parent / name).is_file() for name in ("tokenizer.json", "vocab.txt"))
    try:
        tokenizer = tokens.from_pretrained(path.parent if own else TOKENIZER)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"tokenizer of image_reward cannot be read ({error}); put tokenizer.json or vocab.txt of {TOKENIZER} beside {path}"
        ) from error
    return read(path).eval().to(chosen_device(device)), tokenizer


def found_file(source: str) -> Path:
    """The file of weights of a source."""
    from transformers.utils.hub import cached_file

    try:
        path = Path(source).expanduser()
        if path.is_file():
            return path
        if not path.is_dir():
            return Path(str(cached_file(source, FILES[0])))
    except (OSError, ValueError, RuntimeError) as error:
        said = " ".join(str(error).split())
        raise InputError(
            f"image_reward {source!r} cannot be read ({said}); give a hub id, or a folder or file of ImageReward's weights"
        ) from error
    there = [path / name for name in FILES if (path / name).is_file()]
    if not there:
        raise InputError(f"image_reward folder {source} has none of {', '.join(FILES)}; put the authors' weights there")
    return there[0]


def read(path: Path) -> Preference:
    """The network with stored weights. Raises InputError where they are not ImageReward's."""
    state = {renamed(name): value for name, value in read_state(path).items() if not UNUSED.search(name)}
    try:
        model = Preference(state)
        model.load_state_dict({name: value.float() for name, value in state.items()})
        if model.text.config.max_position_embeddings < LONGEST or model.vision.config.image_size < 1:
            raise ValueError(f"its maximum text length is below {LONGEST} tokens, or its image size is 0")
    except (LookupError, ValueError, TypeError, RuntimeError, ZeroDivisionError) as error:
        said = " ".join(str(error).split())[:300]
        raise InputError(f"weights {path} are not those of ImageReward ({said}); get its file {FILES[0]}") from error
    if not all(bool(value.isfinite().all()) for value in model.parameters()):
        raise InputError(f"weights {path} hold numbers that are not finite; get the file again")
    return model


def renamed(name: str) -> str:
    """A stored name in the naming of `Preference`."""
    for pattern, new in NAMES:
        name = re.sub(pattern, new, name)
    return name


REWARD = ImageReward
