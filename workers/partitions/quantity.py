"""Clients that differ in how much they have."""

import numpy as np
from pydantic import PositiveFloat, PositiveInt

from schemas.base import Frozen
from workers.data.images import Images, Indices
from workers.partitions._shares import drawn, enough, named


class Quantity:
    """Sizes drawn from Dirichlet(alpha), and images dealt out by chance to fill them: `client-0`, ...

    Class mixes differ by chance alone. Smaller alpha means more skew: at 0.1 a few clients have nearly everything.
    """

    paper = "Li et al., Federated Learning on Non-IID Data Silos, arXiv 2102.02079 (quantity skew)"
    deviations = ("each client has one image before the rest is shared out, so that nobody is left with nothing",)

    class Params(Frozen):
        """clients: how many. alpha: concentration of the sizes."""

        clients: PositiveInt
        alpha: PositiveFloat = 0.5

    def __init__(self, params: Params) -> None:
        self.clients, self.alpha = params.clients, params.alpha

    def split(self, images: Images, generator: np.random.Generator) -> dict[str, Indices]:
        """Cut one permutation at the drawn sizes. Raises DataError if there are fewer images than clients."""
        enough(images, self.clients)
        left = len(images) - self.clients
        ends = np.round(np.cumsum(drawn(self.clients, self.alpha, generator)) * left).astype(int)
        cuts = ends[:-1] + np.arange(1, self.clients)  # and one image each
        return named(np.split(generator.permutation(len(images)), cuts))
