"""The four domains of `shapes`: the same things as a photo, a painting, a cartoon and a pencil sketch.

Each painter takes how to draw the thing and a generator, and returns uint8 (64, 64, 3). Strokes and outlines are in
`strokes`. Must not know class names, seeds or files.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from workers.data import strokes
from workers.data.canvas import (
    Pixels,
    blur,
    bytes_of,
    corners,
    far_colour,
    flat,
    hsv,
    mask,
    noise,
    over,
    rgb,
    shrink,
)
from workers.data.drawing import DETAIL, MAIN, SECOND, Draw, Part, Points, ellipse, place

SIZE = 64
"""Pixels of a finished image, each way."""

TURN, SCALE = 30.0, (0.5, 0.92)
"""Most degrees a thing is turned, and the range of its half-size in half images."""

Rng = np.random.Generator
Painter = Callable[[Draw, Rng], NDArray[np.uint8]]


def photo(draw: Draw, rng: Rng) -> NDArray[np.uint8]:
    """Muted and grainy: a lit, textured thing with a soft shadow before a ground, out of focus to some degree."""
    size = SIZE * 3 // 2
    base = hsv(rng.uniform(0.05, 0.62), rng.uniform(0.1, 0.45), rng.uniform(0.45, 0.9))
    main = far_colour(rng, base, (0.25, 0.7), (0.25, 0.9), 110)
    parts, _ = place(draw(rng), size, rng, turn=TURN, scale=SCALE, warp=0.06)
    cover = mask(size, *(p.points for p in parts))
    image = _ground(rng, size, base) * (1 - 0.6 * _shadow(rng, cover))[:, :, None]
    second = 0.2 * main + 0.8 * hsv(rng.random(), rng.uniform(0.25, 0.7), rng.uniform(0.25, 0.9))
    paints = {MAIN: main, SECOND: second, DETAIL: 0.3 * main + 0.7 * np.full(3, 18.0)}
    light = _light(rng, cover)[:, :, None]
    for part in parts:
        image = over(image, paints[part.role] * light, mask(size, part.points))
    return _exposed(rng, _vignette(rng, _occluded(rng, image)))


def _ground(rng: Rng, size: int, base: Pixels) -> Pixels:
    coarse = int(rng.integers(3, 6))
    patches = 0.65 * noise(rng, coarse, size) + 0.35 * noise(rng, coarse, size, 3)
    image = flat(size, base) + 110 * patches + 45 * noise(rng, int(rng.integers(14, 30)), size)
    image[int(rng.uniform(0.4, 0.75) * size) :] *= rng.uniform(0.6, 0.9)
    return image


def _shadow(rng: Rng, cover: Pixels) -> Pixels:
    size = len(cover)
    across, down = rng.uniform(-0.05, 0.05) * size, rng.uniform(0.02, 0.07) * size
    return blur(np.roll(cover, (round(down), round(across)), (0, 1)), 0.03 * size)


def _light(rng: Rng, cover: Pixels) -> Pixels:
    """How bright each point is: a bulge lit from one side, blotches and grain."""
    size, a = len(cover), rng.uniform(0, 2 * np.pi)
    down, across = np.gradient(blur(cover, 0.06 * size))
    bulge = 1 + 0.22 * size * (np.cos(a) * across + np.sin(a) * down)
    blotches = 0.35 * noise(rng, int(rng.integers(3, 6)), size) + 0.3 * noise(rng, int(rng.integers(20, 40)), size)
    lit: Pixels = np.clip(bulge + blotches[:, :, 0], 0.3, 1.7)
    return lit


def _occluded(rng: Rng, image: Pixels) -> Pixels:
    """In 35 % of images something near and out of focus stands in the way."""
    if rng.random() >= 0.35:
        return image
    size = len(image)
    (x, y), (rx, ry) = rng.uniform(0, size, 2), rng.uniform(0.1, 0.2, 2) * size
    blob = blur(mask(size, ellipse(x, y, rx, ry, turn=rng.uniform(0, 1))), 0.04 * size)
    return over(image, hsv(rng.random(), rng.uniform(0.1, 0.5), rng.uniform(0.2, 0.8)), blob)


def _vignette(rng: Rng, image: Pixels) -> Pixels:
    axis = np.linspace(-1, 1, len(image))
    from_centre = (axis[:, None] ** 2 + axis[None, :] ** 2) / 2
    return image * (1 - rng.uniform(0, 0.6) * from_centre)[:, :, None]


def _exposed(rng: Rng, image: Pixels) -> NDArray[np.uint8]:
    radius = rng.uniform(0.3, 2.2)
    soft = np.stack([255 * blur(np.clip(image[:, :, c], 0, 255) / 255, radius) for c in range(3)], axis=2)
    small = shrink(soft, SIZE) * rng.uniform(0.8, 1.25)
    return bytes_of(small + rng.normal(0, rng.uniform(2, 10), small.shape))


def painting(draw: Draw, rng: Rng) -> NDArray[np.uint8]:
    """Broad then fine brush strokes along a smooth field, coloured from a plain picture of the thing, on canvas."""
    hue = rng.random()
    base = hsv(hue, rng.uniform(0.2, 0.6), rng.uniform(0.35, 0.9))
    main = _other_hue(rng, hue, base)
    second = _other_hue(rng, hue, base)
    image = flat(SIZE, base) + 80 * noise(rng, 4, SIZE, 3)
    parts, _ = place(draw(rng), SIZE, rng, turn=TURN, scale=SCALE, warp=0.10)
    paints = {MAIN: main, SECOND: second, DETAIL: np.full(3, 30.0 if main.sum() > 330 else 225.0)}
    for part in parts:
        loose = part.points + rng.normal(0, 0.008 * SIZE, part.points.shape)
        image = over(image, paints[part.role], mask(SIZE, loose))
    painted = strokes.brush(rng, np.clip(image, 0, 255))
    painted[::3] -= 8
    painted[:, ::3] -= 8
    return bytes_of(painted + rng.normal(0, 4, painted.shape))


def _other_hue(rng: Rng, hue: float, background: Pixels) -> Pixels:
    for _ in range(20):
        away = hue + rng.uniform(0.15, 0.85)
        colour = hsv(away, rng.uniform(0.4, 0.9), rng.uniform(0.3, 0.95))
        if np.abs(colour - background).sum() > 120:
            break
    return colour


def cartoon(draw: Draw, rng: Rng) -> NDArray[np.uint8]:
    """Flat bright colours within thick black outlines, on dots, rays or blobs."""
    size = 3 * SIZE
    base = hsv(rng.random(), rng.uniform(0.25, 0.9), rng.uniform(0.75, 1))
    sheet = Image.new("RGB", (size, size), rgb(base))
    pen, width = ImageDraw.Draw(sheet), round(rng.uniform(0.025, 0.055) * size)
    _scenery(rng, pen, size, base, width)
    bright = [far_colour(rng, base, (0.7, 1.0), (0.7, 1.0), 140) for _ in range(2)]
    detail = np.full(3, 250.0) if rng.random() < 0.6 else strokes.BLACK
    paints = {MAIN: bright[0], SECOND: bright[1], DETAIL: detail}
    parts, _ = place(draw(rng), size, rng, turn=TURN, scale=SCALE, warp=0.16)
    for part in parts:
        strokes.felt(pen, part.points, paints[part.role], width)
    return bytes_of(shrink(np.asarray(sheet, dtype=np.float64), SIZE))


def _scenery(rng: Rng, pen: ImageDraw.ImageDraw, size: int, base: Pixels, width: int) -> None:
    """What is behind a cartoon: dots, rays, outlined blobs, or nothing."""
    colour = far_colour(rng, base, (0.2, 0.9), (0.75, 1.0), 60)
    kind = rng.random()
    if kind < 0.3:
        step, radius = size / rng.integers(5, 10), rng.uniform(0.02, 0.045) * size
        grid = np.arange(0.5, size / step) * step
        for x in grid:
            for y in grid:
                pen.polygon(corners(ellipse(x, y, radius)), fill=rgb(colour))
    elif kind < 0.6:
        for ray in _rays(rng, size):
            pen.polygon(corners(ray), fill=rgb(colour))
    elif kind < 0.8:
        for _ in range(int(rng.integers(2, 5))):
            (x, y), (rx, ry) = rng.uniform(0, size, 2), rng.uniform(0.08, 0.22, 2) * size
            strokes.felt(pen, ellipse(x, y, rx, ry), colour, width)


def _rays(rng: Rng, size: int) -> list[Points]:
    centre, count = rng.uniform(0.2, 0.8, 2) * size, int(rng.integers(8, 14))
    a = rng.uniform(0, 2 * np.pi) + np.pi * np.arange(2 * count) / count
    far = centre + 2 * size * np.stack([np.cos(a), np.sin(a)], axis=1)
    return [np.stack([centre, far[2 * k], far[2 * k + 1]]) for k in range(count)]


def sketch(draw: Draw, rng: Rng) -> NDArray[np.uint8]:
    """Wobbly pencil contours on paper, often hatched; no fill and no hue."""
    size = 3 * SIZE
    paper, ink = rng.uniform(205, 250), rng.uniform(20, 110)
    sheet = np.full((size, size), paper) + rng.normal(0, rng.uniform(3, 12), (size, size))
    parts, _ = place(draw(rng), size, rng, turn=TURN, scale=SCALE, warp=0.08)
    image = _pencil(rng, sheet, parts, ink)
    small = shrink(np.repeat(image[:, :, None], 3, axis=2), SIZE) * [1.0, 0.99, 0.96]
    return bytes_of(small + rng.normal(0, 3, (SIZE, SIZE, 1)))


def _pencil(rng: Rng, sheet: Pixels, parts: list[Part], ink: float) -> Pixels:
    size, image = len(sheet), sheet.copy()
    hatched, angle, spacing = rng.random() < 0.65, rng.uniform(0, np.pi), rng.uniform(0.03, 0.06) * size
    for part in parts:
        inside = mask(size, part.points)
        if part.role != SECOND or rng.random() < 0.5:
            image += inside * (sheet - image)
        if hatched and part.role == MAIN:
            image += inside * strokes.hatching(rng, size, angle, spacing) * (ink - image)
        image += strokes.contour(rng, size, part.points) * (ink - image)
    return image


PAINTERS: dict[str, Painter] = {f.__name__: f for f in (photo, painting, cartoon, sketch)}
"""The four domains, in the order that seeds count."""
