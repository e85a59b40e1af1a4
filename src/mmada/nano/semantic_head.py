"""A head that names what codes show, used while the image tokenizer trains: codes that tell things apart are codes that a
language model can read.

Codes made for reconstruction alone spread one shape over many look-alike codes; figures with and without are in
experiments/log.md.
The head sees a cell only through the codes around it, so that what a code says stays beside what it shows.

Shapes: B pictures, C cells of a square grid, K bits, h x w codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["UNKNOWN", "Labels", "SemanticHead"]

UNKNOWN = -100  # a label that is not asked for
SHAPE_WEIGHT, WHOLE_WEIGHT = 3.0, 0.3  # shapes are the hardest to read, whole pictures (digits) the fewest


@dataclass(frozen=True)
class Labels:
    """Contents of pictures: colour (0 = nothing there), shape and size of each cell's thing, (B, C) each, and the class of the
    whole picture, (B,). `UNKNOWN` where there is nothing to say."""

    color: Tensor
    shape: Tensor
    size: Tensor
    whole: Tensor

    def to(self, device: torch.device) -> Labels:
        """The same on a device."""
        return Labels(*(labels.to(device) for labels in (self.color, self.shape, self.size, self.whole)))


class SemanticHead(nn.Module):
    """A classifier of quantised latents: what each of ``cells`` x ``cells`` cells and the whole picture show.

    ``classes``: numbers of (colours and nothing, shapes, sizes, whole pictures).
    """

    def __init__(self, bits: int, grid: int, classes: tuple[int, int, int, int], cells: int = 3, width: int = 384) -> None:
        super().__init__()
        self.window = grid // 2
        self.starts = [round(i * (grid - self.window) / (cells - 1)) for i in range(cells)]
        self.sizes = list(classes[:3])
        self.read = nn.Linear(bits * self.window**2, width)
        self.think = nn.Linear(width, width)
        self.tell_cells = nn.Linear(width, sum(self.sizes))
        self.read_whole = nn.Linear(bits * grid * grid, width)
        self.tell_whole = nn.Linear(width, classes[3])

    def forward(self, latent_BKhw: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """((B, C, classes) for colour, shape and size; (B, classes) for the whole), float32 logits."""
        w = self.window
        seen = [latent_BKhw[:, :, r : r + w, c : c + w].flatten(1) for r in self.starts for c in self.starts]
        hidden = F.gelu(self.read(torch.stack(seen, 1)))
        hidden = hidden + F.gelu(self.think(hidden))
        whole = self.tell_whole(F.gelu(self.read_whole(latent_BKhw.flatten(1))))
        return self.tell_cells(hidden).float().split(self.sizes, dim=-1), whole.float()

    def loss(self, latent_BKhw: Tensor, labels: Labels) -> Tensor:
        """Cross-entropies of what is known, the cells' over all cells that are known to hold something or nothing."""

        def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
            return F.cross_entropy(logits.flatten(0, -2), target.flatten(), ignore_index=UNKNOWN, reduction="sum")

        (color, shape, size), whole = self(latent_BKhw)
        cells = (
            cross_entropy(color, labels.color)
            + SHAPE_WEIGHT * cross_entropy(shape, labels.shape)
            + cross_entropy(size, labels.size)
        )
        known_cells, known_wholes = (labels.color != UNKNOWN).sum(), (labels.whole != UNKNOWN).sum()
        return cells / known_cells.clamp(min=1) + WHOLE_WEIGHT * cross_entropy(whole, labels.whole) / known_wholes.clamp(min=1)
