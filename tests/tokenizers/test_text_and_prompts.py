"""Text tokenizer, vocabulary and the layouts of every prompt."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.parity import checkpoint
from transformers import PreTrainedTokenizerFast

from mmada.canvas import IMAGE
from mmada.errors import InputError
from mmada.tokenizers.prompt import Message, Prompter, split_thinking
from mmada.tokenizers.text import CHAT_TEMPLATE, TextTokenizer, train_text_tokenizer
from mmada.tokenizers.vocabulary import RELEASED, Codes, Vocabulary

LINES = ["a red circle and 12 + 3 = 15. yes how many?", "user assistant system\n"] * 40


@pytest.fixture(scope="module")
def text() -> TextTokenizer:
    return train_text_tokenizer(LINES)


def as_transformers_reads(folder: Path) -> Any:
    return PreTrainedTokenizerFast.from_pretrained(str(folder))


@pytest.fixture(scope="module")
def prompter(text: TextTokenizer) -> Prompter:
    return Prompter(text, Vocabulary.of(text.ids(), 16), "think first.", 4)


@pytest.mark.parametrize("line", ["a red circle", "12 + 3 = 15.", "never seen: héllo ☃ 90\n", " two  spaces "])
def test_text_comes_back(text: TextTokenizer, line: str) -> None:
    assert text.decode(text.encode(line)) == line


def test_numbers_are_cut_into_digits_and_case_is_dropped(text: TextTokenizer) -> None:
    assert len(text.encode("153")) == 3
    assert text.encode("A RED Circle") == text.encode("a red circle")


def test_control_tokens_cannot_be_typed(text: TextTokenizer) -> None:
    special = {text.ids()[t] for t in ("<|eot_id|>", "<|mdm_mask|>", "<|endoftext|>")}
    assert not special & set(text.encode("<|eot_id|> <|mdm_mask|><|endoftext|>"))


def test_control_tokens_cannot_be_typed_as_whole_words_either(tmp_path: Path) -> None:
    checkpoint.write_tokenizer(tmp_path)  # its vocabulary holds their strings for words
    words = TextTokenizer.load(tmp_path)
    unknown = words.ids()["<unk>"]
    for name, number in checkpoint.SPECIAL.items():
        ids = words.encode(f"a {name} circle")
        assert number not in ids
        assert ids == [words.ids()["a"], *[unknown] * (len(ids) - 2), words.ids()["circle"]]


def test_a_saved_tokenizer_is_the_same(text: TextTokenizer, tmp_path: Path) -> None:
    text.save(tmp_path)
    again = TextTokenizer.load(tmp_path)
    line = "<think> a red circle</think> 12"
    assert again.encode(line) == text.encode(line)
    assert again.ids() == text.ids()
    assert again.fast.to_str() == text.fast.to_str()
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        TextTokenizer.load(tmp_path / "nothing")


def test_a_saved_tokenizer_is_one_that_older_libraries_read(text: TextTokenizer, tmp_path: Path) -> None:
    text.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
    fields = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert fields["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "<|eot_id|>" in fields["additional_special_tokens"]
    assert fields["chat_template"] == as_transformers_reads(tmp_path).chat_template == CHAT_TEMPLATE
    assert not {"is_local", "local_files_only", "backend", "extra_special_tokens"} & fields.keys()
    TextTokenizer.load(tmp_path).save(tmp_path)  # onto itself
    assert json.loads((tmp_path / "tokenizer_config.json").read_text()) == fields


def test_tokens_are_those_of_transformers(text: TextTokenizer, tmp_path: Path) -> None:
    """Those too that only tokenizer_config.json lists, in both of its forms."""
    text.save(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    fields = json.loads(file.read_text())
    number = str(len(text))
    flags = {"lstrip": False, "rstrip": False, "normalized": True, "single_word": False}
    fields["added_tokens_decoder"] = {number: {"content": "<plain>", "special": False, **flags}}
    fields["additional_special_tokens"] += ["<|extra|>"]
    fields["unk_token"] = {"__type": "AddedToken", "content": "<unk>", "special": True, **flags}
    file.write_text(json.dumps(fields))
    ours, theirs = TextTokenizer.load(tmp_path), as_transformers_reads(tmp_path)
    theirs.backend_tokenizer.encode_special_tokens = True
    assert ours.ids() == theirs.get_vocab()
    assert len(ours) == len(theirs) == len(text) + 3
    ids = [*range(len(ours))]
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    for line in ("a <plain> red circle", "a <|extra|> b <unk> 12", "what's  this ?"):
        expected = theirs.backend_tokenizer.encode(line, add_special_tokens=False).ids
        assert ours.fast.encode(line, add_special_tokens=False).ids == expected


def test_a_damaged_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match=r"tokenizer file .* is damaged"):
        TextTokenizer.load(tmp_path)


def test_the_chat_template_and_our_layout_agree(text: TextTokenizer, prompter: Prompter, tmp_path: Path) -> None:
    text.save(tmp_path)
    backend = as_transformers_reads(tmp_path)
    messages = [Message("user", " a red circle "), Message("assistant", "yes"), Message("user", "how many?")]
    rendered = backend.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in messages], tokenize=False, add_generation_prompt=True
    )
    canvas = prompter.chat(messages, answer_length=3)
    assert backend.decode(canvas.tokens_BL[0, :-3].tolist()) == rendered


def test_released_and_nano_vocabularies(text: TextTokenizer) -> None:
    assert RELEASED.tokens_of([0, 8191, -1]).tolist() == [126349, 134540, RELEASED.mask]
    assert RELEASED.codes_of(torch.tensor([[126349], [RELEASED.mask]])).tolist() == [[0], [-1]]
    nano = Vocabulary.of(text.ids(), 16)
    assert nano.image_offset == nano.text_size == len(text)
    assert list(nano.ranges["image"]) == list(range(len(text), len(text) + 16))
    with pytest.raises(InputError, match="lacks the special tokens"):
        Vocabulary.of({"a": 0}, 16)
    with pytest.raises(InputError, match="no room"):
        replace(nano, size=nano.size - 1)


def test_question_about_a_picture(prompter: Prompter) -> None:
    v = prompter.vocabulary
    canvas = prompter.chat([Message("user", "how many?")], images=[[1, 2, 3, 4]], answer_length=5)
    tokens = canvas.tokens_BL[0].tolist()
    assert tokens[:8] == [v.mmu, v.soi, *v.tokens_of([1, 2, 3, 4]), v.eoi, v.bos]
    assert tokens[-5:] == [v.mask] * 5
    assert canvas.editable_BL[0].tolist() == [False] * (len(tokens) - 5) + [True] * 5
    assert (canvas.modality_BL[0] == IMAGE).nonzero()[:, 0].tolist() == [2, 3, 4, 5]


def test_training_edits_every_answer_and_its_padding(prompter: Prompter) -> None:
    turns = [Message("user", "how many?"), Message("assistant", "yes"), Message("user", "a?"), Message("assistant", "15")]
    canvas = prompter.chat(turns, thinking=True, padding=2)
    v = prompter.vocabulary
    edited = canvas.tokens_BL[canvas.editable_BL].tolist()
    encode = prompter.text.encode
    assert edited == [*encode("yes"), v.eot, *encode("15"), v.eot, v.eos, v.eos]
    plain = prompter.chat(turns, padding=2)
    assert canvas.length - plain.length == len(encode("think first.\n"))


def test_drawing_keeps_known_codes_as_context(prompter: Prompter) -> None:
    v = prompter.vocabulary
    canvas = prompter.draw("a red circle", codes=[7, -1, 0, -1])
    assert canvas.tokens_BL[0, -5:].tolist() == [v.image_offset + 7, v.mask, v.image_offset, v.mask, v.eoi]
    assert canvas.editable_BL[0, -5:].tolist() == [False, True, False, True, False]
    assert canvas.tokens_BL[0, 0] == v.t2i


def test_thinking_before_drawing_is_one_canvas(prompter: Prompter) -> None:
    v = prompter.vocabulary
    blank = prompter.draw("a circle", think_length=6)
    assert blank.tokens_BL[0, 0] == v.r2i
    assert int(blank.editable_BL.sum()) == 6 + 4
    thought = prompter.draw("a circle", think="yes", think_length=6, edit="think")
    assert int(thought.editable_BL.sum()) == 6
    assert (thought.tokens_BL[thought.modality_BL == IMAGE] == v.mask).all()
    picture = prompter.think_draw_example("a circle", "yes", 6, [1, 2, 3, 4])
    assert picture.tokens_BL[picture.editable_BL].tolist() == v.tokens_of([1, 2, 3, 4]).tolist()
    assert picture.length == blank.length == thought.length


def test_gaps_take_the_space_before_them(prompter: Prompter) -> None:
    v = prompter.vocabulary
    canvas = prompter.infill("12 + [MASK] = 15.")
    encode = prompter.text.encode
    assert canvas.tokens_BL[0].tolist() == [v.bos, *encode("12 +"), v.mask, *encode(" = 15."), v.eos]
    assert int(canvas.editable_BL.sum()) == 1
    with pytest.raises(InputError, match="no gap"):
        prompter.infill("12 + 3")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("yes", ("yes", "")), ("<think> a b</think> 7", ("7", "a b")), ("<think> a b", ("", "a b")), ("", ("", ""))],
)
def test_answer_and_reasoning_are_told_apart(answer: str, expected: tuple[str, str]) -> None:
    assert split_thinking(answer) == expected


@pytest.mark.parametrize("codes", [[-2], [0, 16], [3, 1 << 40], np.array([[5, -29373]], np.int16), torch.tensor([99])])
def test_codes_outside_the_codebook_are_refused(prompter: Prompter, codes: Codes) -> None:
    calls = (
        lambda: prompter.draw("pens", codes=codes),
        lambda: prompter.draw_example("pens", codes),
        lambda: prompter.chat([Message("user", "pens?")], images=[codes]),
    )
    for call in calls:
        with pytest.raises(InputError, match="codebook, 0 to 15"):
            call()


@pytest.mark.parametrize("kind", [list, np.int16, np.int64, torch.int16, torch.int64])
def test_codes_are_taken_as_lists_arrays_and_tensors(prompter: Prompter, kind: object) -> None:
    rows = [[3, 0, 15, 2], [1, 1, 1, 1]]
    given: list[Codes] = []
    for row in rows:
        made = torch.tensor(row).reshape(2, 2)
        given.append(row if kind is list else made.to(kind) if isinstance(kind, torch.dtype) else made.numpy().astype(kind))
    v = prompter.vocabulary
    canvas = prompter.chat([Message("user", "how many?")], images=given)
    shown = [token for row in rows for token in (v.mmu, v.soi, *(v.image_offset + code for code in row), v.eoi)]
    assert canvas.tokens_BL[0, : len(shown) + 1].tolist() == [*shown, v.bos]
    assert canvas.modality_BL[0, : len(shown)].tolist() == [0, 0, 1, 1, 1, 1, 0] * 2
    example = prompter.draw_example("pens", given[0], hole=[True, False, False, True])
    assert example.tokens_BL[example.editable_BL].tolist() == [v.image_offset + 3, v.image_offset + 2]
    with pytest.raises(InputError, match="hole has 3 cells for 4 codes"):
        prompter.draw_example("pens", given[0], hole=[True, False, False])
