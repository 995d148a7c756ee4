"""A breakpoint in either app stops at a prompt that has the terminal to itself; a worker says that it has none."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from helpers import write_app
from installed import skip_without
from terminal import Terminal, squeezed, terminal

import flsim
from flsim import ClientApp, Context, ErrorCode, Grid, Message, RecordDict, ServerApp
from flsim.breakpoints import Hook

APP = """
from flsim import ClientApp, Message, MetricRecord, RecordDict, ServerApp

server, client = ServerApp(), ClientApp()

@client.train()
def train(msg, context):
    where = "the client"
    print("printed before")
    if context.run_config["stop"] == "client" and context.node_id == 3:
        breakpoint()
        print("printed after")
    return Message(RecordDict({"m": MetricRecord({"num-examples": 1})}), reply_to=msg)

@server.main()
def main(grid, context):
    where = "the server"
    for round in range(1, 4):
        replies = grid.send_and_receive([Message(RecordDict(), n, "train") for n in grid.get_node_ids()])
        grid.report(round, answered=len(replies))
        if context.run_config["stop"] == "server" and round == 2:
            breakpoint()
            print("printed after")
"""

TABLE = """
[tool.flsim]
server = "app:server"
client = "app:client"
nodes = 4
seed = 1
[tool.flsim.config]
rounds = 3
stop = "client"
"""

BOTH = pytest.mark.parametrize("app", ["client", "server"])


def folder(path: Path) -> Path:
    return write_app(path / "app", TABLE, app=APP)


def at_the_prompt(screen: Terminal) -> None:
    """Wait for a prompt, and see that it has the terminal to itself."""
    screen.see(lambda: screen.lines[-1] == "(Pdb)")
    assert not screen.cursor_is_hidden
    assert not any("messages/s" in line for line in screen.lines)


def go_on(screen: Terminal) -> None:
    """Type ``c``, and wait until it is on the screen, so that the next prompt is another one."""
    typed = screen.scrolled.count("(Pdb)c")
    screen.type("c\n")
    screen.see(lambda: screen.scrolled.count("(Pdb)c") > typed)


@BOTH
def test_a_breakpoint_stops_at_a_usable_prompt_and_the_run_goes_on_from_it(tmp_path: Path, app: str) -> None:
    with terminal("run", folder(tmp_path), "-b", "serial", "--set", f"stop={app}") as screen:
        for _ in range(3 if app == "client" else 1):
            at_the_prompt(screen)
            screen.type("p where, 6 * 7\n")
            screen.see_text(f"('the {app}', 42)")
            screen.type("print('typed', 'by', 'hand')\n")
            screen.see(lambda: "typed by hand" in screen.lines)
            screen.type("n\n")
            at_the_prompt(screen)
            go_on(screen)
        assert screen.end() == 0
        assert screen.as_it_was
        prefix = "node 3 (partition 1) | " if app == "client" else ""
        assert squeezed(f"{prefix}printed after") in screen.scrolled
        assert squeezed("node 4 (partition 2) | printed before") in screen.scrolled
        shown = [line for line in screen.lines if line.startswith("round ")]
        assert len(shown) == 1
        assert shown[0].startswith("round 3/3")


@BOTH
@pytest.mark.parametrize("typed", ["q\n", "\x04", "n\nn\nn\nq\n"], ids=["q", "the end of input", "q after some steps"])
def test_quitting_at_a_breakpoint_ends_the_run_with_one_line(tmp_path: Path, app: str, typed: str) -> None:
    with terminal("run", folder(tmp_path), "-b", "serial", "--set", f"stop={app}") as screen:
        at_the_prompt(screen)
        screen.type(typed)
        assert screen.end() == 1
        assert screen.as_it_was
        assert screen.lines[-1] == "quit: the run was ended at a breakpoint"
        assert "Traceback" not in screen.scrolled


@BOTH
def test_ctrl_c_at_a_breakpoint_leaves_the_terminal_as_it_was(tmp_path: Path, app: str) -> None:
    with terminal("run", folder(tmp_path), "-b", "serial", "--set", f"stop={app}") as screen:
        at_the_prompt(screen)
        screen.type("\x03")
        if app == "server":  # as Python's debugger does where it reads in the main thread
            screen.see_text("--KeyboardInterrupt--")
            screen.type("q\n")
        assert screen.end() == (128 + signal.SIGINT if app == "client" else 1)
        assert screen.as_it_was


def test_a_server_in_the_driver_has_its_prompt_on_any_backend(tmp_path: Path) -> None:
    skip_without("loky")
    with terminal("run", folder(tmp_path), "-b", "loky", "--set", "stop=server") as screen:
        at_the_prompt(screen)
        screen.type("p where\n")
        screen.see_text("'the server'")
        screen.type("c\n")
        assert screen.end() == 0


def test_with_stdout_in_a_file_the_prompt_is_on_the_terminal(tmp_path: Path) -> None:
    script = f"import flsim; flsim.run({str(folder(tmp_path))!r}, backend='serial')"
    out = tmp_path / "out"
    with terminal("-c", script, command=sys.executable, stdout=out) as screen:
        for _ in range(3):
            at_the_prompt(screen)
            go_on(screen)
        assert screen.end() == 0
    assert out.read_text() == ""


def test_pythonbreakpoint_0_switches_breakpoints_off(tmp_path: Path) -> None:
    with terminal("run", folder(tmp_path), "-b", "serial", env={"PYTHONBREAKPOINT": "0"}) as screen:
        assert screen.end() == 0
        assert "Pdb" not in screen.scrolled


def test_another_debugger_gets_the_terminal(tmp_path: Path) -> None:
    app = write_app(
        tmp_path / "app",
        TABLE,
        app=APP,
        other="def stop(): print('the other debugger:', input('what? '), flush=True)\n",
    )
    with terminal("run", app, "-b", "serial", env={"PYTHONBREAKPOINT": "other.stop"}) as screen:
        for i in range(3):
            screen.see(lambda: screen.lines[-1].startswith("what?"))
            screen.type(f"answer {i}\n")
            screen.see_text(f"the other debugger: answer {i}")
        assert screen.end() == 0


def test_a_breakpoint_in_a_worker_is_its_messages_error_and_says_what_to_type() -> None:
    skip_without("loky")
    client, server = ClientApp(), ServerApp()

    @client.train()
    def train(msg: Message, context: Context) -> Message:
        if context.node_id == 2:
            breakpoint()
        return Message(RecordDict(), reply_to=msg)

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        stopped, other = grid.send_and_receive([Message(RecordDict(), n, "train") for n in (2, 3)])
        assert stopped.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
        assert "breakpoint() needs a terminal" in stopped.error.reason
        assert "--backend serial" in stopped.error.reason
        assert other.has_content()

    flsim.run(server, client, nodes=2, backend="loky", options={"cpus": 1}, seed=1, quiet=True)


def test_the_hook_is_set_for_the_time_of_a_run_and_put_back() -> None:
    client, server = ClientApp(), ServerApp()
    hooks = []

    @client.train()
    def train(msg: Message, context: Context) -> Message:
        return Message(RecordDict(), reply_to=msg)

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        hooks.append(sys.breakpointhook)
        raise KeyError("oops")

    before = sys.breakpointhook
    with pytest.raises(KeyError):
        flsim.run(server, client, nodes=2, backend="serial", quiet=True)
    assert sys.breakpointhook is before
    assert [type(h) for h in hooks] == [Hook]
    assert hooks[0].pid == os.getpid()  # type: ignore[attr-defined]  # checked above
