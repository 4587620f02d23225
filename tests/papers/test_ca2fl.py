"""CA2FL (ICLR 2024) against its formula and invariants, numbers derived here."""

import contextlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from infra.blobs import FileBlobs
from orchestrator.aggregators.ca2fl import Ca2fl, CalibratedFold
from orchestrator.commits import Commits
from orchestrator.plan import plan
from schemas.base import Choice
from schemas.errors import ConfigError
from schemas.experiment import Experiment
from schemas.log import Commit
from schemas.messages import ALL
from tests.runs.here import Fuse, Killed, run, stopped
from tests.runs.test_crash import facts, operations, places
from tests.runs.test_embedded import SLOW, SYNC, small
from tests.toys import paint
from workers.method import kept_by
from workers.pipeline import open_update
from workers.plugins import load
from workers.tensors import Tensors, unpack


def aggregator(clients: int) -> Ca2fl:
    made = Ca2fl(Ca2fl.Params())
    made.meet({f"client-{i}": 1 for i in range(clients)})
    return made


def w(*numbers: float) -> Tensors:
    return {"w": torch.tensor(numbers, dtype=torch.float32)}


def folded(made: Ca2fl, updates: dict[str, Tensors], kept: Tensors, last: dict[str, Tensors]) -> CalibratedFold:
    fold = made.fold(kept)
    for client, update in updates.items():
        if client in last:
            fold.recall(client, last[client])
        fold.add(client, update, 7.0, 0.3)  # weights and discounts have no say
    return fold


def test_three_versions_of_four_clients_by_hand() -> None:
    made = aggregator(4)
    # 1: a sends 4, b sends 8; nothing is cached. v = 0 + (4 + 8) / 2 = 6; the sum of last ones is 12.
    one = folded(made, {"a": w(4), "b": w(8)}, {}, {})
    assert one.result()["w"].tolist() == [6.0] and one.kept["w"].tolist() == [12.0]
    # 2: a sends 2, c sends 10. v = 12 / 4 + ((2 - 4) + (10 - 0)) / 2 = 7; the sum is 12 - 2 + 10 = 20.
    two = folded(made, {"a": w(2), "c": w(10)}, one.kept, {"a": w(4), "b": w(8)})
    assert two.result()["w"].tolist() == [7.0] and two.kept["w"].tolist() == [20.0]
    # 3: a sends 2 once more: v = 20 / 4 + 0 = 5, what everybody's last one says, and not 2.
    three = folded(made, {"a": w(2)}, two.kept, {"a": w(2), "b": w(8), "c": w(10)})
    assert three.result()["w"].tolist() == [5.0] and three.kept["w"].tolist() == [20.0]


def test_with_every_client_in_every_version_it_is_the_plain_mean() -> None:
    made, kept, last = aggregator(3), dict[str, torch.Tensor](), dict[str, Tensors]()
    draw = torch.Generator().manual_seed(1)
    for _ in range(4):
        sent = {c: {"w": torch.randn(5, generator=draw)} for c in ("a", "b", "c")}
        fold = folded(made, sent, kept, last)
        mean = torch.stack([u["w"].double() for u in sent.values()]).mean(dim=0)
        assert torch.allclose(fold.result()["w"].double(), mean, atol=1e-6)
        kept, last = fold.kept, sent


def test_the_sum_is_that_of_everybodys_last_update_also_if_one_sends_twice() -> None:
    made = aggregator(2)
    fold = made.fold({})
    fold.add("a", w(4), 1.0, 1.0)
    fold.add("a", w(6), 1.0, 1.0)  # of two bases
    fold.add("b", w(1), 1.0, 1.0)
    assert fold.result()["w"].tolist() == pytest.approx([11 / 3])
    assert fold.kept["w"].tolist() == [7.0]


# --- whole runs


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("images"))


LATE = {"staleness": "constant"}
MODES: dict[str, Any] = {
    "synchronous": {"rounds": SYNC},
    "k of n": {
        "rounds": {**SYNC, **LATE, "versions": 5, "quorum": 2, "floor": 1, "grace_s": 0.1, "deadline_s": 30,
                   "max_staleness": 2},
        "simulate": {**SLOW, "dropout": 0.1},
    },
    "buffered": {
        "rounds": {**SYNC, **LATE, "versions": 8, "quorum": 2, "floor": 1, "refill": "at_arrival", "max_staleness": 6},
        "simulate": SLOW,
    },
}  # fmt: skip


def planned(images: Path, mode: str, **changes: Any) -> Any:
    return small(images, **{"aggregator": {"name": "ca2fl"}, "codec": {"name": "fp16"}, **MODES[mode], **changes})


