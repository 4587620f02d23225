from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.base import Choice
from schemas.errors import DataError, PluginError
from schemas.experiment import Data
from tests.toys import paint
from workers.data.owners import read_owners
from workers.data.split import stratified

LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=120).map(lambda x: np.array(x, dtype=np.int64))


@settings(deadline=None)
@given(labels=LABELS, seed=st.integers(0, 99))
def test_a_split_is_disjoint_covers_and_has_every_label_in_train(labels: np.ndarray, seed: int) -> None:  # type: ignore[type-arg]
    parts = stratified(labels, np.random.default_rng(seed))
    assert sorted([*parts.train, *parts.val, *parts.test]) == list(range(len(labels)))
    assert set(labels[parts.train]) == set(labels)


@settings(deadline=None)
@given(labels=LABELS, seed=st.integers(0, 99))
def test_no_label_gives_more_than_a_fifth_rounded_up_to_val_or_test(labels: np.ndarray, seed: int) -> None:  # type: ignore[type-arg]
    parts = stratified(labels, np.random.default_rng(seed))
    for part in (parts.val, parts.test):
        for label in set(labels[part].tolist()):
            assert (labels[part] == label).sum() <= -(-(labels == label).sum() // 5)


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (1, 1, 1)), (5, (3, 1, 1)), (10, (6, 2, 2)), (100, (60, 20, 20))],
)
def test_one_label_is_shared_60_20_20(count: int, expected: tuple[int, int, int]) -> None:
    parts = stratified(np.zeros(count, dtype=np.int64), np.random.default_rng(0))
    assert (len(parts.train), len(parts.val), len(parts.test)) == expected


def test_small_classes_do_not_bend_the_whole() -> None:
    # 50 classes of 2 images: alone, each would keep both images in train or lose half to test.
    parts = stratified(np.repeat(np.arange(50), 2), np.random.default_rng(0))
    assert abs(len(parts.test) - 20) <= 1 and abs(len(parts.val) - 20) <= 1


def _data(root: Path, **changes: object) -> Data:
    return Data.model_validate({"params": {"root": root}, **changes})


def test_owners_depend_on_the_seed_and_on_nothing_else(tmp_path: Path) -> None:
    data = _data(paint(tmp_path / "i"), partition=Choice(name="dirichlet", params={"clients": 4}), hold_out=("flat",))
    one, again, other = (read_owners(data, seed=s, cache=tmp_path) for s in (1, 1, 2))

    def files(owners: object) -> dict[str, list[Path]]:
        return {k: [o.images.paths[i] for i in o.parts.train] for k, o in owners.clients.items()}  # type: ignore[attr-defined]

    assert files(one) == files(again) != files(other)


def test_a_held_out_domain_is_never_trained_on(tmp_path: Path) -> None:
    owners = read_owners(_data(paint(tmp_path / "i"), hold_out=("flat",)), seed=0, cache=tmp_path)
    assert owners.clients["client-0"].domains == ("noisy", "striped")
    held = owners.held_out["flat"]
    assert (len(held.parts.train), len(held.parts.val), len(held.parts.test)) == (0, 0, 30)


def test_a_site_names_its_clients_after_itself(tmp_path: Path) -> None:
    root = paint(tmp_path / "i")
    alone = read_owners(_data(root, hold_out=("flat",)), seed=0, cache=tmp_path, site="north")
    assert (list(alone.clients), list(alone.held_out)) == (["north"], ["north.flat"])
    many = read_owners(_data(root, partition=Choice(name="by_domain")), seed=0, cache=tmp_path, site="north")
    assert list(many.clients) == ["north.flat-0", "north.noisy-0", "north.striped-0"]


def test_a_domain_that_is_not_there_is_suggested(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'flatt'.*did you mean 'flat'"):
        read_owners(_data(paint(tmp_path / "i"), hold_out=("flatt",)), seed=0, cache=tmp_path)


def test_holding_everything_out_is_refused(tmp_path: Path) -> None:
    root = paint(tmp_path / "i", domains=("flat",))
    with pytest.raises(DataError, match="every domain is held out"):
        read_owners(_data(root, hold_out=("flat",)), seed=0, cache=tmp_path)


def test_a_folder_that_cannot_name_a_client_is_refused(tmp_path: Path) -> None:
    root = paint(tmp_path / "i", domains=("Real World",))
    with pytest.raises(DataError, match="'Real World-0' cannot name a client"):
        read_owners(_data(root, partition=Choice(name="by_domain")), seed=0, cache=tmp_path)


def test_an_unknown_data_set_is_a_plugin_error(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="did you mean 'folder'"):
        read_owners(Data(name="foldr"), seed=0, cache=tmp_path)
