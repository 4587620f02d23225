"""Plain local training as a value: a method says what is trained and how, and the library trains one client or many.

Knows the local loop and the form of a method; no adapter, no task, no message.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import structlog
import torch
from torch import nn

from workers.many import fit_many
from workers.method import Client, Examples, Method, Update
from workers.setting import Setting
from workers.tensors import Tensors, size
from workers.training import Penalty, Recipe, contribution, local_update, one_thread

ROOM = 8 * 1024 * 1024
"""Bytes of parameters that are trained together: the processor's cache holds no more, and memory must."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Fit:
    """One local training. module: the incoming model, of which a copy is trained. penalty: as in `local_update`."""

    module: nn.Module
    recipe: Recipe
    penalty: Penalty | None = None


class LocalMethod(Method):
    """A method whose clients train a copy of the incoming model by plain local steps, and send what changed.

    It writes `local` instead of `train`. The clients of one task are then trained together (`workers.many`): the same
    but for rounding, and several times as fast for small models. One client after the other are trained a method that
    writes a `train` all the same, and a module whose `stackable` is false.
    """

    @abstractmethod
    def local(self, setting: Setting, group: str, incoming: Tensors) -> Fit:
        """What a client trains, and how; the same for all clients that start from this model."""

    def train(self, client: Client) -> Update:
        """One local training of the incoming model."""
        fit = self.local(client.setting, client.group, client.incoming)
        return local_update(client, fit.module, fit.recipe, fit.penalty)

    def train_many(self, clients: Sequence[Client]) -> Iterator[Update | Exception]:
        """The same for each, as many together as there is room for. Clients of one task: of one base and group."""
        if type(self).train is not LocalMethod.train or len(clients) < 2 or not self.traits.cached:
            yield from super().train_many(clients)
            return
        first = clients[0]
        fit = self.local(first.setting, first.group, first.incoming)
        if not getattr(fit.module, "stackable", True):
            yield from super().train_many(clients)
            return
        each = max(1, ROOM // max(1, size(dict(fit.module.named_parameters()))))
        waiting = iter(clients)
        while some := list(islice(waiting, each)):
            yield from self._together(fit, some)

    def _together(self, fit: Fit, clients: list[Client]) -> Iterator[Update | Exception]:
        try:
            updates = _updates(fit, clients)
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as e:
            # One of them may be to blame, or a model that cannot be stacked: alone, each shows.
            log.info("trained one by one", clients=len(clients), reason=f"{type(e).__name__}: {e}"[:200])
            yield from super().train_many(clients)
        else:
            yield from updates


@one_thread()
def _updates(fit: Fit, clients: list[Client]) -> list[Update]:
    drawn = [client.generator("batches") for client in clients]
    fitted = fit_many(fit.module, [client.train for client in clients], fit.recipe, drawn, fit.penalty)
    right = _accuracies(fit.module, [client.val for client in clients])
    still = {name: torch.zeros_like(t) for name, t in fit.module.state_dict().items()}
    return [
        contribution(client, fit.recipe, still | f.changed, loss=f.loss, validation=validation)
        for client, f, validation in zip(clients, fitted, right, strict=True)
    ]


@torch.no_grad()
def _accuracies(module: nn.Module, parts: list[Examples]) -> list[float]:
    """`accuracy` on each part, from one pass."""
    right = (module(torch.cat([p.x for p in parts])).argmax(dim=1) == torch.cat([p.y for p in parts])).float()
    return [float(own.mean()) for own in right.split([len(p) for p in parts])]
