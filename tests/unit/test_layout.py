"""The ready experiments on folders as their archives unpack, drawn small: nothing is downloaded."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml
from PIL import Image

from orchestrator import command
from orchestrator.plan import read_experiment
from schemas.base import Choice
from schemas.errors import DataError, PluginError
from workers.data.owners import Owners, read_owners
from workers.plugins import load

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
PACS = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
VLCS = ("bird", "car", "chair", "dog", "person")
OFFICE = tuple(f"Alarm_Clock_{i:02}" for i in range(65))
NUMBERS = tuple("01234")

LAYOUTS = {
    "pacs, domains": ("pacs", ("art_painting", "cartoon", "photo", "sketch"), PACS),
    "pacs, kfold": ("pacs", ("kfold/art_painting", "kfold/cartoon", "kfold/photo", "kfold/sketch"), PACS),
    "vlcs, domains": ("vlcs", ("Caltech101", "LabelMe", "SUN09", "VOC2007"), VLCS),
    "vlcs, full": ("vlcs", ("Caltech101/full", "LabelMe/full", "SUN09/full", "VOC2007/full"), VLCS),
    "vlcs, numbers": ("vlcs", ("CALTECH/full", "LABELME/full", "SUN/full", "PASCAL/full"), NUMBERS),
    "office_home, space": ("office_home", ("Art", "Clipart", "Product", "Real World"), OFFICE),
    "office_home, joined": ("office_home", ("Art", "Clipart", "Product", "RealWorld"), OFFICE),
    "office_home, underscore": ("office_home", ("Art", "Clipart", "Product", "Real_World"), OFFICE),
    "domainnet": ("domainnet", ("clipart", "infograph", "painting", "quickdraw", "real", "sketch"), ("axe", "bat")),
}
"""Ready experiment, folders of its domains in the order of their names, and of its classes."""


def _unpack(root: Path, folders: Iterable[str], classes: Iterable[str], each: int = 2) -> Path:
    for folder in folders:
        for name in classes:
            (root / folder / name).mkdir(parents=True)
            for i in range(each):
                Image.new("RGB", (2, 2)).save(root / folder / name / f"pic_{i:03}.jpg")
    (root / "README.txt").write_text("beside the folders")
    return root


def _whole(name: str) -> dict[str, object]:
    """What the experiment expects."""
    found: dict[str, object] = yaml.safe_load((EXPERIMENTS / f"{name}.yaml").read_text())["data"]["params"]
    return found


def _overrides(name: str, root: Path, classes: int, images: int) -> list[str]:
    """The experiment on a small copy: of each domain so many images of so many classes."""
    small = {"classes": classes, "images": dict.fromkeys(_whole(name)["domains"], images)}  # type: ignore[call-overload]
    return [f"data.params.root={root}", f"data.params.expect={small}"]


def _owners(name: str, overrides: Iterable[str], cache: Path) -> Owners:
    asked = read_experiment(EXPERIMENTS / f"{name}.yaml", overrides)
    assert asked.data is not None
    return read_owners(asked.data, seed=asked.seed, cache=cache)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_an_archive_gives_the_same_domains_and_classes(layout: str, tmp_path: Path) -> None:
    name, folders, classes = LAYOUTS[layout]
    root = _unpack(tmp_path / "root", folders, classes)
    (root / "splits").mkdir()  # a folder that is no domain
    owners = _owners(name, _overrides(name, root, len(classes), 2 * len(classes)), tmp_path)
    (held,) = owners.held_out
    domains = sorted(_whole(name)["domains"])  # type: ignore[call-overload]
    assert list(owners.clients) == [f"{d}-0" for d in domains if d != held] and held in domains
    assert owners.classes == (VLCS if classes == NUMBERS else classes)
    for domain, folder in zip(domains, folders, strict=True):
        owner = owners.held_out.get(domain) or owners.clients[f"{domain}-0"]
        # Sorted by class and file, which with numbers for names is the order of the folders too.
        assert owner.images.paths == tuple(root / folder / c / f"pic_{i:03}.jpg" for c in classes for i in range(2))


def test_check_says_what_a_whole_data_set_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, folders, classes = LAYOUTS["pacs, kfold"]
    root = _unpack(tmp_path / "root", folders, classes, each=5)
    toy = 'model.backbone={name: "tests.toys:ToyBackbone"}'  # the experiment's own would be downloaded
    command.check(EXPERIMENTS / "pacs.yaml", (*_overrides("pacs", root, 7, 35), toy))
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("# ") and "backbone" not in line]
    # 35 images: floor of 21, 7 and 7.
    assert said == [
        f"# 7 classes: {', '.join(PACS)}",
        "# art_painting-0: 35 images of 7 classes: 21 train, 7 val, 7 test",
        "# cartoon-0: 35 images of 7 classes: 21 train, 7 val, 7 test",
        "# photo-0: 35 images of 7 classes: 21 train, 7 val, 7 test",
        "# sketch: 35 images of 7 classes: held out, 35 test",
    ]


def test_all_domains_can_train_for_personalisation(tmp_path: Path) -> None:
    _, folders, classes = LAYOUTS["pacs, domains"]
    root = _unpack(tmp_path / "root", folders, classes)
    owners = _owners("pacs", [*_overrides("pacs", root, 7, 14), "data.hold_out=[]"], tmp_path)
    assert len(owners.clients) == 4 and owners.held_out == {}


@pytest.mark.parametrize("name", ["pacs", "vlcs", "office_home", "domainnet"])
def test_where_nothing_is_it_says_in_one_line_what_should_be(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        _owners(name, [f"data.params.root={tmp_path / 'nowhere'}"], tmp_path)
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / 'nowhere'} has no folder of ") and "\n" not in said
    expected = _whole(name)["expect"]
    assert f"{expected['classes']} classes in each" in said  # type: ignore[index]
    for domain, count in expected.get("images", {}).items():  # type: ignore[attr-defined]
        assert re.search(rf"{domain}: [^;]* with {count} images", said)


def test_what_is_missing_or_too_much_is_said_in_one_line(tmp_path: Path) -> None:
    _, folders, classes = LAYOUTS["pacs, kfold"]
    root = _unpack(tmp_path / "root", folders, classes)
    (root / "kfold/photo/dog/pic_000.jpg").unlink()
    for i in range(2):
        (root / f"kfold/cartoon/house/pic_00{i}.jpg").unlink()
    (root / "kfold/cartoon/house").rmdir()
    with pytest.raises(DataError) as caught:
        _owners("pacs", _overrides("pacs", root, 7, 14), tmp_path)
    assert str(caught.value) == (
        f"{root}: cartoon has 12 images, not 14; photo has 13 images, not 14; 6 classes, not 7, in cartoon: "
        "dog, elephant, giraffe, guitar, horse, person (--set data.params.expect=null takes what is there)"
    )
    some = _owners("pacs", [f"data.params.root={root}", "data.params.expect=null"], tmp_path)
    assert len(some.clients["photo-0"].images) == 13


def test_domains_that_name_their_classes_differently_are_told(tmp_path: Path) -> None:
    root = _unpack(tmp_path / "root", ("a",), ("cat", "dog"))
    _unpack(root, ("b",), ("cat", "dogs"))
    folder = load("workers.datasets", Choice(name="folder", params={"root": root, "expect": {"classes": 2}}))
    with pytest.raises(DataError, match="3 classes, not 2, in all domains together: cat, dog, dogs"):
        folder.images(tmp_path)


def test_the_first_place_that_is_there_counts_and_other_folders_do_not(tmp_path: Path) -> None:
    root = _unpack(tmp_path / "root", ("x/full", "x/test", "y"), ("cat",))
    params = {"root": root, "domains": {"one": ["x/none", "x/full", "x/test"]}}
    images = load("workers.datasets", Choice(name="folder", params=params)).images(tmp_path)
    assert {p.parent.parent for p in images.paths} == {root / "x" / "full"} and set(images.domains) == {"one"}


@pytest.mark.parametrize(
    ("params", "word"),
    [
        ({"domains": {"a": "b"}}, "domains"),
        ({"domains": {"": ["b"]}}, "domains"),
        ({"expect": {"classes": 0}}, "expect.classes"),
        ({"expect": {"clases": 7}}, "did you mean 'classes'"),
        ({"expect": {"classes": 7, "images": {"a": -1}}}, "expect.images"),
    ],
)
def test_what_the_parameters_cannot_mean_is_refused(params: dict[str, object], word: str, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=word):
        load("workers.datasets", Choice(name="folder", params={"root": tmp_path, **params}))
