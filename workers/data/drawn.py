"""The `shapes` data as files: one PNG for each style, class and number, all or none of them.

An image is a function of (seed, style, class, number). Knows the painters and the disk; must not know clients.
"""

import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from schemas.base import digest
from schemas.errors import DataError
from workers.data.drawing import THINGS
from workers.data.styles import PAINTERS

MOST = 9999
"""Images per class and style: what four digits can number."""


def image(seed: int, style: str, thing: str, number: int) -> NDArray[np.uint8]:
    """One image, uint8 (64, 64, 3). Raises ValueError for an unknown style or thing."""
    generator = np.random.default_rng([seed, list(PAINTERS).index(style), list(THINGS).index(thing), number])
    return PAINTERS[style](THINGS[thing], generator)


def version() -> str:
    """Hex sha256 of the code that draws, so that images kept from other code are not mistaken for these."""
    files = ("canvas", "drawing", "drawn", "strokes", "styles")
    return digest(b"".join((Path(__file__).parent / f"{name}.py").read_bytes() for name in files))


def write(out: Path, per_class: int, seed: int, progress: Callable[[int, int], None] | None = None) -> int:
    """Write `<out>/<style>/<class>/<nnnn>.png`, `per_class` files per class and style; returns how many.

    `out` must not exist, or be empty, and appears when it is complete. progress: called with (done, of all).
    Raises DataError.
    """
    if not 1 <= per_class <= MOST:
        raise DataError(f"per_class {per_class} is not within 1 to {MOST}")
    if out.is_dir() and any(out.iterdir()):
        raise DataError(f"{out} is not empty", hint="name a folder that does not exist")
    building = out.absolute().parent / f".{out.name}-{secrets.token_hex(6)}"
    try:
        building.mkdir(parents=True)
        done = _fill(building, per_class, seed, progress)
        os.rename(building, out)
    except OSError as e:
        raise DataError(f"cannot write images to {out}: {e.strerror}") from e
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return done


def _fill(root: Path, per_class: int, seed: int, progress: Callable[[int, int], None] | None) -> int:
    done, total = 0, per_class * len(THINGS) * len(PAINTERS)
    for style in PAINTERS:
        for thing in THINGS:
            folder = root / style / thing
            folder.mkdir(parents=True)
            for number in range(per_class):
                Image.fromarray(image(seed, style, thing, number)).save(folder / f"{number:04d}.png")
            done += per_class
            if progress is not None:
                progress(done, total)
    return done
