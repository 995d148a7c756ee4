"""What a ClientApp of the checks can raise and return that is wrong, and what is to come of it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

from flsim.message import Error, ErrorCode, Message
from flsim.records import RecordDict

# ---- raised


class TwoArguments(Exception):
    """Pickles, and does not unpickle."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


class HoldsALock(Exception):
    """Does not pickle."""

    def __init__(self) -> None:
        super().__init__(threading.Lock())


class Unprintable(Exception):
    """Cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Endless(Exception):
    """Has a text of 100 MB."""

    def __str__(self) -> str:
        return "x" * 100_000_000


class MovesTheTerminal(Exception):
    """Would clear a terminal, and write a line there that is nobody's."""

    def __str__(self) -> str:
        return "\x1b[2J\x1b]0;title\x07\nINFO all is well\r\x9b31m\u202e"


class NoData(Exception):
    """Says little."""

    def __str__(self) -> str:
        return "no data"


class Base(BaseException):
    """Is no Exception."""


def _recursion() -> BaseException:
    return _recursion()


def _memory() -> BaseException:
    raise AssertionError(f"there are {len(bytearray(1 << 62))} bytes")


RAISED: dict[str, Callable[[], BaseException]] = {
    "ValueError": lambda: ValueError("it is wrong"),
    "TwoArguments": lambda: TwoArguments("a", "b"),
    "HoldsALock": HoldsALock,
    "Unprintable": Unprintable,
    "Endless": Endless,
    "MovesTheTerminal": MovesTheTerminal,
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "StopIteration": StopIteration,
    "NoData": NoData,
    "Base": lambda: Base("base"),
    "MemoryError": _memory,
    "RecursionError": _recursion,
    "ExceptionGroup": lambda: ExceptionGroup("several", [ValueError("one")]),
}
"""What can be raised, by the name of its type."""


# ---- returned


class Unpicklable:
    """Cannot be encoded."""

    def __reduce__(self) -> Any:
        raise TypeError("this stays here")


class Undecodable:
    """Can be encoded, and ends what decodes it."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise SystemExit("this cannot be decoded")


class Exits:
    """Ends what encodes it."""

    def __reduce__(self) -> Any:
        raise SystemExit(3)


class _ExitsWhenRead:
    """Ends what looks into it."""

    def __getattr__(self, name: str) -> Any:
        raise SystemExit(3)


RETURNED: dict[str, tuple[ErrorCode, str]] = {
    "none": (ErrorCode.REPLY_INVALID, "returned NoneType, not a Message"),
    "text": (ErrorCode.REPLY_INVALID, "returned str, not a Message"),
    "message itself": (ErrorCode.REPLY_INVALID, "returned no reply to its message"),
    "instruction": (ErrorCode.REPLY_INVALID, "returned no reply to its message"),
    "reply to another": (ErrorCode.REPLY_INVALID, "returned no reply to its message"),
    "no metadata": (ErrorCode.REPLY_INVALID, "the reply cannot be read"),
    "metadata that exits": (ErrorCode.REPLY_INVALID, "the reply cannot be read: SystemExit"),
    "group_id that stays here": (ErrorCode.REPLY_INVALID, "of type Unpicklable and float"),
    "error without a code": (ErrorCode.REPLY_INVALID, "an Error whose code"),
    "unpicklable": (ErrorCode.REPLY_UNENCODABLE, "Unpicklable cannot be encoded: TypeError: this stays here"),
    "unpicklable leaf": (ErrorCode.REPLY_UNENCODABLE, "dict['leaf'] (Unpicklable) cannot be encoded"),
    "exits when encoded": (ErrorCode.REPLY_UNENCODABLE, "dict['it'] (Exits) cannot be encoded: SystemExit"),
    "bytes printed": (ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "must be str, not bytes"),
}
"""What can be returned, with the code of the error that it gets in its worker, and words of its reason."""


def wrong_return(what: str, msg: Message) -> Any:
    """What is to be returned to ``msg``: what :data:`RETURNED` says, or ``"undecodable"``, which is found in the
    driver."""
    reply = Message(RecordDict(), reply_to=msg)
    match what:
        case "none":
            return None
        case "message itself":
            return msg
        case "instruction":
            return Message(RecordDict(), 2, "query.echo")
        case "reply to another":
            reply.metadata.reply_to_message_id += "0"
            return reply
        case "no metadata":
            del reply.metadata
            return reply
        case "metadata that exits":
            reply.metadata = _ExitsWhenRead()  # type: ignore[assignment]  # which is what this is about
            return reply
        case "group_id that stays here":
            reply.metadata.group_id = Unpicklable()  # type: ignore[assignment]  # which is what this is about
            return reply
        case "error without a code":
            return Message(Error("none", "wrong"), reply_to=msg)  # type: ignore[arg-type]  # so it is
        case "unpicklable":
            return Message(Unpicklable(), reply_to=msg)
        case "unpicklable leaf":
            return Message({"root": 1, "leaf": Unpicklable()}, reply_to=msg)
        case "undecodable":
            return Message(Undecodable(), reply_to=msg)
        case "exits when encoded":
            return Message({"it": Exits()}, reply_to=msg)
        case "bytes printed":
            sys.stdout.write(b"bytes")  # type: ignore[arg-type]  # so it is
    return what
