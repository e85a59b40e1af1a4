"""MAGVIT-v2: the convolutional encoder and decoder of images and their lookup-free quantiser (LFQ).

One set of classes, sizes as configuration: the released 95 M-parameter shape (f = 16, 8,192 codes) and a small shape (f = 8,
4,096 codes). The small shape normalises each pixel by itself and has no attention, so that a code depends only on what is near
it: plain background is one code wherever the objects are, and the transformer has less to guess (experiments/log.md has the
comparison). Module names give the released state-dict keys. A code is the sign pattern of the latent: channel 0 is the most
significant bit.

Shapes: B images, C channels, H x W pixels, h x w codes (H = h * downsample).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmada.errors import InputError, check_whole

__all__ = [
    "RELEASED_IMAGE",
    "SMALL_IMAGE",
    "Decoder",
    "Encoder",
    "ImageTokenizerConfig",
    "Latent",
    "LookupFreeQuantizer",
]


@dataclass(frozen=True, kw_only=True)
class ImageTokenizerConfig:
    """Sizes. The tuples are indexed by level, finest first; each level but the last halves height and width."""

    channels: int
    encoder_mult: tuple[int, ...]
    decoder_mult: tuple[int, ...]
    encoder_blocks: tuple[int, ...]
    decoder_blocks: tuple[int, ...]
    code_bits: int
    groups: int
    image_size: int
    norm: Literal["group", "pixel"] = "group"
    attention: bool = True

    def __post_init__(self) -> None:
        if self.norm not in ("group", "pixel"):
            raise InputError(f"norm of the image tokenizer must be 'group' or 'pixel', got {self.norm!r}")
        for name in ("channels", "code_bits", "groups", "image_size"):
            check_whole(f"{name} of the image tokenizer", getattr(self, name), 1, 2**13)
        for name in ("encoder_mult", "decoder_mult", "encoder_blocks", "decoder_blocks"):
            levels = getattr(self, name)
            if not isinstance(levels, tuple) or not levels:
                raise InputError(f"{name} of the image tokenizer must list a number for each level, got {levels!r}")
            for number in levels:
                check_whole(f"{name} of the image tokenizer", number, int(name.endswith("mult")), 64)
        if self.norm == "group" and self.channels % self.groups:
            raise InputError(f"channels {self.channels} of the image tokenizer is not a multiple of its groups {self.groups}")
        lengths = {len(t) for t in (self.encoder_mult, self.decoder_mult, self.encoder_blocks, self.decoder_blocks)}
        if len(lengths) != 1:
            raise InputError("encoder_mult, decoder_mult, encoder_blocks and decoder_blocks must list the same number of levels")
        if not 1 <= self.code_bits <= 18:
            raise InputError(f"code_bits must be 1..18, got {self.code_bits}")
        if self.image_size % self.downsample:
            raise InputError(f"image_size {self.image_size} must be a multiple of {self.downsample}")

    @property
    def levels(self) -> int:
        """Number of resolutions."""
        return len(self.encoder_mult)

    @property
    def downsample(self) -> int:
        """Pixels a code spans, along each axis."""
        return int(2 ** (self.levels - 1))

    @property
    def codebook_size(self) -> int:
        """Number of different codes."""
        return int(2**self.code_bits)


RELEASED_IMAGE = ImageTokenizerConfig(
    channels=128,
    encoder_mult=(1, 2, 2, 4, 4),
    decoder_mult=(1, 1, 2, 2, 4),
    encoder_blocks=(4, 3, 4, 3, 4),
    decoder_blocks=(4, 4, 3, 4, 3),
    code_bits=13,
    groups=32,
    image_size=512,
)
SMALL_IMAGE = ImageTokenizerConfig(
    channels=32,
    encoder_mult=(1, 1, 3, 4),
    decoder_mult=(1, 1, 3, 4),
    encoder_blocks=(0, 1, 1, 1),
    decoder_blocks=(0, 2, 1, 1),  # on two CPU cores most of the time goes into the finest level: keep it bare
    code_bits=12,
    groups=8,
    image_size=64,
    norm="pixel",
    attention=False,
)


class PixelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each pixel of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)  # autocast would leave bfloat16 here
        return F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, weight, bias, self.eps).permute(0, 3, 1, 2)


def norm_of(config: ImageTokenizerConfig, channels: int) -> nn.Module:
    """The normalisation that the configuration names."""
    return PixelNorm(channels, eps=1e-6) if config.norm == "pixel" else nn.GroupNorm(config.groups, channels, eps=1e-6)


class ResnetBlock(nn.Module):
    """norm, swish, conv, twice, around a skip (1x1 convolution where the channels differ)."""

    def __init__(self, inside: int, outside: int, config: ImageTokenizerConfig) -> None:
        super().__init__()
        self.norm1 = norm_of(config, inside)
        self.conv1 = nn.Conv2d(inside, outside, 3, padding=1)
        self.norm2 = norm_of(config, outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1)
        if inside != outside:
            self.nin_shortcut = nn.Conv2d(inside, outside, 1)
        self.changes_width = inside != outside

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return cast(Tensor, (self.nin_shortcut(x) if self.changes_width else x) + h)


class AttnBlock(nn.Module):
    """Single-head self-attention over all pixels of the coarsest level."""

    def __init__(self, channels: int, config: ImageTokenizerConfig) -> None:
        super().__init__()
        self.norm = norm_of(config, channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2).transpose(1, 2).contiguous() for layer in (self.q, self.k, self.v))
        out = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return cast(Tensor, x + self.proj_out(out.transpose(1, 2).reshape(x.shape)))


class Downsample(nn.Module):
    """Halve: pad right and bottom by one, 3x3 convolution of stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.conv(F.pad(x, (0, 1, 0, 1))))


