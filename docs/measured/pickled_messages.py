"""flsim's own Messages, each pickled by itself, in batches of 32 through a pool of two processes; and flsim on loky.

Both in turn, sixty times, with two workers. flsim does what an engine does beside it.
"""

import multiprocessing
import pickle
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import flsim
from flsim import ClientApp, ConfigRecord, Context, Grid, Message, RecordDict, ServerApp

NODES, BATCH, ROUNDS = 1000, 32, 60

client = ClientApp()
server = ServerApp()


def answer(msg: Message) -> Message:
    """What a node that does nothing answers."""
    value = msg.metadata.dst_node_id + msg.content["config"]["round"]
    return Message(RecordDict({"reply": ConfigRecord({"value": value})}), reply_to=msg)


@client.query("noop")
def noop(msg: Message, context: Context) -> Message:
    """The same, as a ClientApp does it."""
    return answer(msg)


def many(batch: list[bytes]) -> list[bytes]:
    """The same for a batch, in a process of the pool."""
    return [pickle.dumps(answer(pickle.loads(asked)), protocol=5) for asked in batch]


def by_pool(pool: ProcessPoolExecutor, nodes: range, round: int) -> list[Message]:
    """A round through the pool."""
    asked = [Message(RecordDict({"config": ConfigRecord({"round": round})}), n, "query.noop") for n in nodes]
    pickled = [pickle.dumps(message, protocol=5) for message in asked]
    batches = [pickled[at : at + BATCH] for at in range(0, len(pickled), BATCH)]
    return [pickle.loads(reply) for replies in pool.map(many, batches) for reply in replies]


def by_flsim(grid: Grid, nodes: range, round: int) -> list[Message]:
    """A round through flsim."""
    content = RecordDict({"config": ConfigRecord({"round": round})})
    return grid.send_and_receive(Message(content, n, "query.noop") for n in nodes)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Time both, in turn."""
    nodes = grid.get_node_ids()
    seconds: dict[str, list[float]] = {"pool": [], "flsim": []}
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        for round in range(ROUNDS):
            for name, replies in (("pool", partial(by_pool, pool)), ("flsim", partial(by_flsim, grid))):
                begun = time.perf_counter()
                got = replies(nodes, round)
                seconds[name].append(time.perf_counter() - begun)
                if [r.content["reply"]["value"] for r in got] != [n + round for n in nodes]:
                    raise SystemExit(f"{name} gave wrong replies")
    pool_rate, flsim_rate = (NODES / statistics.median(seconds[name][5:]) for name in ("pool", "flsim"))
    print(f"pool {pool_rate:,.0f} messages/s, flsim {flsim_rate:,.0f} messages/s: {flsim_rate / pool_rate:.2f}")


if __name__ == "__main__":
    flsim.run(server, client, nodes=NODES, backend="loky", options={"cpus": 2.0}, seed=1, quiet=True)
