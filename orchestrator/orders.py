"""What tasks look like that a loop may ask: who, from which version, at which site, with which private state.

Pure functions of the book and the last commit.
"""

from collections.abc import Iterable

from orchestrator.book import Book
from schemas.log import Commit, Open
from schemas.messages import ALL, BlobRef
from workers.method import State


def sites(commit: Commit) -> dict[str, str | None]:
    """Every client that has images to train on, and the site that plays it; None is the pool."""
    return {client: d.site for d in commit.descriptions for client, split in d.clients.items() if split.train}


def training(book: Book, commit: Commit, state: State, picked: Iterable[str], now: float) -> tuple[Open, ...]:
    """A training task for each picked client, from the current model of its group."""
    site_of, version = sites(commit), book.version
    return tuple(
        Open(
            task_id=f"v{version}-{client}-{book.seq + i}", kind="train", base=version, clients=(client,), attempt=1,
            group=state.assignment.get(client, ALL), site=site_of[client], asked_at=now,
            private=_private(book, [client]),
        )
        for i, client in enumerate(picked)
    )  # fmt: skip


def evaluation(book: Book, commit: Commit, now: float) -> tuple[Open, ...]:
    """An evaluation of the current version by everyone, held-out owners included: one task per site."""
    return tuple(
        Open(
            task_id=f"v{book.version}-evaluate-{d.site or 'pool'}", kind="evaluate", base=book.version, attempt=1,
            clients=(*d.clients, *d.held_out), site=d.site, asked_at=now, private=_private(book, d.clients),
        )
        for d in commit.descriptions
    )  # fmt: skip


def _private(book: Book, clients: Iterable[str]) -> dict[str, BlobRef]:
    return {client: book.private[client] for client in clients if client in book.private}
