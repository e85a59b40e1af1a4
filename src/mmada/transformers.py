"""Registration with `transformers`: after ``import mmada.transformers``, its Auto classes read MMaDA checkpoints.

>>> import mmada.transformers
>>> from transformers import AutoModelForMaskedLM
>>> model = AutoModelForMaskedLM.from_pretrained(folder)      # or a hub id; no remote code is run

`import mmada` alone does no such work: it imports neither torch nor `transformers`.
"""

from mmada.model.mmada import MMaDAConfig, MMaDAModel  # importing the model registers it with AutoConfig and AutoModel

__all__ = ["MMaDAConfig", "MMaDAModel"]
