"""The command line, as a user types it: what goes to stdout, what to stderr, and with which exit code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import APP, TABLE, execute, flsim, here, write, write_app
from installed import skip_without

import flsim as package
from flsim import ClientApp, ServerApp
from flsim.errors import InputError

SCRIPT = """
import flsim
from flsim import ClientApp, ConfigRecord, Context, Message, MetricRecord, RecordDict, ServerApp

FACTOR = 3
server = ServerApp()
client = ClientApp()

class Doubled:
    def __init__(self, value): self.value = 2 * value

@client.train()
def train(msg, context):
    made = Doubled(FACTOR * context.node_id)
    return Message(RecordDict({"m": MetricRecord({"num-examples": 1, "value": made.value})}), reply_to=msg)

@server.main()
def main(grid, context):
    replies = grid.send_and_receive(Message(RecordDict(), node, "train") for node in grid.get_node_ids())
    context.state["m"] = MetricRecord({"values": [r.content["m"]["value"] for r in replies]})

result = flsim.run(server, client, nodes=3)
print(result.backend, result.state["m"]["values"])
"""
"""A script that runs its own apps, without a __main__ guard."""

SAYING = """
import os, sys
from flsim import ClientApp, Error, Message, RecordDict, ServerApp, weighted_mean

server, client = ServerApp(), ClientApp()

@client.train()
def train(msg, context):
    if context.run_config["client"] == "error" or context.node_id in (2, 3):
        return Message(Error(42, "not today"), reply_to=msg)
    if context.run_config["client"] == "raise":
        raise KeyError("oops of the client")
    return Message(RecordDict(), reply_to=msg)

@server.main()
def main(grid, context):
    what = context.run_config["server"]
    if what == "unknown kind":
        grid.get_node_ids("nothing")
    elif what == "nothing":
        return
    elif what == "raise":
        raise KeyError("oops of the server")
    elif what == "exit":
        sys.exit(0)
    elif what == "aggregate nothing":
        weighted_mean([])
    elif what == "report nan":
        grid.report(1, loss=float("nan"))
    grid.send_and_receive(Message(RecordDict(), node, "train") for node in grid.get_node_ids())
"""
"""An app that does what its config says."""

SAYING_TABLE = f"""
{TABLE.replace("nodes = 3", "nodes = 4")}
backend = "serial"
[tool.flsim.config]
server = "ask"
client = "answer"
[tool.flsim.backends.serial]
cpus = 1
"""


def run(app: Path, *args: str | Path) -> subprocess.CompletedProcess[str]:
    """``flsim run`` on serial, where the arguments do not say otherwise."""
    backend = [] if "--backend" in args or "-b" in args else ["--backend", "serial"]
    return flsim("run", app, *backend, *args)


def saying(folder: Path, *args: str, server: str = "ask", client: str = "answer") -> subprocess.CompletedProcess[str]:
    """Run :data:`SAYING` with this in its config."""
    app = write_app(folder, SAYING_TABLE, app=SAYING)
    return run(app, "--set", f"server={server}", "--set", f"client={client}", *args)


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """What a command said that was wrong usage: one line, to stderr, and nothing else anywhere."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    return done.stderr.removeprefix("error: ").rstrip("\n")


# ---- help and version


def test_help_lists_the_commands() -> None:
    for flag in ("--help", "-h"):
        done = flsim(flag)
        assert done.returncode == 0
        for text in ("run ", "Run an app on a backend.", "backends ", "List the backends", "new ", "--version"):
            assert text in done.stdout


def test_the_help_of_a_command_names_its_options() -> None:
    shown = flsim("run", "--help").stdout
    for option in (
        "APP", "--backend", "-o", "--nodes", "--set", "--cpus", "--gpus", "--memory", "--seed", "--dry-run", "--json",
        "--quiet",
    ):  # fmt: skip
        assert option in shown


def test_the_version_is_that_of_the_package() -> None:
    assert flsim("--version").stdout == f"flsim {package.__version__}\n"


