"""What every backbone on disk promises, the bundled one for real, and what happens to bad weights."""

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import structlog
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from schemas.base import Choice
from schemas.errors import ConfigError, PluginError
from workers import device
from workers.data.pixels import SLIMMEST
from workers.models import _clip, _passes, _steered
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
    params = {"open_clip": {"model": "mini", "weights": str(mini), "quick_gelu": False}}
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
    batch = images(backbone, 2 * _passes.BATCH + 7)
    whole = backbone.encode_images(batch)
    for k in (0, 1, _passes.BATCH - 1, _passes.BATCH, len(batch) - 1):
        assert torch.equal(backbone.encode_images(batch[k : k + 1])[0], whole[k])
    for seed in range(4):
        order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(seed))[: 40 + seed]
        assert torch.equal(backbone.encode_images(batch[order]), whole[order])


def test_image_has_the_same_bits_with_any_number_of_threads(backbone: Any, threads: None) -> None:
    batch = images(backbone, 3 * _passes.BATCH)
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
    return open_clip_of(model=model, weights=str(weights), quick_gelu=False)


def open_clip_of(**params: Any) -> Any:
    return load("workers.models", Choice(name="open_clip", params=params))


def refused(weights: Path, model: str = "mini") -> str:
    """The one line with which the weights are refused, whether encoding or the fingerprint finds out."""
    said = why(of_file(weights, model))
    assert "backbone.params.weights" in said
    return said


def why(backbone: Any) -> str:
    """The one line with which a backbone refuses to encode."""
    with pytest.raises(ConfigError) as caught:
        backbone.encode_images(torch.zeros(1, 3, 32, 32))
    assert "\n" not in str(caught.value)
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


def test_missing_weights_and_folders_are_refused(mini: Path, tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "none.safetensors")
    assert "there is none" in why(open_clip_of(weights=str(tmp_path / "none")))
    assert "a file needs `model`" in why(open_clip_of(weights=str(mini)))
    assert "open_clip_config.json: No such file" in refused(tmp_path)
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


@pytest.mark.parametrize("params", [{}, {"model": "mini"}, {"model": "mini", "quick_gelu": True}])
def test_a_source_of_weights_is_needed(params: dict[str, Any]) -> None:
    with pytest.raises(PluginError, match="either `pretrained`"):
        open_clip_of(**params)


def test_a_tag_alone_is_of_no_model() -> None:
    with pytest.raises(PluginError, match="give the `model`"):
        open_clip_of(pretrained="openai")


