"""The ClientApp of a replay under Python's debugger."""

from __future__ import annotations

import bdb
import pdb
import sys
from types import FrameType

from flsim.apps import Context, Handler
from flsim.envelope import describe
from flsim.message import Message


def debugged(app: Handler, message: Message, context: Context) -> Message:
    """Call ``app``: a prompt at the first line of its own code, and another where it raises, or Ctrl-C meets it.

    Raises what it raises, and bdb.BdbQuit where the user quits before it has ended.
    """
    try:
        return _Debugger().call(app, message, context)
    except bdb.BdbQuit:
        raise
    except BaseException as e:  # whatever an app raises is looked at
        print(describe(e))
        pdb.post_mortem(e.__traceback__)
        raise


class _Debugger(pdb.Pdb):
    """Ctrl-C stays an exception, so that it stops what hangs: Pdb's own would wait for the next line."""

    def __init__(self) -> None:
        super().__init__(skip=["flsim.*", "contextlib", "functools"], nosigint=True)
        self._entered = False

    def call(self, app: Handler, message: Message, context: Context) -> Message:
        """As ``runcall``, which keeps a quit to itself."""
        self.reset()
        sys.settrace(self.trace_dispatch)
        try:
            return app(message, context)
        finally:
            self.quitting = True
            sys.settrace(None)

    def user_call(self, frame: FrameType, argument_list: None) -> None:
        if self._entered:
            super().user_call(frame, argument_list)
        self._entered = True  # the first line comes next, and stops, too
