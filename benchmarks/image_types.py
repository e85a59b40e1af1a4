"""MAGVIT-v2 in float32, bfloat16 and float16: the share of codes that change, the pixels' error, and the time against float32.

    python benchmarks/image_types.py [MODEL] [--image-tokenizer FOLDER] [--pictures 64] [--device cpu]

MODEL is the bundled one unless given. Half precision pays on GPUs; few CPUs have it.
"""

from __future__ import annotations

import argparse
import copy
import time

import numpy as np
import torch

from mmada.io.device import chosen_device
from mmada.nano.world.render import AUGMENTED, render
from mmada.nano.world.scenes import sample_scene
from mmada.pipeline.loading import find_folder, read_image_tokenizer
from mmada.tokenizers.image import to_pixels


def main() -> None:
    """Encode and decode the same scenes in each type."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="nano")
    parser.add_argument("--image-tokenizer")
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--device", default="auto")
    a = parser.parse_args()
    device = chosen_device(a.device)
    tokenizer = read_image_tokenizer(a.image_tokenizer or find_folder(a.model) / "image_tokenizer").to(device)
    rng = np.random.default_rng(0)
    pixels = to_pixels(np.stack([render(sample_scene(rng, "test"), rng, AUGMENTED) for _ in range(a.pictures)])).to(device)
    first: dict[str, torch.Tensor] = {}
    print(f"{'type':10} {'codes changed':>14} {'pixel error':>12} {'time':>8}")
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        twin = copy.deepcopy(tokenizer).to(dtype).to(memory_format=torch.channels_last)
        twin.decode(twin.encode(pixels[:1]))
        start = time.perf_counter()
        codes = twin.encode(pixels)
        decoded = twin.decode(first.get("codes", codes))
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        first = first or {"codes": codes, "decoded": decoded, "seconds": torch.tensor(seconds)}
        changed = (codes != first["codes"]).float().mean()
        error = (decoded - first["decoded"]).abs().mean()
        name = str(dtype).removeprefix("torch.")
        print(f"{name:10} {float(changed):14.3%} {float(error):12.5f} {seconds / float(first['seconds']):7.2f}x")


if __name__ == "__main__":
    main()
