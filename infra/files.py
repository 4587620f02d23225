"""Files that are whole or not there: written beside their place and moved into it. No fsync.

A killed process leaves the old file; a full disk leaves the old file, and nothing beside it. Whatever lies in the place
of a file that is to be read, reading neither waits for it nor takes more memory than was asked for.
"""

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

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
def regular(path: Path) -> Iterator[BinaryIO]:
    """A regular file, open to be read. Raises OSError; also for a pipe or a device, of which nobody knows the end."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "no regular file")
        yield file


def whole(path: Path, largest: int) -> bytes:
    """The bytes of a regular file. Raises OSError; also for more than `largest`, before they are read."""
    with regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > largest:
            raise OSError(errno.EFBIG, f"{size} bytes, at most {largest} are read")
        return file.read(largest + 1)


def lines(path: Path, longest: int) -> Iterator[bytes]:
    """The lines of a regular file, each with its end, but perhaps the last. Raises OSError; also for a longer line."""
    with regular(path) as file:
        number = 0
        while line := file.readline(longest + 1):
            number += 1
            if len(line) > longest:
                raise OSError(errno.EFBIG, f"line {number} is longer than {longest} bytes")
            yield line


@contextlib.contextmanager
def failing(what: str | Path) -> Iterator[None]:
    """OSError as the StoreError of what is kept there."""
    try:
        yield
    except OSError as e:
        raise StoreError(f"{what}: {e.strerror}") from e
