"""A run's story as text, for 3 clients and for 300, on 80 columns and on 200. Knows stories; must not know stores.

A line of numbers per version; under it, names where they fit into a line, and counts where they do not.
"""

import textwrap
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from rich.console import Console

from orchestrator.tables import show
from orchestrator.wording import percent, plain
from schemas.messages import ALL
from schemas.story import Gone, Round, Story

HEAD = "   v      t s asked    in  late without rejected  lost quorum s grace s mean %"
INDENT = "     "


def tell(story: Story, console: Console) -> None:
    """Print a whole story."""
    say = _Say(console)
    say(f"run {story.run}" + (f": {story.method}, {story.clients} clients" if story.clients else ""))
    say(standing(story))
    if story.rounds or story.open:
        say(HEAD)
    for made in story.rounds:
        say(numbers(made))
        say.notes(notes(made, console.width - len(INDENT)))
    if story.open:
        say(numbers(story.open) + "  (open)")
        say.notes(notes(story.open, console.width - len(INDENT), opened=True))
    if story.report:
        say("")
        show(story.report, console)


def one(made: Round, console: Console, *, opened: bool = False) -> None:
    """Print all that is known of one round, every name and every reason."""
    say = _Say(console)
    say(HEAD)
    say(numbers(made) + ("  (open)" if opened else ""))
    lines = [
        ("asked", made.asked),
        ("here" if opened else "in", made.counted),
        ("late", [f"{u.client} ({u.lag})" for u in made.late]),
        ("waiting for" if opened else "without", made.without),
        ("rejected", [f"{g.client}: {g.reason}" + (f" ({g.detail})" if g.detail else "") for g in made.rejected]),
        ("lost", [f"{g.client}: {g.reason}" for g in made.lost]),
        ("sent again", [f"{a.task} as attempt {a.attempt}: {a.reason}" for a in made.resent]),
        ("ignored", [f"{count} {reason}" for reason, count in made.ignored.items()]),
        ("accuracy", [f"{who} {percent(a)}" for who, a in sorted(made.accuracy.items())]),
    ]
    for name, parts in lines:
        if parts:
            say.wrapped(name, parts)
    say.notes(_counts(made))
    if made.fold_s is not None and made.commit_s is not None:
        say(f"{INDENT}fold {made.fold_s:.3f} s, commit {made.commit_s:.3f} s of the wall's clock")


def standing(story: Story) -> str:
    """How a run stands, in one line, e.g. `running: version 7 of 20, the last 12 s ago; owned by ...`."""
    of = "" if story.status == "finished" else f" of {story.versions}"
    text = f"{story.status}: version {story.version}{of}"
    if story.began is not None:
        text += f", begun {datetime.fromtimestamp(story.began):%Y-%m-%d %H:%M:%S}"
    if story.last is not None:
        going = story.status in ("running", "unfinished")
        text += f", {'last heard of' if going else 'ended'} {ago(story.last)}"
    if story.owner:
        silent = "" if story.owner.silent_s is None else f", silent for {story.owner.silent_s:.1f} s"
        text += f"; owned by {story.owner.name}{silent}"
    return text + (f"\nreason: {story.reason}" if story.reason else "")


def numbers(made: Round) -> str:
    """The line of a version under HEAD."""
    rejected, lost = len(made.rejected), len(made.lost)
    return (
        f"{made.version:>4} {_s(made.at):>8} {len(made.asked):>5} {len(made.counted):>5} {len(made.late):>5} "
        f"{len(made.without):>7} {rejected:>8} {lost:>5} {_s(made.quorum_s):>8} {_s(made.grace_s):>7} "
        f"{percent(made.mean).removesuffix(' %'):>6}"
    ).rstrip(" –")


def notes(made: Round, width: int, *, opened: bool = False) -> list[str]:
    """What the numbers do not say; every note is at most `width` wide if names of usual length allow it."""
    late = [f"{u.client} ({u.lag})" for u in made.late]
    found = [
        *_names("here" if opened else "in", made.counted, width),
        *_names("late", late, width),
        *_names("waiting for" if opened else "without", made.without, width, always=True),
        *_reasons("rejected", made.rejected, width),
        *_reasons("lost", made.lost, width),
    ]
    return [*found, *_again(made, width), *_counts(made)]


def ago(moment: float | None) -> str:
    """How long ago a Unix moment was, e.g. `12 s ago`, `3 h ago`; a dash if there was none."""
    if moment is None:
        return "–"
    seconds = max(0.0, time.time() - moment)
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


class _Say:
    """Lines as they are: no markup, no colours, nothing that a name could switch on."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def __call__(self, text: str) -> None:
        for line in text.splitlines() or [""]:
            self.console.print(plain(line), markup=False, highlight=False, soft_wrap=True)

    def notes(self, parts: Iterable[str]) -> None:
        """Notes, as many to a line as fit."""
        line = ""
        for part in map(plain, parts):
            if line and len(INDENT) + len(line) + 3 + len(part) > self.console.width:
                self(INDENT + line)
                line = ""
            line = f"{line} · {part}" if line else part
        if line:
            self(INDENT + line)

    def wrapped(self, name: str, parts: Sequence[str]) -> None:
        """A list under its name, over as many lines as it takes."""
        text = f"{name} ({len(parts)}): {', '.join(map(plain, parts))}"
        self("\n".join(textwrap.wrap(text, self.console.width, initial_indent=INDENT, subsequent_indent=INDENT + "  ")))


def _s(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds:.1f}"


def _names(word: str, names: Sequence[str], width: int, *, always: bool = False) -> Iterator[str]:
    """All the names if they fit into a line; else how many, if that is not in the line of numbers or matters much."""
    text = f"{word} {', '.join(names)}"
    if names and len(text) <= width:
        yield text
    elif names and always:
        yield f"{word} {len(names)} clients"


def _reasons(word: str, gone: Sequence[Gone], width: int) -> Iterator[str]:
    for reason in dict.fromkeys(g.reason for g in gone):
        clients = [g.client for g in gone if g.reason == reason]
        short = reason if len(reason) <= 60 else f"{reason[:57]}..."
        text = f"{word} {', '.join(clients)} ({short})"
        yield text if len(text) <= width else f"{word} {len(clients)} ({short})"


def _again(made: Round, width: int) -> Iterator[str]:
    for reason in dict.fromkeys(a.reason for a in made.resent):
        tasks = [f"{a.task} (attempt {a.attempt})" for a in made.resent if a.reason == reason]
        text = f"sent again {', '.join(tasks)}: {reason[:60]}"
        yield text if len(text) <= width else f"sent again {len(tasks)}: {reason[:60]}"


def _counts(made: Round) -> Iterator[str]:
    if made.group != ALL:
        yield f"group {made.group}"
    if made.retries:
        yield f"asked for replacements {made.retries} times" if made.retries > 1 else "asked for replacements once"
    if made.taken_up:
        yield "taken up again by a loop" + (f", {made.taken_up} times" if made.taken_up > 1 else "")
    for reason, count in made.ignored.items():
        yield f"ignored {count} ({reason})"
