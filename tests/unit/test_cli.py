"""The command line as a user meets it: exit codes, one line for a mistake, and nothing but JSON where JSON was asked.

Every command runs in a process of its own: a child of one that has imported torch already, because that takes seconds.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from orchestrator.families import FAMILIES
from schemas.comparison import Comparison
from schemas.experiment import Experiment
from schemas.log import Event
from schemas.report import Report
from schemas.story import Round, Story
from tests.toys import ToyBackbone, paint
from workers.plugins import names
from workers.tensors import metadata

ROOT = Path(__file__).parents[2]

SERVER = """
import json, os, sys, traceback
from orchestrator import cli, command

def work(job):
    os.chdir(job["cwd"])
    os.environ.update(job["env"])
    for number, file in ((1, job["out"]), (2, job["err"])):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv = ["quorate", *job["argv"]]
    code = 0
    try:
        cli.main()
    except SystemExit as e:
        code = e.code or 0
    except BaseException:
        traceback.print_exc()
        code = 99
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        work(json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@dataclass(frozen=True)
class Said:
    """What a command left: exit code, stdout and stderr."""

    code: int
    out: str
    err: str


Quorate = Callable[..., Said]


def _clean() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("QUORATE_")}
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-W", "ignore", "-c", SERVER]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, env=_clean(), cwd=ROOT) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def quorate(server: subprocess.Popen[str], tmp_path: Path) -> Quorate:
    assert server.stdin is not None and server.stdout is not None

    def ask(*argv: str, **env: str) -> Said:
        assert server.stdin is not None and server.stdout is not None
        files = {"out": str(tmp_path / "stdout.log"), "err": str(tmp_path / "stderr.log")}
        env = {"QUORATE_CACHE": str(tmp_path / "cache"), **env}
        server.stdin.write(json.dumps({"argv": argv, "cwd": str(tmp_path), "env": env, **files}) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        return Said(code, Path(files["out"]).read_text(), Path(files["err"]).read_text())

    return ask


def _mistake(said: Said, *words: str, code: int = 2) -> None:
    """One line on stderr that holds the words, no traceback, nothing on stdout."""
    assert (said.code, said.out) == (code, ""), said
    (line,) = said.err.splitlines()
    assert line.startswith("quorate: ")
    for word in words:
        assert word in line


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("toy") / "images", per_class=5)


@pytest.fixture
def file(images: Path, tmp_path: Path) -> Path:
    """An experiment on toy images that ends at version 1."""
    document = {
        "name": "toy",
        "data": {"params": {"root": str(images)}, "hold_out": ["striped"], "partition": {"name": "by_domain"}},
        "model": {"backbone": {"name": "tests.toys:ToyBackbone"}},
        "method": {"name": "fedclip"},
        "rounds": {"versions": 1, "in_flight": 2, "quorum": 2, "floor": 2, "retries": 0},
    }
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


# --- looking


def test_the_installed_command_prints_its_version(tmp_path: Path) -> None:
    command = shutil.which("quorate", path=str(Path(sys.executable).parent))
    assert command is not None
    ran = subprocess.run([command, "version"], cwd=tmp_path, env=_clean(), capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, version("quorate") + "\n", "")


def test_list_shows_every_plugin_in_three_forms(quorate: Quorate) -> None:
    every = [(family, name) for family, package in FAMILIES.items() for name in names(package)]
    text, as_json, page = quorate("list"), quorate("list", "--json"), quorate("list", "--markdown")
    assert (text.code, as_json.code, page.code) == (0, 0, 0)
    assert [tuple(line.split()[:2]) for line in text.out.splitlines()] == every
    assert [(row["family"], row["name"]) for row in json.loads(as_json.out)] == every
    assert all(row["summary"] for row in json.loads(as_json.out))
    assert [line[4:] for line in page.out.splitlines() if line.startswith("### ")] == [name for _, name in every]


def test_where_nothing_ran_runs_says_what_to_do(quorate: Quorate) -> None:
    said = quorate("runs")
    assert said.code == 0 and "quorate run" in said.out


@pytest.mark.parametrize("arguments", [["--help"], ["run", "-h"], ["data", "shapes", "--help"]])
def test_help_is_no_mistake(quorate: Quorate, arguments: list[str]) -> None:
    said = quorate(*arguments)
    assert said.code == 0 and said.out.startswith("Usage: quorate") and said.err == ""


def test_without_a_command_there_is_help(quorate: Quorate) -> None:
    said = quorate()
    assert said.code == 2 and "Usage: quorate" in said.err and "Traceback" not in said.err


