"""Pairs of a 64-pixel picture and a caption for pretraining the tiny CLIP, each a function of (seed, index).

Draws the twelve things of `shapes` and twelve more in a flat clip-art way of its own: none of the four styles of
`shapes` is used, so any of them may be held out. Most captions name parts, colours or kinds and not the thing: an
encoder that is told the noun each time leaves nothing for adapters to learn.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from tiny_clip_things import NOUNS

from workers.data import canvas
from workers.data.canvas import Pixels
from workers.data.drawing import DETAIL, MAIN, SECOND, Part, place

Rng = np.random.Generator
SIZE, CANVAS = 64, 128

COLOURS = {
    "red": (210, 40, 40), "green": (50, 160, 60), "blue": (45, 80, 205), "yellow": (235, 210, 50),
    "orange": (240, 140, 40), "purple": (140, 60, 170), "pink": (240, 140, 180), "brown": (125, 80, 45),
    "white": (240, 240, 240), "black": (30, 30, 30), "gray": (130, 130, 130), "cyan": (70, 200, 210),
}  # fmt: skip

PARTS = {
    "house": ("a roof", "a door", "a flat bottom", "a pointed top"),
    "tree": ("a trunk", "leaves", "a pointed top"),
    "fish": ("a tail", "a fin", "an eye"),
    "star": ("five points", "sharp corners", "a pointed top"),
    "heart": ("two round halves", "a pointed bottom", "curves"),
    "boat": ("a sail", "a mast", "a hull"),
    "flower": ("petals", "a stem", "a round centre"),
    "mushroom": ("a round cap", "a stem", "spots"),
    "cup": ("a handle", "a flat bottom", "a wide opening"),
    "umbrella": ("a hook", "a round cap", "a long pole"),
    "moon": ("a curve", "two sharp tips", "a hollow side"),
    "butterfly": ("wings", "two round halves", "a thin body"),
    "car": ("wheels", "windows", "a flat bottom"),
    "apple": ("a stem", "a leaf", "curves"),
    "key": ("teeth", "a hole", "a long bar"),
    "arrow": ("a pointed tip", "a long bar", "sharp corners"),
    "ring": ("a hole", "a stone", "a curve"),
    "hat": ("a wide brim", "a band", "a flat top"),
    "bottle": ("a thin neck", "a label", "a flat bottom"),
    "lamp": ("a shade", "a long pole", "a flat bottom"),
    "leaf": ("a stem", "two sharp tips", "curves"),
    "tent": ("a pointed top", "a door", "a flat bottom"),
    "kite": ("a tail", "sharp corners", "four sides"),
    "bell": ("a clapper", "a round cap", "a wide opening"),
}

KINDS = {
    "building": ("house", "tent"), "plant": ("tree", "flower", "mushroom", "apple", "leaf"),
    "animal": ("fish", "butterfly"), "vehicle": ("boat", "car"), "container": ("cup", "bottle"),
    "clothing": ("hat",), "tool": ("umbrella", "key", "lamp", "kite", "bell"),
    "sign": ("star", "heart", "moon", "arrow", "ring"),
}  # fmt: skip

TEMPLATES = (
    "a picture of a {}", "a photo of a {}", "a drawing of a {}", "a {}", "an image of a {}",
    "{}", "this is a {}", "one {}", "a nice {}", "there is a {} here",
)  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """What is in a picture: nouns with their colour words and nominal scales, and the colour of the background."""

    nouns: tuple[str, ...]
    colours: tuple[str, ...]
    scales: tuple[float, ...]
    background: str


def pair(seed: int, index: int) -> tuple[NDArray[np.uint8], str]:
    """One picture, uint8 (64, 64, 3), and its caption."""
    rng = np.random.default_rng([seed, index])
    image, scene = picture(rng)
    return image, caption(scene, rng)


def picture(rng: Rng) -> tuple[NDArray[np.uint8], Scene]:
    """A clip-art picture of one thing, or in 5 % of two side by side."""
    background = str(rng.choice(list(COLOURS)))
    image = _background(rng, np.array(COLOURS[background], dtype=np.float64))
    two = rng.random() < 0.05
    nouns = tuple(str(n) for n in rng.choice(list(NOUNS), 2 if two else 1, replace=False))
    colours, scales = [], []
    for k, noun in enumerate(nouns):
        colours.append(_contrasting(rng, background))
        bounds = (0.4, 0.5) if two else (0.45, 0.95)
        parts, scale = place(NOUNS[noun](rng), CANVAS, rng, turn=20 if two else 28, scale=bounds, warp=0.07)
        if two:
            parts = [_beside(p, k) for p in parts]
        scales.append(scale)
        image = _thing(rng, image, parts, np.array(COLOURS[colours[-1]], dtype=np.float64))
    return _spoilt(rng, image), Scene(nouns, tuple(colours), tuple(scales), background)


def _contrasting(rng: Rng, background: str) -> str:
    ground = np.array(COLOURS[background])
    fit = [c for c, rgb in COLOURS.items() if np.abs(np.array(rgb) - ground).sum() > 90]
    return str(rng.choice(fit))


def _beside(part: Part, index: int) -> Part:
    # place() leaves the centre anywhere; squeezing x into one half keeps the two things apart.
    return Part(part.points * [0.6, 1.0] + [(-0.05 + 0.5 * index) * CANVAS, 0.0], part.role)


def _background(rng: Rng, colour: Pixels) -> Pixels:
    image = canvas.flat(CANVAS, colour)
    kind, y, x = rng.random(), *np.mgrid[0:CANVAS, 0:CANVAS] / CANVAS
    a = rng.uniform(0, 2 * np.pi)
    u, v = np.cos(a) * x + np.sin(a) * y, np.cos(a) * y - np.sin(a) * x
    if kind < 0.15:
        bands = np.floor(u * rng.uniform(4, 12)) + (np.floor(v * rng.uniform(4, 12)) if rng.random() < 0.5 else 0)
        return image + ((bands % 2) * rng.uniform(-45, 45))[:, :, None]
    kind = rng.random()
    if kind < 0.45:
        return image
    if kind < 0.75:
        return image + ((u - u.mean()) * rng.uniform(-70, 70))[:, :, None]
    return image + 60 * canvas.noise(rng, int(rng.integers(3, 8)), CANVAS)


def _thing(rng: Rng, image: Pixels, parts: list[Part], colour: Pixels) -> Pixels:
    main = colour + rng.normal(0, 14, 3)
    if rng.random() < 0.35:
        second = main * rng.uniform(0.5, 0.75) if rng.random() < 0.5 else main + 0.5 * (255 - main)
    else:
        second = np.array(COLOURS[str(rng.choice(list(COLOURS)))], dtype=np.float64)
    detail = np.full(3, 30.0) if main.sum() > 330 else np.full(3, 235.0)
    textured, outlined = rng.random() < 0.4, rng.random() < 0.35
    grain = 70 * canvas.noise(rng, int(rng.integers(3, 16)), CANVAS) if textured else 0.0
    line = np.array(COLOURS[str(rng.choice(list(COLOURS)))], dtype=np.float64), int(rng.integers(1, 5))
    for part in parts:
        paint = {MAIN: main, SECOND: second, DETAIL: detail}[part.role]
        image = canvas.over(image, paint + grain, canvas.mask(CANVAS, part.points))
        if outlined and not textured:
            image = _outline(image, part, *line)
    return image


def _outline(image: Pixels, part: Part, colour: Pixels, width: int) -> Pixels:
    cover = Image.new("L", (CANVAS, CANVAS))
    loop = canvas.corners(part.points)
    ImageDraw.Draw(cover).line([*loop, loop[0]], fill=255, width=width, joint="curve")
    return canvas.over(image, colour, np.asarray(cover, dtype=np.float64) / 255)


def _spoilt(rng: Rng, image: Pixels) -> NDArray[np.uint8]:
    if rng.random() < 0.25:
        radius = rng.uniform(0.5, 1.6)
        image = np.stack([255 * canvas.blur(np.clip(image[:, :, c], 0, 255) / 255, radius) for c in range(3)], axis=2)
    small = canvas.shrink(image, SIZE)
    if rng.random() < 0.15:
        small = np.repeat(small.mean(axis=2, keepdims=True), 3, axis=2)
    small = (small - 128) * rng.uniform(0.7, 1.2) + 128 + rng.uniform(-20, 20)
    if rng.random() < 0.3:
        small = small + rng.normal(0, rng.uniform(2, 12), small.shape)
    return canvas.bytes_of(small)


def caption(scene: Scene, rng: Rng) -> str:
    """A sentence about the scene: of one thing 12 % with its noun, 63 % parts, 16 % kind, 9 % colours alone."""
    if len(scene.nouns) == 2:
        (a, b), (one, other) = scene.nouns, scene.colours
        return str(rng.choice([f"a {one} {a} and a {other} {b}", f"a {a} and a {b}", f"a {a} next to a {b}"]))
    style = rng.random()
    if style < 0.12:
        return _only_colour(scene, rng) if rng.random() < 0.1 else _named(scene, rng)
    if style < 0.75:
        return _by_parts(scene, rng)
    if style < 0.91:
        return str(rng.choice(TEMPLATES)).format(_kind(scene.nouns[0]))
    return _only_colour(scene, rng)


def _named(scene: Scene, rng: Rng) -> str:
    words = [scene.nouns[0]]
    if rng.random() < 0.35:
        words.insert(0, scene.colours[0])
    if rng.random() < 0.2 and not 0.58 <= scene.scales[0] <= 0.82:
        words.insert(0, "small" if scene.scales[0] < 0.58 else "big")
    text = str(rng.choice(TEMPLATES)).format(" ".join(words))
    if rng.random() < 0.15:
        text += rng.choice([" on a {} background", " on {}"]).format(scene.background)
    return text


def _by_parts(scene: Scene, rng: Rng) -> str:
    noun = scene.nouns[0]
    colour = f"{scene.colours[0]} " if rng.random() < 0.3 else ""
    what = str(rng.choice(["something", "thing", "shape", _kind(noun)]))
    head = f"{colour}something" if what == "something" else f"a {colour}{what}"
    one, other = (str(p) for p in rng.choice(PARTS[noun], 2, replace=False))
    return f"{head} with {one}" if rng.random() < 0.4 else f"{head} with {one} and {other}"


def _only_colour(scene: Scene, rng: Rng) -> str:
    colour, ground = scene.colours[0], scene.background
    said = ("a {0} shape", "something {0}", "a {1} background", "a {0} shape on a {1} background", "{0} on {1}")
    return str(rng.choice(said)).format(colour, ground)


def _kind(noun: str) -> str:
    return next(kind for kind, nouns in KINDS.items() if noun in nouns)
