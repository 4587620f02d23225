"""The story of a run from its events alone.

Knows neither where events lie nor how a story is shown. Never imports torch.
"""

import contextlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from schemas.log import Event
from schemas.messages import ALL
from schemas.story import Again, Gone, Late, Round


@dataclass
class Story:
    """What the events said so far. began: the event that did. facts: of the round that is open."""

    began: Event | None = None
    last: Event | None = None
    end: Event | None = None
    clients: set[str] = field(default_factory=set)
    rounds: dict[int, dict[str, Any]] = field(default_factory=dict)
    scores: dict[int, dict[str, float]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    ignored: Counter[str] = field(default_factory=Counter)
    late: dict[tuple[str, int], int] = field(default_factory=dict)

    @classmethod
    def of(cls, events: Iterable[Event]) -> "Story":
        """The story that these events tell."""
        story = cls()
        for event in events:
            story.tell(event)
        return story

    def tell(self, event: Event) -> None:
        """Take in the next event. What cannot be understood is passed over: to judge is the audit's part."""
        self.last = event
        with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
            self._understand(event)

    def _understand(self, event: Event) -> None:
        match event.event:
            case "started" | "described" | "joined" | "finished":
                self._frame(event)
            case "asked":
                self._more("asked", event.client)
            case "late":
                self.late[str(event.client), event.facts["base"]] = event.facts["lag"]
            case "rejected" | "lost":
                self._more(event.event, _gone(event))
            case "resent":
                self._more("resent", Again(**event.facts))
            case "retried":
                self.facts["retries"] = self.facts.get("retries", 0) + 1
            case "ignored":
                self.ignored[event.facts["reason"].partition(":")[0]] += 1
            case "loaded" if event.version > 0 or self.rounds:
                self.facts["taken_up"] = self.facts.get("taken_up", 0) + 1
            case "closed":
                self._close(event)
            case "committed":
                self.rounds.get(event.version, {}).update(event.facts)
            case "evaluated" if "accuracy" in event.facts:
                self.scores.setdefault(event.version, {})[str(event.client)] = event.facts["accuracy"]

    def told(self) -> tuple[Round, ...]:
        """Every closed round, in order."""
        return tuple(Round.model_validate({**facts, **self._scored(n)}) for n, facts in self.rounds.items())

    def mean(self, version: int) -> float | None:
        """Mean accuracy of the training clients at a version, or None where nobody evaluated it."""
        known = [a for c, a in self.scores.get(version, {}).items() if c in self.clients]
        return sum(known) / len(known) if known else None

    def _scored(self, version: int) -> dict[str, Any]:
        return {"accuracy": self.scores.get(version, {}), "mean": self.mean(version)}

    def _more(self, name: str, what: object) -> None:
        self.facts.setdefault(name, []).append(what)

    def _frame(self, event: Event) -> None:
        if event.event == "started":
            self.began = self.began or event
        elif event.event == "finished":
            self.end = event
            self._settle()
        else:
            self.clients |= set(event.facts["clients"])

    def _settle(self) -> None:
        """What was refused or lost after the last round has no later one to stand in: it stands in that."""
        if self.rounds:
            facts = self.rounds[max(self.rounds)]
            for name in ("rejected", "lost"):
                facts[name] = [*facts.get(name, []), *self.facts.get(name, [])]

    def _close(self, event: Event) -> None:
        known = event.facts
        updates = [(client, base, self.late.pop((client, base), 0)) for client, base in known["updates"]]
        began = self.began.at if self.began else 0.0
        self.rounds[event.version] = {
            **self.facts, "version": event.version, "at": event.at - began, "wall": event.wall,
            "seconds": known["seconds"], "quorum_s": known.get("quorum_s"), "grace_s": known.get("grace_s"),
            "group": known.get("group", ALL), "counted": [client for client, _, lag in updates if not lag],
            "late": [Late(client=client, lag=lag) for client, _, lag in updates if lag],
            "without": list(known["without"]), "ignored": dict(self.ignored),
        }  # fmt: skip
        self.facts, self.ignored = {}, Counter()


def _gone(event: Event) -> Gone:
    detail = str(event.facts.get("detail", ""))
    return Gone(client=str(event.client), task=event.facts["task"], reason=event.facts["reason"], detail=detail)
