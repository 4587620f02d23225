"""FedCLIP (arXiv 2302.13485): the checks of its specification, each number derived here."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from schemas.base import Choice
from tests.toys import ToyBackbone, client, examples, experiment, paint, setting
from workers.adapters.gate import AttentionGate
from workers.adapters.linear import LinearHead
from workers.data.features import Features
from workers.data.split import permuted
from workers.method import Client, Examples, Method
from workers.methods.fedclip import PRESETS, FedClip
from workers.plugins import load
from workers.readout import Cosine
from workers.setting import Setting
from workers.tensors import Tensors, generator
from workers.training import Recipe, accuracy, batches, contrastive, fit, local_update

PAPER = Choice(name="fedclip", params={"preset": "paper"})


def _texts(classes: int, dim: int) -> torch.Tensor:
    return functional.normalize(torch.randn(classes, dim, generator=torch.Generator().manual_seed(5)), dim=1)


def _features(count: int, dim: int) -> torch.Tensor:
    """Isotropic, of norm 10."""
    x = torch.randn(count, dim, generator=torch.Generator().manual_seed(6))
    return 10 * functional.normalize(x, dim=1)


def test_the_gate_has_525312_parameters_at_512_dimensions() -> None:
    gate = AttentionGate(_texts(7, 512), 100.0, generator(0, "init"))
    assert sum(p.numel() for p in gate.parameters()) == 2 * (512 * 512 + 512) == 525_312
    assert sum(t.numel() for t in gate.state_dict().values()) == 525_312  # class texts do not travel


def test_the_gate_starts_uniform_within_one_over_root_d() -> None:
    gate = AttentionGate(_texts(7, 256), 100.0, generator(0, "init"))
    values = torch.cat([p.detach().reshape(-1) for p in gate.parameters()])
    assert float(values.abs().max()) <= 1 / 16
    assert float(values.std()) == pytest.approx(1 / 16 / math.sqrt(3), rel=0.01)  # of U(-a, a): a / sqrt(3)


def test_attention_is_positive_and_sums_to_one() -> None:
    gate = AttentionGate(_texts(7, 64), 100.0, generator(0, "init"))
    attention = gate.attention(_features(9, 64))
    assert bool((attention > 0).all())
    assert attention.sum(dim=1).tolist() == pytest.approx([1.0] * 9, abs=1e-5)


def test_the_forward_pass_is_the_formula_of_the_specification() -> None:
    texts, x = _texts(3, 8), _features(2, 8)
    gate = AttentionGate(texts, 100.0, generator(0, "init"))
    w1, b1, w2, b2 = (
        gate.state_dict()[k].double() for k in ("hidden.weight", "hidden.bias", "gate.weight", "gate.bias")
    )
    for row, f in enumerate(x.double()):
        h = torch.tanh(w1 @ f + b1)
        e = torch.exp(w2 @ h + b2)
        z = e / e.sum() * f
        expected = 100 * (texts.double() @ (z / z.norm()))
        assert torch.allclose(gate(x)[row].double(), expected, atol=1e-4)


def test_the_untrained_gate_is_nearly_zero_shot() -> None:
    # The specification measured, on random features of norm 10 at D = 512: mean cos(z, f) = 0.990.
    texts, x = _texts(7, 512), _features(2000, 512)
    gate = AttentionGate(texts, 100.0, generator(0, "init"))
    with torch.no_grad():
        cosine = functional.cosine_similarity(gate.attention(x) * x, x)
        assert float(cosine.mean()) == pytest.approx(0.990, abs=0.003)


def test_version_0_is_within_half_a_point_of_zero_shot() -> None:
    # As many images as PACS' art domain. Features lie around their class text in noise of 7 times its length: CLIP on
    # PACS is right about as often (the specification's zero-shot anchors: 85 to 99.7 %).
    texts = _texts(7, 512)
    labels = torch.arange(2048) % 7
    noise = torch.randn(2048, 512, generator=torch.Generator().manual_seed(7)) / math.sqrt(512)
    data = Examples(10 * functional.normalize(texts[labels] + 7 * noise, dim=1), labels)
    zero_shot = accuracy(Cosine(texts, 100.0), data)
    assert 0.90 < zero_shot < 0.97  # away from the ceiling, where nothing could change
    for seed in range(4):
        gate = AttentionGate(texts, 100.0, generator(seed, "init"))
        assert accuracy(gate, data) == pytest.approx(zero_shot, abs=0.005)


def test_a_linear_head_starts_as_zero_shot() -> None:
    texts, x = _texts(7, 64), _features(50, 64)
    assert torch.allclose(LinearHead(texts, 100.0)(x), Cosine(texts, 100.0)(x), atol=1e-4)


def _pairwise(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The released loss: the batch's own prompts as columns, the position in the batch as the target, both ways."""
    pairs = logits[:, labels]
    target = torch.arange(len(labels))
    return (functional.cross_entropy(pairs, target) + functional.cross_entropy(pairs.T, target)) / 2


