"""llama.cpp as a peer: our weights as GGUF files, and LLaDA's greedy decoding around its forward pass.

Everything goes through two Python packages in a folder of the user's: ``llama_cpp`` (llama-cpp-python, with its shared library)
and ``gguf``. llama.cpp's own diffusion program has no greedy low-confidence decoding (at temperature 0 it draws, at top-k 1 all
confidences are 1), so the loop is ours: `llama_encode` over the whole row, which gives logits of all positions, and then argmax
and softmax of the rows that are candidates alone, which costs llama.cpp less than LLaDA's own loop would.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from mmada.errors import InputError, check_is_folder, quote

TYPES = {"float32": "f32", "bfloat16": "bf16", "int8": "q8_0", "int4": "q4_0"}
"""Our types and the nearest of llama.cpp."""
FILE_TYPES = {"f32": 0, "bf16": 32, "q8_0": 7, "q4_0": 2}
"""llama.cpp's numbers (``LLAMA_FTYPE``)."""
NAMES = {"wte": "token_embd", "ln_f": "output_norm", "ff_out": "output"}
BLOCK_NAMES = {"attn_norm": "attn_norm", "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "attn_out": "attn_output",
               "ff_norm": "ffn_norm", "ff_proj": "ffn_gate", "up_proj": "ffn_up", "ff_out": "ffn_down"}  # fmt: skip
INSTALL = "pip install --target FOLDER llama-cpp-python gguf"


def check_path(path: str) -> Path:
    """The folder of the two packages. Raises InputError where one of them is missing."""
    folder = check_is_folder("llama", path)
    for package in ("llama_cpp", "gguf"):
        if not (folder / package / "__init__.py").is_file():
            raise InputError(f"llama {quote(folder)} lacks the package {package}; make such a folder with: {INSTALL}")
    return folder


def imported(path: str, package: str) -> Any:
    """A package of that folder; all others are taken from it only where this Python has none."""
    if path not in sys.path:
        sys.path.append(path)
    spec = importlib.util.find_spec(package)
    if spec is None or not str(spec.origin).startswith(path):
        raise InputError(f"package {package} is installed beside this Python as well; uninstall it to use that of {quote(path)}")
    try:
        return importlib.import_module(package)
    except (ImportError, OSError, RuntimeError) as error:  # also a shared library that does not load
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"package {package} of {quote(path)} cannot be imported ({reason}); install it again") from error


def gguf_name(released: str) -> str:
    """llama.cpp's name of a tensor of the released layout."""
    parts = released.split(".")
    if parts[2] == "blocks":
        return f"blk.{parts[3]}.{BLOCK_NAMES[parts[4]]}.weight"
    return f"{NAMES[parts[2]]}.weight"