# --- a user's mistakes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rum"], ["rum"]),
        (["run"], ["experiment file", "--resume"]),
        (["run", "a.yaml", "--resume", "b"], ["experiment file"]),
        (["run", "--bogus"], ["--bogus", "(see quorate run --help)"]),
        (["data", "plot"], ["(see quorate data plot --help)"]),
        (["run", "--seeds", "0..4", "--resume", "b"], ["--seeds"]),
        (["run", "absent.yaml", "--seeds", "0..4"], ["cannot read absent.yaml"]),
        (["run", "absent.yaml", "--seeds", "4..0"], ["--seeds '4..0'"]),
        (["compare"], ["RUN"]),
        (["compare", "nobody"], ["no run 'nobody'"]),
        (["compare", "../up"], ["'../up'", "name"]),
        (["run", "absent.yaml"], ["cannot read absent.yaml", "No such file"]),
        (["check", "absent.yaml"], ["cannot read absent.yaml"]),
        (["check"], ["EXPERIMENT"]),
        (["run", "--resume", "nobody"], ["no run 'nobody'", "quorate runs"]),
        (["report", "nobody"], ["no run 'nobody'", "quorate runs"]),
        (["report", "../up"], ["'../up'", "name"]),
        (["run", "--resume", "../up"], ["'../up'", "name"]),
        (["report", "nobody", "--html"], ["no run 'nobody'", "quorate runs"]),
        (["report", "toy", "--json", "--html"], ["--html"]),
        (["cancel", "nobody"], ["no run 'nobody'"]),
        (["cancel", "../up"], ["'../up'", "name"]),
        (["worker"], ["--pool"]),
        (["worker", "--pool", "--site", "a"], ["--pool"]),
        (["worker", "--site", "a"], ["--data"]),
        (["up", "--workers", "0"], ["workers"]),
        (["data", "shapes"], ["OUT"]),
        (["predict", "absent.safetensors"], ["IMAGES"]),
        (
            ["predict", "absent.safetensors", "a.png"],
            ["cannot read absent.safetensors", "adapter.safetensors or its run"],
        ),
        (["predict", "absent.safetensors", "a.png", "--top", "0"], ["--top"]),
        (["predict", "absent.safetensors", "."], ["no image in ."]),
        (["export", "nobody", "--to", "made"], ["no result of run 'nobody'", "quorate runs"]),
        (["export", "nobody"], ["--to"]),
        (["data", "shapes", "out", "--seed", "soon"], ["soon"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(quorate: Quorate, arguments: list[str], words: list[str]) -> None:
    _mistake(quorate(*arguments), *words)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("rounds.quorom=3", ["rounds.quorom", "did you mean 'quorum'?"]),
        ("rounds.quorum=3", ["quorum 3 can never be reached with in_flight 2"]),
        ("method.name=fedclap", ["did you mean 'fedclip'?"]),
        ("name=../up", ["name"]),
    ],
)
@pytest.mark.parametrize("command", ["run", "check"])
def test_a_wrong_experiment_is_one_line_and_exit_code_2(
    quorate: Quorate, file: Path, command: str, override: str, words: list[str]
) -> None:
    _mistake(quorate(command, str(file), "--set", override), *words)


@pytest.mark.parametrize("name", ["a b", "../up", "a/b", "", "x" * 65, "naïve"])
def test_a_run_has_a_name_that_is_safe_everywhere(quorate: Quorate, file: Path, name: str) -> None:
    _mistake(quorate("run", str(file), "--name", name), "name", "letters")


@pytest.mark.parametrize(
    ("variable", "value"), [("QUORATE_BUS", "ftp://x"), ("QUORATE_BLOBS", "nowhere"), ("QUORATE_LOG", "loud")]
)
def test_a_wrong_environment_is_one_line_that_names_the_variable(
    quorate: Quorate, file: Path, variable: str, value: str
) -> None:
    _mistake(quorate("run", str(file), **{variable: value}), variable)


@pytest.mark.parametrize("text", ["", "{}", "[1", '{"run": "x"}', "\x00"])
def test_a_report_that_is_none_is_a_mistake_that_names_it(quorate: Quorate, tmp_path: Path, text: str) -> None:
    (tmp_path / "runs" / "odd").mkdir(parents=True)
    (tmp_path / "runs" / "odd" / "report.json").write_text(text)
    _mistake(quorate("report", "odd"), "runs/odd/report.json is no report")


