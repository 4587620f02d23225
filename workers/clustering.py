"""Which of many vectors are alike: principal components, and spectral clustering of what they leave.

Knows neither clients nor methods. scikit-learn is loaded when it is needed: it takes seconds.
"""

from dataclasses import dataclass

import torch

ROUNDED, SAME = 1e-14, 1e-20
"""Squared lengths below these shares, of the longest component and of all rows, are rounding."""
REACH = 2.0
"""How many times as far from the middle as most rows one may be, to be taken as it is."""
COLUMNS = 2**14
"""So many numbers of each row are sorted at a time: sorting takes several times their memory."""


@dataclass(frozen=True)
class Basis:
    """Principal directions, float64 (n, D), and where the mean of all vectors lies along them, (n)."""

    directions: torch.Tensor
    mean: torch.Tensor

    def place(self, vectors: torch.Tensor) -> torch.Tensor:
        """Coordinates (..., n) of vectors (..., D), counted from the mean."""
        return vectors.double() @ self.directions.T - self.mean

    def packed(self) -> torch.Tensor:
        """As one float32 tensor (n, D + 1)."""
        return torch.cat([self.directions, self.mean[:, None]], dim=1).float()

    @classmethod
    def unpacked(cls, packed: torch.Tensor) -> "Basis":
        """What `packed` has made."""
        return cls(packed[:, :-1].double(), packed[:, -1].double())


def within_reach(rows: torch.Tensor) -> torch.Tensor:
    """Rows (K, D) of which none is farther from the middle than REACH times what half of them are, float64.

    One that is farther is moved towards the middle, the median of each number, or it alone would be the first
    component and the measure of all distances. Others are as they were; and all are, if half of them are the same.
    """
    x = rows.double()
    middle = torch.cat([part.median(dim=0).values for part in torch.split(x, COLUMNS, dim=1)])
    far = torch.cdist(x, middle[None], compute_mode="donot_use_mm_for_euclid_dist")[:, 0]
    most = REACH * far.median()
    beyond = (far > most) & (most > 0)
    pulled = middle + (x[beyond] - middle) * (most / far[beyond])[:, None]
    return x.index_put((beyond,), pulled) if bool(beyond.any()) else x


def principal(rows: torch.Tensor, components: int) -> tuple[Basis, torch.Tensor]:
    """The first principal components of K rows (K, D), and the coordinates of the rows, float64 (K, n).

    By the K x K Gram matrix of the centred rows: U S of its eigenvectors is the projection, up to signs. n is at most
    `components`, and what the rows span; 0 if they are all the same.
    """
    mean = rows.double().mean(dim=0)
    centred = rows.double() - mean
    values, vectors = torch.linalg.eigh(centred @ centred.T)
    values, vectors = values.flip(0)[:components], vectors.flip(1)[:, :components]
    there = values > torch.maximum(ROUNDED * values[:1], SAME * rows.double().square().sum())
    scales = values[there].sqrt()
    directions = (vectors[:, there].T @ centred) / scales[:, None]
    return Basis(directions, directions @ mean), vectors[:, there] * scales


def alike(places: torch.Tensor, clusters: int | None, most: int) -> list[int]:
    """The cluster of each of K places (K, n), by Ng, Jordan and Weiss, On Spectral Clustering, NIPS 2001.

    Affinity exp(-d^2 / (2 sigma^2)) with sigma the standard deviation of all coordinates. clusters: how many; None: the
    largest gap between eigenvalues of the normalised affinity says it, at most `most`. Clusters are numbered by their
    first member. One for places that are all the same, or fewer than `clusters`.
    """
    count = len(places)
    if count <= 1 or not places.numel() or count < (clusters or 1):
        return [0] * count
    values, vectors = torch.linalg.eigh(normalised(places))
    number = clusters or _gap(values.flip(0), min(most, count - 1))
    rows = torch.nn.functional.normalize(vectors.flip(1)[:, :number], dim=1)
    return _numbered(_means(rows, number)) if number > 1 else [0] * count


def centres(places: torch.Tensor, labels: list[int]) -> torch.Tensor:
    """The mean place of each cluster, float64 (clusters, n)."""
    chosen = torch.tensor(labels)
    return torch.stack([places[chosen == n].mean(dim=0) for n in range(max(labels) + 1)])


def normalised(places: torch.Tensor) -> torch.Tensor:
    """D^-1/2 A D^-1/2 of the affinity A, whose diagonal is 0: float64 (K, K), symmetric, eigenvalues within [-1, 1].

    A place so far from all others that its affinities vanish has a row of zeros, and no nan.
    """
    square = torch.cdist(places, places, compute_mode="donot_use_mm_for_euclid_dist").square()
    affinity = torch.exp(-square / (2 * places.std(correction=0) ** 2)).fill_diagonal_(0)
    degree = affinity.sum(dim=1)
    root = torch.where(degree > 0, degree.clamp(min=1e-300).rsqrt(), torch.zeros_like(degree))
    return affinity * torch.outer(root, root)


def _gap(values: torch.Tensor, most: int) -> int:
    """c = argmax (lambda_c - lambda_{c+1}) over eigenvalues in falling order, 1 <= c <= most."""
    return int((values[:most] - values[1 : most + 1]).argmax()) + 1


def _means(rows: torch.Tensor, number: int) -> list[int]:
    from sklearn.cluster import KMeans  # noqa: PLC0415

    found = KMeans(number, n_init=10, random_state=0).fit(rows.numpy())
    return [int(label) for label in found.labels_]


def _numbered(labels: list[int]) -> list[int]:
    order = {label: n for n, label in enumerate(dict.fromkeys(labels))}
    return [order[label] for label in labels]
