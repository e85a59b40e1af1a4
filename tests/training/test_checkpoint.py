"""Checkpoints: every kind of damage is refused in one sentence before training, and nothing good is written over."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmada.errors import InputError
from mmada.training.log import read_log
from mmada.training.loop import CHECKPOINT, Plan, train
from mmada.training.optim import Optim


class Regression:
    """A learner of a few numbers: a matrix for Muon, the rest for AdamW, a frozen weight and a counter."""

    def __init__(self, width: int = 20, *, blow_up_at: int = -1) -> None:
        torch.manual_seed(0)
        self.module: nn.Module = nn.Sequential(nn.Linear(width, 18), nn.Linear(18, 2))
        self.module.register_buffer("counter", torch.tensor(3))
        self.module.register_parameter("frozen", nn.Parameter(torch.ones(2), requires_grad=False))
        self.width, self.blow_up_at = width, blow_up_at
        self.examples = 4
        self.statistics: dict[str, float] = {}

    def losses(self, step: int) -> Iterator[dict[str, Tensor]]:
        if step == self.blow_up_at:
            with torch.no_grad():
                self.module[0].weight.fill_(float("inf"))
        x = torch.randn(4, self.width, generator=torch.Generator().manual_seed(step))
        yield {"square": self.module(x).square().mean()}

    def samples(self, folder: Path) -> list[Image.Image]:
        assert (folder / "weights.safetensors").is_file()
        return [Image.new("RGB", (4, 4))]

    def save(self, folder: Path) -> None:
        assert not any(folder.iterdir())
        save_file({k: v.contiguous() for k, v in self.module.state_dict().items()}, folder / "weights.safetensors")


def plan(steps: int, **settings: object) -> Plan:
    return Plan(steps=steps, save_every=2, sample_every=3, optim=Optim(muon_lr=0.01, warmup=1), **settings)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps."""
    out = tmp_path_factory.mktemp("run") / "run"
    train(Regression(), plan(4), name="toy", out=out)
    return out


