"""Which tasks have been started, and which have lost their worker: by the beats that workers leave in the store."""

from collections.abc import Iterable

from infra.state import StateStore
from orchestrator.simulate import Simulator
from schemas.log import Open
from schemas.messages import work

SETTLE_S = 3.0
"""How long a vigil only listens at first: so long a beat lasts, and a worker may need to be heard again."""


class Vigil:
    """Watches the open tasks of a run. A worker is gone when it is silent at two looks after it was heard.

    By whom it was heard does not matter: `Open.started_at` says that it was, in whichever life of the loop.
    """

    def __init__(self, run: str, state: StateStore, simulator: Simulator) -> None:
        self.run, self.state, self.simulator = run, state, simulator
        self.begin()

    def begin(self) -> None:
        """Begin anew, as after the store has lost all beats."""
        self.silent: set[str] = set()
        self.since: float | None = None

    def look(self, tasks: Iterable[Open], now: float) -> tuple[list[Open], list[Open]]:
        """Of these unanswered tasks, those heard for the first time, and those whose worker is gone."""
        works = {work(o.task_id, o.attempt): o for o in tasks}
        beating = self.state.beating(self.run, works) if works else set()
        heard = [o for w, o in works.items() if w in beating and o.started_at is None]
        silent = {w for w, o in works.items() if o.started_at is not None} - beating
        gone = [works[w] for w in sorted(silent & self.silent)]
        self.silent = silent
        self.since = now if self.since is None else self.since
        if now < self.since + SETTLE_S:
            return heard, []
        return heard, [task for task in gone if not self.simulator.drops(task)]
