"""Latencies from a file."""

import csv
from math import isfinite
from pathlib import Path
from random import Random
from typing import Any

from pydantic import Field

from infra.documents import read_mapping
from schemas.base import Frozen
from schemas.errors import PluginError

LARGEST = 16_000_000
"""Bytes of a CSV file."""
LONGEST_S = 1e6
"""Seconds, of one task."""


class Trace:
    """The seconds of each client from a YAML, JSON or CSV file, one number or many: at version n the n-th, cycled.

    YAML and JSON map a client to a number or a list; a line of CSV is a client and its numbers. Clients that the file
    does not name take `default_s`. Measured times can so be played back, and a slow client made by hand.
    """

    class Params(Frozen):
        """file: null names nobody. default_s: seconds of the clients that the file does not name."""

        file: Path | None = None
        default_s: float = Field(default=1.0, ge=0, le=LONGEST_S)

    def __init__(self, params: Params) -> None:
        self.default_s = params.default_s
        self.known = _read(params.file) if params.file else {}
        self.named = frozenset(self.known)

    def seconds(self, client: str, base: int, owner: Random, task: Random) -> float:
        """Seconds of a client for a task that starts from version `base`."""
        known = self.known.get(client)
        return known[base % len(known)] if known else self.default_s


def _read(path: Path) -> dict[str, list[float]]:
    rows = _rows(path) if path.suffix.lower() == ".csv" else read_mapping(path)
    return {str(client): _numbers(path, client, given) for client, given in rows.items()}


def _numbers(path: Path, client: object, given: Any) -> list[float]:
    listed: list[Any] = given if isinstance(given, list) else [given]
    odd = [x for x in listed if isinstance(x, bool) or not isinstance(x, int | float) or not isfinite(x)]
    if not listed or odd or not all(0 <= x <= LONGEST_S for x in listed):
        what = f"{str(odd[0])[:40]!r} is no number" if odd else f"needs seconds between 0 and {LONGEST_S:g}"
        raise PluginError(f"{path}: {str(client)[:80]}: {what}", hint="e.g. `clinic-0: [1.5, 2]`")
    return [float(x) for x in listed]


def _rows(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    try:
        for number, row in enumerate(csv.reader(_text(path).splitlines(), strict=True), start=1):
            if row and row[0].strip() in found:
                raise PluginError(f"{path}: line {number}: {row[0].strip()[:80]} is there twice")
            if row:
                found[row[0].strip()] = [_number(cell) for cell in row[1:]]
    except csv.Error as e:
        raise PluginError(f"{path} is not CSV: {e}") from None
    return found


def _number(cell: str) -> object:
    try:
        return float(cell)
    except ValueError:
        return cell


def _text(path: Path) -> str:
    try:
        with path.open("rb") as f:
            data = f.read(LARGEST + 1)
        text = data.decode("utf-8-sig")  # as a spreadsheet writes it
    except OSError as e:
        raise PluginError(f"cannot read {path}: {e.strerror}") from None
    except UnicodeDecodeError as e:
        raise PluginError(f"{path} is not CSV: not UTF-8 text at byte {e.start}") from None
    if len(data) > LARGEST:
        raise PluginError(f"{path}: larger than {LARGEST} bytes")
    if text and not text.endswith("\n"):
        raise PluginError(f"{path} ends in the middle of a line", hint="is it whole?")
    return text