@pytest.fixture
def out(run: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


def edit(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    """Damage that changes the tensors."""

    def damage(path: Path) -> None:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata=metadata)

    return damage


def state(text: str | None) -> Callable[[Path], None]:
    """Damage that changes what the file says of itself."""
    return lambda path: save_file(load_file(path), path, metadata=None if text is None else {"state": text})


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def spoil(name: str, value: float) -> Callable[[dict[str, Tensor]], object]:
    """One number of one tensor."""
    return lambda tensors: tensors[name].view(-1)[0].fill_(value)


def rename(old: str, new: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.update({new: tensors.pop(old)})


NAN, INF = float("nan"), float("inf")
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "cannot be read"),
    "cut header": (lambda path: path.write_bytes(path.read_bytes()[:50]), "cannot be read"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-9]), "cannot be read"),
    "text": (lambda path: path.write_text("hello, this is no checkpoint"), "cannot be read"),
    "pointer": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "is a git-lfs pointer"),
    "folder": (folder, "is a folder"),
    "loop": (link, "cannot be read"),
    "no metadata": (state(None), "does not say its step"),
    "no JSON": (state("{"), "cannot be read"),
    "deep JSON": (state("[" * 200_000), "cannot be read"),
    "no step": (state("{}"), "does not say its step"),
    "a list": (state("[4]"), "does not say its step"),
    "step -1": (state('{"step": -1}'), "does not say its step"),
    "step 1.5": (state('{"step": 1.5}'), "does not say its step"),
    "step true": (state('{"step": true}'), "does not say its step"),
    "step text": (state('{"step": "2"}'), "does not say its step"),
    "step beyond": (state('{"step": 99}'), "is at step 99, beyond plan.steps 8; give at least 99 steps"),
    "nan weight": (edit(spoil("model.0.weight", NAN)), "not finite, in model.0.weight"),
    "inf average": (edit(spoil("average.1.bias", INF)), "not finite, in average.1.bias"),
    "nan moment": (edit(spoil("optim.0.0.exp_avg", NAN)), "not finite, in optim.0.0.exp_avg"),
    "inf square": (edit(spoil("optim.0.1.exp_avg_sq", INF)), "not finite, in optim.0.1.exp_avg_sq"),
    "nan count": (edit(spoil("optim.0.0.step", NAN)), "not finite, in optim.0.0.step"),
    "nan momentum": (edit(spoil("optim.1.0.momentum_buffer", NAN)), "not finite, in optim.1.0.momentum_buffer"),
    "negative square": (edit(spoil("optim.0.0.exp_avg_sq", -1.0)), "exp_avg_sq is negative"),
    "index": (edit(rename("optim.0.0.exp_avg", "optim.0.9999.exp_avg")), "fits no weight"),
    "index text": (edit(rename("optim.0.0.exp_avg", "optim.0.x.exp_avg")), "fits no weight"),
    "index digit": (edit(rename("optim.0.0.exp_avg", "optim.0.².exp_avg")), "fits no weight"),
    "no key": (edit(rename("optim.0.0.exp_avg", "optim.0.0")), "fits no weight"),
    "only index": (edit(rename("optim.0.0.exp_avg", "optim.0.x")), "fits no weight"),
    "other key": (edit(rename("optim.0.0.exp_avg", "optim.0.0.y")), "fits no weight"),
    "key missing": (edit(lambda tensors: tensors.pop("optim.0.1.exp_avg")), "lacks optim.0.1.exp_avg"),
    "state shape": (edit(lambda tensors: tensors.update({"optim.0.0.exp_avg": torch.ones(7)})), "fits no weight"),
    "optimiser": (edit(rename("optim.0.0.exp_avg", "optim.7.0.exp_avg")), "lacks optim.0.0.exp_avg|which this run lacks"),
    "stranger": (edit(lambda tensors: tensors.update({"x": torch.ones(1)})), "has x, which this run lacks"),
    "whole numbers": (edit(lambda tensors: tensors.update({"average.1.bias": torch.ones(2).long()})), "is torch.int64"),
    "weight missing": (edit(lambda tensors: tensors.pop("model.1.bias")), "of a run with other sizes"),
    "weight more": (edit(lambda tensors: tensors.update({"model.2.bias": torch.ones(2)})), "of a run with other sizes"),
    "weight shape": (edit(lambda tensors: tensors.update({"model.1.bias": torch.ones(3)})), "of a run with other sizes"),
    "average missing": (edit(lambda tensors: tensors.pop("average.1.bias")), "lacks the average of 1.bias"),
    "average shape": (edit(lambda tensors: tensors.update({"average.1.bias": torch.ones(3)})), "lacks the average of 1.bias"),
}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the checkpoint."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != CHECKPOINT}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_one_sentence_before_any_work(out: Path, name: str) -> None:
    damage, said = DAMAGES[name]
    damage(out / CHECKPOINT)
    before, learner = contents(out), Regression()
    weights = {k: v.clone() for k, v in learner.module.state_dict().items()}
    with pytest.raises(InputError, match=said) as refused:
        train(learner, plan(8), name="toy", out=out, resume=True)
    sentence = str(refused.value)
    assert sentence.startswith("checkpoint ")
    assert sentence.isprintable()
    assert "NoneType" not in sentence
    assert "Errno" not in sentence
    assert contents(out) == before
    assert all(torch.equal(v, weights[k]) for k, v in learner.module.state_dict().items())


def test_a_whole_checkpoint_continues_as_if_the_run_had_not_ended(out: Path, tmp_path: Path) -> None:
    train(Regression(), plan(8), name="toy", out=out, resume=True)
    train(Regression(), plan(8), name="toy", out=tmp_path / "whole")
    rows = [[(row["step"], row["loss"]) for row in read_log(folder / "log.jsonl")] for folder in (out, tmp_path / "whole")]
    assert [step for step, _ in rows[0]] == list(range(8))
    assert [loss for _, loss in rows[0][:4]] == [loss for _, loss in rows[1][:4]]
    one, two = (load_file(folder / "model" / "weights.safetensors") for folder in (out, tmp_path / "whole"))
    assert one.keys() == two.keys()
    assert {p.stat().st_mode & 0o777 for p in out.iterdir() if p.is_file()} == {(out / "log.jsonl").stat().st_mode & 0o777}


