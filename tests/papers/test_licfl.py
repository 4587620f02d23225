"""LICFL and ALICFL (arXiv 2407.17999) against their invariants, numbers derived here."""

import math

import pytest
import torch

from orchestrator.aggregators.mean import Mean
from schemas.base import Choice
from schemas.errors import ConfigError
from schemas.messages import ALL, VISITORS
from tests.unit.test_clustering import planted
from workers.fedopt import RULES
from workers.method import State
from workers.methods.licfl import Licfl
from workers.plugins import load
from workers.tensors import Tensors, fingerprint

MEAN = Mean(Mean.Params())


def licfl(**params: object) -> Licfl:
    made: Licfl = load("workers.methods", Choice(name="licfl", params=params))
    return made


def beginning(dim: int = 40) -> State:
    return State(tensors={ALL: {"weight": torch.linspace(-1, 1, dim), "bias": torch.zeros(2)}})


def updates(rows: torch.Tensor) -> dict[str, Tensors]:
    return {f"client-{i:02}": {"weight": row, "bias": row[:2] / 2} for i, row in enumerate(rows)}


def merged(method: Licfl, state: State, group: str, sent: dict[str, Tensors], weight: float = 1.0) -> State:
    fold = method.fold(MEAN, state, group)
    for client in sorted(sent):
        fold.add(client, sent[client], weight, 1.0)
    return method.merge(state, {group: fold.result()}, 1.0)


def test_planted_groups_get_a_model_each_of_their_members_alone() -> None:
    rows = planted(3, 4)
    state = merged(licfl(), beginning(), ALL, updates(rows))
    assert sorted(state.tensors) == [ALL, "cohort-0", "cohort-1", "cohort-2", VISITORS]
    for n in range(3):
        members = [c for c, cohort in state.assignment.items() if cohort == f"cohort-{n}"]
        assert members == [f"client-{i:02}" for i in range(4 * n, 4 * n + 4)]
        expected = beginning().tensors[ALL]["weight"] + rows[4 * n : 4 * n + 4].double().mean(dim=0).float()
        assert torch.allclose(state.tensors[f"cohort-{n}"]["weight"], expected, atol=1e-6)


def test_in_version_1_too_members_weigh_as_they_say_and_lag() -> None:
    rows = planted(1, 3)
    fold, told = licfl(cohorts=1).fold(MEAN, beginning(), ALL), ((1.0, 1.0), (2.0, 0.5), (5.0, 1.0))
    for (client, update), (weight, discount) in zip(updates(rows).items(), told, strict=True):
        fold.add(client, update, weight, discount)
    expected = (1 * rows[0] + 2 * 0.5 * rows[1] + 5 * rows[2]) / 8
    assert torch.allclose(fold.result()["cohort-0/weight"], expected, atol=1e-5)


def test_a_cohort_moves_by_the_servers_share_of_its_step() -> None:
    method, sent = licfl(cohorts=1), updates(planted(1, 3))
    states = [method.merge(beginning(), {ALL: _all(method, sent)}, share) for share in (1.0, 0.25)]
    whole, part = (s.tensors["cohort-0"]["weight"] - beginning().tensors[ALL]["weight"] for s in states)
    assert torch.allclose(part, whole / 4, atol=1e-6)


def _all(method: Licfl, sent: dict[str, Tensors]) -> Tensors:
    fold = method.fold(MEAN, beginning(), ALL)
    for client, update in sent.items():
        fold.add(client, update, 1.0, 1.0)
    return fold.result()


def test_the_projection_has_as_many_components_as_asked_for() -> None:
    for components in (2, 5):
        state = merged(licfl(components=components), beginning(), ALL, updates(planted(3, 4)))
        assert len(state.server["cohorting/basis"]) == components


def test_visitors_get_the_unweighted_mean_of_the_cohorts_models() -> None:
    rows = torch.cat([planted(1, 6, seed=1), planted(1, 2, seed=2)])  # 6 and 2 clients, and each cohort counts once
    state = merged(licfl(cohorts=2), beginning(), ALL, updates(rows))
    mean = (state.tensors["cohort-0"]["weight"] + state.tensors["cohort-1"]["weight"]) / 2
    assert torch.allclose(state.tensors[VISITORS]["weight"], mean, atol=1e-6)
    assert fingerprint(state.tensors[ALL]) == fingerprint(beginning().tensors[ALL]), "where newcomers begin"


