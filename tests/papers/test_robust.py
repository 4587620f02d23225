"""Robust rules against their definitions and their breakdown, with numbers derived here."""

import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infra.blobs import FileBlobs
from orchestrator.commits import Commits
from orchestrator.plan import plan
from schemas.base import Choice
from schemas.errors import AggregationError, ConfigError
from tests.runs.here import Fuse, Killed, run
from tests.runs.test_crash import facts, operations, places
from tests.runs.test_embedded import SLOW, SYNC, events, small
from tests.toys import client, paint, setting
from workers.method import KEPT, Update
from workers.pipeline import Codec, of_method, seal
from workers.plugins import load
from workers.tensors import Tensors

ROBUST = {
    "median": {"hostile": 2}, "trimmed_mean": {"hostile": 2}, "krum": {"hostile": 2}, "geometric_median": {},
    "centered_clipping": {"tau": 1.0, "steps": 10}, "norm_bound": {"bound": 2.0},
}  # fmt: skip


def rule(name: str, **params: Any) -> Any:
    return load("orchestrator.aggregators", Choice(name=name, params=params))


def folded(made: Any, rows: list[list[float]], weights: list[float] | None = None, kept: Tensors | None = None) -> Any:
    fold = made.fold(kept)
    for i, row in enumerate(rows):
        fold.add(f"client-{i}", {"w": torch.tensor(row)}, (weights or [1.0] * len(rows))[i], 1.0)
    return fold


def of(made: Any, rows: list[list[float]], weights: list[float] | None = None) -> list[float]:
    found: list[float] = folded(made, rows, weights).result()["w"].tolist()
    return found


def test_the_median_takes_the_middle_and_of_two_their_mean() -> None:
    assert of(rule("median"), [[1.0, 5.0], [9.0, 4.0], [2.0, 100.0]]) == [2.0, 5.0]
    assert of(rule("median"), [[1.0], [2.0], [4.0], [100.0]]) == [3.0]


def test_the_trimmed_mean_drops_the_ends_of_each_number() -> None:
    rows = [[0.0, 1.0], [1.0, -50.0], [2.0, 2.0], [3.0, 3.0], [90.0, 4.0]]
    assert of(rule("trimmed_mean", hostile=1), rows) == [2.0, 2.0]  # (1 + 2 + 3) / 3 and (1 + 2 + 3) / 3
    assert of(rule("trimmed_mean", hostile=0), rows) == pytest.approx([19.2, -8.0])


def test_krum_sums_squared_distances_to_its_nearest() -> None:
    # n = 5, f = 1: two nearest each, at 0, 1, 3, 4 and 100. Squares: 0: 1 + 9 = 10; 1: 1 + 4 = 5; 3: 1 + 4 = 5;
    # 4: 1 + 9 = 10; 100: 96^2 + 97^2. Of the equal 1 and 3 the first client counts. Of 0, 2, 3 and 5.2 the second wins:
    # 4 + 9, 1 + 4, 1 + 4.84, 4.84 + 10.24. Fourth powers would put them 97, 17, 24, 128.
    assert of(rule("krum"), [[0.0], [1.0], [3.0], [4.0], [100.0]]) == [1.0]
    fold = folded(rule("krum"), [[0.0], [2.0], [3.0], [5.2], [100.0]])
    scores = fold.scores(torch.stack(list(fold.rows.values())).double())
    assert scores[:4].tolist() == pytest.approx([13.0, 5.0, 5.84, 15.08], rel=1e-6)


def test_multi_krum_is_the_mean_of_the_best() -> None:
    rows = [[0.0], [1.0], [3.0], [4.0], [100.0], [2.0]]
    # n = 6, f = 1: three nearest. 0: 1+4+9 = 14, 1: 1+1+4 = 6, 3: 1+1+4 = 6, 4: 1+4+9 = 14, 2: 1+1+4 = 6.
    assert of(rule("krum", multi=3), rows) == [2.0]


def test_the_geometric_median_of_three_corners_is_the_point_that_sees_them_at_120_degrees() -> None:
    # (0, 0), (1, 0), (0, 1): Fermat's point is (t, t) with t = (3 - sqrt 3) / 6.
    t = (3 - 3**0.5) / 6
    assert of(rule("geometric_median", steps=500), [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]) == pytest.approx(
        [t, t], abs=1e-4
    )


def test_with_most_of_the_weight_one_update_is_the_geometric_median() -> None:
    rows = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    assert of(rule("geometric_median", steps=500), rows, [10.0, 1.0, 1.0]) == pytest.approx([0.0, 0.0], abs=1e-3)


