"""PerAda: a personal adapter beside the one that travels, and a server that distils what it merges."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import nn

from workers.distillation import distil, divergence, mean_logits
from workers.method import Client, Merged, Traits, Update
from workers.methods._local import LocalTraining, Training
from workers.setting import Setting
from workers.tensors import Tensors
from workers.training import fit, local_update


class PerAda(LocalTraining):
    """Each client keeps an adapter near the global one and sends another; a worker distils the merged model.

    The personal adapter pays pull * ||v - w||^2 for leaving the incoming w, and never travels. What travels is trained
    from w by plain local steps, as in `fedavg`. In the first `distilled` versions a worker then draws the merged model
    towards the mean logits of the counted clients' models, on unlabelled images that are nobody's (`public`), and keeps
    the merged one unless the distilled one agrees better with those logits on images that it was not distilled on.
    """

    when = (
        "Each owner wants a model for its own images, and their classes differ so much that one for all serves "
        "nobody. Unlabelled images that are nobody's (`public`) may make the shared model better; in our study they "
        "did not, nor were the personal ones told apart from `local_only` (docs/studies.md). Without such images: "
        "`distilled: 0`. Try `quorate run experiments/perada.yaml`."
    )
    costs = (
        "Clients train twice, and each keeps an adapter as private state. In the first `distilled` versions a worker "
        "gets a merge task: the public images through the backbone once, every counted update read again, `steps` "
        "steps of distillation; the next version waits for it."
    )
    sends = (
        "Up: as many bytes as `fedavg`; the personal adapter is never added to anything. In a simulation it lies in "
        "the store, at a site it stays there. Down: the shared adapter; to the worker that distils, the updates too."
    )
    paper = (
        "Xie et al., PerAda: Parameter-Efficient Federated Learning Personalization with Generalization Guarantees, "
        "arXiv 2302.06637"
    )
    deviations = (
        "an adapter on frozen CLIP features, without batch normalisation or dropout",
        "AdamW in the client instead of SGD",
        "whether the distilled model is kept is judged by agreement with the teachers on a fifth of the public images; "
        "the released code has a labelled validation set at the server",
        "the pull has no factor 1/2, as in the released code",
        "late updates count, at a discount; as teachers all weigh evenly, whatever version they began from",
    )
    traits = Traits(needs_public=True, sees_each=True)

    class Params(Training):
        """How a client trains what, and how a worker distils.

        pull: lambda. distilled: so many first versions are distilled, each by `steps` steps of Adam on a cosine
        schedule from `teach_lr`, with `teach_batch` images each; the student is judged every `look` steps.
        temperature: of both softmaxes.
        """

        pull: NonNegativeFloat = 0.1
        distilled: NonNegativeInt = 30
        steps: PositiveInt = 100
        teach_lr: PositiveFloat = 1e-3
        teach_batch: PositiveInt = 256
        look: PositiveInt = 10
        temperature: PositiveFloat = 1.0
        weight: Literal["images", "uniform"] = "uniform"

    def __init__(self, params: Params) -> None:
        super().__init__(params)
        self.params: PerAda.Params = params
        if not params.distilled:
            self.traits = replace(self.traits, needs_public=False)

    def train(self, client: Client) -> Update:
        """First the personal adapter, then the one that travels; both from the same incoming model."""
        own = self.personal(client.setting, client.group, client.incoming, client.private)
        centre = [client.incoming[name] for name, _ in own.named_parameters()]

        def pull(trained: nn.Module) -> torch.Tensor:
            moved = [(v - w).square().sum() for v, w in zip(trained.parameters(), centre, strict=True)]
            return self.params.pull * torch.stack(moved).sum()

        loss = fit(own, client.train, self.params, client.generator("personal"), pull)
        sent = local_update(client, self.restore(client.setting, client.group, client.incoming), self.params)
        metrics = sent.metrics | ({"personal_loss": loss} if math.isfinite(loss) else {})
        private = {name: t.detach().clone() for name, t in own.state_dict().items()}
        return Update(tensors=sent.tensors, weight=sent.weight, metrics=metrics, private=private)

    def personal(self, setting: Setting, group: str, incoming: Tensors, private: Tensors) -> nn.Module:
        """The client's own adapter; before it has one, and for held-out owners, the global one."""
        return self.restore(setting, group, private or incoming)

    def refines(self, version: int) -> bool:
        """In the first versions only."""
        return version <= self.params.distilled

    def refine(self, merged: Merged) -> Tensors:
        """The merged model after distillation, or as it is if that does not agree better with the teachers."""
        order = torch.randperm(len(merged.public), generator=merged.generator("split"))
        judged, shown = (merged.public[part] for part in order.tensor_split([len(order) // 5]))
        if not len(judged):
            return merged.model
        student, teachers = self._model(merged, merged.model), [self._model(merged, m) for m in merged.members]
        teach, judge = mean_logits(teachers, shown), mean_logits(teachers, judged)
        best, least = merged.model, self._disagreement(student, judged, judge)
        for step, _ in enumerate(self._steps(student, shown, teach, merged.generator("batches")), start=1):
            looks = step % self.params.look == 0 or step == self.params.steps
            if looks and (now := self._disagreement(student, judged, judge)) < least:
                best, least = {name: t.clone() for name, t in student.state_dict().items()}, now
        return best

    def _model(self, merged: Merged, tensors: Tensors) -> nn.Module:
        return self.restore(merged.setting, merged.group, tensors)

    def _steps(
        self, student: nn.Module, x: torch.Tensor, teach: torch.Tensor, draw: torch.Generator
    ) -> Iterator[float]:
        p = self.params
        return distil(student, x, teach, steps=p.steps, batch=p.teach_batch, lr=p.teach_lr,
                      temperature=p.temperature, generator=draw)  # fmt: skip

    @torch.no_grad()
    def _disagreement(self, student: nn.Module, x: torch.Tensor, teacher: torch.Tensor) -> float:
        return float(divergence(student(x), teacher, self.params.temperature))
