"""Files with damaged bytes: one sentence when they are opened, or reasons for rows; nothing else is raised."""

import random
from pathlib import Path

import pytest
from tests.data.layouts import document, encoded, lines, parquet, picture, tar

from mmada.data import load
from mmada.data.dataset import UnusableRow
from mmada.errors import InputError

NAMES = ("a.jsonl", "a.json", "b.json", "a.csv", "a.parquet", "a.tar")
TRIES = 60


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("pyarrow")
    folder = tmp_path_factory.mktemp("whole")
    rows = [{"image": "a.png", "caption": f'thing "{i}", é', "size": i} for i in range(8)]
    lines(folder / "a.jsonl", *rows)
    document(folder / "a.json", rows)
    document(folder / "b.json", {"info": {}, "rows": rows})
    (folder / "a.csv").write_text("image,caption,size\n" + "".join(f'a.png,"thing ""{i}"", é",{i}\n' for i in range(8)))
    parquet(folder / "a.parquet", [row | {"image": {"bytes": encoded(), "path": None}} for row in rows])
    tar(folder / "a.tar", {f"{i}.{suffix}": value for i in range(8) for suffix, value in (("jpg", encoded()), ("txt", "x"))})
    return folder


def damaged(data: bytes, chosen: random.Random) -> bytes:
    """The bytes with a few changed, some left out, or the end cut off."""
    way = chosen.randrange(3)
    at = chosen.randrange(len(data))
    if way == 0:
        return data[:at]
    if way == 1:
        return data[:at] + data[at + chosen.randrange(1, 40) :]
    changed = bytearray(data)
    for _ in range(chosen.randrange(1, 6)):
        changed[chosen.randrange(len(changed))] = chosen.randrange(256)
    return bytes(changed)


@pytest.mark.parametrize("name", NAMES)
def test_damaged_bytes(whole: Path, tmp_path: Path, name: str) -> None:
    chosen = random.Random(name)
    picture(tmp_path / "a.png")
    (tmp_path / "d.yaml").write_text(f"a: {{use: pair, files: {name}, where: size != 3, max_bad: 1}}")
    opened, said = 0, set[str]()
    for _ in range(TRIES):
        (tmp_path / name).write_bytes(damaged((whole / name).read_bytes(), chosen))
        try:
            mixture = load(tmp_path / "d.yaml")
        except InputError as error:
            said.add(str(error))
            continue
        opened += 1
        dataset = mixture.split("train")["a"]
        for index in range(len(dataset)):
            try:
                dataset[index]
            except UnusableRow as error:
                said.add(error.reason)
    assert opened or name in ("a.json", "b.json", "a.parquet")
    assert said
    assert all(0 < len(one) < 600 and "\n" not in one for one in said)
