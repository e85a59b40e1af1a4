"""Sources larger than one wants in memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc; ru_maxrss would be that of the parent")
@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_million_rows_are_listed_and_sampled_within_500_mb(tmp_path: Path) -> None:
    with (tmp_path / "a.jsonl").open("w") as file:
        for i in range(1_000_000):
            file.write(json.dumps({"text": f"row {i} " + "word " * 20}) + "\n")
    (tmp_path / "data.yaml").write_text("a: {use: text, files: a.jsonl}\n")
    program = """
import random, sys
from mmada.data import load
mixture = load(sys.argv[1])
dataset, chosen = mixture.split("train")["a"], random.Random(0)
for _ in range(10_000):
    assert dataset[chosen.randrange(len(dataset))].text.startswith("row ")
status = dict(line.split(":") for line in open("/proc/self/status").read().splitlines())
print(len(dataset) + len(mixture.split("validation")["a"]), int(status["VmHWM"].split()[0]) // 1024)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "data.yaml")]
    environment = {"MMADA_CACHE": str(tmp_path / "cache"), "PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    rows, megabytes = map(int, done.stdout.split())
    assert rows == 1_000_000
    assert megabytes < 500
