"""mmada data build: from a YAML file to shards, interrupted at any moment, with the same bytes in the end."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmada.cli.main import main
from mmada.data import load
from mmada.data.encoded import EncodedDataset
from mmada.data.mixture import SPLITS
from mmada.data.shard_files import LISTING, ShardEntry, read_listing
from mmada.data.shard_writer import ShardLimits, Unit
from mmada.data.shards import ShardedDataset
from mmada.errors import InputError
from mmada.recipes.build_shards import BuildJob, BuildWorker, Judge, build_shards, local_engine
from mmada.tokenizers.image import ImageTokenizer

ROOT = Path(__file__).parents[2]
LIMITS = ShardLimits(rows=8, batch=3)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty pictures, of which some have no caption or cannot be read, and chats; the file that describes them."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "photos").mkdir()
    for n in range(30):
        pixels = np.random.default_rng(n).integers(0, 256, (30 + n, 50 - n, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{n:02}.png")
        if n % 10 != 3:
            (folder / "photos" / f"{n:02}.txt").write_text(f"A red circle, number {n}")
    (folder / "photos" / "05.png").write_bytes(b"no picture")
    rows = [{"q": f"what is {n}?", "a": f"tom has {n} pens"} for n in range(20)]
    (folder / "chats.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "prompts.jsonl").write_text(json.dumps({"q": "2 + 2", "a": "4"}))
    (folder / "data.yaml").write_text(
        "photos: {use: pair, files: photos, ways: both, weight: 3, split: {validation: 0.3}}\n"
        "chats: {use: chat, files: chats.jsonl, user: q, assistant: a}\n"
        "rl: {use: prompts, files: prompts.jsonl, prompt: q, gold: a}\n"
        "mixture: {max_bad: 0.5, weights: tokens}\n"
    )
    return folder / "data.yaml"


@pytest.fixture
def job(data: Path, folder: Path, tmp_path: Path) -> BuildJob:
    return BuildJob(data=data, out=tmp_path / "shards", model=str(folder), device="cpu", limits=LIMITS)


def tree(folder: Path) -> dict[str, str]:
    """The hash of every file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def whole(data: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build that nobody interrupted."""
    out = tmp_path_factory.mktemp("whole") / "shards"
    build_shards(BuildJob(data=data, out=out, model=str(folder), device="cpu", limits=LIMITS))
    return out


def test_the_shards_hold_what_the_sources_do(whole: Path, data: Path, folder: Path, tmp_path: Path, job: BuildJob) -> None:
    sources, shards = load(data), load(whole)
    assert dict(shards.weights) == {"photos": 3.0, "chats": 1.0}
    assert shards.by == "tokens"
    assert shards.sets["photos"].use == "pair"
    worker = BuildWorker(job)
    fit = worker.fit
    seen = 0
    for split in ("train", "validation"):
        for name, dataset in sources.split(split).items():
            encoded = EncodedDataset(dataset, worker.image, fit, tmp_path / "cache")
            usable = [(i, one) for i, one in enumerate(encoded.many(range(len(dataset)))) if not isinstance(one, ValueError)]
            found = shards.split(split)[name]
            assert len(found) == len(usable)
            for place, (index, example) in enumerate(usable):
                assert found[place].messages == example.messages
                assert found[place].text == example.text
                assert all(np.array_equal(a, b) for a, b in zip(found[place].codes, example.codes, strict=True))
                assert shards.sets[name].id(split, place) == sources.sets[name].id(split, index)
                seen += 1
    assert seen == 2 * 26 + 20
    assert shards.rejected == {"chats": {}, "photos": {"no caption": 6, "picture is not in a known format": 2}}
    sums = [(one.folder, one.sha256) for one in read_listing(whole).shards]
    assert all(tree(whole)[f"{name}/{file}"] == value for name, files in sums for file, value in files.items())
    splits = [ShardedDataset(whole).splits(name)[split] for name in ("photos", "chats") for split in SPLITS]
    assert sum(one.tokens for one in read_listing(whole).shards) == sum(int(one.tokens().sum()) for one in splits)


def test_a_picture_of_two_examples_is_encoded_once(job: BuildJob, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    plain = ImageTokenizer.encode
    monkeypatch.setattr(ImageTokenizer, "encode", lambda self, pixels: counted.append(len(pixels)) or plain(self, pixels))
    worker = BuildWorker(job)
    list(worker.write(Unit("photos", 1, "train", 0, 8)))
    assert sum(counted) <= 5  # four pictures with two examples each; a batch of three cuts one pair


@pytest.mark.parametrize("moment", [1, 2, 4, 7, 11])
def test_a_build_that_is_interrupted_goes_on_with_the_same_bytes(
    job: BuildJob, whole: Path, moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in the middle of a shard, and after a shard that it could not list."""
    plain, calls = ImageTokenizer.encode, [0]

    def failing(self: ImageTokenizer, pixels: object) -> object:
        calls[0] += 1
        if calls[0] == moment:
            raise KeyboardInterrupt
        return plain(self, pixels)

    with monkeypatch.context() as patched:
        patched.setattr(ImageTokenizer, "encode", failing)
        with pytest.raises(KeyboardInterrupt):
            build_shards(job)
    listing = read_listing(job.out)
    assert not listing.complete
    with pytest.raises(InputError, match="are not complete"):
        load(job.out)
    finished = len(listing.shards)
    units = [
        one for one in whole.iterdir() if (one / "index.npy").is_file() and one.name not in {x.folder for x in listing.shards}
    ]
    unlisted = job.out / units[0].name
    unlisted.mkdir(exist_ok=True)
    (unlisted / "index.npy").write_bytes(b"half of it")
    (job.out / f".x.00000000-{2**22 + 1}-00000000.part").mkdir()
    written: list[str] = []

    def watched(worker: BuildWorker, units: list[Unit], judge: Judge) -> Iterator[ShardEntry]:
        for entry in local_engine(worker, units, judge):
            written.append(entry.folder)
            yield entry

    build_shards(job, watched)
    assert len(written) == len(read_listing(whole).shards) - finished  # only the rest
    os.utime(job.out)
    found = {name: value for name, value in tree(job.out).items() if ".part" not in name}
    assert found == tree(whole)
    assert build_shards(job, watched).complete  # there is nothing more to do
    assert tree(job.out) == found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 16}, "was begun with another settings"),
        ({"limits": ShardLimits(rows=9, batch=3)}, "was begun with another settings"),
        ({"data": "more"}, "was begun with another description"),
        ({"image_size": 12}, "image_size 12 is not a multiple of 8"),
        ({"model": "no/where/here"}, "does not exist|could not be downloaded"),
    ],
)
def test_a_folder_is_not_mixed_from_two_builds(
    whole: Path, job: BuildJob, data: Path, change: dict[str, object], message: str
) -> None:
    before = tree(whole)
    if change.get("data"):
        other = data.with_name("other.yaml")
        other.write_text(data.read_text() + "# more\n")
        change = {"data": other}
    fields = {"data": data, "out": whole, "model": job.model, "device": "cpu", "limits": LIMITS} | change
    with pytest.raises(InputError, match=message):
        build_shards(BuildJob(**fields))
    assert tree(whole) == before


