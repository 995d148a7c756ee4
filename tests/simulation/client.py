"""The ClientApp of a simulation."""

from flsim import ClientApp, Context, Message, MetricRecord

RAISES, MUTE = "raises", "mute"
"""What a message does to it: it raises, or returns no Message."""

KEPT = 3

client = ClientApp()


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
    total = None if model is None else int(model.sum())
    return Message((number, tuple(kept(context)), float(context.rng.random()), total), reply_to=msg)


def kept(context: Context) -> list[int]:
    """The numbers of the last train messages that this node has answered."""
    return list(context.state["log"]["numbers"]) if "log" in context.state else []
