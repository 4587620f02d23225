"""A runtime whose every call is timed, from outside: the loop under test is the product's own, unchanged."""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from infra.runtime import Runtime
from infra.stream import Entry

KINDS = {"models": "model", "versions": "commit", "updates": "update", "journal": "journal"}
"""What lies under `runs/<run>/<folder>/`."""


@dataclass
class Calls:
    """Seconds spent in calls of one kind (e.g. `put model`): (when it began, Unix seconds; how long)."""

    spans: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    entries: list[Entry] = field(default_factory=list)

    def within(self, name: str, begin: float, end: float) -> float:
        """Seconds in calls of that kind that began between two moments."""
        return sum(took for at, took in self.spans[name] if begin <= at < end)

    def time(self, name: str, call: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """Make a call and note how long it took."""
        began, clock = time.time(), time.perf_counter()
        try:
            return call(*given, **named)
        finally:
            self.spans[name].append((began, time.perf_counter() - clock))


class Timed:
    """Any object, with each call noted. name: from method and first argument to the kind of call."""

    def __init__(self, inner: Any, calls: Calls, name: Callable[[str, Any], str]) -> None:
        self._inner, self._calls, self._name = inner, calls, name

    def __getattr__(self, method: str) -> Any:
        found = getattr(self._inner, method)
        if not callable(found):
            return found

        def timed(*given: Any, **named: Any) -> Any:
            answer = self._calls.time(self._name(method, given[0] if given else ""), found, *given, **named)
            if method == "read" and isinstance(answer, list):
                self._calls.entries.extend(answer)
            return answer

        return timed


def timed(runtime: Runtime) -> tuple[Runtime, Calls]:
    """The same runtime with its calls noted."""
    calls = Calls()
    return Runtime(
        blobs=Timed(runtime.blobs, calls, _blob),
        state=Timed(runtime.state, calls, lambda method, _: f"state {method}"),
        stream=Timed(runtime.stream, calls, lambda method, _: f"stream {method}"),
        bus=Timed(runtime.bus, calls, lambda method, _: f"bus {method}"),
    ), calls


def _blob(method: str, first: Any) -> str:
    key = str(getattr(first, "key", first))
    folder = key.split("/")[2] if key.count("/") > 1 else ""
    return f"{method} {KINDS.get(folder, folder)}".strip()
