"""`quorate cache`: what is kept under QUORATE_CACHE, and what of it may go. Never imports torch.

Everything there can be made again, so it decides by age and size alone. A file of features is emptied and not removed:
a worker may have it open, and only SQLite knows when it is nobody's turn.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
from rich import box
from rich.table import Table

from infra import settings
from orchestrator import retold, tables, wording
from schemas.base import Frozen
from schemas.errors import ConfigError, StoreError
from workers.data.claims import CLAIMS
from workers.data.shelf import Shelf


class Kept(Frozen):
    """Features of one backbone. images, texts: how many; None if damaged. used: Unix time, by a run."""

    fingerprint: str
    images: int | None
    texts: int | None
    size_bytes: int
    used: float


class Drawn(Frozen):
    """One drawn data set, by the name of its folder."""

    name: str
    size_bytes: int


class Cache(Frozen):
    """All of it. features: the most recently used first."""

    folder: Path
    size_bytes: int
    features: tuple[Kept, ...]
    drawn: tuple[Drawn, ...]


def main(*, prune: bool, unused_days: float | None, keep_gb: float | None, as_json: bool) -> None:
    """Print what is kept, after pruning it if so asked. Raises ConfigError if nobody says what may go, StoreError."""
    folder, named = settings.read().cache, unused_days is not None or keep_gb is not None
    if prune != named:
        raise ConfigError("--prune goes with --unused-days, --keep-gb or both")
    before = look(folder)
    if prune:
        oldest = None if unused_days is None else time.time() - 86_400 * unused_days
        for kept in chosen(before.features, oldest, None if keep_gb is None else keep_gb * 1e9):
            for path in _files(_file(folder, kept.fingerprint)):
                Shelf(path).clear()
    after = look(folder)
    if prune:
        click.echo(f"freed {wording.size(max(0, before.size_bytes - after.size_bytes))}", err=True)
    _print(after, as_json)


def chosen(features: tuple[Kept, ...], oldest: float | None, most: float | None) -> Iterator[Kept]:
    """Of features, the most recently used first: those not used since `oldest`, and those beyond `most` bytes."""
    total = 0.0
    for kept in features:
        total += kept.size_bytes
        if (oldest is not None and kept.used < oldest) or (most is not None and total > most):
            total -= kept.size_bytes
            yield kept


def look(folder: Path) -> Cache:
    """What is in a cache. Changes nothing."""
    found = [_kept(path) for path in (folder / "features").glob("*.sqlite")]
    features = sorted((k for k in found if k.images != 0 or k.texts != 0), key=lambda k: k.used, reverse=True)
    sets = [p for p in folder.glob("*/*") if p.is_dir() and not p.name.startswith(".")]
    drawn = tuple(Drawn(name=f"{p.parent.name}/{p.name}", size_bytes=_size(p)) for p in sorted(sets))
    size = sum(k.size_bytes for k in features) + sum(d.size_bytes for d in drawn)
    return Cache(folder=folder, size_bytes=size, features=tuple(features), drawn=drawn)


def _kept(path: Path) -> Kept:
    about = path.stat()
    try:
        kinds: dict[str, int] | None = Shelf(path).kinds()
    except StoreError:
        kinds = None
    return Kept(
        fingerprint=path.stem,
        images=None if kinds is None else kinds.get("image", 0),
        texts=None if kinds is None else kinds.get("text", 0),
        size_bytes=sum(p.stat().st_size for p in _files(path)),
        used=about.st_mtime,
    )


def _file(folder: Path, fingerprint: str) -> Path:
    return folder / "features" / f"{fingerprint}.sqlite"


def _files(path: Path) -> list[Path]:
    """The file of a backbone's features, and that of what processes are encoding just now, if any ever has."""
    claims = path.with_suffix(CLAIMS)
    return [path, claims] if claims.exists() else [path]


def _size(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def _print(cache: Cache, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(cache.model_dump(mode="json"), indent=2) + "\n")
        return
    console = tables.stdout()
    if cache.features or cache.drawn:
        console.print(_table(cache))
    console.print(f"{cache.folder}: {wording.size(cache.size_bytes)}", highlight=False, soft_wrap=True)


def _table(cache: Cache) -> Table:
    table = Table("kept", show_edge=False, pad_edge=False, box=box.SIMPLE_HEAD)
    for name in ("images", "texts", "size", "used"):
        table.add_column(name, justify="right", no_wrap=True)
    for k in cache.features:
        counts = ("damaged", "") if k.images is None else (f"{k.images:,}", f"{k.texts:,}")
        table.add_row(f"features {k.fingerprint[:12]}", *counts, wording.size(k.size_bytes), retold.ago(k.used))
    for d in cache.drawn:
        table.add_row(f"drawn {d.name}", "", "", wording.size(d.size_bytes), "")
    return table
