"""Which tasks have been started, which have lost their worker, and which were lost on the way to one.

By the beats that workers leave in the store, and by what still waits in the queues.
"""

from collections.abc import Iterable

from infra.bus import Bus
from infra.state import StateStore
from orchestrator.simulate import Simulator
from schemas.log import Open
from schemas.messages import work

SETTLE_S = 3.0
"""How long a vigil only listens at first: so long a beat lasts, and a worker may need to be heard again."""

ASTRAY = 6
"""Looks at which a task is neither heard of nor can be in a queue, until it is lost: a worker says what it takes."""


class Vigil:
    """Watches the open tasks of a run. A worker is gone when it is silent at two looks after it was heard.

    By whom it was heard does not matter: `Open.started_at` says that it was, in whichever life of the loop.
    A task that nobody was heard at and that no queue can hold is lost: a broker hands a task to a connection and
    forgets it, and if that broke at this moment nobody has it. A queue is first in, first out: it cannot hold a task
    if it is empty, or if a later one was taken from it.
    """

    def __init__(self, run: str, state: StateStore, bus: Bus, simulator: Simulator) -> None:
        self.run, self.state, self.bus, self.simulator = run, state, bus, simulator
        self.begin()

    def begin(self) -> None:
        """Begin anew, as after the store has lost all beats."""
        self.silent: set[str] = set()
        self.astray: dict[str, int] = {}
        self.known: dict[str, Open] = {}
        self.taken: dict[str | None, float] = {}
        self.since: float | None = None

    def look(self, tasks: Iterable[Open], now: float) -> tuple[list[Open], list[tuple[Open, str]]]:
        """Of these unanswered tasks, those heard for the first time, and those to send again, with the reason."""
        works = {work(o.task_id, o.attempt): o for o in tasks}
        beating = self.state.beating(self.run, works) if works else set()
        heard = [o for w, o in works.items() if w in beating and o.started_at is None]
        gone = [(o, "worker gone") for o in self._gone(works, beating, now) if not self.simulator.drops(o)]
        return heard, gone + [(o, "lost on the way") for o in self._lost(works, beating)]

    def _gone(self, works: dict[str, Open], beating: set[str], now: float) -> list[Open]:
        silent = {w for w, o in works.items() if o.started_at is not None} - beating
        gone = [works[w] for w in sorted(silent & self.silent)]
        self.silent = silent
        self.since = now if self.since is None else self.since
        return gone if now >= self.since + SETTLE_S else []

    def _lost(self, works: dict[str, Open], beating: set[str]) -> list[Open]:
        unheard = {w: o for w, o in works.items() if o.sent and o.started_at is None and w not in beating}
        for task in (o for w, o in (self.known | works).items() if w not in unheard and (o.sent or w in beating)):
            self.taken[task.site] = max(task.asked_at, self.taken.get(task.site, task.asked_at))
        self.known = works
        empty = {site for site in {o.site for o in unheard.values()} if not self.bus.backlog(site)}
        gone = [w for w, o in unheard.items() if o.site in empty or self._is_overtaken(o)]
        self.astray = {w: self.astray.get(w, 0) + 1 for w in gone}
        return [works[w] for w in sorted(self.astray) if self.astray[w] >= ASTRAY]

    def _is_overtaken(self, task: Open) -> bool:
        """Whether a task that was asked later has left its queue. One that was sent again stands behind later ones."""
        return task.attempt == 1 and task.asked_at < self.taken.get(task.site, task.asked_at)
