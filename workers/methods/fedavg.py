"""Federated averaging of an adapter on frozen features."""

from workers.methods._local import LocalTraining, Training


class FedAvg(LocalTraining):
    """Each client trains an adapter, a linear head by default; the server takes the weighted mean.

    `adapter` is the name of another one (`residual`, `gate`), or `{name: residual, params: {ratio: 0.3}}`.
    """

    paper = (
        "McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, arXiv 1602.05629"
    )
    deviations = (
        "an adapter on a frozen CLIP instead of a whole network, unless the adapter is `tower`",
        "AdamW in the client instead of SGD",
    )

    class Params(Training):
        """How a client trains what."""
