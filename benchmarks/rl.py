"""Where the time of policy optimisation goes, and what memory it takes: rollouts, rewards, updates.

    python -m benchmarks.rl [--recipe reinforce] [--batches 3] [--set A.B=C ...]

A run of the recipe on the bundled model in a folder that is thrown away. The first batch, which warms up, is not counted. What an
update takes beside its batch is in "update": old policy, reference and gradients.
"""

import argparse
import json
import resource
import tempfile
from pathlib import Path

from mmada import nano
from mmada.cli.train import parse_overrides
from mmada.evaluation.results import machine
from mmada.io.jsonl import read_log
from mmada.recipes.overrides import override
from mmada.recipes.run import run
from mmada.registry import RECIPES


def shares(log: list[dict[str, float]], updates: int) -> dict[str, float]:
    """Seconds a batch, and the share of each part, from the log of a run without its first batch."""
    rows = log[updates:]
    total = sum(row["seconds"] for row in rows)
    rollout, reward = (sum(row.get(f"seconds_{part}", 0.0) for row in rows) for part in ("rollout", "reward"))
    batches = len(rows) / updates
    parts = {"rollout": rollout, "reward": reward, "update": total - rollout - reward}
    return {"seconds a batch": round(total / batches, 2)} | {name: round(spent / total, 3) for name, spent in parts.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="rl", choices=[name for name in RECIPES if name.startswith("rl")])
    parser.add_argument("--batches", type=int, default=3)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--out", default="")
    asked = parser.parse_args()
    settings = parse_overrides(asked.set)
    recipe = override(RECIPES[asked.recipe](), settings)
    updates = recipe.method.build().updates
    steps = str((asked.batches + 1) * updates)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        run(asked.recipe, overrides=settings | {"plan.steps": steps, "plan.sample_every": steps},
            out=out, start_from=Path(nano.__path__[0]) / "assets")  # fmt: skip
        found = shares(read_log(out / "log.jsonl"), updates)
    found["peak MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps(found))
    if asked.out:
        kept = {"recipe": asked.recipe, "settings": settings, "found": found, "machine": machine()}
        Path(asked.out).write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
