"""What is new of what happens: a replay makes events again, and who watches a run is told of each of them once.

Knows which events say that a loop stands at a commit again. Must not know who watches, or why.
"""

from collections import Counter
from collections.abc import Callable, Iterable

from schemas.log import Event

BEGINNING = ("started", "described", "joined")
"""What somebody who begins to watch in the middle of a run has to know: how it began, and which sites came later."""


class News:
    """Passes events on. Those of the open version are remembered, and known again when they are made again."""

    def __init__(self, *watchers: Callable[[Event], None]) -> None:
        self.watchers = watchers
        self.version = 0
        self.begun: set[tuple[str, ...]] = set()
        self.told: Counter[tuple[str, ...]] = Counter()
        self.made: Counter[tuple[str, ...]] = Counter()

    def recall(self, events: Iterable[Event]) -> None:
        """Tell how the run began, to those who were not there."""
        for event in events:
            if event.event in BEGINNING:
                self.watch(event)

    def watch(self, event: Event) -> None:
        """Pass one event on, unless the loop of this life has only now come to where an earlier one was."""
        self._follow(event)
        if self._is_new(event):
            for watch in self.watchers:
                watch(event)

    def _is_new(self, event: Event) -> bool:
        if event.event in ("loaded", "away"):
            return True
        if event.event in BEGINNING:  # there is one, of each site at most, and whoever takes the run up recalls it
            begun = (event.event, str(event.facts.get("site", "")))
            new = begun not in self.begun
            self.begun.add(begun)
            return new
        what = _identity(event)
        self.made[what] += 1
        new = self.made[what] > self.told[what]
        self.told[what] = max(self.told[what], self.made[what])
        return new

    def _follow(self, event: Event) -> None:
        if event.event in ("started", "loaded"):  # from here on, what was told since that commit may come again
            self.made.clear()
        if event.event in ("committed", "loaded") and event.version != self.version:  # and of before that, nothing
            self.version = event.version
            self.made.clear()
            self.told.clear()


def _identity(event: Event) -> tuple[str, ...]:
    facts = (str(event.facts.get(name, "")) for name in ("task", "attempt", "reason"))
    return (event.event, str(event.version), str(event.client), *facts)
