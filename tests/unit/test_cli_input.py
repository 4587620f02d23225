"""Whatever is typed, and whatever the environment says: one line on stderr, an exit code, never a traceback."""

import shutil
from pathlib import Path

import pytest

from infra.bus import LONGEST_S
from infra.celery_app import VISIBILITY_S
from infra.celery_bus import KILL_AFTER_S
from infra.servers import free_port
from tests.unit.test_cli import Quorate, Said, file, images, quorate, server

__all__ = ["file", "images", "quorate", "server"]  # fixtures: commands in processes of their own

LONG = "x" * 5000


def _one_line(said: Said, *codes: int) -> str:
    assert said.code in (codes or (2,)), said
    assert said.out == "" and "Traceback" not in said.err, said
    (line,) = said.err.splitlines()
    assert line.startswith("quorate: ") and line.isprintable() and len(line) < 2100, said
    return line


@pytest.mark.parametrize(
    "argv",
    [
        ["run", ""],
        ["run", "/"],
        ["run", LONG],
        ["run", "no/such/file.yaml"],
        ["run", "a\x1b[31mred.yaml"],
        ["run", "caf\udce9.yaml"],
        ["run", "two\nlines.yaml"],
        ["check", "."],
        ["check", "/dev/zero"],
        ["run", "--resume", ""],
        ["run", "--resume", LONG],
        ["run", "--resume", "a/b"],
        ["run", "--resume", "\x1b[2J"],
        ["report", ""],
        ["report", LONG],
        ["report", "a/../b"],
        ["report", "caf\udce9"],
        ["cancel", LONG],
        ["cancel", "a\nb"],
        ["list", LONG],
        [LONG],
        ["\x1b[31m"],
        ["data", "shapes", "out", "--per-class", "0"],
        ["data", "shapes", "out", "--per-class", "99999999999999999999"],
        ["data", "shapes", "out", "--seed", "-1"],
        ["worker", "--site", "a/b", "--data", "no.yaml"],
        ["up", "--workers", "65"],
    ],
    ids=lambda argv: ascii(" ".join(argv))[:40],
)
def test_whatever_is_typed_is_answered_in_one_line(quorate: Quorate, argv: list[str]) -> None:
    _one_line(quorate(*argv))


@pytest.mark.parametrize(
    "override",
    [
        LONG,
        "=",
        "..=1",
        "a..b=1",
        ".name=x",
        "name.=x",
        f"{LONG}=1",
        f"name={LONG}",
        "name=\x1b[31m",
        "name=caf\udce9",
        "rounds=7",
        "rounds.quorum=!!python/name:os.system",
        "rounds.quorum={a: {b: {c: 1}}}",
        "method.params=[1]",
        "method.params.preset=*a",
        "seed=1e400",
        "seed=" + "9" * 400,
        "model.backbone.name=os:system",
        "data.params.root=[a]",
        "data.params.root=no\\0where",
        'data.params.root="a\\0b"',
        "data.hold_out=[flatt]",
        "model.classes=[amber, blue]",
        "model.classes=[amber]",
        "rounds.floor=2000000",
    ],
    ids=lambda text: ascii(text)[:40],
)
def test_whatever_is_set_is_answered_in_one_line(quorate: Quorate, file: Path, override: str) -> None:
    _one_line(quorate("run", str(file), "--set", override))


def _nobody(scheme: str, rest: str) -> str:
    return f"{scheme}127.0.0.1:{free_port()}{rest}"


@pytest.mark.parametrize("command", [["run", "toy.yaml"], ["worker", "--pool"], ["run", "--resume", "toy"]])
def test_a_port_where_nobody_listens_is_one_line_without_the_password(
    quorate: Quorate, file: Path, command: list[str]
) -> None:
    url = _nobody("redis://:hunter2@", "/0")
    line = _one_line(quorate(*command, QUORATE_STATE=url, QUORATE_BUS=url, QUORATE_PATIENCE_S="0"), 1, 2)
    assert "hunter2" not in line and "QUORATE_" in line


def test_an_s3_where_nobody_listens_is_one_line_without_the_key(quorate: Quorate, file: Path) -> None:
    secrets = {"QUORATE_S3_ACCESS_KEY": "me", "QUORATE_S3_SECRET_KEY": "hunter2"}
    line = _one_line(quorate("run", str(file), QUORATE_BLOBS=_nobody("http://", "/bucket"), **secrets), 1)
    assert "is QUORATE_BLOBS right?" in line and "hunter2" not in line


@pytest.mark.parametrize("variable", ["QUORATE_BLOBS", "QUORATE_STATE"])
def test_a_folder_that_cannot_be_is_one_line(quorate: Quorate, file: Path, variable: str) -> None:
    (file.parent / "taken").write_text("a file where a folder should be")
    line = _one_line(quorate("run", str(file), "--json", **{variable: "file:taken/inside"}), 1, 2)
    assert "taken" in line or "Not a directory" in line


def test_a_site_file_that_is_wrong_is_one_line(quorate: Quorate, tmp_path: Path) -> None:
    url = _nobody("redis://", "/0")
    (tmp_path / "site.yaml").write_text("data: {nam: folder}\n")
    argv = ("worker", "--site", "a", "--data", "site.yaml")
    _one_line(quorate(*argv, QUORATE_STATE=url, QUORATE_BUS=url), 1, 2)


def test_two_classes_of_one_name_are_told_before_anything_runs(quorate: Quorate, file: Path, images: Path) -> None:
    copy = file.parent / "copy"
    shutil.copytree(images, copy)
    (copy / "flat" / "blue").rename(copy / "flat" / "Blue")
    line = _one_line(quorate("run", str(file), "--set", f"data.params.root={copy}"))
    assert "'Blue' and 'blue' differ in case" in line


def test_one_class_is_told_before_anything_runs(quorate: Quorate, file: Path, images: Path) -> None:
    copy = file.parent / "copy"
    shutil.copytree(images, copy, ignore=shutil.ignore_patterns("blue", "green"))
    assert "nothing to tell apart" in _one_line(quorate("run", str(file), "--set", f"data.params.root={copy}"))


@pytest.mark.parametrize("key", ["start_s", "rounds.deadline_s"])
def test_a_deadline_beyond_the_brokers_is_told_before_anything_is_sent(quorate: Quorate, file: Path, key: str) -> None:
    url = _nobody("redis://", "/0")
    env = {"QUORATE_STATE": url, "QUORATE_BUS": url}
    line = _one_line(quorate("check", str(file), "--set", f"{key}=21001", **env), 2)
    assert f"{key}: 21001 s are longer than a broker waits" in line and "at most 21000" in line
    assert quorate("check", str(file), "--set", f"{key}=21000", **env).code == 0
    assert quorate("check", str(file), "--set", f"{key}=21001").code == 0, "in one process nothing ends it"
    assert LONGEST_S + KILL_AFTER_S + 300 < VISIBILITY_S
