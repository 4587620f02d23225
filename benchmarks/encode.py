"""How much of the time of encoding the backbone is at work: JPEG files through ViT-B/32, nothing cached.

Again: `python -m benchmarks encode` (a few minutes on 2 cores, 1.5 GB of temporary files).
"""

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.machine import Where, here
from benchmarks.markdown import place, table
from schemas.base import Choice, Frozen
from workers.data.features import Backbone, Features
from workers.data.pixels import decode, read
from workers.plugins import load
from workers.tensors import pack

MODEL, IMAGES, SIDE, BUSY = "ViT-B-32", 2000, 500, 0.9
"""open_clip's name; JPEG files and their pixels a side; the goal: the least share of the time."""


class Encode(Frozen):
    """seconds: of all images, from files to kept features; busy_s: of it inside the backbone.

    decode_s: what reading, decoding and resizing them takes one thread that does nothing else. threads: of torch.
    """

    where: Where
    images: int
    threads: int
    device: str
    seconds: float
    busy_s: float
    decode_s: float


class Timed:
    """A backbone that adds up the seconds of its encoding of images."""

    def __init__(self, inner: Backbone) -> None:
        self.inner, self.busy_s = inner, 0.0
        self.fingerprint, self.dim, self.scale = inner.fingerprint, inner.dim, inner.scale  # builds the model

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        return self.inner.preprocess(image)

    def encode_images(self, batch: torch.Tensor) -> torch.Tensor:
        began = time.perf_counter()
        rows = self.inner.encode_images(batch)
        self.busy_s += time.perf_counter() - began
        return rows

    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        return self.inner.encode_texts(texts)


def measure() -> Encode:
    """Make images and weights in a folder of their own, and encode."""
    where = here()
    with tempfile.TemporaryDirectory(prefix="quorate-bench-") as name:
        folder = Path(name)
        chosen = Choice(name="open_clip", params={"weights": str(random_weights(folder / "clip"))})
        return measured(
            where, load("workers.models", chosen), photos(folder / "images", IMAGES, SIDE), folder / "cache"
        )


def measured(where: Where, backbone: Backbone, paths: Sequence[Path], cache: Path) -> Encode:
    """Encode these files with nothing cached; then read and decode them once more in one thread."""
    from workers import device  # noqa: PLC0415

    timed = Timed(backbone)
    timed.inner.encode_images(torch.stack([timed.preprocess(decode(paths[0], read(paths[0])))]))  # the first is slow
    began = time.perf_counter()
    found = Features(timed, cache).images(paths)
    seconds = time.perf_counter() - began
    if found.encodes != len(paths):
        raise RuntimeError(f"{found.encodes} of {len(paths)} images were encoded")
    began = time.perf_counter()
    for path in paths:
        timed.preprocess(decode(path, read(path)))
    return Encode(
        where=where, images=len(paths), threads=torch.get_num_threads(), device=device.best().type,
        seconds=seconds, busy_s=timed.busy_s, decode_s=time.perf_counter() - began,
    )  # fmt: skip


def photos(folder: Path, count: int, side: int) -> list[Path]:
    """JPEG files of blurred noise, each another one, about as large as photographs are."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(draw.integers(0, 256, (side // 8 + 1, side // 8 + 1, 3), dtype=np.uint8))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{i:05}.jpg", quality=90)
    return sorted(folder.iterdir())


def random_weights(folder: Path, name: str = MODEL) -> Path:
    """A folder of the architecture as open_clip makes it, without a download."""
    from workers.models._clip import library  # noqa: PLC0415

    torch.manual_seed(0)
    tensors = library().create_model(name).state_dict()
    folder.mkdir()
    (folder / "open_clip_model.safetensors").write_bytes(pack({k: t.clone() for k, t in tensors.items()}))
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": library().get_model_config(name)}))
    return folder


def section(found: Encode) -> str:
    """Its part of docs/benchmarks.md."""
    share = found.busy_s / found.seconds
    rows = [
        ["from files to kept features", f"{found.seconds:.1f}", f"{found.images / found.seconds:.1f}"],
        ["of it inside the backbone", f"{found.busy_s:.1f}", f"{found.images / found.busy_s:.1f}"],
        ["decoding and resizing alone, one thread", f"{found.decode_s:.1f}", f"{found.images / found.decode_s:.1f}"],
    ]
    return f"""## Encoding: decoding beside the backbone

{found.images:,} JPEG files of {SIDE} x {SIDE} pixels through {MODEL} with random weights, on {found.device},
torch threads: {found.threads}, nothing cached. Goal: the backbone at work at least {100 * BUSY:.0f} % of the time.
**{100 * share:.1f} %, {"reached" if share >= BUSY else "missed"}.** Again: `python -m benchmarks encode`.

{table(["", "seconds", "images per second"], rows)}
{place(found.where)}
"""
