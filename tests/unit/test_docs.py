"""The documentation tells the truth: generated pages are fresh, links lead somewhere, commands exist, examples run."""

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import torch
import yaml

from infra.settings import PREFIX, Settings
from orchestrator import catalogue, results
from orchestrator.cli import quorate
from orchestrator.families import FAMILIES
from orchestrator.plan import plan, read_experiment
from schemas.base import Choice
from schemas.complaints import parse
from schemas.experiment import Experiment, SiteData
from schemas.messages import ALL
from tests.runs import here
from tests.toys import client, experiment, paint, setting
from workers.method import Method, Update
from workers.plugins import about, load

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("workers/**/*.md")])
IDS = [str(p.relative_to(ROOT)) for p in PAGES]


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def code(text: str) -> Iterator[str]:
    """Shell lines of fenced blocks, and spans of code in the prose, without comments."""
    for line in "\n".join(blocks(text, "sh")).splitlines():
        yield line.partition(" #")[0]
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    yield from (span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", prose))


def calls(text: str, program: str) -> list[list[str]]:
    """The words behind a program in every command of a page, e.g. ["run", "x.yaml", "--json"] for `quorate`."""
    commands = [part for line in code(text) for part in re.split(r"&&|\|\||[|;>]", line)]
    found = re.compile(rf"(?:[A-Z_]+=\S+ )*{program} (?P<rest>.*)")
    return [shlex.split(match["rest"]) for c in commands if (match := found.fullmatch(c.strip()))]


def unknown(words: list[str]) -> str | None:
    """What of a `quorate` command line does not exist, or None."""
    command: click.Command = quorate
    options: set[str] = set()
    for word in words:
        if isinstance(command, click.Group) and not word.startswith("-"):
            if word not in command.commands:
                return word
            command = command.commands[word]
        elif word.startswith("-"):
            options.add(word.partition("=")[0])
    known = {name for parameter in command.params for name in parameter.opts} | {"--help", "-h"}
    return next(iter(sorted(options - known)), None)


@pytest.fixture(scope="module")
def readme() -> str:
    return (ROOT / "README.md").read_text()


def test_the_page_of_methods_is_up_to_date() -> None:
    assert (ROOT / "docs/methods.md").read_text() == catalogue.as_markdown() + "\n", (
        "run: quorate list --markdown > docs/methods.md"
    )


def test_who_says_when_to_use_it_says_what_it_costs_and_what_it_sends() -> None:
    said = [p.facts for package in FAMILIES.values() for p in about(package) if p.facts.keys() & catalogue.USE.keys()]
    assert said
    assert all(facts[name] for facts in said for name in catalogue.USE)


def test_what_the_page_of_methods_says_to_try_would_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    tried = [words for words in calls(catalogue.as_markdown(), "quorate") if words[0] == "run"]
    assert len(tried) > 5
    for _, file, *rest in tried:
        plan(read_experiment(Path(file), rest[1::2]))


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} is not there"
        assert not anchor or anchor in anchors(target.read_text()), f"{link}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_test_that_is_named_is_where_the_link_leads(page: Path) -> None:
    for name, path in re.findall(r"\[(test_\w+)\]\(([^)\s]+\.py)\)", page.read_text()):
        assert f"def {name}(" in (page.parent / path).read_text(), name


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_quorate_command_and_option_exists(page: Path) -> None:
    for words in calls(page.read_text(), "quorate"):
        assert unknown(words) is None, f"quorate {' '.join(words)}: there is no {unknown(words)}"


def test_what_does_not_exist_would_be_found() -> None:
    text = (
        "`quorate rnu x.yaml`\n```sh\n. env && quorate run x.yaml --jsn   # comment\nA=1 quorate data shapes out\n```\n"
    )
    found = calls(text, "quorate")
    assert found == [["run", "x.yaml", "--jsn"], ["data", "shapes", "out"], ["rnu", "x.yaml"]]
    assert [unknown(words) for words in found] == ["--jsn", None, "rnu"]


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_make_target_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for words in calls(page.read_text(), "make"):
        named = {w for w in words if re.fullmatch(r"[a-z-]+", w)}
        assert named <= targets, f"make {' '.join(words)}"


def test_the_table_of_settings_is_whole() -> None:
    named = set(re.findall(rf"`({PREFIX}\w+)`", (ROOT / "docs/operations.md").read_text()))
    assert named == {PREFIX + name.upper() for name in Settings.model_fields}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_setting_that_is_named_exists(page: Path) -> None:
    fields = {PREFIX + name.upper() for name in Settings.model_fields}
    for name in re.findall(rf"\b{PREFIX}[A-Z_0-9]+", page.read_text()):
        assert name.removesuffix("_FILE") in fields, name


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_yaml_example_is_understood(page: Path) -> None:
    for block in blocks(page.read_text(), "yaml"):
        document = yaml.safe_load(block)
        parse(Experiment if "method" in document else SiteData, document, page.name)


def test_the_glossary_is_sorted_and_says_each_word_once() -> None:
    words = re.findall(r"^\| \*\*(.+?)\*\* \|", (ROOT / "docs/glossary.md").read_text(), flags=re.MULTILINE)
    assert words == sorted(set(words), key=str.lower)


def test_the_readme_names_every_folder_of_plugins(readme: str) -> None:
    for package in FAMILIES.values():
        assert re.search(rf"(^|\s){package.rpartition('.')[2]}/ ", readme), package


def test_the_method_in_the_readme_trains(readme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = next(b for b in blocks(readme, "python") if "(LocalMethod)" in b)
    assert len([line for line in source.splitlines() if line.strip()]) <= 24
    (tmp_path / "low_rank.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    words = next(w for w in calls(readme, "quorate") if any("low_rank" in part for part in w))
    choice = yaml.safe_load(words[words.index("--set") + 1].removeprefix("method="))
    method: Method = load(FAMILIES["method"], Choice.model_validate(choice))
    of = setting()
    incoming = method.init(of).tensors[ALL]
    update, other = (method.train(client(of, name, incoming)) for name in ("a", "b"))
    together = list(method.train_many([client(of, name, incoming) for name in ("a", "b")]))
    for alone, found in zip((update, other), together, strict=True):
        assert isinstance(found, Update)
        assert all(torch.allclose(found.tensors[k], t, atol=1e-5, rtol=0) for k, t in alone.tensors.items())
    assert {k: t.shape for k, t in update.tensors.items()} == {k: t.shape for k, t in incoming.items()}
    assert any(bool(t.any()) for t in update.tensors.values())


def test_the_readme_reads_a_result(
    readme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = experiment(paint(tmp_path / "images"), rounds={"versions": 1, "in_flight": 2, "quorum": 2, "floor": 1})
    results.keep(here.run(asked, tmp_path, name="demo"), asked, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()  # what the run has logged
    exec(compile(next(b for b in blocks(readme, "python") if "safe_open" in b), "README.md", "exec"), {})
    first, second = capsys.readouterr().out.splitlines()
    assert first == "{'name': 'fedclip', 'params': {}} 1 tests.toys:ToyBackbone ['amber', 'blue', 'green']"
    assert "'gate.weight': (16, 16)" in second
