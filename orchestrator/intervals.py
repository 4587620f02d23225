"""How sure one can be of a share that was counted. Knows numbers only."""

from math import sqrt
from statistics import NormalDist


def wilson(right: int, of: int, level: float = 0.95) -> tuple[float, float]:
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
