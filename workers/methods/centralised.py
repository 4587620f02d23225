"""Everybody's images in one place: what federation gives up."""

from workers.method import Traits
from workers.methods._local import LocalTraining, Training


class Centralised(LocalTraining):
    """One client at a time trains on the training images of all of them, in a simulation only: the usual upper bound.

    A version is one local training on the union; validation and test images are still each client's own, so the
    scores compare with those of the other methods. It is no bound by nature: on small data it can fit too closely
    (docs/log.md).
    """

    paper = "none: the baseline without privacy"
    deviations = ("the optimiser starts anew in every version",)
    traits = Traits(pools=True)

    class Params(Training):
        """How the union is trained on."""
