"""Recipe `sft`: supervised training of the transformer on any mixture of data sets, from any start.

    mmada train sft --data FILE.yaml --start-from MODEL
    mmada train sft --start-from MODEL --set "data={captions: FOLDER, chat: FILE.jsonl}"

The training stages of a model are instances of it: each has a curriculum over named data sets, and starts from the stage before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch

from mmada.canvas import Canvas
from mmada.data.dataset import Example, Formatter, Sampler, check_mixture, step_generator
from mmada.data.packing import Batch, pack
from mmada.data.sampler import MixtureSampler
from mmada.errors import InputError, check_choice, check_number, check_whole
from mmada.io.device import chosen_device
from mmada.model.factored_codes import factor_codes
from mmada.model.lora import Lora, add_lora
from mmada.model.mmada import MMaDAConfig, MMaDAModel
from mmada.pipeline import Engine, MMaDA, Preset
from mmada.pipeline.grids import fit
from mmada.pipeline.loading import ModelFolder
from mmada.recipes.init_from import Start, read_start
from mmada.recipes.model_folder import sample_images, write_adapters, write_model
from mmada.recipes.sft_batches import VariedBlocks, held_out
from mmada.recipes.sft_data import (
    DataSource,
    Encoding,
    ReadData,
    SftData,
    file_data,
    read_file,
    read_sources,
    source_data,
    texts_of,
)
from mmada.recipes.sft_defaults import OpenOptim, OpenPlan, chosen_plan
from mmada.recipes.sft_report import best_guidance, next_commands, said, sampled, save_shown, shown_examples, summary
from mmada.registry import DATASETS
from mmada.tokenizers.prompt import Prompter, PromptFormat
from mmada.tokenizers.text import TextTokenizer, train_text_tokenizer
from mmada.tokenizers.vocabulary import Vocabulary
from mmada.training.loop import Plan, train
from mmada.training.masked_diffusion import LossSettings, MaskedDiffusionLearner, Samples

__all__ = ["CurriculumPhase", "DataSource", "SftRecipe", "Sizes", "sft"]

SHOWN = 8
"""Examples that the model is asked for at the end."""
FEW = 200
"""Examples below which no captions are left out by default: guidance means nothing to a model that knows them by heart."""
LARGE = 10**9
"""Weights from which activations are computed again in the backward pass."""
COT_INSTRUCTION = "think first."
Random = np.random.Generator


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of a new transformer, for starts that hold only an image tokenizer."""

    width: int = 256
    layers: int = 8
    heads: int = 4
    mlp: int = 704
    length: int = 512

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "mlp", "length"):
            check_whole(f"sizes.{name}", getattr(self, name), 1)
        if self.width % self.heads:
            raise InputError(f"sizes.width {self.width} is not a multiple of sizes.heads {self.heads}; change one of them")


