"""Updates calibrated by everybody's last one, so that who answers often does not decide where the model goes."""

from collections.abc import Mapping

import torch

from schemas.base import Frozen
from schemas.errors import AggregationError
from workers.tensors import Tensors


class Ca2fl:
    """The mean of updates, each less its client's last one, plus the mean of everybody's last one.

    v = 1/N sum_i h_i + 1/M sum_(i in the version) (delta_i - h_i) over N clients and the M updates of the version; h_i
    is the client's last counted update, 0 before it has one. For runs in which fast owners answer more often than slow
    ones that have other data. What is kept are the updates themselves, by reference, and their sum. Weights are of no
    account, and staleness is not discounted: that is what the calibration is for.
    """

    when = (
        "Fast owners answer more often than slow ones, and slow ones have other data: buffered mode above all. In our "
        "study it took half of FedBuff's time and uploads to a target there, and changed nothing where owners are "
        "alike: docs/studies.md. Try `quorate run experiments/ca2fl.yaml`."
    )
    costs = (
        "The last update of each client stays in the store, as many as there are clients, and the orchestrator reads "
        "it again when a new one comes: twice the reading at the close. Its state holds one more model, in float64."
    )
    sends = "Nothing more. Single updates are looked at, so they cannot be hidden from the orchestrator."
    paper = (
        "Wang et al., Tackling the Data Heterogeneity in Asynchronous Federated Learning with Cached Update "
        "Calibration, ICLR 2024"
    )
    deviations = (
        "the formula is from memory, and agrees with what the abstract says",
        "the cache keeps updates as they arrived; the paper's variant with a quantised cache is not built",
        "of two updates of one client in a version both change the step, and the later one is its last",
    )
    recalls = True
    """The fold is shown the last counted update of each client that it takes one of."""
    discounts = False

    class Params(Frozen):
        """No parameters."""

    def __init__(self, params: Params) -> None:
        self.params, self.clients = params, 1

    def meet(self, sizes: Mapping[str, int]) -> None:
        """Who trains: N of them."""
        self.clients = max(1, len(sizes))

    def fold(self, kept: Tensors | None = None) -> "CalibratedFold":
        """An empty fold over the sum of all last updates, float64 by name."""
        return CalibratedFold(self.clients, kept or {})


class CalibratedFold:
    """The updates so far. kept: the sum of everybody's last one, with those of this version once it has a result."""

    def __init__(self, clients: int, kept: Tensors) -> None:
        self.clients, self.kept = clients, dict(kept)
        self.last: dict[str, Tensors] = {}
        self.new: dict[str, Tensors] = {}
        self.total: Tensors = {}
        self.count = 0

    def recall(self, client: str, update: Tensors) -> None:
        """The last counted update of a client, before one of it is added."""
        self.last[client] = update

    def add(self, client: str, update: Tensors, weight: float, discount: float) -> None:
        """Add one update."""
        self.count += 1
        self.new[client] = update
        for name, change in self._changes(client, update).items():
            self.total[name] = self.total[name] + change if name in self.total else change

    def result(self) -> Tensors:
        """The step, float32. Raises AggregationError if nothing was added."""
        if not self.count:
            raise AggregationError("there is no update to calibrate")
        means = {name: t / self.count for name, t in self.total.items()}
        step = {name: t + self.kept[name] / self.clients if name in self.kept else t for name, t in means.items()}
        for client, update in self.new.items():  # of two updates of one client the later one is its last
            for name, change in self._changes(client, update).items():
                self.kept[name] = self.kept[name] + change if name in self.kept else change
        return {name: t.to(torch.float32) for name, t in step.items()}

    def _changes(self, client: str, update: Tensors) -> Tensors:
        last = self.last.get(client, {})
        return {k: t.double() - last[k].double() if k in last else t.double() for k, t in update.items()}
