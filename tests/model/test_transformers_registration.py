"""`transformers` loads a released folder after one import, in either order, and `import mmada` does no work."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.parity import checkpoint

CHECK = """
import sys
import torch
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoTokenizer
folder = sys.argv[1]
assert len(AutoTokenizer.from_pretrained(folder)) == 126349
assert AutoConfig.from_pretrained(folder).hidden_size == 8
for kind in (AutoModel, AutoModelForMaskedLM):
    assert kind.from_pretrained(folder)(torch.tensor([[1, 2, 3]])).logits.shape == (1, 3, 134656)
"""


def run(code: str, *arguments: str) -> str:
    """The error output of a program, which must succeed."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("released")
    checkpoint.write_transformer(path, 1, width=8, heads=2, layers=1, mlp=12)
    return path


@pytest.mark.parametrize("imports", ["import mmada.transformers, transformers", "import transformers, mmada.transformers"])
def test_either_order(released: Path, imports: str) -> None:
    run(imports + CHECK, str(released))


def test_importing_mmada_changes_nothing_and_imports_little() -> None:
    run(
        "import sys\nfinders, hooks = list(sys.meta_path), list(sys.path_hooks)\nimport mmada\n"
        "assert (finders, hooks) == (sys.meta_path, sys.path_hooks)\n"
        "assert not {'torch', 'transformers', 'numpy', 'PIL'} & set(sys.modules)\n"
        "assert dir(mmada) == sorted(mmada.__all__)\n"
        "import torch, transformers\n"
        "assert 'mmada.model.mmada' not in sys.modules\n"
    )


def test_a_folder_without_a_model_type_raises_a_sentence(tmp_path: Path) -> None:
    """`transformers` goes through all registered types then."""
    (tmp_path / "tokenizer.json").write_text("{}")
    code = "import mmada.transformers, sys; from transformers import AutoConfig\nAutoConfig.from_pretrained(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "AttributeError" not in done.stderr
