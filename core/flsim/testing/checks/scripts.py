"""Clause 13, too: a driver is whatever Python there is, also one that no worker could import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from flsim.testing.checks.registry import check
from flsim.testing.checks.tools import temporary_folder
from flsim.testing.subject import Subject

_APPS = """
import pickle
from flsim import ClientApp, Message, MetricRecord, RecordDict, ServerApp
from flsim.fleet import Kind

FACTOR = 3
server, client = ServerApp(), ClientApp()

class Tripled:
    def __init__(self, value): self.value = FACTOR * value

@client.train()
def train(msg, context):
    return Message(RecordDict({"m": MetricRecord({"value": Tripled(context.node_id).value})}), reply_to=msg)

@server.main()
def main(grid, context):
    replies = grid.send_and_receive(Message(RecordDict(), node, "train") for node in grid.get_node_ids())
    print([r.content["m"]["value"] if r.has_content() else str(r.error) for r in replies])
"""

_RUN = "pickle.loads({subject!r}).run(server, kinds=[Kind('default', client, 3)])\n"

_NOTEBOOK = """
import asyncio

async def notebook():
    for cell in {cells!r}:
        exec(compile(cell, "<cell>", "exec"), globals())

asyncio.run(notebook())
"""


@check(13)
def a_script_without_a_guard_and_the_cells_of_a_notebook_run_what_they_define(subject: Subject) -> None:
    """A file that has no ``if __name__ == "__main__":``; and a driver on stdin that defines its apps cell by cell while
    an event loop runs, as a notebook's kernel does."""
    import cloudpickle

    run = _RUN.format(subject=cloudpickle.dumps(subject))
    with temporary_folder() as folder:
        (folder / "script.py").write_text(_APPS + run)
        _check(subject, folder, [str(folder / "script.py")], "")
        _check(subject, folder, ["-"], _NOTEBOOK.format(cells=[_APPS, run]))


def _check(subject: Subject, folder: Path, arguments: list[str], stdin: str) -> None:
    with (folder / "said").open("w+") as said:  # no pipe, which what a backend leaves to linger would keep open
        script = subprocess.Popen(
            [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True
        )
        try:
            printed, _ = script.communicate(stdin, timeout=subject.patience)
        finally:
            script.kill()
        said.seek(0)
        assert (script.returncode, printed) == (0, "[6, 9, 12]\n"), f"a driver on {arguments}: {printed}{said.read()}"
