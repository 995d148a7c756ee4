"""``flsim.run`` in a notebook: apps defined in a cell, a progress that fits, and an interrupt that ends it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from installed import skip_without

from flsim.testing.watch import alive

PATIENCE = 60.0

APPS = """
import os, time
import flsim
from flsim import ClientApp, Message, MetricRecord, RecordDict, ServerApp, weighted_mean

server, client = ServerApp(), ClientApp()
FACTOR = 3

class Helper:
    def loss(self, context): return FACTOR * context.node_id

@client.train()
def train(msg, context):
    partition = context.node_config["partition-id"]
    if partition == 1:
        print("<b>looking</b> at partition 1")
    if partition == 2:
        raise ValueError("no data here")
    if context.run_config["file"]:
        with open(context.run_config["file"] + ".new", "w") as file:
            file.write(str(os.getpid()))
        os.rename(file.name, context.run_config["file"])
        time.sleep(300)
    metrics = {"num-examples": 1, "loss": Helper().loss(context), "pid": os.getpid()}
    return Message(RecordDict({"m": MetricRecord(metrics)}), reply_to=msg)

@server.main()
def main(grid, context):
    for round in range(1, 4):
        replies = grid.send_and_receive([Message(RecordDict(), n, "train") for n in grid.get_node_ids()])
        grid.report(round, loss=weighted_mean(replies)["m"]["loss"])
    pids = {r.content["m"]["pid"] for r in replies if r.has_content()}
    context.state["m"] = MetricRecord({"here": int(pids == {os.getpid()}), "loss": weighted_mean(replies)["m"]["loss"]})
    print("the server prints")
"""


class Cell:
    """What a cell came to, as the frontend is told of it."""

    def __init__(self) -> None:
        self.stdout = ""
        self.stderr = ""
        self.displays: list[dict[str, Any]] = []
        """The content of each display, and of each update of it."""
        self.types: list[str] = []
        self.error = ""
        """The name of what it raised."""


class Kernel:
    """A real ipykernel, and one frontend of it."""

    def __init__(self, manager: Any) -> None:
        self.manager = manager
        self.client = manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=PATIENCE)

    def begin(self, code: str) -> str:
        """Start a cell."""
        return str(self.client.execute(dedent(code)))

    def end(self, cell: str) -> Cell:
        """Wait until a cell is over."""
        made = Cell()
        while True:
            message = self.client.get_iopub_msg(timeout=PATIENCE)
            if message["parent_header"].get("msg_id") != cell:
                continue
            content, what = message["content"], message["msg_type"]
            if what == "stream":
                setattr(made, content["name"], getattr(made, content["name"]) + content["text"])
            elif what in ("display_data", "update_display_data"):
                made.types.append(what)
                made.displays.append(content)
            elif what == "error":
                made.error = content["ename"]
            elif what == "status" and content["execution_state"] == "idle":
                return made

    def run(self, code: str) -> Cell:
        """Run a cell to its end."""
        return self.end(self.begin(code))

    def close(self) -> None:
        """End the kernel."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.context.term()


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    jupyter = pytest.importorskip("jupyter_client", reason="jupyter_client is not installed")
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    manager = jupyter.KernelManager()
    manager.start_kernel(cwd=str(tmp_path))
    made = Kernel(manager)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("backend", ["serial", "loky"])
def test_apps_that_are_defined_in_a_cell_run_in_it(kernel: Kernel, backend: str) -> None:
    skip_without(backend)
    assert kernel.run(APPS).error == ""
    cell = kernel.run(f"""
        result = flsim.run(server, client, nodes=5, backend={backend!r}, config={{"rounds": 3, "file": ""}}, seed=1)
        print(result.state["m"]["here"], result.state["m"]["loss"], result.counts["train"].errors.total())
    """)
    assert cell.error == ""
    here = int(backend == "serial")
    assert cell.stdout == f"the server prints\n{here} {3 * (2 + 3 + 5 + 6) / 4} 3\n"


