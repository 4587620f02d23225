"""What it saves to encode once: FedCLIP's epoch with both encoders in every step, against ours on kept features.

Again: `python -m benchmarks epoch` (some minutes on 2 cores). ViT-B/32 with random weights: time does not know them.
The other way's step is written here from its description (github microsoft/PersonalizedFL, folder fedclip): both towers
forward on the batch, the gate, the contrastive loss over image-prompt pairs, a step of Adam.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch
from torch import nn
from torch.nn import functional

from benchmarks.encode import photos, random_weights
from benchmarks.machine import Where, here
from benchmarks.markdown import place, table
from schemas.base import Choice, Frozen
from workers.adapters.gate import AttentionGate
from workers.data.features import Features
from workers.data.pixels import decode, read
from workers.method import Examples
from workers.models._clip import DTYPES, Clip
from workers.plugins import load
from workers.tensors import generator
from workers.training import Recipe, fit, one_thread

BATCH, IMAGES, SIDE, REPETITIONS, STEPS = 32, 256, 227, 5, 2
EPOCHS = 10
"""Of ours, one after the other as the rounds of a run are: the first alone finds cold caches and untouched memory."""
CLASSES = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
PAPER = Recipe(optimiser="adam", lr=5e-5, weight_decay=0.2, loss="contrastive", smallest=2)
FASTER, TOTAL = 200, 250
"""The goals: for an epoch, and for all rounds."""
ROUNDS, TRAIN = 200, 1228 + 1406 + 1002
"""PACS with sketch held out: the training images of three owners, by the code's split."""


class Turn(Frozen):
    """Seconds. other: a step of 32 with both towers, on one thread or all, whichever is faster.

    epoch: ours, over all images, mean of EPOCHS. encode: of one image, once.
    reading: the features of all from disk, hashes of the files included.
    """

    other: float
    epoch: float
    reading: float
    encode: float