@dataclass(frozen=True, kw_only=True)
class CurriculumPhase:
    """A mixture of data sets that is used until ``until``, a share of the run."""

    until: float
    mixture: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class SftRecipe:
    """Supervised training on packed canvases.

    ``data_file``: a YAML file of data sets (`mmada.data.load`) or a folder of shards, as ``--data`` gives it. ``data``: data sets
    by name, as a path (the name is then the kind of reader) or a `DataSource`. ``curriculum``: mixtures of named data sets over
    the run; without one, all sets are mixed by their weights. With one, those sets that it does not name take ``data_share`` of
    every mixture. ``image_size``: pixels of a picture, None: the model's own; if given, it is written to the preset of the
    trained model. ``answer_lengths``, ``thought_length``: as in `Formatter`. ``caption_dropout``: share of captions that are left
    out, for classifier-free guidance; "auto": 0.1, and 0 with fewer than 200 examples. ``sample_prompts``: pictures drawn
    whenever samples are due, and ``samples``: how many examples of the validation split (or else of the others) are drawn and
    answered. ``batch``: examples of a step, laid in as few rows as hold them, of which ``micro_batch`` are computed at a time (0:
    all); a row has at most ``row_length`` tokens (0: as many as the model takes). With ``rows``, a batch is that many rows,
    filled with as many examples as fit. ``validation_examples``: most validation examples of a set. ``weights``: type that the
    weights are kept in, "auto": float32, but as they are stored below LoRA's adapters, which are float32 always; activations are
    in bfloat16. ``activation_checkpointing``: compute activations again in the backward pass, which takes a third more time and
    far less memory; "auto": for models of a billion weights and more. ``factored_codes``: train the rows of image codes as sums
    over their bits (`mmada.model.factored_codes`). ``text_tokenizer``: folder of the text tokenizer for a new model; without it,
    one is trained on the texts of the data file.
    """

    name: str
    follows: str = ""
    plan: Plan
    data_file: str = ""
    data: Mapping[str, str | DataSource] = field(default_factory=dict)
    data_share: float = 0.25
    curriculum: tuple[CurriculumPhase, ...] = ()
    losses: LossSettings = field(default_factory=LossSettings)
    lora: Lora = field(default_factory=Lora)
    sizes: Sizes = field(default_factory=Sizes)
    text_tokenizer: str = ""
    batch: int = 32
    rows: int = 0
    row_length: int = 0
    micro_batch: int = 0
    image_size: int | None = None
    answer_lengths: tuple[int, ...] = (32, 64, 128, 256)
    thought_length: int = 64
    caption_dropout: float | Literal["auto"] = "auto"
    sample_prompts: tuple[str, ...] = ()
    samples: int = 4
    validation_examples: int = 64
    weights: Literal["auto", "float32", "bfloat16"] = "auto"
    activation_checkpointing: bool | Literal["auto"] = "auto"
    factored_codes: bool = False
    compile: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        check_whole("thought_length", self.thought_length, 1)
        check_whole("batch", self.batch, 1)
        for name in ("rows", "row_length", "micro_batch", "samples", "validation_examples"):
            check_whole(name, getattr(self, name), 0)
        if self.image_size is not None:
            check_whole("image_size", self.image_size, 1)
        for length in self.answer_lengths:
            check_whole("answer_lengths", length, 1)
        check_number("data_share", self.data_share, 0.0, 1.0)
        if self.caption_dropout != "auto":
            check_number("caption_dropout", self.caption_dropout, 0.0, 1.0)
        check_choice("weights", self.weights, ("auto", "float32", "bfloat16"))
        if not isinstance(self.activation_checkpointing, bool):
            check_choice("activation_checkpointing", self.activation_checkpointing, ("auto",))
        for name, source in self.sources().items():
            if source.kind not in DATASETS:
                raise InputError(f"data {name!r} is of kind {source.kind!r}; choose from {', '.join(DATASETS)}")
            check_number(f"weight of data {name}", source.weight)
        if not self.curriculum:
            return
        if not self.curriculum[-1].until >= 1:
            raise InputError(f"curriculum of {self.name} ends at {self.curriculum[-1].until}; let the last phase have until: 1")
        if not self.rows or not self.row_length:
            raise InputError(f"curriculum of {self.name} needs batches of a fixed number of tokens; give rows and row_length")
        for phase in self.curriculum if not self.data_file else ():
            check_mixture(phase.mixture, self.dataset_names())

    def sources(self) -> dict[str, DataSource]:
        """``data`` with every source spelled out."""
        given = {n: DataSource(path=one) if isinstance(one, str) else one for n, one in self.data.items()}
        return {name: replace(one, kind=one.kind or name) for name, one in given.items()}

    def dataset_names(self) -> tuple[str, ...]:
        """Names that a mixture may use."""
        return tuple(self.data)

    def mixture(self, step: int) -> Mapping[str, float]:
        """The mixture at a step."""
        weights = {name: source.weight for name, source in self.sources().items()}
        if not self.curriculum:
            return weights
        share = step / self.plan.steps
        named = next(p.mixture for p in self.curriculum if share < p.until or p is self.curriculum[-1])
        added = {name: weight for name, weight in weights.items() if name not in named}
        if not sum(added.values()):
            return named
        rest, given = (1 - self.data_share) / sum(named.values()), self.data_share / sum(added.values())
        return {**{n: w * rest for n, w in named.items()}, **{n: w * given for n, w in added.items()}}

    def run(self, *, out: Path, resume: bool, start: Path | None) -> Path:
        """Train in ``out`` from the model folder ``start``; returns the folder of the trained model."""
        if start is None:
            raise InputError(f"recipe {self.name} has no start; give --start-from with a model")
        self.check_data()
        device = chosen_device(self.device)
        read = self.read_data()
        torch.manual_seed(self.plan.seed)
        begun = read_start(start, self.weights_type())
        text = begun.text or self.new_text_tokenizer(read)
        vocabulary = begun.vocabulary(text)
        model = begun.model or self.new_model(vocabulary)
        if self.lora.rank:
            add_lora(model, self.lora)
        elif self.factored_codes:
            factor_codes(model, vocabulary.ranges["image"], std=0.0 if begun.model else 0.02)
        formatter = self.formatter(begun, text, vocabulary)
        length = self.row_length or longest(begun.preset, model)
        if self.data_file:
            begun.image.to(device)
        data = self.datasets(begun, formatter, read, length, out.parent / "codes")
        lora, width = bool(self.lora.rank), model.config.hidden_size
        plan = chosen_plan(self.plan, examples=data.examples, batch=self.batch, width=width, lora=lora)
        preset = begun.preset or self.new_preset()
        if plan.patience and not data.validation:
            raise InputError(f"plan.patience {plan.patience} needs a validation split, and the data has none; leave it 0")
        examples = shown_examples(data.validation or data.fixed, self.samples)
        learner = MaskedDiffusionLearner(
            model,
            vocabulary,
            self.batches(data, formatter, preset, length, start, out.parent),
            self.losses,
            seed=plan.seed,
            show=partial(self.show, begun, text, vocabulary, model, examples, start),
            write=partial(self.write, begun, start, text),
            device=device,
            compile_model=self.compile,
            micro_batch=self.micro_batch,
            held_out=held_out(data.validation, data.uses, formatter, length, self.batch, self.validation_examples),
            recompute=self.recompute(model),
            count_tokens=not self.rows,
        )
        written = train(learner, plan, name=self.name, out=out, resume=resume)
        if not self.rows:
            self.report(out, written, plan, data, self.pipeline(begun, text, vocabulary, model))
        return written

    def check_data(self) -> None:
        """Raise InputError for a recipe without data, or with data in two ways."""
        if self.curriculum:
            if self.data_file:
                raise InputError(f"recipe {self.name} has data of its own; take recipe sft for --data, or add --set data={{...}}")
            return
        if self.data_file and self.data:
            raise InputError("data is given by --data and by the setting data; give one of them")
        if not self.data_file and not self.data:
            raise InputError(
                f"recipe {self.name} has no data; give --data FILE.yaml, or --set data={{KIND: PATH}}, see its fields"
            )
        if self.data:
            check_mixture(self.mixture(0), self.dataset_names())

    def weights_type(self) -> torch.dtype | None:
        """Type that the weights of the start are kept in; None: as they are stored."""
        if self.weights == "auto":
            return None if self.lora.rank else torch.float32
        return cast(torch.dtype, getattr(torch, self.weights))

    def recompute(self, model: MMaDAModel) -> bool:
        """Whether activations are computed again in the backward pass."""
        if isinstance(self.activation_checkpointing, bool):
            return self.activation_checkpointing
        return sum(p.numel() for p in model.parameters()) >= LARGE

    def read_data(self) -> ReadData:
        """The data of the recipe, pictures not yet encoded. Raises InputError where some is missing or has no example."""
        if self.data_file:
            return read_file(self.data_file)
        return ReadData(sets=read_sources(self.sources()))

    def datasets(self, begun: Start, formatter: Formatter, read: ReadData, length: int, cache: Path) -> SftData:
        """Data sets by name, ready for sampling: the examples that fit a row, with pictures encoded."""
        size, how = self.picture_size(begun), begun.preset.fit if begun.preset else "crop"
        encoding = Encoding(begun.image, partial(fit, size=size, how=how), cache)
        if read.mixture is not None:
            return file_data(read.mixture, self.data_file, formatter, length, encoding)
        train = source_data(read.sets, self.sources(), formatter, length, encoding)
        return SftData(train=train, weights={name: self.sources()[name].weight for name in train})

    def batches(
        self, data: SftData, formatter: Formatter, preset: Preset, length: int, start: Path, cache: Path
    ) -> Callable[[int], Batch]:
        """The batch of a step."""
        if self.rows:
            sampler = Sampler(data.train, formatter, length)
            if self.data_file:
                return lambda step: self.filled(sampler.canvases(data.weights, step_generator(self.plan.seed, step)), length)
            examples = self.examples(sampler, start, cache)
            return lambda step: self.filled(examples(step, step_generator(self.plan.seed, step)), length)
        return VariedBlocks(
            MixtureSampler(data.fixed, data.weights, self.plan.seed), formatter, self.batch, 1, length,
            caption_dropout=self.dropout(data), answer_length=preset.answer.numbers[0],
            reasoning_length=preset.reasoning.numbers[0],
        ).batch  # fmt: skip

    def dropout(self, data: SftData) -> float:
        """Share of captions that are left out."""
        if self.caption_dropout != "auto":
            return self.caption_dropout
        return 0.1 if data.examples >= FEW else 0.0

    def filled(self, canvases: Iterator[Canvas], length: int) -> Batch:
        """As many canvases as fit into ``rows``."""
        return pack(canvases, rows=self.rows, length=length)

    def formatter(self, begun: Start, text: TextTokenizer, vocabulary: Vocabulary) -> Formatter:
        """The model's prompt format."""
        size, cell = self.picture_size(begun), begun.image.config.downsample
        if size % cell:
            raise InputError(f"image_size {size} is not a multiple of {cell}, the pixels of a code; choose another")
        instruction = begun.preset.cot_instruction if begun.preset else COT_INSTRUCTION
        # Nothing attends to pads, and attention in packed rows is within an example, so pads can be left out.
        rules = replace(begun.preset.prompt_format, pads="none") if begun.preset else PromptFormat()
        prompter = Prompter(text, vocabulary, instruction, (size // cell) ** 2, rules)
        return Formatter(prompter, self.answer_lengths, self.thought_length)

    def picture_size(self, begun: Start) -> int:
        """Pixels of a picture's height and width."""
        own = begun.preset.image_size if begun.preset else None
        return self.image_size or own or begun.image.config.image_size

    def examples(self, sampler: Sampler, start: Path, cache: Path) -> Callable[[int, Random], Iterator[Canvas]]:
        """(step, generator) -> an endless stream of training canvases; results that all steps share are stored in ``cache``."""
        return lambda step, rng: sampler.canvases(self.mixture(step), rng)

    def new_text_tokenizer(self, read: ReadData | None = None) -> TextTokenizer:
        """The text tokenizer of a new model: the one given, or one trained on the texts of the data."""
        if self.text_tokenizer:
            return TextTokenizer.load(Path(self.text_tokenizer))
        if read is None or read.mixture is None:
            raise InputError("start holds no model, only an image tokenizer; set text_tokenizer=FOLDER to train a new one")
        return train_text_tokenizer(texts_of(read.mixture.split("train"), COT_INSTRUCTION), vocab_size=4096, min_frequency=2)

    def new_model(self, vocabulary: Vocabulary) -> MMaDAModel:
        """A new transformer with random weights."""
        s = self.sizes
        return MMaDAModel(
            MMaDAConfig(
                vocab_size=vocabulary.size, hidden_size=s.width, num_hidden_layers=s.layers, num_attention_heads=s.heads,
                num_key_value_heads=s.heads, intermediate_size=s.mlp, max_position_embeddings=s.length, rms_norm_eps=1e-5,
                rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, tie_word_embeddings=False,
                bos_token_id=vocabulary.bos, eos_token_id=vocabulary.eos,
            )
        )  # fmt: skip

    def new_preset(self) -> Preset:
        """Sampling defaults of a new model."""
        return Preset(cot_instruction=COT_INSTRUCTION, image_size=self.image_size, max_length=self.sizes.length)

    def write(self, begun: Start, start: Path, text: TextTokenizer, trained: MMaDAModel, folder: Path) -> None:
        """Write the trained model, or its adapters."""
        preset = begun.preset or self.new_preset()
        if self.image_size is not None:  # the trained model draws best at this size
            preset = replace(preset, image_size=self.image_size)
        if self.lora.rank:
            write_adapters(trained, folder, start, None if preset == begun.preset else preset)
            return
        write_model(trained, text, begun, folder, preset)

    def show(
        self, begun: Start, text: TextTokenizer, vocabulary: Vocabulary, model: MMaDAModel, examples: Sequence[Example],
        start: Path, folder: Path,
    ) -> Samples:  # fmt: skip
        """Samples of the written model: ``sample_prompts`` drawn, and examples drawn and answered."""
        if self.lora.rank:
            pictures = sample_images(start, self.sample_prompts, size=self.image_size, adapter=folder)
        else:
            pictures = sample_images(folder, self.sample_prompts, size=self.image_size)
        if not examples:
            return Samples(pictures)
        found = sampled(self.pipeline(begun, text, vocabulary, model), examples)
        torch.nn.Module.train(model)
        return Samples([*pictures, *found.pictures], found.texts)

    def pipeline(self, begun: Start, text: TextTokenizer, vocabulary: Vocabulary, model: MMaDAModel) -> MMaDA:
        """The network in training as a pipeline that draws and answers."""
        preset = replace(begun.preset or self.new_preset(), image_size=self.picture_size(begun))
        torch.nn.Module.eval(model)
        return MMaDA(Engine(ModelFolder(model, text, begun.image, vocabulary, preset, longest(preset, model)), model.device))

    def report(self, out: Path, written: Path, plan: Plan, data: SftData, model: MMaDA) -> None:
        """Print what the run did, and how to use its model."""
        print(summary(out, plan, data.examples))
        examples = shown_examples(data.fixed, SHOWN)
        guidance, shares = best_guidance(model, examples if self.samples else [])
        if shares:
            print("codes of pictures drawn back from their captions: " + said(shares))
        if guidance != model.preset.image.guidance:
            replace(model.preset, image=replace(model.preset.image, guidance=guidance)).save(written)
            print(f"guidance {guidance:g} is now the default of the model (its preset.json)")
        kind = "adapters are" if self.lora.rank else "model is"
        print(f"the {kind} in {written}; samples are in {out / 'samples'}; try it:")
        picture = save_shown(data.fixed, SHOWN, model.engine.image, out / "samples")
        for command in next_commands(examples, written, picture, self.device):
            print(f"  {command}")


def longest(preset: Preset | None, model: MMaDAModel) -> int:
    """Most tokens that a model takes."""
    most = int(model.config.max_position_embeddings)
    return most if preset is None else min(most, preset.max_length)


def sft() -> SftRecipe:
    """Supervised training on your own data: give --data FILE.yaml and --start-from MODEL."""
    optim = OpenOptim(weight_decay=0.01, warmup=50, decay=1.0, final=0.1)
    return SftRecipe(name="sft", plan=OpenPlan(optim=optim), micro_batch=8)
