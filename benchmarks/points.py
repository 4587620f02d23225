"""The data of the race: owners of two classes each, and a frozen backbone to which a picture is its 64 pixels.

Plugins like any other, named in the experiment as `benchmarks.points:Points`. Encoding costs microseconds, and the
noise decides how hard the task is.
"""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from schemas.base import Frozen, canonical, digest
from workers.data.images import Images

SIDE = 8
DIM = SIDE * SIDE
OWN = 2
"""Classes per owner."""


class Points:
    """Noisy points around one centre per class, as grey pictures of 8 x 8 pixels: a domain for each owner.

    centre ~ N(0, 1), point ~ N(centre, noise^2) in each of 64 dimensions, 8 bits for 4 standard deviations either way.
    """

    class Params(Frozen):
        """owners and classes: how many. per_class: pictures of one class at one owner. seed: of all that is drawn."""

        owners: PositiveInt = 60
        classes: PositiveInt = 40
        per_class: PositiveInt = 50
        noise: NonNegativeFloat = 3.0
        seed: NonNegativeInt = 0

    def __init__(self, params: Params) -> None:
        self.params = params

    def images(self, cache: Path) -> Images:
        """The files, written once: whole or not at all."""
        root = cache / "points" / digest(canonical(self.params))[:16]
        if not root.is_dir():
            building = root.parent / f".{root.name}-{secrets.token_hex(6)}"
            for name, pixels in self._pictures():
                path = building / name
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
            _appear(building, root)
        return self._named(root)

    def _named(self, root: Path) -> Images:
        names = sorted(self._names())
        index = {name: i for i, name in enumerate(sorted({n.parts[1] for n in names}))}
        return Images(
            paths=tuple(root / name for name in names),
            labels=np.array([index[n.parts[1]] for n in names], dtype=np.int64),
            domains=tuple(n.parts[0] for n in names),
            classes=tuple(index),
        )

    def _names(self) -> Iterator[Path]:
        for owner, label in self._shares():
            for n in range(self.params.per_class):
                yield Path(f"owner-{owner:02}", f"class-{label:02}", f"{n:03}.png")

    def _shares(self) -> list[tuple[int, int]]:
        """(owner, class): shuffled decks of all classes, dealt two to an owner, so every class has as many owners."""
        p, draw = self.params, np.random.default_rng([self.params.seed, 0])
        decks = -(-p.owners * OWN // p.classes)
        dealt = np.concatenate([draw.permutation(p.classes) for _ in range(decks)])[: p.owners * OWN]
        return [(i // OWN, int(label)) for i, label in enumerate(dealt)]

    def _pictures(self) -> Iterator[tuple[Path, NDArray[np.uint8]]]:
        p, draw = self.params, np.random.default_rng([self.params.seed, 1])
        centres = draw.normal(size=(p.classes, DIM))
        unit = 127.5 / (4 * np.sqrt(1 + p.noise**2))
        for name in self._names():
            point = centres[int(name.parts[1][-2:])] + p.noise * draw.normal(size=DIM)
            yield name, np.clip(np.rint(127.5 + unit * point), 0, 255).astype(np.uint8).reshape(SIDE, SIDE)


class Pixels:
    """A backbone whose feature of a picture is its pixels, and to which every text is nothing: heads start from 0."""

    class Params(Frozen):
        """No parameters."""

    dim, scale = DIM, 10.0
    fingerprint = hashlib.sha256(b"benchmarks.points:Pixels").hexdigest()

    def __init__(self, params: Frozen) -> None:
        self.params = params

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        """(3, 8, 8), about -1 to 1."""
        grey = np.asarray(image.convert("L"), dtype=np.float32) / 127.5 - 1
        return torch.from_numpy(grey).expand(3, SIDE, SIDE)

    def encode_images(self, batch: torch.Tensor) -> torch.Tensor:
        return batch[:, 0].reshape(len(batch), DIM)

    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        return torch.zeros(len(texts), DIM)


def _appear(building: Path, root: Path) -> None:
    try:
        os.rename(building, root)
    except OSError:
        shutil.rmtree(building, ignore_errors=True)
        if not root.is_dir():  # else another process was faster, with the same files
            raise
