"""Random checkpoints in the released layout, the same bytes for the same seed on every machine.

Every tensor is drawn from numpy's PCG64 in the order of the sorted released names: normal, over the square root of its inputs.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from mmada.model.mmada import MMaDAConfig
from mmada.model.released_names import released_fields, to_released
from mmada.model.trainable import empty_model
from mmada.tokenizers.image import ImageTokenizer
from mmada.tokenizers.magvit import RELEASED_IMAGE
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

ROWS, LLADA_ROWS, TEXT = 134_656, 126_464, 126_349
SPECIAL = {"<|startoftext|>": 126080, "<|endoftext|>": 126081, "[CLS]": 126082, "[gMASK]": 126083, "<|mdm_mask|>": 126336,
           "<|start_header_id|>": 126346, "<|end_header_id|>": 126347, "<|eot_id|>": 126348}  # fmt: skip
WORDS = ("<unk>", "\n", "a", "red", "circle", "what", "is", "this", "?", "user", "assistant", "system", "draw", "<think>",
         "</think>")  # fmt: skip
Shapes = dict[str, tuple[int, ...]]


def drawn(shapes: Shapes, seed: int) -> dict[str, np.ndarray]:
    """Weights at 1.3 / sqrt(inputs), norms near 1, biases near 0, embeddings at 1."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name in sorted(shapes):
        values = rng.standard_normal(shapes[name], dtype=np.float32)
        if name.endswith("bias"):
            values *= 0.02
        elif values.ndim == 1:
            values = 1 + 0.1 * values
        elif "wte" not in name:
            values *= 1.3 / np.sqrt(np.prod(values.shape[1:]))
        weights[name] = np.ascontiguousarray(values, dtype=np.float32)
    return weights


def write_transformer(
    folder: Path, seed: int, *, width: int = 32, heads: int = 2, layers: int = 2, mlp: int = 48, llada: bool = False
) -> None:
    """config.json with the released names alone, two shards with their index, and a word-level tokenizer.

    ``llada``: as LLaDA's, which has no rows for codes.
    """
    rows = LLADA_ROWS if llada else ROWS
    released: dict[str, Any] = {
        "d_model": width, "n_heads": heads, "n_kv_heads": heads, "n_layers": layers, "mlp_hidden_size": mlp, "vocab_size": rows,
        "max_sequence_length": 4096, "rope_theta": 500000.0, "rms_norm_eps": 1e-5, "eos_token_id": 126081, "pad_token_id": 126081,
    }  # fmt: skip
    config = MMaDAConfig(**released)
    shapes = {to_released(name): tuple(value.shape) for name, value in empty_model(config).state_dict().items()}
    weights = drawn(shapes, seed)
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(weights)
    index: dict[str, str] = {}
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    kind = {"model_type": "llada"} if llada else {"model_type": "mmada", "num_vq_tokens": 1024}
    fields = released_fields(config) | kind | {"mask_token_id": 126336,
                                        "eos_token_id": 126081, "pad_token_id": 126081, "torch_dtype": "float32"}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(fields))
    write_tokenizer(folder)


def write_tokenizer(folder: Path) -> None:
    """126,349 words, LLaDA's special tokens at their ids among them."""
    vocabulary, words = dict(SPECIAL), iter(WORDS)
    for number in range(TEXT):
        if number not in SPECIAL.values():
            vocabulary[next(words, f"w{number}")] = number
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n|[^\s]+"), behavior="removed", invert=True)
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(str(folder / "tokenizer.json"))
    fields = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>",
              "pad_token": "<|endoftext|>", "mask_token": "<|mdm_mask|>", "clean_up_tokenization_spaces": False}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(fields))


def write_magvit(folder: Path, seed: int) -> None:
    """MAGVIT-v2 at full size, with the quantiser's two buffers as the released file has them."""
    with torch.device("meta"):
        state = ImageTokenizer(RELEASED_IMAGE).state_dict()
    weights = drawn({name: tuple(value.shape) for name, value in state.items() if not name.startswith("quantize.")}, seed)
    bits = 2 ** np.arange(12, -1, -1, dtype=np.int64)
    weights["quantize.power_vals"] = bits
    weights["quantize.embedding"] = (2.0 * ((np.arange(8192)[:, None] & bits) > 0) - 1).astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"_class_name": "MAGVITv2"}))
