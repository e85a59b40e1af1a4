"""The nano world: splits that cannot overlap, questions, captions, arithmetic and the detector, each checked independently."""

import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from mmada.nano.world.arithmetic import HELD_OUT_NUMBERS, check_steps, extract_answer, plain_equation, problem
from mmada.nano.world.captions import describe, drawable, satisfies
from mmada.nano.world.detector import detect, shows_flag
from mmada.nano.world.digits import digit_image, digit_indices, digit_label, recognise
from mmada.nano.world.drills import drill
from mmada.nano.world.flags import FLAGS, flag_picture
from mmada.nano.world.geneval import CATEGORIES, judge, prompts
from mmada.nano.world.knowledge import knowledge_item
from mmada.nano.world.questions import KINDS, ask_about, check_reasoning
from mmada.nano.world.render import AUGMENTED, CANONICAL, Style, render
from mmada.nano.world.scenes import COLORS, HELD_OUT, SHAPES, Scene, Thing, sample_scene, split_of


def random(seed: int) -> np.random.Generator:
    return np.random.default_rng((77, seed))


def test_splits_share_no_scene_no_caption_no_problem_no_digit() -> None:
    seen: dict[str, dict[str, set[str]]] = {}
    for split in ("train", "validation", "test"):
        rng = random(1)
        scenes = {sample_scene(rng, split).key for _ in range(300)}
        problems = {problem(rng, split).key for _ in range(100)}
        knowledge = {k.prompt for k in (knowledge_item(rng, split, flags=0.0) for _ in range(60))}
        digits = {str(i) for i in digit_indices(split)}
        seen[split] = {"scenes": scenes, "problems": problems, "digits": digits, "knowledge": knowledge}
        assert all(split_of(key) == split for key in scenes | problems)
    for kind in ("scenes", "problems", "digits"):
        for a, b in (("train", "test"), ("train", "validation"), ("validation", "test")):
            assert not seen[a][kind] & seen[b][kind]
    assert sum(len(seen[s]["digits"]) for s in seen) == 1797


def test_held_out_pairs_and_numbers_never_occur_in_training() -> None:
    rng = random(2)
    for _ in range(500):
        assert not sample_scene(rng).held_out
        assert not drawable(rng).scene.held_out
        numbers = {int(n) for n in re.findall(r"\d+", problem(rng).text + plain_equation(rng))}
        assert not numbers & set(HELD_OUT_NUMBERS)
    assert all((t.color, t.shape) in HELD_OUT for t in sample_scene(rng, "test", held_out=True, count=1).things)


def recount(scene: Scene, words: str) -> int:
    """Things that some words speak of ("red circles", "objects"), counted without the module's own help."""
    parts = words.split()
    colors = [c for c in COLORS if c in parts]
    shapes = [s for s in SHAPES if s in parts or f"{s}s" in parts]
    return sum((not colors or t.color in colors) and (not shapes or t.shape in shapes) for t in scene.things)


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_answer_is_right_by_an_independent_count(kind: str) -> None:
    rng = random(3)
    checked = 0
    for _ in range(150):
        scene = sample_scene(rng)
        question = ask_about(scene, rng, kind)
        if question.kind != kind:
            continue
        checked += 1
        words = question.text.rstrip("?.")
        if kind == "exist":
            assert question.answer == ("yes" if recount(scene, words) else "no")
            assert bool(question.negative) == (question.answer == "no")
        elif kind == "count" or kind == "sum":
            assert question.answer == str(recount(scene, words))
        elif kind == "compare":
            left, right = re.split(r" than | as (?=\S+(?: objects)?$)", words)
            a, b = recount(scene, left), recount(scene, right)
            truth = a > b if "more" in words else a < b if "fewer" in words else a == b
            assert question.answer == ("yes" if truth else "no")
        elif kind in ("color", "shape", "place"):
            matching = [t for t in scene.things if recount(Scene((t,)), words)]
            values = {getattr(t, kind) for t in matching}
            assert values == {question.answer}
        else:
            names = re.findall(rf"(?:(?:{'|'.join(COLORS)}) )?(?:{'|'.join(SHAPES)})", words)
            one, two = ([t for t in scene.things if recount(Scene((t,)), n)] for n in names)
            assert len(one) == len(two) == 1
            gap = {
                "above": two[0].row - one[0].row,
                "below": one[0].row - two[0].row,
                "left": two[0].col - one[0].col,
                "right": one[0].col - two[0].col,
            }[next(w for w in ("above", "below", "left", "right") if f" {w} " in words)]
            assert question.answer == ("yes" if gap > 0 else "no")
    assert checked > 20


def test_traces_are_verified_and_wrong_ones_refused() -> None:
    rng = random(4)
    for _ in range(100):
        scene = sample_scene(rng)
        question = ask_about(scene, rng)
        assert check_reasoning(question.reasoning, question)
        for word, other in (("red", "blue"), ("circle", "star"), ("top", "bottom"), (".", ". more.")):
            if word in question.reasoning:
                assert not check_reasoning(question.reasoning.replace(word, other, 1), question)


def test_captions_mean_their_own_scene_and_no_other() -> None:
    rng = random(5)
    confused = 0
    for _ in range(200):
        mine, other = drawable(rng), drawable(rng)
        assert satisfies(mine.meaning, mine.scene.things)
        assert not satisfies(mine.meaning, mine.scene.things[1:])
        confused += satisfies(mine.meaning, other.scene.things)
    assert confused <= 6