@pytest.mark.parametrize("size", [1, 2, 32])
@pytest.mark.parametrize("classes", [1, 7, 65])
def test_the_class_level_loss_is_the_pairwise_loss(size: int, classes: int) -> None:
    draw = torch.Generator().manual_seed(size * 100 + classes)
    labels = torch.randint(classes, (size,), generator=draw)
    base = 5 * torch.randn(size, classes, generator=draw, dtype=torch.float64)
    by_class, by_pair = base.clone().requires_grad_(), base.clone().requires_grad_()
    one, two = contrastive(by_class, labels), _pairwise(by_pair, labels)
    assert float(one.detach()) == pytest.approx(float(two.detach()), abs=1e-12)
    one.backward()
    two.backward()
    assert by_class.grad is not None and by_pair.grad is not None
    assert torch.allclose(by_class.grad, by_pair.grad, atol=1e-14)


def test_the_floor_of_the_loss_is_the_mean_log_count_of_the_own_class() -> None:
    labels = torch.tensor([0, 0, 0, 1])
    logits = 200 * functional.one_hot(labels, 3).double()
    floor = (3 * math.log(3) + math.log(1)) / 4
    assert float(contrastive(logits, labels)) == pytest.approx(floor, abs=1e-9)


def test_the_paper_preset_is_the_released_recipe() -> None:
    assert PRESETS["paper"] == Recipe(
        optimiser="adam",
        lr=5e-5,
        betas=(0.9, 0.98),
        eps=1e-6,
        weight_decay=0.2,
        loss="contrastive",
        batch=32,
        epochs=1,
        smallest=2,
        weight="uniform",
    )


def _one_step(recipe: Recipe, data: Examples) -> tuple[Tensors, Tensors, Tensors]:
    """Weights before, gradients there, and weights after one step on the whole of the data."""
    gate = AttentionGate(setting().texts, 20.0, generator(0, "init"))
    before = {k: v.clone() for k, v in gate.state_dict().items()}
    contrastive(gate(data.x), data.y).backward()  # type: ignore[no-untyped-call]
    gradients = {k: p.grad.clone() for k, p in gate.named_parameters() if p.grad is not None}
    fit(gate, data, recipe.model_copy(update={"batch": len(data)}), generator(0, "order"))
    return before, gradients, gate.state_dict()


def test_the_first_step_of_the_paper_preset_is_adams_with_coupled_decay() -> None:
    # Step 1 of Adam after bias correction: m = g, v = g^2, so w <- w - lr * g / (|g| + eps), where g already contains
    # weight_decay * w. Where the gradient dominates that is a step of size lr against its sign.
    before, gradients, after = _one_step(PRESETS["paper"], examples(setting(), 32, 1))
    for name, w in before.items():
        g = (gradients[name] + 0.2 * w).double()
        expected = w.double() - 5e-5 * g / (g.abs() + 1e-6)
        assert torch.allclose(after[name].double(), expected, atol=2e-8, rtol=0), name


def test_adamw_with_the_same_decay_is_another_method() -> None:
    # Decoupled: w <- w (1 - lr * decay) - lr * g / (|g| + eps), with the bare gradient.
    recipe = PRESETS["paper"].model_copy(update={"optimiser": "adamw"})
    before, gradients, after = _one_step(recipe, examples(setting(), 32, 1))
    for name, w in before.items():
        g = gradients[name].double()
        expected = w.double() * (1 - 5e-5 * 0.2) - 5e-5 * g / (g.abs() + 1e-6)
        assert torch.allclose(after[name].double(), expected, atol=2e-8, rtol=0), name
    coupled = _one_step(PRESETS["paper"], examples(setting(), 32, 1))[2]
    assert max(float((coupled[k] - after[k]).abs().max()) for k in after) > 5e-5


def test_the_optimiser_starts_anew_in_every_task() -> None:
    # With moments kept from version to version the second step would depend on the first; here both are first steps.
    method, of = FedClip(FedClip.Params(preset="paper")), setting()
    incoming = method.init(of).tensors["all"]
    one = client(of, "a", incoming)
    first = method.train(one).tensors
    method.train(client(of, "b", incoming))
    again = method.train(one).tensors
    assert all(torch.equal(first[k], again[k]) for k in first)


def test_batches_of_one_are_skipped_and_short_ones_are_not() -> None:
    paper = PRESETS["paper"]
    sizes = {n: [len(b) for b in batches(n, paper, torch.Generator().manual_seed(0))] for n in (1, 33, 34, 64)}
    assert sizes == {1: [], 33: [32], 34: [32, 2], 64: [32, 32]}


def test_an_epoch_visits_every_image_once() -> None:
    seen = torch.cat(list(batches(100, Recipe(), torch.Generator().manual_seed(0))))
    assert sorted(seen.tolist()) == list(range(100))


def test_a_client_with_one_image_sends_nothing_new_under_the_paper_preset() -> None:
    method, of = FedClip(FedClip.Params(preset="paper")), setting()
    update = method.train(client(of, "a", method.init(of).tensors["all"], train=examples(of, 1, 0)))
    assert not any(bool(t.any()) for t in update.tensors.values())
    assert "loss" not in update.metrics


