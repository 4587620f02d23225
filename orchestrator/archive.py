"""Where runs are found again: results in `runs/`, and the stores, for those that go on, broke off or ended elsewhere.

Reads, and changes nothing: it may look at a run that another process owns. Never imports torch.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from infra import files
from infra.clock import WallClock
from infra.runtime import connect_blobs, connect_state, connect_stream
from infra.settings import Settings
from infra.stream import Entry
from orchestrator import journal, keys
from orchestrator import story as stories
from orchestrator.afoot import Afoot
from orchestrator.commits import LARGEST, Commits
from orchestrator.tenure import LEASE_S
from schemas.errors import BlobMissing, ConfigError, StoreError
from schemas.log import Commit, Event
from schemas.report import Report
from schemas.story import Owner, Round, Story

FOLDER = Path("runs")
LARGEST_EXPERIMENT = 16 * 1024 * 1024
NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}")
"""A folder of another name is nobody's run, e.g. a copy put aside."""
T = TypeVar("T")


class Archive:
    """All runs that these settings lead to. `trouble`: why it is not known who owns a run, if it is not."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.blobs = connect_blobs(settings)
        self.trouble = ""

    def names(self) -> list[str]:
        """Every run, sorted."""
        stored = {m[1] for key in self.blobs.keys("runs/") if (m := re.match(r"runs/([^/]+)/experiment\.json$", key))}
        return sorted(name for name in stored | set(self.done()) if NAME.fullmatch(name))

    def done(self) -> list[str]:
        """Those whose result is here."""
        return sorted(path.parent.name for path in FOLDER.glob("[!.]*/report.json"))

    def story(self, name: str) -> Story:
        """All of a run's story. Raises ConfigError if there is none of that name."""
        if (FOLDER / name / "report.json").exists():
            told = stories.Story.of(read_journal(FOLDER / name))
            return _story(name, told, report=read_report(FOLDER / name / "report.json"))
        commits = Commits(name, self.blobs)
        versions = self._wanted(name)
        last, told = self._whole(commits)
        ended, owner = told.end is not None, self._owner(name)
        opened = self._open(name, last) if last and not ended else None
        return _story(name, told, owner=owner, open=opened, versions=versions)

    def events(self, name: str) -> list[Event]:
        """All that is known of a run, as far as it is committed. Raises ConfigError if there is none of that name."""
        if (FOLDER / name / "report.json").exists():
            return read_journal(FOLDER / name)
        self._wanted(name)
        return Commits(name, self.blobs).journal()

    def summary(self, name: str) -> Story:
        """The story without its rounds: quick, also for a run of many versions."""
        if (FOLDER / name / "report.json").exists():
            told = stories.Story.of(_ends(FOLDER / name / "journal.jsonl"))
            return _story(name, told, report=read_report(FOLDER / name / "report.json"))
        commits = Commits(name, self.blobs)
        versions, last, final = self._wanted(name), commits.last(), commits.final()
        events = [*(commits.beginning() if last else []), *(commits.events(last.journal)[-1:] if last else [])]
        told = stories.Story.of([*events, *(commits.events(final.journal)[-1:] if final else [])])
        made = _story(name, told, owner=self._owner(name), versions=versions)
        return made.model_copy(update={"version": last.version if last else 0})

    def _whole(self, commits: Commits) -> tuple[Commit | None, stories.Story]:
        """The last commit and the story up to it, though a loop goes on committing meanwhile."""
        while True:
            last, told = commits.last(), stories.Story.of(commits.journal())
            if last is None or last.version == max(told.rounds, default=0):
                return last, told

    def _wanted(self, name: str) -> int:
        try:
            text = self.blobs.read(keys.experiment(name), limit=LARGEST_EXPERIMENT)
        except BlobMissing:
            raise ConfigError(f"there is no run {name!r}", hint="quorate runs lists what there is") from None
        try:
            return int(json.loads(text)["rounds"]["versions"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return 0  # of another version of Quorate: the rest can be told

    def _owner(self, name: str) -> Owner | None:
        held = self._ask(lambda: connect_state(self.settings).owner(name))
        if held is None:
            return None
        owner, ends_in_s = held
        return Owner(name=owner, silent_s=None if ends_in_s is None else round(max(0.0, LEASE_S - ends_in_s), 1))

    def _open(self, name: str, last: Commit) -> Round:
        if self.settings.state.startswith("file:"):
            return Afoot.behind(last, ()).round()  # the stream is one process's own: only that may open it
        return Afoot.behind(last, self._ask(lambda: list(self._entries(name, last.cursor))) or ()).round()

    def _entries(self, name: str, cursor: str) -> Iterator[Entry]:
        stream, _ = connect_stream(self.settings, WallClock())
        while entries := stream.read(name, cursor, until=0.0):
            yield from entries
            cursor = entries[-1].id

    def _ask(self, question: Callable[[], T]) -> T | None:
        if self.trouble:
            return None
        try:
            return question()
        except StoreError as e:
            self.trouble = str(e)
            return None


def read_report(path: Path) -> Report:
    """A report.json. Raises ConfigError."""
    try:
        return Report.model_validate_json(files.whole(path, LARGEST))
    except FileNotFoundError:
        raise ConfigError(f"there is no {path}", hint="quorate runs lists what there is") from None
    except (OSError, ValidationError) as e:
        raise ConfigError(f"{path} is no report: {str(e).splitlines()[0]}") from None


def _story(name: str, told: stories.Story, *, report: Report | None = None, **more: Any) -> Story:
    facts = told.began.facts if told.began else {}
    end = told.end.facts if told.end else {}
    experiment = facts.get("experiment", {})
    going = "running" if more.get("owner") else "unfinished"
    rounds = told.told()
    version = report.version if report else rounds[-1].version if rounds else 0
    return Story(
        run=name,
        status=report.status if report else end.get("status", going),
        reason=report.reason if report else end.get("reason", ""),
        method=experiment.get("method", {}).get("name", ""),
        version=version,
        clients=len(told.clients),
        began=told.began.wall if told.began else None,
        last=told.last.wall if told.last else None,
        rounds=rounds,
        report=report,
        **{"versions": experiment.get("rounds", {}).get("versions", version), **more},
    )


def read_journal(folder: Path) -> list[Event]:
    """The events of a run's folder, none if they are not there. Raises ConfigError."""
    path = folder / "journal.jsonl"
    if not path.exists():
        return []
    try:
        return [_event(line, path) for line in journal.lines(path)]
    except OSError as e:
        raise ConfigError(f"{path} is no journal: {e.strerror}") from None


def read_beginning(folder: Path) -> list[Event]:
    """The events of a run's folder up to the owners' description. Raises ConfigError."""
    path, found = folder / "journal.jsonl", list[Event]()
    try:
        for line in journal.lines(path) if path.exists() else ():
            found.append(_event(line, path))
            if found[-1].event == "described":
                break
    except OSError as e:
        raise ConfigError(f"{path} is no journal: {e.strerror}") from None
    return found


def _ends(path: Path) -> list[Event]:
    """The first event of a journal and its last one."""
    if not path.exists():
        return []
    try:
        with files.regular(path) as file:
            first = file.readline(journal.LONGEST)
            file.seek(max(file.tell(), os.fstat(file.fileno()).st_size - 65_536))
            last = file.read().splitlines()[-1:]
    except OSError as e:
        raise ConfigError(f"{path} is no journal: {e.strerror}") from None
    return [_event(line, path) for line in (first, *last) if line]


def _event(line: bytes, path: Path) -> Event:
    try:
        return Event.model_validate_json(line)
    except ValidationError as e:
        raise ConfigError(f"{path} is no journal: {e.errors()[0]['msg']}"[:300]) from None
