"""What a worker process has freed stays its own, so that the next message does not pay for it again."""

import platform
import resource

import pytest
from helpers import server_of
from installed import skip_without

import flsim
from flsim import ClientApp, Context, Grid, Message, MetricRecord, RecordDict, Resources

client = ClientApp()


@client.query("faults")
def faults(msg: Message, context: Context) -> Message:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [b"x" * 24 * 1024**2 for _ in range(3)]
    after = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    return Message(RecordDict({"page": MetricRecord({"faults": after - before, "blocks": len(blocks)})}), reply_to=msg)


def page_faults(need: Resources) -> list[int]:
    """Of four messages, one after another, in one worker."""
    skip_without("loky")

    def main(grid: Grid, context: Context) -> None:
        counts = []
        for _ in range(4):
            (reply,) = grid.send_and_receive([Message(RecordDict(), 2, "query.faults")])
            counts.append(reply.content["page"]["faults"])
        context.state["page"] = MetricRecord({"faults": counts})

    result = flsim.run(
        server_of(main), client, nodes=1, backend="loky", options={"cpus": 1}, resources=need, quiet=True
    )
    return list(result.state["page"]["faults"])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is not glibc's")
def test_memory_that_a_message_has_freed_costs_the_next_no_page_faults() -> None:
    first, *others = page_faults(Resources())
    assert first > 10_000
    assert max(others) < first / 10


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is not glibc's")
def test_where_memory_is_limited_what_is_freed_is_given_back() -> None:
    first, *others = page_faults(Resources(memory=500 * 1024**2))
    assert first > 10_000
    assert min(others) > first / 2