def interleaved(weight_NK: Tensor, heads: int) -> Tensor:
    """Rows of a query or key matrix in the order of llama.cpp's rotary embedding: the two halves of a head in turns."""
    rows, inputs = weight_NK.shape
    return weight_NK.view(heads, 2, rows // heads // 2, inputs).transpose(1, 2).reshape(rows, inputs)


def write_gguf(path: str, folder: Path, out: Path, kind: str) -> None:
    """Write the weights of a model folder as "f32" or "bf16", a tensor at a time; norms are float32 in every file."""
    gguf = imported(path, "gguf")
    fields = json.loads((folder / "config.json").read_text())
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    raw = {"f32": gguf.GGMLQuantizationType.F32, "bf16": gguf.GGMLQuantizationType.BF16}[kind]
    writer = gguf.GGUFWriter(out, "llada")
    writer.add_context_length(fields["max_sequence_length"])
    writer.add_embedding_length(fields["d_model"])
    writer.add_block_count(fields["n_layers"])
    writer.add_feed_forward_length(fields["mlp_hidden_size"])
    writer.add_head_count(fields["n_heads"])
    writer.add_head_count_kv(fields["n_kv_heads"])
    writer.add_rope_dimension_count(fields["d_model"] // fields["n_heads"])
    writer.add_rope_freq_base(fields["rope_theta"])
    writer.add_layer_norm_rms_eps(fields["rms_norm_eps"])
    writer.add_vocab_size(fields["embedding_size"])
    writer.add_causal_attention(False)
    writer.add_file_type(FILE_TYPES[kind])
    writer.add_tokenizer_model("none")
    shards = {file: safe_open(folder / file, framework="pt") for file in set(index.values())}
    for name, file in index.items():
        shape = shards[file].get_slice(name).get_shape()
        wide = len(shape) == 1 or kind == "f32"
        size = int(np.prod(shape)) * (4 if wide else 2)
        dtype = np.dtype(np.float32 if wide else np.uint16)
        writer.add_tensor_info(gguf_name(name), shape, dtype, size, gguf.GGMLQuantizationType.F32 if wide else raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, file in index.items():
        value = shards[file].get_tensor(name)
        if ".q_proj." in name or ".k_proj." in name:
            value = interleaved(value, fields["n_kv_heads" if ".k_proj." in name else "n_heads"])
        wide = value.ndim == 1 or kind == "f32"
        writer.write_tensor_data(value.float().numpy() if wide else value.bfloat16().view(torch.uint16).numpy())
    writer.close()


def quantize_gguf(path: str, source: Path, out: Path, kind: str, threads: int) -> None:
    """Quantise a file by llama.cpp: every matrix to the one type, the embedding and the head too."""
    llama = imported(path, "llama_cpp")
    llama.llama_backend_init()
    settings = llama.llama_model_quantize_default_params()
    settings.ftype, settings.nthread, settings.pure = FILE_TYPES[kind], threads, True
    if llama.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(settings)):
        raise InputError(f"llama.cpp cannot write {quote(out)} as {kind}; see its messages above")


class LlamaModel:
    """A GGUF file in llama.cpp, for one row of ``width`` tokens."""

    def __init__(self, path: str, file: str, width: int, threads: int, mask_id: int) -> None:
        self.llama = llama = imported(path, "llama_cpp")
        self.mask_id = mask_id
        llama.llama_backend_init()
        model = llama.llama_model_load_from_file(file.encode(), llama.llama_model_default_params())
        if not model:
            raise InputError(f"llama.cpp cannot load {quote(file)}; see its messages above")
        self.vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
        settings = llama.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = width
        settings.n_threads = settings.n_threads_batch = threads
        if file.endswith("-f32.gguf"):
            settings.flash_attn_type = 0  # theirs rounds keys and values to 16 bits, which other types may do
        self.context = llama.llama_init_from_model(model, settings)
        if not self.context:
            raise InputError(f"llama.cpp cannot run {quote(file)}; see its messages above")
        llama.llama_set_causal_attn(self.context, False)
        self.batch = llama.llama_batch_init(width, 0, 1)

    def logits(self, tokens_L: list[int]) -> Tensor:
        """Logits (L, V) of a row, float32, in llama.cpp's own memory: valid until the next call."""
        batch = self.batch
        batch.n_tokens = len(tokens_L)
        for position, token in enumerate(tokens_L):
            batch.token[position], batch.pos[position] = token, position
            batch.n_seq_id[position], batch.logits[position] = 1, True
            batch.seq_id[position][0] = 0
        if status := self.llama.llama_encode(self.context, batch):
            raise RuntimeError(f"llama_encode gave {status}")
        pointer = self.llama.llama_get_logits(self.context)
        return torch.from_numpy(np.ctypeslib.as_array(pointer, shape=(len(tokens_L), self.vocabulary)))

    def decode(self, prompt: list[int], length: int, steps: int, block: int) -> tuple[list[int], int]:
        """New tokens and passes: low-confidence remasking, block after block, as `benchmarks.plain.plain_text` has it."""
        row = prompt + [self.mask_id] * length
        per_block = steps // (length // block)
        for start in range(len(prompt), len(row), block):
            for step in range(per_block):
                logits_LV = self.logits(row)
                found = []
                for position in range(start, start + block):
                    if row[position] == self.mask_id:
                        best = int(logits_LV[position].argmax())
                        rest = float((logits_LV[position] - logits_LV[position, best]).exp_().sum())  # 1 / confidence
                        found.append((rest, position, best))
                count = block // per_block + (step < block % per_block)
                for _, position, best in sorted(found)[:count]:
                    row[position] = best
        return row[len(prompt) :], steps
