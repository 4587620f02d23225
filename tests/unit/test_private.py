import os
import time
from pathlib import Path

import pytest
import torch

from schemas.errors import BlobCorrupt, BlobMissing
from schemas.messages import BlobRef, ClientSlot, Ref
from workers.private import DAY_S, KEPT, SitePrivate


def _slot(ref: BlobRef | None = None) -> ClientSlot:
    return ClientSlot(client="north", private=Ref(blob=ref) if ref else None)


def _keep(place: SitePrivate, value: float) -> BlobRef:
    ref = place.write("run", _slot(), {"w": torch.tensor([value])})
    assert ref is not None
    return ref


def _read(place: SitePrivate, ref: BlobRef) -> float:
    return float(place.read("run", _slot(ref))["w"])


def test_what_is_kept_is_found_by_its_opaque_id(tmp_path: Path) -> None:
    place = SitePrivate(tmp_path)
    refs = [_keep(place, v) for v in (1.0, 2.0)]
    assert [_read(place, r) for r in refs] == [1.0, 2.0]
    assert all(r.key == f"private:{r.sha256}" for r in refs)


def test_nothing_to_keep_leaves_nothing(tmp_path: Path) -> None:
    place = SitePrivate(tmp_path)
    assert place.write("run", _slot(), {}) is None
    assert place.read("run", _slot()) == {}
    assert list(tmp_path.iterdir()) == []


def test_the_state_that_the_loop_still_counts_on_outlives_many_unaccepted_ones(tmp_path: Path) -> None:
    place = SitePrivate(tmp_path)
    accepted = _keep(place, 0.0)
    for value in range(1, 3 * KEPT):
        assert _read(place, accepted) == 0.0
        _keep(place, float(value))
    assert len(list(tmp_path.rglob("*.safetensors"))) == KEPT


def test_a_lost_or_changed_file_is_noticed(tmp_path: Path) -> None:
    place = SitePrivate(tmp_path)
    ref = _keep(place, 1.0)
    (file,) = tmp_path.rglob("*.safetensors")
    for damage in (b"", file.read_bytes()[:-1], file.read_bytes() + b"x", bytes(ref.size)):
        file.write_bytes(damage)
        with pytest.raises(BlobCorrupt):
            _read(place, ref)
    file.unlink()
    with pytest.raises(BlobMissing):
        _read(place, ref)


def test_only_the_owner_may_look_into_the_folder(tmp_path: Path) -> None:
    _keep(SitePrivate(tmp_path / "private"), 1.0)
    (file,) = (tmp_path / "private").rglob("*.safetensors")
    assert file.stat().st_mode & 0o077 == 0


def _runs(place: SitePrivate, *names: str) -> dict[str, BlobRef]:
    """Runs whose client has private state here, each of two files; all were last touched 31 days ago."""
    refs = {}
    for name in names:
        for value in (1.0, 2.0):
            ref = place.write(name, _slot(), {"w": torch.tensor([value])})
            assert ref is not None
            refs[name] = ref
    for path in place.root.rglob("*.safetensors"):
        os.utime(path, (time.time(), time.time() - 31 * DAY_S))
    return refs


def _begins(place: SitePrivate) -> set[str]:
    """Another run begins; those that are left."""
    assert place.write("new", _slot(), {"w": torch.ones(1)})
    return {p.name for p in place.root.iterdir()} - {"new"}


def test_a_run_that_was_not_touched_for_days_is_forgotten_when_another_begins(tmp_path: Path) -> None:
    _runs(SitePrivate(tmp_path), "old", "older")
    assert _begins(SitePrivate(tmp_path, keep_days=30)) == set()


def test_nothing_is_forgotten_unless_it_is_asked_for_and_old(tmp_path: Path) -> None:
    _runs(SitePrivate(tmp_path), "old")
    assert _begins(SitePrivate(tmp_path)) == {"old"}
    assert _begins(SitePrivate(tmp_path, keep_days=32)) == {"old"}


def test_a_run_that_goes_on_is_kept_whole_whichever_of_its_files_was_read_last(tmp_path: Path) -> None:
    place = SitePrivate(tmp_path, keep_days=30)
    refs = _runs(place, "living", "ended")
    place.read("living", _slot(refs["living"]))
    assert _begins(place) == {"living"}
    assert len(list((tmp_path / "living").rglob("*.safetensors"))) == 2


def test_what_is_no_private_state_is_never_deleted(tmp_path: Path) -> None:
    place = SitePrivate(tmp_path, keep_days=30)
    for name in ("old/notes.txt", "models/clip/weights.safetensors", "photos/cat.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"mine")
    _runs(place, "old")
    assert _begins(place) == {"old", "models", "photos"}
    assert [p.name for p in sorted((tmp_path / "old").rglob("*"))] == ["notes.txt"]
