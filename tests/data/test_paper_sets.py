"""Every set of the paper, read from five rows in the layout that people have, by the file in examples/data."""

import shutil
from pathlib import Path

import pytest
import yaml
from tests.data.layouts import everything

from mmada.data import load
from mmada.data.dataset import Example
from mmada.data.mixture import Mixture
from mmada.io.images import load_image

PAPER = Path(__file__).parents[2] / "examples" / "data" / "paper.yaml"
SETS = [name for name in yaml.safe_load(PAPER.read_text()) if name != "mixture"]
PROMPTS = {"gsm8k_prompts": "math", "clevr_prompts": "vision", "geo_prompts": "vision", "draw_prompts": "image"}


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Mixture:
    pytest.importorskip("pyarrow")
    folder = everything(tmp_path_factory.mktemp("sets"))
    shutil.copy(PAPER, folder / "paper.yaml")
    return load(folder / "paper.yaml")


def examples(mixture: Mixture, name: str) -> list[Example]:
    dataset = mixture.split("train")[name]
    return [dataset[index] for index in range(len(dataset))]


def said(example: Example) -> list[str]:
    return [turn.content for turn in example.messages] or [example.text]


@pytest.mark.parametrize("name", [name for name in SETS if name not in PROMPTS])
def test_all_rows_of_a_set_are_read(mixture: Mixture, name: str) -> None:
    found = examples(mixture, name)
    rows = {mixture.sets[name].id("train", index) for index in range(len(found))}
    assert len(rows) == (4 if name == "laion" else 5)
    assert not mixture.rejected[name]
    for example in found:
        for image in example.images:
            assert load_image(image).size == (8, 8)
        assert not any("<image>" in text or "<person>" in text for text in said(example))


@pytest.mark.parametrize("name", PROMPTS)
def test_all_prompts_of_a_set_are_read(mixture: Mixture, name: str) -> None:
    prompts = mixture.prompts("train")[name]
    assert len(prompts) == 5
    assert mixture.sets[name].tasks == (PROMPTS[name],)
    for one in prompts:
        assert one.task == PROMPTS[name]
        assert one.prompt
        assert bool(one.gold) == (one.task != "image")
        assert (one.picture is not None) == (one.task == "vision")
    assert name not in mixture.split("train")


def test_texts_and_classes(mixture: Mixture) -> None:
    assert [e.text for e in examples(mixture, "refinedweb")] == [f"page {i}" for i in range(5)]
    drawn, described = examples(mixture, "imagenet")[:2]
    assert (drawn.objective, drawn.text) == ("text_to_image", "a photo of a tench")
    assert said(described) == ["What is this?", "a photo of a tench"]
    assert {e.text for e in examples(mixture, "imagenet")[::2]} == {"a photo of a tench", "a photo of a goldfish"}
    assert [said(e)[0] for e in examples(mixture, "alpaca")] == ["do 0\nthis", "do 1", "do 2", "do 3", "do 4"]


def test_captions_come_from_where_they_stand(mixture: Mixture) -> None:
    assert examples(mixture, "cc12m")[0].text == "a person and thing 0"
    assert [e.text for e in examples(mixture, "sa1b")[::2]] == [f"caption of {i}" for i in range(1, 6)]
    assert [e.text for e in examples(mixture, "laion")[::2]] == ["better", "alt 1", "alt 2", "alt 3"]
    assert [e.text for e in examples(mixture, "journeydb")] == ["a prompt 0 --v 5", "seen 1", "seen 2", "seen 3", "seen 4"]


def test_conversations_keep_their_pictures(mixture: Mixture) -> None:
    found = examples(mixture, "llava")
    assert [len(e.images) for e in found] == [1, 1, 1, 1, 0]
    assert [said(e)[0] for e in found[:2]] == ["What?", "What?"]
    assert Path(str(found[2].images[0])).name == "3.gif"
    assert said(found[4]) == ["Hi", "Hello!", "Bye", "Bye!"]
    assert said(examples(mixture, "llava_pretrain")[3]) == ["Render a summary.", "a cat 3"]
    assert isinstance(examples(mixture, "geo170k_onevision")[0].images[0], bytes)


def test_reasoning_stands_before_the_answer(mixture: Mixture) -> None:
    assert said(examples(mixture, "geo170k")[0]) == ["What is x?\nChoices:\nA:10\nB:20", "<think> x is 20.</think> B"]
    assert said(examples(mixture, "clevr")[2]) == ["How many 2?", "<think> scene. count.</think> 3"]
    assert said(examples(mixture, "gsm8k")[1]) == ["1 plus 1?", "<think> It is 2.</think> 2"]
    assert said(examples(mixture, "openthoughts")[0])[1] == "<think> hm</think> 4"
    assert all(examples(mixture, name)[0].reasoning for name in ("limo", "s1k", "acemath", "reasonflux"))


def test_weights_are_shares_of_tokens(mixture: Mixture) -> None:
    assert mixture.by == "tokens"
    assert mixture.weights["refinedweb"] == 3
    assert set(mixture.weights) == set(SETS)