def test_with_one_cohort_and_plain_averaging_it_is_federated_averaging_bit_for_bit() -> None:
    sent, method = updates(planted(2, 4)), licfl(cohorts=1)
    plain = load("workers.methods", Choice(name="fedavg"))
    ours = theirs = beginning()
    for n in range(3):
        ours = merged(method, ours, ALL if n == 0 else "cohort-0", sent)
        theirs = merged(plain, theirs, ALL, sent)
        assert fingerprint(ours.tensors["cohort-0"]) == fingerprint(theirs.tensors[ALL])
        assert fingerprint(ours.tensors[VISITORS]) == fingerprint(theirs.tensors[ALL])


def test_a_cohorts_model_depends_on_its_members_only() -> None:
    method, state = licfl(), merged(licfl(), beginning(), ALL, updates(planted(2, 4)))
    moved = merged(method, state, "cohort-1", {"client-04": {"weight": torch.ones(40), "bias": torch.ones(2)}})
    assert fingerprint(moved.tensors["cohort-0"]) == fingerprint(state.tensors["cohort-0"])
    assert fingerprint(moved.tensors["cohort-1"]) != fingerprint(state.tensors["cohort-1"])


def test_a_constant_vector_added_to_all_updates_forms_the_same_cohorts() -> None:
    rows = planted(3, 4)
    one, two = (merged(licfl(), beginning(), ALL, updates(r)).assignment for r in (rows, rows + 5.0))
    assert one == two


@pytest.mark.parametrize("size", [1e2, 1e30])
def test_an_enormous_update_takes_no_cohort_along_but_its_own(size: float) -> None:
    sent = updates(planted(3, 6))
    honest = merged(licfl(), beginning(), ALL, sent)
    blow = {k: size * torch.linspace(-1, 1, t.numel()) * t.norm() for k, t in sent["client-07"].items()}
    state = merged(licfl(), beginning(), ALL, sent | {"client-07": blow})
    owners = set(sent) - {"client-07"}
    assert {c: state.assignment[c] for c in owners} == {c: honest.assignment[c] for c in owners}
    spared = {"cohort-0", "cohort-1", "cohort-2"} - {honest.assignment["client-07"], state.assignment["client-07"]}
    assert spared and all(fingerprint(state.tensors[c]) == fingerprint(honest.tensors[c]) for c in spared)


def test_what_a_client_sends_has_the_names_and_shapes_of_its_model() -> None:
    model = beginning().tensors[ALL]
    assert {k: t.shape for k, t in licfl().form(model).items()} == {k: t.shape for k, t in model.items()}


def test_a_newcomer_is_placed_with_those_whose_updates_are_like_its_own_and_moves_no_model() -> None:
    rows = planted(3, 5)
    early = {c: u for c, u in updates(rows).items() if c not in ("client-04", "client-09", "client-14")}
    late = {c: u for c, u in updates(rows).items() if c not in early}
    method = licfl()
    first = merged(method, beginning(), ALL, early)
    then = merged(method, first, ALL, late)
    assert {c: then.assignment[c] for c in late} == {f"client-{5 * n + 4:02}": f"cohort-{n}" for n in range(3)}
    assert {c: then.assignment[c] for c in early} == dict(first.assignment)
    for group in first.tensors:
        assert fingerprint(first.tensors[group]) == fingerprint(then.tensors[group])


