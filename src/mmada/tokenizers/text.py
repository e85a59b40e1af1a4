"""Text tokenizer: a fast BPE with the field's special tokens and the released chat template.

The nano one splits numbers into digits and lower-cases, so that a small vocabulary covers the nano world in about one token a
word. Ours and the released one are both `transformers` fast tokenizers, saved and loaded as a folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from mmada.errors import InputError
from mmada.tokenizers.vocabulary import SPECIAL_TOKENS

__all__ = ["CHAT_TEMPLATE", "TextTokenizer", "train_text_tokenizer"]

# The released template, one "\n" after the header (upstream LLaDA has two).
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
    "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n{% endif %}"
)
# A number is cut digit by digit; a space belongs to the word, digit or sign that follows it.
SPLIT = r"\n| ?\d| ?\p{L}+| ?[^\s\p{L}\d]|\s+"


class TextTokenizer:
    """Text <-> token ids. ``<think>`` and ``</think>`` are single tokens in ours, plain text in the released one."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        # The Rust tokenizer itself: a tenth of the time. Special-token strings in a text stay plain text.
        self.fast = backend.backend_tokenizer
        self.fast.encode_special_tokens = True

    @staticmethod
    def load(folder: str | Path) -> TextTokenizer:
        """Read a tokenizer folder (``tokenizer.json``, ``tokenizer_config.json``)."""
        from transformers import PreTrainedTokenizerFast

        if not (Path(folder) / "tokenizer.json").is_file():
            raise InputError(f"model folder {folder} has no tokenizer.json; give a folder that `mmada train` wrote")
        return TextTokenizer(PreTrainedTokenizerFast.from_pretrained(str(folder)))

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer folder."""
        self.backend.save_pretrained(str(folder))

    def __len__(self) -> int:
        return len(self.backend)

    def ids(self) -> dict[str, int]:
        """Every token string and its id."""
        return dict(self.backend.get_vocab())

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; special-token strings inside it stay plain text (no injection of control tokens)."""
        ids: list[int] = self.fast.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        text: str = self.backend.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


def train_text_tokenizer(corpus: Iterable[str], *, vocab_size: int = 1024, min_frequency: int = 20) -> TextTokenizer:
    """Train the nano BPE on a corpus of lines.

    ``vocab_size`` bounds the entries, special tokens and the 256 bytes included; merges seen fewer than ``min_frequency``
    times are not made.
    """
    from transformers import PreTrainedTokenizerFast

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
    backend = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=SPECIAL_TOKENS["bos"],
        eos_token=SPECIAL_TOKENS["eos"],
        pad_token=SPECIAL_TOKENS["eos"],
        mask_token=SPECIAL_TOKENS["mask"],
        extra_special_tokens=[v for k, v in SPECIAL_TOKENS.items() if k not in ("bos", "eos", "mask")],
        clean_up_tokenization_spaces=False,
    )
    backend.chat_template = CHAT_TEMPLATE
    return TextTokenizer(backend)
