"""What the clients of one run are told by files (see `plugins.Obedient`), and what they have begun."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.stack.servers import eventually

BEGINS_S = 90.0
"""A worker may have to be made first, on a machine that may be busy."""


@dataclass(frozen=True)
class Orders:
    """Of one run, in a folder of its own."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def tell(self, word: Literal["wait", "die"], client: str, base: int) -> Iterator[Path]:
        """Within the block, or until the file is gone, a client at a base version does so each time it is asked."""
        path = self.folder / f"{client}.{base}.{word}"
        path.touch()
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def begun(self, client: str, base: int) -> dict[int, float]:
        """Which processes have begun to train it, and when (Unix seconds)."""
        found = self.folder.glob(f"{client}.{base}.at.*")
        return {int(path.suffix[1:]): path.stat().st_mtime for path in found}

    def trains(self, client: str, base: int, within_s: float = BEGINS_S, *, besides: Sequence[int] = ()) -> int:
        """Wait until a process has begun to train it, besides those; its pid."""
        what = f"somebody trains {client} from version {base}"
        eventually(lambda: bool(set(self.begun(client, base)) - set(besides)), what, within_s)
        return next(pid for pid in self.begun(client, base) if pid not in besides)
