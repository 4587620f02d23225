"""Who owns which images: the clients that train and the held-out domains that only evaluate.

Turns the `data` of an experiment or of a site into owners. Knows no features and no messages.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from schemas.base import Choice, Name, derive
from schemas.complaints import nearest
from schemas.errors import DataError
from schemas.experiment import Data
from workers.data.images import Images, Indices
from workers.data.split import Parts, listed, only_test, permuted, stratified
from workers.plugins import load

_NAME: TypeAdapter[str] = TypeAdapter(Name)


@dataclass(frozen=True, eq=False)
class Owner:
    """One owner's images and their split. Two owners are equal if they are one object."""

    name: str
    images: Images
    parts: Parts

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains of its images, sorted."""
        return tuple(sorted(set(self.images.domains)))


@dataclass(frozen=True)
class Owners:
    """Everyone in one place (the pool, or a site), by name. skipped: files left out because they cannot be read."""

    clients: dict[str, Owner]
    held_out: dict[str, Owner]
    classes: tuple[str, ...]
    skipped: tuple[Path, ...] = ()

    def find(self, name: str) -> Owner:
        """A client or a held-out owner. Raises DataError."""
        found = self.clients.get(name) or self.held_out.get(name)
        if found is None:
            raise DataError(f"no client {name!r} here")
        return found


def read_owners(data: Data, *, seed: int, cache: Path, site: str | None = None) -> Owners:
    """Read the data set, set held-out domains aside, give the rest to clients and split each.

    What the data set itself says of clients or of the split is kept to. Pool: clients are named by the data set, by the
    partition, or `client-0` without either. Site: the site itself, or `<site>.<client>`;
    its held-out owners are `<site>.<domain>`. cache: where a data set that is drawn keeps its files. Depends on the
    files and the seed only. Raises DataError, PluginError.
    """
    images: Images = load("workers.datasets", Choice(name=data.name, params=data.params)).images(cache)
    if not len(images):
        raise DataError(f"data set {data.name} is empty")
    _refuse_unknown_domains(data.hold_out, images)
    kept = np.flatnonzero([d not in data.hold_out for d in images.domains])
    if not len(kept):
        raise DataError("every domain is held out: nothing is left to train on", hint="shorten hold_out")
    clients = _partition(data.partition, images.take(kept), seed)
    prefix = f"{site}." if site else ""
    named = {_name(f"{prefix}{k}" if k else site or "client-0"): kept[v] for k, v in clients.items()}
    held = {_name(f"{prefix}{d}"): _of_domain(images, d) for d in data.hold_out}
    return Owners(
        clients={k: Owner(k, mine := images.take(v), _parts(data, k, mine, seed)) for k, v in sorted(named.items())},
        held_out={k: Owner(k, images.take(v), only_test(len(v))) for k, v in sorted(held.items())},
        classes=images.classes,
        skipped=images.skipped,
    )


def _partition(choice: Choice | None, images: Images, seed: int) -> dict[str, Indices]:
    if images.clients:
        return _as_listed(choice, images)
    if choice is None:
        return {"": np.arange(len(images), dtype=np.int64)}
    generator = np.random.default_rng(derive(seed, "partition"))
    found: dict[str, Indices] = load("workers.partitions", choice).split(images, generator)
    return found


def _as_listed(choice: Choice | None, images: Images) -> dict[str, Indices]:
    if choice is not None:
        raise DataError(
            f"the data say whose each image is, so partition {choice.name} has nothing to give",
            hint="leave out the partition, or what the data say of clients",
        )
    owners = np.array(images.clients)
    order = np.argsort(owners, kind="stable").astype(np.int64)
    names, starts = np.unique(owners[order], return_index=True)
    return dict(zip(names.tolist(), np.split(order, starts[1:]), strict=True))


def _parts(data: Data, name: str, images: Images, seed: int) -> Parts:
    if images.parts:
        return listed(images.parts)
    if data.split == "permutation":
        return permuted(len(images), seed)
    return stratified(images.labels, np.random.default_rng(derive(seed, name, "split")))


def _of_domain(images: Images, domain: str) -> Indices:
    return np.flatnonzero([d == domain for d in images.domains])


def _refuse_unknown_domains(hold_out: tuple[str, ...], images: Images) -> None:
    known = sorted(set(images.domains))
    for domain in hold_out:
        if domain not in known:
            raise DataError(f"hold_out names no domain of the data: {domain!r}", hint=nearest(domain, known))


def _name(text: str) -> str:
    try:
        return _NAME.validate_python(text)
    except ValidationError:
        raise DataError(
            f"{text!r} cannot name a client", hint="letters, digits, _ . - only; rename the folder"
        ) from None
