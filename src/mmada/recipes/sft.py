"""Recipe `sft`: supervised training of the transformer on any mixture of data sets, from any start.

    mmada train sft --start-from MODEL --set "data={captions: FOLDER, chat: FILE.jsonl}"

The training stages of a model are instances of it: each has a curriculum over named data sets, and starts from the stage before.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from mmada.canvas import Canvas
from mmada.data.code_cache import encode_dataset
from mmada.data.dataset import Dataset, DatasetLike, Formatter, Sampler, check_mixture, learnable, step_generator
from mmada.data.packing import Batch, pack
from mmada.errors import InputError, check_choice, check_number, check_whole
from mmada.io.device import chosen_device
from mmada.model.factored_codes import factor_codes
from mmada.model.lora import Lora, add_lora
from mmada.model.mmada import MMaDAConfig, MMaDAModel
from mmada.pipeline import Preset
from mmada.pipeline.grids import fit
from mmada.recipes.init_from import Start, read_start
from mmada.recipes.model_folder import sample_images, write_adapters, write_model
from mmada.registry import DATASETS
from mmada.tokenizers.prompt import Prompter, PromptFormat
from mmada.tokenizers.text import TextTokenizer
from mmada.tokenizers.vocabulary import Vocabulary
from mmada.training.loop import Plan, train
from mmada.training.masked_diffusion import LossSettings, MaskedDiffusionLearner
from mmada.training.optim import Optim

__all__ = ["CurriculumPhase", "DataSource", "SftRecipe", "Sizes", "sft"]

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
class DataSource:
    """One data set: ``path`` read by the reader ``kind`` (`mmada.registry.DATASETS`; empty: the name of the source) with
    ``options``. ``weight``: its part of the mixture."""

    path: str
    kind: str = ""
    weight: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SftRecipe:
    """Supervised training on packed canvases.

    ``data``: data sets by name, as a path (the name is then the kind of reader) or a `DataSource`. ``curriculum``: mixtures of
    named data sets over the run; without one, the sources of ``data`` are mixed by their weights. With one, those sources that it
    does not name take ``data_share`` of every mixture. ``image_size``: pixels of a picture, None: the model's own; if given, it
    is written to the preset of the trained model. ``answer_lengths``, ``thought_length``: as in `Formatter`. ``sample_prompts``:
    pictures drawn whenever samples are due. ``rows`` x ``row_length``: tokens of a batch, of which ``micro_batch`` rows are
    computed at a time (0: all). ``weights``: type that the weights are trained in; activations are always in bfloat16.
    ``factored_codes``: train the rows of image codes as sums over their bits (`mmada.model.factored_codes`). ``text_tokenizer``:
    folder of the text tokenizer for a new model.
    """

    name: str
    follows: str = ""
    plan: Plan
    data: Mapping[str, str | DataSource] = field(default_factory=dict)
    data_share: float = 0.25
    curriculum: tuple[CurriculumPhase, ...] = ()
    losses: LossSettings = field(default_factory=LossSettings)
    lora: Lora = field(default_factory=Lora)
    sizes: Sizes = field(default_factory=Sizes)
    text_tokenizer: str = ""
    rows: int = 8
    row_length: int = 1280
    micro_batch: int = 0
    image_size: int | None = None
    answer_lengths: tuple[int, ...] = (32, 64, 128, 256)
    thought_length: int = 64
    sample_prompts: tuple[str, ...] = ()
    weights: Literal["float32", "bfloat16"] = "float32"
    factored_codes: bool = False
    compile: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("rows", "row_length", "thought_length"):
            check_whole(name, getattr(self, name), 1)
        check_whole("micro_batch", self.micro_batch, 0)
        if self.image_size is not None:
            check_whole("image_size", self.image_size, 1)
        for length in self.answer_lengths:
            check_whole("answer_lengths", length, 1)
        check_number("data_share", self.data_share, 0.0, 1.0)
        check_choice("weights", self.weights, ("float32", "bfloat16"))
        for name, source in self.sources().items():
            if source.kind not in DATASETS:
                raise InputError(f"data {name!r} is of kind {source.kind!r}; choose from {', '.join(DATASETS)}")
            check_number(f"weight of data {name}", source.weight)
        if self.curriculum and not self.curriculum[-1].until >= 1:
            raise InputError(f"curriculum of {self.name} ends at {self.curriculum[-1].until}; let the last phase have until: 1")
        for phase in self.curriculum:
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
        if not self.curriculum:
            if not self.data:
                raise InputError(f"recipe {self.name} has no data; give some with --set data={{KIND: PATH}}, see its fields")
            check_mixture(self.mixture(0), self.dataset_names())
        device = chosen_device(self.device)
        read = self.read_data()
        torch.manual_seed(self.plan.seed)
        begun = read_start(start, getattr(torch, self.weights))
        text = begun.text or self.new_text_tokenizer()
        vocabulary = begun.vocabulary(text)
        model = begun.model or self.new_model(vocabulary)
        if self.lora.rank:
            add_lora(model, self.lora)
        elif self.factored_codes:
            factor_codes(model, vocabulary.ranges["image"], std=0.0 if begun.model else 0.02)
        formatter = self.formatter(begun, text, vocabulary)
        sampler = Sampler(self.datasets(begun, formatter, read, out.parent / "codes"), formatter, self.row_length)
        examples = self.examples(sampler, start, out.parent)

        def batches(step: int) -> Batch:
            return pack(examples(step, step_generator(self.plan.seed, step)), rows=self.rows, length=self.row_length)

        learner = MaskedDiffusionLearner(
            model,
            vocabulary,
            batches,
            self.losses,
            seed=self.plan.seed,
            show=partial(self.samples, start),
            write=partial(self.write, begun, text),
            device=device,
            compile_model=self.compile,
            micro_batch=self.micro_batch,
        )
        return train(learner, self.plan, name=self.name, out=out, resume=resume)

    def read_data(self) -> dict[str, Dataset]:
        """The data sets of ``data``, their pictures not yet encoded. Raises InputError where one is missing or has no example."""
        found = {}
        for name, source in self.sources().items():
            reader = DATASETS.find(source.kind)
            check_options(name, source, reader)
            dataset = reader(Path(source.path), **source.options)
            report(name, source.path, getattr(dataset, "rejected", Counter()), len(dataset))
            found[name] = dataset
        return found

    def datasets(self, begun: Start, formatter: Formatter, read: Mapping[str, Dataset], cache: Path) -> dict[str, DatasetLike]:
        """Data sets by name, ready for sampling: the examples that fit a row, with pictures encoded."""
        size, how = self.picture_size(begun), begun.preset.fit if begun.preset else "crop"
        found: dict[str, DatasetLike] = {}
        for name, dataset in read.items():
            whole, rejected = learnable(dataset, formatter, self.row_length)
            path = self.sources()[name].path
            hint = "; raise row_length or thought_length" if rejected else ""
            report(name, path, rejected, len(whole), hint)
            encoded = encode_dataset(whole, begun.image, lambda picture: fit(picture, size, how), cache=cache, name=name)
            report(name, path, encoded.rejected, len(encoded))
            found[name] = encoded
        return found

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

    def new_text_tokenizer(self) -> TextTokenizer:
        """The text tokenizer of a new model."""
        if not self.text_tokenizer:
            raise InputError("start holds no model, only an image tokenizer; set text_tokenizer=FOLDER to train a new one")
        return TextTokenizer.load(Path(self.text_tokenizer))

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

    def write(self, begun: Start, text: TextTokenizer, trained: MMaDAModel, folder: Path) -> None:
        """Write the trained model, or its adapters."""
        if self.lora.rank:
            write_adapters(trained, folder)
            return
        preset = begun.preset or self.new_preset()
        if self.image_size is not None:  # the trained model draws best at this size
            preset = replace(preset, image_size=self.image_size)
        write_model(trained, text, begun, folder, preset)

    def samples(self, start: Path, folder: Path) -> list[Any]:
        """Sample pictures of the written model."""
        if self.lora.rank:
            return sample_images(start, self.sample_prompts, size=self.image_size, adapter=folder)
        return sample_images(folder, self.sample_prompts, size=self.image_size)


def check_options(name: str, source: DataSource, reader: Callable[..., Dataset]) -> None:
    """Raise InputError for an option that the reader of a source does not have, or a value of another type."""
    _, *parameters = inspect.signature(reader).parameters.values()
    known = {one.name: one.default for one in parameters if one.kind is not one.VAR_KEYWORD}
    for option, value in source.options.items():
        if option in known and (known[option] is None or isinstance(value, type(known[option]))):
            continue
        if option in known:
            expected = type(known[option]).__name__
            raise InputError(f"option {option!r} of data {name!r} must be a {expected}, got {value!r}")
        if len(known) == len(parameters):
            choice = f"choose from {', '.join(known)}" if known else "it has none; leave it out"
            raise InputError(f"option {option!r} of data {name!r} is unknown to the kind {source.kind}; {choice}")


def report(name: str, path: str, rejected: Mapping[str, int], used: int, hint: str = "") -> None:
    """Print how many examples of a source are not used, by reason. Raises InputError where none is left."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(rejected.items()))
    if not used:
        raise InputError(f"data {name!r} at '{path}' has no example that can be used ({reasons or 'it is empty'}){hint}")
    if reasons:
        print(f"data {name!r} at '{path}': {used} examples are used; not used: {reasons}")


def sft() -> SftRecipe:
    """Supervised training on your own data: set data={KIND: PATH, ...} and give --start-from."""
    optim = Optim(lr=2e-5, weight_decay=0.01, warmup=50, decay=1.0, final=0.1)
    return SftRecipe(name="sft", plan=Plan(steps=1000, optim=optim, save_every=250, sample_every=1000))
