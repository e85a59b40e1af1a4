"""Policy optimisation stopped anywhere, killed, and resumed: the run is the one that was never stopped."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.reinforcing import NANO, draw_nothing, mixed, rows, weights

from mmada.errors import InputError
from mmada.io.fingerprint import file_sample
from mmada.io.jsonl import read_log
from mmada.pipeline import MMaDA
from mmada.recipes.run import run
from mmada.rl.learner import PolicyLearner
from mmada.training import loop


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    draw_nothing(monkeypatch)


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all three tasks that was never stopped, of the tiny model."""
    return never_stopped(folder, tmp_path_factory)


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of the bundled model."""
    return never_stopped(NANO, tmp_path_factory)


def never_stopped(start: Path, folders: pytest.TempPathFactory) -> Path:
    out = folders.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        run("rl", overrides=mixed(), out=out, start_from=start)
    return out


def same(one: Path, other: Path) -> bool:
    """Whether two runs left the same bytes: weights, averages, optimiser, model, log, groups."""
    files = ("checkpoint.safetensors", "model/model.safetensors", "groups.jsonl")
    return rows(one) == rows(other) and all((one / f).read_bytes() == (other / f).read_bytes() for f in files)


def run_until(stop: int, monkeypatch: pytest.MonkeyPatch, *, made: bool = True, **options: Any) -> None:
    """A run of `rl` that ends before step ``stop``; ``made``: the batch of that step has been made by then."""
    real = loop.one_step

    def stopped(learner: Any, plan: Any, step: int, *others: Any) -> dict[str, float]:
        if step == stop:
            if made:
                next(learner.losses(step))
            raise KeyboardInterrupt
        return real(learner, plan, step, *others)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "one_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            run("rl", **options)


@pytest.mark.parametrize(("stop", "lost"), [(1, False), (2, False), (3, False), (5, False), (6, False), (6, True)])
def test_a_run_stopped_in_the_middle_of_a_batch_resumes_exactly(
    stop: int, lost: bool, folder: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints are written after 2, 4 and 6 steps, batches begin at 0, 3 and 6; one of which no update is done can be lost."""
    out = tmp_path / "cut"
    run_until(stop, monkeypatch, overrides=mixed(), out=out, start_from=folder)
    for file in out.glob("rollouts/*") if lost else ():
        file.unlink()
    run("rl", overrides=mixed(), out=out, start_from=folder, resume=True)
    assert same(out, whole)


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_killed_run_resumes_too(nano: Path, tmp_path: Path) -> None:
    out = tmp_path / "cut"
    script = "from mmada.recipes.run import run; from pathlib import Path; "
    script += f"run('rl', overrides={mixed()!r}, out=Path({str(out)!r}), start_from=Path({str(NANO)!r}))"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(read_log(out / "log.jsonl")) < 3:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it ended by itself"
    run("rl", overrides=mixed(), out=out, start_from=NANO, resume=True)
    assert same(out, nano)


def test_the_runs_that_are_compared_learn_something(folder: Path, whole: Path) -> None:
    assert all(row["grad_norm"] > 0 for row in rows(whole))
    assert rows(whole)[0]["ratio"] == pytest.approx(1, abs=1e-6)
    assert rows(whole)[1]["ratio"] != pytest.approx(1, abs=1e-6)
    begun = MMaDA.load(folder, device="cpu").engine.parts.model.state_dict()  # type: ignore[attr-defined]
    assert any(not torch.equal(value, begun[name.removeprefix("model.")].float()) for name, value in weights(whole).items())
    assert len(list((whole / "rollouts").glob("*.safetensors"))) == 1  # what no checkpoint needs is gone


