"""The command line."""

from mmada.cli.app import main, parse

__all__ = ["main", "parse"]
