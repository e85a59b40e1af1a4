"""Recipes `pretrain`, `instruct` and `cot`: one stage each of the paper, each from the model of the one before.

A stage is data mixture, coefficients, schedule and where to start. The nano model's sizes are those of `SIZES`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image

from mmada.canvas import Canvas
from mmada.data.packing import Batch, pack
from mmada.diffusion.forward_process import ForwardProcess
from mmada.errors import InputError, check_number
from mmada.io.device import chosen_device
from mmada.io.weights import share_weights
from mmada.model.factored_codes import factor_codes, plain_state
from mmada.model.lora import Lora, add_lora
from mmada.model.mmada import MMaDAConfig, MMaDAModel
from mmada.nano.examples import ANSWER_LENGTHS, THINK_LENGTH, World, check_mixture, corpus, fits_canvas, mixed
from mmada.nano.image_sets import ImageSets, ImageSetSizes, ReasoningSet
from mmada.pipeline import ImageSampling, MMaDA, Preset, TextSampling
from mmada.pipeline.grids import fit
from mmada.recipes.init_from import PICTURE, Start, read_start
from mmada.tokenizers.prompt import Prompter, PromptFormat
from mmada.tokenizers.text import TextTokenizer, train_text_tokenizer
from mmada.tokenizers.vocabulary import Vocabulary
from mmada.training.loop import Plan, train
from mmada.training.masked_diffusion import LossSettings, MaskedDiffusionLearner
from mmada.training.optim import Optim

__all__ = ["SftRecipe", "Sizes", "Stage", "cot", "instruct", "pretrain", "text_tokenizer"]

COT_INSTRUCTION = "think first."
SHOWN = ("a red circle", "a green star above a white circle", "a red circle and a blue star", "three yellow triangles",
         "a white square in the top left", "two black stars and a red square", "the digit 7", "the flag of japan")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The transformer's sizes."""

    width: int = 256
    layers: int = 8
    heads: int = 4
    mlp: int = 704
    length: int = 512


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A mixture that holds until ``until`` (share of the run): the sub-steps of a stage are a curriculum of these."""

    until: float
    mixture: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class SftRecipe:
    """A training stage of the transformer on packed canvases.

    ``reasoning``: a folder that `mmada collect` wrote, which then takes the share ``reasoning_share`` of the mixture.
    """

    name: str
    follows: str
    plan: Plan
    curriculum: tuple[Stage, ...]
    losses: LossSettings = field(default_factory=lambda: LossSettings(text=ForwardProcess(min_ratio=0.1, weight="none")))
    lora: Lora = field(default_factory=Lora)
    sizes: Sizes = field(default_factory=Sizes)
    pools: ImageSetSizes = field(default_factory=ImageSetSizes)
    rows: int = 40
    row_length: int = 192
    reasoning: str = ""
    reasoning_share: float = 0.25
    compile: bool = True
    device: str = "auto"

    def __post_init__(self) -> None:
        if not self.curriculum or self.curriculum[-1].until < 1:
            raise InputError(f"curriculum of {self.name} must reach until: 1")
        for stage in self.curriculum:
            check_mixture(stage.mixture)
        for name in ("rows", "row_length"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        check_number("reasoning_share", self.reasoning_share, 0.0, 1.0)

    def mixture(self, step: int) -> Mapping[str, float]:
        """The mixture in force at a step."""
        share = step / self.plan.steps
        named = next(stage.mixture for stage in self.curriculum if share < stage.until or stage is self.curriculum[-1])
        if not self.reasoning:
            return named
        rest = (1 - self.reasoning_share) / sum(named.values())
        return {**{kind: weight * rest for kind, weight in named.items()}, "reasoning": self.reasoning_share}

    def run(self, *, out: Path, resume: bool, start: Path | None) -> Path:
        """Train in ``out`` from the model folder ``start``; returns the folder of the trained model."""
        assert start is not None, "a stage starts from a model"
        torch.manual_seed(self.plan.seed)
        begun = read_start(start)
        text = begun.text or nano_text_tokenizer()
        vocabulary = begun.vocabulary(text)
        model = begun.model or self.fresh(vocabulary)
        if self.lora.rank:
            add_lora(model, self.lora)
        else:
            factor_codes(model, vocabulary.ranges["image"], std=0.0 if begun.model else 0.02)
        grid = PICTURE // begun.image.config.downsample
        instruction = begun.preset.cot_instruction if begun.preset else COT_INSTRUCTION
        # Pads are left out of packed rows: to nobody's eyes they make no difference.
        rules = replace(begun.preset.prompt_format, pads="none") if begun.preset else PromptFormat()
        prompter = Prompter(text, vocabulary, instruction, grid * grid, rules)
        world = World(ImageSets.build(begun.image, self.pools, cache=out.parent / "codes"), prompter, grid)
        if self.reasoning:
            world = replace(world, told=self.told(world, begun, cache=out.parent / "codes"))

        examples = self.examples(world, start, out.parent)

        def batches(step: int) -> Batch:
            rng = np.random.default_rng((self.plan.seed, step))
            return pack(examples(step, rng), rows=self.rows, length=self.row_length)

        def write(trained: MMaDAModel, folder: Path) -> None:
            if self.lora.rank:
                write_adapters(trained, folder)
            else:
                write_model(trained, text, begun, folder)

        learner = MaskedDiffusionLearner(
            model,
            vocabulary,
            batches,
            self.losses,
            seed=self.plan.seed,
            show=(lambda folder: show(start, folder)) if self.lora.rank else show,
            write=write,
            device=chosen_device(self.device),
            compile_model=self.compile,
        )
        return train(learner, self.plan, name=self.name, out=out, resume=resume)

    def told(self, world: World, begun: Start, *, cache: Path) -> ReasoningSet:
        """The reasoning examples that a row holds whole. Raises InputError where it holds none."""
        how = begun.preset.fit if begun.preset else "crop"
        read = ReasoningSet.read(Path(self.reasoning), begun.image, lambda picture: fit(picture, PICTURE, how), cache=cache)
        told = read.only(lambda example, codes: fits_canvas(world, example, codes, self.row_length))
        if not told.examples:
            raise InputError(f"reasoning {self.reasoning} has no example that fits: a row has {self.row_length} tokens, a "
                             f"thought before a picture {THINK_LENGTH}; raise row_length or collect shorter ones")  # fmt: skip
        if lost := len(read.examples) - len(told.examples):
            print(f"reasoning {self.reasoning}: {lost} of {len(read.examples)} examples are too long for a row and left out")
        return told

    def examples(self, world: World, start: Path, cache: Path) -> Callable[[int, np.random.Generator], Iterator[Canvas]]:
        """(step, generator) -> examples without end; what is made once for all steps is kept in ``cache``."""
        return lambda step, rng: mixed(world, self.mixture(step), rng, self.row_length)

    def fresh(self, vocabulary: Vocabulary) -> MMaDAModel:
        """A new transformer."""
        s = self.sizes
        return MMaDAModel(
            MMaDAConfig(
                vocab_size=vocabulary.size, hidden_size=s.width, num_hidden_layers=s.layers, num_attention_heads=s.heads,
                num_key_value_heads=s.heads, intermediate_size=s.mlp, max_position_embeddings=s.length, rms_norm_eps=1e-5,
                rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, tie_word_embeddings=False,
                bos_token_id=vocabulary.bos, eos_token_id=vocabulary.eos,
            )
        )  # fmt: skip


def write_adapters(model: MMaDAModel, folder: Path) -> None:
    """LoRA adapters alone, as peft reads them; `mmada.load(MODEL, adapter=folder)` puts them to work."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(str(folder))


