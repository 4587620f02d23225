"""The report of a run, from its journal alone."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from schemas.errors import RunFailed
from schemas.log import Event, Share
from schemas.report import Accuracies, HeldOut, Report
from workers.tensors import Tensors, fingerprint


def build(run: str, events: list[Event], tensors: Mapping[str, Tensors]) -> Report:
    """What the events add up to. tensors: of the last version, by group. Raises RunFailed for a run without events."""
    first = {name: next((e for e in events if e.event == name), None) for name in ("started", "described", "finished")}
    started, described, finished = first["started"], first["described"], first["finished"]
    if started is None or finished is None:
        raise RunFailed(f"run {run} has not ended", hint=f"quorate run --resume {run}")
    version = finished.version
    asked = sum(e.event == "asked" for e in events)
    entered = sum(e.facts["counted"] for e in events if e.event == "closed")
    return Report(
        run=run,
        status=finished.facts["status"],
        reason=finished.facts["reason"],
        version=version,
        seconds=max(0.0, events[-1].wall - events[0].wall),
        virtual_seconds=finished.at - started.at if started.facts["virtual"] else None,
        accuracy=accuracies(events, everybody(events), version),
        bytes_up=_sum(events, ("accepted", "late", "rejected"), "bytes"),
        bytes_down=_sum(events, ("asked",), "bytes"),
        wasted_share=(asked - entered) / asked if asked else 0.0,
        mean_staleness=_mean_lag(events),
        ledger=ledger(events),
        closed_without={
            e.version: tuple(e.facts["without"]) for e in events if e.event == "closed" and e.facts["without"]
        },
        encodes=_sum(events, ("answered",), "encodes"),
        adapter_sha256=fingerprint(flat(tensors)) if tensors else None,
        skipped=described.facts.get("skipped", {}) if described else {},
        seed=started.facts["seed"],
        code_version=started.facts["code_version"],
        backbone_fingerprint=described.facts["fingerprint"] if described else "",
    )


def flat(tensors: Mapping[str, Tensors]) -> Tensors:
    """The tensors of all groups under one name each: plain names for a single group, else `<group>/<name>`."""
    if len(tensors) == 1:
        return dict(next(iter(tensors.values())))
    return {f"{group}/{name}": t for group, inner in tensors.items() for name, t in inner.items()}


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


def ledger(events: Iterable[Event]) -> dict[str, Share]:
    """Per client, what became of every update it was asked for: the last word on a task holds (lost, then late)."""
    fates: dict[tuple[str, str], str] = {}
    weights: dict[str, float] = defaultdict(float)
    for e in events:
        if e.event in ("asked", "accepted", "late", "rejected", "lost"):
            key = e.facts["task"], str(e.client)
            if e.event == "asked" or key in fates:  # what was never asked has no place here
                fates[key] = e.event
        for client, weight in e.facts["weights"].items() if e.event == "closed" else ():
            weights[client] += weight
    numbers: dict[str, Counter[str]] = defaultdict(Counter)
    for (_, client), fate in fates.items():
        numbers[client].update(["asked"] if fate == "asked" else ["asked", fate])
    return {c: Share(**numbers[c], weight=weights[c]) for c in sorted(numbers)}


def _sum(events: Iterable[Event], names: Collection[str], fact: str) -> int:
    return sum(int(e.facts.get(fact, 0)) for e in events if e.event in names)


def _mean_lag(events: Iterable[Event]) -> float:
    lags: Counter[int] = Counter()
    for e in events:
        if e.event == "closed":
            lags.update({int(lag): n for lag, n in e.facts["lags"].items()})
    return sum(lag * n for lag, n in lags.items()) / lags.total() if lags else 0.0
