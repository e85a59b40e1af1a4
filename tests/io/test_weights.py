"""Weights of the released layout: read whole, in any form and type, without twice the memory; damage is named, nothing is run."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.parity import checkpoint
from torch import Tensor
from transformers import AutoModelForMaskedLM

from mmada.errors import InputError
from mmada.model.loading import cast_weights, widest_type
from mmada.model.mmada import MMaDAConfig
from mmada.model.quantize import memory
from mmada.model.released_names import TENSOR_NAMES, to_ours, to_released
from mmada.model.trainable import empty_model, read_model

CPU = torch.device("cpu")
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("original")
    checkpoint.write_transformer(path, 5, width=8, heads=2, layers=3, mlp=12)
    return path


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy to spoil; the big shard is a link."""
    path = tmp_path / "model"
    path.mkdir()
    for file in original.iterdir():
        os.link(file, path / file.name) if file.name == SECOND else shutil.copy(file, path / file.name)
    return path


def state(folder: Path) -> dict[str, Tensor]:
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


def test_names_go_both_ways() -> None:
    released = [name.replace("#", "17") + ".weight" for name in TENSOR_NAMES]
    assert [to_released(to_ours(name)) for name in released] == released
    assert to_ours("model.transformer.blocks.17.ff_out.weight") == "model.layers.17.mlp.down_proj.weight"
    assert to_ours("something.else") == "something.else"


EIGHT_B: dict[str, Any] = {
    "d_model": 4096, "n_heads": 32, "n_kv_heads": 32, "n_layers": 32, "mlp_hidden_size": 12288, "vocab_size": 134656,
    "rope_theta": 500000.0,
}  # fmt: skip


def test_the_8b_shape_has_the_released_size() -> None:
    config = MMaDAConfig(**EIGHT_B)
    tensors = empty_model(config).state_dict()
    assert len(tensors) == 291
    assert sum(tensor.numel() for tensor in tensors.values()) == 8_082_690_048


def test_what_is_saved_is_what_was_read(original: Path, tmp_path: Path) -> None:
    read_model(original, device=CPU).save_pretrained(tmp_path, max_shard_size="5MB")
    before, after = state(original), state(tmp_path)
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    fields, written = (json.loads((path / "config.json").read_text()) for path in (original, tmp_path))
    assert {name: written.get(name) for name in fields} == fields


def test_transformers_reads_the_same(original: Path) -> None:
    ours, theirs = read_model(original, device=CPU), AutoModelForMaskedLM.from_pretrained(original)
    tokens = torch.tensor([[5, 126336, 7, 130000]])
    with torch.no_grad():
        assert torch.equal(ours(tokens).logits, theirs(tokens).logits)


def test_every_form_and_type_reads_the_same(original: Path, tmp_path: Path) -> None:
    expected = read_model(original, device=CPU).state_dict()
    shutil.copy(original / "config.json", tmp_path)
    torch.save(state(original), tmp_path / "pytorch_model.bin")
    pickled = read_model(tmp_path, device=CPU).state_dict()
    assert all(torch.equal(value, pickled[name]) for name, value in expected.items())
    save_file({n: v.bfloat16() for n, v in state(original).items()}, tmp_path / "model.safetensors")
    for dtype in (None, torch.float32, torch.float16):
        small = read_model(tmp_path, device=CPU, dtype=dtype).state_dict()
        kind = dtype or torch.bfloat16
        assert all(torch.equal(value.bfloat16().to(kind), small[name]) for name, value in expected.items())


def test_each_tensor_keeps_its_type_unless_one_is_given(folder: Path) -> None:
    save_file({name: value.bfloat16() for name, value in load_file(folder / FIRST).items()}, folder / FIRST)
    stored = {to_ours(name): value for name, value in state(folder).items()}
    model = read_model(folder, device=CPU)
    assert {name: value.dtype for name, value in model.state_dict().items()} == {n: v.dtype for n, v in stored.items()}
    assert all(torch.equal(value, stored[name]) for name, value in model.state_dict().items())
    assert widest_type(model) == torch.float32
    positions = model.model.rotary_emb.inv_freq
    cast_weights(model, torch.bfloat16)
    assert widest_type(model) == torch.bfloat16
    assert positions.dtype == torch.float32


@pytest.mark.parametrize("wrapping", ["model", "state_dict"])
def test_a_wrapped_or_newer_pickle_is_read_without_a_warning(original: Path, tmp_path: Path, wrapping: str) -> None:
    shutil.copy(original / "config.json", tmp_path)
    torch.save({wrapping: state(original)}, tmp_path / "pytorch_model.bin", pickle_protocol=3)
    assert torch.equal(read_model(tmp_path, device=CPU).model.norm.weight, read_model(original, device=CPU).model.norm.weight)


