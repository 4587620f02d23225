"""The page of a run as people see it: opened from disk in a browser, and printed.

Leaves docs/images/report.png when QUORATE_SCREENSHOTS is set (`make screenshots`).
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, FloatRect, Page, ViewportSize, expect

from orchestrator import page as pages
from tests.unit.test_page import EVENTS, HOSTILE, SECTIONS, renamed, told

ROOT = Path(__file__).parents[2]
SCREENSHOT = ROOT / "docs" / "images" / "report.png"
QUORATE = [sys.executable, "-m", "orchestrator.cli"]
FEW = (
    () if os.environ.get("QUORATE_SCREENSHOTS") else ("--set", "rounds.versions=8", "--set", "data.params.per_class=10")
)
LAPTOP = ViewportSize(width=1280, height=800)
FIRST = FloatRect(x=0, y=0, width=1280, height=1605)
"""What of the page the screenshot shows: down to the plot of who was in."""
A4 = ViewportSize(width=round((210 - 2 * 14) / 25.4 * 96), height=1000)
"""What is left between the margins of the page's own @page rule, in CSS pixels."""
TOO_WIDE = (
    "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1).length"
)
OVER = "[...document.querySelectorAll('table')].map(t => t.getBoundingClientRect().right)"
"""How far each table reaches; a heading is as wide as the page's text."""
CUT = """[...document.querySelectorAll("svg text")].filter(text => {
  const [own, plot] = [text, text.closest("svg")].map(e => e.getBoundingClientRect());
  return own.left < plot.left - 1 || own.right > plot.right + 1 || own.top < plot.top - 1 ||
    own.bottom > plot.bottom + 1;
}).map(text => text.textContent)"""
"""Words of a plot that reach over its edge, where a browser cuts them off."""
pytestmark = pytest.mark.stack


def written(folder: Path, name: str) -> Path:
    """What `quorate report --html` writes after a run of an experiment of ours."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("QUORATE_")}
    env |= {"PYTHONPATH": str(ROOT), "QUORATE_CACHE": str(folder / "cache")}
    run = ["run", str(ROOT / "experiments" / f"{name}.yaml"), *FEW]
    for words in (run, ["audit", name], ["report", name, "--html"]):
        ran = subprocess.run([*QUORATE, *words], cwd=folder, env=env, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
    return folder / f"{name}.html"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def file(folder: Path) -> Path:
    return written(folder, "demo")


@dataclass
class Heard:
    """What a page asked for and what its console said."""

    requests: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def page(browser: Browser, heard: Heard) -> Iterator[Page]:
    context = browser.new_context(viewport=LAPTOP, color_scheme="light")
    opened = context.new_page()
    opened.on("request", lambda request: heard.requests.append(request.url))
    opened.on("console", lambda message: heard.said.append(message.text))
    opened.on("pageerror", lambda error: heard.said.append(str(error)))
    opened.on("dialog", lambda dialog: heard.said.append(dialog.message))
    yield opened
    context.close()


def test_it_opens_from_disk_with_every_section_and_asks_for_nothing_else(page: Page, heard: Heard, file: Path) -> None:
    page.goto(file.as_uri())
    assert {str(h.get_attribute("id")) for h in page.locator("h2").all()} == SECTIONS
    plots = page.locator("figure svg").all()
    assert len(plots) == 8
    for plot in plots:
        expect(plot).to_be_visible()
    expect(page.locator("#ledger ~ table").first.locator("tbody tr")).to_have_count(12)
    assert [url for url in heard.requests if not url.startswith("data:")] == [file.as_uri()]
    assert heard.said == []
    if os.environ.get("QUORATE_SCREENSHOTS"):
        page.screenshot(path=SCREENSHOT, full_page=True, clip=FIRST)


def test_it_fits_a_laptop_and_a_sheet_of_paper(page: Page, file: Path) -> None:
    page.goto(file.as_uri())
    assert page.evaluate(TOO_WIDE) == 0 and page.evaluate(CUT) == []
    page.set_viewport_size(A4)
    page.emulate_media(media="print")
    assert page.evaluate(TOO_WIDE) == 0 and page.evaluate(CUT) == []
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")


def test_a_run_with_groups_says_who_is_in_which_and_whose_version_is_whose(
    page: Page, heard: Heard, folder: Path
) -> None:
    page.goto(written(folder, "licfl").as_uri())
    assert len(page.locator("figure svg").all()) == 8 and heard.said == []
    for media, size in (("screen", LAPTOP), ("print", A4)):
        page.set_viewport_size(size)
        page.emulate_media(media=media)
        assert page.evaluate(TOO_WIDE) == 0 and page.evaluate(CUT) == []
        heading = page.locator("h2").first.evaluate("h => h.getBoundingClientRect().right")
        assert all(right <= heading + 1 for right in page.evaluate(OVER)), media
    ledger = page.locator("#ledger ~ table").first
    place = ledger.locator("th").all_inner_texts().index("group")
    groups = {row.locator("td").nth(place).inner_text() for row in ledger.locator("tbody tr").all()}
    assert len(groups) > 1 and all(re.fullmatch(r"cohort-\d", group) for group in groups)
    notes = page.locator("#versions + table td.notes").all_inner_texts()
    assert len(notes) == 8 and {n.partition("group ")[2] for n in notes if "group" in n} <= groups
    assert all("group" in n for n in notes[1:]), "version 1 is everybody's"


def test_the_plots_say_their_names_as_text_that_one_can_find(page: Page, file: Path) -> None:
    page.goto(file.as_uri())
    for name in ("mean", "worst", "sketch *", "cartoon-0", "share of the weight", "to the quorum"):
        expect(page.locator("svg text").get_by_text(name, exact=True).first).to_be_visible()


def test_a_hostile_reason_and_domain_are_shown_and_do_nothing(page: Page, heard: Heard, tmp_path: Path) -> None:
    path = tmp_path / "hostile.html"
    path.write_text(pages.render(told(renamed(EVENTS, {"photo": HOSTILE}))))
    page.goto(path.as_uri())
    expect(page.locator("#causes + table")).to_contain_text(HOSTILE)
    assert page.locator("script").count() == 0 and heard.said == []
    assert page.evaluate(CUT) == [], "long names are cut where one can see it"
    assert [url for url in heard.requests if not url.startswith("data:")] == [path.as_uri()]
