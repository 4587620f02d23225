"""Reads a site.yaml: what one owner holds, on its own machine. Knows no messages; nothing of it leaves the machine."""

from pathlib import Path

from infra.documents import read_mapping
from schemas.base import Choice
from schemas.complaints import parse
from schemas.errors import ConfigError
from schemas.experiment import SiteData
from workers.plugins import absolute, load, plugin_class


def read_site(path: Path) -> SiteData:
    """The site.yaml, its plugins loaded once to see that they are right. Paths count from the file's folder.

    Raises ConfigError (PluginError), one line.
    """
    document = read_mapping(path)
    if not document.get("data"):
        hint = "e.g. `data: {name: folder, params: {root: images}}`"
        raise ConfigError(f"{path} says nothing of the data", hint=hint)
    site, folder = parse(SiteData, document, str(path)), path.absolute().parent
    found = plugin_class("workers.datasets", site.data.name, allowed=site.plugins)
    params = absolute(found, site.data.params, folder)
    load("workers.datasets", Choice(name=site.data.name, params=params), allowed=site.plugins)
    if site.data.partition is not None:
        load("workers.partitions", site.data.partition, allowed=site.plugins)
    own = site.data.model_copy(update={"params": params})
    return site.model_copy(update={"data": own, "private": folder / site.private.expanduser()})