def test_wrong_input_leaves_nothing(job: BuildJob, data: Path, whole: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    only = tmp_path / "only.yaml"
    only.write_text(f"rl: {{use: prompts, files: {data.parent / 'prompts.jsonl'}, prompt: q, gold: a}}\n")
    for fields, message in [
        ({"out": tmp_path / "full"}, "holds other files"),
        ({"data": only}, "has only sets of prompts"),
        ({"data": whole}, "is a folder of shards already"),
    ]:
        given = {"data": data, "out": job.out, "model": job.model, "device": "cpu"} | fields
        with pytest.raises(InputError, match=message):
            build_shards(BuildJob(**given))
    assert not job.out.exists()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_too_many_bad_rows_end_a_build_with_their_reasons(job: BuildJob, data: Path) -> None:
    strict = data.with_name("strict.yaml")
    strict.write_text(data.read_text().replace("max_bad: 0.5", "max_bad: 0.02"))
    with pytest.raises(
        InputError, match=r"set 'photos' has \d bad rows among its first \d+, more than 0.02 of 60 \(.*no caption"
    ):
        build_shards(BuildJob(data=strict, out=job.out, model=job.model, device="cpu", limits=LIMITS))
    judge = Judge({"a": (0.02, 10**6)})
    judge("a", 9000, {"bad": 200})
    judge("a", 1000, {})
    judge("a", 1000, {"bad": 1000})  # beyond the first rows
    with pytest.raises(InputError, match=r"has 201 bad rows among its first 9000, more than 0.02 of 10000 \(bad 201\)"):
        Judge({"a": (0.02, 10**6)})("a", 9000, {"bad": 201})


def test_a_yaml_file_may_name_shards(whole: Path, data: Path, tmp_path: Path, job: BuildJob) -> None:
    named = tmp_path / "named.yaml"
    named.write_text(
        f"photos: {{shards: {whole}}}\ntalk: {{shards: {whole}, set: chats, weight: 0.5}}\n"
        f"more: {{use: chat, files: {data.parent / 'chats.jsonl'}, user: q, assistant: a}}\n"
    )
    mixture = load(named)
    assert dict(mixture.weights) == {"photos": 3.0, "talk": 0.5, "more": 1.0}
    assert mixture.sets["talk"].name == "talk"
    assert mixture.split("train")["talk"][4].messages == load(whole).split("train")["chats"][4].messages
    again = build_shards(BuildJob(data=named, out=job.out, model=job.model, device="cpu"))
    assert {name: sum(one.rows.values()) for name, one in again.sets.items()} == {"photos": 52, "talk": 20, "more": 20}
    for text, message in [
        (f"x: {{shards: {whole}}}", "have no set 'x'; give one with set: "),
        (f"x: {{shards: {data.parent}}}", "are not a folder that `mmada data build` wrote"),
        (f"x: {{shards: {whole}, sett: chats}}", "'sett' in set 'x' of named.yaml is unknown; did you mean 'set'"),
    ]:
        named.write_text(text)
        with pytest.raises(InputError, match=message):
            load(named)


def test_the_command(data: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "shards"
    arguments = ["data", "build", str(data), "--out", str(out), "--model", str(folder), "--device", "cpu", "--batch", "3"]
    assert main([*arguments, "--shard-rows", "8"]) == 0
    said = capsys.readouterr().out
    assert "chats (train): 20 rows" in said
    assert "not used:" in said
    assert said.splitlines()[-1] == str(out)
    assert main([*arguments, "--shard-rows", "8", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)["sets"]
    assert sum(row["rows"] for row in table) == 72
    assert main([*arguments, "--actors", "2"]) == 2
    assert "--actors 2 is not used by the engine local" in capsys.readouterr().err
    assert main(["data", "bild"]) == 2
    assert "did you mean 'build'?" in capsys.readouterr().err


def start(data: Path, folder: Path, out: Path) -> subprocess.Popen[bytes]:
    """A build in a process of its own."""
    words = ["data", "build", data, "--out", out, "--model", folder, "--device", "cpu", "--shard-rows", "8", "--batch", "3"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    return subprocess.Popen([sys.executable, "-m", "mmada", *map(str, words)], env=environment, stdout=subprocess.DEVNULL)


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_build_that_is_killed_ten_times_has_the_same_bytes(data: Path, folder: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    moments, total = random.Random(0), len(read_listing(whole).shards)
    killed_at: list[int] = []
    while len(killed_at) < 10:
        process = start(data, folder, out)
        before, wanted = changed(out), moments.randrange(max(written(out), 0), total)
        while process.poll() is None and (changed(out) == before or written(out) < wanted):  # it begins with the listing
            time.sleep(0.0005)
        time.sleep(moments.random() * 0.01)  # within the writing of the next shard
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed_at.append(written(out))
        if written(out) >= total:
            out = tmp_path / f"shards_{len(killed_at)}"  # it was done: another one, killed from the start
    assert len(set(killed_at)) > 3
    for folder_of_shards in tmp_path.iterdir():
        assert start(data, folder, folder_of_shards).wait() == 0
        assert tree(folder_of_shards) == tree(whole)


def written(out: Path) -> int:
    """Shards that are in a folder, listed or not."""
    return sum(1 for path in out.glob("*/index.npy")) if out.is_dir() else -1


def changed(out: Path) -> int:
    """When the listing was written."""
    return (out / LISTING).stat().st_mtime_ns if (out / LISTING).is_file() else 0