def test_no_command_shows_the_help_and_is_wrong_usage() -> None:
    done = flsim()
    assert done.returncode == 2
    assert "Commands" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["rnu"], "Did you mean 'run'?"),
        (["run"], "Missing argument 'APP'"),
        (["run", "app.py", "--bakend", "serial"], "--backend"),
        (["run", "app.py", "--nodes", "0"], "--nodes"),
        (["run", "app.py", "--nodes", "many"], "--nodes"),
        (["run", "app.py", "--seed", "-1"], "--seed"),
        (["run", "app.py", "other.py"], "other.py"),
    ],
    ids=" ".join,
)
def test_a_command_line_that_is_none_is_wrong_usage(args: list[str], said: str) -> None:
    done = flsim(*args)
    assert done.returncode == 2
    assert done.stdout == ""
    assert said in done.stderr


# ---- a run that goes well


def test_a_run_shows_the_backend_first_then_what_happens_then_the_result(tmp_path: Path) -> None:
    app = write_app(tmp_path / "folder", app=APP.replace('    print("the server prints")\n', ""))
    done = run(app, "--seed", "7")
    assert (done.returncode, done.stderr) == (0, "")
    first, *happens, _, counts, last, kept = done.stdout.splitlines()
    assert first.startswith("folder: 3 nodes on serial, 1 worker (")
    printed = [f"node {n} (partition {n - 2}) | the client prints" for n in (2, 3, 4)]
    assert sorted(happens) == [*printed, "round   1  answered 3"]
    assert counts.split() == ["train", "3", "3", "0"]
    assert ", seed 7, digest " in last
    assert re.fullmatch(r"kept in runs/\d{8}T\d{6}-folder-[0-9a-f]{8}", kept)


def test_the_same_seed_gives_the_same_digest_and_json_tells_it(tmp_path: Path) -> None:
    app = write_app(tmp_path)
    first, again = (json.loads(run(app, "--json", "--seed", "7").stdout) for _ in range(2))
    assert first["digest"] == again["digest"]
    assert len(first["digest"]) == 64


def test_a_run_without_a_seed_says_which_it_drew(tmp_path: Path) -> None:
    app = write_app(tmp_path)
    seeds = {json.loads(run(app, "--json").stdout)["seed"] for _ in range(2)}
    assert len(seeds) == 2


def test_with_json_the_result_is_all_that_goes_to_stdout(tmp_path: Path) -> None:
    done = run(write_app(tmp_path / "folder"), "--json", "--seed", "7", "-o", "cpus=1")
    assert done.returncode == 0
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["app"] == "folder"
    assert (result["backend"], result["nodes"], result["seed"]) == ("serial", 3, 7)
    assert result["options"] == {"cpus": 1.0, "gpus": None, "memory": None, "custom": None}
    assert result["counts"] == {"train": {"sent": 3, "answered": 3, "errors": {}, "reasons": []}}
    assert result["metrics"] == [{"round": 1, "answered": 3}]
    assert "the server prints" in done.stderr


def test_with_json_what_an_app_prints_on_import_goes_elsewhere(tmp_path: Path) -> None:
    done = run(write_app(tmp_path, app=f"print('imported')\n{APP}"), "--json")
    assert json.loads(done.stdout)["nodes"] == 3
    assert "imported" in done.stderr


PRINTS_BELOW = APP.replace('print("the client prints")', 'import os; os.system("echo the client prints")')


@pytest.mark.parametrize("backend", ["serial", "loky"])
def test_with_json_what_an_app_prints_past_python_goes_elsewhere(tmp_path: Path, backend: str) -> None:
    skip_without(backend)
    done = run(write_app(tmp_path, app=PRINTS_BELOW), "--json", "--backend", backend)
    assert json.loads(done.stdout)["nodes"] == 3


