"""The owners of the studies of licfl and alicfl: planted groups that call the same things by other names."""

from pathlib import Path

import pytest

from benchmarks.planted import GROUPS, Planted, found
from benchmarks.studies import alicfl
from benchmarks.study import Studied

OWNERS, CLASSES, IMAGES = 6, 4, 12


def called(root: Path, alpha: float = 1.0) -> list[dict[bytes, str]]:
    """Of each owner, what it calls each picture. Without noise a thing has one picture."""
    params = Planted.Params(owners=OWNERS, classes=CLASSES, images=IMAGES, noise=0.0, alpha=alpha)
    images, owners = Planted(params).images(root), list[dict[bytes, str]]({} for _ in range(OWNERS))
    assert len(images.paths) == OWNERS * IMAGES
    for path, label, domain in zip(images.paths, images.labels, images.domains, strict=True):
        owners[int(domain.split("-")[1])][path.read_bytes()] = images.classes[label]
    return owners


def test_owners_of_a_group_call_a_thing_the_same_and_of_another_group_by_another_name(tmp_path: Path) -> None:
    owners = called(tmp_path, alpha=100.0)
    assert len(set().union(*owners)) == CLASSES, "the same things everywhere"
    for i, one in enumerate(owners):
        for j, other in enumerate(owners):
            agree = [one[thing] == other[thing] for thing in one.keys() & other.keys()]
            assert all(agree) == ((i - j) % GROUPS == 0), (i, j)


def test_a_small_alpha_leaves_an_owner_few_classes(tmp_path: Path) -> None:
    few, many = (sum(map(len, called(tmp_path / str(a), alpha=a))) / OWNERS for a in (0.01, 100.0))
    assert few < 2 < many


@pytest.mark.parametrize(
    ("groups", "index"),
    [
        ([0, 1, 2, 0, 1, 2], 1.0),
        ([2, 0, 1, 2, 0, 1], 1.0),  # whatever they are called
        ([0] * 6, 0.0),
        # Pairs of owners of one group: (0, 3), (1, 4), (2, 5), of 15. Found: (0, 3) and (1, 4) alone, 2 pairs.
        # Expected by chance 3 * 2 / 15 = 0.4, at most (3 + 2) / 2: (2 - 0.4) / (2.5 - 0.4).
        ([0, 1, 2, 0, 1, 3], 1.6 / 2.1),
    ],
)
def test_how_well_groups_are_found_is_counted_in_pairs(groups: list[int], index: float) -> None:
    assert found({f"owner-{i:02}-0": f"cohort-{g}" for i, g in enumerate(groups)}) == pytest.approx(index)


def test_what_came_out_of_alicfl_is_said_by_the_intervals() -> None:
    def numbers(arm: str) -> dict[int, dict[str, float]]:
        # Half a point of noise, which is paired; one model lies ten points below, fedyogi ten above, the others level.
        away = -10.0 if arm.startswith("one model") else 10.0 if "fedyogi" in arm else 0.0
        return {seed: dict.fromkeys(alicfl.NUMBERS, 60 + away + seed / 2) for seed in range(5)}

    where = {"date": "", "commit": "", "cpu": "", "cores": 1, "memory_gb": 1, "system": "", "versions": {}, "load": 0}
    said = alicfl.read(Studied.model_validate({"where": where, "arms": {arm: numbers(arm) for arm in alicfl.ARMS}}))
    assert said.count("above one model; below cohorts, fedyogi; not told apart from local_only") == 4
