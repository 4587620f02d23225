"""Which parts of an experiment would give a wrong result together, each in one sentence: pure functions of traits.

Knows what a plan holds, and no plugin by name.
"""

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

from schemas.experiment import Simulate
from workers.setting import ImageTower, TextTower

if TYPE_CHECKING:
    from orchestrator.plan import Plan

Objections = Iterator[tuple[bool, str]]
"""Whether something is wrong, and the sentence that says so."""


def compatible(made: "Plan") -> str | None:
    """Why these parts would give a wrong result together, in one sentence, or None."""
    objections = chain(_updates(made), _rounds(made), _images(made), _simulated(made))
    return next((sentence for wrong, sentence in objections if wrong), None)


def _updates(made: "Plan") -> Objections:
    """What must not be done with the method's updates."""
    e, traits, name = made.experiment, made.method.traits, made.experiment.method.name
    exact = f"method {name} sends exact numbers, so"
    yield not (traits.lossy or made.codec.lossless), f"{exact} codec {e.codec.name} would falsify them; use raw"
    yield bool(made.transforms) and not traits.lossy, f"{exact} transforms would falsify them; use none"
    mixing = [c.name for c, t in zip(e.transforms, made.transforms, strict=True) if getattr(t, "remembers", False)]
    yield (
        bool(mixing) and traits.sees_each,
        f"method {name} looks at single updates, which transform {' and '.join(mixing)} mixes with earlier ones",
    )
    yield (
        bool(mixing) and e.rounds.apply == "mix",
        f"apply: mix moves to what a client has trained, which transform {' and '.join(mixing)} mixes with earlier "
        "updates; use apply: delta",
    )
    yield (
        not traits.sums and getattr(made.aggregator, "needs_sums", True),
        f"updates of method {name} may not be added, as aggregator {e.aggregator.name} does",
    )
    yield (
        e.rounds.max_staleness > 0 and e.rounds.staleness.name != "constant" and not traits.discounted,
        f"updates of method {name} may not be discounted; use staleness: constant or max_staleness: 0",
    )
    yield (
        not traits.aggregates and (e.aggregator.name, e.rounds.apply, e.rounds.server_lr) != ("mean", "delta", 1),
        f"method {name} adds up by itself; leave out aggregator, rounds.apply and rounds.server_lr",
    )


def _rounds(made: "Plan") -> Objections:
    """What the aggregator cannot do with so few updates, and the selector without rounds."""
    e, traits, least = made.experiment, made.method.traits, made.least
    yield (
        e.rounds.floor < least,
        f"aggregator {e.aggregator.name} with these params needs {least} updates at least; use rounds.floor: {least}",
    )
    yield (
        traits.groups and least > 1,
        f"aggregator {e.aggregator.name} needs {least} updates, and a group of method {e.method.name} may have fewer",
    )
    calibrates = not getattr(made.aggregator, "discounts", True)
    late = e.rounds.max_staleness > 0 and e.rounds.staleness.name != "constant"
    yield (
        calibrates and (late or e.rounds.apply != "delta"),
        f"aggregator {e.aggregator.name} calibrates late updates itself; use staleness: constant and apply: delta",
    )
    yield (
        calibrates and traits.groups,
        f"aggregator {e.aggregator.name} knows one model, and method {e.method.name} keeps one per group",
    )
    yield (
        bool(getattr(made.selector, "in_rounds", False)) and e.rounds.refill == "at_arrival",
        f"selector {e.selector.name} asks a part of the clients per round; use rounds.refill: at_close",
    )
    yield (
        bool(getattr(made.selector, "in_rounds", False)) and traits.groups,
        f"selector {e.selector.name} asks a part of all clients, and each group of method {e.method.name} has rounds",
    )
    yield (
        hasattr(made.selector, "observe") and (not traits.sums or not traits.aggregates),
        f"selector {e.selector.name} compares updates with the step of the model, which those of this method are not",
    )


def _images(made: "Plan") -> Objections:
    """Whose images the method wants, and in which form."""
    e, traits, name = made.experiment, made.method.traits, made.experiment.method.name
    inside = f"method {name} with this adapter trains inside the image tower, and"
    yield (
        not traits.cached and not isinstance(made.backbone, ImageTower),
        f"{inside} backbone {e.model.backbone.name} has none that could be trained",
    )
    untrained = getattr(made.backbone, "untrained", "")
    yield not traits.cached and bool(untrained), f"{inside} that of backbone {e.model.backbone.name} {untrained}"
    yield (
        made.steers and not isinstance(made.backbone, TextTower),
        f"method {name} with this adapter learns words, and backbone {e.model.backbone.name} has no text tower",
    )
    yield (
        made.steers and not e.model.prompts[0].partition("{}")[0].strip(),
        f"method {name} with this adapter learns the words before the class, and {e.model.prompts[0]!r} has none",
    )
    yield (
        traits.needs_public and e.public is None,
        f"method {name} wants images that are nobody's; name a data set of some in `public`",
    )
    yield (
        traits.needs_public and not traits.cached,
        f"method {name} goes on with merged models on features, and its adapter needs images; use another adapter",
    )
    yield (
        traits.pools and e.sites is not None,
        f"method {name} trains on everybody's images at once, which lie at the sites; it is for simulations only",
    )
    yield (
        traits.pools and e.rounds.in_flight > 1,
        f"with method {name} one client trains for all; use in_flight: 1, quorum: 1 and floor: 1",
    )


def _simulated(made: "Plan") -> Objections:
    """What simulated clients cannot be."""
    e, simulate = made.experiment, made.experiment.simulate or Simulate()
    yield (
        e.simulate is not None and simulate.time_scale == 0 and simulate.presence.name != "always",
        f"presence {simulate.presence.name} needs time to pass, and time_scale 0 lets none pass",
    )
    yield (
        e.rounds.clients_per_task > 1
        and (simulate.latency.name, simulate.presence.name, simulate.dropout) != ("none", "always", 0),
        "clients of one task answer together, so none of them can be slow, away or silent alone; use rounds."
        "clients_per_task: 1, or leave out latency, presence and dropout",
    )
