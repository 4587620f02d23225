"""What every backbone on disk promises, the bundled one for real, and what happens to bad weights."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from schemas.base import Choice
from schemas.errors import ConfigError, PluginError
from workers.data.pixels import SLIMMEST
from workers.models import _clip
from workers.plugins import load, names

MINI = """{"embed_dim": 8,
"vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
"text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}}"""
WEIGHTS = Path(_clip.__file__).parent / "weights"


@pytest.fixture(scope="session")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict of a small ViT that open_clip knows as `mini`."""
    folder = tmp_path_factory.mktemp("mini")
    (folder / "mini.json").write_text(MINI)
    open_clip.add_model_config(folder / "mini.json")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        torch.save(open_clip.create_model("mini").state_dict(), folder / "mini.pt")
    return folder / "mini.pt"


def choice(name: str, mini: Path) -> Choice:
    """A way to load a backbone without a download; one that needs no params is asked for by name alone."""
    params = {"open_clip": {"model": "mini", "weights": str(mini)}}
    return Choice(name=name, params=params.get(name, {}))


@pytest.fixture(scope="module", params=names("workers.models"))
def backbone(request: pytest.FixtureRequest, mini: Path) -> Any:
    return load("workers.models", choice(request.param, mini))


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def images(backbone: Any, count: int) -> torch.Tensor:
    shape = backbone.preprocess(Image.new("RGB", (40, 40))).shape
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))


def test_both_kinds_are_there() -> None:
    assert {"tiny", "open_clip"} <= set(names("workers.models"))


@pytest.mark.parametrize("name", names("workers.models"))
def test_fingerprint_is_the_same_each_time_and_builds_no_model(name: str, mini: Path) -> None:
    one, other = (load("workers.models", choice(name, mini)) for _ in range(2))
    assert one.fingerprint == other.fingerprint
    assert len(bytes.fromhex(one.fingerprint)) == 32
    assert one.dim > 0
    assert "_model" not in vars(one)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1", "CMYK", "LA"])
def test_any_image_is_preprocessed_to_the_same_shape(backbone: Any, mode: str) -> None:
    square, wide = backbone.preprocess(Image.new("RGB", (50, 50))), backbone.preprocess(Image.new(mode, (61, 7)))
    assert wide.shape == square.shape == (3, *square.shape[1:])
    assert wide.dtype == torch.float32
    assert wide.isfinite().all()


@pytest.mark.parametrize("size", [(1, 1), (SLIMMEST, 1), (1, SLIMMEST), (3000, 20)])
def test_the_smallest_and_the_slimmest_image_is_preprocessed_too(backbone: Any, size: tuple[int, int]) -> None:
    assert backbone.preprocess(Image.new("RGB", size)).shape == backbone.preprocess(Image.new("RGB", (50, 40))).shape


def test_features_are_raw_float32_on_cpu(backbone: Any) -> None:
    features = backbone.encode_images(images(backbone, 5))
    assert (features.shape, features.dtype, features.device.type) == ((5, backbone.dim), torch.float32, "cpu")
    assert features.isfinite().all()
    assert (features.norm(dim=1) - 1).abs().max() > 1e-3
    assert backbone.encode_images(images(backbone, 0)).shape == (0, backbone.dim)


def test_features_can_be_trained_on(backbone: Any) -> None:
    weight = torch.ones(backbone.dim, requires_grad=True)
    features = backbone.encode_images(images(backbone, 2))
    (features @ weight).sum().backward()
    assert not features.requires_grad
    assert weight.grad is not None


def test_image_has_the_same_bits_in_any_company(backbone: Any) -> None:
    batch = images(backbone, 2 * _clip.BATCH + 7)
    whole = backbone.encode_images(batch)
    for k in (0, 1, _clip.BATCH - 1, _clip.BATCH, len(batch) - 1):
        assert torch.equal(backbone.encode_images(batch[k : k + 1])[0], whole[k])
    for seed in range(4):
        order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(seed))[: 40 + seed]
        assert torch.equal(backbone.encode_images(batch[order]), whole[order])


def test_image_has_the_same_bits_with_any_number_of_threads(backbone: Any, threads: None) -> None:
    batch = images(backbone, 3 * _clip.BATCH)
    seen = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        seen.append(backbone.encode_images(batch))
        assert torch.get_num_threads() == count
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


def test_texts_are_raw_and_independent_of_their_company(backbone: Any) -> None:
    texts = [f"a picture of a {word}" for word in ("house", "red boat", "zeppelin", "")] * 10
    features = backbone.encode_texts(texts)
    assert (features.shape, features.dtype) == ((40, backbone.dim), torch.float32)
    assert torch.equal(backbone.encode_texts([texts[1]])[0], features[1])
    assert torch.equal(features[:4], features[36:])
    assert not torch.equal(features[0], features[1])
    assert backbone.encode_texts([]).shape == (0, backbone.dim)


def test_overlong_text_is_cut(backbone: Any) -> None:
    assert backbone.encode_texts(["house " * 10_000]).isfinite().all()


def test_scale_is_what_cosines_are_multiplied_by(backbone: Any) -> None:
    assert 1 <= backbone.scale <= 100


def test_tiny_fits_in_the_repository() -> None:
    assert (WEIGHTS / "tiny.safetensors").stat().st_size <= 8_000_000
    assert load("workers.models", Choice(name="tiny")).dim == 128


def test_tiny_takes_no_params() -> None:
    with pytest.raises(PluginError, match="size"):
        load("workers.models", Choice(name="tiny", params={"size": 3}))


def of_file(weights: Path, model: str = "mini") -> Any:
    return load("workers.models", Choice(name="open_clip", params={"model": model, "weights": str(weights)}))


def refused(weights: Path, model: str = "mini") -> str:
    """The one line with which the weights are refused, whether encoding or the fingerprint finds out."""
    with pytest.raises(ConfigError) as caught:
        of_file(weights, model).encode_images(torch.zeros(1, 3, 32, 32))
    assert "\n" not in str(caught.value)
    assert "backbone.params.weights" in str(caught.value)
    return str(caught.value)


def test_same_weights_in_safetensors_or_wrapped_give_the_same_features(mini: Path, tmp_path: Path) -> None:
    tensors = torch.load(mini, weights_only=True)
    save_file(tensors, tmp_path / "a.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in tensors.items()}}, tmp_path / "b.pt")
    one, two, three = of_file(mini), of_file(tmp_path / "a.safetensors"), of_file(tmp_path / "b.pt")
    batch = images(one, 3)
    assert torch.equal(one.encode_images(batch), two.encode_images(batch))
    assert torch.equal(one.encode_images(batch), three.encode_images(batch))


def test_fingerprint_follows_weights_and_architecture(mini: Path, tmp_path: Path) -> None:
    tensors = torch.load(mini, weights_only=True)
    torch.save(tensors | {"logit_scale": tensors["logit_scale"] + 1}, tmp_path / "other.pt")
    prints = [
        of_file(mini).fingerprint,
        of_file(tmp_path / "other.pt").fingerprint,
        of_file(mini, "ViT-B-32").fingerprint,
    ]
    assert len(set(prints)) == 3


def test_missing_weights_and_folders_are_refused(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "none.safetensors")
    assert "not a file" in refused(tmp_path)
    (tmp_path / "empty.pt").touch()
    assert "(0)" in refused(tmp_path / "empty.pt")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("share", [0.999, 0.5, 0.001])
def test_truncated_weights_are_refused(mini: Path, tmp_path: Path, suffix: str, share: float) -> None:
    whole = tmp_path / f"whole{suffix}"
    tensors = torch.load(mini, weights_only=True)
    save_file(tensors, whole) if suffix == ".safetensors" else torch.save(tensors, whole)
    data = whole.read_bytes()
    (tmp_path / f"cut{suffix}").write_bytes(data[: int(share * len(data))])
    refused(tmp_path / f"cut{suffix}")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_file_that_is_no_checkpoint_is_refused(tmp_path: Path, suffix: str) -> None:
    wrong = tmp_path / f"wrong{suffix}"
    wrong.write_bytes(b"not weights at all " * 100)
    refused(wrong)


def test_huge_weights_are_refused_before_they_are_read(tmp_path: Path) -> None:
    huge = tmp_path / "huge.pt"
    with huge.open("wb") as f:
        f.truncate(_clip.LARGEST + 1)  # sparse: takes no room
    assert "not a file of 1 to" in refused(huge)
    promise = tmp_path / "promise.safetensors"
    promise.write_bytes((2**60).to_bytes(8, "little") + b"{}")
    assert "no safetensors file" in refused(promise)


def test_weights_of_another_architecture_are_refused(mini: Path) -> None:
    assert "do not fit mini" in refused(WEIGHTS / "tiny.safetensors")
    assert "do not fit RN50" in refused(mini, "RN50")


def test_weights_with_a_tensor_too_few_are_refused(mini: Path, tmp_path: Path) -> None:
    tensors = torch.load(mini, weights_only=True)
    save_file({k: v for k, v in tensors.items() if k != "visual.proj"}, tmp_path / "less.safetensors")
    assert "visual.proj" in refused(tmp_path / "less.safetensors")


class Attack:
    """Pickled, it is a call that leaves a file behind."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    torch.save({"visual.proj": Attack(tmp_path / "run")}, tmp_path / "evil.pt")
    refused(tmp_path / "evil.pt")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("params", [{"model": "mini"}, {"model": "mini", "pretrained": "x", "weights": "y"}])
def test_exactly_one_source_of_weights_is_needed(params: dict[str, str]) -> None:
    with pytest.raises(PluginError, match="either `pretrained`"):
        load("workers.models", Choice(name="open_clip", params=params))


@pytest.mark.parametrize(
    ("model", "tag", "says"),
    [
        ("ViT-B-33", "openai", "did you mean 'ViT-B-32"),
        ("ViT-B-32", "laion2b_s34b", "did you mean 'laion2b"),
        ("ViT-B-32", "openai", "use model: ViT-B-32-quickgelu"),
        ("local-dir:/x", "openai", "no model"),
    ],
)
def test_wrong_name_or_tag_is_answered_with_the_right_one(model: str, tag: str, says: str) -> None:
    found = load("workers.models", Choice(name="open_clip", params={"model": model, "pretrained": tag}))
    with pytest.raises(ConfigError, match=says):
        found.encode_texts(["x"])


def test_weights_that_cannot_be_downloaded_are_not_replaced_by_random_ones(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    params = {"model": "ViT-B-32", "pretrained": "laion2b_s34b_b79k"}
    with pytest.raises(ConfigError, match=r"cannot get the weights of ViT-B-32.*backbone\.params\.weights"):
        load("workers.models", Choice(name="open_clip", params=params)).encode_texts(["x"])


def test_bundled_weights_are_half_precision_and_finite() -> None:
    tensors = load_file(WEIGHTS / "tiny.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.float16, torch.int64}
    assert all(t.isfinite().all() for t in tensors.values())
