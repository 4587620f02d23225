"""PromptFL (arXiv 2208.11625): a prompt in CoOp's manner (arXiv 2109.01134), averaged."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from schemas.errors import ConfigError
from schemas.messages import ALL
from tests.runs.here import run
from tests.toys import client, examples, experiment, paint, setting
from workers.adapters.prompt import Prompt, Prompted
from workers.methods.promptfl import PromptFl
from workers.models.tiny import Tiny
from workers.readout import Cosine
from workers.setting import Setting
from workers.tensors import fingerprint, generator


@pytest.fixture(scope="module")
def of() -> Setting:
    """On the text tower of the tiny CLIP, which knows these three."""
    backbone = Tiny(Tiny.Params())
    classes = ("boat", "butterfly", "cup")
    asked = experiment(model={"prompts": ["a picture of a {} at night"]})
    texts = functional.normalize(backbone.encode_texts([f"a picture of a {c} at night" for c in classes]), dim=1)
    return Setting(asked, classes, texts, 20.0, backbone.dim, "0" * 64, backbone)


def test_a_prompt_is_its_words_vectors_and_nothing_else_travels(of: Setting) -> None:
    # The tiny text tower is 32 wide; "a picture of a" has 4 tokens.
    incoming = PromptFl(PromptFl.Params()).init(of).tensors[ALL]
    assert {k: tuple(t.shape) for k, t in incoming.items()} == {"context": (4, 32)}


def test_version_0_is_zero_shot_with_the_words_before_and_behind_the_name(of: Setting) -> None:
    module = Prompt(Prompt.Params()).build(of, generator(0))
    x = examples(of, 20, 0).x
    assert torch.allclose(module(x), Cosine(of.texts, of.scale)(x), atol=1e-3)


def test_the_logits_are_cosines_with_the_texts_behind_the_context(of: Setting) -> None:
    assert of.tower is not None
    module = Prompt(Prompt.Params()).build(of, generator(0))
    context = module.state_dict()["context"] + 0.05 * torch.randn(4, 32, generator=generator(1))
    module.load_state_dict({"context": context})
    texts = of.tower.encode_steered([f"a picture of a {c} at night" for c in of.classes], context)
    x = examples(of, 5, 0).x
    expected = [[20 * functional.cosine_similarity(f, t, dim=0) for t in texts] for f in x]
    assert torch.allclose(module(x), torch.tensor(expected), atol=1e-4)
    assert not torch.allclose(module(x), Cosine(of.texts, of.scale)(x), atol=1e-2)


def test_training_moves_the_prompt_and_leaves_clip_alone(of: Setting) -> None:
    method = PromptFl(PromptFl.Params(lr=0.003, epochs=5))
    tower = of.tower
    assert isinstance(tower, Tiny)
    before = fingerprint(dict(tower._model.state_dict()))
    incoming = method.init(of).tensors[ALL]
    first = method.train(client(of, "a", incoming))
    second = method.train(client(of, "a", {k: t + first.tensors[k] for k, t in incoming.items()}))
    assert second.metrics["loss"] < first.metrics["loss"]
    assert bool(first.tensors["context"].abs().sum(dim=1).gt(0).all())  # every vector of it
    assert fingerprint(dict(tower._model.state_dict())) == before


def test_who_copies_the_model_does_not_copy_clip(of: Setting) -> None:
    module = Prompt(Prompt.Params()).build(of, generator(0))
    assert isinstance(module, Prompted) and copy.deepcopy(module).encode is module.encode
    assert [name for name, _ in module.named_parameters()] == ["context"]


def test_the_first_prompt_counts_and_must_have_words_before_the_name() -> None:
    def built(*prompts: str) -> torch.nn.Module:
        return Prompt(Prompt.Params()).build(setting(experiment(model={"prompts": prompts})), generator(0))

    assert built("one two {}", "{}").state_dict()["context"].shape[0] == 2
    for prompt in ("{}", " {} in a picture"):
        with pytest.raises(ConfigError, match=r"no words before \{\}"):
            built(prompt, "a {}")


def test_a_backbone_without_such_a_tower_is_refused() -> None:
    with pytest.raises(ConfigError, match="no prompt that could be learnt"):
        Prompt(Prompt.Params()).build(replace(setting(), tower=None), generator(0))


def test_images_pass_the_backbone_once_however_often_a_prompt_is_trained(tmp_path: Path) -> None:
    # 3 domains of 3 classes of 5 images; the 9 of one client are trained on in 2 versions of 3 epochs.
    images = paint(tmp_path / "images", per_class=5)
    method = {"name": "promptfl", "params": {"epochs": 3}}
    rounds = {"versions": 2, "in_flight": 2, "quorum": 2, "floor": 2, "max_staleness": 0}
    asked = experiment(images, method=method, model={"backbone": {"name": "tiny"}}, rounds=rounds)
    first, second = (run(asked, tmp_path, name=name) for name in ("one", "two"))
    assert (first.report.version, first.report.encodes, second.report.encodes) == (2, 45, 0)
    assert first.report.adapter_sha256 == second.report.adapter_sha256
