"""Ridge regression in closed form: sums of moments travel once, and one solve replaces all training."""

from collections.abc import Mapping

import torch
from pydantic import PositiveFloat
from torch import nn
from torch.nn import functional

from schemas.base import Frozen
from schemas.messages import ALL
from workers.adapters.linear import LinearHead
from workers.method import Aggregator, Client, Examples, Method, State, Traits, Update
from workers.setting import Setting
from workers.tensors import Tensors
from workers.training import accuracy

HIGH, LOW = "moments.high", "moments.low"
SUM, START, COUNTED = "sum", "start", "counted/"
"""Server tensors: summed moments, the head of version 0, and an empty one for each client whose moments are in it."""

LARGEST, ROUNDED = 1e12, 1 + 1e-6
"""Images that one client may claim, and what float32 may add to their number."""


class Ridge(Method):
    """A linear head by ridge regression: the same, to rounding, as if all images lay in one place, whoever holds what.

    With rows z = (f / |f|, 1) of the images and one-hot Y, a client sends Z^T Z and Z^T Y, as float64 in two float32
    each. The server adds those of each client once and solves (Z^T Z + lambda I) W = Z^T Y + lambda W0, where W0 are
    the class texts. Addition knows no order, so a late owner adds exactly what it would have added in time.
    The moments of few images say much about those images.
    """

    when = (
        "A linear head is enough, and the result shall not depend on who answers when, or on luck: one round, no "
        "learning rate. Try `quorate run experiments/ridge.yaml`."
    )
    costs = (
        "Clients: one pass over their features. The orchestrator: one solution per version, which grows with the "
        "cube of the length of a feature, and one sum of moments."
    )
    sends = (
        "Up: moments, half the square of the length of a feature, in two float32 each and exact, so only with `raw`; "
        "those of few images tell much about them. Down: the head."
    )
    paper = (
        "He et al., AFL: A Single-Round Analytic Approach for Federated Learning with Pre-trained Models, "
        "arXiv 2405.16240"
    )
    deviations = (
        "moments are added, where the paper merges the clients' solutions pair by pair; both give the joint solution",
        "the head is drawn towards the class texts instead of towards zero, so version 0 is zero-shot",
        "features have unit length and an intercept",
    )
    traits = Traits(lossy=False, discounted=False, aggregates=False)

    class Params(Frozen):
        """penalty: lambda, how strongly the head is held to the class texts; docs/log.md says how 1 was chosen."""

        penalty: PositiveFloat = 1.0

    def __init__(self, params: Params) -> None:
        super().__init__(params)
        self.penalty = params.penalty

    def build(self, setting: Setting, group: str, generator: torch.Generator) -> nn.Module:
        """The head: weight (K, D) and bias (K)."""
        return LinearHead(setting.texts, setting.scale)

    def form(self, model: Tensors) -> Tensors:
        """Two float32 vectors (M,): the upper triangle of Z^T Z, row by row, then Z^T Y, in two parts each."""
        rows, classes = _size(model)
        length = _triangle(rows) + rows * classes
        return {name: torch.empty(length, device="meta") for name in (HIGH, LOW)}

    def train(self, client: Client) -> Update:
        """The moments of the training images, float64 x as high = float32(x) and low = float32(x - high).

        Together they keep 48 of float64's 53 bits: a relative error of 2^-48 at most.
        """
        exact = moments(client.train, len(client.setting.classes))
        high = exact.float()
        before = accuracy(self.restore(client.setting, client.group, client.incoming), client.val)
        return Update(
            tensors={HIGH: high, LOW: (exact - high.double()).float()},
            weight=float(len(client.train)),
            metrics={"validation": before} if len(client.val) else {},
        )

    def implausible(self, update: Tensors, model: Tensors) -> str:
        """No number in a row exceeds 1, so no moment exceeds the number of images, which is the last of Z^T Z."""
        count = float(update[HIGH][_triangle(_size(model)[0]) - 1])
        largest = float(update[HIGH].abs().max())
        if not 1 <= count <= LARGEST or largest > count * ROUNDED or float(update[LOW].abs().max()) > count:
            return f"moments up to {largest:g} of {count:g} images"
        return ""

    def fold(self, aggregator: Aggregator, state: State, group: str) -> "Moments":
        """The moments of each client by itself: only `merge` knows whose are in the sum already."""
        return Moments()

    def merge(self, state: State, folded: Mapping[str, Tensors], server_lr: float) -> State:
        """Add the moments of those who are new, and solve."""
        server = dict(state.server) or _beginning(state.tensors[ALL])
        for client, found in folded[ALL].items():
            if COUNTED + client not in server:
                server |= {SUM: server[SUM] + found, COUNTED + client: torch.zeros(0)}
        solution = solve(server[SUM], server[START], self.penalty).float()
        head = {"weight": solution[:, :-1].contiguous(), "bias": solution[:, -1].contiguous()}
        return State(tensors={ALL: head}, server=server, assignment=state.assignment)


class Moments:
    """A fold that keeps everybody's moments apart, float64 (M,) by client. Weights and discounts are of no account."""

    def __init__(self) -> None:
        self.found: Tensors = {}

    def add(self, client: str, update: Tensors, weight: float, discount: float) -> None:
        """Keep a client's moments; the same client's again are the same."""
        self.found.setdefault(client, update[HIGH].double() + update[LOW].double())

    def result(self) -> Tensors:
        """The moments by client, in the order in which they were added."""
        return self.found


def moments(examples: Examples, classes: int) -> torch.Tensor:
    """Upper triangle of Z^T Z, row by row, then Z^T Y, row by row: float64 (M,)."""
    unit = functional.normalize(examples.x.double(), dim=1)
    z = torch.cat([unit, torch.ones(len(unit), 1, dtype=torch.float64)], dim=1)
    y = functional.one_hot(examples.y, classes).double()
    upper = torch.triu_indices(z.shape[1], z.shape[1])
    return torch.cat([(z.T @ z)[upper[0], upper[1]], (z.T @ y).reshape(-1)])


def solve(total: torch.Tensor, start: torch.Tensor, penalty: float) -> torch.Tensor:
    """W of (Z^T Z + lambda I) W = Z^T Y + lambda W0, transposed: float64 (K, D + 1).

    total: float64 (M,), summed moments. start: (K, D + 1), W0 transposed. By eigenvalues, of which those below zero can
    only be rounding, or somebody's invention: so whatever was sent, there is a solution.
    """
    classes, rows = start.shape
    gram = torch.zeros(rows, rows, dtype=torch.float64)
    upper = torch.triu_indices(rows, rows)
    gram[upper[0], upper[1]] = gram[upper[1], upper[0]] = total[: _triangle(rows)]
    wanted = total[_triangle(rows) :].reshape(rows, classes) + penalty * start.double().T
    values, vectors = torch.linalg.eigh(gram)
    solution: torch.Tensor = vectors @ ((vectors.T @ wanted) / (values.clamp(min=0) + penalty)[:, None])
    return solution.T


def _beginning(model: Tensors) -> Tensors:
    start = torch.cat([model["weight"], model["bias"][:, None]], dim=1)
    classes, rows = start.shape
    return {SUM: torch.zeros(_triangle(rows) + rows * classes, dtype=torch.float64), START: start}


def _size(model: Tensors) -> tuple[int, int]:
    """Numbers in a row of Z, and classes."""
    classes, dim = model["weight"].shape
    return dim + 1, classes


def _triangle(rows: int) -> int:
    return rows * (rows + 1) // 2
