"""Reading of weight files: headers are checked first, then tensors are read one by one to their device and dtype.

A folder holds one ``model.safetensors``, or shards and ``model.safetensors.index.json``, or the same as ``pytorch_model.bin``,
which is only opened with the weights-only loader of torch. At most `CHUNK` bytes are in memory twice.
"""

from __future__ import annotations

import json
import math
import mmap
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from mmada.errors import InputError, quote, system_reason
from mmada.io.documents import check_not_pointer, read_fields

__all__ = [
    "FLOATS",
    "StoredTensor",
    "WeightFile",
    "check_fit",
    "find_weights",
    "load_into",
    "read_state",
    "share_weights",
    "stored_tensor",
]

CHUNK = 4 * 2**20
"""Bytes per read."""
MAX_HEADER = 100 * 2**20
"""Largest header of a safetensors file, the limit of the format's own library."""
FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
INTEGERS = {"I8": torch.int8, "U8": torch.uint8, "I32": torch.int32}
"""Types of quantised weights."""
_BIN_FLOATS = {dtype: name for name, dtype in FLOATS.items()}
Names = Callable[[str], str]


@dataclass(frozen=True)
class StoredTensor:
    """A stored tensor: its shape, its dtype in safetensors' notation, and the offset of its bytes in the file."""

    shape: tuple[int, ...]
    dtype: str
    start: int = 0


@dataclass(frozen=True)
class WeightFile:
    """One weight file and the tensors that its header lists."""

    path: Path
    tensors: Mapping[str, StoredTensor]


def share_weights(folder: Path) -> None:
    """Give the weights of a folder the permissions of its config.json; safetensors writes files readable by the owner only."""
    for config in folder.glob("*config.json"):
        for file in folder.glob("*.safetensors"):
            shutil.copymode(config, file)


def find_weights(folder: Path, stems: tuple[str, ...] = ("model", "pytorch_model")) -> list[WeightFile]:
    """Find the weight files of a folder, safetensors before pickles, and read and check their headers.

    Raises InputError for a folder without weights, an index that does not match its files, or a truncated or damaged file.
    """
    for suffix, header in ((".safetensors", _safetensors_header), (".bin", _bin_header)):
        for stem in stems:
            index = folder / f"{stem}{suffix}.index.json"
            if index.is_file():
                return _sharded(index, header)
            if (path := folder / f"{stem}{suffix}").is_file():
                return [WeightFile(path, header(path))]
    tried = ", ".join(f"{stem}{suffix}" for suffix in (".safetensors", ".bin") for stem in stems)
    raise InputError(f"model folder {quote(folder)} has no weights; put {tried} or shards with their index there")


def check_fit(
    files: list[WeightFile], expected: Mapping[str, Tensor], folder: Path, names: Names = str, back: Names = str
) -> None:
    """Raise InputError unless the files hold exactly the tensors ``expected``, in their shapes, and as floating-point numbers or
    in the integer types of these.

    ``names`` turns a stored name into an expected one, ``back`` an expected one into the released one.
    """
    stored_names = [name for file in files for name in file.tensors]
    found = {names(name): (name, spec) for file in files for name, spec in file.tensors.items()}
    back = back if any(names(name) != name for name in stored_names) else str
    problems: list[str] = []
    for kind, bad in (
        ("missing", [back(name) for name in expected if name not in found]),
        ("unknown", [stored for name, (stored, _) in found.items() if name not in expected]),
        ("stored twice", [name for name in stored_names if found[names(name)][0] != name]),
    ):
        if bad:
            problems.append(f"{len(bad)} {kind} (such as {min(bad)})")
    known = [(stored, spec, expected[name]) for name, (stored, spec) in found.items() if name in expected]
    shapes = [f"{n} is {list(s.shape)} where {list(e.shape)} is expected" for n, s, e in known if s.shape != tuple(e.shape)]
    if shapes:
        problems.append(f"{len(shapes)} of another shape ({min(shapes)})")
    wanted = [(n, s, [k for k, v in INTEGERS.items() if v == e.dtype] or list(FLOATS)) for n, s, e in known]
    types = [f"{n} is {s.dtype} where {', '.join(w)} is expected" for n, s, w in wanted if s.dtype not in w]
    if types:
        problems.append(f"{len(types)} of another dtype ({min(types)})")
    if problems:
        raise InputError(
            f"weights in {folder} do not fit their config.json: {'; '.join(problems)}; put the files of one model together"
        )


