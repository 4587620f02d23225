import contextlib
import io
import os
import re
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from schemas.errors import DataError
from workers.data.images import read_folder
from workers.data.pixels import LARGEST, LARGEST_HEADER, MOST, MOST_IN_HEADER, decode, read


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


@pytest.mark.parametrize(("one", "other"), [("cat", "Cat"), ("a/ice cream", "b/Ice  Cream"), ("Straße", "strasse")])
def test_classes_that_differ_in_case_or_spaces_only_are_refused(tmp_path: Path, one: str, other: str) -> None:
    for name in (one, other):
        _save(tmp_path / (name if "/" in name else f"d/{name}") / "1.png")
    with pytest.raises(DataError, match=r"differ in case or spaces only .CLIP reads lower case"):
        read_folder(tmp_path)


@pytest.mark.parametrize("name", [b"caf\xe9", b"a\x1b[31m", b"two\nlines", b"\xe2\x80\xaegnp"])
@pytest.mark.parametrize("level", ["domain", "class"])
def test_a_folder_whose_name_cannot_be_shown_is_refused(tmp_path: Path, name: bytes, level: str) -> None:
    folder = os.fsencode(tmp_path) + (b"/" + name + b"/cat" if level == "domain" else b"/d/" + name)
    os.makedirs(folder)
    (tmp_path / "x.png").write_bytes(_bytes())
    os.rename(tmp_path / "x.png", folder + b"/1.png")
    with pytest.raises(DataError, match=r"is no text .rename it") as caught:
        read_folder(tmp_path)
    assert str(caught.value).isprintable() and str(caught.value).encode()


# --- the files


def _bytes(mode: str = "RGB", size: tuple[int, int] = (8, 6), kind: str = "PNG", **how: object) -> bytes:
    out = io.BytesIO()
    Image.effect_noise(size, 60).convert(mode).save(out, kind, **how)  # type: ignore[arg-type]
    return out.getvalue()


def _header(width: int, height: int) -> bytes:
    """A PNG that says so of its size; its checksum covers that. No pixel follows."""
    whole = _bytes()
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + whole[24:29]
    return whole[:12] + header + zlib.crc32(header).to_bytes(4, "big") + whole[33:]


UNREADABLE = {
    "empty": b"",
    "text": b"hello",
    "zeros": bytes(1000),
    "half": _bytes()[:60],
    "half a jpeg": _bytes(size=(64, 64), kind="JPEG")[:700],
    "half a webp": _bytes(size=(64, 64), kind="WEBP")[:200],
    "damaged": _bytes()[:50] + b"\0\0\0\0" + _bytes()[54:],
    "bomb": _header(100_000, 100_000),
    "20,000 px": _header(20_000, 20_000),
    "too slim": _header(20_000, 1),
    "no size": _header(0, 0),
    "tiff": _bytes(kind="TIFF"),
    "script": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
}


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.filterwarnings("default")
def test_an_unreadable_file_is_named_or_with_skip_left_out_and_counted(tmp_path: Path, name: str) -> None:
    _save(tmp_path / "a/cat/1.png")
    bad = tmp_path / "a/cat" / f"{name}.png"
    bad.write_bytes(UNREADABLE[name])
    with pytest.raises(DataError, match=re.escape(f"cannot read {bad}: ")) as caught:
        decode(bad, read(bad))
    assert "\n" not in str(caught.value)
    images = read_folder(tmp_path, "skip")
    assert (len(images), images.skipped, images.classes) == (1, (bad,), ("cat",))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def _with(whole: bytes, part: bytes, times: int, place: int | None = None) -> bytes:
    """An image with a part so often at one place, or behind what must be at its beginning."""
    first = {b"\x89P": 33, b"\xff\xd8": 2, b"GI": 13 + 3 * 2 ** ((whole[10] & 7) + 1)}
    place = first[whole[:2]] if place is None else place
    return whole[:place] + part * times + whole[place:]


def _segment(marker: int, begins: bytes, size: int = 65_533) -> bytes:
    return bytes([0xFF, marker]) + (size + 2).to_bytes(2, "big") + begins.ljust(size, b"\0")


