"""What was measured, of several states of the code in one file, the newest last. Measures nothing.

So an interrupted measurement goes on where it was, and takes nothing from a page until it is complete.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from benchmarks.machine import Where
from schemas.base import Frozen


class Kept(Frozen):
    """What was measured of one state of the code. All else must have a default: nothing yet."""

    where: Where


Found = TypeVar("Found", bound=Kept)


def read(path: Path, model: type[Found]) -> list[Found]:
    """All of it, the newest last."""
    return [model.model_validate(each) for each in json.loads(path.read_text())] if path.exists() else []


def begun(path: Path, model: type[Found], where: Where) -> Found:
    """What there is of this state of the code."""
    return next((f for f in read(path, model) if f.where.commit == where.commit), model(where=where))


def keep(path: Path, found: Kept) -> None:
    """Write it in the place of what there was of its state of the code; whole or not at all, for runs are stopped."""
    others = [f for f in read(path, type(found)) if f.where.commit != found.where.commit]
    whole = path.with_suffix(".part")
    whole.write_text(json.dumps([f.model_dump(mode="json") for f in (*others, found)], indent=1) + "\n")
    whole.replace(path)


def newest(path: Path, model: type[Found], complete: Callable[[Found], bool]) -> Found | None:
    """The newest that is complete."""
    return next((f for f in reversed(read(path, model)) if complete(f)), None)
