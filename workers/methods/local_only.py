"""Everybody alone: what federation has to beat for each client."""

from torch import nn

from schemas.messages import ALL
from workers.method import Client, State, Update
from workers.methods._local import LocalTraining, Training
from workers.setting import Setting
from workers.tensors import Tensors, generator
from workers.training import local_update


class LocalOnly(LocalTraining):
    """Each client trains an adapter of its own from version 0 on and keeps it as private state. Nothing is shared.

    A client is judged by its own model, and who has none yet, a held-out owner included, by version 0. So not one
    tensor travels in either direction, and the global model is version 0 for ever.
    """

    when = (
        "To see whether sharing gains the owners anything: whoever is not above it has no need of the others. Try "
        "`quorate run experiments/demo.yaml --set 'method={name: local_only}'`."
    )
    costs = "One local training per update; each client keeps an adapter as private state."
    sends = "Nothing in either direction but messages."
    paper = "none: the baseline without federation"
    deviations = ()

    class Params(Training):
        """How a client trains what."""

    def init(self, setting: Setting) -> State:
        """No tensors: every client makes the same beginning for itself."""
        return State(tensors={ALL: {}})

    def train(self, client: Client) -> Update:
        """Train the client's own adapter further: an empty update, and the adapter as its private state."""
        module = self.personal(client.setting, client.group, client.incoming, client.private)
        update = local_update(client, module, self.recipe)
        own = {k: t + update.tensors[k] for k, t in module.state_dict().items()}
        return Update(tensors={}, weight=update.weight, metrics=update.metrics, private=own)

    def personal(self, setting: Setting, group: str, incoming: Tensors, private: Tensors) -> nn.Module:
        """The client's own adapter, or version 0."""
        if private:
            return self.restore(setting, group, private)
        return self.build(setting, group, generator(setting.experiment.seed, "init"))
