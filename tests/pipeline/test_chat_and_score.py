"""Conversations in the form of the field, several images, and the likelihood bound of a completion."""

import base64
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers import GRID, SIZE, tiny_folder

import mmada
from mmada.canvas import Canvas
from mmada.errors import InputError
from mmada.pipeline import MMaDA
from mmada.tokenizers.prompt import Message


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MMaDA:
    folder: Path = tmp_path_factory.mktemp("model")
    tiny_folder(folder)
    return mmada.load(folder, device="cpu")


def picture(color: str) -> Image.Image:
    return Image.new("RGB", (SIZE, SIZE), color)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def prompt_of(model: MMaDA, result: Any) -> list[int]:
    canvas: Canvas = result.frames[0].canvas
    return canvas.tokens_BL[0][~canvas.editable_BL[0]].tolist()


def test_one_turn_is_generate_and_ask(model: MMaDA) -> None:
    assert model.chat([user("how many pens?")]) == model.generate("how many pens?")
    assert model.chat([user("how many pens?")], thinking=True) == model.generate("how many pens?", thinking=True)
    image = picture("red")
    assert model.chat([user([{"type": "text", "text": "how many?"}, {"type": "image", "image": image}])]) == model.ask(
        image, "how many?"
    )


def test_several_turns_and_images_stand_in_order(model: MMaDA) -> None:
    red, blue, v = picture("red"), picture("blue"), model.engine.parts.vocabulary
    messages = [
        {"role": "system", "content": "be short."},
        user([{"type": "image", "image": red}, {"type": "text", "text": "what is it?"}]),
        {"role": "assistant", "content": "a red circle"},
        user([{"type": "text", "text": "and this?"}, {"type": "image_url", "image_url": {"url": as_url(blue)}}]),
    ]
    tokens = prompt_of(model, model.chat(messages))
    codes = [model.engine.encode([image])[0] for image in (red, blue)]
    turns = [
        Message("system", "be short."),
        Message("user", "what is it?"),
        Message("assistant", "a red circle"),
        Message("user", "and this?"),
    ]
    wanted = model.engine.prompter.chat(turns, images=codes, answer_length=8)
    assert tokens == wanted.tokens_BL[0, :-8].tolist()
    assert tokens.count(v.mmu) == tokens.count(v.soi) == 2
    assert tokens[2 : 2 + GRID**2] == v.tokens_of(codes[0]).tolist()


def test_only_the_last_answer_is_written(model: MMaDA) -> None:
    """Earlier answers of the assistant are context: neither filled nor read as a part of the answer."""
    messages = [user("how many?"), {"role": "assistant", "content": "3 pens"}, user("and circles?")]
    result = model.chat(messages, length=8)
    assert not isinstance(result, list)
    assert "3 pens" not in result.raw_text
    first = result.frames[0].canvas
    assert int(first.editable_BL.sum()) == 8
    assert first.editable_BL[0, -8:].all()


