"""Facts of the machine beside a model's."""

import pytest

from mmada.io.cpu import CpuFeatures
from mmada.pipeline import info
from mmada.pipeline.info import describe, machine


def test_a_machine_says_what_it_offers_and_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(info, "cpu_features", lambda: CpuFeatures(vnni=True, physical_cores=4, threads=3))
    monkeypatch.setattr(info, "memory_bytes", lambda: 10 * 2**30)
    found = machine({"float32": 32.0, "int8": 8.0, "fp8": 7.0, "int4": 4.0})
    assert (found["cpu"], found["cpu_cores"], found["cpu_threads"], found["cpu_memory"]) == ("VNNI", 4, 3, 10.0)
    assert str(found["cpu_dtype"]).startswith("int8: ")
    assert found["cpu_fits"] == ["int8", "int4"]
    assert "cpu_fits" not in machine()
    monkeypatch.setattr(info, "memory_bytes", lambda: None)
    assert not {"cpu_memory", "cpu_fits"} & set(machine({"int8": 1.0}))


def test_a_description_has_both() -> None:
    found = describe("nano")
    assert found["source"] == "nano"
    assert {"cpu", "cpu_cores", "cpu_threads", "cpu_dtype"} <= set(found)