def load_into(
    module: nn.Module, files: list[WeightFile], *, device: torch.device, dtype: torch.dtype | None, names: Names = str
) -> None:
    """Fill a module that was built on the meta device with the tensors of ``files``, parameters and buffers.

    Each is allocated once on ``device`` in ``dtype`` (None: its stored one) and filled chunk by chunk. A module with a method
    ``take`` gets its tensors by that, as they are stored and mapped from the file; it copies what it keeps. Raises InputError for
    numbers that are not finite.
    """
    taking: dict[str, Any] = {name: part for name, part in module.named_modules() if hasattr(part, "take")}

    def is_mapped(stored: str) -> bool:
        return names(stored).rpartition(".")[0] in taking

    for file in files:
        for stored, tensor in _tensors(file, device, dtype, is_mapped):
            owner, _, leaf = names(stored).rpartition(".")
            part = module.get_submodule(owner)
            if owner in taking:
                taking[owner].take(leaf, tensor)
                if leaf in ("weight", "scale"):  # the scales show what is not finite in the weights
                    _check_finite(taking[owner].scale, torch.float32, stored, file.path)
            elif leaf in part._parameters:
                part._parameters[leaf] = nn.Parameter(tensor, requires_grad=tensor.is_floating_point())
            else:
                part._buffers[leaf] = tensor


def stored_tensor(file: WeightFile, name: str) -> Tensor | None:
    """Read one small tensor of a file in its stored dtype; None if the file lacks it."""
    if name not in file.tensors:
        return None
    if file.path.suffix == ".bin":
        return _read_bin(file.path)[name]
    from safetensors import safe_open

    with safe_open(file.path, framework="pt") as opened:
        return cast(Tensor, opened.get_tensor(name))


def _sharded(index: Path, header: Callable[[Path], dict[str, StoredTensor]]) -> list[WeightFile]:
    """The shards that an index lists, checked against it."""
    weight_map = read_fields(index, "index").get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) and v and Path(v).name == v for v in weight_map.values()):
        raise InputError(f"index {quote(index)} is damaged (its weight_map must map tensor names to file names); get it again")
    files = []
    for name in sorted(set(weight_map.values())):
        path = index.parent / name
        if not path.is_file():
            raise InputError(f"shard {path} is missing, and {index.name} lists it; get it again")
        files.append(WeightFile(path, header(path)))
    stored = {tensor: file.path.name for file in files for tensor in file.tensors}
    for tensor in sorted(stored.keys() | weight_map.keys()):
        listed, found = weight_map.get(tensor), stored.get(tensor)
        if listed != found:
            problem = f"lacks {tensor}" if listed is None else f"has {tensor} in {listed}"
            problem += ", but no shard has it" if found is None else f", but {found} has it"
            raise InputError(f"index {index} {problem}; get index and shards of one model")
    return files


def _safetensors_header(path: Path) -> dict[str, StoredTensor]:
    """Names, shapes, dtypes and offsets in a safetensors file, which the library has checked."""
    from safetensors import SafetensorError, safe_open

    check_not_pointer(path, "weights")
    try:
        with safe_open(path, framework="pt") as opened:
            checked = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118 - no mapping
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > MAX_HEADER:
                raise ValueError(f"a header of {length} bytes")
            fields: dict[str, Any] = json.loads(file.read(length))
    except OSError as error:
        raise InputError(f"weights {quote(path)} cannot be read ({system_reason(error)}); get the file again") from error
    except (SafetensorError, ValueError, RecursionError) as error:
        raise InputError(f"weights {quote(path)} are damaged ({error}); get the file again") from error
    return {n: StoredTensor(shape, fields[n]["dtype"], 8 + length + fields[n]["data_offsets"][0]) for n, shape in checked.items()}