def test_a_run_that_cannot_be_read_does_not_hide_the_others(quorate: Quorate, tmp_path: Path) -> None:
    (tmp_path / "runs" / "odd").mkdir(parents=True)
    (tmp_path / "runs" / "odd" / "report.json").write_text("{}")
    experiment = tmp_path / ".quorate" / "blobs" / "runs" / "begun" / "experiment.json"
    experiment.parent.mkdir(parents=True)
    experiment.write_text('{"rounds": {"versions": 7}}')
    said = quorate("runs")
    assert said.code == 0 and "begun unfinished" in " ".join(said.out.split()) and "0/7" in said.out
    (line,) = said.err.splitlines()
    assert "runs/odd/report.json is no report" in line


def test_shapes_are_not_drawn_into_a_folder_that_holds_something(quorate: Quorate, file: Path) -> None:
    for taken in (file.parent, file):
        _mistake(quorate("data", "shapes", str(taken)), "is no empty folder", "new folder")


def test_data_that_is_not_there_is_a_mistake(quorate: Quorate, file: Path) -> None:
    said = quorate("check", str(file), "--set", "data.params.root=/no/such/folder")
    assert said.code == 2 and said.err.count("\n") == 1 and "/no/such/folder" in said.err


# --- running


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ("{model: ViT-B-32, pretrained: openai}", ["activation", "use model: ViT-B-32-quickgelu"]),
        ("{model: ViT-B-32, weights: toy.yaml}", ["which activation", "quick_gelu: true"]),
        ("{weights: .}", ["open_clip_config.json", "model.backbone.params.weights"]),
        ("{model: ViT-B-32, pretrained: laion2b_s34b_b79k}", ["cannot get", "local file", "params.weights"]),
    ],
)
def test_a_backbone_that_cannot_be_had_is_one_line_before_anything_is_made(
    quorate: Quorate, file: Path, params: str, words: list[str]
) -> None:
    changes = ["--set", "model.backbone.name=open_clip", "--set", f"model.backbone.params={params}"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(file.parent / "hub")}  # so that nobody waits for a hub
    _mistake(quorate("run", str(file), *changes, **offline), *words)
    assert not (file.parent / "runs").exists()


@pytest.mark.parametrize(
    ("backbone", "method", "words"),
    [
        ("tests.toys:ToyBackbone", "fedavg, params: {adapter: {name: lora, params: {targets: [attn]}}}",
         ["no matrix of this image tower is called attn", "there are: 1.weight"]),
        ("tests.toys:ToyBackbone", "fedavg, params: {adapter: {name: lora, params: {targets: [1.weight]}}}", []),
        ("tests.toys:Speechless", "promptfl", ["this text tower has no words"]),
    ],
)  # fmt: skip
def test_what_a_tower_does_not_hold_is_one_line_before_anything_is_made(
    quorate: Quorate, file: Path, backbone: str, method: str, words: list[str]
) -> None:
    changes = ["--set", f"model.backbone.name={backbone}", "--set", f"method={{name: {method}}}"]
    said = quorate("run", str(file), *changes)
    assert (said.code, (file.parent / "runs").exists()) == ((2, False) if words else (0, True)), said
    assert all(word in said.err for word in words)
    checked = quorate("check", str(file), *changes)
    assert checked.code == said.code and all(word in checked.err for word in words)
    assert checked.err.count("\n") == said.err.count("\n") == 1 or not words


def test_check_prints_the_resolved_experiment_and_what_the_data_hold(quorate: Quorate, file: Path) -> None:
    said = quorate("check", str(file), "--set", "seed=5")
    assert (said.code, said.err) == (0, "")
    assert Experiment.model_validate(yaml.safe_load(said.out)).seed == 5
    # 3 classes of 5 images, of each of which 3 train, 1 is for validation and 1 for the test.
    assert "# flat-0: 15 images of 3 classes: 9 train, 3 val, 3 test" in said.out.splitlines()
    assert "# striped: 15 images of 3 classes: held out, 15 test" in said.out.splitlines()
    fingerprint = ToyBackbone(ToyBackbone.Params()).fingerprint
    assert f"# backbone tests.toys:ToyBackbone: fingerprint {fingerprint[:12]}" in said.out.splitlines()


