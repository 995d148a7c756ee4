"""The ClientApp of a simulation."""

from flsim import ClientApp, Context, Message, MetricRecord

RAISES, MUTE, UNREADABLE, GARBLED, LARGE = "raises", "mute", "unreadable", "garbled", "large"
"""What a message does to it: it raises; returns no Message; is not reached, since a worker cannot decode the message;
returns what the driver cannot decode, or more than it takes."""

LARGEST = 20_000
"""Bytes that the driver takes."""

KEPT = 3

client = ClientApp()


class Garbled:
    """Is encoded, and cannot be decoded."""

    def __reduce__(self) -> tuple[object, ...]:
        return int, ("garbled",)


@client.train()
def train(msg: Message, context: Context) -> Message:
    """Append the message's number to what the node keeps: the last few, so that states are of one size, too."""
    number = msg.content[0]
    context.state["log"] = MetricRecord({"numbers": [*kept(context), number][-KEPT:]})
    return answer(msg, context)


@client.query()
def answer(msg: Message, context: Context) -> Message:
    """Tell what the node keeps, and what was drawn for this message; or fail, with the state changed already."""
    number, fault, model = msg.content
    if fault == RAISES:
        raise ValueError(number)
    if fault == MUTE:
        return None  # type: ignore[return-value]
    if fault == GARBLED:
        return Message(Garbled(), reply_to=msg)
    if fault == LARGE:
        return Message(bytes(2 * LARGEST), reply_to=msg)
    total = None if model is None else int(model.sum())
    return Message((number, tuple(kept(context)), float(context.rng.random()), total), reply_to=msg)


def kept(context: Context) -> list[int]:
    """The numbers of the last train messages that this node has answered."""
    return list(context.state["log"]["numbers"]) if "log" in context.state else []
