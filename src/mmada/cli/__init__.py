"""The command line."""

from mmada.cli.main import main, parse

__all__ = ["main", "parse"]