class Upsample(nn.Module):
    """Double: nearest neighbour, 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest")))


def middle(channels: int, config: ImageTokenizerConfig) -> nn.ModuleDict:
    """The blocks at the coarsest resolution, under the released names."""
    blocks = nn.ModuleDict({"block_1": ResnetBlock(channels, channels, config)})
    if config.attention:
        blocks["attn_1"] = AttnBlock(channels, config)
    blocks["block_2"] = ResnetBlock(channels, channels, config)
    return blocks


class Encoder(nn.Module):
    """Pixels (B, 3, H, W) -> latent (B, code_bits, h, w)."""

    def __init__(self, config: ImageTokenizerConfig) -> None:
        super().__init__()
        c = config.channels
        self.conv_in = nn.Conv2d(3, c, 3, padding=1)
        self.down = nn.ModuleList()
        width = c
        for level, (mult, blocks) in enumerate(zip(config.encoder_mult, config.encoder_blocks, strict=True)):
            stage = nn.ModuleDict({"block": nn.ModuleList()})
            for _ in range(blocks):
                cast(nn.ModuleList, stage["block"]).append(ResnetBlock(width, c * mult, config))
                width = c * mult
            if level < config.levels - 1:
                stage["downsample"] = Downsample(width)
            self.down.append(stage)
        self.mid = middle(width, config)
        self.norm_out = norm_of(config, width)
        self.conv_out = nn.Conv2d(width, config.code_bits, 3, padding=1)
        self.quant_conv = nn.Conv2d(config.code_bits, config.code_bits, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Latent of pixels."""
        h = self.conv_in(x)
        for stage in self.down:
            for block in stage["block"]:  # type: ignore[index]
                h = block(h)
            if "downsample" in stage:  # type: ignore[operator]
                h = stage["downsample"](h)  # type: ignore[index]
        for block in self.mid.values():
            h = block(h)
        return cast(Tensor, self.quant_conv(self.conv_out(F.silu(self.norm_out(h)))))


class Decoder(nn.Module):
    """Quantised latent (B, code_bits, h, w) -> pixels (B, 3, H, W), roughly in [-1, 1]."""

    def __init__(self, config: ImageTokenizerConfig) -> None:
        super().__init__()
        c = config.channels
        width = c * config.decoder_mult[-1]
        self.post_quant_conv = nn.Conv2d(config.code_bits, config.code_bits, 1)
        self.conv_in = nn.Conv2d(config.code_bits, width, 3, padding=1)
        self.mid = middle(width, config)
        stages: list[nn.Module] = []
        for level in reversed(range(config.levels)):
            stage = nn.ModuleDict({"block": nn.ModuleList()})
            for _ in range(config.decoder_blocks[level]):
                cast(nn.ModuleList, stage["block"]).append(ResnetBlock(width, c * config.decoder_mult[level], config))
                width = c * config.decoder_mult[level]
            if level:
                stage["upsample"] = Upsample(width)
            stages.append(stage)
        self.up = nn.ModuleList(reversed(stages))  # indexed by level, finest first, as in the released keys
        self.norm_out = norm_of(config, width)
        self.conv_out = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """Pixels of a quantised latent."""
        h = self.conv_in(self.post_quant_conv(z))
        for block in self.mid.values():
            h = block(h)
        for stage in reversed(list(self.up)):
            for block in stage["block"]:  # type: ignore[index]
                h = block(h)
            if "upsample" in stage:  # type: ignore[operator]
                h = stage["upsample"](h)  # type: ignore[index]
        return cast(Tensor, self.conv_out(F.silu(self.norm_out(h))))


@dataclass(frozen=True)
class Latent:
    """Result of quantisation: the latent squashed to (-1, 1) and its signs (with its gradient), both (B, bits, h, w)."""

    continuous: Tensor
    quantised: Tensor


class LookupFreeQuantizer(nn.Module):
    """Codes are sign patterns. The two buffers exist for the released layout and spell out the bit order."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        # On the CPU also where a model without storage is made: there, torch would import its compiler for an arange.
        powers = 2 ** torch.arange(bits - 1, -1, -1, device="cpu")
        codes = torch.arange(2**bits, device="cpu")
        self.register_buffer("embedding", ((codes[:, None] & powers) > 0).float() * 2 - 1)
        self.register_buffer("power_vals", powers)

    def codes(self, latent: Tensor) -> Tensor:
        """Latent (B, bits, h, w) -> codes (B, h, w) int64; zero counts as negative."""
        powers = cast(Tensor, self.power_vals)
        return ((latent > 0).long() * powers[:, None, None]).sum(1)

    def latent(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) -> signs (B, bits, h, w) in {-1, +1}."""
        return cast(Tensor, self.embedding)[codes].permute(0, 3, 1, 2).contiguous()

    def forward(self, latent: Tensor, hard: float = 1.0) -> Latent:
        """Signs with the gradient of tanh. A random ``1 - hard`` share of the elements stays soft (tanh), for the first steps."""
        soft = torch.tanh(latent)
        signs = torch.where(latent > 0, 1.0, -1.0).to(latent.dtype)
        if hard < 1.0:
            signs = torch.where(torch.rand_like(soft) < hard, signs, soft)
        return Latent(soft, soft + (signs - soft).detach())
