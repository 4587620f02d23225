"""`make chaos MINUTES=10`: kill, freeze and cut off random parts of a running stack, and see whether anything is lost.

Two runs go on all the time: a long asynchronous one and a synchronous one that must end in known bytes; another begins
as soon as one ends. Each is audited at its end. Exit status 1 for a broken rule, wrong bytes, an orchestrator that ends
by itself or a run without a new version within a bound; what is left of the stack is kept then.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from random import Random, SystemRandom

import click
from rich.console import Console
from rich.table import Table

from benchmarks.machine import here
from benchmarks.trials import RESULTS, Blow, Chaos
from infra import logs
from scripts.ground import Ground
from scripts.mischief import FAULTS

HANG_S = 120.0
"""A run that has committed nothing so long after everything was whole again hangs."""
LONGEST_S, TWO_AT_ONCE = 8.0, 0.3
"""How long a fault lasts at most, and how often two come together."""
LOOK_S = 0.25


class Assault:
    """Blow after blow on one ground. Everything random comes from the seed; what it meets does not."""

    def __init__(self, ground: Ground, random: Random, kinds: tuple[str, ...], longest_s: float, say: Console) -> None:
        self.ground, self.random, self.kinds, self.longest_s, self.say = ground, random, kinds, longest_s, say
        self.blows: list[Blow] = []
        self.deck: list[str] = []

    def warm(self) -> None:
        """Until each run has committed something."""
        self._recovers({track.name: 0 for track in self.ground.tracks})

    def strike(self) -> Blow:
        """One fault or two at once, until all runs go on."""
        kinds = tuple(self._draw() for _ in range(1 + (self.random.random() < TWO_AT_ONCE)))
        lasts_s = self.random.uniform(0.1, self.longest_s)
        with ExitStack() as harm:
            for kind in dict.fromkeys(kinds):
                harm.enter_context(FAULTS[kind](self.ground, self.random))
            time.sleep(lasts_s)
        recovery_s = self._recovers({track.name: track.committed for track in self.ground.tracks})
        blow = Blow(kinds=tuple(dict.fromkeys(kinds)), lasted_s=round(lasts_s, 1), recovery_s=round(recovery_s, 1))
        self.say.print(f"{' and '.join(blow.kinds)}: {blow.lasted_s:g} s, goes on after {blow.recovery_s:g} s")
        self.blows.append(blow)
        time.sleep(self.random.uniform(0.0, 2.0))
        return blow

    def finish(self) -> None:
        """Let the runs that go on come to their end."""
        until, last = time.monotonic() + HANG_S, {track.name: track.number for track in self.ground.tracks}
        while any(t.number == last[t.name] for t in self.ground.tracks) and time.monotonic() < until:
            self.ground.look()
            time.sleep(LOOK_S)
        for track in self.ground.tracks:
            if track.number == last[track.name]:
                track.violations.append(f"{track.run}: did not end within {HANG_S:g} s")

    def _draw(self) -> str:
        """Every kind once before any comes again."""
        if not self.deck:
            self.deck = self.random.sample(self.kinds, len(self.kinds))
        return self.deck.pop()

    def _recovers(self, before: dict[str, int]) -> float:
        """Seconds until each track has committed something beyond that. A run that hangs is given up."""
        began = time.monotonic()
        while behind := [t for t in self.ground.tracks if t.committed <= before[t.name]]:
            if time.monotonic() - began > HANG_S:
                for track in behind:
                    track.give_up(f"no new version within {HANG_S:g} s")
                break
            time.sleep(LOOK_S)
            self.ground.look()
        return time.monotonic() - began


def chaos(
    folder: Path,
    seed: int,
    *,
    kinds: tuple[str, ...],
    longest_s: float,
    say: Console,
    go_on: Callable[[Ground, Assault], bool],
    versions: tuple[int, int] = (8, 60),
) -> Chaos:
    """Blows until it is said not to go on, and what came out. versions: see Ground."""
    where, began = here(), time.monotonic()
    with ExitStack() as closing:
        ground = Ground(folder, versions)
        closing.callback(ground.close)
        ground.open()
        assault = Assault(ground, Random(seed), kinds, longest_s, say)
        assault.warm()
        start = time.monotonic()
        while go_on(ground, assault):
            assault.strike()
        lasted = (time.monotonic() - start) / 60
        assault.finish()
    return Chaos(
        where=where, seed=seed, minutes=round(lasted, 1), whole_s=round(time.monotonic() - began),
        blows=tuple(assault.blows),
        versions={track.name: track.committed for track in ground.tracks},
        runs={track.name: track.judged for track in ground.tracks},
        violations=tuple(v for track in ground.tracks for v in track.violations),
    )  # fmt: skip


def show(found: Chaos, out: Console) -> None:
    """The faults that were survived, and what was done meanwhile."""
    table = Table("fault", "times", "longest recovery, s", "median, s")
    for kind, times, longest, middle in found.table():
        table.add_row(kind, str(times), f"{longest:.1f}", f"{middle:.1f}")
    out.print(table)
    out.print(f"seed {found.seed}, {found.minutes:g} minutes, {len(found.blows)} times; {found.done}")
    for violation in found.violations:
        out.print(violation, style="red", markup=False, soft_wrap=True)


@click.command(help=__doc__)
@click.option("--minutes", default=10.0, show_default=True)
@click.option("--seed", type=int, help="By default another each time; it is printed.")
@click.option("--only", multiple=True, type=click.Choice(sorted(FAULTS)), help="This kind of fault; several allowed.")
@click.option("--longest", "longest_s", default=LONGEST_S, show_default=True, help="Seconds that a fault lasts.")
@click.option("--keep", is_flag=True, help="Keep the logs and stores although nothing went wrong.")
@click.option("--record", is_flag=True, help="Keep the figures for docs/benchmarks.md.")
def main(
    minutes: float, seed: int | None, only: tuple[str, ...], longest_s: float, *, keep: bool, record: bool
) -> None:
    logs.setup("error")
    folder, out = Path(tempfile.mkdtemp(prefix="quorate-chaos-")), Console()
    seed = SystemRandom().randrange(10**6) if seed is None else seed
    out.print(f"seed {seed}, in {folder}")
    until = list[float]()

    def go_on(ground: Ground, assault: Assault) -> bool:
        until.append(time.monotonic() + 60 * minutes)
        return time.monotonic() < until[0]

    found = chaos(folder, seed, kinds=only or tuple(FAULTS), longest_s=longest_s, say=out, go_on=go_on)
    show(found, out)
    if record:
        (RESULTS / "chaos.json").write_text(found.model_dump_json(indent=1) + "\n")
    if found.violations or keep:
        out.print(f"what is left of it: {folder}", soft_wrap=True)
        sys.exit(bool(found.violations))
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