def test_two_rounds_of_each_rule_by_hand() -> None:
    # One number; model 1, steps 0.5 and then -0.2. beta1 0.9, beta2 0.99, tau 1e-3, so v starts at 1e-6; eta 0.1.
    # m: 0.05, then 0.9 * 0.05 - 0.02 = 0.025.
    # Adagrad v: 0.250001, 0.290001. Adam v: 0.99e-6 + 0.0025, then 0.99 of it + 0.01 * 0.04.
    # Yogi v: 1e-6 - 0.0025 * sign(1e-6 - 0.25) = 0.002501, then - 0.0004 * sign(0.002501 - 0.04): 0.002901.
    adam = 0.99e-6 + 0.0025
    v = {
        "fedadagrad": (0.250001, 0.290001),
        "fedyogi": (0.002501, 0.002901),
        "fedadam": (adam, 0.99 * adam + 0.0004),
    }
    for rule, (one, two) in v.items():
        method, model, kept = licfl(rule=rule, eta=0.1), {"w": torch.tensor([1.0])}, {}
        expected = 1.0
        for step, m, now in ((0.5, 0.05, one), (-0.2, 0.025, two)):
            model, kept = method.moved(model, {"w": torch.tensor([step])}, kept, 1.0)
            expected += 0.1 * m / (math.sqrt(now) + 1e-3)
            assert float(kept[f"{rule}/w"]) == pytest.approx(now, rel=1e-5)
            assert float(model["w"]) == pytest.approx(expected, rel=1e-5)


def test_the_rule_that_is_chosen_has_the_least_score_and_every_rules_moments_go_on() -> None:
    method, draw = licfl(rule="adaptive"), torch.Generator().manual_seed(3)
    model, kept = {"w": torch.randn(20, generator=draw)}, {}
    for n in range(1, 13):
        step, was = {"w": torch.randn(20, generator=draw) / n}, dict(kept)
        before = float(model["w"].double().norm())
        moved, kept = method.moved(model, step, kept, 1.0)
        counted = kept["chosen"] - was.get("chosen", torch.zeros(4))
        best = int(counted.argmax())
        assert int(counted.sum()) == 1 and best == int(kept["scores"].argmin())
        assert float(moved["w"].double().norm()) - before == pytest.approx(float(kept["scores"][best]), abs=1e-5)
        square = step["w"].square()
        for rule in RULES[1:]:
            old = was.get(f"{rule}/w", torch.full((20,), 1e-6))
            assert bool((kept[f"{rule}/w"] >= 0).all())
            if rule == "fedadagrad":
                assert bool((kept[f"{rule}/w"] >= old).all())
            if rule == "fedyogi":
                assert bool(((kept[f"{rule}/w"] - old).abs() <= 0.01 * square + 1e-8).all()), "but for float32"
            assert not torch.equal(kept[f"{rule}/w"], old), "also of a rule that was not chosen"
        model = moved
    assert int(kept["chosen"].sum()) == 12


def test_each_cohort_has_moments_of_its_own() -> None:
    method = licfl(rule="adaptive")
    state = merged(method, beginning(), ALL, updates(planted(2, 4)))
    moved = merged(method, state, "cohort-1", {"client-04": {"weight": torch.ones(40), "bias": torch.ones(2)}})
    for name, was in state.server.items():
        same_rule = name == "cohort-1/last"  # it may be chosen again
        assert same_rule or torch.equal(was, moved.server[name]) != name.startswith("cohort-1/")
    assert float(moved.server["cohort-1/chosen"].sum()) == 2
    assert float(moved.server["cohort-0/chosen"].sum()) == 1


def heard(sent: dict[str, Tensors], losses: dict[str, float], method: Licfl, state: State, group: str) -> State:
    """The next state, where clients also say their losses."""
    fold = method.fold(MEAN, state, group)
    for client in sorted(sent):
        if client in losses:
            fold.hear(client, losses[client])  # type: ignore[attr-defined]
        fold.add(client, sent[client], 1.0, 1.0)
    return method.merge(state, {group: fold.result()}, 1.0)


