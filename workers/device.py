"""Which device the frozen towers run on: the one place that asks what this machine has."""

import torch


def best() -> torch.device:
    """The first CUDA GPU that is visible (CUDA_VISIBLE_DEVICES chooses), else Apple's, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
