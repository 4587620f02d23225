"""Which image files there are, by domain and class: three arrays, and what was left out.

Reads names; a file is opened in `workers.data.pixels`. Of clients and splits it knows what a data set says itself; must
not know partitions or backbones.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from schemas.base import Shown, alike
from schemas.errors import DataError
from workers.data import pixels

Indices = npt.NDArray[np.int64]
"""Positions in an Images, int64."""

OnUnreadable = Literal["fail", "skip"]
"""What a file among the images that is none means: nothing is done with any of them, or it is left out and counted."""

Part = Literal["train", "val", "test"]
"""What an image is for."""

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})

_SHOWN: TypeAdapter[str] = TypeAdapter(Shown)


@dataclass(frozen=True)
class Images:
    """N image files. labels: int64 (N,), indices into classes; domains: one name per image.

    clients, parts: whose each image is and what it is for, if the data set says so itself; else empty.
    skipped: files that were left out because they cannot be read. Their names stay where they are.
    """

    paths: tuple[Path, ...]
    labels: Indices
    domains: tuple[str, ...]
    classes: tuple[str, ...]
    clients: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()
    skipped: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: Indices) -> "Images":
        """These images only, in this order; the classes stay."""
        chosen = [int(i) for i in indices]
        return Images(
            paths=tuple(self.paths[i] for i in chosen),
            labels=self.labels[indices],
            domains=tuple(self.domains[i] for i in chosen),
            classes=self.classes,
            clients=tuple(self.clients[i] for i in chosen) if self.clients else (),
            parts=tuple(self.parts[i] for i in chosen) if self.parts else (),
        )


class Row(NamedTuple):
    """One image as a data set lists it. client, part: of all rows of a data set, or of none. at: where it is listed."""

    domain: str
    name: str
    path: Path
    client: str | None = None
    part: Part | None = None
    at: str = ""


def gather(rows: Sequence[Row], skipped: Sequence[Path] = ()) -> Images:
    """The arrays of at least one row, in its order; classes are the sorted names.

    Raises DataError for classes that CLIP cannot tell apart.
    """
    classes = tuple(sorted({row.name for row in rows}))
    if clash := alike(classes):
        raise DataError("classes {!r} and {!r} differ in case or spaces only".format(*clash),
                        hint="CLIP reads lower case and cannot tell them apart; rename one")  # fmt: skip
    index = {name: i for i, name in enumerate(classes)}
    return Images(
        paths=tuple(row.path for row in rows),
        labels=np.array([index[row.name] for row in rows], dtype=np.int64),
        domains=tuple(row.domain for row in rows),
        classes=classes,
        clients=tuple(row.client for row in rows if row.client is not None),
        parts=tuple(row.part for row in rows if row.part is not None),
        skipped=tuple(skipped),
    )


def read_folder(root: Path, on_unreadable: OnUnreadable = "fail") -> Images:
    """The images of `<root>/<domain>/<class>/<file>`, sorted by domain, class and file name (ImageFolder's order).

    Classes are the sorted union over the domains. Hidden files are skipped, as are other files beside the folders.
    fail: the beginning of each file is read; whether the rest is whole shows when it is used. skip: each file is
    decoded, and left out if that fails. Raises DataError for a missing or empty folder, and names what lies at the
    wrong level or, unless it is skipped, is no image.
    """
    return gather(*readable(list_folders(domain_folders(root)), root, on_unreadable))


def domain_folders(root: Path) -> dict[str, Path]:
    """The folders under a root, by name, sorted. Raises DataError."""
    return {folder.name: folder for folder in _folders(root)}


def is_folder(path: Path) -> bool:
    """Whether it is one. Raises DataError where one may not look: a domain behind that must not be left out unsaid."""
    try:
        return path.is_dir()
    except OSError as e:
        raise DataError(f"cannot read {path}: {e.strerror}") from None


def list_folders(domains: Mapping[str, Path]) -> list[Row]:
    """Every file in every class folder of these domains. Raises DataError for what lies at the wrong level."""
    return [Row(d, c.name, f) for d, folder in domains.items() for c in _folders(folder) for f in _files(c)]


def readable(rows: Sequence[Row], where: Path, on_unreadable: OnUnreadable) -> tuple[list[Row], list[Path]]:
    """The rows whose file is an image, and the files that were left out. where: what lists them.

    Raises DataError if there is no image at all, or a file is none and none may be skipped.
    """
    found, skipped = [], []
    for row in rows:
        try:
            _look(row.path, on_unreadable)
            found.append(row)
        except DataError as e:
            if on_unreadable == "fail":
                raise DataError(f"{row.at}{e.message}", hint=e.hint) from None
            skipped.append(row.path)
    if not found:
        raise DataError(f"{where}: none of {len(rows)} files can be read as an image")
    return found, skipped


def _look(path: Path, on_unreadable: OnUnreadable) -> None:
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"cannot read {path}: no image (png, jpg, jpeg, webp, bmp)")
    if on_unreadable == "fail":
        pixels.peek(path)
    else:
        pixels.decode(path, pixels.read(path))


def _folders(parent: Path) -> list[Path]:
    entries = list(_entries(parent))
    for entry in entries:
        if entry.suffix.lower() in SUFFIXES and not is_folder(entry):
            raise DataError(f"{entry} lies outside of a class folder", hint="use <root>/<domain>/<class>/<file>")
    folders = [e for e in entries if is_folder(e)]
    if not folders:
        raise DataError(f"{parent} holds no folder", hint="use <root>/<domain>/<class>/<file>")
    for folder in folders:
        _refuse_unspeakable(folder)
    return folders


def _refuse_unspeakable(folder: Path) -> None:
    try:
        _SHOWN.validate_python(folder.name)
    except ValidationError:
        raise DataError(f"{folder.parent}: a folder's name {folder.name!r} is no text", hint="rename it") from None


def _files(folder: Path) -> list[Path]:
    files = list(_entries(folder))
    for file in files:
        if file.suffix.lower() not in SUFFIXES and is_folder(file):
            raise DataError(f"cannot read {file}: a folder", hint="use <root>/<domain>/<class>/<file>")
    if not files:
        raise DataError(f"{folder} holds no image")
    return files


def _entries(folder: Path) -> Iterator[Path]:
    try:
        yield from (folder / name for name in sorted(os.listdir(folder)) if not name.startswith("."))
    except OSError as e:
        raise DataError(f"cannot read folder {folder}: {e.strerror}") from None
    except ValueError as e:  # a null byte in its name
        raise DataError(f"cannot read folder {str(folder)!r}: {e}") from None
