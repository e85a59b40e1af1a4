"""What the CPU of this machine offers: matrix instructions, physical cores, memory; and the number of threads to compute with."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

__all__ = [
    "CpuFeatures",
    "advice",
    "cpu_features",
    "fitting",
    "memory_bytes",
    "parse_features",
    "physical_cores",
    "use_physical_cores",
]

CPUINFO = Path("/proc/cpuinfo")
TOPOLOGY = Path("/sys/devices/system/cpu")
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class CpuFeatures:
    """Instructions for narrow types that both the CPU and torch know; all false where nothing is known (ARM, an old torch on
    another system than Linux).

    ``physical_cores`` are those that this process may use, and ``threads`` those that torch computes with.
    """

    amx_int8: bool = False
    amx_bf16: bool = False
    vnni: bool = False
    avx512_bf16: bool = False
    physical_cores: int = 1
    threads: int = 1

    def names(self) -> str:
        """The instructions in one line."""
        found = {
            "AMX int8": self.amx_int8,
            "AMX bfloat16": self.amx_bf16,
            "VNNI": self.vnni,
            "AVX-512 bfloat16": self.avx512_bf16,
        }
        return ", ".join(name for name, has in found.items() if has) or "none of AMX, VNNI, AVX-512 bfloat16"


def cpu_features() -> CpuFeatures:
    """Features of the CPU under this process. The threads are read anew at each call."""
    import torch

    return CpuFeatures(**_instructions(), physical_cores=physical_cores(), threads=torch.get_num_threads())


@cache
def _instructions() -> dict[str, bool]:
    import torch

    if hasattr(torch.cpu, "get_capabilities"):  # not in torch 2.9
        return parse_features(torch.cpu.get_capabilities())
    try:
        text = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return parse_features({})
    flags = next((line.partition(":")[2].split() for line in text.splitlines() if line.startswith("flags")), [])
    return parse_features(dict.fromkeys(flags, True))


def parse_features(found: Mapping[str, Any]) -> dict[str, bool]:
    """The instruction fields of `CpuFeatures`, of torch's names or of the kernel's flags, which are the same."""
    return {
        "amx_int8": bool(found.get("amx_int8")),
        "amx_bf16": bool(found.get("amx_bf16")),
        "vnni": bool(found.get("avx512_vnni") or found.get("avx_vnni")),
        "avx512_bf16": bool(found.get("avx512_bf16")),
    }


def physical_cores(topology: Path = TOPOLOGY, cgroup: Path = CGROUP) -> int:
    """Physical cores that this process may use: those of its affinity, two hyper-threads as one, and at most the quota of its
    cgroup (rounded up).
    """
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    cores = len({_siblings(topology / f"cpu{number}" / "topology", number) for number in allowed})
    quota = _quota(cgroup)
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


def _siblings(folder: Path, number: int) -> str:
    """The hyper-threads of one logical CPU's core, as the kernel lists them; the CPU alone where that is unknown."""
    return _read(folder / "thread_siblings_list") or str(number)


def _quota(cgroup: Path) -> float | None:
    """The cores that a container's quota amounts to (cgroup 2, then 1); None without one."""
    limit, _, period = _read(cgroup / "cpu.max").partition(" ")
    if not limit:
        limit, period = _read(cgroup / "cpu" / "cpu.cfs_quota_us"), _read(cgroup / "cpu" / "cpu.cfs_period_us")
    try:
        cores = int(limit) / int(period)
    except (ValueError, ZeroDivisionError):  # "max", or no such file
        return None
    return cores if cores > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def use_physical_cores(environment: Mapping[str, str] = os.environ) -> int:
    """Lower torch's threads to the physical cores where its default is more (hyper-threads, a quota); return the threads.

    ``OMP_NUM_THREADS`` and ``MKL_NUM_THREADS`` are respected. For programs that own their process: a library must not undo its
    caller's `torch.set_num_threads`.
    """
    import torch

    if (
        not (environment.get("OMP_NUM_THREADS") or environment.get("MKL_NUM_THREADS"))
        and torch.get_num_threads() > physical_cores()
    ):
        torch.set_num_threads(physical_cores())
    return torch.get_num_threads()


def memory_bytes(cgroup: Path = CGROUP) -> int | None:
    """Memory of this machine, at most the limit of the cgroup; None where the system does not tell."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
    limit = _read(cgroup / "memory.max") or _read(cgroup / "memory" / "memory.limit_in_bytes")
    return min(total, int(limit)) if limit.isdigit() else total


def fitting(needed: Mapping[str, float], available: float) -> list[str]:
    """The types of ``needed`` (type: memory of the weights) that leave a fifth of ``available`` to all else."""
    return [name for name, size in needed.items() if size <= 0.8 * available]


def advice(cpu: CpuFeatures) -> str:
    """Which dtype to take on a CPU, in one line."""
    if cpu.amx_bf16 or cpu.avx512_bf16:
        narrow = cpu.amx_int8 or cpu.vnni
        return "bfloat16: several times faster than float32" + ("; int8: faster, half the memory, less exact" if narrow else "")
    if cpu.vnni or cpu.amx_int8:
        return "int8: several times faster, a quarter of the memory, less exact; float32: exact"
    return "float32: exact, and no narrower type is faster here"
