"""What a person sees: plain lines where there is no terminal, a panel where there is one, tables that fit."""

import io
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from orchestrator.story import Story
from orchestrator.tables import show, stdout
from orchestrator.view import View
from orchestrator.wording import percent, size
from schemas.log import Event, Share
from schemas.report import Accuracies, HeldOut, Report
from tests.toys import experiment
from workers.data.progress import EVERY_S, Step

DESCRIBED = {
    "clients": {"ann": {"train": 6, "val": 2, "test": 2}, "bob": {"train": 3, "val": 1, "test": 1}},
    "held_out": ["sketch"],
    "classes": ["x", "y"],
}


def _console(*, terminal: bool, width: int = 80) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=terminal, width=width, height=24, _environ={}, legacy_windows=False
    )


def _text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _event(event: str, at: float, version: int, client: str | None = None, /, **facts: Any) -> Event:
    return Event(event=event, at=at, wall=0.0, version=version, client=client, facts=facts)


RUN = [
    _event("started", 5.0, 0),
    _event("described", 5.0, 0, **DESCRIBED),
    _event("evaluated", 5.0, 0, "ann", accuracy=0.5),
    _event("evaluated", 5.0, 0, "bob", accuracy=0.3),
    _event("asked", 6.0, 0, "ann", task="v0-ann-0"),
    _event("accepted", 7.0, 0, "ann", task="v0-ann-0"),
    _event("rejected", 7.0, 0, "bob", reason="not finite", detail="w"),
    _event("retried", 8.0, 0, accepted=1),
    _event("closed", 9.5, 1, counted=6, late=1, without=["bob"]),
]


def _watch(console: Console, events: list[Event], versions: int = 4) -> View:
    with View(experiment(), "demo", console, versions) as shown:
        for event in events:
            shown.watch(event)
        return shown


def test_names_in_the_simulation_that_nobody_bears_get_a_line() -> None:
    console = _console(terminal=False)
    _watch(console, [_event("described", 5.0, 0, **DESCRIBED, unknown={"presence": ["cem", "dan"]})])
    assert "simulate.presence names clients that are not here: cem, dan\n" in _text(console)


def test_where_there_is_no_terminal_each_version_is_a_plain_line() -> None:
    console = _console(terminal=False)
    _watch(console, RUN)
    lines = _text(console).splitlines()
    assert "\x1b" not in _text(console)
    assert lines[0] == "run demo: fedclip, seed 0; asking the owners what they hold"
    assert lines[1] == "2 clients with 15 images, 2 classes; held out: sketch"  # 6+2+2 and 3+1+1
    assert lines[2] == "v0   accuracy mean 40.0 %, worst 30.0 %"
    assert lines[3] == "v1   rejected bob: not finite (w)"
    assert lines[4].startswith("v1   retried") and "1 updates at the deadline, asking again" in lines[4]
    assert lines[5] == "v1     6 counted (1 late)  t=4.5 s  without bob"
    assert len(lines) == 6


def test_of_several_groups_the_one_that_closed_is_named() -> None:
    console = _console(terminal=False)
    closed = _event("closed", 9.5, 1, counted=3, late=0, without=[], group="cohort-1")
    _watch(console, [*RUN[:4], closed])
    assert _text(console).splitlines()[-1] == "v1     3 counted (0 late) of cohort-1  t=4.5 s"


def test_a_plain_line_is_not_broken_however_many_it_closes_without() -> None:
    console = _console(terminal=False)
    everyone = [f"client-{i}" for i in range(60)]
    _watch(console, [_event("closed", 1.0, 1, counted=1, late=0, without=everyone)])
    (line,) = _text(console).splitlines()
    assert line.endswith("client-59")


@pytest.mark.parametrize("detail", ["[red]x[/red]", "[/]", "[/nothing", "]0;title", "[link=x]"])
@pytest.mark.parametrize("terminal", [False, True])
def test_what_comes_from_a_worker_is_shown_as_it_is_and_stops_nothing(terminal: bool, detail: str) -> None:
    console = _console(terminal=terminal)
    _watch(console, [_event("rejected", 1.0, 0, "bob", reason="names", detail=detail)])
    assert f"names ({detail})" in _text(console)
    console = _console(terminal=terminal)
    show(_report(status="failed", reason=f"the owner said: {detail}"), console)
    assert f"the owner said: {detail}" in _text(console)


