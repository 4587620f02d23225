"""Twelve more things for the tiny CLIP's pretraining, as polygons in [-1, 1], y downwards."""

import numpy as np

from workers.data.drawing import DETAIL, SECOND, THINGS, Draw, Part, band, box, ellipse, polygon

Rng = np.random.Generator


def car(rng: Rng) -> list[Part]:
    """A body with a cabin, a window and two wheels."""
    half, top = rng.uniform(0.75, 0.95), rng.uniform(-0.1, 0.05)
    cabin = rng.uniform(0.35, 0.5)
    wheels = [Part(ellipse(x * half, 0.45, rng.uniform(0.17, 0.24)), DETAIL) for x in (-0.55, 0.55)]
    roof = polygon((-cabin - 0.15, top), (-cabin + 0.1, top - 0.4), (cabin - 0.1, top - 0.4), (cabin + 0.15, top))
    glass = box(-cabin + 0.15, top - 0.32, cabin - 0.15, top - 0.05)
    return [Part(roof), Part(glass, SECOND), Part(box(-half, top, half, 0.45)), *wheels]


def apple(rng: Rng) -> list[Part]:
    """Two round halves, a stem and a leaf."""
    r = rng.uniform(0.42, 0.52)
    body = [Part(ellipse(x, 0.15, r, rng.uniform(0.58, 0.7))) for x in (-0.25, 0.25)]
    leaf = Part(ellipse(0.25, -0.62, 0.22, 0.1, turn=-0.15), SECOND)
    return [Part(box(-0.04, -0.8, 0.04, -0.3), DETAIL), leaf, *body]


def key(rng: Rng) -> list[Part]:
    """A ring, a bar and two or three teeth."""
    r, count = rng.uniform(0.28, 0.4), int(rng.integers(2, 4))
    parts = [Part(band(-0.5, 0, r, 0.14, start=0, stop=2)), Part(box(-0.52 + r, -0.07, 0.95, 0.07))]
    return parts + [Part(box(0.85 - 0.22 * k, 0.05, 0.95 - 0.22 * k, rng.uniform(0.25, 0.4))) for k in range(count)]


def arrow(rng: Rng) -> list[Part]:
    """A shaft and a head."""
    h, w, neck = rng.uniform(0.1, 0.2), rng.uniform(0.4, 0.65), rng.uniform(0.1, 0.4)
    shaft = ((-0.95, -h), (neck, -h), (neck, -w), (0.95, 0.0), (neck, w), (neck, h), (-0.95, h))
    return [Part(polygon(*shaft))]


def ring(rng: Rng) -> list[Part]:
    """A band with a stone on top."""
    s = rng.uniform(0.2, 0.3)
    stone = polygon((-s, -0.6), (-0.6 * s, -0.6 - s), (0.6 * s, -0.6 - s), (s, -0.6), (0.0, -0.6 + s))
    return [Part(band(0, 0.15, 0.7, rng.uniform(0.12, 0.25), start=0, stop=2)), Part(stone, SECOND)]


def hat(rng: Rng) -> list[Part]:
    """A crown on a wide brim, with a band."""
    half, top = rng.uniform(0.4, 0.55), rng.uniform(-0.75, -0.45)
    brim = Part(ellipse(0, 0.4, rng.uniform(0.8, 0.95), rng.uniform(0.12, 0.22)))
    crown = Part(polygon((-0.85 * half, top), (0.85 * half, top), (half, 0.4), (-half, 0.4)))
    return [brim, crown, Part(box(-half, 0.15, half, 0.33), SECOND)]


def bottle(rng: Rng) -> list[Part]:
    """A body, a thin neck and a label."""
    half, neck, shoulder = rng.uniform(0.28, 0.42), rng.uniform(0.09, 0.14), rng.uniform(-0.25, 0.0)
    body = ((-neck, -0.9), (neck, -0.9), (neck, shoulder - 0.25), (half, shoulder), (half, 0.9), (-half, 0.9))
    label = box(-half, shoulder + 0.25, half, shoulder + 0.65)
    return [Part(polygon(*body, (-half, shoulder), (-neck, shoulder - 0.25))), Part(label, SECOND)]


def lamp(rng: Rng) -> list[Part]:
    """A shade on a pole with a foot."""
    top, wide, edge = rng.uniform(0.2, 0.35), rng.uniform(0.5, 0.75), rng.uniform(-0.3, -0.1)
    foot = Part(ellipse(0, 0.85, rng.uniform(0.35, 0.5), 0.1), SECOND)
    shade = Part(polygon((-top, -0.9), (top, -0.9), (wide, edge), (-wide, edge)))
    return [Part(box(-0.05, edge, 0.05, 0.85), SECOND), foot, shade]


def leaf(rng: Rng) -> list[Part]:
    """A pointed oval with a vein and a stem."""
    bow, t = rng.uniform(0.35, 0.55), np.linspace(-1, 1, 24)
    side = np.stack([0.85 * t - 0.1, bow * np.cos(np.pi * t / 2)], axis=1)
    blade = np.concatenate([side, side[::-1] * [1, -1]])
    return [Part(blade), Part(box(-0.7, -0.03, 0.95, 0.03), DETAIL)]


def tent(rng: Rng) -> list[Part]:
    """A triangle with an opening."""
    half, apex, gap = rng.uniform(0.75, 0.95), rng.uniform(-0.75, -0.5), rng.uniform(0.15, 0.3)
    return [
        Part(polygon((-half, 0.7), (0.0, apex), (half, 0.7))),
        Part(polygon((-gap, 0.7), (0.0, apex + 0.45), (gap, 0.7)), DETAIL),
    ]


def kite(rng: Rng) -> list[Part]:
    """A diamond in two colours with a tail."""
    wide, tip, low = rng.uniform(0.4, 0.6), -0.95, rng.uniform(0.2, 0.4)
    t = np.linspace(0, 1, 16)
    line = np.stack([0.12 * np.sin(7 * t), low + t * (0.95 - low)], axis=1)
    tail = np.concatenate([line, (line + np.array([0.06, 0.0]))[::-1]])
    left = polygon((0.0, tip), (-wide, -0.35), (0.0, low))
    right = polygon((0.0, tip), (wide, -0.35), (0.0, low))
    return [Part(tail, DETAIL), Part(left), Part(right, SECOND)]


def bell(rng: Rng) -> list[Part]:
    """A flaring dome with a clapper."""
    top, wide = rng.uniform(0.3, 0.42), rng.uniform(0.65, 0.85)
    dome = ellipse(0, -0.4, top, 0.45, start=1, stop=2)
    clapper = Part(ellipse(0, 0.68, rng.uniform(0.12, 0.18)), DETAIL)
    return [
        clapper,
        Part(np.concatenate([dome, polygon((wide, 0.6), (-wide, 0.6))])),
        Part(ellipse(0, -0.9, 0.09), SECOND),
    ]


NOUNS: dict[str, Draw] = {
    **THINGS,
    **{f.__name__: f for f in (car, apple, key, arrow, ring, hat, bottle, lamp, leaf, tent, kite, bell)},
}
"""The 24 words of the tiny CLIP, in the order that the corpus draws from."""
