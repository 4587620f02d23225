"""The dashboard shows what there is: every metric that it asks for is in a real /metrics after a real run."""

import urllib.request
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from infra.servers import free_port
from orchestrator import run as runs
from orchestrator.measures import COUNTERS, GAUGES, HISTOGRAMS
from orchestrator.metrics import Metrics, served
from orchestrator.plan import plan
from tests import dashboard
from tests.dashboard import ROOT, metrics, queries
from tests.runs.here import runtime
from tests.runs.test_embedded import QUORUM, SLOW, small
from tests.toys import paint


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names in /metrics after a run with stragglers, dropouts and a client whose updates are refused."""
    root = tmp_path_factory.mktemp("run")
    rounds = {**QUORUM, "in_flight": 4, "deadline_s": 3}
    method = {"name": "tests.runs.plugins:Poisoned", "params": {"client": "flat-1"}}
    made = plan(small(paint(root / "images"), rounds=rounds, method=method, simulate={**SLOW, "dropout": 0.3}))
    counts, port = Metrics("r", made.experiment, made.versions), free_port()
    with served(counts, ("127.0.0.1", port)):
        runs.execute(made, runtime(root), "r", counts.watch)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    families = list(text_string_to_metric_families(text))
    announced = {f"{family.name}_total" for family in families if family.type == "counter"}  # some have no value yet
    return announced | {sample.name for family in families for sample in family.samples}


def test_every_metric_of_every_query_is_exposed(exposed: set[str]) -> None:
    asked = {name for query in queries() for name in metrics(query) if not name.startswith("flower_")}
    assert len(asked) > 25
    assert asked - exposed == set()


def test_every_metric_is_shown() -> None:
    shown = {name for query in queries() for name in metrics(query)}
    counters, gauges = {f"quorate_{n}_total" for n in COUNTERS}, {f"quorate_{n}" for n in GAUGES}
    histograms = {f"quorate_{n}" for n in HISTOGRAMS if not {f"quorate_{n}_sum", f"quorate_{n}_bucket"} & shown}
    assert (counters | gauges | histograms) - shown == {"quorate_evaluated_version"}  # for alerts and ad hoc questions


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ('quorate_version{run="$run"}', {"quorate_version"}),
        ("rate(a_sum[$__rate_interval]) / rate(a_count[$__rate_interval])", {"a_sum", "a_count"}),
        ('histogram_quantile(0.9, sum by (le, run) (rate(b_bucket{x="by (c)"}[1m])))', {"b_bucket"}),
        ("60 * avg(d)", {"avg", "d"}),
    ],
)
def test_the_metrics_of_a_query_are_found(query: str, named: set[str]) -> None:
    assert metrics(query) == named


@pytest.mark.parametrize("query", ["a{", "a)", "a[1x]", "a == 1", "a @ 3", 'a{run="r'])
def test_what_is_not_understood_is_refused(query: str) -> None:
    with pytest.raises(ValueError, match="not understood"):
        metrics(query)


def test_panels_do_not_overlap_and_fit_the_screen() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard.document()["panels"]:
        x, y, w, h = (panel["gridPos"][key] for key in "xywh")
        cells = {(column, line) for column in range(x, x + w) for line in range(y, y + h)}
        assert not cells & taken, panel["title"]
        assert x + w <= 24, panel["title"]
        taken |= cells


def test_datasource_dashboard_and_scraping_fit_together() -> None:
    folder = ROOT / "infra/deploy/grafana/provisioning"
    (source,) = yaml.safe_load((folder / "datasources/prometheus.yaml").read_text())["datasources"]
    panels = [p for p in dashboard.document()["panels"] if p["type"] != "row"]
    assert {p["datasource"]["uid"] for p in panels} == {source["uid"]}
    assert source["url"] == "http://prometheus:9090"
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    (loop, flower) = yaml.safe_load((ROOT / "infra/deploy/prometheus.yml").read_text())["scrape_configs"]
    (found,) = loop["dns_sd_configs"]
    assert found["names"] == ["orchestrator"]
    assert compose["orchestrator"]["environment"]["QUORATE_METRICS"] == f"0.0.0.0:{found['port']}"
    assert loop["job_name"] == "quorate" and flower["static_configs"] == [{"targets": ["flower:5555"]}]


def test_the_services_of_the_profile_are_confined_pinned_and_on_loopback_alone() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    for name in ("prometheus", "grafana"):
        service = services[name]
        assert service["profiles"] == ["metrics"]
        assert service["read_only"] and service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not service["user"].startswith(("0", "root"))
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        tag = service["image"].rstrip("}").rpartition(":")[2]
        assert tag.lstrip("v").count(".") == 2, "a whole version"
        for mount in (v for v in service["volumes"] if v.startswith("./")):
            assert (ROOT / mount.split(":")[0]).exists() and mount.endswith(":ro")
    assert [name for name, service in services.items() if "profiles" in service] == ["prometheus", "grafana"]


def test_every_password_that_compose_wants_is_made_by_make_env() -> None:
    text = (ROOT / "compose.yaml").read_text()
    wanted = {
        part.split(":")[0] for part in text.split("${")[1:] if part.split("}")[0].partition(":")[2].startswith("?")
    }
    assert wanted == {
        line[:-1] for line in Path(ROOT / ".env.example").read_text().splitlines() if line.endswith("_PASSWORD=")
    }
