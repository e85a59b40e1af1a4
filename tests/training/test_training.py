"""The loop, its checkpoints and optimisers; every recipe run short, killed and resumed with the same losses."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.helpers import TINY_IMAGE, row
from torch import nn

from mmada import nano
from mmada.data.packing import pack
from mmada.errors import InputError
from mmada.recipes.run import run
from mmada.registry import RECIPES
from mmada.tokenizers.image import ImageTokenizer
from mmada.training.log import RunLog, read_log, smoothed
from mmada.training.muon import Muon, orthogonalise
from mmada.training.optim import Optim, build_optimisers, learning_rate_scale

SMALL = {
    "plan.steps": "6",
    "plan.save_every": "2",
    "plan.sample_every": "6",
    "rows": "2",
    "compile": "false",
    "image_sets.augmented": "6",
    "image_sets.canonical": "6",
    "image_sets.digits": "4",
    "image_sets.digit_variants": "1",
    "sizes.width": "16",
    "sizes.layers": "1",
    "sizes.mlp": "16",
    "sizes.heads": "2",
}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs that holds a tiny image tokenizer."""
    folder = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)
    ImageTokenizer(TINY_IMAGE).save(folder / "image_tokenizer" / "model" / "image_tokenizer")
    return folder


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_log(folder / "log.jsonl")]


def test_muon_agrees_with_torch_on_matrices() -> None:
    torch.manual_seed(0)
    start = [torch.randn(12, 20), torch.randn(12, 20), torch.randn(20, 6)]
    ours, theirs = ([nn.Parameter(p.clone()) for p in start] for _ in range(2))
    a = Muon(ours, lr=0.02, weight_decay=0.1)
    b = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(p.shape)
            q.grad = p.grad.clone()
        a.step()
        b.step()
    for p, q in zip(ours, theirs, strict=True):
        assert torch.allclose(p, q, atol=2e-3)


def test_orthogonalised_kernels_have_singular_values_near_one() -> None:
    values = torch.linalg.svdvals(orthogonalise(torch.randn(3, 16, 40)).float())
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_every_parameter_has_one_optimiser() -> None:
    module = nn.ModuleDict({"embed": nn.Embedding(50, 32), "hidden": nn.Linear(32, 64), "norm": nn.LayerNorm(32)})
    for muon in (0.0, 0.01):
        groups = [g for o in build_optimisers(module, Optim(muon_lr=muon)) for g in o.param_groups]
        ids = [id(p) for g in groups for p in g["params"]]
        assert sorted(ids) == sorted(id(p) for p in module.parameters())


def test_learning_rate_rises_stays_and_falls() -> None:
    optim = Optim(warmup=10, decay=0.5, final=0.1)
    curve = [learning_rate_scale(s, 100, optim) for s in range(100)]
    assert curve[0] < curve[9] < 1
    assert curve[10:50] == [1.0] * 40
    assert all(a >= b for a, b in itertools.pairwise(curve[49:]))
    assert curve[-1] == pytest.approx(0.1, abs=0.01)


def test_packing_loses_no_token_and_mixes_no_examples() -> None:
    examples = [row([n] * size) for n, size in enumerate((7, 5, 9, 3, 8, 2, 6), start=1)]
    batch = pack(iter(examples), rows=3, length=16, patience=50)
    assert batch.examples == 7
    for n, example in enumerate(examples, start=1):
        at = batch.segment_BL == batch.segment_BL[batch.tokens_BL == n][0]
        assert batch.tokens_BL[at].tolist() == example.tokens_BL[0].tolist()
        assert batch.position_BL[at].tolist() == list(range(example.length))
    with pytest.raises(InputError, match="does not fit a row"):
        pack(iter([row([1] * 17)]), rows=1, length=16)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RECIPES if not name.startswith(("rl", "study"))])
