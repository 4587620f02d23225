"""Images that a CSV file lists: which file, of which class, and if its columns say so of which domain, whose, what for.

Whatever is wrong with the table is a DataError that names its row, as a spreadsheet counts: the header is row 1. Knows
the text; must not know how images are decoded.
"""

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from schemas.base import Name, Shown
from schemas.complaints import cut, nearest
from schemas.errors import DataError
from workers.data import pixels
from workers.data.images import Images, OnUnreadable, Part, Row, gather, readable

COLUMNS = ("path", "label", "domain", "client", "split")
NEEDED = COLUMNS[:2]

DOMAIN = "all"
"""The domain of all images, if no column says which."""

_KINDS: dict[str, tuple[TypeAdapter[Any], str]] = {
    "path": (TypeAdapter(Shown), "a file"),
    "label": (TypeAdapter(Shown), "the name of a class"),
    "domain": (TypeAdapter(Shown), "the name of a domain"),
    "client": (TypeAdapter(Name), "the name of a client: letters, digits, _ . - only, 64 at most"),
    "split": (TypeAdapter(Part), f"one of {', '.join(get_args(Part))}"),
}


def read_table(file: Path, on_unreadable: OnUnreadable = "fail") -> Images:
    """The images of a CSV file, sorted by domain, class and path, whatever the order of its rows.

    The first row names the columns; relative paths count from the file's folder. fail, skip: as in `read_folder`.
    Raises DataError, also for a file that is listed twice.
    """
    rows = sorted(_once(_rows(file)), key=lambda row: row[:3])
    if not rows:
        raise DataError(f"{file} lists no image", hint=f"a row for each, below the header {','.join(NEEDED)}")
    return gather(*readable(rows, file, on_unreadable))


def _rows(file: Path) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(_text(file), newline=""), strict=True)
    try:
        header = _header(next(reader, []), file)
        for cells in reader:
            if cells:  # a blank line is none
                yield _row(header, cells, file, f"{file}: row {reader.line_num}: ")
    except csv.Error as e:
        raise DataError(f"{file}: row {reader.line_num}: this is not CSV: {e}") from None


def _row(header: list[str], cells: list[str], file: Path, at: str) -> Row:
    if len(cells) != len(header):
        raise DataError(f"{at}{len(cells)} cells for {len(header)} columns", hint="a comma within a cell needs quotes")
    said = {column: cell(column, text.strip(), at) for column, text in zip(header, cells, strict=True)}
    path = Path(os.path.normpath(file.parent / said["path"]))
    return Row(said.get("domain", DOMAIN), said["label"], path, said.get("client"), said.get("split"), at)


def cell(column: str, text: str, at: str) -> Any:
    """The value of a cell of one of the COLUMNS, checked. at: how an error names the row. Raises DataError."""
    if not text:
        raise DataError(f"{at}no {column}")
    kind, needed = _KINDS[column]
    try:
        return kind.validate_python(text)
    except ValidationError:
        raise DataError(f"{at}{column} {cut(text)!r} is not {needed}") from None


def _header(cells: list[str], file: Path) -> list[str]:
    found = [cell.strip() for cell in cells]
    for column in found:
        if column not in COLUMNS:
            raise DataError(f"{file}: row 1: unknown column {cut(column)!r}", hint=nearest(column, COLUMNS))
        if found.count(column) > 1:
            raise DataError(f"{file}: row 1: column {column!r} is there twice")
    for column in NEEDED:
        if column not in found:
            raise DataError(f"{file}: row 1: no column {column!r}", hint="the first row names the columns")
    return found


def _once(rows: Iterator[Row]) -> Iterator[Row]:
    """The rows, each with a file of its own: one that is in two parts would be tested on what it was trained with."""
    seen = set()
    for row in rows:
        if row.path in seen:
            raise DataError(f"{row.at}{row.path} is listed twice")
        seen.add(row.path)
        yield row


def _text(file: Path) -> str:
    data = pixels.read(file)
    try:
        text = data.decode("utf-8-sig")  # spreadsheets begin a file with a mark
    except UnicodeDecodeError as e:
        raise DataError(f"{file}: row {_row_at(data, e.start)}: not UTF-8 text") from None
    if b"\0" in data:
        raise DataError(f"{file}: row {_row_at(data, data.index(0))}: a zero byte is no text")
    if text and not text.endswith(("\n", "\r")):
        raise DataError(f"{file}: row {_row_at(data, len(data))} has no end of line", hint="is the file whole?")
    return text


def _row_at(data: bytes, position: int) -> int:
    return data.count(b"\n", 0, position) + 1
