"""One run of three clients in a world by hand, whose loops live as long as the test says."""

from collections.abc import Callable
from typing import Any

from orchestrator.loop import Loop
from orchestrator.plan import plan
from schemas.decisions import DECISION
from schemas.experiment import Experiment
from schemas.log import Event
from schemas.messages import Task
from tests.checked import whole
from tests.runs.here import ignore
from tests.runs.world import HandClock, Turn, World, commit_zero

QUORUM = {"versions": 2, "in_flight": 3, "quorum": 2, "floor": 1, "grace_s": 0, "deadline_s": 60, "max_staleness": 1}


class Stage:
    """A run of three clients whose loops live as long as the test says. right: those in a group of their own."""

    def __init__(self, *, right: tuple[str, ...] = (), **rounds: Any) -> None:
        self.world = World(HandClock())
        halves = {"name": "tests.runs.plugins:Halves", "params": {"right": right}}
        method = halves if right else {"name": "fedavg"}
        self.made = Experiment.model_validate({
            "name": "r", "data": {"params": {"root": "/nowhere"}}, "method": method,
            "rounds": {**QUORUM, **rounds}, "evaluate": {"every": 0, "final": False}, "codec": {"name": "raw"},
        })  # fmt: skip
        self.commits = commit_zero(self.world, self.made, ["ann", "bob", "cem"], ignore)
        self.world.state.value = "0"
        self.told: list[Event] = []

    def loop(self, name: str) -> Loop:
        """Another process takes the run up: its lease has lapsed."""
        self.world.state.lease = None
        tenure = Turn("r", name, self.world.state)
        tenure.clock = self.world.clock
        tenure.begin()
        last = self.commits.last()
        assert last is not None
        loop = Loop(plan(self.made), self.world.runtime, self.commits, tenure, self.told.append)
        loop.load(last)
        return loop

    def task(self, client: str) -> Task:
        """What this client was asked last."""
        return next(t for t in reversed(self.world.bus.queue) if t.kind == "train" and t.clients[0].client == client)

    def works(self, client: str, how: str = "well") -> None:
        """A worker does what this client was asked last."""
        self.world.says(self.world.works(self.task(client), how))

    def decided(self, kind: str) -> list[Any]:
        found = [DECISION.validate_json(e.body) for e in self.world.stream.entries if e.author == "decision"]
        return [d for d in found if d.kind == kind]

    def ends(self, loop: Loop) -> None:
        """All work is done at once, until the run is over."""
        while loop.step():
            while self.world.bus.queue:
                self.world.says(self.world.works(self.world.bus.queue.pop(0), "well"))
            self.world.passes(1.0)
        whole(self.commits)

    def before(self, operation: str, what: str, happens: Callable[..., None]) -> None:
        """Once, right before something is written, something happens; it is told what was to be written."""
        place: Any = self.world.stream if operation == "arrive" else self.world.blobs
        inner = getattr(place, operation)

        def stops(*given: Any, **named: Any) -> Any:
            if any(what in text for text in given if isinstance(text, str)):
                setattr(place, operation, inner)
                happens(*given)
            return inner(*given, **named)

        setattr(place, operation, stops)
