"""The job of the overhead benchmarks: four owners, a model of 2 MB, and a client that only adds 1.0.

Plugins like any other, named in the experiment as `benchmarks.job:AddOne`. The data, the backbone and the training
cost next to nothing, so what remains is the system.
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from schemas.base import Frozen
from schemas.experiment import Experiment
from workers.data.images import Images, read_folder
from workers.method import Client, Method, Update
from workers.setting import Setting

NUMBERS = 524_288
"""float32 values of the model: 2 MiB."""
CLIENTS = 4
_DIM = 8
_PER_CLASS = 5


class Squares:
    """One domain for each owner, two classes, five identical pictures of 8 x 8 pixels in each."""

    class Params(Frozen):
        """No parameters."""

    def __init__(self, params: Frozen) -> None:
        self.params = params

    def images(self, cache: Path) -> Images:
        """The files, written once."""
        root = cache / "squares"
        for i in range(CLIENTS):
            for colour in ("black", "white"):
                for n in range(_PER_CLASS):
                    _paint(root / f"owner-{i}" / colour / f"{n}.png", colour)
        return read_folder(root)


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
    """A client adds 1.0 to each of 524,288 numbers: after n versions every number is n.

    `began` and `ended` among its metrics are Unix seconds: what the worker did before and after is told apart by them.
    """

    def build(self, setting: Setting, group: str, generator: torch.Generator) -> nn.Module:
        return _Numbers(len(setting.classes))

    def train(self, client: Client) -> Update:
        began = time.time()
        after = {name: t + 1.0 for name, t in client.incoming.items()}
        tensors = {name: t - client.incoming[name] for name, t in after.items()}
        return Update(tensors=tensors, weight=1.0, metrics={"began": began, "ended": time.time()})


class _Numbers(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.numbers = nn.Parameter(torch.zeros(NUMBERS))
        self.classes = classes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(x), self.classes)


def experiment(versions: int) -> Experiment:
    """The job: synchronous, every owner in every version, nothing compressed."""
    return Experiment.model_validate(
        {
            "name": "overhead",
            "data": {
                "name": "benchmarks.job:Squares",
                "partition": {"name": "by_domain", "params": {"clients_per_domain": 1}},
            },
            "model": {"backbone": {"name": "benchmarks.job:Blank"}},
            "method": {"name": "benchmarks.job:AddOne"},
            "rounds": {
                "versions": versions,
                "in_flight": CLIENTS,
                "quorum": CLIENTS,
                "floor": CLIENTS,
                "grace_s": 0,
                "deadline_s": 60,
                "max_staleness": 0,
            },
            "codec": {"name": "raw"},
            "evaluate": {"every": 0, "final": False},
        }
    )


def holds(tensors: dict[str, torch.Tensor], versions: int) -> bool:
    """Whether these are the job's numbers after so many versions: none lost, none counted twice."""
    return bool((tensors["numbers"] == float(versions)).all())


def _paint(path: Path, colour: str) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as f:  # workers may start at once
        Image.new("RGB", (8, 8), colour).save(f, format="png")
    os.replace(f.name, path)
