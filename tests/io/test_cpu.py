"""Features of the CPU, physical cores, threads, and the advice on types."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mmada.io import cpu
from mmada.io.cpu import (
    CpuFeatures,
    advice,
    cpu_features,
    fitting,
    memory_bytes,
    parse_features,
    physical_cores,
    use_physical_cores,
)


def test_features_of_this_machine_agree_with_torch() -> None:
    found = cpu_features()
    assert found.threads == torch.get_num_threads()
    assert 1 <= found.physical_cores <= (os.cpu_count() or 1)
    if hasattr(torch.cpu, "get_capabilities"):
        assert found.amx_bf16 == bool(torch.cpu.get_capabilities().get("amx_bf16"))


def test_features_by_name() -> None:
    assert parse_features({}) == {"amx_int8": False, "amx_bf16": False, "vnni": False, "avx512_bf16": False}
    assert parse_features({"avx_vnni": True})["vnni"]
    assert parse_features({"avx512_vnni": True, "amx_int8": False}) == parse_features({"avx_vnni": True})
    assert CpuFeatures(vnni=True, amx_int8=True).names() == "AMX int8, VNNI"
    assert CpuFeatures().names().startswith("none of")


def test_features_by_the_flags_of_the_kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("model name : x\nflags\t\t: sse avx512_vnni amx_bf16\nflags : none\n")
    monkeypatch.setattr(torch, "cpu", SimpleNamespace())
    for file, vnni in (("cpuinfo", True), ("missing", False)):
        monkeypatch.setattr(cpu, "CPUINFO", tmp_path / file)
        found = cpu._instructions.__wrapped__()
        assert found == {"amx_int8": False, "amx_bf16": vnni, "vnni": vnni, "avx512_bf16": False}


def _machine(folder: Path, monkeypatch: pytest.MonkeyPatch, siblings: list[str], allowed: set[int]) -> None:
    for number, line in enumerate(siblings):
        (folder / f"cpu{number}" / "topology").mkdir(parents=True)
        (folder / f"cpu{number}" / "topology" / "thread_siblings_list").write_text(f"{line}\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: allowed, raising=False)


def test_hyper_threads_count_once_and_affinity_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _machine(tmp_path, monkeypatch, ["0,4", "1,5", "2,6", "3,7"] * 2, set(range(8)))
    assert physical_cores(tmp_path, tmp_path) == 4
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5, 6}, raising=False)
    assert physical_cores(tmp_path, tmp_path) == 2
    assert physical_cores(tmp_path / "missing", tmp_path) == 3


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "200000 100000\n"}, 2), ({"cpu.max": "max 100000\n"}, 8), ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1), ({"cpu.max": "6400000 100000"}, 8), ({"cpu.max": "x"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
    ],
)  # fmt: skip
def test_quota_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert physical_cores(tmp_path, tmp_path) == cores


@pytest.mark.parametrize(
    ("environment", "before", "after"),
    [({}, 8, 4), ({}, 3, 3), ({"OMP_NUM_THREADS": "8"}, 8, 8), ({"MKL_NUM_THREADS": "8"}, 8, 8), ({"OMP_NUM_THREADS": ""}, 8, 4)],
)
def test_threads_are_lowered_unless_they_were_chosen(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], before: int, after: int
) -> None:
    threads = [before]
    monkeypatch.setattr(cpu, "physical_cores", lambda: 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads[-1])
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    assert use_physical_cores(environment) == after
    assert len(threads) == 1 + (before != after)


def test_memory_is_at_most_the_limit(tmp_path: Path) -> None:
    total = memory_bytes(tmp_path)
    assert total is None or total > 2**28
    (tmp_path / "memory.max").write_text("1048576\n")
    assert memory_bytes(tmp_path) == (None if total is None else 1048576)
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_bytes(tmp_path) == total


def test_types_that_fit() -> None:
    assert fitting({"float32": 32.0, "bfloat16": 16.0, "int8": 8.0}, 20.0) == ["bfloat16", "int8"]
    assert fitting({"float32": 32.0}, 20.0) == []


@pytest.mark.parametrize(
    ("features", "said"),
    [
        (CpuFeatures(amx_bf16=True, amx_int8=True, vnni=True), "bfloat16: several times faster than float32; int8"),
        (CpuFeatures(amx_bf16=True), "bfloat16: several times faster than float32"),
        (CpuFeatures(vnni=True, avx512_bf16=True), "bfloat16: several times faster than float32; int8"),
        (CpuFeatures(vnni=True), "int8: several times faster"), (CpuFeatures(), "float32: exact"),
    ],
)  # fmt: skip
def test_advice_on_types(features: CpuFeatures, said: str) -> None:
    assert advice(features).startswith(said)
