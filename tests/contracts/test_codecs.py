"""What every codec keeps to, and what becomes of bytes that no codec wrote."""

import contextlib
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.base import Choice
from schemas.errors import CodecError, PluginError
from schemas.messages import BlobRef
from tests.toys import client, setting
from workers.method import Update
from workers.pipeline import RESIDUAL, Codec, Label, of_method, open_update, seal, write_update
from workers.plugins import load, names
from workers.tensors import Tensors, pack

PACKAGE = "workers.codecs"
LABEL = Label("a", 12.5, {"loss": 0.25}, None, 3)


@pytest.fixture(params=names(PACKAGE))
def codec(request: pytest.FixtureRequest) -> Codec:
    loaded: Codec = load(PACKAGE, Choice(name=request.param))
    return loaded


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


SHAPES = st.sampled_from([(), (0,), (1,), (7,), (3, 4), (2, 0, 3)])


@st.composite
def tensors(draw: st.DrawFn) -> Tensors:
    """A few float32 tensors: scalars, empty ones, tiny and large numbers."""
    named = draw(st.dictionaries(st.text("abc.", min_size=1, max_size=5), SHAPES, max_size=4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scale = 10.0 ** draw(st.integers(-9, 9))
    return {k: torch.from_numpy(np.asarray(rng.normal(0, scale, s), dtype=np.float32)) for k, s in named.items()}


@settings(max_examples=40, deadline=None)
@given(given_tensors=tensors())
@pytest.mark.parametrize("name", names(PACKAGE))
def test_a_round_trip_keeps_names_shapes_and_float32(name: str, given_tensors: Tensors) -> None:
    codec: Codec = load(PACKAGE, Choice(name=name))
    back = codec.decode(codec.encode(given_tensors, _generator()))
    assert {k: (t.shape, t.dtype) for k, t in back.items()} == {
        k: (t.shape, torch.float32) for k, t in given_tensors.items()
    }
    if codec.lossless:
        assert all(torch.equal(back[k], t) for k, t in given_tensors.items())


@settings(max_examples=40, deadline=None)
@given(given_tensors=tensors())
@pytest.mark.parametrize("name", names(PACKAGE))
def test_what_a_codec_loses_is_kept_back(name: str, given_tensors: Tensors) -> None:
    codec: Codec = load(PACKAGE, Choice(name=name))
    one = client(setting(), "a", {})
    sealed = seal(one, Update(given_tensors, 1.0), private={}, codec=codec)
    arrived = codec.decode(sealed.packed)
    for k, t in given_tensors.items():
        kept = torch.zeros_like(t) if codec.lossless else sealed.private[RESIDUAL + k]
        assert torch.allclose(arrived[k] + kept, t, rtol=1e-6, atol=0)
    assert of_method(sealed.private) == {}


def test_error_feedback_sends_in_the_long_run_what_rounding_swallows(codec: Codec) -> None:
    # Each step is a hundredth of what half precision can tell from 1.0, beside a number that keeps the scale.
    step = {"w": torch.tensor([1.0 + 2.0**-18])}
    one, private, total = client(setting(), "a", {}), {}, torch.zeros(1, dtype=torch.float64)
    for _ in range(1000):
        sealed = seal(one, Update(step, 1.0), private=private, codec=codec)
        total, private = total + codec.decode(sealed.packed)["w"].double(), sealed.private
    assert float(total) == pytest.approx(1000 * (1 + 2.0**-18), abs=2.0**-10)


def test_fp16_errs_by_half_a_unit_in_the_last_place_at_most() -> None:
    codec: Codec = load(PACKAGE, Choice(name="fp16"))
    x = torch.logspace(-4, 4, 1001)  # all in the normal range of half precision: 11 significant bits
    error = (codec.decode(codec.encode({"x": x}, _generator()))["x"] - x).abs() / x
    assert float(error.max()) <= 2.0**-11


def test_fp16_cuts_what_is_too_large_and_passes_on_what_is_no_number() -> None:
    codec: Codec = load(PACKAGE, Choice(name="fp16"))
    x = torch.tensor([1e6, -1e6, float("inf"), float("nan")])
    back = codec.decode(codec.encode({"x": x}, _generator()))["x"]
    assert back[:2].tolist() == [65504.0, -65504.0]
    assert bool(back[2].isinf()) and bool(back[3].isnan())


def test_decoding_another_dtype_is_refused(codec: Codec) -> None:
    packed = codec.encode({"x": torch.ones(3)}, _generator())
    for name, t in packed.items():
        with pytest.raises(CodecError, match=r"not (one )?(int8|float16|float32)"):
            codec.decode(packed | {name: t.to(torch.int32)})


def _int8() -> Codec:
    codec: Codec = load(PACKAGE, Choice(name="int8"))
    return codec


@settings(max_examples=100, deadline=None)
@given(given_tensors=tensors())
def test_int8_errs_by_half_a_scale_at_most(given_tensors: Tensors) -> None:
    back = _int8().decode(_int8().encode(given_tensors, _generator()))
    for k, t in given_tensors.items():
        largest = float(t.abs().max()) if t.numel() else 0.0
        # Half of max|x| / 127; and max|x| itself is code 127, so at most float32's own rounding is on top.
        assert torch.all((back[k] - t).abs() <= largest * (0.5 / 127 + 1e-6))
        assert torch.all((back[k] == 0) | (back[k].sign() == t.sign()))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 20), spread=st.integers(0, 6))
