import json
from pathlib import Path

import pytest
import structlog
import torch

from infra.blobs import readable
from infra.clock import VirtualClock
from infra.state import FileState
from infra.stream import START, FileStream
from schemas.base import Choice
from schemas.errors import BlobError, BlobMissing, ConfigError, DataError, GrantRefused, StoreError
from schemas.experiment import Data, SiteData
from schemas.messages import ALL, BlobRef, Description, Manifest, TaskFailure
from tests.toys import Office, ToyBackbone, experiment, paint
from workers.codecs.fp16 import Fp16
from workers.codecs.raw import Raw
from workers.execute import Worker
from workers.failure import code_of, failure
from workers.pipeline import RESIDUAL, open_update
from workers.place import Place, Site
from workers.tensors import Tensors, fingerprint, pack, unpack

CLASSES = ("amber", "blue", "green")


class Bench:
    """A worker, an office and what the worker said last."""

    def __init__(self, tmp: Path, name: str = "w1", site: Site | None = None, **changes: object) -> None:
        self.root = tmp
        folder = tmp / name
        images = tmp / "images"
        asked = experiment(None if site else images if images.exists() else paint(images), **changes)
        self.office = Office(folder, asked)
        self.stream = FileStream(folder / "stream", VirtualClock())
        state = FileState(folder / "state")
        self.worker = Worker(name=name, stream=self.stream, state=state, cache=folder / "cache", site=site)
        self.office.agree(CLASSES, ToyBackbone(ToyBackbone.Params()).fingerprint)

    def do(self, task: object) -> Manifest:
        author, body = self.say(task)
        assert author == "manifest", body
        return Manifest.model_validate_json(body)

    def fail(self, task: object) -> TaskFailure:
        author, body = self.say(task)
        assert author == "failure", body
        return TaskFailure.model_validate_json(body)

    def say(self, task: object) -> tuple[str, str]:
        self.worker.handle(task.model_dump_json())  # type: ignore[attr-defined]
        last = self.stream.read("toy", START, 0)[-1]
        return last.author, last.body

    def model(self) -> BlobRef:
        made = self.do(self.office.task("init", "t-init")).outputs["state"]
        tensors = unpack(self.office.blobs.get(made))
        return self.office.put("model", pack({k.removeprefix(f"{ALL}/"): t for k, t in tensors.items()}))

    def update(self, ref: BlobRef | None) -> Tensors:
        assert ref is not None
        return open_update(self.office.blobs.get(ref), Raw(Raw.Params()))[0]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_task_of_another_backbone_is_refused_and_encodes_nothing(bench: Bench) -> None:
    model = bench.model()
    (kept,) = bench.root.rglob("features/*.sqlite")
    before = kept.read_bytes()
    bench.office.agree(CLASSES, ToyBackbone(ToyBackbone.Params(seed=1)).fingerprint)
    for kind in ("init", "train", "evaluate"):
        clients = ["flat-0"] if kind != "init" else []
        failed = bench.fail(bench.office.task(kind, f"t-{kind}", clients, model=model))  # type: ignore[arg-type]
        assert failed.code == "client" and "the backbone here is" in failed.message
    assert list(bench.root.rglob("features/*")) == [kept] and kept.read_bytes() == before


def test_description_counts_images_and_names_held_out_domains(bench: Bench) -> None:
    done = bench.do(bench.office.task("describe", "t"))
    said = Description.model_validate_json(bench.office.blobs.get(done.outputs["description"]))
    assert {name: (s.train, s.val, s.test) for name, s in said.clients.items()} == {
        "flat-0": (18, 6, 6),  # 3 classes of 10 images, split 6/2/2 each
        "noisy-0": (18, 6, 6),
    }
    assert {name: (s.train, s.val, s.test) for name, s in said.held_out.items()} == {"striped": (0, 0, 30)}
    assert said.classes == CLASSES
    assert said.domains == {"flat-0": ("flat",), "noisy-0": ("noisy",), "striped": ("striped",)}


