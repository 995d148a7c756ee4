"""A run on a Ray cluster of two nodes on this host, of which the second joins and is then lost. It has a process of
its own, since ray.cluster_utils has its settings from the environment of a process that has not yet imported Ray.

Prints one line of JSON: by which raylets replies were made, and how many.
"""

import json
import os
import time
from collections import Counter
from typing import Any

import psutil
from ray.cluster_utils import Cluster

import flsim
from flsim import ClientApp, ConfigRecord, Context, Grid, Message, RecordDict, ServerApp

NODES = 50

client = ClientApp()
server = ServerApp()
cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
raylets: Counter[int] = Counter()
answered: list[tuple[int, int]] = []
"""Round and node of each reply."""


@client.query("work")
def work(msg: Message, context: Context) -> Message:
    time.sleep(0.05)  # work, in the middle of which the worker is killed
    return Message(RecordDict({"v": ConfigRecord({"raylet": os.getppid()})}), reply_to=msg)


@server.main()
def main(grid: Grid, context: Context) -> None:
    second: psutil.Process | None = None
    lost = False
    for round_ in range(40):  # a node needs seconds to get its first work, and more where the host is busy
        messages = [Message(RecordDict(), n, "query.work") for n in grid.get_node_ids()]
        for reply in grid.stream(messages, ordered=False):
            raylet = reply.content["v"]["raylet"]
            raylets[raylet] += 1
            answered.append((round_, reply.metadata.src_node_id))
            if len(answered) == 20:
                node = cluster.add_node(num_cpus=1)
                second = psutil.Process(node.all_processes["raylet"][0].process.pid)
            if second is not None and raylets[second.pid] == 20 and not lost:
                lost = True
                for process in [second, *second.children(recursive=True)]:
                    process.kill()
        if lost:
            return  # the round in the middle of which it was lost has come to its end
    raise AssertionError("the second node got no work")


try:
    begun = time.monotonic()
    result = flsim.run(
        server, client, nodes=NODES, backend="ray", options={"address": cluster.address}, seed=1, quiet=True
    )
    counts = result.counts["query.work"]
    print(
        json.dumps(
            {
                "sent": counts.sent,
                "answered": counts.answered,
                "errors": dict(counts.errors),
                "distinct": len(set(answered)),
                "by raylet": sorted(raylets.values()),
                "seconds": time.monotonic() - begun,
            }
        )
    )
finally:
    cluster.shutdown()
