"""Who is making what just now, so that processes that share what is made share the work too.

A claim is a value on a shelf of claims, under the key of what is being made: the first one stays. Whoever holds some
says so every BEAT_S. Who has been silent for SILENT_S was killed, is frozen or cut off, and has lost them to whoever
waits. No clocks are compared, and no lock is held. Knows shelves; must not know what is made, or where it is kept.
"""

import secrets
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Self

from schemas.errors import StoreError
from workers.data.shelf import Shelf

BEAT_S, SILENT_S, LOOK_S = 1.0, 10.0, 0.05
"""Seconds: between two signs of life; without one until claims are void; between two looks of who waits."""

CLAIMS = ".claims"
"""How the file of a shelf of claims ends, that lies beside the shelf of what is made."""

SIZE = 16
"""Bytes of a claimant's name, and of a sign of life."""


class Claims:
    """The claims of one claimant. As a context it lives from its first claim on, and leaves none behind.

    Nobody waits for each other as long as whoever waits holds none.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf, self._who, self._held = shelf, secrets.token_bytes(SIZE), set[str]()
        self._said, self._beats = dict[str, bytes](), 0
        self._left = threading.Event()
        self._life = threading.Thread(target=self._live, daemon=True)
        self._lives = False

    def __enter__(self) -> Self:
        self._lives = True
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        if self._life.ident is None:
            return  # nothing was ever claimed
        self._life.join()
        self.drop(self._held)
        self.beat()

    def take(self, keys: Iterable[str]) -> set[str]:
        """Those of the keys that are ours to make from now on, if they are not made by now. Raises StoreError."""
        asked = {f"claim:{key}": key for key in keys}
        if asked and self._lives and self._life.ident is None:
            self._life.start()
        first = self._shelf.write(dict.fromkeys(asked, self._who))
        mine = {key for name, key in asked.items() if first[name] == self._who}
        self._held.update(mine)
        return mine

    def drop(self, keys: Iterable[str]) -> None:
        """Give claims up: what they were about is made, or is not going to be."""
        gone = set(keys)
        with suppress(StoreError):  # they are void soon enough
            self._shelf.drop({f"claim:{key}": self._who for key in gone})
        self._held.difference_update(gone)

    def wait(self, keys: Iterable[str]) -> None:
        """Until nobody has a claim on any of the keys, or those who have are silent: then these claims are void."""
        asked, since = [f"claim:{key}" for key in keys], time.monotonic()
        before: object = None
        with suppress(StoreError), self._shelf.reading() as read:
            while held := read(asked, SIZE):
                lives = read({_life(who) for who in held.values()}, SIZE)
                if (held, lives) != before:
                    before, since = (held, lives), time.monotonic()
                elif time.monotonic() - since > SILENT_S:
                    self._shelf.drop(held | lives)
                time.sleep(LOOK_S)

    def beat(self) -> None:
        """Say once more that the claimant lives, if it holds claims."""
        self._beats += 1
        sign = {_life(self._who): self._beats.to_bytes(SIZE, "big")} if self._held else {}
        with suppress(StoreError):
            self._shelf.drop(self._said)
            self._said = self._shelf.write(sign)

    def _live(self) -> None:
        while not self._left.wait(BEAT_S):
            self.beat()


def _life(who: bytes) -> str:
    return f"life:{who.hex()}"
