"""The benchmarks' own arithmetic, and that the page says what the results say. Nothing is measured here."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch.nn.functional import normalize

from benchmarks import (
    accuracy,
    crowd,
    embedded,
    encode,
    epoch,
    job,
    kept,
    many,
    memory,
    overhead,
    page,
    process,
    study,
    throughput,
)
from benchmarks.__main__ import main
from benchmarks.accuracy import Score, Scores
from benchmarks.machine import here
from benchmarks.studies import ca2fl, cvlc
from benchmarks.trials import Blow, Chaos, Series
from schemas.log import Event
from schemas.messages import ALL
from tests.toys import ToyBackbone
from workers.adapters.gate import AttentionGate
from workers.method import Examples
from workers.models.tiny import Tiny
from workers.tensors import generator
from workers.training import fit


def asked(version: int, wall: float) -> Event:
    return Event(event="asked", at=0.0, wall=wall, version=version, client="a")


def test_t_leaves_two_and_a_half_percent_on_each_side_with_four_degrees_of_freedom() -> None:
    t = accuracy.T  # the distribution function for 4 degrees of freedom, in closed form
    ratio = t * t / (1 + t * t / 4)
    below = 0.5 + 3 / 8 * t / math.sqrt(1 + t * t / 4) * (1 - ratio / 12)
    assert below == pytest.approx(0.975, abs=1e-4)


def test_an_interval_is_the_mean_and_t_standard_errors() -> None:
    middle, half = accuracy.interval([1.0, 2.0, 3.0, 4.0, 5.0])  # variance (4 + 1 + 0 + 1 + 4) / 4 = 2.5
    assert middle == 3.0
    assert half == pytest.approx(2.776 * math.sqrt(2.5 / 5))


def test_differences_are_taken_seed_by_seed() -> None:
    def score(value: float) -> Score:
        return Score(mean=value, worst=0.0, held_out=0.0, bytes_up=0, bytes_down=0, seconds=0.0)

    better = {seed: score(0.5 + seed / 10 + 0.01) for seed in accuracy.SEEDS}
    plain = {seed: score(0.5 + seed / 10) for seed in accuracy.SEEDS}
    found = Scores(where=here(), scores={"better": better, "plain": plain})
    assert accuracy.differences(found, "better", "plain", "mean") == pytest.approx([1.0] * 5)


def test_a_version_lasts_from_its_first_asking_to_the_next_ones() -> None:
    events = [asked(0, 10.0), asked(0, 10.1), asked(1, 10.5), asked(1, 10.6), asked(2, 12.5)]
    assert overhead.seconds_per_version(events) == pytest.approx([0.5, 2.0])
    times = [(e.version, e.wall) for e in events]
    assert embedded.ms_per_update(times) == pytest.approx(1000 * (0.5 / 2 + 2.0 / 2) / 2)


def test_the_job_adds_one_in_every_version(tmp_path: Path) -> None:
    _, outcome = process.run(job.experiment(2), tmp_path)
    assert outcome.report.version == 2
    assert job.holds(outcome.tensors[ALL], 2)
    assert not job.holds(outcome.tensors[ALL], 3)
    assert sum(t.numel() for t in outcome.tensors[ALL].values()) == job.NUMBERS


def test_the_page_is_what_the_results_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = page.PAGE.read_text(encoding="utf-8")
    monkeypatch.setattr(page, "PAGE", tmp_path / "benchmarks.md")
    page.write()
    assert page.PAGE.read_text(encoding="utf-8") == published


def test_an_unknown_benchmark_is_named_and_nothing_is_measured() -> None:
    done = CliRunner().invoke(main, ["overhed"])
    assert done.exit_code == 2
    assert "overhed" in done.output


def series(*values: float, hours: float = 1.0, most: float = 1.0, noise: float = 0.0) -> Series:
    samples = tuple((i * hours / (len(values) - 1), v) for i, v in enumerate(values))
    return Series(what="x", unit="MB", most=most, noise=noise, samples=samples)


def test_a_slope_is_that_of_the_line_behind_the_first_fifth() -> None:
    found = series(0.0, 50.0, 52.0, 54.0, 56.0, 58.0)  # at 0, 0.2, ... 1 h: from 0.2 h on 2 in 0.2 h
    assert found.slope == pytest.approx(10.0)
    assert not found.flat
    assert series(0.0, 50.0, 52.0, 54.0, 56.0, 58.0, most=10.1).flat


def test_a_rise_within_the_noise_is_flat_however_steep() -> None:
    steep = {"hours": 0.01, "most": 1.0}
    assert series(5.0, 5.0, 6.0, 7.0, 8.0, 9.0, noise=4.1, **steep).flat
    assert not series(5.0, 5.0, 6.0, 7.0, 8.0, 9.0, noise=3.9, **steep).flat


def test_faults_that_came_together_share_their_recovery() -> None:
    blows = (Blow(kinds=("a",), lasted_s=1, recovery_s=3), Blow(kinds=("a", "b"), lasted_s=1, recovery_s=5))
    found = Chaos(where=here(), seed=0, minutes=1, whole_s=9, blows=blows, versions={}, runs={}, violations=())
    assert list(found.table()) == [("a", 2, 5.0, 4.0), ("b", 1, 5.0, 5.0)]


def test_updates_per_second_leave_out_the_first_versions() -> None:
    def closed(wall: float) -> Event:
        return Event(event="closed", at=0.0, wall=wall, version=1, facts={"counted": 8})

    assert throughput.updates_per_s([closed(t) for t in (0.0, 9.0, 10.0, 12.0)], warm=2) == pytest.approx(16 / 3)


def test_the_time_of_an_update_is_its_share_of_its_version() -> None:
    assert memory.ms_per_update([(0.0, 10), (0.5, 10), (0.6, 10), (0.8, 10)]) == pytest.approx(20.0)  # 50, 10, 20


def test_an_asynchronous_job_ends_in_the_sum_of_its_steps(tmp_path: Path) -> None:
    asked = memory.experiment("eight", 12, 4)
    _, outcome = process.run(asked, tmp_path)
    assert job.adds_up(outcome.tensors[ALL], asked, outcome.events)
    assert not job.adds_up(outcome.tensors[ALL], asked, outcome.events[: len(outcome.events) // 2])


def test_encoding_is_timed_inside_the_backbone_and_as_a_whole(tmp_path: Path) -> None:
    paths = encode.photos(tmp_path / "images", 5, 40)
    assert len({path.read_bytes() for path in paths}) == 5
    found = encode.measured(here(), ToyBackbone(ToyBackbone.Params()), paths, tmp_path / "cache")
    assert found.images == 5
    assert 0 < found.busy_s < found.seconds and found.decode_s > 0


def test_a_part_within_another_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(crowd.time, "perf_counter", lambda: float(next(clock)))
    inner, outer = SimpleNamespace(go=lambda: next(clock)), SimpleNamespace()
    outer.go = lambda: (inner.go(), inner.go(), next(clock))
    monkeypatch.setattr(crowd, "PARTS", {"in": ((inner, "go"),), "out": ((outer, "go"),)})
    before = inner.go
    with crowd.timing() as spent:
        outer.go()
    assert spent == {"in": 4.0, "out": 4.0}  # begun at 0, ended at 8; within it 1 to 3, and 4 to 6
    assert inner.go is before


def test_a_crowd_is_walked_with_one_client_in_a_task_and_with_many(tmp_path: Path) -> None:
    few = {"owners": 12, "per_class": 3}
    asked = [crowd.experiment(n, 2, clients=12, asked=6) for n in (1, 4)]
    small = [a.model_copy(update={"data": a.data.model_copy(update={"params": few})}) for a in asked if a.data]
    alone, shared = (crowd.walk(a, tmp_path) for a in small)
    assert (alone.clients_per_task, shared.clients_per_task) == (1, 4)
    for walk in (alone, shared):
        for version in walk.versions:
            assert version.whole == pytest.approx(sum(version.parts.values()), abs=1e-3)
            # What a commit still takes after it has been told counts in the version behind it, where the remainder
            # may fall short by as much.
            timed = [seconds for part, seconds in version.parts.items() if part != "other"]
            assert min(timed) >= 0 and version.parts["training"] > 0
            assert version.parts["other"] >= -version.parts["commit"]
    assert shared.accuracy == pytest.approx(alone.accuracy, abs=0.1)
    told = crowd.section(crowd.Crowded(where=here(), clients=12, asked=6, walks=(alone, shared)))
    assert "| part | 1 per task | 4 per task |" in told


def test_what_was_faster_together_is_told_with_its_goal() -> None:
    case = many.Case(
        adapter="linear", dim=512, epochs=1, alone_ms=((6.0, 6.0), (8.0, 9.0)), together_ms=((1.0, 2.0), (1.0, 3.0)),
        apart=(1e-6, 1e-7), accuracy=(0.5, 0.5),
    )  # fmt: skip
    assert case.faster(0) == [6.0, 8.0] and case.faster(1) == [3.0, 3.0]
    found = many.Many(where=here(), clients=64, images=32, cases=(case,))
    assert "| 7.00 | 1.00 | 7.0 (6.0 to 8.0) | 3.0 | reached |" in many.section(found)
    slower = case.model_copy(update={"together_ms": ((2.0, 2.0), (2.0, 3.0))})
    assert "| missed |" in many.section(found.model_copy(update={"cases": (slower,)}))


def test_the_share_of_the_backbone_is_told_with_its_goal() -> None:
    found = encode.Encode(
        where=here(), images=2000, threads=2, device="cpu", seconds=50.0, busy_s=46.0, decode_s=10.0
    )  # fmt: skip
    assert "**92.0 %, reached.**" in encode.section(found)
    assert "**88.0 %, missed.**" in encode.section(found.model_copy(update={"busy_s": 44.0}))
    assert "| 200.0 |" in encode.section(found)


def test_the_backbone_is_at_work_for_the_sum_of_its_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 5.0, 7.0])
    monkeypatch.setattr(encode.time, "perf_counter", lambda: next(clock))
    timed = encode.Timed(ToyBackbone(ToyBackbone.Params()))
    for _ in range(2):
        timed.encode_images(torch.zeros(1, 3, 4, 4))
    assert timed.busy_s == (1.0 - 0.0) + (7.0 - 5.0)


def test_their_step_with_both_towers_goes_where_ours_on_features_does() -> None:
    # The loss over image-prompt pairs is that over classes (tests/papers/test_fedclip.py). Adam steps first about lr
    # times the sign of a gradient: rounding turns a few of those that are nearly 0, and another loss turns many.
    clip = Tiny(Tiny.Params())
    size = clip.preprocess(Image.new("RGB", (64, 64))).shape
    pixels = torch.randn(epoch.BATCH, *size, generator=generator(0))
    labels = torch.arange(epoch.BATCH) % len(epoch.CLASSES)
    texts = normalize(clip.encode_texts([f"a picture of a {name}" for name in epoch.CLASSES]), dim=1)
    gates = [AttentionGate(texts, 100.0, generator(0)) for _ in range(3)]
    epoch._Other(clip, gates[0], pixels, labels).step(0)
    fit(gates[1], Examples(clip.encode_images(pixels), labels), epoch.PAPER, generator(1))
    theirs, ours, start = (torch.cat([p.detach().flatten() for p in gate.parameters()]) for gate in gates)
    assert float((theirs - ours).abs().lt(epoch.PAPER.lr / 100).float().mean()) > 0.99
    assert float((theirs - start).abs().gt(epoch.PAPER.lr / 100).float().mean()) > 0.99


def test_what_encoding_once_saves_by_hand() -> None:
    # A step of 4 s is 0.125 s an image: 200 rounds of 3636 images are 90,900 s. Ours: 3636 times 0.1 + (0.056 + 200 *
    # 0.02) / 256 = 0.11584 s.
    turn = epoch.Turn(other=4.0, epoch=0.02, reading=0.056, encode=0.1)
    found = epoch.Epoch(where=here(), turns=(turn, turn, turn))
    assert found.faster == pytest.approx(8 * 4 / 0.076)
    other, ours = found.totals()
    assert other == pytest.approx(90_900) and ours == pytest.approx(3636 * (0.1 + 4.056 / 256))
    assert "**421 times, reached.**" in epoch.section(found)


def studied(first: list[float], other: list[float]) -> study.Studied:
    arms = {name: {s: {"x": v} for s, v in enumerate(values)} for name, values in (("a", first), ("b", other))}
    seconds = {name: dict.fromkeys(range(5), 1.5) for name in arms}
    return study.Studied(where=here(), arms=arms, seconds=seconds)


def test_a_study_tells_its_claim_its_numbers_and_their_difference_by_seed() -> None:
    # Differences 1, 2, 3, 2, 2: mean 2, standard deviation sqrt(1/2), so 2.776 * 0.7071 / sqrt(5) = 0.88.
    found = studied([2, 4, 6, 6, 7], [1, 2, 3, 4, 5])
    made = study.Study("more", "here", {"a": planted, "b": planted}, (("a", "b", "x"),), lambda _: "It is.")
    told = study.section("some", made, found)
    assert "**Claim.** more" in told and "**What came out.** It is." in told
    assert "| a - b | x | +2.00 ± 0.88 |" in told and "| b | 3.00 ± 1.96 | 1.5 |" in told
    found.seconds["a"][0] = 47.0  # and 9 of 1.5
    assert "10 runs, 1 minutes of the wall, beside" in study.section("some", made, found)


def test_a_study_may_have_seeds_of_its_own(tmp_path: Path) -> None:
    made = study.Study("", "", {"a": planted}, (), lambda _: "", seeds=(5, 6, 7, 8, 9))
    path = tmp_path / "some.json"
    assert study.measure(made, path, tmp_path).values("a", "x") == [5, 6, 7, 8, 9]
    assert study.published(replace(made, seeds=accuracy.SEEDS), path) is None, "measured on other seeds"


def planted(seed: int, cache: Path) -> dict[str, float]:
    return {"x": float(seed)}


def test_a_study_goes_on_where_it_was(tmp_path: Path) -> None:
    seeds: list[int] = []

    def counted(seed: int, cache: Path) -> dict[str, float]:
        seeds.append(seed)
        if len(seeds) == 3:
            raise KeyboardInterrupt
        return {"x": float(seed)}

    made, path = study.Study("", "", {"a": counted}, (), lambda _: ""), tmp_path / "some.json"
    with pytest.raises(KeyboardInterrupt):
        study.measure(made, path, tmp_path)
    assert study.measure(made, path, tmp_path).values("a", "x") == [0, 1, 2, 3, 4]
    assert seeds == [0, 1, 2, 2, 3, 4]


def test_results_of_an_earlier_commit_are_shown_until_those_of_this_one_are_complete(tmp_path: Path) -> None:
    earlier = studied([1, 1, 1, 1, 1], [2, 2, 2, 2, 2])
    earlier = earlier.model_copy(update={"where": earlier.where.model_copy(update={"commit": "earlier"})})
    path = tmp_path / "some.json"
    path.write_text(f"[{earlier.model_dump_json()}]")

    def interrupted(seed: int, cache: Path) -> dict[str, float]:
        if seed == 4:
            raise KeyboardInterrupt
        return planted(seed, cache)

    made = study.Study("", "", {"a": planted, "b": interrupted}, (("a", "b", "x"),), lambda _: "")
    with pytest.raises(KeyboardInterrupt):
        study.measure(made, path, tmp_path)
    assert study.published(made, path) == earlier
    now = study.measure(replace(made, arms={"a": planted, "b": planted}), path, tmp_path)
    assert study.published(made, path) == now and now.values("b", "x") == [0, 1, 2, 3, 4]
    assert kept.read(path, study.Studied) == [earlier, now]
    assert study.published(replace(made, pairs=(("a", "b", "y"),)), path) is None, "an older form lacks a number"


def test_a_section_stays_until_its_study_is_measured_in_its_new_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = study.PAGE.read_text()
    monkeypatch.setattr(study, "PAGE", tmp_path / "studies.md")
    monkeypatch.setattr(study, "RESULTS", tmp_path)  # nothing has been measured
    study.PAGE.write_text(page)
    study.write()
    assert study.PAGE.read_text() == page and set(study.sections(page)) <= set(study.there())


@pytest.mark.parametrize("name", study.there())
def test_every_study_compares_arms_that_it_has(name: str) -> None:
    made = study.load(name)
    assert made.claim and made.setting and made.pairs
    assert {arm for first, other, _ in made.pairs for arm in (first, other)} <= set(made.arms)


def test_traffic_counts_up_to_the_first_version_whose_last_evaluations_are_good_on_average() -> None:
    # One evaluation in two versions from version 0 on; (25 + 29 + 30) / 3 is 28, the target, at the fifth: version 8.
    assert cvlc.TARGET == 28 and cvlc.EVERY == 2 and cvlc.LAST == 3
    assert cvlc.reached([2, 20, 25, 29, 30, 40]) == 8
    assert cvlc.reached([2, 3, 40, 3]) == 6, "the last of all, if it never is"


def test_the_parts_that_ca2fl_is_compared_with_by_hand() -> None:
    # Of four clients a has sent 4 and b 8; now a sends 2, late by a discount of a half, and c 10. Everybody's last ones
    # are 2, 8, 10 and 0: their mean is 5. ca2fl: 12 / 4 + ((2 - 4) + 10) / 2 = 7; discounted 3 + (-1 + 10) / 2 = 7.5.
    for made, expected in ((ca2fl.Ca2fl, 7.0), (ca2fl.Discounted, 7.5), (ca2fl.LastOnes, 5.0)):
        aggregator = made(made.Params())
        aggregator.meet(dict.fromkeys("abcd", 1))
        fold = aggregator.fold({"w": torch.tensor([12.0], dtype=torch.float64)})
        fold.recall("a", {"w": torch.tensor([4.0])})
        for client, value, discount in (("a", 2.0, 0.5), ("c", 10.0, 1.0)):
            fold.add(client, {"w": torch.tensor([value])}, 1.0, discount)
        assert fold.result()["w"].tolist() == [expected]
        assert fold.kept["w"].tolist() == [20.0]
