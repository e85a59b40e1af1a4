"""Look at data before training on it: what its canvases say, what cannot be used and why, how many tokens an epoch has.

    report = check_data(load("data.yaml"), ruler_of("path/to/model"))

Of each set the first `FIRST_ROWS` rows are read and counted, and `LOOKED_AT` of them are made into canvases with their pictures
decoded. Nothing is encoded, and of a model only the configuration and tokenizers are read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np
from PIL import Image

from mmada.canvas import IMAGE, Canvas
from mmada.data.dataset import Dataset, Example, Formatter, UnusableRow
from mmada.data.mixture import FIRST_ROWS, SPLITS, By, Mixture, SourceSet
from mmada.data.pictures import read_picture
from mmada.data.reasoning import ReasoningExample
from mmada.data.sources.row_set import RowSet
from mmada.errors import InputError
from mmada.io.contact_sheet import Row, Tile, contact_sheet
from mmada.model.loading import empty_network, read_sizes
from mmada.pipeline.known_checkpoints import known_checkpoint
from mmada.pipeline.loading import check_ids, check_model_folder, find_folder, image_source, read_image_tokenizer
from mmada.tokenizers.prompt import Prompter
from mmada.tokenizers.text import TextTokenizer
from mmada.tokenizers.vocabulary import Vocabulary

__all__ = ["LOOKED_AT", "DataReport", "Ruler", "SetReport", "check_data", "check_report", "readable", "ruler_of", "sheet_of"]

LOOKED_AT = 64
"""Rows of a set that are made into canvases."""
SHOWN = 3
ENOUGH = 5
"""Pictures that cannot be decoded, of the rows looked at, that say something of all rows."""
ANSWER_LENGTHS = (32, 64, 128, 256)
"""As of the recipe `sft`."""
THOUGHT_LENGTH = 64


@dataclass(frozen=True)
class Ruler:
    """What canvases are measured by: a model's prompt format, its longest row, and what a token costs to train on.

    ``parameters``: of the transformer, without the embedding, which computes nothing; ``attention``: operations of a forward
    pass for a pair of positions.
    """

    formatter: Formatter
    max_length: int
    parameters: int
    attention: int

    def canvas(self, example: Example) -> Canvas:
        """The canvas of an example, its pictures as blank codes where they are not encoded yet."""
        blank = np.zeros(self.formatter.prompter.image_tokens, np.int64)
        return self.formatter.canvas(replace(example, images=(), codes=example.codes or (blank,) * len(example.images)))

    def flops(self, lengths: Sequence[int]) -> float:
        """Operations of training on canvases: a forward pass, and a backward pass of twice that."""
        return float(sum(3 * (2 * self.parameters * n + self.attention * n * n) for n in lengths))


def ruler_of(model: str) -> Ruler:
    """The ruler of a model, of which no weights are read but the image tokenizer's. Raises InputError as `mmada.load`."""
    folder = find_folder(model)
    check_model_folder(folder)
    card = known_checkpoint(folder)
    source = image_source(folder, card)
    if source is None:
        raise InputError(f"model folder {folder} has no image_tokenizer folder; put one there, such as showlab/magvitv2")
    image, config, text = read_image_tokenizer(source), read_sizes(folder), TextTokenizer.load(folder)
    vocabulary = Vocabulary.of(text.ids(), image.config.codebook_size, config.vocab_size)
    check_ids(config, vocabulary)
    size = card.preset.image_size or image.config.image_size
    codes = (size // image.config.downsample) ** 2
    # Pads are left out in training, see the recipe `sft`.
    rules = replace(card.preset.prompt_format, pads="none")
    prompter = Prompter(text, vocabulary, card.preset.cot_instruction, codes, rules)
    whole = sum(one.numel() for one in empty_network(config).parameters())
    return Ruler(
        Formatter(prompter, ANSWER_LENGTHS, THOUGHT_LENGTH),
        card.preset.max_length,
        whole - config.vocab_size * config.hidden_size,
        4 * config.hidden_size * config.num_hidden_layers,
    )


@dataclass(frozen=True)
class SetReport:
    """What was seen of a set.

    ``splits``: examples by split; ``bad``: rows that cannot be used, of the ``read`` that were read, by reason; ``left_out``:
    rows that ``where`` or a split leaves out; ``undecoded``: rows, of the ``looked_at``, with a picture that cannot be decoded.
    ``lengths``: tokens of the canvases looked at, of which ``codes`` are image codes; ``too_long``: how many are longer than the
    model's row. ``shown``: canvases as text. ``tiles``: pictures with what belongs to them. ``fields``: of its rows.
    """

    name: str
    use: str
    rows: int
    read: int
    splits: dict[str, int]
    bad: dict[str, int]
    left_out: dict[str, int]
    looked_at: int = 0
    undecoded: int = 0
    lengths: tuple[int, ...] = ()
    codes: int = 0
    too_long: int = 0
    shown: tuple[str, ...] = ()
    flops: float = 0.0
    tiles: tuple[Tile, ...] = field(default=(), repr=False)
    fields: tuple[str, ...] = ()

    @property
    def tokens(self) -> float:
        """Mean tokens of a canvas; 0 where none was made."""
        return sum(self.lengths) / len(self.lengths) if self.lengths else 0.0

    @property
    def epoch_tokens(self) -> int:
        """Tokens of one pass over the training split, estimated from the canvases looked at."""
        return round(self.tokens * self.splits.get("train", 0))

    @property
    def epoch_flops(self) -> float:
        """Operations of training on it once."""
        return self.flops / len(self.lengths) * self.splits.get("train", 0) if self.lengths else 0.0

    def table(self) -> dict[str, object]:
        """The report as plain values."""
        return {
            "set": self.name,
            "use": self.use,
            "rows": self.rows,
            "read": self.read,
            "examples": self.splits,
            "bad": self.bad,
            "left_out": self.left_out,
            "fields": self.fields,
            "tokens": round(self.tokens, 1),
            "longest": max(self.lengths, default=0),
            "image_codes": self.codes,
            "too_long": self.too_long,
            "epoch_tokens": self.epoch_tokens,
            "epoch_flops": self.epoch_flops,
            "canvases": list(self.shown),
        }


@dataclass(frozen=True)
class DataReport:
    """What was seen of a mixture: its sets, the share of the examples and of the tokens that each has in training, and ``by``:
    of which of the two the weights are shares."""

    sets: tuple[SetReport, ...]
    shares: dict[str, tuple[float, float]]
    by: By


def check_data(mixture: Mixture, ruler: Ruler) -> DataReport:
    """Read the first rows of every set and look at some. Bad rows are counted, not raised: see `Mixture.check_rejected`."""
    sets = tuple(report_of(one, ruler) for one in mixture.sets.values())
    return DataReport(sets, shares_of(mixture, sets), mixture.by)


def check_report(mixture: Mixture, report: DataReport) -> None:
    """Raise InputError where too many rows of a set are bad, pictures that cannot be decoded included.

    Those were looked for in some rows only; what they say of the others counts from `ENOUGH` on.
    """
    mixture.check_rejected()
    for one in report.sets:
        limit = mixture.sets[one.name].max_bad
        whole = one.looked_at >= one.rows
        if one.undecoded > limit * one.looked_at and (whole or one.undecoded >= ENOUGH):
            reasons = ", ".join(f"{reason} {count}" for reason, count in one.bad.items())
            raise InputError(
                f"set {one.name!r} has pictures that cannot be decoded in {one.undecoded} of {one.looked_at} rows, more than "
                f"{limit:.3g} of them ({reasons}); get whole copies of them, or raise max_bad"
            )


def shares_of(mixture: Mixture, sets: Sequence[SetReport]) -> dict[str, tuple[float, float]]:
    """The share of the examples and of the tokens of each set that is trained on."""
    trained = [one for one in sets if one.splits.get("train") and one.tokens and mixture.weights[one.name]]
    each = {one.name: mixture.weights[one.name] / (one.tokens if mixture.by == "tokens" else 1) for one in trained}
    tokens = {one.name: each[one.name] * one.tokens for one in trained}
    return {name: (each[name] / sum(each.values()), tokens[name] / sum(tokens.values())) for name in each}


def report_of(one: SourceSet, ruler: Ruler) -> SetReport:
    """What is seen of a set."""
    if one.use == "prompts":
        return prompts_report(one)
    splits: dict[str, int] = {name: len(one.split(name)) for name in SPLITS}
    dataset = next((one.split(name) for name in SPLITS if splits[name]), one.split("train"))
    decoded = Counter[str]()
    lengths, shown, tiles, codes, too_long = list[int](), list[str](), list[Tile](), 0, 0
    parts = max(1, sum(splits.values()) // max(1, one.rows))
    for example in examples_of(dataset, parts, decoded):
        canvas = ruler.canvas(example)
        lengths.append(canvas.length)
        codes += int((canvas.modality_BL == IMAGE).sum())
        too_long += canvas.length > ruler.max_length
        if len(shown) < max(SHOWN, parts):
            shown.append(readable(canvas, ruler.formatter.prompter))
        if example.images and len(tiles) < LOOKED_AT:
            tiles.append(Tile(read_picture(example.images[-1]), said(example)))
    looked = decoded.pop("", 0)
    return SetReport(
        one.name, one.use, one.rows, one.tally.tried, splits, dict(one.tally.reasons + decoded), left_out(one), looked,
        decoded.total(), tuple(lengths), codes, too_long, tuple(shown), ruler.flops(lengths), tuple(tiles),
        field_names(one),
    )  # fmt: skip


def field_names(one: SourceSet) -> tuple[str, ...]:
    """The fields of the rows of a set that is read from sources."""
    return one.field_names() if isinstance(one, RowSet) else ()


def left_out(one: SourceSet) -> dict[str, int]:
    """Rows that the description of a set leaves out."""
    return dict(one.left_out) if isinstance(one, RowSet) else {}


def examples_of(dataset: Dataset, parts: int, decoded: Counter[str]) -> Iterator[Example]:
    """Every example of `LOOKED_AT` rows whose pictures can be read, after reading the first `FIRST_ROWS` rows.

    ``decoded`` counts the rows looked at, as "", and the pictures that cannot be decoded; the set counts the rows that it cannot
    read.
    """
    rows = min(FIRST_ROWS, len(dataset) // parts)
    looked_at = set(np.linspace(0, rows - 1, min(LOOKED_AT, rows)).astype(int).tolist()) if rows else set()
    for row in range(rows):
        try:
            found = [dataset[row * parts + part] for part in range(parts if row in looked_at else 1)]
        except UnusableRow:  # the set counts it
            continue
        if row not in looked_at:
            continue
        decoded[""] += 1
        try:
            for image in found[0].images:
                read_picture(image)
        except UnusableRow as error:
            decoded[error.reason] += 1
            continue
        yield from found


def prompts_report(one: SourceSet) -> SetReport:
    """What is seen of a set of prompts."""
    splits: dict[str, int] = {name: len(one.prompts(name)) for name in SPLITS}
    prompts = next((one.prompts(name) for name in SPLITS if splits[name]), one.prompts("train"))
    shown, tiles = list[str](), list[Tile]()
    decoded = Counter[str]()
    for index in range(min(FIRST_ROWS, len(prompts))):
        try:
            found = prompts[index]
        except UnusableRow:  # the set counts it
            continue
        try:
            if found.picture is not None and index < LOOKED_AT:
                tiles.append(Tile(read_picture(found.picture), found.prompt, found.gold))
        except UnusableRow as error:
            decoded[error.reason] += 1
            continue
        if len(shown) < SHOWN:
            shown.append(prompt_text(found))
    bad = dict(one.tally.reasons + decoded)
    return SetReport(
        one.name, one.use, one.rows, one.tally.tried, splits, bad, left_out(one), shown=tuple(shown), tiles=tuple(tiles)
    )


def prompt_text(prompt: ReasoningExample) -> str:
    """A prompt with its right answer, as a person reads it."""
    picture = "[picture] " if prompt.picture is not None else ""
    return f"{prompt.task}: {picture}{' '.join(prompt.prompt.split())}" + (f" (right: {prompt.gold})" if prompt.gold else "")


def said(example: Example) -> str:
    """The text that belongs to the pictures of an example."""
    return example.text or " / ".join(turn.content for turn in example.messages)


def readable(canvas: Canvas, prompter: Prompter) -> str:
    """A canvas as a person reads it: special tokens by name, pictures by their size, what is learned between « and »."""
    v = prompter.vocabulary
    names = {v.bos: "<bos>", v.eos: "<eos>", v.eot: "<eot>", v.t2i: "<draw>", v.mmu: "<look>", v.r2i: "<think and draw>",
             v.ipad: "<pad>", v.mask: "[MASK]", v.soi: "", v.eoi: "", v.start_header: "", v.end_header: ":"}  # fmt: skip
    tokens = canvas.tokens_BL[0].tolist()
    kinds = [-1 if image else token if token in names else -2 for token, image in zip(tokens, image_of(canvas), strict=True)]
    pieces: list[tuple[bool, str]] = []
    for (kind, learned), some in groupby(range(len(tokens)), lambda i: (kinds[i], bool(canvas.editable_BL[0, i]))):
        inside = list(some)
        if kind == -1:
            text = f"[picture: {len(inside)} codes]"
        elif kind == -2:
            text = " ".join(prompter.text.decode([tokens[i] for i in inside]).split())
        else:
            text = names[kind] + (f" x{len(inside)}" if len(inside) > 1 else "")
        if text:
            pieces.append((learned, text))
    parts = [(learned, " ".join(text for _, text in some)) for learned, some in groupby(pieces, lambda piece: piece[0])]
    return " ".join(f"«{text}»" if learned else text for learned, text in parts).replace(" :", ":")


def image_of(canvas: Canvas) -> list[bool]:
    """Which positions of a canvas hold image codes."""
    found: list[bool] = (canvas.modality_BL[0] == IMAGE).tolist()
    return found


def sheet_of(report: DataReport, most: int = 16) -> Image.Image | None:
    """A contact sheet of pictures with what belongs to them, None where no set has pictures."""
    rows = [Row(f"{one.name} ({one.use})", one.tiles[:most]) for one in report.sets if one.tiles]
    return contact_sheet(rows) if rows else None
