"""Libraries that only some commands need: the extras of the package."""

import importlib.util

from schemas.errors import ConfigError


def needed(what: str, *libraries: str, extra: str = "report") -> None:
    """Say what to install for `what`, if one of the libraries is not here. Raises ConfigError."""
    for library in libraries:
        if importlib.util.find_spec(library) is None:
            raise ConfigError(f"{what} needs {library}, which is not installed", hint=f"pip install 'quorate[{extra}]'")