def test_no_update_is_longer_than_the_norm_bound() -> None:
    # (3, 4) has length 5 and is shortened to 1: (0.6, 0.8). Mean with (0, 0.5).
    assert of(rule("norm_bound", bound=1.0), [[3.0, 4.0], [0.0, 0.5]]) == pytest.approx([0.6 / 2, (0.8 + 0.5) / 2])


def test_centred_clipping_by_hand_and_its_centre_is_kept() -> None:
    # tau 1, one step from 0: (10 -> 1, 0.5, -0.5) / 3 = 1/3. Then from 1/3: (1, 1/6, -5/6) / 3 + 1/3 = 4/9.
    made, rows = rule("centered_clipping", tau=1.0, steps=1), [[10.0], [0.5], [-0.5]]
    first = folded(made, rows)
    assert first.result()["w"].tolist() == pytest.approx([1 / 3])
    second = folded(made, rows, kept=first.kept)
    assert second.result()["w"].tolist() == pytest.approx([4 / 9])
    # Two steps from 0 are one step from where one step ends.
    assert of(rule("centered_clipping", tau=1.0, steps=2), rows) == pytest.approx([4 / 9])


@pytest.mark.parametrize("name", ["median", "trimmed_mean", "krum", "centered_clipping", "norm_bound"])
def test_who_claims_a_great_weight_has_no_more_say(name: str) -> None:
    rows = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.5, 0.5], [0.4, 0.1], [0.2, 0.9], [-3.0, 2.0]]
    assert of(rule(name), rows, [1.0] * 6 + [1e12]) == of(rule(name), rows)


@pytest.mark.parametrize("name", ROBUST)
def test_equal_updates_are_what_comes_out(name: str) -> None:
    # Centred clipping from 0 gets there within tau * steps = 10, and the norm bound of 2 lets it be.
    update = [0.5, -1.0, 0.25]
    assert of(rule(name, **ROBUST[name]), [update] * 7) == pytest.approx(update, abs=1e-6)


