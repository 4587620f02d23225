"""What every data set keeps to: files that exist, one label and one domain each, in an order that never changes."""

from pathlib import Path

import numpy as np
import pytest

from schemas.base import Choice
from schemas.errors import PluginError
from tests.toys import paint, parquet, table
from workers.data.images import Images
from workers.data.pixels import decode
from workers.plugins import load, names

PACKAGE = "workers.datasets"


def _params(name: str, root: Path) -> dict[str, object]:
    known: dict[str, dict[str, object]] = {
        "csv": {"file": str(root / "images.csv")},
        "huggingface": {"folder": str(root.parent / "parquet"), "domain": "domain"},
        "folder": {"root": str(root)},
        "shapes": {"per_class": 3},
    }
    return known[name]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("datasets")
    table(paint(folder / "painted", per_class=3))
    parquet(folder / "painted", folder / "parquet")
    return folder


def _images(name: str, place: Path) -> Images:
    dataset = load(PACKAGE, Choice(name=name, params=_params(name, place / "painted")))
    images: Images = dataset.images(place / "cache")
    return images


@pytest.mark.parametrize("name", names(PACKAGE))
def test_every_image_has_a_file_a_label_and_a_domain(name: str, place: Path) -> None:
    images = _images(name, place)
    assert len(images) == len(images.paths) == len(images.labels) == len(images.domains) > 0
    assert images.labels.dtype == np.int64
    assert set(images.labels.tolist()) == set(range(len(images.classes)))
    assert all(path.is_file() for path in images.paths)
    assert decode(images.paths[0], images.paths[0].read_bytes()).mode == "RGB"


@pytest.mark.parametrize("name", names(PACKAGE))
def test_the_order_is_by_domain_class_and_file(name: str, place: Path) -> None:
    images = _images(name, place)
    rows = [
        (domain, images.classes[label], path.name)
        for domain, label, path in zip(images.domains, images.labels, images.paths, strict=True)
    ]
    assert rows == sorted(rows)
    assert list(images.classes) == sorted(set(images.classes))


@pytest.mark.parametrize("name", names(PACKAGE))
def test_a_second_look_finds_the_same(name: str, place: Path) -> None:
    one, again = _images(name, place), _images(name, place)
    assert (one.paths, one.domains, one.classes) == (again.paths, again.domains, again.classes)
    assert np.array_equal(one.labels, again.labels)


@pytest.mark.parametrize("name", names(PACKAGE))
def test_unknown_params_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="no_such_param"):
        load(PACKAGE, Choice(name=name, params=_params(name, tmp_path) | {"no_such_param": 1}))


def test_taking_some_images_keeps_their_labels_and_all_classes(place: Path) -> None:
    images = _images("folder", place)
    some = images.take(np.array([5, 0]))
    assert some.paths == (images.paths[5], images.paths[0])
    assert some.labels.tolist() == [images.labels[5], images.labels[0]]
    assert some.classes == images.classes
