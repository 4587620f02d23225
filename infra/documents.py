"""YAML that a person wrote: an experiment, a site.yaml, a value of `--set`. Read with bounds, whatever the bytes are.

The only reader of YAML. No document takes long, much memory or deep recursion to be refused: bytes, values and depth
are counted while it is read. Knows nothing of what it says.
"""

import os
from pathlib import Path
from typing import Any, BinaryIO, cast

import yaml

from schemas.errors import ConfigError

LARGEST = 1_000_000
"""Bytes. What a person writes is a page of text."""

MOST = 20_000
"""Values of one document, keys included."""

DEEPEST = 32
"""Mappings and lists within one another."""

LONGEST = 100
"""Characters of a whole number. YAML knows numbers to the base 60, which take quadratic time."""


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigError, one line, for anything else."""
    document = read_value(_text(path), str(path))
    if not isinstance(document, dict):
        raise ConfigError(f"{path} holds no settings", hint="a mapping such as `name: demo` is needed")
    return document


def read_value(text: str, where: str) -> Any:
    """The value that YAML text stands for; `where` is how an error names the text. Raises ConfigError."""
    try:
        return yaml.load(text, _Loader)
    except _OutOfBoundsError as e:
        raise ConfigError(f"{where}: {_said(e)}") from None
    except yaml.YAMLError as e:
        raise ConfigError(f"{where} is not YAML: {_said(e)}") from None
    except (ValueError, OverflowError) as e:  # a date like 2001-13-45, an integer of thousands of digits
        raise ConfigError(f"{where} is not YAML: {_line(str(e))}") from None


def _text(path: Path) -> str:
    try:
        with _open(path) as f:
            data = f.read(LARGEST + 1)  # and no more: a size can lie, and /dev/zero has none
    except OSError as e:
        raise ConfigError(f"cannot read {path}: {e.strerror}") from None
    except ValueError as e:  # a path with a zero byte
        raise ConfigError(f"cannot read {str(path)!r}: {e}") from None
    if len(data) > LARGEST:
        raise ConfigError(f"{path}: larger than {LARGEST} bytes", hint="it should be a page of text")
    try:
        return data.decode()
    except UnicodeDecodeError as e:
        raise ConfigError(f"{path} is not YAML: {e.reason} at byte {e.start}, it is not UTF-8 text") from None


def _open(path: Path) -> BinaryIO:
    # A pipe that nobody writes into is empty, and not waited for; one that somebody writes into is read to its end.
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    os.set_blocking(file, True)
    return os.fdopen(file, "rb")


class _OutOfBoundsError(yaml.MarkedYAMLError):
    """YAML, but not of the kind that is read here."""


class _Loader(yaml.SafeLoader):
    """Plain values only: no aliases, which can explode, no tags, no key twice, of which one would be lost."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = self.count = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = cast(Any, self).peek_event()
        self.count += 1
        if isinstance(event, yaml.AliasEvent):
            raise _OutOfBoundsError(None, None, f"*{event.anchor} points elsewhere; write it out", _mark(event))
        if event.tag is not None:  # PyYAML's own constructors stumble over some, e.g. `!!int ""`
            raise _OutOfBoundsError(None, None, f"tag {event.tag[:80]!r} is not read here; leave it out", _mark(event))
        if self.count > MOST:
            raise _OutOfBoundsError(None, None, f"more than {MOST} values", _mark(event))
        self.depth += 1
        if self.depth > DEEPEST:
            raise _OutOfBoundsError(None, None, f"more than {DEEPEST} levels deep", _mark(event))
        node = super().compose_node(parent, index)
        self.depth -= 1
        if isinstance(node, yaml.ScalarNode):
            _refuse_odd_values(node)
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            word = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else key
            if word in seen:
                raise _OutOfBoundsError(None, None, f"key {key.value[:80]!r} is there twice", key.start_mark)
            seen.add(word)
        return super().construct_mapping(node, deep=deep)


def _refuse_odd_values(node: yaml.ScalarNode) -> None:
    if node.tag == "tag:yaml.org,2002:int" and len(node.value) > LONGEST:
        raise _OutOfBoundsError(None, None, f"a number of {len(node.value)} characters", node.start_mark)
    if any("\ud800" <= c <= "\udfff" for c in node.value):  # as "\ud800" writes it: no UTF-8 could hold it
        raise _OutOfBoundsError(None, None, "half of a surrogate pair is no character", node.start_mark)


def _mark(event: Any) -> Any:
    return event.start_mark


def _said(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    what = _line(getattr(error, "problem", None) or getattr(error, "reason", None) or str(error))
    return f"{what} (line {mark.line + 1})" if mark else what


def _line(text: str) -> str:
    return " ".join(text.split())[:200]
