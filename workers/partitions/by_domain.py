"""Each domain belongs to clients of its own."""

import numpy as np
from pydantic import PositiveInt

from schemas.base import Frozen
from schemas.errors import DataError
from workers.data.images import Images, Indices


class ByDomain:
    """Split each domain into `clients_per_domain` clients of nearly the same class mix: `<domain>-0` and so on."""

    class Params(Frozen):
        """clients_per_domain: how many owners share one domain."""

        clients_per_domain: PositiveInt = 1

    def __init__(self, params: Params) -> None:
        self.count = params.clients_per_domain

    def split(self, images: Images, generator: np.random.Generator) -> dict[str, Indices]:
        """Deal each domain's images out like cards, label by label. Raises DataError if a domain has too few."""
        domains, of = np.unique(np.array(images.domains), return_inverse=True)
        owned = np.split(np.argsort(of, kind="stable"), np.cumsum(np.bincount(of))[:-1])
        shares: dict[str, Indices] = {}
        for domain, mine in zip(domains.tolist(), owned, strict=True):
            if len(mine) < self.count:
                raise DataError(f"domain {domain} has {len(mine)} images for {self.count} clients")
            shuffled = generator.permutation(mine)
            dealt = shuffled[np.argsort(images.labels[shuffled], kind="stable")]
            shares |= {f"{domain}-{i}": np.sort(dealt[i :: self.count]) for i in range(self.count)}
        return shares
