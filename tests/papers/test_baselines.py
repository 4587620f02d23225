"""FedProx (arXiv 1812.06127), and the two ends that federation lies between: everybody alone, and all in one place."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from schemas import experiment as schema
from schemas.base import Choice
from schemas.errors import PluginError
from schemas.experiment import Experiment
from schemas.messages import ALL
from tests.runs.here import run
from tests.toys import ToyBackbone, client, experiment, paint, setting
from workers.data.features import Features
from workers.data.owners import Owner, read_owners
from workers.method import Client, Examples
from workers.methods.fedavg import FedAvg
from workers.methods.fedprox import FedProx
from workers.methods.local_only import LocalOnly
from workers.plugins import load
from workers.setting import agree
from workers.tensors import Tensors, fingerprint, norm

# --- FedProx

GRADIENT_DESCENT = {"optimiser": "adam", "betas": (0.0, 0.0), "eps": 1e6, "lr": 0.2e6, "weight_decay": 0.0}
"""Adam without memory: a step is lr g / (|g| + eps), which is 0.2 g for gradients far below a million."""


def test_with_mu_0_it_is_fedavg_bit_for_bit() -> None:
    of = setting()
    incoming = FedAvg(FedAvg.Params()).init(of).tensors[ALL]
    one = client(of, "a", incoming)
    expected = FedAvg(FedAvg.Params(epochs=3)).train(one)
    found = FedProx(FedProx.Params(epochs=3, mu=0)).train(one)
    assert fingerprint(found.tensors) == fingerprint(expected.tensors)
    assert found.metrics == expected.metrics


def _gradient(at: Tensors, data: Examples, scale: float) -> Tensors:
    w = {k: t.detach().double().clone().requires_grad_() for k, t in at.items()}
    x = functional.normalize(data.x.double(), dim=1)
    loss = functional.cross_entropy(scale * (x @ w["weight"].T + w["bias"]), data.y)
    return {k: g.detach() for k, g in zip(w, torch.autograd.grad(loss, list(w.values())), strict=True)}


def test_two_steps_are_those_of_the_paper() -> None:
    # Eq. 2: h(w) = F(w) + mu/2 ||w - w_t||^2, so grad h = grad F + mu (w - w_t). By gradient descent with step 0.2:
    # w1 = w_t - 0.2 grad F(w_t), where the new term is 0 yet, and w2 = w1 - 0.2 (grad F(w1) + mu (w1 - w_t)).
    of, mu = setting(), 0.7
    start = FedAvg(FedAvg.Params()).init(of).tensors[ALL]
    one = client(of, "a", start)
    first = {k: start[k].double() - 0.2 * g for k, g in _gradient(start, one.train, of.scale).items()}
    second = {
        k: first[k] - 0.2 * (g + mu * (first[k] - start[k])) for k, g in _gradient(first, one.train, of.scale).items()
    }
    params = FedProx.Params.model_validate(GRADIENT_DESCENT | {"mu": mu, "batch": 40, "epochs": 2})
    update = FedProx(params).train(one)
    for k, w in second.items():
        assert torch.allclose(start[k] + update.tensors[k].double(), w, atol=2e-6), k
    assert norm({k: second[k] - first[k] for k in second}) > 0.01  # the second step is no small matter here


def test_the_more_mu_the_nearer_the_client_stays() -> None:
    of = setting()
    one = client(of, "a", FedAvg(FedAvg.Params()).init(of).tensors[ALL])
    lengths = []
    for mu in (0.0, 0.5, 2.0):
        params = FedProx.Params.model_validate(GRADIENT_DESCENT | {"mu": mu, "batch": 40, "epochs": 10})
        lengths.append(norm(FedProx(params).train(one).tensors))
    assert lengths[0] > 1.1 * lengths[1] > 1.1 * 1.1 * lengths[2]


@pytest.mark.parametrize("mu", [-1, "near", float("nan"), float("inf")])
def test_an_impossible_mu_is_refused(mu: object) -> None:
    with pytest.raises(PluginError, match="fedprox: mu: "):
        load("workers.methods", Choice(name="fedprox", params={"mu": mu}))


# --- everybody alone

ROUNDS = {"versions": 3, "in_flight": 2, "quorum": 2, "floor": 2, "grace_s": 0, "max_staleness": 0}
ALONE = {**ROUNDS, "in_flight": 1, "quorum": 1, "floor": 1}


def test_a_client_goes_on_from_its_own_adapter_as_if_fedavg_had_sent_it() -> None:
    # FedAvg with one client is that client alone: w <- w + (trained - w). Three versions of either end in one place.
    of = setting(experiment(seed=4))
    alone, average = LocalOnly(LocalOnly.Params()), FedAvg(FedAvg.Params())
    own: Tensors = {}
    model = average.init(of).tensors[ALL]
    for base in range(3):
        update = average.train(client(of, "a", model, base=base))
        model = {k: t + update.tensors[k] for k, t in model.items()}
        kept = alone.train(client(of, "a", {}, base=base, private=own))
        assert kept.tensors == {}
        own = kept.private
        assert fingerprint(own) == fingerprint(model)
    personal = alone.personal(of, ALL, {}, own)
    assert fingerprint(dict(personal.state_dict())) == fingerprint(model)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("images"))


def _only(images: Path, rounds: dict[str, object], **changes: object) -> Experiment:
    evaluate = {"every": 1, "final": True}
    method = {"name": "local_only", "params": {"lr": 0.05, "epochs": 3}}
    return experiment(images, **{"method": method, "rounds": rounds, "evaluate": evaluate, **changes})


def test_nothing_is_shared_and_the_global_model_stays(images: Path, tmp_path: Path) -> None:
    outcome = run(_only(images, ROUNDS, codec={"name": "fp16"}), tmp_path)
    assert outcome.tensors == {ALL: {}} and outcome.report.version == 3
    held_out = outcome.report.accuracy.held_out["striped"]
    assert held_out.final == held_out.zero_shot  # version 0 of the linear head is zero-shot


def test_who_else_takes_part_makes_no_difference_to_a_client(images: Path, tmp_path: Path) -> None:
    together = run(_only(images, ROUNDS), tmp_path / "together").events
    selector = {"name": "tests.runs.plugins:Only", "params": {"client": "noisy-0"}}
    alone = run(_only(images, ALONE, selector=selector), tmp_path / "alone").events
    losses = [
        [e.facts["metrics"]["loss"] for e in events if e.event == "accepted" and e.client == "noisy-0"]
        for events in (together, alone)
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 3 and losses[0] == sorted(losses[0], reverse=True)  # each goes on from the last


# --- all in one place


def _union(owners: list[Owner], features: Features) -> Examples:
    x = torch.cat([features.images(o.images.paths).features[torch.from_numpy(o.parts.train)] for o in owners])
    y = torch.cat([torch.from_numpy(o.images.labels[o.parts.train]) for o in owners])
    return Examples(x, y)


def test_centralised_is_one_training_on_the_union_of_all_training_images(images: Path, tmp_path: Path) -> None:
    asked = experiment(images, method={"name": "centralised"}, rounds={**ALONE, "versions": 1})
    assert asked.data is not None
    outcome = run(asked, tmp_path)
    (trained_by,) = [name for name, share in outcome.report.ledger.items() if share.accepted]
    features = Features(ToyBackbone(ToyBackbone.Params()), tmp_path / "mine")
    owners = read_owners(asked.data, seed=asked.seed, cache=tmp_path)
    agreed = schema.Setting(experiment=asked, classes=owners.classes, fingerprint=features.backbone.fingerprint)
    of = agree(agreed, features)
    average = FedAvg(FedAvg.Params())
    union = _union(list(owners.clients.values()), features)
    assert len(union) == 2 * 18  # two domains of 3 classes of 10 images, 60 % of each to train on
    start = average.init(of).tensors[ALL]
    update = average.train(Client(trained_by, 0, of, start, union, union))
    expected = {k: t + update.tensors[k] for k, t in start.items()}
    assert fingerprint(outcome.tensors[ALL]) == fingerprint(expected)
    assert outcome.report.ledger[trained_by].weight == 36


def test_everybody_is_still_judged_on_images_of_its_own(images: Path, tmp_path: Path) -> None:
    rounds = {**ALONE, "versions": 2}
    pooled = run(experiment(images, method={"name": "centralised"}, rounds=rounds), tmp_path / "pooled")
    average = run(experiment(images, method={"name": "fedavg"}, rounds={**ROUNDS, "versions": 2}), tmp_path / "average")
    tests = [
        {e.client: e.facts["examples"] for e in outcome.events if e.event == "evaluated"}
        for outcome in (pooled, average)
    ]
    assert tests[0] == tests[1] == {"flat-0": 6.0, "noisy-0": 6.0, "striped": 30.0}