def write_model(model: MMaDAModel, text: TextTokenizer, begun: Start, folder: Path, preset: Preset | None = None) -> None:
    """A model folder as `mmada.load` reads it; weights in the type of those it began with. ``preset``: None is that of
    the start, or where it has none, nano's."""
    folder.mkdir(parents=True, exist_ok=True)
    shipped = MMaDAModel(cast(MMaDAConfig, model.config))
    torch.nn.Module.to(shipped, begun.dtype)
    shipped.load_state_dict(plain_state(model))
    shipped.save_pretrained(str(folder))
    text.save(folder)
    shutil.copytree(begun.image_folder, folder / "image_tokenizer", dirs_exist_ok=True)
    share_weights(folder / "image_tokenizer")
    if preset is None and begun.preset is not None:  # what is learned from there on is decoded as it was; pictures have one size
        preset = replace(begun.preset, image_size=PICTURE)
    elif preset is None:
        answer, reasoning = ANSWER_LENGTHS[1], ANSWER_LENGTHS[-1]  # a description fits; a word is done after one block
        preset = Preset(
            cot_instruction=COT_INSTRUCTION,
            image_size=PICTURE,
            answer=TextSampling(length=answer, steps=answer, block=8),
            reasoning=TextSampling(length=reasoning, steps=reasoning, block=reasoning),  # in one: blocks cost right answers
            thought=TextSampling(length=THINK_LENGTH, steps=THINK_LENGTH, block=THINK_LENGTH),
            image=ImageSampling(steps=16, guidance=3.0, temperature=0.6, schedule="linear"),
        )
    preset.save(folder)


