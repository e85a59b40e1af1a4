"""Commands that make images: draw, inpaint, extend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmada.cli.arguments import NUMBER, PATH, argument, choice, option, path, size, switch, text, whole
from mmada.cli.options import OWN, SamplingOptions, emit, output_option, prompt_text, remark
from mmada.errors import MAX_SEED, InputError, check_whole

if TYPE_CHECKING:
    from PIL import Image

    from mmada.io.live_view import View
    from mmada.pipeline import Frame, MMaDA

__all__ = ["Draw", "Extend", "Inpaint"]

MAX_IMAGES = 10_000
"""Upper bound of --count that catches typos."""
IMAGE = path("IMAGE")
CELLS = whole(0)
SCHEDULES = ("cosine", "linear", "square", "root", "sigmoid")
"""Names of `mmada.diffusion.schedule.SCHEDULES`, which a parser must know without importing torch (a test compares them)."""


@dataclass(frozen=True, kw_only=True)
class ImageOptions(SamplingOptions):
    """How an image is decoded, by the fields of `mmada.pipeline.ImageSampling`, and where it goes."""

    SAMPLING = (*SamplingOptions.SAMPLING, "order_noise", "annealing", "schedule")

    out: Path = output_option("The image file to write; its suffix is the format.", Path("out.png"), PATH)
    schedule: str | None = option("Noise schedule: how many codes each step decides.", choice(*SCHEDULES), None, shown=OWN)
    order_noise: float | None = option("Noise on the order in which codes are decided.", NUMBER, None, shown=OWN)
    annealing: str | None = option("How that noise falls over the steps.", choice("linear", "compounding"), None, shown=OWN)

    def check(self) -> None:
        """Raise `InputError` where the image could not be written."""
        from mmada.io.images import check_output

        super().check()
        check_output(self.out, name="--out")

    def make(self, asked: dict[str, object], call: Callable[[MMaDA, Callable[[Frame], None] | None], Image.Image]) -> None:
        """Load the model, let ``call`` make the image, write it, and say where it is."""
        from mmada.io.images import save_image

        model = self.load()
        with self.watching(model) as callback:
            image = call(model, callback)
        path = save_image(image, self.out)
        note = str(image.info.get("note", ""))
        emit(self.json, {**asked, "output": str(path), "note": note, "model": self.model, "seed": self.seed}, str(path))
        if not self.json:
            remark(note)


@dataclass(frozen=True, kw_only=True)
class Draw(ImageOptions):
    """Draw what a prompt says.

    Example: mmada draw "a red circle above a blue square" -o out.png --watch
    """

    SAMPLING = (*ImageOptions.SAMPLING, "size")

    prompt: str = argument("What to draw, or - to read it from standard input.", text("PROMPT"))
    thinking: bool | None = switch("Reason in text before drawing, and print the reasoning.", shown="no")
    gif: Path | None = option("Write the denoising as an animation too.", PATH, None, shown="none")
    size: tuple[int, int] | None = option(
        "Width and height in pixels; results at sizes that the model was not trained on are not tested.", size(), None, shown=OWN
    )
    count: int = option(
        "Images to draw, with seeds from --seed on; several are numbered: out-1.png, out-2.png, ...", whole(1, MAX_IMAGES), 1
    )

    def check(self) -> None:
        """Raise `InputError` for options that do not go together, and where a file could not be written."""
        from mmada.io.images import check_output

        super().check()
        check_whole("--seed of the last image", self.seed + self.count - 1, 0, MAX_SEED)
        if self.gif is not None:
            check_output(self.gif, (".gif",), "--gif")
        if self.count > 1:
            check_output(self._numbered(self.out, self.count), name="--out")

    def run(self) -> None:
        """Draw, write, and say where."""
        prompt = prompt_text("prompt", self.prompt)
        model = self.load()
        for image in range(1, self.count + 1):
            self._draw(model, prompt, image)

    def _draw(self, model: MMaDA, prompt: str, number: int) -> None:
        from mmada.io.images import save_gif, save_image

        seed = self.seed + number - 1
        frames: list[Image.Image] = []
        keep = (lambda view: _keep(view, frames)) if self.gif else None
        with self.watching(model, keep, self.size) as callback:
            image = model.draw(prompt, thinking=bool(self.thinking), seed=seed, callback=callback, **self.sampling())
        path = save_image(image, self._numbered(self.out, number))
        record: dict[str, object] = {"command": "draw", "prompt": prompt, "output": str(path)}
        lines = [str(path)]
        if self.gif is not None:
            animation = save_gif([*frames, image], self._numbered(self.gif, number))
            record["gif"] = str(animation)
            lines.append(str(animation))
        if self.thinking:
            record["thinking"] = image.info.get("thinking", "")
            lines.insert(0, f"{record['thinking']}\n")
        emit(self.json, record | {"model": self.model, "seed": seed}, "\n".join(lines))

    def _numbered(self, path: Path, number: int) -> Path:
        return path if self.count == 1 else path.with_stem(f"{path.stem}-{number}")


@dataclass(frozen=True, kw_only=True)
class Inpaint(ImageOptions):
    """Fill a hole in an image as a prompt says. The rest keeps its pixels, except in codes that the hole cuts.

    Example: mmada inpaint scene.png hole.png "a red circle and a blue square" -o out.png
    """

    image: Path = argument("The image.", IMAGE)
    mask: Path = argument("An image of the same size, white where the hole is.", path("MASK"))
    prompt: str = argument("What the whole image should show, or - to read it from standard input.", text("PROMPT"))

    def run(self) -> None:
        """Inpaint, write, and say where."""
        from mmada.io.images import load_image, load_mask

        image = load_image(self.image)
        mask = load_mask(self.mask, image.size, image=image)
        prompt = prompt_text("prompt", self.prompt)
        asked: dict[str, object] = {"command": "inpaint", "image": str(self.image), "prompt": prompt}
        options: dict[str, Any] = {**self.sampling(), "seed": self.seed}
        self.make(asked, lambda model, callback: model.inpaint(image, mask, prompt, callback=callback, **options))


@dataclass(frozen=True, kw_only=True)
class Extend(ImageOptions):
    """Extend an image beyond its edges.

    Example: mmada extend scene.png --right 2 -o out.png
    """

    image: Path = argument("The image.", IMAGE)
    prompt: str = option("What the whole image should show, or - to read it from standard input.", text(empty=True), "")
    left: int = option("Columns of image codes to add on the left.", CELLS, 0)
    right: int = option("Columns of image codes to add on the right.", CELLS, 0)
    up: int = option("Rows of image codes to add above.", CELLS, 0)
    down: int = option("Rows of image codes to add below.", CELLS, 0)

    def check(self) -> None:
        """Raise `InputError` where no edge is given."""
        super().check()
        if not any(self.edges().values()):
            raise InputError("--left, --right, --up and --down are all 0; give at least one, such as --right 2")

    def edges(self) -> dict[str, int]:
        """Columns and rows to add on each side, in image codes."""
        return {"left": self.left, "right": self.right, "up": self.up, "down": self.down}

    def run(self) -> None:
        """Extend, write, and say where."""
        from mmada.io.images import load_image

        image = load_image(self.image)
        prompt = prompt_text("prompt", self.prompt)
        asked: dict[str, object] = {"command": "extend", "image": str(self.image), "prompt": prompt}
        options: dict[str, Any] = {**self.edges(), **self.sampling(), "seed": self.seed}
        self.make(asked | self.edges(), lambda model, callback: model.extend(image, prompt, callback=callback, **options))


def _keep(view: View, frames: list[Image.Image]) -> None:
    if view.image is not None:
        frames.append(view.image)
