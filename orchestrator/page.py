"""One run as one HTML page that needs nothing else: no script, no network, no other file. Knows findings, no stores.

Names and reasons come from workers: the template escapes all of them, and the page's own policy lets a browser load
and run nothing, whatever might stand in it.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from orchestrator import retold, wording
from orchestrator.charts import charts
from orchestrator.findings import Findings
from schemas.experiment import Experiment

ROWS = 200
"""Most clients or versions that have a row in a table."""
NOTES = 120
"""Most characters of a note, beyond which names become numbers."""


def render(found: Findings) -> str:
    """The page. The same findings give the same text."""
    environment = Environment(
        loader=PackageLoader("orchestrator"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"percent": wording.percent, "size": wording.size, "plain": wording.plain}
    environment.filters |= {"seconds": _seconds, "moment": _moment, "share": _share}
    rounds = found.story.rounds
    return environment.get_template(
        "run.html"
    ).render(
        found=found,
        story=found.story,
        experiment=found.started.get("experiment", {}),
        resolved=_yaml(found.started.get("experiment", {})),
        charts={name: Markup(svg) for name, svg in charts(found).items()},  # ours: matplotlib escapes what it is given
        clients=sorted(found.clients, key=lambda c: (-abs((c.weight or 0) - (c.data or 0)), c.name))[:ROWS],
        rounds=[(r, retold.notes(r.model_copy(update={"counted": ()}), NOTES)) for r in rounds[-ROWS:]],
        zero_shot=_mean(found),
    )


def _mean(found: Findings) -> float | None:
    known = [a for a in found.accuracy.zero_shot.values() if a is not None]
    return sum(known) / len(known) if known else None


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:,.1f} s"


def _share(value: float | None) -> str:
    """Of thousands of clients each has little: figures that count, not places behind the point."""
    return "–" if value is None else f"{100 * value:.3g} %"


def _moment(wall: float | None) -> str:
    """A Unix moment, the same wherever the page is made."""
    return "–" if wall is None else f"{datetime.fromtimestamp(wall, UTC):%Y-%m-%d %H:%M} UTC"


def _yaml(experiment: Mapping[str, Any]) -> str:
    """In the order in which one writes it: a journal's keys are sorted."""
    known = {name: experiment[name] for name in Experiment.model_fields if name in experiment}
    return yaml.safe_dump({**known, **experiment}, sort_keys=False, allow_unicode=True)
