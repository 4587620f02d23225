import sys
from pathlib import Path
from typing import Any

import datasets
import pytest

from schemas.base import Choice, digest
from schemas.errors import ConfigError, DataError, PluginError
from schemas.experiment import Data
from tests.toys import COLOURS, paint, parquet
from workers.data.images import Images
from workers.data.owners import read_owners
from workers.plugins import load


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`images` as folders, and the same as parquet, and as `save_to_disk` writes it, alone and with its split."""
    root = tmp_path_factory.mktemp("hub")
    parquet(paint(root / "images", per_class=2), root / "parquet")
    whole = datasets.load_dataset(str(root / "parquet"), split="train", cache_dir=str(root / "c"))
    whole.save_to_disk(root / "disk")
    datasets.DatasetDict({"train": whole}).save_to_disk(root / "dict")
    return root


def _images(cache: Path, **params: Any) -> Images:
    images: Images = load("workers.datasets", Choice(name="huggingface", params=params)).images(cache)
    return images


@pytest.mark.parametrize("form", ["parquet", "disk", "dict"])
def test_each_form_gives_the_same_images_as_the_folders_do(folder: Path, tmp_path: Path, form: str) -> None:
    images = _images(tmp_path, folder=folder / form, domain="domain")
    assert images.classes == tuple(sorted(COLOURS)) and images.clients == ()
    listed = zip(images.domains, images.labels, images.paths, strict=True)
    found = sorted((domain, images.classes[label], path.read_bytes()) for domain, label, path in listed)
    files = (folder / "images").glob("*/*/*.png")
    assert found == sorted((f.parent.parent.name, f.parent.name, f.read_bytes()) for f in files)


def test_an_image_is_kept_once_under_the_hash_of_its_content(folder: Path, tmp_path: Path) -> None:
    first = _images(tmp_path, folder=folder / "parquet")
    assert all(path.name == f"{digest(path.read_bytes())}.png" for path in first.paths)
    before = {path: path.stat().st_mtime_ns for path in first.paths}
    assert _images(tmp_path, folder=folder / "disk").paths == first.paths
    assert {path: path.stat().st_mtime_ns for path in first.paths} == before


def test_a_column_can_say_whose_an_image_is(folder: Path, tmp_path: Path) -> None:
    params = {"folder": str(folder / "parquet"), "domain": "domain", "client": "owner"}
    data = Data(name="huggingface", params=params, hold_out=("flat",))  # type: ignore[arg-type]
    owners = read_owners(data, seed=0, cache=tmp_path)
    assert {name: len(o.images) for name, o in owners.clients.items()} == {"0": 6, "1": 6}  # 2 domains of 3 x 2, halved
    assert len(owners.held_out["flat"].images) == 6


def _odd(folder: Path, **columns: list[object]) -> Path:
    picture = {"bytes": next((folder / "images").glob("*/*/*.png")).read_bytes(), "path": None}
    whole: dict[str, list[object]] = {"image": [picture, picture], "label": [0, 1], **columns}
    out = folder / f"odd-{digest(repr(columns).encode())[:8]}"
    out.mkdir(exist_ok=True)
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "cat"])}
    features = datasets.Features({k: kinds.get(k, datasets.Value("string")) for k in whole})
    datasets.Dataset.from_dict(whole, features=features).to_parquet(out / "train.parquet")
    return out


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"image": [None, None]}, "row 1: no image"),
        ({"image": [{"bytes": b"no image", "path": None}] * 2}, "cannot read .*: no image"),
        ({"label": [0, None]}, "row 2: no label"),
        ({"label": [0, -1]}, "row 2: no label"),
        ({"domain": ["a", "\u202eb"]}, "row 2: domain .* is not the name of a domain"),
        ({"client": ["a", "b c"]}, "row 2: client 'b c' is not the name of a client"),
    ],
)
def test_a_wrong_row_is_named(folder: Path, tmp_path: Path, columns: dict[str, list[object]], said: str) -> None:
    named = {k: k for k in columns if k in ("domain", "client")}
    with pytest.raises(DataError, match=said) as caught:
        _images(tmp_path, folder=_odd(folder, **columns), **named)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"folder": "nowhere"}, "there is no such folder"),
        ({"folder": "images"}, "no column 'no'"),
        ({"folder": "parquet", "split": "tset"}, "cannot be loaded: ValueError: Unknown split"),
        ({"folder": "dict", "split": "tset"}, "cannot be loaded: KeyError"),
        ({"folder": "parquet", "label": "lable"}, "no column 'lable' .did you mean 'label'"),
        ({"folder": "parquet", "image": "label"}, "column 'label' holds no images"),
        ({"folder": "torn"}, "cannot be loaded: "),
        ({"folder": "rubbish"}, "cannot be loaded: "),
        ({"folder": "empty"}, "cannot be loaded: "),
    ],
)
def test_what_cannot_be_loaded_is_one_line(folder: Path, tmp_path: Path, params: dict[str, str], said: str) -> None:
    whole = (folder / "parquet" / "train.parquet").read_bytes()
    for name, data in (("torn", whole[: len(whole) // 2]), ("rubbish", b"x" * 999), ("empty", None)):
        (folder / name).mkdir(exist_ok=True)
        if data is not None:
            (folder / name / "train.parquet").write_bytes(data)
    given = {**params, "folder": folder / params["folder"]}
    if params["folder"] == "images":
        given["label"] = "no"
    with pytest.raises(DataError, match=said) as caught:
        _images(tmp_path, **given)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_one_source_is_needed(tmp_path: Path) -> None:
    for params in ({}, {"name": "a/b", "folder": str(tmp_path)}):
        with pytest.raises(PluginError, match="either `name`"):
            load("workers.datasets", Choice(name="huggingface", params=params))


def test_without_the_library_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)  # as Python marks what is not there
    with pytest.raises(ConfigError, match=r"needs the library datasets.*pip install 'quorate\[huggingface\]'"):
        _images(tmp_path, name="flwrlabs/pacs")
