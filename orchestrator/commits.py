"""The commits of a run: the only truth. Finds the last one, writes the next one once, cleans up behind it."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from infra.blobs import BlobStore
from orchestrator import keys
from schemas.base import canonical, digest
from schemas.errors import BlobError, BlobExists, BlobMissing
from schemas.log import Commit, Event, Final
from schemas.messages import BlobRef

if TYPE_CHECKING:  # torch takes seconds, and who only looks at a run needs no tensors
    from workers.tensors import Tensors

LARGEST = 256 * 1024 * 1024
"""Bytes of the largest commit that is read back."""
KEEP_EVERY = 10
"""Models of every tenth version are kept for good."""


@dataclass(frozen=True)
class Commits:
    """The commits of one run in an object store."""

    run: str
    blobs: BlobStore

    def last(self) -> Commit | None:
        """The highest committed version, or None before version 0."""
        found = list(self.blobs.keys(keys.versions(self.run)))
        return self._commit(found[-1]) if found else None

    def write(self, commit: Commit) -> Commit:
        """Commit this version, once. Raises BlobExists if another loop's stands there."""
        key = keys.version(self.run, commit.version)
        try:
            self.blobs.put(key, canonical(commit), if_absent=True)
        except BlobExists:  # or the answer to a request that the client library repeated
            if self._commit(key) != commit:
                raise
        return commit

    def final(self) -> Final | None:
        """How the run ended, or None while it has not."""
        try:
            return Final.model_validate_json(self.blobs.read(keys.final(self.run), limit=LARGEST))
        except BlobMissing:
            return None
        except ValidationError as e:
            raise BlobError(f"{keys.final(self.run)} cannot be read: {str(e).splitlines()[0]}") from None

    def finish(self, final: Final) -> None:
        """Say, once, how the run ended."""
        self._once(keys.final(self.run), canonical(final))

    def put_model(self, version: int, tensors: "Tensors") -> BlobRef:
        """Store the tensors of a group at a version."""
        from workers.tensors import pack  # noqa: PLC0415

        data = pack(tensors)
        return self._once(keys.model(self.run, version, digest(data)), data)

    def get_model(self, blob: BlobRef) -> "Tensors":
        """The tensors of a group. Raises BlobError."""
        from workers.tensors import unpack  # noqa: PLC0415

        return unpack(self.blobs.get(blob))

    def put_setting(self, setting: bytes) -> BlobRef:
        """Store a setting under its content."""
        return self._once(keys.setting(self.run, digest(setting)), setting)

    def put_journal(self, version: int, events: Iterable[Event]) -> BlobRef:
        """Store the events that a commit brings."""
        data = b"".join(canonical(event) + b"\n" for event in events)
        return self._once(keys.journal(self.run, version, digest(data)), data)

    def journal(self) -> list[Event]:
        """The events of all commits and of the end, in order."""
        blobs = [self._journal_of(key) for key in self.blobs.keys(keys.versions(self.run))]
        final = self.final()
        return [e for blob in [*blobs, *([final.journal] if final else [])] for e in self.events(blob)]

    def events(self, blob: BlobRef) -> list[Event]:
        """The events of one commit. Raises BlobError, ValidationError."""
        return [Event.model_validate_json(line) for line in self.blobs.get(blob).splitlines()]

    def beginning(self) -> list[Event]:
        """The events that led to version 0; none before it."""
        first = next(iter(self.blobs.keys(keys.versions(self.run))), None)
        return self.events(self._commit(first).journal) if first else []

    def all(self) -> list[Commit]:
        """Every commit, in order."""
        return [self._commit(key) for key in self.blobs.keys(keys.versions(self.run))]

    def sweep(self, last: Commit | None) -> None:
        """Delete what nothing refers to any more after the end of the run. last: None if it never had a version."""
        kept = {blob.key for key in self.blobs.keys(keys.versions(self.run)) if keys.number(key) % KEEP_EVERY == 0
                for blob in self._commit(key).models.get(keys.number(key), {}).values()}  # fmt: skip
        kept |= self._journals(last.version if last else -1)
        if last is not None:
            kept |= {blob.key for models in last.models.values() for blob in models.values()}
            kept |= {blob.key for blob in (*last.private.values(), *([last.server] if last.server else []))}
            kept |= {last.setting.key}
        for kind in ("updates", "private", "models", "start", "tasks", "setting", "journal"):
            self.blobs.delete(*(key for key in self.blobs.keys(keys.uploads(self.run, kind)) if key not in kept))

    def _journals(self, last: int) -> set[str]:
        """The journals that commits and the end refer to; a commit that was not written may have left others."""
        found: dict[int, list[str]] = {}
        for key in self.blobs.keys(keys.uploads(self.run, "journal")):
            number = key.rpartition("/")[2].partition("-")[0]
            found.setdefault(int(number) if number.isdecimal() else last + 1, []).append(key)
        final = self.final()
        kept = {final.journal.key} if final else set()
        for version, named in found.items():
            if version <= last:
                alone = len(named) == 1
                kept.add(named[0] if alone else self._journal_of(keys.version(self.run, version)).key)
        return kept

    def _commit(self, key: str) -> Commit:
        try:
            return Commit.model_validate(json.loads(self.blobs.read(key, limit=LARGEST)))
        except (ValidationError, ValueError, RecursionError) as e:
            raise BlobError(f"{key} is no commit: {str(e)[:200]}") from None

    def _journal_of(self, key: str) -> BlobRef:
        """The journal that a commit names. Of thousands of commits nothing else is looked at."""
        try:
            return BlobRef.model_validate(json.loads(self.blobs.read(key, limit=LARGEST))["journal"])
        except (ValidationError, ValueError, KeyError, TypeError, RecursionError) as e:
            raise BlobError(f"{key} is no commit: {str(e)[:200]}") from None

    def _once(self, key: str, data: bytes) -> BlobRef:
        try:
            return self.blobs.put(key, data, if_absent=True)
        except BlobExists:  # the key is made of the content, or this is the answer to a repeated request
            return BlobRef(key=key, sha256=digest(data), size=len(data))
