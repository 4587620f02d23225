"""Unequal chances: what selectors share that ask some clients more often than others."""

from collections.abc import Sequence
from math import log
from random import Random

LEAST = 1e-12
"""The weight of who weighs nothing: drawn only when the others are."""


def draw(names: Sequence[str], weights: Sequence[float], count: int, random: Random) -> list[str]:
    """`count` of the names, each once, one after the other by weight; with equal weights as `random.sample` does.

    Efraimidis and Spirakis, Weighted random sampling with a reservoir: the greatest u^(1/w) are such a draw.
    """
    if len(set(weights)) <= 1:
        return random.sample(names, count)
    keys = {n: log(1 - random.random()) / max(w, LEAST) for n, w in zip(names, weights, strict=True)}
    return sorted(names, key=lambda n: (-keys[n], n))[:count]
