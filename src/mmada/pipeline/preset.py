"""Preset: default sampling options and prompt settings of a model, the ``preset.json`` of its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

from mmada.errors import InputError, check_choice, check_flag, check_whole, kind_of, quote, unknown_name, with_article
from mmada.io.atomic import write_json
from mmada.io.documents import read_json
from mmada.pipeline.grids import Fit
from mmada.pipeline.options import IMAGE_DEFAULTS, TEXT_DEFAULTS, ImageSampling, Sampling, TextSampling
from mmada.sampling.kv_reuse import CACHES
from mmada.sampling.parallel import RULES
from mmada.tokenizers.prompt import PromptFormat

__all__ = ["Preset"]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Sampling defaults and prompt settings of a model (``preset.json``).

    ``cot_instruction``: the text before a message that asks for reasoning, as in training. ``answer``, ``reasoning`` and
    ``thought``: options of direct answers, of answers with reasoning, and of the thought before an image; ``image``: of images.
    Options that they do not give are filled in. ``ask_thinking``: whether questions about images use reasoning by default.
    ``max_length``: longest canvas, in tokens. ``image_size``: height and width of an image in pixels, None as the image
    tokenizer was trained. ``fit``: how an image of another shape becomes a square: its middle ("crop"), all of it out of
    proportion ("squash") or with white around it ("pad"). ``dtype``: of the weights; "stored" is that of the file.
    ``image_dtype``: of the image tokenizer; in half precision some codes change (benchmarks/image_types.py). ``prompt_format``:
    quirks of the prompts.
    """

    cot_instruction: str
    answer: TextSampling = field(default_factory=lambda: TextSampling(length=16, steps=16, block=16))
    reasoning: TextSampling = field(default_factory=lambda: TextSampling(length=96, steps=96, block=16))
    thought: TextSampling = field(default_factory=lambda: TextSampling(length=24, steps=24, block=24))
    image: ImageSampling = field(default_factory=ImageSampling)
    ask_thinking: bool = False
    max_length: int = 512
    image_size: int | None = None
    fit: Fit = "crop"
    dtype: Literal["float32", "bfloat16", "float16", "stored"] = "float32"
    image_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    prompt_format: PromptFormat = field(default_factory=PromptFormat)

    def __post_init__(self) -> None:
        for name, kind in _PARTS.items():
            if not isinstance(getattr(self, name), kind):
                raise InputError(f"{name} is {kind_of(getattr(self, name))}; give {with_article(kind.__name__)}")
        for name in ("answer", "reasoning", "thought"):
            object.__setattr__(self, name, getattr(self, name).over(TEXT_DEFAULTS))
        object.__setattr__(self, "image", self.image.over(IMAGE_DEFAULTS))
        if self.image_size is not None:
            check_whole("image_size", self.image_size, 1)
        check_flag("ask_thinking", self.ask_thinking)
        check_choice("fit", self.fit, get_args(Fit))
        check_choice("dtype", self.dtype, ("float32", "bfloat16", "float16", "stored"))
        check_choice("image_dtype", self.image_dtype, ("float32", "bfloat16", "float16"))
        if not isinstance(self.cot_instruction, str) or not self.cot_instruction.strip():
            raise InputError(f"cot_instruction must be the text used in training, got {quote(self.cot_instruction)}")
        check_whole("max_length", self.max_length, 1)

    def with_options(self, text: TextSampling | None, image: ImageSampling | None) -> Preset:
        """The preset with other options for all texts, and for images."""
        if text is not None:
            plans = {name: text.over(getattr(self, name)) for name in ("answer", "reasoning", "thought")}
            self = replace(self, **plans)  # type: ignore[arg-type]  # noqa: PLW0642
        return self if image is None else replace(self, image=image.over(self.image))

    def save(self, folder: str | Path) -> None:
        """Write ``preset.json``. Raises InputError for a rule of one's own, which has no name to be found by."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, kind in _PARTS.items():
            values[name] = _plain(values[name]) if issubclass(kind, Sampling) else asdict(values[name])
        write_json(Path(folder) / "preset.json", values)

    @staticmethod
    def load(folder: str | Path) -> Preset:
        """Read the ``preset.json`` of a model folder. Raises InputError where it is missing, damaged or unknown in part."""
        path = Path(folder) / "preset.json"
        values = read_json(path, "preset", f"it holds {', '.join(f.name for f in fields(Preset))}")
        try:
            return Preset.of(values)
        except InputError as error:
            raise InputError(f"preset {quote(path)}: {error}") from error

    @staticmethod
    def of(values: Mapping[str, Any]) -> Preset:
        """From plain values, as in a file. Raises InputError for values without names and for unknown names."""
        if not isinstance(values, Mapping):
            raise InputError(f"it holds {quote(values, 40)}; it needs an object with a cot_instruction")
        given = dict(values)
        for name, kind in _PARTS.items():
            if name in given:
                given[name] = _from_mapping(name, kind, given[name])
        return cast(Preset, _from_mapping("preset", Preset, given))


_PARTS: dict[str, type[Any]] = {
    "answer": TextSampling,
    "reasoning": TextSampling,
    "thought": TextSampling,
    "image": ImageSampling,
    "prompt_format": PromptFormat,
}


def _from_mapping(name: str, kind: type[Any], values: object) -> Any:
    if not isinstance(values, Mapping):
        raise InputError(f"{name} holds {quote(values, 40)}; it needs an object")
    known = [f.name for f in fields(kind)]
    for key in values:
        if key not in known:
            raise unknown_name(f"option of {name}", str(key), known)
    missing = [f.name for f in fields(kind) if f.name not in values and f.default is MISSING and f.default_factory is MISSING]
    if missing:
        raise InputError(f"{name} lacks {', '.join(missing)}; add it")
    return kind(**values)


def _plain(sampling: Sampling) -> dict[str, Any]:
    """The options that are given, rules by their names."""
    plain = sampling.given
    for field_name, known in (("parallel", RULES), ("reuse", CACHES)):
        rule = plain.get(field_name)
        if rule is None or isinstance(rule, str):
            continue
        name = next((name for name, kind in known.items() if type(rule) is kind), None)
        if name is None:
            raise InputError(f"{field_name} {rule!r} has no name and cannot be saved in a preset; use one of {', '.join(known)}")
        numbers = [str(getattr(rule, f.name)) for f in fields(rule)]
        plain[field_name] = f"{name}={','.join(numbers)}" if numbers else name
    return plain
