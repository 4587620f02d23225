"""`quorate audit`: holds the commits, the journal, the blobs and the report of a run against one another.

What the events alone tell is `orchestrator.history`. Reads a store or a folder; changes nothing, owns nothing, and so
may look at a run that is going on.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import click
from pydantic import ValidationError

from infra import files, settings
from infra.runtime import connect_blobs
from orchestrator import journal, keys, shelf
from orchestrator.archive import FOLDER
from orchestrator.commits import KEEP_EVERY, LARGEST, Commits
from orchestrator.history import History
from orchestrator.succession import Pair, unlike
from schemas.base import Frozen
from schemas.errors import BlobCorrupt, BlobError, BlobMissing, CodecError, ConfigError
from schemas.log import Commit, Event, Final
from schemas.messages import BlobRef
from schemas.report import Report
from workers.adapter import LARGEST as LARGEST_ADAPTER
from workers.private import OWN
from workers.tensors import fingerprint, unpack


class Verdict(Frozen):
    """What an audit found. counted: updates, over all versions. ended: null while the run goes on."""

    run: str
    versions: int
    counted: int
    ended: str | None
    violations: tuple[str, ...]

    @property
    def line(self) -> str:
        """One line of counts."""
        end = self.ended or "not ended yet"
        return f"{self.run}: {self.versions} versions, {self.counted} updates counted once, nothing lost ({end})"


def audit(commits: Commits) -> Verdict:
    """Every rule that the stored history of a run breaks."""
    history, found, last = History(), list[str](), None
    kept: list[BlobRef] = []
    for number, key in enumerate(commits.blobs.keys(keys.versions(commits.run))):
        try:
            commit = Commit.model_validate_json(commits.blobs.read(key, limit=LARGEST))
            for event in commits.events(commit.journal):
                history.tell(event)
        except (BlobError, ValidationError) as e:
            return _verdict(commits.run, history, [*found, f"version {number}: {key} cannot be read: {_first(e)}"])
        found.extend(f"version {number}: {what}" for what in Pair(last, commit, history).differences(number))
        kept.extend(commit.models.get(number, {}).values() if number % KEEP_EVERY == 0 else ())
        last = commit
    final = commits.final()
    absent = _absent(commits, last, kept, ended=final is not None) if last else []
    if absent and last == commits.last():  # a run that goes on may have cleaned up meanwhile
        found.extend(absent)
    if final is not None:
        found.extend(_ending(commits, final, history, last))
    return _verdict(commits.run, history, found)


def audit_folder(folder: Path) -> Verdict:
    """Every rule that the journal and the report in `runs/<name>/` break."""
    history, found = History(), list[str]()
    try:
        for number, line in enumerate(journal.lines(folder / "journal.jsonl"), start=1):
            try:
                history.tell(Event.model_validate_json(line))
            except ValidationError as e:
                found.append(f"journal.jsonl: line {number} cannot be read: {_first(e)}")
    except OSError as e:
        found.append(f"journal.jsonl cannot be read: {e.strerror}")
    if history.end is None:
        found.append("journal.jsonl: the run has no end")
    try:
        report = Report.model_validate_json(files.whole(folder / "report.json", LARGEST))
        adapter = folder / "adapter.safetensors"
        sha256 = fingerprint(unpack(files.whole(adapter, LARGEST_ADAPTER))) if adapter.exists() else None
    except (OSError, ValidationError, CodecError) as e:
        found.append(f"report or adapter cannot be read: {_first(e)}")
    else:
        found.extend(unlike(report.ledger, history.tally.ledger(), "report.json", "the journal"))
        if sha256 != report.adapter_sha256:
            found.append("adapter.safetensors is not the adapter of report.json")
    return _verdict(folder.name, history, found)


def show(name: str, *, as_json: bool) -> int:
    """Print what an audit of a run finds, in the store and in `runs/<name>/`; the exit code. Raises ConfigError."""
    verdicts = list(_verdicts(shelf.named(name)))
    if not verdicts:
        raise ConfigError(f"there is no run {name!r}", hint="quorate runs lists them")
    violations = tuple(dict.fromkeys(v for verdict in verdicts for v in verdict.violations))
    if as_json:
        sys.stdout.write(verdicts[0].model_copy(update={"violations": violations}).model_dump_json(indent=2) + "\n")
    for violation in () if as_json else violations:
        click.echo(violation)
    if not violations and not as_json:
        click.echo(verdicts[0].line)
    return 1 if violations else 0


def _verdicts(name: str) -> Iterator[Verdict]:
    commits = Commits(name, connect_blobs(settings.read()))
    if next(iter(commits.blobs.keys(keys.root(name))), None) is not None:
        yield audit(commits)
    if (FOLDER / name / "journal.jsonl").exists():
        yield audit_folder(FOLDER / name)


def _verdict(run: str, history: History, found: list[str]) -> Verdict:
    said = history.end.facts.get("status") if history.end else None
    ended = said if isinstance(said, str) else None
    every = (*history.violations, *found)
    return Verdict(run=run, versions=history.version, counted=len(history.counted), ended=ended, violations=every)


def _ending(commits: Commits, final: Final, history: History, last: Commit | None) -> Iterator[str]:
    try:
        for event in commits.events(final.journal):
            history.tell(event)
    except (BlobError, ValidationError) as e:
        yield f"the journal of the end cannot be read: {_first(e)}"
        return
    end = history.end
    if end is None:
        yield "final.json is there, and the journal has no end"
        return
    if (end.facts.get("status"), end.facts.get("reason"), end.version) != (final.status, final.reason, final.version):
        yield "final.json and the journal tell different ends"
    if final.version != (last.version if last else 0):
        yield f"final.json names version {final.version}, which is not the last commit"
    standing = {(a.task_id, a.client) for a in last.accepted} if last else set()
    if final.status == "finished" and set(history.pending) != standing:
        yield f"{len(set(history.pending) ^ standing)} updates were accepted behind the last version"


def _absent(commits: Commits, last: Commit, kept: list[BlobRef], *, ended: bool) -> list[str]:
    """What must be in the store for this commit, and is not, or not whole."""
    needed = [blob for models in last.models.values() for blob in models.values()]
    needed += [last.setting, *last.private.values(), *([last.server] if last.server else []), *kept]
    if not ended:
        needed += [a.update for a in last.accepted]
        needed += [blob for task in last.open for blob in task.private.values()]
    found = []
    for blob in dict.fromkeys(needed):
        try:
            if not blob.key.startswith(OWN):
                commits.blobs.get(blob)
        except (BlobMissing, BlobCorrupt) as e:
            found.append(f"version {last.version}: {blob.key} is needed: {e.message}")
    return found


def _first(error: Exception) -> str:
    return str(error).splitlines()[0][:200]