def test_a_run_leaves_a_folder_that_report_and_runs_show_again(quorate: Quorate, file: Path) -> None:
    said = quorate("run", str(file), "--json")
    assert (said.code, said.err) == (0, "")
    made = Report.model_validate_json(said.out)
    assert (made.status, made.version, set(made.ledger)) == ("finished", 1, {"flat-0", "noisy-0"})
    folder = file.parent / "runs" / "toy"
    assert {p.name for p in folder.iterdir()} == {
        "experiment.yaml",
        "journal.jsonl",
        "report.json",
        "adapter.safetensors",
    }
    assert (folder / "report.json").read_text() == said.out
    told = Story.model_validate_json(quorate("report", "toy", "--json").out)
    assert (told.status, told.report, [r.version for r in told.rounds]) == ("finished", made, [1])
    assert Event.model_validate_json((folder / "journal.jsonl").read_text().splitlines()[-1]).event == "finished"
    assert json.loads(metadata((folder / "adapter.safetensors").read_bytes())["sha256"]) == made.adapter_sha256
    table, listed = quorate("report", "toy"), quorate("runs")
    assert "flat-0" in table.out and made.adapter_sha256 in table.out
    assert any(line.split()[:3] == ["toy", "finished", "1"] for line in listed.out.splitlines())
    assert [(r["run"], r["status"]) for r in json.loads(quorate("runs", "--json").out)] == [("toy", "finished")]
    assert "in flat-0, noisy-0" in table.out
    one = Round.model_validate_json(quorate("report", "toy", "--version", "1", "--json").out)
    assert one == told.rounds[0] and set(one.counted) == {"flat-0", "noisy-0"}
    assert "asked (2): flat-0, noisy-0" in quorate("report", "toy", "--version", "1").out
    _mistake(quorate("report", "toy", "--version", "2"), "no version 2", "1 to 1")
    page = quorate("report", "toy", "--html")
    assert (page.code, page.out) == (0, "") and page.err.startswith("wrote toy.html")
    assert "</html>" in (file.parent / "toy.html").read_text()
    said_no = quorate("report", "toy", "--html", "absent/page.html")
    assert said_no.code == 1 and said_no.err.count("\n") == 1 and "absent" in said_no.err
    again = quorate("run", str(file), "--name", "toy", "--json")
    assert (again.code, again.out) == (0, said.out)  # continues a run that has ended: nothing is done twice
    _mistake(quorate("run", str(file), "--name", "toy", "--set", "seed=1"), "another experiment", "--name")


def test_predict_classifies_what_can_be_read_and_names_what_cannot(quorate: Quorate, file: Path, images: Path) -> None:
    toy = ("--plugin", "tests.toys:ToyBackbone")
    assert quorate("run", str(file), "--name", "seen", "--json").code == 0
    folder = shutil.copytree(images / "flat", file.parent / "mine")
    (folder / "blue" / "cut.png").write_bytes((folder / "blue" / "000.png").read_bytes()[:40])
    (folder / "blue" / ".hidden.png").write_bytes(b"")
    (folder / "notes.txt").write_text("no image")
    said = quorate("predict", "seen", "mine", "mine/notes.txt", "--top", "2", *toy)
    readable = [f"mine/{colour}/{i:03}.png" for colour in ("amber", "blue", "green") for i in range(5)]
    assert said.code == 1 and [line.split()[0] for line in said.out.splitlines()] == readable
    assert all(re.fullmatch(r"\S+ {2,}(\w+ [0-9.]+ %( {2})?){2}", line) for line in said.out.splitlines())
    cut, notes = said.err.splitlines()
    assert cut.startswith("quorate: cannot read mine/blue/cut.png: ") and "notes.txt" in notes
    told = json.loads(quorate("predict", "runs/seen", "mine", "--json", "--top", "9", *toy).out)
    assert [i["image"] for i in told["images"]] == readable and told["run"] == "seen"
    assert [u["image"] for u in told["unreadable"]] == ["mine/blue/cut.png"]
    for image in told["images"]:
        assert {t["class"] for t in image["top"]} == {"amber", "blue", "green"}
        assert sum(t["probability"] for t in image["top"]) == pytest.approx(1, abs=1e-5)
    whole = quorate("predict", "runs/seen/adapter.safetensors", "mine/amber", *toy)
    assert (whole.code, whole.err, len(whole.out.splitlines())) == (0, "", 5)
    _mistake(quorate("predict", "seen", "mine"), "tests.toys:ToyBackbone", "--plugin")
    _mistake(quorate("export", "seen", "--to", "made", *toy), "ToyBackbone", "open_clip")
    _mistake(quorate("predict", "runs/seen/report.json", "mine", *toy), "runs/seen/report.json is no adapter")
    assert not (file.parent / "made").exists()


def test_a_run_tells_its_progress_on_stderr_and_its_result_on_stdout(quorate: Quorate, file: Path) -> None:
    said = quorate("run", str(file), "--name", "a" * 64)
    assert said.code == 0
    assert "v1 " in said.err and "counted" in said.err and "\x1b" not in said.err + said.out
    assert "adapter sha256" in said.out and f"runs/{'a' * 64}/" in said.out


