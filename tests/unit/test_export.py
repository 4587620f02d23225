"""What `quorate export` leaves runs without Quorate and says what `quorate predict` says; the card tells no more."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import torch

from orchestrator import card, export, predict, results
from orchestrator.archive import read_report
from schemas.adapter import AdapterFacts
from schemas.base import Choice
from schemas.errors import ConfigError
from schemas.log import Event
from schemas.report import Accuracies, Report
from tests.runs import here
from tests.toys import experiment, paint
from workers.adapter import read_adapter
from workers.adapters.lora import Lora
from workers.data.owners import read_owners
from workers.models import _portable

ROOT = Path(__file__).parents[2]
ROUNDS = {"versions": 1, "in_flight": 2, "quorum": 2, "floor": 1}
MINI = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
STRANGER = """
import json, runpy, sys
class Nowhere:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("orchestrator", "workers", "schemas", "infra"):
            raise ImportError(name)
sys.meta_path.insert(0, Nowhere())
script, *sys.argv[1:] = sys.argv[1:]
made = runpy.run_path(script)
torch, clip, adapter = made["torch"], made["clip"], made["adapter"]
with torch.no_grad():
    batch = torch.stack([made["preprocess"](made["Image"].open(name)) for name in sys.argv[1:]])
    encodes = "encode_image" in open(script).read()  # a model inside the image tower takes the images
    rows = adapter(clip.encode_image(batch) if encodes else batch).tolist()
print(json.dumps([dict(zip(made["classes"], row)) for row in rows]))
"""
"""Runs load.py where nothing of Quorate can be imported; the last line is the probabilities of all images together."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `images/` lie and runs are."""
    return paint(tmp_path_factory.mktemp("export") / "images", per_class=5).parent


@pytest.fixture(autouse=True)
def cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUORATE_CACHE", str(folder / "cache"))


@pytest.fixture(scope="module")
def mini(folder: Path) -> dict[str, object]:
    """A small ViT as a state dict of somebody's own, of which open_clip knows the name in this process alone."""
    (folder / "exported-mini.json").write_text(json.dumps(MINI))
    open_clip.add_model_config(folder / "exported-mini.json")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        torch.save(open_clip.create_model("exported-mini").state_dict(), folder / "mini.pt")
    params = {"model": "exported-mini", "weights": str(folder / "mini.pt"), "quick_gelu": False}
    return {"name": "open_clip", "params": params}


def ran(folder: Path, name: str, method: dict[str, object], backbone: dict[str, object]) -> Path:
    """The folder of a run's result."""
    changes = {"method": method, "model": {"backbone": backbone}, "rounds": ROUNDS, "evaluate": {"every": 0}}
    asked = experiment(folder / "images", **changes)
    return results.keep(here.run(asked, folder / name, name=name), asked, folder / "runs")


def exported(folder: Path, name: str, method: dict[str, object], backbone: dict[str, object]) -> Path:
    """The folder of its export, made where the images have gone."""
    run, to = ran(folder, name, method, backbone), folder / f"{name}-exported"
    export.export(str(run), to)
    return to


