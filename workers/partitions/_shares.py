"""Shares that are drawn: what partitions by a Dirichlet distribution have in common."""

import numpy as np
import numpy.typing as npt

from schemas.errors import DataError
from workers.data.images import Images, Indices


def enough(images: Images, clients: int) -> None:
    """See that every client can have an image. Raises DataError."""
    if len(images) < clients:
        raise DataError(f"{len(images)} images cannot make {clients} clients")


def drawn(count: int, alpha: float, generator: np.random.Generator) -> npt.NDArray[np.float64]:
    """Proportions from Dirichlet(alpha), float64 (count,), finite and of sum 1 for any alpha above 0."""
    # With a tiny alpha every gamma variate can underflow to 0 and the draw is nan: one then has it all.
    found = generator.dirichlet(np.full(count, alpha))
    return found if np.isfinite(found).all() else np.eye(count)[generator.integers(count)]


def named(shares: list[Indices]) -> dict[str, Indices]:
    """`client-0` and so on, each with its images in ascending order, int64."""
    return {f"client-{i}": np.sort(np.asarray(share, dtype=np.int64)) for i, share in enumerate(shares)}
