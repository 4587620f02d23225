"""The Grafana dashboard as tests read it: its queries, and the metrics that each of them names."""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PATH = ROOT / "infra/deploy/grafana/dashboards/quorate.json"
WORDS = {"sum", "by", "rate", "increase", "histogram_quantile", "time"}
"""All that the queries use of the language. A function that is not here is taken for a metric, and not found."""


def document() -> dict[str, Any]:
    """The dashboard."""
    found: dict[str, Any] = json.loads(PATH.read_text())
    return found


def queries() -> list[str]:
    """Every query of every panel."""
    return [target["expr"] for panel in document()["panels"] for target in panel.get("targets", ())]


def filled(query: str, run: str, window: str) -> str:
    """The query as Grafana sends it. window: of rates, e.g. `10s`."""
    return query.replace("$__rate_interval", window).replace("$run", run)


def metrics(query: str) -> set[str]:
    """The metrics that a query names. Raises ValueError for what is no query of this small part of PromQL."""
    bare = re.sub(r'"[^"]*"', '""', filled(query, "r", "1m"))
    bare = re.sub(r"\{[^{}]*\}|\[\d+[smh]\]", " ", bare)
    bare = re.sub(r"\bby \([a-z_, ]*\)", " ", bare)
    if re.search(r"[^\w\s.()+\-*/,:]", bare) or bare.count("(") != bare.count(")"):
        raise ValueError(f"not understood: {query}")
    return set(re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*", bare)) - WORDS