def test_a_pickle_of_something_else_is_named(original: Path, tmp_path: Path) -> None:
    shutil.copy(original / "config.json", tmp_path)
    for other in ([1, 2], {1: torch.zeros(2)}):
        torch.save(other, tmp_path / "pytorch_model.bin")
        with pytest.raises(InputError, match="not a state dict"):
            read_model(tmp_path, device=CPU)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"n_heads": -2}, "n_heads of config.json must be a whole number of 1 to"),
        ({"n_heads": 3}, "d_model 8 of config.json is not a multiple of twice its n_heads 3"),
        ({"n_heads": 8}, "twice its n_heads 8"),  # one column a head: none to rotate with
        ({"n_kv_heads": 0}, "n_kv_heads"),
        ({"n_kv_heads": 4}, "n_heads 2 of config.json is not a multiple of its n_kv_heads 4"),
        ({"d_model": 10**15}, "d_model"),
        ({"d_model": None}, "d_model"),
        ({"mlp_hidden_size": -1}, "mlp_hidden_size"),
        ({"mlp_hidden_size": None}, r"\[12, 8\] where \[32, 8\]|\[8, 12\] where \[8, 32\]"),  # four times the width
        ({"n_layers": 3000}, "n_layers of config.json must be a whole number of 1 to 1000, got 3000"),
        ({"max_sequence_length": 0}, "max_sequence_length"),
        ({"embedding_size": -5}, "embedding_size"),
        ({"hidden_size": 16}, "d_model 8 but hidden_size 16"),
        ({"rope_theta": "abc"}, "rope_theta of config.json must be a number of at least 1, got 'abc'"),
        ({"rope_theta": float("nan")}, "rope_theta"),
        ({"rope_theta": 10**400}, "rope_theta"),
        ({"rope_parameters": {"rope_theta": 5.0}}, "rope_theta 500000.0 and another in rope_parameters"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters of config.json is"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"head_dim": 2}, "head_dim"),
        ({"attn_implementation": "nope"}, "attn_implementation of config.json must be one of sdpa, eager"),
        ({"torch_dtype": 5}, "torch_dtype of config.json must be one of"),
        ({"num_vq_tokens": -4}, "num_vq_tokens"),
        ({"model_type": "llama"}, "model_type .* is 'llama'"),
        ({"is_causal": True}, "is_causal of config.json is True; only False"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"multi_query_attention": True}, "multi_query_attention"),
        ({"layer_norm_with_affine": False}, "layer_norm_with_affine"),
        ({"block_group_size": 2}, "block_group_size"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
        ({"activation_type": "gelu"}, "activation_type"),
        ({"alibi": True}, "alibi"),
        ({"attention_layer_norm": True}, "attention_layer_norm"),
        ({"block_type": "sequential"}, "block_type"),
        ({"include_bias": True}, "include_bias"),
        ({"include_qkv_bias": True}, "include_qkv_bias"),
        ({"input_emb_norm": True}, "input_emb_norm"),
        ({"layer_norm_type": "low_precision"}, "layer_norm_type"),
        ({"rope": False}, "rope of config.json"),
        ({"rope_full_precision": False}, "rope_full_precision"),
        ({"scale_logits": True}, "scale_logits"),
        ({"weight_tying": True}, "weight_tying"),
    ],
)
def test_a_config_that_asks_for_another_model_is_refused(folder: Path, fields: dict[str, object], named: str) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    with pytest.raises(InputError, match=named):
        read_model(folder, device=CPU)


def test_what_the_reference_leaves_to_defaults_is_read_so(folder: Path) -> None:
    path = folder / "config.json"
    implied = {"n_kv_heads": None, "embedding_size": None, "multi_query_attention": False, "vocab_size": checkpoint.ROWS}
    path.write_text(json.dumps(json.loads(path.read_text()) | implied))
    read_model(folder, device=CPU)


def test_the_released_fields_are_those_of_the_model() -> None:
    released: dict[str, Any] = {"d_model": 24, "n_heads": 6, "n_kv_heads": 2, "n_layers": 3, "rope_theta": 123.0}
    config = MMaDAConfig(**released, rms_norm_eps=1e-3, dtype="bfloat16")
    assert config.bos_token_id is None  # none is made up
    written = config.to_diff_dict()
    expected = {"d_model": 24, "n_heads": 6, "n_kv_heads": 2, "n_layers": 3, "rope_theta": 123.0, "rms_norm_eps": 1e-3,
                "torch_dtype": "bfloat16", "dtype": "bfloat16"}  # fmt: skip
    assert {name: written[name] for name in expected} == expected
    bare: dict[str, Any] = {"d_model": 24, "n_heads": 6, "mlp_hidden_size": None}
    assert MMaDAConfig(**bare).intermediate_size == 96


def test_the_memory_of_the_8b_shape_is_that_of_the_docs() -> None:
    config = MMaDAConfig(**EIGHT_B)
    gibibytes = {name: round(size / 2**30, 1) for name, size in memory(empty_model(config)).items()}
    assert gibibytes == {"float32": 30.1, "bfloat16": 15.1, "int8": 8.0, "fp8": 8.6, "int4": 5.0}


def spoil_truncated(folder: Path) -> None:
    (folder / FIRST).write_bytes((folder / FIRST).read_bytes()[:-100])


