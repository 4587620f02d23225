"""The messages between loop and workers: nothing but what they say is let in, and grants stay secret."""

import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr, ValidationError

from schemas.base import Frozen, canonical, derive, digest
from schemas.decisions import DECISION
from schemas.log import Commit, Final
from schemas.messages import (
    BlobRef,
    ClientResult,
    ClientSlot,
    Description,
    Grant,
    Manifest,
    Outlet,
    Ref,
    Split,
    Task,
    TaskFailure,
)

SLOW = (HealthCheck.too_slow,)
"""A busy machine is no fault of the code."""

SECRET = "X-Amz-Signature=5ec2e7"
BLOB = BlobRef(key="runs/r/model", sha256="ab" * 32, size=7)


def _grant(method: str = "GET") -> Grant:
    return Grant.model_validate({"url": f"http://store/key?{SECRET}", "method": method, "expires": 9.0})


REF = Ref(blob=BLOB, grant=_grant())
OUTLET = Outlet(key="runs/r/out", put=_grant("PUT"), get=_grant())
TASK = Task(
    run="r",
    task_id="v7-client-3-9",
    kind="train",
    base=7,
    clients=(ClientSlot(client="client-3", private=REF, outputs={"update": OUTLET, "private": OUTLET}),),
    setting=REF,
    inputs={"model": REF},
    seed=0,
    deadline_s=60.0,
)
MANIFEST = Manifest(
    run="r",
    task_id="v7-client-3-9",
    attempt=1,
    worker="w",
    results=(ClientResult(client="client-3", update=BLOB, weight=3.0, metrics={"loss": 0.5}),),
    seconds=0.2,
)
FAILURE = TaskFailure(run="r", task_id="v7-client-3-9", attempt=1, code="infra", message="the store is away")
DESCRIPTION = Description(clients={"a": Split(train=6, val=2, test=2)}, classes=("x", "y"), fingerprint="f")
WIRED: tuple[BaseModel, ...] = (TASK, MANIFEST, FAILURE)
ALL_OF_THEM: tuple[BaseModel, ...] = (*WIRED, DESCRIPTION)


def _name(message: BaseModel) -> str:
    return type(message).__name__


def _accepts(message: BaseModel, document: Any) -> bool:
    try:
        type(message).model_validate_json(json.dumps(document))
    except ValidationError:
        return False
    return True


# --- what is let in


@pytest.mark.parametrize("message", ALL_OF_THEM, ids=_name)
def test_a_message_survives_the_way_through_json(message: BaseModel) -> None:
    assert type(message).model_validate_json(message.model_dump_json()) == message


@pytest.mark.parametrize("message", ALL_OF_THEM, ids=_name)
def test_a_message_cannot_be_changed(message: BaseModel) -> None:
    with pytest.raises(ValidationError):
        message.fingerprint = message.run = "other"  # type: ignore[attr-defined]


@pytest.mark.parametrize("message", WIRED, ids=_name)
@pytest.mark.parametrize("wire", [0, 2, -1, "1", None, 1.5, [1]])
def test_another_wire_version_is_never_let_in(message: BaseModel, wire: Any) -> None:
    assert _accepts(message, message.model_dump(mode="json"))
    assert not _accepts(message, message.model_dump(mode="json") | {"wire": wire})


@pytest.mark.parametrize("message", ALL_OF_THEM, ids=_name)
def test_an_unknown_field_is_refused_at_any_depth(message: BaseModel) -> None:
    document = message.model_dump(mode="json")
    places = list(_models(message, document))
    assert places
    for place in places:
        place["extra"] = 1
        assert not _accepts(message, document)
        del place["extra"]
    assert _accepts(message, document)


def _models(value: Any, document: Any) -> Any:
    """The JSON objects that stand for models, at any depth. Plain mappings (metrics, inputs) may hold any name."""
    if isinstance(value, BaseModel):
        yield document
        for name in type(value).model_fields:
            yield from _models(getattr(value, name), document[name])
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _models(inner, document[key])
    elif isinstance(value, tuple):
        for inner, part in zip(value, document, strict=True):
            yield from _models(inner, part)


@pytest.mark.parametrize("message", ALL_OF_THEM, ids=_name)
def test_a_missing_field_is_refused_unless_it_has_a_default(message: BaseModel) -> None:
    whole = message.model_dump(mode="json")
    for name, field in type(message).model_fields.items():
        assert _accepts(message, {k: v for k, v in whole.items() if k != name}) == (not field.is_required())


