"""Methods that answer with text: generate, ask, chat, infill, score."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast, overload

import torch

from mmada.canvas import Canvas
from mmada.diffusion.loss import likelihood_bound
from mmada.errors import MAX_SEED, InputError, check_text, check_whole, kind_of
from mmada.io.images import ImageSource
from mmada.pipeline.engine import Callback, check_callback, listed, paired
from mmada.pipeline.grids import Fit, Grid
from mmada.pipeline.messages import conversations, read_messages
from mmada.pipeline.methods import OTHER_OPTIONS, Methods, check_thinking
from mmada.pipeline.options import TextSampling, chosen, takes_options
from mmada.pipeline.results import LikelihoodBound, StopAtText, TextResult
from mmada.sampling import Phase
from mmada.tokenizers.prompt import Message

__all__ = ["TextMethods"]

MAX_SAMPLES = 2**20
"""Largest number of draws of `score`."""
Conversation = tuple[Sequence[Message], Sequence[Grid], str]
"""(turns, codes of the images before them, the note on those images)."""


class TextMethods(Methods):
    """The text methods of `MMaDA`; how options, lists, seeds and images are given: see `mmada.pipeline.api`."""

    @overload
    def generate(self, prompt: str, **options: Any) -> TextResult: ...
    @overload
    def generate(self, prompt: list[str], **options: Any) -> list[TextResult]: ...
    @takes_options(TextSampling)
    def generate(
        self,
        prompt: str | list[str],
        *,
        sampling: TextSampling | None = None,
        thinking: bool | None = False,
        seed: int | Sequence[int] = 0,
        callback: Callback | None = None,
        **options: Any,
    ) -> TextResult | list[TextResult]:
        """Answer a prompt, or each of a list. ``thinking``: reason before answering."""
        prompts, single = listed("prompt", prompt)
        for text in prompts:
            check_text("prompt", text)
        thinks = check_thinking(thinking, False)
        plan = self._text_plan(sampling, options, thinks, (seed, len(prompts)), callback)
        results = self._answer([([Message("user", text)], [], "") for text in prompts], thinks, plan, seed, callback)
        return results[0] if single else results

    @overload
    def ask(self, image: ImageSource, question: str, **options: Any) -> TextResult: ...
    @overload
    def ask(self, image: list[ImageSource], question: str | list[str], **options: Any) -> list[TextResult]: ...
    @overload
    def ask(self, image: ImageSource, question: list[str], **options: Any) -> list[TextResult]: ...
    @takes_options(TextSampling)
    def ask(
        self,
        image: ImageSource | list[ImageSource],
        question: str | list[str],
        *,
        sampling: TextSampling | None = None,
        thinking: bool | None = None,
        fit: Fit | None = None,
        seed: int | Sequence[int] = 0,
        callback: Callback | None = None,
        **options: Any,
    ) -> TextResult | list[TextResult]:
        """Answer a question about an image.

        One image with many questions, or many with one, are paired; several images in one question are for `chat`. ``thinking``
        None is the preset's. ``fit``: how an image that is not square is shown: its middle square ("crop"; the result's ``note``
        says so), out of proportion ("squash"), or with white around it ("pad"); None is the preset's.
        """
        images: list[ImageSource]
        images, one_image = listed("image", image)
        questions, one_question = listed("question", question)
        for text in questions:
            check_text("question", text)
        images, questions = paired(images, questions)
        thinks = check_thinking(thinking, self.preset.ask_thinking)
        plan = self._text_plan(sampling, options, thinks, (seed, len(questions)), callback)
        codes, notes = self.engine.look(images, self._fit(fit))
        asked = [([Message("user", q)], [c], n) for q, c, n in zip(questions, codes, notes, strict=True)]
        results = self._answer(asked, thinks, plan, seed, callback)
        return results[0] if one_image and one_question else results

    @takes_options(TextSampling)
    def chat(
        self,
        messages: Sequence[Any],
        *,
        sampling: TextSampling | None = None,
        thinking: bool | None = None,
        fit: Fit | None = None,
        seed: int | Sequence[int] = 0,
        callback: Callback | None = None,
        **options: Any,
    ) -> TextResult | list[TextResult]:
        """Answer the last turn of a conversation, or of each of a list of conversations.

        ``messages``: ``[{"role": "user", "content": "..."}, ...]`` with roles system, user and assistant; a content is a text or
        a list of text and image parts (`mmada.pipeline.messages`). The images of a conversation stand before it, in their order.
        ``thinking`` None: as the preset says for questions about images, else no. ``fit``: as in `ask`.
        """
        several = isinstance(messages, (list, tuple)) and conversations(messages)
        read = [read_messages(one) for one in (messages if several else [messages])]
        thinks = check_thinking(thinking, self.preset.ask_thinking and any(images for _, images in read))
        plan = self._text_plan(sampling, options, thinks, (seed, len(read)), callback)
        codes, notes = self.engine.look([image for _, images in read for image in images], self._fit(fit))
        asked, start = list[Conversation](), 0
        for turns, images in read:
            own = slice(start, start + len(images))
            asked.append((turns, codes[own], "; ".join(note for note in notes[own] if note)))
            start = own.stop
        results = self._answer(asked, thinks, plan, seed, callback)
        return results if several else results[0]

    @takes_options(TextSampling, "length", "block", "stop", "stop_at_eos")
    def infill(
        self,
        text: str,
        *,
        sampling: TextSampling | None = None,
        seed: int = 0,
        callback: Callback | None = None,
        **options: Any,
    ) -> TextResult:
        """Fill the gaps of a text, each ``[MASK]`` one token; ``.text`` is the whole text.

        Without ``steps``, a token a step. ``length``, ``block`` and ``stop`` have no meaning here. ``.tokens`` are those of the
        whole canvas.
        """
        check_text("text", text)
        engine = self.engine
        given = chosen(TextSampling, sampling, options, OTHER_OPTIONS)
        for name in ("length", "block", "stop", "stop_at_eos"):
            if getattr(given, name) is not None:
                raise InputError(f"{name} is of answers; infill fills each [MASK] with one token, so leave it out")
        check_callback(callback)
        canvas = engine.prompter.infill(text)
        engine.check_length(canvas, "text")
        gaps = int(canvas.editable_BL.sum())
        base = replace(self.preset.answer, length=gaps, steps=gaps, block=gaps, stop=(), stop_at_eos=False, open_vocabulary=False)
        phase = given.over(base).phase(())
        blank = canvas.with_tokens(torch.full_like(canvas.tokens_BL, engine.parts.vocabulary.mask))
        start = time.perf_counter()
        frames = engine.complete([canvas], [phase], engine.generators(seed, 1), callback, [blank], "text")
        result = engine.text_results(frames, seconds=time.perf_counter() - start)[0]
        tokens: list[int] = frames[-1].canvas.tokens_BL[0].tolist()
        whole = engine.parts.text.decode(tokens)
        return replace(result, text=whole.strip(), thinking="", tokens=tuple(tokens), finish_reason="stop", raw_text=whole)

    @overload
    def score(
        self, prompt: str, completion: str, *, images: Sequence[ImageSource] = ..., thinking: bool = ...,
        fit: Fit | None = ..., samples: int = ..., seed: int = ...,
    ) -> LikelihoodBound: ...  # fmt: skip
    @overload
    def score(
        self, prompt: list[str], completion: list[str], *, images: Sequence[ImageSource] = ..., thinking: bool = ...,
        fit: Fit | None = ..., samples: int = ..., seed: int = ...,
    ) -> list[LikelihoodBound]: ...  # fmt: skip
    def score(
        self,
        prompt: str | list[str],
        completion: str | list[str],
        *,
        images: Sequence[ImageSource] = (),
        thinking: bool = False,
        fit: Fit | None = None,
        samples: int = 32,
        seed: int = 0,
    ) -> LikelihoodBound | list[LikelihoodBound]:
        """A lower bound on ln p(completion | prompt), its end token included, in nats.

        ``samples``: draws that are averaged; the standard error falls with their square root. All rows use the same ``seed``, so
        that completions and models are compared on the same draws. ``images``: shown before each prompt. ``thinking``: whether
        the prompt asks for reasoning; the completion is then ``<think> reasoning</think> answer``. A list of prompts goes with a
        list of completions.
        """
        prompts, single = listed("prompt", prompt)
        completions, one_completion = listed("completion", completion)
        for field, texts in (("prompt", prompts), ("completion", completions)):
            for text in texts:
                check_text(field, text, empty=field == "completion")
        if single != one_completion or len(prompts) != len(completions):
            raise InputError(f"{len(prompts)} prompts and {len(completions)} completions; give one completion for each prompt")
        check_whole("samples", samples, 1, MAX_SAMPLES)
        check_whole("seed", seed, 0, MAX_SEED)
        if not isinstance(images, (list, tuple)):
            raise InputError(f"images is {kind_of(images)}; give a list of images")
        thinks, engine = check_thinking(thinking, False), self.engine
        codes, _ = engine.look(images, self._fit(fit))
        bounds = []
        for before, text in zip(prompts, completions, strict=True):
            turns = [Message("user", before), Message("assistant", text)]
            canvas = engine.prompter.chat(turns, images=codes, thinking=thinks)
            engine.check_length(canvas)
            vocabulary, generator = engine.parts.vocabulary, torch.Generator().manual_seed(seed)
            bound = likelihood_bound(
                engine.denoiser, canvas,
                mask_id=vocabulary.mask, vocab=vocabulary.ranges["text"], samples=samples, generator=generator,
            )  # fmt: skip
            bounds.append(LikelihoodBound(float(bound[0]), int(canvas.editable_BL.sum()), samples))
        return bounds[0] if single else bounds

    def _text_plan(
        self,
        sampling: TextSampling | None,
        options: dict[str, Any],
        thinking: bool,
        seeds: tuple[int | Sequence[int], int],
        callback: Callback | None,
    ) -> TextSampling:
        """The options of a call over those of the preset; ``seeds`` are (seed, rows). Reads no image and computes nothing."""
        given = chosen(TextSampling, sampling, options, OTHER_OPTIONS)
        if given.length is not None:
            check_whole("length", given.length, 1, self.engine.parts.max_length)
        self.engine.generators(*seeds)
        check_callback(callback)
        return given.over(self.preset.reasoning if thinking else self.preset.answer)

    def _answer(
        self,
        asked: Sequence[Conversation],
        thinking: bool,
        plan: TextSampling,
        seed: int | Sequence[int],
        callback: Callback | None,
    ) -> list[TextResult]:
        """One answer to each conversation."""
        engine = self.engine
        canvases = [
            engine.prompter.chat(turns, images=codes, thinking=thinking, answer_length=plan.numbers[0])
            for turns, codes, _ in asked
        ]
        blanks = [c.with_tokens(torch.full_like(c.tokens_BL, engine.parts.vocabulary.mask)) for c in canvases]
        start = time.perf_counter()
        phase = self._phase(plan, canvases)
        frames = engine.complete(canvases, [phase], engine.generators(seed, len(asked)), callback, blanks)
        stop, seconds = cast("tuple[str, ...]", plan.stop or ()), time.perf_counter() - start
        return engine.text_results(frames, stop=stop, notes=[note for _, _, note in asked], seconds=seconds)

    def _phase(self, plan: TextSampling, canvases: Sequence[Canvas]) -> Phase:
        engine, v = self.engine, self.engine.parts.vocabulary
        ends = (v.eot, v.eos)
        if not plan.stop:
            return plan.phase(ends)
        editable_BL = Canvas.stack(canvases).editable_BL.to(engine.canvas_device)
        strings = cast("tuple[str, ...]", plan.stop)
        stop = StopAtText(ends if plan.stop_at_eos else (), strings, engine.parts.text.decode, editable_BL)
        return plan.phase(ends, stop)
