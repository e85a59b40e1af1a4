"""Every test runs offline, on one thread, with warnings as errors (see pyproject.toml)."""

import os
from pathlib import Path

# Before anything imports torch or the hub: results then do not depend on the machine, and nothing is fetched.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "agg"

import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers import SIZE, tiny_folder

from experiments import register_all
from mmada.pipeline import MMaDA

register_all()

pytest.register_assert_rewrite("tests.toy_policies", "tests.plain_policies")  # what differs is said, as in a test


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete model folder, tiny and random."""
    path = tmp_path_factory.mktemp("model")
    tiny_folder(path)
    return path


@pytest.fixture(scope="session")
def model(folder: Path) -> MMaDA:
    """The tiny model, loaded once."""
    return MMaDA.load(folder, device="cpu")


@pytest.fixture
def scene() -> Image.Image:
    """A picture of noise, of the tiny model's size."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a GPU are skipped where there is none."""
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
