"""Fairness of studies: equal views for every method, the same examples for every model, means with their spread."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from experiments.report import curve, smooth, spread_of
from experiments.study import StudyRecipe, study_noising
from tests.helpers import SMALL, row

from mmada.canvas import Canvas
from mmada.evaluation.measure import Measured
from mmada.nano.measures import STUDIED
from mmada.registry import RECIPES
from mmada.rl import draw_views


def test_the_arms_of_the_league_have_as_many_views() -> None:
    """Those of all updates on a batch."""
    league: StudyRecipe = RECIPES["study_league"]()
    canvas = Canvas.stack([row(list(range(12, 32)))] * 4)
    passes = {}
    for arm in league.arms:
        recipe = league.run_of(arm, 0)
        method = recipe.method.build()
        drawn = draw_views(
            method.masking,
            canvas,
            mask_id=SMALL.mask,
            updates=method.updates,
            group=2,
            generator=torch.Generator(),
            steps_BL=torch.ones_like(canvas.tokens_BL),
        )
        passes[arm] = (sum(len(views.tokens_KBL) for views in drawn), recipe.plan.steps / method.updates)
    assert passes == dict.fromkeys(league.arms, (12, 40))


def test_curves_and_spread() -> None:
    log = [{"equal": 0, "reward": 1.0}, {"kl": 0.0}, {"equal": 1}, {"equal": 0, "reward": 3.0}]
    assert curve(log) == [1, 1, 3]
    assert curve([{"equal": 1}, *log]) == [1, 1, 1, 3]
    assert curve([{"equal": 1}]) == []
    assert smooth([1, 2, 3, 6], 2).tolist() == [1, 1.5, 2.5, 4.5]
    assert spread_of([0.25, 0.75]) == {"value": 0.5, "low": 0.25, "high": 0.75, "seeds": 2, "each": [0.25, 0.75]}


@pytest.mark.parametrize("measures", [{"dice": 4}, {"coin": 2, "dice": 4}, {"dice": 4, "coin": 2}])
def test_a_measure_has_its_examples_whichever_others_there_are(
    folder: Path, measures: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def thrown(name: str) -> Any:
        return lambda model, rng, count, split: Measured({name: rng.random(count).tolist(), "split": [split == "test"]})

    for name in ("dice", "coin"):
        monkeypatch.setitem(STUDIED, name, (thrown(name), 4))
    study = replace(study_noising(), measures={"dice": 4})
    expected = study.judged(folder, folder)["dice"]
    assert replace(study, measures=measures).judged(folder, folder)["dice"] == expected
    assert study.judged(folder, folder)["split"] == {"value": 0.0, "n": 1}
    assert replace(study, split="test").judged(folder, folder)["split"] == {"value": 1.0, "n": 1}
    if "coin" in measures:
        assert replace(study, measures={"coin": 4}).judged(folder, folder)["coin"] != expected
