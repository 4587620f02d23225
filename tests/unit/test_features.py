import resource
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import structlog
import torch
from PIL import Image

from schemas.errors import DataError, StoreError
from tests.toys import ToyBackbone, paint
from workers.data import features
from workers.data.features import Features, Shelf


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return sorted(paint(tmp_path / "images", domains=("flat",), per_class=4).rglob("*.png"))


def _features(cache: Path, seed: int = 0) -> Features:
    return Features(ToyBackbone(ToyBackbone.Params(seed=seed)), cache)


def _file(cache: Path) -> Path:
    (file,) = (cache / "features").glob("*.sqlite")
    return file


def test_a_second_run_encodes_nothing_and_computes_with_the_same_bits(tmp_path: Path, paths: list[Path]) -> None:
    first, second = (_features(tmp_path).images(paths) for _ in range(2))
    assert (first.encodes, second.encodes) == (12, 0)
    assert torch.equal(first.features, second.features)
    assert first.features.dtype == torch.float32
    assert torch.equal(first.features, first.features.half().float())


def test_features_are_not_normalised(tmp_path: Path, paths: list[Path]) -> None:
    norms = _features(tmp_path).images(paths).features.norm(dim=1)
    assert float(norms.min()) > 2 and float(norms.std()) > 0.1


def test_rows_follow_the_paths(tmp_path: Path, paths: list[Path]) -> None:
    forth, back = _features(tmp_path).images(paths).features, _features(tmp_path).images(paths[::-1]).features
    assert torch.equal(forth, back.flip(0))


def test_chunks_leave_no_trace(tmp_path: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _features(tmp_path / "a").images(paths).features
    monkeypatch.setattr(features, "CHUNK", 5)
    assert torch.equal(whole, _features(tmp_path / "b").images(paths).features)


def test_one_content_under_two_names_is_encoded_once(tmp_path: Path, paths: list[Path]) -> None:
    copy = tmp_path / "copy.png"
    copy.write_bytes(paths[0].read_bytes())
    encoded = _features(tmp_path).images([paths[0], copy])
    assert encoded.encodes == 1
    assert torch.equal(encoded.features[0], encoded.features[1])


def test_a_changed_file_is_encoded_again(tmp_path: Path, paths: list[Path]) -> None:
    before = _features(tmp_path).images(paths[:1]).features
    Image.new("RGB", (8, 8), (1, 2, 3)).save(paths[0])
    after = _features(tmp_path).images(paths[:1])
    assert after.encodes == 1 and not torch.equal(before, after.features)


def test_another_backbone_has_its_own_file(tmp_path: Path, paths: list[Path]) -> None:
    _features(tmp_path, seed=0).images(paths)
    assert _features(tmp_path, seed=1).images(paths).encodes == 12


def test_no_paths_give_no_rows(tmp_path: Path) -> None:
    assert _features(tmp_path).images([]).features.shape == (0, ToyBackbone.dim)


@pytest.mark.parametrize("damage", [b"", b"no database at all" * 500, None])
def test_a_damaged_file_is_rebuilt(tmp_path: Path, paths: list[Path], damage: bytes | None) -> None:
    whole = _features(tmp_path).images(paths).features
    file = _file(tmp_path)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] if damage is None else damage)
    again = _features(tmp_path).images(paths)
    assert again.encodes == 12 and torch.equal(again.features, whole)
    assert _features(tmp_path).images(paths).encodes == 0


def test_a_flipped_bit_is_noticed(tmp_path: Path, paths: list[Path]) -> None:
    whole = _features(tmp_path).images(paths).features
    file = _file(tmp_path)
    data, row = bytearray(file.read_bytes()), whole[5].half().numpy().tobytes()
    data[data.index(row) + 7] ^= 1
    file.write_bytes(bytes(data))
    again = _features(tmp_path).images(paths)
    assert again.encodes == 1 and torch.equal(again.features, whole)


@pytest.fixture
def room() -> Iterator[Callable[[int], None]]:
    """Lets this process write so many bytes of a file, as a full disk would."""
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))


