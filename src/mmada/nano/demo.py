"""``mmada demo``: the bundled model answers, looks, draws and edits, and leaves one contact sheet."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from rich.console import Console
from rich.text import Text

from mmada.io.contact_sheet import Row, Tile, contact_sheet
from mmada.io.images import save_image
from mmada.io.live_view import Watcher

if TYPE_CHECKING:
    from mmada.nano.world.questions import Question
    from mmada.nano.world.scenes import Scene
    from mmada.pipeline import Frame, MMaDA, TextResult

__all__ = ["run_demo"]

SEED = 7
GAPS = ("2 + [MASK] = 5", "2 + 3 = 5")
PROMPTS = (
    "a red circle and a blue square",
    "a green star above a white circle",
    "three yellow triangles",
    "a small black square to the left of a large orange circle",
    "the digit 7",
)
THOUGHT = "the flag of japan"
FILLED = "a red circle, a green square and a yellow star"
ADDED = "a blue triangle"
OWN_QUESTIONS = ("describe the picture.", "how many objects are there?", "is there a red circle?")


@dataclass
class _Stage:
    """The model, the console, and the rows of the contact sheet."""

    model: MMaDA
    console: Console
    rows: list[Row]

    def say(self, text: str, style: str = "", indent: int = 4) -> None:
        for line in text.splitlines() or [""]:
            self.console.print(Text(" " * indent + line, style=style))

    def heading(self, text: str) -> None:
        self.console.print()
        self.console.print(Text(text, style="bold"))

    @contextmanager
    def watching(self) -> Iterator[Callable[[Frame], None] | None]:
        """Denoising is shown live in a terminal; in a pipe it would only be noise."""
        if not self.console.is_terminal:
            yield None
            return
        with Watcher(self.console) as watcher:
            yield lambda frame: watcher.show(self.model.view(frame))

    def answer(self, question: str, result: TextResult, truth: str | None, steps: Callable[[str], bool] | None = None) -> Tile:
        """Print question, reasoning and answer; returns them for the sheet. ``steps`` checks the reasoning, where there is any:
        an answer counts as right only if what leads to it is."""
        from mmada.nano.world.arithmetic import extract_answer

        right = None if truth is None else truth in (result.text, extract_answer(result.text))
        sound = steps is None or not result.thinking or steps(result.thinking)
        mark = {None: "", True: "  (right)" if sound else "  (right, but not its reasoning)", False: f"  (wrong: {truth})"}[right]
        good = right if right is None else right and sound
        self.say(question, indent=2)
        if result.thinking:
            self.say(result.thinking, "dim")
        self.say(result.text + mark, {None: "cyan", True: "green", False: "red"}[good])
        return Tile(None, question, result.text + mark, good)


def run_demo(*, image: Image.Image | None, prompt: str | None, out: Path) -> Path:
    """Run everything with the bundled model and write the contact sheet to ``out``, which is returned.

    ``image`` is asked about and ``prompt`` is drawn in addition to the built-in inputs. The edited picture and the mask of its
    hole are written next to ``out``, to try `mmada inpaint` with. Raises InputError for a prompt that is too long.
    """
    from mmada.pipeline import MMaDA

    start = time.monotonic()
    stage = _Stage(MMaDA.load("nano"), Console(), [])
    if prompt is not None:  # before a minute of work
        stage.model.engine.check_length(stage.model.engine.prompter.draw(prompt))
    _texts(stage)
    _looks(stage, image)
    _draws(stage, [prompt, *PROMPTS] if prompt else list(PROMPTS))
    _edits(stage, out)
    path = save_image(contact_sheet(stage.rows), out)
    stage.console.print()
    stage.console.print(Text(f"{path}  ({time.monotonic() - start:.0f} s)", style="bold"))
    return path


def _texts(stage: _Stage) -> None:
    stage.heading("Text: arithmetic that it has never seen, with reasoning, and a gap to fill")
    from mmada.nano.world.arithmetic import check_steps, problem

    tiles = []
    for steps in (1, 2, 3):
        asked = problem(np.random.default_rng(SEED + steps), "test", steps=steps)
        with stage.watching() as watch:
            result = stage.model.generate(asked.text, thinking=True, callback=watch)
        tiles.append(stage.answer(asked.text, result, asked.answer, lambda thinking, asked=asked: check_steps(thinking, asked)))  # type: ignore[misc]
    text, truth = GAPS
    tiles.append(stage.answer(text, stage.model.infill(text), truth))
    stage.rows.append(Row("Writes", tiles))


def _looks(stage: _Stage, own: Image.Image | None) -> None:
    from mmada.nano.world.questions import check_reasoning

    stage.heading("Pictures: questions on scenes that it has never seen")
    tiles = []
    for scene, questions in _scenes():
        picture = _picture(scene)
        for question in questions:
            result = stage.model.ask(picture, question.text)
            told = stage.answer(
                question.text,
                result,
                question.answer,
                lambda thinking, q=question: check_reasoning(thinking, q),  # type: ignore[misc]
            )
            tiles.append(replace(told, image=picture))
    asked = [(_picture(_last_scene()), "describe the picture."), *((own, question) for question in OWN_QUESTIONS if own)]
    for picture, text in asked:
        tiles.append(replace(stage.answer(text, stage.model.ask(picture, text), None), image=picture))
    stage.rows.append(Row("Looks", tiles))


def _draws(stage: _Stage, prompts: list[str]) -> None:
    stage.heading("Drawing: all tokens of a picture masked, then filled in")
    with stage.watching() as watch:
        first = stage.model.draw(prompts[0], callback=watch)
    pictures = [first, *stage.model.draw(prompts[1:])]
    for prompt in prompts:
        stage.say(prompt, indent=2)
    thought = stage.model.draw(THOUGHT, thinking=True)
    stage.say(f"{THOUGHT}, after thinking:", indent=2)
    stage.say(str(thought.info.get("thinking", "")), "dim")
    tiles = [Tile(picture, prompt) for prompt, picture in zip(prompts, pictures, strict=True)]
    stage.rows.append(Row("Draws", [*tiles, Tile(thought, THOUGHT, "after thinking")]))


def _edits(stage: _Stage, out: Path) -> None:
    stage.heading("Editing: known tokens stay, a hole or a new edge is filled in")
    from mmada.nano.world.scenes import Scene, Thing

    before = _picture(Scene((Thing(0, 0, "circle", "red"), Thing(1, 1, "square", "green"))))
    mask = np.zeros((before.height, before.width), bool)
    mask[before.height * 5 // 8 :, before.width * 5 // 8 :] = True
    hole = Image.fromarray(np.where(mask[:, :, None], 255, np.asarray(before)).astype(np.uint8))
    filled = stage.model.inpaint(before, mask, FILLED)
    stage.say(f"inpaint: {FILLED}", indent=2)
    wider = stage.model.extend(before, ADDED, right=4, seed=SEED)
    stage.say(f"extend by four columns of tokens to the right: {ADDED}", indent=2)
    for name, picture in (("picture", before), ("mask", Image.fromarray(mask.astype(np.uint8) * 255))):
        stage.say(str(save_image(picture, out.with_name(f"{out.stem}-{name}.png"))), "dim", indent=2)
    tiles = [
        Tile(before, "a picture"),
        Tile(hole, "with a hole"),
        Tile(filled, FILLED, "inpainted"),
        Tile(wider, ADDED, "extended to the right"),
    ]
    stage.rows.append(Row("Edits", tiles))


def _scenes() -> Iterator[tuple[Scene, list[Question]]]:
    """Unseen scenes with questions about them."""
    from mmada.nano.world.questions import ask_about
    from mmada.nano.world.scenes import sample_scene

    for things, kinds in ((2, ("count", "color")), (3, ("exist", "relation"))):
        rng = np.random.default_rng(SEED + things)
        scene = sample_scene(rng, "test", count=things)
        yield scene, [ask_about(scene, rng, kind) for kind in kinds]


def _last_scene() -> Scene:
    """An unseen scene of four things, to be described."""
    from mmada.nano.world.scenes import sample_scene

    return sample_scene(np.random.default_rng(SEED + 4), "test", count=4)


def _picture(scene: Scene) -> Image.Image:
    from mmada.nano.world.render import AUGMENTED, render

    return Image.fromarray(render(scene, np.random.default_rng(SEED), AUGMENTED))
