"""`make chaos` and `make soak` in small: that they run to their end, and notice what they are there for."""

from pathlib import Path

import pytest
from rich.console import Console

from infra.servers import valkey, weed
from scripts.chaos import Assault, chaos
from scripts.ground import Ground
from scripts.soak import soak
from tests.stack.servers import needed

pytestmark = [pytest.mark.stack, pytest.mark.faults]


@pytest.fixture(autouse=True)
def servers() -> None:
    needed(valkey(), "Valkey")
    needed(weed(), "SeaweedFS")


def test_chaos_survives_a_killed_worker_and_a_busy_store_and_notices_wrong_bytes(tmp_path: Path) -> None:
    kinds = ("worker killed", "s3 busy")

    def go_on(ground: Ground, assault: Assault) -> bool:
        struck = {kind for blow in assault.blows for kind in blow.kinds}
        if struck == set(kinds):  # from here on a synchronous run ends in something else than it should
            ground.tracks[0].sha256 = "0" * 64
        return struck != set(kinds)

    found = chaos(tmp_path, 7, kinds=kinds, longest_s=1.0, say=Console(quiet=True), versions=(3, 10), go_on=go_on)
    assert {kind for blow in found.blows for kind in blow.kinds} == set(kinds)
    assert all(runs >= 1 for runs in found.runs.values())
    assert found.violations and all("and should in 000000" in v for v in found.violations)


def test_soak_finds_the_same_objects_left_by_each_run_and_none_elsewhere() -> None:
    found = soak(0.05, versions=3)
    values = {s.what: {value for _, value in s.samples} for s in found.series}
    assert found.runs >= 3 and found.updates == 3 * 4 * found.runs
    assert len(values["objects left by a run"]) == 1
    assert values["objects elsewhere"] == {0}
    assert max(values["memory orchestrator"]) > 50
    assert {"memory worker-0", "memory worker-1", "memory valkey", "keys valkey"} <= set(values)
