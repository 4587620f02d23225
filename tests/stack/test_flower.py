"""Celery Flower of a running stack, seen as an operator sees it: through a browser.

Leaves docs/images/flower.png when QUORATE_SCREENSHOTS is set (`make screenshots`).
"""

import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from infra import servers
from tests.stack.servers import environment, needed, settings

ROOT = Path(__file__).parents[2]
SCREENSHOT = ROOT / "docs" / "images" / "flower.png"
PASSWORD = "a-password-of-the-test"
WORKERS = 2
VERSIONS = 4
LABEL = re.compile(r"v\d+ (photo|painting|cartoon)-\d train")
EVERYWHERE = {
    "/tasks": " train",
    "/workers": "pool@worker-0",
    "/worker/pool@worker-0": "pool@worker-0",
    "/broker": "redis",
    "/api/tasks?limit=10000": "quorate.execute",
    "/api/workers?refresh=1": "pool@worker-0",
}
pytestmark = pytest.mark.stack


@dataclass(frozen=True)
class Stack:
    """A stack on which one run has finished. url: of Celery Flower. report: of the run, JSON."""

    url: str
    report: str


@pytest.fixture(scope="module")
def stack(
    redis_server: servers.Redis, s3_server: servers.S3, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("flower")
    env = environment(redis_server, s3_server, folder / "cache")
    port = servers.free_port()
    flower = {"FLOWER_PORT": str(port), "FLOWER_ADDRESS": "127.0.0.1", "FLOWER_BASIC_AUTH": f"ops:{PASSWORD}"}
    flower |= {"FLOWER_READ_ONLY": "true", "FLOWER_TASKS_COLUMNS": "args,state,received,runtime,worker,uuid"}
    python = Path(sys.executable)
    children = [
        servers.start("flower", [python, "-m", "celery", "-A", "infra.celery_app", "flower"], folder, env=env | flower)
    ]
    try:
        servers.wait_for(lambda: servers.answers(f"http://127.0.0.1:{port}/healthcheck"), children[0])
        for number in range(WORKERS):
            command = [python, "-m", "workers.celery_worker", "--pool", "--node", f"pool@worker-{number}"]
            children.append(servers.start(f"worker-{number}", command, folder, env=env))
        yield Stack(f"http://127.0.0.1:{port}", demo(folder, env))
    finally:
        for child in reversed(children):
            child.stop()


def demo(folder: Path, env: dict[str, str]) -> str:
    """report.json of a few versions of the demo on few images, through the stack."""
    command = [Path(sys.executable).parent / "quorate", "run", ROOT / "experiments" / "demo.yaml", "--json"]
    done = subprocess.run(
        [*command, "--set", f"rounds.versions={VERSIONS}", "--set", "data.params.per_class=10"],
        cwd=folder,
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome")
    program = needed(next((p for p in map(shutil.which, names) if p), None), "Chromium")
    quiet = ["--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
    as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        shown = playwright.chromium.launch(executable_path=program, args=[*quiet, *as_root])
        yield shown
        shown.close()


@pytest.fixture
def page(browser: Browser, stack: Stack) -> Iterator[Page]:
    """A page that knows the password, in a window in which the tasks read well."""
    window = {"width": 1200, "height": 720}
    credentials = {"username": "ops", "password": PASSWORD}
    context = browser.new_context(
        viewport=window, device_scale_factor=1.5, http_credentials=credentials, base_url=stack.url, color_scheme="light"
    )  # type: ignore[arg-type]
    yield context.new_page()
    context.close()


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as e:
        return e.code


@pytest.mark.parametrize("path", ["/", "/tasks", "/workers", "/broker", "/api/tasks", "/api/workers"])
def test_nothing_is_shown_without_the_password(stack: Stack, path: str) -> None:
    assert status(stack.url + path) == 401


def test_every_worker_is_seen_online(page: Page) -> None:
    page.goto("/workers")
    for number in range(WORKERS):
        expect(page.locator(f'tr:has-text("pool@worker-{number}")')).to_contain_text("Online")
    expect(page.locator("#workers-online")).to_have_text(str(WORKERS))


def test_tasks_are_read_as_version_client_and_kind(page: Page) -> None:
    page.goto("/tasks?state=SUCCESS")
    rows = page.locator("#tasks-table tbody tr")
    expect(rows.filter(has_text=LABEL).first).to_contain_text("SUCCESS")
    if os.environ.get("QUORATE_SCREENSHOTS"):
        SCREENSHOT.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOT, full_page=True)


def test_a_task_page_tells_where_it_ran_and_shows_no_grant(page: Page) -> None:
    page.goto("/tasks")
    links = page.locator("#tasks-table tbody a[href*='/task/']")
    expect(links.first).to_be_visible()
    for path in [str(link.get_attribute("href")) for link in links.all()]:
        page.goto(path)
        expect(page.locator("body")).to_contain_text("quorate.execute")
        assert "X-Amz" not in page.content()
        assert "Signature" not in page.content()


def test_no_list_of_tasks_or_workers_shows_a_grant_or_a_secret(
    page: Page, redis_server: servers.Redis, s3_server: servers.S3, tmp_path: Path
) -> None:
    from infra.runtime import connect_blobs

    grant = connect_blobs(settings(redis_server, s3_server, tmp_path)).grant("key", "GET", 60.0)
    assert "X-Amz-Signature" in grant.url.get_secret_value()  # what is looked for below is what a grant looks like
    for path, told in EVERYWHERE.items():
        page.goto(path)
        expect(page.locator("body")).to_contain_text(told)  # the page has loaded what it has to show
        shown = page.content()
        for secret in ("X-Amz", "Signature", s3_server.secret_key):
            assert secret not in shown
