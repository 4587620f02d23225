"""`python -m benchmarks.study METHOD ...`: a method against FedAvg and its own ablations; writes docs/studies.md.

A study is a file of benchmarks/studies/ with a STUDY (cvlc.py changes one part of an experiment and adds a measure of
its own, perada.py is overrides of the demo, licfl.py has data of its own). What is measured is kept per commit, arm and
seed, after every run: said again it goes on, and the page shows the newest that is complete. It may take 15 minutes.
"""

import importlib
import pkgutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks import kept, studies
from benchmarks.accuracy import SEEDS, interval
from benchmarks.kept import Kept
from benchmarks.machine import here
from benchmarks.markdown import place, table
from infra import logs, settings
from schemas.log import Event

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "studies.md"
HEAD = """# Studies of methods

Written by `make bench-methods METHOD=x` (`python -m benchmarks.study`) from what it measured, whatever came out. Mean ±
half of the 95 % interval over five seeds (Student t), 0 to 4 where no others are named; differences are paired by seed.
An interval without 0 is a difference at 95 %, not corrected for the number of comparisons.
"""

Arm = Callable[[int, Path], dict[str, float]]
"""(seed, cache) -> numbers by name."""


@dataclass(frozen=True)
class Study:
    """claim: of the paper. setting, baseline: here. arms: by name. pairs: (arm, other, number) that are compared.

    read: what follows from the measured numbers, or does not, in a sentence. seeds: none that anything was chosen on.
    """

    claim: str
    setting: str
    arms: dict[str, Arm]
    pairs: tuple[tuple[str, str, str], ...]
    read: Callable[["Studied"], str]
    seeds: tuple[int, ...] = SEEDS


class Studied(Kept):
    """{arm: {seed: {number: value}}}, for one state of the code. seconds: per run, of the wall."""

    arms: dict[str, dict[int, dict[str, float]]] = {}
    seconds: dict[str, dict[int, float]] = {}

    def values(self, arm: str, number: str) -> list[float]:
        """One number by seed. Raises KeyError if it was not measured."""
        return [numbers[number] for _, numbers in sorted(self.arms[arm].items())]

    @property
    def runs(self) -> list[float]:
        """Seconds of every run, of the wall."""
        return [s for arm in self.seconds.values() for s in arm.values()]

    def difference(self, arm: str, other: str, number: str) -> tuple[float, float]:
        """Mean of how much the first is above the other, paired by seed, and half of its 95 % interval."""
        pairs = zip(self.values(arm, number), self.values(other, number), strict=True)
        return interval([a - b for a, b in pairs])

    def verdict(self, arm: str, other: str, number: str) -> str:
        """Whether the first is `above` or `below` the other at 95 %; empty if they are not told apart."""
        middle, half = self.difference(arm, other, number)
        return "" if abs(middle) <= half else "above" if middle > 0 else "below"


def measure(study: Study, path: Path, cache: Path) -> Studied:
    """Run what the results of this commit lack, one seed of all arms after the other, and write after every run."""
    found = kept.begun(path, Studied, here())
    for seed, arm in ((s, a) for s in study.seeds for a in study.arms if s not in found.arms.get(a, {})):
        began = time.perf_counter()
        numbers = study.arms[arm](seed, cache)
        found.arms.setdefault(arm, {})[seed] = numbers
        found.seconds.setdefault(arm, {})[seed] = round(time.perf_counter() - began, 1)
        kept.keep(path, found)
        click.echo(f"seed {seed}, {arm}: {numbers}, {found.seconds[arm][seed]} s", err=True)
    return found


def published(study: Study, path: Path) -> Studied | None:
    """The newest results that are complete: an interrupted measurement takes nothing from the page."""
    return kept.newest(path, Studied, lambda found: _complete(study, found))


def _complete(study: Study, found: Studied) -> bool:
    """Every arm with every seed, and the numbers that are compared, which an older form of the study may lack."""
    arms = all(set(found.arms.get(arm, {})) == set(study.seeds) for arm in study.arms)
    compared = ((arm, number) for *both, number in study.pairs for arm in both)
    return arms and all(number in found.arms[arm][study.seeds[0]] for arm, number in compared)


def course(events: Iterable[Event]) -> Iterable[tuple[int, list[float]]]:
    """(uploads counted so far, accuracy of each owner in percent) of every version that was evaluated."""
    counted, sent, found = 0, {0: 0}, defaultdict(list)
    for e in events:
        if e.event == "closed":
            counted += int(e.facts["counted"])
            sent[e.version] = counted
        elif e.event == "evaluated":
            found[e.version].append(100 * float(e.facts["accuracy"]))
    return ((sent[version], found[version]) for version in sorted(found))


def load(name: str) -> Study:
    """The study of that name."""
    study: Study = importlib.import_module(f"benchmarks.studies.{name}").STUDY
    return study


def there() -> list[str]:
    """The names of all studies."""
    return sorted(m.name for m in pkgutil.iter_modules(studies.__path__))


def write() -> None:
    """docs/studies.md, from the results that are complete.

    Of a study that has none in its present form, what stands there stays: it names the commit that it was measured at.
    """
    standing = sections(PAGE.read_text()) if PAGE.exists() else {}
    for name in there():
        if found := published(load(name), RESULTS / f"study_{name}.json"):
            standing[name] = section(name, load(name), found)
    PAGE.write_text("\n".join([HEAD, *(standing[name] for name in there() if name in standing)]))


def sections(page: str) -> dict[str, str]:
    """The parts of the page, by study."""
    parts = [f"## {part.rstrip()}\n" for part in page.split("\n## ")[1:]]
    return {part.split()[1]: part for part in parts}


def section(name: str, study: Study, found: Studied) -> str:
    """Its part of the page."""
    numbers = list(dict.fromkeys(n for arm in study.arms for n in _first(found, arm)))
    rows = [[arm, *(_cell(found, arm, n) for n in numbers), f"{interval(list(found.seconds[arm].values()))[0]:.1f}"]
            for arm in study.arms]  # fmt: skip
    differences = [[f"{a} - {b}", n, "{:+.2f} ± {:.2f}".format(*found.difference(a, b, n))] for a, b, n in study.pairs]
    return f"""## {name}

**Claim.** {study.claim}

**Setting.** {study.setting}

{table(["arm", *numbers, "s per run"], rows)}
{table(["difference", "of", "mean and interval"], differences)}
**What came out.** {study.read(found)}

{len(found.runs)} runs, {sum(found.runs) / 60:.0f} minutes of the wall, beside whatever else ran
(the load below).

{place(found.where)}
"""


def _first(found: Studied, arm: str) -> dict[str, float]:
    return found.arms[arm][min(found.arms[arm])]


def _cell(found: Studied, arm: str, number: str) -> str:
    if number not in _first(found, arm):
        return ""
    middle, half = interval(found.values(arm, number))
    return f"{middle:.2f} ± {half:.2f}"


@click.command(help=__doc__)
@click.argument("methods", nargs=-1, type=click.Choice(there()))
def main(methods: tuple[str, ...]) -> None:
    logs.setup("warning")
    RESULTS.mkdir(exist_ok=True)
    for name in methods:
        measure(load(name), RESULTS / f"study_{name}.json", settings.read().cache)
    write()
    click.echo(f"wrote {PAGE.relative_to(Path(__file__).parent.parent)}", err=True)


if __name__ == "__main__":
    main()
