import contextlib
import os
import resource
import sqlite3
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import structlog
import torch
from PIL import Image

from schemas.base import Choice
from schemas.errors import DataError, StoreError
from tests.toys import ToyBackbone, paint
from workers.data import ahead, claims, features
from workers.data.features import Features
from workers.data.pixels import decode, read
from workers.data.progress import EVERY_S, Progress, Step, heard
from workers.data.shelf import Shelf
from workers.plugins import load


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


def test_files_of_a_chunk_are_not_in_memory_together(
    tmp_path: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "MOST", 2)
    for path in paths:
        path.write_bytes(path.read_bytes() + bytes(2**22))  # 4 MiB behind the pixels, which nobody decodes
    monkeypatch.setattr(features, "FEW", 0)
    tracemalloc.start()
    try:
        assert _features(tmp_path).images(paths).encodes == len(paths) == 12
        assert tracemalloc.get_traced_memory()[1] < 6 * 2**22  # two are read at a time
    finally:
        tracemalloc.stop()


def test_a_file_that_changes_between_its_name_and_its_pixels_is_no_feature_of_either(
    tmp_path: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = iter([paths[0].read_bytes(), paths[1].read_bytes()])
    monkeypatch.setattr(features, "read", lambda path: next(contents))
    with pytest.raises(DataError, match=f"{paths[0]}: it was changed while it was read"):
        _features(tmp_path).images(paths[:1])
    monkeypatch.undo()
    assert _features(tmp_path).images(paths[:1]).encodes == 1


def test_one_content_in_two_chunks_is_encoded_once(
    tmp_path: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "CHUNK", 5)
    twice = _features(tmp_path).images([*paths, *paths])
    assert twice.encodes == 12 and torch.equal(twice.features[:12], twice.features[12:])


class Waiting(ToyBackbone):
    """Encodes four images only when the next four have been prepared too."""

    def __init__(self, params: ToyBackbone.Params) -> None:
        super().__init__(params)
        self.prepared = threading.Semaphore(0)

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        self.prepared.release()
        return super().preprocess(image)

    def encode_images(self, batch: torch.Tensor) -> torch.Tensor:
        for _ in range({0: 8, 4: 4, 8: 0}[self.seen]):  # of twelve
            assert self.prepared.acquire(timeout=30), "nobody prepares the next images"
        return super().encode_images(batch)


def test_the_next_images_are_decoded_while_these_are_encoded(
    tmp_path: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "CHUNK", 4)
    waiting = Features(Waiting(Waiting.Params()), tmp_path / "a").images(paths)
    assert torch.equal(waiting.features, _features(tmp_path / "b").images(paths).features)


@pytest.mark.parametrize(("hands", "threads"), [(1, 1), (4, 1), (4, 3)])
def test_threads_leave_no_trace(
    tmp_path: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch, hands: int, threads: int
) -> None:
    tiny = load("workers.models", Choice(name="tiny"))
    expected = torch.cat([tiny.encode_images(tiny.preprocess(decode(p, read(p)))[None]) for p in paths]).half()
    monkeypatch.setattr(features, "CHUNK", 5)
    monkeypatch.setattr(ahead, "MOST", hands)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = Features(tiny, tmp_path).images(paths)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found.features, expected.float())


def test_after_an_error_no_thread_is_left(tmp_path: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "CHUNK", 2)
    paths[7].write_bytes(b"broken")
    before = set(threading.enumerate())
    with pytest.raises(DataError, match=f"cannot read {paths[7]}"):
        _features(tmp_path).images(paths)
    assert set(threading.enumerate()) <= before
    paths[7].write_bytes(paths[8].read_bytes())
    assert _features(tmp_path).images(paths).encodes == 12 - 6 - 1  # six were kept, and two are alike


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


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells what is mapped")
def test_features_are_read_from_mapped_memory(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "features.sqlite")
    shelf.write({str(i): bytes(1000) for i in range(1000)})
    with shelf.reading() as read_:
        assert len(read_([str(i) for i in range(1000)], 1000)) == 1000
        assert str(shelf.path) in Path("/proc/self/maps").read_text()
    assert str(shelf.path) not in Path("/proc/self/maps").read_text()


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


ENCODE = """
import sys
from pathlib import Path
from tests.toys import ToyBackbone
from workers.data import features
features.CHUNK = 2
paths = sorted(Path(sys.argv[2]).rglob("*.png"))
print("ready", flush=True)
sys.stdin.readline()
found = features.Features(ToyBackbone(ToyBackbone.Params()), Path(sys.argv[1])).images(paths)
print(found.encodes, found.features.sum(dtype=__import__("torch").float64).item())
"""


