"""The jobs of the overhead benchmarks: owners with next to no data, and a client that only adds 1.0 to a model.

Plugins like any other, named in the experiment as `benchmarks.job:AddOne`. The data, the backbone and the training
cost next to nothing, so what remains is the system.
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pydantic import PositiveInt
from torch import nn

from orchestrator.rounds import discount
from schemas.base import Frozen
from schemas.experiment import Experiment
from schemas.log import Event
from workers.data.images import Images
from workers.method import Client, Method, Update
from workers.setting import Setting

NUMBERS = 524_288
"""float32 values of the model: 2 MiB."""
CLIENTS = 4
COLOURS = ("black", "white")
_DIM = 8
_PER_CLASS = 5


class Squares:
    """One domain for each owner, two classes, five times the same picture of 8 x 8 pixels in each."""

    class Params(Frozen):
        """owners: how many."""

        owners: PositiveInt = CLIENTS

    def __init__(self, params: Params) -> None:
        self.owners = params.owners

    def images(self, cache: Path) -> Images:
        """Two files, written once and named again and again: a thousand owners cost no more than one."""
        files = tuple(_painted(cache / "squares" / f"{colour}.png", colour) for colour in COLOURS)
        each = [(path, label) for label, path in enumerate(files) for _ in range(_PER_CLASS)]
        return Images(
            paths=tuple(path for _ in range(self.owners) for path, _ in each),
            labels=np.array([label for _, label in each] * self.owners, dtype=np.int64),
            domains=tuple(f"owner-{i:04}" for i in range(self.owners) for _ in each),
            classes=COLOURS,
        )


class Blank:
    """A backbone to which every picture and every text is the same."""

    class Params(Frozen):
        """No parameters."""

    dim, scale = _DIM, 1.0
    fingerprint = hashlib.sha256(b"benchmarks.job:Blank").hexdigest()

    def __init__(self, params: Frozen) -> None:
        self.params = params

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        return torch.zeros(3, 1, 1)

    def encode_images(self, batch: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(batch), _DIM)

    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        return torch.ones(len(texts), _DIM)


class AddOne(Method):
    """A client adds 1.0 to each number of the model: after n synchronous versions every number is n.

    `began` and `ended` among its metrics are Unix seconds: what the worker did before and after is told apart by them.
    """

    class Params(Frozen):
        """numbers: float32 values of the model."""

        numbers: PositiveInt = NUMBERS

    def __init__(self, params: Params) -> None:
        super().__init__(params)
        self.numbers = params.numbers

    def build(self, setting: Setting, group: str, generator: torch.Generator) -> nn.Module:
        return _Numbers(len(setting.classes), self.numbers)

    def train(self, client: Client) -> Update:
        began = time.time()
        after = {name: t + 1.0 for name, t in client.incoming.items()}
        tensors = {name: t - client.incoming[name] for name, t in after.items()}
        return Update(tensors=tensors, weight=1.0, metrics={"began": began, "ended": time.time()})


class _Numbers(nn.Module):
    def __init__(self, classes: int, numbers: int) -> None:
        super().__init__()
        self.numbers = nn.Parameter(torch.zeros(numbers))
        self.classes = classes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(x), self.classes)


def experiment(
    versions: int, *, clients: int = CLIENTS, numbers: int = NUMBERS, name: str = "overhead", **rounds: object
) -> Experiment:
    """The job: nothing compressed; synchronous with every owner in every version, unless `rounds` says otherwise."""
    everyone = {"in_flight": clients, "quorum": clients, "floor": clients, "grace_s": 0, "max_staleness": 0}
    partition = {"name": "by_domain", "params": {"clients_per_domain": 1}}
    return Experiment.model_validate(
        {
            "name": name,
            "data": {"name": "benchmarks.job:Squares", "params": {"owners": clients}, "partition": partition},
            "model": {"backbone": {"name": "benchmarks.job:Blank"}},
            "method": {"name": "benchmarks.job:AddOne", "params": {"numbers": numbers}},
            "rounds": {"versions": versions, "deadline_s": 60, **everyone, **rounds},
            "codec": {"name": "raw"},
            "evaluate": {"every": 0, "final": False},
        }
    )


def holds(tensors: dict[str, torch.Tensor], versions: int) -> bool:
    """Whether these are the job's numbers after so many synchronous versions: none lost, none counted twice."""
    return bool((tensors["numbers"] == float(versions)).all())


def adds_up(tensors: dict[str, torch.Tensor], experiment: Experiment, events: Iterable[Event]) -> bool:
    """Whether the numbers are the sum of the steps that the journal tells of.

    Every update is 1.0 of weight 1, so a version's step is the mean of its updates' discounts.
    """
    steps = (e.facts["lags"] for e in events if e.event == "closed")
    spec = experiment.rounds
    told = sum(sum(discount(spec, int(lag)) * n for lag, n in lags.items()) / sum(lags.values()) for lags in steps)
    return bool(torch.isclose(tensors["numbers"], torch.tensor(told), rtol=1e-4).all())


def _painted(path: Path, colour: str) -> Path:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as f:  # workers may start at once
            Image.new("RGB", (8, 8), colour).save(f, format="png")
        os.replace(f.name, path)
    return path
