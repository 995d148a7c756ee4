"""Apps whose runs tests look at, and the command line that runs them."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from pathlib import Path

FLSIM = Path(sysconfig.get_path("scripts"), "flsim")

HOSTILE = "</script><script>document.title = 'owned'</script><b>bold</b> & \x1b[31m"
"""What a client may say."""

APP = f"""
import os, time
from flsim import ClientApp, Message, MetricRecord, RecordDict, ServerApp

server, client = ServerApp(), ClientApp()

@client.train()
def train(msg, context):
    time.sleep(0.002)
    if context.node_id == 3:
        raise ValueError({HOSTILE!r})
    if context.node_id == 4 and context.run_config.get("die"):
        os._exit(5)
    return Message(RecordDict({{"m": MetricRecord({{"x": 1.0}})}}), reply_to=msg)

@client.evaluate()
def evaluate(msg, context):
    return Message(RecordDict(), reply_to=msg)

@server.main()
def main(grid, context):
    for round in range(1, 5):
        for type_ in ("train", "evaluate"):
            grid.send_and_receive(Message(RecordDict(), node, type_) for node in grid.get_node_ids())
        grid.report(round, **{{"accuracy": round / 4, "loss <b>": 1 / round, "note": "x"}})
        for node in (2, 5):
            grid.report(round, node=node, share=round / node)
"""
"""Eight nodes, one of which fails, and another one kills its worker where it may."""

ODD = """
import sys
from flsim import ClientApp, ServerApp

server, client = ServerApp(), ClientApp()

@server.main()
def main(grid, context):
    for round in (1, 2, 3):
        grid.report(round, **{
            "a$_$b": round, "red\\x1b[31m <b>": round, "greatest": sys.float_info.max, "span": (-1) ** round * 1.5e308,
            "beyond": 10**400, "word": "warm\\x1b[31m",
        })
"""
"""Metrics whose names and values are such as few are."""

SLOW = """
import time
from flsim import ClientApp, Message, RecordDict, ServerApp

server, client = ServerApp(), ClientApp()

@client.train()
def train(msg, context):
    time.sleep(0.01)
    return Message(RecordDict(), reply_to=msg)

@server.main()
def main(grid, context):
    for round in range(1, 100000):
        grid.send_and_receive(Message(RecordDict(), node, "train") for node in grid.get_node_ids())
        grid.report(round, accuracy=0.5)
        print("round", round, flush=True)
"""
"""A run that only ends where it is killed."""


def flsim(*args: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    env = {**os.environ, "NO_COLOR": "1", "COLUMNS": "200"}
    command = [str(FLSIM), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=cwd, timeout=100, check=False)