@pytest.mark.parametrize(
    ("model", "tag", "says"),
    [
        ("ViT-B-33", "openai", "did you mean 'ViT-B-32"),
        ("ViT-B-32", "laion2b_s34b", "did you mean 'laion2b"),
        ("ViT-B-32", "openai", "use model: ViT-B-32-quickgelu"),
        ("ViT-B-32-quickgelu", "laion2b_s34b_b79k", "no tag"),
        ("ViT-B-16-quickgelu", "datacomp_xl_s13b_b90k", "no tag"),
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


def test_that_a_download_is_tried_again_is_told_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    hub = logging.getLogger("huggingface_hub")
    before = hub.handlers, hub.propagate, hub.level

    def fail(*_: object) -> str:
        log = logging.getLogger("huggingface_hub.utils._http")  # tells each of a dozen attempts, as it does in this
        log.warning("something else is deprecated")
        for i in range(12):
            log.warning(f"'no route' thrown while requesting HEAD https://huggingface.co/{i}")
            log.warning(f"Retrying in {i}s [Retry {i}/5].")
        raise OSError("no network")

    monkeypatch.setattr(open_clip, "download_pretrained", fail)
    params = {"model": "ViT-B-32", "pretrained": "laion2b_s34b_b79k"}
    with structlog.testing.capture_logs() as said, pytest.raises(ConfigError, match="no network"):
        load("workers.models", Choice(name="open_clip", params=params)).encode_texts(["x"])
    assert [(line["log_level"], line["model"], line["where"]) for line in said] == [
        ("error", "ViT-B-32", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K/")
    ]
    assert capfd.readouterr() == ("", "") and (hub.handlers, hub.propagate, hub.level) == before


def test_bundled_weights_are_half_precision_and_finite() -> None:
    tensors = load_file(WEIGHTS / "tiny.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.float16, torch.int64}
    assert all(t.isfinite().all() for t in tensors.values())


# --- a folder that says itself what it holds


CONFIG = {
    "model_cfg": json.loads(MINI),
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "resize_mode": "squash"},
}


def folder_of(mini: Path, folder: Path, config: object = CONFIG, weights: str = "open_clip_model.safetensors") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "open_clip_config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    tensors = torch.load(mini, weights_only=True)
    save_file(tensors, folder / weights) if weights.endswith("safetensors") else torch.save(tensors, folder / weights)
    return folder


def in_folder(folder: Path, **params: Any) -> Any:
    return open_clip_of(weights=str(folder), **params)


@pytest.mark.parametrize("weights", ["open_clip_model.safetensors", "mine.safetensors", "mine.bin", "mine.pth"])
def test_a_folder_gives_the_features_of_its_file(mini: Path, tmp_path: Path, weights: str) -> None:
    one, other = of_file(mini), in_folder(folder_of(mini, tmp_path / "f", weights=weights))
    batch = images(one, 3)
    assert torch.equal(one.encode_images(batch), other.encode_images(batch))
    assert torch.equal(one.encode_texts(["a", "b c"]), other.encode_texts(["a", "b c"]))
    assert (one.dim, one.scale) == (other.dim, other.scale)


def test_open_clips_own_name_of_a_folder_is_understood(mini: Path, tmp_path: Path) -> None:
    folder = folder_of(mini, tmp_path / "f")
    assert open_clip_of(model=f"local-dir:{folder}").fingerprint == in_folder(folder).fingerprint
    for wrong in ({"model": "local-dir:f"}, {"model": f"local-dir:{folder}", "weights": str(mini)}):
        with pytest.raises(PluginError, match="weights: FOLDER"):
            open_clip_of(**wrong)


def test_images_are_prepared_as_the_folder_says_and_else_as_openais(mini: Path, tmp_path: Path) -> None:
    # A wide image: white to the left, black to the right. `squash` keeps both, `shortest` crops to the middle.
    image = Image.new("RGB", (200, 40))
    image.paste((255, 255, 255), (0, 0, 20, 40))
    own = in_folder(folder_of(mini, tmp_path / "own")).preprocess(image)
    assert own.shape == (3, 32, 32)
    assert float(own.max()) == pytest.approx((1 - 0.5) / 0.25, abs=0.05)
    assert float(own.min()) == pytest.approx((0 - 0.5) / 0.25, abs=0.05)
    plain = in_folder(folder_of(mini, tmp_path / "plain", {"model_cfg": json.loads(MINI)})).preprocess(image)
    assert torch.equal(plain, of_file(mini).preprocess(image))
    assert float(plain[0].max()) == pytest.approx((0 - 0.48145466) / 0.26862954, abs=1e-3)  # the white is cut off


def test_the_fingerprint_follows_the_preprocessing_and_the_precision(mini: Path, tmp_path: Path) -> None:
    folder = folder_of(mini, tmp_path / "a")
    other = folder_of(mini, tmp_path / "b", CONFIG | {"preprocess_cfg": {"interpolation": "bilinear"}})
    same = folder_of(mini, tmp_path / "c")
    half = in_folder(folder, precision="bf16")
    prints = [in_folder(folder).fingerprint, in_folder(other).fingerprint, half.fingerprint]
    assert len(set(prints)) == 3
    assert in_folder(same).fingerprint == prints[0]


def test_towers_are_in_evaluation_mode(mini: Path, tmp_path: Path) -> None:
    # In training mode half of the patches would be dropped, others each time.
    vision = CONFIG["model_cfg"]["vision_cfg"] | {"patch_dropout": 0.5}
    config = {"model_cfg": CONFIG["model_cfg"] | {"vision_cfg": vision}}
    dropping, whole = in_folder(folder_of(mini, tmp_path / "f", config)), of_file(mini)
    batch = images(whole, 3)
    assert torch.equal(dropping.encode_images(batch), whole.encode_images(batch))


@pytest.mark.parametrize(("precision", "least", "most"), [("bf16", 1e-5, 0.03), ("fp16", 1e-6, 0.004)])
def test_a_lower_precision_is_near_and_not_the_same(mini: Path, precision: str, least: float, most: float) -> None:
    whole = of_file(mini)
    lower = open_clip_of(model="mini", weights=str(mini), quick_gelu=False, precision=precision)
    batch = images(whole, 5)
    exact, near = whole.encode_images(batch), lower.encode_images(batch)
    assert near.dtype == torch.float32
    assert least < float((near - exact).norm() / exact.norm()) < most
    assert lower.encode_texts(["a"]).isfinite().all()
    with pytest.raises(ConfigError, match="trained in fp32 alone"):
        lower.image_tower()


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("", "JSON"),
        ('{"model_cfg"', "JSON"),
        ("[" * 100_000, "JSON"),
        (" " * (2**20 + 1), "at most"),
        ({}, "model_cfg"),
        ({"model_cfg": {"embed_dim": 8}}, "vision_cfg"),
        (CONFIG | {"model_cfg": json.loads(MINI) | {"embed_dim": -8}}, "embed_dim"),
        (CONFIG | {"preprocess_cfg": {"mean": [0.5, 0.5]}}, "mean"),
        (CONFIG | {"preprocess_cfg": {"std": [0, 1, 1]}}, "std"),
        (CONFIG | {"preprocess_cfg": {"resize_mode": "crop"}}, "resize_mode"),
        (CONFIG | {"model_cfg": json.loads(MINI) | {"embed_dim": 9}}, "do not fit"),
        (CONFIG | {"model_cfg": json.loads(MINI) | {"text_cfg": {"tokenizer_kwargs": {"trust_remote_code": True}}}},
         "run code of its own"),
    ],
)  # fmt: skip
def test_a_folder_with_a_wrong_config_is_refused(mini: Path, tmp_path: Path, config: object, says: str) -> None:
    assert says in why(in_folder(folder_of(mini, tmp_path / "f", config)))


def test_a_folder_with_no_weights_or_two_is_refused(mini: Path, tmp_path: Path) -> None:
    folder = folder_of(mini, tmp_path / "f", weights="a.pth")
    folder_of(mini, folder, weights="b.bin")
    assert "(a.pth, b.bin)" in refused(folder)
    (folder / "a.pth").unlink()
    (folder / "b.bin").unlink()
    assert "(none)" in refused(folder)


def test_a_folder_whose_tokenizer_needs_a_library_that_is_not_there_says_so(
    mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)  # not there, whatever is installed
    text = CONFIG["model_cfg"]["text_cfg"] | {"hf_tokenizer_name": "someone/something"}
    folder = folder_of(mini, tmp_path / "f", {"model_cfg": CONFIG["model_cfg"] | {"text_cfg": text}})
    before = in_folder(folder).fingerprint
    with pytest.raises(ConfigError, match=r"no tokenizer for.*transformers"):
        in_folder(folder).encode_texts(["x"])
    (folder / "tokenizer.json").write_text("{}")
    assert in_folder(folder).fingerprint != before


@pytest.mark.parametrize("name", ["open_clip_config.json", "tokenizer.json", "vocab.txt"])
def test_a_text_in_a_folder_that_is_huge_or_never_ends_is_not_read(mini: Path, tmp_path: Path, name: str) -> None:
    text = CONFIG["model_cfg"]["text_cfg"] | {"hf_tokenizer_name": "someone/something"}
    folder = folder_of(mini, tmp_path / "f", {"model_cfg": CONFIG["model_cfg"] | {"text_cfg": text}})
    with (folder / name).open("wb") as f:
        f.truncate(2**40)  # a terabyte of nothing, which no memory holds
    assert f"{name}: {2**40} bytes, at most" in why(in_folder(folder))
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert f"{name}: no regular file" in why(in_folder(folder))


def test_a_cocas_image_tower_gives_features_alone_and_leaves_the_model_as_it_is(tmp_path: Path) -> None:
    vision = CONFIG["model_cfg"]["vision_cfg"] | {
        "attentional_pool": True,
        "attn_pooler_heads": 2,
        "output_tokens": True,
    }
    text = CONFIG["model_cfg"]["text_cfg"] | {"embed_cls": True, "output_tokens": True}
    more = {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1, "attn_pooler_heads": 2}
    coca = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text, "multimodal_cfg": more, "custom_text": True}
    (tmp_path / "coca_mini.json").write_text(json.dumps(coca))
    open_clip.add_model_config(tmp_path / "coca_mini.json")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        torch.save(open_clip.create_model("coca_mini").state_dict(), tmp_path / "coca.pt")
    made = open_clip_of(model="coca_mini", weights=str(tmp_path / "coca.pt"), quick_gelu=False)
    batch = images(made, 3)
    before, tower = made.encode_images(batch), made.image_tower()
    with torch.no_grad():
        unit = torch.nn.functional.normalize(tower(batch), dim=1)  # as CoCa's own encode_image gives them
        assert torch.allclose(unit, before, atol=1e-5)
    assert torch.equal(made.encode_images(batch), before)


