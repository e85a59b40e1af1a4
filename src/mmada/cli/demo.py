"""The command demo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mmada.cli.arguments import PATH, TEXT, option
from mmada.cli.options import output_option

__all__ = ["Demo"]


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Watch the bundled model answer, look and draw, on built-in inputs and on yours; about a minute.

    Example: mmada demo --image photo.png --prompt "a green star above a white circle"
    """

    image: Path | None = option("An image of yours to ask about.", PATH, None, shown="built-in ones only")
    prompt: str | None = option("A prompt of yours to draw.", TEXT, None, shown="built-in ones only")
    out: Path = output_option("The contact sheet to write.", Path("demo.png"), PATH)

    def check(self) -> None:
        """Raise `InputError` where the contact sheet could not be written."""
        from mmada.io.images import check_output

        check_output(self.out, name="--out")

    def run(self) -> None:
        """Run the demo."""
        from mmada.io.images import load_image

        image = None if self.image is None else load_image(self.image)
        from mmada.registry import DEMOS

        DEMOS.find("nano")(image=image, prompt=self.prompt, out=self.out)
