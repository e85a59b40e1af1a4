"""Training recipes of the nano world: `pretrain`, `instruct` and `cot`, one stage each of the paper.

All three are `SftRecipe` over the procedural data sets of `mmada.nano.datasets`; each starts from the model of the one before.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from mmada.data.dataset import Formatter
from mmada.diffusion.forward_process import ForwardProcess
from mmada.errors import InputError
from mmada.nano.datasets import ANSWER_LENGTHS, KINDS, NanoData, corpus, nano_datasets
from mmada.nano.image_sets import ImageSets, ImageSetSizes
from mmada.pipeline import ImageSampling, Preset, TextSampling
from mmada.recipes.init_from import Start
from mmada.recipes.sft import COT_INSTRUCTION, CurriculumPhase, SftRecipe
from mmada.recipes.sft_data import ReadData, SftData
from mmada.tokenizers.text import TextTokenizer, train_text_tokenizer
from mmada.training.loop import Plan
from mmada.training.masked_diffusion import LossSettings
from mmada.training.optim import Optim

__all__ = ["NanoSftRecipe", "cot", "instruct", "pretrain", "text_tokenizer"]

SIZE = 64
"""Height and width of the nano world's pictures, in pixels."""
THOUGHT_LENGTH = 32
SAMPLE_PROMPTS = ("a red circle", "a green star above a white circle", "a red circle and a blue star", "three yellow triangles",
                  "a white square in the top left", "two black stars and a red square", "the digit 7",
                  "the flag of japan")  # fmt: skip
LOSSES = LossSettings(text=ForwardProcess(min_ratio=0.1, weight="none"))
"""Not the 1/t of eq. 1: unweighted, with at least a tenth of the text masked (measured in experiments/log.md)."""