def test_by_loss_each_rule_is_tried_once_and_then_the_one_that_has_lowered_it_most() -> None:
    # What a version hears is the loss of the model that the rule before has made: 2 of version 0, 1 of FedAvg's, which
    # scores log(1/2); Adagrad's 1, log 1; Yogi's 0.5, log(1/2), and the first of equals wins; Adam's 2, log 4. FedAvg
    # then makes 1, log(1/2), and again 0.9, log 0.9: Yogi's turn, and from 0.9 to 1.8 is log 2: now FedAvg's is least.
    method, model, kept = licfl(rule="adaptive", selection="loss"), {"w": torch.ones(3)}, Tensors()
    expected = ["fedavg", "fedadagrad", "fedyogi", "fedadam", "fedavg", "fedavg", "fedyogi", "fedavg"]
    losses = (2.0, 1.0, 1.0, 0.5, 2.0, 1.0, 0.9, 1.8)
    scores: dict[str, float] = {}
    for n, loss in enumerate(losses):
        if n:
            scores[expected[n - 1]] = math.log(loss / losses[n - 1])
        was = kept
        _, kept = method.moved(model, {"w": torch.full((3,), 0.1), "loss/a": torch.tensor(loss)}, kept, 1.0)
        counted = kept["chosen"] - was.get("chosen", torch.zeros(4))
        assert RULES[int(counted.argmax())] == expected[n]
        assert kept["scores"].tolist() == pytest.approx([scores.get(rule, -math.inf) for rule in RULES], rel=1e-5)


def test_by_loss_a_rule_is_judged_by_the_median_of_members_who_were_heard_before_and_after() -> None:
    sent, method = updates(planted(1, 6)), licfl(rule="adaptive", selection="loss", cohorts=1)
    a, b, c, d = sorted(sent)[:4]
    state = heard(sent, {a: 1.0, b: 2.0, c: 4.0}, method, beginning(), ALL)
    # a: 1/2, b: 4/2 = 2, c: 1e300, which counts as 1e12; d was not heard before. The median is log 2.
    state = heard(sent, {a: 0.5, b: 4.0, c: 1e300, d: 1e-9}, method, state, "cohort-0")
    assert state.server["cohort-0/scores"].tolist() == pytest.approx([math.log(2), *[-math.inf] * 3])
    # Of these only d was heard the last time: 1/1e-3 from 1e-9 is log 1e6, and it is of Adagrad's model.
    state = heard(sent, {d: 1e-3}, method, state, "cohort-0")
    assert state.server["cohort-0/scores"].tolist() == pytest.approx([math.log(2), math.log(1e6), *[-math.inf] * 2])
    # Nobody who is heard now was heard the last time: nothing is learnt of Yogi's model.
    state = heard(sent, {a: 5.0}, method, state, "cohort-0")
    assert state.server["cohort-0/scores"].tolist() == pytest.approx([math.log(2), math.log(1e6), *[-math.inf] * 2])


@pytest.mark.parametrize("loss", [-1.0, 0.0, 1e-300, 1e300])
def test_by_loss_one_that_cannot_be_does_no_harm(loss: float) -> None:
    sent, method = updates(planted(1, 3)), licfl(rule="adaptive", selection="loss", cohorts=1)
    state = heard(sent, dict.fromkeys(sent, 1.0), method, beginning(), ALL)
    state = heard(sent, dict.fromkeys(sent, loss), method, state, "cohort-0")
    assert abs(float(state.server["cohort-0/scores"][0])) == pytest.approx(math.log(1e12), rel=1e-5)


def test_by_loss_where_nobody_says_any_the_first_rule_stays() -> None:
    sent, method = updates(planted(1, 3)), licfl(rule="adaptive", selection="loss", cohorts=1)
    state = beginning()
    for n in range(3):
        state = heard(sent, {}, method, state, "cohort-0" if n else ALL)
    assert state.server["cohort-0/chosen"].tolist() == [3, 0, 0, 0]


def test_each_cohort_chooses_by_the_losses_of_its_own_members() -> None:
    sent, method = updates(planted(2, 4)), licfl(rule="adaptive", selection="loss")
    state = heard(sent, {c: 1.0 + n for n, c in enumerate(sorted(sent))}, method, beginning(), ALL)
    own = {name for name in state.server if "/loss/" in name}
    assert own == {f"cohort-{n // 4}/loss/client-{n:02}" for n in range(8)}
    then = heard({"client-05": sent["client-05"]}, {"client-05": 3.0}, method, state, "cohort-1")
    assert then.server["cohort-1/scores"][0] == pytest.approx(math.log(3 / 6))
    assert torch.equal(then.server["cohort-0/scores"], state.server["cohort-0/scores"])


def test_what_a_fixed_rule_is_chosen_by_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="selection: loss is for rule: adaptive, and the rule is fedyogi"):
        licfl(rule="fedyogi", selection="loss")
