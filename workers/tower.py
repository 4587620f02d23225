"""Models that learn inside the image tower of a frozen CLIP: pixels in, logits out, by the tower with other weights.

Knows modules. The tower itself is nobody's part: it is neither copied nor sent, stays in evaluation mode, and lies on
whatever device the backbone has; what is trained lies on the CPU.
"""

import copy
from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import nn
from torch.func import functional_call

from schemas.errors import ConfigError
from workers.readout import Cosine
from workers.setting import Setting
from workers.tensors import Tensors

Run = Callable[[Tensors, torch.Tensor], torch.Tensor]


def frozen(setting: Setting) -> nn.Module:
    """The image tower of the run's backbone. Raises ConfigError if it has none that could be trained."""
    if setting.vision is None:
        raise ConfigError("this backbone has no image tower that could be trained")
    return setting.vision.image_tower()


def spoken(name: str) -> str:
    """A name within the tower as the name of a parameter, which must not have dots."""
    return name.replace(".", "-")


class Inside(nn.Module):
    """logits = scale * cos(tower(x; weights), class text), for weights that a subclass makes of its parameters."""

    def __init__(self, tower: nn.Module, texts: torch.Tensor, scale: float) -> None:
        super().__init__()
        self.readout = Cosine(texts, scale)
        self.run = _runner(tower)  # a function and no module, so that who copies this model does not copy the tower
        self.settle: Callable[[Tensors], nn.Module] = lambda weights: _with(tower, weights)

    @abstractmethod
    def weights(self) -> Tensors:
        """The tower's weights that are not the frozen ones, by their names there; gradients reach the parameters."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: preprocessed images (B, 3, H, W) -> (B, K)."""
        logits: torch.Tensor = self.readout(self.run(self.weights(), x))
        return logits

    @torch.no_grad()
    def settled(self) -> nn.Module:
        """The same answers by a tower of its own that has these weights, for when nothing is learnt any more."""
        return nn.Sequential(self.settle(self.weights()), self.readout)


def _runner(tower: nn.Module) -> Run:
    device = next((p.device for p in tower.parameters()), torch.device("cpu"))

    def run(weights: Tensors, x: torch.Tensor) -> torch.Tensor:
        there = {name: t.to(device) for name, t in weights.items()}
        rows: torch.Tensor = functional_call(tower, there, (x.to(device),))
        return rows.cpu()

    return run


def _with(tower: nn.Module, weights: Tensors) -> nn.Module:
    own = copy.deepcopy(tower).cpu().eval()
    own.load_state_dict({name: t.detach() for name, t in weights.items()}, strict=False)
    return own


def matrices(tower: nn.Module) -> Tensors:
    """The weights of linear layers, of attention's projections and of convolutions that are not grouped, by name."""
    found: Tensors = {}
    for prefix, module in tower.named_modules():
        names = {nn.Linear: ("weight",), nn.Conv2d: ("weight",), nn.MultiheadAttention: ("in_proj_weight",)}
        kind = next((k for k in names if isinstance(module, k)), None)
        if kind is None or (isinstance(module, nn.Conv2d) and module.groups > 1):
            continue
        own = {f"{prefix}.{name}".lstrip("."): getattr(module, name) for name in names[kind]}
        found |= {name: weight for name, weight in own.items() if weight is not None}
    return found
