"""Images as the pixels that a backbone takes, read and decoded when they are used: no more than a batch in memory.

Knows files and a backbone's preprocessing. Must not know labels, clients or methods.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch

from workers.data.features import Backbone
from workers.data.pixels import decode, read

TOGETHER = 32
"""Images that are decoded at a time where all are wanted."""


@dataclass
class Passed:
    """How many images some pictures have been, so far: as often as each was used."""

    images: int = 0


@dataclass(frozen=True)
class Pictures:
    """N image files. Indexed by numbers, they are float32 (B, 3, H, W), preprocessed.

    passed: what is counted of them, and of all parts of them.
    """

    paths: tuple[Path, ...]
    backbone: Backbone
    passed: Passed = field(default_factory=Passed, compare=False)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, chosen: torch.Tensor) -> torch.Tensor:
        """chosen: int64 (B,). Raises DataError naming a file that cannot be read."""
        rows = [self._one(self.paths[i]) for i in chosen.tolist()]
        self.passed.images += len(rows)
        return torch.stack(rows) if rows else torch.zeros(0)

    def take(self, indices: torch.Tensor) -> "Pictures":
        """These only. indices: int64 (N,)."""
        return Pictures(tuple(self.paths[i] for i in indices.tolist()), self.backbone, self.passed)

    def _one(self, path: Path) -> torch.Tensor:
        return self.backbone.preprocess(decode(path, read(path)))


def part(x: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Some rows of features, or some pictures that are still none in memory."""
    return cast(torch.Tensor, x.take(chosen)) if isinstance(x, Pictures) else x[chosen]


def together(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """All rows, or all pictures, in this order."""
    first: object = parts[0]
    if isinstance(first, Pictures):
        paths = tuple(path for pictures in parts for path in cast(Pictures, pictures).paths)
        return cast(torch.Tensor, Pictures(paths, first.backbone, first.passed))
    return torch.cat(list(parts))


def passed(x: torch.Tensor) -> int:
    """How many images have passed through the image tower, each as often as it did; 0 for features."""
    return x.passed.images if isinstance(x, Pictures) else 0


def passes(x: torch.Tensor) -> Iterator[torch.Tensor]:
    """Features at once, pictures some at a time."""
    if not isinstance(x, Pictures):
        yield x
        return
    for start in range(0, len(x), TOGETHER):
        yield x[torch.arange(start, min(start + TOGETHER, len(x)))]
