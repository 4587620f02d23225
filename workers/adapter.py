"""A file of an adapter: read whole or refused, and which model of it is meant.

Knows tensors and what is told beside them. Must not know methods or backbones.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError

from infra import files
from schemas.adapter import AdapterFacts
from schemas.base import Choice
from schemas.complaints import complaint
from schemas.errors import CodecError, ConfigError
from schemas.messages import VISITORS
from workers.tensors import Tensors, fingerprint, is_finite, metadata, unpack

LARGEST = 4 * 2**30
"""Bytes of an adapter file: as much as the tensors of a run may have."""


@dataclass(frozen=True)
class Adapter:
    """The tensors of an adapter file, float32, and what they belong to."""

    facts: AdapterFacts
    tensors: Tensors


def read_adapter(path: Path) -> Adapter:
    """The adapter of a file, whole and as it was written. Raises ConfigError for anything else."""
    try:
        data = files.whole(path, LARGEST)
        tensors = unpack(data)
        facts = _facts(metadata(data), path)
    except OSError as e:
        raise ConfigError(f"cannot read {path}: {e.strerror}", hint="name an adapter.safetensors or its run") from None
    except CodecError as e:
        raise ConfigError(f"{path} is no adapter: {e.message}") from None
    if other := sorted(name for name, t in tensors.items() if t.dtype != torch.float32):
        raise ConfigError(f"{path} is no adapter: {other[0]} is {tensors[other[0]].dtype}, and its numbers are float32")
    if fingerprint(tensors) != facts.sha256 or not all(map(is_finite, tensors.values())):
        raise ConfigError(f"{path} is damaged: its tensors are not those that its sha256 was taken of")
    return Adapter(facts, tensors)


def _facts(found: Mapping[str, str], path: Path) -> AdapterFacts:
    try:
        return AdapterFacts.model_validate({name: json.loads(text) for name, text in found.items()})
    except (ValueError, RecursionError) as e:
        why = complaint(e, AdapterFacts) if isinstance(e, ValidationError) else "its metadata are not JSON"
        hint = "quorate run writes runs/NAME/adapter.safetensors"
        raise ConfigError(f"{path} is no adapter of Quorate: {why}", hint=hint) from None


def of_group(adapter: Adapter, group: str | None) -> Adapter:
    """The adapter of one group of a run that keeps several; None: of the only one, or that for visitors.

    Raises ConfigError if there is no such group, or the choice is not ours.
    """
    there = sorted({name.partition("/")[0] for name in adapter.tensors if "/" in name})
    wanted = group or (VISITORS if VISITORS in there else None)
    if not there and group is None:
        return adapter
    if wanted not in there:
        hint = f"--group takes one of {', '.join(there)}" if there else "leave out --group"
        raise ConfigError(
            f"group {group} is not in this adapter" if group else "this adapter has several models", hint=hint
        )
    tensors = {k.partition("/")[2]: t for k, t in adapter.tensors.items() if k.partition("/")[0] == wanted}
    return Adapter(adapter.facts.model_copy(update={"group": wanted, "sha256": fingerprint(tensors)}), tensors)


def with_weights(adapter: Adapter, weights: Path | None) -> Adapter:
    """The adapter of a run whose backbone's weights lie in another file here; None: where the run had them."""
    if weights is None:
        return adapter
    name, params = adapter.facts.backbone.name, dict(adapter.facts.backbone.params)
    if str(params.get("model", "")).startswith("local-dir:"):
        del params["model"]
    backbone = Choice(name=name, params={**params, "weights": str(weights.absolute())})
    return Adapter(adapter.facts.model_copy(update={"backbone": backbone}), adapter.tensors)
