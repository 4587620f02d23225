"""Celery Flower of a running stack, seen as an operator sees it: through a browser.

Leaves docs/images/flower.png when QUORATE_SCREENSHOTS is set (`make screenshots`).
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import urllib3
from playwright.sync_api import Browser, HttpCredentials, Page, ViewportSize, expect

from infra import servers
from infra.runtime import connect_blobs
from infra.settings import Settings
from tests.stack.servers import asked_to_tell, needed

ROOT = Path(__file__).parents[2]
SCREENSHOT = ROOT / "docs" / "images" / "flower.png"
QUORATE = Path(sys.executable).parent / "quorate"
WORKERS = 2
VERSIONS = 20 if os.environ.get("QUORATE_SCREENSHOTS") else 8
LABEL = re.compile(r"v\d+ (photo|painting|cartoon)-\d train")
EVERYWHERE = {
    "/tasks": " train",
    "/workers": "pool@",
    "/broker": "redis",
    "/api/tasks?limit=10000": "quorate.execute",
    "/api/workers?refresh=1": "pool@",
}
pytestmark = pytest.mark.stack


@dataclass(frozen=True)
class Stack:
    """`quorate up` and the one run on it. url, password: of Celery Flower. env: what `up` wrote to source."""

    url: str
    password: str
    env: dict[str, str]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    needed(servers.valkey(), "Valkey")
    needed(servers.weed(), "SeaweedFS")
    folder = tmp_path_factory.mktemp("up")
    said = folder / "said"
    with said.open("wb") as out:
        up = subprocess.Popen(
            [QUORATE, "up", "--workers", str(WORKERS)],
            cwd=folder,
            env=os.environ | {"QUORATE_CACHE": str(folder / "cache"), "COLUMNS": "200"},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        url, password = welcomed(up, said)
        exports = (folder / ".quorate/up/env").read_text().splitlines()
        env = dict(shlex.split(line)[1].split("=", 1) for line in exports)
        stack = Stack(url, password, env)
        asked_to_tell(env["QUORATE_BUS"])
        run_demo(folder, stack)
        yield stack
    finally:
        up.terminate()
        assert up.wait(60) == 0, said.read_text()


def welcomed(up: subprocess.Popen[bytes], said: Path) -> tuple[str, str]:
    """Where Flower is and its password, once `up` says that everything is ready."""
    line = re.compile(r"Celery Flower\s+(http://\S+)\s+user ops, password (\S+)")
    deadline = time.monotonic() + 150
    while not (found := line.search(said.read_text())):
        assert up.poll() is None and time.monotonic() < deadline, said.read_text()
        time.sleep(0.1)
    return found[1], found[2]


def run_demo(folder: Path, stack: Stack) -> None:
    """A few versions of the demo on few images; the process that does the first task is killed at work."""
    few = ["--set", f"rounds.versions={VERSIONS}", "--set", "data.params.per_class=10"]
    few += ["--set", "simulate.dropout=0"]  # else rounds would wait a minute each for those who never answer
    with (folder / "run").open("wb") as out:
        command: list[str | Path] = [QUORATE, "run", ROOT / "experiments" / "demo.yaml", *few]
        run = subprocess.Popen(command, cwd=folder, env=os.environ | stack.env, stdout=out, stderr=subprocess.STDOUT)
    try:
        kill_first(stack)
        assert run.wait(240) == 0, (folder / "run").read_text()
        subprocess.run([QUORATE, "audit", "demo"], cwd=folder, env=os.environ | stack.env, check=True)
    finally:
        run.kill()
        run.wait()


def kill_first(stack: Stack) -> None:
    """Wait until Flower shows a task at work, and kill its process (not the worker, which makes another)."""
    login = urllib3.make_headers(basic_auth=f"ops:{stack.password}")
    deadline = time.monotonic() + 120
    while not (begun := urllib3.request("GET", f"{stack.url}/api/tasks?state=STARTED", headers=login).json()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (task,) = begun.values()
    worker = int(str(task["worker"]).rpartition("-")[2])  # its name is pool@HOST-PID
    children = Path(f"/proc/{worker}/task/{worker}/children").read_text().split()
    (child,) = [c for c in children if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]
    os.kill(int(child), signal.SIGKILL)


@pytest.fixture
def page(browser: Browser, stack: Stack) -> Iterator[Page]:
    """A page that knows the password, in a window in which the tasks read well."""
    context = browser.new_context(
        base_url=stack.url,
        viewport=ViewportSize(width=1200, height=720),
        device_scale_factor=1.5,
        color_scheme="light",
        http_credentials=HttpCredentials(username="ops", password=stack.password),
    )
    yield context.new_page()
    context.close()


@pytest.mark.parametrize("path", ["/", "/tasks", "/workers", "/broker", "/api/tasks", "/api/workers"])
def test_nothing_is_shown_without_the_password(stack: Stack, path: str) -> None:
    assert urllib3.request("GET", stack.url + path, timeout=10).status == 401


def test_every_worker_is_seen_online(page: Page) -> None:
    page.goto("/workers")
    expect(page.locator("#workers-table tbody tr").filter(has_text="Online")).to_have_count(WORKERS)
    expect(page.locator("#workers-online")).to_have_text(str(WORKERS))


def test_tasks_are_read_as_version_client_and_kind(page: Page) -> None:
    page.goto("/tasks?state=SUCCESS")
    rows = page.locator("#tasks-table tbody tr")
    expect(rows.filter(has_text=LABEL).first).to_contain_text("SUCCESS")
    if os.environ.get("QUORATE_SCREENSHOTS"):
        SCREENSHOT.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOT, full_page=True)


def test_a_task_page_tells_where_it_ran_and_shows_no_grant(page: Page) -> None:
    for path in task_pages(page, "/tasks"):
        page.goto(path)
        expect(page.locator("body")).to_contain_text("quorate.execute")
        assert "X-Amz" not in page.content()
        assert "Signature" not in page.content()


def test_a_task_whose_process_was_killed_shows_why_and_no_grant(page: Page) -> None:
    (path,) = task_pages(page, "/tasks?state=FAILURE")
    page.goto(path)
    expect(page.locator("body")).to_contain_text("v0 all describe")
    expect(page.locator("body")).to_contain_text("WorkerLostError")
    assert "X-Amz" not in page.content()
    assert "Signature" not in page.content()


def task_pages(page: Page, path: str) -> list[str]:
    """Where the tasks of the first page of a list lead."""
    page.goto(path)
    links = page.locator("#tasks-table tbody a[href*='/task/']")
    expect(links.first).to_be_visible()
    return [str(link.get_attribute("href")) for link in links.all()]


def test_no_list_of_tasks_or_workers_shows_a_grant_or_a_secret(page: Page, stack: Stack) -> None:
    pages = dict(EVERYWHERE)
    page.goto("/workers")
    link = page.locator("#workers-table tbody a[href*='/worker/']").first
    expect(link).to_be_visible()
    pages[str(link.get_attribute("href"))] = "pool@"
    for path, told in pages.items():
        page.goto(path)
        expect(page.locator("body")).to_contain_text(told)  # the page has loaded what it has to show
        shown = page.content()
        for secret in ("X-Amz", "Signature", stack.env["QUORATE_S3_SECRET_KEY"]):
            assert secret not in shown


def test_a_grant_would_be_recognised(stack: Stack) -> None:
    store = connect_blobs(
        Settings.model_validate({k.removeprefix("QUORATE_").lower(): v for k, v in stack.env.items()})
    )
    assert "X-Amz-Signature" in store.grant("key", "GET", 60.0).url.get_secret_value()
