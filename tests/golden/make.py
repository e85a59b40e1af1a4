"""Computes the golden values of `tests/test_golden.py`; ``python -m tests.golden.make [family ...]`` writes them anew.

One function a family, one JSON file each. They call what users call, so that they outlive moves and renames; what must know
more than that (the tokens of a frame, names of modules) is in `tests/golden/inside.py`.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # as in the tests, before anything imports torch
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "agg"

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from tests.golden import inputs
from tests.golden.inside import (
    NANO,
    Seen,
    Values,
    canvases,
    changed,
    codes,
    nano,
    random_released,
    released,
    shortened,
    speed_of,
    thoughts,
    train,
)  # fmt: skip

HERE = Path(__file__).parent


class Enough(Exception):
    """The prompt has been seen."""


def key(*parts: object) -> str:
    """The key of a value in its file."""
    return " | ".join(str(part) for part in parts)


def shades(picture: Any) -> list[float]:
    """Mean red, green and blue of a picture and of its middle: enough to see that the codes were decoded as before."""
    pixels = np.asarray(picture.convert("RGB"), dtype=np.float64)
    height, width = pixels.shape[:2]
    middle = pixels[height // 4 : -height // 4, width // 4 : -width // 4]
    return [round(float(mean), 2) for part in (pixels, middle) for mean in part.mean((0, 1))]


def told(result: Any) -> Values:
    """A text result."""
    found = {"text": result.text, "thinking": result.thinking, "tokens": list(result.tokens), "passes": result.nfe}
    return {name: value for name, value in found.items() if value != ""}


# Texts and answers


def texts(batches: list[tuple[inputs.Options, list[str]]] = inputs.TEXTS, **options: Any) -> Values:
    """Texts that the bundled model writes."""
    found: dict[str, Any] = {}
    for given, prompts in batches:
        results = nano().generate(list(prompts), **given, **options)
        found |= {key(prompt, given): told(result) for prompt, result in zip(prompts, results, strict=True)}
    return found


def infills() -> Values:
    """Gaps that it fills."""
    return {key(text, given): told(nano().infill(text, **given)) for given, text in inputs.INFILLS}


def answers(batches: list[tuple[inputs.Options, list[tuple[str, str]]]] = inputs.QUESTIONS, **options: Any) -> Values:
    """Answers about pictures."""
    found: dict[str, Any] = {}
    for given, asked in batches:
        pictures = [inputs.picture(inputs.SCENES[name]) for name, _ in asked]
        results = nano().ask(pictures, [question for _, question in asked], **given, **options)
        found |= {key(name, question, given): told(result) for (name, question), result in zip(asked, results, strict=True)}
    return found


def own_answers() -> Values:
    """Answers about pictures that the model drew."""
    captions = ["a red circle above a blue square", "two green stars", "a yellow triangle"]
    asked = ["what color is the circle?", "how many stars are there?", "what shape is the yellow object?"]
    results = nano().ask(nano().draw(captions, seed=40, steps=6), asked)
    return {key(caption, question): told(r) for caption, question, r in zip(captions, asked, results, strict=True)}


# Pictures


def drawn(captions: list[str], given: Mapping[str, Any], model: Any = None, name: str = "", **options: Any) -> Values:
    """Codes of a batch of drawings."""
    seen = Seen()
    pictures = (model or nano()).draw(list(captions), callback=seen, **given, **options)
    assert len(seen.last) == 1
    rows = zip(captions, codes(seen.last[0]), thoughts(seen.last[0]), pictures, strict=True)
    found: dict[str, Any] = {}
    for row, (caption, grid, thought, picture) in enumerate(rows):
        value = {"codes": grid, "size": list(picture.size), "shades": shades(picture), "passes": seen.last[0].nfe[row]}
        if thought:
            value |= {"thought": thought, "thinking": picture.info["thinking"]}
        found[key(caption, dict(given), *[name] * bool(name))] = value
    return found


def drawings() -> Values:
    """Pictures from captions, of several seeds, guidance, paces and schedules, with and without a thought."""
    found: dict[str, Any] = {}
    for given, captions in inputs.DRAWINGS:
        found |= drawn(captions, given)
    for schedule, captions in inputs.SCHEDULES.items():
        preset = nano().preset
        paced = nano().with_defaults(preset=changed(preset, image=changed(preset.image, schedule=schedule)))
        found |= drawn(captions, {"seed": 30, "steps": 6}, paced, schedule)
    return found


def fillings() -> Values:
    """Holes and edges of pictures filled: codes of every square that was worked on."""
    found: dict[str, Any] = {}
    for name, rows, columns, prompt, given in inputs.INPAINTINGS:
        seen = Seen()
        image = inputs.picture(inputs.SCENES[name])
        picture = nano().inpaint(image, inputs.hole(rows, columns), prompt, callback=seen, **given)
        value = {"codes": [codes(frame)[0] for frame in seen.last], "shades": shades(picture)}
        found[key("inpaint", name, rows, columns, prompt, given)] = value
    for name, prompt, options in inputs.EXTENSIONS:
        seen = Seen()
        picture = nano().extend(inputs.picture(inputs.SCENES[name]), prompt, callback=seen, **options)
        value = {"codes": [codes(frame)[0] for frame in seen.last], "size": list(picture.size), "shades": shades(picture)}
        found[key("extend", name, prompt, options)] = value
    return found


# Faster


def fast(name: str) -> Values:
    """Some texts, answers and drawings with an acceleration."""
    speed = speed_of(**SPEEDS[name])
    few = [(given, prompts[:4]) for given, prompts in inputs.TEXTS[:2]]
    asked = [(given, pairs[:count]) for (given, pairs), count in zip(inputs.QUESTIONS[:2], (5, 2), strict=True)]
    found = texts(few, **vars(speed)) | answers(asked, **vars(speed))
    captions = ["a red circle above a blue square", "a green star"]
    return found | drawn(captions, {"seed": 7, "steps": 8}, name=name, **vars(speed)) if name in PAINTS else found


SPEEDS = {"threshold": {"parallel": "threshold=0.9"}, "reuse": {"reuse": "block"}, "lookahead": {"lookahead": 3}}
PAINTS = ("threshold", "lookahead")


# Losses

SHORT = {
    "sample_prompts": "[a red circle]",
    "plan.steps": "4",
    "plan.save_every": "50",
    "plan.sample_every": "50",
    "plan.threads": "1",
    "plan.optim.warmup": "2",
    "rows": "3",
    "row_length": "192",
    "compile": "false",
    "image_sets.augmented": "6",
    "image_sets.canonical": "6",
    "image_sets.digits": "4",
    "image_sets.digit_variants": "1",
}
TINY = {"sizes.width": "32", "sizes.layers": "2", "sizes.mlp": "48", "sizes.heads": "2"}
GENTLE = {"plan.optim.lr": "1e-4", "plan.optim.muon_lr": "4e-4"}  # larger steps make more of rounding than 1e-4 of a loss
OWN = {"trajectories": "{math: 2, questions: 2, pictures: 2}"}
CLOCK = ("rate", "seconds", "seconds_rollout", "seconds_reward", "step")
REWARD = "tests.golden.make:varied"
POLICY = {
    "sample_prompts": "[a red circle]",
    "plan.steps": "2",
    "plan.save_every": "50",
    "plan.sample_every": "50",
    "plan.threads": "1",
    "plan.optim.warmup": "0",
    "plan.optim.lr": "1e-4",
    "tasks": "{math: 1, vision: 1, image: 1}",
    "rewards": str({task: {REWARD: 1.0} for task in ("math", "vision", "image")}),
    "group_size": "3",
    "method.updates": "2",
    "sampling.text.length": "16",
    "sampling.image.steps": "3",
    "bf16": "false",
    "device": "cpu",
}


def varied(completions: Iterable[Any]) -> list[float]:
    """A number for every completion that its text or its picture alone decides, mostly another one for each."""
    return [float(np.asarray(c.image).mean()) / 255 if c.image else sum(map(ord, c.raw_text)) % 97 / 97 for c in completions]


def log_of(name: str, settings: Mapping[str, str], start: Path) -> Values:
    """The rows of a short run by step, without the clock, and what its autocast was asked for."""
    with TemporaryDirectory() as folder, shortened() as autocast:
        out = Path(folder) / "run"
        train(name, settings, out, start)
        rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    asked = {str(value) for call in autocast.call_args_list for value in (*call.args, *call.kwargs.values())}
    steps = {f"step {row['step']}": {k: v for k, v in row.items() if k not in CLOCK} for row in rows}
    return steps | {"autocast": sorted(asked)}


def pretrained() -> Values:
    """`pretrain` of a tiny model with the image tokenizer of the bundled one."""
    with TemporaryDirectory() as folder:
        (Path(folder) / "image_tokenizer").symlink_to(NANO / "image_tokenizer")
        return log_of("pretrain", SHORT | TINY, Path(folder))


def reinforced(method: str) -> Values:
    """Two updates on one batch of rollouts of the bundled model."""
    return log_of("rl", POLICY | {"method.name": method}, NANO)


# Prompts


def begun(call: Callable[..., Any]) -> list[Values]:
    """The canvases that a call begins with; nothing is computed on them."""
    found = []

    def watch(frame: Any) -> None:
        found.extend(canvases(frame))
        raise Enough

    with suppress(Enough):
        call(callback=watch)
    return found


def prompts() -> Values:
    """Canvases of the bundled model before anything is filled."""
    model = nano()
    scene, mask = inputs.picture(inputs.SCENES["pair"]), inputs.hole(range(24), range(40, 64))
    calls = {
        "chat": partial(model.generate, "What is 2 + 3?"),
        "chat, spaces": partial(model.generate, "  tom has 3 pens.\nhow many?  "),
        "chat, other letters": partial(model.generate, "Überraschung: 7 × 8?"),
        "chat, thinking": partial(model.generate, "what is 2 + 3?", thinking=True),
        "chat, length": partial(model.generate, "what is 2 + 3?", length=5),
        "chat, batch": partial(model.generate, ["what is 2 + 3?", "anna has 9 books. how many?", "hi"], thinking=True),
        "chat, guided": partial(model.generate, "what is 2 + 3?", guidance=1.0, length=8),
        "ask": partial(model.ask, scene, "what color is the circle?"),
        "ask, thinking": partial(model.ask, scene, "what color is the circle?", thinking=True),
        "ask, batch": partial(model.ask, scene, ["what color is the circle?", "how many?"], length=4),
        "draw": partial(model.draw, "a red circle above a blue square"),
        "draw, thinking": partial(model.draw, "a red circle", thinking=True),
        "draw, batch": partial(model.draw, ["a red circle", "three black triangles in a row"]),
        "draw, size": partial(model.draw, "a red circle", size=(96, 64)),
        "inpaint": partial(model.inpaint, scene, mask, "a green square and a red star"),
        "inpaint, no words": partial(model.inpaint, scene, mask),
        "extend": partial(model.extend, scene, "a green square", right=2),
        "infill": partial(model.infill, "2 + [MASK] = 5"),
        "infill, many": partial(model.infill, "[MASK] circle above[MASK]  [MASK]"),
    }
    return {name: begun(call) for name, call in calls.items()}


def released_prompts() -> Values:
    """Canvases of random weights in the released layout, as each card says and with each quirk of the layout."""
    found, words = {}, inputs.RELEASED_TEXTS
    with TemporaryDirectory() as folder:
        home = Path(folder)
        random_released(home)
        for name in ("base", "mixcot", "llada"):
            model = released(home, name)
            for thinking in (False, True):
                found[key(name, "chat", thinking)] = begun(partial(model.generate, words, thinking=thinking, length=4))
            if name != "llada":
                found[key(name, "draw")] = begun(partial(model.draw, words, size=(32, 32)))
                found[key(name, "draw", True)] = begun(partial(model.draw, words[0], size=(32, 32), thinking=True))
        scene = inputs.picture(inputs.SCENES["pair"]).resize((32, 32))
        for name, layout in inputs.LAYOUTS.items():
            preset = {"cot_instruction": "draw this", "image_size": 32, "prompt_format": layout}
            (home / "model" / "preset.json").write_text(json.dumps(preset))
            model = released(home)
            for thinking in (False, True):
                found[key(name, "chat", thinking)] = begun(partial(model.generate, words, thinking=thinking, length=4))
                found[key(name, "draw", thinking)] = begun(partial(model.draw, words, thinking=thinking))
            found[key(name, "ask")] = begun(partial(model.ask, scene, words[1], length=4))
    return found


FAMILIES: dict[str, Callable[[], Values]] = {
    "texts": texts,
    "infills": infills,
    "answers": answers,
    "own_answers": own_answers,
    "drawings": drawings,
    "fillings": fillings,
    **{f"fast_{name}": partial(fast, name) for name in SPEEDS},
    "losses_pretrain": pretrained,
    "losses_instruct": partial(log_of, "instruct", SHORT | GENTLE, NANO),
    "losses_cot": partial(log_of, "cot", SHORT | GENTLE, NANO),
    "losses_distill": partial(log_of, "distill", SHORT | GENTLE | OWN, NANO),
    "losses_path_grpo": partial(reinforced, "path_grpo"),
    "losses_unigrpo": partial(reinforced, "unigrpo"),
    "prompts": prompts,
    "prompts_released": released_prompts,
}


def write(name: str) -> None:
    """Compute a family and write its file, a line a value."""
    torch.set_num_threads(1)
    lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in FAMILIES[name]().items()]
    (HERE / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    for chosen in sys.argv[1:] or FAMILIES:
        write(chosen)
