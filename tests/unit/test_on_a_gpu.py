"""What only a card shows: left out where torch finds none."""

import pytest
import torch

from benchmarks.encode import random_weights
from schemas.base import Choice
from workers.adapters.gate import AttentionGate
from workers.many import fit_many
from workers.method import Examples
from workers.models._clip import Clip, build
from workers.plugins import load
from workers.tensors import generator
from workers.training import Recipe

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    folder = random_weights(tmp_path_factory.mktemp("weights") / "clip")
    found: Clip = load("workers.models", Choice(name="open_clip", params={"weights": str(folder)}))
    return found


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.randn(300, 3, 224, 224, generator=generator(0))


def test_features_are_the_processors_own_but_for_rounding(clip: Clip, pixels: torch.Tensor) -> None:
    on_cpu = build(clip.checkpoint, torch.device("cpu"))
    with torch.no_grad():
        expected = on_cpu.encode_image(pixels[:16])  # type: ignore[operator]
    found = clip.encode_images(pixels[:16])
    assert found.device.type == "cpu" and next(clip.image_tower().parameters()).device.type == "cuda"
    assert float((found - expected).norm(dim=1).div(expected.norm(dim=1)).max()) < 1e-5  # TF32 would give about 1e-3


def test_the_bits_of_a_feature_do_not_depend_on_the_company(clip: Clip, pixels: torch.Tensor) -> None:
    whole = clip.encode_images(pixels)
    assert torch.equal(clip.encode_images(pixels[7:8]), whole[7:8])
    assert torch.equal(clip.encode_images(pixels[100:290]), whole[100:290])
    texts = clip.encode_texts(["a picture of a dog", "a picture of a horse"])
    assert torch.equal(clip.encode_texts(["a picture of a horse"]), texts[1:])


def test_clients_trained_together_there_end_as_on_the_processor() -> None:
    texts = torch.nn.functional.normalize(torch.randn(5, 64, generator=generator(0)), dim=1)
    parts = [Examples(torch.randn(n, 64, generator=generator(n)), torch.arange(n) % 5) for n in (20, 8, 33)]

    def fitted(device: str) -> list[torch.Tensor]:
        gate = AttentionGate(texts, 100.0, generator(0)).to(device)
        done = fit_many(gate, parts, Recipe(batch=8, epochs=2), [generator(i) for i in range(3)])
        return [torch.cat([t.flatten().cpu() for t in one.changed.values()]) for one in done]

    for there, here in zip(fitted("cuda"), fitted("cpu"), strict=True):
        assert float((there - here).norm() / here.norm()) < 1e-2 and float(here.norm()) > 0
