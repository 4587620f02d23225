"""A learnt prompt: the words before the class name, as free vectors."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from schemas.base import Frozen
from schemas.errors import ConfigError
from workers.readout import Cosine
from workers.setting import Setting


class Prompted(nn.Module):
    """logits = scale * cos(feature, text feature of the class behind the learnt context).

    context: float32 (M, W), the vectors in the place of the words; all classes share them. encode: context -> raw text
    features (K, D). It is a function and no module, so that who copies this model does not copy CLIP. Not stackable:
    what the tower keeps for the gradients of one client, as often as there are clients, would not fit into memory.
    """

    stackable = False

    def __init__(self, context: torch.Tensor, encode: Callable[[torch.Tensor], torch.Tensor], scale: float) -> None:
        super().__init__()
        self.context = nn.Parameter(context)
        self.encode, self.scale = encode, scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (B, D) -> (B, K)."""
        texts = functional.normalize(self.encode(self.context), dim=1)
        return self.scale * functional.normalize(x, dim=1) @ texts.T

    @torch.no_grad()
    def settled(self) -> Cosine:
        """The same answers without the text tower, for when nothing is learnt any more."""
        return Cosine(functional.normalize(self.encode(self.context), dim=1), self.scale)


class Prompt:
    """The words before the class name as free vectors that all classes share (CoOp). Zero-shot at the start.

    They begin as the words of the first of `model.prompts`. Image features stay cached; each step passes one text per
    class through the frozen text tower.
    """

    paper = "Zhou et al., Learning to Prompt for Vision-Language Models, arXiv 2109.01134"
    deviations = (
        "it starts from the words of the experiment's prompt, the paper's `ctx_init`, and never from noise",
        "what follows the class name in the prompt stays as it is, where the paper has a full stop",
    )
    steers = True

    class Params(Frozen):
        """No parameters: as many vectors as the words before `{}` have tokens."""

    def __init__(self, params: Params) -> None:
        self.params = params

    def build(self, setting: Setting, generator: torch.Generator) -> nn.Module:
        """The context: M W parameters. Raises ConfigError if there are no words, or the backbone has no such tower."""
        tower, prompt = setting.tower, setting.experiment.model.prompts[0]
        if tower is None:
            raise ConfigError("this backbone's text tower has no prompt that could be learnt")
        words = prompt.partition("{}")[0].strip()
        if not words:
            raise ConfigError(f"prompt {prompt!r} has no words before {{}} that could be learnt")
        texts = tuple(prompt.replace("{}", name) for name in setting.classes)
        return Prompted(tower.embed(words), lambda context: tower.encode_steered(texts, context), setting.scale)
