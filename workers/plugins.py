"""Plugins are files: the stem is the name in the configuration, the one class with `Params` in it is the plugin.

There is no registry. `package.module:Class` names a class outside the repository.
"""

import ast
import importlib
import importlib.util
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from schemas.base import Choice
from schemas.complaints import complaint, cut, nearest, types
from schemas.errors import PluginError, QuorateError


def names(package: str) -> tuple[str, ...]:
    """The plugins of a family, by scanning its folder. Imports nothing of them."""
    return tuple(p.stem for p in _files(package))


def load(package: str, choice: Choice, *, allowed: Collection[str] | None = None) -> Any:
    """An instance of the chosen plugin, its params validated.

    allowed: the dotted names that may be loaded here; None allows all. Raises PluginError.
    """
    found = plugin_class(package, choice.name, allowed=allowed)
    try:
        return found(found.Params(**choice.params))
    except ValidationError as e:
        raise PluginError(f"{choice.name}: {complaint(e, found.Params)}") from None
    except QuorateError:
        raise
    except Exception as e:  # of a plugin from anywhere: whatever it raises means that it cannot be used
        raise PluginError(f"{choice.name} cannot be made: {type(e).__name__}: {e}") from e


def plugin_class(package: str, name: str, *, allowed: Collection[str] | None = None) -> type[Any]:
    """The class behind a name. Raises PluginError for an unknown name or a module without exactly one plugin."""
    if ":" in name:
        return _dotted(name, allowed)
    if name not in names(package):
        hint = nearest(name, names(package))
        raise PluginError(f"no {package.rpartition('.')[2]} plugin {cut(name)!r}", hint=hint)
    module = importlib.import_module(f"{package}.{name}")
    found = [v for v in vars(module).values() if isinstance(v, type) and _is_plugin(v, module.__name__)]
    if len(found) != 1:
        raise PluginError(f"{package}.{name} holds {len(found)} classes with Params instead of one")
    return found[0]


def path_fields(found: type[Any]) -> list[str]:
    """The parameters of a plugin that name a file or folder."""
    return [name for name, field in found.Params.model_fields.items() if Path in types(field.annotation)]


def absolute(found: type[Any], params: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The parameters with relative paths counted from a folder, and `~` resolved. Raises PluginError."""
    changed = {n: params[n] for n in path_fields(found) if isinstance(params.get(n), str)}
    try:
        return {**params, **{n: str(folder / Path(text).expanduser()) for n, text in changed.items()}}
    except RuntimeError as e:  # a home of nobody
        raise PluginError(f"{', '.join(changed)}: {e}") from None


@dataclass(frozen=True)
class About:
    """What a plugin says of itself, read without importing it."""

    name: str
    summary: str
    text: str
    facts: dict[str, Any]


def about(package: str) -> Iterator[About]:
    """Docstring and literal class attributes (paper, deviations, ...) of each plugin of a family."""
    for path in _files(package):
        tree = ast.parse(path.read_text())
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and any(
                isinstance(n, ast.ClassDef) and n.name == "Params" for n in node.body
            ):
                text = ast.get_docstring(node) or ""
                yield About(path.stem, text.partition("\n")[0], text, dict(_literals(node)))


def _literals(node: ast.ClassDef) -> Iterator[tuple[str, Any]]:
    for item in node.body:
        target = item.targets[0] if isinstance(item, ast.Assign) else getattr(item, "target", None)
        value = getattr(item, "value", None)
        if isinstance(target, ast.Name) and isinstance(value, ast.expr):
            try:
                yield target.id, ast.literal_eval(value)
            except ValueError:
                continue


def _files(package: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return sorted(p for f in folders for p in Path(f).glob("*.py") if not p.stem.startswith("_"))


def _is_plugin(value: type[Any], module: str) -> bool:
    return value.__module__ == module and "Params" in vars(value)


def _dotted(name: str, allowed: Collection[str] | None) -> type[Any]:
    if allowed is not None and name not in allowed:
        raise PluginError(f"{cut(name)!r} may not be loaded here", hint="list it under `plugins:` in site.yaml")
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as e:  # of a module from anywhere: not there, no Python, or it fails as it is imported
        why = e if isinstance(e, ImportError | AttributeError) else f"{type(e).__name__}: {e}"
        hint = "Python looks in PYTHONPATH; `.` is this folder"
        raise PluginError(f"cannot load {cut(name)!r}: {why}", hint=hint) from e
    if not (isinstance(found, type) and hasattr(found, "Params")):
        raise PluginError(f"{cut(name)!r} is no plugin: a class with Params is needed")
    return found
