"""Lognormal latency."""

from math import exp, log
from random import Random

from pydantic import Field

from schemas.base import Frozen


class Lognormal:
    """Clients differ lognormally in speed, and each varies a little from task to task.

    seconds = median_s * exp(sigma * z + jitter * e), z ~ N(0, 1) drawn once per client, e ~ N(0, 1) once per task.
    """

    class Params(Frozen):
        """median_s: seconds of the median client. sigma: spread between clients. jitter: spread between tasks."""

        median_s: float = Field(default=1.0, gt=0, le=1e6)
        sigma: float = Field(default=1.0, ge=0, le=5)
        jitter: float = Field(default=0.3, ge=0, le=5)

    def __init__(self, params: Params) -> None:
        self.params = params

    def seconds(self, client: str, base: int, owner: Random, task: Random) -> float:
        """Seconds until the answer; `owner` draws the client's speed, `task` the variation.

        `gauss` stays below sqrt(2 * 53 log 2) < 8.6, so the bounds of the parameters keep this below 1e6 * exp(86).
        """
        p = self.params
        return exp(log(p.median_s) + p.sigma * owner.gauss(0, 1) + p.jitter * task.gauss(0, 1))
