"""Geometry, canvas and the four painters."""

import numpy as np
import pytest

from workers.data import canvas
from workers.data.drawing import MAIN, THINGS, Part, Points, band, box, ellipse, place
from workers.data.styles import PAINTERS, SIZE


def area(points: Points) -> float:
    x, y = points.T
    return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)


def test_ellipse_has_the_area_of_an_ellipse() -> None:
    # A polygon of n corners inscribed in an ellipse covers sin(2 pi / n) / (2 pi / n) of it; here n = 27.
    share = np.sin(2 * np.pi / 27) / (2 * np.pi / 27)
    assert area(ellipse(0.3, -0.2, 0.5, 0.25)) == pytest.approx(np.pi * 0.5 * 0.25 * share)


def test_turning_an_ellipse_keeps_its_area_and_swaps_its_axes_after_a_quarter() -> None:
    upright = ellipse(0, 0, 0.5, 0.25, turn=0.5)
    assert area(upright) == pytest.approx(area(ellipse(0, 0, 0.5, 0.25)))
    assert np.ptp(upright[:, 1]) == pytest.approx(1.0, abs=0.01)


def test_half_band_has_half_the_area_of_its_ring() -> None:
    assert area(band(0, 0, 0.5, 0.2, start=0, stop=1)) == pytest.approx(np.pi * (0.5**2 - 0.3**2) / 2, rel=0.01)


@pytest.mark.parametrize("name", THINGS)
def test_thing_is_near_the_unit_square_and_differs_between_draws(name: str) -> None:
    draws = [THINGS[name](np.random.default_rng([3, i])) for i in range(40)]
    for parts in draws:
        assert any(p.role == MAIN for p in parts)
        assert all(len(p.points) >= 3 and np.isfinite(p.points).all() for p in parts)
        assert np.abs(np.concatenate([p.points for p in parts])).max() < 1.2
    sizes = {round(sum(area(p.points) for p in parts), 6) for parts in draws}
    assert len(sizes) == 40


def test_placed_square_has_the_drawn_scale_and_stays_on_the_canvas() -> None:
    for seed in range(50):
        rng = np.random.default_rng(seed)
        (part,), nominal = place([Part(box(-1, -1, 1, 1))], 200, rng, turn=0, scale=(0.5, 0.9), warp=0)
        width, height = np.ptp(part.points, axis=0)
        assert 0.5 <= nominal <= 0.9
        # Half-size nominal * 200 / 2, stretched by 0.85 to 1.15 along each axis.
        assert 0.85 * 200 * nominal <= width <= 1.15 * 200 * nominal
        assert 0.85 * 200 * nominal <= height <= 1.15 * 200 * nominal
        # The centre leaves room for 0.95 of the half-size, so at most 0.2 of it is cut off.
        assert part.points.min() >= -0.2 * nominal * 100 - 1e-9
        assert part.points.max() <= 200 + 0.2 * nominal * 100 + 1e-9


def test_turn_changes_no_area_and_warp_does() -> None:
    def placed(turn: float, warp: float) -> float:
        thing = [Part(ellipse(0, 0, 0.5, 0.3))]
        (part,), _ = place(thing, 100, np.random.default_rng(5), turn=turn, scale=(0.7, 0.7), warp=warp)
        return area(part.points)

    assert placed(0, 0) == pytest.approx(placed(90, 0))
    assert placed(0, 0) != pytest.approx(placed(0, 0.2))


def test_mask_covers_the_polygon() -> None:
    # Pillow paints both edge columns, so 20 x 30 is 21 x 31 pixels.
    assert canvas.mask(64, box(10, 10, 30, 40)).sum() == 21 * 31


def test_over_replaces_inside_and_leaves_the_rest() -> None:
    image = canvas.flat(4, np.full(3, 100.0))
    cover = np.zeros((4, 4))
    cover[0, 0], cover[0, 1] = 1.0, 0.5
    done = canvas.over(image, np.array([200.0, 0.0, 100.0]), cover)
    assert done[0, 0].tolist() == [200, 0, 100]
    assert done[0, 1].tolist() == [150, 50, 100]
    assert (done[1:] == 100).all()
    assert (image == 100).all()


def test_noise_is_smooth_and_about_zero() -> None:
    field = canvas.noise(np.random.default_rng(0), 4, 64)[:, :, 0]
    assert abs(field.mean()) < 0.25
    assert np.abs(field).max() < 1
    assert np.abs(np.diff(field, axis=0)).max() < 0.15


@pytest.mark.parametrize("style", PAINTERS)
@pytest.mark.parametrize("thing", ["house", "moon"])
def test_painter_is_a_function_of_its_generator(style: str, thing: str) -> None:
    paint, draw = PAINTERS[style], THINGS[thing]
    image = paint(draw, np.random.default_rng([1, 2]))
    assert (image.shape, image.dtype) == ((SIZE, SIZE, 3), np.uint8)
    assert np.array_equal(image, paint(draw, np.random.default_rng([1, 2])))
    assert not np.array_equal(image, paint(draw, np.random.default_rng([1, 3])))
    assert image.std() > 5


def chroma(style: str) -> float:
    """Mean spread between the channels over 24 images."""
    images = [PAINTERS[style](d, np.random.default_rng([4, i])) for d in THINGS.values() for i in range(2)]
    return float(np.mean([np.ptp(i.astype(np.float64), axis=2).mean() for i in images]))


def test_styles_differ_in_colour_as_their_names_say() -> None:
    spread = {style: chroma(style) for style in PAINTERS}
    assert spread["sketch"] < 12 < spread["photo"] < spread["painting"]
    assert spread["photo"] < spread["cartoon"]
