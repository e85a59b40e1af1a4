"""`transformers` loads a released folder once mmada is imported too, in either order, and importing costs nothing."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.parity import checkpoint

CHECK = """
import sys
assert 'mmada.model.mmada' not in sys.modules, 'the model was imported too early'
import torch
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoTokenizer
folder = sys.argv[1]
assert len(AutoTokenizer.from_pretrained(folder)) == 126349
assert AutoConfig.from_pretrained(folder).hidden_size == 8
for kind in (AutoModel, AutoModelForMaskedLM):
    assert kind.from_pretrained(folder)(torch.tensor([[1, 2, 3]])).logits.shape == (1, 3, 134656)
"""


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("released")
    checkpoint.write_transformer(path, 1, width=8, heads=2, layers=1, mlp=12)
    return path


@pytest.mark.parametrize(
    "imports",
    [
        "import mmada, transformers",
        "from transformers import AutoConfig; import mmada",
        "import mmada; from transformers.models.llama.modeling_llama import LlamaModel",
    ],
)
def test_either_order(released: Path, imports: str) -> None:
    done = subprocess.run([sys.executable, "-c", imports + CHECK, str(released)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
