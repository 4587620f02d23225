"""What a site says of itself, and whether it fits: one rule for sites of the beginning and for those that come late.

Knows neither stream nor book. What does not fit is a reason in words, for the record; nothing is raised for it.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from pydantic import ValidationError

from infra.blobs import BlobStore
from orchestrator import keys
from schemas.base import alike
from schemas.errors import BlobCorrupt, BlobMissing
from schemas.log import Open
from schemas.messages import BlobRef, Description, Manifest

LARGEST: Final = 16 * 1024 * 1024
"""Bytes of JSON: counts and names of very many clients."""


@dataclass
class Sorted:
    """Descriptions that fit together; by site, why the others do not."""

    fitting: list[Description] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


def received(blobs: BlobStore, run: str, task: Open, manifest: Manifest) -> Description | str:
    """What a site answered to a describe task, or why that is no description of it."""
    blob = manifest.outputs.get("description")
    granted = {keys.start(run, task.task_id, n) for n in range(1, task.attempt + 1)}
    if blob is None or manifest.run != run or blob.key not in granted:
        return "no description under a key that was granted"
    found = _read(blobs, blob)
    if isinstance(found, str):
        return f"an unreadable description: {found}"
    return found if found.site == task.site else f"it described itself as {found.site or 'the pool'}"


def objection(
    found: Description, others: Iterable[Description], *, fingerprint: str | None, classes: Collection[str] | None
) -> str:
    """Why a description does not fit to others, or nothing. fingerprint, classes: of the run, if there are any."""
    names, site = (*found.clients, *found.held_out), found.site
    taken = {name for d in others for name in (*d.clients, *d.held_out)}
    if fingerprint is not None and found.fingerprint != fingerprint:
        return "it holds another backbone than the run"
    if unknown := sorted(set(found.classes) - set(found.classes if classes is None else classes)):
        return f"class {unknown[0][:80]!r} is none of the run's classes"
    if clash := alike(found.classes):
        return "CLIP cannot tell its classes {!r} and {!r} apart".format(*clash)
    if twice := sorted(taken & set(names)) or sorted(found.clients.keys() & found.held_out.keys()):
        return f"the run has a client of the name {twice[0]} already"
    if foreign := [name for name in names if site and name != site and not name.startswith(f"{site}.")]:
        return f"it describes {foreign[0]}, which does not bear its name"
    return "" if names else "it holds no data"


def sort_out(answers: Mapping[str, Description | str], classes: Collection[str] | None) -> Sorted:
    """Which of the first answers, by site, fit together. classes: those that the experiment names.

    The backbone of the run is the one that most sites hold. If no one has most, whoever agrees on it finds out.
    """
    found, usual = Sorted(), _usual(d.fingerprint for d in answers.values() if isinstance(d, Description))
    for site, said in answers.items():
        reason = said if isinstance(said, str) else objection(said, found.fitting, fingerprint=usual, classes=classes)
        if reason or isinstance(said, str):
            found.refused[site] = reason[:500]
        else:
            found.fitting.append(said)
    return found


def _usual(prints: Iterable[str]) -> str | None:
    counts = Counter(prints).most_common(2)
    return counts[0][0] if counts and (len(counts) == 1 or counts[0][1] > counts[1][1]) else None


def _read(blobs: BlobStore, blob: BlobRef) -> Description | str:
    if blob.size > LARGEST:
        return f"{blob.size} bytes are too many"
    try:
        return Description.model_validate_json(blobs.get(blob))
    except ValidationError as e:
        return str(e.errors()[0]["msg"])
    except (BlobMissing, BlobCorrupt) as e:
        return str(e)
