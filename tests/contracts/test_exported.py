"""The model of every method and every adapter becomes a torch.export program that answers alike, for any batch."""

import io
from pathlib import Path

import pytest
import torch

from schemas.adapter import AdapterFacts
from schemas.base import Choice
from schemas.experiment import Model, Setting
from schemas.messages import ALL
from tests.toys import experiment
from workers.adapter import Adapter
from workers.classifier import attached
from workers.data.features import Features
from workers.plugins import load, names
from workers.setting import agree
from workers.tensors import fingerprint

METHODS = [Choice(name=name) for name in names("workers.methods")]
ADAPTERS = [Choice(name="fedavg", params={"adapter": name}) for name in names("workers.adapters")]


@pytest.mark.parametrize("method", [*METHODS, *ADAPTERS], ids=lambda c: "-".join([c.name, *c.params.values()]))
def test_the_program_gives_the_probabilities_of_the_model_and_holds_no_path(method: Choice, tmp_path: Path) -> None:
    model = Model(backbone=Choice(name="tiny"), prompts=("a picture of a {}",), classes=("cat", "dog", "tree"))
    asked = experiment(method=method, model=model)
    features = Features(load("workers.models", model.backbone), tmp_path)
    of = agree(Setting(experiment=asked, classes=model.classes, fingerprint=features.backbone.fingerprint), features)
    plugin, noise = load("workers.methods", method), torch.Generator().manual_seed(0)
    tensors = {k: t + 0.1 * torch.randn(t.shape, generator=noise) for k, t in plugin.init(of).tensors[ALL].items()}
    facts = AdapterFacts(
        method=method, classes=of.classes, prompts=model.prompts, backbone=model.backbone, run="r", version=0,
        backbone_fingerprint=of.fingerprint, sha256=fingerprint(tensors),
    )  # fmt: skip
    archive = attached(Adapter(facts, tensors), features).program()
    program, judged = torch.export.load(io.BytesIO(archive)).module(), plugin.personal(of, ALL, tensors, {})
    for count in (1, 2, 7):
        cached = plugin.traits.cached
        x = 3 * torch.randn(count, *((of.dim,) if cached else (3, 32, 32)), generator=noise)
        with torch.no_grad():
            rounded = x.half().float() if cached else x  # as the features of a run are
            assert torch.allclose(program(x), torch.softmax(judged(rounded), dim=1), atol=1e-5)
        assert torch.allclose(program(x).sum(dim=1), torch.ones(count), atol=1e-5)
    assert str(Path(__file__).parents[2]).encode() not in archive
    if plugin.traits.cached:
        assert len(archive) < 1_000_000  # the adapter and class texts; the towers are not in it
