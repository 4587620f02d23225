"""The stream of an earlier life in the order in which that life understood it.

A worker's word may reach the stream after the loop's last look and before its next decision. The loop took it in
after that decision, so a replay must too: each decision says what had been seen when it was made.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace

from pydantic import ValidationError

from infra.stream import Entry, place
from schemas.log import DECISION, Decision


def understood(read: Callable[[str], list[Entry]], cursor: str) -> Iterator[Entry]:
    """Entries behind a cursor, each decision right behind what it had seen; what no decision had seen comes last.

    A decision bears the cursor of the loop that made it and the moment at which it was made; what it had seen came
    no later than that. read: the entries behind a cursor.
    """
    unseen: deque[Entry] = deque()
    last = cursor
    while entries := read(last):
        for entry in entries:
            last = entry.id
            decision = _decision(entry)
            if decision is None:
                unseen.append(entry)
                continue
            seen = decision.seen if decision.seen is not None else entry.id
            at = entry.at if decision.at is None else min(entry.at, decision.at)
            while unseen and place(unseen[0].id) <= place(seen):
                early = unseen.popleft()
                cursor = early.id
                yield replace(early, at=min(early.at, at))
            cursor = max(cursor, seen, key=place)
            yield replace(entry, id=cursor, at=at)
    yield from unseen


def _decision(entry: Entry) -> Decision | None:
    try:
        return DECISION.validate_json(entry.body) if entry.author == "decision" else None
    except ValidationError:
        return None
