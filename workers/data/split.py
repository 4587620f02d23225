"""One owner's images in train, validation and test: 60/20/20 by class or by chance, or as the data set says.

Knows labels only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workers.data.images import Indices, Part


@dataclass(frozen=True)
class Parts:
    """Disjoint sorted indices. They cover all images of an owner, but for the few that `permuted` drops."""

    train: Indices
    val: Indices
    test: Indices


def stratified(labels: Indices, generator: np.random.Generator) -> Parts:
    """Split so that each label is shared 60/20/20, drawn by the generator.

    labels: int64 (N,). Each label that occurs is in train. What rounding withholds from val and test at one label is
    owed at the next, so small classes do not bend the whole; two images of one label suffice for a test image.
    """
    train, val, test = [], [], []
    owed_test, owed_val = 3, 2  # in fifths of an image: who has two images gets a test image, who has three a val too
    for label in np.unique(labels):
        mine = generator.permutation(np.flatnonzero(labels == label))
        share, owed_test, owed_val = -(-len(mine) // 5), owed_test + len(mine), owed_val + len(mine)
        tests = min(owed_test // 5, share, len(mine) - 1)
        vals = min(owed_val // 5, share, len(mine) - 1 - tests)
        owed_test, owed_val = owed_test - 5 * tests, owed_val - 5 * vals
        test.append(mine[:tests])
        val.append(mine[tests : tests + vals])
        train.append(mine[tests + vals :])
    return Parts(train=_joined(train), val=_joined(val), test=_joined(test))


def permuted(count: int, seed: int) -> Parts:
    """The split of FedCLIP's released code: one permutation by numpy's old generator, cut at 60 %, 20 %, 20 %.

    Shares are rounded down; what is left, two images at most, is in none. The order of the images is ImageFolder's.
    """
    order = np.random.RandomState(seed % 2**32).permutation(count)
    train, fifth = 3 * count // 5, count // 5
    cuts = (train, train + fifth, train + 2 * fifth)
    return Parts(*(np.sort(part).astype(np.int64) for part in np.split(order, cuts)[:3]))


def listed(parts: Sequence[Part]) -> Parts:
    """The split that a data set gives, image by image."""
    said = np.array(parts)
    return Parts(*(np.flatnonzero(said == part) for part in ("train", "val", "test")))


def only_test(count: int) -> Parts:
    """All images are for testing: an owner whose domain is held out."""
    none = np.empty(0, dtype=np.int64)
    return Parts(train=none, val=none, test=np.arange(count, dtype=np.int64))


def _joined(parts: list[Indices]) -> Indices:
    return np.sort(np.concatenate([np.empty(0, dtype=np.int64), *parts]))
