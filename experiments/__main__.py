"""The command line with the studies among its recipes: ``python -m experiments train study_noising``."""

import sys

from experiments import register_all
from mmada.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    register_all()
    sys.exit(main())