def stranger(script: Path, images: list[Path], cwd: Path) -> tuple[list[str], list[dict[str, float]]]:
    """What load.py prints, and its probabilities by class, in a process that knows torch and open_clip only."""
    command = [sys.executable, "-I", "-c", STRANGER, str(script), *map(str, images)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    return lines, json.loads(last)


@pytest.mark.parametrize("method", ["fedclip", "fedavg", "lora"])
def test_the_script_needs_nothing_of_quorate_and_says_what_predict_says(
    folder: Path, mini: dict[str, object], method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = {"fedclip": {"name": "tiny"}, "fedavg": mini, "lora": mini}[method]
    asked = {"name": "fedavg", "params": {"adapter": "lora", "lr": 0.01}} if method == "lora" else {"name": method}
    made = exported(folder, method, asked, backbone)
    assert max(map(len, (made / "load.py").read_text().splitlines())) <= 100
    takes = "preprocessed images to" if method == "lora" else "raw image features to"
    assert f"| `adapter.pt2` | {takes}" in (made / "README.md").read_text()
    moved = made.rename(tmp_path / "elsewhere")  # nothing in it may depend on where it was made
    images = sorted((folder / "images").rglob("*.png"))[::9]
    capsys.readouterr()
    assert predict.show(folder / "runs" / method, images, as_json=True) == 0
    told = json.loads(capsys.readouterr().out)["images"]
    lines, probabilities = stranger(moved / "load.py", images, tmp_path)
    assert len(told) == len(lines) == len(probabilities) == 5
    for image, one, line, other in zip(images, told, lines, probabilities, strict=True):
        expected = {top["class"]: top["probability"] for top in one["top"]}
        assert other == pytest.approx(expected, abs=2e-3)  # features that half precision rounds the other way
        likeliest = max(expected, key=lambda c: expected[c])
        first = re.fullmatch(rf"{re.escape(str(image))}  (\w+) ([0-9.]+) %  .*", line)
        assert first is not None and first[1] == likeliest
        assert float(first[2]) / 100 == pytest.approx(expected[likeliest], abs=3e-3)


def test_it_holds_what_is_listed_and_no_path_of_this_machine(folder: Path, mini: dict[str, object]) -> None:
    made = exported(folder, "whole", {"name": "fedclip"}, mini)
    held = {str(p.relative_to(made)) for p in made.rglob("*") if p.is_file()}
    backbone = {"backbone/open_clip_config.json", "backbone/open_clip_model.safetensors"}
    assert held == {"README.md", "adapter.pt2", "adapter.safetensors", "config.json", "load.py", *backbone}
    for path in made.rglob("*.*"):
        assert path.is_dir() or not any(str(p).encode() in path.read_bytes() for p in (folder, ROOT)), path
    config = json.loads((made / "config.json").read_text())
    assert config["classes"] == ["amber", "blue", "green"] and config["backbone"]["params"]["weights"] == "mini.pt"
    usage, *code = [line for line in (made / "load.py").read_text().splitlines() if line]
    assert usage.startswith('"""') and len(code) == 10


def test_predict_reads_an_export_whose_weights_are_named(
    folder: Path, mini: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    made = exported(folder, "named", {"name": "fedavg"}, mini)
    images = sorted((folder / "images").rglob("*.png"))[:2]
    with pytest.raises(ConfigError, match=r"mini\.pt"):
        predict.show(made, images)
    capsys.readouterr()
    assert predict.show(made, images, weights=folder / "mini.pt") == 0
    from_export = capsys.readouterr().out
    assert predict.show(folder / "runs" / "named", images) == 0
    assert capsys.readouterr().out == from_export


def test_a_folder_that_is_there_is_not_touched(folder: Path, tmp_path: Path) -> None:
    run = ran(folder, "again", {"name": "zero_shot"}, {"name": "tiny"})
    with pytest.raises(ConfigError, match="there already"):
        export.export(str(run), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    toy = "tests.toys:ToyBackbone"
    run = ran(folder, "toy", {"name": "fedclip"}, {"name": toy})
    with pytest.raises(ConfigError, match="no CLIP of open_clip"):
        export.export(str(run), tmp_path / "out" / "made", plugins=[toy])
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("run", ["nobody", "../up", "."])
def test_a_run_that_is_not_here_is_one_clear_line(run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no result of run"):
        export.export(run, tmp_path / "made")


def test_a_published_backbone_is_named_by_its_tag_and_not_copied() -> None:
    published = {"model": "ViT-B-32", "pretrained": "laion2b_s34b_b79k"}
    assert _portable.tag(Choice(name="open_clip", params=published)) == ("ViT-B-32", "laion2b_s34b_b79k")
    assert _portable.tag(Choice(name="open_clip", params={**published, "weights": "own.pt"})) is None
    assert _portable.tag(Choice(name="tiny")) is None
    call = ast.parse(f"create({export.arguments(('ViT-B-32', 'laion2b_s34b_b79k'))})", mode="eval").body
    assert isinstance(call, ast.Call)
    assert [ast.literal_eval(a) for a in call.args] == ["ViT-B-32"]
    assert {k.arg: ast.literal_eval(k.value) for k in call.keywords} == {"pretrained": "laion2b_s34b_b79k"}


def test_the_readme_attaches_an_adapter_to_an_open_clip_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "README.md").read_text()
    code = next(b for b in re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE) if "open_clip" in b)
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    made = exported(folder, "readme", {"name": "fedclip"}, {"name": "tiny"})
    made.rename(tmp_path / "exported")
    blue = next((folder / "images" / "flat" / "blue").iterdir())
    (tmp_path / "boat.png").write_bytes(blue.read_bytes())
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(compile(code, "README.md", "exec"), {})
    said = capsys.readouterr().out.split()[0]
    assert predict.show(folder / "runs" / "readme", [Path("boat.png")]) == 0
    assert capsys.readouterr().out.split()[1] == said


# --- models of clients' own


@pytest.fixture(scope="module")
def alone(folder: Path) -> Path:
    """The result of a run in which every client keeps what it learns."""
    method = {"name": "local_only", "params": {"epochs": 5, "lr": 0.05}}
    return ran(folder, "alone", method, {"name": "tiny"})


def test_a_clients_own_model_is_exported_and_as_accurate_as_the_report_says(
    alone: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QUORATE_BLOBS", f"file:{folder / 'alone' / 'blobs'}")
    export.export(str(alone), tmp_path / "made")
    assert card.OWN_HERE in capsys.readouterr().out
    assert {p.name for p in (tmp_path / "made" / "clients").iterdir()} == {"flat-0", "noisy-0"}
    asked = experiment(folder / "images")
    assert asked.data is not None
    owners = read_owners(asked.data, seed=asked.seed, cache=folder)
    final = read_report(alone / "report.json").accuracy.final
    for name, accuracy in final.items():
        own = tmp_path / "made" / "clients" / name
        chosen = owners.find(name).images.take(owners.find(name).parts.test)
        capsys.readouterr()
        assert predict.show(own, chosen.paths, as_json=True) == 0
        told = json.loads(capsys.readouterr().out)["images"]
        right = [i["top"][0]["class"] == chosen.classes[k] for i, k in zip(told, chosen.labels, strict=True)]
        assert sum(right) / len(right) == pytest.approx(accuracy, abs=1e-6)
        _, probabilities = stranger(own / "load.py", list(chosen.paths), tmp_path)
        for one, other in zip(told, probabilities, strict=True):
            assert other == pytest.approx({t["class"]: t["probability"] for t in one["top"]}, abs=2e-3)
    page = (tmp_path / "made" / "README.md").read_text()
    assert "clients/OWNER/" in page and card.OWN_HERE in page


def test_two_clients_models_differ_and_everybody_elses_is_version_0(
    alone: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUORATE_BLOBS", f"file:{folder / 'alone' / 'blobs'}")
    export.export(str(alone), tmp_path / "made")
    clients = [tmp_path / "made" / "clients" / name / "adapter.safetensors" for name in ("flat-0", "noisy-0")]
    first, second = (read_adapter(path) for path in clients)
    assert set(first.tensors) == {"private.weight", "private.bias"} and first.facts.client == "flat-0"
    assert not torch.equal(first.tensors["private.weight"], second.tensors["private.weight"])
    assert read_adapter(tmp_path / "made" / "adapter.safetensors").tensors == {}


@pytest.mark.parametrize("name", ["another", "alone"])
def test_where_the_clients_own_models_do_not_lie_it_is_said(
    alone: Path, folder: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = experiment(folder / "images", method={"name": "local_only"}, rounds=ROUNDS, seed=1)
    here.run(asked, tmp_path, name=name)  # under the same name too it is another run
    monkeypatch.setenv("QUORATE_BLOBS", f"file:{tmp_path / 'blobs'}")
    export.export(str(alone), tmp_path / "made")
    assert card.OWN_ELSEWHERE in (tmp_path / "made" / "README.md").read_text()
    assert not (tmp_path / "made" / "clients").exists()


# --- the card


def event(name: str, client: str | None = None, version: int = 0, **facts: object) -> Event:
    return Event(event=name, at=0, wall=0, version=version, client=client, facts=facts)


def told(*events: Event, **changes: object) -> card.Told:
    facts: dict[str, object] = {
        "method": {"name": "fedclip"}, "classes": ["cat", "dog"], "prompts": ["a {}"], "backbone": {"name": "tiny"},
        "backbone_fingerprint": "0" * 64, "run": "r", "version": 1, "sha256": "1" * 64,
    }  # fmt: skip
    report = Report(
        run="r", status="finished", version=1, seconds=1, accuracy=Accuracies(), bytes_up=0, bytes_down=0,
        wasted_share=0, mean_staleness=0, ledger={}, closed_without={}, encodes=0, adapter_sha256=None, seed=0,
        code_version="0", backbone_fingerprint="",
    )  # fmt: skip
    return card.Told(AdapterFacts.model_validate(facts | changes), report, events, None, 4_000)


SPLIT = {"train": 6, "val": 2, "test": 4}
DESCRIBED = event(
    "described",
    clients={"a": SPLIT, "b": SPLIT},
    held_out=["s"],
    domains={"a": ("photo",), "b": ("photo",), "s": ("sketch",)},
)
EVALUATED = (
    event("evaluated", "a", 0, accuracy=0.25, zero_shot=0.25, examples=4.0),
    event("evaluated", "b", 0, accuracy=0.5, zero_shot=0.5, examples=4.0),
    event("evaluated", "a", 1, accuracy=0.75, examples=4.0),
    event("evaluated", "b", 1, accuracy=0.25, examples=4.0),
    event("evaluated", "s", 1, accuracy=0.0, examples=10.0),
)


def rows(page: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")]


def test_the_card_pools_the_images_of_a_domain_and_gives_each_figure_its_interval() -> None:
    found = rows(card.write(told(DESCRIBED, *EVALUATED)))
    # 3 + 1 of 8 right, before 1 + 2 of 8. Wilson's interval of 4 of 8 is 0.5 -+ 0.2847; of 0 of 10, 0 to 0.2775.
    assert ["photo", "8", "37.5 %", "50.0 %", "21.5 to 78.5 %"] in found
    assert ["sketch (held out)", "10", "–", "0.0 %", "0.0 to 27.8 %"] in found
    assert ["a", "photo", "6", "2", "4"] in found and ["s", "sketch (held out)", "–", "–", "10"] in found
    assert [row[0] for row in found].count("a") == 2
    assert ["s (held out)", "10", "–", "0.0 %", "0.0 to 27.8 %"] in found


def test_the_card_of_one_group_says_that_owners_were_judged_by_their_own() -> None:
    words = "Of version 1, on the owners' test images, each by the model of its own group, which need not be this one."
    assert words in card.write(told(DESCRIBED, *EVALUATED, group="cohort-1"))
    assert "of its own group" not in card.write(told(DESCRIBED, *EVALUATED))


def test_the_words_of_a_plugin_are_markdown_as_they_stand() -> None:
    page = card.write(told(DESCRIBED, method={"name": "fedavg", "params": {"adapter": "lora"}}))
    words = "\n- an adapter on a frozen CLIP instead of a whole network, unless the adapter is `tower`\n"
    assert words in page
    assert f"\n- {Lora.deviations[0]}\n" in page and f"Source: {Lora.paper}." in page


def test_the_card_of_a_version_that_nobody_evaluated_says_so() -> None:
    page = card.write(told(DESCRIBED, *EVALUATED[:2]))
    assert "The last version was not evaluated." in page and "95 %" not in page


@pytest.mark.parametrize("examples", [{}, {"examples": 0.0}, {"examples": -4.0}, {"examples": 1e300}])
def test_a_figure_of_impossibly_many_images_is_left_out(examples: dict[str, float]) -> None:
    odd = event("evaluated", "b", 1, accuracy=0.5, **examples)
    page = card.write(told(DESCRIBED, EVALUATED[0], EVALUATED[2], odd))
    assert ["photo", "4", "25.0 %", "75.0 %", "30.1 to 95.4 %"] in rows(page)  # a's 3 of 4 alone


def test_the_card_says_whose_the_images_were() -> None:
    sites, pool = ({"sites": s, "transforms": [{"name": "clip"}]} for s in (["a", "b"], None))
    assert "never left it" in card.write(told(event("started", experiment=sites), DESCRIBED))
    page = card.write(told(event("started", experiment=pool), DESCRIBED))
    assert "simulation" in page and "never left it" not in page and "transforms on them: clip" in page


def test_names_from_elsewhere_make_no_markdown() -> None:
    page = card.write(told(DESCRIBED, classes=["<b>cat", "[dog](http://x) | `"]))
    assert r"\<b\>cat, \[dog\](http://x) \| \`" in page