def test_with_json_a_metric_that_is_no_number_is_json_too(tmp_path: Path) -> None:
    done = saying(tmp_path, "--json", server="report nan")

    def none(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    assert json.loads(done.stdout, parse_constant=none)["metrics"][0]["round"] == 1


def test_quiet_shows_only_what_the_app_prints(tmp_path: Path) -> None:
    done = run(write_app(tmp_path), "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "the server prints\n", "")


def test_quiet_and_json_give_json(tmp_path: Path) -> None:
    assert json.loads(run(write_app(tmp_path), "--json", "-q").stdout)["nodes"] == 3


def test_the_command_line_is_over_the_pyproject(tmp_path: Path) -> None:
    app = write_app(tmp_path, f"{SAYING_TABLE}\n[tool.flsim.resources]\ncpus = 1", app=SAYING)
    plain = json.loads(flsim("run", app, "--dry-run", "--json").stdout)
    assert (plain["backend"], plain["kinds"][0]["nodes"], plain["options"]["cpus"]) == ("serial", 4, 1.0)
    assert plain["config"] == {"server": "ask", "client": "answer"}
    args = ["-n", "9", "-o", "cpus=2", "--set", "server=nothing", "--cpus", "2", "--memory", "1GiB", "--seed", "5"]
    other = json.loads(flsim("run", app, "--dry-run", "--json", *args).stdout)
    assert (other["kinds"][0]["nodes"], other["options"]["cpus"], other["seed"]) == (9, 2.0, 5)
    assert other["config"] == {"server": "nothing", "client": "answer"}
    assert other["kinds"][0]["needs"] == "2 cpu, 1 GiB"


# ---- dry runs


def test_a_dry_run_says_what_would_run_and_starts_nothing(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    app = write_app(tmp_path / "folder", app=APP.replace('print("the server prints")', f"open({str(ran)!r}, 'w')"))
    done = run(app, "--dry-run", "--seed", "3")
    assert (done.returncode, done.stderr) == (0, "")
    assert not ran.exists()
    for text in ("folder", "app:server", "3 nodes of kind default: client app:client", "on serial", "seed 3"):
        assert text in done.stdout


def test_a_dry_run_as_json_is_json(tmp_path: Path) -> None:
    plan = json.loads(run(write_app(tmp_path / "folder"), "--dry-run", "--json").stdout)
    assert set(plan) == {"app", "server", "kinds", "config", "backend", "options", "plugins", "seed"}
    assert plan["kinds"][0] == {
        "name": "default",
        "client": "app:client",
        "nodes": 3,
        "needs": "1 cpu",
        "time_limit": None,
        "config": {},
    }


def test_a_date_is_no_config_value(tmp_path: Path) -> None:
    app = write(tmp_path, {"single.py": APP}) / "single.py"
    assert "bool, int, float or str" in refused(run(app, "--dry-run", "--json", "--set", "day=2030-01-02"))


# ---- wrong usage


def test_no_app_at_the_path_is_wrong_usage(tmp_path: Path) -> None:
    assert "neither a folder nor a file" in refused(run(tmp_path / "nowhere"))


def test_a_wrong_pyproject_is_wrong_usage(tmp_path: Path) -> None:
    said = refused(run(write_app(tmp_path, f"{TABLE}\nnode = 3")))
    assert "pyproject.toml: unknown key of [tool.flsim] 'node'; did you mean 'nodes'?" in said


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["-b", "seriall"], "unknown backend 'seriall'; did you mean 'serial'? Known: "),
        (
            ["-o", "cpu=1"],
            "unknown option of backend serial 'cpu'; did you mean 'cpus'? Known: cpus, custom, gpus, memory.",
        ),
        (["-o", "cpus=many"], "option cpus of backend serial is of type float, not 'many'"),
        (["-o", "cpus=0"], "cpus is more than zero, not 0.0"),
        (["-o", "memory=lots"], "memory 'lots' is no size"),
        (["-o", "cpus"], "-o takes KEY=VALUE, not 'cpus'"),
        (["-o", "cpus=1", "-o", "cpus=2"], "-o cpus is given twice"),
        (["--set", "servr=x"], "unknown config key 'servr'; did you mean 'server'? Known: client, server. Keys are"),
        (["--set", "server=3"], "config server is of type str (as 'ask'), not 3"),
        (["--set", "server"], "--set takes KEY=VALUE, not 'server'"),
        (["--set", "server=a", "--set", "server=b"], "--set server is given twice"),
        (["--cpus", "-1"], "cpus is zero or more, not -1.0"),
        (["--memory", "lots"], "memory 'lots' is no size; write bytes, or a size such as '2GiB'"),
        (["--gpus", "1"], "nodes of kind 'default' need 1 cpu, 1 gpu each, which fits nowhere: this process has 1 cpu"),
        (["--cpus", "2"], "nodes of kind 'default' need 2 cpu each, which fits nowhere: this process has 1 cpu"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_a_wrong_value_on_the_command_line_is_wrong_usage(tmp_path: Path, args: list[str], said: str) -> None:
    assert said in refused(here("run", write_app(tmp_path, SAYING_TABLE, app=SAYING), *args))


def test_nodes_for_several_kinds_is_wrong_usage(tmp_path: Path) -> None:
    kinds = "".join(f'[[tool.flsim.kinds]]\nname = "{n}"\nclient = "app:client"\nnodes = 1\n' for n in "ab")
    app = write_app(tmp_path, f'[tool.flsim]\nserver = "app:server"\n{kinds}')
    assert "--nodes is for a fleet of one kind; this one has several" in refused(run(app, "-n", "3"))


@pytest.mark.parametrize("table", ["seriall]\ncpus = 1", "serial]\ncpu = 1"], ids=["backend", "option"])
def test_options_in_the_pyproject_that_nothing_reads_are_refused(tmp_path: Path, table: str) -> None:
    skip_without("loky")
    app = write_app(tmp_path, f"{TABLE}\n[tool.flsim.backends.{table}\n")
    assert "did you mean" in refused(run(app, "--backend", "loky", "--dry-run"))


# ---- a run that fails


@pytest.mark.parametrize("backend", ["serial", "loky"])
def test_an_app_that_cannot_be_loaded_fails_with_its_own_traceback_and_reaches_no_worker(
    tmp_path: Path, backend: str
) -> None:
    skip_without(backend)
    loads = tmp_path / "loads"
    raises = f"import os\nopen({str(loads)!r}, 'a').write(f'{{os.getpid()}} ')\nraise KeyError('oops')\n"
    app = write_app(tmp_path / "app", app=raises)
    done = run(app, "--backend", backend)
    assert (done.returncode, done.stdout) == (1, "")
    assert f'File "{app}/app.py", line 3' in done.stderr
    assert done.stderr.rstrip().endswith("KeyError: 'oops'")
    assert "cli/run.py" not in done.stderr
    assert len(loads.read_text().split()) == 1


@pytest.mark.parametrize(("server", "last"), [("raise", "KeyError: 'oops of the server'"), ("exit", "SystemExit: 0")])
def test_a_serverapp_that_raises_fails_the_run_with_its_traceback(tmp_path: Path, server: str, last: str) -> None:
    done = saying(tmp_path, "-q", server=server)
    assert (done.returncode, done.stdout) == (1, "")
    assert f'File "{tmp_path}/app.py"' in done.stderr
    assert done.stderr.rstrip().endswith(last)
    assert "cli/run.py" not in done.stderr


@pytest.mark.parametrize("server", ["unknown kind", "aggregate nothing"])
def test_one_of_our_errors_that_a_serverapp_raises_fails_the_run_with_its_traceback(
    tmp_path: Path, server: str
) -> None:
    done = saying(tmp_path, "-q", server=server)
    assert done.returncode == 1
    assert f'File "{tmp_path}/app.py"' in done.stderr


def test_nothing_sent_is_no_failure(tmp_path: Path) -> None:
    assert saying(tmp_path, server="nothing").returncode == 0


def test_some_errors_are_shown_with_their_reasons_and_are_no_failure(tmp_path: Path) -> None:
    done = saying(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert ["train", "4", "2", "2"] in [line.split() for line in done.stdout.splitlines()]
    assert "train: 2 42" in done.stdout
    assert "2 × not today" in done.stdout


@pytest.mark.parametrize("args", [[], ["--quiet"], ["--json"]], ids=str)
def test_errors_alone_are_a_failure_that_says_why(tmp_path: Path, args: list[str]) -> None:
    done = saying(tmp_path, *args, client="error")
    assert done.returncode == 1
    assert "error: every message got an error\n" in done.stderr
    assert "4 × not today" in (done.stderr if args else done.stdout)
    assert (done.stdout == "") == ("--quiet" in args)
    if "--json" in args:
        counts = json.loads(done.stdout)["counts"]["train"]
        assert (counts["answered"], counts["errors"]) == (0, {"42": 4})
        assert counts["reasons"] == [{"code": "42", "reason": "not today", "messages": 4}]


def test_a_clientapp_that_raises_is_told_once_and_counted(tmp_path: Path) -> None:
    done = saying(tmp_path, client="raise")
    assert done.returncode == 1
    assert done.stdout.count("failed: CLIENT_APP_RAISED_EXCEPTION: KeyError: 'oops of the client'") == 1
    assert "train: 2 CLIENT_APP_RAISED_EXCEPTION" in done.stdout


# ---- from Python


@pytest.mark.parametrize("how", ["file", "stdin", "-c"])
@pytest.mark.parametrize("backend", ["serial", "loky"])
def test_a_script_without_a_main_guard_runs_its_own_apps(tmp_path: Path, how: str, backend: str) -> None:
    skip_without(backend)
    script = SCRIPT.replace("nodes=3", f"nodes=3, backend={backend!r}, options={{'cpus': 2}}")
    path = write(tmp_path, {"script.py": script}) / "script.py"
    args = {"file": [str(path)], "stdin": ["-"], "-c": ["-c", script]}[how]
    done = execute(sys.executable, *args, stdin=script if how == "stdin" else None, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{backend} [12, 18, 24]\n"
    assert done.stderr.startswith(f"app: 3 nodes on {backend}, ")


def test_a_script_that_names_no_backend_runs_on_the_default(tmp_path: Path) -> None:
    skip_without("loky")
    done = execute(sys.executable, write(tmp_path, {"script.py": SCRIPT}) / "script.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "loky [12, 18, 24]\n"


def test_a_script_can_import_its_apps_from_the_files_beside_it(tmp_path: Path) -> None:
    skip_without("loky")
    script = """
    import flsim
    from app import client, server
    print(flsim.run(server, client, nodes=2, backend="loky", options={"cpus": 1}, quiet=True).answered)
    """
    path = write(tmp_path, {"script.py": script, "app.py": APP}) / "script.py"
    done = execute(sys.executable, path, cwd=tmp_path.parent)
    assert done.stdout.splitlines()[-1:] == ["2"], done.stderr


def test_a_script_may_run_an_app_by_its_path(tmp_path: Path) -> None:
    script = "import sys, flsim; print(flsim.run(sys.argv[1], backend='serial', quiet=True).answered)"
    done = execute(sys.executable, "-c", script, write_app(tmp_path))
    assert done.stdout == "the server prints\n3\n", done.stderr


def test_a_quiet_run_from_python_shows_nothing(tmp_path: Path) -> None:
    script = SCRIPT.replace("nodes=3", "nodes=3, backend='serial', quiet=True")
    done = execute(sys.executable, "-c", script)
    assert (done.stdout, done.stderr) == ("serial [12, 18, 24]\n", "")


def test_one_of_our_errors_is_caught_from_python_by_its_class(tmp_path: Path) -> None:
    script = """
    import flsim
    from flsim.errors import InputError
    from flsim import ClientApp, ServerApp
    try:
        flsim.run(ServerApp(), ClientApp(), nodes=0)
    except InputError as e:
        print(e)
    """
    path = write(tmp_path, {"script.py": script}) / "script.py"
    assert execute(sys.executable, path).stdout == "nodes is a whole number, one or more, not 0\n"


@pytest.mark.parametrize(
    ("app", "client"),
    [(3, ClientApp()), (ClientApp(), ServerApp()), (ServerApp(), [ClientApp()])],
    ids=["a number", "changed places", "a list of ClientApps"],
)
def test_what_cannot_be_run_from_python_is_refused_before_anything_runs(app: Any, client: Any) -> None:
    nodes = None if isinstance(client, list) else 2
    with pytest.raises(InputError):
        package.run(app, client, nodes=nodes, backend="serial", quiet=True)
