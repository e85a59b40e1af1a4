"""Rollouts: whole completions with their steps, groups, batches; groups judged and logged."""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from mmada.canvas import IMAGE, TEXT, Canvas, Segment, Trajectory
from mmada.errors import InputError
from mmada.nano.tasks import PROMPTS
from mmada.nano.world.captions import Drawable
from mmada.nano.world.geneval import CATEGORIES, GenPrompt, prompts
from mmada.nano.world.questions import KINDS, ask_about
from mmada.nano.world.scenes import sample_scene
from mmada.pipeline import ImageSampling, MMaDA, TextSampling
from mmada.rewards import RewardSum, WeightedReward
from mmada.rl import SampledSteps, Systematic, draw_views, rollout, unigrpo
from mmada.rl.learner import group_advantages, with_gradient
from mmada.rl.rollout import Rollouts, RolloutSampling, diversity, finished, roll_out
from mmada.rl.scoring import GroupLog, score_groups
from mmada.sampling import Frame, denoise
from mmada.tasks.task import Completion, Prompt
from mmada.training.log import RunLog

SHORT = RolloutSampling(text=TextSampling(length=8, steps=4), image=ImageSampling(steps=3, guidance=2.0))


@pytest.fixture(scope="module")
def asked() -> list[Prompt]:
    rng = np.random.default_rng(3)
    return [PROMPTS[task](rng) for task in ("math", "vision", "image", "math")]


def test_prompts_follow_from_their_seed_and_are_of_all_tasks() -> None:
    for task, ask in PROMPTS.items():
        one, same, other = ask(np.random.default_rng(3)), ask(np.random.default_rng(3)), ask(np.random.default_rng(4))
        assert one.text == same.text != other.text
        assert bool(one.images) == (task == "vision")


def test_rollouts_are_complete_and_grouped(model: MMaDA, asked: list[Prompt]) -> None:
    made = roll_out(model, asked, group_size=3, seed=5, sampling=SHORT)
    assert [c.prompt for c in made.completions] == [one for one in asked for _ in range(3)]
    canvas, v = made.canvas, model.engine.parts.vocabulary
    assert not (canvas.tokens_BL == v.mask).any()
    assert (made.decided_BL[canvas.editable_BL] > 0).all()
    assert not made.decided_BL[~canvas.valid_BL].any()
    drawn = torch.tensor([c.image is not None for c in made.completions])
    assert drawn.tolist() == [False] * 6 + [True] * 3 + [False] * 3
    for row in range(canvas.rows):
        modality = IMAGE if drawn[row] else TEXT
        assert (canvas.modality_BL[row][canvas.editable_BL[row]] == modality).all()
        columns = v.ranges["image"] if drawn[row] else v.ranges["text"]
        assert all(token in columns for token in canvas.tokens_BL[row][canvas.editable_BL[row]].tolist())
    assert made.length_B[drawn].tolist() == [model.engine.grid**2] * 3
    assert (made.length_B[~drawn] <= 8).all()
    assert made.decided_BL[drawn].amax() == 3
    assert (made.decided_BL * canvas.editable_BL)[~drawn].amax() <= 4


def test_a_row_depends_on_its_seed_and_not_on_its_batch(model: MMaDA, asked: list[Prompt]) -> None:
    whole = roll_out(model, asked, group_size=3, seed=5, sampling=SHORT)
    again = roll_out(model, asked, group_size=3, seed=5, sampling=replace(SHORT, batch=2))
    other = roll_out(model, asked, group_size=3, seed=6, sampling=SHORT)
    assert torch.equal(whole.canvas.tokens_BL, again.canvas.tokens_BL)
    assert torch.equal(whole.decided_BL, again.decided_BL)
    assert not torch.equal(whole.canvas.tokens_BL, other.canvas.tokens_BL)
    for start in range(0, 12, 3):  # completions of a prompt are not the same one three times
        rows = whole.canvas.tokens_BL[start : start + 3]
        assert len({tuple(row.tolist()) for row in rows}) > 1


