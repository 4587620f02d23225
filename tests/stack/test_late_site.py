"""A site whose worker starts only after version 0, on real processes: asked and evaluated from then on."""

import sys
from pathlib import Path

import pytest
import yaml

from infra.runtime import connect
from infra.servers import S3, Child, Redis, start, wait_for
from orchestrator.commits import Commits
from schemas.log import Commit
from tests.checked import whole
from tests.stack.servers import environment, settings
from tests.toys import paint

pytestmark = pytest.mark.stack
CLI = [sys.executable, "-m", "orchestrator.cli"]
ROOT = Path(__file__).parents[2]
WITHIN_S = 120.0


def _worker(name: str, domains: tuple[str, ...], folder: Path, env: dict[str, str]) -> Child:
    """The worker of a site that holds the last of its domains out."""
    paint(folder / name / "images", domains=domains)
    data = {"name": "folder", "params": {"root": "images"}, "hold_out": [domains[-1]]}
    described = {"data": data, "private": "kept", "plugins": ["tests.toys:ToyBackbone"]}
    (folder / name / "site.yaml").write_text(yaml.safe_dump(described))
    command = [*CLI, "worker", "--site", name, "--data", str(folder / name / "site.yaml")]
    own = {k: v for k, v in env.items() if "S3" not in k and "BLOBS" not in k}
    return start(f"site-{name}", command, folder, env={**own, "QUORATE_CACHE": str(folder / name / "cache")})


def test_a_site_whose_worker_starts_late_takes_part_from_then_on(
    redis_server: Redis, s3_server: S3, tmp_path: Path
) -> None:
    everybody = {"early", "early.noisy", "late", "late.flat"}
    # start_s is over before the late worker exists, so the grants of the first description are over too.
    rounds = {"versions": 2000, "in_flight": 2, "quorum": 1, "floor": 1, "max_staleness": 3}
    latency = {"name": "trace", "params": {"default_s": 1.0}}
    asked = {"name": "tardy", "sites": ["early", "late"], "method": {"name": "fedclip"}, "rounds": rounds,
             "start_s": 15, "evaluate": {"every": 1}, "simulate": {"latency": latency},
             "model": {"backbone": {"name": "tests.toys:ToyBackbone"}}}  # fmt: skip
    (tmp_path / "tardy.yaml").write_text(yaml.safe_dump(asked))
    env = {**environment(redis_server, s3_server, tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    commits = Commits("tardy", connect(settings(redis_server, s3_server, tmp_path / "cache")).blobs)

    def last() -> Commit | None:
        return commits.last()

    def taken_part() -> bool:
        """Whether the late site has counted twice, and everybody was evaluated since it joined."""
        found, events = last(), commits.journal()
        joined = next((e.version for e in events if e.event == "joined"), None)
        if found is None or joined is None or "late" not in found.ledger or found.ledger["late"].accepted < 2:
            return False
        return everybody <= {e.client for e in events if e.event == "evaluated" and e.version > joined}

    children = [_worker("early", ("flat", "noisy"), tmp_path, env)]
    try:
        wait_for(lambda: '"event": "ready"' in children[0].log.read_text(), children[0], WITHIN_S)
        loop = start("loop", [*CLI, "run", "tardy.yaml"], tmp_path, env=env, cwd=tmp_path)
        children.append(loop)
        wait_for(lambda: (found := last()) is not None and found.version >= 1, loop, WITHIN_S)
        children.append(_worker("late", ("striped", "flat"), tmp_path, env))
        wait_for(taken_part, loop, WITHIN_S)
        cancelled = start("cancel", [*CLI, "cancel", "tardy"], tmp_path, env=env, cwd=tmp_path)
        children.append(cancelled)
        wait_for(lambda: commits.final() is not None, children[0], WITHIN_S)
    finally:
        for child in reversed(children):
            child.stop()
    events = commits.journal()
    (joined,) = [e for e in events if e.event == "joined"]
    assert (
        joined.version >= 1 and list(joined.facts["clients"]) == ["late"] and joined.facts["held_out"] == ["late.flat"]
    )
    assert everybody <= {e.client for e in events if e.event == "evaluated" and e.version > joined.version}
    assert not [e for e in events if e.event == "evaluated" and e.version < joined.version and e.client == "late"]
    whole(commits)
