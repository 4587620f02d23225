"""Everybody's images in one place: what federation gives up."""

from workers.method import Traits
from workers.methods._local import LocalTraining, Training


class Centralised(LocalTraining):
    """One client at a time trains on the training images of all of them, in a simulation only: the usual upper bound.

    A version is one local training on the union; validation and test images are still each client's own, so the
    scores compare with those of the other methods. It is no bound by nature: on small data it can fit too closely
    (docs/log.md).
    """

    when = (
        "To see what is lost by not laying all images in one place; in a simulation only. Try `quorate run "
        "experiments/demo.yaml --set 'method={name: centralised}' --set rounds.in_flight=1 --set rounds.quorum=1 "
        "--set rounds.floor=1`."
    )
    costs = "One training on all images per version, one after the other."
    sends = "Up and down: the adapter; the images of all owners are read by the worker."
    paper = "none: the baseline without privacy"
    deviations = ("the optimiser starts anew in every version",)
    traits = Traits(pools=True)

    class Params(Training):
        """How the union is trained on."""