class Epoch(Frozen):
    """All repetitions."""

    where: Where
    turns: tuple[Turn, ...]

    @property
    def faster(self) -> float:
        """An epoch the other way, over ours with the reading of its features; decoding is left out of both."""
        steps = IMAGES / BATCH
        return median(steps * t.other / (t.epoch + t.reading) for t in self.turns)

    def totals(self) -> tuple[float, float]:
        """Seconds of training for all rounds on PACS, without decoding: the other way, and ours, of the median ratio.

        Ours encodes each image once and reads its feature once, as a worker does that lives as long as the run.
        """
        both = [self._total(turn) for turn in self.turns]
        return sorted(both, key=lambda pair: pair[0] / pair[1])[len(both) // 2]

    def _total(self, turn: Turn) -> tuple[float, float]:
        ours = turn.encode + (turn.reading + ROUNDS * turn.epoch) / IMAGES
        return ROUNDS * TRAIN * turn.other / BATCH, TRAIN * ours


def measure() -> Epoch:
    """By turns, in one process."""
    where = here()
    with tempfile.TemporaryDirectory(prefix="quorate-bench-") as name:
        folder = Path(name)
        chosen = Choice(name="open_clip", params={"weights": str(random_weights(folder / "clip"))})
        clip: Clip = load("workers.models", chosen)
        return measured(where, clip, photos(folder / "images", IMAGES, SIDE), folder / "cache")


def measured(where: Where, clip: Clip, paths: Sequence[Path], cache: Path, steps: int = STEPS) -> Epoch:
    """The images encoded once, then repetitions of both ways: theirs where the towers are, ours on the processor."""
    pixels = [clip.preprocess(decode(path, read(path))) for path in paths]
    features = Features(clip, cache)
    features.images(paths)
    texts = features.texts(CLASSES, ("a picture of a {}",))
    labels = torch.arange(len(paths)) % len(CLASSES)
    other = _Other(clip, AttentionGate(texts, 100.0, generator(0)), torch.stack(pixels), labels)
    ours = AttentionGate(texts, 100.0, generator(0))
    turns = tuple(_turn(other, ours, features, paths, steps) for _ in range(REPETITIONS))
    return Epoch(where=where, turns=turns)


class _Other:
    """Training with both towers in every step, on the backbone's device and in its precision, the gate in float32.

    The pixels lie there from the start.
    """

    def __init__(self, clip: Clip, gate: nn.Module, pixels: torch.Tensor, labels: torch.Tensor) -> None:
        self.clip, self.labels, self.device = clip, labels, clip._device
        self.gate = gate.to(self.device)
        self.pixels = pixels.to(self.device, DTYPES[clip.checkpoint.precision])
        self.optimiser = PAPER.optimise(gate.parameters())
        self.tokens = clip._tokenizer([f"a picture of a {name}" for name in CLASSES]).to(self.device)

    def look(self, n: int) -> torch.Tensor:
        """The n-th batch through the image tower."""
        with torch.no_grad():
            features: torch.Tensor = self.clip._model.encode_image(self.pixels[self._rows(n)])
        return features.float()

    def step(self, n: int) -> None:
        """One batch of 32 image-prompt pairs."""
        features = self.look(n)
        with torch.no_grad():
            texts = self.clip._model.encode_text(self.tokens[self.labels[self._rows(n)]]).float()
        self.optimiser.zero_grad()
        gated = functional.normalize(self.gate.attention(features) * features, dim=1)  # type: ignore[operator]
        logits = 100 * gated @ functional.normalize(texts, dim=1).T
        own = torch.arange(BATCH, device=self.device)
        loss = (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()

    def _rows(self, n: int) -> torch.Tensor:
        return torch.arange(BATCH) + BATCH * (n % (len(self.pixels) // BATCH))


def _turn(other: _Other, ours: nn.Module, features: Features, paths: Sequence[Path], steps: int) -> Turn:
    def stepping() -> None:
        for n in range(steps):
            other.step(n)

    some = other.pixels[: BATCH * steps].float().cpu()
    encode = _seconds(lambda: other.clip.encode_images(some)) / len(some)
    alone = one_thread()(
        stepping
    )  # on a busy machine threads that wait for each other are slower: the better one counts
    theirs = min(_seconds(stepping), _seconds(alone)) / steps
    reading = _seconds(lambda: features.images(paths))
    examples = Examples(features.images(paths).features, other.labels)

    def training() -> None:
        for _ in range(EPOCHS):
            fit(ours, examples, PAPER, generator(1))

    return Turn(other=theirs, epoch=_seconds(training) / EPOCHS, reading=reading, encode=encode)


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def section(found: Epoch) -> str:
    """Its part of docs/benchmarks.md."""
    steps = IMAGES // BATCH
    rows = [[str(i), f"{t.other:.2f}", f"{1000 * t.epoch:.1f}", f"{1000 * t.reading:.1f}", f"{1000 * t.encode:.1f}",
             f"{steps * t.other / (t.epoch + t.reading):,.0f}"] for i, t in enumerate(found.turns, 1)]  # fmt: skip
    other, ours = found.totals()
    reached = {True: "reached", False: "missed"}
    heads = [
        "repetition",
        "their step, s",
        "our epoch, ms",
        "reading features, ms",
        "encoding, ms an image",
        "times faster",
    ]
    return f"""## What it saves to encode once

FedCLIP on ViT-B/32 with random weights, {IMAGES} JPEG files of {SIDE} pixels, batches of {BATCH}: a step with both
encoders in it, as the paper's code does it, against an epoch of ours on features from the cache, the mean of {EPOCHS}
one after the other as the rounds of a run are; by turns in one process. *Times faster*: an epoch of {steps} steps their
way, over ours and the reading of its features from disk, which a worker does once per run. Decoding images is in
neither.
Goal: {FASTER} times. **{found.faster:,.0f} times, {reached[found.faster >= FASTER]}.**

{table(heads, rows)}
The training of all {ROUNDS} rounds on {TRAIN:,} images (PACS, sketch held out), by these costs and not run, decoding in
neither: {other / 3600:,.1f} hours their way, {ours / 60:,.1f} minutes ours with the encoding of each image, once; the
median of the repetitions' ratios. By FLOPs alone it could be 315 times.
Goal: {TOTAL} times. **{other / ours:,.0f} times, {reached[other / ours >= TOTAL]}.**

Again: `python -m benchmarks epoch`.

{place(found.where)}
"""
