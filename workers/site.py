"""Reads a site.yaml: what one owner holds, on its own machine. Knows no messages; nothing of it leaves the machine."""

from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from schemas.base import Choice
from schemas.errors import ConfigError
from schemas.experiment import Data, SiteData
from workers.plugins import complaint, load, plugin_class

LARGEST_FILE = 1_000_000
"""Bytes. A site.yaml is a page of text."""


def read_site(path: Path) -> SiteData:
    """The site.yaml, its plugins loaded once to see that they are right. Paths count from the file's folder.

    Raises ConfigError (PluginError), one line.
    """
    try:
        data = SiteData.model_validate(_read(path))
    except ValidationError as e:
        raise ConfigError(f"{path}: {complaint(e, _known(e))}") from None
    folder = path.absolute().parent
    choice = Choice(name=data.data.name, params=_from(folder, data))
    load("workers.datasets", choice, allowed=data.plugins)
    if data.data.partition is not None:
        load("workers.partitions", data.data.partition, allowed=data.plugins)
    own = data.data.model_copy(update={"params": choice.params})
    return data.model_copy(update={"data": own, "private": folder / data.private.expanduser()})


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ConfigError(f"{path}: larger than {LARGEST_FILE} bytes", hint="a site.yaml is a page of text")
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise ConfigError(f"cannot read {path}: {e.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as e:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(e).split())[:200]}") from None
    if not isinstance(document, dict) or not document.get("data"):
        raise ConfigError(
            f"{path} says nothing of the data", hint="e.g. `data: {name: folder, params: {root: images}}`"
        )
    return document


def _from(folder: Path, data: SiteData) -> dict[str, Any]:
    """The data set's parameters with paths made absolute."""
    params: dict[str, Any] = dict(data.data.params)
    for name, field in plugin_class(
        "workers.datasets", data.data.name, allowed=data.plugins
    ).Params.model_fields.items():
        if Path in (field.annotation, *get_args(field.annotation)) and isinstance(params.get(name), str):
            params[name] = str(folder / Path(params[name]).expanduser())
    return params


def _known(error: ValidationError) -> list[str]:
    where = error.errors()[0]["loc"]
    return list((Data if where[0] == "data" and len(where) > 1 else SiteData).model_fields)
