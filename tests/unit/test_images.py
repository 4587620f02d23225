from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from schemas.errors import DataError
from workers.data.features import decode
from workers.data.images import read_folder


def _save(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (9, 9, 9)).save(path)
    return path


def test_order_is_sorted_by_domain_class_and_name(tmp_path: Path) -> None:
    files = ["b/cat/2.png", "b/cat/10.png", "b/ant/x.jpg", "a/cat/1.webp", "a/dog/1.bmp", "a/dog/0.jpeg"]
    for name in files:
        _save(tmp_path / name)
    images = read_folder(tmp_path)
    assert [p.relative_to(tmp_path).as_posix() for p in images.paths] == sorted(files)
    assert images.classes == ("ant", "cat", "dog")
    assert [images.classes[i] for i in images.labels] == ["cat", "dog", "dog", "ant", "cat", "cat"]
    assert images.domains == ("a", "a", "a", "b", "b", "b")
    assert images.labels.dtype == np.int64


def test_the_order_is_that_of_torchvisions_image_folder(tmp_path: Path) -> None:
    # ImageFolder sorts class folders, and files in them, as Python sorts strings: capitals first, 10 before 9.
    for name in ("ant/9.png", "Zebra/b.png", "ant/_.JPG", "Zebra/B.png", "ant/10.png"):
        _save(tmp_path / "d" / name)
    images = read_folder(tmp_path)
    named = [(p.name, int(y)) for p, y in zip(images.paths, images.labels, strict=True)]
    assert named == [("B.png", 0), ("b.png", 0), ("10.png", 1), ("9.png", 1), ("_.JPG", 1)]


def test_hidden_files_and_loose_texts_are_skipped(tmp_path: Path) -> None:
    _save(tmp_path / "a/cat/1.png")
    for name in ("LICENSE", "a/notes.txt", "a/cat/.DS_Store", ".cache/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert len(read_folder(tmp_path)) == 1


@pytest.mark.parametrize(
    ("make", "word"),
    [
        ("a/cat/notes.txt", "cannot read .*notes.txt: no image"),
        ("a/cat/deep/1.png", "cannot read .*deep: a folder"),
        ("a/1.png", "a/1.png lies outside of a class folder"),
        ("1.png", "1.png lies outside of a class folder"),
    ],
)
def test_a_file_that_does_not_belong_is_named(tmp_path: Path, make: str, word: str) -> None:
    _save(tmp_path / "a/cat/1.jpg")
    path = tmp_path / make
    if path.suffix == ".txt":
        path.write_text("x")
    else:
        _save(path)
    with pytest.raises(DataError, match=word):
        read_folder(tmp_path)


@pytest.mark.parametrize("empty", ["", "a", "a/cat"])
def test_an_empty_folder_is_named(tmp_path: Path, empty: str) -> None:
    (tmp_path / empty).mkdir(parents=True, exist_ok=True)
    with pytest.raises(DataError, match="holds no"):
        read_folder(tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read folder .*nowhere: No such file"):
        read_folder(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"cannot read folder .*: Not a directory"):
        read_folder(_save(tmp_path / "x.png"))


def _png(tmp_path: Path) -> bytes:
    return _save(tmp_path / "x.png").read_bytes()


def test_a_broken_image_is_named_whatever_is_broken(tmp_path: Path) -> None:
    whole = _png(tmp_path)
    # The size in the header says 100,000 x 100,000: refused before any pixel is made. (Its checksum covers it.)
    import zlib

    header = b"IHDR" + (100_000).to_bytes(4, "big") * 2 + whole[24:29]
    bomb = whole[:12] + header + zlib.crc32(header).to_bytes(4, "big") + whole[33:]
    broken = {"empty": b"", "text": b"hello", "zeros": bytes(1000), "bomb": bomb, "half": whole[: len(whole) // 2]}
    for name, data in broken.items():
        with pytest.raises(DataError, match=f"cannot read {name}.png: "):
            decode(Path(f"{name}.png"), data)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA", "I;16"])
def test_every_colour_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    Image.new(mode, (5, 3)).save(path)
    assert (decode(path, path.read_bytes()).mode, decode(path, path.read_bytes()).size) == ("RGB", (5, 3))
