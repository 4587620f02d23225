"""Who makes what: one at a time, and nobody waits for the dead. Time passes where a test says so."""

from collections.abc import Callable
from pathlib import Path

import pytest

from workers.data import claims
from workers.data.claims import SILENT_S, Claims
from workers.data.shelf import Shelf


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "x.sqlite")


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], None]], None]:
    """From now on a look takes a second, and then something happens: called with how many there were."""

    def passing(happens: Callable[[int], None]) -> None:
        looks = 0

        def sleep(seconds: float) -> None:
            nonlocal looks
            looks += 1
            assert looks < 10 * SILENT_S, "waits for ever"
            happens(looks)

        monkeypatch.setattr(claims.time, "sleep", sleep)
        monkeypatch.setattr(claims.time, "monotonic", lambda: float(looks))

    return passing


def left(shelf: Shelf) -> dict[str, int]:
    return shelf.kinds()


def test_a_key_is_one_claimants_until_it_is_dropped(shelf: Shelf) -> None:
    one, two = Claims(shelf), Claims(shelf)
    assert one.take(["a", "b"]) == {"a", "b"}
    assert two.take(["b", "c"]) == {"c"}
    two.drop(["a", "b"])  # which it does not hold
    assert two.take(["a", "b"]) == set()
    one.drop(["a"])
    assert two.take(["a", "b"]) == {"a"}
    assert one.take([]) == set()


def test_whoever_lives_is_waited_for_and_whoever_is_silent_loses_its_claims(
    shelf: Shelf, passing: Callable[[Callable[[int], None]], None]
) -> None:
    living, waiting, later = Claims(shelf), Claims(shelf), Claims(shelf)
    living.take(["a", "b"])
    long = int(3 * SILENT_S)

    def happens(looks: int) -> None:
        living.beat()
        if looks == long:
            living.drop(["a", "b"])

    passing(happens)
    waiting.wait(["a", "b"])
    assert waiting.take(["a", "b"]) == {"a", "b"}
    seen: list[int] = []
    passing(seen.append)
    later.wait(["b"])
    assert SILENT_S < len(seen) < SILENT_S + 3
    assert later.take(["a", "b"]) == {"b"}  # nobody waited for the other one


def test_of_two_who_wait_for_a_silent_one_the_second_does_not_take_the_firsts_claim(
    shelf: Shelf, passing: Callable[[Callable[[int], None]], None]
) -> None:
    dead, first, second = Claims(shelf), Claims(shelf), Claims(shelf)
    dead.take(["a"])
    taken: list[set[str]] = []

    def happens(looks: int) -> None:
        if looks == int(SILENT_S):  # just before the second gives the dead one up
            shelf.drop(dict.fromkeys(["claim:a"], dead._who))
            taken.append(first.take(["a"]))
        if taken:
            first.beat()
        if looks == int(2 * SILENT_S):
            first.drop(["a"])

    passing(happens)
    second.wait(["a"])
    assert taken == [{"a"}] and second.take(["a"]) == {"a"}


def test_nothing_is_left_of_a_claimant_that_ends_or_fails(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT_S", 0.001)
    with Claims(shelf) as one:
        one.take(["a", "b"])
        while not left(shelf).get("life"):
            pass
        one.drop(["a"])
    assert left(shelf) == {}
    with pytest.raises(ZeroDivisionError), Claims(shelf) as one:
        one.take(["a", "b"])
        raise ZeroDivisionError
    assert left(shelf) == {}


@pytest.mark.parametrize("damage", [b"", b"no claims", bytes(2**20), None], ids=["empty", "text", "huge", "truncated"])
def test_of_a_damaged_file_no_claim_is_left_and_the_next_one_holds(shelf: Shelf, damage: bytes | None) -> None:
    Claims(shelf).take(["a"])
    whole = shelf.path.read_bytes()
    shelf.path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    one, two = Claims(shelf), Claims(shelf)
    assert one.take(["a", "b"]) == {"a", "b"}
    assert two.take(["a", "b"]) == set()


def test_a_shelf_that_cannot_be_written_keeps_nobody_waiting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file where a folder should be")
    one = Claims(Shelf(tmp_path / "file" / "x.sqlite"))
    one.beat()
    one.drop(["a"])
    one.wait(["a"])