def test_a_site_counts_what_it_left_out_and_keeps_the_names(tmp_path: Path) -> None:
    root = paint(tmp_path / "images")
    (root / "flat" / "blue" / "Anna Meyer.png").write_bytes(b"")
    data = Data(params={"root": str(root), "on_unreadable": "skip"})
    site = Site("north", SiteData(data=data, private=tmp_path / "private", plugins=("tests.toys:ToyBackbone",)))
    bench = Bench(tmp_path, site=site)
    with structlog.testing.capture_logs() as said:
        done = bench.do(bench.office.task("describe", "t"))
    text = bench.office.blobs.get(done.outputs["description"]).decode()
    assert Description.model_validate_json(text).skipped == 1
    assert "Anna" not in text + done.model_dump_json()
    assert "Anna Meyer.png" in str(said)  # in this worker's own log


def test_train_uploads_a_labelled_update(bench: Bench) -> None:
    done = bench.do(bench.office.task("train", "t", ["flat-0"], model=bench.model()))
    (result,) = done.results
    assert result.update is not None
    tensors, label = open_update(bench.office.blobs.get(result.update), Raw(Raw.Params()))
    dim = ToyBackbone.dim
    assert sum(t.numel() for t in tensors.values()) == 2 * (dim * dim + dim)
    assert label.client == "flat-0" and label.weight == result.weight == 18
    assert result.metrics == label.metrics and result.private is None
    assert result.payload_bytes == result.update.size
    assert any(bool(t.any()) for t in tensors.values())


def test_a_site_never_trains_on_everybodys_images_at_once(tmp_path: Path) -> None:
    data = Data(params={"root": str(paint(tmp_path / "images"))}, partition=Choice(name="by_domain"))
    site = Site("north", SiteData(data=data, private=tmp_path / "private", plugins=("tests.toys:ToyBackbone",)))
    bench = Bench(tmp_path, site=site, method={"name": "centralised"})
    failed = bench.fail(bench.office.task("train", "t", ["north.flat-0"], model=bench.model()))
    assert failed.code == "client" and "everybody's images at once" in failed.message


def test_evaluation_at_version_0_reports_zero_shot_too(bench: Bench) -> None:
    model = bench.model()
    first = bench.do(bench.office.task("evaluate", "a", ["flat-0", "striped"], model=model)).results
    later = bench.do(bench.office.task("evaluate", "b", ["flat-0", "striped"], model=model, base=1)).results
    assert [r.metrics["examples"] for r in first] == [6, 30]
    assert [r.metrics["accuracy"] for r in first] == [r.metrics["accuracy"] for r in later]
    assert all("zero_shot" in r.metrics for r in first) and not any("zero_shot" in r.metrics for r in later)


def test_who_has_kept_something_is_judged_by_it_and_the_others_by_one_model(tmp_path: Path) -> None:
    bench = Bench(tmp_path, method={"name": "local_only"})
    model = bench.model()
    (trained,) = bench.do(bench.office.task("train", "t", ["flat-0"], model=model)).results
    assert trained.private is not None
    own = unpack(bench.office.blobs.get(trained.private))
    ruined = bench.office.put("ruined", pack({name: torch.zeros_like(t) for name, t in own.items()}))
    held = {"flat-0": ruined}
    task = bench.office.task("evaluate", "e", ["noisy-0", "flat-0", "striped"], model=model, base=1, private=held)
    found = [result.metrics["accuracy"] for result in bench.do(task).results]
    assert found[0] > 0.9 and found[2] > 0.9
    assert found[1] == pytest.approx(1 / 3), "of three classes the first, whatever it is shown"


def test_a_model_is_read_once_for_all_who_start_from_it(bench: Bench) -> None:
    model = bench.model()
    first = bench.do(bench.office.task("train", "a", ["flat-0"], model=model))
    bench.office.blobs.delete(model.key)
    again = bench.do(bench.office.task("train", "b", ["flat-0"], model=model))
    assert bench.update(first.results[0].update).keys() == bench.update(again.results[0].update).keys()
    other = model.model_copy(update={"sha256": "0" * 64})
    assert bench.fail(bench.office.task("train", "c", ["flat-0"], model=other)).code == "infra"


def test_what_a_client_does_to_its_model_stays_with_it(tmp_path: Path) -> None:
    office = Office(tmp_path, experiment())
    ref = readable(office.blobs, office.put("m", pack({"w": torch.ones(3)})), 60)
    place = Place(tmp_path / "cache")
    place.model(ref)["w"].zero_()
    assert place.model(ref)["w"].tolist() == [1.0, 1.0, 1.0]


