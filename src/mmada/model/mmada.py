"""The network: LLaDA's architecture on transformers' Llama blocks, made bidirectional, with logits only at query positions.

Architecture only: no sampling, and no loss but the plain one of ``labels``. LLaDA is a Llama without causality (RMSNorm,
half-split RoPE, SwiGLU, untied head, no biases), so `LlamaModel` with ``is_causal=False`` is its backbone.

Shapes: B rows, L positions, D width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    LlamaConfig,
    LlamaModel,
    PreTrainedModel,
)
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming
from transformers.modeling_outputs import MaskedLMOutput

from mmada.errors import InputError
from mmada.io.quiet import no_progress_bars
from mmada.io.weights import share_weights
from mmada.model.hf_inputs import check_inputs, check_unsupported
from mmada.model.predictor import Predictor
from mmada.model.quantized_linear import use_quantized_layers
from mmada.model.released_names import CONFIG_NAMES, TENSOR_NAMES, check_architecture, released_fields

__all__ = ["MMaDAConfig", "MMaDAModel", "NotCausalError", "attention_bias"]


class MMaDAConfig(LlamaConfig):  # type: ignore[no-untyped-call]
    """Sizes of the model, by the names of `transformers` (``hidden_size``, ...) or the released ones (``d_model``, ...).

    ``quantisation``: type of the stored weights, "int8" or "int4", where they are quantised. Raises InputError for a field of the
    released layout whose value is another architecture (biases, ALiBi, tied weights).
    """

    model_type = "mmada"
    attribute_map = CONFIG_NAMES
    is_causal: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    quantisation: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        check_architecture({**vars(self), **kwargs})
        if "mlp_hidden_size" in kwargs and kwargs["mlp_hidden_size"] is None:  # LLaDA's rule
            self.intermediate_size = kwargs.get("mlp_ratio", 4) * kwargs.get("d_model", self.hidden_size)
        for released, ours in CONFIG_NAMES.items():
            if (value := kwargs.pop(released, None)) is not None:
                setattr(self, ours, value)
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]

    def to_diff_dict(self) -> dict[str, Any]:
        """The content of config.json, with the released fields too."""
        own = super().to_diff_dict()
        return {**released_fields(self), **own, "torch_dtype": own.get("dtype")}


def attention_bias(valid_BL: Tensor | None, segment_BL: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Additive attention bias (B, 1, L, L): 0 where a position may attend, a large negative number elsewhere; None if all may.

    ``valid_BL``: nothing attends to padding. ``segment_BL``: packed examples attend only to themselves.
    """
    if segment_BL is not None:
        allowed = segment_BL[:, :, None] == segment_BL[:, None, :]
    elif valid_BL is not None and not bool(valid_BL.all()):
        allowed = valid_BL[:, None, :].expand(-1, valid_BL.shape[1], -1)
    else:
        return None
    blocked = torch.finfo(dtype).min / 2
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, blocked)[:, None]