@pytest.mark.parametrize("name", names(PACKAGE))
def test_all_that_arrived_and_what_is_kept_back_is_all_that_was_meant(
    name: str, seed: int, steps: int, spread: int
) -> None:
    # sent_t = meant_t + kept_(t-1) and kept_t = sent_t - arrived_t, so over all t: sum arrived + kept_T = sum meant.
    # Each of the two float32 operations of a step rounds by 2^-24 of at most twice the largest number.
    codec: Codec = load(PACKAGE, Choice(name=name))
    rng = np.random.default_rng(seed)
    one, private = client(setting(), "a", {}), Tensors()
    arrived = meant = torch.zeros(32, dtype=torch.float64)
    for _ in range(steps):
        x = torch.from_numpy((rng.normal(size=32) * 10.0 ** -rng.uniform(0, spread, 32)).astype(np.float32))
        sealed = seal(one, Update({"w": x}, 1.0), private=private, codec=codec)
        arrived, meant = arrived + codec.decode(sealed.packed)["w"].double(), meant + x.double()
        private = sealed.private
    kept = torch.zeros(32) if codec.lossless else private[RESIDUAL + "w"]
    assert torch.allclose(arrived + kept.double(), meant, rtol=0, atol=steps * 2 * 8 * 2.0**-24)


def test_int8_would_lose_for_good_what_error_feedback_sends() -> None:
    # Beside 1.0 a step is 1/127; a tenth of that is rounded to 0 each time, yet after ten updates one step has arrived.
    small = 0.1 / 127
    one, private, total = client(setting(), "a", {}), Tensors(), 0.0
    codec, x = _int8(), torch.tensor([1.0, small])
    assert float(codec.decode(codec.encode({"w": x}, _generator()))["w"][1]) == 0
    for _ in range(100):
        sealed = seal(one, Update({"w": x}, 1.0), private=private, codec=codec)
        total, private = total + float(codec.decode(sealed.packed)["w"][1]), sealed.private
    assert total == pytest.approx(100 * small, abs=0.5 / 127 * 1.01)


def test_int8_takes_a_quarter_of_the_bytes() -> None:
    x = {"w": torch.linspace(-1, 1, 100_000)}
    sizes = [len(write_update(c.encode(x, _generator()), LABEL)) for c in (_int8(), load(PACKAGE, Choice(name="raw")))]
    assert sizes[0] < 0.26 * sizes[1]


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
def test_int8_passes_on_that_something_is_no_number(odd: float) -> None:
    back = _int8().decode(_int8().encode({"w": torch.tensor([1.0, odd]), "v": torch.ones(2)}, _generator()))
    assert bool(back["w"].isnan().all()) and torch.equal(back["v"], torch.ones(2))


@pytest.mark.parametrize(
    "packed",
    [
        {"codes/w": torch.zeros(3, dtype=torch.int8)},
        {"scale/w": torch.zeros(())},
        {"w": torch.zeros(3)},
        {"codes/w": torch.zeros(3, dtype=torch.int8), "scale/v": torch.zeros(())},
        {"codes/w": torch.zeros(3, dtype=torch.int8), "scale/w": torch.zeros(3)},
        {"codes/w": torch.zeros(3, dtype=torch.int8), "scale/w": torch.zeros((), dtype=torch.float64)},
        {"codes/w": torch.zeros(3, dtype=torch.uint8), "scale/w": torch.zeros(())},
    ],
)
def test_int8_refuses_codes_and_scales_that_do_not_fit(packed: Tensors) -> None:
    with pytest.raises(CodecError):
        _int8().decode(packed)


