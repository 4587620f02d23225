"""What an adapter file says of itself: the metadata of `adapter.safetensors`, each field as JSON under its name."""

from pydantic import Field, NonNegativeInt

from schemas.base import Choice, Frozen, Name, Sha256, Shown

PRIVATE = "private."
"""Before the names of tensors that are one client's private state."""


class AdapterFacts(Frozen):
    """What an adapter belongs to: without that its tensors mean nothing.

    classes: in the order of the logits. backbone_fingerprint: of the only backbone whose features it understands.
    seed: of the run; some methods draw what they do not send. group: whose model it is, if it is one of several; a file
    of all of them names each tensor `<group>/<name>`. client: whose own it is, if it is one client's; what
    that client keeps to itself stands among the tensors under PRIVATE. sha256: of the tensors.
    """

    method: Choice
    classes: tuple[Shown, ...] = Field(min_length=1)
    prompts: tuple[str, ...] = Field(min_length=1)
    backbone: Choice
    backbone_fingerprint: Shown
    run: Name
    group: Name | None = None
    client: Name | None = None
    seed: NonNegativeInt = 0
    version: NonNegativeInt
    sha256: Sha256