class MMaDAModel(Predictor, PreTrainedModel):  # type: ignore[no-untyped-call]
    """The masked denoiser for training and for other libraries; `mmada.model.network.Network` is the one for inference."""

    config_class = MMaDAConfig
    base_model_prefix = "model"
    _supports_sdpa = True
    accepts_loss_kwargs = False
    _no_split_modules = {"LlamaDecoderLayer"}  # noqa: RUF012 - transformers wants a plain set

    def __init__(self, config: MMaDAConfig) -> None:
        super().__init__(config)
        self.model = LlamaModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.quantisation is not None:  # of a folder with quantised weights
            use_quantized_layers(self, config.quantisation)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding."""
        return cast(nn.Module, self.model.embed_tokens)

    def get_output_embeddings(self) -> nn.Module:
        """The output head; not tied to the embedding."""
        return cast(nn.Module, self.lm_head)

    def hidden(
        self,
        tokens_BL: Tensor,
        *,
        valid_BL: Tensor | None = None,
        segment_BL: Tensor | None = None,
        position_BL: Tensor | None = None,
    ) -> Tensor:
        """Hidden states (B, L, D) after the last norm. Packed examples need ``segment_BL`` and their own ``position_BL``."""
        dtype = self.model.embed_tokens.weight.dtype
        if torch.is_autocast_enabled(tokens_BL.device.type):
            dtype = torch.get_autocast_dtype(tokens_BL.device.type)
        output = self.model(
            input_ids=tokens_BL,
            attention_mask=attention_bias(valid_BL, segment_BL, dtype),
            position_ids=position_BL,
            use_cache=False,
        )
        return cast(Tensor, output.last_hidden_state)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        position_ids: Tensor | None = None,
        return_dict: bool | None = None,
        **other: Any,
    ) -> MaskedLMOutput | tuple[Tensor, ...]:
        """Return logits over the whole vocabulary at every position, as `transformers` calls a model.

        ``attention_mask`` (B, L): 1 on tokens, 0 on padding. ``labels`` (B, L): the loss is the mean cross-entropy where they are
        not -100. Raises InputError for inputs of wrong shapes, types or values, and for arguments that are not supported.
        """
        for name, value in other.items():
            check_unsupported(name, value)
        if input_ids is None:
            raise InputError("input_ids are missing, and nothing stands in for them; give them")
        tokens_BL, valid_BL, position_BL, target_BL = check_inputs(
            self.config.vocab_size, input_ids, attention_mask, position_ids, labels
        )
        logits = self.lm_head(self.hidden(tokens_BL, valid_BL=valid_BL, position_BL=position_BL))
        loss = None if target_BL is None else nn.functional.cross_entropy(logits.flatten(0, 1).float(), target_BL.flatten())
        output = MaskedLMOutput(loss=loss, logits=logits)
        return cast(tuple[Tensor, ...], output.to_tuple()) if return_dict is False else output

    def save_pretrained(self, save_directory: str | Path, *args: Any, **options: Any) -> None:  # type: ignore[override]
        """Write the model in the released layout, as `transformers` does but without progress bars and readable by all.

        Raises InputError for weights that torchao quantised, before anything is written; those of a CPU are saved as they are.
        """
        if any(type(p.data).__module__.startswith("torchao") for p in self.parameters()):
            raise InputError(
                "the model's weights are quantised for a GPU and cannot be saved; save it as it was before `quantize`"
            )
        with no_progress_bars():
            super().save_pretrained(save_directory, *args, **options)
        share_weights(Path(save_directory))

    def __getattr__(self, name: str) -> Any:
        if name in ("generate", "prepare_inputs_for_generation"):
            raise NotCausalError(NOT_CAUSAL)
        return super().__getattr__(name)


NOT_CAUSAL = (
    "a masked diffusion model does not generate from left to right; load it by AutoModel, train adapters with peft's "
    "task_type=None, and generate by mmada.load(FOLDER).generate"
)


class NotCausalError(InputError, AttributeError):
    """Something of causal language models was asked for; an AttributeError too, so that ``hasattr`` is False."""


class NotCausal:
    """Stands in for the model in `AutoModelForCausalLM`, to say what to use."""

    config_class = MMaDAConfig

    @classmethod
    def from_pretrained(cls, *_: object, **__: object) -> NoReturn:
        """Raise `NotCausalError`."""
        raise NotCausalError(NOT_CAUSAL)

    _from_config = from_pretrained


def renamings() -> list[WeightConverter | WeightRenaming]:
    """`TENSOR_NAMES` in the form by which `transformers` loads and saves."""
    return [
        WeightRenaming(f"{released}.".replace("#", r"(\d+)"), f"{ours}.".replace("#", r"\1"))
        for released, ours in TENSOR_NAMES.items()
    ]


register_checkpoint_conversion_mapping("mmada", renamings(), overwrite=True)
AutoConfig.register("mmada", MMaDAConfig, exist_ok=True)
AutoModel.register(MMaDAConfig, MMaDAModel, exist_ok=True)
AutoModelForMaskedLM.register(MMaDAConfig, MMaDAModel, exist_ok=True)
AutoModelForCausalLM.register(MMaDAConfig, NotCausal, exist_ok=True)