@pytest.mark.parametrize("name", names(PACKAGE))
def test_unknown_params_are_refused(name: str) -> None:
    with pytest.raises(PluginError, match="no_such_param"):
        load(PACKAGE, Choice(name=name, params={"no_such_param": 1}))


def _blob(codec: Codec) -> bytes:
    return write_update(codec.encode({"w": torch.arange(6.0).reshape(2, 3)}, _generator()), LABEL)


def test_an_update_blob_says_what_it_is(codec: Codec) -> None:
    back, label = open_update(_blob(codec), codec)
    assert label == LABEL
    sent = {"w": torch.arange(6.0).reshape(2, 3)}
    assert torch.equal(back["w"], codec.decode(codec.encode(sent, _generator()))["w"])
    assert torch.allclose(back["w"], sent["w"], atol=5 / 254)  # half an int8 step; the others keep small integers


def test_a_label_carries_private_state_by_reference(codec: Codec) -> None:
    ref = BlobRef(key="private:x", sha256="0" * 64, size=5)
    label = Label("a", 1.0, {}, ref, 0)
    assert open_update(write_update({}, label), codec)[1] == label


def _claiming(size: int) -> bytes:
    entry = {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}
    return _file({"w": entry, "__metadata__": {}})


def _file(header: object) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text


HOSTILE = {
    "nothing": b"",
    "eight zero bytes": bytes(8),
    "many zero bytes": bytes(100_000),
    "a header of 10 GB": (10 * 10**9).to_bytes(8, "little") + b"{}",
    "a header longer than the world": b"\xff" * 64,
    "a tensor of 10 GB": _claiming(10 * 10**9),
    "text": b"PK\x03\x04 hello " * 50,
    "a list for a header": _file([1, 2]),
    "a number for metadata": _file({"__metadata__": 3}),
    "deep nesting": (200_000).to_bytes(8, "little") + b"[" * 200_000,
    "a shape beyond integers": _file({"w": {"dtype": "F32", "shape": [0, 2**64 - 1], "data_offsets": [0, 0]}}),
    "a shape beyond memory": _file({"w": {"dtype": "F32", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}}),
    "an unknown dtype": _file({"w": {"dtype": "F99", "shape": [0], "data_offsets": [0, 0]}}),
    "no label": pack({"w": torch.zeros(2)}),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_bytes_are_a_codec_error(codec: Codec, data: bytes) -> None:
    with pytest.raises(CodecError):
        open_update(data, codec)


def test_a_blob_cut_anywhere_is_a_codec_error(codec: Codec) -> None:
    data = _blob(codec)
    for length in range(len(data)):
        with pytest.raises(CodecError):
            open_update(data[:length], codec)


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=300))
def test_random_bytes_are_a_codec_error(data: bytes) -> None:
    with pytest.raises(CodecError):
        open_update(data, load(PACKAGE, Choice(name="raw")))


@settings(max_examples=200, deadline=None)
@given(where=st.integers(0, 10_000), to=st.integers(0, 255))
def test_one_changed_byte_is_never_another_kind_of_error(where: int, to: int) -> None:
    codec: Codec = load(PACKAGE, Choice(name="raw"))
    data = bytearray(_blob(codec))
    data[where % len(data)] = to
    with contextlib.suppress(CodecError):
        open_update(bytes(data), codec)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weight", "nan"),
        ("weight", "inf"),
        ("weight", "-1"),
        ("weight", "heavy"),
        ("metrics", '{"loss": NaN}'),
        ("metrics", "[]"),
        ("metrics", "{" * 50_000),
        ("private", "3"),
        ("private", '{"key": "x", "sha256": "0", "size": 1}'),
        ("encodes", "-1"),
        ("encodes", "9" * 10_000),
        ("client", None),
    ],
)
def test_a_label_that_makes_no_sense_is_a_codec_error(codec: Codec, field: str, value: str | None) -> None:
    whole = {"client": "a", "weight": "1.0", "metrics": "{}", "private": "null", "encodes": "0"}
    changed = {k: v for k, v in (whole | {field: value}).items() if v is not None}
    with pytest.raises(CodecError):
        open_update(pack({}, changed), codec)
