"""Image tokenizer: pixels to codes and back, around the networks of `mmada.tokenizers.magvit`.

Shapes: B images, H x W pixels, h x w codes (H = h * downsample).
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mmada.errors import InputError, make_folder, quote
from mmada.io.atomic import write_json, write_tensors
from mmada.io.documents import read_fields
from mmada.io.weights import WeightFile, check_fit, find_weights, load_into, stored_tensor
from mmada.tokenizers.magvit import RELEASED_IMAGE, Decoder, Encoder, ImageTokenizerConfig, Latent, LookupFreeQuantizer

__all__ = ["ImageTokenizer", "to_images", "to_pixels"]


def to_pixels(images: np.ndarray) -> Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_images(pixels: Tensor) -> list[Image.Image]:
    """Float (B, 3, H, W), clamped to [-1, 1] -> RGB images."""
    bytes_BHWC = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(image) for image in bytes_BHWC]


class ImageTokenizer(nn.Module):
    """Pixels <-> codes."""

    def __init__(self, config: ImageTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantize = LookupFreeQuantizer(config.code_bits)

    def forward(self, pixels: Tensor, hard: float = 1.0) -> tuple[Tensor, Latent]:
        """Pixels (B, 3, H, W) in [-1, 1] -> (reconstruction, latent); used in training.

        ``hard``: share of latent elements that are quantised.
        """
        latent: Latent = self.quantize(self.encoder(pixels), hard)
        return self.decoder(latent.quantised), latent

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in [-1, 1] -> codes (B, h, w) int64. H and W must be multiples of ``downsample``."""
        step = self.config.downsample
        if pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.shape[2] % step or pixels.shape[3] % step:
            raise InputError(f"pixels must be (B, 3, H, W) with H and W multiples of {step}, got {tuple(pixels.shape)}")
        # Channels last: twice as fast on CPUs, and what GPUs' half-precision convolutions want.
        pixels = pixels.to(next(self.parameters()).dtype, memory_format=torch.channels_last)
        return self.quantize.codes(self.encoder(pixels))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) -> pixels (B, 3, H, W) float32 in about [-1, 1]."""
        if codes.ndim != 3:
            raise InputError(f"codes must be (B, h, w), got {tuple(codes.shape)}")
        latent = self.quantize.latent(codes)
        latent = latent.to(next(self.parameters()).dtype, memory_format=torch.channels_last)
        return cast(Tensor, self.decoder(latent)).float()

    def save(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` (bfloat16; the quantiser's buffers are implied)."""
        folder = make_folder("folder", folder)
        state = {k: v.to(torch.bfloat16).contiguous() for k, v in self.state_dict().items() if not k.startswith("quantize.")}
        write_tensors(folder / "model.safetensors", state, {"format": "pt"})
        write_json(folder / "config.json", asdict(self.config))

    @staticmethod
    def load(folder: str | Path) -> ImageTokenizer:
        """Read a folder that `save` wrote, or one of the released `showlab/magvitv2`; float32, ready for inference."""
        folder = Path(folder)
        config = _read_config(folder)
        files = find_weights(folder, ("model", "pytorch_model"))
        with torch.device("meta"):
            tokenizer = ImageTokenizer(config)
        quantize = LookupFreeQuantizer(config.code_bits)  # implied by the config; files may spell it out
        expected = {name: value for name, value in tokenizer.state_dict().items() if not name.startswith("quantize.")}
        _check_order(files, quantize)
        files = [WeightFile(f.path, {n: s for n, s in f.tensors.items() if not n.startswith("quantize.")}) for f in files]
        check_fit(files, expected, folder)
        load_into(tokenizer, files, device=torch.device("cpu"), dtype=torch.float32)
        tokenizer.quantize = quantize
        return tokenizer.eval()


def _check_order(files: list[WeightFile], quantize: LookupFreeQuantizer) -> None:
    """Raise InputError where a file spells out another order of the bits of a code."""
    ours = cast(Tensor, quantize.power_vals).tolist()
    for file in files:
        stored = stored_tensor(file, "quantize.power_vals")
        if stored is not None and stored.tolist() != ours:
            raise InputError(
                f"weights {file.path} have quantize.power_vals {stored.tolist()}, expected {ours}; get the released file again"
            )


def _read_config(folder: Path) -> ImageTokenizerConfig:
    """The configuration in a folder; the released one holds only the name of its class."""
    fix = "give a folder that `mmada train` wrote, or showlab/magvitv2"
    if not (folder / "config.json").is_file():
        raise InputError(f"image tokenizer folder {quote(folder)} lacks config.json; {fix}")
    fields = read_fields(folder / "config.json", "config of the image tokenizer", fix)
    try:
        if fields.get("_class_name") == "MAGVITv2":
            return RELEASED_IMAGE
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        return ImageTokenizerConfig(**values)
    except TypeError as error:  # a missing field, or one that is not known
        reason = str(error).partition("__init__() ")[2] or str(error)
        raise InputError(f"image tokenizer folder {quote(folder)}: config.json has {reason}; {fix}") from error
