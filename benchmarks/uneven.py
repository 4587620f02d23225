"""Points of owners who are unlike: some hold what many hold, some what hardly anybody does, and some hold more."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydantic import NonNegativeFloat

from benchmarks.points import OWN, Points


class Uneven(Points):
    """Points of two classes per owner. The class of rank k is as likely as k^-skew; images are lognormal in number."""

    class Params(Points.Params):
        """skew: 0 makes all classes alike. spread: sigma of the images per owner; per_class is their median."""

        skew: NonNegativeFloat = 1.0
        spread: NonNegativeFloat = 0.0

    params: Params

    def _shares(self) -> list[tuple[int, int]]:
        p, draw = self.params, np.random.default_rng([self.params.seed, 0])
        shares = np.arange(1, p.classes + 1) ** -p.skew
        own = (draw.choice(p.classes, OWN, replace=False, p=shares / shares.sum()) for _ in range(p.owners))
        return [(owner, int(label)) for owner, labels in enumerate(own) for label in labels]

    def _names(self) -> Iterator[Path]:
        p, draw = self.params, np.random.default_rng([self.params.seed, 2])
        many = np.maximum(5, np.rint(p.per_class * np.exp(p.spread * draw.normal(size=p.owners)))).astype(int)
        for owner, label in self._shares():
            for n in range(many[owner]):
                yield Path(f"owner-{owner:02}", f"class-{label:02}", f"{n:03}.png")
