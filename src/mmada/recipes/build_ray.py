"""Building of shards by Ray Data: the worker of `mmada.recipes.build_shards` in actors, on one machine or a cluster.

Each actor holds the tokenizers and writes shards itself, so every machine must see the data, the model and the output under the
same paths. What travels are numbers of rows and entries of the listing. Starting costs some twenty seconds: it pays on many
machines or many GPUs. A cluster is found by the environment variable RAY_ADDRESS; without it Ray is started on this machine.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from mmada.data.shard_files import ShardEntry
from mmada.data.shard_writer import Unit
from mmada.errors import InputError, check_whole
from mmada.recipes.build_shards import BuildJob, BuildWorker, Judge

__all__ = ["RayEngine", "checked_actors", "passed_environment"]

PASSED = ("HF_", "HUGGINGFACE_", "OMP_", "MKL_", "TOKENIZERS_", "TORCH", "MMADA_", "PYTHON", "LD_LIBRARY_PATH", "TMPDIR")
"""Beginnings of the environment variables that actors get: a worker of Ray does not see those of the program that started it."""
OBJECT_STORE = 300 * 10**6
"""Bytes of Ray's shared memory on this machine; the default is a third of the memory, of which next to nothing is used."""


@dataclass(frozen=True)
class RayEngine:
    """Runs the units of a build in ``actors`` actors (0: one for each GPU, or else for each CPU but one)."""

    actors: int = 0

    def __post_init__(self) -> None:
        check_whole("actors", self.actors, 0)

    def __call__(self, worker: BuildWorker, units: list[Unit], judge: Judge) -> Iterator[ShardEntry]:
        """As `Engine`. Raises InputError at the end where units failed; run again, those alone are done."""
        if not units:
            return
        ray = imported()
        mine = not ray.is_initialized()
        if mine:
            start(ray)
        try:
            yield from self.run(ray, worker, units, judge)
        finally:
            if mine:
                ray.shutdown()

    def run(self, ray: Any, worker: BuildWorker, units: list[Unit], judge: Judge) -> Iterator[ShardEntry]:
        """The units on the cluster that is connected."""
        found = ray.cluster_resources()
        actors = checked_actors(self.actors, found.get("CPU", 0), found.get("GPU", 0), len(units))
        rows = [{"unit": json.dumps(asdict(unit))} for unit in units]
        done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            BuildActor,
            fn_constructor_args=(worker.job,),
            batch_size=1,
            num_cpus=1,
            num_gpus=1 if found.get("GPU", 0) else 0,
            compute=ray.data.ActorPoolStrategy(size=actors),
            runtime_env={"env_vars": passed_environment()},
        )
        failed = Counter[str]()
        for row in done.iter_rows():
            if row["bad"]:
                failed[row["bad"]] += 1
                continue
            for fields in json.loads(row["entries"]):
                entry = ShardEntry.model_validate(fields)
                yield entry
                judge(entry.set, entry.last - entry.first, Counter(entry.rejected))
        if failed:
            reasons = "; ".join(f"{count} times: {reason}" for reason, count in failed.most_common(5))
            raise InputError(f"{failed.total()} of {len(units)} parts of the build failed ({reasons}); fix that and run it again")


class BuildActor:
    """The worker in an actor. An error becomes a row with its reason, so that one part does not end the whole job."""

    def __init__(self, job: BuildJob) -> None:
        self.worker = BuildWorker(job)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Write the shards of units; returns the entries of each, or why it failed."""
        entries, bad = [], []
        for unit in batch["unit"]:
            try:
                made = [one.model_dump() for one in self.worker.write(Unit(**json.loads(str(unit))))]
                entries.append(json.dumps(made))
                bad.append("")
            except Exception as error:  # whatever it is, it is said
                entries.append("[]")
                bad.append(f"{type(error).__name__}: {error}")
        return {"entries": entries, "bad": bad}


def imported() -> Any:
    """Ray. Raises InputError where it is not installed."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InputError("engine 'ray' needs ray; install it with: pip install 'mmada[ray]', or use --engine local") from error
    return ray


def start(ray: Any) -> None:
    """Connect to the cluster of RAY_ADDRESS, or start Ray here."""
    options: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": "ERROR",
        "runtime_env": {"env_vars": passed_environment()},
    }
    if not os.environ.get("RAY_ADDRESS"):
        options |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE}
    ray.init(**options)


def checked_actors(asked: int, cpus: float, gpus: float, units: int) -> int:
    """The number of actors. Raises InputError for one that would leave no CPU to the tasks that feed them: Ray would wait for it
    without end and without a message."""
    room = int(cpus) - 1
    actors = asked or int(gpus) or room
    if actors > room or room < 1:
        most = f"give --actors {room} or fewer" if room >= 1 else "use --engine local"
        raise InputError(f"{max(1, actors)} actors would take all of {cpus:g} CPUs, and one must be left for reading; {most}")
    if gpus and actors > gpus:
        raise InputError(f"{actors} actors need a GPU each, and there are {gpus:g}; give --actors {int(gpus)} or fewer")
    return min(actors, units)


def passed_environment() -> dict[str, str]:
    """Environment variables that actors get; one thread each where nothing else is said."""
    given = {name: value for name, value in os.environ.items() if name.startswith(PASSED)}
    if path := given.get("PYTHONPATH"):
        given["PYTHONPATH"] = os.pathsep.join(os.path.abspath(one) for one in path.split(os.pathsep) if one)
    return {"OMP_NUM_THREADS": "1", **given}
