import io
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from orchestrator import command, skew
from orchestrator.cli import quorate
from schemas.base import Choice
from schemas.errors import ConfigError
from schemas.experiment import Data
from tests.toys import paint
from workers.data.images import Images
from workers.data.owners import Owner, Owners, read_owners
from workers.data.split import stratified


def _toy(tmp_path: Path, **changes: object) -> Owners:
    data = Data.model_validate({"params": {"root": paint(tmp_path / "i", per_class=5)}, **changes})
    return read_owners(data, seed=0, cache=tmp_path)


def _made(clients: int, classes: int, name: str = "class-{}") -> Owners:
    """Client i has i + 1 images of every class."""

    def owner(i: int) -> Owner:
        labels = np.repeat(np.arange(classes), i + 1)
        images = Images((Path("x"),) * len(labels), labels, ("x",) * len(labels), names)
        return Owner(f"client-{i}", images, stratified(labels, np.random.default_rng(0)))

    names = tuple(name.format(i) for i in range(classes))
    owners = (owner(i) for i in range(clients))
    return Owners({o.name: o for o in owners}, {}, names)


def test_the_numbers_are_those_of_the_owners_and_the_held_out_come_last(tmp_path: Path) -> None:
    owners = _toy(tmp_path, hold_out=("flat",), partition=Choice(name="by_domain"))
    names, table = skew.counts(owners)
    assert names == ["noisy-0", "striped-0", "flat *"]
    assert table.tolist() == [[5, 5, 5]] * 3  # five images of each colour


def test_rows_are_in_the_order_in_which_people_count() -> None:
    names, table = skew.counts(_made(12, 2))
    assert names == [f"client-{i}" for i in range(12)]
    assert table.tolist() == [[i + 1, i + 1] for i in range(12)]


@pytest.mark.parametrize(
    ("clients", "classes", "name"),
    [(1, 2, "class-{}"), (12, 12, "class-{}"), (100, 65, "Class_{}"), (3, 2, "$\\bad^{}"), (2, 2, "\u732b{}")],
    ids=["one", "demo", "many", "formula", "script"],
)
def test_every_size_and_name_gives_a_picture_that_fits_a_screen(clients: int, classes: int, name: str) -> None:
    image = Image.open(io.BytesIO(skew.picture(_made(clients, classes, name), "toy")))
    width, height = (pixels / 150 for pixels in image.size)
    most = skew.LARGEST_IN
    assert width <= most[0] + 4.3 and height <= most[1] + 2.3
    assert (width, height) == pytest.approx(
        (min(most[0], 0.42 * classes) + 4.2, min(most[1], 0.42 * clients) + 2.2), abs=0.02
    )


def test_a_class_that_a_client_lacks_is_white_and_more_images_are_darker(tmp_path: Path) -> None:
    # Two clients, three classes of which client-0 has 1, 0, 9 and client-1 has 9, 9, 9 images.
    counts = ([1, 0, 9], [9, 9, 9])

    def owner(i: int) -> Owner:
        labels = np.repeat(np.arange(3), counts[i])
        images = Images((Path("x"),) * len(labels), labels, ("x",) * len(labels), ("a", "b", "c"))
        return Owner(f"client-{i}", images, stratified(labels, np.random.default_rng(0)))

    data = skew.picture(Owners({"client-0": owner(0), "client-1": owner(1)}, {}, ("a", "b", "c")), "toy")
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("L")).astype(int)
    frame = np.flatnonzero((pixels < 40).mean(axis=0) > 0.25)  # the dark lines left and right of the cells
    left, right = frame[0], frame[-1] if len(frame) > 1 else None
    assert right is not None
    rows = np.flatnonzero((pixels[:, left:right] < 40).mean(axis=1) > 0.9)
    top, bottom = rows[0], rows[-1]
    cell_x, cell_y = (right - left) / 3, (bottom - top) / 2
    shade = [pixels[int(top + cell_y * 0.15), int(left + cell_x * (c + 0.15))] for c in range(3)]
    assert shade[1] > 250 and shade[1] > shade[0] > shade[2]


def test_beside_them_is_what_a_client_has_in_each_part() -> None:
    # Of 3 classes of 10 images each 6 train, 2 are for validation and 2 for the test: 18, 6 and 6, one behind another.
    owner = _made(10, 3).clients["client-9"]
    data = skew.picture(Owners({"client-9": owner}, {}, ("a", "b", "c")), "toy")
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    where = [
        np.argwhere((pixels == [int(colour[i : i + 2], 16) for i in (1, 3, 5)]).all(axis=2))
        for colour in skew.PARTS.values()
    ]
    row = int(np.median(where[0][:, 0]))  # a line through the bar; the legend is above
    bars = [np.sort(found[found[:, 0] == row][:, 1]) for found in where]
    assert [len(bar) / len(bars[0]) for bar in bars] == pytest.approx([1, 6 / 18, 6 / 18], abs=0.03)
    assert bars[0][-1] < bars[1][0] and bars[1][-1] < bars[2][0]


# --- by the command line


@pytest.fixture
def file(tmp_path: Path) -> Path:
    paint(tmp_path / "images", per_class=5)
    path = tmp_path / "toy.yaml"
    path.write_text(
        "name: toy\nmethod: {name: fedclip}\nmodel: {backbone: {name: 'tests.toys:ToyBackbone'}}\n"
        "data: {name: folder, params: {root: images}, partition: {name: by_domain}}\n"
    )
    return path


def test_the_command_writes_the_picture_and_says_so(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, name in (((), "toy-data.png"), (("--out", "a.svg"), "a.svg"), (("--out", "a.PDF"), "a.PDF")):
        said = CliRunner().invoke(quorate, ["data", "plot", str(file), *arguments], catch_exceptions=False)
        assert (said.exit_code, said.output) == (0, f"wrote {name}: 3 clients, 3 classes\n")
    assert Path("toy-data.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in Path("a.svg").read_bytes() and Path("a.PDF").read_bytes().startswith(b"%PDF")


def test_a_picture_needs_no_quorum(file: Path, tmp_path: Path) -> None:
    command.plot(file, tmp_path / "x.png", ("rounds={in_flight: 99, quorum: 99, floor: 99}",))
    assert (tmp_path / "x.png").exists()


@pytest.mark.parametrize("out", ["x.gif", "x", "no/such/folder/x.png"])
def test_what_cannot_be_written_is_said_before_anything_is_read(file: Path, tmp_path: Path, out: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot write a picture to .*\.png, \.svg, \.pdf"):
        command.plot(file, tmp_path / out, ("data.params.root=nowhere",))


def test_data_that_lie_with_their_sites_are_not_drawn(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the data lie with clinic, archive"):
        command.plot(file, tmp_path / "x.png", ("data=null", "sites=[clinic, archive]"))


def test_without_matplotlib_it_says_what_to_install(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "orchestrator.skew", raising=False)
    monkeypatch.delattr("orchestrator.skew", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as Python marks what is not there
    for name in ("axes", "axis", "colors", "figure"):
        monkeypatch.setitem(sys.modules, f"matplotlib.{name}", None)
    with pytest.raises(ConfigError, match=r"needs matplotlib.*pip install 'quorate\[report\]'"):
        command.plot(file, tmp_path / "x.png", ())