def test_pickled_code_in_a_folder_is_not_run(mini: Path, tmp_path: Path) -> None:
    folder = folder_of(mini, tmp_path / "f", weights="open_clip_pytorch_model.bin")
    torch.save({"state_dict": Attack(tmp_path / "run")}, folder / "open_clip_pytorch_model.bin")
    assert "do not fit" in why(in_folder(folder))
    assert not (tmp_path / "run").exists()


def test_torchscript_is_refused_because_it_holds_code(tmp_path: Path) -> None:
    class Doubled(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Doubled()), tmp_path / "ViT-B-32.pt")
    assert "TorchScript, which holds code" in why(of_file(tmp_path / "ViT-B-32.pt"))


# --- QuickGELU: the wrong activation gives wrong features, and no error of its own


def quick(mini: Path) -> str:
    """The name of the same architecture with the other activation."""
    config = mini.with_name("mini-quickgelu.json")
    if not config.exists():
        config.write_text(json.dumps(json.loads(MINI) | {"quick_gelu": True}))
        open_clip.add_model_config(config)
    return config.stem


def test_the_wrong_activation_would_show_in_features_alone(mini: Path) -> None:
    wrong, right = open_clip_of(model=quick(mini), weights=str(mini), quick_gelu=True), of_file(mini)
    batch = images(right, 2)
    assert (wrong.encode_images(batch) - right.encode_images(batch)).abs().max() > 1e-4
    assert wrong.fingerprint != right.fingerprint