def test_what_comes_from_a_worker_does_not_drive_the_terminal_and_stays_short() -> None:
    console = _console(terminal=False)
    _watch(console, [_event("rejected", 1.0, 0, "bob", reason="names", detail="a\x1b[2Jb\nc\r" + "x" * 60_000)])
    (line,) = _text(console).splitlines()
    assert "a [2Jb c " in line and "\x1b" not in line and len(line) < 300


def test_on_a_terminal_a_panel_shows_versions_quorum_and_accuracy() -> None:
    console = _console(terminal=True)
    with View(experiment(), "demo", console, 4) as shown:
        for event in RUN[:7]:
            shown.watch(event)
        with console.capture() as panel:
            console.print(shown._panel())
    text = panel.get()
    assert "run demo" in text and "0/4" in text and "1/6" in text  # toy: quorum 6
    assert "late 0   rejected 1   lost 0" in text
    assert "accuracy v0: mean 40.0 %, worst 30.0 %" in text
    assert all(cell_len(line) <= 80 for line in text.splitlines())


def test_on_a_terminal_the_quorum_bar_starts_again_with_each_version() -> None:
    console = _console(terminal=True)
    shown = _watch(console, RUN)
    assert shown.version == 1
    with console.capture() as panel:
        console.print(shown._panel())
    assert "1/4" in panel.get() and "0/6" in panel.get()
    assert "\x1b[?25h" in _text(console)  # the cursor is visible again


def test_a_panel_can_be_drawn_before_anything_is_known() -> None:
    console = _console(terminal=True)
    with View(experiment(), "demo", console, 0) as shown, console.capture() as panel:
        console.print(shown._panel())
    assert "not yet known" in panel.get()


def _lines(*events: Event, terminal: bool = False, width: int = 80) -> list[str]:
    console = _console(terminal=terminal, width=width)
    _watch(console, list(events))
    return _text(console).splitlines()


def _lost(who: str, reason: str = "deadline", version: int = 3) -> Event:
    return _event("lost", 1.0, version, who, task=f"v3-{who}", reason=reason)


def test_of_many_that_are_lost_alike_the_first_are_named_and_the_rest_are_counted() -> None:
    lines = _lines(*(_lost(f"c{i}") for i in range(300)), _lost("d", "too stale"))
    assert lines == [
        *(f"v4   lost c{i}: deadline" for i in range(3)),
        "v4   lost 297 more: deadline",
        "v4   lost d: too stale",
    ]


def test_the_number_of_the_rest_comes_before_what_follows_and_at_the_end_at_the_latest() -> None:
    four = [_lost(f"c{i}") for i in range(4)]
    closed = _event("closed", 2.0, 4, counted=1, late=0, without=[])
    assert [line.split()[1] for line in _lines(*four, closed)] == ["lost"] * 4 + ["1"]
    assert _lines(*four)[-1] == "v4   lost 1 more: deadline"


def test_an_outage_is_two_lines_however_often_the_loop_tries() -> None:
    away, back = _event("away", 1.0, 3, reason="S3 does not answer"), _event("loaded", 1.0, 3, open={}, accepted=0)
    assert _lines(back, away, away, away, back) == [
        "v3   the run goes on from here",
        "v3   waiting for a store: S3 does not answer",
        "v3   the stores are back: the run goes on from here",
    ]


def test_an_outage_is_told_also_to_who_wants_to_read_the_result_alone() -> None:
    console = _console(terminal=True)
    console.quiet = True
    lost = [_lost(f"c{i}") for i in range(9)]
    away, back = _event("away", 1.0, 3, reason="S3 does not answer"), _event("loaded", 1.0, 3, open={}, accepted=0)
    _watch(console, [*RUN, *lost, back, away, away, back, *lost])
    assert _text(console).splitlines() == [
        "v3   waiting for a store: S3 does not answer",
        "v3   the stores are back: the run goes on from here",
    ]