def test_the_paper_weighs_clients_equally_and_the_default_by_images() -> None:
    of = setting()
    for preset, weight in (("paper", 1.0), ("default", 40.0)):
        method: Method = load("workers.methods", Choice(name="fedclip", params={"preset": preset}))
        assert method.train(client(of, "a", method.init(of).tensors["all"])).weight == weight


def test_a_round_of_all_clients_is_the_mean_of_their_models() -> None:
    method: Method = load("workers.methods", PAPER)
    of = setting()
    state = method.init(of)
    incoming = state.tensors["all"]
    mean = load("orchestrator.aggregators", Choice(name="mean"))
    fold = method.fold(mean, state, "all")
    models = []
    for name in ("a", "b", "c"):
        update = method.train(client(of, name, incoming))
        fold.add(name, update.tensors, update.weight, 1.0)
        models.append({k: (incoming[k] + t).double() for k, t in update.tensors.items()})
    merged = method.merge(state, {"all": fold.result()}, 1.0).tensors["all"]
    for k in incoming:
        expected = torch.stack([m[k] for m in models]).mean(dim=0)
        assert float((merged[k].double() - expected).abs().max()) < 1e-7


def test_only_the_gate_moves() -> None:
    of = setting()
    texts = of.texts.clone()
    method = FedClip(FedClip.Params(lr=0.01))
    update = method.train(client(of, "a", method.init(of).tensors["all"]))
    assert set(update.tensors) == {"hidden.weight", "hidden.bias", "gate.weight", "gate.bias"}
    assert torch.equal(of.texts, texts)


def test_cached_features_give_the_logits_of_fresh_ones(tmp_path: Path) -> None:
    toy = ToyBackbone(ToyBackbone.Params())
    paths = sorted(paint(tmp_path / "images").rglob("*.png"))
    cached = Features(toy, tmp_path).images(paths).features
    from PIL import Image

    fresh = toy.encode_images(torch.stack([toy.preprocess(Image.open(p).convert("RGB")) for p in paths]))
    gate = AttentionGate(setting().texts, 100.0, generator(0, "init"))
    with torch.no_grad():
        # float16 keeps 11 bits: a relative error of 2^-11 per coordinate turns a unit vector by about that much,
        # and a scale of 100 makes 0.05 of it; the gate's own reaction is of the same order.
        assert float((gate(cached) - gate(fresh)).abs().max()) < 0.1


def test_both_presets_learn_what_zero_shot_does_not_know() -> None:
    # Two of the coordinates mislead: the features carry a constant there. A gate can turn them down.
    of = setting(experiment())
    shift = torch.zeros(of.dim)
    shift[:2] = 25.0
    for preset in ("default", "paper"):
        method = FedClip(FedClip.Params(preset=preset, lr=3e-3, epochs=5))
        data = [_shifted(of, shift, i) for i in range(2)]
        model = method.restore(of, "all", method.init(of).tensors["all"])
        before = accuracy(model, data[1])
        one = Client(name="a", base=0, setting=of, incoming=model.state_dict(), train=data[0], val=data[1])
        update = local_update(one, model, method.recipe)
        trained = method.restore(of, "all", {k: v + update.tensors[k] for k, v in model.state_dict().items()})
        assert accuracy(trained, data[1]) > before + 0.05, preset


def _shifted(of: Setting, shift: torch.Tensor, seed: int) -> Examples:
    data = examples(of, 300, seed)
    return Examples(data.x + shift, data.y)


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(2048, (1228, 409, 409)), (2344, (1406, 468, 468)), (1670, (1002, 334, 334)), (3929, (2357, 785, 785))],
    ids=["art_painting", "cartoon", "photo", "sketch"],
)
def test_the_split_permutation_has_the_sizes_of_the_released_code_on_pacs(
    count: int, sizes: tuple[int, int, int]
) -> None:
    # floor(0.6 N), floor(0.2 N), floor(0.2 N); up to two images are in no part.
    parts = permuted(count, 0)
    assert (len(parts.train), len(parts.val), len(parts.test)) == sizes
    used = np.concatenate([parts.train, parts.val, parts.test])
    assert len(set(used.tolist())) == sum(sizes) and set(used.tolist()) <= set(range(count))


def test_the_split_permutation_is_numpys_old_generator() -> None:
    # np.random.seed(0); np.random.permutation(10) is 2 8 4 9 1 6 7 3 0 5, as countless pages print it.
    parts = permuted(10, 0)
    assert (parts.train.tolist(), parts.val.tolist(), parts.test.tolist()) == ([1, 2, 4, 6, 8, 9], [3, 7], [0, 5])
    assert permuted(10, 2**32).train.tolist() == parts.train.tolist()  # it knows seeds of 32 bits
    assert [len(p) for p in (permuted(1, 0).train, permuted(1, 0).test)] == [0, 0]