def test_each_image_is_encoded_once_per_cache(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    model = bench.model()
    first = bench.do(bench.office.task("train", "a", ["flat-0", "noisy-0"], model=model))
    again = bench.do(bench.office.task("train", "b", ["flat-0", "noisy-0"], model=model, base=1))
    assert (first.encodes, again.encodes) == (60, 0)
    other = Worker(name="other", stream=bench.stream, state=bench.worker.state, cache=tmp_path / "w1" / "cache")
    bench.worker = other
    assert bench.do(bench.office.task("train", "c", ["flat-0"], model=model, base=2)).encodes == 0


@pytest.mark.parametrize("adapter", ["lora", "tower"])
def test_inside_the_image_tower_an_image_counts_as_often_as_it_passes(tmp_path: Path, adapter: str) -> None:
    # Of a client's 30 images 18 train, 6 validate, 6 test. Two epochs and one look: 2 x 18 + 6. Judged at version 0, it
    # is the 6 that pass, beside all 30 for the features of zero-shot; later the 6 alone.
    params = {"adapter": adapter, "epochs": 2, "batch": 5}
    bench = Bench(tmp_path, method={"name": "fedavg", "params": params})
    model = bench.model()
    assert bench.do(bench.office.task("train", "a", ["flat-0", "noisy-0"], model=model)).encodes == 2 * (2 * 18 + 6)
    assert bench.do(bench.office.task("evaluate", "b", ["flat-0"], model=model)).encodes == 6 + 30
    assert bench.do(bench.office.task("evaluate", "c", ["flat-0"], model=model, base=1)).encodes == 6


def test_an_update_does_not_depend_on_worker_order_and_hardly_on_company(tmp_path: Path) -> None:
    alone, together = Bench(tmp_path, "alone"), Bench(tmp_path, "together")
    model = alone.model()
    assert together.model().sha256 == model.sha256
    both = together.do(together.office.task("train", "x", ["noisy-0", "flat-0"], model=model, attempt=3)).results
    one = alone.do(alone.office.task("train", "y", ["flat-0"], model=model)).results
    assert both[1].client == "flat-0"
    mine, others = alone.update(one[0].update), together.update(both[1].update)
    assert all(torch.allclose(others[k], t, atol=1e-6, rtol=0) for k, t in mine.items())
    again = Bench(tmp_path, "again")
    again.model()
    reversed_ = again.do(again.office.task("train", "z", ["flat-0", "noisy-0"], model=model)).results
    assert fingerprint(again.update(reversed_[0].update)) == fingerprint(others)


def test_another_base_version_draws_other_batches(bench: Bench) -> None:
    model = bench.model()
    results = [
        bench.do(bench.office.task("train", f"t{b}", ["flat-0"], model=model, base=b)).results[0] for b in (1, 2)
    ]
    assert fingerprint(bench.update(results[0].update)) != fingerprint(bench.update(results[1].update))


def test_a_redelivered_task_reports_what_lies_under_its_key(bench: Bench) -> None:
    task = bench.office.task("train", "t", ["flat-0"], model=bench.model())
    first = bench.do(task).results[0]
    assert first.update is not None and first.encodes == 30
    key = first.update.key
    mine = bench.office.blobs.get(first.update)
    # A GPU may round differently the second time: another payload of the same label lies there.
    tensors, _ = open_update(mine, Raw(Raw.Params()))
    other = pack({k: t + 1 for k, t in tensors.items()}, {**_labels(mine), "weight": "7.0"})
    bench.office.blobs.delete(key)
    found = bench.office.blobs.put(key, other)
    again = bench.do(task).results[0]
    assert again.update == found
    assert (again.weight, again.encodes) == (7.0, 30)


def test_a_redelivered_task_of_several_reads_back_what_its_clients_had_uploaded(bench: Bench) -> None:
    task = bench.office.task("train", "t", ["flat-0", "noisy-0"], model=bench.model())
    first = bench.do(task).results
    assert first[0].update is not None and first[1].update is not None
    tensors, _ = open_update(bench.office.blobs.get(first[0].update), Raw(Raw.Params()))
    label, written = _labels(bench.office.blobs.get(first[0].update)), fingerprint(bench.update(first[1].update))
    for result in first:
        assert result.update is not None
        bench.office.blobs.delete(result.update.key)
    other = bench.office.blobs.put(first[0].update.key, pack({k: t + 1 for k, t in tensors.items()}, label))
    again = bench.do(task).results  # it had died between the two uploads
    assert again[0].update == other
    assert fingerprint(bench.update(again[1].update)) == written


def test_a_store_that_fails_is_the_whole_task_s_failure(bench: Bench) -> None:
    model = bench.model()
    gone = bench.office.put("private", pack({"w": torch.zeros(1)}))
    task = bench.office.task("train", "t", ["flat-0", "noisy-0"], model=model, private={"noisy-0": gone})
    (bench.root / "w1" / "blobs" / "private").unlink()
    (bench.root / "w1" / "blobs" / "private").mkdir()
    with pytest.raises(BlobError):  # in process; elsewhere it is a failure of code infra
        bench.say(task)


def test_a_client_that_fails_in_company_says_why_and_a_site_names_no_path(tmp_path: Path) -> None:
    for name, site in (("pool", None), ("site", _divided(tmp_path))):
        bench = Bench(tmp_path, name, site)
        model = bench.model()
        bench.do(bench.office.task("describe", "d"))
        clients = ["flat-0", "noisy-0"] if site is None else ["north.flat-0", "north.noisy-0"]
        broken = sorted((tmp_path / "images" / "flat").rglob("*.png"))[0]
        whole = broken.read_bytes()
        broken.write_bytes(whole[:40])
        failed, well = bench.do(bench.office.task("train", "t", clients, model=model, own=site is not None)).results
        broken.write_bytes(whole)
        assert (failed.client, failed.update, failed.weight) == (clients[0], None, 0.0)
        assert (str(broken) in failed.failed) == (site is None)
        assert site is None or failed.failed == "DataError at site north: the worker's log there says more"
        assert well.update is not None and not well.failed


def _divided(tmp_path: Path) -> Site:
    data = Data(params={"root": str(tmp_path / "images")}, partition=Choice(name="by_domain"))
    return Site("north", SiteData(data=data, private=tmp_path / "private", plugins=("tests.toys:ToyBackbone",)))


def _labels(data: bytes) -> dict[str, str]:
    from workers.tensors import metadata

    return metadata(data)


def test_a_lossy_codec_keeps_back_exactly_what_it_lost(tmp_path: Path) -> None:
    bench = Bench(tmp_path, codec={"name": "fp16"})
    exact = Bench(tmp_path, "exact")
    model = bench.model()
    exact.model()
    true = exact.update(exact.do(exact.office.task("train", "t", ["flat-0"], model=model)).results[0].update)
    first = bench.do(bench.office.task("train", "t", ["flat-0"], model=model)).results[0]
    assert first.private is not None and first.update is not None
    arrived, label = open_update(bench.office.blobs.get(first.update), Fp16(Fp16.Params()))
    assert label.private == first.private
    kept = unpack(bench.office.blobs.get(first.private))
    assert set(kept) == {RESIDUAL + name for name in true}
    assert all(torch.equal(arrived[k] + kept[RESIDUAL + k], true[k]) for k in true)
    # The next update carries the rest: base 0 again draws the same training, so what is sent is true + residual.
    task = bench.office.task("train", "u", ["flat-0"], model=model, private={"flat-0": first.private})
    second = bench.do(task).results[0]
    assert second.update is not None
    carried, _ = open_update(bench.office.blobs.get(second.update), Fp16(Fp16.Params()))
    assert all(torch.equal(carried[k], (true[k] + kept[RESIDUAL + k]).half().float()) for k in true)


def test_transforms_bound_what_is_sent(tmp_path: Path) -> None:
    bench = Bench(tmp_path, transforms=[{"name": "clip", "params": {"norm": 0.01}}])
    update = bench.update(bench.do(bench.office.task("train", "t", ["flat-0"], model=bench.model())).results[0].update)
    assert sum(float(t.double().square().sum()) for t in update.values()) ** 0.5 == pytest.approx(0.01, rel=1e-5)


def test_another_backbone_is_refused(bench: Bench) -> None:
    bench.office.agree(CLASSES, "f" * 64)
    failed = bench.fail(bench.office.task("init", "t"))
    assert failed.code == "client" and "ffffffffffff" in failed.message


def test_an_unknown_client_and_a_missing_model_are_told_apart(bench: Bench) -> None:
    model = bench.model()
    assert bench.fail(bench.office.task("train", "a", ["nobody"], model=model)).code == "client"
    gone = model.model_copy(update={"key": "gone"})
    assert bench.fail(bench.office.task("train", "b", ["flat-0"], model=gone)).code == "infra"
    lying = model.model_copy(update={"sha256": "0" * 64})
    assert bench.fail(bench.office.task("train", "c", ["flat-0"], model=lying)).code == "infra"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (GrantRefused("x"), "grant"),
        (BlobMissing("x"), "infra"),
        (StoreError("x"), "infra"),
        (DataError("x"), "client"),
        (ZeroDivisionError(), "client"),
    ],
)
def test_codes_say_whether_sending_again_can_help(error: Exception, code: str) -> None:
    assert code_of(error) == code


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"wire": 2}', "x" * 1_000_000, '{"run": "toy", "kind": "train"']
)
def test_what_is_no_task_is_dropped_without_an_answer(bench: Bench, text: str) -> None:
    bench.worker.handle(text)
    assert bench.stream.read("toy", START, 0) == []


