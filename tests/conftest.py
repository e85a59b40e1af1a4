"""Every test runs offline, on one thread, with warnings as errors (see pyproject.toml)."""

import os

# Before anything imports torch or the hub: results then do not depend on the machine, and nothing is fetched.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "agg"
