"""What a GPU makes of the work: `python -m scripts.bench_gpu` (minutes on a card; random weights and pixels).

Its ceiling (matrix products, per precision), images per second through ViT-B/32 and ViT-L/14 against that ceiling, from
files to kept features, FedCLIP's training with both towers in every step against ours on kept features, clients per
second trained together, and memory.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import torch

from benchmarks import encode, epoch
from benchmarks.encode import photos, random_weights
from benchmarks.machine import Where, here
from benchmarks.markdown import place, table
from schemas.base import Choice, Frozen
from workers import device as devices
from workers.adapters.gate import AttentionGate
from workers.many import fit_many
from workers.method import Examples
from workers.models._clip import DTYPES, Clip
from workers.plugins import load
from workers.tensors import generator
from workers.training import Recipe

GIGAFLOPS = {"ViT-B-32": 8.82, "ViT-L-14": 162.03}
"""Of one image through the image tower, from open_clip's own profile; 1 multiply-add = 2."""
FILES, SIDE, STEPS = 1000, 500, 8
"""JPEG files and their pixels a side; steps of 32 images of the other way in a repetition."""
REPETITIONS, DIM, IMAGES_OF_A_CLIENT, CLASSES = 5, 512, 32, 10


class Rate(Frozen):
    """One figure, in its unit. share: of the ceiling of its precision. megabytes: most memory on the card."""

    what: str
    precision: str
    figure: float
    unit: str
    share: float | None = None
    megabytes: float | None = None


class Card(Frozen):
    """All figures of one card."""

    where: Where
    device: str
    small: bool
    rates: tuple[Rate, ...]


def measure(device: torch.device, *, small: bool) -> Iterator[Rate]:
    """One figure after the other; minutes on a card, and as small as it can be on request."""
    precisions = [str(p) for p in DTYPES] if device.type == "cuda" else ["fp32"]
    ceilings = {p: ceiling(device, p, 256 if small else 8192) for p in precisions}
    for p, found in ceilings.items():
        yield Rate(what="matrix product", precision=p, figure=found, unit="TFLOP/s")
    for clients in (8,) if small else (64, 512, 4096):
        yield training(device, clients)
    if small:
        yield encoding(device, load("workers.models", Choice(name="tiny")), "tiny", "fp32", ceilings["fp32"])
        return
    yield training(torch.device("cpu"), 64)
    with tempfile.TemporaryDirectory(prefix="quorate-bench-") as folder:
        for part in (_against_both_towers, _encodings, _from_files):
            yield from part(Path(folder), ceilings)


def ceiling(device: torch.device, precision: str, side: int) -> float:
    """TFLOP/s of a square product of this side; TF32 off, as when features are encoded."""
    torch.set_float32_matmul_precision("highest")
    a, b = (torch.randn(side, side, device=device).to(DTYPES[precision]) for _ in range(2))  # type: ignore[index]
    return 2 * side**3 / seconds(device, lambda: a @ b) / 1e12


def encoding(device: torch.device, clip: Clip, name: str, precision: str, most: float) -> Rate:
    """Images per second through the image tower, as workers encode: preprocessed pixels in, features out on the CPU."""
    count = 8 if name == "tiny" else 512
    size = int(clip.checkpoint.preprocess["size"])
    pixels = torch.randn(count, 3, size, size)
    _forget(device)
    per_s = count / seconds(device, lambda: clip.encode_images(pixels))
    share = per_s * GIGAFLOPS[name] / 1000 / most if name in GIGAFLOPS else None
    return Rate(what=name, precision=precision, figure=per_s, unit="images/s", share=share, megabytes=_memory(device))


def training(device: torch.device, clients: int) -> Rate:
    """Clients per second whose gates are trained together on a device, one epoch of 32 images each."""
    texts = torch.nn.functional.normalize(torch.randn(CLASSES, DIM, generator=generator(0)), dim=1)
    gate = AttentionGate(texts, 100.0, generator(0)).to(device)
    x, y = torch.randn(IMAGES_OF_A_CLIENT, DIM), torch.arange(IMAGES_OF_A_CLIENT) % CLASSES
    _forget(device)

    parts, draw = [Examples(x, y)] * clients, [generator(i) for i in range(clients)]
    per_s = clients / seconds(device, lambda: fit_many(gate, parts, Recipe(batch=8), draw))
    what = f"{clients} clients together, {device.type}"
    return Rate(what=what, precision="fp32", figure=per_s, unit="clients/s", megabytes=_memory(device))


