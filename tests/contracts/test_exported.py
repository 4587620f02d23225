"""The model of every method and every adapter becomes a torch.export program that answers alike, for any batch."""

import io
from pathlib import Path

import pytest
import torch

from schemas.adapter import AdapterFacts
from schemas.base import Choice
from schemas.messages import ALL
from tests.toys import ToyBackbone, experiment, setting
from workers.classifier import Adapter, classifier
from workers.plugins import load, names
from workers.tensors import fingerprint

TOY = "tests.toys:ToyBackbone"
CLASSES = ("amber", "blue", "green")


METHODS = [Choice(name=name) for name in names("workers.methods")]
ADAPTERS = [Choice(name="fedavg", params={"adapter": name}) for name in names("workers.adapters")]


@pytest.mark.parametrize("method", [*METHODS, *ADAPTERS], ids=lambda c: "-".join([c.name, *c.params.values()]))
def test_the_program_gives_the_probabilities_of_the_model_and_holds_no_path(method: Choice, tmp_path: Path) -> None:
    found = load("workers.methods", method).init(setting(experiment(method=method)))
    noise = torch.Generator().manual_seed(0)
    tensors = {k: t + 0.1 * torch.randn(t.shape, generator=noise) for k, t in found.tensors[ALL].items()}
    facts = AdapterFacts(
        method=method, classes=CLASSES, prompts=("a {}",), backbone=Choice(name=TOY), run="r", version=0,
        backbone_fingerprint=ToyBackbone(ToyBackbone.Params()).fingerprint, sha256=fingerprint(tensors),
    )  # fmt: skip
    made = classifier(Adapter(facts, tensors), tmp_path, [TOY])
    archive = made.program()
    program = torch.export.load(io.BytesIO(archive)).module()
    for count in (1, 2, 7):
        x = 10 * torch.randn(count, ToyBackbone.dim, generator=noise)
        answer = program(x)
        assert torch.allclose(answer, made.module(x), atol=1e-6)
        assert torch.allclose(answer.sum(dim=1), torch.ones(count), atol=1e-5)
        assert torch.allclose(answer, program(x.half().float()), atol=1e-6)  # rounded as the run's features were
    assert str(Path(__file__).parents[2]).encode() not in archive
