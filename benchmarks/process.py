"""A run in this process, in a folder that goes away: what `quorate run` does without servers, and nothing printed."""

import shlex
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from infra.runtime import Runtime, connect
from infra.settings import Settings
from orchestrator.plan import Plan, plan, read_experiment
from orchestrator.run import Outcome, execute
from schemas.experiment import Experiment
from schemas.log import Event
from workers.execute import Worker

DEMO = Path(__file__).parent.parent / "experiments" / "demo.yaml"


def demo(*overrides: str) -> Experiment:
    """The demo with `path=YAML` changes."""
    return read_experiment(DEMO, overrides)


def unseen(event: Event) -> None:
    """Nobody looks."""


def run(experiment: Experiment, cache: Path, watch: Callable[[Event], None] = unseen) -> tuple[Plan, Outcome]:
    """Plan and run it to its end. cache: folder of features and drawn data, kept between runs. watch: sees events."""
    made = plan(experiment)
    with tempfile.TemporaryDirectory(prefix="quorate-bench-") as folder:
        return made, execute(made, runtime(Path(folder), cache), experiment.name, watch)


def runtime(folder: Path, cache: Path) -> Runtime:
    """Stores in a folder, and a worker in this process."""
    given = {"blobs": f"file:{folder}/blobs", "state": f"file:{folder}/state", "bus": "local:", "cache": cache}
    return connect(
        Settings.model_validate(given),
        lambda stream, state: Worker(name="here", stream=stream, state=state, cache=cache).handle,
    )


def sets(overrides: Iterable[str]) -> str:
    """The overrides as a reader would type them."""
    return " ".join(f"--set {shlex.quote(o)}" for o in overrides)