def test_a_killed_run_resumes_exactly(name: str, begun: Path, tmp_path: Path) -> None:
    of_images = name.startswith("image")
    settings = {k: v for k, v in SMALL.items() if k.startswith("plan")} | {"batch": "2"} if of_images else dict(SMALL)
    start = begun / "image_tokenizer" / "model"
    if name == "sft":
        start = Path(nano.__path__[0]) / "assets"
        (tmp_path / "lines.txt").write_text("tom has 3 pens\na red circle\n2 + 2 = 4")
        settings = {k: v for k, v in settings.items() if k.startswith("plan") or k == "rows"}
        settings |= {"data": f"{{text: {tmp_path / 'lines.txt'}}}", "row_length": "64", "sample_prompts": "[a red circle]"}
    if name == "distill":  # goes on from a model that is sometimes right
        settings |= {
            "trajectories": "{questions: 2}",
            "trajectory_weights": "{questions: 1}",
            "block_weights": "{arithmetic_reasoning: 1}",
        }
        start = Path(nano.__path__[0]) / "assets"
    whole = run(name, overrides=settings, out=tmp_path / "whole", start_from=start)
    out, script = str(tmp_path / "cut"), "from mmada.recipes.run import run; from pathlib import Path; "
    script += f"run({name!r}, overrides={settings!r}, out=Path({out!r}), start_from=Path({str(start)!r}))"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = tmp_path / "cut" / "log.jsonl"
    while process.poll() is None and len(read_log(log)) < 3:
        time.sleep(0.01)
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert read_log(log), "the run never began"
    resumed = run(name, overrides=settings, out=tmp_path / "cut", resume=True, start_from=start)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    for file in whole.rglob("*.safetensors"):
        assert file.stat().st_mode == (file.parent / "config.json").stat().st_mode, "others may read weights as they may the rest"
        assert file.read_bytes() == (resumed / file.relative_to(whole)).read_bytes()
    assert (tmp_path / "cut" / "recipe.yaml").is_file()
    assert not (tmp_path / "cut" / "recipe_1.yaml").exists()
    assert list((tmp_path / "cut" / "samples").glob("*.png"))


def test_the_decoder_alone_learns_and_the_codes_stay(begun: Path, tmp_path: Path) -> None:
    settings = {"plan.steps": "3", "plan.sample_every": "9", "batch": "2"}
    start = begun / "image_tokenizer" / "model"
    with pytest.raises(InputError, match="leave model out or --start-from"):
        run("image_decoder", overrides=settings | {"model.channels": "8"}, out=tmp_path / "b", start_from=start)
    model = run("image_decoder", overrides=settings, out=tmp_path / "a", start_from=start)
    before, after = (ImageTokenizer.load(folder / "image_tokenizer") for folder in (start, model))
    pictures = torch.rand(4, 3, 64, 64) * 2 - 1
    codes = before.encode(pictures)
    assert torch.equal(codes, after.encode(pictures))
    assert not torch.equal(before.decode(codes), after.decode(codes))


def test_a_finished_run_is_not_overwritten_and_bad_settings_are_named(begun: Path, tmp_path: Path) -> None:
    start = begun / "image_tokenizer" / "model"
    settings = SMALL | {"plan.steps": "1"}
    run("pretrain", overrides=settings, out=tmp_path / "a", start_from=start)
    with pytest.raises(InputError, match="already holds a run"):
        run("pretrain", overrides=settings, out=tmp_path / "a", start_from=start)
    with pytest.raises(InputError, match="pretrain"):
        run("pretrian")
    with pytest.raises(InputError, match=r"plan\.stepz"):
        run("pretrain", overrides={"plan.stepz": "1"}, start_from=start)
    with pytest.raises(InputError, match="'many'"):
        run("pretrain", overrides={"plan.steps": "many"}, start_from=start)
    with pytest.raises(InputError, match="starts from the model of pretrain"):
        run("instruct", out=tmp_path / "b")
    with pytest.raises(InputError, match="holds no run to resume"):
        run("pretrain", overrides=settings, out=tmp_path / "b", start_from=start, resume=True)
    with pytest.raises(InputError, match=r"plan\.threads"):
        run("pretrain", overrides=settings | {"plan.threads": "-3"}, out=tmp_path / "b", start_from=start)
    with pytest.raises(InputError, match="of a run with other sizes"):
        run("pretrain", overrides=settings | {"sizes.width": "32"}, out=tmp_path / "a", start_from=start, resume=True)
    assert not (tmp_path / "b").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        run("pretrain", overrides=settings, out=tmp_path / "file", start_from=start)


