"""What the drawn images show: twelve things as polygons, every draw with other proportions, and where they are put.

Coordinates are in [-1, 1] with y downwards until `place` turns them into pixels. Knows no colour, no style, no file.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
"""A closed polygon, (N, 2), x and y."""

MAIN, SECOND, DETAIL = 0, 1, 2
"""Roles of a part: what a style colours alike."""


@dataclass(frozen=True)
class Part:
    """One polygon of a thing, drawn over those before it."""

    points: Points
    role: int = MAIN


Draw = Callable[[np.random.Generator], list[Part]]
"""Draws one thing, with its own proportions each time."""


def polygon(*corners: tuple[float, float]) -> Points:
    """The corners as an array."""
    return np.array(corners, dtype=np.float64)


def box(left: float, top: float, right: float, bottom: float) -> Points:
    """An upright rectangle."""
    return polygon((left, top), (right, top), (right, bottom), (left, bottom))


def ellipse(
    x: float, y: float, rx: float, ry: float | None = None, *, start: float = 0.0, stop: float = 2.0, turn: float = 0.0
) -> Points:
    """An ellipse about (x, y), or its arc from `start` to `stop`, turned by `turn`; angles in units of pi."""
    a = np.pi * np.linspace(start, stop, 28)
    c, s = np.cos(np.pi * turn), np.sin(np.pi * turn)
    u, v = rx * np.cos(a), (rx if ry is None else ry) * np.sin(a)
    return np.stack([x + c * u - s * v, y + s * u + c * v], axis=1)


def band(x: float, y: float, radius: float, width: float, *, start: float, stop: float) -> Points:
    """A bent strip: the arc of a ring, angles in units of pi."""
    outer = ellipse(x, y, radius, start=start, stop=stop)
    return np.concatenate([outer, ellipse(x, y, radius - width, start=stop, stop=start)])


def house(rng: np.random.Generator) -> list[Part]:
    """Body, roof, door; sometimes a chimney and a window."""
    half, top = rng.uniform(0.5, 0.75), rng.uniform(0, 0.2) - 0.25
    over, apex, tip = rng.uniform(0.03, 0.2), rng.uniform(-0.85, -0.5), rng.uniform(-0.25, 0.25)
    parts = []
    if rng.random() < 0.4:
        side = half * rng.choice([-0.6, 0.45])
        parts.append(Part(box(side, apex - 0.05, side + 0.16, top), SECOND))
    parts.append(Part(box(-half, top, half, 0.8)))
    parts.append(Part(polygon((-half - over, top), (tip, apex), (half + over, top)), SECOND))
    door = rng.uniform(-half + 0.05, half - 0.33)
    parts.append(Part(box(door, rng.uniform(0.2, 0.35), door + 0.28, 0.8), DETAIL))
    if rng.random() < 0.6:
        left = door + 0.4 if door < -0.1 else door - 0.35
        parts.append(Part(box(left, 0.08, left + 0.22, 0.32), DETAIL))
    return parts


def tree(rng: np.random.Generator) -> list[Part]:
    """A trunk, and a crown of stacked triangles or of round lobes."""
    half = rng.uniform(0.07, 0.15)
    parts = [Part(box(-half, 0.0, half, 0.92), SECOND)]
    if rng.random() < 0.5:
        count, width = int(rng.integers(1, 4)), rng.uniform(0.5, 0.75)
        height = 1.5 / (1 + 0.55 * (count - 1))
        for k in range(count):
            base = 0.5 - 0.55 * height * k
            wide = width * 0.78**k
            parts.append(Part(polygon((-wide, base), (0.0, base - height), (wide, base))))
        return parts
    radius = rng.uniform(0.5, 0.65)
    parts.append(Part(ellipse(0.0, -0.3, radius)))
    for _ in range(int(rng.integers(0, 4))):
        a = rng.uniform(-1.1, 0.1) * np.pi
        parts.append(Part(ellipse(0.45 * np.cos(a), -0.3 + 0.45 * np.sin(a), rng.uniform(0.25, 0.38))))
    return parts


def fish(rng: np.random.Generator) -> list[Part]:
    """An oval body with a notched tail, a fin and an eye."""
    rx, ry, tail = rng.uniform(0.55, 0.7), rng.uniform(0.28, 0.5), rng.uniform(0.28, 0.45)
    return [
        Part(polygon((rx - 0.25, 0.0), (0.95, -tail), (0.8, 0.0), (0.95, tail)), SECOND),
        Part(polygon((-0.3, -0.8 * ry), (0.05, -ry - rng.uniform(0.15, 0.3)), (0.25, -0.8 * ry)), SECOND),
        Part(ellipse(-0.1, 0.0, rx, ry)),
        Part(ellipse(-0.1 - 0.6 * rx, -0.2 * ry, 0.07), DETAIL),
    ]


def star(rng: np.random.Generator) -> list[Part]:
    """Five points, slim or fat."""
    inner = 0.95 * rng.uniform(0.36, 0.52)
    a = np.pi * (np.arange(10) / 5 - 0.5)
    r = np.where(np.arange(10) % 2 == 0, 0.95, inner)
    return [Part(np.stack([r * np.cos(a), r * np.sin(a)], axis=1))]


def heart(rng: np.random.Generator) -> list[Part]:
    """The curve x = sin^3 t, y = cosines of t to 4t."""
    t = np.linspace(0, 2 * np.pi, 48)
    x = 16 * np.sin(t) ** 3 / 17
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 17
    return [Part(np.stack([x * rng.uniform(0.85, 1.1), y * rng.uniform(0.85, 1.1)], axis=1))]


def boat(rng: np.random.Generator) -> list[Part]:
    """A hull, a mast and one or two sails."""
    half, high = rng.uniform(0.65, 0.9), rng.uniform(0.3, 0.45)
    deck, tip = 0.8 - high, rng.uniform(-0.95, -0.75)
    parts = [Part(polygon((-half, deck), (half, deck), (0.65 * half, 0.8), (-0.65 * half, 0.8)))]
    parts.append(Part(box(-0.04, tip, 0.04, deck), DETAIL))
    parts.append(Part(polygon((0.08, tip + 0.08), (rng.uniform(0.45, 0.75), deck - 0.1), (0.08, deck - 0.1)), SECOND))
    if rng.random() < 0.6:
        far = -rng.uniform(0.3, 0.6)
        parts.append(Part(polygon((-0.08, tip + 0.25), (far, deck - 0.1), (-0.08, deck - 0.1)), SECOND))
    return parts


def flower(rng: np.random.Generator) -> list[Part]:
    """Petals about a round centre, often on a stem, sometimes with a leaf."""
    count, stem = int(rng.integers(5, 9)), rng.random() < 0.6
    y, size = (-0.35, 0.6) if stem else (0.0, 0.95)
    parts = []
    if stem:
        parts.append(Part(box(-0.045, y, 0.045, 0.95), DETAIL))
        if rng.random() < 0.6:
            parts.append(Part(ellipse(0.22, 0.5, 0.22, 0.09, turn=-0.15), DETAIL))
    turn = rng.uniform(0, 2)
    for k in range(count):
        a = turn + 2 * k / count
        x, dy = 0.62 * size * np.cos(np.pi * a), 0.62 * size * np.sin(np.pi * a)
        parts.append(Part(ellipse(x, y + dy, 0.38 * size, size * min(0.3, 1.5 / count), turn=a)))
    parts.append(Part(ellipse(0.0, y, size * rng.uniform(0.25, 0.36)), SECOND))
    return parts


def mushroom(rng: np.random.Generator) -> list[Part]:
    """A domed cap with spots on a stem."""
    rx, ry, half = rng.uniform(0.6, 0.9), rng.uniform(0.6, 0.95), rng.uniform(0.15, 0.27)
    parts = [Part(polygon((-half, 0.05), (half, 0.05), (1.2 * half, 0.85), (-1.2 * half, 0.85)), SECOND)]
    parts.append(Part(ellipse(0.0, 0.1, rx, ry, start=1.0, stop=2.0)))
    for k in range(int(rng.integers(0, 4))):
        x = (k - 1) * 0.5 * rx + rng.uniform(-0.08, 0.08)
        parts.append(Part(ellipse(x, 0.1 - ry * rng.uniform(0.25, 0.6), 0.1), DETAIL))
    return parts


def cup(rng: np.random.Generator) -> list[Part]:
    """A tapering body with a handle and a rim."""
    half, foot, radius = rng.uniform(0.4, 0.55), rng.uniform(0.65, 1.0), rng.uniform(0.28, 0.38)
    top, bottom = -rng.uniform(0.45, 0.65), rng.uniform(0.55, 0.75)
    x = -0.15
    return [
        Part(band(x + half * 0.93, (top + bottom) / 2 - 0.05, radius, 0.12, start=-0.5, stop=0.5)),
        Part(polygon((x - half, top), (x + half, top), (x + half * foot, bottom), (x - half * foot, bottom))),
        Part(ellipse(x, top, half, 0.13), SECOND),
    ]


def umbrella(rng: np.random.Generator) -> list[Part]:
    """A dome with a scalloped edge on a shaft with a hook."""
    rx, ry, count = rng.uniform(0.75, 0.95), rng.uniform(0.6, 0.85), int(rng.integers(3, 5))
    edge = [ellipse(rx - rx * (2 * k + 1) / count, 0.0, rx / count, 0.16, start=0.0, stop=-1.0) for k in range(count)]
    dome = np.concatenate([ellipse(0.0, 0.0, rx, ry, start=1.0, stop=2.0), *edge])
    return [
        Part(box(-0.04, -0.3, 0.04, 0.72), SECOND),
        Part(band(-0.14, 0.72, 0.18, 0.08, start=0.0, stop=1.0), SECOND),
        Part(dome),
    ]


def moon(rng: np.random.Generator) -> list[Part]:
    """A crescent."""
    outer = ellipse(0.25, 0.0, 0.9, start=0.35, stop=1.65)
    bulge = 1.3 * rng.uniform(0.3, 0.5)
    (x, top), (_, bottom) = outer[-1], outer[0]
    a = np.linspace(-np.pi / 2, np.pi / 2, 20)
    inner = np.stack([x - bulge * np.cos(a), (top + bottom) / 2 + (bottom - top) / 2 * np.sin(a)], axis=1)
    return [Part(np.concatenate([outer, inner]))]


def butterfly(rng: np.random.Generator) -> list[Part]:
    """Two pairs of wings and a thin body."""
    upper, lower = rng.uniform(0.42, 0.55), rng.uniform(0.3, 0.42)
    parts = []
    for side in (-1, 1):
        parts.append(Part(ellipse(side * 0.42, 0.42, lower), SECOND))
        parts.append(Part(ellipse(side * 0.48, -0.3, upper, 0.85 * upper, turn=-side * 0.15)))
    return [*parts, Part(ellipse(0.0, 0.05, 0.08, 0.68), DETAIL)]


THINGS: dict[str, Draw] = {
    f.__name__: f for f in (house, tree, fish, star, heart, boat, flower, mushroom, cup, umbrella, moon, butterfly)
}
"""The twelve classes of `shapes`, in the order that seeds count."""


def place(
    parts: list[Part], size: int, rng: np.random.Generator, *, turn: float, scale: tuple[float, float], warp: float
) -> tuple[list[Part], float]:
    """The thing in pixels of a square canvas, bent, turned, scaled, mirrored and moved; and its nominal scale.

    turn: most degrees either way. scale: range of the half-size in half canvases. warp: amplitude of two sine waves.
    """
    phase, angle = rng.uniform(0, 2 * np.pi, 2), np.deg2rad(rng.uniform(-turn, turn))
    nominal = rng.uniform(*scale)
    half = nominal * size / 2
    stretch = half * rng.uniform(0.85, 1.15, 2) * [rng.choice([-1, 1]), 1]
    room = max(0.0, size / 2 - 0.95 * half)
    centre = size / 2 + rng.uniform(-room, room, 2)
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])

    def put(p: Points) -> Points:
        bent = p + warp * np.sin(2.2 * p[:, ::-1] + phase)
        moved: Points = (bent * stretch) @ rotation + centre
        return moved

    return [Part(put(p.points), p.role) for p in parts], nominal
