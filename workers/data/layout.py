"""Folders of a published data set, as its archive unpacks: which lies where, and what should be in it.

Knows names and numbers only; the files are listed in `workers.data.images`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import PositiveInt

from schemas.base import Frozen, Name
from schemas.complaints import cut
from schemas.errors import DataError
from workers.data.images import Images, OnUnreadable, Row, domain_folders, gather, is_folder, list_folders, readable

Places = Mapping[str, Sequence[str]]
"""Where under the root each domain may lie; the first that is there counts."""


class Expected(Frozen):
    """A whole data set. classes: how many, in each domain. images: how many, of the domains that are named."""

    classes: PositiveInt
    images: dict[Name, PositiveInt] = {}


def read_layout(
    root: Path,
    places: Places | None,
    classes: Mapping[str, str],
    expected: Expected | None,
    on_unreadable: OnUnreadable = "fail",
) -> Images:
    """The images of `<root>/<place>/<class>/<file>`, in the order of `read_folder`.

    places: null takes every folder as a domain. classes: the names of classes whose folders are called otherwise.
    Raises DataError, in one line, for domains that are missing and what is not as expected, before a file is read.
    """
    rows = list_folders(domain_folders(root) if places is None else _found(root, places, expected))
    named = sorted((row._replace(name=classes.get(row.name, row.name)) for row in rows), key=lambda row: row[:3])
    if expected is not None:
        _refuse_other(root, named, expected)
    return gather(*readable(named, root, on_unreadable))


def _found(root: Path, places: Places, expected: Expected | None) -> dict[str, Path]:
    there = {d: [root / place for place in tried if is_folder(root / place)] for d, tried in places.items()}
    missing = [domain for domain, folders in there.items() if not folders]
    if missing:
        tried = "; ".join(f"{d}: {' or '.join(map(repr, places[d]))}{_sized(d, expected)}" for d in missing)
        whole = f"; {expected.classes} classes in each" if expected else ""
        raise DataError(f"{root} has no folder of {', '.join(missing)}", hint=f"looked for {tried}{whole}")
    return {domain: folders[0] for domain, folders in there.items()}


def _sized(domain: str, expected: Expected | None) -> str:
    count = expected.images.get(domain) if expected else None
    return f" with {count} images" if count else ""


def _refuse_other(root: Path, rows: Sequence[Row], expected: Expected) -> None:
    images = Counter(row.domain for row in rows)
    wrong = [f"{d} has {images[d]} images, not {n}" for d, n in expected.images.items() if images[d] != n]
    pairs = sorted({(row.domain, row.name) for row in rows})
    named = {domain: tuple(name for d, name in pairs if d == domain) for domain in images}
    for names in dict.fromkeys([*named.values(), tuple(sorted({name for _, name in pairs}))]):
        if len(names) != expected.classes:
            who = ", ".join(d for d, found in named.items() if found == names) or "all domains together"
            wrong.append(f"{len(names)} classes, not {expected.classes}, in {who}: {cut(', '.join(names))}")
    if wrong:
        raise DataError(f"{root}: {'; '.join(wrong)}", hint="--set data.params.expect=null takes what is there")