@pytest.mark.parametrize("parallel", [None, "threshold=0.05"])
def test_sampled_steps_are_states_that_the_sampler_saw(
    model: MMaDA, asked: list[Prompt], parallel: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Padding behind an early end included: every noised row is one of the frames of its rollout."""
    seen: list[list[Tensor]] = []

    def watched(*given: Any, **options: Any) -> Iterator[Frame]:
        frames = list(denoise(*given, **options))
        seen.extend([[frame.row(row).tokens_BL[0].clone() for frame in frames] for row in range(frames[0].canvas.rows)])
        yield from frames

    monkeypatch.setattr(rollout, "denoise", watched)
    mask = model.engine.parts.vocabulary.mask
    padded = 0
    longer = replace(SHORT, text=TextSampling(length=24, steps=12, parallel=parallel))
    for seed in range(4):
        seen.clear()
        made = roll_out(model, asked, group_size=2, seed=seed, sampling=longer)
        drawn = draw_views(
            SampledSteps(), made.canvas, mask_id=mask, updates=40, group=2, generator=torch.Generator(), steps_BL=made.decided_BL
        )
        for row, frames in zip([0, 1, 6, 7, 2, 3, 4, 5], seen, strict=True):  # problems, questions, pictures
            states = {tuple(views.tokens_KBL[0, row, : len(frames[0])].tolist()) for views in drawn}
            assert states <= {tuple(frame.tolist()) for frame in frames}
            padded += made.completions[row].image is None and int(made.length_B[row]) < 24
    assert padded > 0


def test_a_text_ends_with_its_end_token(model: MMaDA) -> None:
    v = model.engine.parts.vocabulary
    start = Canvas.join([Segment([v.bos]), Segment([v.mask] * 5, editable=True)])
    tokens = torch.tensor([[v.bos, 30, 31, v.eot, v.eos, v.eos]])
    first = torch.tensor([[False, True, True, False, False, False]])
    second = torch.tensor([[False, False, False, True, True, True]])
    decided_BL = torch.where(first, 1, torch.where(second, 2, 0))
    canvas, decided_BL = finished(Trajectory(start.with_tokens(tokens), decided_BL), v)
    assert canvas.editable_BL.tolist() == [[False, True, True, True, False, False]]
    assert decided_BL.tolist() == [[0, 1, 1, 2, 2, 2]]


def test_an_empty_answer_is_one_end_token(model: MMaDA) -> None:
    v = model.engine.parts.vocabulary
    start = Canvas.join([Segment([v.bos]), Segment([v.mask] * 2, editable=True)])
    ended = start.with_tokens(torch.tensor([[v.bos, v.eos, v.eos]]))
    canvas, decided_BL = finished(Trajectory(ended, start.editable_BL.long()), v)
    assert canvas.editable_BL.tolist() == [[False, True, False]]
    assert decided_BL.tolist() == [[0, 1, 1]]


def test_padding_after_a_row_had_ended_is_one_step_more(model: MMaDA) -> None:
    v = model.engine.parts.vocabulary
    start = Canvas.join([Segment([v.bos]), Segment([v.mask] * 5, editable=True)])
    tokens_BL = torch.tensor([[v.bos, 30, v.eot, v.eos, v.eos, v.eos]])
    canvas, decided_BL = finished(Trajectory(start.with_tokens(tokens_BL), torch.tensor([[0, 2, 1, 0, 0, 0]])), v)
    assert decided_BL.tolist() == [[0, 2, 1, 3, 3, 3]]
    assert canvas.editable_BL.tolist() == [[False, True, True, False, False, False]]


class Counted:
    """Counts what is read: pictures encoded, prompts laid out."""

    def __init__(self, model: MMaDA, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pictures, self.prompts = 0, 0
        engine = model.engine
        prompter = type(engine.prompter)
        encode, chat, draw = engine.encode, prompter.chat, prompter.draw

        def encoded(pictures: Sequence[Image.Image]) -> Any:
            self.pictures += len(pictures)
            return encode(pictures)

        def counted(made: Any) -> Any:
            def call(*given: Any, **options: Any) -> Any:
                self.prompts += 1
                return made(*given, **options)

            return call

        monkeypatch.setattr(engine, "encode", encoded)
        monkeypatch.setattr(prompter, "chat", counted(chat))
        monkeypatch.setattr(prompter, "draw", counted(draw))


@pytest.mark.parametrize(("tasks", "pictures"), [(["vision"], 1), (["math"], 0), (["vision", "math", "vision"], 2)])
@pytest.mark.parametrize(("group", "batch"), [(4, 64), (5, 2)])
def test_a_prompt_is_read_once_for_its_group(
    tasks: list[str], pictures: int, group: int, batch: int, model: MMaDA, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [PROMPTS[task](np.random.default_rng(i)) for i, task in enumerate(tasks)]
    counted = Counted(model, monkeypatch)
    made = roll_out(model, prompts, group_size=group, seed=1, sampling=replace(SHORT, batch=batch))
    assert made.canvas.rows == group * len(tasks)
    assert (counted.pictures, counted.prompts) == (pictures, len(tasks))


def test_a_thought_is_written_before_a_picture(model: MMaDA) -> None:
    prompts = [PROMPTS["image"](np.random.default_rng(i)) for i in range(2)]
    made = roll_out(model, prompts, group_size=2, seed=1, sampling=replace(SHORT, image_thinking=True))
    plain = roll_out(model, prompts, group_size=2, seed=1, sampling=SHORT)
    texts_BL = made.canvas.positions("text")
    assert texts_BL.any(1).all()
    assert made.canvas.positions("image").sum(1).tolist() == [model.engine.grid**2] * 4
    assert not plain.canvas.positions("text").any()
    assert all(c.image is not None for c in made.completions)
    assert all(c.raw_text == "" for c in plain.completions)
    assert (made.decided_BL[texts_BL].amax() < made.decided_BL[made.canvas.positions("image")].amin()).item()
    drawn = model.draw(prompts[0].text, thinking=True, steps=3, guidance=2.0, temperature=1.0, seed=int(first_seed(1, 4)))
    assert np.array_equal(np.asarray(drawn), np.asarray(made.completions[0].image))


def first_seed(seed: int, rows: int) -> int:
    return int(np.random.SeedSequence(seed).generate_state(rows, np.uint64)[0] >> np.uint64(2))


def test_a_prompt_may_have_several_pictures(model: MMaDA, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (PROMPTS["vision"](np.random.default_rng(i)) for i in range(2))
    counted = Counted(model, monkeypatch)
    both = replace(one, images=one.images + two.images)
    made = roll_out(model, [both, one], group_size=2, seed=0, sampling=SHORT)
    assert counted.pictures == 2  # the one that both prompts show is encoded once
    codes = ((made.canvas.modality_BL == IMAGE) & made.canvas.valid_BL).sum(1).tolist()
    assert codes == [2 * model.engine.grid**2] * 2 + [model.engine.grid**2] * 2
    alone = roll_out(model, [one], group_size=1, seed=9, sampling=SHORT).canvas
    start = alone.valid_BL & ~alone.editable_BL
    assert torch.equal(made.canvas.tokens_BL[2, : alone.length][start[0]], alone.tokens_BL[0][start[0]])


def test_the_mix_of_prompts_is_as_described() -> None:
    """Shares of what is drawn, asked and calculated, within four standard errors."""
    rng, count = np.random.default_rng(5), 1200

    def share(hits: Sequence[bool], expected: float) -> None:
        assert np.mean(hits) == pytest.approx(expected, abs=4 * (expected * (1 - expected) / len(hits)) ** 0.5)

    drawn = [PROMPTS["image"](rng).target for _ in range(count)]
    tested = [target for target in drawn if isinstance(target, GenPrompt)]
    share([isinstance(target, GenPrompt) for target in drawn], 0.75)
    share([target.category == CATEGORIES[0] for target in tested], 0.5)
    for category in CATEGORIES[1:]:
        share([target.category == category for target in tested], 0.1)
    steps = [len(PROMPTS["math"](rng).target.steps) for _ in range(count)]
    for number, expected in ((1, 0.1), (2, 0.25), (3, 0.65)):
        share([n == number for n in steps], expected)
    kinds = [PROMPTS["vision"](rng).target.kind for _ in range(count)]
    plain = [ask_about(sample_scene(rng), rng, str(rng.choice(list(KINDS)))).kind for _ in range(count)]
    hard, usual = (np.mean([kind in ("relation", "compare", "sum") for kind in some]) for some in (kinds, plain))
    assert hard > 1.4 * usual > 0  # not every scene has two objects to compare


def test_diversity_is_the_share_of_pairs_that_differ() -> None:
    def rows(*texts: list[int]) -> Canvas:
        return Canvas.stack([Canvas.join([Segment([9]), Segment(t, editable=True)]) for t in texts])

    assert diversity(rows([1], [1], [1])) == 0
    assert diversity(rows([1], [2], [1, 2])) == 1
    assert diversity(rows([1], [1], [2])) == pytest.approx(2 / 3)
    assert diversity(rows([1])) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text": TextSampling(temperature=0)}, "would be the same"),
        ({"image": ImageSampling(temperature=0)}, "would be the same"),
        ({"text": TextSampling(guidance=1.5)}, r"sampling\.text\.guidance has no meaning"),
        ({"text": TextSampling(open_vocabulary=True)}, r"sampling\.text\.open_vocabulary has no meaning"),
        ({"text": TextSampling(stop=("x",))}, r"sampling\.text\.stop has no meaning"),
        ({"image": ImageSampling(size=(64, 64))}, r"sampling\.image\.size has no meaning"),
        ({"batch": 0}, r"sampling\.batch"),
    ],
)
def test_wrong_samplers(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RolloutSampling(**settings)


def fixed(rewards: Sequence[float], lengths: Sequence[int]) -> tuple[Rollouts, RewardSum]:
    """Rollouts of given lengths, and a judge that gives these rewards by the words of each."""
    rows = [Canvas.join([Segment([0]), Segment([n + 20] * n, editable=True), Segment([1])]) for n in lengths]
    prompt = PROMPTS["math"](np.random.default_rng(0))
    parts = [
        Rollouts(row, row.editable_BL.long(), (Completion(prompt, answer=str(reward)),))
        for row, reward in zip(rows, rewards, strict=True)
    ]

    def given(completions: Sequence[Completion]) -> list[float]:
        if any(c.answer == "inf" for c in completions):
            raise ValueError("broken")
        return [float(c.answer) for c in completions]

    return Rollouts.join(parts), RewardSum([WeightedReward("given", given)])


def test_groups_are_judged_counted_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rollouts, judge = fixed([1, 2, float("nan"), 3, 3, 3, 5, 7, float("inf")], [1, 2, 3, 2, 2, 2, 0, 1, 2])
    with caplog.at_level(logging.WARNING):
        judged = score_groups(rollouts, ["math", "math", "vision"], {"math": judge, "vision": judge}, group=3)
    assert judged.reward_B.isfinite().tolist() == [True, True, False, True, True, True, True, True, False]
    found = judged.statistics
    assert found["reward"] == pytest.approx(24 / 7)
    assert found["reward_vision"] == 6
    assert found["length_math"] == 2
    assert found["equal"] == pytest.approx(1 / 3)
    assert (found["empty"], found["failed"]) == (1, 2)
    assert (found["failed_given_not_finite"], found["failed_given_raised"]) == (1, 1)
    assert "not finite" in caplog.text
    assert "broken" in caplog.text
    log = GroupLog(tmp_path / "groups.jsonl")
    log.write(0, judged.groups)
    log.write(1, judged.groups)
    GroupLog(tmp_path / "groups.jsonl").write(1, judged.groups[:1])  # a resumed run makes batch 1 again
    lines = [json.loads(line) for line in (tmp_path / "groups.jsonl").read_text().splitlines()]
    assert [line["batch"] for line in lines] == [0, 0, 0, 1]
    assert lines[0]["rewards"] == [1, 2, None]
    assert lines[0]["lengths"] == [1, 2, 3]
    assert [line["diversity"] for line in lines[:2]] == [1, 0]
    assert lines[2]["failed"] == ["2: given raised (ValueError: broken)"]


def test_terms_of_a_reward_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each as it was given, before its weight, under its own name, and where another term failed too."""
    rollouts, _ = fixed([4, 1, 2, 3], [1] * 4)
    value = {"4": float("nan"), "1": 1.0, "2": 0.0, "3": 1.0}
    right = WeightedReward("correctness", lambda some: [value[c.answer[0]] for c in some], 2.0)
    size = WeightedReward("my.rewards:size", lambda some: [float(c.answer) for c in some], 0.1)
    judged = score_groups(rollouts, ["math", "vision"], {"math": RewardSum([right, size]), "vision": RewardSum([size])}, group=2)
    GroupLog(tmp_path / "groups.jsonl").write(0, judged.groups)
    lines = [json.loads(line) for line in (tmp_path / "groups.jsonl").read_text().splitlines()]
    assert [line["terms"] for line in lines] == [
        {"correctness": [None, 1], "my.rewards:size": [4, 1]},
        {"my.rewards:size": [2, 3]},
    ]
    assert lines[0]["rewards"] == [None, pytest.approx(2.1)]
    found = judged.statistics
    assert {name: value for name, value in found.items() if name.startswith("reward_")} == {
        "reward_math": pytest.approx(2.1),
        "reward_vision": pytest.approx(0.25),
        "reward_math_correctness": 1,
        "reward_math_my.rewards:size": 2.5,
        "reward_vision_my.rewards:size": 2.5,
    }
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: (figures.append(figure), path.touch()))
    with RunLog(tmp_path, "stage", steps=2, start=0) as log:
        for step in range(2):
            log.step({"step": step, "loss": 0.0, "rate": 1.0, **found})
        log.plot()
    legends = {axes.get_ylabel(): axes.get_legend() for axes in figures[0].axes}
    shown = {name: [text.get_text() for text in legend.get_texts()] for name, legend in legends.items() if legend is not None}
    assert shown["reward"] == ["reward", "reward_math", "reward_vision"]
    assert shown["terms"] == ["math_correctness", "math_my.rewards:size", "vision_my.rewards:size"]


