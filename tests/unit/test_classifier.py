"""An adapter on its backbone: it answers as its run did, and a file that is none is one clear line."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator import results
from schemas.base import Choice
from schemas.errors import ConfigError, PluginError
from schemas.experiment import Data
from tests.runs import here
from tests.toys import experiment, paint
from workers import classifier as module
from workers.adapter import LARGEST, of_group, read_adapter
from workers.classifier import Probabilities, Unreadable, classifier
from workers.data.owners import read_owners
from workers.tensors import Tensors, fingerprint, metadata, pack, unpack

TOY = ("tests.toys:ToyBackbone",)
ROUNDS = {"versions": 2, "in_flight": 2, "quorum": 2, "floor": 1}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("painted") / "images")


@pytest.fixture(scope="module")
def adapter(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapter file of a run on the painted images."""
    root = tmp_path_factory.mktemp("run")
    asked = experiment(images, rounds=ROUNDS)
    return results.keep(here.run(asked, root), asked, root / "runs") / "adapter.safetensors"


def in_pairs(images: Path) -> Data:
    partition = Choice(name="by_domain", params={"clients_per_domain": 2})
    return Data(params={"root": str(images)}, hold_out=("striped",), partition=partition)


LORA = {"name": "fedavg", "params": {"adapter": "lora", "lr": 0.01}}


@pytest.mark.parametrize("method", [{"name": "fedclip"}, {"name": "fedavg"}, {"name": "zero_shot"}, LORA], ids=str)
def test_it_is_as_accurate_on_each_owners_images_as_the_report_says(
    images: Path, tmp_path: Path, method: dict[str, object]
) -> None:
    asked = experiment(images, rounds=ROUNDS, method=method, codec={"name": "fp16"})
    outcome = here.run(asked, tmp_path)
    folder = results.keep(outcome, asked, tmp_path / "runs")
    made = classifier(read_adapter(folder / "adapter.safetensors"), tmp_path / "other cache", TOY)
    assert asked.data is not None
    owners = read_owners(asked.data, seed=asked.seed, cache=tmp_path)
    told = {k: v for k, v in outcome.report.accuracy.final.items()}
    told |= {k: v.final for k, v in outcome.report.accuracy.held_out.items()}
    assert set(told) == {"flat-0", "noisy-0", "striped"}
    for name, accuracy in told.items():
        owner = owners.find(name)
        chosen = owner.images.take(owner.parts.test)
        answers = [a for a in made.classify(chosen.paths) if isinstance(a, torch.Tensor)]
        right = [int(a.argmax()) == label for a, label in zip(answers, chosen.labels, strict=True)]
        assert np.mean(right) == pytest.approx(accuracy, abs=1e-6)


def test_of_several_groups_the_one_for_visitors_is_taken_unless_another_is_named(images: Path, tmp_path: Path) -> None:
    method, rounds = {"name": "licfl", "params": {"cohorts": 2}}, {**ROUNDS, "versions": 3, "in_flight": 3, "quorum": 3}
    asked = experiment(images, rounds=rounds, method=method).model_copy(update={"data": in_pairs(images)})
    outcome = here.run(asked, tmp_path)
    read = read_adapter(results.keep(outcome, asked, tmp_path / "runs") / "adapter.safetensors")
    for group in (None, "all", "cohort-0", "cohort-1", "visitors"):
        chosen = of_group(read, group)
        assert chosen.facts.group == (group or "visitors")
        expected = outcome.tensors[group or "visitors"]
        assert all(torch.equal(chosen.tensors[name], t) for name, t in expected.items())
        assert (
            next(iter(classifier(chosen, tmp_path / "cache", TOY).classify([next(images.rglob("*.png"))]))) is not None
        )
    with pytest.raises(ConfigError, match=r"cohort-9 is not in this adapter.*takes one of all, cohort-0"):
        of_group(read, "cohort-9")


def test_a_group_cannot_be_named_where_there_is_one_model(adapter: Path) -> None:
    assert of_group(read_adapter(adapter), None).facts.group is None
    with pytest.raises(ConfigError, match="leave out --group"):
        of_group(read_adapter(adapter), "all")


