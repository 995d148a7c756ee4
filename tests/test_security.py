"""Nobody is let in, and nothing gets out: ports, paths, and power over the terminal. What is secret has its check."""

import atexit
import contextlib
import io
import json
import os
import re
import tempfile
import zipfile
from pathlib import Path

import pytest
from helpers import TABLE, ask, codes, flsim, here, server_of, write_app
from installed import skip_without

from flsim import Context, Grid
from flsim import run as run_from_python
from flsim.code import Code, _unpacked
from flsim.testing.apps import client
from flsim.testing.watch import children, listening

BACKENDS = ["serial", "loky"]

OUTSIDE = [
    "../outside",
    "../../etc/passwd",
    "a/../../outside",
    "/etc/passwd",
    "//etc/passwd",
    "..",
    ".",
    "~/outside",
    "..\\outside",
    "nul\0byte",
    "link/outside",
    "file:///etc/passwd",
]
"""Names that would leave a folder, if they were taken for paths. ``link`` is one that leads out."""


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_on_this_host_alone_listens_on_nothing(backend: str) -> None:
    skip_without(backend)
    before = listening({os.getpid()})

    def main(grid: Grid, context: Context) -> None:
        assert codes(ask(grid, "echo")) == [None] * 4
        assert listening({os.getpid(), *children()}) == before

    run_from_python(server_of(main), client, nodes=4, backend=backend, options={"cpus": 2}, quiet=True)


# ---- paths


@pytest.fixture
def sandbox(tmp_path: Path) -> Path:
    """A folder with an app that has a link out of it, beside a file that must stay as it is."""
    write_app(tmp_path / "inside")
    (tmp_path / "outside.py").write_text("raise SystemExit('it was run')")
    (tmp_path / "inside" / "link").symlink_to(tmp_path)
    return tmp_path


def files(folder: Path) -> set[str]:
    """What there is below, but caches."""
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if "__pycache__" not in p.parts}


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_reference_that_looks_like_a_path_is_none(sandbox: Path, name: str) -> None:
    table = TABLE.replace("app:client", json.dumps(name)[1:-1] + ":client")
    (sandbox / "inside" / "pyproject.toml").write_text(table)
    before = files(sandbox)
    done = here("run", sandbox / "inside", "--backend", "serial")
    assert done.returncode in (1, 2)
    assert "it was run" not in done.stdout + done.stderr
    assert files(sandbox) == before


