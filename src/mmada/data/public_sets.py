"""Readers of public reasoning sets: from the fields of each set to the one record.

A reader takes a row as it stands in the set's file and returns a `ReasoningExample`; `docs/how-to/reasoning-data.md` says which
fields were seen where. None of them downloads anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import wraps

from mmada.data.reasoning import ReasoningExample
from mmada.data.row_fields import MARKER, OTHER_MEDIA, Row, kind_of, optional, picture_of, question_about, text_of

__all__ = ["MATHEMATICS", "READERS", "Reader", "boxed", "turns", "with_input", "without_order"]

Reader = Callable[[Row], ReasoningExample]


def with_one_picture(reader: Reader) -> Reader:
    """A reader that refuses rows whose pictures it would lose, and texts that refer to what the example does not hold."""

    @wraps(reader)
    def read(row: Row) -> ReasoningExample:
        picture = picture_of(row)
        example = reader(row)
        if picture is not None and example.picture is None:
            raise ValueError("it has a picture, which examples of this set do not have")
        for name, text in (("question", example.prompt), ("reasoning", example.thinking), ("answer", example.answer)):
            if found := MARKER.search(text) or OTHER_MEDIA.search(text):
                raise ValueError(f"its {name} names {found[0]}, which the example does not hold")
        return example

    return read


def boxed(text: str) -> str:
    """The content of the last ``\\boxed{...}`` of a text, braces balanced; empty if there is none."""
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return ""
    begin = text.index("{", start) + 1
    depth = 1
    for place in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return text[begin:place].strip()
    return ""


def turns(row: Row, *names: str) -> tuple[str, str]:
    """(first question, the answer to it) of a conversation in either of the two usual layouts."""
    given = [(name, row[name]) for name in names if row.get(name) is not None]
    if not given:
        raise ValueError(f"field {' or '.join(names)} is missing")
    name, talk = given[0]
    if not isinstance(talk, list):
        raise ValueError(f"field {name} is {kind_of(talk)}, not a list of turns")
    found = {"user": "", "assistant": ""}
    for turn in talk:
        role = {"human": "user", "gpt": "assistant"}.get(name := optional(turn, "from", "role"), name)
        if role in found and not found[role]:
            found[role] = optional(turn, "value", "content")
        if found["assistant"]:
            break
    if not all(found.values()):
        raise ValueError(f"field {' or '.join(names)} has no question with an answer")
    return found["user"], found["assistant"]


THOUGHTS = (("<think>", "</think>"), ("<|begin_of_thought|>", "<|end_of_thought|>"), ("<REASONING>", "</REASONING>"))
ANSWERS = (("<answer>", "</answer>"), ("<|begin_of_solution|>", "<|end_of_solution|>"), ("<CONCLUSION>", "</CONCLUSION>"))


def between(text: str, pairs: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """(what stands in the first pair of tags that the text has, what is behind it); ("", text) if it has none."""
    for opening, closing in pairs:
        if opening in text and closing in text:
            middle, _, behind = text.partition(opening)[2].partition(closing)
            return middle.strip(), behind.strip()
    return "", text.strip()


def split_response(response: str) -> tuple[str, str]:
    """(reasoning, answer) of a response with tags; without them all of it is reasoning, and its answer what it boxes."""
    thinking, behind = between(response, THOUGHTS)
    if not thinking:
        return response.strip(), boxed(response)
    return thinking, between(behind, ANSWERS)[0] or behind


def gsm8k(row: Row) -> ReasoningExample:
    """openai/gsm8k. ``answer``: worked solution with ``<<48/2=24>>`` marks, then ``#### 24``."""
    solution, mark, gold = text_of(row, "answer").rpartition("####")
    if not mark:
        raise ValueError("field answer has no '####'")
    thinking, gold = re.sub(r"<<[^<>]*>>", "", solution).strip(), gold.strip().replace(",", "")
    numbers = [n.replace(",", "") for n in re.findall(r"-?\d[\d,]*(?:\.\d+)?", (thinking.splitlines() or [""])[-1])]
    # The answer is what the solution itself arrives at: a last line that never names the gold number is one to look at.
    reached = gold if any(float(n) == number(gold) for n in numbers) else numbers[-1] if numbers else ""
    return ReasoningExample(
        source="gsm8k", task="math", prompt=text_of(row, "question"), thinking=thinking, answer=reached, gold=gold
    )


