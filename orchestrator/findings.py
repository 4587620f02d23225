"""What the page of a run shows, as numbers, from the run's events alone. Knows neither plots nor HTML, and no torch."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from orchestrator import account
from schemas.log import Event, Share
from schemas.messages import ALL
from schemas.report import Accuracies
from schemas.story import Round, Story

UP, DOWN = ("accepted", "late", "rejected"), ("asked",)
"""Events that carry the bytes of updates, and of models."""
FATES = ("counted", "late", "rejected", "lost", "without")
"""What can become of a client in a round, the most telling first."""


@dataclass(frozen=True)
class Curve:
    """Accuracies (0 to 1) at versions, and the seconds of the run's clock since its beginning at which those stood."""

    versions: tuple[int, ...]
    seconds: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Client:
    """One line of the ledger. images: for training. data, weight: its shares of the whole, 0 to 1; None: of nothing.

    group: whose model it was asked to train the last time; empty if there is one for all.
    """

    name: str
    domain: str
    group: str
    images: int
    data: float | None
    weight: float | None
    share: Share
    without: int
    zero_shot: float | None
    final: float | None


@dataclass(frozen=True)
class Cause:
    """Why updates did not count: which kind, the reason, how many updates, of whom."""

    kind: str
    reason: str
    count: int
    clients: tuple[str, ...]


@dataclass(frozen=True)
class Findings:
    """All of a page. bytes_up, bytes_down: of each round, then of what came after the last. lags: {lag: updates}.

    evaluated: the last version of which anybody's accuracy is known. seconds: of the run's clock, to its last event.
    """

    story: Story
    started: Mapping[str, Any]
    described: Mapping[str, Any]
    accuracy: Accuracies
    evaluated: int | None
    clients: tuple[Client, ...]
    curves: Mapping[str, Curve]
    domains: Mapping[str, Curve]
    held_out: Mapping[str, Curve]
    mean: Curve
    worst: Curve
    lags: Counter[int]
    bytes_up: tuple[int, ...]
    bytes_down: tuple[int, ...]
    wasted_share: float
    causes: tuple[Cause, ...]
    seconds: float


def find(story: Story, events: Sequence[Event]) -> Findings:
    """What these events say; the story is the same run's."""
    first = {e.event: e.facts for e in reversed(events)}
    known = account.everybody(events)
    scores = _scores(events)
    latest = max((v for v, found in scores.items() if set(found) & set(known["clients"])), default=None)
    accuracy = account.accuracies(events, known, latest or 0)
    domains = {c: tuple(names) for e in _described(events) for c, names in e.facts.get("domains", {}).items()}
    curve, (up, down) = _Curves(scores, _times(events)), _traffic(events)
    trained = [c for c in known["clients"] if any(c in found for found in scores.values())]
    return Findings(
        story=story,
        started=first.get("started", {}),
        described=first.get("described", {}),
        accuracy=accuracy,
        evaluated=latest,
        clients=tuple(_clients(events, known["clients"], accuracy, domains)),
        curves={c: curve.of((c,)) for c in trained},
        domains={d: curve.of(of) for d, of in sorted(_by_domain(trained, domains).items())},
        held_out={h: c for h in known["held_out"] if (c := curve.of((h,))).versions},
        mean=curve.of(trained),
        worst=curve.of(trained, min),
        lags=account.lags(events),
        bytes_up=up,
        bytes_down=down,
        wasted_share=account.wasted_share(events),
        causes=tuple(_causes(events)),
        seconds=events[-1].at - events[0].at if events else 0.0,
    )


def fates(rounds: Sequence[Round]) -> dict[tuple[str, int], str]:
    """{(client, version): what became of the client in that round}; nothing of those who were not in it."""
    found: dict[tuple[str, int], str] = {}
    for made in rounds:
        named = {
            "counted": made.counted,
            "late": [u.client for u in made.late],
            "rejected": [g.client for g in made.rejected],
            "lost": [g.client for g in made.lost],
            "without": made.without,
        }
        for fate in reversed(FATES):
            found |= {(client, made.version): fate for client in named[fate]}
    return found


@dataclass(frozen=True)
class _Curves:
    """scores: {version: {who: accuracy}}. times: {version: seconds}."""

    scores: Mapping[int, Mapping[str, float]]
    times: Mapping[int, float]

    def of(self, who: Iterable[str], fold: Any = fmean) -> Curve:
        """Of some, folded into one number per version: of those who are known there."""
        named = tuple(who)
        known = {v: [found[w] for w in named if w in found] for v, found in sorted(self.scores.items())}
        points = [(v, self.times[v], fold(values)) for v, values in known.items() if values and v in self.times]
        versions, seconds, values = zip(*points, strict=True) if points else ((), (), ())
        return Curve(versions, seconds, values)


def _scores(events: Iterable[Event]) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    for e in events:
        if e.event == "evaluated" and "accuracy" in e.facts:
            found.setdefault(e.version, {})[str(e.client)] = e.facts["accuracy"]
    return found


def _times(events: Sequence[Event]) -> dict[int, float]:
    """When each version stood, in seconds since the beginning."""
    began = events[0].at if events else 0.0
    opened = next((e.at for e in events if e.event == "asked"), began)
    return {0: opened - began, **{e.version: e.at - began for e in events if e.event == "closed"}}


def _described(events: Iterable[Event]) -> Iterator[Event]:
    return (e for e in events if e.event in ("described", "joined"))


def _by_domain(clients: Iterable[str], domains: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for client in clients:
        for domain in domains.get(client, ()):
            found.setdefault(domain, []).append(client)
    return found


def _clients(
    events: Sequence[Event],
    splits: Mapping[str, Mapping[str, int]],
    accuracy: Accuracies,
    domains: Mapping[str, Sequence[str]],
) -> Iterator[Client]:
    ledger = account.ledger(events)
    images = {c: split.get("train", 0) for c, split in splits.items()}
    data, weight = sum(images.values()), sum(s.weight for s in ledger.values())
    groups = {e.client: e.facts.get("group", ALL) for e in events if e.event == "asked"}
    without = Counter(c for e in events if e.event == "closed" for c in e.facts["without"])
    for name in sorted(splits):
        share = ledger.get(name, Share())
        yield Client(
            name=name,
            domain=", ".join(domains.get(name, ())),
            group=groups.get(name, "") if set(groups.values()) != {ALL} else "",
            images=images[name],
            data=images[name] / data if data else None,
            weight=share.weight / weight if weight else None,
            share=share,
            without=without[name],
            zero_shot=accuracy.zero_shot.get(name),
            final=accuracy.final.get(name),
        )


def _traffic(events: Iterable[Event]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Bytes up and down per round, and at the end what came after the last one closed, if anything did."""
    up, down = [0], [0]
    for e in events:
        if e.event == "closed":
            up.append(0)
            down.append(0)
        elif e.event in (*UP, *DOWN):
            (up if e.event in UP else down)[-1] += int(e.facts.get("bytes", 0))
    whole = len(up) if up[-1] or down[-1] else len(up) - 1
    return tuple(up[:whole]), tuple(down[:whole])


def _causes(events: Iterable[Event]) -> Iterator[Cause]:
    """The commonest first. They add up to what the ledger says."""
    found: dict[tuple[str, str], list[str]] = {}
    for (_, client), word in account.last_words(events).items():
        if word.event in ("rejected", "lost"):
            found.setdefault((word.event, word.facts["reason"]), []).append(client)
    for (kind, reason), clients in sorted(found.items(), key=lambda item: (-len(item[1]), item[0])):
        yield Cause(kind, reason, len(clients), tuple(dict.fromkeys(clients)))