@pytest.mark.parametrize("mode", MODES)
def test_the_last_update_of_each_client_is_kept_by_reference(images: Path, tmp_path: Path, mode: str) -> None:
    alive: dict[int, tuple[set[str], dict[str, str]]] = {}
    store = FileBlobs(tmp_path / "blobs")
    outcome = run(planned(images, mode), tmp_path)
    assert outcome.report.status == "finished"
    commits = Commits("r", store).all()
    for commit in commits[1:]:
        for a in commit.counted:
            assert a.base <= commit.table[a.client].base
        alive[commit.version] = (set(commit.table), {c: a.update.key for c, a in commit.table.items()})
    for before, after in pairwise(commits[1:]):
        members = {a.client for a in after.counted}
        assert all(after.table[c] == before.table[c] for c in before.table if c not in members)
    assert alive[commits[-1].version][0] == {c for commit in commits for c in (a.client for a in commit.counted)}


def known(made: Experiment, root: Path, version: int) -> tuple[Commit, Tensors, Tensors, dict[str, Tensors]]:
    """At a commit: the commit, its model, the sum that is kept, and everybody's last counted update."""
    commits, last = stopped(made, root, version)
    assert last.server is not None
    codec = load("workers.codecs", Choice(name="fp16"))
    said = {client: open_update(commits.blobs.get(a.update), codec)[0] for client, a in last.table.items()}
    model = commits.get_model(last.models[version][ALL])
    return last, model, kept_by(commits.get_model(last.server), ALL), said


def total(said: dict[str, Tensors]) -> Tensors:
    names = {name for update in said.values() for name in update}
    return {name: torch.stack([update[name].double() for update in said.values()]).sum(dim=0) for name in names}


def alike(one: Tensors, two: Tensors, within: float) -> bool:
    return one.keys() == two.keys() and all(torch.allclose(one[k], two[k], rtol=0, atol=within) for k in one)


@pytest.mark.parametrize("mode", MODES)
def test_what_a_run_keeps_is_the_sum_of_the_last_updates_and_its_next_step_is_the_formulas(
    images: Path, tmp_path: Path, mode: str
) -> None:
    found = []
    for version in (3, 4):  # the same run, and one version more
        rounds = {**MODES[mode]["rounds"], "versions": 5}
        found.append(known(planned(images, mode, rounds=rounds), tmp_path / str(version), version))
        assert alike(found[-1][2], total(found[-1][3]), 1e-12)
    (_, model, kept, before), (last, moved, _, after) = found
    # v = 1/N sum h + 1/M sum (delta - h) with the four clients' h of before, 0 for one who had none.
    members = [a.client for a in last.counted]
    assert len(set(members)) == len(members) and set(members) & set(before), "a cache has a say"
    news = {c: {k: t.double() - before.get(c, {}).get(k, 0 * t).double() for k, t in after[c].items()} for c in members}
    step = {k: t / 4 + total(news)[k] / len(members) for k, t in kept.items()}
    assert alike({k: moved[k].double() - model[k].double() for k in model}, step, 1e-6)
    assert not alike(total(news), {k: len(members) * t for k, t in step.items()}, 1e-4) or mode == "synchronous"


@pytest.mark.parametrize("mode", MODES)
def test_killed_anywhere_it_ends_as_if_undisturbed(images: Path, tmp_path: Path, mode: str) -> None:
    made = planned(images, mode)
    undisturbed = facts(run(made, tmp_path / "undisturbed"))
    for place, after in places(operations(made, tmp_path / "counted"), 8):
        root = tmp_path / f"killed-{place}"
        with contextlib.suppress(Killed):
            run(made, root, fuse=Fuse(place, after))
        assert facts(run(made, root)) == undisturbed, f"killed {'after' if after else 'before'} operation {place}"


def test_updates_that_somebody_may_recall_stay_in_the_store_and_older_ones_go(images: Path, tmp_path: Path) -> None:
    made = planned(images, "buffered")
    with contextlib.suppress(Killed):
        run(made, tmp_path, fuse=Fuse(operations(made, tmp_path / "counted") * 3 // 4))
    store = FileBlobs(tmp_path / "blobs")
    last = Commits("r", store).last()
    assert last is not None and len(last.table) >= 3
    there = set(store.keys("runs/r/updates/"))
    assert {a.update.key for a in last.table.values()} <= there
    waiting = len(last.open) + len(last.accepted) + len(last.expired) + 4
    assert len(there) <= len(last.table) + waiting, "not one for each version"
    server = unpack(store.get(last.server)) if last.server else {}
    assert {t.dtype for t in server.values()} == {torch.float64}


def test_what_cannot_be_is_one_sentence(images: Path) -> None:
    rounds = MODES["buffered"]["rounds"]
    with pytest.raises(ConfigError, match="calibrates late updates itself"):
        plan(planned(images, "buffered", rounds={**rounds, "staleness": "sqrt"}))
    with pytest.raises(ConfigError, match="calibrates late updates itself"):
        plan(planned(images, "buffered", rounds={**rounds, "apply": "mix"}))
    with pytest.raises(ConfigError, match="knows one model"):
        plan(planned(images, "synchronous", method={"name": "licfl"}))