@pytest.mark.parametrize("name", OUTSIDE)
def test_the_name_of_an_app_or_of_a_kind_makes_no_file(
    sandbox: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(sandbox))
    monkeypatch.chdir(sandbox)
    quoted = json.dumps(name)
    kinds = f'[[tool.flsim.kinds]]\nname = {quoted}\nclient = "app:client"\nnodes = 2\n'
    table = f'[project]\nname = {quoted}\n[tool.flsim]\nserver = "app:server"\n{kinds}'
    (sandbox / "inside" / "pyproject.toml").write_text(table)
    before = files(sandbox)
    done = here("run", "inside", "--backend", "serial")
    assert done.returncode in (0, 2), done.stderr
    assert {f for f in files(sandbox) - before if not f.startswith("runs")} == set()
    assert not (sandbox.parent / "outside").exists()


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_new_app_is_made_in_the_folder_where_it_is_named_or_not_at_all(
    sandbox: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(sandbox / "inside")
    before = files(sandbox)
    done = here("new", name)
    assert done.returncode == 2
    assert files(sandbox) == before


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_member_of_an_archive_is_unpacked_outside_of_its_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("fine.py", "")
        archive.writestr(zipfile.ZipInfo(name), "it got out")
    with contextlib.ExitStack() as stack:
        monkeypatch.setattr(atexit, "register", stack.callback)  # the folder goes with the test, not with the process
        with contextlib.suppress(OSError):  # where it is no name of a file
            _unpacked(f"test {name}", buffer.getvalue())
        (fine,) = tmp_path.rglob("fine.py")
        got = [p for p in tmp_path.rglob("*") if p.is_file() and p.read_bytes() == b"it got out"]
        assert all(p.is_relative_to(fine.parent) for p in got)
    assert not Path("/etc/passwd").read_text().startswith("it got out")


def test_a_folder_that_a_link_leads_to_is_no_part_of_an_app(sandbox: Path) -> None:
    assert set(Code.of_folder(sandbox / "inside").files) == {"app.py", "pyproject.toml"}


# ---- the terminal

MOVING = "\x1b[2J\x1b]0;title\x07\r\x9b31m\u202e"

POWERFUL = f"""
from flsim import ClientApp, Error, Message, MetricRecord, RecordDict, ServerApp

server, client = ServerApp(), ClientApp()
MOVING = {MOVING!r}

@client.query()
def answer(msg, context):
    print("printed" + MOVING)
    if context.node_id == 2:
        raise ValueError("raised" + MOVING)
    if context.node_id == 3:
        return Message(Error(42, "returned" + MOVING, "trace" + MOVING), reply_to=msg)
    if context.node_id == 4:
        raise type("Named" + MOVING, (Exception,), {{}})("")
    return Message(RecordDict({{"m" + MOVING: MetricRecord({{"k" + MOVING: 1}})}}), reply_to=msg)

@server.main()
def main(grid, context):
    for reply in grid.send_and_receive(Message(RecordDict(), n, "query") for n in grid.get_node_ids()):
        if reply.has_content():
            for name, record in reply.content.items():
                context.state[name] = record
                grid.report(1, node=5, **{{f"{{name}} {{k}}": v for k, v in record.items()}}, text="metric" + MOVING)
                grid.report(1, **{{f"{{name}} {{k}}": v for k, v in record.items()}}, text="metric" + MOVING)
"""


@pytest.mark.parametrize(
    ("backend", "form"), [("serial", ()), ("serial", ("--json",)), ("serial", ("--quiet",)), ("loky", ())]
)
def test_no_text_of_a_client_has_power_over_the_terminal(tmp_path: Path, backend: str, form: tuple[str, ...]) -> None:
    skip_without(backend)
    app = write_app(tmp_path, TABLE.replace("nodes = 3", "nodes = 4"), app=POWERFUL)
    done = flsim("run", app, "--backend", backend, *form)
    assert done.returncode == 0, done.stderr
    shown = done.stdout + done.stderr
    assert not {c for c in shown if not (c.isprintable() or c == "\n")}
    if not form:
        for text in ("printed", "raised", "returned", "Named", "metric"):
            assert text in shown
    if form == ("--json",):
        assert json.loads(done.stdout)["metrics"][0]["text"] == "metric" + MOVING


BY_ITSELF = (
    f"MOVING = {MOVING!r}"
    + """
import logging, os, subprocess, sys, threading
from flsim import ClientApp, Message, RecordDict, ServerApp

logging.basicConfig(format="%(message)s")
client, server = ClientApp(), ServerApp()

def in_a_thread(text):
    thread = threading.Thread(target=print, args=(text,))
    thread.start()
    thread.join()

WAYS = {
    "buffer": lambda text: sys.stdout.buffer.write(text.encode()),
    "logger": logging.warning,
    "thread": in_a_thread,
    "interpreter": lambda text: sys.__stdout__.write(text),
    "child": lambda text: subprocess.run([sys.executable, "-c", "import sys; print(sys.argv[1])", text]),
    "descriptor": lambda text: os.write(2, text.encode()),
}

@client.query()
def answer(msg, context):
    name, way = list(WAYS.items())[context.node_id - 2]
    way("by " + name + MOVING + chr(10))
    return Message(RecordDict(), reply_to=msg)

@server.main()
def main(grid, context):
    replies = grid.send_and_receive(Message(RecordDict(), n, "query") for n in grid.get_node_ids())
    assert all(r.has_content() for r in replies), [r.error for r in replies if r.has_error()]
    logging.warning("the server logs")
"""
)


@pytest.mark.parametrize(
    ("backend", "nodes"),
    [("serial", {"buffer": 2, "logger": 3}), ("loky", {"buffer": 2, "logger": 3, "thread": 4, "interpreter": 5})],
)
def test_what_a_client_does_not_just_print_has_no_power_over_the_terminal_either(
    tmp_path: Path, backend: str, nodes: dict[str, int]
) -> None:
    """Of its nodes the others write past Python, which on loky is their workers' output."""
    skip_without(backend)
    ways = 6 if backend == "loky" else len(nodes)
    app = write_app(tmp_path, TABLE.replace("nodes = 3", f"nodes = {ways}"), app=BY_ITSELF)
    done = flsim("run", app, "--backend", backend)
    assert done.returncode == 0, done.stderr
    assert not {c for c in done.stdout + done.stderr if not (c.isprintable() or c == "\n")}
    for way, node in nodes.items():
        assert f"node {node} (partition {node - 2}) | by {way}�" in done.stdout
    if backend == "loky":
        assert re.search(r"^note: worker \d+ \| by child�", done.stdout, re.MULTILINE)
        assert re.search(r"^note: worker \d+ \| by descriptor�", done.stdout, re.MULTILINE)
    assert done.stderr == "the server logs\n"


def test_no_text_of_an_app_that_cannot_be_loaded_has_power_over_the_terminal(tmp_path: Path) -> None:
    app = write_app(tmp_path, app=f"raise RuntimeError('loaded' + {MOVING!r})")
    done = flsim("run", app, "--backend", "serial")
    assert done.returncode == 1
    assert "loaded" in done.stderr
    assert not {c for c in done.stdout + done.stderr if not (c.isprintable() or c == "\n")}


def test_what_a_serverapp_raises_with_a_clients_text_has_no_power_over_the_terminal(tmp_path: Path) -> None:
    app = write_app(tmp_path, app=POWERFUL + "    raise RuntimeError('server' + MOVING)\n")
    done = flsim("run", app, "--backend", "serial")
    assert done.returncode == 1
    assert "server" in done.stderr
    assert not {c for c in done.stdout + done.stderr if not (c.isprintable() or c == "\n")}


def test_messages_of_a_type_that_moves_a_terminal_are_counted_without_doing_so(tmp_path: Path) -> None:
    server = "    grid.send_and_receive([Message(RecordDict(), 2, 'query.' + MOVING)])\n"
    app = write_app(tmp_path, app=POWERFUL + server)
    done = flsim("run", app, "--backend", "serial")
    assert not {c for c in done.stdout + done.stderr if not (c.isprintable() or c == "\n")}
