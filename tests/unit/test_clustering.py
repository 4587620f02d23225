"""Principal components and spectral clustering against their definitions."""

import pytest
import torch
from sklearn.cluster import KMeans

from workers.clustering import Basis, alike, normalised, principal, within_reach


def planted(groups: int, each: int, *, away: float = 10.0, dim: int = 40, seed: int = 0) -> torch.Tensor:
    """Rows around `groups` centres, group by group: centre ~ N(0, away^2), row ~ N(centre, 1)."""
    draw = torch.Generator().manual_seed(seed)
    centres = away * torch.randn(groups, dim, generator=draw)
    return centres.repeat_interleave(each, dim=0) + torch.randn(groups * each, dim, generator=draw)


def same_partition(one: list[int], two: list[int]) -> bool:
    """Whether two labellings put the same pairs together (a Rand index of 1)."""
    pairs = [(i, j) for i in range(len(one)) for j in range(i)]
    return len(one) == len(two) and all((one[i] == one[j]) == (two[i] == two[j]) for i, j in pairs)


def test_the_gram_matrix_gives_the_components_of_the_covariance_up_to_signs() -> None:
    rows = planted(3, 4, dim=6)
    basis, places = principal(rows, 4)
    centred = rows.double() - rows.double().mean(dim=0)
    _, vectors = torch.linalg.eigh(centred.T @ centred / len(rows))
    expected = centred @ vectors.flip(1)[:, :4]
    for n in range(4):
        assert torch.allclose(places[:, n].abs(), expected[:, n].abs(), atol=1e-8)
        assert places[:, n].std() > 0
    assert torch.allclose(basis.place(rows), places, atol=1e-8), "a row lies where its coordinates say"


def test_a_basis_survives_being_packed() -> None:
    rows = planted(2, 4)
    basis, places = principal(rows, 2)
    assert torch.allclose(Basis.unpacked(basis.packed()).place(rows), places, atol=1e-3)


def test_a_constant_vector_added_to_all_rows_changes_nothing() -> None:
    rows = planted(3, 5)
    one, two = (principal(r, 5)[1] for r in (rows.double(), rows.double() + 100 * torch.ones(40).double()))
    assert torch.allclose(one.abs(), two.abs(), atol=1e-6)
    assert alike(one, None, 8) == alike(two, None, 8)


def test_the_normalised_affinity_is_symmetric_with_eigenvalues_up_to_one() -> None:
    found = normalised(principal(planted(3, 5), 5)[1])
    values = torch.linalg.eigvalsh(found)
    assert torch.equal(found, found.T)
    assert float(values.max()) == pytest.approx(1, abs=1e-12)
    assert float(values.min()) >= -1 - 1e-12


@pytest.mark.parametrize("groups", [2, 3, 4])
@pytest.mark.parametrize("given", [True, False])
def test_planted_groups_are_found_whether_their_number_is_given_or_not(groups: int, given: bool) -> None:
    truth = [g for g in range(groups) for _ in range(6)]
    for seed in range(5):
        labels = alike(principal(planted(groups, 6, seed=seed), 5)[1], groups if given else None, 8)
        assert labels == truth, "numbered by the first member"


def by_the_paper(rows: torch.Tensor, number: int | None) -> tuple[list[int], list[int]]:
    """Ng, Jordan and Weiss written down once more, on singular vectors; and k-means on the projection alone."""
    centred = rows.double() - rows.double().mean(dim=0)
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    places = (u * s)[:, :5]
    count, sigma = len(rows), float((places - places.mean()).square().mean()) ** 0.5
    affinity = torch.tensor([[
        0.0 if i == j else float(torch.exp(-(places[i] - places[j]).square().sum() / (2 * sigma**2)))
        for j in range(count)] for i in range(count)], dtype=torch.float64)  # fmt: skip
    degrees = affinity.sum(dim=1)
    values, vectors = torch.linalg.eigh(affinity / (degrees[:, None] * degrees[None, :]).sqrt())
    falling = values.flip(0).tolist()
    gaps = [falling[i] - falling[i + 1] for i in range(min(8, count - 1))]
    number = number or gaps.index(max(gaps)) + 1
    top = vectors.flip(1)[:, :number]
    spectral, plain = (
        KMeans(number, n_init=10, random_state=0).fit(x.numpy()).labels_.tolist()
        for x in (top / top.norm(dim=1, keepdim=True), places)
    )
    return spectral, plain


