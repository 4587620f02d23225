"""What the events of a run add up to: accuracies, the ledger, bytes, staleness. Knows events alone, and no torch."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from schemas.log import Event, Share
from schemas.report import Accuracies, HeldOut


def everybody(events: Iterable[Event]) -> dict[str, Any]:
    """Clients and held-out owners as they were described: at first, and of sites that joined later."""
    told = [e.facts for e in events if e.event in ("described", "joined")]
    clients = {client: split for facts in told for client, split in facts["clients"].items()}
    return {"clients": clients, "held_out": sorted({owner for facts in told for owner in facts["held_out"]})}


def accuracies(events: Iterable[Event], described: Mapping[str, Any], version: int) -> Accuracies:
    """Accuracy of clients and held-out domains: of the frozen backbone, and of that version."""
    clients, held_out = sorted(described.get("clients", {})), described.get("held_out", [])
    zero_shot: dict[str, float | None] = dict.fromkeys([*clients, *held_out])
    final: dict[str, float | None] = dict(zero_shot)
    for e in events:
        if e.event == "evaluated" and e.client in zero_shot:
            zero_shot[e.client] = e.facts.get("zero_shot", zero_shot[e.client])
            if e.version == version:
                final[e.client] = e.facts.get("accuracy")
    known = [a for c in clients if (a := final[c]) is not None]
    return Accuracies(
        zero_shot={c: zero_shot[c] for c in clients},
        final={c: final[c] for c in clients},
        held_out={d: HeldOut(zero_shot=zero_shot[d], final=final[d]) for d in held_out},
        mean=sum(known) / len(known) if known else None,
        worst=min(known, default=None),
    )


def last_words(events: Iterable[Event]) -> dict[tuple[str, str], Event]:
    """{(task, client): the last word on its update}: it may have been given up as lost, and then be late."""
    found: dict[tuple[str, str], Event] = {}
    for e in events:
        if e.event in ("asked", "accepted", "late", "rejected", "lost"):
            key = e.facts["task"], str(e.client)
            if e.event == "asked" or key in found:  # what was never asked has no place here
                found[key] = e
    return found


def ledger(events: Collection[Event]) -> dict[str, Share]:
    """Per client, what became of every update it was asked for."""
    weights: dict[str, float] = defaultdict(float)
    for e in events:
        for client, weight in e.facts["weights"].items() if e.event == "closed" else ():
            weights[client] += weight
    numbers: dict[str, Counter[str]] = defaultdict(Counter)
    for (_, client), word in last_words(events).items():
        numbers[client].update(["asked"] if word.event == "asked" else ["asked", word.event])
    return {c: Share(**numbers[c], weight=weights[c]) for c in sorted(numbers)}


def total(events: Iterable[Event], names: Collection[str], fact: str) -> int:
    """The sum of a whole number that events of these names carry, e.g. `bytes`."""
    return sum(int(e.facts.get(fact, 0)) for e in events if e.event in names)


def lags(events: Iterable[Event]) -> Counter[int]:
    """How many counted updates lagged by how many versions."""
    found: Counter[int] = Counter()
    for e in events:
        if e.event == "closed":
            found.update({int(lag): n for lag, n in e.facts["lags"].items()})
    return found


def wasted_share(events: Collection[Event]) -> float:
    """Client updates asked and never counted, or replaced by a newer one, divided by those asked."""
    asked = sum(e.event == "asked" for e in events)
    entered = sum(e.facts["counted"] - len(e.facts.get("replaced", [])) for e in events if e.event == "closed")
    return (asked - entered) / asked if asked else 0.0