def seconds(device: torch.device, work: Callable[[], object]) -> float:
    """Median of a few, after one that warms up."""
    found = []
    for _ in range(REPETITIONS + 1):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - began)
    return median(found[1:])


def _encodings(folder: Path, ceilings: dict[str, float]) -> Iterator[Rate]:
    for name in GIGAFLOPS:
        for precision, most in ceilings.items():
            yield encoding(devices.best(), _clip(name, precision, folder), name, precision, most)


def _from_files(folder: Path, ceilings: dict[str, float]) -> Iterator[Rate]:
    """What the whole path makes of it: reading, decoding, encoding, keeping."""
    paths = photos(folder / "files", FILES, SIDE)
    for precision in ceilings:
        found = encode.measured(here(), _clip("ViT-B-32", precision, folder), paths, folder / f"features-{precision}")
        per_s, busy = found.images / found.seconds, found.busy_s / found.seconds
        yield Rate(what=f"JPEG of {SIDE} pixels to feature", precision=precision, figure=per_s, unit="images/s")
        yield Rate(what="of it the backbone at work", precision=precision, figure=100 * busy, unit="% of the time")


def _against_both_towers(folder: Path, ceilings: dict[str, float]) -> Iterator[Rate]:
    paths = photos(folder / "photos", epoch.IMAGES, epoch.SIDE)
    for precision in ceilings:
        clip = _clip("ViT-B-32", precision, folder)
        found = epoch.measured(here(), clip, paths, folder / f"kept-{precision}", steps=STEPS)
        step, mine = median(t.other for t in found.turns), median(t.epoch for t in found.turns)
        (theirs, ours), steps = found.totals(), epoch.IMAGES / epoch.BATCH
        yield Rate(what="a step with both towers", precision=precision, figure=1000 * step, unit="ms")
        yield Rate(what="a step on features, cpu", precision=precision, figure=1000 * mine / steps, unit="ms")
        yield Rate(what="an epoch", precision=precision, figure=found.faster, unit="times faster")
        yield Rate(what="200 rounds of PACS", precision=precision, figure=theirs / ours, unit="times faster")


def named(device: torch.device) -> str:
    """What the card is called."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def line(rate: Rate) -> str:
    """One figure for a terminal."""
    what, precision, figure, unit, share, memory = _row(rate)
    return (
        f"{what:<32} {precision:<5} {figure:>12} {unit:<14} {share and share + ' of the ceiling':<23} {memory}".rstrip()
    )


def section(found: Card) -> str:
    """Its part of docs/benchmarks.md."""
    heads = ["what", "precision", "figure", "unit", "of the ceiling", "most on the card"]
    return f"""## On a GPU

One {found.device}; random weights and pixels, TF32 off. *Matrix product* is the card's ceiling here. *ViT*: pixels in
the memory of the machine to features there. *JPEG to feature*: {FILES:,} files, decoded by the machine's
{found.where.cores} cores beside the card. *A step*: 32 images of FedCLIP's training, with both towers on the card in
that precision (pixels there already), against ours on kept features, which workers do on one thread of the processor;
*an epoch* and *200 rounds* as under "What it saves to encode once". *Clients together*: gates, {IMAGES_OF_A_CLIENT}
images each, an epoch in batches of 8.

{table(heads, [_row(rate) for rate in found.rates])}
Again: `python -m scripts.bench_gpu`.

{place(found.where)}
"""


def _row(rate: Rate) -> list[str]:
    share = "" if rate.share is None else f"{100 * rate.share:.1f} %"
    memory = "" if rate.megabytes is None else f"{rate.megabytes:,.0f} MB"
    return [rate.what, rate.precision, f"{rate.figure:,.1f}", rate.unit, share, memory]


def _clip(name: str, precision: str, folder: Path) -> Clip:
    weights = folder / name
    if not weights.exists():
        random_weights(weights, name)
    made: Clip = load(
        "workers.models", Choice(name="open_clip", params={"weights": str(weights), "precision": precision})
    )
    return made


def _forget(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _memory(device: torch.device) -> float | None:
    return torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else None
