"""Clients that differ by chance alone."""

import numpy as np
from pydantic import PositiveInt

from schemas.base import Frozen
from workers.data.images import Images, Indices
from workers.partitions._shares import enough, named


class Iid:
    """Shuffle all images and deal them out: `client-0`, ..., of the same size but for one image.

    Regardless of domain and class: the yardstick for every partition that skews.
    """

    paper = "McMahan et al., Communication-Efficient Learning of Deep Networks, arXiv 1602.05629, section 3 (IID)"

    class Params(Frozen):
        """clients: how many."""

        clients: PositiveInt

    def __init__(self, params: Params) -> None:
        self.clients = params.clients

    def split(self, images: Images, generator: np.random.Generator) -> dict[str, Indices]:
        """Equal shares of one permutation. Raises DataError if there are fewer images than clients."""
        enough(images, self.clients)
        return named(np.array_split(generator.permutation(len(images)), self.clients))
