"""Training the transformer on packed canvases of text and pictures: eq. 1 and eq. 2, or the released image loss.

Shapes: B rows, L positions, D width, M masked places, S examples.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from mmada.canvas import IMAGE, TEXT
from mmada.data.packing import Batch
from mmada.diffusion.forward_process import ForwardProcess, corrupt, systematic_times
from mmada.diffusion.loss import Normaliser, chunked_cross_entropy, weighted_mean
from mmada.errors import InputError, check_number
from mmada.model.mmada import MMaDAModel
from mmada.tokenizers.vocabulary import Vocabulary

__all__ = ["LossSettings", "MaskedDiffusionLearner", "compiled"]


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """How text and pictures are noised, weighted and added up.

    ``eos_weight``: what a trailing end-of-text token counts, as a target and in the answer-length normaliser (1 = the released
    behaviour, where padding dominates short answers). ``whole_vocabulary``: the softmax runs over all ids, not over those of the
    modality; ``frame_targets``: the two visible tokens around a picture are targets too. Both are so in the released code.
    ``certainty``: weight of the entropy of text places that are predicted right (certainty forcing, for `distill`).
    """

    text: ForwardProcess = field(default_factory=ForwardProcess.paper)
    image: ForwardProcess = field(default_factory=ForwardProcess.released_image)
    text_normaliser: Normaliser = "example"
    image_normaliser: Normaliser = "masked"
    text_coefficient: float = 1.0
    image_coefficient: float = 1.0
    eos_weight: float = 0.1
    certainty: float = 0.0
    whole_vocabulary: bool = False
    frame_targets: bool = False

    @staticmethod
    def released() -> LossSettings:
        """The released losses (spec of the reference: cross-entropies over the whole vocabulary, padding counted in full)."""
        return LossSettings(eos_weight=1.0, whole_vocabulary=True, frame_targets=True)

    def __post_init__(self) -> None:
        for name in ("text_coefficient", "image_coefficient", "eos_weight", "certainty"):
            check_number(f"losses.{name}", getattr(self, name))
        for name in ("text_normaliser", "image_normaliser"):
            if getattr(self, name) not in ("example", "token", "masked"):
                raise InputError(f"losses.{name} must be 'example', 'token' or 'masked', got {getattr(self, name)!r}")


def compiled(model: MMaDAModel) -> Callable[..., Tensor]:
    """`model.hidden` compiled for one fixed shape, or as it is (with a warning) where no C++ compiler is found."""
    # Written-out attention: at rows this short it beats the fused kernel, whose backward pass is slow on CPUs.
    model.set_attn_implementation("eager")
    plain = model.hidden
    fast = torch.compile(plain, dynamic=False)
    state = {"fast": True}

    def hidden(tokens_BL: Tensor, **where: Tensor) -> Tensor:
        if state["fast"]:
            try:
                return fast(tokens_BL, **where)
            except RuntimeError as error:
                logging.getLogger(__name__).warning("compiling failed (%s); going on without", error)
                state["fast"] = False
        return plain(tokens_BL, **where)

    return hidden


class MaskedDiffusionLearner:
    """Batches by step, sample pictures of a saved model (``show``) and a way to save one (``write``) come from the recipe."""

    def __init__(
        self,
        model: MMaDAModel,
        vocabulary: Vocabulary,
        batches: Callable[[int], Batch],
        losses: LossSettings,
        *,
        seed: int,
        show: Callable[[Path], Sequence[Image.Image]],
        write: Callable[[MMaDAModel, Path], None],
        device: torch.device,
        compile_model: bool = False,
    ) -> None:
        torch.nn.Module.to(model, device)
        self.device = device
        self.module: nn.Module = model
        self.model, self.vocabulary, self.batches, self.coefficients = model, vocabulary, batches, losses
        self.seed, self.show, self.write = seed, show, write
        self.hidden = compiled(model) if compile_model else model.hidden
        self.examples = 0
        self.statistics: dict[str, float] = {}

    def losses(self, step: int) -> Iterator[dict[str, Tensor]]:
        """Text and image losses of the batch of ``step``."""
        batch = self.batches(step)
        self.examples = batch.examples
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        times_S = systematic_times(batch.examples, generator)
        tokens_BL = batch.tokens_BL
        masked: dict[int, tuple[Tensor, Tensor]] = {}
        for modality, noise in ((TEXT, self.coefficients.text), (IMAGE, self.coefficients.image)):
            places_BL = batch.editable_BL & (batch.modality_BL == modality)
            noised = corrupt(
                tokens_BL,
                places_BL,
                batch.segment_BL,
                mask_id=self.vocabulary.mask,
                noise=noise,
                generator=generator,
                times_S=times_S,
            )
            tokens_BL = noised.tokens_BL
            masked[modality] = (noised.masked_BL, noised.weight_BL)
        # Batches and masks are drawn on the CPU, whatever the device, so that a seed means the same everywhere.
        batch, tokens_BL = batch.to(self.device), tokens_BL.to(self.device)
        masked = {k: (m.to(self.device), w.to(self.device)) for k, (m, w) in masked.items()}
        with torch.autocast(self.device.type, torch.bfloat16):
            hidden_BLD = self.hidden(tokens_BL, segment_BL=batch.segment_BL, position_BL=batch.position_BL)
            found = {
                "text": self.coefficients.text_coefficient * self.modality_loss(hidden_BLD, batch, TEXT, *masked[TEXT]),
                "image": self.coefficients.image_coefficient * self.modality_loss(hidden_BLD, batch, IMAGE, *masked[IMAGE]),
            }
        yield found

    def modality_loss(self, hidden_BLD: Tensor, batch: Batch, modality: int, masked_BL: Tensor, weight_BL: Tensor) -> Tensor:
        """The loss over the masked places of one modality, over its own vocabulary range."""
        v, chosen = self.vocabulary, self.coefficients
        vocab = v.ranges["text"] if modality == TEXT else v.ranges["image"]
        vocab = range(v.size) if chosen.whole_vocabulary else vocab
        if modality == IMAGE and chosen.frame_targets:
            drawn_S = torch.bincount(batch.segment_BL[masked_BL], minlength=batch.examples + 1) > 0
            frame_BL = torch.isin(batch.tokens_BL, batch.tokens_BL.new_tensor([v.soi, v.eoi]))
            masked_BL = masked_BL | (frame_BL & drawn_S[batch.segment_BL])
        target_M = batch.tokens_BL[masked_BL] - vocab.start
        certainty = chosen.certainty if modality == TEXT else 0.0  # which of many right pictures is drawn is no certainty
        hidden_MD = hidden_BLD[masked_BL]
        loss_M = chunked_cross_entropy(hidden_MD, self.model.head(vocab), target_M, chunk=4096, certainty=certainty)
        counts_BL = torch.where(batch.tokens_BL == v.eos, chosen.eos_weight, 1.0)
        places_BL = batch.editable_BL & (batch.modality_BL == modality)
        places_S = torch.bincount(
            batch.segment_BL[places_BL] - 1, weights=counts_BL[places_BL], minlength=max(1, batch.examples)
        ).float()
        normaliser = chosen.text_normaliser if modality == TEXT else chosen.image_normaliser
        weight_M = (weight_BL * counts_BL)[masked_BL]
        return weighted_mean(loss_M, weight_M, batch.segment_BL[masked_BL] - 1, places_S, normaliser=normaliser)

    def samples(self, folder: Path) -> Sequence[Image.Image]:
        """Sample pictures of the saved model."""
        return self.show(folder)

    def save(self, folder: Path) -> None:
        """Write the model folder."""
        self.write(self.model, folder)