def test_the_clusters_are_those_of_ng_jordan_and_weiss_and_not_of_k_means() -> None:
    draw, differ = torch.Generator().manual_seed(11), 0
    for n in range(24):  # groups that are hard to tell apart, so that each step of the method has a say
        count, apart = 8 + n % 9, (0.0, 2.0, 4.0)[n % 3]
        centres = apart * torch.randn(3, 12, generator=draw)
        rows = torch.randn(count, 12, generator=draw) + centres[torch.randint(3, (count,), generator=draw)]
        number = None if n % 2 else 2 + n % 3
        spectral, plain = by_the_paper(rows, number)
        found = alike(principal(rows, 5)[1], number, 8)
        assert same_partition(found, spectral)
        differ += not same_partition(spectral, plain)
    assert differ >= 5


def test_the_order_of_the_rows_does_not_matter() -> None:
    rows, order = planted(3, 6, seed=7), torch.randperm(18, generator=torch.Generator().manual_seed(1))
    straight = alike(principal(rows, 5)[1], None, 8)
    shuffled = alike(principal(rows[order], 5)[1], None, 8)
    assert same_partition([straight[i] for i in order], shuffled)


def test_one_far_away_is_moved_towards_the_middle_and_the_others_stay() -> None:
    # By number the medians are 2 and 0; distances are 2, 1, 0, 1 and 50 (30 and 40), half of them within 1. Twice that:
    # (32, 40) becomes (2, 0) + 2 / 50 (30, 40).
    rows = torch.tensor([[0.0, 0], [1, 0], [2, 0], [3, 0], [32, 40]])
    found = within_reach(rows)
    assert torch.equal(found[:4], rows[:4].double())
    assert found[4].tolist() == pytest.approx([2 + 1.2, 1.6])


@pytest.mark.parametrize("rows", [planted(3, 5), planted(1, 9), torch.ones(4, 3), torch.zeros(3, 0),
    torch.cat([torch.zeros(5, 2), torch.ones(1, 2)])])  # fmt: skip
def test_rows_that_are_usually_far_apart_or_mostly_the_same_stay_bit_for_bit(rows: torch.Tensor) -> None:
    assert torch.equal(within_reach(rows), rows.double())


@pytest.mark.parametrize("clusters", [None, 3])
@pytest.mark.parametrize("size", [1e2, 1e30])
@pytest.mark.parametrize("blows", [1, 3])
def test_enormous_rows_do_not_hide_how_the_others_are_grouped(clusters: int | None, size: float, blows: int) -> None:
    for seed in range(2):
        rows, draw = planted(3, 10, seed=seed), torch.Generator().manual_seed(seed)
        hostile = torch.randperm(30, generator=draw)[:blows].tolist()
        for i in hostile:
            rows[i] = size * rows[i].norm() * torch.nn.functional.normalize(torch.randn(40, generator=draw), dim=0)
        labels = alike(principal(within_reach(rows), 5)[1], clusters, 8)
        honest = [i for i in range(30) if i not in hostile]
        assert same_partition([labels[i] for i in honest], [i // 10 for i in honest])
        plain = alike(principal(rows, 5)[1], clusters, 8)
        assert not same_partition([plain[i] for i in honest], [i // 10 for i in honest]), "it is what keeps them apart"


@pytest.mark.parametrize("rows", [torch.ones(5, 3), torch.zeros(5, 3), torch.full((7, 9), 0.1)])
@pytest.mark.parametrize("clusters", [None, 3])
def test_rows_that_are_all_the_same_are_one_cluster(rows: torch.Tensor, clusters: int | None) -> None:
    assert alike(principal(rows, 5)[1], clusters, 8) == [0] * len(rows)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_rows_than_clusters_are_one_cluster(count: int) -> None:
    places = torch.arange(count).double()[:, None]
    assert alike(places, 3, 8) == [0] * count


def test_one_far_from_all_others_gives_no_nan() -> None:
    # Nine at 0 to 0.08 and one at 1e6: sigma is 3e5, the nine are as good as one point, the tenth has affinity e^-5.6.
    places = torch.cat([torch.arange(9) / 100, torch.tensor([1e6])]).double()[:, None]
    assert alike(places, 2, 8) == [0] * 9 + [1]
    # And one whose affinities vanish altogether: distances of 1e3 sigma.
    lonely = torch.cat([torch.zeros(10**6 // 1000, 1), torch.full((1, 1), 1e3)]).double()
    assert bool(normalised(lonely).isfinite().all())
    assert sorted(set(alike(lonely, 2, 8))) == [0, 1]
