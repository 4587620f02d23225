"""What one worker process has at hand: the backbone, the owners here and the features of their images.

Everything is kept for the life of the process, so CLIP is loaded once and an image is encoded once. Knows no tasks
and no methods. At a site the data are the site's own, whatever an experiment says.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast
from weakref import WeakKeyDictionary

import numpy as np
import structlog
import torch
from pydantic import ValidationError

from schemas import experiment
from schemas.base import Choice, canonical
from schemas.complaints import complaint
from schemas.errors import ConfigError, DataError
from schemas.experiment import Experiment, SiteData
from schemas.messages import BlobRef, Ref
from workers.data import pictures
from workers.data.features import Encoded, Features
from workers.data.images import Indices
from workers.data.owners import Owner, Owners, read_owners
from workers.method import Examples
from workers.plugins import load
from workers.reach import Reach
from workers.setting import Setting, agree
from workers.tensors import Tensors, unpack
from workers.training import one_thread

K = TypeVar("K")
V = TypeVar("V")

LISTED = 100
"""Names of files, at most, in one line of the log."""

log = structlog.get_logger()

RUNS = 4
"""Settings and owners of so many runs are kept; their features go with them."""


@dataclass(frozen=True)
class Site:
    """The owner whose worker this is."""

    name: str
    data: SiteData


class Place:
    """The pool, or a site. cache: folder of features and drawn data sets."""

    def __init__(self, cache: Path, site: Site | None = None, reach: Reach | None = None) -> None:
        self.cache, self.site, self.reach = cache, site, reach or Reach()
        self.allowed = site.data.plugins if site else None
        self._features: dict[bytes, Features] = {}
        self._owners: dict[bytes, Owners] = {}
        self._settings: dict[str, Setting] = {}
        self._public: dict[bytes, Encoded] = {}
        self._model: tuple[BlobRef | None, Tensors] = (None, {})
        self._encoded: WeakKeyDictionary[Owner, dict[str, torch.Tensor]] = WeakKeyDictionary()

    def proposed(self, ref: Ref) -> experiment.Setting:
        """The setting blob of a task. Raises BlobError, ConfigError."""
        try:
            return experiment.Setting.model_validate_json(self.reach.get(ref))
        except ValidationError as e:
            raise ConfigError(f"the setting is not understood: {complaint(e, experiment.Setting)}") from None

    def setting(self, ref: Ref) -> Setting:
        """The agreed setting of a task on this backbone. Raises BlobError, ConfigError, PluginError."""

        def read() -> Setting:
            agreed = self.proposed(ref)
            return agree(agreed, self.features(agreed.experiment.model.backbone))

        return _kept(self._settings, ref.blob.sha256, read)

    @one_thread()
    def model(self, ref: Ref) -> Tensors:
        """The tensors of a model, for the caller alone. The last one is kept: many clients start from one version.

        Raises BlobError, CodecError.
        """
        if self._model[0] != ref.blob:
            self._model = (ref.blob, unpack(self.reach.get(ref)))
        return {name: t.clone() for name, t in self._model[1].items()}

    def features(self, backbone: Choice) -> Features:
        """The features of a backbone, which is loaded once. Raises PluginError, ConfigError."""

        def read() -> Features:
            return Features(load("workers.models", backbone, allowed=self.allowed), self.cache)

        return _kept(self._features, canonical(backbone), read)

    def owners(self, asked: Experiment) -> Owners:
        """Who owns data here. Raises DataError, PluginError, ConfigError."""
        data = self.site.data.data if self.site else asked.data
        if data is None:
            raise ConfigError("the experiment names sites, and this worker is none of them")
        name = self.site.name if self.site else None

        def read() -> Owners:
            # Any plugin may be named: in the pool by the experiment, at a site by the site itself.
            found = read_owners(data, seed=asked.seed, cache=self.cache, site=name)
            if found.skipped:  # the names stay on this machine; only their number travels
                log.warning("images left out", count=len(found.skipped), files=[str(f) for f in found.skipped[:LISTED]])
            return found

        return _kept(self._owners, canonical([asked.seed, data.model_dump(mode="json")]), read)

    def examples(self, setting: Setting, owner: Owner) -> tuple[Examples, int]:
        """All examples of an owner, and how many images went through the backbone for them now.

        Raises DataError, StoreError.
        """
        kept = self._encoded.setdefault(owner, {})
        encodes = 0
        if setting.fingerprint not in kept:
            encoded = self._encode(setting, owner)
            kept[setting.fingerprint], encodes = encoded.features, encoded.encodes
        return Examples(kept[setting.fingerprint], _labels(owner, setting)), encodes

    def pictures(self, setting: Setting, owner: Owner) -> Examples:
        """All images of an owner as they are, for a method that is not cached. Raises DataError."""
        backbone = self.features(setting.experiment.model.backbone).backbone
        found = pictures.Pictures(tuple(owner.images.paths), backbone)
        return Examples(cast(torch.Tensor, found), _labels(owner, setting))

    def public(self, setting: Setting) -> tuple[torch.Tensor, int]:
        """Features of the images that are nobody's, float32 (N, D), and how many were encoded now. Labels are not read.

        Raises DataError, PluginError, StoreError.
        """
        choice = setting.experiment.public
        if choice is None:
            return torch.zeros(0, setting.dim), 0

        def read() -> Encoded:
            paths = load("workers.datasets", choice, allowed=self.allowed).images(self.cache).paths
            return self.features(setting.experiment.model.backbone).images(paths)

        key = canonical([setting.fingerprint, choice.model_dump(mode="json")])
        known = key in self._public
        found = _kept(self._public, key, read)
        return found.features, 0 if known else found.encodes

    def _encode(self, setting: Setting, owner: Owner) -> Encoded:
        return self.features(setting.experiment.model.backbone).images(owner.images.paths)


@one_thread()
def part(examples: Examples, indices: Indices) -> Examples:
    """These examples only."""
    chosen = torch.from_numpy(indices)
    return Examples(pictures.part(examples.x, chosen), examples.y[chosen])


@one_thread()
def together(parts: Sequence[Examples]) -> Examples:
    """The examples of one or more parts, in this order."""
    if len(parts) == 1:
        return parts[0]
    return Examples(pictures.together([p.x for p in parts]), torch.cat([p.y for p in parts]))


def _labels(owner: Owner, setting: Setting) -> torch.Tensor:
    index = {name: i for i, name in enumerate(setting.classes)}
    for label in np.unique(owner.images.labels):
        if owner.images.classes[label] not in index:
            raise DataError(f"class {owner.images.classes[label]!r} is none of the run's classes")
    table = np.array([index.get(name, -1) for name in owner.images.classes], dtype=np.int64)
    return torch.from_numpy(table[owner.images.labels])


def _kept(shelf: dict[K, V], key: K, make: Callable[[], V]) -> V:
    if key not in shelf:
        value = make()
        while len(shelf) >= RUNS:
            del shelf[next(iter(shelf))]
        shelf[key] = value
    return shelf[key]