def test_the_progress_is_one_display_that_is_updated_in_place_with_lines_below_it(kernel: Kernel) -> None:
    kernel.run(APPS)
    cell = kernel.run("""
        _ = flsim.run(server, client, nodes=5, backend="serial", config={"rounds": 3, "file": ""}, seed=1)
    """)
    assert cell.types[0] == "display_data"
    assert set(cell.types[1:]) == {"update_display_data"}
    assert len({d["transient"]["display_id"] for d in cell.displays}) == 1
    first, last = cell.displays[0]["data"], cell.displays[-1]["data"]
    assert first["text/plain"].startswith("app: 5 nodes on serial, 1 worker (")
    about, rounds, counts, loss = last["text/plain"].splitlines()
    assert about == first["text/plain"].splitlines()[0]
    assert rounds.startswith("round 3/3  ━")
    assert counts.startswith("15 done  3 failed  ")
    assert loss == "loss  12.0000  ▄▄▄"
    assert last["text/html"] == f"<pre>{last['text/plain']}</pre>"
    assert cell.stderr.splitlines().count("node 3 (partition 1) | <b>looking</b> at partition 1") == 3
    assert "node 4 (partition 2): train failed: CLIENT_APP_RAISED_EXCEPTION: ValueError: no data here" in cell.stderr


def test_the_display_belongs_to_the_cell_that_ran_and_quiet_shows_none(kernel: Kernel) -> None:
    kernel.run(APPS)
    run = 'flsim.run(server, client, nodes=5, backend="serial", config={"rounds": 3, "file": ""}, seed=1, quiet=%s);'
    loud, quiet, again = (kernel.run(run % q) for q in (False, True, False))
    assert (quiet.types, quiet.stderr) == ([], "")
    assert loud.types[0] == again.types[0] == "display_data"
    assert loud.displays[0]["transient"] != again.displays[0]["transient"]


def test_what_is_captured_gets_plain_lines(kernel: Kernel) -> None:
    kernel.run(APPS)
    cell = kernel.run("""
        import contextlib, io
        with contextlib.redirect_stderr(io.StringIO()) as caught:
            _ = flsim.run(server, client, nodes=5, backend="serial", config={"file": ""}, seed=1)
        print(caught.getvalue().count("round   "))
    """)
    assert (cell.types, cell.stdout) == ([], "the server prints\n3\n")


@pytest.mark.parametrize("backend", ["serial", "loky"])
def test_an_interrupt_ends_the_cell_and_the_kernel_runs_again(kernel: Kernel, tmp_path: Path, backend: str) -> None:
    skip_without(backend)
    kernel.run(APPS)
    begun = tmp_path / "begun"
    run = "flsim.run(server, client, nodes=2, backend=%r, config={'file': %r}, seed=1, options={'cpus': 1}).answered"
    cell = kernel.begin(run % (backend, str(begun)))
    end = time.monotonic() + PATIENCE
    while not begun.exists():
        assert time.monotonic() < end, "no ClientApp began"
        time.sleep(0.02)  # what another process does cannot be waited for otherwise
    kernel.manager.interrupt_kernel()
    assert kernel.end(cell).error == "KeyboardInterrupt"
    if backend != "serial":  # where it is a thread of the kernel's
        assert not alive(int(begun.read_text())), "the ClientApp runs on"
    again = kernel.run(f"print({run % (backend, '')})")
    assert (again.error, again.stdout) == ("", "the server prints\n6\n")


def test_a_serverapp_that_raises_shows_its_error_in_the_cell(kernel: Kernel) -> None:
    kernel.run(APPS)
    cell = kernel.run("""
        failing = ServerApp()
        @failing.main()
        def main(grid, context): raise LookupError("no such thing")
        flsim.run(failing, client, nodes=2, backend="serial")
    """)
    assert cell.error == "LookupError"
    assert kernel.run("print('alive')").stdout == "alive\n"
