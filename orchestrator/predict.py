"""What `quorate predict` does: the classes that an adapter sees in image files. Knows no runs but their folders."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import torch

from infra import logs, settings
from orchestrator import results
from orchestrator.wording import percent, plain
from schemas.errors import DataError
from workers.adapter import of_group, with_weights
from workers.classifier import Classifier, Unreadable, classifier
from workers.data.images import SUFFIXES

WIDEST = 48
"""Characters of a path up to which the classes behind it stand in one column."""


def show(
    adapter: Path,
    images: Sequence[Path],
    *,
    top: int = 3,
    as_json: bool = False,
    group: str | None = None,
    weights: Path | None = None,
    plugins: Sequence[str] = (),
) -> int:
    """Print the likeliest classes of each image. The exit code: 1 if one cannot be read.

    Raises ConfigError, DataError.
    """
    logs.setup("error")
    paths = [path for image in images for path in found(image)]
    if not paths:
        raise DataError(f"there is no image in {images[0]}", hint="png, jpg, jpeg, webp, bmp")
    read = with_weights(of_group(results.read_result(adapter), group), weights)
    made = classifier(read, settings.read().cache, plugins)
    unreadable = _as_json(made, paths, top) if as_json else _as_text(made, paths, top)
    return 1 if unreadable else 0


def found(path: Path) -> list[Path]:
    """The file itself, or the images in a folder and in those within, sorted. Hidden ones are left out."""
    if not path.is_dir():
        return [path]
    files: list[Path] = []
    for folder, inner, names in os.walk(path):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        images = sorted(n for n in names if not n.startswith(".") and Path(n).suffix.lower() in SUFFIXES)
        files += [Path(folder) / name for name in images]
    return files


def likeliest(made: Classifier, probabilities: torch.Tensor, top: int) -> list[tuple[str, float]]:
    """The classes of the greatest probabilities, the greatest first. probabilities: (K,)."""
    values, places = probabilities.topk(min(top, len(probabilities)))
    return [(made.facts.classes[i], p) for i, p in zip(places.tolist(), values.tolist(), strict=True)]


def _as_text(made: Classifier, paths: Sequence[Path], top: int) -> int:
    width, unreadable = min(WIDEST, max(len(str(p)) for p in paths)), 0
    for path, said in zip(paths, made.classify(paths), strict=True):
        if isinstance(said, Unreadable):
            unreadable += 1
            click.echo(f"quorate: {plain(said.why)}", err=True)
        else:
            shown = "  ".join(f"{name} {percent(p)}" for name, p in likeliest(made, said, top))
            click.echo(f"{_text(path):<{width}}  {shown}")
    return unreadable


def _as_json(made: Classifier, paths: Sequence[Path], top: int) -> int:
    answers = list(zip(paths, made.classify(paths), strict=True))
    unreadable = [{"image": _text(p), "why": said.why} for p, said in answers if isinstance(said, Unreadable)]
    facts = made.facts.model_dump(mode="json", include={"run", "version", "sha256", "classes"})
    document = {**facts, "images": list(_told(made, answers, top)), "unreadable": unreadable}
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return len(unreadable)


def _told(
    made: Classifier, answers: Sequence[tuple[Path, torch.Tensor | Unreadable]], top: int
) -> Iterator[dict[str, Any]]:
    for path, said in answers:
        if not isinstance(said, Unreadable):
            classes = [{"class": name, "probability": p} for name, p in likeliest(made, said, top)]
            yield {"image": _text(path), "top": classes}


def _text(path: Path) -> str:
    """A path as it can be shown: a name may hold bytes that are no text."""
    return plain(os.fsencode(path).decode(errors="backslashreplace"))
