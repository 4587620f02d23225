"""Clients trained together end where each would alone, whatever their sizes; what cannot be stacked trains alone."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from schemas.messages import ALL
from tests.toys import client, examples, setting
from workers.adapters.gate import AttentionGate
from workers.adapters.linear import LinearHead
from workers.adapters.residual import Bottleneck
from workers.local import Fit, LocalMethod
from workers.many import fit_many
from workers.method import Client, Examples, Update
from workers.setting import Setting
from workers.tensors import Tensors, generator
from workers.training import PADDING, Penalty, Recipe, contrastive, fit

SIZES = (70, 1, 32, 33, 5, 64, 40, 0)
"""Numbers of images: two full batches and a rest, one image, exactly one batch, one and a rest of one, ... and none."""
ADAPTERS: dict[str, Callable[[], nn.Module]] = {
    "gate": lambda: AttentionGate(setting().texts, 20.0, generator(0, "init")),
    "linear": lambda: LinearHead(setting().texts, 20.0),
    "residual": lambda: Bottleneck(setting().texts, 20.0, generator(0, "init"), ratio=0.2, reduction=4),
}
RECIPES = {
    "plain": Recipe(lr=3e-3, weight_decay=0.01, epochs=3),
    "smallest": Recipe(lr=3e-3, smallest=6, epochs=2),
    "contrastive": Recipe(optimiser="adam", lr=1e-3, weight_decay=0.2, loss="contrastive", smallest=2),
}


def parts(*sizes: int) -> list[Examples]:
    return [examples(setting(), size, seed) for seed, size in enumerate(sizes)]


def near(module: nn.Module) -> Penalty:
    start = [p.detach().clone() for p in module.parameters()]
    return lambda m: sum(((p - w).square().sum() for p, w in zip(m.parameters(), start, strict=True)), torch.zeros(()))


def alone(
    module: nn.Module, part: Examples, recipe: Recipe, penalty: Penalty | None, seed: int
) -> tuple[Tensors, float]:
    trained = copy.deepcopy(module)
    loss = fit(trained, part, recipe, generator(seed, "batches"), penalty)
    return {k: p.detach() - module.get_parameter(k).detach() for k, p in trained.named_parameters()}, loss


@pytest.mark.parametrize("penalised", [False, True])
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("build", ADAPTERS.values(), ids=ADAPTERS)
def test_together_ends_where_each_would_alone(build: Callable[[], nn.Module], recipe: Recipe, penalised: bool) -> None:
    module, data = build(), parts(*SIZES)
    penalty = near(module) if penalised else None
    drawn = [generator(seed, "batches") for seed in range(len(data))]
    for seed, (part, found) in enumerate(zip(data, fit_many(module, data, recipe, drawn, penalty), strict=True)):
        changed, loss = alone(module, part, recipe, penalty, seed)
        assert found.changed.keys() == changed.keys()
        for name, t in changed.items():
            torch.testing.assert_close(found.changed[name], t, atol=1e-5, rtol=0)
        assert found.loss == pytest.approx(loss, abs=1e-5, nan_ok=True)
        trains = len(part) >= recipe.smallest
        assert trains == any(bool(t.any()) for t in found.changed.values()) == math.isfinite(found.loss)


def test_the_module_stays_as_it_is() -> None:
    module, data = ADAPTERS["gate"](), parts(8, 9)
    before = copy.deepcopy(module.state_dict())
    fit_many(module, data, Recipe(lr=0.1), [generator(i) for i in range(2)])
    assert all(torch.equal(t, before[k]) for k, t in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())


def test_what_is_no_number_stays_with_its_client() -> None:
    data = parts(40, 40, 40)
    poisoned = [data[0], Examples(torch.full_like(data[1].x, torch.nan), data[1].y), data[2]]
    found, well = (
        fit_many(ADAPTERS["gate"](), of, Recipe(epochs=2), [generator(i) for i in range(3)]) for of in (poisoned, data)
    )
    assert [all(bool(t.isfinite().all()) for t in f.changed.values()) for f in found] == [True, False, True]
    for i in (0, 2):
        assert all(torch.equal(found[i].changed[k], well[i].changed[k]) for k in found[i].changed)


def test_padding_does_not_count_in_the_contrastive_loss() -> None:
    logits, labels = torch.randn(5, 3, generator=generator(0)), torch.tensor([0, 1, 1, 2, 0])
    padded = torch.cat([logits, torch.full((2, 3), 9.0)]), torch.cat([labels, torch.tensor([PADDING] * 2)])
    assert float(contrastive(*padded)) == pytest.approx(float(contrastive(logits, labels)), abs=1e-6)


class Tied(nn.Module):
    """One matrix under two names, a frozen parameter, and a buffer that travels."""

    def __init__(self) -> None:
        super().__init__()
        self.one = self.two = nn.Parameter(setting().texts.clone())
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.register_buffer("kept", torch.ones(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.frozen * (x @ self.one.T + x @ self.two.T)


class Noisy(LinearHead):
    """It draws while it trains, which cannot be stacked."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(nn.functional.dropout(x, 0.5, training=self.training))


class Toy(LocalMethod):
    """Trains whatever module it is given."""

    def __init__(self, made: Callable[[], nn.Module]) -> None:
        self.made = made

    def build(self, setting: Setting, group: str, generator: torch.Generator) -> nn.Module:
        return self.made()

    def local(self, setting: Setting, group: str, incoming: Tensors) -> Fit:
        return Fit(self.restore(setting, group, incoming), Recipe(lr=0.01))


class Own(Toy):
    """Writes a training of its own."""

    def train(self, client: Client) -> Update:
        return Update({}, 1.0, metrics={"own": 1.0})


def clients(method: LocalMethod, *names: str, **changes: object) -> list[Client]:
    incoming = method.init(setting()).tensors[ALL]
    return [client(setting(), name, incoming, **changes) for name in names]


def test_tied_frozen_and_buffered_tensors_are_sent_as_alone() -> None:
    method = Toy(Tied)
    asked = clients(method, "a", "b")
    for one, found in zip(asked, method.train_many(asked), strict=True):
        expected = method.train(one)
        assert isinstance(found, Update) and found.tensors.keys() == expected.tensors.keys() >= {"one", "two", "kept"}
        for name, t in expected.tensors.items():
            torch.testing.assert_close(found.tensors[name], t, atol=1e-5, rtol=0)
        assert found.metrics == pytest.approx(expected.metrics, abs=1e-5) and found.weight == expected.weight


def test_what_cannot_be_stacked_is_trained_one_by_one() -> None:
    method = Toy(lambda: Noisy(setting().texts, 20.0))
    updates = list(method.train_many(clients(method, "a", "b")))
    assert all(isinstance(u, Update) and bool(u.tensors["weight"].any()) for u in updates)


def test_one_client_that_fails_leaves_the_others_theirs() -> None:
    method = Toy(ADAPTERS["linear"])
    well = clients(method, "a", "b", "c")
    data = examples(setting(), 4, 0)
    odd = clients(method, "b", train=Examples(data.x, data.y + 7))  # labels beyond the classes
    a, b, c = method.train_many([well[0], *odd, well[2]])
    assert isinstance(b, IndexError)
    for one, found in ((well[0], a), (well[2], c)):
        assert isinstance(found, Update)
        assert all(torch.equal(found.tensors[k], t) for k, t in method.train(one).tensors.items())


def test_a_method_that_writes_train_is_asked_client_by_client() -> None:
    method = Own(ADAPTERS["linear"])
    assert [u.metrics for u in method.train_many(clients(method, "a", "b")) if isinstance(u, Update)] == [
        {"own": 1}
    ] * 2
