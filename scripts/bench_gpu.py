"""What a GPU makes of the work: `python -m scripts.bench_gpu [--out FILE]` prints a table and keeps it as JSON.

Its ceiling (matrix products, per precision), images per second through ViT-B/32 and ViT-L/14 against that ceiling,
clients per second trained together, and memory. Random weights and pixels: time does not know them. Nothing is written
but the result. `--device cpu --small` is for looking at the script, not at a processor.
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import click
import torch

from benchmarks.encode import random_weights
from benchmarks.machine import Where, here
from schemas.base import Choice, Frozen
from workers import device as devices
from workers.adapters.gate import AttentionGate
from workers.many import fit_many
from workers.method import Examples
from workers.models._clip import DTYPES
from workers.plugins import load
from workers.tensors import generator
from workers.training import Recipe

GIGAFLOPS = {"ViT-B-32": 8.82, "ViT-L-14": 162.03}
"""Of one image through the image tower, from open_clip's own profile; 1 multiply-add = 2."""
PRECISIONS = ("fp32", "bf16", "fp16")
REPETITIONS, DIM, IMAGES_OF_A_CLIENT, CLASSES = 5, 512, 32, 10


class Rate(Frozen):
    """One figure. share: of the ceiling of its precision. megabytes: most memory on the card."""

    what: str
    precision: str
    per_s: float
    unit: str
    share: float | None = None
    megabytes: float | None = None


class Card(Frozen):
    """All figures of one card."""

    where: Where
    device: str
    small: bool
    rates: tuple[Rate, ...]


def measure(device: torch.device, *, small: bool) -> Card:
    """All of it; seconds on a card, and as small as it can be on request."""
    ceilings = {
        p: ceiling(device, p, 256 if small else 8192) for p in PRECISIONS if device.type == "cuda" or p == "fp32"
    }
    rates = [Rate(what="matrix product", precision=p, per_s=c, unit="TFLOP/s") for p, c in ceilings.items()]
    with tempfile.TemporaryDirectory(prefix="quorate-bench-") as folder:
        for name in ("tiny",) if small else GIGAFLOPS:
            rates += [
                encoding(device, name, p, c, Path(folder)) for p, c in ceilings.items() if name != "tiny" or p == "fp32"
            ]
    rates += [training(device, clients) for clients in ((8,) if small else (64, 512, 4096))]
    return Card(where=here(), device=named(device), small=small, rates=tuple(rates))


def ceiling(device: torch.device, precision: str, side: int) -> float:
    """TFLOP/s of a square product of this side; TF32 off, as when features are encoded."""
    torch.set_float32_matmul_precision("highest")
    a, b = (torch.randn(side, side, device=device).to(DTYPES[precision]) for _ in range(2))  # type: ignore[index]
    return 2 * side**3 / seconds(device, lambda: a @ b) / 1e12


def encoding(device: torch.device, name: str, precision: str, most: float, folder: Path) -> Rate:
    """Images per second through the image tower, as workers encode: preprocessed pixels in, features out on the CPU."""
    count = 8 if name == "tiny" else 1024
    clip = load("workers.models", Choice(name="tiny") if name == "tiny" else _choice(name, precision, folder))
    size = int(clip.checkpoint.preprocess["size"])
    pixels = torch.randn(count, 3, size, size)
    _forget(device)
    per_s = count / seconds(device, lambda: clip.encode_images(pixels))
    share = per_s * GIGAFLOPS[name] / 1000 / most if name in GIGAFLOPS else None
    return Rate(what=name, precision=precision, per_s=per_s, unit="images/s", share=share, megabytes=_memory(device))


def training(device: torch.device, clients: int) -> Rate:
    """Clients per second whose gates are trained together, one epoch of 32 images each."""
    texts = torch.nn.functional.normalize(torch.randn(CLASSES, DIM, generator=generator(0)), dim=1)
    gate = AttentionGate(texts, 100.0, generator(0)).to(device)
    x, y = torch.randn(IMAGES_OF_A_CLIENT, DIM), torch.arange(IMAGES_OF_A_CLIENT) % CLASSES
    parts = [Examples(x.to(device), y.to(device)) for _ in range(clients)]
    _forget(device)
    draw = [generator(i) for i in range(clients)]
    per_s = clients / seconds(device, lambda: fit_many(gate, parts, Recipe(batch=8), draw))
    return Rate(
        what=f"{clients} clients together", precision="fp32", per_s=per_s, unit="clients/s", megabytes=_memory(device)
    )


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


def named(device: torch.device) -> str:
    """What the card is called."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def table(found: Card) -> str:
    """The figures in lines."""
    lines = [
        f"{found.device}, commit {found.where.commit}" + (", as small as can be: no figure" if found.small else "")
    ]
    for r in found.rates:
        more = "" if r.share is None else f"  {100 * r.share:5.1f} % of the ceiling"
        more += "" if r.megabytes is None else f"  {r.megabytes:,.0f} MB"
        lines.append(f"{r.what:<24} {r.precision:<5} {r.per_s:>12,.1f} {r.unit}{more}")
    return "\n".join(lines)


def _choice(name: str, precision: str, folder: Path) -> Choice:
    weights = folder / name
    if not weights.exists():
        random_weights(weights, name)
    return Choice(name="open_clip", params={"weights": str(weights), "precision": precision})


def _forget(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _memory(device: torch.device) -> float | None:
    return torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else None


@click.command(help=__doc__)
@click.option("--device", "name", default="cuda", show_default=True, help="cuda, or cpu with --small.")
@click.option("--small", is_flag=True, help="As small as it can be: shows that the script runs.")
@click.option("--out", type=click.Path(path_type=Path), help="Keep the figures in this JSON file.")
def main(name: str, small: bool, out: Path | None) -> None:
    if name == "cuda" and not torch.cuda.is_available():
        raise click.ClickException("there is no GPU that torch can use here")
    if name not in ("cuda", "cpu") or (name == "cpu" and not small):
        raise click.UsageError("--device cuda, or --device cpu --small")
    device = devices.best() if name == "cuda" else torch.device("cpu")
    found = measure(device, small=small)
    click.echo(table(found))
    if out is not None:
        out.write_text(json.dumps(found.model_dump(mode="json"), indent=1) + "\n")


if __name__ == "__main__":
    main()
