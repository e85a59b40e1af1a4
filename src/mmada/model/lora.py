"""LoRA adapters, saved apart from the weights, merged into them. Needs peft."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, cast

from mmada.errors import InputError
from mmada.model.mmada import MMaDAModel

__all__ = ["merged"]


def merged(model: MMaDAModel, adapter: str | Path) -> MMaDAModel:
    """The model with the adapters of a folder merged in. Raises InputError without peft, or where they do not fit."""
    if not (Path(adapter) / "adapter_config.json").is_file():
        raise InputError(f"adapter '{adapter}' has no adapter_config.json; give a folder of LoRA adapters")
    try:
        import peft
    except ImportError as error:
        raise InputError("adapters need peft; install it with: pip install 'mmada[peft]'") from error
    library: Any = peft
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft's own use of transformers
            warnings.filterwarnings("error", message="Found missing adapter keys")
            return cast(MMaDAModel, library.PeftModel.from_pretrained(model, str(adapter)).merge_and_unload())
    except Exception as error:  # peft and safetensors each fail in their own ways
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"adapter '{adapter}' does not fit the model ({reason}); give one that was trained on it") from error
