"""Results: why a text ended, stop strings, the frames of one row, notes on cut images, how results print and compare."""

import gc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers import SIZE, tiny_folder
from torch import Tensor

import mmada
from mmada.canvas import Canvas, Segment
from mmada.pipeline import Frame, MMaDA
from mmada.pipeline.results import histories, read_texts, stop_at
from mmada.sampling import Temperature, denoise, row_generators
from mmada.tokenizers.prompt import split_thinking


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MMaDA:
    folder: Path = tmp_path_factory.mktemp("model")
    tiny_folder(folder)
    return mmada.load(folder, device="cpu")


class Typist:
    """A denoiser that is sure of the token of each position, counted from the right end of the row."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = torch.tensor(tokens)

    def predict(self, tokens_BL: Tensor, *, query_BL: Tensor, vocab: range, **_: Any) -> Tensor:
        start = tokens_BL.shape[1] - len(self.tokens)
        wanted_N = self.tokens[query_BL.nonzero()[:, 1] - start]
        # Earlier positions are surer, so that the text is written from left to right.
        sure_N = 50.0 - (query_BL.nonzero()[:, 1] - start).float()
        return torch.nn.functional.one_hot(wanted_N - vocab.start, len(vocab)).float() * sure_N[:, None]


def typed(model: MMaDA, text: str, length: int, end: bool = True, **options: Any) -> Any:
    """The result of a model that writes ``text``, an end token if asked, and padding."""
    v = model.engine.parts.vocabulary
    tokens = [*model.engine.parts.text.encode(text), *([v.eot] if end else [])]
    assert len(tokens) <= length
    tokens += [v.eos] * (length - len(tokens)) if end else tokens[-1:] * (length - len(tokens))
    other = MMaDA(model.engine, preset=model.preset)
    before, other.engine.denoiser = other.engine.denoiser, Typist(tokens)
    try:
        return other.generate("pens?", length=length, steps=length, block=length, **options)
    finally:
        other.engine.denoiser = before


@pytest.mark.parametrize(
    ("text", "end", "answer", "thinking", "reason"),
    [
        ("a red circle", True, "a red circle", "", "stop"),
        ("a red circle", False, "a red circle", "", "length"),
        ("<think> 3 + 4</think> 7", True, "7", "3 + 4", "stop"),
        ("<think> 3 + 4</think> 7", False, "7", "3 + 4", "length"),
        ("<think> 3 + 4", False, "", "3 + 4", "unfinished thought"),
        ("<think> 3 + 4", True, "", "3 + 4", "unfinished thought"),
        ("3 + 4</think> 7", True, "7", "3 + 4", "stop"),
        ("3 + 4</think> 7", False, "7", "3 + 4", "length"),
        ("3 + 4</think>", True, "", "3 + 4", "stop"),
        ("", True, "", "", "stop"),
    ],
)
def test_why_a_text_ended(model: MMaDA, text: str, end: bool, answer: str, thinking: str, reason: str) -> None:
    length = len(model.engine.parts.text.encode(text)) + int(end)
    result = typed(model, text, length, end)
    assert (result.text, result.thinking, result.finish_reason) == (answer, thinking, reason)
    assert split_thinking(result.raw_text) == (answer, thinking)


@pytest.mark.parametrize(
    ("text", "stop", "answer"),
    [
        ("a red circle and a blue circle", "circle", "a red"),
        ("a red circle and a blue circle", ["blue", "and"], "a red circle"),
        ("a red circle and a blue circle", ["never"], "a red circle and a blue circle"),
        ("a red circle and a blue circle", (), "a red circle and a blue circle"),
        ("<think> a red circle</think> a blue circle and", ["circle"], "a blue"),
        ("12 + 3 = 15.", "= 1", "12 + 3"),
        ("red", "red", ""),
    ],
)
def test_stop_strings_end_the_answer(model: MMaDA, text: str, stop: Any, answer: str) -> None:
    length = len(model.engine.parts.text.encode(text)) + 12
    result = typed(model, text, length, stop=stop)
    strings = [stop] if isinstance(stop, str) else stop
    assert (result.text, result.finish_reason) == (answer, "stop")
    assert not any(string in result.text for string in strings)
    assert answer in model.engine.parts.text.decode(list(result.tokens))
    whole = typed(model, text, length)
    if result.text != whole.text:
        assert result.nfe < whole.nfe  # the row ended early


def test_a_stop_string_in_the_prompt_ends_nothing(model: MMaDA) -> None:
    assert "pens" not in model.generate("pens? pens?", stop="zebra").text
    plain, stopped = model.generate("pens? pens?"), model.generate("pens? pens?", stop="pens?")
    if "pens?" not in plain.raw_text:
        assert plain == stopped


def test_rows_stop_by_themselves(model: MMaDA) -> None:
    prompts = ["a red circle", "how many pens?", "12 + 3"]
    plain = model.generate(prompts, seed=5, temperature=1.0)
    letter = next(c for c in plain[0].text if c.isalnum())
    stopped = model.generate(prompts, seed=5, temperature=1.0, stop=letter)
    for row, (prompt, one, whole) in enumerate(zip(prompts, stopped, plain, strict=True)):
        assert one == model.generate(prompt, seed=5 + row, temperature=1.0, stop=letter)
        at = stop_at(whole.raw_text, [letter])
        assert letter not in one.text
        if at is None:
            assert one.text == whole.text
        else:
            assert one.finish_reason == "stop"


def test_the_frames_of_a_row_are_those_of_the_loop(model: MMaDA) -> None:
    seen: list[Frame] = []
    results = model.generate(["a red circle", "how many pens are there?"], callback=seen.append, temperature=1.0, seed=3)
    for row, result in enumerate(results):
        assert len(result.frames) == len(seen)
        for mine, frame in zip(result.frames, seen, strict=True):
            theirs = frame.row(row)
            assert (mine.phase, mine.step, mine.steps, mine.nfe) == (theirs.phase, theirs.step, theirs.steps, theirs.nfe)
            for own, other in zip(mine.canvas.tensors, theirs.canvas.tensors, strict=True):
                assert torch.equal(own, other)
            assert torch.equal(mine.changed_BL, theirs.changed_BL)
            assert torch.equal(mine.decided_BL, theirs.decided_BL)


def test_frames_with_remasked_tokens_are_those_of_the_loop(model: MMaDA) -> None:
    seen: list[Frame] = []
    result = model.generate("a red circle", callback=seen.append, parallel="draft=0.001,0.5", length=16, block=16, steps=16)
    assert any(bool((f.changed_BL & (f.tokens_BL == model.engine.parts.vocabulary.mask)).any()) for f in seen)
    for mine, frame in zip(result.frames, seen, strict=True):
        assert torch.equal(mine.tokens_BL, frame.tokens_BL)
        assert torch.equal(mine.decided_BL, frame.decided_BL)


def test_a_result_holds_its_own_row_alone(model: MMaDA) -> None:
    def held(thing: object) -> int:
        seen, found, todo = set[int](), 0, [thing]
        while todo:
            one = todo.pop()
            if id(one) in seen or isinstance(one, type):
                continue
            seen.add(id(one))
            if isinstance(one, torch.Tensor):
                found += one.untyped_storage().nbytes()
            todo += list(vars(one).values()) if hasattr(one, "__dict__") else []
            todo += list(one) if isinstance(one, (tuple, list)) else []
        return found

    alone, batch = model.generate("a circle"), model.generate(["a circle"] * 16)
    gc.collect()
    assert held(batch[3]) <= 1.5 * held(alone)


def test_results_compare_and_print(model: MMaDA) -> None:
    one, again, other = model.generate("pens"), model.generate("pens"), model.generate("a circle", temperature=1.0, seed=8)
    assert one == again
    assert len({one, again}) == 1
    assert one != other
    assert str(one) == one.text
    assert "batch" not in repr(one)
    assert "tensor" not in repr(one)
    assert "finish_reason" in repr(one)
    assert one.nfe > 0
    assert one.seconds > 0
    shown = replace(one, text="<b> & more", thinking="2 < 3", note="cut & dry")._repr_html_()
    assert "&lt;b&gt; &amp; more" in shown
    assert "2 &lt; 3" in shown
    assert "cut &amp; dry" in shown


@pytest.mark.parametrize(("size", "how", "noted"), [((2, 1), "crop", True), ((1, 3), "crop", True), ((2, 1), "pad", False),
                                                    ((2, 1), "squash", False), ((1, 1), "crop", False)])  # fmt: skip
def test_what_was_cut_away_is_said(model: MMaDA, size: tuple[int, int], how: Any, noted: bool) -> None:
    wide = Image.new("RGB", (SIZE * size[0], SIZE * size[1]), "red")
    results = [model.ask(wide, "how many?", fit=how), model.chat(turn(wide), fit=how)]
    assert [bool(result.note) for result in results] == [noted] * 2
    if noted:
        assert f"{wide.width}x{wide.height}" in results[0].note
        assert f"{SIZE}x{SIZE}" in results[0].note
    whole = Image.new("RGB", (wide.width, wide.height), "white")
    whole.paste(wide.resize((wide.width, wide.height)))
    drawn = model.extend(wide, right=1)
    assert ("note" in drawn.info) == (size != (1, 1))


def turn(image: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "text", "text": "how many?"}, {"type": "image", "image": image}]}]


def test_fit_decides_what_the_model_sees(model: MMaDA) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (SIZE, 2 * SIZE, 3), dtype=np.uint8))
    shown = {how: model.ask(image, "how many?", fit=how).frames[0].tokens_BL for how in ("crop", "squash", "pad")}
    assert not torch.equal(shown["crop"], shown["squash"])
    assert not torch.equal(shown["crop"], shown["pad"])
    assert torch.equal(shown["crop"], model.ask(image, "how many?").frames[0].tokens_BL)


def test_an_image_that_comes_again_is_encoded_once(model: MMaDA, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    plain = model.engine.encode
    monkeypatch.setattr(model.engine, "encode", lambda images: (encoded.append(len(images)), plain(images))[1])
    image = Image.new("RGB", (SIZE, SIZE), "blue")
    results = model.ask(image, ["how many?", "pens?", "circle?"])
    assert encoded == [1]
    assert [r.tokens for r in results] == [model.ask(image, q).tokens for q in ("how many?", "pens?", "circle?")]


def test_images_say_how_they_were_made(model: MMaDA) -> None:
    image = model.draw("pens", thinking=True)
    assert image.info["nfe"] > 0
    assert image.info["seconds"] > 0
    assert isinstance(image.info["thinking"], str)
    assert image._repr_png_()


def test_read_texts_of_ragged_rows(model: MMaDA) -> None:
    v, text = model.engine.parts.vocabulary, model.engine.parts.text
    rows = [Canvas.join([Segment([v.bos] * n), Segment([v.mask] * 4, editable=True)]) for n in (1, 5)]
    phase = replace(model.preset.answer.phase((v.eot, v.eos)), token_sampler=Temperature(1.0))
    frames = list(denoise(model.engine.denoiser, Canvas.stack(rows), [phase], vocabulary=v, generators=row_generators([1, 2])))
    assert [h.start.length for h in histories(frames)] == [5, 9]
    for row, result in enumerate(read_texts(frames, text, v)):
        assert result.frames[-1].tokens_BL[0].tolist() == frames[-1].row(row).tokens_BL[0].tolist()
