"""flsim's own Messages, each pickled by itself: for references, in the place of the tuples of ``tasks``."""

from __future__ import annotations

import pickle

from flsim import ConfigRecord, Message, RecordDict
from flsim_bench import tasks


def message(client: int, type_: str, **config: int) -> bytes:
    """As :func:`flsim_bench.tasks.message`."""
    return _dump(Message(RecordDict({"config": ConfigRecord(dict(config))}), client, type_))


def value(answer: bytes) -> int:
    """As :func:`flsim_bench.tasks.value`."""
    return int(_load(answer).content["reply"]["value"])


def noop_message(asked: bytes) -> bytes:
    """As :func:`flsim_bench.tasks.noop_message`."""
    message = _load(asked)
    answer = tasks.noop(message.metadata.dst_node_id, message.content["config"]["round"])
    return _dump(Message(RecordDict({"reply": ConfigRecord({"value": answer})}), reply_to=message))


def _dump(message: Message) -> bytes:
    return pickle.dumps(message, protocol=5)


def _load(message: bytes) -> Message:
    loaded: Message = pickle.loads(message)
    return loaded
