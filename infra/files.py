"""Files that are whole or not there: written beside their place and moved into it. No fsync.

A killed process leaves the old file; a full disk leaves the old file, and nothing beside it.
"""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from schemas.errors import StoreError


def write_whole(path: Path, data: bytes, move: Callable[[str, Path], None] = os.replace) -> None:
    """Make the file at `path`, all or nothing; its folder must be there. move: `os.link` refuses to replace one.

    Raises OSError.
    """
    temporary = ""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as f:
            temporary = f.name
            f.write(data)
        move(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


@contextlib.contextmanager
def failing(what: str | Path) -> Iterator[None]:
    """OSError as the StoreError of what is kept there."""
    try:
        yield
    except OSError as e:
        raise StoreError(f"{what}: {e.strerror}") from e
