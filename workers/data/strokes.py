"""Lines: the strokes of a brush, of a felt pen and of a pencil.

Takes polygons and pixels and returns pixels or masks. Knows no style as a whole.
"""

import numpy as np
from PIL import Image, ImageDraw

from workers.data.canvas import Pixels, corners, noise, rgb, shrink
from workers.data.drawing import Points

BLACK = np.full(3, 10.0)
"""The felt pen."""

BROAD, FINE = (200, (5.0, 8.0), (2.5, 4.0)), (700, (2.0, 4.0), (1.2, 2.0))
"""How many brush strokes, their lengths and their widths in pixels of the finished image."""

Rng = np.random.Generator


def brush(rng: Rng, picture: Pixels) -> Pixels:
    """The picture (S, S, 3) painted over with broad, then fine strokes in its own colours."""
    size = len(picture)
    sheet = Image.fromarray(picture.astype(np.uint8)).resize((2 * size, 2 * size))
    pen = ImageDraw.Draw(sheet)
    field = noise(rng, 4, size)[:, :, 0] * 2 * np.pi * rng.uniform(0.5, 1.2)
    for count, lengths, widths in (BROAD, FINE):
        at = rng.uniform(0, size, (count, 2))
        seen = np.clip(at + rng.normal(0, 0.5, (count, 2)), 0, size - 1).astype(np.int64)
        tint = rng.normal(0, 12, (count, 3)) + rng.normal(0, 14, (count, 1))
        colours = np.clip(picture[seen[:, 1], seen[:, 0]] + tint, 0, 255).astype(np.int64)
        angle = field[seen[:, 1], seen[:, 0]]
        half = rng.uniform(*lengths, count)[:, None] / 2 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        ends = 2 * np.concatenate([at - half, at + half], axis=1)
        width = np.round(2 * rng.uniform(*widths, count)).astype(np.int64)
        for line, colour, wide in zip(ends.tolist(), colours.tolist(), width.tolist(), strict=True):
            pen.line(line, fill=tuple(colour), width=wide)
    return shrink(np.asarray(sheet, dtype=np.float64), size)


def felt(pen: ImageDraw.ImageDraw, points: Points, colour: Pixels, width: int) -> None:
    """The polygon filled with a colour, within a black line with round joints."""
    loop = corners(points)
    pen.polygon(loop, fill=rgb(colour))
    pen.line([*loop, *loop[:2]], fill=rgb(BLACK), width=width, joint="curve")


def contour(rng: Rng, size: int, points: Points) -> Pixels:
    """The polygon drawn one to three times by an unsteady hand with gaps: a mask."""
    sheet = Image.new("L", (size, size))
    pen = ImageDraw.Draw(sheet)
    path = _resampled(points, 0.03 * size)
    for _ in range(int(rng.integers(1, 4))):
        drift = np.cumsum(rng.normal(0, 0.002 * size, path.shape), axis=0)
        drift -= np.linspace(0, 1, len(path))[:, None] * drift[-1]  # so that the ends meet
        line = path + drift + rng.normal(0, 0.004 * size, 2)
        width, drawn = int(rng.integers(2, 5)), rng.random(len(path)) >= 0.04
        for k in np.flatnonzero(drawn):
            (x, y), (u, v) = line[k], line[(k + 1) % len(line)]
            pen.line([float(x), float(y), float(u), float(v)], fill=255, width=width)
    return np.asarray(sheet, dtype=np.float64) / 255


def hatching(rng: Rng, size: int, angle: float, spacing: float) -> Pixels:
    """Parallel pencil lines over the whole sheet, some missing: a mask."""
    sheet = Image.new("L", (size, size))
    pen = ImageDraw.Draw(sheet)
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    for offset in np.arange(-size, size, spacing):
        if rng.random() < 0.15:
            continue
        middle = size / 2 + across * (offset + rng.normal(0, 0.1 * spacing))
        ends = np.concatenate([middle - size * along, middle + size * along])
        pen.line(ends.tolist(), fill=190, width=1)
    return np.asarray(sheet, dtype=np.float64) / 255


def _resampled(points: Points, step: float) -> Points:
    """Points about `step` apart along the closed polygon."""
    loop = np.concatenate([points, points[:1]])
    far = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(loop, axis=0), axis=1))])
    at = np.linspace(0, far[-1], max(4, int(far[-1] / step)), endpoint=False)
    return np.stack([np.interp(at, far, loop[:, 0]), np.interp(at, far, loop[:, 1])], axis=1)
