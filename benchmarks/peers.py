"""Decoding beside the peers on one CPU: LLaDA's way, llama.cpp and Fast-dLLM on the same weights, in turn.

    python -m benchmarks.peers [--llama FOLDER] [--fast-dllm CHECKOUT [--fast-dllm-python PYTHON]]
                               [--types float32 bfloat16 int8 int4] [--modes exact block] [--rounds 3] [--threads 2]
                               [--prompt 64 --length 128 --steps 16] [--width 768 --layers 12 --heads 12 --mlp 2304]
                               [--shape 8b --folder FOLDER] [--out peers.json] [--plot peers.png]

Weights are random, of the released layout with all 134,656 rows, stored in bfloat16: every type holds the same numbers. Each job
runs in a process of its own (`peers_worker.py`), all jobs once a round, so ratios are of neighbours in time. LLaDA's way is the
plain sampler of `plain.py`; the exact modes in float32 must give its tokens, and for all others the equal ones are counted.

--llama: a folder made by ``pip install --target FOLDER llama-cpp-python gguf`` (`peers_llama.py`; types f32, bf16, q8_0, q4_0).
--fast-dllm: a checkout of Fast-dLLM, with the Python that has the transformers it wants. **This peer has never been run by us in
this form**: it follows their ``llada/generate.py`` as published, and there was no checkout to try it with.
--shape 8b: 16 GB of weights in --folder, kept for the next run, and up to 25 GB of GGUF files there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import peers_llama
from benchmarks.decoding import prompt
from benchmarks.peers_plot import plot
from benchmarks.peers_worker import Request
from benchmarks.released_8b import write_weights

from mmada.errors import InputError, check_choice, check_is_folder, check_path, check_whole, make_folder, quote
from mmada.evaluation.results import machine, write_results
from mmada.io.cpu import cpu_features, fitting, memory_bytes
from mmada.model.mmada import MMaDAConfig
from mmada.model.quantize import memory
from mmada.model.trainable import empty_model, read_config
from mmada.tokenizers.vocabulary import RELEASED

ROOT = Path(__file__).parents[1]
TYPES = ("float32", "bfloat16", "int8", "int4")
SHAPES = {"small": (768, 12, 12, 2304), "8b": (4096, 32, 32, 12288)}
GAIN = 1.3
"""Matrices at 1.3 / sqrt(inputs): logits that differ clearly, as trained ones do."""
PAIRS = [
    ("mmada float32 exact", "LLaDA float32"),
    ("mmada float32 block", "LLaDA float32"),
    ("mmada bfloat16 exact", "LLaDA bfloat16"),
    ("mmada bfloat16 block", "LLaDA bfloat16"),
    ("mmada int8 exact", "mmada bfloat16 exact"),
    ("mmada int8 block", "mmada bfloat16 block"),
    ("mmada int8 exact", "llama.cpp q8_0"),
    ("mmada int4 exact", "llama.cpp q4_0"),
]
"""(faster, slower), as they are quoted."""


@dataclass(frozen=True)
class Job:
    """One way to decode. ``dtype``: ours, or the type of a GGUF file."""

    peer: str
    dtype: str
    mode: str = "exact"

    @property
    def name(self) -> str:
        """As tables have it."""
        return f"{self.peer} {self.dtype}" + (f" {self.mode}" if self.peer in ("mmada", "Fast-dLLM") else "")

    @property
    def same(self) -> bool:
        """Whether the tokens must be those of LLaDA's way in float32."""
        return self.mode == "exact" and self.dtype in ("float32", "f32")


def jobs(options: argparse.Namespace) -> list[Job]:
    """What is asked for, in the order of a round."""
    floats = [kind for kind in options.types if not kind.startswith("int")]
    found = [Job("LLaDA", kind) for kind in floats]
    if options.fast_dllm:
        found += [Job("Fast-dLLM", kind, mode) for kind in floats for mode in ("exact", "prefix", "block")]
    found += [Job("mmada", kind, mode) for kind in options.types for mode in options.modes]
    if options.llama:
        found += [Job("llama.cpp", kind) for kind in options.llama_types or [peers_llama.TYPES[kind] for kind in options.types]]
    return found


