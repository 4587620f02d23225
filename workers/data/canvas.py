"""What the painters share: pixels as float arrays, smooth noise, masks, blur, colours and shrinking.

Images are float64 (S, S, 3) in 0..255, masks float64 (S, S) in 0..1. Knows no thing and no style.
"""

import colorsys

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from workers.data.drawing import Points

Pixels = NDArray[np.float64]
"""An image, a mask, a field or a colour (3,)."""


def hsv(hue: float, saturation: float, value: float) -> Pixels:
    """A colour; hue wraps around."""
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value))


def far_colour(
    rng: np.random.Generator,
    background: Pixels,
    saturation: tuple[float, float],
    value: tuple[float, float],
    least: float,
) -> Pixels:
    """A random colour at least so far (sum of channels) from another, or the twentieth try."""
    for _ in range(20):
        colour = hsv(rng.random(), rng.uniform(*saturation), rng.uniform(*value))
        if np.abs(colour - background).sum() > least:
            break
    return colour


def flat(size: int, colour: Pixels) -> Pixels:
    """A canvas of one colour."""
    return np.broadcast_to(colour, (size, size, 3)).copy()


def noise(rng: np.random.Generator, cells: int, size: int, channels: int = 1) -> Pixels:
    """Smooth noise about 0, mostly within +-0.5: a random grid, interpolated. (S, S, channels)."""
    grid = rng.random((channels, cells, cells)).astype(np.float32)
    fields = [Image.fromarray(g).resize((size, size), Image.Resampling.BICUBIC) for g in grid]
    return np.stack([np.asarray(f, dtype=np.float64) for f in fields], axis=2) - 0.5


def mask(size: int, *polygons: Points) -> Pixels:
    """1 inside any of the polygons, else 0."""
    image = Image.new("L", (size, size))
    pen = ImageDraw.Draw(image)
    for points in polygons:
        pen.polygon(corners(points), fill=255)
    return np.asarray(image, dtype=np.float64) / 255


def corners(points: Points) -> list[tuple[float, float]]:
    """The polygon as Pillow wants it."""
    return [(float(x), float(y)) for x, y in points]


def rgb(colour: Pixels) -> tuple[int, int, int]:
    """The colour as Pillow wants it."""
    red, green, blue = bytes_of(colour).tolist()
    return red, green, blue


def blur(field: Pixels, radius: float) -> Pixels:
    """Gaussian blur of a mask, radius in pixels."""
    image = Image.fromarray((255 * field).astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(image, dtype=np.float64) / 255


def over(image: Pixels, colour: Pixels, cover: Pixels) -> Pixels:
    """The image with a colour (or another image) laid over it where the mask is 1."""
    done, inside = image.copy(), cover > 0
    paint = colour[inside] if colour.ndim == 3 else colour
    done[inside] += cover[inside][:, None] * (paint - done[inside])
    return done


def bytes_of(image: Pixels) -> NDArray[np.uint8]:
    """Clipped to 0..255 and rounded down."""
    return np.clip(image, 0, 255).astype(np.uint8)


def shrink(image: Pixels, size: int) -> Pixels:
    """The image at `size`, each pixel the mean of what it covers."""
    small = Image.fromarray(bytes_of(image)).resize((size, size), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float64)
