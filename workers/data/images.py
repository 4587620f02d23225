"""Which image files there are, by domain and class: three arrays, and what was left out.

Reads names; a file is opened in `workers.data.pixels`. Must not know clients, splits or backbones.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})

_SHOWN: TypeAdapter[str] = TypeAdapter(Shown)


@dataclass(frozen=True)
class Images:
    """N image files. labels: int64 (N,), indices into classes; domains: one name per image.

    skipped: files that were left out because they cannot be read. Their names stay where they are.
    """

    paths: tuple[Path, ...]
    labels: Indices
    domains: tuple[str, ...]
    classes: tuple[str, ...]
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
        )


def read_folder(root: Path, on_unreadable: OnUnreadable = "fail") -> Images:
    """The images of `<root>/<domain>/<class>/<file>`, sorted by domain, class and file name (ImageFolder's order).

    Classes are the sorted union over the domains. Hidden files are skipped, as are other files beside the folders.
    fail: the beginning of each file is read; whether the rest is whole shows when it is used. skip: each file is
    decoded, and left out if that fails. Raises DataError for a missing or empty folder, and names what lies at the
    wrong level or, unless it is skipped, is no image.
    """
    listed = [(d.name, c.name, f) for d in _folders(root) for c in _folders(d) for f in _files(c)]
    found = [(d, c, f) for d, c, f in listed if _is_image(f, on_unreadable)]
    kept = {path for _, _, path in found}
    if not found:
        raise DataError(f"{root}: none of {len(listed)} files can be read as an image")
    classes = tuple(sorted({name for _, name, _ in found}))
    if clash := alike(classes):
        raise DataError("classes {!r} and {!r} differ in case or spaces only".format(*clash),
                        hint="CLIP reads lower case and cannot tell them apart; rename a folder")  # fmt: skip
    index = {name: i for i, name in enumerate(classes)}
    return Images(
        paths=tuple(path for _, _, path in found),
        labels=np.array([index[name] for _, name, _ in found], dtype=np.int64),
        domains=tuple(domain for domain, _, _ in found),
        classes=classes,
        skipped=tuple(path for _, _, path in listed if path not in kept),
    )


def _is_image(path: Path, on_unreadable: OnUnreadable) -> bool:
    try:
        if path.suffix.lower() not in SUFFIXES:
            raise DataError(f"cannot read {path}: no image (png, jpg, jpeg, webp, bmp)")
        if on_unreadable == "fail":
            pixels.peek(path)
        else:
            pixels.decode(path, pixels.read(path))
    except DataError:
        if on_unreadable == "fail":
            raise
        return False
    return True


def _folders(parent: Path) -> list[Path]:
    entries = list(_entries(parent))
    for entry in entries:
        if entry.suffix.lower() in SUFFIXES and not entry.is_dir():
            raise DataError(f"{entry} lies outside of a class folder", hint="use <root>/<domain>/<class>/<file>")
    folders = [e for e in entries if e.is_dir()]
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
        if file.is_dir() and file.suffix.lower() not in SUFFIXES:
            raise DataError(f"cannot read {file}: a folder", hint="use <root>/<domain>/<class>/<file>")
    if not files:
        raise DataError(f"{folder} holds no image")
    return files


def _entries(folder: Path) -> Iterator[Path]:
    try:
        yield from (folder / name for name in sorted(os.listdir(folder)) if not name.startswith("."))
    except OSError as e:
        raise DataError(f"cannot read folder {folder}: {e.strerror}") from None
