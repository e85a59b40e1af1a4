"""The YAML of docs/how-to/data-files.md is read as it stands there."""

import re
from pathlib import Path

import pytest
from tests.data.layouts import captioned, document, instructions, lines, mathematics, picture, texts_and_classes

from mmada.data import load
from mmada.data.dataset import UnusableRow

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "data-files.md"
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.S | re.M)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("pyarrow")
    folder = tmp_path_factory.mktemp("page")
    for make in (texts_and_classes, captioned, instructions, mathematics):
        make(folder)
    picture(folder / "photos/a.jpg")
    (folder / "photos/a.txt").write_text("a thing")
    picture(folder / "product_photos/a.png")
    (folder / "products.csv").write_text("file,colour,title\na.png,red,shoe\n")
    flowers = {"image": "photos/a.jpg", "short": "a rose", "long": "a red rose with thorns", "part": "train"}
    lines(folder / "flowers.jsonl", flowers, flowers | {"part": "val"})
    picture(folder / "signs/stop/1.png")
    (folder / "poems.txt").write_text("roses are red\nviolets are blue\n")
    (folder / "books").mkdir()
    (folder / "books/one.txt").write_text("chapter one\n\nand so on")
    lines(folder / "worked.jsonl", {"question": "2 + 2?", "steps": "2 and 2 are 4", "result": 4})
    lines(folder / "edits.jsonl", {"before": "photos/a.jpg", "say": "make it blue", "after": "photos/a.jpg"})
    coco = {"images": [{"id": 5, "file_name": "photos/a.jpg"}], "annotations": [{"image_id": 5, "caption": "c"}]}
    document(folder / "coco.json", coco)
    return folder


def test_the_page_shows_every_use() -> None:
    assert {*re.findall(r"use: (\w+)", "\n".join(BLOCKS))} == {"pair", "class", "chat", "text", "reason", "edit", "prompts"}


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_is_read(folder: Path, number: int) -> None:
    (folder / f"{number}.yaml").write_text(BLOCKS[number])
    mixture = load(folder / f"{number}.yaml")
    for name, one in mixture.sets.items():
        seen = 0
        for split in ("train", "validation", "test"):
            rows = one.prompts(split) if one.use == "prompts" else one.split(split)
            for index in range(len(rows)):
                try:
                    seen += rows[index] is not None
                except UnusableRow as error:
                    pytest.fail(f"{name}: {error.reason}")
        assert seen, name
