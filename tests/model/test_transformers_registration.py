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


def test_a_folder_that_does_not_say_its_type_is_told_in_words(tmp_path: Path) -> None:
    """`transformers` goes through all registered types then."""
    (tmp_path / "tokenizer.json").write_text("{}")
    code = "import mmada, sys; from transformers import AutoConfig\nAutoConfig.from_pretrained(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert "AttributeError" not in done.stderr
    mapping = (
        "import mmada; from transformers.models.auto import configuration_auto as auto\n"
        "assert auto.config_class_to_model_type('MMaDAConfig') == 'mmada'\n"
        "assert None not in list(auto.CONFIG_MAPPING._extra_content.values())"
    )
    done = subprocess.run([sys.executable, "-c", mapping], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