def test_probabilities_do_not_depend_on_the_images_beside(adapter: Path, images: Path, tmp_path: Path) -> None:
    made = classifier(read_adapter(adapter), tmp_path, TOY)
    paths = sorted(images.rglob("*.png"))[:20]
    together, alone = list(made.classify(paths)), [next(iter(made.classify([p]))) for p in paths]
    for one, other in zip(together, alone, strict=True):
        assert isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)
        assert torch.allclose(one, other, atol=1e-6) and float(one.sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("together", [1, 3, 256])
def test_a_file_that_cannot_be_read_is_named_in_its_place_and_the_others_are_classified(
    adapter: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    monkeypatch.setattr(module, "TOGETHER", together)
    made = classifier(read_adapter(adapter), tmp_path, TOY)
    good = sorted(images.rglob("*.png"))[:5]
    cut = tmp_path / "cut.png"
    cut.write_bytes(good[0].read_bytes()[:40])
    said = list(made.classify([cut, *good, tmp_path / "absent.png"]))
    assert [isinstance(s, Unreadable) for s in said] == [True, *[False] * 5, True]
    assert isinstance(said[0], Unreadable) and str(cut) in said[0].why
    alone = next(iter(made.classify(good[3:4])))
    assert isinstance(said[4], torch.Tensor) and isinstance(alone, torch.Tensor)
    assert torch.allclose(said[4], alone, atol=1e-6)


# --- what is no adapter

Edit = Callable[[Tensors, dict[str, str]], None]


def edited(adapter: Path, target: Path, edit: Edit) -> Path:
    """The adapter with other tensors or metadata."""
    data = adapter.read_bytes()
    tensors, told = unpack(data), metadata(data)
    edit(tensors, told)
    target.write_bytes(pack(tensors, told))
    return target


def put(name: str, value: object) -> Edit:
    def edit(tensors: Tensors, told: dict[str, str]) -> None:
        told[name] = json.dumps(value)

    return edit


def poison(tensors: Tensors, told: dict[str, str]) -> None:
    tensors["gate.bias"][0] += 1


def only_tensors(tensors: Tensors, told: dict[str, str]) -> None:
    told.clear()


def no_json(tensors: Tensors, told: dict[str, str]) -> None:
    told["version"] = "{" * 100_000


def hashed(edit: Edit) -> Edit:
    """An edit by somebody who knows of the hash."""

    def whole(tensors: Tensors, told: dict[str, str]) -> None:
        edit(tensors, told)
        told["sha256"] = json.dumps(fingerprint(tensors))

    return whole


def doubled(tensors: Tensors, told: dict[str, str]) -> None:
    tensors["gate.bias"] = tensors["gate.bias"].double()


def owned(tensors: Tensors, told: dict[str, str]) -> None:
    tensors["private.gate.bias"] = tensors["gate.bias"].clone()


def local(*named: str) -> Edit:
    """As if each client had kept a model to itself. named: what of one is in the file."""

    def edit(tensors: Tensors, told: dict[str, str]) -> None:
        told["method"] = json.dumps({"name": "local_only", "params": {"adapter": "gate"}})
        own = {f"private.{name}": t.clone() for name, t in tensors.items()} if "tensors" in named else {}
        if "client" in named:
            told["client"] = '"flat-0"'
        if "model" not in named:
            tensors.clear()
        tensors |= own

    return edit


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (poison, ["is damaged", "sha256"]),
        (hashed(doubled), ["gate.bias is torch.float64", "float32"]),
        (only_tensors, ["no adapter of Quorate", "method"]),
        (no_json, ["no adapter of Quorate", "not JSON"]),
        (put("classes", []), ["classes"]),
        (put("classes", ["a\nb", "c"]), ["classes"]),
        (put("version", -1), ["version"]),
        (put("licence", "x"), ["unknown key 'licence'"]),
    ],
)
def test_a_file_that_is_no_adapter_is_one_clear_line(
    adapter: Path, tmp_path: Path, edit: Edit, words: list[str]
) -> None:
    path = edited(adapter, tmp_path / "odd.safetensors", edit)
    with pytest.raises(ConfigError) as caught:
        read_adapter(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 600
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("cut", [0, 7, 8, 500, -1])
def test_a_truncated_file_is_one_clear_line(adapter: Path, tmp_path: Path, cut: int) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(adapter.read_bytes()[:cut])
    with pytest.raises(ConfigError, match=r"cut\.safetensors is no adapter"):
        read_adapter(path)


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.safetensors"
    with path.open("wb") as f:
        f.truncate(LARGEST + 1)  # takes no room on the disk
    with pytest.raises(ConfigError, match=f"at most {LARGEST} are read"):
        read_adapter(path)


def test_a_folder_a_pipe_and_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Is a directory"):
        read_adapter(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="no regular file"):
        read_adapter(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="No such file"):
        read_adapter(tmp_path / "absent.safetensors")


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (put("backbone_fingerprint", "0" * 64), ["000000000000", "weights"]),
        (put("backbone", {"name": "tests.toys:ToyBackbone", "params": {"seed": 1}}), ["here is"]),
        (put("method", {"name": "fedavg"}), ["do not fit method fedavg"]),
        (put("method", {"name": "fedclap"}), ["did you mean 'fedclip'?"]),
        (put("method", {"name": "fedclip", "params": {"lr": "fast"}}), ["lr"]),
        (put("prompts", ["no place"]), ["no run could have"]),
        (put("classes", ["Cat", "cat"]), ["no run could have"]),
        (put("group", "cohort-0"), ["it keeps one model, and none for a group cohort-0"]),
        (put("client", "flat-0"), ["the name or the tensors alone"]),
        (hashed(owned), ["its clients have no models of their own"]),
        (hashed(local("client")), ["the name or the tensors alone"]),
        (hashed(local("tensors")), ["the name or the tensors alone"]),
        (hashed(local("client", "tensors", "model")), ["not those of version 0"]),
    ],
)
def test_what_does_not_go_together_is_one_clear_line(
    adapter: Path, tmp_path: Path, edit: Edit, words: list[str]
) -> None:
    path = edited(adapter, tmp_path / "other.safetensors", edit)
    with pytest.raises(ConfigError) as caught:
        classifier(read_adapter(path), tmp_path, TOY)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_clients_own_model_is_taken_whole(adapter: Path, tmp_path: Path) -> None:
    path = edited(adapter, tmp_path / "own.safetensors", hashed(local("client", "tensors")))
    assert classifier(read_adapter(path), tmp_path, TOY).facts.client == "flat-0"


