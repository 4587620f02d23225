"""Intervals of shares: numbers of the formula worked out by hand, and what every interval must do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.intervals import wilson


def test_half_of_ten_by_hand() -> None:
    # z = 1.959964, z^2 = 3.841459, n = 10, p = 0.5: middle = 0.5 + 0.192073 = 0.692073;
    # half = 1.959964 * sqrt(0.025 + 0.00960365) = 0.364594; divisor 1.3841459.
    assert wilson(5, 10) == pytest.approx((0.236593, 0.763407), abs=1e-6)


def test_none_of_ten_has_a_lower_end_of_nothing_and_a_known_upper_one() -> None:
    # With p = 0 it is z^2 / (n + z^2) = 3.841459 / 13.841459.
    assert wilson(0, 10) == pytest.approx((0.0, 0.277533), abs=1e-6)


def test_of_no_images_everything_is_possible() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_it_holds_the_share_stays_within_0_and_1_and_mirrors(counted: tuple[int, int]) -> None:
    right, of = counted
    low, high = wilson(right, of)
    assert 0 <= low <= right / of + 1e-12 and right / of <= high + 1e-12 and high <= 1
    assert wilson(of - right, of) == pytest.approx((1 - high, 1 - low), abs=1e-9)
    assert wilson(right, of, 0.5)[1] <= high + 1e-12