def test_what_has_no_reward_or_nothing_to_compare_with_is_in_no_loss() -> None:
    method, nan = unigrpo(Systematic()), float("nan")
    reward_B = torch.tensor([1, 3, nan, nan, nan, 5, 2, 2, 2], dtype=torch.float64)
    advantage_B = group_advantages(method, reward_B, group=3)
    assert advantage_B[2:].tolist() == [0] * 7
    assert advantage_B[:2].tolist() == pytest.approx([-1, 1], abs=1e-3)
    rollouts, _ = fixed([1] * 9, [2] * 9)
    length_B = with_gradient(rollouts.canvas, reward_B, group=3).editable_BL.sum(1)
    assert length_B.tolist() == [2, 2, 0, 0, 0, 0, 0, 0, 0]


def test_rewards_never_see_what_geneval_asks_for() -> None:
    rng = np.random.default_rng(0)
    tested = {prompt.meaning for category in CATEGORIES for prompt in prompts(category, rng, 100)}
    asked = [PROMPTS["image"](rng).target for _ in range(2000)]
    seen = {about.meaning for about in asked if isinstance(about, GenPrompt | Drawable)}
    assert len(seen) > 500
    assert not tested & seen
    one_group = {meaning for meaning in seen if len(meaning.groups) == 1}
    assert {len(meaning.groups) for meaning in tested} == {1, 2}
    groups = [group for meaning in one_group for group in meaning.groups]
    assert {group.shape for group in groups if group.color is None and group.count == 1} == {"square", "triangle"}