def other_tensors(tensors: Tensors, told: dict[str, str]) -> None:
    tensors["gate.bias"] += 1


@pytest.mark.parametrize(
    ("edit", "fact"),
    [
        (put("classes", ["amber", "green", "blue"]), "classes"),
        (put("prompts", ["{}"]), "prompts"),
        (put("method", {"name": "fedavg", "params": {"adapter": "gate"}}), "method"),
        (put("backbone", {"name": "tests.toys:ToyBackbone", "params": {"seed": 0}}), "backbone"),
        (put("backbone_fingerprint", "0" * 64), "backbone_fingerprint"),
        (put("version", 1), "version"),
        (put("run", "another"), "run"),
        (put("seed", 7), "seed"),
        (other_tensors, "sha256"),
    ],
)
def test_an_adapter_that_was_changed_is_not_taken_for_that_of_the_run_beside_it(
    adapter: Path, tmp_path: Path, edit: Edit, fact: str
) -> None:
    run = shutil.copytree(adapter.parent, tmp_path / "run")
    assert results.read_result(run).facts == read_adapter(adapter).facts
    edited(adapter, run / "adapter.safetensors", hashed(edit))
    for named in (run, run / "adapter.safetensors"):
        with pytest.raises(ConfigError, match=f"not the adapter of the run beside it: its {fact} is another"):
            results.read_result(named)
    (run / "journal.jsonl").write_text("{")
    with pytest.raises(ConfigError, match="journal"):
        results.read_result(run)


def test_a_file_alone_cannot_make_code_from_elsewhere_run(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"--plugin tests\.toys:ToyBackbone"):
        classifier(read_adapter(adapter), tmp_path)


def test_features_are_rounded_to_half_precision_and_images_are_not() -> None:
    # Next to 1 half precision has 1 + 2^-10; 1 + 2^-12 is rounded to 1, and is a number of single precision.
    x = torch.tensor([[1 + 2**-12, 0.0]])
    for cached, seen in ((True, 1.0), (False, 1 + 2**-12)):
        expected = torch.softmax(torch.tensor([[seen, 0.0]]), dim=1)
        assert torch.equal(Probabilities(torch.nn.Identity(), cached=cached)(x), expected)
    assert not torch.equal(torch.softmax(x, dim=1), torch.softmax(x.round(), dim=1))
