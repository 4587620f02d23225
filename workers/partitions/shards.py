"""Clients that know few classes."""

import numpy as np
from pydantic import PositiveInt

from schemas.base import Frozen
from schemas.errors import DataError
from workers.data.images import Images, Indices
from workers.partitions._shares import named


class Shards:
    """Sort all images by class, cut them into equal shards, give `per_client` drawn ones to each: `client-0`, ...

    With two shards most clients know two classes, regardless of domain. A shard that lies across a border between two
    classes has both.
    """

    paper = "McMahan et al., Communication-Efficient Learning of Deep Networks, arXiv 1602.05629, section 3 (Non-IID)"
    deviations = ("shards differ by one image where the number of images is no multiple of theirs",)

    class Params(Frozen):
        """clients: how many. per_client: shards of each; the paper has 2 for 100 clients of MNIST."""

        clients: PositiveInt
        per_client: PositiveInt = 2

    def __init__(self, params: Params) -> None:
        self.clients, self.per_client = params.clients, params.per_client

    def split(self, images: Images, generator: np.random.Generator) -> dict[str, Indices]:
        """Deal the shards out. Raises DataError if there are fewer images than shards."""
        count = self.clients * self.per_client
        if len(images) < count:
            raise DataError(f"{len(images)} images cannot make {self.per_client} shards for {self.clients} clients")
        shuffled = generator.permutation(len(images))  # which images of a class meet in a shard is left to chance
        ordered = shuffled[np.argsort(images.labels[shuffled], kind="stable")]
        shards, dealt = np.array_split(ordered, count), generator.permutation(count)
        mine = dealt.reshape(self.clients, self.per_client)
        return named([np.concatenate([shards[s] for s in row]) for row in mine])