def _site(tmp_path: Path, *plugins: str) -> Site:
    root = paint(tmp_path / "secret-ward", domains=("clinic",))
    data = Data(params={"root": str(root)})
    return Site("north", SiteData(data=data, private=tmp_path / "north-private", plugins=plugins))


def test_a_site_answers_for_its_own_data_under_its_own_name(tmp_path: Path) -> None:
    bench = Bench(tmp_path, site=_site(tmp_path, "tests.toys:ToyBackbone"))
    done = bench.do(bench.office.task("describe", "t"))
    said = Description.model_validate_json(bench.office.blobs.get(done.outputs["description"]))
    assert said.site == "north" and set(said.clients) == {"north"}


def test_private_state_of_a_site_stays_there(tmp_path: Path) -> None:
    bench = Bench(tmp_path, site=_site(tmp_path, "tests.toys:ToyBackbone"), codec=Choice(name="fp16"))
    model = bench.model()
    first = bench.do(bench.office.task("train", "t", ["north"], model=model, own=True)).results[0]
    assert first.private is not None and first.private.key == f"private:{first.private.sha256}"
    assert not any(RESIDUAL.encode() in p.read_bytes() for p in (tmp_path / "w1" / "blobs").rglob("*") if p.is_file())
    task = bench.office.task("train", "u", ["north"], model=model, base=1, own=True, private={"north": first.private})
    assert bench.do(task).results[0].private != first.private
    lost = first.private.model_copy(update={"sha256": "0" * 64})
    task = bench.office.task("train", "v", ["north"], model=model, base=2, own=True, private={"north": lost})
    anew = bench.do(task).results[0]
    assert anew.metrics["private_lost"] == 1 and anew.private not in (None, lost)


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_a_client_whose_private_state_is_lost_begins_anew_and_says_so(bench: Bench, damage: str) -> None:
    office = Bench(bench.root, "lossy", codec=Choice(name="fp16"))
    model = office.model()
    kept = office.do(office.office.task("train", "a", ["flat-0"], model=model)).results[0].private
    assert kept is not None
    first = office.do(office.office.task("train", "b", ["flat-0"], model=model, base=1)).results[0]
    office.office.blobs.delete(kept.key)
    if damage == "changed":
        office.office.blobs.put(kept.key, bytes(kept.size))
    held = {"flat-0": kept}
    again = office.do(office.office.task("train", "c", ["flat-0"], model=model, base=1, private=held)).results[0]
    assert again.metrics == first.metrics | {"private_lost": 1.0}
    assert again.update is not None and again.private is not None
    (judged,) = office.do(office.office.task("evaluate", "d", ["flat-0"], model=model, private=held)).results
    assert judged.metrics["private_lost"] == 1 and "accuracy" in judged.metrics


