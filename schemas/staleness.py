"""How much an update counts that lags: four functions of its staleness, by name. Knows neither rounds nor tensors."""

from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from schemas.base import Frozen


class Unparametrised(Frozen):
    """No parameters."""


class Slope(Frozen):
    """a: the exponent."""

    a: float = Field(default=0.5, gt=0, le=10)


class Bend(Frozen):
    """b: the greatest lag that costs nothing. a: how steep it is from there on."""

    a: float = Field(default=10.0, gt=0, le=1e6)
    b: float = Field(default=4.0, ge=0, le=1e6)


class Constant(Frozen):
    """1, whatever the lag."""

    name: Literal["constant"] = "constant"
    params: Unparametrised = Unparametrised()

    def of(self, lag: int) -> float:
        """s(lag) = 1."""
        return 1.0


class Sqrt(Frozen):
    """1/sqrt(1 + lag) (FedBuff, arXiv 2106.06639)."""

    name: Literal["sqrt"] = "sqrt"
    params: Unparametrised = Unparametrised()

    def of(self, lag: int) -> float:
        """s(lag) = 1/sqrt(1 + lag)."""
        return float((1.0 + lag) ** -0.5)


class Polynomial(Frozen):
    """(1 + lag)^-a (FedAsync, arXiv 1903.03934)."""

    name: Literal["polynomial"]
    params: Slope = Slope()

    def of(self, lag: int) -> float:
        """s(lag) = (1 + lag)^-a."""
        return float((1.0 + lag) ** -self.params.a)


class Hinge(Frozen):
    """1 up to lag b, then 1/(a (lag - b) + 1) (FedAsync, arXiv 1903.03934): continuous at b."""

    name: Literal["hinge"]
    params: Bend = Bend()

    def of(self, lag: int) -> float:
        """s(lag) = 1 if lag <= b else 1/(a (lag - b) + 1)."""
        beyond = max(0.0, lag - self.params.b)
        return 1.0 / (self.params.a * beyond + 1.0)


NAMES = ("constant", "sqrt", "polynomial", "hinge")


def _whole(value: Any) -> Any:
    """A bare name is a choice without parameters; a name that is none of ours is refused with the nearest."""
    given = {"name": value} if isinstance(value, str) else value
    name = given.get("name") if isinstance(given, dict) else None
    if isinstance(name, str) and name not in NAMES:
        near = get_close_matches(name, NAMES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(NAMES)}"
        raise ValueError(f"no staleness {name[:80]!r} ({hint})")
    return given


Staleness = Annotated[
    Annotated[Constant | Sqrt | Polynomial | Hinge, Field(discriminator="name")], BeforeValidator(_whole)
]
"""`sqrt`, `constant`, `{name: polynomial, params: {a: 0.5}}` or `{name: hinge, params: {a: 10, b: 4}}`.

Each is 1 for a lag of 0, never grows, and stays above 0.
"""
