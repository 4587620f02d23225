"""A command as a program: whatever ends it is one clear line and an exit code.

Exit codes: 0 success, 1 a failed run, 2 a mistake of the user, 3 another loop owns the run, 130 interrupted. Knows no
command. Never imports torch.
"""

import signal
import sys
from typing import Any

import click

from schemas.errors import QuorateError

LONGEST = 2000
"""Characters of an error that are shown."""


def program(command: click.Command) -> None:
    """Run a command as a program of its name: one clear line for what went wrong, and the exit code for it."""
    signal.signal(signal.SIGTERM, _terminate)
    name = str(command.name)
    try:
        command(prog_name=name, standalone_mode=False)
    except click.exceptions.Exit as e:
        sys.exit(e.exit_code)
    except click.exceptions.NoArgsIsHelpError as e:
        e.show()
        sys.exit(2)
    except click.ClickException as e:
        where = getattr(e, "ctx", None)
        _say(name, f"{e.format_message()} (see {where.command_path if where else name} --help)")
        sys.exit(2)
    except QuorateError as e:
        _say(name, str(e))
        sys.exit(e.exit_code)
    except OSError as e:
        _say(name, f"{e.filename}: {e.strerror}" if e.filename else str(e))
        sys.exit(1)
    except (KeyboardInterrupt, click.Abort):
        _say(name, "interrupted")
        sys.exit(130)


def _say(name: str, text: str) -> None:
    line = " ".join(text.split())
    shown = "".join(c if c.isprintable() else "?" for c in line[:LONGEST])  # names and errors come from anywhere
    click.echo(f"{name}: {shown}", err=True)


def _terminate(number: int, frame: Any) -> None:
    raise KeyboardInterrupt
