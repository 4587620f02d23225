"""How numbers, and names that come from elsewhere, are written for people."""


def percent(value: float | None) -> str:
    """An accuracy as people read it, e.g. `61.2 %`; a dash where there is none."""
    return "–" if value is None else f"{100 * value:.1f} %"


def plain(text: str) -> str:
    """The text without control characters: names and reasons come from workers."""
    return "".join(c if c.isprintable() else " " for c in text)


def size(count: int) -> str:
    """Bytes with a decimal unit, e.g. `2.1 MB`."""
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