def test_what_went_wrong_is_told_of_the_version_in_which_the_report_tells_it() -> None:
    lost = [_event("lost", 1.0, n, who, task=f"v{n}-{who}", reason="deadline") for n, who in enumerate(("ann", "bob"))]
    asked = _event("unevaluated", 3.0, 1, "bob", task="v1-evaluate-bob", reason="deadline")
    closed = {"counted": 1, "late": 0, "without": [], "seconds": 1.0, "updates": []}
    events = [lost[0], _event("closed", 2.0, 1, **closed), asked, lost[1], _event("finished", 3.0, 1, status="failed")]
    console = _console(terminal=False)
    _watch(console, events, versions=1)
    said = [line.split()[:3] for line in _text(console).splitlines() if "closed" not in line and "counted" not in line]
    assert said == [["v1", "lost", "ann:"], ["v1", "unevaluated", "bob:"], ["v1", "lost", "bob:"]]
    (told,) = Story.of(events).told()
    assert told.version == 1 and {g.client for g in told.lost} == {"ann", "bob"}


def test_a_new_run_goes_on_from_nowhere() -> None:
    assert _lines(_event("loaded", 1.0, 0, open={}, accepted=0)) == []


def test_whoever_takes_a_run_up_knows_how_long_it_has_been_running_and_who_trains() -> None:
    closed = _event("closed", 65.0, 8, counted=6, late=0, without=[])
    scores = [_event("evaluated", 66.0, 8, who, accuracy=a) for who, a in (("ann", 0.5), ("bob", 0.25))]
    lines = _lines(*RUN[:2], _event("loaded", 5.0, 7, open={}, accepted=0), closed, *scores)
    assert lines[2:] == [
        "v7   the run goes on from here",
        "v8     6 counted (0 late)  t=60.0 s",
        "v8   accuracy mean 37.5 %, worst 25.0 %",
    ]


def test_on_a_terminal_a_version_stays_one_line_however_many_it_closes_without() -> None:
    everyone = [f"client-{i}" for i in range(300)]
    for width in (80, 200):
        lines = _lines(_event("closed", 1.0, 1, counted=1, late=0, without=everyone), terminal=True, width=width)
        assert any(line.endswith("without 300 clients") for line in lines)


# --- the report


def _report(**changes: Any) -> Report:
    accuracies = Accuracies(
        zero_shot={"photo-0": 0.5, "cartoon-and-comics-12": None},
        final={"photo-0": 0.8125, "cartoon-and-comics-12": 0.6},
        held_out={"sketch": HeldOut(zero_shot=0.25, final=0.375)},
        mean=0.70625,
        worst=0.6,
    )
    facts: dict[str, Any] = {
        "run": "demo",
        "status": "finished",
        "version": 20,
        "seconds": 31.24,
        "virtual_seconds": 412.0,
        "accuracy": accuracies,
        "bytes_up": 2_104_000,
        "bytes_down": 999,
        "wasted_share": 0.125,
        "mean_staleness": 0.4567,
        "ledger": {
            "photo-0": Share(asked=100, accepted=98, late=1, rejected=0, lost=1, weight=300.0),
            "cartoon-and-comics-12": Share(asked=20, accepted=20, weight=100.0),
        },
        "closed_without": {},
        "encodes": 1920,
        "adapter_sha256": "ab" * 32,
        "seed": 0,
        "code_version": "0.1.0",
        "backbone_fingerprint": "cd" * 32,
    }
    return Report(**{**facts, **changes})


def _shown(report: Report, width: int = 80) -> str:
    console = _console(terminal=False, width=width)
    show(report, console)
    return _text(console)


def test_the_table_holds_accuracies_ledger_and_share_of_the_weight() -> None:
    rows = {line.split()[0]: line.split() for line in _shown(_report(), 120).splitlines() if line.strip()}
    assert rows["photo-0"] == ["photo-0", "50.0", "81.2", "100", "98", "1", "0", "1", "75.0"]  # 300 of 400
    assert rows["cartoon-and-comics-12"][1:] == ["–", "60.0", "20", "20", "0", "0", "0", "25.0"]
    assert rows["mean"][1:] == ["50.0", "70.6"] and rows["worst"][1:] == ["50.0", "60.0"]
    assert rows["sketch"] == ["sketch", "*", "25.0", "37.5"]


