"""LoRA (arXiv 2106.09685) and full fine-tuning inside the image tower, numbers derived here."""

import copy
from pathlib import Path

import open_clip
import pytest
import torch
from torch import nn

from orchestrator.plan import plan
from orchestrator.run import execute
from schemas.base import Choice
from schemas.errors import ConfigError
from schemas.log import Event
from schemas.messages import ALL
from tests.runs.here import run, runtime
from tests.runs.test_embedded import SYNC, small
from tests.toys import TOY, client, examples, experiment, paint, pictured, setting
from workers.adapters.gate import AttentionGate
from workers.method import Method
from workers.plugins import load
from workers.readout import Cosine
from workers.setting import Setting
from workers.tensors import Tensors, fingerprint, generator, size
from workers.tower import matrices, spoken

OF = setting(experiment(seed=3))
"""Its image tower is one matrix, 48 -> 16."""


def fedavg(adapter: str, **params: object) -> Method:
    made: Method = load("workers.methods", Choice(name="fedavg", params={
        "adapter": {"name": adapter, "params": params}, "lr": 0.01, "weight_decay": 0.0,
    }))  # fmt: skip
    return made


def plain(x: torch.Tensor) -> torch.Tensor:
    return Cosine(OF.texts, OF.scale)(TOY.image_tower()(x))


def test_at_the_start_it_is_the_frozen_tower_bit_for_bit() -> None:
    x = pictured(examples(OF, 20, 1)).x
    for adapter in ("lora", "tower"):
        method = fedavg(adapter)
        model = method.restore(OF, ALL, method.init(OF).tensors[ALL])
        with torch.no_grad():
            assert torch.equal(model(x), plain(x))


def test_the_weight_is_w_plus_alpha_over_r_times_b_a() -> None:
    method = fedavg("lora", rank=2, alpha=6.0)
    tensors = {k: torch.randn(t.shape, generator=generator(1, k)) for k, t in method.init(OF).tensors[ALL].items()}
    up, down = tensors["1-weight-up"], tensors["1-weight-down"]
    assert up.shape == (16, 2) and down.shape == (2, 48)
    x = pictured(examples(OF, 5, 1)).x
    weight = TOY.image_tower()[1].weight + 3.0 * up @ down  # type: ignore[index]
    expected = Cosine(OF.texts, OF.scale)(x.reshape(5, 48) @ weight.T)
    with torch.no_grad():
        assert torch.allclose(method.restore(OF, ALL, tensors)(x), expected, atol=1e-4)


def test_of_full_rank_it_reaches_every_change_of_the_matrix() -> None:
    # B A of rank 16 is any 16 x 48 matrix: with A the identity's first rows and B free it is any change of 16 columns,
    # and by the singular value decomposition U S V^T any change at all, B = U S, A = V^T.
    change = torch.randn(16, 48, generator=generator(2))
    left, singular, right = torch.linalg.svd(change, full_matrices=False)
    method = fedavg("lora", rank=16, alpha=16.0)
    tensors = {"1-weight-up": left * singular, "1-weight-down": right}
    x = pictured(examples(OF, 5, 1)).x
    whole = {"1-weight": TOY.image_tower()[1].weight + change}  # type: ignore[index]
    with torch.no_grad():
        one, other = method.restore(OF, ALL, tensors)(x), fedavg("tower").restore(OF, ALL, whole)(x)
    assert torch.allclose(one, other, atol=1e-3)


def test_a_rank_beyond_the_smaller_side_is_that_sides() -> None:
    assert {k: t.shape for k, t in fedavg("lora", rank=100).init(OF).tensors[ALL].items()} == {
        "1-weight-up": (16, 16), "1-weight-down": (16, 48),
    }  # fmt: skip


@pytest.mark.parametrize("adapter", ["lora", "tower"])
def test_training_leaves_the_frozen_tower_alone_and_settling_gives_the_same_answers(adapter: str) -> None:
    tower = TOY.image_tower()
    of = copy.copy(OF)
    object.__setattr__(of, "vision", type("Same", (), {"image_tower": lambda self: tower})())
    before, method = fingerprint(dict(tower.state_dict())), fedavg(adapter)
    incoming = method.init(of).tensors[ALL]
    update = method.train(client(of, "a", incoming, cached=False))
    assert any(float(t.abs().max()) > 0 for t in update.tensors.values())
    model = method.restore(of, ALL, {k: t + update.tensors[k] for k, t in incoming.items()})
    x = pictured(examples(of, 20, 1)).x
    with torch.no_grad():
        assert torch.allclose(model.settled()(x), model(x), atol=1e-4)
        assert not torch.allclose(model(x), plain(x), atol=1e-2)
    assert fingerprint(dict(tower.state_dict())) == before
    assert not any(p.requires_grad for p in tower.parameters())