def show(folder: Path, adapter: Path | None = None) -> list[Image.Image]:
    """Sample pictures of a written model, or of one with adapters."""
    model = MMaDA.load(folder, adapter=adapter)
    pictures = model.draw(list(SHOWN), size=(PICTURE, PICTURE))
    return pictures if isinstance(pictures, list) else [pictures]


def nano_text_tokenizer() -> TextTokenizer:
    """The nano BPE, trained on 4,000 draws of every kind of sentence."""
    return train_text_tokenizer(corpus(0, 4000, COT_INSTRUCTION))


def text_tokenizer(out: Path) -> Path:
    """Train the nano text tokenizer and write it to ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    nano_text_tokenizer().save(out)
    return out


# The first stages keep their learning rate: what comes after goes on from there, and only the last stage cools down. Text about
# pictures wants a lower rate than the pictures themselves. Rates, noise and normaliser are measured in experiments/log.md.
OPTIM = Optim(lr=1e-3, muon_lr=4e-3, weight_decay=0.3, warmup=50, decay=0.0)
GENTLE = replace(OPTIM, lr=6e-4, muon_lr=2.4e-3, warmup=30)


def pretrain() -> SftRecipe:
    """Stage 1: text, captioned pictures and class-conditional digits, from nothing but the image tokenizer."""
    begin = {"drawing": 0.36, "digit_drawing": 0.04, "captioning": 0.45, "reading": 0.05, "digit_asking": 0.05, "knowing": 0.05}
    whole = {"drawing": 0.3, "digit_drawing": 0.04, "captioning": 0.15, "asking": 0.33, "reading": 0.04, "digit_asking": 0.06,
             "knowing": 0.04, "editing": 0.04}  # fmt: skip
    return SftRecipe(
        name="pretrain",
        follows="image_decoder",
        plan=Plan(steps=1400, optim=OPTIM, save_every=400, sample_every=700),
        curriculum=(Stage(until=0.35, mixture=begin), Stage(until=1.0, mixture=whole)),
    )


def instruct() -> SftRecipe:
    """Stage 1.3: instructions in text and about pictures, answered at once."""
    mixture = {"drawing": 0.15, "digit_drawing": 0.05, "captioning": 0.05, "asking": 0.28, "asking_thinking": 0.12,
               "reading": 0.01, "digit_asking": 0.06, "knowing": 0.02, "editing": 0.05, "calculating": 0.02,
               "calculating_thinking": 0.17, "chatting": 0.02}  # fmt: skip
    return replace(
        pretrain(),
        name="instruct",
        follows="pretrain",
        plan=Plan(steps=2000, seed=1, optim=GENTLE, save_every=400, sample_every=1000),
        curriculum=(Stage(until=1.0, mixture=mixture),),
    )


def cot() -> SftRecipe:
    """Stage 2: mixed long chain-of-thought over arithmetic, questions about pictures and knowledge to picture."""
    counted = {"drawing": 0.12, "digit_drawing": 0.025, "captioning": 0.02, "asking": 0.29, "asking_thinking": 0.06,
               "digit_asking": 0.025, "knowing": 0.01, "editing": 0.05, "calculating": 0.01, "equations": 0.16,
               "calculating_thinking": 0.2, "chatting": 0.01, "thinking_drawing": 0.03}  # fmt: skip
    looked = {**counted, "captioning": 0.04, "asking": 0.5, "asking_thinking": 0.07, "equations": 0.02,
              "calculating_thinking": 0.09}  # fmt: skip
    compared = {"drawing": 0.2, "digit_drawing": 0.02, "captioning": 0.02, "asking": 0.1, "comparing": 0.27,
                "comparing_told": 0.16, "asking_thinking": 0.06, "digit_asking": 0.02, "knowing": 0.01, "editing": 0.03,
                "calculating": 0.01, "equations": 0.03, "calculating_thinking": 0.06, "chatting": 0.01,
                "thinking_drawing": 0.03, "reading": 0.01}  # fmt: skip
    rounded = {**compared, "drawing": 0.13, "asking": 0.32, "comparing": 0.2, "comparing_told": 0.05,
               "calculating_thinking": 0.1}  # fmt: skip
    before = instruct()
    return replace(
        before,
        name="cot",
        follows="instruct",
        plan=Plan(steps=16_000, seed=2, optim=replace(GENTLE, decay=0.75, final=0.02), save_every=400, sample_every=1000),
        losses=replace(before.losses, text_coefficient=2.0),
        curriculum=(
            Stage(until=0.4, mixture=counted),
            Stage(until=0.6, mixture=looked),
            Stage(until=0.95, mixture=compared),
            Stage(until=1.0, mixture=rounded),
        ),
    )
