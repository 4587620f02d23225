"""The words that every section of docs/benchmarks.md shares: tables, verdicts, and where it was measured."""

from benchmarks.machine import Where


def table(heads: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def verdict(value: float, most: float) -> str:
    """Whether a goal was reached."""
    return "reached" if value <= most else "missed"


def place(where: Where) -> str:
    """The line under what was measured."""
    versions = ", ".join(f"{name} {number}" for name, number in where.versions.items())
    machine = f"{where.cpu}, {where.cores} cores, {where.memory_gb} GB, {where.system}"
    return f"_{where.date}, commit {where.commit}, {machine}; load {where.load:g} before; {versions}._"
