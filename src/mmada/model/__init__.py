"""The network and what reads, adapts and runs it."""

from mmada.io.quiet import quiet_imports

__all__ = ["quiet_imports"]

quiet_imports()  # before transformers is imported, which imports torchao where that is installed