def _bin_header(path: Path) -> dict[str, StoredTensor]:
    """Names, shapes and dtypes in a file of torch's, by its weights-only loader: no code of the file is run."""
    state = _read_bin(path)
    return {name: StoredTensor(tuple(t.shape), _BIN_FLOATS.get(t.dtype, str(t.dtype))) for name, t in state.items()}


def _read_bin(path: Path) -> dict[str, Tensor]:
    """The state dict of a file of torch's."""
    check_not_pointer(path, "weights")
    try:
        with warnings.catch_warnings():  # warnings about the pickle protocol
            warnings.simplefilter("ignore", UserWarning)
            try:
                state: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError:  # the old format cannot be memory-mapped
                state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch each fail in their own ways
        raise InputError(
            f"weights {quote(path)} hold pickled code or are damaged, and were not run; get them as safetensors"
        ) from error
    for wrapping in ("model", "state_dict"):
        state = state.get(wrapping, state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise InputError(f"weights {quote(path)} are not a state dict; get them as safetensors")
    return state


def read_state(path: Path) -> dict[str, Tensor]:
    """Read all tensors of one safetensors or torch file, of any dtype. Raises InputError; no code of the file is run."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.suffix != ".safetensors":
        return _read_bin(path)
    check_not_pointer(path, "weights")
    try:
        return load_file(path)
    except OSError as error:
        raise InputError(f"weights {quote(path)} cannot be read ({system_reason(error)}); get the file again") from error
    except (SafetensorError, ValueError, RecursionError) as error:
        raise InputError(f"weights {quote(path)} are damaged ({error}); get the file again") from error


def _check_finite(part: Tensor, dtype: torch.dtype, name: str, path: Path) -> None:
    """Raise InputError if a part of a tensor has numbers that are not finite in ``dtype``; integers are."""
    if not dtype.is_floating_point:
        return
    low, high = (float(value) for value in part.aminmax()) if part.numel() else (0.0, 0.0)
    limit = torch.finfo(dtype).max
    if not -limit <= low <= high <= limit:
        kind = str(dtype).removeprefix("torch.")
        raise InputError(f"weights {quote(path)} hold numbers that are not finite in {kind}, in {name}; get the file again")


def _tensors(
    file: WeightFile, device: torch.device, dtype: torch.dtype | None, is_mapped: Callable[[str], bool]
) -> Iterator[tuple[str, Tensor]]:
    """Yield (stored name, tensor on its device) one after another. Those that ``is_mapped`` says are as they are stored,
    unchecked, and for reading only."""
    if file.path.suffix == ".bin":
        for name, value in _read_bin(file.path).items():
            wanted = value.dtype if is_mapped(name) else dtype or value.dtype
            _check_finite(value, wanted, name, file.path)
            yield name, value.to(device, wanted)
        return
    scratch = torch.empty(CHUNK, dtype=torch.uint8)
    with file.path.open("rb") as opened:
        for name, spec in sorted(file.tensors.items(), key=lambda item: item[1].start):
            stored = (FLOATS | INTEGERS)[spec.dtype]
            if is_mapped(name):
                yield name, _mapped(opened.fileno(), spec, stored)
                continue
            target = torch.empty(spec.shape, dtype=dtype or stored, device=device)
            flat = target.view(-1)
            opened.seek(spec.start)
            step = CHUNK // stored.itemsize
            for start in range(0, flat.numel(), step):
                part = flat[start : start + step]
                if part.device.type == "cpu" and stored == part.dtype:
                    read = part
                    opened.readinto(part.view(torch.uint8).numpy().data)
                else:
                    read = scratch[: part.numel() * stored.itemsize].view(stored)
                    opened.readinto(read.view(torch.uint8).numpy().data)
                    part.copy_(read)
                _check_finite(read, target.dtype, name, file.path)
            yield name, target


def _mapped(file: int, spec: StoredTensor, dtype: torch.dtype) -> Tensor:
    """A stored tensor in the pages of its file: nothing is copied, and no memory is taken."""
    first = spec.start // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    count = math.prod(spec.shape)
    pages = mmap.mmap(file, spec.start - first + count * dtype.itemsize, access=mmap.ACCESS_COPY, offset=first)
    return torch.frombuffer(pages, dtype=torch.uint8, offset=spec.start - first).view(dtype).view(spec.shape)
