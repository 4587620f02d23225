"""Which image files there are, by domain and class: three arrays and nothing else.

Reads names only; a file is opened in `workers.data.features`. Must not know clients, splits or backbones.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from schemas.errors import DataError

Indices = npt.NDArray[np.int64]
"""Positions in an Images, int64."""

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})


@dataclass(frozen=True)
class Images:
    """N image files. labels: int64 (N,), indices into classes; domains: one name per image."""

    paths: tuple[Path, ...]
    labels: Indices
    domains: tuple[str, ...]
    classes: tuple[str, ...]

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


def read_folder(root: Path) -> Images:
    """The images of `<root>/<domain>/<class>/<file>`, sorted by domain, class and file name (ImageFolder's order).

    Classes are the sorted union over the domains. Hidden files are skipped, as are other files beside the folders.
    Raises DataError for a missing or empty folder, and names a file that is no image or lies at the wrong level. Of
    each file the beginning is read; whether the rest is whole shows when it is decoded.
    """
    found = [(d.name, c.name, f) for d in _folders(root) for c in _folders(d) for f in _files(c)]
    for _, _, path in found:
        _begins_like_an_image(path)
    classes = tuple(sorted({name for _, name, _ in found}))
    index = {name: i for i, name in enumerate(classes)}
    return Images(
        paths=tuple(path for _, _, path in found),
        labels=np.array([index[name] for _, name, _ in found], dtype=np.int64),
        domains=tuple(domain for domain, _, _ in found),
        classes=classes,
    )


def _begins_like_an_image(path: Path) -> None:
    try:
        with Image.open(path):
            pass
    except UnidentifiedImageError:
        raise DataError(f"cannot read {path}: no image that Pillow knows") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as e:
        raise DataError(f"cannot read {path}: {getattr(e, 'strerror', None) or e}") from None


def _folders(parent: Path) -> list[Path]:
    entries = list(_entries(parent))
    for entry in entries:
        if entry.suffix.lower() in SUFFIXES and not entry.is_dir():
            raise DataError(f"{entry} lies outside of a class folder", hint="use <root>/<domain>/<class>/<file>")
    folders = [e for e in entries if e.is_dir()]
    if not folders:
        raise DataError(f"{parent} holds no folder", hint="use <root>/<domain>/<class>/<file>")
    return folders


def _files(folder: Path) -> list[Path]:
    files = list(_entries(folder))
    for file in files:
        if file.is_dir() or file.suffix.lower() not in SUFFIXES:
            what = "a folder" if file.is_dir() else "no image (png, jpg, jpeg, webp, bmp)"
            raise DataError(f"cannot read {file}: {what}")
    if not files:
        raise DataError(f"{folder} holds no image")
    return files


def _entries(folder: Path) -> Iterator[Path]:
    try:
        yield from (folder / name for name in sorted(os.listdir(folder)) if not name.startswith("."))
    except OSError as e:
        raise DataError(f"cannot read folder {folder}: {e.strerror}") from None
