"""The one place where image files are opened: from a path to bytes, and from bytes to RGB pixels, the same everywhere.

What a file is, its content says and not its name. Whatever is wrong with it is a DataError that names it. Knows Pillow;
must not know classes, clients or backbones.
"""

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from PIL import Image, UnidentifiedImageError

from infra.files import regular
from schemas.errors import DataError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
"""What is decoded, under whichever of the names. Pillow's other decoders are not asked: some start programs."""

LARGEST = 128 * 2**20
"""Bytes of one file."""

MOST_PIXELS = 89_478_485
"""Of one image: where Pillow begins to warn of a decompression bomb. 268 MB of RGB."""

LARGEST_HEADER = 16 * 2**20
"""Bytes that stand before the pixels, e.g. EXIF, which Pillow joins in quadratic time: a second for so much."""

MOST_IN_HEADER = 4096
"""Reads of the header. An ordinary one takes some dozens; a minute goes by over a hundred megabytes of tiny parts."""

MOST = 2**18
"""Reads of all of a file: so many that a PNG of the largest size may come in parts of 2 kB."""

SLIMMEST = 200
"""Times that an image may be longer than wide. CLIP scales the short side up, so a thread of pixels would explode."""


def read(path: Path) -> bytes:
    """The bytes of an image file. Raises DataError; also for a pipe, of which nobody knows when it says something."""
    with _open(path) as file:
        return file.read()


def peek(path: Path) -> None:
    """See that a file begins like an image. Raises DataError."""
    with _open(path) as file, _image(path, file):
        pass


def decode(path: Path, data: bytes) -> Image.Image:
    """The RGB image in the bytes of a file, 8 bits per channel. Raises DataError naming the file.

    Of an animation the first frame; of 16 bits the upper 8; transparency is dropped, as CLIP's preprocessing does; and
    a rotation that the camera noted (EXIF) is not applied, as there.
    """
    with _image(path, io.BytesIO(data)) as image:
        try:
            return _eight_bits(image).convert("RGB")
        except Exception as e:  # of a decoder at work on anything: whatever it raises means that there is no image
            raise DataError(f"cannot read {path}: {_why(e)}") from None


class _Counted:
    """A file that Pillow may read so often: it parses in Python, part by part, and a file may be nothing but parts."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.parts, self.bytes = file, 0, 0
        self.most, self.largest = MOST_IN_HEADER, LARGEST_HEADER
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        """As a file. Raises OSError, also for one more than allowed."""
        data = self.file.read(size)
        self.parts += 1
        self.bytes += len(data) if size >= 0 else 0  # a decoder that wants all at once parses by itself
        if self.parts > self.most or self.bytes > self.largest:
            raise OSError("too many parts beside its pixels")
        return data

    def is_open(self) -> None:
        """The header is read: what is left are the pixels, and what stands behind them."""
        self.most, self.largest = MOST, LARGEST


@contextmanager
def _image(path: Path, file: BinaryIO) -> Iterator[Image.Image]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a process makes of warnings must not decide what is an image
        try:
            counted = _Counted(file)
            image = Image.open(cast(BinaryIO, counted), formats=FORMATS)
        except UnidentifiedImageError:
            raise DataError(f"cannot read {path}: no image (png, jpeg, webp, bmp, gif)") from None
        except Exception as e:
            raise DataError(f"cannot read {path}: {_why(e)}") from None
        with image:
            counted.is_open()
            _refuse_odd_sizes(path, *image.size)
            yield image


def _refuse_odd_sizes(path: Path, width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise DataError(f"cannot read {path}: {width} x {height} pixels are too many", hint=f"at most {MOST_PIXELS}")
    if max(width, height) > SLIMMEST * min(width, height):
        raise DataError(f"cannot read {path}: {width} x {height} pixels are too slim", hint=f"at most {SLIMMEST} : 1")


def _eight_bits(image: Image.Image) -> Image.Image:
    # Pillow's own way from 16 bits of grey to 8 cuts at 255, so that nearly everything is white.
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    return image


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    try:
        with regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > LARGEST:
                raise DataError(f"cannot read {path}: {size} bytes, at most {LARGEST} are read")
            yield file
    except OSError as e:
        raise DataError(f"cannot read {path}: {e.strerror or e}") from None


def _why(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
