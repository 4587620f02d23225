"""Clients whose class mixes differ."""

import numpy as np
from pydantic import PositiveFloat, PositiveInt

from schemas.base import Frozen
from schemas.errors import DataError
from workers.data.images import Images, Indices


class Dirichlet:
    """Give each class to the clients in shares drawn from Dirichlet(alpha), regardless of domain: `client-0`, ...

    Smaller alpha means more skew: 0.1 is severe, 100 is close to iid.
    """

    class Params(Frozen):
        """clients: how many. alpha: concentration of the shares."""

        clients: PositiveInt
        alpha: PositiveFloat = 0.5

    def __init__(self, params: Params) -> None:
        self.clients, self.alpha = params.clients, params.alpha

    def split(self, images: Images, generator: np.random.Generator) -> dict[str, Indices]:
        """Draw shares per class. A client left with nothing gets one image of whoever has most.

        Raises DataError if there are fewer images than clients.
        """
        if len(images) < self.clients:
            raise DataError(f"{len(images)} images cannot make {self.clients} clients")
        shares: list[list[int]] = [[] for _ in range(self.clients)]
        for label in np.unique(images.labels):
            mine = generator.permutation(np.flatnonzero(images.labels == label))
            cuts = np.cumsum(self._proportions(generator))[:-1] * len(mine)
            for share, part in zip(shares, np.split(mine, np.round(cuts).astype(int)), strict=True):
                share.extend(int(i) for i in part)
        for share in shares:
            if not share:
                share.append(max(shares, key=len).pop())
        return {f"client-{i}": np.array(sorted(share), dtype=np.int64) for i, share in enumerate(shares)}

    def _proportions(self, generator: np.random.Generator) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        # With a tiny alpha every gamma variate can underflow to 0 and the draw is nan: one client then has it all.
        drawn = generator.dirichlet(np.full(self.clients, self.alpha))
        return drawn if np.isfinite(drawn).all() else np.eye(self.clients)[generator.integers(self.clients)]
