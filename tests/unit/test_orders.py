"""Which clients share a task: those that one site plays, no more than the experiment says, in the order picked."""

import pytest

from orchestrator import orders
from orchestrator.book import Book
from schemas.experiment import Rounds
from schemas.log import Commit
from schemas.messages import BlobRef, Description, Split

BLOB = BlobRef(key="k", sha256="0" * 64, size=1)
PICKED = ("n2", "s1", "n1", "p1", "n3", "s2", "p2")


def commit() -> Commit:
    """Three clients of the site north, two of south, two of the pool; n1 has private state."""
    described = {"north": ("n1", "n2", "n3"), "south": ("s1", "s2"), None: ("p1", "p2")}
    descriptions = tuple(
        Description(site=site, clients=dict.fromkeys(names, Split(train=3)), classes=("a", "b"), fingerprint="f")
        for site, names in described.items()
    )
    return Commit(
        run="r", version=0, at=0, setting=BLOB, descriptions=descriptions, models={0: {"all": BLOB}}, cursor="0",
        journal=BLOB, private={"n1": BLOB}, seq=5,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("most", "shared"),
    [
        (1, [("n2",), ("s1",), ("n1",), ("p1",), ("n3",), ("s2",), ("p2",)]),
        (2, [("n2", "n1"), ("s1", "s2"), ("p1", "p2"), ("n3",)]),
        (99, [("n2", "n1", "n3"), ("s1", "s2"), ("p1", "p2")]),
    ],
)
def test_clients_share_a_task_within_their_site(most: int, shared: list[tuple[str, ...]]) -> None:
    book = Book.of(Rounds(clients_per_task=most), commit())
    tasks = orders.training(book, commit(), PICKED, now=1.0)
    assert [t.clients for t in tasks] == shared
    sites = {"n": "north", "s": "south", "p": None}
    assert [t.site for t in tasks] == [sites[clients[0][0]] for clients in shared]
    assert [t.task_id for t in tasks] == [f"v0-{clients[0]}-{5 + i}" for i, clients in enumerate(shared)]
    assert [set(t.private) for t in tasks] == [{"n1"} & set(clients) for clients in shared]
