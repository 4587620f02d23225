"""The stream of an earlier life in the order in which that life understood it.

A worker's word may reach the stream after the loop's last look and before its next decision. The loop took it in
after that decision, so a replay must too: each decision says what had been seen when it was made. And a decision whose
ground is gone (a stream that was emptied under a loop, or rubbish in it) is none.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace

from pydantic import ValidationError

from infra.stream import Entry, place
from orchestrator.book import Book
from schemas.decisions import DECISION, Asked, Closed, Decision, Refined, Retried


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


def groundless(decision: Decision, book: Book, *, merging: bool = False) -> str:
    """Why a decision of an earlier life cannot be acted on, though it is of the open version; or nothing.

    merging: a round is closed, and its model with a worker.
    """
    if isinstance(decision, Closed | Refined) and merging != isinstance(decision, Refined):
        return f"{decision.kind}: " + ("a round is being merged" if merging else "no round is being merged")
    evaluates = isinstance(decision, Asked) and any(task.kind != "train" for task in decision.tasks)
    if isinstance(decision, Asked | Closed | Retried) and not evaluates and decision.group not in book.rounds:
        return f"{decision.kind}: there is no group {decision.group[:80]!r}"
    if isinstance(decision, Asked) and not evaluates and not book.asked_before(decision):
        asked = {client for task in decision.tasks for client in task.clients}
        if busy := sorted(asked - set(book.free(asked, decision.group))):  # two loops spoke in one stream
            return f"asked: {busy[0]} is not free"
        if len(asked) > book.slots():
            return "asked: more than may be in flight"
    # A stream that was emptied tells the rest of a round only, which then goes on as one that nobody has closed.
    if isinstance(decision, Closed) and (gone := len(set(decision.counted) - set(book.accepted))):
        return f"closed: {gone} counted updates are gone"
    return ""


def _decision(entry: Entry) -> Decision | None:
    try:
        return DECISION.validate_json(entry.body) if entry.author == "decision" else None
    except ValidationError:
        return None
