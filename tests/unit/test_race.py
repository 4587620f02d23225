"""The race: its arithmetic on events made by hand, its task, and one at a tiny size through the engine itself."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from benchmarks import kept, race, race_page, race_plot
from benchmarks.accuracy import SEEDS, T
from benchmarks.machine import here
from benchmarks.points import DIM, Pixels, Points
from benchmarks.race import Course, Race, Referee
from schemas.base import Frozen
from schemas.log import Event
from workers.method import Examples
from workers.methods.fedavg import FedAvg
from workers.training import fit

TINY = {"owners": 8, "classes": 8, "per_class": 10}
SMALL = {"in_flight": 4, "quorum": 4, "floor": 4, "grace_s": 0, "max_staleness": 0}
HERE = here()
BUFFERED = {"in_flight": 4, "quorum": 2, "floor": 2, "refill": "at_arrival", "max_staleness": 20}


def event(name: str, at: float, version: int = 0, **facts: object) -> Event:
    return Event(event=name, at=at, wall=0.0, version=version, client="a", facts=facts)


def course(to_target_s: float | None, **changes: object) -> Course:
    given = {"uploads": 10, "final": 0.4, "versions": 3, "asked": 12, "wasted": 0.1, "staleness": 1.9, "seconds": 1.0}
    return Course.model_validate({"to_target_s": to_target_s, **given, "curve": (0.1, 0.4), **changes})


def whole(to_target_s: float | None = 10.0) -> Race:
    return Race(where=HERE, courses={mode: {seed: course(to_target_s) for seed in SEEDS} for mode in race.MODES})


# --- what events say


def test_a_version_is_as_old_as_its_commit_and_as_good_as_its_clients_are_on_average() -> None:
    events = [
        event("evaluated", 0.0, 0, accuracy=0.0),
        event("evaluated", 0.0, 0, accuracy=0.2),
        event("closed", 5.0, 1, lags={"0": 2}),
        event("closed", 7.0, 2, lags={"0": 2}),
        event("evaluated", 9.0, 2, accuracy=0.5),  # version 1 was not evaluated
    ]
    assert race.by_time(events) == [(0.0, 0.1), (7.0, 0.5)]


def test_uploads_are_the_updates_that_arrived_also_those_that_nobody_waited_for() -> None:
    events = [
        event("answered", 0.0, task="v0-describe-pool"),
        event("answered", 0.0, task="v0-evaluate-pool", kind="evaluate"),
        event("answered", 2.0, task="v0-a-0", kind="train"),
        event("ignored", 3.0, task="v0-a-1", reason="unknown or too old"),
    ]
    assert race.uploads(events) == [2.0, 3.0]


def test_the_mean_lag_is_over_the_updates_of_the_steady_state() -> None:
    events = [event("closed", 1.0, 1, lags={"0": 10}), event("closed", 30.0, 2, lags={"1": 3, "5": 1})]
    assert race.mean_lag(events, since_s=20.0) == (3 * 1 + 1 * 5) / 4
    assert race.mean_lag(events, since_s=40.0) == 0.0


def test_littles_law_gives_the_lag_of_who_is_in_flight_meanwhile() -> None:
    assert [race.littles(mode) for mode in ("FedAsync", "FedBuff", "FedBuff, 5")] == [19.0, 1.9, 3.8]


def test_times_faster_is_the_geometric_mean_of_the_ratios_within_a_seed() -> None:
    slow = {seed: course(10.0 * 2**seed) for seed in SEEDS}
    fast = {seed: course(10.0) for seed in SEEDS}  # ratios 1, 2, 4, 8, 16
    middle, low, high = race.times_faster(Race(where=HERE, courses={"slow": slow, "fast": fast}), "fast", "slow")
    half = T * math.sqrt(10 / 4 / 5) * math.log(2)  # logarithms 0 to 4, of variance (4 + 1 + 0 + 1 + 4) / 4
    assert middle == pytest.approx(4.0)
    assert (low, high) == pytest.approx((4 * math.exp(-half), 4 * math.exp(half)))


def test_a_run_is_stopped_at_the_horizon_but_not_before_its_target() -> None:
    stopped: list[float] = []
    referee = Referee(0.5, 10.0, lambda: stopped.append(1.0))
    referee.watch(event("evaluated", 0.0, 0, accuracy=0.1))
    referee.watch(event("asked", 11.0))
    assert not stopped
    referee.watch(event("evaluated", 12.0, 1, accuracy=0.4))
    referee.watch(event("evaluated", 12.0, 1, accuracy=0.6))
    referee.watch(event("asked", 12.0))
    assert stopped
    late: list[float] = []
    Referee(0.5, 10.0, lambda: late.append(1.0)).watch(event("asked", race.MOST_S))
    assert late


# --- the task


def test_every_class_has_as_many_owners_and_every_owner_two_classes(tmp_path: Path) -> None:
    images = Points(Points.Params(**TINY)).images(tmp_path)
    held = {(domain, int(label)) for domain, label in zip(images.domains, images.labels, strict=True)}
    assert len(images) == 8 * 2 * 10 and len(held) == 16
    assert set(np.bincount([label for _, label in held])) == {2}
    assert {sum(d == f"owner-{i:02}" for d, _ in held) for i in range(8)} == {2}


def test_the_points_depend_on_their_parameters_alone_and_lie_around_their_centres(tmp_path: Path) -> None:
    many = Points.Params(owners=2, classes=2, per_class=100, noise=1.0)
    first, again = (Points(many).images(tmp_path / name) for name in ("first", "again"))
    assert [p.read_bytes() for p in first.paths] == [p.read_bytes() for p in again.paths]
    other = Points(many.model_copy(update={"seed": 1})).images(tmp_path / "other")
    assert first.paths[0].read_bytes() != other.paths[0].read_bytes()
    backbone = Pixels(Frozen())
    x = backbone.encode_images(torch.stack([backbone.preprocess(Image.open(p)) for p in first.paths])).numpy()
    assert x.shape == (400, DIM)
    spread = np.mean([x[first.labels == label].std(axis=0).mean() for label in (0, 1)])
    assert spread == pytest.approx(1 / (4 * math.sqrt(2)), rel=0.04)  # noise 1 in units of 4 standard deviations


def test_the_optimiser_of_the_race_is_plain_sgd() -> None:
    recipe = FedAvg.Params.model_validate(race.SGD | {"batch": 20})
    examples = Examples(torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 3)
    trained, expected = (nn.Linear(4, 3) for _ in range(2))
    expected.load_state_dict(trained.state_dict())
    fit(trained, examples, recipe, torch.Generator().manual_seed(0))
    nn.functional.cross_entropy(expected(examples.x), examples.y).backward()  # type: ignore[no-untyped-call]
    for p, q in zip(trained.parameters(), expected.parameters(), strict=True):
        assert q.grad is not None
        assert torch.allclose(p, q - 0.2 * q.grad, atol=1e-6)


# --- whole


def test_a_tiny_race_of_two_modes(tmp_path: Path) -> None:
    modes = (SMALL, BUFFERED)
    synchronous, buffered = (
        race.run(race.experiment(rounds, 0, **TINY, noise=1), tmp_path, target=0.3, horizon_s=6) for rounds in modes
    )
    assert (synchronous.wasted, synchronous.asked) == (0.0, 4 * synchronous.versions)
    assert synchronous.uploads is not None and synchronous.uploads % 4 == 0
    assert synchronous.to_target_s is not None and buffered.to_target_s is not None
    assert buffered.versions > 2 * synchronous.versions
    for found in (synchronous, buffered):
        assert len(found.curve) == 7 and found.final >= 0.2


def test_a_race_goes_on_where_it_was_interrupted_unless_the_code_is_another(tmp_path: Path) -> None:
    results, where = tmp_path / "race.json", HERE
    assert len(race.missing(kept.begun(results, Race, where))) == len(race.MODES) * len(SEEDS)
    some = Race(where=where, courses={"FedBuff": {0: course(10.0), 3: course(10.0)}})
    kept.keep(results, some)
    left = race.missing(kept.begun(results, Race, where))
    assert len(left) == len(race.MODES) * len(SEEDS) - 2
    assert ("FedBuff", 0) not in left and ("FedBuff", 1) in left
    other = where.model_copy(update={"commit": "another"})
    assert kept.begun(results, Race, other) == Race(where=other)
    kept.keep(results, whole())
    assert race.measure(results, tmp_path, where) == whole()  # nothing is left to run


def test_the_page_says_nothing_of_half_a_race_and_names_who_missed_the_target(tmp_path: Path) -> None:
    courses, path, later = whole().courses, tmp_path / "race.json", HERE.model_copy(update={"commit": "later"})

    def complete(found: Race) -> bool:
        return not race.missing(found)

    kept.keep(path, Race(where=HERE, courses={"FedBuff": courses["FedBuff"]}))
    assert kept.newest(path, Race, complete) is None
    kept.keep(path, whole())
    kept.keep(path, Race(where=later, courses={"FedBuff": courses["FedBuff"]}))
    assert kept.newest(path, Race, complete) == whole(), "the half race of a later commit takes nothing from the page"
    assert [f.where.commit for f in kept.read(path, Race)] == [HERE.commit, "later"]
    missed = {**courses, "k of n": {**courses["k of n"], 3: course(None)}}
    assert "| k of n | missed by 1 of 5 |" in race_page.section(Race(where=HERE, courses=missed))


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    race_plot.draw(whole(), tmp_path / "race.png")
    with Image.open(tmp_path / "race.png") as image:
        assert image.width == 1344


def test_every_mode_has_a_colour() -> None:
    assert set(race_plot.COLOURS) == set(race.MODES)