def number(text: str) -> float:
    """A number, NaN for what is none."""
    try:
        return float(text)
    except ValueError:
        return float("nan")


def limo(row: Row) -> ReasoningExample:
    """GAIR/LIMO. ``question``, ``solution`` (a long trace that boxes its answer), ``answer``."""
    solution = text_of(row, "solution")
    return ReasoningExample(
        source="limo",
        task="math",
        prompt=text_of(row, "question"),
        thinking=solution,
        answer=boxed(solution),
        gold=text_of(row, "answer"),
    )


def s1k(row: Row) -> ReasoningExample:
    """simplescaling/s1K-1.1 (``deepseek_thinking_trajectory``, ``deepseek_attempt``) and s1K (``thinking_trajectories``,
    ``attempt``); ``solution`` is an answer or a worked solution that boxes it."""
    traces = row.get("thinking_trajectories")
    first = {"first": traces[0]} if isinstance(traces, list) and traces else {}
    solution = text_of(row, "solution")
    return ReasoningExample(
        source="s1k",
        task="math",
        prompt=text_of(row, "question"),
        thinking=text_of({**row, **first}, "deepseek_thinking_trajectory", "first"),
        answer=text_of(row, "deepseek_attempt", "attempt"),
        gold=boxed(solution) or solution,
    )


def openthoughts(row: Row) -> ReasoningExample:
    """open-thoughts/OpenThoughts-114k: ``conversations`` with its thought and solution tags and no gold answer, or the
    ``metadata`` config, which has ``ground_truth_solution``."""
    if "problem" in row:
        truth = optional(row, "ground_truth_solution")
        thinking, answer = text_of(row, "deepseek_reasoning"), text_of(row, "deepseek_solution")
        return ReasoningExample(
            source="openthoughts",
            task="math",
            prompt=text_of(row, "problem"),
            thinking=thinking,
            answer=answer,
            gold=boxed(truth) or (truth if len(truth) < 100 else ""),
        )
    prompt, response = turns(row, "conversations")
    thinking, answer = split_response(response)
    return ReasoningExample(source="openthoughts", task="math", prompt=prompt, thinking=thinking, answer=answer)


def acemath(row: Row) -> ReasoningExample:
    """nvidia/AceMath-Instruct-Training-Data: ``messages`` whose answer works and boxes, and ``answer``."""
    prompt, response = turns(row, "messages")
    thinking, answer = split_response(response)
    return ReasoningExample(
        source="acemath", task="math", prompt=prompt, thinking=thinking, answer=answer, gold=optional(row, "answer")
    )


def reasonflux(row: Row) -> ReasoningExample:
    """ReasonFlux and others of an instruction layout: ``instruction``, ``input``, ``output``, and a gold ``answer`` if any."""
    prompt = with_input(text_of(row, "instruction", "problem", "question", "prompt"), row)
    thinking, answer = split_response(text_of(row, "output", "response", "solution", "completion"))
    gold = optional(row, "answer", "gold_answer")
    return ReasoningExample(source="reasonflux", task="math", prompt=prompt, thinking=thinking, answer=answer, gold=gold)


def with_input(instruction: str, row: Row) -> str:
    """An instruction with the ``input`` that the row has for it, if any."""
    return f"{instruction}\n{optional(row, 'input')}".strip()


CHOICE = re.compile(r"^\s*\(?([A-H])\s*[:.)]\s*(.+?)\s*$", re.M)
LABEL = re.compile(r"(?:(?:Therefore|So|Thus|Hence),?\s+)?(?:the\s+)?(?:correct\s+)?answer\s*(?::|is)\s*\(?([A-H])\b", re.I)
ORDER = re.compile(r"First perform reasoning.*?Answer: xxx\.\s*|^\s*Question:\s*", re.M)


