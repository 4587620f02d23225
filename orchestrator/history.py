"""What a run's events say happened, walked through once more and held against the rules of the engine.

Shares no code with the book and the loop, whose work it checks, and knows no store: `orchestrator.audit` reads those.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from pydantic import ValidationError

from orchestrator.rounds import discount
from orchestrator.tally import Key, Tally, close
from schemas.experiment import Experiment, Rounds
from schemas.log import Event
from schemas.messages import ALL


@dataclass(frozen=True)
class Update:
    """An admitted update. at: the version that was current then."""

    base: int
    group: str
    weight: float
    at: int


@dataclass
class History:
    """A run as its events tell it, and `violations`: one sentence per broken rule.

    flying: asked, and neither answered nor given up. pending: admitted and not counted yet; last: what the last version
    counted, entered: with which weights. Of each group, tried: clients asked since its round was opened or retried;
    merges: the versions at which its model changed. counted: by (client, base, group), the version. restated: pending,
    and the round that is being closed goes without it. voided: whose update of that round a merge has made void.
    """

    spec: Rounds = field(default_factory=Rounds)
    violations: list[str] = field(default_factory=list)
    version: int = 0
    begun: bool = False
    end: Event | None = None
    clients: set[str] = field(default_factory=set)
    held_out: set[str] = field(default_factory=set)
    bases: dict[Key, int] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    tasks: set[str] = field(default_factory=set)
    flying: set[Key] = field(default_factory=set)
    answered: set[str] = field(default_factory=set)
    tried: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    asked: Counter[str] = field(default_factory=Counter)
    retries: Counter[str] = field(default_factory=Counter)
    pending: dict[Key, Update] = field(default_factory=dict)
    restated: set[Key] = field(default_factory=set)
    voided: set[str] = field(default_factory=set)
    last: dict[Key, Update] = field(default_factory=dict)
    counted: dict[tuple[str, int, str], int] = field(default_factory=dict)
    admitted: set[tuple[str, int, str]] = field(default_factory=set)
    merges: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    lags: Counter[int] = field(default_factory=Counter)
    entered: dict[str, float] = field(default_factory=dict)

    def tell(self, event: Event) -> None:
        """Take in the next event."""
        if self.end is not None or self.begun == (event.event == "started"):
            self.wrong(f"`{event.event}` stands at the wrong end of the journal")
        self.begun = True
        try:
            if rule := _RULES.get(event.event):
                rule(self, event)
        except (KeyError, TypeError, ValueError, AttributeError, ValidationError) as e:
            self.wrong(f"`{event.event}` cannot be understood: {type(e).__name__} {e}"[:200])

    def wrong(self, what: str) -> None:
        """One rule was broken."""
        self.violations.append(f"version {self.version}: {what}")

    def lag(self, update: Update, at: int) -> int:
        """Merges of the update's group since its base, up to version `at`."""
        merges = self.merges[update.group]
        return bisect_right(merges, at) - bisect_right(merges, update.base)

    # --- one method per event

    def _started(self, event: Event) -> None:
        self.spec = Experiment.model_validate(event.facts["experiment"]).rounds

    def _described(self, event: Event) -> None:
        self.clients |= set(event.facts["clients"])
        self.held_out |= set(event.facts["held_out"])

    def _asked(self, event: Event) -> None:
        key, base = _key(event), int(event.facts["base"])
        task, client = key
        group = event.facts.get("group", ALL)
        if key in self.tally.fates:
            self.wrong(f"{client} was asked twice for {task}")
        if client in self.held_out or client not in self.clients:
            self.wrong(f"{client} was asked to train, and is {'held out' if client in self.held_out else 'unknown'}")
        busy = any(c == client for _, c in self.flying)
        if busy or client in self.tried[group] or (client, base, group) in self.admitted:
            self.wrong(f"{client} was asked for {task}, and was not free")
        if base != max(self.merges[group], default=0) or event.version != self.version:
            self.wrong(f"{client} was asked for {task} from version {base}")
        self.bases[key] = base
        self.tally.mark(key, "asked")
        self.tasks.add(task)
        self.flying.add(key)
        self.tried[group].add(client)
        self.asked[group] += 1
        if len(self.flying) > self.spec.in_flight:
            self.wrong(f"{len(self.flying)} clients were in flight with {task}, at most {self.spec.in_flight} may be")

    def _answered(self, event: Event) -> None:
        if event.facts.get("kind") != "train":  # start and evaluations have no place in the rules
            return
        task = event.facts["task"]
        if task in self.answered or task not in self.tasks:
            self.wrong(f"an answer to {task} was taken in, which was answered already or never asked")
        self.flying = {key for key in self.flying if key[0] != task}
        self.answered.add(task)

    def _admitted(self, event: Event) -> None:
        key = _key(event)
        if "weight" not in event.facts:
            self._restated(key)
            return
        base = int(event.facts["base"])
        update = Update(base, event.facts.get("group", ALL), float(event.facts["weight"]), self.version)
        lag = self.lag(update, self.version)
        self._becomes(key, event.event)
        if self.bases.get(key) != base or event.event != ("late" if lag else "accepted"):
            self.wrong(f"{key[1]} in {key[0]} was {event.event} with base {base}")
        if event.facts["lag"] != lag or lag > self.spec.max_staleness:
            self.wrong(f"{key[1]} in {key[0]} was {event.event} with lag {event.facts['lag']}: it lags {lag}, "
                       f"at most {self.spec.max_staleness} is admitted")  # fmt: skip
        if key[0] not in self.answered:
            self.wrong(f"{key[1]} was {event.event} in {key[0]}, which nobody answered")
        if (key[1], base, update.group) in self.admitted:
            self.wrong(f"{key[1]} was {event.event} a second time for base {base}")
        self.admitted.add((key[1], base, update.group))
        self.pending[key] = update

    def _restated(self, key: Key) -> None:
        if key not in self.pending:
            self.wrong(f"{key[1]} in {key[0]} was put off without having been accepted")
        elif self.tally.fates.get(key) in ("accepted", "late"):
            self.tally.mark(key, "late")
        self.restated.add(key)

    def _rejected(self, event: Event) -> None:
        key = _key(event)
        if event.facts["reason"] == "moved" and (gone := self.pending.pop(key, None)):
            self.tally.mark(key, "rejected")  # accepted by a group that a merge has ended
            self.voided |= {key[1]} if gone.at == self.version - 1 else set()
        elif key in self.tally.fates or key[0] not in self.tasks:  # whoever else puts a result in is of no account
            self._becomes(key, "rejected")

    def _lost(self, event: Event) -> None:
        key = _key(event)
        self._becomes(key, "lost")
        self.flying.discard(key)

    def _becomes(self, key: Key, fate: str) -> None:
        before = self.tally.fates.get(key, "never asked")
        if before not in ("asked", "lost"):
            self.wrong(f"{key[1]} was {fate} in {key[0]}, in which it was {before} before")
        if key in self.tally.fates:
            self.tally.mark(key, fate)

    def _retried(self, event: Event) -> None:
        group = event.facts.get("group", ALL)
        self.retries[group] += 1
        self.tried[group].clear()
        if self.retries[group] > self.spec.retries:
            self.wrong(f"replacements were asked {self.retries[group]} times, at most {self.spec.retries} are allowed")

    def _closed(self, event: Event) -> None:
        group = event.facts.get("group", ALL)
        self.last = {k: u for k, u in self.pending.items() if u.group == group and k not in self.restated}
        self.pending = {k: u for k, u in self.pending.items() if k not in self.last}
        if event.version != self.version + 1:
            self.wrong(f"version {event.version} was committed next")
        self._count(event, group)
        for changed in event.facts.get("changed", [group]):
            self.merges[changed].append(event.version)
        self.version = event.version
        for of in (self.asked, self.retries, self.tried):
            of.pop(group, None)
        self.restated.clear()
        self.voided.clear()

    def _count(self, event: Event, group: str) -> None:
        lags, weights, number = Counter[int](), defaultdict[str, float](float), event.version
        replaced = self._replaced(event)
        for (task, client), update in self.last.items():
            lag = self.lag(update, number - 1)
            if (client, update.base, group) in self.counted or lag > self.spec.max_staleness:
                self.wrong(f"{client} in {task} counts in version {number} with base {update.base} and lag {lag}")
            self.counted[client, update.base, group] = number
            lags[lag] += 1
            if (client, update.base) not in replaced:
                weights[client] += update.weight * discount(self.spec, lag)
        updates = sorted((client, update.base) for (_, client), update in self.last.items())
        if (said := event.facts["counted"], sorted(map(tuple, event.facts["updates"]))) != (len(updates), updates):
            self.wrong(f"version {number} counts {said} updates, not the {len(updates)} accepted ones")
        if not close(event.facts["weights"], weights):
            self.wrong(f"the weights in version {number} are not those of the accepted updates and their discounts")
        if {int(lag): n for lag, n in event.facts["lags"].items()} != lags:
            self.wrong(f"the lags in version {number} are not those of its updates")
        if len(self.last) < max(1, min(self.spec.floor, self.asked[group])) and set(self.merges) <= {ALL}:
            self.wrong(f"version {number} counts {len(self.last)} updates, and the floor is {self.spec.floor}")
        self.lags += lags
        self.entered = dict(weights)
        self.tally.weigh(weights)

    def _replaced(self, event: Event) -> set[tuple[str, int]]:
        """(client, base) of counted updates that enter with no weight, for a newer one of the same owner enters."""
        said = set(map(tuple, event.facts.get("replaced", [])))
        newest = {client: u.base for (_, client), u in sorted(self.last.items(), key=lambda item: item[1].base)}
        for client, base in sorted(said):
            if base >= newest.get(client, 0):
                self.wrong(f"{client} with base {base} is replaced in version {event.version}, and by no newer one")
        return said

    def _finished(self, event: Event) -> None:
        self.end = event
        if event.version != self.version:
            self.wrong(f"the run ended at version {event.version}")
        status, reason = event.facts["status"], event.facts["reason"]
        if status not in ("finished", "failed", "cancelled") or (status != "finished" and not reason):
            self.wrong(f"the run ended as {status!r} with the reason {reason!r}")
        if status == "finished" and self.tasks and self.version != self.spec.versions:
            self.wrong(f"the run finished at version {self.version} of {self.spec.versions}")


def _key(event: Event) -> Key:
    if event.client is None:
        raise ValueError("no client")
    return event.facts["task"], event.client


_RULES: dict[str, Callable[[History, Event], None]] = {
    "started": History._started, "described": History._described, "joined": History._described, "asked": History._asked,
    "answered": History._answered, "accepted": History._admitted, "late": History._admitted,
    "rejected": History._rejected, "lost": History._lost, "retried": History._retried, "closed": History._closed,
    "finished": History._finished,
}  # fmt: skip
