"""Federated averaging of an adapter on frozen features."""

from workers.methods._local import LocalTraining, Training


class FedAvg(LocalTraining):
    """Each client trains an adapter, a linear head by default; the server takes the weighted mean.

    `adapter` is the name of another one (`residual`, `gate`), or `{name: residual, params: {ratio: 0.3}}`.
    """

    when = (
        "The first thing to try, and the yardstick of all others: a linear head on cached features, in seconds. "
        "`adapter: lora` reaches more where a client can afford passing its images through the tower in every step "
        "(docs/benchmarks.md). Try `quorate run experiments/demo.yaml --set 'method={name: fedavg}'`."
    )
    costs = (
        "One local training per update. Owners that nobody trains for may lose what zero-shot knew: look at *held "
        "out* in the report."
    )
    sends = "Up: what changed of the adapter. Down: the adapter."
    paper = (
        "McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, arXiv 1602.05629"
    )
    deviations = (
        "an adapter on a frozen CLIP instead of a whole network, unless the adapter is `tower`",
        "AdamW in the client instead of SGD",
    )

    class Params(Training):
        """How a client trains what."""