def test_processes_that_share_a_folder_agree_and_keep_everything(tmp_path: Path) -> None:
    images = paint(tmp_path / "images", per_class=20)
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(_process(ENCODE, tmp_path, images)) for _ in range(2)]
        for process in started:
            assert process.stdout and process.stdout.readline() == "ready\n"
        for process in started:
            assert process.stdin
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [_told(process) for process in started]
    paths = sorted(images.rglob("*.png"))
    whole = _features(tmp_path).images(paths)
    assert whole.encodes == 0 and len(paths) == 180 == sum(encodes for encodes, _ in said)
    assert {total for _, total in said} == {whole.features.sum(dtype=torch.float64).item()}
    with contextlib.closing(sqlite3.connect(_file(tmp_path))) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


STUCK = ENCODE.replace(
    'print("ready", flush=True)\nsys.stdin.readline()',
    """
class Stuck(ToyBackbone):
    def encode_images(self, batch):
        if self.seen == 6:
            print("at it", flush=True)
            sys.stdin.readline()
        return super().encode_images(batch)
ToyBackbone = Stuck
""",
)
"""A process that is stopped with three chunks kept and the fourth and fifth its own to encode."""
SOON = ENCODE.replace("features.CHUNK = 2", "features.CHUNK = 2\nfrom workers.data import claims\nclaims.SILENT_S = 4")


def _told(process: subprocess.Popen[str]) -> tuple[int, float]:
    encodes, total = process.communicate(timeout=120)[0].split()
    return int(encodes), float(total)


def test_each_image_is_encoded_once_although_one_of_three_processes_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = paint(tmp_path / "images", per_class=4)
    paths = sorted(images.rglob("*.png"))
    monkeypatch.setattr(features, "CHUNK", 2)
    monkeypatch.setattr(claims, "SILENT_S", 4.0)
    with _process(STUCK, tmp_path, images) as stuck, _process(SOON, tmp_path, images) as other:
        assert stuck.stdout and stuck.stdout.readline() == "at it\n"
        stuck.kill()
        assert other.stdin and other.stdout and other.stdout.readline() == "ready\n"
        other.stdin.write("go\n")
        other.stdin.flush()
        mine = _features(tmp_path).images(paths)
        encodes, total = _told(other)
    assert mine.encodes + encodes == 36 - 6
    whole = _features(tmp_path / "alone").images(paths).features
    assert torch.equal(mine.features, whole) and total == whole.sum(dtype=torch.float64).item()
    assert Shelf(_file(tmp_path)).kinds() == {"image": 36}
    assert Shelf(_file(tmp_path).with_suffix(".claims")).kinds() == {}


WRITE = """
import itertools, sys
from pathlib import Path
from workers.data.shelf import Shelf
from workers.plugins import load
shelf = Shelf(Path(sys.argv[1]) / "x.sqlite")
for i in itertools.count():
    shelf.write({f"{i}-{j}": bytes([i % 256]) * 4000 for j in range(20)})
    print(i, flush=True)
"""


def test_a_process_killed_while_it_writes_leaves_whole_writes_alone(tmp_path: Path) -> None:
    for round_ in range(3):
        with _process(WRITE, tmp_path) as writer:
            assert writer.stdout is not None
            for _ in range(5 + round_):
                last = int(writer.stdout.readline())
            writer.kill()
        shelf = Shelf(tmp_path / "x.sqlite")
        for i in range(last + 3):
            kept = shelf.read([f"{i}-{j}" for j in range(20)], 4000)
            assert len(kept) in ({20} if i <= last else {0, 20})
            assert set(kept.values()) <= {bytes([i % 256]) * 4000}
        assert shelf.write({f"mine-{round_}": b"v"}) == {f"mine-{round_}": b"v"}


def _process(program: str, *arguments: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    root = Path(features.__file__).parents[2]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(root)}
    )


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


def test_progress_is_in_the_log_every_ten_seconds_of_encoding() -> None:
    progress = Progress()
    slow, quick = (Step(encoded=100, seconds=0.4 * EVERY_S, left=9), Step(encoded=300, seconds=0.6 * EVERY_S, left=3))
    with structlog.testing.capture_logs() as said:
        for step in (slow, slow, slow, quick, quick, quick):
            progress.tell(step)
    # Due after three slow steps (1.2 EVERY_S) and after two quick ones (1.2 again); each line is about its own steps.
    assert [(line["event"], line["encoded"], line["left"]) for line in said] == [
        ("encoding images", 300, 9), ("encoding images", 900, 3),
    ]  # fmt: skip
    rates = [300 / (1.2 * EVERY_S), 600 / (1.2 * EVERY_S)]
    assert [line["per_second"] for line in said] == pytest.approx(rates)


def test_every_encoded_image_is_told_once_and_known_ones_are_not(
    tmp_path: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "CHUNK", 5)
    told: list[Step] = []
    toy = ToyBackbone(ToyBackbone.Params())
    with heard(told.append), structlog.testing.capture_logs() as said:
        Features(toy, tmp_path).images(paths)
    assert said == []
    assert [(step.encoded, step.left) for step in told] == [(5, 7), (5, 2), (2, 0)]
    assert all(step.seconds >= 0 for step in told)
    with heard(told.append):
        Features(toy, tmp_path).images(paths)
    assert len(told) == 3