PARTS: dict[str, tuple[str, bytes, int, int | None]] = {
    "exif in pieces": ("JPEG", _segment(0xE1, b"Exif\0\0"), LARGEST_HEADER // 65_533 + 1, None),
    "tiny exif": ("JPEG", _segment(0xE1, b"Exif\0\0a", 7), MOST_IN_HEADER, None),
    "empty segments": ("JPEG", _segment(0xE9, b"", 0), MOST_IN_HEADER, None),
    "fill bytes": ("JPEG", b"\xff", MOST_IN_HEADER, None),
    "chunks before the pixels": ("PNG", _chunk(b"prVt", b""), MOST_IN_HEADER, None),
    "chunks behind the pixels": ("PNG", _chunk(b"prVt", b""), MOST // 2, -12),
    "pixels in empty chunks": ("PNG", _chunk(b"IDAT", b""), MOST // 2, None),
    "comments": ("GIF", b"\x21\xfe\x01a\0", MOST_IN_HEADER, None),
}
"""What stands where in which image, and how often."""


@pytest.mark.parametrize("what", PARTS)
def test_an_image_of_nothing_but_parts_is_given_up_before_they_are_read(tmp_path: Path, what: str) -> None:
    bad = _save(tmp_path / "a/cat/1.png")
    kind, part, times, place = PARTS[what]
    bad.write_bytes(_with(_bytes(kind=kind), part, times, place))
    assert bad.stat().st_size < LARGEST / 4
    with pytest.raises(DataError, match="too many parts beside its pixels"):
        decode(bad, read(bad))


@pytest.mark.parametrize(
    ("kind", "part", "times"),
    [
        ("JPEG", _segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\0"), 1),
        ("JPEG", _segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0"), 120),  # a depth map of 8 MB
        ("JPEG", _segment(0xE2, b"ICC_PROFILE\0\1\1"), 255),  # the longest profile there can be
        ("PNG", _chunk(b"tEXt", b"Comment\0words"), 1000),
    ],
)
def test_an_image_may_have_much_beside_its_pixels(kind: str, part: bytes, times: int) -> None:
    whole = _bytes(kind=kind)
    assert decode(Path("x"), _with(whole, part, times)).tobytes() == decode(Path("x"), whole).tobytes()


def test_what_is_an_image_does_not_depend_on_the_process_warnings(tmp_path: Path) -> None:
    large = _header(10_000, 9_000)  # 90 million: Pillow only warns
    for action in ("ignore", "error"):
        with warnings.catch_warnings():
            warnings.simplefilter(action)  # type: ignore[arg-type]
            with pytest.raises(DataError, match="10000 x 9000 pixels are too many"):
                decode(Path("x.png"), large)


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def _folder(path: Path) -> None:
    path.mkdir()


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.write(_bytes())
        file.truncate(LARGEST + 1)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_pipe, "no regular file"),
        (_loop, "symbolic links"),
        (_dangling, "No such file"),
        (_folder, "Is a directory"),
        (_huge, "bytes, at most"),
    ],
)
def test_what_is_no_file_to_read_never_hangs(tmp_path: Path, make: Callable[[Path], None], says: str) -> None:
    _save(tmp_path / "a/cat/1.png")
    bad = tmp_path / "a/cat/2.png"
    make(bad)
    with pytest.raises(DataError, match=f"cannot read {bad}: .*{says}"):
        read_folder(tmp_path)
    assert read_folder(tmp_path, "skip").skipped == (bad,)


@contextlib.contextmanager
def _as_nobody() -> Iterator[None]:
    """Root may read everything, and tests may run as root: here it is somebody else."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_file_that_one_may_not_read_is_named_or_left_out() -> None:
    with tempfile.TemporaryDirectory() as folder:  # one that anybody may enter, whatever the umask
        root = Path(folder)
        _save(root / "a/cat/1.png").chmod(0o644)
        for entered in (root, root / "a", root / "a/cat"):
            entered.chmod(0o755)
        closed = _save(root / "a/cat/2.png")
        closed.chmod(0)
        with _as_nobody():
            with pytest.raises(DataError, match=f"cannot read {closed}: Permission denied"):
                read_folder(root)
            assert read_folder(root, "skip").skipped == (closed,)
        (root / "a/cat").chmod(0)
        with _as_nobody(), pytest.raises(DataError, match=f"cannot read folder {root / 'a/cat'}: Permission denied"):
            read_folder(root, "skip")
        (root / "a/cat").chmod(0o755)
        (root / "b").symlink_to(root / ".locked/b")  # a domain that lies where one may not look
        (root / ".locked/b").mkdir(parents=True)
        (root / ".locked").chmod(0)
        with _as_nobody(), pytest.raises(DataError, match=f"cannot read {root / 'b'}: Permission denied"):
            read_folder(root, "skip")
        (root / ".locked").chmod(0o755)


def test_skip_leaves_out_files_and_not_whole_folders(tmp_path: Path) -> None:
    _save(tmp_path / "a/cat/1.png")
    (tmp_path / "a/cat/Thumbs.db").write_bytes(b"x")
    (tmp_path / "a/dog").mkdir()
    (tmp_path / "a/dog/1.png").write_bytes(b"")
    images = read_folder(tmp_path, "skip")
    assert [p.name for p in images.skipped] == ["Thumbs.db", "1.png"] and images.classes == ("cat",)
    _save(tmp_path / "a/cat/deep/1.png")
    with pytest.raises(DataError, match=r"cannot read .*deep: a folder"):
        read_folder(tmp_path, "skip")


def test_skip_does_not_mean_to_go_on_without_images(tmp_path: Path) -> None:
    (tmp_path / "a/cat").mkdir(parents=True)
    (tmp_path / "a/cat/1.png").write_bytes(b"")
    with pytest.raises(DataError, match="none of 1 files can be read as an image"):
        read_folder(tmp_path, "skip")


def test_a_folder_that_leads_back_to_itself_ends(tmp_path: Path) -> None:
    _save(tmp_path / "a/cat/1.png")
    (tmp_path / "a/cat/again").symlink_to(tmp_path / "a")
    with pytest.raises(DataError, match=r"cannot read .*again: a folder"):
        read_folder(tmp_path)


# --- the pixels


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA", "I;16"])
def test_every_colour_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    Image.new(mode, (5, 3)).save(path)
    assert (decode(path, path.read_bytes()).mode, decode(path, path.read_bytes()).size) == ("RGB", (5, 3))


def _pixels(data: bytes) -> list[tuple[int, ...]]:
    image = decode(Path("x"), data)
    return [image.getpixel((x, 0)) for x in range(image.width)]  # type: ignore[misc]


def _saved(image: Image.Image, kind: str = "PNG", **how: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **how)
    return out.getvalue()


def test_of_sixteen_bits_of_grey_the_upper_eight_stay() -> None:
    row = np.array([[0, 255, 256, 30_000, 65_535]], dtype=np.uint16)
    grey = [value >> 8 for value in row[0].tolist()]
    assert grey == [0, 0, 1, 117, 255]
    assert _pixels(_saved(Image.fromarray(row))) == [(g, g, g) for g in grey]


def test_of_an_animation_the_first_picture_counts() -> None:
    first, second = Image.new("RGB", (1, 1), (10, 20, 30)), Image.new("RGB", (1, 1), (200, 200, 200))
    for kind, how in (("PNG", {}), ("GIF", {}), ("WEBP", {"lossless": True})):
        data = _saved(first, kind, save_all=True, append_images=[second], **how)
        assert _pixels(data) == [(10, 20, 30)], kind


def test_transparency_is_dropped_and_the_colour_below_it_stays() -> None:
    assert _pixels(_saved(Image.new("RGBA", (1, 1), (10, 20, 30, 0)))) == [(10, 20, 30)]
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.putpixel((1, 0), 1)
    for transparency in (0, b"\x00\x80"):
        assert _pixels(_saved(palette, transparency=transparency)) == [(255, 0, 0), (0, 255, 0)]


def test_inks_become_light() -> None:
    # Cyan takes all red, magenta all green, yellow all blue, black all of them; JPEG may be off by one.
    for inks, light in (((255, 0, 0, 0), (0, 255, 255)), ((0, 0, 255, 0), (255, 255, 0)), ((0, 0, 0, 255), (0, 0, 0))):
        (pixel,) = _pixels(_saved(Image.new("CMYK", (1, 1), inks), "JPEG", quality=100))
        assert pixel == pytest.approx(light, abs=2)


def test_a_rotation_that_the_camera_noted_is_not_applied() -> None:
    turned = Image.Exif()
    turned[274] = 6  # orientation: to be shown turned by 90 degrees
    data = _saved(Image.new("RGB", (4, 2)), "JPEG", exif=turned)
    assert decode(Path("x.jpg"), data).size == (4, 2)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
def test_what_a_file_is_its_content_says_and_not_its_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a/cat/1.jpg"
    path.parent.mkdir(parents=True)
    path.write_bytes(_bytes(kind=kind))
    assert len(read_folder(tmp_path)) == len(read_folder(tmp_path, "skip")) == 1


WHOLE = {kind: _bytes(size=(16, 12), kind=kind) for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF")}


@settings(deadline=None, suppress_health_check=(HealthCheck.too_slow,), max_examples=300)
@given(st.sampled_from(sorted(WHOLE)), st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=4),
       st.integers(0, 2000))  # fmt: skip
def test_whatever_is_damaged_there_are_pixels_or_a_reason(kind: str, damage: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(WHOLE[kind])
    for at, value in damage:
        data[at % len(data)] = value
    try:
        assert decode(Path("x.png"), bytes(data[: len(data) - cut % 50])).mode == "RGB"
    except DataError as e:
        assert str(e).startswith("cannot read x.png: ") and "\n" not in str(e)
