"""Shards by Ray: the bytes of the plain loop, errors as reasons, and no plan that would wait without end."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmada.data.shard_files import ShardEntry, read_listing
from mmada.data.shard_writer import ShardLimits, Unit
from mmada.errors import InputError
from mmada.recipes.build_ray import BuildActor, RayEngine, checked_actors, passed_environment
from mmada.recipes.build_shards import BuildJob, BuildWorker, build_shards

LIMITS = ShardLimits(rows=8, batch=3)


@pytest.fixture
def job(folder: Path, tmp_path: Path) -> BuildJob:
    (tmp_path / "photos").mkdir()
    for n in range(20):
        pixels = np.random.default_rng(n).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{n:02}.png")
        (tmp_path / "photos" / f"{n:02}.txt").write_text(f"a red circle {n}")
    (tmp_path / "photos" / "03.png").write_bytes(b"no picture")
    (tmp_path / "data.yaml").write_text("photos: {use: pair, files: photos}\nmixture: {max_bad: 0.2}\n")
    return BuildJob(data=tmp_path / "data.yaml", out=tmp_path / "shards", model=str(folder), device="cpu", limits=LIMITS)


@pytest.mark.parametrize(
    ("asked", "cpus", "gpus", "units", "found"),
    [(0, 8, 0, 100, 7), (0, 8, 2, 100, 2), (3, 8, 0, 100, 3), (0, 8, 0, 2, 2), (1, 2, 0, 9, 1), (0, 2, 0, 9, 1)],
)
def test_a_cpu_is_left_for_reading(asked: int, cpus: int, gpus: int, units: int, found: int) -> None:
    assert checked_actors(asked, cpus, gpus, units) == found


@pytest.mark.parametrize(
    ("asked", "cpus", "gpus", "message"),
    [
        (2, 2, 0, "2 actors would take all of 2 CPUs, and one must be left for reading; give --actors 1 or fewer"),
        (0, 1, 0, "1 actors would take all of 1 CPUs, and one must be left for reading; use --engine local"),
        (0, 4, 8, "8 actors would take all of 4 CPUs"),
        (3, 8, 2, "3 actors need a GPU each, and there are 2; give --actors 2 or fewer"),
    ],
)
def test_a_plan_that_would_wait_without_end_is_refused(asked: int, cpus: int, gpus: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        checked_actors(asked, cpus, gpus, 100)


def test_actors_get_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PYTHONPATH", "src:/x")
    monkeypatch.setenv("SECRET", "1")
    monkeypatch.delenv("OMP_NUM_THREADS")
    found = passed_environment()
    assert found["HF_HUB_OFFLINE"] == "1"
    assert found["PYTHONPATH"] == f"{Path('src').resolve()}:/x"
    assert found["OMP_NUM_THREADS"] == "1"
    assert "SECRET" not in found


def test_an_error_in_an_actor_becomes_a_row_with_its_reason(job: BuildJob) -> None:
    job.out.mkdir()
    units = [Unit("photos", 0, "train", 0, 8), Unit("gone", 1, "train", 0, 8), Unit("photos", 0, "train", 8, 16)]
    rows = BuildActor(job)({"unit": np.array([json.dumps(vars(unit)) for unit in units])})
    assert rows["bad"][0] == rows["bad"][2] == ""
    assert rows["bad"][1] == "KeyError: 'gone'"
    entries = [ShardEntry.model_validate(one) for text in rows["entries"] for one in json.loads(text)]
    assert [(one.first, one.last) for one in entries] == [(0, 8), (8, 16)]
    assert entries == [one for unit in (units[0], units[2]) for one in rewritten(job, unit)]


def rewritten(job: BuildJob, unit: Unit) -> list[ShardEntry]:
    """The entries of a unit that is written again."""
    for path in job.out.glob(f"*-{unit.first:010d}/*"):
        path.unlink()
    return list(BuildWorker(job).write(unit))


class FakeRay:
    """Ray on a machine of four CPUs, of which the actors are plain objects; one row fails at first."""

    class ActorPoolStrategy:
        def __init__(self, size: int) -> None:
            self.size = size

    def __init__(self, failing: str = "") -> None:
        self.failing, self.shut = failing, False
        self.started: dict[str, Any] = {}
        self.data = self

    def is_initialized(self) -> bool:
        return False

    def init(self, **options: Any) -> None:
        self.started = options

    def shutdown(self) -> None:
        self.shut = True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 4.0}

    def from_items(self, rows: list[dict[str, str]], override_num_blocks: int) -> "FakeRay":
        assert override_num_blocks == len(rows)
        self.rows = rows
        return self

    def map_batches(self, kind: type, *, fn_constructor_args: tuple[Any, ...], compute: Any, **_: Any) -> "FakeRay":
        assert compute.size == min(3, len(self.rows))
        self.actor = kind(*fn_constructor_args)
        return self

    def iter_rows(self) -> Any:
        for row in reversed(self.rows):  # Ray keeps no order
            if self.failing and f'"first": {self.failing}' in row["unit"]:
                yield {"entries": "[]", "bad": "OSError: disk"}
                continue
            made = self.actor({"unit": [row["unit"]]})
            yield {name: column[0] for name, column in made.items()}


def test_the_rest_is_kept_where_a_part_fails(job: BuildJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay(failing="16")
    monkeypatch.setattr("mmada.recipes.build_ray.imported", lambda: ray)
    with pytest.raises(
        InputError, match=r"1 of \d parts of the build failed \(1 times: OSError: disk\); fix that and run it again"
    ):
        build_shards(job, RayEngine())
    assert ray.shut
    assert ray.started["include_dashboard"] is False
    assert not read_listing(job.out).complete
    ray.failing = ""
    build_shards(job, RayEngine(3))
    other = BuildJob(**{**vars(job), "out": tmp_path / "plain"})
    build_shards(other)
    assert tree(job.out) == tree(other.out)
    build_shards(job, RayEngine(3))  # nothing is left to do
    with pytest.raises(InputError, match="actors must be a whole number of at least 0"):
        RayEngine(-1)


def test_without_ray(job: BuildJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(InputError, match=r"engine 'ray' needs ray; install it with: pip install 'mmada\[ray\]'"):
        build_shards(job, RayEngine())


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.filterwarnings("default")  # of Ray's own
def test_ray_itself_writes_the_same_bytes(job: BuildJob, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 * 10**6, log_to_driver=False,
             runtime_env={"env_vars": passed_environment()})  # fmt: skip
    try:
        with pytest.raises(InputError, match="2 actors would take all of 2 CPUs"):
            build_shards(job, RayEngine(2))
        build_shards(job, RayEngine(1))
    finally:
        ray.shutdown()
    other = BuildJob(**{**vars(job), "out": tmp_path / "plain"})
    build_shards(other)
    assert tree(job.out) == tree(other.out)
    assert read_listing(job.out).rejected("photos") == {"picture is not in a known format": 2}


def tree(folder: Path) -> dict[str, str]:
    """The hash of every file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
