"""Prompt: Python's debugger, for apps of a run."""

from __future__ import annotations

import bdb
import pdb
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flsim.breakpoints import Terminal


class Prompt(pdb.Pdb):
    """Has the terminal to itself from its first stop until the user lets the app go on, or quits.

    Ctrl-C stays what it is in a run: it ends it.

    Args:
        quit: called with ``bdb.BdbQuit`` when the user quits. That it is raised where the app stopped is not enough:
            the app may catch it.
        header: shown above the first prompt, as ``pdb.set_trace`` does.
    """

    def __init__(self, terminal: Terminal, quit: Callable[[BaseException], None], *, header: str | None = None) -> None:
        # Where stdout goes to a file, the terminal may still be reached by stderr.
        elsewhere = not terminal.stdout.isatty() and terminal.stderr.isatty()
        super().__init__(stdin=terminal.stdin, stdout=terminal.stderr if elsewhere else terminal.stdout, nosigint=True)
        self.use_rawinput = not elsewhere and terminal.stdin.isatty()  # with history and completion
        self._terminal = terminal
        self._quit = quit
        self._header = header
        self._let_go = False

    def interaction(self, *args: Any, **kwargs: Any) -> None:
        with self._terminal.turn:
            self._terminal.pause()
            if self._header is not None:
                self.message(self._header)
                self._header = None
            self._let_go = False
            super().interaction(*args, **kwargs)
            if self._let_go:
                self._terminal.resume()

    def set_continue(self) -> None:
        super().set_continue()
        self._let_go = True

    def set_quit(self) -> None:
        super().set_quit()
        self._let_go = True
        self._quit(bdb.BdbQuit("the user quit at a breakpoint"))
