"""Commands that make pictures: draw, inpaint, extend."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from PIL import Image
from tyro.conf import Positional, arg
from tyro.constructors import PrimitiveConstructorSpec

from mmada.cli.options import MODEL_DEFAULT, Guidance, SpeedOptions, Temperature, Whole, check_number_given, emit
from mmada.errors import MAX_SEED, InputError, check_text, check_whole
from mmada.io.images import check_output, load_image, load_mask, save_gif, save_image
from mmada.io.live_view import View

if TYPE_CHECKING:
    from mmada.pipeline import Frame, MMaDA

__all__ = ["Draw", "Extend", "Inpaint"]

Output = Annotated[Path, arg(aliases=("-o",), metavar="FILE")]
Columns = Annotated[int, Whole]


def _size(texts: list[str]) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", texts[0])
    if match is None:
        raise ValueError(f"'{texts[0]}' is no size; write it as 512x256.")
    return int(match[1]), int(match[2])


Size = Annotated[
    tuple[int, int],
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="WxH",
        instance_from_str=_size,
        is_instance=lambda value: value is None or isinstance(value, tuple),
        str_from_instance=lambda value: [f"{value[0]}x{value[1]}"],
    ),
]


@dataclass(frozen=True, kw_only=True)
class PictureOptions(SpeedOptions):
    """How a picture is decoded and where it goes."""

    output: Output = Path("out.png")
    """Where to write the picture; the suffix is the format."""
    guidance: Guidance = None
    """Weight of classifier-free guidance; 0 is without."""
    temperature: Temperature = None
    """Sampling temperature."""

    def check(self) -> None:
        """Raise `InputError` for an option out of range."""
        super().check()
        check_number_given("guidance", self.guidance)
        check_number_given("temperature", self.temperature)
        check_output(self.output)

    def sampling(self) -> dict[str, Any]:
        """The options as keyword arguments of the pipeline."""
        return {
            "steps": self.steps,
            "guidance": self.guidance,
            "temperature": self.temperature,
            "speed": self.speed(),
            "seed": self.seed,
        }

    def make(self, asked: dict[str, object], call: Callable[[MMaDA, Callable[[Frame], None] | None], Image.Image]) -> None:
        """Load the model, let ``call`` make the picture, write it, and say where it is."""
        model = self.load()
        with self.watching(model) as watch:
            image = call(model, watch)
        path = save_image(image, self.output)
        emit(self.json, {**asked, "output": str(path), "model": self.model, "seed": self.seed}, str(path))


@dataclass(frozen=True, kw_only=True)
class Draw(PictureOptions):
    """Draw what a prompt says.

    Example: mmada draw "a red circle above a blue square" -o out.png --watch
    """

    prompt: Annotated[Positional[str], arg(metavar="PROMPT")]
    """What to draw."""
    thinking: bool = False
    """Reason in text before drawing, and print the reasoning."""
    gif: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: none)")] = None
    """Write the denoising as an animation too."""
    size: Annotated[Size | None, arg(help_behavior_hint=MODEL_DEFAULT)] = None
    """Width and height in pixels, as 512x256; sizes that the model was not trained on are untried ground."""
    count: Annotated[int, Whole] = 1
    """Pictures to draw, with seeds from --seed on; several are numbered: out-1.png, out-2.png, ..."""

    def check(self) -> None:
        """Raise `InputError` for an option out of range."""
        super().check()
        check_text("prompt", self.prompt)
        check_whole("count", self.count, 1)
        check_whole("seed", self.seed + self.count - 1, 0, MAX_SEED)  # the last picture's
        if self.gif is not None:
            check_output(self.gif, (".gif",), "gif")

    def run(self) -> None:
        """Draw, write, and say where."""
        model = self.load()
        for number in range(1, self.count + 1):
            self._draw(model, number)

    def _draw(self, model: MMaDA, number: int) -> None:
        seed = self.seed + number - 1
        frames: list[Image.Image] = []
        keep = (lambda view: _keep(view, frames)) if self.gif else None
        with self.watching(model, keep, self.size) as watch:
            sampling = {**self.sampling(), "seed": seed, "size": self.size}
            image = model.draw(self.prompt, thinking=self.thinking, watch=watch, **sampling)
        path = save_image(image, self._numbered(self.output, number))
        record: dict[str, object] = {"command": "draw", "prompt": self.prompt, "output": str(path)}
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
class Inpaint(PictureOptions):
    """Fill a hole in a picture as a prompt says; the rest stays as it is, but for cells of 8 x 8 pixels that the hole cuts.

    Example: mmada inpaint scene.png hole.png "a red circle and a blue square" -o out.png
    """

    image: Annotated[Positional[Path], arg(metavar="IMAGE")]
    """The picture."""
    mask: Annotated[Positional[Path], arg(metavar="MASK")]
    """A picture of the same size, white where the hole is."""
    prompt: Annotated[Positional[str], arg(metavar="PROMPT")]
    """What the whole picture should show."""

    def check(self) -> None:
        """Raise `InputError` for an option out of range."""
        super().check()
        check_text("prompt", self.prompt)

    def run(self) -> None:
        """Inpaint, write, and say where."""
        image = load_image(self.image)
        mask = load_mask(self.mask, image.size)
        asked: dict[str, object] = {"command": "inpaint", "image": str(self.image), "prompt": self.prompt}
        self.make(
            asked,
            lambda model, watch: model.inpaint(image, mask, self.prompt, watch=watch, **self.sampling()),
        )


@dataclass(frozen=True, kw_only=True)
class Extend(PictureOptions):
    """Draw on beyond the edges of a picture.

    Example: mmada extend scene.png --right 2 -o out.png
    """

    image: Annotated[Positional[Path], arg(metavar="IMAGE")]
    """The picture."""
    prompt: str = ""
    """What the whole picture should show."""
    left: Columns = 0
    """New columns on the left, in image tokens."""
    right: Columns = 0
    """New columns on the right, in image tokens."""
    up: Columns = 0
    """New rows above, in image tokens."""
    down: Columns = 0
    """New rows below, in image tokens."""

    def check(self) -> None:
        """Raise `InputError` for an option out of range."""
        super().check()
        for name, value in self.edges().items():
            check_whole(name, value, 0)
        if not any(self.edges().values()):
            raise InputError("extend: no edge is given; say how far, such as --right 2.")

    def edges(self) -> dict[str, int]:
        """Columns and rows to add on each side, in image tokens."""
        return {"left": self.left, "right": self.right, "up": self.up, "down": self.down}

    def run(self) -> None:
        """Extend, write, and say where."""
        image = load_image(self.image)
        asked: dict[str, object] = {"command": "extend", "image": str(self.image), "prompt": self.prompt}
        options: dict[str, Any] = {**self.edges(), **self.sampling()}
        self.make(
            asked | self.edges(),
            lambda model, watch: model.extend(image, self.prompt, watch=watch, **options),
        )


def _keep(view: View, frames: list[Image.Image]) -> None:
    if view.image is not None:
        frames.append(view.image)