def check(options: argparse.Namespace) -> None:
    """Raise InputError for numbers that do not fit, missing folders, and sizes that this machine has no room for."""
    for name in ("rounds", "threads", "steps", "length", "prompt", "width", "layers", "heads", "mlp"):
        check_whole(name, getattr(options, name), 1)
    for names, field, known in (
        (options.types, "types", TYPES),
        (options.modes, "modes", ("exact", "block")),
        (options.llama_types, "llama-types", tuple(peers_llama.FILE_TYPES)),
    ):
        for name in names:
            check_choice(field, name, known)
    options.block = min(32, options.length)
    if options.length % options.block or options.steps % (options.length // options.block) or options.steps > options.length:
        raise InputError(f"length {options.length} must be whole blocks of {options.block}, and steps {options.steps} a multiple "
                         "of their number, at most the length")  # fmt: skip
    if options.width % (2 * options.heads):
        raise InputError(f"width {options.width} must be a multiple of twice the number of heads, {options.heads}")
    if options.llama:
        options.llama = str(peers_llama.check_path(options.llama).resolve())
    if options.fast_dllm:
        folder = check_is_folder("fast-dllm", options.fast_dllm).resolve()
        if not (folder / "llada" / "generate.py").is_file():
            raise InputError(f"fast-dllm {quote(folder)} lacks llada/generate.py; give a checkout of Fast-dLLM")
        options.fast_dllm = str(folder)
    for name in ("out", "plot"):
        if getattr(options, name) and not check_path(name, getattr(options, name)).absolute().parent.is_dir():
            raise InputError(f"the folder of {name} {quote(getattr(options, name))} does not exist; make it, or choose another")


def config_of(options: argparse.Namespace) -> MMaDAConfig:
    """The sizes of the model."""
    sizes: dict[str, Any] = {"rope_theta": 500000.0}  # a name of the released layout, which the class takes as any keyword
    return MMaDAConfig(
        vocab_size=RELEASED.size, hidden_size=options.width, num_hidden_layers=options.layers, rms_norm_eps=1e-5,
        num_attention_heads=options.heads, num_key_value_heads=options.heads, intermediate_size=options.mlp,
        max_position_embeddings=4096, **sizes,
    )  # fmt: skip


def weight_files(options: argparse.Namespace, config: MMaDAConfig, folder: Path) -> dict[str, Path]:
    """Write what is not there yet: {"": the model folder, type of llama.cpp: its file}. Raises InputError without room."""
    sizes = memory(empty_model(config))
    size = sizes["bfloat16"]
    kinds = [job.dtype for job in jobs(options) if job.peer == "llama.cpp"]
    files = {"": folder} | {kind: folder / f"weights-{kind}.gguf" for kind in kinds}
    source = folder / "weights-bf16.gguf"
    needs: dict[Path, float] = {folder / "config.json": size, source: size * bool({"bf16", "q8_0", "q4_0"} & set(kinds))}
    needs |= {files[kind]: share * size for kind, share in (("f32", 2), ("q8_0", 0.54), ("q4_0", 0.29)) if kind in kinds}
    needed = sum(need for file, need in needs.items() if not file.is_file())
    if needed > 0.95 * (free := shutil.disk_usage(folder).free):
        raise InputError(f"folder {quote(folder)} needs {needed / 1e9:.1f} GB of disk and has {free / 1e9:.1f}; choose another")
    if not (folder / "config.json").is_file():
        write_weights(folder, config, GAIN)
    stored = read_config(folder)
    if any(getattr(stored, name) != getattr(config, name) for name in
           ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")):  # fmt: skip
        raise InputError(f"folder {quote(folder)} holds a model of other sizes; choose another folder")
    for kind in sorted(set(kinds), key=list(peers_llama.FILE_TYPES).index):
        if kind in ("f32", "bf16") and not files[kind].is_file():
            peers_llama.write_gguf(options.llama, folder, files[kind], kind)
        elif not files[kind].is_file():
            if not source.is_file():
                peers_llama.write_gguf(options.llama, folder, source, "bf16")
            peers_llama.quantize_gguf(options.llama, source, files[kind], kind, options.threads)
    return files


def fitting_types(options: argparse.Namespace, config: MMaDAConfig) -> list[str]:
    """The asked types whose weights this machine's memory holds; a sentence for each of the others."""
    sizes = memory(empty_model(config))
    available = memory_bytes()
    kept = options.types if available is None else fitting({kind: sizes[kind] for kind in options.types}, available)
    for kind in options.types:
        if kind not in kept:
            print(f"{kind} is left out: its weights take {sizes[kind] / 1e9:.1f} GB, and this machine has {available / 1e9:.1f}")
    if not kept:
        raise InputError(f"memory of {available / 1e9:.1f} GB is too little for types {', '.join(options.types)}; add 'int4'")
    return list(kept)


def run(job: Job, options: argparse.Namespace, files: Mapping[str, Path]) -> dict[str, Any]:
    """One job in a new process. Raises InputError where it fails, with the last line of what it said."""
    path = {"llama.cpp": options.llama, "Fast-dLLM": options.fast_dllm}.get(job.peer, "")
    weights = files[job.dtype if job.peer == "llama.cpp" else ""]
    request = Request(
        job.peer, job.dtype, job.mode, str(weights.resolve()), path, prompt(options.prompt, 1), options.length, options.steps,
        options.block, options.threads, RELEASED.mask,
    )  # fmt: skip
    python = options.fast_dllm_python if job.peer == "Fast-dLLM" else sys.executable
    command = [python, "-m", "benchmarks.peers_worker", json.dumps(asdict(request))]
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    except OSError as error:
        raise InputError(f"fast-dllm-python {quote(python)} cannot be started; give the path of a Python") from error
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise InputError(f"{job.name} failed with status {done.returncode} and said: {said[:300]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def spread(values: Sequence[float], digits: int = 2) -> dict[str, float]:
    """Median, lowest and highest."""
    found = {"median": statistics.median(values), "low": min(values), "high": max(values)}
    return {name: round(value, digits) for name, value in found.items()}


def row_of(job: Job, runs: list[dict[str, Any]], base: list[dict[str, Any]], expected: list[int]) -> dict[str, Any]:
    """What all rounds of a job say. ``ratio``: LLaDA's seconds over its own, round by round; 2 is twice as fast."""
    last, peaks = runs[-1], [r["peak_bytes"] for r in runs if r["peak_bytes"]]
    loading = [r["peak_loading_bytes"] for r in runs if r["peak_loading_bytes"]]
    return {
        "job": job.name,
        "peer": job.peer,
        "seconds": spread([r["seconds"] for r in runs], 3),
        "ms_per_pass": round(1000 * statistics.median(r["seconds"] / r["passes"] for r in runs), 1),
        "passes": last["passes"],
        "ratio": spread([b["seconds"] / r["seconds"] for b, r in zip(base, runs, strict=True)]),
        "cpu_s": spread([r["cpu_s"] for r in runs], 3),
        "load_s": spread([r["load_s"] for r in runs], 1),
        "peak_mib": round(max(peaks) / 2**20) if peaks else None,
        "peak_loading_mib": round(max(loading) / 2**20) if loading else None,
        "tokens_equal": sum(a == b for a, b in zip(last["tokens"], expected, strict=True)),
        "tokens": len(expected),
        "rounds_s": [round(r["seconds"], 3) for r in runs],
    }


def pairs(found: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Ratios of `PAIRS`, round by round."""
    return [
        {"job": fast, "against": slow}
        | spread([s["seconds"] / f["seconds"] for f, s in zip(found[fast], found[slow], strict=True)])
        for fast, slow in PAIRS
        if fast in found and slow in found
    ]


def cpu_name() -> str:
    """The CPU as Linux calls it."""
    try:
        named = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        named = None
    return named[1] if named else platform.processor() or platform.machine()


def measured(options: argparse.Namespace, files: Mapping[str, Path]) -> dict[str, Any]:
    """All rounds; prints the table as it stands at the end. Raises SystemExit where tokens differ that must not."""
    asked = jobs(options)
    found: dict[str, list[dict[str, Any]]] = {job.name: [] for job in asked}
    for number in range(options.rounds):
        for job in asked:
            found[job.name].append(run(job, options, files))
            seconds = found[job.name][-1]["seconds"]
            print(f"round {number + 1}: {job.name:24} {seconds:8.2f} s", file=sys.stderr, flush=True)
    first = asked[0]
    expected = found[first.name][0]["tokens"]
    rows = [row_of(job, found[job.name], found[first.name], expected) for job in asked]
    print(f"{cpu_name()} ({cpu_features().names()}), {options.threads} threads; ratio and equal tokens: to {first.name}")
    for row in rows:
        s, r = row["seconds"], row["ratio"]
        print(f"{row['job']:24} {s['median']:8.2f} s ({s['low']:.2f} to {s['high']:.2f}) {row['ms_per_pass']:8.1f} ms a pass   "
              f"{r['median']:5.2f} x ({r['low']:.2f} to {r['high']:.2f})   load {row['load_s']['median']:5.1f} s   "
              f"peak {row['peak_mib']} MiB   equal {row['tokens_equal']}/{row['tokens']}")  # fmt: skip
    compared = pairs(found)
    for pair in compared:
        print(f"{pair['job']:24} {pair['median']:5.2f} x ({pair['low']:.2f} to {pair['high']:.2f}) of {pair['against']}")
    differing = [
        row["job"]
        for row, job in zip(rows, asked, strict=True)
        if first.same and job.same and row["tokens_equal"] < row["tokens"]
    ]
    return {"base": first.name, "rows": rows, "pairs": compared, "differing": differing}


def record(options: argparse.Namespace, results: dict[str, Any]) -> dict[str, Any]:
    """What is kept: results, settings without paths, and the machine."""
    names = ("types", "modes", "rounds", "threads", "prompt", "length", "steps", "block", "width", "layers", "heads", "mlp")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    packages = {}
    if options.llama:
        text = (Path(options.llama) / "llama_cpp" / "__init__.py").read_text(encoding="utf-8")
        packages["llama-cpp-python"] = (re.search(r"__version__ = \"(.+)\"", text) or ["", "unknown"])[1]
    cpu = {"cpu": cpu_name(), "features": cpu_features().names(), "commit": commit.stdout.strip(), "peers": packages}
    settings = {name: getattr(options, name) for name in names}
    return results | {"settings": settings, "machine": machine() | {"threads": options.threads} | cpu}


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; sizes that are not given are those of the shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"rounds": 3, "threads": cpu_features().physical_cores, "steps": 16, "length": 128, "prompt": 64}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    for name in ("width", "layers", "heads", "mlp"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--shape", choices=tuple(SHAPES), default="small")
    parser.add_argument("--types", nargs="+", default=list(TYPES))
    parser.add_argument("--modes", nargs="+", default=["exact", "block"])
    parser.add_argument("--llama-types", nargs="+", default=[])
    for name in ("llama", "fast-dllm", "folder", "out", "plot"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--fast-dllm-python", default=sys.executable)
    options = parser.parse_args(arguments)
    for name, value in zip(("width", "layers", "heads", "mlp"), SHAPES[options.shape], strict=True):
        setattr(options, name, value if getattr(options, name) is None else getattr(options, name))
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. Status 2: bad input or no room; 1: tokens differ that must be equal."""
    options = parsed(arguments)
    try:
        check(options)
        config = config_of(options)
        options.types = fitting_types(options, config)
        with tempfile.TemporaryDirectory() as temporary:
            folder = make_folder("folder", options.folder) if options.folder else Path(temporary)
            results = measured(options, weight_files(options, config, folder))
    except InputError as error:
        print(f"peers: {error}", file=sys.stderr)
        return 2
    kept = record(options, results)
    if options.out:
        write_results(Path(options.out), kept)
    if options.plot:
        plot(kept, Path(options.plot))
    if results["differing"]:
        print(f"peers: tokens differ from {results['base']}: {', '.join(results['differing'])}", file=sys.stderr)
    return 1 if results["differing"] else 0


if __name__ == "__main__":
    sys.exit(main())
