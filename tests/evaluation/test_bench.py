"""`mmada bench`: modes by name, what a pass costs, and the whole thing on a tiny random model."""

import json
from pathlib import Path

import pytest
import torch
from tests.helpers import tiny_folder, tiny_model
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import mmada
from mmada.errors import InputError
from mmada.evaluation.bench import bench, mode_of
from mmada.evaluation.flops import Meter, Peaks, memory_mark
from mmada.sampling import Acceleration, BlockCache, Lookahead, Threshold


def test_steps_are_of_pictures(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="steps are those of a picture"):
        bench(mmada.load("nano", device="cpu"), workloads=["math"], modes=["exact", "steps=4"], out=tmp_path / "b.json")


def test_modes_by_name() -> None:
    assert mode_of("exact").speed == Acceleration()
    assert mode_of("threshold=0.8+block=2").speed == Acceleration(Threshold(0.8), BlockCache(2))
    assert mode_of("lookahead=4").speed == Acceleration(lookahead=Lookahead(4))
    fast = mode_of("steps=8+block=1")
    assert (fast.steps, fast.speed) == (8, Acceleration(reuse=BlockCache(1)))
    for wrong in ("exactly", "lookahead=x", "steps=0", "threshold=2", "block+lookahead=2", "block+prefix", "stable+factor=1"):
        with pytest.raises(InputError):
            mode_of(wrong)


@pytest.mark.parametrize("remembered", [False, True])
def test_operations_are_those_that_torch_counts(remembered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmada.model.float_product.onednn_linear", lambda: None)  # which torch does not count
    torch.manual_seed(0)
    model = tiny_model(40)
    tokens = torch.randint(0, 40, (2, 12))
    at = torch.zeros(2, 12, dtype=torch.bool)
    at[:, 3:6] = True
    more = {"cache": model.kv_cache(2)} if remembered else {}
    model.predict(tokens, query_BL=at, vocab=range(5, 30), **more)
    more |= {"recompute_BL": at} if remembered else {}
    meter = Meter(model)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # the fused kernel is not counted
        meter.predict(tokens, query_BL=at, vocab=range(5, 30), **more)
    assert meter.flops == pytest.approx(counter.get_total_flops())


def test_the_roofline_is_the_slower_of_two() -> None:
    assert Peaks(100.0, 10.0).min_seconds(200.0, 10.0) == 2.0
    assert Peaks(100.0, 10.0).min_seconds(50.0, 10.0) == 1.0


def test_the_peak_of_memory_is_of_what_came_since() -> None:
    mark = memory_mark(torch.device("cpu"))
    if (before := mark()) is None:
        pytest.skip("this system does not tell")
    torch.ones(2**26)  # 256 MiB, held for a moment
    held = mark()
    assert held is not None
    after = memory_mark(torch.device("cpu"))()
    assert after is not None
    for least in (before, after):
        assert 200 * 2**20 < held - least < 400 * 2**20


def test_bench_measures_and_writes(tmp_path: Path) -> None:
    tiny_folder(tmp_path / "model")
    model = mmada.load(tmp_path / "model")
    modes = ("exact", "lookahead=2", "threshold=0.0")
    rows = bench(model, workloads=["math"], modes=modes, rounds=1, examples=2, seeds=2, out=tmp_path / "bench.json")
    written = json.loads((tmp_path / "bench.json").read_text())
    assert [row["mode"] for row in written["rows"]] == list(modes)
    assert written["settings"]["peaks"]["gflops"] > 0
    assert (tmp_path / "bench.png").stat().st_size > 1000
    exact, ahead, all_at_once = rows
    assert exact["accuracy"] == ahead["accuracy"]
    assert (exact["examples"], len(exact["accuracy_by_seed"])) == (4, 2)
    assert all_at_once["passes"] < exact["passes"]
    # Random weights write no end token here: a text takes a step a block of 4 at once, or steps of 2.
    assert exact["tokens_a_pass"] * exact["passes"] == pytest.approx(
        all_at_once["tokens_a_pass"] * all_at_once["passes"], rel=0.5
    )
    assert 0 < exact["tokens_a_pass"] < all_at_once["tokens_a_pass"] <= 4
    assert exact["ratio"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert model.engine.denoiser is model.engine.parts.model
    for wrong in (
        {"workloads": ["dance"]},
        {"workloads": ["math", "math"]},
        {"workloads": ["math"], "modes": ["block", "block"]},
    ):
        with pytest.raises(InputError, match=r"work|twice"):
            bench(model, out=tmp_path / "x.json", **wrong)