@pytest.mark.parametrize("step", [1, 3, 5])
def test_weights_that_are_not_finite_are_not_written_over_good_ones(out: Path, step: int) -> None:
    before = {name: (out / name).read_bytes() for name in (CHECKPOINT, "model/weights.safetensors")}
    with pytest.raises(InputError, match=r"not finite after step \d, in 0\.weight; the last checkpoint is unchanged"):
        train(Regression(blow_up_at=4 + step), plan(12), name="toy", out=out, resume=True)
    if step == 1:
        assert {name: (out / name).read_bytes() for name in before} == before
    for name in before:
        assert all(torch.isfinite(v).all() for v in load_file(out / name).values())


ROWS = [json.dumps({"step": n, "loss": 1.0, "rate": 1.0}).encode() + b"\n" for n in range(6)]
LOGS: dict[str, tuple[bytes, str]] = {
    "cut": (b"".join(ROWS[:4]) + b'{"step": 4, "lo', ""),
    "cut anywhere": (b"".join(ROWS[:4]) + b"\xff\xfe", ""),
    "steps since": (b"".join(ROWS), ""),
    "emptied": (b"", ""),
    "emptied before": (b"".join(ROWS[2:5]), ""),
    "broken line": (b"".join(ROWS[:4]) + b"{broken\n", "line 5 of the log .* is damaged"),
    "not text": (b"\xff\xfe\n", "line 1 of the log .* is damaged"),
    "other JSON": (b"null\n1\n[]\n", "line 1 of the log .* is damaged"),
    "deep": (b"[" * 200_000 + b"\n", "line 1 of the log .* is damaged"),
    "step text": (b'{"step": "0"}\n', "line 1 of the log .* is damaged"),
    "step true": (b'{"step": true}\n', "line 1 of the log .* is damaged"),
    "step missing": (b"".join(ROWS[:1] + ROWS[2:4]), "does not have each step"),
    "last missing": (b"".join(ROWS[:3]), "does not have each step"),
    "step twice": (b"".join(ROWS[:2] + ROWS[1:4]), "does not have each step"),
    "order": (b"".join(ROWS[3::-1]), "does not have each step"),
    "negative": (b'{"step": -1}\n' + b"".join(ROWS[1:4]), "does not have each step"),
}


@pytest.mark.parametrize("name", LOGS)
def test_a_log_is_cut_to_its_checkpoint_or_refused(out: Path, name: str) -> None:
    data, said = LOGS[name]
    (out / "log.jsonl").write_bytes(data)
    before = contents(out)
    if said:
        with pytest.raises(InputError, match=said):
            train(Regression(), plan(6), name="toy", out=out, resume=True)
        assert contents(out) == before
        return
    train(Regression(), plan(6), name="toy", out=out, resume=True)
    steps = [row["step"] for row in read_log(out / "log.jsonl")]
    assert steps == list(range({"emptied": 4, "emptied before": 2}.get(name, 0), 6))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"average": 1.0}, "plan.average must be a number of 0 to"),
        ({"average": -0.1}, "plan.average"),
        ({"average": NAN}, "plan.average"),
        ({"threads": -1}, "plan.threads"),
        ({"seed": 2**41}, "plan.seed"),
        ({"seed": True}, "plan.seed"),
        ({"optim": {"lr": 1}}, "plan.optim is a dict; give settings of the optimisers"),
    ],
)
def test_wrong_plans(settings: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Plan(**{"steps": 4, **settings})


@pytest.mark.parametrize("name", ["lr", "clip", "decay", "final", "beta2", "muon_lr", "weight_decay", "warmup"])
@pytest.mark.parametrize("value", [-1, NAN, INF, "1", None, 10**400])
def test_wrong_settings_of_the_optimisers(name: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"optim\.{name} must be"):
        Optim(**{name: value})
