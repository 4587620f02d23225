"""What every partition keeps to: clients own disjoint, non-empty parts that cover all images."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.base import Choice
from schemas.errors import DataError, PluginError
from workers.data.images import Images
from workers.plugins import load, names

PACKAGE = "workers.partitions"
PARAMS: dict[str, dict[str, object]] = {
    "by_domain": {"clients_per_domain": 2},
    "dirichlet": {"clients": 5, "alpha": 0.3},
    "iid": {"clients": 5},
    "quantity": {"clients": 5, "alpha": 0.3},
    "shards": {"clients": 5},
}
IMPOSSIBLE: dict[str, dict[str, object]] = {
    name: {"clients_per_domain" if name == "by_domain" else "clients": 999} for name in PARAMS
}


def images(labels: list[int], domains: list[str]) -> Images:
    classes = tuple(f"class-{i}" for i in range(max(labels, default=0) + 1))
    paths = tuple(Path(f"{i}.png") for i in range(len(labels)))
    return Images(paths, np.array(labels, dtype=np.int64), tuple(domains), classes)


@st.composite
def some_images(draw: st.DrawFn) -> Images:
    """10 to 60 images of up to 4 classes and 3 domains, at least two images per domain."""
    count = draw(st.integers(10, 60))
    labels = draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    domains = draw(st.lists(st.sampled_from(["x", "y", "z"]), min_size=count, max_size=count))
    used = sorted(set(domains))
    return images(labels + [0] * 2 * len(used), domains + used * 2)


def test_every_partition_on_disk_is_tested() -> None:
    assert set(names(PACKAGE)) == set(PARAMS) == set(IMPOSSIBLE)


@settings(max_examples=40, deadline=None)
@given(owned=some_images(), seed=st.integers(0, 1000))
@pytest.mark.parametrize("name", names(PACKAGE))
def test_parts_are_disjoint_and_cover_and_nobody_is_empty(name: str, owned: Images, seed: int) -> None:
    parts = load(PACKAGE, Choice(name=name, params=PARAMS[name])).split(owned, np.random.default_rng(seed))
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(owned)))
    assert all(len(p) and p.dtype == np.int64 for p in parts.values())


@pytest.mark.parametrize("name", names(PACKAGE))
def test_the_generator_alone_decides(name: str) -> None:
    owned = images([0, 1, 2] * 20, ["x", "y", "z", "z"] * 15)
    partition = load(PACKAGE, Choice(name=name, params=PARAMS[name]))
    one, again, other = (partition.split(owned, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert {k: v.tolist() for k, v in one.items()} == {k: v.tolist() for k, v in again.items()}
    assert {k: v.tolist() for k, v in one.items()} != {k: v.tolist() for k, v in other.items()}


@pytest.mark.parametrize("name", names(PACKAGE))
def test_more_clients_than_images_is_an_error(name: str) -> None:
    partition = load(PACKAGE, Choice(name=name, params=IMPOSSIBLE[name]))
    with pytest.raises(DataError, match="999 clients"):
        partition.split(images([0] * 10, ["x"] * 10), np.random.default_rng(0))


@pytest.mark.parametrize("name", names(PACKAGE))
def test_unknown_params_are_refused(name: str) -> None:
    with pytest.raises(PluginError, match="no_such_param"):
        load(PACKAGE, Choice(name=name, params=PARAMS[name] | {"no_such_param": 1}))


def test_by_domain_gives_each_client_one_domain_and_its_share_of_each_class() -> None:
    owned = images([0, 1, 2] * 20, ["x"] * 30 + ["y"] * 30)
    parts = load(PACKAGE, Choice(name="by_domain", params={"clients_per_domain": 5})).split(
        owned, np.random.default_rng(0)
    )
    assert sorted(parts) == [f"{d}-{i}" for d in "xy" for i in range(5)]
    for name, part in parts.items():
        assert {owned.domains[i] for i in part} == {name[0]}
        assert np.bincount(owned.labels[part]).tolist() == [2, 2, 2]  # 30 images, 3 classes, 5 clients


def test_a_smaller_alpha_skews_more() -> None:
    owned = images(list(range(4)) * 100, ["x"] * 400)

    def skew(alpha: float) -> float:
        partition = load(PACKAGE, Choice(name="dirichlet", params={"clients": 4, "alpha": alpha}))
        parts = partition.split(owned, np.random.default_rng(0))
        return float(np.mean([np.bincount(owned.labels[p]).max() / len(p) for p in parts.values()]))

    assert skew(100.0) < 0.35  # evenly mixed would be 1/4
    assert skew(0.05) > 0.6  # one class each would be 1


@pytest.mark.parametrize("alpha", [1e-300, 1e300])
def test_an_extreme_alpha_still_gives_everybody_something(alpha: float) -> None:
    partition = load(PACKAGE, Choice(name="dirichlet", params={"clients": 5, "alpha": alpha}))
    parts = partition.split(images([0, 1] * 10, ["x"] * 20), np.random.default_rng(0))
    assert sum(map(len, parts.values())) == 20 and all(len(p) for p in parts.values())