def test_without_room_on_disk_features_are_computed_and_not_kept(
    tmp_path: Path, paths: list[Path], room: Callable[[int], None]
) -> None:
    whole = _features(tmp_path / "kept").images(paths)
    cramped = _features(tmp_path / "full")
    with structlog.testing.capture_logs() as said:
        room(4096)
        found = [cramped.images(paths) for _ in range(2)]
        assert cramped.scale() == ToyBackbone.scale
        room(resource.RLIM_INFINITY)
    assert all(torch.equal(f.features, whole.features) and f.encodes == 12 for f in found)
    assert [line["event"] for line in said] == ["features are not kept on disk"]
    assert cramped.images(paths).encodes == 12 and cramped.images(paths).encodes == 0


def test_a_cache_in_which_nothing_can_be_made_is_done_without(tmp_path: Path, paths: list[Path]) -> None:
    (tmp_path / "features").write_text("a file where a folder should be")
    assert [_features(tmp_path).images(paths).encodes for _ in range(2)] == [12, 12]


def test_a_shelf_that_cannot_be_written_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file where a folder should be")
    with pytest.raises(StoreError, match="QUORATE_CACHE"):
        Shelf(tmp_path / "file" / "x.sqlite").write({"k": b"v"})


def test_what_is_kept_first_stays(tmp_path: Path) -> None:
    one, two = Shelf(tmp_path / "x.sqlite"), Shelf(tmp_path / "x.sqlite")
    assert one.write({"k": b"first"}) == {"k": b"first"}
    assert two.write({"k": b"other", "m": b"seven"}) == {"k": b"first", "m": b"seven"}


def test_many_may_write_at_once_and_all_agree_on_what_is_kept(tmp_path: Path) -> None:
    def write(who: int) -> dict[str, bytes]:
        shelf = Shelf(tmp_path / "x.sqlite")
        return {k: v for i in range(5) for k, v in shelf.write({f"k{i}": b"%d" % who, f"own{who}-{i}": b"x"}).items()}

    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(write, range(8)))
    kept = Shelf(tmp_path / "x.sqlite").read([k for t in told for k in t], 1)
    assert len(kept) == 5 + 8 * 5
    assert all(kept[k] == v for t in told for k, v in t.items())


def test_a_broken_image_is_named(tmp_path: Path, paths: list[Path]) -> None:
    paths[3].write_bytes(b"broken")
    with pytest.raises(DataError, match=f"cannot read {paths[3]}"):
        _features(tmp_path).images(paths)


def test_a_feature_beyond_half_precision_is_refused(tmp_path: Path, paths: list[Path]) -> None:
    class Loud(ToyBackbone):
        def encode_images(self, batch: torch.Tensor) -> torch.Tensor:
            return 1e6 * super().encode_images(batch)

    with pytest.raises(DataError, match="not finite in half precision"):
        Features(Loud(Loud.Params()), tmp_path).images(paths)


def test_class_texts_are_the_normalised_mean_of_normalised_prompts(tmp_path: Path) -> None:
    toy, prompts = ToyBackbone(ToyBackbone.Params()), ("a picture of a {}", "{}, a drawing")
    texts = _features(tmp_path).texts(("amber", "blue"), prompts)
    for row, name in zip(texts.double(), ("amber", "blue"), strict=True):
        raw = toy.encode_texts([p.replace("{}", name) for p in prompts]).double()
        mean = (raw / raw.norm(dim=1, keepdim=True)).mean(dim=0)
        assert torch.allclose(row, mean / mean.norm(), atol=1e-6)
    assert torch.equal(texts, _features(tmp_path).texts(("amber", "blue"), prompts))


def test_with_all_features_at_hand_the_model_is_not_built(tmp_path: Path, paths: list[Path]) -> None:
    class Absent(ToyBackbone):
        scale = property(lambda self: pytest.fail("built"))  # type: ignore[assignment]

        def encode_images(self, batch: torch.Tensor) -> torch.Tensor:
            pytest.fail("built")

        def encode_texts(self, texts: object) -> torch.Tensor:
            pytest.fail("built")

    first = _features(tmp_path)
    expected = (first.images(paths).features, first.texts(("amber",), ("{}",)), first.scale())
    second = Features(Absent(Absent.Params()), tmp_path)
    assert torch.equal(second.images(paths).features, expected[0])
    assert torch.equal(second.texts(("amber",), ("{}",)), expected[1])
    assert second.scale() == expected[2] == 20.0