def test_a_worker_whose_cache_takes_nothing_trains_to_the_same_update(tmp_path: Path) -> None:
    kept, without = Bench(tmp_path, "kept"), Bench(tmp_path, "without")
    (tmp_path / "without" / "cache").mkdir(parents=True, exist_ok=True)
    (tmp_path / "without" / "cache" / "features").write_text("a file where a folder should be")
    found = []
    for bench in (kept, without):
        (result,) = bench.do(bench.office.task("train", "t", ["flat-0"], model=bench.model())).results
        assert result.update is not None and result.encodes == 30
        found.append(fingerprint(bench.update(result.update)))
    assert found[0] == found[1]


def test_a_site_loads_no_plugin_that_it_does_not_list(tmp_path: Path) -> None:
    bench = Bench(tmp_path, site=_site(tmp_path))
    failed = bench.fail(bench.office.task("init", "t"))
    assert failed.code == "client" and "may not be loaded here" in failed.message


def test_a_failure_at_a_site_names_no_path(tmp_path: Path) -> None:
    site = _site(tmp_path, "tests.toys:ToyBackbone")
    bench = Bench(tmp_path, site=site)
    model = bench.model()
    next((tmp_path / "secret-ward").rglob("*.png")).write_bytes(b"not an image")
    failed = bench.fail(bench.office.task("train", "t", ["north"], model=model, own=True))
    assert failed.code == "client"
    assert not any(word in failed.message for word in ("secret-ward", "clinic", "png", str(tmp_path)))


