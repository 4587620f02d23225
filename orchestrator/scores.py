"""Accuracies as they come in, version by version. Knows events; must not know who shows them, or how."""

from collections.abc import Mapping
from dataclasses import dataclass

from schemas.log import Event


@dataclass(frozen=True)
class Evaluation:
    """A version that everybody has evaluated, but for those who never will. Accuracies 0 to 1."""

    version: int
    clients: Mapping[str, float]
    held_out: Mapping[str, float]
    domains: Mapping[str, float]


class Scores:
    """Gathers evaluations; a newer version takes the place of an older one."""

    def __init__(self) -> None:
        self.clients: set[str] = set()
        self.held_out: set[str] = set()
        self.of: dict[str, tuple[str, ...]] = {}
        self.found: dict[int, dict[str, float | None]] = {}
        self.last = -1

    def take(self, event: Event) -> Evaluation | None:
        """Take in one event; the evaluation that it makes whole, unless a newer one is whole already."""
        if event.event in ("described", "joined"):
            self.clients, self.held_out = (
                self.clients | set(event.facts["clients"]),
                self.held_out | set(event.facts["held_out"]),
            )
            self.of |= {client: tuple(names) for client, names in event.facts.get("domains", {}).items()}
            return None
        version = event.version if event.event == "evaluated" else int(event.facts["base"])
        if version < self.last or event.event not in ("evaluated", "unevaluated"):
            return None
        found = self.found.setdefault(version, {})
        found[str(event.client)] = event.facts.get("accuracy", found.get(str(event.client)))
        if not self.clients or not self.clients | self.held_out <= set(found):
            return None
        self.last = version
        self.found = {v: scores for v, scores in self.found.items() if v >= version}
        return self._whole(version, {who: a for who, a in found.items() if a is not None})

    def _whole(self, version: int, known: Mapping[str, float]) -> Evaluation:
        clients = {c: known[c] for c in sorted(self.clients & set(known))}
        by_domain: dict[str, list[float]] = {}
        for client, accuracy in clients.items():
            for domain in self.of.get(client, ()):
                by_domain.setdefault(domain, []).append(accuracy)
        return Evaluation(
            version=version,
            clients=clients,
            held_out={h: known[h] for h in sorted(self.held_out & set(known))},
            domains={domain: sum(scores) / len(scores) for domain, scores in sorted(by_domain.items())},
        )
