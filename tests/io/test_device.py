"""Devices and dtypes by name, and what is refused."""

import pytest
import torch

from mmada.errors import InputError
from mmada.io.device import DTYPES, bf16_is_fast, chosen_device, chosen_dtype


@pytest.mark.parametrize("name", DTYPES)
def test_a_dtype_by_its_names(name: str) -> None:
    assert chosen_dtype(name) == chosen_dtype(f"torch.{name}") == chosen_dtype(getattr(torch, name)) == getattr(torch, name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("bf16", "dtype 'bf16' is unknown"), ("bfloat", "did you mean 'bfloat16'"), ("", "dtype '' is unknown"),
        (torch.int8, "got torch.int8"), (torch.complex64, "got torch.complex64"), (torch.float8_e4m3fn, "got torch.float8"),
        (3, "got 3"), (None, "got None"), (float, "float"), ("x" * 5000, "is unknown"),
    ],
)  # fmt: skip
def test_other_dtypes_are_refused(name: object, said: str) -> None:
    with pytest.raises(InputError, match=said) as refused:
        chosen_dtype(name)
    assert str(refused.value).startswith("dtype ")
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize("name", ["gpu", "", "cuda:99", "meta", "cpu:x", 3.5, None, [], "x" * 5000, "\0"])
def test_devices_that_are_not_there_are_refused(name: object) -> None:
    with pytest.raises(InputError, match=r"^device .*choose auto, cpu, cuda or mps$") as refused:
        chosen_device(name)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 200


def test_the_cpu_is_always_there() -> None:
    assert chosen_device("cpu") == chosen_device(torch.device("cpu")) == torch.device("cpu")
    assert chosen_device().type in ("cpu", "cuda", "mps")
    assert not bf16_is_fast(torch.device("mps"))
