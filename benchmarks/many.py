"""Training many clients of one task together, against one after the other: how much faster, and whether it is the same.

Both are timed in turn within one process, so that what else runs meets both. No task, no store and no message: what a
method's `train` and `train_many` take (benchmarks/crowd.py has whole runs).
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from statistics import median

import torch
from torch.nn import functional

from benchmarks.machine import Where, here
from benchmarks.markdown import place, table
from schemas.base import Choice, Frozen
from schemas.experiment import Experiment
from schemas.messages import ALL
from workers.method import Client, Examples, Method, Update
from workers.plugins import load
from workers.setting import Setting
from workers.tensors import Tensors, generator
from workers.training import accuracy, one_thread

CLIENTS, IMAGES, CLASSES, SCALE = 64, 32, 10, 50.0
NOISE = 0.5
"""Standard deviation around the class's text, in every dimension at 512: zero-shot is right for two in three."""
ADAPTERS, DIMS, EPOCHS = ("linear", "residual", "gate"), (512, 128), (1, 5)
REPETITIONS, PASSES, LEAST = 5, 4, 5.0
"""How often each is timed, over how many passes through all clients, and the goal: so many times as fast."""


class Case(Frozen):
    """One adapter. ms: per client, one after the other and together, (processor, wall) of each repetition.

    apart: the greatest difference in any number, between the two updates of a client and between the merged models.
    accuracy: of the merged model, both ways.
    """

    adapter: str
    dim: int
    epochs: int
    alone_ms: tuple[tuple[float, float], ...]
    together_ms: tuple[tuple[float, float], ...]
    apart: tuple[float, float]
    accuracy: tuple[float, float]

    def faster(self, clock: int) -> list[float]:
        """How many times as fast together is, repetition by repetition. clock: 0 processor, 1 wall."""
        return [a[clock] / t[clock] for a, t in zip(self.alone_ms, self.together_ms, strict=True)]


class Many(Frozen):
    """All cases."""

    where: Where
    clients: int
    images: int
    cases: tuple[Case, ...]


def measure() -> Many:
    """Every adapter at every size, with few local steps and with more."""
    where = here()
    cases = [_case(adapter, dim, epochs) for dim in DIMS for adapter in ADAPTERS for epochs in EPOCHS]
    return Many(where=where, clients=CLIENTS, images=IMAGES, cases=tuple(cases))


def section(found: Many) -> str:
    """The part of docs/benchmarks.md."""
    heads = ["adapter", "D", "epochs", "ms alone", "ms together", "times as fast", "wall", "goal", "apart", "accuracy"]
    return f"""## Many clients in one task

{found.clients} clients of {found.images} images each (drawn features, {CLASSES} classes, batches of 32) train with
`fedavg`, one after the other (`train`) and together (`train_many`), in turn {REPETITIONS} times in one process on one
thread, {PASSES} passes each. Milliseconds are the processor's, per client, median; *times as fast* is the median of the
repetitions' ratios, with the least and the greatest; *wall* the same by the wall's clock. *apart*: the greatest
difference in any number, between the two updates of a client / between the two means of all. *accuracy*: percent, of
the means, alone / together.
Goal: {LEAST:g} times as fast at D = 512, for the adapter that `fedavg` has by default (linear) and the others.

{table(heads, [_row(case) for case in found.cases])}
What is saved is what a client costs whatever its size: making the module, copying it, some hundred calls. At D = 512
the linear head has 5,130 numbers, the residual 131,072 and the gate 525,312: there the time goes into the products and
into moving the numbers of the model, its gradient and the optimiser through memory, which no company makes fewer.

{place(found.where)}
"""


def _row(case: Case) -> list[str]:
    on, wall = case.faster(0), case.faster(1)
    ms = [f"{median(p for p, _ in times):.2f}" for times in (case.alone_ms, case.together_ms)]
    times = f"{median(on):.1f} ({min(on):.1f} to {max(on):.1f})"
    goal = ("reached" if median(on) >= LEAST else "missed") if case.dim == DIMS[0] else ""
    apart, scores = (f"{a:.0e}" for a in case.apart), (f"{100 * a:.1f}" for a in case.accuracy)
    about = [case.adapter, f"{case.dim}", f"{case.epochs}"]
    return [*about, *ms, times, f"{median(wall):.1f}", goal, " / ".join(apart), " / ".join(scores)]


@one_thread()  # as in a worker
def _case(adapter: str, dim: int, epochs: int) -> Case:
    method: Method = load("workers.methods", Choice(name="fedavg", params={"adapter": adapter, "epochs": epochs}))
    of = _setting(dim)
    incoming = method.init(of).tensors[ALL]
    clients = [_client(of, incoming, i) for i in range(CLIENTS)]

    def alone() -> Iterator[Update]:
        return (method.train(client) for client in clients)

    def together() -> Iterator[Update]:
        return (update for update in method.train_many(clients) if isinstance(update, Update))

    updates = list(alone()), list(together())
    times = [(_ms(alone), _ms(together)) for _ in range(REPETITIONS)]
    merged = [_merged(incoming, made) for made in updates]
    return Case(
        adapter=adapter, dim=dim, epochs=epochs, alone_ms=tuple(a for a, _ in times),
        together_ms=tuple(t for _, t in times),
        apart=(max(_apart(a.tensors, t.tensors) for a, t in zip(*updates, strict=True)), _apart(*merged)),
        accuracy=(_score(method, of, merged[0]), _score(method, of, merged[1])),
    )  # fmt: skip


def _ms(work: Callable[[], Iterator[Update]]) -> tuple[float, float]:
    """Milliseconds per client: of the processor, and by the wall. Updates are dropped one by one, as when sent."""
    on, wall = time.process_time(), time.perf_counter()
    for _ in range(PASSES):
        deque(work(), maxlen=0)
    spent = time.process_time() - on, time.perf_counter() - wall
    return round(1000 * spent[0] / CLIENTS / PASSES, 4), round(1000 * spent[1] / CLIENTS / PASSES, 4)


def _merged(incoming: Tensors, updates: list[Update]) -> Tensors:
    return {k: t + torch.stack([u.tensors[k] for u in updates]).mean(dim=0) for k, t in incoming.items()}


def _apart(one: Tensors, other: Tensors) -> float:
    return max(float((one[k] - other[k]).abs().max()) for k in one)


def _score(method: Method, of: Setting, merged: Tensors) -> float:
    return accuracy(method.restore(of, ALL, merged), _examples(of, 5000, "test"))


def _setting(dim: int) -> Setting:
    drawn = torch.randn(CLASSES, dim, generator=generator(0, "texts", dim))
    asked = Experiment.model_validate({"name": "many", "data": {"name": "shapes"}, "method": {"name": "fedavg"}})
    names = tuple(f"class-{i}" for i in range(CLASSES))
    return Setting(asked, names, functional.normalize(drawn, dim=1), SCALE, dim, "0" * 64)


def _examples(of: Setting, count: int, whose: str) -> Examples:
    random = generator(0, "examples", of.dim, whose)
    y = torch.randint(CLASSES, (count,), generator=random)
    noise = NOISE * (512 / of.dim) ** 0.5 * torch.randn(count, of.dim, generator=random)
    return Examples(10 * (of.texts[y] + noise), y)


def _client(of: Setting, incoming: Tensors, number: int) -> Client:
    name = f"client-{number}"
    train, val = _examples(of, IMAGES, name), _examples(of, IMAGES // 3, f"{name} val")
    return Client(name=name, base=0, setting=of, incoming=incoming, train=train, val=val)
