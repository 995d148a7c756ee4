"""The command ``flsim``."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point: run the command line and exit with its code."""
    from flsim.cli.app import app
    from flsim.cli.commands import with_app_options, with_commands
    from flsim.errors import FlsimError, InputError
    from flsim.plugins import Plugins

    try:
        plugins = Plugins()
        with_commands(with_app_options(app, plugins), plugins)(obj=plugins)
    except InputError as e:
        _fail(e, 2)
    except FlsimError as e:
        _fail(e, 1)


def _fail(error: Exception, code: int) -> None:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(code)
