"""Prompts: chat, questions about images, drawing and infilling as canvases, the same for training and sampling.

    language    <bos> text <eos>
    chat        <|mmu|> <|soi|> codes <|eoi|> for each image, <bos>, then each turn:
                <|start_header_id|> role <|end_header_id|> \\n text <|eot_id|>
    draw        <|t2i|> <bos> caption <eos> <|soi|> codes <|eoi|>
    think+draw  <|r2i|> <bos> caption <eos> <think> ... </think> <eos>* <|soi|> codes <|eoi|>
    edit        <|mmu|> <|soi|> codes <|eoi|> for each source, then as draw

Training canvases hold the true tokens with ``editable`` marking what may be masked; sampling canvases hold mask tokens there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch

from mmada.canvas import Canvas, Segment
from mmada.errors import InputError, check_choice, check_whole, quote
from mmada.tokenizers.text import TextTokenizer
from mmada.tokenizers.vocabulary import Codes, Vocabulary

__all__ = ["MASK_TEXT", "Message", "PromptFormat", "Prompter", "split_thinking", "well_formed", "with_thinking"]

MASK_TEXT = "[MASK]"
LITERAL_EOT = "<eot_id>"
"""End of a turn in part of the released training data: ordinary text, not the end-of-turn token."""
THOUGHT = re.compile(r"\s*<think>(?P<thought>.*?)</think>(?P<answer>.*)", re.S)


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, kw_only=True)
class PromptFormat:
    """Deviations of a checkpoint's prompts from the default format; each released one has some
    (docs/explanation/compatibility.md).

    ``caption_length``: captions are cut to this many ids, bos and eos included; None: not cut. ``pads``: padding to the left of
    a shorter caption: "none" (equal in result to masked padding, without its cost), "masked" (present but not attended to: the
    reference's inference) or "visible" (attended to: how the released weights were trained). ``literal_eot``: turns end with
    the plain text ``<eot_id>`` instead of the end-of-turn token.
    """

    caption_length: int | None = None
    pads: Literal["none", "masked", "visible"] = "none"
    literal_eot: bool = False

    def __post_init__(self) -> None:
        if self.caption_length is not None:
            check_whole("caption_length", self.caption_length, 3)
        check_choice("pads", self.pads, ("none", "masked", "visible"))
        if self.pads != "none" and self.caption_length is None:
            raise InputError(f"pads are {self.pads!r} but caption_length is not given; say how long a caption is with its pads")


@dataclass(frozen=True)
class Prompter:
    """Builder of the canvases of one model.

    ``cot_instruction``: text put before the last user message to request reasoning. ``image_tokens``: codes of a full picture.
    """

    text: TextTokenizer
    vocabulary: Vocabulary
    cot_instruction: str
    image_tokens: int
    prompt_format: PromptFormat = field(default_factory=PromptFormat)

    def language(self, text: str) -> Canvas:
        """Plain text, all of it editable but the first token (stage 1 text)."""
        v = self.vocabulary
        return Canvas.join([Segment([v.bos]), Segment([*self.text.encode(text), v.eos], editable=True)])

    def gaps(self, parts: Sequence[tuple[str, bool]]) -> Canvas:
        """Text in (piece, editable) parts: a training canvas for infilling."""
        v = self.vocabulary
        pieces = [Segment(self.text.encode(text), editable=editable) for text, editable in parts]
        return Canvas.join([Segment([v.bos]), *pieces, Segment([v.eos])])

    def chat(
        self,
        messages: Sequence[Message],
        *,
        images: Sequence[Codes] = (),
        thinking: bool = False,
        answer_length: int | None = None,
        padding: int = 0,
    ) -> Canvas:
        """A conversation, about ``images`` if there are any: the codes of each precede it.

        ``answer_length``: that many mask tokens follow a new assistant header, and earlier turns are context (sampling). Without
        it every assistant turn is editable, its ``<|eot_id|>`` too, and ``padding`` editable end-of-text tokens follow the last
        (training, eq. 2).
        """
        v = self.vocabulary
        pieces: list[Segment] = []
        for codes in images:
            pieces += [Segment([v.mmu, v.soi]), Segment(v.tokens_of(codes), modality="image"), Segment([v.eoi])]
        pieces.append(Segment([v.bos]))
        last_user = max((i for i, m in enumerate(messages) if m.role == "user"), default=-1)
        for i, message in enumerate(messages):
            content = message.content.strip()
            if thinking and i == last_user:
                content = f"{self.cot_instruction}\n{content}"
            if message.role == "assistant":
                target = [*self.text.encode(content), v.eot]
                pieces += [Segment(self.header("assistant")), Segment(target, editable=answer_length is None)]
            elif self.prompt_format.literal_eot:
                pieces.append(Segment(self.header(message.role, f"{content}{LITERAL_EOT}")))
            else:
                pieces.append(Segment([*self.header(message.role, content), v.eot]))
        if answer_length is not None:
            pieces += [Segment(self.header("assistant")), Segment([v.mask] * answer_length, editable=True)]
        elif padding:
            pieces.append(Segment([v.eos] * padding, editable=True))
        return Canvas.join(pieces)

    def header(self, role: str, content: str = "") -> list[int]:
        """``<|start_header_id|>role<|end_header_id|>\\n`` and a content, which is tokenised together with that line end."""
        role_tokens, newline = self._fixed_tokens
        start = role_tokens[role] if role in role_tokens else self._role(role)
        return [*start, *(self.text.encode(f"\n{content}") if content else newline)]

    def _role(self, role: str) -> list[int]:
        return [self.vocabulary.start_header, *self.text.encode(role), self.vocabulary.end_header]

    @cached_property
    def _fixed_tokens(self) -> tuple[dict[str, list[int]], list[int]]:
        """(tokens of the header of each role, those of its line end); a canvas has one for every turn."""
        return {role: self._role(role) for role in ("system", "user", "assistant")}, self.text.encode("\n")

    def caption(self, task: int, caption: str) -> list[Segment]:
        """The task token and a caption, cut and padded as the prompt format says."""
        v, rules = self.vocabulary, self.prompt_format
        tokens = [task, v.bos, *self.text.encode(caption.strip()), v.eos]
        if rules.caption_length is None:
            return [Segment(tokens)]
        room = rules.caption_length + 1  # the task token is not counted
        if len(tokens) > room:
            tokens = [*tokens[: room - 1], v.eos]
        pads = 0 if rules.pads == "none" else room - len(tokens)
        return [Segment([v.ipad] * pads, valid=rules.pads == "visible"), Segment(tokens)]

    def draw(
        self,
        caption: str,
        *,
        codes: Codes | None = None,
        think: str | None = None,
        think_length: int = 0,
        edit: Literal["image", "think"] = "image",
    ) -> Canvas:
        """Text-to-image, with known ``codes`` as context and the unknown ones (-1) to be filled; without ``codes``, all are.

        ``think_length`` > 0 puts a thought before the picture: ``think`` (training; padded with end-of-text tokens) or mask
        tokens (sampling, where thought and picture are both editable). With ``edit="think"`` the thought is the target and the
        picture stays fully masked context.
        """
        v = self.vocabulary
        tokens_N = v.tokens_of(torch.full((self.image_tokens,), -1) if codes is None else codes)
        task = v.r2i if think_length else v.t2i
        pieces = self.caption(task, caption)
        if think is not None:
            thought = self.text.encode(f"<think> {think}</think>")[:think_length]
            thought += [v.eos] * (think_length - len(thought))
            pieces.append(Segment(thought, editable=edit == "think"))
        elif think_length:
            pieces.append(Segment([v.mask] * think_length, editable=True))
        unknown_N = (tokens_N == v.mask) if edit == "image" else False
        return Canvas.join([*pieces, Segment([v.soi]), Segment(tokens_N, unknown_N, "image"), Segment([v.eoi])])

    def draw_example(
        self, caption: str, codes: Codes, *, hole: Sequence[bool] | np.ndarray[Any, Any] | torch.Tensor | None = None
    ) -> Canvas:
        """A training canvas for drawing: the true codes, editable everywhere or only inside ``hole``."""
        v = self.vocabulary
        tokens_N = v.tokens_of(codes)
        inside_N = True if hole is None else torch.as_tensor(hole).flatten()
        if isinstance(inside_N, torch.Tensor) and len(inside_N) != len(tokens_N):
            raise InputError(f"hole has {len(inside_N)} cells for {len(tokens_N)} codes; give one for each")
        picture = Segment(tokens_N, inside_N, "image")
        return Canvas.join([*self.caption(v.t2i, caption), Segment([v.soi]), picture, Segment([v.eoi])])

    def think_draw_example(self, caption: str, think: str, think_length: int, codes: Codes) -> Canvas:
        """A training canvas for the picture that follows a given thought."""
        tokens_N = self.vocabulary.tokens_of(codes)  # of a picture of any size
        blank = self.draw(caption, codes=torch.full_like(tokens_N, -1), think=think, think_length=think_length)
        tokens_BL = blank.tokens_BL.clone()
        tokens_BL[blank.editable_BL] = tokens_N
        return blank.with_tokens(tokens_BL)

    def edit_example(self, instruction: str, codes: Sequence[Codes]) -> Canvas:
        """A training canvas for editing: pictures, an instruction, and the picture made by it, the last of ``codes``."""
        v = self.vocabulary
        pieces: list[Segment] = []
        for source in codes[:-1]:
            pieces += [Segment([v.mmu, v.soi]), Segment(v.tokens_of(source), modality="image"), Segment([v.eoi])]
        target = Segment(v.tokens_of(codes[-1]), editable=True, modality="image")
        return Canvas.join([*pieces, *self.caption(v.t2i, instruction), Segment([v.soi]), target, Segment([v.eoi])])

    def infill(self, text: str) -> Canvas:
        """Text with gaps: every ``[MASK]`` is one masked token, and a space directly before it belongs to it."""
        v = self.vocabulary
        if MASK_TEXT not in text:
            raise InputError(
                f"text {quote(text)} has no gap; write {MASK_TEXT} for each token to fill, as in '2 + {MASK_TEXT} = 5'"
            )
        pieces = [Segment([v.bos])]
        parts = text.split(MASK_TEXT)
        for i, part in enumerate(parts):
            gap_follows = i < len(parts) - 1
            shown = part[:-1] if gap_follows and part.endswith(" ") else part
            pieces.append(Segment(self.text.encode(shown)))
            if gap_follows:
                pieces.append(Segment([v.mask], editable=True))
        return Canvas.join([*pieces, Segment([v.eos])])


def split_thinking(answer: str) -> tuple[str, str]:
    """(answer alone, reasoning) of a text such as ``<think> reasoning </think> answer``.

    A reasoning without an end has no answer yet; one without its opening tag begins with the text.
    """
    before, opened, rest = answer.partition("<think>")
    if not opened:
        thought, closed, tail = answer.partition("</think>")
        return (tail.strip(), thought.strip()) if closed else (answer.strip(), "")
    thought, _, tail = rest.partition("</think>")
    return (before + tail).strip(), thought.strip()


def with_thinking(thinking: str, answer: str) -> str:
    """The format of the paper for every task: the reasoning inside tags, then the answer."""
    return f"<think> {thinking}</think> {answer}"


def well_formed(written: str) -> bool:
    """Whether a text is ``<think> reasoning </think> answer``: each tag once, in this order, and neither part empty."""
    match = THOUGHT.fullmatch(written)
    if match is None or written.count("<think>") > 1 or written.count("</think>") > 1:
        return False
    return bool(match["thought"].strip()) and bool(match["answer"].strip())
