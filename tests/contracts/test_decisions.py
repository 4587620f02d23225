"""What every aggregator, selector and latency on disk keeps to; and no family is without a contract."""

import math
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.families import FAMILIES
from schemas.base import Choice
from schemas.errors import PluginError
from workers.plugins import load, names
from workers.tensors import Tensors

CONTRACTS = {
    "method": "test_methods", "codec": "test_codecs", "transform": "test_transforms", "backbone": "test_backbones",
    "dataset": "test_datasets", "partition": "test_partitions", "aggregator": "test_decisions",
    "selector": "test_decisions", "latency": "test_decisions",
    "presence": "test_decisions", "adapter": "test_adapters",
}  # fmt: skip
DECISIONS = [
    (family, name) for family in ("aggregator", "selector", "latency", "presence") for name in names(FAMILIES[family])
]


def _load(family: str, name: str) -> Any:
    return load(FAMILIES[family], Choice(name=name))


def test_every_family_has_a_contract() -> None:
    assert set(CONTRACTS) == set(FAMILIES)
    assert all((Path(__file__).parent / f"{file}.py").exists() for file in CONTRACTS.values())


@pytest.mark.parametrize(("family", "name"), DECISIONS)
def test_unknown_parameters_are_refused_and_a_plugin_says_what_it_is(family: str, name: str) -> None:
    with pytest.raises(PluginError, match="unknown key 'nonsense'"):
        load(FAMILIES[family], Choice(name=name, params={"nonsense": 1}))
    assert (type(_load(family, name)).__doc__ or "").strip()


# --- aggregators


def _updates() -> list[tuple[str, Tensors, float]]:
    draw = torch.Generator().manual_seed(5)
    return [(f"c{i}", {"w": torch.randn(3, 2, generator=draw)}, 1.0 + i) for i in range(6)]


@pytest.mark.parametrize("name", names(FAMILIES["aggregator"]))
def test_an_older_update_of_the_same_owner_has_no_say_where_the_aggregator_says_so(name: str) -> None:
    made, steps = _load("aggregator", name), []
    for older in (1.0, 5.0):
        fold = made.fold()
        fold.add("c0", {"w": torch.full((3, 2), older)}, 1.0, 1.0)
        for client, update, weight in _updates():
            fold.add(client, update, weight, 1.0)
        steps.append(fold.result()["w"])
    assert torch.equal(*steps) == getattr(made, "per_owner", False)


@pytest.mark.parametrize("name", names(FAMILIES["aggregator"]))
def test_equal_updates_amount_to_themselves_and_keep_shape_and_dtype(name: str) -> None:
    fold = _load("aggregator", name).fold()
    delta = {"w": torch.tensor([[0.1, -0.2]]), "b": torch.tensor(0.3)}  # within every rule's bound
    for client in "abcdef":
        fold.add(client, delta, 2.0, 1.0)
    found = fold.result()
    assert {k: (t.dtype, t.shape) for k, t in found.items()} == {k: (torch.float32, t.shape) for k, t in delta.items()}
    assert all(torch.equal(found[k], t) for k, t in delta.items())


@pytest.mark.parametrize("name", names(FAMILIES["aggregator"]))
def test_a_fold_changes_neither_what_it_is_given_nor_what_another_fold_gives(name: str) -> None:
    made, first = _load("aggregator", name), _updates()
    before = [u["w"].clone() for _, u, _ in first]
    results = []
    for _ in range(2):
        fold = made.fold()
        for client, update, weight in first:
            fold.add(client, update, weight, 1.0)
        results.append(fold.result()["w"])
    assert torch.equal(*results)
    assert all(torch.equal(u["w"], b) for (_, u, _), b in zip(first, before, strict=True))


def test_the_mean_weighs_exactly_and_its_discount_does_not_cancel() -> None:
    fold = _load("aggregator", "mean").fold()
    fold.add("a", {"w": torch.tensor([8.0])}, 3.0, 0.5)
    fold.add("b", {"w": torch.tensor([4.0])}, 1.0, 1.0)
    assert fold.result()["w"].tolist() == [(3 * 0.5 * 8 + 1 * 4) / (3 + 1)]


# --- selectors


@pytest.mark.parametrize("name", names(FAMILIES["selector"]))
@given(
    free=st.sets(st.from_regex(r"[a-z]{1,6}", fullmatch=True), max_size=12),
    budget=st.integers(0, 15),
    seed=st.integers(),
)
def test_a_selector_picks_free_clients_only_once_each_within_the_budget_and_repeatably(
    name: str, free: set[str], budget: int, seed: int
) -> None:
    made = _load("selector", name)
    picked = made.pick(sorted(free), budget, Random(seed))
    assert len(picked) == len(set(picked)) <= budget
    assert set(picked) <= free
    again = _load("selector", name)
    again.load(made.dump())
    assert again.pick(sorted(free, reverse=True), budget, Random(seed)) == picked, "the order of names says nothing"


# --- latencies


@pytest.mark.parametrize("name", names(FAMILIES["latency"]))
@given(owner=st.integers(), task=st.integers())
def test_a_latency_is_finite_not_negative_and_a_function_of_its_draws(name: str, owner: int, task: int) -> None:
    seconds: Callable[..., float] = _load("latency", name).seconds
    found = seconds("ann", 3, Random(owner), Random(task))
    assert math.isfinite(found) and found >= 0
    assert found == seconds("ann", 3, Random(owner), Random(task))


# --- presences


@pytest.mark.parametrize("name", names(FAMILIES["presence"]))
@given(seed=st.integers())
def test_a_client_comes_and_goes_at_rising_moments_that_are_a_function_of_the_draws(name: str, seed: int) -> None:
    changes: Callable[..., Iterator[float]] = _load("presence", name).changes
    found = list(islice(changes("ann", Random(seed)), 50))
    assert found == sorted(set(found)) and all(math.isfinite(at) and at >= 0 for at in found)
    assert found == list(islice(changes("ann", Random(seed)), 50))