@pytest.mark.parametrize("name", [name for name in ROBUST if name != "norm_bound"])
@given(seed=st.integers(0, 10**6))
def test_what_is_added_to_all_updates_is_added_to_the_outcome(name: str, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    rows, shift = torch.randn(9, 3, generator=draw), 10 * torch.randn(3, generator=draw)
    made = rule(name, **ROBUST[name])
    # The centre that clipping begins from moves along; the others know none.
    here, there = (folded(made, r.tolist(), kept={"centre": c}) for r, c in ((rows, 0 * shift), (rows + shift, shift)))
    assert torch.allclose(here.result()["w"] + shift, there.result()["w"], atol=1e-3)


@pytest.mark.parametrize(("name", "params"), [("trimmed_mean", {"hostile": 0}), ("norm_bound", {"bound": 1e9}),
    ("centered_clipping", {"tau": 1e9, "steps": 1})])  # fmt: skip
def test_without_bounds_a_rule_is_the_mean(name: str, params: dict[str, float]) -> None:
    rows = torch.randn(6, 4, generator=torch.Generator().manual_seed(2)).tolist()
    assert of(rule(name, **params), rows) == pytest.approx(of(rule("mean"), rows), abs=1e-6)


def test_along_a_line_the_geometric_median_is_the_median() -> None:
    rows = [[-4.0], [0.0], [1.0], [3.0], [50.0]]
    assert of(rule("geometric_median", steps=500, tolerance=1e-12), rows) == pytest.approx([1.0], abs=1e-3)


def test_a_step_of_weiszfeld_leaves_a_quarter_of_what_two_of_ten_pull() -> None:
    # Eight at 0 and two at 1e6 sides away: from v = t * 1e6 on, b is 1 / t for each honest and 1 / (1 - t) for each
    # hostile one, so t becomes 2t / (8 (1 - t) + 2t). The mean is at 0.2.
    rows, t = [[0.0]] * 8 + [[1e6]] * 2, 0.2
    for steps in range(1, 6):
        t = 2 * t / (8 * (1 - t) + 2 * t)
        assert of(rule("geometric_median", steps=steps), rows) == pytest.approx([t * 1e6], rel=1e-5)
    assert of(rule("geometric_median"), [[0.0]] * 8 + [[1e9]] * 2) == pytest.approx([0.0], abs=1e-3)


def test_tensors_belong_together_by_name_in_whatever_order_they_come() -> None:
    fold = rule("median").fold()
    for who, (a, b) in {"x": (1.0, 10.0), "y": (2.0, 20.0), "z": (3.0, 30.0)}.items():
        named = {"a": torch.tensor([a, a]), "b": torch.tensor(b)}
        fold.add(who, named if who == "y" else dict(reversed(named.items())), 1.0, 1.0)
    assert {name: t.tolist() for name, t in fold.result().items()} == {"a": [2.0, 2.0], "b": 20.0}


def sent(momentum: Any, updates: list[torch.Tensor], codec: str = "raw") -> list[torch.Tensor]:
    """What a client's updates become on their way, one after the other."""
    one, private, found = client(setting(), "a", {}), Tensors(), []
    coder: Codec = load("workers.codecs", Choice(name=codec))
    for x in updates:
        sealed = seal(one, Update({"w": x}, 1.0), private=private, codec=coder, transforms=[momentum])
        private = sealed.private
        assert of_method(private) == {}, "no method sees it"
        found.append(coder.decode(sealed.packed)["w"])
    return found


def momentum(beta: float) -> Any:
    return load("workers.transforms", Choice(name="momentum", params={"beta": beta}))


def test_momentum_by_hand() -> None:
    # beta 3/4: 4, then 3/4 * 4 + 1/4 * 8 = 5, then 3/4 * 5 + 1/4 * 1 = 4. With fp16 too: what it kept back comes after.
    updates = [torch.tensor([x]) for x in (4.0, 8.0, 1.0)]
    assert torch.cat(sent(momentum(0.75), updates)).tolist() == [4.0, 5.0, 4.0]
    assert torch.cat(sent(momentum(0.75), updates, "fp16")).tolist() == [4.0, 5.0, 4.0]
    assert torch.cat(sent(momentum(0.0), updates)).tolist() == [4.0, 8.0, 1.0]


def test_momentum_leaves_less_room_to_push_a_little_in_every_version() -> None:
    # Updates of eight owners are noise of variance 1 around 0; two push, always the same way, no further than the noise
    # reaches, which is what tau allows for. A mean with weights (1 - beta) beta^k has the variance (1 - beta)^2 / (1 -
    # beta^2) = (1 - beta) / (1 + beta): with 0.9 a nineteenth, so the noise reaches 4.36 times less far.
    beta, numbers, versions, draw = 0.9, 200, 60, torch.Generator().manual_seed(4)
    noise = [list(torch.randn(versions, numbers, generator=draw)) for _ in range(8)]
    pushed = torch.ones(numbers) / numbers**0.5

    def drift(rate: float) -> float:
        honest = [sent(momentum(rate), updates)[versions // 2 :] for updates in noise]
        reach = float(torch.stack([torch.stack(h) for h in honest]).norm(dim=2).mean())
        moved, kept = torch.zeros(numbers), Tensors()
        for updates in zip(*honest, strict=True):
            rows = [u.tolist() for u in updates] + [(reach * pushed).tolist()] * 2
            fold = folded(rule("centered_clipping", tau=reach), rows, kept=kept)
            moved, kept = moved + fold.result()["w"], fold.kept
        return float(moved @ pushed)

    assert drift(0.0) / drift(beta) == pytest.approx(((1 + beta) / (1 - beta)) ** 0.5, rel=0.25)


def test_what_momentum_mixes_is_refused_where_single_updates_count(images: Path) -> None:
    transforms = [{"name": "momentum"}]
    with pytest.raises(ConfigError, match="licfl looks at single updates, which transform momentum mixes with earlier"):
        plan(small(images, method={"name": "licfl"}, transforms=transforms))
    with pytest.raises(ConfigError, match=r"which transform momentum mixes with .*; use apply: delta"):
        plan(small(images, transforms=transforms, rounds={**SYNC, "apply": "mix"}))


@pytest.mark.parametrize("name", ["median", "trimmed_mean", "krum", "geometric_median", "norm_bound"])
def test_an_owner_whose_late_update_comes_beside_its_newer_one_counts_once(name: str) -> None:
    rows = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.5, 0.5], [-9.0, 9.0]]
    fold, made = folded(rule(name), rows[:4]), rule(name)
    for update in ([7.0, 7.0], rows[4]):  # in the order of their bases
        fold.add("client-4", {"w": torch.tensor(update)}, 1.0, 1.0)
    assert fold.result()["w"].tolist() == of(made, rows)


def test_the_discount_of_a_late_update_comes_before_the_rule() -> None:
    fold = rule("median").fold()
    for name, value, discount in (("a", 4.0, 0.5), ("b", 1.0, 1.0), ("c", 9.0, 1.0)):
        fold.add(name, {"w": torch.tensor([value])}, 1.0, discount)
    assert fold.result()["w"].tolist() == [2.0]


@pytest.mark.parametrize("name", ROBUST)
@given(seed=st.integers(0, 10**6), size=st.floats(10, 1e9))
def test_two_of_ten_hostile_updates_cannot_move_it_far_and_the_order_does_not_matter(
    name: str, seed: int, size: float
) -> None:
    # Eight honest updates of length about 1 around (1, 0, 0, 0), two blows of any size in one direction.
    draw = torch.Generator().manual_seed(seed)
    honest = torch.tensor([1.0, 0, 0, 0]) + 0.1 * torch.randn(8, 4, generator=draw)
    blow = torch.randn(4, generator=draw)
    rows = torch.cat([honest, (size * blow / blow.norm()).expand(2, 4)])
    order = torch.randperm(10, generator=draw)
    straight, shuffled = (torch.tensor(of(rule(name, **ROBUST[name]), r.tolist())) for r in (rows, rows[order]))
    assert torch.allclose(straight, shuffled, atol=1e-5)
    away = float((straight - honest.mean(dim=0)).norm())
    assert away < 1.2, "the mean is moved by a fifth of the blow"
    mean = torch.tensor(of(rule("mean"), rows.tolist()))
    assert float((mean - honest.mean(dim=0)).norm()) > 0.19 * size - 2


@pytest.mark.parametrize(("name", "params", "least"), [("krum", {"hostile": 2}, 7), ("krum", {"multi": 4}, 7),
    ("trimmed_mean", {"hostile": 2}, 5), ("median", {"hostile": 2}, 5), ("geometric_median", {}, 3)])  # fmt: skip
def test_fewer_updates_than_a_rule_needs_are_refused(
    images: Path, name: str, params: dict[str, int], least: int
) -> None:
    rows = [[float(i)] for i in range(least)]
    of(rule(name, **params), rows)
    with pytest.raises(AggregationError, match=f"the rule needs {least}"):
        of(rule(name, **params), rows[1:])
    rounds, chosen = {**SYNC, "in_flight": 9, "quorum": 9}, {"aggregator": {"name": name, "params": params}}
    plan(small(images, rounds={**rounds, "floor": least}, **chosen))
    with pytest.raises(ConfigError, match=f"needs {least} updates at least; use rounds.floor: {least}"):
        plan(small(images, rounds={**rounds, "floor": least - 1}, **chosen))


# --- whole runs


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("images"))


