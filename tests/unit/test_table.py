import os
import random
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from schemas.base import Choice
from schemas.errors import DataError
from schemas.experiment import Data
from tests.toys import paint, table
from workers.data.images import read_folder
from workers.data.owners import Owners, read_owners
from workers.data.pixels import LARGEST
from workers.data.table import DOMAIN, read_table


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images and nothing else: `a/1.png` to `a/3.png`."""
    folder = tmp_path_factory.mktemp("listed")
    (folder / "a").mkdir()
    for i in (1, 2, 3):
        Image.new("RGB", (4, 4), (9 * i, 9, 9)).save(folder / "a" / f"{i}.png")
    return folder


def _file(root: Path, content: str | bytes) -> Path:
    path = root / "images.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_table_of_a_folder_gives_what_the_folder_gives_in_whatever_order_its_rows_are(tmp_path: Path) -> None:
    whole = read_folder(paint(tmp_path / "i", per_class=3))
    file = table(tmp_path / "i")
    header, *rows = file.read_text().splitlines(keepends=True)
    for seed in range(3):
        random.Random(seed).shuffle(rows)
        file.write_text(header + "".join(rows))
        images = read_table(file)
        assert (images.paths, images.domains, images.classes) == (whole.paths, whole.domains, whole.classes)
        assert images.labels.tolist() == whole.labels.tolist() and images.clients == images.parts == ()


def test_two_columns_are_enough_and_their_order_is_free(root: Path) -> None:
    images = read_table(_file(root, "label,path\ncat,a/1.png\nant,a/2.png\n"))
    assert [p.name for p in images.paths] == ["2.png", "1.png"]  # by class, then by path
    assert (images.classes, images.domains) == (("ant", "cat"), (DOMAIN, DOMAIN))


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffpath,label\na/1.png,cat\na/2.png,ant\n",  # as spreadsheets begin a file
        "path,label\r\na/1.png,cat\r\na/2.png,ant\r\n",
        'path , label\n"a/1.png", cat\n\n a/2.png ,ant\n',
        "path,label\n./a/../a/1.png,cat\nHERE/a/2.png,ant\n",
    ],
    ids=["mark", "crlf", "spaces", "paths"],
)
def test_what_other_programs_write_is_understood(root: Path, text: str) -> None:
    images = read_table(_file(root, text.replace("HERE", str(root))))
    assert [p.relative_to(root).as_posix() for p in images.paths] == ["a/2.png", "a/1.png"]


WRONG = {
    "path,label\na/1.png,cat\na/2.png\n": "row 3: 1 cells for 2 columns",
    "path,label\na/1.png,cat,dog\n": "row 2: 3 cells for 2 columns",
    "path,label\n\na/1.png,\n": "row 3: no label",
    "path,label\n,cat\n": "row 2: no path",
    "path,lable\na/1.png,cat\n": "row 1: unknown column 'lable' (did you mean 'label'?)",
    "path;label\na/1.png;cat\n": "row 1: unknown column 'path;label'",
    "path,label,path\na/1.png,cat,a/1.png\n": "row 1: column 'path' is there twice",
    "path,domain\na/1.png,cat\n": "row 1: no column 'label'",
    "": "row 1: no column 'path'",
    "path,label\n": "lists no image",
    "path,label\na/1.png,cat\na/9.png,cat\n": "row 3: cannot read ROOT/a/9.png: No such file",
    "path,label\na,cat\n": "row 2: cannot read ROOT/a: no image",
    "path,label\na/1.png,cat\na/2.png,ant\na/./1.png,ant\n": "row 4: ROOT/a/1.png is listed twice",
    "path,label\na/1.png,cat\na/2.png,Cat\n": "classes 'Cat' and 'cat' differ in case",
    "path,label,client\na/1.png,cat,St. Mary\n": "row 2: client 'St. Mary' is not the name of a client",
    "path,label,split\na/1.png,cat,Train\n": "row 2: split 'Train' is not one of train, val, test",
    "path,label,domain\na/1.png,cat,\u202eevil\n": "row 2: domain ",
    'path,label\n"a/1.png,cat\na/2.png,ant\n': "row 3: this is not CSV",
    'path,label\n"a/1.png"x,cat\n': "row 2: this is not CSV",
    "path,label\na/1.png," + 200_000 * "x" + "\n": "row 2: this is not CSV: field larger",
    "path,label\na/1.png," + 300 * "x" + "\n": "row 2: label 'xxx",
    "path,label\n" + 300 * "x" + ".png,cat\n": "row 2: path 'xxx",
    "path,label\na/1.png,cat\na/2.png,an": "row 3 has no end of line (is the file whole?)",
    "path,label\na/1.png,c\0at\n": "row 2: a zero byte is no text",
}


@pytest.mark.parametrize("text", WRONG, ids=lambda text: repr(text[:40]))
def test_what_is_wrong_is_one_line_with_the_row(root: Path, text: str) -> None:
    file = _file(root, text)
    with pytest.raises(DataError) as caught:
        read_table(file)
    assert WRONG[text].replace("ROOT", str(root)) in str(caught.value)
    assert str(file) in str(caught.value) or "differ in case" in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_bytes_that_are_no_text_are_refused_with_the_row(root: Path) -> None:
    picture = (root / "a" / "1.png").read_bytes()
    for data, row in ((picture, 1), ("path,label\na/1.png,Käse\n".encode("latin-1"), 2)):
        with pytest.raises(DataError, match=rf"images.csv: row {row}: not UTF-8 text"):
            read_table(_file(root, data))


def test_a_file_that_is_missing_a_pipe_or_huge_is_refused_unread(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(LARGEST + 1)
    for name, why in (("nowhere", "No such file"), ("pipe", "no regular file"), ("huge", "bytes, at most"), (".", "")):
        with pytest.raises(DataError, match=f"cannot read {re.escape(str(tmp_path / name))}: .*{why}"):
            read_table(tmp_path / name)


def test_skip_leaves_out_files_and_never_rows_that_are_wrong(root: Path) -> None:
    text = "path,label\na/1.png,cat\na/9.png,dog\n"
    images = read_table(_file(root, text), "skip")
    assert (len(images), images.skipped, images.classes) == (1, (root / "a/9.png",), ("cat",))
    with pytest.raises(DataError, match="row 4: no label"):
        read_table(_file(root, f"{text}a/2.png,\n"), "skip")
    with pytest.raises(DataError, match="none of 1 files can be read"):
        read_table(_file(root, "path,label\na/9.png,dog\n"), "skip")


@settings(deadline=None, suppress_health_check=(HealthCheck.function_scoped_fixture,), max_examples=200)
@given(data=st.binary(max_size=200) | st.text(max_size=100).map(lambda t: f"path,label,split\n{t}".encode()))
def test_whatever_the_bytes_are_there_is_a_reason_of_one_line(root: Path, data: bytes) -> None:
    with pytest.raises(DataError) as caught:
        read_table(_file(root, data))
    assert "\n" not in str(caught.value)


# --- the owner decides what is whose, and what it is for


def _owners(file: Path, **changes: object) -> Owners:
    data = Data.model_validate({"name": "csv", "params": {"file": file}, **changes})
    return read_owners(data, seed=0, cache=file.parent)


def test_the_column_client_says_whose_an_image_is(tmp_path: Path) -> None:
    # 3 domains of 3 classes of 4 images; every third image is of one and the same owner, whatever it shows.
    file = table(paint(tmp_path / "i", per_class=4), client=lambda i: f"owner-{i % 3}")
    owners = _owners(file)
    whole = read_folder(tmp_path / "i").paths
    assert {k: o.images.paths for k, o in owners.clients.items()} == {f"owner-{k}": whole[k::3] for k in range(3)}
    with pytest.raises(DataError, match="say whose each image is, so partition by_domain has nothing to give"):
        _owners(file, partition=Choice(name="by_domain"))


def test_a_held_out_domain_is_taken_from_every_client(tmp_path: Path) -> None:
    file = table(paint(tmp_path / "i", per_class=4), client=lambda i: "one" if i < 12 else "two")  # flat; the others
    owners = _owners(file, hold_out=("flat",))
    assert (list(owners.clients), list(owners.held_out)) == (["two"], ["flat"])
    assert owners.clients["two"].domains == ("noisy", "striped")


def test_the_column_split_says_what_an_image_is_for(tmp_path: Path) -> None:
    kinds = ("train", "val", "test", "test")
    file = table(paint(tmp_path / "i", per_class=4), split=lambda i: kinds[i % 4])
    parts = _owners(file, hold_out=("flat",)).clients["client-0"].parts
    assert parts.train.tolist() == list(range(0, 24, 4)) and parts.val.tolist() == list(range(1, 24, 4))
    assert sorted([*parts.train, *parts.val, *parts.test]) == list(range(24))
    held = _owners(file, hold_out=("flat",)).held_out["flat"].parts
    assert (len(held.train), len(held.val), len(held.test)) == (0, 0, 12)


def test_split_goes_with_a_partition_and_client_with_the_stratified_split(tmp_path: Path) -> None:
    root = paint(tmp_path / "i", per_class=5)
    split = _owners(table(root, split=lambda i: "train"), partition=Choice(name="iid", params={"clients": 3}))
    assert [len(o.parts.train) for o in split.clients.values()] == [15, 15, 15]
    whose = _owners(table(root, client=lambda i: "one")).clients["one"].parts
    assert (len(whose.train), len(whose.val), len(whose.test)) == (27, 9, 9)  # 45 images 60/20/20


def test_at_a_site_the_clients_of_a_table_bear_its_name(tmp_path: Path) -> None:
    file = table(paint(tmp_path / "i", per_class=1), client=lambda i: f"ward-{i % 2}")
    data = Data.model_validate({"name": "csv", "params": {"file": file}})
    assert list(read_owners(data, seed=0, cache=tmp_path, site="north").clients) == ["north.ward-0", "north.ward-1"]
