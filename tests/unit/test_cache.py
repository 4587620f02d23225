"""`quorate cache`: what is kept, what may go, and that nobody who is at work is disturbed."""

import json
import os
import time
from pathlib import Path

import pytest
import torch

from orchestrator import cache
from orchestrator.cache import Kept, chosen
from schemas.errors import ConfigError
from tests.toys import ToyBackbone, paint
from workers.data.claims import Claims
from workers.data.features import Features
from workers.data.shelf import Shelf

DAY_S = 86_400


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return sorted(paint(tmp_path / "images", domains=("flat",), per_class=4).rglob("*.png"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUORATE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def use(folder: Path, paths: list[Path], seed: int, *, days_ago: float = 0.0) -> tuple[str, int]:
    """Encode with the toy of a seed, as if so long ago; its fingerprint, and how many images that encoded."""
    toy = ToyBackbone(ToyBackbone.Params(seed=seed))
    features = Features(toy, folder)
    encodes = features.images(paths).encodes
    features.texts(("amber", "blue"), ("a {}",))
    moment = time.time() - days_ago * DAY_S
    os.utime(folder / "features" / f"{toy.fingerprint}.sqlite", (moment, moment))
    return toy.fingerprint, encodes


def show(*, as_json: bool = False) -> None:
    cache.main(prune=False, unused_days=None, keep_gb=None, as_json=as_json)


def prune(*, unused_days: float | None, keep_gb: float | None, as_json: bool) -> None:
    cache.main(prune=True, unused_days=unused_days, keep_gb=keep_gb, as_json=as_json)


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_what_is_kept_is_counted_and_the_last_used_comes_first(folder: Path, paths: list[Path]) -> None:
    old, _ = use(folder, paths[:5], 1, days_ago=3)
    new, _ = use(folder, paths, 2)
    drawn = folder / "shapes" / "abc" / "photo"
    drawn.mkdir(parents=True)
    (drawn / "0.png").write_bytes(b"12345")
    found = cache.look(folder)
    assert [(k.fingerprint, k.images, k.texts) for k in found.features] == [(new, 12, 2), (old, 5, 2)]
    assert [(d.name, d.size_bytes) for d in found.drawn] == [("shapes/abc", 5)]
    on_disk = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    assert found.size_bytes == on_disk


def test_looking_counts_as_no_use(folder: Path, paths: list[Path]) -> None:
    use(folder, paths, 1, days_ago=3)
    cache.look(folder)
    (kept,) = cache.look(folder).features
    assert 3 * DAY_S <= time.time() - kept.used < 3 * DAY_S + 600
    use_again, encodes = ToyBackbone(ToyBackbone.Params(seed=1)), 0
    encodes += Features(use_again, folder).images(paths).encodes
    (kept,) = cache.look(folder).features
    assert encodes == 0 and time.time() - kept.used < 600


def test_no_cache_is_an_empty_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show(as_json=True)
    assert told(capsys) == {"folder": str(folder), "size_bytes": 0, "features": [], "drawn": []}
    show()
    assert "0 B" in capsys.readouterr().out
    assert not folder.exists()


def test_what_nobody_used_for_so_long_goes_and_is_encoded_again(
    folder: Path, paths: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    use(folder, paths, 1, days_ago=31)
    kept, _ = use(folder, paths, 2, days_ago=29)
    before = cache.look(folder).size_bytes
    prune(unused_days=30, keep_gb=None, as_json=True)
    after = told(capsys)
    assert [f["fingerprint"] for f in after["features"]] == [kept]  # type: ignore[attr-defined]
    assert 0 < int(str(after["size_bytes"])) < before
    assert (use(folder, paths, 1)[1], use(folder, paths, 2)[1]) == (12, 0)


def test_by_size_the_longest_unused_goes_first(folder: Path, paths: list[Path]) -> None:
    for seed, days in ((1, 5), (2, 1), (3, 3)):
        use(folder, paths, seed, days_ago=days)
    each = {k.size_bytes for k in cache.look(folder).features}
    prune(unused_days=None, keep_gb=2.5 * max(each) / 1e9, as_json=False)
    left = {k.fingerprint for k in cache.look(folder).features}
    assert left == {ToyBackbone(ToyBackbone.Params(seed=seed)).fingerprint for seed in (2, 3)}
    prune(unused_days=None, keep_gb=0, as_json=False)
    assert cache.look(folder).features == ()


def test_age_and_size_together() -> None:
    kept = tuple(Kept(fingerprint=f"{i}", images=1, texts=0, size_bytes=10, used=100.0 - i) for i in range(5))
    assert [k.fingerprint for k in chosen(kept, None, None)] == []
    assert [k.fingerprint for k in chosen(kept, 98.0, None)] == ["3", "4"]
    assert [k.fingerprint for k in chosen(kept, None, 30)] == ["3", "4"]
    assert [k.fingerprint for k in chosen(kept, 99.0, 10)] == ["1", "2", "3", "4"]
    large = (*kept[:1], kept[1].model_copy(update={"size_bytes": 100}), *kept[2:])
    assert [k.fingerprint for k in chosen(large, None, 40)] == ["1"]  # what is too large makes no smaller one go


@pytest.mark.parametrize(("prune", "days"), [(True, None), (False, 30)])
def test_what_may_go_is_said_with_the_word_for_it_or_nothing_goes(
    folder: Path, paths: list[Path], prune: bool, days: float | None
) -> None:
    use(folder, paths, 1, days_ago=60)
    with pytest.raises(ConfigError, match="--prune goes with --unused-days, --keep-gb"):
        cache.main(prune=prune, unused_days=days, keep_gb=None, as_json=False)
    assert use(folder, paths, 1)[1] == 0


@pytest.mark.parametrize("damage", [b"no database at all" * 500, None])
def test_a_damaged_file_is_shown_and_can_be_pruned(
    folder: Path, paths: list[Path], damage: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    fingerprint, _ = use(folder, paths, 1)
    file = folder / "features" / f"{fingerprint}.sqlite"
    file.write_bytes(file.read_bytes()[:5000] if damage is None else damage)
    (kept,) = cache.look(folder).features
    assert kept.images is None
    show()
    assert "damaged" in capsys.readouterr().out
    prune(unused_days=None, keep_gb=0, as_json=False)
    assert cache.look(folder).features == ()
    assert use(folder, paths, 1)[1] == 12


def test_a_file_that_has_just_been_begun_is_nothing_yet(folder: Path) -> None:
    (folder / "features").mkdir(parents=True)
    (folder / "features" / f"{'a' * 64}.sqlite").touch()
    assert cache.look(folder).features == ()


def test_claims_of_a_process_that_was_killed_count_for_nothing_and_go_too(folder: Path, paths: list[Path]) -> None:
    fingerprint, _ = use(folder, paths[:5], 1)
    shelf = Shelf(folder / "features" / f"{fingerprint}.claims")
    claims = Claims(shelf)
    claims.take([f"image:{i}" for i in range(2000)])
    claims.beat()
    assert shelf.kinds() == {"claim": 2000, "life": 1} and shelf.path.stat().st_size > 50_000
    (kept,) = cache.look(folder).features
    assert (kept.images, kept.texts) == (5, 2)
    prune(unused_days=None, keep_gb=0, as_json=False)
    assert shelf.kinds() == {} and shelf.path.stat().st_size < 20_000


def test_who_reads_meanwhile_finds_nothing_and_goes_on(folder: Path, paths: list[Path]) -> None:
    shelf = Shelf(folder / "features" / f"{'a' * 64}.sqlite")
    values = {f"image:{i}": bytes([i % 256]) * 1000 for i in range(2000)}  # 2 MB, mapped
    shelf.write(values)
    with shelf.reading() as read:
        assert read(values, 1000) == values
        prune(unused_days=None, keep_gb=0, as_json=False)
        assert shelf.path.stat().st_size < 50_000
        assert read(values, 1000) == {}
        shelf.write({"image:7": b"x" * 1000})
        assert read(values, 1000) == {"image:7": b"x" * 1000}


def test_features_are_the_same_after_pruning_under_way(folder: Path, paths: list[Path]) -> None:
    class Pruned(ToyBackbone):
        def encode_images(self, batch: torch.Tensor) -> torch.Tensor:
            prune(unused_days=None, keep_gb=0, as_json=False)
            return super().encode_images(batch)

    use(folder, paths[:6], 1)
    whole = Features(ToyBackbone(ToyBackbone.Params(seed=1)), folder / "other").images(paths)
    found = Features(Pruned(Pruned.Params(seed=1)), folder).images(paths)
    assert found.encodes == 6 and torch.equal(found.features, whole.features)