def as_url(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize(
    "part",
    [
        lambda image: {"type": "image", "image": image},
        lambda image: {"type": "image", "image": np.asarray(image)},
        lambda image: {"type": "image", "url": as_url(image)},
        lambda image: {"type": "image_url", "image_url": {"url": as_url(image)}},
        lambda image: {"type": "image_url", "image_url": {"url": as_url(image), "detail": "low"}},
        lambda image: {"type": "image_url", "image_url": as_url(image)},
        lambda image: {"type": "input_image", "image_url": as_url(image)},
        lambda image: {"type": "image", "image": torch.from_numpy(np.array(image)).permute(2, 0, 1)},
        lambda image: {"type": "image", "image": io.BytesIO(base64.b64decode(as_url(image).partition(",")[2]))},
    ],
)
def test_forms_of_an_image_part(model: MMaDA, part: Any) -> None:
    image = picture("green")
    assert model.chat([user([part(image), {"type": "text", "text": "what?"}])]) == model.ask(image, "what?")


@pytest.mark.parametrize("content", ["what?", [{"type": "text", "text": "what?"}], [{"type": "input_text", "text": "what?"}],
                                     ["what?"], ({"type": "text", "text": "what?"},)])  # fmt: skip
def test_forms_of_a_text(model: MMaDA, content: Any) -> None:
    assert model.chat([user(content)]) == model.generate("what?")
    assert model.chat((user(content),)) == model.generate("what?")


def test_texts_of_a_message_are_lines(model: MMaDA) -> None:
    parts = [{"type": "text", "text": "what"}, {"type": "text", "text": "is it?"}]
    assert model.chat([user(parts)]) == model.generate("what\nis it?")


def test_conversations_in_a_batch(model: MMaDA) -> None:
    red, blue = picture("red"), picture("blue")
    ask = [user([{"type": "image", "image": red}, {"type": "image", "image": blue}, "which?"])]
    one, two = [user("pens?")], [user("a"), {"role": "assistant", "content": "b"}, user("c")]
    together = model.chat([one, ask, two], seed=4, temperature=1.0)
    assert isinstance(together, list)
    for row, messages in enumerate((one, ask, two)):
        assert model.chat(messages, seed=4 + row, temperature=1.0) == together[row]


@pytest.mark.parametrize(
    ("messages", "named"),
    [
        ([], "messages must be a list"),
        ("hello", "messages must be a list"),
        ({"role": "user", "content": "x"}, "messages must be a list"),
        (None, "messages must be a list"),
        (["hello"], r"messages\[0\] is a str"),
        ([{"content": "x"}], r"messages\[0\] has no role"),
        ([{"role": "user"}], r"messages\[0\] has no content"),
        ([{"role": "usr", "content": "x"}], r"messages\[0\]\.role 'usr' is unknown; did you mean 'user'"),
        ([{"role": 5, "content": "x"}], r"messages\[0\]\.role must be one of"),
        ([user("x"), {"role": "assistant", "content": "y"}], "end with a turn of the assistant"),
        ([{"role": "system", "content": "x"}], "end with a turn of the system"),
        ([user("")], r"messages\[0\]\.content is empty"),
        ([user(None)], r"messages\[0\]\.content is None"),
        ([user(5)], r"messages\[0\]\.content is an int"),
        ([user("x"), {"role": "assistant", "content": "a"}, user(" ")], r"messages\[2\]\.content is empty"),
        ([user([{"type": "video", "video": "x"}])], r"messages\[0\]\.content\[0\]\.type 'video' is unknown"),
        ([user([{"text": "x"}])], r"messages\[0\]\.content\[0\] is not a part"),
        ([user([5])], r"messages\[0\]\.content\[0\] is not a part"),
        ([user([{"type": "text"}])], r"messages\[0\]\.content\[0\]\.text is None"),
        ([user([{"type": "image"}])], r"messages\[0\]\.content\[0\] has no image"),
        ([user([{"type": "image_url", "image_url": {}}])], r"messages\[0\]\.content\[0\] has no image"),
        ([user([{"type": "image_url", "image_url": {"url": "https://a.b/c.png"}}])], "nothing is downloaded"),
        ([user("caf\udce9")], "not valid text"),
        ([user([{"type": "image", "image": "nowhere.png"}, "what?"])], "nowhere.png"),
        ([user("pens " * 300)], "length of 192"),
    ],
)
def test_odd_conversations_are_named(model: MMaDA, messages: Any, named: str) -> None:
    with pytest.raises(InputError, match=named):
        model.chat(messages)


class Sure:
    """A denoiser with the same probabilities everywhere: token ``best`` has probability ``p``, the others share the rest."""

    def __init__(self, best: int, p: float) -> None:
        self.best, self.p = best, p
        self.calls = 0

    def predict(self, tokens_BL: torch.Tensor, *, query_BL: torch.Tensor, vocab: range, **_: Any) -> torch.Tensor:
        self.calls += 1
        logits_NV = torch.full((int(query_BL.sum()), len(vocab)), math.log((1 - self.p) / (len(vocab) - 1)))
        logits_NV[:, self.best - vocab.start] = math.log(self.p)
        return logits_NV


def test_the_bound_of_a_model_that_ignores_its_context_is_exact(model: MMaDA, monkeypatch: pytest.MonkeyPatch) -> None:
    v, text = model.engine.parts.vocabulary, model.engine.parts.text
    denoiser = Sure(v.bos, 0.5)
    monkeypatch.setattr(model.engine, "denoiser", denoiser)
    for completion in ("a red circle", "7", ""):
        tokens = len(text.encode(completion))
        bound = model.score("pens?", completion, samples=7)
        exact = (tokens + 1) * math.log(0.5 / (len(v.ranges["text"]) - 1))
        assert (bound.tokens, bound.samples) == (tokens + 1, 7)
        assert bound.nats == pytest.approx(exact, rel=1e-4)
        assert bound.per_token == pytest.approx(exact / (tokens + 1), rel=1e-4)
    assert denoiser.calls == 21


def test_a_score_depends_on_its_row_and_seed_alone(model: MMaDA) -> None:
    prompts, completions = ["pens?", "a circle", "12 + 3"], ["red", "a blue circle", "15."]
    together = model.score(prompts, completions, samples=5, seed=3)
    assert [model.score(p, c, samples=5, seed=3) for p, c in zip(prompts, completions, strict=True)] == together
    assert model.score("pens?", "red", samples=5, seed=4) != together[0]
    assert all(bound.nats < 0 for bound in together)


def test_more_draws_come_closer(model: MMaDA) -> None:
    def spread(samples: int) -> float:
        return float(np.std([model.score("pens?", "a red circle and", samples=samples, seed=seed).nats for seed in range(6)]))

    assert spread(24) < spread(1)


def test_images_and_reasoning_change_the_prompt_that_is_scored(model: MMaDA, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    plain = model.engine.parts.model.predict

    def predict(tokens_BL: torch.Tensor, **more: Any) -> torch.Tensor:
        lengths.append(tokens_BL.shape[1])
        return plain(tokens_BL, **more)

    monkeypatch.setattr(model.engine, "denoiser", type("Spy", (), {"predict": staticmethod(predict)})())
    for options in ({}, {"images": [picture("red")]}, {"images": [picture("red"), picture("blue")]}, {"thinking": True}):
        model.score("pens?", "red", samples=1, **options)
    image = GRID**2 + 3
    assert lengths[1] - lengths[0] == image
    assert lengths[2] - lengths[0] == 2 * image
    assert lengths[3] > lengths[0]


@pytest.mark.parametrize(
    ("arguments", "options", "named"),
    [
        (("", "a"), {}, "prompt is empty"),
        (("a", 5), {}, "completion is an int"),
        ((["a"], "b"), {}, "one completion for each prompt"),
        ((["a", "b"], ["c"]), {}, "one completion for each prompt"),
        (([], []), {}, "empty"),
        (("a", "b"), {"samples": 0}, "samples"),
        (("a", "b"), {"samples": 1.5}, "samples"),
        (("a", "b"), {"seed": -1}, "seed"),
        (("a", "b"), {"images": "x.png"}, "images is a str"),
        (("a", "b"), {"images": ["nowhere.png"]}, "nowhere.png"),
        (("a", "b"), {"thinking": "x"}, "thinking"),
        (("a", "b"), {"fit": "x"}, "fit"),
        (("a", "b " * 400), {}, "length of 192"),
    ],
)
def test_odd_scores_are_named(model: MMaDA, arguments: tuple[Any, Any], options: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        model.score(*arguments, **options)
