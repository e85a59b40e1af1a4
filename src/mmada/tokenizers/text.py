"""Text tokenizer: a fast BPE with the field's special tokens and the released chat template.

`train_text_tokenizer` makes a small one that splits numbers into digits and lower-cases, so that a small vocabulary covers a
small world in about one token a word. It and the released one are both `transformers` fast tokenizers, saved as a folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmada.errors import InputError
from mmada.io.atomic import write_json
from mmada.io.documents import read_fields
from mmada.tokenizers.vocabulary import SPECIAL_TOKENS
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

__all__ = ["CHAT_TEMPLATE", "TextTokenizer", "train_text_tokenizer"]

# The released template, one "\n" after the header (upstream LLaDA has two).
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
    "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n{% endif %}"
)
# A number is cut digit by digit; a space belongs to the word, digit or sign that follows it.
SPLIT = r"\n| ?\d| ?\p{L}+| ?[^\s\p{L}\d]|\s+"


# Files of a tokenizer folder.
FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt",
         "merges.txt", "tokenizer.model", "chat_template.jinja", "chat_template.json")  # fmt: skip
JSON = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
DAMAGED = "get a whole copy of the folder"


class TextTokenizer:
    """Text <-> token ids. ``<think>`` and ``</think>`` are ordinary text: one token each in a tokenizer that was
    trained on them, several in the released one.

    ``folder``: the folder it was read from; None for one that was just trained.
    """

    def __init__(self, fast: Tokenizer, unknown: str | None = None, folder: Path | None = None) -> None:
        self.fast = fast
        self.folder = folder
        self.fast.encode_special_tokens = True  # special-token strings in a text stay plain text
        ids = self.ids()
        self.control = {ids[name] for name in SPECIAL_TOKENS.values() if name in ids}
        self.control |= {number for number, token in self.fast.get_added_tokens_decoder().items() if token.special}
        self.control.discard(ids.get(unknown or "", -1))  # unknown words are text

    @staticmethod
    def load(folder: str | Path) -> TextTokenizer:
        """Read a tokenizer folder (``tokenizer.json``, ``tokenizer_config.json``). Raises InputError for a damaged one.

        The tokens are those of `transformers`, which is not imported: it takes longer than a short answer.
        """
        folder = Path(folder)
        if not (folder / "tokenizer.json").is_file():
            raise InputError(f"model folder {folder} has no tokenizer.json; give a folder that `mmada train` wrote")
        fields = {n: read_fields(folder / n, "tokenizer file", DAMAGED) for n in FILES if (folder / n).is_file() and n in JSON}
        settings = {**fields.get("special_tokens_map.json", {}), **fields.get("tokenizer_config.json", {})}
        try:
            fast = Tokenizer.from_file(str(folder / "tokenizer.json"))
            fast.no_truncation()
            fast.no_padding()
            _add_listed(fast, settings)
            return TextTokenizer(fast, _content(settings.get("unk_token")), folder)
        except Exception as error:  # the library fails in its own ways
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"tokenizer of model folder {folder} is damaged ({reason}); {DAMAGED}") from error

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer folder: the files that were read, byte for byte, or new ones that the reference reads too."""
        folder = Path(folder)
        if self.folder is None or not (self.folder / "tokenizer.json").is_file():  # it may be gone by the end of a training
            _write_new(self.fast, folder)
            return
        for name in FILES:
            source = self.folder / name
            if source.is_file() and source.resolve() != (folder / name).resolve():
                shutil.copyfile(source, folder / name)

    def __len__(self) -> int:
        return self.fast.get_vocab_size(with_added_tokens=True)

    def ids(self) -> dict[str, int]:
        """Every token string and its id."""
        return dict(self.fast.get_vocab(with_added_tokens=True))

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; special-token strings inside it stay plain text (no injection of control tokens)."""
        encoded = self.fast.encode(text, add_special_tokens=False)
        ids: list[int] = encoded.ids
        if self.control.isdisjoint(ids):
            return ids
        plain: list[int] = []  # a vocabulary of whole words has such strings for words: each is cut in two
        for token, (start, end) in zip(ids, encoded.offsets, strict=True):
            middle = (start + end) // 2
            halves = ((start, middle), (middle, end)) if middle > start else ()
            plain += [i for a, b in halves for i in self.encode(text[a:b])] if token in self.control else [token]
        return plain

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        text: str = self.fast.decode(list(tokens), skip_special_tokens=True)
        return text


def train_text_tokenizer(corpus: Iterable[str], *, vocab_size: int = 1024, min_frequency: int = 20) -> TextTokenizer:
    """Train a small BPE tokenizer on a corpus of lines.

    ``vocab_size`` bounds the entries, special tokens and the 256 bytes included; merges seen fewer than ``min_frequency``
    times are not made.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(SPECIAL_TOKENS.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    # One token each, yet ordinary text: they are part of what a model writes and of what a person may read.
    tokenizer.add_tokens(["<think>", "</think>"])
    # Nothing is added to a text. `transformers` writes it so, and a fingerprint must be the same before and after.
    tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A:0 $B:1")
    return TextTokenizer(tokenizer)


SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def _add_listed(fast: Tokenizer, settings: Mapping[str, Any]) -> None:
    """Add the tokens that tokenizer_config.json lists and tokenizer.json lacks, in the order in which `transformers` does."""
    known = {token.content for token in fast.get_added_tokens_decoder().values()}
    listed = settings.get("added_tokens_decoder") or {}
    new = [AddedToken(**listed[number]) for number in sorted(listed, key=int) if listed[number]["content"] not in known]
    extra = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    named = [settings.get(name) for name in SPECIAL_NAMES] + list(extra.values() if isinstance(extra, dict) else extra)
    known |= {token.content for token in new}
    special = dict.fromkeys(_content(one) for one in named if one is not None)
    new += [AddedToken(content, special=True, normalized=False) for content in special if content and content not in known]
    for token in new:
        if token.special or token.content in special:
            fast.add_special_tokens([token])
        else:
            fast.add_tokens([token])


def _content(token: Any) -> str | None:
    """The text of a token as tokenizer_config.json has it: a text, or an object with its flags."""
    return token.get("content") if isinstance(token, dict) else token


def _write_new(fast: Tokenizer, folder: Path) -> None:
    """Write a tokenizer folder that `transformers` and the reference read."""
    from transformers import PreTrainedTokenizerFast

    writer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=fast,
        bos_token=SPECIAL_TOKENS["bos"],
        eos_token=SPECIAL_TOKENS["eos"],
        pad_token=SPECIAL_TOKENS["eos"],
        mask_token=SPECIAL_TOKENS["mask"],
        extra_special_tokens=[v for k, v in SPECIAL_TOKENS.items() if k not in ("bos", "eos", "mask")],
        clean_up_tokenization_spaces=False,
    )
    writer.chat_template = CHAT_TEMPLATE
    writer.save_pretrained(str(folder))
    _as_the_reference_reads(folder)


def _as_the_reference_reads(folder: Path) -> None:
    """Rewrite tokenizer_config.json for `transformers` 4 too: its class, its key for special tokens, the chat template inside."""
    path, template = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    fields = read_fields(path, "tokenizer config")
    for name in ("backend", "is_local", "local_files_only"):  # of the machine it was written on
        fields.pop(name, None)
    fields |= {"tokenizer_class": "PreTrainedTokenizerFast", "additional_special_tokens": fields.pop("extra_special_tokens", [])}
    if template.is_file():
        fields["chat_template"] = template.read_text(encoding="utf-8")
        template.unlink()
    write_json(path, fields)