def test_a_failure_in_the_pool_names_the_file(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    model = bench.model()
    broken = sorted((tmp_path / "images" / "flat").rglob("*.png"))[0]
    broken.write_bytes(broken.read_bytes()[:40])
    failed = bench.fail(bench.office.task("train", "t", ["flat-0"], model=model))
    assert f"cannot read {broken}" in failed.message
    assert "file://" not in json.dumps(failed.model_dump())


def test_zero_shot_runs_through_an_empty_model(tmp_path: Path) -> None:
    bench = Bench(tmp_path, method={"name": "zero_shot"})
    result = bench.do(bench.office.task("evaluate", "t", ["flat-0"], model=bench.model())).results[0]
    assert result.metrics["accuracy"] == result.metrics["zero_shot"]


@pytest.mark.parametrize(
    ("error", "site", "pool"),
    [
        (DataError("cannot read /ward/x.png: cut"), "DataError at site north: ...", "cannot read /ward/x.png: cut"),
        (KeyError("/ward/x.png"), "KeyError at site north: ...", "KeyError: '/ward/x.png'"),
        (StoreError("cache /ward/y: full"), "StoreError at site north: ...", "cache /ward/y: full"),
        (
            StoreError("/St. Mary Hospital/a b/c: full"),
            "StoreError at site north: ...",
            "/St. Mary Hospital/a b/c: full",
        ),
        (ConfigError(r"St. Mary\a b: full"), "ConfigError at site north: ...", r"St. Mary\a b: full"),
        (BlobMissing("file:///St. Mary: no"), "BlobMissing at site north: ...", "<url> Mary: no"),
        (
            StoreError("private state cannot be kept: No space left"),
            *["private state cannot be kept: No space left"] * 2,
        ),
        (BlobMissing("GET http://s3:1/a?sig=b no"), "GET <url> no", "GET <url> no"),
        (ValueError("file:///blobs/x is odd"), "ValueError at site north: ...", "ValueError: <url> is odd"),
    ],
)
def test_a_failure_tells_no_url_and_of_a_site_no_path(bench: Bench, error: Exception, site: str, pool: str) -> None:
    task, data = bench.office.task("train", "t"), SiteData(data=Data(params={}))
    assert failure(task, error).message == pool
    assert failure(task, error, Site("north", data)).message == site.replace("...", "the worker's log there says more")


def test_a_site_does_not_name_the_file_behind_an_error_either(bench: Bench, tmp_path: Path) -> None:
    task, site = bench.office.task("train", "t"), Site("north", SiteData(data=Data(params={})))
    told = []
    for words in ("weights St. Mary.pt: {e.strerror}", "private state cannot be read: {e.strerror}"):
        try:
            (tmp_path / "St. Mary.pt").read_bytes()
        except OSError as e:
            error = StoreError(words.format(e=e))
            error.__context__ = e
            told.append(failure(task, error, site).message)
    assert told == [
        "StoreError at site north: the worker's log there says more",
        "private state cannot be read: No such file or directory",
    ]


def test_a_failure_without_end_is_cut(bench: Bench) -> None:
    assert len(failure(bench.office.task("train", "t"), DataError("x" * 10_000)).message) == 2000