def test_a_second_run_of_a_long_name_gets_a_name_too(quorate: Quorate, file: Path) -> None:
    (file.parent / "runs" / ("b" * 64)).mkdir(parents=True)
    said = quorate("run", str(file), "--json", "--set", f"name={'b' * 64}", "--set", "method.name=zero_shot")
    assert said.code == 0, said.err
    name = Report.model_validate_json(said.out).run
    assert name.endswith("-2") and len(name) <= 64


def test_a_failed_run_is_exit_code_1_and_has_a_report(quorate: Quorate, file: Path) -> None:
    said = quorate("run", str(file), "--json", "--set", "simulate={dropout: 0.999}")
    assert (said.code, said.err) == (1, "")
    made = Report.model_validate_json(said.out)
    assert (made.status, made.version) == ("failed", 0) and "rounds.floor" in made.reason


def test_a_result_that_cannot_be_kept_is_said_without_a_traceback(quorate: Quorate, file: Path) -> None:
    (file.parent / "runs").write_text("a file where a folder should be")
    said = quorate("run", str(file), "--name", "toy", "--json", "--set", "method.name=zero_shot")
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("quorate: runs") and said.err.count("\n") == 1


# --- a run per seed


def test_seeds_run_once_each_and_end_in_a_table_with_intervals(quorate: Quorate, file: Path) -> None:
    first = quorate("run", str(file), "--seeds", "0,2", "--json")
    assert (first.code, first.err) == (0, ""), first.err
    found = Comparison.model_validate_json(first.out)
    assert [(r.run, r.seed, r.status) for r in found.runs] == [("toy-s0", 0, "finished"), ("toy-s2", 2, "finished")]
    kept = {p: p.stat().st_mtime_ns for p in (file.parent / "runs").glob("*/*")}
    again = quorate("run", str(file), "--seeds", "0..2")
    assert again.code == 0, again.err
    begun = [line.split()[1] for line in again.err.splitlines() if line.startswith("run ")]
    assert begun == ["toy-s1:"], "those that are done are not done again"
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    (line,) = [line.split() for line in again.out.splitlines() if line.startswith("a ")]
    assert line[1] == "3" and line.count("±") == 3
    beside = quorate("compare", "toy-s0", "toy-s1", "toy-s2")
    assert (beside.code, beside.out) == (0, again.out)


def test_of_seeds_one_that_goes_wrong_leaves_the_others(quorate: Quorate, file: Path) -> None:
    (file.parent / "runs" / "other-s1").mkdir(parents=True)  # in its way, and no result
    said = quorate("run", str(file), "--seeds", "0..2", "--name", "other", "--set", "method.name=zero_shot", "--json")
    assert said.code == 1
    (line,) = said.err.splitlines()
    assert line.startswith("quorate: other-s1: ")
    assert [r.run for r in Comparison.model_validate_json(said.out).runs] == ["other-s0", "other-s2"]


def test_seeds_of_a_run_that_fails_end_with_1_and_no_interval(quorate: Quorate, file: Path) -> None:
    said = quorate("run", str(file), "--seeds", "0,1", "--set", "simulate={dropout: 0.999}", "--json")
    assert said.code == 1 and [line.partition(":")[0] for line in said.err.splitlines()] == ["quorate", "quorate"]
    found = Comparison.model_validate_json(said.out)
    assert [r.status for r in found.runs] == ["failed", "failed"] and found.groups[0].estimates == {}
    assert quorate("compare", "toy-s0", "toy-s1").code == 0


def test_seeds_do_not_mix_with_what_another_experiment_left(quorate: Quorate, file: Path) -> None:
    assert quorate("run", str(file), "--seeds", "0", "--set", "method.name=zero_shot").code == 0
    _mistake(quorate("run", str(file), "--seeds", "0..1"), "runs/toy-s0 is of another experiment", "--name")
    assert not (file.parent / "runs" / "toy-s1").exists(), "nothing has run"
    for damaged in (b"name: [", b"\xff\xfe", b""):
        (file.parent / "runs" / "toy-s0" / "experiment.yaml").write_bytes(damaged)
        _mistake(quorate("run", str(file), "--seeds", "0"), "runs/toy-s0/experiment.yaml", "")


def test_a_mistake_that_every_seed_would_make_is_said_once(quorate: Quorate, file: Path) -> None:
    _mistake(quorate("run", str(file), "--seeds", "0..4", "--set", "rounds.quorum=3"), "quorum 3")
    _mistake(quorate("run", str(file), "--seeds", "0..4", "--set", "data.params.root=absent"), "absent")