def test_the_numbers_under_the_table_have_units() -> None:
    text = " ".join(_shown(_report(), 200).split())
    assert "finished: version 20 in 31.2 s (412.0 s of virtual time)" in text
    assert "up 2.1 MB, down 999 B, wasted 12.5 %" in text
    assert "mean staleness 0.46 versions" in text and "1920 images encoded" in text
    assert f"adapter sha256 {'ab' * 32}" in text


def test_the_table_fits_80_columns_with_every_client_on_one_line() -> None:
    lines = _shown(_report(), 80).splitlines()
    assert all(cell_len(line) <= 80 for line in lines)
    (row,) = [line for line in lines if line.startswith("photo-0")]
    assert row.split() == ["photo-0", "50.0", "81.2", "100", "98", "1", "0", "1", "75.0"]
    assert sum(line.startswith("cartoon-and-comics-12") for line in lines) == 1
    assert all("…" not in line for line in lines)


def test_a_very_long_name_is_cut_and_the_numbers_are_not() -> None:
    long = "x" * 64
    accuracies = Accuracies(zero_shot={long: 0.5}, final={long: 0.75}, mean=0.75, worst=0.75)
    ledger = {long: Share(asked=20, accepted=20, weight=1.0)}
    lines = _shown(_report(accuracy=accuracies, ledger=ledger), 80).splitlines()
    (row,) = [line for line in lines if line.startswith("xx")]
    assert row.split()[1:] == ["50.0", "75.0", "20", "20", "0", "0", "0", "100.0"] and cell_len(row) <= 80


def test_a_failed_run_says_why() -> None:
    text = _shown(_report(status="failed", reason="too few updates", virtual_seconds=None))
    assert "failed: version 20" in text and "reason: too few updates" in text and "virtual" not in text


def test_a_run_without_any_number_can_be_shown() -> None:
    empty = _report(status="failed", version=0, accuracy=Accuracies(), ledger={})
    assert _shown(empty).startswith("failed: version 0"), "no table, because there is nobody to list"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (2_104_000, "2.1 MB"),
        (5 * 10**9, "5.0 GB"),
        (7 * 10**15, "7000.0 TB"),
    ],
)
def test_sizes_have_decimal_units(count: int, text: str) -> None:
    assert size(count) == text


def test_an_unknown_accuracy_is_a_dash() -> None:
    assert (percent(None), percent(0.0), percent(0.6125), percent(1.0)) == ("–", "0.0 %", "61.3 %", "100.0 %")


def test_encoding_is_a_line_every_ten_seconds_where_there_is_no_terminal() -> None:
    console = _console(terminal=False)
    with View(experiment(), "demo", console, 4) as shown:
        for _ in range(4):
            shown.encoded(Step(encoded=1000, seconds=0.6 * EVERY_S, left=0))
    # Due after 2 and after 4 steps: 2,000 images in 1.2 times EVERY_S each.
    rate = f"{2000 / (1.2 * EVERY_S):.0f} per second"
    assert _text(console).splitlines() == [f"encoding images: {n} so far, {rate}" for n in ("2,000", "4,000")]


def test_encoding_is_in_the_panel_until_the_next_event() -> None:
    console = _console(terminal=True)
    with View(experiment(), "demo", console, 4) as shown:
        shown.encoded(Step(encoded=256, seconds=2.0, left=44))
        assert "encoding images: 256 so far, 128 per second" in _drawn(shown)
        shown.watch(RUN[0])
        assert "encoding" not in _drawn(shown)


def _drawn(shown: View) -> str:
    console = _console(terminal=False)
    console.print(shown._panel())
    return _text(console)


def test_no_line_that_is_printed_ends_in_blanks(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("a", "b")
    table.add_row("one", "")
    console = stdout()
    console.width = 20
    for shown in (table, "words that are wrapped after twenty", "  kept"):
        console.print(shown)
    lines = capsys.readouterr().out.split("\n")
    assert [line for line in lines if line != line.rstrip()] == []
    assert lines[-4:] == ["words that are", "wrapped after twenty", "  kept", ""]
