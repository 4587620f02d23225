"""What tasks look like that a loop may ask: who, from which version, at which site, with which private state.

Pure functions of the book and the last commit.
"""

from collections.abc import Iterable, Mapping

from orchestrator.book import Book
from schemas.log import Commit, Open
from schemas.messages import ALL, BlobRef


def sites(commit: Commit) -> dict[str, str | None]:
    """Every client that has images to train on, and the site that plays it; None is the pool."""
    return {client: d.site for d in commit.descriptions for client, split in d.clients.items() if split.train}


def training(book: Book, commit: Commit, picked: Iterable[str], now: float, group: str = ALL) -> tuple[Open, ...]:
    """Training tasks for the picked clients of a group, from the group's current model: one each, or one for several
    that the same site plays."""
    base, site_of = book.rounds[group].base, sites(commit)
    shared = _shared(picked, site_of, book.spec.clients_per_task)
    return tuple(
        Open(
            task_id=task_id, kind="train", base=base, clients=clients, attempt=1,
            group=group, site=site_of[clients[0]], asked_at=now, private=_private(book, clients),
        )
        for task_id, clients in zip(_ids(book, base, shared), shared, strict=True)
    )  # fmt: skip


def _ids(book: Book, base: int, shared: list[tuple[str, ...]]) -> list[str]:
    """New ids. A stream that was emptied tells of the later tasks only, so the next numbers may have been given."""
    first = book.seq
    while True:
        ids = [f"v{base}-{clients[0]}-{first + i}" for i, clients in enumerate(shared)]
        if not any(map(book.knows, ids)):
            return ids
        first += 1


def _shared(picked: Iterable[str], site_of: Mapping[str, str | None], most: int) -> list[tuple[str, ...]]:
    """The clients of each task, in the order picked."""
    tasks: list[list[str]] = []
    filling: dict[str | None, list[str]] = {}
    for client in picked:
        site = site_of[client]
        if site not in filling or len(filling[site]) == most:
            filling[site] = []
            tasks.append(filling[site])
        filling[site].append(client)
    return [tuple(clients) for clients in tasks]


def evaluation(book: Book, commit: Commit, now: float) -> tuple[Open, ...]:
    """An evaluation of the current version by everyone, held-out owners included: one task per site and group."""
    return tuple(
        _evaluation(book, d.site, group, [c for c in (*d.clients, *d.held_out) if book.group_of(c) == group], now)
        for d in commit.descriptions
        for group in sorted({book.group_of(c) for c in (*d.clients, *d.held_out)})
    )


def _evaluation(book: Book, site: str | None, group: str, clients: list[str], now: float) -> Open:
    name = f"v{book.version}-evaluate-{site or 'pool'}" + (f"-{group}" if group != ALL else "")
    return Open(
        task_id=name, kind="evaluate", base=book.version, attempt=1, clients=tuple(clients), group=group, site=site,
        asked_at=now, private=_private(book, clients),
    )  # fmt: skip


def _private(book: Book, clients: Iterable[str]) -> dict[str, BlobRef]:
    return {client: book.private[client] for client in clients if client in book.private}
