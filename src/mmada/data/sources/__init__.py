"""Sources: a person's own data as sets of examples, described by a YAML file.

    load("data.yaml")      `Mixture` of named sets

`grammar` says what a file may hold, `opening` which table reads a file, `meanings` what a row becomes. Tables list their rows
once and read one at a time, so that a set may be larger than the memory.
"""

from mmada.data.sources.loading import load, load_sets

__all__ = ["load", "load_sets"]
