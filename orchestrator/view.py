"""What a person sees on stderr while a run goes on.

Reads events, and how encoding gets on, only. A terminal gets a live panel, anything else one line per version.
"""

from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.wording import percent, plain
from schemas.experiment import Experiment
from schemas.log import Event
from schemas.messages import ALL
from workers.data.progress import Pace, Step

ALIKE = 3
"""So many events alike get a line each; of the others only the number is told."""


class View:
    """Progress of one run. Call `watch` with every event; use as a context so that the terminal is left clean."""

    def __init__(self, experiment: Experiment, run: str, console: Console, versions: int) -> None:
        self.experiment, self.run, self.console, self.versions = experiment, run, console, versions
        self.version = 0
        self.round: Counter[str] = Counter()
        self.total: Counter[str] = Counter()
        self.scores: dict[int, dict[str, float]] = {}
        self.trainers: set[str] = set()
        self.told: set[int] = set()
        self.at, self.began = 0.0, 0.0
        self.loads, self.away = 0, False
        self.last: tuple[str, int, str] | None = None
        self.alike = 0
        self.pace, self.note = Pace(), ""
        live = console.is_terminal and not console.quiet
        self.live = Live(console=console, refresh_per_second=8, transient=True) if live else None

    def __enter__(self) -> Self:
        if self.live:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rest()
        if self.live:
            self.live.stop()

    def encoded(self, step: Step) -> None:
        """Take in images that went through the backbone in this process: the panel says so, or a line now and then."""
        self.pace.add(step)
        self.note = f"encoding images: {self.pace.encoded:,} so far, {self.pace.per_second:.0f} per second"
        if self.live:
            self.live.update(self._panel())
        if self.pace.due():
            if not self.live:
                self._say(self.note)
            self.pace.said()

    def watch(self, event: Event) -> None:
        """Take in one event."""
        self.at, self.note = event.at, ""
        self.total[event.event] += 1
        self.round[event.event] += 1
        match event.event:
            case "started":
                self._started(event)
            case "described":
                self._described(event)
            case "joined":
                self._joined(event)
            case "loaded":
                self._loaded(event)
            case "away":
                self._away(event)
            case "closed":
                self._closed(event)
            case "evaluated":
                self._evaluated(event)
            case "retried" | "resent" | "rejected" | "lost" | "unevaluated" | "refused":
                self._told(event)
        if self.live:
            self.live.update(self._panel())

    def _say(self, text: str) -> None:
        """One line, after the number of those alike that had none."""
        self._rest()
        self._print(text)

    def _aloud(self, text: str) -> None:
        """One line also for who wants to read nothing but the result, and would wonder what takes so long."""
        self._rest()
        quiet, self.console.quiet = self.console.quiet, False
        self._print(text)
        self.console.quiet = quiet

    def _print(self, text: str) -> None:
        self.console.print(plain(text), highlight=False, markup=False, soft_wrap=not self.console.is_terminal)

    def _started(self, event: Event) -> None:
        self.began = event.at
        e = self.experiment
        self._say(f"run {self.run}: {e.method.name}, seed {e.seed}; asking the owners what they hold")

    def _joined(self, event: Event) -> None:
        self.trainers |= {c for c, split in event.facts["clients"].items() if split["test"]}
        names = ", ".join([*event.facts["clients"], *event.facts["held_out"]])
        self._say(f"v{event.version:<3} {event.facts['site']} joined: {names}")

    def _described(self, event: Event) -> None:
        clients = event.facts["clients"]
        self.trainers = {c for c, split in clients.items() if split["test"]}
        held = event.facts["held_out"]
        images = sum(sum(c.values()) for c in event.facts["clients"].values())
        told = f"{len(clients)} clients with {images} images, {len(event.facts['classes'])} classes"
        self._say(told + (f"; held out: {', '.join(held)}" if held else ""))
        for part, so in (("train", "not asked"), ("test", "of no known accuracy")):
            if without := sorted(c for c, split in clients.items() if not split[part]):
                self._say(f"without {part}ing images, so {so}: {', '.join(without)}")
        for part, names in event.facts.get("unknown", {}).items():
            self._say(f"simulate.{part} names clients that are not here: {self._some(names)}")
        for who, count in event.facts.get("skipped", {}).items():
            self._say(f"{who} left out {count} files that cannot be read as images")

    def _loaded(self, event: Event) -> None:
        """A loop stands at a commit: a new run's, which goes without saying, or one it goes on from."""
        self.version, self.loads = event.version, self.loads + 1
        if event.version > 0 or self.loads > 1:
            say, what = (self._aloud, "the stores are back: ") if self.away else (self._say, "")
            say(f"v{event.version:<3} {what}the run goes on from here")
        self.away = False

    def _away(self, event: Event) -> None:
        if not self.away:
            self._aloud(f"v{event.version:<3} waiting for a store: {event.facts['reason'][:200]}")
        self.away = True

    def _closed(self, event: Event) -> None:
        self.version = event.version
        without = self._some(event.facts["without"])
        group = event.facts.get("group", ALL)
        line = f"v{event.version:<3} {event.facts['counted']:>3} counted ({event.facts['late']} late)"
        line += "" if group == ALL else f" of {plain(group)}"
        line += f"  t={event.at - self.began:.1f} s" + (f"  without {without}" if without else "")
        self._say(line)
        self.round.clear()

    def _evaluated(self, event: Event) -> None:
        scores = self.scores.setdefault(event.version, {})
        if "accuracy" in event.facts:
            scores[str(event.client)] = event.facts["accuracy"]
        if self.trainers and self.trainers <= set(scores) and event.version not in self.told:
            self.told.add(event.version)
            self._say(f"v{event.version:<3} accuracy {self._accuracy(event.version)}")

    def _told(self, event: Event) -> None:
        """A line for what went wrong; of many alike, one after the other, the first few and the number of the rest."""
        reason = event.facts.get("reason", f"{event.facts.get('accepted', 0)} updates at the deadline, asking again")
        number = event.version
        if event.event not in ("unevaluated", "refused"):  # it befell the open round, which makes the next version
            number = min(number + 1, max(self.versions, 1))
        what = (event.event, number, reason)
        if what != self.last:
            self._rest()
        self.last, self.alike = what, self.alike + 1
        if self.alike <= ALIKE:
            who = event.client or event.facts.get("task") or event.facts.get("site", "")
            detail = event.facts.get("detail", "")
            self._print(f"v{number:<3} {event.event} {who}: {reason}" + (f" ({detail[:200]})" if detail else ""))

    def _rest(self) -> None:
        if self.last is not None and self.alike > ALIKE:
            event, version, reason = self.last
            self._print(f"v{version:<3} {event} {self.alike - ALIKE} more: {reason}")
        self.last, self.alike = None, 0

    def _some(self, names: Sequence[str]) -> str:
        """The names; on a terminal how many they are, if they would fill more than a line."""
        told = ", ".join(names)
        return told if not self.live or len(told) < self.console.width - 50 else f"{len(names)} clients"

    def _accuracy(self, version: int) -> str:
        known = [a for c, a in self.scores.get(version, {}).items() if c in self.trainers]
        return f"mean {percent(sum(known) / len(known))}, worst {percent(min(known))}" if known else "not yet known"

    def _panel(self) -> Group:
        spec = self.experiment.rounds
        arrived = self.round["accepted"] + self.round["late"]
        bars = Table.grid(padding=(0, 2))
        bars.add_row(
            "versions", ProgressBar(self.versions or 1, self.version, width=40), f"{self.version}/{self.versions}"
        )
        bars.add_row(
            "quorum", ProgressBar(spec.quorum, min(arrived, spec.quorum), width=40), f"{arrived}/{spec.quorum}"
        )
        counts = "   ".join(f"{name} {self.total[name]}" for name in ("late", "rejected", "lost"))
        numbers = f"{counts}   t={self.at - self.began:.1f} s"
        shown = max(self.scores, default=0)
        told = self.note or f"accuracy v{shown}: {self._accuracy(shown)}"
        return Group(Text(f"run {self.run}"), bars, Text(numbers), Text(told))