@pytest.mark.parametrize("message", ALL_OF_THEM, ids=_name)
def test_a_truncated_message_is_refused_wherever_it_is_cut(message: BaseModel) -> None:
    text = message.model_dump_json()
    for cut in range(0, len(text) - 1, max(1, len(text) // 40)):
        with pytest.raises(ValidationError):
            type(message).model_validate_json(text[:cut])


@settings(deadline=None, suppress_health_check=SLOW)
@given(st.binary(max_size=300))
def test_random_bytes_are_no_message(data: bytes) -> None:
    for message in ALL_OF_THEM:
        with pytest.raises(ValidationError):
            type(message).model_validate_json(data)
    with pytest.raises(ValidationError):
        DECISION.validate_json(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, suppress_health_check=SLOW, max_examples=200)
@given(st.sampled_from(ALL_OF_THEM), st.data(), JSON)
def test_a_message_with_anything_in_a_field_is_refused_or_means_what_it_says(
    message: BaseModel, data: st.DataObject, value: Any
) -> None:
    name = data.draw(st.sampled_from(sorted(type(message).model_fields)))
    document = message.model_dump(mode="json") | {name: value}
    try:
        read = type(message).model_validate_json(json.dumps(document))
    except ValidationError:
        return
    again = json.loads(read.model_dump_json())
    assert type(message).model_validate(again) == read
    if "wire" in document:
        assert again["wire"] == 1


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_refused(number: str) -> None:
    text = MANIFEST.model_dump_json()
    for field in ("weight", "seconds", "loss"):
        bad = re.sub(rf'("{field}":)[0-9.]+', rf"\g<1>{number}", text)
        assert bad != text
        with pytest.raises(ValidationError):
            Manifest.model_validate_json(bad)


@pytest.mark.parametrize("name", ["", "../up", "a/b", "a b", ".hidden", "a" * 65, "naïve", "a\n", "-a"])
def test_a_client_or_run_has_a_name_that_is_safe_in_a_key(name: str) -> None:
    assert not _accepts(MANIFEST, MANIFEST.model_dump(mode="json") | {"run": name})
    with pytest.raises(ValidationError):
        ClientResult(client=name)
    with pytest.raises(ValidationError):
        Description(clients={name: Split()}, classes=(), fingerprint="")


def test_a_huge_failure_message_is_refused() -> None:
    assert _accepts(FAILURE, FAILURE.model_dump(mode="json") | {"message": "x" * 2000})
    assert not _accepts(FAILURE, FAILURE.model_dump(mode="json") | {"message": "x" * 2001})


@pytest.mark.parametrize("size", [-1, 1.5, "many", None])
def test_a_blob_has_a_size_and_a_hash(size: Any) -> None:
    assert not _accepts(BLOB, BLOB.model_dump(mode="json") | {"size": size})
    for sha in ("", "AB" * 32, "ab" * 31, "ab" * 32 + "\n", "zz" * 32):
        assert not _accepts(BLOB, BLOB.model_dump(mode="json") | {"sha256": sha})


@pytest.mark.parametrize("model", [Commit, Final])
def test_what_is_stored_names_its_wire_version_too(model: type[BaseModel]) -> None:
    assert model.model_fields["wire"].default == 1


# --- secrets


def test_a_grant_is_shown_nowhere_but_in_the_message_itself() -> None:
    for shown in (repr(TASK), str(TASK), f"{TASK}", repr(TASK.model_dump()), repr(OUTLET), str(REF), repr(_grant())):
        assert SECRET not in shown
    assert SECRET in TASK.model_dump_json()
    assert SECRET in json.dumps(TASK.model_dump(mode="json"))


def test_what_is_wrong_with_a_message_is_said_without_its_grants() -> None:
    url = f"http://store/key?{SECRET}"
    wrong: list[dict[str, Any]] = [
        {"url": url, "method": "GET"},  # expires is missing: pydantic would show the whole grant
        {"url": url, "method": "DELETE", "expires": 1.0},
        {"url": url, "method": "GET", "expires": 1.0, "more": url},
        {"url": {"nested": url}, "method": "GET", "expires": 1.0},
    ]
    for document in wrong:
        with pytest.raises(ValidationError) as caught:
            Grant.model_validate(document)
        assert SECRET not in str(caught.value) and SECRET not in repr(caught.value)


def test_the_url_itself_is_there_for_who_asks() -> None:
    assert _grant().url.get_secret_value().endswith(SECRET)
    assert isinstance(_grant().url, SecretStr)


# --- labels and seeds


def test_an_operator_reads_version_client_and_kind() -> None:
    assert TASK.label == "v7 client-3 train"
    assert TASK.work == "v7-client-3-9.1"
    several = TASK.model_copy(update={"clients": tuple(ClientSlot(client=f"c{i}") for i in range(5))})
    assert several.label == "v7 c0+4 train"
    assert TASK.model_copy(update={"clients": (), "kind": "describe", "base": 0}).label == "v0 all describe"


def test_canonical_json_depends_on_the_value_alone() -> None:
    assert canonical({"b": 1, "a": [1.0, None, "é"]}) == '{"a":[1.0,null,"é"],"b":1}'.encode()
    assert canonical(BLOB) == canonical(json.loads(BLOB.model_dump_json()))
    with pytest.raises(ValueError):
        canonical({"a": float("nan")})


@settings(deadline=None, suppress_health_check=SLOW)
@given(st.integers(0, 2**40), st.lists(st.text(max_size=5) | st.integers(0, 99), max_size=4))
def test_a_derived_seed_depends_on_all_it_is_derived_from(seed: int, purpose: list[str | int]) -> None:
    found = derive(seed, *purpose)
    assert found == derive(seed, *purpose)
    assert 0 <= found < 2**63
    others = {derive(seed + 1, *purpose), derive(seed, *purpose, "more"), derive(seed, "first", *purpose)}
    assert found not in others


def test_words_do_not_run_into_one_another_in_a_derived_seed() -> None:
    assert len({derive(0, "ab", "c"), derive(0, "a", "bc"), derive(0, "abc"), derive(0, "1"), derive(0, 1)}) == 5


def test_a_digest_is_sha256_in_hex() -> None:
    assert digest(b"abc").startswith("ba7816bf8f01cfea")  # FIPS 180-2, appendix B.1


def test_every_message_is_frozen_and_refuses_what_it_does_not_know() -> None:
    assert Frozen.model_config.get("extra") == "forbid" and Frozen.model_config.get("frozen") is True
    assert all(issubclass(type(m), Frozen) for m in ALL_OF_THEM)