def test_a_file_of_which_nobody_says_the_activation_is_refused(mini: Path) -> None:
    said = why(open_clip_of(model="mini", weights=str(mini)))
    assert "quick_gelu: true" in said and "pretrained" in said


def test_a_file_is_refused_for_an_architecture_of_the_other_activation(mini: Path) -> None:
    other = quick(mini)
    said = why(open_clip_of(model="mini", weights=str(mini), quick_gelu=True))
    assert "activation of mini" in said and f"use model: {other}" in said
    said = why(open_clip_of(model=other, weights=str(mini), quick_gelu=False))
    assert f"activation of {other}" in said and "use model: mini" in said


def test_a_local_copy_of_a_tags_file_is_what_the_tag_says(mini: Path) -> None:
    copy = {"weights": str(mini), "pretrained": "openai"}
    assert "use model: ViT-B-32-quickgelu" in why(open_clip_of(model="ViT-B-32", **copy))
    assert "activation" in why(open_clip_of(model="ViT-B-32-quickgelu", quick_gelu=False, **copy))
    assert "do not fit ViT-B-32-quickgelu" in why(open_clip_of(model="ViT-B-32-quickgelu", **copy))


def test_a_local_copy_is_prepared_for_as_its_tag_says(mini: Path) -> None:
    prepared = open_clip_of(model="ViT-B-16-SigLIP", pretrained="webli", weights=str(mini)).checkpoint.preprocess
    assert (prepared["resize_mode"], prepared["mean"], prepared["size"]) == ("squash", (0.5, 0.5, 0.5), 224)


