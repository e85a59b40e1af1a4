"""The stateless sampler: shares, epochs, unusable rows, and batches that do not depend on the number of processes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache

import numpy as np
import pytest
import torch
from tests.helpers import CORPUS

from mmada.canvas import IMAGE, Canvas, Segment
from mmada.data.dataset import Example, Formatter, UnusableRow
from mmada.data.packing import Batch, join, pack_all
from mmada.data.sampler import BatchedDataset, MixtureSampler, RowBlocks, example_shares, mean_tokens, reasons_table, rows_of
from mmada.errors import InputError
from mmada.tokenizers.prompt import Prompter
from mmada.tokenizers.text import train_text_tokenizer
from mmada.tokenizers.vocabulary import Vocabulary


@cache
def formatter() -> Formatter:
    text = train_text_tokenizer(CORPUS, vocab_size=400, min_frequency=2)
    return Formatter(Prompter(text, Vocabulary.of(text.ids(), 32), "think first.", 16))


@dataclass(frozen=True)
class Numbered:
    """Texts that say their set and row; every ``bad``-th row cannot be used."""

    name: str
    size: int
    bad: int = 0
    words: int = 1

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Example:
        if self.bad and index % self.bad == 0:
            raise UnusableRow("picture is missing")
        return Example(objective="text", text=f"{self.name} {index}" + " pens" * self.words * (index % 7))


def told(example: Example) -> tuple[str, int]:
    name, number, *_ = example.text.split()
    return name, int(number)


def test_an_epoch_visits_every_row_once_and_every_epoch_has_another_order() -> None:
    sampler = MixtureSampler({"a": Numbered("a", 101)}, {"a": 1.0}, seed=3)
    epochs = [[told(one)[1] for one in sampler.take(101 * n, 101, lambda x: x)] for n in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(101))] * 3
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize("weights", [{"a": 0.7, "b": 0.29, "c": 0.01}, {"a": 1.0, "b": 1.0, "c": 1.0}, {"c": 5.0, "b": 1e-9}])
def test_shares_are_kept_exactly_and_rows_come_once_an_epoch(weights: dict[str, float]) -> None:
    sizes = {"a": 50_000, "b": 30_000, "c": 20_000}
    sampler = MixtureSampler({name: Numbered(name, size) for name, size in sizes.items()}, weights, seed=1)
    slots = [sampler.slot(index) for index in range(3 * 4096)]
    counts = Counter(slot.name for slot in slots)
    for name, weight in weights.items():
        assert counts[name] == pytest.approx(len(slots) * weight / sum(weights.values()), abs=len(weights))
        numbers = [slot.number for slot in slots if slot.name == name]
        assert sorted(numbers) == list(range(len(numbers)))  # each place of the set's own line once
    for start in range(0, len(slots), 512):  # and they are spread, not in runs
        near = Counter(slot.name for slot in slots[start : start + 512])
        for name, weight in weights.items():
            assert near[name] / 512 == pytest.approx(weight / sum(weights.values()), abs=0.08)


def test_many_sets_of_equal_weight_fill_every_window() -> None:
    names = [f"s{n}" for n in range(70)]
    sampler = MixtureSampler({name: Numbered(name, 10) for name in names}, dict.fromkeys(names, 1 / 3))
    assert sampler.window == 4900
    assert set(Counter(sampler.slot(i).name for i in range(4900)).values()) == {70}


def test_another_set_does_not_change_the_order_in_a_set() -> None:
    alone = MixtureSampler({"a": Numbered("a", 40)}, {"a": 1.0}, seed=5)
    mixed = MixtureSampler({"a": Numbered("a", 40), "b": Numbered("b", 40)}, {"b": 1.0, "a": 1.0}, seed=5)
    order = [alone.row(alone.slot(i)._replace(number=i)) for i in range(40)]
    assert [mixed.row(mixed.slot(i)._replace(name="a", number=i)) for i in range(40)] == order


def test_unusable_rows_are_counted_and_replaced_the_same_way_every_time() -> None:
    def take(sampler: MixtureSampler, first: int, count: int) -> list[tuple[str, int]]:
        return [told(one) for one in sampler.take(first, count, lambda x: x)]

    def made() -> MixtureSampler:
        return MixtureSampler({"a": Numbered("a", 100, bad=4), "b": Numbered("b", 30)}, {"a": 0.5, "b": 0.5}, seed=2)

    sampler = made()
    whole = take(sampler, 0, 300)
    assert len(whole) == 300
    assert all(row % 4 for name, row in whole if name == "a")
    assert {row for name, row in whole if name == "a"} == {row for row in range(100) if row % 4}
    assert sampler.rejected == {"a": Counter({"picture is missing": 25}), "b": Counter()}
    assert take(made(), 150, 20) == whole[150:170]  # whoever begins in the middle knows no unusable row yet
    assert [one for step in range(30) for one in take(made(), 10 * step, 10)] == whole


def test_a_set_without_a_usable_row_ends_with_its_reasons() -> None:
    sampler = MixtureSampler({"a": Numbered("a", 9, bad=1)}, {"a": 1.0})
    with pytest.raises(InputError, match="data 'a' has no usable row among 1000 \\(9 picture is missing\\)"):
        sampler.take(0, 1, lambda x: x)
    with pytest.raises(InputError, match="data 'a' has no rows"):
        MixtureSampler({"a": Numbered("a", 0)}, {"a": 1.0})
    assert MixtureSampler({"a": Numbered("a", 0), "b": Numbered("b", 1)}, {"a": 0.0, "b": 1.0}).slot(0).name == "b"
    assert reasons_table({"b": 1, "a": 1, "c": 3}) == "3 c, 1 a, 1 b"


def same(one: Batch, other: Batch) -> bool:
    pairs = [(getattr(one, f.name), getattr(other, f.name)) for f in fields(Batch) if f.name != "examples"]
    return one.examples == other.examples and all(torch.equal(a, b) for a, b in pairs)


def test_a_batch_does_not_depend_on_the_number_of_processes_nor_on_where_a_run_resumes() -> None:
    def blocks() -> RowBlocks:
        sets = {"a": Numbered("a", 60, bad=9), "b": Numbered("b", 13, words=5)}
        return RowBlocks(MixtureSampler(sets, {"a": 2.0, "b": 1.0}, seed=4), formatter(), examples=29, blocks=12, length=32)

    run = blocks()
    batches = [run.batch(step) for step in range(4)]
    assert [batch.examples for batch in batches] == [29] * 4
    for ranks in (1, 2, 3, 4, 6, 12):
        parts = [blocks().batch(3, rank, ranks) for rank in range(ranks)]
        assert same(join(parts), batches[3])
    with pytest.raises(InputError, match="5 processes cannot share 12 row blocks evenly; choose from 1, 2, 3, 4, 6, 12"):
        blocks().batch(0, 0, 5)
    assert run.sampler.rejected["b"] == Counter({"over 32 tokens": 1})  # row 6 and 6 more words 5 times are too long
    assert not same(batches[0], batches[1])


def test_all_examples_are_packed_and_nothing_is_padded() -> None:
    rng = np.random.default_rng(0)
    canvases = [Canvas.join([Segment([n + 1] * int(rng.integers(1, 30)), editable=True)]) for n in range(50)]
    batch = pack_all(canvases, length=40)
    total = sum(canvas.length for canvas in canvases)
    assert batch.examples == 50
    assert int((batch.segment_BL > 0).sum()) == total
    for number, canvas in enumerate(canvases, 1):
        at = batch.segment_BL == number
        assert torch.equal(batch.tokens_BL[at], canvas.tokens_BL[0])
        assert batch.position_BL[at].tolist() == list(range(canvas.length))
        assert len(at.any(1).nonzero()) == 1
    assert len(batch.tokens_BL) <= -(-total // 40) + 1  # few rows
    assert pack_all(canvases[:1], length=40).tokens_BL.shape == (1, canvases[0].length)
    assert pack_all([], length=40).tokens_BL.shape == (0, 0)
    with pytest.raises(InputError, match="does not fit a row of 5"):
        pack_all(canvases, length=5)


def test_pictures_of_several_sizes_share_a_batch() -> None:
    make = formatter().canvas
    sizes = (4, 16, 36, 64)
    drawn = [Example(objective="text_to_image", text="a red circle", codes=(np.arange(n).reshape(-1, 2) % 32,)) for n in sizes]
    thought = Example(objective="text_to_image", text="a red circle", thought="3 + 4", codes=(np.arange(36) % 32,))
    batch = pack_all([make(one) for one in [*drawn, thought]], length=128)
    shown = torch.bincount(batch.segment_BL[batch.modality_BL == IMAGE])[1:]
    assert shown.tolist() == [*sizes, 36]
    v = formatter().prompter.vocabulary
    at = (batch.segment_BL == 5) & (batch.modality_BL == IMAGE)
    assert (batch.tokens_BL[at] - v.image_offset).tolist() == (np.arange(36) % 32).tolist()


def test_weights_by_tokens() -> None:
    sets = {"long": Numbered("long", 70, words=9), "short": Numbered("short", 70, bad=5)}
    made = formatter()
    means = {name: mean_tokens(one, lambda example: made.whole_canvas(example, 512).length) for name, one in sets.items()}
    assert means["long"] > 2 * means["short"]
    sampler = MixtureSampler(sets, example_shares({"long": 0.5, "short": 0.5}, means))
    tokens: Counter[str] = Counter()
    for example in sampler.take(0, 2000, lambda x: x):
        tokens[told(example)[0]] += made.canvas(example).length
    assert tokens["long"] / sum(tokens.values()) == pytest.approx(0.5, abs=0.05)
    assert mean_tokens(Numbered("a", 5, bad=1), lambda _: 1) == 1.0


class Batched(Numbered):
    """A set that makes several at once."""

    def many(self, rows: Sequence[int]) -> list[Example | UnusableRow]:
        return [UnusableRow("odd") if row % 2 else Example(objective="text", text=f"many {row}") for row in rows]


def test_several_rows_at_once() -> None:
    assert isinstance(Batched("a", 3), BatchedDataset)
    assert not isinstance(Numbered("a", 3), BatchedDataset)
    found = rows_of(Batched("a", 4), [0, 1])
    assert isinstance(found[0], Example)
    assert isinstance(found[1], UnusableRow)
    sampler = MixtureSampler({"a": Batched("a", 40)}, {"a": 1.0})
    assert {told(one)[1] % 2 for one in sampler.take(0, 40, lambda x: x)} == {0}
    assert sampler.rejected == {"a": Counter({"odd": 20})}
