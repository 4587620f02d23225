"""A store that does not answer for a while costs a run nothing: same bytes, ledger and report, told once."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from infra.state import FileState
from orchestrator import patience
from orchestrator import run as runs
from orchestrator.plan import plan
from orchestrator.tenure import Tenure
from schemas.errors import BlobError, BlobUnavailable, BusError, QuorateError, StoreError, StoreUnavailable
from schemas.experiment import Experiment
from schemas.log import Event
from tests.runs.here import Fuse, run, runtime
from tests.runs.test_crash import MODES, facts, operations, places
from tests.runs.test_embedded import small
from tests.toys import paint
from workers import beats


@dataclass
class Outage(Fuse):
    """From the n-th operation on, so many fail; those before or after which it strikes were done or not done."""

    length: int = 3
    error: type[QuorateError] = StoreUnavailable

    def around(self, operation: Callable[..., Any], *given: Any, **named: Any) -> Any:
        self.left -= 1
        away = -self.length < self.left <= 0
        if away and not self.after:
            raise self.error("away")
        result = operation(*given, **named)
        if away:
            raise self.error("away")
        return result


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return paint(tmp_path / "images")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_S", 0.0)
    monkeypatch.setattr(beats, "RETRY_S", 0.0)


def through(made: Experiment, root: Path, fuse: Fuse, **named: Any) -> tuple[runs.Outcome, list[Event]]:
    """A run with an outage, and what a watcher was told."""
    told: list[Event] = []
    return runs.execute(plan(made), runtime(root, fuse), "r", told.append, **{"patience_s": 60.0, **named}), told


def counts(events: list[Event]) -> Counter[tuple[str, int, str | None]]:
    """How often what happened; a store that is away leaves duplicates of manifests, which are ignored."""
    seen = [e for e in events if e.event not in ("away", "loaded", "committed", "ignored", "answered")]
    return Counter((e.event, e.version, e.client) for e in seen)


@pytest.mark.parametrize("mode", ["synchronous", "k of n", "fedbuff"])
def test_an_outage_anywhere_changes_nothing(images: Path, tmp_path: Path, mode: str) -> None:
    made = small(images, codec={"name": "fp16"}, **MODES[mode])  # type: ignore[arg-type]
    undisturbed = run(made, tmp_path / "undisturbed")
    for place, after in places(operations(made, tmp_path / "counted"), 8):
        error = BlobUnavailable if place % 3 else StoreUnavailable
        outcome, told = through(made, tmp_path / f"away-{place}", Outage(place, after, error=error))
        assert facts(outcome) == facts(undisturbed), f"away at operation {place}"
        assert counts(outcome.events) == counts(told) == counts(undisturbed.events), place


def test_a_store_that_stays_away_ends_the_loop_which_can_go_on_later(images: Path, tmp_path: Path) -> None:
    made = small(images, **MODES["synchronous"])  # type: ignore[arg-type]
    whole = operations(made, tmp_path / "undisturbed")
    with pytest.raises(BlobUnavailable, match=r"away .*quorate run --resume r"):
        through(made, tmp_path / "r", Outage(whole // 2, length=10**9, error=BlobUnavailable), patience_s=0.0)
    assert facts(run(made, tmp_path / "r")) == facts(run(made, tmp_path / "undisturbed"))


def test_what_a_store_says_for_good_is_not_waited_for(images: Path, tmp_path: Path) -> None:
    made = small(images, **MODES["synchronous"])  # type: ignore[arg-type]
    fuse = Outage(5, length=1, error=BlobError)
    with pytest.raises(BlobError, match=r"^away$"):
        through(made, tmp_path, fuse)
    assert fuse.left == 0


@pytest.mark.parametrize("error", [BlobUnavailable, StoreUnavailable, BusError])
def test_the_patience_counts_from_the_first_trouble_and_anew_after_a_commit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: type[QuorateError]
) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.sleep", lambda s: None)
    tenure = Tenure("r", "me", FileState(tmp_path))
    tenure.begin()
    borne = patience.Patience(tenure, limit_s=60)
    for at in (1000.0, 1030.0, 1059.0):
        now[0] = at
        borne.bear(error("away"))
    tenure.keep(1)  # a version was committed: it was back
    now[0] = 1061.0
    borne.bear(error("away"))
    now[0] = 1120.0
    borne.bear(error("away"))
    now[0] = 1121.0
    with pytest.raises(error, match="given up after 60 s"):
        borne.bear(error("away"))
    tenure.end()


def test_a_known_run_waits_for_a_server_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(patience, "FIRST_S", 0.0)
    answers = iter([StoreUnavailable("state: nobody there"), BlobUnavailable("S3: nobody there"), None])

    def connect() -> str:
        if (trouble := next(answers)) is not None:
            raise trouble
        return "connected"

    assert patience.awaited(connect, limit_s=60) == "connected"
    assert capsys.readouterr().err.count("state: nobody there; waiting for it, at most 60 s") == 1


def test_it_does_not_wait_for_ever_and_not_for_what_is_wrong() -> None:
    def away() -> str:
        raise StoreUnavailable("state: nobody there")

    def wrong() -> str:
        raise StoreError("state: wrong password")

    with pytest.raises(StoreUnavailable, match="nobody there"):
        patience.awaited(away, limit_s=0)
    with pytest.raises(StoreError, match="wrong password"):
        patience.awaited(wrong, limit_s=60)