def spoil_header(folder: Path) -> None:
    content = bytearray((folder / FIRST).read_bytes())
    content[content.index(b"attn_norm")] ^= 1
    (folder / FIRST).write_bytes(content)


def spoil_header_length(folder: Path) -> None:
    content = bytearray((folder / FIRST).read_bytes())
    content[5] ^= 255
    (folder / FIRST).write_bytes(content)


def spoil_index_entry(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())
    del index["weight_map"]["model.transformer.blocks.1.q_proj.weight"]
    (folder / INDEX).write_text(json.dumps(index))


def spoil_index_text(folder: Path) -> None:
    (folder / INDEX).write_text("[1, 2")


def spoil_index_path(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["model.transformer.ln_f.weight"] = "../elsewhere.safetensors"
    (folder / INDEX).write_text(json.dumps(index))


def spoil_missing_shard(folder: Path) -> None:
    (folder / SECOND).unlink()


def change_first(folder: Path, name: str, value: Tensor) -> None:
    tensors = load_file(folder / FIRST)
    save_file(tensors | {name: value}, folder / FIRST)


def spoil_type(folder: Path) -> None:
    change_first(folder, "model.transformer.blocks.0.q_proj.weight", torch.zeros(8, 8, dtype=torch.int64))


def spoil_shape(folder: Path) -> None:
    change_first(folder, "model.transformer.blocks.0.q_proj.weight", torch.zeros(8, 4))


def spoil_finite(folder: Path) -> None:
    change_first(folder, "model.transformer.blocks.0.q_proj.weight", torch.full((8, 8), torch.inf))


def spoil_twice(folder: Path) -> None:
    name = "model.layers.0.mlp.gate_proj.weight"
    change_first(folder, name, torch.zeros(12, 8))
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"][name] = FIRST
    (folder / INDEX).write_text(json.dumps(index))


def spoil_one_missing(folder: Path) -> None:
    name = "model.transformer.blocks.0.q_proj.weight"
    tensors = load_file(folder / FIRST)
    del tensors[name]
    save_file(tensors, folder / FIRST)
    index = json.loads((folder / INDEX).read_text())
    del index["weight_map"][name]
    (folder / INDEX).write_text(json.dumps(index))


def spoil_no_weights(folder: Path) -> None:
    for file in folder.glob("model*"):
        file.unlink()


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (spoil_truncated, rf"{FIRST}.? are damaged"),
        (spoil_header, "blocks"),
        (spoil_header_length, rf"{FIRST}.? are damaged"),
        (spoil_index_entry, rf"lacks model\.transformer\.blocks\.1\.q_proj\.weight, but {SECOND} has it"),
        (spoil_index_text, r"index .* is damaged"),
        (spoil_index_path, r"index .* is damaged"),
        (spoil_missing_shard, rf"{SECOND} is missing"),
        (spoil_type, r"q_proj\.weight is I64 where F32, F16, BF16 is expected"),
        (spoil_shape, r"q_proj\.weight is \[8, 4\] where \[8, 8\] is expected"),
        (spoil_finite, r"not finite in float32, in model\.transformer\.blocks\.0\.q_proj\.weight"),
        (spoil_twice, r"1 stored twice \(such as model\.layers\.0\.mlp\.gate_proj\.weight\)"),
        (spoil_one_missing, r"1 missing \(such as model\.transformer\.blocks\.0\.q_proj\.weight\)"),
        (spoil_no_weights, "has no weights"),
    ],
)
def test_damage_is_named(folder: Path, spoil: object, named: str) -> None:
    assert callable(spoil)
    spoil(folder)
    with pytest.raises(InputError, match=named):
        read_model(folder, device=CPU)


class Malice:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch executed",)


def test_a_pickle_with_code_is_not_run(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(original / "config.json", tmp_path)
    for write in (lambda path: torch.save({"a": Malice()}, path), lambda path: path.write_bytes(pickle.dumps(Malice()))):
        write(tmp_path / "pytorch_model.bin")
        with pytest.raises(InputError, match="not run"):
            read_model(tmp_path, device=CPU)
    assert not (tmp_path / "executed").exists()


# Not ru_maxrss: a process inherits that of the one that started it.
PEAK = """
import sys, torch
from pathlib import Path
from mmada.model.trainable import read_model
def kilobytes(field):
    return int(Path('/proc/self/status').read_text().split(field + ':')[1].split()[0])
before = kilobytes('VmRSS')
model = read_model(Path(sys.argv[1]), device=torch.device('cpu'), dtype=getattr(torch, sys.argv[2]))
weights = sum(p.numel() * p.element_size() for p in model.parameters())
print((kilobytes('VmHWM') - before) * 1024 / weights)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large")
    checkpoint.write_transformer(path, 0, width=256, heads=4, layers=2, mlp=512)
    return path


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loading_needs_little_more_than_the_weights(large: Path, dtype: str) -> None:
    done = subprocess.run([sys.executable, "-c", PEAK, str(large), dtype], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1.15, done.stdout