@dataclass(frozen=True, kw_only=True)
class NanoSftRecipe(SftRecipe):
    """A training stage on the nano world; ``image_sets``: numbers of its pictures. ``data`` may add data sets of other kinds."""

    image_sets: ImageSetSizes = field(default_factory=ImageSetSizes)
    losses: LossSettings = LOSSES
    rows: int = 40
    row_length: int = 192
    image_size: int | None = SIZE
    answer_lengths: tuple[int, ...] = ANSWER_LENGTHS
    thought_length: int = THOUGHT_LENGTH
    sample_prompts: tuple[str, ...] = SAMPLE_PROMPTS
    factored_codes: bool = True
    compile: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size != SIZE:
            raise InputError(f"image_size of {self.name} must be {SIZE}, as the nano pictures are, got {self.image_size}")

    def dataset_names(self) -> tuple[str, ...]:
        """The kinds of nano examples, and the sources of ``data``."""
        return (*KINDS, *self.data)

    def datasets(self, begun: Start, formatter: Formatter, read: ReadData, length: int, cache: Path) -> SftData:
        """As `SftRecipe.datasets`, with those of the nano world."""
        added = super().datasets(begun, formatter, read, length, cache)
        images = ImageSets.build(begun.image, self.image_sets, cache=cache)
        data = NanoData(images, formatter.prompter.text, SIZE // begun.image.config.downsample)
        return replace(added, train={**nano_datasets(data), **added.train})

    def new_text_tokenizer(self, read: ReadData | None = None) -> TextTokenizer:
        """The given one, or else the nano BPE, trained on 4,000 draws of every kind of sentence."""
        if self.text_tokenizer:
            return super().new_text_tokenizer(read)
        return train_text_tokenizer(corpus(0, 4000, COT_INSTRUCTION))

    def new_preset(self) -> Preset:
        """Sampling defaults: the default answer length holds a description; a word is done after one block."""
        answer, reasoning = ANSWER_LENGTHS[1], ANSWER_LENGTHS[-1]
        return Preset(
            cot_instruction=COT_INSTRUCTION,
            image_size=SIZE,
            answer=TextSampling(length=answer, steps=answer, block=8),
            reasoning=TextSampling(length=reasoning, steps=reasoning, block=reasoning),  # one block: several lost accuracy
            thought=TextSampling(length=THOUGHT_LENGTH, steps=THOUGHT_LENGTH, block=THOUGHT_LENGTH),
            image=ImageSampling(steps=16, guidance=3.0, temperature=0.6, schedule="linear"),
        )


def text_tokenizer(out: Path) -> Path:
    """Train the nano text tokenizer and write it to ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    train_text_tokenizer(corpus(0, 4000, COT_INSTRUCTION)).save(out)
    return out


# The first stages keep their learning rate, as the next stage continues from there; only the last stage decays it. Text about
# pictures needs a lower rate than the pictures themselves. Rates, noise and normaliser are measured in experiments/log.md.
OPTIM = Optim(lr=1e-3, muon_lr=4e-3, weight_decay=0.3, warmup=50, decay=0.0)
GENTLE = replace(OPTIM, lr=6e-4, muon_lr=2.4e-3, warmup=30)


def pretrain() -> NanoSftRecipe:
    """Stage 1: text, captioned pictures and class-conditional digits, from the image tokenizer alone."""
    begin = {
        "text_to_image": 0.36,
        "digit_to_image": 0.04,
        "captioning": 0.45,
        "language": 0.05,
        "digit_vqa": 0.05,
        "knowledge_to_image": 0.05,
    }
    whole = {"text_to_image": 0.3, "digit_to_image": 0.04, "captioning": 0.15, "vqa": 0.33, "language": 0.04, "digit_vqa": 0.06,
             "knowledge_to_image": 0.04, "inpainting": 0.04}  # fmt: skip
    return NanoSftRecipe(
        name="pretrain",
        follows="image_decoder",
        plan=Plan(steps=1400, optim=OPTIM, save_every=400, sample_every=700),
        curriculum=(CurriculumPhase(until=0.35, mixture=begin), CurriculumPhase(until=1.0, mixture=whole)),
    )


def instruct() -> NanoSftRecipe:
    """Stage 1.3: instructions in text and about pictures, mostly answered without reasoning."""
    mixture = {"text_to_image": 0.15, "digit_to_image": 0.05, "captioning": 0.05, "vqa": 0.28, "vqa_reasoning": 0.12,
               "language": 0.01, "digit_vqa": 0.06, "knowledge_to_image": 0.02, "inpainting": 0.05, "arithmetic": 0.02,
               "arithmetic_reasoning": 0.17, "knowledge_chat": 0.02}  # fmt: skip
    return replace(
        pretrain(),
        name="instruct",
        follows="pretrain",
        plan=Plan(steps=2000, seed=1, optim=GENTLE, save_every=400, sample_every=1000),
        curriculum=(CurriculumPhase(until=1.0, mixture=mixture),),
    )


def cot() -> NanoSftRecipe:
    """Stage 2: mixed long chain-of-thought over arithmetic, questions about pictures and knowledge to picture."""
    counted = {"text_to_image": 0.12, "digit_to_image": 0.025, "captioning": 0.02, "vqa": 0.29, "vqa_reasoning": 0.06,
               "digit_vqa": 0.025, "knowledge_to_image": 0.01, "inpainting": 0.05, "arithmetic": 0.01, "equations": 0.16,
               "arithmetic_reasoning": 0.2, "knowledge_chat": 0.01, "thought_to_image": 0.03}  # fmt: skip
    looked = {**counted, "captioning": 0.04, "vqa": 0.5, "vqa_reasoning": 0.07, "equations": 0.02,
              "arithmetic_reasoning": 0.09}  # fmt: skip
    compared = {"text_to_image": 0.2, "digit_to_image": 0.02, "captioning": 0.02, "vqa": 0.1, "vqa_comparison": 0.27,
                "text_comparison": 0.16, "vqa_reasoning": 0.06, "digit_vqa": 0.02, "knowledge_to_image": 0.01, "inpainting": 0.03,
                "arithmetic": 0.01, "equations": 0.03, "arithmetic_reasoning": 0.06, "knowledge_chat": 0.01,
                "thought_to_image": 0.03, "language": 0.01}  # fmt: skip
    rounded = {**compared, "text_to_image": 0.13, "vqa": 0.32, "vqa_comparison": 0.2, "text_comparison": 0.05,
               "arithmetic_reasoning": 0.1}  # fmt: skip
    before = instruct()
    return replace(
        before,
        name="cot",
        follows="instruct",
        plan=Plan(steps=16_000, seed=2, optim=replace(GENTLE, decay=0.75, final=0.02), save_every=400, sample_every=1000),
        losses=replace(before.losses, text_coefficient=2.0),
        curriculum=(
            CurriculumPhase(until=0.4, mixture=counted),
            CurriculumPhase(until=0.6, mixture=looked),
            CurriculumPhase(until=0.95, mixture=compared),
            CurriculumPhase(until=1.0, mixture=rounded),
        ),
    )