def test_a_folder_is_held_to_what_the_user_says_of_it(mini: Path, tmp_path: Path) -> None:
    folder = folder_of(mini, tmp_path / "f")
    assert in_folder(folder, quick_gelu=False).fingerprint == in_folder(folder).fingerprint
    assert "activation" in why(in_folder(folder, quick_gelu=True))
    assert "weights openai do not go with" in why(in_folder(folder, model="ViT-B-32-quickgelu", pretrained="openai"))
    assert in_folder(folder, model="mini").fingerprint == in_folder(folder).fingerprint


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("ViT-B-32", "embed_dim is 8, of ViT-B-32 it is 512"),
        ("mini-wide", "vision_cfg.width is 32, of mini-wide it is 48"),
        ("mini-quick", "quick_gelu is False, of mini-quick it is True"),
        ("ViT-B-23", "did you mean 'ViT-B-32'?"),
    ],
)
def test_a_folder_is_not_taken_for_the_architecture_that_is_named_beside_it(
    mini: Path, tmp_path: Path, model: str, says: str
) -> None:
    other = {"mini-wide": {"vision_cfg": CONFIG["model_cfg"]["vision_cfg"] | {"width": 48}}}
    other["mini-quick"] = {"quick_gelu": True}
    for name, changes in other.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(CONFIG["model_cfg"] | changes))
        open_clip.add_model_config(tmp_path / f"{name}.json")
    assert says in why(in_folder(folder_of(mini, tmp_path / "f"), model=model))


# --- where and how exactly


def test_products_are_exact_while_encoding_and_the_setting_comes_back() -> None:
    seen: list[object] = []

    def tower(rows: torch.Tensor) -> torch.Tensor:
        seen.extend([torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32])
        return rows.flatten(1)[:, :2]

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        _passes.encode(tower, torch.zeros(3, 4), torch.device("cpu"), 2)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == ["highest", False]


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen"),
    [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu"), (True, False, "cuda")],
)
def test_the_device_is_the_best_there_is(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, chosen: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert device.best().type == chosen


# --- a prompt that can be learnt

PREFIX, TEXTS = "a picture of a", ["a picture of a cup", "a picture of a fire truck in the rain"]


def test_the_words_own_embeddings_give_the_texts_own_features(backbone: Any) -> None:
    steered = backbone.encode_steered(TEXTS, backbone.embed(PREFIX))
    assert torch.allclose(steered, backbone.encode_texts(TEXTS), atol=1e-5)


def test_the_embeddings_of_other_words_are_as_good_as_the_other_words(backbone: Any) -> None:
    before = backbone.encode_texts(TEXTS)
    steered = backbone.encode_steered(TEXTS, backbone.embed("a sketch of a"))
    assert torch.allclose(steered, backbone.encode_texts([t.replace("picture", "sketch") for t in TEXTS]), atol=1e-5)
    assert not torch.allclose(steered, before, atol=1e-3)
    assert torch.equal(backbone.encode_texts(TEXTS), before)  # nothing of it stays behind


def test_gradients_reach_every_vector_of_the_context_and_nothing_else(backbone: Any) -> None:
    context = backbone.embed(PREFIX).requires_grad_()
    assert context.shape[0] == 4 and context.dtype == torch.float32
    backbone.encode_steered(TEXTS, context)[:, 0].sum().backward()
    assert context.grad is not None and bool((context.grad.abs().sum(dim=1) > 0).all())
    assert all(p.grad is None for p in backbone._model.parameters())


def test_a_text_tower_without_a_start_and_an_end_has_no_prompt_to_learn() -> None:
    with pytest.raises(ConfigError, match="no prompt that could be learnt"):
        _steered.embeddings(torch.nn.Linear(1, 1), object(), PREFIX)
