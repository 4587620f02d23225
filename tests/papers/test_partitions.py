"""Partitions against their papers: what each client must have, worked out by hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from schemas.base import Choice
from workers.data.images import Images
from workers.plugins import load

Counts = NDArray[np.int64]
"""Images by client and class, int64 (clients, classes)."""


def _counted(name: str, labels: list[int], seed: int = 0, **params: object) -> Counts:
    held = np.array(labels, dtype=np.int64)
    paths, domains = tuple(Path(f"{i}.png") for i in range(len(held))), ("x",) * len(held)
    images = Images(paths, held, domains, tuple(f"class-{i}" for i in range(int(held.max()) + 1)))
    parts = load("workers.partitions", Choice(name=name, params=params)).split(images, np.random.default_rng(seed))
    assert list(parts) == [f"client-{i}" for i in range(len(parts))]
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(held)))
    return np.array([np.bincount(held[p], minlength=len(images.classes)) for p in parts.values()])


def _mixed(classes: int, of_each: int) -> list[int]:
    return list(range(classes)) * of_each


@pytest.mark.parametrize("seed", range(5))
def test_shards_of_mcmahan_are_two_classes_at_most_and_equal_sizes(seed: int) -> None:
    # The paper: 60,000 digits sorted, 200 shards of 300, 2 for each of 100 clients. A hundredth of it: 600 images of
    # 10 classes, 200 shards of 3. A class of 60 is 20 whole shards, so no shard has two classes.
    counts = _counted("shards", _mixed(10, 60), seed, clients=100, per_client=2)
    assert counts.sum(axis=1).tolist() == [6] * 100
    assert ((counts > 0).sum(axis=1) <= 2).all()
    assert set(counts[counts > 0].tolist()) == {3, 6}  # one shard of a class, or both
    assert ((counts > 0).sum(axis=1) == 2).sum() >= 75  # the second is of another class with 180/199: 90 expected, sd 3


def test_one_shard_each_is_one_class_each() -> None:
    counts = _counted("shards", _mixed(3, 8), clients=6, per_client=1)
    assert sorted(counts.tolist()) == [[0, 0, 4]] * 2 + [[0, 4, 0]] * 2 + [[4, 0, 0]] * 2


def test_a_shard_across_a_border_has_both_classes() -> None:
    # Sorted: 0 0 0 0 0 1. Cut into 2, 2, 2: only the last has class 1, beside one image of class 0.
    counts = _counted("shards", [0, 0, 0, 1, 0, 0], clients=3, per_client=1)
    assert sorted(counts.tolist()) == [[1, 1], [2, 0], [2, 0]]


@pytest.mark.parametrize(("images", "sizes"), [(12, [4, 4, 4]), (13, [5, 4, 4]), (3, [1, 1, 1])])
def test_iid_sizes_differ_by_one_at_most(images: int, sizes: list[int]) -> None:
    assert _counted("iid", [0] * images, clients=3).sum(axis=1).tolist() == sizes


def test_iid_shares_every_class_by_chance() -> None:
    # Each of 4 clients draws 100 of 400 images, 100 of each class: 25 expected, sd sqrt(18.75 * 300 / 399) = 3.8
    counts = _counted("iid", _mixed(4, 100), clients=4)
    assert (abs(counts - 25) <= 19).all() and counts.std() > 0  # five sd; a dealt class would be 25 everywhere


def _drawn(seed: int, alpha: float, clients: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).dirichlet([alpha] * clients)


@pytest.mark.parametrize("seed", range(5))
def test_sizes_of_the_quantity_skew_are_one_draw_of_the_dirichlet_distribution(seed: int) -> None:
    # 1,000 images, 4 clients: one each, and of the 996 that are left the drawn shares, cut at rounded sums.
    counts = _counted("quantity", _mixed(5, 200), seed, clients=4, alpha=0.5)
    assert counts.sum(axis=1) == pytest.approx(1 + 996 * _drawn(seed, 0.5, 4), abs=1)


def test_with_a_large_alpha_all_have_as_much_and_with_a_small_one_nearly_all_is_with_one() -> None:
    assert _counted("quantity", _mixed(2, 20), clients=4, alpha=1e300).sum(axis=1).tolist() == [10, 10, 10, 10]
    assert sorted(_counted("quantity", _mixed(2, 20), clients=4, alpha=1e-300).sum(axis=1).tolist()) == [1, 1, 1, 37]


def test_quantity_skew_leaves_the_class_mix_to_chance() -> None:
    counts = _counted("quantity", _mixed(2, 2000), clients=3, alpha=1.0)
    sizes = counts.sum(axis=1)
    assert (abs(counts[:, 0] - sizes / 2) <= 5 * np.sqrt(sizes) / 2).all()  # five sd of a binomial


@pytest.mark.parametrize("name", ["iid", "quantity", "shards"])
def test_as_many_clients_as_images_or_shards_is_the_limit(name: str) -> None:
    per_client = {"per_client": 1} if name == "shards" else {}
    assert _counted(name, [0] * 7, clients=7, **per_client).tolist() == [[1]] * 7


@pytest.mark.parametrize("order", [sorted, lambda x: sorted(x, reverse=True)], ids=["ascending", "descending"])
def test_shards_do_not_depend_on_how_the_data_are_sorted(order: Callable[[list[int]], list[int]]) -> None:
    counts = _counted("shards", order(_mixed(4, 10)), clients=4, per_client=2)
    assert counts.sum(axis=1).tolist() == [10] * 4 and ((counts > 0).sum(axis=1) <= 2).all()
