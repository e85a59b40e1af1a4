"""The network for inference: the same sizes, tensors and logits as the model that trains, to the last bit."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mmada.model.loading import read_network, read_sizes
from mmada.model.mmada import MMaDAConfig, MMaDAModel
from mmada.model.sizes import ModelSizes
from mmada.model.trainable import read_config, read_model

CPU = torch.device("cpu")
OURS: dict[str, Any] = {
    "vocab_size": 90, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
}  # fmt: skip
RELEASED: dict[str, Any] = {
    "embedding_size": 90, "d_model": 48, "mlp_hidden_size": None, "mlp_ratio": 3, "n_layers": 3, "n_heads": 6, "n_kv_heads": None,
    "max_sequence_length": 128, "rope_theta": 500000.0, "mask_token_id": 7, "codebook_size": 16,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    torch.manual_seed(3)
    rope = {"rope_type": "default", "rope_theta": 5000.0}
    MMaDAModel(MMaDAConfig(**OURS, rope_parameters=rope)).save_pretrained(path)
    return path


@pytest.mark.parametrize("fields", [OURS, RELEASED, {}, {**OURS, "embedding_size": None, "num_key_value_heads": None}])
def test_sizes_are_those_that_transformers_reads(fields: dict[str, Any]) -> None:
    sizes, config = ModelSizes.of(fields), MMaDAConfig(**fields)
    for name in (*OURS, "head_dim", "quantisation"):
        assert getattr(sizes, name) == getattr(config, name), name
    assert sizes.rope_theta == config.rope_parameters["rope_theta"]


def test_stored_sizes_are_those_that_transformers_reads(folder: Path) -> None:
    sizes, config = read_sizes(folder), read_config(folder)
    assert all(getattr(sizes, name) == getattr(config, name) for name in OURS)
    assert sizes.rope_theta == config.rope_parameters["rope_theta"] == 5000.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_those_of_the_model_that_trains(folder: Path, dtype: torch.dtype) -> None:
    network, model = (read(folder, device=CPU, dtype=dtype) for read in (read_network, read_model))
    assert {n: tuple(t.shape) for n, t in network.state_dict().items()} == {
        n: tuple(t.shape) for n, t in model.state_dict().items()
    }
    tokens_BL = torch.randint(0, 90, (3, 40), generator=torch.Generator().manual_seed(1))
    query_BL = tokens_BL % 3 == 0
    valid_BL = torch.arange(40)[None] >= torch.tensor([[0], [7], [31]])
    asked: dict[str, Any] = {"query_BL": query_BL & valid_BL, "vocab": range(5, 80), "valid_BL": valid_BL}
    assert torch.equal(network.predict(tokens_BL, **asked), model.predict(tokens_BL, **asked))
    assert (network.dtype, network.device) == (model.dtype, model.device) == (dtype, CPU)