def test_a_run_resumes_from_its_own_start_and_from_no_other(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """State that a checkpoint lacks, such as the reference, is read from the start again."""
    settings, out = mixed() | {"plan.steps": "2", "tasks": "{math: 1}"}, tmp_path / "run"
    run("rl", overrides=settings, out=out, start_from=folder)
    with pytest.raises(InputError, match=f"other weights than the run in .* give --start-from {folder}"):
        run("rl", overrides=settings | {"plan.steps": "4"}, out=out, start_from=NANO, resume=True)
    assert "steps: 2" in (out / "recipe.yaml").read_text()
    assert "other settings" not in caplog.text
    run("rl", overrides=settings | {"plan.steps": "4"}, out=out, resume=True)
    assert len(rows(out)) == 4
    assert "the resumed run has other settings than before: plan.steps\n" in caplog.text
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    run("rl", overrides=settings | {"plan.steps": "6"}, out=out, start_from=moved, resume=True)
    shutil.rmtree(moved)
    with pytest.raises(InputError, match="is gone; give --start-from"):
        run("rl", overrides=settings | {"plan.steps": "8"}, out=out, resume=True)
    shutil.copytree(NANO, moved)
    with pytest.raises(InputError, match="has changed since the run"):
        run("rl", overrides=settings | {"plan.steps": "8"}, out=out, resume=True)
    (out / "begun_from.json").write_text('{"start": null, "weights": {}}')
    for start in (None, folder):
        with pytest.raises(InputError, match=r"begun_from.json' is damaged"):
            run("rl", overrides=settings | {"plan.steps": "8"}, out=out, start_from=start, resume=True)
    (out / "begun_from.json").unlink()  # as older runs have none
    with pytest.raises(InputError, match="not found at"):
        run("rl", overrides=settings | {"plan.steps": "8"}, out=out, resume=True)
    with pytest.raises(InputError, match="is of recipe 'rl', not 'rl_math'"):
        run("rl_math", out=out, start_from=folder, resume=True)
    (out / "recipe.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"recipe.yaml' is damaged"):
        run("rl", overrides=settings, out=out, start_from=folder, resume=True)


def test_a_run_killed_before_its_first_line_can_be_gone_on_with_after_a_mistake(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mistake leaves the folder as it was, its empty log too."""
    settings, out = mixed() | {"plan.steps": "1", "tasks": "{math: 1}"}, tmp_path / "run"

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PolicyLearner, "losses", killed)
        with pytest.raises(KeyboardInterrupt):
            run("rl", overrides=settings, out=out, start_from=folder)
    assert (out / "log.jsonl").read_bytes() == b""
    with pytest.raises(InputError, match="did you mean 'correctness'"):
        run("rl", overrides=settings | {"rewards": "{math: {corectness: 1}}"}, out=out, resume=True)
    assert len(rows(run("rl", overrides=settings, out=out, resume=True).parent)) == 1


def test_a_change_anywhere_in_the_weights_is_another_start(tmp_path: Path) -> None:
    """Of large files pieces are read: training leaves the rows of what was never asked as they were, the last ones mostly."""
    file = tmp_path / "model.safetensors"
    for size, positions in ((100, [0, 99]), (2**20, [0, 2**19, 2**20 - 1])):
        file.write_bytes(bytes(size))
        before = file_sample(file, pieces=4, count=2**10 if size < 2**20 else 2**18)
        for position in positions:
            changed = bytearray(size)
            changed[position] = 1
            file.write_bytes(changed)
            assert file_sample(file, pieces=4, count=2**10 if size < 2**20 else 2**18) != before
    file.write_bytes(bytes(2**20))
    spread = file_sample(file, pieces=8, count=2**10)
    file.write_bytes(bytes(2**19) + b"\1" * 2**10 + bytes(2**19 - 2**10))  # in the middle, as little as is read there
    assert file_sample(file, pieces=8, count=2**10) != spread


def test_a_run_that_fails_in_the_middle_keeps_what_it_was_begun_with(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(learner: PolicyLearner, step: int) -> Any:
        if step == 3:
            raise InputError("a picture is gone")
        return real(learner, step)

    real, settings, out = PolicyLearner.losses, mixed() | {"tasks": "{math: 1}"}, tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(PolicyLearner, "losses", failing)
        with pytest.raises(InputError, match="a picture is gone"):
            run("rl", overrides=settings, out=out, start_from=folder)
    assert (out / "recipe.yaml").exists()
    run("rl", overrides=settings, out=out, resume=True)
    assert len(rows(out)) == 7


def test_a_run_killed_before_its_last_model_was_written_writes_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, out = mixed() | {"plan.steps": "2", "tasks": "{math: 1}"}, tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(PolicyLearner, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run("rl", overrides=settings, out=out, start_from=folder)
    assert not (out / "model").exists()
    run("rl", overrides=settings, out=out, resume=True)
    MMaDA.load(out / "model", device="cpu")


def test_a_batch_of_other_settings_is_not_gone_on_with(folder: Path, tmp_path: Path) -> None:
    settings = mixed() | {"plan.steps": "2", "tasks": "{math: 1}"}
    run("rl", overrides=settings, out=tmp_path / "a", start_from=folder)
    with pytest.raises(InputError, match="2 updates are done"):
        run(
            "rl",
            overrides=settings | {"plan.steps": "4", "group_size": "2"},
            out=tmp_path / "a",
            start_from=folder,
            resume=True,
        )
    assert [file.name for file in (tmp_path / "a").glob("recipe*")] == ["recipe.yaml"]
    assert "group_size: 3" in (tmp_path / "a" / "recipe.yaml").read_text()  # as it was begun
    run("rl", overrides=settings | {"plan.steps": "4"}, out=tmp_path / "a", start_from=folder, resume=True)
    assert "steps: 2" in (tmp_path / "a" / "recipe_1.yaml").read_text()
    assert "steps: 4" in (tmp_path / "a" / "recipe.yaml").read_text()
    assert [row["step"] for row in rows(tmp_path / "a")] == [0, 1, 2, 3]


def test_batches_of_weights_that_were_left_are_not_gone_on_with(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From one learning rate to another and back: what was kept of the first time is of weights that the run has no more."""
    first = mixed() | {"plan.steps": "4", "plan.save_every": "2", "tasks": "{math: 2}", "method.updates": "1"}
    other = first | {"plan.optim.lr": "1e-1", "plan.save_every": "1"}
    out, clean = tmp_path / "back", tmp_path / "clean"
    run_until(3, monkeypatch, overrides=first, out=out, start_from=folder)  # batches 2 and 3 are kept
    run_until(3, monkeypatch, made=False, overrides=other, out=out, start_from=folder, resume=True)  # batch 2 is another one
    shutil.copytree(out, clean)
    shutil.rmtree(clean / "rollouts")
    for run_of in (out, clean):
        run("rl", overrides=first, out=run_of, start_from=folder, resume=True)
    assert same(out, clean)
