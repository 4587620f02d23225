"""How far a figure may be off: a mean over seeds (with scipy, of the extra `report`), a share that was counted."""

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist, fmean, stdev

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


def wilson(right: int, of: int, level: float = SHARE) -> tuple[float, float]:
    """The score interval of a binomial share: low and high, 0 to 1; of no trials (0, 1).

    Wilson, Probable Inference, the Law of Succession, and Statistical Inference (1927). With p = right / of and z the
    normal quantile: (p + z^2/2n -+ z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n). It stays within 0 and 1, also where
    all or none are right.
    """
    if not of:
        return 0.0, 1.0
    z, p = NormalDist().inv_cdf((1 + level) / 2), right / of
    middle, half = p + z * z / (2 * of), z * sqrt(p * (1 - p) / of + z * z / (4 * of * of))
    return max(0.0, (middle - half) / (1 + z * z / of)), min(1.0, (middle + half) / (1 + z * z / of))
