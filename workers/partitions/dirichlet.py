"""Clients whose class mixes differ."""

import numpy as np
from pydantic import PositiveFloat, PositiveInt

from schemas.base import Frozen
from workers.data.images import Images, Indices
from workers.partitions._shares import drawn, enough, named


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
        enough(images, self.clients)
        shares: list[list[int]] = [[] for _ in range(self.clients)]
        for label in np.unique(images.labels):
            mine = generator.permutation(np.flatnonzero(images.labels == label))
            cuts = np.cumsum(drawn(self.clients, self.alpha, generator))[:-1] * len(mine)
            for share, part in zip(shares, np.split(mine, np.round(cuts).astype(int)), strict=True):
                share.extend(int(i) for i in part)
        for share in shares:
            if not share:
                share.append(max(shares, key=len).pop())
        return named([np.array(share, dtype=np.int64) for share in shares])
