"""The live view: what is drawn in a terminal, and what is printed where there is none."""

from io import StringIO

import pytest
from PIL import Image
from rich.console import Console

from mmada.io.live_view import ProgressLine, View, Watcher, half_blocks, plain


def console(terminal: bool) -> tuple[Console, StringIO]:
    file = StringIO()
    return Console(file=file, force_terminal=terminal, color_system="truecolor", width=80, height=40), file


def test_half_blocks_show_two_pixels_a_cell() -> None:
    image = Image.new("RGB", (2, 2), (255, 0, 0))
    image.paste((0, 0, 255), (0, 1, 2, 2))
    text = half_blocks(image, 80, 40)
    assert text.plain == "▀▀\n"
    style = text.spans[0].style
    assert style.color.triplet == (255, 0, 0)
    assert style.bgcolor.triplet == (0, 0, 255)


@pytest.mark.parametrize(
    ("size", "columns", "rows", "expected"),
    [
        ((64, 64), 80, 40, (64, 32)),
        ((64, 64), 32, 40, (32, 16)),
        ((64, 64), 80, 8, (16, 8)),
        ((3, 3), 80, 40, (3, 2)),
    ],
)
def test_half_blocks_fit(size: tuple[int, int], columns: int, rows: int, expected: tuple[int, int]) -> None:
    lines = half_blocks(Image.new("RGB", size), columns, rows).plain.splitlines()
    assert (len(lines[0]), len(lines)) == expected


def test_plain_shows_masks_and_brightness() -> None:
    image = Image.new("L", (4, 4), 255)
    image.paste(0, (0, 0, 4, 2))
    view = View(3, 8, (("7 ", False), ("?", True), ("?", True)), image)
    assert plain(view) == "step 3/8\n7 ░░\n@@@@\n"


def test_a_pipe_gets_a_handful_of_snapshots_and_the_end() -> None:
    target, file = console(terminal=False)
    with Watcher(target) as watcher:
        for step in range(1, 65):
            watcher.show(View(step, 64, (("word", step < 64),)))
    shown = [line for line in file.getvalue().splitlines() if line.startswith("step")]
    assert shown == ["step 1/64", "step 16/64", "step 32/64", "step 48/64", "step 64/64"]
    assert file.getvalue().endswith("word\n")


def test_the_last_view_is_printed_when_the_loop_stops_early() -> None:
    target, file = console(terminal=False)
    with Watcher(target) as watcher:
        watcher.show(View(1, 64, (("a", True),)))
        watcher.show(View(2, 64, (("a", False),)))
    assert file.getvalue() == "step 1/64\n░\nstep 2/64\na\n"


def test_a_terminal_is_redrawn_in_place() -> None:
    target, file = console(terminal=True)
    with Watcher(target) as watcher:
        watcher.show(View(1, 2, (("first", True),), Image.new("RGB", (4, 4))))
        watcher.show(View(2, 2, (("last", False),), Image.new("RGB", (4, 4), "red")))
    output = file.getvalue()
    assert "\x1b[1A" in output  # the cursor went up over the first view
    assert "last" in output
    assert "48;2;255;0;0" in output


def test_markup_in_an_answer_is_text() -> None:
    target, file = console(terminal=False)
    with Watcher(target) as watcher:
        watcher.show(View(1, 1, (("[bold]x[/nonsense]", False),)))
    assert "[bold]x[/nonsense]" in file.getvalue()


def test_one_line_of_progress_is_rewritten_and_ends_with_passes_and_seconds() -> None:
    shown, file = console(terminal=True)
    seconds = iter([0.0, 0.0, 1.0, 2.0, 4.0, 4.0, 6.0, 7.0])
    with ProgressLine(shown, clock=lambda: next(seconds)) as line:
        line.show(0, 4, 0)
        line.show(1, 4, 1)
        line.show(2, 4, 2)
        line.show(4, 4, 3)
        line.show(0, 2, 0)  # a second run of the model
        line.show(1, 2, 2)
    lines = file.getvalue().split("\r\x1b[K")[1:]
    assert lines == [
        "step 0/4, 0 forward passes, 0.0 s",
        "step 1/4, 1 forward passes, 1.0 s, about 3 s left",
        "step 2/4, 2 forward passes, 2.0 s, about 2 s left",
        "step 4/4, 3 forward passes, 4.0 s",
        "step 0/2, 3 forward passes, 4.0 s",
        "step 1/2, 5 forward passes, 6.0 s, about 2 s left",
        "5 forward passes, 7.0 s\n",
    ]


def test_an_error_leaves_no_line_of_progress() -> None:
    shown, file = console(terminal=True)
    line = ProgressLine(shown)
    with line:
        line.show(1, 4, 1)
    assert file.getvalue().endswith(" s\n")
    line.__exit__(ValueError, ValueError("stop"), None)
    assert file.getvalue().endswith("\r\x1b[K")
