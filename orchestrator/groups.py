"""Groups: clients that share one model. Who belongs where, and how the rounds of groups go on when one has closed.

Pure functions of values; knows neither tensors nor methods.
"""

from collections.abc import Collection, Iterable, Mapping

from schemas.log import Round
from schemas.messages import ALL, Description


def homes(clients: Iterable[str], assignment: Mapping[str, str], groups: Collection[str]) -> dict[str, str]:
    """The group of each client. One that the method has not assigned is in `all`, or in the first group by name."""
    return {client: home(client, assignment, groups) for client in clients}


def trainers(descriptions: Iterable[Description]) -> frozenset[str]:
    """The clients that have images to train on."""
    return frozenset(client for d in descriptions for client, split in d.clients.items() if split.train)


def home(client: str, assignment: Mapping[str, str], groups: Collection[str]) -> str:
    """The group of one client, or of an owner that only evaluates."""
    return assignment.get(client) or (ALL if ALL in groups or not groups else min(groups))


def lag(rounds: Mapping[str, Round], group: str, base: int) -> int | None:
    """Merges of a group since a base, as far back as it is remembered; None if the group is gone."""
    return sum(b > base for b in rounds[group].bases) if group in rounds else None


def opened(was: Round | None, version: int, at: float, depth: int) -> Round:
    """The next round of a group whose model changed, or the first of a new one. depth: how many bases to remember."""
    bases = (*was.bases, version)[-depth:] if was else (version,)
    return Round(bases=bases, since=at, opened_at=at)


def rebased(was: Round, version: int, depth: int) -> Round:
    """A round that stays open although another group's merge changed its model: who is asked now gets the new one."""
    return was.model_copy(update={"bases": (*was.bases, version)[-depth:]})