def test_a_backbone_without_an_image_tower_and_a_target_that_is_not_there_are_one_line() -> None:
    without = Setting(OF.experiment, OF.classes, OF.texts, OF.scale, OF.dim, OF.fingerprint)
    for adapter in ("lora", "tower"):
        with pytest.raises(ConfigError, match="no image tower that could be trained"):
            fedavg(adapter).init(without)
    with pytest.raises(ConfigError, match="no matrix of this image tower is called attn"):
        fedavg("lora", targets=("attn",)).init(OF)


# --- what it changes of real towers, and what travels


def vision(name: str) -> nn.Module:
    tower: nn.Module = open_clip.create_model(name, device="meta").visual
    return tower


def test_a_vits_matrices_are_its_patches_attention_and_mlp() -> None:
    # Per block of 12: attention 768 x (3 x 768 in, 768 out), MLP 768 x 3072 twice. The patches are a convolution.
    found = matrices(vision("ViT-B-32"))
    assert len(found) == 1 + 12 * 4
    numbers = {name.partition("resblocks.0.")[2]: tuple(w.shape) for name, w in found.items() if "resblocks.0." in name}
    assert numbers == {
        "attn.in_proj_weight": (2304, 768), "attn.out_proj.weight": (768, 768), "mlp.c_fc.weight": (3072, 768),
        "mlp.c_proj.weight": (768, 3072),
    }  # fmt: skip


def test_what_travels_of_vit_b_32_is_hundreds_of_times_less_than_the_tower() -> None:
    # Whole CLIP ViT-B/32 has 151,277,313 parameters and FedCLIP's gate 2 (512^2 + 512) = 525,312: 288 times less. The
    # image tower alone has 87,849,216: 167 times the gate. LoRA of rank r has r (out + in) per matrix.
    tower = vision("ViT-B-32")
    whole = sum(p.numel() for p in tower.parameters())
    gate = sum(p.numel() for p in AttentionGate(torch.zeros(7, 512), 100.0, generator(0)).parameters())
    low_rank = sum(4 * (len(w) + w[0].numel()) for w in matrices(tower).values())
    assert (whole, gate) == (87_849_216, 525_312)
    assert round(151_277_313 / gate) == 288 and round(whole / gate) == 167
    per_block = (2304 + 768) + (768 + 768) + 2 * (3072 + 768)
    assert low_rank == 4 * (12 * per_block + 768 + 3 * 32 * 32) == 605_184


# --- whole runs on the bundled CLIP


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("images"), per_class=5)


@pytest.mark.parametrize("adapter", ["lora", "tower"])
def test_a_run_trains_inside_the_bundled_tower_and_twice_gives_the_same_bytes(
    images: Path, tmp_path: Path, adapter: str
) -> None:
    method = {"name": "fedavg", "params": {"adapter": adapter, "lr": 1e-3}}
    made = small(images, method=method, model={"backbone": {"name": "tiny"}}, rounds={**SYNC, "versions": 2})
    one, two = (run(made, tmp_path / name) for name in ("one", "two"))
    assert one.report.adapter_sha256 == two.report.adapter_sha256
    assert one.report.ledger["flat-0"].accepted == 2
    moved: Tensors = one.tensors["all"]
    assert size(moved) > 1_000_000 if adapter == "tower" else size(moved) < 300_000
    before = {spoken(k): p for k, p in load("workers.models", Choice(name="tiny")).image_tower().named_parameters()}
    still = [name for name, t in moved.items() if torch.equal(t, before.get(name, torch.zeros_like(t)))]
    assert not still and (adapter == "lora" or moved.keys() == before.keys())
    assert one.report.accuracy.mean is not None and one.report.accuracy.zero_shot["flat-0"] is not None


def test_images_that_go_bad_during_a_run_cost_their_owners_the_later_rounds_and_nobody_else(tmp_path: Path) -> None:
    root = paint(tmp_path / "images", per_class=5)

    def spoil(event: Event) -> None:
        if (event.event, event.version) == ("committed", 1):
            for file in root.glob("noisy/*/*.png"):
                file.write_bytes(file.read_bytes()[:60])

    method = {"name": "fedavg", "params": {"adapter": "lora"}}
    made = small(root, method=method, rounds={**SYNC, "versions": 2, "floor": 2}, evaluate={"every": 0})
    outcome = execute(plan(made), runtime(tmp_path), "r", spoil)
    assert (outcome.report.status, outcome.report.version) == ("finished", 2)
    assert {c: (s.accepted, s.lost) for c, s in outcome.report.ledger.items()} == {
        "flat-0": (2, 0), "flat-1": (2, 0), "noisy-0": (1, 1), "noisy-1": (1, 1),
    }  # fmt: skip
    lost = [e.facts["reason"] for e in outcome.events if e.event == "lost"]
    assert len(lost) == 2 and all(f"cannot read {root / 'noisy'}" in reason for reason in lost)