def test_a_damaged_checkpoint_is_named(begun: Path, tmp_path: Path) -> None:
    out = tmp_path / "a"
    settings = SMALL | {"plan.steps": "2"}
    start = begun / "image_tokenizer" / "model"
    run("pretrain", overrides=settings, out=out, start_from=start)
    file = out / "checkpoint.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match="cannot be read"):
        run("pretrain", overrides=settings, out=out, resume=True, start_from=start)


def test_a_checkpoint_without_averages_is_named(begun: Path, tmp_path: Path) -> None:
    out, settings, start = tmp_path / "a", SMALL | {"plan.steps": "1"}, begun / "image_tokenizer" / "model"
    run("pretrain", overrides=settings, out=out, start_from=start)
    file = out / "checkpoint.safetensors"
    with safe_open(file, "pt") as opened:
        state = opened.metadata()
    save_file({k: v for k, v in load_file(file).items() if not k.startswith("average.")}, file, metadata=state)
    with pytest.raises(InputError, match=r"checkpoint .* lacks the average of"):
        run("pretrain", overrides=settings | {"plan.steps": "2"}, out=out, resume=True, start_from=start)


def test_losses_fall_and_the_log_has_a_line_a_step(begun: Path, tmp_path: Path) -> None:
    settings = SMALL | {
        "plan.steps": "80",
        "plan.optim.warmup": "2",
        "plan.optim.lr": "0.01",
        "plan.sample_every": "80",
        "sizes.width": "32",
    }
    run("pretrain", overrides=settings, out=tmp_path / "a", start_from=begun / "image_tokenizer" / "model")
    lines = [json.loads(line) for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(80))
    early, late = (sum(line["loss"] for line in part) / 8 for part in (lines[:8], lines[-8:]))
    assert late < early * 0.9
    assert (tmp_path / "a" / "curves.png").is_file()


@pytest.mark.parametrize(("reward", "panels", "told"), [(None, 1, "loss 0.500"), (1.25, 2, "loss 0.500, reward 1.25")])
def test_rewards_are_shown_where_there_are_any(tmp_path: Path, reward: float | None, panels: int, told: str) -> None:
    with RunLog(tmp_path, "stage", steps=4, start=0) as log:
        for step in range(4):  # a batch of rollouts is judged once, and trained on in two updates
            judged = {} if reward is None or step % 2 else {"reward": reward, "reward_math": 1.0}
            log.step({"step": step, "loss": 0.5, "rate": 3.0, "kl": 0.01 * step if judged else 0.0, **judged})
        log.plot()
    assert log.progress.tasks[0].fields["loss"] == told
    with Image.open(tmp_path / "curves.png") as plot:
        assert plot.size == (880, 110 * (1 + 3 * panels))


def test_curves_are_means_at_the_middle_of_their_steps() -> None:
    step_N = np.arange(0.0, 48, 2)
    x, y = smoothed(step_N, 3 * step_N)
    assert x.tolist() == [step + 1 for step in step_N[:-1]]  # two of 24 values at a time
    assert y == pytest.approx(3 * x)
    assert smoothed(step_N[:3], step_N[:3])[1].tolist() == [0, 2, 4]


def test_a_run_without_a_terminal_says_a_line_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("mmada.training.log.time.monotonic", lambda: clock[0])
    with RunLog(tmp_path, "stage", steps=300, start=0) as log:
        for step in range(202):
            clock[0] += 25 if step < 10 else 0.1
            log.step({"step": step, "loss": 0.5, "rate": 3.0})
    said = [json.loads(line)["step"] for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert said == [0, 3, 6, 9, 100, 200]
