"""Means over seeds and how far they may be off. Knows numbers alone. Needs scipy (extra `report`)."""

from collections.abc import Sequence
from math import sqrt
from statistics import fmean, stdev

from schemas.comparison import Estimate

SHARE = 0.95


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of one value or more, and of two or more its 95 % interval.

    mean ± t(n - 1) s / sqrt(n), with s the standard deviation of the sample and t Student's quantile (Student,
    Biometrika 6, 1908): right for values from one normal distribution, independent of one another.
    """
    from scipy.special import stdtrit  # noqa: PLC0415 (takes seconds)

    middle, count = fmean(values), len(values)
    if count < 2:
        return Estimate(mean=middle, seeds=count)
    half = float(stdtrit(count - 1, (1 + SHARE) / 2)) * stdev(values) / sqrt(count)
    return Estimate(mean=middle, low=middle - half, high=middle + half, seeds=count)
