"""What an adapter file says of itself: the metadata of `adapter.safetensors`, each field as JSON under its name."""

from pydantic import Field, NonNegativeInt

from schemas.base import Choice, Frozen, Name, Sha256, Shown


class AdapterFacts(Frozen):
    """What an adapter belongs to: without that its tensors mean nothing.

    classes: in the order of the logits. backbone_fingerprint: of the only backbone whose features it understands.
    seed: of the run; some methods draw what they do not send. sha256: of its tensors (`workers.tensors.fingerprint`).
    """

    method: Choice
    classes: tuple[Shown, ...] = Field(min_length=1)
    prompts: tuple[str, ...] = Field(min_length=1)
    backbone: Choice
    backbone_fingerprint: Shown
    run: Name
    seed: NonNegativeInt = 0
    version: NonNegativeInt
    sha256: Sha256