MODES = {
    "synchronous": SYNC,
    "k of n": {**SYNC, "quorum": 3, "floor": 3, "grace_s": 0.2, "deadline_s": 30, "max_staleness": 2},
    "buffered": {**SYNC, "quorum": 3, "floor": 3, "refill": "at_arrival", "max_staleness": 5},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["median", "centered_clipping"])
def test_runs_in_every_mode_and_the_centre_belongs_to_the_state(
    images: Path, tmp_path: Path, name: str, mode: str
) -> None:
    outcome = run(small(images, aggregator={"name": name}, rounds=MODES[mode], simulate=SLOW), tmp_path)
    assert outcome.report.version == 3
    commits = Commits("r", FileBlobs(tmp_path / "blobs"))
    last = commits.last()
    assert last is not None
    kept = set(commits.get_model(last.server)) if last.server else set()
    assert kept == ({f"{KEPT}all/centre"} if name == "centered_clipping" else set())


def test_however_few_are_asked_no_round_closes_with_fewer_updates_than_the_rule_needs(
    images: Path, tmp_path: Path
) -> None:
    # A quarter of four clients is one, and a median that bears one hostile update needs three: two are asked besides.
    asked = {"selector": {"name": "adafl", "params": {"start": 0.25, "end": 0.25, "stages": 1}}}
    outcome = run(small(images, aggregator={"name": "median"}, rounds={**SYNC, "floor": 3}, **asked), tmp_path)
    assert (outcome.report.status, outcome.report.reason) == ("finished", "")
    assert [e.facts["counted"] for e in events(outcome.events, "closed")] == [3, 3, 3]