def test_a_caption_that_names_every_color_has_one_picture() -> None:
    rng = random(14)
    pictures: dict[str, object] = {}
    for _ in range(2000):
        made = drawable(rng)
        if all(group.color for group in made.meaning.groups):
            assert pictures.setdefault(made.text, made.scene) == made.scene
    assert len(pictures) > 1000


def test_relations_and_positions_are_judged() -> None:
    rng = random(6)
    prompt = next(p for p in prompts("position", rng, 50) if p.meaning.relation == "above")
    first, second = prompt.meaning.groups
    above = [Thing(0, 1, first.shape or "", first.color or ""), Thing(2, 1, second.shape or "", second.color or "")]
    assert satisfies(prompt.meaning, above)
    assert not satisfies(prompt.meaning, [replace(above[0], row=2), replace(above[1], row=0)])


def test_arithmetic_traces_are_verified_and_wrong_ones_refused() -> None:
    rng = random(7)
    for _ in range(200):
        question = problem(rng)
        assert check_steps(question.reasoning, question)
        assert question.answer == extract_answer(f"the answer is {question.answer}.")
        last = question.steps[-1]
        assert not check_steps(question.reasoning.replace(f"= {last.result}.", f"= {last.result + 1}."), question)
        assert not check_steps("1 + 1 = 2.", question) or question.reasoning == "1 + 1 = 2."
        assert not check_steps("", question)
        assert not check_steps(question.reasoning + " 3 + 4", question)


@pytest.mark.parametrize(("style", "blur", "least"), [(CANONICAL, 0.0, 60), (CANONICAL, 0.7, 58), (AUGMENTED, 0.0, 56)])
def test_the_detector_finds_what_was_drawn(style: Style, blur: float, least: int) -> None:
    rng = random(8)
    right = 0
    for _ in range(60):
        scene = sample_scene(rng)
        if any(t.color == "white" for t in scene.things):
            scene = Scene(scene.things, "grey")
        picture = Image.fromarray(render(scene, rng, style)).filter(ImageFilter.GaussianBlur(blur))
        found = detect(np.asarray(picture))
        right += sorted((t.color, t.shape) for t in found) == sorted((t.color, t.shape) for t in scene.things)
    assert right >= least


def test_detected_positions_are_those_drawn() -> None:
    things = tuple(Thing(r, c, "circle", "red") for r in range(3) for c in range(3))
    found = detect(render(Scene(things), random(9), CANONICAL))
    assert [(round(t.y), round(t.x)) for t in found] == [(t.row, t.col) for t in things]


def test_every_flag_is_its_own() -> None:
    for flag in FLAGS:
        assert [other for other in FLAGS if shows_flag(flag_picture(flag), other)] == [flag]


def test_geneval_judges_the_right_picture_and_refuses_the_wrong_one() -> None:
    rng = random(10)
    for category in CATEGORIES:
        for held_out in (False, True):
            for prompt in prompts(category, rng, 4, held_out=held_out):
                slots = [g for g in prompt.meaning.groups for _ in range(g.count)]
                cells = [(0, 0), (2, 2), (0, 2), (2, 0)]
                if prompt.meaning.relation in ("below", "right"):
                    cells = [(2, 2), (0, 0)]
                things = [Thing(r, c, g.shape or "star", g.color or "red") for (r, c), g in zip(cells, slots, strict=False)]
                assert held_out == any(t.held_out for t in things) or category == "single object" or not held_out
                assert judge(prompt, render(Scene(tuple(sorted(things))), rng, CANONICAL))
                assert not judge(prompt, render(Scene((Thing(1, 1, "circle", "purple"), *things)), rng, CANONICAL))


def test_real_digits_are_recognised() -> None:
    indices = digit_indices("test")[:60]
    seen = recognise(np.stack([digit_image(i) for i in indices]))
    assert (seen == np.array([digit_label(i) for i in indices])).mean() > 0.95
    moved = np.stack([digit_image(i, random(11)) for i in indices])
    assert moved.shape == (60, 64, 64, 3)


def test_descriptions_read_in_order() -> None:
    scene = Scene((Thing(0, 0, "circle", "red"), Thing(1, 1, "square", "blue", "small")))
    assert describe(scene) == "red circle top left, small blue square center."


def test_drills_ask_what_is_so_and_then_whether_it_is() -> None:
    rng = np.random.default_rng(3)
    answers: dict[str, set[str]] = {}
    for _ in range(400):
        scene = sample_scene(rng)
        for question in drill(scene, rng):
            answers.setdefault(question.kind, set()).add(question.answer)
            if question.kind not in ("side", "relation"):
                continue
            places = {t.name: t for t in scene.things if f"{t.name} {t.place}" in question.reasoning}
            names = sorted(places, key=question.reasoning.index)
            x, y = places[names[0]], places[names[1]]
            truth = {"above": x.row < y.row, "below": x.row > y.row, "left": x.col < y.col, "right": x.col > y.col}
            words = [w for w in truth if f" {w} " in question.text]
            assert truth[question.answer] if question.kind == "side" else truth[words[0]] == (question.answer == "yes")
    assert answers["side"] == {"above", "below", "left", "right"}
    assert answers["relation"] == answers["compare"] == {"yes", "no"}
    assert "same" in answers["more"]
