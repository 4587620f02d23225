"""FedCLIP's protocol: its splits, its choice of a round, and its table, with numbers derived here."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import parity
from benchmarks.parity import DOMAINS, Fold, folded, lines, planned
from schemas.log import Event
from tests.toys import paint
from workers.data.owners import read_owners

SMALL = [
    "data.params.expect=null",
    "model.backbone={name: 'tests.toys:ToyBackbone'}",
    "data.params.domains={art_painting: [art_painting], cartoon: [cartoon], photo: [photo], sketch: [sketch]}",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("pacs"), domains=DOMAINS, per_class=9)


def test_each_domain_is_split_by_one_permutation_that_is_drawn_alike_for_all(root: Path, tmp_path: Path) -> None:
    # 27 images: floor(16.2) train, floor(5.4) validation and test each; one is dropped. The order is that of
    # numpy's old generator with the run's seed, anew for each domain.
    made = planned(root, "sketch", 1, SMALL)
    assert made.data is not None
    owners = read_owners(made.data, seed=made.seed, cache=tmp_path)
    order = np.random.RandomState(0).permutation(27)
    for owner in owners.clients.values():
        assert sorted(owner.parts.train) == sorted(order[:16])
        assert sorted(owner.parts.val) == sorted(order[16:21])
        assert sorted(owner.parts.test) == sorted(order[21:26])
    (target,) = owners.held_out.values()
    assert len(target.parts.test) == 27 and not len(target.parts.train)


def test_a_fold_is_the_papers_setting(root: Path) -> None:
    made = planned(root, "photo", 200, SMALL)
    assert made.data is not None and made.data.hold_out == ("photo",) and made.data.split == "permutation"
    assert made.method.params == {"preset": "paper"}
    rounds = made.rounds
    assert (rounds.versions, rounds.in_flight, rounds.quorum, rounds.floor, rounds.max_staleness) == (201, 3, 3, 3, 0)


def event(kind: str, version: int, client: str, **facts: object) -> Event:
    return Event(event=kind, at=0.0, wall=0.0, version=version, client=client, facts=dict(facts))


def told(validation: list[float]) -> list[Event]:
    """Rounds whose mean validation is this; test accuracy of round n is n / 100, n / 50 on the target."""
    found = [event("evaluated", 0, d, accuracy=0.0, zero_shot=0.5) for d in DOMAINS]
    for n, mean in enumerate(validation, start=1):
        found += [event("evaluated", n, d, accuracy=n / 100) for d in DOMAINS[:3]]
        found.append(event("evaluated", n, "sketch", accuracy=n / 50))
        apart = (-0.1, 0.0, 0.1)
        found += [
            event("accepted", n, d, base=n, metrics={"validation": mean + a})
            for d, a in zip(DOMAINS[:3], apart, strict=True)
        ]
    return found


@pytest.mark.parametrize(
    ("validation", "chosen"), [([0.5, 0.7, 0.6], 2), ([0.7, 0.7, 0.7], 1), ([0.5, 0.6, 0.8, 0.8], 3), ([0.4], 1)]
)
def test_the_first_round_with_the_best_mean_validation_counts(validation: list[float], chosen: int) -> None:
    fold = folded("sketch", told(validation), len(validation))
    assert fold.round == chosen
    assert fold.validation == pytest.approx(max(validation))
    assert fold.test == {"art_painting": chosen / 100, "cartoon": chosen / 100, "photo": chosen / 100,
                         "sketch": chosen / 50}  # fmt: skip
    assert fold.mean == pytest.approx(chosen * (3 / 100 + 1 / 50) / 4)


def test_a_round_that_somebody_did_not_evaluate_is_no_result() -> None:
    events = [e for e in told([0.5, 0.6]) if not (e.event == "evaluated" and e.version == 2 and e.client == "photo")]
    with pytest.raises(ValueError, match="round 2 was not evaluated by everybody"):
        folded("sketch", events, 2)


def test_the_table_has_the_published_row_and_zero_shot_beside_ours() -> None:
    folds = [Fold(d, 3, 0.9, dict.fromkeys(DOMAINS, 0.96), dict.fromkeys(DOMAINS, 0.94)) for d in DOMAINS]
    head, *rows, mean, alone = lines(folds)
    named = [*(d[:7] for d in DOMAINS), "mean", "zero-shot", "published", "round", "validation"]
    assert head.split() == ["target", *named]
    assert rows[3].split() == ["sketch", "96.00", "96.00", "96.00", "96.00*", "96.00", "94.00", "94.99", "3", "90.00"]
    assert mean.split() == ["mean", "96.00", "94.00", "95.24"]  # (95.15 + 95.36 + 95.46 + 94.99) / 4
    assert alone == "held-out domains alone (*): 96.00, zero-shot 94.00"


def test_one_command_runs_all_folds(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QUORATE_CACHE", str(tmp_path))
    arguments = ["--root", str(root), "--rounds", "2", *(x for o in SMALL for x in ("--set", o))]
    done = CliRunner().invoke(parity.main, arguments)
    assert done.exit_code == 0, done.output
    rows = done.output.strip().splitlines()[-6:]
    assert [row.split()[0] for row in rows] == [*DOMAINS, "mean", "held-out"]


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    done = CliRunner().invoke(parity.main, ["--root", str(tmp_path / "none"), "--rounds", "1", "--set", SMALL[1]])
    assert done.exit_code == 1 and "none" in done.output and "Traceback" not in done.output
