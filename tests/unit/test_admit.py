"""Admission: every reason to refuse an update, on real blobs; and what intake may delete.

The model is w (2, 3) and b (3): (6 + 3) numbers of 4 bytes.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.blobs import FileBlobs
from orchestrator import intake, keys
from orchestrator.admit import admit, largest, unlike
from orchestrator.book import Book
from orchestrator.commits import Commits
from orchestrator.intake import Intake
from orchestrator.journal import Journal
from orchestrator.plan import plan
from orchestrator.simulate import Simulator
from schemas.base import Choice, Frozen, digest
from schemas.decisions import Asked
from schemas.errors import BlobError, CodecError
from schemas.log import Event, Open, Share
from schemas.messages import ALL, BlobRef, ClientResult, Manifest, Rejected
from tests.toys import experiment
from workers.codecs.cvlc import Cvlc
from workers.codecs.fp16 import Fp16
from workers.codecs.raw import Raw
from workers.pipeline import Codec, Label, write_update
from workers.plugins import load
from workers.tensors import Tensors, pack, size

SLOW = (HealthCheck.too_slow,)
"""A busy machine is no fault of the code."""

RUN, TASK, CLIENT = "r", "v0-ann-0", "ann"
KEY = f"runs/{RUN}/updates/{TASK}/1/{CLIENT}.safetensors"
RAW = Raw(Raw.Params())
MODEL: Tensors = {"w": torch.zeros(2, 3), "b": torch.zeros(3)}


def _delta(**changes: torch.Tensor) -> Tensors:
    return {"w": torch.ones(2, 3), "b": torch.full((3,), 2.0), **changes}


def _bytes(tensors: Tensors, **label: Any) -> bytes:
    facts = {"client": CLIENT, "weight": 3.0, "metrics": {}, "private": None, "encodes": 0, **label}
    return write_update(tensors, Label(**facts))


@dataclass
class Door:
    """A store with uploads, and one training task of `ann`."""

    blobs: FileBlobs
    task: Open = field(
        default_factory=lambda: Open(task_id=TASK, kind="train", base=0, clients=(CLIENT,), asked_at=0.0)
    )

    def put(self, data: bytes, key: str = KEY) -> BlobRef:
        return self.blobs.put(key, data)

    def ask(self, update: BlobRef | None, *, codec: Codec = RAW, **changes: Any) -> Tensors | Rejected:
        result = ClientResult.model_validate({"client": CLIENT, "update": update, "weight": 3.0, **changes})
        return admit(result, self.task, RUN, form=MODEL, blobs=self.blobs, codec=codec)

    def refusal(self, update: BlobRef | None, **changes: Any) -> Rejected:
        answer = self.ask(update, **changes)
        assert isinstance(answer, Rejected), "it was let in"
        return answer


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(FileBlobs(tmp_path / "blobs"))


# --- what is let in


@pytest.mark.parametrize("codec", [RAW, Fp16(Fp16.Params())], ids=["raw", "fp16"])
def test_a_good_update_is_let_in_as_float32(door: Door, codec: Codec) -> None:
    packed = codec.encode(_delta(), torch.Generator())
    found = door.ask(door.put(_bytes(packed)), codec=codec)
    assert not isinstance(found, Rejected)
    assert {k: t.dtype for k, t in found.items()} == {"w": torch.float32, "b": torch.float32}
    assert torch.equal(found["w"], torch.ones(2, 3)) and torch.equal(found["b"], torch.full((3,), 2.0))


def test_names_that_the_model_does_not_have_are_refused(door: Door) -> None:
    # Two clients could send them in different shapes, which nobody could add.
    assert door.refusal(door.put(_bytes(_delta(**{"stat.count": torch.ones(7)})))).reason == "names"


def test_an_update_of_any_attempt_so_far_is_let_in_and_of_no_other(door: Door) -> None:
    door.task = door.task.model_copy(update={"attempt": 3})
    for attempt in (1, 3):
        ref = door.put(_bytes(_delta()), keys.upload(RUN, "updates", TASK, attempt, CLIENT))
        assert not isinstance(door.ask(ref), Rejected)
    for attempt in (4, int("9" * 300)):
        key = keys.upload(RUN, "updates", TASK, attempt, CLIENT)
        assert door.refusal(BlobRef(key=key, sha256="0" * 64, size=1)).reason == "no update"


# --- who speaks, and of what


def test_a_client_that_was_not_asked_is_refused(door: Door) -> None:
    ref = door.put(_bytes(_delta()), keys.upload(RUN, "updates", TASK, 1, "bob"))
    assert door.refusal(ref, client="bob").reason == "other client"


def test_a_result_without_an_update_is_refused(door: Door) -> None:
    assert door.refusal(None).reason == "no update"


@pytest.mark.parametrize(
    "key",
    [
        f"runs/{RUN}/updates/v0-bob-1/1/{CLIENT}.safetensors",  # another task's
        f"runs/{RUN}/updates/{TASK}/1/bob.safetensors",  # another client's
        f"runs/{RUN}/private/{TASK}/1/{CLIENT}.safetensors",  # another kind
        f"runs/other/updates/{TASK}/1/{CLIENT}.safetensors",  # another run's
        f"runs/{RUN}/versions/00000000.json",
        f"runs/{RUN}/updates/{TASK}/../../v0-bob-1/1/{CLIENT}.safetensors",
        f"runs/{RUN}/updates/{TASK}/x/{CLIENT}.safetensors",
        f"runs/{RUN}/updates/{TASK}/{CLIENT}.safetensors",
        f"runs/{RUN}/updates/{TASK}//{CLIENT}.safetensors",
        "",
    ],
)
def test_an_update_under_a_key_that_was_not_granted_is_refused_although_it_is_there(door: Door, key: str) -> None:
    data = _bytes(_delta())
    if key and ".." not in key:
        door.put(data, key)
    assert door.refusal(BlobRef(key=key, sha256=digest(data), size=len(data))).reason == "no update"


def test_private_state_outside_the_grant_is_refused(door: Door) -> None:
    ref = door.put(_bytes(_delta()))
    for key in (f"runs/{RUN}/private/v0-bob-1/1/{CLIENT}.safetensors", f"runs/{RUN}/final.json", "private:ann-3"):
        foreign = BlobRef(key=key, sha256="0" * 64, size=1)
        assert door.refusal(ref, private=foreign).reason == "private state"
    granted = BlobRef(key=keys.upload(RUN, "private", TASK, 1, CLIENT), sha256="0" * 64, size=1)
    assert not isinstance(door.ask(ref, private=granted), Rejected)


def test_private_state_of_a_site_is_an_opaque_id_and_never_a_key_of_the_run(door: Door) -> None:
    ref = door.put(_bytes(_delta()))
    door.task = door.task.model_copy(update={"site": "clinic"})
    own = BlobRef(key="private:" + "0" * 64, sha256="0" * 64, size=1)
    assert not isinstance(door.ask(ref, private=own), Rejected)
    long = BlobRef(key="private:" + "x" * 1000, sha256="0" * 64, size=1)
    assert door.refusal(ref, private=long).reason == "private state"
    uploaded = BlobRef(key=keys.upload(RUN, "private", TASK, 1, CLIENT), sha256="0" * 64, size=1)
    assert door.refusal(ref, private=uploaded).reason == "private state"


@pytest.mark.parametrize("weight", [0.0, 1e-13, 1e13, 1.7e308])
def test_a_weight_of_nothing_or_beyond_all_measure_is_refused(door: Door, weight: float) -> None:
    assert door.refusal(door.put(_bytes(_delta())), weight=weight).reason == "weight"


# --- the blob


def test_an_update_that_is_not_there_is_refused(door: Door) -> None:
    assert door.refusal(BlobRef(key=KEY, sha256="0" * 64, size=100)).reason == "absent"


def test_an_update_with_another_hash_is_refused(door: Door) -> None:
    ref = door.put(_bytes(_delta()))
    assert door.refusal(ref.model_copy(update={"sha256": "0" * 64})).reason == "corrupt"


@pytest.mark.parametrize("off", [-1, 1])
def test_an_update_of_another_size_is_refused(door: Door, off: int) -> None:
    ref = door.put(_bytes(_delta()))
    assert door.refusal(ref.model_copy(update={"size": ref.size + off})).reason == "corrupt"


def test_a_truncated_update_is_refused_even_with_its_own_hash(door: Door) -> None:
    whole = _bytes(_delta())
    assert door.refusal(door.put(whole[:-1])).reason == "unreadable"


def test_an_update_larger_than_any_honest_one_is_refused_before_it_is_read(door: Door) -> None:
    huge = BlobRef(key=KEY, sha256="0" * 64, size=largest(MODEL) + 1)
    assert door.refusal(huge).reason == "too large"  # nothing is stored there: reading would say `absent`
    assert largest(MODEL) > len(_bytes(_delta()))


def test_a_small_update_that_stands_for_more_numbers_than_the_model_has_is_refused(door: Door) -> None:
    codec = Cvlc(Cvlc.Params(bits=1.0, groups=1))  # 10,000 numbers in some 1,250 bytes: far below `largest`
    ref = door.put(_bytes(codec.encode({"w": torch.ones(10_000)}, torch.Generator())))
    assert ref.size < largest(MODEL)
    refused = door.refusal(ref, codec=codec)
    assert (refused.reason, refused.detail) == ("unreadable", "the shapes are of more than 9 numbers")


def test_a_stored_blob_larger_than_promised_is_not_read(door: Door) -> None:
    ref = door.put(b"\0" * 50_000_000)
    assert door.refusal(ref.model_copy(update={"size": 200})).reason == "corrupt"


def _header(size: int, text: bytes = b"") -> bytes:
    return size.to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"PK\x03\x04 a pickle in a zip",
        b"\x80\x04\x95 a pickle",
        json.dumps({"w": [1, 2, 3]}).encode(),
        _header(10_000_000_000, b'{"w":'),  # claims ten gigabytes of header
        _header(2**64 - 1),
        _header(2, b"{}"),
        _header(2, b"[]"),
        _header(4, b"null"),
        _header(18, b'{"__metadata__":1}'),
        _header(20_000, b"[" * 20_000),
        _header(75, b'{"w":{"dtype":"F32","shape":[0,9223372036854775808],"data_offsets":[0,0]}} '),
        pack(_delta()),  # no label
        pack(_delta(), {"client": CLIENT, "weight": "1.0", "metrics": "{}", "private": "null"}),  # one part missing
    ],
)
def test_what_is_no_update_is_refused(door: Door, data: bytes) -> None:
    assert door.refusal(door.put(data)).reason == "unreadable"


def test_a_tensor_that_claims_ten_gigabytes_is_refused(door: Door) -> None:
    claim = {"w": {"dtype": "F32", "shape": [50_000, 50_000], "data_offsets": [0, 10_000_000_000]}}
    text = json.dumps(claim).encode()
    assert door.refusal(door.put(_header(len(text), text))).reason == "unreadable"


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight": "nan"},
        {"weight": "-1"},
        {"weight": "9" * 5000},
        {"encodes": "-1"},
        {"encodes": "9" * 5000},
        {"metrics": '{"loss": "low"}'},
        {"metrics": '{"loss": 1e999}'},
        {"metrics": "["},
        {"private": '{"key": "k"}'},
    ],
)
def test_a_label_with_an_impossible_value_is_refused(door: Door, wrong: dict[str, str]) -> None:
    label = {"client": CLIENT, "weight": "1.0", "metrics": "{}", "private": "null", "encodes": "0", **wrong}
    assert door.refusal(door.put(pack(_delta(), label))).reason == "unreadable"


@settings(deadline=None, suppress_health_check=SLOW)
@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 255))
def test_whatever_the_bytes_are_admission_answers(tail: bytes, at: int, value: int) -> None:
    whole = _bytes(_delta())
    at = at % len(whole)
    for data in (tail, whole[:at] + bytes([value]) + whole[at + 1 :], whole[:at] + tail, _header(len(tail), tail)):
        ref = BlobRef(key=KEY, sha256=digest(data), size=len(data))
        result = ClientResult(client=CLIENT, update=ref, weight=3.0)
        task = Open(task_id=TASK, kind="train", base=0, clients=(CLIENT,), asked_at=0.0)
        found = admit(result, task, RUN, form=MODEL, blobs=_Held(data), codec=RAW)  # type: ignore[arg-type]
        if not isinstance(found, Rejected):
            assert {k: t.shape for k, t in found.items() if k in MODEL} == {k: t.shape for k, t in MODEL.items()}
            assert all(bool(t.isfinite().all()) for t in found.values())


@dataclass
class _Held:
    """A store of one blob."""

    data: bytes

    def get(self, ref: BlobRef) -> bytes:
        return self.data


# --- the tensors


@pytest.mark.parametrize(
    "tensors",
    [{}, {"w": torch.ones(2, 3)}, _delta(extra=torch.ones(1)), {"w": torch.ones(2, 3), "c": torch.ones(3)}],
    ids=["none", "one missing", "one more", "another"],
)
def test_other_names_than_the_models_are_refused(door: Door, tensors: Tensors) -> None:
    assert door.refusal(door.put(_bytes(tensors))).reason == "names"


@pytest.mark.parametrize("shape", [(3, 2), (6,), (1, 2, 3), (2, 3, 0), ()])
def test_other_shapes_than_the_models_are_refused_also_those_that_would_broadcast(
    door: Door, shape: tuple[int, ...]
) -> None:
    assert door.refusal(door.put(_bytes(_delta(w=torch.ones(shape))))).reason == "shapes"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_number_that_is_not_finite_is_enough_to_refuse(door: Door, bad: float) -> None:
    refusal = door.refusal(door.put(_bytes(_delta(b=torch.tensor([1.0, bad, 1.0])))))
    assert (refusal.reason, refusal.detail) == ("not finite", "b")


def test_infinity_in_half_precision_is_refused_too(door: Door) -> None:
    packed = {k: t.half() for k, t in _delta(b=torch.tensor([1.0, math.inf, 1.0])).items()}
    assert door.refusal(door.put(_bytes(packed)), codec=Fp16(Fp16.Params())).reason == "not finite"


def test_the_largest_finite_numbers_are_finite(door: Door) -> None:
    top = torch.full((3,), torch.finfo(torch.float32).max)
    assert not isinstance(door.ask(door.put(_bytes(_delta(b=top)))), Rejected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_another_dtype_than_the_codecs_is_unreadable(door: Door, dtype: torch.dtype) -> None:
    assert door.refusal(door.put(_bytes(_delta(b=torch.ones(3).to(dtype))))).reason == "unreadable"


def test_a_codec_that_decodes_to_another_dtype_is_noticed() -> None:
    refusal = unlike(_delta(b=torch.ones(3, dtype=torch.float64)), MODEL)
    assert refusal is not None and refusal.reason == "dtypes"


@pytest.mark.parametrize(("factor", "said"), [(0.999, None), (1.0, None), (1.001, "norm"), (1e30, "norm")])
def test_an_update_longer_than_the_bound_is_refused(door: Door, factor: float, said: str | None) -> None:
    # Of 6 numbers 1 and 3 numbers 2 the L2 norm is sqrt(6 + 12).
    update = {k: t * factor for k, t in _delta().items()}
    result = ClientResult(client=CLIENT, update=door.put(_bytes(update)), weight=3.0)
    found = admit(result, door.task, RUN, form=MODEL, blobs=door.blobs, codec=RAW, max_norm=math.sqrt(18))
    assert (found.reason if isinstance(found, Rejected) else None) == said


def test_the_bound_is_on_what_arrives_and_null_bounds_nothing(door: Door) -> None:
    top = torch.full((3,), torch.finfo(torch.float32).max)
    huge = ClientResult(client=CLIENT, update=door.put(_bytes(_delta(b=top))), weight=3.0)
    asked = {"form": MODEL, "blobs": door.blobs, "codec": RAW}
    assert not isinstance(admit(huge, door.task, RUN, **asked), Rejected)  # type: ignore[arg-type]
    refused = admit(huge, door.task, RUN, max_norm=1e38, **asked)  # type: ignore[arg-type]
    assert isinstance(refused, Rejected)  # the sum of squares is beyond float32, and is not infinite
    assert refused.detail == f"{math.sqrt(3) * float(top[0]):.6g}, at most 1e+38"


def test_a_client_that_shouts_is_refused_and_the_others_go_on(tmp_path: Path) -> None:
    desk = _desk(tmp_path, rounds={"max_norm": 5.0})
    loud = _refs(desk.blobs, "bob", data=_bytes(_delta(w=torch.full((2, 3), 1e6)), client="bob"))
    desk.hand_in(
        ClientResult(client="ann", weight=3.0, **_refs(desk.blobs, "ann")),  # type: ignore[arg-type]
        ClientResult(client="bob", weight=3.0, **loud),  # type: ignore[arg-type]
    )
    assert (desk.said("accepted"), desk.said("rejected")) == ([("ann", None)], [("bob", "norm")])


def test_a_store_that_cannot_say_is_no_refusal(tmp_path: Path) -> None:
    door = Door(FileBlobs(tmp_path))
    (tmp_path / "runs").write_text("a file where a folder should be")
    with pytest.raises(BlobError):
        door.ask(BlobRef(key=KEY, sha256="0" * 64, size=10))


# --- intake: what is refused is deleted, but nothing else


class Stubborn:
    """A codec that reads nothing: every update is refused."""

    lossless = True

    class Params(Frozen):
        """No parameters."""

    def __init__(self, params: Params) -> None: ...

    def encode(self, tensors: Tensors, generator: torch.Generator) -> Tensors:
        return tensors

    def decode(self, packed: Tensors, most: int | None = None) -> Tensors:
        raise CodecError("not even this")


@dataclass
class Desk:
    """An intake with its book and store, and one open task of ann and bob."""

    intake: Intake
    book: Book
    blobs: FileBlobs
    events: list[Event]

    def hand_in(self, *results: ClientResult, task: str = TASK, at: float = 1.0) -> None:
        manifest = Manifest(run=RUN, task_id=task, attempt=1, worker="w", results=results, seconds=0.1)
        self.intake.receive(self.book, manifest, at)
        self.intake.release(self.book, at, {ALL: MODEL})

    def said(self, event: str) -> list[tuple[str | None, Any]]:
        return [(e.client, e.facts.get("reason")) for e in self.events if e.event == event]


def _desk(tmp_path: Path, **changes: object) -> Desk:
    blobs, events = FileBlobs(tmp_path / "blobs"), list[Event]()
    made = plan(experiment(**changes))
    journal = Journal(events.append)
    intake = Intake(made, Commits(RUN, blobs), Simulator.of(made, virtual=True), journal)
    book = Book(made.experiment.rounds)
    task = Open(task_id=TASK, kind="train", base=0, clients=(CLIENT, "bob"), asked_at=0.0)
    book.asks(Asked(version=0, tasks=(task,)), 0.0, instant=True)
    return Desk(intake, book, blobs, events)


def _refs(blobs: FileBlobs, client: str, *, data: bytes | None = None) -> dict[str, BlobRef]:
    update = blobs.put(keys.upload(RUN, "updates", TASK, 1, client), data or _bytes(_delta(), client=client))
    return {"update": update, "private": blobs.put(keys.upload(RUN, "private", TASK, 1, client), b"state")}


def test_an_accepted_update_is_kept_and_a_refused_one_is_rubbish(tmp_path: Path) -> None:
    desk = _desk(tmp_path)
    good, bad = _refs(desk.blobs, "ann"), _refs(desk.blobs, "bob", data=b"no update")
    desk.hand_in(
        ClientResult(client="ann", weight=3.0, **good),  # type: ignore[arg-type]
        ClientResult(client="bob", weight=3.0, **bad),  # type: ignore[arg-type]
    )
    assert (desk.said("accepted"), desk.said("rejected")) == ([("ann", None)], [("bob", "unreadable")])
    assert desk.intake.rubbish == [bad["update"].key, bad["private"].key]
    assert desk.book.ledger == {"ann": Share(asked=1, accepted=1), "bob": Share(asked=1, rejected=1)}
    assert desk.book.private == {"ann": good["private"]}


VICTIMS = (
    f"runs/{RUN}/versions/00000000.json",
    f"runs/{RUN}/experiment.json",
    f"runs/{RUN}/updates/v0-cem-1/1/cem.safetensors",
    f"runs/{RUN}/updates/{TASK}/1/ann.safetensors",
    f"runs/{RUN}/updates/{TASK}/1/cem.safetensors",
    f"runs/{RUN}/private/{TASK}/1/ann.safetensors",
    "runs/other/final.json",
    f"runs/{RUN}/updates/{TASK}/../../versions/00000000.json",
)


@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("name", ["update", "private"])
@pytest.mark.parametrize("client", ["bob", "cem"])
def test_a_worker_cannot_have_anything_deleted_that_was_not_its_to_write(
    tmp_path: Path, victim: str, name: str, client: str
) -> None:
    desk = _desk(tmp_path, codec={"name": "tests.unit.test_admit:Stubborn"})
    mine = _refs(desk.blobs, client)
    mine[name] = BlobRef(key=victim, sha256="0" * 64, size=1)
    desk.hand_in(ClientResult(client=client, weight=1.0, **mine))  # type: ignore[arg-type]
    assert [c for c, _ in desk.said("rejected")] == [client]
    granted = {keys.upload(RUN, kind, TASK, 1, "bob") for kind in ("updates", "private")}
    assert set(desk.intake.rubbish) <= granted


def test_a_second_manifest_of_a_task_changes_nothing(tmp_path: Path) -> None:
    desk = _desk(tmp_path)
    good = ClientResult(client="ann", weight=3.0, **_refs(desk.blobs, "ann"))  # type: ignore[arg-type]
    desk.hand_in(good)
    before = (dict(desk.book.ledger), dict(desk.book.accepted), list(desk.intake.rubbish))
    desk.hand_in(good.model_copy(update={"weight": 9.0}))
    assert (desk.book.ledger, desk.book.accepted, desk.intake.rubbish) == before
    assert desk.said("ignored") == [(None, "duplicate")]
    assert before[0]["bob"] == Share(asked=1, lost=1)  # the manifest said nothing of bob


def test_the_first_of_two_results_of_a_client_counts(tmp_path: Path) -> None:
    desk = _desk(tmp_path)
    first = ClientResult(client="ann", weight=3.0, **_refs(desk.blobs, "ann"))  # type: ignore[arg-type]
    desk.hand_in(first, first.model_copy(update={"weight": 7.0}))
    assert [a.weight for a in desk.book.accepted.values()] == [3.0]


def test_two_tasks_of_a_client_from_the_same_version_count_once(tmp_path: Path) -> None:
    desk, again = _desk(tmp_path), f"{TASK}-again"
    first = ClientResult(client="ann", weight=3.0, **_refs(desk.blobs, "ann"))  # type: ignore[arg-type]
    desk.book.expires_now(TASK)  # given up and asked once more; then both answer
    desk.book.retries_now(1.0)
    task = Open(task_id=again, kind="train", base=0, clients=("ann",), asked_at=1.0)
    desk.book.asks(Asked(version=0, tasks=(task,)), 1.0, instant=True)
    update = desk.blobs.put(keys.upload(RUN, "updates", again, 1, "ann"), _bytes(_delta(), client="ann"))
    desk.hand_in(ClientResult(client="ann", weight=3.0, update=update), task=again, at=2.0)
    desk.hand_in(first, at=3.0)
    assert [(a.task_id, a.client) for a in desk.book.accepted.values()] == [(again, "ann")]
    assert desk.said("rejected") == [("ann", "counted")]
    assert desk.book.ledger["ann"] == Share(asked=2, accepted=1, rejected=1)


def test_a_manifest_of_an_unknown_task_or_another_run_is_ignored(tmp_path: Path) -> None:
    desk = _desk(tmp_path)
    desk.hand_in(task="v9-nobody-9")
    desk.intake.receive(desk.book, Manifest(run="other", task_id=TASK, attempt=1, worker="w", seconds=0.0), 1.0)
    assert desk.said("ignored") == [(None, "unknown or too old")] * 2
    assert desk.book.ledger == {"ann": Share(asked=1), "bob": Share(asked=1)}


def test_what_is_too_stale_is_refused(tmp_path: Path) -> None:
    desk = _desk(tmp_path, rounds={"max_staleness": 1})
    good = ClientResult(client="ann", weight=3.0, **_refs(desk.blobs, "ann"))  # type: ignore[arg-type]
    desk.book.opens(1, 1.0)
    desk.book.opens(2, 2.0)
    desk.hand_in(good, at=3.0)
    assert desk.said("rejected") == [("ann", "too stale")]


def test_a_late_update_says_how_far_it_lags(tmp_path: Path) -> None:
    desk = _desk(tmp_path)
    desk.book.opens(1, 1.0)
    desk.hand_in(ClientResult(client="ann", weight=3.0, **_refs(desk.blobs, "ann")), at=3.0)  # type: ignore[arg-type]
    (late,) = [e for e in desk.events if e.event == "late"]
    assert (late.client, late.version, late.facts["base"], late.facts["lag"]) == ("ann", 1, 0, 1)


def test_what_an_update_weighs_in_bytes_is_what_was_read_not_what_was_claimed(tmp_path: Path) -> None:
    desk = _desk(tmp_path)
    refs = _refs(desk.blobs, "ann")
    desk.hand_in(ClientResult(client="ann", weight=3.0, payload_bytes=10**15, **refs))  # type: ignore[arg-type]
    (accepted,) = [e for e in desk.events if e.event == "accepted"]
    assert accepted.facts["bytes"] == refs["update"].size


def test_an_update_is_read_again_when_it_was_not_kept_in_memory(tmp_path: Path) -> None:
    desk = _desk(tmp_path)
    desk.hand_in(ClientResult(client="ann", weight=3.0, **_refs(desk.blobs, "ann")))  # type: ignore[arg-type]
    (accepted,) = desk.book.accepted.values()
    kept = desk.intake.tensors(accepted)
    desk.intake.forget()
    again = desk.intake.tensors(accepted)
    assert {k: t.tolist() for k, t in again.items()} == {k: t.tolist() for k, t in kept.items()}


def test_the_stubborn_codec_is_a_plugin() -> None:
    assert isinstance(load("workers.codecs", Choice(name="tests.unit.test_admit:Stubborn")), Stubborn)


def test_no_more_updates_are_kept_in_memory_than_the_budget_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = _desk(tmp_path)
    one = size(_delta())
    monkeypatch.setattr(intake, "BUDGET", 2 * one - 1)
    desk.hand_in(*(ClientResult(client=c, weight=3.0, **_refs(desk.blobs, c)) for c in ("ann", "bob")))  # type: ignore[arg-type]
    assert len(desk.book.accepted) == 2
    assert (len(desk.intake.kept), desk.intake.used) == (1, one)