def test_two_updates_of_one_owner_are_not_two_owners(images: Path, tmp_path: Path) -> None:
    # With a long grace late updates come beside newer ones of the same owners: in these seeds, in 3 to 4 versions.
    slow = {"latency": {"name": "lognormal", "params": {"median_s": 2, "sigma": 1.2}}}
    rounds = {**SYNC, "versions": 12, "floor": 3, "deadline_s": 3, "grace_s": 3, "max_staleness": 5, "retries": 50}
    for seed in (3, 4):
        made = small(images, aggregator={"name": "median"}, rounds=rounds, simulate=slow, seed=seed)
        outcome = run(made, tmp_path / str(seed))
        assert outcome.report.status == "finished"
        closed = events(outcome.events, "closed")
        owners = [[c for c, _ in e.facts["updates"]] for e in closed]
        assert any(len(set(o)) < len(o) for o in owners) and all(len(set(o)) >= 3 for o in owners)
        # Of each owner the newest enters the ledger, and nothing else; who was replaced is among what was wasted.
        weighs = {(e.client, e.facts["base"]): e.facts["weight"] for e in outcome.events if "weight" in e.facts}
        entered, replaced = Counter[str](), 0
        for e in closed:
            newest = {c: max(b for other, b in e.facts["updates"] if other == c) for c, _ in e.facts["updates"]}
            lags = {c: e.version - 1 - base for c, base in newest.items()}
            entered.update({c: weighs[c, base] / (1 + lags[c]) ** 0.5 for c, base in newest.items()})
            older = sorted((c, b) for c, b in e.facts["updates"] if newest[c] != b)
            assert sorted(map(tuple, e.facts.get("replaced", []))) == older
            replaced += len(older)
        ledger = outcome.report.ledger
        assert {c: share.weight for c, share in ledger.items()} == pytest.approx(dict(entered))
        asked = sum(share.asked for share in ledger.values())
        counted = sum(len(o) for o in owners) - replaced
        assert outcome.report.wasted_share == pytest.approx((asked - counted) / asked)


def test_a_round_that_cannot_get_what_the_rule_needs_fails_as_one_below_its_floor(images: Path, tmp_path: Path) -> None:
    away = {"presence": {"name": "sessions", "params": {"goes": {"flat-0": 0.0, "flat-1": 0.0}}}}  # two are left
    made = small(images, aggregator={"name": "median"}, rounds={**SYNC, "floor": 3}, simulate=away)
    report = run(made, tmp_path).report
    assert report.status == "failed" and "got 2 updates, at least 3 are needed" in report.reason


def test_each_group_has_a_centre_of_its_own_which_stays_while_another_closes(images: Path, tmp_path: Path) -> None:
    method = {"name": "tests.runs.plugins:Halves", "params": {"right": ["noisy-0", "noisy-1"]}}
    kept: list[Tensors] = []
    for versions in (4, 5):  # the same run, and one version more
        rounds = {**SYNC, "versions": versions}
        made = small(images, method=method, aggregator={"name": "centered_clipping"}, rounds=rounds)
        outcome = run(made, tmp_path / str(versions))
        commits = Commits("r", FileBlobs(tmp_path / str(versions) / "blobs"))
        last = commits.last()
        assert last is not None and last.server is not None
        kept.append({k: t for k, t in commits.get_model(last.server).items() if k.startswith(KEPT)})
    assert set(kept[0]) == set(kept[1]) == {f"{KEPT}left/centre", f"{KEPT}right/centre"}
    closed = events(outcome.events, "closed")[-1].facts["group"]
    assert [k for k in kept[0] if not torch.equal(kept[0][k], kept[1][k])] == [f"{KEPT}{closed}/centre"]


def test_a_rule_that_needs_several_updates_is_refused_with_groups_which_may_have_fewer(images: Path) -> None:
    with pytest.raises(ConfigError, match="needs 3 updates, and a group of method licfl may have fewer"):
        plan(small(images, method={"name": "licfl"}, aggregator={"name": "median"}))


def test_killed_anywhere_the_centre_and_the_momenta_are_the_same(images: Path, tmp_path: Path) -> None:
    parts = {"aggregator": {"name": "centered_clipping"}, "transforms": [{"name": "momentum"}]}
    made = small(images, **parts, rounds=MODES["buffered"], simulate=SLOW)
    undisturbed = facts(run(made, tmp_path / "undisturbed"))
    for place, after in places(operations(made, tmp_path / "counted"), 8):
        root = tmp_path / f"killed-{place}"
        with contextlib.suppress(Killed):
            run(made, root, fuse=Fuse(place, after))
        assert facts(run(made, root)) == undisturbed, f"killed {'after' if after else 'before'} operation {place}"


def test_a_client_that_sends_a_blow_does_not_spoil_the_version(images: Path, tmp_path: Path) -> None:
    method = {"name": "tests.runs.plugins:Blow", "params": {"client": "flat-0", "times": -50.0}}
    accuracy = {}
    for name in ("mean", "median", "geometric_median", "trimmed_mean"):
        made = small(images, method=method, aggregator={"name": name}, rounds={**SYNC, "versions": 4})
        accuracy[name] = run(made, tmp_path / name).report.accuracy.mean
    assert all(accuracy[name] > accuracy["mean"] for name in accuracy if name != "mean"), accuracy
