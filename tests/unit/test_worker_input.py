"""What a worker should not have been given: foreign code, damaged blobs, grants of files. It says so and goes on."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from schemas.base import Choice, digest
from schemas.experiment import Data, SiteData
from schemas.messages import BlobRef, ClientResult, Task
from tests.toys import experiment, paint
from tests.unit.test_execute import Bench
from workers.execute import Worker
from workers.place import Site
from workers.tensors import fingerprint, pack, unpack

SPY = "imported_by_mistake"
FOREIGN = {"name": f"{SPY}:Plugin"}


@pytest.fixture
def spy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that leaves a file if it is imported."""
    trace = tmp_path / "was-here"
    (tmp_path / f"{SPY}.py").write_text(f"open({str(trace)!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    return trace


def _site(tmp_path: Path) -> Site:
    data = Data(params={"root": str(paint(tmp_path / "ward", domains=("clinic",), per_class=5))})
    return Site("north", SiteData(data=data, private=tmp_path / "kept", plugins=("tests.toys:ToyBackbone",)))


# --- code


LOADED_AT_A_WORKER: dict[str, dict[str, Any]] = {
    "method": {"method": FOREIGN},
    "backbone": {"model": {"backbone": FOREIGN}},
    "codec": {"codec": FOREIGN},
    "transform": {"transforms": [FOREIGN]},
    "second transform": {"transforms": [{"name": "clip", "params": {"norm": 1}}, FOREIGN]},
}
NEVER_LOADED_AT_A_WORKER: dict[str, dict[str, Any]] = {
    "selector": {"selector": FOREIGN},
    "aggregator": {"aggregator": FOREIGN},
    "latency": {"simulate": {"latency": FOREIGN}},
    "data set": {"sites": None, "data": FOREIGN},
    "partition": {"sites": None, "data": {"name": "shapes", "partition": FOREIGN}},
}


@pytest.mark.parametrize("part", LOADED_AT_A_WORKER)
@pytest.mark.parametrize("name", [f"{SPY}:Plugin", "os:system", "builtins:eval", f"{SPY}.deep:Plugin"])
def test_a_site_refuses_code_that_its_file_does_not_list(tmp_path: Path, spy: Path, part: str, name: str) -> None:
    honest = Bench(tmp_path, site=_site(tmp_path))
    model = honest.model()
    changes = json.loads(json.dumps(LOADED_AT_A_WORKER[part]).replace(FOREIGN["name"], name))
    honest.office.asked = experiment(**changes)
    honest.office.agree(("amber", "blue", "green"), honest_print(honest))
    failed = honest.fail(honest.office.task("train", "t", ["north"], model=model, own=True))
    assert failed.code == "client" and f"{name!r} may not be loaded here" in failed.message
    assert SPY not in sys.modules and not spy.exists()


@pytest.mark.parametrize("part", NEVER_LOADED_AT_A_WORKER)
def test_what_a_site_has_no_use_for_it_does_not_import(tmp_path: Path, spy: Path, part: str) -> None:
    bench = Bench(tmp_path, site=_site(tmp_path))
    model = bench.model()
    bench.office.asked = experiment(**NEVER_LOADED_AT_A_WORKER[part])
    bench.office.agree(("amber", "blue", "green"), honest_print(bench))
    for task in (bench.office.task("describe", "d"), bench.office.task("train", "t", ["north"], model=model, own=True)):
        bench.do(task)
    assert SPY not in sys.modules and not spy.exists()


def honest_print(bench: Bench) -> str:
    """The fingerprint that the office of a bench has agreed on."""
    return str(json.loads(bench.office.blobs.get(bench.office.setting))["fingerprint"])


@pytest.mark.parametrize("part", ["method", "codec", "transform", "backbone"])
def test_os_system_is_no_plugin_in_the_pool_either(tmp_path: Path, part: str) -> None:
    changes = json.loads(json.dumps(LOADED_AT_A_WORKER[part]).replace(FOREIGN["name"], "os:system"))
    bench = Bench(tmp_path)
    model = bench.model()
    bench.office.asked = experiment(tmp_path / "images", **changes)
    bench.office.agree(("amber", "blue", "green"), honest_print(bench))
    failed = bench.fail(bench.office.task("train", "t", ["flat-0"], model=model))
    assert failed.code == "client" and "'os:system' is no plugin" in failed.message


# --- blobs


def _claims_ten_gigabytes() -> bytes:
    return (10 * 2**30).to_bytes(8, "little") + b'{"w":'


BAD_BLOBS = {
    "empty": b"",
    "text": b"no tensors at all",
    "pickle": b"\x80\x04\x95 a pickle",
    "ten gigabytes of header": _claims_ten_gigabytes(),
    "other names": pack({"w": torch.ones(3)}),
    "other shapes": pack({"gate.weight": torch.ones(3)}),
    "truncated": pack({"w": torch.ones(300)})[:-1],
}


@pytest.mark.parametrize("name", BAD_BLOBS)
def test_a_model_that_is_none_is_a_failure_and_the_next_task_is_done(tmp_path: Path, name: str) -> None:
    bench = Bench(tmp_path)
    model = bench.model()
    bad = bench.office.put("bad", BAD_BLOBS[name])
    failed = bench.fail(bench.office.task("train", "t", ["flat-0"], model=bad))
    assert failed.code == "client" and len(failed.message) <= 2000
    bench.do(bench.office.task("train", "u", ["flat-0"], model=model))


def _wrong(ref: BlobRef) -> dict[str, BlobRef]:
    return {
        "hash": ref.model_copy(update={"sha256": "0" * 64}),
        "too small": ref.model_copy(update={"size": ref.size - 1}),
        "too large": ref.model_copy(update={"size": ref.size + 1}),
        "absent": ref.model_copy(update={"key": "nowhere"}),
    }


def _begins_anew(bench: Bench, task: Task, first: ClientResult) -> None:
    """The same work as for the first time, from the same base, and it says that something was lost."""
    again = bench.do(task).results[0]
    assert again.metrics["private_lost"] == 1.0
    assert again.update is not None and first.update is not None
    sent, before = (unpack(bench.office.blobs.get(ref)) for ref in (again.update, first.update))
    assert fingerprint(sent) == fingerprint(before)


@pytest.mark.parametrize("what", ["hash", "too small", "too large", "absent"])
def test_a_blob_that_is_not_what_was_promised_may_be_asked_for_again(tmp_path: Path, what: str) -> None:
    bench = Bench(tmp_path, codec=Choice(name="fp16"))
    model = bench.model()
    first = bench.do(bench.office.task("train", "t", ["flat-0"], model=model)).results[0]
    assert first.private is not None
    task = bench.office.task("train", "u", ["flat-0"], model=_wrong(model)[what])
    assert bench.fail(task).code == "infra"
    assert not (tmp_path / "w1" / "blobs" / "u").exists(), "nothing half-written"
    task = bench.office.task("train", "v", ["flat-0"], model=model, private={"flat-0": _wrong(first.private)[what]})
    _begins_anew(bench, task, first)


@pytest.mark.parametrize("at_site", [False, True])
@pytest.mark.parametrize("name", ["empty", "text", "ten gigabytes of header", "truncated"])
def test_a_client_whose_private_state_is_none_begins_anew(tmp_path: Path, name: str, at_site: bool) -> None:
    bench = Bench(tmp_path, site=_site(tmp_path) if at_site else None)
    client, model, data = "north" if at_site else "flat-0", bench.model(), BAD_BLOBS[name]
    first = bench.do(bench.office.task("train", "s", [client], model=model, own=at_site)).results[0]
    bad = bench.office.put("bad", data)
    if at_site:
        path = tmp_path / "kept" / "toy" / client / f"{digest(data)}.safetensors"
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
    _begins_anew(
        bench, bench.office.task("train", "t", [client], model=model, own=at_site, private={client: bad}), first
    )


@pytest.mark.parametrize("data", [b"", b"{}", b"no json", b"[" * 10_000, b'{"experiment": {"name": "../up"}}', b"\xff"])
def test_a_setting_that_is_none_is_a_failure(tmp_path: Path, data: bytes) -> None:
    bench = Bench(tmp_path)
    bench.office.setting = bench.office.put("odd.json", data)
    failed = bench.fail(bench.office.task("describe", "t"))
    assert failed.code == "client" and "\n" not in failed.message


# --- files


def test_a_site_takes_no_grant_of_a_file(tmp_path: Path) -> None:
    bench = Bench(tmp_path, site=_site(tmp_path))
    given = {
        "name": "w",
        "stream": bench.stream,
        "state": bench.worker.state,
        "cache": tmp_path,
        "site": bench.worker.site,
    }
    bench.worker = Worker(**given, files=False)  # type: ignore[arg-type]
    failed = bench.fail(bench.office.task("init", "t"))
    assert failed.code == "client" and "grants of an S3" in failed.message
    assert not (tmp_path / "w1" / "blobs" / "t").exists()
