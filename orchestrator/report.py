"""The report of a run, from its journal alone."""

from collections.abc import Mapping

from orchestrator import account
from schemas.errors import RunFailed
from schemas.log import Event
from schemas.report import Report
from workers.tensors import Tensors, fingerprint


def build(run: str, events: list[Event], tensors: Mapping[str, Tensors]) -> Report:
    """What the events add up to. tensors: of the last version, by group. Raises RunFailed for a run without events."""
    first = {name: next((e for e in events if e.event == name), None) for name in ("started", "described", "finished")}
    started, described, finished = first["started"], first["described"], first["finished"]
    if started is None or finished is None:
        raise RunFailed(f"run {run} has not ended", hint=f"quorate run --resume {run}")
    version = finished.version
    lags = account.lags(events)
    return Report(
        run=run,
        status=finished.facts["status"],
        reason=finished.facts["reason"],
        version=version,
        seconds=max(0.0, events[-1].wall - events[0].wall),
        virtual_seconds=finished.at - started.at if started.facts["virtual"] else None,
        accuracy=account.accuracies(events, account.everybody(events), version),
        bytes_up=account.total(events, ("accepted", "late", "rejected"), "bytes"),
        bytes_down=account.total(events, ("asked",), "bytes"),
        wasted_share=account.wasted_share(events),
        mean_staleness=sum(lag * n for lag, n in lags.items()) / lags.total() if lags else 0.0,
        ledger=account.ledger(events),
        closed_without={
            e.version: tuple(e.facts["without"]) for e in events if e.event == "closed" and e.facts["without"]
        },
        encodes=account.total(events, ("answered",), "encodes"),
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
