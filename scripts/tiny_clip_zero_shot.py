"""Zero-shot accuracy of the bundled tiny CLIP on fresh draws of `shapes`: the tables of its model card.

python scripts/tiny_clip_zero_shot.py --seeds 301 302 303 --per-class 150
"""

import argparse
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from schemas.base import Choice
from workers.data import drawn
from workers.data.drawing import THINGS
from workers.data.styles import PAINTERS
from workers.plugins import load

PROMPT = "a picture of a {}"


def main() -> None:
    arguments = argparse.ArgumentParser(description="Zero-shot accuracy of the tiny CLIP per style and class.")
    arguments.add_argument("--seeds", type=int, nargs="+", default=[301, 302, 303])
    arguments.add_argument("--per-class", type=int, default=150)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    tiny = load("workers.models", Choice(name="tiny"))
    texts = F.normalize(tiny.encode_texts([PROMPT.format(thing) for thing in THINGS]), dim=1)
    right = np.stack([[hits(tiny, texts, s, style, given.per_class) for style in PAINTERS] for s in given.seeds])
    print(f"fingerprint {tiny.fingerprint}, scale {tiny.scale:.2f}, {given.per_class} images per class, style and draw")
    for k, style in enumerate(PAINTERS):
        draws = 100 * right[:, k].mean(axis=(1, 2))
        each = " ".join(f"{d:.1f}" for d in draws)
        print(f"{style}: {draws.mean():.1f} +- {draws.std(ddof=1):.1f} ({each}), n {right[:, k].size}")
    for k, thing in enumerate(THINGS):
        print(thing, " ".join(f"{style} {100 * right[:, s, k].mean():.0f}" for s, style in enumerate(PAINTERS)))


def hits(tiny: Any, texts: torch.Tensor, seed: int, style: str, per_class: int) -> NDArray[np.bool_]:
    """Which images of a style are nearest to their own class: (classes, per_class)."""
    rows = []
    for label, thing in enumerate(THINGS):
        shown = [Image.fromarray(drawn.image(seed, style, thing, i)) for i in range(per_class)]
        features = F.normalize(tiny.encode_images(torch.stack([tiny.preprocess(i) for i in shown])), dim=1)
        rows.append(((features @ texts.T).argmax(dim=1) == label).numpy())
    return np.stack(rows)


if __name__ == "__main__":
    main()
