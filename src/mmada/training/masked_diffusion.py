"""Supervised training of the transformer on packed canvases of all modalities: eq. 1 and eq. 2, or the released image loss.

Shapes: B rows, L positions, D width, M masked positions, S examples.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from mmada.canvas import Modality
from mmada.data.packing import Batch
from mmada.diffusion.forward_process import ForwardProcess, corrupt, systematic_times
from mmada.diffusion.loss import Normaliser, chunked_cross_entropy, normalised_weights
from mmada.errors import check_choice, check_number, check_whole
from mmada.model.mmada import MMaDAModel
from mmada.tokenizers.vocabulary import Vocabulary

__all__ = ["HeldOut", "LossSettings", "MaskedDiffusionLearner", "Samples", "compiled"]

MASKS_OF_VALIDATION = 10**12
"""Step number of the masks of the first validation batch; no run reaches it."""


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """Masking, weighting and averaging of the loss of each modality.

    ``text``, ``image``: the forward process of the modality; ``..._normaliser``: how its losses are averaged
    (`normalised_weights`); ``..._coefficient``: its weight in the sum. ``eos_weight``: weight of a trailing end-of-text token, as
    a target and in the answer-length normaliser (1 is the released behaviour, where padding dominates short answers).
    ``whole_vocabulary``: the softmax runs over all ids, not only over those of the modality; ``frame_targets``: the two visible
    tokens around a picture are targets too. The released code does both. ``certainty``: weight of the entropy of text
    positions that are predicted correctly (certainty forcing of dParallel, for `distill`).

    As a setting it may be given by name, "paper" or "released", and single fields beside it: ``losses=paper``,
    ``losses.eos_weight=0.5``.
    """

    NAMES: ClassVar[tuple[str, ...]] = ("paper", "released")
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
    def paper() -> LossSettings:
        """Eq. 1 and eq. 2 as written, with the weight 1/t, for text and images alike: a bound on the likelihood."""
        process = ForwardProcess.paper()
        return LossSettings(text=process, image=process, image_normaliser="example", eos_weight=1.0, whole_vocabulary=True)

    @staticmethod
    def released() -> LossSettings:
        """The released losses (spec of the reference: cross-entropies over the whole vocabulary, padding counted in full)."""
        return LossSettings(eos_weight=1.0, whole_vocabulary=True, frame_targets=True)

    def __post_init__(self) -> None:
        for name in ("text_coefficient", "image_coefficient", "eos_weight", "certainty"):
            check_number(f"losses.{name}", getattr(self, name))
        for name in ("text_normaliser", "image_normaliser"):
            check_choice(f"losses.{name}", getattr(self, name), ("example", "token", "masked"))

    def of(self, modality: Modality) -> ModalityLoss:
        """The settings of one modality."""
        if modality == "text":
            return ModalityLoss(self.text, self.text_normaliser, self.text_coefficient, self.certainty)
        # No certainty term: many pictures fit a caption, so their codes are legitimately uncertain.
        return ModalityLoss(self.image, self.image_normaliser, self.image_coefficient, 0.0)


@dataclass(frozen=True)
class ModalityLoss:
    """Settings of the loss of one modality; see `LossSettings`."""

    process: ForwardProcess
    normaliser: Normaliser
    coefficient: float
    certainty: float


@dataclass(frozen=True)
class HeldOut:
    """Packed validation examples of one set and objective."""

    name: str
    use: str
    objective: str
    batches: tuple[Batch, ...]


@dataclass(frozen=True)
class Samples:
    """Samples of a model: pictures, and texts such as questions with their answers."""

    pictures: Sequence[Image.Image] = ()
    texts: Sequence[str] = ()


@dataclass(frozen=True)
class Targets:
    """Targets of one modality: the masked positions, and their normalised weights (0 elsewhere)."""

    masked_BL: Tensor
    weight_BL: Tensor


def compiled(model: MMaDAModel) -> Callable[..., Tensor]:
    """`model.hidden` compiled for one fixed shape, or as it is (with a warning) where no C++ compiler is found."""
    # Eager attention: for short rows it is faster than the fused kernel, whose backward pass is slow on CPUs.
    model.set_attn_implementation("eager")
    plain = model.hidden
    fast = torch.compile(plain, dynamic=False)
    state = {"fast": True}

    def hidden(tokens_BL: Tensor, **options: Tensor) -> Tensor:
        if state["fast"]:
            try:
                return fast(tokens_BL, **options)
            except RuntimeError as error:
                logging.getLogger(__name__).warning("compiling failed (%s); continuing without it", error)
                state["fast"] = False
        return plain(tokens_BL, **options)

    return hidden


class MaskedDiffusionLearner:
    """Learner of the transformer, as `mmada.training.loop.train` runs it.

    ``batches(step)``: the batch of a step. ``show``: samples of a saved model. ``write``: saves one. ``micro_batch``:
    rows of a forward and backward pass; gradients are accumulated over the batch (0: the whole batch at once). ``held_out``:
    validation examples. ``recompute``: activations are computed again in the backward pass and not kept (activation
    checkpointing). ``count_tokens``: log the examples and tokens of each step.
    """

    def __init__(
        self,
        model: MMaDAModel,
        vocabulary: Vocabulary,
        batches: Callable[[int], Batch],
        losses: LossSettings,
        *,
        seed: int,
        show: Callable[[Path], Sequence[Image.Image] | Samples],
        write: Callable[[MMaDAModel, Path], None],
        device: torch.device,
        compile_model: bool = False,
        micro_batch: int = 0,
        held_out: Sequence[HeldOut] = (),
        recompute: bool = False,
        count_tokens: bool = False,
    ) -> None:
        check_whole("micro_batch", micro_batch, 0)
        torch.nn.Module.to(model, device)
        if recompute:
            kwargs = {"use_reentrant": False}
            if hasattr(model.model, "activation_checkpointing_enable"):
                model.model.activation_checkpointing_enable(activation_checkpointing_kwargs=kwargs)
            else:  # before transformers 5.24
                model.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kwargs)
        torch.nn.Module.train(model)
        self.device = device
        self.module: nn.Module = model
        self.model, self.vocabulary, self.batches, self.settings = model, vocabulary, batches, losses
        self.seed, self.show, self.write, self.micro_batch = seed, show, write, micro_batch
        self.held_out, self.count_tokens = held_out, count_tokens
        self.texts: Sequence[str] = ()
        self.hidden = compiled(model) if compile_model else model.hidden
        self.examples = 0
        self.statistics: dict[str, float] = {}

    def losses(self, step: int) -> Iterator[dict[str, Tensor]]:
        """Losses of the batch of ``step`` by modality, a micro-batch at a time; they add up to those of the whole batch."""
        batch = self.batches(step)
        self.examples = batch.examples
        if self.count_tokens:
            self.statistics = {"examples": float(batch.examples), "tokens": float((batch.segment_BL > 0).sum())}
        torch.manual_seed(self.seed * 1_000_003 + step)  # of dropout in adapters
        yield from self.losses_of(batch, step)

    def losses_of(self, batch: Batch, step: int) -> Iterator[dict[str, Tensor]]:
        """The losses of a batch with the masks of ``step``."""
        tokens_BL, masks = self.corrupted(batch, step)
        # Batches and masks are drawn on the CPU, whatever the device, so that a seed gives the same ones everywhere.
        batch, tokens_BL = batch.to(self.device), tokens_BL.to(self.device)
        targets = {
            modality: self.targets(batch, modality, masked_BL.to(self.device), weight_BL.to(self.device))
            for modality, (masked_BL, weight_BL) in masks.items()
        }
        size = self.micro_batch or len(tokens_BL)
        for first in range(0, len(tokens_BL), size):
            rows = slice(first, first + size)
            with torch.autocast(self.device.type, torch.bfloat16):
                hidden_BLD = self.hidden(tokens_BL[rows], segment_BL=batch.segment_BL[rows], position_BL=batch.position_BL[rows])
                found: dict[str, Tensor] = {
                    modality: self.modality_loss(hidden_BLD, batch.tokens_BL[rows], modality, chosen, rows)
                    for modality, chosen in targets.items()
                }
            yield found

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean losses an example of the validation examples: of all, and by set, use and objective; the same masks every time."""
        torch.nn.Module.eval(self.model)
        sums: dict[str, list[float]] = {}
        for part in self.held_out:
            for number, batch in enumerate(part.batches):
                found = sum(
                    float(value) for parts in self.losses_of(batch, MASKS_OF_VALIDATION + number) for value in parts.values()
                )
                for name in ("loss", f"loss_set_{part.name}", f"loss_use_{part.use}", f"loss_{part.objective}"):
                    total = sums.setdefault(name, [0.0, 0.0])
                    total[0] += found * batch.examples
                    total[1] += batch.examples
        torch.nn.Module.train(self.model)
        return {name: loss / examples for name, (loss, examples) in sums.items()}

    def corrupted(self, batch: Batch, step: int) -> tuple[Tensor, dict[Modality, tuple[Tensor, Tensor]]]:
        """Tokens with masks, and for each modality the masked positions and their weights (B, L)."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        times_S = systematic_times(batch.examples, generator)
        tokens_BL = batch.tokens_BL
        masks: dict[Modality, tuple[Tensor, Tensor]] = {}
        for modality in self.vocabulary.ranges:
            noised = corrupt(
                tokens_BL,
                batch.positions(modality),
                batch.segment_BL,
                mask_id=self.vocabulary.mask,
                process=self.settings.of(modality).process,
                generator=generator,
                times_S=times_S,
            )
            tokens_BL = noised.tokens_BL
            masks[modality] = (noised.masked_BL, noised.weight_BL)
        return tokens_BL, masks

    def targets(self, batch: Batch, modality: Modality, masked_BL: Tensor, weight_BL: Tensor) -> Targets:
        """Positions to predict, and weights under which the sum of their losses is the loss of the modality."""
        v = self.vocabulary
        if modality == "image" and self.settings.frame_targets:
            drawn_S = torch.bincount(batch.segment_BL[masked_BL], minlength=batch.examples + 1) > 0
            frame_BL = torch.isin(batch.tokens_BL, batch.tokens_BL.new_tensor([v.soi, v.eoi]))
            masked_BL = masked_BL | (frame_BL & drawn_S[batch.segment_BL])
        counts_BL = torch.where(batch.tokens_BL == v.eos, self.settings.eos_weight, 1.0)
        editable_BL = batch.positions(modality)
        positions_S = torch.bincount(
            batch.segment_BL[editable_BL] - 1, weights=counts_BL[editable_BL], minlength=max(1, batch.examples)
        ).float()
        weight_M = normalised_weights(
            (weight_BL * counts_BL)[masked_BL],
            batch.segment_BL[masked_BL] - 1,
            positions_S,
            normaliser=self.settings.of(modality).normaliser,
        )
        return Targets(masked_BL, torch.zeros_like(counts_BL).masked_scatter(masked_BL, weight_M))

    def modality_loss(self, hidden_BLD: Tensor, tokens_BL: Tensor, modality: Modality, targets: Targets, rows: slice) -> Tensor:
        """The part of a modality's loss that comes from ``rows``; ``tokens_BL`` are their true tokens."""
        chosen = self.settings.of(modality)
        vocab = range(self.vocabulary.size) if self.settings.whole_vocabulary else self.vocabulary.ranges[modality]
        masked_BL = targets.masked_BL[rows]
        loss_M = chunked_cross_entropy(
            hidden_BLD[masked_BL],
            self.model.head(vocab),
            tokens_BL[masked_BL] - vocab.start,
            chunk=4096,
            certainty=chosen.certainty,
        )
        return chosen.coefficient * (loss_M * targets.weight_BL[rows][masked_BL]).sum()

    def samples(self, folder: Path) -> Sequence[Image.Image]:
        """Sample pictures of the saved model; ``texts`` has the answers that it gave."""
        shown = self.show(folder)
        samples = shown if isinstance(shown, Samples) else Samples(shown)
        self.texts = samples.texts
        return samples.pictures

    def save(self, folder: Path) -> None:
        """Write the model folder."""
        self.write(self.model, folder)
