"""Prometheus metrics of one run, made of the journal's events and served over HTTP while the run goes on.

Names and units follow the conventions of Prometheus. Every label has few values: reasons are ours or cut to their
kind, and clients are named only while they are few. Counters begin at 0 with the process, as Prometheus expects;
the journal alone knows the whole run. Knows no store and no loop.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)

from orchestrator.measures import COUNTERS, GAUGES, HISTOGRAMS, LABELS, WITH_REASON
from orchestrator.scores import Scores
from schemas.errors import SettingsError
from schemas.experiment import Experiment
from schemas.log import Event

NAMED_CLIENTS = 100
"""With more clients than these, accuracy is told per domain only."""
VALUES = 40
"""Most reasons or domains; what comes beyond them is `other`."""
LOST = ("deadline", "too stale", "moved", "no result in the manifest")
"""Why an update is lost by the loop's own word; else the worker has said so: `failed`."""


class Metrics:
    """The metrics of one run. Call `watch` with every event, each of them once (orchestrator.news)."""

    def __init__(self, run: str, experiment: Experiment, versions: int) -> None:
        self.run, self.registry = run, CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.counters = {name: self._counter(name, text) for name, text in COUNTERS.items()}
        self.gauges = {name: self._gauge(name, text) for name, text in GAUGES.items()}
        self.histograms = {name: self._histogram(name, *how) for name, how in HISTOGRAMS.items()}
        self.values: dict[str, set[str]] = {}
        self.flying: set[tuple[str, str]] = set()
        self.waiting: dict[tuple[str, str], int] = {}
        self.version: int | None = None
        self.closed: Event | None = None
        self.away = False
        self.scores = Scores()
        rounds = experiment.rounds
        self._set("versions_wanted", versions)
        self._set("quorum", rounds.quorum)
        self._set("in_flight_limit", rounds.in_flight)

    def watch(self, event: Event) -> None:
        """Take in one event."""
        match event.event:
            case "loaded":
                self._loaded(event)
            case "asked":
                self._asked(event)
            case "accepted" | "late" | "rejected":
                self._arrived(event)
            case "lost":
                self._lands(event)
                self._add("updates_lost", reason=event.facts["reason"])
            case "closed":
                self.closed = event
            case "committed":
                self._committed(event)
            case "described" | "joined" | "evaluated" | "unevaluated":
                self._scored(event)
            case "answered":
                self._add("images_encoded", event.facts["encodes"])
                self._observe("task_seconds", event.facts["seconds"])
            case "resent":
                self._add("tasks_resent", reason=event.facts["reason"])
            case "away" if not self.away:
                self.away = True
                self._add("store_outages")
            case "retried":
                self._add("rounds_retried")
            case "ignored":
                self._add("messages_ignored", reason=event.facts["reason"])

    def _loaded(self, event: Event) -> None:
        self.away = False
        self._add("loads")
        if event.version == self.version:
            return  # this process knows what happened since; it is not told again
        self.version, self.closed = event.version, None
        self.flying = {(client, task) for client, task in event.facts["open"].items()}
        self._set("version", event.version)
        self._set("in_flight", len(self.flying))
        self.waiting = {(client, task): base for client, task, base in event.facts["accepted"]}
        self._set("waiting_updates", len(self.waiting))

    def _asked(self, event: Event) -> None:
        self._add("updates_asked")
        self._add("down_bytes", event.facts["bytes"])
        self.flying.add((str(event.client), event.facts["task"]))
        self._set("in_flight", len(self.flying))

    def _lands(self, event: Event) -> None:
        self.flying.discard((str(event.client), event.facts["task"]))
        self._set("in_flight", len(self.flying))

    def _arrived(self, event: Event) -> None:
        self._lands(event)
        self._add("up_bytes", event.facts["bytes"])
        update = str(event.client), event.facts["task"]
        if event.event == "rejected":
            self.waiting.pop(update, None)  # of a client that was moved to another group after it was admitted
            self._add("updates_rejected", reason=event.facts["reason"])
        else:
            self.waiting[update] = event.facts["base"]
        self._set("waiting_updates", len(self.waiting))

    def _committed(self, event: Event) -> None:
        closed, self.closed, self.version = self.closed, None, event.version
        self._add("versions")
        self._set("version", event.version)
        self._set("last_commit_timestamp_seconds", event.wall)
        self._observe("fold_seconds", event.facts["fold_s"])
        self._observe("commit_seconds", event.facts["commit_s"])
        if closed is None:
            return
        self._add("updates_accepted", closed.facts["counted"] - closed.facts["late"])
        self._add("updates_late", closed.facts["late"])
        self._add("updates_without", len(closed.facts["without"]))
        counted = {(client, base) for client, base in closed.facts["updates"]}
        self.waiting = {u: base for u, base in self.waiting.items() if (u[0], base) not in counted}
        self._set("waiting_updates", len(self.waiting))
        for lag, count in closed.facts["lags"].items():
            for _ in range(count):
                self._observe("staleness_versions", int(lag))
        self._observe("round_seconds", closed.facts["seconds"])
        for name in ("quorum", "grace"):
            if (waited := closed.facts.get(f"{name}_s")) is not None:
                self._observe(f"{name}_wait_seconds", waited)

    def _scored(self, event: Event) -> None:
        if event.event == "unevaluated":
            self._add("evaluations_missing")
        whole = self.scores.take(event)
        self._set("clients", len(self.scores.clients))
        if whole is None:
            return
        self._set("evaluated_version", whole.version)
        if whole.clients:
            self._set("accuracy_mean_ratio", sum(whole.clients.values()) / len(whole.clients))
            self._set("accuracy_worst_ratio", min(whole.clients.values()))
        for held_out, domains in (("no", whole.domains), ("yes", whole.held_out)):
            for domain, accuracy in domains.items():
                self._set("domain_accuracy_ratio", accuracy, self._few("domain", domain), held_out)
        for client, accuracy in whole.clients.items() if len(whole.clients) <= NAMED_CLIENTS else ():
            self._set("client_accuracy_ratio", accuracy, client)

    # --- one value

    def _counter(self, name: str, text: str) -> Counter:
        labels = ("run", "reason") if name in WITH_REASON else ("run",)
        made = Counter(f"quorate_{name}", text, labels, registry=self.registry)
        for labelled in [(reason,) for reason in WITH_REASON[name]] if name in WITH_REASON else [()]:
            made.labels(self.run, *labelled)  # there from the beginning, as 0
        return made

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"quorate_{name}", text, ("run", *LABELS.get(name, ())), registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        made = Histogram(f"quorate_{name}", text, ("run",), registry=self.registry, buckets=buckets)
        made.labels(self.run)
        return made

    def _add(self, name: str, count: float = 1.0, *, reason: str | None = None) -> None:
        labels = (self.run,) if reason is None else (self.run, self._few(name, kind(name, reason)))
        self.counters[name].labels(*labels).inc(count)

    def _set(self, name: str, value: float, *labels: str) -> None:
        self.gauges[name].labels(self.run, *labels).set(value)

    def _observe(self, name: str, value: float) -> None:
        self.histograms[name].labels(self.run).observe(value)

    def _few(self, label: str, value: str) -> str:
        known = self.values.setdefault(label, set())
        if value not in known and len(known) >= VALUES:
            return "other"
        known.add(value)
        return value


def kind(counter: str, reason: str) -> str:
    """The kind of a reason: the loop's own words as they are, but none of a worker's or a library's."""
    if reason.endswith("attempts)"):
        return "attempts"
    head = reason.partition(":")[0]
    return head if counter != "updates_lost" or head in LOST else "failed"


@contextmanager
def served(metrics: Metrics, address: tuple[str, int]) -> Iterator[None]:
    """Serve them under /metrics while the block runs. Raises SettingsError if nothing can listen there."""
    host, port = address
    disable_created_metrics()  # type: ignore[no-untyped-call]
    try:
        server, thread = start_http_server(port, host, registry=metrics.registry)
    except OSError as e:
        raise SettingsError(
            f"QUORATE_METRICS: cannot listen on {host}:{port}: {e.strerror}", hint="name a free port of this machine"
        ) from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