def geo170k(row: Row) -> ReasoningExample:
    """Luckyjhg/Geo170K, qa_tuning: ``image`` and ``conversations``; choices in the question, the label behind ``Answer:``."""
    question, response = turns(row, "conversations")
    label = list(LABEL.finditer(response))
    if not label:
        raise ValueError("field conversations has no 'Answer:' with the letter of a choice")
    picture = picture_of(row)
    if picture is None:
        raise ValueError("field image is missing")
    question = question_about(question, picture)
    prompt, thinking, gold = without_order(question), response[: label[-1].start()].strip(), label[-1][1].upper()
    return ReasoningExample(
        source="geo170k",
        task="vision",
        prompt=prompt,
        thinking=thinking,
        answer=concluded(prompt, thinking, gold),
        gold=gold,
        picture=picture,
    )


def without_order(question: str) -> str:
    """A question of Geo170K without what it says about the form of the answer."""
    return ORDER.sub("", question).strip()


def concluded(prompt: str, thinking: str, label: str) -> str:
    """The letter of the choice whose value the reasoning names last, so that it may differ from the label; empty if none."""
    named = [amount(piece) for piece in re.findall(r"[-\w.√π\\{}/]*\d[\w.√π\\{}/]*", thinking)]
    places = {value: place for place, value in enumerate(named)}
    last = {letter: places.get(amount(value), -1) for letter, value in CHOICE.findall(prompt)}
    best = max(last.values(), default=-1)
    if best < 0:
        return ""
    return label if last.get(label) == best else next(letter for letter, place in last.items() if place == best)


def amount(text: str) -> str:
    """A quantity without unit, spaces and ``.0``."""
    plain = re.sub(r"(?:degrees?|cm|dm|mm|m|°|²|\^2|\s)+$|\s|[.,;]$", "", text.strip().rstrip(".,;"))
    value = number(plain)
    return plain if value != value else f"{value:g}"


def clevr(row: Row) -> ReasoningExample:
    """CLEVR_v1.0 questions (``question``, ``answer``, ``image_filename``, and the functional ``program`` as reasoning), and the
    R1-V sets (``problem``, ``solution`` = ``<answer> 3 </answer>``, ``image``), which have prompts alone."""
    if "problem" in row:
        gold = between(text_of(row, "solution"), ANSWERS)[0] or text_of(row, "solution")
        question = question_about(text_of(row, "problem"), picture := picture_of(row))
        return ReasoningExample(source="clevr", task="vision", prompt=question, gold=gold, picture=picture)
    gold = text_of(row, "answer")
    thinking = program_words(row.get("program") or [])
    picture = picture_of(row)
    prompt = question_about(text_of(row, "question"), picture)
    return ReasoningExample(
        source="clevr", task="vision", prompt=prompt, thinking=thinking, answer=gold, gold=gold, picture=picture
    )


def program_words(program: Sequence[Row]) -> str:
    """A functional program in words: "scene. filter color: red. count." """
    steps = []
    for step in program:
        name = optional(step, "function", "type").replace("_", " ")
        values = step.get("value_inputs") or step.get("side_inputs") or []
        steps.append(f"{name}: {', '.join(map(str, values))}." if values else f"{name}.")
    return " ".join(steps)


def llava(row: Row) -> ReasoningExample:
    """LLaVA-1.5's and LLaVA-CoT's layout: ``image`` and ``conversations``, of which the first turn is taken; its answer may hold
    reasoning in tags. The sets have no gold answer of their own."""
    question, response = turns(row, "conversations")
    thinking, behind = between(response, THOUGHTS)
    answer = (between(behind, ANSWERS)[0] or behind) if thinking else response
    picture = picture_of(row)
    return ReasoningExample(source="llava", task="math" if picture is None else "vision", thinking=thinking, answer=answer,
                    prompt=question_about(question, picture), picture=picture)  # fmt: skip


READERS: dict[str, Reader] = {
    reader.__name__: with_one_picture(reader)
    for reader in (gsm8k, limo, s1k, openthoughts, acemath, reasonflux, geo170k, clevr, llava)
}
"""Set -> its reader. A reader raises ValueError for a row that is not of its layout or would lose something."""
MATHEMATICS = frozenset({"gsm8k", "limo", "s1k", "openthoughts", "acemath", "reasonflux"})
"""Sets whose answers are formulas, to be compared as such."""
