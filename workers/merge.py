"""A merge task: what a method makes of a merged model and of the models that it was merged of.

Knows how the inputs of the task are named, and no method. Trusts the hashes that they bear.
"""

from collections.abc import Mapping

from schemas.messages import BlobRef, Ref, Task
from workers.method import Merged, Method
from workers.pipeline import Codec, open_update
from workers.place import Place
from workers.plugins import load
from workers.reach import Reach
from workers.setting import Setting
from workers.tensors import Tensors, pack, unpack
from workers.training import one_thread


@one_thread()
def refine(task: Task, setting: Setting, method: Method, place: Place, reach: Reach) -> tuple[BlobRef, int]:
    """Upload what the method makes of the merged model; how many images went through the backbone for it now.

    Raises BlobError, CodecError, DataError, GrantRefused, PluginError, and whatever the method raises.
    """
    codec: Codec = load("workers.codecs", setting.experiment.codec, allowed=place.allowed)
    public, encodes = place.public(setting)
    model = place.model(task.inputs["model"])
    merged = Merged(task.base, setting, task.group, model, members(task.inputs, reach, codec), public)
    return reach.upload(task.outputs["model"], pack(method.refine(merged)))[0], encodes


def members(inputs: Mapping[str, Ref], reach: Reach, codec: Codec) -> tuple[Tensors, ...]:
    """Base plus update of each counted client, in client order. Raises BlobError, CodecError, GrantRefused."""
    bases = {name: unpack(reach.get(ref)) for name, ref in inputs.items() if name.startswith("base/")}
    updates = {tuple(reversed(name.split("/"))): ref for name, ref in inputs.items() if name.startswith("update/")}
    return tuple(
        _moved(bases[f"base/{base}"], open_update(reach.get(ref), codec)[0])
        for (_, base, _), ref in sorted(updates.items(), key=lambda item: (item[0][0], int(item[0][1])))
    )


def _moved(base: Tensors, update: Tensors) -> Tensors:
    return {name: t + update[name] if name in update else t for name, t in base.items()}
