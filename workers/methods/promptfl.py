"""PromptFL: the clients learn one prompt together."""

from pydantic import NonNegativeFloat, PositiveFloat

from schemas.base import Choice
from workers.methods._local import LocalTraining, Named, Training


class PromptFl(LocalTraining):
    """FedAvg over the words before the class name, as free vectors. Image features stay cached."""

    when = (
        "As few numbers as possible shall travel, and CLIP knows the classes, if only by other words. On the owners' "
        "own tests of drawn images it was not told apart from zero-shot (docs/benchmarks.md). Try `quorate run "
        "experiments/demo.yaml --set 'method={name: promptfl}'`."
    )
    costs = (
        "Every step passes one text per class through the frozen text tower: several times a linear head, and more "
        "with more classes."
    )
    sends = "Up and down: some vectors, less than any other adapter."
    paper = (
        "Guo et al., PromptFL: Let Federated Participants Cooperatively Learn Prompts Instead of Models "
        "- Federated Learning in Age of Foundation Model, arXiv 2208.11625"
    )
    deviations = (
        "AdamW in the client instead of SGD",
        "the prompt starts from the experiment's own words instead of from noise",
    )

    class Params(Training):
        """How a client trains the prompt."""

        adapter: Named = Choice(name="prompt")
        lr: PositiveFloat = 1e-3
        weight_decay: NonNegativeFloat = 0.0
