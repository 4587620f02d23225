"""The drawn data set as files."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from schemas.base import Choice
from schemas.errors import DataError, PluginError
from workers.data import drawn
from workers.data.drawing import THINGS
from workers.data.styles import PAINTERS
from workers.datasets.shapes import Shapes
from workers.plugins import load

COUNT = 3 * len(THINGS) * len(PAINTERS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("drawn") / "shapes"
    assert drawn.write(out, 3, 0) == COUNT
    return out


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def files(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_there_are_at_least_ten_classes_in_the_four_styles(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == ["cartoon", "painting", "photo", "sketch"]
    assert all(sorted(p.name for p in style.iterdir()) == sorted(THINGS) for style in folder.iterdir())
    assert len(THINGS) >= 10


def test_file_is_the_image_of_its_seed_style_class_and_number(folder: Path) -> None:
    with Image.open(folder / "sketch" / "boat" / "0002.png") as stored:
        assert np.array_equal(np.asarray(stored), drawn.image(0, "sketch", "boat", 2))


def test_all_images_differ(folder: Path) -> None:
    assert len(set(files(folder).values())) == COUNT


def test_same_seed_gives_the_same_bytes_and_another_seed_others(folder: Path, tmp_path: Path) -> None:
    drawn.write(tmp_path / "a", 1, 0)
    drawn.write(tmp_path / "b", 1, 1)
    first, other = files(tmp_path / "a"), files(tmp_path / "b")
    assert first == {name: data for name, data in files(folder).items() if name.endswith("0000.png")}
    assert all(first[name] != other[name] for name in first)


def test_progress_ends_at_all_files(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    total = drawn.write(tmp_path / "out", 1, 0, lambda done, of: seen.append((done, of)))
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == list(range(1, total + 1))


def test_folder_that_holds_something_is_refused_and_an_empty_one_filled(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(DataError, match="not empty"):
        drawn.write(tmp_path / "mine", 1, 0)
    assert files(tmp_path / "mine") == {"letter.txt": b"dear"}
    (tmp_path / "empty").mkdir()
    assert drawn.write(tmp_path / "empty", 1, 0) == len(files(tmp_path / "empty"))


def test_interrupted_drawing_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drawn.write(tmp_path / "out", 1, 0, interrupt)
    assert list(tmp_path.iterdir()) == []


def test_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write images to"):
        drawn.write(tmp_path / "file" / "out", 1, 0)
    with pytest.raises(DataError, match="cannot write"):
        drawn.write(tmp_path / "file", 1, 0)


@pytest.mark.parametrize("per_class", [0, -1, 10_000, 10**12])
def test_count_out_of_range_is_refused_before_anything_is_written(tmp_path: Path, per_class: int) -> None:
    with pytest.raises(DataError, match="per_class"):
        drawn.write(tmp_path / "out", per_class, 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("params", [{"per_class": 2}, {"per_class": 10**9}, {"per_class": "many"}, {"seed": -1}])
def test_wrong_params_are_refused(params: dict[str, object]) -> None:
    with pytest.raises(PluginError, match=next(iter(params))):
        load("workers.datasets", Choice(name="shapes", params=params))


def test_unknown_param_is_refused_with_a_suggestion() -> None:
    with pytest.raises(PluginError, match="per_class"):
        load("workers.datasets", Choice(name="shapes", params={"per_clas": 3}))


def test_plugin_draws_once_and_reads_files_afterwards(cache: Path) -> None:
    shapes = Shapes(Shapes.Params(per_class=3))
    images = shapes.images(cache)
    assert len(images) == COUNT
    assert images.classes == tuple(sorted(THINGS))
    assert np.bincount(images.labels).tolist() == [3 * len(PAINTERS)] * len(THINGS)
    assert {d: images.domains.count(d) for d in images.domains} == dict.fromkeys(PAINTERS, 3 * len(THINGS))
    images.paths[0].write_bytes(images.paths[1].read_bytes())
    assert shapes.images(cache).paths == images.paths
    assert images.paths[0].read_bytes() == images.paths[1].read_bytes(), "not drawn again"


def test_other_params_lie_in_another_folder(cache: Path) -> None:
    one = Shapes(Shapes.Params(per_class=3)).images(cache).paths[1]
    other = Shapes(Shapes.Params(per_class=3, seed=1)).images(cache).paths[1]
    assert one.read_bytes() != other.read_bytes()


ASK = """
import sys, pathlib
from workers.datasets.shapes import Shapes
print(len(Shapes(Shapes.Params(per_class=3)).images(pathlib.Path(sys.argv[1]))))
"""


def test_processes_that_ask_at_once_get_the_same_whole_folder(tmp_path: Path) -> None:
    asked = [subprocess.Popen([sys.executable, "-c", ASK, str(tmp_path)], stdout=subprocess.PIPE) for _ in range(2)]
    assert [p.communicate(timeout=60)[0].split() for p in asked] == [[str(COUNT).encode()]] * 2
    assert len(os.listdir(tmp_path / "shapes")) == 1
