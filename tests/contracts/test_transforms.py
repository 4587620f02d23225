"""What every transform keeps to, and the bound that clipping promises."""

import pytest
import torch

from schemas.base import Choice
from schemas.errors import PluginError
from workers.pipeline import Transform
from workers.plugins import load, names
from workers.tensors import Tensors, fingerprint

PACKAGE = "workers.transforms"
PARAMS: dict[str, dict[str, object]] = {"clip": {"norm": 2.0}, "momentum": {}}


def _update(length: float) -> Tensors:
    """Two tensors that together have this L2 norm: 3-4-5."""
    return {"a": torch.tensor([[0.6 * length]]), "b": torch.tensor([0.0, 0.8 * length])}


def _norm(tensors: Tensors) -> float:
    return sum(float(t.double().square().sum()) for t in tensors.values()) ** 0.5


def test_every_transform_on_disk_is_tested() -> None:
    assert set(names(PACKAGE)) == set(PARAMS)


@pytest.mark.parametrize("name", names(PACKAGE))
def test_names_shapes_and_dtypes_stay_and_the_input_is_left_alone(name: str) -> None:
    transform: Transform = load(PACKAGE, Choice(name=name, params=PARAMS[name]))
    given = _update(5.0) | {"empty": torch.zeros(0), "scalar": torch.tensor(1.0)}
    before = fingerprint(given)
    (one, kept), (again, _) = (transform.on_client(given, {}, torch.Generator().manual_seed(0)) for _ in range(2))
    assert fingerprint(given) == before and fingerprint(one) == fingerprint(again)
    later = fingerprint(transform.on_client(again, kept, torch.Generator())[0]), fingerprint(kept)
    assert later == (fingerprint(transform.on_client(one, kept, torch.Generator())[0]), fingerprint(kept))
    assert {k: (t.shape, t.dtype) for k, t in one.items()} == {k: (t.shape, t.dtype) for k, t in given.items()}


@pytest.mark.parametrize("name", names(PACKAGE))
def test_unknown_params_are_refused(name: str) -> None:
    with pytest.raises(PluginError, match="no_such_param"):
        load(PACKAGE, Choice(name=name, params=PARAMS[name] | {"no_such_param": 1}))


@pytest.mark.parametrize(("length", "expected"), [(5.0, 2.0), (2.0, 2.0), (1.0, 1.0), (0.0, 0.0), (1e30, 2.0)])
def test_clipping_bounds_the_norm_over_all_tensors(length: float, expected: float) -> None:
    clip: Transform = load(PACKAGE, Choice(name="clip", params={"norm": 2.0}))
    clipped, _ = clip.on_client(_update(length), {}, torch.Generator())
    assert _norm(clipped) == pytest.approx(expected, rel=1e-6)
    if length:
        assert float(clipped["b"][1] / clipped["a"][0, 0]) == pytest.approx(0.8 / 0.6, rel=1e-6)


def test_a_norm_that_is_not_above_zero_is_refused() -> None:
    with pytest.raises(PluginError, match="norm"):
        load(PACKAGE, Choice(name="clip", params={"norm": 0}))
