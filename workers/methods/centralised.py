"""Everybody's images in one place: what federation could reach at most."""

from workers.method import Traits
from workers.methods._local import LocalTraining, Training


class Centralised(LocalTraining):
    """One client at a time trains on the training images of all of them: the upper bound, in a simulation only.

    A version is one local training on the union; validation and test images are still each client's own, so the
    scores compare with those of the other methods.
    """

    paper = "none: the baseline without privacy"
    deviations = ("the optimiser starts anew in every version",)
    traits = Traits(pools=True)

    class Params(Training):
        """How the union is trained on."""
