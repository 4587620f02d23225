"""What every adapter keeps to: found on disk, built from a setting, trained and averaged by fedavg."""

import math

import pytest
import torch

from schemas.base import Choice
from schemas.errors import PluginError
from schemas.messages import ALL
from tests.toys import client, examples, experiment, pictured, setting
from workers.adapters.residual import Bottleneck
from workers.method import Examples, Method
from workers.plugins import load, names
from workers.readout import Cosine
from workers.setting import Setting
from workers.tensors import fingerprint, generator
from workers.training import accuracy

PACKAGE = "workers.adapters"


@pytest.fixture(params=names(PACKAGE))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def of() -> Setting:
    return setting(experiment(seed=3))


def _built(name: str, of: Setting, seed: int = 0) -> torch.nn.Module:
    module: torch.nn.Module = load(PACKAGE, Choice(name=name)).build(of, generator(seed, "init"))
    return module


def _given(name: str, of: Setting, count: int, seed: int) -> Examples:
    """What an adapter of this name takes: features, or images."""
    data = examples(of, count, seed)
    return data if getattr(load(PACKAGE, Choice(name=name)), "cached", True) else pictured(data)


def test_features_become_one_logit_per_class(name: str, of: Setting) -> None:
    logits = _built(name, of)(_given(name, of, 5, 0).x)
    assert logits.shape == (5, len(of.classes)) and logits.dtype == torch.float32


def test_the_generator_alone_decides_how_it_starts(name: str, of: Setting) -> None:
    before = torch.random.get_rng_state()
    one, again = (fingerprint(dict(_built(name, of).state_dict())) for _ in range(2))
    assert one == again
    assert torch.equal(before, torch.random.get_rng_state())


def test_untrained_it_answers_almost_like_zero_shot(name: str, of: Setting) -> None:
    plain = accuracy(Cosine(of.texts, of.scale), examples(of, 400, 1))
    assert accuracy(_built(name, of), _given(name, of, 400, 1)) == pytest.approx(plain, abs=0.05)


def test_what_travels_is_trainable_float32_and_never_the_class_texts(name: str, of: Setting) -> None:
    module = _built(name, of)
    assert set(module.state_dict()) == {k for k, p in module.named_parameters() if p.requires_grad}
    assert all(t.dtype == torch.float32 for t in module.state_dict().values())


@pytest.mark.parametrize("method_name", ["fedavg", "fedprox", "centralised"])
def test_a_round_over_it_lowers_the_loss(method_name: str, name: str, of: Setting) -> None:
    params = {"adapter": name, "epochs": 5, "lr": 0.01}
    method: Method = load("workers.methods", Choice(name=method_name, params=params))
    incoming = method.init(of).tensors[ALL]
    cached = method.traits.cached
    update = method.train(client(of, "a", incoming, cached=cached))
    after = method.train(client(of, "a", {k: t + update.tensors[k] for k, t in incoming.items()}, cached=cached))
    assert after.metrics["loss"] < update.metrics["loss"]
    assert {k: t.shape for k, t in update.tensors.items()} == {k: t.shape for k, t in incoming.items()}


def test_unknown_params_are_refused(name: str) -> None:
    with pytest.raises(PluginError, match="no_such_param"):
        load(PACKAGE, Choice(name=name, params={"no_such_param": 1}))


# --- named by a method


@pytest.mark.parametrize(
    ("adapter", "says"),
    [
        ("residul", "did you mean 'residual'"),
        ({"name": "residual", "params": {"ratio": 1.1}}, "residual: ratio"),
        ({"name": "residual", "params": {"reduction": 0}}, "residual: reduction"),
        ({"name": "linear", "params": {"ratio": 0.5}}, "unknown key 'ratio'"),
        ("a.module.of:Mine", "needs a method of its own"),
        (3, "adapter"),
        ("x" * 100_000, "no adapters plugin"),
    ],
)
def test_an_adapter_that_cannot_be_is_one_line(adapter: object, says: str) -> None:
    with pytest.raises(PluginError) as caught:
        load("workers.methods", Choice(name="fedavg", params={"adapter": adapter}))
    assert says in str(caught.value) and len(str(caught.value)) < 500


def test_the_default_adapter_is_the_linear_head(of: Setting) -> None:
    default, named = (
        load("workers.methods", Choice(name="fedavg", params=params)).init(of).tensors[ALL]
        for params in ({}, {"adapter": {"name": "linear"}})
    )
    assert fingerprint(default) == fingerprint(named)
    assert set(default) == {"weight", "bias"} and torch.equal(default["weight"], of.texts)


# --- CLIP-Adapter (arXiv 2110.04544)


def test_the_bottleneck_is_the_formula_with_two_relus(of: Setting) -> None:
    module = Bottleneck(of.texts, 20.0, generator(0, "init"), ratio=0.3, reduction=4)
    down, up = module.down.detach().double(), module.up.detach().double()
    assert down.shape == (of.dim // 4, of.dim) and up.shape == (of.dim, of.dim // 4)
    x = examples(of, 6, 2).x
    for row, f in enumerate(x.double()):
        hidden = torch.clamp(down @ f, min=0)
        mixed = 0.3 * torch.clamp(up @ hidden, min=0) + 0.7 * f
        expected = 20 * of.texts.double() @ (mixed / mixed.norm())
        assert torch.allclose(module(x)[row].double(), expected, atol=1e-4)


def test_a_ratio_of_0_is_zero_shot_whatever_was_learnt(of: Setting) -> None:
    module = Bottleneck(of.texts, of.scale, generator(0, "init"), ratio=0.0, reduction=4)
    x = examples(of, 6, 2).x
    assert torch.allclose(module(x), Cosine(of.texts, of.scale)(x), atol=1e-5)


def test_a_bottleneck_of_512_by_4_has_131072_parameters_a_quarter_of_the_gates() -> None:
    texts = torch.nn.functional.normalize(torch.randn(7, 512, generator=generator(0)), dim=1)
    module = Bottleneck(texts, 100.0, generator(0, "init"), ratio=0.2, reduction=4)
    assert sum(p.numel() for p in module.parameters()) == 2 * 512 * 512 // 4 == 131_072
    bounds = {"down": 1 / math.sqrt(512), "up": 1 / math.sqrt(128)}  # U(-1/sqrt(n), 1/sqrt(n)), n numbers in
    for name, t in module.state_dict().items():
        assert float(t.abs().max()) <= bounds[name] + 1e-8
        assert float(t.std()) == pytest.approx(bounds[name] / math.sqrt(3), rel=0.02)
