"""Clients that come and go."""

from collections.abc import Iterator
from math import inf
from random import Random

from pydantic import Field

from schemas.base import Frozen, Name

LONGEST_S = 1e9


class Sessions:
    """Clients that come, stay a while, leave and come again; some join late, some leave for good.

    Sessions last exponentially around `on_s` seconds, absences around `off_s`, drawn per client. `comes` names those
    who are first there later than at the start of the run, `goes` those who leave and do not come back.
    """

    class Params(Frozen):
        """on_s: mean session in simulated seconds; null lasts for ever. off_s: mean absence. comes, goes: by client."""

        on_s: float | None = Field(default=None, ge=0.01, le=LONGEST_S)
        off_s: float = Field(default=60.0, ge=0.01, le=LONGEST_S)
        comes: dict[Name, float] = {}
        goes: dict[Name, float] = {}

    def __init__(self, params: Params) -> None:
        self.params = params
        self.named = frozenset({*params.comes, *params.goes})

    def changes(self, client: str, random: Random) -> Iterator[float]:
        """When the client comes, leaves, comes again, ...: rising seconds since the start of the run."""
        p = self.params
        at, end = max(0.0, p.comes.get(client, 0.0)), p.goes.get(client, inf)
        while at < end:
            yield at
            at = min(end, at + random.expovariate(1 / p.on_s)) if p.on_s else end
            if at < inf:
                yield at
            at += random.expovariate(1 / p.off_s)
