"""A Flower ClientApp as the engine calls one, in a worker."""

from __future__ import annotations

import bdb
from datetime import UTC, datetime
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

import flsim
from flsim import ErrorCode
from flsim.envelope import traceback_of
from flsim.errors import ConfigError
from flsim_flower.array import make_arrays_fast
from flsim_flower.identity import identify
from flsim_flower.logs import follow_stderr
from flsim_flower.message import restored
from flsim_flower.records import pack, unpack


def client_of(app: Any) -> Client:
    """The adapter of a ClientApp. Raises ConfigError where it is none."""
    make_arrays_fast()
    follow_stderr()
    if not isinstance(app, ClientApp):
        raise ConfigError(f"clientapp is a {type(app).__name__}, and no flwr.clientapp.ClientApp")
    return Client(app)


RETURNED = "returned by the ClientApp itself"
"""In the place of a traceback: what an Error says that the app made, whatever its code."""


class Client:
    """Answers the engine's messages by a Flower ClientApp."""

    keeps_state_with_errors = True
    """As in Flower: an app that returns an Error has run to its end."""

    def __init__(self, app: ClientApp) -> None:
        self._app = app

    def __call__(self, message: flsim.Message, context: flsim.Context) -> flsim.Message:
        """Answer ``message``. Whatever goes wrong in the app is an error with Flower's code."""
        theirs = Context(
            run_id=context.run_id,
            node_id=context.node_id,
            node_config=dict(context.node_config),
            state=unpack(context.state),
            run_config=dict(context.run_config),
        )
        identify(context.run_id, context.node_id)
        try:
            reply = self._app(message=_instruction(message), context=theirs)
        except bdb.BdbQuit:  # the user's, who quits at a breakpoint
            raise
        except BaseException as e:
            return _failed(message, ErrorCode.CLIENT_APP_RAISED_EXCEPTION, _reason(e), traceback_of(e))
        if (fault := _fault(reply, message)) is not None:
            return _failed(message, ErrorCode.CLIENT_APP_RAISED_EXCEPTION, fault)
        if theirs.run_config != dict(context.run_config):
            return _failed(message, ErrorCode.UNKNOWN, "the ClientApp changed its run_config, which it must not")
        context.state = pack(theirs.state)
        if reply.has_error():
            return _failed(message, reply.error.code, reply.error.reason or "", RETURNED)
        about = reply.metadata
        answer = flsim.Message(pack(reply.content), reply_to=message, group_id=about.group_id)
        answer.metadata.created_at = float(about.created_at)
        return answer


def _instruction(message: flsim.Message) -> Message:
    of = message.metadata
    assert of.ttl is not None  # all of Flower's have one
    made = restored(of, of.ttl, unpack(message.content))
    made.metadata.delivered_at = datetime.now(UTC).isoformat()
    return made


def _fault(reply: Any, message: flsim.Message) -> str | None:
    if not isinstance(reply, Message):
        return f"the ClientApp returned {type(reply).__name__}, not a Message"
    if reply.has_error():  # whatever it replies to: Flower's own mods make theirs for the reply that they refuse
        return None
    if reply.metadata.reply_to_message_id != message.metadata.message_id:
        return "the ClientApp returned no reply to its message; write Message(content, reply_to=msg)"
    if not reply.has_content():
        return "the ClientApp returned a Message without content"
    return None


def _reason(error: BaseException) -> str:
    """As Flower writes it."""
    try:
        return f"{type(error)}:<'{error}'>"
    except BaseException:  # the user's own __str__ may raise anything at all
        return f"{type(error)}:<'…'>"


def _failed(message: flsim.Message, code: int, reason: str, traceback: str = "") -> flsim.Message:
    return flsim.Message(flsim.Error(int(code), reason, traceback), reply_to=message)
